"""Answers that are no probabilities of grades: a severity, cumulative logits, one-hot. Cut-offs give the grades."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from drgate.answers import Answer
from drgate.checklist import Checklist, parse_checklist
from drgate.compare import compare
from drgate.errors import CheckpointError, PredictionsError, UsageError
from drgate.evaluate import evaluate
from drgate.evaluation import Estimate, NotEstimable
from drgate.looks import Log
from drgate.operating_point import OperatingPoint, make_operating_point, parse_operating_point, write_operating_point
from drgate.predictions import (
    Predictions,
    answers_digest,
    load_predictions,
    make_predictions,
    published,
    reference_digests,
    write_predictions,
)
from drgate.scale import GROUPS, On
from drgate.stats import proportion
from drgate.tune import Infeasible, tune
from tests.support.material import Ended

FIVE = [
    {"id": "sensitivity:pdr", "at_least": 0.7},
    {"id": "sensitivity:severe_npdr", "at_least": 0.6},
    {"id": "accuracy", "at_least": 0.6},
    {"id": "undergraded:vision_threatening_below_referable", "at_most": 0.08},
    {"id": "specificity:referable", "above": 0.7},
]
REFERABLE = [
    {"id": "sensitivity:referable", "at_least": 0.85},
    {"id": "specificity:referable", "above": 0.7},
]
CUTS = (-0.4, 1.5, 2.25, 30.0)

floats = st.floats(-1e6, 1e6, allow_nan=False)


def checklist_of(criteria: list[dict[str, Any]], **content: Any) -> Checklist:
    return parse_checklist({"name": "s", "version": 1, "criteria": criteria} | content, "s.yaml")


def rows(seed: int, patients: int, *, images: int = 1, noise: float = 0.35, step: float = 0.0) -> pd.DataFrame:
    """Graded images with a severity on a scale of the model's own: ten times the grade, minus 7, and noise."""
    rng = np.random.default_rng(seed)
    grade = np.repeat(rng.choice(5, patients, p=(0.35, 0.15, 0.2, 0.15, 0.15)), images)
    seen = grade + rng.normal(0, noise, patients * images)
    if step:
        seen = np.rint(seen / step) * step
    return pd.DataFrame(
        {
            "image": [f"{seed}-{i:05d}.png" for i in range(len(grade))],
            "patient": [f"{seed}-{i // images}" for i in range(len(grade))],
            "grade": grade,
            "severity": 10 * seen - 7,
        }
    )


def regression(seed: int, patients: int, **how: Any) -> Predictions:
    return make_predictions(rows(seed, patients, **how), f"{seed}.csv", {})


def refers(seed: int, patients: int, **how: Any) -> Predictions:
    """A model that says only whether to refer, as the sigmoid of the severity above moderate NPDR."""
    table = rows(seed, patients, **{"noise": 0.6, **how})
    p = 1 / (1 + np.exp(-(table.pop("severity") - 5) / 5))
    return make_predictions(table.assign(p_referable=p), f"{seed}.csv", {})


def point_of(cut_offs: tuple[float, ...], on: On = "severity", tuned_on: Predictions | None = None) -> OperatingPoint:
    table = regression(999, 5) if tuned_on is None else tuned_on
    return make_operating_point(cut_offs, on=on, checklist={}, tuned_on=table, promise={})


def by_hand(severity: float, cut_offs: tuple[float, ...]) -> int:
    """The number of cut-offs that a severity reaches; -1 without one."""
    return -1 if np.isnan(severity) else sum(severity >= cut for cut in cut_offs)


class TestSeverity:
    """A table with a column severity."""

    @given(st.lists(st.one_of(floats, st.none()), min_size=1, max_size=30), st.lists(floats, min_size=4, max_size=4))
    def test_grades_are_the_cut_offs_that_are_reached(self, severities: list[float | None], cuts: list[float]):
        """Whatever the scale: one image at a time, by hand; without a severity there is no output."""
        cut_offs = tuple(sorted(cuts))
        table = pd.DataFrame({"image": [f"{i:02}" for i in range(len(severities))], "severity": severities, "grade": 0})
        graded = make_predictions(table, "s.csv", {}).at(point_of(cut_offs)).table["predicted"]
        expected = [by_hand(np.nan if one is None else one, cut_offs) for one in severities]
        assert graded.fillna(-1).tolist() == expected

    def test_no_output_is_not_no_grade_yet(self):
        """An empty cell is an image without output; the others have an answer before there are cut-offs."""
        table = rows(1, 30)
        table.loc[:3, "severity"] = np.nan
        bare = make_predictions(table, "s.csv", {})
        assert (int(bare.answered.sum()), int(bare.table["predicted"].notna().sum())) == (26, 0)
        graded = bare.at(point_of(CUTS))
        assert int(graded.table["predicted"].notna().sum()) == 26
        assert evaluate(graded, checklist_of(FIVE)).no_output == tuple(
            int((table["grade"][:4] == grade).sum()) for grade in range(5)
        )

    def test_without_cut_offs_it_is_refused_at_once(self, refused: Callable[..., str], write_csv: Any, tmp_path: Path):
        """Before a look, by every command that needs grades, and the sentence says what to do."""
        table = write_csv(rows(1, 30).to_dict("records"))
        said = [refused("evaluate", table, "--spec", "smoke"), refused("compare", table, table)]
        for sentence in said:
            assert "table.csv holds a severity and has no grades without cut-offs." in sentence
            assert "drgate tune TUNING --out FILE" in sentence
            assert "--operating-point FILE" in sentence
        with pytest.raises(PredictionsError, match="no grades without cut-offs"):
            evaluate(load_predictions(table), checklist_of(FIVE))

    def test_cut_offs_of_another_kind_are_refused(self, refused: Callable[..., str], write_csv: Any, tmp_path: Path):
        """Cut-offs on probabilities for a severity, and on a severity for probabilities."""
        table = rows(1, 30)
        shares = pd.DataFrame(np.full((30, 5), 0.2), columns=[f"p_{k}" for k in range(5)])
        paths = (
            write_csv(table.to_dict("records"), "severity.csv"),
            write_csv(pd.concat([table.drop(columns="severity"), shares], axis=1).to_dict("records"), "shares.csv"),
        )
        for path, on, cuts in zip(paths, ("probabilities", "severity"), ((0.5,) * 4, CUTS), strict=True):
            file = tmp_path / f"{on}.json"
            write_operating_point(point_of(cuts, on), file)  # type: ignore[arg-type]
            said = refused("evaluate", path, "--spec", "smoke", "--operating-point", file)
            assert "but the cut-offs of the operating point act on" in said
            assert f"{path.name} answers with {'a severity' if path is paths[0] else 'probabilities of'}" in said

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            ({"predicted": 1}, "there is a predicted grade beside a severity, which gives one by cut-offs alone"),
            ({f"p_{k}": 0.2 for k in range(5)}, "has answers of two kinds, severity beside p_0 to p_4"),
            ({"severity": "high"}, "severity cannot be read; expected a number"),
            ({"severity": float("inf")}, "severity cannot be read; expected a number"),
        ],
    )
    def test_a_table_that_contradicts_itself_is_refused(self, more: dict[str, Any], says: str):
        """Nobody's grades stand beside a severity unseen, and a table has one kind of answer."""
        with pytest.raises(PredictionsError, match=says):
            make_predictions(rows(1, 3).assign(**more), "s.csv", {})

    def test_grades_beside_it_are_those_of_the_cut_offs(self, tmp_path: Path):
        """A table that was written at its cut-offs is read with them; one changed grade, or a missing one, is found."""
        point = point_of(CUTS)
        graded = regression(1, 30).at(point)
        write_predictions(graded, tmp_path / "at.csv")
        assert load_predictions(tmp_path / "at.csv", point).at(point).digest == graded.digest
        with pytest.raises(PredictionsError, match="give them with --operating-point"):
            load_predictions(tmp_path / "at.csv")
        for wrong, shown in ((4, "4"), (None, "empty")):
            plain = pd.read_csv(tmp_path / "at.csv").astype({"predicted": "Int8"})
            at = int((plain["predicted"] == 0).to_numpy().argmax())
            plain.loc[at, "predicted"] = wrong
            plain.to_csv(tmp_path / "changed.csv", index=False)
            with pytest.raises(PredictionsError, match=f"predicted is {shown}, but the operating point gives 0"):
                load_predictions(tmp_path / "changed.csv", point)

    @pytest.mark.parametrize("unit", ["image", "patient"])
    def test_auc_ranks_by_severity(self, unit: str):
        """Groups and the two ends of the scale, as scikit-learn ranks the highest severity of each unit."""
        table = regression(2, 120, images=2, noise=1.0)
        found = evaluate(table.at(point_of(CUTS)), checklist_of(FIVE, unit=unit)).metrics
        units = table.table.groupby("image" if unit == "image" else "patient")[["grade", "severity"]].max()
        grade, severity = units["grade"].to_numpy(dtype=int), units["severity"].to_numpy()
        for target, grades in {**GROUPS, "pdr": (4,), "no_dr": (0,)}.items():
            sign = -1 if target == "no_dr" else 1
            expected = roc_auc_score(np.isin(grade, grades), sign * severity)
            metric = found[f"auc:{target}"]  # type: ignore[index]
            assert isinstance(metric, Estimate)
            assert metric.value == pytest.approx(expected)

    def test_what_needs_probabilities_is_not_assessed(self):
        """Brier, calibration and AUC of a grade inside the scale, each with the reason; page one says it once."""
        found = evaluate(regression(2, 200, noise=1.0).at(point_of(CUTS)), checklist_of(FIVE))
        lacking = {name: metric for name, metric in found.metrics.items() if name.about.from_probabilities}
        reasons = {name for name, metric in lacking.items() if isinstance(metric, NotEstimable)}
        assert {name for name in lacking if name not in reasons} == {
            f"auc:{target}" for target in (*GROUPS, "pdr", "no_dr")
        }
        assert {lacking[name].reason for name in reasons} == {  # type: ignore[union-attr]
            "the model answers with a severity, which is no probability."
        }
        assert found.reliability == {}
        assert (
            "What needs probabilities is not assessed: the model answers with a severity, which is no probability."
            in found.page_one
        )

    def test_a_criterion_on_probabilities_cannot_pass(self):
        """A required Brier score stays NOT_ASSESSED, and so nothing passes."""
        lines = [{"id": "sensitivity:referable", "at_least": 0.5}, {"id": "brier:referable", "at_most": 0.9}]
        found = evaluate(regression(2, 200).at(point_of((-2.0, 8.0, 18.0, 28.0))), checklist_of(lines))
        assert [(one.id, one.status) for one in found.criteria] == [
            ("sensitivity:referable", "PASS"),
            ("brier:referable", "NOT_ASSESSED"),
        ]
        assert found.verdict == "INSUFFICIENT"

    def test_compared_with_a_model_that_gives_probabilities(self, tmp_path: Path):
        """AUC is compared by what each model ranks by; of a grade inside the scale only one has a ranking."""
        table = rows(3, 200, noise=1.0)
        one = make_predictions(table, "one.csv", {}).at(point_of((-2.0, 8.0, 18.0, 28.0)))
        p = 1 / (1 + np.exp(-np.random.default_rng(0).normal(table["grade"] - 2, 1)))
        shares = {"p_0": 1 - p, "p_1": 0.0, "p_2": p, "p_3": 0.0, "p_4": 0.0}
        other = make_predictions(table.drop(columns="severity").assign(**shares), "other.csv", {})
        found = compare(one, other, checklist_of(FIVE, looks=5), log=Log(tmp_path / "looks.jsonl")).differences
        metric, referable = found["auc:referable"], table["grade"] >= 2
        assert not isinstance(metric, NotEstimable)
        assert (metric.first, metric.second) == pytest.approx(
            (roc_auc_score(referable, table["severity"]), roc_auc_score(referable, p))
        )
        assert isinstance(found["auc:severe_npdr"], NotEstimable)

    def test_digests_cover_it(self):
        """What a scorer signs and what is published hold the severity; it is no reference."""
        table = regression(1, 20)
        changed = make_predictions(table.table.assign(severity=table.table["severity"] + 1e-9), "s.csv", {})
        assert answers_digest(table.table) != answers_digest(changed.table)
        assert answers_digest(table.table) == answers_digest(published(table.at(point_of(CUTS))).table)
        assert "severity" not in reference_digests(table.table)
        assert published(table).digest != published(changed).digest

    def test_an_empty_column_is_no_answer(self):
        """A table of grades with an unused column stays one of grades."""
        table = rows(1, 9).assign(severity=None, predicted=0)
        assert make_predictions(table, "s.csv", {}).answers == "grades"
        assert make_predictions(table.drop(columns="predicted"), "s.csv", {}).answers == "severity"


class TestOperatingPoint:
    @pytest.mark.parametrize(
        ("on", "cut_offs", "says"),
        [
            ("severity", [3.0, 2.0, 4.0, 5.0], "four finite numbers of which none is below the one before"),
            ("severity", [1.0, 2.0, 3.0], "four finite numbers"),
            ("severity", [1.0, 2.0, 3.0, "4"], "four finite numbers"),
            ("probabilities", [-1.0, 0.5, 0.5, 0.5], "four numbers above 0 and at most 1"),
            ("probabilities", [0.5], "four numbers above 0 and at most 1"),
            ("referable", [1.5], "one number above 0 and at most 1"),
            ("referable", [0.5, 0.5, 0.5, 0.5], "one number above 0 and at most 1"),
            ("grade", [0.5, 0.5, 0.5, 0.5], "four numbers"),
            ([], [0.5, 0.5, 0.5, 0.5], "four numbers"),
        ],
    )
    def test_cut_offs_that_cannot_be_are_refused(self, on: Any, cut_offs: list[Any], says: str):
        """Whoever wrote the file: the digest fits, the cut-offs do not."""
        from drgate.files import digest_of

        plain = point_of(CUTS).content() | {"on": on, "cut_offs": cut_offs}
        plain["digest"] = digest_of({key: value for key, value in plain.items() if key != "digest"})
        with pytest.raises(UsageError, match=says):
            parse_operating_point(plain, "p.json")

    @pytest.mark.parametrize(
        ("on", "cut_offs"),
        [
            ("severity", CUTS),
            ("severity", (-1e9, -1e9, 0.0, 1e9)),
            ("referable", (0.31,)),
            ("probabilities", (1.0,) * 4),
        ],
    )
    def test_round_trip(self, on: On, cut_offs: tuple[float, ...]):
        """What it acts on is part of the file and of its digest."""
        point = point_of(cut_offs, on)
        assert parse_operating_point(json.loads(json.dumps(point.content())), "p.json") == point
        other = replace(point, on="referable" if on != "referable" else "severity")
        assert other.digest != point.digest


def brute_force(predictions: Predictions) -> tuple[float, float] | None:
    """Mean specificity and accuracy of the best of all cut-offs on a severity for `FIVE`, without a planned power."""
    grade = predictions.table["grade"].to_numpy(dtype=int)
    severity = predictions.table["severity"].to_numpy()
    distinct = np.unique(severity)
    best = None
    for cut_offs in itertools.combinations_with_replacement((distinct[1:] + distinct[:-1]) / 2, 4):
        called = (severity[:, None] >= np.array(cut_offs)).sum(axis=1)
        lines = (
            (called == 4, grade == 4, 0.7),
            (called == 3, grade == 3, 0.6),
            (called == grade, grade >= 0, 0.6),
            (called >= 2, grade >= 3, 0.92),
            (called < 2, grade < 2, 0.7),
        )
        counts = [(int((right & among).sum()), int(among.sum()), floor) for right, among, floor in lines]
        if all(k and proportion.exact_bounds(k, n, level=0.95).low >= floor for k, n, floor in counts):
            rates = [(called != 3)[grade != 3].mean(), (called != 4)[grade != 4].mean(), (called < 2)[grade < 2].mean()]
            reached = (round(float(np.mean(rates)), 9), round(float((called == grade).mean()), 9))
            best = max(best, reached) if best else reached
    return best


class TestTune:
    def test_the_best_of_all_combinations(self):
        """Coarse severities: brute force over every combination finds the same specificity and accuracy."""
        table = regression(0, 700, step=0.5)
        found = tune(table, checklist_of(FIVE, planning={"power": 0.05}))
        best = brute_force(table)
        assert isinstance(found, OperatingPoint)
        assert (found.on, found.promise["search"]["complete"]) == ("severity", True)
        assert list(found.cut_offs) == sorted(found.cut_offs)
        called, grade = found.apply(table.scores()), table.table["grade"].to_numpy(dtype=int)
        rates = [(called != 3)[grade != 3].mean(), (called != 4)[grade != 4].mean(), (called < 2)[grade < 2].mean()]
        assert (np.mean(rates), (called == grade).mean()) == pytest.approx(best, abs=1e-8)

    @pytest.mark.parametrize("criteria", [FIVE, FIVE[-1:], FIVE[:1]])
    @pytest.mark.parametrize("images", [1, 2])
    def test_what_is_promised_is_what_the_gate_sees(self, images: int, criteria: list[dict[str, Any]]):
        """Counts and limits of the promise are those of `evaluate` at the cut-offs, whichever cut-offs are free."""
        table, checklist = regression(3, 800 // images, images=images), checklist_of(criteria)
        found = tune(table, checklist)
        assert isinstance(found, OperatingPoint), found
        evaluation = evaluate(table.at(found), checklist)
        assert evaluation.verdict == "PASS"
        for line in found.promise["criteria"]:
            metric = evaluation.metrics[line["id"]]
            assert isinstance(metric, Estimate)
            end = metric.high if line["rule"].startswith("<") else metric.low
            assert (line["k"], line["n"], line["bound"]) == (metric.k, metric.n, pytest.approx(end))

    def test_the_scale_does_not_matter(self):
        """A rising line over all severities gives the same grades; cut-offs may be negative."""
        table, checklist = rows(4, 600), checklist_of(FIVE)
        graded = []
        for slope, offset in ((1.0, 0.0), (1e6, -1e9), (1e-6, 0.0)):
            moved = make_predictions(table.assign(severity=slope * table["severity"] + offset), "s.csv", {})
            found = tune(moved, checklist)
            assert isinstance(found, OperatingPoint), found
            graded.append(moved.at(found).table["predicted"].tolist())
        assert graded[0] == graded[1] == graded[2]

    def test_one_value_for_all_images_is_infeasible(self):
        """No cut-off parts what is equal."""
        found = tune(make_predictions(rows(4, 600).assign(severity=3.5), "s.csv", {}), checklist_of(FIVE))
        assert isinstance(found, Infeasible)

    def test_probabilities_that_are_one_hot_cannot_be_tuned(self):
        """Whatever the cut-offs, the grades stay."""
        with pytest.raises(PredictionsError, match="Cut-offs would change no grade"):
            tune(one_hot(1, 100), checklist_of(FIVE))

    @pytest.mark.parametrize("images", [1, 2])
    def test_one_cut_off_of_a_model_that_says_only_whether_to_refer(self, images: int, tmp_path: Path):
        """As high as a cut-off can be, by brute force; the promise is what the gate sees; the file is locked."""
        table, checklist = refers(8, 400 // images, images=images), checklist_of(REFERABLE, planning={"power": 0.05})
        found = tune(table, checklist)
        assert isinstance(found, OperatingPoint), found
        (cut,) = found.cut_offs
        assert found.on == "referable"
        p, referable = table.table["p_referable"].to_numpy(), table.table["grade"].to_numpy(dtype=int) >= 2
        evaluation = evaluate(table.at(found), checklist)
        assert evaluation.verdict == "PASS"
        rates = {name: evaluation.metrics[f"{name}:referable"] for name in ("sensitivity", "specificity")}  # type: ignore[index]
        counted = {"sensitivity": (p >= cut)[referable], "specificity": (p < cut)[~referable]}
        for line in found.promise["criteria"]:
            name = line["id"].partition(":")[0]
            metric = rates[name]
            assert isinstance(metric, Estimate)
            assert (line["k"], line["n"]) == (metric.k, metric.n) == (int(counted[name].sum()), counted[name].size)
            assert line["bound"] == pytest.approx(metric.low)
        if images == 1:
            distinct = np.unique(p)
            shown = {
                cut: proportion.exact_bounds(int((p >= cut)[referable].sum()), int(referable.sum()), level=0.95).low
                for cut in (distinct[1:] + distinct[:-1]) / 2
            }
            highest = max(cut for cut, low in shown.items() if low >= 0.85)
            assert (p < found.cut_offs[0])[~referable].sum() == (p < highest)[~referable].sum()
        write_predictions(table.at(found), tmp_path / "at.csv")
        assert load_predictions(tmp_path / "at.csv", found).digest == table.at(found).digest
        with pytest.raises(PredictionsError, match="if another cut-off was used, give it with --operating-point"):
            load_predictions(tmp_path / "at.csv")

    def test_criteria_that_need_grades_are_infeasible(self):
        """No cut-off makes a model name grades that it does not tell apart."""
        found = tune(refers(8, 400), checklist_of([*REFERABLE, FIVE[0]]))
        assert isinstance(found, Infeasible)
        assert "sensitivity:pdr cannot be tuned with this" in found.reason
        assert "the model answers only whether to refer" in found.reason

    def test_images_without_a_number_are_named(self):
        with pytest.raises(PredictionsError, match="has no number in severity; cut-offs need it for every image"):
            tune(make_predictions(rows(4, 60).assign(severity=np.nan), "s.csv", {}), checklist_of(FIVE))


class TestWay:
    """Score, tune, evaluate, verify, as commands on tables."""

    @pytest.fixture
    def files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        for seed, name in ((10, "tuning.csv"), (11, "test.csv")):
            write_predictions(regression(seed, 900), tmp_path / name)
        (tmp_path / "s.yaml").write_text(json.dumps({"name": "s", "version": 1, "criteria": FIVE}))
        return tmp_path

    def test_to_a_verified_pass(self, files: Path, drgate: Callable[..., Ended]):
        """Cut-offs that were tuned on other patients pass the test set; the published table gives the same numbers."""
        tuned = drgate("tune", "tuning.csv", "--spec", "s.yaml", "--out", "point.json")
        assert tuned.code == 0, tuned
        assert "Cut-offs: severity of grade 1: " in tuned.out
        assert "On the tuning table, with these cut-offs:" in tuned.out
        judged = ["evaluate", "test.csv", "--spec", "s.yaml", "--operating-point", "point.json"]
        ended = drgate(*judged, "--out", "judged", "--format", "json")
        assert ended.code == 0, ended
        report = (files / "judged" / "report.md").read_text()
        assert "severity of grade 1" in report
        verified = drgate("verify", "judged/statement.json", "--format", "json")
        assert verified.code == 3, "it is not signed"
        assert not json.loads(verified.out)["problems"]
        again = drgate(*judged, "--out", "judged", "--format", "json")
        assert json.loads(again.out)["look"]["number"] == 1, "the same answers at the same cut-offs are one look"

    def test_whether_to_refer_to_a_verified_pass(self, files: Path, drgate: Callable[..., Ended]):
        """The same way for one probability of referable, with one cut-off."""
        for seed, name in ((10, "tuning.csv"), (11, "test.csv")):
            write_predictions(refers(seed, 900), files / name)
        (files / "s.yaml").write_text(json.dumps({"name": "s", "version": 1, "criteria": REFERABLE}))
        tuned = drgate("tune", "tuning.csv", "--spec", "s.yaml", "--out", "point.json")
        assert tuned.code == 0, tuned
        assert "Cut-offs: P(referable) ." in tuned.out
        assert "with one half as the cut-off -> with these cut-offs:" in tuned.out
        judged = ["evaluate", "test.csv", "--spec", "s.yaml", "--operating-point", "point.json"]
        ended = drgate(*judged, "--out", "judged", "--format", "json")
        assert ended.code == 0, ended
        assert "P(referable) ." in (files / "judged" / "report.md").read_text()
        verified = drgate("verify", "judged/statement.json", "--format", "json")
        assert (verified.code, json.loads(verified.out)["problems"]) == (3, [])

    def test_a_changed_severity_is_found(self, files: Path, drgate: Callable[..., Ended]):
        """Even where it changes no grade: the digest is over it."""
        drgate("tune", "tuning.csv", "--spec", "s.yaml", "--out", "point.json")
        drgate("evaluate", "test.csv", "--spec", "s.yaml", "--operating-point", "point.json", "--out", "judged")
        changed = pd.read_csv("test.csv")
        changed["severity"] += 1e-7
        changed.to_csv("changed.csv", index=False)
        ended = drgate("verify", "judged/statement.json", "--predictions", "changed.csv", "--format", "json")
        assert ended.code == 2
        assert json.loads(ended.out)["problems"]


def provenance(kind: str) -> dict[str, Any]:
    """A record of a model whose outputs are of a kind."""
    return {"model": {"output": kind}}


class TestCumulative:
    """Cumulative logits: P(grade >= k) for k = 1 to 4."""

    outputs = st.lists(st.lists(st.floats(-30, 30), min_size=4, max_size=4), min_size=1, max_size=20)

    @given(outputs)
    def test_probabilities_are_those_of_the_thresholds(self, outputs: list[list[float]]):
        """CORAL's: the sigmoid of each is P(grade >= k); where one is above an earlier one, the earlier holds."""
        columns = Answer("cumulative_logits", ()).columns(np.array(outputs))
        for i, row in enumerate(outputs):
            reached = [1 / (1 + np.exp(-one)) for one in row]
            reached = [min(reached[: k + 1]) for k in range(4)]
            edges = [1.0, *reached, 0.0]
            expected = [edges[k] - edges[k + 1] for k in range(5)]
            assert [columns[f"p_{k}"][i] for k in range(5)] == pytest.approx(expected, abs=1e-12)

    def test_grades_come_from_cut_offs(self, tmp_path: Path):
        """Their most probable grade is nobody's decision: refused without cut-offs, judged at tuned ones."""
        table = rows(5, 600)
        logits = (table["severity"].to_numpy()[:, None] + 7) / 10 - np.arange(1, 5) + 0.5
        shares = Answer("cumulative_logits", ()).columns(4 * logits)
        plain = table.drop(columns="severity").assign(**shares)
        scored = make_predictions(plain, "scored.parquet", provenance("cumulative_logits"))
        checklist = checklist_of(FIVE)
        with pytest.raises(PredictionsError, match="holds cumulative logits and has no grades without"):
            evaluate(scored, checklist)
        found = tune(scored, checklist, log=Log(tmp_path / "looks.jsonl"))
        assert isinstance(found, OperatingPoint)
        assert found.on == "probabilities"
        assert found.cut_offs == tune(make_predictions(plain, "bare.csv", {}), checklist).cut_offs  # type: ignore[union-attr]
        assert evaluate(scored.at(found), checklist).verdict == "PASS"


def one_hot(seed: int, patients: int, **how: Any) -> Predictions:
    """A table whose probabilities are 1 for one grade and 0 for the others."""
    table = rows(seed, patients, **how)
    grade = np.clip(np.rint((table.pop("severity") + 7) / 10), 0, 4).to_numpy(dtype=int)
    shares = pd.DataFrame(np.eye(5)[grade], columns=[f"p_{k}" for k in range(5)])
    return make_predictions(pd.concat([table, shares], axis=1), "hot.csv", {})


class TestOneHot:
    """Grades that are written as probabilities are no probabilities."""

    @pytest.mark.parametrize("unit", ["image", "patient"])
    def test_decides_and_ranks_nothing(self, unit: str):
        """Decisions are those of the bare grades; AUC, Brier and calibration have the reason; page one says it."""
        hot, checklist = one_hot(6, 150, images=2), checklist_of(FIVE, unit=unit)
        bare = make_predictions(hot.table.drop(columns=[f"p_{k}" for k in range(5)]), "bare.csv", {})
        found, grades = evaluate(hot, checklist), evaluate(bare, checklist)
        assert found.confusion_matrix == grades.confusion_matrix
        for name, metric in found.metrics.items():
            if name.about.from_probabilities:
                assert isinstance(metric, NotEstimable), name
                assert "one-hot" in metric.reason
            else:
                assert metric == grades.metrics[name]
        assert found.reliability == {}
        assert sum("one-hot" in line for line in found.page_one) == 1
        assert not any("one-hot" in line for line in grades.page_one)

    @pytest.mark.parametrize("rest", [0.3, 0.001])
    def test_one_image_with_a_probability_is_enough(self, rest: float):
        """Then the others are probabilities too, if very sure ones."""
        hot = one_hot(6, 150)
        table = hot.table.copy()
        first = int(table["p_0"].to_numpy().argmax())
        table.loc[first, ["p_0", "p_1"]] = [1 - rest, rest]
        found = evaluate(make_predictions(table, "soft.csv", {}), checklist_of(FIVE))
        assert isinstance(found.metrics["auc:referable"], Estimate)  # type: ignore[index]
        assert not any("one-hot" in line for line in found.page_one)

    @pytest.mark.parametrize("least", [1e-17, 1e-9, 1e-7])
    def test_next_to_nothing_in_the_place_of_0_changes_nothing(self, least: float):
        """It would otherwise pass for a probability."""
        table = one_hot(6, 150).table.copy()
        shares = [f"p_{k}" for k in range(5)]
        table[shares] = np.where(table[shares] == 1, 1 - 4 * least, least)
        assert make_predictions(table, "hot.csv", {}).no_probabilities == "one-hot"

    def test_all_rows_count(self):
        """An image without a reference grade shows it too, and so does the published table."""
        hot = one_hot(6, 150)
        table = hot.table.copy()
        table.loc[0, ["grade", "gradable"]] = [pd.NA, False]
        table.loc[0, [f"p_{k}" for k in range(5)]] = 0.2
        soft, checklist = make_predictions(table, "soft.csv", {}), checklist_of(FIVE)
        assert (hot.no_probabilities, soft.no_probabilities) == ("one-hot", "")
        for one in (hot, soft):
            assert evaluate(published(one), checklist).metrics == evaluate(one, checklist).metrics

    def test_whether_to_refer(self):
        """A probability that is 0 or 1 in all images ranks nothing either."""
        soft = refers(6, 150)
        hot = make_predictions(
            soft.table.assign(p_referable=soft.table["predicted_referable"].astype(float)), "hot.csv", {}
        )
        found, other = (evaluate(one, checklist_of(REFERABLE)).metrics for one in (hot, soft))
        assert found["sensitivity:referable"] == other["sensitivity:referable"]  # type: ignore[index]
        for name in ("auc:referable", "brier:referable"):
            assert isinstance(other[name], Estimate)  # type: ignore[index]
            assert "one-hot" in found[name].reason  # type: ignore[index,union-attr]

    def test_compared(self, tmp_path: Path):
        """The difference in AUC has the reason too."""
        hot = one_hot(6, 150)
        found = compare(hot, hot, checklist_of(FIVE, looks=5), log=Log(tmp_path / "looks.jsonl"))
        metric = found.differences["auc:referable"]
        assert isinstance(metric, NotEstimable)
        assert "one-hot" in metric.reason


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


class TestRecognised:
    """Probabilities that nobody stated are found; no second softmax flattens them."""

    GUESSED = Answer(stated=False)

    @pytest.mark.parametrize(
        ("images", "rounded"),
        [(1, "float32"), (1, "float64"), *itertools.product((2, 500), ("float64", "float32", "float16", "bfloat16"))],
    )
    def test_whatever_they_are_rounded_to(self, rounded: str, images: int):
        """They are the table's numbers but for rounding, and sum to 1."""
        torch = pytest.importorskip("torch")
        p = softmax(np.random.default_rng(images).normal(0, 3, (images, 5)))
        given = torch.tensor(p).to(getattr(torch, rounded)).to(torch.float64).numpy()
        found = self.GUESSED.recognised(given)
        assert found.kind == "probabilities"
        columns = np.stack([found.columns(given)[f"p_{k}"] for k in range(5)], axis=1)
        assert columns == pytest.approx(p, abs=2**-7)
        assert columns.sum(axis=1) == pytest.approx(1, abs=1e-12)

    @pytest.mark.parametrize("images", [1, 500])
    @pytest.mark.parametrize("size", [1e-3, 0.1, 1, 20])
    def test_logits_are_not_taken_for_them(self, size: float, images: int):
        """However small they are, and however few."""
        logits = np.random.default_rng(1).normal(0, size, (images, 5))
        found = self.GUESSED.recognised(logits)
        assert found.kind == "logits"
        columns = np.stack([found.columns(logits)[f"p_{k}"] for k in range(5)], axis=1)
        assert columns == pytest.approx(softmax(logits))

    def test_what_is_both_is_refused(self):
        """Probabilities in most images and not in the others: a softmax would flatten most of them unseen."""
        p = softmax(np.random.default_rng(1).normal(0, 3, (20, 5)))
        p[3] *= 1.5
        with pytest.raises(CheckpointError, match="are probabilities in 19 of 20 images, but not in the others; state"):
            self.GUESSED.recognised(p)

    def test_a_single_image_must_be_exact(self):
        """Small logits of one image sum to almost 1 by chance, in one of thousands: rounded ones are to be stated."""
        with pytest.raises(CheckpointError, match=r"for a single image sum to 0\.999, which logits can too; state"):
            self.GUESSED.recognised(np.array([[0.1, 0.2, 0.3, 0.3, 0.099]]))
        assert Answer().recognised(np.array([[0.1, 0.2, 0.3, 0.3, 0.099]])) == Answer(), "stated logits stay logits"

    def test_images_without_output_say_nothing(self):
        """NaN rows are no evidence either way."""
        p = softmax(np.random.default_rng(1).normal(0, 3, (20, 5)))
        p[:5] = np.nan
        found = self.GUESSED.recognised(p)
        assert found.kind == "probabilities"
        assert np.isnan(found.columns(p)["p_0"][:5]).all()
        assert self.GUESSED.recognised(np.full((3, 5), np.nan)).kind == "logits"

    @pytest.mark.parametrize(("stated", "says"), [("logits", "stated to be logits"), ("probabilities", "not between")])
    def test_a_statement_that_the_outputs_contradict_is_refused(self, stated: Any, says: str):
        p = softmax(np.random.default_rng(1).normal(0, 3, (20, 5)))
        with pytest.raises(CheckpointError, match=says):
            Answer(stated).recognised(p if stated == "logits" else np.log(p))
