"""Limits of the gap between groups, against published figures and against all outcomes of small designs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from drgate.stats.gaps import Rate, differences, largest
from drgate.stats.proportion import Interval, exact_bounds, wilson_bounds

LIMITS = {"clopper-pearson": exact_bounds, "wilson": wilson_bounds}


def rate(k: int, n: int, interval: Interval = "wilson", level: float = 0.95) -> Rate:
    ends = LIMITS[interval](k, n, level=level)
    return Rate(k / n, ends.low, ends.high)


NEWCOMBE_1998 = [
    ((56, 70), (48, 80), 0.0524, 0.3339),
    ((9, 10), (3, 10), 0.1705, 0.8090),
    ((6, 7), (2, 7), 0.0582, 0.8062),
    ((5, 56), (0, 29), -0.0381, 0.1926),
    ((0, 10), (0, 20), -0.1611, 0.2775),
    ((0, 10), (0, 10), -0.2775, 0.2775),
    ((10, 10), (0, 20), 0.6791, 1.0000),
    ((10, 10), (0, 10), 0.6075, 1.0000),
]
"""Newcombe 1998, Statistics in Medicine 17:873, Table II, method 10."""


@pytest.mark.parametrize(("one", "other", "low", "high"), NEWCOMBE_1998)
def test_a_difference_has_the_published_limits(one: tuple[int, int], other: tuple[int, int], low: float, high: float):
    rates = [rate(*one), rate(*other)]
    down, up = differences(*zip(*((r.value, r.low, r.high) for r in rates), strict=True))
    assert (round(float(down[0, 1]), 4), round(float(up[0, 1]), 4)) == (low, high)
    gap = largest(rates)
    assert (round(gap.high, 4), round(gap.low, 4)) == (max(high, round(-low, 4)), max(low, 0.0))


def test_the_widest_pair_decides_whichever_it_is():
    """A small group decides although its own proportion is in the middle: its limits are the widest."""
    rates = [rate(950, 1000), rate(47, 50), rate(930, 1000)]
    gap = largest(rates)
    assert gap.value == pytest.approx(0.02)
    pairs = {pair: largest([rates[i] for i in pair]).high for pair in itertools.combinations(range(3), 2)}
    assert gap.high == max(pairs.values())
    assert set(gap.open) == set(max(pairs, key=lambda pair: pairs[pair])) == {0, 1}
    with pytest.raises(ValueError, match="two groups"):
        largest(rates[:1])


@pytest.mark.parametrize("sizes", [(60, 60), (30, 200), (100, 20)])
@pytest.mark.parametrize("limit", [0.05, 0.1])
def test_a_gap_at_the_limit_passes_in_at_most_one_of_forty(sizes: tuple[int, int], limit: float):
    """Over all outcomes of two groups whose true gap is the limit: the interval's error, without simulation."""
    worst = 0.0
    tables = [[rate(k, n, "clopper-pearson") for k in range(n + 1)] for n in sizes]
    ends = [np.array([(r.value, r.low, r.high) for r in table]) for table in tables]
    joined = np.broadcast_arrays(ends[0][:, None, :], ends[1][None, :, :])
    _, up = differences(*np.stack(joined, axis=-1).transpose(2, 0, 1, 3))
    passes = np.maximum(up[..., 0, 1], up[..., 1, 0]) <= limit
    for low in (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 1 - limit):
        for p, q in ((low + limit, low), (low, low + limit)):
            one, other = (binom.pmf(np.arange(n + 1), n, share) for n, share in zip(sizes, (p, q), strict=True))
            worst = max(worst, float(one @ passes @ other))
    assert worst <= 0.025
