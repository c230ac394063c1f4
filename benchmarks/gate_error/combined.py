"""Likelihood ratios and Youden's index, of a sensitivity and a specificity of the same patients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.gate_error.cell import LEVEL, Cell, Flags, Floats, Ints, each, effective, sample_of
from drgate.stats.combined import NEGATIVE_LIKELIHOOD_RATIO, POSITIVE_LIKELIHOOD_RATIO, YOUDEN, Combination, Combined

Kinds = Sequence[tuple[int, int, int]]
"""Patients, and images with and without the grade that each has."""

DESIGNS: dict[str, Kinds] = {
    "40x1 with, 40x1 without": [(40, 1, 0), (40, 0, 1)],
    "60x1 with, 400x1 without": [(60, 1, 0), (400, 0, 1)],
    "60x2 with, 60x2 without": [(60, 2, 0), (60, 0, 2)],
    "100 with one of each": [(100, 1, 1)],
    "20x2 with, 60 with one of each, 100x2 without": [(20, 2, 0), (60, 1, 1), (100, 0, 2)],
    "20 with 3 of each": [(20, 3, 3)],
    "60x1 and 1x8 with, 100x2 without": [(60, 1, 0), (1, 8, 0), (100, 0, 2)],
    "10x6 with, 200x1 without": [(10, 6, 0), (200, 0, 1)],
}
RATES = ((0.80, 0.80), (0.95, 0.80), (0.80, 0.95), (0.95, 0.95), (0.90, 0.99), (0.60, 0.90))
COMBINATIONS: dict[str, tuple[Combination, bool]] = {
    "positive likelihood ratio": (POSITIVE_LIKELIHOOD_RATIO, True),
    "negative likelihood ratio": (NEGATIVE_LIKELIHOOD_RATIO, False),
    "Youden's index": (YOUDEN, True),
}
"""With whether it must be high."""


@dataclass(frozen=True)
class Joint:
    """Patients of one kind: images with and without the grade, and the errors among them, (K, 2), with chances (K,)."""

    number: int
    images: tuple[int, int]
    wrong: Ints
    chances: Floats


def joint(number: int, images: tuple[int, int], rates: tuple[float, float], alike: float) -> Joint:
    """With chance `alike` one number decides all errors of a patient, so that they coincide; else none are related."""
    flips = list(itertools.product((0, 1), repeat=sum(images)))
    of_image = np.array([1 - rates[0]] * images[0] + [1 - rates[1]] * images[1])
    wrong, chances = [], []
    for flip in flips:
        errs = np.array(flip, dtype=bool)
        alone = float(np.where(errs, of_image, 1 - of_image).prod())
        together = max(0.0, of_image[errs].min(initial=1.0) - of_image[~errs].max(initial=0.0))
        chances.append(alike * together + (1 - alike) * alone)
        wrong.append((int(errs[: images[0]].sum()), int(errs[images[0] :].sum())))
    distinct, at = np.unique(np.array(wrong), axis=0, return_inverse=True)
    total = np.bincount(at.ravel(), weights=chances)
    return Joint(number, images, distinct, total / total.sum())


def draw(groups: Sequence[Joint], sets: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Patients of every kind in each test set, (sets, K), and images and errors of the kinds, (K, 2)."""
    times = np.concatenate([rng.multinomial(one.number, one.chances, size=sets) for one in groups], axis=1)
    images = np.concatenate([np.tile(one.images, (len(one.wrong), 1)) for one in groups])
    return times, images, np.concatenate([one.wrong for one in groups])


def cells() -> Iterator[Cell]:
    """Every design and pair of rates with the three combinations."""
    for (name, kinds), rates, alike, (words, (combination, high)) in itertools.product(
        DESIGNS.items(), RATES, (0.0, 0.9), COMBINATIONS.items()
    ):
        if alike and max(some + others for _, some, others in kinds) == 1:
            continue
        threshold = float(combination.values(*rates)[0])
        groups = [joint(number, (some, others), rates, alike) for number, some, others in kinds]

        def passes(
            sets: int,
            rng: np.random.Generator,
            groups: Sequence[Joint] = groups,
            combination: Combination = combination,
            high: bool = high,
            threshold: float = threshold,
        ) -> int:
            return passed(*draw(groups, sets, rng), combination, threshold, high=high)

        design = f"{name}, sensitivity {rates[0]:g}, specificity {rates[1]:g}, alike {alike:g}"
        yield Cell(design, f"{words} at {'least' if high else 'most'} {threshold:.3g}", passes, at_once=20_000)


def passed(times: Ints, images: Ints, wrong: Ints, combination: Combination, threshold: float, *, high: bool) -> int:
    """How many test sets pass, of patients with so many images and errors, (K, 2), so many times, (sets, K)."""
    sides = np.stack([effective(times, images[:, side], wrong[:, side]) for side in (0, 1)], axis=1)
    shared = int(times[0] @ images.prod(axis=1))
    value, defined = combination.values(*(sides[:, side, 0] / sides[:, side, 1] for side in (0, 1)))
    close: Flags = defined & ((value >= threshold) if high else (value <= threshold))

    def shows(*fields: float) -> bool:
        first, second = sample_of(fields[:5]), sample_of(fields[5:])
        found = combination.estimate(first, second, level=LEVEL, interval="clopper-pearson", shared=shared)
        return isinstance(found, Combined) and (found.low >= threshold if high else found.high <= threshold)

    return int(each(shows, sides[close].reshape(-1, 10)).sum())
