"""A chain of lines, each of which names the digest of the one before: nothing in it can be changed, cut or moved.

    for entry in read_chain(Path("looks.jsonl").read_bytes(), "looks.jsonl"):
        entry["kind"], entry["digest"]

What the lines of a chain of looks hold, `drgate.looks` says. Light: no NumPy is imported.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from drgate.errors import UsageError
from drgate.files import canonical_json


def read_chain(data: bytes, origin: str) -> list[dict[str, Any]]:
    """The lines of a chain, first to last, each with its `digest`; `origin` names the file in messages.

    Raises UsageError, naming the line, where a line is not what its digest says or does not follow from the one before,
    and where there is none.
    """
    entries: list[dict[str, Any]] = []
    previous = ""
    for i, line in enumerate(data.splitlines() or [b""]):
        try:
            entry = json.loads(line)
            digest = entry.pop("digest")
            if entry["previous"] != previous or digest != line_digest(entry) or (entry["kind"] == "chain") != (i == 0):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
            raise broken(origin, i) from problem
        entries.append({**entry, "digest": digest})
        previous = digest
    return entries


def line_digest(entry: dict[str, Any]) -> str:
    """`sha256:...` of a line's content, its own digest left out."""
    return f"sha256:{hashlib.sha256(canonical_json(entry)).hexdigest()}"


def broken(origin: str, line: int) -> UsageError:
    """What is said of line `line` (0-based) of a chain that does not hold."""
    return UsageError(
        f"{origin}, line {line + 1}: the chain of looks is broken; restore the file from version control."
    )
