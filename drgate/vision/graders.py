"""Graders: models that give logits for images, from a checkpoint of `drtrain` or an exported ONNX file.

grader = load_grader(Path("best_model.pth"))
logits = grader.logits(batch)                   # (n, 3, size, size) float32  ->  (n, 5) float32
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from drgate.errors import CheckpointError
from drgate.evaluation import Role
from drgate.files import digest_of, read_json, sha256_file
from drgate.scale import GRADES
from drgate.vision.fingerprint import Fingerprint
from drgate.vision.images import Preprocessing, preprocessing

ONNX_COMPANIONS: Final[dict[str, Role]] = {"preprocess.json": "preprocessing", "labels.json": "labels"}
"""Files next to an ONNX model: `{"id": ..., "size": ...}`, and the list of the five grades' identifiers."""


class Grader(Protocol):
    """What scoring needs from a model."""

    @property
    def preprocessing(self) -> Preprocessing: ...

    @property
    def files(self) -> dict[Path, Role]:
        """All files of the model with their roles; the first is the one that was given, in the role model."""
        ...

    @property
    def tensor_digest(self) -> str:
        """`sha256:...` over everything that decides the logits; the training record does not change it."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """Kind, base model, class names, preprocessing and so on, as plain JSON values."""
        ...

    @property
    def providers(self) -> list[str]:
        """The devices: `cuda:NAME` or `cpu`, or ONNX Runtime's execution providers in order."""
        ...

    @property
    def record(self) -> dict[str, Any] | None:
        """The training record, or None."""
        ...

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The fingerprint of the training set, or None."""
        ...

    @property
    def unknown_data(self) -> str:
        """Why the fingerprint may not cover all training images; empty if it does, or if a certificate covers this."""
        ...

    @property
    def notes(self) -> list[str]:
        """Sentences that the report must show with a verdict on this model."""
        ...

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (n, 5) in float32 for preprocessed images (n, 3, size, size)."""
        ...


def load_grader(path: Path, base: str | None = None) -> Grader:
    """The model in a `.pth` checkpoint or an `.onnx` file.

    base: location of a checkpoint's base model, if it has moved since training (see `drgate.vision.base.resolve_base`).

    Raises:
        CheckpointError: the file is of another kind, damaged, or not a model of the five grades.
    """
    if path.suffix == ".onnx":
        if base is not None:
            raise CheckpointError(f"{path} is an ONNX model, which includes its base model; leave --base out.")
        return OnnxGrader(path)
    if path.suffix in (".pth", ".pt"):
        return CheckpointGrader(path, base)
    raise CheckpointError(
        f"{path} is not a model that drgate reads; expected a checkpoint (*.pth) or an ONNX model (*.onnx)."
    )


class CheckpointGrader:
    """A checkpoint in float32, on the GPU if there is one, else on the CPU."""

    def __init__(self, path: Path, base: str | None = None) -> None:
        import torch

        from drgate.vision.base import resolve_base, shown_id
        from drgate.vision.older import load_any_checkpoint

        resolved = None if base is None else resolve_base(base)
        self.checkpoint = load_any_checkpoint(path, resolved)
        own = int(os.environ.get("LOCAL_RANK", "0"))  # under torchrun, one device per process
        self._device = torch.device("cuda", own) if torch.cuda.is_available() else torch.device("cpu")
        self._model = self.checkpoint.build(resolved).to(self._device)
        self._base = shown_id(self.checkpoint.base.id)
        self.preprocessing = self.checkpoint.preprocessing
        self.files: dict[Path, Role] = {path: "model"}
        self.tensor_digest = self.checkpoint.tensor_digest
        self.record = self.checkpoint.record
        self.fingerprint = self.checkpoint.fingerprint
        self.unknown_data = self.checkpoint.unknown_data
        self.providers = [f"cuda:{torch.cuda.get_device_name(self._device)}" if self._device.type == "cuda" else "cpu"]

    @property
    def notes(self) -> list[str]:
        limits = (self.checkpoint.record or {}).get("limitations")
        found = [str(sentence) for sentence in limits] if isinstance(limits, list) else []
        if own := self.checkpoint.replaced:
            found.append(f"Besides its adapters, the model replaces {len(own)} tensors of the base model {self._base}.")
        return found

    @property
    def description(self) -> dict[str, Any]:
        checkpoint = self.checkpoint
        base = {name: getattr(checkpoint.base, name) for name in checkpoint.base.__slots__}
        lora = checkpoint.lora
        return {
            "kind": "checkpoint",
            "base": base | {"id": self._base},
            "lora": None if lora is None else {"r": lora.r, "alpha": lora.alpha},
            "class_names": list(GRADES),
            "preprocessing": self.preprocessing.as_dict(),
            "epoch": checkpoint.epoch,
            "fingerprint": checkpoint.fingerprint is not None,
        }

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            logits: NDArray[np.float32] = self._model(torch.from_numpy(batch).to(self._device)).cpu().numpy()
        return logits


class OnnxGrader:
    """An ONNX model with `preprocess.json` and `labels.json` next to it, on CUDA if that works, else on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self.preprocessing = _preprocessing_beside(path)
        self.files: dict[Path, Role] = {
            path: "model",
            **dict.fromkeys(_onnx_files(path)[1:], "data"),
            **{path.with_name(name): role for name, role in ONNX_COMPANIONS.items()},
        }
        wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        available = onnxruntime.get_available_providers()
        # Hides errors about a CUDA provider that is installed on a machine without a GPU.
        onnxruntime.set_default_logger_severity(4)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=[provider for provider in wanted if provider in available]
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise CheckpointError(
                f"{path} is not an ONNX model that can run here ({_first_line(error)}); export it again."
            ) from error
        self.providers: list[str] = self._session.get_providers()
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        size = self.preprocessing.size
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or list(inputs[0].shape[1:]) != [3, size, size]:
            raise CheckpointError(
                f"{path} takes another input; expected images (n, 3, {size}, {size}) of 32-bit floats."
            )
        if len(outputs) != 1 or len(outputs[0].shape) != 2 or outputs[0].shape[1] != len(GRADES):
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise CheckpointError(f"{path} gives the output {shapes}; expected logits (n, 5) of the five grades.")
        self._input = inputs[0].name
        self.record = None
        self.fingerprint = None
        self.unknown_data = ""
        self.notes: list[str] = []

    @property
    def tensor_digest(self) -> str:
        named = sorted((file.name, sha256_file(file)) for file in self.files)
        return digest_of(["drgate onnx 1", named])

    @property
    def description(self) -> dict[str, Any]:
        return {"kind": "onnx", "class_names": list(GRADES), "preprocessing": self.preprocessing.as_dict()}

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run(None, {self._input: batch})[0]
        return logits


def _preprocessing_beside(path: Path) -> Preprocessing:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected an ONNX model.")
    settings_file, labels_file = (path.with_name(name) for name in ONNX_COMPANIONS)
    for file in (settings_file, labels_file):
        if not file.is_file():
            raise CheckpointError(
                f"{file} does not exist; an ONNX model needs it next to {path.name} (drgate export writes it)."
            )
    settings = read_json(settings_file, '{"id": ..., "size": ...}', CheckpointError)
    labels = read_json(labels_file, "a list of the grades' identifiers", CheckpointError)
    if labels != list(GRADES):
        raise CheckpointError(f"{labels_file} lists {labels}; expected {list(GRADES)}.")
    if (
        not isinstance(settings, dict)
        or not isinstance(settings.get("id"), str)
        or type(settings.get("size")) is not int
    ):
        raise CheckpointError(f'{settings_file} has other contents; expected {{"id": ..., "size": ...}}.')
    return preprocessing(settings["id"], settings["size"])


def _onnx_files(path: Path) -> list[Path]:
    """The model file and its external data files, which must be in the same folder."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's exceptions
        raise CheckpointError(f"{path} is not an ONNX model ({_first_line(error)}).") from error
    names = {
        entry.value
        for tensor in onnx.external_data_helper._get_all_tensors(model)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in sorted(names):
        if os.path.basename(name) != name or not path.with_name(name).is_file():  # noqa: PTH119  # as the file spells it
            raise CheckpointError(f"{path} refers to weights in {name!r}, which is not a file in the same folder.")
    return [path, *(path.with_name(name) for name in sorted(names))]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
