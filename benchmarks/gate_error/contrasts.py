"""Gaps between groups, and non-inferiority against human readers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import ndtri

from benchmarks.gate_error.cell import LEVEL, NOMINAL, Cell, Floats, Ints, Patients, alike, draw, effective, limits
from drgate.stats import gaps
from drgate.stats.bounded import p_value_of

Groups = Sequence[Sequence[Patients]]
"""The patients of each group."""

SIZES: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {
    "60x1 and 60x1": (((60, 1),), ((60, 1),)),
    "60x1 and 300x1": (((60, 1),), ((300, 1),)),
    "300x1 and 60x1": (((300, 1),), ((60, 1),)),
    "200x1 and 200x1": (((200, 1),), ((200, 1),)),
    "100x2 and 100x2": (((100, 2),), ((100, 2),)),
    "36x1 and 1000x1": (((36, 1),), ((1000, 1),)),
    "60x1 and 1000x1": (((60, 1),), ((1000, 1),)),
    "60x1 + 1x30 and 60x2": (((60, 1), (1, 30)), ((60, 2),)),
    "five of 200x1": (((200, 1),),) * 5,
    "five of 100x2": (((100, 2),),) * 5,
    "ten of 300x1": (((300, 1),),) * 10,
}
"""Patients x images of each, in each group."""

RATES = ((0.995, 0.795), (0.99, 0.94), (0.95, 0.85), (1.0, 0.95), (0.98, 0.78), (0.60, 0.50))
"""Of the best group and of the worst; the others are halfway between."""

READ_SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "60x1": ((60, 1),),
    "60x2": ((60, 2),),
    "150x2": ((150, 2),),
    "300x2": ((300, 2),),
    "60x1 + 20x8": ((60, 1), (20, 8)),
    "60x1 + 1x30": ((60, 1), (1, 30)),
    "20x2": ((20, 2),),
}
READERS: dict[str, tuple[tuple[float, ...], float]] = {
    "two readers, .95 and .85": ((0.95, 0.85), 0.05),
    "three without an error": ((1.0, 1.0, 1.0), 0.05),
    "three, .98": ((0.98, 0.98, 0.98), 0.02),
    "five, .90 to .60": ((0.9, 0.85, 0.8, 0.7, 0.6), 0.1),
}
"""True rates of the readers, and the margin."""

ALIKE = {"nobody": (0.0, 0.0), "a patient": (0.8, 0.0), "an image": (0.0, 0.8), "both": (0.4, 0.4)}
"""How much of the difficulty is the patient's and the image's, the same for all who grade."""

READ = 0.7
"""Share of the images that a reader grades, where not all are."""


def gap_cells() -> Iterator[Cell]:
    """Every design whose true gap is the threshold."""
    for (name, sizes), (best, worst), icc in itertools.product(SIZES.items(), RATES, (0.0, 0.5)):
        if icc and all(images == 1 for group in sizes for _, images in group):
            continue
        middle = [(best + worst) / 2] * (len(sizes) - 2)
        groups = [
            [alike(number, images, 1 - rate, icc) for number, images in group]
            for group, rate in zip(sizes, (best, *middle, worst), strict=True)
        ]
        threshold = best - worst

        def passes(sets: int, rng: np.random.Generator, groups: Groups = groups, threshold: float = threshold) -> int:
            return gap_passed([draw(group, sets, rng) for group in groups], threshold)

        words = f"{name}, {best:g} against {worst:g}, correlation {icc:g}"
        yield Cell(words, f"gap at most {threshold:.2f}", passes, at_once=20_000)


def gap_passed(groups: Sequence[tuple[Ints, Ints, Ints]], threshold: float) -> int:
    """How many test sets pass, of the patients of each group as `draw` gives them."""
    samples = [effective(*group) for group in groups]
    values = np.stack([sample[:, 0] / sample[:, 1] for sample in samples], axis=1)
    ends = np.stack([limits(sample) for sample in samples], axis=1)
    worths = np.stack([sample[:, 4] for sample in samples], axis=1)
    return int(gaps.shown(values, ends[..., 0], ends[..., 1], worths, threshold, level=LEVEL).sum())


def reader_cells() -> Iterator[Cell]:
    """Every design of a model that is worse than the readers' mean by exactly the margin."""
    for (name, sizes), (who, (rates, margin)), (whose, shares), part in itertools.product(
        READ_SIZES.items(), READERS.items(), ALIKE.items(), (1.0, READ)
    ):
        owner = np.repeat(np.arange(sum(n for n, _ in sizes)), [images for n, images in sizes for _ in range(n)])

        def passes(
            sets: int,
            rng: np.random.Generator,
            owner: Ints = owner,
            rates: Sequence[float] = rates,
            margin: float = margin,
            shares: tuple[float, float] = shares,
            part: float = part,
        ) -> int:
            return readers_passed(*read(owner, rates, margin, shares, part, sets, rng), margin)

        words = f"{name}, {who}, difficulty of {whose}, {100 * part:g} % graded"
        yield Cell(
            words, f"worse by less than {100 * margin:g} points", passes, at_once=max(200, 400_000 // owner.size)
        )


def read(
    owner: Ints,
    rates: Sequence[float],
    margin: float,
    shares: tuple[float, float],
    part: float,
    sets: int,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Each patient's weighted sum of differences, model less reader, and the sum of the weights, (sets, patients)."""
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    of_patient, of_image = shares
    shape = (sets, owner.size)
    hard = np.sqrt(of_patient) * rng.standard_normal((sets, first.size))[:, owner]
    hard += np.sqrt(of_image) * rng.standard_normal(shape)

    def right(rate: float) -> Floats:
        own = np.sqrt(1 - of_patient - of_image) * rng.standard_normal(shape)
        return (hard + own < ndtri(rate)).astype(np.float64)

    model = right(float(np.mean(rates)) - margin)
    sums, weights = np.zeros((2, sets, first.size))
    for rate in rates:
        graded = rng.random(shape) < part
        each = graded / (len(rates) * np.maximum(1, graded.sum(axis=1, keepdims=True)))
        sums += np.add.reduceat(each * (model - right(rate)), first, axis=1)
        weights += np.add.reduceat(each, first, axis=1)
    return sums, weights


def readers_passed(sums: Floats, weights: Floats, margin: float) -> int:
    """How many test sets pass, (sets, patients)."""
    close = sums.sum(axis=1) > -margin * weights.sum(axis=1)
    return int((p_value_of(sums[close], weights[close])(-margin) <= NOMINAL).sum())
