"""The images of each optimizer step of an epoch, for any number of processes: pure functions of seed and epoch.

A run that continues in the middle of an epoch gets the same answer again, so no generator state is stored. The number
of processes decides who computes which image, never which images a step has.

    order = epoch_order(grades, seed=0, epoch=3, sampling="natural")
    for step in global_batches(order, batch_size=6, accumulation=4, world_size=2):
        for positions in step.batches[rank]:            # one forward pass each; the loss is divided by step.images
            ...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Sampling = Literal["natural", "balanced"]
Positions = NDArray[np.int64]

_STREAM: Final = 1
"""Separates the random numbers of this module from those of `trainer.augment` with the same seed."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One optimizer step."""

    batches: list[list[Positions]] = field(repr=False)
    """[rank][micro-batch]: positions of images. All ranks have the same number of micro-batches; some are empty if
    there are too few images."""
    images: int
    """In all batches of all ranks; the summed loss is divided by it."""


def epoch_order(grades: Positions, *, seed: int, epoch: int, sampling: Sampling) -> Positions:
    """Positions of the images of one epoch (n,) in the order in which they are shown.

    grades: (n,), the reference grade of each image. natural: every image once. balanced: every grade that occurs
    equally often (if n is not divisible, chance decides which grades are shown once more); within a grade every image
    is shown k or k + 1 times.

    Raises ValueError for another sampling.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, _STREAM], counter=[0, 0, epoch, 0]))
    n = len(grades)
    if sampling == "natural":
        return rng.permutation(n)
    if sampling != "balanced":
        raise ValueError(f"sampling is {sampling!r}; expected natural or balanced")
    present = rng.permutation(np.unique(grades))
    chosen = []
    for index, grade in enumerate(present):
        wanted = n // len(present) + (index < n % len(present))
        own = rng.permutation(np.flatnonzero(grades == grade))
        chosen.append(np.resize(own, wanted))
    return rng.permutation(np.concatenate([np.empty(0, dtype=np.int64), *chosen]))


def repeats(order: Positions) -> Positions:
    """How often the image at each place of an order was already shown: 0 the first time.

    >>> repeats(np.array([7, 3, 7, 7])).tolist()
    [0, 0, 1, 2]
    """
    by_image = np.argsort(order, kind="stable")
    _, first, count = np.unique(order[by_image], return_index=True, return_counts=True)
    before = np.empty_like(order)
    before[by_image] = np.arange(len(order)) - np.repeat(first, count)
    return before


def global_batches(order: Positions, *, batch_size: int, accumulation: int, world_size: int) -> Iterator[Step]:
    """The optimizer steps of an epoch: each takes the next world_size * batch_size * accumulation images of the order.

    Each rank gets consecutive images, in micro-batches of at most batch_size. The last step has the remaining images,
    without repeats, shared as evenly as possible in as few micro-batches as possible.
    """
    whole = world_size * batch_size * accumulation
    for start in range(0, len(order), whole):
        images = order[start : start + whole]
        passes = -(-len(images) // (world_size * batch_size))
        shares = np.array_split(images, world_size)
        yield Step([np.array_split(share, passes) for share in shares], len(images))
