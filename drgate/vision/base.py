"""Base models: the pre-trained vision tower of a grading model, from the package, a local folder or Hugging Face.

base = resolve_base("embedded")
base.digest                              # 'sha256:...' over architecture and tensors, whatever its location
base.load()                              # SiglipVisionModel, float32, on the CPU
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

from drgate.errors import CheckpointError
from drgate.files import canonical_json, parse_json, read_limited
from drgate.models import BASE_LAYOUT, EMBEDDED, refuse_no_base
from drgate.models import MEDSIGLIP as MEDSIGLIP
from drgate.vision.network import architecture, empty_tower, fill_tower, vision_config

MAX_JSON_BYTES: Final = 4 << 20
"""Of config.json (2 KB) and of an index (120 bytes a tensor)."""

_EMBEDDED_FOLDER: Final = Path(__file__).parent / "embedded_base"


@dataclass(frozen=True, slots=True)
class Base:
    """A vision tower that can be loaded, and what is known about it."""

    id: str
    """As requested: `embedded`, a folder, or a name on the hub (Hugging Face)."""
    revision: str | None
    """The hub's commit; None for the embedded base and for folders."""
    digest: str
    """`sha256:...` over architecture and tensors of the vision tower."""
    config: SiglipVisionConfig = field(repr=False)
    use: str
    """Licence or intended use in one sentence; "not stated" if unknown."""
    pretraining: str
    """The images it was pre-trained on, as its publisher declares; "unknown" without a declaration."""
    folder: Path = field(repr=False)

    def load(self) -> SiglipVisionModel:
        """The tower in float32 on the CPU.

        Raises CheckpointError where the files have changed since the digest was computed.
        """
        tensors: dict[str, Tensor] = {}
        for file, names in _vision_tensors(self.folder).items():
            with _opened(file) as handle:  # its tensors show the file, also as it is later: keep copies
                tensors |= {name: handle.get_tensor(stored).clone() for name, stored in names.items()}
        if tower_digest(self.config, tensors) != self.digest:
            raise CheckpointError(f"the base model in {self.folder} was changed while it was read; start again.")
        return fill_tower(self.config, tensors)


def shown_id(id: str) -> str:
    """A base model's id in what is published: of a folder its name, not where it is on a machine."""
    return Path(id).name if Path(id).is_absolute() else id


def resolve_base(name: str, *, revision: str | None = None, download: bool = True) -> Base:
    """Find a base model and compute its digest.

    name: `embedded`, a local folder, or a hub id such as `google/medsiglip-448` (downloaded into the hub's cache,
        with the token of HF_TOKEN or of the hub's own login).
    revision: a commit of a hub model; None means the newest. Folders and the embedded base have none.
    download: whether a hub model may be fetched; without it only the hub's cache is looked into.

    Raises:
        CheckpointError: it does not exist, cannot be downloaded, or is not a SigLIP vision tower with a pooling head.
    """
    refuse_no_base(name)
    if name == EMBEDDED:
        return _from_folder(
            _EMBEDDED_FOLDER,
            EMBEDDED,
            None,
            use="Made from synthetic images for demonstration; not for clinical use.",
            pretraining="declared: synthetic fundus photographs of drgate.demo.synthetic, no photograph of a person",
        )
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _from_folder(folder, folder.resolve().as_posix(), None, use="not stated", pretraining="unknown")
    folder = hub_folder(name, revision, download)
    known = name.lower() == MEDSIGLIP
    return _from_folder(
        folder,
        name,
        folder.name,
        use="Health AI Developer Foundations terms of use; its publisher asks for validation before any clinical use."
        if known
        else "not stated",
        pretraining="declared: see the model card of MedSigLIP; fundus photographs are among its training images"
        if known
        else "unknown",
    )


def hub_folder(name: str, revision: str | None, download: bool) -> Path:
    """The folder of a model on the hub, in the hub's cache. Raises CheckpointError as `resolve_base` does."""
    refuse_no_base(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        patterns = ["config.json", "*.safetensors", "*.safetensors.index.json"]
        found = snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=not download)
        return Path(found)
    except GatedRepoError as error:
        reason = "its publisher requires you to accept the terms first"
        cause: Exception = error
    except RepositoryNotFoundError as error:
        reason = "the hub has no such model, or shows it only with a token"
        cause = error
    except LocalEntryNotFoundError as error:
        reason = "it is not in the hub's cache here" if not download else "the hub cannot be reached"
        cause = error
    except Exception as error:  # network libraries raise many kinds (no route, no host, no certificate, no disk space)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        cause = error
    if not download:
        raise CheckpointError(
            f"the base model {name} is not downloaded on the word of a model file ({reason}); give it with --base."
        ) from cause
    raise CheckpointError(
        f"the base model {name} could not be downloaded from the hub ({reason}). Accept its terms on its page there and"
        " set HF_TOKEN, or copy it to a folder and give --base FOLDER, or try drgate with --base embedded."
    ) from cause


def _from_folder(folder: Path, id: str, revision: str | None, *, use: str, pretraining: str) -> Base:
    config_file = folder / "config.json"
    values = _json(config_file, "a SigLIP config")
    config = config_of(values, config_file)
    return Base(id, revision, _digest(folder, config), config, use, pretraining, folder)


def config_of(values: Any, config_file: Path) -> SiglipVisionConfig:
    """The vision config in a config.json's values. Raises CheckpointError for models of another type."""
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind == "siglip":
        values = values.get("vision_config")
    if kind not in ("siglip", "siglip_vision_model") or not isinstance(values, dict):
        raise CheckpointError(
            f"{config_file} describes a model of type {str(kind)[:100]!r}; a base model is {BASE_LAYOUT}."
        )
    try:
        return vision_config(values)
    except CheckpointError as error:
        raise CheckpointError(f"{config_file}: {error}") from error


def _vision_tensors(folder: Path) -> dict[Path, dict[str, str]]:
    """For each safetensors file: the tower's tensor names (without prefix) and their names in the file."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _json(index, "an index of safetensors files")
        mapping = shards.get("weight_map") if isinstance(shards, dict) else None
        if not isinstance(mapping, dict) or any(Path(str(name)).name != name for name in mapping.values()):
            raise CheckpointError(
                f"{index} does not list the safetensors files in its folder; copy the base model again."
            )
        files = sorted({folder / name for name in mapping.values()})
    else:
        files = [folder / "model.safetensors"]
    found: dict[Path, dict[str, str]] = {}
    for file in files:
        with _opened(file) as handle:
            found[file] = {
                stored.removeprefix("vision_model."): stored
                for stored in handle.keys()  # noqa: SIM118  # not a mapping
                if not stored.startswith(("text_model.", "logit_"))
            }
    return found


def _json(path: Path, what: str) -> Any:
    return parse_json(read_limited(path, MAX_JSON_BYTES, what, CheckpointError), str(path), what, CheckpointError)


def _opened(file: Path) -> Any:
    if not file.is_file():
        raise CheckpointError(f"{file} does not exist; a base model is {BASE_LAYOUT}.")
    try:
        return safe_open(file, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a complete safetensors file ({error}); copy it again.") from error


def _digest(folder: Path, config: SiglipVisionConfig) -> str:
    """The digest of the tower in a folder; checks names and shapes."""
    wanted = {name: tuple(tensor.shape) for name, tensor in empty_tower(config).state_dict().items()}
    where = {name: (file, stored) for file, names in _vision_tensors(folder).items() for name, stored in names.items()}
    if missing := sorted(wanted.keys() - where.keys()):
        raise CheckpointError(
            f"{folder}: the weights lack {few(missing)}, which config.json requires; copy the base model again."
        )
    if foreign := sorted(where.keys() - wanted.keys()):
        raise CheckpointError(
            f"{folder}: the weights contain {few(foreign)}, which do not belong to the model in config.json."
        )
    handles = {file: _opened(file) for file in {file for file, _ in where.values()}}
    tensors: dict[str, Tensor] = {}
    for name in sorted(wanted):
        file, stored = where[name]
        tensors[name] = handles[file].get_tensor(stored)
        if tuple(tensors[name].shape) != wanted[name]:
            raise CheckpointError(
                f"{file}: {stored} has the shape {tuple(tensors[name].shape)}; config.json requires {wanted[name]}."
            )
    return tower_digest(config, tensors)


def tower_digest(config: SiglipVisionConfig, tensors: dict[str, Tensor]) -> str:
    """`sha256:...` over the architecture and each tensor's name, type, shape and bytes, in order of name."""
    state = hashlib.sha256(canonical_json(["drgate base 1", architecture(config)]))
    for name in sorted(tensors):
        update_digest(state, name, tensors[name])
    return f"sha256:{state.hexdigest()}"


def update_digest(state: Any, name: str, tensor: Tensor) -> None:
    """Feed a tensor's name, type, shape and bytes (little-endian, C order) to a hash."""
    plain = tensor.detach().cpu().contiguous()
    state.update(json.dumps([name, str(plain.dtype), list(plain.shape)]).encode() + b"\n")
    state.update(plain.reshape(-1).view(torch.uint8).numpy().data)


def few(names: list[str]) -> str:
    """The first names of many, as a message repeats them: cut, and without lines of their own."""
    shown = [cut if (cut := name[:100]).isprintable() else repr(cut) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
