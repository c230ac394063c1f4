"""A chain of looks: each line holds the digest of the line before, so no line can be changed, removed or moved.

    for entry in read_chain(Path("looks.jsonl").read_bytes(), "looks.jsonl"):
        entry["kind"], entry["digest"]

`drgate.looks` defines the contents of the lines. Light: NumPy is not imported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from drgate.errors import UsageError
from drgate.files import digest_of

if TYPE_CHECKING:
    from drgate.evaluation import Evaluation


def read_chain(data: bytes, origin: str) -> list[dict[str, Any]]:
    """The lines of a chain, first to last, each with its `digest`; `origin` names the file in messages.

    Raises UsageError, naming the line, where a line does not match its digest or the line before, and for an empty
    file.
    """
    entries: list[dict[str, Any]] = []
    previous = ""
    for i, line in enumerate(data.splitlines() or [b""]):
        try:
            entry = json.loads(line)
            digest = entry.pop("digest")
            if entry["previous"] != previous or digest != digest_of(entry) or (entry["kind"] == "chain") != (i == 0):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
            raise broken(origin, i) from problem
        entries.append({**entry, "digest": digest})
        previous = digest
    return entries


def logged_look(
    evaluation: Evaluation, entries: Sequence[dict[str, Any]]
) -> tuple[dict[str, Any] | None, list[str], list[dict[str, Any]]]:
    """The line that an evaluation names as its look, how it differs, and later looks of the same model.

    The line is None where the chain does not have it. Later looks are those at the same images, with any cut-offs.
    """
    look = evaluation.look
    at = next((i for i, entry in enumerate(entries) if entry["digest"] == look.get("line")), None)
    if at is None:
        return None, [], []
    entry, own = entries[at], evaluation.model.get("parent", evaluation.model).get("tensor_digest")
    judged = own or evaluation.data["predictions_digest"]
    if point := evaluation.data.get("operating_point"):
        judged = f"{judged} at {point['digest']}"
    expected = {
        "kind": "look",
        "look": look["number"],
        "allowed": look["allowed"],
        "time": look["time"],
        "model": judged,
        "overlapping": look.get("overlapping", []),
        "favouring": look.get("favouring", []),
        "regraded_count": look.get("regraded_count", 0),
    }
    different = [
        f"says {key} {entry.get(key)!r:.100}, not {value!r:.100}"
        for key, value in expected.items()
        if entry.get(key) != value
    ]
    alike = [
        i for i, one in enumerate(entries) if one["kind"] == "look" and one.get("test_set") == entry.get("test_set")
    ]
    earlier = sum(i < at for i in alike)
    if look["number"] <= earlier:
        different.append(f"says look {look['number']}, after {earlier} others at the same images")
    later = [entries[i] for i in alike if i > at and str(entries[i].get("model")).partition(" at ")[0] == own]
    return entry, different, later


def broken(origin: str, line: int) -> UsageError:
    """The error for line `line` (0-based) of a broken chain."""
    return UsageError(
        f"{origin}, line {line + 1}: the chain of looks is broken; restore the file from version control."
    )
