"""How often the test set passes at tuned cut-offs, compared with the chance that `drgate tune` states.

    python -m benchmarks tune-promise [--replicates N] [--seed S]

A tuning set and a test set of the same kind are drawn. Cut-offs are tuned on the first and judged by the checklist on
the second, as `drgate evaluate` does. For comparison: the cut-off at which the sensitivity on the tuning set just meets
the rule. Exit code 1 if fewer test sets pass than stated, by more than three Monte Carlo standard errors.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from drgate.checklist import Checklist, parse_checklist
from drgate.evaluation import Estimate
from drgate.measure import Metrics
from drgate.operating_point import OperatingPoint
from drgate.predictions import Predictions, make_predictions
from drgate.sample import Sample
from drgate.tune import Infeasible, tune

GRADES = (0.40, 0.15, 0.20, 0.12, 0.13)
FLOOR = 0.85
SENSITIVITY = {"id": "sensitivity:referable", "at_least": FLOOR}
SPECIFICITY = {"id": "specificity:referable", "at_least": 0.80}
SETTINGS = (
    ("sensitivity", [SENSITIVITY], 500, 1, 0.7),
    ("sensitivity", [SENSITIVITY], 250, 2, 0.7),
    ("sensitivity and specificity", [SENSITIVITY, SPECIFICITY], 500, 1, 0.5),
)
"""What is asked, in words and as lines; patients, images of each, and the model's noise in grades."""
OWN = 0.6
"""Share of the noise's variance that is the patient's own."""


def draw(name: str, patients: int, images: int, noise: float, rng: np.random.Generator) -> Predictions:
    """Predictions of a model that is given the grade with noise."""
    grade = np.repeat(rng.choice(5, patients, p=GRADES), images)
    seen = grade + noise * (
        np.sqrt(OWN) * np.repeat(rng.normal(size=patients), images) + np.sqrt(1 - OWN) * rng.normal(size=grade.size)
    )
    p = np.exp(-2 * np.abs(seen[:, None] - np.arange(5)))
    table = pd.DataFrame(p / p.sum(axis=1, keepdims=True), columns=[f"p_{k}" for k in range(5)]).assign(
        image=[f"{name}-{i:05d}" for i in range(grade.size)],
        grade=grade,
        patient=[f"{name}-{i // images}" for i in range(grade.size)],
    )
    return make_predictions(table, name, {})


def passes(predictions: Predictions, checklist: Checklist, point: OperatingPoint) -> bool:
    """Whether every criterion passes by its bound."""
    metrics = Metrics(Sample.of(predictions.at(point), checklist), checklist, checklist.evidence.level, seed=0)
    for line in checklist.each_criterion():
        found = metrics.estimate(line.id, line.policy)
        if not isinstance(found, Estimate) or found.low is None or found.low < line.threshold:
            return False
    return True


def observed_cut_off(tuning: Predictions) -> float:
    """The highest cut-off on P(referable) at which the observed sensitivity meets its rule."""
    referable = tuning.table["grade"].to_numpy(dtype=np.int64) >= 2
    scores = np.sort(tuning.probabilities()[referable, 2:].sum(axis=1))
    return float(scores[int(scores.size * (1 - FLOOR) + 1e-9)])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the stated chance and the share that passed; 0 if enough passed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tune-promise", description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=100, help="pairs of sets per row (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    rng = np.random.default_rng(options.seed)
    began = time.process_time()
    broken = []
    print("| required | patients x images | stated chance | passed | passed if tuned to the estimate | infeasible |")
    print("|---|---|---|---|---|---|")
    for asked, lines, patients, images, noise in SETTINGS:
        checklist = parse_checklist(
            {"name": "s", "version": 1, "bootstrap": {"resamples": 1000}, "criteria": lines}, "s"
        )
        promised, passed, estimate = [], [], []
        for _ in range(options.replicates):
            tuning, test = (draw(name, patients, images, noise, rng) for name in ("tuning", "test"))
            found = tune(tuning, checklist)
            if isinstance(found, Infeasible):
                continue
            promised.append(found.promise["power"])
            passed.append(passes(test, checklist, found))
            estimate.append(passes(test, checklist, replace(found, cut_offs=(1.0, observed_cut_off(tuning), 1.0, 1.0))))
        share, promise = float(np.mean(passed)), float(np.mean(promised))
        if share < promise - 3 * (share * (1 - share) / len(passed)) ** 0.5:
            broken.append(f"{asked}, {patients}x{images}")
        shown = [f"{100 * value:.0f} %" for value in (promise, share, np.mean(estimate))]
        infeasible = options.replicates - len(passed)
        print(f"| {asked} | {patients}x{images} | " + " | ".join(shown) + f" | {infeasible} |", flush=True)
    seconds = time.process_time() - began
    print(f"\n{options.replicates} pairs of sets per row, seed {options.seed}, {seconds:.1f} s.")
    for row in broken:
        print(f"Fewer passed than stated: {row}.", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
