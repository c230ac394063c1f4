"""Cohen's kappa, unweighted, linear and quadratic, always over all labels of the table.

>>> import numpy as np
>>> table = np.array([[0, 4, 1], [0, 8, 0], [0, 1, 5]])
>>> value, defined = kappa(table, "linear")
>>> round(float(value), 4), bool(defined)
(0.4701, True)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

Weights = Literal["none", "linear", "quadratic"]

_NEAR_ZERO: Final = 1e-4
"""Signed root below which the saddlepoint's two terms cancel and its limit is used."""


def kappa(tables: ArrayLike, weights: Weights) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Kappa of every table of counts (..., k, k), and where it is defined; both of the leading shape.

    -1 <= kappa <= 1. Undefined (value 0) without cases, and where chance alone would agree fully: reference and
    prediction both know one label only. A label without cases stays in the table and its distances count.

    References: Cohen 1968, Psychological Bulletin 70:213.
    """
    t = _square(tables)
    disagreement = 1 - _agreement_weights(t.shape[-1], weights)
    rows, columns = np.einsum("...ij->...i", t), np.einsum("...ij->...j", t)
    observed = np.einsum("...i->...", rows) * (t.reshape(*t.shape[:-2], -1) @ disagreement.ravel())
    expected = np.einsum("...i,...i->...", rows @ disagreement, columns)
    defined = np.asarray(expected > 0)
    return 1 - np.divide(observed, expected, out=np.ones_like(expected), where=defined), defined


def limits(
    patterns: ArrayLike, counts: ArrayLike, weights: Weights, *, level: float, images_a_patient: float = 1.0
) -> tuple[float, float]:
    """Lower and upper confidence limit of kappa, each at (1 - level) / 2: see `p_value_of`. Both are in [-1, 1].

    patterns: (P, k, k) counts of the distinct patients. counts: (P,) patients with each. images_a_patient: divides
    `counts` where they are of images, and one patient may have so many. `kappa` of the whole table must be defined.
    """
    from scipy.optimize import brentq  # a tenth of a second to import

    p_value = p_value_of(patterns, counts, weights, images_a_patient=images_a_patient)
    found = float(kappa(np.einsum("p,pij->ij", np.asarray(counts), _square(patterns)), weights)[0])
    ends = []
    for side, end in (("lower", -1.0), ("upper", 1.0)):

        def beyond(candidate: float, side: str = side) -> float:
            return p_value(candidate, side) - (1 - level) / 2

        # Where no image differs from what chance gives, the test says nothing even at the estimate.
        open_ended = found == end or beyond(end) > 0 or beyond(found) <= 0
        ends.append(end if open_ended else float(brentq(beyond, end, found, xtol=1e-12)))
    return ends[0], ends[1]


def p_value_of(
    patterns: ArrayLike, counts: ArrayLike, weights: Weights, *, images_a_patient: float = 1.0
) -> Callable[[float, str], float]:
    """A test of kappa: p(candidate, side), the p-value of "kappa is below the candidate" (side "lower") or above it.

    A candidate k0 is tested by psi = w - (1 - k0) (A + B - E) of the images, whose mean is at most 0 where kappa is k0
    or more: w is the disagreement in [0, 1], A and B its mean over the margin of the other side, E over both. Patients,
    and one more whose images are all the worst possible, get independent Exp(1) weights; the p-value is the probability
    that the weighted sum is on the wrong side. With disagreements of 0 and 1 and known margins this is Clopper-Pearson.
    No random numbers are drawn. How often it fails is simulated, not proved: `python -m benchmarks kappa-error`.

    Arguments as of `limits`.

    References: Gaffke 2005, Mathematical Methods of Statistics 14:451; Learned-Miller and Thomas 2019,
    arXiv:1905.06208; Lugannani and Rice 1980, Advances in Applied Probability 12:475.
    """
    patients, times = _square(patterns), np.asarray(counts, dtype=np.float64)
    table = np.einsum("p,pij->ij", times, patients)
    disagreement = 1 - _agreement_weights(table.shape[-1], weights)
    reference, predicted = table.sum(axis=1) / table.sum(), table.sum(axis=0) / table.sum()
    by_chance = (disagreement @ predicted)[:, None] + reference @ disagreement - reference @ disagreement @ predicted
    wrong, expected = (np.einsum("pij,ij->p", patients, cells) for cells in (disagreement, by_chance))
    sizes = patients.sum(axis=(1, 2))
    worst_size = float(times @ sizes**2 / (times @ sizes))
    shapes = np.append(times / images_a_patient, 1.0)

    def p_value(candidate: float, side: str) -> float:
        sign = 1 if side == "lower" else -1
        worst = worst_size * float((sign * (disagreement - (1 - candidate) * by_chance)).max())
        return _above_zero(np.append(sign * (wrong - (1 - candidate) * expected), worst), shapes)

    return p_value


def _above_zero(terms: NDArray[np.float64], shapes: NDArray[np.float64]) -> float:
    """P(sum of terms x Gamma(shapes) > 0), by the saddlepoint of its cumulants -sum(shapes log(1 - t terms))."""
    low, high = float(terms.min()), float(terms.max())
    if high <= 0 or low >= 0:
        return float(high > 0)

    from scipy.optimize import brentq

    def slope(t: float) -> float:
        return float(shapes @ (terms / (1 - t * terms)))

    t = float(brentq(slope, (1 - 1e-12) / low, (1 - 1e-12) / high, xtol=1e-300, rtol=1e-14))
    tilted = terms / (1 - t * terms)
    second = float(shapes @ tilted**2)
    root = float(np.sign(t) * np.sqrt(max(0.0, 2 * float(shapes @ np.log1p(-t * terms)))))
    if abs(root) < _NEAR_ZERO:
        return float(0.5 - 2 * (shapes @ tilted**3) / second**1.5 / 6 / np.sqrt(2 * np.pi))
    density = np.exp(-(root**2) / 2) / np.sqrt(2 * np.pi)
    return float(ndtr(-root) + density * (1 / (t * np.sqrt(second)) - 1 / root))


def _square(tables: ArrayLike) -> NDArray[np.float64]:
    t = np.asarray(tables, dtype=np.float64)
    if t.ndim < 2 or t.shape[-1] != t.shape[-2] or t.shape[-1] < 2:
        raise ValueError(f"Kappa is of square tables (..., k, k) with k >= 2, not {t.shape}.")
    return t


def _agreement_weights(labels: int, weights: Weights) -> NDArray[np.float64]:
    distance = np.abs(np.subtract.outer(np.arange(labels), np.arange(labels))) / (labels - 1)
    match weights:
        case "none":
            return np.eye(labels)
        case "linear":
            return 1 - distance
        case "quadratic":
            return 1 - distance**2
    raise ValueError(f"The weights of kappa are 'none', 'linear' or 'quadratic', not {weights!r}.")
