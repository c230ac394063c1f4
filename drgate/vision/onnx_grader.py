"""A grader from an ONNX file: a bundle that `drgate export` wrote, or a foreign model."""

from __future__ import annotations

import io
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from drgate.answers import Answer
from drgate.errors import CheckpointError
from drgate.evaluation import Subject
from drgate.files import digest_of, parse_json
from drgate.preprocessing import Preprocessing
from drgate.scale import GRADES
from drgate.vision.grader import checked_outputs
from drgate.vision.model_files import MAX_COMPANION_BYTES, copy_and_hash
from drgate.vision.onnx_files import NEEDED, TRIAL_SECONDS, cannot_run, copy_onnx, first_line, try_out
from drgate.vision.stated import agreed, own_preprocessing

SLOWER: Final = 10
"""A batch may take so many times as long an image as the first inference, which includes starting a process."""


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
        self.answer = Answer()
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
        return {"kind": "onnx"}

    def outputs(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        import onnxruntime

        # What a black image does not start, another one can: a loop without end.
        seconds = TRIAL_SECONDS + SLOWER * self._seconds * len(batch)
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        clock = threading.Timer(seconds, setattr, (options, "terminate", True))
        clock.daemon = True
        clock.start()
        try:
            outputs = self._session.run(None, {self._input: batch}, options)[0]
        except Exception as error:  # onnxruntime's exceptions share no base class
            late = f"it took more than {seconds:.0f} seconds" if options.terminate else first_line(error)
            raise CheckpointError(f"The model cannot grade {len(batch)} images here ({late}).") from error
        finally:
            clock.cancel()
        return checked_outputs(outputs, batch, self.answer)


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
