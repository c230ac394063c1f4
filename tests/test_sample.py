"""One reading of a table into what is counted, and of two tables paired by image: units, patients, oedema, slices."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from drgate.checklist import Checklist, parse_checklist
from drgate.compare import Comparison, Difference
from drgate.errors import PredictionsError
from drgate.evaluate import evaluate
from drgate.evaluation import Audit, Estimate, Evaluation, Metric, NotEstimable, TestSet
from drgate.manifest import load_manifest
from drgate.operating_point import OperatingPoint
from drgate.predictions import Predictions, make_predictions
from drgate.sample import Pair, Sample, declaration
from drgate.stats import cluster, confusion
from drgate.stats.proportion import Bounds
from drgate.tune import tune
from tests.support.comparing import compare
from tests.support.declaring import declaring


def checklist_of(**changes: Any) -> Checklist:
    """A small checklist: what is not given has its default."""
    content = {
        "name": "small",
        "version": 1,
        "bootstrap": {"resamples": 1000},
        "criteria": [{"id": "sensitivity:referable", "at_least": 0.5}, {"id": "baseline", "margin": 0.1}],
    }
    return parse_checklist(content | changes, "x")


def graded(seed: int, right: float, patients: int = 60, **columns: Any) -> pd.DataFrame:
    """Two eyes of each patient, two images of each eye; the images are the same for every seed, the answers are not."""
    truth, own = np.random.default_rng(0), np.random.default_rng([1, seed])
    n = 4 * patients
    grade = np.clip(np.repeat(truth.integers(0, 5, patients), 4) + truth.integers(-1, 2, n), 0, 4)
    return pd.DataFrame(
        {
            "image": [f"{i:04d}.png" for i in range(n)],
            "sha256": [f"{i:016x}" * 4 for i in range(n)],
            "patient": [f"P{i // 4}" for i in range(n)],
            "eye": ["L", "L", "R", "R"] * patients,
            "grade": grade,
            "predicted": np.where(own.random(n) < right, grade, 0),
        }
    ).assign(**columns)


def probable(table: pd.DataFrame) -> pd.DataFrame:
    """The same answers with probabilities: 0.8 for the predicted grade."""
    return table.assign(**{f"p_{grade}": np.where(table["predicted"] == grade, 0.8, 0.05) for grade in range(5)})


def predictions(table: pd.DataFrame, origin: str = "ours.csv") -> Predictions:
    return make_predictions(table, origin, {})


def numbers_of(found: object) -> dict[str, object]:
    """What was found, but for what is drawn with a seed from the table's digest."""
    if isinstance(found, Evaluation):
        return {name: metric.value for name, metric in found.metrics.items() if isinstance(metric, Estimate)}
    if isinstance(found, Comparison):
        return {name: one.value for name, one in found.differences.items() if isinstance(one, Difference)}
    assert isinstance(found, OperatingPoint), found
    return {"cut_offs": found.cut_offs, "promise": found.promise}


class TestOneTable:
    """What is counted of a table, by each unit: the worst image's grade and answer."""

    TABLE = pd.DataFrame(
        {
            "image": list("abcdefg"),
            "patient": ["1", "1", "2", "2", "3", "3", "3"],
            "eye": ["L", "R", "L", "R", "L", "R", "R"],
            "grade": [0, 4, 1, 1, 2, 3, 0],
            "predicted": [3, 4, 1, 2, 3, pd.NA, 1],
        }
    )
    EXPECTED: ClassVar[dict[str, tuple[list[int], list[int], list[int], list[str]]]] = {
        "image": ([0, 4, 1, 1, 2, 3, 0], [3, 4, 1, 2, 3, 5, 1], [0, 0, 1, 1, 2, 2, 2], list("abcdefg")),
        "eye": ([0, 4, 1, 1, 2, 3], [3, 4, 1, 2, 3, 5], [0, 0, 1, 1, 2, 2], list("abcdef")),
        "patient": ([4, 1, 3], [4, 2, 5], [0, 1, 2], list("ace")),
    }

    @pytest.mark.parametrize("unit", EXPECTED)
    def test_a_unit_is_its_worst_image(self, unit: str):
        """The highest grade and the highest answer; one image without output (5) leaves the unit without."""
        sample = Sample.of(predictions(self.TABLE), checklist_of(unit=unit))
        assert sample.patients is not None
        found = sample.reference.tolist(), sample.predicted.tolist(), sample.patients.tolist(), sample.names.tolist()
        assert found == self.EXPECTED[unit]
        assert (len(sample), sample.images, sample.clusters, sample.unit) == (len(found[0]), 7, 3, unit)
        assert sample.answered.tolist() == [answer < 5 for answer in found[1]]
        assert evaluate(predictions(self.TABLE), checklist_of(unit=unit)).no_output == (0, 0, 0, 1, 0)

    @pytest.mark.parametrize("unit", ["eye", "patient"])
    def test_scores_are_the_highest_of_the_unit(self, unit: str):
        """P(grade >= k) for k = 1 to 4, as pandas groups it; probabilities themselves have no unit but the image."""
        table = probable(graded(1, 0.7))
        sample = Sample.of(predictions(table), checklist_of(unit=unit))
        reached = pd.DataFrame({k: table[[f"p_{g}" for g in range(k, 5)]].sum(axis=1) for k in range(1, 5)})
        expected = reached.groupby([table[key] for key in ("patient", "eye")[: 1 + (unit == "eye")]], sort=False).max()
        assert sample.scores == pytest.approx(expected.to_numpy())
        assert np.isnan(sample.probabilities).all()

    def test_only_a_row_without_a_grade_is_left_out(self):
        """Whatever `gradable` says of a row with one."""
        table = self.TABLE.assign(gradable=[True] * 4 + [False] * 3)
        assert len(Sample.of(predictions(table), checklist_of())) == 7
        sample = Sample.of(predictions(table.assign(grade=[0, 4, 1, 1, 2, 3, None])), checklist_of())
        assert (len(sample), sample.counts()["reference_ungradable"]) == (6, 1)
        assert sample.read is not None
        assert sample.read.marked == 2

    @pytest.mark.parametrize(("unit", "column"), [("eye", "eye"), ("eye", "patient"), ("patient", "patient")])
    def test_a_unit_needs_its_column(self, unit: str, column: str):
        with pytest.raises(PredictionsError, match=f"judges by {unit}, but {column} is not given for every image"):
            Sample.of(predictions(self.TABLE.drop(columns=column)), checklist_of(unit=unit))

    @pytest.mark.parametrize(
        ("grades", "sentence"),
        [
            ([None] * 7, "has no reference grades in a column grade; say which column has them"),
            ([0, 1, None, 3, 4, 0, 1], "1 of 7 images have no reference grade"),
        ],
    )
    def test_needs_reference_grades(self, grades: list[int | None], sentence: str):
        with pytest.raises(PredictionsError, match=sentence):
            Sample.of(predictions(self.TABLE.assign(grade=grades)), checklist_of())


def test_a_grade_under_another_name_is_pointed_out():
    """The mapping to type, where a usual name suggests it."""
    table = pd.DataFrame({"image": ["a", "b"], "predicted": [0, 1], "label": [0, 1]})
    with pytest.raises(PredictionsError) as refused:
        Sample.of(predictions(table), checklist_of())
    assert "in a column grade. If they are in label, give --columns grade=label; else" in str(refused.value)


class TestUnknownPatients:
    """Where no patient is named, nothing is assumed: the checklist declares how many images one has at most."""

    BARE = predictions(graded(1, 0.9).drop(columns=["patient", "eye"]))

    def test_declared_or_not(self):
        checklists = [checklist_of(), *(declaring(checklist_of(), self.BARE, most) for most in (1, 3))]
        found = [Sample.of(self.BARE, one) for one in checklists]
        assert [(one.patients, one.unknown, one.whole().images_a_patient) for one in found] == [
            (None, True, None),
            (None, False, 1),
            (None, False, 3),
        ]
        assert [one.no_patients is None for one in found] == [False, True, True]

    def test_nothing_declared_is_no_evidence(self):
        """Whoever asks the counts for a bound gets none, and is told what to declare."""
        found = Sample.of(self.BARE, checklist_of())
        effective = found.whole().effective(confusion.accuracy("excluded"), 0.95)
        assert effective is not None
        assert cluster.bounds(effective, level=0.95, interval="clopper-pearson") == Bounds(0, 1)
        assert str(found.no_patients) == (
            "no patients are named. Name them in a column patient from the first look on, or let the owner of the "
            "test set declare in the checklist: "
            f"declared: [{{manifest: {self.BARE.images_digest}, images_a_patient_at_most: N}}]."
        )

    def test_a_declaration_is_for_one_test_set(self):
        """Of another set of images it says nothing; of the same with patients neither."""
        other = predictions(graded(1, 0.9).drop(columns=["patient", "eye"])[1:])
        assert declaration(other, declaring(checklist_of(), self.BARE))[0] is None
        assert declaration(predictions(graded(1, 0.9)), declaring(checklist_of(), self.BARE)) == (None, None)

    def test_a_declaration_that_names_contradict_is_void(self):
        """Images 0_left and 0_right are two of one patient."""
        table = pd.DataFrame({"image": ["0_left", "0_right", "1_left"], "grade": [0, 1, 2], "predicted": [0, 1, 2]})
        bare = predictions(table)
        assert declaration(bare, declaring(checklist_of(), bare, 2)) == (2, None)
        declared, unknown = declaration(bare, declaring(checklist_of(), bare, 1))
        assert declared is None
        assert str(unknown) == (
            "the checklist declares at most 1 image of one patient, but patients, names or eyes show 2 of one, so "
            "nothing is declared."
        )

    def test_a_declaration_that_pictures_contradict_is_void(self):
        """The audit found that three images show one picture: they are not of three patients, nor of two and one."""
        audit = Audit(f"sha256:{'5' * 64}", (), copies=(("a" * 16, "b" * 16, "c" * 16),))
        data = replace(TestSet("t", audit=audit), images_digest=self.BARE.images_digest)
        assert declaration(self.BARE, declaring(checklist_of(), self.BARE, 3), data) == (3, None)
        declared, unknown = declaration(self.BARE, declaring(checklist_of(), self.BARE, 2), data)
        assert declared is None
        assert "3 images of the test set show the same picture, so nothing is declared" in str(unknown)

    def test_fixed_class_totals_need_patients(self):
        with pytest.raises(
            PredictionsError, match="has no patients, which class_totals: fixed of the checklist small needs"
        ):
            Sample.of(
                predictions(graded(1, 0.9).drop(columns=["patient", "eye"])),
                checklist_of(bootstrap={"class_totals": "fixed"}),
            )

    def test_copies_of_a_file_do_not_count_twice(self):
        """One file under two names would be two patients."""
        table = graded(1, 0.9).drop(columns=["patient", "eye"])
        copied = table.assign(sha256=[f"{i // 4:016x}" * 4 for i in range(len(table))])
        with pytest.raises(PredictionsError, match="4 rows are of the same file"):
            Sample.of(predictions(copied), checklist_of())


class TestSlices:
    def test_are_counted_one_by_one(self):
        """By value, or by group of values; an empty cell is in no slice."""
        table = graded(1, 0.9).assign(camera=["A", "B", "C", None] * 60)
        grouped = checklist_of(slices=[{"by": "camera", "groups": {"old": ["A", "B"]}}])
        sample = Sample.of(predictions(table), grouped)
        tallies = {name: sample.tally("camera", name) for name in ("old", "C", "A")}
        counted = {name: tally and int(tally.table.sum()) for name, tally in tallies.items()}
        assert counted == {"old": 120, "C": 60, "A": None}
        assert sample.counts()["in_no_slice"] == {"camera": 60}
        assert Sample.of(predictions(table), grouped, slices=()).slices == {}

    def test_a_missing_column_is_refused(self):
        with pytest.raises(
            PredictionsError, match=r"no column 'site'.*slices by; it has 1 further columns.*--columns site=NAME"
        ):
            Sample.of(predictions(graded(1, 0.9, camera="A")), checklist_of(slices=[{"by": "site"}]))

    def test_a_patient_in_two_slices_is_refused_by_patient(self):
        """Judged by patient, every patient must be in one slice: overlapping slices share their errors."""
        table = predictions(graded(1, 0.9, camera=["A", "B"] * 120))
        with pytest.raises(PredictionsError, match="60 of them have images in two of these slices"):
            Sample.of(table, checklist_of(unit="patient", slices=[{"by": "camera"}]))

    def test_a_group_named_like_a_value_outside_it_is_refused(self):
        """Otherwise images of both would be one slice without a word."""
        checklist = checklist_of(slices=[{"by": "camera", "groups": {"A": ["B"]}}])
        with pytest.raises(PredictionsError, match="'A' is a value of camera and the name of a group"):
            Sample.of(predictions(graded(1, 0.9, camera="A")), checklist)


class TestPaired:
    """Two tables are paired image by image, and only then reduced to the unit."""

    @pytest.mark.parametrize("unit", ["image", "eye", "patient"])
    def test_a_baseline_under_other_image_names_is_the_same_baseline(self, unit: str):
        """Images are the same by their SHA-256; what they are called, and so their order, changes no number."""
        ours, baseline = predictions(graded(1, 0.9)), graded(2, 0.8)
        names = np.random.default_rng(4).permutation(len(baseline))
        renamed = baseline.assign(image=[f"x{name:04d}.png" for name in names])
        found: list[Metric] = [
            evaluate(ours, checklist_of(unit=unit), baseline=predictions(table, "theirs.csv")).metrics["baseline"]
            for table in (baseline, renamed)
        ]
        assert isinstance(found[0], Estimate)
        assert found[1] == found[0]

    @pytest.mark.parametrize("unit", ["image", "eye", "patient"])
    def test_units_are_counted_as_pandas_groups_them(self, unit: str):
        """Right under one model only, of all units; the difference of the baseline criterion is their balance."""
        tables = graded(1, 0.95), graded(2, 0.8)
        keys = {"image": ["image"], "eye": ["patient", "eye"], "patient": ["patient"]}[unit]
        worst = [table.groupby(keys)[["grade", "predicted"]].max() for table in tables]
        one, other = (table["grade"] == table["predicted"] for table in worst)
        pair = Pair.of(predictions(tables[0]), predictions(tables[1]), unit=unit)
        found = pair.successes(*pair.right)
        assert (found.only_first, found.only_second, found.n) == ((one & ~other).sum(), (other & ~one).sum(), len(one))
        assert (found.clusters, pair.first.clusters, pair.second.clusters) == (60, 60, 60)
        judged = evaluate(predictions(tables[0]), checklist_of(unit=unit), baseline=predictions(tables[1]))
        difference = judged.metrics["baseline"]
        assert isinstance(difference, Estimate)
        assert difference.value == pytest.approx(one.mean() - other.mean())
        assert (difference.n, difference.clusters) == (len(one), 60)

    def test_a_first_table_without_eyes_is_the_one_named(self):
        """By eye, the first table's eyes decide; it is at fault where they are absent, not the second table."""
        with pytest.raises(PredictionsError, match=r"^mine\.csv: the checklist judges by eye, but eye is"):
            Pair.of(
                predictions(graded(1, 0.9).drop(columns="eye"), "mine.csv"), predictions(graded(2, 0.8)), unit="eye"
            )

    def test_names_decide_where_a_file_digest_is_missing(self):
        """In one row of one table, or where one digest is in two rows."""
        ours, theirs = graded(1, 0.9), graded(2, 0.8)
        expected = numbers_of(compare(predictions(ours), predictions(theirs)))
        for sha256 in ([None, *theirs["sha256"][1:]], [theirs["sha256"][1], *theirs["sha256"][1:]]):
            other = predictions(theirs.assign(sha256=sha256))
            assert numbers_of(compare(predictions(ours), other)) == expected

    @pytest.mark.parametrize("lacking", [0, 1])
    def test_patients_may_be_named_by_either_table(self, lacking: int):
        """Patients of both are those of the table that names them."""
        tables = [graded(1, 0.9), graded(2, 0.8)]
        both = Pair.of(*map(predictions, tables))
        tables[lacking] = tables[lacking].drop(columns=["patient", "eye"])
        one = Pair.of(*map(predictions, tables))
        assert one.successes(*one.right) == both.successes(*both.right)

    def test_without_patients_nothing_is_assumed(self):
        """Undeclared, no design effect is finite; else it is that of so many images alike."""
        bare = [predictions(graded(seed, 0.9).drop(columns=["patient", "eye"])) for seed in (1, 2)]
        pairs = [Pair.of(*bare, images_a_patient=most) for most in (None, 2, 1)]
        found = [pair.successes(*pair.right) for pair in pairs]
        assert [one.clusters for one in found] == [None, None, None]
        assert [one.design_effect for one in found] == [np.inf, pytest.approx(2 * 120 / 119 * 239 / 240), 1]

    CONTRADICTIONS: ClassVar[dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]]] = {
        "other images": (lambda t: t.iloc[1:], r"was scored on other images: 1 are in one table only"),
        "other grades": (
            lambda t: t.assign(grade=(t["grade"] + 1) % 5),
            r"has other reference grades \(in 240 of the images\)",
        ),
        "a grade less": (
            lambda t: t.assign(grade=[None, *t["grade"][1:]], gradable=[False] + [True] * 239),
            r"has other reference grades \(in 1 of the images\)",
        ),
        "other oedema": (lambda t: t.assign(dme=[0, 1] * 120), r"has other reference labels of macular oedema \(in 1"),
        "one patient more": (
            lambda t: t.assign(patient=["new", *t["patient"][1:]]),
            r"groups the images into other patients \(in 239 of the images\)",
        ),
        "two patients in one": (
            lambda t: t.assign(patient=t["patient"].replace("P9", "P4")),
            r"groups the images into other patients \(in 204 of the images\)",
        ),
        "other eyes": (
            lambda t: t.assign(eye=["R", "R", "L", "L"] * 60),
            r"has other eyes \(in 240 of the images\)",
        ),
    }

    @pytest.mark.parametrize("contradiction", CONTRADICTIONS)
    def test_a_contradiction_is_refused_and_counted(self, contradiction: str):
        """An error of the pair; a baseline criterion that cannot be judged."""
        change, sentence = self.CONTRADICTIONS[contradiction]
        ours = predictions(graded(1, 0.9, dme=0))
        theirs = predictions(change(graded(2, 0.8, dme=0)), "theirs.csv")
        with pytest.raises(PredictionsError, match=f"^theirs.csv {sentence}"):
            Pair.of(ours, theirs, unit="eye")
        found = evaluate(ours, checklist_of(unit="eye"), baseline=theirs).metrics["baseline"]
        assert isinstance(found, NotEstimable)
        assert re.match(f"the baseline {sentence}", found.reason)

    def test_other_names_of_the_same_patients_are_no_contradiction(self):
        table = graded(2, 0.8)
        renamed = table.assign(patient=[f"Q{100 - int(name[1:])}" for name in table["patient"]])
        pairs = [Pair.of(predictions(graded(1, 0.9)), predictions(one)) for one in (table, renamed)]
        assert pairs[0].successes(*pairs[0].right) == pairs[1].successes(*pairs[1].right)


class TestOedema:
    """Macular oedema is labelled for every graded image or for none, whoever reads the table."""

    READERS: ClassVar[dict[str, Callable[[Predictions], object]]] = {
        "evaluate": lambda given: evaluate(given, checklist_of()),
        "tune": lambda given: tune(given, checklist_of()),
        "compare, first": lambda given: compare(given, predictions(probable(graded(2, 0.8)))),
        "compare, second": lambda given: compare(predictions(probable(graded(2, 0.8))), given),
    }

    @pytest.mark.parametrize("reader", READERS)
    def test_a_gap_is_refused(self, reader: str):
        """Some images with a label and some without: the image is named."""
        given = predictions(probable(graded(1, 0.9)).assign(dme=[None, 1, *[0] * 238]), "gaps.csv")
        with pytest.raises(PredictionsError, match=r"gaps\.csv: 1 of the graded images have no dme, but others have"):
            self.READERS[reader](given)

    @pytest.mark.parametrize("reader", READERS)
    def test_an_empty_column_is_no_column(self, reader: str):
        given = probable(graded(1, 0.9))
        without, empty = (self.READERS[reader](predictions(table)) for table in (given, given.assign(dme=None)))
        assert numbers_of(empty) == numbers_of(without)

    def test_an_image_that_is_not_gradable_needs_no_label(self):
        """It is outside every count."""
        tables = [probable(graded(seed, 0.9)).assign(dme=[None, *(np.arange(239) % 6 == 0)]) for seed in (1, 2)]
        bare = [table.assign(grade=table["grade"].where(table["image"] != "0000.png")) for table in tables]
        one, other = (predictions(table.assign(gradable=table["image"] != "0000.png")) for table in bare)
        assert evaluate(one, checklist_of()).counts.dme == 40
        assert compare(one, other).images == 239
        assert isinstance(tune(one, checklist_of()), OperatingPoint)

    def test_tuning_and_evaluation_count_the_same_cases(self, tmp_path: Path):
        """Of the tuning table and of the planned test set, with macular oedema in the group."""
        table = probable(graded(1, 0.9)).assign(dme=np.arange(240) % 3 == 0)
        labels = table[["image", "grade", "patient", "eye"]].assign(dme=table["dme"].astype(int))
        labels.to_csv(tmp_path / "labels.csv", index=False)
        point = tune(predictions(table), checklist_of(), test=load_manifest(tmp_path / "labels.csv", files=False))
        assert isinstance(point, OperatingPoint)
        judged = evaluate(predictions(table), checklist_of()).metrics["sensitivity:referable"]
        assert isinstance(judged, Estimate)
        cases = int(((table["grade"] >= 2) | table["dme"]).sum())
        (promised,) = point.promise["criteria"]
        assert (promised["n"], promised["planned"], judged.n) == (cases, cases, cases)
