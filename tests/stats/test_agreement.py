"""Kappa, against scikit-learn, statsmodels and published matrices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import beta, norm
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from drgate.stats import agreement
from drgate.stats.agreement import kappa, limits

FULL = np.array(
    [[1619, 0, 0, 0, 0], [12, 1375, 232, 0, 0], [0, 26, 1554, 39, 0], [0, 3, 37, 1559, 20], [0, 0, 0, 1, 1618]]
)
SMALL = np.array([[0, 4, 1], [0, 8, 0], [0, 1, 5]])
NAMES = {"none": None, "linear": "linear", "quadratic": "quadratic"}


class TestPublished:
    @pytest.mark.parametrize(
        ("weights", "printed"), [("none", 0.942866), ("linear", 0.971152), ("quadratic", 0.988255)]
    )
    def test_full_matrix(self, weights, printed):
        """The 5 x 5 matrix of section 10 to six digits."""
        value, defined = kappa(FULL, weights)
        assert defined
        assert round(float(value), 6) == printed

    @pytest.mark.parametrize(("weights", "printed"), [("none", 0.4842), ("linear", 0.4701)])
    def test_a_small_matrix_with_an_empty_column(self, weights, printed):
        """Both kappas as published."""
        assert round(float(kappa(SMALL, weights)[0]), 4) == printed


class TestOracles:
    @pytest.mark.parametrize("weights", NAMES)
    @pytest.mark.parametrize("absent", [None, 1, 4])
    def test_scikit_learn_with_all_five_labels(self, weights, absent):
        """Kappa with `labels=range(5)`, also where a grade is absent from both sides."""
        rng = np.random.default_rng(3)
        reference = rng.integers(0, 5, 300)
        predicted = np.where(rng.random(300) < 0.6, reference, rng.integers(0, 5, 300))
        keep = (reference != absent) & (predicted != absent)
        reference, predicted = reference[keep], predicted[keep]
        table = np.bincount(5 * reference + predicted, minlength=25).reshape(5, 5)
        expected = cohen_kappa_score(reference, predicted, labels=range(5), weights=NAMES[weights])
        assert float(kappa(table, weights)[0]) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("weights", NAMES)
    def test_statsmodels(self, weights):
        """The same kappa of a full table."""
        assert float(kappa(FULL, weights)[0]) == pytest.approx(cohens_kappa(FULL, wt=NAMES[weights]).kappa, abs=1e-12)


def patients(*kinds: tuple[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Patterns and counts of so many patients with each table."""
    return np.stack([table for _, table in kinds]), np.array([times for times, _ in kinds])


def images(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patterns and counts of patients with one image each."""
    cells = np.argwhere(table)
    return np.eye(table.size, dtype=int)[[i * len(table) + j for i, j in cells]].reshape(-1, *table.shape), table[
        tuple(cells.T)
    ]


class TestLimits:
    @pytest.mark.parametrize("weights", NAMES)
    def test_simulated_weights(self, weights):
        """The saddlepoint against the sum it approximates: 400,000 draws of the gamma weights of 60 patients."""
        rng = np.random.default_rng(1)
        pairs = rng.integers(0, 5, (60, 2, 2))
        pairs[:50, :, 1] = pairs[:50, :, 0]
        tables = np.zeros((60, 5, 5), int)
        for i, (one, other) in enumerate(pairs):
            tables[i][tuple(one)] += 1
            tables[i][tuple(other)] += 1
        low, high = limits(tables, np.ones(60), weights, level=0.95)
        total = tables.sum(axis=0) / 120
        w = (np.abs(np.subtract.outer(range(5), range(5))) / 4) ** {"none": 1, "linear": 1, "quadratic": 2}[weights]
        w = np.ceil(w) if weights == "none" else w
        chance = (w @ total.sum(axis=0))[:, None] + total.sum(axis=1) @ w
        chance = chance - total.sum(axis=1) @ w @ total.sum(axis=0)
        draws = rng.standard_exponential((400_000, 61))
        for limit, sign in ((low, 1), (high, -1)):
            psi = sign * (w - (1 - limit) * chance)
            terms = np.append((tables * psi).sum(axis=(1, 2)), 2 * psi.max())
            assert (draws @ terms > 0).mean() == pytest.approx(0.025, abs=0.001)

    def test_errors_of_one_size_give_clopper_pearson(self):
        """Sum of 0/1 losses under Exp(1) weights, with one more error: the beta distribution behind Clopper-Pearson."""
        for wrong, n in ((0, 60), (5, 60), (2, 200)):
            for share in (0.05, 0.1, 0.2):
                terms = np.array([1 - share, -share])
                found = agreement._above_zero(np.append(terms, 1 - share), np.array([wrong, n - wrong, 1.0]))
                assert found == pytest.approx(beta.sf(share, wrong + 1, n - wrong), rel=0.04)

    @pytest.mark.parametrize("weights", NAMES)
    def test_many_test_sets_at_once(self, weights):
        """The p-values of a batch are those of its sets one by one, patients taken singly or by their patterns.

        Those of one set are SciPy's root of the cumulants' slope, put into the formula of Lugannani and Rice.
        """
        rng = np.random.default_rng(2)
        reference = rng.integers(0, 5, (40, 30, 2))
        other = rng.random((40, 30, 2)) < rng.random(40)[:, None, None]
        cells = 5 * reference + np.where(other, rng.integers(0, 5, (40, 30, 2)), reference)
        sets = np.eye(25, dtype=int)[cells].sum(axis=2).reshape(40, 30, 5, 5)
        candidates = rng.uniform(-0.5, 1, 40)
        for side in ("lower", "upper"):
            found = agreement.p_value_of(sets, np.ones((40, 30)), weights)(candidates, side)
            for one, candidate, value in zip(sets, candidates, found, strict=True):
                kinds, counts = np.unique(one, axis=0, return_counts=True)
                alone = agreement.p_value_of(kinds, counts, weights)(candidate, side)
                assert alone == pytest.approx(value, rel=1e-9, abs=1e-13)
            common, position = np.unique(sets.reshape(-1, 5, 5), axis=0, return_inverse=True)
            of_set = np.repeat(np.arange(40), 30) * len(common) + position.ravel()
            counts = np.bincount(of_set, minlength=40 * len(common)).reshape(40, -1)
            absent = agreement.p_value_of(common, counts, weights)(candidates, side)
            assert absent == pytest.approx(found, rel=1e-9, abs=1e-13)
        terms, shapes = rng.normal(-0.3, 1, (200, 40)), rng.uniform(0.5, 5, (200, 40))
        for a, s, value in zip(terms, shapes, agreement._above_zero(terms, shapes), strict=True):
            ends = (1 - 1e-12) / a.min(), (1 - 1e-12) / a.max()
            t = brentq(lambda t, a=a, s=s: s @ (a / (1 - t * a)), *ends, xtol=1e-300, rtol=1e-14)
            second, root = s @ (a / (1 - t * a)) ** 2, np.sign(t) * np.sqrt(2 * (s @ np.log1p(-t * a)))
            assert value == pytest.approx(norm.sf(root) + norm.pdf(root) * (1 / (t * second**0.5) - 1 / root), rel=1e-9)

    def test_two_hundred_perfect_patients_show_a_kappa(self):
        """A bootstrap says [1, 1] and shows nothing; here 200 patients show more than 60, and two images no more."""
        eye = np.eye(5, dtype=int)
        low = {}
        for n, each in ((200, 1), (60, 1), (200, 2)):
            kinds = [(n // 5, each * np.diag(eye[grade])) for grade in range(5)]
            low[n, each], high = limits(*patients(*kinds), "quadratic", level=0.95)
            assert high == 1
        assert low[200, 1] == pytest.approx(0.9276, abs=1e-4)
        assert low[60, 1] == pytest.approx(0.7700, abs=1e-4)
        assert low[200, 2] == pytest.approx(low[200, 1], abs=1e-9)

    @pytest.mark.parametrize("weights", NAMES)
    def test_one_wrong_image_says_nothing(self, weights):
        """No DR called PDR, and no other image: from end to end, not an error."""
        table = np.zeros((5, 5), int)
        table[0, 4] = 1
        low, high = limits(*images(table), weights, level=0.95)
        assert low == -1
        assert high > 0.9

    @pytest.mark.parametrize("weights", NAMES)
    def test_limits_hold_the_estimate_and_narrow_with_patients(self, weights):
        """Ten times the patients, a narrower interval around the same kappa; unnamed patients widen it."""
        value = float(kappa(FULL, weights)[0])
        few = limits(*images(FULL // 10), weights, level=0.95)
        many = limits(*images(FULL), weights, level=0.95)
        unnamed = limits(*images(FULL), weights, level=0.95, images_a_patient=2)
        assert few[0] < unnamed[0] < many[0] < value < many[1] < unnamed[1] < few[1]

    def test_published_analytic_interval_of_the_full_matrix(self):
        """Near the analytic interval .986991 to .989519 of quadratic kappa where images are many, and outside it."""
        low, high = limits(*images(FULL), "quadratic", level=0.95)
        assert low == pytest.approx(0.98600, abs=1e-5)
        assert 0.9894 < high < 0.9896


class TestUndefined:
    def test_is_masked_in_a_stack(self):
        """No case, and one label on both sides, have no kappa; their neighbours keep theirs."""
        one_label = np.zeros((5, 5), int)
        one_label[2, 2] = 30
        values, defined = kappa(np.stack([FULL, np.zeros((5, 5), int), one_label]), "quadratic")
        assert defined.tolist() == [True, False, False]
        assert values[1:].tolist() == [0.0, 0.0]
        assert round(float(values[0]), 6) == 0.988255

    def test_perfect_and_opposite(self):
        """Full agreement is 1, and as much disagreement as there can be is -1."""
        value, _ = kappa(np.eye(5, dtype=int) * 9, "quadratic")
        assert value == 1
        assert kappa(np.fliplr(np.eye(5, dtype=int)), "quadratic")[0] == pytest.approx(-1)

    @pytest.mark.parametrize("table", [np.ones(5), np.ones((5, 6)), np.ones((1, 1))])
    def test_other_shapes_are_refused(self, table):
        """Only square tables have a kappa."""
        with pytest.raises(ValueError):
            kappa(table, "quadratic")
