"""The mirror of a run's record in a real MLflow server on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drgate.errors import UsageError
from drgate.vision.checkpoint import load_checkpoint
from trainer.config import TrainingConfig
from trainer.run import train

pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
# MLflow's tables use a strategy that SQLAlchemy 2.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """`mlflow server` with a database of its own, ended by process id."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    quiet = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=quiet, start_new_session=True) as process,
    ):
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                    if answer.status == 200:
                        break
            except (urllib.error.URLError, OSError):
                pass
            if process.poll() is not None:
                break
            time.sleep(0.2)
        else:
            process.poll()
        assert process.poll() is None, (folder / "log").read_text()[-2000:]
        yield f"http://127.0.0.1:{port}"
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.fixture(scope="module")
def config(base, eyes, tmp_path_factory) -> Any:
    place = tmp_path_factory.mktemp("tracked")

    def build(**changes: Any) -> TrainingConfig:
        settings: dict[str, Any] = {
            "dataset": str(eyes),
            "base": str(base),
            "output_dir": str(place / "project" / "first"),
            "num_epochs": 1,
            "batch_size": 10,
            "num_workers": 0,
            "track": "mlflow",
            "usd_per_hour": 2.5,
        }
        return TrainingConfig(**settings | changes)

    return build


def mirrored(uri: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("project")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


class TestMirror:
    def test_a_server_holds_what_the_record_holds(self, config, server, monkeypatch):
        """Parameters, every epoch's figures, how it ended and which weights were chosen; a resume goes on in it."""
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        record = train(config(tracking_uri=server), quiet=True)
        (run,) = mirrored(server)
        assert run.data.params["learning_rate"] == "2e-05"
        assert run.data.tags["drgate.tensor_digest"] == record["tensor_digest"]
        assert run.data.tags["drgate.status"] == "finished"
        assert run.info.status == "FINISHED"
        last = record["history"][-1]
        assert run.data.metrics["val_accuracy"] == pytest.approx(last["val_accuracy"])
        assert run.data.metrics["sensitivity/pdr"] == pytest.approx(last["sensitivity"]["pdr"]["value"])
        from mlflow.tracking import MlflowClient

        shown = MlflowClient(tracking_uri=server).get_metric_history(run.info.run_id, "val_accuracy")
        assert [point.value for point in shown] == pytest.approx([e["val_accuracy"] for e in record["history"]])
        longer = train(config(tracking_uri=server, num_epochs=7), resume=True, quiet=True)
        (run,) = mirrored(server)
        assert run.data.metrics["val_accuracy"] == pytest.approx(longer["history"][-1]["val_accuracy"])

    def test_without_a_server_it_lies_beside_the_runs(self, config, monkeypatch, tmp_path):
        """SQLite by default, in the folder of runs; the checkpoint does not depend on it."""
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        runs = tmp_path / "project"
        record = train(config(output_dir=str(runs / "first")), quiet=True)
        (run,) = mirrored(f"sqlite:///{runs / 'mlflow.db'}")
        assert run.data.tags["drgate.best_epoch"] == str(record["selected_epoch"])
        assert load_checkpoint(runs / "first" / "best_model.pth").record == record

    def test_a_server_that_is_not_there_is_told_before_the_run(self, config, tmp_path):
        """One sentence, before an image is read."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
            with pytest.raises(UsageError, match="cannot be used"):
                train(config(tracking_uri=nowhere, output_dir=str(tmp_path / "x" / "y")), quiet=True)
        assert not (tmp_path / "x").exists()

    def test_trouble_with_the_mirror_does_not_end_the_run(self, config, tmp_path, monkeypatch):
        """It is said once, and the record goes on."""
        from mlflow.tracking import MlflowClient

        from trainer.tracking import TrackingWarning

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError("the server went away")

        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setattr(MlflowClient, "log_metric", refuse)
        with pytest.warns(TrackingWarning, match="the server went away"):
            record = train(config(output_dir=str(tmp_path / "p" / "first")), quiet=True)
        assert record["status"] == "finished"
        assert Path(tmp_path / "p" / "first" / "best_model.pth").exists()
