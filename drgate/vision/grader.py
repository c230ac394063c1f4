"""A grader: what scoring needs from a model, whatever file it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from drgate.answers import Answer
from drgate.errors import CheckpointError
from drgate.evaluation import Precision, Subject
from drgate.preprocessing import Preprocessing
from drgate.vision.fingerprint import Fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


class Grader(Protocol):
    """What scoring needs from a model."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """None: it prepares photographs itself."""
        ...

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
    def precision(self) -> Precision | None:
        """In which numbers it computes; None: not known."""
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

    @property
    def answer(self) -> Answer:
        """What its outputs are."""
        ...

    def outputs(self, batch: Any) -> NDArray[np.float32]:
        """Outputs (n, answer.width) in float32 for preprocessed images (n, 3, size, size), or (n, size, size, 3).

        Without a preprocessing, for a list of photographs (height, width, 3) in uint8.
        """
        ...


class Network(Protocol):
    """A network that scales pixels itself, on its device: `drgate.vision.inference.Inference`."""

    def begin(self, pixels: NDArray[Any]) -> Callable[[], NDArray[np.float32]]:
        """Begin to grade pixels (n, size, size, 3); what it returns gives the outputs (n, k)."""
        ...

    def in_fp32(self) -> Network:
        """The same in float32."""
        ...


@runtime_checkable
class Exportable(Protocol):
    """A grader that is a network of torch."""

    @property
    def inference(self) -> Network:
        """What computes its outputs."""
        ...

    def network(self) -> nn.Module:
        """The network for export, on the CPU: images (n, 3, size, size) to outputs (n, k), its adapters merged."""
        ...


def checked_outputs(values: Any, batch: NDArray[Any], answer: Answer) -> NDArray[np.float32]:
    """A model's output for a batch; a file can declare one shape and give another."""
    if not isinstance(values, np.ndarray) or values.shape != (len(batch), answer.width) or values.dtype != np.float32:
        raise CheckpointError(
            f"The model gives {getattr(values, 'shape', 'no numbers')} for {len(batch)} images; expected "
            f"({len(batch)}, {answer.width}) in 32-bit floats."
        )
    return values
