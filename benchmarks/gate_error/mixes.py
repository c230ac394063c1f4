"""Figures at a mix of grades: accuracy and predictive values at a deployment mix, balanced accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from benchmarks.gate_error.cell import LEVEL, Cell, Flags, Floats, Ints
from benchmarks.standardized_error import MIXES, PATIENTS, RATIOS, SIZES, Design, some_design
from drgate.stats.confusion import GRADES
from drgate.stats.proportion import exact_bounds
from drgate.stats.standardized import Standardized, estimate, values

RANDOM = 30
"""Random designs of each metric."""
EQUAL = (0.2,) * GRADES


def designs() -> Iterator[tuple[str, Design]]:
    """Designs by their words: those that concentrate the errors where an image weighs most, and random ones."""
    for (patients, (images, _)), icc in itertools.product(PATIENTS.items(), (0.0, 0.9)):
        if images == 1 and icc:
            continue
        for sizes, mix in ((SIZES[1], MIXES[0]), (SIZES[8], MIXES[4]), (SIZES[7], MIXES[2]), (SIZES[6], MIXES[0])):
            for words, chance in (
                ("errors in the scarcest grade", _only(int(np.argmin(sizes)), mix)),
                ("errors in the weightiest grade", _only(int(np.argmax(np.array(mix) / sizes)), mix)),
                ("errors alike", np.full(GRADES, 0.05)),
            ):
                design = Design("accuracy", sizes, mix, chance, patients, icc)
                yield f"{'balanced accuracy' if mix == EQUAL else 'accuracy'}, {words}, {design}", design
    rng = np.random.default_rng(0)
    for name in RATIOS:
        for at in range(RANDOM):
            design = some_design(name, rng)
            yield f"random {at + 1}, {design}", design


def _only(grade: int, mix: tuple[float, ...]) -> Floats:
    """Errors in one grade, to 5 % of the mix at most and 60 % of the grade."""
    return np.where(np.arange(GRADES) == grade, min(0.6, 0.05 / mix[grade]), 0.0)


def cells() -> Iterator[Cell]:
    """Every design at its true value."""
    for words, design in designs():

        def passes(sets: int, rng: np.random.Generator, design: Design = design) -> int:
            return passed(design, *design.draw(sets, rng), design.line)

        yield Cell(words, f"at least {design.line:.4f}", passes)


def passed(design: Design, patterns: Ints, drawn: Ints, threshold: float) -> int:
    """How many test sets pass, of patients with these patterns (P, 30), so many times (sets, P)."""
    found = 0
    for times in drawn[may_pass(design, patterns, drawn, threshold)]:
        figure = estimate(design.ratio, patterns, times, mix=design.mix, level=LEVEL)
        found += isinstance(figure, Standardized) and figure.low >= threshold
    return found


def may_pass(design: Design, patterns: Ints, drawn: Ints, threshold: float) -> Flags:
    """Where the exact limit reaches the true value at the sample size of errors equally frequent in all grades.

    The effective sample is never larger, so the others are not looked at.
    """
    theta, defined = values(design.ratio, drawn @ patterns, mix=design.mix)
    tables = (drawn @ patterns).reshape(len(drawn), GRADES, -1)
    counted = (tables * design.ratio.counted).sum(axis=2)
    each = np.array(design.mix) / np.maximum(tables[..., :GRADES].sum(axis=2), 1)
    weights = each / np.maximum((each * counted).sum(axis=1), 1e-300)[:, None]
    equal = 1 / np.maximum((weights**2 * counted).sum(axis=1), 1e-300)
    close = defined & (theta >= threshold)
    low = [
        exact_bounds(min(n, rate * n), n, level=LEVEL).low for rate, n in zip(theta[close], equal[close], strict=True)
    ]
    close[close] = np.array(low) >= threshold
    return close
