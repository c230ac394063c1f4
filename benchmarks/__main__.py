"""What is claimed about error rates and speed, as commands: `python -m benchmarks NAME`."""

from __future__ import annotations

import importlib
import sys

NAMES = {
    "bootstrap": "intervals of 33 metrics against scikit-learn, SciPy and confidenceinterval",
    "brier-error": "simulated misses of the upper end of a Brier score",
    "evaluate-large": "a million images through drgate evaluate, in a minute and 2 GB",
    "gate": "drgate gate on a repository, in 1 s, and 3 s with every number recomputed",
    "gate-error": "simulated false-pass rate of the clustered gate over many designs",
    "kills": "a run killed at 25 random moments and resumed, against the same run left alone",
    "paired-error": "simulated false non-inferiority of compare, against the patient bootstrap",
    "standardized-error": "simulated false-pass rate at a deployment mix over random designs",
    "train": "a training step against a bare PyTorch + peft loop, on the same decoded images",
    "tune-promise": "simulated pass rate after tuning, against what was promised",
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in NAMES:
        print("usage: python -m benchmarks NAME [--help]\n")
        print("\n".join(f"  {name:<18} {what}" for name, what in NAMES.items()))
        return 0 if arguments in ([], ["--help"], ["-h"]) else 2
    module = importlib.import_module(f"benchmarks.{arguments[0].replace('-', '_')}")
    return int(module.main(arguments[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
