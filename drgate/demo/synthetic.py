"""Synthetic colour fundus photographs, graded by the ICDR rules from the lesions that are drawn into them.

Not for clinical use: with them, all steps from training to certificate run without photographs of patients. They show
optic disc, fovea, arcades and the lesions that decide the grade. They do not represent how disease is distributed in a
population.

Every photograph depends only on (namespace, seed, patient, eye): any subset can be drawn again, by any number of
processes. Namespaces share no photograph: the embedded base was trained on `pretrain`, demonstrations and tests use
`demo`.

>>> patient = draw_patient("demo", seed=0, index=7, worse_grade=4)
>>> photograph = render(patient, "R", size=224)
>>> photograph.grade == icdr_grade(photograph.lesions)
True
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from drgate.errors import UsageError

Eye = Literal["L", "R"]
Namespace = Literal["demo", "pretrain"]
Plane = NDArray[np.float32]
Points = NDArray[np.float64]

NAMESPACES: Final = ("demo", "pretrain")
EYES: Final[tuple[Eye, Eye]] = ("R", "L")
QUADRANTS: Final = ("superotemporal", "inferotemporal", "superonasal", "inferonasal")
"""Order of the four numbers in `Lesions`; the quadrants meet half-way between fovea and optic disc."""

SOURCE: Final = "drgate synthetic"
"""Source of the images, as shown in a certificate."""

COLUMNS: Final = ("image", "grade", "patient", "eye", "gradable", "split", "camera", "source")
"""Columns of `labels.csv`."""

OTHER_EYE: Final = (0.70, 0.24, 0.06)
"""Probabilities that the better eye has the grade of the worse one, one grade less, two less (never below 0)."""

_FINER: Final = 3
"""Masks are drawn at this multiple of their final resolution, so that thin lines have smooth edges."""


# --- what decides the grade ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lesions:
    """Lesions of one eye. Fields with four numbers have one per quadrant, in the order of `QUADRANTS`."""

    microaneurysms: tuple[int, int, int, int] = (0, 0, 0, 0)
    haemorrhages: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Intraretinal: dot, blot and flame."""
    hard_exudates: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Number of clusters."""
    cotton_wool_spots: tuple[int, int, int, int] = (0, 0, 0, 0)
    venous_beading: tuple[int, int, int, int] = (0, 0, 0, 0)
    """1 where the large vein of the quadrant is beaded."""
    irma: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Intraretinal microvascular abnormalities."""
    new_vessels_elsewhere: tuple[int, int, int, int] = (0, 0, 0, 0)
    new_vessels_disc: int = 0
    preretinal_haemorrhages: int = 0
    vitreous_haemorrhage: int = 0

    @property
    def total(self) -> dict[str, int]:
        """Number of lesions of each kind, over all quadrants."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: sum(value) if isinstance(value, tuple) else int(value) for name, value in values.items()}


def icdr_grade(lesions: Lesions) -> int:
    """ICDR grade 0-4 of an eye with these lesions.

    4: new vessels, or preretinal or vitreous haemorrhage. 3 (the 4-2-1 rule): more than 20 intraretinal haemorrhages in
    each of four quadrants, venous beading in two or more, or IRMA in one or more. 1: microaneurysms and nothing else.

    References: Wilkinson et al. 2003, Ophthalmology 110:1677, doi 10.1016/S0161-6420(03)00475-5, table 1.
    """
    total = lesions.total
    proliferative = ("new_vessels_elsewhere", "new_vessels_disc", "preretinal_haemorrhages", "vitreous_haemorrhage")
    if any(total[name] for name in proliferative):
        return 4
    if min(lesions.haemorrhages) > 20 or sum(n > 0 for n in lesions.venous_beading) >= 2 or total["irma"]:
        return 3
    if any(total[name] for name in ("haemorrhages", "hard_exudates", "cotton_wool_spots", "venous_beading")):
        return 2
    return 1 if total["microaneurysms"] else 0


@dataclass(frozen=True, slots=True)
class Mark:
    """One lesion and its position; a beaded vein has several.

    Unit: the radius of the field of view, from its centre; x to the right, y down.
    """

    kind: str
    """A field of `Lesions`."""
    quadrant: int
    x: float
    y: float
    radius: float


# --- who is photographed, and with what ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Camera:
    """Appearance of the images of one camera: frame, field of view, colour, sharpness, noise."""

    name: str
    height: float
    """Height of the frame; unit: its width."""
    radius: float
    """Radius of the field of view; unit: width of the frame. Where 2 * radius > height, top and bottom are cut."""
    cast: tuple[float, float, float]
    """Gain of red, green, blue."""
    blur: float
    """Standard deviation of the point spread; unit: radius of the field of view."""
    noise: float
    """Standard deviation, grey levels."""
    vignetting: float
    """Loss of light at the edge, 0-1."""
    rim: tuple[float, float, float]
    """Stray light at the edge of the field, red, green, blue, 0-1."""

    @property
    def visible(self) -> float:
        """Largest |y| that the frame shows; unit: radius of the field of view."""
        return min(1.0, self.height / 2 / self.radius)


CAMERAS: Final = (
    Camera("round", 1.0, 0.485, (1.00, 0.96, 0.80), 0.0045, 2.2, 0.30, (0.02, 0.02, 0.00)),
    Camera("cropped", 0.80, 0.498, (0.98, 1.06, 1.18), 0.0065, 3.2, 0.18, (0.06, 0.16, 0.16)),
    Camera("wide", 0.75, 0.365, (0.92, 0.86, 0.84), 0.0075, 4.0, 0.42, (0.00, 0.00, 0.00)),
)
"""A round field on a square frame; a wider one cut at top and bottom, cool; a small dim one on a wide frame."""


@dataclass(frozen=True, slots=True)
class Patient:
    """A patient with two eyes, photographed with one camera."""

    namespace: Namespace
    seed: int
    index: int
    grades: tuple[int, int]
    """Grades of the right and the left eye."""
    camera: Camera
    pigment: float
    """0 (light fundus) to 1 (dark)."""

    def grade(self, eye: Eye) -> int:
        """ICDR grade of one eye."""
        return self.grades[EYES.index(eye)]


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph of one eye, with its true grade and lesions."""

    image: Image.Image
    """RGB."""
    grade: int
    lesions: Lesions
    marks: tuple[Mark, ...]
    """Positions of the counted lesions."""
    camera: str
    eye: Eye


def _rng(namespace: str, seed: int, index: int, part: str) -> np.random.Generator:
    """Random generator for one part of one patient, independent of all others."""
    name = f"drgate.synthetic/1/{namespace}/{seed}/{index}/{part}"
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()))


def draw_patient(namespace: Namespace, *, seed: int, index: int, worse_grade: int) -> Patient:
    """The patient of this number, whose worse eye has grade `worse_grade` (0-4).

    The other eye has the same grade or less, with the chances `OTHER_EYE`.

    Raises:
        UsageError: unknown namespace, or a grade outside 0-4.
    """
    if namespace not in NAMESPACES:
        raise UsageError(
            f"{namespace!r} is not a namespace of synthetic photographs; use one of {', '.join(NAMESPACES)}."
        )
    if worse_grade not in range(5):
        raise UsageError(f"grade {worse_grade} is outside the ICDR scale; expected 0 to 4.")
    rng = _rng(namespace, seed, index, "patient")
    other = max(0, worse_grade - int(rng.choice(3, p=OTHER_EYE)))
    grades = (worse_grade, other) if rng.random() < 0.5 else (other, worse_grade)
    camera = CAMERAS[int(rng.choice(len(CAMERAS), p=(0.45, 0.35, 0.20)))]
    return Patient(namespace, seed, index, grades, camera, float(rng.beta(2.0, 2.0)))


# --- the lesions of an eye of a given grade --------------------------------------------------------------------------


def _spread(rng: np.random.Generator, total: int, cap: int) -> list[int]:
    """Distribute `total` lesions at random over four quadrants, at most `cap` in one."""
    quadrants = rng.permutation(np.repeat(np.arange(4), cap))[:total]
    return [int(n) for n in np.bincount(quadrants, minlength=4)]


def _some_quadrants(rng: np.random.Generator, low: int, high: int) -> list[int]:
    chosen = rng.permutation(4)[: int(rng.integers(low, high + 1))]
    return [int(q in chosen) for q in range(4)]


def _draw_lesions(rng: np.random.Generator, grade: int) -> Lesions:
    """Lesions of an eye with this ICDR grade, at some distance from the limits of the rule."""
    counts: dict[str, Any] = {}
    if grade >= 1:
        counts["microaneurysms"] = _spread(rng, int(rng.integers(10, 22) if grade == 1 else rng.integers(6, 22)), 8)
    if grade >= 2:
        counts["haemorrhages"] = _spread(rng, int(rng.integers(5, 24)), 8)
        counts["hard_exudates"] = _spread(rng, int(rng.integers(0, 4)), 2)
        counts["cotton_wool_spots"] = _spread(rng, int(rng.integers(0, 4)), 2)
    if grade == 3:
        signs = ((1, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1))
        many, beaded, irma = signs[int(rng.choice(5, p=(0.25, 0.20, 0.20, 0.20, 0.15)))]
        if many:
            counts["haemorrhages"] = [int(n) for n in rng.integers(22, 28, size=4)]
        if beaded:
            counts["venous_beading"] = _some_quadrants(rng, 3, 4)
        if irma:
            # A single patch is rarely the only sign of severity.
            counts["irma"] = [n * int(rng.integers(1, 3)) for n in _some_quadrants(rng, 1 if many else 3, 4)]
    if grade == 4:
        signs_of_pdr = rng.random(4) < (0.60, 0.65, 0.50, 0.20)
        if not signs_of_pdr.any():
            signs_of_pdr[int(rng.integers(2))] = True
        disc, elsewhere, preretinal, vitreous = signs_of_pdr.tolist()
        counts["new_vessels_disc"] = int(disc)
        counts["new_vessels_elsewhere"] = _some_quadrants(rng, 2, 3) if elsewhere else (0, 0, 0, 0)
        counts["preretinal_haemorrhages"] = int(preretinal)
        counts["vitreous_haemorrhage"] = int(vitreous)
    frozen: dict[str, Any] = {name: tuple(n) if isinstance(n, list) else n for name, n in counts.items()}
    return Lesions(**frozen)


# --- anatomy: coordinates are those of `Mark`, in a right eye (optic disc on the right) -------------------------------


@dataclass(frozen=True, slots=True)
class _Branches:
    """Vessels of one branching order; the first half are veins, the second half arteries."""

    lines: Points
    """(branches, points, 2)"""
    widths: Points
    """(branches, points): half of the width."""


@functools.cache
def _bezier(points: int) -> Points:
    t = np.linspace(0.0, 1.0, points)
    return np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3], axis=1)


def _normals(lines: Points) -> Points:
    """Unit normals (branches, points, 2)."""
    step = np.empty_like(lines)
    step[:, 1:-1] = lines[:, 2:] - lines[:, :-2]
    step[:, 0] = lines[:, 1] - lines[:, 0]
    step[:, -1] = lines[:, -1] - lines[:, -2]
    step /= np.maximum(np.sqrt(step[..., 0] ** 2 + step[..., 1] ** 2), 1e-9)[..., None]
    return np.stack([-step[..., 1], step[..., 0]], axis=-1)


def _waves(rng: np.random.Generator, branches: int, points: int, *, most: float) -> Points:
    """Smooth waves (branches, points) that start at 0, with at most `most` periods."""
    t = np.linspace(0.0, 1.0, points)
    turns, phase = rng.uniform((0.3 * most, 0.0), (most, 1.0), size=(branches, 2)).T[..., None] * (2 * np.pi)
    offsets: Points = (np.sin(turns * t + phase) - np.sin(phase)) * np.minimum(1.0, 4 * t)
    return offsets


def _arcades(rng: np.random.Generator, disc: Points, fovea: Points, width: float) -> _Branches:
    """The four large veins and four large arteries, each in the order of `QUADRANTS`."""
    controls = np.empty((8, 4, 2))
    for quadrant in range(4):
        down = np.array([1.0, -1.0 if quadrant % 2 == 0 else 1.0])
        if quadrant < 2:
            ways = disc, disc + down * (0.0, 0.40), fovea + down * (0.14, 0.74), fovea + down * (-0.80, 0.50)
        else:
            ways = disc, disc + down * (0.02, 0.26), disc + down * (0.16, 0.42), disc + down * (0.36, 0.86)
        controls[quadrant] = controls[quadrant + 4] = ways
    controls[:, 1:] += rng.normal(0.0, (0.030, 0.045), size=(8, 3, 2))
    controls[:, 0] += rng.normal(0.0, 0.012, size=(8, 2))
    lines = _bezier(96) @ controls
    lines += _normals(lines) * (0.009 * _waves(rng, 8, 96, most=4.5))[..., None]
    widths = width * rng.uniform(0.92, 1.08, size=(8, 1)) * (1.0 - 0.5 * np.linspace(0.0, 1.0, 96))
    widths[2:4] *= 0.88
    widths[6:] *= 0.88
    widths[4:] *= 0.70
    return _Branches(lines, widths)


def _children(rng: np.random.Generator, parents: _Branches, each: int, length: float, points: int) -> _Branches:
    """`each` branches of every vessel, on alternating sides, thinner than the vessel at that point."""
    n, points_of_parent, _ = parents.lines.shape
    rows, at = np.arange(n)[:, None], (rng.uniform(0.20, 0.90, size=(n, each)) * (points_of_parent - 1)).astype(int)
    start = parents.lines[rows, at].reshape(-1, 2)
    normal = _normals(parents.lines)[rows, at].reshape(-1, 2)
    tangent = np.stack([normal[:, 1], -normal[:, 0]], axis=1)
    t = np.linspace(0.0, 1.0, points)
    side = np.where(np.arange(n * each) % 2 == 0, 1.0, -1.0)[:, None]
    leave, bend, reach = rng.uniform((0.50, -0.70, 0.55), (0.95, 0.25, 1.15), size=(n * each, 3)).T[..., None]
    angle = side * (leave + bend * t) + 0.22 * _waves(rng, n * each, points, most=2.5)
    steps = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * (reach * length / points)[..., None]
    steps[:, 0] = 0.0
    path = np.cumsum(steps, axis=1)
    lines = start[:, None] + path[..., :1] * tangent[:, None] + path[..., 1:] * normal[:, None]
    first = np.maximum(parents.widths[rows, at].reshape(-1, 1) * 0.62, 0.0035)
    return _Branches(lines, first * (1.0 - 0.5 * t))


def _bead(trunks: _Branches, beaded: Sequence[int], width: float) -> None:
    """Draw venous beading (a string of sausages) on the veins of these quadrants."""
    length = np.sqrt((np.diff(trunks.lines, axis=1) ** 2).sum(axis=2)).cumsum(axis=1)
    t = np.linspace(0.0, 1.0, trunks.lines.shape[1])
    onset = np.clip((t - 0.10) / 0.08, 0.0, 1.0)
    for quadrant in np.flatnonzero(beaded):
        beads = np.sin(2 * np.pi * np.concatenate([[0.0], length[quadrant]]) / 0.125)
        swollen = width * (0.84 - 0.20 * t) * (1.30 + 0.95 * beads)
        trunks.widths[quadrant] += onset * (np.maximum(swollen, 0.25 * width) - trunks.widths[quadrant])


# --- drawing ---------------------------------------------------------------------------------------------------------


class _Mask:
    """A mask over the field of view, drawn at a higher resolution than it is read."""

    __slots__ = ("_canvas", "_draw", "_middle", "_scale")

    def __init__(self, radius: float) -> None:
        side = 2 * math.ceil(radius) * _FINER
        self._scale = radius * _FINER
        self._middle = side / 2 - 0.5
        self._canvas = Image.new("L", (side, side))
        self._draw = ImageDraw.Draw(self._canvas)

    def polygons(self, outlines: Points, strength: float) -> None:
        """Filled outlines (n, points, 2); `strength` 0-1."""
        for outline in (outlines * self._scale + self._middle).reshape(len(outlines), -1).tolist():
            self._draw.polygon(outline, fill=round(255 * strength))

    def vessels(self, branches: _Branches, which: slice, strength: float, *, shrink: float = 1.0) -> None:
        lines = branches.lines[which]
        offset = _normals(lines) * (branches.widths[which] * shrink)[..., None]
        left, right = lines + offset, lines - offset
        # In pieces, because the time to fill a polygon grows with the number of its edges times its height.
        for start in range(0, lines.shape[1] - 1, 16):
            piece = slice(start, start + 17)
            self.polygons(np.concatenate([left[:, piece], right[:, piece][:, ::-1]], axis=1), strength)

    def lines(self, lines: Sequence[Points], width: float, strength: float) -> None:
        pixels = max(1, round(width * self._scale))
        for line in lines:
            points = (line * self._scale + self._middle).ravel().tolist()
            self._draw.line(points, fill=round(255 * strength), width=pixels, joint="curve")

    def discs(self, centres: Points, radii: Points, strength: float) -> None:
        middle, reach = centres * self._scale + self._middle, radii[:, None] * self._scale
        for box in np.concatenate([middle - reach, middle + reach], axis=1).tolist():
            self._draw.ellipse(box, fill=round(255 * strength))

    def read(self) -> Image.Image:
        return self._canvas.reduce(_FINER)

    def read_soft(self, blur: float, opacity: float) -> Image.Image:
        """As `read`, blurred (unit: radius of the field of view) and multiplied by `opacity`."""
        coarse = self._canvas.reduce(2 * _FINER).point([round(opacity * level) for level in range(256)])
        coarse = coarse.filter(ImageFilter.GaussianBlur(blur * self._scale / (2 * _FINER)))
        side = self._canvas.width // _FINER
        return coarse.resize((side, side), Image.Resampling.BILINEAR)


@functools.lru_cache(maxsize=8)
def _grid(radius: float) -> tuple[Plane, Plane, Plane]:
    """x as a row, y as a column, and the distance of each pixel from the centre."""
    half = math.ceil(radius)
    axis = ((np.arange(2 * half) + 0.5 - half) / radius).astype(np.float32)
    x, y = axis[None, :], axis[:, None]
    return x, y, np.sqrt(x * x + y * y)


@functools.lru_cache(maxsize=8)
def _edge(radius: float) -> Plane:
    """1 in the field of view, 0 outside, with an edge one pixel wide."""
    edge: Plane = np.clip((1.0 - _grid(radius)[2]) * np.float32(radius) + 0.5, 0, 1)
    return edge


@functools.lru_cache(maxsize=256)
def _shadow(side: int, sharpness: float) -> Image.Image:
    """A round soft spot (side, side), 255 in the middle, 0 at the edge."""
    axis = (np.arange(side) + 0.5) * 2 / side - 1
    r = np.minimum(1.0, np.sqrt(axis**2 + axis[:, None] ** 2))
    return Image.fromarray((255 * np.clip((1 - r) * sharpness, 0, 1) ** 1.5).astype(np.uint8))


def _cloud(rng: np.random.Generator, cells: int, side: int) -> Plane:
    """Smooth noise (side, side), standard deviation about 1, with features of side / cells pixels."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32) * np.float32(1.4))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def _blobs(
    rng: np.random.Generator,
    centres: Points,
    radii: Points,
    *,
    ragged: float,
    stretch: Points | float = 1.0,
    heading: Points | float = 0.0,
) -> Points:
    """Irregular outlines (n, 18, 2), `stretch` times longer along `heading`."""
    n = len(centres)
    angle = np.linspace(0.0, 2 * np.pi, 18, endpoint=False)
    phase = rng.uniform(0, 2 * np.pi, size=(n, 3, 1))
    waves = np.sin(np.array([2, 3, 5])[:, None] * angle + phase) * np.array([0.5, 0.35, 0.25])[:, None]
    reach = radii[:, None] * (1.0 + ragged * waves.sum(axis=1))
    stretch, heading = np.broadcast_to(stretch, n)[:, None], np.broadcast_to(heading, n)[:, None]
    along, across = reach * np.cos(angle) * stretch, reach * np.sin(angle)
    cos, sin = np.cos(heading), np.sin(heading)
    outlines: Points = centres[:, None] + np.stack([along * cos - across * sin, along * sin + across * cos], axis=-1)
    return outlines


def _irma(rng: np.random.Generator, centre: Points, radius: float) -> list[Points]:
    """A patch of tortuous, angular fine vessels."""
    turns = rng.uniform(0.7, 1.5, size=(4, 14)) * np.where(np.arange(14) % 2 == 0, 1, -1)
    angles = rng.uniform(0, 2 * np.pi, size=(4, 1)) + turns
    lines = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], axis=-1), axis=1)
    lines -= lines.mean(axis=1, keepdims=True)
    lines *= radius * rng.uniform(0.8, 1.1, size=(4, 1, 1)) / np.abs(lines).max(axis=(1, 2), keepdims=True)
    return list(centre + lines + rng.uniform(-0.35, 0.35, size=(4, 1, 2)) * radius)


def _frond(rng: np.random.Generator, centre: Points, radius: float) -> list[Points]:
    """New vessels: a wheel of fine spokes that end in loops."""
    spokes = int(rng.integers(8, 12))
    angles = np.linspace(0, 2 * np.pi, spokes, endpoint=False) + rng.uniform(-0.15, 0.15, size=spokes)
    angles += rng.uniform(0, 2 * np.pi)
    out = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    tips = out * (radius * rng.uniform(0.65, 1.05, size=(spokes, 1)))
    t = np.linspace(0.0, 1.0, 9)[:, None]
    waves = np.sin(t * rng.uniform(5, 9, size=(spokes, 1, 1)) + rng.uniform(0, 6, size=(spokes, 1, 1)))
    across = np.stack([-out[:, 1], out[:, 0]], axis=1)[:, None]
    wheel = t * tips[:, None] + waves * across * radius * 0.09
    neighbours = np.roll(tips, -1, axis=0)
    bulge = (tips + neighbours) * 0.66
    loops = (1 - t) ** 2 * tips[:, None] + 2 * t * (1 - t) * bulge[:, None] + t**2 * neighbours[:, None]
    return [centre + line for line in (*wheel, *loops, *(0.55 * loops[::2]))]


class _Places:
    """Free positions for lesions: one per cell of a jittered grid, so that lesions can be distinguished and counted."""

    spacing: Final = 0.086

    def __init__(self, rng: np.random.Generator, disc: Points, fovea: Points, reach: float, vessels: Plane) -> None:
        axis = np.arange(-12, 13) * self.spacing
        spots = np.stack(np.meshgrid(axis, axis), axis=-1)
        spots[::2, :, 0] += self.spacing / 2
        spots = spots.reshape(-1, 2)
        spots = spots + rng.uniform(-0.5, 0.5, size=2) * self.spacing + rng.uniform(-0.024, 0.024, size=spots.shape)
        inside = ((spots**2).sum(axis=1) < 0.90**2) & (np.abs(spots[:, 1]) < reach - 0.06)
        inside &= (((spots - disc) ** 2).sum(axis=1) > 0.235**2) & (((spots - fovea) ** 2).sum(axis=1) > 0.085**2)
        spots = spots[inside]
        side = len(vessels)
        column, row = ((spots + 1) * (side / 2)).astype(int).T
        # Lesions on a vessel cannot be seen, so these positions are used last.
        self.spots = spots[np.argsort((vessels[row, column] > 0.1) + rng.random(len(spots)) * 0.9)]
        middle = (disc + fovea) / 2
        self.quadrants = 2 * (self.spots[:, 0] > middle[0]) + (self.spots[:, 1] > middle[1])
        self.open = np.ones(len(self.spots), dtype=bool)
        self.used = np.zeros(len(self.spots), dtype=bool)

    def take(self, counts: Sequence[int], clearance: float = 0.0) -> tuple[Points, NDArray[np.int64]]:
        """Centres (n, 2) and quadrants (n,) for the given number of lesions per quadrant.

        `clearance`: the surroundings that further lesions keep out of while there is room elsewhere.
        """
        chosen: list[int] = []
        for quadrant, count in enumerate(counts):
            # One by one if a choice blocks its surroundings, all at once if it does not.
            for batch in [1] * count if clearance else [count]:
                spots = np.flatnonzero((self.quadrants == quadrant) & ~self.used)
                picked = spots[np.argsort(~self.open[spots], kind="stable")][:batch]
                chosen.extend(picked.tolist())
                self.used[picked] = True
                if clearance:
                    self.close(self.spots[picked[0]], clearance)
        index = np.array(chosen, dtype=int)
        return self.spots[index], self.quadrants[index].astype(np.int64)

    def close(self, centre: Points, radius: float) -> None:
        """Keep later lesions at least `radius` away from `centre`, while there is room elsewhere."""
        self.open &= ((self.spots - centre) ** 2).sum(axis=1) > radius**2


# --- one photograph --------------------------------------------------------------------------------------------------


class _Fundus:
    """A right eye that is being drawn: each method adds one structure and marks the lesions that count."""

    def __init__(self, rng: np.random.Generator, patient: Patient, size: int, beaded: Sequence[int]) -> None:
        self.rng, self.camera = rng, patient.camera
        self.radius = self.camera.radius * size
        self.marks: list[Mark] = []
        pigment = patient.pigment
        retina = np.array([0.80 - 0.20 * pigment, 0.44 - 0.19 * pigment, 0.235 - 0.10 * pigment])
        self.retina = retina * rng.normal(1.0, 0.025, size=3)
        side = 2 * math.ceil(self.radius)
        self.pixels = Image.new("RGB", (side, side), self._colour(self.retina))
        self.disc = np.array([0.58, -0.02]) + rng.normal(0, 0.025, size=2)
        self.fovea = np.array([-0.10, 0.03]) + rng.normal(0, 0.025, size=2)
        self._anatomy(beaded)

    def _colour(self, colour: Sequence[float] | Points) -> tuple[int, ...]:
        return tuple(int(np.clip(255 * c * gain, 0, 255)) for c, gain in zip(colour, self.camera.cast, strict=True))

    def _paint(self, colour: Sequence[float] | Points, mask: Image.Image) -> None:
        self.pixels.paste(self._colour(colour), (0, 0), mask)

    def _spot(self, colour: Sequence[float] | Points, centre: Points, radius: float, sharpness: float) -> None:
        side = 2 * round(radius * self.radius)
        corner = centre * self.radius + self.pixels.width / 2 - side / 2
        self.pixels.paste(self._colour(colour), (round(corner[0]), round(corner[1])), _shadow(side, sharpness))

    def _mark(self, kind: str, quadrants: Sequence[int] | NDArray[np.int64], centres: Any, radii: Any) -> None:
        for quadrant, centre, size in zip(quadrants, centres, np.broadcast_to(radii, len(centres)), strict=True):
            self.marks.append(Mark(kind, int(quadrant), float(centre[0]), float(centre[1]), float(size)))

    def _anatomy(self, beaded: Sequence[int]) -> None:
        """Macula, optic disc with its cup, arcades and their branches."""
        rng, width = self.rng, 0.0205
        self._spot(self.retina * (0.78, 0.66, 0.62), self.fovea, 0.40, 0.9)
        self._spot(self.retina * (0.70, 0.52, 0.48), self.fovea, 0.13, 1.0)
        extent = rng.uniform(0.140, 0.168)
        self._spot(np.array([0.98, 0.77, 0.47]) * rng.uniform(0.93, 1.0), self.disc, extent, 7.0)
        self._spot((1.05, 0.95, 0.74), self.disc - (0.012, 0.0), extent * rng.uniform(0.40, 0.62), 4.0)

        self.trunks = _arcades(rng, self.disc, self.fovea, width)
        _bead(self.trunks, beaded, width)
        for quadrant in np.flatnonzero(beaded):
            places = self.trunks.lines[quadrant, 16:80:15]
            seen = places[(np.hypot(*places.T) < 0.95) & (np.abs(places[:, 1]) < self.camera.visible)]
            self._mark("venous_beading", [int(quadrant)] * len(seen), seen, 0.12)
        branches = _children(rng, self.trunks, 4, 0.50, 17)
        orders = (self.trunks, branches, _children(rng, branches, 2, 0.24, 9))
        veins, arteries = _Mask(self.radius), _Mask(self.radius)
        for order in orders:
            half = len(order.lines) // 2
            veins.vessels(order, slice(half), 0.80)
            arteries.vessels(order, slice(half, None), 0.62)
        # The light reflex along an artery.
        arteries.vessels(self.trunks, slice(4, None), 0.30, shrink=0.34)
        vein, artery = veins.read(), arteries.read()
        for mask in (vein, artery):
            side = 2 * round(0.10 * self.radius)
            corner = self.fovea * self.radius + (mask.width - side) / 2
            mask.paste(0, (round(corner[0]), round(corner[1])), _shadow(side, 3.0))  # no vessel in the fovea
        self._paint(self.retina * (0.70, 0.34, 0.42), artery)
        self._paint(self.retina * (0.54, 0.20, 0.32), vein)
        coverage = np.maximum(np.asarray(artery), np.asarray(vein)).astype(np.float32) / 255
        self.places = _Places(rng, self.disc, self.fovea, self.camera.visible, coverage)

    def add(self, lesions: Lesions) -> None:
        """Draw these lesions: the large ones first, the small ones where there is room."""
        total = lesions.total
        blood = _Mask(self.radius)
        if total["preretinal_haemorrhages"]:
            self._preretinal_haemorrhage(blood)
        if total["new_vessels_disc"] or total["new_vessels_elsewhere"]:
            self._new_vessels(lesions)
        if total["irma"]:
            centres, quadrants = self.places.take(lesions.irma, clearance=0.16)
            mask = _Mask(self.radius)
            for centre in centres:
                mask.lines(_irma(self.rng, centre, 0.108), 0.0135, 0.90)
            self._paint(self.retina * (0.50, 0.16, 0.28), mask.read())
            self._mark("irma", quadrants, centres, 0.12)
        if total["cotton_wool_spots"]:
            self._cotton_wool_spots(lesions.cotton_wool_spots)
        if total["hard_exudates"]:
            self._hard_exudates(lesions.hard_exudates)
        if total["haemorrhages"]:
            self._haemorrhages(blood, lesions.haemorrhages)
        if total["microaneurysms"]:
            centres, quadrants = self.places.take(lesions.microaneurysms)
            radii = self.rng.uniform(0.0240, 0.0290, size=len(centres))
            blood.discs(centres, radii, 0.92)
            self._mark("microaneurysms", quadrants, centres, radii)
        if total["microaneurysms"] or total["haemorrhages"] or total["preretinal_haemorrhages"]:
            self._paint(self.retina * (0.44, 0.13, 0.24), blood.read())
        if total["vitreous_haemorrhage"]:
            self._vitreous_haemorrhage()

    def _preretinal_haemorrhage(self, blood: _Mask) -> None:
        """Boat-shaped haemorrhages: the blood has settled to a level."""
        rng, angle = self.rng, np.linspace(0, np.pi, 24)
        width = rng.uniform(0.20, 0.32)
        centre = np.array([rng.uniform(-0.35, 0.25), rng.uniform(0.30, self.camera.visible - 0.30)])
        hull = np.stack([np.cos(angle), np.sin(angle) * rng.uniform(0.62, 0.85)], axis=1) * width
        level = np.stack([np.linspace(-width, width, 8), rng.uniform(-0.012, 0.012, size=8)], axis=1)
        blood.polygons((centre + np.concatenate([hull, level]))[None], 0.97)
        middle = centre + np.array([0.0, 0.35 * width])
        self.places.close(middle, width + 0.06)
        self._mark("preretinal_haemorrhages", [1], [middle], width)

    def _vitreous_haemorrhage(self) -> None:
        """A dark red cloud in front of the lower retina."""
        rng, mask = self.rng, _Mask(self.radius)
        centre = np.array([rng.uniform(-0.3, 0.2), rng.uniform(0.25, 0.45)])
        drops = centre + rng.normal(0, (0.26, 0.16), size=(16, 2))
        mask.polygons(_blobs(rng, drops, rng.uniform(0.08, 0.22, size=16), ragged=0.5, stretch=1.4), 1.0)
        self._paint(self.retina * (0.46, 0.26, 0.30), mask.read_soft(blur=0.055, opacity=0.88))
        self._mark("vitreous_haemorrhage", [1], [centre], 0.4)

    def _new_vessels(self, lesions: Lesions) -> None:
        rng, reach = self.rng, self.camera.visible - 0.20
        quadrants = [q for q in range(4) if lesions.new_vessels_elsewhere[q]]
        centres, extents = [], rng.uniform(0.15, 0.21, size=len(quadrants))
        for quadrant in quadrants:
            # New vessels grow from the large vein of their quadrant.
            centre = self.trunks.lines[quadrant][int(rng.uniform(0.44, 0.72) * 95)].copy()
            centre[1] = np.clip(centre[1], -reach, reach)
            centres.append(centre * min(1.0, 0.74 / np.hypot(*centre)))
        self._mark("new_vessels_elsewhere", quadrants, centres, extents)
        if lesions.new_vessels_disc:
            centres.append(self.disc + rng.normal(0, 0.03, size=2))
            extents = np.append(extents, rng.uniform(0.21, 0.28))
            self._mark("new_vessels_disc", [-1], centres[-1:], extents[-1:])
        fronds, tissue = _Mask(self.radius), _Mask(self.radius)
        for centre, extent in zip(centres, extents, strict=True):
            fronds.lines(_frond(rng, centre, extent), 0.016, 0.94)
            self.places.close(centre, extent + 0.05)
        tissue.polygons(_blobs(rng, np.array(centres), extents * 0.8, ragged=0.3), 1.0)
        self._paint((0.93, 0.68, 0.50), tissue.read_soft(blur=0.05, opacity=0.22))
        self._paint(self.retina * (0.78, 0.22, 0.30), fronds.read())

    def _cotton_wool_spots(self, counts: Sequence[int]) -> None:
        rng, mask = self.rng, _Mask(self.radius)
        centres, quadrants = self.places.take(counts, clearance=0.085)
        n = len(centres)
        radii = rng.uniform(0.036, 0.058, size=n)
        shape = {"stretch": rng.uniform(1.0, 1.5, size=n), "heading": rng.uniform(0, np.pi, size=n)}
        mask.polygons(_blobs(rng, centres, radii, ragged=0.35, **shape), 1.0)
        self._paint((0.97, 0.89, 0.70), mask.read_soft(blur=0.014, opacity=0.92))
        self._mark("cotton_wool_spots", quadrants, centres, radii)

    def _hard_exudates(self, counts: Sequence[int]) -> None:
        """Clusters, half of them rings (circinate)."""
        rng, mask, each = self.rng, _Mask(self.radius), 11
        centres, quadrants = self.places.take(counts, clearance=0.095)
        n = len(centres)
        angle = rng.uniform(0, 2 * np.pi, size=(n, each))
        inner = np.where(rng.random(n) < 0.5, 0.75, 0.05)[:, None]
        reach = 0.072 * rng.uniform(inner, 1.0, size=(n, each))
        spots = centres[:, None] + reach[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        mask.polygons(_blobs(rng, spots.reshape(-1, 2), rng.uniform(0.008, 0.019, size=n * each), ragged=0.35), 0.9)
        self._paint((1.04, 0.93, 0.50), mask.read())
        self._mark("hard_exudates", quadrants, centres, 0.085)

    def _haemorrhages(self, blood: _Mask, counts: Sequence[int]) -> None:
        """Dots, blots, and flames along the nerve fibres."""
        rng = self.rng
        centres, quadrants = self.places.take(counts)
        n = len(centres)
        radii = rng.uniform(*((0.025, 0.031) if n > 60 else (0.030, 0.046)), size=n)
        stretch = np.where(rng.random(n) < 0.30, rng.uniform(1.7, 2.4, size=n), rng.uniform(1.0, 1.3, size=n))
        fibres = np.arctan2(centres[:, 1] - self.disc[1], centres[:, 0] - self.disc[0])
        outlines = _blobs(rng, centres, radii / np.sqrt(stretch), ragged=0.28, stretch=stretch, heading=fibres)
        blood.polygons(outlines, 0.92)
        self._mark("haemorrhages", quadrants, centres, radii)

    def expose(self) -> Image.Image:
        """Effects of the camera: sharpness, illumination, stray light, sensor noise."""
        rng, camera, (x, y, r) = self.rng, self.camera, _grid(self.radius)
        side = len(r)
        sharp = self.pixels.filter(ImageFilter.BoxBlur(camera.blur * self.radius))
        bearing, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.16)
        choroid = 0.030 * _cloud(rng, 9, 27) + rng.uniform(0.028, 0.045) * rng.standard_normal((27, 27))
        light = np.array(Image.fromarray(choroid.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC))
        light += 1.0 - np.float32(camera.vignetting) * r * r
        light += np.float32(tilt * math.cos(bearing)) * x + np.float32(tilt * math.sin(bearing)) * y
        light *= np.float32(rng.uniform(0.93, 1.10))
        # Each colour takes its noise from another part of one strip, which is cheaper than three strips.
        strip = rng.standard_normal((side + 32, side), dtype=np.float32) * np.float32(camera.noise)
        planes = []
        for colour, band in enumerate(sharp.split()):
            plane = np.asarray(band).astype(np.float32)
            plane *= light
            plane += strip[16 * colour : 16 * colour + side]
            if camera.rim[colour]:
                plane += np.float32(255 * camera.rim[colour]) * np.clip((r - np.float32(0.86)) * 7, 0, 1)
            plane *= _edge(self.radius)
            planes.append(Image.fromarray(np.clip(plane, 0, 255, out=plane).astype(np.uint8)))
        return Image.merge("RGB", planes)


def _count(marks: Sequence[Mark]) -> Lesions:
    """The lesions that were drawn."""
    counts: dict[str, Any] = {}
    for field in fields(Lesions):
        places = [mark.quadrant for mark in marks if mark.kind == field.name]
        whole_eye = isinstance(field.default, int)
        counts[field.name] = len(places) if whole_eye else tuple(places.count(q) for q in range(4))
    # Marked several times along the vein.
    counts["venous_beading"] = tuple(min(1, n) for n in counts["venous_beading"])
    return Lesions(**counts)


def render(patient: Patient, eye: Eye, *, size: int = 224) -> Photograph:
    """The photograph of one eye.

    Args:
        patient: who, from `draw_patient`.
        eye: "L" or "R"; in a right eye the optic disc is on the right.
        size: width of the frame in pixels, at least 64; the height follows from the camera.
    """
    rng = _rng(patient.namespace, patient.seed, patient.index, eye)
    camera = patient.camera
    wanted = _draw_lesions(rng, patient.grade(eye))
    fundus = _Fundus(rng, patient, size, wanted.venous_beading)
    fundus.add(wanted)
    field = fundus.expose()
    lesions, marks = _count(fundus.marks), tuple(fundus.marks)
    if eye == "L":
        field = field.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        marks = tuple(replace(mark, x=-mark.x) for mark in marks)
    frame = Image.new("RGB", (size, round(size * camera.height)))
    frame.paste(field, ((frame.width - field.width) // 2, (frame.height - field.height) // 2))
    return Photograph(frame, icdr_grade(lesions), lesions, marks, camera.name, eye)


# --- a data set ------------------------------------------------------------------------------------------------------


def _write_patient(task: tuple[Path, Namespace, int, int, int, str, int]) -> list[dict[str, Any]]:
    """Write both eyes of one patient. Returns the rows of `labels.csv`, with the lesion counts."""
    folder, namespace, seed, index, worse_grade, split, size = task
    patient = draw_patient(namespace, seed=seed, index=index, worse_grade=worse_grade)
    rows = []
    for eye in EYES:
        photograph = render(patient, eye, size=size)
        name = f"images/p{index:06d}_{eye}.jpg"
        photograph.image.save(folder / name, quality=90)
        rows.append(
            {
                "image": name,
                "grade": photograph.grade,
                "patient": f"p{index:06d}",
                "eye": eye,
                "gradable": "true",
                "split": split,
                "camera": photograph.camera,
                "source": SOURCE,
                "lesions": photograph.lesions,
            }
        )
    return rows


def write_dataset(
    folder: Path | str,
    *,
    seed: int,
    train_patients: Sequence[int],
    val_patients: Sequence[int],
    test_patients: Sequence[int],
    size: int = 224,
    workers: int | None = None,
    namespace: Namespace = "demo",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a labelled data set. If anything fails, no folder is left.

    It contains `images/p000123_L.jpg`, `labels.csv` (columns `COLUMNS`) and
    `lesions.json` (for each image the counts that decide its grade). A patient is in one split only.

    Args:
        folder: must not exist.
        seed: the same seed gives the same files, however many workers write them.
        train_patients, val_patients, test_patients: number of patients of each grade, by the worse eye.
        size: width of a frame in pixels, at least 64.
        workers: number of processes; by default one per core.
        namespace: "demo", or "pretrain" for the pre-training of the embedded base only.
        progress: called with (patients written, patients in all).

    Raises:
        UsageError: the folder exists, a size below 64, or counts that are not five numbers.
    """
    folder = Path(folder)
    if folder.exists():
        raise UsageError(f"{folder} exists already; name a new folder for the photographs, or remove it first.")
    if size < 64:
        raise UsageError(f"photographs of {size} pixels are too small to show lesions; use a size of 64 or more.")
    splits = {"train": train_patients, "val": val_patients, "test": test_patients}
    for split, counts in splits.items():
        if len(counts) != 5 or min(counts) < 0:
            raise UsageError(
                f"{split} needs five numbers of patients, one per grade, none negative; got {list(counts)}."
            )

    people = [(split, grade) for split, counts in splits.items() for grade in range(5) for _ in range(counts[grade])]
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        (unfinished / "images").mkdir()
        tasks = [(unfinished, namespace, seed, i, grade, split, size) for i, (split, grade) in enumerate(people)]
        rows: list[dict[str, Any]] = []
        for done, written in enumerate(_spread_over(tasks, workers or os.cpu_count() or 1), start=1):
            rows.extend(written)
            if progress is not None:
                progress(done, len(tasks))
        lesions = {row["image"]: asdict(row.pop("lesions")) for row in rows}
        (unfinished / "lesions.json").write_text(json.dumps(lesions, indent=0) + "\n", encoding="utf-8")
        with (unfinished / "labels.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _spread_over(tasks: Sequence[Any], workers: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of each task, in the order of the tasks."""
    if workers == 1 or len(tasks) < 8:
        yield from map(_write_patient, tasks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write_patient, tasks, chunksize=8)
