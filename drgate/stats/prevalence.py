"""Predictive values at any prevalence, and net benefit: what a sensitivity and a specificity mean elsewhere.

PPV rises with the positive likelihood ratio and NPV falls with the negative one, and at a given prevalence they depend
on nothing else. So the limits of a ratio give those of the predictive value, with the same coverage, at all prevalences
at once. Where a ratio has no interval (an empty cell), each of the two rates has limits at half the error. Both hold
with the asked confidence, and then so do the predictive values at their two corners.

>>> round(ppv(0.10, 0.9, 0.9), 4), round(npv(0.10, 0.9, 0.9), 4)
(0.5, 0.9878)
>>> round(net_benefit(0.10, 0.9, 0.9, 0.20), 4)
0.0675

References: Vickers & Elkin 2006, Medical Decision Making 26:565 (net benefit).
"""

from __future__ import annotations


def ppv(prevalence: float, sensitivity: float, specificity: float) -> float | None:
    """Of those called positive, the share with the condition; None where nobody is. 0 < prevalence < 1."""
    return _share(prevalence * sensitivity, (1 - prevalence) * (1 - specificity))


def npv(prevalence: float, sensitivity: float, specificity: float) -> float | None:
    """Of those called negative, the share without the condition; None where nobody is. 0 < prevalence < 1."""
    return _share((1 - prevalence) * specificity, prevalence * (1 - sensitivity))


def ppv_of_ratio(prevalence: float, positive: float) -> float:
    """PPV from the positive likelihood ratio, in [0, infinity)."""
    return prevalence * positive / (prevalence * positive + 1 - prevalence)


def npv_of_ratio(prevalence: float, negative: float) -> float:
    """NPV from the negative likelihood ratio, in [0, infinity)."""
    return (1 - prevalence) / (1 - prevalence + prevalence * negative)


def half_the_error(level: float) -> float:
    """The level at which two intervals hold together with the asked one (Bonferroni)."""
    return (1 + level) / 2


def net_benefit(prevalence: float, sensitivity: float, specificity: float, threshold: float) -> float:
    """True positives less false positives at the odds of the threshold probability, in (0, 1), per person."""
    return prevalence * sensitivity - (1 - prevalence) * (1 - specificity) * threshold / (1 - threshold)


def _share(right: float, wrong: float) -> float | None:
    return right / (right + wrong) if right + wrong > 0 else None
