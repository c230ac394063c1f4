"""The largest false-pass rate that was found for each kind of criterion whose rate at given counts has no formula.

    rate = FOUND["agreement"]
    rate.largest, rate.designs, rate.command

Simulated at the threshold itself, nominal 2.5 % (two-sided 95 %); docs/statistics.md has the same table. A design that
nobody tried can be worse. Of a proportion the rate is computed at the counts of the test set (`drgate.stats.power`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """largest: 0 to 1, in `designs` designs, as `command` shows."""

    largest: float
    designs: int
    command: str


_COMMAND: Final = "python -m benchmarks gate-error --only"

FOUND: Final = {
    "agreement": ErrorRate(0.0221, 393, f"{_COMMAND} kappa"),
    "ranking": ErrorRate(0.0244, 189, f"{_COMMAND} auc auc-by-patient"),
    "rates": ErrorRate(0.0195, 252, f"{_COMMAND} ratios"),
    "equal_grades": ErrorRate(0.0178, 174, f"{_COMMAND} deployment"),
    "deployment": ErrorRate(0.0178, 174, f"{_COMMAND} deployment"),
    "score": ErrorRate(0.0199, 91, f"{_COMMAND} brier"),
    "calibration": ErrorRate(0.0247, 108, f"{_COMMAND} calibration"),
    "groups": ErrorRate(0.0231, 84, f"{_COMMAND} gaps"),
    "noninferior": ErrorRate(0.0250, 431, f"{_COMMAND} noninferiority readers"),
    "baseline": ErrorRate(0.0250, 207, f"{_COMMAND} noninferiority"),
}
"""By what a metric is computed from (`Definition.by`), by its name, or "deployment" for a share at another mix."""

SIMULATED_LEVEL: Final = 0.95
"""Two-sided level of the simulations; at a higher one false passes are rarer."""

BY_INTERVAL: Final = ("rates", "equal_grades", "deployment", "groups")
"""Kinds that use the checklist's interval of a proportion; simulated with Clopper-Pearson's."""

NO_CHANCE: Final = {
    "stability": "It describes one training run; the images of the test set have no part in it.",
    "cost": "It is a sum, and not an estimate.",
    "audit": "It counts what was found in these images, and is not an estimate.",
}
"""Metrics of which no sample of patients is drawn, by name."""
