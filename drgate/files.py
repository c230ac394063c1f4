"""Reading and writing files: atomic writes, digests, strict JSON, tables as text."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from drgate.errors import DrgateError, UsageError

if TYPE_CHECKING:
    import pandas as pd

MAX_JSON_BYTES = 64 << 20
MAX_YAML_DEPTH: Final = 20
TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


@contextlib.contextmanager
def replacing(path: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path next to `path`. It is renamed to `path` if the block succeeds, and deleted otherwise.

    keep: new name of the file that is replaced, if there is one.

    A reader sees the old file or the complete new one, even after a crash, because the content is synced before the
    rename. With `keep`, a crash can leave only the old file, under that name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: a reader never sees a part of it."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def sha256_file(path: Path) -> str:
    """Lower-case hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextlib.contextmanager
def hashed(path: Path, error: type[DrgateError]) -> Iterator[str]:
    """Yield the SHA-256 of a file that the block reads; raise `error` where it is another one when the block ends.

    So what is named by its digest is what was read. A file that is not there is left to the block to refuse.
    """
    before = sha256_file(path) if path.is_file() else ""
    yield before
    if not path.is_file() or sha256_file(path) != before:
        raise error(f"{path} changed while it was read; wait until nothing writes it, and start again.")


def md5_file(path: Path) -> str:
    """Lower-case hex MD5 of a file's bytes. Only for matching DVC files: MD5 protects against no forgery."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def canonical_json(value: Any) -> bytes:
    """The canonical bytes of a JSON value: sorted keys, no white space, UTF-8, finite numbers only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """`sha256:...` over the canonical form of a JSON value."""
    return f"sha256:{hashlib.sha256(canonical_json(value)).hexdigest()}"


def parse_moment(text: str) -> datetime:
    """Parse a time in `TIME_FORMAT` (UTC); ValueError for any other form, such as a year of one digit."""
    moment = datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)
    if moment.strftime(TIME_FORMAT) != text:
        raise ValueError(f"the time {text!r} is not in the form 2026-01-31T09:00:00Z")
    return moment


def read_limited(path: Path, limit: int, what: str, error: type[DrgateError]) -> bytes:
    """The bytes of a file of at most `limit` bytes; a larger or unreadable one raises `error`."""
    try:
        with path.open("rb") as handle:
            data = handle.read(limit + 1)
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem.strerror}); expected {what}.") from problem
    if len(data) > limit:
        raise error(f"{path} is larger than {in_bytes(limit)}; expected {what}.")
    return data


def in_bytes(limit: int) -> str:
    """A limit in MB or KB, for messages."""
    return f"{limit >> 20} MB" if limit >= 1 << 20 else f"{limit >> 10} KB"


def read_json(path: Path, what: str, error: type[DrgateError]) -> Any:
    """Parse a JSON file; duplicate keys, NaN, excessive size and anything else that is not plain JSON raise `error`."""
    return parse_json(read_limited(path, MAX_JSON_BYTES, what, error), str(path), what, error)


def parse_json(data: bytes, origin: str, what: str, error: type[DrgateError]) -> Any:
    """Parse JSON bytes strictly: see `read_json`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise error(f"{origin} has the key {key!r} twice in one object; expected {what}.")
            found[key] = value
        return found

    def constant(text: str) -> Any:
        raise error(f"{origin} contains {text}, which is not valid JSON; expected {what}.")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as problem:
        where = f" (line {problem.lineno})" if isinstance(problem, json.JSONDecodeError) and data.strip() else ""
        raise error(f"{origin} is not valid JSON{where}; expected {what}.") from problem


def plain_yaml(data: bytes, origin: str, what: str, error: type[DrgateError]) -> Any:
    """Plain values in YAML bytes; anchors, merged keys and deep nesting, which grow without bound, raise `error`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent, ScalarEvent

    yaml = YAML(typ="safe", pure=True)
    depth = 0
    try:
        for event in yaml.parse(io.BytesIO(data)):
            if (isinstance(event, NodeEvent) and event.anchor is not None) or isinstance(event, AliasEvent):
                raise error(f"{origin} uses YAML anchors; expected {what} without them.")
            if isinstance(event, ScalarEvent) and event.value == "<<" and event.style is None:
                raise error(f"{origin} merges keys with <<; expected {what} without that.")
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > MAX_YAML_DEPTH:
                raise error(f"{origin} is nested more than {MAX_YAML_DEPTH} deep: that is not {what}.")
        return YAML(typ="safe", pure=True).load(io.BytesIO(data))
    except (YAMLError, ValueError, RecursionError) as problem:
        reason = " ".join(str(problem).split())
        raise error(f"{origin} is not valid YAML: {reason}") from problem


def read_table(path: Path, what: str, error: type[DrgateError]) -> pd.DataFrame:
    """A CSV (every cell as text, empty cells as NA) or Parquet file as a data frame; raises `error` on failure.

    Column names are stripped. Row i of the frame is line i + 2 of a CSV.
    """
    import pandas as pd  # a second to import, needed here only

    if not path.is_file():
        raise error(f"{path} does not exist; expected {what}.")
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(
                path,
                sep="\t" if path.suffix.lower() == ".tsv" else ",",
                dtype=str,
                keep_default_na=False,
                na_values=[""],
                encoding="utf-8-sig",
                skip_blank_lines=False,
                header=None,
            )
            # The header is applied here because pandas would rename the second of two equal names.
            table = table.iloc[1:].reset_index(drop=True).set_axis(table.iloc[0].fillna("").astype(str), axis=1)
    except pd.errors.EmptyDataError as problem:
        raise error(f"{path} is empty; expected {what}.") from problem
    except (ValueError, OSError) as problem:
        reason = " ".join(str(problem).split())
        raise error(f"{path} cannot be read as a table ({reason}); expected {what}.") from problem
    table.columns = pd.Index([str(column).strip() for column in table.columns])
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise error(f"{path} has two columns named {twice[0]!r}; keep one.")
    if table.empty:
        raise error(f"{path} has no rows; expected {what}.")
    return table


def row_name(path: Path | str, index: int) -> str:
    """Name row `index` (0-based) of a table for a person: its line in a CSV, its row number in Parquet."""
    if str(path).lower().endswith((".parquet", ".pq")):
        return f"{path}, row {index + 1}"
    return f"{path}, line {index + 2}"


def refuse_existing(path: Path, remedy: str) -> None:
    """Raise UsageError if `path` exists, so that nothing is overwritten silently. remedy: what the user can do."""
    if path.exists():
        raise UsageError(f"{path} exists already; {remedy}.")
