"""`drgate demo`: the whole way in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import QuietOption

HELP = """The whole way once, on synthetic photographs: train, refuse an early model, certify the best one, export it.

Everything happens in one folder and by the public commands, each shown as one would type it. Nothing is downloaded.
Exit code: that of the last model's verdict (0 when it passed).

\b
Examples:
  drgate demo
  drgate demo --data-only --out synthetic       only the images and their labels
"""


def register(app: typer.Typer) -> None:
    app.command("demo", help=HELP, short_help="The whole way once, on synthetic photographs.")(command)


def command(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder.")] = Path("drgate-demo"),
    data_only: Annotated[bool, typer.Option("--data-only", help="Write the synthetic data set and stop.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the data and of the training.")] = 0,
    quiet: QuietOption = False,
) -> int:
    from drgate.demo.story import demo, make_data

    if data_only:
        make_data(out, seed=seed, quiet=quiet)
        return 0
    return demo(out, seed=seed, quiet=quiet)
