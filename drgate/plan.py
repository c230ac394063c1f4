"""How many patients of each grade a checklist needs, and criteria that no model can pass on a given test set.

    result = plan(load_checklist("medical-grade"), prevalence=parse_prevalence("no_dr=0.7,..."))
    result.lines[1].needed                      # Needed(patients=152, images=228, power=0.81, method='simulated')
    plan(checklist, data=load_planned("labels.csv")).never      # ids of the criteria that no model passes there

Everything is counted in patients: the share `planning.two_images` of them have two images in a criterion's
denominator, the others one, and the errors of one patient's images have the correlation `planning.correlation`. There
is no default for a true value that the checklist does not state.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp

from drgate.checklist import Checklist, Criterion, ended, grade_mix, level_words, not_a_fraction, parse_checklist
from drgate.contrast import BLANK
from drgate.errors import ANSWERS, ExitCode, ManifestError, UsageError
from drgate.manifest import has_header, load_manifest
from drgate.mapping import PLAIN, ColumnMap
from drgate.metrics import METRICS, MetricId, grades_of
from drgate.predictions import ANSWERS as COLUMNS_OF_A_MODEL
from drgate.predictions import Predictions, load_predictions, planned
from drgate.sample import Sample
from drgate.scale import GRADES
from drgate.stats import agreement, cluster, confusion, power
from drgate.tables import read_table

ASSURANCE: Final = 0.9
"""Probability that the patients to screen include the cases that are needed."""

CURVE: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0)
"""Where the power curve is drawn, as multiples of the patients needed."""


@dataclass(frozen=True, slots=True)
class Here:
    """One criterion on a given test set.

    patients, images: in its denominator; patients is None where they are not known.
    bound: the deciding limit of a model without errors; None without an image.
    can_pass: whether that model passes. why: why not; empty where it does.
    power: chance of passing at the expected true value, None without one; method: "exact" or "simulated"; se: its Monte
    Carlo standard error. seems_unfair: of a gap, the chance that the observed gap of a fair model misses the rule.
    """

    patients: int | None
    images: int
    bound: float | None
    can_pass: bool
    why: str = ""
    power: float | None = None
    method: str | None = None
    se: float | None = None
    seems_unfair: float | None = None


@dataclass(frozen=True, slots=True)
class LinePlan:
    """What one criterion on a proportion, on kappa or on the gap between groups, needs.

    threshold, comparator: as the checklist has them. expected: the stated true value, None where there is none.
    without_miss: fewest patients with which a model without errors passes; None where no number is enough.
    needed: patients from which the power is at least the planned one; None with the reason in `why`. Both with as many
        images per patient as in the given test set, where it has a case, else as planned.
    grades: whose patients count, by worst eye; empty where that depends on the predictions.
    curve: (patients, power), at the multiples `CURVE` of what is needed.
    groups: of a gap, how many; the numbers of patients are those in each, for a fair model, whose rate is the expected
        one in every group. seems_unfair: the chance that its observed gap misses the rule with the patients needed.
    mix: of kappa, the shares of the five grades that it is planned for; empty where none is known. one_off: the share
        of images graded one grade off that gives the expected kappa there.
    """

    id: str
    required: bool
    comparator: str
    threshold: float
    expected: float | None
    without_miss: int | None
    needed: power.Needed | None
    why: str
    grades: tuple[str, ...]
    curve: tuple[tuple[int, float], ...] = ()
    here: Here | None = None
    groups: int | None = None
    seems_unfair: float | None = None
    mix: tuple[float, ...] = ()
    one_off: float | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """The smallest test set with enough patients for every required criterion, and how many patients to screen for it.

    by_grade: patients to keep, by the grade of the worse eye. without_expectation: criteria without a stated
    true value, which count with the fewest patients that could pass.
    prevalence: share of patients by worst eye; empty where it is not stated, and then the rest is absent.
    screened_expected, screened: patients to screen, on average and with the probability `ASSURANCE`, for the grade that
    needs most, `bottleneck`; both None where a grade that is needed has no patients.
    """

    by_grade: Mapping[str, int]
    without_expectation: tuple[str, ...]
    prevalence: Mapping[str, float]
    bottleneck: str = ""
    screened_expected: int | None = None
    screened: int | None = None

    @property
    def patients(self) -> int:
        """Patients to keep, in all."""
        return sum(self.by_grade.values())


@dataclass(frozen=True, slots=True)
class Plan:
    """Cases, power and feasibility of a checklist.

    power: planned for each criterion. joint_power: of all required criteria with an expected value on the smallest test
    set, their powers multiplied as if they were independent; joint_here the same on the given test set.
    power_each: the power for each criterion that gives the planned power for all together, rounded up; None where the
    joint power is high enough.
    not_planned: criteria that are neither a proportion of images, a kappa nor a gap, with the reason.
    data: origin, split, rows (of the split, and in all), unit, units, patients and counts by grade of the given test
        set; empty without one.
    """

    spec: Mapping[str, Any]
    unit: str
    decided_on: str
    level: float
    looks: int
    power: float
    two_images: float
    correlation: float
    lines: tuple[LinePlan, ...]
    not_planned: tuple[tuple[str, str], ...]
    collection: Collection | None
    joint_power: float | None
    joint_here: float | None
    power_each: float | None
    data: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def never(self) -> tuple[str, ...]:
        """Criteria, required or not, that no model passes on the given test set."""
        return tuple(line.id for line in self.lines if line.here is not None and not line.here.can_pass)

    @property
    def exit_code(self) -> int:
        """1 where no model can pass a required criterion on the given test set, else 0."""
        return (
            ANSWERS["never"] if any(line.required and line.id in self.never for line in self.lines) else ExitCode.PASSED
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; what does not apply is absent."""
        plain: dict[str, Any] = _present(dataclasses.asdict(self))
        plain["not_planned"] = [{"id": name, "reason": reason} for name, reason in self.not_planned]
        if self.collection is not None:
            plain["collection"]["patients"] = self.collection.patients
        return plain | {"never": list(self.never)}


def plan(
    checklist: Checklist,
    *,
    prevalence: Mapping[str, float] | None = None,
    data: Predictions | None = None,
    looks: int = 1,
) -> Plan:
    """Plan a checklist, at its own `expect` and `planning` (`with_planning` changes those).

    prevalence: share of patients by the grade of their worse eye (`parse_prevalence`); default: the checklist's
        deployment mix. Kappa is planned for the grades of the test set, where one is given and no prevalence.
    data: a test set with reference grades (`load_planned`); predictions in it are ignored. looks: how many its log
        allows, where that is more than the checklist does.
    """
    looks = max(checklist.looks, looks)
    level = 1 - (1 - checklist.evidence.level) / looks
    sample = None if data is None else Sample.of(data, checklist)
    planner = _Planner(checklist, level, sample, prevalence or {})
    prevalence = prevalence or checklist.deployment or {}
    lines, left_out = [], []
    for criterion in checklist.each_criterion(None if sample is None else sample.slice_names):
        if reason := _not_planned(criterion):
            left_out.append((criterion.id, reason))
        else:
            lines.append(planner.gap(criterion) if criterion.id.of else planner.line(criterion))
    collection, notes = _collection(lines, prevalence)
    notes = [*notes, *(() if data is None else data.notes)]
    required = [line for line in lines if line.required]
    here = [line.here.power for line in required if line.here is not None and line.here.power is not None]
    shown = (
        []
        if collection is None
        else [
            planner.power_with(line, sum(collection.by_grade[grade] for grade in line.grades))
            for line in required
            if line.needed is not None and line.grades
        ]
    )
    joint = power.joint_power(shown) if shown else None
    short = joint is not None and joint < checklist.planning.power
    return Plan(
        spec={"name": checklist.name, "version": checklist.version, "digest": checklist.digest},
        unit=checklist.unit,
        decided_on=checklist.evidence.decide_on,
        level=level,
        looks=looks,
        power=checklist.planning.power,
        two_images=checklist.planning.two_images if checklist.unit == "image" else 0.0,
        correlation=checklist.planning.correlation,
        lines=tuple(lines),
        not_planned=tuple(left_out),
        collection=collection,
        joint_power=joint,
        joint_here=power.joint_power(here) if here else None,
        power_each=math.ceil(1000 * checklist.planning.power ** (1 / len(shown))) / 1000 if short else None,
        data={}
        if data is None or sample is None
        else {"origin": data.origin, **data.provenance.get("planned", {}), **sample.counts()},
        notes=(
            *_nothing_passes(checklist, sample),
            *_assumptions(checklist, level, looks, lines, sample),
            *notes,
        ),
    )


class _Planner:
    """Plans the criteria of one checklist, with or without a given test set."""

    def __init__(
        self, checklist: Checklist, level: float, sample: Sample | None, prevalence: Mapping[str, float]
    ) -> None:
        self.checklist, self.level, self.sample, self.prevalence = checklist, level, sample, prevalence
        self.planned: dict[str, tuple[Criterion, list[int], list[int]]] = {}
        self.lacking = "" if sample is None or sample.no_patients is None else sample.no_patients.why
        self.most = 1 if sample is None else sample.images_a_patient or 1
        self.point = checklist.evidence.decide_on == "point"

    def line(self, criterion: Criterion) -> LinePlan:
        """What one criterion needs."""
        expected = self.checklist.expected(criterion.id)
        limit = criterion.as_high(criterion.threshold)
        without = needed = one_off = None
        why = ""
        kappa = _is_kappa(criterion)
        mix = self._mix(criterion) if kappa else ()
        if kappa and expected is not None and mix:
            one_off = power.one_grade_off(expected, weights=_weights(criterion), mix=mix)
        if not 0 < limit < 1:
            why = "no number of patients is enough for this threshold"
        elif kappa and not mix:
            why = "it depends on the mix of grades; give --prevalence, --data or, in the checklist, deployment"
        else:
            sizes, counts = self._images(criterion)
            without = self._without_miss(criterion, limit, sizes, counts)
            if expected is None:
                why = "no expected true value stated"
            elif criterion.as_high(expected) <= limit:
                why = "the expected true value does not exceed the threshold"
            elif kappa and one_off is None:
                why = "at this mix of grades, errors of one grade never make it as low as expected"
            else:
                needed = (power.patients_for_kappa if kappa else power.patients_to_show)(
                    limit,
                    true=criterion.as_high(expected),
                    target=self.checklist.planning.power,
                    sizes=sizes,
                    counts=counts,
                    **self._drawing(criterion, mix),
                )
                why = "" if needed else "no realistic number: the expected true value is too close to the threshold"
        found = LinePlan(
            criterion.id,
            criterion.required,
            criterion.comparator,
            criterion.threshold,
            expected,
            without,
            needed,
            why,
            _grades(criterion),
            here=self.here(criterion, expected),
            mix=mix,
            one_off=one_off,
        )
        self.planned[criterion.id] = (criterion, *self._images(criterion))
        if needed is None:
            return found
        at = sorted({max(1, round(part * needed.patients)) for part in CURVE})
        return dataclasses.replace(found, curve=tuple((n, self.power_with(found, n)) for n in at))

    def gap(self, criterion: Criterion) -> LinePlan:
        """What a gap needs in each group, and how often a fair model passes or seems unfair."""
        asked, limit = criterion.id, criterion.threshold
        expected = self.checklist.expected(asked.compared)
        groups = max(2, len(self._groups(asked)))
        found = LinePlan(
            asked,
            criterion.required,
            criterion.comparator,
            limit,
            expected,
            None,
            None,
            "",
            (),
            here=self._gap_here(criterion, expected),
            groups=groups,
        )
        if not 0 < limit < 1:
            return dataclasses.replace(found, why="no number of patients is enough for this threshold")
        two = self.checklist.planning.two_images if self.checklist.unit == "image" else 0.0
        sizes, counts = [1, 2], [round(1000 * (1 - two)), round(1000 * two)]
        # Without an error every difference has the upper limit 1 - lower limit.
        fewest = self._without_miss(criterion, 1 - limit, sizes, counts)
        found = dataclasses.replace(found, without_miss=fewest)
        if expected is None:
            return dataclasses.replace(found, why="no expected true value stated")
        if self.point:
            return dataclasses.replace(found, why="no number of patients is planned for an observed gap")
        needed = power.patients_for_gap(
            limit,
            true=expected,
            target=self.checklist.planning.power,
            level=self.level,
            groups=groups,
            interval=self.checklist.evidence.interval,
            sizes=sizes,
            counts=counts,
            icc=self.checklist.planning.correlation,
        )
        if needed is None:
            return dataclasses.replace(found, why="no realistic number of patients in each group is enough")
        share = [round(needed.patients * many / sum(counts)) for many in counts]
        seems = self._fair(limit, expected, [(sizes, share)] * groups).seems_unfair
        return dataclasses.replace(found, needed=needed, seems_unfair=seems)

    def _groups(self, asked: MetricId) -> list[str]:
        """The groups of a gap: those that the checklist names, and of the given test set; "" for blank cells."""
        names = [*next(one.groups or {} for one in self.checklist.slices if one.by == asked.column)]
        if self.sample is not None:
            names += self.sample.slice_names.get(asked.column, ())
            names += [""] if (self.sample.slices[asked.column] < 0).any() else []
        return list(dict.fromkeys(names))

    def _gap_here(self, criterion: Criterion, expected: float | None) -> Here | None:
        """A gap on the given test set; None without one."""
        if self.sample is None:
            return None
        asked = criterion.id
        if reason := self.sample.lacks(asked):
            return Here(None, 0, None, False, reason.removesuffix("."))
        sizes: list[tuple[list[int], list[int]]] = []
        lows = []
        ratio = asked.compared.about.ratio(asked.target, asked.default_policy)
        fewest = max(1, self.checklist.fewest_positives(criterion))
        for name in self._groups(asked):
            tally = self.sample.tally(asked.column, name, asked.target)
            each, counts = ([], []) if tally is None else tally.sizes(ratio)
            n = sum(size * count for size, count in zip(each, counts, strict=True))
            if n < fewest:
                why = f"the group {asked.column} = {name or BLANK} has {n} of the {fewest} cases needed"
                return Here(None, 0, None, False, why)
            best = cluster.effective_sample(np.array(each), np.array(each), level=self.level, counts=np.array(counts))
            lows.append(cluster.bounds(best, level=self.level, interval=self.checklist.evidence.interval).low)
            sizes.append((each, counts))
        images = sum(size * count for each, counts in sizes for size, count in zip(each, counts, strict=True))
        patients = None if self.lacking or self.most > 1 else sum(sum(counts) for _, counts in sizes)
        if len(sizes) < 2:
            return Here(patients, images, None, False, f"every {self.checklist.unit} is in one group")
        bound, limit = 1 - min(lows), criterion.threshold
        if not self.point and bound > limit:
            why = f"even without an error the upper limit is {100 * bound:.1f} points"
            return Here(patients, images, bound, False, why, 0.0)
        if expected is None or not 0 < limit < 1:
            return Here(patients, images, bound, True)
        fair = self._fair(limit, expected, sizes)
        passes = 1 - fair.seems_unfair if self.point else fair.passes
        return Here(patients, images, bound, True, "", passes, "simulated", fair.se, fair.seems_unfair)

    def _fair(self, limit: float, true: float, groups: Sequence[tuple[list[int], list[int]]]) -> power.Fair:
        return power.fair_gap(
            limit,
            true=true,
            level=self.level,
            groups=groups,
            interval=self.checklist.evidence.interval,
            icc=self.checklist.planning.correlation,
        )

    def power_with(self, line: LinePlan, patients: int) -> float:
        """Power of a planned criterion with so many patients, with images per patient as planned; 0 with none."""
        if patients == 0 or line.expected is None:
            return 0.0
        if line.needed is not None and patients == line.needed.patients:
            return line.needed.power
        criterion, sizes, counts = self.planned[line.id]
        # Whole patients in these proportions, those with most images first.
        upto = np.rint(np.cumsum(counts[::-1]) * (patients / sum(counts))).astype(int)
        dealt = np.diff(upto, prepend=0)[::-1].tolist()
        return self._passing(criterion, line.expected, sizes, dealt, line.mix).probability

    def _images(self, criterion: Criterion) -> tuple[list[int], list[int]]:
        """Numbers of images per patient in the denominator, and how many patients (or what share) have each.

        Of the given test set; as planned without one, where it has no case, and where the denominator depends on the
        predictions.
        """
        found = None if criterion.id.about.depends_on_answers or self.lacking else self._counted(criterion)
        if found is not None:
            return ([self.most], [1]) if self.most > 1 else found
        two = self.checklist.planning.two_images if self.checklist.unit == "image" else 0.0
        return [1, 2], [round(1000 * (1 - two)), round(1000 * two)]

    def _counted(self, criterion: Criterion) -> tuple[list[int], list[int]] | None:
        """The same of the given test set; None without any."""
        metric = criterion.id
        tally = None if self.sample is None or self.sample.lacks(metric) else self.sample.tally_of(metric)
        if tally is None:
            return None
        # Every image has output here, so the policy for images without does not matter. Kappa counts all, as accuracy.
        about = METRICS["accuracy"] if _is_kappa(criterion) else metric.about
        sizes, counts = tally.sizes(about.ratio(metric.target, metric.default_policy))
        return (sizes, counts) if sizes else None

    def _mix(self, criterion: Criterion) -> tuple[float, ...]:
        """Shares of the grades that kappa is planned for: as stated, else of the test set, else at deployment."""
        found = self.prevalence or ({} if self._own_mix(criterion) else self.checklist.deployment or {})
        return tuple(found[grade] for grade in GRADES) if found else self._own_mix(criterion)

    def _own_mix(self, criterion: Criterion) -> tuple[float, ...]:
        """Shares of the grades in the given test set; empty without one."""
        lacking = self.sample is None or self.sample.lacks(criterion.id)
        tally = None if lacking or self.sample is None else self.sample.tally_of(criterion.id)
        return () if tally is None else tuple((tally.table.sum(axis=1) / tally.table.sum()).tolist())

    def _drawing(self, criterion: Criterion, mix: Sequence[float]) -> dict[str, Any]:
        """How patients are drawn, of kappa with the grades of a mix, and what decides."""
        own: dict[str, Any] = {"interval": self.checklist.evidence.interval}
        if _is_kappa(criterion):
            own = {"weights": _weights(criterion), "mix": mix}
        return own | {
            "level": self.level,
            "icc": self.checklist.planning.correlation,
            "strict": criterion.strict,
            "point": self.point,
            "images_a_patient": self.most,
        }

    def _without_miss(self, criterion: Criterion, limit: float, sizes: list[int], counts: list[int]) -> int | None:
        """Fewest patients with which a model without errors passes."""
        if self.point:  # kappa is defined from two grades on
            return 2 if _is_kappa(criterion) else 1
        if _is_kappa(criterion):
            return power.kappa_without_miss(
                limit,
                level=self.level,
                sizes=sizes,
                counts=counts,
                images_a_patient=self.most,
                weights=_weights(criterion),
                mix=self._mix(criterion),
            )
        interval = self.checklist.evidence.interval
        found = power.smallest_without_miss(limit, level=self.level, interval=interval, images=sizes, counts=counts)
        while found is not None and self.most > 1:
            n = self.most * found
            best = cluster.unknown_clusters(n, n, images_a_patient=self.most, level=self.level)
            if cluster.bounds(best, level=self.level, interval=interval).low >= limit:
                break
            found += 1
        return found

    def here(self, criterion: Criterion, expected: float | None) -> Here | None:
        """The criterion on the given test set; None without one."""
        if self.sample is None:
            return None
        if reason := self.sample.lacks(criterion.id):
            return Here(None, 0, None, False, reason.removesuffix("."))
        found = self._counted(criterion)
        if found is None:
            return Here(None, 0, None, False, "no case in this test set")
        sizes, counts = found
        n = sum(size * count for size, count in zip(sizes, counts, strict=True))
        if self.lacking and not self.point:
            return Here(None, n, None, False, self.lacking)
        if criterion.id.about.of_reference:
            return self._of_reference(criterion, sum(counts))
        who = None if self.lacking or self.most > 1 else sum(counts)
        if self.most > 1:
            best = cluster.unknown_clusters(n, n, images_a_patient=self.most, level=self.level)
        else:
            each = np.array(sizes)
            best = cluster.effective_sample(each, each, level=self.level, counts=np.array(counts))
        low = cluster.bounds(best, level=self.level, interval=self.checklist.evidence.interval).low
        mix = self._own_mix(criterion)
        if _is_kappa(criterion):
            if max(mix) == 1:
                return Here(who, n, None, False, "kappa is not defined where all have one grade")
            low = self._kappa_without_error(criterion)
        bound, limit = criterion.as_high(low), criterion.as_high(criterion.threshold)
        cases = f"{n} {self.checklist.unit}{'' if n == 1 else 's'}"
        if who is not None and self.checklist.unit != "patient":
            cases += f" of {who} patient{'' if who == 1 else 's'}"
        elif self.most > 1:
            cases += f", {self.most} of each patient as declared"
        if n < (fewest := self.checklist.fewest_positives(criterion)):
            return Here(who, n, bound, False, f"{cases}, and the checklist requires {fewest}")
        if not self.point and low < limit:
            side = "lower" if criterion.upward else "upper"
            # A limit just below the threshold is not rounded up to it.
            shown = f"{math.floor(1000 * bound) / 1000:.3f}" if _is_kappa(criterion) else f"{100 * bound:.1f} %"
            without = f"{cases}: even without an error the {side} limit is {shown}"
            return Here(who, n, bound, False, without, 0.0)
        if expected is None or not 0 < limit < 1 or criterion.id.about.depends_on_answers:
            return Here(who, n, bound, True)
        if _is_kappa(criterion) and power.one_grade_off(expected, weights=_weights(criterion), mix=mix) is None:
            return Here(who, n, bound, True)
        chance = self._passing(criterion, expected, sizes, counts, mix)
        return Here(who, n, bound, True, "", chance.probability, chance.method, chance.se)

    def _of_reference(self, criterion: Criterion, patients: int) -> Here:
        """A criterion on the reference grades: whether this test set meets it, whatever the model answers."""
        metric = criterion.id
        tally = None if self.sample is None else self.sample.tally_of(metric)
        assert tally is not None, "it was counted"
        found = tally.effective(metric.about.ratio(metric.target, metric.default_policy), self.level)
        assert found is not None, "a test set has an image"
        high = cluster.bounds(found, level=self.level, interval=self.checklist.evidence.interval).high
        decides = found.k / found.n if self.point else high
        meets = decides < criterion.threshold or (decides == criterion.threshold and not criterion.strict)
        side = "" if self.point else f": the upper limit is {100 * high:.1f} %"
        why = "" if meets else f"{found.k} of {found.n} images have no reference grade{side}"
        return Here(None if self.lacking or self.most > 1 else patients, found.n, high, meets, why)

    def _kappa_without_error(self, criterion: Criterion) -> float:
        """The lower limit of kappa of a model without errors on the given test set."""
        tally = None if self.sample is None else self.sample.tally_of(criterion.id)
        assert tally is not None, "it was counted"
        patterns = confusion.square(tally.patterns, criterion.policy)
        return agreement.limits(
            patterns, tally.counts, _weights(criterion), level=self.level, images_a_patient=self.most
        )[0]

    def _passing(
        self, criterion: Criterion, true: float, sizes: Sequence[int], counts: Sequence[int], mix: Sequence[float]
    ) -> power.Passing:
        return (power.passing_kappa if _is_kappa(criterion) else power.passing)(
            criterion.as_high(criterion.threshold),
            true=criterion.as_high(true),
            sizes=sizes,
            counts=counts,
            replicates=4000,
            **self._drawing(criterion, mix),
        )


def with_planning(
    checklist: Checklist,
    *,
    expect: Mapping[str, float] | None = None,
    power: float | None = None,
    two_images: float | None = None,
    correlation: float | None = None,
) -> Checklist:
    """The checklist with other expected values (added to its own) and other assumptions for planning.

    Raises UsageError for a value that is no fraction, ChecklistError for an expectation of something that there is not.
    """
    content = checklist.content()
    for name, value in (expect or {}).items():
        if not 0 < value < 1:
            raise UsageError(f"--expect {name}: {ended(not_a_fraction(value))}")
    planning = {"power": power, "two_images": two_images, "correlation": correlation}
    for name, given in planning.items():
        if given is not None and not (0 < given < 1 if name == "power" else 0 <= given <= 1):
            raise UsageError(f"--{name.replace('_', '-')}: {ended(not_a_fraction(given))}")
    content["expect"] = {**checklist.expect, **(expect or {})}
    content["planning"] = {**content["planning"], **{name: v for name, v in planning.items() if v is not None}}
    return parse_checklist(content, f"{checklist.name} with --expect")


def parse_expect(text: str) -> dict[str, float]:
    """`severe_npdr=0.96,pdr=0.985` as numbers by name. Raises UsageError."""
    return _pairs(text, "--expect", "such as severe_npdr=0.96,pdr=0.985")


def parse_prevalence(text: str) -> dict[str, float]:
    """Share of patients by the grade of their worse eye: all five grades, sum 1 within 1e-6. Raises UsageError."""
    shares = _pairs(
        text, "--prevalence", "such as no_dr=0.7,mild_npdr=0.1,moderate_npdr=0.14,severe_npdr=0.04,pdr=0.02"
    )
    try:
        return grade_mix(shares)
    except ValueError as problem:
        raise UsageError(f"--prevalence: {ended(str(problem))}") from problem


def load_planned(path: Path, *, split: str = "test", columns: ColumnMap = PLAIN) -> Predictions:
    """A test set to plan with: a manifest (folder, CSV, Parquet) or a table of predictions, which are dropped.

    split: which one, of a manifest that has splits. columns: which of its columns is which. Only patients, reference
    grades and the columns that a checklist slices by matter: every graded image counts as correctly predicted. The
    image files of a table need not exist.
    """
    table, about, notes = _rows(path, split, columns)
    return dataclasses.replace(planned(table, str(path), about), notes=notes)


def _rows(path: Path, split: str, columns: ColumnMap) -> tuple[pd.DataFrame, dict[str, Any], tuple[str, ...]]:
    """The rows to plan with; their split and numbers of rows where there are splits; and how they were read."""
    if path.is_file() and has_header(path, columns):
        names = read_table(path, "a test set", ManifestError, columns=columns).columns
        if {*COLUMNS_OF_A_MODEL} & {*names}:
            predictions = load_predictions(path, columns=columns)
            return predictions.table, {}, predictions.notes
    manifest = load_manifest(path, files=False, columns=columns)
    if not manifest.table["split"].notna().any():
        return manifest.table, manifest.named_by(), (*manifest.mapped(),)
    chosen = manifest.select(split)
    rows = {"split": len(chosen), "all": len(manifest)}
    return chosen.table, {"planned": {"split": split, "rows": rows}, **chosen.named_by()}, (*manifest.mapped(),)


def _pairs(text: str, option: str, example: str) -> dict[str, float]:
    """`name=number` between commas. Raises UsageError."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.rpartition("="))
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not name or not equals or not math.isfinite(value):
            raise UsageError(f"{option}: {part.strip()!r} is not name=number; expected pairs {example}.")
        if name in found:
            raise UsageError(f"{option}: {name} is given twice; give it once.")
        found[name] = value
    return found


def _not_planned(criterion: Criterion) -> str:
    """Why a criterion has no number of cases; empty where it has one."""
    about = criterion.id.about
    if about.of_the_run:
        return "about the training run, another model, readers or an audit, not the test images alone"
    if not about.is_expected and about.by != "groups":
        return "neither a proportion of images nor a kappa"
    return "at the deployment mix, which depends on the rates of all grades" if criterion.id.deployed else ""


def _is_kappa(criterion: Criterion) -> bool:
    return criterion.id.about.by == "agreement"


def _weights(criterion: Criterion) -> agreement.Weights:
    about = criterion.id.about
    assert about.how is not None, f"{about.name} is a kappa"
    found: agreement.Weights = about.how()
    return found


def _grades(criterion: Criterion) -> tuple[str, ...]:
    """Grades whose patients a criterion counts; empty where that depends on the predictions, a slice or a mix."""
    about = criterion.id.about
    if criterion.id.column or about.depends_on_answers or _is_kappa(criterion):
        return ()
    inside = grades_of(criterion.id.target) or range(5)
    return tuple(grade for i, grade in enumerate(GRADES) if (i in inside) != (about.counted == "without"))


def _collection(lines: Sequence[LinePlan], prevalence: Mapping[str, float]) -> tuple[Collection | None, list[str]]:
    """The smallest test set for the required criteria, and why there is none."""
    counted = [line for line in lines if line.required and line.grades]
    if hopeless := [line.id for line in counted if line.needed is None and (line.expected or not line.without_miss)]:
        return None, [f"No test set is planned: no number of patients is enough for {', '.join(hopeless)}."]
    if not counted:
        return None, ["No test set is planned: no required criterion counts patients by grade."]
    needs = [line.needed.patients if line.needed else line.without_miss or 0 for line in counted]
    common = sorted(GRADES, key=lambda grade: -prevalence.get(grade, 0.0))
    by_grade = _smallest([[grade in line.grades for grade in common] for line in counted], needs)
    kept = {grade: by_grade[common.index(grade)] for grade in GRADES}
    unstated = tuple(line.id for line in counted if line.needed is None)
    if not prevalence:
        return Collection(kept, unstated, {}), []
    scarce = [grade for grade in GRADES if kept[grade] and not prevalence[grade]]
    if scarce:
        return Collection(kept, unstated, dict(prevalence), scarce[0]), [
            f"{scarce[0]} is needed, but its prevalence is 0, so screening finds no such patient; change --prevalence."
        ]
    bottleneck = max(GRADES, key=lambda grade: kept[grade] / prevalence[grade] if kept[grade] else 0.0)
    needed, share = kept[bottleneck], prevalence[bottleneck]
    screened = power.patients_to_screen(needed, share, assurance=ASSURANCE)
    return Collection(kept, unstated, dict(prevalence), bottleneck, math.ceil(needed / share), screened), []


def _smallest(counts: Sequence[Sequence[bool]], needs: Sequence[int]) -> list[int]:
    """Fewest patients by grade that are enough for each criterion; of several such sets, most of the first grades."""
    grades = np.arange(len(counts[0]))
    ones = np.ones_like(grades)
    enough = LinearConstraint(np.array(counts, dtype=float), lb=np.array(needs, dtype=float))

    def least(cost: NDArray[np.int64], *conditions: LinearConstraint) -> NDArray[np.int64]:
        found = milp(cost, integrality=ones, constraints=conditions, options={"mip_rel_gap": 0.0}).x
        assert found is not None, "any number of patients is allowed"
        return np.rint(found).astype(np.int64)

    fewest = least(ones, enough).sum()
    chosen = least(grades, enough, LinearConstraint(ones[None, :], ub=np.array([float(fewest)])))
    return [int(n) for n in chosen]


def _nothing_passes(checklist: Checklist, sample: Sample | None) -> list[str]:
    """What to do about a test set whose patients are not known."""
    if sample is None or sample.no_patients is None or checklist.evidence.decide_on == "point":
        return []
    return [f"No criterion on images can pass on this test set: {sample.no_patients}"]


def _assumptions(
    checklist: Checklist, level: float, looks: int, lines: Sequence[LinePlan], sample: Sample | None
) -> list[str]:
    """The assumptions behind the numbers, in sentences."""
    wanted = checklist.planning.power
    notes = []
    if checklist.unit == "image":
        as_planned = f"{100 * checklist.planning.two_images:g} % of patients contribute two images to a criterion"
        most = 1 if sample is None else sample.images_a_patient or 1
        as_given = (
            f"Each patient contributes {most} images to a criterion, as the checklist declares"
            if most > 1
            else "Patients contribute as many images to a criterion as in this test set"
        )
        given = sample is not None and sample.no_patients is None
        notes.append(
            f"{f'{as_given}; where it has no case, {as_planned}' if given else as_planned}, the others one. "
            f"Errors of one patient's images have a correlation of {checklist.planning.correlation:g}."
        )
    if checklist.evidence.decide_on == "point":
        notes.append("The checklist decides on estimates: power is the chance that an estimate meets its rule.")
    if looks > 1:
        notes.append(f"{looks} looks are declared, so each is tested at the level {level_words(level)} (two-sided).")
    planned = [line for line in lines if line.required and line.needed is not None]
    if len(planned) > 1:
        notes.append(
            f"If each of {len(planned)} required criteria had exactly {100 * wanted:g} % power, all "
            f"{len(planned)} would pass with {100 * wanted ** len(planned):.0f} % (taken as independent)."
        )
    if unstated := [line.id for line in lines if line.expected is None]:
        notes.append(f"No power without an expected true value (expect, or --expect): {', '.join(unstated)}.")
    if apart := [line.id for line in lines if not line.grades and line.needed is not None]:
        notes.append(
            f"Not in the test set by grade, because their patients are not chosen by grade: {', '.join(apart)}."
        )
    return notes


def _present(value: Any) -> Any:
    """Without the keys that do not apply."""
    if isinstance(value, dict):
        return {key: _present(inner) for key, inner in value.items() if inner is not None}
    return [_present(inner) for inner in value] if isinstance(value, (list, tuple)) else value
