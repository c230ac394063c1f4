"""Whose image each row of a table is: what its patients, names of images and eyes say together.

    found = grouping(table)
    found.codes, found.named                   # array([0, 0, 1]), "all"

Patients that are not patients make intervals too narrow. Two things are recognised. Ids that only repeat the names of
the images say nothing, so these patients are unknown. And one patient's two eyes under two ids are one patient.
Opaque ids that are all different cannot be told from patients with one image each.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgate.scale import parse_grade

Named = Literal["all", "some", "none", "image names"]

_SIDES: Final = {"left": "L", "l": "L", "os": "L", "le": "L", "right": "R", "r": "R", "od": "R", "re": "R"}
_TOKEN: Final = re.compile(r"(?<![a-z0-9])(left|right|os|od|le|re|l|r)([0-9]?)(?![a-z0-9])")
_LETTER: Final = re.compile(r"(?<=[0-9])(os|od|le|re|l|r)()$")
_ANY: Final = (
    r"(?:^|[^a-z0-9])(?:left|right|os|od|le|re|l|r)[0-9]?(?:[^a-z0-9]|$)|[0-9](?:os|od|le|re|l|r)(?:\.[^/]*)?$"
)
"""Either anywhere in a path or an id, in a form that is quick to look for."""
_NEITHER: Final = re.compile(r"[\W_]+")
_EITHER: Final = re.compile(r"[^\W_]")
_DIGITS: Final = 8
"""Hex digits of a digest by which an image is recognised."""


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """Which images are of one patient.

    named: how many images name their patient; "image names" where ids only repeat those. codes: (n,) patients as 0 to
    c - 1 in the order of their first row; None unless `named` is "all". merged: ids that were another's other eye.
    most: where patients are unknown, images that are shown to be of one patient, 1 without any such. apart: names that
    differ in nothing but the eye and are of several patients all the same.
    """

    named: Named
    codes: NDArray[np.int64] | None = field(repr=False)
    merged: int = 0
    most: int = 1
    apart: int = 0


def grouping(table: pd.DataFrame) -> Grouping:
    """Of a table of predictions: columns image, patient, eye and, where it has them, source and sha256.

    Ids repeat the images' names where for more than half of the images the id is the image's path or name, with or
    without folder and extension, or the digest of its content, whatever the case and punctuation; also with one more
    text before or after that is the same for all.

    Two ids are merged into one patient where one has images of left eyes alone, the other of right eyes alone, and

    - two of these images have names that differ in nothing but the eye: left, right, l, r, od, os, le or re between
      punctuation, also with one digit (`7_left`, `7_right2`), or after a digit at the end (`7L`, `7OD`), in the same
      folder, where folders named after grades are left out; or
    - the ids differ in nothing but the eye, and every image of theirs is of that eye by its name or by the column eye.

    An id that has images of both eyes is merged with no other, for there the numbers in names may be no patients. How
    often names and ids differ so is counted (`apart`).
    """
    ids, first = pd.factorize(table["patient"])
    ids = ids.astype(np.int64)
    named: Named = "none" if not len(first) else "some" if (ids < 0).any() else "all"
    sources = _texts(table["source"].fillna("")) if "source" in table.columns else None
    prefixes = set() if sources is None else {f"{source}:" for source in set(sources) if source}
    owners = [_without(str(text), prefixes) for text in first.tolist()]
    images = _texts(table["image"])
    contents = _texts(table["sha256"]) if "sha256" in table.columns else None
    if named == "all" and _repeat_names(images, owners, ids.tolist(), contents):
        named = "image names"
    # Images without a patient are each of their own until their names say otherwise.
    codes = np.where(ids < 0, len(first) + np.arange(len(ids)), ids)
    by_name, shown = _pairs(table, codes, images, sources, owners)
    merged = _merged(codes, shown)
    if named == "all":
        known = pd.factorize(merged)[0].astype(np.int64)
        patient = dict(zip(codes.tolist(), known.tolist(), strict=True))
        apart = sum(len({patient[code] for code in some}) > 1 for some in by_name)
        return Grouping(named, known, merged=len(first) - int(known.max() + 1), apart=apart)
    _, sizes = np.unique(merged, return_counts=True)
    return Grouping(named, None, most=int(sizes.max(initial=1)))


def _texts(column: pd.Series[str]) -> list[str]:
    return list(column.to_numpy(dtype=object))


def _without(text: str, prefixes: Iterable[str]) -> str:
    """An id without the source that it was given as a prefix."""
    return next((text.removeprefix(prefix) for prefix in prefixes if text.startswith(prefix)), text)


def _plain(text: str) -> str:
    return _NEITHER.sub("", text.lower())


def _parts(image: str) -> tuple[str, str, str]:
    """Folder, name and extension of an image; what begins with a digit is no extension (mBRSET's `1.2`)."""
    folder, _, name = image.rpartition("/")
    stem, _, extension = name.rpartition(".")
    return (folder, stem, extension) if stem and extension[:1].isalpha() else (folder, name, "")


def _repeat_names(images: list[str], owners: list[str], ids: list[int], contents: list[str] | None) -> bool:
    """Whether more than half of the ids only repeat the names of their images. owners: the ids; ids: of each row."""
    own_texts = [_plain(owner) for owner in owners]
    repeated, others, framed = 0, 0, Counter[tuple[str, str]]()
    for row, (image, code) in enumerate(zip(images, ids, strict=True)):
        own, content = own_texts[code], contents[row] if contents is not None else None
        folder, name, extension = _parts(image)
        stem = _plain(name)
        if isinstance(content, str) and len(own) >= _DIGITS and content.startswith(own):
            repeated += 1
        elif stem and stem in own:
            before, _, after = own.partition(stem)
            if before in ("", _plain(folder)) and after in ("", _plain(extension)):
                repeated += 1
            else:
                framed[before, after] += 1
        else:
            others += 1
            if 2 * others >= len(ids):
                return False
    # What surrounds one name alone may be chance: image 1 of patient 4127.
    return 2 * (repeated + sum(many for many in framed.values() if many > 1)) > len(ids)


def _eye(text: str, token: re.Pattern[str]) -> tuple[str, str, str] | None:
    """Side, digit and the rest of a text that has one eye in it; None for another text."""
    found = list(token.finditer(text))
    if len(found) != 1:
        return None
    (one,) = found
    return _SIDES[one[1]], one[2], f"{text[: one.start()]}\0{text[one.end() :]}"


def _pairs(
    table: pd.DataFrame, codes: NDArray[np.int64], images: list[str], sources: list[str] | None, owners: list[str]
) -> tuple[list[set[int]], list[list[int]]]:
    """Codes whose images have names that differ in the eye alone, and sets of codes that are one patient's.

    owners: the ids of the first codes.
    """
    eyes: list[str] = table["eye"].to_numpy(dtype=object, na_value="").tolist()
    found = []
    for row in np.flatnonzero(table["image"].str.contains(_ANY, case=False, regex=True).to_numpy(dtype=bool)).tolist():
        folder, name, _ = _parts(images[row].lower())
        parsed = _eye(name, _TOKEN) or _eye(name, _LETTER)
        if parsed is not None:  # a name weighs more than the column, which whoever gives the answers may write
            eyes[row], digit, rest = parsed
            found.append((row, folder, digit, rest))
    by_grade = all(parse_grade(folder.rpartition("/")[2]) is not None for folder in {one[1] for one in found})
    by_name: defaultdict[tuple[str, str, str], set[int]] = defaultdict(set)
    owner: list[int] = codes.tolist()
    for row, folder, digit, rest in found:
        # A name that is the eye alone is one patient's in a folder; with a digit that may be the patient.
        more = _EITHER.search(rest) is not None
        if more or (folder and not digit):
            where = folder.rpartition("/")[0] if by_grade and more else folder
            by_name["" if sources is None else sources[row], where, rest].add(owner[row])
    by_id: defaultdict[str, dict[int, str]] = defaultdict(dict)
    named = pd.Series(owners, dtype="str").str.contains(_ANY, case=False, regex=True)
    for code in np.flatnonzero(named.to_numpy(dtype=bool)).tolist():
        text = owners[code].lower()
        parsed = _eye(text, _TOKEN) or _eye(text, _LETTER)
        if parsed is not None:
            by_id[parsed[2]][code] = parsed[0]
    several = [some for some in by_name.values() if len(some) > 1]
    shown = [*several, *(some for some in by_id.values() if len(some) > 1)]
    if not shown:
        return [], []
    size, side = int(codes.max()) + 1, np.array(eyes)
    left, right, neither = ((np.bincount(codes[side == eye], minlength=size) > 0).tolist() for eye in ("L", "R", ""))
    merged = []
    for some in shown:
        sides = {code: "L" if left[code] else "R" for code in some if left[code] != right[code]}
        if isinstance(some, dict):
            sides = {code: eye for code, eye in sides.items() if eye == some[code] and not neither[code]}
        if len({*sides.values()}) == 2:
            merged.append(list(sides))
    both = [some for some in several if any(left[code] for code in some) and any(right[code] for code in some)]
    return both, merged


def _merged(codes: NDArray[np.int64], sets: Iterable[list[int]]) -> NDArray[np.int64]:
    """The codes with each set under the code of one of them."""
    owner: dict[int, int] = {}

    def root(code: int) -> int:
        while code in owner:
            code = owner[code]
        return code

    for first, *others in sets:
        for other in others:
            if (one := root(first)) != (two := root(other)):
                owner[max(one, two)] = min(one, two)
    if not owner:
        return codes
    distinct, place = np.unique(codes, return_inverse=True)
    return np.asarray(np.array([root(int(code)) for code in distinct], dtype=np.int64)[place])
