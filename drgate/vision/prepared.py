"""A photograph, prepared and hashed from one reading of its file and, as a rule, one decoding.

    found = prepare_image(path, parse_preprocessing("fundus-square-2@448"))
    found.pixels, found.digest, found.hashes        # (448, 448, 3) uint8; SHA-256 of the bytes; {"drgate-256-v2": ...}

Worker processes call it. Each holds one photograph at a time: its bytes, its pixels as decoded (4 bytes each, twice
while it is turned upright or cropped) and what it becomes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drgate.errors import ImageUnreadable, ManifestError
from drgate.preprocessing import Preprocessing, PreprocessingError, Reduced, reduced_copy
from drgate.vision.fingerprint import OLDER_HASH, image_hash
from drgate.vision.images import as_rgb, bytes_of, decode_images
from drgate.vision.perceptual import HASH, HASHED_AT, hash_of_reduced


@dataclass(frozen=True, slots=True)
class Prepared:
    """One photograph."""

    pixels: NDArray[Any] = field(repr=False)
    """(size, size, 3), as `Preprocessing.pixels` gives them; without a preprocessing (height, width, 3), uint8."""
    digest: str
    """SHA-256 (hex) of the very bytes that were decoded."""
    hashes: dict[str, bytes]
    """By the name of its version, the perceptual hash."""
    also: Any = None
    """What `also` gave."""


def prepare_image(
    path: Path,
    preprocess: Preprocessing | None,
    hashes: Sequence[str] = (HASH,),
    also: Callable[[bytes, Image.Image, Reduced], Any] | None = None,
    *,
    content: str | None = None,
) -> Prepared:
    """Pixels, digest and hashes of one file. preprocess: None leaves the upright RGB photograph as it is.

    hashes: the versions that are wanted. Version 2 is of the photograph decoded at `HASHED_AT`, the older one of the
    photograph decoded in full, whatever the preprocessing, which takes a second decoding where it decodes otherwise.
    also: called with the file's bytes, the upright RGB photograph decoded at `HASHED_AT` and its `reduced_copy`
    (`drgate.audit.evidence.examined`), to look at a photograph in the same pass. content: see `content_of`.

    Raises ImageUnreadable; ManifestError where the file is no longer what `content` says.
    """
    data, digest = content_of(path, content)
    scales = [None if preprocess is None else preprocess.decoded_at]
    if looked := HASH in hashes or also is not None:
        scales.append(HASHED_AT)
    if OLDER_HASH in hashes:
        scales.append(None)
    image, *others = decode_images(data, path, scales)
    found, answer, reduced = {}, None, None
    if OLDER_HASH in hashes:
        found[OLDER_HASH] = image_hash(as_rgb(others[-1]))
    if looked:
        reduced = reduced_copy(others[0])
        if HASH in hashes:
            found[HASH] = hash_of_reduced(*reduced)
        if also is not None:
            answer = also(data, as_rgb(others[0]), (as_rgb(reduced[0]), reduced[1]))
        if others[0] is not image:
            reduced = None
    try:
        pixels = np.asarray(as_rgb(image)) if preprocess is None else preprocess.pixels(image, reduced)
    except PreprocessingError as problem:
        raise ImageUnreadable(f"{path}: {problem}") from problem
    return Prepared(pixels, digest, found, answer)


def content_of(path: Path, content: str | None) -> tuple[bytes, str]:
    """The bytes of an image file, read once, and their SHA-256 (hex). content: the SHA-256 that was taken of the file
    before; another file in its place is no photograph of this set, also where it cannot be read.

    Raises ImageUnreadable; ManifestError where the file has changed.
    """
    try:
        data = bytes_of(path)
    except ImageUnreadable:
        if content is not None and not path.exists():
            raise _changed(path) from None
        raise
    digest = hashlib.sha256(data).hexdigest()
    if content not in (None, digest):
        raise _changed(path)
    return data, digest


def _changed(path: Path) -> ManifestError:
    return ManifestError(
        f"{path} changed after its SHA-256 was taken; start again when nothing writes to the data set."
    )
