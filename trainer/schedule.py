"""The learning rate of each optimizer step, as a fraction of its peak.

>>> [round(rate(step, scheduler="linear", warmup_steps=2, total_steps=6), 2) for step in range(8)]
[0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.25, 0.25]
"""

from __future__ import annotations

import math


def rate(step: int, *, scheduler: str, warmup_steps: int, total_steps: int) -> float:
    """Fraction of the peak learning rate, in (0, 1], at a step that counts from 0.

    Linear warm-up reaches the peak at its last step. Then `none` stays there, and `linear` and `cosine` fall so that
    they would be zero at `total_steps`. From there on the last positive rate is kept: what follows only watches.
    """
    step = min(step, total_steps - 1)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    if scheduler == "linear":
        return 1 - progress
    if scheduler == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1.0
