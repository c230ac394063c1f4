"""`python -m benchmarks inference` at the smallest size, on whatever device is here."""

from __future__ import annotations

import pytest
import torch

from benchmarks import inference
from benchmarks.train import FULL, forward_flops


def test_it_prints_every_figure(capsys: pytest.CaptureFixture[str]):
    """Ways, scoring beside the loop, what is claimed, and the share of the machine's matrix rate; a network that takes
    less time than decoding fails nothing."""
    asked = ["--size", "tiny", "--images", "5", "--rounds", "1", "--workers", "0", "--precision", "bf16"]
    assert inference.main([*asked, "--without", "compiled", "onnx"]) == 0
    said = capsys.readouterr().out
    for way in ("torch, merged", "torch, adapters apart", "torch, bf16"):
        assert f"| {way} | " in said
    assert "In bf16, drgate.score has " in said
    assert "nothing is claimed below 40 times as much" in said
    assert "bare loop: " in said
    assert "TFLOP/s that a" in said


def test_the_arithmetic_of_the_tower():
    """Counted by torch's own counter on the layers, at the shapes of a small tower."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import SiglipVisionConfig, SiglipVisionModel

    tower = SiglipVisionModel._from_config(SiglipVisionConfig(**inference.TINY), attn_implementation="eager").eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        tower(pixel_values=torch.zeros(1, 3, 224, 224))
    counted = sum(counter.get_flop_counts()["SiglipVisionModel.encoder"].values())
    assert forward_flops(inference.TINY) == counted
    assert forward_flops(FULL) == pytest.approx(9e11, rel=0.1)
