"""The command line: one thin module a command. A command parses, calls one verb, emits; heavy imports lie inside."""

from __future__ import annotations

import gc


def main(arguments: list[str] | None = None) -> None:
    """Run `drgate` and exit with its code (0 passed, 1 failed, 3 not enough evidence, 2 could not do its work)."""
    gc.set_threshold(100_000, 50, 50)  # imports, half of the time of a short command, leave nothing to collect
    from drgate.cli.app import build, run

    run(build(), "drgate", arguments)
