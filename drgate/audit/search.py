"""Pairs of perceptual hashes (version 2) that lie near one another, in the best of eight orientations.

    found = near(test_hashes, training_hashes, 80)
    found.distance, found.first, found.second, found.orientation

A mirrored photograph changes the sign of the odd frequencies, so the distances of four orientations follow from the
distances over four groups of 64 bits; eight orientations cost two passes instead of eight.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drgate.vision.perceptual import BITS, orientations

_ROWS: Final = 1024
_COLUMNS: Final = 8192
"""Of one block: its four products take 128 MiB."""
_ODD: Final = np.arange(1, 17) % 2
_GROUP: Final = (2 * np.add.outer(_ODD, np.zeros(16, dtype=np.int64)) + _ODD).ravel()
_ORDER: Final = np.argsort(_GROUP, kind="stable")
"""The bits by whether the frequency is odd downwards and across; each group has 64."""
_FLIPS: Final = ((0, (1, 1, 1, 1)), (2, (1, -1, -1, 1)), (4, (1, -1, 1, -1)), (6, (1, 1, -1, -1)))
"""Orientation, and the sign of each group in it: as it is, rot180, mirror, mirror_rot180."""

RATES: Final = ((48, 3.8e-7), (52, 6.0e-7), (56, 1.6e-6), (60, 2.9e-6), (64, 8.5e-6), (72, 7.6e-5), (80, 7.3e-4))
"""Distance, and the largest share of pairs of two patients that is as near, in any orientation: upper 97.5 % limits of
Poisson counts, rounded up, over the 14,802,241 pairs of patients of an EyePACS set (1, 3, 13, 29, 103, 1049 and 10464
pairs)."""
_HALVED: Final = 4
"""Bits in which the share is taken to halve below the first of `RATES`, where no pair was seen. This is an
assumption: between 48 and 80 it falls to less than half in 4 bits on average."""


class Near(NamedTuple):
    """Pairs, by distance, then first, then second. orientation: 0 to 7 in the order of `Orientation`."""

    distance: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    orientation: NDArray[np.int64]


def near(first: NDArray[np.uint8], second: NDArray[np.uint8], within: int) -> Near:
    """Pairs of a hash (n, 32) and a hash (m, 32) of which one, turned or mirrored, is at most `within` bits from the
    other; of several orientations the nearest, of equals the first."""
    if not len(first) or not len(second):
        return Near(*(np.empty(0, dtype=np.int64) for _ in range(4)))
    turned = orientations(first)
    parts: list[tuple[NDArray[np.int64], ...]] = []
    for top in range(0, len(first), _ROWS):
        upright, across = _signs(turned[top : top + _ROWS, 0]), _signs(turned[top : top + _ROWS, 1])
        for left in range(0, len(second), _COLUMNS):
            others = _signs(second[left : left + _COLUMNS])
            best = np.full((len(upright[0]), len(others[0])), -BITS, dtype=np.float32)
            which = np.zeros(best.shape, dtype=np.int8)
            for shift, views in ((0, upright), (1, across)):
                products = [view @ other.T for view, other in zip(views, others, strict=True)]
                for orientation, signs in _FLIPS:
                    alike = sum(sign * product for sign, product in zip(signs, products, strict=True))
                    better = alike > best
                    np.copyto(best, alike, where=better)
                    which[better] = _turned(orientation, shift)
            rows, columns = np.nonzero(best >= BITS - 2 * within)
            distance = ((BITS - best[rows, columns]) / 2).astype(np.int64)
            parts.append((distance, rows + top, columns + left, which[rows, columns].astype(np.int64)))
    together = [np.concatenate(each) for each in zip(*parts, strict=True)]
    order = np.lexsort((together[2], together[1], together[0]))
    return Near(*(each[order] for each in together))


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


def _turned(flip: int, quarter: int) -> int:
    """The orientation of a photograph that is turned by a quarter first and then flipped."""
    if not quarter:
        return flip
    return {0: 1, 2: 3, 4: 7, 6: 5}[flip]  # mirroring after a quarter is a quarter the other way after mirroring


def _signs(hashes: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """The four groups of bits as -1 and 1: (n, 64) each."""
    bits = np.unpackbits(hashes, axis=-1)[:, _ORDER].astype(np.float32) * 2 - 1
    return [np.ascontiguousarray(bits[:, 64 * i : 64 * i + 64]) for i in range(4)]
