"""A mirror of the record in MLflow. The record itself stays authoritative.

    with tracked(config, folder, active=True) as listener:
        record = RunRecord(..., listeners=[listener])

A problem with the mirror gives one warning and never ends a run.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drgate.errors import UsageError, install
from trainer.config import TrainingConfig
from trainer.record import Listener

_TAG = "drgate.run_folder"


class TrackingWarning(UserWarning):
    """The mirror could not be written."""


@contextlib.contextmanager
def tracked(config: TrainingConfig, folder: Path, *, active: bool) -> Iterator[Listener | None]:
    """A listener that mirrors each line of the record; None if there is nothing to mirror.

    The MLflow experiment is the folder of runs; each attempt is one MLflow run, also when it is resumed.

    Raises UsageError if MLflow is not installed or the server cannot be reached before the run starts.
    """
    if config.track == "none" or not active:
        yield None
        return
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as problem:
        raise UsageError(f"--track mlflow needs MLflow, which is not installed. {install('mlflow')}") from problem
    runs = folder.resolve().parent
    uri = config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs / 'mlflow.db'}"
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(runs.name)
        experiment = client.create_experiment(runs.name) if found is None else found.experiment_id
        mirror = _Mirror(client, experiment, folder)
    except Exception as problem:  # MLflow, SQLAlchemy and HTTP libraries raise many kinds
        reason = " ".join(str(problem).split())[:200]
        raise UsageError(f"--track mlflow: {uri} cannot be used ({reason}). Check --tracking_uri.") from problem
    try:
        yield mirror.write
    finally:
        mirror.close()


class _Mirror:
    def __init__(self, client: Any, experiment: str, folder: Path) -> None:
        self._client = client
        self._broken = False
        self._ended = False
        name = folder.resolve().as_posix()
        earlier = client.search_runs(
            [experiment], f"tags.`{_TAG}` = '{name.replace(chr(39), chr(39) * 2)}'", max_results=1
        )
        if earlier:
            self._run = earlier[0].info.run_id
            client.set_terminated(self._run, status="RUNNING")
        else:
            run = client.create_run(experiment, run_name=folder.name, tags={_TAG: name})
            self._run = run.info.run_id

    def write(self, line: Mapping[str, Any], table: Mapping[str, Any]) -> None:
        """One line of the record."""
        if self._broken:
            return
        try:
            self._write(line, table)
        except Exception as problem:
            self._broken = True
            warnings.warn(f"The record is no longer mirrored to MLflow ({problem}).", TrackingWarning, stacklevel=2)

    def close(self) -> None:
        """Mark a run without an end in its record as failed."""
        if not self._ended and not self._broken:
            with contextlib.suppress(Exception):
                self._client.set_terminated(self._run, status="FAILED")

    def _write(self, line: Mapping[str, Any], table: Mapping[str, Any]) -> None:
        match line["event"]:
            case "start" | "resume":
                for name, value in line["parameters"].items():
                    if line["event"] == "start":
                        self._client.log_param(self._run, name, value)
                for name in ("dataset_digest", "experiment_name"):
                    if name in line:
                        self._client.set_tag(self._run, f"drgate.{name}", line[name])
            case "epoch":
                for name, value in _metrics(line):
                    self._client.log_metric(self._run, name, value, step=line["epoch"])
            case "best":
                self._client.set_tag(self._run, "drgate.best_epoch", line["epoch"])
                self._client.set_tag(self._run, "drgate.tensor_digest", line["tensor_digest"])
            case "end":
                self._client.set_tag(self._run, "drgate.status", line["status"])
                self._client.set_tag(self._run, "drgate.reason", line["reason"])
                status = {"interrupted": "KILLED", "failed": "FAILED"}.get(line["status"], "FINISHED")
                self._client.set_terminated(self._run, status=status)
                self._ended = True


def _metrics(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name in ("train_loss", "val_loss", "val_accuracy", "learning_rate", "usd", "seconds"):
        if entry.get(name) is not None:
            yield name, float(entry[name])
    for kind in ("sensitivity", "specificity"):
        for grade, share in entry[kind].items():
            if share["value"] is not None:
                yield f"{kind}/{grade}", float(share["value"])
