"""The chance that a second sample passes, after a cut-off was set on a first one.

>>> round(predictive_power(3, 300, planned=300, threshold=0.95, level=0.95), 3)
0.889
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaln, gammaln

from drgate.stats.power import misses_allowed
from drgate.stats.proportion import Interval


def predictive_power(
    misses: float, n: float, *, planned: int, threshold: float, level: float, interval: Interval = "clopper-pearson"
) -> float:
    """Probability that `planned` further cases show the threshold, where a cut-off lets `misses` of `n` cases through.

    A cut-off at the (misses + 1)-th lowest score of n cases leaves a true miss rate that is beta-distributed, with
    misses + 1 and n - misses, whatever the scores' distribution; misses among further cases are then beta-binomial. So
    this is the pass rate of such cut-offs over tuning sets, not the power at the tuned estimate, which is too high:
    with 3 misses of 300 that would be .989. `misses` and `n` may be real (effective counts), 0 <= misses; the result is
    0 where every case is missed, and where even no miss among `planned` cases would do.

    Raises ValueError for a threshold or level outside (0, 1), no planned case, or misses outside 0 to n.

    References: the distribution of exceedances, Gumbel & von Schelling 1950, Annals of Mathematical Statistics 21:247.
    """
    if not 0 <= misses <= n:
        raise ValueError(f"The misses must be between 0 and {n}, not {misses}.")
    allowed = misses_allowed(planned, threshold, level=level, interval=interval)
    if allowed is None or misses == n:
        return 0.0
    y = np.arange(allowed + 1)
    ways = gammaln(planned + 1) - gammaln(y + 1) - gammaln(planned - y + 1)
    log = ways + betaln(y + misses + 1, planned - y + n - misses) - betaln(misses + 1, n - misses)
    return min(1.0, float(np.exp(log).sum()))
