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

_STEPS: Final = 200
"""More steps than any search for the saddlepoint takes."""

_POLE: Final = 1e-12
"""Relative distance of that search from the poles, where the slope is infinite."""

_CLOSE: Final = 1e-12
"""Relative length of the last step of that search."""


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
            return float(p_value(candidate, side)) - (1 - level) / 2

        # Where no image differs from what chance gives, the test says nothing even at the estimate.
        open_ended = found == end or beyond(end) > 0 or beyond(found) <= 0
        ends.append(end if open_ended else float(brentq(beyond, end, found, xtol=1e-12)))
    return ends[0], ends[1]


def p_value_of(
    patterns: ArrayLike, counts: ArrayLike, weights: Weights, *, images_a_patient: float = 1.0
) -> Callable[[ArrayLike, str], NDArray[np.float64]]:
    """A test of kappa: p(candidate, side), the p-value of "kappa is below the candidate" (side "lower") or above it.

    A candidate k0 is tested by psi = w - (1 - k0) (A + B - E) of the images, whose mean is at most 0 where kappa is k0
    or more: w is the disagreement in [0, 1], A and B its mean over the margin of the other side, E over both. Patients,
    and one more whose images are all the worst possible, get independent Exp(1) weights; the p-value is the probability
    that the weighted sum is on the wrong side. With disagreements of 0 and 1 and known margins this is Clopper-Pearson.
    No random numbers are drawn. How often it fails is simulated, not proved: `python -m benchmarks gate-error`.

    Arguments as of `limits`, or many test sets at once: patterns (P, k, k) common to all or (S, P, k, k), counts
    (S, P), of which some may be 0; candidates and p-values are then (S,).

    References: Gaffke 2005, Mathematical Methods of Statistics 14:451; Learned-Miller and Thomas 2019,
    arXiv:1905.06208; Lugannani and Rice 1980, Advances in Applied Probability 12:475.
    """
    patients, times = _square(patterns), np.asarray(counts, dtype=np.float64)
    labels = patients.shape[-1]
    cells = patients.reshape(*patients.shape[:-2], labels**2)
    table = np.matmul(times[..., None, :], cells).reshape(*times.shape[:-1], labels, labels)
    disagreement = 1 - _agreement_weights(labels, weights)
    images = table.sum(axis=(-2, -1))[..., None]
    reference, predicted = table.sum(axis=-1) / images, table.sum(axis=-2) / images
    of_reference, of_predicted = predicted @ disagreement, reference @ disagreement
    both = (of_predicted * predicted).sum(axis=-1)[..., None, None]
    by_chance = of_reference[..., :, None] + of_predicted[..., None, :] - both
    wrong = cells @ disagreement.ravel()
    expected = np.matmul(cells, by_chance.reshape(*by_chance.shape[:-2], labels**2, 1))[..., 0]
    sizes = cells.sum(axis=-1)
    worst_size = (times * sizes**2).sum(axis=-1) / (times * sizes).sum(axis=-1)
    shapes = np.concatenate([times / images_a_patient, np.ones_like(times[..., :1])], axis=-1)

    def p_value(candidate: ArrayLike, side: str) -> NDArray[np.float64]:
        sign = 1 if side == "lower" else -1
        by = 1 - np.asarray(candidate, dtype=np.float64)
        worst = worst_size * (sign * (disagreement - by[..., None, None] * by_chance)).max(axis=(-2, -1))
        terms = sign * (wrong - by[..., None] * expected)
        return _above_zero(np.concatenate([terms, worst[..., None]], axis=-1), shapes)

    return p_value


def _above_zero(terms: ArrayLike, shapes: ArrayLike) -> NDArray[np.float64]:
    """P(sum of terms x Gamma(shapes) > 0), by the saddlepoint of its cumulants -sum(shapes log(1 - t terms)).

    terms, shapes: (..., P), of which those with shape 0 play no part. The probabilities have the leading shape.
    """
    a, s = np.broadcast_arrays(np.asarray(terms, dtype=np.float64), np.asarray(shapes, dtype=np.float64))
    lead = a.shape[:-1]
    a, s = np.where(s > 0, a, 0.0).reshape(-1, a.shape[-1]), s.reshape(-1, a.shape[-1])
    low, high = a.min(axis=1), a.max(axis=1)
    found = np.where(high > 0, 1.0, 0.0)
    mixed = (low < 0) & (high > 0)
    if mixed.any():
        found[mixed] = _saddlepoint(a[mixed], s[mixed])
    return found.reshape(lead)


def _saddlepoint(a: NDArray[np.float64], s: NDArray[np.float64]) -> NDArray[np.float64]:
    """The tail of `_above_zero` (R,) where each row of terms has both signs."""
    low, high = a.min(axis=1), a.max(axis=1)
    below, above = (1 - _POLE) / low, (1 - _POLE) / high
    nearest = np.minimum(-below, above)
    t, rows = np.zeros(len(a)), np.arange(len(a))
    # The slope of the cumulants rises from -inf to inf between these poles, and has one root. Newton's steps are those
    # of the slope times the distances from the poles, which is nearly straight; one that leaves the bracket is halved.
    for _ in range(_STEPS):
        here, terms, shapes = t[rows], a[rows], s[rows]
        tilted = terms / (1 - here[:, None] * terms)
        slope, curve = _row_sums(shapes, tilted), _row_sums(shapes, tilted**2)
        below[rows] = np.where(slope < 0, here, below[rows])
        above[rows] = np.where(slope > 0, here, above[rows])
        to_low, to_high = 1 - here * low[rows], 1 - here * high[rows]
        steeper = curve * to_low * to_high - slope * (low[rows] * to_high + high[rows] * to_low)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = here - slope * to_low * to_high / steeper
        inside = (step >= below[rows]) & (step <= above[rows])
        t[rows] = np.where(slope == 0, here, np.where(inside, step, (below[rows] + above[rows]) / 2))
        rows = rows[np.abs(t[rows] - here) > _CLOSE * np.maximum(np.abs(here), 1e-3 * nearest[rows])]
        if not rows.size:
            break
    tilted = a / (1 - t[:, None] * a)
    second = _row_sums(s, tilted**2)
    root = np.sign(t) * np.sqrt(np.maximum(0.0, 2 * _row_sums(s, np.log1p(-t[:, None] * a))))
    near = np.abs(root) < _NEAR_ZERO
    at_zero = 0.5 - _row_sums(s, tilted**3) / (3 * second**1.5 * np.sqrt(2 * np.pi))
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.exp(-(root**2) / 2) / np.sqrt(2 * np.pi)
        tail = ndtr(-root) + density * (1 / (t * np.sqrt(second)) - 1 / root)
    return np.asarray(np.where(near, at_zero, tail))


def _row_sums(shapes: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.einsum("rp,rp->r", shapes, values)
    return found


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
