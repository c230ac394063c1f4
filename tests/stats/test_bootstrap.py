"""The multinomial bootstrap equals the ordinary and the cluster bootstrap, and nothing but the data moves it."""

from __future__ import annotations

import hashlib

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
        """The distinct rows of the patients x cells table, in lexicographic order, with their multiplicities."""
        cells, patients = np.array(rows).T
        full = np.zeros((9, 30), dtype=int)
        np.add.at(full, (patients, cells), 1)
        expected, times = np.unique(full[full.sum(axis=1) > 0], axis=0, return_counts=True)
        patterns, counts = b.patient_patterns(cells, patients)
        assert (patterns.tolist(), counts.tolist()) == (expected.tolist(), times.tolist())

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
        assert counts.tolist() == [2, 1]
        assert patterns[:, [0, 28, 29]].tolist() == [[40, 0, 1], [40, 1, 0]]

    def test_worst_grade(self):
        """A patient's stratum is the highest reference grade among the images."""
        patterns, counts = b.patient_patterns(CELLS, PATIENTS)
        worst = [REFERENCE[patient == PATIENTS].max() for patient in range(150)]
        strata = b.worst_grade(patterns)
        assert [int(counts[strata == g].sum()) for g in range(5)] == np.bincount(worst, minlength=5).tolist()

    @pytest.mark.parametrize(
        ("cells", "patients"), [([30], [0]), ([-1], [0]), ([1, 2], [0]), ([1], [0.5]), ([[1]], [[1]])]
    )
    def test_what_is_no_table_is_refused(self, cells, patients):
        """Cells outside the table and codes that are no integers are errors."""
        with pytest.raises(ValueError):
            b.patient_patterns(np.array(cells), np.array(patients))

    def test_nobody_cannot_be_resampled(self):
        """A bootstrap of nothing is an error."""
        with pytest.raises(ValueError):
            b.resample_images(np.zeros((5, 6), int), resamples=10, seed=0)


class TestDistribution:
    @pytest.mark.parametrize("by_patient", [False, True], ids=["images", "patients"])
    def test_equals_a_literal_resampling_loop(self, by_patient):
        """The same distribution of accuracy, sensitivity and images by Kolmogorov-Smirnov, mean and variance."""
        loop = literal(4000, 2, by_patient=by_patient)
        if by_patient:
            ours = b.resample_patients(*b.patient_patterns(CELLS, PATIENTS), resamples=4000, seed=3)
        else:
            ours = b.resample_images(TABLE, resamples=4000, seed=3)
        for ratio in (c.accuracy("excluded"), c.sensitivity((2, 3, 4), "as_referred"), c.no_output()):
            mine, theirs = ratio.values(ours)[0], ratio.values(loop)[0]
            assert ks_2samp(mine, theirs).pvalue > 0.01
            assert mine.mean() == pytest.approx(theirs.mean(), abs=5 * theirs.std() / np.sqrt(2000))
            assert mine.std() == pytest.approx(theirs.std(), rel=0.06)

    def test_covariance_of_images_is_multinomial(self):
        """Cells of resampled images have the multinomial mean and covariance."""
        ours = b.resample_images(TABLE, resamples=20_000, seed=4)
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

    def test_chunks_change_no_size(self, monkeypatch):
        """Small chunks give every replicate its full number of patients."""
        monkeypatch.setattr(b, "_CHUNK", 100)
        patterns, counts = b.patient_patterns(CELLS, PATIENTS)
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
        first, again, other = (b.resample_images(TABLE, resamples=20, seed=s) for s in (2**64 - 1, 2**64 - 1, 7))
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
        replicates = ratio.values(b.resample_images(table, resamples=20_000, seed=1))[0]
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
        replicates = ratio.values(b.resample_images(table, resamples=10_000, seed=1))[0]
        jackknife = ratio.values(b.leave_one_out(patterns, counts))[0]
        bca = b.bca_interval(replicates, 0.95, estimate=0.95, jackknife=jackknife, counts=counts)
        assert bca.low < b.percentile_interval(replicates, 0.95).low

    def test_bca_does_not_exist_without_variation(self):
        """With every case right there is no BCa interval, and it says so; the percentile interval is [1, 1]."""
        table = np.zeros(30, int)
        table[0] = 50
        _, counts = b.image_patterns(table)
        replicates = c.accuracy("excluded").values(b.resample_images(table, resamples=100, seed=1))[0]
        assert b.bca_interval(replicates, 0.95, estimate=1.0, jackknife=np.ones(1), counts=counts) is None
        interval = b.percentile_interval(replicates, 0.95)
        assert (interval.low, interval.high) == (1.0, 1.0)

    def test_leave_one_out(self):
        """Each jackknife table lacks exactly one patient of its pattern."""
        patterns, counts = b.patient_patterns(CELLS, PATIENTS)
        tables = b.leave_one_out(patterns, counts)
        assert np.array_equal(tables + patterns, np.broadcast_to(TABLE, tables.shape))
