"""`drtrain attempts`: the ledger of all attempts, at a terminal.

    app.add_typer(command.app(), name="attempts")

Before it is part of another application: `python -m trainer.attempts.command list`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drgate.cli.options import FormatOption, QuietOption
from drgate.screen import Format, emit, tell

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from trainer.attempts.ledger import Attempt, Evaluated, Ledger

RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of run folders.", show_default=True)]
NameArgument = Annotated[str, typer.Argument(metavar="ATTEMPT", help="Name of its folder.")]

HELP = """All attempts so far, read from the records in their folders; none is repeated unknowingly.

\b
Examples:
  drtrain attempts import training-attempts-log.md
  drtrain attempts list
  drtrain attempts diff attempt-1 attempt-2
  drtrain attempts render --out ATTEMPTS.md
"""
LIST_HELP = """All attempts, oldest first: outcome, epochs, best validation accuracy against the baseline, cost.

\b
Example:
  drtrain attempts list --runs runs
"""
SHOW_HELP = """One attempt, whole: how it ended, its parameters as a command, its epochs.

\b
Example:
  drtrain attempts show attempt-1
"""
DIFF_HELP = """What differs from attempt A to attempt B: parameters, data, checkpoint, results by epoch, cost.

\b
Example:
  drtrain attempts diff attempt-1 attempt-2
"""
RENDER_HELP = """A log in Markdown, as people keep it by hand, with all attempts against the baseline.

What it writes can be imported again.

\b
Examples:
  drtrain attempts render > ATTEMPTS.md
  drtrain attempts render first second --out TWO.md
"""
IMPORT_HELP = """Take in a log that was kept by hand in Markdown: a folder for each attempt, with what is told of it.

Headings such as "### Attempt 3", parameters as flags, results as "Epoch 17: Training 75.6%, Validation 78.2%".
Importing a log again takes in what is new.

\b
Example:
  drtrain attempts import training-attempts-log.md --runs runs
"""


def app() -> typer.Typer:
    """The verbs, for `drtrain`."""
    made = typer.Typer(
        name="attempts",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for name, help_, verb in (
        ("list", LIST_HELP, list_),
        ("show", SHOW_HELP, show),
        ("diff", DIFF_HELP, diff),
        ("render", RENDER_HELP, render),
        ("import", IMPORT_HELP, import_),
    ):
        made.command(name, help=help_, no_args_is_help=name in ("show", "diff", "import"))(verb)
    return made


def list_(runs: RunsOption = Path("runs"), format: FormatOption = Format.human, quiet: QuietOption = False) -> int:
    from trainer.attempts.ledger import baseline_of, best_of, spent
    from trainer.attempts.log import investments, total

    ledger = _read(runs, quiet)
    attempts = ledger.attempts
    baseline, best = baseline_of(attempts), best_of(attempts)
    money, untold = spent(attempts)

    def human(console: Console) -> None:
        if not attempts:
            console.print(_text(console, f"{runs} holds no attempt yet."))
            return
        console.print(_listing(console, ledger, baseline, best))
        console.print()
        console.print(_text(console, f"Spent: {total(attempts)}.", "bold"), soft_wrap=True)
        for file, told in investments(attempts).items():
            said = ", ".join(f"{name} {spend}" for name, spend in told.items())
            console.print(_text(console, f"{file} says: {said}.", "dim"), soft_wrap=True)

    plain = {
        "attempts": [attempt.to_json() for attempt in attempts],
        "baseline": None if baseline is None else baseline.name,
        "best": None if best is None else best.name,
        "spend": {**money.to_json(), "not_told_by": list(untold)},
        "warnings": list(ledger.warnings),
    }
    emit(plain, human, format, quiet)
    return 0


def show(
    name: NameArgument, runs: RunsOption = Path("runs"), format: FormatOption = Format.human, quiet: QuietOption = False
) -> int:
    from trainer.attempts.ledger import baseline_of
    from trainer.attempts.log import command, standing

    ledger = _read(runs, quiet)
    attempt = ledger.find(name)
    baseline = baseline_of(ledger.attempts)

    def human(console: Console) -> None:
        from rich.table import Table

        console.print(_text(console, f"{attempt.title}: {attempt.outcome}", f"bold {_STYLES[attempt.status]}"))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        against = "" if baseline is None or attempt is baseline else standing(attempt, baseline)
        for label, text in _facts(attempt, against, None if baseline is None else baseline.name):
            table.add_row(label, _text(console, text))
        console.print(table)
        if attempt.parameters:
            console.print(_text(console, "\nParameters", "bold"))
            console.print(_text(console, command(attempt.parameters)), soft_wrap=True)
        if attempt.history:
            console.print(_text(console, "\nEpochs", "bold"))
            console.print(_epochs(console, attempt))

    emit(attempt.to_json(), human, format, quiet)
    return 0


def diff(
    a: Annotated[str, typer.Argument(metavar="A")],
    b: Annotated[str, typer.Argument(metavar="B")],
    runs: RunsOption = Path("runs"),
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from trainer.attempts.circles import percent
    from trainer.attempts.log import diff as differences_of
    from trainer.attempts.log import points

    ledger = _read(runs, quiet)
    found = differences_of(ledger.find(a), ledger.find(b))

    def human(console: Console) -> None:
        table = _table(console, "", found.a.name, found.b.name, "")
        for name, (one, other) in found.parameters.items():
            table.add_row(*(_text(console, cell) for cell in (name, _value(one), _value(other), "")))
        for name, pair in found.identities.items():
            table.add_row(*(_text(console, cell) for cell in (name, str(pair[0])[:20], str(pair[1])[:20], "")))
        if not found.parameters and not found.identities:
            table.add_row(_text(console, "parameters"), *[_text(console, "the same")] * 2, "")
        table.add_section()
        for one, other in found.epochs:
            if one.val_accuracy is not None and other.val_accuracy is not None:
                gained = points(other.val_accuracy - one.val_accuracy)
                cells = (f"epoch {one.epoch}", percent(one.val_accuracy), percent(other.val_accuracy), gained)
                table.add_row(*(_text(console, cell) for cell in cells))
        best = [_best(attempt) for attempt in (found.a, found.b)]
        table.add_row(*(_text(console, cell) for cell in ("best", *best, "")))
        table.add_row(*(_text(console, cell) for cell in ("outcome", found.a.outcome, found.b.outcome, "")))
        spends = [str(attempt.spend or "not told") for attempt in (found.a, found.b)]
        table.add_row(*(_text(console, cell) for cell in ("cost", *spends, "")))
        console.print(table)
        for only, there in ((found.only_a, found.b), (found.only_b, found.a)):
            if only:
                console.print(_text(console, f"Not told by {there.name}: {', '.join(only)}.", "dim"))

    emit(found.to_json(), human, format, quiet)
    return 0


def render(
    names: Annotated[list[str] | None, typer.Argument(metavar="[ATTEMPT]...", help="Only these. [all]")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there. [standard output]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    runs: RunsOption = Path("runs"),
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.files import refuse_existing, write_atomically
    from trainer.attempts.ledger import baseline_of, in_order
    from trainer.attempts.log import render as rendered

    ledger = _read(runs, quiet)
    if out is not None and not force:
        refuse_existing(out, "choose another name with --out, or replace it with --force")
    chosen = in_order({name: ledger.find(name) for name in names}.values()) if names else ledger.attempts
    text = rendered(chosen, baseline=baseline_of(ledger.attempts))
    if out is not None:
        write_atomically(out, text.encode())
        tell(f"{len(chosen)} attempts: {out}.", quiet)
    plain: dict[str, Any] = {"attempts": [attempt.name for attempt in chosen]}
    plain |= {"markdown": text} if out is None else {"file": str(out)}

    def human(console: Console) -> None:
        if out is None:
            console.file.write(text)

    emit(plain, human, format)
    return 0


def import_(
    file: Annotated[Path, typer.Argument(metavar="LOG", help="Markdown.")],
    runs: RunsOption = Path("runs"),
    prefix: Annotated[str, typer.Option("--prefix", help="Put before the names of its attempts.")] = "",
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from trainer.attempts.ledger import Ledger, baseline_of, best_of, read_ledger
    from trainer.attempts.log import import_log

    taken = import_log(file, runs, prefix=prefix)
    for note in taken.notes:
        tell(note, quiet)
    if taken.recognised:
        tell(f"Known already, and told in the same way: {', '.join(taken.recognised)}.", quiet)

    def human(console: Console) -> None:
        everything = read_ledger(runs).attempts
        if taken.written:
            listing = _listing(console, Ledger(taken.written), baseline_of(everything), best_of(everything))
            console.print(listing)
        count = f"{len(taken.written)} attempts imported into {runs}." if taken.written else "Nothing new to import."
        console.print(_text(console, count))

    emit(taken.to_json(), human, format, quiet)
    return 0


_FULL_WIDTH = 80
"""Columns from which the list also shows which epochs are told, and the date."""

_STYLES = {
    "running": "cyan",
    "finished": "green",
    "stopped": "yellow",
    "interrupted": "yellow",
    "failed": "red",
    "killed": "red",
    "imported": "dim",
}


def _read(runs: Path, quiet: bool) -> Ledger:
    """The ledger; what could not be read is told even when quiet."""
    from drgate.errors import UsageError
    from drgate.screen import complain
    from trainer.attempts.ledger import read_ledger

    if not runs.is_dir():
        raise UsageError(f"No attempts are known: there is no folder {runs}; --runs names another.")
    ledger = read_ledger(runs)
    for warning in ledger.warnings:
        complain("drtrain", f"warning: {warning}")
    return ledger


def _listing(console: Console, ledger: Ledger, baseline: Attempt | None, best: Attempt | None) -> Any:
    from trainer.attempts.circles import percent
    from trainer.attempts.ledger import accuracy
    from trainer.attempts.log import counted, standing

    columns = ["Attempt", "Outcome", "Validation", "In epoch", "To baseline", "Cost", "Epochs", "Date"]
    shown = slice(None if console.width >= _FULL_WIDTH else -2)
    table = _table(console, *columns[shown])
    for attempt in ledger.attempts:
        is_baseline = baseline is not None and attempt.name == baseline.name
        emphasis = "bold" if best is not None and attempt.name == best.name else ""
        epoch = None if attempt.best is None else attempt.best.epoch
        cells = (
            (attempt.name, emphasis),
            (attempt.outcome, _STYLES[attempt.status]),
            (percent(accuracy(attempt)) if attempt.best else "none", emphasis),
            ("" if epoch is None else str(epoch), emphasis),
            ("the baseline" if is_baseline else standing(attempt, baseline), "dim" if is_baseline else ""),
            (str(attempt.spend or "not told"), "" if attempt.spend else "dim"),
            (counted(attempt), ""),
            ((attempt.started or attempt.ended or "not told")[:10], "dim"),
        )
        table.add_row(*(_text(console, cell, style) for cell, style in list(cells)[shown]))
    return table


def _facts(attempt: Attempt, against: str, baseline: str | None) -> list[tuple[str, str]]:
    facts: list[tuple[str, str | None]] = [
        ("Ended because", attempt.reason),
        ("Best validation", _best(attempt) + (f" ({against} against {baseline})" if against else "")),
        ("Cost", str(attempt.spend or "not told")),
        ("Planned cost", f"{attempt.planned}, a plan and no spend" if attempt.planned else None),
        ("Started", attempt.started),
        ("Ended", attempt.ended),
        ("Again because", attempt.again),
        ("Parent", f"{attempt.parent.how} {attempt.parent.source}" if attempt.parent else None),
        ("Data set", attempt.dataset),
        ("Base", attempt.base),
        ("Commit", attempt.commit),
        ("Folder", None if attempt.folder is None else str(attempt.folder)),
    ]
    if origin := attempt.origin:
        lines = f"lines {origin.lines[0]} to {origin.lines[1]}"
        facts.append(("Imported from", f"{origin.file}, {lines}: {origin.section}"))
    for resume in attempt.resumes:
        changed = ", ".join(
            f"{name} {_value(old)}, then {_value(new)}" for name, (old, new) in resume["changed"].items()
        )
        facts.append(("Resumed", f"after epoch {resume['epoch']}{f': {changed}' if changed else ''}"))
    return [(label, text) for label, text in facts if text]


def _epochs(console: Console, attempt: Attempt) -> Any:
    """A row an epoch, with columns for what this attempt tells, and a bar between its lowest and highest accuracy."""
    from trainer.attempts.circles import percent
    from trainer.attempts.log import points

    def share(pair: tuple[int, int] | None) -> str:
        return "" if pair is None else f"{pair[0]}/{pair[1]}"

    columns: list[tuple[str, Any]] = [
        ("Training loss", lambda e: "" if e.train_loss is None else f"{e.train_loss:.4f}"),
        ("Training", lambda e: "" if e.train_accuracy is None else percent(e.train_accuracy)),
        ("Validation", lambda e: "" if e.val_accuracy is None else percent(e.val_accuracy)),
        ("Severe NPDR", lambda e: share(e.severe_npdr)),
        ("PDR", lambda e: share(e.pdr)),
    ]
    shown = [(title, cell) for title, cell in columns if any(cell(entry) for entry in attempt.history)]
    table = _table(console, "Epoch", *(title for title, _ in shown), "Change", "")
    told = [entry.val_accuracy for entry in attempt.history if entry.val_accuracy is not None]
    before: float | None = None
    for entry in attempt.history:
        change = "" if before is None or entry.val_accuracy is None else points(entry.val_accuracy - before)
        before = before if entry.val_accuracy is None else entry.val_accuracy
        best = entry == attempt.best
        row = (
            str(entry.epoch),
            *(cell(entry) for _, cell in shown),
            change,
            _bar(entry, told) + (" best" if best else ""),
        )
        table.add_row(*(_text(console, cell, "bold" if best else "") for cell in row))
    return table


def _bar(entry: Evaluated, told: list[float], width: int = 20) -> str:
    if entry.val_accuracy is None or len(told) < 2 or max(told) == min(told):
        return ""
    return "#" * (1 + round((entry.val_accuracy - min(told)) / (max(told) - min(told)) * (width - 1)))


def _best(attempt: Attempt) -> str:
    from trainer.attempts.circles import percent

    if attempt.best is None or attempt.best.val_accuracy is None:
        return "none"
    epoch = "" if attempt.best.epoch is None else f" in epoch {attempt.best.epoch}"
    return percent(attempt.best.val_accuracy) + epoch


def _value(value: Any) -> str:
    return "not set" if value is None else str(value)


def _table(console: Console, *columns: str) -> Any:
    from rich import box
    from rich.table import Table

    lattice = box.SIMPLE_HEAD if console.encoding.lower().startswith("utf") else box.ASCII2
    table = Table(box=lattice, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(_text(console, column), overflow="fold")
    return table


def _text(console: Console, text: str, style: str = "") -> Text:
    """Text that is never markup, in characters that print and that the console can write."""
    from rich.text import Text

    from drgate.report.words import visible

    lines = "\n".join(visible(line) for line in text.split("\n"))
    return Text(lines.encode(console.encoding, "replace").decode(console.encoding), style=style)


if __name__ == "__main__":
    from drgate.cli.app import run

    run(app(), "drtrain attempts")
