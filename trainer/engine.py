"""The network on its device, and one optimizer step.

It uses torch's autocast and gradient scaling, DistributedDataParallel or FSDP under torchrun, and AdamW. Three rules
make a run exactly resumable and independent of the number of processes:

- dropout's random numbers follow from (seed, step, process), not from a generator that keeps its state;
- a step's loss is the sum over its images, on all processes, divided by their number;
- a process without an image in a forward pass takes part with an image of weight 0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from drgate.errors import TrainingError
from drgate.vision.checkpoint import TrainingState
from drgate.vision.network import GradingModel
from drgate.vision.processes import Processes
from trainer.augment import augment
from trainer.config import TrainingConfig
from trainer.data import ImageSet
from trainer.loss import focal_losses

_OF: Final = "|"
"""Separates a parameter's name in `GradingModel` from the part of its optimizer state."""


class Engine:
    """A grading network in training, on this process's device."""

    def __init__(self, config: TrainingConfig, model: GradingModel, group: Processes, *, frozen: bool = False) -> None:
        """frozen: see `freeze`."""
        self.config = config
        self.group = group
        self.model = model.to(group.device)
        if config.gradient_checkpointing == "yes":
            tower = _tower(model)
            # transformers renames this function in version 6
            enable = getattr(tower, "activation_checkpointing_enable", None) or tower.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        self._tower = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
        if group.size > 1 and config.distributed == "fsdp":
            _shard(self.model)
            self._tower = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
        self._weights = class_weights(config).to(group.device)
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        matrices = [p for p in self._parameters.values() if p.dim() > 1]
        vectors = [p for p in self._parameters.values() if p.dim() < 2]  # biases and norms
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=config.learning_rate,
        )
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=config.precision == "fp16")
        self._frozen = frozen
        self._network = self._wrapped()

    def freeze(self, frozen: bool) -> None:
        """Choose whether only the grading head learns."""
        if frozen != self._frozen:
            self._frozen = frozen
            self._network = self._wrapped()

    def _wrapped(self) -> nn.Module:
        for parameter in self._tower:
            parameter.requires_grad_(not self._frozen)
        if self.group.size == 1 or isinstance(self.model, FSDPModule):
            return self.model
        cuda = self.group.device.type == "cuda"
        return DistributedDataParallel(self.model, device_ids=[self.group.device] if cuda else None)

    def losses(self, logits: Tensor, grades: Tensor) -> Tensor:
        """Loss of each image (n,)."""
        return focal_losses(
            logits,
            grades,
            alpha=self.config.focal_loss_alpha,
            gamma=self.config.focal_loss_gamma,
            weights=self._weights.to(logits.device),
        )

    def step(
        self,
        images: ImageSet,
        parts: Sequence[NDArray[np.int64]],
        repeats: Sequence[NDArray[np.int64]],
        *,
        epoch: int,
        number: int,
        total: int,
        rate: float,
    ) -> Tensor:
        """One optimizer step; returns the summed loss of this process's images, on its device.

        parts: this process's positions in `images`, one array per forward pass; all processes have the same number of
        arrays, and an array may be empty. repeats: how often each image was already shown in this epoch. epoch, number:
        of the step, from 1 and from 0; all random numbers follow from them. total: images of the step on all processes.
        rate: the learning rate.
        """
        torch.manual_seed(_keyed(self.config.seed, number, self.group.rank))
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        if not self.model.training:  # train() walks through every module
            self.model.train()
        summed = torch.zeros((), device=self.group.device)
        for i, (part, again) in enumerate(zip(parts, repeats, strict=True)):
            pixels, grades, counted = self._batch(images, part, again, epoch)
            with self._synchronised(i + 1 == len(parts)):
                with self._autocast():
                    logits = self._network(pixels)
                loss = (self.losses(logits, grades) * counted).sum()
                # torch averages the gradients of the processes
                self.scaler.scale(loss * (self.group.size / total)).backward()  # type: ignore[no-untyped-call]
            summed += loss.detach()
        if self.config.max_grad_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._parameters.values(), self.config.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return summed

    def _batch(
        self, images: ImageSet, part: NDArray[np.int64], again: NDArray[np.int64], epoch: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Network input, grades, and the weight of each image."""
        counted = float(len(part) > 0)
        if not counted:
            part = again = np.zeros(1, dtype=np.int64)
        device = self.group.device
        pixels = augment(
            torch.from_numpy(images.pixels[part]).to(device),
            preprocess=images.preprocess,
            augmentation=self.config.augmentation,
            seed=self.config.seed,
            epoch=epoch,
            images=part,
            repeats=again,
        )
        # the first convolution is faster with channels last
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        grades = torch.from_numpy(images.grades[part]).to(device)
        return pixels, grades, torch.full((len(part),), counted, device=device)

    @contextlib.contextmanager
    def _synchronised(self, last: bool) -> Any:
        """Exchange gradients between processes only in the last forward pass of a step."""
        if isinstance(self._network, FSDPModule):
            self._network.set_requires_gradient_sync(last)
            yield
        elif isinstance(self._network, DistributedDataParallel) and not last:
            with self._network.no_sync():
                yield
        else:
            yield

    def _autocast(self) -> torch.autocast:
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        kind = kinds.get(self.config.precision)
        return torch.autocast(self.group.device.type, dtype=kind or torch.bfloat16, enabled=kind is not None)

    def logits(self, images: ImageSet, advance: Callable[[int], Any] = lambda images: None) -> Tensor:
        """Logits (n, 5) of all images, in float32 and without augmentation, computed by all processes together.

        Raises TrainingError if the processes together did not evaluate all images.
        """
        self.model.eval()
        n, size = len(images), self.group.size
        mine = np.arange(self.group.rank, n, size)
        step = 2 * self.config.batch_size
        found = []
        with torch.inference_mode() if not isinstance(self.model, FSDPModule) else torch.no_grad():
            for start in range(0, -(-n // size), step):  # equally often everywhere
                positions = mine[start : start + step]
                shown = positions if len(positions) else np.zeros(1, dtype=np.int64)
                pixels = torch.from_numpy(images.preprocess.scaled(images.pixels[shown])).to(self.group.device)
                found.append(self.model(pixels).float().cpu()[: len(positions)])
                advance(len(positions) * size)
        own = torch.cat(found) if found else torch.zeros(0, 5)
        parts = self.group.gather((mine, own.numpy()))
        where = np.concatenate([positions for positions, _ in parts])
        if not np.array_equal(np.sort(where), np.arange(n)):
            raise TrainingError("The processes did not evaluate every validation image exactly once.")
        logits = np.empty((n, own.shape[1]), dtype=np.float32)
        logits[where] = np.concatenate([values for _, values in parts])
        return torch.from_numpy(logits)

    def state(self, values: dict[str, Any]) -> TrainingState:
        """`values` with the states of optimizer and scaler on the CPU; all processes must call this together."""
        tensors = {
            f"{name}{_OF}{key}": _whole(value)
            for name, parameter in self._parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        return TrainingState({**values, "scaler": self.scaler.state_dict()}, tensors)

    def restore(self, state: TrainingState) -> None:
        """Continue from `state`.

        Raises TrainingError if it belongs to other parameters or is incomplete.
        """
        found: dict[str, dict[str, Tensor]] = {}
        for joined, value in state.tensors.items():
            name, _, key = joined.partition(_OF)
            if name not in self._parameters:
                raise TrainingError(
                    f"The optimizer's state is of another network: it has {name}, which this one lacks."
                )
            parameter = self._parameters[name]
            if key != "step" and value.shape != parameter.shape:
                raise TrainingError(
                    f"The optimizer's state is of another network: {name} has shape {tuple(value.shape)} there and"
                    f" {tuple(parameter.shape)} here."
                )
            found.setdefault(name, {})[key] = _placed(key, value, parameter)
        towers = {name for name in self._parameters if name.startswith("backbone.")}
        heads = self._parameters.keys() - towers
        # The head must be complete, and the tower complete or absent (frozen).
        if found and (heads - found.keys() or (towers & found.keys() and towers - found.keys())):
            lacking = sorted((heads | towers) - found.keys())
            raise TrainingError(f"The optimizer's state is incomplete: it lacks {lacking[0]}.")
        if not found and state.values["epoch"] + state.values["step"] > 0:
            raise TrainingError("The training state is incomplete: it has no optimizer state.")
        for name, values in found.items():
            if values.keys() != {"step", "exp_avg", "exp_avg_sq"}:
                raise TrainingError(f"The optimizer's state of {name} is incomplete.")
            self.optimizer.state[self._parameters[name]] = values
        if state.values["scaler"]:  # empty unless precision was fp16
            self.scaler.load_state_dict(state.values["scaler"])


def class_weights(config: TrainingConfig) -> Tensor:
    """Factor of each grade's loss (5,)."""
    return torch.tensor([1.0, 1.0, 1.0, config.class_weight_severe, config.class_weight_pdr])


def _keyed(seed: int, number: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, number, rank]).generate_state(1, np.uint64)[0])


def _shard(model: GradingModel) -> None:
    """FSDP over the encoder's layers and the rest."""
    for layer in _tower(model).encoder.layers:
        fully_shard(layer)
    fully_shard(model)


def _tower(model: GradingModel) -> Any:
    """The vision tower, with or without adapters."""
    return model.backbone.model if isinstance(model.backbone, LoraModel) else model.backbone


def _whole(value: Tensor) -> Tensor:
    whole: Tensor = value.full_tensor() if isinstance(value, DTensor) else value
    return whole.detach().to("cpu", copy=True)


def _placed(key: str, value: Tensor, parameter: Tensor) -> Tensor:
    """A part of the optimizer's state on its parameter's device; AdamW counts its steps on the CPU."""
    if key == "step":
        return value.clone()
    if isinstance(parameter, DTensor):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value.to(parameter.device, copy=True)
