"""Graders: models that give logits for images, from a checkpoint of `drtrain` or an exported ONNX file.

grader = load_grader(Path("best_model.pth"))
logits = grader.logits(batch)                   # (n, 3, size, size) float32  ->  (n, 5) float32
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from drgate.errors import CheckpointError
from drgate.evaluation import Subject
from drgate.files import digest_of, parse_json, read_json
from drgate.preprocessing import Preprocessing
from drgate.scale import GRADES
from drgate.vision.fingerprint import Fingerprint
from drgate.vision.model_files import MAX_COMPANION_BYTES, copy_and_hash
from drgate.vision.onnx_files import NEEDED, TRIAL_SECONDS, cannot_run, copy_onnx, first_line, try_out
from drgate.vision.stated import agreed, own_preprocessing

SLOWER: Final = 10
"""A batch may take so many times as long an image as the first inference, which includes starting a process."""


class Grader(Protocol):
    """What scoring needs from a model."""

    @property
    def preprocessing(self) -> Preprocessing: ...

    @property
    def files(self) -> tuple[Subject, ...]:
        """The files that this model was loaded from, by the bytes that were loaded; first the one in the role model."""
        ...

    @property
    def tensor_digest(self) -> str:
        """`sha256:...` over everything that decides the logits; the training record does not change it."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """Kind, base model, class names and so on, as plain JSON values."""
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
        """Logits (n, 5) in float32 for preprocessed images (n, 3, size, size), or (n, size, size, 3) for nhwc."""
        ...


def load_grader(path: Path, base: str | None = None, preprocess: Preprocessing | None = None) -> Grader:
    """The model in a `.pth` checkpoint or an `.onnx` file.

    base: location of a checkpoint's base model, if it has moved since training (see `drgate.vision.base.resolve_base`).
    preprocess: of a model that does not state its own.

    Raises:
        CheckpointError: the file is of another kind, damaged, or not a model of the five grades, or its preprocessing
            is not known.
        UsageError: it states another preprocessing.
    """
    if path.suffix == ".onnx":
        if base is not None:
            raise CheckpointError(f"{path} is an ONNX model, which includes its base model; leave --base out.")
        return OnnxGrader(path, preprocess)
    if path.suffix in (".pth", ".pt"):
        return CheckpointGrader(path, base, preprocess)
    raise CheckpointError(
        f"{path} is not a model that drgate reads; expected a checkpoint (*.pth) or an ONNX model (*.onnx)."
    )


def stated_by(path: Path) -> Preprocessing:
    """What a checkpoint of drtrain, or the preprocess.json beside an ONNX model, states; the model is not built.

    Raises CheckpointError where there is none.
    """
    if path.suffix.lower() == ".onnx":
        beside = path.with_name("preprocess.json")
        return own_preprocessing(read_json(beside, "a preprocessing", CheckpointError), str(beside))
    from drgate.vision.checkpoint import load_checkpoint

    return load_checkpoint(path).preprocessing


class CheckpointGrader:
    """A checkpoint in float32, on the GPU if there is one, else on the CPU."""

    def __init__(self, path: Path, base: str | None = None, preprocess: Preprocessing | None = None) -> None:
        import torch

        from drgate.vision.base import resolve_base, shown_id
        from drgate.vision.older import load_any_checkpoint

        resolved = None if base is None else resolve_base(base)
        self.checkpoint = load_any_checkpoint(path, resolved, preprocess)
        self.preprocessing = agreed(self.checkpoint.preprocessing, preprocess, path.name)
        own = int(os.environ.get("LOCAL_RANK", "0"))  # under torchrun, one device per process
        self._device = torch.device("cuda", own) if torch.cuda.is_available() else torch.device("cpu")
        self._model = self.checkpoint.build(resolved).to(self._device)
        self._base = shown_id(self.checkpoint.base.id)
        assert self.checkpoint.file is not None, "it was read from a file"
        self.files = (self.checkpoint.file,)
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
            "epoch": checkpoint.epoch,
            "fingerprint": checkpoint.fingerprint is not None,
        }

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        try:
            with torch.inference_mode():
                logits = self._model(torch.from_numpy(batch).to(self._device)).cpu().numpy()
        except (RuntimeError, MemoryError) as error:  # torch reports missing memory as RuntimeError
            raise CheckpointError(f"The model cannot grade {len(batch)} images here ({first_line(error)}).") from error
        return _logits(logits, batch)


class OnnxGrader:
    """An ONNX model with `labels.json` next to it, on CUDA if that works, else on the CPU.

    Its preprocessing is that of `preprocess.json` next to it, else the one that is stated.
    """

    def __init__(self, path: Path, preprocess: Preprocessing | None = None) -> None:
        import onnxruntime

        if not path.is_file():
            raise CheckpointError(f"{path} does not exist; expected an ONNX model.")
        own, companions = _companions(path)
        self.preprocessing = agreed(own, preprocess, path.name if own is None else f"{path.name}'s preprocess.json")
        size = self.preprocessing.size
        shape = [3, size, size] if self.preprocessing.layout == "nchw" else [size, size, 3]
        wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        available = onnxruntime.get_available_providers()
        # Hides errors about a CUDA provider that is installed on a machine without a GPU.
        onnxruntime.set_default_logger_severity(4)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # ONNX Runtime opens external data by its name, and reads it during scoring too.
        with tempfile.TemporaryDirectory(prefix="drgate-", ignore_cleanup_errors=True) as private:
            copied = copy_onnx(path, Path(private), shape)
            self.files = (*copied, *companions)
            copy = Path(private) / path.name
            self._seconds = try_out(path, copy, shape, sum(file.size for file in copied))
            try:
                self._session = onnxruntime.InferenceSession(
                    str(copy), options, providers=[provider for provider in wanted if provider in available]
                )
            except Exception as error:  # onnxruntime's exceptions share no base class
                raise cannot_run(path, copy, error) from error
        self.providers: list[str] = self._session.get_providers()
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        taken = inputs[0].shape if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
        if list(taken[1:]) != shape or isinstance(taken[0], int):
            raise CheckpointError(
                f"{path} takes another input; expected images (n, {', '.join(map(str, shape))}) of 32-bit floats for "
                "any n."
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
        files = sorted((file.name, file.sha256) for file in self.files)
        return digest_of(["drgate onnx 2", files, self.preprocessing.digest])

    @property
    def description(self) -> dict[str, Any]:
        return {"kind": "onnx", "class_names": list(GRADES)}

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        import onnxruntime

        # What a black image does not start, another one can: a loop without end.
        seconds = TRIAL_SECONDS + SLOWER * self._seconds * len(batch)
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        clock = threading.Timer(seconds, setattr, (options, "terminate", True))
        clock.daemon = True
        clock.start()
        try:
            logits = self._session.run(None, {self._input: batch}, options)[0]
        except Exception as error:  # onnxruntime's exceptions share no base class
            late = f"it took more than {seconds:.0f} seconds" if options.terminate else first_line(error)
            raise CheckpointError(f"The model cannot grade {len(batch)} images here ({late}).") from error
        finally:
            clock.cancel()
        return _logits(logits, batch)


def _logits(values: Any, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """A model's output for a batch; a file can declare one shape and give another."""
    if not isinstance(values, np.ndarray) or values.shape != (len(batch), len(GRADES)) or values.dtype != np.float32:
        raise CheckpointError(
            f"The model gives {getattr(values, 'shape', 'no numbers')} for {len(batch)} images; expected logits (n, 5) "
            "in 32-bit floats."
        )
    return values


def _companions(path: Path) -> tuple[Preprocessing | None, list[Subject]]:
    """The preprocessing beside an ONNX model, if any, and the files beside it, read once."""
    own, files = None, []
    for name, role in NEEDED.items():
        file = path.with_name(name)
        if not file.is_file():
            if role == "preprocessing":
                continue
            raise CheckpointError(
                f"{file} does not exist; an ONNX model needs it next to {path.name} (drgate export writes it)."
            )
        files.append(copy_and_hash(file, role, content := io.BytesIO(), limit=MAX_COMPANION_BYTES))
        expected = "a preprocessing" if role == "preprocessing" else "a list of the grades' identifiers"
        plain = parse_json(content.getvalue(), str(file), expected, CheckpointError)
        if role == "preprocessing":
            own = own_preprocessing(plain, str(file))
        elif plain != list(GRADES):
            raise CheckpointError(f"{file} lists {str(plain)[:200]}; expected {list(GRADES)}, in this order.")
    return own, files
