"""Kappa, against scikit-learn, statsmodels and published matrices."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from drgate.stats.agreement import kappa

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
