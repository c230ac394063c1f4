"""How the columns and cells of somebody's table are to be read: `--columns grade=diagnosis,image=id_code`, or YAML.

    mapping = parse_mapping("grade=diagnosis,image=id_code,p_0=prob_0")
    mapping.columns                          # {"grade": "diagnosis", "image": "id_code", "p_0": "prob_0"}

The same mapping serves predictions, manifests and files of grades. What was mapped is recorded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, get_args

from drgate import limits
from drgate.errors import UsageError
from drgate.files import plain_yaml, read_limited
from drgate.scale import parse_grade

Scores = Literal["probabilities", "percent", "logits"]

_WHAT: Final = "a mapping of columns: columns, grades, scores, decimal, separator (docs/tables.md)"


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """columns: name in the table by drgate's own name. grades: what a cell of grades means, by its text: a grade
    (0-4 or a name), or "ungradable". scores: what the five columns of scores are; None recognises it. decimal: the sign
    in numbers; separator: between the cells of a text; None recognises it.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    grades: Mapping[str, str] = field(default_factory=dict)
    scores: Scores | None = None
    decimal: Literal[".", ","] | None = None
    separator: str | None = None


PLAIN: Final = ColumnMap()
"""Nothing is stated."""

UNGRADABLE: Final = "ungradable"
"""What a cell of grades may mean instead of a grade."""


def columns_note(origin: str, columns: Mapping[str, str]) -> list[str]:
    """What columns were taken for, as one sentence for the report; none where each keeps its name."""
    parts = [f"{own} is {theirs}" for own, theirs in columns.items() if own != theirs]
    return [f"Columns were mapped in {origin}: {', '.join(parts)}."] if parts else []


def grades_note(column: str, origin: str, meaning: Mapping[str, str], rows: Mapping[str, int]) -> list[str]:
    """What cells of a column of grades were taken for, as one sentence for the report; none where no cell is mapped.

    rows: how many rows have each cell of `meaning`. A cell is shown where it is a number, a usual name of a grade, or
    empty: any other word may be a name.
    """
    parts = []
    for cell, word in meaning.items():
        if count := rows.get(cell, 0):
            shown = "another word" if cell else "an empty cell"
            if parse_grade(cell) is not None or re.fullmatch(r"-?\d{1,2}", cell):
                shown = cell
            grade = parse_grade(word)
            parts.append(f"{shown} is {UNGRADABLE if grade is None else grade} ({count} row{'s' if count > 1 else ''})")
    return [f"Cells of {column} were mapped in {origin}: {', '.join(parts)}."] if parts else []


def column_map(columns: str | None, scores: str | None = None) -> ColumnMap:
    """What --columns and --scores state together. Raises UsageError where they contradict each other."""
    found = PLAIN if columns is None else parse_mapping(columns)
    if scores is None:
        return found
    stated = next((one for one in get_args(Scores) if one == scores), None)
    if stated is None or found.scores not in (None, stated):
        raise UsageError(f"--scores {scores}: expected one of {', '.join(get_args(Scores))}, the same as in --columns.")
    return replace(found, scores=stated)


def parse_mapping(text: str) -> ColumnMap:
    """The mapping `own=theirs,...`, or the one in a YAML file.

    Raises UsageError for another form, unknown keys, and two mappings to or from one column.
    """
    path = Path(text)
    if "=" not in text and path.suffix.lower() in (".yaml", ".yml"):
        return _checked(
            plain_yaml(read_limited(path, limits.YAML_BYTES, _WHAT, UsageError), text, _WHAT, UsageError), text
        )
    pairs = [one.split("=", 1) for one in text.split(",")]
    if any(len(pair) != 2 or not all(part.strip() for part in pair) for pair in pairs):
        raise UsageError(
            f"--columns {text!r} is no mapping; expected own=theirs, such as grade=diagnosis,image=id_code."
        )
    names = [own.strip() for own, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"--columns maps two columns to {twice}; keep one.")
    return _checked({"columns": {own.strip(): theirs.strip() for own, theirs in pairs}}, "--columns")


def _checked(plain: object, origin: str) -> ColumnMap:
    known = {"columns", "grades", "scores", "decimal", "separator"}
    if not isinstance(plain, dict) or not plain.keys() <= known:
        raise UsageError(f"{origin} is not {_WHAT}.")
    columns, grades = plain.get("columns", {}), plain.get("grades", {})
    for table in (columns, grades):
        if not isinstance(table, dict) or not all(isinstance(one, str) for pair in table.items() for one in pair):
            raise UsageError(f"{origin} is not {_WHAT}: columns and grades are names by name.")
    theirs = list(columns.values())
    if twice := next((name for name in theirs if theirs.count(name) > 1), None):
        raise UsageError(f"{origin} maps the column {twice!r} twice; keep one.")
    if plain.get("scores", "probabilities") not in ("probabilities", "percent", "logits"):
        raise UsageError(f"{origin}: scores is probabilities, percent or logits.")
    if plain.get("decimal", ".") not in (".", ","):
        raise UsageError(f"{origin}: decimal is . or a comma.")
    if any(one != UNGRADABLE and parse_grade(one) is None for one in grades.values()):
        raise UsageError(f"{origin}: a value of grades is a grade (0-4 or a name) or {UNGRADABLE}.")
    if grades.get("", UNGRADABLE) != UNGRADABLE:
        raise UsageError(
            f"{origin}: an empty cell can only mean {UNGRADABLE}; if it means a grade, write that into it."
        )
    if "separator" in plain and not (isinstance(plain["separator"], str) and len(plain["separator"]) == 1):
        raise UsageError(f"{origin}: separator is one character.")
    return ColumnMap(columns, grades, plain.get("scores"), plain.get("decimal"), plain.get("separator"))
