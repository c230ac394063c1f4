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

from drgate.errors import ImageUnreadable
from drgate.preprocessing import Preprocessing, PreprocessingError, reduced_copy
from drgate.vision.fingerprint import OLDER_HASH, image_hash
from drgate.vision.images import decode_image, read_bytes
from drgate.vision.perceptual import HASH, hash_of_reduced


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
    also: Callable[[bytes, Image.Image, Any], Any] | None = None,
) -> Prepared:
    """Pixels, digest and hashes of one file. preprocess: None leaves the upright RGB photograph as it is.

    hashes: the versions that are wanted. The older one is of the photograph decoded in full, which takes a second
    decoding where the preprocessing decodes at a part of the size.

    Raises ImageUnreadable.
    """
    data = read_bytes(path)
    scale = None if preprocess is None else preprocess.decoded_at
    image = decode_image(data, path, scale)
    found = {}
    if OLDER_HASH in hashes:
        found[OLDER_HASH] = image_hash(image if scale is None else decode_image(data, path))
    reduced = reduced_copy(image) if HASH in hashes or also is not None else None
    if reduced is not None and HASH in hashes:
        found[HASH] = hash_of_reduced(*reduced)
    answer = None if also is None else also(data, image, reduced)
    try:
        pixels = np.asarray(image) if preprocess is None else preprocess.pixels(image, reduced)
    except PreprocessingError as problem:
        raise ImageUnreadable(f"{path}: {problem}") from problem
    return Prepared(pixels, hashlib.sha256(data).hexdigest(), found, answer)
