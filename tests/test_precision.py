"""Precision and batch of scoring: what is checked before the look, recorded, shown, and named where it differs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import softmax

from drgate import score as scoring
from drgate.answers import Answer
from drgate.certificate.statement import changes, make_statement, read_certificate, reference
from drgate.errors import CheckpointError, UsageError
from drgate.evaluation import Computed, Parity, Subject
from drgate.manifest import Manifest, load_manifest
from drgate.predictions import PROBABILITIES, Predictions, computed_of, load_predictions
from drgate.preprocessing import parse_preprocessing
from drgate.report.evaluation.sections import _changes
from drgate.report.words import scored as scored_words
from drgate.score import score
from drgate.vision.checkpoint import save_checkpoint
from drgate.vision.checkpoint_grader import CheckpointGrader
from drgate.vision.decoding import NICE, in_processes
from drgate.vision.graders import load_grader
from tests.support import foreign, tiny
from tests.support.evaluations import evaluation
from tests.support.material import Ended

Run = Callable[..., Ended]
Refused = Callable[..., str]
CHECKLIST = """name: own
version: 1
looks: 9
purpose: pipeline
evidence: {decide_on: point}
bootstrap: {resamples: 1000}
criteria: [{id: accuracy, at_least: 0.001}]
"""


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_eyes(tmp_path_factory.mktemp("eyes"), train=1, val=1, test=3)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain.pth; steep.pth, whose answers change in bf16; huge.pth, whose logits float16 cannot hold."""
    folder = tmp_path_factory.mktemp("models")
    base = tiny.tiny_base(folder / "base")
    for name, high in (("plain", 0.0), ("steep", 300.0), ("huge", 1e5)):
        network = tiny.random_model(base)
        if high:  # bfloat16 has steps of 2 there
            network.classifier.classifier[8].bias.data = high + torch.tensor([0, 0.3, 0.9, 0.2, 0.1])
        save_checkpoint(folder / f"{name}.pth", tiny.checkpoint_of(network, base))
    (folder / "own.yaml").write_text(CHECKLIST)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def locked(eyes: Path) -> Manifest:
    return load_manifest(eyes).select("test")


def scored(path: Path, manifest: Manifest, batch: int | None = None, **asked: Any) -> Predictions:
    return score(load_grader(path, **asked), manifest, workers=0, against=None, batch=batch)


def probabilities(predictions: Predictions) -> Any:
    return predictions.table[list(PROBABILITIES)].to_numpy(np.float64)


class TestParity:
    def test_is_recorded(self, eyes: Path, models: Path):
        """By a network that the test rounds itself, over all images of the set, which has fewer than 64."""
        found = scored(models / "plain.pth", locked(eyes), precision="bf16")
        record = found.provenance["model"]
        assert (record["precision"], record["batch"], record["providers"]) == ("bf16", 8, ["cpu"])
        grader = load_grader(models / "plain.pth")
        assert isinstance(grader, CheckpointGrader)
        assert grader.preprocessing is not None
        manifest = locked(eyes)
        paths = (manifest.path(str(image)) for image in manifest.table["image"])
        images = torch.from_numpy(np.stack([grader.preprocessing(Image.open(path).convert("RGB")) for path in paths]))
        with torch.inference_mode():
            one = softmax(grader.network()(images).double().numpy(), axis=1)
            other = softmax(grader.network().bfloat16()(images.bfloat16()).double().numpy(), axis=1)
        assert np.abs(probabilities(found) - other).max() < 1e-2, "a batch of another size rounds otherwise"
        parity = record["parity"]
        assert parity["images"] == len(manifest) == 15
        assert parity["largest"] == pytest.approx(np.abs(one - other).max(), rel=1)
        assert 0 < parity["largest"] < scoring.PARITY
        assert parity["other_grades"] <= 15

    def test_fp32_needs_none(self, eyes: Path, models: Path):
        """Nothing is graded twice by default, and the record has no such part."""
        record = scored(models / "plain.pth", locked(eyes)).provenance["model"]
        assert record["precision"] == "fp32"
        assert "parity" not in record

    def test_sixty_four_images_spread_over_the_set(self, eyes: Path, monkeypatch: pytest.MonkeyPatch):
        """First and last among them; where one cannot be read, another takes its place."""
        table = pd.concat([locked(eyes).table] * 20, ignore_index=True)
        manifest, asked = replace(locked(eyes), table=table), []

        def prepared(file: Any, preprocess: Any) -> Any:
            asked.append(file[0])
            return "unreadable." if len(asked) == 3 else type("Prepared", (), {"pixels": len(asked)})

        monkeypatch.setattr(scoring, "_prepare", prepared)
        assert len(scoring._some(manifest, None)) == 64
        assert len(asked) == 65
        names = [str(manifest.path(str(image))) for image in table["image"]]
        assert (str(asked[0]), str(asked[63])) == (names[0], names[-1])

    @pytest.mark.parametrize(
        ("model", "precision", "words"),
        [
            ("steep", "bf16", r"In bf16, a probability changes by up to 0\.\d+ against fp32, on 15 images of eyes"),
            ("huge", "fp16", r"In fp16 the model gives no finite numbers for \d+ of 15 images of eyes"),
        ],
    )
    def test_is_refused_before_the_look(
        self, eyes: Path, models: Path, model: str, precision: str, words: str, refused: Refused, drgate: Run
    ):
        """A sentence, exit code 2, no look, no table: also in a dry run and with drgate score."""
        asked = (models / f"{model}.pth", "--data", eyes, "--precision", precision, "--workers", 0)
        with pytest.raises(CheckpointError, match=rf"{words}.*--precision fp32 works"):
            scored(models / f"{model}.pth", locked(eyes), precision=precision)
        evaluate = ("evaluate", *asked, "--spec", models / "own.yaml")
        for command in (evaluate, ("score", *asked, "--out", "scored.parquet")):
            assert "--precision fp32 works" in refused(*command), command
        ended = drgate(*evaluate, "--dry-run")
        assert (ended.code, list(Path().iterdir())) == (2, [])
        assert "--precision fp32 works.\nThe evaluation would be refused (1 problem)" in ended.err
        assert len(scored(models / f"{model}.pth", locked(eyes))) == 15

    def test_other_grades_by_small_changes(self, eyes: Path, tmp_path: Path):
        """Where all grades are nearly as probable, a change of 0.02 makes another one of each image."""
        base = tiny.tiny_base(tmp_path / "base")
        network = tiny.random_model(base)
        with torch.no_grad():
            network.classifier.classifier[8].weight *= 0.05
            network.classifier.classifier[8].bias.copy_(30 + 0.02 * torch.arange(5.0))
        save_checkpoint(tmp_path / "tied.pth", tiny.checkpoint_of(network, base))
        with pytest.raises(CheckpointError, match=r"In bf16, \d+ of 15 images of \w+ have another grade .*10%"):
            scored(tmp_path / "tied.pth", locked(eyes), precision="bf16")

    def test_a_severity_is_held_against_its_own_scale(self, eyes: Path):
        """On a scale of hundreds, a change of 1 is none; there are no grades to compare without cut-offs."""

        class Network:
            def __init__(self, off: float) -> None:
                self.off = off

            def begin(self, pixels: Any) -> Any:
                means = pixels.mean(axis=(1, 2, 3)).astype(np.float32)[:, None] * 10
                return lambda: means + self.off

            def in_fp32(self) -> Network:
                return Network(0)

        class Grader:
            answer, preprocessing, precision = Answer("regression", ()), parse_preprocessing("siglip@32"), "bf16"

            def __init__(self, off: float) -> None:
                self.inference = Network(off)

            def network(self) -> None: ...

        found = scoring._parity(Grader(1), locked(eyes), 4)  # type: ignore[arg-type]
        assert found is not None
        assert (found.images, found.other_grades) == (15, None)
        assert found.largest == pytest.approx(1, abs=1e-3)
        with pytest.raises(CheckpointError, match="its number changes by up to 5e"):
            scoring._parity(Grader(500), locked(eyes), 4)  # type: ignore[arg-type]


class TestBatch:
    def test_any_size(self, eyes: Path, models: Path, monkeypatch: pytest.MonkeyPatch):
        """Recorded, and every batch has it, the last one too."""
        grader, sizes = load_grader(models / "plain.pth"), []
        assert isinstance(grader, CheckpointGrader)
        begin = grader.inference.begin

        def counted(pixels: Any) -> Any:
            sizes.append(len(pixels))
            return begin(pixels)

        monkeypatch.setattr(grader.inference, "begin", counted)
        found = score(grader, locked(eyes), workers=0, against=None, batch=7)
        assert found.provenance["model"]["batch"] == 7
        assert sizes == [7, 7, 7]
        usual = scored(models / "plain.pth", locked(eyes))
        assert probabilities(found) == pytest.approx(probabilities(usual), abs=1e-5)

    def test_a_file_that_fixes_its_own(self, eyes: Path, tmp_path: Path):
        """Refused, but for the same number, which is what is recorded."""
        path = foreign.write(tmp_path / "fixed", foreign.network(batch=4))
        with pytest.raises(UsageError, match="takes 4 images at a time, whatever is asked; leave --batch out"):
            scored(path, locked(eyes), batch=5)
        for asked in (None, 4):
            found = scored(path, locked(eyes), batch=asked)
            assert found.provenance["model"]["batch"] == 4
        assert scored(foreign.write(tmp_path / "free"), locked(eyes), batch=5).provenance["model"]["batch"] == 5

    def test_a_grader_in_python(self, eyes: Path, tmp_path: Path):
        """It gets batches of this size; its precision is its own."""
        (tmp_path / "mine.py").write_text(
            "import numpy as np\n"
            "class Grader:\n"
            "    kind, classes, preprocessing, files = 'regression', None, None, None\n"
            "    def predict(self, batch):\n"
            "        assert len(batch) <= 5\n"
            "        return np.array([[image.mean()] for image in batch])\n"
            "def load(weights):\n"
            "    grader = Grader()\n"
            "    grader.files = weights\n"
            "    return grader\n"
        )
        (tmp_path / "model.bin").write_bytes(b"weights")
        found = scored(tmp_path / "model.bin", locked(eyes), batch=5, python=f"{tmp_path / 'mine.py'}:load")
        record = found.provenance["model"]
        assert (record["batch"], record["precision"]) == (5, None)
        assert found.table["severity"].notna().all()

    @pytest.mark.parametrize("batch", [0, -1, 1025])
    def test_out_of_range(self, eyes: Path, models: Path, batch: int, refused: Refused):
        """Refused by the command and by the function."""
        with pytest.raises(UsageError, match="expected a number from 1 to 1024"):
            scored(models / "plain.pth", locked(eyes), batch=batch)
        said = refused("score", models / "plain.pth", "--data", eyes, "--out", "x.parquet", "--batch", batch)
        assert "Invalid value for '--batch'" in said

    def test_more_than_memory_holds(self):
        """Of very large images, so many are refused before one is decoded."""

        class Large:
            preprocessing = parse_preprocessing("siglip@4096")

        with pytest.raises(UsageError, match=r"--batch 1024 of 4096 x 4096 pixels is too large; 64 is the most"):
            scoring._batch_size(Large(), 1024)  # type: ignore[arg-type]

    @pytest.mark.parametrize(("option", "value"), [("--precision", "bf16"), ("--batch", "4")])
    def test_a_table_is_scored_already(self, option: str, value: str, refused: Refused, write_csv: Callable[..., Path]):
        table = write_csv([{"image": "a.png", "grade": 0, "predicted": 0}])
        assert f"needs no {option}" in refused("evaluate", table, option, value)


DAMAGED = (2, 5, 6, 9, 10, 11, 12)


class Slow:
    """A network that grades only when its answers are asked for, as one on a GPU may; it notes what was asked when."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, pixels: Any) -> Any:
        number = len([one for one in self.said if one.startswith("begin")])
        self.said.append(f"begin {number}")
        assert pixels.dtype == np.uint8
        means = pixels.mean(axis=(1, 2, 3))[:, None].astype(np.float32)

        def answers() -> Any:
            self.said.append(f"answers {number}")
            return means

        return answers

    def in_fp32(self) -> Slow:
        return self


class TestOverlap:
    def test_the_next_batch_begins_before_answers_are_asked_for(self, eyes: Path, tmp_path: Path):
        """Each image gets its own answer all the same, beside images that cannot be read."""

        class Grader:
            answer, preprocessing = Answer("regression", ()), parse_preprocessing("siglip@32")
            files = (Subject("model.bin", "0" * 64, 1, "model"),)
            tensor_digest, providers, precision = f"sha256:{'1' * 64}", ("cpu",), "fp32"
            description: dict[str, Any] = {"kind": "onnx"}  # noqa: RUF012
            fingerprint = record = None
            unknown_data, notes = "", ()

            def __init__(self) -> None:
                self.inference = Slow()

            def network(self) -> None: ...

        (tmp_path / "images").mkdir()
        names = []
        for source in sorted((eyes / "images").glob("test-*")):
            names.append(source.name)
            (tmp_path / "images" / source.name).write_bytes(b"" if len(names) in DAMAGED else source.read_bytes())
        grader, manifest = Grader(), load_manifest(tmp_path / "images")
        with pytest.warns(scoring.NoOutputWarning):
            found = score(grader, manifest, workers=0, against=None, batch=4)  # type: ignore[arg-type]
        assert grader.inference.said == [
            *("begin 0", "begin 1", "answers 0", "answers 1"),  # nothing of the third can be read
            *("begin 2", "answers 2"),
        ]
        table = found.table.set_index("image")["severity"]
        for i, name in enumerate(names, start=1):
            if i in DAMAGED:
                assert np.isnan(table[name])
            else:
                pixels = grader.preprocessing.pixels(Image.open(tmp_path / "images" / name).convert("RGB"))
                assert table[name] == pytest.approx(pixels.mean(), rel=1e-6)

    def test_workers_send_whole_grey_levels(self, eyes: Path):
        """A byte each; a resampling that does not round sends four."""
        manifest = locked(eyes)
        image = str(manifest.table["image"].iloc[0])
        file = manifest.path(image), manifest.content_digests()[image]
        for preset, dtype in (("siglip@32", np.uint8), ("medsiglip-tf@32", np.float32)):
            found = scoring._prepare(file, parse_preprocessing(preset))
            assert not isinstance(found, str)
            assert (found.pixels.dtype, found.pixels.shape) == (dtype, (32, 32, 3))

    def test_workers_yield_to_the_network(self):
        """On a CPU they are less urgent than the process that computes; elsewhere as urgent."""
        own = os.nice(0)
        for yielding, expected in ((True, min(19, own + NICE)), (False, own)):
            found = in_processes(niceness, range(20), workers=1, yielding=yielding)
            assert set(found) == {expected}


def niceness(item: int) -> int:
    return os.nice(0)


class TestShown:
    def test_in_evaluation_report_and_certificate(self, eyes: Path, models: Path, here: Path, drgate: Run):
        """Device, precision, batch and parity, wherever somebody looks; scored again in the same way by verify."""
        asked = ("--data", eyes, "--spec", models / "own.yaml", "--precision", "bf16", "--batch", "4", "--workers", 0)
        ended = drgate("evaluate", models / "plain.pth", *asked, "--out", "out")
        assert ended.code == 0, ended.err
        model = read_certificate(here / "out" / "statement.json").statement.evaluation.model
        assert model.computed == Computed(("cpu",), "bf16", 4)
        assert model.parity is not None
        assert model.parity.images == 15
        text = (
            "How it was scored: cpu; bf16; 4 images at a time; held against fp32 on a sample of 15 images "
            "before the look"
        )
        assert text in " ".join(ended.out.split())
        assert text in (here / "out" / "report.md").read_text()
        assert "How it was scored" in (here / "out" / "report.html").read_text()
        ended = drgate("verify", "out/statement.json", "--deep", "--data", eyes, "--model", models / "plain.pth")
        assert "The model was scored again: all 15 images are graded the same, to the last bit." in ended.out, ended
        ended = drgate("evaluate", models / "plain.pth", *asked, "--dry-run")
        assert "How it was scored: cpu; bf16; 4 images at a time" in " ".join(ended.out.split())

    def test_by_score(self, eyes: Path, models: Path, here: Path, drgate: Run):
        """At the terminal and as JSON; a table that is judged later has it too."""
        asked = ("score", models / "plain.pth", "--data", eyes, "--batch", "4", "--workers", 0)
        ended = drgate(*asked, "--out", "one.parquet")
        assert "How it was scored: cpu; fp32; 4 images at a time." in ended.out
        ended = drgate(*asked, "--out", "two.parquet", "--precision", "bf16", "--format", "json")
        found = json.loads(ended.out)["model"]
        assert (found["precision"], found["batch"], found["parity"]["images"]) == ("bf16", 4, 15)
        assert computed_of(load_predictions(here / "two.parquet")) == Computed(("cpu",), "bf16", 4)

    def test_in_words(self):
        """One image; a severity; nothing where nothing is known."""
        known = replace(evaluation().model, providers=("cuda:NVIDIA H200",), precision="fp16", batch=1)
        assert scored_words(known) == [("How it was scored", "cuda:NVIDIA H200; fp16; 1 image at a time")]
        severity = replace(known, output="regression", parity=Parity(64, 0.25))
        assert scored_words(severity)[0][1].endswith(
            "on a sample of 64 images before the look: a number changes by up to 0.25; more can change among the others"
        )
        assert scored_words(replace(known, providers=None)) == []


class TestDifferences:
    H200, HERE = Computed(("cuda:NVIDIA H200",), "bf16", 32), Computed(("CPUExecutionProvider",), "fp32", 8)

    def test_what_counts(self):
        """Device, precision and batch; not what torch and ONNX Runtime call a processor, nor what is not known."""
        assert self.H200.differs(self.HERE)
        assert not Computed(("cpu",), "fp32", 8).differs(self.HERE)
        assert Computed(("cpu",), "fp32", 9).differs(self.HERE)
        assert Computed(("cpu",), None, 8).differs(self.HERE)
        assert not Computed().differs(self.HERE)
        assert self.H200.beside(self.HERE) == (
            "on cuda:NVIDIA H200 in bf16, 32 at a time",
            "on CPUExecutionProvider in fp32, 8 at a time",
        )
        assert replace(self.H200, batch=8).beside(self.HERE)[0] == "on cuda:NVIDIA H200 in bf16"

    @pytest.mark.parametrize(("role", "who"), [("parent", "parent"), ("previous", "earlier one")])
    def test_against_an_earlier_certificate(self, role: str, who: str):
        """In what changed, which is signed, and in words in the report."""
        known = evaluation().model
        before = make_statement(evaluation(model=replace(known, providers=self.H200.providers, precision="bf16")))
        model = replace(known, providers=self.HERE.providers, precision="fp32")
        made = evaluation(model=replace(model, **{role: reference(before)}))
        found = changes(made)
        assert found is not None
        assert found["computed"] == {"from": "on cuda:NVIDIA H200 in bf16", "to": "on CPUExecutionProvider in fp32"}
        section = _changes(made)
        assert section is not None
        sentence = f"The {who} was scored on cuda:NVIDIA H200 in bf16; this one on CPUExecutionProvider in fp32."
        assert sentence in section.text
        same = evaluation(model=replace(known, **{role: reference(make_statement(evaluation(model=known)))}))
        assert "computed" not in (changes(same) or {})

    def test_a_baseline_previous_and_compare(self, eyes: Path, models: Path, here: Path, drgate: Run):
        """The sentence stands on page one, and among the notes of a comparison."""
        spec = ("--spec", models / "own.yaml")
        for name, options in (("one", ()), ("two", ("--precision", "bf16"))):
            asked = ("--data", eyes, "--workers", 0, *options)
            assert drgate("score", models / "plain.pth", *asked, "--out", f"{name}.parquet").code == 0
            assert drgate("evaluate", f"{name}.parquet", *spec, "--out", name).code == 0
        ended = drgate(
            *("evaluate", "two.parquet", *spec, "--baseline", "one.parquet", "--previous", "one/statement.json"),
            *("--out", "again"),
        )
        assert ended.code == 0, ended.err
        page = (here / "again" / "report.md").read_text()
        assert "The model was scored on cpu in bf16; the baseline on cpu in fp32." in page
        assert "The earlier one was scored on cpu in fp32; this one on cpu in bf16." in page
        assert "was not compared" not in drgate("verify", "again/statement.json", "--baseline", "one.parquet").out
        ended = drgate("compare", "two", "one", *spec, "--format", "json")
        notes = json.loads(ended.out)["notes"]
        assert "Model A was scored on cpu in bf16; model B on cpu in fp32." in notes
        assert not [
            one
            for one in json.loads(drgate("compare", "one", "one", *spec, "--format", "json").out)["notes"]
            if "was scored" in one
        ]
