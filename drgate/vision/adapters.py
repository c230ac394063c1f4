"""LoRA adapters of any trainer as drtrain's: one rank, one scale, on the same layers; what cannot be is merged.

scale, notes = scale_of(stated_lora(payload, plain), ranks_of(parts), alpha=None, described=None)
remain, changed = merge(parts, scale, notes)          # pooling head, grading head, DoRA, biases
lora, tensors = of_one_rank(parts, remain, scale)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from drgate.errors import CheckpointError
from drgate.models import DESCRIPTION, StatedLora
from drgate.vision.base import few
from drgate.vision.checkpoint import LoraSettings
from drgate.vision.network import LORA_TARGETS, exact_product
from drgate.vision.settings import MAX_ALPHA, MAX_RANK, StatedByFile
from drgate.vision.state_dicts import Parts

_INERT: Final = "head.attention.out_proj"
"""A layer whose weights SigLIP's pooling head reads without calling it: an adapter there has no effect."""

_MERGED: Final = 0.01
"""By so much of an adapter, a layer's weights may differ from those of the base model with the adapter added."""

_ROUNDED: Final = 1e-6
"""A length may differ from that of its row by so much where it was never trained."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What the product of an adapter's two matrices is multiplied by."""

    alpha: float
    rslora: bool

    def of(self, rank: int) -> float:
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)


def scale_of(
    stated: StatedByFile, ranks: list[int], alpha: float | None, described: StatedLora | None
) -> tuple[Scale, list[str]]:
    """LoRA's scale from the file, model.yaml and --lora-alpha, with sentences for the report.

    Raises CheckpointError where two of them, or the file and its tensors, contradict each other.
    """
    if stated.rank is not None and stated.rank.value not in ranks:
        raise CheckpointError(
            f"it states the rank {stated.rank.value:g} ({stated.rank.where}), but the ranks of its adapters are "
            f"{few([*map(str, ranks)])}."
        )
    rslora = bool(stated.rslora and stated.rslora.value)
    if described is not None and described.rslora is not None:
        if stated.rslora is not None and rslora != described.rslora:
            raise CheckpointError(
                f"it states rsLoRA = {rslora} ({stated.rslora.where}), and {DESCRIPTION} {described.rslora}; correct "
                f"{DESCRIPTION}."
            )
        rslora = described.rslora
    known = [] if stated.alpha is None else [(stated.alpha.value, f"it ({stated.alpha.where})")]
    known += [] if described is None else [(described.alpha, DESCRIPTION)]
    if alpha is not None:
        # A scale may be given as the alpha that has the same effect without rsLoRA.
        same = known and any(
            math.isclose(Scale(known[0][0], rslora).of(rank), alpha / rank, rel_tol=1e-6) for rank in ranks[:1]
        )
        known += [] if same and len(ranks) == 1 else [(alpha, "--lora-alpha")]
    for value, origin in known:
        if not 0 < value <= MAX_ALPHA:
            raise CheckpointError(f"LoRA's alpha is {value:g}; expected a number above 0, up to {MAX_ALPHA:g}.")
        if value != known[0][0]:
            raise CheckpointError(
                f"{known[0][1]} states LoRA's alpha {known[0][0]:g}, and {origin} {value:g}; leave out the wrong one."
            )
    if not known and stated.doubtful:
        raise CheckpointError(
            f"it states {stated.doubtful}, which may be LoRA's scale or something else; state LoRA's alpha with "
            "--lora-alpha."
        )
    if not known and len(ranks) > 1:
        raise CheckpointError(f"the adapters have the ranks {ranks}; state LoRA's alpha with --lora-alpha.")
    scale = Scale(known[0][0] if known else float(2 * ranks[0]), rslora)
    notes = []
    if rslora:
        notes.append(f"rsLoRA is stated: alpha {scale.alpha:g} is divided by the square root of the rank.")
    if not known:
        notes.append(f"LoRA's alpha is not in the file; {scale.alpha:g}, twice the rank, is assumed.")
    elif stated.alpha is not None:
        notes.append(f"The file states LoRA's alpha: {scale.alpha:g} ({stated.alpha.where}).")
    return scale, notes


def ranks_of(parts: Parts) -> list[int]:
    """The ranks of the adapters; each adapter is complete and fits its layer."""
    ranks = set()
    for module, one in parts.adapters.items():
        table, name = parts.layers(module)
        weight = table.get(f"{name}.weight")
        shapes = [tuple(one[letter].shape) if letter in one else () for letter in "AB"]
        if weight is None or not all(shapes):
            raise CheckpointError(f"the adapter on {few([module])} is not complete: A, B or its layer is missing.")
        if weight.dim() != 2 or module.startswith("embeddings."):
            raise CheckpointError(f"there is an adapter on {few([module])}; only those on linear layers are read.")
        rank = shapes[0][0]
        fits = shapes == [(rank, weight.shape[1]), (weight.shape[0], rank)] and 1 <= rank <= MAX_RANK
        more = {kind: one[kind].numel() for kind in ("bias", "magnitude") if kind in one}
        if not fits or any(count != weight.shape[0] for count in more.values()):
            raise CheckpointError(
                f"the adapter on {few([module])} has the shapes {shapes}, which do not fit its layer."
            )
        if len(more) == 2 or ("bias" in more and f"{name}.bias" not in table):
            raise CheckpointError(f"the adapter on {few([module])} has a bias that peft has no rule for.")
        if not all(bool(torch.isfinite(tensor).all()) for tensor in one.values()):
            raise CheckpointError(f"the adapter on {few([module])} contains NaN or infinite values: training diverged.")
        ranks.add(rank)
    return sorted(ranks)


def refuse_merged(parts: Parts, base: dict[str, Tensor], scale: Scale) -> None:
    """Raise CheckpointError where a layer's weights already hold its adapter. base: the tower's tensors before that."""
    for module, one in parts.adapters.items():
        before = base.get(f"{module}.weight")
        if before is None or "magnitude" in one:
            continue
        added = scale.of(len(one["A"])) * (one["B"] @ one["A"])
        rest = parts.tower[f"{module}.weight"] - before - added
        if added.any() and rest.norm() < _MERGED * added.norm():
            raise CheckpointError(
                f"the adapter on {few([module])} is already in its layer's weights (peft's merge_adapter), and would "
                "count twice. Save the model after unmerge_adapter, or after merge_and_unload."
            )


def merge(parts: Parts, scale: Scale, notes: list[str]) -> tuple[list[str], set[str]]:
    """Add to the weights what is no plain adapter on a layer that drtrain adapts.

    Returns the layers whose adapters remain, and the names of the tower's tensors that were changed.
    """
    remain, changed, adapted = [], set(), set(_adapted(parts))
    for module, one in parts.adapters.items():
        a, b = one["A"], one["B"]
        if module == _INERT:
            if b.any() or ("bias" in one and one["bias"].any()):
                raise CheckpointError(
                    f"the adapter on {_INERT} has nonzero weights, but it has no effect in training. How this "
                    "model computed its outputs is not known."
                )
            notes.append(f"The adapter on {_INERT} never had an effect and was left out.")
            continue
        table, name = parts.layers(module)
        by = scale.of(len(a))
        if "bias" in one and one["bias"].any():
            table[f"{name}.bias"] = (table[f"{name}.bias"].double() + by * one["bias"].double()).float()
            changed.add(f"{name}.bias")
        if "magnitude" not in one and module in adapted:
            remain.append(module)
            continue
        weight = table[f"{name}.weight"].double() + by * exact_product(b, a)
        longer = torch.ones(len(weight), dtype=torch.float64)
        if "magnitude" in one:  # DoRA: each row keeps its direction, and gets this length
            squares = torch.zeros(len(weight), dtype=torch.float64)
            for column in weight.T:  # in this order on all processors
                squares += column * column
            longer = one["magnitude"].reshape(-1).double() / squares.sqrt()
        if (a.any() and b.any()) or bool(((longer - 1).abs() > _ROUNDED).any()):
            table[f"{name}.weight"] = (weight * longer[:, None]).float()
            changed.add(f"{name}.weight")
        elif module in adapted:
            remain.append(module)
    return remain, changed


def _adapted(parts: Parts) -> list[str]:
    """The layers that drtrain adapts."""
    ends = tuple(f".{target}.weight" for target in LORA_TARGETS)
    return [
        name.removesuffix(".weight")
        for name in parts.tower
        if name.startswith("encoder.layers.") and name.endswith(ends)
    ]


def of_one_rank(parts: Parts, adapters: list[str], scale: Scale) -> tuple[LoraSettings, dict[str, Tensor]]:
    """Adapters of the largest rank on all layers that drtrain adapts, which compute the same; absent ones are zero."""
    ranks = {len(parts.adapters[module]["A"]) for module in adapters}
    rank = max(ranks)
    alpha = scale.of(rank) * rank if scale.rslora else scale.alpha
    tensors: dict[str, Tensor] = {}
    for module in _adapted(parts):
        out, into = parts.tower[f"{module}.weight"].shape
        a, b = torch.zeros(rank, into), torch.zeros(out, rank)
        if module in adapters:
            one = parts.adapters[module]
            own = len(one["A"])
            a[:own] = one["A"]
            b[:, :own] = one["B"] if own == rank else one["B"] * (scale.of(own) / scale.of(rank))
        tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    return LoraSettings(rank, alpha), tensors
