"""The perceptual hash, version 2: its definition written again, what leaves it nearly equal, and its orientations."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy.fft import dctn
from scipy.ndimage import uniform_filter

from drgate.vision.perceptual import orientations, perceptual_hash


def eye(seed: int, size: tuple[int, int] = (720, 480)) -> Image.Image:
    """A round, smooth photograph of its own pattern on black."""
    noise = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    pattern = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)) * 0.5 + 60
    y, x = np.mgrid[: size[1], : size[0]]
    inside = np.hypot(x - size[0] / 2, y - size[1] / 2) < 0.47 * size[1]
    return Image.fromarray(np.where(inside[..., None], pattern, 0).astype(np.uint8))


def as_bits(image: Image.Image) -> np.ndarray:
    return np.frombuffer(perceptual_hash(image), np.uint8)


def distance(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.bitwise_count(one ^ other).sum())


def written_again(image: Image.Image) -> bytes:
    """The hash by the module's text, with SciPy's transform and mean filter and the blocks one by one."""
    pixels = np.asarray(image).astype(np.int64)
    side = max(1, max(image.size) // 256)
    rows, columns = (-(-length // side) for length in pixels.shape[:2])
    copy = np.empty((rows, columns, 3), np.uint8)
    for y in range(rows):
        for x in range(columns):
            block = pixels[y * side : (y + 1) * side, x * side : (x + 1) * side].reshape(-1, 3)
            copy[y, x] = np.floor(block.mean(axis=0) + 0.5)
    bright = copy.max(axis=2)
    lit = bright > max(8, 0.12 * np.quantile(bright, 0.9))
    across = [x for x in range(columns) if lit[:, x].sum() / rows >= 0.04]
    down = [y for y in range(rows) if lit[y].sum() / columns >= 0.04]
    box = (across[0], down[0], across[-1] + 1, down[-1] + 1)
    grey = (copy.astype(np.int64) @ [19595, 38470, 7471] + 32768) // 65536
    small = np.asarray(Image.fromarray(grey.astype(np.uint8)).resize((64, 64), Image.Resampling.BILINEAR, box=box))
    y, x = np.mgrid[:64, :64] - 31.5
    inside = (np.hypot(x, y) < 30.4).astype(float)

    def mean(values: np.ndarray) -> np.ndarray:
        share = uniform_filter(inside, 9, mode="constant")
        return uniform_filter(values * inside, 9, mode="constant") / np.maximum(share, 1e-9) * inside

    less = (small - mean(small)) * inside
    normal = np.clip(less / np.sqrt(4 + mean(less**2)), -1, 1)
    return np.packbits(dctn(normal)[1:17, 1:17] > 0).tobytes()


@pytest.mark.parametrize("size", [(720, 480), (250, 250), (80, 90), (513, 767)])
def test_is_what_its_text_says(size):
    """Somebody else who writes the hash by its definition gets the same 256 bits."""
    assert perceptual_hash(eye(1, size)) == written_again(eye(1, size))


@pytest.mark.parametrize("of", range(8))
def test_all_orientations_follow_from_one_hash(of):
    """A copy that is turned or mirrored is found from the hash alone, and as which orientation."""
    image = eye(2)
    pixels = np.asarray(ImageOps.mirror(image) if of >= 4 else image)
    turned = as_bits(Image.fromarray(np.ascontiguousarray(np.rot90(pixels, of % 4))))
    distances = [distance(turned, one) for one in orientations(as_bits(image))]
    assert int(np.argmin(distances)) == of
    assert distances[of] <= 16
    assert min(distances[:of] + distances[of + 1 :]) > 60


def test_orientations_of_many_are_those_of_each():
    """A whole fingerprint is turned in one call."""
    hashes = np.stack([as_bits(eye(seed)) for seed in range(3)])
    assert orientations(hashes).tolist() == [orientations(one).tolist() for one in hashes]


def copies(image: Image.Image) -> dict[str, Image.Image]:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    channels = [ImageOps.autocontrast(channel) for channel in image.split()]
    return {
        "re-encoded": Image.open(buffer).convert("RGB"),
        "smaller": image.resize((300, 200)),
        "larger": image.resize((1500, 1000), Image.Resampling.BICUBIC),
        "cropped to the field of view": image.crop((120, 0, 600, 480)),
        "brighter": ImageEnhance.Brightness(image).enhance(1.5),
        "darker": ImageEnhance.Brightness(image).enhance(0.5),
        "equalised": Image.merge("RGB", channels),
        "grey": image.convert("L").convert("RGB"),
    }


@pytest.mark.parametrize("kind", copies(eye(3)))
def test_copies_are_near_and_other_eyes_are_not(kind):
    """A changed copy of a photograph is near it; another photograph is not."""
    assert distance(as_bits(eye(3)), as_bits(copies(eye(3))[kind])) <= 32
    assert distance(as_bits(eye(4)), as_bits(copies(eye(3))[kind])) > 80


def test_a_picture_of_one_colour_has_no_bits():
    """A photograph without content has a hash, the same for every colour and size."""
    assert {perceptual_hash(Image.new("RGB", (w, 40), (w % 256,) * 3)) for w in (1, 64, 300)} == {bytes(32)}
