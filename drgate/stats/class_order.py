"""Whether a model's classes are in another order than the one given: answers that a permutation of its classes mends.

    found = reordered(reference, answers, weights, classes=5)
    found.order                      # (1, 2, 0, 4, 3): the first class seems to hold grade 1, the second grade 2, ...

A weak model, and one that grades too low or too high, is not in a wrong order. Of any two grades, such a model gives
the higher one the higher of two classes at least as often, relative to the lower class. So the best of all permutations
is named only where it agrees far better, and where two grades are answered the other way round, further than chance
explains (Fisher's exact test).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from drgate.stats import agreement

SENSITIVITY_GAIN: Final = 0.10
"""The gain in the mean of the grades' sensitivities that is far better."""
KAPPA_GAIN: Final = 0.15
"""The gain in quadratic kappa that is far better."""
SHARE: Final = 0.25
"""Of two grades that are the other way round, the share of each that has the class. Fewer images can be those that a
model calls by a class that it otherwise never gives, such as PDR for every dark photograph."""
CHANCE: Final = 1e-3
"""The largest chance."""
SETTLED: Final = 0.001
"""Two classes are told apart where Fisher's test gives at most this."""


@dataclass(frozen=True, slots=True)
class Reordered:
    """A permutation of the classes that agrees far better than the order given.

    order: for each class as given, the grade that it seems to hold; of all permutations the one with the most images
    right. unsettled: pairs of classes that the images do not tell apart.
    right, sensitivity, kappa: images that agree, mean of the grades' sensitivities, and quadratic kappa, as given and
    reordered.
    chance: at most this share of random permutations of the answers turns any two grades and classes as far round; all
    images of one patient count as one.
    """

    order: tuple[int, ...]
    unsettled: tuple[tuple[int, int], ...]
    right: tuple[int, int]
    sensitivity: tuple[float, float]
    kappa: tuple[float, float]
    chance: float


def reordered(
    reference: NDArray[Any], answers: NDArray[Any], weights: NDArray[np.float64], *, classes: int
) -> Reordered | None:
    """The permutation of the classes that agrees far better with the reference; None where none does.

    reference, answers: (n,) 0 to classes - 1. weights: (n,) what an image counts: 1 / m for each of m of one patient.
    """
    # Rounded, because the sum of a patient's parts depends on the order of the rows in its last digit.
    cells = np.asarray(reference, dtype=np.int64) * classes + np.asarray(answers, dtype=np.int64)
    table, patients = (
        np.bincount(cells, one, classes**2).reshape(classes, classes).round(6) for one in (None, weights)
    )
    # Of equally good ones the first, and the order given is the first of all.
    order = max(itertools.permutations(range(classes)), key=lambda order: table[order, range(classes)].sum())
    rows = table / np.maximum(table.sum(axis=1), 1e-9)[:, None]
    turned = [
        _chance(patients, order, p, q)
        for p, q in itertools.combinations(range(classes), 2)
        if order[p] > order[q] and min(rows[order[p], p], rows[order[q], q]) >= SHARE
    ]
    chance = min([1.0, *(math.comb(classes, 2) ** 2 * one for one in turned)])
    if chance > CHANCE:
        return None
    right, sensitivity, kappa = zip(*map(_agreement, (table, table[:, np.argsort(order)])), strict=True)
    if sensitivity[1] - sensitivity[0] < SENSITIVITY_GAIN and kappa[1] - kappa[0] < KAPPA_GAIN:
        return None
    pairs = itertools.combinations(range(classes), 2)
    unsettled = tuple((p, q) for p, q in pairs if _chance(patients, order, p, q) > SETTLED)
    return Reordered(order, unsettled, right, sensitivity, kappa, chance)


def _agreement(table: NDArray[np.int64]) -> tuple[int, float, float]:
    """Images that agree, mean of the sensitivities of the grades that are there, and quadratic kappa."""
    right, sizes = np.diagonal(table), table.sum(axis=1)
    there = sizes > 0
    kappa, _ = agreement.kappa(table, "quadratic")
    return int(right.sum()), float((right[there] / sizes[there]).mean()), float(kappa)


def _chance(table: NDArray[Any], order: tuple[int, ...], p: int, q: int) -> float:
    """Fisher's one-sided test that classes p and q go with their grades of the order, not the other way round.

    Fractions of patients are rounded against it.
    """
    one, other = order[p], order[q]
    hits, misses = math.floor(table[one, p]), math.ceil(table[one, q])
    right, wrong = math.floor(table[other, q]), math.ceil(table[other, p])
    return float(hypergeom.sf(hits - 1, hits + misses + right + wrong, hits + misses, hits + wrong))
