"""Whose image is whose: ids that repeat names, a patient's eyes under two ids, and what evaluations make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from drgate.checklist import parse_checklist
from drgate.errors import PredictionsError
from drgate.evaluate import evaluate
from drgate.evaluation import Estimate, Evaluation, Patients
from drgate.grouping import Grouping, grouping
from drgate.predictions import Predictions, make_predictions, published
from drgate.report import words
from tests.support.declaring import declaring

ACCURATE = parse_checklist(
    {
        "name": "accurate",
        "version": 1,
        "bootstrap": {"resamples": 1000},
        "criteria": [{"id": "accuracy", "at_least": 0.95}],
    },
    "x",
)


def found_in(images: list[str], patients: list[str] | None = None, **columns: Any) -> Grouping:
    columns = {"image": images, "patient": patients or [None] * len(images), "eye": [None] * len(images)} | columns
    return grouping(pd.DataFrame(columns, dtype=object))


def said(found: Grouping) -> tuple[str, list[int] | None, int, int]:
    return found.named, None if found.codes is None else found.codes.tolist(), found.merged, found.most


PAIR = ["a/0_left.png", "a/0_right.png", "a/1_left.png", "a/1_right.png"]


class TestIdsThatRepeatNames:
    @pytest.mark.parametrize(
        "ids",
        [
            ["a/x1.png", "a/x2.png", "b/y1.png"],
            ["x1.png", "x2.png", "y1.png"],
            ["x1", "x2", "y1"],
            ["A-X1", "a x2", "B_y1"],
            ["X_1.PNG", "x-2.png", "y1.png"],
            ["patient-x1", "patient-x2", "patient-y1"],
            ["x1 (2024)", "x2 (2024)", "y1 (2024)"],
            ["x1", "x2", "somebody"],
            ["uk-x1", "uk-x2", "br-y1"],
        ],
    )
    def test_name_nobody(self, ids: list[str]):
        """Paths, names, stems, in another case or punctuation, with some text around them, for more than half."""
        assert said(found_in(["a/x1.png", "a/x2.png", "b/y1.png"], ids)) == ("image names", None, 0, 1)

    def test_nor_do_digests_of_contents(self):
        digests = [f"{i:08x}" * 8 for i in range(7, 10)]
        for ids in (digests, [one[:16] for one in digests]):
            assert found_in(["a", "b", "c"], ids, sha256=digests).named == "image names"

    def test_nor_with_a_source_before_them(self):
        found = found_in(["x1", "x2"], ["A:x1", "B:x2"], source=["A", "B"])
        assert found.named == "image names"

    @pytest.mark.parametrize(
        ("images", "ids"),
        [
            (["10_left.png", "10_right.png", "11_left.png"], ["10", "10", "11"]),
            (["x1.png", "x2.png", "y1.png", "y2.png"], ["x1", "x1", "y1", "y1"]),  # the first image's name: half
            ([f"{i}.png" for i in range(9)], [f"P{3 * i + 1}" for i in range(9)]),
            ([f"row-{i}" for i in range(1, 10)], [str(i) for i in range(1, 10)]),
            # mBRSET's names, in tables that leave .jpg out: the number after the dot is no extension
            (["1.1", "1.2", "1.3", "1.4", "2.1", "2.2"], ["1", "1", "1", "1", "2", "2"]),
        ],
    )
    def test_others_are_believed(self, images: list[str], ids: list[str]):
        assert found_in(images, ids).named == "all"


class TestTwoEyesUnderTwoIds:
    @pytest.mark.parametrize(
        "images",
        [
            PAIR,
            ["0_L", "0_R", "1_L", "1_R"],
            ["0-OD.jpg", "0-OS.jpg", "1-OD.jpg", "1-OS.jpg"],
            ["left_0", "right_0", "left_1", "right_1"],
            ["0_l1", "0_r2", "1_l1", "1_r2"],
            ["0/left.png", "0/right.png", "1/left.png", "1/right.png"],
            ["0_left.png", "0_RIGHT.jpg", "1_left.png", "1_right.png"],
            ["0_le.png", "0_re.png", "1_LE.png", "1_RE.png"],
            ["RET000OD.jpg", "RET000OS.jpg", "RET001OD.jpg", "RET001OS.jpg"],
            ["0L", "0R", "1L", "1R"],
            ["test/0/0_left.png", "test/2/0_right.png", "test/1/1_left.png", "test/1/1_right.png"],  # by grade
        ],
    )
    def test_names_show_it(self, images: list[str]):
        """Opaque ids, all different, of images that are pairs by their names."""
        assert said(found_in(images, ["q", "w", "e", "t"])) == ("all", [0, 0, 1, 1], 2, 1)
        assert said(found_in(images)) == ("none", None, 0, 2)

    def test_names_weigh_more_than_the_column(self):
        """Whoever hands in the answers may write all eyes as left ones; of a sealed set the names are its owner's."""
        assert said(found_in(PAIR, ["q", "w", "e", "t"], eye=["L"] * 4)) == ("all", [0, 0, 1, 1], 2, 1)
        assert found_in(PAIR, eye=["L"] * 4).most == 2

    @pytest.mark.parametrize("ids", [["7_left", "7_right", "8_left"], ["7L", "7R", "8L"], ["P7-od", "P7-os", "P8-od"]])
    def test_ids_show_it_where_eyes_agree(self, ids: list[str]):
        """Names say nothing; the column eye is of the same eyes as the ids."""
        eyes = ["L", "R", "L"] if ids[0] != "P7-od" else ["R", "L", "R"]
        images = ["x.png", "y.png", "z.png"]
        assert said(found_in(images, ids, eye=eyes)) == ("all", [0, 0, 1], 1, 1)
        other = ["L" if eye == "R" else "R" for eye in eyes]
        for unlike in ([None] * 3, other, [eyes[0], None, eyes[2]]):
            assert found_in(images, ids, eye=unlike).merged == 0

    @pytest.mark.parametrize(
        ("images", "ids", "eyes"),
        [
            # numbers that are no patients: an id has both eyes under two numbers
            (["left_1", "right_2", "left_2", "right_1"], ["q", "q", "w", "w"], None),
            (["a/0_left", "b/0_right"], ["q", "w"], None),
            (["no_dr/0_left", "other/0_right"], ["q", "w"], None),  # not all folders are grades
            (["img_1", "img_2"], ["q", "w"], ["L", "R"]),
            (["0_left_right", "0_right_left"], ["q", "w"], None),
            (["left1", "right1"], ["q", "w"], None),
            (["left.png", "right.png"], ["q", "w"], None),
            (["x/l1.png", "x/r1.png"], ["q", "w"], None),
            (["0_left", "1_right"], ["q", "w"], None),
            (["colour", "colous"], ["q", "w"], None),
        ],
    )
    def test_what_does_not_show_it(self, images: list[str], ids: list[str], eyes: list[str] | None):
        assert found_in(images, ids, eye=eyes or [None] * len(images)).merged == 0

    def test_ids_that_pair_other_eyes_are_counted(self):
        """0 left with 1 right, and 1 left with 0 right: chance for numbers, or a way to hide pairs."""
        found = found_in(PAIR, ["q", "w", "w", "q"])
        assert (found.merged, found.apart) == (0, 2)
        assert found_in(PAIR, ["q", "q", "w", "w"]).apart == 0
        assert found_in(PAIR, ["q", "w", "e", "t"]).apart == 0  # merged
        assert found_in(["0_l1", "0_l2"], ["q", "w"]).apart == 0

    def test_sources_are_apart(self):
        """Image 0 of two sites is of two people."""
        assert found_in(["0_left", "0_right"], ["A:q", "B:w"], source=["A", "B"]).merged == 0

    def test_several_images_of_each_eye(self):
        """Four ids of one patient, whose eyes have two images each."""
        names = ["0_l1", "0_l2", "0_r1", "0_r2", "1_l1", "1_r1"]
        assert said(found_in(names, list("qwertz"))) == ("all", [0, 0, 0, 0, 1, 1], 4, 1)
        assert found_in(names).most == 4


class TestSomeNamed:
    def test_a_column_in_part_counts_as_unknown(self):
        """It shows how many images one patient has at least."""
        assert said(found_in(["a", "b", "c", "d"], ["q", "q", "q", None])) == ("some", None, 0, 3)


def pairs(patients: int, ids: list[str]) -> Predictions:
    """Both eyes of each patient, all graded right; names tell the pairs."""
    n = 2 * patients
    names = [f"{i // 2}_{('left', 'right')[i % 2]}.jpeg" for i in range(n)]
    grade = np.arange(n) // 2 % 5
    table = pd.DataFrame({"image": names, "grade": grade, "predicted": grade, "patient": ids})
    return make_predictions(table, "t.csv", {})


def accuracy(found: Evaluation) -> Estimate:
    metric = found.metrics["accuracy"]  # type: ignore[index]
    assert isinstance(metric, Estimate)
    return metric


class TestEvaluated:
    """73 patients with two images and no error have the limit .9499 (statistics notes, section 2)."""

    TRUE = pairs(73, [f"p{1000 + i // 2}" for i in range(146)])
    UNIQUE = pairs(73, [f"q{5 * i}" for i in range(146)])
    NAMES = pairs(73, [f"{i // 2}_{('left', 'right')[i % 2]}" for i in range(146)])

    def test_unique_ids_of_pairs_help_no_longer(self):
        """146 patients would pass with .9751."""
        found = [evaluate(table, ACCURATE) for table in (self.TRUE, self.UNIQUE)]
        assert [one.verdict for one in found] == ["INSUFFICIENT"] * 2
        assert [round(accuracy(one).low or 0, 4) for one in found] == [0.9499] * 2
        assert [one.counts.patients for one in found] == [73] * 2
        assert [one.data.patients for one in found] == [Patients("all"), Patients("all", 73)]
        assert (
            "73 pairs of patients were merged: by the names of their images or by their eyes, one is the other eye of "
            "the other."
        ) in found[1].page_one

    def test_ids_that_are_names_count_as_unknown(self):
        found = evaluate(self.NAMES, ACCURATE)
        assert (found.verdict, found.counts.patients, accuracy(found).low) == ("INSUFFICIENT", None, None)
        assert found.data.patients == Patients("image names", most=2)
        assert "Patients repeat the images' names, so they count as unknown." in found.page_one
        assert found.criteria[0].reason.endswith("but the patients only repeat the images' names.")
        assert any("the patients only repeat the images' names. Name them" in line for line in found.page_one)

    def test_ids_that_pair_other_eyes_are_said(self):
        """Up to 6.4 % false passes where the eyes of one patient agree: nobody should read past it."""
        found = evaluate(pairs(73, [f"p{(i + i % 2 * 2) // 2 % 73}" for i in range(146)]), ACCURATE)
        assert found.data.patients == Patients("all", apart=73)
        assert any(line.startswith("73 pairs of images are of two patients by the table") for line in found.page_one)

    def test_one_image_a_patient_is_said(self):
        """What the table claims and nothing can show."""
        table = self.UNIQUE.table.assign(image=[f"{i:03d}" for i in range(146)])
        found = evaluate(make_predictions(table, "t.csv", {}), ACCURATE)
        assert found.verdict == "PASS"
        assert "One image a patient, as the table says." in found.page_one
        assert "One image a patient, as the table says." not in evaluate(self.TRUE, ACCURATE).page_one

    def test_a_declaration_counts_and_stands_on_page_one(self):
        """Two images of a patient, declared: as little as the pairs themselves. One is void, for names show two."""
        checklists = [declaring(ACCURATE, self.NAMES, most) for most in (2, 1)]
        two, one = (evaluate(self.NAMES, checklist) for checklist in checklists)
        assert 0.94 < (accuracy(two).low or 0) < 0.9499
        assert "No patients are named. The checklist accurate declares at most 2 images of one patient." in two.page_one
        assert (one.verdict, accuracy(one).low) == ("INSUFFICIENT", None)
        assert "so nothing is declared" in one.criteria[0].reason
        assert any("so nothing is declared" in line for line in one.page_one)

    def test_numbers_are_no_test_set(self):
        """Any table of 146 images is published as row-001 to row-146: a declaration for one would be for all."""
        public = published(self.NAMES)
        again = make_predictions(public.table, "predictions.parquet", {})
        found = evaluate(again, declaring(ACCURATE, again))
        assert (found.verdict, accuracy(found).low) == ("INSUFFICIENT", None)
        assert "in any other table of this size" in found.criteria[0].reason
        named = declaring(ACCURATE, self.NAMES, 2)
        recorded = evaluate(self.NAMES, named)
        assert evaluate(again, named, data=recorded.data).metrics == recorded.metrics

    @pytest.mark.parametrize("table", [TRUE, UNIQUE, NAMES])
    def test_published_it_is_the_same(self, table: Predictions):
        """Published, read again and published again: the same patients, and the same numbers as recorded."""
        public = published(table)
        again = make_predictions(public.table, "predictions.parquet", {})
        assert published(again).digest == public.digest
        assert (again.patients.merged, again.patients_known) == (0, table.patients_known)
        before = evaluate(table, ACCURATE)
        after = evaluate(again, ACCURATE, data=before.data)
        assert (after.metrics, after.data) == (before.metrics, before.data)
        # Names of images are in sentences; whose they are is recorded.
        assert after.page_one == before.page_one

    def test_units_need_patients(self):
        by_patient = parse_checklist({**ACCURATE.content(), "unit": "patient"}, "x")
        with pytest.raises(PredictionsError, match="judges by patient, but the patients only repeat the images' names"):
            evaluate(self.NAMES, by_patient)
        assert evaluate(self.UNIQUE, by_patient).counts.units == 73


class TestDeletingTheColumn:
    """Forty patients with ten images each; one of them is wrong throughout."""

    TABLE = pd.DataFrame({"image": [f"{i:03d}" for i in range(400)], "grade": 2, "predicted": [0] * 10 + [2] * 390})
    ASKED = parse_checklist({**ACCURATE.content(), "criteria": [{"id": "accuracy", "at_least": 0.9}]}, "x")

    def test_no_longer_helps(self):
        """With patients the limit is .85. Without them an assumed pair gave .943, which passed."""
        known = make_predictions(self.TABLE.assign(patient=[f"p{i // 10}" for i in range(400)]), "t.csv", {})
        bare = make_predictions(self.TABLE, "t.csv", {})
        found = [evaluate(known, self.ASKED), evaluate(bare, self.ASKED)]
        assert [one.verdict for one in found] == ["INSUFFICIENT"] * 2
        assert (accuracy(found[0]).low or 0) < 0.9
        assert (accuracy(found[1]).low, accuracy(found[1]).bootstrap, accuracy(found[1]).value) == (None, None, 0.975)
        assert found[1].criteria[0].reason == (
            "390 of 400 (97.5 %) meets the rule (at least 90.0 %), but no patients are named."
        )
        told = [one for one in found[1].page_one if "images_a_patient_at_most" in one]
        assert told == [
            "No figure has a confidence interval: no patients are named. Name them in a column patient from the first "
            "look on, or let the owner of the test set declare in the checklist: declared: [{manifest: "
            f"{found[1].data.images_digest}, images_a_patient_at_most: N}}]."
        ], "once, and nowhere else"
        assert not any("declare" in one.reason for one in found[1].criteria)
        assert words.cause(found[1]) == (
            "1 of 1 required criteria has no confidence interval, because patients are not named: Overall accuracy."
        )
        truly = evaluate(bare, declaring(self.ASKED, bare, 10))
        assert (accuracy(truly).low or 0) <= (accuracy(found[0]).low or 0)
        assert evaluate(bare, declaring(self.ASKED, bare, 2)).verdict == "PASS"  # a false declaration is its owner's

    def test_a_miss_is_a_miss(self):
        """FAIL where the estimate misses, not shown; OBSERVED where the checklist decides on estimates."""
        bare = make_predictions(self.TABLE, "t.csv", {})
        for threshold, on, status in ((0.98, "bound", "FAIL"), (0.98, "point", "FAIL"), (0.9, "point", "OBSERVED")):
            asked = {"evidence": {"decide_on": on}, "criteria": [{"id": "accuracy", "at_least": threshold}]}
            (result,) = evaluate(bare, parse_checklist({**ACCURATE.content(), **asked}, "x")).criteria
            assert (result.status, result.shown) == (status, False if status == "FAIL" else None)
        (error,) = evaluate(bare, self.ASKED).gate_error
        assert (error.passes, error.why) == (None, "The patients are not known, so no model can pass.")
