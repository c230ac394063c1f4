"""Bootstrap intervals of every decision metric, against the usual ways of getting them.

    python -m benchmarks bootstrap [--resamples B] [--replicates R] [--seed S]

10,000 images of 5,000 patients, 33 metrics, models of accuracy .95, .80 and .55; resampling by image and by patient.
All methods run on the same arrays of grades, on one thread. Times are processor time, which other jobs on the machine
affect least:

- drgate: `drgate.stats.bootstrap`, all B replicates, the median of five.
- scikit-learn: a loop over replicates with scikit-learn's functions, R replicates measured and scaled to B.
- SciPy: `scipy.stats.bootstrap`, vectorised, percentile, all B replicates of all metrics in one call. Each resampled
  table is counted with one `bincount` and turned into metrics with drgate's array functions, the fastest way for SciPy.
- confidenceinterval: its percentile bootstrap of five metrics (it has no others of these and knows no patients), R
  replicates scaled to B.

The benchmark also checks that the results agree: scikit-learn's values equal drgate's within 1e-9 on the same
replicates, and SciPy's replicates have the same spread and the same interval within Monte Carlo error. Exit code 1 if
not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import confidenceinterval
import numpy as np
import scipy.stats
import threadpoolctl
from numpy.typing import NDArray
from sklearn import metrics

from drgate.stats import agreement, bootstrap, confusion

PATIENTS = 5_000
ACCURACIES = (0.95, 0.80, 0.55)
MIX = (0.45, 0.17, 0.20, 0.10, 0.08)
"""Grades of the patients' first eye."""
LEVEL = 0.95
GROUPS = ((0,), (1,), (2,), (3,), (4,), (2, 3, 4), (3, 4))
RATIOS = [confusion.accuracy("excluded")] + [
    statistic(group, "excluded")
    for group in GROUPS
    for statistic in (confusion.sensitivity, confusion.specificity, confusion.ppv, confusion.npv)
]
KAPPAS: tuple[agreement.Weights, ...] = ("none", "linear", "quadratic")
NAMES = [
    "accuracy",
    *(f"{name} of {group}" for group in GROUPS for name in ("sensitivity", "specificity", "PPV", "NPV")),
    "balanced accuracy",
    *(f"kappa, weights {weights}" for weights in KAPPAS),
]
Codes = NDArray[np.int64]
Floats = NDArray[np.float64]


def sample(patients: int, accuracy: float, seed: int) -> tuple[Codes, Codes, Codes]:
    """Reference and predicted grades and patient of two eyes a patient, (2 * patients,) each.

    Both eyes mostly share the grade, errors share a patient (correlation .3) and four in five are one grade off.
    """
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), 2)
    reference = np.repeat(rng.choice(5, patients, p=MIX), 2)
    reference[1::2] -= (rng.random(patients) < 0.3) & (reference[1::2] > 0)
    right = rng.random(owner.size) < np.repeat(rng.beta(accuracy * 7 / 3, (1 - accuracy) * 7 / 3, patients), 2)
    step = rng.choice([-2, -1, 1, 2], owner.size, p=[0.1, 0.4, 0.4, 0.1])
    other = reference + step
    other = np.where((other < 0) | (other > 4), reference - step, other)
    return reference, np.where(right, reference, other), owner


def values(tables: NDArray[np.int64]) -> Floats:
    """The metrics (33, ...) of tables (..., 30)."""
    shares, _ = confusion.share(*confusion.terms(RATIOS, tables))
    balanced, _ = confusion.balanced_accuracy(tables, grades=(0, 1, 2, 3, 4))
    square = confusion.square(tables)
    kappas = [agreement.kappa(square, weights)[0] for weights in KAPPAS]
    return np.stack([*np.moveaxis(shares, -1, 0), balanced, *kappas])


def ours(reference: Codes, predicted: Codes, owner: Codes | None, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Intervals (33, 2) and replicates (33, B) from grades; by patient if `owner` is given."""
    if owner is None:
        table = confusion.tabulate(reference, predicted)
        tables = bootstrap.resample_patients(*bootstrap.image_patterns(table), resamples=resamples, seed=seed)
    else:
        patterns = bootstrap.patient_patterns(confusion.cells(reference, predicted), owner)
        tables = bootstrap.resample_patients(*patterns, resamples=resamples, seed=seed)
    drawn = values(tables)
    ends = [bootstrap.percentile_interval(row, LEVEL) for row in drawn]
    return np.array([(end.low, end.high) for end in ends if end is not None]), drawn


def loop(reference: Codes, predicted: Codes, rows: Codes, replicates: int, seed: int) -> tuple[Floats, Codes]:
    """scikit-learn's values (33, R) of replicates that draw from `rows` (units, images of each), and their images."""
    rng = np.random.default_rng(seed)
    found, drawn = [], []
    for _ in range(replicates):
        images = rows[rng.integers(0, len(rows), len(rows))].ravel()
        truth, called = reference[images], predicted[images]
        tables = [*metrics.multilabel_confusion_matrix(truth, called, labels=range(5))]
        tables += [metrics.confusion_matrix(truth >= lowest, called >= lowest) for lowest in (2, 3)]
        row = [metrics.accuracy_score(truth, called)]
        for (tn, fp), (fn, tp) in tables:
            row += [tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn)]
        row.append(metrics.balanced_accuracy_score(truth, called))
        row += [
            metrics.cohen_kappa_score(truth, called, labels=range(5), weights=weights)
            for weights in (None, "linear", "quadratic")
        ]
        found.append(row)
        drawn.append(images)
    return np.array(found).T, np.array(drawn)


def scipys(cells: Codes, rows: Codes, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """SciPy's intervals (33, 2) and replicates (33, B)."""

    def statistic(*units: Codes, axis: int = -1) -> Floats:
        images = np.concatenate(units, axis=-1)
        flat = images.reshape(-1, images.shape[-1])
        places = flat + confusion.CELLS * np.arange(len(flat))[:, None]
        tables = np.bincount(places.ravel(), minlength=confusion.CELLS * len(flat)).reshape(-1, confusion.CELLS)
        return values(tables.reshape(*images.shape[:-1], confusion.CELLS))

    result = scipy.stats.bootstrap(
        tuple(cells[rows].T),
        statistic,
        n_resamples=resamples,
        batch=200,
        paired=rows.shape[1] > 1,
        vectorized=True,
        method="percentile",
        confidence_level=LEVEL,
        rng=np.random.default_rng(seed),
    )
    return np.stack(result.confidence_interval, axis=-1), result.bootstrap_distribution


def confidenceintervals(reference: Codes, predicted: Codes, replicates: int, seed: int) -> None:
    """Accuracy, and sensitivity, specificity, PPV and NPV for referable DR."""
    truth, called = (reference >= 2).astype(int), (predicted >= 2).astype(int)
    for function, arguments in (
        (confidenceinterval.accuracy_score, (reference, predicted)),
        (confidenceinterval.tpr_score, (truth, called)),
        (confidenceinterval.tnr_score, (truth, called)),
        (confidenceinterval.ppv_score, (truth, called)),
        (confidenceinterval.npv_score, (truth, called)),
    ):
        function(
            *arguments,
            confidence_level=LEVEL,
            method="bootstrap_percentile",
            n_resamples=replicates,
            random_state=np.random.default_rng(seed),
        )


def disagreements(mine: tuple[Floats, Floats], theirs: tuple[Floats, Floats]) -> list[str]:
    """Metrics whose spread or ends differ by more than 4.5 standard errors of two independent bootstraps."""
    (ends, drawn), (other_ends, other) = mine, theirs
    resamples = drawn.shape[1]
    spread = other.std(axis=1)
    # The density of a normal value at its 2.5 % quantile is .0584 over its standard deviation.
    error = np.sqrt(2 * 0.025 * 0.975 / resamples) / 0.0584 * spread
    apart = (np.abs(ends - other_ends) > 4.5 * error[:, None]).any(axis=1)
    apart |= np.abs(drawn.std(axis=1) / spread - 1) > 4.5 / np.sqrt(resamples)
    return [name for name, differs in zip(NAMES, apart, strict=True) if differs]


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Median processor time."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each model and way of resampling. Returns 0 if all intervals agree, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks bootstrap", description=__doc__.splitlines()[0])
    parser.add_argument("--resamples", type=int, default=10_000, help="number of replicates, B (default: %(default)s)")
    parser.add_argument(
        "--replicates",
        type=int,
        default=40,
        help="number of replicates that are timed in a loop, R (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    with threadpoolctl.threadpool_limits(1):
        return measure(options.resamples, options.replicates, options.seed)


def measure(resamples: int, replicates: int, seed: int) -> int:
    """Run the whole benchmark."""
    scale = resamples / replicates
    troubles = []
    print(f"{2 * PATIENTS:,} images, {PATIENTS:,} patients, {len(NAMES)} metrics, B = {resamples:,}. Seconds,")
    print("and in brackets the ratio to drgate. confidenceinterval: 5 metrics only.\n")
    print("| accuracy | resampled | patterns | drgate | scikit-learn loop | SciPy vectorised | confidenceinterval |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for accuracy in ACCURACIES:
        reference, predicted, owner = sample(PATIENTS, accuracy, seed)
        cells = confusion.cells(reference, predicted)
        for unit in ("images", "patients"):
            whose = owner if unit == "patients" else None
            rows = np.arange(owner.size).reshape(-1, 1 if whose is None else 2)
            arguments = reference, predicted, whose, resamples, seed
            mine = ours(*arguments)
            fast = seconds(lambda a=arguments: ours(*a), times=5)

            began = time.process_time()
            looped, images = loop(reference, predicted, rows, replicates, seed)
            slow = (time.process_time() - began) * scale
            tables = np.apply_along_axis(np.bincount, 1, cells[images], minlength=confusion.CELLS)
            if np.abs(values(tables) - looped).max() > 1e-9:
                troubles.append(f"accuracy {accuracy}, {unit}: scikit-learn gives different values.")

            began = time.process_time()
            theirs = scipys(cells, rows, resamples, seed)
            vectorised = time.process_time() - began
            troubles += [
                f"accuracy {accuracy}, {unit}: SciPy's bootstrap of {name} differs."
                for name in disagreements(mine, theirs)
            ]
            shown = [f"{slow:.1f} ({slow / fast:,.0f} x)", f"{vectorised:.2f} ({vectorised / fast:.0f} x)"]
            if whose is None:
                patterns = np.count_nonzero(np.bincount(cells))
                work = seconds(lambda r=reference, p=predicted: confidenceintervals(r, p, replicates, 0)) * scale
                shown.append(f"{work:.1f} ({work / fast:,.0f} x)")
            else:
                patterns = len(bootstrap.patient_patterns(cells, owner)[1])
                shown.append("not offered")
            print(f"| {accuracy:.2f} | {unit} | {patterns} | {fast:.4f} | " + " | ".join(shown) + " |", flush=True)
    print(f"\nLoop and confidenceinterval: {replicates} replicates were timed and scaled to {resamples:,}.")
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    if not troubles:
        print("All values agree with scikit-learn, and all intervals with SciPy.")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
