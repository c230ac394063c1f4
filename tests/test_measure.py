"""Metrics of slices, units, endpoints and mixes: each against the same thing computed another way."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import binom
from sklearn import metrics as sk

from drgate.checklist import Checklist, parse_checklist
from drgate.evaluate import evaluate
from drgate.evaluation import CriterionResult, Estimate, Evaluation, NotEstimable
from drgate.measure import Metrics
from drgate.metrics import METRICS
from drgate.predictions import PROBABILITIES, Predictions, make_predictions
from drgate.report import words
from drgate.report.evaluation import html, junit, markdown, terminal
from drgate.sample import Sample
from drgate.scale import GRADES
from tests.support.declaring import declaring

MIX = {"no_dr": 0.8, "mild_npdr": 0.1, "moderate_npdr": 0.08, "severe_npdr": 0.01, "pdr": 0.01}


def checklist_of(**changes: Any) -> Checklist:
    """A small checklist: what is not given has its default."""
    content: dict[str, Any] = {
        "name": "small",
        "version": 1,
        "bootstrap": {"resamples": 1000},
        "criteria": [{"id": "accuracy", "at_least": 0.5}],
    }
    return parse_checklist(content | changes, "x")


def drawn(seed: int, patients: int, **columns: Any) -> Predictions:
    """Two eyes a patient with correlated grades, answers that are often right, and probabilities to match."""
    generator = np.random.default_rng(seed)
    n = 2 * patients
    grade = np.clip(np.repeat(generator.integers(0, 5, patients), 2) + generator.integers(-1, 2, n), 0, 4)
    called = np.clip(grade + generator.choice([-2, -1, 0, 1, 2], n, p=[0.03, 0.1, 0.75, 0.1, 0.02]), 0, 4)
    share = generator.dirichlet(np.ones(5), n)
    share[np.arange(n), called] += 1.5
    share /= share.sum(axis=1, keepdims=True)
    table = pd.DataFrame(share, columns=[f"p_{g}" for g in range(5)])
    table["image"] = [f"{i:05d}.png" for i in range(n)]
    table["patient"] = [f"P{i // 2}" for i in range(n)]
    table["eye"] = ["L", "R"] * patients
    table["grade"] = grade
    table["camera"] = generator.choice(["A", "B", "C=1", "D@x"], n)
    return make_predictions(table.assign(**columns), "drawn.csv", {})


def silenced(predictions: Predictions, every: int) -> Predictions:
    """The same where the model gave no answer for every so many images."""
    table = predictions.table.copy()
    table.loc[::every, [*(f"p_{g}" for g in range(5)), "predicted"]] = pd.NA
    return make_predictions(table, "silent.csv", {})


def estimate(found: Evaluation, name: str) -> Estimate:
    metric = found.metrics[name]
    assert isinstance(metric, Estimate), metric
    return metric


class TestSlices:
    @pytest.mark.parametrize("known", [True, False])
    def test_a_slice_is_the_evaluation_of_its_rows_alone(self, known: bool):
        """Counts, bounds and AUC of each slice equal those of a table of that slice's rows only."""
        predictions = silenced(drawn(1, 150), 17)
        if not known:
            predictions = make_predictions(predictions.table.drop(columns=["patient", "eye"]), "t.csv", {})
        found = evaluate(predictions, checklist_of(slices=[{"by": "camera"}]))
        for camera in ("A", "B", "C=1", "D@x"):
            rows = predictions.table[predictions.table["camera"] == camera]
            alone = evaluate(make_predictions(rows, "alone.csv", {}), checklist_of())
            names = [name for name in found.metrics if name.endswith(f"@camera={camera}")]
            assert len(names) > 30
            for name in names:
                ours, theirs = found.metrics[name], alone.metrics[name.partition("@")[0]]
                if isinstance(ours, Estimate) and isinstance(theirs, Estimate) and "bootstrap" not in str(ours.method):
                    assert replace(ours, bootstrap=None, bootstrap_undefined=None) == replace(
                        theirs, bootstrap=None, bootstrap_undefined=None
                    )
                else:
                    assert type(ours) is type(theirs)

    def test_groups_of_values_are_one_slice(self):
        checklist = checklist_of(slices=[{"by": "camera", "groups": {"old": ["A", "B"]}}])
        predictions = drawn(2, 60)
        found = evaluate(predictions, checklist)
        rows = predictions.table[predictions.table["camera"].isin(["A", "B"])]
        assert estimate(found, "accuracy@camera=old").n == len(rows)
        assert estimate(found, "accuracy@camera=old").k == int((rows["grade"] == rows["predicted"]).sum())
        assert {entry.value for entry in found.counts.slices} == {"old", "C=1", "D@x"}

    def test_every_value_gets_its_line(self):
        """`@camera=each` is one criterion for each value that the test set has."""
        checklist = checklist_of(
            slices=[{"by": "camera"}],
            criteria=[{"id": "accuracy", "at_least": 0.1}, {"id": "accuracy@camera=each", "at_least": 0.1}],
        )
        found = evaluate(drawn(3, 100), checklist)
        assert [c.id for c in found.criteria] == [
            "accuracy",
            "accuracy@camera=A",
            "accuracy@camera=B",
            "accuracy@camera=C=1",
            "accuracy@camera=D@x",
        ]
        assert found.verdict == "PASS"

    def test_too_few_positives_are_not_assessed_and_named(self):
        """A floor under its minimum is no pass, and page one names it."""
        checklist = checklist_of(
            slices=[{"by": "camera", "min_positives": 1000}],
            criteria=[
                {"id": "accuracy", "at_least": 0.1},
                {"id": "sensitivity:pdr@camera=A", "at_least": 0.1},
                {"id": "accuracy@camera=A", "at_least": 0.1, "min_positives": 5},
            ],
        )
        found = evaluate(drawn(4, 100), checklist)
        assert [c.status for c in found.criteria] == ["PASS", "NOT_ASSESSED", "PASS"]
        assert found.verdict == "INSUFFICIENT"
        assert "of the 1000 cases" in found.criteria[1].reason
        assert any("sensitivity:pdr@camera=A" in line for line in found.page_one)

    def test_a_value_that_no_image_has(self):
        checklist = checklist_of(slices=[{"by": "camera"}], criteria=[{"id": "accuracy@camera=Z", "at_least": 0.1}])
        found = evaluate(drawn(5, 10), checklist)
        assert found.criteria[0].status == "NOT_ASSESSED"
        assert "no image of the test set has camera = Z" in found.criteria[0].reason

    def test_images_in_no_slice_are_counted_on_page_one(self):
        predictions = drawn(7, 20)
        table = predictions.table.copy()
        table.loc[:4, "camera"] = pd.NA
        found = evaluate(make_predictions(table, "t.csv", {}), checklist_of(slices=[{"by": "camera"}]))
        assert found.counts.in_no_slice == {"camera": 5}
        assert "5 images in no slice by camera." in found.page_one

    def test_calibration_of_a_slice_is_its_own(self):
        """Forty images of one camera, all wrong and sure of it, are not hidden by five hundred of another."""
        predictions = drawn(30, 300)
        table = predictions.table.copy()
        table["camera"] = "A"
        bad = table.index[:40]
        table.loc[bad, "camera"] = "B"
        table.loc[bad, [f"p_{g}" for g in range(5)]] = 0.0
        wrong = (table.loc[bad, "grade"] + 2) % 5
        for index, grade in wrong.items():
            table.loc[index, f"p_{grade}"] = 1.0
        table["predicted"] = pd.NA
        table = table.drop(columns="predicted")
        checklist = checklist_of(slices=[{"by": "camera"}], criteria=[{"id": "brier@camera=each", "at_most": 0.9}])
        found = evaluate(make_predictions(table, "t.csv", {}), checklist)
        ours = [c.estimate for c in found.criteria]
        assert [one.n for one in ours if isinstance(one, Estimate)] == [560, 40]
        assert [c.status for c in found.criteria] == ["PASS", "FAIL"]

    def test_the_floor_of_a_ranking_is_its_smaller_side(self):
        """Three referable images among forty are three cases for an AUC."""
        predictions = drawn(31, 40)
        table = predictions.table.copy()
        table["grade"] = 0
        table.loc[:2, "grade"] = 3
        checklist = checklist_of(
            slices=[{"by": "camera", "groups": {"any": ["A", "B", "C=1", "D@x"]}, "min_positives": 10}],
            criteria=[{"id": "auc:referable@camera=any", "at_least": 0.5}],
        )
        judged = evaluate(make_predictions(table, "t.csv", {}), checklist).criteria[0]
        assert judged.status == "NOT_ASSESSED"
        assert "3 of the 10 cases" in judged.reason

    def test_whole_numbers_with_gaps_are_whole_numbers(self):
        """A Parquet column of sites with a gap holds 1.0 and means 1."""
        sites = [1.0, 2.0, np.nan, 1.0] * 10
        found = evaluate(drawn(33, 20, site=sites), checklist_of(slices=[{"by": "site"}]))
        assert {entry.value for entry in found.counts.slices} == {"1", "2"}


class TestUnknownPatients:
    @settings(max_examples=15)
    @given(st.integers(0, 10_000), st.integers(10, 40), st.integers(2, 6))
    def test_forgetting_them_helps_no_metric_with_an_interval(self, seed: int, patients: int, most: int):
        """Rates, kappa, AUC and Brier, truly declared: no end of an interval moves inwards."""
        predictions = drawn(seed, patients)
        given_ = predictions.table.assign(patient=[f"P{i // most}" for i in range(2 * patients)])
        checklist = checklist_of()
        forgotten = make_predictions(given_.drop(columns=["patient", "eye"]), "t.csv", {})
        known = evaluate(make_predictions(given_, "t.csv", {}), checklist).metrics
        unknown = evaluate(forgotten, declaring(checklist, forgotten, most)).metrics
        for name, metric in known.items():
            other = unknown[name]
            if not isinstance(metric, Estimate) or not isinstance(other, Estimate) or metric.low is None:
                continue
            # At equal shares of the grades see docs/statistics.md; slope and intercept, from as many patients as decide
            # them, tests/stats/test_calibration.py.
            if name != "balanced_accuracy" and not name.startswith(("calibration_slope", "calibration_intercept")):
                assert other.low is not None
                assert other.high is not None
                assert metric.high is not None
                assert other.low <= metric.low + 1e-9, name
                assert other.high >= metric.high - 1e-9, name


class TestOedema:
    def test_it_joins_both_groups(self):
        """With a dme column an eye with oedema is referable and vision-threatening, whatever its DR grade."""
        predictions = drawn(9, 120, dme=[1 if i % 7 == 0 else 0 for i in range(240)])
        found = evaluate(predictions, checklist_of())
        table = predictions.table
        grade, called = table["grade"].to_numpy(dtype=int), table["predicted"].to_numpy(dtype=int)
        oedema = table["dme"].to_numpy(dtype=bool)
        for group, first in (("referable", 2), ("vision_threatening", 3)):
            truth, answer = (grade >= first) | oedema, called >= first
            assert estimate(found, f"sensitivity:{group}").value == pytest.approx(sk.recall_score(truth, answer))
            assert estimate(found, f"specificity:{group}").value == pytest.approx(sk.recall_score(~truth, ~answer))
            assert estimate(found, f"ppv:{group}").value == pytest.approx(sk.precision_score(truth, answer))
            scores = predictions.probabilities()[:, first:].sum(axis=1)
            assert estimate(found, f"auc:{group}").value == pytest.approx(sk.roc_auc_score(truth, scores))
        assert estimate(found, "sensitivity:pdr").n == int((grade == 4).sum())
        assert any("include diabetic macular oedema" in line for line in found.page_one)

    def test_the_deployment_mix_says_nothing_of_oedema(self):
        """The mix is of DR grades; a group that includes oedema has no value there."""
        found = evaluate(drawn(9, 60, dme=[i % 2 for i in range(120)]), checklist_of(deployment=MIX))
        metric = found.metrics["sensitivity:referable^deployment"]
        assert isinstance(metric, NotEstimable)
        assert "macular oedema" in metric.reason
        assert isinstance(found.metrics["specificity:pdr^deployment"], Estimate)


class TestUnits:
    def test_other_units_stand_beside(self):
        """By eye and by patient the counts are those of the worst image, as pandas groups them."""
        found = evaluate(silenced(drawn(11, 80), 9), checklist_of())
        table = silenced(drawn(11, 80), 9).table.assign(predicted=lambda t: t["predicted"].fillna(5))
        for unit, keys in (("eye", ["patient", "eye"]), ("patient", ["patient"])):
            worst = table.groupby(keys)[["grade", "predicted"]].max()
            answered = worst[worst["predicted"] < 5]
            metrics = found.units[unit]
            assert isinstance(metrics, dict)
            referred, silent = metrics["sensitivity:referable"], metrics["no_output"]
            assert isinstance(referred, Estimate)
            assert isinstance(silent, Estimate)
            referable = worst[worst["grade"] >= 2]
            assert (referred.k, referred.n) == (int((referable["predicted"] >= 2).sum()), len(referable))
            assert (silent.k, silent.n) == (len(worst) - len(answered), len(worst))

    def test_a_unit_that_cannot_be_told_says_why(self):
        predictions = make_predictions(drawn(12, 10).table.drop(columns=["patient", "eye"]), "t.csv", {})
        found = evaluate(predictions, checklist_of())
        for unit in ("eye", "patient"):
            reason = found.units[unit]
            assert isinstance(reason, NotEstimable)
            assert "not given for every image" in reason.reason


class TestDeployment:
    def test_the_point_is_the_weighted_mean(self):
        """Standardising is weighting each image by its grade's share there over its share here."""
        predictions = drawn(13, 400)
        found = evaluate(predictions, checklist_of(deployment=MIX))
        grade = predictions.table["grade"].to_numpy(dtype=int)
        called = predictions.table["predicted"].to_numpy(dtype=int)
        weights = (np.array([MIX[g] for g in GRADES]) / np.bincount(grade, minlength=5))[grade]
        accuracy = sk.accuracy_score(grade, called, sample_weight=weights)
        assert estimate(found, "accuracy^deployment").value == pytest.approx(accuracy)
        truth, answer = grade >= 2, called >= 2
        for name, expected in (
            ("sensitivity", sk.recall_score(truth, answer, sample_weight=weights)),
            ("specificity", sk.recall_score(~truth, ~answer, sample_weight=weights)),
            ("ppv", sk.precision_score(truth, answer, sample_weight=weights)),
            ("npv", sk.precision_score(~truth, ~answer, sample_weight=weights)),
        ):
            standardized = estimate(found, f"{name}:referable^deployment")
            assert standardized.value == pytest.approx(expected)
            assert standardized.low is not None
            assert standardized.high is not None
            assert standardized.low < standardized.value < standardized.high

    def test_a_criterion_may_ask_it(self):
        checklist = checklist_of(
            deployment=MIX, criteria=[{"id": "ppv:referable", "at": "deployment", "at_least": 0.99}]
        )
        found = evaluate(drawn(14, 300), checklist)
        assert (found.criteria[0].id, found.criteria[0].status) == ("ppv:referable^deployment", "FAIL")

    def test_without_a_mix_page_one_says_so(self):
        assert any("states no deployment mix" in line for line in evaluate(drawn(15, 20), checklist_of()).page_one)


class TestThreeWays:
    def test_each_way_is_a_table_with_the_answers_filled_in(self):
        """Excluded: rows left out. Referred: called PDR. Worst case: the answer that harms the metric most."""
        predictions = silenced(drawn(16, 120), 8)
        ways = evaluate(predictions, checklist_of()).three_ways
        table = predictions.table
        grade = table["grade"].to_numpy(dtype=int)
        silent = table["predicted"].isna().to_numpy()
        called = table["predicted"].fillna(0).to_numpy(dtype=int)

        def counted(truth: Any, answer: Any, keep: Any) -> tuple[int, int]:
            return int((truth & answer & keep).sum()), int((truth & keep).sum())

        everything = np.ones(len(grade), dtype=bool)
        referable = grade >= 2
        expected = {
            "excluded": counted(referable, called >= 2, ~silent),
            "as_referred": counted(referable, (called >= 2) | silent, everything),
            "worst_case": counted(referable, (called >= 2) & ~silent, everything),
        }
        for policy, (k, n) in expected.items():
            metric = ways["sensitivity:referable"][policy]
            assert isinstance(metric, Estimate)
            assert (metric.k, metric.n) == (k, n)
        worst = ways["accuracy"]["worst_case"]
        assert isinstance(worst, Estimate)
        assert (worst.k, worst.n) == (int(((called == grade) & ~silent).sum()), len(grade))
        farthest = np.where(silent, np.where(grade <= 1, 4, 0), called)
        kappa = ways["quadratic_kappa"]["worst_case"]
        assert isinstance(kappa, Estimate)
        assert kappa.value == pytest.approx(sk.cohen_kappa_score(grade, farthest, weights="quadratic", labels=range(5)))
        assert set(ways["sensitivity:pdr"]) == {"excluded", "worst_case"}

    def test_nothing_to_show_where_every_image_has_an_answer(self):
        assert evaluate(drawn(17, 20), checklist_of()).three_ways == {}


class TestBootstrap:
    def test_fixed_class_totals_keep_the_patients_of_each_worst_grade(self):
        predictions = drawn(18, 100)
        checklist = checklist_of(bootstrap={"resamples": 1000, "class_totals": "fixed"})
        sample = Sample.of(predictions, checklist, "patient")
        tables = Metrics(sample, checklist, 0.95, 1).replicates(sample.whole())
        by_grade = tables.reshape(-1, 5, 6).sum(axis=2)
        assert (by_grade == sample.whole().table.sum(axis=1)).all()

    def test_two_images_of_an_unknown_patient_double_the_variance(self):
        """Where two images of one patient are declared, a kappa's interval is that of half as many images."""
        predictions = make_predictions(drawn(19, 400).table.drop(columns=["patient", "eye"]), "t.csv", {})
        wide, narrow = (
            evaluate(predictions, declaring(checklist_of(bootstrap={"resamples": 20000}), predictions, most))
            for most in (2, 1)
        )
        found = [estimate(one, "quadratic_kappa") for one in (wide, narrow)]
        widths = [[end - start for start, end in ((e.low, e.high), e.bootstrap)] for e in found]  # type: ignore[misc, operator]
        assert np.sqrt(2) < widths[0][0] / widths[1][0] < 2  # one more worst patient weighs more among fewer
        assert widths[0][1] / widths[1][1] == pytest.approx(np.sqrt(2), rel=0.04)

    def test_bca_where_the_checklist_asks_for_it(self):
        predictions = drawn(20, 200)
        plain, corrected = (
            evaluate(predictions, checklist_of(bootstrap={"resamples": 2000, "interval": interval}))
            for interval in ("percentile", "bca")
        )
        assert estimate(corrected, "quadratic_kappa").bootstrap != estimate(plain, "quadratic_kappa").bootstrap
        assert estimate(corrected, "accuracy").bootstrap != estimate(plain, "accuracy").bootstrap
        assert estimate(corrected, "accuracy").low == estimate(plain, "accuracy").low


class TestGateError:
    def test_independent_patients_are_exact(self):
        """Binomial by brute force: 100 PDR patients, a true value of 0.95, bound at least 0.95: 0.6 %."""
        table = pd.DataFrame({"grade": [4] * 100 + [0] * 100, "predicted": [4] * 100 + [0] * 100})
        table["image"], table["patient"] = zip(*((f"{i}", f"P{3 * i + 1}") for i in range(200)), strict=True)
        checklist = checklist_of(criteria=[{"id": "sensitivity:pdr", "at_least": 0.95}], expect={"pdr": 0.985})
        errors = evaluate(make_predictions(table, "t.csv", {}), checklist).gate_error
        assert [(e.true, e.deserves, e.method) for e in errors] == [
            (0.95, False, "exact"),
            (pytest.approx(0.925), False, "exact"),
            (0.985, True, "exact"),
        ]
        # No miss is allowed among 100 but zero (statistics notes, section 5): P(no miss) = true ** 100.
        for error in errors:
            assert error.passes == pytest.approx(binom.pmf(100, 100, error.true))
            assert (error.patients, error.n) == (100, 100)

    def test_a_model_below_the_threshold_deserves_no_pass(self):
        checklist = checklist_of(criteria=[{"id": "sensitivity:pdr", "at_least": 0.95}], expect={"pdr": 0.8})
        errors = evaluate(drawn(24, 60), checklist).gate_error
        assert [(e.true, e.deserves) for e in errors if e.true == 0.8] == [(0.8, False)]

    def test_pairs_are_simulated_and_named_so(self):
        checklist = checklist_of(criteria=[{"id": "accuracy", "at_least": 0.8}])
        errors = evaluate(drawn(21, 150), checklist).gate_error
        assert {error.method for error in errors} == {"simulated"}
        assert all(error.passes <= 0.025 + 3 * error.se for error in errors)

    def test_every_criterion_has_a_rate_or_the_reason_why_not(self):
        """Whatever can be a criterion: a new metric without a row fails here."""
        range_of = {"calibration_slope": (0.8, 1.25), "calibration_intercept": (-0.2, 0.2)}
        lines: list[dict[str, Any]] = []
        for about in METRICS.values():
            name = f"{about.name}:{about.targets[-1]}" if about.targets[-1] else about.name
            if about.name == "gap":
                lines.append({"id": "gap:sensitivity:referable@camera", "at_most": 0.5})
            elif about.name == "noninferior":
                lines.append({"id": "noninferior:sensitivity:referable~baseline", "margin": 0.02})
            elif about.name in range_of:
                lines.append({"id": name, "at_least": range_of[about.name][0], "at_most": range_of[about.name][1]})
            elif about.name == "baseline":
                lines.append({"id": name, "margin": 0.02})
            elif about.name == "audit":
                lines.append({"id": name, "at_most": 0})
            elif not about.not_asked:
                lines.append({"id": name, "below" if about.better == "lower" else "above": 0.5})
        lines.append({"id": "ppv:pdr", "at": "deployment", "at_least": 0.5})
        found = evaluate(drawn(24, 60), checklist_of(criteria=lines, deployment=MIX, slices=[{"by": "camera"}]))
        assert {error.id for error in found.gate_error} == {criterion.id for criterion in found.criteria}
        for error in found.gate_error:
            if error.method == "none":
                assert error.id in ("stability", "cost", "audit:label_conflicts")
                assert error.why
            else:
                assert error.passes is not None
                assert (error.command is None) == (error.method != "designs")

    @pytest.mark.parametrize(
        ("evidence", "why"),
        [
            ({"level": 0.9}, "simulated at the level 95\N{NO-BREAK SPACE}% only"),
            ({"interval": "wilson"}, "Clopper-Pearson intervals only"),
            ({"decide_on": "point"}, "decided on the estimate alone"),
        ],
    )
    def test_a_rate_is_not_given_where_nothing_shows_it(self, evidence: dict[str, Any], why: str):
        checklist = checklist_of(criteria=[{"id": "youden:pdr", "at_least": 0.1}], evidence=evidence)
        (error,) = evaluate(drawn(24, 60), checklist).gate_error
        assert error.method == "none"
        assert why in (error.why or "")

    def test_nineteen_of_twenty_on_the_estimate(self):
        """A model just below 95 % is observed to meet it in 74 % of sets of twenty: P(19 or 20 of 20) at .95."""
        table = pd.DataFrame({"grade": [4] * 20 + [0] * 20, "predicted": [4] * 19 + [0] * 21})
        table["image"] = table["patient"] = [f"{i:02d}" for i in range(40)]
        lines = [{"id": "sensitivity:pdr", "at_least": 0.95}, {"id": "accuracy", "at_least": 0.5}]
        found = evaluate(
            make_predictions(table, "t.csv", {}), checklist_of(criteria=lines, evidence={"decide_on": "point"})
        )
        assert found.verdict == "OBSERVED"
        assert found.gate_error[0].passes == pytest.approx(binom.sf(18, 20, 0.95))
        first = "By chance, a model just outside the rule passes Sensitivity, PDR in 73.6 % of test sets like this one"
        shown = io.StringIO()
        terminal.render(found, Console(file=shown, width=200))
        for page in (markdown.render(found), html.render(found), shown.getvalue()):
            between, said, _ = page.replace("\N{NO-BREAK SPACE}", " ").rpartition("<h1")[2].partition(first)
            assert said
            assert len(re.sub(r"<[^>]*>|[^a-z]", "", between.partition("this does not show it.")[2])) == 0
        assert f"<system-out>{first}" in junit.render(found).replace("\N{NO-BREAK SPACE}", " ")

    def test_images_without_a_grade_are_of_the_test_set(self):
        """No model passes that criterion, by chance or otherwise: it is not named, and its row speaks of the images."""
        lines = [{"id": "reference_ungradable", "at_most": 0.1}, {"id": "sensitivity:pdr", "at_least": 0.95}]
        checklist = checklist_of(criteria=lines, unit="patient", expect={"reference_ungradable": 0.05})
        table = pd.DataFrame({"grade": [4] * 20 + [0] * 381, "predicted": [4] * 20 + [0] * 381})
        table["image"], table["patient"] = zip(*((f"{i}", f"P{3 * i + 1}") for i in range(401)), strict=True)
        table.loc[400, "grade"], table["gradable"] = pd.NA, [True] * 400 + [False]
        found = evaluate(make_predictions(table, "t.csv", {}), checklist)
        assert (found.gate_error[0].passes or 0) > 0.015, "the largest"
        said = words.chance(found).replace("\N{NO-BREAK SPACE}", " ")
        assert (
            said
            == "By chance, a model just outside the rule passes Sensitivity, PDR in 0.0 % of test sets like this one."
        )
        text = markdown.render(found).replace("\N{NO-BREAK SPACE}", " ")
        row = next(one for one in text.splitlines() if "have no grade: passes" in one)
        assert "| 401 patients (401 images) | just above 10 % of the images have no grade: passes" in row
        assert "| 5 % of the images have no grade: not passed" in row
        assert "Images without a reference grade are of the test set, not of the model." in text
        assert "| 20 patients | true just below 95 %" in text
        assert any(
            note.startswith("1 of 401 images (0.2 %, upper limit 1.4 %) has no reference") for note in found.page_one
        )

    def test_the_largest_of_simulated_designs_is_a_limit(self):
        """It is no rate of these counts, and at a narrower level the rate is lower."""
        checklist = checklist_of(criteria=[{"id": "quadratic_kappa", "at_least": 0.1}])
        said = words.chance(evaluate(drawn(24, 60), checklist)).replace("\N{NO-BREAK SPACE}", " ")
        assert said.endswith("passes Kappa, quadratic weights in at most 2.21 % of simulated test sets.")

    def test_what_is_not_assessed_is_not_said_to_pass(self):
        """By patient nothing is calibrated: its rate, the largest, is of no use to the reader."""
        lines = [{"id": "quadratic_kappa", "at_least": 0.1}]
        lines.append({"id": "calibration_slope:referable", "at_least": 0.5, "at_most": 2})
        said = words.chance(evaluate(drawn(24, 60), checklist_of(criteria=lines, unit="patient")))
        assert "passes Kappa, quadratic weights in" in said

    def test_one_patient_is_one(self):
        table = pd.DataFrame({"grade": [4, 0], "predicted": [4, 0], "image": ["a", "b"], "patient": ["P7", "P9"]})
        found = evaluate(
            make_predictions(table, "t.csv", {}), checklist_of(criteria=[{"id": "sensitivity:pdr", "above": 0.5}])
        )
        assert "| 1 patient (1 image) |" in markdown.render(found)

    def test_a_rule_that_only_perfection_meets(self):
        """ "At most 0" cannot be shown by an interval, and every sample without an error meets it as an estimate."""
        for decide_on, passes_ in (("bound", 0.0), ("point", 1.0)):
            checklist = checklist_of(
                criteria=[{"id": "accuracy", "at_least": 0.5}, {"id": "missed:referable", "at_most": 0}],
                evidence={"decide_on": decide_on},
            )
            errors = [e for e in evaluate(drawn(24, 60), checklist).gate_error if e.id == "missed:referable"]
            assert [(e.true, e.passes, e.method) for e in errors] == [(0, passes_, "exact")]


class TestHowManyMore:
    def test_a_line_that_is_short_of_patients_says_how_many(self):
        """20 PDR patients without a miss; with one image each, 173 show .95 at a true .99 with 80 % power."""
        table = pd.DataFrame({"grade": [4] * 20 + [0] * 100, "predicted": [4] * 20 + [0] * 100})
        table["image"], table["patient"] = zip(*((f"{i}", f"P{3 * i + 1}") for i in range(120)), strict=True)
        checklist = checklist_of(criteria=[{"id": "sensitivity:pdr", "at_least": 0.95}], expect={"pdr": 0.99})
        found = evaluate(make_predictions(table, "t.csv", {}), checklist)
        assert found.criteria[0].status == "INSUFFICIENT"
        assert found.criteria[0].reason.endswith(
            " A fresh test set with 173 patients with PDR would show the rule with 80 % power if the true value is "
            "99.0 %, as the checklist expects."
        )
        twice = checklist_of(criteria=[{"id": "sensitivity:pdr", "at_least": 0.95}], expect={"pdr": 0.99}, looks=2)
        again = evaluate(make_predictions(table, "t.csv", {}), twice).criteria[0].reason
        assert re.search(r" (\d+) patients with PDR would show .* more than now\.$", again)

    def test_no_number_is_given_at_a_rate_that_nobody_expects(self):
        """Never at the observed rate: without an expected true value there is no number."""
        checklist = checklist_of(criteria=[{"id": "accuracy", "at_least": 0.8}])
        assert (
            "unknown, because the checklist states no expected value; add one under expect, such as accuracy: 0.9."
            in evaluate(drawn(22, 50), checklist).criteria[0].reason
        )

    def test_no_realistic_number_is_an_answer(self):
        checklist = checklist_of(criteria=[{"id": "accuracy", "at_least": 0.75}], expect={"accuracy": 0.7501})
        assert "No realistic number of patients is enough" in evaluate(drawn(23, 50), checklist).criteria[0].reason


class TestProperties:
    @settings(max_examples=20)
    @given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.floats(0.0, 0.9))
    def test_a_weaker_threshold_never_takes_a_pass_away(self, seed: int, threshold: float, ease: float):
        """Whatever passes a threshold passes every lower one."""
        predictions = drawn(seed, 12)
        lines = [{"id": "sensitivity:referable", "at_least": threshold}]
        easier = [{"id": "sensitivity:referable", "at_least": max(0.01, threshold * ease)}]
        strict, weak = (evaluate(predictions, checklist_of(criteria=c)).criteria[0] for c in (lines, easier))
        assert strict.status != "PASS" or weak.status == "PASS"

    @settings(max_examples=20)
    @given(st.integers(0, 10_000))
    def test_every_interval_contains_its_estimate(self, seed: int):
        found = evaluate(silenced(drawn(seed, 15), 7), checklist_of(deployment=MIX, slices=[{"by": "camera"}]))
        for name, metric in found.metrics.items():
            if isinstance(metric, Estimate) and metric.kind == "proportion":
                assert metric.low is not None
                assert metric.high is not None
                assert metric.low - 1e-12 <= metric.value <= metric.high + 1e-12, name


def calibrated(generator: np.random.Generator, patients: int, events: int, slope: float = 1.0) -> Predictions:
    """Referable DR in so many of the patients, with probabilities whose true calibration slope is `slope`."""
    positive = np.arange(patients) < events
    logits = generator.normal(np.where(positive, 2, -2) + np.log(events / (patients - events)), 2) / slope
    table = pd.DataFrame(0.0, index=range(patients), columns=[f"p_{g}" for g in range(5)])
    table["p_2"] = 1 / (1 + np.exp(-logits))
    table["p_0"] = 1 - table["p_2"]
    table["image"] = [f"{i:04d}.png" for i in range(patients)]
    table["patient"] = [f"P{i}" for i in range(patients)]
    table["grade"] = np.where(positive, 2, 0)
    return make_predictions(table, "t.csv", {})


class TestCalibrationRange:
    """A rule on the slope has two ends, and decides from 100 patients with and 100 without the event."""

    def result(self, predictions: Predictions, least: float, most: float, **changes: Any) -> CriterionResult:
        line = {"id": "calibration_slope:referable", "at_least": least, "at_most": most}
        return evaluate(predictions, checklist_of(criteria=[line], **changes)).criteria[0]

    @pytest.mark.parametrize(
        ("least", "most", "status", "shown", "words"),
        [
            (0.5, 2.0, "PASS", None, "; the interval is "),
            (
                0.99,
                2.0,
                "INSUFFICIENT",
                None,
                "meets the rule (between 0.99 and 2), but the interval is 0.882 to 1.167.",
            ),
            (0.5, 1.05, "INSUFFICIENT", None, "but the interval is"),
            (0.5, 1.0, "FAIL", False, "The estimate misses the rule by 0."),
        ],
    )
    def test_both_ends_of_the_interval_must_be_inside(
        self, least: float, most: float, status: str, shown: bool | None, words: str
    ):
        """The slope of these patients is 1.024 (0.882 to 1.167)."""
        found = self.result(calibrated(np.random.default_rng(3), 1000, 300), least, most)
        assert isinstance(found.estimate, Estimate)
        assert found.estimate.value == pytest.approx(1.024, abs=0.001)
        assert (found.status, found.shown, found.threshold, found.ceiling) == (status, shown, least, most)
        assert words in found.reason

    def test_too_steep_is_as_wrong_as_too_flat(self):
        """With one end a slope of 2 passed "at least 0.8"."""
        for slope in (0.5, 2.0):
            found = self.result(calibrated(np.random.default_rng(4), 1000, 300, slope), 0.8, 1.25)
            assert (found.status, found.shown) == ("FAIL", True)
            assert "outside, so the size of the test set is not the cause" in found.reason

    @pytest.mark.parametrize(("events", "assessed"), [(3, False), (99, False), (100, True), (200, True), (201, False)])
    def test_a_hundred_with_and_a_hundred_without(self, events: int, assessed: bool):
        found = self.result(calibrated(np.random.default_rng(5), 300, events), 0.05, 9.0)
        assert found.status == ("PASS" if assessed else "NOT_ASSESSED")
        if not assessed:
            assert f"100 patients with Referable DR and 100 without, and there are {events} and {300 - events}" in (
                found.reason
            )

    def test_patients_count_and_not_images(self):
        """A patient with the event in one of two eyes is one with the event."""
        one = calibrated(np.random.default_rng(6), 300, 150).table.copy()
        one["patient"] = [f"P{i // 2}" for i in range(300)]
        found = self.result(make_predictions(one, "t.csv", {}), 0.05, 9.0)
        assert "there are 75 and 75" in found.reason
        one["patient"] = [f"P{i % 150}" for i in range(300)]
        found = self.result(make_predictions(one, "t.csv", {}), 0.05, 9.0)
        assert "there are 150 and 0" in found.reason

    def test_images_without_probabilities_stand_in_the_reason(self):
        """Both ends are inside; what was left out is said, and is too much."""
        given = calibrated(np.random.default_rng(3), 1000, 300).table.copy()
        given.loc[::10, ["predicted", *PROBABILITIES]] = pd.NA
        found = self.result(make_predictions(given, "t.csv", {}), 0.5, 2.0)
        assert found.status == "FAIL"
        assert " with probabilities; 100 of 1000 without (10.0 %), upper limit 12.0 %; the interval is" in found.reason
        assert "and at most 5.0 % without probabilities. Of the share without" in found.reason

    def test_the_figure_is_shown_all_the_same(self):
        checklist = checklist_of(
            criteria=[{"id": "calibration_slope:referable", "at_least": 0.8, "at_most": 1.25}],
        )
        found = evaluate(calibrated(np.random.default_rng(5), 300, 30), checklist)
        assert estimate(found, "calibration_slope:referable").low is not None
