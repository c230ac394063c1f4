"""The Brier score."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.gate_error.cell import LEVEL, Cell, Flags, Floats, Ints
from drgate.stats.calibration import Calibration, brier

Sizes = Sequence[tuple[int, int]]
"""Patients and images of each."""

SIZES: dict[str, Sizes] = {
    "40x1": [(40, 1)],
    "100x1": [(100, 1)],
    "400x1": [(400, 1)],
    "50x2": [(50, 2)],
    "200x2": [(200, 2)],
    "20x8": [(20, 8)],
    "60x1 + 1x30": [(60, 1), (1, 30)],
    "2x1 to 2x20": [(2, images) for images in range(1, 21)],
}


@dataclass(frozen=True)
class Model:
    """Probabilities from a few values, (K,), with their shares and the true chance of each.

    alike: chance that all images of a patient have the probability and the outcome of the first.
    """

    probabilities: Floats
    shares: Floats
    chances: Floats
    alike: float

    @property
    def score(self) -> float:
        """The true Brier score."""
        p, chance = self.probabilities, self.chances
        return float(self.shares @ (chance * (1 - p) ** 2 + (1 - chance) * p**2))

    def draw(self, owner: Ints, sets: int, rng: np.random.Generator) -> tuple[Floats, Flags]:
        """Probabilities and outcomes, (sets, n)."""
        kind = rng.choice(self.shares.size, size=(sets, owner.size), p=self.shares)
        positive = rng.random(kind.shape) < self.chances[kind]
        first = np.searchsorted(owner, np.arange(int(owner.max()) + 1))
        same = (rng.random((sets, first.size)) < self.alike)[:, owner]
        source = np.where(same, first[owner], np.arange(owner.size))
        kind, positive = (np.take_along_axis(one, source, axis=1) for one in (kind, positive))
        return self.probabilities[kind], positive


def models(alike: float) -> dict[str, Model]:
    """Models by their words: calibrated ones, and those that are sure and seldom wrong."""
    grid = (np.arange(20) + 0.5) / 20
    middling, sharp = grid * (1 - grid) ** 4, 1 / np.sqrt(grid * (1 - grid))

    def certain(edge: float, wrong: float) -> Model:
        return Model(np.array([edge, 1 - edge]), np.array([0.7, 0.3]), np.array([wrong, 1 - wrong]), alike)

    return {
        "calibrated, middling": Model(grid, middling / middling.sum(), grid, alike),
        "calibrated, sharp": Model(grid, sharp / sharp.sum(), grid, alike),
        "overconfident": Model(grid, sharp / sharp.sum(), 0.5 + (grid - 0.5) * 0.6, alike),
        "certain, 3 % wrong": certain(0.0, 0.03),
        "certain, 1 % wrong": certain(0.0, 0.01),
        "certain to .001, 3 % wrong": certain(0.001, 0.03),
        "one value": Model(np.array([0.1]), np.array([1.0]), np.array([0.1]), alike),
    }


def owners(sizes: Sizes) -> Ints:
    """Whose each image is."""
    each = np.concatenate([np.full(number, images) for number, images in sizes])
    return np.repeat(np.arange(each.size), each)


def brier_cells() -> Iterator[Cell]:
    """Every design with every model at its true score."""
    for (name, sizes), alike in itertools.product(SIZES.items(), (0.0, 0.9)):
        if alike and max(images for _, images in sizes) == 1:
            continue
        whose = owners(sizes)
        for words, model in models(alike).items():

            def passes(sets: int, rng: np.random.Generator, model: Model = model, owner: Ints = whose) -> int:
                return brier_passed(*model.draw(owner, sets, rng), owner, model.score)

            yield Cell(f"{name}, alike {alike:g}, {words}", f"Brier score at most {model.score:.4f}", passes)


def brier_passed(probabilities: Floats, positive: Flags, owner: Ints, threshold: float) -> int:
    """How many test sets pass, (sets, n)."""
    losses = ((probabilities - positive) ** 2).mean(axis=1)
    found = 0
    for at in np.flatnonzero(losses <= threshold + 1e-12):
        score = brier(probabilities[at], positive[at], owner, level=LEVEL)
        found += isinstance(score, Calibration) and score.high <= threshold
    return found
