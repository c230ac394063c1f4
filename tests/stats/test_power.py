"""Section 5: how many cases, and the error of the gate at given cases."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binom, nbinom
from sklearn.metrics import cohen_kappa_score

from drgate.stats import agreement
from drgate.stats.cluster import bounds, effective_sample, unknown_clusters
from drgate.stats.power import (
    cases_needed,
    joint_power,
    kappa_without_miss,
    misses_allowed,
    one_grade_off,
    passing,
    passing_kappa,
    patients_for_kappa,
    patients_to_screen,
    patients_to_show,
    power,
    smallest_without_miss,
)
from drgate.stats.proportion import exact_bounds, wilson_bounds

LINE_90 = {0.93: (742, 964), 0.95: (255, 316), 0.96: (167, 206), 0.97: (114, 141), 0.98: (85, 100), 0.99: (54, 70)}
LINE_95 = {
    0.97: (851, 1106),
    0.975: (515, 661),
    0.98: (338, 440),
    0.985: (230, 285),
    0.99: (173, 202),
    0.995: (110, 142),
}


class TestPrintedNumbers:
    def test_without_a_miss(self):
        """36 cases show .90 and 72 show .95; with two images each 37 and 74 patients."""
        assert [smallest_without_miss(t, level=0.95) for t in (0.90, 0.95)] == [36, 72]
        assert [smallest_without_miss(t, level=0.95, images=2) for t in (0.90, 0.95)] == [37, 74]

    def test_at_further_looks(self):
        """With two images each, 87 patients at alpha / 2 and 96 at alpha / 3."""
        assert [smallest_without_miss(0.95, level=1 - 0.05 / k, images=2) for k in (2, 3)] == [87, 96]

    @pytest.mark.parametrize(("threshold", "allowed"), [(0.90, [4, 11, 19, 36]), (0.95, [0, 3, 7, 15])])
    def test_misses_allowed(self, threshold, allowed):
        """At 100, 200, 300 and 500 cases."""
        assert [misses_allowed(n, threshold, level=0.95) for n in (100, 200, 300, 500)] == allowed

    @pytest.mark.parametrize(("threshold", "table"), [(0.90, LINE_90), (0.95, LINE_95)])
    def test_cases_from_which_power_stays(self, threshold, table):
        """Both tables of cases for power 80 % and 90 %."""
        for true, needed in table.items():
            assert tuple(cases_needed(threshold, true=true, target=p, level=0.95) for p in (0.8, 0.9)) == needed

    @pytest.mark.parametrize(("threshold", "n", "percent"), [(0.95, 30, 0.0), (0.95, 100, 0.6), (0.90, 100, 2.4)])
    def test_false_passes_at_the_threshold(self, threshold, n, percent):
        """The power at the threshold itself is the gate's error of section 1."""
        assert round(100 * power(n, threshold, true=threshold, level=0.95), 1) == percent


class TestOracles:
    @pytest.mark.parametrize("interval", ["clopper-pearson", "wilson"])
    @pytest.mark.parametrize("threshold", [0.5, 0.9, 0.95])
    def test_misses_allowed_by_looking_at_every_bound(self, interval, threshold):
        """The most misses whose interval still reaches the threshold, interval by interval."""
        interval_of = {"clopper-pearson": exact_bounds, "wilson": wilson_bounds}[interval]
        for n in (1, 20, 36, 72, 73, 150):
            good = [m for m in range(n + 1) if interval_of(n - m, n, level=0.95).low >= threshold]
            assert misses_allowed(n, threshold, level=0.95, interval=interval) == (max(good) if good else None)

    def test_power_by_binomial_sums(self):
        """The chance of at most the misses allowed."""
        for n in (30, 72, 255, 900):
            allowed = misses_allowed(n, 0.95, level=0.95)
            expected = 0.0 if allowed is None else binom.cdf(allowed, n, 0.02)
            assert power(n, 0.95, true=0.98, level=0.95) == pytest.approx(expected, abs=1e-12)

    def test_power_stays_from_there_on(self):
        """One case fewer falls short, and none of the next two thousand does."""
        needed = cases_needed(0.95, true=0.985, target=0.8, level=0.95)
        values = [power(n, 0.95, true=0.985, level=0.95) for n in range(needed - 1, needed + 2000)]
        assert values[0] < 0.8 <= min(values[1:])

    @pytest.mark.parametrize("icc", [0.0, 0.4, 1.0])
    def test_simulation_meets_a_literal_loop(self, icc):
        """Drawing each patient's images and building each bound gives the same share of passes."""
        sizes = np.repeat([1, 3], [60, 40])
        rng = np.random.default_rng(2)
        passes = 0
        for _ in range(1500):
            if icc == 0:
                chance = np.full(100, 0.93)
            elif icc == 1:
                chance = (rng.random(100) < 0.93).astype(float)
            else:
                chance = rng.beta(0.93 * (1 - icc) / icc, 0.07 * (1 - icc) / icc, 100)
            sample = effective_sample(rng.binomial(sizes, chance), sizes, level=0.95)
            passes += bounds(sample, level=0.95, interval="clopper-pearson").low >= 0.85
        ours = passing(0.85, true=0.93, icc=icc, level=0.95, sizes=[1, 3], counts=[60, 40], replicates=20_000)
        assert ours.probability == pytest.approx(passes / 1500, abs=4 * np.sqrt(0.25 / 1500))

    @pytest.mark.parametrize("design", [{2: 300}, {1: 60, 2: 60}, {4: 100}, {1: 100, 20: 10}])
    def test_simulated_error_of_the_clustered_gate(self, design):
        """At most 2.5 % false passes over designs of section 2 (all of them: the benchmark gate-error)."""
        for true in (0.90, 0.95):
            for icc in (0.0, 0.5, 0.8):
                sizes, counts = list(design), list(design.values())
                error = passing(true, true=true, icc=icc, level=0.95, sizes=sizes, counts=counts, replicates=20_000)
                assert error.probability <= 0.025


def literal(sizes, decide, *, true, icc, tables=2000, seed=11):
    """Share of test sets, drawn patient by patient and image by image, that `decide(right, sizes)` passes."""
    rng = np.random.default_rng(seed)
    sizes = np.asarray(sizes)
    passes = 0
    for _ in range(tables):
        chance = rng.beta(true * (1 - icc) / icc, (1 - true) * (1 - icc) / icc, sizes.size)
        right = np.array([(rng.random(m) < p).sum() for m, p in zip(sizes, chance, strict=True)])
        passes += decide(right, sizes)
    return passes / tables, np.sqrt(0.25 / tables)


class TestPassing:
    @pytest.mark.parametrize(("n", "threshold", "true"), [(100, 0.90, 0.90), (300, 0.90, 0.95), (59, 0.95, 0.99)])
    def test_of_independent_patients_it_is_the_binomial_sum(self, n, threshold, true):
        """Every count whose bound reaches the threshold."""
        good = [k for k in range(n + 1) if exact_bounds(k, n, level=0.95).low >= threshold]
        found = passing(threshold, true=true, level=0.95, counts=[n])
        assert (found.method, found.se) == ("exact", None)
        assert found.probability == pytest.approx(binom.pmf(good, n, true).sum() if good else 0.0, abs=1e-12)

    @pytest.mark.parametrize(
        ("n", "threshold", "strict", "least"),
        [
            (40, 0.95, False, 38),
            (40, 0.95, True, 39),
            (50, 0.90, False, 45),
            (30, 1 - 0.9, False, 3),
            (30, 1 - 0.9, True, 4),
        ],
    )
    def test_of_an_estimate_the_counts_decide(self, n, threshold, strict, least):
        """38 of 40 reaches .95 and does not exceed it; 1 - 0.9 is a tenth."""
        found = passing(threshold, true=0.85, level=0.95, counts=[n], point=True, strict=strict)
        assert found.probability == pytest.approx(binom.sf(least - 1, n, 0.85), abs=1e-12)

    def test_published_error_of_a_point_gate(self):
        """Severe, n = 50, true .85 passes ">= .90" 22 % of the time; PDR, n = 30, true .90 passes ">= .95" 18 %."""
        for n, threshold, true, percent in ((50, 0.90, 0.85, 22), (30, 0.95, 0.90, 18)):
            assert round(100 * passing(threshold, true=true, level=0.95, counts=[n], point=True).probability) == percent

    @pytest.mark.parametrize("kind", ["bound", "point", "unknown"])
    def test_of_clustered_patients_it_is_a_literal_simulation(self, kind):
        """Drawn image by image, each table's bound or estimate held against the threshold."""
        sizes = np.repeat([1, 2], [50, 60]) if kind != "unknown" else np.full(85, 2)

        def decide(right, sizes):
            k, n = int(right.sum()), int(sizes.sum())
            if kind == "point":
                return k * 20 > n * 17
            sample = (
                unknown_clusters(k, n, images_a_patient=2, level=0.95)
                if kind == "unknown"
                else effective_sample(right, sizes, level=0.95)
            )
            return bounds(sample, level=0.95, interval="clopper-pearson").low >= 0.85

        expected, se = literal(sizes, decide, true=0.93 if kind != "point" else 0.87, icc=0.5)
        found = passing(
            0.85,
            true=0.93 if kind != "point" else 0.87,
            level=0.95,
            sizes=[1, 2],
            counts=[50, 60],
            point=kind == "point",
            strict=True,
            images_a_patient=2 if kind == "unknown" else 1,
        )
        assert found.method == "simulated"
        assert found.probability == pytest.approx(expected, abs=4 * se)

    def test_unknown_patients_pass_no_more_often_than_known_pairs(self):
        """Deleting the patient column does not raise the chance of passing, deserved or not."""
        for true in (0.90, 0.95):
            known = passing(0.90, true=true, level=0.95, sizes=[2], counts=[200])
            unknown = passing(0.90, true=true, level=0.95, sizes=[2], counts=[200], images_a_patient=2)
            assert unknown.probability <= known.probability + 0.005

    def test_a_perfect_model_passes_for_certain_or_never(self):
        """At a truth of 1 only the size of the test set matters."""
        for patients, certain in ((73, 0.0), (74, 1.0)):
            assert passing(0.95, true=1.0, level=0.95, sizes=[2], counts=[patients]).probability == certain


class TestPatientsToShow:
    @pytest.mark.parametrize(("threshold", "table"), [(0.90, LINE_90), (0.95, LINE_95)])
    def test_of_one_image_each_it_is_the_printed_table(self, threshold, table):
        """Patients and images are the same, and the power is exact."""
        for true, (eighty, ninety) in table.items():
            for target, n in ((0.8, eighty), (0.9, ninety)):
                found = patients_to_show(threshold, true=true, target=target, level=0.95)
                assert (found.patients, found.images, found.method) == (n, n, "exact")
                assert found.power == power(n, threshold, true=true, level=0.95) >= target

    @pytest.mark.parametrize(("sizes", "counts"), [([2], [1]), ([1, 2], [1, 1]), ([1, 4], [3, 1])])
    def test_of_several_images_the_power_holds_and_hardly_less_does_not(self, sizes, counts):
        """Simulated anew with another seed: the target is met there and missed with an eighth fewer patients."""
        found = patients_to_show(0.90, true=0.96, target=0.8, level=0.95, sizes=sizes, counts=counts)

        def simulated(patients):
            share = np.array(counts) / sum(counts)
            each = np.rint(patients * share).astype(int)
            return passing(0.90, true=0.96, icc=0.5, level=0.95, sizes=sizes, counts=each, replicates=40_000, seed=5)

        assert found.method == "simulated"
        assert simulated(found.patients).probability >= 0.78
        assert simulated(int(found.patients / 1.125)).probability < 0.8
        assert found.images == pytest.approx(found.patients * np.average(sizes, weights=counts), abs=max(sizes))

    def test_more_correlation_or_a_higher_target_takes_no_fewer(self):
        """In steps that the simulation can tell apart."""
        at = [
            patients_to_show(0.90, true=0.96, target=target, level=0.95, sizes=[2], icc=icc).patients
            for icc, target in ((0.0, 0.8), (0.4, 0.8), (0.9, 0.8), (0.9, 0.95))
        ]
        assert at == sorted(at)

    @pytest.mark.parametrize("sizes", [[1], [2]])
    def test_no_realistic_number(self, sizes):
        """A truth at, below or a hair above the threshold."""
        for true in (0.90, 0.85, 0.9001):
            assert patients_to_show(0.90, true=true, target=0.8, level=0.95, sizes=sizes) is None

    def test_an_estimate_needs_the_cases_from_which_it_stays(self):
        """By brute force over all numbers of cases."""
        found = patients_to_show(0.90, true=0.95, target=0.8, level=0.95, point=True).patients
        chance = [binom.sf(-(-9 * n // 10) - 1, n, 0.95) for n in range(1, 500)]
        assert found == max(n for n, c in enumerate(chance, 1) if c < 0.8) + 1

    def test_the_fewest_without_a_miss_of_mixed_sizes(self):
        """With half the patients bringing two images, the first number whose bound reaches the threshold."""
        fewest = smallest_without_miss(0.95, level=0.95, images=[1, 2], counts=[1, 1])
        for patients, enough in ((fewest, True), (fewest - 1, False)):
            sizes = np.array([1] * (patients - patients // 2) + [2] * (patients // 2))
            sample = effective_sample(sizes, sizes, level=0.95)
            assert (bounds(sample, level=0.95, interval="clopper-pearson").low >= 0.95) == enough


SCREENING, EVEN = (0.75, 0.10, 0.10, 0.03, 0.02), (0.2,) * 5


class TestKappa:
    """Its bound, on test sets drawn with errors of one grade."""

    @pytest.mark.parametrize(
        ("patients", "mix", "bound"), [(200, EVEN, 0.93), (200, SCREENING, 0.84), (60, EVEN, 0.77)]
    )
    def test_without_an_error(self, patients, mix, bound):
        """The fewest patients whose limit reaches what so many show are so many."""
        at = agreement.limits(patterns_of_one(), patients * np.array(mix), "quadratic", level=0.95)[0]
        assert round(at, 2) == bound
        for more, expected in ((-1e-9, patients), (1e-9, patients + 1)):
            assert kappa_without_miss(at + more, weights="quadratic", mix=mix, level=0.95) == expected

    def test_without_an_error_of_pairs_of_one_grade(self):
        """Two images of one grade are worth one; declared pairs are taken to be such, and the last may be single."""
        known = kappa_without_miss(0.8, weights="linear", mix=EVEN, level=0.95, sizes=[2])
        declared = kappa_without_miss(0.8, weights="linear", mix=EVEN, level=0.95, sizes=[2], images_a_patient=2)
        assert kappa_without_miss(0.8, weights="linear", mix=EVEN, level=0.95) == known == declared
        assert kappa_without_miss(0.8, weights="linear", mix=(0, 1, 0, 0, 0), level=0.95) is None

    @pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
    def test_errors_of_one_grade_give_the_expected_kappa(self, weights):
        """scikit-learn's kappa of a table in whole images with that share of errors."""
        rate = one_grade_off(0.85, weights=weights, mix=EVEN)
        table = np.diag([1e6 * (1 - rate)] * 5)
        for grade, others in enumerate(([1], [0, 2], [1, 3], [2, 4], [3])):
            table[grade, others] = 1e6 * rate / len(others)
        reference, predicted = np.indices((5, 5))
        found = cohen_kappa_score(
            reference.ravel(),
            predicted.ravel(),
            weights=None if weights == "none" else weights,
            sample_weight=table.ravel(),
        )
        assert found == pytest.approx(0.85, abs=1e-9)

    def test_errors_of_one_grade_have_a_largest_effect(self):
        """At the even mix with every image one off, 1 - 1 / (2 + 1.4) by the variances; of one grade no kappa."""
        for true, possible in ((0.71, True), (0.70, False)):
            assert (one_grade_off(true, weights="quadratic", mix=EVEN) is not None) == possible
        assert one_grade_off(0.9, weights="none", mix=(0, 0, 1, 0, 0)) is None
        with pytest.raises(ValueError, match="do not give"):
            passing_kappa(0.5, true=0.6, weights="quadratic", mix=EVEN, level=0.95)

    @pytest.mark.parametrize("kind", ["bound", "pairs", "declared", "point"])
    def test_it_is_a_literal_simulation(self, kind):
        """Patients drawn one by one: grade, side and wrong images of each; each table is tested."""
        sizes = [2] * 110 if kind in ("pairs", "declared") else [1] * 120
        rng, rate, passes = np.random.default_rng(8), one_grade_off(0.86, weights="linear", mix=SCREENING), 0
        for _ in range(400):
            patients = np.zeros((len(sizes), 5, 5))
            for at, size in enumerate(sizes):
                grade = rng.choice(5, p=SCREENING)
                beside = rng.choice([other for other in (grade - 1, grade + 1) if 0 <= other < 5])
                wrong = rng.binomial(size, rng.beta(rate, 1 - rate))  # correlated by .5
                patients[at, grade, grade], patients[at, grade, beside] = size - wrong, wrong
            value, defined = agreement.kappa(patients.sum(axis=0), "linear")
            counts, per = np.ones(len(sizes)), 1
            if kind == "declared":
                counts, patients, per = patients.sum(axis=0).ravel(), np.eye(25).reshape(25, 5, 5), 2
            if kind == "point":
                passes += bool(defined) and value >= 0.85
            else:
                p_value = agreement.p_value_of(patients, counts, "linear", images_a_patient=per)
                passes += p_value(0.7, "lower") <= 0.025
        found = passing_kappa(
            0.85 if kind == "point" else 0.7,
            true=0.86,
            weights="linear",
            mix=SCREENING,
            level=0.95,
            sizes=[sizes[0]],
            counts=[len(sizes)],
            point=kind == "point",
            images_a_patient=2 if kind == "declared" else 1,
        )
        assert 0.05 < found.probability < 0.95
        assert found.probability == pytest.approx(passes / 400, abs=4 * np.sqrt(0.25 / 400))
        assert found.se == pytest.approx(np.sqrt(found.probability * (1 - found.probability) / 4000))

    @pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
    @pytest.mark.parametrize("mix", [SCREENING, EVEN])
    def test_at_the_threshold_it_is_at_most_a_false_pass(self, weights, mix):
        """At most 2.5 %, and more patients or a better model pass more often."""

        def chance(true, patients):
            sizes, counts = [1, 2], [patients // 2, patients // 2]
            return passing_kappa(
                0.8, true=true, weights=weights, mix=mix, level=0.95, sizes=sizes, counts=counts
            ).probability

        assert chance(0.8, 300) <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 4000)
        along = [chance(true, 200) for true in (0.8, 0.85, 0.9, 0.95)] + [chance(0.95, 400)]
        assert along == sorted(along)
        assert along[-1] > 0.9

    def test_a_declaration_helps_no_more_than_the_patients(self):
        """The same pairs, known or declared."""
        known, declared = (
            passing_kappa(
                0.8, true=0.9, weights="linear", mix=EVEN, level=0.95, counts=[100], sizes=[2], images_a_patient=most
            ).probability
            for most in (1, 2)
        )
        assert declared <= known + 0.005

    def test_the_patients_needed_have_the_power_and_fewer_have_not(self):
        """Drawn anew with another seed; a higher target or a nearer truth takes more."""
        shared = {"weights": "quadratic", "mix": SCREENING, "level": 0.95, "sizes": [1, 2]}
        found = patients_for_kappa(0.8, true=0.9, target=0.8, counts=[1, 1], **shared)
        for part, enough in ((1, True), (0.85, False)):
            half = int(part * found.patients / 2)
            again = passing_kappa(0.8, true=0.9, counts=[half, half], seed=9, **shared).probability
            assert (again >= 0.78) == enough
        assert found.images == pytest.approx(1.5 * found.patients, abs=1)
        assert patients_for_kappa(0.8, true=0.9, target=0.95, counts=[1, 1], **shared).patients > found.patients
        assert patients_for_kappa(0.8, true=0.87, target=0.8, counts=[1, 1], **shared).patients > found.patients
        assert patients_for_kappa(0.8, true=0.8, target=0.8, counts=[1, 1], **shared) is None


def patterns_of_one():
    """Patients with one image that is graded correctly, by grade."""
    return np.eye(5)[:, :, None] * np.eye(5)


class TestScreening:
    @pytest.mark.parametrize(("cases", "share", "assurance"), [(1, 0.5, 0.9), (72, 0.02, 0.9), (300, 0.13, 0.99)])
    def test_it_is_the_negative_binomial_quantile(self, cases, share, assurance):
        """SciPy counts the patients who are no case."""
        assert patients_to_screen(cases, share, assurance=assurance) == cases + nbinom.ppf(assurance, cases, share)

    def test_at_the_ends(self):
        """Nothing to find takes nobody, a share of 1 takes just those, a share of 0 finds none."""
        assert patients_to_screen(0, 0.1, assurance=0.9) == 0
        assert patients_to_screen(7, 1.0, assurance=0.9) == 7
        assert patients_to_screen(7, 0.0, assurance=0.9) is None


class TestNoAnswer:
    def test_no_realistic_number(self):
        """A truth at or below the threshold, or a hair above it, cannot be shown."""
        assert cases_needed(0.95, true=0.95, target=0.8, level=0.95) is None
        assert cases_needed(0.95, true=0.94, target=0.8, level=0.95) is None
        assert cases_needed(0.95, true=0.9501, target=0.8, level=0.95) is None

    def test_too_few_for_any_result(self):
        """59 PDR images can never show .95: no number of misses is small enough, and the power is 0."""
        assert misses_allowed(59, 0.95, level=0.95) is None
        assert power(59, 0.95, true=1.0, level=0.95) == 0
        assert power(72, 0.95, true=1.0, level=0.95) == 1

    def test_joint_power_is_the_product(self):
        """Criteria on different grades pass independently."""
        assert joint_power([0.8, 0.9]) == pytest.approx(0.72)
        assert joint_power([]) == 1

    @pytest.mark.parametrize("threshold", [0, 1, 90])
    def test_a_threshold_is_a_fraction(self, threshold):
        """90 for 0.90 is refused."""
        with pytest.raises(ValueError):
            misses_allowed(100, threshold, level=0.95)


def test_statistics_start_light():
    """The functions load neither pandas, statsmodels, scikit-learn, torch nor the slow parts of SciPy."""
    code = (
        "import sys; from drgate.stats import agreement, bootstrap, cluster, confusion, paired, power, proportion, "
        "ranking, stability; heavy = {'pandas', 'statsmodels', 'sklearn', 'torch', 'scipy.stats', 'scipy.optimize'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
