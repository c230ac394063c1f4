"""The ledger: all attempts in a folder of runs, read from the record that each run keeps of itself.

    ledger = read_ledger(Path("runs"))
    for attempt in ledger.attempts:                     # oldest first
        print(attempt.name, attempt.status, attempt.best, attempt.spend)

The ledger is a view of `RUNS/*/record.jsonl`; there is no other store. An attempt from a hand-kept log is such a folder
too (`trainer.attempts.logbook.import_log`): its record names the lines of the log and holds only what they state. A
record that cannot be read gives a warning; the others are still read.
"""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from drgate import limits
from drgate.errors import RecordError, UsageError, brief
from drgate.files import entries, parse_json, read_lines
from drgate.record import FILE

Status = Literal["running", "finished", "stopped", "interrupted", "failed", "killed", "imported"]
"""`killed`: the record has no end and its process is gone. `imported`: a log that states no outcome."""

_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Spend:
    """USD. A hand-kept log may state a range; a measured cost has equal ends."""

    low: float | None
    high: float | None
    """None: no upper end ("$200+")."""
    about: bool = False
    """The log rounded it."""

    def __str__(self) -> str:
        about = "~" if self.about else ""
        if self.high is None:
            return f"{about}${_amount(self.low or 0)}+"
        if self.low is None:
            return f"{about}<${_amount(self.high)}"
        if self.low == self.high:
            return f"{about}${_amount(self.low)}"
        return f"{about}${_amount(self.low)}-{_amount(self.high)}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The known figures of one epoch. Accuracies are fractions."""

    epoch: int | None
    """None: a log that states a result without its epoch."""
    val_accuracy: float | None = None
    n_val: int | None = None
    train_accuracy: float | None = None
    train_loss: float | None = None
    severe_npdr: tuple[int, int] | None = None
    """Images recognised, images of that grade."""
    pdr: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        stated = {name: getattr(self, name) for name in self.__slots__ if name != "epoch"}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in stated.items()}
        return {"epoch": self.epoch} | {name: value for name, value in plain.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Parent:
    """The checkpoint from which a run started."""

    how: str
    """The parameter that named it."""
    source: str
    digests: tuple[str, ...] = ()
    """Of the file and of its tensors; each identifies it."""
    epoch: int | None = None
    attempt: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"digests": list(self.digests)}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an imported attempt comes from."""

    file: str
    sha256: str
    section: str
    """Its heading."""
    lines: tuple[int, int]
    """First and last, from 1."""
    investment: Mapping[str, Spend] = field(default_factory=dict)
    """What the log says about the money of all attempts together, by its own words."""

    def to_json(self) -> dict[str, Any]:
        money = {"investment": {name: spend.to_json() for name, spend in self.investment.items()}}
        stated = money if self.investment else {}
        return {"file": self.file, "sha256": self.sha256, "section": self.section, "lines": list(self.lines), **stated}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: parameters, results, cost. What is unknown is None or absent."""

    name: str
    """Name of its folder."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Those that are recorded; text that is a number is that number."""
    status: Status = "imported"
    reason: str = ""
    history: tuple[Evaluated, ...] = ()
    """Ascending epochs."""
    best: Evaluated | None = None
    """The selected epoch; without one, the epoch of highest validation accuracy, the earlier of equals."""
    spend: Spend | None = None
    planned: Spend | None = None
    """The cost that a log expected; not a spend."""
    started: str | None = None
    """ISO 8601: a date, or a date and a time."""
    ended: str | None = None
    dataset: str | None = None
    """Digest."""
    base: str | None = None
    """Digest."""
    parent: Parent | None = None
    commit: str | None = None
    """Git commit; ends in -modified if files differed from it."""
    again: str | None = None
    """Why an identical attempt was repeated."""
    baseline: bool = False
    """The result to beat."""
    resumes: tuple[Mapping[str, Any], ...] = ()
    """{"epoch": the last one before it, "changed": {parameter: [before, after]}}"""
    environment: Mapping[str, Any] = field(default_factory=dict)
    global_batch: int | None = None
    """Images per optimizer step, over all processes."""
    origin: Origin | None = None
    folder: Path | None = None

    @property
    def title(self) -> str:
        """Its name in a sentence: `attempt 2` as in its log, else its folder."""
        return re.sub(r"\battempt-(?=\d)", "attempt ", self.name) if self.origin else self.name

    @property
    def outcome(self) -> str:
        """Its status in words."""
        if self.status == "imported":
            return "not stated"
        return "running (log)" if self.origin and self.status == "running" else self.status

    @property
    def cost(self) -> str:
        return str(self.spend or "unknown")

    @property
    def last(self) -> Evaluated | None:
        """The last epoch with a validation accuracy."""
        return next((entry for entry in reversed(self.history) if entry.val_accuracy is not None), None)

    @property
    def reached(self) -> int:
        """The last known epoch; 0 without one."""
        return max((entry.epoch or 0 for entry in self.history), default=0)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--format json`."""
        return {
            "name": self.name,
            "folder": None if self.folder is None else str(self.folder),
            "status": self.status,
            "reason": self.reason,
            "baseline": self.baseline,
            "parameters": dict(self.parameters),
            "history": [entry.to_json() for entry in self.history],
            "best": None if self.best is None else self.best.to_json(),
            "spend": None if self.spend is None else self.spend.to_json(),
            "planned_spend": None if self.planned is None else self.planned.to_json(),
            "started": self.started,
            "ended": self.ended,
            "dataset_digest": self.dataset,
            "base_digest": self.base,
            "parent": None if self.parent is None else self.parent.to_json(),
            "git_commit": self.commit,
            "again": self.again,
            "resumes": [dict(resume) for resume in self.resumes],
            "environment": dict(self.environment),
            "imported_from": None if self.origin is None else self.origin.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Ledger:
    """All attempts that could be read, oldest first, and a sentence about each that could not."""

    attempts: tuple[Attempt, ...]
    warnings: tuple[str, ...] = ()

    def find(self, name: str) -> Attempt:
        """The attempt of that name; `attempt 2` finds `attempt-2`.

        Raises UsageError, offering the nearest name.
        """
        for attempt in self.attempts:
            if name in (attempt.name, attempt.title):
                return attempt
        import difflib

        names = [attempt.name for attempt in self.attempts]
        near = difflib.get_close_matches(name, names, 1)
        there = f"Did you mean {near[0]}?" if near else f"Attempts: {', '.join(names) or 'none'}."
        raise UsageError(f"There is no attempt {name!r}. {there}")


def read_ledger(runs: Path) -> Ledger:
    """All attempts in a folder of runs; none if there is no such folder."""
    attempts, warnings = [], []
    for file in record_files(runs):
        if file.parent.name.startswith("."):
            continue
        try:
            attempts.append(read_attempt(file.parent))
        except RecordError as error:
            warnings.append(str(error))
    return Ledger(in_order(attempts), tuple(warnings))


def record_files(runs: Path) -> list[Path]:
    """The records in a folder of runs, in the order of their names."""
    return [file for folder in entries(runs, UsageError) if (file := folder / FILE).exists()]


def in_order(attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """Oldest first. Attempts of one log stay together, in its order, even if some have no date."""
    attempts = list(attempts)
    logs: dict[str, str] = {}
    for attempt in attempts:
        if attempt.origin and (date := attempt.started or attempt.ended):
            logs[attempt.origin.file] = min(date, logs.get(attempt.origin.file, date))

    def key(attempt: Attempt) -> tuple[str, str, int, str]:
        if attempt.origin:
            return logs.get(attempt.origin.file, ""), attempt.origin.file, attempt.origin.lines[0], attempt.name
        return attempt.started or "", "", 0, attempt.name

    return tuple(sorted(attempts, key=key))


def read_attempt(folder: Path) -> Attempt:
    """One run folder.

    Raises RecordError, naming file and line: unreadable, or not a record.
    """
    file = folder / FILE
    what = "a record that drtrain wrote (the attempt is left out)"
    lines = read_lines(file, limits.RECORD_BYTES, what, RecordError)
    reading = _Reading(folder.name)
    read = 0
    try:
        for line in lines:
            read += 1
            reading.take(parse_json(line, f"{file}, line {read}", what, RecordError))
        attempt = reading.attempt(folder)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise RecordError(
            f"{file}, line {read}: not a record that drtrain wrote ({why}); the attempt is left out."
        ) from error
    return attempt


def record_lines(attempt: Attempt) -> Iterable[dict[str, Any]]:
    """The record of an imported attempt, with only what its log states; `read_attempt` reads it back."""
    spend, best, parent = attempt.spend, attempt.best, attempt.parent
    usd = None if spend is None else spend.high
    start: dict[str, Any] = {
        "event": "start",
        "experiment_name": attempt.name,
        "imported_from": None if attempt.origin is None else attempt.origin.to_json(),
        "parameters": dict(attempt.parameters),
        # The upper end of a range; a spend without one is unknown in a sum.
        "spend": {"usd_per_hour": None, "usd": usd, **({} if spend is None else spend.to_json())},
        "time": attempt.started,
        "dataset_digest": attempt.dataset,
        "base": None if attempt.base is None else {"digest": attempt.base},
        "parent": None
        if parent is None
        else {
            "how": parent.how,
            "source": parent.source,
            "epoch": parent.epoch,
            "attempt": parent.attempt,
            **dict(zip(("sha256", "tensor_digest"), parent.digests, strict=False)),
        },
        "git_commit": None
        if attempt.commit is None
        else {
            "commit": attempt.commit.removesuffix("-modified"),
            "modified": attempt.commit.endswith("-modified"),
        },
        "again": attempt.again,
        "baseline": attempt.baseline or None,
        "planned_spend": None if attempt.planned is None else attempt.planned.to_json(),
        "result": best.to_json() if best is not None and best.epoch is None else None,
        "reason": attempt.reason if attempt.status == "running" else None,
    }
    kept = ("imported_from", "parameters", "spend")
    yield {name: value for name, value in start.items() if value is not None or name in kept}
    for entry in attempt.history:
        plain = entry.to_json()
        shares = {name: plain.pop(name) for name in ("severe_npdr", "pdr") if name in plain}
        if shares:
            plain["sensitivity"] = {
                name: {"k": k, "n": n, "value": k / n if n else None} for name, (k, n) in shares.items()
            }
        yield {"event": "epoch", **plain, "usd": None}
    if best is not None and best.epoch is not None:
        yield {"event": "best", "epoch": best.epoch, "tensor_digest": None}
    if attempt.status != "running":
        end = {"event": "end", "status": attempt.status, "reason": attempt.reason, "usd": usd, "time": attempt.ended}
        yield {name: value for name, value in end.items() if value is not None or name == "usd"}


def spent(attempts: Iterable[Attempt]) -> tuple[Spend, tuple[str, ...]]:
    """The cost of all of them together, and the names of those with an unknown cost.

    The sum has no upper end if one of them has none.
    """
    attempts = list(attempts)
    stated = [attempt.spend for attempt in attempts if attempt.spend is not None]
    highs = [spend.high for spend in stated if spend.high is not None]
    low = sum(spend.low or 0.0 for spend in stated)
    high = sum(highs) if len(highs) == len(stated) else None
    unknown = tuple(attempt.name for attempt in attempts if attempt.spend is None)
    return Spend(round(low, 6), None if high is None else round(high, 6), any(spend.about for spend in stated)), unknown


def baseline_of(attempts: Sequence[Attempt]) -> Attempt | None:
    """The result to beat: the baseline of a log, else the first attempt with a result."""
    marked = (attempt for attempt in attempts if attempt.baseline)
    return next(marked, next((attempt for attempt in attempts if accuracy(attempt) is not None), None))


def best_of(attempts: Iterable[Attempt]) -> Attempt | None:
    """The attempt with the highest validation accuracy in its selected epoch, the earlier of equals."""
    return max(
        (attempt for attempt in attempts if accuracy(attempt) is not None),
        key=lambda attempt: accuracy(attempt) or 0.0,
        default=None,
    )


def accuracy(attempt: Attempt) -> float | None:
    """Validation accuracy of the selected epoch."""
    return None if attempt.best is None else attempt.best.val_accuracy


def normal_form(value: Any) -> Any:
    """A parameter's value in the form that is compared: numbers as numbers, yes and no as words, nothing as None.

    >>> normal_form("2e-05"), normal_form("16"), normal_form(True), normal_form([]), normal_form("cosine")
    (2e-05, 16, 'yes', None, 'cosine')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return [normal_form(item) for item in value] or None
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            return text
        value = float(text)
        if value in (float("inf"), float("-inf")):
            return text
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def this_process() -> dict[str, Any]:
    """The value of `process` in `start` and `resume` lines; it distinguishes a running process from a killed one."""
    return {"host": platform.node(), "pid": os.getpid(), "began": _began(os.getpid())}


class LedgerWarning(UserWarning):
    """A record cannot be read, so it is unknown what was tried there."""


class _Reading:
    """A record while its lines are read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.start: dict[str, Any] = {}
        self.parameters: dict[str, Any] = {}
        self.history: dict[int, Evaluated] = {}
        self.chosen: list[int] = []
        self.resumes: list[dict[str, Any]] = []
        self.end: dict[str, Any] | None = None
        self.process: dict[str, Any] | None = None
        self.usd: float | None = None

    def take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if not self.start and kind != "start":
            raise ValueError(f"the first line is {kind!r}, not 'start'")
        self._spend((event.get("spend") or {}).get("usd"))
        self._spend(event.get("usd"))
        match kind:
            case "start":
                self.start = event
                self.parameters = {name: normal_form(value) for name, value in event["parameters"].items()}
                self.process = event.get("process")
            case "resume":
                changed = event.get("changed") or {}
                after = event["epoch"]
                self.end = None
                self.parameters |= {name: normal_form(new) for name, (_, new) in changed.items()}
                self.history = {epoch: entry for epoch, entry in self.history.items() if epoch <= after}
                self.chosen = [epoch for epoch in self.chosen if epoch <= after]
                self.resumes.append({"epoch": after, "changed": changed})
                self.process = event.get("process")
            case "epoch":
                self.history[event["epoch"]] = _evaluated(event)
            case "best":
                self.chosen.append(event["epoch"])
            case "end":
                self.end = event

    def attempt(self, folder: Path) -> Attempt:
        start, end = self.start, self.end or {}
        if not start:
            raise ValueError("it has no complete line")
        origin = _origin(start.get("imported_from"))
        status, reason = self._ending(origin)
        return Attempt(
            name=self.name,
            parameters=self.parameters,
            status=status,
            reason=" ".join(str(reason).split()),
            history=tuple(self.history[epoch] for epoch in sorted(self.history)),
            best=self._best(),
            spend=self._cost(),
            planned=_spend(start.get("planned_spend")),
            started=start.get("time"),
            ended=end.get("time"),
            dataset=start.get("dataset_digest"),
            base=(start.get("base") or {}).get("digest"),
            parent=_parent(start.get("parent")),
            commit=_commit(start.get("git_commit")),
            again=start.get("again"),
            baseline=bool(start.get("baseline")),
            resumes=tuple(self.resumes),
            environment=start.get("environment") or {},
            global_batch=(start.get("processes") or {}).get("global_batch"),
            origin=origin,
            folder=folder,
        )

    def _ending(self, origin: Origin | None) -> tuple[Status, str]:
        if self.end is not None:
            status = self.end["status"]
            if status not in get_args(Status):
                raise ValueError(f"it ended with the status {status!r}")
            return status, self.end.get("reason") or ""
        if origin is not None:
            return "running", self.start.get("reason") or ""
        if self.process is None:
            return "killed", "Its record has no end."
        if self.process.get("host") != platform.node():
            return "running", f"Its record has no end. Only {self.process.get('host')} knows whether it still runs."
        if _began(int(self.process["pid"])) == self.process.get("began"):
            return "running", ""
        return "killed", "Its record has no end, and its process is gone."

    def _best(self) -> Evaluated | None:
        if self.chosen and self.chosen[-1] in self.history:
            return self.history[self.chosen[-1]]
        stated = [entry for _, entry in sorted(self.history.items()) if entry.val_accuracy is not None]
        if result := self.start.get("result"):
            stated.append(_evaluated(result))
        return max(stated, key=lambda entry: entry.val_accuracy or 0.0, default=None)

    def _cost(self) -> Spend | None:
        if "low" in (self.start.get("spend") or {}):
            return _spend(self.start["spend"])
        return None if self.usd is None else Spend(self.usd, self.usd)

    def _spend(self, usd: Any) -> None:
        """The spend only grows, also over resumes."""
        if usd is not None:
            self.usd = max(_finite(usd), self.usd or 0.0)


def _evaluated(event: Mapping[str, Any]) -> Evaluated:
    sensitivity = event.get("sensitivity") or {}

    def counted(grade: str) -> tuple[int, int] | None:
        share = sensitivity.get(grade)
        return None if not share else (int(share["k"]), int(share["n"]))

    def number(name: str) -> float | None:
        value = event.get(name)
        if value is not None and (isinstance(value, bool) or (name.endswith("accuracy") and not 0 <= value <= 1)):
            raise ValueError(f"{name} is {brief(value)}")
        return None if value is None else _finite(value)

    epoch, n_val = event["epoch"], event.get("n_val")
    if epoch is not None and (isinstance(epoch, bool) or not isinstance(epoch, int)):
        raise ValueError(f"an epoch is {epoch!r}")
    return Evaluated(
        epoch,
        number("val_accuracy"),
        None if n_val is None else int(n_val),
        number("train_accuracy"),
        number("train_loss"),
        counted("severe_npdr"),
        counted("pdr"),
    )


def _spend(plain: Mapping[str, Any] | None) -> Spend | None:
    if plain is None:
        return None
    low, high = (None if plain[end] is None else _finite(plain[end]) for end in ("low", "high"))
    return None if low is None and high is None else Spend(low, high, bool(plain.get("about")))


def _parent(plain: Mapping[str, Any] | None) -> Parent | None:
    if plain is None:
        return None
    digests = tuple(plain[name] for name in ("sha256", "tensor_digest") if plain.get(name))
    return Parent(str(plain["how"]), str(plain["source"]), digests, plain.get("epoch"), plain.get("attempt"))


def _origin(plain: Mapping[str, Any] | None) -> Origin | None:
    if plain is None:
        return None
    money = {name: spend for name, stated in (plain.get("investment") or {}).items() if (spend := _spend(stated))}
    first, last = plain["lines"]
    return Origin(plain["file"], plain["sha256"], plain["section"], (int(first), int(last)), money)


def _commit(plain: Any) -> str | None:
    if not isinstance(plain, Mapping):
        return None if plain is None else str(plain)
    return f"{plain['commit']}-modified" if plain.get("modified") else str(plain["commit"])


def _began(pid: int) -> int | None:
    """Start time of a process in kernel ticks; -1 if it runs but the time is unknown; None if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    return -1


def _amount(value: float) -> str:
    """All decimals of the value, at least two if it has any."""
    short = f"{value:.0f}" if value == int(value) else f"{value:.2f}"
    return short if float(short) == value else repr(value)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{brief(value)} is not a number")
    return number
