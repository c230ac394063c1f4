"""Time of a training step of drtrain, compared with a plain PyTorch + peft loop of the same network and images.

    python -m benchmarks train                                          # embedded base, batch 24
    python -m benchmarks train --size full --batch_size 6 --accumulation 4 --precision bf16      # on a GPU

Both run alternating steps in one process, so that changes in the machine's speed affect both. Prints the median of the
ratios of all rounds, and the ratio of the fastest steps. The plain loop does what a training script would:
cross-entropy, AdamW, clipping, the same accumulation and precision. The images are in the cache that drtrain fills.
Augmentation, which the plain loop does not have, is off, and its cost is printed separately. `--size full` uses the
architecture of MedSigLIP-448 with random weights, and prints the matrix rate as a share of the rate that this machine
reaches on a large product.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import SiglipVisionConfig, SiglipVisionModel

from drgate.demo.synthetic import write_dataset
from drgate.manifest import load_manifest
from drgate.preprocessing import FUNDUS_SQUARE, parse_preprocessing
from drgate.vision.base import resolve_base
from drgate.vision.network import GradingModel, add_lora
from drgate.vision.processes import processes
from trainer.config import TrainingConfig
from trainer.data import ImageSet, read_images
from trainer.engine import Engine

FULL = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 448,
    "patch_size": 14,
}
"""MedSigLIP-448's vision tower."""

MOST = 1.05


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks train", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=["embedded", "full"], default="embedded")
    parser.add_argument("--batch_size", type=int, default=24)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--gradient_checkpointing", choices=["yes", "no"], default="no")
    parser.add_argument(
        "--steps", type=int, default=30, help="number of steps of each loop, after two that are not counted"
    )
    parser.add_argument("--alone", action="store_true", help="only the step of drtrain, to measure its memory")
    options = parser.parse_args(argv)
    config = TrainingConfig(
        dataset="synthetic",
        batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulation,
        precision=options.precision,
        augmentation="none",
        dropout=0.1,
        learning_rate=1e-5,
        gradient_checkpointing=options.gradient_checkpointing,
    )
    whole = options.batch_size * options.accumulation
    with processes() as group, tempfile.TemporaryDirectory() as name:
        size = FULL["image_size"] if options.size == "full" else resolve_base("embedded").config.image_size
        images = _images(Path(name), size, whole)
        engine = Engine(config, _network(options.size, config), group)
        parts = np.array_split(np.arange(whole), options.accumulation)
        number = 0

        def ours() -> None:
            nonlocal number
            loss = engine.step(
                images, parts, [np.zeros_like(part) for part in parts], epoch=1, number=number, total=whole, rate=1e-5
            )
            number += 1
            if not bool(torch.isfinite(loss)):
                raise SystemExit("The loss is no number.")

        contestants: dict[str, Callable[[], None]] = {"drtrain": ours}
        if not options.alone:
            contestants["plain loop"] = _bare(_network(options.size, config).to(group.device), images, parts, config)
        augmented = Engine(config.model_copy(update={"augmentation": "fundus"}), engine.model, group)

        def turned() -> None:
            augmented.step(
                images, parts, [np.zeros_like(part) for part in parts], epoch=1, number=number, total=whole, rate=1e-5
            )

        if not options.alone:
            contestants["drtrain, augmented"] = turned
        times: dict[str, list[float]] = {who: [] for who in contestants}
        for round_ in range(options.steps + 2):
            for who, step in contestants.items():
                began = time.perf_counter()
                step()
                if group.device.type == "cuda":
                    torch.cuda.synchronize()
                if round_ >= 2:
                    times[who].append(time.perf_counter() - began)
        medians = {who: statistics.median(found) for who, found in times.items()}
        where = (
            torch.cuda.get_device_name() if group.device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
        )
        print(
            f"{options.size}, {options.accumulation} x {options.batch_size} images per step, "
            f"{options.precision}, {where}"
        )
        print("| | median | least | most |\n|---|---|---|---|")
        for who, found in times.items():
            print(f"| {who} | {1000 * medians[who]:.1f} ms | {1000 * min(found):.1f} | {1000 * max(found):.1f} |")
        if group.device.type == "cuda":
            print(f"Peak device memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB.")
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"Peak memory of the process: {peak:.1f} GiB.")
        if options.size == "full":
            _share_of_the_matrix_rate(group.device, options.precision, whole, medians["drtrain"])
        if options.alone:
            return 0
        rounds = zip(times["drtrain"], times["plain loop"], strict=True)
        ratio = statistics.median(ours_ / theirs for ours_, theirs in rounds)
        fastest = min(times["drtrain"]) / min(times["plain loop"])
        print(f"drtrain / plain loop: {ratio:.3f} (claimed: at most {MOST}); for the fastest steps: {fastest:.3f}.")
        print(f"Augmentation adds {100 * (medians['drtrain, augmented'] / medians['drtrain'] - 1):.0f} %.")
        return 0 if ratio <= MOST else 1


def _network(size: str, config: TrainingConfig) -> GradingModel:
    torch.manual_seed(0)
    tower = SiglipVisionModel(SiglipVisionConfig(**FULL)) if size == "full" else resolve_base("embedded").load()
    width = int(tower.config.hidden_size)
    return GradingModel(add_lora(tower, r=config.lora_r, alpha=config.lora_alpha), width, config.dropout)


def _images(folder: Path, size: int, n: int) -> ImageSet:
    """Synthetic photographs, read through the cache of drtrain."""
    patients = [max(1, -(-n // 10))] * 5
    write_dataset(
        folder / "data",
        seed=0,
        train_patients=patients,
        val_patients=[1] * 5,
        test_patients=[1] * 5,
        progress=lambda done, total: None,
    )
    rows = load_manifest(folder / "data").select("train")
    prepare = parse_preprocessing(f"{FUNDUS_SQUARE}@{size}")
    for _ in range(2):  # filled, then read
        images = read_images(rows, prepare, workers=0, cache=folder / "cache", folder=folder)
    return images


def _bare(model: GradingModel, images: ImageSet, parts: list[np.ndarray], config: TrainingConfig) -> Callable[[], None]:
    """The loop of a plain training script."""
    device = next(model.parameters()).device
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=config.weight_decay)
    model.train()

    def step() -> None:
        for part in parts:
            pixels = torch.from_numpy(images.pixels[part]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            grades = torch.from_numpy(images.grades[part]).to(device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
                logits = model(pixels)
            (functional.cross_entropy(logits.float(), grades) / len(parts)).backward()
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def matrix_rate(device: torch.device, kind: torch.dtype) -> tuple[float, int]:
    """FLOP/s that a large product of two square matrices reaches here, and their size."""
    n = 8192 if device.type == "cuda" else 2048
    one = torch.randn(n, n, device=device, dtype=kind)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        one @ one
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best, n


def forward_flops(tower: dict[str, int]) -> int:
    """FLOPs of an image through the layers of a vision tower, which do nearly all of its arithmetic."""
    tokens = (tower["image_size"] // tower["patch_size"]) ** 2
    d, m, layers = tower["hidden_size"], tower["intermediate_size"], tower["num_hidden_layers"]
    return layers * (2 * tokens * (4 * d * d + 2 * d * m) + 4 * tokens * tokens * d)


def _share_of_the_matrix_rate(device: torch.device, precision: str, images: int, seconds: float) -> None:
    """Arithmetic rate of a LoRA step (twice the forward pass), compared with that of a large matrix product."""
    rate, n = matrix_rate(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    reached = 2 * forward_flops(FULL) * images / seconds
    print(
        f"{reached / 1e12:.2f} of {rate / 1e12:.2f} TFLOP/s that a {n} x {n} product reaches here: "
        f"{100 * reached / rate:.0f} % (forward and the gradients of activations counted)."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
