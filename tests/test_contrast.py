"""Gaps between groups, and non-inferiority against a baseline and against human readers."""

from __future__ import annotations

import io
import json
import re
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from statsmodels.stats.proportion import proportion_confint

from drgate.checklist import Checklist, load_checklist, parse_checklist, schema
from drgate.checklist_diff import diff
from drgate.contrast import _graded_by
from drgate.errors import ChecklistError, DrgateError, ManifestError
from drgate.evaluate import evaluate
from drgate.evaluation import CriterionResult, Estimate, Evaluation, TestSet
from drgate.manifest import load_manifest
from drgate.metrics import parse_id
from drgate.plan import plan
from drgate.predictions import Predictions, load_predictions, make_predictions
from drgate.report import plan as page
from drgate.report import words
from drgate.report.evaluation import html, markdown, terminal
from drgate.score import _rows
from tests.support.material import Ended

Run = Callable[..., Ended]
Write = Callable[..., Path]

FLOORS = [{"id": f"{of}:referable", "at_least": 0.8} for of in ("sensitivity", "specificity")]
READERS = [{"id": f"noninferior:{of}:referable~readers", "margin": 0.05} for of in ("sensitivity", "specificity")]


def checklist_of(*criteria: dict[str, Any], **keys: Any) -> Checklist:
    """A checklist with these criteria that slices by sex."""
    plain = {"name": "mine", "version": 1, "slices": [{"by": "sex"}], "criteria": list(criteria), **keys}
    found = parse_checklist(plain, "mine")
    jsonschema.validate(plain, schema())
    assert parse_checklist(found.content(), "again") == found
    return found


class TestGrammar:
    @pytest.mark.parametrize(
        ("text", "label", "policy"),
        [
            ("gap:sensitivity:referable@sex", "Gap in sensitivity, referable DR, by sex", "as_referred"),
            ("gap:specificity:pdr@age group", "Gap in specificity, PDR, by age group", "excluded"),
            ("gap:accuracy@sex", "Gap in overall accuracy, by sex", "excluded"),
            (
                "noninferior:sensitivity:referable~baseline",
                "Sensitivity, referable DR, not worse than the baseline",
                "as_referred",
            ),
            ("noninferior:specificity:pdr~readers", "Specificity, PDR, not worse than the readers", "excluded"),
        ],
    )
    def test_ids_read_and_write_themselves(self, text: str, label: str, policy: str):
        name = parse_id(text)
        assert (str(name), name.but(), name.label, name.default_policy) == (text, name, label, policy)
        assert name.but(target="mild_npdr") == text.replace(name.target or "?", "mild_npdr") or not name.target

    @pytest.mark.parametrize(
        ("criterion", "why"),
        [
            ({"id": "gap:sensitivity:referable@sex=F", "at_most": 0.1}, "between all values of a column"),
            ({"id": "gap:sensitivity:referable", "at_most": 0.1}, "between all values of a column"),
            ({"id": "gap:sensitivity@sex", "at_most": 0.1}, "needs one of"),
            ({"id": "gap:@sex", "at_most": 0.1}, "name the metric that is compared"),
            ({"id": "gap@sex=F", "at_most": 0.1}, "gap is of accuracy or sensitivity or specificity"),
            ({"id": "gap:auc:referable@sex", "at_most": 0.1}, "gap is of accuracy or sensitivity or specificity"),
            ({"id": "gap:sensitivity:referable@camera", "at_most": 0.1}, "'camera' is not among the slices"),
            ({"id": "gap:sensitivity:referable@sex", "at_least": 0.1}, "passes bad models"),
            ({"id": "gap:sensitivity:referable@sex", "margin": 0.1}, "margin"),
            ({"id": "noninferior:sensitivity:referable", "margin": 0.1}, "must end with ~baseline or ~readers"),
            ({"id": "noninferior:accuracy~baseline", "margin": 0.1}, "is of sensitivity or specificity"),
            ({"id": "noninferior:sensitivity:pdr~baseline", "at_least": 0.1}, "takes a margin"),
            ({"id": "noninferior:sensitivity:pdr~baseline", "margin": 0.1, "reference_value": 0.5}, "reference_value"),
            ({"id": "noninferior:sensitivity:pdr~baseline", "margin": 0.1, "no_output": "excluded"}, "does not apply"),
            (
                {"id": "noninferior:sensitivity:pdr~baseline", "margin": 0.1, "window": 10},
                "window belongs to stability",
            ),
            ({"id": "noninferior:sensitivity:pdr~baseline", "margin": 0.1, "unit": "USD"}, "a unit belongs to cost"),
        ],
    )
    def test_what_cannot_be_asked_is_refused(self, criterion: dict[str, Any], why: str):
        with pytest.raises(ChecklistError, match=re.escape(why)):
            checklist_of({"id": "accuracy", "at_least": 0.9}, criterion)

    def test_each_is_written_out(self):
        found = checklist_of({"id": "gap:sensitivity:each@sex", "at_most": 0.1})
        assert [one.id for one in found.each_criterion({"sex": ["F", "M"]})] == [
            f"gap:sensitivity:{grade}@sex" for grade in ("no_dr", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr")
        ]

    def test_readers_need_both_rates_and_a_floor(self):
        """Matching readers in one rate is bought with the other, and poor readers are easily matched."""
        checklist_of(*FLOORS, *READERS)
        for lacking, why in (
            ([*FLOORS, READERS[0]], "also needs 'noninferior:specificity:referable~readers'"),
            ([*FLOORS, READERS[0], READERS[1] | {"required": False}], "~readers', required"),
            ([FLOORS[0], *READERS], "needs a required criterion specificity:referable"),
            ([FLOORS[0], FLOORS[1] | {"required": False}, *READERS], "needs a required criterion specificity"),
        ):
            with pytest.raises(ChecklistError, match=re.escape(why)):
                checklist_of(*lacking)


def test_a_diff_knows_what_is_weaker():
    narrow, wide = (checklist_of({"id": "gap:accuracy@sex", "at_most": most}) for most in (0.05, 0.1))
    assert [(one.kind, one.where) for one in diff(narrow, wide)] == [("weaker", "gap:accuracy@sex")]
    before, after = (checklist_of(*FLOORS, *READERS, readers_independent=given) for given in (False, True))
    assert [(one.kind, one.where) for one in diff(before, after)] == [("weaker", "readers_independent")]
    assert [one.kind for one in diff(after, before)] == ["different"]
    strict, lax = (checklist_of(*FLOORS, READERS[0], READERS[1] | {"margin": margin}) for margin in (0.05, 0.1))
    assert [one.kind for one in diff(strict, lax)] == ["weaker"]


def groups_of(counts: dict[str | None, tuple[int, int]], **more: Any) -> Predictions:
    """Referable images, `k` of `n` of each sex referred, each of another patient; and one healthy image of each."""
    rows: list[dict[str, Any]] = []
    for sex, (k, n) in counts.items():
        rows += [{"sex": sex, "grade": 3, "predicted": 3 if i < k else 0} for i in range(n)]
        rows += [{"sex": sex, "grade": 0, "predicted": 0}]
    table = pd.DataFrame(rows).assign(image=lambda t: [f"{i:05}.png" for i in range(len(t))])
    return make_predictions(table.assign(patient=[f"P{i}" for i in range(len(table))], **more), "table.csv", {})


GAP = "gap:sensitivity:referable@sex"


def judged(predictions: Predictions, checklist: Checklist, name: str = GAP, **given: Any) -> CriterionResult:
    found = evaluate(predictions, checklist, **given)
    assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))) == found
    return next(one for one in found.criteria if one.id == name)


class TestGap:
    @pytest.mark.parametrize(
        ("counts", "status", "words"),
        [
            ({"F": (980, 1000), "M": (985, 1000)}, "PASS", "the upper limit of the difference between sex = M (985 of"),
            ({"F": (95, 100), "M": (95, 100)}, "INSUFFICIENT", "The gap is 0.0 points; the upper limit"),
            ({"F": (180, 200), "M": (192, 200)}, "INSUFFICIENT", "sex = M (192 of 200) and F (180 of 200)"),
            ({"F": (100, 200), "M": (192, 200)}, "FAIL", "between sex = M (192 of 200) and F (100 of 200) is at least"),
            ({"F": (999, 1000), "M": (999, 1000), None: (10, 40)}, "FAIL", "and blank (10 of 40) is at least"),
            (
                {"F": (999, 1000), "M": (999, 1000), None: (40, 40)},
                "INSUFFICIENT",
                "(999 of 1000) and blank (40 of 40)",
            ),
            ({"F": (999, 1000), "M": (0, 0)}, "NOT_ASSESSED", "the group sex = M has no image with Referable DR"),
            ({"F": (999, 1000)}, "NOT_ASSESSED", "a gap needs two groups, and every image has sex = F"),
        ],
    )
    def test_decides(self, counts: dict[str | None, tuple[int, int]], status: str, words: str):
        """Only a shown gap fails; blank cells are a group; the reason names the two groups that decide."""
        result = judged(groups_of(counts), checklist_of({"id": GAP, "at_most": 0.05}))
        assert (result.status, result.shown) == (status, True if status == "FAIL" else None)
        assert words in result.reason

    def test_the_limit_is_that_of_the_two_intervals(self):
        """statsmodels' exact limits of each group, combined by hand, or the quantile of drawn limits: the wider."""
        result = judged(groups_of({"F": (95, 100), "M": (57, 60)}), checklist_of({"id": GAP, "at_most": 0.05}))
        (one, other) = (proportion_confint(k, n, method="beta") for k, n in ((95, 100), (57, 60)))
        assert isinstance(result.estimate, Estimate)
        limits = [((a[1] - 0.95) ** 2 + (0.95 - b[0]) ** 2) ** 0.5 for a, b in ((one, other), (other, one))]
        generator = np.random.default_rng(1)
        for (k, n), (also_k, also_n) in (((95, 100), (57, 60)), ((57, 60), (95, 100))):
            upper = generator.beta(k + 1, n - k, 1_000_000)
            lower = generator.beta(also_k, also_n - also_k + 1, 1_000_000)
            limits.append(float(np.quantile(upper - lower, 0.975)))
        assert result.estimate.value == 0
        assert result.estimate.high == pytest.approx(max(limits), abs=5e-4)

    def test_without_patients_nothing_is_shown(self):
        """It says what to declare, and of equal groups names two."""
        named = groups_of({"F": (95, 100), "M": (95, 100)})
        bare = replace(named, table=named.table.assign(patient=pd.array([None] * len(named.table), dtype="str")))
        result = judged(bare, checklist_of({"id": GAP, "at_most": 0.05}))
        assert result.status == "INSUFFICIENT"
        assert result.reason == (
            "The gap is 0.0 points, between sex = F (95 of 100) and M (95 of 100); the rule is at most 5.0 points, but "
            "no patients are named."
        )

    def test_a_small_group_is_not_assessed(self):
        counts: dict[str | None, tuple[int, int]] = {"F": (999, 1000), "M": (60, 60), None: (20, 20)}
        for asks, why in (
            ({"min_positives": 30}, "the group sex = blank has 20 of the 30 cases"),
            ({"min_positives": 61}, "the group sex = M has 60 of the 61 cases"),
        ):
            result = judged(groups_of(counts), checklist_of({"id": GAP, "at_most": 0.2, **asks}))
            assert (result.status, why in result.reason) == ("NOT_ASSESSED", True), result.reason
        named = checklist_of({"id": GAP, "at_most": 0.2}, slices=[{"by": "sex", "groups": {"X": ["x"]}}])
        assert "the group sex = X has no image" in judged(groups_of(counts), named).reason

    def test_on_estimates_it_is_compared_in_counts(self):
        """57 of 60 against 54 of 60 is 5 points, whatever floating point makes of it."""
        point = checklist_of({"id": GAP, "at_most": 0.05}, evidence={"decide_on": "point"})
        assert judged(groups_of({"F": (57, 60), "M": (54, 60)}), point).status == "OBSERVED"
        assert judged(groups_of({"F": (57, 60), "M": (53, 60)}), point).status == "FAIL"

    def test_no_output_counts_as_in_the_metric(self):
        """As referred for a group by default; the worst case is another figure of the same id."""
        counts: dict[str | None, tuple[int, int]] = {"F": (100, 100), "M": (100, 100)}
        predictions = groups_of(counts)
        silent = (predictions.table["sex"] == "M") & (predictions.table["grade"] == 3)
        silent &= silent.cumsum() <= 20
        table = predictions.table.assign(predicted=predictions.table["predicted"].mask(silent))
        predictions = replace(predictions, table=table)
        for policy, gap in (({}, 0.0), ({"no_output": "worst_case"}, 0.2), ({"no_output": "excluded"}, 0.0)):
            result = judged(predictions, checklist_of({"id": GAP, "at_most": 0.5, **policy}))
            assert isinstance(result.estimate, Estimate)
            assert result.estimate.value == pytest.approx(gap)

    def test_errors_that_oppose_each_other_widen_it(self):
        """Each patient has an image in both groups: right in one where it is wrong in the other, ends add up."""
        right = [i < 480 for i in range(800)]
        table = {
            "grade": [3] * 1600,
            "predicted": [3 if one else 0 for one in [*right, *(not one for one in right)]],
            "sex": ["F"] * 800 + ["M"] * 800,
        }
        apart, same = (
            replace(
                one, table=one.table.assign(patient=pd.array([f"patient {i % many}" for i in range(1600)], dtype="str"))
            )
            for one, many in ((paired_table(**table), 1600), (paired_table(**table), 800))
        )
        (low, _), (_, high) = (proportion_confint(k, 800, method="beta") for k in (320, 480))
        squares, total = (high - 0.6) ** 2 + (0.4 - low) ** 2, (high - 0.6) + (0.4 - low)
        for predictions, wider in ((apart, squares**0.5), (same, total)):
            result = judged(predictions, checklist_of({"id": GAP, "at_most": 0.3}))
            assert isinstance(result.estimate, Estimate)
            assert 0.2 + wider - 1e-9 <= result.estimate.high < 0.2 + wider + 1e-3  # melded limits differ little

    @pytest.mark.parametrize(("silent", "n", "status"), [(8, 60, "INSUFFICIENT"), (60, 200, "FAIL")])
    def test_refusals_in_one_group_fail_only_if_shown(self, silent: int, n: int, status: str):
        """With no output as the worst case it is a gap like any other: small groups differ by chance."""
        table = paired_table(
            grade=[3] * 2 * n, predicted=[3] * (2 * n - silent) + [None] * silent, sex=["F"] * n + ["M"] * n
        )
        patients = pd.array([f"patient {i}" for i in range(2 * n)], dtype="str")
        checklist = checklist_of({"id": GAP, "at_most": 0.05, "no_output": "excluded"})
        result = judged(replace(table, table=table.table.assign(patient=patients)), checklist)
        assert (result.status, result.shown) == (status, True if status == "FAIL" else None), result.reason
        assert "points" in result.reason.partition("worst case")[2]
        assert "%" not in result.reason

    def test_it_is_shown(self):
        found = evaluate(
            groups_of({"F": (95, 100), "M": (57, 60), None: (9, 10)}), checklist_of({"id": GAP, "at_most": 0.05})
        )
        text = markdown.render(found)
        assert "Gaps between groups" in text
        assert re.search(r"\| blank \| 90.0.% \(9 of 10", text)
        assert "Gap in sensitivity, referable DR, by sex" in text
        assert "points" in next(line for line in words.lines(found)).decides
        console = Console(file=io.StringIO(), width=120)
        terminal.render(found, console)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert "Gap in sensitivity, referable DR" in text
        assert re.search(r"blank +90.0.% *\n +9 of 10", text)
        assert "Gaps between groups" in html.render(found)


def paired_table(**columns: list[Any]) -> Predictions:
    n = len(next(iter(columns.values())))
    names = {"image": [f"{i:05}.png" for i in range(n)], "patient": [f"P{i}" for i in range(n)]}
    return make_predictions(pd.DataFrame(names | columns), "table.csv", {})


class TestBaseline:
    def test_tango_on_the_images_that_count(self):
        """statistics.md, section 7: [[59, 6], [16, 80]] among 161 referable images gives -.1240 to -.0054."""
        grade = [3] * 161 + [0] * 100
        ours = [3] * 65 + [0] * 96 + [0] * 100
        theirs = [3] * 59 + [0] * 6 + [3] * 16 + [0] * 80 + [3] * 50 + [0] * 50
        checklist = checklist_of({"id": "noninferior:sensitivity:referable~baseline", "margin": 0.13}, slices=[])
        result = judged(
            paired_table(grade=grade, predicted=ours),
            checklist,
            "noninferior:sensitivity:referable~baseline",
            baseline=paired_table(grade=grade, predicted=theirs),
        )
        estimate = result.estimate
        assert isinstance(estimate, Estimate)
        assert (round(estimate.low or 0, 4), round(estimate.high or 0, 4)) == (-0.1240, -0.0054)
        assert (estimate.n, result.status, result.threshold) == (161, "PASS", -0.13)
        assert "points" in result.reason

    def test_without_a_baseline_it_is_not_assessed(self):
        checklist = checklist_of({"id": "noninferior:specificity:pdr~baseline", "margin": 0.05}, slices=[])
        found = evaluate(paired_table(grade=[0, 4], predicted=[0, 4]), checklist)
        assert found.criteria[0].status == "NOT_ASSESSED"
        assert "give them with --baseline" in found.criteria[0].reason
        other = evaluate(
            paired_table(grade=[0, 4], predicted=[0, 4]),
            checklist,
            baseline=paired_table(grade=[0, 3], predicted=[0, 4]),
        )
        assert "other reference grades" in other.criteria[0].reason
        none = paired_table(grade=[4, 4], predicted=[4, 4])
        assert "no image without PDR" in evaluate(none, checklist, baseline=none).criteria[0].reason


def read_set(seed: int = 3, **rates: float) -> Predictions:
    """300 patients with two images, a third referable; who grades is right at the given rate, apart from others."""
    generator = np.random.default_rng(seed)
    grade = np.where(np.arange(600) % 3 == 0, 3, 0)
    columns = {name: np.where(generator.random(600) < rate, grade, 3 - grade).tolist() for name, rate in rates.items()}
    table = paired_table(grade=grade.tolist(), **columns)
    patients = pd.array([str(i // 2) for i in range(600)], dtype="str")
    return replace(table, table=table.table.assign(patient=patients))


class TestReaders:
    NAMES = ("reader_1", "reader_2")

    def test_the_mean_of_the_readers(self):
        """Rates, differences and their mean by hand; the limits hold the mean difference, and both rates pass."""
        predictions = read_set(predicted=0.97, reader_1=0.9, reader_2=0.95)
        checklist = checklist_of(*FLOORS, *READERS, readers_independent=True, slices=[])
        found = evaluate(predictions, checklist, data=TestSet("x", readers=self.NAMES))
        table = predictions.table
        right = {name: table[name] == table["grade"] for name in ("predicted", *self.NAMES)}
        for of, counted in (("sensitivity", table["grade"] == 3), ("specificity", table["grade"] == 0)):
            name = f"noninferior:{of}:referable~readers"
            result = next(one for one in found.criteria if one.id == name)
            assert result.status == "PASS"
            shown = found.readers[result.id]
            assert [one.name for one in shown] == list(self.NAMES)
            for one in shown:
                assert (one.rate.k, one.rate.n) == (int(right[one.name][counted].sum()), int(counted.sum()))
                assert one.model.k == int(right["predicted"][counted].sum())
                assert one.difference.value == pytest.approx(one.model.value - one.rate.value)
            estimate = result.estimate
            assert isinstance(estimate, Estimate)
            assert estimate.value == pytest.approx(np.mean([one.difference.value for one in shown]))
            assert estimate.low is not None
            assert estimate.low < estimate.value < (estimate.high or 0)
            assert estimate.clusters == int(table["patient"][counted].nunique())
        assert "These 2 readers: reader_1, reader_2. Nothing is shown about others." in found.page_one
        text = markdown.render(found)
        assert "Human readers" in text
        console = Console(file=io.StringIO(), width=100)
        terminal.render(found, console)
        shown_there = console.file.getvalue()  # type: ignore[attr-defined]
        table = shown_there.partition("Human readers")[2].partition("To be read")[0]
        assert [table.count(name) for name in self.NAMES] == [2, 2]
        assert "…" not in table
        for shown_in in (shown_there, html.render(found)):
            assert "Model minus reader" in shown_in
            assert "reader_2" in shown_in
        assert "reader\\_2" in text

    def test_page_one_says_what_they_graded_and_whose_grades_are_the_same(self):
        """A reader of easy images alone, one reader under two names, and a reader who is the model."""
        predictions = read_set(predicted=0.97, reader_1=0.9)
        table = predictions.table
        given = table["reader_1"].mask(table.index >= 60)
        table = table.assign(
            reader_2=given, reader_3=table["predicted"], reader_4=table["reader_1"].mask(table.index > 9)
        )
        names = ("reader_1", "reader_2", "reader_3", "reader_4")
        checklist = checklist_of(*FLOORS, *READERS, readers_independent=True, slices=[])
        found = evaluate(replace(predictions, table=table), checklist, data=TestSet("x", readers=names))
        at = found.page_one.index(
            "These 4 readers: reader_1, reader_2, reader_3, reader_4. Nothing is shown about others."
        )
        assert found.page_one[at + 1 : at + 4] == (
            "Graded by readers, of 600 images: reader_2 60, reader_4 10. Each is compared on these images alone, and "
            "nothing is shown about the others.",
            "reader_1 and reader_2 gave the same grade to each of the 60 images that both graded.",
            "reader_3 and the model gave the same grade to each of the 600 images that both graded.",
        )

    def test_a_reader_without_grades_is_not_passed_over(self):
        """Page one names this reader, so the mean cannot be that of the others."""
        predictions = read_set(predicted=0.97, reader_1=0.9)
        checklist = checklist_of(*FLOORS, *READERS, readers_independent=True, slices=[])
        found = evaluate(predictions, checklist, data=TestSet("x", readers=("reader_1", "reader_7")))
        assert found.criteria[2].status == "NOT_ASSESSED"
        assert "reader_7 has graded no image with Referable DR" in found.criteria[2].reason

    @pytest.mark.parametrize("readers", [["predicted"], ["grade"], ["reader_1", "reader_1"], ["reader_01"]])
    def test_no_other_column_is_a_reader(self, readers: list[str]):
        """An evaluation that was edited could else compare the model with itself, or count a reader twice."""
        plain = evaluate(read_set(predicted=0.97), checklist_of(*FLOORS, slices=[])).to_json()
        plain["data"]["readers"] = readers
        with pytest.raises(DrgateError, match="readers"):
            Evaluation.from_json(json.loads(json.dumps(plain)))

    def test_by_patient_two_ids_of_one_patient_are_one(self):
        """Eyes under two ids are one patient, who is left out where a reader graded one of the two."""
        table = pd.DataFrame({"grade": [3] * 80, "predicted": [3] * 80, "reader_1": [3] * 60 + [3, None] * 10})
        table["image"] = [f"{i // 2}_{'left' if i % 2 else 'right'}.png" for i in range(80)]
        table["patient"] = [f"id {i}" for i in range(80)]
        predictions = make_predictions(table, "table.csv", {})
        checklist = checklist_of(*FLOORS, *READERS, readers_independent=True, slices=[], unit="patient")
        found = evaluate(predictions, checklist, data=TestSet("x", readers=("reader_1",)))
        (reader,) = found.readers[parse_id("noninferior:sensitivity:referable~readers")]
        assert (reader.rate.n, reader.rate.clusters) == (30, 30)

    def test_a_worse_model_is_not_passed(self):
        predictions = read_set(predicted=0.85, reader_1=0.95, reader_2=0.97)
        checklist = checklist_of(*FLOORS, *READERS, readers_independent=True, slices=[])
        found = evaluate(predictions, checklist, data=TestSet("x", readers=self.NAMES))
        assert [one.status for one in found.criteria[2:]] == ["FAIL", "FAIL"]

    @pytest.mark.parametrize(
        ("readers", "independent", "why"),
        [
            ((), True, "there are no grades of readers"),
            (("reader_1", "reader_2"), False, "needs 4 readers; there are 2"),
            (("reader_1",), False, "needs 4 readers; there is 1"),
            (("reader_1", "reader_3"), True, "reader_3 has graded no image with Referable DR"),
        ],
    )
    def test_without_what_it_needs_it_is_not_assessed(self, readers: tuple[str, ...], independent: bool, why: str):
        """Columns that the test set does not name are not used, though the table has them."""
        predictions = read_set(predicted=0.97, reader_1=0.9, reader_2=0.95, reader_3=0.95)
        table = predictions.table
        predictions = replace(predictions, table=table.assign(reader_3=table["reader_3"].mask(table["grade"] == 3)))
        checklist = checklist_of(*FLOORS, *READERS, readers_independent=independent, slices=[])
        found = evaluate(predictions, checklist, data=TestSet("x", readers=readers))
        assert found.criteria[2].status == "NOT_ASSESSED"
        assert why in found.criteria[2].reason

    def test_the_reference_of_a_reader_is_the_median_of_the_others(self):
        """By brute force on random grades with gaps: the median of the others, three or five of them."""
        generator = np.random.default_rng(8)
        grades = generator.integers(0, 5, (200, 7))
        names = [f"reader_{i}" for i in range(1, 7)]
        given = {
            name: [int(g) if generator.random() < 0.7 else None for g in grades[:, i]] for i, name in enumerate(names)
        }
        table = paired_table(grade=grades[:, 6].tolist(), predicted=grades[:, 0].tolist(), **given).table
        for name in names:
            found = _graded_by(table, name, names, "image")
            expected = {}
            for row in table.to_dict("records"):
                others = [int(row[one]) for one in names if one != name and not pd.isna(row[one])]
                others = others[: len(others) - (len(others) % 2 == 0)]
                if not pd.isna(row[name]) and len(others) >= 3:
                    expected[row["image"]] = statistics.median(others)
            assert dict(zip(found["image"], found["grade"].astype(int), strict=True)) == expected

    def test_who_made_the_reference_gains_nothing_by_it(self):
        """The reference is the median of five equal readers: against it they seem better than an equal model by
        several points; against the others' grades they do not."""
        generator = np.random.default_rng(4)
        truth = np.where(np.arange(2000) % 2 == 0, 3, 0)
        answers = [np.where(generator.random(2000) < 0.7, truth, 3 - truth) for _ in range(6)]
        names = tuple(f"reader_{i}" for i in range(1, 6))
        predictions = paired_table(
            grade=np.median(answers[1:], axis=0).astype(int).tolist(),
            predicted=answers[0].tolist(),
            **{name: one.tolist() for name, one in zip(names, answers[1:], strict=True)},
        )
        value = {}
        for independent in (True, False):
            checklist = checklist_of(*FLOORS, *READERS, readers_independent=independent, slices=[])
            found = evaluate(predictions, checklist, data=TestSet("x", readers=names))
            value[independent] = [one.estimate.value for one in found.criteria[2:]]  # type: ignore[union-attr]
        assert np.mean(value[True]) < np.mean(value[False]) - 0.03
        assert np.mean(value[False]) > -0.02

    def test_by_patient_a_reader_counts_by_the_worst_image(self):
        """A patient whom a reader graded in part is left out; else the worst grade of each counts."""
        predictions = paired_table(
            grade=[3, 0, 3, 3, 0, 0], predicted=[3, 0, 0, 3, 0, 3], reader_1=[0, 3, 3, None, 0, 0]
        )
        patients = pd.array(["a", "a", "b", "b", "c", "c"], dtype="str")
        predictions = replace(predictions, table=predictions.table.assign(patient=patients))
        checklist = checklist_of(*FLOORS, *READERS, readers_independent=True, slices=[], unit="patient")
        found = evaluate(predictions, checklist, data=TestSet("x", readers=("reader_1",)))
        counts = {
            name: [(one.rate.k, one.rate.n, one.model.k) for one in found.readers[name]] for name in found.readers
        }
        assert counts == {
            "noninferior:sensitivity:referable~readers": [(1, 1, 1)],
            "noninferior:specificity:referable~readers": [(1, 1, 0)],
        }


@pytest.fixture
def readers_spec(tmp_path: Path) -> Path:
    """A checklist that compares with readers who did not make the reference."""
    path = tmp_path / "readers.yaml"
    criteria = [*FLOORS, *READERS]
    path.write_text(json.dumps({"name": "own", "version": 1, "readers_independent": True, "criteria": criteria}))
    return path


class TestWhoseReaders:
    """Readers are evidence of the test set's owner, never of whoever hands in the answers."""

    @pytest.fixture
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "work"
        folder.mkdir()
        monkeypatch.chdir(folder)
        return folder

    @staticmethod
    def rows(*columns: str) -> list[dict[str, object]]:
        """The answers (with readers who are always wrong) or the grades of 600 images, and what else is named."""
        table = read_set(predicted=0.98, reader_1=0.9, reader_2=0.9).table
        rows: list[dict[str, object]] = table[["image", *columns]].to_dict("records")
        return rows

    def test_of_grades_they_count_and_are_verified(self, drgate: Run, write_csv: Write, readers_spec: Path, here: Path):
        """Those of the file of grades replace the table's own; the published table has them, and verify recomputes."""
        answers = [row | {"reader_1": 0, "reader_9": 0} for row in self.rows("predicted")]
        table = write_csv(answers, "table.csv")
        names = ("reader_1", "reader_2")
        grades = write_csv(self.rows("patient", "grade", *names), "grades.csv")
        asked = ("evaluate", table, "--grades", grades, "--spec", readers_spec, "--out", "out", "--format", "json")
        ended = drgate(*asked)
        assert ended.code == 0, ended.err
        found = json.loads(ended.out)
        assert found["data"]["readers"] == [*names]
        own = load_predictions(grades_only(grades)).table.set_index("image")
        public = load_predictions(here / "out/predictions.parquet").table
        assert [column for column in public.columns if column.startswith("reader")] == [*names]
        assert sorted(public["reader_1"].tolist()) == sorted(own["reader_1"].astype(int).tolist())
        again = json.loads(drgate("verify", "out/statement.json", "--format", "json").out)
        assert again["problems"] == []
        assert "The evaluation was recomputed from the predictions and came out the same." in again["checked"]
        forged = {**found, "data": {**found["data"], "readers": ["reader_1"]}}
        alone = evaluate(
            load_predictions(here / "out/predictions.parquet"),
            load_checklist(readers_spec),
            data=Evaluation.from_json(forged).data,
        )
        assert alone.readers != Evaluation.from_json(found).readers, "the names decide what is recomputed"

    def test_of_a_bare_table_they_do_not(self, drgate: Run, write_csv: Write, readers_spec: Path, here: Path):
        columns = ("patient", "grade", "predicted", "reader_1", "reader_2")
        table = write_csv(self.rows(*columns), "table.csv")
        ended = drgate("evaluate", table, "--spec", readers_spec, "--out", "out", "--format", "json")
        found = json.loads(ended.out)
        assert ended.code == 3
        assert [one["status"] for one in found["criteria"]] == ["PASS", "PASS", "NOT_ASSESSED", "NOT_ASSESSED"]
        assert "The table's own columns of readers (reader_1, reader_2) are not used." in " ".join(found["page_one"])
        assert "reader_1" not in load_predictions(here / "out/predictions.parquet").table
        assert "readers" not in found["data"] or not found["data"]["readers"]

    def test_another_grade_of_a_reader_is_another_look(
        self, drgate: Run, write_csv: Write, readers_spec: Path, here: Path
    ):
        """Readers decide, so whoever changes one after the look takes another, which the checklist does not allow."""
        table = write_csv(self.rows("predicted"), "table.csv")
        rows = self.rows("patient", "grade", "reader_1", "reader_2")
        asked = ("evaluate", table, "--spec", readers_spec, "--grades")
        assert drgate(*asked, write_csv(rows, "a.csv"), "--out", "a").code == 0
        rows[0]["reader_1"] = 3 - int(str(rows[0]["reader_1"]))
        ended = drgate(*asked, write_csv(rows, "b.csv"), "--out", "b")
        assert ended.code == 2
        assert "with other values of reader_1" in ended.err

    def test_of_the_manifest_they_are_scored_along(
        self, photographs: Write, tmp_path: Path, refused: Callable[..., str]
    ):
        """Names of grades are read as such, a blank is no grade, and another word is refused before scoring."""
        folder = photographs("a.png", "b.png")
        (folder / "labels.csv").write_text("image,grade,reader_1,reader_2\na.png,0,No DR,\nb.png,4,3,PDR\n")
        table = load_manifest(folder).table
        assert table["reader_1"].tolist() == [0, 3]
        assert table["reader_2"].isna().tolist() == [True, False]
        rows = _rows(load_manifest(folder)).assign(predicted=0)
        scored = make_predictions(rows, "scored.csv", {}).table
        assert scored["reader_2"].tolist()[1] == 4
        (folder / "labels.csv").write_text("image,grade,reader_1\na.png,0,7\nb.png,4,3\n")
        with pytest.raises(ManifestError, match="line 2: reader_1 cannot be read; expected an ICDR grade"):
            load_manifest(folder)


def grades_only(path: Path) -> Path:
    """A file of grades as a table of predictions, to read it."""
    table = pd.read_csv(path).assign(predicted=0)
    other = path.with_name("as-predictions.csv")
    table.to_csv(other, index=False)
    return other


class TestPlan:
    @staticmethod
    def asked(**more: Any) -> Checklist:
        """A gap of at most 10 points, where 95 % sensitivity is expected."""
        return checklist_of({"id": GAP, "at_most": 0.1}, expect={"referable": 0.95}, **more)

    def test_says_what_a_gap_takes(self):
        """Without a test set two groups are taken, or those that the checklist names; the numbers are of each."""
        found = plan(self.asked(planning={"two_images": 0.0}))
        (line,) = found.lines
        assert line.needed is not None
        assert (line.groups, line.expected) == (2, 0.95)
        assert line.needed.patients == pytest.approx(128, abs=4)
        assert line.without_miss == 36, "a gap of at most 10 points without an error: as sensitivity of at least 90 %"
        console = Console(file=io.StringIO(), width=160)
        page.terminal(found, console)
        text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
        assert f"2 x {line.needed.patients}" in text
        assert "patients in each of 2 groups, for a fair model, whose true value is 95 % in every group" in text
        assert "The observed gap of a fair model misses the rule by chance in" in text
        assert page.html(found)
        named = plan(self.asked(slices=[{"by": "sex", "groups": {x: [x] for x in "FMX"}}]))
        assert named.lines[0].groups == 3
        assert named.lines[0].needed is not None
        assert named.lines[0].needed.patients > line.needed.patients

    @pytest.mark.parametrize(
        ("counts", "can_pass", "why"),
        [
            ({"F": (200, 200), "M": (200, 200)}, True, ""),
            ({"F": (200, 200), None: (20, 20)}, False, "even without an error the upper limit is 16.8 points"),
            ({"F": (200, 200), "M": (0, 0)}, False, "the group sex = M has 0 of the 1 cases needed"),
            ({"F": (200, 200)}, False, "every image is in one group"),
        ],
    )
    def test_a_test_set_that_cannot_show_it_is_named(
        self, counts: dict[str | None, tuple[int, int]], can_pass: bool, why: str
    ):
        found = plan(self.asked(), data=groups_of(counts))
        (line,) = found.lines
        assert line.here is not None
        assert (line.here.can_pass, line.here.why) == (can_pass, why)
        assert found.exit_code == (0 if can_pass else 1)
        assert page.html(found)
        if can_pass:
            assert line.here.power is not None
            assert 0.5 < line.here.power < 1
            assert json.dumps(found.to_json())
