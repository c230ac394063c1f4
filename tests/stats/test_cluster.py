"""Section 2 of the statistics: patients who bring several images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.api import OLS

from drgate.stats.cluster import EffectiveSample, bounds, effective_sample, unknown_clusters
from drgate.stats.proportion import Bounds, exact_bounds


def low(successes, sizes, *, level=0.95, interval="clopper-pearson", **how):
    sample = effective_sample(np.array(successes), np.array(sizes), level=level, **how)
    return bounds(sample, level=level, interval=interval).low


def of_pairs(patients, single_misses):
    return [1] * single_misses + [2] * (patients - single_misses), [2] * patients


many = st.lists(
    st.tuples(st.integers(1, 20).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m))), st.integers(1, 8)),
    min_size=1,
    max_size=6,
)
"""Kinds of patients, (successes, images), and how many there are of each."""

patients = st.lists(
    st.integers(1, 6).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m))), min_size=1, max_size=40
)
pairs = st.lists(st.sampled_from([(0, 1), (1, 1), (0, 2), (1, 2), (2, 2)]), min_size=1, max_size=60)


class TestPrintedNumbers:
    @pytest.mark.parametrize(("patients", "printed"), [(73, 0.9499), (74, 0.9506)])
    def test_two_images_each_and_no_miss(self, patients, printed):
        """73 patients with two images miss the line of .95, 74 meet it."""
        assert round(low(*of_pairs(patients, 0)), 4) == printed

    @pytest.mark.parametrize(("misses", "printed"), [(3, 0.9547), (4, 0.9496), (5, 0.9447), (6, 0.9398)])
    def test_single_misses_of_130_pairs(self, misses, printed):
        """130 patients with two images and a few single misses."""
        assert round(low(*of_pairs(130, misses)), 4) == printed

    def test_fifty_pairs_without_a_miss(self):
        """100 images of 50 patients, no miss: .927."""
        assert round(low(*of_pairs(50, 0)), 3) == 0.927

    def test_one_image_a_patient_is_the_plain_interval(self):
        """67 of 72 patients give the plain bound, digit for digit."""
        assert low([1] * 67 + [0] * 5, [1] * 72) == exact_bounds(67, 72, level=0.95).low
        assert EffectiveSample(67, 72, 72, 1.0, 72.0) == effective_sample(
            np.array([1] * 67 + [0] * 5), np.ones(72, int), level=0.95
        )


class TestFormula:
    @pytest.mark.parametrize("seed", range(5))
    def test_the_estimated_part_is_the_cluster_robust_variance(self, seed):
        """d is the cluster-robust variance (statsmodels) over the simple one, shrunk to (e d + w s) / (e + w)."""
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 4 + 2 * (seed % 2), 80)
        right = rng.binomial(sizes, rng.beta(8, 2, 80))
        y = np.concatenate([np.r_[np.ones(x), np.zeros(m - x)] for x, m in zip(right, sizes, strict=True)])
        fit = OLS(y, np.ones_like(y)).fit(cov_type="cluster", cov_kwds={"groups": np.repeat(np.arange(80), sizes)})
        n, p, e = y.size, y.mean(), (right < sizes).sum()
        d = fit.bse[0] ** 2 / (p * (1 - p) / (n - 1))
        s = (sizes**2).sum() / n
        sample = effective_sample(right, sizes, level=0.95)
        w = max(10, 7 * (s - 1))
        assert sample.design_effect == pytest.approx(max(1, (e * d + w * s) / (e + w)), rel=1e-9)

    def test_one_patient_with_many_images_sets_a_floor(self):
        """Where the largest patient has over four times the mean, the design effect is at least sum m^2 / n."""
        sizes = np.r_[np.ones(100, int), np.full(10, 20)]
        right = sizes.copy()
        right[:30] = 0
        assert effective_sample(right, sizes, level=0.95).design_effect == pytest.approx((sizes**2).sum() / sizes.sum())

    def test_images_of_a_single_patient_show_nothing(self):
        """One patient says nothing of the variation between patients: the interval is [0, 1]."""
        sample = effective_sample(np.array([9]), np.array([9]), level=0.95)
        ends = bounds(sample, level=0.95, interval="clopper-pearson")
        assert (sample.effective_n, ends.low, ends.high) == (0.0, 0.0, 1.0)

    def test_an_adverse_event_is_guarded_at_the_upper_end(self):
        """The upper bound of a bad event is one minus the lower bound of its absence."""
        events, sizes = np.array([1] * 3 + [0] * 97), np.full(100, 2)
        sample = effective_sample(events, sizes, level=0.95, adverse=True)
        assert sample.k == 3
        upper = bounds(sample, level=0.95, interval="clopper-pearson").high
        assert upper == pytest.approx(1 - low(sizes - events, sizes), abs=1e-12)

    @pytest.mark.parametrize(
        ("successes", "sizes"), [([], []), ([0], [0]), ([3], [2]), ([-1], [2]), ([1, 1], [2]), ([[1]], [[1]])]
    )
    def test_impossible_patients_are_refused(self, successes, sizes):
        """No image at all, or counts out of range, are errors."""
        with pytest.raises(ValueError):
            effective_sample(np.array(successes, dtype=int), np.array(sizes, dtype=int), level=0.95)


class TestLaws:
    @given(patients, st.randoms(use_true_random=False))
    def test_order_of_patients_does_not_matter(self, rows, random):
        """Shuffled patients, patients without an image, and patients grouped by kind give the same digits."""
        x, m = np.array(rows).T
        plain = effective_sample(x, m, level=0.95)
        random.shuffle(rows)
        x, m = np.array([*rows, (0, 0)]).T
        assert effective_sample(x, m, level=0.95) == plain
        kinds, counts = np.unique(np.array(rows), axis=0, return_counts=True)
        assert effective_sample(kinds[:, 0], kinds[:, 1], level=0.95, counts=counts) == plain

    @given(patients, st.sampled_from(["clopper-pearson", "wilson"]), st.sampled_from([0.9, 0.95, 0.99]))
    def test_bounds_contain_the_estimate_and_are_no_narrower_than_plain(self, rows, interval, level):
        """Clusters only ever widen an interval."""
        x, m = np.array(rows).T
        sample = effective_sample(x, m, level=level)
        ends = bounds(sample, level=level, interval=interval)
        plain = bounds(EffectiveSample(sample.k, sample.n, sample.n, 1.0, sample.n), level=level, interval=interval)
        assert sample.design_effect >= 1
        assert sample.effective_n <= sample.n
        assert ends.low - 1e-12 <= sample.k / sample.n <= ends.high + 1e-12
        assert ends.low <= plain.low + 1e-12

    @given(pairs, st.data())
    def test_one_more_error_never_raises_the_bound_of_pairs(self, rows, data):
        """Any image that turns wrong, of any patient with one or two images."""
        turned = [i for i, (x, _) in enumerate(rows) if x > 0]
        if turned:
            x, m = np.array(rows).T
            worse = x.copy()
            worse[data.draw(st.sampled_from(turned))] -= 1
            assert low(worse, m) <= low(x, m) + 1e-12

    @pytest.mark.parametrize("singles", [0, 1, 5, 20])
    @pytest.mark.parametrize("doubles", [1, 2, 7, 12])
    def test_the_same_for_every_state_of_a_design(self, singles, doubles):
        """All states of all-single and all-double patients, exhaustively, at two levels."""
        for level in (0.95, 0.99):
            table = {
                (f, a, b): low(
                    [1] * (singles - f) + [0] * f + [2] * (doubles - a - b) + [1] * a + [0] * b,
                    [1] * singles + [2] * doubles,
                    level=level,
                )
                for f in range(0, singles + 1, max(1, singles // 5))
                for a, b in itertools.product(range(doubles + 1), repeat=2)
                if a + b <= doubles
            }
            for (f, a, b), bound in table.items():
                for worse in ((f, a + 1, b), (f, a - 1, b + 1), (f + max(1, singles // 5), a, b)):
                    assert table.get(worse, 0.0) <= bound + 1e-12

    @pytest.mark.parametrize(
        "sizes",
        [
            [3] * 40,
            [4] * 60,
            [4] * 100,
            [1] * 60 + [2] * 60,
            [1] * 100 + [20] * 10,
            [1] * 60 + [8] * 20,
            [1] * 200 + [20] * 10,
        ],
        ids=lambda sizes: f"{len(sizes)} patients to {max(sizes)}",
    )
    def test_the_same_for_the_unequal_designs_that_were_simulated(self, sizes):
        """From many states of each design of section 2, any one error more never raises the bound."""
        sizes = np.array(sizes)
        rng = np.random.default_rng(len(sizes))
        for sticky in (0, 1, 20):
            errors = np.zeros_like(sizes)
            for _ in range(25):
                before = low(sizes - errors, sizes)
                for m, y in {*zip(sizes.tolist(), errors.tolist(), strict=True)}:
                    if y < m:
                        one = np.flatnonzero((sizes == m) & (errors == y))[0]
                        worse = errors.copy()
                        worse[one] += 1
                        assert low(sizes - worse, sizes) <= before + 1e-12
                chance = (sizes - errors) * (1 + sticky * errors)
                errors[rng.choice(len(sizes), p=chance / chance.sum())] += 1

    @settings(max_examples=150)
    @given(many, st.sampled_from(["clopper-pearson", "wilson"]), st.sampled_from([0.9, 0.95, 0.99, 0.9995]))
    def test_the_same_at_any_sizes(self, kinds, interval, level):
        """Up to twenty images a patient, equal or not: no error more, of any patient, ever raises the bound."""
        x, m = np.repeat(np.array([kind for kind, _ in kinds]), [times for _, times in kinds], axis=0).T
        before = low(x, m, level=level, interval=interval)
        for kind in {kind for kind, _ in kinds if kind[0] > 0}:
            worse = x.copy()
            worse[np.flatnonzero((x == kind[0]) & (m == kind[1]))[0]] -= 1
            assert low(worse, m, level=level, interval=interval) <= before + 1e-12

    @given(many, st.data())
    def test_one_more_bad_event_never_lowers_the_upper_bound(self, kinds, data):
        """The mirrored law, of a rate that must stay below a limit."""
        events, m = np.repeat(np.array([kind for kind, _ in kinds]), [times for _, times in kinds], axis=0).T

        def high(events):
            sample = effective_sample(events, m, level=0.95, adverse=True)
            return bounds(sample, level=0.95, interval="clopper-pearson").high

        free = np.flatnonzero(events < m)
        if free.size:
            worse = events.copy()
            worse[data.draw(st.sampled_from(free.tolist()))] += 1
            assert high(worse) >= high(events) - 1e-12

    @pytest.mark.parametrize(
        "sizes", [(2, 3, 5), (1, 1, 2, 4), (1, 2, 2, 6), (3, 3, 3, 3), (10, 10, 10), (1, 1, 1, 1, 9)]
    )
    def test_the_same_in_every_state_of_few_patients(self, sizes):
        """All combinations of errors, exhaustively."""
        m = np.array(sizes)
        states = {y: low(m - np.array(y), m) for y in itertools.product(*(range(size + 1) for size in sizes))}
        for y, before in states.items():
            for i in range(len(sizes)):
                assert states.get((*y[:i], y[i] + 1, *y[i + 1 :]), 0.0) <= before + 1e-12

    def test_where_a_constant_weight_would_break_it(self):
        """Ten patients with ten images: no error gives .619, the first .609; a weight of ten patients gave .629."""
        sizes = np.full(10, 10)
        first = sizes.copy()
        first[0] -= 1
        assert (round(low(sizes, sizes), 3), round(low(first, sizes), 3)) == (0.619, 0.609)

    def test_where_an_untouched_large_patient_would_break_it(self):
        """Twenty patients with one of two images wrong and one with eight right: its first error does not help."""
        right, sizes = np.array([8] + [1] * 20), np.array([8] + [2] * 20)
        assert low([7] + [1] * 20, sizes) < low(right, sizes)
        assert effective_sample(right, sizes, level=0.95).design_effect == pytest.approx(8 * 21 * 47 / (20 * 48))

    @settings(max_examples=200)
    @given(st.one_of(pairs, patients))
    def test_removing_the_patient_column_never_helps(self, rows):
        """Where the most images of a patient are truly declared, the bound is never above that with the patients."""
        x, m = np.array(rows).T
        for level, interval in itertools.product((0.9, 0.95, 0.99), ("clopper-pearson", "wilson")):
            unknown = unknown_clusters(int(x.sum()), int(m.sum()), images_a_patient=int(m.max()), level=level)
            assert (
                bounds(unknown, level=level, interval=interval).low <= low(x, m, level=level, interval=interval) + 1e-12
            )

    @pytest.mark.parametrize("doubles", [3, 6, 30, 130])
    def test_nor_in_the_worst_of_such_tables(self, doubles):
        """Errors that come in both eyes of a patient, alone and beside a single: the largest estimates there are."""
        for both, single in itertools.product(range(0, doubles + 1, max(1, doubles // 15)), (0, 1)):
            x = [0] * both + [2] * (doubles - both) + [0] * single
            m = [2] * doubles + [1] * single
            unknown = unknown_clusters(sum(x), sum(m), images_a_patient=2, level=0.95)
            assert bounds(unknown, level=0.95, interval="clopper-pearson").low <= low(x, m) + 1e-12

    def test_unknown_patients_do_not_count_as_independent(self):
        """100 images without a miss, two of a patient declared: .926, far from the .964 of independent images."""
        assert (
            round(
                bounds(unknown_clusters(100, 100, images_a_patient=2, level=0.95), level=0.95, interval="wilson").low, 3
            )
            < 0.93
        )
        sample = unknown_clusters(100, 100, images_a_patient=2, level=0.95)
        assert round(bounds(sample, level=0.95, interval="clopper-pearson").low, 3) == 0.926
        assert round(exact_bounds(100, 100, level=0.95).low, 3) == 0.964

    @pytest.mark.parametrize(("n", "most"), [(100, None), (40, 40), (40, 1000), (1, 2)])
    def test_where_all_may_be_one_patients_nothing_is_shown(self, n, most):
        """Nothing is declared, or all images may be of one patient: from 0 to 1."""
        sample = unknown_clusters(n, n, images_a_patient=most, level=0.95)
        assert bounds(sample, level=0.95, interval="clopper-pearson") == Bounds(0.0, 1.0)

    def test_one_image_declared_is_the_plain_interval(self):
        """67 of 72: .8453 (statistics notes, section 2)."""
        sample = unknown_clusters(67, 72, images_a_patient=1, level=0.95)
        assert bounds(sample, level=0.95, interval="clopper-pearson") == exact_bounds(67, 72, level=0.95)
