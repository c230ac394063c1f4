"""Reads a table from any container that people export: text, Parquet, JSON, Excel.

    table = read_table(Path("predictions.csv"), "a table of predictions", PredictionsError)
    read(path, what, error, columns=mapping).notes     # what was recognised and mapped, as sentences

What a file is, its content says, not its name. Text is UTF-8, or UTF-16 with its mark, separated by commas, semicolons,
tabs or bars. JSON is lines of objects, a list of objects, columns as pandas writes them, or columns and data as MLflow
does. Columns without a name and saved indices are left out. No message repeats a cell or a column's name: both may name
a patient.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from drgate import limits
from drgate.content import HEAD
from drgate.errors import DrgateError, brief, install, unchained
from drgate.files import in_bytes, is_parquet, parse_json, read_beginning, read_limited, refuse_content, row_name
from drgate.mapping import PLAIN, ColumnMap, columns_note

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_SEPARATORS: Final = (",", ";", "\t", "|")
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
_NUMBERED: Final = re.compile(r"(Unnamed: ?\d+(\.\d+)*(_level_\d+)?|\.\.\.\d+)?")
"""Names that pandas and R give to a column without one."""
_INDICES: Final = ("index", "level_0", "__index_level_0__", "rownames", "row_names")
_WHOLE: Final = re.compile(r"\d+(\.0)?")

Cell = str | None
Rows = Iterator[Sequence[Cell]]


class Reading(NamedTuple):
    """A table as it was read. unused: mappings of columns that are not there, where they are shared.

    notes: what was mapped, as sentences for the report.
    """

    table: pd.DataFrame
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_table(
    path: Path, what: str, error: type[DrgateError], *, columns: ColumnMap = PLAIN, no_nan: Sequence[str] = ()
) -> pd.DataFrame:
    """The table of `read`; every column that is mapped must be there."""
    return read(path, what, error, columns=columns, no_nan=no_nan).table


@unchained()
def read(
    path: Path,
    what: str,
    error: type[DrgateError],
    *,
    columns: ColumnMap = PLAIN,
    no_nan: Sequence[str] = (),
) -> Reading:
    """A table, with drgate's own names where `columns` maps them. Cells are text (NA where empty), typed in Parquet.

    no_nan: columns in which a NaN of Parquet, which pandas shows like an empty cell, is refused.

    Column names are stripped. Columns without a name and saved indices are left out. Row i is line i + 2 of a CSV.
    Raises `error` for what cannot be read and for a mapping that does not fit.
    """
    if not path.exists():
        raise error(f"{path} does not exist; expected {what}.")
    head = read_beginning(path, HEAD, what, error)
    if not is_parquet(path) and head.startswith(b"PAR1") and b"\0" in head:
        raise error(f"{path} is a Parquet table; give it a name that ends in .parquet.")
    excel = head.startswith(b"PK\x03\x04") and _is_workbook(path)
    if not (excel or head.startswith((b"PAR1", *_UTF_16))):
        refuse_content(head, str(path), what, error)
    if is_parquet(path):
        table = _from_parquet(path, what, error, [columns.columns.get(name, name) for name in no_nan])
    else:
        limited = _Limited(path, what, error)
        if excel:
            arrow = limited.table(_excel_rows(path, what, error))
        elif head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
            arrow = limited.table(_json_rows(path, head, what, error))
        else:
            arrow = _from_text(limited, head, columns.separator)
        table = arrow.to_pandas()
    return _named_columns(table, path, what, error, columns)


def _named_columns(table: pd.DataFrame, path: Path, what: str, error: type[DrgateError], columns: ColumnMap) -> Reading:
    """The table with drgate's own names, without saved indices."""
    import pandas as pd

    names = [str(column).strip() for column in table.columns]
    asked = {theirs.strip(): own for own, theirs in columns.columns.items()}
    places = [i for i, name in enumerate(names) if name in asked or not _is_index(name, table.iloc[:, i])]
    kept = [names[i] for i in places]
    if (second := next((j for j, name in enumerate(kept) if name in kept[:j]), None)) is not None:
        first = kept.index(kept[second])
        raise error(
            f"{path}: columns {places[first] + 1} and {places[second] + 1} have the same name; keep one, and "
            "one line of names above the rows."
        )
    missing = [theirs for theirs in asked if theirs not in kept]
    if missing and not columns.shared:
        raise error(
            f"{path} has no column {brief(missing[0])}, which --columns maps to {asked[missing[0]]}; give the name in "
            "the first line of the file, as it is written there."
        )
    own = [asked.get(name, name) for name in kept]
    if (second := next((j for j, name in enumerate(own) if name in own[:j]), None)) is not None:
        taken = own[second]
        raise error(
            f"{path} has a column {taken} already, beside {brief(columns.columns[taken])}, which --columns maps to "
            f"{taken}. Give the other one another name: --columns "
            f"{taken}={columns.columns[taken]},other_{taken}={taken}."
        )
    if len(places) < len(names):
        table = table.iloc[:, places]
    table.columns = pd.Index(own)
    if table.empty:
        raise error(f"{path} has no rows; expected {what}.")
    notes = columns_note(path.name, {asked[name]: name for name in kept if name in asked})
    return Reading(table, tuple(asked[name] for name in missing), tuple(notes))


def _is_index(name: str, cells: pd.Series[Any]) -> bool:
    """Whether a column has no name, or is the numbers of rows that a program saved."""
    if _NUMBERED.fullmatch(name):
        return True
    if name.casefold() not in _INDICES:
        return False
    return bool(cells.is_unique and cells.astype("str").str.fullmatch(_WHOLE.pattern).all())


def _from_parquet(path: Path, what: str, error: type[DrgateError], no_nan: Iterable[str]) -> pd.DataFrame:
    from drgate.parquet import first_nan, read_parquet

    arrow = read_parquet(path, what, error)
    for name in no_nan:
        if (row := first_nan(arrow, name)) is not None:
            raise error(f"{row_name(path, row)}: {name} is NaN; expected a number or an empty cell.")
    try:
        table: pd.DataFrame = arrow.to_pandas()
    except Exception as problem:  # its texts repeat cells, and its metadata can make pandas raise anything
        raise error(f"{path} is a Parquet file that pandas cannot convert; expected {what}.") from problem
    if any(name is not None for name in table.index.names):
        table = table.reset_index()  # an index with a name is a column, such as image
    return table


class _Limited:
    """Rows of text as an Arrow table, within the limits; short rows are filled up, empty rows at the end left out."""

    def __init__(self, path: Path, what: str, error: type[DrgateError]) -> None:
        self.path, self.what, self.error = path, what, error

    def refuse(self, trouble: str) -> NoReturn:
        raise self.error(f"{self.path} {trouble}; expected {self.what}.")

    def table(self, rows: Rows) -> pa.Table:
        """rows: the header first."""
        import pyarrow as pa

        header = [(name or "").strip() for name in next(rows, [])]
        width = len(header)
        if width > limits.TABLE_COLUMNS:
            self.refuse(f"has more than {limits.TABLE_COLUMNS} columns")
        if not any(header):
            self.refuse("is empty" if not any(map(any, rows)) else "has no names of columns in its first line")

        def converted(batch: list[Sequence[Cell]]) -> pa.Table:
            columns = zip(*batch, strict=True)
            return pa.table([pa.array([cell or None for cell in one], pa.string()) for one in columns], names=header)

        parts: list[pa.Table] = []
        batch: list[Sequence[Cell]] = []
        count = trailing = 0
        for row in rows:
            count += 1
            if not any(row):
                trailing += 1
            elif trailing:
                raise self.error(
                    f"{row_name(self.path, count - 2)}: the row is empty. The names of the columns belong in "
                    "the first line, and no row may be empty."
                )
            if len(row) != width:
                if any(row[width:]):
                    raise self.error(
                        f"{row_name(self.path, count - 1)}: there are {len(row)} cells under a header of {width}. "
                        "Put the names of all columns into the first line, without other lines above or below, and "
                        "quotes around a cell that contains the separator."
                    )
                row = [*row[:width], *[None] * (width - len(row))]
            batch.append(row)
            if len(batch) * width >= limits.BATCH:
                parts.append(converted(batch))
                batch = []
            if count > limits.TABLE_ROWS or count * width > limits.TABLE_CELLS:
                raise self.error(
                    f"{self.path} has more than {limits.TABLE_ROWS} rows or {limits.TABLE_CELLS} cells; split it."
                )
        empty = pa.table([pa.array([], pa.string()) for _ in header], names=header)
        return pa.concat_tables([empty, *parts, *([converted(batch)] if batch else [])]).slice(0, count - trailing)


# -- text --------------------------------------------------------------------------------------------------------------


def _from_text(limited: _Limited, head: bytes, stated: str | None) -> pa.Table:
    path, what, error = limited.path, limited.what, limited.error
    encoding = "utf-16" if head.startswith(_UTF_16) else "utf-8-sig"
    separator = stated or _separator(head, encoding, path, error)
    pending = 0

    def lines(handle: io.TextIOBase) -> Iterator[str]:
        nonlocal pending
        while line := handle.readline(limits.ROW + 1):
            pending += len(line)
            if pending > limits.ROW:
                raise error(f"{path}, line {reader.line_num + 1}: the row is longer than {limits.ROW} characters.")
            yield line

    def rows() -> Rows:
        nonlocal pending
        for row in reader:
            pending = 0
            yield row

    try:
        with path.open(encoding=encoding, newline="") as handle:
            if os.fstat(handle.fileno()).st_size > limits.TABLE_BYTES:
                raise error(f"{path} is larger than {limits.TABLE_BYTES >> 30} GB; expected {what}.")
            reader = csv.reader(lines(handle), delimiter=separator, strict=True)
            return limited.table(rows())
    except UnicodeError:
        raise error(
            f"{path} cannot be read as a table (it is not UTF-8 text); expected {what}. Save it as UTF-8: in Excel as "
            '"CSV UTF-8", or with iconv -f latin1 -t utf-8.'
        ) from None  # the codec's text repeats bytes
    except csv.Error:
        raise error(
            f"{path}, line {reader.line_num}: the quotes do not match, or a cell is longer than "
            f"{csv.field_size_limit()} characters; expected {what}."
        ) from None
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem.strerror}); expected {what}.") from problem


def _separator(head: bytes, encoding: str, path: Path, error: type[DrgateError]) -> str:
    """The sign that cuts the first line into the most cells. Raises `error` where two do equally."""
    line = head.decode(encoding, errors="replace").partition("\n")[0].rstrip("\r")
    if re.fullmatch(r'"?sep=.?"?', line.strip(), re.I):
        raise error(f"{path}: its first line is a hint to Excel (sep=); remove that line.")
    cells = {}
    for sign in _SEPARATORS:
        with contextlib.suppress(csv.Error):
            cells[sign] = len(next(csv.reader([line], delimiter=sign), []))
    most = max(cells.values(), default=1)
    best = [sign for sign, count in cells.items() if count == most]
    if most > 1 and len(best) > 1:
        raise error(
            f"{path} may be separated by {' or by '.join(map(repr, best))}; state it in a file for --columns: "
            'separator: ";".'
        )
    return best[0] if best else ","


# -- JSON --------------------------------------------------------------------------------------------------------------


def _json_rows(path: Path, head: bytes, what: str, error: type[DrgateError]) -> Rows:
    """The rows of JSON lines, of a list of objects, or of an object with columns and data, the header first."""
    first, _, rest = head.removeprefix(b"\xef\xbb\xbf").strip().partition(b"\n")
    with contextlib.suppress(ValueError, RecursionError):  # of the latter, the whole is refused below
        plain = json.loads(first)
        flat = isinstance(plain, dict) and not any(isinstance(cell, list | dict) for cell in plain.values())
        if isinstance(plain, dict) and (flat or rest) and not {"columns", "data"} <= plain.keys():
            return _of_objects(_json_lines(path, what, error), path, what, error)
    whole = parse_json(read_limited(path, limits.JSON_BYTES, what, error), str(path), what, error)
    whole = _rows_of_columns(whole)
    if isinstance(whole, dict) and isinstance(whole.get("columns"), list) and isinstance(whole.get("data"), list):
        named = whole["columns"]
        if all(isinstance(row, list) and len(row) == len(named) for row in whole["data"]):
            rows = enumerate(whole["data"])
            data = ([_text(cell, path, i, error) for cell in row] for i, row in rows)
            return itertools.chain([[_text(name, path, 0, error) for name in named]], data)
    if isinstance(whole, list) and whole:
        return _of_objects(iter(whole), path, what, error)
    if isinstance(whole, dict) and whole:
        return _of_objects(iter([whole]), path, what, error)
    raise error(
        f"{path} is JSON of another form than lines of objects, a list of objects, columns, or columns and data "
        f"(MLflow's evaluation table); expected {what}."
    )


def _rows_of_columns(whole: Any) -> Any:
    """What pandas writes by column (a list each, or an object by row), or as rows beside a schema, as rows."""
    if not isinstance(whole, dict) or not whole or whole.keys() >= {"columns", "data"}:
        return whole
    if whole.keys() == {"schema", "data"}:
        return whole["data"]
    columns = list(whole.values())
    if all(isinstance(one, dict) and one.keys() == columns[0].keys() for one in columns):
        columns = [[one[row] for row in columns[0]] for one in columns]
    if all(isinstance(one, list) and len(one) == len(columns[0]) for one in columns):
        return {"columns": list(whole), "data": [list(row) for row in zip(*columns, strict=True)]}
    return whole


def _json_lines(path: Path, what: str, error: type[DrgateError]) -> Iterator[Any]:
    if path.stat().st_size > limits.TABLE_BYTES:
        raise error(f"{path} is larger than {limits.TABLE_BYTES >> 30} GB; expected {what}.")
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
    with path.open("rb") as handle:
        number = 0
        while line := handle.readline(limits.ROW + 1):
            number += 1
            if len(line) > limits.ROW:
                raise error(f"{path}, line {number}: the row is longer than {limits.ROW} bytes.")
            if not line.strip():
                continue
            try:
                yield decoder.decode(line.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                raise error(
                    f"{path}, line {number} is not one JSON object with each name once and finite numbers; expected "
                    f"{what}."
                ) from None  # its text repeats the line


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _no_constant(_: str) -> NoReturn:
    raise ValueError


def _of_objects(objects: Iterator[Any], path: Path, what: str, error: type[DrgateError]) -> Rows:
    """One row an object, under the names of the first; other names later raise `error`."""
    first = next(objects, None)
    if not isinstance(first, dict):
        raise error(f"{row_name(path, 0)} is no JSON object; expected {what}.")
    header = list(first)
    yield header
    for i, one in enumerate(itertools.chain([first], objects)):
        if not isinstance(one, dict):
            raise error(f"{row_name(path, i)} is no JSON object; expected {what}.")
        if not one.keys() <= first.keys():
            raise error(f"{row_name(path, i)} has a name that the first row lacks; give all rows the same names.")
        yield [_text(one.get(name), path, i, error) for name in header]


def _text(value: object, path: Path, row: int, error: type[DrgateError]) -> Cell:
    """A value of JSON or Excel as text, as a CSV would have it; None for an empty one."""
    if value is None or isinstance(value, str):
        if value and len(value) > limits.CELL:
            raise error(f"{row_name(path, row)}: a cell is longer than {limits.CELL} characters.")
        return value
    if isinstance(value, Mapping | list):
        raise error(
            f"{row_name(path, row)}: a cell holds a list or an object; give each number a column of its own, such "
            "as p_0 to p_4."
        )
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else str(value)


# -- Excel -------------------------------------------------------------------------------------------------------------


def _excel_rows(path: Path, what: str, error: type[DrgateError]) -> Rows:
    """The cells of the one sheet with cells, as text. Formulas count by their stored results."""
    try:
        import openpyxl
    except ImportError:
        raise error(
            f"{path} is an Excel file, which needs the extra xlsx; save it as CSV, or install it. {install('xlsx')}."
        ) from None
    _refuse_bombs(path, what, error)
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
        found = []
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # what it says of its size may be wrong
            if next(filter(None, _excel_cells(sheet, path, error)), None):
                found.append(sheet)
        if len(found) != 1:
            raise error(
                f"{path} has {len(found) or 'no'} sheets with cells; keep the one with the table, or save it as CSV."
            )
        yield from _excel_cells(found[0], path, error)
    except DrgateError:
        raise
    except Exception:  # of what is no workbook, openpyxl and zipfile raise anything, and their texts repeat cells
        raise error(f"{path} is an Excel file that cannot be read; save it as CSV. Expected {what}.") from None


def _excel_cells(sheet: Any, path: Path, error: type[DrgateError]) -> Rows:
    total = 0
    for i, row in enumerate(sheet.iter_rows(values_only=True)):
        if i >= limits.EXCEL_ROWS:  # a row may claim any number, and those before it are empty
            raise error(f"{path} has more than {limits.EXCEL_ROWS} rows; save it as CSV.")
        if len(row) > limits.TABLE_COLUMNS:
            raise error(f"{path}, row {i + 1} has more than {limits.TABLE_COLUMNS} cells; remove those that are empty.")
        cells = [_text(value, path, i - 1, error) for value in row]
        while cells and cells[-1] is None:
            cells.pop()
        total += sum(len(cell) for cell in cells if cell)
        if total > limits.TABLE_TEXT:
            raise error(f"{path} holds more than {limits.TABLE_TEXT >> 30} GB of text; split it.")
        yield cells


def _is_workbook(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return False


def _refuse_bombs(path: Path, what: str, error: type[DrgateError]) -> None:
    """Raise `error` where a workbook's parts are too large together, or may define XML entities."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts, tags = archive.infolist(), 0
            if sum(part.file_size for part in parts) > limits.ARCHIVE_BYTES or len(parts) > limits.ARCHIVE_PARTS:
                raise error(
                    f"{path} holds more than {in_bytes(limits.ARCHIVE_BYTES)} after decompression, or more than "
                    f"{limits.ARCHIVE_PARTS} parts; save it as CSV."
                )
            for part in parts:
                if part.filename.lower().endswith((".xml", ".rels", ".vml")):
                    data = archive.read(part)
                    tags += data.count(b"<") - data.count(b"</")
                    if tags > limits.ARCHIVE_TAGS:
                        raise error(
                            f"{path} has more than {limits.ARCHIVE_TAGS} XML elements, about a million cells; save "
                            "it as CSV."
                        )
                    # In an encoding that is no superset of ASCII, a definition could not be seen.
                    plain = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"<", b"") and b"\0" not in data
                    if not plain or re.search(rb"<!(DOCTYPE|ENTITY)", data, re.I):
                        raise error(f"{path} defines XML entities, which no table needs; save it as CSV.")
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError, ValueError) as problem:
        raise error(f"{path} is a damaged Excel file, or has a password; expected {what}.") from problem
