"""Section 7: two models on the same images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, norm
from statsmodels.api import OLS
from statsmodels.stats.contingency_tables import mcnemar

from drgate.stats.paired import (
    difference_bounds,
    mcnemar_exact,
    mcnemar_midp,
    noninferiority,
    paired_sample,
    paired_sample_unknown,
    resample_pairs,
    tango_bounds,
)
from drgate.stats.proportion import Bounds

counts = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 80))


def score(b, c, n, difference):
    """Tango's statistic with the constrained likelihood maximised numerically."""

    def loss(q):
        p, rest = q + difference, 1 - 2 * q - difference
        return -sum(k * np.log(max(x, 1e-300)) for k, x in ((b, p), (c, q), (n - b - c, rest)) if k)

    low, high = max(0.0, -difference), (1 - difference) / 2
    q = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    variance = n * (2 * q + difference - difference**2)
    return (b - c - n * difference) / np.sqrt(variance)


class TestPrintedNumbers:
    """The table [[59, 6], [16, 80]]."""

    def test_mcnemar(self):
        """Exact .052479, mid-p .034690."""
        assert round(mcnemar_exact(6, 16), 6) == 0.052479
        assert round(mcnemar_midp(6, 16), 6) == 0.034690

    def test_tango(self):
        """-.1240 to -.0054."""
        ends = tango_bounds(6, 16, 161, level=0.95)
        assert (round(ends.low, 4), round(ends.high, 4)) == (-0.1240, -0.0054)


class TestMcNemar:
    @given(st.integers(0, 60), st.integers(0, 60))
    def test_statsmodels_and_direct_sums_agree(self, b, c):
        """Exact by statsmodels; mid-p counts tables as extreme as the observed one by half."""
        assert mcnemar_exact(b, c) == pytest.approx(float(mcnemar([[5, b], [c, 5]]).pvalue) if b + c else 1.0)
        k = np.arange(b + c + 1)
        chance, extreme = binom.pmf(k, b + c, 0.5), abs(2 * k - b - c)
        expected = chance[extreme > abs(b - c)].sum() + chance[extreme == abs(b - c)].sum() / 2
        assert mcnemar_midp(b, c) == pytest.approx(expected if b + c else 1.0, abs=1e-12)
        assert mcnemar_midp(b, c) <= mcnemar_exact(b, c) + 1e-12


class TestTango:
    @given(counts)
    def test_ends_are_where_the_score_statistic_is_critical(self, drawn):
        """Brute force: at each end inside the scale the numerically maximised score statistic is +-1.96."""
        b, c, rest = drawn
        n = b + c + rest
        ends = tango_bounds(b, c, n, level=0.95)
        for end, sign in ((ends.low, 1), (ends.high, -1)):
            if abs(end) < 0.999:
                assert sign * score(b, c, n, end) == pytest.approx(norm.ppf(0.975), abs=2e-3)

    @given(counts, st.floats(1, 4))
    def test_contains_the_estimate_and_widens_with_the_design_effect(self, drawn, deff):
        """Real-valued counts: fewer effective images, a wider interval."""
        b, c, rest = drawn
        n = b + c + rest
        plain, wide = tango_bounds(b, c, n, level=0.95), tango_bounds(b / deff, c / deff, n / deff, level=0.95)
        assert -1 <= wide.low <= plain.low + 1e-9 <= (b - c) / n + 2e-9
        assert (b - c) / n - 2e-9 <= plain.high - 1e-9 <= wide.high <= 1
        swapped = tango_bounds(c, b, n, level=0.95)
        assert (swapped.low, swapped.high) == pytest.approx((-plain.high, -plain.low), abs=1e-9)

    def test_no_discordance_still_has_width(self):
        """Two models that never differ on 50 images are not shown equal: z^2 / (n + z^2) each way."""
        z2 = norm.ppf(0.975) ** 2
        ends = tango_bounds(0, 0, 50, level=0.95)
        assert (ends.low, ends.high) == pytest.approx((-z2 / (50 + z2), z2 / (50 + z2)))

    @pytest.mark.parametrize(("b", "c", "n"), [(3, 3, 5), (-1, 0, 5), (0, 0, 0)])
    def test_impossible_counts_are_refused(self, b, c, n):
        """Discordant images are among the images."""
        with pytest.raises(ValueError):
            tango_bounds(b, c, n, level=0.95)


class TestClusters:
    @pytest.mark.parametrize("seed", range(4))
    def test_the_design_effect_is_that_of_the_differences(self, seed):
        """The cluster-robust variance of the difference (statsmodels) over the simple one, shrunk as in section 2."""
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 4, 90)
        tilt = rng.dirichlet([0.6, 0.8, 4], 90)
        drawn = np.array([rng.multinomial(m, p) for m, p in zip(sizes, tilt, strict=True)])
        b, c = drawn[:, 0], drawn[:, 1]
        y = np.concatenate([np.repeat([1.0, -1.0, 0.0], row) for row in drawn])
        fit = OLS(y, np.ones_like(y)).fit(cov_type="cluster", cov_kwds={"groups": np.repeat(np.arange(90), sizes)})
        d = fit.bse[0] ** 2 / (y.var(ddof=1) / y.size)
        e, s = (b + c > 0).sum(), (sizes**2).sum() / sizes.sum()
        sample = paired_sample(b, c, sizes)
        assert sample.design_effect == pytest.approx(max(1, (e * d + 10 * s) / (e + 10)), rel=1e-9)
        assert sample.difference == pytest.approx(y.mean())
        order = rng.permutation(90)
        assert paired_sample(b[order], c[order], sizes[order]) == sample

    def test_one_image_a_patient_is_the_plain_interval(self):
        """Without clusters the margin is held against Tango's own interval."""
        b, c = np.r_[np.ones(6, int), np.zeros(155, int)], np.r_[np.zeros(6, int), np.ones(16, int), np.zeros(139, int)]
        sample = paired_sample(b, c, np.ones(161, int))
        result = noninferiority(sample, 0.13, level=0.95)
        assert result.bounds == tango_bounds(6, 16, 161, level=0.95)
        assert (sample.design_effect, result.shown) == (1.0, True)
        assert not noninferiority(sample, 0.12, level=0.95).shown

    def test_two_equal_models_on_few_patients_show_nothing(self):
        """No discordant image of 30 pairs: not inferior at ten points perhaps, never at any margin."""
        none, sizes = np.zeros(30, int), np.full(30, 2)
        assert not noninferiority(paired_sample(none, none, sizes), 0.02, level=0.95).shown
        assert noninferiority(paired_sample(none, none, sizes), 0.12, level=0.95).shown

    def test_unknown_patients_halve_the_sample(self):
        """Without a patient column the design effect is 2, corrected for the few patients of so many pairs."""
        ends = noninferiority(paired_sample_unknown(6, 16, 161, images_a_patient=2), 0.02, level=0.95).bounds
        small = 2 * 81 * 160 / (80 * 161)
        assert ends == tango_bounds(6 / small, 16 / small, 161 / small, level=0.95)

    @pytest.mark.parametrize("most", [2, 3, 8])
    @pytest.mark.parametrize("patients", [(1, 0, 3), (2, 5, 20), (0, 30, 60), (1, 1, 2)])
    def test_deleting_the_patients_never_narrows_the_interval(self, patients, most):
        """Images of a patient entirely alike: the interval without the patient column is as wide or wider."""
        b, c, n = patients
        first, second = np.repeat([most, 0, 0], [b, c, n - b - c]), np.repeat([0, most, 0], [b, c, n - b - c])
        known = difference_bounds(paired_sample(first, second, np.full(n, most)), level=0.95)
        sample = paired_sample_unknown(most * b, most * c, most * n, images_a_patient=most)
        unknown = difference_bounds(sample, level=0.95)
        assert unknown.low <= known.low + 1e-9
        assert unknown.high >= known.high - 1e-9

    def test_nothing_declared_shows_nothing(self):
        """Not even that one model is always right where the other is always wrong."""
        sample = paired_sample_unknown(400, 0, 400, images_a_patient=None)
        assert difference_bounds(sample, level=0.95) == Bounds(-1, 1)

    @pytest.mark.parametrize(("patients", "discordant"), [(30, 0.2), (60, 0.2)])
    def test_error_at_the_margin_is_below_nominal(self, patients, discordant):
        """Simulated: a model worse by exactly the margin, alike in both eyes, is passed at most 2.5 % of the time."""
        rng = np.random.default_rng(1)
        share = [(discordant - 0.05) / 2, (discordant + 0.05) / 2, 1 - discordant]
        shown = 0
        for _ in range(800):
            common, own = rng.choice(3, (patients, 1), p=share), rng.choice(3, (patients, 2), p=share)
            outcome = np.where(rng.random((patients, 2)) < 0.8, common, own)
            sample = paired_sample((outcome == 0).sum(axis=1), (outcome == 1).sum(axis=1), np.full(patients, 2))
            shown += noninferiority(sample, 0.05, level=0.95).shown
        assert shown / 800 <= 0.025 + 2 * np.sqrt(0.025 * 0.975 / 800)

    @pytest.mark.parametrize("margin", [0, 1, 2, -0.02])
    def test_a_margin_is_a_positive_fraction(self, margin):
        """Two points are 0.02, not 2."""
        with pytest.raises(ValueError):
            noninferiority(paired_sample_unknown(6, 16, 161, images_a_patient=2), margin, level=0.95)


class TestBootstrap:
    """Pairs of cells, drawn by patient."""

    def drawn(self, seed=1, **changes):
        rng = np.random.default_rng(5)
        first, second, patients = rng.integers(0, 30, 80), rng.integers(0, 30, 80), np.repeat(np.arange(40), 2)
        given = {"first": first, "second": second, "patients": patients} | changes
        return given, resample_pairs(*given.values(), resamples=4000, seed=seed)

    def test_mean_and_variance_are_those_of_drawing_patients(self):
        """Each cell's count has the mean n p and the variance of a sum over patients drawn with replacement."""
        given, tables = self.drawn()
        for cells, drawn in zip((given["first"], given["second"]), tables, strict=True):
            of = np.zeros((40, 30))
            np.add.at(of, (given["patients"], cells), 1)
            assert drawn.mean(axis=0) == pytest.approx(of.sum(axis=0), abs=0.15)
            assert drawn.var(axis=0) == pytest.approx(40 * of.var(axis=0), rel=0.15, abs=0.15)

    def test_both_models_have_the_same_patients(self):
        """A model against itself differs in no replicate."""
        rng = np.random.default_rng(2)
        cells = rng.integers(0, 30, 50)
        one, other = resample_pairs(cells, cells, np.arange(50) // 3, resamples=50, seed=3)
        assert (one == other).all()

    def test_order_and_names_do_not_matter(self):
        """Rows shuffled, patients renamed: the same tables; another seed: others."""
        given, tables = self.drawn()
        order = np.random.default_rng(1).permutation(80)
        _, again = self.drawn(
            first=given["first"][order], second=given["second"][order], patients=900 - 7 * given["patients"][order]
        )
        assert all((one == other).all() for one, other in zip(tables, again, strict=True))
        assert (self.drawn(seed=2)[1][0] != tables[0]).any()

    def test_half_as_many_double_the_variance(self):
        """Patients unknown: half the images in every replicate."""
        cells = np.repeat([0, 7], 50)
        tables = resample_pairs(cells, cells, np.arange(100), resamples=10, seed=1, inflation=2)
        assert (tables[0].sum(axis=1) == 50).all()
