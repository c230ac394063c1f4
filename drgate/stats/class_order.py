"""Whether a model's classes are in another order than the one given: a permutation corrects its answers.

    found = reordered(reference, answers, weights, classes=5)
    found.order                      # (1, 2, 0, 4, 3): the first class seems to hold grade 1, the second grade 2, ...

A weak model is not in a wrong order, nor is one that grades too low or too high, answers one class only, or calls every
dark photograph PDR: all these give a higher grade a higher class at least as often as a lower grade. So the best of all
permutations is named only where it agrees far better by one measure and no worse by the other, and where some higher
grade has the higher classes less often, further than chance explains (Fisher's exact test).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drgate.stats import agreement

SENSITIVITY_GAIN: Final = 0.10
"""The gain in the mean of the grades' sensitivities that is far better."""
KAPPA_GAIN: Final = 0.15
"""The gain in quadratic kappa that is far better."""
FALL: Final = 0.01
"""By so much the other measure may fall: where severe NPDR and PDR are swapped, quadratic kappa hardly changes."""
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
    chance: at most this share of random permutations of the answers gives any higher grades the higher classes as much
    less often than lower grades; all images of one patient count as one.
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
    cells = np.asarray(reference, dtype=np.int64) * classes + np.asarray(answers, dtype=np.int64)
    table, patients = (np.bincount(cells, one, classes**2).reshape(classes, classes) for one in (None, weights))
    # Of equally good ones the first, and the order given is the first of all.
    order = max(itertools.permutations(range(classes)), key=lambda order: table[order, range(classes)].sum())
    if order == (*range(classes),):
        return None
    right, sensitivity, kappa = zip(*map(_agreement, (table, table[:, np.argsort(order)])), strict=True)
    gains = sensitivity[1] - sensitivity[0], kappa[1] - kappa[0]
    # An order in which one of the two falls agrees otherwise, not better: a model that grades the mild too high and
    # the moderate too low.
    if min(gains) < -FALL or (gains[0] < SENSITIVITY_GAIN and gains[1] < KAPPA_GAIN):
        return None
    if (chance := _reversal(patients)) > CHANCE:
        return None
    pairs = itertools.combinations(range(classes), 2)
    unsettled = tuple((p, q) for p, q in pairs if _apart(patients, order, p, q) > SETTLED)
    return Reordered(order, unsettled, right, sensitivity, kappa, chance)


def _agreement(table: NDArray[np.int64]) -> tuple[int, float, float]:
    """Images that agree, mean of the sensitivities of the grades that are there, and quadratic kappa."""
    right, sizes = np.diagonal(table), table.sum(axis=1)
    there = sizes > 0
    kappa, _ = agreement.kappa(table, "quadratic")
    return int(right.sum()), float((right[there] / sizes[there]).mean()), float(kappa)


def _reversal(table: NDArray[Any]) -> float:
    """The chance of the largest reversal: higher grades that have the classes from some class on less often.

    Of any two grades, and of all grades below and from some grade on; times the number of all these tests.
    """
    k = len(table)
    groups = [([low], [high]) for low, high in itertools.combinations(range(k), 2)]
    groups += [([*range(cut)], [*range(cut, k)]) for cut in range(1, k)]
    low, high = (np.array([table[rows].sum(axis=0) for rows in part]) for part in zip(*groups, strict=True))
    above = [(rows.sum(axis=1, keepdims=True) - rows.cumsum(axis=1))[:, :-1] for rows in (low, high)]
    below = [rows.cumsum(axis=1)[:, :-1] for rows in (low, high)]
    found = _fisher(above[0], below[0], below[1], above[1])
    return min(1.0, float(found.min()) * found.size)


def _apart(table: NDArray[Any], order: tuple[int, ...], p: int, q: int) -> float:
    """The chance that classes p and q go so clearly with their grades of the order, and not the other way round."""
    one, other = order[p], order[q]
    return float(_fisher(table[one, p], table[one, q], table[other, q], table[other, p]))


def _fisher(hits: ArrayLike, misses: ArrayLike, right: ArrayLike, wrong: ArrayLike) -> NDArray[np.float64]:
    """Fisher's one-sided test that hits and right are many; fractions of patients are rounded against it."""
    from scipy.stats import hypergeom  # half a second to import, needed only where another order fits far better

    a, d = np.floor(np.round([hits, right], 6))
    b, c = np.ceil(np.round([misses, wrong], 6))
    return np.asarray(hypergeom.sf(a - 1, a + b + c + d, a + b, a + c))
