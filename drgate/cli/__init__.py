"""The command line: one thin module a command. A command parses, calls one verb, emits; heavy imports lie inside."""

from __future__ import annotations


def main(arguments: list[str] | None = None) -> None:
    """Run `drgate` and exit with its code (0 passed, 1 failed, 3 not enough evidence, 2 could not do its work)."""
    from drgate.cli.app import build, run

    run(build(), "drgate", arguments)
