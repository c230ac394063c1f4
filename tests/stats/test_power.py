"""Section 5: how many cases, and the error of the gate at given cases."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binom

from drgate.stats.power import (
    cases_needed,
    joint_power,
    misses_allowed,
    power,
    simulated_power,
    smallest_without_miss,
)
from drgate.stats.proportion import exact_bounds, wilson_bounds

LINE_90 = {0.93: (742, 964), 0.95: (255, 316), 0.96: (167, 206), 0.97: (114, 141), 0.98: (85, 100), 0.99: (54, 70)}
LINE_95 = {
    0.97: (851, 1106),
    0.975: (515, 661),
    0.98: (338, 440),
    0.985: (230, 285),
    0.99: (173, 202),
    0.995: (110, 142),
}


class TestPrintedNumbers:
    def test_without_a_miss(self):
        """36 cases show .90 and 72 show .95; with two images each 37 and 74 patients."""
        assert [smallest_without_miss(t, level=0.95) for t in (0.90, 0.95)] == [36, 72]
        assert [smallest_without_miss(t, level=0.95, images=2) for t in (0.90, 0.95)] == [37, 74]

    def test_at_further_looks(self):
        """With two images each, 87 patients at alpha / 2 and 96 at alpha / 3."""
        assert [smallest_without_miss(0.95, level=1 - 0.05 / k, images=2) for k in (2, 3)] == [87, 96]

    @pytest.mark.parametrize(("threshold", "allowed"), [(0.90, [4, 11, 19, 36]), (0.95, [0, 3, 7, 15])])
    def test_misses_allowed(self, threshold, allowed):
        """At 100, 200, 300 and 500 cases."""
        assert [misses_allowed(n, threshold, level=0.95) for n in (100, 200, 300, 500)] == allowed

    @pytest.mark.parametrize(("threshold", "table"), [(0.90, LINE_90), (0.95, LINE_95)])
    def test_cases_from_which_power_stays(self, threshold, table):
        """Both tables of cases for power 80 % and 90 %."""
        for true, needed in table.items():
            assert tuple(cases_needed(threshold, true=true, target=p, level=0.95) for p in (0.8, 0.9)) == needed

    @pytest.mark.parametrize(("threshold", "n", "percent"), [(0.95, 30, 0.0), (0.95, 100, 0.6), (0.90, 100, 2.4)])
    def test_false_passes_at_the_threshold(self, threshold, n, percent):
        """The power at the threshold itself is the gate's error of section 1."""
        assert round(100 * power(n, threshold, true=threshold, level=0.95), 1) == percent


class TestOracles:
    @pytest.mark.parametrize("interval", ["clopper-pearson", "wilson"])
    @pytest.mark.parametrize("threshold", [0.5, 0.9, 0.95])
    def test_misses_allowed_by_looking_at_every_bound(self, interval, threshold):
        """The most misses whose interval still reaches the threshold, interval by interval."""
        bounds = {"clopper-pearson": exact_bounds, "wilson": wilson_bounds}[interval]
        for n in (1, 20, 36, 72, 73, 150):
            good = [m for m in range(n + 1) if bounds(n - m, n, level=0.95).low >= threshold]
            assert misses_allowed(n, threshold, level=0.95, interval=interval) == (max(good) if good else None)

    def test_power_by_binomial_sums(self):
        """The chance of at most the misses allowed."""
        for n in (30, 72, 255, 900):
            allowed = misses_allowed(n, 0.95, level=0.95)
            expected = 0.0 if allowed is None else binom.cdf(allowed, n, 0.02)
            assert power(n, 0.95, true=0.98, level=0.95) == pytest.approx(expected, abs=1e-12)

    def test_power_stays_from_there_on(self):
        """One case fewer falls short, and none of the next two thousand does."""
        needed = cases_needed(0.95, true=0.985, target=0.8, level=0.95)
        values = [power(n, 0.95, true=0.985, level=0.95) for n in range(needed - 1, needed + 2000)]
        assert values[0] < 0.8 <= min(values[1:])

    def test_simulation_meets_the_exact_power(self):
        """With one image a patient simulated and exact power agree."""
        simulated = simulated_power([1], 0.9, true=0.95, icc=0.5, level=0.95, counts=[300], replicates=20_000)
        assert simulated.value == pytest.approx(power(300, 0.9, true=0.95, level=0.95), abs=4 * simulated.se)

    @pytest.mark.parametrize("icc", [0.0, 0.4, 1.0])
    def test_simulation_meets_a_literal_loop(self, icc):
        """Drawing each patient's images and building each bound gives the same share of passes."""
        from drgate.stats.cluster import bounds, effective_sample

        sizes = np.repeat([1, 3], [60, 40])
        rng = np.random.default_rng(2)
        passes = 0
        for _ in range(1500):
            if icc == 0:
                chance = np.full(100, 0.93)
            elif icc == 1:
                chance = (rng.random(100) < 0.93).astype(float)
            else:
                chance = rng.beta(0.93 * (1 - icc) / icc, 0.07 * (1 - icc) / icc, 100)
            sample = effective_sample(rng.binomial(sizes, chance), sizes, level=0.95)
            passes += bounds(sample, level=0.95, interval="clopper-pearson").low >= 0.85
        ours = simulated_power([1, 3], 0.85, true=0.93, icc=icc, level=0.95, counts=[60, 40], replicates=20_000)
        assert ours.value == pytest.approx(passes / 1500, abs=4 * np.sqrt(0.25 / 1500))

    @pytest.mark.parametrize("design", [{2: 300}, {1: 60, 2: 60}, {4: 100}, {1: 100, 20: 10}])
    def test_simulated_error_of_the_clustered_gate(self, design):
        """At most 2.5 % false passes over designs of section 2 (all of them: the benchmark gate-error)."""
        for true in (0.90, 0.95):
            for icc in (0.0, 0.5, 0.8):
                error = simulated_power(
                    list(design), true, true=true, icc=icc, level=0.95, counts=list(design.values()), replicates=20_000
                )
                assert error.value <= 0.025


class TestNoAnswer:
    def test_no_realistic_number(self):
        """A truth at or below the threshold, or a hair above it, cannot be shown."""
        assert cases_needed(0.95, true=0.95, target=0.8, level=0.95) is None
        assert cases_needed(0.95, true=0.94, target=0.8, level=0.95) is None
        assert cases_needed(0.95, true=0.9501, target=0.8, level=0.95) is None

    def test_too_few_for_any_result(self):
        """59 PDR images can never show .95: no number of misses is small enough, and the power is 0."""
        assert misses_allowed(59, 0.95, level=0.95) is None
        assert power(59, 0.95, true=1.0, level=0.95) == 0
        assert power(72, 0.95, true=1.0, level=0.95) == 1

    def test_joint_power_is_the_product(self):
        """Criteria on different grades pass independently."""
        assert joint_power([0.8, 0.9]) == pytest.approx(0.72)
        assert joint_power([]) == 1

    @pytest.mark.parametrize("threshold", [0, 1, 90])
    def test_a_threshold_is_a_fraction(self, threshold):
        """90 for 0.90 is refused."""
        with pytest.raises(ValueError):
            misses_allowed(100, threshold, level=0.95)


def test_statistics_start_light():
    """The functions load neither pandas, statsmodels, scikit-learn, torch nor the slow parts of SciPy."""
    code = (
        "import sys; from drgate.stats import agreement, bootstrap, cluster, confusion, paired, power, proportion, "
        "ranking, stability; heavy = {'pandas', 'statsmodels', 'sklearn', 'torch', 'scipy.stats', 'scipy.optimize'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
