"""A grader from a checkpoint of `drtrain`, or from weights of its network from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drgate.errors import CheckpointError
from drgate.evaluation import Precision
from drgate.preprocessing import Preprocessing
from drgate.record import OLDER
from drgate.vision.stated import agreed

if TYPE_CHECKING:
    from torch import nn


class CheckpointGrader:
    """A checkpoint on the GPU if there is one, else on the CPU."""

    def __init__(
        self,
        path: Path,
        base: str | None = None,
        preprocess: Preprocessing | None = None,
        lora_alpha: float | None = None,
        precision: Precision = "fp32",
    ) -> None:
        from drgate.vision.base import resolve_base, shown_id
        from drgate.vision.inference import Inference
        from drgate.vision.network import merge_lora
        from drgate.vision.older import load_any_checkpoint

        resolved = None if base is None else resolve_base(base)
        self.checkpoint = load_any_checkpoint(path, resolved, preprocess, alpha=lora_alpha)
        self.preprocessing = agreed(self.checkpoint.preprocessing, preprocess, path.name)
        lora = self.checkpoint.lora
        ours = (self.checkpoint.record or {}).get("format") != OLDER
        if lora_alpha is not None and ours and (lora is None or lora.alpha != lora_alpha):
            own = "no LoRA adapters" if lora is None else f"LoRA's alpha {lora.alpha:g}"
            raise CheckpointError(f"{path} states {own}, not alpha {lora_alpha:g}; leave --lora-alpha out.")
        # An adapter beside its layer costs a third of the speed on a CPU.
        network = merge_lora(self.checkpoint.build(resolved))
        self.answer, self.precision = self.checkpoint.answer, precision
        self.inference = Inference(network, self.answer, self.preprocessing, precision)
        self._base = shown_id(self.checkpoint.base.id)
        assert self.checkpoint.file is not None, "it was read from a file"
        self.files = (self.checkpoint.file, *self.checkpoint.beside)
        self.tensor_digest = self.checkpoint.tensor_digest
        self.record = self.checkpoint.record
        self.fingerprint = self.checkpoint.fingerprint
        self.unknown_data = self.checkpoint.unknown_data
        self.providers = self.inference.providers

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
        return self.inference.network()

    def outputs(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.inference.outputs(batch)
