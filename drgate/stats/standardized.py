"""A proportion at another mix of grades: what accuracy, specificity or PPV would be where the model is to work.

A test set is enriched; a screening programme is not. With the shares w_g of the five grades where the model is to work
and, among the test set's images of grade g, the shares a_g of successes and b_g of counted images, the quantity is
theta = sum w_g a_g / sum w_g b_g. For accuracy, specificity and sensitivity it is a weighted mean of the grades' own
proportions, for PPV and NPV a ratio of two.

>>> import numpy as np
>>> from drgate.stats.bootstrap import image_patterns
>>> from drgate.stats.confusion import accuracy, tabulate
>>> table = tabulate(np.repeat([0, 1, 2, 3, 4], 100), np.repeat([0, 1, 2, 3, 3], 100))  # every PDR is graded severe
>>> found = estimate(accuracy("excluded"), *image_patterns(table), mix=(0.80, 0.10, 0.08, 0.01, 0.01), level=0.95)
>>> round(found.value, 4), round(found.low, 4)
(0.99, 0.956)

References: direct standardisation with an interval that stays honest where one grade weighs much and shows few errors:
Fay & Feuer 1997, Statistics in Medicine 16:791; Korn & Graubard 1998, Survey Methodology 24:193.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from drgate.scale import TITLES
from drgate.stats.calibration import Undefined
from drgate.stats.cluster import clustered_design_effect, effective_sample, unknown_clusters
from drgate.stats.confusion import CELLS, COLUMNS, GRADES, NO_OUTPUT, Cells, NoOutput, Ratio, flatten, share
from drgate.stats.proportion import Interval, exact_bounds, require_level, wilson_bounds

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Standardized:
    """A proportion at a stated mix of grades, with the interval that gates."""

    value: float
    """0 to 1."""
    low: float
    high: float
    effective_n: float
    """Independent images, drawn at the stated mix, with the same information about the bound that decides (the lower
    one; the upper one of an adverse rate)."""
    clusters: int | None
    """Patients with a counted image; None where patients are unknown."""


def estimate(
    ratio: Ratio,
    patterns: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    mix: Sequence[float],
    level: float,
    interval: Interval = "clopper-pearson",
    no_output: NoOutput = "excluded",
    images_a_patient: int = 1,
) -> Standardized | Undefined:
    """The ratio at the mix of grades, with an interval at its effective sample size.

    `patterns` (P, 30) and `counts` (P,) are those of `bootstrap.patient_patterns`, or of `bootstrap.image_patterns`
    where patients are unknown: then one has up to `images_a_patient` images, all alike, as in
    `cluster.unknown_clusters`. `mix` holds five weights that sum to 1. `no_output` is the policy that `ratio` was
    built with: where it is `excluded`, images without output are no images of their grade. Weights of grades that
    cannot count (those outside a sensitivity's group) play no part, the others are scaled to sum to 1.

    The interval is exact (or Wilson's) at n* = theta (1 - theta) / Var theta, with three rules for what the variance
    cannot see. A grade without an error contributes no variance however much it weighs: n* is that of the sample with
    one more error in the grade where an image weighs most, and the error that Clopper-Pearson always allows for is one
    of that weight. n* is at most what errors equally frequent in all grades would give. And the design effect is
    that of `cluster.effective_sample` on weighted images, shrunk towards complete correlation unless errors of the
    weightiest kind are many. At the test set's own mix and one image a patient it is the plain interval.

    Undefined, with the reason, where a grade that has weight has no image, or no image counts. Raises ValueError for a
    mix that is not five shares that sum to 1 (within 1e-6) and for a level outside (0, 1).
    """
    require_level(level)
    if interval not in ("clopper-pearson", "wilson"):
        raise ValueError(f"The interval is 'clopper-pearson' or 'wilson', not {interval!r}.")
    shares, base = _checked_mix(mix), _population(ratio, no_output)
    grades = ratio.counted.any(axis=1) & (shares > 0)
    if not grades.any():
        return Undefined("the deployment mix has none of the grades that count here")
    fails = ratio.counted & ~ratio.success
    stacked = flatten(patterns).reshape(-1, GRADES, COLUMNS)[:, grades].astype(np.float64)
    failed, succeeded, images = ((stacked * mask[grades]).sum(axis=2) for mask in (fails, ratio.success, base))
    times = np.asarray(counts, dtype=np.float64)
    absent = np.flatnonzero(grades)[times @ images == 0]
    if absent.size:
        grade = int(absent[0])
        name, share = TITLES[grade], f"{100 * shares[grade]:.3g} %"
        return Undefined(f"{name} is {share} of the deployment mix, and no image with it counts here")
    if not (times @ (failed + succeeded)).any():
        return Undefined("no image counts here")
    certain = (ratio.counted == base)[grades].all(axis=1)
    failure, success = (
        _Side(shares[grades], times @ images, times @ events, times @ others, possible, certain)
        for events, others, possible in (
            (failed, succeeded, np.any(fails[grades], axis=1)),
            (succeeded, failed, np.any(ratio.success[grades], axis=1)),
        )
    )
    errors, deciding = (succeeded, success) if ratio.adverse else (failed, failure)
    if images_a_patient > 1:
        about = max(1, round(deciding.equal_n))
        # The images of one cell, taken N by N: patients whose images are identical.
        rest = times % images_a_patient
        wrong, counted, seen = (
            np.concatenate([images_a_patient * part, rest[:, None] * part])
            for part in (errors, failed + succeeded, images)
        )
        alike = np.concatenate([times // images_a_patient, rest > 0])
        clusters, worth = None, _worth(deciding, wrong, counted, seen, alike, level)[1]
        possible = unknown_clusters(0, about, images_a_patient=images_a_patient, level=level)
        worth = min(worth, possible.effective_n / about)
    else:
        clusters, worth = _worth(deciding, errors, failed + succeeded, images, times, level)
    within = exact_bounds if interval == "clopper-pearson" else wilson_bounds
    low, high = 0.0, 1.0
    if worth > 0:
        n = worth * failure.independent_n
        low = within(n - failure.allowed(n), n, level=level).low
        n = worth * success.independent_n
        high = within(success.allowed(n), n, level=level).high
    value = success.rate
    return Standardized(value, min(low, value), max(high, value), worth * deciding.independent_n, clusters)


def values(
    ratio: Ratio, tables: ArrayLike, *, mix: Sequence[float], no_output: NoOutput = "excluded"
) -> tuple[Floats, NDArray[np.bool_]]:
    """theta of every table, (..., 5, 6) or (..., 30), and where it is defined (the value is 0 elsewhere).

    For bootstrap replicates: undefined where a replicate lost a grade that has weight. Arguments as `estimate`.
    """
    shares, base = _checked_mix(mix), _population(ratio, no_output)
    grades = np.flatnonzero(ratio.counted.any(axis=1) & (shares > 0))
    # One product gives every grade's three sums.
    masks = np.zeros((3, grades.size, GRADES, COLUMNS))
    for row, grade in enumerate(grades):
        for part, mask in enumerate((ratio.success, ratio.counted, base)):
            masks[part, row, grade] = mask[grade]
    flat = flatten(tables).astype(np.float64)
    sums = (flat @ masks.reshape(-1, CELLS).T).reshape(*flat.shape[:-1], 3, grades.size)
    present = (sums[..., 2, :] > 0).all(axis=-1)
    weights = shares[grades] / np.where(sums[..., 2, :] > 0, sums[..., 2, :], 1)
    theta, counted = share((weights * sums[..., 0, :]).sum(axis=-1), (weights * sums[..., 1, :]).sum(axis=-1))
    defined = present & counted
    return np.where(defined, theta, 0.0), defined


@dataclass(frozen=True, slots=True)
class _Side:
    """An end of the interval: the greatest rate of these events that the sample allows. Arrays (G,), grade by grade."""

    shares: Floats
    """Weight in the mix."""
    images: Floats
    events: Floats
    others: Floats
    """Counted images that are no event."""
    possible: NDArray[np.bool_]
    """An image of this grade can be an event."""
    certain: NDArray[np.bool_]
    """Every image of this grade counts."""

    @property
    def weights(self) -> Floats:
        """What one counted image is of the denominator."""
        each = self.shares / self.images
        return np.asarray(each / float(each @ (self.events + self.others)))

    @property
    def rate(self) -> float:
        return _quotient(float(self.weights @ self.events), float(self.weights @ self.others))

    @property
    def equal_n(self) -> float:
        """Images worth where the event is equally frequent in every grade (Kish)."""
        return float(1 / (self.weights**2 @ (self.events + self.others)))

    @property
    def heaviest(self) -> float:
        """Weight of one image of the grade in which an event would weigh most."""
        return float(np.where(self.possible, self.weights, 0.0).max())

    @property
    def independent_n(self) -> float:
        """Images worth if none shared a patient, allowing for one event more where it weighs most."""
        more = np.arange(self.images.size) == int(np.argmax(np.where(self.possible, self.weights, -1.0)))
        # A grade that can only enter the denominator (a correctly predicted image, for PPV) is thinned by one.
        grown = self.images + (more | ~(self.possible | self.certain))
        events, others = (self.events + more) / grown, self.others / grown
        part = self.shares / float(self.shares @ (events + others))
        rate = _quotient(float(part @ events), float(part @ others))
        spread = events * (1 - rate) ** 2 + others * rate**2 - (events - rate * (events + others)) ** 2
        variance = float(part**2 @ (spread / self.images))
        return min(self.equal_n, rate * (1 - rate) / variance) if variance > 0 else self.equal_n

    def allowed(self, n: float) -> float:
        """Events of n, of which an exact bound allows for one more: one that weighs most."""
        return min(n, self.rate * n + max(0.0, self.heaviest * self.independent_n - 1))


def _worth(
    side: _Side, errors: Floats, counted: Floats, images: Floats, times: Floats, level: float
) -> tuple[int, float]:
    """Patients with a counted image, and the worth of an image relative to one of another patient.

    `errors`, `counted` and `images` hold what each pattern has in each grade; the rule is `cluster.effective_sample`'s.
    """
    weights = side.weights
    some = counted.sum(axis=1)
    clusters, n = int(times @ (some > 0)), float(times @ some)
    if clusters == n:
        return clusters, 1.0
    if side.images.size == 1:
        of_grade, sizes, counts = (part.astype(np.int64) for part in (errors[:, 0], counted[:, 0], times))
        return clusters, effective_sample(of_grade, sizes, level=level, counts=counts, adverse=True).effective_n / n
    rate = side.events / side.images, (side.events + side.others) / side.images
    residual = (errors - side.rate * counted - images * (rate[0] - side.rate * rate[1])) @ weights
    spread = rate[0] * (1 - 2 * side.rate) + rate[1] * side.rate**2 - (rate[0] - side.rate * rate[1]) ** 2
    plain = float(weights**2 @ (spread * side.images**2 / np.maximum(side.images - 1, 1)))
    estimated = clusters / (clusters - 1) * float(times @ residual**2) / plain if plain > 0 and clusters > 1 else 1.0
    complete = float(times @ (counted @ weights) ** 2) * side.equal_n
    # In units of the heaviest error: a thousand light ones carry little information on how the heavy ones cluster.
    found = errors.sum(axis=1)
    mean_weight = np.divide(errors @ weights, found, out=np.zeros_like(found), where=found > 0)
    seen = float(times @ mean_weight**2) / side.heaviest**2 if side.heaviest else 0.0
    design = clustered_design_effect(
        clusters=clusters,
        sizes=n,
        estimated=estimated,
        with_error=seen,
        sizes_squared=complete * n,
        # The mean size, which means complete correlation in pairs, means nothing where images differ in weight.
        largest=max(3.0, float(some.max())),
    )
    # Patients, weighted as their images are: from fewer than two nothing is known of how patients differ.
    owners = times @ (counted > 0)
    shares = weights * (side.events + side.others)
    fewest = min(
        float(clusters), 1 / float(np.divide(shares**2, owners, out=np.zeros_like(owners), where=owners > 0).sum())
    )
    if fewest < 2:
        return clusters, 0.0
    upper = (1 + level) / 2
    ratio = float(stdtrit(max(side.equal_n - 1, 1), upper) / stdtrit(fewest - 1, upper))
    return clusters, ratio**2 / float(design)


def _quotient(events: float, others: float) -> float:
    """The events' share of both: exactly 1 where there is no other, which a sum of weights need not be."""
    return events / (events + others)


def _population(ratio: Ratio, no_output: NoOutput) -> Cells:
    """The cells whose images make up a grade: all, or those with output where the others are excluded."""
    base = np.ones((GRADES, COLUMNS), dtype=np.bool_)
    base[:, NO_OUTPUT] = no_output != "excluded" or bool(ratio.counted[:, NO_OUTPUT].any())
    return base


def _checked_mix(mix: Sequence[float]) -> Floats:
    shares = np.asarray(mix, dtype=np.float64)
    if shares.shape != (GRADES,) or not (shares >= 0).all() or not math.isclose(shares.sum(), 1, abs_tol=1e-6):
        raise ValueError(f"A mix of grades is five shares that sum to 1, not {list(mix)}.")
    return shares
