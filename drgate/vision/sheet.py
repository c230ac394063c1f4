"""What a model sees: photographs beside their prepared pixels and the network's input, on one sheet.

sheet([Path("left.jpg")], parse_preprocessing("imagenet-stretch@448")).save("sheet.png")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from drgate.errors import ImageUnreadable, visible
from drgate.preprocessing import Preprocessing, PreprocessingError
from drgate.vision.images import read_image

SIDE: Final = 448
"""Of each picture on the sheet, in pixels."""
_LINE: Final = 20
_GAP: Final = 12


def sheet(paths: Sequence[Path], preprocess: Preprocessing) -> Image.Image:
    """A row for each photograph: as it is, prepared, and the network's input with its scale undone.

    The last picture shows the channels in the network's order, the first as red. It is the second again where they are
    red, green and blue.

    Raises ImageUnreadable for a file that is no image, or cannot be prepared.
    """
    row = SIDE + 2 * _LINE + _GAP
    canvas = Image.new("RGB", (3 * SIDE + 4 * _GAP, row * len(paths) + 2 * _LINE), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    draw.text((_GAP, 4), f"{visible(preprocess.name)}  {preprocess.digest}", "black", font)
    for number, path in enumerate(paths):
        photograph = read_image(path, preprocess.decoded_at)
        try:
            pixels, values = preprocess.pixels(photograph), preprocess(photograph)
        except PreprocessingError as problem:
            raise ImageUnreadable(f"{path}: {problem}") from problem
        channels = values.reshape(3, -1) if preprocess.layout == "nchw" else values.reshape(-1, 3).T
        ranges = ", ".join(
            f"{low:.2f} to {high:.2f}" for low, high in zip(channels.min(1), channels.max(1), strict=True)
        )
        pictures = (
            (photograph, visible(path.name), f"{photograph.width} x {photograph.height} pixels"),
            (_picture(pixels), "Prepared", f"{preprocess.size} x {preprocess.size} pixels"),
            (
                _picture(preprocess.unscaled(values)),
                f"Network input, its scale undone, as {preprocess.channels}, {preprocess.layout}",
                f"Values: {ranges}",
            ),
        )
        for column, (picture, *lines) in enumerate(pictures):
            left, top = _GAP + column * (SIDE + _GAP), _LINE + _GAP + number * row
            for index, line in enumerate(lines):
                draw.text((left, top + index * _LINE), line[:70], "black", font)
            canvas.paste(_fitted(picture), (left, top + 2 * _LINE))
    return canvas


def _picture(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(levels).clip(0, 255).astype(np.uint8))


def _fitted(picture: Image.Image) -> Image.Image:
    """Its longer side is `SIDE`; small pictures show their pixels."""
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
