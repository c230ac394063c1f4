"""The gap between groups: the largest difference between their proportions, with limits that hold for every pair.

A difference has MOVER's limits: those of the two proportions, each at its own effective sample size, combined by
squares. With Wilson's limits that is Newcombe's method 10. Where patients have images in several groups, a negative
correlation of their errors widens it.

>>> gap = largest([Rate(56 / 70, 0.691834, 0.876953), Rate(48 / 80, 0.490455, 0.700382)])  # Wilson's limits
>>> round(gap.value, 2), round(gap.low, 4), round(gap.high, 4)
(0.2, 0.0524, 0.3339)

References: Zou & Donner 2008, Statistics in Medicine 27:1693; Newcombe 1998, Statistics in Medicine 17:873.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = Any
"""A sparse matrix of integers (SciPy's have no types)."""


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
    shown, open: the groups (larger first) that these are of.
    """

    value: float
    low: float
    high: float
    shown: tuple[int, int]
    open: tuple[int, int]


def differences(
    value: ArrayLike, low: ArrayLike, high: ArrayLike, correlation: ArrayLike = 0.0
) -> tuple[Floats, Floats]:
    """Lower and upper limit of value[a] - value[b] for every two groups, (..., a, b); arguments (..., groups).

    correlation: of the two groups' proportions, (..., a, b), or 0.
    """
    p, lower, upper = (np.asarray(part, dtype=np.float64) for part in (value, low, high))
    below, above = (p - lower) ** 2, (upper - p) ** 2
    d = p[..., :, None] - p[..., None, :]
    shared = -2 * np.asarray(correlation, dtype=np.float64)
    down, up = (
        np.sqrt(one[..., :, None] + other[..., None, :] + shared * np.sqrt(one[..., :, None] * other[..., None, :]))
        for one, other in ((below, above), (above, below))
    )
    return d - down, d + up


def opposed(successes: Counts, sizes: Counts) -> Floats:
    """Correlation of the proportions of every two groups that patients share, (groups, groups), where it is negative.

    successes, sizes: sparse (patients, groups). 0 where it is positive: groups taken as independent then have limits
    that are too wide, never too narrow.
    """
    hits, n = (np.asarray(one.sum(axis=0), dtype=np.float64).ravel() for one in (successes, sizes))
    p = np.divide(hits, n, out=np.zeros_like(hits), where=n > 0)
    # Sums of integers, so that no order of patients changes a digit.
    both, mixed, squares = (
        (one.T @ other).toarray().astype(np.float64)
        for one, other in ((successes, successes), (sizes, successes), (sizes, sizes))
    )
    covariance = both - p[:, None] * mixed - p[None, :] * mixed.T + p[:, None] * p[None, :] * squares
    variance = np.clip(np.diagonal(covariance), 0.0, None)
    scale = np.sqrt(variance[:, None] * variance[None, :])
    found: Floats = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)
    return found.clip(-1.0, 0.0)


def largest(rates: Sequence[Rate], correlation: ArrayLike = 0.0) -> Gap:
    """The gap between two groups or more. The gap is at most x, with its confidence, where every pair's upper limit is.

    correlation: where patients have images in several groups, that of `opposed`; else 0.
    Raises ValueError for fewer than two groups.
    """
    if len(rates) < 2:
        raise ValueError("A gap needs two groups or more.")
    values = np.array([rate.value for rate in rates])
    down, up = differences(values, [rate.low for rate in rates], [rate.high for rate in rates], correlation)
    for limits in (down, up):
        np.fill_diagonal(limits, -np.inf)
    shown, open_ = (tuple(map(int, np.unravel_index(int(limits.argmax()), limits.shape))) for limits in (down, up))
    return Gap(
        float(values.max() - values.min()),
        max(0.0, float(down.max())),
        float(up.max()),
        (shown[0], shown[1]),
        (open_[0], open_[1]),
    )
