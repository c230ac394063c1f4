"""Checkpoints of an earlier trainer, read into the same `Checkpoint` as those of drtrain.

    checkpoint = load_any_checkpoint(
        Path("best_model.pth"), resolve_base("google/medsiglip-448"), parse_preprocessing("imagenet-stretch@448")
    )
    checkpoint.record["limitations"]              # sentences: what the file does not contain, and what was assumed

The older layout is `torch.save` of a dictionary: `model_state_dict` with the whole vision tower under
`backbone.vision_model.` (with peft's names if LoRA was used) and the head under `classifier.`, `epoch` counted from 0,
and lists of values by epoch, some of them NumPy scalars. It describes neither the base model's architecture nor how
photographs were prepared.
"""

from __future__ import annotations

import math
import pickle
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from drgate.errors import CheckpointError
from drgate.preprocessing import Preprocessing
from drgate.record import OLDER
from drgate.vision.base import Base, few, shown_id
from drgate.vision.checkpoint import (
    BaseReference,
    Checkpoint,
    LoraSettings,
    check_tensors,
    parse_checkpoint,
    read_payload,
)
from drgate.vision.model_files import private_copy
from drgate.vision.network import architecture, empty_tower
from drgate.vision.stated import HOW_TO_STATE, refuse_other_input

_STATE: Final = "model_state_dict"
_TOWER: Final = "backbone.vision_model."
_HEAD: Final = ("feature_norm.", "classifier.")
_AUXILIARY: Final = ("referable_dr_head", "sight_threatening_head", "confidence_head")
_ADAPTER: Final = re.compile(r"(.+)\.lora_([AB])\.default\.weight")
_INERT: Final = "head.attention.out_proj"


class _NumberType:
    """Replaces `numpy.dtype` while a file is read: it stores the type's name and does nothing else."""

    def __init__(self, name: str, *_: object) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", name):
            raise pickle.UnpicklingError(f"NumPy scalars of the type {name!r} are not read")
        self.type = np.dtype(f"<{name}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("|", "<"):
            raise pickle.UnpicklingError(f"NumPy scalars of the byte order {state[1]!r} are not read")


def _number(kind: _NumberType, data: bytes) -> bool | int | float:
    """Replaces NumPy's constructor of scalars: returns the plain Python value."""
    value: bool | int | float = np.frombuffer(data, kind.type, count=1)[0].item()
    return value


NUMPY_SCALARS: Final = [
    (_NumberType, "numpy.dtype"),
    (_number, "numpy._core.multiarray.scalar"),
    (_number, "numpy.core.multiarray.scalar"),  # as NumPy 1 wrote it
]
"""What an older checkpoint may contain besides tensors and plain values, with the names in the file."""


def load_any_checkpoint(
    path: Path, base: Base | None, preprocess: Preprocessing | None = None, *, alpha: float | None = None
) -> Checkpoint:
    """A checkpoint of drtrain or in the older layout, with the facts of its file. Never runs code from the file.

    base, preprocess: base model, to compare its tower with, and preprocessing of an older file; ignored for checkpoints
    of drtrain, which record them. alpha: LoRA's alpha of an older file, which does not record it; None assumes twice
    the rank.

    Raises:
        CheckpointError: as `load_checkpoint`; an older file without `base` or `preprocess`, or of another architecture
            than `base`.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a checkpoint (*.pth).")
    with private_copy(path, "model") as (copy, file):
        payload = read_payload(path, NUMPY_SCALARS, opened=copy)
    if not isinstance(payload, dict) or "format" in payload or _STATE not in payload:
        return replace(parse_checkpoint(path, payload), file=file)
    if base is None or preprocess is None:
        unknown = {"base model": base, "preprocessing": preprocess}
        raise CheckpointError(
            f"{path} is in the older checkpoint layout, which does not record the "
            f"{' and the '.join(name for name, given in unknown.items() if given is None)}."
            + (" Give the base model with --base embedded|FOLDER|HUB_ID." if base is None else "")
            + (f" {HOW_TO_STATE}" if preprocess is None else "")
        )
    try:
        refuse_other_input(preprocess, architecture(base.config)["image_size"])
        return replace(_checked(path, payload, base, preprocess, alpha), file=file)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _checked(
    path: Path, payload: dict[Any, Any], base: Base, preprocess: Preprocessing, alpha: float | None
) -> Checkpoint:
    state = _State.of(payload[_STATE])
    weights = _weights(state, base, alpha)
    epoch = payload.get("epoch")
    if type(epoch) is not int or not 0 <= epoch < 10**6:
        raise CheckpointError(f"epoch is {str(epoch)[:20]}; expected a whole number, counted from 0.")
    record, of_history = _record(payload, epoch)
    checkpoint = Checkpoint(
        base=weights.base,
        architecture=architecture(base.config),
        lora=weights.lora,
        tower=weights.tower,
        head=state.head,
        dropout=0.0,
        preprocessing=preprocess,
        training_config={},
        epoch=epoch + 1,
        record=None,
        fingerprint=None,
    )
    check_tensors(checkpoint)
    record |= {
        "tensor_digest": checkpoint.tensor_digest,
        "lineage": {
            "training_sets": "unknown",
            "why": f"{path.name} is in the older checkpoint layout, which does not record the training images.",
            "pretraining": weights.base.pretraining,
        },
        "limitations": [
            f"{path.name} is in the older checkpoint layout. It does not record its base model "
            f"({shown_id(base.id)} was given), its preprocessing ({preprocess.label} was stated), "
            "training images, parameters, cost, or the number of images per grade.",
            *weights.notes,
            *([f"Ignored parts of the file: {', '.join(state.auxiliary)}."] if state.auxiliary else []),
            *of_history,
        ],
    }
    return replace(checkpoint, record=record)


# -- weights -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _State:
    """The parts of a state dict."""

    tower: dict[str, Tensor]
    """By the names of `SiglipVisionModel`."""
    adapters: dict[str, dict[str, Tensor]]
    """LoRA's A and B, by module."""
    head: dict[str, Tensor]
    auxiliary: list[str]

    @classmethod
    def of(cls, plain: Any) -> _State:
        if not isinstance(plain, dict) or not all(isinstance(name, str) for name in plain):
            raise CheckpointError(f"{_STATE} is not a dictionary of tensors by name.")
        found = cls({}, {}, {}, [])
        foreign = []
        for full, tensor in plain.items():
            name = full.removeprefix("module.")  # as torch.nn.DataParallel saves
            if name.startswith("classifier."):
                name = name.removeprefix("classifier.")
                if name.startswith(_HEAD):
                    _put(found.head, name, tensor)
                elif (kind := name.split(".")[0]) not in _AUXILIARY:
                    foreign.append(full)
                elif kind not in found.auxiliary:
                    found.auxiliary.append(kind)
            elif name.startswith(_TOWER):
                name = name.removeprefix(_TOWER).removeprefix("base_model.model.").removeprefix("vision_model.")
                if adapter := _ADAPTER.fullmatch(name):
                    _put(found.adapters.setdefault(adapter[1], {}), adapter[2], tensor)
                else:
                    _put(found.tower, name.replace(".base_layer.", "."), tensor)
            else:
                foreign.append(full)
        if foreign:
            raise CheckpointError(
                f"{_STATE} contains {few(sorted(foreign))}, which do not belong to a model of this layout."
            )
        return found


def _put(table: dict[str, Tensor], name: str, tensor: Any) -> None:
    """Add a tensor, in float32, after checking that it is a plain tensor of numbers."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise CheckpointError(f"{_STATE}'s {name} is not a plain tensor of floating-point numbers.")
    if name in table:
        raise CheckpointError(f"{_STATE} contains {name} twice, with two prefixes.")
    table[name] = tensor.detach().float().contiguous()


@dataclass(frozen=True, slots=True)
class _Weights:
    """The parts of a `Checkpoint` about the tower, with sentences for the report."""

    base: BaseReference
    lora: LoraSettings | None
    tower: dict[str, Tensor]
    notes: list[str]


def _weights(state: _State, base: Base, alpha: float | None) -> _Weights:
    _refuse_other_architecture(state.tower, base)
    reference = BaseReference.of(base)
    if not state.adapters:
        return _Weights(reference, None, state.tower, [])
    rank = _rank(state)
    scale = float(2 * rank if alpha is None else alpha)
    adapters: dict[str, Tensor] = {}
    merged: list[str] = []
    notes: list[str] = []
    if alpha is None:
        notes.append(f"LoRA's alpha is not in the file; {scale:g}, twice the rank, is assumed.")
    for module, pair in state.adapters.items():
        if module == _INERT:
            if pair["B"].any():
                raise CheckpointError(
                    f"the adapter on {_INERT} has nonzero weights, but it has no effect in training. How this "
                    "model computed its outputs is not known."
                )
            notes.append(f"The adapter on {_INERT} never had an effect and was left out.")
        elif module.startswith("head."):
            if pair["B"].any():
                merged.append(f"{module}.weight")
                state.tower[merged[-1]] += scale / rank * pair["B"] @ pair["A"]
        else:
            adapters |= {f"{module}.lora_{letter}.weight": tensor for letter, tensor in pair.items()}
    if merged:
        notes.append(f"The adapters on the pooling head ({', '.join(sorted(merged))}) were added to its weights.")
    own = base.load().state_dict()
    replaced = {name: tensor for name, tensor in state.tower.items() if not torch.equal(tensor, own[name])}
    if unlike := sorted(replaced.keys() - set(merged)):
        notes.append(
            f"The tower is not that of {shown_id(base.id)}: besides the adapters, {len(unlike)} of {len(own)} tensors "
            f"differ ({few(unlike)}). Those of the file were used."
        )
        reference = replace(reference, pretraining=f"unknown: the tower is not that of {shown_id(base.id)}")
    return _Weights(reference, LoraSettings(rank, scale), adapters | replaced, notes)


def _refuse_other_architecture(tower: dict[str, Tensor], base: Base) -> None:
    expected = empty_tower(base.config).state_dict()
    if not tower:
        raise CheckpointError(f"{_STATE} contains no vision tower ({_TOWER}...).")
    remedy = f"the base model {base.id} has another architecture; give the one it was trained on with --base."
    if missing := sorted(expected.keys() - tower.keys()):
        raise CheckpointError(f"the tower lacks the tensors {few(missing)}: the file is not complete, or {remedy}")
    if foreign := sorted(tower.keys() - expected.keys()):
        raise CheckpointError(f"the tower contains {few(foreign)}, which {base.id} does not have: {remedy}")
    for name, tensor in tower.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"the tower's {name} has the shape {tuple(tensor.shape)}; in {base.id} it is "
                f"{tuple(expected[name].shape)}: {remedy}"
            )


def _rank(state: _State) -> int:
    """The rank of the adapters: the same for all, and each adapter is complete and fits its layer."""
    ranks = set()
    for module, pair in state.adapters.items():
        weight = state.tower.get(f"{module}.weight")
        shapes = [tuple(pair[letter].shape) if letter in pair else () for letter in "AB"]
        if weight is None or weight.dim() != 2 or not all(len(shape) == 2 for shape in shapes):
            raise CheckpointError(f"the adapter on {module} is not complete: A, B or its layer is missing.")
        rank = shapes[0][0]
        if shapes != [(rank, weight.shape[1]), (weight.shape[0], rank)]:
            raise CheckpointError(f"the adapter on {module} has the shapes {shapes}, which do not fit its layer.")
        ranks.add(rank)
    if len(ranks) != 1:
        raise CheckpointError(f"the adapters have the ranks {sorted(ranks)}; expected one rank.")
    return int(ranks.pop())


# -- history -----------------------------------------------------------------------------------------------------------


def _record(payload: dict[Any, Any], epoch: int) -> tuple[dict[str, Any], list[str]]:
    """The file as the record of a run (epochs from 1, accuracies as fractions), with sentences for the report."""
    notes: list[str] = []
    accuracies = _numbers(payload.get("val_accuracies"))
    own, best = (_numbers([payload.get(name)]) for name in ("val_accuracy", "best_val_accuracy"))
    known = [*accuracies, *own, *best]
    percent = any(value > 1 for value in known)
    if percent:
        accuracies, own, best = ([value / 100 for value in values] for values in (accuracies, own, best))
        known = [*accuracies, *own, *best]
        notes.append("Its validation accuracies were in percent and were divided by 100.")
    reason = ""
    if not accuracies:
        reason = "it has no validation accuracies, or some are not numbers."
    elif not all(0 <= value <= 1 for value in known):
        reason = f"it has the validation accuracy {max(known, key=lambda v: abs(v - 0.5)):g}."
    elif percent and any(0 < value <= 0.01 for value in known):
        reason = "some of its validation accuracies are in percent and some are not."
    elif len(accuracies) <= epoch:
        reason = f"it has {len(accuracies)} evaluations, but its weights are of epoch {epoch + 1}."
    elif own and not math.isclose(accuracies[epoch], own[0], abs_tol=1e-9):
        reason = (
            f"for epoch {epoch + 1}, the epoch of its weights, its history has the accuracy {accuracies[epoch]:.4f}; "
            f"the file also states {own[0]:.4f}."
        )
    if reason:
        notes.append(f"Its history is not used, because it cannot be assigned to epochs: {reason}")
        accuracies = []
    history: list[dict[str, Any]] = [{"epoch": i + 1, "val_accuracy": value} for i, value in enumerate(accuracies)]
    for name, plural in (("train_loss", "train_losses"), ("val_loss", "val_losses")):
        values = _numbers(payload.get(plural))
        if len(values) == len(history):
            for entry, value in zip(history, values, strict=True):
                entry[name] = value
    checks = payload.get("medical_validations")
    if isinstance(checks, list) and len(checks) == len(history):
        for entry, check in zip(history, checks, strict=True):
            if isinstance(check, dict):
                entry["medical_validation"] = {str(key): value for key, value in check.items() if type(value) is bool}
    restored = isinstance(payload.get("optimizer_state_dict"), dict)
    record: dict[str, Any] = {
        "format": OLDER,
        "status": "unknown",
        "history": history,
        "selected_epoch": epoch + 1,
        "spend": {},
        "reset": "Optimizer, schedule, random numbers and the order of images are reset: the older layout "
        + ("does not name the parameters in its optimizer state." if restored else "has no optimizer state here."),
    }
    for name, stated in (("val_accuracy", own), ("best_val_accuracy", best)):
        if stated:
            record[name] = stated[0]
    if reason:
        record["missing"] = f"the history in the older checkpoint cannot be assigned to epochs: {reason}"
    return record, notes


def _numbers(values: Any) -> list[float]:
    """A list's values as floats; empty if it is not a list, or has a value that is not a finite number."""
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        return []
    try:
        numbers = [float(value) for value in values]
    except OverflowError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
