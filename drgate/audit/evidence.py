"""What an audit looks at: the photographs of the test set and of training, and what the model says of its training.

    test = photographs(load_manifest("data").select("test"), workers=2)
    evidence = Evidence(test, photographs(load_manifest("data").select("train"), workers=2))

Each file is read and decoded once, in worker processes; what is kept of it is a few hundred bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drgate.audit.properties import ACQUISITION, CONTENT, properties
from drgate.audit.views import VIEWS, views
from drgate.errors import ImageUnreadable
from drgate.gradability import MOST, measures
from drgate.preprocessing import reduced_copy
from drgate.vision.cache import Records, software
from drgate.vision.decoding import in_processes, usable_cores
from drgate.vision.images import decode_image
from drgate.vision.perceptual import HASHED_AT, hash_of_reduced
from drgate.vision.prepared import content_of

if TYPE_CHECKING:
    import pandas as pd

    from drgate.manifest import Manifest
    from drgate.patients import PatientKey
    from drgate.predictions import Predictions
    from drgate.vision.fingerprint import Fingerprint

IMAGE_BYTES: Final = 32
SMALLEST: Final = 90
"""Pixels of a field of view's shorter side. Of 700 EyePACS photographs of as many patients, at 96 pixels the most
alike pair had a correlation of .50, at 64 pixels .72, at 48 pixels .75; from .60 on two photographs are called one."""
KEPT_AT: Final = 256
"""Photographs after which what was seen of them is written to the cache."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What is kept of one photograph."""

    digest: str
    """SHA-256 (hex) of the file's bytes."""
    hashed: bytes
    """`drgate.vision.perceptual.perceptual_hash`: 32 bytes."""
    properties: dict[str, float | str]
    """`drgate.audit.properties.properties`."""
    measures: dict[str, float]
    """`drgate.gradability.measures`."""
    views: bytes = b""
    """`drgate.audit.views.views`: further hashes."""

    def record(self) -> list[Any]:
        """As JSON, without the digest, for a cache of this `examined_by`."""
        return [self.hashed.hex(), self.properties, self.measures, self.views.hex()]

    @classmethod
    def of(cls, digest: str, record: Any) -> Examined | None:
        """What `record` was made of; None for a value that nothing here wrote."""
        try:
            hashed, properties, measures, views = record
            found = cls(digest, bytes.fromhex(hashed), dict(properties), dict(measures), bytes.fromhex(views))
        except (TypeError, ValueError):
            return None
        whole = (
            (len(found.hashed), len(found.views)) == (IMAGE_BYTES, VIEWS * IMAGE_BYTES)
            and set(found.properties) <= {*ACQUISITION, *CONTENT}
            and set(found.measures) == set(MOST)
            and all(type(value) in (int, float, str) for value in found.properties.values())
            and all(type(value) in (int, float) for value in found.measures.values())
        )
        return found if whole else None


def examined(data: bytes, image: Image.Image, reduced: tuple[Image.Image, tuple[int, int, int, int]]) -> Examined:
    """Of a photograph that was decoded already. data: the file's bytes. reduced: `reduced_copy(image)`."""
    return Examined(
        hashlib.sha256(data).hexdigest(),
        hash_of_reduced(*reduced),
        properties(data, image),
        measures(image, *reduced),
        views(*reduced),
    )


def examined_by() -> dict[str, str]:
    """All that decides an `Examined` but the photograph."""
    return software(properties, measures, views, examined)


def examine(of: tuple[Path, str]) -> Examined | str:
    """One file that had this SHA-256 (hex); a sentence where it is no readable photograph.

    Raises ManifestError where it has changed since.
    """
    path, content = of
    try:
        data, _ = content_of(path, content)
        image = decode_image(data, path, HASHED_AT)
    except ImageUnreadable as problem:
        return str(problem)
    return examined(data, image, reduced_copy(image))


@dataclass(frozen=True, slots=True, eq=False)
class Photographs:
    """One side of a comparison, of one manifest or of several.

    table: the manifests' rows, with `set` (int), which manifest a row is of; paths, seen: of each row. `seen` is None
    where no file was read, and a sentence where one is not readable.
    """

    table: pd.DataFrame = field(repr=False)
    paths: tuple[Path, ...] = field(repr=False)
    contents: tuple[str, ...] = field(repr=False)
    """SHA-256 (hex) of each file; empty where files were not read."""
    seen: tuple[Examined | str | None, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def names(self) -> list[str]:
        """As published: the first 16 hex digits of the content's digest, `row-N` without one."""
        return [content[:16] or f"row-{row + 1}" for row, content in enumerate(self.contents)]

    @property
    def readable(self) -> NDArray[np.int64]:
        """Positions of the photographs that were examined."""
        return np.asarray([i for i, one in enumerate(self.seen) if isinstance(one, Examined)], dtype=np.int64)

    def unread(self, side: str) -> str:
        """How many of the side have no pixels to compare, as a sentence; empty where all were examined."""
        if many := sum(one is None for one in self.seen):
            return f"Of the {side}, {many} {'photograph was' if many == 1 else 'photographs were'} not opened."
        if many := len(self) - len(self.readable):
            return f"{many} {'photograph' if many == 1 else 'photographs'} of the {side} cannot be read."
        return ""

    @property
    def small(self) -> NDArray[np.bool_]:
        """Of each of `readable`, whether its field of view has too few pixels to tell two eyes apart."""
        sizes = [one.measures["size"] for one in self.seen if isinstance(one, Examined)]
        return np.asarray(sizes, dtype=np.float64) < SMALLEST

    def too_small(self, side: str) -> str:
        """How many of the side are too small to be compared by pixels, as a sentence; empty where none is."""
        if not (many := int(self.small.sum())):
            return ""
        return (
            f"{many} {'photograph' if many == 1 else 'photographs'} of the {side} show the retina on fewer than "
            f"{SMALLEST} pixels, too few to tell two eyes apart."
        )

    @property
    def hashes(self) -> NDArray[np.uint8]:
        """(len(readable), 32), in the order of `readable`."""
        together = b"".join(one.hashed for one in self.seen if isinstance(one, Examined))
        return np.frombuffer(together, dtype=np.uint8).reshape(-1, IMAGE_BYTES)

    @property
    def views(self) -> NDArray[np.uint8]:
        """(len(readable), VIEWS, 32), in the order of `readable`."""
        together = b"".join(one.views for one in self.seen if isinstance(one, Examined))
        return np.frombuffer(together, dtype=np.uint8).reshape(-1, VIEWS, IMAGE_BYTES)

    def file(self, row: int) -> tuple[Path, str]:
        """What `picture_of` reads."""
        return self.paths[row], self.contents[row]


def picture_of(file: tuple[Path, str], at_least: int | None = HASHED_AT) -> Image.Image:
    """The upright RGB photograph, as it was examined, or (None) in full. file: path and SHA-256 (hex).

    Raises ManifestError where the file has changed.
    """
    path, content = file
    return decode_image(content_of(path, content)[0], path, at_least)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """All that is at hand.

    train: every photograph of training at hand (train and validation); None without any. fingerprint: of the model.
    unknown_data: why the fingerprint may not cover all training images; empty if it does. model: whether there is one.
    declared: the caller states that `train` is all that a model without a fingerprint was trained on. pretraining: what
    the base's makers declare. key: compares patients by their keyed hashes. predictions: of the test set, with its
    grades; only after a look. mix: the checklist's deployment mix, a share for each grade. sides: what the reasons call
    `test` and `train`.
    """

    test: Photographs
    train: Photographs | None = None
    model: bool = False
    fingerprint: Fingerprint | None = None
    unknown_data: str = ""
    declared: bool = False
    pretraining: str = ""
    key: PatientKey | None = None
    predictions: Predictions | None = None
    mix: Sequence[float] | None = None
    sides: tuple[str, str] = ("test set", "training set")


def photographs(
    *manifests: Manifest,
    workers: int | None = None,
    files: bool = True,
    cache: Path | None = None,
    advance: Callable[[int], Any] = lambda images: None,
    note: Callable[[str], Any] = lambda sentence: None,
) -> Photographs:
    """Examine each file of the manifests once. files: False reads no picture, only rows and, where there are files,
    their digests. cache: the folder (`drgate.vision.cache.cache_folder`) where what was seen of a content is looked up,
    and kept; None for a verdict, which looks at the bytes that it scores. advance: called with the number of images
    that were examined. note: called with a sentence where the cache cannot be used.

    Raises ManifestError where a file changes between its digest and its examination.
    """
    import pandas as pd

    tables, paths, contents = [], [], []
    for number, manifest in enumerate(manifests):
        tables.append(manifest.table.assign(set=number))
        paths += [manifest.path(image) for image in manifest.table["image"]]
        contents += _contents(manifest, files)
    seen: list[Examined | str | None] = [None] * len(paths)
    if files:
        records = None if cache is None else Records(cache, examined_by(), note)
        if records is not None:
            kept = records.read(contents)
            seen = [Examined.of(content, kept.get(content)) for content in contents]
        advance(len(paths) - seen.count(None))
        rows = [row for row, one in enumerate(seen) if one is None]
        fresh: dict[str, Any] = {}
        examining = in_processes(
            examine,
            [(paths[row], contents[row]) for row in rows],
            workers=usable_cores() if workers is None else workers,
        )
        for done, (row, one) in enumerate(zip(rows, examining, strict=True), start=1):
            if isinstance(one, Examined):
                fresh[one.digest] = one.record()
            seen[row] = one
            advance(1)
            if records is not None and (len(fresh) >= KEPT_AT or done == len(rows)):
                records.write(fresh)
                fresh.clear()
    return Photographs(pd.concat(tables, ignore_index=True), tuple(paths), tuple(contents), tuple(seen))


def _contents(manifest: Manifest, files: bool) -> list[str]:
    """The SHA-256 (hex) of each file; without the file, the one that the manifest states, else nothing."""
    if files:
        return list(manifest.content_digests().values())
    there = [manifest.path(image).is_file() for image in manifest.table["image"]]
    found = replace(manifest, table=manifest.table[there]).content_digests()
    stated = [""] * len(manifest)
    if "sha256" in manifest.table.columns:
        cells = manifest.table["sha256"].fillna("").str.strip().str.lower()
        stated = cells.where(cells.str.fullmatch("[0-9a-f]{64}"), "").tolist()
    return [found.get(image, content) for image, content in zip(manifest.table["image"], stated, strict=True)]
