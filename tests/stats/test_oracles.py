"""Four libraries that know nothing of this one must agree: scikit-learn, SciPy, statsmodels and confidenceinterval."""

from __future__ import annotations

import confidenceinterval
import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    multilabel_confusion_matrix,
    precision_score,
    recall_score,
    roc_auc_score,
)
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from drgate.stats import agreement, cluster, confusion, ranking
from drgate.stats import bootstrap as b

RNG = np.random.default_rng(2024)
REFERENCE = RNG.choice(5, 900, p=[0.45, 0.2, 0.15, 0.12, 0.08])
PROBABILITIES = RNG.dirichlet(np.ones(5), 900) + 0.4 * np.eye(5)[REFERENCE]
PROBABILITIES /= PROBABILITIES.sum(axis=1, keepdims=True)
PREDICTED = PROBABILITIES.argmax(axis=1)
TABLE = confusion.tabulate(REFERENCE, PREDICTED)
GROUPS = {
    "no DR": (0,),
    "mild": (1,),
    "moderate": (2,),
    "severe": (3,),
    "PDR": (4,),
    "referable": (2, 3, 4),
    "vision-threatening": (3, 4),
}
groups = pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
LEVEL = 0.95


def two_by_two(group):
    """Reference and prediction of a group against the rest, as scikit-learn and confidenceinterval take them."""
    return np.isin(REFERENCE, group).astype(int), np.isin(PREDICTED, group).astype(int)


def interval(ratio, method):
    k, n = map(int, ratio.terms(TABLE))
    ends = cluster.bounds(cluster.EffectiveSample(k, n, n, 1.0, n), level=LEVEL, interval=method)
    return k / n, (ends.low, ends.high)


class TestValues:
    @groups
    def test_scikit_learn_counts_the_same(self, group):
        """Sensitivity, specificity, PPV, NPV and their numerators of every grade and group."""
        truth, called = two_by_two(group)
        (tn, fp), (fn, tp) = multilabel_confusion_matrix(truth, called, labels=[1])[0]
        expected = {
            confusion.sensitivity: (tp, tp + fn, recall_score(truth, called)),
            confusion.specificity: (tn, tn + fp, recall_score(truth, called, pos_label=0)),
            confusion.ppv: (tp, tp + fp, precision_score(truth, called)),
            confusion.npv: (tn, tn + fn, precision_score(truth, called, pos_label=0)),
            confusion.missed: (fn, tp + fn, 1 - recall_score(truth, called)),
        }
        for statistic, (k, n, value) in expected.items():
            ratio = statistic(group, "excluded")
            assert tuple(map(int, ratio.terms(TABLE))) == (k, n)
            assert float(ratio.values(TABLE)[0]) == pytest.approx(value, abs=1e-12)

    def test_scikit_learn_agrees_over_all_grades(self):
        """Accuracy, balanced accuracy and the three kappas."""
        assert float(confusion.accuracy("excluded").values(TABLE)[0]) == accuracy_score(REFERENCE, PREDICTED)
        assert float(confusion.balanced_accuracy(TABLE)[0]) == pytest.approx(
            balanced_accuracy_score(REFERENCE, PREDICTED), abs=1e-12
        )
        for weights, theirs in (("none", None), ("linear", "linear"), ("quadratic", "quadratic")):
            expected = cohen_kappa_score(REFERENCE, PREDICTED, labels=range(5), weights=theirs)
            assert float(agreement.kappa(confusion.square(TABLE), weights)[0]) == pytest.approx(expected, abs=1e-12)

    def test_distance_of_grades_by_direct_comparison(self):
        """Two or more grades too low or too high, and severe or PDR below referable, image by image."""
        for ratio, expected in (
            (confusion.undergraded_by(2, "excluded"), np.mean(REFERENCE - PREDICTED >= 2)),
            (confusion.overgraded_by(2, "excluded"), np.mean(PREDICTED - REFERENCE >= 2)),
            (confusion.below((3, 4), 2, "excluded"), np.mean(PREDICTED[REFERENCE >= 3] < 2)),
        ):
            assert float(ratio.values(TABLE)[0]) == pytest.approx(expected, abs=1e-15)


class TestIntervals:
    @groups
    @pytest.mark.parametrize(("method", "theirs"), [("clopper-pearson", "beta"), ("wilson", "wilson")])
    def test_confidenceinterval_and_statsmodels_agree(self, group, method, theirs):
        """Sensitivity, specificity, PPV and NPV with their interval, from labels and from counts."""
        truth, called = two_by_two(group)
        for statistic, oracle in (
            (confusion.sensitivity, confidenceinterval.tpr_score),
            (confusion.specificity, confidenceinterval.tnr_score),
            (confusion.ppv, confidenceinterval.ppv_score),
            (confusion.npv, confidenceinterval.npv_score),
        ):
            ratio = statistic(group, "excluded")
            value, ends = interval(ratio, method)
            expected, expected_ends = oracle(truth, called, confidence_level=LEVEL, method=theirs)
            assert value == pytest.approx(expected, abs=1e-8)  # it adds 1e-7 to every denominator
            assert ends == pytest.approx(expected_ends, abs=1e-9)
            k, n = map(int, ratio.terms(TABLE))
            assert ends == pytest.approx(proportion_confint(k, n, 1 - LEVEL, theirs), abs=1e-9)

    @pytest.mark.parametrize(
        ("method", "theirs", "scipys"), [("clopper-pearson", "beta", "exact"), ("wilson", "wilson", "wilson")]
    )
    def test_accuracy(self, method, theirs, scipys):
        """confidenceinterval and SciPy on the share of right images."""
        value, ends = interval(confusion.accuracy("excluded"), method)
        expected, expected_ends = confidenceinterval.accuracy_score(REFERENCE, PREDICTED, method=theirs)
        assert (value, *ends) == pytest.approx((expected, *expected_ends), abs=1e-9)
        trial = binomtest(int((REFERENCE == PREDICTED).sum()), REFERENCE.size).proportion_ci(LEVEL, scipys)
        assert ends == pytest.approx((trial.low, trial.high), abs=1e-12)

    @pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
    def test_kappa(self, weights):
        """statsmodels' kappa."""
        theirs = cohens_kappa(TABLE[:, :5], wt=None if weights == "none" else weights)
        assert float(agreement.kappa(TABLE[:, :5], weights)[0]) == pytest.approx(theirs.kappa, abs=1e-12)

    @groups
    def test_area_under_the_curve(self, group):
        """scikit-learn's area and confidenceinterval's DeLong standard error, which it keeps in single precision."""
        scores, truth = PROBABILITIES[:, group].sum(axis=1), np.isin(REFERENCE, group)
        ours = ranking.auc_delong(scores, truth, level=LEVEL)
        assert ours.value == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
        _, (low, high) = confidenceinterval.roc_auc_score(truth.astype(int), scores, confidence_level=LEVEL)
        assert ours.se == pytest.approx((high - low) / (2 * 1.959963984540054), rel=1e-4)


class TestBootstrap:
    """Two resamplings never agree to the digit, but within four Monte Carlo errors."""

    RESAMPLES = 4000

    def near(self, ours, theirs, replicates, *, resamples=RESAMPLES, grid=0.0):
        """Ends agree within four standard errors of the difference of two 2.5 % quantiles of normal values."""
        density = 0.0584 / float(np.std(replicates))
        error = np.sqrt(0.025 * 0.975 * (1 / self.RESAMPLES + 1 / resamples)) / density
        assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=4 * error + grid)

    def test_percentile_of_confidenceinterval(self):
        """Accuracy by its percentile bootstrap of images."""
        _, theirs = confidenceinterval.accuracy_score(
            REFERENCE,
            PREDICTED,
            method="bootstrap_percentile",
            n_resamples=1000,
            random_state=np.random.default_rng(6),
        )
        tables = b.resample_patients(*b.image_patterns(TABLE), resamples=self.RESAMPLES, seed=5)
        values, _ = confusion.accuracy("excluded").values(tables)
        self.near(b.percentile_interval(values, LEVEL), theirs, values, resamples=1000, grid=1 / REFERENCE.size)

    @pytest.mark.parametrize("method", ["percentile", "BCa"])
    def test_scipy_on_patients(self, method):
        """Quadratic kappa of 80 patients with two images, resampled in pairs by SciPy."""
        cells = confusion.cells(REFERENCE, PREDICTED)[:160].reshape(80, 2)

        def statistic(first, second, axis=-1):
            both = np.concatenate([first, second], axis=-1)
            tables = np.apply_along_axis(np.bincount, -1, both, minlength=30)
            return agreement.kappa(confusion.square(tables), "quadratic")[0]

        theirs = bootstrap(
            (cells[:, 0], cells[:, 1]),
            statistic,
            n_resamples=self.RESAMPLES,
            paired=True,
            vectorized=True,
            method=method,
            rng=np.random.default_rng(7),
        ).confidence_interval
        patterns, counts = b.patient_patterns(cells.ravel(), np.repeat(np.arange(80), 2))
        tables = b.resample_patients(patterns, counts, resamples=self.RESAMPLES, seed=8)

        def values(some):
            return agreement.kappa(confusion.square(some), "quadratic")[0]

        drawn = values(tables)
        if method == "percentile":
            ours = b.percentile_interval(drawn, LEVEL)
        else:
            whole = np.bincount(cells.ravel(), minlength=30)
            ours = b.bca_interval(
                drawn,
                LEVEL,
                estimate=float(values(whole)),
                jackknife=values(b.leave_one_out(patterns, counts)),
                counts=counts,
            )
        self.near(ours, (theirs.low, theirs.high), drawn)

    def test_strata_against_a_loop(self):
        """Drawing the patients of each worst grade by themselves: mean, spread and ends of a literal loop."""
        sizes = RNG.integers(1, 4, 120)
        owner = np.repeat(np.arange(120), sizes)
        reference, predicted = REFERENCE[: owner.size], PREDICTED[: owner.size]
        cells = confusion.cells(reference, predicted)
        worst = np.array([reference[owner == patient].max() for patient in range(120)])
        rows = np.array([np.bincount(cells[owner == patient], minlength=30) for patient in range(120)])
        rng = np.random.default_rng(9)
        loop = np.array(
            [
                sum(
                    np.take(rows, rng.choice(np.flatnonzero(worst == grade), (worst == grade).sum()), axis=0).sum(
                        axis=0
                    )
                    for grade in range(5)
                )
                for _ in range(self.RESAMPLES)
            ]
        )
        patterns, counts = b.patient_patterns(cells, owner)
        ours = b.resample_patients(patterns, counts, resamples=self.RESAMPLES, seed=10, strata=b.worst_grade(patterns))
        for ratio in (
            confusion.accuracy("excluded"),
            confusion.sensitivity((3,), "excluded"),
            confusion.ppv((2, 3, 4), "excluded"),
        ):
            mine, theirs = ratio.values(ours)[0], ratio.values(loop)[0]
            assert mine.mean() == pytest.approx(theirs.mean(), abs=4 * theirs.std() * np.sqrt(2 / self.RESAMPLES))
            assert mine.std() == pytest.approx(theirs.std(), rel=4 * np.sqrt(1 / self.RESAMPLES))
            self.near(b.percentile_interval(mine, LEVEL), np.quantile(theirs, [0.025, 0.975]), theirs)

    def test_moments_of_resampled_patients(self):
        """Mean and covariance of common and rare patterns together are those of c draws of whole patients."""
        cells, owner = confusion.cells(REFERENCE, PREDICTED), np.arange(900) // 2
        patterns, counts = b.patient_patterns(cells, owner)
        assert 0.2 < (counts <= b._RARE).mean() < 1
        tables = b.resample_patients(patterns, counts, resamples=20_000, seed=11)
        per_patient = np.zeros((450, 30))
        np.add.at(per_patient, (owner, cells), 1)
        expected = 450 * np.cov(per_patient.T, ddof=0)
        spread = np.sqrt(np.diag(expected))
        assert (np.abs(tables.mean(axis=0) - per_patient.sum(axis=0)) <= 4.5 * spread / np.sqrt(20_000)).all()
        assert (np.abs(np.cov(tables.T) - expected) <= 6 * np.outer(spread, spread) / np.sqrt(20_000)).all()
