"""The same weights in every form that people keep them in: one confusion matrix."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from drgate.certificate.keys import generate_key, load_private_key
from drgate.checklist import parse_checklist
from drgate.manifest import load_manifest
from drgate.scale import parse_grade
from drgate.score import score
from drgate.vision.graders import load_grader
from tests.support.classifiers import NAMES, SIDE, adapted, answers, model_yaml, save, save_adapter, siglip
from tests.support.tiny import write_eyes
from tests.support.verbs import exported, judged, verified

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


class Answering(nn.Module):
    """The network's logits, or their softmax."""

    def __init__(self, network: nn.Module, *, softmax: bool) -> None:
        super().__init__()
        self.network, self.softmax = network, softmax

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(pixel_values=image).logits
        return logits.softmax(dim=-1) if self.softmax else logits


def onnx_file(trained: Trained, folder: Path, *, softmax: bool, **output: str) -> dict[str, Any]:
    """As PyTorch's own exporter writes it."""
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its future
        torch.onnx.export(
            Answering(trained.merged, softmax=softmax).eval(),
            (torch.zeros(2, 3, SIDE, SIDE),),
            folder / "net.onnx",
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    model_yaml(folder, "net.onnx", "onnx", classes=NAMES, output=output)
    return {"path": folder / "net.onnx"}


def onnx_with_logits(trained: Trained, folder: Path) -> dict[str, Any]:
    return onnx_file(trained, folder, softmax=False, kind="logits")


def onnx_with_probabilities(trained: Trained, folder: Path) -> dict[str, Any]:
    return onnx_file(trained, folder, softmax=True, kind="probabilities")


GRADER = f"""
from pathlib import Path

import torch
from transformers import SiglipConfig, SiglipForImageClassification


class Grader:
    kind, classes, preprocessing = "logits", {NAMES}, "siglip@{SIDE}"

    def __init__(self, config, weights):
        self.files = [weights, config]
        self.network = SiglipForImageClassification(SiglipConfig.from_json_file(config)).eval()
        self.network.load_state_dict(torch.load(weights, weights_only=True))

    def predict(self, batch):
        with torch.inference_mode():
            return self.network(pixel_values=torch.from_numpy(batch)).logits


def load(weights):
    return Grader(*weights)
"""


def python_grader(trained: Trained, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    trained.merged.config.to_json_file(folder / "config.json")
    torch.save(trained.merged.state_dict(), folder / "weights.pth")
    code = folder.with_suffix(".py")
    code.write_text(GRADER)
    return {"path": folder, "python": f"{code}:load"}


WAYS: list[Callable[[Trained, Path], dict[str, Any]]] = [
    peft_folder,
    merged_safetensors,
    hugging_face_folder,
    lightning_file,
    bare_state_dict,
    onnx_with_logits,
    onnx_with_probabilities,
    python_grader,
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


@pytest.mark.parametrize("way", [peft_folder, hugging_face_folder], ids=lambda way: way.__name__)
def test_a_folder_becomes_a_certified_bundle(
    way: Callable[[Trained, Path], dict[str, Any]], trained: Trained, tmp_path: Path
):
    """Judged and signed, exported, its ONNX file judged again: one matrix, all of it under the certificate."""
    generate_key(tmp_path / "key", None)
    key = load_private_key(tmp_path / "key.pem")
    plain = {"name": "any", "version": 1, "looks": 2, "criteria": [{"id": "accuracy", "at_least": 0.001}]}
    checklist = parse_checklist(plain | {"bootstrap": {"resamples": 1000}}, "any")
    given = way(trained, tmp_path / "model")
    asked: dict[str, Any] = given | {"data": trained.eyes, "checklist": checklist, "workers": 0, "key": key}
    looks = tmp_path / "looks.jsonl"
    first = judged(**asked, looks=looks, out=tmp_path / "report")
    assert first.evaluation.verdict == "PASS"
    assert np.array_equal(first.evaluation.confusion_matrix, trained.matrix)
    certificate = first.folder / "certificate.json"
    found = exported(**asked, certificate=certificate, out=tmp_path / "bundle", trusted=[key.public])
    assert found.exported
    assert np.array_equal(found.judgement.evaluation.confusion_matrix, trained.matrix)
    checked = verified(found.folder / "certificate.json", models=[found.folder], trusted=[key.public])
    assert (checked.exit_code, checked.problems) == (0, ())
    table = score(load_grader(found.folder), load_manifest(trained.eyes).select("test"), workers=0)
    assert np.abs(table.probabilities() - trained.probabilities).max() < 1e-4
