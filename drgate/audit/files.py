"""Is a file of the test set in training too: the same bytes, or other bytes with the same pixels?

A fingerprint has neither, so both need the training photographs.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from drgate.audit.evidence import Evidence, Photographs, picture_of
from drgate.audit.lineage import beyond, covered, unread
from drgate.audit.result import Check, CheckId, Finding
from drgate.audit.search import near, too_many

NEAR: Final = 48
"""Bits of 256 up to which two photographs are decoded in full to compare all pixels. Equal pixels in a JPEG and in
another format are not at 0, because only a JPEG is decoded at a part of its size; 11 bits were the most seen."""
AT_MOST: Final = 500
"""Pairs that are decoded in full, the nearest first."""


def check(evidence: Evidence) -> Check:
    """Byte-identical files. One finding for each image of the test set. numbers: copies inside the test set."""
    test, train = evidence.test, evidence.train
    inside = Counter(content for content in test.contents if content)
    numbers = {"copies_in_test": float(sum(inside.values()) - len(inside))}
    known = set() if train is None else set(train.contents) - {""}
    findings = [
        Finding(test=name, train=name, distance=0)
        for name, content in zip(test.names, test.contents, strict=True)
        if content in known
    ]
    missing = _missing(evidence)
    if not all((*test.contents, *(() if train is None else train.contents))):
        missing = missing or "Not every image's file was read; give the folder that the images are in."
    return _answer("files", evidence, findings, missing, numbers)


def check_pixels(evidence: Evidence) -> Check:
    """Other bytes, and every pixel equal when both are decoded in full. One finding for each pair."""
    test, train = evidence.test, evidence.train
    missing = _missing(evidence)
    if train is None:
        return _answer("pixels", evidence, [], missing, {})
    missing = missing or test.unread(evidence.sides[0]) or train.unread(evidence.sides[1])
    if many := too_many(len(test.readable), len(train.readable)):
        return _answer("pixels", evidence, [], many, {})
    found = near(test.hashes, train.hashes, NEAR, each=AT_MOST + 1, upright=True)
    pairs = [
        (distance, int(test.readable[first]), int(train.readable[second]))
        for distance, first, second in zip(*(each.tolist() for each in found[:3]), strict=True)
    ]
    pairs = [one for one in pairs if test.contents[one[1]] != train.contents[one[2]]]
    names = test.names, train.names
    findings = [
        Finding(test=names[0][first], train=names[1][second], distance=distance)
        for distance, first, second in pairs[:AT_MOST]
        if _equal(test, first, train, second)
    ]
    if (left := len(pairs) - AT_MOST) > 0:
        missing = missing or f"{left} more {'pair' if left == 1 else 'pairs'} of near hashes were not decoded in full."
    return _answer("pixels", evidence, findings, missing, {}, nominated=len(pairs))


def _equal(test: Photographs, first: int, train: Photographs, second: int) -> bool:
    one, other = picture_of(test.file(first), None), picture_of(train.file(second), None)
    return one.size == other.size and bool(np.array_equal(np.asarray(one), np.asarray(other)))


def _missing(evidence: Evidence) -> str:
    if evidence.train is None:
        return beyond(evidence) or "A fingerprint has hashes of pictures, not of files; give the training set."
    if unknown := beyond(evidence):
        return unknown
    if unknown := unread(evidence):
        return unknown
    if not covered(evidence):
        return "The model was trained on further images, as its fingerprint shows; give all of them as training set."
    return ""


def _answer(
    name: CheckId, evidence: Evidence, findings: list[Finding], missing: str, numbers: dict[str, float], **more: int
) -> Check:
    compared = {"test": len(evidence.test), "train": 0 if evidence.train is None else len(evidence.train), **more}
    if findings:
        return Check.of(name, findings, compared=compared, numbers=numbers)
    return Check(name, "not_assessed" if missing else "clean", compared=compared, reason=missing, numbers=numbers)
