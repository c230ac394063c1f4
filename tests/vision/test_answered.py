"""What models answer, from their outputs to a report: a severity, cumulative logits, probabilities."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from drgate.answers import Answer
from drgate.errors import CheckpointError
from drgate.evaluation import Subject
from drgate.manifest import Manifest, load_manifest
from drgate.operating_point import load_operating_point, make_operating_point, write_operating_point
from drgate.predictions import Predictions, load_predictions
from drgate.preprocessing import FUNDUS_SQUARE, Preprocessing, parse_preprocessing
from drgate.score import CPU_BATCH, score
from drgate.vision import graders
from tests.support import tiny
from tests.support.material import Ended

CHECKLIST = {
    "name": "s",
    "version": 1,
    "planning": {"power": 0.3},
    "criteria": [{"id": "sensitivity:referable", "at_least": 0.7}, {"id": "specificity:referable", "above": 0.6}],
}


class Grader:
    """In the place of a model: the redder the disc of `tiny.eye`, the worse. given: outputs (n, k) of it."""

    def __init__(self, answer: Answer, given: Callable[[NDArray[np.float64]], NDArray[Any]]) -> None:
        self.answer, self.given, self.graded = answer, given, 0
        self.files = (Subject("model.bin", "0" * 64, 1, "model"),)
        self.tensor_digest = f"sha256:{'1' * 64}"
        self.description: dict[str, Any] = {"kind": "onnx"}
        self.providers = ["cpu"]
        self.precision = None
        self.record = self.fingerprint = None
        self.unknown_data = ""
        self.notes: list[str] = []

    @property
    def preprocessing(self) -> Preprocessing:
        return parse_preprocessing(f"{FUNDUS_SQUARE}@{tiny.SIZE}")

    def outputs(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.graded += len(batch)
        return self.given(-batch[:, 1].mean(axis=(1, 2)).astype(np.float64)).astype(np.float32)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_eyes(tmp_path_factory.mktemp("eyes"), train=1, val=9, test=8)


def of(eyes: Path, split: str) -> Manifest:
    return load_manifest(eyes).select(split)


def severity(seen: NDArray[np.float64]) -> NDArray[Any]:
    return 100 * seen[:, None]


def logits(seen: NDArray[np.float64]) -> NDArray[Any]:
    """Five logits by a line: some images get other grades than others."""
    return -20 * np.abs(seen[:, None] - np.linspace(seen.min() - 1e-3, seen.max() + 1e-3, 5))


def shares(seen: NDArray[np.float64]) -> NDArray[Any]:
    powers = np.exp(logits(seen))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def numbers(predictions: Predictions, *columns: str) -> NDArray[np.float64]:
    return predictions.table[list(columns)].to_numpy(dtype=np.float64)


P = tuple(f"p_{k}" for k in range(5))


class TestScored:
    def test_a_severity(self, eyes: Path):
        """The number itself, no grade, no probability; the record says that it is a regression."""
        found = score(Grader(Answer("regression", ()), severity), of(eyes, "test"), workers=0)
        assert found.answers == "severity"
        assert found.provenance["model"]["output"] == "regression"
        assert np.isfinite(numbers(found, "severity")).all()
        assert np.isnan(numbers(found, *P)).all()
        assert found.table["predicted"].isna().all()
        assert found.answered.all()

    def test_an_image_without_a_number_has_no_output(self, eyes: Path):
        """NaN is no severity."""

        def broken(seen: NDArray[np.float64]) -> NDArray[Any]:
            given = severity(seen)
            given[0] = np.nan
            return given

        with pytest.warns(UserWarning, match="gave no finite numbers"):
            found = score(Grader(Answer("regression", ()), broken), of(eyes, "test"), workers=0)
        assert int((~found.answered).sum()) == -(-len(found) // CPU_BATCH), "one in each batch"

    def test_probabilities_that_nobody_stated(self, eyes: Path):
        """The same table as from the logits, and the record says what was found."""
        plain = score(Grader(Answer(), logits), of(eyes, "test"), workers=0)
        found = score(Grader(Answer(stated=False), shares), of(eyes, "test"), workers=0)
        assert found.provenance["model"]["output"] == "probabilities"
        assert numbers(found, *P) == pytest.approx(numbers(plain, *P), abs=1e-6)
        assert found.table["predicted"].equals(plain.table["predicted"])
        with pytest.raises(CheckpointError, match="stated to be logits, but are probabilities in all 40 images"):
            score(Grader(Answer(), shares), of(eyes, "test"), workers=0)

    def test_float16(self, eyes: Path):
        """Rounded probabilities are made to sum to 1 again."""
        given = Grader(Answer("probabilities"), lambda seen: shares(seen).astype(np.float16))
        found = numbers(score(given, of(eyes, "test"), workers=0), *P)
        assert found.sum(axis=1) == pytest.approx(1, abs=1e-12)


class TestJudged:
    @pytest.fixture
    def graded_by(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Grader], Path]:
        """Let every model that is loaded be this grader; the path of one."""

        def put(grader: Grader) -> Path:
            monkeypatch.setattr(graders, "load_grader", lambda *given, **more: grader)
            with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
                archive.writestr("model/data.pkl", b"")
            return tmp_path / "model.pth"

        return put

    @pytest.fixture
    def checklist(self, tmp_path: Path) -> Path:
        (tmp_path / "s.yaml").write_text(json.dumps(CHECKLIST))
        return tmp_path / "s.yaml"

    @pytest.mark.parametrize("kind", ["regression", "cumulative_logits"])
    def test_without_cut_offs_no_image_is_scored(
        self, kind: Any, graded_by: Any, checklist: Path, eyes: Path, refused: Callable[..., str]
    ):
        """Scoring takes hours: what is missing is said before."""
        grader = Grader(Answer(kind, ()), severity)
        said = refused("evaluate", graded_by(grader), "--data", eyes, "--spec", checklist)
        assert "and has no grades without cut-offs. Find them on a tuning set (drgate score MODEL" in said
        assert grader.graded == 0

    def test_cut_offs_of_another_kind_are_refused_before_scoring(
        self, graded_by: Any, checklist: Path, eyes: Path, refused: Callable[..., str], tmp_path: Path
    ):
        """Four cut-offs between 0 and 1 are none of a severity."""
        grader = Grader(Answer("regression", ()), severity)
        tuned_on = score(Grader(Answer(), logits), of(eyes, "val"), workers=0)
        point = make_operating_point((0.5,) * 4, checklist={}, tuned_on=tuned_on, promise={})
        write_operating_point(point, tmp_path / "point.json")
        asked = ["--data", eyes, "--spec", checklist, "--operating-point", tmp_path / "point.json"]
        said = refused("evaluate", graded_by(grader), *asked)
        assert "answers with a severity, but the cut-offs of the operating point act on probabilities" in said
        assert grader.graded == 0

    def test_a_regression_from_tuning_to_verified(
        self,
        graded_by: Any,
        checklist: Path,
        eyes: Path,
        drgate: Callable[..., Ended],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):
        """Scored on a validation split, tuned, evaluated on the test split: PASS, and the numbers follow from the
        published table."""
        monkeypatch.chdir(tmp_path)
        model = graded_by(Grader(Answer("regression", ()), severity))
        ended = drgate("score", model, "--data", eyes, "--split", "val", "--out", "val.parquet", "--workers", "0")
        assert ended.code == 0, ended
        assert "0 without output" in ended.err + ended.out
        ended = drgate("tune", "val.parquet", "--spec", checklist, "--data", eyes, "--out", "point.json")
        assert ended.code == 0, ended
        asked = ["evaluate", model, "--data", eyes, "--spec", checklist, "--operating-point", "point.json"]
        ended = drgate(*asked, "--out", "judged", "--format", "json", "--workers", "0")
        assert ended.code == 0, ended
        point = load_operating_point("point.json")
        given = load_predictions("judged/predictions.parquet", point).table
        assert given["predicted"].tolist() == [sum(one >= cut for cut in point.cut_offs) for one in given["severity"]]
        report = Path("judged/report.md").read_text()
        assert "one number, a severity" in report
        assert "severity of grade 1" in report
        assert json.loads(drgate("verify", "judged/statement.json", "--format", "json").out)["problems"] == []

    def test_the_report_says_that_no_softmax_was_applied(
        self,
        graded_by: Any,
        checklist: Path,
        eyes: Path,
        drgate: Callable[..., Ended],
        tmp_path: Path,
        monkeypatch: Any,
    ):
        """Among the facts of the model, for probabilities and not for logits."""
        monkeypatch.chdir(tmp_path)
        for name, grader in (("p", Grader(Answer(stated=False), shares)), ("logits", Grader(Answer(), logits))):
            asked = ["--data", eyes, "--spec", checklist, "--out", name, "--looks", f"{name}.jsonl", "--workers", "0"]
            drgate("evaluate", graded_by(grader), *asked)
            said = "its outputs are probabilities; no softmax was applied" in Path(name, "report.md").read_text()
            assert said == (name == "p")


class TestDescribed:
    """Cut-offs that model.yaml names."""

    @pytest.fixture
    def folder(self, tmp_path: Path, eyes: Path) -> Path:
        folder = tmp_path / "regression"
        tiny.write_onnx(folder)
        plain = {
            "format": "drgate model 1",
            "weights": "model.onnx",
            "architecture": "onnx",
            "output": {"name": "logits", "kind": "regression"},
            "preprocessing": "preprocess.json",
        }
        (folder / "model.yaml").write_text(json.dumps(plain))
        return folder

    def test_none_is_said_before_the_model_is_read(self, folder: Path, eyes: Path, refused: Callable[..., str]):
        """The file is no model at all, and that is not what is said."""
        (folder / "model.onnx").write_bytes(b"")
        said = refused("evaluate", folder, "--data", eyes, "--spec", "smoke")
        assert "answers with a severity and has no grades without cut-offs" in said

    def test_others_than_those_given_are_refused(self, folder: Path, eyes: Path, refused: Callable[..., str]):
        """Two files of cut-offs, and nobody says which decide."""
        tuned_on = score(Grader(Answer("regression", ()), severity), of(eyes, "val"), workers=0)
        for cut, path in ((1.0, folder / "cuts.json"), (2.0, folder.parent / "given.json")):
            point = make_operating_point((cut,) * 4, on="severity", checklist={}, tuned_on=tuned_on, promise={})
            write_operating_point(point, path)
        plain = json.loads((folder / "model.yaml").read_text()) | {"cut_offs": "cuts.json"}
        (folder / "model.yaml").write_text(json.dumps(plain))
        asked = ["--data", eyes, "--spec", "smoke", "--operating-point", folder.parent / "given.json"]
        assert "names the cut-offs cuts.json, which are not those of --operating-point" in refused(
            "evaluate", folder, *asked
        )
