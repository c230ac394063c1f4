"""What was worked out from photographs, kept between runs: prepared pixels for training, small records for an audit.

    cache = cache_folder(None)
    Records(cache, software(examined)).read(contents)       # by content: what was written of it
    SetFile.of(contents, preprocess, cache).read(note)      # the pixels of one list of photographs

Everything is keyed by the photograph's SHA-256 and by all that decides the result (preprocessing, libraries, drgate's
own code), so nothing is ever outdated and train, val, test, other subsets and the audit share it. A cache never fails a
run: what is missing or damaged is worked out again. A verdict never reads it: `drgate score` and `drgate evaluate` work
from the bytes whose SHA-256 they publish.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features

from drgate import __version__
from drgate.files import canonical_json, digest_of, replacing, sha256_file
from drgate.preprocessing import Preprocessing, reduced_copy
from drgate.vision.images import decode_image
from drgate.vision.perceptual import HASH, hash_of_reduced

MOST_BYTES: Final = 100 << 30
"""Of all prepared pixels. Beyond it those go that were not used for longest, but none of the last day."""
MOST_RECORDS: Final = 500_000
"""The oldest go beyond it."""

_RECENT: Final = 86_400
_ABANDONED: Final = 3600
"""Seconds without a write after which an unfinished file in the cache is removed."""
_FRONT: Final = 32 + 32 + 4
"""Bytes of a photograph before the pixels: SHA-256 of its file, hash, CRC-32 of its pixels."""

Note = Callable[[str], Any]


def cache_folder(setting: str | None) -> Path | None:
    """The setting, else $DRGATE_CACHE, else drgate/images in the user's cache folder ($XDG_CACHE_HOME or ~/.cache).

    None for the setting (or variable) `none`, and if the user has no home folder. The folder holds photographs of
    patients: protect and delete it like the data set. It takes about 0.6 MB per image of 448 pixels, at most
    `MOST_BYTES`, and can be deleted at any time when nothing is running.
    """
    setting = setting or os.environ.get("DRGATE_CACHE")
    if setting:
        return None if setting.lower() == "none" else Path(setting)
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:  # the XDG specification ignores a relative path
        return (given if given.is_absolute() else Path.home() / ".cache") / "drgate" / "images"
    except RuntimeError:
        return None


def software(*functions: Callable[..., Any]) -> dict[str, str]:
    """What decides pixels, hashes and the answers of these functions: versions, and the code of their modules."""
    own = (decode_image, reduced_copy, hash_of_reduced, *functions)
    files = sorted({str(sys.modules[function.__module__].__file__) for function in own})
    return {
        "drgate": __version__,
        "code": digest_of([sha256_file(Path(file)) for file in files]),
        "pillow": PIL.__version__,
        "libjpeg": str(features.version("libjpeg_turbo") or features.version("jpg")),
        "numpy": np.__version__,
    }


class Records:
    """A small JSON value of each photograph, in one SQLite file.

    version: everything else that decides the values. note: called with a sentence, once, where the file is damaged or
    cannot be used; then nothing is found and nothing kept.
    """

    def __init__(self, folder: Path, version: object, note: Note = lambda sentence: None) -> None:
        self._path = folder / "records.sqlite"
        self._version = digest_of(version)
        self._note: Note | None = note

    def read(self, contents: Sequence[str]) -> dict[str, Any]:
        """By content (SHA-256, hex), the values that are kept of these."""
        found: dict[str, Any] = {}

        def look(rows: sqlite3.Connection) -> None:
            for content in contents:
                query = "SELECT value, sum FROM record WHERE version = ? AND content = ?"
                for value, checked in rows.execute(query, (self._version, content)):
                    if self._sum(content, value) != checked:
                        raise sqlite3.DatabaseError
                    try:
                        found[content] = json.loads(value)
                    except (TypeError, ValueError, RecursionError) as error:
                        raise sqlite3.DatabaseError from error

        self._try(look)
        return found

    def write(self, values: Mapping[str, Any]) -> None:
        """Keep the value of each content."""
        texts = [(content, json.dumps(value)) for content, value in values.items()]
        lines = [(self._version, content, text, self._sum(content, text)) for content, text in texts]

        def keep(rows: sqlite3.Connection) -> None:
            rows.executemany("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?)", lines)
            rows.execute("DELETE FROM record WHERE rowid <= (SELECT max(rowid) FROM record) - ?", (MOST_RECORDS,))

        self._try(keep)

    def _sum(self, content: str, text: str) -> str:
        return hashlib.sha256(f"{self._version}\n{content}\n{text}".encode()).hexdigest()[:16]

    def _try(self, action: Callable[[sqlite3.Connection], None]) -> None:
        """One transaction; its failure is a note."""
        try:
            _make(self._path.parent)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            with contextlib.closing(sqlite3.connect(self._path, timeout=30)) as rows, rows:
                rows.execute(
                    "CREATE TABLE IF NOT EXISTS record"
                    " (version TEXT, content TEXT, value TEXT, sum TEXT, PRIMARY KEY (version, content))"
                )
                action(rows)
        except (OSError, sqlite3.OperationalError) as error:  # no folder, no room, locked for long
            reason = error.strerror if isinstance(error, OSError) else None
            self._say(f"The image cache {self._path.parent} cannot be used ({reason or error}).")
        except sqlite3.DatabaseError:  # not a database, or values that nobody wrote
            self._say(f"{self._path} in the image cache is damaged; it is removed and filled again.")
            for path in (self._path, self._path.with_name(f"{self._path.name}-journal")):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _say(self, sentence: str) -> None:
        if self._note is not None:
            self._note(sentence)
        self._note = None


@dataclass(frozen=True, slots=True, eq=False)
class SetPixels:
    """Prepared photographs of one file, in its order."""

    contents: list[str] = field(repr=False)
    pixels: NDArray[Any] = field(repr=False)
    """(n, size, size, 3), mapped and read-only."""
    hashes: list[bytes] = field(repr=False)
    sums: NDArray[np.uint32] = field(repr=False)

    def whole(self, index: int) -> bool:
        """Whether the pixels are those that were written."""
        return zlib.crc32(self.pixels[index].data) == int(self.sums[index])


@dataclass(frozen=True, slots=True)
class SetFile:
    """One list of prepared photographs: a header, then of each its SHA-256, hash and CRC-32, a checksum, the pixels.

    The file's name follows from the header, and the header from everything that decides the pixels. Its first part is
    the same for all lists that were prepared alike, from which photographs are copied.
    """

    path: Path
    header: bytes
    contents: list[str] = field(repr=False)
    size: int
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, contents: Sequence[str], preprocess: Preprocessing, folder: Path) -> SetFile:
        """contents: SHA-256 (hex) of each image file, in order."""
        alike = {"format": "drgate images 2", "preprocessing": preprocess.digest, "hash": HASH, **software()}
        listed = hashlib.sha256("\n".join(contents).encode()).hexdigest()
        header = canonical_json({**alike, "images": len(contents), "contents": listed}) + b"\n"
        name = f"{hashlib.sha256(canonical_json(alike)).hexdigest()[:16]}-{listed[:32]}.images"
        return cls(folder / name, header, list(contents), preprocess.size, pixel_type(preprocess))

    def read(self, note: Note) -> SetPixels | None:
        """None without a whole file. Every pixel is read once and compared with its checksum."""
        if not self.path.exists():
            return None
        found = self._opened(self.path)
        if found is None or found.contents != self.contents or not all(map(found.whole, range(len(self.contents)))):
            note(f"{self.path} in the image cache is damaged, so its images are decoded again.")
            return None
        with contextlib.suppress(OSError):  # used now
            os.utime(self.path)
        return found

    def others(self) -> dict[str, tuple[SetPixels, int]]:
        """Photographs of this list that any file has that was prepared alike: by content, the file and its position."""
        wanted, found = set(self.contents), {}
        for path in sorted(self.path.parent.glob(f"{self.path.name.split('-')[0]}-*.images")):
            if (one := self._opened(path)) is not None:
                found.update({content: (one, at) for at, content in enumerate(one.contents) if content in wanted})
        return found

    def write(self, images: Iterator[tuple[NDArray[Any], bytes]]) -> None:
        """Write into a temporary file, which is renamed when it is complete. images: pixels and hash of each.

        Raises OSError if the folder cannot be written or the disk is full.
        """
        _make(self.path.parent)
        n = len(self.contents)
        start = len(self.header) + n * _FRONT + 32
        self._make_room(start + n * self._each)
        hashes, sums = [], []
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            reserve(file, start + n * self._each)
            file.seek(start)
            for pixels, hashed in images:
                file.write(data := pixels.tobytes())
                hashes.append(hashed)
                sums.append(zlib.crc32(data))
            front = self.header + b"".join([*map(bytes.fromhex, self.contents), *hashes])
            front += np.asarray(sums, dtype="<u4").tobytes()
            file.seek(0)
            file.write(front + hashlib.sha256(front).digest())

    @property
    def _each(self) -> int:
        return self.size * self.size * 3 * self.dtype.itemsize

    def _opened(self, path: Path) -> SetPixels | None:
        """A file of this kind whose length and front are right."""
        try:
            with path.open("rb") as file:
                header = file.readline(4096)
                n = int(json.loads(header)["images"])
                start = len(header) + n * _FRONT + 32
                if os.fstat(file.fileno()).st_size != start + n * self._each:
                    return None
                front = header + file.read(start - len(header))
                if hashlib.sha256(front[:-32]).digest() != front[-32:]:
                    return None
                shape = (n, self.size, self.size, 3)
                pixels = np.memmap(file, self.dtype, mode="r", offset=start, shape=shape)
        except (OSError, ValueError, LookupError, TypeError):  # not readable, or not a file of this kind
            return None
        each = [front[at : at + 32] for at in range(len(header), len(header) + 64 * n, 32)]
        sums = np.frombuffer(front, dtype="<u4", count=n, offset=len(header) + 64 * n)
        return SetPixels([one.hex() for one in each[:n]], pixels, each[n:], sums)

    def _make_room(self, wanted: int) -> None:
        """Remove what was not used for longest, and unfinished files of processes that were killed."""
        now, files = time.time(), []
        for path in self.path.parent.glob("*.images*"):
            with contextlib.suppress(OSError):
                about = path.stat()
                if path.suffix == ".images":
                    files.append((about.st_mtime, about.st_size, path))
                elif now - about.st_mtime > _ABANDONED:
                    path.unlink()
        total = wanted + sum(size for _, size, _ in files)
        for used, size, path in sorted(files):
            if total <= MOST_BYTES or now - used < _RECENT:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size


def pixel_type(preprocess: Preprocessing) -> np.dtype[Any]:
    """Of prepared pixels."""
    return np.dtype(np.uint8 if preprocess.whole_levels else np.float32)


def reserve(file: IO[bytes], size: int) -> None:
    """Give a new file its size, so that a full disk is noticed now and not at a later write."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
