"""Folders of photographs: grades and splits as the names of folders, or images alone."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Final

import pandas as pd

from drgate.columns import Columns, parse_split
from drgate.errors import DrgateError, ManifestError
from drgate.layouts.found import Found
from drgate.layouts.holdings import IMAGE_SUFFIXES, Holdings
from drgate.layouts.tables import EXPECTED, UNGRADABLE, from_table, name_patients, rows_named, settle_grades
from drgate.mapping import PLAIN, ColumnMap
from drgate.scale import parse_grade

GRADE_FOLDERS: Final = ("folders named after grades", "folders named after splits and grades")
_TABLES: Final = 20
"""Of a folder, that are compared with the names of its folders."""


def from_folder(root: Path, held: Holdings, columns: ColumnMap) -> Found:
    """The images below a folder, in `split/grade/*` or `grade/*`, also below folders that all share; or images alone.

    Raises ManifestError for a folder without images, and where some are in no folder that names a grade.
    """
    beside = f" Give one of its tables itself: {', '.join(held.tables[:3])}." if held.tables else ""
    images, dicom = (held.images, held.dicom) if held.images else (held.dicom, [])
    if not images:
        holds = "; ".join(f"{len(names)} left out: {why}" for why, names in held.left_out.items())
        lacking = f"{root} has no images ({', '.join(IMAGE_SUFFIXES)}){f' ({holds})' if holds else ''}"
        raise ManifestError(f"{lacking}; expected {EXPECTED}.{beside}")
    table = pd.DataFrame({"image": images})
    folders = [PurePosixPath(image).parts[:-1] for image in images]
    while (first := {parts[:1] for parts in folders}) and len(first) == 1 and (shared := first.pop()):
        if _says(shared[0], columns):
            break
        folders = [parts[1:] for parts in folders]
    if len({len(parts) for parts in folders}) == 1:  # train/images/0
        levels = list(zip(*folders, strict=True))
        own = [i for i, names in enumerate(levels) if len({*names}) > 1 or _says(names[0], columns)]
        folders = [tuple(parts[i] for i in own) for parts in folders]
    found = Found("images alone", root, table, left_out=({"DICOM": dicom} if dicom else {}) | held.left_out)
    if held.tables:
        found.said.append(
            f"Tables in the folder were not read: {', '.join(held.tables[:3])}. Give one itself to use it."
        )
    if not any(folders):
        name_patients(table)
        return found
    splits = [parse_split(parts[0]) if len(parts) == 2 else None for parts in folders]
    grades = [_grade(parts[-1], columns) if parts else None for parts in folders]
    wrong = [
        row
        for row, (parts, split, grade) in enumerate(zip(folders, splits, grades, strict=True))
        if grade is None or len(parts) > 2 or (len(parts) == 2 and split is None)
    ]
    if wrong:
        raise ManifestError(
            f"{rows_named(root, table, wrong)}: not in a folder named after a grade (0-4 or a name such as Severe), "
            f"directly in the root or in train, val or test; {len(wrong)} of {len(table)} images are not. Expected "
            f"{EXPECTED}.{beside}"
        )
    table["grade"] = grades
    if any(splits):
        table["split"] = splits
    found.layout = GRADE_FOLDERS[any(splits)]
    name_patients(table)
    settle_grades(found, root, columns.grades)
    _refuse_other_grades(found, held)
    return found


def _refuse_other_grades(found: Found, held: Holdings) -> None:
    """Raise where a table in the folder grades the same images otherwise: folders 0 to 4 may be numbers of patients."""
    by_image = dict(zip(found.table["image"], found.table["grade"], strict=True))
    for name in held.tables[:_TABLES]:
        path = found.root / name
        try:
            other = from_table(path, files=True, columns=PLAIN, root=None)
            grades = Columns(other.table, path, ManifestError).grade()
        except DrgateError:
            continue
        places = [
            Path(os.path.relpath(other.root / str(image), found.root)).as_posix() for image in other.table["image"]
        ]
        pairs = [(by_image[place], grade) for place, grade in zip(places, grades, strict=True) if place in by_image]
        differ = sum(grade is None or parse_grade(str(folder)) != grade for folder, grade in pairs)
        if differ:
            raise ManifestError(
                f"{found.root}: the names of folders give {differ} of {len(pairs)} images other grades than {path}. "
                "Give that table itself, or remove it if the folders are right."
            )


def _says(name: str, columns: ColumnMap) -> bool:
    """Whether a folder names a grade or a split."""
    return _grade(name, columns) is not None or parse_split(name) is not None


def _grade(name: str, columns: ColumnMap) -> str | None:
    """What a folder says in the place of a grade; None for another name."""
    word = name.replace("-", " ").replace("_", " ").casefold().strip()
    stands = parse_grade(name) is not None or name in columns.grades or word in UNGRADABLE or name in ("5", "-1")
    return name if stands else None
