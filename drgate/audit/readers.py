"""How well do the human readers agree? Quadratic kappa of each with the median of the others, and of each pair."""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
from numpy.typing import NDArray

from drgate.audit.evidence import Evidence
from drgate.audit.result import Check, Finding
from drgate.columns import reader_columns
from drgate.contrast import FEWEST_ALIKE, MADE_BY_OTHERS, median_grades
from drgate.grouping import grouping
from drgate.stats import agreement
from drgate.stats.bootstrap import distinct_patients

LEAST: Final = 0.6
"""Quadratic kappa that an interval must reach. From .61 on, agreement is called substantial (Landis and Koch 1977,
Biometrics 33:159)."""
MOST: Final = 20
"""Readers that are compared, each with each."""
LEVEL: Final = 0.95


def check(evidence: Evidence) -> Check:
    table = evidence.test.table
    if not reader_columns(table) and evidence.predictions is not None:
        table = evidence.predictions.table
    names = reader_columns(table)
    if not 2 <= len(names) <= MOST:
        many = "fewer than two" if len(names) < 2 else f"more than {MOST}"
        reason = f"The test set has {many} columns of readers (reader_1, reader_2, ...)."
        return Check("readers", "not_assessed", reason=reason)
    grades = table[names].to_numpy(dtype=np.float64, na_value=np.nan)
    patients = grouping(table).codes
    asked = {}
    if len(names) >= MADE_BY_OTHERS:
        for i, name in enumerate(names):
            asked[f"{name} and the median of the others"] = grades[:, i], median_grades(np.delete(grades, i, axis=1))
    for i, j in itertools.combinations(range(len(names)), 2):
        asked[f"{names[i]} and {names[j]}"] = grades[:, i], grades[:, j]
    findings, low, alike = [], 0, 0
    for what, (one, other) in asked.items():
        both = ~np.isnan(one) & ~np.isnan(other)
        found = _agreement(what, one[both], other[both], None if patients is None else patients[both])
        if found is not None:
            findings.append(found)
            low += found.high is not None and found.high < LEAST
            alike += both.sum() >= FEWEST_ALIKE and "median" not in what and bool((one[both] == other[both]).all())
    if not findings:
        return Check("readers", "not_assessed", reason="No two readers graded the same images with several grades.")
    reasons = [
        f"{low} of {len(asked)} agreements are shown to be below {LEAST}." if low else "",
        f"{alike} pairs of readers gave the same grade to every image." if alike else "",
        "" if patients is not None else "The patients are not known, so there are no intervals.",
    ]
    return Check.of(
        "readers",
        findings,
        status="suspected" if low or alike else "clean",
        compared={"readers": len(names), "images": int((~np.isnan(grades)).any(axis=1).sum())},
        reason=" ".join(filter(None, reasons)),
        numbers={"least": LEAST},
    )


def _agreement(
    what: str, one: NDArray[np.float64], other: NDArray[np.float64], patients: NDArray[np.int64] | None
) -> Finding | None:
    """Of two graders, each with a grade for each image; None where kappa is not defined."""
    cells = (5 * one + other).astype(np.int64)
    value, defined = agreement.kappa(np.bincount(cells, minlength=25).reshape(5, 5), "quadratic")
    if not defined:
        return None
    limits: tuple[float, float] | tuple[None, None] = (None, None)
    if patients is not None:
        each = distinct_patients(cells, patients, 25)
        tables = np.bincount(each.patients * 25 + each.codes, minlength=25 * len(each.times)).reshape(-1, 5, 5)
        low, high = agreement.limits(tables, each.times, "quadratic", level=LEVEL)
        limits = round(low, 4), round(high, 4)
    return Finding(what=what, value=round(float(value), 4), low=limits[0], high=limits[1])
