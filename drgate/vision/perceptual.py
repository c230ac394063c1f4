"""The perceptual hash, version 2: 256 bits of a photograph's field of view that a copy of it nearly shares.

    hashed = perceptual_hash(read_image(path, HASHED_AT))       # 32 bytes
    turned = orientations(np.frombuffer(hashed, np.uint8))      # (8, 32): of the photograph in all eight orientations

Re-encoding, resizing, cropping to the field of view, brightness and equalised contrast change few bits. Two eyes differ
in half of them. A hash nominates a pair to be compared; it proves nothing. Version 1 is `fingerprint.image_hash`.

The definition, so that somebody else can write it:

1. The upright 8-bit RGB photograph, a JPEG decoded at the smallest of 1, 1/2, 1/4 and 1/8 of its size at which no side
   is shorter than 896 pixels, becomes the reduced copy and its field of view as `field_of_view_2` says
   (`drgate.preprocessing`). So the hash does not depend on what a model sees.
2. The reduced copy becomes grey, (19595 R + 38470 G + 7471 B + 32768) // 65536, and its field of view 64 x 64 pixels by
   Pillow's bilinear `resize` with that box, however wide or high it is.
3. Inside is what has its centre less than .95 * 32 pixels from the picture's; everything else counts as absent. From
   each pixel the mean over the 9 x 9 pixels around it is subtracted. The difference is divided by the root of 4 plus
   the mean of the squared differences over the same pixels, and limited to -1 to 1. Outside it is 0.
4. Bit 16 (v - 1) + (u - 1), from the highest bit of the first byte on, is whether the coefficient of the discrete
   cosine transform (DCT-II) of frequency v downwards and u across, 1 to 16 each, is above 0.

Where the picture is mirrored, coefficients of odd frequency change their sign; where it is transposed, u and v change
places. So the hashes of all orientations follow from one. (A coefficient of exactly 0, as in a picture of one colour,
is the exception.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drgate.preprocessing import reduced_copy

HASH: Final = "drgate-256-v2"
"""What a fingerprint calls this version."""
HASHED_AT: Final = 896
"""The size at which a JPEG is decoded for its hash and for an audit, whatever the model sees."""
BITS: Final = 256

_SIDE: Final = 64
_AROUND: Final = 4
_KEPT: Final = 16
_CENTRES: Final = np.arange(_SIDE) + 0.5
_INSIDE: Final = np.hypot(*np.meshgrid(_CENTRES - _SIDE / 2, _CENTRES - _SIDE / 2)) < 0.95 * _SIDE / 2
_NEARBY: Final = (abs(np.subtract.outer(np.arange(_SIDE), np.arange(_SIDE))) <= _AROUND).astype(np.float64)
_COSINES: Final = np.cos(np.pi / _SIDE * np.outer(np.arange(1, _KEPT + 1), _CENTRES))


def perceptual_hash(image: Image.Image) -> bytes:
    """The 256-bit hash of an upright RGB or grey photograph that was decoded at `HASHED_AT`, as 32 bytes."""
    return hash_of_reduced(*reduced_copy(image))


def hash_of_reduced(copy: Image.Image, box: tuple[int, int, int, int]) -> bytes:
    """The same from the reduced copy and the box of its field of view, where `reduced_copy` was called already."""
    return hashes_of_boxes(copy, [box])


def hashes_of_boxes(copy: Image.Image, boxes: Sequence[tuple[float, float, float, float]]) -> bytes:
    """The hashes, one after the other, that a photograph would have if each box of its reduced copy were its field of
    view."""
    grey = copy.convert("L")
    small = [np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, box=box)) for box in boxes]
    light = np.stack(small) * _INSIDE
    # Whole numbers until the first division, so that a picture of one colour is exactly 0.
    difference = np.where(_INSIDE, light - _around(light) / _COUNT, 0)
    normal = difference / np.sqrt(4 + _around(difference**2) / _COUNT)
    bits = _COSINES @ normal.clip(-1, 1) @ _COSINES.T > 0
    return np.packbits(bits).tobytes()


def orientations(hashes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(..., 32) to (..., 8, 32): the hashes of the same photographs turned by 0, 90, 180 and 270 degrees anticlockwise,
    then of the photographs mirrored left to right and turned likewise.
    """
    bits = np.unpackbits(hashes, axis=-1).reshape(*hashes.shape[:-1], _KEPT, _KEPT)
    odd = np.arange(1, _KEPT + 1, dtype=np.uint8) % 2
    found = []
    for turned in (bits, bits ^ odd):  # mirrored: odd frequencies across change their sign
        for _ in range(4):
            found.append(turned)
            turned = np.swapaxes(turned ^ odd, -1, -2)  # anticlockwise: mirrored, then transposed
    together = np.stack(found, axis=-3)
    return np.packbits(together.reshape(*together.shape[:-2], BITS), axis=-1)


def _around(values: NDArray[Any]) -> NDArray[np.float64]:
    """Sums over the 9 x 9 pixels around each; outside the picture is 0. Sums of whole numbers are exact."""
    return np.asarray(_NEARBY @ values @ _NEARBY)


_COUNT: Final = _around(_INSIDE).clip(1)
