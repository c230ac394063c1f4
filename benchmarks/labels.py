"""Labels flipped on purpose: how many of the first accused are these, against chance.

    python -m benchmarks labels ../shared/data/predictions/eyepacs-1024-weak-model.csv [--draws 200]

5 % of the reference grades become another one, drawn from the other four or from the two beside it. The rankings:
chance, the model's probability of the grade alone (self-confidence), its margin to the best other grade, it over the
mean of its class (the class thresholds of confident learning), the expected distance from the grade, and what drgate
ranks by, which adds the other eye. Each is shown as the mean, and the middle 95 % of the draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drgate.audit.mislabelled import likely_grades
from drgate.predictions import load_predictions, make_predictions

FIRST = (38, 100)


def rankings(p: NDArray[np.float64], grades: NDArray[np.int64], both: NDArray[np.float64]) -> dict[str, object]:
    """Lower is more suspect. both: probabilities with the other eye."""
    rows = np.arange(len(grades))
    own, others = p[rows, grades], p.copy()
    others[rows, grades] = -1
    means = np.array([own[grades == grade].mean() if (grades == grade).any() else 1 for grade in range(5)])
    return {
        "self-confidence": own,
        "margin": own - others.max(axis=1),
        "over class mean": own / means[grades],
        "expected distance": -(p * np.abs(np.arange(5) - grades[:, None])).sum(axis=1),
        "drgate": both[rows, grades],
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--draws", type=int, default=200)
    asked = parser.parse_args(arguments)
    table = load_predictions(asked.table).table
    p, truth = table[[f"p_{i}" for i in range(5)]].to_numpy(), table["grade"].to_numpy(dtype=np.int64)
    flips = round(0.05 * len(table))
    for kind in ("any other grade", "a grade beside it"):
        kept: dict[str, list[list[float]]] = {"chance": [[flips / len(table)] * len(FIRST)]}
        for seed in range(asked.draws):
            random = np.random.default_rng(seed)
            grades, flipped = truth.copy(), random.choice(len(table), flips, replace=False)
            if kind == "any other grade":
                grades[flipped] = (grades[flipped] + random.integers(1, 5, flips)) % 5
            else:
                grades[flipped] = np.abs(grades[flipped] + random.choice([-1, 1], flips))
                grades[grades == 5] = 3
            both = likely_grades(make_predictions(table.assign(grade=grades), "t", {}), np.arange(len(table)), grades)
            for name, suspicion in rankings(p, grades, both).items():
                order = np.argsort(suspicion, kind="stable")
                kept.setdefault(name, []).append([float(np.isin(order[:n], flipped).mean()) for n in FIRST])
        print(f"{flips} of {len(table)} labels became {kind}; {asked.draws} draws")
        for name, shares in kept.items():
            low, high = np.quantile(shares, [0.025, 0.975], axis=0)
            each = zip(FIRST, np.mean(shares, axis=0), low, high, strict=True)
            said = (f"first {n}: {middle:.3f} ({a:.2f} to {b:.2f})" for n, middle, a, b in each)
            print(f"  {name:<18} {'   '.join(said)}")
    return 0
