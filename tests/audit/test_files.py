"""Equal files and equal pixels of the test set and of training are found; without the pixels nothing is clean."""

import io

import pytest
from PIL import Image

from drgate.audit import files, search
from drgate.audit.evidence import Evidence, photographs
from drgate.demo.synthetic import draw_patient, render
from drgate.manifest import load_manifest
from drgate.vision.fingerprint import Fingerprint


@pytest.fixture(scope="module")
def eyes():
    """Four synthetic eyes as JPEG files."""
    found = []
    for index in range(4):
        data = io.BytesIO()
        drawn = render(draw_patient("demo", seed=3, index=index, worse_grade=2), "R", size=160)
        drawn.image.save(data, "JPEG", quality=90)
        found.append(data.getvalue())
    return found


def as_png(data, alter=lambda image: image):
    image = alter(Image.open(io.BytesIO(data)).convert("RGB"))
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def one_pixel(image):
    image.putpixel((80, 80), (0, 0, 0))
    return image


def side(folder, pictures):
    """Photographs of one file for each name."""
    folder.mkdir()
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    (folder / "labels.csv").write_text("image,grade\n" + "".join(f"{name},0\n" for name in pictures))
    return photographs(load_manifest(folder), workers=0)


def test_equal_bytes_are_found(eyes, tmp_path):
    """A file of the test set that was trained on is a finding under its published name; a copy inside is counted."""
    test = side(tmp_path / "te", {"a.jpg": eyes[0], "b.jpg": eyes[1], "c.jpg": eyes[1]})
    train = side(tmp_path / "tr", {"x.jpg": eyes[2], "y.jpg": eyes[0]})
    found = files.check(Evidence(test, train))
    assert (found.status, found.count, found.numbers) == ("found", 1, {"copies_in_test": 1.0})
    assert found.findings[0].test == found.findings[0].train == test.contents[0][:16]
    assert files.check_pixels(Evidence(test, train)).status == "clean"


def test_equal_pixels_are_found(eyes, tmp_path):
    """A JPEG that was written again as PNG has the same pixels; with one pixel changed, it has not."""
    test = side(tmp_path / "te", {"a.jpg": eyes[0], "b.jpg": eyes[1]})
    train = side(tmp_path / "tr", {"x.png": as_png(eyes[1]), "y.png": as_png(eyes[0], one_pixel)})
    found = files.check_pixels(Evidence(test, train))
    assert (found.status, found.count, found.compared["nominated"]) == ("found", 1, 2)
    assert (found.findings[0].test, found.findings[0].train) == (test.names[1], train.contents[0][:16])
    assert files.check(Evidence(test, train)).status == "clean"


def test_what_was_not_compared_is_said(eyes, tmp_path, monkeypatch):
    """No more pairs than stated are decoded in full, and then nothing is clean."""
    test, train = side(tmp_path / "te", {"a.jpg": eyes[0]}), side(tmp_path / "tr", {"x.png": as_png(eyes[0])})
    for module, limit, reason in ((files, "AT_MOST", "1 more pair"), (search, "COMPARISONS", "more than 0 pairs")):
        monkeypatch.setattr(module, limit, 0)
        found = files.check_pixels(Evidence(test, train))
        assert found.status == "not_assessed"
        assert reason in found.reason


def test_a_damaged_file_is_not_cleared(eyes, tmp_path):
    """A photograph that cannot be decoded has no pixels to compare; its bytes are compared all the same."""
    test = side(tmp_path / "te", {"a.jpg": eyes[0][:3000], "b.jpg": eyes[1]})
    train = side(tmp_path / "tr", {"x.jpg": eyes[2]})
    assert files.check(Evidence(test, train)).status == "clean"
    found = files.check_pixels(Evidence(test, train))
    assert found.status == "not_assessed"
    assert "1 photograph" in found.reason


def test_the_training_photographs_are_needed(eyes, tmp_path):
    """A fingerprint has no files; of a model that saw more than the training set at hand nothing is clean."""
    test, train = side(tmp_path / "te", {"a.jpg": eyes[0]}), side(tmp_path / "tr", {"x.jpg": eyes[1]})
    same = Fingerprint.build([one.hashed for one in train.seen], train.table, None)
    more = Fingerprint.build([b"\1" * 32], train.table, None, [same])
    for check in (files.check, files.check_pixels):
        assert check(Evidence(test)).status == "not_assessed"
        assert check(Evidence(test, model=True, fingerprint=same)).status == "not_assessed"
        assert check(Evidence(test, train, model=True, fingerprint=more)).status == "not_assessed"
        assert check(Evidence(test, train, model=True, fingerprint=same)).status == "clean"
