"""Time and memory to look for near-duplicates, and what examining a photograph adds to preparing it.

    python -m benchmarks audit [--data FOLDER] [--most N]

Looks for near hashes of 100, 1,000 and 10,000 test photographs among 1,000, 10,000 and 100,000 of training (and 100,000
among 1,000,000 with --most 1000000), in all eight orientations and with as many views as an audit takes. The hashes are
random: no pair is near, and none is decoded. Fails where 100,000 take more than 60 s or 2 GB.

Then prepares each photograph of FOLDER/eyepacs-1024 (default: ../shared/data) for a network of 448 pixels, and examines
it for an audit from the same decoded picture, as scoring does, in one process.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from drgate.audit.evidence import Examined, Photographs, examined
from drgate.audit.near_duplicates import nominate
from drgate.audit.search import too_many
from drgate.audit.views import VIEWS
from drgate.preprocessing import parse_preprocessing, reduced_copy
from drgate.vision.decoding import usable_cores
from drgate.vision.images import bytes_of, decode_image

SECONDS, GIGABYTES, LIMITED = 60.0, 2.0, 100_000
PREPROCESS = parse_preprocessing("fundus-square-2@448")


def random_photographs(count: int, seed: int) -> Photographs:
    """Photographs without files, of random hashes."""
    data = np.random.default_rng(seed).bytes(count * (1 + VIEWS) * 32)
    step = (1 + VIEWS) * 32
    seen = tuple(
        Examined(
            f"{seed}-{i}", data[i * step : i * step + 32], {}, {"size": 448.0}, data[i * step + 32 : (i + 1) * step]
        )
        for i in range(count)
    )
    contents = tuple(one.digest for one in seen)
    return Photographs(pd.DataFrame(index=range(count)), (Path(),) * count, contents, seen)


def peak() -> float:
    """Of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)


def searched(count: int) -> bool:
    """Whether a search among so many is as quick and small as promised."""
    test, train = random_photographs(count // 10, 1), random_photographs(count, 2)
    if why := too_many(len(test), len(train)):
        print(f"{len(test):>7} x {len(train):<9} {why}")
        return True
    began, busy = time.perf_counter(), time.process_time()
    nominate(test, train)
    took, busy = time.perf_counter() - began, time.process_time() - busy
    print(f"{len(test):>7} x {len(train):<9} {took:6.1f} s, {busy:6.1f} s of processors, {peak():5.2f} GB", flush=True)
    return count != LIMITED or (took <= SECONDS and peak() <= GIGABYTES)


def beside_scoring(paths: Sequence[Path]) -> None:
    """Prints the milliseconds of a photograph."""
    spent = {"read, decoded, prepared": 0.0, "examined": 0.0}
    for path in paths:
        began = time.perf_counter()
        data = bytes_of(path)
        image = decode_image(data, path, PREPROCESS.decoded_at)
        reduced = reduced_copy(image)
        PREPROCESS.scaled(PREPROCESS.pixels(image, reduced))
        prepared = time.perf_counter()
        examined(data, image, reduced)
        spent["read, decoded, prepared"] += prepared - began
        spent["examined"] += time.perf_counter() - prepared
    for name, seconds in spent.items():
        print(f"  {name:<24} {1000 * seconds / len(paths):6.1f} ms")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks audit")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--most", type=int, default=LIMITED)
    given = parser.parse_args(arguments)
    print(f"near-duplicates, {usable_cores()} cores")
    kept = [searched(count) for count in (1_000, 10_000, 100_000, 1_000_000) if count <= given.most]
    paths = sorted((given.data / "eyepacs-1024" / "images").glob("*.jpeg"))
    if paths:
        print(f"eyepacs-1024, {len(paths)} photographs, one process")
        beside_scoring(paths)
    else:
        print(f"{given.data / 'eyepacs-1024'} has no photographs; give --data for the cost of examining")
    return int(not all(kept))
