"""Two models on the same images: every number against a second derivation, and what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar

import drgate.compare
from drgate.checklist import load_checklist
from drgate.cli import main
from drgate.compare import Comparison, Difference, accuracy_difference
from drgate.errors import PredictionsError
from drgate.evaluation import Estimate, NotEstimable
from drgate.looks import Log
from drgate.predictions import Predictions, load_predictions, make_predictions, write_predictions
from drgate.report import compare as compare_page
from drgate.scale import GRADES, GROUPS
from tests.support.comparing import compare

TARGETS = {**{grade: (i,) for i, grade in enumerate(GRADES)}, **GROUPS}


def noisy(seed: int, patients: int = 70, skill: float = 1.5, draw: int = 1) -> Predictions:
    """A model of some skill on two images of each patient; `draw` is its own noise, the images are those of `seed`."""
    truth, own = np.random.default_rng(seed), np.random.default_rng([seed, draw])
    grade = np.clip(np.repeat(truth.integers(0, 5, patients), 2) + truth.integers(-1, 2, 2 * patients), 0, 4)
    logits = -skill * np.abs(grade[:, None] - np.arange(5)) + own.normal(0, 1, (2 * patients, 5))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    table = pd.DataFrame(p, columns=[f"p_{j}" for j in range(5)])
    table["image"] = [f"{i:04d}.png" for i in range(2 * patients)]
    return make_predictions(table.assign(grade=grade, patient=[f"P{i // 2}" for i in range(2 * patients)]), "t.csv", {})


def of_right_and_wrong(first: list[bool], second: list[bool], **columns: Any) -> tuple[Predictions, Predictions]:
    """Two models of grade 0 images: right where True."""
    made = []
    for right in (first, second):
        table = pd.DataFrame({"image": [f"{i:04d}" for i in range(len(right))], "grade": 0})
        made.append(make_predictions(table.assign(predicted=[0 if r else 1 for r in right], **columns), "t.csv", {}))
    return made[0], made[1]


def difference(comparison: Comparison, name: str) -> Difference:
    found = comparison.differences[name]
    assert isinstance(found, Difference)
    return found


@pytest.fixture(scope="module")
def pair() -> tuple[Predictions, Predictions]:
    return noisy(3, skill=1.5), noisy(3, skill=1.3, draw=2)


@pytest.fixture(scope="module")
def found(pair: tuple[Predictions, Predictions]) -> Comparison:
    return compare(*pair)


def test_the_printed_table():
    """[[59, 6], [16, 80]]: McNemar exact .052479, mid-p .034690, Tango -.1240 to -.0054; neither way shown."""
    both = [(True, True)] * 59 + [(True, False)] * 6 + [(False, True)] * 16 + [(False, False)] * 80
    one, other = zip(*both, strict=True)
    named = {"patient": [str(i) for i in range(161)]}
    result = compare(*of_right_and_wrong(list(one), list(other), **named))
    accuracy = result.accuracy
    assert (round(accuracy.mcnemar_exact or 0, 6), round(accuracy.mcnemar_midp or 0, 6)) == (0.052479, 0.034690)
    assert (round(accuracy.low or 0, 4), round(accuracy.high or 0, 4)) == (-0.1240, -0.0054)
    assert (accuracy.only_first, accuracy.only_second, result.outcome, result.exit_code) == (6, 16, "not shown", 3)
    assert len(result.discordant) == 22


class TestSecondDerivations:
    def test_rates_by_scikit_learn(self, pair: Any, found: Comparison):
        """Values of both models and their difference."""
        truth = pair[0].table["grade"].to_numpy(dtype=int)
        called = [p.table["predicted"].to_numpy(dtype=int) for p in pair]
        for target, grades in TARGETS.items():
            for metric, of in (("sensitivity", np.isin), ("specificity", lambda a, b: ~np.isin(a, b))):
                rates = [sk.recall_score(of(truth, grades), of(c, grades)) for c in called]
                result = difference(found, f"{metric}:{target}")
                assert [result.first, result.second, result.value] == pytest.approx([*rates, rates[0] - rates[1]])
        kappas = [sk.cohen_kappa_score(truth, c, labels=range(5), weights="quadratic") for c in called]
        assert difference(found, "quadratic_kappa").value == pytest.approx(kappas[0] - kappas[1])

    def test_mcnemar_by_statsmodels(self, found: Comparison):
        """Exact McNemar of every proportion, from its discordant counts."""
        checked = 0
        for result in found.differences.values():
            if isinstance(result, Difference) and result.kind == "proportion":
                table = [[5, result.only_first], [result.only_second, 5]]
                assert result.mcnemar_exact == pytest.approx(min(1.0, float(mcnemar(table, exact=True).pvalue)))
                checked += 1
        assert checked == 17

    @pytest.mark.parametrize("name", ["accuracy", "sensitivity:referable", "quadratic_kappa"])
    def test_patient_bootstrap_by_brute_force(self, name: str, pair: Any, found: Comparison):
        """Whole patients drawn with replacement, 3,000 times, each metric computed on the images themselves."""
        truth = pair[0].table["grade"].to_numpy(dtype=int).reshape(-1, 2)
        called = [p.table["predicted"].to_numpy(dtype=int).reshape(-1, 2) for p in pair]

        def metric(who: Any, c: Any) -> float:
            t, c = truth[who].ravel(), c[who].ravel()
            if name == "accuracy":
                return float((t == c).mean())
            if name == "quadratic_kappa":
                return float(sk.cohen_kappa_score(t, c, labels=range(5), weights="quadratic"))
            return float((c[t >= 2] >= 2).mean())

        rng = np.random.default_rng(8)
        draws = []
        for _ in range(3000 if name != "quadratic_kappa" else 300):
            who = rng.integers(0, len(truth), len(truth))
            draws.append(metric(who, called[0]) - metric(who, called[1]))
        result = difference(found, name)
        low, high = (result.low, result.high) if result.kind == "index" else (result.bootstrap or (0, 0))
        assert [low, high] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.03)

    @pytest.mark.parametrize("clustered", [True, False])
    def test_auc_by_naive_delong(self, clustered: bool, pair: Any):
        """All pairs of images one by one, their sums by patient (Obuchowski) or by image (DeLong)."""
        tables = [p if clustered else one_patient_each(p) for p in pair]
        result = difference(compare(*tables), "auc:referable")
        truth = pair[0].table["grade"].to_numpy(dtype=int) >= 2
        owner = np.arange(len(truth)) // 2 if clustered else np.arange(len(truth))
        placed, areas = [], []
        for p in pair:
            s = p.probabilities()[:, 2:].sum(axis=1)
            psi = (s[truth][:, None] > s[~truth]) + 0.5 * (s[truth][:, None] == s[~truth])
            areas.append(psi.mean())
            placed.append((psi.mean(axis=1), psi.mean(axis=0)))
        up, down = placed[0][0] - placed[1][0], placed[0][1] - placed[1][1]
        value = areas[0] - areas[1]
        x = {who: (up[owner[truth] == who] - value).sum() for who in set(owner)}
        y = {who: (down[owner[~truth] == who] - value).sum() for who in set(owner)}
        m, n = int(truth.sum()), int((~truth).sum())
        i10, i01, every = len(set(owner[truth])), len(set(owner[~truth])), len(set(owner))
        variance = (
            i10 / (i10 - 1) * sum(v**2 for v in x.values()) / m**2
            + i01 / (i01 - 1) * sum(v**2 for v in y.values()) / n**2
            + 2 * every / (every - 1) * sum(x[who] * y[who] for who in x) / (m * n)
        )
        assert result.value == pytest.approx(value)
        half = norm.ppf(0.975) * np.sqrt(variance)
        assert [result.low, result.high] == pytest.approx([value - half, value + half], abs=1e-9)

    def test_order_of_rows_does_not_matter(self, pair: Any, found: Comparison):
        """The same comparison to the digit."""
        shuffled = [make_predictions(p.table.sample(frac=1, random_state=4), p.origin, {}) for p in pair]
        assert compare(*shuffled).to_json() == found.to_json()

    def test_swapping_the_models_mirrors_every_interval(self, pair: Any, found: Comparison):
        """A - B is the negative of B - A (but for bootstrap noise)."""
        back = compare(pair[1], pair[0])
        for name in ("accuracy", "sensitivity:pdr", "auc:vision_threatening"):
            one, other = difference(found, name), difference(back, name)
            assert (other.low, other.high) == pytest.approx((-(one.high or 0), -(one.low or 0)), abs=1e-9)


def one_patient_each(predictions: Predictions) -> Predictions:
    return make_predictions(
        predictions.table.assign(patient=[f"P{3 * i + 1}" for i in range(len(predictions))]), "t.csv", {}
    )


class TestOutcome:
    @pytest.mark.parametrize(
        ("wins", "losses", "outcome"), [(20, 20, "non-inferior"), (0, 400, "inferior"), (40, 110, "not shown")]
    )
    def test_three_ways(self, wins: int, losses: int, outcome: str):
        """4,000 images at a margin of two points."""
        first = [True] * 3000 + [True] * wins + [False] * losses + [False] * (1000 - wins - losses)
        second = [True] * 3000 + [False] * wins + [True] * losses + [False] * (1000 - wins - losses)
        patients = {"patient": [f"P{3 * i + 1}" for i in range(4000)]}
        assert compare(*of_right_and_wrong(first, second, **patients)).outcome == outcome

    @pytest.mark.parametrize(
        ("wins", "losses", "outcome", "said"),
        [
            (
                40,
                0,
                "non-inferior",
                "shown to be non-inferior at a margin of 2 points, and more accurate by 0.7 to 1.4 points. ",
            ),
            (
                0,
                40,
                "non-inferior",
                "shown to be non-inferior at a margin of 2 points, and less accurate by 0.7 to 1.4 points. ",
            ),
            (
                40,
                110,
                "not shown",
                "shown to be less accurate (by 1.2 to 2.4 points), but not whether by more than 2 points. ",
            ),
            (0, 400, "inferior", "shown to be less accurate by more than 2 points (by 9.1 to 11.0 points). "),
            (20, 20, "non-inferior", "shown to be non-inferior at a margin of 2 points. "),
        ],
    )
    def test_a_shown_difference_is_said(self, wins: int, losses: int, outcome: str, said: str):
        """Where the interval excludes zero, whatever the margin says; McNemar agrees that it does."""
        first = [True] * (3000 + wins) + [False] * (1000 - wins)
        second = [True] * 3000 + [False] * wins + [True] * losses + [False] * (1000 - wins - losses)
        result = compare(*of_right_and_wrong(first, second, patient=[f"P{3 * i + 1}" for i in range(4000)]))
        assert result.outcome == outcome
        assert compare_page.headline(result).startswith(f"Model A is {said}")
        assert (result.shown != "no difference") == ((result.accuracy.mcnemar_exact or 0) < 0.05)
        assert result.to_json()["shown"] == result.shown

    def test_pairs_of_eyes_are_worth_less(self):
        """The same images as two of each patient, alike: a wider interval, and unknown patients no narrower."""
        first, second = [True, True] * 48 + [False, False] * 2, [True, True] * 46 + [False, False] * 4
        widths = []
        for columns, most in (
            ({"patient": [f"P{3 * i + 1}" for i in range(100)]}, None),
            ({"patient": [str(i // 2) for i in range(100)]}, None),
            ({}, 2),
            ({}, 1),
        ):
            accuracy = compare(*of_right_and_wrong(first, second, **columns), most=most).accuracy
            widths.append((accuracy.high or 0) - (accuracy.low or 0))
        assert widths[0] < widths[1] <= widths[2] + 1e-9
        assert widths[3] == pytest.approx(widths[0])

    def test_without_patients_nothing_is_shown(self):
        """Not even of a model that is right wherever the other is wrong: no interval, and what to declare."""
        result = compare(*of_right_and_wrong([True] * 400, [False] * 400))
        assert (result.outcome, result.exit_code, result.accuracy.value) == ("not shown", 3, 1)
        shown = [one for one in result.differences.values() if isinstance(one, Difference)]
        assert all((one.low, one.high, one.bootstrap) == (None, None, None) for one in shown)
        assert any("images_a_patient_at_most: N" in note for note in result.notes)
        assert compare_page.markdown(result)

    def test_images_without_output(self):
        """Wrong for accuracy, missed for a grade, referred for a group, absent from AUC."""
        grades = [0, 0, 3, 3]
        one = pd.DataFrame({"image": list("abcd"), "grade": grades, "predicted": [0, None, None, 3]})
        other = pd.DataFrame({"image": list("abcd"), "grade": grades, "predicted": [0, 0, 3, 3]})
        result = compare(make_predictions(one, "a", {}), make_predictions(other, "b", {}))
        assert (result.accuracy.first, result.accuracy.second) == (0.5, 1.0)
        assert difference(result, "sensitivity:severe_npdr").first == 0.5
        assert difference(result, "sensitivity:referable").first == 1.0
        assert difference(result, "specificity:referable").first == 0.5
        assert "2 images without output from model A and 0 from model B" in " ".join(result.notes)
        assert result.discordant[0] == {"image": "row-2", "grade": 0, "first": None, "second": 0}

    def test_macular_oedema_is_referable(self):
        """A grade 0 eye with oedema counts as referable where the column dme says so."""
        table = pd.DataFrame({"image": list("abc"), "grade": [0, 0, 3], "dme": [1, 0, 0], "predicted": [0, 0, 3]})
        result = compare(make_predictions(table, "a", {}), make_predictions(table.assign(predicted=[2, 0, 3]), "b", {}))
        assert (difference(result, "sensitivity:referable").first, result.accuracy.first) == (0.5, 1.0)
        assert difference(result, "sensitivity:referable").second == 1.0


def regrouped(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(patient=table["patient"].sample(frac=1, random_state=1).to_numpy())


class TestWhatCannotBeCompared:
    CHANGES: ClassVar[dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]]] = {
        "other images": (
            lambda t: t.assign(image="x" + t["image"]),
            "was scored on other images: 280 are in one table only",
        ),
        "one image less": (lambda t: t.iloc[1:], "was scored on other images"),
        "other grades": (lambda t: t.assign(grade=(t["grade"] + 1) % 5), "has other reference grades"),
        "no grades": (lambda t: t.assign(grade=pd.NA), "has no reference grades"),
        "other patients": (regrouped, "groups the images into other patients"),
    }

    @pytest.mark.parametrize("defect", CHANGES)
    def test_is_refused_and_named(self, defect: str, pair: Any):
        """By `compare` as an error, by the baseline criterion as a reason."""
        change, sentence = self.CHANGES[defect]
        other = make_predictions(change(pair[1].table), "other.csv", {})
        with pytest.raises(PredictionsError, match=f"t.csv and other.csv cannot be compared: other.csv {sentence}"):
            compare(pair[0], other)
        reason = accuracy_difference(pair[0], other, level=0.95, images_a_patient=None)
        assert isinstance(reason, NotEstimable)
        assert reason.reason.startswith("the baseline ")

    def test_file_digests_decide_where_both_have_them(self, pair: Any):
        """Renamed copies are the same images; the same names with other bytes are not."""
        digests = [f"{i:016x}" * 4 for i in range(140)]
        one = make_predictions(pair[0].table.assign(sha256=digests), "a.csv", {})
        renamed = pair[1].table.assign(sha256=digests, image="copy-" + pair[1].table["image"])
        assert compare(one, make_predictions(renamed, "b.csv", {})).images == 140
        others = make_predictions(pair[1].table.assign(sha256=[f"{i + 7:016x}" * 4 for i in range(140)]), "b.csv", {})
        with pytest.raises(PredictionsError, match="other images"):
            compare(one, others)

    def test_renamed_patients_are_the_same_patients(self, pair: Any, found: Comparison):
        """Only who belongs together matters."""
        renamed = make_predictions(pair[1].table.assign(patient="x" + pair[1].table["patient"]), "b.csv", {})
        assert compare(pair[0], renamed).accuracy.low == found.accuracy.low


def test_the_baseline_criterion_is_the_same_number(pair: Any, found: Comparison):
    """Difference, interval, patients and design effect as `compare` has them."""
    metric = accuracy_difference(*pair, level=0.95, images_a_patient=None)
    assert isinstance(metric, Estimate)
    accuracy = found.accuracy
    assert (metric.value, metric.low, metric.high) == (accuracy.value, accuracy.low, accuracy.high)
    assert (metric.clusters, metric.design_effect) == (70, accuracy.design_effect)


class TestCommand:
    @pytest.fixture
    def drgate_compare(self, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
        def call(*arguments: object) -> tuple[int, str, str]:
            with pytest.raises(SystemExit) as stop:
                main(["compare", *(str(argument) for argument in arguments)])
            captured = capfd.readouterr()
            return int(stop.value.code or 0), captured.out, captured.err

        return call

    @pytest.fixture
    def files(self, pair: Any, tmp_path: Path) -> list[Path]:
        for name, predictions in zip("ab", pair, strict=True):
            predictions.table.to_csv(tmp_path / f"{name}.csv", index=False)
        return [tmp_path / "a.csv", tmp_path / "b.csv"]

    def test_json_page_and_exit_code(
        self, drgate_compare: Any, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """JSON alone on standard output, the same in the file, and a page that no name can spoil."""
        monkeypatch.chdir(tmp_path)
        loaded = compare(*map(load_predictions, files))
        code, out, _ = drgate_compare(*files, "--format", "json", "--out", tmp_path / "c.json")
        assert code == loaded.exit_code
        assert (
            json.loads(out) == json.loads((tmp_path / "c.json").read_text()) == json.loads(json.dumps(loaded.to_json()))
        )
        assert drgate_compare(*files, "--out", tmp_path / "c.md")[0] == code
        assert (tmp_path / "c.md").read_text() == compare_page.markdown(loaded)
        assert "| Overall accuracy |" in compare_page.markdown(loaded)
        code, out, _ = drgate_compare(*files)
        assert "Sensitivity, PDR" in out
        assert f"{difference(loaded, 'sensitivity:pdr').only_first}:" in out.split("Sensitivity, PDR")[1].split("\n")[0]

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--margin", "2"], "--margin is 2; expected a fraction"),
            (["--level", "95"], "--level is 95; expected a fraction"),
            (["--out", "page.html"], "expected a name that ends in .md"),
        ],
    )
    def test_bad_usage_is_one_sentence(self, arguments: list[str], sentence: str, drgate_compare: Any, files: Any):
        """Exit code 2, nothing on standard output."""
        code, out, err = drgate_compare(*files, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert sentence in err

    def test_nothing_is_overwritten(self, drgate_compare: Any, files: list[Path]):
        """A page that exists stays."""
        code, _, err = drgate_compare(*files, "--out", files[0].rename(files[0].with_suffix(".md")))
        assert code == 2
        assert "exists already" in err


class TestLooks:
    """Whoever compares on a test set has looked at it."""

    @pytest.fixture
    def files(self, pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        monkeypatch.chdir(tmp_path)
        for name, predictions in zip("ab", pair, strict=True):
            write_predictions(predictions, tmp_path / f"{name}.csv")
        return [tmp_path / "a.csv", tmp_path / "b.csv"]

    def looks(self) -> list[dict[str, Any]]:
        lines = [line for path in Path("reports/looks").glob("*.jsonl") for line in path.read_text().splitlines()]
        return [entry for entry in map(json.loads, lines) if entry["kind"] == "look"]

    def test_each_table_takes_one(self, files: list[Path], drgate: Any):
        ended = drgate("compare", *files, "--format", "json", "--time", "2026-01-31T09:00:00Z")
        plain = json.loads(ended.out)
        assert (
            [entry["look"] for entry in self.looks()] == [1, 2] == [plain[side]["look"] for side in ("first", "second")]
        )
        assert {entry["time"] for entry in self.looks()} == {"2026-01-31T09:00:00Z"}
        assert plain["notes"][0] == (
            "Looks at these images: A is look 1, B is look 2, of 1 allowed. Do not choose a model by this comparison."
        )
        assert drgate("compare", *files, "--format", "json").out == ended.out, "a repetition costs nothing"
        assert len(self.looks()) == 2

    def test_what_was_evaluated_takes_none_and_is_then_known(self, files: list[Path], drgate: Any):
        """The same images, reference grades and answers, by whichever command they were looked at first."""
        drgate("evaluate", files[0], "--spec", "smoke")
        assert len(self.looks()) == 1
        assert drgate("compare", *files, "--spec", "smoke").code in (0, 1, 3)
        assert len(self.looks()) == 2
        assert "Look 2 of" in drgate("evaluate", files[1], "--spec", "smoke").err
        assert len(self.looks()) == 2

    def test_is_logged_before_any_number(self, files: list[Path], drgate: Any, monkeypatch: pytest.MonkeyPatch):
        """Whatever becomes of the comparison; and one whose look cannot be logged prints nothing."""
        broken = Path("broken.jsonl")
        broken.write_text("{}\n")
        ended = drgate("compare", *files, "--looks", broken)
        assert (ended.code, ended.out) == (2, "")
        monkeypatch.setattr("drgate.compare._Differences", None)
        assert drgate("compare", *files, "--looks", "own.jsonl").out == ""
        assert Path("own.jsonl").read_text().count('"kind":"look"') == 2

    @pytest.mark.parametrize("record", ["x", [1], {"tensor_digest": 5, "name": None}, {"tensor_digest": [5]}])
    def test_a_record_that_is_none_is_no_model(self, record: Any, pair: Any, tmp_path: Path):
        """A table's own record is free text."""
        first, second = (replace(one, provenance={"model": record, "manifest": record}) for one in pair[:2])
        log = Log(tmp_path / "looks.jsonl")
        found = drgate.compare.compare(first, second, load_checklist("smoke"), log=log, resamples=10)
        assert found.first["look"] == 1

    def test_tables_that_cannot_be_compared_take_none(self, files: list[Path], pair: Any, drgate: Any):
        write_predictions(make_predictions(pair[1].table.iloc[:9], "c.csv", {}), files[1])
        assert drgate("compare", *files).code == 2
        assert not Path("reports").exists()
