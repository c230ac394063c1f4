"""Are photographs of the test set, turned, cropped or changed in colour, in the training set too?

A hash nominates; only pixels that register are a finding. Without the training pixels a near hash is "suspected" where
few would be near by chance, else not assessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drgate.audit.register import SAME, likeness, turned
from drgate.audit.result import Check, Finding, Orientation
from drgate.audit.search import Near, expected_false, near

NOMINATED: Final = 80
MOST_EACH: Final = 3
"""Nominated training photographs that are compared by pixels, for each test photograph."""
AT_MOST: Final = 0.01
"""Expected false accusations by hashes alone."""
_NAMES: Final = get_args(Orientation)

Pictures = Callable[[int], Image.Image]
"""The `picture` of the photograph at a position."""


def by_pixels(
    test: NDArray[np.uint8],
    train: NDArray[np.uint8],
    names: tuple[Sequence[str], Sequence[str]],
    pictures: tuple[Pictures, Pictures],
    advance: Callable[[int], object] = lambda done: None,
) -> Check:
    """test, train: (n, 32) hashes; names: published names of both; pictures: of both, read when a pair is compared."""
    nominated = _first(near(test, train, NOMINATED), MOST_EACH)
    findings = []
    for distance, first, second, orientation in zip(*(each.tolist() for each in nominated), strict=True):
        alike = likeness(pictures[1](second), turned(pictures[0](first), orientation))
        advance(1)
        if alike >= SAME:
            findings.append(
                Finding(
                    test=names[0][first],
                    train=names[1][second],
                    distance=distance,
                    orientation=_NAMES[orientation],
                    value=round(alike, 3),
                )
            )
    compared = {"test": len(test), "train": len(train), "nominated": len(nominated.distance)}
    return Check.of("near_duplicates", findings, compared=compared, numbers={"same_from": SAME})


def by_hashes(test: NDArray[np.uint8], train: NDArray[np.uint8], names: Sequence[str]) -> Check:
    """From a fingerprint alone, whose images have no names. Not assessed, with what was near, unless the expected
    number of false accusations for this many pairs is at most .01."""
    pairs = len(test) * len(train)
    found = _first(near(test, train, NOMINATED), 1)
    kept = [i for i, distance in enumerate(found.distance.tolist()) if expected_false(distance, pairs) <= AT_MOST]
    findings = [
        Finding(
            test=names[found.first[i]], distance=int(found.distance[i]), orientation=_NAMES[int(found.orientation[i])]
        )
        for i in kept
    ]
    compared = {"test": len(test), "train": len(train), "near": len(found.distance)}
    if findings:
        reason = "The fingerprint has no pixels, so hashes alone show that these may be copies."
        return Check.of("near_duplicates", findings, status="suspected", reason=reason, compared=compared)
    reason = "The fingerprint has no pixels. Hashes alone find no copy that was cropped, and confirm none."
    return Check("near_duplicates", "not_assessed", compared=compared, reason=reason)


def groups(hashes: NDArray[np.uint8], pictures: Pictures) -> NDArray[np.int64]:
    """(n,) numbers, equal for photographs of one set that register, directly or by others: they count as one patient.

    The number is the position of the first of them.
    """
    owner = np.arange(len(hashes))
    found = near(hashes, hashes, NOMINATED)
    for first, second, orientation in zip(*(each.tolist() for each in found[1:]), strict=True):
        one, two = sorted((int(owner[first]), int(owner[second])))
        if first < second and one != two and likeness(pictures(second), turned(pictures(first), orientation)) >= SAME:
            owner[owner == two] = one
    return owner


def _first(found: Near, most: int) -> Near:
    """The nearest `most` pairs of each first."""
    order = np.lexsort((found.second, found.distance, found.first))
    first = found.first[order]
    starts = np.flatnonzero(np.r_[True, first[1:] != first[:-1]]) if len(first) else np.empty(0, dtype=np.int64)
    rank = np.arange(len(first)) - np.repeat(starts, np.diff(np.r_[starts, len(first)]))
    return Near(*(each[order][rank < most] for each in found))
