"""Augmentation: fundus photographs as another camera might take them (rotated, nearer, brighter, slightly blurred).

It is only used for training images. The changes of an image follow from (seed, epoch, image) alone, not from its batch,
its process or earlier random numbers. A run that continues in the middle of an epoch, or on another number of GPUs,
sees the same pictures.

    pixels = torch.from_numpy(images.pixels[positions])                    # uint8 (n, size, size, 3)
    batch = augment(                                                       # float32 (n, 3, size, size)
        pixels, preprocess=images.preprocess, augmentation="fundus", seed=0, epoch=3, images=positions
    )

No change can add or remove a lesion, so the grade stays valid. Hence no elastic deformation, no erased patches, no
noise, no change of hue, and the limits below, which tests check on drawn lesions of the smallest size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from drgate.preprocessing import Preprocessing

Augmentation = Literal["none", "fundus"]

ZOOM: Final = 1.08
"""The retina appears at most this much larger or smaller. Fields of view differ more between cameras, but parts that
leave the frame are lost: with the shift, at most 6 % of the disc."""

SHIFT: Final = 0.02
"""Largest shift along each axis; unit: side of the image. The preprocessing centres the field of view to about this."""

BRIGHTNESS: Final = (0.80, 1.15)
"""Factor of all channels. The upper limit is small: the disc and exudates soon clip to white and lose their shape."""

CHANNEL: Final = 0.08
"""Each channel's factor is within 1 +- this: flashes and filters differ. Red stays above green and green above blue
wherever they were by more than these factors' ratio, 1.17, so that blood stays red and exudates stay yellow."""

TONE: Final = 0.2
"""Strength of the curve x + t x (1 - x): at the level of the retina like a gamma of 0.88 to 1.13, but made of products,
which are the same on every machine. 0 and 1 stay, so nothing is clipped."""

CONTRAST: Final = 0.6
"""Strength of the curve x + c x (1 - x) (x - 0.35): the slope at the level of the retina changes by at most 14 %."""

PIVOT: Final = 0.35
"""The level that contrast does not change: about the mean of the lit retina over channels; unit: white."""

BLUR: Final = 1 / 900
"""Largest standard deviation of the blur; unit: side of the image. Half a pixel of 448, where the smallest
microaneurysms that a grader sees measure about 4 pixels."""

BLURRED: Final = 0.5
"""Share of images that are blurred."""

_STREAM: Final = 2
"""Separates the random numbers of this module from those of `trainer.sampling` with the same seed."""

_AT_ONCE: Final = 1 << 18
"""Pixels that a CPU works on at a time, so that they stay in its cache (a third of the time for 24 images of 448)."""

_FIELDS: Final = 13
"""Random numbers per image."""


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """The changes of n images, as float32 on the CPU."""

    affine: Tensor
    """(n, 2, 3): from a place (x, y, 1) in the result to its place in the original; unit: half the side, from the
    centre. Flip, rotation, zoom and shift in one, so that pixels are resampled once."""
    gain: Tensor
    """(n, 3): factors of red, green, blue."""
    tone: Tensor
    """(n,)"""
    contrast: Tensor
    """(n,)"""
    blur: Tensor
    """(n,): standard deviation; unit: side of the image; 0 for none."""


def draw_changes(
    *, seed: int, epoch: int, images: Sequence[int] | NDArray[np.int64], repeats: Sequence[int] | NDArray[np.int64]
) -> Changes:
    """The changes of each image: a function of seed, epoch, the image's number and its repeat in the epoch.

    Any angle is allowed: the field of view is a disc on black, ICDR counts lesions per quadrant in any direction, and
    a mirrored right eye is a left eye.
    """
    keys = zip(images, repeats, strict=True)
    drawn = np.array([_numbers(seed, epoch, int(image), int(repeat)) for image, repeat in keys]).reshape(-1, _FIELDS)
    flip, angle, zoom, across, down, brightness, red, green, blue, tone, contrast, blurred, blur = drawn.T
    angle = 2 * np.pi * angle
    mirror = np.where(flip < 0.5, -1.0, 1.0)  # with any angle, this is both flips
    scale = ZOOM ** _within(zoom, 1.0)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    rows = [[mirror * cos, mirror * sin, _within(across, 2 * SHIFT)], [-sin, cos, _within(down, 2 * SHIFT)]]
    light = BRIGHTNESS[0] + (BRIGHTNESS[1] - BRIGHTNESS[0]) * brightness
    gain = light[:, None] * (1 + _within(np.stack([red, green, blue], axis=1), CHANNEL))
    return Changes(
        affine=_tensor(np.array(rows).transpose(2, 0, 1)),
        gain=_tensor(gain),
        tone=_tensor(_within(tone, TONE)),
        contrast=_tensor(_within(contrast, CONTRAST)),
        blur=_tensor(np.where(blurred < BLURRED, BLUR * blur, 0.0)),
    )


def augment(
    pixels: Tensor,
    *,
    preprocess: Preprocessing,
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    images: Sequence[int] | NDArray[np.int64],
    repeats: Sequence[int] | NDArray[np.int64] | None = None,
) -> Tensor:
    """Network input (n, 3, size, size), float32, on the device of `pixels`.

    pixels: (n, size, size, 3) of 0 to 255, red, green and blue, uint8 or floating-point. preprocess: what gives them
    their channels and scale. none: only that, with the same values as `Preprocessing.scaled`. fundus: changed first;
    black stays exactly what black becomes, also outside of the image. images: the number of each image in its data set.
    repeats: how often it was already shown in this epoch (`trainer.sampling.repeats`, default 0), so that repeated
    images look different each time.

    On a CPU the result is the same to the last bit in any batch and with any number of threads; on another device it
    agrees up to rounding.

    Raises ValueError when `images` or `repeats` do not fit `pixels`, or for another augmentation.
    """
    if augmentation not in ("none", "fundus"):
        raise ValueError(f"augmentation is {augmentation!r}; expected none or fundus")
    if augmentation == "none" or not len(pixels):
        return _scaled(pixels.movedim(-1, 1).to(torch.float32, copy=True), 255, preprocess)  # keeps the memory layout
    changes = draw_changes(
        seed=seed, epoch=epoch, images=images, repeats=np.zeros(len(images), dtype=int) if repeats is None else repeats
    )
    if len(images) != len(pixels):
        raise ValueError(f"{len(pixels)} images were given with the numbers of {len(images)}")
    if pixels.device.type != "cpu":
        return _changed(pixels, changes, preprocess)
    few = max(1, _AT_ONCE // pixels.shape[1] ** 2)
    parts = [slice(start, start + few) for start in range(0, len(pixels), few)]
    return torch.cat([_changed(pixels[part], _part(changes, part), preprocess) for part in parts])


def _numbers(seed: int, epoch: int, image: int, repeat: int) -> NDArray[np.float64]:
    """Uniform in [0, 1): the counter-based generator gives each image its own stream, without state."""
    philox = np.random.Philox(key=[seed, _STREAM], counter=[0, repeat, epoch, image])
    return np.random.Generator(philox).random(_FIELDS)


def _within(uniform: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    """From [0, 1) to [-bound, bound)."""
    return (2 * uniform - 1) * bound


def _tensor(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _part(changes: Changes, which: slice) -> Changes:
    return Changes(
        changes.affine[which], changes.gain[which], changes.tone[which], changes.contrast[which], changes.blur[which]
    )


def _levels(pixels: Tensor, white: float) -> Tensor:
    return pixels.movedim(-1, 1).to(torch.float32, memory_format=torch.contiguous_format) * (1 / white)


def _changed(pixels: Tensor, changes: Changes, preprocess: Preprocessing) -> Tensor:
    """Only additions and multiplications of single values, so the result does not depend on how the work is split."""
    levels = _levels(pixels, 255)
    levels = _resampled(levels, changes.affine.to(levels.device, non_blocking=True))
    _blur(levels, changes.blur)
    gain, tone, contrast = (
        values.reshape(len(levels), -1, 1, 1).to(levels.device, non_blocking=True)
        for values in (changes.gain, changes.tone, changes.contrast)
    )
    levels.mul_(gain).clamp_(0, 1)
    curve = (levels - PIVOT).mul_(contrast).add_(tone).mul_(1 - levels).add_(1)
    return _scaled(levels.mul_(curve), 1, preprocess)


def _scaled(levels: Tensor, white: float, preprocess: Preprocessing) -> Tensor:
    """Channels and scale of the preprocessing, for levels (n, 3, size, size) of 0 to `white`, which may be changed."""
    if preprocess.order != (0, 1, 2):
        levels = levels[:, list(preprocess.order)]
    if "range" in preprocess.scale:
        low, high = (np.float32(end) for end in preprocess.scale["range"])
        return levels.mul_(float((high - low) / np.float32(white))).add_(float(low))
    mean, std = (torch.tensor(preprocess.scale[key], device=levels.device)[:, None, None] for key in ("mean", "std"))
    return levels.div_(white).sub_(mean).div_(std)


def _resampled(levels: Tensor, affine: Tensor) -> Tensor:
    """Bilinear: it removes at most a quarter of the contrast of a spot of two pixels, and never overshoots."""
    size = levels.shape[-1]
    places = (torch.arange(size, dtype=torch.float32, device=levels.device) * 2 + 1) / size - 1
    by_x, by_y, shift = affine[..., None].unbind(2)  # (n, 2, 1) each
    along, down = by_x * places, by_y * places + shift
    grid = torch.empty(len(levels), size, size, 2, device=levels.device)
    for axis in (0, 1):
        torch.add(along[:, axis, None, :], down[:, axis, :, None], out=grid[..., axis])
    return functional.grid_sample(levels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _blur(levels: Tensor, blur: Tensor) -> None:
    """Gaussian of a standard deviation below a pixel or two: steps of the diffusion equation, in place."""
    size = levels.shape[-1]
    chosen = torch.nonzero(blur)[:, 0]
    if not len(chosen):
        return
    steps = math.ceil(2 * (BLUR * size) ** 2)  # each of a variance up to half a pixel squared, where it is stable
    weight = ((blur[chosen] * size) ** 2 / (2 * steps)).reshape(-1, 1, 1, 1).to(levels.device)
    places = chosen.to(levels.device)
    soft = levels[places]
    for _ in range(steps):
        for axis in (-1, -2):
            flow = soft.diff(dim=axis).mul_(weight)
            soft.narrow(axis, 0, size - 1).add_(flow)
            soft.narrow(axis, 1, size - 1).sub_(flow)
    levels[places] = soft
