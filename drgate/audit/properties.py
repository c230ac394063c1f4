"""What a clinician would not look at: properties of a photograph's file (acquisition) and of its pixels (content).

    properties(data, decode_image(data, path, HASHED_AT))      # {"bytes": 211034.0, "format": "JPEG", "red": ...}

They are cheap: the pixels are sampled, not averaged, and of the file only its header is read again.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from typing import Final

import numpy as np
from PIL import Image, JpegImagePlugin

ACQUISITION: Final = (
    "bytes",
    "bytes_a_pixel",
    "format",
    "jpeg_quality",
    "jpeg_tables",
    "subsampling",
    "width",
    "height",
    "camera",
    "software",
    "exif",
    "colour_profile",
)
"""Of the file. Text values are categories for comparing photographs; what EXIF says is only there as a digest."""
CONTENT: Final = ("red", "green", "blue", "contrast", "sharpness", "detail", "border", "clipped", "corner")
"""Of the pixels."""

_SAMPLED: Final = 64
_ENDS: Final = (slice(None, 4), slice(-4, None))
_SHORTER: Final = 512
_WINDOW: Final = 128
_DARK: Final = 16
_BRIGHT: Final = 250
_LEAST: Final = 0.1
_MAKE, _MODEL, _SOFTWARE = 271, 272, 305
_LUMINANCE: Final = 3688
"""Sum of the luminance table that libjpeg scales; quality 50 is this table."""


def properties(data: bytes, image: Image.Image) -> dict[str, float | str]:
    """By name, in the order of `ACQUISITION` and `CONTENT`; one that the file does not have is absent.

    data: the file's bytes. image: as decoded from them, upright RGB, perhaps at a part of its size.

    jpeg_quality: 1 to 100, estimated from the luminance table. width, height: as stored. camera, software: digests of
    what EXIF says, for a cache keeps these values, and a person's name may be there. red, green, blue: mean, 0 to 255,
    of what is not black. contrast: standard deviation of its green. sharpness: mean absolute Laplacian of the green
    channel in the middle, at 512 pixels on the shorter side. detail: that of the pixels as decoded, over that of blocks
    of 4 x 4; of all that was tried, sharpening raises it most. border: black share. clipped: share of what is not black
    that has a channel of 250 or more. corner: mean of the brightest corner.
    """
    return {**_of_file(data), **_of_pixels(image)}


def _of_file(data: bytes) -> dict[str, float | str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged metadata
        with Image.open(io.BytesIO(data)) as header:
            width, height = header.size
            found: dict[str, float | str] = {
                "bytes": float(len(data)),
                "bytes_a_pixel": len(data) / (width * height),
                "format": f"{header.format}{' progressive' if header.info.get('progressive') else ''}",
            }
            if isinstance(header, JpegImagePlugin.JpegImageFile):
                tables = [list(table) for _, table in sorted(header.quantization.items())]
                if tables:
                    scale = 100 * sum(tables[0]) / _LUMINANCE
                    found["jpeg_quality"] = float(round(100 - scale / 2 if scale <= 100 else 5000 / scale))
                found["jpeg_tables"] = hashlib.sha256(str(tables).encode()).hexdigest()[:16]
                found["subsampling"] = str(JpegImagePlugin.get_sampling(header))
            found |= {"width": float(width), "height": float(height)}
            try:
                exif = dict(header.getexif())
            except Exception:  # Pillow raises nearly anything on damaged EXIF
                exif = {}
            named = {"camera": (_MAKE, _MODEL), "software": (_SOFTWARE,)}
            for name, tags in named.items():
                if text := " ".join(str(exif[tag]).strip("\0 ") for tag in tags if tag in exif)[:64].strip():
                    found[name] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
            found["exif"] = "yes" if exif else "no"
            found["colour_profile"] = "yes" if header.info.get("icc_profile") else "no"
            return found


def _of_pixels(image: Image.Image) -> dict[str, float | str]:
    few = image.resize((_SAMPLED, _SAMPLED), Image.Resampling.NEAREST)
    planes = [np.asarray(channel) for channel in few.split()]
    brightest = np.maximum(np.maximum(*planes[:2]), planes[2])
    lit = brightest > _DARK
    if not lit.any():
        lit = ~lit
    red, green, blue = (plane[lit] for plane in planes)
    shorter = min(image.size)
    finest = _middle(image, min(shorter, 2 * _WINDOW))
    fixed = _middle(image, shorter * _WINDOW // _SHORTER).resize((_WINDOW, _WINDOW), Image.Resampling.BOX)
    return {
        "red": float(red.mean()),
        "green": float(green.mean()),
        "blue": float(blue.mean()),
        "contrast": float(green.std()),
        "sharpness": _roughness(fixed),
        "detail": _roughness(finest) / max(_roughness(finest.reduce(4)), _LEAST),
        "border": float((brightest <= _DARK).mean()),
        "clipped": float((brightest[lit] >= _BRIGHT).mean()),
        "corner": float(max(brightest[rows, columns].mean() for rows in _ENDS for columns in _ENDS)),
    }


def _middle(image: Image.Image, side: int) -> Image.Image:
    """The green channel of a square in the middle, black beyond the edges."""
    side = max(side, 12)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).getchannel("G")


def _roughness(image: Image.Image) -> float:
    """Mean absolute Laplacian."""
    pixels = np.asarray(image).astype(np.int16)
    middle = pixels[1:-1, 1:-1]
    around = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:]
    return float(np.abs(4 * middle - around).mean())
