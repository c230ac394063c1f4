"""Tables of images and grades, as public data sets have them: which column is which, and which file each row means."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import pandas as pd

from drgate import limits
from drgate import tables as containers
from drgate.buckets import Bucket
from drgate.columns import ABSENT, HEADERLESS, parse_split
from drgate.errors import ManifestError, UsageError
from drgate.files import is_parquet, read_limited, row_name
from drgate.layouts.found import STATED, Found
from drgate.layouts.holdings import Names, holdings, splits_of, without_suffix
from drgate.mapping import ColumnMap, columns_note, grades_note
from drgate.scale import GRADES, parse_grade

EXPECTED: Final = (
    "a folder with labels.csv, split/grade/* or grade/* images (or images alone, without grades), or a table with the "
    "columns image and grade or those of a public data set (docs/datasets.md)"
)
EYEPACS_NAME: Final = re.compile(r"(?P<patient>\d+)_(?P<eye>left|right)")
UNGRADABLE: Final = ("ungradable", "ungradeable", "not gradable", "not gradeable", "notgradable", "unable to grade")
"""Words in the place of a grade that say that nobody could give one; case, - and _ do not matter."""
_MEANS_UNGRADABLE: Final = {"5": "DDR and DeepDRiD", "-1": "some sets"}
"""Numbers in the place of a grade that say so in some sets, and where."""
_SHOWN: Final = 3
_SPREADSHEET: Final = re.compile(r"\d{1,2}-[A-Z][a-z]{2}|\d{4}-\d\d-\d\d( 00:00:00)?|\d(\.\d+)?E\+\d+")
_BY_SPREADSHEET: Final = " A spreadsheet seems to have made dates or numbers of the names: import them as text."


@dataclass(frozen=True, slots=True)
class _Known:
    """A public table. needs, also: drgate's name by the table's, in lower case; it is this one if it has all `needs`.

    names: whether `image` is a name without a folder. cells: what the cells of a column mean, by drgate's name.
    """

    name: str
    needs: Mapping[str, str]
    also: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


_ADJUDICATED: Final = {"adjudicated_gradable": "gradable", "adjudicated_dme": "dme"}
_LEFT, _RIGHT, _OF_PATIENT = "left_eye_dr_level", "right_eye_dr_level", "patient_dr_level"
_KNOWN: Final = (
    _Known("APTOS", {"id_code": "image", "diagnosis": "grade"}, _ADJUDICATED),
    _Known("EyePACS", {"image": "image", "level": "grade"}),
    _Known("IDRiD", {"image name": "image", "retinopathy grade": "grade"}),
    _Known("Messidor-2", {"image_id": "image", "adjudicated_dr_grade": "grade"}, _ADJUDICATED),
    _Known(
        "mBRSET",
        {"file": "image", "final_icdr": "grade"},
        {"patient": "patient", "laterality": "eye", "final_edema": "dme", "final_quality": "gradable"},
    ),
    _Known(
        "BRSET",
        {"image_id": "image", "dr_icdr": "grade"},
        {"patient_id": "patient", "exam_eye": "eye", "macular_edema": "dme", "quality": "gradable"},
        {"eye": {"1": "R", "2": "L"}, "gradable": {"adequate": "true", "inadequate": "false"}},
    ),
    _Known("DeepDRiD", {"image_path": "image", _LEFT: _LEFT, _RIGHT: _RIGHT}, {"patient_id": "patient"}),
    _Known("images with metadata, as Hugging Face has them", {"file_name": "image", "grade": "grade"}),
    _Known("APTOS without grades", {"id_code": "image"}),
)
_PROPOSED: Final = {
    "image": "id_code image_id image_name imagename imageid image_path img img_name img_path file file_name filename "
    "filepath file_path path name image_file photo id",
    "grade": "dr_grade_international_clinical_dr_severity_scale "
    "diagnosis level label labels dr dr_grade drgrade dr_level dr_levels icdr dr_icdr final_icdr "
    "retinopathy_grade adjudicated_dr_grade class dr_class severity patient_dr_level target",
}
"""What people call these columns: proposed, never taken."""


def from_table(path: Path, files: bool, columns: ColumnMap, root: Path | Bucket | None) -> Found:
    """The rows of a table with drgate's column names, and with `files` the file of each.

    root: the folder that images are relative to, also in a bucket; None: the table's. Raises ManifestError and
    UsageError.
    """
    if by_number(columns):
        return from_rows(_without_header(path, columns), path, files, columns, root)
    read = containers.read(path, EXPECTED, ManifestError, columns=columns)
    used = {own: theirs for own, theirs in columns.columns.items() if own not in read.unused}
    found = from_rows(read.table, path, files, replace(columns, columns=used), root)
    found.unused = read.unused
    return found


def by_number(columns: ColumnMap) -> bool:
    """Whether the columns of a table without a header line are given by their numbers."""
    return bool(columns.columns) and all(theirs.isdecimal() for theirs in columns.columns.values())


def from_rows(table: pd.DataFrame, path: Path, files: bool, columns: ColumnMap, root: Path | Bucket | None) -> Found:
    """As `from_table`, of rows that were read, with drgate's names where `columns` maps them."""
    bucket, folder = (root, root.folder) if isinstance(root, Bucket) else (None, root or path.parent)
    found = Found("drgate's own columns", folder, table, bucket=bucket)
    if columns.columns:
        found.columns = dict(columns.columns)
        found.layout = STATED
        there = {*found.table.columns}
        if "image" in there and not {"patient", "eye"} & there and not name_patients(found.table):
            found.said.append("Patients and eyes were read from the names, which are all such as 10_left.")
        found.mapped += columns_note(path.name, columns.columns)
    else:
        _recognise(found, path)
    if "image" not in found.table.columns:
        raise ManifestError(f"{path} has no column image; expected {EXPECTED}.{_remedy(table, path, columns.columns)}")
    if not {"grade", "referable"} & {*found.table.columns} and (proposed := _proposal(found.table, found.columns)):
        found.said.append(f"No grades were read. {proposed}")
    if files:
        _resolve(found, path)
    settle_grades(found, path, columns.grades)
    return found


def rows_named(origin: Path, table: pd.DataFrame, rows: list[int]) -> str:
    """The first of some rows, for messages, and how many more there are; of a folder, the images."""
    if origin.is_dir():
        first, others = str(origin / str(table["image"].iloc[rows[0]])), []
    else:
        names = [row_name(origin, row - table.attrs.get(HEADERLESS, 0)) for row in rows[:_SHOWN]]
        first, others = names[0], [name.rpartition(" ")[2] for name in names[1:]]
        if others:
            place, _, number = first.rpartition(" ")
            first = f"{place}s {number}"
    listed = ", ".join([first, *others])
    return listed if len(rows) <= 1 + len(others) else f"{listed} and {len(rows) - 1 - len(others)} more"


def settle_grades(found: Found, origin: Path, meaning: Mapping[str, str]) -> None:
    """Replace what stands for a grade: by `meaning`, and words for ungradable. Other numbers that may mean it are named
    as troubles, each with the number of its rows and what to do.
    """
    table = found.table
    if "grade" not in table.columns:
        return
    codes, distinct = pd.factorize(table["grade"].astype("str").where(table["grade"].notna(), ""))
    cells: Counter[str] = Counter()
    settled: list[str | None] = []
    none: list[bool] = []
    for at, one in enumerate(distinct):
        text = re.sub(r"^(-?\d+)\.0+$", r"\1", str(one).strip())
        text = "" if text.casefold() in ABSENT else text
        cells[text] += int((codes == at).sum())
        meant = meaning.get(text, text)
        ungradable = re.sub("[-_]", " ", meant).casefold() in UNGRADABLE
        if text in meaning and not ungradable and parse_grade(meant) is None:
            raise UsageError(
                f"--columns: a value of grades is none that is known; expected 0-4, one of {', '.join(GRADES)}, or "
                "ungradable."
            )
        settled.append(None if ungradable or not meant else meant)
        none.append(ungradable)
        if text not in meaning and text in _MEANS_UNGRADABLE:
            rows = np.flatnonzero(codes == at).tolist()
            found.troubles.append(
                f"{rows_named(origin, table, rows)}: the grade is {text}, in {len(rows)} of {len(table)} rows. "
                f"In {_MEANS_UNGRADABLE[text]} it means ungradable: if it does here, give --columns FILE, a YAML "
                f'file with the line   grades: {{"{text}": ungradable}}'
            )
            found.missing += rows
            settled[-1] = None
    mapped = grades_note("grade", origin.name, meaning, cells)
    found.mapped += mapped
    found.said += mapped
    table = table.assign(grade=pd.Series([settled[code] for code in codes], index=table.index, dtype="str"))
    if any(none):
        marked = pd.Series([none[code] for code in codes], index=table.index)
        before = table["gradable"] if "gradable" in table.columns else pd.Series(None, index=table.index)
        table["gradable"] = before.astype("object").where(~marked, "false")
        found.said.append(f"{int(marked.sum())} of {len(table)} images are ungradable by the column of grades.")
    found.table = table


def _recognise(found: Found, path: Path) -> None:
    """Give the columns of a public table drgate's names."""
    table = found.table
    lower = {name.casefold(): name for name in reversed(table.columns)}
    if "grade" in table.columns and {"level", "diagnosis"} & set(table.columns):
        raise ManifestError(f"{path} has grades in two columns, grade and level or diagnosis; keep one.")
    own = {"image", "grade"} <= set(table.columns)
    known = next((one for one in _KNOWN if not own and one.needs.keys() <= lower.keys()), None)
    if known is None or ("image" in table.columns and "image" not in known.needs):
        return
    names = {lower[theirs]: mine for theirs, mine in {**known.needs, **known.also}.items() if theirs in lower}
    names = {theirs: mine for theirs, mine in names.items() if theirs == mine or mine not in table.columns}
    found.layout, found.columns = known.name, {mine: theirs for theirs, mine in names.items()}
    found.table = table.rename(columns=names)
    for column, cells in known.cells.items():
        if column in found.table.columns:
            found.table[column] = _translated(found.table[column], cells)
    own_patients = "patient" in found.table.columns and found.table["patient"].notna().any()
    if known.name == "EyePACS" and (other := name_patients(found.table)) and not own_patients:
        raise ManifestError(
            f"{rows_named(path, found.table, other)}: the image is not an EyePACS name such as 10_left, in "
            f"{len(other)} of {len(table)} rows. If no name says the patient, give --columns image=image,grade=level."
        )
    if known.name == "DeepDRiD":
        _one_eye_a_row(found, path)


def _translated(cells: pd.Series[str], words: Mapping[str, str]) -> pd.Series[str]:
    texts = cells.astype("str").str.strip().str.replace(r"^(\d+)\.0+$", r"\1", regex=True)
    return texts.map(lambda text: words.get(text.casefold(), text)).where(cells.notna(), None)


def _one_eye_a_row(found: Found, path: Path) -> None:
    """DeepDRiD: the grade is in the column of the row's eye, where 5 means ungradable; the patient's is not used."""
    table = found.table
    left, right = (table[name].notna() for name in (_LEFT, _RIGHT))
    if (both := left & right).any():
        rows = [int(i) for i in both.to_numpy().nonzero()[0]]
        raise ManifestError(
            f"{rows_named(path, table, rows)}: there are grades of both eyes, in {len(rows)} of {len(table)} rows; "
            "expected one eye a row. Give --columns with image, grade and eye."
        )
    grade = table[_LEFT].where(left, table[_RIGHT]).astype("str").where(left | right, None)
    five = grade.str.fullmatch(r"5(\.0+)?").fillna(False).astype(bool)
    unused = [name for name in table.columns if name.casefold() == _OF_PATIENT]
    eye = pd.Series(None, table.index, dtype="object").mask(left, "L").mask(right, "R")
    found.table = table.drop(columns=[_LEFT, _RIGHT, *unused]).assign(grade=grade.mask(five, UNGRADABLE[0]), eye=eye)
    found.said.append("The grade is that of the eye in the photograph, not the patient's; 5 means ungradable.")


def name_patients(table: pd.DataFrame) -> list[int]:
    """Add patient and eye, where the table has none, from EyePACS names if all images have one; else the other rows."""
    found = [EYEPACS_NAME.fullmatch(without_suffix(PurePosixPath(str(one)).name)[0]) for one in table["image"]]
    if other := [row for row, name in enumerate(found) if name is None]:
        return other
    for column in ("patient", "eye"):
        if column not in table.columns or table[column].isna().all():
            table[column] = [name[column] for name in found if name]
    return []


def _without_header(path: Path, columns: ColumnMap) -> pd.DataFrame:
    """The rows of a text without a header, whose columns `--columns` gives by number."""
    data = read_limited(path, limits.MANIFEST_BYTES, "a table without a header line", ManifestError)
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as problem:
        raise ManifestError(f"{path} is not UTF-8 text; expected a table without a header line.") from problem
    rows = [_cells(line, columns.separator) for line in lines if line.strip()]
    if not rows or len(rows) != len(lines) - sum(not line.strip() for line in lines):
        raise ManifestError(f"{path} has no rows; expected {EXPECTED}.")
    wanted = {own: int(theirs) for own, theirs in columns.columns.items()}
    for i, row in enumerate(rows):
        if max(wanted.values()) > len(row) or min(wanted.values()) < 1:
            raise ManifestError(
                f"{path}, line {i + 1}: there are {len(row)} cells, and --columns names cell {max(wanted.values())}; "
                "cells are counted from 1."
            )
    table = pd.DataFrame({own: [row[at - 1] or None for row in rows] for own, at in wanted.items()}, dtype="str")
    table.attrs[HEADERLESS] = 1
    return table


def _cells(line: str, separator: str | None) -> list[str]:
    sign = separator if separator is not None else next((one for one in "\t;," if one in line), None)
    return [cell.strip() for cell in (line.split() if sign is None or sign == " " else line.split(sign))]


def _remedy(table: pd.DataFrame, path: Path, mapped: Mapping[str, str]) -> str:
    """What to type for a table whose columns have other names, or none; header cells are shown where they are usual
    names alone, because a first line may be a patient's row.
    """
    if not is_parquet(path):
        cells = [cell for name in table.columns for cell in _cells(str(name), None)]
        images = [i for i, cell in enumerate(cells) if without_suffix(cell)[1]]
        grades = [i for i, cell in enumerate(cells) if re.fullmatch("[0-5]", cell)]
        others = [i for i in range(len(cells)) if i not in grades]
        if grades and others:
            image = (images or others)[0]
            return (
                f" It has no header line: its first line {'names an image' if images else 'has a grade'} already. Say "
                f"which cell is which by number: --columns image={image + 1},grade={grades[0] + 1}"
            )
    names = [
        {
            without_suffix(PurePosixPath(str(cell)).name)[0]
            for cell in table.iloc[:1][name].dropna()
            if without_suffix(str(cell))[1]
        }
        for name in table.columns
    ]
    if len(set[str]().union(*names)) > 1:
        return " Its rows name several images each: write one row for each image."
    return f" {_proposal(table, mapped) or 'If they have other names, give --columns image=NAME,grade=NAME.'}"


def _proposal(table: pd.DataFrame, mapped: Mapping[str, str]) -> str:
    """A mapping to type, of columns that have usual names, and of those that are `mapped`; empty where none has."""
    lower = {str(name).casefold().replace(" ", "_"): str(name) for name in reversed(table.columns)}
    near = {
        own: next((lower[name] for name in (own, *names.split()) if name in lower), None)
        for own, names in _PROPOSED.items()
    }
    near |= {own: mapped.get(own, own) for own in near if own in table.columns}
    near |= mapped
    if near["image"] is None or not any(theirs not in (None, own) for own, theirs in near.items()):
        return ""
    return f"Is it --columns {shlex.quote(','.join(f'{own}={theirs}' for own, theirs in near.items() if theirs))}?"


def _resolve(found: Found, path: Path) -> None:
    """Replace names of images by paths of files below the root; names without a file, or with several, are troubles."""
    table, root, bucket = found.table, found.root, found.bucket
    splits = table["split"] if "split" in table.columns else pd.Series(None, table.index, dtype="object")
    names: Names | None = None
    images: list[object] = []
    elsewhere: dict[int, str] = {}  # rows whose only file is in the folder of another split
    at_home: set[str] = set()  # splits with rows whose files are in folders of their name
    missing: list[int] = []
    several: list[int] = []
    example: list[str] = []
    moved = 0
    for row, (given, split) in enumerate(zip(table["image"], splits, strict=True)):
        image = str(given).strip().replace("\\", "/")
        if pd.isna(given) or not image or "://" in image or ".." in PurePosixPath(image).parts:
            images.append(given)  # refused when its cell is checked
            continue
        if bucket.holds(image) if bucket else _there(root, image):
            images.append(given)
            continue
        if names is None:
            held = holdings(bucket or root)
            names = Names(held)
        own = None if pd.isna(split) else parse_split(str(split))
        where = names.of(image, own)
        images.append(where[0] if len(where) == 1 else given)
        if own and len(where) == 1 and (of := splits_of(where[0])):
            if own in of:
                at_home.add(own)
            else:
                elsewhere[row] = own
        if not where:
            missing.append(row)
        elif len(where) > 1:
            several.append(row)
            example = example or where
        else:
            moved += 1
    for row in sorted(elsewhere):
        if elsewhere[row] in at_home:  # the names begin anew in each split, and this one's file is missing
            images[row] = table["image"].iloc[row]
            missing.append(row)
            moved -= 1
    missing.sort()
    found.table = table.assign(image=pd.Series(images, table.index, dtype="object"))
    if moved:
        found.said.append(f"{moved} of {len(table)} names were completed with a folder or a suffix.")
    if missing:
        first = str(table["image"].iloc[missing[0]]).strip()
        near = names.otherwise(first.replace("\\", "/")) if names is not None else None
        found.troubles.append(
            f"{rows_named(path, table, missing)}: the image file is not in {root} or below it; {len(missing)} "
            f"of {len(table)} image files are missing."
            + (f" There is {near}: if it is the same photograph, write that name." if near else "")
            + (_BY_SPREADSHEET if _SPREADSHEET.fullmatch(first) else "")
            + " Add them, name their folder with --images, or remove these rows."
        )
    if several:
        found.troubles.append(
            f"{rows_named(path, table, several)}: several files have the image's "
            f"name ({', '.join(example[:2])}), in {len(several)} of {len(table)} rows. Write the folder in the "
            "column image too, or name the right folder with --images."
        )
    found.missing += [*missing, *several]


def _there(root: Path, image: str) -> bool:
    try:
        return (root / image).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
