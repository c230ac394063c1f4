"""What a checkpoint's own settings state of it, wherever its trainer wrote them: LoRA's scale, base model, classes.

    stated = stated_lora({"config": {"lora_r": 4, "lora_alpha": 8, "use_rslora": True}}, [])
    stated.alpha.value, stated.alpha.where            # 8.0, "config.lora_alpha"

What is stated twice must agree. A key `alpha` that may be another setting's (of a loss) states nothing: a scale is
never guessed from it, and whoever judges the model is asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from drgate.errors import CheckpointError, brief
from drgate.scale import GRADES, REFERABLE_CLASSES, parse_class

MAX_ALPHA: Final = 1e6
MAX_RANK: Final = 4096
_MAX_DEPTH: Final = 8
_NOT_SETTINGS: Final = ("optim", "sched", "scaler", "callback", "loops")
_CLASSES: Final = ("class_names", "classes", "class_labels", "class_order", "label_names", "target_names")
_EITHER: Final = ("label_map", "labels_map", "label_mapping", "class_map", "class_mapping")
_PLACES: Final = ("id", "idx", "index", "int")
_BY_PLACE: Final = tuple(f"{one}{to}{other}" for one in _PLACES for to in ("2", "_to_") for other in ("label", "class"))
_BY_NAME: Final = tuple(f"{one}{to}{other}" for one in ("label", "class") for to in ("2", "_to_") for other in _PLACES)
_MAX_CLASSES: Final = 10
_BASE: Final = ("base_model_name_or_path", "model_name_or_path", "base_model", "model_name", "model_id")


@dataclass(frozen=True, slots=True)
class Fact:
    """A value, and where the file states it."""

    value: float
    where: str


@dataclass(frozen=True, slots=True)
class StatedByFile:
    """None where the file does not state it."""

    alpha: Fact | None = None
    rank: Fact | None = None
    rslora: Fact | None = None
    dora: Fact | None = None
    doubtful: str = ""
    """Keys, with values, that may state a scale and may be something else."""


def stated_lora(payload: Any, weights: Any) -> StatedByFile:
    """What a file states about its adapters. weights: the part of it that holds the weights, which is not looked into.

    Raises CheckpointError for values that are none, values that contradict each other, and an alpha for each layer.
    """
    found: dict[str, list[Fact]] = {"alpha": [], "rank": [], "rslora": [], "dora": []}
    doubtful = []
    for where, owner, table in _settings(payload, "", {id(weights): weights}, 0):
        keys = {_plain(name): name for name in table if isinstance(name, str) and table[name] is not None}
        of_lora = "lora" in owner or "peft" in owner
        mentions = of_lora or any("lora" in key for key in keys)
        bare_rank = "r" in keys or ("rank" in keys and not keys.keys() & {"world_size", "local_rank"})
        for key, name in keys.items():
            value, full = table[name], f"{owner}_{key}"
            shown = _joined(where, name)
            if full.endswith("lora_alpha") or (key == "alpha" and (of_lora or bare_rank)):
                found["alpha"].append(Fact(_number(shown, value, MAX_ALPHA), shown))
            elif full.endswith(("lora_r", "lora_rank", "lora_dim")) or (
                key in ("r", "rank") and (of_lora or (bare_rank and (mentions or "alpha" in keys)))
            ):
                found["rank"].append(Fact(_number(shown, value, MAX_RANK), shown))
            elif full.endswith(("rslora", "rs_lora")):
                found["rslora"].append(Fact(_truth(shown, value), shown))
            elif key in ("use_dora", "dora"):
                found["dora"].append(Fact(_truth(shown, value), shown))
            elif key == "alpha_pattern" and value:
                raise CheckpointError(
                    f"it states an alpha for each layer ({shown}), which is not read here. Save the model as a folder "
                    "of PEFT (save_pretrained)."
                )
            elif (key == "alpha" and mentions) or full.endswith(("lora_scale", "lora_scaling")):
                doubtful.append(f"{shown} = {brief(value)}")
    return StatedByFile(
        **{name: _agreed(facts) for name, facts in found.items()},
        doubtful=", ".join(doubtful[:3]),
    )


def stated_bases(payload: Any, weights: Any) -> list[str]:
    """The names of base models that a file states."""
    found = [
        value[:200]
        for _, _, table in _settings(payload, "", {id(weights): weights}, 0)
        for name, value in table.items()
        if isinstance(name, str) and isinstance(value, str) and _plain(name) in _BASE
    ]
    return list(dict.fromkeys(found))


def stated_classes(payload: Any, weights: Any) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """(where a file names its classes, with their names in the order of its outputs; where it does and is not read).

    A key counts that is usual for classes, whatever its value; and any other whose value names all of them in an order.
    """
    found: list[tuple[str, list[str]]] = []
    unread: list[str] = []
    for where, _, table in _settings(payload, "", {id(weights): weights}, 0):
        for name, value in table.items():
            if not isinstance(name, str):
                continue
            key, shown = _plain(name), _joined(where, name)
            usual = key in _CLASSES or key in _EITHER or key in _BY_PLACE or key in _BY_NAME
            names = _in_order(value, True if key in _BY_PLACE else False if key in _BY_NAME else None)
            if names is None and usual:
                unread.append(shown)
            elif names and (usual or _are_all(names)):
                found.append((shown, names))
    return found, unread


def _in_order(value: Any, by_place: bool | None) -> list[str] | None:
    """The names of classes in the order of their places; [] for a value that states no order, None where it is unclear.

    by_place: whether a mapping leads from places to names, or from names to places; None: as its values show.
    """
    value = value.tolist() if isinstance(value, Tensor) and value.numel() <= _MAX_CLASSES else value
    if value is None or isinstance(value, int | float) or _place(value) is not None:
        return []  # at most their number
    if not isinstance(value, list | tuple | Mapping) or len(value) > _MAX_CLASSES:
        return None
    if len(value) < 2:
        return []
    names = [*value]
    if isinstance(value, Mapping):
        keys, values = ([_place(one) for one in part] for part in (value.keys(), value.values()))
        if by_place is None:
            by_place = None not in keys
            if by_place and None not in values and keys != values:
                return None
        places, named = (keys, [*value.values()]) if by_place else (values, [*value])
        if {*places} != {*range(len(named))}:
            return None
        names = [name for _, name in sorted(zip(places, named, strict=True), key=lambda pair: pair[0] or 0)]
    if all(isinstance(one, str) for one in names):
        return names
    numbers = [_place(one) for one in names]
    return [*map(str, numbers)] if {*numbers} == {*range(5)} and len(numbers) == 5 else None


def _place(value: Any) -> int | None:
    """A whole number, as trainers write one."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, str) and len(value) <= 3 and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value)


def _are_all(names: list[str]) -> bool:
    """Whether these are the names, and not the numbers, of all classes, each once."""
    known = [parse_class(name) for name in names]
    named = {*known} in ({*GRADES}, {*REFERABLE_CLASSES}) and len({*known}) == len(known)
    return named and not all(name.isdigit() for name in names)


def _settings(value: Any, where: str, seen: dict[int, Any], depth: int) -> Iterator[tuple[str, str, Mapping[Any, Any]]]:
    """Each mapping of names to values in a file: where it is, that in plain letters, and itself."""
    if not isinstance(value, Mapping) or id(value) in seen or depth > _MAX_DEPTH:
        return
    seen[id(value)] = value
    yield where, _plain(where), value
    for name, one in value.items():
        if isinstance(name, str) and not any(part in name.lower() for part in _NOT_SETTINGS):
            yield from _settings(one, _joined(where, name), seen, depth + 1)


def _joined(where: str, name: str) -> str:
    cut = name[:50]
    shown = cut if cut.isprintable() else repr(cut)
    return f"{where}.{shown}" if where else shown


def _plain(name: str) -> str:
    for mark in "-./ ":
        name = name[:500].replace(mark, "_")
    return name.lower()


def _number(where: str, value: Any, below: float) -> float:
    """A number above 0; argparse and safetensors keep some as text."""
    try:
        if not isinstance(value, bool) and isinstance(value, int | float | str) and len(str(value)) <= 32:
            number = float(value)
            if math.isfinite(number) and 0 < number <= below:
                return number
    except ValueError:
        pass
    raise CheckpointError(f"it states {where} = {brief(value)}; expected a number above 0, up to {below:g}.")


def _truth(where: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, str | int) and (text := str(value)[:10].lower()) in known:
        return known[text]
    raise CheckpointError(f"it states {where} = {brief(value)}; expected true or false.")


def _agreed(facts: list[Fact]) -> Fact | None:
    for fact in facts[1:]:
        if fact.value != facts[0].value:
            raise CheckpointError(
                f"it states {facts[0].where} = {facts[0].value:g} and {fact.where} = {fact.value:g}, which contradict "
                "each other."
            )
    return facts[0] if facts else None
