"""Copies of real photographs are confirmed by pixels; other eyes are not, however near their hashes are."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance, ImageOps

from drgate.audit.near_duplicates import by_hashes, by_pixels, groups
from drgate.audit.register import picture
from drgate.vision.images import read_image
from drgate.vision.perceptual import perceptual_hash

CHANGES = {
    "mirror": ImageOps.mirror,
    "rot90": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "brighter": ImageEnhance.Brightness,
}


def hashes(images):
    return np.stack([np.frombuffer(perceptual_hash(image), np.uint8) for image in images])


@pytest.fixture(scope="module")
def eyes(real_data):
    """Both eyes of six test patients."""
    labels = pd.read_csv(real_data / "eyepacs-256" / "labels.csv")
    labels = labels[labels["split"] == "test"]
    both = labels[labels.groupby("patient")["image"].transform("size") == 2].head(12)
    return [read_image(real_data / "eyepacs-256" / image) for image in both["image"]]


def compared(test, train):
    names = ([f"test-{i}" for i in range(len(test))], [f"train-{i}" for i in range(len(train))])
    read = (lambda i: picture(test[i]), lambda i: picture(train[i]))
    return by_pixels(hashes(test), hashes(train), names, read)


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found(eyes, change):
    """A turned, mirrored or brightened copy of each test photograph is a finding with its own original, no other."""
    how = CHANGES[change]
    check = compared(eyes, [how(eye).enhance(1.2) if change == "brighter" else how(eye) for eye in eyes])
    assert check.status == "found"
    assert sorted(one.test[5:] + one.train[6:] for one in check.findings) == sorted(f"{i}{i}" for i in range(len(eyes)))
    assert {one.orientation for one in check.findings} == {change if change in ("mirror", "rot90") else "same"}


def test_other_eyes_are_not(eyes):
    """The two eyes of a patient, and eyes of other patients, are no copies."""
    assert compared(eyes[::2], eyes[1::2]).status == "clean"


def test_without_pixels(eyes):
    """From hashes alone: an equal hash is suspected, and nothing near is not assessed, never clean."""
    names = [f"test-{i}" for i in range(len(eyes))]
    assert by_hashes(hashes(eyes), hashes(eyes), names).status == "suspected"
    assert by_hashes(hashes(eyes[::2]), hashes(eyes[1::2]), names).status == "not_assessed"


def test_copies_inside_the_test_set(eyes):
    """A photograph and its mirrored copy are one group; every other is its own."""
    some = [*eyes[:4], ImageOps.mirror(eyes[1])]
    assert groups(hashes(some), lambda i: picture(some[i])).tolist() == [0, 1, 2, 3, 1]
