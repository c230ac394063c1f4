"""Clopper-Pearson and Wilson, against SciPy, statsmodels and what was published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from statsmodels.stats.proportion import proportion_confint

from drgate.stats.proportion import Bounds, exact_bounds, wilson_bounds

PUBLISHED = json.loads((Path(__file__).parent / "published_intervals.json").read_text(encoding="utf-8"))
METHODS = {"clopper-pearson": exact_bounds, "wilson": wilson_bounds}
COUNTS = [(k, n) for n in (1, 2, 5, 30, 72, 500) for k in {0, 1, n // 3, n - 1, n}]


class TestPublished:
    @pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row['study']} {row['statistic']}")
    def test_intervals_come_out_to_the_printed_digit(self, row):
        """Clinical papers that name their method give the same interval."""
        bounds = METHODS[row["interval"]](row["successes"], row["cases"], level=0.95)
        assert (row["low_percent"], row["high_percent"]) == (round(100 * bounds.low, 1), round(100 * bounds.high, 1))

    def test_imageability_of_idx_dr(self):
        """819 of 852 imageable is 96.1 %, exact 94.6 to 97.3 (Abramoff 2018)."""
        bounds = exact_bounds(819, 852, level=0.95)
        assert (round(100 * bounds.low, 1), round(100 * bounds.high, 1)) == (94.6, 97.3)

    def test_sixty_seven_of_seventy_two(self):
        """67/72 has the exact lower bound .8453."""
        assert round(exact_bounds(67, 72, level=0.95).low, 4) == 0.8453

    def test_a_fifth_of_aptos_cannot_show_the_pdr_line(self):
        """59 of 59 PDR images have the bound .939: below .95 whatever the model."""
        assert round(exact_bounds(59, 59, level=0.95).low, 3) == 0.939


class TestOracles:
    @pytest.mark.parametrize(("k", "n"), COUNTS)
    @pytest.mark.parametrize("level", [0.8, 0.95, 0.975, 0.999])
    def test_scipy_agrees_on_whole_counts(self, k, n, level):
        """SciPy's binomtest gives the same exact and Wilson interval."""
        for ours, theirs in ((exact_bounds, "exact"), (wilson_bounds, "wilson")):
            expected = binomtest(k, n).proportion_ci(level, theirs)
            actual = ours(k, n, level=level)
            assert (expected.low, expected.high) == pytest.approx((actual.low, actual.high), abs=1e-12)

    @pytest.mark.parametrize(("k", "n"), [(36.8, 38.1), (0.4, 12.5), (99.99, 100.0)])
    def test_statsmodels_agrees_on_real_counts(self, k, n):
        """statsmodels gives the same interval for effective counts."""
        for ours, theirs in ((exact_bounds, "beta"), (wilson_bounds, "wilson")):
            actual = ours(k, n, level=0.95)
            assert proportion_confint(k, n, 0.05, theirs) == pytest.approx((actual.low, actual.high), abs=1e-9)

    @pytest.mark.parametrize(("threshold", "n", "percent"), [(0.95, 30, 0.0), (0.95, 100, 0.6), (0.90, 100, 2.4)])
    @pytest.mark.parametrize("method", METHODS.values())
    def test_error_of_the_gate_at_its_threshold(self, threshold, n, percent, method):
        """The table of section 1: how often "lower bound > p0" passes at truth p0."""
        passes = [k for k in range(n + 1) if method(k, n, level=0.95).low > threshold]
        assert round(100 * binom.pmf(passes, n, threshold).sum(), 1) == percent


class TestLaws:
    @given(st.floats(1e-3, 1e6), st.floats(0, 1), st.floats(0.5, 0.9999))
    def test_bounds_contain_the_estimate(self, n, share, level):
        """0 <= low <= k/n <= high <= 1, for every real count."""
        k = min(n, n * share)
        for method in METHODS.values():
            bounds = method(k, n, level=level)
            assert 0 <= bounds.low <= k / n + 1e-12
            assert k / n - 1e-12 <= bounds.high <= 1

    @pytest.mark.parametrize("n", [1, 7, 2.5, 10_000, 1e-3])
    @pytest.mark.parametrize("method", METHODS.values())
    def test_ends_are_exact(self, n, method):
        """No success has low exactly 0, no miss has high exactly 1."""
        assert method(0, n, level=0.95).low == 0.0
        assert method(n, n, level=0.95).high == 1.0

    @given(st.integers(1, 400), st.data())
    def test_one_more_miss_lowers_both_ends(self, n, data):
        """Fewer successes of the same number never raise a bound."""
        k = data.draw(st.integers(1, n))
        for method in METHODS.values():
            more, fewer = method(k, n, level=0.95), method(k - 1, n, level=0.95)
            assert fewer.low <= more.low
            assert fewer.high <= more.high

    @pytest.mark.parametrize(
        ("k", "n", "level"), [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 95), (1, 2, 1.0), (np.nan, 2, 0.95)]
    )
    def test_what_has_no_interval_is_refused(self, k, n, level):
        """0 of 0, impossible counts and a level in percent are errors, never NaN."""
        for method in METHODS.values():
            with pytest.raises(ValueError):
                method(k, n, level=level)

    def test_bounds_are_frozen(self):
        """A result cannot be changed after the fact."""
        with pytest.raises(AttributeError):
            Bounds(0.1, 0.2).low = 0.3  # type: ignore[misc]
