"""What compares: groups of a column with each other, and a model with a baseline or with human readers.

    gap(sample, parse_id("gap:sensitivity:referable@sex"), "as_referred", checklist, level=0.95)
    Beside(predictions, checklist, level=0.95, data=data).noninferior(asked)

Nothing is decided here.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgate.errors import PredictionsError
from drgate.evaluation import Estimate, Group, Metric, NotEstimable, Reader, TestSet
from drgate.metrics import MetricId, NoOutputPolicy, grades_of
from drgate.sample import Pair, Sample, declaration
from drgate.stats import bounded, confusion, gaps

if TYPE_CHECKING:
    from drgate.checklist import Checklist
    from drgate.predictions import Predictions

MADE_BY_OTHERS: Final = 4
"""Fewest readers where the reference for each is made from the others: of two others there is no median."""
FEWEST_ALIKE: Final = 20
"""Fewest images from which the same grades are worth a word."""
BLANK: Final = "blank"
"""What the group of the empty cells of a column is called."""


# -- groups of a column ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gap:
    """The gap of a proportion between all groups of a column.

    estimate: largest minus smallest; low and high are the largest limits of a difference of two groups, absent where a
    group has no interval. groups: each with its proportion; blank cells are a group with the name "". widest: the best
    and the worst group. lower, upper: the two groups, better first, that the limits are of.
    """

    estimate: Estimate
    groups: tuple[Group, ...]
    widest: tuple[Group, Group]
    lower: tuple[Group, Group]
    upper: tuple[Group, Group]


def gap(
    sample: Sample, asked: MetricId, policy: NoOutputPolicy, checklist: Checklist, *, level: float
) -> Gap | NotEstimable:
    """The gap that an id such as `gap:sensitivity:referable@sex` asks for.

    Every value of the column that a unit has is a group, its blank cells are one, and so is each that the checklist
    names. NotEstimable, with the group, where one has nothing in its denominator.
    """
    about, column, unit = asked.compared, asked.column, sample.unit
    ratio = about.about.ratio(about.target, policy)
    declared = next((one.groups or {} for one in checklist.slices if one.by == column), {})
    names = dict.fromkeys([*declared, *sample.slice_names.get(column, ())])
    if (sample.slices[column] < 0).any():
        names[""] = None
    groups, worths = [], []
    for name in names:
        tally = sample.tally(column, name, about.target)
        found = None if tally is None else tally.estimate(ratio, level, checklist.evidence.interval)
        if found is None:
            whose = f" {about.who}" if about.target else ""
            return NotEstimable(f"the group {column} = {name or BLANK} has no {unit}{whose} that counts.")
        groups.append(Group(name, found))
        effective = None if tally is None else tally.effective(ratio, level)
        worths.append(0.0 if effective is None else effective.effective_n)
    if len(groups) < 2:
        return NotEstimable(f"a gap needs two groups, and every {unit} has {column} = {groups[0].name or BLANK}.")
    rates = [group.rate for group in groups]
    best, *_, worst = sorted(groups, key=lambda group: -group.rate.value)
    estimate = Estimate(
        kind="difference", value=best.rate.value - worst.rate.value, n=sum(rate.n or 0 for rate in rates), level=level
    )
    known = [
        gaps.Rate(one.value, one.low, one.high, worth)
        for one, worth in zip(rates, worths, strict=True)
        if one.low is not None and one.high is not None
    ]
    if len(known) < len(rates):
        return Gap(estimate, tuple(groups), (best, worst), (best, worst), (best, worst))
    limits = gaps.largest(known, _opposed(sample, about, ratio, column, list(names)), level=level)
    pairs = len(groups) * (len(groups) - 1)
    estimate = replace(
        estimate,
        low=limits.low,
        high=limits.high,
        method=f"MOVER or melded, {checklist.evidence.interval}, the widest of {pairs} ordered pairs",
    )
    lower, upper = ((groups[pair[0]], groups[pair[1]]) for pair in (limits.lower, limits.upper))
    return Gap(estimate, tuple(groups), (best, worst), lower, upper)


def _opposed(
    sample: Sample, about: MetricId, ratio: confusion.Ratio, column: str, names: Sequence[str]
) -> NDArray[np.float64] | float:
    """`gaps.opposed` of the groups of a column, by name; 0 where no patient has units in two of them."""
    if sample.patients is None:
        return 0.0  # as many images of one patient as are declared are taken to be in each group
    cells = confusion.cells(sample.graded(about.target), sample.answers(about))
    success, counted = (part.ravel()[cells] for part in (ratio.success, ratio.counted))
    group = np.array([*map(names.index, sample.slice_names[column]), names.index("") if "" in names else -1])
    who, where = sample.patients[counted], group[sample.slices[column]][counted]
    if len(np.unique(who * len(names) + where)) == len(np.unique(who)):
        return 0.0
    from scipy.sparse import coo_array  # a twentieth of a second to import

    shape = int(who.max()) + 1, len(names)
    ones = np.ones(len(who), dtype=np.int64), success[counted].astype(np.int64)
    sizes, successes = (coo_array((given, (who, where)), shape=shape).tocsr() for given in ones)
    return gaps.opposed(successes, sizes)


def too_small(found: Gap, asked: MetricId, fewest: int) -> NotEstimable | None:
    """The first group with fewer cases than a criterion needs."""
    for group in found.groups:
        if (cases := group.rate.n or 0) < fewest:
            name = f"{asked.column} = {group.name or BLANK}"
            return NotEstimable(f"the group {name} has {cases} of the {fewest} cases that the checklist requires.")
    return None


# -- another model, and readers ----------------------------------------------------------------------------------------


class Beside:
    """A model beside a baseline's predictions and beside human readers; tables are paired once.

    data: which columns of readers may be used, and what is declared. level: two-sided, of every interval.
    """

    def __init__(
        self,
        predictions: Predictions,
        checklist: Checklist,
        *,
        level: float,
        baseline: Predictions | None = None,
        data: TestSet,
    ) -> None:
        # As `Sample` groups them: two ids that are one patient are one here too.
        self.predictions = replace(predictions, table=predictions.as_grades)
        self.checklist, self.level, self.baseline, self.data = checklist, level, baseline, data
        self.readers = list(data.readers)

    def of_readers(self) -> list[str]:
        """What page one says of the readers: who graded a part of the images, and who gave another's grades."""
        table = self.predictions.table
        table = table[table["grade"].notna()]
        given = {one: table[one] for one in self.readers if one in table.columns}
        parts = [f"{one} {many}" for one, grades in given.items() if (many := int(grades.notna().sum())) < len(table)]
        found = []
        if parts:
            found.append(
                f"Graded by readers, of {len(table)} images: {', '.join(parts)}. Each is compared on these images "
                "alone, and nothing is shown about the others."
            )
        columns = given if self.predictions.answers == "referable" else {**given, "the model": table["predicted"]}
        for one, other in itertools.combinations(columns, 2):
            both = columns[one].notna() & columns[other].notna()
            many = int(both.sum())
            if many >= FEWEST_ALIKE and (columns[one] == columns[other])[both].all():
                found.append(f"{one} and {other} gave the same grade to each of the {many} images that both graded.")
        return found

    def noninferior(self, asked: MetricId) -> tuple[Metric, tuple[Reader, ...]]:
        """The difference that an id such as `noninferior:sensitivity:referable~readers` asks for, and each reader.

        The model's rate minus the baseline's, or minus the mean of the readers' rates, each on the units that this
        reader graded. No output is the worst case for a grade, and counts as referred for a group.
        """
        if asked.against == "baseline":
            pair = self._baseline
            if isinstance(pair, NotEstimable):
                return pair, ()
            if reason := pair.lacks(asked):
                return NotEstimable(reason), ()
            found = _Paired.of(pair, asked)
            if not found.counted.any():
                return NotEstimable(f"the test set has no {self.checklist.unit} {asked.who}."), ()
            return found.difference(self.level), ()
        if not self.readers:
            return NotEstimable(
                "there are no grades of readers; give columns reader_1, reader_2, ... in the manifest or in --grades."
            ), ()
        if not self.checklist.readers_independent and len(self.readers) < MADE_BY_OTHERS:
            return NotEstimable(
                "who helps to make the reference agrees with it 5 to 9 points more often. So either the checklist says "
                "readers_independent: true, or the reference for each reader is made from the others, which needs "
                f"{MADE_BY_OTHERS} readers; there {'is' if len(self.readers) == 1 else 'are'} {len(self.readers)}."
            ), ()
        if reason := self._whole.lacks(asked):
            return NotEstimable(reason), ()
        return self._against_readers(asked)

    @functools.cached_property
    def _baseline(self) -> Pair | NotEstimable:
        if self.baseline is None:
            return NotEstimable("no baseline predictions were given; give them with --baseline.")
        try:
            most, _ = declaration(self.predictions, self.checklist, self.data)
            unit = self.checklist.unit
            return Pair.of(self.predictions, self.baseline, unit=unit, images_a_patient=most, name="the baseline")
        except PredictionsError as problem:
            return NotEstimable(str(problem))

    @functools.cached_property
    def _whole(self) -> Sample:
        return Sample.of(self.predictions, self.checklist, slices=(), data=self.data)

    @functools.cached_property
    def _read(self) -> dict[str, Pair]:
        """The model and each reader, on the units that the reader graded; none where there are none."""
        pairs = {}
        present = [one for one in self.readers if one in self.predictions.table.columns]
        others = [] if self.checklist.readers_independent else present
        for name in present:
            rows = _graded_by(self.predictions.table, name, others, self.checklist.unit)
            if not rows.empty:
                tables = rows, rows.assign(predicted=rows[name])
                ours, theirs = (
                    Sample.of(replace(self.predictions, table=table), self.checklist, slices=(), data=self.data)
                    for table in tables
                )
                pairs[name] = Pair(ours, theirs)
        return pairs

    def _against_readers(self, asked: MetricId) -> tuple[Metric, tuple[Reader, ...]]:
        whole, interval = self._whole, self.checklist.evidence.interval
        owner = np.arange(len(whole)) if whole.patients is None else whole.patients
        sums, weights = np.zeros(int(owner.max()) + 1), np.zeros(int(owner.max()) + 1)
        units = np.zeros(len(whole), dtype=bool)
        shown = []
        for name in self.readers:
            found = _Paired.of(self._read[name], asked) if name in self._read else None
            if found is None or not found.counted.any():
                return NotEstimable(f"{name} has graded no {self.checklist.unit} {asked.who}."), ()
            ours, theirs = found.pair.first, found.pair.second
            rate, model = (
                one.whole(asked.target).estimate(found.ratio, self.level, interval) for one in (theirs, ours)
            )
            assert rate is not None, "a unit counts"
            assert model is not None, "a unit counts"
            shown.append(Reader(name, rate, model, found.difference(self.level)))
            at = pd.Index(whole.names).get_indexer(pd.Index(ours.names))[found.counted]
            assert (at >= 0).all(), "a reader's units are units of the test set"
            each = 1 / (len(self.readers) * len(at))
            difference = (found.first.astype(np.float64) - found.second)[found.counted]
            sums += each * np.bincount(owner[at], weights=difference, minlength=len(sums))
            weights += each * np.bincount(owner[at], minlength=len(sums))
            units[at] = True
        low, high = (
            (None, None)
            if whole.unknown
            else bounded.limits(sums, weights, level=self.level, images_a_patient=whole.images_a_patient or 1)
        )
        estimate = Estimate(
            kind="difference",
            value=float(sums.sum()),
            n=int(units.sum()),
            low=low,
            high=high,
            level=self.level,
            method="gamma-weighted mean",
            clusters=None if whole.patients is None else int((weights > 0).sum()),
        )
        return estimate, tuple(shown)


@dataclass(frozen=True, slots=True, eq=False)
class _Paired:
    """Which units count, and are right, under each of two graders; all (n,)."""

    pair: Pair
    ratio: confusion.Ratio
    first: NDArray[np.bool_]
    second: NDArray[np.bool_]
    counted: NDArray[np.bool_]

    @classmethod
    def of(cls, pair: Pair, asked: MetricId) -> _Paired:
        policy: NoOutputPolicy = "as_referred" if len(grades_of(asked.target) or ()) > 1 else "worst_case"
        ratio = asked.compared.about.ratio(asked.target, policy)
        cells = pair.cells(asked.target)
        # Under these policies the reference grade alone decides which units count.
        first, second = (ratio.success.ravel()[one] for one in cells)
        return cls(pair, ratio, first, second, ratio.counted.ravel()[cells[0]])

    def difference(self, level: float) -> Estimate:
        """First minus second; a unit must count."""
        return self.pair.difference(self.first, self.second, self.counted, level=level)


def median_grades(grades: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median grade (n,) of the readers (n, k) who have graded an image, NaN who has not; NaN of fewer than three.

    Of an even number the last one is left out, because their median would be the higher or the lower of two.
    """
    graded = ~np.isnan(grades)
    given = graded.sum(axis=1)
    last = graded & (given % 2 == 0)[:, None] & (np.cumsum(graded, axis=1) == given[:, None])
    ordered = np.sort(np.where(last, np.nan, grades), axis=1)
    middle = ordered[np.arange(len(grades)), np.maximum(given - 1, 0) // 2]
    return np.asarray(np.where(given >= MADE_BY_OTHERS - 1, middle, np.nan))


def _graded_by(table: pd.DataFrame, name: str, readers: Sequence[str], unit: str) -> pd.DataFrame:
    """The rows that a reader has graded, whole eyes or patients where these are judged.

    readers: those whose grades make the reference in place of the table's, without this one; none: the table's stays.
    The reference is `median_grades` of the others.
    """
    usable = table["grade"].notna() & table[name].notna()
    if readers:
        others = table[[one for one in readers if one != name]].to_numpy(dtype=np.float64, na_value=np.nan)
        median = median_grades(others)
        usable &= ~np.isnan(median)
        table = table.assign(grade=pd.Series(pd.array(median, dtype="Float64").astype("Int8"), index=table.index))
    if unit != "image":
        who = table[["patient", "eye"][: 2 if unit == "eye" else 1]].astype("str").agg("\0".join, axis=1)
        usable &= ~who.isin(who[~usable])
    return table[usable]
