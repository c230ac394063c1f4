"""Whether a photograph can be graded: six measures, and six limits that somebody else can write again.

    found = measures(image, *reduced_copy(image))       # drgate.preprocessing
    gradable(found)                                     # "" or "focus 0.94, below 1.4"
    Rule.from_json(json.loads(text))                    # other limits: {"format": "drgate quality 1", "size": 160, ...}

Needs NumPy and Pillow alone and imports nothing of drgate, as drgate/preprocessing.py, of which it takes the reduced
copy (256 to 511 blocks along the longest side) and the box of the field of view in it. The box is resized by Pillow's
`BOX` filter so that its longer side m is 160 blocks, the shorter one rounded; a smaller box is left as it is. So an eye
has nearly the same measures at any size.

Of the w x h blocks, only those (x, y) count whose centre is within .45 m of the middle:
(2 x - w + 1)^2 + (2 y - h + 1)^2 <= .81 m^2. A block's brightness is the largest of its three channels.

size        the shorter side of the box, in pixels of the photograph as it was decoded
field       share of the blocks with a brightness of at least 24
brightness  mean brightness, 0 to 255
burnt       share of the blocks with a green of at least 240
contrast    root mean square of max(0, M - green), where M is the mean green of the 11 x 11 blocks around each block,
            rounded as Pillow's `BoxBlur(5)` does, which repeats the outermost blocks
focus       the same with the 5 x 5 blocks around it

Vessels and lesions are darker than what is around them; of a photograph out of focus, or behind a cloudy lens, the
small differences are the first to go. The limits (`RULE`) and how they were chosen: docs/audit.md, "Quality". It is not
a test of whether the picture is a fundus photograph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from PIL import Image, ImageChops, ImageFilter

FORMAT: Final = "drgate quality 1"
MOST: Final = {"size": 10_000.0, "field": 1.0, "brightness": 255.0, "burnt": 1.0, "contrast": 255.0, "focus": 255.0}
"""The largest limit that a rule can have, by measure, in the order in which a reason is looked for."""
LONGER: Final = 160
"""Blocks along the longer side of the field of view, at most."""
_SQUARES: Final = np.arange(256) ** 2


@dataclass(frozen=True, slots=True)
class Rule:
    """The limits: `burnt` is the most that can be graded, every other one the least. Units as of `measures`."""

    size: float
    field: float
    brightness: float
    burnt: float
    contrast: float
    focus: float

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    def __str__(self) -> str:
        *most, last = [f"{name} {'above' if name == 'burnt' else 'below'} {getattr(self, name):g}" for name in MOST]
        return f"{', '.join(most)} or {last}"

    @classmethod
    def from_json(cls, plain: object, origin: str = "The quality rule") -> Rule:
        """The inverse of `to_json`. Raises ValueError, a sentence that names `origin`, for anything else."""
        if not isinstance(plain, Mapping) or plain.get("format") != FORMAT or set(plain) != {"format", *MOST}:
            raise ValueError(f"{origin} is none; expected format: {FORMAT} and the keys {', '.join(MOST)}.")
        for name, most in MOST.items():
            limit = plain[name]
            if type(limit) not in (int, float) or not 0 <= limit <= most:
                raise ValueError(f"{origin}: {name} is {str(limit)[:100]}; expected a number from 0 to {most:g}.")
        return cls(**{name: float(plain[name]) for name in MOST})


RULE: Final = Rule(size=160, field=0.73, brightness=33, burnt=0.17, contrast=1.7, focus=1.4)
"""Of drgate; each limit has two digits."""


def measures(image: Image.Image, copy: Image.Image, box: tuple[int, int, int, int]) -> dict[str, float]:
    """By name. image: as decoded, upright RGB. copy, box: `drgate.preprocessing.reduced_copy` of it."""
    across, down = box[2] - box[0], box[3] - box[1]
    scale = min(1.0, LONGER / max(across, down))
    width, height = (max(1, round(side * scale)) for side in (across, down))
    field = copy.resize((width, height), Image.Resampling.BOX, box)
    x, y = np.arange(width), np.arange(height)[:, None]
    inside = Image.fromarray((2 * x - width + 1) ** 2 + (2 * y - height + 1) ** 2 <= 0.81 * max(width, height) ** 2)
    red, green, blue = field.split()
    brightness, greens, contrast, focus = (
        np.asarray(one.histogram(inside))
        for one in (
            ImageChops.lighter(ImageChops.lighter(red, green), blue),
            green,
            *(ImageChops.subtract(green.filter(ImageFilter.BoxBlur(radius)), green) for radius in (5, 2)),
        )
    )
    blocks = int(greens.sum())
    return {
        "size": float(round(min(across * image.width / copy.width, down * image.height / copy.height))),
        "field": int(brightness[24:].sum()) / blocks,
        "brightness": int(brightness @ np.arange(256)) / blocks,
        "burnt": int(greens[240:].sum()) / blocks,
        "contrast": math.sqrt(int(contrast @ _SQUARES) / blocks),
        "focus": math.sqrt(int(focus @ _SQUARES) / blocks),
    }


def gradable(measures: Mapping[str, float], rule: Rule = RULE) -> str:
    """Empty if a photograph with these measures can be graded, else the first limit that it does not meet."""
    for name in MOST:
        limit, value = getattr(rule, name), measures[name]
        if value > limit if name == "burnt" else value < limit:
            return f"{name} {value:.3g}, {'above' if name == 'burnt' else 'below'} {limit:g}"
    return ""


def score(measures: Mapping[str, float], rule: Rule = RULE) -> float:
    """How far from refusal, to rank photographs: at least 1 where `gradable`, below 1 where not; 0 where size, field,
    brightness or burnt is why. The smaller one of contrast and focus, each over its limit."""
    if gradable({**measures, "contrast": MOST["contrast"], "focus": MOST["focus"]}, rule):
        return 0.0
    return min(measures["contrast"] / max(rule.contrast, 1e-9), measures["focus"] / max(rule.focus, 1e-9))
