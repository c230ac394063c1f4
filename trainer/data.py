"""Images and grades for training: which rows count, and their pixels, read once by worker processes.

Each image is decoded and prepared once, before augmentation; epochs then read bytes. With a cache the next run reads
them too, and so do further processes of the same run. Workers import this module, and it imports nothing heavy.

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

import imagehash
import numpy as np
import PIL
from numpy.typing import NDArray

from drgate.errors import TrainingError
from drgate.files import canonical_json, replacing
from drgate.scale import GRADES, TITLES
from drgate.vision.decoding import in_processes
from drgate.vision.fingerprint import image_hash
from drgate.vision.images import Preprocessing, read_image

if TYPE_CHECKING:
    from drgate.manifest import Manifest

_IN_MEMORY: Final = 8 << 30
"""Prepared images up to this many bytes are kept in memory, more in a nameless file in the run's folder."""

_ABANDONED: Final = 3600
"""Seconds without a write after which an unfinished file in the cache belongs to nobody."""


@dataclass(frozen=True, slots=True)
class Splits:
    """The rows that train and those that validate; every one has a grade."""

    train: Manifest
    val: Manifest
    dataset_digest: str
    dealt_by_seed: int | None
    """Where the data set had no splits of its own; `drgate evaluate` deals it again in the same way."""
    notes: list[str]
    """What was left out or assumed, in sentences."""
    test: Manifest | None = None
    """The rows that are locked; None where there are none, as where an owner keeps them elsewhere."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Prepared images in the order of a manifest's rows."""

    pixels: NDArray[np.uint8] = field(repr=False)
    """(n, size, size, 3)"""
    grades: NDArray[np.int64] = field(repr=False)
    """(n,), 0-4"""
    hashes: list[bytes] = field(repr=False)
    """`drgate.vision.fingerprint.image_hash` of each."""

    def __len__(self) -> int:
        return len(self.grades)

    def counts(self) -> dict[str, int]:
        """Images by grade identifier."""
        return {grade: int((self.grades == index).sum()) for index, grade in enumerate(GRADES)}


def load_splits(dataset: str, *, seed: int) -> Splits:
    """The training and validation rows of a data set, split by patient where it has no splits.

    Raises:
        ManifestError: the data set is not usable.
        TrainingError: no validation split, something shared between training and another split, or a grade that no
            training image has.
    """
    from drgate.manifest import load_manifest, split_by_patient

    manifest = load_manifest(dataset)
    if manifest.sealed:
        raise TrainingError(f"{manifest.origin} has no grades: nothing can be learned from it; give a graded data set.")
    dataset_digest = manifest.digest()
    notes = []
    if manifest.table["split"].isna().all():
        manifest = split_by_patient(manifest, seed=seed)
        notes.append(f"{dataset} has no splits: patients were dealt to train, val and test by seed {seed}.")
    if not manifest.patients_known:
        notes.append("Patients are unknown: eyes of one person may lie on both sides of the split.")
    present = manifest.table["split"].dropna().unique()
    for split, what in (("train", "train on"), ("val", "choose the best epoch by")):
        if split not in present:
            raise TrainingError(
                f"{dataset} has no images in the split {split!r} to {what}: name some in its split column, or drop the"
                " column and drtrain splits by patient."
            )
    if shared := manifest.leaks("train"):
        raise TrainingError(shared[0])
    train, val = (_graded(manifest, split, notes) for split in ("train", "val"))
    if empty := [title for index, title in enumerate(TITLES) if not (train.table["grade"] == index).any()]:
        raise TrainingError(
            f"{dataset} has no training image of {', '.join(empty)}: a model cannot learn a grade that it never sees."
        )
    test = manifest.select("test") if "test" in present else None
    return Splits(train, val, dataset_digest, manifest.dealt_by_seed, notes, test)


def _graded(manifest: Manifest, split: str, notes: list[str]) -> Manifest:
    rows = manifest.select(split)
    usable = rows.table["gradable"] & rows.table["grade"].notna()
    if left_out := int((~usable).sum()):
        notes.append(f"{left_out} of {len(rows)} {split} images were left out: ungradable or without a grade.")
    if not usable.any():
        raise TrainingError(f"{manifest.origin} has no graded image in the split {split!r}.")
    return replace(rows, table=rows.table[usable].reset_index(drop=True))


def cache_folder(setting: str | None) -> Path | None:
    """Where prepared images are kept between runs: the setting, else $DRGATE_CACHE, else drgate/images in the user's
    cache folder ($XDG_CACHE_HOME or ~/.cache).

    None for the setting (or variable) `none`, and where there is no such folder because the user has no home.
    What lies there are pictures of patients, to be kept and removed as the data set itself: about 0.6 MB an image of
    448 pixels. It may be removed at any time when nothing is running; what is missing is made again.
    """
    setting = setting or os.environ.get("DRGATE_CACHE")
    if setting:
        return None if setting.lower() == "none" else Path(setting)
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:  # a relative path there is to be ignored, says the XDG specification
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
    """Prepared images and hashes of a manifest: from the cache, else decoded, and then left in the cache.

    cache: folder of `cache_folder`, created for its owner alone; its pixels are read-only and come from disk as they
    are needed. folder: where, without a cache, images that do not fit in memory are kept while this process lives.
    advance: called with numbers of images that are ready. note: called with a sentence when a file of the cache was
    damaged, or when the cache cannot be written and this process does without.

    Of several processes of one machine let one call it first: the others then find what it left. Processes that fill
    the same cache at once do no harm but to their time.

    Raises:
        ImageUnreadable: naming the first file that does not decode.
        TrainingError: the images fit neither in memory nor in `folder`.
        DrgateError: a worker process was killed.
    """
    paths = [manifest.path(image) for image in manifest.table["image"]]
    shape = (len(paths), preprocess.size, preprocess.size, 3)
    ready = 0

    def prepared() -> Iterator[tuple[NDArray[np.uint8], bytes]]:
        nonlocal ready
        prepare = partial(prepare_image, preprocess=preprocess)
        for index, image in enumerate(in_processes(prepare, paths, workers=workers)):
            yield image
            if index >= ready:  # also when a cache that failed half-way makes it start again
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
                    f"The image cache {cache} cannot be written ({error.strerror or error}): images are decoded in"
                    " every run. DRGATE_CACHE names another folder, and `none` does without."
                )
        else:
            advance(len(paths))
    if found is None:
        pixels, hashes = _empty(shape, folder), []
        for index, (image, hashed) in enumerate(prepared()):
            pixels[index] = image
            hashes.append(hashed)
        found = pixels, hashes
    return ImageSet(found[0], manifest.table["grade"].to_numpy(dtype=np.int64), found[1])


def _empty(shape: tuple[int, ...], folder: Path) -> NDArray[np.uint8]:
    """Room for prepared images, in memory or else in a nameless file."""
    size = math.prod(shape)
    if size <= _IN_MEMORY:
        return np.empty(shape, dtype=np.uint8)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file, size)
            return np.memmap(file, dtype=np.uint8, mode="r+", shape=shape)
    except OSError as error:
        raise TrainingError(
            f"The prepared images take {size / 2**30:.1f} GB, for which {folder} has no room"
            f" ({error.strerror or error}); name an --output_dir on a larger disk."
        ) from error


def _reserve(file: IO[bytes], size: int) -> None:
    """Make a new file that large, and find out now, not at a later write, that the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


@dataclass(frozen=True, slots=True)
class _Stored:
    """One set of prepared images in the cache: a header, their hashes, a checksum of both, their pixels.

    The file's name follows from the header, and the header from all that decides the pixels: preprocessing, versions of
    the libraries that decode and hash, and the contents of the image files in their order. So a file is never
    outdated, only no longer asked for.
    """

    path: Path
    header: bytes
    shape: tuple[int, int, int, int]

    @classmethod
    def of(cls, manifest: Manifest, preprocess: Preprocessing, folder: Path) -> _Stored:
        contents = list(manifest.content_digests().values())
        header = canonical_json(
            {
                "format": "drgate images 1",
                "preprocessing": preprocess.as_dict(),
                "libraries": {"pillow": PIL.__version__, "imagehash": imagehash.__version__},
                "images": len(contents),
                "contents": hashlib.sha256("\n".join(contents).encode()).hexdigest(),
            }
        )
        name = f"{hashlib.sha256(header).hexdigest()[:32]}.images"
        return cls(folder / name, header + b"\n", (len(contents), preprocess.size, preprocess.size, 3))

    def read(self, note: Callable[[str], Any]) -> tuple[NDArray[np.uint8], list[bytes]] | None:
        """Pixels and hashes; None where there is no whole file. Cheap: of the pixels only their number is checked."""
        length = len(self.header) + 32 * self.shape[0] + 32
        try:
            with self.path.open("rb") as file:
                front = file.read(length)
                whole = os.fstat(file.fileno()).st_size == length + math.prod(self.shape)
                if not whole or front != self._front(front[len(self.header) : -32]):
                    note(f"{self.path} in the image cache is damaged: its images are decoded again.")
                    return None
                pixels = np.memmap(file, dtype=np.uint8, mode="r", offset=length, shape=self.shape)
        except OSError:  # not there; or not ours to read, and then most likely not to write, which will be said
            return None
        hashes = front[len(self.header) : -32]
        return pixels, [hashes[start : start + 32] for start in range(0, len(hashes), 32)]

    def write(self, images: Iterator[tuple[NDArray[np.uint8], bytes]]) -> None:
        """Decode into a file beside, which takes its name when it is whole.

        Raises OSError where the folder cannot be written or the disk is full.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()
        hashes = []
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            start = len(self.header) + 32 * self.shape[0] + 32
            _reserve(file, start + math.prod(self.shape))
            file.seek(start)
            for pixels, hashed in images:
                file.write(pixels.tobytes())
                hashes.append(hashed)
            file.seek(0)
            file.write(self._front(b"".join(hashes)))

    def _front(self, hashes: bytes) -> bytes:
        return self.header + hashes + hashlib.sha256(self.header + hashes).digest()

    def _sweep(self) -> None:
        """Remove what processes left that were killed while they wrote; a living one writes every moment."""
        for left in self.path.parent.glob(".*.images.*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _ABANDONED:
                    left.unlink()


def prepare_image(path: Path, preprocess: Preprocessing) -> tuple[NDArray[np.uint8], bytes]:
    """Pixels (size, size, 3) and perceptual hash of one file."""
    image = read_image(path)
    return preprocess.pixels(image), image_hash(image)
