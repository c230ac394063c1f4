"""Who is in the test set: grades, eyes, patients, cameras, sites, quality; what is too few to show anything."""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
import pandas as pd

from drgate.audit.evidence import Evidence, Examined, Photographs
from drgate.audit.result import Check, Finding, Status
from drgate.audit.strata import LEVEL, TITLE_OF, Flags, owners, rounded, share, strata
from drgate.gradability import gradable
from drgate.scale import GRADES
from drgate.stats.power import smallest_without_miss

LIMITS: Final = (0.90, 0.95)
"""A group with fewer patients than show the first without an error is suspected; below the second it is named."""
GROUPED_BY: Final = (
    "source", "site", "centre", "center", "clinic", "country", "region", "camera", "device", "sex", "gender",
    "age_group", "ethnicity",
)  # fmt: skip
"""Columns of subgroups by usual names, in lower case. Another column may name a patient."""
_SEXES: Final = {"f": "female", "female": "female", "m": "male", "male": "male"}
_EYES: Final = {"L": "left", "R": "right"}


@functools.cache
def fewest(limit: float) -> int:
    """Patients with which a proportion of at least `limit` can be shown if there is no error."""
    found = smallest_without_miss(limit, level=LEVEL)
    assert found is not None
    return found


def check(evidence: Evidence) -> Check:
    """Shares of the grades beside the deployment mix and the training set, as numbers. Findings: what is absent or has
    too few patients; a group below the first of `LIMITS`, and one that is absent, makes it suspected."""
    test, train = evidence.test, evidence.train
    table, patients = test.table, owners(test.table)
    unit = "images" if patients is None else "patients"
    compared = {"test": len(test)}
    if patients is not None:
        compared["patients"] = len(np.unique(patients))
    grades = strata(table)
    graded = np.any([*grades.values()], axis=0)
    if not graded.any():
        reason = f"No image of the {evidence.sides[0]} has a reference grade; give them with --grades."
        return Check("case_mix", "not_assessed", compared=compared, reason=reason)

    def many(rows: Flags) -> int:
        return int(rows.sum()) if patients is None else len(np.unique(patients[rows]))

    lacking: list[Finding] = []
    few: list[Finding] = []

    def count(name: str, rows: Flags) -> None:
        """Note a group that is absent or has too few."""
        n = many(rows)
        short = next((limit for limit in LIMITS if n < fewest(limit)), None)
        if short is None:
            return
        units = unit.removesuffix("s") if n == 1 else unit
        what = f"{name}: {n} {units}; {fewest(short)} without an error are needed to show {short:.0%}"
        into = lacking if short == LIMITS[0] else few
        into.append(Finding(what=what if n else f"{name}: absent", value=float(n)))

    numbers: dict[str, float] = {}
    trained = {} if train is None else strata(train.table)
    of_training = np.any([*trained.values()], axis=0) if trained else np.zeros(0, dtype=bool)
    for grade, (name, rows) in enumerate(grades.items()):
        found = share(rows, graded, patients)
        assert found is not None
        numbers |= {f"{unit}:{name}": float(many(rows)), **rounded(f"share:{name}", found.value, found.low, found.high)}
        if evidence.mix is not None and tuple(grades) == GRADES:
            numbers[f"deployment:{name}"] = round(float(evidence.mix[grade]), 6)
        if of_training.any() and name in trained:
            numbers[f"train:{name}"] = round(float(trained[name].sum() / of_training.sum()), 6)
        count(TITLE_OF[name], rows)
    for eye, word in _EYES.items():
        rows = (table["eye"] == eye).to_numpy(dtype=bool, na_value=False)
        numbers[f"eyes:{word}"] = float(rows.sum())
        if not rows.any() and table["eye"].notna().any():
            lacking.append(Finding(what=f"{word} eyes: absent", value=0.0))
    for column in GROUPED_BY:
        _subgroups(column, table, train, graded, count, lacking, evidence.sides[0])
    for side, name in ((test, "refused"), (train, "train_refused")):
        if (no := _refused(side)) is not None:
            numbers[name] = no
    reason = ""
    if lacking:
        reason = f"Groups are absent, or have too few {unit} to show {LIMITS[0]:.0%} even without an error."
    status: Status = "suspected" if lacking else "clean"
    return Check.of("case_mix", [*lacking, *few], status=status, compared=compared, reason=reason, numbers=numbers)


def _subgroups(
    column: str,
    table: pd.DataFrame,
    train: Photographs | None,
    graded: Flags,
    count: Any,
    lacking: list[Finding],
    side: str,
) -> None:
    """Counts each group of a column, of the test set and of training, under a name that tells nothing of its cells."""
    here, there = (_cells(one, column) for one in (table, None if train is None else train.table))
    if here is None and there is None:
        return
    if here is None or not here[graded].notna().any():
        lacking.append(Finding(what=f"{column}: not given for the {side}"))
        return
    if blank := int(here[graded].isna().sum()):
        lacking.append(Finding(what=f"{column}: not given for {blank} images", value=float(blank)))
    values = sorted({*here.dropna(), *(() if there is None else there.dropna())})
    if column in ("sex", "gender") and {*values} <= {*_SEXES.values()}:
        values = sorted({*_SEXES.values()})
    for number, value in enumerate(values, start=1):
        name = f"{column} {value}" if value in _SEXES.values() else f"{column} {number}"
        count(name, (here == value).to_numpy(dtype=bool, na_value=False) & graded)


def _cells(table: pd.DataFrame | None, column: str) -> pd.Series[Any] | None:
    """A column by its name in any case; sexes in one spelling."""
    names = {} if table is None else {name.casefold(): name for name in table.columns}
    if table is None or column not in names:
        return None
    cells = table[names[column]].astype("object").map(lambda cell: str(cell).strip(), na_action="ignore")
    return cells.map(lambda cell: _SEXES.get(cell.casefold(), cell), na_action="ignore")


def _refused(side: Photographs | None) -> float | None:
    """Share of the photographs that were examined which the quality rule refuses."""
    seen = [one for one in side.seen if isinstance(one, Examined)] if side is not None else []
    return round(sum(gradable(one.measures) != "" for one in seen) / len(seen), 6) if seen else None
