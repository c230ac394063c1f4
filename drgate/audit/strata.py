"""Grades and patients of a side of the comparison, and shares with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgate.columns import reference_of
from drgate.grouping import grouping
from drgate.scale import GRADES, REFERABLE_CLASSES, SCALE_TITLES, STANDS_FOR, Scale
from drgate.stats import cluster

LEVEL: Final = 0.95
TITLE_OF: Final = dict(
    zip((*GRADES, *REFERABLE_CLASSES), (*SCALE_TITLES["grades"], *SCALE_TITLES["referable"]), strict=True)
)
"""The title of each stratum for people."""
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Share:
    """k of n images, with the exact interval at the effective sample size; 0 to 1 where patients are unknown."""

    k: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.k / self.n


def rounded(name: str, value: float, low: float, high: float) -> dict[str, float]:
    """A number and its interval, by name."""
    return {f"{name}{end}": round(one, 6) for end, one in (("", value), ("_low", low), ("_high", high))}


def strata(table: pd.DataFrame) -> dict[str, Flags]:
    """Which rows have each reference grade, by its name; of a reference that says only whether to refer, its two."""
    scale: Scale = "referable" if "referable" in table.columns else "grades"
    names = GRADES if scale == "grades" else REFERABLE_CLASSES
    grades = reference_of(table)
    return {
        name: (grades == grade).to_numpy(dtype=bool, na_value=False)
        for name, grade in zip(names, STANDS_FOR[scale], strict=True)
    }


def owners(table: pd.DataFrame) -> NDArray[np.int64] | None:
    """The patient of each row by number; None where patients are unknown."""
    return grouping(table).codes


def share(hits: Flags, of: Flags, patients: NDArray[np.int64] | None, level: float = LEVEL) -> Share | None:
    """Of the rows `of`, those that are `hits`; None without a row."""
    k, n = int((hits & of).sum()), int(of.sum())
    if not n:
        return None
    if patients is None:
        sample = cluster.unknown_clusters(k, n, images_a_patient=None, level=level)
    else:
        sizes, found = (np.bincount(patients[rows], minlength=patients.max() + 1) for rows in (of, hits & of))
        sample = cluster.effective_sample(found, sizes, level=level, adverse=True)
    ends = cluster.bounds(sample, level=level, interval="clopper-pearson")
    return Share(k, n, ends.low, ends.high)
