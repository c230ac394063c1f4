"""Models and data sets so small that a test can train on them, of the real architecture and layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from transformers import SiglipVisionConfig, SiglipVisionModel

from drgate.patients import PatientKey
from drgate.preprocessing import FUNDUS_SQUARE, parse_preprocessing
from drgate.scale import GRADES
from drgate.vision.base import Base, resolve_base
from drgate.vision.checkpoint import BaseReference, Checkpoint, LoraSettings, checkpoint_tensors
from drgate.vision.fingerprint import Fingerprint
from drgate.vision.network import GradingModel, add_lora, architecture

WIDTH = 32
PATIENT_KEY = PatientKey.of(b"k" * 32)
SIZE = 28


def people(*names: str | None) -> pd.DataFrame:
    """A table that names these patients."""
    return pd.DataFrame({"patient": names}, dtype=object)


def patient_key_file(path: Path) -> Path:
    """`PATIENT_KEY` as `drgate keygen --patients` writes a key."""
    path.write_text(f"drgate patient key 1\n{(b'k' * 32).hex()}\n")
    return path


def write_base(folder: Path, *, seed: int = 0, prefix: str = "", **changes: Any) -> Path:
    """A random SigLIP vision tower as save_pretrained lays it out."""
    torch.manual_seed(seed)
    settings = {
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": 7,
    } | changes
    config = SiglipVisionConfig(**settings)
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    tensors = {f"{prefix}{name}": tensor for name, tensor in SiglipVisionModel(config).state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def random_model(base: Base, *, lora: bool = True, seed: int = 0) -> GradingModel:
    """A grading network whose adapters and head are random (a fresh adapter's B is zero and would hide mistakes)."""
    torch.manual_seed(seed)
    backbone = add_lora(base.load(), r=4, alpha=8) if lora else base.load()
    model = GradingModel(backbone, WIDTH, 0.1).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    return model


def checkpoint_of(model: GradingModel, base: Base, *, lora: bool = True, **changes: Any) -> Checkpoint:
    """A checkpoint of a network, with a fingerprint of three images and two patients."""
    tower, head = checkpoint_tensors(model)
    fields: dict[str, Any] = {
        "base": BaseReference.of(base),
        "architecture": architecture(base.config),
        "lora": LoraSettings(4, 8.0) if lora else None,
        "tower": tower,
        "head": head,
        "dropout": 0.1,
        "preprocessing": parse_preprocessing(f"{FUNDUS_SQUARE}@{SIZE}"),
        "training_config": {"learning_rate": 1e-3},
        "epoch": 3,
        "record": {"history": [{"epoch": 1, "val_accuracy": 0.5}], "status": "running"},
        "fingerprint": Fingerprint.build([bytes([i]) * 32 for i in (7, 3, 5)], people("10", "11", "10"), PATIENT_KEY),
    }
    return Checkpoint(**fields | changes)


WEIGHT = np.arange(15, dtype=np.float32).reshape(3, 5)


def onnx_model(nodes: Sequence[Any] = (), tensors: Sequence[Any] = (), answer: str = "flat @ weight") -> Any:
    """A ModelProto: logits = mean over the pixels @ `WEIGHT`, or what `nodes` makes of `answer` if they are given."""
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])
    own = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], [answer if nodes else "logits"]),
    ]
    weight = numpy_helper.from_array(WEIGHT, "weight")
    graph = helper.make_graph([*own, *nodes], "tiny", [pixels], [logits], [weight, *tensors])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def recipe(**changes: Any) -> dict[str, Any]:
    """The preprocessing of the models here as plain values, with changes."""
    return {**parse_preprocessing(f"{FUNDUS_SQUARE}@{SIZE}").content(), **changes}


def write_onnx(folder: Path, model: Any = None) -> Path:
    """An ONNX model of three inputs and five logits, its weight in a file of its own, and what belongs beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(
        onnx_model() if model is None else model,
        path,
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=90,
    )
    (folder / "preprocess.json").write_text(json.dumps(recipe()))
    (folder / "labels.json").write_text(json.dumps(list(GRADES)))
    return path


def tiny_base(folder: Path, **changes: Any) -> Base:
    return resolve_base(str(write_base(folder, **changes)))


def eye(grade: int, seed: int, size: int = 112) -> Image.Image:
    """A disc that is the redder the worse its grade, something that two epochs learn; with vessels of its own."""
    generator = np.random.default_rng([grade, seed])
    image = Image.new("RGB", (size, size))
    green = 200 - 45 * grade + int(generator.integers(-4, 5))
    draw = ImageDraw.Draw(image)
    draw.ellipse((3, 3, size - 4, size - 4), fill=(200, green, 60))
    for x, y in generator.integers(size // 5, 4 * size // 5, (9, 2)).tolist():
        turn = float(generator.random() * 2 * np.pi)
        across = (size / 5 * np.cos(turn), size / 5 * np.sin(turn))
        draw.line((x - across[0], y - across[1], x + across[0], y + across[1]), (150, green - 15, 45), size // 28)
    noise = generator.integers(0, 12, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(np.asarray(image) // 2 + 60 + noise)


def write_eyes(folder: Path, *, train: int = 6, val: int = 4, test: int = 2, extra: str = "") -> Path:
    """A data set with so many patients a grade in each split, one eye a patient, and labels.csv.

    extra: further lines of labels.csv.
    """
    (folder / "images").mkdir(parents=True)
    lines = ["image,grade,patient,eye,gradable,split"]
    for split, patients in (("train", train), ("val", val), ("test", test)):
        for grade in range(5):
            for index in range(patients):
                name = f"{split}-{grade}-{index}"
                eye(grade, seed=len(lines)).save(folder / "images" / f"{name}.png")
                lines.append(f"images/{name}.png,{grade},patient-{len(lines)},L,true,{split}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n" + extra)
    return folder
