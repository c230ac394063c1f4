"""Which images make up each optimizer step: every image once, the same steps on any number of processes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.sampling import epoch_order, global_batches, repeats

GRADES = st.lists(st.integers(0, 4), min_size=1, max_size=200).map(lambda grades: np.array(grades, dtype=np.int64))
SEEDS = st.integers(0, 2**32 - 1)
EPOCHS = st.integers(1, 10_000)


class TestNaturalOrder:
    @given(GRADES, SEEDS, EPOCHS)
    def test_shows_every_image_once(self, grades, seed, epoch):
        """An epoch is a permutation, and asking again gives the same one."""
        order = epoch_order(grades, seed=seed, epoch=epoch, sampling="natural")
        assert sorted(order) == list(range(len(grades)))
        assert order.dtype == np.int64
        assert np.array_equal(order, epoch_order(grades, seed=seed, epoch=epoch, sampling="natural"))

    def test_every_seed_and_epoch_has_its_own(self):
        """400 epochs of 20 seeds: no order twice, and every image is first about equally often."""
        grades = np.zeros(10, dtype=np.int64)
        orders = [
            tuple(epoch_order(grades, seed=seed, epoch=epoch, sampling="natural"))
            for seed, epoch in itertools.product(range(20), range(1, 21))
        ]
        assert len(set(orders)) == 400
        first = np.bincount([order[0] for order in orders], minlength=10)
        assert ((first - 40) ** 2 / 40).sum() < 27.9, "chi-square with 9 degrees of freedom, p = 0.001"


class TestBalancedOrder:
    @given(GRADES, SEEDS, EPOCHS)
    def test_shows_every_grade_equally_often(self, grades, seed, epoch):
        """As many images as there are; grades differ by one at most; within a grade, so do the images."""
        order = epoch_order(grades, seed=seed, epoch=epoch, sampling="balanced")
        assert len(order) == len(grades)
        shown = np.bincount(order, minlength=len(grades))
        by_grade = [shown[grades == grade] for grade in np.unique(grades)]
        assert np.ptp([counts.sum() for counts in by_grade]) <= 1
        for counts in by_grade:
            assert np.ptp(counts) <= 1
        assert np.array_equal(order, epoch_order(grades, seed=seed, epoch=epoch, sampling="balanced"))

    def test_is_mixed(self):
        """Grades do not come one after another: the first half of the order has about half of each."""
        grades = np.repeat(np.arange(5), [800, 50, 100, 30, 20])
        order = epoch_order(grades, seed=0, epoch=1, sampling="balanced")
        half = np.bincount(grades[order[:500]], minlength=5)
        assert half == pytest.approx([100] * 5, abs=30)

    def test_frequent_grades_show_other_images_in_the_next_epoch(self):
        """What one epoch leaves out is not left out for good: after 30 epochs of a fifth nearly all were shown."""
        grades = np.repeat(np.arange(5), [800, 50, 100, 30, 20])
        orders = [epoch_order(grades, seed=0, epoch=epoch, sampling="balanced") for epoch in range(1, 31)]
        assert len(np.unique(np.concatenate(orders))) > 990

    def test_another_word_is_refused(self):
        """No sampling is guessed."""
        with pytest.raises(ValueError, match="expected natural or balanced"):
            epoch_order(np.zeros(3, dtype=np.int64), seed=0, epoch=1, sampling="even")


class TestRepeats:
    @given(st.lists(st.integers(0, 5), max_size=60))
    def test_count_what_came_before(self, order):
        """By counting in a loop."""
        expected = [order[:place].count(image) for place, image in enumerate(order)]
        assert repeats(np.array(order, dtype=np.int64)).tolist() == expected


SIZES = st.tuples(st.integers(0, 150), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))


class TestGlobalBatches:
    @given(SIZES)
    def test_hold_every_position_once(self, sizes):
        """Nothing is repeated to fill a batch and nothing is dropped; the steps follow the order."""
        n, batch_size, accumulation, world_size = sizes
        order = np.random.default_rng(n).permutation(n)
        steps = list(global_batches(order, batch_size=batch_size, accumulation=accumulation, world_size=world_size))
        shown = [position for step in steps for batches in step.batches for batch in batches for position in batch]
        assert shown == order.tolist()
        whole = batch_size * accumulation * world_size
        assert [step.images for step in steps] == [min(whole, n - start) for start in range(0, n, whole)]

    @given(SIZES)
    def test_fit_into_memory_and_keep_ranks_together(self, sizes):
        """No micro-batch above batch_size; every rank makes the same number of passes, as few as possible; shares of
        ranks differ by one image at most."""
        n, batch_size, accumulation, world_size = sizes
        for step in global_batches(
            np.arange(n), batch_size=batch_size, accumulation=accumulation, world_size=world_size
        ):
            assert len(step.batches) == world_size
            assert max(len(batch) for batches in step.batches for batch in batches) <= batch_size
            (passes,) = {len(batches) for batches in step.batches}
            assert passes == min(k for k in range(1, accumulation + 1) if k * batch_size * world_size >= step.images)
            assert np.ptp([sum(map(len, batches)) for batches in step.batches]) <= 1
            assert sum(len(batch) for batches in step.batches for batch in batches) == step.images

    @given(st.integers(0, 150), st.integers(1, 4), st.data())
    def test_are_the_same_sets_on_any_number_of_processes(self, n, multiple, data):
        """One, two, three or four processes with the same global batch: the same images in every step, the incomplete
        one included."""
        order = np.random.default_rng(n).permutation(n)
        whole = 12 * multiple
        unions = []
        for world_size in (1, 2, 3, 4):
            each = whole // world_size
            batch_size = data.draw(st.sampled_from([size for size in range(1, each + 1) if each % size == 0]))
            steps = global_batches(order, batch_size=batch_size, accumulation=each // batch_size, world_size=world_size)
            unions.append([sorted(itertools.chain(*itertools.chain(*step.batches))) for step in steps])
        assert unions[0] == unions[1] == unions[2] == unions[3]

    def test_fewer_images_than_ranks(self):
        """Two images on four ranks: two ranks have an empty batch to pass."""
        (step,) = global_batches(np.array([5, 9]), batch_size=6, accumulation=4, world_size=4)
        assert [[batch.tolist() for batch in batches] for batches in step.batches] == [[[5]], [[9]], [[]], [[]]]
