"""The weights of drgate's own network by name, whatever wrapped them: SigLIP's vision tower, adapters, grading head.

    where, plain = find_weights(payload)           # "state_dict", {"model._orig_mod.backbone...": tensor}
    parts = parts_of(where, plain)         # parts.tower["encoder.layers.0.mlp.fc1.weight"]

Wrappers leave their names before and between those of the modules (DataParallel, torch.compile, FSDP, peft, Lightning):
these are read past. Adapters of LoRA stand beside the layer that they adapt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor
from transformers import SiglipVisionConfig

from drgate.errors import CheckpointError, brief
from drgate.vision.base import few
from drgate.vision.network import empty_tower

STATE: Final = "model_state_dict"
"""Where the older layout keeps its weights."""

OTHERWISE: Final = (
    "Files of weights are read for SigLIP's vision tower with drgate's grading head. Give another network as an ONNX "
    "file with model.yaml, through --grader FILE.py:load, or as a folder of Hugging Face."
)

_WRAPPERS: Final = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
_OUTER: Final = frozenset(("model", "net", "network"))
"""What people call the network in a wrapper of their own, such as a LightningModule."""
_LOSS: Final = frozenset(("criterion", "loss", "loss_fn", "loss_func", "loss_function", "n_averaged"))
_HEAD: Final = "classifier."
_IN_HEAD: Final = ("feature_norm.", "classifier.")
_AUXILIARY: Final = ("referable_dr_head", "sight_threatening_head", "confidence_head")
_MARK: Final = "classifier.feature_norm.weight"
"""The one name that every network of this kind has, and no other."""
_TENSORS_OF_LORA: Final = {
    ("lora_A", "weight"): "A",
    ("lora_B", "weight"): "B",
    ("lora_B", "bias"): "bias",
    ("lora_magnitude_vector", "weight"): "magnitude",
    ("lora_magnitude_vector", ""): "magnitude",
}
_MAX_DEPTH: Final = 4
_COPIED: Final = ".modules_to_save."
_MAX_LEVELS: Final = 8


def find_weights(payload: Any) -> tuple[str, dict[str, Any]]:
    """Where a file keeps its weights ("" for the file itself), and the weights by name.

    Raises CheckpointError where there are none, and where there are several and nothing says which of them grades.
    """
    found = list(_tables(payload, "", {}, 0))
    if isinstance(payload, dict) and STATE in payload and STATE not in dict(found):
        found.append((STATE, payload[STATE]))
    if len(found) > 1:
        found = [(where, table) for where, table in found if where == STATE or any(map(_is_marked, table))] or found
    if len(found) > 1:
        raise CheckpointError(
            f"it has several sets of weights ({few([where for where, _ in found])}), and does not say which of them is "
            "to be judged. Save that one alone: torch.save(model.state_dict(), FILE)."
        )
    if not found:
        training = [str(name)[:100] for name in payload if "optim" in str(name)] if isinstance(payload, dict) else []
        if training or (isinstance(payload, dict) and "param_groups" in payload):
            raise CheckpointError(
                f"it is a training state ({few(training or ['param_groups'])}) without weights. Give the file that "
                "holds the model's weights."
            )
        raise CheckpointError("it has no weights: no tensors by name, as model.state_dict() gives them.")
    where, table = found[0]
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table):
        raise CheckpointError(f"{where or 'it'} is not a dictionary of tensors by name.")
    return where, table


def _is_marked(name: Any) -> bool:
    return isinstance(name, str) and _clean(name).endswith(_MARK)


def _tables(value: Any, where: str, seen: dict[int, Any], depth: int) -> Iterator[tuple[str, Any]]:
    """Dictionaries of tensors by the dotted names of a network, and where they are."""
    if not isinstance(value, dict) or id(value) in seen or depth > _MAX_DEPTH:
        return
    seen[id(value)] = value
    if any(isinstance(name, str) and "." in name and isinstance(one, Tensor) for name, one in value.items()):
        yield where, value
        return
    for name, one in value.items():
        if isinstance(name, str):
            yield from _tables(one, f"{where}.{name[:100]}" if where else name[:100], seen, depth + 1)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a network. Tensors are in float32."""

    tower: dict[str, Tensor] = field(default_factory=dict)
    """By the names of `SiglipVisionModel`."""
    adapters: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """By layer: A, B, and where there are, the bias of B and DoRA's magnitude. Layers of the head begin with
    `classifier.`, those of the tower do not."""
    head: dict[str, Tensor] = field(default_factory=dict)
    """By the names of `GradingHead`."""
    ignored: list[str] = field(default_factory=list)
    """What else the file holds, and is not part of what gives the logits."""

    def layers(self, module: str) -> tuple[dict[str, Tensor], str]:
        """The table that holds a layer's own tensors, and the layer's name there."""
        inside = module.startswith(_HEAD)
        return (self.head, module.removeprefix(_HEAD)) if inside else (self.tower, module)


def parts_of(where: str, plain: dict[str, Any], key_prefix: str | None = None) -> Parts:
    """Tell the parts of a network apart, by name.

    key_prefix: what the names of the network begin with, where a wrapper of the caller's own put something before
    them; tensors under other names are then no part of it.

    Raises CheckpointError for names that belong to no such network, for a prefix that nobody stated, for two tensors
    of one name, and for anything but tensors of floating-point numbers.
    """
    what = where or "it"
    copied = {full.partition(_COPIED)[0] for full in plain if _COPIED in full}
    names = {full: name for full in plain if not _never_called(full, copied) and (name := _clean(full))}
    parts, outside = Parts(), set(_LOSS)
    prefix = _prefix(what, list(names.values()), key_prefix)
    layer_names = {_any_layer(name) for name in empty_tower(SiglipVisionConfig(num_hidden_layers=1)).state_dict()}
    adapters_named, foreign = set(), []
    for full, name in names.items():
        if key_prefix and not name.startswith(prefix):
            outside.add(name.partition(".")[0])
        name = name.removeprefix(prefix)
        if (first := name.partition(".")[0]) in outside:
            if first not in parts.ignored:
                parts.ignored.insert(0, first)
            continue
        place = _placed(name, layer_names)
        if place is None:
            foreign.append(full)
            continue
        own, adapter, kind = place
        if own.startswith(_HEAD) and (auxiliary := own.split(".")[1]) in _AUXILIARY:
            if auxiliary not in parts.ignored:
                parts.ignored.append(auxiliary)
        elif kind:
            adapters_named.add(adapter)
            if len(adapters_named) > 1:
                raise CheckpointError(
                    f"{what} has several adapters ({few(sorted(adapters_named))}), and does not say which of them was "
                    "active. Save it with that one alone."
                )
            _put(what, parts.adapters.setdefault(own, {}), kind, plain[full], full)
        else:
            table, own = parts.layers(own)
            _put(what, table, own, plain[full], full)
    if foreign and not (parts.tower or parts.head):
        raise CheckpointError(f"{what} holds the weights of another network ({few(sorted(foreign))}). {OTHERWISE}")
    if foreign:
        raise CheckpointError(
            f"{what} contains {few(sorted(foreign))}, which do not belong to a model of this layout. {OTHERWISE}"
        )
    if not parts.tower:
        raise CheckpointError(f"{what} contains no vision tower, such as backbone.vision_model.encoder... {OTHERWISE}")
    if not parts.head:
        raise CheckpointError(f"{what} contains no grading head, such as {_MARK}. {OTHERWISE}")
    return parts


def _clean(name: str) -> str:
    """A tensor's name without what wrappers added; empty for the original of a module that peft trained a copy of."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    if "original_module" in parts:
        return ""
    if "modules_to_save" in parts:
        at = parts.index("modules_to_save")
        del parts[at : at + 2]  # with the adapter's name
    framed = "." + ".".join(parts)
    return framed.replace(".base_model.model.", ".").replace(".base_layer.", ".")[1:]


def _never_called(full: str, copied: set[str]) -> bool:
    """Whether it is of a copy that peft made of a part of a module that it copied as a whole; the whole one counts."""
    module, mark, _ = full.partition(_COPIED)
    for _ in range(_MAX_LEVELS if mark else 0):
        module = module.rpartition(".")[0]
        if module in copied:
            return True
    return False


def _prefix(what: str, names: list[str], stated: str | None) -> str:
    """What stands before the network's own names."""
    if stated:
        prefix = f"{_clean(stated.rstrip('.'))}."
        if not any(name.startswith(prefix) for name in names):
            raise CheckpointError(
                f"no tensor's name in {what} begins with {brief(stated)}, the key_prefix of model.yaml."
            )
        return prefix
    found = sorted({name.removesuffix(_MARK) for name in names if f".{name}".endswith(f".{_MARK}")})
    if found in ([], [""]):
        return ""
    of_network = [name for name in names if name.partition(".")[0] not in _LOSS]
    known = len(found) == 1 and set(found[0].split(".")[:-1]) <= _OUTER
    if known and all(name.startswith(found[0]) for name in of_network):
        return found[0]
    remedy = next(one for one in found if one)
    raise CheckpointError(
        f"{what} holds the network under the prefix {' or '.join(repr(one[:80]) for one in found[:3])}, which is not "
        f"one that drgate knows, or not that of all its tensors. State it in model.yaml beside the file "
        f'(docs/models.md): key_prefix: "{few([remedy])}"'
    )


def _placed(name: str, layer_names: set[str]) -> tuple[str, str, str] | None:
    """Of a tensor its own name (of an adapter: its layer's), the adapter's name, and which tensor of an adapter it is.

    None for what is in no network of this kind. layer_names: of the tower, by `_any_layer`.
    """
    parts, adapter, kind = name.split("."), "", ""
    if at := next((at for at, part in enumerate(parts) if part.startswith("lora_")), 0):
        rest = parts[at + 1 :]
        last = rest.pop() if rest and rest[-1] in ("weight", "bias") else ""
        kind, adapter = _TENSORS_OF_LORA.get((parts[at], last), ""), "".join(rest)
        if not kind or len(rest) > 1:
            return None
        parts = parts[:at]
    if parts[0] == "classifier":
        own = ".".join(parts)
        known = len(parts) > 1 and (f"{'.'.join(parts[1:])}.".startswith(_IN_HEAD) or parts[1] in _AUXILIARY)
    else:
        inside = next((at for at, part in enumerate(parts) if part not in ("backbone", "vision_model")), 0)
        own = ".".join(parts[inside:])
        known = _any_layer(f"{own}.weight" if kind else own) in layer_names
    return (own, adapter, kind) if known else None


def _any_layer(name: str) -> str:
    return re.sub(r"\blayers\.\d+\.", "layers.N.", name)


def _put(what: str, table: dict[str, Tensor], name: str, tensor: Any, full: str) -> None:
    """Add a tensor, in float32, after checking that it is a plain tensor of numbers."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise CheckpointError(f"{what}'s {few([full])} is not a plain tensor of floating-point numbers.")
    if name in table:
        raise CheckpointError(f"{what} contains {few([full])} twice, with two prefixes.")
    table[name] = tensor.detach().float().contiguous()
