"""Decoding of photographs. Uses only Pillow and NumPy, so that worker processes start without torch.

preprocess = parse_preprocessing("fundus-square-1@448")                 # drgate.preprocessing
batch = np.stack([preprocess(read_image(path)) for path in paths])      # (n, 3, 448, 448), float32 in [-1, 1]
"""

from __future__ import annotations

import io
import logging
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError

from drgate.content import HEAD, named
from drgate.errors import ImageUnreadable, unchained
from drgate.preprocessing import FORMATS, PreprocessingError, upright

logging.getLogger("PIL").setLevel(logging.INFO)  # at DEBUG it logs the values of EXIF tags

MAX_BYTES: Final = 1 << 30
"""Of an image file: the largest that Pillow's limit of pixels lets through has 720 MB, in 16 bits and four channels."""


@unchained()
def read_image(path: Path, at_least: int | None = None) -> Image.Image:
    """The photograph as upright 8-bit RGB.

    at_least: a JPEG is decoded at the smallest of 1, 1/2, 1/4, 1/8 of its size at which no side is shorter than this
    (`Preprocessing.decoded_at`); None: in full.

    EXIF orientation is applied. 16-bit values are scaled to 8 bits by their full range (65535 -> 255), grayscale is
    repeated in three channels, CMYK and palettes are converted, transparency becomes black (the surround of a fundus
    photograph). Of several frames, the first is used.

    Raises:
        ImageUnreadable: no such file, not an image, truncated, floating-point pixels, or more pixels than Pillow's
            limit against decompression bombs.
    """
    return decode_image(bytes_of(path), path, at_least)


def bytes_of(path: Path) -> bytes:
    """The bytes of an image file, read once: what is hashed is what `decode_image` decodes.

    Raises ImageUnreadable: no such file, not a file, or larger than `MAX_BYTES`.
    """
    try:
        if not stat.S_ISREG((about := path.stat()).st_mode):  # a pipe would be waited for without end
            raise _Refused("it is not a file")
        if about.st_size > MAX_BYTES:
            raise _Refused(f"it is larger than {MAX_BYTES >> 20} MB")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageUnreadable(f"{path}: this image file does not exist.") from error
    except (OSError, ValueError) as error:
        raise ImageUnreadable(f"{path}: this file cannot be read as an image ({_reason(error, b'')}).") from None


def decode_image(data: bytes, path: Path, at_least: int | None = None) -> Image.Image:
    """`read_image` of a file's bytes; path names it in messages."""
    return as_rgb(decode_images(data, path, (at_least,))[0])


def decode_images(data: bytes, path: Path, scales: Sequence[int | None]) -> list[Image.Image]:
    """The same for each of some `at_least`; a photograph of one channel stays one (mode "L"), a third of the work.

    Where two of them give the same decoding, it is one image, decoded once.
    """
    found: dict[tuple[int, int], Image.Image] = {}
    sizes = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata is no reason to reject good pixels ...
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # ... but a bomb is
            for at_least in scales:
                with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                    if at_least is not None:
                        image.draft(None, (at_least, at_least))
                    sizes.append(size := image.size)
                    if size not in found:
                        found[size] = upright(image)
        return [found[size] for size in sizes]
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise ImageUnreadable(
            f"{path}: the image has more than {limit} million pixels, more than any fundus camera; it was not decoded."
        ) from error
    except Exception as error:  # on a damaged file Pillow's decoders raise nearly anything, with bytes of the file
        raise ImageUnreadable(f"{path}: this file cannot be read as an image ({_reason(error, data)}).") from None


def _reason(error: Exception, data: bytes) -> str:
    """Why a file is no image, in words of this module alone."""
    if isinstance(error, _Refused | PreprocessingError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if not isinstance(error, UnidentifiedImageError):
        return "it is damaged or cut off"
    what = named(data[:HEAD])
    return f"it is {what}" if what and not what.endswith(("photograph", "picture")) else "it is damaged, or no image"


class _Refused(ValueError):
    """Its text is one of this module's."""


def as_rgb(image: Image.Image) -> Image.Image:
    """In three channels; the image itself where it has them."""
    return image if image.mode == "RGB" else image.convert("RGB")
