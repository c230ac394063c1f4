"""Non-inferiority to another model on the same images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.gate_error.cell import LEVEL, Cell, Floats, Ints
from drgate.stats.paired import noninferiority, paired_sample

SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "60x1": ((60, 1),),
    "200x1": ((200, 1),),
    "30x2": ((30, 2),),
    "60x2": ((60, 2),),
    "120x2": ((120, 2),),
    "40x4": ((40, 4),),
    "60x1 + 1x12": ((60, 1), (1, 12)),
    "60x1 + 10x6": ((60, 1), (10, 6)),
    "100x2, few differ": ((100, 2),),
}
MARGINS = (0.02, 0.05, 0.10)
DIFFER = (1.0, 2.0, 4.0)
"""Share of images on which the models differ, in margins: at 1, only the second is ever right alone."""


@dataclass(frozen=True)
class Kind:
    """Patients of one size: images right under the first model only and under the second only, (K, 2), with chances."""

    number: int
    images: int
    only: Ints
    chances: Floats


def kind(number: int, images: int, only_first: float, only_second: float, alike: float) -> Kind:
    """With chance `alike`, all images of a patient are like the first; else none are related."""
    shares = (only_first, only_second, 1 - only_first - only_second)
    counts: list[tuple[int, int]] = []
    chances: list[float] = []
    for first in range(images + 1):
        for second in range(images + 1 - first):
            rest = images - first - second
            ways = math.comb(images, first) * math.comb(images - first, second)
            alone = ways * shares[0] ** first * shares[1] ** second * shares[2] ** rest
            together = sum(share for share, n in zip(shares, (first, second, rest), strict=True) if n == images)
            counts.append((first, second))
            chances.append(alike * together + (1 - alike) * alone)
    return Kind(number, images, np.array(counts), np.array(chances) / sum(chances))


def draw(groups: Sequence[Kind], sets: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Patients of every kind in each test set, (sets, K); images (K,) and images right under one only, (K, 2)."""
    times = np.concatenate([rng.multinomial(one.number, one.chances, size=sets) for one in groups], axis=1)
    images = np.concatenate([np.full(len(one.only), one.images) for one in groups])
    return times, images, np.concatenate([one.only for one in groups])


def cells() -> Iterator[Cell]:
    """Every design of a first model that is worse by exactly the margin."""
    for (name, sizes), margin, differ, alike in itertools.product(SIZES.items(), MARGINS, DIFFER, (0.0, 0.5, 0.9)):
        if alike and max(images for _, images in sizes) == 1:
            continue
        share = margin * differ
        groups = [kind(number, images, (share - margin) / 2, (share + margin) / 2, alike) for number, images in sizes]

        def passes(sets: int, rng: np.random.Generator, groups: Sequence[Kind] = groups, margin: float = margin) -> int:
            return passed(*draw(groups, sets, rng), margin)

        words = f"{name}, {100 * share:g} % differ, alike {alike:g}"
        yield Cell(words, f"worse by less than {100 * margin:g} points", passes, at_once=20_000)


def passed(times: Ints, images: Ints, only: Ints, margin: float) -> int:
    """How many test sets pass, of patients with so many images and discordant ones, so many times, (sets, K)."""
    gap = times @ (only[:, 0] - only[:, 1])
    close = gap > -margin * (times @ images)
    distinct, again = np.unique(times[close], axis=0, return_counts=True)
    found = 0
    for counts, many in zip(distinct, again.tolist(), strict=True):
        sample = paired_sample(only[:, 0], only[:, 1], images, counts=counts)
        found += many * noninferiority(sample, margin, level=LEVEL).shown
    return found
