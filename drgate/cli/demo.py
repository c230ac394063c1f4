"""`drgate demo`: all steps from training to export in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import QuietOption

HELP = """Run all steps once on synthetic photographs: train, refuse an early model, certify the best one, export it.

The demo runs the public commands in one new folder and shows each command before it runs. It downloads nothing.
Exit code: that of the last model's verdict (0 when it passed).

\b
Examples:
  drgate demo
  drgate demo --data-only --out synthetic       only the images and their labels
"""


def command(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to create.")] = Path("drgate-demo"),
    data_only: Annotated[bool, typer.Option("--data-only", help="Only write the synthetic data set.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of the data and of the training.")] = 0,
    quiet: QuietOption = False,
) -> int:
    from drgate.demo.story import demo, make_data

    if data_only:
        make_data(out, seed=seed, quiet=quiet)
        return 0
    return demo(out, seed=seed, quiet=quiet)
