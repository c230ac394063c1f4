"""The record of a run: `record.jsonl` in its folder, and the same as one table in its checkpoints.

The file has append-only JSON lines, each synced to disk: `start`, then `epoch`, `best` and `spend`, then `end`. A
`resume` line names the epoch from which a run continues; later epochs are computed again. A run whose file has no `end`
was killed. `drgate evaluate` reads the table (`RunRecord.table`) for stability and cost:

    {"status": "finished", "history": [{"epoch": 1, "val_accuracy": 0.71, ...}, ...], "selected_epoch": 14,
     "tensor_digest": "sha256:...", "spend": {"usd_per_hour": 2.5, "usd": 0.41, "earlier_attempts": 3,
     "earlier_usd": 1.9}, ...}
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from drgate.errors import RecordError, UsageError
from drgate.files import canonical_json
from drgate.record import FILE, read_lines, read_record
from trainer.attempts.ledger import record_files

FORMAT: Final = "drgate-training-record 1"

Listener = Callable[[dict[str, Any], dict[str, Any]], Any]
"""Receives each line of the record and the whole table."""

_PACKAGES: Final = ("drgate", "torch", "transformers", "peft", "numpy", "pillow")


class RunRecord:
    """The record of a run in progress."""

    def __init__(
        self,
        folder: Path,
        *,
        started: float,
        usd_per_hour: float | None,
        facts: dict[str, Any],
        listeners: Sequence[Listener] = (),
        resumed: dict[str, Any] | None = None,
        runs: Path | None = None,
        write: bool = True,
    ) -> None:
        """Write the `start` line, or the `resume` line of a resumed run.

        folder: of the run; it holds no other run (`refuse_used`). started: `time.monotonic()` when the cost began.
        facts: what is known before the first step, as plain JSON values; for a resumed run only what belongs to the
        `resume` line (`epoch`, `step`, `changed`, `environment`, ...). listeners: receive each line. resumed: the table
        to continue. runs: folder of the other attempts (default: the parent of `folder`). write: whether this process
        writes the file.
        """
        self._file = folder / FILE
        self._started = started
        self._usd_per_hour = usd_per_hour
        self._listeners = listeners
        self._write = write
        self._earlier = partial(earlier_spend, folder, runs)
        self._written_at = started
        if resumed is None:
            self._before = (0.0, 0.0 if usd_per_hour is not None else None)
            self.table: dict[str, Any] = {
                "format": FORMAT,
                "status": "running",
                "reason": None,
                "started": _now(),
                "ended": None,
                **facts,
                "history": [],
                "selected_epoch": None,
                "tensor_digest": None,
                "seconds": 0.0,
                "spend": {"usd_per_hour": usd_per_hour, "usd": None, **self._earlier()},
            }
            self._tick()
            self._append("start", {**facts, "spend": self.table["spend"]})
            return
        # The file may include time after the last checkpoint, which was paid for too.
        seconds, usd = _paid(self._file)
        self._before = (seconds, usd if usd_per_hour is not None else None)
        of_the_file = ("digests", "resumes", "time")
        self.table = {"format": FORMAT, "selected_epoch": None, "tensor_digest": None, "seconds": seconds} | {
            name: deepcopy(value) for name, value in resumed.items() if name not in of_the_file
        }
        self.table |= {"status": "running", "reason": None, "rule": None, "ended": None}
        self.table["history"] = [entry for entry in self.table["history"] if entry["epoch"] <= facts["epoch"]]
        session = {name: facts[name] for name in ("epoch", "git_commit", "environment", "processes", "changed")}
        self.table["sessions"] = [*self.table.get("sessions", []), session]
        self.table["spend"] = {"usd_per_hour": usd_per_hour, "usd": None, **self._earlier()}
        self.table |= {name: facts[name] for name in ("parameters", "selection_rule")}
        if facts["warm_start"]:
            self.table["warm_starts"] = [*self.table.get("warm_starts", []), facts["epoch"]]
        self._tick()
        self._append("resume", {**facts, "seconds": self.table["seconds"], "spend": self.table["spend"]})

    def epoch(self, entry: dict[str, Any]) -> None:
        """Add an epoch's figures to the history; `entry` has at least `epoch`, counted from 1, and `val_accuracy`."""
        self.table["spend"] |= self._earlier()  # other attempts may be running
        self._tick()
        entry = {**entry, "seconds": self.table["seconds"], "usd": self.table["spend"]["usd"]}
        self.table["history"].append(entry)
        self._append("epoch", entry)

    def choose(self, epoch: int, tensor_digest: str) -> None:
        """Epoch `epoch` is the best so far and its weights have this digest; call `best` once they are written."""
        self.table |= {"selected_epoch": epoch, "tensor_digest": tensor_digest}

    def best(self) -> None:
        """The weights of the selected epoch are in best_model.pth."""
        self._append("best", {"epoch": self.table["selected_epoch"], "tensor_digest": self.table["tensor_digest"]})

    def spend(self, *, every: float = 0.0) -> None:
        """Write the spend so far, unless the last line is less than `every` seconds old."""
        if time.monotonic() - self._written_at >= every:
            self._tick()
            self._append("spend", {"seconds": self.table["seconds"], "usd": self.table["spend"]["usd"]})

    def end(self, status: str, reason: str, rule: str | None = None) -> None:
        """Write how and why the run ended.

        status: `finished`, `stopped` (early, by a rule), `interrupted` (by a signal) or `failed`. reason: a sentence.
        rule: the name of the rule that stopped it.
        """
        self._tick()
        self.table |= {"status": status, "reason": reason, "rule": rule, "ended": _now()}
        kept = ("status", "reason", "rule", "selected_epoch", "tensor_digest", "seconds")
        self._append("end", {name: self.table[name] for name in kept} | {"usd": self.table["spend"]["usd"]})

    def copy(self) -> dict[str, Any]:
        """A copy of the table, for a checkpoint."""
        return deepcopy(self.table)

    def usd(self) -> float | None:
        """Cost of this run up to now; None without a price."""
        self._tick()
        usd = self.table["spend"]["usd"]
        return None if usd is None else float(usd)

    def _tick(self) -> None:
        seconds = time.monotonic() - self._started
        self.table["seconds"] = round(self._before[0] + seconds, 1)
        if self._usd_per_hour is not None and self._before[1] is not None:
            self.table["spend"]["usd"] = round(self._before[1] + seconds / 3600 * self._usd_per_hour, 6)

    def _append(self, event: str, fields: dict[str, Any]) -> None:
        self._written_at = time.monotonic()
        if not self._write:
            return
        line = {"event": event, "time": _now(), **fields}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as handle:
                handle.truncate(_whole_lines(self._file))  # a crash or a full disk may have cut off a line
                handle.write(canonical_json(line) + b"\n")
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise RecordError(f"The record {self._file} cannot be written: {error.strerror}.") from error
        for listener in self._listeners:
            listener(line, self.table)


def _whole_lines(file: Path) -> int:
    """Bytes up to the end of the last complete line."""
    with file.open("rb") as handle:
        end = handle.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - (1 << 16))
            handle.seek(start)
            if (found := handle.read(end - start).rfind(b"\n")) >= 0:
                return start + found + 1
            end = start
    return 0


def _paid(file: Path) -> tuple[float, float | None]:
    """Seconds and USD in the last line of a record that has them."""
    seconds, usd = 0.0, None
    try:
        for line in read_lines(file):
            seconds = float(line.get("seconds", seconds))
            usd = line.get("usd", line.get("spend", {}).get("usd", usd))
        return seconds, None if usd is None else float(usd)
    except (TypeError, ValueError, AttributeError) as problem:
        raise RecordError(f"{file} is not a record that drtrain wrote ({problem!r}).") from problem


def refuse_used(folder: Path) -> None:
    """Raise UsageError if a run's folder already holds a run, or is not a folder."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file. Give a new folder with --output_dir.")
    for name in (FILE, "best_model.pth", "last.pth"):
        if (folder / name).exists():
            raise UsageError(
                f"{folder} already holds a run ({name}). Continue it with --resume, or give another folder with"
                " --output_dir."
            )


def git_commit() -> dict[str, Any] | None:
    """Commit of the working directory's repository, and whether files differ from it; None outside a repository."""
    git = shutil.which("git")
    if git is None:
        return None

    def asked(*arguments: str) -> str | None:
        answer = subprocess.run([git, *arguments], capture_output=True, text=True, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else None

    commit = asked("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "modified": bool(asked("status", "--porcelain", "--untracked-files=no"))}


def environment() -> dict[str, Any]:
    """Versions of the software, the machine and its devices."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "gpus": gpus,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def earlier_spend(folder: Path, runs: Path | None = None) -> dict[str, Any]:
    """Number and cost of the attempts next to this one, or in `runs`, without the baseline of an imported log.

    The cost is None if one of them is unknown.
    """
    own = folder.resolve()
    files = record_files((own.parent if runs is None else runs).resolve())
    spent: list[float | None] = [_spent(file) for file in files if file.parent != own and not _is_baseline(file)]
    known = [usd for usd in spent if usd is not None]
    return {"earlier_attempts": len(spent), "earlier_usd": sum(known) if len(known) == len(spent) else None}


def _is_baseline(file: Path) -> bool:
    try:
        return bool(read_record(file).get("baseline"))
    except RecordError:
        return False


def _spent(file: Path) -> float | None:
    """Cost of a run in USD; None without a price or for a record from elsewhere."""
    try:
        usd = read_record(file)["spend"]["usd"]
    except (RecordError, KeyError, TypeError):
        return None
    return float(usd) if isinstance(usd, int | float) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
