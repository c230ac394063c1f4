"""What is done with the ledger: a log written from it, two attempts held together, a hand-kept log taken in.

    text = render(read_ledger(Path("runs")).attempts)           # Markdown, as people keep it by hand
    found = diff(first, second)
    taken = import_log(Path("training-attempts-log.md"), Path("runs"))

A rendered log is one that `import_log` reads: the same attempts come back, with losses to four digits. Environments,
resumes, and sensitivities of other grades than severe NPDR and PDR stay in the run folders.
"""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from drgate.errors import RecordError, UsageError
from drgate.files import canonical_json
from drgate.record import FILE
from drgate.report.evaluation.markdown import code, escape
from drgate.report.words import visible
from trainer.attempts.circles import differences, percent
from trainer.attempts.handlog import read_log
from trainer.attempts.ledger import Attempt, Evaluated, Spend, accuracy, baseline_of, best_of, read_attempt, spent
from trainer.config import PLACE


@dataclass(frozen=True, slots=True)
class Difference:
    """Two attempts, side by side."""

    a: Attempt
    b: Attempt
    parameters: Mapping[str, tuple[Any, Any]]
    """Those that both tell, with different values, places included: (of a, of b)."""
    only_a: tuple[str, ...]
    """Parameters that b does not tell."""
    only_b: tuple[str, ...]
    identities: Mapping[str, tuple[str | None, str | None]]
    """Digests and commits that differ where both are known."""
    epochs: tuple[tuple[Evaluated, Evaluated], ...]
    """Epochs that both evaluated."""

    def to_json(self) -> dict[str, Any]:
        return {
            "a": self.a.name,
            "b": self.b.name,
            "parameters": {name: list(values) for name, values in self.parameters.items()},
            "told_by_a_only": list(self.only_a),
            "told_by_b_only": list(self.only_b),
            "identities": {name: list(values) for name, values in self.identities.items()},
            "best": [accuracy(self.a), accuracy(self.b)],
            "epochs": [[one.to_json(), other.to_json()] for one, other in self.epochs],
            "spend": [None if attempt.spend is None else attempt.spend.to_json() for attempt in (self.a, self.b)],
        }


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a log."""

    written: tuple[Attempt, ...]
    recognised: tuple[str, ...]
    """Attempts that lay there already, as the log tells them."""
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "written": [attempt.to_json() for attempt in self.written],
            "recognised": list(self.recognised),
            "notes": list(self.notes),
        }


def diff(a: Attempt, b: Attempt) -> Difference:
    """What differs from attempt a to attempt b."""
    changed = {
        name: (theirs, ours)
        for name, (theirs, ours) in differences(b.parameters, a.parameters, place=frozenset()).items()
    }
    known = {
        "dataset digest": (a.dataset, b.dataset),
        "base digest": (a.base, b.base),
        "parent": tuple(None if x.parent is None else ", ".join(x.parent.digests) or x.parent.source for x in (a, b)),
        "git commit": (a.commit, b.commit),
    }
    later = {entry.epoch: entry for entry in b.history}
    return Difference(
        a=a,
        b=b,
        parameters=changed,
        only_a=tuple(name for name in a.parameters if name not in b.parameters),
        only_b=tuple(name for name in b.parameters if name not in a.parameters),
        identities={name: (x, y) for name, (x, y) in known.items() if x is not None and y is not None and x != y},
        epochs=tuple((entry, later[entry.epoch]) for entry in a.history if entry.epoch in later),
    )


def import_log(file: Path, runs: Path, *, prefix: str = "") -> Imported:
    """Write each attempt of a hand-kept log as a folder of its own under `runs`: all of them or none.

    An attempt that was imported before and is told in the same way is recognised and left alone, so that a log that
    grew can be imported again. prefix: put before the names, where two logs count from 1.

    Raises:
        RecordError: the file is no such log.
        UsageError: a folder of that name holds something else; nothing is written.
    """
    log = read_log(file)
    named = [replace(attempt, name=_folder_name(prefix + attempt.name)) for attempt in log.attempts]
    for name in (attempt.name for attempt in named):
        if sum(attempt.name == name for attempt in named) > 1:
            raise UsageError(f"{file} tells of two attempts named {name}; give each a name or number of its own.")
    fresh, recognised = [], []
    for attempt in named:
        folder = runs / attempt.name
        if not folder.exists():
            fresh.append(attempt)
        elif _is_told_there(attempt, folder):
            recognised.append(attempt.name)
        else:
            raise UsageError(
                f"{folder} exists already and says something else than {file.name}, so nothing was imported; move that "
                "folder away to take the log's word, or import under other names with --prefix."
            )
    _write(fresh, runs)
    return Imported(tuple(read_attempt(runs / attempt.name) for attempt in fresh), tuple(recognised), log.notes)


def render(attempts: Sequence[Attempt], *, baseline: Attempt | None = None) -> str:
    """A Markdown log: each attempt with its parameters, results, differences, end and cost; then all against the best.

    attempts: oldest first. baseline: the result to beat (default: `trainer.attempts.ledger.baseline_of`).
    """
    baseline = baseline or baseline_of(attempts)
    best = best_of(attempts)
    parts = ["# Training attempts", "Written by `drtrain attempts render` from the records of the runs."]
    number = 0
    for index, attempt in enumerate(attempts):
        number += not attempt.baseline
        before = attempts[index - 1] if index else None
        others = {other.name: other for other in (before, best) if other is not None and other is not attempt}
        parts += _attempt(attempt, number, list(others.values()))
    parts += ["## All attempts against the baseline", _standing(attempts, baseline, best)]
    parts += ["## Investment", _investment(attempts)]
    return "\n\n".join(parts) + "\n"


def standing(attempt: Attempt, baseline: Attempt | None) -> str:
    """Best validation accuracy against the baseline's, in percentage points; empty where one of them has none."""
    ours, theirs = accuracy(attempt), None if baseline is None else accuracy(baseline)
    return "" if ours is None or theirs is None else points(ours - theirs)


def points(difference: float) -> str:
    """A difference of accuracies.

    >>> points(-0.0236), points(0.0)
    ('-2.36 points', '0 points')
    """
    text = f"{difference * 100:+.2f}"
    text = text[:-1] if text.endswith("0") else text
    return f"{'0' if text in ('+0.0', '-0.0') else text} points"


def counted(attempt: Attempt) -> str:
    """Its epochs in a word.

    >>> counted(Attempt("a", history=(Evaluated(3, 0.7), Evaluated(4, 0.7))))
    '3-4'
    >>> counted(Attempt("a", history=(Evaluated(3, 0.7), Evaluated(6, 0.7))))
    '3-6, 2 told'
    """
    epochs = [entry.epoch for entry in attempt.history if entry.epoch is not None]
    if not epochs:
        return ""
    if len(epochs) == 1:
        return str(epochs[0])
    gaps = epochs[-1] - epochs[0] >= len(epochs)
    return f"{epochs[0]}-{epochs[-1]}" + (f", {len(epochs)} told" if gaps else "")


def command(parameters: Mapping[str, Any]) -> str:
    r"""The command line that says these parameters; those without a value in a comment.

    >>> print(command({"patience": 15, "learning_rate": 2e-05, "tracking_uri": None}))
    drtrain \
      --patience 15 \
      --learning_rate 2e-05
    # not set: tracking_uri
    """
    words = ["drtrain"]
    for name, value in parameters.items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                words.append(f"--{name} {shlex.quote(visible(str(item)))}")
    unset = [name for name, value in parameters.items() if value is None]
    return " \\\n  ".join(words) + (f"\n# not set: {', '.join(unset)}" if unset else "")


def _attempt(attempt: Attempt, number: int, others: Sequence[Attempt]) -> list[str]:
    date = (attempt.started or (attempt.baseline and attempt.ended) or "")[:10]
    label = "Baseline" if attempt.baseline else f"Attempt #{number}"
    parts = [f"### {label} - {escape(attempt.name)}{f' ({escape(date)})' if date else ''}", _facts(attempt)]
    if attempt.parameters:
        block = command(attempt.parameters)
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", block)), default=0))
        parts += ["**Parameters**:\n" + f"{fence}bash\n{block}\n{fence}"]
    if attempt.history:
        parts += ["**Results**:\n\n" + "\n".join(_results(attempt))]
    for other in others:
        if lines := _differs_from(attempt, other):
            parts += [f"**Differences from {escape(other.name)}**:\n\n" + "\n".join(lines)]
    return [*parts, "---"]


def _facts(attempt: Attempt) -> str:
    facts: list[tuple[str, str | None]] = [
        ("Name", code(attempt.name)),
        ("Status", attempt.outcome.removesuffix(" (log)")),
        ("Reason", escape(attempt.reason) or None),
        ("Started", attempt.started),
        ("Ended", attempt.ended),
        ("Cost", None if attempt.spend is None else escape(str(attempt.spend))),
        ("Planned cost", None if attempt.planned is None else escape(str(attempt.planned))),
    ]
    if attempt.best is not None and attempt.best.epoch is not None:
        facts.append(("Best", f"epoch {attempt.best.epoch}"))
    elif attempt.best is not None:
        facts.append(("Validation accuracy", f"**{_percent(attempt.best)}**"))
        if attempt.best.train_accuracy is not None:
            facts.append(("Training accuracy", _exact(attempt.best.train_accuracy)))
    facts += [
        ("Again because", None if attempt.again is None else escape(attempt.again)),
        ("Parent", _parent(attempt)),
        ("Dataset digest", attempt.dataset and code(attempt.dataset)),
        ("Base digest", attempt.base and code(attempt.base)),
        ("Commit", attempt.commit and code(attempt.commit)),
    ]
    for resume in attempt.resumes:
        changed = ", ".join(
            f"{code(name)} {_value(old)}, then {_value(new)}" for name, (old, new) in resume["changed"].items()
        )
        facts.append(("Resumed", f"after epoch {resume['epoch']}{f' ({changed})' if changed else ''}"))
    return "\n".join(f"- **{label}**: {text}" for label, text in facts if text is not None)


def _parent(attempt: Attempt) -> str | None:
    parent = attempt.parent
    if parent is None:
        return None
    digests = f"; digests {', '.join(map(code, parent.digests))}" if parent.digests else ""
    epoch = "" if parent.epoch is None else f"; epoch {parent.epoch}"
    return f"{parent.how} of {code(parent.source)}{digests}{epoch}" + (
        "" if parent.attempt is None else f"; attempt {code(parent.attempt)}"
    )


def _results(attempt: Attempt) -> Iterable[str]:
    before: float | None = None
    for entry in attempt.history:
        told = []
        if entry.train_loss is not None:
            told.append(f"Training loss {entry.train_loss:.4g}")
        if entry.train_accuracy is not None:
            told.append(f"Training {_exact(entry.train_accuracy)}")
        if entry.val_accuracy is not None:
            told.append(f"Validation **{_percent(entry)}**{_of(entry)}")
        for title, share in (("severe NPDR", entry.severe_npdr), ("PDR", entry.pdr)):
            if share is not None:
                told.append(f"{title} {share[0]}/{share[1]}")
        line = f"- Epoch {entry.epoch}: {', '.join(told)}"
        if entry.val_accuracy is not None:
            line += "" if before is None else f" ({points(entry.val_accuracy - before)})"
            before = entry.val_accuracy
        yield line + (" - best" if entry == attempt.best else "")


def _differs_from(attempt: Attempt, other: Attempt) -> list[str]:
    found = diff(other, attempt)
    lines = [
        f"- {code(name)}: {_value(now)}, there {_value(then)}"
        for name, (then, now) in found.parameters.items()
        if name not in PLACE
    ]
    lines += [
        f"- {name}: {code(str(now)[:20])}, there {code(str(then)[:20])}"
        for name, (then, now) in found.identities.items()
    ]
    if found.only_a:
        lines.append(f"- not told here: {', '.join(map(code, found.only_a))}")
    if found.only_b:
        lines.append(f"- not told there: {', '.join(map(code, found.only_b))}")
    return lines


def _standing(attempts: Sequence[Attempt], baseline: Attempt | None, best: Attempt | None) -> str:
    rows = [
        ["Attempt", "Outcome", "Epochs", "Best accuracy", "Reached in", "Against the baseline", "Cost"],
        ["---"] * 7,
    ]
    for attempt in attempts:
        mark = "the baseline" if attempt is baseline else standing(attempt, baseline)
        reached = "" if attempt.best is None or attempt.best.epoch is None else f"epoch {attempt.best.epoch}"
        name = f"**{code(attempt.name)}**" if attempt is best else code(attempt.name)
        cells = [attempt.outcome, counted(attempt), percent(accuracy(attempt)) if attempt.best else "", reached, mark]
        rows.append([name.replace("|", "\\|"), *map(escape, cells), escape(str(attempt.spend or "not told"))])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    if best is None:
        return table
    return f"{table}\n\nBest: {code(best.name)} with {percent(accuracy(best))}."


def _investment(attempts: Sequence[Attempt]) -> str:
    lines = [f"- All attempts that tell their cost: {escape(total(attempts))}"]
    for file, told in investments(attempts).items():
        lines += [f"- {code(file)} says, {escape(name)}: {escape(str(spend))}" for name, spend in told.items()]
    return "\n".join(lines)


def total(attempts: Sequence[Attempt]) -> str:
    """The sum of what attempts cost, and who does not tell."""
    sum_, untold = spent(attempts)
    if len(untold) == len(attempts):
        return "not told"
    told = f"at least {Spend(sum_.low, sum_.low, sum_.about)}" if sum_.high is None or untold else str(sum_)
    return told + (f"; {', '.join(untold)} {'does' if len(untold) == 1 else 'do'} not tell" if untold else "")


def investments(attempts: Iterable[Attempt]) -> dict[str, Mapping[str, Spend]]:
    """By hand-kept log: what it says of the money of all attempts together."""
    return {
        attempt.origin.file: attempt.origin.investment
        for attempt in attempts
        if attempt.origin is not None and attempt.origin.investment
    }


def _percent(entry: Evaluated) -> str:
    accuracy = entry.val_accuracy or 0.0
    return f"{accuracy:.2%}" if entry.n_val is not None and _of(entry) else _exact(accuracy)


def _of(entry: Evaluated) -> str:
    """k of n, where the accuracy is such a share."""
    if entry.n_val and entry.val_accuracy is not None:
        k = round(entry.val_accuracy * entry.n_val)
        if k / entry.n_val == entry.val_accuracy:
            return f" ({k}/{entry.n_val})"
    return ""


def _exact(share: float) -> str:
    """All digits of it, so that reading gives the same number."""
    return f"{(Decimal(repr(share)) * 100).normalize():f}%"


def _value(value: Any) -> str:
    return "not set" if value is None else code(str(value))


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[\w][\w.\- ]*", name):
        raise UsageError(f"{name!r} cannot be the name of a folder; use letters, digits, '.', '-' and '_'.")
    return name


def _is_told_there(attempt: Attempt, folder: Path) -> bool:
    """Whether a folder holds this very attempt, imported from an earlier state of a log."""
    try:
        there = read_attempt(folder)
    except RecordError:
        return False
    if there.origin is None:
        return False
    return replace(there, origin=None, folder=None) == replace(attempt, origin=None, folder=None)


def _write(attempts: Sequence[Attempt], runs: Path) -> None:
    """Make all folders beside the others, then give them their names."""
    if not attempts:
        return
    staging = runs / f".import.{secrets.token_hex(4)}"
    moved: list[Path] = []
    try:
        for attempt in attempts:
            folder = staging / attempt.name
            folder.mkdir(parents=True)
            lines = (canonical_json(event) + b"\n" for event in _events(attempt))
            (folder / FILE).write_bytes(b"".join(lines))
        for attempt in attempts:
            (staging / attempt.name).rename(runs / attempt.name)
            moved.append(runs / attempt.name)
    except OSError:
        for folder in moved:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _events(attempt: Attempt) -> Iterable[dict[str, Any]]:
    """The record of an imported attempt: only what its log tells."""
    spend, best, parent = attempt.spend, attempt.best, attempt.parent
    usd = None if spend is None else spend.high
    start: dict[str, Any] = {
        "event": "start",
        "experiment_name": attempt.name,
        "imported_from": None if attempt.origin is None else attempt.origin.to_json(),
        "parameters": dict(attempt.parameters),
        # The unfavourable end of a range; what has none is unknown to whoever adds up.
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
