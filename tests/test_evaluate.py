"""Evaluation: every number against somebody else's, and the four outcomes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sk

from drgate.checklist import load_checklist, parse_checklist
from drgate.errors import PredictionsError
from drgate.evaluate import evaluate
from drgate.evaluation import CriterionResult, Estimate, Evaluation, Look, NotEstimable, TestSet, Training, read_as
from drgate.predictions import Predictions, load_predictions, make_predictions
from drgate.scale import GRADES, GROUPS
from tests.support.declaring import declaring

CHECKLIST = load_checklist("medical-grade")
QUICK = parse_checklist(CHECKLIST.content() | {"bootstrap": {"resamples": 1000}}, "x")
"""The same decisions with fewer resamples beside them."""

PUBLISHED = [
    [1619, 0, 0, 0, 0],
    [12, 1375, 232, 0, 0],
    [0, 26, 1554, 39, 0],
    [0, 3, 37, 1559, 20],
    [0, 0, 0, 1, 1618],
]
DANGEROUS = [
    [7290, 5, 5, 0, 0],
    [30, 620, 50, 0, 0],
    [180, 430, 890, 0, 0],
    [19, 0, 0, 281, 0],
    [11, 0, 0, 0, 389],
]


def table_of(matrix: list[list[int]], **columns: Any) -> Predictions:
    """Predictions whose confusion matrix is given, one patient an image unless `patient` says otherwise."""
    rows = [(i, j) for i in range(5) for j in range(5) for _ in range(matrix[i][j])]
    table = pd.DataFrame(rows, columns=["grade", "predicted"])
    table["image"] = [f"{i:06d}.png" for i in range(len(table))]
    table["patient"] = [f"P{7 * i + 1}" for i in range(len(table))]
    return make_predictions(table.assign(**columns), "table.csv", {})


def estimate(evaluation: Evaluation, name: str) -> Estimate:
    metric = evaluation.metrics[name]
    assert isinstance(metric, Estimate)
    return metric


@pytest.fixture(scope="module")
def weak(real_data: Path) -> Predictions:
    return load_predictions(real_data / "predictions" / "eyepacs-1024-weak-model.csv")


@pytest.fixture(scope="module")
def found(weak: Predictions) -> Evaluation:
    return evaluate(weak, CHECKLIST)


@pytest.fixture(scope="module")
def truth(weak: Predictions) -> Any:
    return weak.table["grade"].to_numpy(dtype=int)


@pytest.fixture(scope="module")
def called(weak: Predictions) -> Any:
    return weak.probabilities().argmax(axis=1)


class TestAgainstScikitLearn:
    """A real model's predictions on real photographs, both eyes of 377 patients."""

    def test_confusion_matrix_and_accuracy(self, found: Evaluation, truth: Any, called: Any):
        assert found.confusion_matrix == tuple(map(tuple, sk.confusion_matrix(truth, called, labels=range(5)).tolist()))
        assert estimate(found, "accuracy").value == sk.accuracy_score(truth, called)
        assert estimate(found, "balanced_accuracy").value == pytest.approx(sk.balanced_accuracy_score(truth, called))

    @pytest.mark.parametrize("target", [*GRADES, *GROUPS])
    def test_rates_of_each_grade_and_group(self, target: str, found: Evaluation, truth: Any, called: Any):
        grades = GROUPS.get(target, (GRADES.index(target),) if target in GRADES else ())
        t, c = np.isin(truth, grades), np.isin(called, grades)
        assert estimate(found, f"sensitivity:{target}").value == pytest.approx(sk.recall_score(t, c))
        assert estimate(found, f"specificity:{target}").value == pytest.approx(sk.recall_score(~t, ~c))
        assert estimate(found, f"ppv:{target}").value == pytest.approx(sk.precision_score(t, c))
        assert estimate(found, f"npv:{target}").value == pytest.approx(sk.precision_score(~t, ~c))

    @pytest.mark.parametrize(
        ("name", "weights"), [("kappa", None), ("linear_kappa", "linear"), ("quadratic_kappa", "quadratic")]
    )
    def test_kappa(self, name: str, weights: str | None, found: Evaluation, truth: Any, called: Any):
        expected = sk.cohen_kappa_score(truth, called, labels=range(5), weights=weights)
        assert estimate(found, name).value == pytest.approx(expected)

    @pytest.mark.parametrize("target", [*GRADES, *GROUPS])
    def test_auc(self, target: str, found: Evaluation, truth: Any, weak: Predictions):
        grades = GROUPS.get(target, (GRADES.index(target),) if target in GRADES else ())
        scores = weak.probabilities()[:, list(grades)].sum(axis=1)
        assert estimate(found, f"auc:{target}").value == pytest.approx(sk.roc_auc_score(np.isin(truth, grades), scores))

    def test_bounds_allow_for_two_eyes(self, found: Evaluation):
        """Clustered bounds are wider than the exact interval of independent images."""
        accuracy = estimate(found, "accuracy")
        assert accuracy.clusters == 377
        plain = binomtest(accuracy.k, accuracy.n).proportion_ci(0.95)
        assert accuracy.low < plain.low < plain.high < accuracy.high

    def test_it_fails_and_says_how(self, found: Evaluation):
        assert (found.verdict, found.exit_code) == ("FAIL", 1)
        severe = next(c for c in found.criteria if c.id == "sensitivity:severe_npdr")
        assert severe.status == "FAIL"
        assert "1 of 16" in severe.reason
        assert "The whole interval is below the rule (upper limit " in severe.reason
        mild = next(c for c in found.criteria if c.id == "specificity:mild_npdr")
        assert "The estimate misses the rule by 0.1 points; the interval (" in mild.reason


class TestPublishedTables:
    def test_figures_to_six_digits(self):
        """A full published 5 x 5 table (reference figures in the statistics notes)."""
        found = evaluate(table_of(PUBLISHED), CHECKLIST)
        assert round(estimate(found, "accuracy").value, 6) == 0.954293
        assert round(estimate(found, "kappa").value, 6) == 0.942866
        assert round(estimate(found, "linear_kappa").value, 6) == 0.971152
        assert round(estimate(found, "quadratic_kappa").value, 6) == 0.988255
        specificity = estimate(found, "specificity:moderate_npdr")
        assert (specificity.k, specificity.n) == (6207, 6476)

    def test_seven_lines_can_be_met_by_a_dangerous_model(self):
        """The owner's required lines pass on bounds; the lines for safety stop it, and 30 images are named."""
        found = evaluate(table_of(DANGEROUS), CHECKLIST, training=settled_run())
        assert found.verdict == "PASS"
        assert {c.id for c in found.warnings} == {
            "sensitivity:referable",
            "undergraded:vision_threatening_below_referable",
        }
        assert len(found.flagged) == 30
        safe = evaluate(table_of(DANGEROUS), load_checklist("medical-grade-safe"), training=settled_run())
        assert safe.verdict == "FAIL"
        referable = estimate(safe, "sensitivity:referable")
        assert (referable.k, referable.n) == (1560, 2200)


def settled_run() -> Training:
    return training_of(plain_run())


def training_of(plain: dict[str, Any]) -> Training:
    return read_as(Training, plain, "the run", expected="a record")


def plain_run() -> dict[str, Any]:
    history = [{"epoch": e, "val_accuracy": min(0.5 + 0.08 * e, 0.95), "learning_rate": 1e-4} for e in range(1, 21)]
    return {
        "history": history,
        "selected_epoch": 12,
        "n_val": 400,
        "spend": {"usd_per_hour": 1.0, "usd": 2.0, "earlier_attempts": 1, "earlier_usd": 3.5},
    }


class TestOutcomes:
    def test_counts_decide_not_rounded_numbers(self):
        """38 of 40 meets 0.95 exactly; in floating point 38/40 is compared as a count."""
        matrix = [[200, 0, 0, 0, 0], [0, 200, 0, 0, 0], [0, 0, 200, 0, 0], [0, 0, 0, 200, 0], [2, 0, 0, 0, 38]]
        found = evaluate(table_of(matrix), load_checklist("medical-grade-observed"), training=settled_run())
        pdr = next(c for c in found.criteria if c.id == "sensitivity:pdr")
        assert pdr.status == "OBSERVED"
        assert found.observed_only
        assert (found.verdict, found.exit_code) == ("OBSERVED", 3)

    def test_enough_on_the_estimate_but_not_on_the_bound(self):
        """71 of 71 PDR images do not show 0.95 (the bound is .9494); 72 of 72 do."""
        perfect = np.diag([100, 100, 100, 100, 71]).tolist()
        found = evaluate(table_of(perfect), QUICK, training=settled_run())
        pdr = next(c for c in found.criteria if c.id == "sensitivity:pdr")
        assert (pdr.status, found.verdict, found.exit_code) == ("INSUFFICIENT", "INSUFFICIENT", 3)
        perfect[4][4] = 72
        found = evaluate(table_of(perfect), QUICK, training=settled_run())
        assert (found.verdict, found.exit_code) == ("PASS", 0)

    def test_two_eyes_need_74_patients(self):
        """Two images a patient and no miss: 73 patients give .9499 and 74 give .9506."""
        for patients, expected in ((73, "INSUFFICIENT"), (74, "PASS")):
            matrix = np.diag([200, 200, 200, 200, 2 * patients]).tolist()
            count = 800 + 2 * patients
            found = evaluate(
                table_of(matrix, patient=[str(i // 2) for i in range(count)]), QUICK, training=settled_run()
            )
            assert next(c for c in found.criteria if c.id == "sensitivity:pdr").status == expected

    def test_absent_grade_is_not_assessed_and_does_not_pass(self):
        """A test set without severe NPDR says nothing of it; missing evidence is not a pass."""
        found = evaluate(table_of(np.diag([200, 200, 200, 0, 200]).tolist()), QUICK, training=settled_run())
        severe = next(c for c in found.criteria if c.id == "sensitivity:severe_npdr")
        assert severe.status == "NOT_ASSESSED"
        assert "no image with Severe NPDR" in severe.reason
        assert isinstance(found.metrics["sensitivity:severe_npdr"], NotEstimable)
        assert found.verdict == "INSUFFICIENT"

    def test_no_record_no_cost_no_pass(self):
        found = evaluate(table_of(np.diag([200] * 5).tolist()), CHECKLIST)
        assert {c.id: c.status for c in found.criteria if c.required and c.status != "PASS"} == {
            "stability": "NOT_ASSESSED",
            "cost": "NOT_ASSESSED",
        }
        assert found.verdict == "INSUFFICIENT"

    def test_cost_counts_earlier_attempts(self):
        training = plain_run()
        training["spend"]["earlier_usd"] = 98.5
        found = evaluate(table_of(np.diag([200] * 5).tolist()), QUICK, training=training_of(training))
        cost = next(c for c in found.criteria if c.id == "cost")
        assert (cost.status, found.verdict) == ("FAIL", "FAIL")
        assert "100.50 USD spent over 2 attempts" in cost.reason
        training["spend"]["earlier_usd"] = None
        found = evaluate(table_of(np.diag([200] * 5).tolist()), QUICK, training=training_of(training))
        assert next(c for c in found.criteria if c.id == "cost").status == "NOT_ASSESSED"

    def test_a_run_that_swings_is_not_stable(self):
        training = plain_run()
        for entry in training["history"][5:]:
            entry["val_accuracy"] = 0.95 if entry["epoch"] % 2 else 0.75
        found = evaluate(table_of(np.diag([200] * 5).tolist()), QUICK, training=training_of(training))
        assert next(c for c in found.criteria if c.id == "stability").status == "FAIL"

    def test_a_range_that_noise_explains_is_insufficient(self):
        """Forty validation images make a range of 6 points by chance alone."""
        training = plain_run() | {"n_val": 40}
        for i, entry in enumerate(training["history"]):
            entry["val_accuracy"] = 0.90 + 0.06 * (i % 2)
        found = evaluate(table_of(np.diag([200] * 5).tolist()), QUICK, training=training_of(training))
        stability = next(c for c in found.criteria if c.id == "stability")
        assert stability.status == "INSUFFICIENT"
        assert "40 validation images" in stability.reason

    def test_a_history_that_ends_at_its_best_proves_nothing(self):
        training = plain_run() | {"selected_epoch": 18}
        found = evaluate(table_of(np.diag([200] * 5).tolist()), QUICK, training=training_of(training))
        stability = next(c for c in found.criteria if c.id == "stability")
        assert stability.status == "NOT_ASSESSED"
        assert "Only 2 evaluations follow" in stability.reason

    def test_beyond_the_looks_nothing_passes(self):
        found = evaluate(
            table_of(np.diag([200] * 5).tolist()),
            CHECKLIST,
            training=settled_run(),
            look=Look(2, 1, "2026-01-01T00:00:00Z"),
        )
        assert found.verdict == "INSUFFICIENT"
        assert not any(c.status == "PASS" for c in found.criteria)
        assert found.barred == "This is look 2 at a test set that allows 1. Use a fresh test set."
        assert {c.status for c in found.criteria if c.would_pass} == {"INSUFFICIENT"}
        accuracy = found.criteria[0]
        assert (accuracy.id, accuracy.would_pass) == ("accuracy", True)
        assert "cannot pass" not in accuracy.reason

    def test_declared_looks_share_alpha(self):
        """With K = 2 declared looks, 72 PDR cases without a miss no longer show 0.95; 86 do."""
        two = parse_checklist(QUICK.content() | {"looks": 2}, "x")
        for cases, expected in ((85, "INSUFFICIENT"), (86, "PASS")):
            found = evaluate(table_of(np.diag([300, 300, 300, 300, cases]).tolist()), two, training=settled_run())
            assert next(c for c in found.criteria if c.id == "sensitivity:pdr").status == expected

    def test_baseline_is_paired(self):
        """Non-inferior to itself on enough images; another set of images is no comparison."""
        predictions = table_of(np.diag([200] * 5).tolist())
        found = evaluate(predictions, QUICK, training=settled_run(), baseline=predictions)
        baseline = next(c for c in found.criteria if c.id == "baseline")
        assert baseline.status == "PASS"
        other = make_predictions(predictions.table.assign(image=predictions.table["image"] + "x"), "other.csv", {})
        found = evaluate(predictions, QUICK, training=settled_run(), baseline=other)
        baseline = next(c for c in found.criteria if c.id == "baseline")
        assert baseline.status == "NOT_ASSESSED"
        assert "other images" in baseline.reason


class TestUnanswered:
    def silent(self, grade: int, count: int) -> Predictions:
        predictions = table_of(np.diag([200] * 5).tolist())
        table = predictions.table.copy()
        rows = table.index[table["grade"] == grade][:count]
        table.loc[rows, "predicted"] = pd.NA
        return make_predictions(table, "table.csv", {})

    def test_exact_grades_leave_them_out_and_groups_refer_them(self):
        """40 unanswered PDR images: out of PDR's denominator, referred in the group, and against the no-output line."""
        found = evaluate(self.silent(4, 40), QUICK, training=settled_run())
        assert (estimate(found, "sensitivity:pdr").k, estimate(found, "sensitivity:pdr").n) == (160, 160)
        assert (estimate(found, "sensitivity:referable").k, estimate(found, "sensitivity:referable").n) == (600, 600)
        assert found.no_output == (0, 0, 0, 0, 40)
        assert next(c for c in found.criteria if c.id == "no_output:pdr").status == "FAIL"
        assert "40 of 1000 images have no output from the model: PDR 40 of 200." in found.page_one

    def test_healthy_eyes_without_output_are_false_positives(self):
        found = evaluate(self.silent(0, 50), QUICK, training=settled_run())
        specificity = estimate(found, "specificity:referable")
        assert (specificity.k, specificity.n) == (350, 400)

    def test_ungradable_stay_outside(self):
        predictions = table_of(np.diag([200] * 5).tolist())
        table = predictions.table.copy()
        table.loc[:9, "gradable"] = False
        table.loc[:9, "grade"] = pd.NA
        found = evaluate(make_predictions(table, "table.csv", {}), CHECKLIST)
        assert estimate(found, "accuracy").n == 990
        assert found.counts.reference_ungradable == 10

    def test_sealed_table_is_refused(self):
        predictions = table_of(np.diag([2] * 5).tolist())
        with pytest.raises(PredictionsError, match="no reference grades"):
            evaluate(make_predictions(predictions.table.assign(grade=pd.NA), "sealed.csv", {}), CHECKLIST)


class TestReproducible:
    def test_same_bytes_whatever_the_order_of_rows(self, weak: Predictions):
        shuffled = make_predictions(weak.table.sample(frac=1, random_state=3), weak.origin, {})
        assert json.dumps(evaluate(shuffled, QUICK).to_json()) == json.dumps(evaluate(weak, QUICK).to_json())

    def test_json_round_trip(self, weak: Predictions):
        """Law: an evaluation is what its JSON says."""
        found = evaluate(weak, QUICK, training=settled_run())
        assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))) == found

    @pytest.mark.parametrize("slices", [[], [{"by": "camera"}]])
    def test_what_means_nothing_changes_no_number(self, weak: Predictions, slices: list[dict[str, str]]):
        """A note, renamed patients and images, other rows first, another file: the bootstrap is drawn alike too."""
        table = weak.table.assign(camera=["A", "B", "B"] * (len(weak.table) // 3) + ["A"] * (len(weak.table) % 3))
        checklist = parse_checklist(QUICK.content() | {"slices": slices}, "x")
        renamed = {name: f"{(7919 * n) % 100003:06d}" for n, name in enumerate(table["patient"].unique())}
        changed = [
            table.assign(note=[f"note {n}" for n in range(len(table))]),
            table.assign(patient=table["patient"].map(renamed)),
            table.assign(image="x" + table["image"]).sample(frac=1, random_state=5),
        ]
        found = evaluate(make_predictions(table, "a.csv", {}), checklist)
        for other in changed:
            theirs = evaluate(make_predictions(other, "b.csv", {}), checklist)
            for part in ("bootstrap_seed", "metrics", "criteria", "gate_error", "three_ways", "units", "verdict"):
                assert getattr(theirs, part) == getattr(found, part), part

    def test_what_is_counted_draws_anew(self, weak: Predictions):
        """One other answer, another checklist or a slice is another seed."""
        table, content = weak.table, QUICK.content()
        other = table.assign(predicted=table["predicted"].where(table.index != 0, 4 - table["predicted"][0]))
        other = other.drop(columns=[f"p_{grade}" for grade in range(5)])
        seeds = {
            evaluate(make_predictions(table, "a.csv", {}), QUICK).bootstrap_seed,
            evaluate(make_predictions(other, "a.csv", {}), QUICK).bootstrap_seed,
            evaluate(make_predictions(table, "a.csv", {}), parse_checklist(content | {"looks": 2}, "x")).bootstrap_seed,
        }
        assert len(seeds) == 3

    @settings(max_examples=25)
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60), st.integers(2, 7))
    def test_forgetting_the_patients_never_helps(self, cells: list[tuple[int, int]], most: int):
        """Where so many images of a patient are truly declared, no bound gains when the patient column is dropped."""
        table = pd.DataFrame(cells, columns=["grade", "predicted"])
        table["image"] = [f"{i:03d}" for i in range(len(table))]
        one_line = parse_checklist(QUICK.content() | {"criteria": [{"id": "accuracy", "at_least": 0.5}]}, "x")
        known = evaluate(
            make_predictions(table.assign(patient=[str(i // most) for i in range(len(table))]), "t", {}), one_line
        )
        forgotten = make_predictions(table, "t", {})
        unknown = evaluate(forgotten, declaring(one_line, forgotten, most))
        for name, metric in known.metrics.items():
            other = unknown.metrics[name]
            # Balanced accuracy is accuracy at another mix of grades, for which this is no law in tiny tables.
            if name == "balanced_accuracy":
                continue
            if isinstance(metric, Estimate) and metric.kind == "proportion" and isinstance(other, Estimate):
                assert other.low <= metric.low + 1e-12, name
                assert other.high >= metric.high - 1e-12, name


def test_declared_independence_is_the_plain_interval():
    """One image a patient, declared: Clopper-Pearson of SciPy to the last digits."""
    table = table_of([[90, 10, 0, 0, 0], *([0] * 5 for _ in range(4))]).table.drop(columns="patient")
    bare = make_predictions(table, "t.csv", {})
    accuracy = estimate(evaluate(bare, declaring(CHECKLIST, bare)), "accuracy")
    expected = binomtest(90, 100).proportion_ci(0.95)
    assert (accuracy.low, accuracy.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_every_verdict_comes_from_the_required_lines(write_csv: Callable[..., Path]):
    """FAIL if any required line failed; an advisory failure is a warning."""
    content = CHECKLIST.content()
    content["criteria"] = [
        {"id": "accuracy", "at_least": 0.5},
        {"id": "sensitivity:pdr", "at_least": 0.99, "required": False},
    ]
    matrix = np.diag([50] * 5).tolist()
    matrix[4] = [25, 0, 0, 0, 25]
    found = evaluate(table_of(matrix), parse_checklist(content, "x"))
    assert found.verdict == "PASS"
    assert [c.id for c in found.warnings] == ["sensitivity:pdr"]


class TestTooLittle:
    def judged(self, line: dict[str, Any], predictions: Predictions, **changes: Any) -> CriterionResult:
        """One line, judged on a table."""
        content = QUICK.content() | {"criteria": [line]} | changes
        return evaluate(predictions, parse_checklist(content, "x")).criteria[0]

    def test_five_perfect_images_show_no_kappa(self):
        """A bootstrap would say [1, 1]; the limit that decides says what five images show."""
        judged = self.judged({"id": "quadratic_kappa", "at_least": 0.5}, table_of(np.diag([1] * 5).tolist()))
        assert judged.status == "INSUFFICIENT"
        assert "the lower limit is -0.473" in judged.reason

    def test_two_patients_show_no_kappa(self):
        """Two patients with a hundred images each: their kappa is known of two patients."""
        matrix = np.diag([40] * 5)
        matrix[0, 1] = 1
        owners = [str(i % 2) for i in range(201)]
        judged = self.judged({"id": "quadratic_kappa", "at_least": 0.9}, table_of(matrix.tolist(), patient=owners))
        assert judged.status == "INSUFFICIENT"

    def test_a_model_that_grades_everything_alike_fails(self):
        """Kappa 0 without spread misses the threshold itself: a failure, not a lack of evidence."""
        constant = np.zeros((5, 5), dtype=int)
        constant[:, 0] = 100
        judged = self.judged({"id": "quadratic_kappa", "at_least": 0.8}, table_of(constant.tolist()))
        assert judged.status == "FAIL"
        perfect = table_of(np.diag([100] * 5).tolist())
        point = {"evidence": {"decide_on": "point"}}
        assert self.judged({"id": "quadratic_kappa", "at_least": 0.8}, perfect, **point).status == "OBSERVED"

    def test_balanced_accuracy_is_over_all_five_grades_and_no_bootstrap(self):
        """An absent grade is not assessed, and one right image of a grade shows nothing of it."""
        line = {"id": "balanced_accuracy", "at_least": 0.9}
        absent = self.judged(line, table_of(np.diag([300, 300, 300, 0, 0]).tolist()))
        assert absent.status == "NOT_ASSESSED"
        assert "no images with Severe NPDR, PDR" in absent.reason
        single = self.judged(line, table_of(np.diag([300, 300, 300, 1, 1]).tolist()))
        assert single.status == "INSUFFICIENT"
        assert self.judged(line, table_of(np.diag([300] * 5).tolist())).status == "PASS"

    def test_selected_on_these_images(self):
        """The validation split chose the model; it cannot pass it."""
        found = evaluate(
            table_of(np.diag([200] * 5).tolist()),
            QUICK,
            training=settled_run(),
            data=TestSet("here", selected_here=True),
        )
        assert found.verdict == "INSUFFICIENT"
        assert found.barred == "The model was selected on these images. Use the test split."

    def test_a_run_that_was_killed_has_no_known_cost(self):
        training = plain_run() | {"status": "running"}
        found = evaluate(table_of(np.diag([200] * 5).tolist()), QUICK, training=training_of(training))
        assert next(c for c in found.criteria if c.id == "cost").status == "NOT_ASSESSED"

    def test_a_grade_that_got_no_answer_at_all_is_not_called_absent(self):
        predictions = table_of(np.diag([20] * 5).tolist())
        table = predictions.table.copy()
        table.loc[table["grade"] == 4, "predicted"] = pd.NA
        found = evaluate(make_predictions(table, "t.csv", {}), QUICK)
        pdr = next(c for c in found.criteria if c.id == "sensitivity:pdr")
        assert "no output for any of the 20 images with PDR" in pdr.reason
