"""Hashes of a photograph as copies of it may have been made: equalised in colour, or cut.

A perceptual hash follows a photograph through other sizes, brightness and turns, not through a cut of a tenth of the
field of view. So the hashes of the cut photograph are taken too, from the reduced copy; a cut copy is near one of them.
"""

from __future__ import annotations

from typing import Final

from PIL import Image, ImageOps

from drgate.preprocessing import reduced_copy
from drgate.vision.perceptual import hash_of_reduced, hashes_of_boxes

_CUTS: Final = (
    *((share, share, 0.5, 0.5) for share in (0.9, 0.8)),
    (1.0, 0.8, 0.5, 0.5),
    *((share, share, 0.5, 0.5) for share in (0.95, 0.85)),
    (1.0, 0.9, 0.5, 0.5),
    (0.9, 1.0, 0.5, 0.5),
    (0.8, 1.0, 0.5, 0.5),
    *((0.9, 0.9, across, down) for across in (0.0, 1.0) for down in (0.0, 1.0)),
)
"""What is left of the width and height of the field of view, and where: 0 at the left or top, 1 at the other side."""
VIEWS: Final = 1 + len(_CUTS)
FEW: Final = 3
"""The first of them, which are compared where all would be too many: equalised, and nine and eight tenths around the
centre."""


def views(copy: Image.Image, box: tuple[int, int, int, int]) -> bytes:
    """`VIEWS` hashes, one after the other. copy, box: `drgate.preprocessing.reduced_copy` of a photograph."""
    left, upper, right, lower = box
    cuts = []
    for wide, high, across, down in _CUTS:
        x, y = left + (right - left) * (1 - wide) * across, upper + (lower - upper) * (1 - high) * down
        cuts.append((x, y, x + (right - left) * wide, y + (lower - upper) * high))
    return hash_of_reduced(*reduced_copy(ImageOps.equalize(copy))) + hashes_of_boxes(copy, cuts)
