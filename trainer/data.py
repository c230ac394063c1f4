"""Images and grades for training: the usable rows, and their pixels, decoded once by worker processes.

Each image is decoded and prepared once, before augmentation. With a cache, later runs and other processes of the same
run read the prepared images. Workers import this module, so it imports nothing heavy.

    cache = cache_folder(None)                              # drgate.vision.cache
    training = read_images(splits.train, preprocess, workers=2, cache=cache, folder=run_folder)
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from drgate.audit.evidence import KEPT_AT, examined, examined_by
from drgate.errors import TrainingError
from drgate.preprocessing import Preprocessing
from drgate.scale import GRADES, TITLES
from drgate.vision.cache import Records, SetFile, pixel_type, reserve
from drgate.vision.decoding import in_processes
from drgate.vision.perceptual import HASH
from drgate.vision.prepared import Prepared, prepare_image

if TYPE_CHECKING:
    from drgate.manifest import Manifest

_IN_MEMORY: Final = 8 << 30
"""Prepared images up to this many bytes are kept in memory, more in an unnamed file in the run's folder."""


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

    cache: folder of `drgate.vision.cache.cache_folder`, accessible only to its owner; its pixels are read-only and stay
    on disk. What an audit asks of a photograph is answered in the same pass, and kept there.
    folder: without a cache, images that do not fit in memory are stored here while this process runs. advance: called
    with the number of images that became ready. note: called with a sentence if the cache is damaged or cannot be
    written.

    If one process of a machine calls it first, the others find its result. Processes that fill the same cache at once
    only lose time.

    Raises:
        ImageUnreadable: naming the first file that does not decode.
        ManifestError: a file changed after its SHA-256 was taken.
        TrainingError: the images fit neither in memory nor in `folder`.
        DrgateError: a worker process was killed.
    """
    paths = [manifest.path(image) for image in manifest.table["image"]]
    contents = list(manifest.content_digests().values())
    shape = (len(paths), preprocess.size, preprocess.size, 3)
    ready = 0
    stored = None if cache is None else SetFile.of(contents, preprocess, cache)
    records = None if cache is None else Records(cache, examined_by(), note)

    def prepared() -> Iterator[tuple[NDArray[Any], bytes]]:
        nonlocal ready
        kept = {} if stored is None else stored.others()
        kept = {content: (file, at) for content, (file, at) in kept.items() if file.whole(at)}
        new = [index for index, content in enumerate(contents) if content not in kept]
        known = {} if records is None else records.read([contents[index] for index in new])
        looked = [(paths[at], contents[at], records is not None and contents[at] not in known) for at in new]
        decoded = in_processes(partial(_prepare, preprocess=preprocess), looked, workers=workers)
        fresh: dict[str, Any] = {}
        for index, content in enumerate(contents):
            if content in kept:
                file, at = kept[content]
                yield file.pixels[at], file.hashes[at]
            else:
                image = next(decoded)
                if image.also is not None:
                    fresh[content] = image.also.record()
                yield image.pixels, image.hashes[HASH]
            if index >= ready:  # counted once, also if the cache failed half-way
                ready = index + 1
                advance(1)
            if records is not None and (len(fresh) >= KEPT_AT or (fresh and index == len(contents) - 1)):
                records.write(fresh)
                fresh.clear()

    found = None
    if stored is not None:
        found = stored.read(note)
        if found is None:
            try:
                stored.write(prepared())
                found = stored.read(note)
            except OSError as error:
                records = None
                note(
                    f"The image cache {cache} cannot be written ({error.strerror or error}), so every run decodes the"
                    " images. Set DRGATE_CACHE to another folder, or to `none`."
                )
        else:
            advance(len(paths))
    grades = manifest.table["grade"].to_numpy(dtype=np.int64)
    if found is not None:
        return ImageSet(found.pixels, grades, found.hashes, preprocess)
    pixels, hashes = _empty(shape, pixel_type(preprocess), folder), []
    for index, (image, hashed) in enumerate(prepared()):
        pixels[index] = image
        hashes.append(hashed)
    return ImageSet(pixels, grades, hashes, preprocess)


def _prepare(item: tuple[Path, str, bool], preprocess: Preprocessing) -> Prepared:
    """One file and its content; with whether it is examined for an audit as well, from the same decoding."""
    path, content, look = item
    return prepare_image(path, preprocess, also=examined if look else None, content=content)


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any], folder: Path) -> NDArray[Any]:
    """Space for prepared images, in memory or in an unnamed file."""
    size = math.prod(shape) * dtype.itemsize
    if size <= _IN_MEMORY:
        return np.empty(shape, dtype)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            reserve(file, size)
            return np.memmap(file, dtype, mode="r+", shape=shape)
    except OSError as error:
        raise TrainingError(
            f"The prepared images take {size / 2**30:.1f} GB, for which {folder} has no room"
            f" ({error.strerror or error}). Choose an --output_dir on a larger disk."
        ) from error
