"""A grader from a checkpoint of `drtrain`, or from weights of its network from elsewhere."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drgate.errors import CheckpointError
from drgate.preprocessing import Preprocessing
from drgate.record import OLDER
from drgate.vision.grader import checked_outputs
from drgate.vision.onnx_files import first_line
from drgate.vision.stated import agreed

if TYPE_CHECKING:
    from torch import nn


class CheckpointGrader:
    """A checkpoint in float32, on the GPU if there is one, else on the CPU."""

    def __init__(
        self,
        path: Path,
        base: str | None = None,
        preprocess: Preprocessing | None = None,
        lora_alpha: float | None = None,
    ) -> None:
        import torch

        from drgate.vision.base import resolve_base, shown_id
        from drgate.vision.network import merge_lora
        from drgate.vision.older import load_any_checkpoint

        resolved = None if base is None else resolve_base(base)
        self.checkpoint = load_any_checkpoint(path, resolved, preprocess, alpha=lora_alpha)
        self.preprocessing = agreed(self.checkpoint.preprocessing, preprocess, path.name)
        rank = int(os.environ.get("LOCAL_RANK", "0"))  # under torchrun, one device per process
        self._device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
        lora = self.checkpoint.lora
        ours = (self.checkpoint.record or {}).get("format") != OLDER
        if lora_alpha is not None and ours and (lora is None or lora.alpha != lora_alpha):
            own = "no LoRA adapters" if lora is None else f"LoRA's alpha {lora.alpha:g}"
            raise CheckpointError(f"{path} states {own}, not alpha {lora_alpha:g}; leave --lora-alpha out.")
        # An adapter beside its layer costs a third of the speed on a CPU.
        self._model = merge_lora(self.checkpoint.build(resolved)).to(self._device)
        self._base = shown_id(self.checkpoint.base.id)
        assert self.checkpoint.file is not None, "it was read from a file"
        self.files = (self.checkpoint.file, *self.checkpoint.beside)
        self.tensor_digest = self.checkpoint.tensor_digest
        self.record = self.checkpoint.record
        self.fingerprint = self.checkpoint.fingerprint
        self.unknown_data = self.checkpoint.unknown_data
        self.providers = [f"cuda:{torch.cuda.get_device_name(self._device)}" if self._device.type == "cuda" else "cpu"]
        self.answer = self.checkpoint.answer

    @property
    def notes(self) -> list[str]:
        limits = (self.checkpoint.record or {}).get("limitations")
        found = [str(sentence) for sentence in limits] if isinstance(limits, list) else []
        if self.checkpoint.dead:
            beside = ", but for the tensors that it replaces," if self.checkpoint.replaced else ""
            found.append(f"Every LoRA adapter is zero: this is the base model {self._base}{beside} with this head.")
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
            "epoch": checkpoint.epoch or None,
            "fingerprint": checkpoint.fingerprint is not None,
        }

    def network(self) -> nn.Module:
        """See `drgate.vision.grader.Exportable`."""
        return self._model if self._device.type == "cpu" else copy.deepcopy(self._model).cpu()

    def outputs(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        try:
            with torch.inference_mode():
                outputs = self._model(torch.from_numpy(batch).to(self._device)).cpu().numpy()
        except (RuntimeError, MemoryError) as error:  # torch reports missing memory as RuntimeError
            raise CheckpointError(f"The model cannot grade {len(batch)} images here ({first_line(error)}).") from error
        return checked_outputs(outputs, batch, self.answer)
