"""Commands that check the claims about error rates and speed: `python -m benchmarks NAME`."""

from __future__ import annotations

import importlib
import sys

NAMES = {
    "audit": "near-duplicates among 1,000 to 100,000 photographs: at most 60 s and 2 GB; the cost of examining",
    "bootstrap": "bootstrap intervals of 33 metrics, compared with scikit-learn, SciPy and confidenceinterval",
    "brier-error": "simulation: how often the true Brier score exceeds its upper limit",
    "evaluate-large": "drgate evaluate on a million images: at most 45 s and 1.5 GB",
    "export": "full-size export twice: at most 180 s and 12 GB, outputs of torch within 1e-4, the same bytes",
    "gate": "drgate gate on a repository: at most 1 s, or 3 s with all numbers recomputed",
    "gate-error": "simulation: how often a model at the threshold passes, for every kind of criterion",
    "inference": "images a second by torch and ONNX Runtime in each precision; scoring, compared with a bare loop",
    "kills": "a run that is killed at 25 random moments and resumed, compared with an undisturbed run",
    "labels": "labels flipped on purpose: how many of the first accused are these, against chance",
    "order-error": "simulation: how often a right order of classes is accused, and a wrong one named",
    "paired-error": "simulation: how often a worse model is declared non-inferior by drgate compare",
    "photographs": "photographs of full size decoded, prepared and hashed: at most twice libjpeg's scaled decoding",
    "quality": "the quality rule against EyeQ's grades: its limits chosen again, its ranking, what it refuses",
    "sites-error": "simulation: how often a criterion on the interval for a new site would pass wrongly",
    "standardized-error": "simulation: how often a model at the threshold passes at a deployment mix",
    "train": "time of a training step, compared with a plain PyTorch + peft loop on the same images",
    "tune-promise": "simulation: pass rate at cut-offs of drgate tune, compared with its stated chance",
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
