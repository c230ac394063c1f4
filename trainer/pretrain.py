"""Pre-train the embedded base: a small SigLIP vision tower that learns to see lesions, not to grade them.

    python -m trainer.pretrain --out drgate/vision/embedded_base

It sees only synthetic photographs of the namespace `pretrain`. It learns which lesions are in each patch and, from the
pooled feature, how many there are in each quadrant. It sees no grade: only fine-tuning learns grades.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import SiglipVisionConfig, SiglipVisionModel

from drgate.demo.synthetic import EYES, QUADRANTS, Lesions, Photograph, draw_patient, render
from drgate.preprocessing import FUNDUS_SQUARE, parse_preprocessing

SIZE: Final = 128
PATCH: Final = 16
PATCHES: Final = SIZE // PATCH
PREPARE: Final = parse_preprocessing(f"{FUNDUS_SQUARE}@{SIZE}")

EVERYWHERE: Final = (
    "microaneurysms",
    "haemorrhages",
    "hard_exudates",
    "cotton_wool_spots",
    "irma",
    "new_vessels",
    "preretinal_haemorrhages",
    "vitreous_haemorrhage",
    "venous_beading",
)
"""Lesions that are asked per patch; new vessels at the disc and elsewhere count as one kind."""


def architecture() -> SiglipVisionConfig:
    """Of the embedded base: 0.6 million parameters, 64 patches of an image of 128 x 128."""
    return SiglipVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=SIZE,
        patch_size=PATCH,
        hidden_act="gelu_pytorch_tanh",
    )


@dataclass(frozen=True, slots=True)
class Examples:
    """Photographs and the answers to learn."""

    pixels: NDArray[np.uint8]
    """(n, SIZE, SIZE, 3)"""
    patches: NDArray[np.float32]
    """(n, PATCHES, PATCHES, len(EVERYWHERE)): lesions with their centre here, or 1 where a large one reaches."""
    whole: NDArray[np.float32]
    """(n, answers): log(1 + number), see `_whole`."""


def _whole(lesions: Lesions) -> list[float]:
    """Answers for the pooled feature: the number of each kind of lesion, and of haemorrhages in each quadrant."""
    counts = [*lesions.total.values(), *lesions.haemorrhages, min(lesions.haemorrhages), max(lesions.haemorrhages)]
    counts.append(int(sum(lesions.venous_beading) >= 2))
    return [math.log1p(n) for n in counts]


def _patches(photograph: Photograph) -> NDArray[np.float32]:
    """Lesions per patch. The preprocessing makes the field of view fill the width of the input."""
    found = np.zeros((PATCHES, PATCHES, len(EVERYWHERE)), dtype=np.float32)
    middles = (np.arange(PATCHES) + 0.5) * 2 / PATCHES - 1
    for mark in photograph.marks:
        kind = EVERYWHERE.index("new_vessels" if mark.kind.startswith("new_vessels") else mark.kind)
        column, row = (min(PATCHES - 1, max(0, int((v + 1) / 2 * PATCHES))) for v in (mark.x, mark.y))
        found[row, column, kind] += 1
        if mark.radius > 0.12:
            near = (middles[None, :] - mark.x) ** 2 + (middles[:, None] - mark.y) ** 2 < (0.8 * mark.radius) ** 2
            found[..., kind] = np.maximum(found[..., kind], near)
    return found


def _draw(task: tuple[int, int]) -> list[tuple[NDArray[Any], NDArray[np.float32], list[float]]]:
    """Both eyes of a patient of the namespace `pretrain`, as they would come from a file."""
    seed, index = task
    # Severe and proliferative disease shows most lesions.
    patient = draw_patient("pretrain", seed=seed, index=index, worse_grade=(0, 1, 1, 2, 2, 3, 3, 3, 4, 4)[index % 10])
    drawn = []
    for eye in EYES:
        photograph = render(patient, eye, size=224)
        file = io.BytesIO()
        photograph.image.save(file, "JPEG", quality=90)
        drawn.append((PREPARE.pixels(Image.open(file)), _patches(photograph), _whole(photograph.lesions)))
    return drawn


def draw_examples(images: int, *, seed: int, first: int = 0) -> Examples:
    """`images` photographs (even) of the namespace `pretrain`, from patient number `first` on."""
    tasks = [(seed, first + index) for index in range(images // 2)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        drawn = [example for eyes in pool.map(_draw, tasks, chunksize=16) for example in eyes]
    pixels, patches, whole = zip(*drawn, strict=True)
    return Examples(np.stack(pixels), np.stack(patches), np.array(whole, dtype=np.float32))


class LesionReader(nn.Module):
    """The tower with two linear layers that are dropped after pre-training."""

    def __init__(self, tower: SiglipVisionModel, answers: int) -> None:
        super().__init__()
        self.tower = tower
        self.by_patch = nn.Linear(tower.config.hidden_size, 2 * len(EVERYWHERE))
        self.of_whole = nn.Linear(tower.config.hidden_size, 2 * answers)

    def loss(self, pixels: Tensor, patches: Tensor, whole: Tensor) -> Tensor:
        seen = self.tower(pixel_values=pixels)
        where = _present_and_many(self.by_patch(seen.last_hidden_state), torch.log1p(patches))
        # Most patches are empty: without a factor their mean loss would be the smaller part.
        return 4 * where + _present_and_many(self.of_whole(seen.pooler_output), whole)


def _present_and_many(answers: Tensor, amounts: Tensor) -> Tensor:
    """Is there any (cross-entropy), and log(1 + number) (smooth L1)."""
    present, amount = answers.chunk(2, dim=-1)
    return functional.binary_cross_entropy_with_logits(present, (amounts > 0).float()) + functional.smooth_l1_loss(
        amount, amounts, beta=0.2
    )


def _batch(examples: Examples, rows: NDArray[np.int64], rng: np.random.Generator | None) -> tuple[Tensor, ...]:
    pixels = torch.from_numpy(PREPARE.scaled(examples.pixels[rows]))
    patches = torch.from_numpy(examples.patches[rows])
    if rng is not None:
        # A mirrored right eye is a left eye; exposure and colour of the light vary.
        if rng.random() < 0.5:
            pixels, patches = pixels.flip(-1), patches.flip(2)
        gain = torch.from_numpy(
            rng.uniform(0.85, 1.15, size=(len(rows), 1, 1, 1)) * rng.uniform(0.95, 1.05, (len(rows), 3, 1, 1))
        )
        pixels = ((pixels + 1) * gain.float() - 1).clamp(-1, 1)
    return pixels, patches.flatten(1, 2), torch.from_numpy(examples.whole[rows])


def pretrain(examples: Examples, *, passes: int, seed: int, batch: int = 32, rate: float = 1e-3) -> LesionReader:
    """Show every photograph `passes` times; the rate rises over the first 3 % of the steps and falls to 0."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    reader = LesionReader(SiglipVisionModel(architecture()), examples.whole.shape[1])
    optimizer = torch.optim.AdamW(reader.parameters(), lr=rate, weight_decay=0.03, betas=(0.9, 0.98))
    steps, step, started = passes * (len(examples.pixels) // batch), 0, time.monotonic()
    for _ in range(passes):
        order = rng.permutation(len(examples.pixels))
        running = 0.0
        for rows in np.split(order[: len(order) // batch * batch], len(order) // batch):
            done = step / steps
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, done / 0.03) * 0.5 * (1 + math.cos(math.pi * done))
            loss = reader.loss(*_batch(examples, rows, rng))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's signature is not annotated
            nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
            optimizer.step()
            step += 1
            running += loss.item() * batch / len(order)
        print(
            f"{time.monotonic() - started:5.0f} s  step {step}/{steps}  loss {running:.4f}", file=sys.stderr, flush=True
        )
    return reader.eval()


@torch.inference_mode()
def check(reader: LesionReader, examples: Examples) -> dict[str, float]:
    """On unseen photographs: share of right answers to "is there any", by kind, from the pooled feature."""
    answers = []
    for start in range(0, len(examples.pixels), 100):
        pixels, _, _ = _batch(examples, np.arange(start, min(start + 100, len(examples.pixels))), None)
        answers.append(reader.of_whole(reader.tower(pixel_values=pixels).pooler_output))
    present, amount = torch.cat(answers).numpy().reshape(len(examples.pixels), 2, -1).swapaxes(0, 1)
    right = ((present > 0) == (examples.whole > 0)).mean(axis=0)
    names = [*Lesions().total, *(f"haemorrhages, {q}" for q in QUADRANTS), "least", "most", "2 quadrants beaded"]
    result = dict(zip(names, right.tolist(), strict=True))
    least = names.index("least")
    result["21 haemorrhages in each quadrant"] = float(
        ((amount[:, least] > math.log(15)) == (examples.whole[:, least] > math.log(21.5))).mean()
    )
    return result


def save(tower: SiglipVisionModel, out: Path, metadata: dict[str, str]) -> None:
    """`config.json` and `model.safetensors` as `SiglipVisionModel.from_pretrained` reads them."""
    tower.save_pretrained(out)
    weights = out / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt", **metadata})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m trainer.pretrain", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for config.json and model.safetensors")
    parser.add_argument("--images", type=int, default=12_000, help="photographs to draw")
    parser.add_argument("--passes", type=int, default=14, help="times that each is shown")
    parser.add_argument("--seed", type=int, default=0)
    given: Any = parser.parse_args(arguments)

    start = time.monotonic()
    unseen = draw_examples(1000, seed=given.seed, first=10_000_000)
    examples = draw_examples(given.images, seed=given.seed)
    print(f"drew {given.images} photographs in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    reader = pretrain(examples, passes=given.passes, seed=given.seed)
    for name, share in check(reader, unseen).items():
        print(f"{share:.3f}  {name}", file=sys.stderr)
    save(
        reader.tower,
        given.out,
        {
            "made_by": f"drgate {importlib.metadata.version('drgate')} trainer.pretrain",
            "seed": str(given.seed),
            "images": str(given.images),
            "passes": str(given.passes),
            "preprocessing": FUNDUS_SQUARE,
            "use": "not for clinical use: pre-trained on synthetic photographs",
        },
    )


if __name__ == "__main__":
    main()
