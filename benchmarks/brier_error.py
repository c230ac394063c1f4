"""How often a model's true Brier score is above the upper limit of its interval.

    python -m benchmarks brier-error [--replicates N] [--seed S]

Four models: two calibrated ones, with extreme and with moderate probabilities; two that are wrong in 3 % and certain,
one to .001 and one entirely. With two images per patient, the two have the same result half of the time. For
comparison: value + 1.96 standard errors. Nominal error: 2.5 % (two-sided 95 %). Exit code 1 if a cell is above that by
more than three Monte Carlo standard errors.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drgate.stats.calibration import Calibration, brier

LEVEL = 0.95
DESIGNS = ((40, 1), (100, 1), (50, 2), (200, 2))
"""Patients x images of each."""
WRONG = 0.03
BETA = {"sharp": (0.3, 0.7), "middling": (2.0, 5.0)}
EDGE = {"certain to .001": 0.001, "certain": 0.0}
ALIKE = 0.5


def draw(
    model: str, patients: int, images: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probabilities and true labels, ordered by patient."""
    n = patients * images
    if model in BETA:
        p = rng.beta(*BETA[model], n)
        chance = p
    else:
        positive = rng.random(n) < 0.3
        p, chance = (np.where(positive, 1 - edge, edge) for edge in (EDGE[model], WRONG))
    outcome = rng.random(n) < chance
    first = np.repeat(np.arange(0, n, images), images)
    source = np.where(np.repeat(rng.random(patients) < ALIKE, images), first, np.arange(n))
    return p[source], outcome[source]


def truth(model: str) -> float:
    """The expected squared distance: p (1 - p) of a calibrated model, by the moments of its beta distribution."""
    if model in BETA:
        a, b = BETA[model]
        return a * b / ((a + b) * (a + b + 1))
    return (1 - WRONG) * EDGE[model] ** 2 + WRONG * (1 - EDGE[model]) ** 2


def main(argv: Sequence[str] | None = None) -> int:
    """Print both errors of every cell; 0 if the upper limit keeps the nominal level."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks brier-error", description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=4_000, help="test sets per cell (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    nominal = (1 - LEVEL) / 2
    rng = np.random.default_rng(options.seed)
    began = time.process_time()
    exceeded = []
    print("True score above the upper limit / above value + 1.96 standard errors.\n")
    print("| model | " + " | ".join(f"{patients}x{images}" for patients, images in DESIGNS) + " |")
    print("|---" * (1 + len(DESIGNS)) + "|")
    for model in (*BETA, *EDGE):
        shown = []
        for patients, images in DESIGNS:
            owner = np.repeat(np.arange(patients), images)
            missed = plain = 0
            for _ in range(options.replicates):
                found = brier(*draw(model, patients, images, rng), owner, level=LEVEL)
                assert isinstance(found, Calibration), "two patients have a Brier score"
                missed += truth(model) > found.high
                plain += truth(model) > found.value + 1.96 * found.se
            error = missed / options.replicates
            if error > nominal + 3 * (error * (1 - error) / options.replicates) ** 0.5:
                exceeded.append(f"{model}, {patients}x{images}")
            shown.append(f"{100 * error:.1f} % / {100 * plain / options.replicates:.1f} %")
        print(f"| {model} | " + " | ".join(shown) + " |", flush=True)
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
