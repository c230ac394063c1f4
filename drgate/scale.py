"""The International Clinical Diabetic Retinopathy (ICDR) severity scale: five grades, their names and groups.

Source: Wilkinson et al. 2003, Ophthalmology 110:1677, doi 10.1016/S0161-6420(03)00475-5.

>>> parse_grade("Proliferate_DR"), parse_grade("2")
(4, 2)
"""

from __future__ import annotations

import re
from typing import Final, Literal

GRADES: Final = ("no_dr", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr")
"""Identifiers of grades 0 to 4, in order; they appear in criterion ids such as `sensitivity:pdr`."""

TITLES: Final = ("No DR", "Mild NPDR", "Moderate NPDR", "Severe NPDR", "PDR")
"""Titles of grades 0 to 4 for people."""

REFERABLE_CLASSES: Final = ("not_referable", "referable")
"""The classes of a model that says only whether to refer."""

Scale = Literal["grades", "referable"]
"""What a reference or a model tells apart: the five grades, or only whether to refer."""

SCALE_TITLES: Final[dict[Scale, tuple[str, ...]]] = {"grades": TITLES, "referable": ("Not referable", "Referable")}
"""Titles of what a scale tells apart."""

STANDS_FOR: Final[dict[Scale, tuple[int, ...]]] = {"grades": (0, 1, 2, 3, 4), "referable": (0, 2)}
"""The grade that stands for each of them in a table of counts: of a side of the threshold the lowest."""

Kind = Literal["logits", "probabilities", "regression", "cumulative_logits", "referable_logit", "referable_probability"]
"""What the outputs of a model are; see `drgate.answers`."""

On = Literal["probabilities", "severity", "referable"]
"""What cut-offs act on: P(grade >= 1) to P(grade >= 4), one score of severity, or the probability of referable."""

GROUPS: Final[dict[str, tuple[int, ...]]] = {
    "any_dr": (1, 2, 3, 4),
    "referable": (2, 3, 4),
    "vision_threatening": (3, 4),
}
"""Groups of grades by DR alone."""

WITH_OEDEMA: Final = ("referable", "vision_threatening")
"""The groups that diabetic macular oedema belongs to, if the table has the column `dme`."""

GROUP_TITLES: Final = {
    "any_dr": "Any DR",
    "referable": "Referable DR",
    "vision_threatening": "Vision-threatening DR",
}

_NAMES: Final[dict[str, int]] = {
    "nodr": 0,
    "normal": 0,
    "noapparentretinopathy": 0,
    "healthy": 0,
    "nodiabeticretinopathy": 0,
    "mild": 1,
    "mildnpdr": 1,
    "milddr": 1,
    "moderate": 2,
    "moderatenpdr": 2,
    "moderatedr": 2,
    "severe": 3,
    "severenpdr": 3,
    "severedr": 3,
    "pdr": 4,
    "proliferative": 4,
    "proliferatedr": 4,
    "proliferativedr": 4,
    "proliferate": 4,
}


def parse_grade(text: str) -> int | None:
    """Grade 0-4 from a digit or one of the usual class names; None if the text is neither.

    Case, spaces, hyphens and underscores do not matter. `2.0` counts as 2 (some programs write
    integers as floats); a digit outside 0-4 gives None.
    """
    text = text.strip()
    if re.fullmatch(r"[0-4](\.0+)?", text):
        return int(text[0])
    return _NAMES.get(re.sub(r"[\s_\-]+", "", text.lower()))


_REFERABLE_NAMES: Final = {
    **dict.fromkeys(("notreferable", "nonreferable", "norefer", "nonreferabledr", "nrdr"), "not_referable"),
    **dict.fromkeys(("referable", "refer", "referabledr", "rdr"), "referable"),
}


def parse_class(text: str) -> str | None:
    """The class that a model's own name stands for: one of `GRADES` or `REFERABLE_CLASSES`; None for another name."""
    grade = parse_grade(text)
    if grade is not None:
        return GRADES[grade]
    return _REFERABLE_NAMES.get(re.sub(r"[\s_\-]+", "", text.lower()))
