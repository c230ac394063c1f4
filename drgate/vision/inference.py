"""A network of torch that grades batches: on one device, in one precision.

    inference = Inference(network, answer, preprocessing, "bf16")
    answers = inference.begin(pixels)       # uint8 (n, size, size, 3); on CUDA it returns before they are graded
    answers()                               # outputs (n, k) in float32

Pixels are moved to the device as they were decoded, a quarter of the bytes where they are whole grey levels, and scaled
there by the arithmetic of `Preprocessing.scaled`, to the same bits.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drgate.answers import Answer
from drgate.errors import CheckpointError
from drgate.evaluation import Precision
from drgate.preprocessing import Preprocessing
from drgate.vision.grader import checked_outputs
from drgate.vision.onnx_files import first_line

DTYPES: Final[dict[Precision, torch.dtype]] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class Inference:
    """A network on the GPU if there is one, else on the CPU; under torchrun, each process has a GPU of its own.

    network: float32, on the CPU, in eval mode: images (n, 3, size, size) to outputs (n, k). In fp32 it is moved to the
    device itself; in another precision it stays as it is, and a copy computes.
    """

    def __init__(
        self, network: nn.Module, answer: Answer, preprocessing: Preprocessing, precision: Precision = "fp32"
    ) -> None:
        own = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = torch.device("cuda", own) if torch.cuda.is_available() else torch.device("cpu")
        self.precision = precision
        self._answer, self._preprocessing, self._dtype = answer, preprocessing, DTYPES[precision]
        self._whole = None if precision == "fp32" else network
        self._network = network.to(self.device) if self._whole is None else placed(network, self.device, self._dtype)
        cuda = self.device.type == "cuda"
        self._copying = torch.cuda.Stream(self.device) if cuda else None  # type: ignore[no-untyped-call]

    @property
    def providers(self) -> list[str]:
        return [f"cuda:{torch.cuda.get_device_name(self.device)}" if self.device.type == "cuda" else "cpu"]

    def network(self) -> nn.Module:
        """The network in float32 on the CPU."""
        if self._whole is not None:
            return self._whole
        return self._network if self.device.type == "cpu" else copy.deepcopy(self._network).cpu()

    def in_fp32(self) -> Inference:
        """The same network in float32 on the same device, which shares its tensors where they are there already."""
        network = self._whole or self._network
        return Inference(placed(network, self.device, torch.float32), self._answer, self._preprocessing)

    def outputs(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs (n, k) in float32 for scaled images. Raises CheckpointError where they cannot be computed here."""
        return self._begin(batch, lambda images: images)()

    def begin(self, pixels: NDArray[Any]) -> Callable[[], NDArray[np.float32]]:
        """Begin to grade pixels (n, size, size, 3), as `Preprocessing.pixels` gives them; what it returns gives the
        outputs. On CUDA nothing waits for the device before that, so that it has work while more is prepared.

        Both raise CheckpointError where the outputs cannot be computed here.
        """
        return self._begin(pixels, lambda images: scaled(images, self._preprocessing))

    def _begin(self, given: NDArray[Any], scale: Callable[[Tensor], Tensor]) -> Callable[[], NDArray[np.float32]]:
        with self._refusing(len(given)), torch.inference_mode(), _exact():
            images = scale(self._moved(torch.from_numpy(given))).to(self._dtype)
            found = self._network(images).float()
            if self._copying is None:
                outputs, done = found, None
            else:
                outputs = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
                outputs.copy_(found, non_blocking=True)
                done = torch.cuda.Event()  # type: ignore[no-untyped-call]
                done.record(torch.cuda.current_stream(self.device))

        def answers() -> NDArray[np.float32]:
            with self._refusing(len(given)):
                if done is not None:
                    done.synchronize()
            return checked_outputs(outputs.numpy(), given, self._answer)

        return answers

    def _moved(self, given: Tensor) -> Tensor:
        """On the device. On CUDA it is copied in a stream of its own, while the batch before is computed."""
        if self._copying is None:
            return given
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copying):
            moved = given.pin_memory().to(self.device, non_blocking=True)
        computing.wait_stream(self._copying)
        moved.record_stream(computing)  # its memory is not given away before the network has read it
        return moved

    @contextlib.contextmanager
    def _refusing(self, images: int) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:  # torch reports missing memory as RuntimeError
            how, remedy = ("", "") if self._whole is None else (f" in {self.precision}", " Try --precision fp32.")
            raise CheckpointError(
                f"The model cannot grade {images} images here{how} ({first_line(error)}).{remedy}"
            ) from error


def placed(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A copy of a network on a device and in a type, tensor by tensor; tensors that are so already are shared."""
    known: dict[int, Any] = {}
    for tensor in [*network.parameters(), *network.buffers()]:
        moved = tensor.detach().to(device, dtype if tensor.is_floating_point() else None)
        known[id(tensor)] = nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved
    return copy.deepcopy(network, known)


def scaled(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """`preprocessing.scaled` of pixels (n, size, size, 3), where they are: the same operations in the same order."""
    order = torch.tensor(preprocessing.order, device=pixels.device)
    values = pixels.index_select(-1, order)
    if preprocessing.layout == "nchw":
        values = values.movedim(-1, -3)
    values = values.contiguous().float()
    shape = (3, 1, 1) if preprocessing.layout == "nchw" else (3,)

    def number(plain: Any) -> Tensor:
        # divided by a number of Python, CUDA multiplies by its rounded inverse
        return torch.from_numpy(np.asarray(plain, dtype=np.float32)).to(pixels.device)

    scale = preprocessing.scale
    if "range" in scale:
        low, high = (np.float32(end) for end in scale["range"])
        return values.mul_(number((high - low) / np.float32(255))).add_(number(low))
    mean, deviation = (number(scale[key]).reshape(shape) for key in ("mean", "std"))
    return values.div_(number(255)).sub_(mean).div_(deviation)


def _exact() -> Any:
    """On CUDA, convolutions in the precision that is recorded (TF32 has 10 bits), the same each time."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
