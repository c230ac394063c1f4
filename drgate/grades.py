"""Reference grades from a separate file, joined to a table of predictions.

    predictions = join_grades(load_predictions("predictions.parquet"), Path("grades.csv"))

Every image of the table must have a row in the file of grades, and every row must have its image, so that no image is
left out unnoticed. The table's record of its model is kept.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from drgate import tables
from drgate.columns import REFER, Columns, graded_rows, unexplained, usual_names
from drgate.errors import PredictionsError, unchained
from drgate.files import row_name
from drgate.mapping import PLAIN, ColumnMap, for_several
from drgate.predictions import ANSWERS, Predictions, make_predictions, with_readers

if TYPE_CHECKING:
    import pandas as pd

_EXPECTED: Final = "a table with image and grade or referable (and gradable, patient, eye or further columns)"


@unchained()
def join_grades(predictions: Predictions, path: Path, columns: ColumnMap = PLAIN) -> Predictions:
    """The predictions with the grades in `path`, and with its other columns; readers are those of the file alone.

    columns: which column is which; `unused` then has those that neither file has.

    Raises PredictionsError, naming the image or row: the table has grades already, an image without a row, a row
    without an image, an image twice, no grade though gradable, a patient, eye or other cell that contradicts the
    table's.
    """
    predictions = with_readers(predictions, ())
    ours = predictions.table
    if graded_rows(ours).any():
        raise PredictionsError(f"{predictions.origin} has grades already; leave --grades out.")
    found = tables.read(path, _EXPECTED, PredictionsError, columns=for_several(columns))
    read = found.table.drop(columns="split", errors="ignore")
    answer = next((one for one in ANSWERS if one in read.columns and one in columns.columns), None)
    if answer is not None and "grade" not in read.columns:
        raise PredictionsError(
            f"{path} has no column grade, and its column {columns.columns[answer]!r} is {answer} by --columns, which "
            "serves both files. Give that column the name grade in this file."
        )
    needed = ("image",) if "referable" in read.columns else ("image", "grade")
    Columns(read, path, PredictionsError).require(*needed, expected=_with_proposal(read, needed))
    for column in ANSWERS:
        if column in read.columns:
            raise PredictionsError(f"{path} has the column {column}, which only predictions may have; remove it.")
    if "source" in ours.columns and "source" not in read.columns:  # patients are named with it as a prefix
        read["source"] = read["image"].map(ours.set_index("image")["source"])
    # Checked like predictions, which have the same columns.
    made = make_predictions(read.assign(predicted=None), str(path), {}, columns)
    theirs = made.table
    row_of = {name: row_name(path, i) for i, name in enumerate(read["image"].astype("str"))}
    missing = sorted(set(ours["image"]) - set(theirs["image"]))
    if missing:
        raise PredictionsError(
            f"{path} has no row for {len(missing)} of the images of {predictions.origin}; give every image one row, "
            "under the same name."
        )
    extra = sorted(set(theirs["image"]) - set(ours["image"]))
    if extra:
        raise PredictionsError(
            f"{row_of[extra[0]]}: this image{_more(extra)} is not in {predictions.origin}; give the scored images only."
        )
    # Both are sorted by image, and the images are the same, so that rows correspond.
    joined = ours.assign(grade=theirs["grade"])
    for column in theirs.columns.difference(["image", "grade", *ANSWERS]):
        if column not in ours.columns:
            joined[column] = theirs[column]
            continue
        if column == "gradable":  # the file of grades decides which images may lack one
            contradicts = theirs["gradable"] & ~ours["gradable"]
            joined["gradable"] = theirs["gradable"]
        else:
            contradicts = ((ours[column] != theirs[column]) & ours[column].notna() & theirs[column].notna()).fillna(
                False
            )
            joined[column] = ours[column].where(ours[column].notna(), theirs[column])
        if contradicts.any():
            i = int(contradicts.to_numpy().argmax())
            what = f"another {column} than"
            if column in ("eye", "gradable", "dme"):  # other columns may name a patient
                what = f"the {column} {str(theirs[column].iloc[i])!r}, but {str(ours[column].iloc[i])!r}"
            raise PredictionsError(
                f"{row_of[ours['image'].iloc[i]]}: the image has {what} in {predictions.origin}; correct one of them."
            )
    lacking = unexplained(joined)
    if lacking.any():
        image = joined["image"][lacking].iloc[0]
        what = REFER if "referable" in joined.columns else "grade; give 0-4"
        raise PredictionsError(f"{row_of[image]}: the image has no {what}, or set gradable to false.")
    if {"referable", "dme"} <= set(joined.columns):
        contradicts = ((joined["referable"] == 0) & (joined["dme"] == 1)).fillna(False)
        if contradicts.any():
            image = joined["image"][contradicts].iloc[0]
            raise PredictionsError(
                f"{row_of[image]}: the image has referable 0, but dme 1 in {predictions.origin}, which is referable; "
                "correct one of them."
            )
    absent = tuple(own for own in found.unused if own in predictions.unused)
    return replace(predictions, table=joined, notes=(*predictions.notes, *found.notes, *made.notes), unused=absent)


def _with_proposal(read: pd.DataFrame, needed: tuple[str, ...]) -> str:
    """What is expected, with the mapping to type where usual names suggest it."""
    found = usual_names(list(read.columns), [one for one in (*needed, "referable") if one not in read.columns])
    if not found:
        return _EXPECTED
    return f"{_EXPECTED}, or --columns {shlex.quote(','.join(f'{own}={theirs}' for own, theirs in found.items()))}"


def _more(images: list[str]) -> str:
    return f" (and {len(images) - 1} more)" if len(images) > 1 else ""
