"""Proportions at a deployment mix, against scikit-learn's sample weights, the plain interval and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_score, recall_score

from drgate.stats import standardized
from drgate.stats.bootstrap import image_patterns, patient_patterns, resample_patients, worst_grade
from drgate.stats.calibration import Undefined
from drgate.stats.cluster import bounds, effective_sample, unknown_clusters
from drgate.stats.confusion import (
    accuracy,
    cells,
    missed,
    no_output,
    npv,
    ppv,
    sensitivity,
    specificity,
    tabulate,
    undergraded_by,
)
from drgate.stats.proportion import exact_bounds

SCREENING = (0.80, 0.10, 0.08, 0.01, 0.01)
REFERABLE = (2, 3, 4)

RATIOS = {
    "accuracy": (accuracy("excluded"), "excluded"),
    "accuracy, worst case": (accuracy("worst_case"), "worst_case"),
    "sensitivity": (sensitivity(REFERABLE, "as_referred"), "as_referred"),
    "specificity": (specificity(REFERABLE, "as_referred"), "as_referred"),
    "specificity of a grade": (specificity((2,), "excluded"), "excluded"),
    "ppv": (ppv(REFERABLE, "as_referred"), "as_referred"),
    "npv": (npv(REFERABLE, "as_referred"), "as_referred"),
    "ppv, excluded": (ppv((3, 4), "excluded"), "excluded"),
    "undergraded": (undergraded_by(2, "excluded"), "excluded"),
    "no output": (no_output(), "worst_case"),
}


def grading(seed, sizes=(300, 120, 150, 80, 60), right=0.85, silent=0.05):
    """Reference and predicted grades, -1 for no output, and patients with one to four images."""
    rng = np.random.default_rng(seed)
    reference = np.repeat(np.arange(5), sizes)
    predicted = np.where(rng.random(reference.size) < right, reference, rng.integers(0, 5, reference.size))
    predicted[rng.random(reference.size) < silent] = -1
    return reference, predicted, rng.integers(0, reference.size // 2, reference.size)


def table(*, right, wrong):
    """Images of each grade called right, and called the next grade."""
    found = np.zeros((5, 6), dtype=np.int64)
    for grade in range(5):
        found[grade, grade], found[grade, (grade + 1) % 5] = right[grade], wrong[grade]
    return found


def at(ratio, counts, mix=SCREENING, **how):
    return standardized.estimate(ratio, *image_patterns(counts), mix=mix, level=0.95, **how)


def own_mix(counts, policy):
    population = counts if policy != "excluded" else counts[:, :5]
    return tuple(population.sum(axis=1) / population.sum())


counts_of_grades = st.lists(st.integers(1, 60), min_size=5, max_size=5)
mixes = st.lists(st.integers(0, 20), min_size=5, max_size=5).filter(any).map(lambda w: tuple(np.array(w) / sum(w)))


class TestValue:
    def test_one_model_at_two_mixes(self):
        """One model: accuracy .92 at 80/10/8/1/1, .85 balanced."""
        one = table(right=(189, 166, 160, 164, 171), wrong=(11, 34, 40, 36, 29))
        assert round(at(accuracy("excluded"), one).value, 2) == 0.92
        assert at(accuracy("excluded"), one, mix=(0.2,) * 5).value == pytest.approx(0.85)

    def test_images_weighted_to_the_mix(self):
        """Every figure is scikit-learn's with each image weighing w_g / n_g (Horvitz-Thompson)."""
        reference, predicted, _ = grading(0, silent=0)
        counts = tabulate(reference, predicted)
        weight = (np.array(SCREENING) / np.bincount(reference))[reference]
        is_so, called = reference >= 2, predicted >= 2
        for ratio, expected in (
            (accuracy("excluded"), accuracy_score(reference, predicted, sample_weight=weight)),
            (sensitivity(REFERABLE, "excluded"), recall_score(is_so, called, sample_weight=weight)),
            (specificity(REFERABLE, "excluded"), recall_score(~is_so, ~called, sample_weight=weight)),
            (ppv(REFERABLE, "excluded"), precision_score(is_so, called, sample_weight=weight)),
            (npv(REFERABLE, "excluded"), precision_score(~is_so, ~called, sample_weight=weight)),
        ):
            assert at(ratio, counts).value == pytest.approx(expected, abs=1e-12)

    def test_images_without_output(self):
        """As referred they are images of their grade that nobody cleared; excluded they are none."""
        reference, predicted, _ = grading(1, silent=0.2)
        counts = tabulate(reference, predicted)
        cleared = np.isin(predicted, (0, 1))
        weight = (np.array(SCREENING) / np.bincount(reference))[reference]
        expected = weight[cleared & (reference < 2)].sum() / weight[cleared].sum()
        assert at(npv(REFERABLE, "as_referred"), counts, no_output="as_referred").value == pytest.approx(expected)
        answered = predicted >= 0
        weight = (np.array(SCREENING) / np.bincount(reference[answered]))[reference]
        expected = weight[cleared & (reference < 2)].sum() / weight[cleared].sum()
        assert at(npv(REFERABLE, "excluded"), counts).value == pytest.approx(expected)

    @pytest.mark.parametrize("name", RATIOS)
    def test_replicates_and_estimate_share_the_definition(self, name):
        """`values` of tables are the values of `estimate`."""
        ratio, policy = RATIOS[name]
        tables = np.stack([tabulate(*grading(seed)[:2]) for seed in range(4)])
        found, defined = standardized.values(ratio, tables, mix=SCREENING, no_output=policy)
        expected = [at(ratio, one, no_output=policy).value for one in tables]
        assert defined.all()
        assert found == pytest.approx(expected, abs=1e-12)


class TestOwnMix:
    @pytest.mark.parametrize("name", RATIOS)
    def test_the_plain_interval(self, name):
        """At the test set's own mix, independent images or images of unknown patients have the plain interval."""
        ratio, policy = RATIOS[name]
        counts = tabulate(*grading(2)[:2])
        mix = own_mix(counts, policy)
        k, n = (int(term) for term in ratio.terms(counts))
        plain = exact_bounds(k, n, level=0.95)
        found = at(ratio, counts, mix, no_output=policy)
        assert (found.value, found.low, found.high) == pytest.approx((k / n, plain.low, plain.high), abs=1e-9)
        pairs = bounds(unknown_clusters(k, n, images_a_patient=2, level=0.95), level=0.95, interval="clopper-pearson")
        found = at(ratio, counts, mix, no_output=policy, images_a_patient=2)
        assert (found.low, found.high) == pytest.approx((pairs.low, pairs.high), abs=1e-9)
        assert found.clusters is None

    @pytest.mark.parametrize("name", RATIOS)
    def test_near_the_plain_interval_by_patients(self, name):
        """With patients the effective sample is the plain one within a tenth."""
        ratio, policy = RATIOS[name]
        reference, predicted, patients = grading(3)
        patterns, times = patient_patterns(cells(reference, predicted), patients)
        plain = effective_sample(*ratio.terms(patterns), level=0.95, counts=times, adverse=ratio.adverse)
        mix = own_mix(tabulate(reference, predicted), policy)
        found = standardized.estimate(ratio, patterns, times, mix=mix, level=0.95, no_output=policy)
        assert found.clusters == plain.clusters
        assert found.effective_n == pytest.approx(plain.effective_n, rel=0.1)

    @pytest.mark.parametrize("most", [2, 9])
    def test_one_grade_is_that_grade(self, most):
        """A sensitivity of one grade knows no mix: the interval by patients is the plain one."""
        reference, predicted, _ = grading(4)
        patients = np.repeat(np.arange(reference.size), np.random.default_rng(4).integers(1, most + 1, reference.size))
        patterns, times = patient_patterns(cells(reference, predicted), patients[: reference.size])
        ratio = sensitivity((2,), "excluded")
        plain = effective_sample(*ratio.terms(patterns), level=0.95, counts=times)
        ends = bounds(plain, level=0.95, interval="wilson")
        found = standardized.estimate(ratio, patterns, times, mix=SCREENING, level=0.95, interval="wilson")
        assert (found.effective_n, found.low, found.high) == pytest.approx((plain.effective_n, ends.low, ends.high))


class TestVariance:
    @pytest.mark.parametrize(
        ("name", "sizes", "right"),
        [
            ("accuracy", (3000, 1200, 900, 800, 800), 0.7),
            ("specificity", (3000, 1200, 900, 800, 800), 0.7),
            ("ppv", (2000, 2000, 900, 800, 800), 0.97),
            ("npv", (9000, 4000, 300, 200, 200), 0.6),
        ],
    )
    def test_by_redrawing_every_grade(self, name, sizes, right):
        """n* is theta (1 - theta) over the variance that redrawing each grade's images shows, where errors are many."""
        ratio, policy = RATIOS[name]
        counts = tabulate(*grading(5, sizes=sizes, right=right, silent=0)[:2])
        rng = np.random.default_rng(0)
        rows = [rng.multinomial(row.sum(), row / row.sum(), size=4000) for row in counts]
        theta, _ = standardized.values(ratio, np.stack(rows, axis=1), mix=SCREENING, no_output=policy)
        found = at(ratio, counts, no_output=policy)
        by_variance = found.value * (1 - found.value) / theta.var()
        counted = (counts * ratio.counted).sum(axis=1)
        share = np.array(SCREENING) / counts.sum(axis=1)
        equal = (share @ counted) ** 2 / (share**2 @ counted)
        assert by_variance < 0.95 * equal or name in ("accuracy", "specificity")
        assert found.effective_n == pytest.approx(min(by_variance, equal), rel=0.1)

    def test_by_redrawing_patients(self):
        """With pairs that err together n* is half as large, as the bootstrap of patients within grades has it."""
        rng = np.random.default_rng(6)
        reference = np.repeat(np.repeat(np.arange(5), (800, 500, 500, 300, 300)), 2)
        wrong = np.repeat(rng.random(reference.size // 2) < 0.3, 2)
        predicted = np.where(wrong, (reference + 1) % 5, reference)
        patterns, times = patient_patterns(cells(reference, predicted), np.arange(reference.size) // 2)
        drawn = resample_patients(patterns, times, resamples=4000, seed=1, strata=worst_grade(patterns))
        theta, _ = standardized.values(accuracy("excluded"), drawn, mix=SCREENING)
        found = standardized.estimate(accuracy("excluded"), patterns, times, mix=SCREENING, level=0.95)
        assert found.effective_n == pytest.approx(found.value * (1 - found.value) / theta.var(), rel=0.1)
        independent = at(accuracy("excluded"), tabulate(reference, predicted))
        assert found.effective_n == pytest.approx(independent.effective_n / 2, rel=0.05)

    def test_a_grade_without_an_error_proves_little(self):
        """Twenty images without a miss that weigh .8 leave room for what twenty images cannot exclude."""
        counts = table(right=(20, 2000, 2000, 2000, 2000), wrong=(0,) * 5)
        room = 0.8 * (1 - exact_bounds(20, 20, level=0.95).low)
        assert at(accuracy("excluded"), counts).low < 1 - room
        few_light_errors = table(right=(20, 1990, 1990, 1990, 1990), wrong=(0, 10, 10, 10, 10))
        assert at(accuracy("excluded"), few_light_errors).low < 1 - room

    @pytest.mark.parametrize(
        ("sizes", "mix", "wrong"),
        [
            # the share of errors sits in the grade of twenty images: the delta method passes 6 to 12 % here
            ((2000, 2000, 2000, 2000, 20), (0.04, 0.24, 0.24, 0.24, 0.24), (0.00789,) * 4 + (0.1,)),
            ((2000, 2000, 2000, 2000, 20), (0.5, 0.125, 0.125, 0.125, 0.125), (0.01714,) * 4 + (0.12,)),
            ((20, 100, 500, 1000, 2000), SCREENING[::-1], (0, 0, 0, 0, 0.125)),
        ],
    )
    @pytest.mark.parametrize("together", [None, 0.8])
    def test_error_of_the_gate(self, sizes, mix, wrong, together):
        """A model exactly at the line passes at most one time in forty, errors rare or common, pairs alike or not."""
        rng = np.random.default_rng(8)
        line = 1 - float(np.dot(mix, wrong))
        patterns, drawn = [], []
        for grade, (n, q) in enumerate(zip(sizes, wrong, strict=True)):
            images = 1 if together is None else 2
            alike = 1.0 if together is None else together
            chances = [(1 - q) * (alike + (1 - alike) * (1 - q)), 2 * (1 - alike) * q * (1 - q)]
            chances = [1 - q, q] if images == 1 else [*chances, 1 - sum(chances)]
            for errors in range(images + 1):
                pattern = np.zeros(30, dtype=np.int64)
                pattern[grade * 6 + grade] = images - errors
                pattern[grade * 6 + (grade + 1) % 5] = errors
                patterns.append(pattern)
            drawn.append(rng.multinomial(n // images, chances, size=1000))
        tables = np.concatenate(drawn, axis=1)
        theta, _ = standardized.values(accuracy("excluded"), tables @ np.array(patterns), mix=mix)
        passed = sum(
            standardized.estimate(accuracy("excluded"), np.array(patterns), tables[i], mix=mix, level=0.95).low > line
            for i in np.flatnonzero(theta > line)
        )
        # 1.5 % is three Monte Carlo standard errors
        assert passed / 1000 <= 0.025 + 0.015


class TestLaws:
    @settings(max_examples=25)
    @given(counts_of_grades, st.integers(0, 10_000), mixes, st.booleans())
    def test_inside_and_around_the_value(self, sizes, seed, mix, unknown):
        """0 <= low <= value <= high <= 1, and never more than the images that there are."""
        counts = tabulate(*grading(seed, sizes=sizes)[:2])
        for ratio, policy in RATIOS.values():
            found = at(ratio, counts, mix, no_output=policy, images_a_patient=1 + unknown)
            if not isinstance(found, Undefined):
                assert 0 <= found.low <= found.value <= found.high <= 1
                assert 0 <= found.effective_n <= counts.sum() + 1e-9

    @given(counts_of_grades, counts_of_grades, mixes, st.integers(0, 4))
    def test_one_more_error_never_raises_the_lower_bound(self, right, wrong, mix, grade):
        """Independent images: whatever grade the error is in."""
        before = at(accuracy("excluded"), table(right=right, wrong=wrong), mix)
        right[grade], wrong[grade] = right[grade] - 1, wrong[grade] + 1
        after = at(accuracy("excluded"), table(right=right, wrong=wrong), mix)
        assert after.low <= before.low + 1e-12

    @settings(max_examples=15)
    @given(st.integers(0, 10_000))
    def test_order_and_grouping_of_patients_do_not_matter(self, seed):
        """Shuffled patterns, and equal patients listed one by one, give the same interval."""
        reference, predicted, patients = grading(seed, sizes=(20, 12, 9, 8, 8))
        patterns, times = patient_patterns(cells(reference, predicted), patients)
        one_by_one = np.random.default_rng(seed).permutation(np.repeat(patterns, times, axis=0))
        for ratio, policy in RATIOS.values():
            how = {"mix": SCREENING, "level": 0.95, "no_output": policy}
            one, other = (
                standardized.estimate(ratio, *those, **how)
                for those in ((patterns, times), (one_by_one, np.ones(len(one_by_one), dtype=np.int64)))
            )
            assume(not isinstance(one, Undefined))
            assert (one.value, one.low, one.high, one.effective_n) == pytest.approx(
                (other.value, other.low, other.high, other.effective_n), rel=1e-9
            )

    def test_an_adverse_rate_is_the_mirror(self):
        """Missed is 1 - sensitivity, end for end, with the same effective sample."""
        reference, predicted, patients = grading(9)
        patterns, times = patient_patterns(cells(reference, predicted), patients)
        how = {"mix": SCREENING, "level": 0.95}
        hit = standardized.estimate(sensitivity(REFERABLE, "excluded"), patterns, times, **how)
        miss = standardized.estimate(missed(REFERABLE, "excluded"), patterns, times, **how)
        assert (miss.value, miss.low, miss.high) == pytest.approx((1 - hit.value, 1 - hit.high, 1 - hit.low))
        assert miss.effective_n == pytest.approx(hit.effective_n)


class TestUndefined:
    def test_a_grade_without_an_image_is_named(self):
        """A grade that has weight and no image leaves the figure undefined, in replicates too."""
        counts = table(right=(50, 50, 50, 0, 50), wrong=(0,) * 5)
        found = at(accuracy("excluded"), counts)
        assert found == Undefined("Severe NPDR is 1 % of the deployment mix, and no image with it counts here")
        assert not standardized.values(accuracy("excluded"), counts, mix=SCREENING)[1]
        assert at(specificity((2, 3, 4), "excluded"), counts).value == 1
        assert at(accuracy("excluded"), counts, mix=(0.8, 0.1, 0.05, 0.0, 0.05)).value == 1

    def test_nobody_called_so(self):
        """The PPV of a call that is never made does not exist; nor a sensitivity for grades that the mix lacks."""
        counts = table(right=(50, 50, 0, 0, 0), wrong=(0, 0, 0, 0, 0))
        counts[2:, 0] = 5
        assert at(ppv(REFERABLE, "excluded"), counts) == Undefined("no image counts here")
        found = at(sensitivity((3, 4), "excluded"), counts, mix=(0.9, 0.1, 0, 0, 0))
        assert found == Undefined("the deployment mix has none of the grades that count here")

    def test_one_patient_shows_nothing(self):
        """Images of a single patient say nothing of the next: the interval is [0, 1]."""
        patterns = table(right=(3, 3, 3, 3, 3), wrong=(1,) * 5).reshape(1, 30)
        found = standardized.estimate(accuracy("excluded"), patterns, np.array([1]), mix=SCREENING, level=0.95)
        assert (found.low, found.high, found.effective_n, found.clusters) == (0.0, 1.0, 0.0, 1)

    @pytest.mark.parametrize("mix", [(0.5, 0.5), (0.8, 0.1, 0.08, 0.01, 0.02), (1.2, -0.2, 0, 0, 0), (np.nan,) * 5])
    def test_a_mix_that_is_none_is_refused(self, mix):
        """Five shares, none negative, sum 1."""
        counts = table(right=(5,) * 5, wrong=(1,) * 5)
        with pytest.raises(ValueError, match="five shares"):
            at(accuracy("excluded"), counts, mix)
        with pytest.raises(ValueError, match="interval"):
            at(accuracy("excluded"), counts, interval="wald")
