"""The area under the ROC curve, with an interval where patients are known and one where they are not.

>>> import numpy as np
>>> area = auc_delong(np.array([0.9, 0.8, 0.4, 0.6, 0.3, 0.1]), np.array([1, 1, 1, 0, 0, 0], dtype=bool), level=0.95)
>>> round(area.value, 4), area.method
(0.8889, 'delong or newcombe, whichever is wider')
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from drgate.stats.cluster import fewest_patients, unknown_inflation
from drgate.stats.proportion import Bounds, require_level


@dataclass(frozen=True, slots=True)
class Area:
    """An area under the ROC curve: the chance that a positive image scores above a negative one, ties counted half."""

    value: float
    """0 to 1."""
    se: float
    """Standard error on the plain scale, >= 0; inflated where the variance is."""
    low: float
    high: float
    level: float
    method: str
    positives: int
    """Images."""
    negatives: int
    """Images."""
    clusters: int | None
    """Patients; None where images are taken as independent."""


@dataclass(frozen=True, slots=True)
class AreaDifference:
    """First area minus second, on the same images."""

    value: float
    """-1 to 1."""
    se: float
    low: float
    high: float
    level: float


def auc_delong(scores: ArrayLike, positive: ArrayLike, *, level: float, images_a_patient: int = 1) -> Area | None:
    """Area and interval of images whose patients are unknown, in O(n log n).

    `scores` (n,) are finite, higher meaning more likely positive; `positive` (n,) bool. Each end is the wider one of
    DeLong's interval on the logit scale and Newcombe's score interval: DeLong's variance is itself an estimate, and
    with few images on one side its interval is too narrow. Where there is no such variance (all pairs in order, all
    scores equal, a single image on one side) Newcombe's is used alone, as `method` records: perfect order in a small
    sample does not prove perfection. `images_a_patient`: the most images of one patient, all taken to be alike; with
    one the images are independent.

    None without a positive or without a negative image. Raises ValueError for scores that are not finite and for arrays
    of different length.

    References: DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44:837; logit scale: Pepe 2003, The Statistical
    Evaluation of Medical Tests, section 5.2; Newcombe 2006, Statistics in Medicine 25:559 (method 5).
    """
    scores, positive = _checked(scores, positive)
    return _area(scores, positive, np.arange(scores.size), level, clustered=False, images_a_patient=images_a_patient)


def auc_clustered(scores: ArrayLike, positive: ArrayLike, patients: ArrayLike, *, level: float) -> Area | None:
    """Area and interval where images cluster in patients; `patients` (n,) holds an integer code for each image.

    As `auc_delong`, with Obuchowski's variance, which is DeLong's where every patient has one image. Newcombe's
    interval has the patients with a positive and those with a negative image as its sample sizes, fewer where some have
    many more images than others: n^2 / sum m^2 of n images, m of a patient. Obuchowski's variance alone passes up to
    5 % where one patient has four in ten of the images on a side (`python -m benchmarks gate-error --only auc`).

    References: Obuchowski 1997, Biometrics 53:567.
    """
    scores, positive = _checked(scores, positive)
    return _area(scores, positive, _codes(patients, scores.size), level, clustered=True)


def auc_difference(
    first: ArrayLike,
    second: ArrayLike,
    positive: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    level: float,
    images_a_patient: int = 1,
) -> AreaDifference | None:
    """Difference of two areas on the same images: paired DeLong, or its clustered form where `patients` are given.

    images_a_patient: as `auc_delong`, where they are not.

    None without a positive or a negative image, or with a single image (patient) on one side: no variance can be had.
    The interval is on the plain scale, clipped to [-1, 1]; two scores with the same order have se 0 and no width.

    References: as `auc_delong` and `auc_clustered`.
    """
    require_level(level)
    first, positive = _checked(first, positive)
    second, _ = _checked(second, positive)
    owner = np.arange(first.size) if patients is None else _codes(patients, first.size)
    if not positive.any() or positive.all():
        return None
    apart = _in_order(first, positive) - _in_order(second, positive)
    value = float(apart[positive].sum()) / _pairs(positive)
    variance = _variance(apart, positive, owner)
    fewest = min(int(positive.sum()), int((~positive).sum()))
    inflation = unknown_inflation(fewest, images_a_patient) if patients is None else 1.0
    if variance is None or math.isinf(inflation):
        return None
    se = math.sqrt(inflation * variance)
    half = float(ndtri((1 + level) / 2)) * se
    return AreaDifference(value, se, max(-1.0, value - half), min(1.0, value + half), level)


def _area(
    scores: NDArray[np.float64],
    positive: NDArray[np.bool_],
    owner: NDArray[np.int64],
    level: float,
    *,
    clustered: bool,
    images_a_patient: int = 1,
) -> Area | None:
    require_level(level)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    in_order = _in_order(scores, positive)
    value = float(in_order[positive].sum()) / _pairs(positive)
    variance = _variance(in_order, positive, owner)
    if variance is not None and not clustered:
        # All images on a side may be one patient's: no variance is known, and the largest of two patients is used.
        variance *= min(unknown_inflation(min(positives, negatives), images_a_patient), 2 * images_a_patient)
    se = 0.0 if variance is None else math.sqrt(variance)
    z = float(ndtri((1 + level) / 2))
    sides = [_equal_patients(owner[positive]), _equal_patients(owner[~positive])]
    if not clustered:
        sides = [float(fewest_patients(side, images_a_patient)) for side in (positives, negatives)]
    ends, method = _newcombe(value, sides[0], sides[1], z), "newcombe score"
    if se and 0 < value < 1:
        half = z * se / (value * (1 - value))
        logit = math.log(value / (1 - value))
        # The variance is an estimate: with few positive images it passes an area of .90 as more than that in 10 of 100
        # samples (10 positive, 300 negative), and the wider of the two intervals in none.
        ends = Bounds(min(ends.low, _expit(logit - half)), max(ends.high, _expit(logit + half)))
        method = "obuchowski" if clustered else "delong"
        method += " or newcombe, whichever is wider"
    clusters = _present(owner) if clustered else None
    return Area(value, se, ends.low, ends.high, level, method, positives, negatives, clusters)


def _present(owner: NDArray[np.int64]) -> int:
    return int(np.count_nonzero(np.bincount(owner)))


def _equal_patients(owner: NDArray[np.int64]) -> float:
    """Patients with equally many images who would be worth as much as these, if all images of each were alike.

    At least as many as there would be if all had the images of the largest.
    """
    sizes = np.bincount(owner)
    return max(owner.size**2 / float(sizes @ sizes), float(-(-owner.size // int(sizes.max()))))


def _in_order(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Of each image, twice the number of images of the other side that it is in order with, ties counting one."""
    # One sort and running counts: searching among a million unsorted scores costs several times as much.
    order = np.argsort(scores)
    ranked, side = scores[order], positive[order]
    first = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    tied = np.diff(np.r_[first, ranked.size])
    above = np.add.reduceat(side, first, dtype=np.int64)
    below = tied - above
    # Images of the other side under a group of equal scores count two, those in it one.
    under = np.where(side, np.repeat(2 * np.cumsum(below) - below, tied), np.repeat(2 * np.cumsum(above) - above, tied))
    twice = np.empty(scores.size, dtype=np.int64)
    twice[order] = np.where(side, under, 2 * int(above.sum()) - under)
    return twice


def _pairs(positive: NDArray[np.bool_]) -> int:
    """Twice the number of pairs of a positive and a negative image."""
    return 2 * int(positive.sum()) * int((~positive).sum())


def _variance(in_order: NDArray[np.int64], positive: NDArray[np.bool_], owner: NDArray[np.int64]) -> float | None:
    """Obuchowski's variance; None with one patient on a side, or where the estimate is negative.

    Sums within patients are of whole numbers and those over patients are correctly rounded, so that the order of the
    images and the names of the patients change no digit. An estimate of 0, rounding apart, is exactly 0.
    """
    codes, clusters = int(owner.max()) + 1, _present(owner)
    sides: list[tuple[NDArray[np.float64], int, int]] = []
    for side in (positive, ~positive):
        images = int(side.sum())
        sizes = np.bincount(owner[side], minlength=codes)
        patients = int((sizes > 0).sum())
        if patients < 2:
            return None
        sums = np.bincount(owner[side], weights=in_order[side], minlength=codes)
        centred = (sums - sizes * (float(in_order[side].sum()) / images)) / (2 * (in_order.size - images))
        sides.append((centred.astype(np.float64), patients, images))
    (up, up_patients, up_images), (down, down_patients, down_images) = sides
    variance = (
        up_patients / (up_patients - 1) * math.fsum(up * up) / up_images**2
        + down_patients / (down_patients - 1) * math.fsum(down * down) / down_images**2
        + 2 * clusters / (clusters - 1) * math.fsum(up * down) / (up_images * down_images)
    )
    if variance < -1e-15:
        return None
    return variance if variance > 1e-15 else 0.0


def _newcombe(value: float, positives: float, negatives: float, z: float) -> Bounds:
    """Score interval of an area: the areas whose own standard error, at this sample size, reaches as far as `value`."""
    extra = (positives + negatives) / 2 - 1

    def excess(area: float) -> float:
        spread = area * (1 - area) * (1 + extra * ((1 - area) / (2 - area) + area / (1 + area)))
        return abs(area - value) - z * math.sqrt(spread / (positives * negatives))

    return Bounds(
        0.0 if value == 0 else _crossing(excess, 0.0, value), 1.0 if value == 1 else _crossing(excess, 1.0, value)
    )


def _crossing(excess: Callable[[float], float], outside: float, inside: float) -> float:
    for _ in range(100):
        middle = (outside + inside) / 2
        if excess(middle) > 0:
            outside = middle
        else:
            inside = middle
    return (outside + inside) / 2


def _expit(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def _checked(scores: ArrayLike, positive: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    scores, positive = np.asarray(scores, dtype=np.float64), np.asarray(positive)
    if scores.shape != positive.shape or scores.ndim != 1:
        raise ValueError("Scores and labels must be flat arrays of one length.")
    if positive.dtype != np.bool_:
        raise ValueError("The labels must be True for a positive image and False for a negative one.")
    if not np.isfinite(scores).all():
        raise ValueError("Scores must be finite.")
    return scores, positive


def _codes(patients: ArrayLike, images: int) -> NDArray[np.int64]:
    """Patients as codes from 0; there may be gaps."""
    patients = np.asarray(patients)
    if patients.shape != (images,):
        raise ValueError("Every image needs the code of its patient.")
    if images and np.issubdtype(patients.dtype, np.integer) and patients.min() >= 0 and patients.max() < 2 * images:
        return patients.astype(np.int64, copy=False)
    return np.asarray(np.unique(patients, return_inverse=True)[1], dtype=np.int64)
