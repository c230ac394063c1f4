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
_SCALES: Final = np.exp(np.linspace(-np.log(1.4), np.log(1.4), 23))
_OVERLAP: Final = 0.35
_COARSE: Final = 48, 96, 1.5
_FINE: Final = _SIDE, 256, 3.0
"""The longest side of a picture, that of the square in which it is shifted, and the width of its finest detail."""
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
    """The largest correlation, -1 to 1, of two pictures over scales from 1/1.4 to 1.4 and all shifts at which at least
    .35 of the smaller field of view is shared. Pictures of another shape that do not register as they are, are compared
    once more with the other stretched to the shape of the one, for a copy may have been made square."""
    best = _likeness(one, other)
    shapes = one.width * other.height, one.height * other.width
    if best < SAME and max(shapes) > 1.03 * min(shapes):
        best = max(best, _likeness(one, other.resize(one.size, Image.Resampling.BILINEAR)))
    return best


def _likeness(one: Image.Image, other: Image.Image) -> float:
    """Every second of 23 scales is tried on small copies, and the best of them with its two neighbours in full."""
    best = 2 * int(np.argmax(_by_scale(one, other, _SCALES[::2], *_COARSE)))
    return max(_by_scale(one, other, _SCALES[max(0, best - 1) : best + 2], *_FINE))


def _by_scale(
    one: Image.Image, other: Image.Image, scales: NDArray[np.float64], side: int, canvas: int, finest: float
) -> list[float]:
    """The largest correlation over all shifts, of each scale of the other."""
    texture, inside = _texture(_sized(one, side / _SIDE), finest)
    first = [_transformed(values, canvas) for values in (texture, texture * texture, inside)]
    found = []
    for scale in scales:
        moved, within = _texture(_sized(other, scale * side / _SIDE), finest)
        second = [_transformed(values, canvas).conj() for values in (moved, moved * moved, within)]
        both, left, right, shared = (
            fft.irfft2(first[i] * second[k], (canvas, canvas)) for i, k in ((0, 0), (1, 2), (2, 1), (2, 2))
        )
        enough = shared > _OVERLAP * max(1.0, min(inside.sum(), within.sum()))
        found.append(float(np.where(enough, both / np.sqrt(np.maximum(left * right, 1.0)), -1).max()))
    return found


def _sized(image: Image.Image, share: float) -> Image.Image:
    size = (max(8, round(image.width * share)), max(8, round(image.height * share)))
    return image.resize(size, Image.Resampling.BILINEAR)


def _transformed(values: NDArray[np.float32], canvas: int) -> Any:
    # What wraps around is counted as well: it can only lower the correlation of a true place, which shares most.
    return fft.rfft2(values, (canvas, canvas))


def _texture(image: Image.Image, finest: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Local contrast, 0 outside the field of view, and the field of view as 0 and 1, its rim left out."""
    green = np.asarray(image, dtype=np.float32)
    lit = green > max(8.0, 0.12 * float(np.quantile(green, 0.9)))
    lit = ndimage.binary_opening(np.pad(lit, 1), iterations=2)[1:-1, 1:-1]
    inside = ndimage.binary_erosion(lit, iterations=5)
    light = lit.astype(np.float32)
    around = ndimage.gaussian_filter(light, finest) + 1e-6
    difference = np.where(lit, green - ndimage.gaussian_filter(green * light, finest) / around, 0)
    wide = ndimage.gaussian_filter(light, 2.5 * finest) + 1e-6
    spread = ndimage.gaussian_filter(difference * difference, 2.5 * finest) / wide
    texture = np.where(inside, np.clip(difference / np.sqrt(spread + 4), -2, 2), 0)
    return texture.astype(np.float32), inside.astype(np.float32)
