"""Every metric of a set of predictions with its interval: what is measured, before anything is decided.

    sample = Sample.of(predictions, spec)
    Metrics(sample, spec, level=0.95, seed=1).estimate("sensitivity:pdr", "excluded")

Proportions and kappa follow from the sample's counts. Only what needs probabilities (ranking, calibration) looks at
images again.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from drgate.checklist import (
    AT_DEPLOYMENT,
    PROPORTIONS,
    Checklist,
    MetricId,
    NoOutputPolicy,
    default_policy,
    parse_id,
)
from drgate.evaluation import Estimate, Metric, NotEstimable
from drgate.sample import Sample, Tally
from drgate.scale import GRADES, GROUP_TITLES, GROUPS, TITLES
from drgate.stats import agreement, bootstrap, calibration, cluster, confusion, ranking, standardized
from drgate.stats.calibration import Undefined
from drgate.stats.confusion import NO_OUTPUT

UNKNOWN: Final = cluster.UNKNOWN_DESIGN_EFFECT
"""By how much two eyes entirely alike inflate a variance, where patients are not known."""

KAPPA_WEIGHTS: Final[dict[str, agreement.Weights]] = {
    "kappa": "none",
    "linear_kappa": "linear",
    "quadratic_kappa": "quadratic",
}

NAMES: Final = {**dict(zip(GRADES, TITLES, strict=True)), **GROUP_TITLES}
RATES: Final = ("sensitivity", "specificity", "ppv", "npv")
UNDERGRADED: Final = "undergraded:vision_threatening_below_referable"

Values = Callable[[NDArray[np.int64]], tuple[NDArray[np.float64], NDArray[np.bool_]]]
"""A metric of every table (..., 30), and where it is defined."""


class Metrics:
    """Estimates every metric of one sample, sharing one bootstrap."""

    def __init__(self, sample: Sample, checklist: Checklist, level: float, seed: int) -> None:
        self.sample, self.checklist, self.level, self.seed = sample, checklist, level, seed
        self._replicates: dict[Tally, NDArray[np.int64]] = {}
        self._shares: dict[tuple[Tally, tuple[str, str, NoOutputPolicy]], bootstrap.BootstrapInterval | None] = {}
        self._calibrations: dict[
            tuple[str, str, str], tuple[bootstrap.BootstrapInterval | None, bootstrap.BootstrapInterval | None]
        ] = {}

    def all(self) -> dict[str, Metric]:
        """Every metric by id, in the order in which a report shows them."""
        names = list(_names())
        if self.checklist.deployment is not None:
            names += [f"{name}^deployment" for name in names if _standardizable(name)]
        names += [f"{name}@{column}={value}" for column, value in self.sample.each_slice() for name in _slice_names()]
        return {name: self.estimate(name, default_policy(name)) for name in names}

    def of_unit(self) -> dict[str, Metric]:
        """The metrics that are shown for a unit other than the one that is judged."""
        return {name: self.estimate(name, default_policy(name)) for name in _slice_names()}

    def three_ways(self) -> dict[str, dict[str, Metric]]:
        """Metrics under each policy for images without output; empty where every image got an answer."""
        if not self.sample.whole().table[:, NO_OUTPUT].any():
            return {}
        found: dict[str, dict[str, Metric]] = {}
        for name in _names():
            if parse_id(name).metric not in ("no_output", "auc", *PROBABILISTIC):
                group = default_policy(name) == "as_referred"
                policies: tuple[NoOutputPolicy, ...] = ("excluded", "worst_case")
                if group:
                    policies = ("excluded", "as_referred", "worst_case")
                found[name] = {policy: self.estimate(name, policy) for policy in policies}
        return found

    def reliability(self) -> dict[str, tuple[dict[str, Any], ...]]:
        """Bins of the predicted probability with what was observed, for the two groups; empty without probabilities."""
        found = {}
        for target in GROUPS:
            answers = self._answers(target)
            if answers.positive.size:
                bins = calibration.reliability(
                    answers.probabilities,
                    answers.positive,
                    answers.patients,
                    level=self.level,
                    interval=self.checklist.evidence.interval,
                )
                found[target] = tuple(dataclasses.asdict(one) for one in bins)
        return found

    def estimate(self, name: str, policy: NoOutputPolicy) -> Metric:
        """One metric with its interval; NotEstimable, with the reason, where the data do not define it."""
        parts = parse_id(name)
        tally = self.sample.tally(parts.column, parts.value, parts.target if parts.target in GROUPS else "")
        if tally is None:
            return NotEstimable(f"no {self.sample.unit} of the test set has {parts.column} = {parts.value}.")
        if parts.metric == "auc":
            return self._auc(parts.target, parts.column, parts.value)
        if parts.metric in PROBABILISTIC:
            return self._calibration(parts)
        if parts.metric in KAPPA_WEIGHTS:
            return self._kappa(parts.metric, policy, tally)
        if parts.metric == "balanced_accuracy":
            return self._balanced(policy, tally)
        counted = ratio(parts.metric, parts.target, policy)
        if parts.deployed:
            return self._standardized(counted, tally, policy, parts.target)
        effective = tally.effective(counted, self.level)
        if effective is None:
            reason = _absent(parts.metric, parts.target, tally.table, self.sample.unit)
            return NotEstimable(reason.replace("the test set", "the slice") if parts.column else reason)
        bounds = cluster.bounds(effective, level=self.level, interval=self.checklist.evidence.interval)
        return Estimate(
            kind="proportion",
            value=effective.k / effective.n,
            k=effective.k,
            n=effective.n,
            low=bounds.low,
            high=bounds.high,
            level=self.level,
            method=self.checklist.evidence.interval,
            clusters=effective.clusters,
            design_effect=effective.design_effect,
            **_beside(self._share_drawn(tally, parts.metric, parts.target, policy)),
        )

    def replicates(self, tally: Tally) -> NDArray[np.int64]:
        """(B, 30) resampled tables: patients where they are known, else images, half as many where they are unknown.

        Half as many images double every variance, which is what two eyes entirely alike would do.
        """
        if tally not in self._replicates:
            fixed = self.checklist.bootstrap.class_totals == "fixed"
            self._replicates[tally] = bootstrap.resample_patients(
                tally.patterns,
                tally.counts,
                resamples=self.checklist.bootstrap.resamples,
                seed=self.seed,
                strata=bootstrap.worst_grade(tally.patterns) if fixed else None,
                inflation=UNKNOWN if tally.patients == "unknown" else 1.0,
            )
        return self._replicates[tally]

    def _drawn(self, tally: Tally, values: Values) -> list[bootstrap.BootstrapInterval | None]:
        """Bootstrap intervals of one or several metrics, as the checklist asks for them; None where there is none."""
        drawn, defined = _columns(values(self.replicates(tally)))
        if self.checklist.bootstrap.interval == "percentile":
            return [
                bootstrap.percentile_interval(drawn[:, at], self.level, defined[:, at]) for at in range(drawn.shape[1])
            ]
        whole, _ = _columns(values(tally.table.reshape(1, -1)))
        without, possible = _columns(values(bootstrap.leave_one_out(tally.patterns, tally.counts)))
        return [
            bootstrap.bca_interval(
                drawn[:, at],
                self.level,
                estimate=float(whole[0, at]),
                jackknife=without[possible[:, at], at],
                counts=tally.counts[possible[:, at]],
                defined=defined[:, at],
            )
            for at in range(drawn.shape[1])
        ]

    def _share_drawn(
        self, tally: Tally, metric: str, target: str, policy: NoOutputPolicy
    ) -> bootstrap.BootstrapInterval | None:
        """The bootstrap interval of a proportion; those of one tally are drawn together: one product gives all."""
        key = (metric, target, policy)
        if (tally, key) not in self._shares:
            keys = SHARES if key in SHARES else (key,)
            counted = [ratio(*one) for one in keys]
            found = self._drawn(tally, lambda tables: confusion.share(*confusion.terms(counted, tables)))
            self._shares |= {(tally, one): interval for one, interval in zip(keys, found, strict=True)}
        return self._shares[tally, key]

    def _kappa(self, metric: str, policy: NoOutputPolicy, tally: Tally) -> Metric:
        """Agreement, with the bootstrap interval that decides."""

        def values(tables: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            return agreement.kappa(confusion.square(tables, policy), KAPPA_WEIGHTS[metric])

        value, defined = values(tally.table)
        if not defined:
            return NotEstimable("it is not defined on this table (one grade only, or no output at all).")
        shown = self._drawn(tally, values)[0]
        who = "patient" if tally.patients == "known" else "image"
        doubled = ", variance doubled for unknown patients" if tally.patients == "unknown" else ""
        return Estimate(
            kind="index",
            value=float(value),
            n=int(tally.table[:, :NO_OUTPUT].sum() if policy == "excluded" else tally.table.sum()),
            low=None if shown is None else shown.low,
            high=None if shown is None else shown.high,
            level=self.level,
            method=f"{who} bootstrap, {self.checklist.bootstrap.interval}{doubled}",
            clusters=int(tally.counts.sum()) if tally.patients == "known" else None,
            bootstrap_undefined=None if shown is None else shown.undefined,
        )

    def _balanced(self, policy: NoOutputPolicy, tally: Tally) -> Metric:
        """Mean sensitivity of the grades present: accuracy at a mix in which each weighs the same.

        So it has that mix's exact interval, which a grade with few images and no error widens; a bootstrap would not.
        """
        counted = confusion.accuracy(policy)
        base = tally.table[:, :NO_OUTPUT] if policy == "excluded" else tally.table
        present = base.sum(axis=1) > 0
        if not present.any():
            return NotEstimable("the model gave no output at all.")
        found = self._at_mix(counted, tally, policy, (present / present.sum()).tolist())
        if isinstance(found, NotEstimable):
            return found
        absent = [TITLES[grade] for grade in np.flatnonzero(~present)]
        return dataclasses.replace(
            found,
            method=f"{self.checklist.evidence.interval}, standardised to equal shares of the grades present"
            + (f" (none of {', '.join(absent)})" if absent else ""),
        )

    def _standardized(self, counted: confusion.Ratio, tally: Tally, policy: NoOutputPolicy, target: str) -> Metric:
        """A proportion at the deployment mix of grades."""
        mix = self.checklist.deployment
        if mix is None:
            return NotEstimable("the checklist states no deployment mix of grades.")
        if target in GROUPS and self.sample.dme is not None:
            return NotEstimable(
                "the deployment mix is of DR grades: how many eyes have macular oedema, it does not say."
            )
        found = self._at_mix(counted, tally, policy, [mix[grade] for grade in GRADES])
        if isinstance(found, NotEstimable):
            return found
        return dataclasses.replace(
            found, method=f"{self.checklist.evidence.interval}, standardised to the deployment mix"
        )

    def _at_mix(
        self, counted: confusion.Ratio, tally: Tally, policy: NoOutputPolicy, weights: list[float]
    ) -> Estimate | NotEstimable:
        """A proportion as it would be at another mix of grades."""
        found = standardized.estimate(
            counted,
            tally.patterns,
            tally.counts,
            mix=weights,
            level=self.level,
            interval=self.checklist.evidence.interval,
            no_output=policy,
            unknown_patients=tally.patients == "unknown",
        )
        if isinstance(found, Undefined):
            return NotEstimable(f"{found.reason}.")

        def values(tables: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            return standardized.values(counted, tables, mix=weights, no_output=policy)

        return Estimate(
            kind="proportion",
            value=found.value,
            n=int(counted.terms(tally.table)[1]),
            low=found.low,
            high=found.high,
            level=self.level,
            clusters=found.clusters,
            **_beside(self._drawn(tally, values)[0]),
        )

    def _answered(self, column: str, value: str) -> NDArray[np.bool_]:
        """Which images, of all or of a slice, have probabilities."""
        answered = ~np.isnan(self.sample.probabilities[:, 0])
        if column:
            answered &= self.sample.slices[column] == self.sample.slice_names[column].index(value)
        return answered

    def _answers(self, target: str, column: str = "", value: str = "") -> _Answers:
        """A grade or group in the images with probabilities, of the whole sample or of a slice."""
        sample, answered = self.sample, self._answered(column, value)
        inside = grades_of(target)
        positive = np.isin(sample.reference[answered], inside)
        if target in GROUPS and sample.dme is not None:
            positive |= sample.dme[answered]
        scores = sample.probabilities[answered][:, list(inside)].sum(axis=1)
        patients = None if sample.patients is None else sample.patients[answered]
        if sample.independent:
            patients = np.arange(len(scores))
        return _Answers(scores, positive, patients)

    @property
    def _doubled(self) -> str:
        """What the method says where variances allow for unknown patients."""
        unknown = self.sample.patients is None and not self.sample.independent
        return ", variance doubled for unknown patients" if unknown else ""

    def _auc(self, target: str, column: str, value: str) -> Metric:
        """A grade or group against the rest."""
        answers = self._answers(target, column, value)
        if not answers.positive.size:
            return NotEstimable(f"there are no probabilities by {self.sample.unit} to rank by.")
        if self.sample.patients is not None:
            assert answers.patients is not None
            result = ranking.auc_clustered(answers.scores, answers.positive, answers.patients, level=self.level)
        else:
            unknown = bool(self._doubled)
            result = ranking.auc_delong(answers.scores, answers.positive, level=self.level, unknown=unknown)
        if result is None:
            return NotEstimable(f"it takes {self.sample.unit}s with {NAMES[target]} and {self.sample.unit}s without.")
        return Estimate(
            kind="index",
            value=result.value,
            n=len(answers.scores),
            low=result.low,
            high=result.high,
            level=self.level,
            method=result.method + self._doubled,
            clusters=result.clusters,
        )

    def _calibration(self, parts: MetricId) -> Metric:
        """Brier score, calibration slope and intercept, expected calibration error."""
        metric = parts.metric
        answers = self._answers(parts.target or "referable", parts.column, parts.value)
        n = len(answers.scores)
        if not n:
            return NotEstimable(f"there are no probabilities by {self.sample.unit}.")
        given: NDArray[np.float64] = answers.probabilities
        outcome: NDArray[Any] = answers.positive
        if metric == "ece":
            error = calibration.calibration_error(given, outcome, seed=self.seed)
            if isinstance(error, Undefined):
                return NotEstimable(f"{error.reason}.")
            return Estimate(
                kind="index",
                value=error.value,
                n=n,
                expected=error.expected,
                method=f"{error.bins} bins of equal size; expected value simulated",
            )
        if not parts.target:
            answered = self._answered(parts.column, parts.value)
            given, outcome = self.sample.probabilities[answered], self.sample.reference[answered]
        measured = {
            "brier": calibration.brier,
            "calibration_slope": calibration.calibration_slope,
            "calibration_intercept": calibration.calibration_intercept,
        }[metric](given, outcome, answers.patients, level=self.level)
        if isinstance(measured, Undefined):
            return NotEstimable(f"{measured.reason}.")
        drawn = None if metric == "brier" else self._calibration_drawn(parts)[metric == "calibration_intercept"]
        return Estimate(
            kind="index",
            value=measured.value,
            n=n,
            low=measured.low,
            high=measured.high,
            level=self.level,
            method=("patient sandwich" if measured.clusters is not None else "sandwich") + self._doubled,
            clusters=measured.clusters,
            **_beside(drawn),
        )

    def _calibration_drawn(
        self, parts: MetricId
    ) -> tuple[bootstrap.BootstrapInterval | None, bootstrap.BootstrapInterval | None]:
        """Bootstrap intervals of slope and intercept, where patients are known and images not too many."""
        key = (parts.target, parts.column, parts.value)
        if key not in self._calibrations:
            answers = self._answers(*key)
            found = None
            if answers.patients is not None:
                found = calibration.calibration_bootstrap(
                    answers.probabilities, answers.positive, answers.patients, level=self.level, seed=self.seed
                )
            self._calibrations[key] = found if isinstance(found, tuple) else (None, None)
        return self._calibrations[key]


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    """A grade or group in the images that have probabilities.

    scores: the summed probability as the table has it; positive: whether it is so; patients: codes, every image its own
    where that is declared, None where patients are unknown.
    """

    scores: NDArray[np.float64]
    positive: NDArray[np.bool_]
    patients: NDArray[np.int64] | None

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """The scores within [0, 1], which the rounding of a table's digits may leave."""
        return np.clip(self.scores, 0.0, 1.0)


PROBABILISTIC: Final = ("brier", "calibration_slope", "calibration_intercept", "ece")


def _beside(shown: bootstrap.BootstrapInterval | None) -> dict[str, Any]:
    """The bootstrap interval that stands beside the one that decides."""
    return {} if shown is None else {"bootstrap": (shown.low, shown.high), "bootstrap_undefined": shown.undefined}


def _columns(
    found: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values of one metric as a column; those of several are columns already."""
    values, defined = found
    return values.reshape(len(values), -1), defined.reshape(len(values), -1)


def _names() -> Iterator[str]:
    """Metrics of the whole test set."""
    yield from ("accuracy", "balanced_accuracy", *KAPPA_WEIGHTS)
    yield from (f"{metric}:{target}" for metric, target in itertools.product((*RATES, "auc"), NAMES))
    yield from (f"missed:{group}" for group in GROUPS)
    yield from (UNDERGRADED, "undergraded:by_two", "overgraded:by_two")
    yield from ("no_output", *(f"no_output:{grade}" for grade in GRADES), "brier")
    yield from (f"{metric}:{group}" for metric, group in itertools.product(PROBABILISTIC, GROUPS))


def _slice_names() -> Iterator[str]:
    """Metrics of a slice."""
    yield from ("accuracy", "quadratic_kappa")
    yield from (f"{metric}:{target}" for metric, target in itertools.product(RATES, NAMES))
    yield from (f"auc:{group}" for group in GROUPS)
    yield from (UNDERGRADED, "no_output", *(f"no_output:{grade}" for grade in GRADES))


def _standardizable(name: str) -> bool:
    parts = parse_id(name)
    return parts.target in AT_DEPLOYMENT.get(parts.metric, ())


def grades_of(target: str) -> tuple[int, ...]:
    """The grades of a group, or the one of a grade."""
    return GROUPS[target] if target in GROUPS else (GRADES.index(target),)


def ratio(metric: str, target: str, policy: NoOutputPolicy) -> confusion.Ratio:
    """A proportion as cells of the 5 x 6 table."""
    if metric == "accuracy":
        return confusion.accuracy(policy)
    if metric == "no_output":
        return confusion.no_output(GRADES.index(target) if target else None)
    if metric == "undergraded":
        if target == "by_two":
            return confusion.undergraded_by(2, policy)
        return confusion.below(GROUPS["vision_threatening"], 2, policy)
    if metric == "overgraded":
        return confusion.overgraded_by(2, policy)
    make = {
        "sensitivity": confusion.sensitivity,
        "specificity": confusion.specificity,
        "ppv": confusion.ppv,
        "npv": confusion.npv,
        "missed": confusion.missed,
    }[metric]
    return make(grades_of(target), policy)


def _absent(metric: str, target: str, table: NDArray[np.int64], unit: str) -> str:
    """Why a proportion has no denominator."""
    title = NAMES.get(target, "")
    inside = np.isin(np.arange(5), grades_of(target if target in NAMES else "vision_threatening"))
    match metric:
        case "ppv":
            return f"no {unit} was called {title}."
        case "npv":
            return f"no {unit} was called other than {title}."
        case "sensitivity" | "missed" | "no_output" if title:
            rows, which = table[inside], f"graded {title}"
        case "specificity":
            rows, which = table[~inside], f"graded other than {title}"
        case "undergraded" if target != "by_two":
            rows, which = table[inside], "graded severe NPDR or PDR"
        case _:
            rows, which = table, "that is graded"
    if rows.sum() == 0:
        return f"the test set has no {unit} {which}."
    return f"the model gave no output for any of the {rows.sum()} {unit}s {which}."


SHARES: Final[tuple[tuple[str, str, NoOutputPolicy], ...]] = tuple(
    (parts.metric, parts.target, default_policy(name))
    for name in _names()
    if (parts := parse_id(name)).metric in PROPORTIONS
)
"""The proportions of a tally, each with the policy that it has where a criterion does not say."""
