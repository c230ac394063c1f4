"""Why no criterion is on the interval for a new site: how often models pass that are exactly at its limit.

    python -m benchmarks sites-error [--replicates N] [--seed S]

The sites' true sensitivities have normal logits, and each site shows some cases. A criterion that the lower limit for a
new site be at least the sensitivity that 97.5 % of sites exceed would pass 2.5 % of such models, if that limit were a
bound. Then how often the interval holds the true sensitivity of one more site (nominal 95 %), and how often it would if
the sites were combined on logits (half a case added where all or none are right).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri

from drgate.stats.meta import Pooled, arcsines, proportion, random_effects

LEVEL = 0.95
SITES = (5, 8, 12, 20)
DESIGNS = (
    *((0.92, cases, spread) for cases in (20, 60, 200) for spread in (0.25, 1.0)),
    *((0.98, cases, 0.5) for cases in (20, 60, 200)),
)
"""Sensitivity of the middle site, cases of each, and the standard deviation of the sites' logits."""


def logits(hits: NDArray[np.int64], sizes: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logit of each proportion and its variance, with half a case added to both where one is empty."""
    half = np.where((hits == 0) | (hits == sizes), 0.5, 0.0)
    right, wrong = hits + half, sizes - hits + half
    return np.log(right / wrong), 1 / right + 1 / wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Print both shares of every cell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks sites-error", description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=1_000, help="test sets per cell (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    rng = np.random.default_rng(options.seed)
    began = time.process_time()
    print("False passes of a criterion on the lower limit for a new site / a new site within / the same by logits.\n")
    print("| sensitivity, cases a site, SD | " + " | ".join(f"{sites} sites" for sites in SITES) + " |")
    print("|---" * (1 + len(SITES)) + "|")
    for sensitivity, cases, spread in DESIGNS:
        limit = expit(logit(sensitivity) + ndtri((1 - LEVEL) / 2) * spread)
        shown = []
        for sites in SITES:
            counted = np.zeros(3)
            for _ in range(options.replicates):
                *true, new = logit(sensitivity) + spread * rng.standard_normal(sites + 1)
                hits, sizes = rng.binomial(cases, expit(true)), np.full(sites, cases)
                found = random_effects(*arcsines(hits, sizes), level=LEVEL)
                other = random_effects(*logits(hits, sizes), level=LEVEL)
                assert isinstance(found, Pooled), "five sites have an interval for another"
                assert isinstance(other, Pooled), "by whatever scale"
                low, high = (proportion(end) for end in (found.new_low, found.new_high))
                counted += (low >= limit, low <= expit(new) <= high, other.new_low <= new <= other.new_high)
            shown.append(" / ".join(f"{100 * share:.0f} %" for share in counted / options.replicates))
        print(f"| {sensitivity}, {cases}, {spread} | " + " | ".join(shown) + " |", flush=True)
    print(f"\n{options.replicates} test sets per cell, seed {options.seed}, {time.process_time() - began:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
