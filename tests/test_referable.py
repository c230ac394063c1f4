"""Models that answer only whether to refer, and references that say only that: counted by hand and by scikit-learn."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn import metrics as sk

from drgate.answers import Answer
from drgate.certificate.keys import generate_key, load_private_key
from drgate.certificate.scored import sign_scored
from drgate.checklist import Checklist, load_checklist, parse_checklist
from drgate.cli.dry_run import lines
from drgate.dry_run import DryRun, dry_run
from drgate.errors import DrgateError, ManifestError, PredictionsError
from drgate.evaluate import evaluate
from drgate.evaluation import Estimate, Evaluation, NotEstimable, Subject, TestSet
from drgate.given import Problems
from drgate.grades import join_grades
from drgate.judge import Evidence, Output, Source, Test
from drgate.looks import Log
from drgate.manifest import load_manifest, split_by_patient
from drgate.metrics import BELOW_REFERABLE, MetricId
from drgate.operating_point import OperatingPoint
from drgate.plan import load_planned, plan
from drgate.predictions import (
    Predictions,
    answers_digest,
    load_predictions,
    make_predictions,
    published,
    write_predictions,
)
from drgate.preprocessing import parse_preprocessing
from drgate.report import compare as compare_report
from drgate.report.evaluation import html, junit, markdown, terminal
from drgate.score import score
from drgate.tune import Infeasible, tune
from tests.support.comparing import compare
from tests.support.material import photograph
from tests.support.verbs import judged, verified

SCREENING = load_checklist("screening-referable")
MODEL_SAYS = "the model answers only whether to refer."
REFERENCE_SAYS = "the reference says only whether to refer."


def checklist_of(*criteria: dict[str, Any], **changes: Any) -> Checklist:
    content = {"name": "x", "version": 1, "bootstrap": {"resamples": 1000}, "criteria": [*criteria], **changes}
    return parse_checklist(content, "x")


REFERRAL = checklist_of(
    {"id": "sensitivity:referable", "above": 0.85},
    {"id": "specificity:referable", "above": 0.825},
    {"id": "no_output", "at_most": 0.1},
    looks=5,
)


def rows(patients: int = 300, *, missed: float = 0.03, seed: int = 1, eyes: int = 2, **columns: Any) -> pd.DataFrame:
    """Photographs of both eyes with grades, and a model that says of each how probable referable DR is."""
    rng = np.random.default_rng(seed)
    n = eyes * patients
    grade = rng.choice(5, n, p=[0.5, 0.1, 0.2, 0.1, 0.1])
    right = rng.random(n) >= missed
    p = np.where((grade >= 2) == right, rng.uniform(0.5, 1, n), rng.uniform(0, 0.49, n)).round(4)
    named = {
        "image": [f"{i:05d}.png" for i in range(n)],
        "patient": [f"P{i // eyes}" for i in range(n)],
        "eye": ["L", "R"] * (n // 2),
        "grade": grade,
        "p_referable": p,
    }
    return pd.DataFrame({**named, **columns})


def only_referable(table: pd.DataFrame) -> pd.DataFrame:
    """The same images with a reference that says only whether to refer."""
    return table.assign(referable=(table["grade"] >= 2).astype(int)).drop(columns="grade")


def predictions(table: pd.DataFrame) -> Predictions:
    return make_predictions(table, "table.csv", {})


def counted(evaluation: Evaluation, name: str) -> tuple[int | None, int | None]:
    metric = evaluation.metrics[name]  # type: ignore[index]
    assert isinstance(metric, Estimate), metric
    return metric.k, metric.n


class TestAnswers:
    def test_csv_and_parquet_and_either_column_are_one_table(self, tmp_path: Path):
        """From 0.5 on it is to refer; an empty cell is no output."""
        table = rows(20)
        table.loc[3, "p_referable"] = None
        table.loc[4, "p_referable"] = 0.5
        table.to_csv(tmp_path / "a.csv", index=False)
        found = load_predictions(tmp_path / "a.csv")
        assert found.answers == "referable"
        assert found.table["predicted"].isna().all()
        assert found.table["predicted_referable"].isna().tolist() == [i == 3 for i in range(40)]
        assert (found.table["predicted_referable"] == (table["p_referable"] >= 0.5))[found.table.index != 3].all()
        write_predictions(found, tmp_path / "a.parquet")
        assert load_predictions(tmp_path / "a.parquet").digest == found.digest
        public = published(found, SCREENING)
        write_predictions(public, tmp_path / "public.csv")
        assert load_predictions(tmp_path / "public.csv").digest == public.digest

    def test_a_decision_alone_is_enough(self):
        """Without probabilities nothing is ranked or calibrated, and everything else is judged."""
        table = rows()
        decided = table.assign(predicted_referable=np.where(table["p_referable"] >= 0.5, "yes", "no"))
        found = evaluate(predictions(decided.drop(columns="p_referable")), REFERRAL)
        whole = evaluate(predictions(table), REFERRAL)
        assert found.confusion_matrix == whole.confusion_matrix
        assert found.metrics["sensitivity:referable"] == whole.metrics["sensitivity:referable"]  # type: ignore[index]
        assert found.metrics["auc:referable"] == NotEstimable("there are no probabilities by image.")  # type: ignore[index]

    @pytest.mark.parametrize(
        ("columns", "says"),
        [
            ({"predicted": 2}, "two kinds, p_referable beside predicted; keep the columns of one"),
            (dict.fromkeys(("p_0", "p_1", "p_2", "p_3", "p_4"), 0.2), "two kinds, p_referable beside p_0, p_1"),
            ({"severity": 1.5}, "two kinds, p_referable beside severity"),
            ({"p_referable": 1.5}, "line 2: p_referable cannot be read; expected a fraction from 0 to 1"),
            ({"p_referable": "nan"}, "line 2: p_referable cannot be read; expected a fraction from 0 to 1"),
            ({"p_referable": "high"}, "line 2: p_referable cannot be read; expected a number"),
            (
                {"p_referable": 0.7, "predicted_referable": 0},
                "line 2: predicted_referable is 0, but p_referable is not below 0.5",
            ),
            (
                {"p_referable": 0.7, "predicted_referable": None},
                "there is p_referable but predicted_referable is empty",
            ),
            ({"predicted_referable": "maybe"}, "predicted_referable cannot be read; expected 0, 1"),
        ],
    )
    def test_what_is_no_one_answer_is_refused(self, columns: dict[str, Any], says: str, tmp_path: Path):
        """One kind of answers a table, and no answer that contradicts itself."""
        table = rows(2).assign(**columns)
        table.to_csv(tmp_path / "a.csv", index=False)
        with pytest.raises(PredictionsError, match=says):
            load_predictions(tmp_path / "a.csv")

    def test_an_empty_column_is_no_answer(self):
        """A table of grades with an unused column stays one of grades."""
        table = rows(2).assign(p_referable=None, predicted=0)
        assert predictions(table).answers == "grades"
        assert predictions(table).digest == predictions(table.drop(columns="p_referable")).digest

    def test_cut_offs_of_grades_are_refused(self):
        """They need the probabilities of five grades."""
        point = OperatingPoint("probabilities", (0.5, 0.5, 0.5, 0.5), {}, "", (("a", "b"),), "", "", (), {})
        with pytest.raises(PredictionsError, match="answers with a probability of referable, but the cut-offs"):
            predictions(rows(2)).at(point)


class TestReference:
    @pytest.mark.parametrize(
        ("columns", "says"),
        [
            (
                {"grade": [3, 0], "referable": [0, 0]},
                "line 2: referable is 0, but the grade is 3; referable is moderate",
            ),
            (
                {"grade": [3, 1], "referable": [1, 1]},
                "line 3: referable is 1, but the grade is 1; referable is moderate",
            ),
            (
                {"grade": [0, 1], "referable": [0, 0], "dme": [0, 1]},
                "line 3: referable is 0, but the grade is 1 and dme",
            ),
            ({"referable": [1, 0], "dme": [0, 1]}, "line 3: referable is 0, but dme is 1"),
            ({"grade": [3, None], "referable": [1, 1]}, "line 3: there is referable but no grade, and other rows have"),
            ({"referable": [1, 2]}, "line 3: referable cannot be read; expected 0, 1 or an empty cell"),
        ],
    )
    def test_a_contradiction_is_refused(self, columns: dict[str, Any], says: str, tmp_path: Path):
        """In a table of predictions, a manifest and a file of grades alike."""
        photographs = [tmp_path / f"{name}.png" for name in "ab"]
        for seed, path in enumerate(photographs):
            photograph(path, seed)
        table = pd.DataFrame({"image": [path.name for path in photographs], **columns})
        table.to_csv(tmp_path / "labels.csv", index=False)
        with pytest.raises(ManifestError, match=says):
            load_manifest(tmp_path)
        sealed = predictions(table[["image"]].assign(p_referable=0.7))
        with pytest.raises(PredictionsError, match=says):
            join_grades(sealed, tmp_path / "labels.csv")
        table.assign(p_referable=0.7).to_csv(tmp_path / "p.csv", index=False)
        with pytest.raises(PredictionsError, match=says):
            load_predictions(tmp_path / "p.csv")

    def test_beside_grades_it_adds_nothing(self):
        """Consistent with the grade and the oedema it is left out, so that both tables are one look."""
        table = rows(20, dme=[0, 1] * 20)
        both = table.assign(referable=((table["grade"] >= 2) | (table["dme"] == 1)).astype(int))
        assert predictions(both).digest == predictions(table).digest

    def test_a_manifest_of_it_is_a_graded_one(self, tmp_path: Path):
        """It is no sealed test set, is split by it, and shows where equal files contradict each other."""
        for i in range(40):
            photograph(tmp_path / f"{i}.png", 0 if i in (0, 1) else i)
        labels = {"image": [f"{i}.png" for i in range(40)], "referable": [i % 2 for i in range(40)]}
        table = pd.DataFrame(labels | {"patient": range(40)})
        table.to_csv(tmp_path / "labels.csv", index=False)
        manifest = load_manifest(tmp_path)
        assert not manifest.sealed
        dealt = split_by_patient(manifest, shares=(0.5, 0.25, 0.25)).table
        assert dealt.groupby("split")["referable"].mean().tolist() == [0.5, 0.5, 0.5]
        assert manifest.contradictions() == [
            "0.png and 1.png are the same file, but referable and not referable, of 2 patients."
        ]
        table.drop(columns="referable").to_csv(tmp_path / "labels.csv", index=False)
        assert load_manifest(tmp_path).sealed

    def test_grades_of_their_own_file(self, tmp_path: Path):
        """A sealed table gets them from --grades; the table's own oedema must agree, and an answer is no grade."""
        table = rows(10, dme=0)
        sealed = predictions(table.drop(columns="grade"))
        only_referable(table)[["image", "referable"]].to_csv(tmp_path / "g.csv", index=False)
        joined = join_grades(sealed, tmp_path / "g.csv")
        assert joined.digest == predictions(only_referable(table)).digest
        with pytest.raises(PredictionsError, match="has grades already"):
            join_grades(joined, tmp_path / "g.csv")
        with pytest.raises(PredictionsError, match="has referable 0, but dme 1"):
            join_grades(predictions(table.drop(columns="grade").assign(dme=1)), tmp_path / "g.csv")
        only_referable(table)[["image", "referable", "p_referable"]].to_csv(tmp_path / "g.csv", index=False)
        with pytest.raises(PredictionsError, match="has the column p_referable, which only predictions may have"):
            join_grades(sealed, tmp_path / "g.csv")
        short = only_referable(table)[["image", "referable"]].astype({"referable": "Int64"})
        short.loc[4, "referable"] = pd.NA
        short.to_csv(tmp_path / "g.csv", index=False)
        with pytest.raises(PredictionsError, match="has no referable; give 0 or 1, or set gradable to false"):
            join_grades(sealed, tmp_path / "g.csv")


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Small tables of both eyes with every kind of answer, no output and oedema among them."""
    n = 2 * draw(st.integers(3, 12))
    grade = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    refers = draw(st.lists(st.sampled_from([0, 1, None]), min_size=n, max_size=n))
    dme = draw(st.none() | st.lists(st.integers(0, 1), min_size=n, max_size=n))
    found = {
        "image": [f"{i:03d}.png" for i in range(n)],
        "patient": [f"P{i // 2}" for i in range(n)],
        "eye": ["L", "R"] * (n // 2),
        "grade": grade,
        "predicted_referable": pd.array(refers, dtype="Int8"),
    }
    return pd.DataFrame(found | ({} if dme is None else {"dme": dme}))


class TestCountedByHand:
    @settings(max_examples=60, deadline=None)
    @given(tables(), st.sampled_from(["image", "patient"]), st.booleans())
    def test_two_by_two(self, table: pd.DataFrame, unit: str, graded: bool):
        """Sensitivity, specificity and predictive values of whether to refer, no output referred; worst eye counts."""
        dme = table.get("dme", pd.Series(0, table.index))
        truth = ((table["grade"] >= 2) | (dme == 1)).to_numpy()
        given = table["predicted_referable"].to_numpy(dtype=float, na_value=2)
        if unit == "patient":
            truth, given = (values.reshape(-1, 2).max(axis=1) for values in (truth, given))
        if not graded:
            table = table.assign(referable=((table["grade"] >= 2) | (dme == 1)).astype(int)).drop(columns="grade")
        found = evaluate(predictions(table), checklist_of({"id": "no_output", "at_most": 0.1}, unit=unit))
        referred, silent = given >= 1, given == 2
        for name, inside, hit in (
            ("sensitivity:referable", truth, referred),
            ("specificity:referable", ~truth, ~referred),
            ("ppv:referable", referred, truth),
            ("npv:referable", ~referred, ~truth),
            ("missed:referable", truth, ~referred),
            ("no_output", truth | ~truth, silent),
        ):
            metric = found.metrics[name]  # type: ignore[index]
            if inside.any():
                assert counted(found, name) == ((inside & hit).sum(), inside.sum()), name
            else:
                assert isinstance(metric, NotEstimable)
                assert "refer." not in metric.reason, "what is missing is a case, not a grade"
        rows_of = table["referable"] * 2 if not graded else table["grade"]
        rows_of = rows_of.to_numpy().reshape(-1, 2).max(axis=1) if unit == "patient" else rows_of.to_numpy()
        each = [[int(((rows_of == row) & (given == answer)).sum()) for answer in (0, 1)] for row in range(5)]
        assert found.confusion_matrix == tuple(map(tuple, each if graded else [each[0], each[2]]))
        assert sum(found.no_output) == silent.sum()
        if graded:
            severe = table["grade"].to_numpy() >= 3
            own = table["predicted_referable"].to_numpy(dtype=float, na_value=2) == 0
            if unit == "patient":
                severe, own = (values.reshape(-1, 2).any(axis=1) for values in (severe, own & severe))
            below = "undergraded:vision_threatening_below_referable"
            assert not severe.any() or counted(found, below) == ((severe & own).sum(), severe.sum())

    @pytest.mark.parametrize("graded", [True, False])
    def test_probabilities_as_scikit_learn_has_them(self, graded: bool):
        """AUC and Brier score of referable DR; by patient the larger probability of the two eyes."""
        table = rows(200, missed=0.2)
        truth, p = (table["grade"] >= 2).to_numpy(), table["p_referable"].to_numpy()
        table = table if graded else only_referable(table)
        found = evaluate(predictions(table), REFERRAL)
        auc, brier = (found.metrics[name] for name in ("auc:referable", "brier:referable"))  # type: ignore[index]
        assert auc.value == pytest.approx(sk.roc_auc_score(truth, p))
        assert brier.value == pytest.approx(sk.brier_score_loss(truth, p))
        assert set(found.reliability) == {"referable"}
        worst = [values.reshape(-1, 2).max(axis=1) for values in (truth, p)]
        by_patient = found.units["patient"]["auc:referable"]
        assert by_patient.value == pytest.approx(sk.roc_auc_score(*worst))

    @pytest.mark.parametrize("unit", ["image", "eye", "patient"])
    def test_a_model_of_grades_that_refers_the_same_has_the_same_figures(self, unit: str):
        """Estimates and limits of whether to refer, at the deployment mix and in slices too, do not know the grades."""
        mix = {"no_dr": 0.7, "mild_npdr": 0.1, "moderate_npdr": 0.1, "severe_npdr": 0.05, "pdr": 0.05}
        checklist = checklist_of(
            {"id": "sensitivity:referable", "above": 0.5},
            deployment=mix,
            slices=[{"by": "camera"}],
            site_column="camera",
            unit=unit,
        )
        table = rows(100, missed=0.2, camera=["A"] * 100 + ["B"] * 100)
        refers = (table["p_referable"] >= 0.5).to_numpy()
        table = table.drop(columns="p_referable")
        rng = np.random.default_rng(4)
        predicted = np.where(refers, rng.integers(2, 5, len(table)), rng.integers(0, 2, len(table)))
        one = evaluate(predictions(table.assign(predicted=predicted)), checklist)
        two = evaluate(predictions(table.assign(predicted_referable=refers)), checklist)
        alike = [name for name in one.metrics if name.target == "referable" and not name.about.from_probabilities]
        alike.append(MetricId("undergraded", BELOW_REFERABLE))
        assert {name.whole for name in alike} >= {"sensitivity:referable", "youden:referable", "ppv:referable"}
        assert any(name.deployed for name in alike)
        assert any(name.column for name in alike)
        for name in alike:
            first, second = one.metrics[name], two.metrics[name]
            assert (first.k, first.n) == (second.k, second.n), name
            for end in ("value", "low", "high"):
                assert getattr(first, end) == pytest.approx(getattr(second, end)), name
        assert one.by_prevalence["referable"] == two.by_prevalence["referable"]
        benefits = [[at.model.value for at in found.net_benefit.at] for found in (one, two)]  # type: ignore[union-attr]
        assert benefits[0] == pytest.approx(benefits[1])
        assert set(two.by_prevalence) == {"referable"}
        assert two.sites is not None
        assert two.sites.spread["accuracy"] == NotEstimable(MODEL_SAYS)  # type: ignore[index]


class TestWhatIsNotThere:
    def expected(self, name: Any, *, model: bool, reference: bool) -> str:
        """The reason by hand: what each metric needs, as a clinician would say."""
        whether_to_refer = name.target == "referable" and name.metric != "no_output"
        needs_model = not whether_to_refer and name.metric not in (
            "no_output",
            "reference_ungradable",
            "stability",
            "cost",
        )
        needs_reference = needs_model or name.deployed or (name.metric == "no_output" and bool(name.target))
        if name.target == "vision_threatening_below_referable":
            needs_model = False
        lacking = [
            *(["the model answers"] if needs_model and model else []),
            *(["the reference says"] if needs_reference and reference else []),
        ]
        return f"{' and '.join(lacking)} only whether to refer." if lacking else ""

    @pytest.mark.parametrize(("model", "reference"), [(True, False), (False, True), (True, True)])
    def test_every_metric_says_so(self, model: bool, reference: bool):
        """Of each metric of the catalogue: a figure, or the reason why there is none."""
        mix = {"no_dr": 0.7, "mild_npdr": 0.1, "moderate_npdr": 0.1, "severe_npdr": 0.05, "pdr": 0.05}
        table = rows(100, missed=0.2)
        if not model:
            p = table["p_referable"]
            five = {"p_0": 0.6 * (1 - p), "p_1": 0.4 * (1 - p), "p_2": 0.7 * p, "p_3": 0.2 * p, "p_4": 0.1 * p}
            table = table.drop(columns="p_referable").assign(**five)
        table = only_referable(table) if reference else table
        checklist = checklist_of({"id": "accuracy", "above": 0.5}, deployment=mix)
        found = evaluate(predictions(table), checklist, baseline=predictions(table))
        reasons = {name: self.expected(name, model=model, reference=reference) for name in found.metrics}
        assert sum(map(bool, reasons.values())) > 50
        for name, reason in reasons.items():
            metric = found.metrics[name]
            if reason:
                assert metric == NotEstimable(reason), name
            elif name.metric not in ("stability", "cost"):
                assert isinstance(metric, Estimate), (name, metric)
        assert found.criteria[0].status == "NOT_ASSESSED"
        assert found.criteria[0].reason == f"Not assessed: {reasons[found.criteria[0].id]}"
        assert (found.verdict, found.gate_error[0].why) == (
            "INSUFFICIENT",
            f"No model can pass: {reasons[found.criteria[0].id]}",
        )
        assert set(found.three_ways) <= {name for name, reason in reasons.items() if not reason}

    def test_groups_and_readers_and_baselines(self):
        """Gaps and comparisons of whether to refer are judged; those of a grade are not, whoever lacks it."""
        table = rows(400, missed=0.05, sex=["f"] * 400 + ["m"] * 400, reader_1=0)
        table["reader_1"] = table["grade"]
        names = ("gap:sensitivity:{}@sex", "noninferior:sensitivity:{}~baseline", "noninferior:specificity:{}~readers")
        limits: list[dict[str, Any]] = [{"at_most": 0.3}, {"margin": 0.3}, {"margin": 0.3}]
        criteria = [
            {"id": name.format(target), **limit}
            for target in ("referable", "pdr")
            for name, limit in zip(names, limits, strict=True)
        ]
        for target in ("referable", "pdr"):
            criteria += [{"id": f"{rate}:{target}", "at_least": 0.5} for rate in ("sensitivity", "specificity")]
            criteria += [{"id": f"noninferior:sensitivity:{target}~readers", "margin": 0.3}]
        checklist = checklist_of(*criteria, slices=[{"by": "sex"}], readers_independent=True)
        data = TestSet("t", readers=("reader_1",))
        graded = table.drop(columns="p_referable").assign(predicted=table["grade"])
        found = evaluate(predictions(table), checklist, data=data, baseline=predictions(graded))
        assert [c.status for c in found.criteria[:6]] == ["PASS"] * 3 + ["NOT_ASSESSED"] * 3
        assert {c.reason for c in found.criteria[3:6]} == {f"Not assessed: {MODEL_SAYS}"}
        found = evaluate(predictions(graded), checklist, data=data, baseline=predictions(table))
        assert found.criteria[4].reason == "Not assessed: the baseline answers only whether to refer."
        only = evaluate(predictions(only_referable(table)), checklist, data=data, baseline=predictions(graded))
        assert only.criteria[1].reason == (
            "Not assessed: the baseline has another kind of reference (grades in one table, referable in the other); "
            "give both the same."
        )


class TestVerdict:
    def test_screening_referable_can_pass(self):
        """With a reference of five grades, whose severe eyes are counted; page one says what is not shown."""
        found = evaluate(predictions(rows(600, missed=0.01)), SCREENING)
        assert (found.verdict, found.exit_code) == ("PASS", 0)
        assert found.page_one[0].startswith("No audit was made")
        assert found.page_one[1] == "The model answers only whether to refer. Nothing is shown about single grades."

    def test_medical_grade_cannot(self):
        """Its required criteria are on single grades."""
        found = evaluate(predictions(rows(600, missed=0)), load_checklist("medical-grade"))
        assert (found.verdict, found.exit_code) == ("INSUFFICIENT", 3)
        assert {c.status for c in found.criteria if c.required} == {"NOT_ASSESSED"}

    def test_a_reference_that_says_only_whether_to_refer(self):
        """A checklist about that passes; the safety of severe eyes is not assessed: screening-referable is not met."""
        table = predictions(only_referable(rows(600, missed=0.01)))
        assert evaluate(table, REFERRAL).verdict == "PASS"
        found = evaluate(table, SCREENING)
        assert found.verdict == "INSUFFICIENT"
        lacking = {c.id: c.reason for c in found.criteria if c.status != "PASS" and c.id.metric != "audit"}
        assert set(lacking) == {
            "undergraded:vision_threatening_below_referable",
            "no_output:severe_npdr",
            "no_output:pdr",
        }
        assert set(lacking.values()) == {f"Not assessed: {REFERENCE_SAYS}"}
        assert any("how many with severe NPDR or PDR are missed is not known" in line for line in found.page_one)

    def test_an_ungradable_image_is_outside_every_count(self):
        """Empty in the column referable, and marked."""
        table = only_referable(rows(100)).astype({"referable": "Int64"}).assign(gradable=True)
        table.loc[[0, 1], ["referable", "gradable"]] = [pd.NA, False]
        found = evaluate(predictions(table), REFERRAL)
        assert counted(found, "reference_ungradable") == (2, 200)
        assert (found.counts.images, sum(found.counts.by_grade)) == (198, 198)
        with pytest.raises(PredictionsError, match="2 of 200 images have no reference grade"):
            evaluate(predictions(table.assign(gradable=True)), REFERRAL)

    def test_what_contradicts_its_scale_is_no_evaluation(self):
        """A stored matrix of five columns cannot be of a model that says only whether to refer."""
        found = evaluate(predictions(rows(20)), REFERRAL)
        assert Evaluation.from_json(found.to_json()) == found
        for change, says in (
            ({"answer_scale": "grades"}, "its confusion matrix is not of what its model tells apart"),
            ({"reference_scale": "referable"}, "its counts are not of what its reference tells apart"),
        ):
            plain = found.to_json()
            plain["counts"] |= change
            with pytest.raises(DrgateError, match=says):
                Evaluation.from_json(plain)


class TestReports:
    @pytest.fixture
    def found(self) -> Evaluation:
        table = rows(200, missed=0.04, camera=["A"] * 200 + ["B"] * 200)
        table.loc[7, "p_referable"] = None
        checklist = checklist_of({"id": "sensitivity:referable", "above": 0.5}, slices=[{"by": "camera"}])
        return evaluate(predictions(table), checklist)

    def test_the_table_is_what_the_model_answers(self, found: Evaluation):
        """Two columns and five rows, no five by five that pretends; severe eyes that it did not refer are named."""
        text = markdown.render(found)
        assert "| Reference | Not referred | Referred | No output | All |" in text
        (row,) = [line for line in text.splitlines() if line.startswith("| PDR | ") and "estimable" not in line][:1]
        cells = [*found.confusion_matrix[4], found.no_output[4]]
        assert row == f"| PDR | {' | '.join(map(str, [*cells, sum(cells)]))} |"
        assert "PDR not referred" in text
        page = html.render(found)
        assert page.count('<th scope="col" class="number">Not referred</th>') == 1
        assert 'aria-label="predicted below referable:"' in page

    def test_a_reference_of_two(self):
        """Two rows, in the table, the counts and the slices."""
        table = only_referable(rows(100, camera=["A"] * 100 + ["B"] * 100))
        cameras = {"slices": [{"by": "camera"}], "site_column": "camera"}
        found = evaluate(predictions(table), checklist_of({"id": "sensitivity:referable", "above": 0.5}, **cameras))
        assert Evaluation.from_json(found.to_json()) == found
        text = markdown.render(found)
        assert f"Reference grades: Not referable {found.counts.by_grade[0]}, Referable" in text
        assert "Images, from Not referable to Referable" in text
        assert "| Not referable | " in text
        assert html.render(found)

    def test_terminal_and_junit_say_what_is_not_assessed(self):
        """In the reasons, and as a failure of the suite."""
        found = evaluate(predictions(rows(100)), load_checklist("medical-grade"))
        shown = io.StringIO()
        terminal.render(found, Console(file=shown, width=120))
        assert "Overall accuracy: not assessed. The model answers only whether to refer." in shown.getvalue()
        case = next(one for one in ET.fromstring(junit.render(found)).iter("testcase") if one.get("name") == "accuracy")
        failure = case.find("failure")
        assert failure is not None
        assert failure.get("type") == "NOT_ASSESSED"
        assert MODEL_SAYS[1:] in str(failure.get("message"))


class Referrer:
    """A grader that says of each photograph how probable it is that it should be referred."""

    def __init__(self, path: Path, answers: dict[float, float]) -> None:
        import hashlib

        data = path.read_bytes()
        self.files = (Subject(path.name, hashlib.sha256(data).hexdigest(), len(data), "model"),)
        self.preprocessing = parse_preprocessing("siglip@32")
        self.tensor_digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.description = {"kind": "onnx"}
        self.providers = ["cpu"]
        self.precision = None
        self.record = self.fingerprint = None
        self.unknown_data = ""
        self.notes: list[str] = []
        self.answer = Answer("referable_probability", classes=())
        self._answers = answers

    def outputs(self, batch: Any) -> Any:
        return np.clip(batch.reshape(len(batch), -1).mean(axis=1, keepdims=True) + 0.5, 0, 1).astype(np.float32)


class TestScored:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        """Bright photographs are to be referred, dark ones are not."""
        from PIL import Image

        folder = tmp_path / "data"
        folder.mkdir()
        for i in range(300):
            rng = np.random.default_rng(i)
            pixels = rng.integers(150, 250, (40, 40, 3)) if i % 2 else rng.integers(0, 90, (40, 40, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        names = {"image": [f"{i}.png" for i in range(300)], "patient": [f"P{7 * i + 1}" for i in range(300)]}
        labels = names | {"grade": [0, 3, 1, 4] * 75}
        pd.DataFrame(labels).to_csv(folder / "labels.csv", index=False)
        return folder

    def test_a_model_passes_and_its_certificate_is_recomputed(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """From the photographs to a signed certificate, whose numbers follow from the published table."""
        from drgate.vision import graders

        monkeypatch.chdir(tmp_path)
        path = tmp_path / "model.onnx"
        path.write_bytes(b"weights")
        monkeypatch.setattr(graders, "load_grader", lambda *_, **__: Referrer(path, {}))
        key = load_private_key(generate_key(tmp_path / "k", None)[0])
        found = judged(path, checklist=SCREENING, data=data, workers=0, key=key, out=tmp_path / "out").evaluation
        assert (found.verdict, found.model.output) == ("PASS", "referable_probability")
        assert found.confusion_matrix == ((75, 0), (75, 0), (0, 0), (0, 75), (0, 75))
        again = verified(tmp_path / "out" / "certificate.json", trusted=[key.public], models=[path])
        assert (again.exit_code, again.problems) == (0, ())
        assert "The evaluation was recomputed from the predictions and came out the same." in again.checked

    def test_the_signature_of_a_table_covers_the_answers(self, data: Path, tmp_path: Path):
        """The published table with grades is the signed one; another probability, or an answer without one, is not."""
        path = tmp_path / "model.onnx"
        path.write_bytes(b"weights")
        scored = score(Referrer(path, {}), load_manifest(data), workers=0)
        key = load_private_key(generate_key(tmp_path / "k", None)[0])
        signed = sign_scored(scored, key, "2026-01-31T09:00:00Z")
        public = published(scored, REFERRAL)
        assert list(signed.contradictions(public)) == []
        assert answers_digest(public.table) == answers_digest(scored.table)
        other = make_predictions(public.table.assign(p_referable=0.9, predicted_referable=1), "x", public.provenance)
        assert list(signed.contradictions(other)) == ["holds other images or answers"]
        bare = public.table.assign(p_referable=np.where(public.table.index == 0, np.nan, public.table["p_referable"]))
        found = list(signed.contradictions(make_predictions(bare, "x", public.provenance)))
        assert "has a predicted grade where the model gave no answer" in found

    def test_verify_needs_the_same_answers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """Of a table with a baseline: recomputed; with one answer changed it is another table."""
        monkeypatch.chdir(tmp_path)
        table = rows(200)
        table.to_csv("a.csv", index=False)
        rows(200, missed=0.1, seed=1).to_csv("b.csv", index=False)
        checklist = checklist_of(
            {"id": "sensitivity:referable", "above": 0.5},
            {"id": "noninferior:sensitivity:referable~baseline", "margin": 0.1},
        )
        found = judged(Path("a.csv"), checklist=checklist, baseline=Path("b.csv"), out=Path("out")).evaluation
        assert found.verdict == "PASS"
        again = verified(Path("out/statement.json"), baseline=Path("b.csv"))
        assert again.problems == ()
        assert any("was recomputed" in line for line in again.checked)


class TestCompare:
    def test_two_of_them(self):
        """The outcome rests on the share that is right on whether to refer, counted by hand; grades say why not."""
        tables = [rows(400, missed=missed, seed=1) for missed in (0.02, 0.12)]
        tables[0].loc[:1, "p_referable"] = None
        truth = tables[0]["grade"] >= 2
        right = [((one["p_referable"] >= 0.5) == truth) & one["p_referable"].notna() for one in tables]
        found = compare(*map(predictions, tables), margin=0.02)
        assert (found.rests_on, found.outcome, found.shown) == ("accuracy:referable", "non-inferior", "more accurate")
        assert found.accuracy.value == pytest.approx(right[0].mean() - right[1].mean())
        assert (found.accuracy.only_first, found.accuracy.only_second) == (
            (right[0] & ~right[1]).sum(),
            (right[1] & ~right[0]).sum(),
        )
        assert found.differences["accuracy"] == NotEstimable("model A answers only whether to refer.")
        sensitivity = found.differences["sensitivity:referable"]
        silent = tables[0]["p_referable"].isna()
        assert sensitivity.first == pytest.approx((right[0] | silent)[truth].mean())  # type: ignore[union-attr]
        aucs = [sk.roc_auc_score(truth[~silent], one["p_referable"][~silent]) for one in tables]
        auc = found.differences["auc:referable"]
        assert auc.value == pytest.approx(aucs[0] - aucs[1])  # type: ignore[union-attr]
        assert {type(row["first"]) for row in found.discordant} == {bool, type(None)}
        assert [row["grade"] for row in found.discordant] == tables[0]["grade"][right[0] != right[1]].tolist()
        text = compare_report.markdown(found)
        assert "and more often right on whether to refer by" in text
        assert "Right on whether to refer" in text
        assert "23 other quantities: model A answers only whether to refer." in text
        assert "Sensitivity, PDR" not in text
        assert "Model A answers only whether to refer. The outcome rests on" in text

    def test_beside_a_model_of_grades_and_with_oedema(self):
        """What both answer is compared; macular oedema is to be referred whatever the grade."""
        table = rows(200, dme=[0, 0, 0, 1] * 100)
        graded = table.drop(columns="p_referable").assign(predicted=1)
        found = compare(predictions(table), predictions(graded))
        truth = (table["grade"] >= 2) | (table["dme"] == 1)
        assert found.accuracy.second == pytest.approx((~truth).mean())
        assert found.differences["sensitivity:pdr"] == NotEstimable("model A answers only whether to refer.")
        turned = compare(predictions(graded), predictions(table))
        assert turned.differences["sensitivity:pdr"] == NotEstimable("model B answers only whether to refer.")
        with pytest.raises(PredictionsError, match="has another kind of reference"):
            compare(predictions(table.drop(columns="dme")), predictions(only_referable(graded.drop(columns="dme"))))

    def test_a_reference_of_two_for_models_of_grades(self):
        """The reference is the reason."""
        table = only_referable(rows(100).drop(columns="p_referable"))
        tables = [predictions(table.assign(predicted=grade)) for grade in (1, 3)]
        found = compare(*tables)
        assert found.rests_on == "accuracy:referable"
        assert found.accuracy.first == pytest.approx((table["referable"] == 0).mean())
        assert {row["grade"] for row in found.discordant} == {True, False}
        assert found.differences["quadratic_kappa"] == NotEstimable(REFERENCE_SAYS)


class TestPlan:
    def test_a_test_set_that_says_only_whether_to_refer(self, tmp_path: Path):
        """What can be planned is; what no model can pass here is named, and why, before a look is spent."""
        only_referable(rows(300)).drop(columns="p_referable").to_csv(tmp_path / "l.csv", index=False)
        found = plan(SCREENING, data=load_planned(tmp_path / "l.csv"))
        assert set(found.never) == {
            "undergraded:vision_threatening_below_referable",
            "no_output:severe_npdr",
            "no_output:pdr",
        }
        assert found.exit_code == 1
        why = {line.id: line.here.why for line in found.lines if line.here is not None and not line.here.can_pass}
        assert set(why.values()) == {REFERENCE_SAYS.removesuffix(".")}
        assert sum(found.data["by_grade"]) == 300
        assert len(found.data["by_grade"]) == 2
        assert plan(REFERRAL, data=load_planned(tmp_path / "l.csv")).exit_code == 0
        gaps = checklist_of({"id": "gap:accuracy@eye", "at_most": 0.5}, slices=[{"by": "eye"}])
        assert plan(gaps, data=load_planned(tmp_path / "l.csv")).never == ("gap:accuracy@eye",)
        kappa = checklist_of({"id": "quadratic_kappa", "above": 0.5})
        assert plan(kappa, data=load_planned(tmp_path / "l.csv")).never == ("quadratic_kappa",)


class TestElsewhere:
    def test_a_model_is_not_trained_on_it(self, tmp_path: Path):
        """Training needs grades."""
        from drgate.errors import TrainingError
        from trainer.data import load_splits

        photograph(tmp_path / "a.png", 1)
        pd.DataFrame({"image": ["a.png"], "referable": [1]}).to_csv(tmp_path / "labels.csv", index=False)
        with pytest.raises(TrainingError, match="has no grades, so a model cannot be trained on it"):
            load_splits(str(tmp_path), seed=1)

    def test_cut_offs_of_grades_are_not_tuned(self, tmp_path: Path):
        """Neither for a model without grades nor for criteria on grades that the reference does not give."""
        log = Log(tmp_path / "looks.jsonl")
        grades = checklist_of({"id": "sensitivity:pdr", "at_least": 0.5})
        refused = tune(predictions(rows(50)), grades, log=log)
        assert isinstance(refused, Infeasible)
        assert "the model answers only whether to refer" in refused.reason
        p = rows(50)["p_referable"]
        five = {"p_0": 1 - p, "p_1": 0, "p_2": p, "p_3": 0, "p_4": 0}
        table = only_referable(rows(50)).drop(columns="p_referable").assign(**five)
        found = tune(predictions(table), grades, log=log)
        assert isinstance(found, Infeasible)
        assert found.reason == f"sensitivity:pdr cannot be tuned with this tuning table: {REFERENCE_SAYS}"


class TestLooks:
    def test_the_same_answers_are_one_look(self, tmp_path: Path):
        """Whether they come as a probability or as a decision; another decision is another look."""
        log = Log(tmp_path / "looks.jsonl", "2026-01-31T09:00:00Z")
        table = rows(20)
        decided = table.assign(predicted_referable=(table["p_referable"] >= 0.5).astype(int))

        def number(of: pd.DataFrame) -> int:
            return log.look(predictions(of), "t", REFERRAL, model=None)[0].number

        assert number(table) == number(decided) == number(decided.drop(columns="p_referable")) == 1
        other = decided.drop(columns="p_referable").assign(predicted_referable=0)
        assert number(other) == 2

    def test_a_reference_that_changed_is_named(self, tmp_path: Path):
        """And whom it favours: an error that is none any more, of a model of grades too."""
        log = Log(tmp_path / "looks.jsonl", "2026-01-31T09:00:00Z")
        table = only_referable(rows(20)).drop(columns="p_referable").assign(predicted=1)
        first = table.assign(referable=[1] * 3 + [0] * 37)
        log.look(predictions(first), "t", REFERRAL, model=None)
        look, _ = log.look(predictions(table.assign(referable=[0] * 2 + [1] + [0] * 37)), "t", REFERRAL, model=None)
        assert (look.number, look.regraded_count) == (2, 2)
        assert {(one.before, one.to) for one in look.regraded} == {("referable", "not referable")}
        assert [(one.changed, one.favouring) for one in look.favouring] == [(2, 2)]


class TestDryRun:
    """What is said before a look, of a reference or a model that tells only whether to refer."""

    def found(self, table: pd.DataFrame, folder: Path, checklist: Checklist) -> DryRun:
        table.to_csv(folder / "table.csv", index=False)
        problems = Problems()
        found = dry_run(
            Source(folder / "table.csv"),
            checklist,
            test=Test(looks=folder / "looks.jsonl"),
            evidence=Evidence(),
            output=Output(folder / "report"),
            problems=problems,
        )
        assert found is not None, problems.found
        return found

    def test_the_reference_is_counted_as_it_is(self, tmp_path: Path):
        """Two counts, all images with a reference, and nothing is missing that a model with grades could show."""
        graded = rows(60)
        table = only_referable(graded).drop(columns="p_referable").assign(predicted=graded["grade"])
        found = self.found(table, tmp_path, REFERRAL)
        many = int((graded["grade"] >= 2).sum())
        assert found.reference == {"not_referable": 120 - many, "referable": many}
        assert (found.images, found.graded, found.not_assessed) == (120, 120, ())
        shown = dict(lines(found))
        assert shown["Reference"] == f"Not referable {120 - many}, Referable {many}"
        assert shown["Images"] == "120, of which 120 have a reference"

    def test_decisions_are_not_called_probabilities(self, tmp_path: Path):
        """A table with predicted_referable alone has none."""
        table = rows(60).assign(predicted_referable=1).drop(columns="p_referable")
        found = self.found(table, tmp_path, REFERRAL)
        assert found.scale == "referable or not, without probabilities"
        assert dict(lines(found))["Answers"].startswith("referable or not, without probabilities; Not referable 0, ")
        assert [*tmp_path.iterdir()] == [tmp_path / "table.csv"]
