"""Test sets without patients, whose checklist declares the most images of one patient; here it is true."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import ndtri

from benchmarks.gate_error import agreement, ranking
from benchmarks.gate_error.cell import LEVEL, Cell, Flags, Floats, Ints, Patients, alike, draw, each
from drgate.stats.agreement import Weights, kappa
from drgate.stats.cluster import bounds, unknown_clusters
from drgate.stats.paired import noninferiority, paired_sample_unknown
from drgate.stats.ranking import auc_delong

SIZES: dict[str, tuple[int, tuple[tuple[int, int], ...]]] = {
    "60x2 of 2": (2, ((60, 2),)),
    "300x2 of 2": (2, ((300, 2),)),
    "60x1 + 60x2 of 2": (2, ((60, 1), (60, 2))),
    "60x4 of 4": (4, ((60, 4),)),
    "25x8 of 8": (8, ((25, 8),)),
    "15x20 of 20": (20, ((15, 20),)),
    "100x1 + 10x20 of 20": (20, ((100, 1), (10, 20))),
    "200x1 of 1": (1, ((200, 1),)),
}
"""The most that is declared, and patients x images of each."""


def cells() -> Iterator[Cell]:
    """Proportions, kappa, areas and non-inferiority."""
    for (name, (most, sizes)), icc in itertools.product(SIZES.items(), (0.0, 0.5, 1.0)):
        if most == 1 and icc:
            continue
        words = f"{name}, correlation {icc:g}"
        for threshold in (0.90, 0.95, 0.98):
            groups = [alike(number, images, 1 - threshold, icc) for number, images in sizes]
            yield Cell(
                words,
                f"at least {100 * threshold:g} %",
                functools.partial(_share, groups=groups, threshold=threshold, most=most),
                at_once=20_000,
            )
        table = agreement.graded(agreement.MIXES["screening"], 0.05, 0.02)
        for weights in agreement.WEIGHTS:
            threshold = float(kappa(table, weights)[0])
            kinds = [agreement.Group(number, images, table, icc) for number, images in sizes]
            yield Cell(
                words,
                f"kappa, weights {weights}, at least {threshold:.3f}",
                functools.partial(_kappa, groups=kinds, weights=weights, threshold=threshold, most=most),
                at_once=1_000,
            )
        scores = ranking.Scores(np.sqrt(2) * float(ndtri(0.9)), min(icc, 0.99))
        positive, owner = ranking.images_of(
            [one for number, images in sizes for one in ((number // 2, images, 0), (number - number // 2, 0, images))]
        )
        yield Cell(
            words,
            f"area at least {scores.area:.2f}",
            functools.partial(_area, scores=scores, positive=positive, owner=owner, most=most),
        )
        for margin in (0.05, 0.10):
            yield Cell(
                words,
                f"worse by less than {100 * margin:g} points",
                functools.partial(_pairs, sizes=sizes, margin=margin, icc=icc, most=most),
                at_once=20_000,
            )


def _share(sets: int, rng: np.random.Generator, *, groups: Sequence[Patients], threshold: float, most: int) -> int:
    times, counted, wrong = draw(groups, sets, rng)
    n = times @ counted

    def shows(k: float, n: float) -> bool:
        sample = unknown_clusters(int(k), int(n), images_a_patient=most, level=LEVEL)
        return bounds(sample, level=LEVEL, interval="clopper-pearson").low >= threshold

    return int(each(shows, np.stack([n - times @ wrong, n], axis=1)).sum())


def _kappa(
    sets: int,
    rng: np.random.Generator,
    *,
    groups: Sequence[agreement.Group],
    weights: Weights,
    threshold: float,
    most: int,
) -> int:
    # Every image is a patient, as in a table without patients; those of one cell are then taken together.
    tables = agreement.draw(groups, sets, rng).sum(axis=1)
    return agreement.passed_of(np.eye(25, dtype=np.int64), tables, weights, threshold, images_a_patient=most)


def _area(
    sets: int, rng: np.random.Generator, *, scores: ranking.Scores, positive: Flags, owner: Ints, most: int
) -> int:
    def low(row: Floats, positive: Flags, _: Ints) -> float:
        area = auc_delong(row, positive, level=LEVEL, images_a_patient=most)
        assert area is not None, "both sides have an image"
        return area.low

    drawn = scores.draw(positive, owner, sets, rng)
    return ranking.passed(drawn, positive, np.arange(owner.size), scores.area, low)


def _pairs(
    sets: int, rng: np.random.Generator, *, sizes: tuple[tuple[int, int], ...], margin: float, icc: float, most: int
) -> int:
    # The second model is right alone on 1.5 margins of the images, the first on half a margin; alike within patients.
    only = np.zeros((sets, 2), dtype=np.int64)
    for number, images in sizes:
        shape = (sets, number, images)
        own, first = rng.random(shape), rng.random((sets, number, 1))
        at = np.where(rng.random((sets, number, 1)) < icc, first, own)
        only += np.stack([(at < 0.5 * margin), (at > 1 - 1.5 * margin)], axis=-1).sum(axis=(1, 2))
    n = sum(number * images for number, images in sizes)

    def shows(first: float, second: float) -> bool:
        sample = paired_sample_unknown(int(first), int(second), n, images_a_patient=most)
        return noninferiority(sample, margin, level=LEVEL).shown

    return int(each(shows, only.astype(np.float64)).sum())
