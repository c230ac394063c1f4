"""`drgate plan`: how many patients of each grade a checklist needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import (
    ColumnsOption,
    DataOption,
    FormatOption,
    QuietOption,
    ScoresOption,
    SplitOption,
    column_map,
)
from drgate.screen import Format, emit, tell

HELP = """Plan a test set: how many patients of each grade a checklist needs, and with what power.

With --data, also shows which criteria the given test set is too small to show, however good the model. Exit code 0
planned, 1 a required criterion can never pass on the given test set, 2 the command could not do its work.

\b
Examples:
  drgate plan medical-grade --expect severe_npdr=0.96,pdr=0.985
  drgate plan --data labels.csv --prevalence no_dr=.7,mild_npdr=.1,moderate_npdr=.14,severe_npdr=.04,pdr=.02
"""


def command(
    spec: Annotated[
        str, typer.Argument(metavar="[CHECKLIST]", help="Checklist: a name from `drgate spec list`, or a YAML file.")
    ] = "medical-grade",
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect", metavar="NAME=VALUE,...", help="Expected true values of metrics. [from the checklist]"
        ),
    ] = None,
    prevalence: Annotated[
        str | None,
        typer.Option(
            "--prevalence",
            metavar="GRADE=SHARE,...",
            help="Share of patients with each grade, by the worse eye. [deployment mix of the checklist]",
        ),
    ] = None,
    power: Annotated[
        float | None, typer.Option("--power", help="Power wanted for each criterion. [from the checklist]")
    ] = None,
    two_images: Annotated[
        float | None, typer.Option("--two-images", help="Share of patients with two images. [from the checklist]")
    ] = None,
    correlation: Annotated[
        float | None,
        typer.Option(
            "--correlation", help="Correlation of errors between two images of one patient. [from the checklist]"
        ),
    ] = None,
    data: DataOption = None,
    split: SplitOption = "test",
    columns: ColumnsOption = None,
    scores: ScoresOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also write an HTML page with power curves.")
    ] = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.checklist import load_checklist
    from drgate.errors import UsageError
    from drgate.files import refuse_existing, write_atomically
    from drgate.given import folder_in, table_in
    from drgate.plan import load_planned, parse_expect, parse_prevalence, plan, with_planning
    from drgate.report import plan as plan_page

    if out is not None:
        if out.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"--out is {out}; the page is HTML, so give a name that ends in .html.")
        refuse_existing(out, "choose another name with --out")
    asked = with_planning(
        load_checklist(spec),
        expect=None if expect is None else parse_expect(expect),
        power=power,
        two_images=two_images,
        correlation=correlation,
    )
    test_set = None
    if data is not None:
        mapping = column_map(columns, scores)
        test_set = load_planned(table_in(data) if folder_in(data) else data, split=split, columns=mapping)
    found = plan(
        asked,
        prevalence=None if prevalence is None else parse_prevalence(prevalence),
        data=test_set,
    )
    if out is not None:
        write_atomically(out, plan_page.html(found).encode())
    emit(found.to_json(), lambda console: plan_page.terminal(found, console), format, quiet)
    if out is not None:
        tell(f"Page: {out}.", quiet)
    return found.exit_code
