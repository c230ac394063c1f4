"""The 5 x 6 table: every statistic under every policy, against counting images one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from drgate.stats import confusion as c
from drgate.stats.cluster import EffectiveSample, bounds, effective_sample

RNG = np.random.default_rng(5)
REFERENCE = RNG.choice(5, 400, p=[0.5, 0.15, 0.15, 0.1, 0.1])
PREDICTED = np.where(RNG.random(400) < 0.6, REFERENCE, RNG.integers(-1, 5, 400))
TABLE = c.tabulate(REFERENCE, PREDICTED)
GROUPS = [(0,), (3,), (4,), (2, 3, 4), (3, 4)]
REFERABLE = (2, 3, 4)


def counted(event, among, no_answer):
    """Counts images: `event(r, p)` of those `among(r, p)`; `no_answer(r)` is None (left out), False or True."""
    k = n = 0
    for r, p in zip(REFERENCE.tolist(), PREDICTED.tolist(), strict=True):
        if p == -1:
            outcome = no_answer(r)
            n += outcome is not None
            k += outcome is True
        elif among(r, p):
            n += 1
            k += event(r, p)
    return k, n


def terms(ratio):
    k, n = ratio.terms(TABLE)
    return int(k), int(n)


def policies(grades):
    return ["excluded", "worst_case"] + (["as_referred"] if len(grades) > 1 else [])


ALL = [(g, policy) for g in GROUPS for policy in policies(g)]


class TestPolicies:
    @pytest.mark.parametrize(("g", "policy"), [*ALL, *((g, "as_referred") for g in GROUPS if len(g) == 1)])
    def test_sensitivity_and_missed(self, g, policy):
        """No output: left out, positive as referred, a miss in the worst case; missed is the complement."""
        inside = {"excluded": None, "as_referred": True, "worst_case": False}[policy]
        k, n = counted(lambda r, p: p in g, lambda r, p: r in g, lambda r: inside if r in g else None)
        assert terms(c.sensitivity(g, policy)) == (k, n)
        assert terms(c.missed(g, policy)) == (n - k, n)

    @pytest.mark.parametrize(("g", "policy"), ALL)
    def test_specificity(self, g, policy):
        """No output of another grade: left out, else a false positive."""
        outside = None if policy == "excluded" else False
        expected = counted(lambda r, p: p not in g, lambda r, p: r not in g, lambda r: None if r in g else outside)
        assert terms(c.specificity(g, policy)) == expected

    @pytest.mark.parametrize(("g", "policy"), ALL)
    def test_ppv_and_npv(self, g, policy):
        """No output: referred is called positive; the worst case makes it a false positive or a false negative."""

        def positive(r):
            return {"excluded": None, "as_referred": r in g, "worst_case": None if r in g else False}[policy]

        def negative(r):
            return False if policy == "worst_case" and r in g else None

        assert terms(c.ppv(g, policy)) == counted(lambda r, p: r in g, lambda r, p: p in g, positive)
        assert terms(c.npv(g, policy)) == counted(lambda r, p: r not in g, lambda r, p: p not in g, negative)

    @pytest.mark.parametrize("policy", ["excluded", "as_referred", "worst_case"])
    def test_severe_or_proliferative_called_below_referable(self, policy):
        """No output: left out, not below as referred, below in the worst case."""
        silent = {"excluded": None, "as_referred": False, "worst_case": True}[policy]
        expected = counted(lambda r, p: p < 2, lambda r, p: r >= 3, lambda r: silent if r >= 3 else None)
        assert terms(c.below((3, 4), 2, policy)) == expected

    @pytest.mark.parametrize("policy", ["excluded", "worst_case"])
    def test_accuracy_and_distance(self, policy):
        """No output in the worst case is wrong, and two grades off where there is room."""
        out = policy == "excluded"
        always = lambda r, p: True  # noqa: E731
        assert terms(c.accuracy(policy)) == counted(lambda r, p: r == p, always, lambda r: None if out else False)
        under = counted(lambda r, p: r - p >= 2, always, lambda r: None if out else r >= 2)
        over = counted(lambda r, p: p - r >= 2, always, lambda r: None if out else r <= 2)
        assert terms(c.undergraded_by(2, policy)) == under
        assert terms(c.overgraded_by(2, policy)) == over

    def test_no_output(self):
        """Overall and of one reference grade."""
        assert terms(c.no_output()) == (int((PREDICTED == -1).sum()), 400)
        assert terms(c.no_output(4)) == (int((PREDICTED[REFERENCE == 4] == -1).sum()), int((REFERENCE == 4).sum()))

    def test_referred_is_of_groups_only(self):
        """But for sensitivity a single grade, accuracy and agreement have no "as referred"."""
        for refused in (c.specificity, c.ppv, c.npv):
            with pytest.raises(ValueError, match="groups of grades only"):
                refused((4,), "as_referred")
        for whole in (c.accuracy, lambda p: c.undergraded_by(2, p), lambda p: c.square(TABLE, p)):
            with pytest.raises(ValueError, match="groups of grades only"):
                whole("as_referred")

    def test_the_worst_case_is_never_better(self):
        """For each statistic the worst case is at most the excluded value, at least it for a bad event."""
        for make in (c.sensitivity, c.specificity, c.ppv, c.npv, c.missed):
            for g in GROUPS:
                plain, worst = make(g, "excluded"), make(g, "worst_case")
                difference = worst.values(TABLE)[0] - plain.values(TABLE)[0]
                assert (difference >= 0) if plain.adverse else (difference <= 0)


class TestTables:
    def test_stacks_and_flat_tables_agree(self):
        """One definition serves a table, a stack and rows of 30 cells, one ratio or several at once."""
        stack = np.stack([TABLE, 2 * TABLE, np.zeros_like(TABLE)])
        ratio = c.sensitivity(REFERABLE, "as_referred")
        k, n = ratio.terms(stack)
        assert [a.tolist() for a in ratio.terms(stack.reshape(3, 30))] == [k.tolist(), n.tolist()]
        assert k.tolist() == [k[0], 2 * k[0], 0]
        values, defined = ratio.values(stack)
        assert defined.tolist() == [True, True, False]
        assert values[2] == 0
        both, of = c.terms([ratio, c.accuracy("excluded")], stack)
        assert both[:, 0].tolist() == k.tolist()
        assert of[:, 0].tolist() == n.tolist()

    def test_both_codes_of_no_output(self):
        """-1 and 5 are the same column."""
        assert c.tabulate([4, 4], [-1, 5])[4].tolist() == [0, 0, 0, 0, 0, 2]

    @pytest.mark.parametrize(
        ("reference", "predicted"), [([5], [0]), ([-1], [0]), ([0], [6]), ([0], [-2]), ([0, 1], [0])]
    )
    def test_other_grades_are_refused(self, reference, predicted):
        """A grade outside the scale is an error, not a cell."""
        with pytest.raises(ValueError):
            c.tabulate(reference, predicted)

    @pytest.mark.parametrize("grades", [(), (5,), (1, 1), (-1,)])
    def test_other_groups_are_refused(self, grades):
        """A group is of distinct grades 0-4."""
        with pytest.raises(ValueError):
            c.sensitivity(grades, "excluded")

    def test_a_success_must_count(self):
        """A ratio whose event lies outside its denominator cannot be made."""
        everything = np.ones((5, 6), dtype=bool)
        with pytest.raises(ValueError):
            c.Ratio(everything, ~everything)

    def test_the_farthest_grade(self):
        """In the worst case of agreement 0 and 1 become 4, and 2, 3 and 4 become 0."""
        table = np.zeros((5, 6), dtype=int)
        table[:, 5] = [1, 2, 3, 4, 5]
        assert c.square(table).sum() == 0
        far = c.square(table, "worst_case")
        assert far[:, 0].tolist() == [0, 0, 3, 4, 5]
        assert far[:, 4].tolist() == [1, 2, 0, 0, 0]


class TestBalancedAccuracy:
    def test_scikit_learn_agrees_over_present_grades(self):
        """The mean over the grades that occur, as scikit-learn computes it."""
        for absent in ((), (1,), (0, 4)):
            keep = (PREDICTED != -1) & ~np.isin(REFERENCE, absent) & ~np.isin(PREDICTED, absent)
            value, defined = c.balanced_accuracy(c.tabulate(REFERENCE[keep], PREDICTED[keep]))
            assert defined
            assert value == pytest.approx(balanced_accuracy_score(REFERENCE[keep], PREDICTED[keep]))

    def test_a_replicate_that_lost_a_grade_is_undefined(self):
        """With the grades named, a table without one of them has no value."""
        lost = TABLE.copy()
        lost[4] = 0
        _, defined = c.balanced_accuracy(np.stack([TABLE, lost]), grades=(0, 1, 2, 3, 4))
        assert defined.tolist() == [True, False]
        assert not c.balanced_accuracy(np.zeros((5, 6), int))[1]


class TestPublishedMatrices:
    """Section 10."""

    FULL = np.array(
        [[1619, 0, 0, 0, 0], [12, 1375, 232, 0, 0], [0, 26, 1554, 39, 0], [0, 3, 37, 1559, 20], [0, 0, 0, 1, 1618]]
    )
    DANGEROUS = np.array(
        [[7290, 5, 5, 0, 0], [30, 620, 50, 0, 0], [180, 430, 890, 0, 0], [19, 0, 0, 281, 0], [11, 0, 0, 0, 389]]
    )

    @staticmethod
    def with_output(matrix):
        return np.hstack([matrix, np.zeros((5, 1), dtype=int)])

    def test_accuracy_and_specificity(self):
        """Accuracy .954293; specificity of grade 2 is 6207 of 6476."""
        table = self.with_output(self.FULL)
        assert round(float(c.accuracy("excluded").values(table)[0]), 6) == 0.954293
        assert tuple(map(int, c.specificity((2,), "excluded").terms(table))) == (6207, 6476)

    def test_a_dangerous_model_meets_every_line_of_the_checklist(self):
        """Its bounds pass accuracy, both sensitivities and all specificities, yet .709 of the referable are found."""
        table = self.with_output(self.DANGEROUS)

        def bound(ratio):
            k, n = map(int, ratio.terms(table))
            return bounds(EffectiveSample(k, n, n, 1.0, n), level=0.95, interval="clopper-pearson").low

        assert bound(c.accuracy("excluded")) >= 0.90
        assert bound(c.sensitivity((3,), "excluded")) >= 0.90
        assert bound(c.sensitivity((4,), "excluded")) >= 0.95
        assert all(bound(c.specificity((g,), "excluded")) > 0.90 for g in range(5))
        assert tuple(map(int, c.sensitivity(REFERABLE, "as_referred").terms(table))) == (1560, 2200)
        assert tuple(map(int, c.below((3, 4), 2, "excluded").terms(table))) == (30, 700)
        assert tuple(map(int, c.below((3, 4), 1, "excluded").terms(table))) == (30, 700)


def test_terms_of_patients_feed_the_effective_sample():
    """The same ratio on patients' patterns gives each patient's successes and sizes."""
    patients = np.arange(400) // 3
    patterns = np.zeros((134, 30), dtype=int)
    np.add.at(patterns, (patients, c.cells(REFERENCE, PREDICTED)), 1)
    for ratio in itertools.starmap(c.sensitivity, ALL):
        x, m = ratio.terms(patterns)
        sample = effective_sample(x, m, level=0.95)
        assert (sample.k, sample.n) == terms(ratio)
