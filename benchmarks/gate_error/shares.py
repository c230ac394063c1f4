"""Proportions: rates that must be high or low, whose denominator may depend on the answers (predictive values)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks.gate_error.cell import Cell, Ints, Patients, alike, draw, effective, limits, mixed, wrong_share
from drgate.stats.proportion import Interval

Design = Callable[[float], Sequence[Patients]]
"""The patients of a test set in which this share of the images is truly wrong."""

SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "60x1": ((60, 1),),
    "60x2": ((60, 2),),
    "100x2": ((100, 2),),
    "300x2": ((300, 2),),
    "60x4": ((60, 4),),
    "100x4": ((100, 4),),
    "60x1 + 60x2": ((60, 1), (60, 2)),
    "100x1 + 10x20": ((100, 1), (10, 20)),
    "60x1 + 20x8": ((60, 1), (20, 8)),
    "200x1 + 20x10": ((200, 1), (20, 10)),
}
"""Patients x images of each, as they count in a denominator."""

CORRELATIONS = (0.0, 0.3, 0.5, 0.8)
HUGE: dict[str, tuple[tuple[int, int], ...]] = {
    "60x1 + 1x40": ((60, 1), (1, 40)),
    "200x1 + 1x60": ((200, 1), (1, 60)),
    "30x2 + 2x30": ((30, 2), (2, 30)),
    "10x10": ((10, 10),),
    "5x40": ((5, 40),),
    "20x2": ((20, 2),),
}


def sized(sizes: Sequence[tuple[int, int]], icc: float) -> Design:
    """Every image is wrong with the same chance; two of a patient together by this correlation."""
    return lambda wrong: [alike(number, images, wrong, icc) for number, images in sizes]


def unequal(sizes: Sequence[tuple[int, int]], weights: Sequence[float], icc: float) -> Design:
    """Groups of patients whose images are wrong in these proportions to each other."""
    total = sum(number * images for number, images in sizes)
    scale = sum(number * images * weight for (number, images), weight in zip(sizes, weights, strict=True)) / total
    return lambda wrong: [
        alike(number, images, wrong * weight / scale, icc)
        for (number, images), weight in zip(sizes, weights, strict=True)
    ]


def few(number: int, images: int, bad: float, share: float) -> Design:
    """This share of a patient's images is wrong in a few bad patients (a chance `bad`), else as seldom as it takes."""

    def design(wrong: float) -> list[Patients]:
        rest = (wrong - bad * share) / (1 - bad)
        return [mixed(number, [(bad, alike(1, images, share, 0.0)), (1 - bad, alike(1, images, rest, 0.0))])]

    return design


def of_any_size(number: int, largest: int, icc: float, slope: float) -> Design:
    """Patients with 1 to `largest` images, each number as likely; slope: how errors grow with the number (-1 to 1)."""

    def design(wrong: float) -> list[Patients]:
        images = np.arange(1, largest + 1)
        tilt = 1 + slope * (images - images.mean()) / images.max()
        rates = wrong * tilt * images.sum() / (tilt @ images)
        kinds = [(1 / largest, alike(1, m, rate, icc)) for m, rate in zip(images.tolist(), rates.tolist(), strict=True)]
        return [mixed(number, kinds)]

    return design


def called(number: int, images: int, chance: float, icc: float) -> Design:
    """Of a patient's images so many are called: the denominator of a predictive value; correlated errors among them."""

    def design(wrong: float) -> list[Patients]:
        return [
            mixed(
                number,
                [
                    (float(share), alike(1, m, wrong, icc))
                    for m, share in zip(
                        range(images + 1), alike(1, images, chance, 0.5 * (images > 1)).chances, strict=True
                    )
                ],
            )
        ]

    return design


def designs() -> dict[str, Design]:
    """Every design by its name."""
    found = {
        f"{name}, correlation {icc:g}": sized(sizes, icc)
        for name, sizes in SIZES.items()
        for icc in CORRELATIONS
        if icc == 0 or name != "60x1"
    }
    found |= {
        f"{name}, correlation {icc:g}": sized(sizes, icc) for name, sizes in HUGE.items() for icc in (0.0, 0.5, 1.0)
    }
    found |= {
        f"{number} patients with 1 to 20 images, correlation {icc:g}, {words}": of_any_size(number, 20, icc, slope)
        for number in (30, 100)
        for icc in (0.3, 0.9)
        for words, slope in (("errors alike", 0.0), ("errors in large ones", 0.9), ("errors in small ones", -0.9))
    }
    found |= {
        "60x2, all errors in few": few(60, 2, 0.018, 1.0),
        "300x2, all errors in few": few(300, 2, 0.018, 1.0),
        "60x10, all errors in few": few(60, 10, 0.018, 1.0),
        "100x8, half of the images of few": few(100, 8, 0.03, 0.5),
        "60x1 + 10x10, errors in large ones": unequal(((60, 1), (10, 10)), (0.0, 1.0), 0.5),
        "60x1 + 10x10, errors in small ones": unequal(((60, 1), (10, 10)), (1.0, 0.0), 0.5),
        "40x2 + 40x2, errors in one half": unequal(((40, 2), (40, 2)), (1.0, 0.0), 0.8),
        "100x1 + 1x50, errors in large one": unequal(((100, 1), (1, 50)), (0.1, 1.0), 0.9),
        "60x2 of 2 called": called(60, 2, 0.9, 0.8),
        "200x2, a quarter called": called(200, 2, 0.25, 0.8),
        "100x10, a fifth called": called(100, 10, 0.2, 0.5),
        "300x1, a quarter called": called(300, 1, 0.25, 0.0),
    }
    return found


def cells() -> Iterator[Cell]:
    """Every design with its rules."""
    rules: list[tuple[float, bool, Interval]] = [(true, False, "clopper-pearson") for true in (0.90, 0.95, 0.98)]
    rules += [(limit, True, "clopper-pearson") for limit in (0.02, 0.05, 0.10)]
    rules += [(true, False, "wilson") for true in (0.80, 0.90, 0.95)]
    for (name, design), (threshold, adverse, interval) in itertools.product(designs().items(), rules):
        wrong = threshold if adverse else 1 - threshold
        groups = design(wrong)
        if not all(one.chances.min() >= 0 and one.chances.max() <= 1 for one in groups):
            continue
        assert abs(wrong_share(groups) - wrong) < 1e-9, name

        def passes(
            sets: int,
            rng: np.random.Generator,
            groups: Sequence[Patients] = groups,
            threshold: float = threshold,
            adverse: bool = adverse,
            interval: Interval = interval,
        ) -> int:
            return passed(*draw(groups, sets, rng), threshold=threshold, adverse=adverse, interval=interval)

        words = f"{'at most' if adverse else 'at least'} {100 * threshold:g} %"
        yield Cell(name, words + (", Wilson" if interval == "wilson" else ""), passes, at_once=20_000)


def passed(times: Ints, counted: Ints, wrong: Ints, *, threshold: float, adverse: bool, interval: Interval) -> int:
    """How many test sets pass, of patients with so many images counted and wrong, (K,), so many times, (sets, K)."""
    n, errors = times @ counted, times @ wrong
    # Where the estimate misses the rule, so does its limit.
    close = times[(n > 0) & (errors <= (threshold if adverse else 1 - threshold) * n + 1e-9)]
    if not len(close):
        return 0
    low, high = limits(effective(close, counted, wrong, adverse=adverse), interval).T
    return int((high <= threshold if adverse else low >= threshold).sum())
