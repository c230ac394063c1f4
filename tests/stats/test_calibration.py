"""Calibration, against statsmodels, scikit-learn, brute-force bootstraps and models that are calibrated by making."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import t as student
from sklearn.metrics import brier_score_loss

from drgate.stats.bootstrap import BootstrapInterval
from drgate.stats.calibration import (
    BOOTSTRAP_IMAGES,
    EPSILON,
    Undefined,
    brier,
    calibration_bootstrap,
    calibration_error,
    calibration_intercept,
    calibration_slope,
    reliability,
)
from drgate.stats.cluster import bounds, unknown_clusters
from drgate.stats.proportion import exact_bounds

FIGURES = (brier, calibration_slope, calibration_intercept)


def endpoint(seed, patients=80, slope=0.7, intercept=0.3):
    """Probabilities of a positive image, labels and patients with one to three images that share a shift."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    x = np.round(rng.normal(size=owner.size) * 1.5 - 0.5, 1)
    positive = rng.random(owner.size) < expit(intercept + slope * x + rng.normal(size=patients)[owner])
    return expit(x), positive, owner


def by_statsmodels(p, positive, owner, *, joint):
    x = logit(p)
    design, offset = (sm.add_constant(x), None) if joint else (np.ones((x.size, 1)), x)
    model = sm.GLM(positive.astype(float), design, offset=offset, family=sm.families.Binomial())
    fitted = model.fit(cov_type="cluster", cov_kwds={"groups": owner})
    return fitted.params[-1], fitted.bse[-1]


class TestBrier:
    def test_of_an_endpoint(self):
        """Mean squared distance, as scikit-learn has it; standard error as OLS with clusters has that of a mean."""
        p, positive, owner = endpoint(0)
        found = brier(p, positive, owner, level=0.95)
        assert found.value == pytest.approx(brier_score_loss(positive, p))
        losses = (p - positive) ** 2
        mean = sm.OLS(losses, np.ones_like(losses)).fit(cov_type="cluster", cov_kwds={"groups": owner})
        assert found.se == pytest.approx(mean.bse[0])
        assert found.clusters == 80

    def test_of_grades(self):
        """The sum over the classes, 0 to 2, as scikit-learn has it; two classes count an endpoint twice."""
        rng = np.random.default_rng(1)
        p, grade = rng.dirichlet(np.full(5, 0.4), 150), rng.integers(0, 5, 150)
        expected = brier_score_loss(grade, p, labels=range(5), scale_by_half=False)
        assert brier(p, grade, level=0.95).value == pytest.approx(expected)
        one, positive, owner = endpoint(1)
        twice = brier(np.stack([1 - one, one], axis=1), positive.astype(int), owner, level=0.95)
        once = brier(one, positive, owner, level=0.95)
        assert (twice.value, twice.se, twice.low, twice.high) == pytest.approx(
            (2 * once.value, 2 * once.se, 2 * once.low, 2 * once.high)
        )

    def test_patients_drawn_again(self):
        """The standard error is that of a bootstrap of patients, within a tenth."""
        p, positive, owner = endpoint(2, patients=200)
        rng = np.random.default_rng(0)
        losses, sizes = np.bincount(owner, weights=(p - positive) ** 2), np.bincount(owner)
        drawn = rng.integers(0, 200, (3000, 200))
        means = losses[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
        assert brier(p, positive, owner, level=0.95).se == pytest.approx(means.std(), rel=0.1)

    def test_a_large_sample_is_normal(self):
        """With many images both ends are the familiar 1.96 standard errors away."""
        rng = np.random.default_rng(3)
        p = rng.beta(2, 5, 40_000)
        found = brier(p, rng.random(p.size) < p, np.arange(p.size), level=0.95)
        assert (found.low, found.high) == pytest.approx(
            (found.value - 1.96 * found.se, found.value + 1.96 * found.se), abs=0.05 * found.se
        )

    @pytest.mark.parametrize("certainty", [1.0, 0.9999])
    def test_certain_and_never_wrong_is_no_proof(self, certainty):
        """Such a model has the upper bound of its error rate: 60 images without an error leave room for .06."""
        positive = np.arange(60) < 20
        found = brier(np.where(positive, certainty, 1 - certainty), positive, np.arange(60), level=0.95)
        assert found.value == pytest.approx(0, abs=1e-7)
        assert found.low <= found.value
        assert found.high == pytest.approx(exact_bounds(0, 60, level=0.95).high, rel=0.08)
        unknown = brier(np.where(positive, certainty, 1 - certainty), positive, level=0.95, images_a_patient=2)
        pairs = bounds(unknown_clusters(0, 60, images_a_patient=2, level=0.95), level=0.95, interval="clopper-pearson")
        assert unknown.high == pytest.approx(pairs.high, rel=0.08)

    def test_error_of_the_upper_bound(self):
        """A sure model, wrong one time in thirty: the truth lies above one time in forty (Wald: one in five)."""
        rng = np.random.default_rng(4)
        wrong = rng.random((500, 100)) < 1 / 30
        truth = 0.998**2 / 30 + 0.002**2 - 0.002**2 / 30
        p = np.full(100, 0.998)
        found = [brier(p, ~row, np.arange(100), level=0.95) for row in wrong]
        assert np.mean([one.high < truth for one in found]) <= 0.025
        assert np.mean([one.value + 1.96 * one.se < truth for one in found]) > 0.1


class TestSlopeAndIntercept:
    @pytest.mark.parametrize("seed", range(4))
    def test_statsmodels_agrees(self, seed):
        """Joint fit for the slope, slope held at 1 for the intercept; limits no narrower than by its plain sandwich."""
        p, positive, owner = endpoint(seed)
        for figure, joint in ((calibration_slope, True), (calibration_intercept, False)):
            found = figure(p, positive, owner, level=0.95)
            value, se = by_statsmodels(p, positive, owner, joint=joint)
            assert found.value == pytest.approx(value, rel=1e-6)
            assert found.se == pytest.approx(se, rel=0.02)
            half = student.ppf(0.975, 79) * se
            assert found.low < value - half < value + half < found.high

    def test_patients_left_out(self):
        """Standard error and degrees of freedom are those of statsmodels' first step without each patient."""
        p, positive, owner = endpoint(20, patients=40)
        x = logit(p)
        for figure, joint in ((calibration_slope, True), (calibration_intercept, False)):
            found = figure(p, positive, owner, level=0.95)
            start = (
                [
                    sm.GLM(positive.astype(float), sm.add_constant(x), family=sm.families.Binomial()).fit().params[0],
                    found.value,
                ]
                if joint
                else [found.value]
            )
            squares = []
            for patient in range(40):
                kept = owner != patient
                design = sm.add_constant(x[kept]) if joint else np.ones((kept.sum(), 1))
                model = sm.GLM(
                    positive[kept].astype(float),
                    design,
                    offset=None if joint else x[kept],
                    family=sm.families.Binomial(),
                )
                squares.append((model.fit(start_params=start, maxiter=1).params[-1] - found.value) ** 2)
            total = np.sum(squares)
            assert found.se == pytest.approx(np.sqrt(total * 39 / 40), rel=1e-6)
            half = student.ppf(0.975, total**2 / np.sum(np.square(squares)) - 1) * found.se * (1 - 1e-6)
            assert found.low <= found.value - half < found.value + half <= found.high

    def test_few_patients_carry_the_variance(self):
        """One patient with a third of the images: the limits are wider than by t with patients - 1."""
        p, positive, owner = endpoint(20)
        owner = np.where(np.arange(p.size) < p.size // 3, 0, owner)
        for figure in (calibration_slope, calibration_intercept):
            found = figure(p, positive, owner, level=0.95)
            assert found.high - found.value > 1.2 * student.ppf(0.975, found.clusters - 1) * found.se

    def test_images_three_times(self):
        """Every image three times is no news: the same limits."""
        p, positive, _ = endpoint(22)
        owner = np.arange(p.size)
        for figure in (calibration_slope, calibration_intercept):
            once, thrice = (
                figure(np.repeat(p, m), np.repeat(positive, m), np.repeat(owner, m), level=0.95) for m in (1, 3)
            )
            assert (thrice.se, thrice.low, thrice.high) == pytest.approx((once.se, once.low, once.high), rel=1e-6)

    def test_patients_who_have_not_shown_themselves(self):
        """Several images a patient, as independent as can be: the limits leave room for patients who are alike."""
        rng = np.random.default_rng(23)
        x = rng.normal(size=600)
        positive = rng.random(600) < expit(x)
        for figure in (calibration_slope, calibration_intercept):
            apart, together = (figure(expit(x), positive, np.arange(600) // m, level=0.95) for m in (1, 20))
            assert together.high - together.low > 1.4 * (apart.high - apart.low)

    def test_limits_of_the_intercept_in_images(self):
        """The expected positive images at a limit are at least t standard errors away on their own scale."""
        rng = np.random.default_rng(24)
        x = rng.normal(-3, 1, 400)
        positive = rng.random(400) < expit(x)
        found = calibration_intercept(expit(x), positive, np.arange(400), level=0.95)
        chance = expit(found.value + x)
        images = 1.96 * found.se * (chance * (1 - chance)).sum()
        assert expit(found.low + x).sum() < positive.sum() - images
        assert expit(found.high + x).sum() > positive.sum() + images
        assert found.value - found.low > 1.02 * (found.high - found.value)

    def test_no_variance(self):
        """Patients whose images cancel out, and one whose images alone decide, have no limits: nothing can pass."""
        both, pairs = np.tile([False, True], 50), np.repeat(np.arange(50), 2)
        assert "no variance" in calibration_intercept(np.full(100, 0.5), both, pairs, level=0.95).reason
        fours = np.repeat(np.arange(25), 4)
        alone = np.where(fours == 0, np.tile([0.2, 0.8, 0.2, 0.8], 25), 0.5)
        cross = np.tile([False, True, False, False, True], 20)
        assert "one patient" in calibration_slope(alone, cross, fours, level=0.95).reason

    def test_what_they_say(self):
        """A model calibrated by making has slope 1 and intercept 0; logits doubled halve the slope; odds shift a."""
        rng = np.random.default_rng(5)
        x = rng.normal(size=60_000)
        positive = rng.random(x.size) < expit(x)
        everyone = np.arange(x.size)
        for figure, right in ((calibration_slope, 1), (calibration_intercept, 0)):
            found = figure(expit(x), positive, everyone, level=0.999)
            assert found.low < right < found.high
        assert calibration_slope(expit(2 * x), positive, everyone, level=0.95).value == pytest.approx(0.5, abs=0.02)
        shifted = calibration_intercept(expit(x - 1), positive, everyone, level=0.95)
        assert shifted.value == pytest.approx(1, abs=0.05)

    def test_unknown_patients_double_the_variance(self):
        """Nobody says whose the images are: the variance of pairs entirely alike, and no number of patients."""
        p, positive, _ = endpoint(6)
        n = p.size
        pairs = 2 * (n / 2) / (n / 2 - 1) * (n - 1) / n
        for figure in FIGURES:
            apart = figure(p, positive, np.arange(p.size), level=0.95)
            unknown = figure(p, positive, level=0.95, images_a_patient=2)
            assert unknown.value == apart.value
            assert unknown.se == pytest.approx(np.sqrt(pairs) * apart.se)
            assert unknown.low < apart.low
            assert (unknown.clusters, apart.clusters) == (None, p.size)

    @settings(max_examples=40)
    @given(st.integers(0, 10_000), st.integers(200, 300), st.integers(2, 5))
    def test_forgetting_patients_does_not_help(self, seed, patients, most):
        """From 200 patients, as few as can decide, truly declared: no limit moves inwards."""
        rng = np.random.default_rng(seed)
        owner = np.repeat(np.arange(patients), rng.integers(1, most + 1, patients))
        x = rng.normal(size=owner.size) * 1.5
        shift = rng.normal(size=patients)[owner] * rng.choice([0, 1, 3])
        positive = rng.random(owner.size) < expit(x + shift)
        for figure in (calibration_slope, calibration_intercept):
            known = figure(expit(x), positive, owner, level=0.95)
            unknown = figure(expit(x), positive, level=0.95, images_a_patient=most)
            assert unknown.low <= known.low
            assert known.high <= unknown.high

    def test_a_saturated_model(self):
        """Probabilities of 0 and 1 are taken for EPSILON from there, and the fit still ends."""
        rng = np.random.default_rng(7)
        p = (rng.random(400) < 0.4).astype(float)
        positive = np.where(rng.random(400) < 0.1, 1 - p, p) > 0.5
        wrong = positive != (p > 0.5)
        high, low = (logit(1 - wrong[p == side].mean()) for side in (1, 0))
        found = calibration_slope(p, positive, np.arange(400), level=0.95)
        assert found.value == pytest.approx((high + low) / (2 * logit(1 - EPSILON)))
        assert isinstance(calibration_intercept(p, positive, np.arange(400), level=0.95).value, float)

    def test_no_slope_fits(self):
        """Separated labels, equal probabilities, one kind of label and one patient: undefined, with the reason."""
        up, positive = np.linspace(0.1, 0.9, 20), np.arange(20) >= 10
        everyone = np.arange(20)
        for scores in (up, up[::-1], np.where(positive, 0.7, 0.2), np.where(everyone < 9, 0.2, 0.7)):
            assert "separate" in calibration_slope(scores, positive, everyone, level=0.95).reason
        assert "are equal" in calibration_slope(np.full(20, 0.3), positive, everyone, level=0.95).reason
        assert "are equal" in calibration_slope(0.3 + 1e-15 * (everyone % 3), positive, everyone, level=0.95).reason
        for figure in (calibration_slope, calibration_intercept):
            assert "positive and negative" in figure(up, np.ones(20, bool), everyone, level=0.95).reason
            assert "two patients" in figure(up, everyone % 2 > 0, np.zeros(20, int), level=0.95).reason
        assert calibration_intercept(up, positive, everyone, level=0.95).value == pytest.approx(0, abs=1e-9)

    def test_nearly_separated(self):
        """One image out of order, far from 1: the fit ends where statsmodels ends."""
        p, positive = np.linspace(0.48, 0.52, 40), np.arange(40) >= 20
        positive[[18, 21]] = [True, False]
        found = calibration_slope(p, positive, np.arange(40), level=0.95)
        assert found.value == pytest.approx(by_statsmodels(p, positive, np.arange(40), joint=True)[0], rel=1e-5)


class TestBootstrap:
    def test_patients_drawn_again(self):
        """The interval by weights is that of refitting the images of drawn patients (statsmodels)."""
        p, positive, owner = endpoint(8, patients=60)
        slope, intercept = calibration_bootstrap(p, positive, owner, level=0.9, seed=1, resamples=1000)
        rng = np.random.default_rng(0)
        rows = [np.flatnonzero(owner == i) for i in range(60)]
        refitted = []
        for _ in range(150):
            at = np.concatenate([rows[i] for i in rng.integers(0, 60, 60)])
            refitted.append(
                [by_statsmodels(p[at], positive[at], np.arange(at.size), joint=joint)[0] for joint in (True, False)]
            )
        for found, values in zip((slope, intercept), np.transpose(refitted), strict=True):
            middle, half = (found.high + found.low) / 2, (found.high - found.low) / 2
            assert middle == pytest.approx(values.mean(), abs=0.25 * values.std())
            assert half == pytest.approx(1.645 * values.std(), rel=0.15)

    def test_near_the_sandwich(self):
        """With many patients both intervals agree."""
        p, positive, owner = endpoint(9, patients=1500)
        for found, figure in zip(
            calibration_bootstrap(p, positive, owner, level=0.95, seed=2),
            (calibration_slope, calibration_intercept),
            strict=True,
        ):
            expected = figure(p, positive, owner, level=0.95)
            assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.3 * 2 * expected.se)

    @settings(max_examples=10)
    @given(st.integers(0, 10_000))
    def test_order_of_rows_and_names_of_patients_do_not_matter(self, seed):
        """Shuffled images of renamed patients give the same digits; another seed gives others."""
        p, positive, owner = endpoint(seed, patients=25)
        rng = np.random.default_rng(seed)
        order, names = rng.permutation(p.size), rng.permutation(25)
        found = calibration_bootstrap(p, positive, owner, level=0.95, seed=3, resamples=40)
        assert found == calibration_bootstrap(
            p[order], positive[order], names[owner][order], level=0.95, seed=3, resamples=40
        )
        assert found != calibration_bootstrap(p, positive, owner, level=0.95, seed=4, resamples=40)

    def test_undefined_replicates_are_counted(self):
        """A replicate without an overlap has no slope; where none has, there is no interval."""
        p, positive = np.linspace(0.1, 0.9, 12), np.arange(12) >= 6
        positive[[4, 7]] = [True, False]
        slope, intercept = calibration_bootstrap(p, positive, np.arange(12), level=0.95, seed=5)
        assert 0 < slope.undefined < 200
        assert isinstance(intercept, BootstrapInterval)
        slope, _ = calibration_bootstrap(p, p > 0.5, np.arange(12), level=0.95, seed=5)
        assert slope is None

    def test_where_it_is_not_offered(self):
        """Beyond its limit of images, and for a single patient."""
        many = np.full(BOOTSTRAP_IMAGES + 1, 0.5)
        found = calibration_bootstrap(many, many > 0, np.arange(many.size), level=0.95, seed=6)
        assert "20,000" in found.reason
        found = calibration_bootstrap([0.1, 0.2], np.array([True, False]), np.array([1, 1]), level=0.95, seed=6)
        assert "two patients" in found.reason


class TestCalibrationError:
    def test_by_hand(self):
        """Two bins of two: |.1 + .3 - 1| and |.6 + .8 - 1| over four images."""
        found = calibration_error([0.1, 0.3, 0.6, 0.8], np.array([False, True, False, True]), bins=2)
        assert found.value == pytest.approx((0.6 + 0.4) / 4)
        assert found.bins == 2

    def test_a_perfect_model_shows_049(self):
        """At 200 images, ten bins and a third of images referable: why nothing is decided on it."""
        rng = np.random.default_rng(10)
        shown = []
        for _ in range(40):
            p = rng.beta(0.3, 0.7, 200)
            found = calibration_error(p, rng.random(200) < p)
            shown.append((found.value, found.expected))
        assert np.mean(shown, axis=0) == pytest.approx(0.049, abs=0.003)

    def test_expected_of_a_single_bin(self):
        """One bin of n coins: the mean absolute deviation of a binomial, by de Moivre."""
        n = 50
        expected = np.abs(np.arange(n + 1) - n / 2) @ np.array([float(v) for v in _binomial(n)]) / n
        found = calibration_error(np.full(n, 0.5), np.arange(n) < 25)
        assert found.bins == 1
        assert found.expected == pytest.approx(expected, rel=0.06)

    def test_nothing_to_show(self):
        """Without an image it does not exist."""
        assert isinstance(calibration_error([], np.array([], dtype=bool)), Undefined)


def _binomial(n):
    row = [1]
    for _ in range(n):
        row = [a + b for a, b in zip([0, *row], [*row, 0], strict=True)]
    return [value / 2**n for value in row]


class TestReliability:
    def test_bins(self):
        """Equal mass, from the lowest probability up; every image in one bin, equal probabilities in the same."""
        p, positive, owner = endpoint(11, patients=150)
        found = reliability(p, positive, owner, level=0.95)
        assert sum(one.n for one in found) == p.size
        for one in found:
            inside = (p >= one.low) & (p <= one.high)
            assert one.n == inside.sum()
            assert one.predicted == pytest.approx(p[inside].mean())
            assert one.observed == pytest.approx(positive[inside].mean())
            assert one.observed_low <= one.observed <= one.observed_high
        assert all(one.high < after.low for one, after in itertools.pairwise(found))
        error = calibration_error(p, positive)
        assert error.bins == len(found)
        assert error.value == pytest.approx(sum(b.n * abs(b.observed - b.predicted) for b in found) / p.size)

    def test_intervals(self):
        """A patient each: Clopper-Pearson; unknown patients: at design effect 2; pairs entirely alike: wider too."""
        rng = np.random.default_rng(12)
        p = rng.random(300)
        positive = rng.random(300) < p
        apart, unknown = (
            reliability(p, positive, np.arange(300), level=0.95),
            reliability(p, positive, level=0.95, images_a_patient=2),
        )
        for one, other in zip(apart, unknown, strict=True):
            k = round(one.observed * one.n)
            plain = exact_bounds(k, one.n, level=0.95)
            pairs = bounds(
                unknown_clusters(k, one.n, images_a_patient=2, level=0.95), level=0.95, interval="clopper-pearson"
            )
            assert (one.observed_low, one.observed_high) == pytest.approx((plain.low, plain.high))
            assert (other.observed_low, other.observed_high) == pytest.approx((pairs.low, pairs.high))
        alike = reliability(np.repeat(p, 2), np.repeat(positive, 2), np.repeat(np.arange(300), 2), level=0.95)
        for one, other in zip(apart, alike, strict=True):
            assert (one.observed_low, one.observed_high) == pytest.approx(
                (other.observed_low, other.observed_high), abs=0.02
            )

    def test_no_image_no_bin(self):
        """An empty diagram is empty."""
        assert reliability([], np.array([], dtype=bool), level=0.95) == ()


class TestLaws:
    @settings(max_examples=20)
    @given(st.integers(0, 10_000))
    def test_order_of_rows_and_names_of_patients_do_not_matter(self, seed):
        """Shuffled images of renamed patients give the same digits, whatever the gaps between the names."""
        p, positive, owner = endpoint(seed, patients=25)
        rng = np.random.default_rng(seed)
        order, names = rng.permutation(p.size), rng.permutation(25) * 10**6 - 5
        there, back = (p, positive, owner), (p[order], positive[order], names[owner][order])
        for figure in (*FIGURES, reliability):
            assert figure(*there, level=0.95) == figure(*back, level=0.95)
        assert calibration_error(*there[:2]) == calibration_error(*back[:2])

    @given(st.integers(0, 10_000), st.floats(0.5, 0.99))
    def test_a_higher_level_is_wider(self, seed, level):
        """Every interval grows with its level and holds its value."""
        p, positive, owner = endpoint(seed, patients=25)
        for figure in FIGURES:
            narrow, wide = (figure(p, positive, owner, level=one) for one in (level, (1 + level) / 2))
            assert wide.low <= narrow.low <= narrow.value <= narrow.high <= wide.high

    @pytest.mark.parametrize(
        ("p", "positive", "patients"),
        [
            ([0.1, 1.1], [True, False], [0, 1]),
            ([0.1, np.nan], [True, False], [0, 1]),
            ([0.1, 0.2], [1, 0], [0, 1]),
            ([0.1], [True, False], [0, 1]),
            ([0.1, 0.2], [True, False], [0]),
            ([0.1, 0.2], [True, False], [0.5, 1.0]),
        ],
    )
    def test_bad_input_is_refused(self, p, positive, patients):
        """Probabilities outside [0, 1], labels that are not bool, lengths that differ, codes that are not integers."""
        for figure in (*FIGURES, reliability):
            with pytest.raises(ValueError):
                figure(p, np.array(positive), patients, level=0.95)
        with pytest.raises(ValueError, match="class"):
            brier(np.full((2, 5), 0.2), np.array([0.0, 1.0]), level=0.95)
        with pytest.raises(ValueError, match="Classes"):
            brier(np.full((2, 5), 0.2), np.array([0, 5]), level=0.95)


def test_probabilities_of_nothing_but_0_and_1_are_no_defect_of_the_program():
    """Without curvature the fit ends undefined, and no warning is raised on the way."""
    certain = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1e-9])
    undefined = calibration_intercept(certain, np.arange(8) != 2, level=0.95)
    assert undefined == Undefined("the fit did not converge")
