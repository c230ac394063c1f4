"""Augmentation: the same picture of an image wherever and whenever it is asked for, and every lesion still there."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from drgate.demo.synthetic import draw_patient, render
from drgate.preprocessing import FUNDUS_SQUARE, Preprocessing, parse_preprocessing, read_preprocessing
from trainer.augment import BLUR, BRIGHTNESS, CHANNEL, SHIFT, ZOOM, Changes, _blur, draw_changes
from trainer.augment import augment as augment_by

PREPARE = parse_preprocessing(FUNDUS_SQUARE)
augment = functools.partial(augment_by, preprocess=PREPARE)
OTHERS = [
    parse_preprocessing("imagenet-stretch"),
    read_preprocessing(
        {
            **PREPARE.content(),
            "name": "bgr",
            "channels": "bgr",
            "scale": {"mean": [0.1, 0.5, 0.2], "std": [0.1, 0.2, 0.3]},
        },
        "it",
    ),
    read_preprocessing({**PREPARE.content(), "name": "green", "channels": "green", "scale": {"range": [0, 255]}}, "it"),
]
RETINA = (150, 80, 40)
BLOOD = (90, 40, 24)
EXUDATE = (190, 150, 70)


def noise(n: int, size: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(n).integers(0, 256, (n, size, size, 3), dtype=np.uint8))


@functools.cache
def spot(colour: tuple[int, int, int], across: float, size: int) -> np.ndarray:
    """A round spot in the middle of an evenly lit disc on black, with edges as a sensor sees them."""
    fine = np.linspace(-size / 2, size / 2, 4 * size, endpoint=False) + 1 / 8
    r = np.hypot(fine[:, None], fine[None, :])

    def share(radius: float) -> np.ndarray:
        return (r < radius).reshape(size, 4, size, 4).mean(axis=(1, 3))[..., None]

    image = np.array(RETINA) * share(0.49 * size)
    return np.round(image + (np.array(colour) - image) * share(across / 2)).astype(np.uint8)


def many(image: np.ndarray, draws: int, **other: object) -> np.ndarray:
    """The same image, as `draws` images of other numbers would be changed: (draws, 3, size, size) in [0, 1]."""
    settings = {"augmentation": "fundus", "seed": 0, "epoch": 1, "images": range(draws)} | other
    changed = augment(torch.tensor(image).expand(draws, -1, -1, -1), **settings)
    return (changed.numpy() + 1) / 2


def changes(draws: int) -> Changes:
    return draw_changes(seed=0, epoch=1, images=range(draws), repeats=[0] * draws)


class TestWhatItDependsOn:
    def test_an_image_alone_is_the_image_in_any_batch(self):
        """To the last bit: alone, in a batch, in another order."""
        pixels, images = noise(40), list(range(100, 140))
        together = augment(pixels, augmentation="fundus", seed=3, epoch=2, images=images)
        for i in range(40):
            alone = augment(pixels[i : i + 1], augmentation="fundus", seed=3, epoch=2, images=images[i : i + 1])
            assert torch.equal(alone[0], together[i])
        back = augment(pixels.flip(0), augmentation="fundus", seed=3, epoch=2, images=images[::-1])
        assert torch.equal(back.flip(0), together)

    @pytest.mark.parametrize("size", [31, 448])
    def test_pieces_and_threads_change_nothing(self, size, monkeypatch):
        """To the last bit: one or several images at a time, one or three threads, also at an odd size."""
        pixels = noise(5, size)
        expected = augment(pixels, augmentation="fundus", seed=3, epoch=2, images=range(5))
        monkeypatch.setattr("trainer.augment._AT_ONCE", 5 * size**2)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            actual = augment(pixels, augmentation="fundus", seed=3, epoch=2, images=range(5))
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(actual, expected)

    def test_seed_epoch_image_and_repeat_each_matter(self):
        """And nothing but they do: the same four numbers give the same picture."""
        pixel = noise(1)

        def picture(seed: int, epoch: int, image: int, repeat: int) -> bytes:
            changed = augment(pixel, augmentation="fundus", seed=seed, epoch=epoch, images=[image], repeats=[repeat])
            return changed.numpy().tobytes()

        numbers = [(s, e, i, r) for s in (0, 1) for e in (1, 2) for i in (0, 1, 2) for r in (0, 1)]
        pictures = {picture(*number) for number in numbers}
        assert len(pictures) == len(numbers)
        assert {picture(*number) for number in numbers} == pictures

    def test_no_generator_is_touched(self):
        """Dropout and whatever else draws from torch's and NumPy's generators goes on as without augmentation."""
        before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
        augment(noise(3), augmentation="fundus", seed=0, epoch=1, images=range(3))
        assert torch.equal(torch.get_rng_state(), before)
        assert np.array_equal(np.random.get_state()[1], legacy)

    def test_none_is_what_scoring_does(self):
        """Without augmentation the network sees the very values that it is scored on."""
        pixels = noise(3)
        actual = augment(pixels, augmentation="none", seed=0, epoch=1, images=range(3))
        assert np.array_equal(actual.numpy(), PREPARE.scaled(pixels.numpy()))
        assert actual.is_contiguous(memory_format=torch.channels_last), "as the first convolution likes it"

    @pytest.mark.parametrize("prepare", OTHERS, ids=lambda prepare: prepare.name)
    def test_every_scale_and_channel_order(self, prepare: Preprocessing):
        """None is what scoring does; changed pictures are those of -1 to 1 on another scale, and black is black."""
        pixels = noise(3)
        pixels[:, :, :8] = 0
        settings = {"seed": 0, "epoch": 1, "images": range(3)}
        plain = augment_by(pixels, preprocess=prepare, augmentation="none", **settings)
        assert np.array_equal(plain.numpy(), prepare.scaled(pixels.numpy()))
        changed = augment_by(pixels, preprocess=prepare, augmentation="fundus", **settings).numpy()
        levels = (augment(pixels, augmentation="fundus", **settings).numpy() + 1) * 127.5
        assert np.abs(changed - prepare.scaled(levels.transpose(0, 2, 3, 1))).max() < 1e-3
        black = prepare.scaled(np.zeros((1, 1, 3), np.uint8))
        assert (changed.min(axis=(0, 2, 3)) == black[:, 0, 0]).all()

    def test_floating_point_levels_are_taken_too(self):
        """Of 0 to 255, the same as bytes; and the input is left alone."""
        levels = noise(3).float()
        kept = levels.clone()
        in_planes = levels.movedim(-1, 1).contiguous().movedim(1, -1)
        for augmentation in ("none", "fundus"):
            settings = {"augmentation": augmentation, "seed": 0, "epoch": 1, "images": range(3)}
            for given in (levels, in_planes):
                assert torch.equal(augment(given, **settings), augment(noise(3), **settings))
                assert torch.equal(given, kept)

    @pytest.mark.parametrize("augmentation", ["none", "fundus"])
    def test_an_empty_batch_stays_empty(self, augmentation):
        """A rank without images in a step has an empty batch of the right shape."""
        empty = augment(noise(2)[:0], augmentation=augmentation, seed=0, epoch=1, images=[])
        assert empty.shape == (0, 3, 32, 32)
        assert empty.dtype == torch.float32

    def test_what_does_not_fit_is_refused(self):
        """Another number of images than of pixels, and an unknown word."""
        with pytest.raises(ValueError, match="3 images were given with the numbers of 2"):
            augment(noise(3), augmentation="fundus", seed=0, epoch=1, images=[1, 2])
        with pytest.raises(ValueError, match="expected none or fundus"):
            augment(noise(3), augmentation="strong", seed=0, epoch=1, images=range(3))


class TestGeometry:
    def test_is_what_pillow_makes_of_the_same_map(self):
        """Pillow's bilinear transform with the coefficients rewritten for pixels gives the same picture, inside."""
        size, drawn = 64, changes(6)
        plane = ndimage.gaussian_filter(np.random.default_rng(0).uniform(0, 1, (size, size)), 2).astype(np.float32)
        plane = (plane - plane.min()) / np.ptp(plane) * 255
        neutral = Changes(drawn.affine, torch.ones(6, 3), torch.zeros(6), torch.zeros(6), torch.zeros(6))
        from trainer.augment import _changed

        pixels = torch.from_numpy(plane)[None, :, :, None].expand(6, -1, -1, 3)
        actual = (_changed(pixels, neutral, PREPARE)[:, 0].numpy() + 1) * 127.5
        half = size / 2
        for picture, ((a, b, c), (d, e, f)) in zip(actual, drawn.affine.tolist(), strict=True):
            # Pillow's places count from the corner, ours from the centre in halves of the side.
            pixel_map = (a, b, half * (1 + c - a - b), d, e, half * (1 + f - d - e))
            expected = Image.fromarray(plane).transform(
                (size, size), Image.Transform.AFFINE, pixel_map, Image.Resampling.BILINEAR
            )
            inside = np.asarray(
                Image.new("F", (size, size), 1.0).transform((size, size), Image.Transform.AFFINE, pixel_map)
            )
            inside = ndimage.binary_erosion(inside > 0, iterations=2)
            assert inside.mean() > 0.6
            assert np.abs(picture - np.asarray(expected))[inside].max() < 0.1

    def test_keeps_shapes(self):
        """Flip, turn and one factor for both axes: a round lesion stays round. All angles occur, half are mirrored."""
        matrix = changes(2000).affine[:, :, :2].double().numpy()
        product = matrix @ matrix.transpose(0, 2, 1)
        scale = 1 / np.sqrt(product[:, 0, 0])
        assert product * scale[:, None, None] ** 2 == pytest.approx(np.broadcast_to(np.eye(2), product.shape), abs=1e-5)
        assert 1 / ZOOM - 1e-6 <= scale.min() < 0.94 < 1.06 < scale.max() <= ZOOM + 1e-6
        assert np.mean(np.linalg.det(matrix) < 0) == pytest.approx(0.5, abs=0.05)
        for mirrored in (False, True):
            angles = np.arctan2(matrix[:, 1, 0], matrix[:, 1, 1])[(np.linalg.det(matrix) < 0) == mirrored]
            assert np.histogram(angles, bins=8, range=(-np.pi, np.pi))[0].min() > 80

    def test_hardly_any_retina_leaves_the_frame(self):
        """Of a disc that fills the frame, at most 6 % at the worst combination, 1 % on average."""
        rng = np.random.default_rng(0)
        points = rng.uniform(-1, 1, (20_000, 2))
        points = points[np.hypot(*points.T) < 1]

        def kept(affine: np.ndarray) -> float:
            places = np.linalg.solve(affine[:, :2], (points - affine[:, 2]).T)
            return float((np.abs(places) <= 1).all(axis=0).mean())

        shares = [kept(affine) for affine in changes(300).affine.double().numpy()]
        assert np.mean(shares) > 0.985
        angle = math.pi / 4  # where the shift along both axes is one along a diagonal, seen from the frame
        turned = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        for turn in (np.eye(2), turned):
            assert kept(np.column_stack([turn / ZOOM, [2 * SHIFT, 2 * SHIFT]])) > 0.94

    def test_black_stays_black(self):
        """Outside of the disc nothing is lit, whatever is done to brightness and contrast: exactly -1."""
        disc = torch.from_numpy(spot(RETINA, 1, 64)).expand(200, -1, -1, -1)
        changed = augment(disc, augmentation="fundus", seed=0, epoch=1, images=range(200)).numpy()
        y, x = np.mgrid[:64, :64] - 31.5
        outside = np.hypot(x, y) > 0.49 * 64 * ZOOM + 2 * 0.02 * 64 + 2
        assert outside.sum() > 100
        assert (changed[:, :, outside] == -1).all()
        assert changed.min() == -1
        assert changed.max() <= 1

    def test_what_comes_into_view_is_black(self):
        """The corners of a turned white square: no edge is drawn out or mirrored."""
        turned = many(np.full((64, 64, 3), 255, dtype=np.uint8), 100)
        assert (turned.min(axis=(1, 2, 3)) == 0).mean() > 0.9
        assert np.median(turned[:, :, 24:40, 24:40].reshape(100, -1), axis=1).min() > 0.7


class TestLesionsStay:
    @pytest.mark.parametrize(("across", "least"), [(2, 0.65), (4, 0.80)])
    def test_a_microaneurysm_of_a_few_pixels(self, across, least):
        """At 448 pixels, the depth of a dark spot against the retina around it keeps this share in every draw."""
        image = spot(BLOOD, across, 448)
        middle = slice(200, 248)

        def depth(green: np.ndarray) -> np.ndarray:
            patch = green[:, middle, middle].reshape(len(green), -1)
            return 1 - patch.min(axis=1) / np.median(patch, axis=1)

        before = depth(image[None, :, :, 1])
        after = depth(many(image, 40)[:, 1])
        assert (after / before).min() > least
        assert (after / before).max() < 1.5
        assert np.median(after / before) == pytest.approx(1, abs=0.1)

    def test_exudates_stay_bright_and_yellow(self):
        """Red above green above blue, as in the photograph, and lit well above the retina in red and green."""
        image = spot(EXUDATE, 9, 448)
        pictures = many(image, 40)
        lesion = pictures[:, :, 200:248, 200:248].reshape(40, 3, -1)
        brightest = lesion[np.arange(40)[:, None], np.arange(3), lesion[:, 1].argmax(axis=1)[:, None]]
        retina = np.median(lesion, axis=2)
        before = np.array(EXUDATE) / np.array(RETINA) - 1
        after = brightest / retina - 1
        assert (after[:, :2] / before[:2]).min() > 0.6
        red, green, blue = brightest.T
        assert (red > green).all()
        assert (green > 1.5 * blue).all()

    def test_blood_stays_darker_and_redder(self):
        """A blot haemorrhage keeps its red-to-green ratio within what the channels' factors allow."""
        pictures = many(spot(BLOOD, 12, 224), 80)
        centre = pictures[:, :, 92:132, 92:132].reshape(80, 3, -1)
        darkest = centre[np.arange(80)[:, None], np.arange(3), centre[:, 1].argmin(axis=1)[:, None]]
        assert (darkest[:, 1] < 0.75 * np.median(centre[:, 1], axis=1)).all()
        ratio = darkest[:, 0] / darkest[:, 1] / (BLOOD[0] / BLOOD[1])
        assert 0.75 < ratio.min() < ratio.max() < 1.25

    def test_every_lesion_of_a_synthetic_eye(self):
        """Each marked microaneurysm of six eyes is found where the map says, with most of its depth."""
        size, draws, ratios = 224, 3, []
        y, x = np.mgrid[:size, :size]
        for index in range(6):
            photograph = render(draw_patient("demo", seed=1, index=index, worse_grade=1), "R", size=640)
            pixels = parse_preprocessing(f"{FUNDUS_SQUARE}@{size}").pixels(photograph.image)
            drawn = draw_changes(seed=0, epoch=1, images=[index] * draws, repeats=range(draws))
            pictures = many(pixels, draws, images=[index] * draws, repeats=range(draws))

            def depth(green: np.ndarray, centre: np.ndarray, radius: float) -> float:
                r = np.hypot(x + 0.5 - centre[0], y + 0.5 - centre[1])
                return float(1 - green[r < radius].mean() / np.median(green[(r > 2 * radius) & (r < 3 * radius)]))

            for mark in photograph.marks:
                there = np.array([mark.x, mark.y])
                before = depth(pixels[..., 1], (there + 1) * size / 2, mark.radius * size / 2)
                for picture, affine in zip(pictures, drawn.affine.double().numpy(), strict=True):
                    place = np.linalg.solve(affine[:, :2], there - affine[:, 2])
                    if np.abs(place).max() < 0.9 and before > 0.15:
                        found = depth(picture[1], (place + 1) * size / 2, mark.radius * size / 2)
                        ratios.append(found / before)
        assert len(ratios) > 100
        assert min(ratios) > 0.6
        assert np.median(ratios) == pytest.approx(1, abs=0.1)


class TestColour:
    def test_brighter_stays_brighter(self):
        """In every draw the levels 0 to 255 keep their order; black stays, and mid levels stay within the bounds."""
        levels = np.arange(256, dtype=np.uint8)[:, None, None, None] * np.ones((16, 16, 3), dtype=np.uint8)
        for image in range(60):
            changed = augment(
                torch.from_numpy(levels), augmentation="fundus", seed=0, epoch=1, images=[image] * 256
            ).numpy()
            curve = (changed[:, :, 8, 8] + 1) / 2
            assert (curve[0] == 0).all()
            assert (np.diff(curve, axis=0) >= 0).all()
            assert (np.diff(curve[13:180], axis=0) > 0).all(), "nothing below 70 % of white is clipped or flattened"
            middle = curve[round(0.35 * 255)] / 0.35
            assert middle.min() > BRIGHTNESS[0] * (1 - CHANNEL) * 0.85
            assert middle.max() < BRIGHTNESS[1] * (1 + CHANNEL) * 1.15

    def test_draws_use_their_ranges(self):
        """Dim and bright, every channel, curves both ways, half of the images blurred."""
        drawn = changes(1000)
        ratio = drawn.gain.numpy() / drawn.gain.numpy().mean(axis=1, keepdims=True)
        assert drawn.gain.min() >= BRIGHTNESS[0] * (1 - CHANNEL)
        assert drawn.gain.max() <= BRIGHTNESS[1] * (1 + CHANNEL)
        assert ratio.std(axis=0).min() > 0.03
        for values in (drawn.tone, drawn.contrast):
            assert values.mean() == pytest.approx(0, abs=0.05)
        assert (drawn.blur > 0).float().mean() == pytest.approx(0.5, abs=0.05)
        assert drawn.blur.max() <= BLUR


class TestBlur:
    @pytest.mark.parametrize("size", [128, 448, 1024])
    def test_is_a_gaussian(self, size):
        """A wave of 12 pixels loses what a Gaussian takes, exp(-k^2 sigma^2 / 2) along each axis; what is not blurred
        stays as it is."""
        k = 2 * np.pi / 12
        wave = np.cos(k * np.arange(size)).astype(np.float32)
        levels = torch.from_numpy(np.outer(wave, wave)).expand(3, 1, -1, -1).clone()
        _blur(levels, torch.tensor([BLUR, 0.0, BLUR / 2]))
        assert np.array_equal(levels[1, 0].numpy(), np.outer(wave, wave))
        for index, sigma in ((0, BLUR * size), (2, BLUR * size / 2)):
            left = math.exp(-((k * sigma) ** 2))
            difference = np.abs(levels[index, 0].numpy() - left * np.outer(wave, wave))
            assert difference[8:-8, 8:-8].max() < 0.03 * (1 - left)
