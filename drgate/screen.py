"""What goes to a terminal: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from drgate import limits
from drgate.errors import visible

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def silenced(*names: str, level: int = logging.CRITICAL + 1) -> Iterator[None]:
    """Without warnings, and without what the loggers of these libraries say below `level`."""
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in names:
            logging.getLogger(name).setLevel(before[name])


class Format(StrEnum):
    human = "human"
    json = "json"


def emit(plain: Any, human: Callable[[Console], None], format: Format, quiet: bool = False) -> None:
    """Write a result to standard output: as JSON, or for people unless quiet."""
    if format is Format.json:
        sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    elif not quiet:
        human(console(sys.stdout))


def tell(sentence: str, quiet: bool) -> None:
    """Print one line of progress on standard error, with control characters escaped, unless quiet."""
    if not quiet:
        console(sys.stderr).print(visible(sentence), markup=False, highlight=False, soft_wrap=True)


def console(stream: Any) -> Console:
    """A console that respects NO_COLOR and is 100 columns wide where the stream is not a terminal."""
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else 100)


class Progress(NamedTuple):
    """Callbacks of long work: `started` with the total, `advance` with each further part that is done."""

    started: Callable[[int], None]
    advance: Callable[[int], None]


SILENT: Final = Progress(lambda total: None, lambda done: None)


_bar: Any = None
"""The bar on the terminal, which has one line for each work."""


@contextmanager
def progress(what: str, quiet: bool) -> Iterator[Progress]:
    """A progress bar on standard error where that is a terminal; within another one's block, a line of that one."""
    global _bar
    if _bar is not None:
        bar, task = _bar, _bar.add_task(what, total=None)
        try:
            yield Progress(lambda total: bar.update(task, total=total), lambda done: bar.advance(task, done))
        finally:
            bar.remove_task(task)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console(sys.stderr),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    )
    with bar:
        _bar = bar
        try:
            with progress(what, quiet) as callbacks:
                yield callbacks
        finally:
            _bar = None


def complain(name: str, message: str) -> None:
    """Print one line on standard error, with control characters escaped (file names may contain them), cut if long."""
    cut = message if len(message) <= limits.MESSAGE else f"{message[: limits.MESSAGE]}..."
    sys.stderr.write(f"{name}: {visible(cut)}\n")
