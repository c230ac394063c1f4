"""A worse model never gets a better limit: what holds of it, searched in random test sets and not proved.

docs/statistics.md says where no such law holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drgate.metrics import MetricId, NoOutputPolicy, measured
from drgate.stats import agreement, bootstrap, cluster, confusion, paired, standardized

ROUNDING = 1e-9
SHARES = [one for one in measured() if one.about.is_share and one.about.policies]
FIXED = [one for one in SHARES if not one.about.depends_on_answers]
"""Shares whose denominator does not depend on the answers: all but predictive values."""


@dataclass(frozen=True)
class Images:
    """Patients, reference grades and answers (5: none) of images, all (n,)."""

    owner: np.ndarray
    reference: np.ndarray
    predicted: np.ndarray
    level: float

    def patterns(self) -> tuple[np.ndarray, np.ndarray]:
        return bootstrap.patient_patterns(confusion.cells(self.reference, self.predicted), self.owner)


@st.composite
def worse(draw: st.DrawFn, *, largest: int, refused: bool = False) -> tuple[Images, Images]:
    """Test sets before and after a correct answer is made wrong, or, if `refused`, a wrong one into none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    patients = draw(st.integers(2, 40))
    owner = np.repeat(np.arange(patients), rng.integers(1, draw(st.integers(1, largest)) + 1, patients))
    reference = rng.choice(5, owner.size, p=[0.4, 0.2, 0.2, 0.1, 0.1])
    right = rng.random(owner.size) < draw(st.sampled_from([0.2, 0.6, 0.9, 0.97]))
    predicted = np.where(right, reference, rng.integers(0, 6, owner.size))
    chosen = rng.integers(owner.size)
    predicted[chosen] = (reference[chosen] + 1) % 5 if refused else reference[chosen]
    before = Images(owner, reference, predicted, draw(st.sampled_from([0.90, 0.95, 0.9833])))
    after = predicted.copy()
    after[chosen] = 5 if refused else (reference[chosen] + rng.integers(1, 5)) % 5
    return before, replace(before, predicted=after)


def share_limit(images: Images, metric: MetricId, policy: NoOutputPolicy) -> float:
    """The limit that decides, higher being better; the lowest where nothing counts."""
    ratio = metric.about.ratio(metric.target, policy)
    patterns, counts = images.patterns()
    hits, sizes = ratio.terms(patterns)
    if not (counts @ sizes).any():
        return -1.0 if ratio.adverse else 0.0
    sample = cluster.effective_sample(hits, sizes, level=images.level, counts=counts, adverse=ratio.adverse)
    ends = cluster.bounds(sample, level=images.level, interval="clopper-pearson")
    return -ends.high if ratio.adverse else ends.low


class TestACorrectAnswerMadeWrong:
    @settings(max_examples=60, deadline=None)
    @given(sets=worse(largest=15))
    def test_proportions(self, sets):
        """Sensitivities, specificities, accuracy and rates that must stay low, with patients of up to 15 images."""
        for metric in FIXED:
            before, after = (share_limit(one, metric, metric.default_policy) for one in sets)
            if before > -1:
                assert after <= before + ROUNDING, metric

    @settings(max_examples=60, deadline=None)
    @given(sets=worse(largest=1))
    def test_predictive_values(self, sets):
        """Where each patient has one image."""
        for metric in SHARES:
            one, other = sets
            ratio = metric.about.ratio(metric.target, metric.default_policy)
            if metric.about.depends_on_answers and all((x.patterns()[0] @ ratio.counted.ravel()).any() for x in sets):
                before, after = (share_limit(x, metric, metric.default_policy) for x in (one, other))
                assert after <= before + ROUNDING, metric

    @settings(max_examples=60, deadline=None)
    @given(sets=worse(largest=1), mix=st.sampled_from([(0.8, 0.1, 0.08, 0.01, 0.01), (0.2,) * 5]))
    def test_deployment_figures(self, sets, mix):
        """Accuracy (balanced too), sensitivity and specificity at a mix, where each patient has one image."""
        rules: tuple[tuple[confusion.Ratio, NoOutputPolicy], ...] = (
            (confusion.accuracy("excluded"), "excluded"),
            (confusion.sensitivity((2, 3, 4), "as_referred"), "as_referred"),
            (confusion.specificity((2, 3, 4), "as_referred"), "as_referred"),
        )
        for ratio, policy in rules:
            found = [
                standardized.estimate(ratio, *one.patterns(), mix=mix, level=one.level, no_output=policy)
                for one in sets
            ]
            lows = [one.low for one in found if isinstance(one, standardized.Standardized)]
            assert len(lows) < 2 or lows[1] <= lows[0] + ROUNDING

    @settings(max_examples=100, deadline=None)
    @given(sets=worse(largest=15), seed=st.integers(0, 2**32 - 1), close=st.sampled_from([0.5, 0.9, 0.98]))
    def test_non_inferiority(self, sets, seed, close):
        """Against another model on the same images."""
        rng = np.random.default_rng(seed)
        other = rng.random(sets[0].owner.size) < close
        lows = []
        for one in sets:
            right = one.predicted == one.reference
            flags = right & ~other, other & ~right, np.ones(right.size, dtype=bool)
            patients = (np.bincount(one.owner, weights=flag).astype(np.int64) for flag in flags)
            lows.append(paired.difference_bounds(paired.paired_sample(*patients), level=one.level).low)
        assert lows[1] <= lows[0] + ROUNDING

    @pytest.mark.parametrize("weights", ["none", "linear"])
    @settings(max_examples=40, deadline=None)
    @given(sets=worse(largest=1))
    def test_kappa(self, weights, sets):
        """Unweighted and linear, where each patient has one image."""
        lows = []
        for one in sets:
            patterns, counts = one.patterns()
            squares = confusion.square(patterns)
            answered = squares.any(axis=(1, 2))
            table = np.einsum("p,pij->ij", counts, squares)
            if not agreement.kappa(table, weights)[1]:
                return
            lows.append(agreement.limits(squares[answered], counts[answered], weights, level=one.level)[0])
        assert lows[1] <= lows[0] + ROUNDING


class TestAWrongAnswerTurnedIntoNone:
    @settings(max_examples=60, deadline=None)
    @given(sets=worse(largest=15, refused=True))
    def test_all_comers(self, sets):
        """No output as the worst case: refusing what would be wrong raises no limit of a proportion."""
        for metric in FIXED:
            before, after = (share_limit(one, metric, "worst_case") for one in sets)
            if before > -1:
                assert after <= before + ROUNDING, metric

    @settings(max_examples=60, deadline=None)
    @given(sets=worse(largest=15, refused=True))
    def test_the_share_left_out(self, sets):
        """Of kappa and of what needs probabilities the share without an answer counts; its limit only grows."""
        before, after = (share_limit(one, MetricId("no_output"), "excluded") for one in sets)
        assert after <= before + ROUNDING
