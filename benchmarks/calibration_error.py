"""How often a criterion on calibration passes for a model whose true slope or intercept is only an end of its range.

    python -m benchmarks calibration-error [--replicates N] [--seed S]

Logits of patients with and without the event are normal, so that the true slope and intercept are known; the range is
so wide that its other end hardly matters. First column: decided with any number of events. Second: as the gate decides,
not assessed below 100 patients with and 100 without an event. Nominal error: 2.5 % (two-sided 95 %). Exit code 1 if a
cell of the second is above that by more than three Monte Carlo standard errors.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import expit

from drgate.stats.calibration import FEWEST_EVENTS, Calibration, Undefined, calibration_intercept, calibration_slope

LEVEL = 0.95
DESIGNS = (
    (100, 0.03, 1),
    (1000, 0.003, 1),
    (300, 0.1, 1),
    (230, 0.5, 1),
    (1000, 0.12, 1),
    (5000, 0.022, 1),
    (230, 0.5, 2),
)
"""Patients, share of them with the event, images of each; the second image is the first one again half of the time."""
SEPARATIONS = (1.0, 2.0)
"""Distance of the mean logits of the two in standard deviations: areas under the curve of .76 and .92."""
RANGES = {"slope": (0.7, 1.5), "intercept": (-1.0, 1.0)}
FIGURES: dict[str, Callable[..., Calibration | Undefined]] = {
    "slope": calibration_slope,
    "intercept": calibration_intercept,
}


def passes(
    figure: str, at: float, design: tuple[int, float, int], separation: float, replicates: int, seed: int
) -> tuple[float, float]:
    """Share of test sets that pass at a true value `at`: with any number of events, and with as many as are asked."""
    (least, most), (patients, share, images) = RANGES[figure], design
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), images)
    anyway = gate = 0
    for _ in range(replicates):
        positive = np.repeat(rng.random(patients) < share, images)
        # Both normal with this variance and these means: the log odds of the event are the value drawn.
        centre = np.where(positive, 1, -1) * separation**2 / 2 + np.log(share / (1 - share))
        true = rng.normal(centre, separation)
        again = np.repeat(rng.random(patients) < 0.5, images)
        true = np.where(again, np.repeat(true[::images], images), true)
        given = true / at if figure == "slope" else true - at
        found = FIGURES[figure](expit(given), positive, owner, level=LEVEL)
        met = isinstance(found, Calibration) and least <= found.low and found.high <= most
        events = int(positive[::images].sum())
        anyway += met
        gate += met and min(events, patients - events) >= FEWEST_EVENTS
    return anyway / replicates, gate / replicates


def main(argv: Sequence[str] | None = None) -> int:
    """Print the error of every cell; 0 if what the gate decides keeps the nominal level."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks calibration-error", description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=4_000, help="test sets per cell (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    began, exceeded, largest = time.perf_counter(), [], (0.0, 0.0)
    print("| patients, share with the event, images | figure | truth | separation | any number | as the gate decides |")
    print("|---" * 6 + "|")
    ends = [(figure, at) for figure, truths in RANGES.items() for at in truths]
    for design, (figure, at), separation in itertools.product(DESIGNS, ends, SEPARATIONS):
        anyway, gate = passes(figure, at, design, separation, options.replicates, options.seed)
        largest = max(largest[0], anyway), max(largest[1], gate)
        cell = f"| {', '.join(map(str, design))} | {figure} | {at:g} | {separation:g} |"
        print(f"{cell} {100 * anyway:.1f} % | {100 * gate:.1f} % |", flush=True)
        if gate > 0.025 + 3 * (gate * (1 - gate) / options.replicates) ** 0.5:
            exceeded.append(cell)
    print(f"\nLargest: {100 * largest[0]:.1f} % with any number of events,")
    print(f"{100 * largest[1]:.1f} % as the gate decides; nominal 2.5 %;")
    seconds = time.perf_counter() - began
    print(f"{options.replicates} test sets per cell, seed {options.seed}, {seconds:.0f} s.")
    for cell in exceeded:
        print(f"Error above nominal: {cell}", file=sys.stderr)
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
