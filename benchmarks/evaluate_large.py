"""Time and memory of drgate evaluate on a million images.

    python -m benchmarks evaluate-large [--images N] [--keep DIR]

Writes a Parquet table (1,000,000 images of 500,000 patients, probabilities, five slice columns), then runs `drgate
evaluate TABLE --spec ...` as a process, with every metric with 10,000 replicates, AUC, Brier score, calibration,
sensitivity and specificity for referable DR in every slice, and the report. Prints the seconds and the peak memory
(resident set) of the process, and fails above 45 s or 1.5 GB. Linux and macOS.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.bootstrap import sample

SECONDS, GIGABYTES = 45.0, 1.5
SLICES = {
    "camera": ["A", "B", "C", "D"],
    "site": ["north", "south", "east", "west", "coast", "hills"],
    "age_band": ["under 40", "40-59", "60-79", "80 and over"],
    "sex": ["female", "male"],
    "dilated": ["yes", "no"],
}
CHECKLIST = """\
name: a-million-images
version: 1
unit: image
bootstrap: {resamples: 10000}
slices: [{by: camera}, {by: site}, {by: age_band}, {by: sex}, {by: dilated}]
criteria:
  - {id: accuracy, at_least: 0.90}
  - {id: "sensitivity:severe_npdr", at_least: 0.90}
  - {id: "sensitivity:pdr", at_least: 0.90}
  - {id: "specificity:each", above: 0.90}
""" + "".join(
    f'  - {{id: "{metric}:referable@{column}=each", at_least: 0.85}}\n'
    for column in SLICES
    for metric in ("sensitivity", "specificity")
)


def write_table(path: Path, images: int, seed: int = 0) -> None:
    """Predictions of accuracy .95 with two images a patient; cameras and sites are of a patient."""
    reference, predicted, owner = sample(images // 2, 0.95, seed)
    rng = np.random.default_rng(seed + 1)
    # The predicted grade is the most probable: at least .4 on it, and .3 at most on any other.
    others = rng.dirichlet(np.ones(5), len(owner))
    share = rng.uniform(0.4, 0.7, len(owner))
    probabilities = np.minimum(others * (1 - share)[:, None], 0.3)
    probabilities[np.arange(len(owner)), predicted] += 1 - probabilities.sum(axis=1)
    table = pd.DataFrame({"image": [f"{patient:07d}_{eye}.jpg" for patient in range(images // 2) for eye in "LR"]})
    table["patient"] = [f"P{patient:07d}" for patient in owner]
    table["eye"] = np.tile(["L", "R"], images // 2)
    table["grade"] = reference.astype(np.int8)
    table[[f"p_{grade}" for grade in range(5)]] = probabilities
    for column, names in SLICES.items():
        table[column] = np.repeat(rng.choice(names, images // 2), 2)
    table.sample(frac=1, random_state=seed).to_parquet(path, index=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Print seconds and memory; 0 if both are within their limits and the command succeeded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks evaluate-large", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000, help="number of images, even (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep table, checklist and report in this new folder")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary) / "large").resolve()
        folder.mkdir(parents=True)
        table, checklist = folder / "predictions.parquet", folder / "checklist.yaml"
        write_table(table, options.images)
        checklist.write_text(CHECKLIST, encoding="utf-8")
        command = [sys.executable, "-m", "drgate", "evaluate", str(table), "--spec", str(checklist)]
        command += ["--out", str(folder / "report"), "--looks", str(folder / "looks.jsonl"), "--quiet"]
        began = time.perf_counter()
        # In a separate folder: existing looks would be read, and all patients hashed for each of them.
        ended = subprocess.run(command, check=False, cwd=folder)
        taken = time.perf_counter() - began
        evaluated = ended.returncode in (0, 1, 3) and (folder / "report" / "evaluation.json").is_file()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Linux counts kilobytes, macOS bytes.
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    print(
        f"{options.images:,} images, {len(SLICES)} slice columns: {taken:.1f} s (limit {SECONDS:.0f}), processor time "
        f"{used.ru_utime + used.ru_stime:.1f} s on {os.cpu_count()} cores, peak {peak:.2f} GB (limit {GIGABYTES:g}), "
        f"exit code {ended.returncode}{'' if evaluated else ', and nothing was evaluated'}"
    )
    return 0 if evaluated and taken <= SECONDS and peak <= GIGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
