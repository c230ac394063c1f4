"""Areas under the ROC curve, against scikit-learn and direct sums over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit, ndtri
from sklearn.metrics import roc_auc_score

from drgate.stats.proportion import wilson_bounds
from drgate.stats.ranking import auc_clustered, auc_delong, auc_difference


def sample(seed, patients=60, spread=1.0, separation=1.2):
    """Patients with one to four images whose scores share the patient's own shift; some scores tie."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, patients)
    owner = np.repeat(np.arange(patients), sizes)
    positive = rng.random(owner.size) < np.repeat(rng.beta(1, 1.5, patients), sizes)
    scores = separation * positive + spread * np.repeat(rng.normal(size=patients), sizes) + rng.normal(size=owner.size)
    return np.round(scores, 1), positive, owner


def direct_variance(scores, positive, owner):
    """Obuchowski 1997 by the definition: all pairs, patient by patient."""
    x, y = scores[positive], scores[~positive]
    order = (x[:, None] > y).astype(float) + 0.5 * (x[:, None] == y)
    area, v10, v01 = order.mean(), order.mean(axis=1), order.mean(axis=0)
    everyone = np.unique(owner)
    diseased = [v10[owner[positive] == i] for i in everyone]
    healthy = [v01[owner[~positive] == i] for i in everyone]
    m, n = len(x), len(y)
    total = len(everyone)
    i10, i01 = sum(len(d) > 0 for d in diseased), sum(len(h) > 0 for h in healthy)
    s10 = i10 / ((i10 - 1) * m) * sum((d.sum() - len(d) * area) ** 2 for d in diseased)
    s01 = i01 / ((i01 - 1) * n) * sum((h.sum() - len(h) * area) ** 2 for h in healthy)
    s11 = (
        total
        / (total - 1)
        * sum((d.sum() - len(d) * area) * (h.sum() - len(h) * area) for d, h in zip(diseased, healthy, strict=True))
    )
    return s10 / m + s01 / n + 2 * s11 / (m * n)


class TestValue:
    @pytest.mark.parametrize("seed", range(4))
    def test_scikit_learn_agrees(self, seed):
        """The area with ties counted half."""
        scores, positive, owner = sample(seed)
        expected = roc_auc_score(positive, scores)
        assert auc_delong(scores, positive, level=0.95).value == pytest.approx(expected, abs=1e-12)
        assert auc_clustered(scores, positive, owner, level=0.95).value == pytest.approx(expected, abs=1e-12)

    def test_nobody_positive_or_nobody_negative(self):
        """An area of one kind of image does not exist."""
        for positive in (np.zeros(4, bool), np.ones(4, bool)):
            assert auc_delong(np.arange(4.0), positive, level=0.95) is None
            assert auc_clustered(np.arange(4.0), positive, np.arange(4), level=0.95) is None
            assert auc_difference(np.arange(4.0), np.arange(4.0), positive, level=0.95) is None

    @pytest.mark.parametrize(
        ("scores", "positive"), [([1.0, np.nan], [True, False]), ([1.0], [True, False]), ([1.0, 2.0], [1, 0])]
    )
    def test_bad_input_is_refused(self, scores, positive):
        """NaN scores, arrays of two lengths and labels that are not bool are errors."""
        with pytest.raises(ValueError):
            auc_delong(scores, np.array(positive), level=0.95)


class TestVariance:
    @pytest.mark.parametrize("seed", range(4))
    def test_obuchowski_by_direct_sums(self, seed):
        """The clustered standard error equals the sums over all pairs of the paper."""
        scores, positive, owner = sample(seed)
        expected = np.sqrt(direct_variance(scores, positive, owner))
        assert auc_clustered(scores, positive, owner, level=0.95).se == pytest.approx(expected, rel=1e-10)

    @pytest.mark.parametrize("seed", range(3))
    def test_delong_by_direct_covariances(self, seed):
        """DeLong's standard error from sample variances of the placements; no narrower than its logit interval."""
        scores, positive, _ = sample(seed)
        x, y = scores[positive], scores[~positive]
        order = (x[:, None] > y) + 0.5 * (x[:, None] == y)
        se = np.sqrt(order.mean(axis=1).var(ddof=1) / len(x) + order.mean(axis=0).var(ddof=1) / len(y))
        area = auc_delong(scores, positive, level=0.95)
        assert area.se == pytest.approx(se, rel=1e-10)
        half = ndtri(0.975) * se / (area.value * (1 - area.value))
        low, high = expit(logit(area.value) + np.array([-half, half]))
        assert area.low <= low + 1e-12
        assert area.high >= high - 1e-12

    def test_clustered_is_delong_with_one_image_a_patient(self):
        """Nothing changes where no patient repeats."""
        scores, positive, _ = sample(7)
        plain = auc_delong(scores, positive, level=0.95)
        clustered = auc_clustered(scores, positive, np.arange(scores.size), level=0.95)
        assert clustered.se == pytest.approx(plain.se, rel=1e-12)

    def test_cluster_bootstrap_agrees(self):
        """The standard error of a bootstrap of patients is within a tenth."""
        scores, positive, owner = sample(3, patients=120, spread=1.5)
        rng = np.random.default_rng(0)
        rows = [np.flatnonzero(owner == i) for i in range(120)]
        areas = []
        for _ in range(1500):
            drawn = np.concatenate([rows[i] for i in rng.integers(0, 120, 120)])
            areas.append(auc_delong(scores[drawn], positive[drawn], level=0.95).value)
        se = auc_clustered(scores, positive, owner, level=0.95).se
        assert np.std(areas) == pytest.approx(se, rel=0.1)
        assert auc_delong(scores, positive, level=0.95).se < 0.9 * se

    @given(st.integers(0, 10_000))
    def test_order_of_rows_and_names_of_patients_do_not_matter(self, seed):
        """Shuffled images of renamed patients give the same digits."""
        scores, positive, owner = sample(seed, patients=12)
        rng = np.random.default_rng(seed)
        order, names = rng.permutation(scores.size), rng.permutation(12)
        assert auc_clustered(scores, positive, owner, level=0.95) == auc_clustered(
            scores[order], positive[order], names[owner][order], level=0.95
        )


class TestUnknownPatients:
    def test_a_difference_has_twice_the_variance(self):
        """Of two areas on the same images, two of a patient: a little more than twice, for the few patients."""
        first, positive, _ = sample(5)
        second = first + np.random.default_rng(5).normal(size=first.size)
        plain, inflated = (auc_difference(first, second, positive, level=0.95, images_a_patient=n) for n in (1, 2))
        assert 1.4 * plain.se < inflated.se < 1.6 * plain.se
        assert inflated.low < plain.low < plain.high < inflated.high
        assert auc_difference(first, second, positive, level=0.95, images_a_patient=first.size) is None

    @settings(max_examples=100)
    @given(st.integers(0, 10_000), st.integers(2, 25), st.integers(2, 6), st.booleans(), st.booleans())
    def test_forgetting_the_patients_never_helps(self, seed, patients, most, alike, mixed):
        """So many images a patient, alike or not, of one side or both: no end of the interval moves inwards."""
        generator = np.random.default_rng(seed)
        positive = np.repeat(generator.random(patients) < 0.5, most)
        if mixed:
            positive = generator.random(patients * most) < 0.5
        eyes = (
            np.repeat(generator.normal(size=(patients, 1)), most, axis=1)
            if alike
            else generator.normal(size=(patients, most))
        )
        scores = eyes.ravel() + positive
        known = auc_clustered(scores, positive, np.repeat(np.arange(patients), most), level=0.95)
        unknown = auc_delong(scores, positive, level=0.95, images_a_patient=most)
        assert (known is None) == (unknown is None)
        if known is not None:
            assert unknown.low <= known.low + 1e-12
            assert unknown.high >= known.high - 1e-12


class TestFewPositives:
    def test_a_gate_on_the_area_keeps_its_level(self):
        """True area .90, ten positive images and 300 negative: DeLong alone passes ">= .90" in one of ten samples."""
        generator = np.random.default_rng(3)
        apart = np.sqrt(2) * ndtri(0.9)
        positive = np.arange(310) < 10
        samples = [np.r_[generator.normal(apart, 1, 10), generator.normal(0, 1, 300)] for _ in range(400)]
        assert np.mean([auc_delong(one, positive, level=0.95).low > 0.9 for one in samples]) <= 0.025


class TestCodes:
    def test_names_with_gaps(self):
        """Codes that name nobody, are negative or far apart count as much as dense ones."""
        scores, positive, owner = sample(6)
        expected = auc_clustered(scores, positive, owner, level=0.95)
        for codes in (owner + 7, owner * 2, owner - 1000, owner * 10**9):
            assert auc_clustered(scores, positive, codes, level=0.95) == expected


class TestWithoutVariance:
    def test_perfect_order_is_no_proof(self):
        """With all pairs in order the lower bound stays below 1 and rises with the sample."""
        lows = []
        for n in (1, 10, 100, 1000):
            area = auc_delong(np.r_[np.ones(n), np.zeros(n)], np.arange(2 * n) < n, level=0.95)
            assert (area.value, area.high, area.method) == (1.0, 1.0, "newcombe score")
            lows.append(area.low)
        assert lows == sorted(lows)
        assert lows[1] < 0.9
        assert lows[-1] > 0.99

    def test_one_pair_is_one_trial(self):
        """Newcombe's interval of a single pair is Wilson's of 1 in 1."""
        area = auc_delong([1.0, 0.0], np.array([True, False]), level=0.95)
        assert area.low == pytest.approx(wilson_bounds(1, 1, level=0.95).low)

    def test_repeated_images_of_few_patients_prove_less(self):
        """Where perfect order is of patients with many images, the patients count."""
        scores, positive = np.r_[np.ones(50), np.zeros(50)], np.arange(100) < 50
        few = auc_clustered(scores, positive, np.arange(100) // 10, level=0.95)
        assert few.low == auc_delong(np.r_[np.ones(5), np.zeros(5)], np.arange(10) < 5, level=0.95).low

    def test_constant_scores_rank_nothing(self):
        """All scores equal: area one half with an interval around it."""
        area = auc_delong(np.zeros(40), np.arange(40) < 20, level=0.95)
        assert area.value == 0.5
        assert area.low < 0.4 < 0.6 < area.high


class TestDifference:
    def test_by_direct_covariances(self):
        """Paired DeLong from covariances of the placements of both models."""
        first, positive, _ = sample(1)
        second = first + np.random.default_rng(9).normal(size=first.size)

        def placements(scores):
            x, y = scores[positive], scores[~positive]
            order = (x[:, None] > y) + 0.5 * (x[:, None] == y)
            return order.mean(axis=1), order.mean(axis=0)

        (a10, a01), (b10, b01) = placements(first), placements(second)
        s10, s01 = np.cov(a10, b10), np.cov(a01, b01)
        contrast = np.array([1, -1])
        se = np.sqrt(contrast @ (s10 / len(a10) + s01 / len(a01)) @ contrast)
        result = auc_difference(first, second, positive, level=0.95)
        assert result.se == pytest.approx(se, rel=1e-10)
        assert result.value == pytest.approx(roc_auc_score(positive, first) - roc_auc_score(positive, second))
        assert (result.low, result.high) == pytest.approx(
            (result.value - ndtri(0.975) * se, result.value + ndtri(0.975) * se)
        )

    def test_a_model_does_not_differ_from_itself(self):
        """Zero, without width; and exchanging two models changes the sign only."""
        scores, positive, owner = sample(2)
        same = auc_difference(scores, scores, positive, owner, level=0.95)
        assert (same.value, same.se) == (0.0, 0.0)
        other = np.random.default_rng(1).normal(size=scores.size)
        there, back = (
            auc_difference(*pair, positive, owner, level=0.95) for pair in ((scores, other), (other, scores))
        )
        assert (there.value, there.se) == pytest.approx((-back.value, back.se))
