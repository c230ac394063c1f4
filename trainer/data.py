"""Images and grades for training: which rows count, and their pixels, read once by worker processes.

Images are not augmented, so each is decoded and prepared once; epochs then read bytes. Workers import this module, and
it imports nothing heavy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from drgate.errors import TrainingError
from drgate.scale import GRADES, TITLES
from drgate.vision.decoding import in_processes
from drgate.vision.fingerprint import image_hash
from drgate.vision.images import Preprocessing, read_image

if TYPE_CHECKING:
    from drgate.manifest import Manifest

_IN_MEMORY: Final = 8 << 30
"""Prepared images up to this many bytes are kept in memory, more in a nameless file in the run's folder."""


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
            f"{dataset} has no training image of {' and '.join(empty)}: a model cannot learn a grade that it never"
            " sees."
        )
    return Splits(train, val, dataset_digest, manifest.dealt_by_seed, notes)


def _graded(manifest: Manifest, split: str, notes: list[str]) -> Manifest:
    rows = manifest.select(split)
    usable = rows.table["gradable"] & rows.table["grade"].notna()
    if left_out := int((~usable).sum()):
        notes.append(f"{left_out} of {len(rows)} {split} images were left out: ungradable or without a grade.")
    if not usable.any():
        raise TrainingError(f"{manifest.origin} has no graded image in the split {split!r}.")
    return replace(rows, table=rows.table[usable].reset_index(drop=True))


def read_images(
    manifest: Manifest,
    preprocess: Preprocessing,
    *,
    workers: int,
    folder: Path,
    advance: Callable[[int], Any] = lambda images: None,
) -> ImageSet:
    """Decode, prepare and hash all images of a manifest.

    folder: where images that do not fit in memory are kept while this process lives. advance: called with 1 after each
    image.

    Raises:
        ImageUnreadable: naming the first file that does not decode.
        DrgateError: a worker process was killed.
    """
    paths = [manifest.path(image) for image in manifest.table["image"]]
    shape = (len(paths), preprocess.size, preprocess.size, 3)
    if np.prod(shape, dtype=np.int64) <= _IN_MEMORY:
        pixels: NDArray[np.uint8] = np.empty(shape, dtype=np.uint8)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            pixels = np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
    hashes = []
    prepare = partial(prepare_image, preprocess=preprocess)
    for index, (prepared, hashed) in enumerate(in_processes(prepare, paths, workers=workers)):
        pixels[index] = prepared
        hashes.append(hashed)
        advance(1)
    return ImageSet(pixels, manifest.table["grade"].to_numpy(dtype=np.int64), hashes)


def prepare_image(path: Path, preprocess: Preprocessing) -> tuple[NDArray[np.uint8], bytes]:
    """Pixels (size, size, 3) and perceptual hash of one file."""
    image = read_image(path)
    return preprocess.pixels(image), image_hash(image)
