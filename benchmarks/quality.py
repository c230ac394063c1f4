"""The quality rule against EyeQ's grades of image quality: how its limits are chosen, and how well it ranks.

    python -m benchmarks quality [--data FOLDER] [--workers N]

Takes FOLDER/eyepacs-1024 (natural colour) and FOLDER/eyepacs-256 (contrast equalised; default: ../shared/data). Of the
training photographs (train and validation), "accepted" are those that EyeQ rates good or usable and all of grades 3 and
4: EyeQ rejects more than half of the latter with proliferative disease. Limits have two digits, rounded away from the
accepted:

size, field, contrast   the least of the accepted (contrast: in natural colour)
brightness              half of the least: of 20 photographs below the least, vessels and macula are seen in most
burnt                   twice the most
focus                   the largest with which all limits refuse at most 5 % of grades 3 and 4 in natural colour

Prints the area under the curve of `score` (rejected against good or usable) with patients as clusters: of all labels in
natural colour, with limits chosen on other patients (five folds, of all splits); with drgate's own limits, of the test
labels; and what is refused of each grade. Fails where the limits chosen on the training photographs are not drgate's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from drgate.gradability import MOST, RULE, Rule, gradable, measures, score
from drgate.preprocessing import reduced_copy
from drgate.stats.proportion import exact_bounds
from drgate.stats.ranking import auc_clustered
from drgate.vision.decoding import in_processes
from drgate.vision.images import read_image
from drgate.vision.perceptual import HASHED_AT

LEVEL, FOLDS, REFUSED = 0.95, 5, 0.05
NATURAL, EQUALISED = "eyepacs-1024", "eyepacs-256"


def measured(path: Path) -> dict[str, float]:
    image = read_image(path, HASHED_AT)
    return measures(image, *reduced_copy(image))


def read(folder: Path, workers: int) -> pd.DataFrame:
    """`labels.csv` with a column for each measure."""
    labels = pd.read_csv(folder / "labels.csv", dtype={"patient": str})
    found = in_processes(measured, [folder / image for image in labels["image"]], workers=workers)
    return labels.assign(set=folder.name).join(pd.DataFrame(list(found)))


def two_digits(value: float, up: bool = False) -> float:
    """Rounded down (up) to two digits that are not leading zeros."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round((math.ceil if up else math.floor)(round(value / unit, 9)) * unit, 9)


def refused(table: pd.DataFrame, rule: Rule) -> pd.Series[bool]:
    return pd.Series([gradable(row, rule) != "" for row in table[list(MOST)].to_dict("records")], index=table.index)


def chosen(table: pd.DataFrame) -> Rule:
    """The limits from these photographs, as the text above says."""
    severe = table["grade"] >= 3
    accepted = table[severe | table["quality"].isin(["good", "usable"])]
    natural = table["set"] == NATURAL
    limits = partial(
        Rule,
        size=two_digits(accepted["size"].min()),
        field=two_digits(accepted["field"].min()),
        brightness=two_digits(accepted["brightness"].min() / 2),
        burnt=two_digits(2 * accepted["burnt"].max(), up=True),
        contrast=two_digits(accepted["contrast"][accepted["set"] == NATURAL].min()),
    )
    eyes = table[natural & severe]
    focus = 0.1
    while refused(eyes, limits(focus=round(focus + 0.1, 1))).mean() <= REFUSED:
        focus = round(focus + 0.1, 1)
    return limits(focus=focus)


def area(title: str, table: pd.DataFrame, scores: pd.Series[float]) -> None:
    """Prints the area over the rows that EyeQ rated."""
    rated = table["quality"].notna()
    rejected = (table["quality"] == "reject")[rated].to_numpy()
    found = auc_clustered(
        -scores[rated].to_numpy(), rejected, pd.factorize(table["patient"][rated])[0].astype(np.int64), level=LEVEL
    )
    ends = "" if found is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
    print(f"  {title:<46} {int(rejected.sum()):4d} rejected of {int(rated.sum()):4d}: {ends}")


def share(title: str, of: pd.Series[bool]) -> None:
    k, n = int(of.sum()), len(of)
    ends = exact_bounds(k, n, level=LEVEL) if n else None
    print(
        f"  {title:<46} {k:4d} of {n:4d}"
        + ("" if ends is None else f"  {k / n:.3f} ({ends.low:.3f} to {ends.high:.3f})")
    )


def shares(table: pd.DataFrame, no: pd.Series[bool]) -> None:
    """Prints what is refused, by EyeQ's rating and by grade."""
    for quality in ("good", "usable", "reject"):
        share(f"refused of {quality}", no[table["quality"] == quality])
    for grade in range(5):
        share(f"refused of grade {grade}", no[table["grade"] == grade])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks quality")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    if absent := [name for name in (NATURAL, EQUALISED) if not (given.data / name / "labels.csv").is_file()]:
        parser.error(f"{given.data / absent[0]} has no photographs; give --data")
    both = pd.concat([read(given.data / name, given.workers) for name in (NATURAL, EQUALISED)], ignore_index=True)
    training = both["split"] != "test"

    found = chosen(both[training])
    print(f"chosen on the training photographs: {found}")
    natural = both[both["set"] == NATURAL]
    print(f"{NATURAL}: limits chosen on other patients, {FOLDS} folds")
    fold = natural["patient"].map({name: i % FOLDS for i, name in enumerate(sorted(both["patient"].unique()))})
    scores, no = pd.Series(0.0, index=natural.index), pd.Series(False, index=natural.index)
    for number in range(FOLDS):
        held = natural[fold == number]
        rule = chosen(both[~both["patient"].isin(held["patient"])])
        scores[held.index] = [score(row, rule) for row in held[list(MOST)].to_dict("records")]
        no[held.index] = refused(held, rule)
    area("all labels", natural, scores)
    area("grade 0 alone", natural[natural["grade"] == 0], scores[natural["grade"] == 0])
    shares(natural, no)
    scores, no = pd.Series([score(row) for row in both[list(MOST)].to_dict("records")]), refused(both, RULE)
    for name in (NATURAL, EQUALISED):
        table = both[both["set"] == name]
        print(f"{name}: drgate's limits")
        for title, rows in (("test labels", table[table["split"] == "test"]), ("all labels", table)):
            area(title, rows, scores[rows.index])
            rows = rows[rows["grade"] == 0]
            area(f"{title}, grade 0 alone", rows, scores[rows.index])
        shares(table, no[table.index])
        share("refused of grades 3 and 4 in training", no[(both["set"] == name) & training & (both["grade"] >= 3)])
    return int(found != RULE)
