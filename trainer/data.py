"""Images and grades for training: the usable rows, and their pixels, decoded once by worker processes.

Each image is decoded and prepared once, before augmentation. With a cache, later runs and other processes of the same
run read the prepared images. Workers import this module, so it imports nothing heavy.

    cache = cache_folder(None)
    training = read_images(splits.train, preprocess, workers=2, cache=cache, folder=run_folder)
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
import PIL
from numpy.typing import NDArray

from drgate.errors import TrainingError
from drgate.files import canonical_json, replacing
from drgate.preprocessing import Preprocessing
from drgate.scale import GRADES, TITLES
from drgate.vision.decoding import in_processes
from drgate.vision.perceptual import HASH
from drgate.vision.prepared import prepare_image

if TYPE_CHECKING:
    from drgate.manifest import Manifest

_IN_MEMORY: Final = 8 << 30
"""Prepared images up to this many bytes are kept in memory, more in an unnamed file in the run's folder."""

_ABANDONED: Final = 3600
"""Seconds without a write after which an unfinished file in the cache is removed."""


@dataclass(frozen=True, slots=True)
class Splits:
    """The rows for training and validation; every one has a grade."""

    train: Manifest
    val: Manifest
    dataset_digest: str
    dealt_by_seed: int | None
    """Seed of the splits of a data set without its own; `drgate evaluate` repeats the same splits."""
    notes: list[str]
    """What was left out or assumed, in sentences."""
    test: Manifest | None = None
    """The locked rows; None without a test split here."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Prepared images in the order of a manifest's rows."""

    pixels: NDArray[Any] = field(repr=False)
    """(n, size, size, 3), 0 to 255: uint8, or float32 where the preprocessing does not round."""
    grades: NDArray[np.int64] = field(repr=False)
    """(n,), 0-4"""
    hashes: list[bytes] = field(repr=False)
    """`drgate.vision.perceptual.perceptual_hash` of each."""
    preprocess: Preprocessing
    """How the pixels were prepared, and how they become network input."""

    def __len__(self) -> int:
        return len(self.grades)

    def counts(self) -> dict[str, int]:
        """Images by grade identifier."""
        return {grade: int((self.grades == index).sum()) for index, grade in enumerate(GRADES)}


def load_splits(dataset: str, *, seed: int, columns: str | None = None) -> Splits:
    """The training and validation rows of a data set, split by patient where it has no splits. columns: as `--columns`.

    Raises:
        ManifestError: the data set is not usable.
        TrainingError: no validation split, a patient or image in training and another split, or a grade without a
            training image.
    """
    from drgate.manifest import load_manifest, split_by_patient
    from drgate.mapping import column_map

    manifest = load_manifest(dataset, columns=column_map(columns))
    if manifest.table["grade"].isna().all():
        raise TrainingError(
            f"{manifest.origin} has no grades, so a model cannot be trained on it. Give a graded data set."
        )
    dataset_digest = manifest.digest()
    notes = [*manifest.doubts(), *manifest.leftovers(), *manifest.mapped()]
    if manifest.table["split"].isna().all():
        manifest = split_by_patient(manifest, seed=seed)
        notes.append(f"{dataset} has no splits: seed {seed} assigned the patients to train, val and test.")
    if not manifest.patients_known:
        notes.append("Patients are unknown: eyes of one person may be on both sides of the split.")
    present = manifest.table["split"].dropna().unique()
    for split, what in (("train", "train on"), ("val", "select the best epoch on")):
        if split not in present:
            raise TrainingError(
                f"{dataset} has no images in the split {split!r} to {what}. Name some in its split column, or remove"
                " the column so that drtrain splits by patient."
            )
    if shared := manifest.leaks("train"):
        raise TrainingError(shared[0])
    train, val = (_graded(manifest, split, notes) for split in ("train", "val"))
    if empty := [title for index, title in enumerate(TITLES) if not (train.table["grade"] == index).any()]:
        raise TrainingError(
            f"{dataset} has no training image of {', '.join(empty)}: a model cannot learn a grade without examples."
            f"{''.join(f' {line}' for line in train.doubts())}"
        )
    test = manifest.select("test") if "test" in present else None
    return Splits(train, val, dataset_digest, manifest.dealt_by_seed, notes, test)


def _graded(manifest: Manifest, split: str, notes: list[str]) -> Manifest:
    from drgate.columns import graded_rows

    rows = manifest.select(split)
    usable = graded_rows(rows.table)
    if left_out := int((~usable).sum()):
        notes.append(f"{left_out} of {len(rows)} {split} images were left out: they have no grade.")
    if not usable.any():
        raise TrainingError(f"{manifest.origin} has no graded image in the split {split!r}.")
    return replace(rows, table=rows.table[usable].reset_index(drop=True))


def cache_folder(setting: str | None) -> Path | None:
    """Folder of prepared images: the setting, else $DRGATE_CACHE, else drgate/images in the user's cache folder
    ($XDG_CACHE_HOME or ~/.cache).

    None for the setting (or variable) `none`, and if the user has no home folder. The folder holds photographs of
    patients: protect and delete it like the data set. It takes about 0.6 MB per image of 448 pixels, and can be deleted
    at any time when nothing is running.
    """
    setting = setting or os.environ.get("DRGATE_CACHE")
    if setting:
        return None if setting.lower() == "none" else Path(setting)
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:  # the XDG specification ignores a relative path
        return (given if given.is_absolute() else Path.home() / ".cache") / "drgate" / "images"
    except RuntimeError:
        return None


def read_images(
    manifest: Manifest,
    preprocess: Preprocessing,
    *,
    workers: int,
    folder: Path,
    cache: Path | None = None,
    advance: Callable[[int], Any] = lambda images: None,
    note: Callable[[str], Any] = lambda sentence: None,
) -> ImageSet:
    """Prepared images and hashes of a manifest: from the cache, else decoded and stored in the cache.

    cache: folder of `cache_folder`, accessible only to its owner; its pixels are read-only and stay on disk.
    folder: without a cache, images that do not fit in memory are stored here while this process runs. advance: called
    with the number of images that became ready. note: called with a sentence if the cache is damaged or cannot be
    written.

    If one process of a machine calls it first, the others find its result. Processes that fill the same cache at once
    only lose time.

    Raises:
        ImageUnreadable: naming the first file that does not decode.
        TrainingError: the images fit neither in memory nor in `folder`.
        DrgateError: a worker process was killed.
    """
    paths = [manifest.path(image) for image in manifest.table["image"]]
    contents = list(manifest.content_digests().values())
    shape = (len(paths), preprocess.size, preprocess.size, 3)
    ready = 0

    def prepared() -> Iterator[tuple[NDArray[Any], bytes]]:
        nonlocal ready
        prepare = partial(prepare_image, preprocess=preprocess)
        for index, image in enumerate(in_processes(prepare, paths, workers=workers)):
            if image.digest != contents[index]:
                raise TrainingError(
                    f"{paths[index]} changed after its SHA-256 was taken; start again when nothing writes to the data"
                    " set."
                )
            yield image.pixels, image.hashes[HASH]
            if index >= ready:  # counted once, also if the cache failed half-way
                ready = index + 1
                advance(1)

    found = None
    if cache is not None:
        stored = _Stored.of(manifest, preprocess, cache)
        found = stored.read(note)
        if found is None:
            try:
                stored.write(prepared())
                found = stored.read(note)
            except OSError as error:
                note(
                    f"The image cache {cache} cannot be written ({error.strerror or error}), so every run decodes the"
                    " images. Set DRGATE_CACHE to another folder, or to `none`."
                )
        else:
            advance(len(paths))
    if found is None:
        pixels, hashes = _empty(shape, _dtype(preprocess), folder), []
        for index, (image, hashed) in enumerate(prepared()):
            pixels[index] = image
            hashes.append(hashed)
        found = pixels, hashes
    return ImageSet(found[0], manifest.table["grade"].to_numpy(dtype=np.int64), found[1], preprocess)


def _dtype(preprocess: Preprocessing) -> np.dtype[Any]:
    """Of prepared pixels."""
    return np.dtype(np.uint8 if preprocess.whole_levels else np.float32)


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any], folder: Path) -> NDArray[Any]:
    """Space for prepared images, in memory or in an unnamed file."""
    size = math.prod(shape) * dtype.itemsize
    if size <= _IN_MEMORY:
        return np.empty(shape, dtype)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file, size)
            return np.memmap(file, dtype, mode="r+", shape=shape)
    except OSError as error:
        raise TrainingError(
            f"The prepared images take {size / 2**30:.1f} GB, for which {folder} has no room"
            f" ({error.strerror or error}). Choose an --output_dir on a larger disk."
        ) from error


def _reserve(file: IO[bytes], size: int) -> None:
    """Give a new file its size, so that a full disk is noticed now and not at a later write."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


@dataclass(frozen=True, slots=True)
class _Stored:
    """One set of prepared images in the cache: a header, their hashes, a checksum of both, their pixels.

    The file's name follows from the header, and the header from everything that decides the pixels: preprocessing,
    versions of the libraries that decode and hash, and the contents of the image files in order. So a file is never
    outdated.
    """

    path: Path
    header: bytes
    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, manifest: Manifest, preprocess: Preprocessing, folder: Path) -> _Stored:
        contents = list(manifest.content_digests().values())
        header = canonical_json(
            {
                "format": "drgate images 1",
                "preprocessing": preprocess.digest,
                "libraries": {"pillow": PIL.__version__, "hash": HASH},
                "images": len(contents),
                "contents": hashlib.sha256("\n".join(contents).encode()).hexdigest(),
            }
        )
        name = f"{hashlib.sha256(header).hexdigest()[:32]}.images"
        shape = (len(contents), preprocess.size, preprocess.size, 3)
        return cls(folder / name, header + b"\n", shape, _dtype(preprocess))

    @property
    def length(self) -> int:
        """Of the pixels."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, note: Callable[[str], Any]) -> tuple[NDArray[Any], list[bytes]] | None:
        """Pixels and hashes; None without a complete file. Of the pixels only the number is checked."""
        length = len(self.header) + 32 * self.shape[0] + 32
        try:
            with self.path.open("rb") as file:
                front = file.read(length)
                whole = os.fstat(file.fileno()).st_size == length + self.length
                if not whole or front != self._front(front[len(self.header) : -32]):
                    note(f"{self.path} in the image cache is damaged, so its images are decoded again.")
                    return None
                pixels = np.memmap(file, self.dtype, mode="r", offset=length, shape=self.shape)
        except OSError:  # missing or not readable; if it cannot be written either, a note follows
            return None
        hashes = front[len(self.header) : -32]
        return pixels, [hashes[start : start + 32] for start in range(0, len(hashes), 32)]

    def write(self, images: Iterator[tuple[NDArray[Any], bytes]]) -> None:
        """Decode into a temporary file, which is renamed when it is complete.

        Raises OSError if the folder cannot be written or the disk is full.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()
        hashes = []
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            start = len(self.header) + 32 * self.shape[0] + 32
            _reserve(file, start + self.length)
            file.seek(start)
            for pixels, hashed in images:
                file.write(pixels.tobytes())
                hashes.append(hashed)
            file.seek(0)
            file.write(self._front(b"".join(hashes)))

    def _front(self, hashes: bytes) -> bytes:
        return self.header + hashes + hashlib.sha256(self.header + hashes).digest()

    def _sweep(self) -> None:
        """Remove files of processes that were killed while they wrote; a running one writes all the time."""
        for left in self.path.parent.glob(".*.images.*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _ABANDONED:
                    left.unlink()
