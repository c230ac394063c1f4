"""The limits of a mean difference in [-1, 1]: against Clopper-Pearson, against gammas that are drawn, and by laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgate.stats.bounded import limits, p_value_of
from drgate.stats.proportion import exact_bounds


def test_of_losses_of_one_size_it_is_clopper_pearson():
    """To the saddlepoint's accuracy: 5 of 100, 0 of 60, 12 of 40 images on which the reader alone is right."""
    for lost, n in ((5, 100), (0, 60), (12, 40)):
        sums = np.repeat([-1.0, 0.0], [lost, n - lost])
        low, _ = limits(sums, np.ones(n), level=0.95)
        assert low == pytest.approx(exact_bounds(n - lost, n, level=0.95).low - 1, abs=4e-4)


def test_the_p_value_is_that_of_drawn_gammas():
    """Patients of one to three images, and one more with the weighted mean size, by a million draws."""
    generator = np.random.default_rng(5)
    weights = np.repeat([1.0, 2.0, 3.0], [30, 20, 5])
    sums = np.clip(generator.choice([-1, -0.5, 0, 0, 0, 0, 0.5, 1], 55), -1, 1) * weights
    worst = float((weights**2).sum() / weights.sum())
    drawn = generator.standard_exponential((300_000, 56))
    for candidate in (-0.35, -0.25, -0.2):
        terms = np.append(candidate * weights - sums, worst * (1 + candidate))
        assert p_value_of(sums, weights)(candidate) == pytest.approx(float((drawn @ terms > 0).mean()), abs=1.5e-3)


@given(
    st.lists(st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), st.integers(1, 4)), min_size=2, max_size=30),
    st.data(),
)
def test_a_lost_image_never_raises_a_limit(patients: list[tuple[float, int]], data: st.DataObject):
    weights = np.array([float(size) for _, size in patients])
    sums = np.array([share for share, _ in patients]) * weights
    low, high = limits(sums, weights, level=0.95)
    assert -1 <= low <= sums.sum() / weights.sum() <= high <= 1
    at = data.draw(st.integers(0, len(patients) - 1))
    worse = sums.copy()
    worse[at] = max(-weights[at], worse[at] - 1)
    again = limits(worse, weights, level=0.95)
    assert again[0] <= low + 1e-9
    assert again[1] <= high + 1e-9
    mirrored = limits(-sums, weights, level=0.95)
    assert mirrored == pytest.approx((-high, -low), abs=1e-9)
