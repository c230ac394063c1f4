"""Likelihood ratios and Youden's index: quantities that combine a sensitivity and a specificity.

The interval is MOVER's: the limits of the two proportions, each at its own effective sample size, are combined by
squares, on the log scale for a ratio. The logarithmic interval of Simel uses standard errors instead of exact limits,
and passes too often where few images are wrong.

>>> from drgate.stats.cluster import EffectiveSample
>>> hits, cleared = EffectiveSample(56, 70, 70, 1.0, 70.0), EffectiveSample(32, 80, 80, 1.0, 80.0)
>>> youden = YOUDEN.estimate(hits, cleared, level=0.95, interval="wilson")
>>> round(youden.value, 2), round(youden.low, 4), round(youden.high, 4)
(0.2, 0.0524, 0.3339)

References: Zou & Donner 2008, Statistics in Medicine 27:1693; Donner & Zou 2012, Statistical Methods in Medical
Research 21:347, doi 10.1177/0962280210380338; Newcombe 1998, Statistics in Medicine 17:873 (method 10); likelihood
ratios: Simel, Samsa & Matchar 1991, Journal of Clinical Epidemiology 44:763; Youden 1950, Cancer 3:32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drgate.stats.calibration import Undefined
from drgate.stats.cluster import EffectiveSample, bounds
from drgate.stats.proportion import Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Combined:
    """The value with its interval; both ends finite."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Combination:
    """The sum of a monotone part of the sensitivity and one of the specificity; of a ratio the parts are logarithms."""

    sensitivity: Callable[[Floats], Floats]
    specificity: Callable[[Floats], Floats]
    ratio: bool = False

    def values(self, sensitivity: ArrayLike, specificity: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
        """The value at each pair of rates, broadcast, and where it is defined (it is 0 elsewhere)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            total = self.sensitivity(np.asarray(sensitivity, float)) + self.specificity(np.asarray(specificity, float))
        defined = np.isfinite(total)
        return np.where(defined, self._back(np.where(defined, total, 0.0)), 0.0), defined

    def estimate(
        self,
        sensitivity: EffectiveSample,
        specificity: EffectiveSample,
        *,
        level: float,
        interval: Interval,
        shared: int = 0,
    ) -> Combined | Undefined:
        """The value with its two-sided interval at `level`.

        shared: sum over patients of their images in the one denominator times those in the other. The two rates are
        then assumed to be as correlated as if all images of a patient were identical, which widens the interval. The
        estimated design effects are left out of this correlation. They would lower it, and then an error that raises
        one could narrow the interval. So a correct answer made wrong never improves the limit that decides (lower for
        YOUDEN and the positive ratio, upper for the negative one): with a fixed correlation that limit rises with the
        estimate and with the lower limit of either rate, and neither rises with an error (`cluster.effective_sample`).
        The price is small: for 300 patients with two images each and both rates at 90 %, the lower limit of YOUDEN is
        .682 instead of .686.

        Undefined for a ratio where a cell of the two-by-two table is empty, or where the patients of one of the rates
        are so few (one patient) that its interval reaches 0 or 1.
        """
        at, lower, upper = [], [], []
        for name, part, one in zip(
            ("sensitivity", "specificity"),
            (self.sensitivity, self.specificity),
            (sensitivity, specificity),
            strict=True,
        ):
            if self.ratio and one.k in (0, one.n):
                wrong, right = (
                    ("false negative", "true positive")
                    if name == "sensitivity"
                    else ("false positive", "true negative")
                )
                return Undefined(
                    f"the {name} is {100 * one.k // one.n} % (no {wrong if one.k else right}), so the ratio's interval "
                    "cannot be computed"
                )
            ends = bounds(one, level=level, interval=interval)
            with np.errstate(divide="ignore"):
                value, *limits = part(np.array([one.k / one.n, ends.low, ends.high])).tolist()
            if not np.isfinite(limits).all():
                return Undefined(f"the {name} has too few patients for a confidence interval")
            at.append(value)
            lower.append(value - min(limits))
            upper.append(max(limits) - value)
        alike = shared / math.sqrt(sensitivity.n * specificity.n)

        def reach(first: float, second: float) -> float:
            return math.sqrt(first**2 + second**2 + 2 * min(1.0, alike) * first * second)

        total = sum(at)
        found = self._back(np.array([total, total - reach(*lower), total + reach(*upper)]))
        return Combined(*found.tolist())

    def _back(self, total: Floats) -> Floats:
        return np.exp(total) if self.ratio else total


POSITIVE_LIKELIHOOD_RATIO: Final = Combination(np.log, lambda rate: -np.log(1 - rate), ratio=True)
"""sensitivity / (1 - specificity), above 0: what a positive answer multiplies the odds of disease by."""

NEGATIVE_LIKELIHOOD_RATIO: Final = Combination(lambda rate: np.log(1 - rate), lambda rate: -np.log(rate), ratio=True)
"""(1 - sensitivity) / specificity, above 0: what a negative answer multiplies the odds of disease by."""

YOUDEN: Final = Combination(lambda rate: rate, lambda rate: rate - 1)
"""sensitivity + specificity - 1, from -1 to 1; 0 where predictions are no better than chance."""
