"""The gap between groups: the largest difference between their proportions, with limits that hold for every pair.

A difference has MOVER's limits: those of the two proportions, each at its own effective sample size, combined by
squares. With Wilson's limits that is Newcombe's method 10.

>>> gap = largest([Rate(56 / 70, 0.691834, 0.876953), Rate(48 / 80, 0.490455, 0.700382)])  # Wilson's limits
>>> round(gap.value, 2), round(gap.low, 4), round(gap.high, 4)
(0.2, 0.0524, 0.3339)

References: Zou & Donner 2008, Statistics in Medicine 27:1693; Newcombe 1998, Statistics in Medicine 17:873.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rate:
    """A proportion with its limits, 0 <= low <= value <= high <= 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Gap:
    """The largest minus the smallest proportion.

    low, high: the largest lower and the largest upper limit of a difference of two groups, at least 0.
    lower, upper: the two groups (larger first) that low and high are of.
    """

    value: float
    low: float
    high: float
    lower: tuple[int, int]
    upper: tuple[int, int]


def differences(value: ArrayLike, low: ArrayLike, high: ArrayLike) -> tuple[Floats, Floats]:
    """Lower and upper limit of value[a] - value[b] for every two groups, (..., a, b); arguments (..., groups)."""
    p, lower, upper = (np.asarray(part, dtype=np.float64) for part in (value, low, high))
    below, above = (p - lower) ** 2, (upper - p) ** 2
    d = p[..., :, None] - p[..., None, :]
    down = np.sqrt(below[..., :, None] + above[..., None, :])
    up = np.sqrt(above[..., :, None] + below[..., None, :])
    return d - down, d + up


def largest(rates: Sequence[Rate]) -> Gap:
    """The gap between two groups or more. The gap is at most x, with its confidence, where every pair's upper limit is.

    Groups are independent: images of one patient in two groups make the limits too wide, not too narrow.
    Raises ValueError for fewer than two groups.
    """
    if len(rates) < 2:
        raise ValueError("A gap needs two groups or more.")
    values = np.array([rate.value for rate in rates])
    down, up = differences(values, [rate.low for rate in rates], [rate.high for rate in rates])
    for limits in (down, up):
        np.fill_diagonal(limits, -np.inf)
    lower, upper = (tuple(map(int, np.unravel_index(int(limits.argmax()), limits.shape))) for limits in (down, up))
    return Gap(
        float(values.max() - values.min()),
        max(0.0, float(down.max())),
        float(up.max()),
        (lower[0], lower[1]),
        (upper[0], upper[1]),
    )
