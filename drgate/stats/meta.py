"""Proportions of several sites together: how much they differ, their mean, and what a new site may show.

The sites are taken as a sample of sites: on the logit scale their true values are normal with variance tau^2 (by
restricted maximum likelihood). The mean has the interval of Knapp and Hartung, never with a smaller standard error than
the usual one, and a new site the prediction interval of Higgins and Riley, t at k - 2 degrees of freedom. This is what
R's metafor computes with
`escalc("PLO", add=1/2, to="only0")`, `rma(method="REML", test="adhoc")` and `predict(pi.type="riley")`.

>>> found = random_effects(*logits([45, 60, 88, 50, 70, 20], [50, 80, 90, 75, 72, 21]), level=0.95)
>>> round(found.value, 4), round(found.low, 4), round(found.high, 4)
(0.9027, 0.6942, 0.9743)
>>> round(found.new_low, 4), round(found.new_high, 4), round(found.tau2, 4), round(found.i2, 4)
(0.1906, 0.9973, 1.4509, 0.8906)

References: Viechtbauer 2005, Journal of Educational and Behavioral Statistics 30:261 (REML); Higgins & Thompson 2002,
Statistics in Medicine 21:1539 (I^2); Knapp & Hartung 2003, Statistics in Medicine 22:2693; Jackson et al. 2017,
Statistics in Medicine 36:3923 (never narrower); Higgins, Thompson & Spiegelhalter 2009, JRSS A 172:137; Riley, Higgins
& Deeks 2011, BMJ 342:d549 (prediction).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, expit, stdtrit

from drgate.stats.calibration import Undefined
from drgate.stats.proportion import require_level

Floats = NDArray[np.float64]

FEWEST_SITES: Final = 5
"""With fewer, the variance between sites is a guess."""

_STEPS: Final = 1000
_CONVERGED: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Pooled:
    """Several sites together. value, low, high: the mean and its interval; new_low, new_high: for the true value of a
    new site; all as proportions."""

    sites: int
    value: float
    low: float
    high: float
    new_low: float
    new_high: float
    tau2: float
    """Variance of the sites' true logits."""
    i2: float
    """Share of the variance of the sites' estimates that is between sites, 0 to 1."""
    q: float
    """Cochran's Q, chi-squared with k - 1 degrees of freedom where the sites do not differ."""
    p: float
    """Its p-value."""


def logits(successes: ArrayLike, sizes: ArrayLike) -> tuple[Floats, Floats]:
    """Logit of each proportion and its variance; counts may be effective ones, and sizes are above 0.

    Where all or none are successes, half a success and half a failure are added, at that site alone.
    """
    x, n = np.asarray(successes, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    half = np.where((x <= 0) | (x >= n), 0.5, 0.0)
    hits, rest = x + half, n - x + half
    return np.log(hits / rest), 1 / hits + 1 / rest


def random_effects(estimates: ArrayLike, variances: ArrayLike, *, level: float) -> Pooled | Undefined:
    """The sites together, from the logit of each and its variance; intervals at the two-sided `level`.

    Undefined with fewer than `FEWEST_SITES`, or where the variance between sites has no maximum of its likelihood that
    can be found.
    """
    require_level(level)
    y, v = np.asarray(estimates, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    k = len(y)
    if k < FEWEST_SITES:
        return Undefined(f"it needs at least {FEWEST_SITES} sites, and there are {k}")
    tau2 = _between(y, v)
    if tau2 is None:
        return Undefined("the variance between sites cannot be estimated")
    weights, fixed = 1 / (v + tau2), 1 / v
    mean = float(weights @ y / weights.sum())
    scatter = float(weights @ (y - mean) ** 2) / (k - 1)
    error = float(np.sqrt(max(1.0, scatter) / weights.sum()))
    upper = (1 + level) / 2
    reach, beyond = stdtrit(k - 1, upper) * error, stdtrit(k - 2, upper) * np.sqrt(tau2 + error**2)
    low, high, new_low, new_high = expit([mean - reach, mean + reach, mean - beyond, mean + beyond]).tolist()
    q = float(fixed @ (y - fixed @ y / fixed.sum()) ** 2)
    typical = (k - 1) * fixed.sum() / (fixed.sum() ** 2 - (fixed**2).sum())
    return Pooled(
        sites=k,
        value=float(expit(mean)),
        low=low,
        high=high,
        new_low=new_low,
        new_high=new_high,
        tau2=tau2,
        i2=float(tau2 / (tau2 + typical)),
        q=q,
        p=float(chdtrc(k - 1, q)),
    )


def _between(y: Floats, v: Floats) -> float | None:
    """The variance between sites of greatest restricted likelihood, 0 or more, by Fisher scoring; None without one."""
    tau2 = max(0.0, float(y.var(ddof=1) - v.mean()))
    for _ in range(_STEPS):
        w = 1 / (v + tau2)
        total = w.sum()
        away = w * (y - w @ y / total)
        # With P = W - w w' / sum w: tr P and tr P^2.
        trace = total - (w**2).sum() / total
        squared = (w**2).sum() - 2 * (w**3).sum() / total + ((w**2).sum() / total) ** 2
        after = max(0.0, tau2 + float((away @ away - trace) / squared))
        if abs(after - tau2) <= _CONVERGED * (1 + after):
            return after
        tau2 = after
    return None
