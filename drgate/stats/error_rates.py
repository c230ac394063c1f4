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


FOUND: Final = {
    "agreement": ErrorRate(0.0215, 351, "python -m benchmarks kappa-error"),
    "ranking": ErrorRate(0.0227, 15, "python -m benchmarks gate-error"),
    "rates": ErrorRate(0.0234, 1344, "python -m benchmarks gate-error"),
    "equal_grades": ErrorRate(0.0260, 900, "python -m benchmarks standardized-error"),
    "deployment": ErrorRate(0.0260, 900, "python -m benchmarks standardized-error"),
    "score": ErrorRate(0.007, 16, "python -m benchmarks brier-error"),
    "calibration": ErrorRate(0.027, 56, "python -m benchmarks calibration-error"),
    "baseline": ErrorRate(0.028, 27, "python -m benchmarks paired-error"),
}
"""By what a metric is computed from (`Definition.by`), by its name, or "deployment" for a share at another mix."""

SIMULATED_LEVEL: Final = 0.95
"""Two-sided level of the simulations; at a higher one false passes are rarer."""

BY_INTERVAL: Final = ("rates", "equal_grades", "deployment")
"""Kinds that use the checklist's interval of a proportion; simulated with Clopper-Pearson's."""

NO_CHANCE: Final = {
    "stability": "It describes one training run; the images of the test set have no part in it.",
    "cost": "It is a sum, and not an estimate.",
}
"""Metrics of which no sample of patients is drawn, by name."""
