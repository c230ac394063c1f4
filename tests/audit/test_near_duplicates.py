"""Copies are confirmed by pixels; other eyes are not, however near their hashes are; without pixels little is shown."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance, ImageOps

from drgate.audit import near_duplicates, search
from drgate.audit.evidence import Evidence, photographs
from drgate.audit.near_duplicates import check, groups
from drgate.audit.register import likeness, picture, turned
from drgate.audit.search import expected_false
from drgate.demo.synthetic import draw_patient, render
from drgate.manifest import load_manifest
from drgate.preprocessing import field_of_view
from drgate.vision.fingerprint import Fingerprint
from drgate.vision.images import read_image

SIZE = 256
EYES = [
    render(draw_patient("demo", seed=5, index=index, worse_grade=3), eye, size=SIZE).image
    for index in range(6)
    for eye in "LR"
]


def cut(image, share, across=0.5, down=0.5):
    """The part of the field of view that is `share` of its sides."""
    left, upper, right, lower = field_of_view(image)
    wide, high = round((right - left) * share), round((lower - upper) * share)
    left, upper = left + round((right - left - wide) * across), upper + round((lower - upper - high) * down)
    return image.crop((left, upper, left + wide, upper + high))


CHANGES = {
    "again": lambda image: image,
    "mirror": ImageOps.mirror,
    "rot90": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "mirror_rot270": lambda image: ImageOps.mirror(image).transpose(Image.Transpose.ROTATE_270),
    "smaller": lambda image: image.reduce(2),
    "made square": lambda image: image.resize((190, 190)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "equalised": ImageOps.equalize,
    "cut 5": lambda image: cut(image, 0.95),
    "cut 10": lambda image: cut(image, 0.9),
    "cut 10 at a corner": lambda image: cut(image, 0.9, 1, 0),
    "cut 20": lambda image: cut(image, 0.8),
}


def side(folder, images, quality=85):
    """Photographs of a folder of JPEG files, in the order of `images`."""
    folder.mkdir()
    rows = ["image,grade"]
    for number, image in enumerate(images):
        data = io.BytesIO()
        image.save(data, "JPEG", quality=quality)
        (folder / f"{number:02}.jpg").write_bytes(data.getvalue())
        rows.append(f"{number:02}.jpg,0")
    (folder / "labels.csv").write_text("\n".join(rows))
    return photographs(load_manifest(folder), workers=0)


def fingerprint(train, **older):
    return Fingerprint(np.unique(train.hashes, axis=0), {}, False, **older)


def at_distance(photographs, bits):
    """A fingerprint of one image so many bits from the first photograph's hash."""
    changed = np.unpackbits(photographs.hashes[0])
    changed[np.random.default_rng(1).choice(256, bits, replace=False)] ^= 1
    return Fingerprint(np.packbits(changed)[None], {}, False)


@pytest.fixture(scope="module")
def test_set(tmp_path_factory):
    return side(tmp_path_factory.mktemp("sets") / "test", EYES[:6])


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found(test_set, tmp_path, change):
    """A changed copy in training is a finding with its own original, whichever of the two was changed."""
    train = side(tmp_path / "train", [CHANGES[change](EYES[1]), *EYES[6:9]], quality=70)
    for one, other in ((test_set, train), (train, test_set)):
        found = check(Evidence(one, other))
        assert (found.status, found.count) == ("found", 1)
        assert {found.findings[0].test, found.findings[0].train} == {test_set.names[1], train.names[0]}
        assert found.findings[0].value >= found.numbers["same_from"]


@pytest.mark.parametrize(("change", "back"), [("mirror", "mirror"), ("rot90", "rot90"), ("mirror_rot270",) * 2])
def test_orientation(test_set, tmp_path, change, back):
    """It is said how the test photograph is turned to lie on the copy."""
    train = side(tmp_path / "train", [CHANGES[change](EYES[1])])
    assert check(Evidence(test_set, train)).findings[0].orientation == back


def test_other_eyes_are_not_accused(test_set, tmp_path, monkeypatch):
    """Other eyes, and the other eye of a patient, are no copies, even where every pair is compared by pixels."""
    monkeypatch.setattr(near_duplicates, "NOMINATED", 128)
    few = side(tmp_path / "few", EYES[4:6])
    train = side(tmp_path / "train", EYES[6:])
    found = check(Evidence(few, train))
    assert (found.status, found.count, found.compared["nominated"]) == ("clean", 0, 12)
    assert "can be missed" in found.reason
    left, right = side(tmp_path / "left", EYES[:8:2]), side(tmp_path / "right", EYES[1:8:2])
    assert check(Evidence(left, right)).status == "clean"


def test_equal_files_are_another_question(test_set, tmp_path):
    """A copy with the same bytes is found by its file, not again here."""
    assert check(Evidence(test_set, side(tmp_path / "train", EYES[:2]))).status == "clean"


@pytest.mark.parametrize(("module", "limit"), [(near_duplicates, "PAIRS"), (search, "COMPARISONS")])
def test_what_was_not_compared_is_said(test_set, tmp_path, monkeypatch, module, limit):
    """At most so many pairs of hashes, and of pictures, are compared; with more, none found is not clean."""
    monkeypatch.setattr(near_duplicates, "furthest", lambda most, pairs, number: 128)
    monkeypatch.setattr(module, limit, 1)
    found = check(Evidence(test_set, side(tmp_path / "train", EYES[6:])))
    assert found.status == "not_assessed"
    assert found.reason


def test_a_damaged_photograph_is_not_cleared(test_set, tmp_path):
    """A file that cannot be read is not compared."""
    side(tmp_path / "train", EYES[6:8])
    (tmp_path / "train" / "00.jpg").write_bytes((tmp_path / "train" / "00.jpg").read_bytes()[:900])
    train = photographs(load_manifest(tmp_path / "train"), workers=0)
    found = check(Evidence(test_set, train))
    assert found.status == "not_assessed"
    assert "1 photograph of the training set" in found.reason


class TestFingerprintAlone:
    @pytest.mark.parametrize("change", ["again", "rot90", "cut 10", "cut 20"])
    def test_a_copy_is_found(self, test_set, tmp_path, change):
        """A hash so near that hardly any pair is by chance is a finding, without the name of the training image."""
        train = side(tmp_path / "train", [CHANGES[change](EYES[1]), *EYES[6:9]])
        found = check(Evidence(test_set, model=True, fingerprint=fingerprint(train)))
        assert (found.status, found.count) == ("found", 1)
        assert (found.findings[0].test, found.findings[0].train) == (test_set.names[1], None)

    def test_other_eyes_are_clean(self, test_set, tmp_path):
        """No hash is near, and it is said what hashes cannot find."""
        train = side(tmp_path / "train", EYES[6:])
        found = check(Evidence(test_set, model=True, fingerprint=fingerprint(train)))
        assert found.status == "clean"
        assert "can be missed" in found.reason

    @pytest.mark.parametrize(("pairs", "status"), [(10**6, "found"), (10**8, "suspected"), (10**9, "not_assessed")])
    def test_the_number_of_pairs_counts(self, test_set, monkeypatch, pairs, status):
        """A hash at 20 bits is a finding among few pairs, a suspicion among many, and nothing among more."""
        monkeypatch.setattr(near_duplicates, "expected_false", lambda distance, _: expected_false(distance, pairs))
        found = check(Evidence(test_set, model=True, fingerprint=at_distance(test_set, 20)))
        assert found.status == status
        assert ("no nearer than chance" in found.reason) == (status == "not_assessed")

    def test_the_other_eye_is_not_accused(self, test_set):
        """A hash at 48 bits, among few pairs, is a finding; beyond that it may be the other eye of a patient."""
        found = check(Evidence(test_set, model=True, fingerprint=at_distance(test_set, 48)))
        assert (found.status, found.findings[0].distance) == ("found", 48)
        assert check(Evidence(test_set, model=True, fingerprint=at_distance(test_set, 49))).status == "clean"

    def test_pictures_without_content(self, tmp_path):
        """Two black pictures have equal hashes and are no evidence."""
        black = side(tmp_path / "black", [Image.new("RGB", (SIZE, SIZE))])
        assert check(Evidence(black, model=True, fingerprint=fingerprint(black))).status != "found"

    def test_unknown_and_older(self, test_set, tmp_path):
        """Unknown ancestors, no fingerprint, and hashes of an earlier version are not assessed."""
        train = side(tmp_path / "train", EYES[6:])
        older = fingerprint(train, older=np.zeros((7, 32), np.uint8))
        unknown = {"fingerprint": fingerprint(train), "unknown_data": "Its parent is unknown."}
        for facts in ({}, {"model": True}, {"model": True, **unknown}, {"model": True, "fingerprint": older}):
            found = check(Evidence(test_set, **facts))
            assert found.status == "not_assessed"
            assert found.reason

    def test_with_some_of_the_training_photographs(self, test_set, tmp_path):
        """What is at hand is compared by pixels, and the rest of the fingerprint by hashes."""
        at_hand, all_of_it = side(tmp_path / "at", EYES[6:8]), side(tmp_path / "all", [*EYES[6:8], EYES[2]], quality=60)
        found = check(Evidence(test_set, at_hand, model=True, fingerprint=fingerprint(all_of_it)))
        assert (found.status, found.findings[0].test, found.findings[0].train) == ("found", test_set.names[2], None)


def test_copies_inside_the_test_set(tmp_path):
    """A photograph, its copy in another file and its mirrored copy are one group; every other is its own."""
    some = side(tmp_path / "te", [*EYES[:4], EYES[1], ImageOps.mirror(EYES[1]), cut(EYES[2], 0.8)])
    assert groups(some).tolist() == [0, 1, 2, 3, 1, 1, 2]


@pytest.mark.parametrize("pairs", [2, 6])
def test_many_copies_inside_the_test_set(tmp_path, monkeypatch, pairs):
    """Turned copies of all: more pairs than are compared by pixels, and still no patients of their own."""
    monkeypatch.setattr(near_duplicates, "PAIRS", pairs)
    monkeypatch.setattr(near_duplicates, "_AT_ONCE", 4)
    turns = [turned(EYES[i], orientation) for orientation in range(8) for i in range(3)]
    found = groups(side(tmp_path / "te", turns))
    assert found.tolist() == [0, 1, 2] * 8


@pytest.mark.parametrize("orientation", range(8))
def test_real_eyes(real_data, orientation):
    """A real photograph registers with its copy in every orientation, and not with the patient's other eye."""
    labels = pd.read_csv(real_data / "eyepacs-256" / "labels.csv").query("split == 'test'")
    pair = labels[labels["patient"] == labels["patient"].mode()[0]]["image"]
    one, other = (picture(read_image(real_data / "eyepacs-256" / image)) for image in pair)
    assert likeness(turned(one, orientation), turned(one, orientation)) == pytest.approx(1, abs=0.01)
    assert likeness(turned(one, orientation), turned(other, orientation)) < 0.6


def test_very_small_pictures_are_not_compared(tmp_path):
    """On few pixels two eyes look alike: such photographs accuse nobody, and the check says that it cannot tell."""
    small = [image.resize((64, 64)) for image in EYES]
    test, train = side(tmp_path / "test", small[:4]), side(tmp_path / "train", small[4:])
    found = check(Evidence(test, train))
    assert (found.status, found.count) == ("not_assessed", 0)
    assert found.reason.startswith("4 photographs of the test set show the retina on fewer than 90 pixels")
    assert groups(test).tolist() == [0, 1, 2, 3]
