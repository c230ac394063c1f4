"""Reference grades from a separate file, joined to a table of predictions.

    predictions = join_grades(load_predictions("predictions.parquet"), Path("grades.csv"))

Every image of the table must have a row in the file of grades, and every row must have its image, so that no image is
left out unnoticed. The table's record of its model is kept.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from drgate.columns import REFER, Columns, graded_rows, unexplained
from drgate.errors import PredictionsError, brief
from drgate.predictions import ANSWERS, Predictions, make_predictions, with_readers
from drgate.tables import read_table

_EXPECTED: Final = (
    "a CSV or Parquet table with image and grade or referable (and gradable, patient, eye or further columns)"
)


def join_grades(predictions: Predictions, path: Path) -> Predictions:
    """The predictions with the grades in `path`, and with its other columns; readers are those of the file alone.

    Raises PredictionsError, naming the image or row: the table has grades already, an image without a row, a row
    without an image, an image twice, no grade though gradable, a patient, eye or other cell that contradicts the
    table's.
    """
    predictions = with_readers(predictions, ())
    ours = predictions.table
    if graded_rows(ours).any():
        image = ours["image"][graded_rows(ours)].iloc[0]
        raise PredictionsError(f"{predictions.origin} has grades already (image {brief(image)}); leave --grades out.")
    read = read_table(path, _EXPECTED, PredictionsError).drop(columns="split", errors="ignore")
    needed = ("image",) if "referable" in read.columns else ("image", "grade")
    Columns(read, path, PredictionsError).require(*needed, expected=_EXPECTED)
    for column in ANSWERS:
        if column in read.columns:
            raise PredictionsError(f"{path} has the column {column}, which only predictions may have; remove it.")
    if "source" in ours.columns and "source" not in read.columns:  # patients are named with it as a prefix
        read["source"] = read["image"].map(ours.set_index("image")["source"])
    # Checked like predictions, which have the same columns.
    theirs = make_predictions(read.assign(predicted="0"), str(path), {}).table
    missing = sorted(set(ours["image"]) - set(theirs["image"]))
    if missing:
        raise PredictionsError(
            f"{path} has no row for image {brief(missing[0])}{_more(missing)} of {predictions.origin}."
        )
    extra = sorted(set(theirs["image"]) - set(ours["image"]))
    if extra:
        raise PredictionsError(
            f"{path} has a row for image {brief(extra[0])}{_more(extra)}, which is not in {predictions.origin}; "
            "give the scored images only."
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
                f"{path}: image {brief(ours['image'].iloc[i])} has {what} in {predictions.origin}; correct one of them."
            )
    lacking = unexplained(joined)
    if lacking.any():
        image = joined["image"][lacking].iloc[0]
        what = REFER if "referable" in joined.columns else "grade; give 0-4"
        raise PredictionsError(f"{path}: image {brief(image)} has no {what}, or set gradable to false.")
    if {"referable", "dme"} <= set(joined.columns):
        contradicts = ((joined["referable"] == 0) & (joined["dme"] == 1)).fillna(False)
        if contradicts.any():
            image = joined["image"][contradicts].iloc[0]
            raise PredictionsError(
                f"{path}: image {brief(image)} has referable 0, but dme 1 in {predictions.origin}, which is referable; "
                "correct one of them."
            )
    return replace(predictions, table=joined)


def _more(images: list[str]) -> str:
    return f" and {len(images) - 1} more" if len(images) > 1 else ""
