"""Is one picture under two grades? Equal files, equal names of an EyePACS eye, and pictures that register.

A test photograph is compared with all others and with training; training photographs with each other by their bytes
and names alone.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final, get_args

import numpy as np
import pandas as pd
from PIL import Image

from drgate.audit.evidence import Evidence, Photographs
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
_NAMES: Final = get_args(Orientation)


def check(evidence: Evidence) -> Check:
    sides = [evidence.test] if evidence.train is None else [evidence.test, evidence.train]
    rows = pd.concat([_graded(side, number) for number, side in enumerate(sides)], ignore_index=True)
    compared = {
        name: int((rows["side"] == number).sum()) for number, name in enumerate(("test", "train")[: len(sides)])
    }
    findings = [
        *_by("content", "the same file", rows[rows["content"] != ""]),
        *_by("eye", "one eye by its name", rows[rows["eye"].notna()]),
        *_by_pixels(sides, rows),
    ]
    numbers = {"within": WITHIN, "same_from": SAME}
    reason = "" if findings else _unseen(evidence.test, compared["test"])
    if reason:
        return Check("label_conflicts", "not_assessed", compared=compared, reason=reason)
    return Check.of("label_conflicts", findings, compared=compared, numbers=numbers)


def _unseen(test: Photographs, graded: int) -> str:
    """Why conflicts may have been missed; empty if nothing was."""
    if not graded:
        return "The test set has no reference grades."
    if not any(test.contents):
        return "No photographs are at hand; give the folder of the test set."
    if missing := len(test) - len(test.readable):
        return f"{missing} of {len(test)} photographs could not be read, or were not: they are not compared by pixels."
    return ""


def _graded(side: Photographs, number: int) -> pd.DataFrame:
    """Rows with a reference. grade: NA where it says only whether to refer; eye: of EyePACS names, with the patient."""
    table = side.table
    reference = reference_of(table)
    stems = table["image"].map(lambda image: PurePosixPath(image).stem)
    eyes = table["patient"].fillna("") + "\0" + stems
    oedema = pd.to_numeric(table["dme"], errors="coerce") == 1 if "dme" in table.columns else False
    found = pd.DataFrame(
        {
            "side": number,
            "row": np.arange(len(table)),
            "name": side.names,
            "content": side.contents,
            "grade": table["grade"].to_numpy(dtype=np.float64, na_value=np.nan),
            "refer": (reference >= 2).fillna(False).to_numpy(dtype=bool) | np.asarray(oedema),
            "patient": table["patient"],
            "eye": eyes.where(stems.str.fullmatch(EYEPACS_NAME.pattern)),
        }
    )
    return found[reference.notna().to_numpy()]


def _differ(one: pd.Series, other: pd.Series) -> bool:
    """Where either says only whether to refer, that is what is compared."""
    if np.isnan(one["grade"]) or np.isnan(other["grade"]):
        return bool(one["refer"] != other["refer"])
    return bool(one["grade"] != other["grade"])


def _by(key: str, what: str, rows: pd.DataFrame) -> Iterator[Finding]:
    """Rows with an equal key and different grades: the first of each grade beside the first of all."""
    kept = rows.drop_duplicates([key, "grade", "refer"])
    for _, group in kept[kept.duplicated(key, keep=False)].groupby(key, sort=False):
        first, *others = (row for _, row in group.iterrows())
        yield from (_finding(what, first, other) for other in others if _differ(first, other))


def _by_pixels(sides: list[Photographs], rows: pd.DataFrame) -> Iterator[Finding]:
    """Other files that show the same pixels, of which one is in the test set."""
    place = {(number, row): i for number, side in enumerate(sides) for i, row in enumerate(side.readable.tolist())}
    rows = rows.drop_duplicates(["content", "grade", "refer"])
    rows = rows[[at in place for at in zip(rows["side"], rows["row"], strict=True)]].reset_index(drop=True)
    at = [place[one] for one in zip(rows["side"], rows["row"], strict=True)]
    hashes = [side.hashes for side in sides]
    every = np.array([hashes[side][i] for side, i in zip(rows["side"], at, strict=True)], dtype=np.uint8).reshape(
        -1, 32
    )
    found = near(every[rows["side"] == 0], every, WITHIN)

    @functools.lru_cache(_KEPT)
    def shown(number: int) -> Image.Image:
        return picture(sides[rows["side"][number]].picture(rows["row"][number]))

    many = Counter[int]()
    for distance, first, second, orientation in zip(*(each.tolist() for each in found), strict=True):
        one, other = rows.loc[first], rows.loc[second]
        if first >= second or one["content"] == other["content"] or not _differ(one, other) or many[first] >= MOST_EACH:
            continue
        many[first] += 1
        alike = likeness(shown(second), turned(shown(first), orientation))
        if alike >= SAME:
            more = {"distance": distance, "orientation": _NAMES[orientation], "value": round(alike, 3)}
            yield _finding("the same pixels", one, other, **more)


def _finding(what: str, one: pd.Series, other: pd.Series, **more: object) -> Finding:
    """one: of the test set where either is."""
    if np.isnan(one["grade"]) or np.isnan(other["grade"]):
        said = "referable and not referable"
    else:
        said = f"graded {one['grade']:.0f} and {other['grade']:.0f}"
    if not pd.isna(one["patient"]) and not pd.isna(other["patient"]) and one["patient"] != other["patient"]:
        said += ", of 2 patients"
    places = {("test", "train")[one["side"]]: one["name"]}
    places["other" if one["side"] == other["side"] else "train"] = other["name"]
    return Finding(**places, what=f"{what}, {said}", **more)
