"""A cell of the table of errors, and how test sets of patients are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom, binom

from drgate.stats.cluster import EffectiveSample, bounds, effective_n
from drgate.stats.proportion import Interval

LEVEL = 0.95
NOMINAL = (1 - LEVEL) / 2

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Cell:
    """A design with a rule. passes(sets, rng): how many of so many test sets pass, drawn `at_once` at most."""

    design: str
    rule: str
    passes: Callable[[int, np.random.Generator], int] = field(repr=False)
    at_once: int = 4_000

    def __str__(self) -> str:
        return f"{self.design}: {self.rule}"


@dataclass(frozen=True)
class Patients:
    """So many patients of one kind: each has `counted` images with `wrong` among them, with these chances; all (K,)."""

    number: int
    counted: Ints
    wrong: Ints
    chances: Floats

    @property
    def expected(self) -> tuple[float, float]:
        """Expected images counted and wrong, of all of them."""
        return self.number * float(self.chances @ self.counted), self.number * float(self.chances @ self.wrong)


def alike(number: int, images: int, wrong: float, icc: float) -> Patients:
    """Patients with so many images, of which two are wrong together by this correlation (beta-binomial)."""
    y = np.arange(images + 1)
    if icc in (0, 1) or not 0 < wrong < 1:
        chances = binom.pmf(y, images, wrong) if icc < 1 else np.where(y == 0, 1 - wrong, (y == images) * wrong)
    else:
        each = (1 - icc) / icc
        chances = betabinom.pmf(y, images, wrong * each, (1 - wrong) * each)
    return Patients(number, np.full(images + 1, images), y, np.asarray(chances / chances.sum(), dtype=np.float64))


def mixed(number: int, kinds: Sequence[tuple[float, Patients]]) -> Patients:
    """Patients each of whom is of one of these kinds with a chance: their images are not fixed."""
    shares = [share for share, _ in kinds]
    assert math.isclose(sum(shares), 1)
    return Patients(
        number,
        np.concatenate([kind.counted for _, kind in kinds]),
        np.concatenate([kind.wrong for _, kind in kinds]),
        np.concatenate([share * kind.chances for share, kind in kinds]),
    )


def wrong_share(groups: Sequence[Patients]) -> float:
    """The true share of wrong images among those that are counted."""
    counted, wrong = np.array([group.expected for group in groups]).sum(axis=0)
    return float(wrong / counted)


def draw(groups: Sequence[Patients], sets: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Patients of every kind in each test set, (sets, K), and the kinds' images counted and wrong, (K,)."""
    times = np.concatenate([rng.multinomial(one.number, one.chances, size=sets) for one in groups], axis=1)
    return times, *(np.concatenate([getattr(one, name) for one in groups]) for name in ("counted", "wrong"))


def effective(times: Ints, counted: Ints, wrong: Ints, *, adverse: bool = False) -> Floats:
    """The fields of the `EffectiveSample` of each test set, (sets, 5), of patients so many times (sets, K).

    counted, wrong: images of the kinds of patients, (K,). 0 of 0 where none counts.
    """
    features = np.stack([counted > 0, counted, wrong, wrong > 0, wrong**2, wrong * counted, counted**2], axis=1)
    clusters, n, errors, with_error, squared, by_size, sizes_squared = (times @ features).T
    some = n > 0
    found = np.zeros((len(times), 5))
    design, worth = effective_n(
        clusters=clusters[some],
        sizes=n[some],
        errors=errors[some],
        with_error=with_error[some],
        errors_squared=squared[some],
        errors_by_size=by_size[some],
        sizes_squared=sizes_squared[some],
        largest=np.where(times > 0, counted, 0).max(axis=1)[some],
        level=LEVEL,
    )
    k = errors if adverse else n - errors
    found[some] = np.stack([k[some], n[some], clusters[some], design, worth], axis=1)
    return found


def sample_of(fields: Sequence[float]) -> EffectiveSample:
    """A row of `effective`."""
    k, n, clusters, design, worth = fields
    return EffectiveSample(int(k), int(n), int(clusters), design, worth)


def limits(samples: Floats, interval: Interval = "clopper-pearson") -> Floats:
    """Lower and upper limit of each row of `effective`, (sets, 2)."""

    def ends(*fields: float) -> tuple[float, float]:
        found = bounds(sample_of(fields), level=LEVEL, interval=interval)
        return found.low, found.high

    found = np.tile((0.0, 1.0), (len(samples), 1))
    some = samples[:, 1] > 0
    found[some] = each(ends, samples[some])
    return found


def each(function: Callable[..., Any], rows: Floats) -> NDArray[Any]:
    """What a function of the product says of every row; equal rows are looked at once."""
    distinct, at = np.unique(rows, axis=0, return_inverse=True)
    return np.array([function(*row) for row in distinct.tolist()])[at.ravel()]
