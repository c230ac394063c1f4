"""Are photographs of the test set, turned, cut or changed in colour, in the training set too?

Hashes nominate pairs, and pixels that register are the finding (`drgate.audit.register`). For the images that only a
fingerprint shows, a hash that is nearer than chance explains is a finding or a suspicion.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drgate.audit.evidence import Evidence, Photographs, picture_of
from drgate.audit.lineage import beyond
from drgate.audit.register import SAME, likeness, picture, turned
from drgate.audit.result import Check, Finding, Orientation
from drgate.audit.search import Near, expected_false, furthest, near, too_many
from drgate.audit.views import FEW, VIEWS
from drgate.vision.decoding import in_processes, usable_cores

NOMINATED: Final = 72
NOMINATED_CUT: Final = 68
"""Bits of 256 up to which a pair is compared by pixels: of photographs as they are, and with one cut or equalised.
Fewer where half of `PAIRS` could be as near by chance."""
EACH: Final = 8
"""Pairs that are compared by pixels, the nearest first, for each test photograph."""
PAIRS: Final = 4000
"""And in all."""
_AT_ONCE: Final = 500
"""Pairs inside one set after which those that are joined are no longer compared."""

FOUND: Final = 0.01
SUSPECTED: Final = 0.1
"""Largest expected number of pairs that are as near by chance."""
NEAR: Final = 48
"""Bits up to which a hash of training is near, where hashes alone must do. Two eyes of a patient are at 62 or more."""
_ORIENTATIONS: Final = get_args(Orientation)
_LIMITS: Final = (
    "A copy can be missed that was cut by more than a fifth, or unevenly by more than a tenth, turned by other than "
    "right angles, inverted, or framed or written on in a bright colour."
)


def check(evidence: Evidence) -> Check:
    """Copies among the training photographs at hand by pixels, and among the rest of the fingerprint by hashes."""
    test, train = evidence.test, evidence.train
    found: list[Finding] = []
    suspected: list[Finding] = []
    missing = beyond(evidence) or test.unread(evidence.sides[0]) or test.too_small(evidence.sides[0])
    compared = {"test": len(test.readable)}
    numbers = {"same_from": SAME}
    if train is not None:
        nominated = nominate(test, train)
        found += _confirmed(test, train, nominated)
        compared |= {"train": len(train.readable), "nominated": len(nominated.distance)}
        numbers |= dict(zip(("views", "within", "within_views"), map(float, _depth(test, train)), strict=True))
        missing = missing or train.unread(evidence.sides[1]) or train.too_small(evidence.sides[1])
        missing = missing or too_many(len(test.readable), len(train.readable))
        if len(nominated.distance) == PAIRS:
            missing = missing or f"The {PAIRS} nearest pairs were compared by pixels, and further ones were not."
    if evidence.fingerprint is not None:
        rest = _rest(evidence)
        by_hash, maybe, unclear = _by_hashes(test, rest)
        found += by_hash
        suspected += maybe
        compared["fingerprint"] = len(rest)
        missing = missing or unclear or _older(evidence)
    if found or suspected:
        by_hash = [one for one in (*found, *suspected) if one.train is None]
        reason = f"{len(by_hash)} by hashes alone, for a fingerprint has no pixels." if by_hash else ""
        return Check.of(
            "near_duplicates",
            found + suspected,
            status="found" if found else "suspected",
            reason=reason,
            compared=compared,
            numbers=numbers,
        )
    return Check(
        "near_duplicates",
        "not_assessed" if missing else "clean",
        compared=compared,
        reason=missing or _LIMITS,
        numbers=numbers,
    )


def groups(photographs: Photographs) -> NDArray[np.int64]:
    """(len(photographs),) numbers, equal for photographs of one set that are the same file or register, directly or by
    others: they count as one patient. The number is the position of the first of them.

    Of more photographs than `drgate.audit.search.too_many` allows only files are compared. Where more than `PAIRS` are
    to be compared, as in a set of turned copies, the further ones count as one picture within `NEAR` bits: too few
    patients make bounds wide, too many make them narrow.
    """
    owner = np.arange(len(photographs))
    firsts: dict[str, int] = {}
    for row, content in enumerate(photographs.contents):
        if content:
            owner[row] = firsts.setdefault(content, row)
    pairs = nominate(photographs, photographs, limited=False)
    rows = photographs.readable[np.stack([pairs.first, pairs.second])]
    left = PAIRS
    for start in range(0, len(pairs.distance), _AT_ONCE):
        some = np.arange(start, min(start + _AT_ONCE, len(pairs.distance)))
        some = some[owner[rows[0, some]] != owner[rows[1, some]]]
        near_ones = some[left:]
        some, left = some[:left], max(0, left - len(some))
        alike = np.asarray(_likenesses(photographs, photographs, _kept(pairs, some))) >= SAME
        for pair in (*some[alike], *near_ones[pairs.distance[near_ones] <= NEAR]):
            one, two = sorted(owner[rows[:, pair]].tolist())
            owner[owner == two] = one
    return owner


def nominate(test: Photographs, train: Photographs, *, limited: bool = True) -> Near:
    """The pairs that are to be compared by pixels, as positions in `readable`, the nearest first; files that are equal
    are left out, and of one set each pair is there once. limited: `PAIRS` at most."""
    if too_many(len(test.readable), len(train.readable)):
        return Near(*(np.empty(0, dtype=np.int64) for _ in range(4)))
    views, within, within_views = _depth(test, train)
    each = EACH + (test is train)  # of one set each photograph is its own nearest
    found = [near(test.hashes, train.hashes, within, each=each)]
    if views:
        cut = near(test.views[:, :views].reshape(-1, 32), train.hashes, within_views, each=each)
        found.append(cut._replace(first=cut.first // views))
        if test is not train:
            cut = near(test.hashes, train.views[:, :views].reshape(-1, 32), within_views, each=each)
            found.append(cut._replace(second=cut.second // views))
    pairs = _ordered(Near(*map(np.concatenate, zip(*found, strict=True))))
    one, other = test.readable[pairs.first], train.readable[pairs.second]
    pairs = _kept(pairs, np.asarray(test.contents)[one] != np.asarray(train.contents)[other])
    pairs = _kept(pairs, ~(test.small[pairs.first] | train.small[pairs.second]))
    low, high = (pairs.first, pairs.second) if test is not train else np.sort([pairs.first, pairs.second], axis=0)
    pairs = _kept(pairs, np.sort(np.unique([low, high], axis=1, return_index=True)[1]))
    return _kept(pairs, np.flatnonzero(_rank(pairs.first) < EACH)[: PAIRS if limited else None])


def _confirmed(test: Photographs, train: Photographs, nominated: Near) -> list[Finding]:
    """A finding for each nominated pair that registers."""
    firsts, seconds = _names(test), _names(train)
    return [
        Finding(
            test=firsts[nominated.first[i]],
            train=seconds[nominated.second[i]],
            distance=int(nominated.distance[i]),
            orientation=_ORIENTATIONS[nominated.orientation[i]],
            value=round(alike, 3),
        )
        for i, alike in enumerate(_likenesses(test, train, nominated))
        if alike >= SAME
    ]


def _likenesses(test: Photographs, train: Photographs, pairs: Near) -> list[float]:
    """Of each pair, in worker processes."""
    order = np.argsort(pairs.first, kind="stable")  # so that a photograph is decoded once for all of its pairs
    jobs = [
        (
            test.file(test.readable[pairs.first[i]]),
            train.file(train.readable[pairs.second[i]]),
            int(pairs.orientation[i]),
        )
        for i in order
    ]
    found = np.empty(len(jobs))
    found[order] = list(in_processes(_likeness, jobs, workers=usable_cores()))
    return list(found.tolist())


def _likeness(job: tuple[tuple[Path, str], tuple[Path, str], int]) -> float:
    first, second, orientation = job
    return likeness(_picture(second), turned(_picture(first), orientation))


@lru_cache(maxsize=64)
def _picture(file: tuple[Path, str]) -> Image.Image:
    return picture(picture_of(file))


def _by_hashes(test: Photographs, train: NDArray[np.uint8]) -> tuple[list[Finding], list[Finding], str]:
    """Found, suspected, and why nothing can be said of further near hashes; train: (n, 32) of a fingerprint.

    One finding for each test photograph. Half of the expected number is for photographs as they are, half for views.
    """
    if many := too_many(len(test.hashes), len(train)):
        return [], [], many
    views = _views(len(test.hashes), len(train))
    pairs = len(test.hashes) * len(train)
    near_ones = [
        (expected_false(distance, 2 * each * pairs), distance, row, orientation)
        for hashes, each in ((test.hashes, 1), (test.views[:, :views].reshape(-1, 32), views))
        for distance, row, orientation in _near_training(hashes, train, each)
    ]
    names = _names(test)
    least: dict[int, tuple[float, Finding]] = {}
    for by_chance, distance, row, orientation in sorted(near_ones):
        one = Finding(test=names[row], distance=distance, orientation=_ORIENTATIONS[orientation])
        least.setdefault(row, (by_chance, one))
    found = [one for by_chance, one in least.values() if by_chance <= FOUND]
    suspected = [one for by_chance, one in least.values() if FOUND < by_chance <= SUSPECTED]
    unclear = len(least) - len(found) - len(suspected)
    images = "1 test photograph has" if unclear == 1 else f"{unclear} test photographs have"
    why = f"{images} a hash near one of the fingerprint, no nearer than chance may bring among so many pairs."
    return found, suspected, why if unclear else ""


def _near_training(hashes: NDArray[np.uint8], train: NDArray[np.uint8], each: int) -> list[tuple[int, int, int]]:
    """Distance, photograph and orientation of the hashes, `each` of a photograph, that are near one of training."""
    # Pictures without content have few or many bits, and are near one another.
    ones = np.bitwise_count(hashes).sum(axis=-1)
    plain = np.flatnonzero((ones > 96) & (ones < 160))
    found = near(hashes[plain], train, NEAR, each=1)
    photographs = plain[found.first] // max(1, each)
    return list(zip(found.distance.tolist(), photographs.tolist(), found.orientation.tolist(), strict=True))


def _rest(evidence: Evidence) -> NDArray[np.uint8]:
    """The hashes of the fingerprint that are not those of training photographs at hand: (n, 32)."""
    assert evidence.fingerprint is not None
    images = evidence.fingerprint.images
    known = set() if evidence.train is None else {*map(bytes, evidence.train.hashes)}
    return images[[bytes(one) not in known for one in images]]


def _older(evidence: Evidence) -> str:
    """Why images of earlier versions of drgate were not compared; empty where there are none."""
    if evidence.fingerprint is None or not (many := len(evidence.fingerprint.older)):
        return ""
    return (
        f"Of {many} training images the fingerprint has hashes of an earlier version of drgate. Scoring looks for "
        "equal ones; copies that were changed cannot be found by them."
    )


def _names(side: Photographs) -> list[str]:
    """As published, in the order of `readable`."""
    names = side.names
    return [names[row] for row in side.readable]


def _views(test: int, train: int) -> int:
    """How many further views of each photograph are compared."""
    return next((count for count in (VIEWS, FEW) if not too_many(test * (1 + 2 * count), train)), 0)


def _depth(test: Photographs, train: Photographs) -> tuple[int, int, int]:
    """How many views are compared, and the bits within which photographs and views are nominated."""
    first, second = len(test.readable), len(train.readable)
    views = _views(first, second)
    pairs = first * second
    return (
        views,
        furthest(NOMINATED, pairs, PAIRS / 2),
        furthest(NOMINATED_CUT, 2 * views * pairs, PAIRS / 2),
    )


def _ordered(pairs: Near) -> Near:
    return _kept(pairs, np.lexsort((pairs.second, pairs.first, pairs.distance)))


def _kept(pairs: Near, which: NDArray[np.bool_] | NDArray[np.int64]) -> Near:
    return Near(*(values[which] for values in pairs))


def _rank(first: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many before it have the same value."""
    order = np.argsort(first, kind="stable")
    ordered = first[order]
    rank = np.empty(len(first), dtype=np.int64)
    rank[order] = np.arange(len(first)) - np.searchsorted(ordered, ordered)
    return rank
