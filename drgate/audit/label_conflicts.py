"""Is one picture under two grades? Equal files, equal names of an EyePACS eye, and photographs that register.

A test photograph is compared with all others and with training; training photographs with each other by their bytes
and names alone.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, get_args

import numpy as np
import pandas as pd
from PIL import Image

from drgate.audit.evidence import Evidence, Photographs, picture_of
from drgate.audit.register import SAME, likeness, picture, turned
from drgate.audit.result import Check, Finding, Orientation
from drgate.audit.search import near
from drgate.columns import reference_of
from drgate.layouts.tables import EYEPACS_NAME

WITHIN: Final = 48
"""Bits of 256 within which two photographs are compared by pixels: one of a million pairs of two eyes is as near."""
MOST_EACH: Final = 3
"""Nearest photographs with another grade that are compared by pixels, for each test photograph."""
_KEPT: Final = 256
"""Pictures held at once, of 128 pixels each."""
_SIDES: Final = ("test", "train")
_ORIENTATIONS: Final = get_args(Orientation)


def check(evidence: Evidence) -> Check:
    sides = [evidence.test] if evidence.train is None else [evidence.test, evidence.train]
    rows = pd.concat([_graded(side, number) for number, side in enumerate(sides)], ignore_index=True)
    compared = {_SIDES[number]: int((rows["side"] == number).sum()) for number in range(len(sides))}
    pixels = list(_by_pixels(sides, rows))
    found = [
        *_by("content", "the same file", rows[rows["content"] != ""]),
        *_by("named", "one eye by its name", rows[rows["named"].notna()]),
        *(finding for finding, declared in pixels if not declared),
    ]
    declared = [finding for finding, declared in pixels if declared]
    reason = _unseen(evidence, rows)
    if reason and not found and not declared:
        return Check("label_conflicts", "not_assessed", compared=compared, reason=reason)
    if declared and not found:
        reason = "The set names each two of these as one eye: they are one picture, or photographs of two visits."
    if not found and not declared and evidence.train is not None:
        reason = "Training photographs are compared with each other by bytes and names alone."
    return Check.of(
        "label_conflicts",
        [*found, *declared],
        status="found" if found else "suspected" if declared else "clean",
        compared=compared,
        reason=reason,
        numbers={"within": WITHIN, "same_from": SAME},
    )


def _unseen(evidence: Evidence, rows: pd.DataFrame) -> str:
    """Why conflicts may have been missed; empty if nothing was."""
    test, side = evidence.test, evidence.sides[0]
    graded = rows["row"][rows["side"] == 0]
    if graded.empty:
        return f"No image of the {side} has a reference grade."
    if not any(test.contents):
        return f"No photographs are at hand; give the folder of the {side}."
    if missing := int((~graded.isin(test.readable)).sum()):
        return f"{missing} of {len(graded)} graded photographs were not read, or cannot be."
    return ""


def _graded(side: Photographs, number: int) -> pd.DataFrame:
    """Rows with a reference. grade: NaN where it says only whether to refer. named: patient and EyePACS name."""
    table = side.table
    reference = reference_of(table)
    stems = table["image"].str.replace(r"^.*/|\.[^./]*$", "", regex=True)
    oedema = pd.to_numeric(table["dme"], errors="coerce") == 1 if "dme" in table.columns else False
    found = pd.DataFrame(
        {
            "side": number,
            "row": np.arange(len(table)),
            "name": side.names,
            "content": side.contents,
            "grade": table["grade"].to_numpy(dtype=np.float64, na_value=np.nan),
            "refer": (reference >= 2).fillna(False).to_numpy(dtype=bool) | np.asarray(oedema),
            "patient": table["patient"].to_numpy(dtype=object, na_value=""),
            "eye": table["eye"].to_numpy(dtype=object, na_value=""),
            "named": (table["patient"].fillna("") + "\0" + stems).where(stems.str.fullmatch(EYEPACS_NAME.pattern)),
        }
    )
    return found[reference.notna().to_numpy()]


def _differ(one: pd.Series[Any], other: pd.Series[Any]) -> bool:
    """Where either says only whether to refer, that is what is compared."""
    key = "refer" if np.isnan(one["grade"]) or np.isnan(other["grade"]) else "grade"
    return bool(one[key] != other[key])


def _by(key: str, what: str, rows: pd.DataFrame) -> Iterator[Finding]:
    """Rows with an equal key and different grades: the first of each grade beside the first of all."""
    kept = rows.drop_duplicates([key, "grade", "refer"])
    for _, group in kept[kept.duplicated(key, keep=False)].groupby(key, sort=False):
        first, *others = (row for _, row in group.iterrows())
        yield from (_finding(what, first, other) for other in others if _differ(first, other))


def _by_pixels(sides: Sequence[Photographs], rows: pd.DataFrame) -> Iterator[tuple[Finding, bool]]:
    """Other files that show the same eye, of which one is in the test set; whether the set names them as one eye."""
    if not len(sides[0].readable):
        return
    rows = rows.drop_duplicates(["content", "grade", "refer"])
    read, hashes = [], []
    for number, side in enumerate(sides):
        here = rows[(rows["side"] == number) & rows["row"].isin(side.readable[~side.small])]
        read.append(here)
        hashes.append(side.hashes[np.searchsorted(side.readable, here["row"])])
    rows = pd.concat(read, ignore_index=True)

    @functools.lru_cache(_KEPT)
    def shown(number: int) -> Image.Image:
        return picture(picture_of(sides[rows["side"][number]].file(rows["row"][number])))

    many = Counter[int]()
    found = near(hashes[0], np.concatenate(hashes), WITHIN)
    for distance, first, second, orientation in zip(*(each.tolist() for each in found), strict=True):
        if first >= second or many[first] >= MOST_EACH:
            continue
        one, other = rows.loc[first], rows.loc[second]
        if one["content"] == other["content"] or not _differ(one, other):
            continue
        many[first] += 1
        alike = likeness(shown(second), turned(shown(first), orientation))
        if alike >= SAME:
            finding = _finding("the same eye by its pixels", one, other)
            declared = all(one[key] and one[key] == other[key] for key in ("patient", "eye"))
            more = {"distance": distance, "orientation": _ORIENTATIONS[orientation], "value": round(alike, 3)}
            yield replace(finding, **more), declared


def _finding(what: str, one: pd.Series[Any], other: pd.Series[Any]) -> Finding:
    """one: of the test set where either is."""
    said = f"graded {one['grade']:.0f} and {other['grade']:.0f}"
    if np.isnan(one["grade"]) or np.isnan(other["grade"]):
        said = "referable and not referable"
    if one["patient"] and other["patient"] and one["patient"] != other["patient"]:
        said += ", of 2 patients"
    places = {_SIDES[one["side"]]: one["name"], "other" if one["side"] == other["side"] else "train": other["name"]}
    return Finding(**places, what=f"{what}, {said}")
