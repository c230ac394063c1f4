"""The order of classes: what is named, and what is left alone; against brute force and SciPy's own Fisher test."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact
from sklearn import metrics as sk

from drgate.stats import agreement
from drgate.stats.class_order import CHANCE, FALL, Reordered, reordered

GOOD = ((180, 6, 2, 0, 0), (8, 60, 5, 0, 0), (3, 6, 90, 6, 1), (0, 0, 8, 40, 5), (0, 0, 2, 5, 50))
"""A model with accuracy .88; 500 images."""
ORDERS = {
    "alphabetical": (1, 2, 0, 4, 3),
    "reversed": (4, 3, 2, 1, 0),
    "shifted": (1, 2, 3, 4, 0),
    "no DR and mild": (1, 0, 2, 3, 4),
    "mild and moderate": (0, 2, 1, 3, 4),
    "moderate and severe": (0, 1, 3, 2, 4),
    "severe and PDR": (0, 1, 2, 4, 3),
}


def of(table: Any, *, order: Any = None, eyes: int = 1) -> Reordered | None:
    """What is found in counts whose class j holds grade order[j]. eyes: images of a patient, all the same."""
    permuted = np.asarray(table)[:, list(order or range(len(table)))] * eyes
    k = len(permuted)
    cells = np.repeat(np.arange(k * k), permuted.ravel())
    return reordered(cells // k, cells % k, np.full(len(cells), 1 / eyes), classes=k)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_each_wrong_order_of_a_good_model_is_named(order: tuple[int, ...]):
    """The grade that each class holds, and the figures before and after are those of scikit-learn."""
    found = of(GOOD, order=order)
    assert found is not None
    assert (found.order, found.unsettled) == (order, ())
    reference = np.repeat(np.repeat(np.arange(5), 5), np.ravel(GOOD))
    mended = np.repeat(np.tile(np.arange(5), 5), np.ravel(GOOD))
    given_as = np.argsort(order)[mended]
    for at, answers in enumerate((given_as, mended)):
        assert found.right[at] == (answers == reference).sum()
        assert found.sensitivity[at] == pytest.approx(sk.balanced_accuracy_score(reference, answers))
        assert found.kappa[at] == pytest.approx(sk.cohen_kappa_score(reference, answers, weights="quadratic"))
    assert found.chance <= CHANCE


SHIFTED = [[0] * 5 for _ in range(5)]
for grade, size in enumerate((300, 40, 100, 30, 30)):
    SHIFTED[grade][max(grade - 1, 0)] = size
ARTEFACTS = np.array(GOOD) + np.outer(np.sum(GOOD, axis=1) // 5, (0, 0, 0, 0, 1))
LEFT_ALONE = {
    "right": GOOD,
    "one grade too low": SHIFTED,
    "one grade too high": np.array(SHIFTED)[::-1, ::-1].tolist(),
    "too low, and PDR for every dark photograph": np.array(SHIFTED)
    + np.array([[0, 0, 0, 0, 60]] + [[0, 0, 0, 0, 6]] * 4),
    "all as the rarest class": [[0, 0, 0, n, 0] for n in (300, 40, 100, 30, 30)],
    "at random": np.outer((30, 4, 10, 3, 3), (1, 2, 3, 4, 5)).tolist(),
    "PDR for every dark photograph": ARTEFACTS.tolist(),
    "severe and PDR not told apart": [*GOOD[:3], (0, 0, 8, 20, 25), (0, 0, 2, 27, 28)],
    "two grades only": [(200, 3, 0, 0, 0), (0, 0, 0, 0, 0), (0, 4, 0, 90, 0), (0,) * 5, (0,) * 5],
    "mild too high and moderate too low": [(724, 264, 72, 10, 0), (0, 26, 113, 0, 0), (219, 297, 256, 0, 0), *GOOD[3:]],
    "treated PDR as moderate, severe as PDR": [*GOOD[:3], (0, 0, 8, 15, 30), (10, 10, 20, 12, 5)],
    "few images": np.array(GOOD)[:, [1, 2, 0, 4, 3]] // 40,
}


@pytest.mark.parametrize("table", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_a_model_that_is_wrong_otherwise_is_left_alone(table: Any):
    """Grading too low, too high, at random, as one class or as PDR when in doubt is no wrong order."""
    assert of(table) is None


def test_classes_that_the_images_do_not_tell_apart_are_said():
    """Where PDR has two images, whether the last two classes are exchanged is not known."""
    rare = [*GOOD[:3], (0, 0, 1, 2, 0), (0, 0, 0, 0, 2)]
    found = of(rare, order=(1, 2, 0, 4, 3))
    assert found is not None
    assert found.order[:3] == (1, 2, 0)
    assert (3, 4) in found.unsettled


def test_several_images_of_a_patient_count_as_one():
    """Copies of every image change neither the order nor the chance, and rows may come in any order."""
    once, thrice = of(GOOD, order=(0, 2, 1, 3, 4)), of(GOOD, order=(0, 2, 1, 3, 4), eyes=3)
    assert once is not None
    assert thrice is not None
    assert (thrice.order, thrice.chance) == (once.order, once.chance)
    assert thrice.right == tuple(3 * n for n in once.right)


def test_an_inverted_answer_of_two_classes_is_named():
    """Referable for not referable, and not a model that is only as good as chance."""
    found = of([[30, 270], [90, 20]])
    assert found is not None
    assert found.order == (1, 0)
    assert of([[150, 150], [60, 50]]) is None


@given(st.lists(st.integers(0, 40), min_size=25, max_size=25))
@settings(max_examples=150, deadline=None)
def test_as_a_plain_loop_finds_it(cells: list[int]):
    """The best permutation, its chance by SciPy's Fisher test, and the gain, on arbitrary tables."""
    table = np.array(cells).reshape(5, 5)
    if not table.sum():
        return
    best = max(itertools.permutations(range(5)), key=lambda one: sum(table[one[j], j] for j in range(5)))
    reversals = []
    lows_highs = [({a}, {b}) for a in range(5) for b in range(a + 1, 5)]
    lows_highs += [({*range(cut)}, {*range(cut, 5)}) for cut in range(1, 5)]
    for low, high in lows_highs:
        for j in range(1, 5):
            four = [
                [sum(table[g, p] for g in part for p in side) for side in (range(j, 5), range(j))]
                for part in (low, high)
            ]
            reversals.append(56 * fisher_exact(four, alternative="greater").pvalue)
    found = of(table)
    if found is None:
        if min(reversals) <= CHANCE / 1.01:  # then the gain is small
            mended = table[:, np.argsort(best)]
            there = table.sum(axis=1) > 0
            gain = ((np.diagonal(mended) - np.diagonal(table))[there] / table.sum(axis=1)[there]).mean()
            before, after = (agreement.kappa(one, "quadratic")[0] for one in (table, mended))
            assert gain < 0.1 + 1e-9 or after - before < -FALL + 1e-9
    else:
        assert found.order == best
        assert found.chance == pytest.approx(min(reversals))
