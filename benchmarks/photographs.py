"""Time to decode, prepare and hash photographs of a camera's full size, before and after `fundus-square-2`.

    python -m benchmarks photographs [--data FOLDER] [--repeats N]

Takes the photographs of FOLDER/eyepacs-full (default: ../shared/data) and a colour copy of each at 4,752 x 3,168 pixels
that it makes. In one process, in turn for each photograph, the least of N times: libjpeg in full, libjpeg at the
smallest scale of at least twice 448 pixels, before (`fundus-square-1` and the older hash), after (`fundus-square-2` and
hash version 2), both with the reading of the bytes and their SHA-256. Then all of FOLDER/eyepacs-1024 is prepared and
hashed by two worker processes, before and after; no model grades them. Prints the most memory that a worker had with
the colour photographs and with the largest ones that are read, plain and progressive. Fails where "after" takes more
than twice the scaled decoding, or a worker more than `MEMORY`.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from drgate.preprocessing import FUNDUS_SQUARE, FUNDUS_SQUARE_2, Preprocessing, parse_preprocessing
from drgate.vision.decoding import FEW, in_processes
from drgate.vision.fingerprint import OLDER_HASH
from drgate.vision.perceptual import HASH
from drgate.vision.prepared import prepare_image

SIZE, COLOUR, LIMIT = 448, (4752, 3168), 2.0
LARGEST, MEMORY = (10_900, 8_200), 1 << 30
BEFORE = (parse_preprocessing(f"{FUNDUS_SQUARE}@{SIZE}"), (OLDER_HASH,))
AFTER = (parse_preprocessing(f"{FUNDUS_SQUARE_2}@{SIZE}"), (HASH,))


def decoded(path: Path, scaled: bool) -> None:
    """What libjpeg alone does."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        if scaled:
            image.draft(None, (2 * SIZE, 2 * SIZE))
        image.load()


def colour_copy(path: Path, target: Path) -> Path:
    """The photograph in the colours of a fundus, at a camera's full size."""
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L").resize(COLOUR, Image.Resampling.BICUBIC))
    tinted = np.stack([grey * share for share in (1.0, 0.6, 0.3)], axis=-1)
    Image.fromarray(tinted.astype(np.uint8)).save(target, quality=92)
    return target


def measured(paths: Sequence[Path], repeats: int) -> dict[str, float]:
    """Median over the photographs of the least milliseconds of each way."""
    ways: dict[str, Callable[[Path], object]] = {
        "libjpeg, full": partial(decoded, scaled=False),
        "libjpeg, scaled": partial(decoded, scaled=True),
        "before": lambda path: prepare_image(path, *BEFORE),
        "after": lambda path: prepare_image(path, *AFTER),
    }
    least: dict[str, list[float]] = {name: [] for name in ways}
    for path in paths:
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                began = time.perf_counter()
                way(path)
                times[name].append(1000 * (time.perf_counter() - began))
        for name, found in times.items():
            least[name].append(min(found))
    return {name: statistics.median(found) for name, found in least.items()}


def most_memory(path: Path, way: tuple[Preprocessing, Sequence[str]]) -> int:
    """Bytes that this process had at most, after this photograph."""
    prepare_image(path, *way)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_a_worker(paths: Sequence[Path], way: tuple[Preprocessing, Sequence[str]]) -> int:
    """The same of one worker process for all of these."""
    many = [paths[at % len(paths)] for at in range(FEW + 1)]
    return max(in_processes(partial(most_memory, way=way), many, workers=1))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks photographs")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(arguments)
    as_found = sorted((given.data / "eyepacs-full").glob("*/*.jpeg"))
    if not as_found:
        parser.error(f"{given.data / 'eyepacs-full'} has no photographs; give --data")
    with tempfile.TemporaryDirectory() as folder:
        colour = [colour_copy(path, Path(folder) / f"{number}.jpg") for number, path in enumerate(as_found)]
        sets = {"as found (grey)": as_found, f"colour, {COLOUR[0]} x {COLOUR[1]}": colour}
        worst = 0.0
        for title, paths in sets.items():
            found = measured(paths, given.repeats)
            worst = max(worst, found["after"] / found["libjpeg, scaled"])
            print(f"{title}: {len(paths)} photographs")
            for name, took in found.items():
                ratio = took / found["libjpeg, scaled"]
                print(f"  {name:<16} {took:7.1f} ms  {1000 / took:6.1f} a second and core  {ratio:5.2f} x scaled")
        for progressive in (False, True):
            largest = Path(folder) / f"largest-{progressive}.jpg"
            Image.open(colour[0]).resize(LARGEST).save(largest, quality=85, progressive=progressive)
            sets[f"largest ({LARGEST[0]} x {LARGEST[1]}){', progressive' * progressive}"] = [largest]
        most = 0
        print("memory of a worker at most, before and after:")
        for title, paths in sets.items():
            before, after = (in_a_worker(paths, way) for way in (BEFORE, AFTER))
            most = max(most, after)
            print(f"  {title:<36} {before >> 20:5} MB {after >> 20:5} MB")
    smaller = sorted((given.data / "eyepacs-1024" / "images").glob("*.jpeg"))
    for name, way in (("before", BEFORE), ("after", AFTER)):
        began = time.perf_counter()
        for _ in in_processes(partial(prepare_image, preprocess=way[0], hashes=way[1]), smaller, workers=2):
            pass
        print(f"eyepacs-1024, {name}: {len(smaller)} photographs in {time.perf_counter() - began:.1f} s, two workers")
    return int(worst > LIMIT or most > MEMORY)
