"""Kappa, with all weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.gate_error.cell import NOMINAL, Cell, Floats, Ints
from drgate.stats.agreement import Weights, kappa, p_value_of

SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "60x1": ((60, 1),),
    "60x2": ((60, 2),),
    "150x2": ((150, 2),),
    "400x2": ((400, 2),),
    "60x4": ((60, 4),),
    "60x1 + 20x8": ((60, 1), (20, 8)),
    "100x1 + 10x20": ((100, 1), (10, 20)),
}
"""Patients x images of each."""

MIXES = {
    "screening": (0.75, 0.10, 0.10, 0.03, 0.02),
    "even": (0.2, 0.2, 0.2, 0.2, 0.2),
    "two ends": (0.5, 0.0, 0.0, 0.0, 0.5),
    "rare": (0.97, 0.01, 0.01, 0.005, 0.005),
}
"""Shares of the grades."""

ERRORS = {"rare far": (0.05, 0.01), "far": (0.02, 0.05), "near": (0.25, 0.0)}
"""Share of images graded one off, and at the other end of the scale."""

WEIGHTS: tuple[Weights, ...] = ("none", "linear", "quadratic")


@dataclass(frozen=True)
class Group:
    """Patients whose images fall into the 25 cells with these chances, (5, 5).

    alike: chance that all images of a patient are in the cell of the first; same_grade: that they have, at least, its
    reference grade.
    """

    number: int
    images: int
    cells: Floats
    alike: float = 0.0
    same_grade: float = 0.0


def graded(mix: Sequence[float], near: float, far: float, over: float = 0.0) -> Floats:
    """(5, 5) probabilities, reference grade by the model's; over: share of images graded one too high."""
    answer = np.zeros((5, 5))
    for grade in range(5):
        neighbours = [other for other in (grade - 1, grade + 1) if 0 <= other < 5]
        answer[grade, neighbours] += near / len(neighbours)
        answer[grade, 0 if grade > 1 else 4] += far
        answer[grade, min(4, grade + 1)] += over
        answer[grade, grade] += 1 - near - far - over
    return np.asarray(mix)[:, None] * answer


def draw(groups: Sequence[Group], sets: int, rng: np.random.Generator) -> Ints:
    """The images of every patient in the 25 cells, (sets, patients, 25)."""
    found = []
    for one in groups:
        shape = (sets, one.number, one.images)
        chosen = rng.choice(25, size=shape, p=one.cells.ravel())
        if one.same_grade:
            rows = np.cumsum(one.cells / one.cells.sum(axis=1, keepdims=True).clip(1e-300), axis=1)
            reference = chosen[..., :1] // 5
            answer = (rng.random(shape)[..., None] > rows[reference]).sum(axis=-1).clip(max=4)
            together = rng.random((sets, one.number, 1)) < one.same_grade
            chosen = np.where(together, 5 * reference + answer, chosen)
        if one.alike:
            together = rng.random((sets, one.number, 1)) < one.alike
            chosen = np.where(together, chosen[..., :1], chosen)
        place = 25 * np.arange(sets * one.number)[:, None] + chosen.reshape(-1, one.images)
        flat = np.bincount(place.ravel(), minlength=25 * sets * one.number)
        found.append(flat.reshape(sets, one.number, 25))
    return np.concatenate(found, axis=1)


def designs() -> dict[str, list[Group]]:
    """Every design by its name."""
    found = {}
    for (name, sizes), mix, (kind, (near, far)), alike in itertools.product(
        SIZES.items(), ("screening", "even", "two ends"), ERRORS.items(), (0.0, 0.9)
    ):
        if name != "60x1" or not alike:
            cells = graded(MIXES[mix], near, far)
            found[f"{name}, {mix}, {kind}, alike {alike:g}"] = [Group(*size, cells, alike) for size in sizes]
    good, poor = graded(MIXES["screening"], 0.03, 0.0), graded(MIXES["screening"], 0.10, 0.60)
    even = MIXES["even"]
    found |= {
        "59x2 + 1x40, one huge patient": [
            Group(59, 2, graded(even, 0.05, 0.02), 0.5),
            Group(1, 40, graded(even, 0.05, 0.02), 0.9),
        ],
        "4x1 to 4x20": [Group(4, images, graded(even, 0.05, 0.03), 0.5) for images in range(1, 21)],
        "97x2 + 3x2, all far errors in few": [Group(97, 2, good, 0.5), Group(3, 2, poor, 0.9)],
        "90x1 + 10x10, far errors in large ones": [Group(90, 1, good), Group(10, 10, poor, 0.9)],
        "90x1 + 10x10, far errors in small ones": [Group(90, 1, poor), Group(10, 10, good, 0.9)],
        "30x2, few": [Group(30, 2, graded(MIXES["screening"], 0.05, 0.01), 0.5)],
        "12x10, few with many": [Group(12, 10, graded(even, 0.10, 0.02), 0.5)],
        "150x1, hardly any DR": [Group(150, 1, graded(MIXES["rare"], 0.02, 0.005))],
        "400x1, hardly any DR": [Group(400, 1, graded(MIXES["rare"], 0.02, 0.005))],
        "150x2, always one too high": [Group(150, 2, graded(even, 0.0, 0.0, 0.5), 0.5)],
        "60x4, one grade a patient": [Group(60, 4, graded(even, 0.10, 0.02), 0.0, 1.0)],
        "40x10, one grade a patient": [Group(40, 10, graded(MIXES["screening"], 0.05, 0.02), 0.0, 1.0)],
        "100x2, hardly an error": [Group(100, 2, graded(even, 0.01, 0.002), 0.9)],
        "100x2, no better than chance": [Group(100, 2, np.full((5, 5), 0.04), 0.5)],
    }
    return found


def cells() -> Iterator[Cell]:
    """Every design with the three kappas at their true value."""
    for (name, groups), weights in itertools.product(designs().items(), WEIGHTS):
        images = np.array([one.number * one.images for one in groups], dtype=np.float64)
        truth = np.einsum("g,gij->ij", images / images.sum(), np.stack([one.cells for one in groups]))
        threshold = float(kappa(truth, weights)[0])
        at_once = max(200, 400_000 // sum(one.number for one in groups))

        def passes(
            sets: int,
            rng: np.random.Generator,
            groups: Sequence[Group] = groups,
            weights: Weights = weights,
            threshold: float = threshold,
        ) -> int:
            return passed(draw(groups, sets, rng), weights, threshold)

        yield Cell(name, f"kappa, weights {weights}, at least {threshold:.3f}", passes, at_once=at_once)


def passed(patients: Ints, weights: Weights, threshold: float) -> int:
    """How many test sets pass, of patients with so many images in each cell, (sets, patients, 25)."""
    return passed_of(patients, np.ones(patients.shape[:2], dtype=np.int64), weights, threshold)


def passed_of(
    patterns: Ints, counts: Ints, weights: Weights, threshold: float, *, images_a_patient: float = 1.0
) -> int:
    """The same of kinds of patients, (P, 25) of all test sets or (sets, P, 25), and how many there are, (sets, P)."""
    tables = np.matmul(counts[:, None, :], patterns)[:, 0].reshape(-1, 5, 5)
    value, defined = kappa(tables, weights)
    close = defined & (value >= threshold)
    if not close.any():
        return 0
    kinds = patterns if patterns.ndim == 2 else patterns[close]
    kinds = kinds.reshape(*kinds.shape[:-1], 5, 5)
    test = p_value_of(kinds, counts[close], weights, images_a_patient=images_a_patient)
    return int((test(threshold, "lower") <= NOMINAL).sum())
