"""The command line: one short module per command. A command parses its arguments, calls one function and prints.

Packages that are slow to import are imported inside the commands that need them.
"""

from __future__ import annotations

import gc
import sys


def main(arguments: list[str] | None = None) -> None:
    """Run `drgate` and exit with its code (0 passed, 1 failed, 2 could not do its work, 3 not enough evidence)."""
    gc.set_threshold(100_000, 50, 50)  # imports take half the time of a short command and leave no garbage
    from drgate.cli.app import build, run

    words = sys.argv[1:] if arguments is None else arguments
    run(build(next((word for word in words if not word.startswith("-")), None)), "drgate", arguments)
