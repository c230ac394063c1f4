"""Intervals of a proportion: Clopper-Pearson and Wilson, for counts that may be real-valued.

A gate decides on the less favourable limit of one of these two; nothing narrower is offered. Counts become real-valued
where images cluster in patients: `drgate.stats.cluster` turns them into an effective sample first.

>>> bounds = exact_bounds(67, 72, level=0.95)
>>> round(bounds.low, 4), round(bounds.high, 4)
(0.8453, 0.9771)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy.special import betaincinv, ndtri

Interval = Literal["clopper-pearson", "wilson"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Both ends of a two-sided interval; for a proportion 0 <= low <= estimate <= high <= 1."""

    low: float
    high: float


def exact_bounds(k: float, n: float, *, level: float) -> Bounds:
    """Clopper-Pearson interval of k successes in n by beta quantiles.

    `k` and `n` are counts or effective counts (real), 0 <= k <= n, n > 0; `level` is two-sided, so each end is a
    one-sided bound at (1 + level) / 2. `low` is exactly 0 at k = 0 and `high` exactly 1 at k = n.

    Raises ValueError outside those ranges; 0 of 0 has no interval.

    References: Clopper & Pearson 1934, Biometrika 26:404; real-valued counts: Korn & Graubard 1998, Survey Methodology
    24:193.
    """
    _require(k, n, level)
    alpha = (1 - level) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, alpha))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - alpha))
    # A vanishing effective count is inverted with an absolute error: the estimate stays inside.
    return Bounds(min(low, k / n), max(high, k / n))


def wilson_bounds(k: float, n: float, *, level: float) -> Bounds:
    """Wilson score interval of k successes in n, clipped to [0, 1]; arguments and errors as `exact_bounds`.

    References: Wilson 1927, JASA 22:209.
    """
    _require(k, n, level)
    z = float(ndtri((1 + level) / 2))
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    low = 0.0 if k == 0 else max(0.0, centre - half)
    high = 1.0 if k == n else min(1.0, centre + half)
    return Bounds(low, high)


def _require(k: float, n: float, level: float) -> None:
    if not 0 < n < math.inf:
        raise ValueError(f"A proportion needs a positive number of cases, not {n}.")
    if not 0 <= k <= n:
        raise ValueError(f"The successes must be between 0 and {n}, not {k}.")
    require_level(level)


def require_level(level: float) -> None:
    """Raise ValueError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise ValueError(f"A confidence level must be between 0 and 1, such as 0.95, not {level}.")
