"""Runs that go on: after a kill, from another run's state, from weights alone."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import trainer.engine
import trainer.run
from drgate.errors import CheckpointError, DrgateError, TrainingError, UsageError
from drgate.files import sha256_file
from drgate.record import read_record
from drgate.vision.base import resolve_base
from drgate.vision.checkpoint import TrainingState, load_checkpoint, load_training_state, save_checkpoint
from tests.support import tiny
from trainer.cli import main
from trainer.config import TrainingConfig
from trainer.origin import OlderStateWarning
from trainer.run import train

UNTIMED = ("seconds", "usd", "time")


@pytest.fixture
def config(base, eyes, tmp_path):
    def build(name: str = "a", **changes: Any) -> TrainingConfig:
        settings: dict[str, Any] = {
            "dataset": str(eyes),
            "base": str(base),
            "output_dir": str(tmp_path / "runs" / name),
            "learning_rate": 3e-3,
            "batch_size": 10,
            "gradient_accumulation_steps": 1,
            "num_epochs": 3,
            "dropout": 0.3,
            "num_workers": 0,
            "scheduler": "none",
        }
        return TrainingConfig(**settings | changes)

    return build


def untimed(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A history without what clocks say."""
    return [{key: value for key, value in entry.items() if key not in UNTIMED} for entry in history]


class Cut(Exception):
    """Stands for the moment at which a process is gone."""


def cut_off(monkeypatch: pytest.MonkeyPatch, when: Callable[[int, Path], bool]) -> None:
    """From the n-th call of `save_checkpoint` for which `when(n, path)` holds, nothing reaches the disk any more."""
    calls = 0
    gone = False
    write = save_checkpoint

    def save(path: Path, *arguments: Any, **keywords: Any) -> None:
        nonlocal calls, gone
        calls += 1
        if gone or when(calls, path):
            gone = True
            raise Cut
        write(path, *arguments, **keywords)

    def append(self: Any, *arguments: Any) -> None:
        if gone:
            raise Cut
        record(self, *arguments)

    record = trainer.record.RunRecord._append
    monkeypatch.setattr(trainer.run, "save_checkpoint", save)
    monkeypatch.setattr(trainer.record.RunRecord, "_append", append)


class TestExactResume:
    def test_killed_and_resumed_it_is_the_run_that_was_left_alone(self, base, eyes):
        """SIGKILL at random moments, half of them while a checkpoint is written: the same weights, bit for bit."""
        command = [
            sys.executable,
            "-m",
            "benchmarks",
            "kills",
            "--kills",
            "6",
            "--base",
            str(base),
            "--data",
            str(eyes),
            "--epochs",
            "6",
            "--seed",
            "1",
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        root = Path(__file__).parents[2]
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=240, env=environment, cwd=root, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "the same, bit for bit" in ended.stdout

    @pytest.mark.parametrize(
        ("moment", "when"),
        [
            ("before the last.pth of an epoch", lambda n, path: n == 6),
            ("in the middle of an epoch", lambda n, path: n == 4),
            ("between last.pth and best_model.pth", lambda n, path: path.name == "best_model.pth"),
        ],
    )
    def test_between_any_two_files(self, config, finished, monkeypatch, moment, when, tmp_path):
        """A kill between the record's line, the state and the best model leaves what can be made up for."""
        alone, expected = finished(config())
        with monkeypatch.context() as patched:
            cut_off(patched, when)
            with pytest.raises(Cut):
                train(config("cut", save_minutes=0), again="to be cut", quiet=True)
        record = train(config("cut", save_minutes=0), resume=True, quiet=True)
        assert untimed(record["history"]) == untimed(expected["history"]), moment
        assert record["tensor_digest"] == expected["tensor_digest"]
        runs = tmp_path / "runs"
        states = [load_training_state(folder / "last.pth") for folder in (alone, runs / "cut")]
        assert states[0][0].tensor_digest == states[1][0].tensor_digest
        assert states[0][1].digest("") == states[1][1].digest("")
        assert load_checkpoint(runs / "cut" / "best_model.pth").tensor_digest == expected["tensor_digest"]
        on_disk = read_record(runs / "cut" / "record.jsonl")
        assert untimed(on_disk["history"]) == untimed(expected["history"])
        assert on_disk["digests"][expected["tensor_digest"]] == expected["selected_epoch"]
        assert not list((runs / "cut").glob(".*"))

    def test_between_the_last_evaluation_and_the_end(self, config, finished, monkeypatch, tmp_path):
        """What the last evaluation decided is decided again: no epoch is added."""
        _, expected = finished(config())

        def gone(*_: Any) -> None:
            raise Cut

        with monkeypatch.context() as patched:
            patched.setattr(trainer.record.RunRecord, "end", gone)
            with pytest.raises(Cut):
                train(config("cut"), again="to be cut", quiet=True)
        record = train(config("cut"), resume=True, quiet=True)
        assert untimed(record["history"]) == untimed(expected["history"])
        assert (record["status"], record["reason"]) == (expected["status"], expected["reason"])

    def test_before_the_first_state_was_written(self, config, finished, monkeypatch, tmp_path):
        """A kill as early as that: the run begins again in its folder, and is the run that was left alone."""
        _, expected = finished(config())
        with monkeypatch.context() as patched:
            cut_off(patched, lambda n, path: n == 1)
            with pytest.raises(Cut):
                train(config("cut"), again="to be cut", quiet=True)
        assert not list((tmp_path / "runs" / "cut").glob("*.pth"))
        record = train(config("cut"), resume=True, quiet=True)
        assert untimed(record["history"]) == untimed(expected["history"])
        assert record["tensor_digest"] == expected["tensor_digest"]
        best = load_checkpoint(tmp_path / "runs" / "cut" / "best_model.pth")
        assert best.record == record

    def test_a_damaged_newest_state_is_passed_over(self, config, finished, monkeypatch, tmp_path):
        """The one before is used, with a warning that names both; the end is the same."""
        _, expected = finished(config())
        with monkeypatch.context() as patched:
            cut_off(patched, lambda n, path: n == 9)
            with pytest.raises(Cut):
                train(config("cut", save_minutes=0), again="to be cut", quiet=True)
        last = tmp_path / "runs" / "cut" / "last.pth"
        last.write_bytes(last.read_bytes()[:-1000])
        with pytest.warns(OlderStateWarning, match=r"last\.pth is truncated.*previous\.pth, is used"):
            record = train(config("cut", save_minutes=0), resume=True, quiet=True)
        assert record["tensor_digest"] == expected["tensor_digest"]

    def test_without_any_whole_state_it_says_so(self, config, finished, tmp_path):
        """Both damaged: one sentence, and nothing is begun anew in silence."""
        finished(config(num_epochs=1), tmp_path / "runs" / "a")
        for name in ("last.pth", "previous.pth"):
            (tmp_path / "runs" / "a" / name).write_bytes(b"PK")
        with pytest.raises(TrainingError, match="has no state from which the run can continue"):
            train(config(num_epochs=1), resume=True, quiet=True)

    def test_a_full_disk_leaves_the_last_good_state(self, config, finished, monkeypatch, tmp_path):
        """The record says failed and why; what was written before is whole; with room again the run goes on."""
        _, expected = finished(config())
        calls = 0
        write = torch.save

        def full(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls >= 6:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(torch, "save", full)
            with pytest.raises(CheckpointError, match="No space left on device"):
                train(config("full", save_minutes=0), again="on a small disk", quiet=True)
        folder = tmp_path / "runs" / "full"
        assert not list(folder.glob(".*"))
        table = read_record(folder / "record.jsonl")
        assert table["status"] == "failed"
        assert "No space left" in table["reason"]
        load_training_state(folder / "last.pth")
        assert (
            train(config("full", save_minutes=0), resume=True, quiet=True)["tensor_digest"] == expected["tensor_digest"]
        )

    def test_the_best_is_not_replaced_by_a_worse_one(self, config, monkeypatch, tmp_path):
        """Where the state fell back behind the best model, an epoch computed again differently does not replace it."""
        train(config("cut", num_epochs=4), quiet=True)
        folder = tmp_path / "runs" / "cut"
        chosen = load_checkpoint(folder / "best_model.pth")
        # A state before the best epoch, and an engine that is worse from there on.
        with monkeypatch.context() as patched:
            cut_off(patched, lambda n, path: n == 4)
            with pytest.raises(Cut):
                train(config("early", num_epochs=4, save_minutes=0), again="for its state", quiet=True)
        (folder / "last.pth").write_bytes((tmp_path / "runs" / "early" / "last.pth").read_bytes())
        monkeypatch.setattr(trainer.engine.Engine, "step", lambda self, *a, **k: torch.zeros(()))
        table = (folder / "record.jsonl").read_text().splitlines(keepends=True)
        (folder / "record.jsonl").write_text("".join(line for line in table if '"event":"end"' not in line))
        record = train(config("cut", num_epochs=4), resume=True, quiet=True)
        after = load_checkpoint(folder / "best_model.pth")
        known = {entry["epoch"]: entry["val_accuracy"] for entry in (chosen.record or {})["history"]}
        assert after.tensor_digest == chosen.tensor_digest
        assert max(entry["val_accuracy"] for entry in record["history"]) <= known[chosen.epoch]


class TestResumeCommand:
    def test_a_run_that_is_over_says_so(self, config, finished, tmp_path, capfd):
        """Nothing is trained, the record is given."""
        _, first = finished(config(num_epochs=1), tmp_path / "runs" / "a")
        again = train(config(num_epochs=1), resume=True)
        assert "has already ended" in capfd.readouterr().err
        assert untimed(again["history"]) == untimed(first["history"])

    def test_more_epochs_go_on(self, config, finished, tmp_path, capfd):
        """A changed num_epochs lets a finished run go on, and what differs is printed and recorded."""
        _, first = finished(config(num_epochs=1), tmp_path / "runs" / "a")
        record = train(config(num_epochs=8), resume=True)
        assert "num_epochs: 1 there, 8 here" in capfd.readouterr().err
        assert len(record["history"]) > len(first["history"])
        assert untimed(record["history"])[: len(first["history"])] == untimed(first["history"])

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"learning_rate": 1e-3}, "--learning_rate was 0.003 when this run began"),
            ({"batch_size": 5}, "An optimizer step of this run has 10 images, but 5"),
            ({"seed": 1}, "--seed was 0"),
        ],
    )
    def test_what_acted_from_the_first_step_on_stays(self, config, finished, tmp_path, changes, words):
        """Another learning rate is another attempt: the sentence says how to make it."""
        finished(config(num_epochs=1), tmp_path / "runs" / "a")
        with pytest.raises(UsageError, match=words):
            train(config(num_epochs=2, **changes), resume=True, quiet=True)

    def test_a_data_set_that_changed_is_refused(self, config, tmp_path):
        """Another image, another run."""
        data = tiny.write_eyes(tmp_path / "d")
        train(config(num_epochs=1, dataset=str(data)), quiet=True)
        tiny.eye(2, 77).save(data / "images" / "train-2-0.png")
        with pytest.raises(UsageError, match="has changed since this run began"):
            train(config(num_epochs=9, dataset=str(data)), resume=True, quiet=True)

    def test_two_at_once_are_refused(self, config, tmp_path):
        """A folder belongs to one process at a time."""
        folder = tmp_path / "runs" / "a"
        folder.mkdir(parents=True)
        with (folder / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            with pytest.raises(UsageError, match="Another process is working"):
                train(config(), quiet=True)

    def test_the_command_needs_no_parameter_but_the_folder(self, config, finished, tmp_path, capfd):
        """`drtrain --resume --output_dir RUN`: the rest is in the record."""
        finished(config(num_epochs=1), tmp_path / "runs" / "a")
        with pytest.raises(SystemExit) as stop:
            main(["--resume", "--output_dir", str(tmp_path / "runs" / "a"), "--num-epochs", "7", "--format", "json"])
        assert stop.value.code == 0
        with pytest.raises(SystemExit) as stop:
            main(["--resume", "--output_dir", str(tmp_path / "none")])
        assert stop.value.code == 2
        assert "holds no run to continue" in capfd.readouterr().err


class TestFromACheckpoint:
    def test_a_whole_state_goes_on_as_its_run_would_have(self, config, tmp_path):
        """A new attempt from last.pth: the epochs that follow are those of the run that was not cut in two."""
        whole = train(config("whole", num_epochs=12, patience=50), quiet=True)
        first = train(config("first", num_epochs=2, patience=50), quiet=True)
        source = tmp_path / "runs" / "first" / "last.pth"
        second = train(config("second", num_epochs=12, patience=50, resume_from_checkpoint=str(source)), quiet=True)
        begins = len(first["history"]) + 1
        assert second["history"][0]["epoch"] == begins
        overlap = [entry for entry in untimed(whole["history"]) if begins <= entry["epoch"] <= 12]
        assert untimed(second["history"])[: len(overlap)] == overlap
        assert second["parent"]["how"] == "resume_from_checkpoint"
        assert second["parent"]["tensor_digest"] == load_checkpoint(source).tensor_digest
        assert second["parent"]["sha256"] == sha256_file(source)
        assert [entry["epoch"] for entry in second["inherited"]] == list(range(1, begins))
        assert second["changed"] == {"num_epochs": [2, 12]}

    def test_weights_alone_have_no_state_to_restore(self, config, finished, capsys):
        """best_model.pth: exit code 2, and the sentence names --init_from."""
        source = finished(config(num_epochs=1))[0] / "best_model.pth"
        settings = config("b", resume_from_checkpoint=str(source)).model_dump(exclude_none=True, exclude={"decide"})
        with pytest.raises(SystemExit) as stop:
            main([word for name, value in settings.items() for word in (f"--{name}", str(value))])
        assert stop.value.code == 2
        told = capsys.readouterr().err
        assert "--init_from" in told
        assert "last.pth" in told

    def test_weights_alone_start_another_run(self, config, finished, tmp_path):
        """--init_from: epochs count from 1, the head is the parent's, and the record knows the parent."""
        source = finished(config(num_epochs=1))[0] / "best_model.pth"
        child = train(config("child", num_epochs=1, learning_rate=1e-12, init_from=str(source)), quiet=True)
        assert child["history"][0]["epoch"] == 1
        assert child["parent"]["how"] == "init_from"
        assert child["parent"]["attempt"] == "run"
        assert child["lineage"]["training_sets"] == "known"
        parent, own = load_checkpoint(source), load_checkpoint(tmp_path / "runs" / "child" / "best_model.pth")
        for name, tensor in parent.head.items():
            torch.testing.assert_close(own.head[name], tensor, rtol=0, atol=1e-8)

    def test_adapters_become_part_of_a_tower_that_is_trained_whole(self, config, finished, tmp_path):
        """--init_from with --use_lora no: at a rate of nearly nothing the merged tower gives the parent's logits."""
        source = finished(config(num_epochs=1))[0] / "best_model.pth"
        settings = config("child", num_epochs=1, learning_rate=1e-12, init_from=str(source), use_lora="no")
        train(settings, quiet=True)
        child = load_checkpoint(tmp_path / "runs" / "child" / "best_model.pth")
        assert child.lora is None
        images = torch.rand(4, 3, tiny.SIZE, tiny.SIZE) * 2 - 1
        with torch.inference_mode():
            torch.testing.assert_close(
                child.build()(images), load_checkpoint(source).build()(images), atol=1e-4, rtol=0
            )

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"lora_r": 4}, "rank 16 and alpha 32"),
            ({"num_epochs": 3}, "is too small"),
            ({"use_lora": "no"}, "--init_from"),
            ({"resume_from_checkpoint": "gone.pth"}, "gone.pth"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, config, finished, changes, words):
        """Other adapters, epochs that lie behind, a file that is not there."""
        source = finished(config(num_epochs=1))[0] / "last.pth"
        with pytest.raises(DrgateError, match=words):
            train(config("b", **{"resume_from_checkpoint": str(source), "num_epochs": 20} | changes), quiet=True)

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"epoch": "5"}, "epoch"),
            ({"step": -1}, "step"),
            ({"inherited": [{"epoch": 1}]}, "val_accuracy"),
            ({"scaler": None}, "scaler"),
        ],
    )
    def test_a_state_that_drtrain_did_not_write_is_refused(self, config, finished, tmp_path, values, words):
        """Digests that fit make no sense of nonsense: one sentence, no traceback."""
        checkpoint, state = load_training_state(finished(config(num_epochs=1))[0] / "last.pth")
        assert state is not None
        odd = TrainingState(state.values | values, state.tensors)
        save_checkpoint(tmp_path / "odd.pth", checkpoint, state=odd)
        with pytest.raises(CheckpointError, match=words):
            train(config("b", num_epochs=20, resume_from_checkpoint=str(tmp_path / "odd.pth")), quiet=True)

    def test_another_architecture_is_refused(self, config, tmp_path):
        """The base model must be that of the checkpoint."""
        other = resolve_base(str(tiny.write_base(tmp_path / "other", intermediate_size=48)))
        save_checkpoint(tmp_path / "other.pth", tiny.checkpoint_of(tiny.random_model(other), other))
        with pytest.raises(UsageError, match="another architecture"):
            train(config(init_from=str(tmp_path / "other.pth"), lora_r=4, lora_alpha=8), quiet=True)


class TestColumns:
    """A data set whose columns have other names."""

    @pytest.fixture
    def renamed(self, tmp_path: Path) -> tuple[Path, Path]:
        """The set, and the file that says which column is which."""
        folder = tiny.write_eyes(tmp_path / "d")
        labels = folder / "labels.csv"
        labels.write_text(labels.read_text().replace("image,grade,", "name,dx,", 1))
        (tmp_path / "map.yaml").write_text("columns: {image: name, grade: dx}\n")
        return folder, tmp_path / "map.yaml"

    def test_are_recorded_and_resumed_without_their_file(self, config, renamed, tmp_path):
        """The run states what the file said; a run of other columns is another one."""
        folder, stated = renamed
        short = config(dataset=str(folder), columns=str(stated), num_epochs=1)
        record = train(short, quiet=True)
        assert record["parameters"]["columns"] == '{"columns": {"grade": "dx", "image": "name"}}'
        with pytest.raises(UsageError, match="This attempt was made before"):
            train(config("b", dataset=str(folder), columns="image=name,grade=dx", num_epochs=1), quiet=True)
        stated.unlink()
        given = ["--output_dir", str(tmp_path / "runs" / "a"), "--resume", "--num_epochs", "2", "--quiet"]
        with pytest.raises(SystemExit) as stop:
            main([*given, "--columns", "image=name,grade=dx,eye=patient,patient=eye"])
        assert stop.value.code == 2
        with pytest.raises(SystemExit) as stop:
            main(given)
        assert stop.value.code == 0

    def test_that_are_not_there(self, config, renamed):
        """Refused by the name that was typed, before anything is written."""
        asked = config(dataset=str(renamed[0]), columns="image=name,grade=diagnosis")
        with pytest.raises(DrgateError, match="has no column 'diagnosis', which --columns maps to grade"):
            train(asked, quiet=True)
        assert not Path(str(asked.output_dir)).exists()
