"""Reads the cells of a table, column by column, with one form of error.

    columns = Columns(read_table(path, what, PredictionsError), path, PredictionsError)
    columns.require("image", expected=what)
    columns.grade()                        # 0-4 or None; "labels.csv, line 3: grade is '7'; expected ..."

Manifests, predictions and separate grades are all read here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgate.errors import DrgateError, brief
from drgate.files import row_name
from drgate.scale import GRADES, GROUPS, STANDS_FOR, parse_grade

_Value = TypeVar("_Value")

PROBABILITIES: Final = ("p_0", "p_1", "p_2", "p_3", "p_4")
SPLITS: Final = ("train", "val", "test")
READER: Final = re.compile("reader_[1-9][0-9]{0,3}")
"""A column with the grades of one human reader."""
SUM_TOLERANCE: Final = 1e-3
SHOWN: Final = 3
HEADERLESS: Final = "headerless"
"""Attribute (1) of a table whose first row is the first line of its file."""
REFER: Final = "referable; give 0 or 1"
"""What a row without a reference lacks where the others say only whether to refer."""

_YES_NO: Final = {
    **dict.fromkeys(("true", "1", "yes", "1.0"), True),
    **dict.fromkeys(("false", "0", "no", "0.0"), False),
}
_EYES: Final = {**dict.fromkeys(("l", "left", "os"), "L"), **dict.fromkeys(("r", "right", "od"), "R")}
_SPLITS: Final = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_ABSENT: Final = ("nan", "na", "n/a", "none", "null", "<na>")


@dataclass(frozen=True, slots=True)
class Columns:
    """A table while it is read. Every reader raises `error` with file and row for the first bad cell.

    Of the cell's value, a message repeats only an image's name, and up to `SHOWN` characters where a grade, a word or a
    number is expected: whatever is longer may be a name or a record number that slipped into the column.

    table: drgate's own column names; cells as text (CSV) or typed (Parquet). origin: its file, for messages.
    """

    table: pd.DataFrame
    origin: Path
    error: type[DrgateError]

    def require(self, *names: str, expected: str) -> None:
        """Raise where a column is missing. The others are not listed: without a header they are the first row."""
        if lacking := [name for name in names if name not in self.table.columns]:
            raise self.error(f"{self.origin} has no column {' and no column '.join(lacking)}; expected {expected}.")

    def where(self, row: int) -> str:
        """File and row, for messages."""
        return row_name(self.origin, row - self.table.attrs.get(HEADERLESS, 0))

    def refuse(self, rows: NDArray[np.bool_] | np.bool_, trouble: Callable[[int], str] | str) -> None:
        """Raise for the first of the marked rows, with what is wrong there."""
        if rows.any():
            row = int(rows.argmax())
            raise self.error(f"{self.where(row)}: {trouble if isinstance(trouble, str) else trouble(row)}.")

    def grade(self, column: str = "grade") -> list[int | None]:
        """Grades 0-4; None where the cell is empty or there is no such column."""
        return self._parsed(column, parse_grade, f"an ICDR grade, 0-4 or a name ({', '.join(GRADES)})")

    def reference(self) -> tuple[list[int | None], list[bool | None] | None]:
        """The reference grades; and whether it would refer, of a reference that says only that (else None).

        Raises where `referable` contradicts the grade or the macular oedema of its row, and where it stands in the
        place of a grade in some rows only: a set has one kind of reference.
        """
        grades, refers = self.grade(), self.flag("referable")
        if "referable" not in self.table.columns or all(one is None for one in refers):
            return grades, None
        grade = np.array([-1 if one is None else one for one in grades])
        refer = np.array([-1 if one is None else int(one) for one in refers])
        dme = np.array([bool(one) for one in self.dme()])
        beside, graded = refer >= 0, grade >= 0
        self.refuse(
            beside & graded & (refer != ((grade >= GROUPS["referable"][0]) | dme)),
            lambda row: (
                f"referable is {refer[row]}, but the grade is {grade[row]}{' and dme is 1' if dme[row] else ''}; "
                "referable is moderate NPDR (2) or worse, or macular oedema (dme 1); correct one of them"
            ),
        )
        self.refuse((refer == 0) & dme, "referable is 0, but dme is 1, which is referable; correct one of them")
        if not graded.any():
            return grades, refers
        self.refuse(
            beside & ~graded,
            "there is referable but no grade, and other rows have a grade; give the grade, or leave referable empty "
            "where nobody could grade the image",
        )
        return grades, None

    def gradable(self) -> list[bool]:
        """True where the cell is empty or there is no such column; false only explains why there is no grade."""
        return [value is not False for value in self._chosen("gradable", _YES_NO, "true or false")]

    def dme(self) -> list[bool | None]:
        """Whether there is macular oedema by the reference; None where the cell is empty."""
        return self.flag("dme")

    def eye(self) -> pd.Series[str]:
        """L or R; NA where the cell is empty or there is no such column."""
        return self._text(self._chosen("eye", _EYES, "L or R"))

    def split(self) -> pd.Series[str]:
        """train, val or test; NA where the cell is empty or there is no such column."""
        return self._text(self._parsed("split", parse_split, "train, val or test"))

    def sha256(self) -> pd.Series[str]:
        """Lower-case hex digests of the image files; NA where the cell is empty."""

        def digest(cell: str) -> str | None:
            cell = cell.strip().lower()
            return cell if re.fullmatch("[0-9a-f]{64}", cell) else None

        wanted = "the 64 hex digits of the image file's SHA-256, or an empty cell"
        return self._text(self._parsed("sha256", digest, wanted))

    def image(self) -> pd.Series[str]:
        """The names of the images; none is empty, and no two are equal."""
        self.refuse(self.table["image"].isna().to_numpy(), "the image is empty")
        names = self.table["image"].astype("str")
        self.refuse(
            names.duplicated().to_numpy(),
            lambda row: f"image {brief(names.iloc[row])} occurs twice; expected one row per image",
        )
        return names

    def patient(self) -> pd.Series[str]:
        """The patients, prefixed with their `source` if there is one; every row has a patient, or none has (NA)."""
        table = self.table
        if "patient" not in table.columns or table["patient"].isna().all():
            return self._text([None] * len(table))
        # Spreadsheets and Parquet make floats of whole numbers: patient 10.0 is patient 10.
        patient = table["patient"].astype("str").str.strip().str.replace(r"^(\d+)\.0+$", r"\1", regex=True)
        self.refuse(
            (table["patient"].isna() | (patient == "")).to_numpy(dtype=bool),
            "the patient is empty, but other rows have one; give it, or remove the column",
        )
        self.refuse(
            patient.str.lower().isin(_ABSENT).to_numpy(),
            f"the patient is a word for a missing value ({', '.join(_ABSENT)}); give the patient, or remove the column",
        )
        if "source" in table.columns:
            prefix = table["source"].fillna("").astype("str") + ":"
            # A table that drgate wrote already has the prefix.
            pairs = zip(patient, prefix, strict=True)
            patient = self._text([name if name.startswith(start) else start + name for name, start in pairs])
        return patient

    def probabilities(self) -> NDArray[np.float64]:
        """(n, 5) probabilities p_0 to p_4, NaN throughout where a row has none."""
        table = self.table
        present = [name for name in table.columns if name.startswith("p_") and name[2:].isdigit()]
        if not present:
            return np.full((len(table), 5), np.nan)
        if set(present) != set(PROBABILITIES):
            raise self.error(
                f"{self.origin} has the probability columns {', '.join(sorted(present))}; expected p_0 to p_4, "
                "one for each of the five ICDR grades."
            )
        absent: NDArray[np.bool_] = table[list(PROBABILITIES)].isna().to_numpy()
        values = np.full(absent.shape, np.nan)
        for j, name in enumerate(PROBABILITIES):
            given, cells = ~absent[:, j], table[name].to_numpy(dtype=object)
            with contextlib.suppress(ValueError, TypeError):  # their texts repeat a cell
                values[given, j] = cells[given].astype(np.float64)
                continue
            wrong = given & ~np.array([_is_number(cell) for cell in cells])
            self.refuse(wrong, lambda row, n=name, c=cells: f"{n} is {_shown(c[row])}; expected a number")  # type: ignore[misc]
        self.refuse(absent.any(1) & ~absent.all(1), "some of p_0 to p_4 are empty; give all five or none")
        self.refuse(
            (~np.isfinite(values) & ~absent).any(1), "a probability is nan or inf; give a number or leave all empty"
        )
        outside = (values < 0) | (values > 1)
        self.refuse(
            outside.any(1),
            lambda row: (
                f"{PROBABILITIES[int(outside[row].argmax())]} is {_number(values[row, int(outside[row].argmax())])}; "
                "expected a fraction from 0 to 1, not percent"
            ),
        )
        sums = values.sum(1)
        self.refuse(
            ~absent.all(1) & ~(np.abs(sums - 1) <= SUM_TOLERANCE),
            lambda row: f"the probabilities sum to {sums[row]:.6g}; expected 1 within {SUM_TOLERANCE}",
        )
        return values

    def flag(self, column: str) -> list[bool | None]:
        """Yes or no; None where the cell is empty or there is no such column."""
        return self._chosen(column, _YES_NO, "0, 1 or an empty cell")

    def number(self, column: str, *, fraction: bool = False) -> NDArray[np.float64]:
        """(n,) finite numbers, or fractions from 0 to 1; NaN where the cell is empty."""
        cells = self.table[column].to_numpy(dtype=object)
        absent = self.table[column].isna().to_numpy(dtype=bool)
        wanted = "a fraction from 0 to 1" if fraction else "a number"
        wrong = ~absent & ~np.array([_is_number(cell) for cell in cells], dtype=bool)
        self.refuse(wrong, lambda row: f"{column} is {_shown(cells[row])}; expected {wanted}")
        values = np.full(len(cells), np.nan)
        values[~absent] = cells[~absent].astype(np.float64)
        outside = ~absent & ~(np.isfinite(values) & ((values >= 0) & (values <= 1) if fraction else True))
        self.refuse(outside, lambda row: f"{column} is {_number(values[row])}; expected {wanted}")
        return values

    def further(self, column: str) -> pd.Series[Any]:
        """A column that drgate has no name of its own for: a reader's grades, else text."""
        if READER.fullmatch(column):
            return pd.Series(pd.array(self.grade(column), dtype="Int8"), index=self.table.index)
        return self.text(column)

    def text(self, column: str) -> pd.Series[str]:
        """A further column as text or NA, so that CSV and Parquet of the same rows are the same."""
        cells = self.table[column]
        if cells.dtype == "str":
            return cells
        whole = pd.api.types.is_float_dtype(cells) and (cells.dropna() % 1 == 0) & (cells.dropna().abs() < 2**53)
        if np.all(whole):
            cells = cells.astype("Int64")  # Parquet makes floats of whole numbers with gaps: site 1.0 is site 1
        return self._text([None if pd.api.types.is_scalar(cell) and pd.isna(cell) else str(cell) for cell in cells])

    def _text(self, values: Sequence[str | None]) -> pd.Series[str]:
        return pd.Series(pd.array(values, dtype="str"), index=self.table.index)

    def _chosen(self, column: str, words: Mapping[str, _Value], expected: str) -> list[_Value | None]:
        return self._parsed(column, lambda cell: words.get(cell.strip().lower()), expected)

    def _parsed(self, column: str, parse: Callable[[str], _Value | None], expected: str) -> list[_Value | None]:
        """Every cell parsed, None for an empty one; raises for a cell that `parse` returns None for.

        Each distinct cell is parsed once, because tables are long.
        """
        if column not in self.table.columns:
            return [None] * len(self.table)
        codes, distinct = pd.factorize(self.table[column])
        values = [parse(str(cell)) for cell in distinct]
        if None in values:
            wrong = values.index(None)
            self.refuse(codes == wrong, f"{column} is {_shown(distinct[wrong])}; expected {expected}")
        return [None if code < 0 else values[code] for code in codes.tolist()]


def reference_of(table: pd.DataFrame) -> pd.Series[Any]:
    """The reference grade of each row, Int8; where it says only whether to refer, the grade that stands for it."""
    if "referable" not in table.columns:
        return table["grade"]
    return table["grade"].fillna(table["referable"] * STANDS_FOR["referable"][1])


def graded_rows(table: pd.DataFrame) -> pd.Series[bool]:
    """The rows that are judged: those with a reference, whatever `gradable` says."""
    return reference_of(table).notna()


def unexplained(table: pd.DataFrame) -> pd.Series[bool]:
    """The rows that lack a reference and are not marked as not gradable."""
    return ~graded_rows(table) & table["gradable"]


def reader_columns(table: pd.DataFrame) -> list[str]:
    """The columns of human readers, by number."""
    found = [column for column in table.columns if READER.fullmatch(column)]
    return sorted(found, key=lambda column: int(column.removeprefix("reader_")))


def parse_split(text: str) -> str | None:
    """train, val or test, from one of the usual names; None for another text."""
    return _SPLITS.get(text.strip().lower())


def _shown(cell: object) -> str:
    """A cell that stands where a grade, a word or a number is expected, unless it may be a name or a record number."""
    text = str(cell).strip()
    return repr(text) if len(text) <= SHOWN else f"another text ({len(text)} characters)"


def _number(value: float) -> str:
    """A number that stands where a probability is expected; no record number."""
    return "a number beyond 100" if abs(value) > 100 else f"{value:.4g}"


def _is_number(cell: object) -> bool:
    try:
        float(cell)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return False
    return True
