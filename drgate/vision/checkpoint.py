"""One file that is a grading model and knows where it came from: `*.pth`, read with `weights_only=True`.

    save_checkpoint(Path("best_model.pth"), checkpoint)
    model = load_checkpoint(Path("best_model.pth")).build()         # GradingModel, eval mode

With LoRA the file holds adapters and head, a few megabytes, and names its base model by digest; without, it holds the
whole tower. What it holds is checked when it is read: names, shapes, finite values, and its own digest.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from drgate.errors import CheckpointError
from drgate.files import canonical_json, replacing
from drgate.scale import GRADES
from drgate.vision.base import Base, few, resolve_base, update_digest
from drgate.vision.fingerprint import SCRYPT, Fingerprint
from drgate.vision.images import Preprocessing, preprocessing
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

FORMAT: Final = "drgate-checkpoint"
FORMAT_VERSION: Final = 1


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
    """Rank and scale: the adapter's product is multiplied by alpha / r."""

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
    """With LoRA the adapter's tensors (`network.adapter_tensors`), and those of the tower under it that are not the
    base model's; without, all of the vision tower's."""
    head: dict[str, Tensor] = field(repr=False)
    """State dict of `GradingHead`."""
    dropout: float
    """In the head, while training."""
    preprocessing: Preprocessing
    training_config: dict[str, Any] = field(repr=False)
    epoch: int
    """After how many epochs these weights were taken; the first is 1."""
    record: dict[str, Any] | None = field(repr=False)
    """The run's record (trainer/record.py): parameters, history, spend, parents. Plain JSON values."""
    fingerprint: Fingerprint | None = field(repr=False)

    @property
    def replaced(self) -> tuple[str, ...]:
        """With LoRA, the tensors that stand in for the base model's own; none where drtrain began at the base."""
        return () if self.lora is None else tuple(sorted(name for name in self.tower if ".lora_" not in name))

    @property
    def untold(self) -> str:
        """Why the fingerprint may leave out images that these weights were trained on; empty where it tells of all."""
        if self.record is None:
            return "It holds no record of how it was trained."
        record = self.record
        origin = record.get("lineage")
        if origin is not None and not (isinstance(origin, dict) and origin.get("training_sets") == "known"):
            why = origin.get("why") if isinstance(origin, dict) else None
            return str(why or "Its record does not say that all images behind it are known.")
        if self.fingerprint is None:
            return "A model in its line holds no fingerprint of the images that it was trained on."
        if not isinstance(origin, dict) and record.get("parent") is not None:
            return "Its record names a parent, and not whether that one's training images are known."
        return ""

    @property
    def tensor_digest(self) -> str:
        """`sha256:...` over all tensors and what else decides the logits: base digest, LoRA scale, preprocessing.

        It does not change when the record is completed.
        """
        lora = None if self.lora is None else [self.lora.r, float(self.lora.alpha)]
        state = hashlib.sha256(
            canonical_json(
                [
                    "drgate model 1",
                    self.base.digest,
                    self.architecture,
                    lora,
                    self.preprocessing.as_dict(),
                    list(GRADES),
                ]
            )
        )
        for group, tensors in (("head", self.head), ("tower", self.tower)):
            for name in sorted(tensors):
                update_digest(state, f"{group}.{name}", tensors[name])
        return f"sha256:{state.hexdigest()}"

    def build(self, base: Base | None = None) -> GradingModel:
        """The network on the CPU, float32, in eval mode.

        base: the base model, where it does not lie where it lay in training. Without it, it is resolved again by the id
            in the checkpoint. Not needed, and not looked at, where the whole tower was trained.

        Raises:
            CheckpointError: the base cannot be had, or is not the one that the model was trained on.
        """
        config = vision_config(self.architecture)
        replaced: tuple[str, ...] = ()
        if self.lora is None:
            backbone: torch.nn.Module = fill_tower(config, self.tower)
        else:
            adapted = add_lora(self._base_for_adapters(base).load(), r=self.lora.r, alpha=self.lora.alpha)
            replaced = fill_adapter(adapted, self.tower)
            backbone = adapted
        model = GradingModel(backbone, config.hidden_size, self.dropout)
        model.replaced = replaced
        model.classifier.load_state_dict(self.head)
        return model.eval()

    def _base_for_adapters(self, base: Base | None) -> Base:
        if base is None:
            try:
                base = resolve_base(self.base.id, revision=self.base.revision)
            except CheckpointError as error:
                raise CheckpointError(
                    f"The model's adapters need the base model {self.base.id}: {error} Say where it lies with --base."
                ) from error
        if base.digest != self.base.digest:
            raise CheckpointError(
                f"The base model {base.id} is not the one that these adapters were trained on: its digest is"
                f" {base.digest[:19]}..., {self.base.digest[:19]}... was expected. Give the right one with --base."
            )
        return base


def lineage(base: Base, parent: Checkpoint | None) -> dict[str, Any]:
    """What is known of the images behind a model that starts at `base`, or goes on from `parent`; for its record.

    Returns: `training_sets`, "known" where the fingerprint that it inherits tells of all images that any ancestor was
    trained on, else "unknown"; `why`, a sentence; `pretraining`, as the base's makers declare it.
    """
    untold = "" if parent is None else parent.untold
    return {
        "training_sets": "unknown" if untold else "known",
        "why": untold or "Its fingerprint tells of all images that it and its ancestors were trained on.",
        "pretraining": base.pretraining if parent is None else parent.base.pretraining,
    }


def checkpoint_tensors(model: GradingModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(tower, head) of a network as a checkpoint holds them, copied to the CPU in float32."""

    def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: whole(tensor).to("cpu", torch.float32, copy=True).contiguous() for name, tensor in tensors.items()
        }

    def whole(tensor: Any) -> Tensor:  # where FSDP spread it, all processes ask at the same time
        gathered: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        return gathered

    tower = adapter_tensors(model.backbone)
    own = tower_tensors(model.backbone)
    tower |= {name: own[name] for name in (model.replaced if tower else own)}
    return copied(tower), copied(model.classifier.state_dict())


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """What a run needs besides the weights to go on as if it had never stopped; it lies in the same file.

    values: plain JSON values. tensors: by name; what the optimizer remembers.
    """

    values: dict[str, Any] = field(repr=False)
    tensors: dict[str, Tensor] = field(repr=False)

    def digest(self, tensor_digest: str) -> str:
        """`sha256:...` over all of it and the weights that it belongs to."""
        state = hashlib.sha256(canonical_json(["drgate training state 1", tensor_digest, self.values]))
        for name in sorted(self.tensors):
            update_digest(state, name, self.tensors[name])
        return f"sha256:{state.hexdigest()}"


def save_checkpoint(
    path: Path, checkpoint: Checkpoint, *, state: TrainingState | None = None, keep: Path | None = None
) -> None:
    """Write the file, whole or not at all.

    state: of the run that goes on from here. keep: the name that the file replaced takes.

    Raises:
        CheckpointError: the disk does not take it; what lay at `path` before is untouched.
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
        "preprocessing": checkpoint.preprocessing.as_dict(),
        "class_names": list(GRADES),
        "training_config": checkpoint.training_config,
        "epoch": checkpoint.epoch,
        "record": checkpoint.record,
        "fingerprint": None
        if fingerprint is None
        else {
            "image_hash": "phash-256",
            "images": torch.from_numpy(fingerprint.images.copy()),
            **_patients_payload(fingerprint),
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


def _patients_payload(fingerprint: Fingerprint) -> dict[str, Any]:
    """How the file holds patients: one salt beside its table, several as two lists.

    A reader that knows one salt only must not check one table and call that all: for it, several are another kind.
    """
    tables = [torch.from_numpy(rows.copy()) for rows in fingerprint.patients.values()]
    salts = [salt.hex() for salt in fingerprint.patients]
    kind: dict[str, Any] = {"name": "scrypt", **SCRYPT}
    if len(salts) == 1:
        return {"patient_hash": kind, "salt": salts[0], "patients": tables[0]}
    return {"patient_hash": {**kind, "salts": len(salts)}, "salt": salts, "patients": tables}


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and check a checkpoint. No code in it is ever run.

    Raises:
        CheckpointError: with the reason: no such file, a Git LFS pointer, truncated, code or foreign types inside, not
            a drgate checkpoint, a newer format, other classes, tensors missing, misshapen or not finite, damaged.
    """
    return parse_checkpoint(path, read_payload(path))


def parse_checkpoint(path: Path, payload: Any) -> Checkpoint:
    """The checkpoint in what `read_payload` read of `path`; raises CheckpointError as `load_checkpoint` does."""
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        older = isinstance(payload, dict) and "model_state_dict" in payload
        what = "a checkpoint in the older training layout" if older else "no drgate checkpoint"
        raise CheckpointError(f"{path} is {what}; expected a file that drtrain wrote.")
    try:
        return _checked(payload)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint lacks or garbles a part of its description ({error!r})."
        ) from error


def load_training_state(path: Path) -> tuple[Checkpoint, TrainingState | None]:
    """A checkpoint and the state of its run, None where it has none; the state is checked against its digest.

    Raises CheckpointError as `load_checkpoint` does, and for a state that is damaged or of other weights.
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
        raise CheckpointError(f"{path}: the training state lacks or garbles a part ({error!r}).") from error
    if not whole:
        raise CheckpointError(f"{path}: the training state does not have the digest written with it: it is damaged.")
    return checkpoint, state


def read_payload(path: Path, allowed: Sequence[tuple[Any, str]] = ()) -> Any:
    """What `torch.save` put into a file: tensors and plain values, never code.

    allowed: what else may be read, and the name under which a file asks for it.

    Raises:
        CheckpointError: with the reason: no such file, a Git LFS pointer, truncated, damaged, code or foreign types
            inside.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a checkpoint (*.pth).")
    with path.open("rb") as handle:
        start = handle.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the model itself; run git lfs pull.")
    if not start.startswith(b"PK"):
        raise CheckpointError(
            f"{path} is not a checkpoint that torch.save wrote (a bare pickle may run code and is never opened)."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is truncated: its end is missing. Copy it again.") from error
    if packed:  # torch.save never does, and a small file could unfold to any size
        raise CheckpointError(f"{path} is a compressed archive, not a checkpoint that torch.save wrote.")
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects other than tensors and plain values, which could run code when read; it was"
            " not opened."
        ) from error
    except Exception as error:  # damaged archives come as RuntimeError, EOFError, KeyError, UnicodeDecodeError, ...
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path} is damaged and cannot be read ({reason}). Copy it again.") from error


def _checked(payload: dict[str, Any]) -> Checkpoint:
    version = payload["format_version"]
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"the checkpoint is of format {version}, this drgate reads format {FORMAT_VERSION};"
            " use the drgate that wrote it."
        )
    if payload["class_names"] != list(GRADES):
        names = payload["class_names"]
        count = len(names) if isinstance(names, list) else "unknown"
        raise CheckpointError(f"the model grades {count} classes {names}; the five ICDR grades were expected.")
    lora = payload["lora"]
    if lora is not None:
        if lora["target_modules"] != list(LORA_TARGETS) or lora["exclude_modules"] != LORA_EXCLUDES:
            raise CheckpointError("the LoRA adapters sit on other layers than drtrain puts them.")
        lora = LoraSettings(int(lora["r"]), float(lora["alpha"]))
        if not (1 <= lora.r <= 4096 and 0 < lora.alpha < 1e6):
            raise CheckpointError(f"the LoRA settings {lora} are impossible.")
    record = payload["record"]
    canonical_json([payload["training_config"], record])
    if not isinstance(payload["training_config"], dict) or not isinstance(record, dict | None):
        raise CheckpointError("the training config or record is not a table.")
    base = BaseReference(**payload["base"])
    if not all(
        isinstance(text, str) for text in (base.id, base.revision or "", base.digest, base.use, base.pretraining)
    ):
        raise CheckpointError("the description of the base model is garbled.")
    checkpoint = Checkpoint(
        base=base,
        architecture=payload["vision_config"],
        lora=lora,
        tower=payload["tower"],
        head=payload["head"],
        dropout=float(payload["dropout"]),
        preprocessing=preprocessing(**payload["preprocessing"]),
        training_config=payload["training_config"],
        epoch=int(payload["epoch"]),
        record=record,
        fingerprint=_fingerprint(payload["fingerprint"]),
    )
    check_tensors(checkpoint)
    if checkpoint.tensor_digest != payload["tensor_digest"]:
        raise CheckpointError("the weights do not have the digest that was written with them: the file is damaged.")
    return checkpoint


def check_tensors(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for names, shapes and values that do not fit the architecture.

    Shapes first, so that nothing is done with a tensor of absurd size.
    """
    config = vision_config(checkpoint.architecture)
    if checkpoint.preprocessing.size != config.image_size:
        raise CheckpointError(
            f"the preprocessing makes images of {checkpoint.preprocessing.size} pixels, the network takes"
            f" {config.image_size}."
        )
    tower = empty_tower(config)
    expected_tower = tower.state_dict()
    required = set(expected_tower)
    with torch.device("meta"):
        head = GradingHead(config.hidden_size, checkpoint.dropout).state_dict()
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
            raise CheckpointError(f"the {what} holds tensors that belong to no such model: {few(foreign)}.")
        for name, tensor in found.items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.is_contiguous():
                raise CheckpointError(f"the {what}'s {name} is not a plain tensor of floating-point numbers.")
            if tensor.shape != expected[name].shape:
                note = f": it grades {len(tensor)} classes, five were expected" if name == "classifier.8.weight" else ""
                raise CheckpointError(
                    f"the {what}'s {name} has the shape {tuple(tensor.shape)}, {tuple(expected[name].shape)} was"
                    f" expected{note}."
                )
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"the {what}'s {name} holds NaN or infinite values: training had diverged.")


def _fingerprint(payload: dict[str, Any] | None) -> Fingerprint | None:
    if payload is None:
        return None
    kind = dict(payload["patient_hash"])
    one = "salts" not in kind
    salts, tables = ([payload["salt"]], [payload["patients"]]) if one else (payload["salt"], payload["patients"])
    count = kind.pop("salts", 1)
    if payload["image_hash"] != "phash-256" or kind != {"name": "scrypt", **SCRYPT}:
        raise CheckpointError("the training fingerprint is of a kind that this drgate does not know.")
    if not len(salts) == len(set(salts)) == len(tables) == count:
        raise CheckpointError("the training fingerprint is garbled.")

    def rows(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if tensor.dtype != torch.uint8 or tensor.dim() != 2 or tensor.shape[1] != 32 or not tensor.is_contiguous():
            raise CheckpointError("the training fingerprint is garbled.")
        return tensor.numpy()

    patients = {bytes.fromhex(salt): rows(table) for salt, table in zip(salts, tables, strict=True)}
    return Fingerprint(rows(payload["images"]), patients)
