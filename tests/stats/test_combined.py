"""Likelihood ratios and Youden's index: published intervals, a second library, and false passes counted exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import class_likelihood_ratios
from statsmodels.stats.proportion import confint_proportions_2indep

from drgate.stats.calibration import Undefined
from drgate.stats.cluster import EffectiveSample, effective_sample
from drgate.stats.combined import NEGATIVE_LIKELIHOOD_RATIO, POSITIVE_LIKELIHOOD_RATIO, YOUDEN, Combination, Combined
from drgate.stats.proportion import exact_bounds

RATIOS = {"positive": POSITIVE_LIKELIHOOD_RATIO, "negative": NEGATIVE_LIKELIHOOD_RATIO}


def one_image_per_patient(k: int, n: int) -> EffectiveSample:
    """The plain sample: every image is of another patient."""
    return EffectiveSample(k, n, n, 1.0, float(n))


def found(of: Combination, hits: int, n: int, cleared: int, m: int, interval: str = "clopper-pearson") -> Combined:
    """hits of n images with the grade are right, and cleared of m without."""
    result = of.estimate(
        one_image_per_patient(hits, n), one_image_per_patient(cleared, m), level=0.95, interval=interval
    )
    assert isinstance(result, Combined), result
    return result


class TestYouden:
    @pytest.mark.parametrize(
        ("hits", "n", "cleared", "m", "low", "high"),
        [
            (56, 70, 32, 80, 0.0524, 0.3339),
            (9, 10, 7, 10, 0.1705, 0.8090),
            (10, 10, 20, 20, 0.6791, 1.0),
            (10, 10, 10, 10, 0.6075, 1.0),
            (5, 56, 29, 29, -0.0381, 0.1926),
            (0, 10, 20, 20, -0.1611, 0.2775),
        ],
    )
    def test_is_newcombes_difference(self, hits: int, n: int, cleared: int, m: int, low: float, high: float):
        """With Wilson's limits it is Newcombe's method 10 for two proportions (1998, Statistics in Medicine 17:873)."""
        result = found(YOUDEN, hits, n, cleared, m, "wilson")
        assert result.value == pytest.approx(hits / n + cleared / m - 1)
        assert (result.low, result.high) == pytest.approx((low, high), abs=5e-5)


class TestLikelihoodRatios:
    def test_values_are_those_of_scikit_learn(self):
        """Positive and negative ratio of a two-by-two table: 90 of 100 found, 160 of 200 cleared."""
        truth, said = [1] * 100 + [0] * 200, [1] * 90 + [0] * 10 + [1] * 40 + [0] * 160
        expected = class_likelihood_ratios(truth, said)
        assert [found(of, 90, 100, 160, 200).value for of in RATIOS.values()] == pytest.approx(expected)

    def test_wilson_limits_agree_with_the_score_interval(self):
        """Koopman's example, 36 of 40 against 16 of 80: 2.94 to 7.15; the combined score limits are within 3 %."""
        koopman = confint_proportions_2indep(36, 40, 16, 80, compare="ratio", method="score", correction=False)
        assert koopman == pytest.approx((2.94, 7.15), abs=5e-3)
        result = found(POSITIVE_LIKELIHOOD_RATIO, 36, 40, 64, 80, "wilson")
        assert (result.low, result.high) == pytest.approx(koopman, rel=0.03)

    @pytest.mark.parametrize("of", RATIOS.values(), ids=RATIOS)
    def test_large_samples_give_simels_logarithmic_interval(self, of: Combination):
        """With thousands of images the interval is that of the standard error of the logarithm, to 1 %."""
        hits, n, cleared, m = 7200, 8000, 16000, 20000
        first, second = (hits, m - cleared) if of is POSITIVE_LIKELIHOOD_RATIO else (n - hits, cleared)
        simel = confint_proportions_2indep(first, n, second, m, compare="ratio", method="log", correction=False)
        result = found(of, hits, n, cleared, m)
        assert (result.low, result.high) == pytest.approx(simel, rel=0.01)

    @pytest.mark.parametrize("of", RATIOS.values(), ids=RATIOS)
    @pytest.mark.parametrize(("hits", "cleared"), [(0, 50), (20, 50), (10, 0), (10, 100)])
    def test_an_empty_cell_has_no_ratio(self, of: Combination, hits: int, cleared: int):
        """A rate of 0 or 100 % leaves a cell of the two-by-two table empty; the reason names the rate."""
        result = of.estimate(
            one_image_per_patient(hits, 20), one_image_per_patient(cleared, 100), level=0.95, interval="wilson"
        )
        assert isinstance(result, Undefined)
        empty = {(0, 50): "sensitivity is 0 % (no true positive)", (20, 50): "sensitivity is 100 % (no false negative)"}
        empty |= {
            (10, 0): "specificity is 0 % (no true negative)",
            (10, 100): "specificity is 100 % (no false positive)",
        }
        assert result.reason == f"the {empty[hits, cleared]}, so the ratio's interval cannot be computed"

    def test_one_patient_alone_shows_nothing(self):
        """Images of one patient say nothing about how patients differ: a ratio has no interval then."""
        alone = effective_sample(np.array([3]), np.array([5]), level=0.95)
        result = POSITIVE_LIKELIHOOD_RATIO.estimate(
            alone, one_image_per_patient(50, 100), level=0.95, interval="clopper-pearson"
        )
        assert result == Undefined("the sensitivity has too few patients for a confidence interval")

    def test_resampled_values_are_undefined_where_they_are_infinite(self):
        """A replicate without a false positive has no positive likelihood ratio; one without a miss has one."""
        values, defined = POSITIVE_LIKELIHOOD_RATIO.values([0.8, 0.8, 1.0], [0.9, 1.0, 0.5])
        assert defined.tolist() == [True, False, True]
        assert values == pytest.approx([8.0, 0.0, 2.0])


@pytest.mark.parametrize("of", [*RATIOS.values(), YOUDEN], ids=[*RATIOS, "youden"])
class TestBounds:
    def test_shared_patients_widen_the_interval(self, of: Combination):
        """Where patients bring an image to either rate, their errors may be alike: up to the plain sum of distances."""
        first, second = one_image_per_patient(80, 100), one_image_per_patient(90, 100)
        apart, half, all_ = (
            of.estimate(first, second, level=0.95, interval="clopper-pearson", shared=shared) for shared in (0, 50, 100)
        )
        assert all_.low < half.low < apart.low < apart.value < apart.high < half.high < all_.high
        if of is YOUDEN:
            ends = exact_bounds(80, 100, level=0.95).low + exact_bounds(90, 100, level=0.95).low - 1
            assert all_.low == pytest.approx(ends)

    @pytest.mark.parametrize(("n", "m"), [(10, 60), (20, 20), (36, 200), (150, 60)])
    def test_false_passes_stay_below_the_level(self, of: Combination, n: int, m: int):
        """The chance that the deciding bound passes a model exactly at the threshold, summed over all outcomes, is at
        most 2.5 %."""
        k, j = np.arange(n + 1), np.arange(m + 1)
        bound = np.full((n + 1, m + 1), np.nan)
        for hits in k:
            for cleared in j:
                result = of.estimate(
                    one_image_per_patient(int(hits), n),
                    one_image_per_patient(int(cleared), m),
                    level=0.95,
                    interval="clopper-pearson",
                )
                if isinstance(result, Combined):
                    bound[hits, cleared] = -result.high if of is NEGATIVE_LIKELIHOOD_RATIO else result.low
        for sensitivity in (0.3, 0.6, 0.8, 0.9, 0.97):
            for specificity in (0.3, 0.6, 0.8, 0.9, 0.97):
                truth = float(of.values(sensitivity, specificity)[0])
                limit = -truth if of is NEGATIVE_LIKELIHOOD_RATIO else truth
                chance = np.outer(binom.pmf(k, n, sensitivity), binom.pmf(j, m, specificity))
                assert chance[bound >= limit + 1e-12].sum() <= 0.025

    def test_false_passes_stay_below_the_level_where_patients_bring_two_images(self, of: Combination):
        """100 patients with an eye with the grade and one without, alike in half of them, and 60 with one eye."""
        generator = np.random.default_rng(11)
        sensitivity, specificity, passed = 0.85, 0.9, 0
        truth = float(of.values(sensitivity, specificity)[0])
        draws = 2000
        for _ in range(draws):
            common = generator.random((160, 1))
            alike = generator.random((160, 1)) < 0.5
            luck = np.where(alike, common, generator.random((160, 2)))
            right = luck < [sensitivity, specificity]
            first = effective_sample(right[:, 0].astype(int), np.ones(160, dtype=int), level=0.95)
            second = effective_sample(right[:100, 1].astype(int), np.ones(100, dtype=int), level=0.95)
            result = of.estimate(first, second, level=0.95, interval="clopper-pearson", shared=100)
            if isinstance(result, Combined):
                passed += result.high <= truth if of is NEGATIVE_LIKELIHOOD_RATIO else result.low >= truth
        assert passed / draws <= 0.025 + 2 * math.sqrt(0.025 * 0.975 / draws)

    @given(data=st.data(), interval=st.sampled_from(["clopper-pearson", "wilson"]))
    def test_an_error_more_never_improves_the_deciding_limit(self, of: Combination, data: st.DataObject, interval: str):
        """Small sets of patients with up to eight images on each side; one correct answer is made wrong."""
        images = st.tuples(*[st.integers(0, 8)] * 2)
        patients = data.draw(st.lists(images, min_size=2, max_size=20).filter(lambda all_: np.all(np.sum(all_, 0) > 0)))
        sizes = np.array(patients).T
        right = np.array([[data.draw(st.integers(0, size)) for size in side] for side in sizes.tolist()])
        changed = data.draw(st.sampled_from([*zip(*np.nonzero(right), strict=True)] or [None]))
        if changed is None:
            return

        def limit(right: np.ndarray) -> float | None:
            first, second = (effective_sample(k, n, level=0.95) for k, n in zip(right, sizes, strict=True))
            shared = int((sizes[0] * sizes[1]).sum())
            result = of.estimate(first, second, level=0.95, interval=interval, shared=shared)
            if isinstance(result, Undefined):
                return None
            return -result.high if of is NEGATIVE_LIKELIHOOD_RATIO else result.low

        before = limit(right)
        right[changed] -= 1
        after = limit(right)
        if before is not None and after is not None:
            assert after <= before + 1e-12 * abs(before)
