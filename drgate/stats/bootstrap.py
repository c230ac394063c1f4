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
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from drgate.stats.confusion import CELLS, COLUMNS, GRADES, flatten
from drgate.stats.proportion import require_level

_CHUNK = 4_000_000
"""Multinomial counts held at once, 32 MB each as int64 and as float64."""

_DIGITS = 12
"""Cells that fit into one 64-bit key: 30 ** 12 < 2 ** 63."""


@dataclass(frozen=True, slots=True)
class BootstrapInterval:
    """A bootstrap interval and the replicates that could not be used."""

    low: float
    high: float
    undefined: int
    """Replicates in which the metric was undefined, left out."""


def seed_from(*digests: str) -> int:
    """The seed of an evaluation: the first 64 bits, big-endian, of the SHA-256 of its digests.

    Hashed are the digests' own UTF-8 text, such as "sha256:0f3a...", in the order given (predictions, then spec),
    joined by one line feed, nothing before the first or after the last.
    """
    return int.from_bytes(hashlib.sha256("\n".join(digests).encode()).digest()[:8], "big")


def patient_patterns(cells: ArrayLike, patients: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct patterns (P, 30) of patients and how many patients have each (P,).

    `cells` is each image's cell 0-29 and `patients` an integer code for its patient, both (images,). The patterns come
    in lexicographic order, so neither the order of the images nor the names of the patients matter.

    Raises ValueError for cells outside 0-29, codes that are not integers and arrays of different length.
    """
    cells, patients = np.asarray(cells), np.asarray(patients)
    if cells.shape != patients.shape or cells.ndim != 1:
        raise ValueError("Cells and patients must be flat arrays of one length.")
    if not (np.issubdtype(patients.dtype, np.integer) and np.issubdtype(cells.dtype, np.integer)):
        raise ValueError("Cells and patients must be integers.")
    if cells.size == 0:
        return np.zeros((0, CELLS), dtype=np.int64), np.zeros(0, dtype=np.int64)
    if cells.min() < 0 or cells.max() >= CELLS:
        raise ValueError("A cell is 0-29: reference grade * 6 + predicted column.")
    order = np.lexsort((cells, patients))
    ordered, owner = cells[order].astype(np.int64), patients[order]
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    sizes = np.diff(np.r_[starts, owner.size])
    found: list[NDArray[np.int64]] = []
    times: list[NDArray[np.int64]] = []
    for size in np.unique(sizes):
        # Patients of one size: their sorted cells, read as the digits of a few whole numbers, tell them apart.
        rows = ordered[starts[sizes == size][:, None] + np.arange(size)]
        keys = np.stack([_digits(rows[:, at : at + _DIGITS]) for at in range(0, int(size), _DIGITS)], axis=1)
        if keys.shape[1] == 1:
            _, first, count = np.unique(keys[:, 0], return_index=True, return_counts=True)
        else:
            _, first, count = np.unique(keys, axis=0, return_index=True, return_counts=True)
        distinct = rows[first]
        tables = np.bincount(
            (np.arange(len(distinct))[:, None] * CELLS + distinct).ravel(), minlength=len(distinct) * CELLS
        )
        found.append(tables.reshape(-1, CELLS))
        times.append(count)
    patterns, counts = np.concatenate(found), np.concatenate(times)
    canonical = np.lexsort(patterns.T[::-1])
    return patterns[canonical], counts[canonical]


def image_patterns(table: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The patterns of a table whose images are all of different patients: one image in one cell."""
    flat = flatten(table)
    occupied = np.flatnonzero(flat)
    return np.eye(CELLS, dtype=np.int64)[occupied], flat[occupied]


def worst_grade(patterns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The highest reference grade 0-4 of each pattern (P, 30): the stratum of its patients."""
    present = flatten(patterns).reshape(-1, GRADES, COLUMNS).sum(axis=2) > 0
    return np.asarray(np.where(present, np.arange(GRADES), 0).max(axis=1), dtype=np.int64)


def resample_images(table: ArrayLike, *, resamples: int, seed: int) -> NDArray[np.int64]:
    """Tables (resamples, 30) of as many images drawn with replacement from `table`, (5, 6) or (30,)."""
    return resample_patients(*image_patterns(table), resamples=resamples, seed=seed)


def resample_patients(
    patterns: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    resamples: int,
    seed: int,
    strata: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Tables (resamples, 30) of as many patients drawn with replacement, all images of a patient together.

    `patterns` and `counts` as `patient_patterns` returns them. With `strata`, one label a pattern such as
    `worst_grade`, every replicate keeps the number of patients in each stratum. The same arguments give the same tables
    on every machine under one NumPy version.

    Raises ValueError where there is no patient or no replicate to draw.
    """
    if resamples < 1 or counts.sum() < 1:
        raise ValueError("A bootstrap needs at least one patient and one replicate.")
    generator = np.random.Generator(np.random.PCG64(seed))
    labels = np.zeros(len(counts), dtype=np.int64) if strata is None else np.asarray(strata)
    tables = np.zeros((resamples, CELLS))
    for label in np.unique(labels):
        inside = labels == label
        some, weight = counts[inside], patterns[inside].astype(np.float64)
        total = int(some.sum())
        rows = max(1, _CHUNK // len(some))
        for start in range(0, resamples, rows):
            stop = min(resamples, start + rows)
            drawn = generator.multinomial(total, some / total, size=stop - start)
            # Whole numbers below 2^53: the product is exact in any order and on any number of threads.
            tables[start:stop] += drawn.astype(np.float64) @ weight
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
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return BootstrapInterval(float(low), float(high), undefined)


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

    None where it does not exist: no replicate is defined, all lie on one side of the estimate, or no patient changes
    it.

    References: Efron 1987, JASA 82:171.
    """
    require_level(level)
    kept, undefined = _kept(values, defined)
    weight = np.asarray(counts, dtype=np.float64)
    if kept.size == 0 or weight.sum() == 0:
        return None
    # Ties with the estimate are real on counts: half of them lie below it.
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
    low, high = np.quantile(kept, ndtr(bias + shifted / corrected))
    return BootstrapInterval(float(low), float(high), undefined)


def _kept(values: NDArray[np.float64], defined: NDArray[np.bool_] | None) -> tuple[NDArray[np.float64], int]:
    values = np.asarray(values, dtype=np.float64)
    kept = values if defined is None else values[defined]
    if not np.isfinite(kept).all():
        raise ValueError("Replicates that count must be finite; name the undefined ones in `defined`.")
    return kept, int(values.size - kept.size)


def _digits(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(rows @ CELLS ** np.arange(rows.shape[1], dtype=np.int64), dtype=np.int64)
