"""Every metric of a set of predictions with its interval; nothing is decided here.

    sample = Sample.of(predictions, checklist)
    Metrics(sample, checklist, level=0.95, seed=1).estimate(parse_id("sensitivity:pdr"), "excluded")

Proportions and kappa are computed from the sample's counts, ranking and calibration from its probabilities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from drgate import contrast
from drgate.checklist import Checklist, Criterion
from drgate.evaluation import Estimate, Metric, NotEstimable, Screened
from drgate.metrics import NAMES, MetricId, NoOutputPolicy, grades_of, measured, measured_in_slices
from drgate.predictions import NO_PROBABILITIES
from drgate.sample import Sample, Tally
from drgate.scale import GRADES, TITLES, WITH_OEDEMA
from drgate.stats import agreement, bootstrap, calibration, confusion, ranking, standardized
from drgate.stats.calibration import Calibration, Undefined
from drgate.stats.combined import Combination
from drgate.stats.confusion import NO_OUTPUT

Values = Callable[[NDArray[np.int64]], tuple[NDArray[np.float64], NDArray[np.bool_]]]
"""A metric of each table (..., 30), and where it is defined."""


class Metrics:
    """Estimates every metric of one sample, sharing one bootstrap.

    Where patients are neither known nor declared, nothing shows how sure a figure is: it has no interval.
    """

    def __init__(self, sample: Sample, checklist: Checklist, level: float, seed: int) -> None:
        self.sample, self.checklist, self.level, self.seed = sample, checklist, level, seed
        self._gaps: dict[tuple[MetricId, NoOutputPolicy], contrast.Gap | NotEstimable] = {}
        self._replicates: dict[Tally, NDArray[np.int64]] = {}
        self._shares: dict[tuple[Tally, MetricId, NoOutputPolicy], bootstrap.BootstrapInterval | None] = {}
        self._calibrations: dict[
            tuple[str, str, str], tuple[bootstrap.BootstrapInterval | None, bootstrap.BootstrapInterval | None]
        ] = {}

    def all(self) -> dict[MetricId, Metric]:
        """Every metric, in the order in which a report shows them."""
        names = list(measured(self.sample.unit))
        if self.checklist.deployment is not None:
            names += [one.but(deployed=True) for one in names if one.target in one.about.at_deployment]
        names += [
            one.but(column=column, value=value)
            for column, value in self.sample.each_slice()
            for one in measured_in_slices(self.sample.unit)
        ]
        return {one: self.estimate(one, one.default_policy) for one in names}

    def of_unit(self) -> dict[MetricId, Metric]:
        """The metrics that are shown for the other units."""
        return {one: self.estimate(one, one.default_policy) for one in measured_in_slices(self.sample.unit)}

    def three_ways(self) -> dict[MetricId, dict[str, Metric]]:
        """Metrics under each policy for images without output; empty where every image has output."""
        if not self.sample.whole().table[:, NO_OUTPUT].any():
            return {}
        found: dict[MetricId, dict[str, Metric]] = {}
        for one in measured(self.sample.unit):
            if one.about.policies and not self.sample.lacks(one):
                policies: tuple[NoOutputPolicy, ...] = ("excluded", "worst_case")
                if one.default_policy == "as_referred":
                    policies = ("excluded", "as_referred", "worst_case")
                found[one] = {policy: self.estimate(one, policy) for policy in policies}
        return found

    def screened(self) -> dict[MetricId, Screened]:
        """Each sensitivity over all with a reference grade; empty where all images have a grade and output."""
        read = self.sample.read
        if not self.sample.whole().table[:, NO_OUTPUT].any() and (read is None or read.graded.all()):
            return {}
        found = {}
        for metric in (one for one in measured() if one.metric == "sensitivity"):
            missed, referred = (self.estimate(metric, policy) for policy in ("worst_case", "as_referred"))
            if isinstance(missed, Estimate) and isinstance(referred, Estimate):
                silent = (referred.k or 0) - (missed.k or 0)
                found[metric] = Screened(missed.n or 0, silent, missed, referred)
        return found

    def reliability(self) -> dict[str, tuple[dict[str, Any], ...]]:
        """Bins of the predicted probability with what was observed, for the two groups.

        Empty without probabilities and by eye and patient, where nothing is calibrated.
        """
        found: dict[str, tuple[dict[str, Any], ...]] = {}
        if self.sample.unit != "image" or self.sample.no_probabilities:
            return found
        for target in WITH_OEDEMA:
            if self.sample.lacks(MetricId("brier", target)):
                continue
            answers = self._answers(target)
            if answers.positive.size:
                bins = calibration.reliability(
                    answers.probabilities,
                    answers.positive,
                    answers.patients,
                    level=self.level,
                    interval=self.checklist.evidence.interval,
                    images_a_patient=self.sample.images_a_patient,
                )
                found[target] = tuple(dataclasses.asdict(one) for one in bins)
        return found

    def gap(self, metric: MetricId, policy: NoOutputPolicy) -> contrast.Gap | NotEstimable:
        """The gap between the groups of a column, with the groups."""
        key = (metric, policy)
        if reason := self.sample.lacks(metric):
            return NotEstimable(reason)
        if key not in self._gaps:
            self._gaps[key] = contrast.gap(self.sample, metric, policy, self.checklist, level=self.level)
        return self._gaps[key]

    def estimate(self, metric: MetricId, policy: NoOutputPolicy) -> Metric:
        """One metric with its interval; NotEstimable, with the reason, where the data do not define it."""
        found = self._estimate(metric, policy)
        return without_limits(found) if self.sample.unknown and isinstance(found, Estimate) else found

    def _estimate(self, metric: MetricId, policy: NoOutputPolicy) -> Metric:
        """The same, with the interval of independent images where nothing is known of patients."""
        if reason := self.sample.lacks(metric):
            return NotEstimable(reason)
        if metric.about.by == "groups":
            found = self.gap(metric, policy)
            return found if isinstance(found, NotEstimable) else found.estimate
        tally = self.sample.tally_of(metric)
        if tally is None:
            return NotEstimable(f"no {self.sample.unit} of the test set has {metric.column} = {metric.value}.")
        if self.sample.unknown:
            tally = dataclasses.replace(tally, images_a_patient=1)
        match metric.about.by:
            case "ranking":
                return self._auc(metric)
            case "score" | "calibration" | "expected_error":
                return self._calibration(metric)
            case "agreement":
                return self._agreement(metric, policy, tally)
            case "equal_grades":
                return self._balanced(metric, policy, tally)
            case "rates":
                return self._combined(metric, policy, tally)
        if metric.deployed:
            return self._standardized(metric, policy, tally)
        share = self.share(metric, policy, self.level)
        if isinstance(share, NotEstimable):
            return share
        return dataclasses.replace(share, **_beside(self._share_drawn(tally, metric, policy)))

    def share(self, metric: MetricId, policy: NoOutputPolicy, level: float) -> Metric:
        """A share of units at any level, without a bootstrap; NotEstimable where nobody is in its denominator."""
        if reason := self.sample.lacks(metric):
            return NotEstimable(reason)
        tally = self.sample.tally_of(metric)
        assert tally is not None, f"{metric}: the sample has this slice"
        found = tally.estimate(metric.about.ratio(metric.target, policy), level, self.checklist.evidence.interval)
        return found or NotEstimable(_absent(metric, tally.table, self.sample.unit))

    def all_comers(self, criterion: Criterion, metric: Metric) -> Metric | None:
        """What a criterion's metric would be over images without output too; None where it leaves none out.

        A proportion: itself, with no output as the worst case. An index, which has no worst case: the share of the
        units that it leaves out.
        """
        asked, about = criterion.id, criterion.id.about
        if isinstance(metric, NotEstimable) or criterion.policy != "excluded":
            return None
        if about.kind in ("proportion", "difference") and about.policies:
            tally = self.sample.tally_of(asked.compared)
            if tally is None or not tally.table[:, NO_OUTPUT].any():
                return None
            worst = self.estimate(asked, "worst_case")
            return None if isinstance(worst, Estimate) and worst.n == metric.n else worst
        if about.policies or about.from_probabilities:
            tally = self.sample.left_out(asked)
            interval = self.checklist.evidence.interval
            found = None if tally is None else tally.estimate(confusion.no_output(), self.level, interval)
            return found if found is not None and found.k else None
        return None

    def replicates(self, tally: Tally) -> NDArray[np.int64]:
        """(B, 30) resampled tables: patients where they are known, else images, as many as there are patients at least.

        Half as many images double every variance, as two identical images per patient would.
        """
        if tally not in self._replicates:
            fixed = self.checklist.bootstrap.class_totals == "fixed"
            self._replicates[tally] = bootstrap.resample_patients(
                tally.patterns,
                tally.counts,
                resamples=self.checklist.bootstrap.resamples,
                seed=self.seed,
                strata=bootstrap.worst_grade(tally.patterns) if fixed else None,
                inflation=tally.images_a_patient or 1,
            )
        return self._replicates[tally]

    def _drawn(self, tally: Tally, values: Values) -> list[bootstrap.BootstrapInterval | None]:
        """Bootstrap intervals of one or several metrics, by the checklist's method; None where there is none."""
        if self.sample.unknown:
            return [None]
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
        self, tally: Tally, metric: MetricId, policy: NoOutputPolicy
    ) -> bootstrap.BootstrapInterval | None:
        """The bootstrap interval of a proportion; those of one tally are drawn together: one product gives all."""
        key = (metric.whole, policy)
        if self.sample.unknown:
            return None
        if (tally, *key) not in self._shares:
            where = {"column": metric.column, "value": metric.value}
            here = [one for one in SHARES if self.sample.tally_of(one[0].but(**where)) is tally]
            keys = here if key in here else [key]
            counted = [one.about.ratio(one.target, how) for one, how in keys]
            found = self._drawn(tally, lambda tables: confusion.share(*confusion.terms(counted, tables)))
            self._shares |= {(tally, *one): interval for one, interval in zip(keys, found, strict=True)}
        return self._shares[tally, *key]

    def _combined(self, metric: MetricId, policy: NoOutputPolicy, tally: Tally) -> Metric:
        """A quantity of two shares, from the interval of each at its own effective sample size."""
        about = metric.about
        parts = [metric.but(metric=part) for part in about.parts]
        ratios = [part.about.ratio(part.target, policy) for part in parts]
        samples = [tally.effective(ratio, self.level) for ratio in ratios]
        for part, found in zip(parts, samples, strict=True):
            if found is None:
                return NotEstimable(_absent(part, tally.table, self.sample.unit))
        first, second = (found for found in samples if found is not None)
        assert about.how is not None, f"{metric} is counted from rates"
        combination: Combination = about.how()
        _, sizes = confusion.terms(ratios, tally.patterns)
        shared = int(tally.counts @ sizes.prod(axis=1))
        if not tally.whole_patients:
            # The most that there can be, so that knowing the patients never widens the interval.
            shared = (self._most_images - 1) * min(first.n, second.n)
        combined = combination.estimate(
            first, second, level=self.level, interval=self.checklist.evidence.interval, shared=shared
        )
        if isinstance(combined, Undefined):
            return NotEstimable(f"{combined.reason}.")

        def values(tables: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            rates, defined = confusion.share(*confusion.terms(ratios, tables))
            drawn, finite = combination.values(rates[:, 0], rates[:, 1])
            return drawn, finite & defined.all(axis=1)

        return Estimate(
            kind="index",
            value=combined.value,
            n=first.n + second.n,
            low=combined.low,
            high=combined.high,
            level=self.level,
            method=f"MOVER, {self.checklist.evidence.interval}",
            clusters=None if first.clusters is None else int(tally.counts @ sizes.any(axis=1)),
            **_beside(self._drawn(tally, values)[0]),
        )

    def _agreement(self, metric: MetricId, policy: NoOutputPolicy, tally: Tally) -> Metric:
        """Agreement between the reference grade and the model's."""
        assert metric.about.how is not None, f"{metric} is counted from the table"
        weights: agreement.Weights = metric.about.how()

        def values(tables: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            return agreement.kappa(confusion.square(tables, policy), weights)

        value, defined = values(tally.table)
        if not defined:
            return NotEstimable("it is not defined on these images (only one grade, or no output).")
        low, high = agreement.limits(
            confusion.square(tally.patterns, policy),
            tally.counts,
            weights,
            level=self.level,
            images_a_patient=1 if tally.named else self._most_images,
        )
        return Estimate(
            kind="index",
            value=float(value),
            n=int(tally.table[:, :NO_OUTPUT].sum() if policy == "excluded" else tally.table.sum()),
            low=low,
            high=high,
            level=self.level,
            method=f"gamma-weighted mean{self._declared}",
            clusters=int(tally.counts.sum()) if tally.named else None,
            **_beside(self._drawn(tally, values)[0]),
        )

    def _balanced(self, metric: MetricId, policy: NoOutputPolicy, tally: Tally) -> Metric:
        """Mean sensitivity of the grades present: accuracy at equal shares of these grades.

        Its exact interval is wide if a grade has few images without an error; a bootstrap interval would not be.
        """
        (share,) = metric.about.parts
        counted = metric.but(metric=share).about.ratio(metric.target, policy)
        base = tally.table[:, :NO_OUTPUT] if policy == "excluded" else tally.table
        present = base.sum(axis=1) > 0
        if not present.any():
            return NotEstimable("the model gave no output for any image.")
        found = self._at_mix(counted, tally, policy, (present / present.sum()).tolist())
        if isinstance(found, NotEstimable):
            return found
        absent = [TITLES[grade] for grade in np.flatnonzero(~present)]
        return dataclasses.replace(
            found,
            method=f"{self.checklist.evidence.interval}, standardised to equal shares of the grades present"
            + (f" (none of {', '.join(absent)})" if absent else ""),
        )

    def _standardized(self, metric: MetricId, policy: NoOutputPolicy, tally: Tally) -> Metric:
        """A proportion at the deployment mix of grades."""
        mix = self.checklist.deployment
        if mix is None:
            return NotEstimable("the checklist states no deployment mix of grades.")
        if metric.group and self.sample.dme is not None:
            return NotEstimable(
                "the deployment mix is of DR grades only and does not give the share of eyes with macular oedema."
            )
        counted = metric.about.ratio(metric.target, policy)
        found = self._at_mix(counted, tally, policy, [mix[grade] for grade in GRADES])
        if isinstance(found, NotEstimable):
            return found
        return dataclasses.replace(
            found, method=f"{self.checklist.evidence.interval}, standardised to the deployment mix"
        )

    def _at_mix(
        self, counted: confusion.Ratio, tally: Tally, policy: NoOutputPolicy, weights: list[float]
    ) -> Estimate | NotEstimable:
        """A proportion at another mix of grades."""
        found = standardized.estimate(
            counted,
            tally.patterns,
            tally.counts,
            mix=weights,
            level=self.level,
            interval=self.checklist.evidence.interval,
            no_output=policy,
            images_a_patient=1 if tally.named else self._most_images,
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
        """Which images (by eye and patient: units with probabilities for every image), of all or of a slice."""
        answered = ~np.isnan(self.sample.scores[:, 0])
        if column:
            answered &= self.sample.slices[column] == self.sample.slice_names[column].index(value)
        return answered

    def _answers(self, target: str, column: str = "", value: str = "") -> _Answers:
        """A grade or group in the units with probabilities, of the whole sample or of a slice."""
        sample, answered = self.sample, self._answered(column, value)
        ranked = sample.ranked(target)
        assert ranked is not None, f"by {sample.unit} nothing ranks {target}"
        positive, scores = np.isin(sample.graded(target), grades_of(target) or ())[answered], ranked[answered]
        patients = None if sample.patients is None else sample.patients[answered]
        return _Answers(scores, positive, patients)

    def events(self, metric: MetricId) -> tuple[int, int]:
        """Patients with an image that has the metric's endpoint, and the others; of those with probabilities.

        Where some have many more images than others, as many as would be worth as much with equally many images,
        n^2 / sum m^2 of n images, m of a patient: else a slope at the end of its range passes in up to 8 %
        (`python -m benchmarks gate-error --only calibration`). Where patients are unknown, as many as there must be:
        the images, divided by the most that one patient has.
        """
        answers = self._answers(metric.target, metric.column, metric.value)
        positive = int(answers.positive.sum())
        if answers.patients is None:
            return positive // self._most_images, (answers.positive.size - positive) // self._most_images
        having = np.isin(answers.patients, answers.patients[answers.positive])
        with_event, without = (answers.patients[side] for side in (having, ~having))
        return calibration.equal_patients(with_event), calibration.equal_patients(without)

    @property
    def _most_images(self) -> int:
        """Images of one patient at most, where patients are unknown; one where nothing is declared."""
        return self.sample.images_a_patient or 1

    @property
    def _declared(self) -> str:
        """Addition to the name of a method that allows for several images of an unknown patient."""
        most = self._most_images
        return f", with up to {most} images of a patient" if most > 1 else ""

    def _auc(self, metric: MetricId) -> Metric:
        """A grade or group against the rest."""
        if self.sample.ranked(metric.target) is None:
            return NotEstimable(
                NO_PROBABILITIES.get(self.sample.no_probabilities)
                or f"the grade of {_a(self.sample.unit)} is that of its worst image, and no image's probability of "
                f"{NAMES[metric.target]} says how probable that is; use a group of grades, or judge by image."
            )
        answers = self._answers(metric.target, metric.column, metric.value)
        if not answers.positive.size:
            return NotEstimable(f"there are no probabilities by {self.sample.unit}.")
        if self.sample.patients is not None:
            assert answers.patients is not None
            result = ranking.auc_clustered(answers.scores, answers.positive, answers.patients, level=self.level)
        else:
            result = ranking.auc_delong(
                answers.scores, answers.positive, level=self.level, images_a_patient=self._most_images
            )
        if result is None:
            return NotEstimable(
                f"it needs {self.sample.unit}s with {NAMES[metric.target]} and {self.sample.unit}s without."
            )
        return Estimate(
            kind="index",
            value=result.value,
            n=len(answers.scores),
            low=result.low,
            high=result.high,
            level=self.level,
            method=result.method + self._declared,
            clusters=result.clusters,
        )

    def _calibration(self, metric: MetricId) -> Metric:
        """Brier score, calibration slope and intercept, expected calibration error."""
        about = metric.about
        assert about.how is not None, f"{metric} is counted from probabilities"
        if why := NO_PROBABILITIES.get(self.sample.no_probabilities):
            return NotEstimable(why)
        if self.sample.unit != "image":
            return NotEstimable(
                "probabilities are of images, and the largest of several is not the probability of "
                f"{_a(self.sample.unit)}; calibration is judged by image only."
            )
        answers = self._answers(metric.target or "referable", metric.column, metric.value)
        n = len(answers.scores)
        if not n:
            return NotEstimable(f"there are no probabilities by {self.sample.unit}.")
        given: NDArray[np.float64] = answers.probabilities
        outcome: NDArray[Any] = answers.positive
        if about.by == "expected_error":
            error = about.how(given, outcome, seed=self.seed)
            if isinstance(error, Undefined):
                return NotEstimable(f"{error.reason}.")
            return Estimate(
                kind="index",
                value=error.value,
                n=n,
                expected=error.expected,
                method=f"{error.bins} bins of equal size; expected value simulated",
            )
        if not metric.target:
            answered = self._answered(metric.column, metric.value)
            given, outcome = self.sample.probabilities[answered], self.sample.reference[answered]
        found: Calibration | Undefined = about.how(
            given, outcome, answers.patients, level=self.level, images_a_patient=self._most_images
        )
        if isinstance(found, Undefined):
            return NotEstimable(f"{found.reason}.")
        drawn = None
        if about.by == "calibration":
            drawn = self._calibration_drawn(metric)[metric.metric == "calibration_intercept"]
        return Estimate(
            kind="index",
            value=found.value,
            n=n,
            low=found.low,
            high=found.high,
            level=self.level,
            method=("patient sandwich" if found.clusters is not None else "sandwich") + self._declared,
            clusters=found.clusters,
            **_beside(drawn),
        )

    def _calibration_drawn(
        self, metric: MetricId
    ) -> tuple[bootstrap.BootstrapInterval | None, bootstrap.BootstrapInterval | None]:
        """Bootstrap intervals of slope and intercept, where patients are known and images not too many."""
        key = (metric.target, metric.column, metric.value)
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

    scores: its summed probability. positive: whether the reference has it. patients: codes, None where unknown.
    """

    scores: NDArray[np.float64]
    positive: NDArray[np.bool_]
    patients: NDArray[np.int64] | None

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """The scores, limited to [0, 1]: rounded digits may sum to more."""
        return np.clip(self.scores, 0.0, 1.0)


def without_limits(found: Estimate) -> Estimate:
    """The figure alone: where nothing is known of patients."""
    return Estimate(found.kind, found.value, found.k, found.n, expected=found.expected)


def _beside(shown: bootstrap.BootstrapInterval | None) -> dict[str, Any]:
    """The bootstrap interval that is shown with the one that decides."""
    return {} if shown is None else {"bootstrap": (shown.low, shown.high), "bootstrap_undefined": shown.undefined}


def _a(unit: str) -> str:
    return f"{'an' if unit in ('image', 'eye') else 'a'} {unit}"


def _columns(
    found: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values of one metric as a column; those of several metrics unchanged."""
    values, defined = found
    return values.reshape(len(values), -1), defined.reshape(len(values), -1)


def _absent(metric: MetricId, table: NDArray[np.int64], unit: str) -> str:
    """Why a share has no denominator."""
    about, grades = metric.about, grades_of(metric.target)
    who = about.who(metric.target)
    if about.depends_on_answers:
        return f"no {unit} was {who}."
    rows = table if grades is None else table[np.isin(np.arange(5), grades) != (about.counted == "without")]
    who = "with a grade" if grades is None else who
    if rows.sum() == 0:
        return f"the {'slice' if metric.column else 'test set'} has no {unit} {who}."
    return f"the model gave no output for any of the {rows.sum()} {unit}s {who}."


SHARES: Final[tuple[tuple[MetricId, NoOutputPolicy], ...]] = tuple(
    (one, one.default_policy) for one in measured() if one.about.is_share and not one.about.of_reference
)
"""The proportions of a tally of answers, each with its default policy."""
