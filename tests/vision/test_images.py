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


class TestFundusSquare2:
    """`fundus-square-2`, against its text written again."""

    @staticmethod
    def written_again(path: Path, size: int) -> np.ndarray:
        """By the text, with blocks averaged one by one; of Pillow only decoding and its bicubic filter."""
        with Image.open(path) as image:
            if image.format == "JPEG":
                scale = max([s for s in (1, 2, 4, 8) if min(image.size) // s >= 2 * size] or [1])
                image.draft(None, (image.width // scale, image.height // scale))
            upright = {6: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}.get(image.getexif().get(0x0112))
            image = image.transpose(upright) if upright is not None else image
            pixels = np.asarray(image.convert("RGB"))

        def averaged(values: np.ndarray, down: int, across: int) -> np.ndarray:
            rows = [np.arange(at, min(at + down, len(values))) for at in range(0, len(values), down)]
            columns = [np.arange(at, min(at + across, values.shape[1])) for at in range(0, values.shape[1], across)]
            blocks = [[values[np.ix_(y, x)].reshape(-1, 3) for x in columns] for y in rows]
            found = [
                [(b.sum(axis=0, dtype=np.int64) + len(b) // 2) * (2**24 // len(b)) >> 24 for b in row] for row in blocks
            ]
            return np.array(found, dtype=np.uint8)

        height, width = pixels.shape[:2]
        block = max(1, max(width, height) // 256)
        bright = averaged(pixels, block, block).max(axis=2)
        lit = bright > max(8, 0.12 * np.quantile(bright, 0.9))
        across, down = (np.flatnonzero(lit.mean(axis=axis) >= 0.04) for axis in (0, 1))
        if len(across) >= lit.shape[1] / 8 and len(down) >= lit.shape[0] / 8:
            pixels = pixels[down[0] * block : (down[-1] + 1) * block, across[0] * block : (across[-1] + 1) * block]
        height, width = pixels.shape[:2]
        new = [max(1, int(np.floor(size * side / max(width, height) + 0.5))) for side in (width, height)]
        by = [max(1, int(side / to / 1.2)) for side, to in zip((width, height), new, strict=True)]
        small = Image.fromarray(averaged(pixels, by[1], by[0]))
        box = (0, 0, width / by[0], height / by[1])
        inner = np.asarray(small.resize(tuple(new), Image.Resampling.BICUBIC, box=box))
        canvas = np.zeros((size, size, 3), np.uint8)
        left, top = ((size - side) // 2 for side in new)
        canvas[top : top + new[1], left : left + new[0]] = inner
        return canvas

    @pytest.mark.parametrize(
        ("name", "shape", "size"),
        [
            ("a.jpg", (640, 480), 112),
            ("a.jpg", (641, 477), 32),
            ("a.png", (640, 480), 112),
            ("turned.jpg", (901, 620), 64),
            ("grey.jpg", (700, 500), 64),
            ("cmyk.jpg", (700, 500), 64),
            ("tiny.png", (40, 31), 64),
            ("tiny.jpg", (2, 1), 64),
            ("wide.png", (1200, 16), 64),
        ],
    )
    def test_is_what_its_text_says(self, tmp_path, name, shape, size):
        """Somebody else who writes it by its text gets the same pixels, of every kind of file."""
        image = fundus(*shape, radius=int(min(shape) * 0.45), centre=(shape[0] // 2 - 3, shape[1] // 2))
        image = image.convert({"grey": "L", "cmyk": "CMYK"}.get(name[:4], "RGB"))
        exif = Image.Exif()
        if name == "turned.jpg":
            exif[0x0112] = 6
        image.save(path := tmp_path / name, exif=exif)
        prepare = parse_preprocessing(f"fundus-square-2@{size}")
        actual = prepare.pixels(read_image(path, prepare.decoded_at))
        assert actual.dtype == np.uint8
        np.testing.assert_array_equal(actual, self.written_again(path, size))

    def test_sixteen_bits_are_the_eight_of_their_range(self, tmp_path):
        """A deep PNG is prepared like its 8-bit copy."""
        grey = np.asarray(fundus().convert("L"))
        Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
        Image.fromarray(grey).save(tmp_path / "plain.png")
        prepare = parse_preprocessing("fundus-square-2@64").pixels
        deep, plain = (prepare(read_image(tmp_path / name)) for name in ("deep.png", "plain.png"))
        np.testing.assert_array_equal(deep, plain)

    def test_is_nearly_the_first_version(self, tmp_path):
        """Of a large photograph the pixels are those of `fundus-square-1` within a few grey levels."""
        image = fundus(1600, 1200, radius=560, centre=(800, 600)).filter(ImageFilter.GaussianBlur(3))
        image.save(path := tmp_path / "a.jpg", quality=95)
        second, first = (parse_preprocessing(f"{name}@224") for name in ("fundus-square-2", FUNDUS_SQUARE))
        pixels = second.pixels(read_image(path, second.decoded_at)).astype(int)
        assert np.abs(pixels - first.pixels(read_image(path))).mean() < 4
