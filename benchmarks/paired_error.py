"""How often a model that is worse by exactly the margin is declared non-inferior (simulated).

    python -m benchmarks paired-error [--replicates N] [--seed S]

Patients have two images; the models differ on some, and the first model is worse by 5 points. With probability `icc`,
both images of a patient have the same result. The interval that decides (Tango's, with counts divided by the design
effect) is compared with the patient bootstrap of the same test sets. Nominal error: 2.5 % (two-sided 95 %). Exit code 1
if the error of the deciding interval is above that by more than three Monte Carlo standard errors.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drgate.stats.bootstrap import percentile_interval
from drgate.stats.paired import noninferiority, paired_sample

LEVEL, MARGIN = 0.95, 0.05
PATIENTS = (30, 60, 120)
DIFFER = (0.10, 0.20, 0.30)
CORRELATIONS = (0.0, 0.5, 0.8)
RESAMPLES = 1_000
KINDS = list(itertools.product((1, -1, 0), repeat=2))
"""A patient's images: 1 where only the first model is right, -1 where only the second is, 0 where they agree."""
ONLY_FIRST, ONLY_SECOND = (np.array([kind.count(sign) for kind in KINDS]) for sign in (1, -1))


def false_claims(
    patients: int, differ: float, icc: float, replicates: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Share of test sets with the result non-inferior: by the interval that decides, and by the patient bootstrap."""
    share = {1: (differ - MARGIN) / 2, -1: (differ + MARGIN) / 2, 0: 1 - differ}
    chances = [(icc * (one == other) + (1 - icc) * share[other]) * share[one] for one, other in KINDS]
    shown = bootstrapped = 0
    for counts in rng.multinomial(patients, chances, size=replicates):
        sample = paired_sample(ONLY_FIRST, ONLY_SECOND, np.full(len(KINDS), 2), counts=counts)
        shown += noninferiority(sample, MARGIN, level=LEVEL).shown
        bootstrapped += bootstrap_low(counts, rng) > -MARGIN
    return shown / replicates, bootstrapped / replicates


def bootstrap_low(counts: NDArray[np.int64], rng: np.random.Generator) -> float:
    """Lower end of the percentile interval of the difference, patients drawn with replacement."""
    patients = counts.sum()
    drawn = rng.multinomial(patients, counts / patients, size=RESAMPLES)
    ends = percentile_interval(drawn @ (ONLY_FIRST - ONLY_SECOND) / (2 * patients), LEVEL)
    assert ends is not None, "every replicate has a difference"
    return ends.low


def main(argv: Sequence[str] | None = None) -> int:
    """Print both errors of every cell; 0 if the interval that decides keeps the nominal level."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks paired-error", description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=4_000, help="test sets per cell (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    nominal = (1 - LEVEL) / 2
    rng = np.random.default_rng(options.seed)
    began = time.process_time()
    exceeded = []
    print("Declared non-inferior: by Tango's interval at the effective n / by the patient bootstrap.\n")
    print("| patients | images that differ | " + " | ".join(f"icc {icc:g}" for icc in CORRELATIONS) + " |")
    print("|---" * (2 + len(CORRELATIONS)) + "|")
    for patients, differ in itertools.product(PATIENTS, DIFFER):
        shown = []
        for icc in CORRELATIONS:
            error, beside = false_claims(patients, differ, icc, options.replicates, rng)
            if error > nominal + 3 * (error * (1 - error) / options.replicates) ** 0.5:
                exceeded.append(f"{patients} patients, {100 * differ:g} % differ, icc {icc:g}")
            shown.append(f"{100 * error:.1f} % / {100 * beside:.1f} %")
        print(f"| {patients} | {100 * differ:g} % | " + " | ".join(shown) + " |", flush=True)
    seconds = time.process_time() - began
    print(
        f"\nNominal {100 * nominal:.1f} %; {options.replicates} test sets per cell, "
        f"seed {options.seed}, {seconds:.1f} s."
    )
    for cell in exceeded:
        print(f"Error above nominal: {cell}.", file=sys.stderr)
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
