"""The grading network: a SigLIP vision tower, its pooled feature, and a head that gives five logits.

LoRA adapts the encoder's linear layers and never the tower's pooling head: that head is a `nn.MultiheadAttention`,
which reads its output projection's weights without calling it, so an adapter there gets no gradient and changes the
outputs when it is merged.

    model = GradingModel(add_lora(base.load(), r=16, alpha=32), width=1152, dropout=0.4)
    logits = model(pixel_values)                    # (n, 3, 448, 448) in [-1, 1]  ->  (n, 5)
"""

from __future__ import annotations

from typing import Any, Final

import torch
from peft import LoraConfig, LoraModel
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from drgate.errors import CheckpointError
from drgate.scale import GRADES

LORA_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
LORA_EXCLUDES: Final = r".*head\..*"

_INTEGERS: Final = {
    "hidden_size": 8192,
    "intermediate_size": 32768,
    "num_hidden_layers": 256,
    "num_attention_heads": 256,
    "num_channels": 3,
    "image_size": 4096,
    "patch_size": 256,
}
_ACTIVATIONS: Final = ("gelu_pytorch_tanh", "gelu", "quick_gelu", "relu", "silu")


def architecture(config: SiglipVisionConfig) -> dict[str, Any]:
    """The part of a vision config that decides what the tower computes, as plain values."""
    return {
        **{name: int(getattr(config, name)) for name in _INTEGERS},
        "hidden_act": str(config.hidden_act),
        "layer_norm_eps": float(config.layer_norm_eps),
    }


def vision_config(values: dict[str, Any]) -> SiglipVisionConfig:
    """The vision config of an `architecture`; further keys are ignored, SigLIP's defaults fill the gaps.

    Raises:
        CheckpointError: a value that no SigLIP vision tower has (so that a hostile file cannot ask for any amount of
            memory), or a tower without pooling head.
    """
    defaults = architecture(SiglipVisionConfig())
    chosen = {name: values.get(name, default) for name, default in defaults.items()}
    for name, limit in _INTEGERS.items():
        value = chosen[name]
        if type(value) is not int or not 1 <= value <= limit:
            raise CheckpointError(
                f"the vision config says {name} = {value!r}; a whole number from 1 to {limit} is wanted"
            )
    if chosen["num_channels"] != 3:
        raise CheckpointError(f"the vision tower takes {chosen['num_channels']} colour channels; 3 are wanted.")
    if chosen["hidden_size"] % chosen["num_attention_heads"] or chosen["hidden_size"] < 4:
        raise CheckpointError("the vision config's hidden_size is not a multiple of its num_attention_heads.")
    if chosen["patch_size"] > chosen["image_size"]:
        raise CheckpointError("the vision config's patch_size is larger than its image_size.")
    if chosen["hidden_act"] not in _ACTIVATIONS:
        raise CheckpointError(f"the vision config names the activation {chosen['hidden_act']!r}, which is not known.")
    if not isinstance(chosen["layer_norm_eps"], float) or not 0 < chosen["layer_norm_eps"] < 1:
        raise CheckpointError(f"the vision config says layer_norm_eps = {chosen['layer_norm_eps']!r}.")
    if values.get("vision_use_head") is False:
        raise CheckpointError("the vision tower has no pooling head; grading needs its pooled feature.")
    return SiglipVisionConfig(**chosen)


def empty_tower(config: SiglipVisionConfig) -> SiglipVisionModel:
    """A vision tower of tensors without memory (device "meta"): names and shapes, to check or to fill."""
    with torch.device("meta"):
        return SiglipVisionModel(config)


def fill_tower(config: SiglipVisionConfig, tensors: dict[str, Tensor]) -> SiglipVisionModel:
    """A float32 vision tower that holds `tensors`, whose names and shapes are those of `empty_tower(config)`.

    The tower's random initialisation, 20 seconds for a full-size one, is passed by.
    """
    tower = empty_tower(config)
    tower.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    # the one buffer that no file holds
    embeddings: Any = tower.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions).expand((1, -1))
    if left := [name for name, tensor in [*tower.named_parameters(), *tower.named_buffers()] if tensor.is_meta]:
        raise CheckpointError(f"this version of transformers expects tensors that the file lacks: {', '.join(left)}.")
    return tower


class GradingHead(nn.Module):
    """Five logits from the pooled feature (n, width); dropout acts after each of the two hidden layers.

    The names in its state dict (`feature_norm`, `classifier.0`, `.3`, `.4`, `.7`, `.8`) are a file format.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.feature_norm = nn.LayerNorm(width)
        self.classifier = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.LayerNorm(width // 2),
            nn.Linear(width // 2, width // 4),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.LayerNorm(width // 4),
            nn.Linear(width // 4, len(GRADES)),
        )

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.feature_norm(features))
        return logits


class GradingModel(nn.Module):
    """Logits (n, 5) of the ICDR grades for images (n, 3, size, size) in [-1, 1]."""

    def __init__(self, backbone: nn.Module, width: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = GradingHead(width, dropout)
        self.replaced: tuple[str, ...] = ()
        """Tensors of the tower under the adapters that are not the base model's: its checkpoint holds them too."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.backbone(pixel_values=pixel_values).pooler_output)
        return logits


def add_lora(backbone: SiglipVisionModel, *, r: int, alpha: float) -> LoraModel:
    """The tower with LoRA adapters on the encoder's linear layers; everything else in it is frozen.

    The adapters have no dropout of their own: it would cost 40 % of the training speed of a small tower on a CPU.
    """
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft divides it by r; a fraction is as good as a whole number
        target_modules=list(LORA_TARGETS),
        exclude_modules=LORA_EXCLUDES,
    )
    return LoraModel(backbone, config, "default")


def adapter_tensors(backbone: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors under the tower's own names, such as `encoder.layers.0.mlp.fc1.lora_A.weight`."""
    return {
        name.removeprefix("model.").replace(".default.", "."): tensor.detach()
        for name, tensor in backbone.state_dict().items()
        if ".lora_" in name
    }


def tower_tensors(backbone: nn.Module) -> dict[str, Tensor]:
    """The vision tower's own tensors under its own names, whether adapters sit on it or not."""
    return {
        name.removeprefix("model.").replace(".base_layer.", "."): tensor.detach()
        for name, tensor in backbone.state_dict().items()
        if ".lora_" not in name
    }


def fill_adapter(backbone: LoraModel, tensors: dict[str, Tensor]) -> tuple[str, ...]:
    """Copy tensors named as in `adapter_tensors` or `tower_tensors` to their places; all have been checked.

    Returns the names of the latter: what `GradingModel.replaced` says.
    """
    adapter, tower = adapter_tensors(backbone), tower_tensors(backbone)
    with torch.no_grad():
        for name, tensor in tensors.items():
            (adapter if name in adapter else tower)[name].copy_(tensor)
    return tuple(sorted(tensors.keys() - adapter.keys()))


def merge_lora(model: GradingModel) -> GradingModel:
    """The same function without adapters, their products added to the weights; the model passed in is used up.

    Raises:
        CheckpointError: the merged model's logits on two random images differ from the unmerged one's by more than
            1e-4 of their largest magnitude.
    """
    if not isinstance(model.backbone, LoraModel):
        return model
    model.eval()
    config: SiglipVisionConfig = model.backbone.model.config
    weight = model.classifier.feature_norm.weight
    generator = torch.Generator().manual_seed(0)
    size = architecture(config)["image_size"]
    images = torch.rand(2, 3, size, size, generator=generator) * 2 - 1
    images = images.to(weight.device, weight.dtype)
    with torch.inference_mode():
        before = model(images)
    model.backbone = model.backbone.merge_and_unload()
    with torch.inference_mode():
        after = model(images)
    difference = (before - after).abs().max().item()
    if not difference <= 1e-4 * max(1.0, before.abs().max().item()):
        raise CheckpointError(f"merging the LoRA adapters changed the logits by {difference:.2g}: nothing was written.")
    return model
