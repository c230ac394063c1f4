"""A grader that was trained on stretched, ImageNet-normalised photographs, in the layout of the earlier trainer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from drgate.demo.synthetic import write_dataset
from drgate.errors import CheckpointError, UsageError
from drgate.manifest import load_manifest
from drgate.preprocessing import parse_preprocessing
from drgate.score import score
from drgate.vision.base import Base
from drgate.vision.graders import load_grader
from tests.support import tiny
from tests.support.material import REAL_DATA, Ended
from tests.support.older import RANK, reference_logits, state_dict, write
from trainer.config import TrainingConfig
from trainer.run import train

SIZE = 112
TRAINED_ON = f"imagenet-stretch@{SIZE}"
MEAN, STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

WITH_LORA = pytest.mark.parametrize("trained", [True], indirect=True, ids=["lora"])


@dataclass(frozen=True)
class Trained:
    """A checkpoint, with the decisions that a forward pass by OpenCV and torch gives for 100 photographs."""

    file: Path
    base: Base
    data: Path
    lora: bool
    decisions: np.ndarray
    probabilities: np.ndarray


def stretched(path: Path) -> np.ndarray:
    """As trainers with OpenCV read a photograph."""
    pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    small = cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    return ((small / 255.0 - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 photographs to validate on and 10 to train on, real ones where they are at hand."""
    folder = tmp_path_factory.mktemp("data") / "eyes"
    if REAL_DATA.is_dir():
        rows = pd.read_csv(REAL_DATA / "eyepacs-1024" / "labels.csv", dtype={"patient": str}).sort_values("image")
        train = rows.groupby("grade").head(2)
        val = rows[~rows["patient"].isin(train["patient"])].groupby("grade").head(24).head(100)
        chosen = pd.concat([val.assign(split="val"), train.assign(split="train")])
        (folder / "images").mkdir(parents=True)
        for image in chosen["image"]:
            shutil.copy(REAL_DATA / "eyepacs-1024" / image, folder / "images")
        columns = ["image", "grade", "patient", "eye", "split"]
        chosen[columns].to_csv(folder / "labels.csv", index=False)
    else:
        eyes = {"train_patients": [1] * 5, "val_patients": [10] * 5, "test_patients": [0] * 5}
        write_dataset(folder, seed=5, size=320, workers=1, **eyes)
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["lora", "whole"])
def trained(request: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trained until it tells most of the photographs apart that it was shown."""
    place = tmp_path_factory.mktemp("model")
    base = tiny.tiny_base(place / "tower", image_size=SIZE, patch_size=16)
    rows = load_manifest(data).select("val")
    pixels = torch.from_numpy(np.stack([stretched(rows.path(image)) for image in rows.table["image"]]))
    grades = torch.tensor(rows.table["grade"].tolist())
    state = state_dict(base, lora=request.param)
    learns = [
        tensor.requires_grad_()
        for name, tensor in state.items()
        if name.startswith("classifier.") or not request.param or ".lora_" in name
    ]
    optimizer = torch.optim.Adam(learns, lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(reference_logits(base, state, pixels), grades).backward()
        optimizer.step()
    state = {name: tensor.detach() for name, tensor in state.items()}
    with torch.inference_mode():
        logits: Tensor = reference_logits(base, state, pixels)
    decisions = logits.argmax(dim=1)
    accuracy = 100 * float((decisions == grades).float().mean())
    file = write(place / "best_model.pth", state, accuracies=[30.0, 40.0, accuracy])
    assert len(rows) == 100
    assert len(set(decisions.tolist())) > 2, "it decides between grades"
    return Trained(file, base, data, request.param, decisions.numpy(), torch.softmax(logits, dim=1).numpy())


def decided(trained: Trained, preprocess: str) -> tuple[np.ndarray, np.ndarray]:
    """Grades and probabilities of the 100 photographs, in the order of the manifest."""
    grader = load_grader(trained.file, str(trained.base.folder), parse_preprocessing(preprocess))
    rows = load_manifest(trained.data).select("val")
    table = score(grader, rows, workers=0).table.set_index("image").loc[rows.table["image"]]
    return table["predicted"].to_numpy(np.int64), table[[f"p_{i}" for i in range(5)]].to_numpy(np.float64)


class TestJudged:
    def test_by_the_preprocessing_it_was_trained_on(self, trained: Trained):
        """All 100 decisions are those of OpenCV and torch."""
        decisions, probabilities = decided(trained, TRAINED_ON)
        assert (decisions == trained.decisions).sum() == 100
        assert np.abs(probabilities - trained.probabilities).max() < 1e-4

    def test_by_another_it_decides_otherwise(self, trained: Trained):
        """Of 100 real photographs, 61 (with LoRA) and 36 (without) get another grade: a verdict on another model."""
        decisions, _ = decided(trained, f"fundus-square-1@{SIZE}")
        assert (decisions != trained.decisions).sum() >= 20

    @WITH_LORA
    def test_never_by_one_that_nobody_stated(self, trained: Trained, drgate: Callable[..., Ended], tmp_path: Path):
        """The presets are named; the size is the network's; nothing is written."""
        common = ("score", trained.file, "--data", trained.data, "--split", "val", "--base", trained.base.folder)
        out = tmp_path / "p.parquet"
        for stated, words in (
            ((), "does not record the preprocessing. State it with --preprocess: one of fundus-square-1, "),
            (("--preprocess", "imagenet"), "There is no preprocessing 'imagenet'; expected one of fundus-square-1, "),
            (
                ("--preprocess", "imagenet-stretch"),
                "448 pixels, but the network takes 112; give --preprocess ",
            ),
            (("--preprocess", tmp_path / "none.yaml"), "none.yaml cannot be read"),
        ):
            ended = drgate(*common, "--out", out, *stated)
            assert ended.code == 2
            assert words in ended.err
            assert ended.err.count("\n") == 1
            assert not out.exists()


class TestTrainedFurther:
    def config(self, trained: Trained, folder: Path, **changes: Any) -> TrainingConfig:
        settings: dict[str, Any] = {
            "dataset": str(trained.data),
            "base": str(trained.base.folder),
            "output_dir": str(folder),
            "preprocess": TRAINED_ON,
            "learning_rate": 1e-12,
            "num_epochs": 4,
            "num_workers": 0,
            "cache_dir": str(trained.data.with_name("cache")),
            "use_lora": "yes" if trained.lora else "no",
            "lora_r": RANK,
            "lora_alpha": 2 * RANK,
            "augmentation": "none",
            "resume_from_checkpoint": str(trained.file),
        }
        return TrainingConfig(**settings | changes)

    def test_its_first_validation_is_the_stored_one(self, trained: Trained, tmp_path: Path):
        """By the same preprocessing; by another one it is another figure."""
        record = train(self.config(trained, tmp_path / "same"), quiet=True)
        assert record["history"][0]["epoch"] == 4
        assert record["history"][0]["val_accuracy"] == pytest.approx(record["inherited"][-1]["val_accuracy"])
        assert record["parameters"]["preprocess"] == TRAINED_ON
        assert record["preprocessing"]["digest"] == parse_preprocessing(TRAINED_ON).digest
        other = self.config(trained, tmp_path / "other", preprocess=f"fundus-square-1@{SIZE}")
        record = train(other, quiet=True)
        assert record["history"][0]["val_accuracy"] < record["inherited"][-1]["val_accuracy"] - 0.03

    @WITH_LORA
    def test_its_child_keeps_the_preprocessing(self, trained: Trained, tmp_path: Path):
        """What nobody states is the parent's; another is a named difference; a resumed run has no choice."""
        first = self.config(trained, tmp_path / "first")
        train(first, quiet=True)
        child = str(tmp_path / "first" / "best_model.pth")
        weights = {"resume_from_checkpoint": None, "init_from": child, "num_epochs": 1}
        record = train(self.config(trained, tmp_path / "kept", preprocess=None, **weights), quiet=True)
        assert "preprocess" not in record["changed"]
        assert load_grader(tmp_path / "kept" / "best_model.pth").preprocessing.label == TRAINED_ON
        record = train(self.config(trained, tmp_path / "changed", preprocess=f"siglip@{SIZE}", **weights), quiet=True)
        assert record["changed"]["preprocess"] == [TRAINED_ON, f"siglip@{SIZE}"]
        with pytest.raises(UsageError, match=f"--preprocess was {TRAINED_ON} when this run began and is siglip@{SIZE}"):
            train(self.config(trained, tmp_path / "kept", preprocess=f"siglip@{SIZE}", **weights), resume=True)
        assert load_grader(Path(child)).preprocessing.digest == parse_preprocessing(TRAINED_ON).digest
        with pytest.raises(
            UsageError, match=f"--preprocess siglip@{SIZE} contradicts best_model.pth, which states {TRAINED_ON}"
        ):
            load_grader(Path(child), None, parse_preprocessing(f"siglip@{SIZE}"))

    @WITH_LORA
    def test_a_size_that_the_network_cannot_take(self, trained: Trained, tmp_path: Path):
        """One sentence, before anything is decoded."""
        with pytest.raises(CheckpointError, match="makes images of 448 pixels, but the network takes 112"):
            train(self.config(trained, tmp_path / "large", preprocess="imagenet-stretch"), quiet=True)
        assert not (tmp_path / "large").exists()
