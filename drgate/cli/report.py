"""`drgate report`: draw the report of an evaluation again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import Format, FormatOption

HELP = """Draw the report of an evaluation again, from evaluation.json, statement.json or certificate.json.

\b
Example:
  drgate report reports/release-3/evaluation.json --as html --out report.html
"""


class Kind(StrEnum):
    terminal = "terminal"
    html = "html"
    markdown = "markdown"
    junit = "junit"


def register(app: typer.Typer) -> None:
    app.command("report", help=HELP)(command)


def command(
    evaluation: Annotated[Path, typer.Argument(metavar="EVALUATION")],
    kind: Annotated[Kind, typer.Option("--as", help="What to draw.")] = Kind.terminal,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write. [standard output]")] = None,
    format: FormatOption = Format.human,
) -> int:
    import sys

    from drgate.cli.options import emit
    from drgate.files import write_atomically
    from drgate.judge import read_evaluation
    from drgate.report import html, junit, markdown, terminal

    found, signature = read_evaluation(evaluation)
    if kind is Kind.terminal or format is Format.json:
        emit(found.to_json(), lambda screen: terminal.render(found, screen), format)
        return 0
    text = {
        Kind.html: lambda: html.render(found, certificate=signature),
        Kind.markdown: lambda: markdown.render(found, certificate=signature),
        Kind.junit: lambda: junit.render(found),
    }[kind]()
    if out is None:
        sys.stdout.write(text)
    else:
        write_atomically(out, text.encode())
    return 0
