"""Reading and writing files: atomic writes, digests, strict JSON, TOML and YAML."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import itertools
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from drgate import limits
from drgate.content import named
from drgate.errors import DrgateError, UsageError

TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
_PARQUET: Final = (".parquet", ".pq")
_JSON_LINES: Final = (".jsonl", ".ndjson")
_LONG_KEY: Final = re.compile(
    rf"""(?<![\w-])(?:(?:"[^"\n]*"|'[^'\n]*'|[\w-]++)[ \t]*+\.[ \t]*+){{{limits.TOML_KEY_PARTS}}}"""
)
_OTHER_NUMBER: Final = re.compile(r"[-+]?(0[box][\w]*|\d[\d_]*_[\d_]*)", re.I)


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
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) and problem.filename is None:
            problem.filename = str(path)  # of a file that is full, Python does not say which
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: a reader never sees a part of it."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_private(folder: Path, name: str, data: bytes, *, ignored: bytes = b"") -> None:
    """Write a new file that its owner alone can read from the start, and that Git leaves out.

    ignored: the lines that the folder's .gitignore already has.
    """
    keep_out_of_git(folder, name, ignored=ignored)
    descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(data)


def keep_out_of_git(folder: Path, *names: str, ignored: bytes) -> None:
    """Write the folder's .gitignore: the lines that it already has (`ignored`), then these names."""
    lines = [line for line in ignored.decode("utf-8", "surrogateescape").splitlines() if line not in names]
    write_atomically(folder / ".gitignore", "\n".join([*lines, *names, ""]).encode("utf-8", "surrogateescape"))


def ignored_in(folder: Path) -> bytes:
    """The content of a folder's .gitignore; empty without one."""
    path = folder / ".gitignore"
    if not path.is_file():
        return b""
    return read_limited(path, limits.LIST_BYTES, "Git's list of ignored files", UsageError)


def as_csv(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as a CSV file in UTF-8."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def remove(folder: Path, owner: int) -> None:
    """Delete a private folder, in the process that made it."""
    if os.getpid() == owner:  # a forked worker does not end the folder of all
        shutil.rmtree(folder, ignore_errors=True)


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


def refuse_pipe(path: Path, what: str, error: type[DrgateError]) -> None:
    """Raise `error` for a pipe or a socket, which never ends for a reader; those that a shell makes are read."""
    with contextlib.suppress(OSError, ValueError):
        mode = path.stat().st_mode
        if (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) and not path.is_relative_to("/dev"):
            raise error(f"{path} is a pipe or a socket; expected {what} in a file.")


def read_beginning(path: Path, length: int, what: str, error: type[DrgateError]) -> bytes:
    """The first `length` bytes of a file, fewer if it is shorter; an unreadable one raises `error`."""
    try:
        refuse_pipe(path, what, error)
        with path.open("rb") as handle:
            return handle.read(length)
    except OSError as problem:
        if path.is_dir():
            raise error(f"{path} is a folder; expected {what}.") from problem
        raise error(f"{path} cannot be read ({problem.strerror}); expected {what}.") from problem


def read_limited(path: Path, limit: int, what: str, error: type[DrgateError]) -> bytes:
    """The bytes of a file of at most `limit` bytes; a larger or unreadable one raises `error`."""
    data = read_beginning(path, limit + 1, what, error)
    if len(data) > limit:
        refuse_content(data, str(path), what, error)
        raise error(f"{path} is larger than {in_bytes(limit)}; expected {what}.")
    return data


def refuse_content(data: bytes, origin: str, what: str, error: type[DrgateError]) -> None:
    """Raise `error` where bytes begin like a file of a known kind, which is named: a JPEG photograph, a zip archive.

    Called where they could not be read as `what`.
    """
    if name := named(data):
        raise error(f"{origin} is {name}; expected {what}.")


def in_bytes(limit: int) -> str:
    """A limit in MB or KB, for messages."""
    return f"{limit >> 20} MB" if limit >= 1 << 20 else f"{limit >> 10} KB"


def read_json(path: Path, what: str, error: type[DrgateError]) -> Any:
    """Parse a JSON file; duplicate keys, NaN, excessive size and anything else that is not plain JSON raise `error`."""
    return parse_json(read_limited(path, limits.JSON_BYTES, what, error), str(path), what, error)


def parse_json(data: bytes, origin: str, what: str, error: type[DrgateError]) -> Any:
    """Parse JSON bytes strictly: see `read_json`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise error(f"{origin} has a key twice in one object; expected {what}.")
            found[key] = value
        return found

    def constant(text: str) -> Any:
        raise error(f"{origin} contains {text}, which is not valid JSON; expected {what}.")

    if sum(map(data.count, (b",", b"[", b"{"))) > limits.JSON_VALUES:
        raise error(f"{origin} holds more than {limits.JSON_VALUES} values; expected {what}.")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
        if b"\\u" in data:
            canonical_json(value)  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as problem:
        refuse_content(data, origin, what, error)
        where = f" (line {problem.lineno})" if isinstance(problem, json.JSONDecodeError) and data.strip() else ""
        raise error(f"{origin} is not valid JSON{where}; expected {what}.") from problem
    return _plain(value, origin, what, error)


def parse_toml(data: bytes, origin: str, what: str, error: type[DrgateError]) -> dict[str, Any]:
    """Parse TOML bytes; keys with very many dots, which take long, and anything that is not TOML raise `error`."""
    import tomllib

    try:
        text = data.decode()
        if _LONG_KEY.search(text):
            raise error(f"{origin} has a key of more than {limits.TOML_KEY_PARTS} parts; expected {what}.")
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as problem:
        refuse_content(data, origin, what, error)
        raise error(f"{origin} is not valid TOML ({problem}); expected {what}.") from problem
    _plain(content, origin, what, error)
    return content


def read_yaml(path: Path, what: str, error: type[DrgateError]) -> Any:
    """Plain values in a YAML file: see `plain_yaml`."""
    return plain_yaml(read_limited(path, limits.YAML_BYTES, what, error), str(path), what, error)


def plain_yaml(data: bytes, origin: str, what: str, error: type[DrgateError]) -> Any:
    """Plain values in the bytes of one YAML 1.2 document.

    Anchors, merged keys and deep nesting, which grow without bound, raise `error`; so do tags and other forms of a
    whole number than decimal digits, which a person reads as another value.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.events import (
        AliasEvent,
        CollectionEndEvent,
        CollectionStartEvent,
        NodeEvent,
        ScalarEvent,
    )

    if len(data) > limits.YAML_BYTES:
        raise error(f"{origin} is larger than {in_bytes(limits.YAML_BYTES)}; expected {what}.")
    if re.search(rb"^%", data, re.M):  # %YAML 1.1 makes 8 of 010
        refuse_content(data, origin, what, error)
        raise error(f"{origin} has a line that begins with %; expected {what} in YAML 1.2, without directives.")
    depth = 0

    def checked() -> Any:
        nonlocal depth
        event = take()
        if (isinstance(event, NodeEvent) and event.anchor is not None) or isinstance(event, AliasEvent):
            raise error(f"{origin} uses YAML anchors; expected {what} without them.")
        if isinstance(event, ScalarEvent) and event.style is None:
            if event.value == "<<":
                raise error(f"{origin} merges keys with <<; expected {what} without that.")
            if _OTHER_NUMBER.fullmatch(event.value):
                raise error(f"{origin}, line {event.start_mark.line + 1}: write the number in decimal digits alone.")
        if getattr(event, "tag", None) is not None:
            raise error(f"{origin} uses a YAML tag; expected {what} without tags.")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > limits.DEPTH:
            raise error(f"{origin} is nested more than {limits.DEPTH} deep: that is not {what}.")
        return event

    try:
        constructor, parser = YAML(typ="safe", pure=True).get_constructor_parser(io.BytesIO(data))
        take, parser.get_event = parser.get_event, checked
        value = constructor.get_single_data()
    except DrgateError:
        raise
    except Exception as problem:  # of what is no YAML, ruamel.yaml raises more than its own errors
        refuse_content(data, origin, what, error)
        mark, said = getattr(problem, "problem_mark", None), getattr(problem, "problem", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        # ruamel.yaml puts keys and values into quotes, characters too.
        reason = re.sub(r"""(["']).{2,}\1.*""", "...", " ".join((said or "").split()), flags=re.S) or "it has no form"
        raise error(f"{origin} is not valid YAML: {reason}{where}; expected {what}.") from None
    return _plain(value, origin, what, error)


def _plain(value: Any, origin: str, what: str, error: type[DrgateError]) -> Any:
    """The value, if it is not nested too deep and its numbers are finite and fit into 64 bits; else raise `error`."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > limits.DEPTH:
            raise error(f"{origin} is nested more than {limits.DEPTH} deep: that is not {what}.")
        below: list[Any] = []
        for one in level:
            if isinstance(one, Mapping):
                below += one.values()
            elif isinstance(one, list):
                below += one
            elif isinstance(one, int) and one.bit_length() > limits.INTEGER_BITS:
                raise error(f"{origin} has a whole number of more than {limits.INTEGER_BITS} bits; expected {what}.")
            elif isinstance(one, float) and math.isinf(one):
                raise error(f"{origin} has a number that is too large; expected {what}.")
        level = below
    return value


def read_lines(path: Path, limit: int, what: str, error: type[DrgateError]) -> list[bytes]:
    """The lines of a file of at most `limit` bytes, without what a crash cut off after the last newline."""
    data = read_limited(path, limit, what, error)
    if data.count(b"\n") > limits.LINES:
        raise error(f"{path} has more than {limits.LINES} lines; expected {what}.")
    return data.split(b"\n")[:-1]


def entries(folder: Path, error: type[DrgateError], *, limit: int = limits.FILES) -> list[Path]:
    """What is in a folder, sorted; nothing where there is no such folder. More than `limit` raise `error`."""
    if not folder.is_dir():
        return []
    found = list(itertools.islice(folder.iterdir(), limit + 1))
    if len(found) > limit:
        raise error(f"{folder} holds more than {limit} files; name a smaller folder.")
    return sorted(found)


def files_below(
    folder: Path, error: type[DrgateError], *, limit: int = limits.FILES, hidden: bool = True
) -> Iterator[Path]:
    """The files in a folder and below it, in no order; links to folders are not followed.

    hidden: whether names that begin with a dot count. More than `limit` entries raise `error`; a folder that cannot be
    read has none.
    """
    seen = 0
    for place, folders, names in os.walk(folder):
        seen += len(folders) + len(names)
        if seen > limit:
            raise error(f"{folder} holds more than {limit} files; name a smaller folder.")
        folders[:] = [one for one in folders if hidden or not one.startswith(".")]
        yield from (Path(place, name) for name in names if hidden or not name.startswith("."))


def is_parquet(path: Path) -> bool:
    """Whether a table is Parquet, by its name."""
    return path.name.lower().endswith(_PARQUET)


def csv_header(data: bytes) -> list[str]:
    """The cells of the first line of a CSV; none where that is not a row."""
    line = data[: limits.ROW].partition(b"\n")[0].decode("utf-8-sig", errors="replace")
    try:
        return [cell.strip() for cell in next(csv.reader([line]), [])]
    except csv.Error:
        return []


def row_name(path: Path | str, index: int) -> str:
    """Name row `index` (0-based) of a table for a person: its line in a text, its row number elsewhere."""
    suffix = Path(path).suffix.lower()
    if suffix in (*_PARQUET, ".json"):
        return f"{path}, row {index + 1}"
    if suffix in _JSON_LINES:
        return f"{path}, line {index + 1}"
    return f"{path}, {'row' if suffix == '.xlsx' else 'line'} {index + 2}"


def refuse_no_place(path: Path | None, option: str) -> None:
    """Raise UsageError where a file or folder is to be made, and nothing can be written above it, or into the folder
    that it is."""
    if path is None or path.is_file():
        return
    place = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise UsageError(f"{option} is {path}, but nothing can be written in {place}; choose another place.")


def refuse_existing(path: Path, remedy: str) -> None:
    """Raise UsageError if `path` exists, so that nothing is overwritten silently. remedy: what the user can do."""
    if path.exists():
        raise UsageError(f"{path} exists already; {remedy}.")
