"""Image classifiers of transformers and adapters of peft, tiny, with random weights, saved as people save them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.warning import PeftWarning
from torch import nn
from transformers import SiglipConfig, SiglipForImageClassification, ViTConfig, ViTForImageClassification

from drgate.scale import GRADES

SIDE = 32
NAMES = ("Mild", "Moderate", "No DR", "Proliferative DR", "Severe")
"""The five grades in the order of the alphabet, as image folders give them."""
TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 8,
}
PROCESSOR = {
    "image_processor_type": "SiglipImageProcessor",
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"height": SIDE, "width": SIDE},
}


def labels(names: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def shaken(network: Any, seed: int = 0) -> Any:
    """The network in eval mode with weights large enough that its decisions depend on the image."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return network.eval()


def siglip(names: Sequence[str] = NAMES, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = SiglipConfig(vision_config=TINY, **labels(names), **settings)
    return shaken(SiglipForImageClassification(config))


def vit(names: Sequence[str] = NAMES, **settings: Any) -> Any:
    torch.manual_seed(0)
    return shaken(ViTForImageClassification(ViTConfig(**TINY, **labels(names), **settings)))


def save(network: Any, folder: Path, *, processor: bool = True, **changes: Any) -> Path:
    """As `save_pretrained` does; changes: of config.json."""
    network.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    if changes:
        config = folder / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    return folder


def adapted(network: Any, **settings: Any) -> PeftModel:
    """The network with random LoRA adapters."""
    given: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "fc1"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of peft, about a name in transformers
        model = get_peft_model(network, LoraConfig(**given | settings))
    return shaken(model, seed=1)


def save_adapter(model: PeftModel, folder: Path, *, processor: bool = True, **changes: Any) -> Path:
    """As peft saves an adapter; changes: of adapter_config.json."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PeftWarning)  # that a bias has one dimension
        model.save_pretrained(folder)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def model_yaml(folder: Path, weights: str, architecture: str, **more: Any) -> Path:
    plain = {
        "format": "drgate model 1",
        "weights": weights,
        "architecture": architecture,
        "output": {"kind": "logits"},
        "classes": list(GRADES),
        "preprocessing": f"siglip@{SIDE}",
    } | more
    plain = {key: value for key, value in plain.items() if value is not None}
    (folder / "model.yaml").write_text(json.dumps(plain))
    return folder


def images(count: int = 40) -> NDArray[np.float32]:
    """Smooth images that are unlike each other, preprocessed."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return nn.functional.interpolate(coarse, size=SIDE, mode="bilinear").numpy()


def answers(network: Any, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits that transformers or peft compute."""
    with torch.inference_mode():
        logits: torch.Tensor = network(pixel_values=torch.from_numpy(batch)).logits
    return logits.numpy()
