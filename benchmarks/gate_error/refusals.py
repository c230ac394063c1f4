"""Criteria on images with an answer, where the model refuses images: both bounds must hold.

The true figure of all comers, no answer counting as wrong, is the threshold less the allowance, or the true figure of
the images with an answer is the threshold, or both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.gate_error.cell import Cell, Floats, Ints, alike, effective, limits

ALLOWANCE = 0.05
SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "60x1": ((60, 1),),
    "167x1": ((167, 1),),
    "400x1": ((400, 1),),
    "100x2": ((100, 2),),
    "400x2": ((400, 2),),
    "60x1 + 1x30": ((60, 1), (1, 30)),
    "60x1 + 20x8": ((60, 1), (20, 8)),
}
REFUSED = {
    "wrong ones refused ten times as often": (0.01, 10.0),
    "all wrong ones refused": (0.0, np.inf),
    "5 % of all refused": (0.05, 1.0),
    "10 % of all refused": (0.10, 1.0),
    "right ones refused": (0.05, 0.0),
}
"""Share of the right images that is refused, and how many times as often wrong ones are (inf: always)."""

THRESHOLDS = (0.90, 0.95)


@dataclass(frozen=True)
class Kind:
    """Patients by right, wrong and refused images, (K, 3), with chances (K,)."""

    number: int
    images: Ints
    chances: Floats


def kind(number: int, images: int, wrong: float, of_right: float, of_wrong: float, icc: float) -> Kind:
    """Wrong images correlate; each is then refused by itself."""
    found, chances = [], []
    first = alike(1, images, wrong, icc)
    for bad, share in zip(first.wrong.tolist(), first.chances.tolist(), strict=True):
        good = images - bad
        lost = [alike(1, n, chance, 0.0).chances for n, chance in ((good, of_right), (bad, of_wrong))]
        for away, gone in itertools.product(range(good + 1), range(bad + 1)):
            found.append((good - away, bad - gone, away + gone))
            chances.append(share * float(lost[0][away] * lost[1][gone]))
    distinct, at = np.unique(np.array(found), axis=0, return_inverse=True)
    total = np.bincount(at.ravel(), weights=chances)
    return Kind(number, distinct, total / total.sum())


def draw(groups: Sequence[Kind], sets: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Patients of every kind in each test set, (sets, K), and the kinds' images, (K, 3)."""
    times = np.concatenate([rng.multinomial(one.number, one.chances, size=sets) for one in groups], axis=1)
    return times, np.concatenate([one.images for one in groups])


def wrong_at(threshold: float, of_right: float, ratio: float, *, all_comers: bool) -> tuple[float, float] | None:
    """Share of wrong images at which the figure is at its limit, and the share of these refused; None without one."""
    of_wrong = 1.0 if np.isinf(ratio) else of_right * ratio
    if all_comers:
        wrong = 1 - (threshold - ALLOWANCE) / (1 - of_right)
    elif of_wrong == 1:
        return None
    else:
        odds = (1 - threshold) / threshold * (1 - of_right) / (1 - of_wrong)
        wrong = odds / (1 + odds)
    answered = (1 - wrong) * (1 - of_right)
    deserves = answered / (answered + wrong * (1 - of_wrong)) >= threshold and answered >= threshold - ALLOWANCE
    # A model that misses one half by more cannot be at the limit of both.
    return (wrong, of_wrong) if 0 < wrong < 1 and (deserves or not all_comers) else None


def cells() -> Iterator[Cell]:
    """Every design at the limit of one half of the rule."""
    for (name, sizes), (words, (of_right, ratio)), threshold, all_comers, icc in itertools.product(
        SIZES.items(), REFUSED.items(), THRESHOLDS, (True, False), (0.0, 0.8)
    ):
        found = wrong_at(threshold, of_right, ratio, all_comers=all_comers)
        if found is None or (icc and max(images for _, images in sizes) == 1):
            continue
        groups = [kind(number, images, found[0], of_right, found[1], icc) for number, images in sizes]

        def passes(sets: int, rng: np.random.Generator, groups: Sequence[Kind] = groups, at: float = threshold) -> int:
            return passed(*draw(groups, sets, rng), at)

        limit = "all comers at the limit" if all_comers else "answered at the threshold"
        rule = f"at least {100 * threshold:g} %, all comers {100 * (threshold - ALLOWANCE):g} %"
        yield Cell(f"{name}, {words}, {limit}, correlation {icc:g}", rule, passes, at_once=20_000)


def passed(times: Ints, images: Ints, threshold: float) -> int:
    """How many test sets pass, of patients with right, wrong and refused images, (K, 3), so many times, (sets, K)."""
    right, wrong, refused = images.T
    answered = limits(effective(times, right + wrong, wrong))[:, 0]
    everyone = limits(effective(times, images.sum(axis=1), wrong + refused))[:, 0]
    return int(((answered >= threshold) & (everyone >= threshold - ALLOWANCE)).sum())
