"""The bootstrap of images or of patients, on counts.

The table of cells is all that a decision metric needs, so drawing n images with replacement is one multinomial draw
over the cells, and drawing c patients is one over the distinct patterns of patients (a pattern is one patient's count
in each cell). Both have exactly the distribution of the ordinary and of the cluster bootstrap, at a cost that hardly
grows with the number of images.

>>> import numpy as np
>>> patterns, counts = patient_patterns(np.array([0, 0, 28, 0]), np.array([7, 7, 3, 5]))
>>> tables = resample_patients(patterns, counts, resamples=1000, seed=seed_from("sha256:aa", "sha256:bb"))
>>> tables.shape, counts.tolist()
((1000, 30), [1, 1, 1])

References: Efron & Tibshirani 1993, An Introduction to the Bootstrap; clusters: Davison & Hinkley 1997, section 3.8.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from drgate.stats.confusion import CELLS, COLUMNS, GRADES, flatten
from drgate.stats.proportion import require_level

_CHUNK = 200_000
"""Counts of patterns held at once, 1.6 MB each as int64 and as float64, within a processor's cache."""

_RARE = 12
"""Patients of a pattern up to which drawing them one by one is faster than one binomial draw."""


@dataclass(frozen=True, slots=True)
class BootstrapInterval:
    """A bootstrap interval and the replicates that could not be used."""

    low: float
    high: float
    undefined: int
    """Replicates in which the metric was undefined, left out."""


def seed_from(*digests: str) -> int:
    """The seed of an evaluation: the first 64 bits, big-endian, of the SHA-256 of its digests.

    Hashed are the digests' own UTF-8 text, such as "sha256:0f3a...", in the order given (what is counted, then the
    checklist), joined by one line feed, nothing before the first or after the last.
    """
    return int.from_bytes(hashlib.sha256("\n".join(digests).encode()).digest()[:8], "big")


def counted_digest(counted: Mapping[str, ArrayLike]) -> str:
    """`sha256:...` over named arrays of integers, in the order given: for each the name, the length and 64-bit values.

    Of distinct patients and how many there are of each it depends on no name, no order of rows and no other column.
    """
    found = hashlib.sha256()
    for name, values in counted.items():
        content = np.asarray(values).astype("<i8")
        found.update(f"{name}\n{content.size}\n".encode() + content.tobytes())
    return f"sha256:{found.hexdigest()}"


@dataclass(frozen=True, slots=True, eq=False)
class Distinct:
    """Distinct patients: those whose images have the same codes, taken together."""

    codes: NDArray[np.int64]
    """Code of each image (M,), ascending within a patient."""
    patients: NDArray[np.int64]
    """Whose image it is (M,), 0 to D - 1, ascending."""
    times: NDArray[np.int64]
    """How many real patients each of the D represents."""


def distinct_patients(codes: ArrayLike, patients: ArrayLike, kinds: int, times: ArrayLike | None = None) -> Distinct:
    """The distinct patients of a sample, a patient being the multiset of the codes of the images.

    `codes` holds 0 to kinds - 1 for each image (its cell, or a joint code of cell and slices) and `patients` integer
    codes of their patients, both (images,). With `times` the patients are themselves distinct ones: codes
    0 to c - 1, of which `times[i]` real patients are like patient i; those without an image here drop out. So a slice
    is taken of the few distinct patients, not of the images:

    >>> all_images = distinct_patients([0, 59, 0, 59, 1], [7, 7, 3, 3, 5], kinds=60)
    >>> all_images.codes.tolist(), all_images.patients.tolist(), all_images.times.tolist()
    ([1, 0, 59], [0, 1, 1], [1, 2])
    >>> second = all_images.codes >= 30
    >>> cells, whose = all_images.codes[second] - 30, all_images.patients[second]
    >>> patterns, counts = patient_patterns(cells, whose, all_images.times)
    >>> np.flatnonzero(patterns[0]).tolist(), counts.tolist()
    ([29], [2])

    The order, by number of images and then by codes, is that of no row and no name. Raises ValueError for codes outside
    their range, for what is not an integer and for arrays of different length.
    """
    codes, patients = np.asarray(codes), np.asarray(patients)
    if codes.shape != patients.shape or codes.ndim != 1:
        raise ValueError("Codes and patients must be flat arrays of one length.")
    if codes.size == 0:
        none = np.zeros(0, dtype=np.int64)
        return Distinct(none, none, none)
    if not (np.issubdtype(patients.dtype, np.integer) and np.issubdtype(codes.dtype, np.integer)):
        raise ValueError("Codes and patients must be integers.")
    if codes.min() < 0 or codes.max() >= kinds:
        raise ValueError(f"Codes are 0 to {kinds - 1}.")
    if times is None:
        patients = np.unique(patients, return_inverse=True)[1]
        weights = np.ones(int(patients.max()) + 1, dtype=np.int64)
    else:
        weights = np.asarray(times, dtype=np.int64)
        if weights.ndim != 1 or patients.min() < 0 or patients.max() >= weights.size:
            raise ValueError("With `times`, patients are positions in it.")
    owner, ordered = np.divmod(np.sort(patients.astype(np.int64) * kinds + codes), kinds)
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    sizes, weights = np.diff(np.r_[starts, owner.size]), weights[owner[starts]]
    # So many codes fit, as digits, into one 64-bit number.
    digits = max(1, int(63 / math.log2(max(kinds, 2))))
    found: list[NDArray[np.int64]] = []
    counts: list[NDArray[np.int64]] = []
    widths = np.unique(sizes)
    for size in widths.tolist():
        alike = sizes == size
        rows = ordered[starts[alike][:, None] + np.arange(size)]
        keys = [
            rows[:, at : at + digits] @ kinds ** np.arange(min(digits, size - at), dtype=np.int64)[::-1]
            for at in range(0, size, digits)
        ]
        order = np.lexsort(keys[::-1])
        new = np.r_[True, np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)]
        found.append(rows[order[new]])
        counts.append(np.add.reduceat(weights[alike][order], np.flatnonzero(new)))
    each = np.repeat(widths, [len(rows) for rows in found])
    return Distinct(
        np.concatenate([rows.ravel() for rows in found]),
        np.repeat(np.arange(each.size), each),
        np.concatenate(counts),
    )


def patient_patterns(
    cells: ArrayLike, patients: ArrayLike, times: ArrayLike | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct patterns (P, 30) of patients and how many patients have each (P,).

    `cells` is each image's cell 0-29; `patients`, `times`, the order and what is refused are those of
    `distinct_patients`.
    """
    distinct = distinct_patients(cells, patients, CELLS, times)
    flat = np.bincount(distinct.patients * CELLS + distinct.codes, minlength=distinct.times.size * CELLS)
    return flat.reshape(-1, CELLS).astype(np.int64, copy=False), distinct.times


def image_patterns(table: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The patterns of a table whose images are all of different patients: one image in one cell."""
    flat = flatten(table)
    occupied = np.flatnonzero(flat)
    return np.eye(CELLS, dtype=np.int64)[occupied], flat[occupied]


def worst_grade(patterns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The highest reference grade 0-4 of each pattern (P, 30): the stratum of its patients."""
    present = flatten(patterns).reshape(-1, GRADES, COLUMNS).sum(axis=2) > 0
    return np.asarray(np.where(present, np.arange(GRADES), 0).max(axis=1), dtype=np.int64)


def resample_patients(
    patterns: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    resamples: int,
    seed: int,
    strata: NDArray[np.int64] | None = None,
    inflation: float = 1.0,
) -> NDArray[np.int64]:
    """Tables (resamples, cells) of as many patients drawn with replacement, all images of a patient together.

    `patterns` (P, cells) and `counts` (P,) as `patient_patterns` returns them; the table may have other cells, such as
    those of two models side by side. With `strata`, one label a pattern such as `worst_grade`, every replicate keeps
    the number of patients in each stratum. `inflation` divides the number drawn (of each stratum, never below one) and
    so multiplies variances: where patients are unknown, by the images that one may have. The same arguments give the
    same tables on every machine under one NumPy version.

    Raises ValueError where there is no patient or no replicate to draw, and for an inflation below 1.
    """
    if resamples < 1 or counts.sum() < 1:
        raise ValueError("A bootstrap needs at least one patient and one replicate.")
    if not 1 <= inflation < math.inf:
        raise ValueError(f"Variances are inflated by a factor of at least 1, not {inflation}.")
    # Two streams, so that a replicate is the same however many are drawn at once.
    source = np.random.PCG64(seed)
    often, seldom = np.random.Generator(source), np.random.Generator(source.jumped())
    labels = np.zeros(len(counts), dtype=np.int64) if strata is None else np.asarray(strata)
    tables = np.zeros((resamples, patterns.shape[1]))
    for label in np.unique(labels):
        inside = labels == label
        common, rare = inside & (counts > _RARE), inside & (counts <= _RARE)
        heads, crowd = counts[common], np.repeat(np.arange(int(rare.sum())), counts[rare])
        total = int(heads.sum()) + crowd.size
        # A multinomial costs a binomial for each pattern. Rare patterns are one category, and drawn one by one: of the
        # k patients who fall into it, each is any of its patients.
        shares = np.r_[heads, crowd.size] / total
        weights = patterns[common].astype(np.float64), patterns[rare].astype(np.float64)
        rows = max(1, _CHUNK // (shares.size + len(weights[1])))
        for start in range(0, resamples, rows):
            stop = min(resamples, start + rows)
            drawn = often.multinomial(max(1, round(total / inflation)), shares, size=stop - start)
            # Whole numbers below 2^53: the products are exact in any order and on any number of threads.
            tables[start:stop] += drawn[:, :-1].astype(np.float64) @ weights[0]
            if crowd.size:
                who = crowd[seldom.integers(crowd.size, size=int(drawn[:, -1].sum()))]
                who += np.repeat(np.arange(stop - start) * len(weights[1]), drawn[:, -1])
                single = np.bincount(who, minlength=(stop - start) * len(weights[1]))
                tables[start:stop] += single.reshape(stop - start, -1).astype(np.float64) @ weights[1]
    return tables.astype(np.int64)


def leave_one_out(patterns: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tables (P, 30) of the whole sample without one patient of each pattern: the jackknife of `bca_interval`."""
    return np.asarray(counts @ patterns - patterns, dtype=np.int64)


def percentile_interval(
    values: NDArray[np.float64], level: float, defined: NDArray[np.bool_] | None = None
) -> BootstrapInterval | None:
    """The central `level` of the replicates `values` (B,).

    Replicates that are not `defined` are left out and counted; None where none is left. Never the gate of a
    proportion: with every case right it is [1, 1].
    """
    require_level(level)
    kept, undefined = _kept(values, defined)
    if kept.size == 0:
        return None
    low, high = _quantiles(kept, np.array([(1 - level) / 2, (1 + level) / 2]))
    return BootstrapInterval(low, high, undefined)


def bca_interval(
    values: NDArray[np.float64],
    level: float,
    *,
    estimate: float,
    jackknife: NDArray[np.float64],
    counts: NDArray[np.int64],
    defined: NDArray[np.bool_] | None = None,
) -> BootstrapInterval | None:
    """The bias-corrected and accelerated interval.

    `values` (B,) are the replicates, `estimate` the metric of the sample, `jackknife` (P,) the metric of each
    `leave_one_out` table and `counts` (P,) the patients of that pattern. Leave out of `jackknife` and `counts` the
    patterns without which the metric is undefined.

    None where it does not exist: no replicate is defined, all are on one side of the estimate, or no patient changes
    it.

    References: Efron 1987, JASA 82:171.
    """
    require_level(level)
    kept, undefined = _kept(values, defined)
    weight = np.asarray(counts, dtype=np.float64)
    if kept.size == 0 or weight.sum() == 0:
        return None
    # Ties with the estimate are real on counts: half of them count as below it.
    position = (np.mean(kept < estimate) + np.mean(kept <= estimate)) / 2
    spread = np.average(jackknife, weights=weight) - jackknife
    squares = float(weight @ spread**2)
    if not 0 < position < 1 or squares <= 1e-30:
        return None
    acceleration = float(weight @ spread**3) / (6 * squares**1.5)
    bias = float(ndtri(position))
    shifted = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    corrected = 1 - acceleration * shifted
    if (corrected <= 0).any():
        return None
    low, high = _quantiles(kept, ndtr(bias + shifted / corrected))
    return BootstrapInterval(low, high, undefined)


def _kept(values: NDArray[np.float64], defined: NDArray[np.bool_] | None) -> tuple[NDArray[np.float64], int]:
    values = np.asarray(values, dtype=np.float64)
    kept = values if defined is None or defined.all() else values[defined]
    if not np.isfinite(kept).all():
        raise ValueError("Replicates that count must be finite; name the undefined ones in `defined`.")
    return kept, int(values.size - kept.size)


def _quantiles(values: NDArray[np.float64], shares: NDArray[np.float64]) -> list[float]:
    """Quantiles by linear interpolation, NumPy's default, which costs three times as much as the selection itself."""
    at = shares * (values.size - 1)
    below = at.astype(np.int64)
    above = np.minimum(below + 1, values.size - 1)
    ordered = np.partition(values, np.concatenate((below, above)))
    ends: list[float] = (ordered[below] + (ordered[above] - ordered[below]) * (at - below)).tolist()
    return ends
