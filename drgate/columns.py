"""Reads the cells of a table, column by column, with one form of error.

    columns = Columns(read_table(path, what, PredictionsError), path, PredictionsError)
    columns.require("image", expected=what)
    columns.grade()                        # 0-4 or None; "labels.csv, line 3: grade cannot be read; expected ..."

Manifests, predictions and separate grades are all read here.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgate.errors import DrgateError
from drgate.files import row_name
from drgate.mapping import PLAIN, UNGRADABLE, ColumnMap, Scores, grades_note
from drgate.scale import GRADES, GROUPS, STANDS_FOR, parse_grade

_Value = TypeVar("_Value")
Numbers = NDArray[np.float64]

PROBABILITIES: Final = ("p_0", "p_1", "p_2", "p_3", "p_4")
SPLITS: Final = ("train", "val", "test")
READER: Final = re.compile("reader_[1-9][0-9]{0,3}")
"""A column with the grades of one human reader."""
SUM_TOLERANCE: Final = 1e-3
_EXACT: Final = 1 + 1e-9
"""A limit times this holds for what is written exactly at it, however its sum is rounded."""
HEADERLESS: Final = "headerless"
"""Attribute (1) of a table whose first row is the first line of its file."""
LEAST_DIGITS: Final = 2
"""Probabilities that are rounded to fewer digits are none."""
FEWEST_ROWS: Final = 10
"""Of fewer rows nobody can tell whether a column numbers them."""
REFER: Final = "referable; give 0 or 1"
"""What a row without a reference lacks where the others say only whether to refer."""

_YES_NO: Final = {
    **dict.fromkeys(("true", "1", "yes", "1.0"), True),
    **dict.fromkeys(("false", "0", "no", "0.0"), False),
}
_EYES: Final = {
    **dict.fromkeys(("l", "left", "left eye", "le", "os", "oi", "og", "links", "gauche"), "L"),
    **dict.fromkeys(("r", "right", "right eye", "re", "od", "rechts", "droit", "droite"), "R"),
}
_SPLITS: Final = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_COMMA: Final = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?")
_GRADE: Final = f"an ICDR grade, 0-4 or a name ({', '.join(GRADES)})"
_OTHER_WORDS: Final = (
    "; if another word stands for a grade or for ungradable, give --columns FILE, a YAML file with a line such as   "
    'grades: {"WORD": ungradable}   (docs/tables.md)'
)
ABSENT: Final = ("nan", "na", "n/a", "none", "null", "<na>")


@dataclass(frozen=True, slots=True)
class Columns:
    """A table while it is read. Every reader raises `error` with file and row for the first bad cell.

    No message repeats a cell: whatever stands there may be a name or a record number that slipped into the column.

    table: drgate's own column names; cells as text (CSV) or typed (Parquet). origin: its file, for messages. stated:
    what cells mean. notes: gets what was recognised, as sentences for the report.
    """

    table: pd.DataFrame
    origin: Path
    error: type[DrgateError]
    stated: ColumnMap = PLAIN
    notes: list[str] = field(default_factory=list)

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
        if column not in self.table.columns:
            return [None] * len(self.table)
        means = {cell.strip(): word for cell, word in self.stated.grades.items()}
        codes, distinct = pd.factorize(self.table[column])
        values: list[int | None] = []
        for cell in map(_plain, distinct):
            word = means.get(cell, cell)
            values.append(-1 if word == UNGRADABLE and cell in means else parse_grade(word))
        if None in values:
            wrong = np.isin(codes, [code for code, value in enumerate(values) if value is None])
            severity = "; a number between grades is a severity: --columns severity=NAME" * (column == "predicted")
            self.refuse(
                wrong,
                f"{column} cannot be read; expected {_GRADE}; {int(wrong.sum())} of {len(codes)} rows are so{severity}"
                f"{_OTHER_WORDS}",
            )
        if means:
            self.notes.extend(grades_note(column, self.origin.name, means, Counter(self._words(column))))
        return [None if code < 0 or values[code] == -1 else values[code] for code in codes.tolist()]

    def _words(self, column: str) -> pd.Series[str]:
        """The cells of a column of grades as a mapping has them; "" where one is empty, but NA in an empty column."""
        words = self.table[column].map(_plain, na_action="ignore")
        return words if words.isna().all() else words.fillna("")

    def reference(self) -> tuple[list[int | None], list[bool | None] | None]:
        """The reference grades; and whether it would refer, of a reference that says only that (else None).

        Raises where `referable` contradicts the grade or the macular oedema of its row, and where it replaces a
        grade in some rows only: a set has one kind of reference.
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
        given = [value is not False for value in self._chosen("gradable", _YES_NO, "true or false")]
        words = [cell.strip() for cell, word in self.stated.grades.items() if word == UNGRADABLE]
        if not words or "grade" not in self.table.columns:
            return given
        lost = self._words("grade").isin(words)
        return [one and not other for one, other in zip(given, lost, strict=True)]

    def dme(self) -> list[bool | None]:
        """Whether there is macular oedema by the reference; None where the cell is empty."""
        return self.flag("dme")

    def eye(self) -> pd.Series[str]:
        """L or R; NA where the cell is empty or there is no such column."""
        return self._text(self._chosen("eye", _EYES, "L or R (also left, right, OS, OD)"))

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
            lambda row: (
                f"this image is in {self.where(int((names == names.iloc[row]).argmax()))} already; expected one "
                "row per image"
            ),
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
            patient.str.lower().isin(ABSENT).to_numpy(),
            f"the patient is a word for a missing value ({', '.join(ABSENT)}); give the patient, or remove the column",
        )
        if "source" in table.columns:
            prefix = table["source"].fillna("").astype("str") + ":"
            # A table that drgate wrote already has the prefix.
            pairs = zip(patient, prefix, strict=True)
            patient = self._text([name if name.startswith(start) else start + name for name, start in pairs])
        return patient

    def probabilities(self) -> Numbers:
        """(n, 5) probabilities p_0 to p_4, NaN throughout where a row has none."""
        table = self.table
        present = [name for name in table.columns if name.startswith("p_") and name[2:].isdigit()]
        if not present:
            return np.full((len(table), 5), np.nan)
        if set(present) != set(PROBABILITIES):
            raise self.error(
                f"{self.origin} has {len(present)} columns of probabilities; expected p_0 to p_4, one for each of the "
                "five ICDR grades. If others have other names, say which is which: --columns "
                "p_0=NAME,p_1=NAME and so on."
            )
        read = [self._numbers(name) for name in PROBABILITIES]
        values = np.stack([numbers for numbers, _ in read], axis=1)
        absent: NDArray[np.bool_] = table[list(PROBABILITIES)].isna().to_numpy()
        self.refuse(absent.any(1) & ~absent.all(1), "some of p_0 to p_4 are empty; give all five or none")
        self.refuse(
            (~np.isfinite(values) & ~absent).any(1), "a probability is nan or inf; give a number or leave all empty"
        )
        given = ~absent[:, 0]
        if given.any():
            values[given] = self._as_shares(values[given], given, percent=any(percent for _, percent in read))
        return values

    def _as_shares(self, values: Numbers, given: NDArray[np.bool_], *, percent: bool) -> Numbers:
        """(m, 5) numbers of the rows that have some, as shares that sum to 1, whatever scale they are on.

        percent: whether cells have signs of per cent.
        """
        rows = np.flatnonzero(given)

        def refuse(wrong: NDArray[np.bool_], trouble: str) -> None:
            marked = np.zeros(len(given), dtype=np.bool_)
            marked[rows[wrong]] = True
            self.refuse(marked, trouble)

        stated: Scores | None = self.stated.scores
        if percent and stated not in (None, "percent"):
            raise self.error(f"{self.origin}: p_0 to p_4 have signs of per cent, but {stated} are stated; correct one.")
        scale = "percent" if percent else stated or self._scale(values)
        if scale == "logits":
            self.notes.append("The columns p_0 to p_4 are logits; their softmax was taken.")
            powers = np.exp(values - values.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        whole = 100.0 if scale == "percent" else 1.0
        outside = np.asarray(((values < 0) | (values > whole)).any(axis=1))
        what = "per cent from 0 to 100" if scale == "percent" else "a fraction from 0 to 1"
        refuse(outside, f"one of p_0 to p_4 is outside; expected {what}, or state what they are (--scores)")
        sums = values.sum(axis=1)
        off = np.abs(sums - whole) > SUM_TOLERANCE * whole * _EXACT
        if off.any():
            allowed = self._rounding(whole)
            refuse(
                np.asarray(np.abs(sums - whole) > allowed),
                f"the five do not sum to {whole:g} within {allowed:g}; give more digits, or state what they are "
                "(--scores)",
            )
        if scale == "percent":
            self.notes.append("The columns p_0 to p_4 are in per cent.")
        if off.any():
            self.notes.append(
                f"The probabilities are rounded: in {int(off.sum())} rows they do not sum to 1 within "
                f"{SUM_TOLERANCE:g}. Each row was divided by its sum."
            )
            return np.asarray(values / sums[:, None])
        return values / whole if scale == "percent" else values

    def _scale(self, values: Numbers) -> Scores:
        """What the numbers are, where only one answer fits. Raises where none does, with what to state."""
        sums, most = values.sum(axis=1), values.max(axis=1)
        negative = (values < 0).any(axis=1)
        shares = ~negative & (most <= 1) & (np.abs(sums - 1) <= self._rounding(1.0, sums))
        if 2 * shares.sum() >= len(values):
            return "probabilities"
        percent = ~negative & (most > 1) & (most <= 100) & (np.abs(sums - 100) <= self._rounding(100.0, sums))
        if 2 * percent.sum() >= len(values):
            return "percent"
        # Equal sums other than 0 are no chance: such numbers were made of probabilities, even where one is below 0.
        alike = len(values) > 1 and np.ptp(sums) <= 2 * SUM_TOLERANCE * np.abs(sums).max()
        made = alike and np.abs(sums).min() > SUM_TOLERANCE
        if 2 * negative.sum() >= len(values) and not shares.any() and not percent.any() and not made:
            return "logits"
        raise self.error(
            f"{self.origin}: p_0 to p_4 are neither probabilities, which sum to 1, nor per cent. State what they are "
            "with --scores probabilities, percent or logits."
        )

    def _rounding(self, whole: float, sums: Numbers | None = None) -> float:
        """How far from the whole five numbers may sum: `SUM_TOLERANCE`, or five half units of the last written digit.

        sums: where none is further away than that tolerance, the digits are not looked at.
        """
        least = SUM_TOLERANCE * whole * _EXACT
        if sums is not None and (np.abs(sums - whole) <= least).all():
            return least
        digits, enough = 0, 4 if whole == 1 else 2
        for name in PROBABILITIES:
            for cell in self.table[name].dropna().to_numpy():
                digits = max(digits, _digits(cell))
                if digits >= enough:
                    return least
        if digits < (LEAST_DIGITS if whole == 1 else LEAST_DIGITS - 2):
            return least
        return max(least, len(PROBABILITIES) * 0.5 * 10.0**-digits * _EXACT)

    def _numbers(self, column: str) -> tuple[Numbers, bool]:
        """(n,) numbers, NaN where the cell is empty; and whether the cells have signs of per cent."""
        given = self.table[column].notna().to_numpy(dtype=bool)
        cells = self.table[column].to_numpy(dtype=object)
        values = np.full(len(cells), np.nan)
        if self.stated.decimal != ",":
            with contextlib.suppress(ValueError, TypeError):  # their texts repeat a cell
                values[given] = cells[given].astype(np.float64)
                return values, False
        texts = np.array([str(cell).strip() if known else "" for cell, known in zip(cells, given, strict=True)], object)
        signs = np.array([text.endswith("%") for text in texts])
        texts = np.array([text.rstrip("%").strip() for text in texts], dtype=object)
        if self.stated.decimal != ".":
            commas = np.array([_COMMA.fullmatch(text) is not None for text in texts])
            points = np.array(["." in text for text in texts])
            if commas.any() and not points.any():
                texts = np.array([text.replace(",", ".") for text in texts], dtype=object)
                if (note := "Numbers have decimal commas.") not in self.notes:
                    self.notes.append(note)
        wrong = given & ~np.array([_is_number(text) for text in texts], dtype=bool)
        self.refuse(
            wrong | (given & ~signs & signs.any()), f"{column} cannot be read; expected a number or an empty cell"
        )
        values[given] = texts[given].astype(np.float64)
        return values, bool(signs.any())

    def flag(self, column: str) -> list[bool | None]:
        """Yes or no; None where the cell is empty or there is no such column."""
        return self._chosen(column, _YES_NO, "0, 1 or an empty cell")

    def number(self, column: str, *, fraction: bool = False) -> Numbers:
        """(n,) finite numbers, or fractions from 0 to 1; NaN where the cell is empty."""
        values, percent = self._numbers(column)
        given = self.table[column].notna().to_numpy(dtype=bool)
        if percent or (fraction and self.stated.scores == "percent"):
            values = values / 100
        wrong = given & ~(np.isfinite(values) & ((values >= 0) & (values <= 1) if fraction else True))
        self.refuse(wrong, f"{column} cannot be read; expected {'a fraction from 0 to 1' if fraction else 'a number'}")
        return values

    def others(self, *own: str) -> list[str]:
        """The columns that are not drgate's `own`, without those that number the rows: they say nothing."""
        return [one for one in self.table.columns if one not in own and not self._numbers_rows(one)]

    def only_decided(self, answers: Sequence[str]) -> bool:
        """Whether the only one of the answers is the grade that was decided."""
        given = {one for one in answers if one in self.table.columns and self.table[one].notna().any()}
        return given == {"predicted"}

    def like_probabilities(self, names: Sequence[str]) -> list[str]:
        """Those of the columns that look like probabilities: by a usual name if it is one, else by number."""
        found = []
        for name in names:
            cells = self.table[name].dropna()
            numbers = pd.to_numeric(cells.iloc[:1000].astype("str"), errors="coerce")
            usual = _class_of(name) is not None or bool(usual_names([name], ["p_referable"]))
            if len(cells) and numbers.between(0, 1).all() and (usual or (numbers % 1 > 0).any()):
                found.append(name if usual else f"column {list(self.table.columns).index(name) + 1}")
        return found

    def may_be_scores(self, names: Iterable[str]) -> bool:
        """Whether columns hold numbers that five scores can be: not all of them whole, unless 0 and 1 alone."""
        numbers = self.table[list(names)].apply(lambda cells: pd.to_numeric(cells.astype("str"), errors="coerce"))
        return bool(
            numbers.notna().any(axis=1).any() and ((numbers % 1 > 0).any(axis=None) or (numbers <= 1).all(axis=None))
        )

    def _numbers_rows(self, column: str) -> bool:
        """Whether a column counts from 0 or 1 in the order of the rows; of a few rows nothing can be said."""
        if len(self.table) < FEWEST_ROWS:
            return False
        cells = self.table[column]
        start = _plain(cells.iloc[0])
        if start not in ("0", "1"):
            return False
        return all(_plain(cell) == str(i) for i, cell in enumerate(cells, int(start)))

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
            self.refuse(codes == wrong, f"{column} cannot be read; expected {expected}")
        return [None if code < 0 else values[code] for code in codes.tolist()]


_USUAL: Final[dict[str, str]] = {
    "image": r"(file|image|img|photo|fundus|f)?(name|path|file|id|idcode)|img|image",
    "grade": r"(true|gt|target|reference|ground|actual|orig)?(label|diagnosis|level|grade|class)s?|ytrue|true|truth|"
    r"target|gt|groundtruth|actual|(adjudicated)?drgrade|retinopathygrade|dricdr|finalicdr|icdr(grade|level)?",
    "referable": r"rdr|isreferable|referabledr|adjudicatedreferable",
    "predicted": r"y?pred(icted|iction|ictions)?(label|class|grade|idx)?s?|yhat|modelgrade|argmax|top1",
    "patient": r"(patient|subject|case)(id|no|number|code)?|pid",
    "eye": r"eye|laterality|side|eyeside|exameye",
    "p_referable": r"(p|prob|proba|probability|score)(of)?(r|rdr|refer|referable)(dr)?|(rdr|refer|referable)"
    r"(p|prob|proba|probability|score)",
}
"""The letters of usual names of columns. Only these are ever shown: any other may name a patient."""
_OF_CLASS: Final = re.compile(
    r"(?:(?:y|pred|predicted|model)?(?:p|pr|prob|probs|proba|probability|score|scores|logit|logits|softmax|conf|confidence|output|"
    r"class|grade|mc|c|x|pred|prediction)(?:class|grade|of|dr)*)?([0-4])"
)
_PREFIX: Final = re.compile(r"^(p|prob|proba|probability|score|logit|softmax|conf|confidence)[\s_.-]+", re.I)


def usual_names(names: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """The columns that usual names suggest for those that are `wanted` and not there; p_0 to p_4 only together.

    >>> usual_names(["y_true", "prob_0", "prob_1", "prob_2", "prob_3", "prob_4"], ("grade", "p_0"))
    {'grade': 'y_true', 'p_0': 'prob_0', 'p_1': 'prob_1', 'p_2': 'prob_2', 'p_3': 'prob_3', 'p_4': 'prob_4'}
    """
    # Of other letters nothing would be left to compare, and a name in them would pass for a usual one.
    there = [name for name in names if name.isascii() and not re.search("[=,]", name)]
    found: dict[str, str] = {}
    for own in wanted:
        if own in names or own in PROBABILITIES or own not in _USUAL:
            continue
        free = (name for name in there if name not in found.values() and not _is_own(name))
        match = next((name for name in free if re.fullmatch(_USUAL[own], re.sub("[^a-z0-9]", "", name.lower()))), None)
        if match is not None:
            found[own] = match
    if {*PROBABILITIES} & {*wanted} and not {*PROBABILITIES} & {*names}:
        classes: dict[int, str] = {}
        for name in there:
            grade = _class_of(name)
            if grade is not None and grade not in classes and name not in found.values():
                classes[grade] = name
        if len(classes) == len(PROBABILITIES):
            found |= {own: classes[grade] for grade, own in enumerate(PROBABILITIES)}
    return found


def _is_own(name: str) -> bool:
    return name in (*PROBABILITIES, "image", "grade", "patient", "eye", "predicted", "referable", "p_referable")


def _class_of(name: str) -> int | None:
    """The grade whose probability a column seems to hold, by its name."""
    if not name.isascii():
        return None
    if numbered := _OF_CLASS.fullmatch(re.sub("[^a-z0-9]", "", name.lower())):
        return int(numbered[1])
    return parse_grade(_PREFIX.sub("", name))


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


def _plain(cell: object) -> str:
    """A cell as text; of a whole number that a program wrote as a decimal one, the whole number."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", str(cell).strip())


def _digits(cell: object) -> int:
    """How many digits after the decimal point are written."""
    text = np.format_float_positional(cell) if isinstance(cell, float | np.floating) else str(cell)
    exponent = Decimal(text.strip().rstrip("%").strip().replace(",", ".")).as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _is_number(cell: object) -> bool:
    try:
        float(cell)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return False
    return True
