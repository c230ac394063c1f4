"""The report for a person at a terminal: verdict, checklist, reasons and what must be read with them.

    render(evaluation, Console(), names)

Outcomes are shown by word, symbol and colour. The console decides about colour (NO_COLOR, pipes) and width; one
that cannot encode the symbols gets plain letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drgate.certificate.statement import NOT_A_MEDICAL_DEVICE, NOT_EVIDENCE_FOR
from drgate.evaluation import Evaluation
from drgate.report import words
from drgate.report.evaluation.sections import sections
from drgate.report.kit import STYLES, paragraph, table, text_for, writes

_SIDES: Final = {"low": "lower ", "high": "upper ", "value": "", "both": "both "}
FLAGGED_AT_MOST: Final = 10
"""Flagged images named; the report's page one has all of them."""
_FULL_WIDTH: Final = 96
"""Columns from which estimate and interval are side by side."""


def render(evaluation: Evaluation, console: Console, names: Mapping[str, str] = {}) -> None:
    """Write the report to the console.

    names: the caller's own names of the images, by published name; shown at a terminal only, not in a file or a log.
    """
    style = STYLES[evaluation.verdict]
    paragraph(console, f"{words.SYMBOLS[evaluation.verdict]} {words.verdict_word(evaluation)}", f"bold {style}")
    paragraph(console, words.headline(evaluation), "bold")
    for text in words.under_headline(evaluation):
        paragraph(console, text, style)
    for label, text in words.summary(evaluation):
        paragraph(console, f"{label}: {text}", "dim", hang=2)
    console.print()
    console.print(_checklist(evaluation, console))
    console.print()
    paragraph(console, f"{words.decision_rule(evaluation)} {words.intervals(evaluation)}", "dim")
    unmet = words.unmet(evaluation)
    if unmet:
        console.print(Text("\nReasons", style="bold"))
    if about := words.about_reasons(evaluation):
        paragraph(console, about)
    for line in unmet:
        head = f"{line.symbol} {line.title}"
        note = "" if line.required else f" ({line.advice})"
        paragraph(
            console,
            f"{head}{note}: {line.outcome.lower()}. {line.reason}",
            STYLES[line.status],
            hang=2,
            styled=len(head),
        )
    if changed := words.exported(evaluation):
        console.print(Text("\nWhat the export changed", style="bold"))
        for sentence in changed:
            paragraph(console, f"- {sentence}", "", hang=2)
    _compared(console, evaluation)
    _flagged(console, evaluation, names if console.is_terminal else {})
    if evaluation.page_one:
        console.print(Text("\nTo be read with the verdict", style="bold"))
    for sentence in evaluation.page_one:
        paragraph(console, f"- {words.visible(sentence)}", "", hang=2)


def signing_page(evaluation: Evaluation, console: Console) -> None:
    """Write what a signer must have seen: the report, what was judged, and what it does not show."""
    render(evaluation, console)
    console.print(Text("\nWhat was judged", style="bold"))
    for label, text in words.judged(evaluation):
        paragraph(console, f"{label}: {text}", "", hang=2, styled=len(label))
    for section in sections(evaluation):
        if section.name == "changes":
            console.print(Text(f"\n{section.title}", style="bold"))
            for sentence in section.text:
                paragraph(console, sentence, "")
            for row in (row for part in section.tables for row in part.rows):
                name, before, after = (cell.text for cell in row)
                paragraph(console, f"- {name}: {before}; now {after}", "", hang=2)
    console.print(Text("\nWhat this does not show", style="bold"))
    for what in NOT_EVIDENCE_FOR:
        paragraph(console, f"- {what}", "", hang=2)
    paragraph(console, NOT_A_MEDICAL_DEVICE, "")


def _compared(console: Console, evaluation: Evaluation) -> None:
    """The groups of a gap and the human readers, a small table for each criterion."""
    for section in sections(evaluation):
        if section.name not in ("gaps", "readers"):
            continue
        console.print(Text(f"\n{section.title}", style="bold"))
        for found in section.tables:
            paragraph(console, found.label, "dim")
            # On lines of their own: beside each other they leave no room for the names.
            rows = [[text_for(console, "\n".join((cell.text, *cell.more))) for cell in row] for row in found.rows]
            table(console, found.header, rows)


def _flagged(console: Console, evaluation: Evaluation, names: Mapping[str, str]) -> None:
    """The images with severe NPDR or PDR predicted below referable, by name."""
    if not evaluation.flagged:
        return
    console.print(Text("\nSevere NPDR or PDR predicted below referable", style="bold"))
    named = [
        f"{words.visible(names.get(image, image))} ({what})"
        for what, images in words.flagged(evaluation)
        for image in images
    ]
    for name in named[:FLAGGED_AT_MOST]:
        paragraph(console, f"- {name}", "", hang=2)
    if len(named) > FLAGGED_AT_MOST:
        paragraph(console, f"- and {len(named) - FLAGGED_AT_MOST} more, on page one of report.html", "")


def _checklist(evaluation: Evaluation, console: Console) -> Table:
    """Required criteria, then advisory ones. Units are with the estimate, so that a row fits 100 columns."""
    lines = words.lines(evaluation)
    lattice = box.SIMPLE_HEAD if writes(console, "─") else box.ASCII2
    grid = Table(box=lattice, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    interval = f"{words.level_name(evaluation)} interval"
    columns = ["k/n", "Estimate", interval] if console.width >= _FULL_WIDTH else ["k/n", f"Estimate\n{interval}"]
    grid.add_column("Outcome", no_wrap=True)
    grid.add_column("Criterion", overflow="fold")
    for name in columns:
        grid.add_column(text_for(console, name), justify="right", no_wrap=True)
    grid.add_column("Rule", no_wrap=True)
    for required in (True, False):
        part = [line for line in lines if line.required == required]
        if part and not required:
            grid.add_section()
            grid.add_row("", text_for(console, "Advisory", "bold"))
        for line in part:
            ends = [end.partition("\N{NO-BREAK SPACE}")[0] for end in (line.low, line.high)]
            measured = [line.value, " to ".join(ends) if all(ends) else ""]
            cells = (
                "\n  ".join(filter(None, (line.title, line.all_comers))),
                line.counts.replace(" of ", "/") if " of " in line.counts else "",
                *(measured if console.width >= _FULL_WIDTH else ["\n".join(filter(None, measured))]),
                _SIDES[line.decisive] + line.short_rule,
            )
            grid.add_row(
                text_for(console, f"{line.symbol} {line.outcome}", STYLES[line.status]),
                *(text_for(console, cell) for cell in cells),
            )
    return grid
