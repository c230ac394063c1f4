"""Seconds and memory of an export, and whether it gives the same bytes twice: each time in a process of its own.

    python -m benchmarks export                  # MedSigLIP-448's architecture, 428.6 M parameters, with LoRA adapters
    python -m benchmarks export --size small --precision fp16

One checkpoint with random weights is written as ONNX into two folders, by two processes. Prints the seconds of each and
the peak of its memory, the megabytes, the largest difference of an output from torch's at batches of 1, 2 and 7, and
whether both came to the same bytes. Loading the checkpoint counts; judging does not. Fails above `SECONDS`, `GB` or, in
fp32, `WITHIN`, and where the bytes differ.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.inference import SIZES, written
from drgate.export import BATCHES, write_onnx
from drgate.files import sha256_file
from drgate.vision.checkpoint_grader import CheckpointGrader
from drgate.vision.precisions import MODEL, write_precision

SECONDS, GB, WITHIN = 180, 12, 1e-4
CALIBRATION = 8


def exported(source: Path, out: Path, precision: str) -> None:
    """What `drgate export` does with a network before it is judged; prints its seconds and peak of memory."""
    began = time.monotonic()
    grader = CheckpointGrader(source / "model.pth", str(source / "base"))
    size = grader.preprocessing.size
    whole = out if precision == "fp32" else out.with_name(f"{out.name}-fp32")
    for folder in {whole, out}:
        folder.mkdir()
    write_onnx(grader.network(), size, whole / MODEL)
    if precision in ("fp16", "int8"):
        images = np.random.default_rng(0).uniform(-1, 1, (CALIBRATION, 3, size, size)).astype(np.float32)
        write_precision(whole / MODEL, precision, out, images)  # type: ignore[arg-type]
    # of the process itself: ru_maxrss is in KB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"seconds": time.monotonic() - began, "gb": peak}))


def difference(source: Path, model: Path) -> dict[int, float]:
    """Largest difference of an output from torch's, by batch."""
    grader = CheckpointGrader(source / "model.pth", str(source / "base"))
    side = grader.preprocessing.size
    images = np.random.default_rng(1).uniform(-1, 1, (sum(BATCHES), 3, side, side)).astype(np.float32)
    starts = np.cumsum([0, *BATCHES])
    parts = [images[start : start + size] for start, size in zip(starts, BATCHES, strict=False)]
    expected = [grader.outputs(part) for part in parts]
    del grader
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return {
        len(part): float(np.abs(session.run(None, {"pixel_values": part})[0] - outputs).max())
        for part, outputs in zip(parts, expected, strict=True)
    }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks export", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=[*SIZES], default="full")
    parser.add_argument("--precision", choices=["fp32", "fp16", "int8"], default="fp32")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        exported(*options.child, options.precision)
        return 0
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        source.mkdir()
        parameters = sum(tensor.numel() for tensor in written(source, options.size).network().parameters())
        threads = torch.get_num_threads()
        print(f"{options.size}, {parameters / 1e6:.1f} M parameters, {options.precision}, {threads} threads")
        found, digests = [], []
        for run in ("one", "two"):
            (folder := Path(name) / run).mkdir()
            command = [sys.executable, "-m", "benchmarks", "export", "--precision", options.precision]
            ended = subprocess.run(
                [*command, "--child", source, folder / "bundle"], check=True, stdout=subprocess.PIPE, text=True
            )
            found.append(json.loads(ended.stdout.splitlines()[-1]))
            files = sorted((folder / "bundle").iterdir())
            digests.append({file.name: sha256_file(file) for file in files})
            size = sum(file.stat().st_size for file in files)
            print(f"export {run}: {found[-1]['seconds']:.0f} s, {found[-1]['gb']:.1f} GB, {size / 1e6:.0f} MB written")
        same = digests[0] == digests[1]
        apart = difference(source, Path(name) / "one" / "bundle" / MODEL)
    by_batch = ", ".join(f"{largest:.1e} at a batch of {batch}" for batch, largest in apart.items())
    print(f"largest difference from torch: {by_batch}; the same bytes: {'yes' if same else 'NO'}")
    worst = [max(one[key] for one in found) for key in ("seconds", "gb")]
    print(f"claimed: at most {SECONDS} s, {GB} GB, in fp32 {WITHIN:g}")
    held = options.precision != "fp32" or max(apart.values()) <= WITHIN
    return 0 if same and held and worst[0] <= SECONDS and worst[1] <= GB else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
