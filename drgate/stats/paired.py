"""Two models on the same images: tests and intervals of the difference of two paired proportions.

Of n images, `only_first` are right under the first model only and `only_second` under the second only; the rest agree
and do not affect the difference, (only_first - only_second) / n.

>>> tango = tango_bounds(6, 16, 161, level=0.95)
>>> round(tango.low, 4), round(tango.high, 4), round(mcnemar_midp(6, 16), 6)
(-0.124, -0.0054, 0.03469)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri

from drgate.stats.bootstrap import distinct_patients, resample_patients
from drgate.stats.cluster import clustered_design_effect, unknown_inflation
from drgate.stats.confusion import CELLS
from drgate.stats.proportion import Bounds, require_level


@dataclass(frozen=True, slots=True)
class PairedSample:
    """Discordant images and how much the sample is worth."""

    only_first: int
    """Images right under the first model only."""
    only_second: int
    """Images right under the second model only."""
    n: int
    """Images, > 0."""
    clusters: int | None
    """Patients; None where they are unknown."""
    design_effect: float
    """>= 1; infinite where patients are unknown and nothing is declared of them."""

    @property
    def difference(self) -> float:
        """First minus second, -1 to 1."""
        return (self.only_first - self.only_second) / self.n


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """The first model against the second at a margin."""

    difference: float
    bounds: Bounds
    """Tango's score interval at the effective sample size."""
    margin: float
    level: float
    shown: bool
    """The lower bound is above -margin."""
    inferior: bool
    """The upper bound is below -margin: shown to be worse by more than that."""


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p of McNemar's exact test; 1 without a discordant image.

    References: McNemar 1947, Psychometrika 12:153; both forms: Fagerland, Lydersen & Laake 2013, doi
    10.1186/1471-2288-13-91.
    """
    fewer, discordant = _discordant(only_first, only_second)
    return min(1.0, 2 * float(bdtr(fewer, discordant, 0.5)))


def mcnemar_midp(only_first: int, only_second: int) -> float:
    """Two-sided mid-p of McNemar's test, nearer to its nominal level than `mcnemar_exact`; 1 without a discordance."""
    fewer, discordant = _discordant(only_first, only_second)
    if discordant == 0:
        return 1.0
    point = float(bdtr(fewer, discordant, 0.5)) - (float(bdtr(fewer - 1, discordant, 0.5)) if fewer else 0.0)
    return min(1.0, 2 * float(bdtr(fewer, discordant, 0.5)) - point) if only_first != only_second else 1 - point / 2


def tango_bounds(only_first: float, only_second: float, n: float, *, level: float) -> Bounds:
    """Tango's score interval of (only_first - only_second) / n.

    Counts may be real (divided by a design effect), >= 0, with only_first + only_second <= n and n > 0; ValueError
    otherwise. Both ends are in [-1, 1], and the interval has width even where no image is discordant.

    References: Tango 1998, Statistics in Medicine 17:891.
    """
    require_level(level)
    if not 0 < n < math.inf or only_first < 0 or only_second < 0 or only_first + only_second > n * (1 + 1e-12):
        raise ValueError(f"Discordant counts {only_first} and {only_second} do not fit into {n} images.")
    z = float(ndtri((1 + level) / 2))
    estimate = (only_first - only_second) / n

    def accepted(difference: float) -> bool:
        # The maximum-likelihood share of only_second, given the difference, is the root of 2n q^2 + b q + c.
        b = (2 * n - only_first + only_second) * difference - only_first - only_second
        c = -only_second * difference * (1 - difference)
        share = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * max(0.0, 2 * share + difference * (1 - difference))
        return abs(only_first - only_second - n * difference) <= z * math.sqrt(variance)

    return Bounds(_edge(accepted, -1.0, estimate), _edge(accepted, 1.0, estimate))


def paired_sample(
    only_first: NDArray[np.integer],
    only_second: NDArray[np.integer],
    sizes: NDArray[np.integer],
    *,
    counts: NDArray[np.integer] | None = None,
) -> PairedSample:
    """The sample of a paired difference whose images cluster in patients.

    One entry a patient (or, with `counts`, a kind of patient): images right under one model only, and images that
    count; patients of size 0 are ignored. The design effect is that of `effective_sample`, on the patients'
    differences, an error being a discordant image. Raises ValueError as `effective_sample`.
    """
    b, c, m = (np.asarray(a, dtype=np.int64) for a in (only_first, only_second, sizes))
    times = np.ones_like(m) if counts is None else np.asarray(counts, dtype=np.int64)
    if not b.shape == c.shape == m.shape == times.shape or m.ndim != 1:
        raise ValueError("Discordant images, sizes and counts must be flat arrays with one entry a patient.")
    if (b < 0).any() or (c < 0).any() or (b + c > m).any() or (times < 0).any():
        raise ValueError("No patient can have more discordant images than images.")
    times = np.where(m > 0, times, 0)
    clusters, n = int(times.sum()), int(times @ m)
    if n == 0:
        raise ValueError("A paired difference without any image has no sample.")
    first, second = int(times @ b), int(times @ c)
    difference = (first - second) / n
    plain = ((first + second) / n - difference**2) / max(1, n - 1)
    estimated = 1.0
    if plain > 0 and 1 < clusters < n:
        d = b - c
        residual = int(times @ d**2) - 2 * difference * int(times @ (d * m)) + difference**2 * int(times @ m**2)
        estimated = clusters / (clusters - 1) * residual / n**2 / plain
    design = clustered_design_effect(
        clusters=clusters,
        sizes=n,
        estimated=estimated,
        with_error=int(times @ (b + c > 0)),
        sizes_squared=int(times @ m**2),
        largest=int(m[times > 0].max()),
    )
    return PairedSample(first, second, n, clusters, float(design))


def paired_sample_unknown(only_first: int, only_second: int, n: int, *, images_a_patient: int | None) -> PairedSample:
    """The same where patients are unknown and each has so many images at most (None: nothing is declared).

    The design effect is the largest that patients of so many images can show, so that deleting the patient column never
    narrows the interval.
    """
    design = np.inf if images_a_patient is None else min(unknown_inflation(n, images_a_patient), 2 * images_a_patient)
    return PairedSample(only_first, only_second, n, None, float(design))


def resample_pairs(
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    patients: NDArray[np.integer],
    *,
    resamples: int,
    seed: int,
    inflation: float = 1.0,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tables (resamples, 30) of the first and of the second model, of the same patients drawn with replacement.

    `first` and `second` hold each image's cell 0-29 under each model, `patients` integer codes of their patients,
    all (images,). Patients whose images fall into the same pairs of cells are one pattern, and a draw is a
    multinomial over the patterns: the cluster bootstrap of the pairs, whatever the order of rows. `inflation` divides
    the number drawn, where patients are unknown. Raises ValueError as `distinct_patients`, and
    where there is nothing to draw.
    """
    one, other = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    if one.shape != other.shape or one.size == 0 or resamples < 1 or inflation < 1:
        raise ValueError("A paired bootstrap needs each image's cell under both models, and a replicate.")
    distinct = distinct_patients(one * CELLS + other, patients, CELLS * CELLS)
    kinds = distinct.times.size
    tables = [
        np.bincount(distinct.patients * CELLS + cells, minlength=kinds * CELLS).reshape(kinds, CELLS)
        for cells in np.divmod(distinct.codes, CELLS)
    ]
    both = resample_patients(
        np.concatenate(tables, axis=1), distinct.times, resamples=resamples, seed=seed, inflation=inflation
    )
    return both[:, :CELLS], both[:, CELLS:]


def difference_bounds(sample: PairedSample, *, level: float) -> Bounds:
    """Tango's interval of the difference, all counts divided by the design effect; [-1, 1] where that is infinite."""
    deff = sample.design_effect
    if math.isinf(deff):
        return Bounds(-1.0, 1.0)
    return tango_bounds(sample.only_first / deff, sample.only_second / deff, sample.n / deff, level=level)


def noninferiority(sample: PairedSample, margin: float, *, level: float) -> NonInferiority:
    """Whether the first model is shown to be no worse than the second by `margin` or more (0 < margin < 1).

    Decides on the lower end of Tango's interval with all counts divided by the design effect.
    """
    if not 0 < margin < 1:
        raise ValueError(f"A non-inferiority margin must be between 0 and 1, such as 0.02, not {margin}.")
    ends = difference_bounds(sample, level=level)
    return NonInferiority(sample.difference, ends, margin, level, ends.low > -margin, ends.high < -margin)


def _discordant(only_first: int, only_second: int) -> tuple[int, int]:
    if only_first < 0 or only_second < 0:
        raise ValueError("Discordant counts are not negative.")
    return min(only_first, only_second), only_first + only_second


def _edge(accepted: Callable[[float], bool], outside: float, inside: float) -> float:
    """The end of the accepted interval between an end of the scale and the estimate."""
    if accepted(outside):
        return outside
    for _ in range(80):
        middle = (outside + inside) / 2
        if accepted(middle):
            inside = middle
        else:
            outside = middle
    return inside
