"""`drgate report`: create the report of an evaluation again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import FormatOption
from drgate.screen import Format

HELP = """Create the report of an evaluation again, from evaluation.json, statement.json or certificate.json.

The report of a certificate is made from the signed bytes. With --key PUB it is made only if that key signed them. A
terminal shows your own names of the images where names.csv is beside the file; reports that are written never do.

\b
Examples:
  drgate report certificate.json --key keys/clinical.pub --as html --out page.html
  drgate report reports/release-3 --as html --out report.html
"""


class Kind(StrEnum):
    terminal = "terminal"
    html = "html"
    markdown = "markdown"
    junit = "junit"


def command(
    evaluation: Annotated[
        Path,
        typer.Argument(
            metavar="EVALUATION", help="evaluation.json, statement.json or certificate.json, or the folder."
        ),
    ],
    kind: Annotated[Kind, typer.Option("--as", help="Form of the report.")] = Kind.terminal,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write. [standard output]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file given with --out.")] = False,
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", metavar="PUB", help="Public key that must have signed; may be repeated."),
    ] = None,
    format: FormatOption = Format.human,
) -> int:
    import sys

    from drgate.certificate.keys import load_public_key
    from drgate.errors import UsageError
    from drgate.files import refuse_existing, write_atomically
    from drgate.given import folder_in
    from drgate.judge import own_names, read_evaluation
    from drgate.report.evaluation import html, junit, markdown, terminal
    from drgate.screen import emit

    if kind is not Kind.terminal and format is Format.json:
        raise UsageError(f"--format json prints the evaluation and --as {kind} a report of it; give one of them.")
    if out is not None and kind is Kind.terminal:
        raise UsageError("--out writes a report to a file, which needs its form: add --as html, markdown or junit.")
    if out is not None and not force:
        refuse_existing(out, "choose another name with --out, or --force to replace it")
    found, signature = read_evaluation(evaluation, [load_public_key(path) for path in key or ()])
    if kind is Kind.terminal:
        names = own_names(folder_in(evaluation) or evaluation.parent)
        emit(found.to_json(), lambda screen: terminal.render(found, screen, names), format)
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
