"""Near pairs of hashes, compared with a plain count of bits in all eight orientations."""

import numpy as np
import pytest

from drgate.audit.search import expected_false, furthest, near
from drgate.vision.perceptual import orientations


@pytest.mark.parametrize("orientation", range(8))
def test_every_orientation_is_named(orientation):
    """A copy that was turned or mirrored is found at distance 0, with how the first is turned to lie on it."""
    hashes = np.random.default_rng(1).integers(0, 256, (5, 32), dtype=np.uint8)
    found = near(hashes, orientations(hashes)[:, orientation], 40)
    assert found.distance.tolist() == [0] * 5
    assert found.first.tolist() == found.second.tolist() == [0, 1, 2, 3, 4]
    assert found.orientation.tolist() == [orientation] * 5


def test_the_same_pairs_as_counting_bits():
    """No near pair is missed and none is added, over several blocks."""
    random = np.random.default_rng(2)
    first, second = (random.integers(0, 256, (n, 32), dtype=np.uint8) for n in (1100, 300))
    bits = np.bitwise_count(orientations(first)[:, :, None] ^ second).sum(axis=-1)
    nearest = bits.min(axis=1)
    found = near(first, second, 95)
    assert len(found.distance) == (nearest <= 95).sum() > 0
    assert (nearest[found.first, found.second] == found.distance).all()
    assert (bits[found.first, found.orientation, found.second] == found.distance).all()


def test_expected_false_accusations():
    """They grow with the distance and with the number of pairs; a far hash says nothing."""
    numbers = [expected_false(distance, 1000) for distance in range(0, 120, 4)]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 1000
    assert expected_false(20, 10**6) == pytest.approx(1000 * expected_false(20, 1000))


def test_nothing_to_compare():
    """An empty set gives no pair."""
    assert len(near(np.empty((0, 32), np.uint8), np.zeros((3, 32), np.uint8), 256).distance) == 0


def test_the_nearest_of_each():
    """At most so many of each, the nearest; of equals those that come first; the same as sorting all."""
    random = np.random.default_rng(3)
    first, second = (random.integers(0, 256, (n, 32), dtype=np.uint8) for n in (40, 5000))
    bits = np.bitwise_count(orientations(first)[:, :, None] ^ second).sum(axis=-1).min(axis=1)
    found = near(first, second, 110, each=3)
    expected = {(int(row), int(column)) for row in range(40) for column in np.argsort(bits[row], kind="stable")[:3]}
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected


def test_upright_alone():
    """As it is, a copy is near and a mirrored copy is not, up to the largest distance."""
    hashes = np.random.default_rng(4).integers(0, 256, (6, 32), dtype=np.uint8)
    together = np.concatenate([hashes, orientations(hashes)[:, 4], ~hashes])
    found = near(hashes, together, 256, upright=True)
    bits = np.bitwise_count(hashes[:, None] ^ together).sum(axis=-1)
    assert len(found.distance) == bits.size
    assert (bits[found.first, found.second] == found.distance).all()
    assert not found.orientation.any()


def test_the_most_different_hashes_are_not_near():
    """All 256 bits differ, which 8 bits cannot count: such a pair is far in this orientation."""
    hashes = np.random.default_rng(5).integers(0, 256, (20, 32), dtype=np.uint8)
    bits = np.bitwise_count(orientations(hashes)[:, :, None] ^ ~hashes).sum(axis=-1).min(axis=1)
    found = near(hashes, ~hashes, 192)
    assert len(found.distance) == bits.size
    assert (bits[found.first, found.second] == found.distance).all()


def test_furthest():
    """Among more pairs, fewer bits are near enough to be worth a look; among very many only equal hashes are."""
    found = [furthest(72, 10**power, 2000) for power in range(3, 14)]
    assert found == sorted(found, reverse=True)
    assert (found[0], furthest(72, 10**18, 2000)) == (72, 0)
    assert expected_false(found[6], 10**9) <= 2000 < expected_false(found[6] + 1, 10**9)
