"""Where a run starts from: the base model, the weights of a checkpoint, or its complete state.

origin = find_origin(config, base)                  # --resume_from_checkpoint, --init_from, or neither
origin = resumed(Path("runs/first"))                # --resume: last.pth, or previous.pth if it is damaged
model = origin.build(config, base)
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drgate.buckets import fetch
from drgate.errors import CheckpointError, TrainingError, UsageError
from drgate.files import sha256_file
from drgate.preprocessing import Preprocessing
from drgate.record import OLDER
from drgate.scale import GRADES
from drgate.vision.base import Base
from drgate.vision.checkpoint import Checkpoint, TrainingState, load_training_state
from drgate.vision.network import GradingModel, add_lora, architecture, merge_lora
from drgate.vision.older import load_any_checkpoint
from trainer.config import TrainingConfig

LAST: Final = "last.pth"
PREVIOUS: Final = "previous.pth"
BEST: Final = "best_model.pth"


class _Loose(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Evaluation(_Loose):
    epoch: int = Field(ge=1)
    val_accuracy: float = Field(ge=0, le=1)


class _OwnEvaluation(_Evaluation):
    selectable: bool
    val_loss: float
    train_loss: float
    n_val: int = Field(ge=1)
    learning_rate: float
    sensitivity: dict[str, dict[str, Any]]
    specificity: dict[str, dict[str, Any]]


class _Values(_Loose):
    """The content of `TrainingState.values`."""

    epoch: int = Field(ge=0)
    step: int = Field(ge=0)
    order: dict[str, Any]
    loss_sum: float
    images_seen: int = Field(ge=0)
    inherited: list[_Evaluation]
    scaler: dict[str, Any]


class _Table(_Loose):
    """The part of a record that a continued run needs."""

    history: list[_OwnEvaluation]
    parameters: dict[str, Any]
    spend: dict[str, Any]
    selected_epoch: int | None
    tensor_digest: str | None


How = Literal["base", "init_from", "resume_from_checkpoint", "resume"]


class OlderStateWarning(UserWarning):
    """The newest state of a run is damaged, so the one before is used."""


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """What a run starts from.

    how: "base" without a checkpoint. source: as it was given. sha256: of the file. epochs: complete ones before the
    first of this run. inherited: the known evaluations of these epochs. restored: what is taken from the checkpoint.
    """

    how: How
    source: str = ""
    sha256: str = ""
    checkpoint: Checkpoint | None = field(default=None, repr=False)
    state: TrainingState | None = field(default=None, repr=False)
    epochs: int = 0
    inherited: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    restored: str = "nothing: it starts from the base model"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the checkpoint does not contain, in sentences."""
        record = self.checkpoint.record if self.checkpoint is not None else None
        limits = (record or {}).get("limitations")
        return tuple(str(sentence) for sentence in limits) if isinstance(limits, list) else ()

    def build(self, config: TrainingConfig, base: Base) -> GradingModel:
        """The network before the first step of this run.

        Raises UsageError if the checkpoint's adapters do not fit the parameters.
        """
        if self.checkpoint is None:
            tower = base.load()
            backbone = add_lora(tower, r=config.lora_r, alpha=config.lora_alpha) if config.use_lora == "yes" else tower
            return GradingModel(backbone, architecture(base.config)["hidden_size"], config.dropout)
        self._refuse_other_network(config, base)
        model = self.checkpoint.build(base)
        if config.use_lora == "no" and self.checkpoint.lora is not None:
            model = merge_lora(model).requires_grad_(True)  # the adapters become part of the tower
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout) and module in model.classifier.classifier:
                module.p = config.dropout
        return model

    def _refuse_other_network(self, config: TrainingConfig, base: Base) -> None:
        assert self.checkpoint is not None
        checkpoint = self.checkpoint
        if checkpoint.architecture != architecture(base.config):
            raise UsageError(
                f"{self.source} has another architecture than the base model {base.id}. Give the base model that it was"
                " trained on with --base."
            )
        if config.use_lora == "no":
            if checkpoint.lora is not None and self.how != "init_from":
                raise UsageError(
                    f"{self.source} has LoRA adapters and no optimizer state for the whole tower, which --use_lora no"
                    " trains. Start from its weights with --init_from."
                )
            return
        if checkpoint.lora is None:
            raise UsageError(f"{self.source} is a whole tower without adapters. Use --use_lora no.")
        if checkpoint.base.digest != base.digest:
            raise UsageError(
                f"{self.source} has adapters for another base model than {base.id}. Give the base model that they were"
                " trained on with --base."
            )
        if (checkpoint.lora.r, checkpoint.lora.alpha) != (config.lora_r, config.lora_alpha):
            raise UsageError(
                f"{self.source} has adapters of rank {checkpoint.lora.r} and alpha {checkpoint.lora.alpha:g}. Give"
                f" --lora_r {checkpoint.lora.r} --lora_alpha {checkpoint.lora.alpha:g}."
            )

    def as_record(self) -> dict[str, Any] | None:
        """Its entry in the record; None for a run that starts from the base model."""
        if self.checkpoint is None:
            return None
        record = self.checkpoint.record or {}
        return {
            "how": self.how,
            "source": self.source,
            "sha256": self.sha256,
            "tensor_digest": self.checkpoint.tensor_digest,
            "epoch": self.checkpoint.epoch or None,
            "attempt": record.get("experiment_name"),
            "restored": self.restored,
            "parent": record.get("parent"),
        }

    def parameters(self) -> Mapping[str, Any]:
        """The parameters of the checkpoint's run, as far as they are known."""
        if self.checkpoint is None:
            return {}
        known = (self.checkpoint.record or {}).get("parameters")
        parameters = known if isinstance(known, dict) else self.checkpoint.training_config
        return {**parameters, "preprocess": self.checkpoint.preprocessing.label}


def find_origin(config: TrainingConfig, base: Base, preprocess: Preprocessing | None = None) -> Origin:
    """The origin that the parameters name. preprocess: of an older checkpoint, which does not record it.

    Raises DrgateError: no such file, not a checkpoint, not accessible, or without the state that is needed.
    """
    named = config.resume_from_checkpoint or config.init_from
    if named is None:
        return Origin("base")
    how: How = "init_from" if config.init_from else "resume_from_checkpoint"
    file = fetch(named, CheckpointError, hub=True)
    # An older file does not store its alpha: use the given one, else twice its rank.
    alpha = config.lora_alpha if "lora_alpha" in config.model_fields_set else None
    checkpoint = load_any_checkpoint(file, base, preprocess, alpha=alpha)
    if checkpoint.answer.kind != "logits" or checkpoint.answer.classes != GRADES:
        raise UsageError(f"{named} does not give logits of the five grades, which drtrain trains.")
    digest = checkpoint.file.sha256 if checkpoint.file else ""
    record = checkpoint.record or {}
    if how == "init_from":
        return Origin(how, named, digest, checkpoint, restored="only its weights; epochs count from 1")
    if record.get("format") == OLDER and checkpoint.epoch:
        return Origin(
            how,
            named,
            digest,
            checkpoint,
            None,
            checkpoint.epoch,
            tuple(record["history"]),
            f"weights, epoch and history of a checkpoint in the older layout. {record.get('reset', '')}",
        )
    state = None if record.get("format") == OLDER else load_training_state(file)[1]
    if state is None:
        raise UsageError(
            f"{named} has weights but no training state (optimizer, epoch in progress). Use {LAST} of its run, or start"
            " from its weights with --init_from."
        )
    return _from_state(how, named, digest, checkpoint, state)


def resumed(folder: Path) -> Origin | None:
    """The newest complete state in a run's folder; None if the run was killed before it wrote one.

    A damaged newest state gives an `OlderStateWarning`. Raises TrainingError if all states are damaged.
    """
    reasons = []
    for name in (LAST, PREVIOUS):
        file = folder / name
        if not file.is_file():
            continue
        try:
            checkpoint, state = load_training_state(file)
        except CheckpointError as problem:
            reasons.append(str(problem))
            continue
        if state is None:
            reasons.append(f"{file} has no training state.")
            continue
        for sentence in reasons:
            warnings.warn(f"{sentence} The state before it, {name}, is used.", OlderStateWarning, stacklevel=2)
        return _from_state("resume", file.as_posix(), sha256_file(file), checkpoint, state)
    if reasons:
        raise TrainingError(f"{folder} has no state from which the run can continue: {' '.join(reasons)}")
    return None


def _from_state(how: How, source: str, digest: str, checkpoint: Checkpoint, state: TrainingState) -> Origin:
    record = checkpoint.record or {}
    values = state.values
    try:
        _Values.model_validate(values)
        _Table.model_validate(record)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"{source}: drtrain did not write this training state ({where}: {first['msg']})."
        ) from problem
    inherited: Sequence[Mapping[str, Any]] = values["inherited"]
    if how == "resume_from_checkpoint":
        inherited = [*inherited, *record.get("history", [])]
    return Origin(
        how,
        source,
        digest,
        checkpoint,
        state,
        values["epoch"],
        tuple(inherited),
        "its complete state: weights, optimizer, schedule, order of images, history",
    )
