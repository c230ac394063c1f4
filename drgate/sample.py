"""What is counted: the graded images of one table, or of two paired, by image, eye or patient.

    sample = Sample.of(predictions, checklist)
    sample.tally("camera", "A").table          # 5 x 6, rows the reference grade

The images are read once, into distinct patients and how often each occurs; every slice, resample and unit follows from
those counts.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgate.checklist import Checklist, Slice
from drgate.errors import PredictionsError
from drgate.predictions import PROBABILITIES, Predictions
from drgate.scale import GROUPS
from drgate.stats import bootstrap, cluster, confusion


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts of one set of images, by patient where patients are known.

    table: 5 x 6, rows the reference grade, columns the predicted one and no output.
    patterns, counts: distinct patients' counts over the 30 cells (P, 30), and how many patients have each (P,); where
        patients are unknown, of single images.
    patients: "known", "unknown", or "one image each" where the checklist declares it.
    """

    table: NDArray[np.int64]
    patterns: NDArray[np.int64]
    counts: NDArray[np.int64]
    patients: str

    def effective(self, ratio: confusion.Ratio, level: float) -> cluster.EffectiveSample | None:
        """The proportion at its effective sample size; None without an image in the denominator."""
        k, n = (int(count) for count in ratio.terms(self.table))
        if n == 0:
            return None
        if self.patients == "one image each":
            return cluster.one_image_per_patient(k, n)
        if self.patients == "unknown":
            return cluster.unknown_clusters(k, n, level=level)
        successes, sizes = ratio.terms(self.patterns)
        return cluster.effective_sample(successes, sizes, level=level, counts=self.counts, adverse=ratio.adverse)

    def sizes(self, ratio: confusion.Ratio) -> tuple[list[int], list[int]]:
        """Images a patient brings to the denominator, and how many patients bring so many.

        Where patients are unknown, pairs are assumed, as the bounds assume them.
        """
        _, each = ratio.terms(self.patterns)
        if self.patients == "unknown":
            n = int(self.counts @ each)
            pairs = [(2, n // 2), (1, n % 2)]
            return [size for size, many in pairs if many], [many for _, many in pairs if many]
        sizes, at = np.unique(each, return_inverse=True)
        patients = np.bincount(at.ravel(), weights=self.counts).astype(int)
        return [int(s) for s in sizes if s > 0], [int(c) for s, c in zip(sizes, patients, strict=True) if s > 0]


@dataclass(frozen=True, eq=False)
class Sample:
    """What is judged, by image, eye (its worst image) or patient (the worse eye).

    reference: grades 0-4; predicted: grades 0-4, 5 for no output; both (n,). patients: dense codes, or None.
    probabilities: (n, 5), NaN where there are none. dme: whether there is macular oedema, or None without that column.
    slices: by column, the number of each unit's slice in `slice_names` (-1: in none).
    """

    reference: NDArray[np.int64]
    predicted: NDArray[np.int64]
    patients: NDArray[np.int64] | None
    probabilities: NDArray[np.float64]
    dme: NDArray[np.bool_] | None
    slices: dict[str, NDArray[np.int64]]
    slice_names: dict[str, tuple[str, ...]]
    unit: str
    images: int
    ungradable: int
    independent: bool

    @classmethod
    def of(cls, predictions: Predictions, checklist: Checklist, unit: str | None = None) -> Sample:
        """The gradable images of a table, by the unit of the checklist or another.

        Raises PredictionsError without reference grades, without a column that the checklist slices by, and where a
        unit cannot be told (no patient, no eye) or lies in two slices.
        """
        table, unit = predictions.table, unit or checklist.unit
        lacking = table["gradable"] & table["grade"].isna()
        judged = table[table["gradable"] & table["grade"].notna()]
        if judged.empty:
            raise PredictionsError(
                f"{predictions.origin} has no reference grades; join them with --grades FILE before it is evaluated."
            )
        if lacking.any():
            raise PredictionsError(
                f"{predictions.origin}: image {table['image'][lacking].iloc[0]!r} has no reference grade; give one, "
                "or set gradable to false."
            )
        slices, names = {}, {}
        for one in checklist.slices:
            if one.by not in judged.columns:
                raise PredictionsError(
                    f"{predictions.origin} has no column {one.by!r}, by which the checklist {checklist.name} slices; "
                    f"it has {', '.join(predictions.slice_columns) or 'no such columns'}."
                )
            names[one.by], slices[one.by] = _sliced(judged[one.by], one, predictions.origin)
        columns = {
            "reference": judged["grade"].to_numpy(dtype=np.int64),
            "predicted": judged["predicted"].to_numpy(dtype=np.int64, na_value=confusion.NO_OUTPUT),
            **{f"by {column}": codes for column, codes in slices.items()},
        }
        known = predictions.patients_known
        if not known and not checklist.evidence.one_image_per_patient:
            _require_countable(judged, checklist, predictions.origin)
        dme = oedema(judged, predictions.origin)
        if dme is not None:
            columns["dme"] = dme.astype(np.int64)
        probabilities = judged[list(PROBABILITIES)].to_numpy(dtype=np.float64)
        patients = pd.factorize(judged["patient"])[0].astype(np.int64) if known else None
        if missing := unit_lacks(predictions, unit):
            raise PredictionsError(
                f"{predictions.origin}: the spec judges by {unit}, but {missing} is not given for every image."
            )
        if unit != "image":
            columns, owner = _worst(judged, columns, unit, predictions.origin, patients)
            patients, probabilities = owner, np.full((len(owner), 5), np.nan)
        return cls(
            columns["reference"],
            columns["predicted"],
            patients,
            probabilities,
            None if dme is None else columns["dme"].astype(bool),
            {column: columns[f"by {column}"] for column in slices},
            names,
            unit,
            len(judged),
            int((~table["gradable"]).sum()),
            not known and checklist.evidence.one_image_per_patient,
        )

    def __len__(self) -> int:
        return len(self.reference)

    @cached_property
    def _distinct(self) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64] | None, NDArray[np.int64]]:
        """Columns of the distinct patients' units, the patient of each, and how often each patient occurs."""
        columns = {"reference": self.reference, "predicted": self.predicted}
        if self.dme is not None:
            columns["dme"] = self.dme.astype(np.int64)
        columns |= {f"by {column}": codes + 1 for column, codes in self.slices.items()}
        joint = np.zeros(len(self), dtype=np.int64)
        for codes in columns.values():
            joint = joint * (int(codes.max()) + 1) + codes
        _, first, kind = np.unique(joint, return_index=True, return_inverse=True)
        if self.patients is None:
            kinds, owners, times = np.arange(len(first)), None, np.bincount(kind)
        else:
            found = bootstrap.distinct_patients(kind, self.patients, len(first))
            kinds, owners, times = found.codes, found.patients, found.times
        chosen = {name: codes[first][kinds] for name, codes in columns.items()}
        return chosen, owners, times.astype(np.int64)

    def tally(self, column: str = "", value: str = "", endpoint: str = "") -> Tally | None:
        """Counts of all units or of one slice; None where the slice has none.

        endpoint: "referable" or "vision_threatening": macular oedema then lifts the reference into that group.
        """
        return self._tallied(column, value, endpoint if self.dme is not None else "")

    @functools.cache  # noqa: B019 - a sample lives as long as its evaluation
    def _tallied(self, column: str, value: str, endpoint: str) -> Tally | None:
        columns, owners, times = self._distinct
        reference = columns["reference"]
        if endpoint:
            reference = np.where(columns["dme"] == 1, np.maximum(reference, GROUPS[endpoint][0]), reference)
        cells = confusion.cells(reference, columns["predicted"])
        inside = np.ones(len(cells), dtype=bool)
        if column:
            if value not in self.slice_names.get(column, ()):
                return None
            inside = columns[f"by {column}"] == self.slice_names[column].index(value) + 1
        if not inside.any():
            return None
        if owners is None:
            table = np.bincount(cells[inside], weights=times[inside], minlength=confusion.CELLS).astype(np.int64)
            patterns, counts = bootstrap.image_patterns(table)
        else:
            patterns, counts = bootstrap.patient_patterns(cells[inside], owners[inside], times)
            table = counts @ patterns
        known = "one image each" if self.independent else "unknown" if owners is None else "known"
        return Tally(table.reshape(confusion.GRADES, confusion.COLUMNS), patterns, counts, known)

    def whole(self, endpoint: str = "") -> Tally:
        """Counts of all units."""
        tally = self.tally(endpoint=endpoint)
        assert tally is not None, "a sample has at least one unit"
        return tally

    def counts(self) -> dict[str, Any]:
        """The counts of the test set that a report shows."""
        found: dict[str, Any] = {
            "unit": self.unit,
            "units": len(self),
            "images": self.images,
            "patients": None if self.patients is None else int(self.patients.max()) + 1,
            "by_grade": [int(count) for count in self.whole().table.sum(axis=1)],
            "reference_ungradable": self.ungradable,
            "dme": None if self.dme is None else int(self.dme.sum()),
        }
        if self.slices:
            found["slices"] = [
                {
                    "by": column,
                    "value": value,
                    "units": int(tally.table.sum()),
                    "by_grade": [int(count) for count in tally.table.sum(axis=1)],
                }
                for column, value in self.each_slice()
                if (tally := self.tally(column, value)) is not None
            ]
            found["in_no_slice"] = {column: int((codes < 0).sum()) for column, codes in self.slices.items()}
        return found

    def each_slice(self) -> Iterator[tuple[str, str]]:
        """Column and name of every slice that has a unit."""
        for column, names in self.slice_names.items():
            yield from ((column, name) for name in names)


def _require_countable(judged: pd.DataFrame, checklist: Checklist, origin: str) -> None:
    """Raise PredictionsError for what cannot be counted where nobody says which images are of one patient."""
    if checklist.bootstrap.class_totals == "fixed":
        raise PredictionsError(
            f"{origin} names no patients, and the checklist {checklist.name} fixes how many of each grade there are "
            "(class_totals); name them, or take class_totals: random."
        )
    if "sha256" in judged.columns:
        files = judged["sha256"].dropna()
        if (again := files[files.duplicated()]).size:
            same = judged["image"][judged["sha256"] == again.iloc[0]]
            raise PredictionsError(
                f"{origin}: {same.iloc[0]!r} and {same.iloc[1]!r} are the same file, and no patient is named, so that "
                "it would count twice; keep one, or name the patients."
            )


def unit_lacks(predictions: Predictions, unit: str) -> str:
    """The column without which a table cannot be judged by eye or by patient; empty where it can."""
    table = predictions.table
    if unit != "image" and not predictions.patients_known:
        return "patient"
    judged = table["gradable"] & table["grade"].notna()
    return "eye" if unit == "eye" and table["eye"][judged].isna().any() else ""


def _sliced(values: pd.Series[Any], one: Slice, origin: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Names of the slices that occur, sorted, and the number of each row's (-1: in none)."""
    codes, found = pd.factorize(values)
    grouped = {value for members in (one.groups or {}).values() for value in members}
    for name in set(one.groups or {}) & set(map(str, found)) - grouped:
        raise PredictionsError(
            f"{origin}: {name!r} is a value of {one.by} and also the name of a group that does not hold it; rename the "
            "group, or put the value into it."
        )
    slice_of = [one.name_of(str(value)) for value in found]
    names = tuple(sorted(set(slice_of)))
    number = np.array([*(names.index(name) for name in slice_of), -1])  # factorize numbers an absent value -1
    return names, number[codes]


def oedema(judged: pd.DataFrame, origin: str) -> NDArray[np.bool_] | None:
    """Which graded images have macular oedema; None without that column. PredictionsError where some do not say."""
    if "dme" not in judged.columns or judged["dme"].isna().all():
        return None
    absent = judged["dme"].isna()
    if absent.any():
        raise PredictionsError(
            f"{origin}: image {judged['image'][absent].iloc[0]!r} has no dme while others have; give 0 or 1 for every "
            "graded image, or leave the column out."
        )
    return judged["dme"].to_numpy(dtype=bool)


def _worst(
    judged: pd.DataFrame,
    columns: dict[str, NDArray[np.int64]],
    unit: str,
    origin: str,
    patients: NDArray[np.int64] | None,
) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
    """The worst of each unit's images, column by column, and each unit's patient.

    No output has the largest code: an eye without leaves the whole unit without.
    """
    assert patients is not None
    codes = patients * 2 + (judged["eye"] == "R").to_numpy(dtype=np.int64) if unit == "eye" else patients
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(codes[order]) != 0])
    worst = {}
    for name, values in columns.items():
        worst[name] = np.maximum.reduceat(values[order], starts)
        if name.startswith("by ") and (np.minimum.reduceat(values[order], starts) != worst[name]).any():
            at = int((np.minimum.reduceat(values[order], starts) != worst[name]).argmax())
            who = judged["patient"].iloc[order[starts[at]]]
            raise PredictionsError(
                f"{origin}: the spec judges by {unit} and slices by {name[3:]}, but patient {who!r} has images in two "
                "of its slices; slice by what a patient has once, or judge by image."
            )
    return worst, patients[order][starts]
