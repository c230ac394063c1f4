"""Decoding and the preprocessing `fundus-square-1`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from drgate.errors import ImageUnreadable
from drgate.preprocessing import FUNDUS_SQUARE, field_of_view, parse_preprocessing
from drgate.vision.images import read_image


def fundus(width: int = 640, height: int = 480, radius: int = 200, centre: tuple[int, int] = (320, 240)) -> Image.Image:
    """A lit disc with texture on black."""
    image = Image.new("RGB", (width, height))
    x, y = centre
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=(170, 90, 50))
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 1), dtype=np.uint8)
    lit = np.asarray(image).max(axis=2, keepdims=True) > 0
    return Image.fromarray(np.asarray(image) + noise * lit)


class TestPixels:
    @pytest.mark.parametrize(("side", "size"), [(300, 112), (448, 448), (97, 224)])
    def test_a_square_lit_image_is_prepared_as_siglip_does(self, side, size):
        """Without a black surround the values are those of transformers' own processor: bicubic, mean .5, std .5."""
        from transformers import SiglipImageProcessorPil

        pixels = np.random.default_rng(side).integers(60, 256, (side, side, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1))
        oracle = SiglipImageProcessorPil(
            size={"height": size, "width": size}, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
        expected = np.asarray(oracle(image, return_tensors="np")["pixel_values"][0])
        actual = parse_preprocessing(f"{FUNDUS_SQUARE}@{size}")(image)
        assert actual.dtype == np.float32
        assert actual.shape == (3, size, size)
        np.testing.assert_allclose(actual, expected, atol=2e-6)

    def test_range_is_minus_one_to_one(self):
        """Black is -1, white is 1."""
        image = Image.new("RGB", (64, 64), "white")
        assert parse_preprocessing(f"{FUNDUS_SQUARE}@{32}")(image).max() == pytest.approx(1)
        assert parse_preprocessing(f"{FUNDUS_SQUARE}@{32}")(Image.new("RGB", (64, 64))).min() == -1

    def test_a_wide_field_of_view_is_padded_not_stretched(self):
        """A disc stays a disc: black bars above and below, equally high."""
        cut = fundus(640, 240, radius=200, centre=(320, 120))  # top and bottom of the disc are outside of the frame
        pixels = parse_preprocessing(f"{FUNDUS_SQUARE}@{200}").pixels(cut)
        lit_rows = np.flatnonzero(pixels.max(axis=2).mean(axis=1) > 40)
        assert lit_rows[0] == pytest.approx(40, abs=2)  # 400 x 240 padded to 400 x 400
        assert lit_rows[-1] == pytest.approx(159, abs=2)

    def test_the_width_of_the_surround_does_not_matter(self):
        """The same eye with more black around it gives the same network input, but for a pixel at the rim."""
        prepare = parse_preprocessing(f"{FUNDUS_SQUARE}@{112}").pixels
        near = prepare(fundus(420, 420, centre=(210, 210))).astype(int)
        far = prepare(fundus(900, 640, centre=(500, 300))).astype(int)
        inside = slice(10, -10)
        assert np.abs(near[inside, inside].mean(axis=(0, 1)) - far[inside, inside].mean(axis=(0, 1))).max() < 3


class TestFieldOfView:
    def test_is_the_disc_under_jpeg_noise(self, tmp_path):
        """Strong compression, whose noise reaches into the black, moves the box by less than 2 % of the disc."""
        fundus(900, 600, radius=250, centre=(400, 310)).save(tmp_path / "noisy.jpg", quality=15)
        box = field_of_view(read_image(tmp_path / "noisy.jpg"))
        assert box == pytest.approx((150, 60, 651, 561), abs=10)

    def test_is_not_widened_by_hot_pixels_and_sensor_noise(self):
        """Single bright pixels and a dark noisy sensor are no retina."""
        pixels = np.asarray(fundus()).copy()
        generator = np.random.default_rng(1)
        dark = pixels.max(axis=2) == 0
        pixels[dark] = generator.integers(0, 7, (dark.sum(), 3))
        for x, y in generator.integers(0, 470, (30, 2)):
            pixels[y, x] = 255
        assert field_of_view(Image.fromarray(pixels)) == pytest.approx((120, 40, 521, 441), abs=4)

    @pytest.mark.parametrize("level", [0, 3, 255])
    def test_is_the_whole_image_where_nothing_stands_out(self, level):
        """Black, nearly black and white images are taken whole."""
        assert field_of_view(Image.new("RGB", (50, 40), (level,) * 3)) == (0, 0, 50, 40)

    def test_of_real_photographs_leaves_only_black_outside(self, real_data):
        """On 40 real photographs of several cameras, what is cut away is dark and what stays fills the box."""
        files = sorted((real_data / "eyepacs-1024" / "images").glob("*.jpeg"))[::19][:40]
        for file in files:
            image = read_image(file)
            box = field_of_view(image)
            pixels = np.asarray(image).max(axis=2).astype(float)
            outside = np.ones(pixels.shape, dtype=bool)
            outside[box[1] : box[3], box[0] : box[2]] = False
            assert not outside.any() or pixels[outside].mean() < 12, file
            assert (box[2] - box[0]) > 0.4 * image.width, file
            aspect = (box[2] - box[0]) / (box[3] - box[1])
            assert 0.95 < aspect < 1.4, file


class TestReadImage:
    def test_exif_orientation_is_applied(self, tmp_path):
        """A camera that was held upright says so in EXIF; the photograph comes out upright."""
        image = Image.new("RGB", (40, 20))
        image.putpixel((0, 0), (255, 0, 0))
        exif = image.getexif()
        exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
        image.save(tmp_path / "turned.png", exif=exif)
        upright = read_image(tmp_path / "turned.png")
        assert upright.size == (20, 40)
        assert upright.getpixel((19, 0)) == (255, 0, 0)

    def test_sixteen_bit_grayscale_is_scaled_by_its_whole_range(self, tmp_path):
        """65535 becomes 255, half of it half, in three equal channels."""
        values = np.array([[0, 32767, 65535]], dtype=np.uint16)
        Image.fromarray(values).save(tmp_path / "deep.png")
        assert np.asarray(read_image(tmp_path / "deep.png")).tolist() == [[[0] * 3, [127] * 3, [255] * 3]]

    @pytest.mark.parametrize(
        ("mode", "colour", "name"),
        [("L", 100, "g.png"), ("1", 1, "b.png"), ("CMYK", (0, 155, 155, 0), "c.jpg"), ("LA", (100, 255), "la.png")],
    )
    def test_other_modes_become_rgb(self, mode, colour, name, tmp_path):
        """Grayscale, bilevel, CMYK and gray with alpha are converted."""
        Image.new(mode, (8, 8), colour).save(tmp_path / name)
        image = read_image(tmp_path / name)
        assert image.mode == "RGB"
        expected = {"L": (100, 100, 100), "1": (255, 255, 255), "CMYK": (255, 100, 100), "LA": (100, 100, 100)}[mode]
        assert image.getpixel((4, 4)) == pytest.approx(expected, abs=3)

    def test_a_large_jpeg_is_decoded_smaller_where_that_is_wanted(self, tmp_path):
        """At the smallest scale of which no side is shorter; a PNG has no scales."""
        for name, expected in (("large.jpg", (320, 240)), ("large.png", (640, 480))):
            fundus().save(tmp_path / name)
            assert read_image(tmp_path / name, 200).size == expected
            assert read_image(tmp_path / name, 300).size == (640, 480)
            assert read_image(tmp_path / name).size == (640, 480)

    def test_transparency_is_laid_on_black(self, tmp_path):
        """What is transparent around a fundus is its surround."""
        image = Image.new("RGBA", (8, 8), (200, 200, 200, 0))
        image.putpixel((3, 3), (200, 100, 0, 255))
        image.save(tmp_path / "a.png")
        image.convert("P").save(tmp_path / "p.gif", transparency=image.convert("P").getpixel((0, 0)))
        assert read_image(tmp_path / "a.png").getpixel((0, 0)) == (0, 0, 0)
        assert read_image(tmp_path / "a.png").getpixel((3, 3)) == (200, 100, 0)
        assert read_image(tmp_path / "p.gif").getpixel((0, 0)) == (0, 0, 0)

    def test_what_is_no_image_is_named(self, tmp_path):
        """Each kind of unreadable file gives a sentence that begins with its path."""
        whole = tmp_path / "whole.jpg"
        fundus().save(whole)
        files = {
            "missing.jpg": None,
            "empty.jpg": b"",
            "text.jpg": b"not an image",
            "truncated.jpg": whole.read_bytes()[:3000],
            "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        }
        for name, data in files.items():
            if data is not None:
                (tmp_path / name).write_bytes(data)
            with pytest.raises(ImageUnreadable) as raised:
                read_image(tmp_path / name)
            assert str(raised.value).startswith(str(tmp_path / name)), name
        Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "float.tiff")
        with pytest.raises(ImageUnreadable, match="floating-point"):
            read_image(tmp_path / "float.tiff")

    def test_a_decompression_bomb_is_not_decoded(self, tmp_path, monkeypatch):
        """More pixels than Pillow's limit are an error, also below twice the limit, where Pillow only warns."""
        Image.new("L", (150, 100)).save(tmp_path / "bomb.png")
        for limit in (10_000, 1_000):
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            with pytest.raises(ImageUnreadable, match="pixels"):
                read_image(tmp_path / "bomb.png")


def test_worker_processes_start_without_torch():
    """Decoding and hashing import neither torch nor transformers."""
    code = (
        "import sys; import drgate.vision.images, drgate.vision.fingerprint, trainer.data;"
        "print({'torch', 'transformers', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "set()"
