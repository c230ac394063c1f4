"""How often an order of classes is accused that is right, and how often a wrong one is named (simulated).

    python -m benchmarks order-error [--models N] [--seed S]

Honest models: a severity with noise between four cut-offs, from hardly any better than chance to nearly perfect, of six
kinds: cut-offs in the middle, all too high or too low, uneven, classes merged, one class for every image, and grades
confused at random. Half of them answer up to 30 % of the images without looking, as where dark photographs are called
PDR. Each is tested on seven mixes of grades, with 30 to 5,000 images, half of the test sets with two correlated eyes a
patient. Exit code 1 if more than .1 % are accused.

Then the classes of two real confusion matrices are permuted: how often that is named, and how often a class is given a
wrong grade without the words that the images do not tell it apart.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drgate.stats.class_order import Reordered, reordered

ALLOWED = 0.001
MIXES = (
    (73.5, 7, 15, 2.5, 2),
    (75, 10, 10, 3, 2),
    (49, 10, 27, 5.5, 8.5),
    (20, 20, 20, 20, 20),
    (32.5, 5, 32.5, 18, 12),
    (90, 6, 3, 0.6, 0.4),
    (60, 0, 30, 0, 10),
)
IMAGES = (30, 60, 100, 200, 400, 1000, 3000, 5000)
STRONG = ((1783, 19, 3, 0, 0), (75, 157, 125, 0, 13), (48, 32, 833, 36, 50), (4, 1, 79, 70, 39), (9, 10, 118, 16, 142))
"""Accuracy .82 and quadratic kappa .86 (APTOS 2019)."""
WEAK = ((385, 61, 100, 12, 8), (27, 5, 7, 2, 0), (56, 10, 22, 8, 9), (2, 1, 12, 1, 0), (4, 0, 13, 0, 9))
"""Accuracy .56 and quadratic kappa .3 (EyePACS)."""
WRONG = {
    "alphabetical": (1, 2, 0, 4, 3),
    "reversed": (4, 3, 2, 1, 0),
    "shifted": (1, 2, 3, 4, 0),
    "no DR and mild": (1, 0, 2, 3, 4),
    "mild and moderate": (0, 2, 1, 3, 4),
    "moderate and severe": (0, 1, 3, 2, 4),
    "severe and PDR": (0, 1, 2, 4, 3),
}

Floats = NDArray[np.float64]


def honest(rng: np.random.Generator) -> Floats:
    """The chances of each answer to each grade, (5, 5)."""
    distance = rng.uniform(0.2, 4.5)
    middles = np.r_[0, np.cumsum(rng.dirichlet([3, 3, 3, 3]) * 4)] * distance
    cut_offs, kind = (middles[1:] + middles[:-1]) / 2, rng.integers(6)
    match kind:
        case 1:
            cut_offs = cut_offs + rng.uniform(-2, 2) * distance
        case 2:
            cut_offs = np.sort(cut_offs + rng.normal(0, 0.7 * distance, 4))
        case 3:
            cut_offs = np.sort(cut_offs[rng.integers(4, size=4)])
        case 4:
            cut_offs = np.where(np.arange(4) < rng.integers(5), -1e3, 1e3)
    noise = np.sort((rng.standard_normal, rng.standard_cauchy, rng.standard_exponential)[rng.integers(3)](20_000))
    below = np.searchsorted(noise, cut_offs - middles[:, None]) / len(noise)
    rows = np.diff(below, prepend=0, append=1, axis=1)
    if kind == 5:
        rows = 0.8 * rows + 0.2 * rng.dirichlet([0.5] * 5, size=5)
    blind = rng.choice([0, rng.uniform(0, 0.3)])
    return np.asarray((1 - blind) * rows + blind * rng.dirichlet([0.5] * 5))


def tested(
    rows: Floats, mix: Sequence[float], images: int, eyes: int, rng: np.random.Generator, order: Sequence[int]
) -> Any:
    """What is found in one test set. eyes: of a patient. order: the grade that each class holds."""
    first = rng.choice(5, p=np.array(mix) / sum(mix), size=images // eyes)
    fellow = np.where(rng.random(len(first)) < 0.7, first, rng.permutation(first))
    grades = np.concatenate([first, fellow][:eyes])
    luck = np.tile(rng.random(len(first)), eyes)
    luck = np.where(rng.random(len(luck)) < 0.8 * (eyes > 1), luck, rng.random(len(luck)))
    answers = np.argsort(order)[(luck[:, None] > np.cumsum(rows, axis=1)[grades]).sum(axis=1).clip(0, 4)]
    return reordered(grades, answers, np.full(len(grades), 1 / eyes), classes=5)


def misnamed(found: Reordered, order: Sequence[int]) -> bool:
    """Whether a class is given a wrong grade and every pair that it is in is called told apart."""
    doubted = set(itertools.chain.from_iterable(found.unsettled))
    return any(
        named != held and at not in doubted for at, (named, held) in enumerate(zip(found.order, order, strict=True))
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print both; 0 if no more than .1 % of honest models are accused."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks order-error", description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=10_000, help="honest models (default: %(default)s)")
    parser.add_argument("--sets", type=int, default=200, help="test sets for each wrong order (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    rng, began, accused = np.random.default_rng(options.seed), time.process_time(), 0
    for _ in range(options.models):
        rows = honest(rng)
        accused += sum(
            tested(rows, mix, int(rng.choice(IMAGES)), int(rng.integers(1, 3)), rng, range(5)) is not None
            for mix in MIXES
        )
    sets = options.models * len(MIXES)
    print(f"Accused: {accused} of {sets} test sets of {options.models} honest models ({100 * accused / sets:.3f} %).\n")
    print("| model, images | " + " | ".join(WRONG) + " |")
    print("|---" * (1 + len(WRONG)) + "|")
    wrongly = named = 0
    for name, counts, mix in (("strong", STRONG, MIXES[1]), ("weak", WEAK, MIXES[0])):
        rows = np.array(counts) / np.sum(counts, axis=1)[:, None]
        for images in (100, 400, 1000, 3000):
            shown = []
            for order in WRONG.values():
                found = [tested(rows, mix, images, 1, rng, order) for _ in range(options.sets)]
                told = [one for one in found if one is not None]
                named, wrongly = named + len(told), wrongly + sum(misnamed(one, order) for one in told)
                shown.append(f"{100 * len(told) / options.sets:.0f} %")
            print(f"| {name}, {images} | " + " | ".join(shown) + " |", flush=True)
    print(f"\nA wrong grade for a class that is called told apart: {wrongly} of {named} that were named.")
    print(f"{options.sets} test sets per cell, seed {options.seed}, {time.process_time() - began:.0f} s.")
    return 1 if accused > ALLOWED * sets else 0


if __name__ == "__main__":
    sys.exit(main())
