"""A grader in Python: EfficientNet-Lite0 with a head for the five grades (docs/models.md, "A grader in Python").

    drgate evaluate weights.pth --grader examples/efficientnet_lite0.py:load --data eyepacs

`weights.pth` holds the network's state dict, as `torch.save(network.state_dict(), "weights.pth")` writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from efficientnet_lite_pytorch import EfficientNet


class Grader:
    """What drgate asks for: four attributes and one function."""

    kind = "logits"
    classes = ("no_dr", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr")
    preprocessing = "imagenet-stretch@224"

    def __init__(self, weights: list[Path]) -> None:
        self.files = weights
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        network = EfficientNet.from_name("efficientnet-lite0", num_classes=len(self.classes))
        network.load_state_dict(torch.load(weights[0], weights_only=True, map_location="cpu"))
        self.network = network.eval().to(self.device)

    def predict(self, batch: Any) -> Any:
        """Logits (n, 5) for images (n, 3, 224, 224) in 32-bit floats."""
        with torch.inference_mode():
            return self.network(torch.from_numpy(batch).to(self.device)).cpu().numpy()


def load(weights: list[Path]) -> Grader:
    """The grader; drgate calls this once, in a process of its own."""
    return Grader(weights)
