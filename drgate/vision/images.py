"""Decoding of photographs, and the named and versioned preprocessing that training and scoring share.

Uses only Pillow and NumPy, so that worker processes start without torch.

    preprocess = preprocessing("fundus-square-1", 448)
    batch = np.stack([preprocess(read_image(path)) for path in paths])      # (n, 3, 448, 448), float32 in [-1, 1]
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from drgate.errors import CheckpointError, ImageUnreadable

FUNDUS_SQUARE: Final = "fundus-square-1"
"""A preprocessing: crop to the field of view, pad to a square with black, bicubic resize, scale to [-1, 1]."""

_FORMATS: Final = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000", "GIF")
"""The accepted image formats. Pillow's other decoders are not used: one of them runs a PostScript interpreter."""

MAX_BYTES: Final = 1 << 30
"""Of an image file: the largest that Pillow's limit of pixels lets through has 720 MB, in 16 bits and four channels."""

_PROBE: Final = 512
"""The field of view is found on a copy reduced to about this many pixels, which removes noise."""


def read_image(path: Path) -> Image.Image:
    """The photograph as upright 8-bit RGB.

    EXIF orientation is applied. 16-bit values are scaled to 8 bits by their full range (65535 -> 255), grayscale is
    repeated in three channels, CMYK and palettes are converted, transparency becomes black (the surround of a fundus
    photograph). Of several frames, the first is used.

    Raises:
        ImageUnreadable: no such file, not an image, truncated, floating-point pixels, or more pixels than Pillow's
            limit against decompression bombs.
    """
    try:
        if path.stat().st_size > MAX_BYTES:  # some of Pillow's decoders read the whole file first
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MB")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata is no reason to reject good pixels ...
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # ... but a bomb is
            with Image.open(path, formats=_FORMATS) as image:
                image.load()
                return _as_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise ImageUnreadable(
            f"{path}: the image has more than {limit} million pixels, more than any fundus camera; it was not decoded."
        ) from error
    except FileNotFoundError as error:
        raise ImageUnreadable(f"{path}: this image file does not exist.") from error
    except Exception as error:  # on a damaged file Pillow's decoders raise nearly anything
        raise ImageUnreadable(f"{path}: this file cannot be read as an image ({error}).") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels without a stated range; expected 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("pixel values outside 0-65535")
        return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def field_of_view(image: Image.Image) -> tuple[int, int, int, int]:
    """Bounding box (left, upper, right, lower) of the lit retina in an RGB image, in pixels.

    A pixel is lit if its brightest channel, averaged over a small block, is above 8 % of the level that the brightest
    tenth of the image reaches, and above 8 of 255. A row or column counts if one in fifty of its blocks is lit, so that
    noise, dust and single hot pixels in the surround do not widen the box. If the lit region is less than an eighth of
    the image in width or height, the box is the whole image.
    """
    factor = max(1, max(image.size) // _PROBE)
    brightness = np.asarray(image.reduce(factor)).max(axis=2)
    lit = brightness > max(8.0, 0.08 * float(np.quantile(brightness, 0.9)))
    columns = np.flatnonzero(lit.mean(axis=0) >= 0.02)
    rows = np.flatnonzero(lit.mean(axis=1) >= 0.02)
    if len(columns) * 8 < lit.shape[1] or len(rows) * 8 < lit.shape[0]:
        return (0, 0, image.width, image.height)
    return (
        int(columns[0]) * factor,
        int(rows[0]) * factor,
        min((int(columns[-1]) + 1) * factor, image.width),
        min((int(rows[-1]) + 1) * factor, image.height),
    )


def scaled(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels (..., size, size, 3) of 0 to 255 as network input (..., 3, size, size) of -1 to 1, contiguous."""
    channels_first = np.moveaxis(pixels, -1, -3)
    values: NDArray[np.float32] = np.empty(channels_first.shape, dtype=np.float32)
    np.multiply(channels_first, np.float32(1 / 127.5), out=values)
    values -= np.float32(1)
    return values


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Turns a photograph into network input. Checkpoint, predictions and certificate contain its id.

    Call it with an RGB image: it returns float32 (3, size, size) in [-1, 1]. Get one from `preprocessing`.
    """

    id: str
    size: int
    """Width and height of the network's input, in pixels."""

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """The prepared image before scaling: uint8 (size, size, 3), a quarter of the memory of network input."""
        view = field_of_view(image)
        width, height = view[2] - view[0], view[3] - view[1]
        side = max(width, height)
        square = image.crop(view)
        if width != height:
            canvas = Image.new("RGB", (side, side))
            canvas.paste(square, ((side - width) // 2, (side - height) // 2))
            square = canvas
        return np.asarray(square.resize((self.size, self.size), Image.Resampling.BICUBIC))

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        return scaled(self.pixels(image))

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "size": self.size}


def preprocessing(id: str, size: int) -> Preprocessing:
    """The preprocessing with this id.

    Raises:
        CheckpointError: an id that this version does not know, or a size out of range.
    """
    if id != FUNDUS_SQUARE:
        raise CheckpointError(
            f"the model requires the preprocessing {str(id)[:100]!r}, which this version of drgate does not have"
            f" (it has {FUNDUS_SQUARE!r}). Nothing was scored: another preprocessing would change the predictions."
        )
    if type(size) is not int or not 16 <= size <= 4096:
        raise CheckpointError(f"the model requires images of {str(size)[:100]} pixels; expected 16 to 4096.")
    return Preprocessing(id, size)
