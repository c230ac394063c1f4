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

from drgate.errors import CheckpointError, brief

MAX_ALPHA: Final = 1e6
MAX_RANK: Final = 4096
_MAX_DEPTH: Final = 8
_NOT_SETTINGS: Final = ("optim", "sched", "scaler", "callback", "loops")
_CLASSES: Final = ("class_names", "classes")
_BY_PLACE: Final = ("id2label", "idx_to_class")
_BY_NAME: Final = ("label2id", "class_to_idx")
_MAX_CLASSES: Final = 10  # so that places sort as text
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


def stated_classes(payload: Any, weights: Any) -> tuple[str, list[str]] | None:
    """Where a file names its classes, and their names in the order of its outputs; None where it does not.

    Raises CheckpointError for two lists that differ.
    """
    found: list[tuple[str, list[str]]] = []
    for where, _, table in _settings(payload, "", {id(weights): weights}, 0):
        for name, value in table.items():
            key = _plain(name) if isinstance(name, str) else ""
            if key in _CLASSES and isinstance(value, list | tuple):
                names = list(value)
            elif key in _BY_PLACE and isinstance(value, Mapping):
                names = [value[place] for place in sorted(value, key=str)]
            elif key in _BY_NAME and isinstance(value, Mapping):
                names = sorted(value, key=lambda one: str(value[one]))
            else:
                continue
            if all(type(one) is int for one in names) and sorted(names) == [0, 1, 2, 3, 4]:
                names = [*map(str, names)]
            if 2 <= len(names) <= _MAX_CLASSES and all(isinstance(one, str) for one in names):
                found.append((_joined(where, name), names))
    if any(names != found[0][1] for _, names in found):
        raise CheckpointError(f"{found[0][0]} and {found[-1][0]} name other classes.")
    return found[0] if found else None


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
