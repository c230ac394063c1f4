"""How often a criterion passes for a model whose true value is only at the threshold (simulated).

    python -m benchmarks gate-error [--replicates N] [--seed S]

For each number of patients and images, true proportion and intra-patient correlation, test sets are drawn whose true
value equals the threshold. The error is the share whose lower limit reaches it. Nominal error: 2.5 % (two-sided 95 %).
Exit code 1 if a cell is above that by more than three Monte Carlo standard errors.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence

from drgate.stats.power import passing

DESIGNS: dict[str, tuple[tuple[int, int], ...]] = {
    "60x1": ((60, 1),),
    "60x2": ((60, 2),),
    "100x2": ((100, 2),),
    "300x2": ((300, 2),),
    "60x4": ((60, 4),),
    "100x4": ((100, 4),),
    "60x1+60x2": ((60, 1), (60, 2)),
    "100x1+10x20": ((100, 1), (10, 20)),
    "60x1+20x8": ((60, 1), (20, 8)),
    "200x1+20x10": ((200, 1), (20, 10)),
}
"""Patients x images of each, as they count in a denominator."""

TRUE = (0.90, 0.95, 0.98)
CORRELATIONS = (0.0, 0.3, 0.5, 0.8)
LEVEL = 0.95


def main(argv: Sequence[str] | None = None) -> int:
    """Print the error of every cell and the largest; 0 if none is above the nominal level."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gate-error", description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=100_000, help="test sets per cell (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--interval", choices=("clopper-pearson", "wilson"), default="clopper-pearson")
    options = parser.parse_args(argv)
    nominal = (1 - LEVEL) / 2
    began = time.perf_counter()
    worst, worst_cell, exceeded = 0.0, "", []
    columns = list(itertools.product(TRUE, CORRELATIONS))
    print("| patients x images | " + " | ".join(f"{true:.2f}, icc {icc:g}" for true, icc in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, design in DESIGNS.items():
        shown = []
        for at, (true, icc) in enumerate(columns):
            error = passing(
                true,
                true=true,
                icc=icc,
                level=LEVEL,
                interval=options.interval,
                sizes=[images for _, images in design],
                counts=[patients for patients, _ in design],
                replicates=options.replicates,
                seed=options.seed + at,
            )
            cell = f"{name}, true {true}, icc {icc}"
            if error.probability > worst:
                worst, worst_cell = error.probability, cell
            if error.probability > nominal + 3 * (error.se or 0):
                exceeded.append(cell)
            shown.append(f"{100 * error.probability:.2f} %")
        print(f"| {name} | " + " | ".join(shown) + " |", flush=True)
    seconds = time.perf_counter() - began
    print(
        f"\nLargest: {100 * worst:.2f} % ({worst_cell}); nominal {100 * nominal:.1f} %; {options.replicates} test sets"
    )
    print(f"per cell, seed {options.seed}, {options.interval}, {seconds:.1f} s.")
    for cell in exceeded:
        print(f"Error above nominal: {cell}.", file=sys.stderr)
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
