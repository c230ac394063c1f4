"""Sides of an audit without files: rows of a table, and what was seen of each photograph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from drgate.audit.evidence import Examined, Photographs

GOOD = {"size": 800.0, "field": 1.0, "brightness": 120.0, "burnt": 0.0, "contrast": 6.0, "focus": 3.0}
"""Measures of a photograph that can be graded."""


def side(rows: Sequence[Mapping[str, Any]], seen: Sequence[Mapping[str, float] | str | None] = ()) -> Photographs:
    """rows: cells of each image by column. seen: its measures, why it cannot be read, or None; by default nothing."""
    names = [hashlib.sha256(b"%d" % i).hexdigest()[:8] for i in range(len(rows))]  # patients do not repeat them
    usual = {"gradable": True, "patient": None, "eye": None}
    given = [{"image": f"{name}.jpg", **usual, **row} for name, row in zip(names, rows, strict=True)]
    table = pd.DataFrame(given)
    table["grade"] = pd.array(table.get("grade", [None] * len(table)), dtype="Int8")
    for column in ("patient", "eye"):
        table[column] = pd.array(table[column], dtype="str")
    contents = tuple(hashlib.sha256(image.encode()).hexdigest() for image in table["image"])
    found = tuple(
        Examined(content, bytes(32), {}, dict(one)) if isinstance(one, Mapping) else one
        for content, one in zip(contents, seen or [None] * len(table), strict=True)
    )
    return Photographs(table, tuple(map(Path, table["image"])), contents, found)
