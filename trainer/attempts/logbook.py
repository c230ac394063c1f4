"""A log of attempts in Markdown: written from the ledger, or kept by hand and imported.

    text = render(read_ledger(Path("runs")).attempts)
    imported = import_log(Path("training-attempts-log.md"), Path("runs"))

`import_log` reads what `render` writes: the same attempts come back, with losses to four digits. Environments, resumes,
and sensitivities of grades other than severe NPDR and PDR are only in the run folders.
"""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from drgate.errors import RecordError, UsageError
from drgate.files import canonical_json
from drgate.record import FILE
from drgate.report.evaluation.markdown import code, escape
from drgate.report.words import visible
from trainer.attempts.circles import diff, percent, shown
from trainer.attempts.handlog import read_log
from trainer.attempts.ledger import (
    Attempt,
    Evaluated,
    Spend,
    accuracy,
    baseline_of,
    best_of,
    read_attempt,
    record_lines,
    spent,
)
from trainer.config import PLACE


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import."""

    written: tuple[Attempt, ...]
    recognised: tuple[str, ...]
    """Attempts that were imported before and have not changed."""
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "written": [attempt.to_json() for attempt in self.written],
            "recognised": list(self.recognised),
            "notes": list(self.notes),
        }


def import_log(file: Path, runs: Path, *, prefix: str = "") -> Imported:
    """Write each attempt of a hand-kept log to its own folder in `runs`: all of them or none.

    An attempt that was imported before and has not changed is skipped, so a log that grew can be imported again.
    prefix: put before the names, for example if two logs both count from 1.

    Raises:
        RecordError: the file is not such a log.
        UsageError: a folder of that name holds something else; nothing is written.
    """
    log = read_log(file)
    named = [replace(attempt, name=_folder_name(prefix + attempt.name)) for attempt in log.attempts]
    for name, times in Counter(attempt.name for attempt in named).items():
        if times > 1:
            raise UsageError(f"{file} has two attempts named {name}. Give each its own name or number.")
    fresh, recognised = [], []
    for attempt in named:
        folder = runs / attempt.name
        if not folder.exists():
            fresh.append(attempt)
        elif _is_there(attempt, folder):
            recognised.append(attempt.name)
        else:
            raise UsageError(
                f"{folder} already exists and differs from {file.name}, so nothing was imported. Move the folder away"
                " to import the log's version, or import under other names with --prefix."
            )
    _write(fresh, runs)
    return Imported(tuple(read_attempt(runs / attempt.name) for attempt in fresh), tuple(recognised), log.notes)


def render(attempts: Sequence[Attempt], *, baseline: Attempt | None = None) -> str:
    """A Markdown log: each attempt with parameters, results, differences and cost; then all against the baseline.

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
    """Best validation accuracy minus the baseline's, in percentage points; empty if one of them has none."""
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
    """Its epochs, in short.

    >>> counted(Attempt("a", history=(Evaluated(3, 0.7), Evaluated(4, 0.7))))
    '3-4'
    >>> counted(Attempt("a", history=(Evaluated(3, 0.7), Evaluated(6, 0.7))))
    '3-6, 2 known'
    """
    epochs = [entry.epoch for entry in attempt.history if entry.epoch is not None]
    if not epochs:
        return ""
    if len(epochs) == 1:
        return str(epochs[0])
    gaps = epochs[-1] - epochs[0] >= len(epochs)
    return f"{epochs[0]}-{epochs[-1]}" + (f", {len(epochs)} known" if gaps else "")


def command(parameters: Mapping[str, Any]) -> str:
    r"""The command line with these parameters; those without a value in a comment.

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


def facts(
    attempt: Attempt, code: Callable[[str], str] = str, escape: Callable[[str], str] = str
) -> list[tuple[str, str]]:
    """What is known of an attempt beside its results, by label; code and escape: how a page marks text."""
    known: list[tuple[str, str | None]] = [
        ("Reason", escape(attempt.reason) or None),
        ("Started", attempt.started),
        ("Ended", attempt.ended),
        ("Planned cost", None if attempt.planned is None else escape(str(attempt.planned))),
        ("Again because", None if attempt.again is None else escape(attempt.again)),
        ("Parent", _parent(attempt, code)),
        ("Dataset digest", attempt.dataset and code(attempt.dataset)),
        ("Base digest", attempt.base and code(attempt.base)),
        ("Commit", attempt.commit and code(attempt.commit)),
    ]
    for resume in attempt.resumes:
        changed = ", ".join(
            f"{code(name)} {_value(old, code)}, then {_value(new, code)}"
            for name, (old, new) in resume["changed"].items()
        )
        known.append(("Resumed", f"after epoch {resume['epoch']}{f' ({changed})' if changed else ''}"))
    return [(label, text) for label, text in known if text is not None]


def _facts(attempt: Attempt) -> str:
    known = [
        ("Name", code(attempt.name)),
        ("Status", attempt.outcome.removesuffix(" (log)")),
        *facts(attempt, code, escape),
    ]
    if attempt.spend is not None:
        known.append(("Cost", escape(str(attempt.spend))))
    if attempt.best is not None and attempt.best.epoch is not None:
        known.append(("Best", f"epoch {attempt.best.epoch}"))
    elif attempt.best is not None:
        known.append(("Validation accuracy", f"**{_percent(attempt.best)}**"))
        if attempt.best.train_accuracy is not None:
            known.append(("Training accuracy", _exact(attempt.best.train_accuracy)))
    return "\n".join(f"- **{label}**: {text}" for label, text in known)


def _parent(attempt: Attempt, code: Callable[[str], str]) -> str | None:
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
        parts = []
        if entry.train_loss is not None:
            parts.append(f"Training loss {entry.train_loss:.4g}")
        if entry.train_accuracy is not None:
            parts.append(f"Training {_exact(entry.train_accuracy)}")
        if entry.val_accuracy is not None:
            parts.append(f"Validation **{_percent(entry)}**{_of(entry)}")
        for title, share in (("severe NPDR", entry.severe_npdr), ("PDR", entry.pdr)):
            if share is not None:
                parts.append(f"{title} {share[0]}/{share[1]}")
        line = f"- Epoch {entry.epoch}: {', '.join(parts)}"
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
        lines.append(f"- not recorded here: {', '.join(map(code, found.only_a))}")
    if found.only_b:
        lines.append(f"- not recorded there: {', '.join(map(code, found.only_b))}")
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
        rows.append([name.replace("|", "\\|"), *map(escape, cells), escape(attempt.cost)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    if best is None:
        return table
    return f"{table}\n\nBest: {code(best.name)} with {percent(accuracy(best))}."


def _investment(attempts: Sequence[Attempt]) -> str:
    lines = [f"- All attempts with a known cost: {escape(total(attempts))}"]
    for file, stated in investments(attempts).items():
        lines += [f"- {code(file)}, {escape(name)}: {escape(str(spend))}" for name, spend in stated.items()]
    return "\n".join(lines)


def total(attempts: Sequence[Attempt]) -> str:
    """The sum of the costs, and the attempts with an unknown cost."""
    sum_, unknown = spent(attempts)
    if len(unknown) == len(attempts):
        return "unknown"
    known = f"at least {Spend(sum_.low, sum_.low, sum_.about)}" if sum_.high is None or unknown else str(sum_)
    return known + (f" (unknown for {', '.join(unknown)})" if unknown else "")


def investments(attempts: Iterable[Attempt]) -> dict[str, Mapping[str, Spend]]:
    """By hand-kept log: what it says about the money of all attempts together."""
    return {
        attempt.origin.file: attempt.origin.investment
        for attempt in attempts
        if attempt.origin is not None and attempt.origin.investment
    }


def _percent(entry: Evaluated) -> str:
    accuracy = entry.val_accuracy or 0.0
    return f"{accuracy:.2%}" if entry.n_val is not None and _of(entry) else _exact(accuracy)


def _of(entry: Evaluated) -> str:
    """k of n, if the accuracy is that share."""
    if entry.n_val and entry.val_accuracy is not None:
        k = round(entry.val_accuracy * entry.n_val)
        if k / entry.n_val == entry.val_accuracy:
            return f" ({k}/{entry.n_val})"
    return ""


def _exact(share: float) -> str:
    """With all digits, so that reading gives the same number."""
    return f"{(Decimal(repr(share)) * 100).normalize():f}%"


def _value(value: Any, code: Callable[[str], str] = code) -> str:
    return shown(value) if value is None else code(str(value))


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[\w][\w.\- ]*", name):
        raise UsageError(f"{name!r} cannot be the name of a folder; use letters, digits, '.', '-' and '_'.")
    return name


def _is_there(attempt: Attempt, folder: Path) -> bool:
    """Whether a folder holds this attempt, imported from an earlier state of the log."""
    try:
        there = read_attempt(folder)
    except RecordError:
        return False
    if there.origin is None:
        return False
    return replace(there, origin=None, folder=None) == replace(attempt, origin=None, folder=None)


def _write(attempts: Sequence[Attempt], runs: Path) -> None:
    """Write all folders under a temporary name, then rename them."""
    if not attempts:
        return
    staging = runs / f".import.{secrets.token_hex(4)}"
    moved: list[Path] = []
    try:
        for attempt in attempts:
            folder = staging / attempt.name
            folder.mkdir(parents=True)
            lines = (canonical_json(event) + b"\n" for event in record_lines(attempt))
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
