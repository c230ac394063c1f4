"""A locked operating point: cut-offs on P(grade >= k), on a severity or on the probability of referable, with a margin
for the differences of a new test set.

    found = tune(load_predictions("val.parquet"), load_checklist("screening-referable"))
    if isinstance(found, Infeasible): print(found.reason)
    else: write_operating_point(found, Path("operating-point.json"))

Cut-offs that just pass a checklist on the tuning table pass it on the next table half of the time at best. So each
required sensitivity, specificity, accuracy and rate of grave errors must meet its rule with its limit on the tuning
table, and the chance that all of them pass on the planned test set must be at least the power that the checklist plans
with. Of the cut-offs that do so, those with the best specificity are chosen.

The search compares every combination of up to 24 values per cut-off: first over all values that no criterion excludes,
then between the neighbours of the best combination, until no value is between them (or for `ROUNDS`). The result meets
every criterion by the limits that an evaluation uses. Where no cut-off has more than 24 candidate values (`complete`),
it is the best of all combinations, and "infeasible" is a proof.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgate.checklist import RULE_WORDS, Checklist, Criterion
from drgate.columns import graded_rows
from drgate.errors import ChecklistError, PredictionsError, UsageError
from drgate.looks import USUAL, Log
from drgate.metrics import BELOW_REFERABLE, METRICS, RIGHT_EYE, MetricId
from drgate.operating_point import OperatingPoint, make_operating_point
from drgate.predictions import NO_PROBABILITIES, Predictions, planned
from drgate.sample import Flags, Floats, Ints, Sample
from drgate.scale import GRADES, GROUPS, TITLES
from drgate.stats import cluster, confusion
from drgate.stats.predictive import predictive_power

if TYPE_CHECKING:
    from drgate.manifest import Manifest

VALUES: Final = 24
"""Values of each cut-off that are combined in one round."""

ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Infeasible:
    """No cut-offs were found; `reason` names the criterion that was not met, and by how much.

    complete: whether every combination was compared, so that there are none.
    """

    reason: str
    complete: bool

    def to_json(self) -> dict[str, Any]:
        return {"status": "infeasible", "reason": self.reason, "complete": self.complete}


def tune(
    predictions: Predictions, checklist: Checklist, *, test: Manifest | None = None, log: Log = USUAL
) -> OperatingPoint | Infeasible:
    """Choose cut-offs for the required criteria of a checklist.

    predictions: the tuning table, with grades and p_0 to p_4, severity or p_referable. test: the planned test set, of
    which only the counts by grade and patient are read; without it one like the tuning table is planned. Looks, level,
    unit, interval and the planned power are the checklist's. A checklist that decides on estimates is tuned to the
    limit all the same. log: the looks that were taken; a test set in it is no set to tune on. Its patient key makes
    patients comparable.

    Raises UsageError for a test set that was looked at and for a split test, ChecklistError where no required criterion
    depends on cut-offs, PredictionsError for a table without grades or scores, or with one-hot probabilities.
    """
    log.refuse_test_set(predictions)
    manifest = predictions.provenance.get("manifest")
    if isinstance(manifest, dict) and manifest.get("split") == "test":  # its rates would be a look
        raise UsageError(
            f"{predictions.origin} was scored on the split test, which is kept for evaluation; score a validation "
            "split (drgate score --split val) or another data set, and tune on that."
        )
    scored = ~np.isnan(predictions.scores()[:, 0])
    name = {"probabilities": "p_0 to p_4", "referable": "p_referable"}.get(predictions.cut_on, predictions.cut_on)
    if (predictions.answered & ~scored).any() or not scored.any():
        lacks = f"images without {name}" if scored.any() else f"no number in {name}"
        raise PredictionsError(
            f"{predictions.origin} has {lacks}; cut-offs need {'these' if name[-1].isdigit() else 'it'} for every "
            "image with output."
        )
    if predictions.no_probabilities == "one-hot":
        raise PredictionsError(
            f"{predictions.origin}: {NO_PROBABILITIES['one-hot']} Cut-offs would change no grade; score the model with "
            "its probabilities."
        )
    # Cut-offs are tuned on the whole table, which may lack the columns that the checklist slices by.
    units = Sample.of(_graded(predictions), checklist, slices=())
    tested = units
    if test is not None:
        tested = Sample.of(planned(test.table, str(test.origin), test.named_by()), checklist, slices=())
    required = [criterion for criterion in checklist.each_criterion() if criterion.required]
    tuned = [one for one in required if one.id.about.cut_offs_decide and one.id == one.id.whole]
    if not tuned:
        raise ChecklistError(
            f"The checklist {checklist.name} requires no sensitivity, specificity, accuracy or rate of grave errors "
            "on the whole test set, so cut-offs cannot be tuned to it; use another checklist."
        )
    constraints = [_Constraint(one, units, tested, checklist) for one in tuned]
    for constraint in constraints:
        if constraint.impossible:
            return Infeasible(constraint.impossible, complete=True)
    search = _Search(units, constraints, checklist.planning.power, fractions=predictions.cut_on != "severity")
    choice, complete, compared = search.run()
    if choice is None:
        return Infeasible(search.shortfall(complete), complete)
    graded = units.at(choice)
    found = [constraint.found(graded) for constraint in constraints]
    promise = {
        "power": float(np.prod([one["power"] for one in found])),
        "wanted": checklist.planning.power,
        "level": constraints[0].level,
        "planned": {
            "like": test.name if test is not None else "the tuning table",
            "unit": checklist.unit,
            "by_grade": np.bincount(tested.reference, minlength=5).tolist(),
        },
        "criteria": found,
        "not_covered": [one.id for one in required if one not in tuned],
        "search": {"compared": compared, "complete": complete},
    }
    if predictions.cut_on == "severity":
        # A cut-off above a later one decides nothing: the later grade is reached with it.
        choice = tuple(np.minimum.accumulate(choice[::-1])[::-1].tolist())
    return make_operating_point(
        choice[1:2] if predictions.cut_on == "referable" else choice,
        on=predictions.cut_on,
        checklist={"name": checklist.name, "version": checklist.version, "digest": checklist.digest},
        tuned_on=predictions,
        promise=promise,
        key=log.key,
    )


def _graded(predictions: Predictions) -> Predictions:
    """A table without grades for lack of cut-offs with any grade for each answer: the search counts who has one."""
    if not predictions.lacks_cut_offs:
        return predictions
    grades = pd.Series(0, predictions.table.index, dtype="Int8").where(~np.isnan(predictions.scores()[:, 0]))
    return replace(predictions, table=predictions.table.assign(predicted=grades), at_cut_offs=True)


@dataclass(frozen=True, slots=True)
class Effect:
    """One proportion of the tuning table at the cut-offs, k of n.

    before: by the most probable grade; None where answers give no grade without cut-offs.
    """

    id: str
    before: tuple[int, int] | None
    after: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        counts = (("before", self.before), ("after", self.after))
        return {"id": self.id} | {when: {"k": found[0], "n": found[1]} for when, found in counts if found is not None}


EFFECTS: Final = tuple(
    MetricId(about.name, target)
    for target in ("referable", "severe_npdr", "pdr", BELOW_REFERABLE)
    for about in METRICS.values()
    if about.cut_offs_decide and not about.complement and about.name != RIGHT_EYE and target in about.targets
)
"""The proportions that are shown before and after tuning, for every checklist."""


def effects(predictions: Predictions, point: OperatingPoint, checklist: Checklist) -> list[Effect]:
    """`EFFECTS` on the tuning table before and after, by the unit of the checklist."""
    after = Sample.of(predictions.at(point), checklist, slices=())
    before = None if predictions.lacks_cut_offs else Sample.of(predictions, checklist, slices=())

    def counted(sample: Sample, metric: MetricId) -> tuple[int, int]:
        tally = sample.tally_of(metric)
        assert tally is not None, "a sample has at least one unit"
        k, n = metric.about.ratio(metric.target, metric.default_policy).terms(tally.table)
        return int(k), int(n)

    shown = [one for one in EFFECTS if not after.lacks(one)]
    return [Effect(one, None if before is None else counted(before, one), counted(after, one)) for one in shown]


def lost(predictions: Predictions, point: OperatingPoint) -> list[str]:
    """Titles of the grades that the cut-offs predict for less than a tenth as many images as have them."""
    if "referable" in predictions.scales:
        return []
    table = predictions.at(point).table
    graded = table[graded_rows(table)]
    return [
        title
        for grade, title in enumerate(TITLES)
        if 10 * int((graded["predicted"] == grade).sum()) < int((graded["grade"] == grade).sum())
    ]


class _Constraint:
    """One required criterion as a number of errors that a set of cut-offs may make."""

    def __init__(self, criterion: Criterion, units: Sample, planned: Sample, checklist: Checklist) -> None:
        self.criterion, self.units, self.checklist = criterion, units, checklist
        # alpha/K, as every look is tested
        self.level = 1 - (1 - checklist.evidence.level) / checklist.looks
        metric = criterion.id
        counts = metric.about.ratio(metric.target, criterion.policy)
        self.adverse = counts.adverse
        self.floor = 1 - criterion.threshold if self.adverse else criterion.threshold
        # Errors are what lowers the chance to pass: the complement of success, or the adverse event itself.
        errors = counts.success if self.adverse else counts.counted & ~counts.success
        self.reference = units.graded(metric.target)
        column = np.where(units.answered, 0, confusion.NO_OUTPUT)
        self.counted: Flags = counts.counted[self.reference, column]
        self.wrong: Flags = errors[self.reference]
        self.silent = int((self.wrong[:, confusion.NO_OUTPUT] & self.counted & ~units.answered).sum())
        self.n = int(self.counted.sum())
        self.sizes = _sizes(self.counted, units)
        target = planned.graded(metric.target)
        self.planned = _sizes(counts.counted[target, np.where(planned.answered, 0, confusion.NO_OUTPUT)], planned)
        self.tested = planned

    @cached_property
    def impossible(self) -> str:
        """Why no cut-offs of any model can meet it; empty where they might."""
        for sample, where in ((self.units, "tuning table"), (self.tested, "planned test set")):
            if reason := sample.lacks(self.criterion.id):
                return f"{self.criterion.id} cannot be tuned with this {where}: {reason}"
            if sample.unknown:
                return f"{self.criterion.id}: nothing can be shown with this {where}, because {sample.no_patients}"
        if self.n == 0 or not self._reaches(0, self._ceiling(0)):
            n, where = self.n, "tuning table"
        elif self._planned_power(0.0, float(self.n)) == 0:
            n, where = int((self.planned[0] * self.planned[1]).sum()), "planned test set"
        else:
            return ""
        who = self.criterion.id.who
        return (
            f"{self.criterion.id}: {n} {self.checklist.unit}s {who} in the {where} are too few; even a model without "
            f"errors could not show {self.rule}. Add patients {who}."
        )

    @property
    def rule(self) -> str:
        """The threshold in words."""
        words = RULE_WORDS[self.criterion.comparator]
        return f"{words} {100 * self.criterion.threshold:g} %"

    @cached_property
    def hopeful(self) -> Floats:
        """(n + 1,) the highest possible chance to pass with so many errors; 0 where the limit does not meet the rule.

        It assumes the smallest possible design effect, so it is an upper limit, exact where every patient has one unit.
        """
        found = np.zeros(self.n + 1)
        for errors in range(min(self.n, int(self.n * (1 - self.floor)) + 1) + 1):
            effective = self._ceiling(errors)
            if self._reaches(errors, effective):
                found[errors] = self._planned_power(errors / self.n * effective, effective)
        return found

    def judge(self, graded: Sample) -> tuple[bool, float]:
        """Whether the limit meets the rule with these grades, and the chance to pass on the planned test set."""
        sample = self._sample(self._errors(graded))
        misses = (self.n - sample.k) / self.n * sample.effective_n
        reaches = self._reaches(self.n - sample.k, sample.effective_n)
        return reaches, self._planned_power(misses, sample.effective_n) if reaches else 0.0

    def found(self, graded: Sample) -> dict[str, Any]:
        """Counts, limit and chance for the record."""
        sample = self._sample(self._errors(graded))
        ends = cluster.bounds(sample, level=self.level, interval=self.checklist.evidence.interval)
        k = self.n - sample.k if self.adverse else sample.k
        return {
            "id": self.criterion.id,
            "rule": f"{self.criterion.comparator} {self.criterion.threshold:g}",
            "k": k,
            "n": self.n,
            "bound": 1 - ends.low if self.adverse else ends.low,
            "design_effect": sample.design_effect,
            "planned": int((self.planned[0] * self.planned[1]).sum()),
            "power": self.judge(graded)[1],
        }

    def _errors(self, graded: Sample) -> Flags:
        predicted = graded.answers(self.criterion.id)
        return np.asarray(self.counted & self.wrong[np.arange(len(predicted)), predicted])

    def _sample(self, wrong: Flags) -> cluster.EffectiveSample:
        """The effective sample of what is right."""
        if self.units.patients is None:
            return self._unknown(self.n - int(wrong.sum()), self.n, self.units)
        right, counted = (self.units.by_patient(flags) for flags in (self.counted & ~wrong, self.counted))
        return cluster.effective_sample(right, counted, level=self.level)

    def _unknown(self, k: int, n: int, of: Sample) -> cluster.EffectiveSample:
        return cluster.unknown_clusters(k, n, images_a_patient=of.images_a_patient, level=self.level)

    def _reaches(self, errors: int, effective: float) -> bool:
        sample = cluster.EffectiveSample(self.n - errors, self.n, None, 1.0, effective)
        low = cluster.bounds(sample, level=self.level, interval=self.checklist.evidence.interval).low
        return low > self.floor if self.criterion.strict else low >= self.floor

    def _ceiling(self, errors: int) -> float:
        """The largest effective number of units with so many errors."""
        if self.units.patients is None:
            return self._unknown(self.n - errors, self.n, self.units).effective_n
        sizes, times = self.sizes
        clusters, squares, rate = int(times.sum()), int((sizes**2 * times).sum()), errors / self.n
        _, effective = cluster.effective_n(
            clusters=clusters,
            sizes=self.n,
            errors=errors,
            with_error=min(errors, clusters),
            # No variance between patients: the estimated design effect can be no smaller.
            errors_squared=rate**2 * squares,
            errors_by_size=rate * squares,
            sizes_squared=squares,
            largest=int(sizes.max()),
            level=self.level,
        )
        return float(effective)

    def _planned_power(self, misses: float, n: float) -> float:
        """Chance that the planned units show the floor, after `misses` of `n` effective ones on the tuning table.

        The planned units count as the gate will count them, with errors correlated as the checklist plans.
        """
        if not 0 < self.floor < 1:
            return float(self.floor <= 0)
        sizes, times = self.planned
        total, rate = int((sizes * times).sum()), misses / n
        if total == 0:
            return 0.0
        if self.tested.patients is None:
            effective = self._unknown(total, total, self.tested).effective_n
        else:
            correlation = self.checklist.planning.correlation
            inflated = 1 + (sizes - 1) * correlation
            _, found = cluster.effective_n(
                clusters=int(times.sum()),
                sizes=total,
                errors=total * rate,
                # Expectations over patients whose units err alike with this correlation.
                with_error=(times * sizes * rate / inflated).sum(),
                errors_squared=(times * sizes * (rate * (1 - rate) * inflated + sizes * rate**2)).sum(),
                errors_by_size=(times * sizes**2 * rate).sum(),
                sizes_squared=(times * sizes**2).sum(),
                largest=int(sizes.max()),
                level=self.level,
            )
            effective = float(found)
        if effective < 1:
            return 0.0
        return predictive_power(
            misses,
            n,
            planned=int(effective + 1e-9),
            threshold=self.floor,
            level=self.level,
            interval=self.checklist.evidence.interval,
        )


class _Search:
    """Compares every combination of a few values per cut-off, by counts, in narrower rounds around the best.

    Units are counted by their worst answer. With several images a unit can only have more errors than that, so what
    the counts exclude is excluded; what they allow is judged by the answer that each criterion reads.
    """

    def __init__(self, units: Sample, constraints: list[_Constraint], wanted: float, *, fractions: bool = True) -> None:
        self.units, self.constraints, self.wanted = units, constraints, wanted
        self.several = units.images > len(units)
        scores = units.scores[units.answered]
        self.low, self.high = (0.0, 1.0) if fractions else (-math.inf, float(scores.max()))
        self.values = [_between(scores[:, k], self.low, self.high) for k in range(4)]
        self.objective = self._objective()
        used = {k for weights in (*self.steps, self.objective) for k in range(4) if weights[:, k + 1].any()}
        self.free = [k for k in range(4) if k not in used]
        self.used = sorted(used)
        self.nearest: tuple[float, ...] | None = None
        self.judged: list[dict[tuple[float, ...], tuple[bool, float]]] = [{} for _ in constraints]

    @cached_property
    def classes(self) -> tuple[Ints, Ints]:
        """Distinct kinds of units with output, (kinds,) the first unit of each and (units,) the kind of each.

        Units of one kind have the same reference grade for every criterion.
        """
        lifted = 0 if self.units.dme is None else self.units.dme.astype(np.int64)
        code = (self.units.reference * 2 + lifted)[self.units.answered]
        _, first, kind = np.unique(code, return_index=True, return_inverse=True)
        return np.flatnonzero(self.units.answered)[first], kind

    @cached_property
    def steps(self) -> list[Ints]:
        """Per constraint, `_steps` of its errors."""
        return [_steps((c.wrong & c.counted[:, None])[self.classes[0], :5]) for c in self.constraints]

    def run(self) -> tuple[tuple[float, ...] | None, bool, int]:
        """The best cut-offs (or None), whether every combination was compared, and how many were."""
        allowed = [self._admissible(k) for k in range(4)]
        if not all(values.size for values in allowed):
            # One cut-off alone cannot meet every criterion. A round over all values shows how near the nearest comes.
            self._round(
                [_spread(few if few.size else all_, None) for few, all_ in zip(allowed, self.values, strict=True)]
            )
            return None, True, 0
        best: tuple[float, ...] | None = None
        compared, complete, window = 0, False, allowed
        for number in range(ROUNDS):
            centre = best or self.nearest or (None,) * 4
            grid = [_spread(values, keep) for values, keep in zip(window, centre, strict=True)]
            best = self._round(grid) or best
            compared += math.prod(values.size for values in grid)
            whole = [few.size == all_.size for few, all_ in zip(grid, window, strict=True)]
            # Free cut-offs change no criterion: they break ties only.
            complete = complete or (number == 0 and all(whole[k] for k in self.used))
            nearest = best or self.nearest
            if all(whole) or nearest is None:
                break
            window = [_around(values, few, at) for values, few, at in zip(allowed, grid, nearest, strict=True)]
        return (None if best is None else self._tidy(best)), complete, compared

    def shortfall(self, complete: bool) -> str:
        """Which criterion was not met at the best cut-offs, and by how much."""
        compared = "No cut-offs meet" if complete else "None of the compared cut-offs meets"
        assert self.nearest is not None, "a search that found nothing knows what came nearest"
        graded = self.units.at(self.nearest)
        records = [(c, c.found(graded)) for c in self.constraints]
        missed = [(c, r) for c, r in records if not c.judge(graded)[0]]
        if not missed:
            power = float(np.prod([r["power"] for _, r in records]))
            weakest, record = min(records, key=lambda pair: pair[1]["power"])
            return (
                f"{compared} every rule with a chance of {100 * self.wanted:g} % to pass on the planned test set. The "
                f"best reach a {100 * power:.0f} % chance; {weakest.criterion.id} limits it ({record['k']} of "
                f"{record['n']}{'' if weakest.adverse else ' correct'}, chance {100 * record['power']:.0f} %)."
            )
        worst, record = max(missed, key=lambda pair: abs(pair[1]["bound"] - pair[0].criterion.threshold))
        side = "an upper" if worst.adverse else "a lower"
        return (
            f"{compared} every required criterion. At the best cut-offs, {worst.criterion.id} has {side} limit of "
            f"{100 * record['bound']:.1f} % ({record['k']} of {record['n']}); required: {worst.rule}."
        )

    def _objective(self) -> Floats:
        """(kinds, 5) weights of the mean specificity of every target that a sensitivity or specificity is required of,
        as a loss; of accuracy where there is none."""
        targets = {
            c.criterion.id.target
            for c in self.constraints
            if c.criterion.id.about.counted in ("with", "without") and c.criterion.id.target in (*GRADES, *GROUPS)
        }
        chosen = [MetricId("specificity", target) for target in sorted(targets)] or [MetricId("accuracy")]
        losses = np.stack([self._loss(metric) for metric in chosen])
        return np.asarray(losses.mean(axis=0), dtype=np.float64)

    def _loss(self, metric: MetricId) -> Floats:
        """(kinds, 5) steps of the rate of errors of one proportion."""
        counts = metric.about.ratio(metric.target, metric.default_policy)
        reference = self.units.graded(metric.target)
        column = np.where(self.units.answered, 0, confusion.NO_OUTPUT)
        counted = max(1, int(counts.counted[reference, column].sum()))
        first = self.classes[0]
        wrong = (counts.counted & ~counts.success)[reference[first], :5]
        return _steps(wrong) / counted

    def _admissible(self, k: int) -> Floats:
        """Values of one cut-off that no criterion excludes, whatever the other three are."""
        values = self.values[k]
        if k in self.free:
            # Free cut-offs are never lower than those below them; the highest score is always possible.
            return np.unique(np.r_[values, self.high])
        scores = self.units.scores[self.units.answered]
        order = np.sort(scores[:, k])
        at = np.argsort(scores[:, k], kind="stable")
        below = np.searchsorted(order, values, side="left")
        keep = np.ones(values.size, dtype=bool)
        # Below t_k, a free cut-off above it is not reached either.
        others = [grade for grade in range(5) if grade <= k or (grade > k + 1 and grade - 1 not in self.free)]
        for c in self.constraints:
            wrong = (c.wrong & c.counted[:, None])[self.units.answered][at]
            reached = np.asarray(wrong[:, k + 1 : 5].all(axis=1))
            missed = np.asarray(wrong[:, others].all(axis=1))
            fewest = np.r_[0, np.cumsum(missed)][below] + np.r_[0, np.cumsum(reached[::-1])][len(order) - below]
            keep &= c.hopeful[np.minimum(fewest + c.silent, c.n)] > 0
        return values[keep]

    def _round(self, grid: list[Floats]) -> tuple[float, ...] | None:
        """The best feasible combination of a grid; None without one, and then `nearest` is the best infeasible one."""
        reached = self._reached(grid)
        powers = []
        for constraint, weights in zip(self.constraints, self.steps, strict=True):
            base = constraint.silent + self._constant(constraint)
            powers.append((np.rint(_total(weights, reached)).astype(np.int64) + base, constraint))
        shape = tuple(values.size for values in grid)
        chance = np.ones(shape)
        for errors, constraint in powers:
            chance = chance * constraint.hopeful[errors]
        chance = np.where(self._ordered(grid), chance, -1.0)
        # Rounded, so that ties are ties whatever the order of summation.
        loss, accuracy = (
            np.broadcast_to(np.round(_total(steps, reached), 12), shape)
            for steps in (self.objective, self._loss(MetricId("accuracy")))
        )
        hopeful = np.flatnonzero(chance.ravel() >= self.wanted)
        order = hopeful[np.lexsort((hopeful, accuracy.ravel()[hopeful], loss.ravel()[hopeful]))]
        for flat in order:
            choice = tuple(float(values[i]) for values, i in zip(grid, np.unravel_index(flat, shape), strict=True))
            if self._holds(choice):
                return choice
        if chance.max() > 0:
            near = int(chance.argmax())
        else:
            excess = np.zeros(shape)
            for errors, constraint in powers:
                most = int(np.flatnonzero(constraint.hopeful).max())
                excess = np.maximum(excess, np.maximum(0, errors - most) / constraint.n)
            near = int(np.where(chance < 0, np.inf, excess).argmin())
        self.nearest = tuple(float(values[i]) for values, i in zip(grid, np.unravel_index(near, shape), strict=True))
        return None

    def _holds(self, choice: tuple[float, ...]) -> bool:
        """Whether every limit meets its rule and the joint chance to pass is high enough."""
        power = 1.0
        for constraint, weights, judged in zip(self.constraints, self.steps, self.judged, strict=True):
            # Only these cut-offs affect it, so most combinations have been judged already. Of several images the others
            # decide too, by which image's answer counts.
            key = tuple(cut for k, cut in enumerate(choice) if weights[:, k + 1].any() or self.several)
            if key not in judged:
                judged[key] = constraint.judge(self.units.at(choice))
            reaches, chance = judged[key]
            power *= chance
            if not reaches or power < self.wanted:
                return False
        return True

    def _ordered(self, grid: list[Floats]) -> Flags:
        """Where a cut-off that no criterion depends on has no effect on one that some criterion does."""
        fine = np.ones((1, 1, 1, 1), dtype=bool)
        axes = np.ix_(*grid)
        for k, j in itertools.product(self.free, self.used):
            if j < k:
                fine = fine & (axes[k] >= axes[j])
        return fine

    def _constant(self, constraint: _Constraint) -> int:
        """Errors where every unit with output is graded 0."""
        first, kind = self.classes
        wrong = (constraint.wrong & constraint.counted[:, None])[first, 0]
        return int(np.bincount(kind, minlength=len(first)) @ wrong)

    def _reached(self, grid: list[Floats]) -> list[NDArray[np.float64]]:
        """For k = 1 to 4, units of each kind graded at least k: (kinds, a, b, c, d), axes that do not matter being 1.

        A unit is graded at least k where it reaches one of the cut-offs k to 4; the others are counted by cumulative
        sums.
        """
        scores, (first, kind) = self.units.scores[self.units.answered], self.classes
        places = [np.searchsorted(values, scores[:, k], side="right") for k, values in enumerate(grid)]
        sizes = [values.size + 1 for values in grid]
        flat = np.ravel_multi_index((kind, *places), (len(first), *sizes))
        corner = np.bincount(flat, minlength=len(first) * int(np.prod(sizes))).reshape(len(first), *sizes)
        for axis in range(1, 5):
            corner = np.cumsum(corner, axis=axis)
        everyone = np.bincount(kind, minlength=len(first)).reshape(-1, 1, 1, 1, 1)
        found = []
        for k in range(1, 5):
            # Cut-offs below k do not matter: their whole axis.
            lower = tuple(slice(-1, None) if axis < k else slice(0, -1) for axis in range(1, 5))
            found.append((everyone - corner[(slice(None), *lower)]).astype(np.float64))
        return found

    def _tidy(self, cut_offs: tuple[float, ...]) -> tuple[float, ...]:
        """The same cut-offs with as few digits as keep the grade of every image."""
        scores = self.units.within.scores
        scores = scores[~np.isnan(scores[:, 0])]
        return tuple(_shortest(cut, scores[:, k], self.low, self.high) for k, cut in enumerate(cut_offs))


def _sizes(counted: Flags, units: Sample) -> tuple[Ints, Ints]:
    """Units that a patient brings to the denominator, and how many patients bring so many."""
    each = units.by_patient(counted)
    sizes, times = np.unique(each[each > 0], return_counts=True)
    return sizes, times.astype(np.int64)


def _steps(wrong: Flags) -> Ints:
    """(kinds, 5): by how much errors grow when a unit is graded k instead of k - 1; column 0 is not used."""
    return np.concatenate([np.zeros((len(wrong), 1), dtype=np.int64), np.diff(wrong.astype(np.int64), axis=1)], axis=1)


def _total(steps: Ints | Floats, reached: list[NDArray[np.float64]]) -> Floats:
    """Errors beyond those of grading everything 0, on the grid; axes that do not matter have length 1."""
    total: Floats = np.zeros((1, 1, 1, 1))
    for k in range(1, 5):
        if steps[:, k].any():
            total = total + np.einsum("i,iabcd->abcd", steps[:, k].astype(np.float64), reached[k - 1])
    return total


def _between(scores: Floats, low: float, high: float) -> Floats:
    """Cut-offs between two neighbouring scores, ascending, above `low`, at most `high`.

    Where all scores are equal, one half of probabilities and else the score.
    """
    distinct = np.unique(scores)
    middle = distinct[:-1] / 2 + distinct[1:] / 2  # the sum of two large ones is infinite
    possible = middle[(middle > low) & (middle <= high)]
    return np.asarray(possible if possible.size else [0.5 if math.isfinite(low) else high], dtype=np.float64)


def _spread(values: Floats, keep: float | None) -> Floats:
    """Up to `VALUES` of the values, evenly by rank, with the ends and, where it is among them, `keep`."""
    if values.size <= VALUES:
        return values
    at = np.unique(np.rint(np.linspace(0, values.size - 1, VALUES)).astype(np.int64))
    chosen = values[at]
    if keep is not None and keep in values and keep not in chosen:
        chosen = np.sort(np.r_[np.delete(chosen, int(np.abs(chosen - keep).argmin())), keep])
    return np.asarray(chosen, dtype=np.float64)


def _around(values: Floats, grid: Floats, at: float) -> Floats:
    """The values from the neighbour below to the neighbour above on the grid."""
    i = int(np.searchsorted(grid, at))
    low, high = grid[max(0, i - 1)], grid[min(grid.size - 1, i + 1)]
    return np.asarray(values[(values >= low) & (values <= high)], dtype=np.float64)


def _shortest(cut: float, scores: Floats, low: float, high: float) -> float:
    """A cut-off with as few digits as part the scores alike, above `low` and at most `high`."""
    below, above = scores[scores < cut], scores[scores >= cut]
    low = float(below.max()) if below.size else low
    high = min(high, float(above.min())) if above.size else high
    for digits in range(1, 17):
        short = round(cut, digits)
        if low < short <= high:
            return short
    return cut
