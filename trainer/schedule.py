"""The learning rate of each optimizer step, as a fraction of its peak.

>>> [round(rate(step, scheduler="linear", warmup_steps=2, total_steps=6), 2) for step in range(8)]
[0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.25, 0.25]
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def rate(
    step: int, *, scheduler: str, warmup_steps: int, total_steps: int, cycles: int = 1, power: float = 1.0
) -> float:
    """Fraction of the peak learning rate, in (0, 1], at a step that counts from 0.

    Linear warm-up reaches the peak at its last step. Then `none` and `validation_plateau` stay there (`plateau_cuts`
    gives the cuts of the latter), and the others fall towards zero at `total_steps`: `cosine_with_restarts` does so
    `cycles` times, each time from the peak, and `polynomial` as (1 - progress) ** power. After `total_steps` the last
    positive rate stays, because those epochs only test stability.
    """
    step = min(step, total_steps - 1)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    match scheduler:
        case "linear":
            return 1 - progress
        case "polynomial":
            return float((1 - progress) ** power)
        case "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        case "cosine_with_restarts":
            return (1 + math.cos(math.pi * (cycles * progress % 1))) / 2
    return 1.0


def plateau_cuts(accuracies: Sequence[float], patience: int) -> int:
    """How often `validation_plateau` has cut the rate after these evaluations, oldest first.

    It cuts after `patience` evaluations in a row without a new best, then starts counting again.

    >>> plateau_cuts([0.5, 0.6, 0.6, 0.59, 0.6, 0.58], patience=2)
    2
    """
    best, since, cuts = -math.inf, 0, 0
    for accuracy in accuracies:
        if accuracy > best:
            best, since = accuracy, 0
        else:
            since += 1
            if since == patience:
                cuts, since = cuts + 1, 0
    return cuts
