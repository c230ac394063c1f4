"""Time of drgate gate on a repository, as CI runs it, with and without recomputing all numbers.

    python -m benchmarks gate [--images N] [--runs N] [--keep DIR]

Builds a Git repository with a policy, one certified model and its predictions (2,000 images of 1,000 patients, the
metrics and 10,000 replicates of a real checklist), then runs `drgate gate` on it as a process. Prints the fastest and
median wall time of the runs and the processor time per run. Fails if the median is above 0.6 s without the
recomputation or 3 s with it. On a machine with other jobs, the processor time is more informative.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.repositories import Repository, answers, make_repository

LIMITS = {"without predictions": 0.6, "recomputing every number": 3.0}
WEIGHTS = b"weights of the first model"
CHECKLIST = """\
name: benchmark
version: 1
bootstrap: {resamples: 10000}
criteria:
  - {id: accuracy, at_least: 0.90}
  - {id: "sensitivity:severe_npdr", at_least: 0.90}
  - {id: "sensitivity:pdr", at_least: 0.90}
  - {id: "specificity:each", above: 0.90}
  - {id: quadratic_kappa, at_least: 0.8}
  - {id: "sensitivity:referable", at_least: 0.85, required: false}
  - {id: "undergraded:vision_threatening_below_referable", at_most: 0.02, required: false}
  - {id: no_output, at_most: 0.05, required: false}
"""


def build(root: Path, images: int) -> Repository:
    """A repository with a policy on its main branch; `demand` sets whether predictions are required."""
    made = make_repository(root)
    made.write("checklists/site-a.yaml", CHECKLIST)
    for path in sorted((root / "certificates").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    made.add_model("dr.pth", WEIGHTS, table=answers(1, images=images, right=0.97))
    made.merge()
    return made


def timed(made: Repository, runs: int) -> list[float]:
    """Seconds of each run; the gate must be open."""
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        command = [sys.executable, "-m", "drgate", "gate", "--base-ref", "main"]
        ended = subprocess.run(command, cwd=made.root, capture_output=True, text=True, check=False)
        taken.append(time.perf_counter() - began)
        if ended.returncode:
            raise SystemExit(f"The gate is closed ({ended.returncode}): {ended.stdout}{ended.stderr}")
    return taken


def main(argv: Sequence[str] | None = None) -> int:
    """Print the seconds; 0 if both medians are within their limits."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gate", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="number of predictions (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="number of runs of each kind (default: %(default)s)")
    parser.add_argument("--untimed", action="store_true", help="only check that the gate is open; ignore the time")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the repository in this new folder")
    options = parser.parse_args(argv)
    exceeded = False
    with tempfile.TemporaryDirectory() as temporary:
        made = build((options.keep or Path(temporary) / "repository").resolve(), options.images)
        for what, limit in LIMITS.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken = timed(made, options.runs)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            median = statistics.median(taken)
            exceeded |= median > limit
            print(
                f"{what:<26} fastest {min(taken):.2f} s, median {median:.2f} s of {options.runs} (limit {limit:g}), "
                f"processor time {worked / options.runs:.2f} s, {options.images} images"
            )
            if limit == min(LIMITS.values()):
                made.replace("drgate.toml", "require_predictions = false", "require_predictions = true")
                made.merge()
    return 1 if exceeded and not options.untimed else 0


if __name__ == "__main__":
    sys.exit(main())
