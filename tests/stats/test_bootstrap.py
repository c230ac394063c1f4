"""The multinomial bootstrap equals the ordinary and the cluster bootstrap, and nothing but the data moves it."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, ks_2samp

from drgate.stats import bootstrap as b
from drgate.stats import confusion as c

RNG = np.random.default_rng(11)
SIZES = RNG.integers(1, 5, 150)
PATIENTS = np.repeat(np.arange(150), SIZES)
REFERENCE = np.repeat(RNG.integers(0, 5, 150), SIZES)
PREDICTED = np.where(RNG.random(PATIENTS.size) < 0.7, REFERENCE, RNG.integers(-1, 5, PATIENTS.size))
CELLS = c.cells(REFERENCE, PREDICTED)
TABLE = np.bincount(CELLS, minlength=30)
images = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 8)), min_size=1, max_size=60)


def literal(resamples, seed, *, by_patient):
    """The bootstrap as a textbook writes it: draw rows (of patients), count again."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(patient == PATIENTS) for patient in range(150)]
    tables = []
    for _ in range(resamples):
        if by_patient:
            drawn = np.concatenate([rows[i] for i in rng.integers(0, 150, 150)])
        else:
            drawn = rng.integers(0, CELLS.size, CELLS.size)
        tables.append(np.bincount(CELLS[drawn], minlength=30))
    return np.array(tables)


class TestPatterns:
    @given(images)
    def test_brute_force_agrees(self, rows):
        """The distinct rows of the patients x cells table, with their multiplicities."""
        cells, patients = np.array(rows).T
        full = np.zeros((9, 30), dtype=int)
        np.add.at(full, (patients, cells), 1)
        expected, times = np.unique(full[full.sum(axis=1) > 0], axis=0, return_counts=True)
        patterns, counts = b.patient_patterns(cells, patients)
        order = np.lexsort(patterns.T[::-1])
        assert (patterns[order].tolist(), counts[order].tolist()) == (expected.tolist(), times.tolist())

    @given(images, st.randoms(use_true_random=False))
    def test_order_of_rows_and_names_of_patients_do_not_matter(self, rows, random):
        """Shuffled rows and other codes for the same patients give the same tables, replicate by replicate."""
        cells, patients = np.array(rows).T
        names = list(range(100, 109))
        random.shuffle(names)
        renamed = [(cell, names[patient]) for cell, patient in rows]
        random.shuffle(renamed)
        other = b.patient_patterns(*np.array(renamed).T)
        mine = b.patient_patterns(cells, patients)
        assert np.array_equal(
            b.resample_patients(*mine, resamples=5, seed=1), b.resample_patients(*other, resamples=5, seed=1)
        )

    def test_patients_with_very_many_images(self):
        """More images than fit into one key are told apart as well."""
        cells = np.tile(np.r_[np.zeros(40, int), 29], 3)
        cells[-1] = 28
        patterns, counts = b.patient_patterns(cells, np.repeat([0, 1, 2], 41))
        assert counts.tolist() == [1, 2]
        assert patterns[:, [0, 28, 29]].tolist() == [[40, 1, 0], [40, 0, 1]]

    def test_worst_grade(self):
        """A patient's stratum is the highest reference grade among the images."""
        patterns, counts = b.patient_patterns(CELLS, PATIENTS)
        worst = [REFERENCE[patient == PATIENTS].max() for patient in range(150)]
        strata = b.worst_grade(patterns)
        assert [int(counts[strata == g].sum()) for g in range(5)] == np.bincount(worst, minlength=5).tolist()

    @pytest.mark.parametrize(
        ("cells", "patients", "times"),
        [
            ([30], [0], None),
            ([-1], [0], None),
            ([1, 2], [0], None),
            ([1], [0.5], None),
            ([1.0], [0], None),
            ([[1]], [[1]], None),
            ([1], [1], [5]),
            ([1], [-1], [5]),
            ([1], [0], [[5]]),
        ],
    )
    def test_what_is_no_table_is_refused(self, cells, patients, times):
        """Cells outside the table, codes that are no integers and patients without a multiplicity are errors."""
        with pytest.raises(ValueError):
            b.patient_patterns(np.array(cells), np.array(patients), times)

    def test_no_image_has_no_pattern(self):
        """An empty slice has no patient."""
        none = np.zeros(0, dtype=int)
        patterns, counts = b.patient_patterns(none, none, np.array([3, 4]))
        assert (patterns.shape, counts.shape) == ((0, 30), (0,))

    def test_nobody_cannot_be_resampled(self):
        """A bootstrap of nothing is an error."""
        with pytest.raises(ValueError):
            b.resample_patients(*b.image_patterns(np.zeros((5, 6), int)), resamples=10, seed=0)


class TestDistinctPatients:
    KINDS = 5000

    @staticmethod
    def multisets(codes, patients, times=None):
        """How many patients have each multiset of codes, counted with Python's own dictionaries."""
        images = {}
        for code, patient in zip(codes.tolist(), patients.tolist(), strict=True):
            images.setdefault(patient, []).append(code)
        found = Counter()
        for patient, mine in images.items():
            found[tuple(sorted(mine))] += 1 if times is None else int(times[patient])
        return found

    @given(st.lists(st.tuples(st.integers(0, KINDS - 1), st.integers(-3, 8)), min_size=1, max_size=80))
    def test_brute_force_agrees(self, rows):
        """Each multiset of codes occurs once, with the number of patients who have it; nothing else occurs."""
        rows = [(code % 3 * 2499, patient) for code, patient in rows]
        codes, patients = np.array(rows).T
        distinct = b.distinct_patients(codes, patients, self.KINDS)
        assert self.multisets(distinct.codes, distinct.patients, distinct.times) == self.multisets(codes, patients)
        assert len(set(distinct.patients.tolist())) == distinct.times.size
        assert (np.diff(distinct.patients) >= 0).all()

    @given(images, st.randoms(use_true_random=False))
    def test_order_of_rows_and_names_of_patients_do_not_matter(self, rows, random):
        """Shuffled rows and any other names, also the farthest apart, give the same arrays."""
        names = random.sample([-(2**63), 2**63 - 1, *range(7)], 9)
        renamed = [(code, names[patient]) for code, patient in rows]
        random.shuffle(renamed)
        codes, patients = np.array(rows).T
        others, renamed_patients = np.array(renamed).T
        first, second = b.distinct_patients(codes, patients, 30), b.distinct_patients(others, renamed_patients, 30)
        for name in ("codes", "patients", "times"):
            assert np.array_equal(getattr(first, name), getattr(second, name))

    @given(images)
    def test_a_slice_of_the_distinct_patients_is_the_slice_of_the_images(self, rows):
        """Patterns of a slice come out the same from the images as from the distinct patients."""
        cells, patients = np.array(rows).T
        camera = (cells * 7 + patients) % 3
        distinct = b.distinct_patients(cells * 3 + camera, patients, 90)
        for wanted in range(3):
            mine, inside = distinct.codes % 3 == wanted, camera == wanted
            compressed = b.patient_patterns(distinct.codes[mine] // 3, distinct.patients[mine], distinct.times)
            for ours, theirs in zip(compressed, b.patient_patterns(cells[inside], patients[inside]), strict=True):
                assert np.array_equal(ours, theirs)

    def test_long_lists_of_large_codes(self):
        """Codes too large to share a key, and more images than a key holds, are told apart in every place."""
        base = np.arange(40) * 10**15
        lists = [base, *(base + (np.arange(40) == place) for place in range(40)), base]
        distinct = b.distinct_patients(np.concatenate(lists), np.repeat(np.arange(42), 40), 10**17)
        assert sorted(distinct.times.tolist()) == [1] * 40 + [2]


class TestDistribution:
    @pytest.mark.parametrize("by_patient", [False, True], ids=["images", "patients"])
    def test_equals_a_literal_resampling_loop(self, by_patient):
        """The same distribution of accuracy, sensitivity and images by Kolmogorov-Smirnov, mean and variance."""
        loop = literal(4000, 2, by_patient=by_patient)
        if by_patient:
            ours = b.resample_patients(*b.patient_patterns(CELLS, PATIENTS), resamples=4000, seed=3)
        else:
            ours = b.resample_patients(*b.image_patterns(TABLE), resamples=4000, seed=3)
        for ratio in (c.accuracy("excluded"), c.sensitivity((2, 3, 4), "as_referred"), c.no_output()):
            mine, theirs = ratio.values(ours)[0], ratio.values(loop)[0]
            assert ks_2samp(mine, theirs).pvalue > 0.01
            assert mine.mean() == pytest.approx(theirs.mean(), abs=5 * theirs.std() / np.sqrt(2000))
            assert mine.std() == pytest.approx(theirs.std(), rel=0.06)

    def test_covariance_of_images_is_multinomial(self):
        """Cells of resampled images have the multinomial mean and covariance."""
        ours = b.resample_patients(*b.image_patterns(TABLE), resamples=20_000, seed=4)
        p = TABLE / TABLE.sum()
        expected = TABLE.sum() * (np.diag(p) - np.outer(p, p))
        assert (ours.sum(axis=1) == TABLE.sum()).all()
        assert np.abs(ours.mean(axis=0) - TABLE).max() < 5 * np.sqrt(expected.max() / 20_000)
        assert np.abs(np.cov(ours.T) - expected).max() < 0.05 * expected.max()

    def test_patients_come_whole(self):
        """Every replicate is a sum of patterns: two images of each patient stay together."""
        cells = np.array([0, 0, 7, 7, 14, 14])
        tables = b.resample_patients(*b.patient_patterns(cells, np.array([0, 0, 1, 1, 2, 2])), resamples=200, seed=0)
        assert (tables % 2 == 0).all()
        assert (tables.sum(axis=1) == 6).all()

    def test_strata_keep_their_patients(self):
        """Stratified by the worst grade, each replicate has the same number of patients of each."""
        cells = c.cells(np.repeat(np.arange(5), [9, 7, 5, 3, 1]), np.zeros(25, int))
        patterns, counts = b.patient_patterns(cells, np.arange(25))
        tables = b.resample_patients(patterns, counts, resamples=50, seed=0, strata=b.worst_grade(patterns))
        assert (tables.reshape(-1, 5, 6).sum(axis=2) == [9, 7, 5, 3, 1]).all()

    @pytest.mark.parametrize("strata", [False, True])
    def test_inflation_draws_fewer_and_multiplies_the_variance(self, strata):
        """Half the patients are drawn, so the variance of a proportion doubles; less than one is refused."""
        patterns, counts = b.patient_patterns(CELLS, PATIENTS)
        labels = b.worst_grade(patterns) if strata else None
        once, twice = (
            b.resample_patients(patterns, counts, resamples=20_000, seed=6, strata=labels, inflation=inflation)
            for inflation in (1, 2)
        )
        assert twice.sum(axis=1).mean() == pytest.approx(once.sum(axis=1).mean() / 2, rel=0.02)
        before, after = (c.accuracy("excluded").values(tables)[0].var() for tables in (once, twice))
        assert after == pytest.approx(2 * before, rel=0.06)
        with pytest.raises(ValueError, match=r"not 0\.5"):
            b.resample_patients(patterns, counts, resamples=2, seed=6, inflation=0.5)

    def test_other_tables(self):
        """Two models side by side, 60 cells, are drawn together."""
        patterns, counts = b.patient_patterns(CELLS, PATIENTS)
        tables = b.resample_patients(np.hstack([patterns, patterns]), counts, resamples=50, seed=7)
        assert np.array_equal(tables[:, :30], tables[:, 30:])
        assert np.array_equal(tables[:, :30], b.resample_patients(patterns, counts, resamples=50, seed=7))

    def test_chunks_change_nothing(self, monkeypatch):
        """Drawing few replicates at once changes no digit."""
        monkeypatch.setattr(b, "_CHUNK", 700)
        patterns, counts = b.patient_patterns(np.r_[CELLS, np.full(99, 7)], np.r_[PATIENTS, np.arange(99) + 150])
        assert 0 < (counts <= b._RARE).sum() < counts.size
        whole = b.resample_patients(patterns, counts, resamples=37, seed=5)
        monkeypatch.undo()
        assert np.array_equal(whole, b.resample_patients(patterns, counts, resamples=37, seed=5))


class TestSeed:
    def test_is_defined_by_its_bytes(self):
        """The first eight bytes, big-endian, of SHA-256 over the digests joined by a line feed."""
        expected = int(hashlib.sha256(b"sha256:aa\nsha256:bb").hexdigest()[:16], 16)
        assert b.seed_from("sha256:aa", "sha256:bb") == expected
        assert b.seed_from("sha256:bb", "sha256:aa") != expected

    def test_alone_decides(self):
        """The same seed gives the same tables, another seed others."""
        images = b.image_patterns(TABLE)
        first, again, other = (b.resample_patients(*images, resamples=20, seed=s) for s in (2**64 - 1, 2**64 - 1, 7))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


class TestIntervals:
    VALUES = np.arange(1001) / 1000

    def test_percentile(self):
        """The central 95 % of the replicates."""
        interval = b.percentile_interval(self.VALUES, 0.95)
        assert (interval.low, interval.high, interval.undefined) == (pytest.approx(0.025), pytest.approx(0.975), 0)

    def test_undefined_replicates_are_left_out_and_counted(self):
        """A replicate without a value moves no end; without any there is no interval."""
        values, defined = np.r_[self.VALUES, np.zeros(40)], np.r_[np.ones(1001, bool), np.zeros(40, bool)]
        interval = b.percentile_interval(values, 0.95, defined)
        assert (interval.low, interval.undefined) == (pytest.approx(0.025), 40)
        assert b.percentile_interval(values, 0.95, np.zeros(1041, bool)) is None
        with pytest.raises(ValueError, match="finite"):
            b.percentile_interval(np.array([np.nan]), 0.95)

    @pytest.mark.parametrize("right", [40, 47, 25])
    def test_bca_agrees_with_scipy(self, right):
        """SciPy's BCa of a proportion of 50, up to the grid of 1/50 and Monte Carlo error."""
        table = np.zeros(30, int)
        table[[0, 1]] = right, 50 - right
        ratio = c.accuracy("excluded")
        patterns, counts = b.image_patterns(table)
        replicates = ratio.values(b.resample_patients(*b.image_patterns(table), resamples=20_000, seed=1))[0]
        jackknife = ratio.values(b.leave_one_out(patterns, counts))[0]
        ours = b.bca_interval(replicates, 0.95, estimate=right / 50, jackknife=jackknife, counts=counts)
        sample = np.r_[np.ones(right), np.zeros(50 - right)]
        theirs = bootstrap((sample,), np.mean, n_resamples=20_000, method="BCa", rng=2).confidence_interval
        assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=0.021), pytest.approx(theirs.high, abs=0.021))

    def test_bca_shifts_a_skewed_interval(self):
        """Near 1 the BCa interval reaches lower than the percentile interval."""
        table = np.zeros(30, int)
        table[[0, 1]] = 95, 5
        patterns, counts = b.image_patterns(table)
        ratio = c.accuracy("excluded")
        replicates = ratio.values(b.resample_patients(*b.image_patterns(table), resamples=10_000, seed=1))[0]
        jackknife = ratio.values(b.leave_one_out(patterns, counts))[0]
        bca = b.bca_interval(replicates, 0.95, estimate=0.95, jackknife=jackknife, counts=counts)
        assert bca.low < b.percentile_interval(replicates, 0.95).low

    def test_bca_does_not_exist_without_variation(self):
        """With every case right there is no BCa interval, and it says so; the percentile interval is [1, 1]."""
        table = np.zeros(30, int)
        table[0] = 50
        patterns, counts = b.image_patterns(table)
        replicates = c.accuracy("excluded").values(b.resample_patients(patterns, counts, resamples=100, seed=1))[0]
        assert b.bca_interval(replicates, 0.95, estimate=1.0, jackknife=np.ones(1), counts=counts) is None
        interval = b.percentile_interval(replicates, 0.95)
        assert (interval.low, interval.high) == (1.0, 1.0)

    def test_leave_one_out(self):
        """Each jackknife table lacks exactly one patient of its pattern."""
        patterns, counts = b.patient_patterns(CELLS, PATIENTS)
        tables = b.leave_one_out(patterns, counts)
        assert np.array_equal(tables + patterns, np.broadcast_to(TABLE, tables.shape))
