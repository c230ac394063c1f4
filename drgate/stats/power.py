"""How many cases a criterion needs, and what the gate's own error is at given cases.

Everything here is for "the lower bound of a sensitivity, specificity or accuracy is at least `threshold`", a rule on
the number of misses. A rate that must stay below a limit is the same rule on its complement: pass 1 - limit and
1 - true rate.

>>> smallest_without_miss(0.95, level=0.95), misses_allowed(300, 0.90, level=0.95)
(72, 19)
>>> round(power(300, 0.90, true=0.95, level=0.95), 3)
0.881

`level` is two-sided: a gate at 0.95 decides at one-sided 97.5 %, and each of K looks at 1 - (1 - 0.95) / K.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, betainc, betaln, gammaln, ndtri

from drgate.stats.cluster import bounds, effective_n, effective_sample
from drgate.stats.proportion import Interval, require_level

UNREALISTIC = 100_000
"""Cases beyond which "no realistic number" is the answer."""


@dataclass(frozen=True, slots=True)
class SimulatedPower:
    """A share of simulated test sets that pass, and its Monte Carlo standard error."""

    value: float
    se: float
    replicates: int


def misses_allowed(n: int, threshold: float, *, level: float, interval: Interval = "clopper-pearson") -> int | None:
    """Misses among `n` independent cases with which the lower bound is still at least `threshold`.

    None where even no miss is not enough. Raises ValueError for n < 1 or a threshold outside (0, 1).
    """
    allowed = int(_allowed(np.array([n]), threshold, level, interval)[0])
    return None if allowed < 0 else allowed


def power(n: int, threshold: float, *, true: float, level: float, interval: Interval = "clopper-pearson") -> float:
    """Probability that `n` independent cases show `threshold` when the truth is `true`: exact binomial.

    At `true` equal to the threshold it is the gate's false-pass probability; 0 where even no miss is not enough.
    """
    return float(_power(np.array([n]), threshold, true, level, interval)[0])


def smallest_without_miss(
    threshold: float, *, level: float, interval: Interval = "clopper-pearson", images: int = 1
) -> int | None:
    """Fewest patients, each with `images` images, that show `threshold` without a miss.

    None above `UNREALISTIC` patients.
    """
    _require(threshold, level, interval)
    if images < 1:
        raise ValueError(f"A patient brings at least one image, not {images}.")

    def enough(patients: int) -> bool:
        size = np.array([images])
        sample = effective_sample(size, size, level=level, counts=np.array([patients]))
        return bounds(sample, level=level, interval=interval).low >= threshold

    return _first(enough)


def cases_needed(
    threshold: float, *, true: float, target: float, level: float, interval: Interval = "clopper-pearson"
) -> int | None:
    """Number of independent cases from which the power stays at or above `target` (0 to 1).

    Power is saw-toothed in n: more cases can have less. This is the n after the last that falls short. None where
    the truth does not exceed the threshold, or beyond `UNREALISTIC` cases: then no realistic number shows it.
    """
    _require(threshold, level, interval)
    if not 0 < true <= 1 or not 0 < target < 1:
        raise ValueError("The expected truth and the target power lie between 0 and 1.")
    if true <= threshold:
        return None
    spreads = ndtri((1 + level) / 2) * math.sqrt(threshold * (1 - threshold)) + ndtri(target) * math.sqrt(
        true * (1 - true)
    )
    rough = (max(0.0, float(spreads)) / (true - threshold)) ** 2
    if rough > 1.2 * UNREALISTIC:
        return None
    horizon = int(1.5 * rough) + 300
    while True:
        n = np.arange(1, horizon + 1)
        short = np.flatnonzero(_power(n, threshold, true, level, interval) < target)
        last = 0 if short.size == 0 else int(n[short[-1]])
        # The teeth shrink as n grows: what a quarter more cases does not bring down, nothing does.
        if last <= 0.8 * horizon:
            return last + 1 if last < UNREALISTIC else None
        horizon *= 2


def simulated_power(
    sizes: ArrayLike,
    threshold: float,
    *,
    true: float,
    icc: float,
    level: float,
    interval: Interval = "clopper-pearson",
    counts: ArrayLike | None = None,
    replicates: int = 10_000,
    seed: int = 0,
) -> SimulatedPower:
    """Power of the clustered gate on patients of these sizes, by simulation.

    `sizes` holds the images of each patient (with `counts`, of each kind of patient), > 0. A patient's images are right
    with a chance of its own, beta-distributed about `true` so that two images of a patient correlate by `icc` (0 to 1).
    At `true` equal to the threshold this is the false-pass probability.
    """
    _require(threshold, level, interval)
    if not 0 < true < 1 or not 0 <= icc <= 1 or replicates < 1:
        raise ValueError("The truth lies between 0 and 1, the correlation from 0 to 1, with at least one replicate.")
    images = np.asarray(sizes, dtype=np.int64)
    times = np.ones_like(images) if counts is None else np.asarray(counts, dtype=np.int64)
    if images.ndim != 1 or images.shape != times.shape or (images < 1).any() or (times < 0).any() or not times.any():
        raise ValueError("Patients need sizes of at least 1, and counts that are not negative and not all 0.")
    generator = np.random.Generator(np.random.PCG64(seed))
    sums = np.zeros((4, replicates), dtype=np.int64)  # errors, patients with one, errors^2, errors x size
    for size in np.unique(images[times > 0]):
        misses = np.arange(size + 1)
        chance = _miss_distribution(int(size), true, icc)
        drawn = generator.multinomial(int(times[images == size].sum()), chance, size=replicates)
        sums += (drawn @ np.stack([misses, misses > 0, misses**2, misses * size], axis=1)).T
    wrong, with_error, squared, by_size = sums
    n = int(times @ images)
    _, effective = effective_n(
        clusters=int(times.sum()),
        sizes=n,
        errors=wrong,
        with_error=with_error,
        errors_squared=squared,
        errors_by_size=by_size,
        sizes_squared=int(times @ images**2),
        largest=int(images[times > 0].max()),
        level=level,
    )
    value = float(_shows(wrong / n * effective, effective, threshold, level, interval).mean())
    return SimulatedPower(value, float(np.sqrt(value * (1 - value) / replicates)), replicates)


def joint_power(powers: Sequence[float]) -> float:
    """Chance that independent criteria pass together: the product."""
    return float(np.prod(np.asarray(powers, dtype=np.float64)))


def _miss_distribution(size: int, true: float, icc: float) -> NDArray[np.float64]:
    """Chance of 0 to `size` misses in one patient: binomial, beta-binomial, or all alike."""
    y = np.arange(size + 1)
    if icc == 1:
        return np.where(y == 0, true, np.where(y == size, 1 - true, 0.0))
    ways = gammaln(size + 1) - gammaln(y + 1) - gammaln(size - y + 1)
    if icc == 0:
        log = ways + y * np.log1p(-true) + (size - y) * np.log(true)
    else:
        a, b = (1 - true) * (1 - icc) / icc, true * (1 - icc) / icc
        log = ways + betaln(y + a, size - y + b) - betaln(a, b)
    chance = np.exp(log)
    return np.asarray(chance / chance.sum(), dtype=np.float64)


def _shows(
    misses: NDArray[np.float64], n: NDArray[np.float64], threshold: float, level: float, interval: Interval
) -> NDArray[np.bool_]:
    """Whether the lower bound of n - misses of n is at least the threshold, by the test that the bound inverts."""
    if interval == "wilson":
        z = ndtri((1 + level) / 2)
        return np.asarray(n * (1 - threshold) - misses >= z * np.sqrt(n * threshold * (1 - threshold)))
    inside = np.minimum(np.maximum(misses, 0.0), n)
    with np.errstate(invalid="ignore"):
        # P(at most `misses`) of a binomial, by the beta integral that real counts know too.
        below = np.where(inside >= n, 1.0, betainc(n - inside, inside + 1, threshold))
    return np.asarray((below <= (1 - level) / 2) & (n > 0))


def _allowed(n: NDArray[np.int64], threshold: float, level: float, interval: Interval) -> NDArray[np.int64]:
    """Misses allowed at each n, -1 where none is."""
    _require(threshold, level, interval)
    if (n < 1).any():
        raise ValueError("At least one case is needed.")
    size = n.astype(np.float64)
    # More misses than n (1 - threshold) put the estimate itself below the threshold.
    low, high = np.full(n.shape, -1), (size * (1 - threshold)).astype(np.int64) + 1
    while (high - low > 1).any():
        middle = (low + high) // 2
        good = _shows(middle.astype(np.float64), size, threshold, level, interval)
        moves = high - low > 1
        low, high = np.where(moves & good, middle, low), np.where(moves & ~good, middle, high)
    return low


def _power(
    n: NDArray[np.int64], threshold: float, true: float, level: float, interval: Interval
) -> NDArray[np.float64]:
    if not 0 <= true <= 1:
        raise ValueError(f"A true proportion lies between 0 and 1, not {true}.")
    allowed = _allowed(n, threshold, level, interval)
    chance = bdtr(np.maximum(allowed, 0).astype(np.float64), n, 1 - true)
    return np.asarray(np.where(allowed < 0, 0.0, chance), dtype=np.float64)


def _first(enough: Callable[[int], bool]) -> int | None:
    high = 1
    while not enough(high):
        if high >= UNREALISTIC:
            return None
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high if high <= UNREALISTIC else None


def _require(threshold: float, level: float, interval: Interval) -> None:
    require_level(level)
    if not 0 < threshold < 1:
        raise ValueError(f"A threshold lies between 0 and 1, not {threshold}.")
    if interval not in ("clopper-pearson", "wilson"):
        raise ValueError(f"The interval is 'clopper-pearson' or 'wilson', not {interval!r}.")
