"""Limits of a mean difference whose parts lie in [-1, 1], where images cluster in patients.

The difference may be an average over several readers, whose errors correlate with each other and with the model's:
nothing is assumed of that, because each patient's sum counts as one observation.

>>> import numpy as np
>>> low, high = limits(np.zeros(100), np.ones(100), level=0.95)
>>> round(low, 4), round(high, 4)
(-0.0363, 0.0363)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drgate.stats.agreement import _above_zero
from drgate.stats.proportion import require_level

Floats = NDArray[np.float64]


def limits(sums: Floats, weights: Floats, *, level: float, images_a_patient: float = 1.0) -> tuple[float, float]:
    """Lower and upper limit, each at (1 - level) / 2, of sum(sums) / sum(weights): see `p_value_of`; in [-1, 1].

    sums: (c,) the weighted sum of each patient's differences. weights: (c,) the sum of their weights, not negative and
    not all 0; -weights <= sums <= weights. images_a_patient: as in `p_value_of`.
    """
    from scipy.optimize import brentq  # a tenth of a second to import

    require_level(level)
    found = float(sums.sum() / weights.sum())
    kinds, times = np.unique(np.stack([sums, weights], axis=1), axis=0, return_counts=True)
    ends = []
    for sign in (1.0, -1.0):
        p_value = p_value_of(sign * kinds[:, 0], kinds[:, 1], times, images_a_patient=images_a_patient)

        def beyond(candidate: float, p_value: Callable[[float], Floats] = p_value) -> float:
            return float(p_value(candidate)) - (1 - level) / 2

        open_ended = sign * found <= -1 or beyond(-1.0) > 0
        ends.append(sign * (-1.0 if open_ended else float(brentq(beyond, -1.0, sign * found, xtol=1e-12))))
    return ends[0], ends[1]


def p_value_of(
    sums: Floats, weights: Floats, counts: ArrayLike = 1, *, images_a_patient: float = 1.0
) -> Callable[[float], Floats]:
    """A test of the mean difference: p(candidate) is the p-value of "it is at most the candidate".

    Patients, and one more whose images all differ by -1, get independent Exp(1) weights; the p-value is the probability
    that the weighted mean is below the candidate. The additional patient has sum(weights^2) / sum(weights). Of losses
    of 0 and 1 alone this is Clopper-Pearson. Simulated, not proved: `python -m benchmarks gate-error --only readers`.

    sums, weights: as of `limits`, (c,), or of many test sets at once, (..., c): then the p-values are (...,). counts:
    how many patients each stands for. images_a_patient: where the parts are images of patients whom nobody named, the
    most that are of one.

    References: Gaffke 2005, Mathematical Methods of Statistics 14:451; Learned-Miller and Thomas 2019,
    arXiv:1905.06208.
    """
    times = np.where(weights > 0, counts, 0.0)
    worst = (times * weights**2).sum(axis=-1, keepdims=True) / (times * weights).sum(axis=-1, keepdims=True)
    shapes = np.concatenate([times / images_a_patient, np.ones_like(worst)], axis=-1)

    def p_value(candidate: float) -> Floats:
        terms = np.concatenate([candidate * weights - sums, worst * (1 + candidate)], axis=-1)
        return _above_zero(terms, shapes)

    return p_value
