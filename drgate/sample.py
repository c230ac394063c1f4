"""The graded images of one table, or of two paired tables, by image, eye or patient.

    sample = Sample.of(predictions, checklist)
    sample.tally("camera", "A").table                   # 5 x 6, rows the reference grade
    Pair.of(predictions, baseline, unit="patient")      # the same patients under two models, in one order

A table is reduced once to its distinct patients and how often each occurs; slices and resamples use those counts. Two
tables are paired image by image first, then reduced to eyes or patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgate.checklist import Checklist, Slice
from drgate.columns import graded_rows, unexplained
from drgate.errors import PredictionsError
from drgate.evaluation import Estimate, Patients, TestSet
from drgate.metrics import RIGHT_EYE, MetricId, grades_of
from drgate.operating_point import grades_at
from drgate.predictions import (
    ANSWERS,
    PROBABILITIES,
    NoProbabilities,
    Predictions,
    content_keys,
    published_names,
    scales,
    scores_of,
    without_grades,
)
from drgate.scale import GROUPS, STANDS_FOR, WITH_OEDEMA, Scale
from drgate.stats import bootstrap, cluster, confusion, paired
from drgate.stats.proportion import Interval

Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TANGO: Final = "Tango's score interval at the effective sample size"
"""The interval of a difference of two models on the same units."""


@dataclass(frozen=True, slots=True)
class NoPatients:
    """Why nothing is known of patients, as a clause, and what to do about it, as a sentence or ""."""

    why: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.why}.{' ' if self.remedy else ''}{self.remedy}"


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts of one set of images, by patient where patients are known.

    table: 5 x 6, rows the reference grade, columns the predicted one and no output.
    patterns, counts: distinct patients' counts over the 30 cells (P, 30), and how many patients have each (P,); where
        patients are unknown, of single images.
    named: whether patients are known.
    images_a_patient: the most images of one patient, as the checklist declares where they are unknown; None where it
        declares nothing, and then nothing is known of how sure a figure is.
    """

    table: Ints
    patterns: Ints
    counts: Ints
    named: bool
    images_a_patient: int | None = None

    @property
    def whole_patients(self) -> bool:
        """Whether each pattern is one of whole patients: known ones, or those of one image each."""
        return self.named or self.images_a_patient == 1

    def effective(self, ratio: confusion.Ratio, level: float) -> cluster.EffectiveSample | None:
        """The proportion at its effective sample size; None without an image in the denominator."""
        k, n = (int(count) for count in ratio.terms(self.table))
        if n == 0:
            return None
        if not self.whole_patients:
            return cluster.unknown_clusters(k, n, images_a_patient=self.images_a_patient, level=level)
        successes, sizes = ratio.terms(self.patterns)
        return cluster.effective_sample(successes, sizes, level=level, counts=self.counts, adverse=ratio.adverse)

    def estimate(self, ratio: confusion.Ratio, level: float, interval: Interval) -> Estimate | None:
        """The proportion with the interval that decides, without one where nothing is known of patients.

        None without an image in the denominator.
        """
        found = self.effective(ratio, level)
        if found is None:
            return None
        alone = Estimate(kind="proportion", value=found.k / found.n, k=found.k, n=found.n)
        if not self.whole_patients and self.images_a_patient is None:
            return alone
        ends = cluster.bounds(found, level=level, interval=interval)
        return replace(
            alone,
            low=ends.low,
            high=ends.high,
            level=level,
            method=interval,
            clusters=found.clusters,
            design_effect=found.design_effect,
        )

    def sizes(self, ratio: confusion.Ratio) -> tuple[list[int], list[int]]:
        """Numbers of images per patient in the denominator, and how many patients have each.

        Where patients are unknown, each has as many as are declared, or one.
        """
        _, each = ratio.terms(self.patterns)
        if not self.named:
            whole, rest = divmod(int(self.counts @ each), most := self.images_a_patient or 1)
            dealt = [(most, whole), (rest, 1)]
            return [size for size, many in dealt if size and many], [many for size, many in dealt if size and many]
        sizes, at = np.unique(each, return_inverse=True)
        patients = np.bincount(at.ravel(), weights=self.counts).astype(int)
        return [int(s) for s in sizes if s > 0], [int(c) for s, c in zip(sizes, patients, strict=True) if s > 0]


@dataclass(frozen=True, eq=False)
class Read:
    """All images of a table, those without a reference grade too; counted as images, whatever the unit.

    graded: (N,) which have a reference grade. marked: how many of these are marked as not gradable. patients: (N,)
    codes, or None where they are unknown. slices: by column, (N,) as in `Sample`.
    """

    graded: Flags
    marked: int
    patients: Ints | None
    slices: dict[str, Ints]


@dataclass(frozen=True, eq=False)
class Images:
    """The images of the units.

    order: (images,) positions in the table, unit by unit. starts: (n,) where in it each unit begins.
    grade, dme: (images,) reference grade and macular oedema of each, as in the table.
    scores: (images, 4) what cut-offs act on, NaN without output; see `drgate.predictions.scores_of`.
    """

    order: Ints
    starts: Ints
    grade: Ints
    dme: Flags | None
    scores: Floats

    def worst(self, values: NDArray[Any]) -> NDArray[Any]:
        """The highest value of each unit's images; no output has the largest code, and NaN wins over every number."""
        return np.maximum.reduceat(values[self.order], self.starts)

    def answers(self, given: Ints) -> tuple[Ints, dict[str, Ints]]:
        """`Sample.predicted` and `Sample.views` of the answers to the images.

        An error in an image that is itself in the group counts even where another image of the unit has no output.
        """
        any_image = self.worst(given)
        if len(self.starts) == len(self.order):
            return any_image, {}

        def of(inside: Flags) -> Ints:
            """The worst answer to the images inside; -1 where a unit has none."""
            return self.worst(np.where(inside, given, -1))

        reference = self.worst(self.grade)
        units = np.empty_like(self.order)
        units[self.order] = np.repeat(np.arange(len(reference)), np.diff(self.starts, append=len(self.order)))
        exact = np.where(any_image == reference, of(self.grade == reference[units]), any_image)
        severe = np.isin(self.grade, GROUPS["vision_threatening"])
        lowest = -self.worst(np.where(severe, -given, -confusion.NO_OUTPUT))
        views = {"referral": any_image, "lowest": np.where(lowest < GROUPS["referable"][0], lowest, any_image)}
        for group, grades in GROUPS.items():
            inside = np.isin(self.grade, grades)
            if self.dme is not None and group in WITH_OEDEMA:
                inside |= self.dme
            own = of(inside)
            hit_without_output = (own >= grades[0]) & (any_image == confusion.NO_OUTPUT)
            views[MetricId(RIGHT_EYE, group).view] = np.where((own < 0) | hit_without_output, any_image, own)
        return exact, {view: answers for view, answers in views.items() if not np.array_equal(answers, exact)}


@dataclass(frozen=True, eq=False)
class Sample:
    """The units that are counted: images, eyes (by the worst image) or patients (by the worse eye).

    answer_scale, reference_scale: what the model and the reference tell apart; where that is only whether to refer,
        0 and 2 stand for it, and `lacks` says which metrics this is not enough for.
    reference: (n,) grades 0-4. predicted: (n,) grades 0-4, 5 for no output; a unit has none if one of its images has
        none. It is the view "exact": the worst answer; but if that is the unit's grade and was given to none of the
        images that have this grade, the worst answer to these.
    views: (n,) answers as other metrics read them, by `MetricId.view`; those that differ from `predicted`.
    probabilities: (n, 5), NaN without output and for units other than images.
    scores: (n, 4) P(grade >= 1) to P(grade >= 4), or the severity, the highest of the unit's images; NaN where one has
        none.
    patients: (n,) codes 0 to c - 1, or None where they are unknown.
    within: the images of each unit.
    dme: (n,) whether there is macular oedema, or None where the table has no labels for it.
    names: (n,) the image of each unit, the first of several; in a pair its published name.
    images: number of images with a reference grade.
    read: all images of the table, those without a reference grade too; absent in a pair.
    images_a_patient: the most images of one patient, as the checklist declares where patients are unknown.
    no_probabilities: see `Predictions.no_probabilities`.
    no_patients: why nothing shows how sure a figure is; None where patients are known or declared.
    slices: by column, (n,) the number of each unit's slice in `slice_names` (-1: in none).
    """

    reference: Ints
    predicted: Ints
    probabilities: Floats
    scores: Floats
    patients: Ints | None
    within: Images
    dme: Flags | None
    names: NDArray[np.object_]
    unit: str
    images: int
    images_a_patient: int | None
    no_probabilities: NoProbabilities = ""
    no_patients: NoPatients | None = None
    read: Read | None = None
    answer_scale: Scale = "grades"
    reference_scale: Scale = "grades"
    slices: dict[str, Ints] = field(default_factory=dict)
    slice_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    views: dict[str, Ints] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        predictions: Predictions,
        checklist: Checklist,
        unit: str | None = None,
        *,
        slices: Sequence[Slice] | None = None,
        data: TestSet | None = None,
    ) -> Sample:
        """The graded images of a table, by the unit and slices of the checklist unless others are given.

        data: what is recorded of the test set, if more than the table shows: its digest, and how patients were named.

        Raises PredictionsError without reference grades, without the cut-offs that answers need, without a column to
        slice by, for a unit that is not known (no
        patient, no eye) or is in two slices, and where only some images have `dme`.
        """
        if predictions.lacks_cut_offs:
            raise PredictionsError(predictions.lacks_cut_offs)
        origin, table, unit = predictions.origin, predictions.as_grades, unit or checklist.unit
        judged = _graded(table, origin)
        if unit != "image" and predictions.patients.named == "image names":
            raise PredictionsError(
                f"{origin}: the checklist judges by {unit}, but the patients only repeat the images' names; name the "
                "patients."
            )
        graded = graded_rows(table).to_numpy(dtype=bool)
        by, everywhere = {}, {}
        for one in checklist.slices if slices is None else slices:
            if one.by not in judged.columns:
                raise PredictionsError(
                    f"{origin} has no column {one.by!r}, which the checklist {checklist.name} slices by; it has "
                    f"{len(predictions.slice_columns) or 'no'} further columns. Say which one it is: --columns "
                    f"{one.by}=NAME."
                )
            # A slice stays one of the test set where none of its images has a grade: its criteria are not assessed.
            names, everywhere[one.by] = _sliced(table[one.by], one, origin)
            by[one.by] = names, everywhere[one.by][graded]
        declared, lacking = declaration(predictions, checklist, data)
        if not predictions.patients_known:
            _require_countable(judged, checklist, origin, declared)
        read = Read(
            graded=graded,
            marked=int((~table["gradable"].to_numpy(dtype=bool) & graded).sum()),
            patients=pd.factorize(table["patient"])[0].astype(np.int64) if predictions.patients_known else None,
            slices=everywhere,
        )
        sample = _by_unit(judged, unit, origin, declared, by, lacking)
        return replace(sample, read=read, no_probabilities=predictions.no_probabilities)

    @classmethod
    def by_site(cls, predictions: Predictions, checklist: Checklist, data: TestSet | None = None) -> Sample | None:
        """The same units by site, a slice each; None where the checklist names no column of sites.

        Groups of values are those of the checklist's slices by that column. Arguments and errors as `of`.
        """
        column = checklist.site_column
        if column is None:
            return None
        by = next((one for one in checklist.slices if one.by == column), Slice(by=column))
        return cls.of(predictions, checklist, slices=[by], data=data)

    def __len__(self) -> int:
        return len(self.reference)

    def lacks(self, metric: MetricId, model: str = "the model") -> str:
        """Why a metric cannot be counted where model or reference say only whether to refer; empty where it can."""
        has = {f"{model} answers": self.answer_scale, "the reference says": self.reference_scale}
        needed = zip(("model", "reference"), has.items(), strict=True)
        only = [who for whose, (who, scale) in needed if whose in metric.needs_grades and scale == "referable"]
        return f"{' and '.join(only)} only whether to refer." if only else ""

    @property
    def clusters(self) -> int | None:
        """Patients; None where they are unknown."""
        return None if self.patients is None else int(self.patients.max()) + 1

    @property
    def unknown(self) -> bool:
        """Whether patients are neither known nor is declared how many images one has: then no limit can be computed."""
        return self.patients is None and self.images_a_patient is None

    @cached_property
    def answered(self) -> Flags:
        """(n,) units with output."""
        return np.asarray(self.predicted != confusion.NO_OUTPUT)

    def graded(self, target: str) -> Ints:
        """(n,) reference grades; for a group of grades, lifted into it where there is macular oedema."""
        if self.dme is None or target not in WITH_OEDEMA:
            return self.reference
        return _lifted(self.reference, self.dme, target)

    def answers(self, metric: MetricId) -> Ints:
        """(n,) answers as a metric reads them."""
        return self.views.get(metric.view, self.predicted)

    def at(self, cut_offs: Sequence[float]) -> Sample:
        """The same units, graded by cut-offs on the scores of their images."""
        given = grades_at(self.within.scores, cut_offs)
        given[given < 0] = confusion.NO_OUTPUT
        predicted, views = self.within.answers(given)
        return replace(self, predicted=predicted, views=views)

    def ranked(self, target: str) -> Floats | None:
        """(n,) what AUC ranks: the probability of a grade or group, or the severity, of several images the largest.

        NaN without one. None where nothing ranks the target. A severity says nothing of a grade between the first and
        the last. Nor does any image's probability say how probable such a grade is of a unit: it is that of the worst
        image, so that a high probability of it in another image says nothing.
        """
        grades = list(grades_of(target) or ())
        if self.no_probabilities == "one-hot":
            return None
        if self.unit == "image" and not self.no_probabilities:
            return np.asarray(self.probabilities[:, grades].sum(axis=1))
        if grades == [0]:  # no image has any DR
            return 1 - self.scores[:, 0]
        return self.scores[:, grades[0] - 1] if grades[-1] == confusion.GRADES - 1 else None

    def by_patient(self, flags: Flags) -> Ints:
        """(c,) how many units of each patient are flagged; (n,) by unit where patients are unknown."""
        if self.patients is None:
            return flags.astype(np.int64)
        return np.bincount(self.patients, weights=flags).astype(np.int64)

    @cached_property
    def _distinct(self) -> tuple[dict[str, Ints], Ints | None, Ints]:
        """Columns of the units of distinct patients, the patient of each unit, and how often each patient occurs."""
        columns = {"reference": self.reference, "predicted": self.predicted, **self.views}
        if self.dme is not None:
            columns["dme"] = self.dme.astype(np.int64)
        columns |= {f"by {column}": codes + 1 for column, codes in self.slices.items()}
        joint, kinds_so_far = np.zeros(len(self), dtype=np.int64), 1
        for codes in columns.values():
            many = int(codes.max()) + 1
            if kinds_so_far * many > np.iinfo(np.int64).max:
                joint = np.unique(joint, return_inverse=True)[1]
                kinds_so_far = int(joint.max()) + 1
            joint, kinds_so_far = joint * many + codes, kinds_so_far * many
        _, first, kind = np.unique(joint, return_index=True, return_inverse=True)
        if self.patients is None:
            kinds, owners, times = np.arange(len(first)), None, np.bincount(kind)
        else:
            found = bootstrap.distinct_patients(kind, self.patients, len(first))
            kinds, owners, times = found.codes, found.patients, found.times
        chosen = {name: codes[first][kinds] for name, codes in columns.items()}
        return chosen, owners, times.astype(np.int64)

    @property
    def counted_digest(self) -> str:
        """`sha256:...` over what is counted: distinct patients, and how many there are of each."""
        columns, owners, times = self._distinct
        owner = {} if owners is None else {"patient": owners}
        return bootstrap.counted_digest({f"in {self.unit}s": times, **owner, **columns})

    def tally(self, column: str = "", value: str = "", endpoint: str = "") -> Tally | None:
        """Counts of all units or of one slice, as sensitivity and specificity read them; None where the slice has none.

        value: the name of a slice, "" for the units in none of the column. endpoint: a group of grades, which decides
        the view of the answers and into which macular oedema lifts the reference; a single grade or nothing.
        """
        return self.tally_of(MetricId("sensitivity", endpoint, column, value))

    def tally_of(self, metric: MetricId) -> Tally | None:
        """Counts of all units or of the metric's slice as the metric reads them; None where the slice has none."""
        if metric.about.of_reference:
            return self._graded_or_not(metric.column, metric.value)
        lifting = metric.group if self.dme is not None else ""
        view = metric.view if metric.view in self.views else "predicted"
        return self._tallied(metric.column, metric.value, lifting, view)

    @cached_property
    def _tallies(self) -> dict[tuple[str, ...], Tally | None]:
        """Every tally that was asked for; it goes with the sample, which a cache of the class would keep."""
        return {}

    def _tallied(self, *key: str) -> Tally | None:
        if key not in self._tallies:
            self._tallies[key] = self._counted(*key)
        return self._tallies[key]

    def _counted(self, column: str, value: str, endpoint: str, view: str) -> Tally | None:
        columns, owners, times = self._distinct
        reference = _lifted(columns["reference"], columns["dme"] == 1, endpoint) if endpoint else columns["reference"]
        cells = confusion.cells(reference, columns[view])
        inside = np.ones(len(cells), dtype=bool)
        if column:
            names = ("", *self.slice_names.get(column, ()))
            if value not in names:
                return None
            inside = columns[f"by {column}"] == names.index(value)
        if not inside.any():
            return None
        if owners is None:
            table = np.bincount(cells[inside], weights=times[inside], minlength=confusion.CELLS).astype(np.int64)
            patterns, counts = bootstrap.image_patterns(table)
        else:
            patterns, counts = bootstrap.patient_patterns(cells[inside], owners[inside], times)
            table = counts @ patterns
        table = table.reshape(confusion.GRADES, confusion.COLUMNS)
        return Tally(table, patterns, counts, owners is not None, self.images_a_patient)

    def left_out(self, metric: MetricId) -> Tally | None:
        """The units that a metric of an index cannot count for lack of an answer: as if only these had no output.

        An index from probabilities also leaves out who has an answer without them.
        """
        absent = np.isnan(self.scores[:, 0]) if metric.about.from_probabilities else ~self.answered
        return self._parted(absent, self.patients, self.slices, metric.column, metric.value)

    def _graded_or_not(self, column: str, value: str) -> Tally | None:
        """Counts of all images, as if those without a reference grade were those without output."""
        assert self.read is not None, "a sample of one table knows all its images"
        key = ("graded or not", column, value)
        if key not in self._tallies:
            read = self.read
            self._tallies[key] = self._parted(~read.graded, read.patients, read.slices, column, value)
        return self._tallies[key]

    def _parted(
        self, absent: Flags, patients: Ints | None, slices: dict[str, Ints], column: str, value: str
    ) -> Tally | None:
        """Counts of rows of which some lack something: two cells of one grade, an answer and no output."""
        cells = np.where(absent, confusion.NO_OUTPUT, 0)
        if column:
            names = self.slice_names[column]
            here = slices[column] == (names.index(value) if value in names else len(names))
            cells, patients = cells[here], None if patients is None else patients[here]
        if not cells.size:
            return None
        table = np.bincount(cells, minlength=confusion.CELLS)
        found = bootstrap.image_patterns(table) if patients is None else bootstrap.patient_patterns(cells, patients)
        table = table.reshape(confusion.GRADES, confusion.COLUMNS).astype(np.int64)
        return Tally(table, *found, patients is not None, self.images_a_patient)

    def whole(self, endpoint: str = "") -> Tally:
        """Counts of all units."""
        tally = self.tally(endpoint=endpoint)
        assert tally is not None, "a sample has at least one unit"
        return tally

    def by_reference(self, tally: Tally) -> list[int]:
        """Units of a tally by what the reference tells apart: five grades, or not referable and referable."""
        found: list[int] = tally.table.sum(axis=1)[[*STANDS_FOR[self.reference_scale]]].tolist()
        return found

    def confusion(self) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
        """Units by what reference (rows) and model (columns) tell apart, and by row those without output.

        Where one of them says only whether to refer, the worst answer to any image counts, as for `referable`.
        """
        scales = self.reference_scale, self.answer_scale
        rows, columns = ([*STANDS_FOR[scale]] for scale in scales)
        view = "referral" if "referable" in scales and "referral" in self.views else "predicted"
        tally = self._tallied("", "", "", view)
        assert tally is not None, "a sample has at least one unit"
        table = tally.table[rows]
        return tuple(map(tuple, table[:, columns].tolist())), tuple(table[:, confusion.NO_OUTPUT].tolist())

    def counts(self) -> dict[str, Any]:
        """The counts of the test set that a report shows."""
        found: dict[str, Any] = {
            "unit": self.unit,
            "units": len(self),
            "images": self.images,
            "patients": self.clusters,
            "reference_scale": self.reference_scale,
            "answer_scale": self.answer_scale,
            "by_grade": self.by_reference(self.whole()),
            "reference_ungradable": 0 if self.read is None else int((~self.read.graded).sum()),
            "dme": None if self.dme is None else int(self.dme.sum()),
        }
        if self.slices:
            found["slices"] = [
                {
                    "by": column,
                    "value": value,
                    "units": int(tally.table.sum()),
                    "by_grade": self.by_reference(tally),
                }
                for column, value in self.each_slice()
                if (tally := self.tally(column, value)) is not None
            ]
            found["in_no_slice"] = {column: int((codes < 0).sum()) for column, codes in self.slices.items()}
        return found

    def each_slice(self) -> Iterator[tuple[str, str]]:
        """Column and name of every slice that has a unit."""
        for column, names in self.slice_names.items():
            yield from ((column, name) for name in names)


@dataclass(frozen=True, eq=False)
class Pair:
    """Two models on the same units, in the same order and with the same reference grades and patients."""

    first: Sample
    second: Sample

    @classmethod
    def of(
        cls,
        first: Predictions,
        second: Predictions,
        *,
        unit: str = "image",
        images_a_patient: int | None = None,
        name: str = "",
    ) -> Pair:
        """The graded images of two tables, paired one by one and then reduced to the unit.

        Images are matched by content where both tables have a key for every row and no two are equal, else by name, the
        published one where a table is published. The samples name images as published. Eyes and macular oedema come
        from the first table, patients from either; the second may lack them. images_a_patient: as declared, where
        neither has patients. name: the second table's name in messages,
        if not its origin.

        Raises PredictionsError where the tables are not of the same images or contradict each other
        in grade, macular oedema, patient or (by eye) eye.
        """
        if lacking := first.lacks_cut_offs or second.lacks_cut_offs:
            raise PredictionsError(lacking)
        name = name or second.origin
        tables = [first.as_grades, second.as_grades]
        if first.scales[1] != second.scales[1]:
            raise PredictionsError(
                f"{name} has another kind of reference (grades in one table, referable in the other); give both the "
                "same."
            )
        stated = [first.table["patient"], second.table["patient"]]
        names = [published_names(table) for table in tables]
        keys = [content_keys(table) for table in tables]
        by_content = all(None not in some and len({*some}) == len(some) for some in keys)
        if by_content or any(table["image"].tolist() == some for table, some in zip(tables, names, strict=True)):
            tables = [table.set_index(pd.Index(some)) for table, some in zip(tables, names, strict=True)]
        else:
            tables = [table.set_index("image", drop=False) for table in tables]
        stated = [patients.set_axis(table.index) for patients, table in zip(stated, tables, strict=True)]
        mine, theirs = tables
        shown = dict(zip(mine.index, names[0], strict=True))
        alone = mine.index.symmetric_difference(theirs.index)
        if len(alone):
            raise PredictionsError(f"{name} was scored on other images: {len(alone)} are in one table only.")
        mine = _graded(mine, first.origin)
        theirs = theirs.loc[mine.index]
        if theirs["grade"].isna().all():
            raise PredictionsError(f"{name} has no reference grades.")

        def require_same(differ: Flags, what: str) -> None:
            if differ.any():
                raise PredictionsError(f"{name} {what} (in {int(differ.sum())} of the images).")

        require_same((mine["grade"] != theirs["grade"]).fillna(True).to_numpy(dtype=bool), "has other reference grades")
        labels = [_oedema(mine, first.origin), _oedema(theirs, name)]
        if labels[0] is not None and labels[1] is not None:
            require_same(labels[0] != labels[1], "has other reference labels of macular oedema")
        if unit == "eye":
            require_same(
                ((mine["eye"] != theirs["eye"]) & mine["eye"].notna() & theirs["eye"].notna()).to_numpy(dtype=bool),
                "has other eyes",
            )
        owners = [table["patient"] for table in (mine, theirs) if table["patient"].notna().all()]
        if len(owners) == 2:
            # Numbered by first appearance in the same order of images, whatever their names. One table may show what
            # the other does not, that two patients are one.
            given, numbered = (
                [pd.factorize(patients.loc[mine.index])[0] for patients in some] for some in (stated, owners)
            )
            differ = numbered[0] != numbered[1]
            require_same(differ & (given[0] != given[1]).any(), "groups the images into other patients")
        if owners:
            mine = mine.assign(patient=owners[0])
        mine = mine.assign(image=mine.index.map(shown))
        others = [column for column in ANSWERS if column in theirs.columns]
        other = mine.drop(columns=[*ANSWERS], errors="ignore").assign(**{column: theirs[column] for column in others})
        declared = None if owners else images_a_patient
        one, two = (
            replace(_by_unit(table, unit, first.origin, declared), no_probabilities=whole.no_probabilities)
            for table, whole in ((mine, first), (other, second))
        )
        return cls(one, two)

    @property
    def right(self) -> tuple[Flags, Flags]:
        """Which units each model grades correctly."""
        return self.first.predicted == self.first.reference, self.second.predicted == self.second.reference

    @property
    def rightly_referred(self) -> tuple[Flags, Flags]:
        """Which units each model refers, or does not refer, correctly; no output is neither."""
        metric, lowest = MetricId("sensitivity", "referable"), GROUPS["referable"][0]
        referable = self.first.graded("referable") >= lowest
        given = self.first.answers(metric), self.second.answers(metric)
        first, second = (((one >= lowest) == referable) & (one != confusion.NO_OUTPUT) for one in given)
        return first, second

    def lacks(self, metric: MetricId, models: tuple[str, str] = ("the model", "the baseline")) -> str:
        """As `Sample.lacks`, of both models."""
        return self.first.lacks(metric, models[0]) or self.second.lacks(metric, models[1])

    @property
    def counted_digest(self) -> str:
        """`sha256:...` over what is counted: distinct patients under both models, and how many there are of each."""
        images, (one, two) = self.first, self.cells("")
        oedema = np.zeros(len(images), dtype=np.int64) if images.dme is None else images.dme + np.int64(1)
        owners = np.arange(len(images)) if images.patients is None else images.patients
        joint = (one * confusion.CELLS + two) * 3 + oedema
        found = bootstrap.distinct_patients(joint, owners, 3 * confusion.CELLS**2)
        return bootstrap.counted_digest({"times": found.times, "patient": found.patients, "cells": found.codes})

    def cells(self, target: str) -> tuple[Ints, Ints]:
        """Cell 0-29 of each unit under each model; for a group of grades, with macular oedema in it."""
        reference, metric = self.first.graded(target), MetricId("sensitivity", target)
        return (
            confusion.cells(reference, self.first.answers(metric)),
            confusion.cells(reference, self.second.answers(metric)),
        )

    def successes(self, first: Flags, second: Flags, counted: Flags | None = None) -> paired.PairedSample:
        """The paired sample of the units that count (all), from which of them succeed under each model."""
        counted = np.ones(len(self.first), dtype=bool) if counted is None else counted
        flags = first & ~second & counted, second & ~first & counted, counted
        if self.first.patients is None:
            most = self.first.images_a_patient
            return paired.paired_sample_unknown(*(int(one.sum()) for one in flags), images_a_patient=most)
        return paired.paired_sample(*(self.first.by_patient(one) for one in flags))

    def difference(
        self,
        first: Flags,
        second: Flags,
        counted: Flags | None = None,
        *,
        level: float,
        kind: Literal["index", "difference"] = "difference",
    ) -> Estimate:
        """First minus second as shares of the units that count, without limits where nothing is known of patients."""
        sample = self.successes(first, second, counted)
        alone = Estimate(kind=kind, value=sample.difference, n=sample.n)
        if self.first.unknown:
            return alone
        ends = paired.difference_bounds(sample, level=level)
        return replace(
            alone,
            low=ends.low,
            high=ends.high,
            level=level,
            method=TANGO,
            clusters=sample.clusters,
            design_effect=sample.design_effect,
        )


def declaration(
    predictions: Predictions, checklist: Checklist, data: TestSet | None = None
) -> tuple[int | None, NoPatients | None]:
    """The most images of one patient, as the checklist declares for this test set, and why there is no such number.

    Neither where patients are known: then a declaration says nothing. Arguments as of `Sample.of`.
    """
    if predictions.patients_known:
        return None, None
    digest = (data and data.digest) or predictions.test_set
    found = (data and data.patients) or patients_of(predictions)
    if digest == predictions.test_set and predictions.numbered:
        return None, NoPatients(
            "no patients are named, and nothing can be declared, for the images are called row-1, row-2 and so on as "
            "in any other table of this size",
            "Name the patients, or evaluate the table with the images' own names.",
        )
    declared = next((one.most for one in checklist.declared if one.manifest == digest), None)
    if declared is None:
        named = found.named == "image names"
        return None, NoPatients(
            "the patients only repeat the images' names" if named else "no patients are named",
            "Name them in a column patient from the first look on, or let the owner of the test set declare in the "
            f"checklist: declared: [{{manifest: {digest}, images_a_patient_at_most: N}}].",
        )
    audit = data and data.audit
    copies = max(map(len, audit.copies), default=1) if audit else 1
    if (most := max(found.most, copies)) > declared:
        shown = f"patients, names or eyes show {most} of one"
        if copies > found.most:
            shown = f"{most} images of the test set show the same picture"
        return None, NoPatients(
            f"the checklist declares at most {declared} image{'' if declared == 1 else 's'} of one patient, but "
            f"{shown}, so nothing is declared"
        )
    return declared, None


def patients_of(predictions: Predictions) -> Patients:
    """What a table says of patients, to be recorded before it is published."""
    found = predictions.patients
    return Patients(found.named, found.merged, found.most, found.apart)


def unit_lacks(predictions: Predictions, unit: str) -> str:
    """The column without which a table cannot be judged by eye or by patient; empty where it can."""
    table = predictions.grouped
    return _lacks(table[graded_rows(table)], unit)


def _lacks(judged: pd.DataFrame, unit: str) -> str:
    needed = {"image": (), "eye": ("patient", "eye"), "patient": ("patient",)}[unit]
    return next((column for column in needed if judged[column].isna().any()), "")


def _graded(table: pd.DataFrame, origin: str) -> pd.DataFrame:
    """The rows with a reference grade; PredictionsError where there are none, or one lacks it without saying why."""
    judged = table[graded_rows(table)]
    if judged.empty:
        raise PredictionsError(without_grades(table, origin))
    if (lacking := unexplained(table)).any():
        raise PredictionsError(
            f"{origin}: {int(lacking.sum())} of {len(table)} images have no reference grade; give one, or set gradable "
            "to false."
        )
    return judged


def _oedema(judged: pd.DataFrame, origin: str) -> Flags | None:
    """Which graded images have macular oedema; None without labels. PredictionsError where only some have one."""
    if "dme" not in judged.columns or judged["dme"].isna().all():
        return None
    absent = judged["dme"].isna()
    if absent.any():
        raise PredictionsError(
            f"{origin}: {int(absent.sum())} of the graded images have no dme, but others have; give 0 or 1 for every "
            "graded image, or leave the column out."
        )
    return judged["dme"].to_numpy(dtype=bool)


def _lifted(reference: Ints, dme: Flags, group: str) -> Ints:
    """Reference grades where macular oedema counts as the lowest grade of a group at least."""
    return np.where(dme, np.maximum(reference, GROUPS[group][0]), reference)


def _by_unit(
    judged: pd.DataFrame,
    unit: str,
    origin: str,
    images_a_patient: int | None,
    slices: dict[str, tuple[tuple[str, ...], Ints]] | None = None,
    no_patients: NoPatients | None = None,
) -> Sample:
    """Graded images as a sample: for each quantity, the worst image of each unit."""
    if missing := _lacks(judged, unit):
        raise PredictionsError(
            f"{origin}: the checklist judges by {unit}, but {missing} is not given for every image; give it in a "
            f"column {missing}, or judge by image with another checklist."
        )
    patients = None if judged["patient"].isna().any() else pd.factorize(judged["patient"])[0].astype(np.int64)
    code = np.arange(len(judged))
    if unit != "image":
        assert patients is not None, "a unit other than the image has a patient"
        code = patients * 2 + (judged["eye"] == "R").to_numpy(dtype=np.int64) if unit == "eye" else patients
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    first = order[starts]

    dme = _oedema(judged, origin)
    probabilities = judged[list(PROBABILITIES)].to_numpy(dtype=np.float64)
    within = Images(order, starts, judged["grade"].to_numpy(dtype=np.int64), dme, scores_of(judged))
    worst = within.worst
    for column, (_, codes) in (slices or {}).items():
        if (apart := worst(codes) != -worst(-codes)).any():
            raise PredictionsError(
                f"{origin}: the checklist judges by {unit} and slices by {column}, but {int(apart.sum())} of them have "
                "images in two of these slices; slice by a column with one value per patient, or judge by image."
            )
    answer_scale, reference_scale = scales(judged)
    predicted, views = within.answers(judged["predicted"].to_numpy(dtype=np.int64, na_value=confusion.NO_OUTPUT))
    return Sample(
        reference=worst(within.grade),
        predicted=predicted,
        views=views,
        probabilities=probabilities if unit == "image" else np.full((len(first), 5), np.nan),
        scores=worst(within.scores),
        patients=None if patients is None else patients[first],
        within=within,
        dme=None if dme is None else worst(dme),
        names=judged["image"].to_numpy(dtype=object)[first],
        unit=unit,
        images=len(judged),
        images_a_patient=images_a_patient,
        no_patients=no_patients,
        answer_scale=answer_scale,
        reference_scale=reference_scale,
        slices={column: worst(codes) for column, (_, codes) in (slices or {}).items()},
        slice_names={column: names for column, (names, _) in (slices or {}).items()},
    )


def _require_countable(judged: pd.DataFrame, checklist: Checklist, origin: str, declared: int | None) -> None:
    """Raise PredictionsError for what cannot be counted without patients."""
    if checklist.bootstrap.class_totals == "fixed" and declared != 1:
        raise PredictionsError(
            f"{origin} has no patients, which class_totals: fixed of the checklist {checklist.name} needs; give the "
            "patients, or set class_totals: random."
        )
    keys = pd.Series(content_keys(judged), index=judged.index, dtype="str")
    if (again := keys.dropna()[lambda known: known.duplicated()]).size:
        same = judged["image"][keys == again.iloc[0]]
        raise PredictionsError(
            f"{origin}: {len(same)} rows are of the same file, which would count more than once; keep one of them, or "
            "give the patients."
        )


def _sliced(values: pd.Series[Any], one: Slice, origin: str) -> tuple[tuple[str, ...], Ints]:
    """Names of the slices that occur, sorted, and the number of each row's (-1: in none)."""
    codes, found = pd.factorize(values)
    grouped = {value for members in (one.groups or {}).values() for value in members}
    for name in set(one.groups or {}) & set(map(str, found)) - grouped:
        raise PredictionsError(
            f"{origin}: {name!r} is a value of {one.by} and the name of a group that does not contain it; rename "
            "the group, or add the value to it."
        )
    slice_of = [one.name_of(str(value)) for value in found]
    names = tuple(sorted(set(slice_of)))
    number = np.array([*(names.index(name) for name in slice_of), -1])  # factorize numbers an absent value -1
    return names, number[codes]
