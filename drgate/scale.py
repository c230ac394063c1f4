"""The International Clinical Diabetic Retinopathy (ICDR) severity scale: five grades, their names and groups.

Source: Wilkinson et al. 2003, Ophthalmology 110:1677, doi 10.1016/S0161-6420(03)00475-5.

>>> parse_grade("Proliferate_DR"), parse_grade("2")
(4, 2)
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
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

_WORDS: Final[dict[str, int]] = {
    **dict.fromkeys(("normal", "healthy", "no dr", "no retinopathy", "no apparent dr", "no apparent retinopathy"), 0),
    **{
        name: grade
        for grade, degree in enumerate(("mild", "moderate", "severe"), 1)
        for name in (degree, *(f"{degree} {of}" for of in ("dr", "npdr", "retinopathy")), f"npdr {degree}")
    },
    **dict.fromkeys(("pdr", "pro dr"), 4),
}
"""Names of grades, with `dr`, `npdr` and `pdr` for all ways to write these; spaces do not matter.

Absent, because they say no grade or one of another scale: DR, NPDR, positive, moderate to severe; R0 to R3, background
and preproliferative retinopathy of the United Kingdom's scale.
"""

_NAMES: Final = {name.replace(" ", ""): grade for name, grade in _WORDS.items()}
_NON_PROLIFERATIVE: Final = re.compile(r"non?proliferat(?:ive|e|ing)(?:diabeticretinopathy|retinopathy|dr)?")
_PROLIFERATIVE: Final = re.compile(r"(?<!pre)proliferat(?:ive|e|ing)(?:diabeticretinopathy|retinopathy|dr)?")
_NUMBERED: Final = re.compile(
    r"(?:(?:(?:dr|icdr)?[\s_-]*(?:grade|class|level|stage|severity)|dr|icdr)[\s_-]*)?"
    r"([0-4])(?:\.0+)?(?:[\s_:.)=-]+(\D.*)|(\(.*\)))?"
)
_LETTERS: Final = "abcde"
_LONGEST: Final = 200
_NUMBER_LAST: Final = re.compile(r"(\D+?)[\s_:=-]*\(?([0-4])\)?")


def parse_grade(text: str) -> int | None:
    """Grade 0-4 from a number, a usual name, or both; None for any other text, and where number and name disagree.

    Case, spaces, hyphens and underscores do not matter. `2.0` counts as 2 (some programs write integers as floats); a
    number outside 0-4 gives None. The letter in `anodr` to `eproliferativedr` must be that of the grade.

    >>> parse_grade("2 - Moderate"), parse_grade("Class 3: Severe DR"), parse_grade("cmoderatedr")
    (2, 3, 2)
    >>> parse_grade("2 - Severe"), parse_grade("R2"), parse_grade("LABEL_2")
    (None, None, None)
    """
    text = unicodedata.normalize("NFKC", text).strip().casefold()
    if len(text) > _LONGEST:
        return None
    if numbered := _NUMBERED.fullmatch(text):
        number, name = int(numbered[1]), numbered[2] or numbered[3]
    elif numbered := _NUMBER_LAST.fullmatch(text):
        number, name = int(numbered[2]), numbered[1]
    else:
        return _named(text)
    return number if name is None or _named(name) == number else None


def _named(text: str) -> int | None:
    """The grade of a name; of several names, such as one in brackets, all must be of one grade."""
    if re.search(r"[^a-z\s_(),:;/.-]", text):
        return None
    if text[:1] in _LETTERS and _one_name(text[1:]) == _LETTERS.find(text[:1]):  # RETFound's folders
        return _LETTERS.index(text[0])
    if (whole := _one_name(text)) is not None:
        return whole
    grades = {_one_name(part) for part in re.split(r"[(),:;/]", text) if part.strip()}
    return grades.pop() if len(grades) == 1 else None


def _one_name(text: str) -> int | None:
    return _NAMES.get(_short(text))


def _short(text: str) -> str:
    """The letters of a name, with dr, npdr and pdr for the ways to write these; said twice they are said once."""
    letters = re.sub(r"[^a-z]", "", text)
    letters = _PROLIFERATIVE.sub("pdr", _NON_PROLIFERATIVE.sub("npdr", letters)).replace("diabeticretinopathy", "dr")
    return letters.replace("npdrnpdr", "npdr").replace("pdrpdr", "pdr")


def doubts(counts: Sequence[int]) -> list[str]:
    """Questions about reference grades whose counts (of grades 0 to 4) are unlikely on this scale, a sentence each.

    >>> len(doubts([90, 10, 0, 0, 0])), len(doubts([90, 10, 0, 5, 0]))
    (1, 1)
    >>> doubts([5, 5, 5, 5, 0])
    []
    """
    present = [grade for grade, count in enumerate(counts) if count]
    if present == [0, 1]:
        return [
            "Only grades 0 and 1 occur: is this a binary label? If 1 means referable, name its column referable; any "
            "DR alone is not judged."
        ]
    inside = range(present[0], present[-1]) if present else ()
    return [
        f"No image has the grade {grade} ({TITLES[grade]}), though lower and higher ones occur: are the grades those "
        "of the ICDR scale?"
        for grade in inside
        if not counts[grade]
    ]


_REFERABLE_NAMES: Final = {
    **dict.fromkeys(("notreferable", "nonreferable", "norefer", "notrefer", "nrdr"), REFERABLE_CLASSES[0]),
    **dict.fromkeys(("notreferabledr", "nonreferabledr", "noreferabledr"), REFERABLE_CLASSES[0]),
    **dict.fromkeys(("referable", "refer", "referabledr", "rdr"), REFERABLE_CLASSES[1]),
}


def parse_class(text: str) -> str | None:
    """The class that a model's own name stands for: one of `GRADES` or `REFERABLE_CLASSES`; None for another name.

    A number before the name of a referable class must be 0 for not referable and 1 for referable.
    """
    grade = parse_grade(text)
    if grade is not None:
        return GRADES[grade]
    number = re.match(r"([01])[\s_:.=-]+", text.strip())
    found = _REFERABLE_NAMES.get(_short(text.casefold()))
    return found if number is None or found == REFERABLE_CLASSES[int(number[1])] else None
