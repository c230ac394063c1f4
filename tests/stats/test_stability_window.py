"""Section 9: what "stable" means, and which histories say nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress

from drgate.stats.stability import (
    NotAssessable,
    StabilityWindow,
    is_best_so_far,
    n_val_to_show,
    range_in_sds,
    stability_window,
)

CURVE = [0.5, 0.6, 0.7, 0.8, 0.82, 0.84, 0.85, 0.86, 0.87, 0.9, 0.88, 0.89, 0.87, 0.88, 0.86, 0.87, 0.7]


class TestWindow:
    def test_ends_five_after_the_selected_evaluation(self):
        """Selected 9 of 17: evaluations 5 to 14, whatever follows."""
        window = stability_window(CURVE, 9)
        assert (window.first, window.last) == (5, 14)
        assert window.range == pytest.approx(0.06)

    @pytest.mark.parametrize("selected", [0, 3, 4])
    def test_is_the_first_ten_where_fewer_lie_before(self, selected):
        """An early selection is judged on evaluations 0 to 9."""
        window = stability_window(CURVE, selected)
        assert (window.first, window.last) == (0, 9)

    def test_contains_the_selected_and_five_after_it_always(self):
        """Every position that can be assessed lies in its window with at least five after it."""
        for length in range(10, 30):
            for selected in range(length):
                window = stability_window([0.9] * length, selected)
                if selected + 5 < length:
                    assert window.last - window.first == 9
                    assert window.first <= selected <= window.last - 5
                    assert window.last < length
                else:
                    assert isinstance(window, NotAssessable)

    def test_a_history_that_ends_at_its_best_proves_nothing(self):
        """Fewer than five evaluations after the selected one: not assessable, and it says why."""
        assert "3 evaluations follow" in stability_window(CURVE, 13).reason
        assert isinstance(stability_window(CURVE[:9], 2), NotAssessable)

    def test_describes_the_window(self):
        """Standard deviation, coefficient of variation, slope (SciPy) and distance from the median."""
        window = stability_window(CURVE, 9, n_val=500)
        inside = np.array(CURVE[5:15])
        assert window.sd == pytest.approx(np.std(inside, ddof=1))
        assert window.cv == pytest.approx(np.std(inside, ddof=1) / inside.mean())
        assert window.slope == pytest.approx(linregress(np.arange(10), inside).slope)
        assert window.selected_minus_median == pytest.approx(0.9 - np.median(inside))
        assert window.noise_floor == pytest.approx(3.08 * np.sqrt(inside.mean() * (1 - inside.mean()) / 500))

    def test_alternating_between_half_and_nine_tenths_is_not_stable(self):
        """Its variance is below .05 and its range is 40 points: the range decides."""
        window = stability_window([0.5, 0.9] * 8, 5)
        assert window.sd**2 < 0.05
        assert window.range == pytest.approx(0.4)

    @pytest.mark.parametrize(
        ("curve", "selected"), [([81.0] * 20, 3), ([float("nan")] * 20, 3), ([0.9] * 20, 20), ([0.9] * 20, -1)]
    )
    def test_percentages_and_gaps_are_refused(self, curve, selected):
        """Accuracies are fractions, and the selected evaluation is one of them."""
        with pytest.raises(ValueError):
            stability_window(curve, selected)


class TestNoise:
    def test_expected_range_of_ten(self):
        """E[range of 10] = 3.08 SD; tables of other sizes (Tippett) and simulation agree."""
        assert [range_in_sds(n) for n in (2, 5, 10, 20)] == [1.13, 2.33, 3.08, 3.73]
        draws = np.random.default_rng(0).normal(size=(20_000, 10))
        assert np.ptp(draws, axis=1).mean() == pytest.approx(3.08, abs=0.03)

    def test_what_noise_explains_is_taken_off(self):
        """Independent parts of a range add in squares; a range within the floor is all noise."""
        wide = stability_window(CURVE, 9, n_val=100_000)
        assert wide.range_without_noise == pytest.approx(np.sqrt(wide.range**2 - wide.noise_floor**2))
        assert stability_window(CURVE, 9, n_val=50).range_without_noise == 0
        assert stability_window(CURVE, 9).range_without_noise is None

    def test_images_that_would_show_it(self):
        """At that many images the expected range is below the limit, at one fewer it is not."""
        needed = n_val_to_show(0.03, 0.05, 0.9)

        def expected(n):
            return np.sqrt(0.03**2 + 3.08**2 * 0.9 * 0.1 / n)

        assert expected(needed) < 0.05 <= expected(needed - 1)
        assert n_val_to_show(0.05, 0.05, 0.9) is None


class TestBestSoFar:
    def test_is_recognised(self):
        """Never falls and rises twice: someone kept the maximum."""
        assert is_best_so_far(np.maximum.accumulate(CURVE))
        assert not is_best_so_far(CURVE)

    def test_a_constant_curve_is_not_one(self):
        """No rise, or a single one, is no proof of a running maximum."""
        assert not is_best_so_far([0.9] * 10)
        assert not is_best_so_far([0.8] * 5 + [0.9] * 5)

    def test_the_window_is_what_counts(self):
        """Section 9: "never falls, at least two rises in the window"; of what lies outside, nothing follows."""
        best = list(np.maximum.accumulate(CURVE))
        window = stability_window(best, 9)
        assert is_best_so_far(best[window.first : window.last + 1])
        after_a_fall = [0.95, *best]
        window = stability_window(after_a_fall, 10)
        assert not is_best_so_far(after_a_fall)
        assert is_best_so_far(after_a_fall[window.first : window.last + 1])


def test_the_results_are_of_two_kinds():
    """A window or a reason, never a number that means neither."""
    assert isinstance(stability_window(CURVE, 9), StabilityWindow)
    assert isinstance(stability_window(CURVE, 16), NotAssessable)
