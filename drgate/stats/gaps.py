"""The gap between groups: the largest difference between their proportions, with limits that hold for every pair.

A difference has the wider of two limits, each from the two proportions at their own effective sample sizes. MOVER's
combine the limits of the proportions by squares; with Wilson's limits that is Newcombe's method 10. Alone they would
pass up to 3.3 % of gaps at the rule, where the better group is small and nearly without error: there one error moves
the estimate more than the limit. Melded limits are the quantiles of the difference of two independent variables, one
distributed as the exact upper limit of the first proportion, the other as the exact lower limit of the second. Where
patients have images in several groups, a negative correlation of their errors widens MOVER's.

>>> down, up = differences([56 / 70, 48 / 80], [0.691834, 0.490455], [0.876953, 0.700382])  # Wilson's limits
>>> round(float(down[0, 1]), 4), round(float(up[0, 1]), 4)
(0.0524, 0.3339)

References: Zou & Donner 2008, Statistics in Medicine 27:1693; Newcombe 1998, Statistics in Medicine 17:873; Fay,
Proschan & Brittain 2015, Biometrics 71:146.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincinv, ndtr

Floats = NDArray[np.float64]
Counts = Any
"""A sparse matrix of integers (SciPy's have no types)."""

_LEAST: Final = 1e-300
_EQUAL: Final = 1e-9
"""Of chances: what the limit's own digits leave."""
_Z: Final = np.linspace(-6.0, 6.0, 25)
_WEIGHTS: Final = np.exp(-(_Z**2) / 2) / math.sqrt(2 * math.pi) * (_Z[1] - _Z[0])
"""Equal steps of a normal variable, whose sums are exact to 1e-8 where the functions are smooth."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A proportion with its limits, 0 <= low <= value <= high <= 1. worth: its effective n, 0 if nothing is known."""

    value: float
    low: float
    high: float
    worth: float


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


def beyond(first: ArrayLike, second: ArrayLike, difference: ArrayLike) -> Floats:
    """How probable a difference above the given one is, first minus second, by melded limits; broadcast.

    first, second: (..., 2), successes and images, at the effective sample size.
    """
    one, other, difference = np.broadcast_arrays(
        first, second, np.asarray(difference, dtype=np.float64)[..., None], subok=False
    )
    lead, difference = one.shape[:-1], difference[..., 0].reshape(-1, 1)
    (k, n), (also_k, also_n) = (part.reshape(-1, 2).astype(np.float64).T for part in (one, other))
    # Failures in place of successes, where these are few: near 0 the second limit's distribution is not smooth.
    few = k / n + also_k / also_n < 1
    k, n, also_k, also_n = (
        np.where(few, mirrored, plain)
        for plain, mirrored in ((k, also_n - also_k), (n, also_n), (also_k, n - k), (also_n, n))
    )
    distinct, at = np.unique(np.stack([k, n], axis=1), axis=0, return_inverse=True)
    k, n = (part[:, None] for part in distinct.T)
    upper = np.where(k >= n, 1.0, betaincinv(k + 1, np.maximum(n - k, _LEAST), ndtr(_Z)))[at.ravel()] - difference
    also_k, also_n = also_k[:, None], also_n[:, None]
    below = np.where(also_k > 0, betainc(np.maximum(also_k, _LEAST), also_n - also_k + 1, upper.clip(0, 1)), 1.0)
    return np.asarray(np.where(upper > 0, below, 0.0) @ _WEIGHTS).reshape(lead)


def melded(first: tuple[float, float], second: tuple[float, float], *, level: float) -> float:
    """The upper limit of first minus second at (1 + level) / 2. first, second: as in `beyond`."""
    from scipy.optimize import brentq  # a tenth of a second to import

    def excess(difference: float) -> float:
        return float(beyond(first, second, difference)) - (1 - level) / 2

    return 1.0 if excess(1 - 1e-9) > 0 else float(brentq(excess, -1.0, 1.0, xtol=1e-12))


def shown(value: Floats, low: Floats, high: Floats, worth: Floats, limit: float, *, level: float) -> NDArray[np.bool_]:
    """Which of several samples show a gap of at most `limit`, as `largest` would; all (samples, groups)."""
    _, up = differences(value, low, high)
    apart = ~np.eye(value.shape[1], dtype=bool)
    passing = np.flatnonzero(up[:, apart].max(axis=1) <= limit)
    counts = np.stack([value * worth, worth], axis=-1)[passing]
    first, second = np.nonzero(apart)
    # The pair whose limit is the largest by MOVER fails most often, and is tried first.
    rank = np.argsort(-up[passing][:, first, second], axis=1)
    for at in range(len(first)):
        rows = np.arange(len(passing))
        chance = beyond(counts[rows, first[rank[:, at]]], counts[rows, second[rank[:, at]]], limit)
        passing, counts, rank = (part[chance <= (1 - level) / 2] for part in (passing, counts, rank))
    found = np.zeros(len(value), dtype=bool)
    found[passing] = True
    return found


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


def largest(rates: Sequence[Rate], correlation: ArrayLike = 0.0, *, level: float) -> Gap:
    """The gap between two groups or more. The gap is at most x, with its confidence, where every pair's upper limit is.

    level: two-sided, of the rates' limits. correlation: where patients have images in several groups, that of
    `opposed`; else 0.
    Raises ValueError for fewer than two groups.
    """
    if len(rates) < 2:
        raise ValueError("A gap needs two groups or more.")
    values = np.array([rate.value for rate in rates])
    worths = np.array([rate.worth for rate in rates])
    _, up = differences(values, [rate.low for rate in rates], [rate.high for rate in rates], correlation)
    up[(worths == 0)[:, None] | (worths == 0)] = 1.0
    first, second = np.nonzero(~np.eye(len(rates), dtype=bool))
    counts, mover = np.stack([values * worths, worths], axis=-1), up[first, second]

    def wider(pair: int) -> float:
        if mover[pair] >= 1:
            return 1.0
        ends = (tuple(counts[at[pair]]) for at in (first, second))
        return max(float(mover[pair]), melded(*ends, level=level))

    # With many groups most pairs need no melded limit: it is the largest and the smallest that are sought.
    upper, high = int(mover.argmax()), wider(int(mover.argmax()))
    while high < 1:
        chance = beyond(counts[first], counts[second], high)
        if chance.max() <= (1 - level) / 2 + _EQUAL:
            break
        upper = int(chance.argmax())
        high = wider(upper)
    lower, low = 0, 1.0
    for pair in np.argsort(mover, kind="stable").tolist():
        if mover[pair] >= low:
            break
        if (end := wider(pair)) < low:
            lower, low = pair, end
    # The lower limit of one difference is the upper one of the reverse.
    return Gap(
        float(values.max() - values.min()),
        max(0.0, -low),
        high,
        (int(second[lower]), int(first[lower])),
        (int(first[upper]), int(second[upper])),
    )
