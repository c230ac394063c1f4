"""How well probabilities agree with frequencies: Brier score, calibration slope and intercept, reliability, ECE.

`patients` has the integer code of each image's patient, and every interval is by patients. None means that patients are
unknown; then `images_a_patient` is the most images of one patient, all taken to be alike; with one, independent.

>>> import numpy as np
>>> p, y = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9]), np.array([0, 0, 1, 0, 1, 0, 1, 1], dtype=bool)
>>> slope = calibration_slope(p, y, np.arange(8), level=0.95)
>>> round(slope.value, 3), round(brier(p, y, np.arange(8), level=0.95).value, 4)
(1.074, 0.175)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit, ndtri, stdtrit

from drgate.stats.bootstrap import BootstrapInterval, percentile_interval
from drgate.stats.cluster import (
    EffectiveSample,
    bounds,
    effective_sample,
    fewest_patients,
    unknown_clusters,
    unknown_inflation,
)
from drgate.stats.proportion import Interval, exact_bounds, require_level

EPSILON = 1e-6
"""Probabilities are moved to [EPSILON, 1 - EPSILON] before their logit is taken: at most 13.8 either way."""

BOOTSTRAP_IMAGES = 20_000
"""Images beyond which the patient bootstrap is not offered; the sandwich is as good long before."""

FEWEST_EVENTS = 100
"""Patients with and patients without an event from which slope and intercept can decide.

Collins, Ogundimu & Altman 2016, Statistics in Medicine 35:214, ask for as many.
"""

_REDRAWN = 20_000_000
"""Labels drawn at most for the expected calibration error of a perfect model."""

_ROWS = 2_000_000
"""Image weights of bootstrap replicates held at once."""

_ALIKE = 1e-9
"""Logits closer than this are one: the difference is rounding."""

_ALIKE_PATIENTS = 2
"""Patients' worth of images that are all alike, in the limits of slope and intercept.

Without, 3 % of slopes at .7 pass where patients have 1 to 20 images; with more, power is lost: `benchmarks gate-error`.
"""

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Undefined:
    """A quantity that these data do not define."""

    reason: str
    """In words, without a full stop."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """One figure of calibration with its interval."""

    value: float
    se: float
    """Standard error by patients; where they are unknown, of as many images alike as one may have."""
    low: float
    high: float
    level: float
    clusters: int | None
    """Patients; None where they are unknown."""


@dataclass(frozen=True, slots=True)
class CalibrationError:
    """Expected calibration error, and what a perfectly calibrated model would show: never a ground for a decision."""

    value: float
    """0 to 1: mean over images of |observed - predicted| of their bin."""
    expected: float
    """The mean of the same figure when every label is redrawn from its own probability, images independent."""
    bins: int
    """Bins with an image."""


@dataclass(frozen=True, slots=True)
class Bin:
    """One point of a reliability diagram; all but `n` are 0 to 1."""

    low: float
    """Smallest probability in the bin."""
    high: float
    """Largest."""
    n: int
    """Images, > 0."""
    predicted: float
    """Mean probability."""
    observed: float
    """Share of positive images."""
    observed_low: float
    """Interval of `observed` at the bin's effective sample size."""
    observed_high: float


def brier(
    probabilities: ArrayLike,
    outcome: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    level: float,
    images_a_patient: int = 1,
) -> Calibration | Undefined:
    """Brier score: mean squared distance of the probabilities from what was true, lower is better.

    Of an endpoint: `probabilities` (n,) of being positive and `outcome` (n,) bool, 0 to 1. Of grades: (n, K) and (n,)
    integers 0 to K - 1, the sum over the K classes as Brier defined it, 0 to 2.

    The variance is the cluster sandwich, c / (c - 1) sum over patients of (sum of losses - mean)^2 / n^2. The interval
    is Clopper-Pearson's at the sample size with that variance, for a loss is bounded: a model that is sure of
    everything has the interval of its error rate. Its upper end allows for one more patient who is as wrong as can be,
    since a model that is sure and was never wrong shows no variance.

    Undefined where all images are of one patient, or there is none. Raises ValueError for arrays of different length,
    probabilities outside [0, 1] and classes that have none.

    References: Brier 1950, Monthly Weather Review 78:1; Korn & Graubard 1998, Survey Methodology 24:193; one more:
    Fay & Feuer 1997, Statistics in Medicine 16:791.
    """
    require_level(level)
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(outcome)
    if p.ndim == 2:
        if y.shape != p.shape[:1] or not np.issubdtype(y.dtype, np.integer):
            raise ValueError("Every row of probabilities needs the number of its class.")
        _require_probabilities(p)
        if y.size and not 0 <= y.min() <= y.max() < p.shape[1]:
            raise ValueError(f"Classes are 0 to {p.shape[1] - 1}.")
        worst = 2.0
        losses = (p * p).sum(axis=1) + 1 - 2 * np.take_along_axis(p, y[:, None], axis=1)[:, 0]
    else:
        p, positive = _checked(p, y)
        worst = 1.0
        losses = (p - positive) ** 2
    order = np.argsort(losses)
    shares, owner = losses[order] / worst, _codes(patients, losses.size)[order]
    clusters = _clusters(owner)
    if clusters < 2:
        return Undefined(_TOO_FEW)
    n = shares.size
    mean = math.fsum(shares) / n
    sizes = np.bincount(owner)
    residual = np.bincount(owner, weights=shares) - sizes * mean
    variance = clusters / (clusters - 1) * math.fsum(residual * residual) / n**2
    one_more = float(sizes @ sizes) / n**2
    if patients is None:
        clusters = fewest_patients(n, images_a_patient)
        if clusters < 2:
            return Undefined(_TOO_FEW)
        variance, one_more = unknown_inflation(n, images_a_patient) * variance, images_a_patient / n
    few = (float(ndtri((1 + level) / 2)) / _t(clusters, level)) ** 2
    low, high = mean, 1.0
    if variance > 0:
        effective = few * mean * (1 - mean) / variance
        low = min(mean, exact_bounds(mean * effective, effective, level=level).low)
    more = mean + one_more
    if more < 1:
        effective = few * more * (1 - more) / (variance + one_more**2)
        allowed = min(effective, max(mean * effective, more * effective - 1))
        high = max(mean, exact_bounds(allowed, effective, level=level).high)
    known = None if patients is None else clusters
    return Calibration(worst * mean, worst * math.sqrt(variance), worst * low, worst * high, level, known)


def calibration_slope(
    probabilities: ArrayLike,
    positive: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    level: float,
    images_a_patient: int = 1,
) -> Calibration | Undefined:
    """b of logit P(positive) = a + b logit(p), a and b fitted together: 1 is right, below 1 is overconfident.

    `probabilities` (n,) of being positive, clipped at `EPSILON`; `positive` (n,) bool. Maximum likelihood; variance
    (c - 1) / c sum d^2, d the change that leaving out each of the c patients makes in one Newton step (CR3). Interval
    by t with w - 1 degrees of freedom, w = (sum d^2)^2 / sum d^4: fewer where few patients carry the variance. Its
    variance is the mean, where that is larger, of w patients' and two whose images are all alike.

    Undefined without a positive or a negative image, where all probabilities are equal, where they separate positive
    from negative (no finite slope fits best), where all images are of one patient, and where one patient alone decides
    the fit. Raises ValueError for arrays of different length, labels that are not bool and probabilities outside
    [0, 1].

    References: Cox 1958, Biometrika 45:562; Van Calster et al. 2019, BMC Medicine 17:230; variance and degrees of
    freedom: Bell & McCaffrey 2002, Survey Methodology 28:169.
    """
    return _coefficient(probabilities, positive, patients, level, images_a_patient, joint=True)


def calibration_intercept(
    probabilities: ArrayLike,
    positive: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    level: float,
    images_a_patient: int = 1,
) -> Calibration | Undefined:
    """a of logit P(positive) = a + logit(p), slope held at 1: calibration in the large, 0 is right, above 0 too low.

    Otherwise as `calibration_slope`, and no limit is nearer than that on the expected number of positive images, which
    an intercept is not linear in. Undefined too where the images of each patient cancel out.
    """
    return _coefficient(probabilities, positive, patients, level, images_a_patient, joint=False)


def equal_patients(patients: ArrayLike) -> int:
    """Patients with equally many images who are worth as much as those of these codes, if images of one are alike.

    n^2 / sum m^2 of n images, m of a patient, rounded down: the patients themselves where all have equally many.
    """
    sizes = np.unique(np.asarray(patients), return_counts=True)[1]
    return int(sizes.sum() ** 2 // (sizes @ sizes)) if sizes.size else 0


def calibration_bootstrap(
    probabilities: ArrayLike,
    positive: ArrayLike,
    patients: ArrayLike,
    *,
    level: float,
    seed: int,
    resamples: int = 200,
) -> tuple[BootstrapInterval | None, BootstrapInterval | None] | Undefined:
    """Percentile intervals of slope and intercept, refitted with bootstrap weights of the patients.

    Arguments as `calibration_slope`. A replicate in which a figure is undefined is left out of its interval and
    counted; None where all are. The same images give the same digits whatever their order and the patients' names.

    Undefined beyond `BOOTSTRAP_IMAGES` images and where all are of one patient.
    """
    require_level(level)
    p, y = _checked(probabilities, positive)
    owner = _codes(patients, p.size)
    if p.size > BOOTSTRAP_IMAGES:
        return Undefined(f"the bootstrap of calibration is for up to {BOOTSTRAP_IMAGES:,} images")
    if _clusters(owner) < 2:
        return Undefined(_TOO_FEW)
    x, y, owner = _ordered(p, y, owner)
    # Patients in the order of their images' values, equal images in that of their patients: codes do not matter.
    owner = _by_content(x, y, owner)
    order = np.lexsort((owner, y, x))
    x, y, owner = x[order], y[order], owner[order]
    clusters = _clusters(owner)
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    slopes, intercepts = np.zeros((2, resamples))
    sloped, placed = np.zeros((2, resamples), dtype=np.bool_)
    rows = max(1, _ROWS // p.size)
    for start in range(0, resamples, rows):
        weights = drawn[start : start + rows, owner].astype(np.float64)
        part = slice(start, start + len(weights))
        slopes[part], sloped[part] = _refitted(weights, x, y, joint=True)
        intercepts[part], placed[part] = _refitted(weights, x, y, joint=False)
    return percentile_interval(slopes, level, sloped), percentile_interval(intercepts, level, placed)


def calibration_error(
    probabilities: ArrayLike, positive: ArrayLike, *, bins: int = 10, seed: int = 0
) -> CalibrationError | Undefined:
    """Expected calibration error over bins of equal mass, beside what a perfectly calibrated model would show.

    `probabilities` (n,) of being positive, `positive` (n,) bool. Bins hold n / `bins` images each; equal probabilities
    stay together. The expected value is simulated on the same probabilities with up to 1,000 redrawn sets of labels
    (20 at a million images).

    The figure is above 0 for every model, the more so the fewer the images: nothing may be decided on it.

    References: Naeini, Cooper & Hauskrecht 2015, AAAI 29:2901; the bias: Bröcker 2012, Climate Dynamics 39:655.
    """
    p, y = _checked(probabilities, positive)
    if p.size == 0:
        return Undefined("there is no image")
    order = np.argsort(p)
    p, y = p[order], y[order]
    starts = _starts(p, bins)
    predicted = np.add.reduceat(p, starts)
    generator = np.random.Generator(np.random.PCG64(seed))
    draws = int(np.clip(_REDRAWN // p.size, 20, 1000))
    total = 0.0
    for _ in range(draws):
        redrawn = np.add.reduceat(generator.random(p.size) < p, starts, dtype=np.int64)
        total += float(np.abs(redrawn - predicted).sum())
    apart = np.abs(np.add.reduceat(y, starts, dtype=np.int64) - predicted)
    return CalibrationError(float(apart.sum()) / p.size, total / draws / p.size, starts.size)


def reliability(
    probabilities: ArrayLike,
    positive: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    level: float,
    interval: Interval = "clopper-pearson",
    bins: int = 10,
    images_a_patient: int | None = 1,
) -> tuple[Bin, ...]:
    """The bins of a reliability diagram, those of `calibration_error`, from the lowest probability to the highest.

    Each observed share has the interval that gates, at the bin's own effective sample size; it is 0 to 1 where patients
    are unknown and nothing is declared (`images_a_patient` None). Empty without an image. Other arguments and errors as
    `calibration_slope`.
    """
    require_level(level)
    p, y = _checked(probabilities, positive)
    if p.size == 0:
        return ()
    order = np.argsort(p)
    owner = _codes(patients, p.size)[order]
    p, y = p[order], y[order]
    starts = _starts(p, bins)
    found = []
    for start, stop in zip(starts, [*starts[1:], p.size], strict=True):
        inside = slice(start, stop)
        sample = _sample(y[inside], None if patients is None else owner[inside], level, images_a_patient)
        ends = bounds(sample, level=level, interval=interval)
        predicted = math.fsum(p[inside]) / sample.n
        found.append(
            Bin(float(p[start]), float(p[stop - 1]), sample.n, predicted, sample.k / sample.n, ends.low, ends.high)
        )
    return tuple(found)


_TOO_FEW = "it needs images of at least two patients"


def _coefficient(
    probabilities: ArrayLike,
    positive: ArrayLike,
    patients: ArrayLike | None,
    level: float,
    images_a_patient: int,
    *,
    joint: bool,
) -> Calibration | Undefined:
    require_level(level)
    p, y = _checked(probabilities, positive)
    if not y.any() or y.all():
        return Undefined("it needs positive and negative images")
    x, y, owner = _ordered(p, y, _codes(patients, p.size))
    clusters = _clusters(owner)
    if clusters < 2 or (patients is None and fewest_patients(p.size, images_a_patient) < 2):
        return Undefined(_TOO_FEW)
    everyone = np.ones((1, x.size))
    if joint and x.max() - x.min() < _ALIKE:
        return Undefined("all probabilities are equal")
    if joint and not _overlap(everyone, x, y)[0]:
        return Undefined("the probabilities separate positive from negative images, so no finite slope fits best")
    fitted = _fit(everyone, x, y, joint=joint)
    if not fitted.converged[0]:
        return Undefined("the fit did not converge")
    at, slope = float(fitted.intercepts[0]), float(fitted.slopes[0])
    chance = expit(at + slope * x)
    design = np.stack([np.ones_like(x), x - x.mean()])[: 2 if joint else 1]
    spread = chance * (1 - chance)
    # What leaving each patient out changes, in one step (CR3): a patient with much weight hides his own error.
    scores = np.stack([np.bincount(owner, weights=row * (y - chance)) for row in design])
    own = np.array([[np.bincount(owner, weights=one * other * spread) for other in design] for one in design])
    n = x.size
    whole = np.asarray((design * spread) @ design.T)
    without = whole - np.moveaxis(own, -1, 0)
    if (np.linalg.det(without) <= _ALIKE * np.linalg.det(whole)).any():
        return Undefined("one patient alone decides the fit")
    changes = np.linalg.solve(without, scores.T[..., None])[:, -1, 0]
    total = math.fsum(changes**2)
    if not total:
        return Undefined("it is the same without any one patient, so these images show no variance")
    # A variance that rests on few patients is itself uncertain: t is that of as many as would share it equally.
    worth = 1 / math.fsum((changes**2 / total) ** 2) / (images_a_patient if patients is None else 1)
    variance = total * (clusters - 1) / clusters
    # It may lack the patients whose images are wrong together: the limits have some whose images are all alike.
    along = np.abs(np.linalg.solve(whole, design)[-1]) * np.sqrt(spread)
    alike = math.fsum(np.bincount(owner, weights=along) ** 2)
    wider = max(variance, (worth * variance + _ALIKE_PATIENTS * alike) / (worth + _ALIKE_PATIENTS))
    if patients is None:
        more = unknown_inflation(n, images_a_patient)
        variance, wider = more * variance, more * wider
    se, value, reach = math.sqrt(variance), slope if joint else at, _t(worth, level) * math.sqrt(wider)
    low, high = value - reach, value + reach
    if not joint:
        images = reach * whole[0, 0]
        low, high = min(low, _placed(x, y, -images)), max(high, _placed(x, y, images))
    return Calibration(value, se, low, high, level, None if patients is None else clusters)


def _placed(x: Floats, y: NDArray[np.bool_], more: float) -> float:
    """The intercept at slope 1 if there were so many `more` positive images."""
    target = np.clip(np.count_nonzero(y) + more, EPSILON * x.size, (1 - EPSILON) * x.size)
    end = 2 * logit(1 - EPSILON) + 1
    return float(brentq(lambda at: float(expit(at + x).sum()) - target, -end, end))


@dataclass(frozen=True, slots=True)
class _Fit:
    intercepts: Floats
    slopes: Floats
    converged: NDArray[np.bool_]


@np.errstate(divide="ignore", invalid="ignore")  # without curvature a step is not finite: it does not converge
def _fit(weights: Floats, x: Floats, y: NDArray[np.bool_], *, joint: bool) -> _Fit:
    """Logistic regressions of y on x, one a row of `weights` (B, n); not `joint`, the slope is 1.

    Newton's steps from a = 0, b = 1, halved while they would lower the likelihood; it is concave, so they end at its
    top if it has one.
    """
    centre = float(x.mean()) if joint else 0.0
    x = x - centre
    at, slope = np.full(len(weights), centre), np.ones(len(weights))
    reach = float(np.abs(x).max())

    def likelihood(at: Floats, slope: Floats) -> Floats:
        line = at[:, None] + slope[:, None] * x
        return np.asarray(np.einsum("bn,bn->b", weights, y * line - np.logaddexp(0, line)))

    for _ in range(100):
        chance = expit(at[:, None] + slope[:, None] * x)
        spread = weights * chance
        residual = weights * y - spread
        spread *= 1 - chance
        up, curve = residual.sum(axis=1), spread.sum(axis=1)
        if joint:
            tilt, cross, bend = (np.einsum("bn,n->b", a, b) for a, b in ((residual, x), (spread, x), (spread, x * x)))
            determinant = curve * bend - cross**2
            step = (bend * up - cross * tilt) / determinant
            turn = (curve * tilt - cross * up) / determinant
        else:
            step, turn = up / curve, np.zeros_like(up)
        # A step that moves no image by more than 1 on the logit scale cannot lower the likelihood.
        if ((moved := np.abs(step) + reach * np.abs(turn)) > 1).any():
            reached = likelihood(at, slope)
            for _ in range(60):
                lower = ~(likelihood(at + step, slope + turn) >= reached)
                if not lower.any():
                    break
                step, turn = np.where(lower, step / 2, step), np.where(lower, turn / 2, turn)
        at, slope = at + step, slope + turn
        if (converged := moved < 1e-9).all():
            break
    return _Fit(at - slope * centre, slope, converged)


def _refitted(weights: Floats, x: Floats, y: NDArray[np.bool_], *, joint: bool) -> tuple[Floats, NDArray[np.bool_]]:
    """Slopes, or intercepts at slope 1, of bootstrap replicates, and where they are defined (0 elsewhere)."""
    defined = _overlap(weights, x, y) if joint else (weights @ y > 0) & (weights @ ~y > 0)
    found = np.zeros(len(weights))
    if defined.any():
        fitted = _fit(weights[defined], x, y, joint=joint)
        found[defined] = np.where(fitted.converged, fitted.slopes if joint else fitted.intercepts, 0.0)
        defined[defined] = fitted.converged
    return found, defined


def _overlap(weights: Floats, x: Floats, y: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of every row of weights (B, n): neither side of y is missing or is entirely at or above the other on x."""
    drawn = weights > 0
    (lowest, highest), (other_lowest, other_highest) = (
        (np.where(drawn & side, x, np.inf).min(axis=1), np.where(drawn & side, x, -np.inf).max(axis=1))
        for side in (y, ~y)
    )
    return np.asarray((other_highest > lowest + _ALIKE) & (highest > other_lowest + _ALIKE))


def _ordered(p: Floats, y: NDArray[np.bool_], owner: Codes) -> tuple[Floats, NDArray[np.bool_], Codes]:
    """Logits, labels and owners, in an order in which images that differ never change places."""
    clipped = np.clip(p, EPSILON, 1 - EPSILON)
    order = np.argsort(np.where(y, clipped, -clipped))
    return logit(clipped[order]), y[order], owner[order]


def _by_content(x: Floats, y: NDArray[np.bool_], owner: Codes) -> Codes:
    """For each image, the rank of its patient by the values of the images; equal patients in any order."""
    content: dict[int, list[tuple[float, bool]]] = {}
    for code, image in zip(owner.tolist(), zip(x.tolist(), y.tolist(), strict=True), strict=True):
        content.setdefault(code, []).append(image)
    rank = {code: at for at, code in enumerate(sorted(content, key=content.__getitem__))}
    return np.array([rank[code] for code in owner.tolist()], dtype=np.int64)


def _starts(p: Floats, bins: int) -> NDArray[np.intp]:
    """Where the bins of equal mass begin in ascending probabilities; equal ones are in the bin of the first."""
    first = np.searchsorted(p, p, "left")
    return np.flatnonzero(np.diff(first * bins // p.size, prepend=-1))


def _sample(
    positive: NDArray[np.bool_], owner: Codes | None, level: float, images_a_patient: int | None
) -> EffectiveSample:
    k, n = int(positive.sum()), positive.size
    if owner is None:
        return unknown_clusters(k, n, images_a_patient=images_a_patient, level=level)
    sizes = np.bincount(owner)
    hits = np.bincount(owner, weights=positive).astype(np.int64)
    # The rarer event is the one that the design effect must not be trusted on.
    return effective_sample(hits[sizes > 0], sizes[sizes > 0], level=level, adverse=2 * k < n)


def _codes(patients: ArrayLike | None, images: int) -> Codes:
    """Patients as codes from 0, without gaps; one per image where they are unknown."""
    if patients is None:
        return np.arange(images)
    codes = np.asarray(patients)
    if codes.shape != (images,) or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError("Every image needs the integer code of its patient.")
    if images and codes.min() >= 0 and codes.max() < 2 * images:
        present = np.bincount(codes) > 0
        return np.asarray((np.cumsum(present) - 1)[codes], dtype=np.int64)
    return np.asarray(np.unique(codes, return_inverse=True)[1], dtype=np.int64)


def _clusters(owner: Codes) -> int:
    return int(owner.max()) + 1 if owner.size else 0


def _t(clusters: float, level: float) -> float:
    return float(stdtrit(max(clusters - 1, 1), (1 + level) / 2))


def _checked(probabilities: ArrayLike, positive: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(positive)
    if p.shape != y.shape or p.ndim != 1 or y.dtype != np.bool_:
        raise ValueError("Probabilities and labels are flat arrays of one length; a label is True for positive.")
    _require_probabilities(p)
    return p, y


def _require_probabilities(p: Floats) -> None:
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("Probabilities must be between 0 and 1.")
