"""The properties of a photograph that a clinician would not look at."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from drgate.audit.properties import ACQUISITION, CONTENT, properties
from drgate.demo.synthetic import draw_patient, render
from drgate.vision.images import decode_image


@pytest.fixture(scope="module")
def photograph():
    """One synthetic fundus photograph."""
    return render(draw_patient("demo", seed=0, index=3, worse_grade=2), "R", size=512).image


def written(image, kind="JPEG", **how):
    into = io.BytesIO()
    image.save(into, kind, **how)
    return into.getvalue()


def of(image, kind="JPEG", **how):
    data = written(image, kind, **how)
    return properties(data, decode_image(data, Path("a")))


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_file(photograph):
    """What the file says of itself: size, quality, tables and subsampling of a JPEG, camera and software of EXIF."""
    exif = Image.Exif()
    exif[271], exif[272], exif[305] = "Canon\0", "CR-2", "Editor 1"
    found = of(photograph, quality=70, subsampling="4:2:2", exif=exif)
    assert (found["jpeg_quality"], found["subsampling"], found["format"]) == (70, "1", "JPEG")
    assert (found["width"], found["height"]) == photograph.size
    assert (found["camera"], found["software"]) == (digest("Canon CR-2"), digest("Editor 1"))
    assert found["exif"] == "yes"
    assert found["jpeg_tables"] != of(photograph, quality=71)["jpeg_tables"]
    assert set(found) == {*ACQUISITION, *CONTENT}


def test_no_text_of_exif_is_kept(photograph):
    """A patient's name may be in any field, and a cache keeps the properties: equal texts have equal digests alone."""
    exif = Image.Exif()
    exif[271], exif[305] = "Doe, Jane", "Doe, Jane"
    found = of(photograph, exif=exif)
    assert found["camera"] == found["software"]
    assert "Doe" not in str(found)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF", "BMP"])
def test_what_a_format_lacks_is_absent(photograph, kind):
    """Another format than JPEG has no quality; all other properties are there."""
    found = of(photograph, kind)
    assert found["format"] == kind
    assert {*ACQUISITION, *CONTENT} - set(found) == {"jpeg_quality", "jpeg_tables", "subsampling", "camera", "software"}


def test_damaged_exif(photograph):
    """A photograph whose EXIF cannot be read counts as one without."""
    found = of(photograph, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 30)
    assert found["exif"] == "no"
    assert "camera" not in found


def test_the_size_is_the_file_s(photograph):
    """Width and height are of the file where the pixels were decoded at half of it; sharpness is about the same."""
    large = photograph.resize((1400, 1400), Image.Resampling.BICUBIC)
    data = written(large, quality=95)
    whole, half = properties(data, large), properties(data, large.reduce(2))
    assert (half["width"], half["height"]) == (1400, 1400)
    assert half["sharpness"] == pytest.approx(whole["sharpness"], rel=0.25)


def test_the_pixels(photograph):
    """Means and border agree with those of all pixels; sharpening, blurring and a mark in a corner are seen."""
    found = of(photograph, "PNG")
    pixels = np.asarray(photograph).astype(float)
    lit = pixels.max(axis=2) > 16
    for channel, name in enumerate(("red", "green", "blue")):
        assert found[name] == pytest.approx(pixels[lit][:, channel].mean(), abs=2)
    assert found["border"] == pytest.approx(1 - lit.mean(), abs=0.01)
    sharp, blurred = (of(photograph.filter(how), "PNG") for how in (ImageFilter.SHARPEN, ImageFilter.GaussianBlur(2)))
    for name in ("sharpness", "detail"):
        assert sharp[name] > 1.2 * found[name] > 1.5 * blurred[name]
    marked = photograph.copy()
    marked.paste((255, 255, 255), (480, 0, 512, 20))
    assert of(marked, "PNG")["corner"] > found["corner"] + 50


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (3, 3)])
def test_a_tiny_picture(size):
    """Any picture has properties, all black ones too."""
    found = of(Image.new("RGB", size), "PNG")
    assert all(np.isfinite(value) for value in found.values() if isinstance(value, float))
    assert found["border"] == 1
