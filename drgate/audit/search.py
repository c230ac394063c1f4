"""Pairs of perceptual hashes (version 2) that lie near one another, in the best of eight orientations.

    found = near(test_hashes, training_hashes, 80)
    found.distance, found.first, found.second, found.orientation

A mirrored photograph changes the sign of the odd frequencies, so the distances of four orientations follow from the
counts of differing bits in four groups of 64 bits; eight orientations cost two passes instead of eight.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drgate.vision.decoding import usable_cores
from drgate.vision.perceptual import orientations

_ROWS: Final = 16
_COLUMNS: Final = 4096
"""Of one block, which stays in a core's cache: .5 MB of bits and .3 MB of counts."""
_ODD: Final = np.arange(1, 17) % 2
_GROUP: Final = (2 * np.add.outer(_ODD, np.zeros(16, dtype=np.int64)) + _ODD).ravel()
_ORDER: Final = np.argsort(_GROUP, kind="stable")
"""The bits by whether the frequency is odd downwards and across; each group has 64."""
_LARGEST: Final = 192
"""The nearest of four orientations is never further, so that a distance fits 8 bits."""

COMPARISONS: Final = 10**10
"""Pairs of hashes that a question compares at most: 100 seconds of a core."""
RATES: Final = ((56, 2.5e-6), (60, 4.9e-6), (64, 1.5e-5), (68, 3.5e-5), (72, 1.1e-4), (76, 2.8e-4), (80, 8.3e-4))
"""Distance, and the largest share of pairs of two patients that is as near, in any orientation: upper 97.5 % limits of
Poisson counts, rounded up, over the 1,494,720 pairs of test patients of an EyePACS set (0, 2, 12, 38, 134, 377 and 1169
pairs). No other figure was chosen on these patients."""
_HALVED: Final = 3
"""Bits in which the share is taken to halve below the first of `RATES`. Of 430 million pairs of these photographs, each
cut in 17 ways, 119 were at most at 60, 31 at 56, 8 at 52, 1 at 48 and 44 and none at 43 or less: half in 2 bits."""


class Near(NamedTuple):
    """Pairs, by distance, then first, then second. orientation: 0 to 7 in the order of `Orientation`."""

    distance: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    orientation: NDArray[np.int64]


def near(
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    within: int,
    *,
    each: int | None = None,
    upright: bool = False,
) -> Near:
    """Pairs of a hash (n, 32) and a hash (m, 32) of which one, turned or mirrored, is at most `within` bits (up to 192)
    from the other; of several orientations the nearest, of equals the first.

    each: for each first, at most so many of the nearest; of equals those that come first. upright: in the orientation
    as it is alone. Uses all cores; memory for the pairs, and 2 MB a core.
    """
    turned = orientations(first)
    rows = np.stack([_words(turned[:, quarter]) for quarter in range(1 if upright else 2)])
    columns = _words(second)

    def found(top: int) -> NDArray[np.int64]:
        pairs = _near_rows(rows[..., top : top + _ROWS], columns, within, each, upright)
        pairs[1] += top
        return pairs

    with ThreadPoolExecutor(usable_cores()) as pool:
        parts = list(pool.map(found, range(0, len(first), _ROWS)))
    distance, one, other = np.concatenate([np.empty((3, 0), dtype=np.int64), *parts], axis=1)
    order = np.lexsort((other, one, distance))
    distance, one, other = distance[order], one[order], other[order]
    orientation = np.zeros_like(distance)
    for start in range(0, 0 if upright else len(one), _COLUMNS):
        some = slice(start, start + _COLUMNS)
        bits = np.bitwise_count(turned[one[some]] ^ second[other[some], None]).sum(axis=-1)
        orientation[some] = bits.argmin(axis=-1)
    return Near(distance, one, other, orientation)


def too_many(first: int, second: int) -> str:
    """Why so many hashes are not compared with so many others; empty where they are."""
    if first * second <= COMPARISONS:
        return ""
    return (
        f"{first} and {second} hashes are more than {COMPARISONS} pairs, which are not compared; give fewer at a time."
    )


def expected_false(distance: int, pairs: int) -> float:
    """The largest expected number of pairs of two patients, of so many compared, that are as near by chance."""
    lowest, rate = RATES[0]
    for at, share in RATES:
        if distance <= at:
            rate = share
            break
    else:
        return float(pairs)
    return float(pairs * rate * 2.0 ** (-max(0, lowest - distance) / _HALVED))


def _near_rows(
    rows: NDArray[np.uint64], columns: NDArray[np.uint64], within: int, each: int | None, upright: bool
) -> NDArray[np.int64]:
    """Distance, row and column of the near pairs of a few rows: (3, pairs). rows: (quarters, 4, n)."""
    found = [np.empty((3, 0), dtype=np.int64)]
    differing = np.empty((rows.shape[-1], _COLUMNS), dtype=np.uint64)
    counts = np.empty((4, *differing.shape), dtype=np.uint8)
    for left in range(0, columns.shape[1], _COLUMNS):
        part = columns[:, left : left + _COLUMNS]
        width = part.shape[1]
        distances = []
        for quarter in rows:
            for row, column, count in zip(quarter, part, counts[..., :width], strict=True):
                np.bitwise_xor(row[:, None], column, out=differing[:, :width])
                np.bitwise_count(differing[:, :width], out=count)
            distances.append(_nearest_flip(counts[..., :width]) if not upright else counts[..., :width].sum(axis=0))
        nearest = distances[0] if upright else np.minimum(*distances)
        one, other = np.nonzero(nearest <= within)
        found.append(np.stack([nearest[one, other].astype(np.int64), one, other + left]))
    together = np.concatenate(found, axis=1)
    if each is None:
        return together
    together = together[:, np.lexsort((together[2], together[0], together[1]))]
    row = together[1]
    return together[:, np.arange(len(row)) - np.searchsorted(row, row) < each]


def _nearest_flip(counts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The least distance of a pair as it is, mirrored, upside down and turned by 180 degrees, from the differing bits
    of its four groups. A flip changes the sign of two groups, of which 64 bits less the differing ones differ then."""
    even, across, down, both = counts
    one = across + down  # as it is; turned by 180 degrees both are reversed
    one = np.minimum(one, 128 - one) + even + both
    other = across + (64 - down)  # upside down; mirrored both are reversed
    other = np.minimum(other, 128 - other) + even + (64 - both)
    return np.asarray(np.minimum(one, other))


def _words(hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The four groups of bits of n hashes: (4, n)."""
    bits = np.unpackbits(hashes, axis=-1)[:, _ORDER]
    packed = np.ascontiguousarray(np.packbits(bits, axis=-1))
    return np.ascontiguousarray(packed.view(np.uint64).T)
