"""Operating points: locked, kept apart from the test set, tuned so that that passes as often as promised."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import betabinom

from drgate.checklist import Checklist, load_checklist, parse_checklist
from drgate.cli import main
from drgate.errors import ChecklistError, PredictionsError, UsageError
from drgate.evaluate import evaluate
from drgate.evaluation import Estimate
from drgate.looks import Log
from drgate.manifest import load_manifest
from drgate.operating_point import (
    OperatingPoint,
    cumulative,
    load_operating_point,
    make_operating_point,
    parse_operating_point,
    write_operating_point,
)
from drgate.patients import PatientKey
from drgate.predictions import Predictions, load_predictions, make_predictions, write_predictions
from drgate.sample import Sample
from drgate.scale import TITLES
from drgate.stats import proportion
from drgate.stats.power import misses_allowed, power
from drgate.stats.predictive import predictive_power
from drgate.tune import Infeasible, effects, tune
from tests.support.declaring import declaring

KEY, OTHER = PatientKey.of(b"k" * 32), PatientKey.of(b"o" * 32)
SCREENING = [{"id": "sensitivity:referable", "at_least": 0.85}]
FIVE = [
    {"id": "sensitivity:pdr", "at_least": 0.7},
    {"id": "sensitivity:severe_npdr", "at_least": 0.6},
    {"id": "accuracy", "at_least": 0.6},
    {"id": "undergraded:vision_threatening_below_referable", "at_most": 0.08},
    {"id": "specificity:referable", "above": 0.7},
]


def checklist_of(criteria: list[dict[str, Any]], **content: Any) -> Checklist:
    return parse_checklist({"name": "s", "version": 1, "criteria": criteria} | content, "s.yaml")


def scored(
    seed: int, patients: int, *, images: int = 1, noise: float = 0.5, step: float = 0.0, name: str = ""
) -> Predictions:
    """A grader that sees the grade through noise, half of it a patient's own; `step` makes its scores coarse."""
    rng = np.random.default_rng(seed)
    grade = np.repeat(rng.choice(5, patients, p=(0.35, 0.15, 0.2, 0.15, 0.15)), images)
    own, each = rng.normal(0, noise, patients), rng.normal(0, noise, patients * images)
    seen = grade + (np.repeat(own, images) + each) / np.sqrt(2)
    if step:
        seen = np.clip(np.rint(seen / step) * step, -0.5, 4.5)
    logits = -2 * np.abs(seen[:, None] - np.arange(5))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    table = pd.DataFrame(p, columns=[f"p_{j}" for j in range(5)]).assign(
        image=[f"{name}{seed}-{i:05d}.png" for i in range(len(grade))],
        grade=grade,
        patient=[f"{name}{seed}-{i // images}" for i in range(len(grade))],
    )
    return make_predictions(table, f"{seed}.csv", {})


def tuned(predictions: Predictions, checklist: Checklist) -> OperatingPoint:
    found = tune(predictions, checklist, log=Log(key=KEY))
    assert isinstance(found, OperatingPoint), found
    return found


@pytest.fixture(scope="module")
def table() -> Predictions:
    return scored(1, 400, noise=1.0)


@pytest.fixture(scope="module")
def point(table: Predictions) -> OperatingPoint:
    return tuned(table, checklist_of(SCREENING))


class TestGrading:
    def test_the_highest_grade_that_is_reached(self, table: Predictions, point: OperatingPoint):
        """max{k: P(grade >= k) >= t_k}, else 0, one image at a time; no output stays none."""
        p = np.r_[table.probabilities()[:50], np.full((1, 5), np.nan)]
        grades = point.apply(cumulative(p))
        for row, grade in zip(p[:50], grades, strict=False):
            reached = [k for k in range(1, 5) if sum(row[j] for j in range(4, k - 1, -1)) >= point.cut_offs[k - 1]]
            assert grade == max(reached, default=0)
        assert grades[50] == -1

    def test_a_table_at_its_operating_point_can_be_read_again(self, table, point, tmp_path: Path):
        """`predicted` that is not the most probable grade is accepted only beside its operating point."""
        at = table.at(point)
        assert (at.table["predicted"] != table.table["predicted"]).any()
        write_predictions(at, tmp_path / "at.csv")
        with pytest.raises(PredictionsError, match="give them with --operating-point"):
            load_predictions(tmp_path / "at.csv")
        again = load_predictions(tmp_path / "at.csv", point)
        assert again.digest == at.digest == again.at(point).digest
        other = make_operating_point(
            np.minimum(1, np.array(point.cut_offs) * 1.5), checklist={}, tuned_on=table, promise={}
        )
        with pytest.raises(PredictionsError, match="but the operating point gives"):
            load_predictions(tmp_path / "at.csv", other)

    def test_grades_without_probabilities_cannot_be_cut(self, point: OperatingPoint):
        bare = make_predictions(pd.DataFrame({"image": ["a"], "grade": [0], "predicted": [0]}), "bare.csv", {})
        with pytest.raises(PredictionsError, match="1 images have a predicted grade but no probabilities"):
            bare.at(point)


class TestFile:
    def test_round_trip(self, point: OperatingPoint, tmp_path: Path):
        """`parse_operating_point(p.content()) == p`, through a file as well; nothing is overwritten."""
        path = tmp_path / "point.json"
        write_operating_point(point, path)
        assert load_operating_point(path) == point == parse_operating_point(point.content(), "x")
        with pytest.raises(UsageError, match="exists already"):
            write_operating_point(point, path)

    @pytest.mark.parametrize("key", ["cut_offs", "spec", "tuning", "promise"])
    def test_any_change_is_seen(self, key: str, point: OperatingPoint, tmp_path: Path):
        """The digest is over everything."""
        plain = point.content()
        plain[key] = [0.1, 0.2, 0.3, 0.4] if key == "cut_offs" else {}
        (tmp_path / "p.json").write_text(json.dumps(plain))
        with pytest.raises(UsageError, match=r"p\.json was changed after it was written"):
            load_operating_point(tmp_path / "p.json")

    @pytest.mark.parametrize("content", ["[]", "{}", '{"format": "other"}', "not json"])
    def test_other_files_are_refused(self, content: str, tmp_path: Path):
        (tmp_path / "p.json").write_text(content)
        with pytest.raises(UsageError, match="an operating point that drgate tune wrote"):
            load_operating_point(tmp_path / "p.json")

    def test_nobody_is_named(self, point: OperatingPoint, table: Predictions):
        """Patients and names of images are in the file as keyed hashes, one for each; without a key not at all."""
        assert len(point.patients) == table.table["patient"].nunique()
        assert len(point.images) == len(table)
        bare = make_operating_point((0.5,) * 4, checklist={}, tuned_on=table, promise={})
        assert (bare.key, bare.patients, set(bare.images)) == ("", (), {("", "")})
        for text in (json.dumps(point.content()), json.dumps(bare.content())):
            assert not any(json.dumps(name) in text for column in ("image", "patient") for name in table.table[column])


class TestOverlap:
    def rows(self, predictions: Predictions, **changes: Any) -> Predictions:
        return make_predictions(predictions.table.iloc[:40].assign(**changes), "test.csv", {})

    def test_other_images_of_other_patients_pass(self, point: OperatingPoint):
        test = scored(2, 30)
        assert point.refuse_overlap(test, KEY) == ""

    def test_an_image_by_name(self, point: OperatingPoint, table: Predictions):
        with pytest.raises(UsageError, match=r"test.csv has images that the operating point was tuned on"):
            point.refuse_overlap(self.rows(table, patient=[f"new{i}" for i in range(40)]), KEY)

    def test_a_patient(self, point: OperatingPoint, table: Predictions):
        """Counted, and nobody is named."""
        with pytest.raises(UsageError, match=r"test.csv: 40 patients of this table are among those") as raised:
            point.refuse_overlap(self.rows(table, image=[f"new{i}" for i in range(40)]), KEY)
        assert "1-0" not in str(raised.value)

    def test_what_could_not_be_compared_is_said(self, point: OperatingPoint, table: Predictions):
        """Without the key that they were tuned with, only the same table is recognised."""
        test = self.rows(table)
        for key, why in (
            (None, "no patient key (--patient-key) was given for both"),
            (OTHER, "with different patient"),
        ):
            said = point.refuse_overlap(test, key)
            assert said.startswith(
                "Whether a patient or an image is among those that the cut-offs were tuned on was not"
            )
            assert why in said
        with pytest.raises(UsageError, match="has the images that the operating point was tuned on"):
            point.refuse_overlap(table)
        published = self.rows(table, image=[f"row-{i:02}" for i in range(40)], patient=[str(i) for i in range(40)])
        assert "no patient key" in point.refuse_overlap(published, KEY), "numbers are no patients"

    def test_a_file_under_another_name_and_another_file_under_the_name(self, table: Predictions):
        """Where both sides have file digests they decide, not the names."""
        digests = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(400)]
        known = make_predictions(table.table.assign(sha256=digests), "tuning.csv", {})
        point = make_operating_point((0.5,) * 4, checklist={}, tuned_on=known, promise={}, key=KEY)
        anew = {"patient": [f"new{i}" for i in range(40)]}
        with pytest.raises(UsageError, match="has images that the operating point was tuned on"):
            point.refuse_overlap(self.rows(known, image=[f"new{i}" for i in range(40)], **anew), None)
        point.refuse_overlap(self.rows(known, sha256=[f"{i + 1:064x}"[::-1] for i in range(40)], **anew), KEY)
        with pytest.raises(UsageError, match="has images that the operating point was tuned on"):
            point.refuse_overlap(self.rows(table, **anew), KEY)


def brute_force(predictions: Predictions, wanted: float) -> tuple[tuple[float, float], float] | None:
    """(mean specificity, accuracy) and chance of the best of all combinations of cut-offs for `FIVE`, one by one."""
    grade = predictions.table["grade"].to_numpy(dtype=int)
    p = predictions.probabilities()
    scores = np.stack([p[:, 4], p[:, 4] + p[:, 3], p[:, 4] + p[:, 3] + p[:, 2], 1 - p[:, 0]], axis=1)[:, ::-1]
    values = []
    for k in range(4):
        distinct = np.unique(np.round(scores[:, k], 9))
        values.append((distinct[1:] + distinct[:-1]) / 2)
    best = None
    for cut_offs in itertools.product(*values):
        called = np.where(scores >= np.array(cut_offs), np.arange(1, 5), 0).max(axis=1)
        lines = (
            (called == 4, grade == 4, 0.7),
            (called == 3, grade == 3, 0.6),
            (called == grade, grade >= 0, 0.6),
            (called >= 2, grade >= 3, 0.92),
            (called < 2, grade < 2, 0.7),
        )
        chance = 1.0
        for right, counted, floor in lines:
            n, k = int(counted.sum()), int((right & counted).sum())
            if k == 0 or proportion.exact_bounds(k, n, level=0.95).low < floor:
                chance = 0.0
                break
            allowed = misses_allowed(n, floor, level=0.95)
            chance *= 0.0 if allowed is None else float(betabinom.cdf(allowed, n, n - k + 1, k))
        if chance >= wanted:
            rates = [(called != 3)[grade != 3].mean(), (called != 4)[grade != 4].mean(), (called < 2)[grade < 2].mean()]
            reached = (round(float(np.mean(rates)), 9), round(float((called == grade).mean()), 9))
            best = max(best, (reached, chance)) if best else (reached, chance)
    return best


class TestChoice:
    @pytest.mark.parametrize("seed", range(2))
    def test_the_best_of_all_combinations(self, seed: int):
        """Coarse scores: brute force over every combination finds the same best, or none either."""
        table = scored(seed, 700, noise=0.35, step=0.5)
        found, best = tune(table, checklist_of(FIVE)), brute_force(table, 0.8)
        if isinstance(found, Infeasible):
            assert (found.complete, best) == (True, None)
            return
        assert found.promise["search"]["complete"]
        assert best is not None
        called, grade = found.apply(table.scores()), table.table["grade"].to_numpy(dtype=int)
        rates = [(called != 3)[grade != 3].mean(), (called != 4)[grade != 4].mean(), (called < 2)[grade < 2].mean()]
        assert (np.mean(rates), (called == grade).mean()) == pytest.approx(best[0], abs=1e-8)

    @pytest.mark.parametrize("images", [1, 2])
    def test_what_is_promised_is_what_the_gate_sees(self, images: int):
        """Counts and bounds of the promise are those of `evaluate` on the tuning table at the operating point."""
        table, checklist = scored(3, 800 // images, images=images, noise=0.35), checklist_of(FIVE)
        found = tuned(table, checklist)
        evaluation = evaluate(table.at(found), checklist)
        assert evaluation.verdict == "PASS"
        for line in found.promise["criteria"]:
            metric = evaluation.metrics[line["id"]]
            assert isinstance(metric, Estimate)
            end = metric.high if line["rule"].startswith("<") else metric.low
            assert (line["k"], line["n"], line["bound"]) == (metric.k, metric.n, pytest.approx(end))
        assert found.promise["power"] == pytest.approx(np.prod([line["power"] for line in found.promise["criteria"]]))
        assert found.promise["power"] >= 0.8

    def test_other_grades_do_not_move_a_group(self, point: OperatingPoint):
        """Where only referable is asked for, t_2 alone decides it."""
        p = scored(9, 300, noise=0.8).probabilities()
        assert ((point.apply(cumulative(p)) >= 2) == (p[:, 4] + p[:, 3] + p[:, 2] >= point.cut_offs[1])).all()

    def test_more_looks_cost_specificity(self, table: Predictions, point: OperatingPoint):
        """Each of K looks is tested at alpha/K, so the cut-off is no higher."""
        many = tuned(table, checklist_of(SCREENING, looks=10))
        assert many.promise["level"] == pytest.approx(0.995)
        assert many.cut_offs[1] < point.cut_offs[1]

    def test_unknown_patients_need_a_declaration(self, table: Predictions, point: OperatingPoint):
        """Without a patient column nothing is found; two images of a patient cost specificity, one costs nothing."""
        unknown = make_predictions(table.table.drop(columns="patient"), "u.csv", {})
        checklist = checklist_of(SCREENING)
        refused = tune(unknown, checklist, log=Log(key=KEY))
        assert isinstance(refused, Infeasible)
        assert "no patients are named" in refused.reason
        assert tuned(unknown, declaring(checklist, unknown, 2)).cut_offs[1] < point.cut_offs[1]
        assert tuned(unknown, declaring(checklist, unknown, 1)).cut_offs == point.cut_offs

    def test_by_patient_the_worse_eye_decides(self):
        """Tuned by patient, the counts are those of the gate by patient."""
        table, checklist = scored(4, 400, images=2, noise=0.5), checklist_of(SCREENING, unit="patient")
        found = tuned(table, checklist)
        metric = evaluate(table.at(found), checklist).metrics["sensitivity:referable"]
        assert isinstance(metric, Estimate)
        line = found.promise["criteria"][0]
        assert (line["k"], line["n"], line["bound"]) == (metric.k, metric.n, pytest.approx(metric.low))

    def test_a_larger_planned_test_set_needs_less_room(
        self, table, point, tmp_path: Path, photographs: Callable[..., Path]
    ):
        """The planned counts come from the manifest: with few referable images the cut-off falls or there is none."""
        names = [f"{i}.png" for i in range(60)]
        folder = photographs(*names)
        rows = pd.DataFrame({"image": names, "grade": [2] * 60, "patient": [f"P{3 * i + 1}" for i in range(60)]})
        rows.to_csv(folder / "labels.csv", index=False)
        few = tune(table, checklist_of(SCREENING), test=load_manifest(folder))
        assert isinstance(few, OperatingPoint)
        assert few.promise["planned"]["by_grade"] == [0, 0, 60, 0, 0]
        assert few.cut_offs[1] < point.cut_offs[1]
        rows.iloc[:20].to_csv(folder / "labels.csv", index=False)
        none = tune(table, checklist_of(SCREENING), test=load_manifest(folder))
        assert isinstance(none, Infeasible)
        assert (
            "20 images with Referable DR in the planned test set are too few; even a model without errors"
            in none.reason
        )


class TestInfeasible:
    def test_names_the_criterion_and_how_near(self):
        """A poor model: which line stands in the way, and its bound."""
        lines = [{"id": "sensitivity:referable", "at_least": 0.9}, {"id": "specificity:referable", "at_least": 0.9}]
        found = tune(scored(5, 500, noise=2.0), checklist_of(lines))
        assert isinstance(found, Infeasible)
        assert found.complete
        assert "ity:referable has a lower limit of" in found.reason
        assert "required: at least 90 %." in found.reason

    def test_too_few_cases_are_said_so(self):
        """20 images cannot show 95 %, whatever the cut-offs."""
        found = tune(scored(6, 100), checklist_of([{"id": "sensitivity:pdr", "at_least": 0.95}]))
        assert isinstance(found, Infeasible)
        assert found.reason == (
            "sensitivity:pdr: 20 images with PDR in the tuning table are too few; even a model without errors could "
            "not show at least 95 %. Add patients with PDR."
        )

    def test_nothing_to_tune_to(self):
        """AUC does not depend on cut-offs."""
        with pytest.raises(ChecklistError, match="so cut-offs cannot be tuned to it"):
            tune(scored(6, 100), checklist_of([{"id": "auc:referable", "at_least": 0.9}]))

    def test_a_weak_model_on_real_photographs(self, real_data: Path):
        """The owner's checklist is out of its reach, and the answer says so."""
        weak = load_predictions(real_data / "predictions" / "eyepacs-1024-weak-model.csv")
        found = tune(weak, load_checklist("medical-grade"))
        assert isinstance(found, Infeasible)
        assert "even a model without errors could not show" in found.reason


class TestPower:
    @pytest.mark.parametrize(
        ("misses", "n", "planned", "threshold"), [(3, 300, 300, 0.95), (0, 80, 200, 0.9), (40, 400, 90, 0.8)]
    )
    def test_predictive_power_is_beta_binomial(self, misses: int, n: int, planned: int, threshold: float):
        """SciPy's beta-binomial at the misses that the exact power allows."""
        allowed = misses_allowed(planned, threshold, level=0.95)
        expected = betabinom.cdf(allowed, planned, misses + 1, n - misses)
        assert predictive_power(misses, n, planned=planned, threshold=threshold, level=0.95) == pytest.approx(expected)

    def test_cut_offs_at_a_score_pass_as_often_as_predicted(self):
        """Simulated for scores of any distribution: tuned to 5 misses of 200, tested on 150 cases."""
        rng = np.random.default_rng(4)
        allowed = misses_allowed(150, 0.92, level=0.95)
        passed = 0
        for _ in range(4000):
            cut = np.sort(rng.gamma(2, size=200))[5]
            passed += (rng.gamma(2, size=150) < cut).sum() <= allowed
        expected = predictive_power(5, 200, planned=150, threshold=0.92, level=0.95)
        assert passed / 4000 == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 4000))
        assert expected < power(150, 0.92, true=1 - 5 / 200, level=0.95)

    def test_the_test_set_passes_as_often_as_promised_and_rarely_when_tuned_to_the_estimate(self):
        """Simulated: 60 tuning and test sets. Tuned to the estimate, a cut-off passes hardly ever."""
        checklist, passed, estimate, promised = checklist_of(SCREENING), [], [], []
        for seed in range(60):
            first, second = scored(2 * seed, 300, noise=0.7), scored(2 * seed + 1, 300, noise=0.7)
            found = tuned(first, checklist)
            promised.append(found.promise["power"])
            scores = [Sample.of(p, checklist).scores[:, 1] for p in (first, second)]
            referable = [p.table["grade"].to_numpy(dtype=int) >= 2 for p in (first, second)]
            ordered = np.sort(scores[0][referable[0]])
            observed = ordered[int(0.15 * ordered.size)]
            for cut, results in ((found.cut_offs[1], passed), (observed, estimate)):
                k, n = int((scores[1][referable[1]] >= cut).sum()), int(referable[1].sum())
                results.append(proportion.exact_bounds(k, n, level=0.95).low >= 0.85)
        assert np.mean(passed) == pytest.approx(np.mean(promised), abs=0.15)
        assert np.mean(estimate) < 0.15


class TestCommand:
    @pytest.fixture
    def drgate_tune(self, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
        def call(*arguments: object) -> tuple[int, str, str]:
            with pytest.raises(SystemExit) as stop:
                main(["tune", *(str(argument) for argument in arguments)])
            captured = capfd.readouterr()
            return int(stop.value.code or 0), captured.out, captured.err

        return call

    @pytest.fixture
    def files(self, table: Predictions, tmp_path: Path) -> list[Any]:
        write_predictions(table, tmp_path / "tuning.csv")
        (tmp_path / "s.yaml").write_text(
            'name: s\nversion: 1\ncriteria: [{id: "sensitivity:referable", at_least: 0.85}]\n'
        )
        return [tmp_path / "tuning.csv", "--spec", tmp_path / "s.yaml", "--out", tmp_path / "point.json"]

    def test_writes_a_locked_file(self, drgate_tune: Any, files: list[Any], point: OperatingPoint):
        """The same cut-offs as in Python; a second time the file is in the way."""
        code, out, _ = drgate_tune(*files, "--format", "json")
        written = load_operating_point(files[-1])
        assert (code, json.loads(out)["digest"]) == (0, written.digest)
        assert written.cut_offs == point.cut_offs
        code, _, err = drgate_tune(*files)
        assert (code, "exists already" in err) == (2, True)

    def test_says_what_was_given_and_taken(
        self, drgate_tune: Any, files: list[Any], table: Predictions, point: OperatingPoint
    ):
        """Before and after on the tuning table, counted image by image."""
        _, out, _ = drgate_tune(*files, "--format", "json")
        grade = table.table["grade"].to_numpy(dtype=int)
        called = [p.table["predicted"].to_numpy(dtype=int) for p in (table, table.at(point))]
        found = {one["id"]: [one[when]["k"] for when in ("before", "after")] for one in json.loads(out)["tuning_table"]}
        assert found["sensitivity:referable"] == [int(((grade >= 2) & (c >= 2)).sum()) for c in called]
        assert found["specificity:pdr"] == [int(((grade != 4) & (c != 4)).sum()) for c in called]
        missed = [int(((grade >= 3) & (c < 2)).sum()) for c in called]
        assert found["undergraded:vision_threatening_below_referable"] == missed
        assert len(found) == 7
        sliced = checklist_of(SCREENING, slices=[{"by": "camera"}])
        assert len(effects(table, point, sliced)) == 7  # the tuning table has no such column
        files[-1].unlink()
        _, out, _ = drgate_tune(*files)
        assert f"Severe NPDR or PDR predicted below referable: {missed[0]} -> {missed[1]} images of" in out
        rare = [TITLES[k] for k in range(5) if 10 * (called[1] == k).sum() < (grade == k).sum()]
        assert (f"the model almost never predicts {' or '.join(rare)}; use them only for" in out) == bool(rare)
        assert ("almost never" in out) == bool(rare)
        assert ("not complete" in out) == (not point.promise["search"]["complete"])

    def test_infeasible_writes_nothing(self, drgate_tune: Any, files: list[Any]):
        """Exit code 1 and the reason."""
        files[2].write_text('name: s\nversion: 1\ncriteria: [{id: "sensitivity:pdr", at_least: 0.99}]\n')
        code, out, _ = drgate_tune(*files)
        assert (code, files[-1].exists()) == (1, False)
        assert out.startswith("No file written: sensitivity:pdr")


class TestTestSet:
    """What was looked at as a test set is not tuned on."""

    @pytest.fixture
    def log(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
        monkeypatch.chdir(tmp_path)
        return Log(tmp_path / "looks.jsonl", key=KEY)

    def test_is_refused(self, log: Log, table: Predictions):
        log.look(table, "site-a", checklist_of(SCREENING), model="m")
        part = make_predictions(table.table.iloc[:200], "part.csv", {})
        with pytest.raises(UsageError, match=r"part.csv: 200 of its images are of the test set site-a, whose"):
            tune(part, checklist_of(SCREENING), log=log)
        renamed = make_predictions(table.table.assign(image="x" + table.table["image"]), "new.csv", {})
        with pytest.raises(UsageError, match=r"new.csv: 400 of its patients are of the test set"):
            tune(renamed, checklist_of(SCREENING), log=log)

    def test_is_refused_from_the_usual_place_too(self, log: Log, table: Predictions, drgate: Any):
        """By the command, in one sentence, with nothing written."""
        Log().look(table, "site-a", checklist_of(SCREENING), model="m")
        write_predictions(table, Path("tuning.csv"))
        ended = drgate("tune", "tuning.csv", "--out", "point.json", "--spec", "screening-referable")
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert "400 of its images are of the test set site-a" in ended.err
        assert not Path("point.json").exists()

    def test_is_refused_before_its_first_look(self, log: Log, table: Predictions):
        """What tuning prints of a split test would be a look that nobody logs."""
        for split, refused in (("test", True), ("val", False), ("", False)):
            scored = replace(table, provenance={"manifest": {"split": split}})
            with pytest.raises(UsageError, match="on the split test, which is kept") if refused else nullcontext():
                tune(scored, checklist_of(SCREENING), log=log)

    def test_is_not_the_set_that_models_are_chosen_on(self, log: Log, table: Predictions):
        """A validation split may be evaluated and then tuned on, until somebody logs it as a test set."""
        log.look(table, "val", checklist_of(SCREENING), model="m", chosen_on=True)
        assert isinstance(tune(table, checklist_of(SCREENING), log=log), OperatingPoint)
        log.look(table, "val", checklist_of(SCREENING), model="another")
        with pytest.raises(UsageError, match="are of the test set val"):
            tune(table, checklist_of(SCREENING), log=log)
