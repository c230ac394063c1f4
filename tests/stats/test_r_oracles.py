"""R computes the same: random effects, likelihood ratios, clustered proportions, calibration and areas under the curve.

The figures are what `Rscript tests/stats/r_oracles.R` prints with R 4.2.2, metafor 3.8-1, epiR 2.0.57, rms 6.5-0,
survey 4.1-1, pROC 1.18.0 and sandwich 3.0-2 (Debian 12). Each test names the call.
"""

from __future__ import annotations

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
            (
                *(0.9131887506, 0.7363812418, 0.996527077, 0.389475315, 1),
                *(0.02780207951, 0.7575955738, 18.59132976, 0.0009453626394),
            ),
        ),
        (
            [45, 60, 88, 50, 70, 20],
            [50, 80, 90, 75, 72, 21],
            (
                *(0.8910303309, 0.7298249181, 0.9841496791, 0.3805571894, 1),
                *(0.03540169597, 0.8992608657, 56.3942987, 6.740576582e-11),
            ),
        ),
        ([45] * 5, [50] * 5, (0.9, 0.8414398772, 0.9462579467, 0.8319491492, 0.9519007408, 0, 0, 0, 1)),
        (
            [30.4, 27.5, 44, 61.2, 18, 33.3, 0],
            [36.5, 30.1, 44, 70.9, 25.7, 40, 12],
            (
                *(0.7575311138, 0.3252776148, 0.9956728391, 0, 1),
                *(0.2188315805, 0.9690230252, 98.71661782, 4.647745137e-19),
            ),
        ),
        (
            [20, 30, 25, 33, 20],
            [20, 30, 30, 33, 20],
            (
                *(0.9923895216, 0.8963918814, 1, 0.5999030837, 1),
                *(0.02775086138, 0.7449723403, 16.43500159, 0.002487699582),
            ),
        ),
    ],
    ids=["five", "six", "equal", "effective sizes, all and none right", "beyond all"],
)
def test_sites_together(hits: list[float], sizes: list[float], expected: tuple[float, ...]):
    """metafor: escalc("PAS"), rma("REML", test="adhoc"), predict(pi.type="riley", transf=transf.iarcsin)."""
    found = meta.random_effects(*meta.arcsines(hits, sizes), level=LEVEL)
    assert isinstance(found, meta.Pooled)
    ends = map(meta.proportion, (found.value, found.low, found.high, found.new_low, found.new_high))
    assert (*ends, found.tau2, found.i2, found.q, found.p) == pytest.approx(expected, abs=TO_1E6)


@pytest.mark.parametrize(
    ("hits", "tau2"),
    [([19, 20, 20, 17, 20, 20, 20, 20], 0.2846990181), ([20, 19, 19, 20, 16, 20, 19, 19], 0.3274724727)],
)
def test_full_steps_that_go_to_and_fro(hits: list[int], tau2: float):
    """metafor does not converge on these logits unless its steps are halved (control=list(stepadj=0.5))."""
    x = np.array(hits) + np.where(np.array(hits) == 20, 0.5, 0.0)
    rest = np.where(np.array(hits) == 20, 0.5, 20 - x)
    found = meta.random_effects(np.log(x / rest), 1 / x + 1 / rest, level=LEVEL)
    assert isinstance(found, meta.Pooled)
    assert found.tau2 == pytest.approx(tau2, abs=TO_1E6)


def test_four_sites_are_too_few():
    """Nothing is said of how sites differ before there are five."""
    found = meta.random_effects(*meta.arcsines([9] * 4, [10] * 4), level=LEVEL)
    assert found == calibration.Undefined("it needs at least 5 sites, and there are 4")


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
        """rms: val.prob(p, y)["Slope"]; sandwich: vcovCL(glm(y ~ logit), ~patient, "HC3"), to .1 %."""
        found = calibration.calibration_slope(PROBABILITY, POSITIVE, PATIENT, level=LEVEL)
        assert isinstance(found, calibration.Calibration)
        assert found.value == pytest.approx(0.6022724126, abs=TO_1E6)
        assert found.se == pytest.approx(0.1963432081, rel=1e-3)

    def test_intercept(self):
        """glm(y ~ offset(logit)); sandwich: vcovCL(glm, ~patient, "HC3"), to .1 %."""
        found = calibration.calibration_intercept(PROBABILITY, POSITIVE, PATIENT, level=LEVEL)
        assert isinstance(found, calibration.Calibration)
        assert found.value == pytest.approx(-0.2847073946, abs=TO_1E6)
        assert found.se == pytest.approx(0.2534599507, rel=1e-3)

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
