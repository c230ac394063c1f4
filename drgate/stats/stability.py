"""Did training settle? The range of the validation accuracy over the evaluations around the selected one.

>>> curve = [0.70, 0.80, 0.85, 0.88, 0.90, 0.91, 0.90, 0.91, 0.90, 0.91, 0.90, 0.91, 0.90]
>>> window = stability_window(curve, 7)
>>> window.first, window.last, round(window.range, 2)
(3, 12, 0.03)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr


@dataclass(frozen=True, slots=True)
class StabilityWindow:
    """Raw validation accuracy (0 to 1) over consecutive evaluations; `first` and `last` are positions in the curve."""

    first: int
    last: int
    range: float
    """Largest minus smallest accuracy: what is held against the limit."""
    sd: float
    """Sample standard deviation (n - 1)."""
    cv: float | None
    """sd / mean; None where the mean is 0."""
    slope: float
    """Least-squares change of accuracy an evaluation."""
    selected_minus_median: float
    """The selected evaluation against the window's median: what choosing the best one gained."""
    noise_floor: float | None
    """Range that sampling of the validation set alone is expected to give a model that does not change:
    E[range in SDs] sqrt(p (1 - p) / n_val), p the mean accuracy. An upper estimate where all evaluations see the same
    images. None where `n_val` is not given."""
    range_without_noise: float | None
    """sqrt(range^2 - noise_floor^2), at least 0: what noise does not explain. None without `n_val`."""


@dataclass(frozen=True, slots=True)
class NotAssessable:
    """Why stability cannot be judged, as a sentence."""

    reason: str


def stability_window(
    accuracies: Sequence[float], selected: int, window: int = 10, after: int = 5, *, n_val: int | None = None
) -> StabilityWindow | NotAssessable:
    """The `window` consecutive evaluations that contain position `selected` and `after` evaluations past it.

    The window is fixed in advance: it ends at `selected + after`, or is the first `window` evaluations if there are
    fewer before. `accuracies` are fractions, one an evaluation, in order; `n_val` the images they are of.

    `NotAssessable` where the history is too short, as that of a best checkpoint is, which ends at its own maximum.
    Raises ValueError for accuracies outside 0-1, a selected position outside the curve and a window that cannot hold
    `after + 1` evaluations.
    """
    curve = np.asarray(accuracies, dtype=np.float64)
    if window < max(2, after + 1) or after < 0:
        raise ValueError(f"A window of {window} evaluations cannot hold the selected one and {after} after it.")
    if curve.ndim != 1 or not ((curve >= 0) & (curve <= 1)).all():
        raise ValueError("Validation accuracies are fractions between 0 and 1.")
    if not 0 <= selected < curve.size:
        raise ValueError(f"The selected evaluation {selected} is not among the {curve.size} of the curve.")
    if n_val is not None and n_val < 1:
        raise ValueError(f"A validation set has at least one image, not {n_val}.")
    followed = curve.size - 1 - selected
    if followed < after:
        return NotAssessable(
            f"Only {followed} evaluations follow the selected one and {after} are needed: "
            "a history that ends at its best proves nothing; train on."
        )
    if curve.size < window:
        return NotAssessable(f"The history has {curve.size} evaluations and {window} are needed.")
    last = max(selected + after, window - 1)
    first = last - window + 1
    inside = curve[first : last + 1]
    mean, spread = float(inside.mean()), float(np.ptp(inside))
    sd = float(inside.std(ddof=1))
    steps = np.arange(window) - (window - 1) / 2
    floor = None if n_val is None else range_in_sds(window) * math.sqrt(mean * (1 - mean) / n_val)
    return StabilityWindow(
        first=first,
        last=last,
        range=spread,
        sd=sd,
        cv=sd / mean if mean > 0 else None,
        slope=float(steps @ inside / (steps @ steps)),
        selected_minus_median=float(curve[selected] - np.median(inside)),
        noise_floor=floor,
        range_without_noise=None if floor is None else math.sqrt(max(0.0, spread**2 - floor**2)),
    )


def n_val_to_show(range_without_noise: float, limit: float, accuracy: float, window: int = 10) -> int | None:
    """Validation images at which noise would leave the expected range below `limit`.

    None where `range_without_noise` itself reaches the limit: no number of images would show it.
    """
    room = limit**2 - range_without_noise**2
    if room <= 0:
        return None
    return max(1, math.floor(range_in_sds(window) ** 2 * accuracy * (1 - accuracy) / room) + 1)


def range_in_sds(window: int) -> float:
    """Expected range of `window` independent normal values in standard deviations, to two decimals: 3.08 of ten.

    References: Tippett 1925, Biometrika 17:364.
    """
    if window < 2:
        raise ValueError(f"A range needs at least two values, not {window}.")
    x = np.linspace(-9, 9, 3601)
    below = ndtr(x)
    return round(float(np.sum(1 - below**window - (1 - below) ** window) * (x[1] - x[0])), 2)


def is_best_so_far(curve: Sequence[float]) -> bool:
    """Whether these evaluations, those of the window, are best-so-far values: they never fall and rise at least twice.

    Such a curve cannot show instability, so a foreign history of it is refused. A curve that is constant, or rises
    once, is none. Evaluations outside the window do not matter, because accuracy falls between two runs in one history.
    """
    steps = np.diff(np.asarray(curve, dtype=np.float64))
    return bool((steps >= 0).all() and (steps > 0).sum() >= 2)
