"""Checkpoints: a grading model and its origin in one file, `*.pth`, read with `weights_only=True`.

    save_checkpoint(Path("best_model.pth"), checkpoint)
    model = load_checkpoint(Path("best_model.pth")).build()         # GradingModel, eval mode

With LoRA the file contains adapters and head, a few megabytes, and the digest of its base model; without LoRA it
contains the whole vision tower. Reading checks names, shapes, finite values, and the file's own digest.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from torch import Tensor

from drgate.answers import Answer
from drgate.errors import CheckpointError, brief
from drgate.evaluation import Subject
from drgate.files import canonical_json, in_bytes, replacing
from drgate.patients import PATIENT_BYTES
from drgate.preprocessing import Preprocessing
from drgate.scale import GRADES
from drgate.vision.base import MEDSIGLIP, Base, few, resolve_base, update_digest
from drgate.vision.fingerprint import IMAGE_BYTES, OLDER_HASH, Fingerprint
from drgate.vision.network import (
    LORA_EXCLUDES,
    LORA_TARGETS,
    GradingHead,
    GradingModel,
    adapter_tensors,
    add_lora,
    empty_tower,
    fill_adapter,
    fill_tower,
    tower_tensors,
    vision_config,
)
from drgate.vision.perceptual import HASH
from drgate.vision.pickles import rehearse
from drgate.vision.stated import own_preprocessing, refuse_other_input

FORMAT: Final = "drgate-checkpoint"
FORMAT_VERSION: Final = 1
PATIENT_HASH: Final = "hmac-sha256-128"

MAX_PICKLE_BYTES: Final = 4 << 20
"""Of all values besides tensors: a record of 1,000 epochs has under 1 MB. A byte can be a value, and take 200 in memory
and a few microseconds."""

MAX_VALUES: Final = 32 << 20
"""Values and characters, with what is shared counted as often as it is used: 2 KB can stand for any number."""

MAX_CONTAINERS: Final = 1 << 18
"""Lists and mappings: a record of 1,000 epochs has 30 an epoch."""

MAX_DEPTH: Final = 60
"""Lists and mappings in each other."""

MAX_DIRECTORY_BYTES: Final = 32 << 20
"""Of the list of parts: about 100 bytes a tensor."""

SHARED: Final = 4
"""Tensors may hold so many times the bytes of the file: tied weights are saved once."""

MAX_EPOCH: Final = 10**6

_TAIL: Final = 56 + 20 + 22

_OLD_TORCH: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""How a pickle of PyTorch before 1.6 begins."""


@dataclass(frozen=True, slots=True)
class BaseReference:
    """Which vision tower the model was trained on; fields as in `drgate.vision.base.Base`."""

    id: str
    revision: str | None
    digest: str
    use: str
    pretraining: str

    @classmethod
    def of(cls, base: Base) -> BaseReference:
        return cls(base.id, base.revision, base.digest, base.use, base.pretraining)


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Rank and scale of LoRA: the adapter's product is multiplied by alpha / r."""

    r: int
    alpha: float


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A grading model at the end of one epoch."""

    base: BaseReference
    architecture: dict[str, Any] = field(repr=False)
    """Of the vision tower: `drgate.vision.network.architecture`."""
    lora: LoraSettings | None
    """None: the whole tower was trained."""
    tower: dict[str, Tensor] = field(repr=False)
    """With LoRA: the adapter's tensors (`network.adapter_tensors`), and the tower's tensors that differ from the base
    model's. Without: all tensors of the vision tower."""
    head: dict[str, Tensor] = field(repr=False)
    """State dict of `GradingHead`."""
    dropout: float
    """Dropout in the head during training."""
    preprocessing: Preprocessing
    training_config: dict[str, Any] = field(repr=False)
    epoch: int
    """Epoch after which these weights were saved; the first is 1."""
    record: dict[str, Any] | None = field(repr=False)
    """The run's record (trainer/record.py): parameters, history, spend, parents. Plain JSON values."""
    fingerprint: Fingerprint | None = field(repr=False)
    answer: Answer = field(default_factory=Answer, repr=False)
    """What its outputs are; those of drtrain are logits of the five grades in order."""
    file: Subject | None = field(default=None, repr=False)
    """The file that `older.load_any_checkpoint` read it from; None for others."""
    beside: tuple[Subject, ...] = field(default=(), repr=False)
    """The files beside it that were read too."""

    @property
    def replaced(self) -> tuple[str, ...]:
        """With LoRA, the tensors that replace the base model's; none if drtrain started from the base model."""
        return () if self.lora is None else tuple(sorted(name for name in self.tower if ".lora_" not in name))

    @property
    def dead(self) -> bool:
        """Whether it has adapters, and all are zero."""
        adapted = {name.rpartition(".lora_")[0] for name in self.tower if ".lora_" in name}
        return bool(adapted) and not any(
            self.tower[f"{module}.lora_A.weight"].any() and self.tower[f"{module}.lora_B.weight"].any()
            for module in adapted
        )

    @property
    def unknown_data(self) -> str:
        """Why the fingerprint may not cover all training images of these weights; empty if it covers all."""
        if self.record is None:
            return "It has no record of how it was trained."
        record = self.record
        origin = record.get("lineage")
        if origin is not None and not (isinstance(origin, dict) and origin.get("training_sets") == "known"):
            why = origin.get("why") if isinstance(origin, dict) else None
            return str(why or "Its record does not state that all its training images are known.")
        if self.fingerprint is None:
            return "It, or a model it was trained from, has no fingerprint of its training images."
        if not isinstance(origin, dict) and record.get("parent") is not None:
            return "Its record names a parent model, but not whether that model's training images are known."
        return ""

    @property
    def tensor_digest(self) -> str:
        """`sha256:...` over everything that decides the logits: tensors, base digest, LoRA scale, preprocessing.

        Completing the training record does not change it.
        """
        lora = None if self.lora is None else [self.lora.r, float(self.lora.alpha)]
        state = hashlib.sha256(
            canonical_json(
                [
                    "drgate model 2",
                    self.base.digest,
                    self.architecture,
                    lora,
                    self.preprocessing.digest,
                    [*([] if self.answer.kind == "logits" else [self.answer.kind]), *self.answer.classes],
                ]
            )
        )
        for group, tensors in (("head", self.head), ("tower", self.tower)):
            for name in sorted(tensors):
                update_digest(state, f"{group}.{name}", tensors[name])
        return f"sha256:{state.hexdigest()}"

    def build(self, base: Base | None = None) -> GradingModel:
        """The network on the CPU, float32, in eval mode.

        base: the base model, if it has moved since training; None finds it by the id in the checkpoint. Ignored if the
            whole tower was trained.

        Raises:
            CheckpointError: the base is not found, or is not the one that the model was trained on.
        """
        config = vision_config(self.architecture)
        replaced: tuple[str, ...] = ()
        if self.lora is None:
            backbone: torch.nn.Module = fill_tower(config, self.tower)
        else:
            adapted = add_lora(self._base_for_adapters(base).load(), r=self.lora.r, alpha=self.lora.alpha)
            replaced = fill_adapter(adapted, self.tower)
            backbone = adapted
        model = GradingModel(backbone, config.hidden_size, self.dropout, self.answer.width)
        model.replaced = replaced
        model.classifier.load_state_dict(self.head)
        return model.eval()

    def _base_for_adapters(self, base: Base | None) -> Base:
        if base is None:
            try:
                # A file cannot make drgate fetch whatever it names.
                known = self.base.id.lower() == MEDSIGLIP
                base = resolve_base(self.base.id, revision=self.base.revision, download=known)
            except CheckpointError as error:
                raise CheckpointError(f"The model's adapters need the base model that it names: {error}") from error
        if base.digest != self.base.digest:
            raise CheckpointError(
                f"The base model {base.id} is not the one that these adapters were trained on: its digest is"
                f" {base.digest[:19]}...; expected {self.base.digest[:19]}.... Give the right one with --base."
            )
        return base


def lineage(base: Base, parent: Checkpoint | None) -> dict[str, Any]:
    """What is known about the training images of a model that starts from `base`, or continues from `parent`.

    Returns values for its record: `training_sets`, "known" if the inherited fingerprint covers the training images of
    all earlier models, else "unknown"; `why`, a sentence; `pretraining`, as declared by the publisher of the base.
    """
    unknown_data = "" if parent is None else parent.unknown_data
    return {
        "training_sets": "unknown" if unknown_data else "known",
        "why": unknown_data or "Its fingerprint covers all images that it and the models before it were trained on.",
        "pretraining": base.pretraining if parent is None else parent.base.pretraining,
    }


def checkpoint_tensors(model: GradingModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(tower, head) of a network in the form of a checkpoint, copied to the CPU in float32."""

    def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: whole(tensor).to("cpu", torch.float32, copy=True).contiguous() for name, tensor in tensors.items()
        }

    def whole(tensor: Any) -> Tensor:  # with FSDP, all processes gather at the same time
        gathered: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        return gathered

    tower = adapter_tensors(model.backbone)
    own = tower_tensors(model.backbone)
    tower |= {name: own[name] for name in (model.replaced if tower else own)}
    return copied(tower), copied(model.classifier.state_dict())


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """What a run needs besides the weights to resume exactly; saved in the same file.

    values: plain JSON values. tensors: the optimizer's state, by name.
    """

    values: dict[str, Any] = field(repr=False)
    tensors: dict[str, Tensor] = field(repr=False)

    def digest(self, tensor_digest: str) -> str:
        """`sha256:...` over the state and the digest of its weights."""
        state = hashlib.sha256(canonical_json(["drgate training state 1", tensor_digest, self.values]))
        for name in sorted(self.tensors):
            update_digest(state, name, self.tensors[name])
        return f"sha256:{state.hexdigest()}"


def save_checkpoint(
    path: Path, checkpoint: Checkpoint, *, state: TrainingState | None = None, keep: Path | None = None
) -> None:
    """Write the file atomically.

    state: of the run, for resuming from here. keep: new name of the file that is replaced.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full; the old file is unchanged.
    """
    canonical_json([checkpoint.training_config, checkpoint.record])  # refuses what weights_only could not read back
    lora = checkpoint.lora
    fingerprint = checkpoint.fingerprint
    payload = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "base": {name: getattr(checkpoint.base, name) for name in BaseReference.__slots__},
        "vision_config": checkpoint.architecture,
        "lora": None
        if lora is None
        else {
            **{name: getattr(lora, name) for name in LoraSettings.__slots__},
            "target_modules": list(LORA_TARGETS),
            "exclude_modules": LORA_EXCLUDES,
        },
        "tower": checkpoint.tower,
        "head": checkpoint.head,
        "dropout": checkpoint.dropout,
        "preprocessing": checkpoint.preprocessing.content(),
        "class_names": list(GRADES),
        "training_config": checkpoint.training_config,
        "epoch": checkpoint.epoch,
        "record": checkpoint.record,
        "fingerprint": None
        if fingerprint is None
        else {
            "image_hash": HASH,
            "images": torch.from_numpy(fingerprint.images.copy()),
            "older_images": torch.from_numpy(fingerprint.older.copy()),
            "patient_hash": PATIENT_HASH,
            "patients": {key: torch.from_numpy(rows.copy()) for key, rows in fingerprint.patients.items()},
            "whole": fingerprint.whole,
        },
        "tensor_digest": (digest := checkpoint.tensor_digest),
        "state": None
        if state is None
        else {"values": state.values, "tensors": state.tensors, "digest": state.digest(digest)},
    }
    try:
        with replacing(path, keep=keep) as temporary:
            torch.save(payload, temporary)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise CheckpointError(f"{path} cannot be written: {' '.join(str(error).split())}.") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and check a checkpoint. Never runs code from the file.

    Raises:
        CheckpointError: with the reason: no such file, a Git LFS pointer, truncated, contains code or other types, not
            a drgate checkpoint, another format version, other classes, tensors missing or not valid, damaged.
    """
    return parse_checkpoint(path, read_payload(path))


def parse_checkpoint(path: Path, payload: Any) -> Checkpoint:
    """The checkpoint in `payload`, which `read_payload` read from `path`. Raises as `load_checkpoint` does."""
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        older = isinstance(payload, dict) and "model_state_dict" in payload
        what = "a checkpoint in the older training layout" if older else "not a drgate checkpoint"
        raise CheckpointError(f"{path} is {what}; expected a file that drtrain wrote.")
    try:
        return _checked(payload)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: a part of the checkpoint's description is missing or not valid ({repr(error)[:200]})."
        ) from error


def load_training_state(path: Path) -> tuple[Checkpoint, TrainingState | None]:
    """A checkpoint and the state of its run (None without one), which is checked against its digest.

    Raises CheckpointError as `load_checkpoint` does, and if the state is damaged or belongs to other weights.
    """
    payload = read_payload(path)
    checkpoint = parse_checkpoint(path, payload)
    found = payload.get("state")
    if found is None:
        return checkpoint, None
    try:
        state = TrainingState(dict(found["values"]), dict(found["tensors"]))
        whole = state.digest(checkpoint.tensor_digest) == found["digest"]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: a part of the training state is missing or not valid ({error!r}).") from error
    if not whole:
        raise CheckpointError(f"{path}: the training state is damaged: it does not match the digest in the file.")
    return checkpoint, state


def read_payload(path: Path, allowed: Sequence[tuple[Any, str]] = (), *, opened: IO[bytes] | None = None) -> Any:
    """The contents of a file that `torch.save` wrote: tensors and plain values, never code.

    allowed: other types that may be read, with their names in the file. opened: the file's bytes, where they are not
    to be read from the path, which then is for messages.

    Raises:
        CheckpointError: with the reason: no such file, a Git LFS pointer, truncated, damaged, contains code or other
            types, is of more than its size should hold.
    """
    if opened is None:
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist; expected a checkpoint (*.pth).")
        with path.open("rb") as handle:
            return read_payload(path, allowed, opened=handle)
    start = opened.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the model itself; run git lfs pull.")
    if start.startswith(_OLD_TORCH):
        raise CheckpointError(
            f"{path} is in the format of torch.save before PyTorch 1.6, which can run code and is never opened. Load "
            "it where it was made, and save its weights again: torch.save(model.state_dict(), FILE)."
        )
    if not start.startswith(b"PK"):
        raise CheckpointError(
            f"{path} is not a checkpoint that torch.save wrote (bare pickles can run code and are never opened)."
        )
    size, pickled = _check_archive(path, opened)
    opened.seek(0)
    try:
        _measure(rehearse(pickled, {name: function for function, name in allowed}), {}, [])
        with torch.serialization.safe_globals(list(allowed)):
            payload = torch.load(opened, map_location="cpu", weights_only=True)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is not a checkpoint that can be read: {error}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} contains Python objects other than tensors and plain values ({brief(str(error))}). They could run "
            "code, so it was not opened. Save its weights alone: torch.save(model.state_dict(), FILE)."
        ) from error
    except Exception as error:  # damaged archives come as RuntimeError, EOFError, KeyError, UnicodeDecodeError, ...
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path} is damaged and cannot be read ({reason}). Copy it again.") from error
    tensors: list[Tensor] = []
    try:
        _measure(payload, {}, tensors)
        _check_storage(tensors, size)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is not a checkpoint that can be read: {error}") from error
    return payload


def _check_archive(path: Path, opened: IO[bytes]) -> tuple[int, bytes]:
    """The size of a ZIP archive and its pickle, checked before it is unpacked.

    Its parts are not compressed and add up to no more than the file, and another reader finds the same ones.
    """
    size = opened.seek(0, os.SEEK_END)
    opened.seek(max(0, size - _TAIL))
    tail = opened.read().rjust(_TAIL)
    # Directory in 64 bits (56 bytes), its locator (20), directory's end (22) without a comment: as torch.save writes
    # them, so that no two readers can find different directories.
    if tail[-22:-18] != b"PK\x05\x06":
        raise CheckpointError(f"{path} is truncated: its end is missing. Copy it again.")
    listed, start, end = (*(int.from_bytes(tail[at : at + 4], "little") for at in (-10, -6)), size - 22)
    if tail[-42:-38] == b"PK\x06\x07":
        listed, start, end = (*(int.from_bytes(tail[at : at + 8], "little") for at in (40, 48)), size - _TAIL)
        if int.from_bytes(tail[-34:-26], "little") != end:
            start = -1
    if listed > MAX_DIRECTORY_BYTES:
        raise CheckpointError(f"{path} lists more parts than a checkpoint has.")
    if start + listed != end:  # a reader that goes by the stated place would find another directory
        raise CheckpointError(f"{path} has more than one list of its parts; it is not a file that torch.save wrote.")
    try:
        with zipfile.ZipFile(opened) as archive:
            entries = archive.infolist()
            if any(entry.filename.endswith("/constants.pkl") for entry in entries):
                raise CheckpointError(
                    f"{path} is a program (TorchScript), which is never run. Save its weights, "
                    "torch.save(model.state_dict(), FILE), or export it to ONNX."
                )
            pickles = _only_pickle(path, entries)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                # torch.save does not compress, and a small file could expand to any size
                raise CheckpointError(f"{path} is a compressed archive, not a checkpoint that torch.save wrote.")
            if sum(entry.file_size for entry in entries) > size:
                raise CheckpointError(f"{path} has parts that overlap; it is not a checkpoint that torch.save wrote.")
            if pickles.file_size > MAX_PICKLE_BYTES:
                raise CheckpointError(f"{path} has more than {in_bytes(MAX_PICKLE_BYTES)} of values besides tensors.")
            return size, archive.read(pickles)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is truncated: its end is missing. Copy it again.") from error


def _only_pickle(path: Path, entries: list[zipfile.ZipInfo]) -> zipfile.ZipInfo:
    """The part that holds the values, which torch finds by a name in letters of either case."""
    names = {entry.filename.casefold(): entry for entry in entries if entry.filename == entry.orig_filename}
    (first, _, _), *_ = (entry.filename.partition("/") for entry in [*entries, zipfile.ZipInfo("/")])
    found = names.get(f"{first}/data.pkl".casefold())
    plain = all(name.isascii() and name.startswith(f"{first}/".casefold()) for name in names)
    if found is None or len(names) != len(entries) or not plain:
        raise CheckpointError(f"{path} is not an archive of the parts that torch.save writes.")
    return found


def _measure(value: Any, known: dict[int, tuple[int, int]], tensors: list[Tensor], depth: int = 0) -> tuple[int, int]:
    """Size (values and characters) and depth of plain values, written out, with what is shared as often as it is used.

    known: by id, the containers that were measured: each is looked at once. tensors: collects those that were found.

    Raises CheckpointError for too many values, too deep nesting, values that contain themselves, and huge integers.
    """
    if depth > MAX_DEPTH:
        raise CheckpointError(f"its values are nested more than {MAX_DEPTH} deep.")
    total, below = 1, 0
    if isinstance(value, Tensor):
        tensors.append(value)
    elif isinstance(value, str | bytes | bytearray):
        total += len(value)
    elif isinstance(value, int) and value.bit_length() > 64:
        raise CheckpointError("it has an integer of more than 64 bits.")
    elif isinstance(value, dict | list | tuple | set | frozenset):
        if id(value) in known:
            return known[id(value)]
        known[id(value)] = (MAX_VALUES, 0)  # until it is measured: a list in itself has no end
        if len(known) > MAX_CONTAINERS:
            raise CheckpointError("its values, written out, are too many.")
        for part in chain(value.keys(), value.values()) if isinstance(value, dict) else value:
            more, deep = _measure(part, known, tensors, depth + 1)
            total, below = total + more, max(below, deep + 1)
        known[id(value)] = (total, below)
    if total > MAX_VALUES or below > MAX_DEPTH:
        raise CheckpointError("its values, written out, are too many or nested too deep, or contain themselves.")
    return total, below


def _check_storage(tensors: list[Tensor], size: int) -> None:
    """Raise CheckpointError where tensors stand for more numbers than a file of `size` bytes holds."""
    total = 0
    for tensor in tensors:
        needed = tensor.numel() * tensor.element_size()
        if (
            tensor.layout is not torch.strided
            or tensor.device.type != "cpu"
            or needed > tensor.untyped_storage().nbytes()
        ):
            raise CheckpointError("it has a tensor without numbers of its own; expected plain tensors.")
        total += needed
    if total > SHARED * size:
        raise CheckpointError("its tensors share their numbers; expected each tensor with its own.")


def _checked(payload: dict[str, Any]) -> Checkpoint:
    version = payload["format_version"]
    if type(version) is not int or version != FORMAT_VERSION:
        raise CheckpointError(
            f"the checkpoint has format {str(version)[:20]}; this version of drgate reads format {FORMAT_VERSION}."
            " Use the version that wrote it."
        )
    if payload["class_names"] != list(GRADES):
        names = payload["class_names"]
        count = len(names) if isinstance(names, list) else "unknown"
        raise CheckpointError(f"the model grades {count} classes {str(names)[:200]}; expected the five ICDR grades.")
    lora = payload["lora"]
    if lora is not None:
        if lora["target_modules"] != list(LORA_TARGETS) or lora["exclude_modules"] != LORA_EXCLUDES:
            raise CheckpointError("the LoRA adapters are on other layers than those of drtrain.")
        r, alpha = lora["r"], lora["alpha"]
        if type(r) is not int or type(alpha) not in (int, float) or not (1 <= r <= 4096 and 0 < alpha < 1e6):
            raise CheckpointError(
                f"the LoRA settings r = {str(r)[:20]}, alpha = {str(alpha)[:20]} are out of range; "
                "expected r from 1 to 4096 and alpha between 0 and 1e6."
            )
        lora = LoraSettings(r, float(alpha))
    record = payload["record"]
    canonical_json([payload["training_config"], record])
    if not isinstance(payload["training_config"], dict) or not isinstance(record, dict | None):
        raise CheckpointError("the training config or record is not a mapping of names to values.")
    epoch = payload["epoch"]
    if type(epoch) is not int or not 0 <= epoch <= MAX_EPOCH:
        raise CheckpointError(f"the epoch is {str(epoch)[:20]}; expected a whole number up to {MAX_EPOCH}.")
    base = BaseReference(**payload["base"])
    if not all(
        isinstance(text, str) for text in (base.id, base.revision or "", base.digest, base.use, base.pretraining)
    ):
        raise CheckpointError("the description of the base model is not valid.")
    if base.revision is not None and not re.fullmatch("[0-9a-f]{40}", base.revision):  # a path, to the hub's cache
        raise CheckpointError("the base model's revision is not a commit of 40 hex digits.")
    checkpoint = Checkpoint(
        base=base,
        architecture=payload["vision_config"],
        lora=lora,
        tower=payload["tower"],
        head=payload["head"],
        dropout=float(payload["dropout"]),
        preprocessing=own_preprocessing(payload["preprocessing"], "its preprocessing"),
        training_config=payload["training_config"],
        epoch=epoch,
        record=record,
        fingerprint=_fingerprint(payload["fingerprint"]),
    )
    check_tensors(checkpoint)
    if checkpoint.tensor_digest != payload["tensor_digest"]:
        raise CheckpointError("the file is damaged: the weights do not match the digest in it. Copy it again.")
    return checkpoint


def check_tensors(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for names, shapes and values that do not fit the architecture.

    Shapes are checked first, before any work on a tensor that may be very large.
    """
    config = vision_config(checkpoint.architecture)
    refuse_other_input(checkpoint.preprocessing, checkpoint.architecture["image_size"])
    tower = empty_tower(config)
    expected_tower = tower.state_dict()
    required = set(expected_tower)
    with torch.device("meta"):
        head = GradingHead(config.hidden_size, checkpoint.dropout, checkpoint.answer.width).state_dict()
        if checkpoint.lora is not None:
            adapter = adapter_tensors(add_lora(tower, r=checkpoint.lora.r, alpha=1))
            expected_tower = {**expected_tower, **adapter}
            required = set(adapter)
    for what, expected, wanted, found in (
        ("head", head, set(head), checkpoint.head),
        ("tower", expected_tower, required, checkpoint.tower),
    ):
        if missing := sorted(wanted - found.keys()):
            raise CheckpointError(f"the {what} lacks the tensors {few(missing)}.")
        if foreign := sorted(found.keys() - expected.keys()):
            raise CheckpointError(f"the {what} contains tensors that do not belong to this model: {few(foreign)}.")
        for name, tensor in found.items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.is_contiguous():
                raise CheckpointError(f"the {what}'s {name} is not a plain tensor of floating-point numbers.")
            if tensor.shape != expected[name].shape:
                outputs = name == "classifier.8.weight" and tensor.dim() == 2
                note = f": it grades {len(tensor)} classes instead of {checkpoint.answer.width}" if outputs else ""
                raise CheckpointError(
                    f"the {what}'s {name} has the shape {tuple(tensor.shape)}; expected"
                    f" {tuple(expected[name].shape)}{note}."
                )
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"the {what}'s {name} contains NaN or infinite values: training diverged.")


def _fingerprint(payload: dict[str, Any] | None) -> Fingerprint | None:
    if payload is None:
        return None
    kind = payload["patient_hash"]
    # Earlier versions hashed patients with a salt beside the hashes: these cannot be compared with a patient key.
    salted = isinstance(kind, dict) and kind.get("name") == "scrypt"
    if payload["image_hash"] not in (HASH, OLDER_HASH) or not (salted or kind == PATIENT_HASH):
        raise CheckpointError("the training fingerprint is of a kind that this version of drgate does not know.")

    def rows(tensor: Tensor, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if tensor.dtype != torch.uint8 or tensor.dim() != 2 or tensor.shape[1] != size or not tensor.is_contiguous():
            raise CheckpointError("the training fingerprint is garbled.")
        return tensor.numpy()

    images = rows(payload["images"], IMAGE_BYTES)
    older = rows(payload["older_images"], IMAGE_BYTES) if payload["image_hash"] == HASH else images
    if payload["image_hash"] == OLDER_HASH:
        images = images[:0]
    if salted:
        return Fingerprint(images, {}, whole=False, older=older)
    patients, whole = payload["patients"], payload["whole"]
    if type(whole) is not bool or not all(re.fullmatch("[0-9a-f]{8}", key) for key in patients):
        raise CheckpointError("the training fingerprint is garbled.")
    return Fingerprint(images, {key: rows(table, PATIENT_BYTES) for key, table in patients.items()}, whole, older)
