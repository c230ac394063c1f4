"""Several processes under torchrun (gloo, on loopback): the same run, and the same predictions, as one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drgate.predictions import load_predictions
from drgate.record import read_record
from drgate.vision.checkpoint import load_checkpoint, save_checkpoint
from tests.support import tiny
from trainer.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A base model and a data set of 33 training and 27 validation images: neither divides by two."""
    folder = tmp_path_factory.mktemp("several")
    tiny.write_base(folder / "tower")
    tiny.write_eyes(folder / "eyes", train=7, val=5, test=3)
    table = (folder / "eyes" / "labels.csv").read_text().splitlines()
    left_out = ("train-0-0.", "train-4-6.", "val-2-1.", "val-0-0.", "test-1-1.", "test-3-0.")
    kept = [line for line in table if not any(name in line for name in left_out)]
    (folder / "eyes" / "labels.csv").write_text("\n".join(kept) + "\n")
    return folder


def started(arguments: list[str]) -> None:
    """Two processes of a command, under torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "DRGATE_CACHE": "none"}
    command = [sys.executable, "-m", "torch.distributed.run", *launcher, "-m", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


def trained(place: Path, name: str, processes: int, **changes: Any) -> dict[str, Any]:
    settings = {
        "dataset": place / "eyes",
        "base": place / "tower",
        "learning_rate": 3e-3,
        "batch_size": 8 // processes,
        "gradient_accumulation_steps": 1,
        "num_epochs": 2,
        "dropout": 0,
        "num_workers": 0,
        "scheduler": "none",
        "output_dir": place / name / "run",
        "class_weight_pdr": 6,
    } | changes
    words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    if processes == 1:
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0
    else:
        started(["trainer", *words])
    return read_record(place / name / "run" / "record.jsonl")


@pytest.fixture(scope="module")
def alone(place) -> dict[str, Any]:
    return trained(place, "one", 1)


class TestTraining:
    @pytest.mark.parametrize("changes", [{}, {"distributed": "fsdp"}], ids=["ddp", "fsdp"])
    def test_two_processes_give_the_loss_curve_of_one(self, place, alone, changes):
        """At the same global batch, with augmentation, a weighted loss, and a last step that does not divide."""
        name = changes.get("distributed", "ddp")
        two = trained(place, name, 2, **changes)
        assert two["training_set"]["n"] == 33
        assert two["processes"] == {"n": 2, "global_batch": 8}
        assert len(two["history"]) == len(alone["history"])
        for here, there in zip(two["history"], alone["history"], strict=True):
            assert here["train_loss"] == pytest.approx(there["train_loss"], rel=1e-4)
            assert here["val_loss"] == pytest.approx(there["val_loss"], rel=1e-3)
            assert here["n_val"] == there["n_val"] == 23
            assert here["val_accuracy"] == pytest.approx(there["val_accuracy"], abs=1.01 / 23)
        for file in ("last.pth", "best_model.pth"):
            load_checkpoint(place / name / "run" / file).build()


class TestScoring:
    def test_two_processes_give_the_predictions_of_one(self, place, drgate):
        """13 images over two processes: seven and six; the same table, with the same digest."""
        from drgate.vision.base import resolve_base

        base = resolve_base(str(place / "tower"))
        save_checkpoint(place / "model.pth", tiny.checkpoint_of(tiny.random_model(base), base))
        words = ["score", place / "model.pth", "--data", place / "eyes", "--split", "test", "--out"]
        assert drgate(*words, place / "one.parquet").code == 0
        started(["drgate", *map(str, words), str(place / "two.parquet")])
        one, two = (load_predictions(place / f"{name}.parquet") for name in ("one", "two"))
        assert len(two.table) == 13
        assert one.digest == two.digest

    def test_a_grader_in_python_runs_once_a_process(self, place, drgate):
        """Each has its own; the table is that of one process."""
        (place / "mine.py").write_text(
            "import os\n"
            "class Grader:\n"
            "    kind, classes, preprocessing = 'logits', range(5), None\n"
            "    def __init__(self, weights): self.files = weights\n"
            "    def predict(self, batch): return [[*i.mean((0, 1)) / 100, 0, 1] for i in batch]\n"
            "def load(weights):\n"
            "    with weights[0].with_name('started').open('a') as file: file.write(f'{os.getpid()}\\n')\n"
            "    return Grader(weights)\n"
        )
        (place / "weights.bin").write_bytes(b"weights")
        words = ["score", place / "weights.bin", "--grader", f"{place / 'mine.py'}:load"]
        words += ["--data", place / "eyes", "--split", "test", "--out"]
        assert drgate(*words, place / "one-python.parquet").code == 0
        started(["drgate", *map(str, words), str(place / "two-python.parquet")])
        one, two = (load_predictions(place / f"{name}-python.parquet") for name in ("one", "two"))
        assert one.digest == two.digest
        assert one.provenance["model"]["tensor_digest"] == two.provenance["model"]["tensor_digest"]
        assert len({*(place / "started").read_text().split()}) == 3
