"""How a photograph becomes network input, as data: what a model was trained on is written down, never assumed.

    recipe = parse_preprocessing("imagenet-stretch@448")
    batch = np.stack([recipe(image) for image in images])        # (n, 3, 448, 448) float32, of upright RGB photographs
    recipe.digest                                                # 'sha256:...' over every key but the name

Needs NumPy and Pillow alone and imports nothing of drgate: an exported model carries a copy of this file. The
arithmetic of OpenCV's and torch's resampling is written here again, so that neither has to be installed; tests compare
it with the originals.

The steps, in this order: decode; upright; crop; shape (resize, and pad or centre crop to a square of `size`); channels;
scale; layout.

`decode: scaled`: libjpeg reduces a JPEG by 8, 4, 2 or 1, the largest factor f with every side at least 2 f size.

Upright: turned as its EXIF says; 16-bit values divided by 257 and rounded half to even; put over black where it is
transparent; in RGB.

`scale`, in float32: `range: [a, b]` is value ((b - a) / 255) + a; `mean` and `std` is (value / 255 - mean) / std.

`field_of_view_1`: the image is averaged over blocks of max(1, longest side // 512) pixels, each block's brightness is
the largest of its three channels, rounded half up as Pillow's `reduce` does. A block is lit if it is above the larger
of 8 and .08 times the .9 quantile (linear interpolation) of all blocks. A column or row of blocks counts if at least
.02 of its blocks are lit. The box runs from the first to the last that counts, in pixels at most the image's size. If
less than an eighth of the columns or rows counts, the box is the whole image.

`field_of_view_2`: the same with blocks of max(1, longest side // 256) pixels, .12 times the quantile and .04 of the
blocks of a column or row. The reduced copy is the image averaged over the blocks, all three channels rounded as Pillow
does: of n pixels with the sum s, floor((s + floor(n / 2)) floor(2^24 / n) / 2^24).

`fundus-square-2`, for photographs of many megapixels, in full. The image is decoded as `decode: scaled` says, turned
upright, made RGB, and cropped by `field_of_view_2`. Of the box of width w and height h, with the longer side m, the new
width is floor(size w / m + 1/2), at least 1; the height likewise. Where floor(w / new width / 1.2) is above 1, the box
is averaged over so many columns first; the same for rows (rounded likewise, the last block smaller where it does not
fit). Pillow's bicubic `resize` of (0, 0, w / columns, h / rows) gives the new size, which lies in the centre of a black
square: floor of half of what is left over is to its left, and above it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMAT: Final = "drgate preprocessing 1"
FUNDUS_SQUARE: Final = "fundus-square-1"
"""The preset of models that drtrain trains from their base model."""
FUNDUS_SQUARE_2: Final = "fundus-square-2"
"""Like it, but made of a JPEG that is decoded at a part of its size; see the module's text."""

FORMATS: Final = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000", "GIF")
"""The accepted image formats. Pillow's other decoders are not used: one of them runs a PostScript interpreter."""

MAX_PIXELS: Final = 200_000_000
"""Of a padded or resized photograph: a strip of one pixel's height would fill any memory."""

_PILLOW: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
_FILTERS: Final = {"pillow": tuple(_PILLOW), "opencv": ("linear", "area"), "torch": ("bilinear", "bicubic")}
_CHANNELS: Final[dict[str, tuple[int, int, int]]] = {"rgb": (0, 1, 2), "bgr": (2, 1, 0), "green": (1, 1, 1)}
_IMAGENET: Final = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_FIELDS: Final = {"field_of_view_1": (512, 0.08, 0.02), "field_of_view_2": (256, 0.12, 0.04)}
"""Least number of blocks along the longest side, share of the quantile, share of blocks: see the module's text."""

PRESETS: Final[dict[str, dict[str, Any]]] = {
    # Of this project: crop to the field of view, pad with black, Pillow's bicubic, -1 to 1.
    FUNDUS_SQUARE: {
        "crop": "field_of_view_1",
        "shape": "pad",
        "resample": {"by": "pillow", "filter": "bicubic"},
        "scale": {"range": [-1, 1]},
    },
    # Of this project: the same in a third of the time.
    FUNDUS_SQUARE_2: {
        "decode": "scaled",
        "crop": "field_of_view_2",
        "shape": "fit",
        "resample": {"by": "pillow", "filter": "bicubic", "gap": 1.2},
        "scale": {"range": [-1, 1]},
    },
    # transformers, SiglipImageProcessor (PIL): google/siglip-* and google/medsiglip-448, preprocessor_config.json.
    "siglip": {"resample": {"by": "pillow", "filter": "bicubic"}, "scale": {"mean": [0.5] * 3, "std": [0.5] * 3}},
    # Google's notebooks for MedSigLIP: tf.image.resize, bilinear, antialias=False, then -1 to 1.
    "medsiglip-tf": {
        "resample": {"by": "torch", "filter": "bilinear", "antialias": False},
        "scale": {"mean": [0.5] * 3, "std": [0.5] * 3},
    },
    # Trainers that read with OpenCV: cv2.resize to a square, mean and deviation of ImageNet.
    "imagenet-stretch": {"resample": {"by": "opencv", "filter": "linear"}, "scale": _IMAGENET},
    # RETFound (rmaphoh/RETFound, util/datasets.py, evaluation): shorter side to 256 by Pillow's bicubic, centre 224.
    "retfound": {
        "size": 224,
        "shape": {"shorter_side": 256},
        "resample": {"by": "pillow", "filter": "bicubic"},
        "scale": _IMAGENET,
    },
}
"""By name, the keys that differ from the defaults of `Preprocessing`."""


Reduced = tuple[Image.Image, tuple[int, int, int, int]]
"""What `reduced_copy` gives."""


class PreprocessingError(ValueError):
    """A preprocessing that is not complete, not known, or cannot be applied; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """One way from a photograph to network input.

    name: for people; not in the digest. decode: "full", or "scaled" (JPEG at the smallest scale that is at least twice
    `size`). crop: "none", "field_of_view_1", "field_of_view_2", or {"centre": share of width and height}.
    shape: "stretch" to a square; "pad" with black to a square, then resize; "fit": resize, then pad with black to a
    square; "crop" the central square, then resize;
    {"shorter_side": n} or {"stretch": n}: resize the shorter side, or both, to n, then the central square of `size`. It
    begins at half of what is left over, rounded half to even as torchvision does; with "cut": "floor" beside n, rounded
    down as transformers does.
    size: width and height of the input, in pixels. resample: by "pillow" (results rounded to whole grey levels),
    "opencv" (likewise) or "torch" (not rounded), and the filter's name there. With "gap" by "pillow": averaged over
    blocks first, down to this many times the new size or more (Pillow's `reducing_gap`).
    channels: "rgb", "bgr" or "green" three times. scale: {"mean", "std"} of values 0 to 1, or the {"range"} that 0 to
    255 becomes. layout: "nchw" or "nhwc".
    """

    name: str
    size: int = 448
    decode: str = "full"
    crop: Any = "none"
    shape: Any = "stretch"
    resample: Any = dataclasses.field(default_factory=lambda: {"by": "pillow", "filter": "bicubic"})
    channels: str = "rgb"
    scale: Any = dataclasses.field(default_factory=lambda: {"range": [-1, 1]})
    layout: str = "nchw"
    dtype: str = "float32"

    def content(self) -> dict[str, Any]:
        """Every key, defaults filled in, as JSON has it; `read_preprocessing` of it gives the same preprocessing."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @property
    def digest(self) -> str:
        """`sha256:...` over the canonical JSON of all keys but `name`."""
        kept = {key: value for key, value in self.content().items() if key != "name"}
        text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    @property
    def label(self) -> str:
        """What it is called where files have no names: its preset with the size, else its digest."""
        for name in PRESETS:
            with contextlib.suppress(PreprocessingError):  # of a size that this preset cannot have
                if parse_preprocessing(found := f"{name}@{self.size}").digest == self.digest:
                    return found
        return self.digest

    @property
    def whole_levels(self) -> bool:
        """Whether `pixels` are whole grey levels, which fit into a quarter of the memory."""
        return bool(self.resample["by"] != "torch")

    @property
    def decoded_at(self) -> int | None:
        """The shortest side that a JPEG may be decoded at; None: in full."""
        return 2 * self.size if self.decode == "scaled" else None

    def pixels(self, image: Image.Image, reduced: Reduced | None = None) -> NDArray[np.uint8] | NDArray[np.float32]:
        """The prepared upright photograph before channels and scale: (size, size, 3), 0 to 255.

        image: RGB, or L (grey), which gives the same as with its channel three times, in less time. uint8 where the
        resampling rounds, else float32. reduced: its `reduced_copy`, where that is at hand already.
        Raises PreprocessingError for an image that is so long and narrow that it would have more than `MAX_PIXELS` on
        the way.
        """
        if image.mode not in ("RGB", "L"):
            raise PreprocessingError(f"The photograph has the mode {image.mode}; expected RGB or L.")
        image = self._cropped(image, reduced)
        width, height = image.size
        cut = self.size
        match self.shape:
            case "pad":
                image = _padded(image)
                wanted = (cut, cut)
            case "fit":
                longer = max(width, height)
                inner = [max(1, (2 * cut * side + longer) // (2 * longer)) for side in (width, height)]
                fitted = _resized(image, (inner[0], inner[1]), self.resample)
                left, top = ((cut - side) // 2 for side in inner)
                canvas = np.zeros((cut, cut, 3), fitted.dtype)
                canvas[top : top + inner[1], left : left + inner[0]] = fitted
                return canvas
            case "crop":
                side = min(width, height)
                image = _central(image, side, side)
                wanted = (cut, cut)
            case {"shorter_side": int(side)}:
                # The longer side is cut off to whole pixels, as torchvision does.
                wanted = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
            case {"stretch": int(side)}:
                wanted = (side, side)
            case _:
                wanted = (cut, cut)
        if math.prod(wanted) > MAX_PIXELS:
            raise PreprocessingError(f"The photograph of {width} x {height} pixels is too narrow to be resized.")
        found = _resized(image, wanted, self.resample)
        floor = isinstance(self.shape, dict) and "cut" in self.shape
        top, left = ((length - cut) // 2 if floor else round((length - cut) / 2) for length in found.shape[:2])
        return found[top : top + cut, left : left + cut]

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Network input of one upright RGB photograph: float32, (3, size, size), or (size, size, 3) for nhwc."""
        return self.scaled(self.pixels(image))

    def scaled(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Pixels (..., size, size, 3) of 0 to 255 as network input (..., 3, size, size), or (..., size, size, 3)."""
        values = pixels[..., list(self.order)].astype(np.float32)
        if "range" in self.scale:
            low, high = (np.float32(end) for end in self.scale["range"])
            values *= (high - low) / np.float32(255)
            values += low
        else:
            values /= np.float32(255)
            values -= np.array(self.scale["mean"], dtype=np.float32)
            values /= np.array(self.scale["std"], dtype=np.float32)
        return np.ascontiguousarray(np.moveaxis(values, -1, -3)) if self.layout == "nchw" else values

    def unscaled(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """What `scaled` did, undone: one network input as (size, size, 3) of 0 to 255, its channels as they are."""
        levels = np.moveaxis(values, 0, -1).astype(np.float64) if self.layout == "nchw" else values.astype(np.float64)
        if "range" in self.scale:
            low, high = self.scale["range"]
            return np.asarray((levels - low) / (high - low) * 255, dtype=np.float32)
        return np.asarray((levels * self.scale["std"] + self.scale["mean"]) * 255, dtype=np.float32)

    @property
    def order(self) -> tuple[int, int, int]:
        """Which of red, green, blue (0, 1, 2) each channel of the network input is."""
        return _CHANNELS[self.channels]

    def _cropped(self, image: Image.Image, reduced: Reduced | None) -> Image.Image:
        match self.crop:
            case "field_of_view_1":
                return image.crop(field_of_view(image))
            case "field_of_view_2":
                return image.crop(_unreduced((reduced or reduced_copy(image))[1], image, "field_of_view_2"))
            case {"centre": share}:
                width, height = (max(1, round(share * length)) for length in image.size)
                return _central(image, width, height)
        return image


def parse_preprocessing(text: str) -> Preprocessing:
    """The preset `NAME` or `NAME@SIZE`. Raises PreprocessingError, which names the presets."""
    name, at, size = text.partition("@")
    if name not in PRESETS or (at and not re.fullmatch(r"[1-9][0-9]{0,4}", size)):
        raise PreprocessingError(
            f"There is no preprocessing {text[:100]!r}; expected one of {', '.join(PRESETS)}, with @SIZE for another "
            "size (such as siglip@384), or a file."
        )
    keys = dict(PRESETS[name])
    if at:
        if isinstance(shape := keys.get("shape"), dict):
            (how, length), own = next(iter(shape.items())), keys["size"]
            keys["shape"] = {how: round(length * int(size) / own)}
        keys["size"] = int(size)
    found = Preprocessing(name="", **keys)
    return read_preprocessing({**found.content(), "name": f"{name}@{found.size}"}, text)


def read_preprocessing(plain: object, origin: str) -> Preprocessing:
    """A preprocessing from plain values, as in JSON or YAML; `origin` names it in messages.

    `size`, `shape`, `resample` and `scale` are required: none of them is usual. The others have defaults, which do
    nothing. Raises PreprocessingError for a missing or unknown key, or a value that is not as `Preprocessing` says.
    """
    known = {"format", *(field.name for field in dataclasses.fields(Preprocessing))}
    try:
        plain = json.loads(json.dumps(plain, allow_nan=False))  # lists, not tuples; nothing that is shared
    except (TypeError, ValueError, RecursionError) as problem:
        raise PreprocessingError(f"{origin} holds something else than plain values.") from problem
    if not isinstance(plain, Mapping) or plain.get("format") != FORMAT:
        raise PreprocessingError(f"{origin} is not a preprocessing; expected keys and values with format: {FORMAT}.")
    if unknown := [str(key) for key in plain if key not in known]:
        raise PreprocessingError(
            f"{origin}: {unknown[0][:100]!r} is not a key of a preprocessing; expected {', '.join(sorted(known))}."
        )
    for key, expected, _ in _RULES:
        if key in ("size", "shape", "resample", "scale") and key not in plain:
            raise PreprocessingError(f"{origin}: {key} is missing; expected {expected}.")
    keys = {key: value for key, value in plain.items() if key != "format"}
    try:
        found = Preprocessing(**{"name": "unnamed", **keys})
    except TypeError as problem:
        raise PreprocessingError(f"{origin}: {problem}.") from problem
    for key, expected, fits in _RULES:
        if not fits(getattr(found, key), found):
            shown = json.dumps(getattr(found, key), default=str)[:100]
            raise PreprocessingError(f"{origin}: {key} is {shown}; expected {expected}.")
    # One digest, however a number is written.
    scale = {key: [float(number) for number in numbers] for key, numbers in found.scale.items()}
    crop = {"centre": float(found.crop["centre"])} if isinstance(found.crop, dict) else found.crop
    resample = {key: float(value) if key == "gap" else value for key, value in found.resample.items()}
    return dataclasses.replace(found, scale=scale, crop=crop, resample=resample)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e6 <= value <= 1e6


def _is_size(value: Any) -> bool:
    return type(value) is int and 16 <= value <= 4096


def _is_crop(value: Any, _: Preprocessing) -> bool:
    if isinstance(value, dict):
        return set(value) == {"centre"} and _is_number(value["centre"]) and 0 < value["centre"] <= 1
    return value in ("none", *_FIELDS)


def _is_shape(value: Any, found: Preprocessing) -> bool:
    if isinstance(value, dict):
        length: Any = value.get("shorter_side", value.get("stretch"))
        known = [{"shorter_side"}, {"stretch"}, {"shorter_side", "cut"}, {"stretch", "cut"}]
        return {*value} in known and value.get("cut", "floor") == "floor" and _is_size(length) and length >= found.size
    return value in ("stretch", "pad", "fit", "crop")


def _is_resample(value: Any, _: Preprocessing) -> bool:
    if not isinstance(value, dict) or value.get("by") not in _FILTERS:
        return False
    wanted = {"by", "filter"} | ({"antialias"} if value["by"] == "torch" else set())
    gap = value.get("gap", 1)
    return (
        set(value) - ({"gap"} if value["by"] == "pillow" else set()) == wanted
        and value["filter"] in _FILTERS[value["by"]]
        and type(value.get("antialias", True)) is bool
        and _is_number(gap)
        and gap >= 1
    )


def _is_scale(value: Any, _: Preprocessing) -> bool:
    if not isinstance(value, dict):
        return False
    if set(value) == {"range"}:
        ends = value["range"]
        return isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends)) and ends[0] < ends[1]
    return (
        set(value) == {"mean", "std"}
        and all(isinstance(part, list) and len(part) == 3 and all(map(_is_number, part)) for part in value.values())
        and all(one >= 1e-6 for one in value["std"])
    )


_RULES: Final = (
    ("name", "a short text", lambda value, _: isinstance(value, str) and 0 < len(value) <= 100),
    ("size", "a whole number of pixels, 16 to 4096", lambda value, _: _is_size(value)),
    ("decode", "full or scaled", lambda value, _: value in ("full", "scaled")),
    ("crop", "none, field_of_view_1, field_of_view_2 or {centre: 0.875}", _is_crop),
    ("shape", "stretch, pad, fit, crop, {shorter_side: N} or {stretch: N} with N of at least the size", _is_shape),
    (
        "resample",
        "{by: pillow, filter: bilinear, bicubic, lanczos or box} with or without a gap of at least 1, "
        "{by: opencv, filter: linear or area} or {by: torch, "
        "filter: bilinear or bicubic, antialias: true or false}",
        _is_resample,
    ),
    ("channels", "rgb, bgr or green", lambda value, _: isinstance(value, str) and value in _CHANNELS),
    ("scale", "{mean: [r, g, b], std: [r, g, b]} or {range: [low, high]}", _is_scale),
    ("layout", "nchw or nhwc", lambda value, _: value in ("nchw", "nhwc")),
    ("dtype", "float32", lambda value, _: value == "float32"),
)


# -- shapes ------------------------------------------------------------------------------------------------------------


def field_of_view(image: Image.Image, kind: str = "field_of_view_1") -> tuple[int, int, int, int]:
    """Bounding box (left, upper, right, lower) of the lit retina in an RGB image, in pixels; see the module's text."""
    return _unreduced(reduced_copy(image, kind)[1], image, kind)


def reduced_copy(image: Image.Image, kind: str = "field_of_view_2") -> Reduced:
    """An RGB or grey image averaged over blocks, and the box of its field of view, in blocks; see the module's text."""
    _, darkest, least = _FIELDS[kind]
    copy = image.reduce(_block(image, kind))
    brightness = functools.reduce(np.maximum, map(np.asarray, copy.split()))
    lit = brightness > max(8.0, darkest * float(np.quantile(brightness, 0.9)))
    columns = np.flatnonzero(lit.mean(axis=0) >= least)
    rows = np.flatnonzero(lit.mean(axis=1) >= least)
    if len(columns) * 8 < copy.width or len(rows) * 8 < copy.height:
        return copy, (0, 0, copy.width, copy.height)
    return copy, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _block(image: Image.Image, kind: str) -> int:
    return max(1, max(image.size) // _FIELDS[kind][0])


def _unreduced(box: tuple[int, int, int, int], image: Image.Image, kind: str) -> tuple[int, int, int, int]:
    """A box of blocks in pixels of the image."""
    left, upper, right, lower = (_block(image, kind) * edge for edge in box)
    return left, upper, min(right, image.width), min(lower, image.height)


def _padded(image: Image.Image) -> Image.Image:
    """With black at both sides of the shorter direction, to a square."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    if side * side > MAX_PIXELS:
        raise PreprocessingError(f"The photograph of {width} x {height} pixels is too narrow to be padded.")
    canvas = Image.new(image.mode, (side, side))
    canvas.paste(image, ((side - width) // 2, (side - height) // 2))
    return canvas


def _central(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def upright(image: Image.Image) -> Image.Image:
    """An opened photograph, decoded and turned as its EXIF says, in 8 bits: RGB, or L where it has one channel.

    16-bit values are scaled by their full range (65535 -> 255), rounded half to even; CMYK and palettes are converted;
    transparency becomes black. Raises PreprocessingError for other values.
    """
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F":
        raise PreprocessingError("floating-point pixels without a stated range; expected 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise PreprocessingError("pixel values outside 0-65535")
        eight = np.empty(values.shape, np.uint8)
        for row, into in zip(values, eight, strict=True):  # wide numbers for one row at a time
            into[:] = np.round(row / 257)
        return Image.fromarray(eight)
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return image if image.mode in ("RGB", "L") else image.convert("RGB")


# -- resampling --------------------------------------------------------------------------------------------------------


def _resized(image: Image.Image, size: tuple[int, int], how: Mapping[str, Any]) -> NDArray[Any]:
    """An RGB or grey image at (width, height) = size: (height, width, 3), uint8, or float32 by torch."""
    if how["by"] == "pillow":
        return np.asarray(image.resize(size, _PILLOW[how["filter"]], reducing_gap=how.get("gap")).convert("RGB"))
    if image.mode != "RGB":
        image = image.convert("RGB")
    pixels, (width, height) = np.asarray(image), size
    if how["by"] == "torch":
        taps = [_torch_taps(of, to, how["filter"], how["antialias"]) for of, to in zip(image.size, size, strict=True)]
        across = _weighted(pixels.astype(np.float32), taps[0], axis=1)
        return _weighted(across, taps[1], axis=0)
    if how["filter"] == "area" and image.width >= width and image.height >= height:
        return _opencv_area(pixels, width, height)
    return _opencv_linear(pixels, width, height, area=how["filter"] == "area")


def _opencv_linear(pixels: NDArray[np.uint8], width: int, height: int, *, area: bool) -> NDArray[np.uint8]:
    """OpenCV's INTER_LINEAR of 8-bit images, in its fixed-point arithmetic; area: its INTER_AREA where it enlarges."""
    if not area and pixels.shape[1] == 2 * width and pixels.shape[0] == 2 * height:
        return _opencv_area(pixels, width, height)  # as OpenCV does at exactly half the size
    (left, right, a0, a1), (top, bottom, b0, b1) = (
        _opencv_taps(of, to, area) for of, to in ((pixels.shape[1], width), (pixels.shape[0], height))
    )
    wide = pixels.astype(np.int32)
    rows = [wide[of][:, left] * a0[:, None] + wide[of][:, right] * a1[:, None] for of in (top, bottom)]
    upper, lower = ((weight[:, None, None] * (row >> 4)) >> 16 for weight, row in zip((b0, b1), rows, strict=True))
    return np.asarray(((upper + lower + 2) >> 2).clip(0, 255), dtype=np.uint8)


def _opencv_taps(source: int, target: int, area: bool) -> tuple[NDArray[Any], ...]:
    """Two neighbours of every target pixel and their weights in 2048ths."""
    scale = 1 / (target / source)  # in OpenCV's order, which decides where a product is whole
    at = np.arange(target)
    if area:
        first = np.floor(at * scale).astype(np.int64)
        share = (at + 1 - (first + 1) * (target / source)).astype(np.float32)
        share = np.where(share <= 0, 0, share - np.floor(share)).astype(np.float32)
    else:
        centre = ((at + 0.5) * scale - 0.5).astype(np.float32)
        first = np.floor(centre).astype(np.int64)
        share = (centre - first).astype(np.float32)
    share = np.where((first < 0) | (first >= source - 1), np.float32(0), share)
    first = first.clip(0, source - 1)
    weights = [np.rint(part * np.float32(2048)).astype(np.int32) for part in (np.float32(1) - share, share)]
    return first, np.minimum(first + 1, source - 1), *weights


def _opencv_area(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """OpenCV's INTER_AREA of 8-bit images that are made smaller: means of the covered area."""
    across, down = pixels.shape[1] / width, pixels.shape[0] / height
    if across == int(across) and down == int(down):
        blocks = pixels.reshape(height, int(down), width, int(across), 3).astype(np.int64).sum(axis=(1, 3))
        if across == down == 2:
            return np.asarray((blocks + 2) >> 2, dtype=np.uint8)
        return np.asarray(np.rint(blocks.astype(np.float32) * np.float32(1 / (across * down))), dtype=np.uint8)
    found = _weighted(pixels.astype(np.float32), _area_taps(pixels.shape[1], width), axis=1)
    return np.rint(_weighted(found, _area_taps(pixels.shape[0], height), axis=0)).clip(0, 255).astype(np.uint8)


_Taps = list[tuple[int, NDArray[np.float32]]]
"""For every target pixel the first source pixel and the weights from there on."""


def _area_taps(source: int, target: int) -> _Taps:
    scale, taps = source / target, []
    for at in range(target):
        begin, end = at * scale, min((at + 1) * scale, source)
        first, last = math.floor(begin), math.ceil(end - 1e-9)
        edges = np.arange(first, last + 1, dtype=np.float64).clip(begin, end)
        cover = np.diff(edges)
        kept = cover > 1e-3 * (np.arange(len(cover)) % max(1, len(cover) - 1) == 0)
        taps.append((first, np.where(kept, cover / min(scale, source - begin), 0).astype(np.float32)))
    return taps


def _torch_taps(source: int, target: int, kind: str, antialias: bool) -> _Taps:
    """Weights of torch's `interpolate` with align_corners=False; TensorFlow's `resize` has the same for bilinear."""
    scale, taps = source / target, []
    cubic = kind == "bicubic"
    if antialias:
        wider = max(scale, 1.0)
        reach = (2.0 if cubic else 1.0) * wider
        for at in range(target):
            centre = scale * (at + 0.5)
            first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), source)
            distance = (np.arange(first, last) - centre + 0.5) / wider
            weights = _cubic(distance, -0.5) if cubic else (1 - np.abs(distance)).clip(0)
            taps.append((first, (weights / weights.sum()).astype(np.float32)))
        return taps
    for at in range(target):
        centre = scale * (at + 0.5) - 0.5
        if not cubic:
            centre = max(centre, 0.0)
        first = math.floor(centre)
        near = np.arange(first - 1, first + 3) if cubic else np.arange(first, first + 2)
        weights = _cubic(near - centre, -0.75) if cubic else 1 - np.abs(near - centre)
        inside = near.clip(0, source - 1)  # the border is repeated
        begin = int(inside[0])
        taps.append((begin, np.bincount(inside - begin, weights=weights).astype(np.float32)))
    return taps


def _cubic(distance: NDArray[Any], a: float) -> NDArray[np.float64]:
    """Keys' cubic convolution (1981, IEEE Transactions on Acoustics, Speech and Signal Processing 29:1153)."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _weighted(values: NDArray[np.float32], taps: _Taps, axis: int) -> NDArray[np.float32]:
    """Weighted sums along an axis."""
    along = np.moveaxis(values, axis, 0)
    found = np.empty((len(taps), *along.shape[1:]), dtype=np.float32)
    for at, (first, weights) in enumerate(taps):
        found[at] = np.tensordot(weights, along[first : first + len(weights)], axes=1)
    return np.moveaxis(found, 0, axis)


# -- what lies beside a model ------------------------------------------------------------------------------------------


_BY_NUMBER: Final = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
_SILENT: Final = {
    "_processor_class", "processor_class", "image_processor_type", "feature_extractor_type", "image_processor_class",
    "do_convert_rgb", "default_to_square", "data_format", "input_data_format", "return_tensors", "device",
}  # fmt: skip
"""Keys of transformers that change nothing here: photographs are upright RGB, one at a time."""
_LIKE_SIGLIP: Final = re.compile(r"(Siglip|ViT|CLIP|DeiT|Bit|Beit)(ImageProcessor|FeatureExtractor)(Fast|Pil)?")


def of_transformers(plain: object, origin: str) -> Preprocessing:
    """The preprocessing that a Hugging Face `preprocessor_config.json` describes.

    Raises PreprocessingError for a step that has no equal here, naming it, and for one that is not stated.
    """
    if isinstance(plain, Mapping) and isinstance(plain.get("image_processor"), Mapping):
        plain = plain["image_processor"]  # processor_config.json
    if not isinstance(plain, Mapping):
        raise PreprocessingError(f"{origin} is not a preprocessor_config.json; expected keys and values.")
    kind = plain.get("image_processor_type") or plain.get("feature_extractor_type")
    if kind is not None and not _LIKE_SIGLIP.fullmatch(str(kind)):  # others give the same keys another meaning
        raise PreprocessingError(
            f"{origin} is of a {str(kind)[:100]}, which is not read; write the preprocessing in a file."
        )
    given = {str(key): value for key, value in plain.items() if value is not None and key not in _SILENT}
    size, crop, resample = (given.pop(key, None) for key in ("size", "crop_size", "resample"))
    factor = given.pop("rescale_factor", 1 / 255)
    scale = {key: given.pop(f"image_{key}", None) for key in ("mean", "std")}
    # What is not stated is as in every image processor of transformers, but for the crop.
    usual = {"resize": True, "rescale": True, "normalize": True, "center_crop": None if crop is not None else False}
    steps = {key: given.pop(f"do_{key}", found) for key, found in usual.items()}
    if others := [key for key, value in given.items() if value not in (False, {}, [])]:
        raise PreprocessingError(f"{origin}: {others[0][:100]!r} has no equal here; write the preprocessing in a file.")
    if unclear := [key for key, value in steps.items() if type(value) is not bool]:
        raise PreprocessingError(f"{origin}: do_{unclear[0]} is not stated; expected true or false.")
    square, cut = _square_of(size), _square_of(crop if steps["center_crop"] else size)
    shape: Any = "stretch"
    if steps["center_crop"]:
        shape = "stretch" if square == cut else {"stretch": square, "cut": "floor"}
        if type(size) is int:  # some processors take a number for the shorter side, some for both
            if not str(kind).startswith("CLIP"):
                raise PreprocessingError(f"{origin}: size is {size}; write shortest_edge, or height and width.")
            shape = {"shorter_side": size, "cut": "floor"}
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        shape = {"shorter_side": size["shortest_edge"], "cut": "floor"}
        cut = cut if steps["center_crop"] else None
    elif square is None:
        cut = None
    if not steps["resize"] or cut is None:
        raise PreprocessingError(
            f"{origin}: it gives no square input (size {str(size)[:100]}, crop_size {str(crop)[:100]})."
        )
    if not _is_number(resample) or resample not in _BY_NUMBER:
        raise PreprocessingError(
            f"{origin}: resample is {str(resample)[:100]}; expected 1, 2, 3 or 4 (Pillow's filters)."
        )
    if not steps["rescale"] or not _is_number(factor) or not math.isclose(factor, 1 / 255, rel_tol=1e-4):
        raise PreprocessingError(f"{origin}: values are not rescaled by 1/255; write the preprocessing in a file.")
    return read_preprocessing(
        {
            "format": FORMAT,
            "name": "preprocessor_config.json",
            "size": cut,
            "shape": shape,
            "resample": {"by": "pillow", "filter": _BY_NUMBER[resample]},
            "scale": scale if steps["normalize"] else {"range": [0, 1]},
        },
        origin,
    )


def _square_of(size: Any) -> int | None:
    """The side of a square {"height", "width"} or number; None for anything else."""
    if isinstance(size, Mapping):
        size = size["height"] if set(size) == {"height", "width"} and size["height"] == size["width"] else None
    return size if type(size) is int else None


def of_timm(plain: object, origin: str) -> Preprocessing:
    """The preprocessing in a timm `config.json` (its `pretrained_cfg`), as timm's own evaluation applies it.

    Raises PreprocessingError where it states none, or a step that has no equal here.
    """
    config = plain.get("pretrained_cfg") if isinstance(plain, Mapping) else None
    if not isinstance(config, Mapping) or not {"input_size", "interpolation", "mean", "std"} <= set(config):
        raise PreprocessingError(f"{origin} states no preprocessing (pretrained_cfg with input_size, mean and std).")
    size, share, mode = config["input_size"], config.get("crop_pct", 0.875), config.get("crop_mode", "center")
    height = size[1] if isinstance(size, list) and len(size) == 3 else None
    if type(height) is not int or size != [3, height, height] or not _is_number(share) or not 0 < share <= 1:
        raise PreprocessingError(f"{origin}: input_size is {str(size)[:100]}; expected [3, N, N] and a crop_pct.")
    if mode not in ("center", "squash"):
        raise PreprocessingError(
            f"{origin}: crop_mode is {str(mode)[:100]}, which has no equal here; expected center or squash."
        )
    return read_preprocessing(
        {
            "format": FORMAT,
            "name": "timm config.json",
            "size": height,
            "shape": {"shorter_side" if mode == "center" else "stretch": math.floor(height / share)},
            "resample": {"by": "pillow", "filter": config["interpolation"]},
            "scale": {"mean": config["mean"], "std": config["std"]},
        },
        origin,
    )
