"""Calibration slope and intercept, whose range has two ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from benchmarks.gate_error.calibration import owners
from benchmarks.gate_error.cell import LEVEL, Cell, Flags, Floats, Ints
from drgate.stats.calibration import FEWEST_EVENTS, Calibration, Undefined, calibration_intercept, calibration_slope

RANGES = {"slope": (0.7, 1.5), "intercept": (-1.0, 1.0)}
FIGURES: dict[str, Callable[..., Calibration | Undefined]] = {
    "slope": calibration_slope,
    "intercept": calibration_intercept,
}


@dataclass(frozen=True)
class Design:
    """Patients x images of each; share: of the patients with the event, which all images of a patient share.

    alike: chance that a patient's images have one probability; else they are drawn for themselves.
    """

    sizes: tuple[tuple[int, int], ...]
    share: float
    alike: float = 0.0


DESIGNS = {
    "230x1, half": Design(((230, 1),), 0.5),
    "300x1, a third": Design(((300, 1),), 0.4),
    "1000x1, 12 %": Design(((1000, 1),), 0.12),
    "2000x1, 5.5 %": Design(((2000, 1),), 0.055),
    "230x2, half": Design(((230, 2),), 0.5, 0.5),
    "230x4, half, images alike": Design(((230, 4),), 0.5, 1.0),
    "400x1 + 1x12, half, images alike": Design(((400, 1), (1, 12)), 0.5, 1.0),
    "600x1 + 60x4, half": Design(((600, 1), (60, 4)), 0.5, 0.9),
    "18 of each of 1 to 20 images": Design(tuple((18, images) for images in range(1, 21)), 0.5, 0.5),
}
SEPARATIONS = (0.5, 1.0, 2.0)
"""Distance of the mean logits with and without the event, in standard deviations."""


def cells() -> Iterator[Cell]:
    """Every design at both ends of both ranges."""
    for (name, design), separation, (figure, ends) in itertools.product(DESIGNS.items(), SEPARATIONS, RANGES.items()):
        whose = owners(design.sizes)
        for at in ends:

            def passes(
                sets: int,
                rng: np.random.Generator,
                design: Design = design,
                separation: float = separation,
                figure: str = figure,
                at: float = at,
                whose: Ints = whose,
            ) -> int:
                return passed(*draw(design, whose, separation, figure, at, sets, rng), whose, figure)

            least, most = ends
            words = f"{name}, separation {separation:g}, true {figure} {at:g}"
            at_once = max(100, 400_000 // whose.size)
            yield Cell(words, f"{figure} from {least:g} to {most:g}", passes, at_once=at_once)


def draw(
    design: Design, owner: Ints, separation: float, figure: str, at: float, sets: int, rng: np.random.Generator
) -> tuple[Floats, Flags]:
    """Probabilities and outcomes, (sets, n), of a model with this slope or intercept."""
    patients = int(owner.max()) + 1
    positive = (rng.random((sets, patients)) < design.share)[:, owner]
    # Both normal with one variance and these means: the log odds of the event are the value drawn.
    shared = rng.standard_normal((sets, patients))[:, owner]
    alike = (rng.random((sets, patients)) < design.alike)[:, owner]
    noise = np.where(alike, shared, rng.standard_normal(positive.shape))
    true = np.where(positive, 0.5, -0.5) * separation**2 + np.log(design.share / (1 - design.share))
    true = true + separation * noise
    return expit(true / at if figure == "slope" else true - at), positive


def passed(probabilities: Floats, positive: Flags, owner: Ints, figure: str) -> int:
    """How many test sets pass, (sets, n)."""
    least, most = RANGES[figure]
    found = 0
    for at in may_pass(probabilities, positive, owner, figure):
        ends = FIGURES[figure](probabilities[at], positive[at], owner, level=LEVEL)
        found += isinstance(ends, Calibration) and least <= ends.low and ends.high <= most
    return found


def may_pass(probabilities: Floats, positive: Flags, owner: Ints, figure: str) -> Ints:
    """Sets with patients enough, whose figure is within its range by 1.5 standard errors; or where no fit is found.

    The product's interval has 1.96 or more: the others are not looked at.
    """
    starts, sizes = np.flatnonzero(np.diff(owner, prepend=-1)), np.bincount(owner)
    events = positive[:, starts]
    worth = [(side @ sizes) ** 2 // np.maximum(side @ sizes**2, 1) for side in (events, ~events)]
    enough = np.flatnonzero(np.minimum(*worth) >= FEWEST_EVENTS)
    x, y = np.log(probabilities[enough] / (1 - probabilities[enough])), positive[enough]
    at, slope = np.zeros(len(x)), np.ones(len(x))
    joint = figure == "slope"
    for _ in range(12):
        chance = expit(at[:, None] + slope[:, None] * x)
        spread, residual = chance * (1 - chance), y - chance
        curve, cross, bend = spread.sum(axis=1), (spread * x).sum(axis=1), (spread * x * x).sum(axis=1)
        up, tilt = residual.sum(axis=1), (residual * x).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            if joint:
                determinant = curve * bend - cross**2
                step, turn = (bend * up - cross * tilt) / determinant, (curve * tilt - cross * up) / determinant
            else:
                step, turn = up / curve, np.zeros_like(up)
        at, slope = at + step, slope + turn
    settled = np.abs(step) + np.abs(turn) < 1e-8
    score = np.add.reduceat(residual, starts, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        if joint:
            tilted = np.add.reduceat(residual * x, starts, axis=1)
            share = (curve[:, None] * tilted - cross[:, None] * score) / determinant[:, None]
        else:
            share = score / curve[:, None]
    se = np.sqrt((share**2).sum(axis=1))
    least, most = RANGES[figure]
    value = slope if joint else at
    return enough[~settled | ((value - 1.5 * se >= least) & (value + 1.5 * se <= most))]
