"""How the columns and cells of somebody's table are to be read: `--columns grade=diagnosis,image=id_code`, or YAML.

    mapping = parse_mapping("grade=diagnosis,image=id_code,p_0=prob_0")
    mapping.columns                          # {"grade": "diagnosis", "image": "id_code", "p_0": "prob_0"}

The same mapping serves predictions, manifests and files of grades. What was mapped is recorded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, get_args

from drgate import limits
from drgate.errors import UsageError, brief, unchained
from drgate.files import plain_yaml, read_limited
from drgate.scale import parse_grade

Scores = Literal["probabilities", "percent", "logits"]

_KEYS: Final = ("columns", "grades", "scores", "decimal", "separator")
_WHAT: Final = "a mapping of columns: columns, grades, scores, decimal, separator (docs/tables.md)"


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """columns: name in the table by drgate's own name. grades: what a cell of grades means, by its text: a grade
    (0-4 or a name), or "ungradable". scores: what the five columns of scores are; None recognises it. decimal: the sign
    in numbers; separator: between the cells of a text; None recognises it. shared: several tables are read with it, and
    each may lack a column that is mapped, if another has it (`require_used`).
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    grades: Mapping[str, str] = field(default_factory=dict)
    scores: Scores | None = None
    decimal: Literal[".", ","] | None = None
    separator: str | None = None
    shared: bool = False


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


def recorded(columns: ColumnMap) -> str:
    """A mapping as text that `parse_mapping` reads: equal mappings have equal texts, and no file is needed."""
    stated = {name: getattr(columns, name) for name in _KEYS}
    return json.dumps({name: value for name, value in stated.items() if value}, sort_keys=True)


def for_several(columns: ColumnMap) -> ColumnMap:
    """The mapping for several tables, each of which may lack a column that another has."""
    return replace(columns, shared=True) if columns != PLAIN else PLAIN


def require_used(columns: ColumnMap, unused: Mapping[str, Collection[str]]) -> None:
    """Raise UsageError for a column that is mapped and in none of the tables. unused: those that each table lacks."""
    for own, theirs in columns.columns.items():
        if all(own in lacking for lacking in unused.values()):
            raise UsageError(
                f"Neither {' nor '.join(unused)} has a column {brief(theirs)}, which --columns maps to {own}; give the "
                "name as it is written in the first line."
            )


@unchained()
def parse_mapping(text: str) -> ColumnMap:
    """The mapping `own=theirs,...`, or the one in a YAML file.

    The second form may also be given as text that begins with a brace, as `recorded` writes it.

    Raises UsageError for another form, unknown keys, and two mappings to or from one column.
    """
    if len(text) > limits.YAML_BYTES or not text.isprintable():
        raise UsageError(
            f"--columns is longer than {limits.YAML_BYTES >> 10} KB or has characters that do not print; expected "
            "own=theirs, such as grade=diagnosis,image=id_code, or a YAML file."
        )
    if text.startswith("{"):
        return _checked(plain_yaml(text.encode(), "--columns", _WHAT, UsageError), "--columns")
    path = Path(text)
    if "=" not in text and path.suffix.lower() in (".yaml", ".yml"):
        return _checked(
            plain_yaml(read_limited(path, limits.YAML_BYTES, _WHAT, UsageError), text, _WHAT, UsageError), text
        )
    pairs = [one.split("=", 1) for one in text.split(",")]
    if any(len(pair) != 2 or not all(part.strip() for part in pair) for pair in pairs):
        raise UsageError(
            f"--columns {brief(text)} is no mapping; expected own=theirs, such as grade=diagnosis,image=id_code."
        )
    names = [own.strip() for own, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"--columns maps two columns to {brief(twice)}; keep one.")
    return _checked({"columns": {own.strip(): theirs.strip() for own, theirs in pairs}}, "--columns")


def _names(table: object, origin: str) -> dict[str, str]:
    """Names by name, in which whole numbers need no quotes."""
    if not isinstance(table, dict) or not all(type(one) in (str, int) for pair in table.items() for one in pair):
        raise UsageError(f"{origin} is not {_WHAT}: columns and grades are names by name.")
    return {str(own): str(theirs) for own, theirs in table.items()}


def _checked(plain: object, origin: str) -> ColumnMap:
    if not isinstance(plain, dict) or not plain.keys() <= {*_KEYS}:
        raise UsageError(f"{origin} is not {_WHAT}.")
    columns, grades = _names(plain.get("columns", {}), origin), _names(plain.get("grades", {}), origin)
    theirs = list(columns.values())
    if twice := next((name for name in theirs if theirs.count(name) > 1), None):
        to = " and to ".join(own for own, their in columns.items() if their == twice)
        raise UsageError(f"{origin} maps one column to {to}; keep one.")
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
