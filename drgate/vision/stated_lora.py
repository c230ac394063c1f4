"""LoRA's rank and scale as a checkpoint's own settings state them, wherever its trainer wrote them.

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
    bases: tuple[str, ...] = ()
    """Names of a base model."""


def stated_lora(payload: Any, weights: Any) -> StatedByFile:
    """What a file states about its adapters. weights: the part of it that holds the weights, which is not looked into.

    Raises CheckpointError for values that are none, values that contradict each other, and an alpha for each layer.
    """
    found: dict[str, list[Fact]] = {"alpha": [], "rank": [], "rslora": [], "dora": []}
    doubtful, bases = [], []
    for where, owner, table in _settings(payload, "", {id(weights): weights}, 0):
        keys = {_plain(name): name for name in table if isinstance(name, str) and table[name] is not None}
        of_lora = "lora" in owner or "peft" in owner
        mentions = of_lora or any("lora" in key for key in keys)
        bare_rank = "r" in keys or ("rank" in keys and not keys.keys() & {"world_size", "local_rank"})
        for key, name in keys.items():
            value, full = table[name], f"{owner}_{key}"
            shown = f"{where}.{name[:50]}" if where else name[:50]
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
            elif key in _BASE and isinstance(value, str):
                bases.append(value[:200])
    return StatedByFile(
        **{name: _agreed(facts) for name, facts in found.items()},
        doubtful=", ".join(doubtful[:3]),
        bases=tuple(dict.fromkeys(bases)),
    )


def _settings(value: Any, where: str, seen: dict[int, Any], depth: int) -> Iterator[tuple[str, str, Mapping[Any, Any]]]:
    """Each mapping of names to values in a file: where it is, that in plain letters, and itself."""
    if not isinstance(value, Mapping) or id(value) in seen or depth > _MAX_DEPTH:
        return
    seen[id(value)] = value
    yield where, _plain(where), value
    for name, one in value.items():
        if isinstance(name, str) and not any(part in name.lower() for part in _NOT_SETTINGS):
            yield from _settings(one, f"{where}.{name[:50]}" if where else name[:50], seen, depth + 1)


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
