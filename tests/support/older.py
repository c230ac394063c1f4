"""Checkpoints of the earlier trainer's layout, and a forward pass written from its description."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from drgate.vision.base import Base
from tests.support import tiny

LAYERS, HEADS, RANK, ALPHA = 2, 4, 3, 6.0
LINEAR = [
    *(f"encoder.layers.{i}.self_attn.{name}_proj" for i in range(LAYERS) for name in ("q", "k", "v", "out")),
    *(f"encoder.layers.{i}.mlp.{name}" for i in range(LAYERS) for name in ("fc1", "fc2")),
    "head.attention.out_proj",
    "head.mlp.fc1",
    "head.mlp.fc2",
]
"""Every linear layer of the tower: what the earlier trainer put adapters on."""
PEFT = "backbone.vision_model.base_model.model."


def drawn(*shape: int, seed: int, scale: float = 0.2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def head(classes: int = 5, d: int = tiny.WIDTH) -> dict[str, Tensor]:
    """A grading head under the layout's names, LayerNorms included, with auxiliary heads beside it."""
    shapes = {
        "feature_norm": (d,),
        "classifier.0": (d // 2, d),
        "classifier.3": (d // 2,),
        "classifier.4": (d // 4, d // 2),
        "classifier.7": (d // 4,),
        "classifier.8": (classes, d // 4),
        "referable_dr_head.0": (2, d),
        "sight_threatening_head.0": (2, d),
        "confidence_head.0": (1, d),
    }
    tensors = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        tensors[f"classifier.{name}.weight"] = drawn(*shape, seed=seed) + (1.0 if len(shape) == 1 else 0.0)
        tensors[f"classifier.{name}.bias"] = drawn(shape[0], seed=100 + seed)
    return tensors


def state_dict(base: Base, *, lora: bool = True, further: bool = True, inert: float = 0.0) -> dict[str, Tensor]:
    """`model_state_dict` of the layout.

    further: with a second `vision_model.` in the names. inert: what B of the pooling head's out_proj is filled with.
    """
    tower = {name: tensor.clone() for name, tensor in base.load().state_dict().items()}
    middle = "vision_model." if further else ""
    if not lora:
        return {f"backbone.vision_model.{middle}{name}": tensor for name, tensor in tower.items()} | head()
    state = {}
    for name, tensor in tower.items():
        module, kind = name.rsplit(".", 1)
        state[f"{PEFT}{middle}{module}.base_layer.{kind}" if module in LINEAR else f"{PEFT}{middle}{name}"] = tensor
    for seed, module in enumerate(LINEAR):
        out, into = tower[f"{module}.weight"].shape
        b = torch.full((out, RANK), inert) if module == "head.attention.out_proj" else drawn(out, RANK, seed=300 + seed)
        state[f"{PEFT}{middle}{module}.lora_A.default.weight"] = drawn(RANK, into, seed=200 + seed)
        state[f"{PEFT}{middle}{module}.lora_B.default.weight"] = b
    return state | head()


def write(path: Path, state: dict[str, Any], *, epoch: int = 2, accuracies: Any = None, **changes: Any) -> Path:
    """A file of the layout, whose figures are NumPy scalars in part, as they came out of its training loop."""
    curve = [61.0, 70.5, 81.76] if accuracies is None else accuracies
    payload = {
        "epoch": epoch,
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(9.0)}}, "param_groups": [{"lr": 2e-5}]},
        "scheduler_state_dict": None,
        "val_accuracy": np.float64(curve[epoch]),
        "best_val_accuracy": np.float32(max(curve)),
        "train_losses": [1.0] * len(curve),
        "val_losses": [np.float64(1.5)] * len(curve),
        "val_accuracies": [np.float64(value) for value in curve],
        "medical_validations": [{"passes": np.bool_(False), "pdr": True} for _ in curve],
        "scaler_state_dict": {"scale": 65536.0},
    }
    torch.save(payload | changes, path)
    return path


def reference_logits(base: Base, state: dict[str, Tensor], images: Tensor, *, alpha: float = ALPHA) -> Tensor:
    """A forward pass written from the layout's description alone: SigLIP's vision tower, adapters, the two heads."""
    plain = {
        re.sub(
            r"^backbone\.vision_model\.(base_model\.model\.)?(vision_model\.)?", "backbone.vision_model.", name
        ).replace(".base_layer.", "."): tensor
        for name, tensor in state.items()
    }

    def of(name: str) -> Tensor:
        return plain[f"backbone.vision_model.{name}"]

    def linear(x: Tensor, name: str) -> Tensor:
        y = functional.linear(x, of(f"{name}.weight"), of(f"{name}.bias"))
        if f"backbone.vision_model.{name}.lora_A.default.weight" in plain:
            a, b = (of(f"{name}.lora_{letter}.default.weight") for letter in "AB")
            y = y + (x @ a.T @ b.T) * (alpha / len(a))
        return y

    def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def tower_norm(x: Tensor, name: str) -> Tensor:
        return norm(x, of(f"{name}.weight"), of(f"{name}.bias"), 1e-6)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, _, width = q.shape
        q, k, v = (x.reshape(n, -1, HEADS, width // HEADS).transpose(1, 2) for x in (q, k, v))
        weights = torch.softmax(q @ k.transpose(2, 3) / (width // HEADS) ** 0.5, dim=-1)
        return (weights @ v).transpose(1, 2).reshape(n, -1, width)

    def mlp(x: Tensor, name: str) -> Tensor:
        return linear(functional.gelu(linear(x, f"{name}.fc1"), approximate="tanh"), f"{name}.fc2")

    patches = of("embeddings.patch_embedding.weight")
    x = functional.conv2d(images, patches, of("embeddings.patch_embedding.bias"), stride=patches.shape[-1])
    x = x.flatten(2).transpose(1, 2) + of("embeddings.position_embedding.weight")
    for i in range(LAYERS):
        layer = f"encoder.layers.{i}"
        y = tower_norm(x, f"{layer}.layer_norm1")
        q, k, v = (linear(y, f"{layer}.self_attn.{name}_proj") for name in "qkv")
        x = x + linear(attention(q, k, v), f"{layer}.self_attn.out_proj")
        x = x + mlp(tower_norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp")
    x = tower_norm(x, "post_layernorm")
    weights = zip(of("head.attention.in_proj_weight").chunk(3), of("head.attention.in_proj_bias").chunk(3), strict=True)
    probe = of("head.probe").repeat(len(x), 1, 1)
    pooled = attention(*(functional.linear(y, *wb) for y, wb in zip((probe, x, x), weights, strict=True)))
    # nn.MultiheadAttention reads its output projection's weight past the adapter.
    pooled = functional.linear(pooled, of("head.attention.out_proj.weight"), of("head.attention.out_proj.bias"))
    pooled = pooled + mlp(tower_norm(pooled, "head.layernorm"), "head.mlp")
    y = pooled[:, 0]

    def own(name: str) -> tuple[Tensor, Tensor]:
        return plain[f"classifier.{name}.weight"], plain[f"classifier.{name}.bias"]

    y = norm(y, *own("feature_norm"), 1e-5)
    y = norm(functional.gelu(functional.linear(y, *own("classifier.0"))), *own("classifier.3"), 1e-5)
    y = norm(functional.gelu(functional.linear(y, *own("classifier.4"))), *own("classifier.7"), 1e-5)
    return functional.linear(y, *own("classifier.8"))


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
