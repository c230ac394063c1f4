"""R computes the same: random effects, likelihood ratios, clustered proportions, calibration and areas under the curve.

The figures are what `Rscript tests/stats/r_oracles.R` prints with R 4.2.2, metafor 3.8-1, epiR 2.0.57, rms 6.5-0,
survey 4.1-1 and pROC 1.18.0 (Debian 12). Each test names the call.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student

from drgate.stats import calibration, cluster, combined, meta, prevalence, ranking
from drgate.stats.cluster import EffectiveSample

TO_1E6 = 1e-6
LEVEL = 0.95

PATIENT = np.repeat(np.arange(45), 1 + np.arange(45) % 3)
ROW = np.arange(len(PATIENT))
SCORE = ((ROW * 37) % 101 + 0.5) / 101
PROBABILITY = 0.05 + 0.9 * SCORE
POSITIVE = ((ROW * 53 + PATIENT * 29) % 97) / 97 < 0.1 + 0.75 * SCORE
RIGHT = ((PATIENT * 29) % 47 > 6) | (ROW % 3 == 0)


def test_rows_are_those_of_r():
    """90 images of 45 patients, made by the same whole numbers in both languages."""
    assert (len(ROW), int(POSITIVE.sum()), int(RIGHT.sum())) == (90, 40, 82)


@pytest.mark.parametrize(
    ("hits", "sizes", "expected"),
    [
        (
            [18, 27, 40, 33, 12],
            [20, 30, 40, 40, 15],
            (0.8639243796, 0.7334975829, 0.9360823529, 0.7089348623, 0.9430170568, 0, 0, 4.773873696, 0.3112960408),
        ),
        (
            [45, 60, 88, 50, 70, 20],
            [50, 80, 90, 75, 72, 21],
            (
                *(0.9026572233, 0.6942108175, 0.9742774715, 0.1905582017, 0.9972696623),
                *(1.450887448, 0.8906216592, 34.99046117, 1.511260329e-06),
            ),
        ),
        ([45] * 5, [50] * 5, (0.9, 0.833674809, 0.9417255754, 0.821465193, 0.9462489843, 0, 0, 0, 1)),
        (
            [30.4, 27.5, 44, 61.2, 18, 33.3, 0],
            [36.5, 30.1, 44, 70.9, 25.7, 40, 12],
            (
                *(0.8158910392, 0.4744572881, 0.9560503524, 0.1394824246, 0.9918139296),
                *(1.233602253, 0.8184991179, 20.14799437, 0.002606300439),
            ),
        ),
    ],
    ids=["alike", "different", "equal", "effective sizes, all and none right"],
)
def test_sites_together(hits: list[float], sizes: list[float], expected: tuple[float, ...]):
    """metafor: escalc("PLO", add=1/2, to="only0"), rma("REML", test="adhoc"), predict(pi.type="riley")."""
    found = meta.random_effects(*meta.logits(hits, sizes), level=LEVEL)
    assert isinstance(found, meta.Pooled)
    assert (
        *(found.value, found.low, found.high, found.new_low, found.new_high),
        *(found.tau2, found.i2, found.q, found.p),
    ) == pytest.approx(expected, abs=TO_1E6)


@pytest.mark.parametrize(
    ("of", "value", "low", "high"),
    [
        (combined.POSITIVE_LIKELIHOOD_RATIO, 4.5, 3.384135034, 6.156836545),
        (combined.NEGATIVE_LIKELIHOOD_RATIO, 0.125, 0.06107909339, 0.221550081),
    ],
    ids=["positive", "negative"],
)
def test_likelihood_ratios(of: combined.Combination, value: float, low: float, high: float):
    """epiR: epi.tests(c(90, 40, 10, 160)) has the values; MOVER's limits are built in R from binom.test."""
    hits, cleared = EffectiveSample(90, 100, 100, 1.0, 100.0), EffectiveSample(160, 200, 200, 1.0, 200.0)
    found = of.estimate(hits, cleared, level=LEVEL, interval="clopper-pearson")
    assert isinstance(found, combined.Combined)
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high), abs=TO_1E6)


def test_predictive_values_at_another_prevalence():
    """epiR's ratios at 5 %, by the odds of disease."""
    expected = 0.1914893617, 0.9934640523
    assert (prevalence.ppv(0.05, 0.9, 0.8), prevalence.npv(0.05, 0.9, 0.8)) == pytest.approx(expected, abs=TO_1E6)
    of_ratios = prevalence.ppv_of_ratio(0.05, 4.5), prevalence.npv_of_ratio(0.05, 0.125)
    assert of_ratios == pytest.approx(expected, abs=TO_1E6)


DEFF = 1.956947524
"""survey: deff(svymean(~right, svydesign(ids = ~patient), deff = "replace"))."""


class TestClusters:
    def test_estimated_design_effect(self):
        """The one that drgate shrinks towards complete correlation (ten patients' worth, with up to three images)."""
        errors = np.bincount(PATIENT, ~RIGHT)
        sizes = np.bincount(PATIENT)
        complete, with_error = (sizes**2).sum() / 90, int((errors > 0).sum())
        found = cluster.effective_sample(np.bincount(PATIENT, RIGHT).astype(int), sizes, level=LEVEL)
        shrunk = (with_error * DEFF + 10 * complete) / (with_error + 10)
        assert found.design_effect == pytest.approx(shrunk, abs=TO_1E6)

    def test_interval_at_the_effective_size(self):
        """survey: svyciprop(~right, method="beta"), Korn and Graubard, at n - 1 over the design effect."""
        worth = 89 / DEFF * (student.ppf(0.975, 89) / student.ppf(0.975, 44)) ** 2
        found = cluster.bounds(EffectiveSample(82, 90, 45, DEFF, worth), level=LEVEL, interval="clopper-pearson")
        assert (found.low, found.high) == pytest.approx((0.7863249585, 0.9756248783), abs=TO_1E6)


class TestCalibration:
    def test_slope(self):
        """rms: val.prob(p, y)["Slope"]; survey: svyglm(y ~ logit), whose variance lacks (n - 1) / (n - 2)."""
        found = calibration.calibration_slope(PROBABILITY, POSITIVE, PATIENT, level=LEVEL)
        assert isinstance(found, calibration.Calibration)
        assert found.value == pytest.approx(0.6022724126, abs=TO_1E6)
        assert found.se == pytest.approx(0.1933531632 * math.sqrt(89 / 88), abs=TO_1E6)

    def test_intercept(self):
        """glm(y ~ offset(logit)); survey: svyglm(y ~ 1 + offset(logit))."""
        found = calibration.calibration_intercept(PROBABILITY, POSITIVE, PATIENT, level=LEVEL)
        assert isinstance(found, calibration.Calibration)
        assert (found.value, found.se) == pytest.approx((-0.2847073946, 0.2530620593), abs=TO_1E6)

    def test_brier_score(self):
        """rms: val.prob(p, y)["Brier"]."""
        found = calibration.brier(PROBABILITY, POSITIVE, PATIENT, level=LEVEL)
        assert isinstance(found, calibration.Calibration)
        assert found.value == pytest.approx(0.2206546417, abs=TO_1E6)


class TestAreas:
    def test_by_image(self):
        """pROC: auc(roc(y, score)) and var(method="delong")."""
        found = ranking.auc_delong(SCORE, POSITIVE, level=LEVEL)
        assert found is not None
        assert (found.value, found.se**2) == pytest.approx((0.716, 0.00313689011), abs=TO_1E6)

    def test_by_patient(self):
        """pROC on each patient's largest score and worst image."""
        most, any_positive = np.zeros(45), np.zeros(45, dtype=bool)
        np.maximum.at(most, PATIENT, SCORE)
        np.logical_or.at(any_positive, PATIENT, POSITIVE)
        found = ranking.auc_delong(most, any_positive, level=LEVEL)
        assert found is not None
        assert (found.value, found.se**2) == pytest.approx((0.5742857143, 0.01126535948), abs=TO_1E6)

    def test_clustered(self):
        """Obuchowski 1997, written out in R."""
        found = ranking.auc_clustered(SCORE, POSITIVE, PATIENT, level=LEVEL)
        assert found is not None
        assert (found.value, found.se**2) == pytest.approx((0.716, 0.002646253966), abs=TO_1E6)
