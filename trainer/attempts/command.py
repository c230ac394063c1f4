"""`drtrain attempts`: the ledger of all attempts, at a terminal."""

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

RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of attempts.", show_default=True)]
NameArgument = Annotated[str, typer.Argument(metavar="ATTEMPT", help="Name of the attempt's folder.")]

HELP = """All training attempts so far, read from the records in their folders.

\b
Examples:
  drtrain attempts import training-attempts-log.md
  drtrain attempts list
  drtrain attempts diff attempt-1 attempt-2
  drtrain attempts render --out ATTEMPTS.md
"""
LIST_HELP = """List all attempts, oldest first: outcome, epochs, best validation accuracy against the baseline, cost.

\b
Example:
  drtrain attempts list --runs runs
"""
SHOW_HELP = """Show one attempt: how it ended, its parameters as a command, its epochs.

\b
Example:
  drtrain attempts show attempt-1
"""
DIFF_HELP = """Show how attempt B differs from attempt A: parameters, data, checkpoint, results by epoch, cost.

\b
Example:
  drtrain attempts diff attempt-1 attempt-2
"""
RENDER_HELP = """Write a log in Markdown, with all attempts against the baseline. It can be imported again.

\b
Examples:
  drtrain attempts render > ATTEMPTS.md
  drtrain attempts render first second --out TWO.md
"""
IMPORT_HELP = """Import a Markdown log that was kept by hand: one folder per attempt, with what the log states.

The log has headings such as "### Attempt 3", parameters as flags, and results such as
"Epoch 17: Training 75.6%, Validation 78.2%". Importing it again adds only what is new.

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
    from trainer.attempts.logbook import investments, total

    ledger = _read(runs, quiet)
    attempts = ledger.attempts
    baseline, best = baseline_of(attempts), best_of(attempts)
    money, unknown = spent(attempts)

    def human(console: Console) -> None:
        if not attempts:
            console.print(_text(console, f"There is no attempt in {runs} yet."))
            return
        console.print(_listing(console, ledger, baseline, best))
        console.print()
        console.print(_text(console, f"Spent: {total(attempts)}.", "bold"), soft_wrap=True)
        for file, stated in investments(attempts).items():
            amounts = ", ".join(f"{name} {spend}" for name, spend in stated.items())
            console.print(_text(console, f"{file}: {amounts}.", "dim"), soft_wrap=True)

    plain = {
        "attempts": [attempt.to_json() for attempt in attempts],
        "baseline": None if baseline is None else baseline.name,
        "best": None if best is None else best.name,
        "spend": {**money.to_json(), "not_told_by": list(unknown)},
        "warnings": list(ledger.warnings),
    }
    emit(plain, human, format, quiet)
    return 0


def show(
    name: NameArgument, runs: RunsOption = Path("runs"), format: FormatOption = Format.human, quiet: QuietOption = False
) -> int:
    from trainer.attempts.ledger import baseline_of
    from trainer.attempts.logbook import command, standing

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
    a: Annotated[str, typer.Argument(metavar="A", help="Name of the earlier attempt's folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Name of the other attempt's folder.")],
    runs: RunsOption = Path("runs"),
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from trainer.attempts.circles import diff as differences_of
    from trainer.attempts.circles import percent, shown
    from trainer.attempts.logbook import points

    ledger = _read(runs, quiet)
    found = differences_of(ledger.find(a), ledger.find(b))

    def human(console: Console) -> None:
        table = _table(console, "", found.a.name, found.b.name, "")
        for name, (one, other) in found.parameters.items():
            table.add_row(*(_text(console, cell) for cell in (name, shown(one), shown(other), "")))
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
        table.add_row(*(_text(console, cell) for cell in ("cost", found.a.cost, found.b.cost, "")))
        console.print(table)
        for only, there in ((found.only_a, found.b), (found.only_b, found.a)):
            if only:
                console.print(_text(console, f"Not recorded by {there.name}: {', '.join(only)}.", "dim"))

    emit(found.to_json(), human, format, quiet)
    return 0


def render(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[ATTEMPT]...", help="Only these. [default: all]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File to write. [default: standard output]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    runs: RunsOption = Path("runs"),
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.files import refuse_existing, write_atomically
    from trainer.attempts.ledger import baseline_of, in_order
    from trainer.attempts.logbook import render as rendered

    ledger = _read(runs, quiet)
    if out is not None and not force:
        refuse_existing(out, "choose another name with --out, or replace it with --force")
    chosen = in_order({name: ledger.find(name) for name in names}.values()) if names else ledger.attempts
    text = rendered(chosen, baseline=baseline_of(ledger.attempts))
    if out is not None:
        write_atomically(out, text.encode())
        tell(f"{len(chosen)} attempts written to {out}.", quiet)
    plain: dict[str, Any] = {"attempts": [attempt.name for attempt in chosen]}
    plain |= {"markdown": text} if out is None else {"file": str(out)}

    def human(console: Console) -> None:
        if out is None:
            console.file.write(text)

    emit(plain, human, format)
    return 0


def import_(
    file: Annotated[Path, typer.Argument(metavar="LOG", help="Log in Markdown.")],
    runs: RunsOption = Path("runs"),
    prefix: Annotated[str, typer.Option("--prefix", help="Text before the names of the attempts.")] = "",
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from trainer.attempts.ledger import Ledger, baseline_of, best_of, read_ledger
    from trainer.attempts.logbook import import_log

    imported = import_log(file, runs, prefix=prefix)
    for note in imported.notes:
        tell(note, quiet)
    if imported.recognised:
        tell(f"Already imported and unchanged: {', '.join(imported.recognised)}.", quiet)

    def human(console: Console) -> None:
        everything = read_ledger(runs).attempts
        if imported.written:
            listing = _listing(console, Ledger(imported.written), baseline_of(everything), best_of(everything))
            console.print(listing)
        count = (
            f"{len(imported.written)} attempts imported into {runs}." if imported.written else "Nothing new to import."
        )
        console.print(_text(console, count))

    emit(imported.to_json(), human, format, quiet)
    return 0


_FULL_WIDTH = 80
"""Width from which the list also shows the epochs and the date."""

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
    """The ledger; what cannot be read is reported even when quiet."""
    from drgate.errors import UsageError
    from drgate.screen import complain
    from trainer.attempts.ledger import read_ledger

    if not runs.is_dir():
        raise UsageError(f"There is no folder {runs}. Name the folder of attempts with --runs.")
    ledger = read_ledger(runs)
    for warning in ledger.warnings:
        complain("drtrain", f"warning: {warning}")
    return ledger


def _listing(console: Console, ledger: Ledger, baseline: Attempt | None, best: Attempt | None) -> Any:
    from trainer.attempts.circles import percent
    from trainer.attempts.ledger import accuracy
    from trainer.attempts.logbook import counted, standing

    columns = ["Attempt", "Outcome", "Validation", "In epoch", "To baseline", "Cost", "Epochs", "Date"]
    wide = slice(None if console.width >= _FULL_WIDTH else -2)
    table = _table(console, *columns[wide])
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
            (attempt.cost, "" if attempt.spend else "dim"),
            (counted(attempt), ""),
            ((attempt.started or attempt.ended or "unknown")[:10], "dim"),
        )
        table.add_row(*(_text(console, cell, style) for cell, style in list(cells)[wide]))
    return table


def _facts(attempt: Attempt, against: str, baseline: str | None) -> list[tuple[str, str]]:
    from trainer.attempts.logbook import facts

    found = [
        ("Best validation", _best(attempt) + (f" ({against} against {baseline})" if against else "")),
        ("Cost", attempt.cost),
        *facts(attempt),
        ("Folder", str(attempt.folder)),
    ]
    if origin := attempt.origin:
        lines = f"lines {origin.lines[0]} to {origin.lines[1]}"
        found.append(("Imported from", f"{origin.file}, {lines}: {origin.section}"))
    return found


def _epochs(console: Console, attempt: Attempt) -> Any:
    """A row per epoch, with a column for each known figure and a bar from the lowest to the highest accuracy."""
    from trainer.attempts.circles import percent
    from trainer.attempts.logbook import points

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
    known = [entry.val_accuracy for entry in attempt.history if entry.val_accuracy is not None]
    before: float | None = None
    for entry in attempt.history:
        change = "" if before is None or entry.val_accuracy is None else points(entry.val_accuracy - before)
        before = before if entry.val_accuracy is None else entry.val_accuracy
        best = entry == attempt.best
        row = (
            str(entry.epoch),
            *(cell(entry) for _, cell in shown),
            change,
            _bar(entry, known) + (" best" if best else ""),
        )
        table.add_row(*(_text(console, cell, "bold" if best else "") for cell in row))
    return table


def _bar(entry: Evaluated, known: list[float], width: int = 20) -> str:
    if entry.val_accuracy is None or len(known) < 2 or max(known) == min(known):
        return ""
    return "#" * (1 + round((entry.val_accuracy - min(known)) / (max(known) - min(known)) * (width - 1)))


def _best(attempt: Attempt) -> str:
    from trainer.attempts.circles import percent

    if attempt.best is None or attempt.best.val_accuracy is None:
        return "none"
    epoch = "" if attempt.best.epoch is None else f" in epoch {attempt.best.epoch}"
    return percent(attempt.best.val_accuracy) + epoch


def _table(console: Console, *columns: str) -> Any:
    from rich import box
    from rich.table import Table

    lattice = box.SIMPLE_HEAD if console.encoding.lower().startswith("utf") else box.ASCII2
    table = Table(box=lattice, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(_text(console, column), overflow="fold")
    return table


def _text(console: Console, text: str, style: str = "") -> Text:
    """Text without markup, in characters that print and that the console can write."""
    from rich.text import Text

    from drgate.report.words import visible

    lines = "\n".join(visible(line) for line in text.split("\n"))
    return Text(lines.encode(console.encoding, "replace").decode(console.encoding), style=style)
