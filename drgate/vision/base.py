"""Where the vision tower under a grading model comes from: the embedded base, a local folder, or a model on the hub.

base = resolve_base("embedded")
base.digest                              # 'sha256:...' over architecture and tensors; the same wherever it lies
base.load()                              # SiglipVisionModel, float32, on the CPU
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

from drgate.errors import CheckpointError
from drgate.files import canonical_json, read_json
from drgate.vision.network import architecture, empty_tower, fill_tower, vision_config

EMBEDDED: Final = "embedded"
MEDSIGLIP: Final = "google/medsiglip-448"

_EMBEDDED_FOLDER: Final = Path(__file__).parent / "embedded_base"
_HUB_ID: Final = re.compile(r"[\w.\-]+/[\w.\-]+")
_LAYOUT: Final = "config.json and model.safetensors of a SigLIP vision tower, as save_pretrained writes them"


@dataclass(frozen=True, slots=True)
class Base:
    """A vision tower that can be loaded, and what is known of it."""

    id: str
    """What it was asked for by: `embedded`, a folder, or the hub's name."""
    revision: str | None
    """The hub's commit; None for the embedded base and for folders."""
    digest: str
    """`sha256:...` over architecture and tensors of the vision tower."""
    config: SiglipVisionConfig = field(repr=False)
    use: str
    """Licence or intended use in a sentence; "not stated" where nothing is known."""
    pretraining: str
    """What it was pre-trained on, as its makers declare; "unknown" where they do not."""
    folder: Path = field(repr=False)

    def load(self) -> SiglipVisionModel:
        """The tower in float32 on the CPU."""
        tensors: dict[str, Tensor] = {}
        for file, names in _vision_tensors(self.folder).items():
            with _opened(file) as handle:
                tensors |= {name: handle.get_tensor(stored) for name, stored in names.items()}
        return fill_tower(self.config, tensors)


def resolve_base(name: str, *, revision: str | None = None) -> Base:
    """Find a base model and take its digest.

    name: `embedded`, a local folder, or a hub id such as `google/medsiglip-448` (downloaded into the hub's cache; a
        token is taken from HF_TOKEN or the hub's own login).
    revision: a commit of a hub model; the newest without it. Folders and the embedded base have none.

    Raises:
        CheckpointError: it is not there, cannot be had, or is not a SigLIP vision tower with a pooling head.
    """
    if name == EMBEDDED:
        return _from_folder(
            _EMBEDDED_FOLDER,
            EMBEDDED,
            None,
            use="Made from synthetic images to show the way; not for clinical use.",
            pretraining="declared: synthetic fundus photographs of drgate.demo.synthetic, no photograph of a person",
        )
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _from_folder(folder, folder.resolve().as_posix(), None, use="not stated", pretraining="unknown")
    if not _HUB_ID.fullmatch(name) or name.startswith((".", "/")):
        raise CheckpointError(
            f"the base model {name!r} is not there: --base takes embedded, a folder with {_LAYOUT}, or a hub id such"
            f" as {MEDSIGLIP}."
        )
    folder = _download(name, revision)
    known = name.lower() == MEDSIGLIP
    return _from_folder(
        folder,
        name,
        folder.name,
        use="Health AI Developer Foundations terms of use; its makers ask for validation before any clinical use."
        if known
        else "not stated",
        pretraining="declared: see the model card of MedSigLIP; fundus photographs are among its training images"
        if known
        else "unknown",
    )


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        patterns = ["config.json", "*.safetensors", "*.safetensors.index.json"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        reason = "its makers ask you to accept their terms first"
        cause: Exception = error
    except RepositoryNotFoundError as error:
        reason = "the hub has no such model, or shows it only to a token"
        cause = error
    except Exception as error:  # network libraries raise many kinds: no route, no name, no certificate, no space
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        cause = error
    raise CheckpointError(
        f"the base model {name} cannot be had from the hub ({reason}): accept its terms on its page there and set"
        " HF_TOKEN, or copy it into a folder and give --base FOLDER, or try everything with --base embedded."
    ) from cause


def _from_folder(folder: Path, id: str, revision: str | None, *, use: str, pretraining: str) -> Base:
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise CheckpointError(f"{folder} has no config.json; a base model is {_LAYOUT}.")
    values = read_json(config_file, "a SigLIP config", CheckpointError)
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind == "siglip":
        values = values.get("vision_config")
    if kind not in ("siglip", "siglip_vision_model") or not isinstance(values, dict):
        raise CheckpointError(f"{config_file} is of a {kind!r} model; a base model is {_LAYOUT}.")
    try:
        config = vision_config(values)
    except CheckpointError as error:
        raise CheckpointError(f"{config_file}: {error}") from error
    return Base(id, revision, _digest(folder, config), config, use, pretraining, folder)


def _vision_tensors(folder: Path) -> dict[Path, dict[str, str]]:
    """By safetensors file: the tower's own tensor names (no prefix) and the names that the file has for them."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = read_json(index, "an index of safetensors files", CheckpointError)
        mapping = shards.get("weight_map") if isinstance(shards, dict) else None
        if not isinstance(mapping, dict) or any(Path(str(name)).name != name for name in mapping.values()):
            raise CheckpointError(f"{index} does not name the safetensors files beside it.")
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


def _opened(file: Path) -> Any:
    if not file.is_file():
        raise CheckpointError(f"{file} is not there; a base model is {_LAYOUT}.")
    try:
        return safe_open(file, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a whole safetensors file ({error}); copy it again.") from error


def _digest(folder: Path, config: SiglipVisionConfig) -> str:
    """Over the architecture and each tensor's name, type, shape and bytes, by name; checks names and shapes."""
    wanted = {name: tuple(tensor.shape) for name, tensor in empty_tower(config).state_dict().items()}
    where = {name: (file, stored) for file, names in _vision_tensors(folder).items() for name, stored in names.items()}
    if missing := sorted(wanted.keys() - where.keys()):
        raise CheckpointError(f"{folder}: the weights lack {few(missing)}, which config.json calls for.")
    if foreign := sorted(where.keys() - wanted.keys()):
        raise CheckpointError(f"{folder}: the weights hold {few(foreign)}, which config.json does not call for.")
    state = hashlib.sha256(canonical_json(["drgate base 1", architecture(config)]))
    handles = {file: _opened(file) for file in {file for file, _ in where.values()}}
    for name in sorted(wanted):
        file, stored = where[name]
        tensor: Tensor = handles[file].get_tensor(stored)
        if tuple(tensor.shape) != wanted[name]:
            raise CheckpointError(
                f"{file}: {stored} has the shape {tuple(tensor.shape)}; config.json calls for {wanted[name]}."
            )
        update_digest(state, name, tensor)
    return f"sha256:{state.hexdigest()}"


def update_digest(state: Any, name: str, tensor: Tensor) -> None:
    """Feed a tensor's name, type, shape and bytes (little-endian, C order) to a hash."""
    plain = tensor.detach().cpu().contiguous()
    state.update(json.dumps([name, str(plain.dtype), list(plain.shape)]).encode() + b"\n")
    state.update(plain.reshape(-1).view(torch.uint8).numpy().data)


def few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
