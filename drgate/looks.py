"""How often a test set has been looked at: a hash-chained file, one line a new pair of test set and model.

    look = take_look(Path("looks.jsonl"), test_set=manifest.images_digest(), model=tensor_digest, ...)
    look.number, look.time

The chain belongs to the images: its key is a digest of their contents. The same model on the same images keeps its
number and its time, so that repeating an evaluation costs nothing and gives the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from drgate.errors import UsageError
from drgate.files import canonical_json, write_atomically

PATIENCE: Final = 30.0
"""Seconds that a command waits for another to finish its line."""


@dataclass(frozen=True, slots=True)
class Look:
    """The place of one model in the chain of a test set.

    number: from 1. allowed: how many looks were declared before the first. time: ISO 8601 in UTC.
    """

    number: int
    allowed: int
    time: str


def take_look(path: Path, *, test_set: str, model: str, predictions: str, spec: str, allowed: int) -> Look:
    """The look of this model at this test set, appended to the chain when it is new.

    allowed: how many looks the checklist declares; what was declared at the first look holds for all later ones.

    Raises UsageError when the file is not an unbroken chain: looks are evidence, and a damaged count counts nothing.
    """
    with _locked(path):
        lines = path.read_bytes().splitlines() if path.exists() else []
        entries = _checked(lines, path)
        earlier = [entry for entry in entries if entry["test_set"] == test_set]
        if earlier:
            allowed = earlier[0]["allowed"]
        for entry in earlier:
            if entry["model"] == model:
                return Look(entry["look"], allowed, entry["time"])
        number = 1 + len(earlier)
        now = _now()
        entry = {
            "look": number,
            "allowed": allowed,
            "time": now,
            "test_set": test_set,
            "model": model,
            "predictions": predictions,
            "spec": spec,
            "previous": _link(lines[-1]) if lines else "",
        }
        write_atomically(path, b"".join(line + b"\n" for line in [*lines, canonical_json(entry)]))
    return Look(number, allowed, now)


def _checked(lines: list[bytes], path: Path) -> list[dict[str, Any]]:
    entries = []
    previous = ""
    for i, line in enumerate(lines):
        try:
            entry = json.loads(line)
            sound = (
                entry["previous"] == previous
                and all(type(entry[key]) is int and entry[key] > 0 for key in ("look", "allowed"))
                and all(type(entry[key]) is str for key in ("time", "test_set", "model"))
            )
        except (ValueError, TypeError, KeyError):
            sound = False
        if not sound:
            raise UsageError(
                f"{path}, line {i + 1}: the chain of looks is broken; restore the file from version control."
            )
        entries.append(entry)
        previous = _link(line)
    return entries


def _link(line: bytes) -> str:
    return f"sha256:{hashlib.sha256(line).hexdigest()}"


def _now() -> str:
    """UTC to the second; SOURCE_DATE_EPOCH stands in for the clock where it is set."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.fromtimestamp(int(given), UTC) if given else datetime.now(UTC)
    except (ValueError, OverflowError, OSError) as problem:
        raise UsageError(f"SOURCE_DATE_EPOCH is {given!r}; expected seconds since 1970.") from problem
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, by a lock file that only its owner removes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.lock")
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            if time.monotonic() > deadline:
                raise UsageError(f"{lock} is held by another command; if none runs, remove it.") from None
            time.sleep(0.1)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
