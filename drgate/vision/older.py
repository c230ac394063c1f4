"""Weights that drtrain did not write, read into the same `Checkpoint` as those that it did.

    checkpoint = load_any_checkpoint(
        Path("best_model.pth"), resolve_base("google/medsiglip-448"), parse_preprocessing("imagenet-stretch@448")
    )
    checkpoint.record["limitations"]              # sentences: what the file does not contain, and what was assumed

Files of torch.save (the older layout, Lightning, a state dict alone or in a dictionary) and of safetensors, told apart
by their content. All hold the whole vision tower, with peft's names if LoRA was used, and the grading head; none
describes the tower's architecture, or how photographs were prepared: whoever judges them states that, also in
`model.yaml` beside them. The older layout also has `epoch`, counted from 0, and lists of values by epoch.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import safetensors
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor
from transformers import SiglipVisionConfig

from drgate import limits
from drgate.answers import Answer
from drgate.errors import CheckpointError, brief
from drgate.evaluation import Subject
from drgate.files import in_bytes, parse_json
from drgate.models import (
    DESCRIPTION,
    EMBEDDED,
    HUB_ID,
    Description,
    answer_of,
    classes_of,
    parse_description,
    preprocessing_of,
)
from drgate.preprocessing import Preprocessing
from drgate.record import OLDER
from drgate.scale import GRADES, parse_class
from drgate.vision.adapters import merge, of_one_rank, ranks_of, refuse_merged, scale_of
from drgate.vision.base import (
    MAX_JSON_BYTES,
    Base,
    config_of,
    few,
    resolve_base,
    shown_id,
    tower_digest,
)
from drgate.vision.checkpoint import (
    FORMAT,
    MAX_PICKLE_BYTES,
    BaseReference,
    Checkpoint,
    LoraSettings,
    check_tensors,
    parse_checkpoint,
    read_payload,
)
from drgate.vision.model_files import copy_and_hash, private_copy
from drgate.vision.network import architecture, empty_tower
from drgate.vision.settings import stated_bases, stated_classes, stated_lora
from drgate.vision.state_dicts import STATE, Parts, find_weights, parts_of
from drgate.vision.stated import HOW_TO_STATE, agreed, refuse_other_input


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


class _Namespace(dict[str, Any]):
    """Replaces argparse's namespace, in which trainers keep their settings."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


ALLOWED: Final = [
    (_NumberType, "numpy.dtype"),
    (_number, "numpy._core.multiarray.scalar"),
    (_number, "numpy.core.multiarray.scalar"),  # as NumPy 1 wrote it
    (_Namespace, "argparse.Namespace"),
]
"""What a checkpoint from elsewhere may contain besides tensors and plain values, with the names in the file."""


def load_any_checkpoint(
    path: Path, base: Base | None, preprocess: Preprocessing | None = None, *, alpha: float | None = None
) -> Checkpoint:
    """A checkpoint of drtrain, or weights of its network from elsewhere, with the facts of the files. Runs no code.

    base, preprocess: base model, to compare its tower with, and preprocessing of weights from elsewhere; `model.yaml`
    beside the file may state them too. Ignored for checkpoints of drtrain, which record them. alpha: LoRA's, of a file
    that does not state it; None assumes twice the rank.

    Raises:
        CheckpointError: as `load_checkpoint`; weights from elsewhere without `base` or `preprocess`, of another
            architecture than `base`, or whose file contradicts what is stated.
        UsageError: `preprocess` is not that of `model.yaml`.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a checkpoint (*.pth).")
    with private_copy(path, "model") as (copy, file):
        payload = _read(path, copy)
    yaml, beside = _description(path)
    if isinstance(payload, dict) and payload.get("format") == FORMAT:
        checkpoint = parse_checkpoint(path, payload)
        if yaml is not None:
            _refuse_contradiction(path, checkpoint, yaml)
        return replace(checkpoint, file=file, beside=tuple(beside))
    try:
        where, plain = find_weights(payload)
        parts = parts_of(where, plain, None if yaml is None else yaml.key_prefix)
        frame = _frame(path, base, yaml, beside, stated_bases(payload, plain))
        if yaml is not None:
            preprocess = agreed(preprocessing_of(yaml, path.parent), preprocess, DESCRIPTION)
        if frame is None or preprocess is None:
            unknown = {"base model": frame, "preprocessing": preprocess}
            raise CheckpointError(
                f"it is in {_layout(payload)}, which does not record the "
                f"{' and the '.join(name for name, given in unknown.items() if given is None)}."
                + (" Give the base model with --base embedded|FOLDER|HUB_ID." if frame is None else "")
                + (f" {HOW_TO_STATE}" if preprocess is None else "")
                + f" Or state it in {DESCRIPTION} beside the file."
            )
        checkpoint = _checked(_Source(path, payload, plain, parts, yaml), frame, preprocess, alpha)
        return replace(checkpoint, file=file, beside=tuple(beside))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_own_checkpoint(path: Path) -> Checkpoint | None:
    """A checkpoint of drtrain, without what lies beside it; None for weights from elsewhere. Runs no code.

    Raises CheckpointError as `load_checkpoint`.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a checkpoint (*.pth).")
    with private_copy(path, "model") as (copy, file):
        payload = _read(path, copy)
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        return None
    return replace(parse_checkpoint(path, payload), file=file)


@dataclass(frozen=True, slots=True)
class _Source:
    """A file of weights that was read, and what describes it."""

    path: Path
    payload: Any
    plain: Any
    parts: Parts
    yaml: Description | None


@dataclass(frozen=True, slots=True)
class _Frame:
    """The architecture of the tower, with the base model where there is one, and who said so."""

    config: SiglipVisionConfig
    base: Base | None
    said: str

    @property
    def name(self) -> str:
        return "config.json" if self.base is None else self.base.id


def _layout(payload: Any) -> str:
    return "the older checkpoint layout" if STATE in payload else "a file of weights"


# -- files -------------------------------------------------------------------------------------------------------------


def _read(path: Path, copy: IO[bytes]) -> Any:
    """What torch.save or safetensors wrote, whatever the file is called."""
    start = copy.read(9)
    copy.seek(0)
    length = int.from_bytes(start[:8], "little")
    if start[8:] != b"{" or length >= 1 << 40:
        return read_payload(path, ALLOWED, opened=copy)
    if length > MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path} has more than {in_bytes(MAX_PICKLE_BYTES)} of names besides tensors.")
    copy.seek(8)
    header = parse_json(copy.read(length), str(path), "a header of safetensors", CheckpointError)
    copy.seek(0)
    try:
        tensors = load_tensors(copy.read())
    except (safetensors.SafetensorError, LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path} is not a complete safetensors file ({reason}). Copy it again.") from error
    return {"weights": tensors, "metadata": header.get("__metadata__") if isinstance(header, dict) else None}


def _description(path: Path) -> tuple[Description | None, list[Subject]]:
    """`model.yaml` beside a file, if it describes it, and the facts of the bytes that were read."""
    beside = path.with_name(DESCRIPTION)
    if not beside.is_file():
        return None, []
    subject = copy_and_hash(beside, "config", content := io.BytesIO(), limit=limits.YAML_BYTES)
    found = parse_description(content.getvalue(), beside)
    if found.weights != path.name:
        return None, []
    if found.architecture not in ("drgate", "older"):
        raise CheckpointError(
            f"{beside} calls {path.name} {found.architecture}; a file of weights is drgate (drtrain's) or older."
        )
    return found, [subject]


def _frame(
    path: Path, base: Base | None, yaml: Description | None, beside: list[Subject], bases: list[str]
) -> _Frame | None:
    """The base model that was given, or that model.yaml or the file itself states, or config.json beside the file.

    bases: that the file states. Adds config.json to `beside`. What a file states is looked for on this machine alone.
    """
    described = None if yaml is None else yaml.base
    if base is not None:
        if described is not None and _resolved(path, described).digest != base.digest:
            raise CheckpointError(f"{DESCRIPTION} states another base model ({described[:100]}) than --base {base.id}.")
        others = [name for name in bases if shown_id(name) != shown_id(base.id)]
        stated = f"; the file states {few(others)}" if others else ""
        return _Frame(base.config, base, f"its base model ({shown_id(base.id)} was given{stated})")
    if described is not None:
        base = _resolved(path, described)
        return _Frame(base.config, base, f"its base model ({DESCRIPTION} states {shown_id(base.id)})")
    for name in bases:
        if name == EMBEDDED or HUB_ID.fullmatch(name):
            try:
                base = resolve_base(name, download=False)
            except CheckpointError as error:
                raise CheckpointError(f"it states its base model: {error}") from error
            return _Frame(base.config, base, f"the digest of its base model (it states {name})")
    config = path.with_name("config.json")
    if not config.is_file():
        return None
    subject = copy_and_hash(config, "config", content := io.BytesIO(), limit=MAX_JSON_BYTES)
    plain = parse_json(content.getvalue(), str(config), "a SigLIP config", CheckpointError)
    beside.append(subject)
    return _Frame(config_of(plain, config), None, "its base model (config.json has the architecture)")


def _resolved(path: Path, name: str) -> Base:
    """The base model that model.yaml states: a folder beside it, or one on this machine that --base takes."""
    local = path.parent / name
    try:
        return resolve_base(str(local) if local.is_dir() else name, download=False)
    except CheckpointError as error:
        raise CheckpointError(
            f"{DESCRIPTION} states the base model: {error} If --base is a copy of it, leave base out of {DESCRIPTION}."
        ) from error


def _refuse_contradiction(path: Path, checkpoint: Checkpoint, yaml: Description) -> None:
    """Raise CheckpointError where model.yaml says something else of a checkpoint of drtrain than the file."""
    answer, lora = answer_of(yaml, DESCRIPTION), checkpoint.lora
    own = {
        "architecture": (yaml.architecture, "drgate"),
        "key_prefix": (yaml.key_prefix, None),
        "base": (None if yaml.base is None else _resolved(path, yaml.base).digest, checkpoint.base.digest),
        "lora": (
            yaml.lora and (yaml.lora.alpha, bool(yaml.lora.rslora)),
            None if lora is None else (lora.alpha, False),
        ),
        "output.kind": (answer.kind, "logits"),
        "classes": (list(answer.classes), list(GRADES)),
        "preprocessing": (preprocessing_of(yaml, path.parent).digest, checkpoint.preprocessing.digest),
    }
    for name, (stated, of_file) in own.items():
        if stated is not None and stated != of_file:
            raise CheckpointError(
                f"{path.with_name(DESCRIPTION)} contradicts {path.name} in {name}; drtrain's checkpoint states all "
                f"that is needed: remove {DESCRIPTION}."
            )


def _checked(source: _Source, frame: _Frame, preprocess: Preprocessing, alpha: float | None) -> Checkpoint:
    path, payload, parts = source.path, source.payload, source.parts
    refuse_other_input(preprocess, architecture(frame.config)["image_size"])
    _refuse_other_architecture(parts.tower, frame)
    weights = _weights(source, frame, alpha)
    older = STATE in payload
    epoch = payload.get("epoch") if older else -1
    if type(epoch) is not int or not (0 <= epoch < 10**6 or not older):
        raise CheckpointError(f"epoch is {brief(epoch)}; expected a whole number, counted from 0.")
    checkpoint = Checkpoint(
        base=weights.base,
        architecture=architecture(frame.config),
        lora=weights.lora,
        tower=weights.tower,
        head=parts.head,
        dropout=0.0,
        preprocessing=preprocess,
        training_config={},
        epoch=epoch + 1,
        record=None,
        fingerprint=None,
        answer=_answer(source),
    )
    check_tensors(checkpoint)
    checkpoint = _in_order(checkpoint)
    record, of_history = _record(payload, epoch) if older else (dict(_NO_HISTORY), [])
    lacking = "" if older else "history, "
    record |= {
        "tensor_digest": checkpoint.tensor_digest,
        "lineage": {
            "training_sets": "unknown",
            "why": f"{path.name} is in {_layout(payload)}, which does not record the training images.",
            "pretraining": weights.base.pretraining,
        },
        "limitations": [
            f"{path.name} is in {_layout(payload)}. It does not record {frame.said}, its preprocessing "
            f"({preprocess.label} was stated), {lacking}training images, parameters, cost, or the number of images per "
            "grade.",
            *weights.notes,
            *([f"Ignored parts of the file: {few(parts.ignored)}."] if parts.ignored else []),
            *of_history,
        ],
    }
    return replace(checkpoint, record=record)


def _answer(source: _Source) -> Answer:
    """What the outputs are: as model.yaml states, else the classes that the file names, else the five grades."""
    described = None if source.yaml is None else answer_of(source.yaml, DESCRIPTION)
    found, unread = stated_classes(source.payload, source.plain)
    if described is None:
        if unread:
            raise CheckpointError(
                f"{few(unread)}: these classes cannot be read as one name for each output, in order. Write a "
                f"{DESCRIPTION} beside it, with the grade of each: classes: [{', '.join(GRADES)}]."
            )
        if any(names != found[0][1] for _, names in found):
            raise CheckpointError(
                f"{found[0][0]} and {found[-1][0]} name other classes, or in another order. Write a {DESCRIPTION} "
                "beside it with those that are right."
            )
        return Answer(classes=classes_of(found[0][1], found[0][0]), own_names=tuple(found[0][1])) if found else Answer()
    if described.classes and found:
        meant = [[known for name in names if (known := parse_class(name))] for _, names in found]
        if not any(one in ([], [*described.classes]) for one in meant):
            where, names = found[0]
            raise CheckpointError(f"{DESCRIPTION} states other classes than the file ({where}: {few(names)}).")
    return described


_NO_HISTORY: Final[dict[str, Any]] = {
    "format": OLDER,
    "status": "unknown",
    "history": [],
    "selected_epoch": 0,
    "spend": {},
    "missing": "the file has no history.",
}


def _in_order(checkpoint: Checkpoint) -> Checkpoint:
    """The same model with its five outputs in the order of the grades."""
    answer = checkpoint.answer
    if set(answer.classes) != {*GRADES} or answer.classes == GRADES:
        return checkpoint
    order = [answer.classes.index(grade) for grade in GRADES]
    last = {f"classifier.8.{kind}": checkpoint.head[f"classifier.8.{kind}"][order] for kind in ("weight", "bias")}
    names = tuple(answer.own_names[place] for place in order)
    return replace(checkpoint, head=checkpoint.head | last, answer=replace(answer, classes=GRADES, own_names=names))


# -- weights -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Weights:
    """The parts of a `Checkpoint` about the tower, with sentences for the report."""

    base: BaseReference
    lora: LoraSettings | None
    tower: dict[str, Tensor]
    notes: list[str]


def _weights(source: _Source, frame: _Frame, alpha: float | None) -> _Weights:
    """The tower of a checkpoint. Merges into the source's parts what no adapter of drtrain can hold."""
    parts, base = source.parts, frame.base
    if not parts.adapters:
        unused = [] if alpha is None else ["It has no LoRA adapters, so that the stated alpha has no effect."]
        if base is None:
            digest = tower_digest(frame.config, parts.tower)
            unnamed = BaseReference(source.path.name, None, digest, "not stated", "unknown")
            return _Weights(unnamed, None, parts.tower, unused)
        return _Weights(BaseReference.of(base), None, parts.tower, unused)
    if base is None:
        raise CheckpointError("it has LoRA adapters; give the base model that they belong to with --base.")
    stated = stated_lora(source.payload, source.plain)
    scale, notes = scale_of(stated, ranks_of(parts), alpha, None if source.yaml is None else source.yaml.lora)
    if stated.dora and stated.dora.value and not any("magnitude" in one for one in parts.adapters.values()):
        raise CheckpointError(f"it states DoRA ({stated.dora.where}), but has no lora_magnitude_vector.")
    own = base.load().state_dict()
    refuse_merged(parts, own, scale)
    adapters, merged = merge(parts, scale, notes)
    if merged:
        notes.append(f"The adapters on {few(sorted(merged))} were added to the weights.")
    replaced = {name: tensor for name, tensor in parts.tower.items() if not torch.equal(tensor, own[name])}
    reference = BaseReference.of(base)
    if unlike := sorted(replaced.keys() - merged):
        notes.append(
            f"The tower is not that of {shown_id(base.id)}: besides the adapters, {len(unlike)} of {len(own)} tensors "
            f"differ ({few(unlike)}). Those of the file were used."
        )
        reference = replace(reference, pretraining=f"unknown: the tower is not that of {shown_id(base.id)}")
    if not adapters:
        return _Weights(reference, None, parts.tower, notes)
    lora, tensors = of_one_rank(parts, adapters, scale)
    return _Weights(reference, lora, tensors | replaced, notes)


def _refuse_other_architecture(tower: dict[str, Tensor], frame: _Frame) -> None:
    expected, origin = empty_tower(frame.config).state_dict(), frame.name
    remedy = f"the base model {origin} has another architecture; give the one it was trained on with --base."
    if missing := sorted(expected.keys() - tower.keys()):
        raise CheckpointError(f"the tower lacks the tensors {few(missing)}: the file is not complete, or {remedy}")
    if foreign := sorted(tower.keys() - expected.keys()):
        raise CheckpointError(f"the tower contains {few(foreign)}, which {origin} does not have: {remedy}")
    for name, tensor in tower.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"the tower's {name} has the shape {tuple(tensor.shape)}; in {origin} it is "
                f"{tuple(expected[name].shape)}: {remedy}"
            )


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
