"""The grading network: a SigLIP vision tower, its pooled feature, and a head that gives five logits.

LoRA adapts the encoder's linear layers but not the tower's pooling head. That head is a `nn.MultiheadAttention`, which
reads the weights of its output projection without calling that layer. An adapter there would get no gradient, and would
change the outputs when merged.

    model = GradingModel(add_lora(base.load(), r=16, alpha=32), width=1152, dropout=0.4)
    logits = model(pixel_values)                    # (n, 3, 448, 448) in [-1, 1]  ->  (n, 5)
"""

from __future__ import annotations

from typing import Any, Final

import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
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
MAX_PATCHES: Final = 1 << 14
"""In an image: MedSigLIP has 1024. Memory grows with the square: a file of 16 MB could ask for terabytes."""

_ACTIVATIONS: Final = ("gelu_pytorch_tanh", "gelu", "quick_gelu", "relu", "silu")


def architecture(config: SiglipVisionConfig) -> dict[str, Any]:
    """The values of a vision config that decide what the tower computes."""
    return {
        **{name: int(getattr(config, name)) for name in _INTEGERS},
        "hidden_act": str(config.hidden_act),
        "layer_norm_eps": float(config.layer_norm_eps),
    }


def vision_config(values: dict[str, Any]) -> SiglipVisionConfig:
    """The vision config of an `architecture`. Unknown keys are ignored; missing ones get SigLIP's defaults.

    Raises:
        CheckpointError: a value out of range (a malicious file could otherwise require any amount of memory), or a
            tower without pooling head.
    """
    defaults = architecture(SiglipVisionConfig())
    chosen = {name: values.get(name, default) for name, default in defaults.items()}
    for name, limit in _INTEGERS.items():
        value = chosen[name]
        if type(value) is not int or not 1 <= value <= limit:
            raise CheckpointError(
                f"the vision config has {name} = {str(value)[:50]}; expected a whole number from 1 to {limit}."
            )
    if chosen["num_channels"] != 3:
        raise CheckpointError(f"the vision tower takes {chosen['num_channels']} colour channels; expected 3.")
    if chosen["hidden_size"] % chosen["num_attention_heads"] or chosen["hidden_size"] < 4:
        raise CheckpointError("the vision config's hidden_size is not a multiple of its num_attention_heads.")
    if chosen["patch_size"] > chosen["image_size"]:
        raise CheckpointError("the vision config's patch_size is larger than its image_size.")
    if (patches := (chosen["image_size"] // chosen["patch_size"]) ** 2) > MAX_PATCHES:
        raise CheckpointError(
            f"the vision config divides an image into {patches} patches; expected {MAX_PATCHES} at most."
        )
    if chosen["hidden_act"] not in _ACTIVATIONS:
        raise CheckpointError(
            f"the vision config has the activation {str(chosen['hidden_act'])[:50]!r}; expected one of"
            f" {', '.join(_ACTIVATIONS)}."
        )
    if not isinstance(chosen["layer_norm_eps"], float) or not 0 < chosen["layer_norm_eps"] < 1:
        raise CheckpointError(
            f"the vision config has layer_norm_eps = {str(chosen['layer_norm_eps'])[:50]}; expected a number between"
            " 0 and 1."
        )
    if values.get("vision_use_head") is False:
        raise CheckpointError("the vision tower has no pooling head; grading needs its pooled feature.")
    return SiglipVisionConfig(**chosen)


def empty_tower(config: SiglipVisionConfig) -> SiglipVisionModel:
    """A vision tower without memory for its tensors (device "meta"): names and shapes, to check or to fill."""
    with torch.device("meta"):
        return SiglipVisionModel(config)


def fill_tower(config: SiglipVisionConfig, tensors: dict[str, Tensor]) -> SiglipVisionModel:
    """A float32 vision tower with `tensors`, whose names and shapes are those of `empty_tower(config)`.

    Skips the random initialisation, which takes 20 seconds for a full-size tower.
    """
    tower = empty_tower(config)
    tower.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    # this buffer is not saved in files
    embeddings: Any = tower.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions).expand((1, -1))
    if left := [name for name, tensor in [*tower.named_parameters(), *tower.named_buffers()] if tensor.is_meta]:
        raise CheckpointError(f"this version of transformers expects tensors that the file lacks: {', '.join(left)}.")
    return tower


class GradingHead(nn.Module):
    """Logits (n, outputs) from the pooled feature (n, width); dropout acts after each of the two hidden layers.

    The names in its state dict (`feature_norm`, `classifier.0`, `.3`, `.4`, `.7`, `.8`) are part of the file format.
    """

    def __init__(self, width: int, dropout: float, outputs: int = len(GRADES)) -> None:
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
            nn.Linear(width // 4, outputs),
        )

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.feature_norm(features))
        return logits


class GradingModel(nn.Module):
    """Logits (n, 5) of the ICDR grades for images (n, 3, size, size); heads of other trainers may differ in 5."""

    def __init__(self, backbone: nn.Module, width: int, dropout: float, outputs: int = len(GRADES)) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = GradingHead(width, dropout, outputs)
        self.replaced: tuple[str, ...] = ()
        """Names of tower tensors that differ from the base model's; the checkpoint contains them too."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.backbone(pixel_values=pixel_values).pooler_output)
        return logits


def add_lora(backbone: SiglipVisionModel, *, r: int, alpha: float) -> LoraModel:
    """The tower with LoRA adapters on the encoder's linear layers; its other weights are frozen.

    The adapters have no dropout, which would cost 40 % of the training speed of a small tower on a CPU.
    """
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft divides it by r, so a fraction works too
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
    """The vision tower's own tensors under its own names, with or without adapters."""
    return {
        name.removeprefix("model.").replace(".base_layer.", "."): tensor.detach()
        for name, tensor in backbone.state_dict().items()
        if ".lora_" not in name
    }


def fill_adapter(backbone: LoraModel, tensors: dict[str, Tensor]) -> tuple[str, ...]:
    """Copy tensors named as in `adapter_tensors` or `tower_tensors` into the network; they were checked before.

    Returns the names of the tower's tensors, for `GradingModel.replaced`.
    """
    adapter, tower = adapter_tensors(backbone), tower_tensors(backbone)
    with torch.no_grad():
        for name, tensor in tensors.items():
            (adapter if name in adapter else tower)[name].copy_(tensor)
    return tuple(sorted(tensors.keys() - adapter.keys()))


def exact_product(up: Tensor, down: Tensor) -> Tensor:
    """`up` (out, r) times `down` (r, in) in float64, the same on all processors.

    torch sums a product of matrices in another order on other processors.
    """
    total = torch.zeros(up.shape[0], down.shape[1], dtype=torch.float64, device=up.device)
    for column, row in zip(up.double().T, down.double(), strict=True):
        total += column[:, None] * row
    return total


def _merge_exactly(layer: Any) -> None:
    """Add an adapter to its layer's weight, and leave nothing for peft to add."""
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        weight = layer.get_base_layer().weight
        weight.copy_(weight.double() + exact_product(up, down) * layer.scaling["default"])
        layer.lora_B["default"].weight = nn.Parameter(torch.zeros_like(up), requires_grad=False)


def merge_lora(model: GradingModel) -> GradingModel:
    """Merge the adapters into the weights of the tower. Changes `model` and returns it.

    Raises:
        CheckpointError: merging changed the logits of two random images by more than 1e-4 of their largest magnitude.
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
    for module in model.backbone.modules():
        if isinstance(module, LoraLayer):
            _merge_exactly(module)
    model.backbone = model.backbone.merge_and_unload()
    with torch.inference_mode():
        after = model(images)
    difference = (before - after).abs().max().item()
    if not difference <= 1e-4 * max(1.0, before.abs().max().item()):
        raise CheckpointError(f"merging the LoRA adapters changed the logits by {difference:.2g}: nothing was written.")
    return model
