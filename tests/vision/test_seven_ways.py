"""The same weights in every form that people keep them in: one confusion matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from drgate.manifest import load_manifest
from drgate.scale import parse_grade
from drgate.score import score
from drgate.vision.graders import load_grader
from tests.support.classifiers import NAMES, SIDE, adapted, answers, model_yaml, save, save_adapter, siglip
from tests.support.tiny import write_eyes

ALPHABETICAL = [f"{name}" for name in ("mild_npdr", "moderate_npdr", "no_dr", "pdr", "severe_npdr")]


@dataclass(frozen=True)
class Trained:
    """One network as peft and transformers hold it, photographs, and what it decides by its own logits."""

    adapter: Any
    """The network with adapters, not merged."""
    merged: Any
    """Another one, whose weights are the sums."""
    base: Path
    eyes: Path
    matrix: np.ndarray
    """Images by reference grade (rows) and decided grade."""
    probabilities: np.ndarray


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    place = tmp_path_factory.mktemp("seven")
    eyes = write_eyes(place / "eyes", train=0, val=0, test=8)
    rows = load_manifest(eyes).select("test")
    pixels = []
    for image in rows.table["image"]:  # as SigLIP's processor does, written with Pillow alone
        small = Image.open(rows.path(image)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels.append((np.asarray(small).transpose(2, 0, 1) / 255 - 0.5) / 0.5)
    batch = np.stack(pixels).astype(np.float32)

    def made() -> Any:
        return adapted(siglip(), use_rslora=True, alpha_pattern={"fc1": 4}, modules_to_save=["classifier"])

    model = made()
    logits = answers(model, batch)
    head = model.base_model.model.classifier.modules_to_save["default"]
    with torch.no_grad():  # so that every grade is decided for some
        spread = torch.from_numpy(logits.std(axis=0))
        head.weight.div_(spread[:, None])
        head.bias.copy_((head.bias - torch.from_numpy(logits.mean(axis=0))) / spread)
    other = made()
    other.load_state_dict(model.state_dict())
    logits = answers(model, batch)
    grades = np.array([parse_grade(name) for name in NAMES])
    matrix = np.zeros((5, 5), int)
    np.add.at(matrix, (rows.table["grade"].to_numpy(), grades[logits.argmax(axis=1)]), 1)
    assert np.count_nonzero(matrix.sum(axis=0)) >= 4, "it decides between grades"
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    base = save(siglip(), place / "base")
    return Trained(model, other.merge_and_unload(), base, eyes, matrix, p[:, np.argsort(grades)])


def peft_folder(trained: Trained, folder: Path) -> dict[str, Any]:
    save_adapter(trained.adapter, folder)
    return {"path": folder, "base": str(trained.base)}


def hugging_face_folder(trained: Trained, folder: Path) -> dict[str, Any]:
    return {"path": save(trained.merged, folder)}


def merged_safetensors(trained: Trained, folder: Path) -> dict[str, Any]:
    """A file of its own, described by model.yaml."""
    save(trained.merged, folder, processor=False)
    (folder / "model.safetensors").unlink()
    state = {name: one.contiguous() for name, one in trained.merged.state_dict().items()}
    save_file(state, folder / "merged.safetensors")
    return {"path": model_yaml(folder, "merged.safetensors", "hf", classes=ALPHABETICAL)}


def lightning_file(trained: Trained, folder: Path) -> dict[str, Any]:
    save(trained.merged, folder)
    (folder / "model.safetensors").unlink()
    state = {f"model.{name}": one for name, one in trained.merged.state_dict().items()}
    payload = {"epoch": 2, "global_step": 30, "pytorch-lightning_version": "2.6.0", "state_dict": state}
    torch.save(payload | {"hyper_parameters": {"lr": 2e-5}}, folder / "last.ckpt")
    return {"path": folder / "last.ckpt"}


def bare_state_dict(trained: Trained, folder: Path) -> dict[str, Any]:
    save(trained.merged, folder)
    (folder / "model.safetensors").unlink()
    torch.save(trained.merged.state_dict(), folder / "weights.pth")
    return {"path": folder / "weights.pth"}


WAYS: list[Callable[[Trained, Path], dict[str, Any]]] = [
    peft_folder,
    merged_safetensors,
    hugging_face_folder,
    lightning_file,
    bare_state_dict,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_one_confusion_matrix(way: Callable[[Trained, Path], dict[str, Any]], trained: Trained, tmp_path: Path):
    """Whatever form the weights have, the decisions are those of the network that was trained."""
    grader = load_grader(**way(trained, tmp_path / "model"))
    rows = load_manifest(trained.eyes).select("test")
    table = score(grader, rows, workers=0).table.set_index("image").loc[rows.table["image"]]
    matrix = np.zeros((5, 5), int)
    np.add.at(matrix, (rows.table["grade"].to_numpy(), table["predicted"].to_numpy(np.int64)), 1)
    assert matrix.tolist() == trained.matrix.tolist()
    probabilities = table[[f"p_{grade}" for grade in range(5)]].to_numpy(np.float64)
    assert np.abs(probabilities - trained.probabilities).max() < 1e-5
