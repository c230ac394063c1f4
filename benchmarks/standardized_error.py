"""How often a criterion at a deployment mix passes for a model at the threshold, over random designs (simulated).

    python -m benchmarks standardized-error [--designs N] [--replicates N] [--seed S]

A design is the number of images of each grade, the mix of grades at deployment, how errors are distributed over the
grades, the images per patient and their correlation. Test sets are drawn whose true value at the mix is the threshold;
the error is the share whose lower limit is above it. Nominal error: 2.5 % (two-sided 95 %). The ten designs with the
largest error are drawn again, with ten times as many test sets. Exit code 1 if one of them is above nominal by more
than three Monte Carlo standard errors.

For comparison, where each image is of a different patient: the delta method, which is the exact limit at the sample
size that has the plain variance (at most that of errors equally frequent in all grades). It lacks the allowance of
`drgate.stats.standardized` for errors that happen not to occur in the sample.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from drgate.stats.confusion import CELLS, COLUMNS, GRADES, Ratio, accuracy, npv, ppv
from drgate.stats.standardized import Standardized, estimate, values

LEVEL = 0.95
AGAIN = 10
"""Designs that are drawn again, and how many times as often."""
SIZES = (
    (2000, 500, 400, 100, 60),
    (20, 100, 500, 1000, 2000),
    (2000, 1000, 500, 100, 20),
    (100, 100, 100, 100, 100),
    (20, 2000, 2000, 2000, 2000),
    (2000, 2000, 2000, 2000, 20),
    (200, 50, 50, 30, 20),
    (30, 30, 30, 30, 30),
    (1000, 20, 20, 20, 20),
)
MIXES = (
    (0.80, 0.10, 0.08, 0.01, 0.01),
    (0.01, 0.01, 0.08, 0.10, 0.80),
    (0.20, 0.20, 0.20, 0.20, 0.20),
    (0.50, 0.125, 0.125, 0.125, 0.125),
    (0.05, 0.05, 0.05, 0.05, 0.80),
    (0.04, 0.24, 0.24, 0.24, 0.24),
)
PATIENTS = {"one": (1, False), "two": (2, False), "two, of neighbouring grades too": (2, True), "four": (4, False)}
"""Images of a patient, and whether a third of the patients have them in two grades."""
REFERABLE = (2, 3, 4)
RATIOS = {
    "accuracy": accuracy("excluded"),
    "PPV": ppv(REFERABLE, "excluded"),
    "NPV": npv(REFERABLE, "excluded"),
}
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Design:
    """Test sets of one kind. An image gets one of two predicted grades, with probabilities by its grade."""

    name: str
    """A key of `RATIOS`."""
    sizes: tuple[int, ...]
    mix: tuple[float, ...]
    chance: Floats
    patients: str
    icc: float
    """Chance that all images of a patient share their luck; otherwise none do."""

    def __str__(self) -> str:
        chances = "/".join(f"{100 * chance:.2g}" for chance in self.chance)
        what = "wrong" if self.name == "accuracy" else "called referable"
        sizes, mix = ("/".join(f"{part:g}" for part in parts) for parts in (self.sizes, self.mix))
        of_patient = f"images per patient: {self.patients}"
        return f"{self.name}, {sizes} images at {mix}, {chances} % {what}, icc {self.icc:g}, {of_patient}"

    @property
    def ratio(self) -> Ratio:
        return RATIOS[self.name]

    def called(self, grade: int) -> tuple[int, int]:
        """The two possible predicted grades of an image of this grade."""
        return (grade, (grade + 1) % GRADES) if self.name == "accuracy" else (0, 2)

    @property
    def line(self) -> float:
        """The true value."""
        table = np.zeros((GRADES, COLUMNS))
        for grade, (weight, chance) in enumerate(zip(self.mix, self.chance, strict=True)):
            table[grade, list(self.called(grade))] = weight * (1 - chance), weight * chance
        return float(table[self.ratio.success].sum() / table[self.ratio.counted].sum())

    def kinds(self) -> list[tuple[tuple[int, ...], int]]:
        """Grades of a patient's images, and how many patients have exactly these."""
        left = list(self.sizes)
        found: list[tuple[tuple[int, ...], int]] = []
        images, across = PATIENTS[self.patients]
        if across:
            for grade in range(GRADES - 1):
                pairs = min(left[grade : grade + 2]) // 3
                found.append(((grade, grade + 1), pairs))
                left[grade], left[grade + 1] = left[grade] - pairs, left[grade + 1] - pairs
        for grade, n in enumerate(left):
            found += [((grade,) * images, n // images), ((grade,), n % images)]
        return [(grades, patients) for grades, patients in found if patients]

    def draw(self, replicates: int, rng: np.random.Generator) -> tuple[Counts, Counts]:
        """Patterns (P, 30) of a patient's images, and how many patients of each test set have them, (replicates, P)."""
        patterns, drawn = [], []
        for grades, patients in self.kinds():
            chance, shares = self.chance[list(grades)], []
            for places in itertools.product((0, 1), repeat=len(grades)):
                second = np.array(places) == 1
                alone = float(np.where(second, chance, 1 - chance).prod())
                # One number decides for all: it is below the chances of the second grade and above the others.
                together = max(0.0, chance[second].min(initial=1.0) - chance[~second].max(initial=0.0))
                shares.append(self.icc * together + (1 - self.icc) * alone)
                cells = [grade * COLUMNS + self.called(grade)[at] for grade, at in zip(grades, places, strict=True)]
                patterns.append(np.bincount(cells, minlength=CELLS))
            drawn.append(rng.multinomial(patients, np.array(shares) / sum(shares), size=replicates))
        return np.array(patterns), np.concatenate(drawn, axis=1)


def some_design(name: str, rng: np.random.Generator) -> Design:
    """A random design."""
    sizes, mix = SIZES[rng.integers(len(SIZES))], MIXES[rng.integers(len(MIXES))]
    patients = list(PATIENTS)[rng.integers(len(PATIENTS))]
    icc = 0.0 if patients == "one" else float(rng.choice((0, 0.5, 0.8)))
    if name == "accuracy":
        chance = np.ones(GRADES)
        while chance.max() > 0.98:
            # This share of the errors is in one grade; None: they are equally frequent in all grades.
            wrong, share = 1 - rng.choice((0.80, 0.90, 0.95, 0.97)), (None, 0.5, 0.8, 1.0)[rng.integers(4)]
            grade = rng.integers(GRADES)
            own = mix[grade] if share is None else share
            chance = np.full(GRADES, wrong * (1 - own) / (1 - mix[grade]))
            chance[grade] = wrong * own / mix[grade]
    elif rng.random() < 0.4:
        grade = rng.integers(GRADES)
        chance = np.array([0.001, 0.001, 0.999, 0.999, 0.999])
        chance[grade] = 0.7 if grade in REFERABLE else 0.2
    else:
        false, true = rng.choice((0.02, 0.05, 0.10, 0.30)), rng.choice((0.70, 0.90, 0.97))
        chance = np.array([false, false * rng.choice((0.2, 1, 3)), true * rng.choice((0.8, 1)), true, true**0.5])
    return Design(name, sizes, mix, chance, patients, icc)


def errors(design: Design, replicates: int, rng: np.random.Generator) -> tuple[float, float]:
    """Share of test sets whose lower limit is above the true value: by drgate, and by the delta method."""
    patterns, drawn = design.draw(replicates, rng)
    tables = drawn @ patterns
    line, images = design.line, np.array(design.sizes)
    theta, defined = values(design.ratio, tables, mix=design.mix)
    tables = tables[defined].reshape(-1, GRADES, COLUMNS)
    drawn, theta = drawn[defined], theta[defined]
    good, counted = ((tables * mask).sum(axis=2) / images for mask in (design.ratio.success, design.ratio.counted))
    weights = design.mix / (counted @ design.mix)[:, None]
    equal = 1 / (weights**2 * counted / images).sum(axis=1)
    off = theta[:, None]
    spread = good * (1 - off) ** 2 + (counted - good) * off**2 - (good - off * counted) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        plain = theta * (1 - theta) / (weights**2 * spread / images).sum(axis=1)

    def low(n: Floats) -> Floats:
        return np.asarray(betaincinv(theta * n, (1 - theta) * n + 1, (1 - LEVEL) / 2), dtype=np.float64)

    # The effective sample is never larger than `equal`; if that is too small, the criterion cannot pass.
    passed = 0
    for i in np.flatnonzero(low(equal) > line):
        found = estimate(design.ratio, patterns, drawn[i], mix=design.mix, level=LEVEL)
        passed += isinstance(found, Standardized) and found.low > line
    return passed / replicates, float((low(np.fmin(equal, plain)) > line).sum()) / replicates


def main(argv: Sequence[str] | None = None) -> int:
    """Print the errors by kind of design, and the worst designs drawn again. Returns 0 if none is above nominal."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks standardized-error", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--designs", type=int, default=300, help="designs per metric (default: %(default)s)")
    parser.add_argument("--replicates", type=int, default=2_000, help="test sets per design (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    nominal = (1 - LEVEL) / 2
    rng = np.random.default_rng(options.seed)
    began = time.process_time()
    all_found: list[tuple[float, Design]] = []
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {row: [] for row in itertools.product(RATIOS, PATIENTS)}
    for name in RATIOS:
        for _ in range(options.designs):
            design = some_design(name, rng)
            found = errors(design, options.replicates, rng)
            all_found.append((found[0], design))
            rows[name, design.patients].append(found)
    print("| metric | images per patient | designs | mean error | largest | largest of the delta method |")
    print("|---|---|---|---|---|---|")
    for (name, patients), cells in rows.items():
        if not cells:
            continue
        gate, delta = (100 * np.array(column) for column in zip(*cells, strict=True))
        beside = f"{delta.max():.1f} %" if patients == "one" else ""
        print(f"| {name} | {patients} | {len(cells)} | {gate.mean():.2f} % | {gate.max():.2f} % | {beside} |")
    again = AGAIN * options.replicates
    print(f"\nThe {AGAIN} worst of {len(all_found)} designs, drawn again {again} times:\n", flush=True)
    exceeded = []
    for _, design in sorted(all_found, key=lambda one: -one[0])[:AGAIN]:
        error, _ = errors(design, again, rng)
        print(f"- {100 * error:.2f} %: {design}", flush=True)
        if error > nominal + 3 * (error * (1 - error) / again) ** 0.5:
            exceeded.append(design)
    seconds = time.process_time() - began
    print(f"\nNominal {100 * nominal:.1f} %; {options.replicates} test sets per design, seed {options.seed},", end=" ")
    print(f"{seconds:.1f} s.")
    for design in exceeded:
        print(f"Error above nominal: {design}.", file=sys.stderr)
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
