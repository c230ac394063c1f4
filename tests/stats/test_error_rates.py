"""Why the gate rests on exact bounds: how often each interval passes a model at the threshold itself.

Nominal is 2.5 %: the share of test sets whose two-sided 95 % interval lies above p0 when p0 is the truth. Every share
is a binomial sum, computed here; the intervals of the gate are the package's, the others textbook formulas.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, norm
from statsmodels.stats.proportion import proportion_confint

from drgate.stats.bootstrap import bca_interval, image_patterns, leave_one_out, resample_patients
from drgate.stats.confusion import sensitivity
from drgate.stats.error_rates import FOUND
from drgate.stats.proportion import exact_bounds, wilson_bounds

LEVEL = 0.95


def wald(k: int, n: int) -> float:
    return float(proportion_confint(k, n, alpha=1 - LEVEL, method="normal")[0])


def percentile(k: int, n: int) -> float:
    """The limit of many replicates: a quantile of the binomial at the observed rate."""
    return float(binom.ppf((1 - LEVEL) / 2, n, k / n)) / n


def bca(k: int, n: int) -> float:
    """The limit of many replicates (Efron 1987), with ties split; [1, 1] where every case is right."""
    if k == n:
        return 1.0
    p = k / n
    bias = norm.ppf((binom.cdf(k - 1, n, p) + binom.cdf(k, n, p)) / 2)
    jackknife = np.r_[np.full(k, (k - 1) / (n - 1)), np.full(n - k, k / (n - 1))]
    spread = jackknife.mean() - jackknife
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    shifted = bias + norm.ppf((1 - LEVEL) / 2)
    return float(binom.ppf(norm.cdf(bias + shifted / (1 - acceleration * shifted)), n, p)) / n


LOWER = {
    "clopper-pearson": lambda k, n: exact_bounds(k, n, level=LEVEL).low,
    "wilson": lambda k, n: wilson_bounds(k, n, level=LEVEL).low,
    "wald": wald,
    "percentile": percentile,
    "bca": bca,
}


def error(method: str, n: int, truth: float) -> float:
    """Share of test sets of n cases whose lower bound exceeds the truth, in per cent."""
    passing = [k for k in range(math.ceil(n / 2), n + 1) if LOWER[method](k, n) > truth + 1e-12]
    return 100 * float(binom.pmf(passing, n, truth).sum())


@pytest.mark.parametrize(
    ("truth", "n", "expected"),
    [
        (0.95, 30, {"clopper-pearson": 0, "wilson": 0, "wald": 21, "percentile": 21, "bca": 21}),
        (0.95, 100, {"clopper-pearson": 0.6, "wilson": 0.6, "wald": 11.8, "percentile": 3.7, "bca": 0.6}),
        (0.90, 100, {"clopper-pearson": 2.4, "wilson": 2.4, "wald": 5.8, "percentile": 2.4, "bca": 0.8}),
    ],
)
def test_only_exact_and_score_intervals_keep_the_level(truth: float, n: int, expected: dict[str, float]):
    """Near 1 the bootstrap and Wald pass far more often than their nominal 2.5 %."""
    found = {method: error(method, n, truth) for method in expected}
    assert found == pytest.approx(expected, abs=0.5 if n == 30 else 0.06)
    assert max(found["clopper-pearson"], found["wilson"]) <= 2.5


def test_the_bootstrap_says_one_where_every_case_is_right():
    """30 of 30: percentile [1, 1], BCa undefined; the exact bound is .884."""
    table = np.zeros((5, 6), dtype=np.int64)
    table[4, 4] = 30
    rate = sensitivity((4,), "excluded")
    drawn, _ = rate.values(resample_patients(*image_patterns(table), resamples=2000, seed=1))
    assert (drawn == 1).all()
    patterns, counts = image_patterns(table)
    without, _ = rate.values(leave_one_out(patterns, counts))
    assert bca_interval(drawn, LEVEL, estimate=1.0, jackknife=without, counts=counts) is None
    assert exact_bounds(30, 30, level=LEVEL).low == pytest.approx(0.884, abs=5e-4)


@pytest.mark.parametrize(("n", "threshold", "truth", "expected"), [(50, 0.90, 0.85, 22), (30, 0.95, 0.90, 18)])
def test_a_gate_on_the_estimate_passes_bad_models(n: int, threshold: float, truth: float, expected: float):
    """Severe NPDR, 50 cases, truth .85 passes ">= .90" in 22 %; PDR, 30 cases, truth .90 passes ">= .95" in 18 %."""
    fewest = math.ceil(threshold * n - 1e-9)
    assert 100 * binom.sf(fewest - 1, n, truth) == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize(("images", "icc", "expected"), [(2, 0.5, 0.90), (4, 0.8, 0.70)])
def test_an_interval_that_knows_no_patients_covers_too_little(images: int, icc: float, expected: float):
    """Naive Wilson at 300 patients: two images with correlation .5 cover .90, four with .8 cover .70, not .95."""
    truth, patients, replicates = 0.9, 300, 4000
    generator = np.random.default_rng(7)
    own = generator.beta(truth * (1 - icc) / icc, (1 - truth) * (1 - icc) / icc, (replicates, patients))
    right = generator.binomial(images, own).sum(axis=1)
    n = patients * images
    intervals = {int(k): wilson_bounds(int(k), n, level=LEVEL) for k in np.unique(right)}
    covered = np.mean([intervals[int(k)].low <= truth <= intervals[int(k)].high for k in right])
    assert covered == pytest.approx(expected, abs=0.02)


def test_the_documents_have_the_rates_that_reports_show():
    """docs/statistics.md, "The gate's own error": one row for each kind, with its rate, designs and command."""
    text = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()
    rows = re.findall(r"^\| .* \(`(\w+)`\) \| ([\d.]+) % \| (\d+) \| `(.*)` \|$", text, re.MULTILINE)
    assert rows == [
        (kind, f"{100 * rate.largest:.2f}", str(rate.designs), rate.command) for kind, rate in FOUND.items()
    ]
