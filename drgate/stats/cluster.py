"""The effective sample size of a proportion where patients have several images.

The design effect is estimated from the patients and shrunk towards complete correlation while errors are few, so that a
test set without errors never counts as one of independent images.

>>> import numpy as np
>>> pairs = effective_sample(np.full(73, 2), np.full(73, 2), level=0.95)
>>> pairs.clusters, pairs.design_effect, round(bounds(pairs, level=0.95, interval="clopper-pearson").low, 4)
(73, 2.0, 0.9499)

References: Rao & Scott 1992, Biometrics 48:577; Korn & Graubard 1998, Survey Methodology 24:193; Genders et al. 2012,
Radiology 265:910, doi 10.1148/radiol.12120509; Ying et al. 2020, PMC7500131.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from drgate.stats.proportion import Bounds, Interval, exact_bounds, require_level, wilson_bounds

SHRINKAGE = 10
"""Patients with an error at which the estimated and the complete-correlation design effect weigh the same; more where
patients have more than two or three images."""

SHRINKAGE_PER_IMAGE = 7
"""The same for each image by which complete correlation exceeds 1, where that is more than `SHRINKAGE`."""

LEVERAGE = 10
"""Least variance of the number of errors, over the square of those that the largest patient has at the common rate."""


@dataclass(frozen=True, slots=True)
class EffectiveSample:
    """A proportion k / n and the number of independent images that carry as much information."""

    k: int
    """Successes, in images."""
    n: int
    """Images in the denominator, > 0."""
    clusters: int | None
    """Patients with an image in the denominator; None where patients are unknown."""
    design_effect: float
    """Variance of the proportion over that of independent images, >= 1."""
    effective_n: float
    """0 to n; n / design_effect with a small-sample correction. 0 only where all images are of one patient: then
    nothing is known of the variation between patients, and the interval is [0, 1]."""


def effective_sample(
    successes: NDArray[np.integer],
    sizes: NDArray[np.integer],
    *,
    level: float,
    counts: NDArray[np.integer] | None = None,
    adverse: bool = False,
) -> EffectiveSample:
    """Effective sample of a proportion whose images cluster in patients.

    `successes` x_i and `sizes` m_i have one entry a patient, 0 <= x_i <= m_i, in any order; patients of size 0 do not
    count. With `counts` each entry stands for that many equal patients. `level` is the two-sided level of the interval
    that will be built (the t ratio depends on it). Where the counted event is the bad one, as in a rate that must stay
    below a limit, set `adverse`: few errors then means few events, and the shrinkage guards the upper bound.

    With one image a patient the result is the plain sample, digit for digit. One error more never raises the lower
    bound, at any sizes: searched, not proved (docs/statistics.md).

    Raises ValueError for no image at all, for a count outside its range and for arrays of different shape.
    """
    require_level(level)
    x, m = np.asarray(successes, dtype=np.int64), np.asarray(sizes, dtype=np.int64)
    times = np.ones_like(m) if counts is None else np.asarray(counts, dtype=np.int64)
    if not x.shape == m.shape == times.shape or x.ndim != 1:
        raise ValueError("Successes, sizes and counts must be flat arrays with one entry a patient.")
    if (x < 0).any() or (x > m).any() or (times < 0).any():
        raise ValueError("Every patient needs 0 <= successes <= size, and counts that are not negative.")
    times = np.where(m > 0, times, 0)
    if not times.any():
        raise ValueError("A proportion without any image has no effective sample.")
    # Sums of integers are exact, so neither the order of the patients nor their grouping changes a digit.
    errors = x if adverse else m - x
    n, wrong = int(times @ m), int(times @ errors)
    clusters = int(times.sum())
    design, effective = effective_n(
        clusters=clusters,
        sizes=n,
        errors=wrong,
        with_error=int(times @ (errors > 0)),
        errors_squared=int(times @ errors**2),
        errors_by_size=int(times @ (errors * m)),
        sizes_squared=int(times @ m**2),
        largest=int(m[times > 0].max()),
        level=level,
    )
    return EffectiveSample(wrong if adverse else n - wrong, n, clusters, float(design), float(effective))


def unknown_clusters(k: int, n: int, *, images_a_patient: int | None, level: float) -> EffectiveSample:
    """Effective sample where patients are unknown and each is declared to have so many images at most.

    Every patient is taken to have that many, all alike, so that deleting the patient column never helps where the
    declaration is true: n / `unknown_inflation`, times the t ratio of `effective_sample` at the fewest patients there
    can be. With one image a patient that is the plain sample. 100 images of 50 patients, no error, have the bound .9271
    with the column and .9264 without. Where all images may be of one patient, or nothing is declared (None), the
    effective sample is 0.
    """
    require_level(level)
    if not 0 <= k <= n or n <= 0:
        raise ValueError(f"A proportion needs 0 <= k <= n and n > 0, not {k} of {n}.")
    design = unknown_inflation(n, images_a_patient)
    if not np.isfinite(design) or images_a_patient is None:
        return EffectiveSample(k, n, None, np.inf, 0.0)
    ratio = _t_ratio(n, fewest_patients(n, images_a_patient), level)
    return EffectiveSample(k, n, None, float(images_a_patient), float(n / design * ratio))


def fewest_patients(images: int, images_a_patient: int) -> int:
    """The fewest patients of so many images, for small-sample corrections."""
    return -(-images // images_a_patient)


def unknown_inflation(images: int, images_a_patient: int | None) -> float:
    """By how much the variance of so many independent images grows where one patient may have up to N of them.

    N c / (c - 1) (n - 1) / n with c the fewest patients there can be: the largest design effect that an estimate from
    patients of at most N images can take. 1 for N = 1; infinite where all images may be of one patient, or None.
    """
    if images_a_patient == 1:
        return 1.0
    fewest = 0 if images_a_patient is None else fewest_patients(images, images_a_patient)
    if images_a_patient is None or fewest < 2:
        return np.inf
    return images_a_patient * fewest / (fewest - 1) * (images - 1) / images


def bounds(sample: EffectiveSample, *, level: float, interval: Interval) -> Bounds:
    """Interval of k / n at the effective sample size; [0, 1] where that is 0 (all images of one patient).

    With `adverse` samples `k` is the number of bad events, and `high` is the end that decides.
    """
    if interval not in ("clopper-pearson", "wilson"):
        raise ValueError(f"The interval is 'clopper-pearson' or 'wilson', not {interval!r}.")
    require_level(level)
    n = sample.effective_n
    if n == 0:
        return Bounds(0.0, 1.0)
    k = n if sample.k == sample.n else min(n, sample.k * (n / sample.n))
    return (exact_bounds if interval == "clopper-pearson" else wilson_bounds)(k, n, level=level)


def clustered_design_effect(
    *,
    clusters: ArrayLike,
    sizes: ArrayLike,
    estimated: ArrayLike,
    with_error: ArrayLike,
    sizes_squared: ArrayLike,
    largest: ArrayLike,
) -> NDArray[np.float64]:
    """The estimated design effect, shrunk towards complete correlation while few patients have an error.

    `sizes` and `sizes_squared` are the sums of m_i and m_i^2, `largest` the greatest m_i, `estimated` the variance
    ratio d, `with_error` the patients e with an error; all broadcast. With s the complete-correlation design effect
    (the mean size where no patient has more than two images, else sum m_i^2 / sum m_i) and w = max(10, 7 (s - 1)),
    the result is (e d + w s) / (e + w), at least 1, and at least sum m_i^2 / sum m_i where one patient has more than
    four times the mean.
    """
    c, n, squares = np.asarray(clusters), np.asarray(sizes), np.asarray(sizes_squared)
    top = np.asarray(largest)
    complete = np.where(top <= 2, n / c, squares / n)
    e = np.asarray(with_error)
    # With a weight that does not grow, the first errors would take more from the design effect than from the estimate.
    weight = np.maximum(SHRINKAGE, SHRINKAGE_PER_IMAGE * (complete - 1))
    shrunk = np.maximum(1.0, (e * np.asarray(estimated) + weight * complete) / (e + weight))
    # One patient with a hundred images adds little to the estimate and can distort it.
    floor = np.where(top > 4 * n / c, squares / n, 1.0)
    return np.asarray(np.maximum(shrunk, floor), dtype=np.float64)


def effective_n(
    *,
    clusters: ArrayLike,
    sizes: ArrayLike,
    errors: ArrayLike,
    with_error: ArrayLike,
    errors_squared: ArrayLike,
    errors_by_size: ArrayLike,
    sizes_squared: ArrayLike,
    largest: ArrayLike,
    level: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Design effect and effective n from sums over patients (errors y_i = m_i - x_i), broadcast over replicates.

    With M > 2 images of the largest patient, the design effect is at least 10 M^2 q / (n (1 - q)) with
    q = sum y_i / n, up to the largest possible, about M. This matters only where few patients have many images,
    or where most images are wrong. With up to two images a patient nothing is added to the published rule.
    """
    c, n, wrong = (np.asarray(a, dtype=np.float64) for a in (clusters, sizes, errors))
    q = wrong / n
    squares = np.asarray(errors_squared, dtype=np.float64)
    residual = squares - 2 * q * np.asarray(errors_by_size) + q * q * np.asarray(sizes_squared)
    plain = (wrong == 0) | (wrong == n) | (c == n)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = c / (c - 1) * residual / n**2
        estimated = np.where(plain, 1.0, variance / (q * (1 - q) / (n - 1)))
    # A single patient: no variance between patients can be estimated; its t ratio of 0 decides alone.
    estimated = np.where(np.isfinite(estimated), estimated, 1.0)
    design = clustered_design_effect(
        clusters=c,
        sizes=n,
        estimated=estimated,
        with_error=with_error,
        sizes_squared=sizes_squared,
        largest=largest,
    )
    # A large patient without an error among patients who have many is an outlier: its first error takes more from the
    # variance than from the estimate, unless the variance is at least what such a patient makes it.
    top = np.asarray(largest, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        most = np.where(c == n, 1.0, np.where(c == 1, top, top * c * (n - 1) / ((c - 1) * n)))
        leverage = np.where((wrong == 0) | (top <= 2), 0.0, LEVERAGE * top**2 * wrong / (n * (n - wrong)))
    design = np.maximum(design, np.minimum(most, leverage))
    return design, n / design * _t_ratio(n, c, level)


def _t_ratio(images: ArrayLike, clusters: ArrayLike, level: float) -> NDArray[np.float64]:
    """(t(n - 1) / t(c - 1))^2 at the two-sided level: 1 where c = n, 0 where c = 1 < n."""
    n, c = np.asarray(images, dtype=np.float64), np.asarray(clusters, dtype=np.float64)
    p = (1 + level) / 2
    ratio = stdtrit(np.maximum(n - 1, 1), p) / stdtrit(np.maximum(c - 1, 1), p)
    return np.asarray(np.where(c == n, 1.0, np.where(c == 1, 0.0, ratio**2)))
