"""How many cases a criterion needs, and the error rates of a decision at given cases.

Most of it is for "the lower bound of a sensitivity, specificity or accuracy is at least `threshold`", a rule on the
number of misses. A rate that must stay below a limit is the same rule on its complement: pass 1 - limit and 1 - true
rate. Gaps between groups and kappa are simulated.

>>> smallest_without_miss(0.95, level=0.95), misses_allowed(300, 0.90, level=0.95)
(72, 19)
>>> round(power(300, 0.90, true=0.95, level=0.95), 3)
0.881
>>> patients_to_show(0.90, true=0.95, target=0.8, level=0.95).patients
255

`level` is two-sided: a gate at 0.95 decides at one-sided 97.5 %, and each of K looks at 1 - (1 - 0.95) / K.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, betainc, betaincinv, betaln, gammaln, ndtri

from drgate.stats import gaps
from drgate.stats.agreement import Weights, kappa, p_value_of
from drgate.stats.cluster import bounds, effective_n, effective_sample, unknown_clusters
from drgate.stats.proportion import Interval, require_level

UNREALISTIC = 100_000
"""Cases beyond which "no realistic number" is the answer."""

_FINEST = 10**6
"""Largest denominator of a threshold: 1 - 0.9 is a tenth, whatever floating point makes of it."""


@dataclass(frozen=True, slots=True)
class Passing:
    """The chance that a test set passes, given what is true."""

    probability: float
    method: Literal["exact", "simulated"]
    """Exact: binomial, of independent patients with one image each."""
    se: float | None = None
    """Monte Carlo standard error; None where exact."""


@dataclass(frozen=True, slots=True)
class Needed:
    """Total patients from which the power stays at or above the target."""

    patients: int
    images: int
    power: float
    """With that many, 0 to 1."""
    method: Literal["exact", "simulated"]


def misses_allowed(n: int, threshold: float, *, level: float, interval: Interval = "clopper-pearson") -> int | None:
    """Misses among `n` independent cases with which the lower bound is still at least `threshold`.

    None where even no miss is not enough. Raises ValueError for n < 1 or a threshold outside (0, 1).
    """
    allowed = int(_allowed(np.array([n]), threshold, level, interval)[0])
    return None if allowed < 0 else allowed


def power(n: int, threshold: float, *, true: float, level: float, interval: Interval = "clopper-pearson") -> float:
    """Probability that `n` independent cases show `threshold` when the truth is `true`: exact binomial.

    At `true` equal to the threshold it is the false-pass probability; 0 where even no miss is not enough.
    """
    return float(_power(np.array([n]), threshold, true, level, interval)[0])


def smallest_without_miss(
    threshold: float,
    *,
    level: float,
    interval: Interval = "clopper-pearson",
    images: ArrayLike = 1,
    counts: ArrayLike | None = None,
) -> int | None:
    """Fewest patients, each with `images` images, that show `threshold` without a miss.

    `images` may be several sizes, which patients have in the proportions of `counts`. None above `UNREALISTIC`
    patients.
    """
    _require(threshold, level, interval)
    sizes, times = _patients(np.atleast_1d(images), counts)
    share = times / times.sum()

    def enough(patients: int) -> bool:
        sample = effective_sample(sizes, sizes, level=level, counts=_dealt(patients, share))
        return bounds(sample, level=level, interval=interval).low >= threshold

    return _first(enough)


def patients_to_screen(cases: int, share: float, *, assurance: float) -> int | None:
    """Consecutive patients, of whom `share` (0 to 1) are cases, to screen to find `cases` with that probability.

    The quantile of a negative binomial; None where the share is 0, or beyond `UNREALISTIC` times the cases.
    """
    if cases < 0 or not 0 <= share <= 1 or not 0 < assurance < 1:
        raise ValueError("The cases must not be negative; the share and the assurance must be between 0 and 1.")
    if cases == 0 or share == 1:
        return cases
    if share < 1 / UNREALISTIC:
        return None
    low, high = cases - 1, cases
    while betainc(cases, high - cases + 1, share) < assurance:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if betainc(cases, middle - cases + 1, share) >= assurance else (middle, high)
    return high


def cases_needed(
    threshold: float,
    *,
    true: float,
    target: float,
    level: float,
    interval: Interval = "clopper-pearson",
    strict: bool = False,
    point: bool = False,
) -> int | None:
    """Number of independent cases from which the power stays at or above `target` (0 to 1).

    Power is saw-toothed in n: more cases can have less. This is the n after the last that falls short. None where
    the truth does not exceed the threshold, or beyond `UNREALISTIC` cases: then no realistic number shows it.
    `strict` and `point` as in `passing`.
    """
    _require(threshold, level, interval)
    if not 0 < true <= 1 or not 0 < target < 1:
        raise ValueError("The expected truth and the target power must be between 0 and 1.")
    if true <= threshold:
        return None
    rough = _rough_cases(threshold, true, target, level, point)
    if rough > 1.2 * UNREALISTIC:
        return None
    horizon = int(1.5 * rough) + 300
    while True:
        n = np.arange(1, horizon + 1)
        short = np.flatnonzero(_power(n, threshold, true, level, interval, strict, point) < target)
        last = 0 if short.size == 0 else int(n[short[-1]])
        # The jumps shrink as n grows: if a quarter more cases has no drop below the target, no larger n has.
        if last <= 0.8 * horizon:
            return last + 1 if last < UNREALISTIC else None
        horizon *= 2


def passing(
    threshold: float,
    *,
    true: float,
    level: float,
    interval: Interval = "clopper-pearson",
    sizes: ArrayLike = (1,),
    counts: ArrayLike | None = None,
    icc: float = 0.5,
    strict: bool = False,
    point: bool = False,
    images_a_patient: int = 1,
    replicates: int = 10_000,
    seed: int = 0,
) -> Passing:
    """The chance that patients of these sizes pass a criterion when the truth is `true` (0 to 1, above 0).

    `sizes` has the numbers of images per patient in the denominator, > 0, and `counts` how many patients have each
    (default: one each). Exact where each has one; else simulated: a patient's images are right with a chance of
    their own, beta-distributed about `true` so that two of them correlate by `icc` (0 to 1). Where `true` does not
    exceed the threshold this is the false-pass probability.

    point: the estimate decides and not the bound: it must reach the threshold or, where `strict`, exceed it; compared
    in counts, so that 38 of 40 reaches .95. images_a_patient: above 1, patients are unknown; they are drawn with so
    many images each, and the bound is that of `unknown_clusters`.
    """
    _require(threshold, level, interval)
    images, times = _patients(sizes, counts)
    n = int(times @ images)
    unknown = images_a_patient > 1
    if unknown:
        images, times = _alike(n, images_a_patient)
    elif images.max() == 1:
        exact = _power(np.array([n]), threshold, true, level, interval, strict, point)
        return Passing(float(exact[0]), "exact")
    drawn = _draw(images, times, true, icc, replicates, seed)
    if point:
        passes = drawn.wrong <= _allowed(np.array([n]), threshold, level, interval, strict, point)
    elif unknown:
        possible = unknown_clusters(n, n, images_a_patient=images_a_patient, level=level)
        effective = np.full(replicates, possible.effective_n)
        passes = _shows(drawn.wrong / n * effective, effective, threshold, level, interval)
    else:
        passes = _clustered(drawn, images, times, threshold, level, interval)
    value = float(passes.mean())
    return Passing(value, "simulated", float(np.sqrt(value * (1 - value) / replicates)))


def patients_to_show(
    threshold: float,
    *,
    true: float,
    target: float,
    level: float,
    interval: Interval = "clopper-pearson",
    sizes: Sequence[int] = (1,),
    counts: Sequence[int] | None = None,
    icc: float = 0.5,
    strict: bool = False,
    point: bool = False,
    images_a_patient: int = 1,
    seed: int = 0,
) -> Needed | None:
    """Total patients from which the power to show `threshold` stays at or above `target` when the truth is `true`.

    The patients have images in the proportions of `sizes` and `counts`; other arguments as in `passing`. Exact where
    each has one image (`cases_needed`); else simulated, to about one per cent of the number, and checked at up to a
    quarter more. None where the truth does not exceed the threshold, or beyond `UNREALISTIC` patients.
    """
    _require(threshold, level, interval)
    images, times = _patients(sizes, counts)
    if images_a_patient > 1:
        images, times = np.array([images_a_patient]), np.array([1])
    if images.max() == 1:
        n = cases_needed(
            threshold, true=true, target=target, level=level, interval=interval, strict=strict, point=point
        )
        if n is None:
            return None
        chance = _power(np.array([n]), threshold, true, level, interval, strict, point)
        return Needed(n, n, float(chance[0]), "exact")
    if not 0 < true <= 1 or not 0 < target < 1:
        raise ValueError("The expected truth and the target power must be between 0 and 1.")
    if true <= threshold:
        return None
    mean = float(times @ images / times.sum())
    # Complete correlation makes a patient worth one image, none makes it worth all.
    if _rough_cases(threshold, true, target, level, point) > 1.2 * UNREALISTIC * mean:
        return None
    share = times / times.sum()

    def power_of(patients: int) -> float:
        return passing(
            threshold,
            true=true,
            level=level,
            interval=interval,
            sizes=images,
            counts=_dealt(patients, share),
            icc=icc,
            strict=strict,
            point=point,
            images_a_patient=images_a_patient,
            replicates=4000,
            seed=seed,
        ).probability

    found: dict[int, float] = {}

    def enough(patients: int) -> bool:
        if patients not in found:
            found[patients] = power_of(patients)
        return found[patients] >= target

    start = max(2, int(_rough_cases(threshold, true, target, level, point) / mean))
    short, long = 0, start
    while not enough(long):
        if long > UNREALISTIC:
            return None
        short, long = long, max(long + 1, int(1.3 * long))
    while True:
        while long - short > max(1, long // 100):
            middle = (short + long) // 2
            short, long = (short, middle) if enough(middle) else (middle, long)
        # Power is saw-toothed: the number that counts is the one after the last that falls short.
        later = [n for n in sorted({long + 1, *(int(long * more) for more in _CHECKED)}) if n > long and not enough(n)]
        if not later:
            break
        short = later[-1]
        long = short + max(1, short // 50)
        while not enough(long):
            short, long = long, long + max(1, long // 50)
    if long > UNREALISTIC:
        return None
    return Needed(long, int(_dealt(long, share) @ images), found[long], "simulated")


@dataclass(frozen=True, slots=True)
class Fair:
    """How a model fares whose true rate is the same in every group, by simulation."""

    passes: float
    """Chance that the upper limit of every pair of groups is at most the limit."""
    seems_unfair: float
    """Chance that the observed gap alone exceeds the limit."""
    se: float
    """Standard error of `passes`."""


def fair_gap(
    limit: float,
    *,
    true: float,
    level: float,
    groups: Sequence[tuple[ArrayLike, ArrayLike]],
    interval: Interval = "clopper-pearson",
    icc: float = 0.5,
    replicates: int = 4000,
    seed: int = 0,
) -> Fair:
    """Whether a gap of at most `limit` (0 to 1) is shown where every group has the rate `true`.

    groups: of each, numbers of images per patient in the denominator, and how many patients have each. The images of a
    patient correlate by `icc`, as in `passing`.
    """
    _require(limit, level, interval)
    rates, lows, highs, worths = [], [], [], []
    for at, (sizes, counts) in enumerate(groups):
        images, times = _patients(sizes, counts)
        drawn = _draw(images, times, true, icc, replicates, seed + at)
        value = 1 - drawn.wrong / int(times @ images)
        worth = _effective(drawn, images, times, level)
        low, high = _ends(value, worth, level, interval)
        rates.append(value)
        worths.append(worth)
        lows.append(low)
        highs.append(high)
    values, low, high, worth = (np.stack(part, axis=-1) for part in (rates, lows, highs, worths))
    passes = float(gaps.shown(values, low, high, worth, limit, level=level).mean())
    seen = values.max(axis=1) - values.min(axis=1) > limit + 1e-9
    return Fair(passes, float(seen.mean()), math.sqrt(passes * (1 - passes) / replicates))


def patients_for_gap(
    limit: float,
    *,
    true: float,
    target: float,
    level: float,
    groups: int,
    interval: Interval = "clopper-pearson",
    sizes: Sequence[int] = (1,),
    counts: Sequence[int] | None = None,
    icc: float = 0.5,
) -> Needed | None:
    """Patients in each of so many groups with which a fair model passes with power `target`, to about two per cent.

    The patients have images in the proportions of `sizes` and `counts`. None beyond `UNREALISTIC` patients a group.
    """
    images, times = _patients(sizes, counts)
    share = times / times.sum()

    def fair(patients: int) -> float:
        dealt = _dealt(patients, share)
        return fair_gap(
            limit, true=true, level=level, groups=[(images, dealt)] * groups, interval=interval, icc=icc
        ).passes

    return _until(fair, target, images, share)


def one_grade_off(true: float, *, weights: Weights, mix: Sequence[float]) -> float | None:
    """Share of images graded one grade off, to either side alike and equal at every grade, that makes kappa `true`.

    mix: (k,) shares of the grades. None where only one grade occurs, or where errors of one grade leave kappa higher.
    """
    from scipy.optimize import brentq  # a tenth of a second to import

    shares = np.asarray(mix, dtype=np.float64)
    right, wrong = np.diag(shares), shares[:, None] * _neighbours(len(shares))

    def beyond(rate: float) -> float:
        return float(kappa((1 - rate) * right + rate * wrong, weights)[0]) - true

    return None if np.count_nonzero(shares) < 2 or beyond(1.0) >= 0 else float(brentq(beyond, 0.0, 1.0))


def kappa_without_miss(
    threshold: float,
    *,
    weights: Weights,
    mix: Sequence[float],
    level: float,
    sizes: ArrayLike = (1,),
    counts: ArrayLike | None = None,
    images_a_patient: int = 1,
) -> int | None:
    """Fewest patients that show a kappa of `threshold` without an error; their grades are in the shares of `mix`.

    Other arguments as in `passing_kappa`. None above `UNREALISTIC` patients, and where only one grade occurs.
    """
    _require(threshold, level, "clopper-pearson")
    images, times = _patients(sizes, counts)
    if images_a_patient > 1:
        images, times = np.array([1]), np.array([images_a_patient])
    perfect = images[:, None, None, None] * np.eye(len(mix))[:, :, None] * np.eye(len(mix))
    each = np.outer(times / (times.sum() if images_a_patient == 1 else 1), mix).ravel()

    def enough(patients: int) -> bool:
        patterns = perfect.reshape(-1, len(mix), len(mix))
        p_value = p_value_of(patterns, patients * each, weights, images_a_patient=images_a_patient)
        return float(p_value(threshold, "lower")) <= (1 - level) / 2

    return _first(enough) if np.count_nonzero(mix) > 1 else None


def passing_kappa(
    threshold: float,
    *,
    true: float,
    weights: Weights,
    mix: Sequence[float],
    level: float,
    sizes: ArrayLike = (1,),
    counts: ArrayLike | None = None,
    icc: float = 0.5,
    strict: bool = False,
    point: bool = False,
    images_a_patient: int = 1,
    replicates: int = 4000,
    seed: int = 0,
) -> Passing:
    """The chance that patients of these sizes show a kappa of `threshold` when it is `true`; simulated.

    mix: (k,) shares of the grades, from which patients are drawn. All images of a patient have one grade; errors are of
    one grade (`one_grade_off`), to one side in a patient, and correlate by `icc`. Other arguments as in `passing`.

    Raises ValueError where such errors do not give the true kappa.
    """
    _require(threshold, level, "clopper-pearson")
    images, times = _patients(sizes, counts)
    if images_a_patient > 1:
        images, times = _alike(int(times @ images), images_a_patient)
    rate = one_grade_off(true, weights=weights, mix=mix)
    if rate is None:
        raise ValueError(f"Errors of one grade do not give a kappa of {true} at this mix of grades.")
    generator = np.random.Generator(np.random.PCG64(seed))
    kinds, drawn = [], []
    for size in np.unique(images):
        patterns, chance = _kinds_of_patients(int(size), mix, rate, icc)
        kinds.append(patterns)
        drawn.append(generator.multinomial(int(times[images == size].sum()), chance, size=replicates))
    patterns, patients = np.concatenate(kinds), np.concatenate(drawn, axis=1)
    tables = np.tensordot(patients, patterns, axes=1)
    if images_a_patient > 1:  # then single images are counted
        patterns = np.eye(len(mix) ** 2).reshape(-1, len(mix), len(mix))
        patients = tables.reshape(replicates, -1).astype(np.int64)
    value, defined = kappa(tables, weights)
    passes = defined & (value > threshold if strict else value >= threshold)
    close = np.empty(0, dtype=np.int64) if point else np.flatnonzero(passes)
    for part in np.array_split(close, 1 + close.size * len(patterns) // 10**6):
        test = p_value_of(patterns, patients[part], weights, images_a_patient=images_a_patient)
        passes[part] = test(threshold, "lower") <= (1 - level) / 2
    found = float(passes.mean())
    return Passing(found, "simulated", math.sqrt(found * (1 - found) / replicates))


def patients_for_kappa(
    threshold: float,
    *,
    true: float,
    target: float,
    weights: Weights,
    mix: Sequence[float],
    level: float,
    sizes: Sequence[int] = (1,),
    counts: Sequence[int] | None = None,
    icc: float = 0.5,
    strict: bool = False,
    point: bool = False,
    images_a_patient: int = 1,
) -> Needed | None:
    """Patients with which the power to show a kappa of `threshold` is `target`, to about two per cent.

    The patients have images in the proportions of `sizes` and `counts`; other arguments and errors as `passing_kappa`.
    None where the truth does not exceed the threshold, or beyond `UNREALISTIC` patients.
    """
    images, times = _patients(sizes, counts)
    share = times / times.sum()

    def power_of(patients: int) -> float:
        return passing_kappa(
            threshold,
            true=true,
            weights=weights,
            mix=mix,
            level=level,
            sizes=images,
            counts=_dealt(patients, share),
            icc=icc,
            strict=strict,
            point=point,
            images_a_patient=images_a_patient,
        ).probability

    return None if true <= threshold else _until(power_of, target, images, share)


def joint_power(powers: Sequence[float]) -> float:
    """Chance that independent criteria pass together: the product."""
    return float(np.prod(np.asarray(powers, dtype=np.float64)))


def _until(
    power_of: Callable[[int], float], target: float, images: NDArray[np.int64], share: NDArray[np.float64]
) -> Needed | None:
    """Patients with which a simulated power is `target`, to about two per cent; None beyond `UNREALISTIC`."""
    short, long = 0, 32
    while (found := power_of(long)) < target:
        short, long = long, 2 * long
        if long > UNREALISTIC:
            return None
    while long - short > max(1, long // 50):
        middle = (short + long) // 2
        there = power_of(middle)
        short, long, found = (short, middle, there) if there >= target else (middle, long, found)
    return Needed(long, int(_dealt(long, share) @ images), found, "simulated")


def _neighbours(grades: int) -> NDArray[np.float64]:
    """Chance of each answer where it is one grade off, (grades, grades)."""
    beside = np.eye(grades, k=1) + np.eye(grades, k=-1)
    return np.asarray(beside / beside.sum(axis=1, keepdims=True))


def _kinds_of_patients(
    size: int, mix: Sequence[float], rate: float, icc: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tables (P, k, k) of patients with so many images of one grade, and the chance of each."""
    wrong = _miss_distribution(size, 1 - rate, icc)
    chance = np.asarray(mix)[:, None, None] * _neighbours(len(mix))[:, :, None] * wrong
    grade, answer, misses = np.nonzero(chance)
    tables = np.zeros((len(grade), len(mix), len(mix)))
    at = np.arange(len(grade))
    tables[at, grade, grade], tables[at, grade, answer] = size - misses, misses
    return tables, chance[grade, answer, misses]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Sums over the patients of each replicate, all (replicates,): y errors of m images."""

    wrong: NDArray[np.int64]
    with_error: NDArray[np.int64]
    squared: NDArray[np.int64]
    by_size: NDArray[np.int64]


_CHECKED = (1.03, 1.07, 1.12, 1.18, 1.25)
"""Multiples of a simulated number of patients at which the power must hold as well."""


def _patients(sizes: ArrayLike, counts: ArrayLike | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sizes with a patient, and how many have each."""
    images = np.asarray(sizes, dtype=np.int64)
    times = np.ones_like(images) if counts is None else np.asarray(counts, dtype=np.int64)
    if images.ndim != 1 or images.shape != times.shape or (images < 1).any() or (times < 0).any() or not times.any():
        raise ValueError("Patients need sizes of at least 1, and counts that are not negative and not all 0.")
    return images[times > 0], times[times > 0]


def _alike(n: int, images_a_patient: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """n images as patients with so many each, the last with the rest."""
    return _patients(
        [images_a_patient, max(1, n % images_a_patient)], [n // images_a_patient, n % images_a_patient > 0]
    )


def _dealt(patients: int, share: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole patients in these proportions, summing to `patients` (largest remainders)."""
    exact = patients * share
    whole = exact.astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: patients - int(whole.sum())]] += 1
    return whole


def _rough_cases(threshold: float, true: float, target: float, level: float, point: bool) -> float:
    """Independent cases by the normal approximation; for `point` without the part that the bound needs."""
    bound = 0.0 if point else float(ndtri((1 + level) / 2)) * math.sqrt(threshold * (1 - threshold))
    return (max(0.0, bound + float(ndtri(target)) * math.sqrt(true * (1 - true))) / (true - threshold)) ** 2


def _draw(
    images: NDArray[np.int64], times: NDArray[np.int64], true: float, icc: float, replicates: int, seed: int
) -> _Drawn:
    if not 0 < true <= 1 or not 0 <= icc <= 1 or replicates < 1:
        raise ValueError("The truth must be between 0 and 1, the correlation from 0 to 1, with at least one replicate.")
    generator = np.random.Generator(np.random.PCG64(seed))
    sums = np.zeros((4, replicates), dtype=np.int64)
    for size in np.unique(images):
        misses = np.arange(size + 1)
        drawn = generator.multinomial(
            int(times[images == size].sum()), _miss_distribution(int(size), true, icc), size=replicates
        )
        sums += (drawn @ np.stack([misses, misses > 0, misses**2, misses * size], axis=1)).T
    return _Drawn(*sums)


def _clustered(
    drawn: _Drawn,
    images: NDArray[np.int64],
    times: NDArray[np.int64],
    threshold: float,
    level: float,
    interval: Interval,
) -> NDArray[np.bool_]:
    """Whether the clustered bound of each replicate is at least the threshold."""
    effective = _effective(drawn, images, times, level)
    # Few of the replicates differ, and the beta integral is what takes the time.
    distinct, at = np.unique(drawn.wrong / int(times @ images) * effective + 1j * effective, return_inverse=True)
    return _shows(distinct.real, distinct.imag, threshold, level, interval)[at.ravel()]


def _effective(drawn: _Drawn, images: NDArray[np.int64], times: NDArray[np.int64], level: float) -> NDArray[np.float64]:
    """The effective sample size of each replicate."""
    return effective_n(
        clusters=int(times.sum()),
        sizes=int(times @ images),
        errors=drawn.wrong,
        with_error=drawn.with_error,
        errors_squared=drawn.squared,
        errors_by_size=drawn.by_size,
        sizes_squared=int(times @ images**2),
        largest=int(images.max()),
        level=level,
    )[1]


def _ends(
    value: NDArray[np.float64], n: NDArray[np.float64], level: float, interval: Interval
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both limits of proportions at effective sample sizes: `cluster.bounds`, for many at once."""
    nothing, n = n == 0, np.maximum(n, 1e-9)
    right, wrong = value * n, (1 - value) * n
    if interval == "wilson":
        z = float(ndtri((1 + level) / 2))
        centre = (right + z * z / 2) / (n + z * z)
        half = z / (n + z * z) * np.sqrt(right * wrong / n + z * z / 4)
        low, high = np.maximum(0.0, centre - half), np.minimum(1.0, centre + half)
        return np.where((value <= 0) | nothing, 0.0, low), np.where((value >= 1) | nothing, 1.0, high)
    alpha = (1 - level) / 2
    low = np.where((value <= 0) | nothing, 0.0, betaincinv(np.where(value <= 0, 1.0, right), wrong + 1, alpha))
    high = np.where((value >= 1) | nothing, 1.0, betaincinv(right + 1, np.where(value >= 1, 1.0, wrong), 1 - alpha))
    return low, high


def _miss_distribution(size: int, true: float, icc: float) -> NDArray[np.float64]:
    """Chance of 0 to `size` misses in one patient: binomial, beta-binomial, or all the same."""
    y = np.arange(size + 1)
    if icc == 1 or true == 1:
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
        # P(at most `misses`) of a binomial, by the beta integral, which also takes real counts.
        below = np.where(inside >= n, 1.0, betainc(n - inside, inside + 1, threshold))
    return np.asarray((below <= (1 - level) / 2) & (n > 0))


def _allowed(
    n: NDArray[np.int64],
    threshold: float,
    level: float,
    interval: Interval,
    strict: bool = False,
    point: bool = False,
) -> NDArray[np.int64]:
    """Misses allowed at each n, -1 where none is."""
    _require(threshold, level, interval)
    if (n < 1).any():
        raise ValueError("At least one case is needed.")
    if point:
        exact = Fraction(threshold).limit_denominator(_FINEST)
        least = exact.numerator * n // exact.denominator + 1 if strict else -(-exact.numerator * n // exact.denominator)
        return np.asarray(n - least, dtype=np.int64)
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
    n: NDArray[np.int64],
    threshold: float,
    true: float,
    level: float,
    interval: Interval,
    strict: bool = False,
    point: bool = False,
) -> NDArray[np.float64]:
    if not 0 <= true <= 1:
        raise ValueError(f"A true proportion must be between 0 and 1, not {true}.")
    allowed = _allowed(n, threshold, level, interval, strict, point)
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
        raise ValueError(f"A threshold must be between 0 and 1, not {threshold}.")
    if interval not in ("clopper-pearson", "wilson"):
        raise ValueError(f"The interval is 'clopper-pearson' or 'wilson', not {interval!r}.")
