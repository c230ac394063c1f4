"""A run that is killed with SIGKILL at random moments and resumed, compared with an undisturbed run.

    python -m benchmarks kills                  # 25 kills on the embedded base
    python -m benchmarks kills --kills 5 --base FOLDER

Compares weights, optimizer state, selected epoch and every value of the history, bit for bit. The state is written
after each step, so that many kills happen while a checkpoint is written; these are counted. Processes are forked from
one that has already imported all packages, because importing takes longer than the run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from drgate.demo.synthetic import write_dataset
from drgate.vision.checkpoint import load_checkpoint, load_training_state
from trainer.config import TrainingConfig
from trainer.run import train

PATIENTS = [6] * 5


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks kills", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--data", help="data set to train on (default: a small synthetic one)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        data = Path(options.data) if options.data else place / "data"
        if not options.data:
            write_dataset(
                data,
                seed=0,
                train_patients=PATIENTS,
                val_patients=[2] * 5,
                test_patients=[1] * 5,
                progress=lambda done, total: None,
            )
        settings: dict[str, Any] = {
            "dataset": str(data),
            "base": options.base,
            "learning_rate": 1e-3,
            "batch_size": 5,
            "dropout": 0.3,
            "gradient_accumulation_steps": 2,
            "num_epochs": options.epochs,
            "warmup_epochs": 1,
            "num_workers": 0,
            "cache_dir": str(place / "cache"),
            "save_minutes": 0,
        }
        alone, killed = place / "alone" / "run", place / "killed" / "run"
        _left_alone(settings | {"output_dir": str(alone)}, resume=False)
        draw = random.Random(options.seed)
        at = {"start": 0, "training": 0, "writing": 0}
        for number in range(options.kills):
            # One in five during the start, the others during training, half of these while a checkpoint is written.
            moment = ("start", "training", "writing", "training", "writing")[number % 5]
            where = _killed(settings | {"output_dir": str(killed)}, moment, draw.random())
            if where is None:
                print(f"The run finished after {number} kills. For more kills, use more epochs (--epochs).")
                break
            at[where] += 1
        _left_alone(settings | {"output_dir": str(killed)}, resume=(killed / "record.jsonl").exists())
        print(
            f"{sum(at.values())} kills: {at['start']} before the first step, {at['training']} while it trained, "
            f"{at['writing']} while a checkpoint was written."
        )
        differences = _differences(alone, killed)
        for difference in differences:
            print(f"DIFFERENT: {difference}", file=sys.stderr)
        if not differences:
            print("Weights, optimizer state, chosen epoch and history are the same, bit for bit.")
        return 1 if differences or at["training"] + at["writing"] < options.kills // 2 else 0


def _started(settings: dict[str, Any], resume: bool) -> Any:
    process = multiprocessing.get_context("fork").Process(target=_train, args=(settings, resume))
    process.start()
    return process


def _left_alone(settings: dict[str, Any], *, resume: bool) -> None:
    process = _started(settings, resume)
    process.join()
    if process.exitcode:
        raise SystemExit(f"The run ended with exit code {process.exitcode}.")


def _killed(settings: dict[str, Any], moment: str, share: float) -> str | None:
    """Resume the run in a child process and kill it. Returns what the kill interrupted, None if the run had finished.

    moment: during the start, during training, or while a checkpoint is written. share: how late, 0 to 1.
    """
    folder = Path(settings["output_dir"])
    record = folder / "record.jsonl"
    lines, left = _size(record), _half_written(folder)
    process = _started(settings, record.exists())
    if moment == "start":
        process.join(0.5 * share)
    else:
        while process.is_alive() and _size(record) == lines:  # the line of this session
            time.sleep(0.001)
        process.join(0.4 * share)
    while moment == "writing" and process.is_alive() and not _half_written(folder) - left:
        pass
    if not process.is_alive():
        process.join()
        return None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    if _half_written(folder) - left:
        return "writing"
    return "start" if _size(record) == lines else "training"


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _half_written(folder: Path) -> set[str]:
    """Checkpoints that were not completely written."""
    return {file.name for file in folder.glob(".*.tmp")}


def _train(settings: dict[str, Any], resume: bool) -> None:
    train(TrainingConfig(**settings), resume=resume, again="to be killed", quiet=True)


def _differences(one: Path, other: Path) -> list[str]:
    found = []
    (first, state), (second, again) = (load_training_state(folder / "last.pth") for folder in (one, other))
    if state is None or again is None:
        return ["one of them has no training state"]
    if first.tensor_digest != second.tensor_digest:
        found.append("the last weights")
    if state.digest("") != again.digest(""):
        found.append("the optimizer's state")
    best, best_again = (load_checkpoint(folder / "best_model.pth") for folder in (one, other))
    if best.tensor_digest != best_again.tensor_digest or best.epoch != best_again.epoch:
        found.append("the best model")
    histories = [
        [{key: value for key, value in entry.items() if key not in ("seconds", "usd")} for entry in record["history"]]
        for record in ((first.record or {}), (second.record or {}))
    ]
    if histories[0] != histories[1]:
        found.append("the history")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
