"""The area under the ROC curve."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from benchmarks.gate_error.cell import LEVEL, Cell, Flags, Floats, Ints
from drgate.stats.ranking import auc_clustered

Kinds = Sequence[tuple[int, int, int]]
"""Patients, and images with and without the grade that each has."""

DESIGNS: dict[str, Kinds] = {
    "10x1 with, 300x1 without": [(10, 1, 0), (300, 0, 1)],
    "30x1 with, 30x1 without": [(30, 1, 0), (30, 0, 1)],
    "60x1 with, 200x1 without": [(60, 1, 0), (200, 0, 1)],
    "10x2 with, 150x2 without": [(10, 2, 0), (150, 0, 2)],
    "60x2 with, 60x2 without": [(60, 2, 0), (60, 0, 2)],
    "60 with one of each": [(60, 1, 1)],
    "20x2 with, 30 with one of each, 100x2 without": [(20, 2, 0), (30, 1, 1), (100, 0, 2)],
    "5x10 with, 100x1 without": [(5, 10, 0), (100, 0, 1)],
    "40x1 and 1x20 with, 100x1 without": [(40, 1, 0), (1, 20, 0), (100, 0, 1)],
    "100x1 with, 60x1 and 1x40 without": [(100, 1, 0), (60, 0, 1), (1, 0, 40)],
    "2x1 to 2x20 with, 100x2 without": [*((2, images, 0) for images in range(1, 21)), (100, 0, 2)],
    "1x1 with, 100x1 without": [(1, 1, 0), (100, 0, 1)],
    "20 with 5 of each": [(20, 5, 5)],
}
LEVELS = {"any score": None, "five scores": 5, "two scores": 2}


@dataclass(frozen=True)
class Scores:
    """Normal scores: of images with the grade `shift` higher; two of a patient correlated.

    unseen: share of the patients whose images with the grade score like those without. levels: number of different
    scores (the cuts share out the images without the grade and those with it alike); None for any.
    """

    shift: float
    correlation: float
    unseen: float = 0.0
    levels: int | None = None

    @property
    def cuts(self) -> Floats:
        """Where the scores are cut into levels."""
        assert self.levels is not None
        return np.linspace(-0.5, self.shift + 0.5, self.levels + 1)[1:-1]

    @property
    def area(self) -> float:
        """The true area: an image with the grade against one without, of another patient."""
        if self.levels is None:
            seen = float(ndtr(self.shift / math.sqrt(2)))
        else:
            without, with_it = (np.diff(ndtr(np.r_[-np.inf, self.cuts - at, np.inf])) for at in (0.0, self.shift))
            seen = float(with_it @ (np.cumsum(without) - without / 2))
        return (1 - self.unseen) * seen + self.unseen / 2

    def draw(self, positive: Flags, owner: Ints, sets: int, rng: np.random.Generator) -> Floats:
        """Scores (sets, n)."""
        patients = int(owner.max()) + 1
        common = rng.standard_normal((sets, patients))[:, owner] * math.sqrt(self.correlation)
        own = rng.standard_normal((sets, owner.size)) * math.sqrt(1 - self.correlation)
        seen = rng.random((sets, patients)) >= self.unseen
        scores = common + own + self.shift * (positive & seen[:, owner])
        return scores if self.levels is None else np.searchsorted(self.cuts, scores).astype(np.float64)


def images_of(kinds: Kinds) -> tuple[Flags, Ints]:
    """Whether each image has the grade, and whose it is."""
    sides = np.concatenate([np.tile([True] * some + [False] * others, number) for number, some, others in kinds])
    sizes = np.concatenate([np.full(number, some + others) for number, some, others in kinds])
    return sides, np.repeat(np.arange(sizes.size), sizes)


def cells() -> Iterator[Cell]:
    """Every design with several models, at the true area."""
    models = {
        f"area {area:g}, {words}, correlation {correlation:g}": Scores(
            math.sqrt(2) * float(ndtri(area)), correlation, levels=levels
        )
        for area in (0.80, 0.90, 0.98)
        for correlation in (0.0, 0.8)
        for words, levels in LEVELS.items()
        if levels is None or (area, correlation) == (0.90, 0.8)
    }
    models["5 % of the patients unseen"] = Scores(3.0, 0.5, unseen=0.05)
    for (name, kinds), (words, scores) in itertools.product(DESIGNS.items(), models.items()):
        positive, owner = images_of(kinds)

        def passes(
            sets: int,
            rng: np.random.Generator,
            scores: Scores = scores,
            positive: Flags = positive,
            owner: Ints = owner,
        ) -> int:
            return passed(scores.draw(positive, owner, sets, rng), positive, owner, scores.area)

        yield Cell(f"{name}, {words}", f"area at least {scores.area:.3f}", passes)


UNITS: dict[str, Kinds] = {
    "30 with two, 60 without two": [(30, 2, 0), (60, 0, 2)],
    "60 with one of each, 100 without two": [(60, 1, 1), (100, 0, 2)],
    "10 with one of 8, 200 without two": [(10, 1, 7), (200, 0, 2)],
    "60 with one of two, 60 without 10": [(60, 1, 1), (60, 0, 10)],
    "20 with 10, 20 without one": [(20, 10, 0), (20, 0, 1)],
    "100 with one, 100 without one": [(100, 1, 0), (100, 0, 1)],
}
"""Patients by their images, of which the largest score is theirs."""


def patient_cells() -> Iterator[Cell]:
    """The area by patient: a patient with an image of the grade has it, and is ranked by the largest score."""
    for (name, kinds), shift, correlation, rounded in itertools.product(
        UNITS.items(), (1.0, 2.0, 3.0), (0.0, 0.8), (False, True)
    ):
        positive, owner = images_of(kinds)
        truth = _largest_area(kinds, shift, correlation, rounded=rounded)

        def passes(
            sets: int,
            rng: np.random.Generator,
            scores: Scores = Scores(shift, correlation),
            positive: Flags = positive,
            owner: Ints = owner,
            rounded: bool = rounded,
            truth: float = truth,
        ) -> int:
            starts = np.flatnonzero(np.diff(owner, prepend=-1))
            largest = np.maximum.reduceat(scores.draw(positive, owner, sets, rng), starts, axis=1)
            units = np.maximum.reduceat(positive, starts)
            return passed(np.round(largest) if rounded else largest, units, np.arange(units.size), truth)

        words = f"{name}, shift {shift:g}, correlation {correlation:g}{', whole scores' if rounded else ''}"
        yield Cell(words, f"area by patient at least {truth:.3f}", passes)


def _largest_area(kinds: Kinds, shift: float, correlation: float, *, rounded: bool) -> float:
    """The true area of the largest scores, by numerical integration over what a patient's images share."""
    common, weight = np.polynomial.hermite_e.hermegauss(80)
    weight = weight / weight.sum()
    grid = np.arange(-8.5, 14.5) if rounded else np.linspace(-8, 14, 4401)
    below = np.zeros((2, grid.size))
    total = np.zeros(2)
    for number, some, others in kinds:
        at = (grid - math.sqrt(correlation) * common[:, None]) / math.sqrt(1 - correlation)
        side = int(some > 0)
        below[side] += number * (weight @ (ndtr(at - shift / math.sqrt(1 - correlation)) ** some * ndtr(at) ** others))
        total[side] += number
    without, with_it = below / total[:, None]
    return float(np.diff(with_it, prepend=0.0) @ (np.r_[0.0, without[:-1]] + without) / 2)


def passed(
    scores: Floats,
    positive: Flags,
    owner: Ints,
    threshold: float,
    low: Callable[[Floats, Flags, Ints], float] | None = None,
) -> int:
    """How many test sets pass, (sets, n)."""
    reach = low or _low
    return sum(reach(row, positive, owner) >= threshold for row in scores[may_pass(scores, positive, owner, threshold)])


def may_pass(scores: Floats, positive: Flags, owner: Ints, threshold: float) -> Flags:
    """Where Newcombe's interval, which the limit never exceeds, leaves it open: the others are not looked at."""
    some, others = int(positive.sum()), int((~positive).sum())
    value = (rankdata(scores, axis=1)[:, positive].sum(axis=1) - some * (some + 1) / 2) / (some * others)
    sides = [np.unique(owner[side]).size for side in (positive, ~positive)]
    extra = sum(sides) / 2 - 1
    spread = (
        threshold * (1 - threshold) * (1 + extra * ((1 - threshold) / (2 - threshold) + threshold / (1 + threshold)))
    )
    reach = ndtri((1 + LEVEL) / 2) * math.sqrt(spread / (sides[0] * sides[1]))
    return np.asarray(value - threshold >= reach - 1e-9)


def _low(scores: Floats, positive: Flags, owner: Ints) -> float:
    area = auc_clustered(scores, positive, owner, level=LEVEL)
    assert area is not None, "both sides have an image"
    return area.low
