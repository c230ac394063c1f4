"""Limits of the gap between groups, against published figures and against all outcomes of small designs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import binom

from drgate.stats.gaps import Rate, differences, largest, melded, opposed, shown
from drgate.stats.power import fair_gap, patients_for_gap
from drgate.stats.proportion import Interval, exact_bounds, wilson_bounds

LIMITS = {"clopper-pearson": exact_bounds, "wilson": wilson_bounds}


def rate(k: int, n: int, interval: Interval = "wilson", level: float = 0.95) -> Rate:
    ends = LIMITS[interval](k, n, level=level)
    return Rate(k / n, ends.low, ends.high, n)


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
    gap = largest(rates, level=0.95)  # melded limits, on the exact ones, are wider than those of Wilson
    assert gap.high >= max(high, -low) - 5e-5
    assert gap.low <= max(low, 0.0) + 5e-5


MELDED = [
    ((56, 70), (48, 80), 0.34861085),
    ((35, 36), (795, 1000), 0.22047712),
    ((95, 100), (85, 100), 0.19423987),
    ((58.5, 60.5), (50.25, 61.5), 0.27614775),
]
"""R 4.2.2: integrate and uniroot over dbeta and pbeta (tests/stats/r_oracles.R)."""


@pytest.mark.parametrize(("one", "other", "high"), MELDED)
def test_melded_limits_are_those_of_r(one: tuple[float, float], other: tuple[float, float], high: float):
    assert melded(one, other, level=0.95) == pytest.approx(high, abs=1e-7)


def test_the_widest_pair_decides_whichever_it_is():
    """A small group decides although its own proportion is in the middle: its limits are the widest."""
    rates = [rate(950, 1000), rate(47, 50), rate(930, 1000)]
    gap = largest(rates, level=0.95)
    assert gap.value == pytest.approx(0.02)
    pairs = {pair: largest([rates[i] for i in pair], level=0.95).high for pair in itertools.combinations(range(3), 2)}
    assert gap.high == max(pairs.values())
    assert set(gap.upper) == set(max(pairs, key=lambda pair: pairs[pair])) == {0, 1}
    with pytest.raises(ValueError, match="two groups"):
        largest(rates[:1], level=0.95)


def outcomes(sizes: tuple[int, int], limit: float, interval: Interval = "clopper-pearson") -> np.ndarray:
    """Which counts of two groups show a gap of at most `limit`."""
    counts = np.stack(np.meshgrid(*(np.arange(n + 1) for n in sizes), indexing="ij"), axis=-1).reshape(-1, 2)
    tables = [[rate(k, n, interval) for k in range(n + 1)] for n in sizes]
    ends = np.array([[(r.value, r.low, r.high) for r in (tables[0][i], tables[1][j])] for i, j in counts])
    worth = np.broadcast_to(np.array(sizes, dtype=float), counts.shape)
    found = shown(ends[..., 0], ends[..., 1], ends[..., 2], worth, limit, level=0.95)
    return found.reshape(sizes[0] + 1, sizes[1] + 1)


@pytest.mark.parametrize("sizes", [(60, 60), (30, 200), (100, 20), (36, 1000)])
@pytest.mark.parametrize("limit", [0.05, 0.1, 0.2])
def test_a_gap_at_the_limit_passes_in_at_most_one_of_forty(sizes: tuple[int, int], limit: float):
    """Over all outcomes of two groups whose true gap is the limit: the interval's error, without simulation.

    MOVER alone passes 3.26 % of 36 at .995 against 1,000 at .795.
    """
    worst = 0.0
    passes = outcomes(sizes, limit)
    for low in (0.3, 0.5, 0.7, 0.795, 0.8, 0.85, 0.9, 1 - limit):
        for p, q in ((low + limit, low), (low, low + limit)):
            if max(p, q) <= 1:
                one, other = (binom.pmf(np.arange(n + 1), n, share) for n, share in zip(sizes, (p, q), strict=True))
                worst = max(worst, float(one @ passes @ other))
    assert worst <= 0.025


def test_few_pairs_are_looked_at_and_none_is_missed():
    """Of random groups, some of three images: as if the limit of every pair were computed."""
    rng = np.random.default_rng(9)
    for _ in range(30):
        sizes = rng.choice([3, 36, 60, 200, 1000], rng.integers(2, 6))
        rates = [rate(int(rng.binomial(n, rng.choice([0.8, 0.95, 1.0]))), int(n), "clopper-pearson") for n in sizes]
        _, mover = differences(*zip(*((one.value, one.low, one.high) for one in rates), strict=True))
        ends = {
            (a, b): max(
                mover[a, b],
                melded(*((one.value * one.worth, one.worth) for one in (rates[a], rates[b])), level=0.95),
            )
            for a, b in itertools.permutations(range(len(rates)), 2)
        }
        found = largest(rates, level=0.95)
        assert found.high == pytest.approx(max(ends.values()), abs=1e-7)
        assert found.low == pytest.approx(max(0.0, -min(ends.values())), abs=1e-9)


def test_one_gap_and_many_at_once_decide_alike():
    rng = np.random.default_rng(3)
    found = []
    for _ in range(60):
        rates = [rate(int(rng.binomial(n, 0.93)), n, "clopper-pearson") for n in (40, 200, 90)]
        fields = [np.array([[getattr(one, name) for one in rates]]) for name in ("value", "low", "high", "worth")]
        limit = float(rng.uniform(0.08, 0.2))
        found.append(bool(shown(*fields, limit, level=0.95)[0]))
        assert found[-1] == (largest(rates, level=0.95).high <= limit)
    assert 5 < sum(found) < 55


class TestPlanning:
    def test_a_fair_model_seems_unfair(self):
        """Five groups of 60, truth 93 %: the observed range exceeds 5 points in 70 % of drawn samples."""
        found = fair_gap(0.05, true=0.93, level=0.95, groups=[([1], [60])] * 5, replicates=40_000)
        drawn = np.random.default_rng(1).binomial(60, 0.93, (40_000, 5))
        assert found.seems_unfair == pytest.approx(float((np.ptp(drawn, axis=1) > 3).mean()), abs=0.01)
        assert found.seems_unfair == pytest.approx(0.70, abs=0.01)
        assert found.passes == 0.0

    @pytest.mark.parametrize("interval", ["clopper-pearson", "wilson"])
    def test_its_power_is_that_of_all_outcomes(self, interval: Interval):
        """Two groups of independent images: the binomial sum over every pair of counts."""
        sizes, true, limit = (120, 200), 0.95, 0.1
        one, other = (binom.pmf(np.arange(n + 1), n, true) for n in sizes)
        passes = float(one @ outcomes(sizes, limit, interval) @ other)
        found = fair_gap(
            limit,
            true=true,
            level=0.95,
            groups=[([1], [n]) for n in sizes],
            interval=interval,
            replicates=20_000,
        )
        assert found.passes == pytest.approx(passes, abs=4 * found.se)

    def test_the_patients_needed_give_the_power(self):
        needed = patients_for_gap(0.1, true=0.95, target=0.8, level=0.95, groups=3, sizes=[1, 2], counts=[1, 1])
        assert needed is not None
        for factor, enough in ((1.0, True), (0.9, False)):
            half = round(factor * needed.patients / 2)
            groups = [([1, 2], [half, half])] * 3
            found = fair_gap(0.1, true=0.95, level=0.95, groups=groups, replicates=20_000, seed=50)
            assert (found.passes > 0.785) is enough
        assert patients_for_gap(0.001, true=0.9, target=0.8, level=0.95, groups=2) is None
        alone = fair_gap(0.1, true=0.9, level=0.95, groups=[([3], [1]), ([1], [50])])
        assert alone.passes == 0.0


class TestSharedPatients:
    """Patients with an image in each of two groups, whose errors oppose each other."""

    @staticmethod
    def drawn(both: float, p: float, q: float, patients: int, sets: int) -> np.ndarray:
        """How many patients are right in both groups, in the first only, in the second only, and in none; (sets, 4)."""
        shares = np.clip([both, p - both, q - both, 1 - p - q + both], 0, 1)
        return np.random.default_rng(7).multinomial(patients, shares / shares.sum(), sets)

    def test_the_correlation_is_that_of_the_table(self):
        """phi of a two-by-two table of patients, by hand; a positive one counts as 0."""
        for cells, phi in (((10, 30, 40, 20), (10 * 20 - 30 * 40) / np.sqrt(40 * 60 * 50 * 50)), ((30, 10, 20, 40), 0)):
            right = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], cells, axis=0)
            found = opposed(csr_array(right), csr_array(np.ones_like(right)))
            assert found[0, 1] == found[1, 0] == pytest.approx(phi)

    @pytest.mark.parametrize(("p", "q"), [(0.8, 0.6), (0.6, 0.4), (0.9, 0.8)])
    def test_a_gap_at_the_limit_is_not_passed_more_often(self, p: float, q: float):
        """As independent groups 3.4 to 8.6 % passed."""
        n, passed = 200, 0
        sets, many = np.unique(self.drawn(max(0.0, p + q - 1), p, q, n, 20_000), axis=0, return_counts=True)
        for (both, one, other, none), times in zip(sets, many, strict=True):
            right = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], (both, one, other, none), axis=0)
            correlation = opposed(csr_array(right), csr_array(np.ones_like(right)))
            rates = [rate(int(k), n, "clopper-pearson") for k in (both + one, both + other)]
            passed += times * (largest(rates, correlation, level=0.95).high <= p - q)
        assert passed / 20_000 <= 0.029
