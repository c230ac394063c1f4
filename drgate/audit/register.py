"""Whether two photographs show the same pixels: aligned in scale and place, then compared.

    likeness(picture(one), turned(picture(other), 4))       # .98 of a copy that was mirrored, .2 of another eye

A perceptual hash only nominates a pair. This compares the locally normalised green channel of both fields of view.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage

from drgate.preprocessing import field_of_view

SAME: Final = 0.60
"""From this correlation on, two photographs are one. Chosen on the patients of the training splits of two EyePACS sets:
the same eye in two preparations had .60 to .95, and the 558 nearest pairs of two patients at most .54."""

_SIDE: Final = 128
_CANVAS: Final = 256
_OVERLAP: Final = 0.35
_SCALES: Final = np.exp(np.linspace(-np.log(1.4), np.log(1.4), 23))
_SIGMA: Final = 3.0
_TURNS: Final = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


def picture(image: Image.Image) -> Image.Image:
    """The green channel of the field of view of an RGB photograph, its longest side 128 pixels."""
    cut = image.crop(field_of_view(image)).getchannel("G")
    share = _SIDE / max(cut.size)
    smaller = (max(8, round(cut.width * share)), max(8, round(cut.height * share)))
    return cut.resize(smaller, Image.Resampling.BOX if share < 0.5 else Image.Resampling.BILINEAR)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Mirrored left to right from 4 on, then turned anticlockwise by quarters; 0 to 7 as in `Orientation`."""
    if orientation >= 4:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    how = _TURNS[orientation % 4]
    return image if how is None else image.transpose(how)


def likeness(one: Image.Image, other: Image.Image) -> float:
    """The largest correlation, -1 to 1, of two pictures over 23 scales from 1/1.4 to 1.4 and all shifts at which at
    least .35 of the smaller field of view is shared."""
    texture, inside = _texture(one)
    first = _transformed(texture), _transformed(texture * texture), _transformed(inside)
    best = -1.0
    for scale in _SCALES:
        size = (max(8, round(other.width * scale)), max(8, round(other.height * scale)))
        moved, within = _texture(other.resize(size, Image.Resampling.BILINEAR))
        second = _transformed(moved), _transformed(moved * moved), _transformed(within)
        both, left, right, shared = (
            fft.irfft2(product.astype(np.complex64), (_CANVAS, _CANVAS))
            for product in (
                first[0] * second[0].conj(),
                first[1] * second[2].conj(),
                first[2] * second[1].conj(),
                first[2] * second[2].conj(),
            )
        )
        enough = shared > _OVERLAP * max(1.0, min(inside.sum(), within.sum()))
        found = np.where(enough, both / np.sqrt(np.maximum(left * right, 1.0)), -1)
        best = max(best, float(found.max()))
    return best


def _transformed(values: NDArray[np.float32]) -> Any:
    # What wraps around is counted as well: it can only lower the correlation of a true place, which shares most.
    return fft.rfft2(values, (_CANVAS, _CANVAS))


def _texture(image: Image.Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Local contrast, 0 outside the field of view, and the field of view as 0 and 1, its rim left out."""
    green = np.asarray(image, dtype=np.float32)
    lit = green > max(8.0, 0.12 * float(np.quantile(green, 0.9)))
    lit = ndimage.binary_opening(np.pad(lit, 1), iterations=2)[1:-1, 1:-1]
    inside = ndimage.binary_erosion(lit, iterations=5)
    light = lit.astype(np.float32)
    around = ndimage.gaussian_filter(light, _SIGMA) + 1e-6
    difference = np.where(lit, green - ndimage.gaussian_filter(green * light, _SIGMA) / around, 0)
    wide = ndimage.gaussian_filter(light, 2.5 * _SIGMA) + 1e-6
    spread = ndimage.gaussian_filter(difference * difference, 2.5 * _SIGMA) / wide
    texture = np.where(inside, np.clip(difference / np.sqrt(spread + 4), -2, 2), 0)
    return texture.astype(np.float32), inside.astype(np.float32)
