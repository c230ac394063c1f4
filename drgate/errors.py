"""All exceptions and exit codes. A message states what is wrong (file, row), what was expected and what to do.

The command line prints an exception as one line on standard error and ends with its exit code. Bad input never ends in
a traceback.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, ClassVar, Final

from drgate import limits


class ExitCode(IntEnum):
    """The exit codes of all commands. The gate is open only at PASSED."""

    PASSED = 0
    FAILED = 1
    """A criterion failed."""
    REFUSED = 2
    """The command could not do its work: bad input or usage, tampered or missing evidence."""
    NOT_SHOWN = 3
    """Not failed, but the evidence is insufficient or missing."""
    INTERRUPTED = 130
    """Ctrl-C was pressed (128 + signal 2, as in shells)."""
    READER_GONE = 141
    """Standard output was closed, as by `| head` (128 + signal 13, as in shells)."""


ANSWERS: Final = {
    "PASS": ExitCode.PASSED,
    "OBSERVED": ExitCode.NOT_SHOWN,
    "FAIL": ExitCode.FAILED,
    "INSUFFICIENT": ExitCode.NOT_SHOWN,
    "non-inferior": ExitCode.PASSED,
    "inferior": ExitCode.FAILED,
    "not shown": ExitCode.NOT_SHOWN,
    "infeasible": ExitCode.FAILED,
    "weaker": ExitCode.FAILED,
    "never": ExitCode.FAILED,
    "decision": ExitCode.FAILED,
    "regression": ExitCode.FAILED,
    "budget": ExitCode.NOT_SHOWN,
    "project_budget": ExitCode.NOT_SHOWN,
}
"""The exit code of each result of a command: a verdict; a comparison; no cut-offs found; a checklist that became
weaker; a criterion that no model can pass on a test set; the rule that ended a training run."""


class DrgateError(Exception):
    """The command could not do its work (exit code 2)."""

    exit_code: ClassVar[int] = ExitCode.REFUSED


class UsageError(DrgateError):
    """The arguments of a command are not valid or contradict each other."""


class RepositoryError(DrgateError):
    """The gate cannot read what it needs from the Git repository."""


class PolicyError(DrgateError):
    """A policy is not valid, or refers to something that cannot be used."""


class ManifestError(DrgateError):
    """A manifest (list of images and grades) cannot be used."""


class ImageUnreadable(DrgateError):
    """An image file cannot be decoded."""


class PredictionsError(DrgateError):
    """A table of predictions cannot be evaluated."""


class ChecklistError(DrgateError):
    """A checklist is not valid."""


class CheckpointError(DrgateError):
    """A model file is damaged, unsafe or of another kind."""


class RecordError(DrgateError):
    """A training record cannot be read or does not belong to the model."""


class CertificateError(DrgateError):
    """A certificate, key or signature is not valid."""


class TrainingError(DrgateError):
    """A training run cannot start or continue."""


class LeakFound(DrgateError):
    """Test images or patients were in training (exit code 1). found: the audit that shows it."""

    exit_code: ClassVar[int] = ExitCode.FAILED

    def __init__(self, message: str, found: Any) -> None:
        super().__init__(message)
        self.found = found


class NotCertified(DrgateError):
    """The certificate's verdict is not PASS. The exit code is that of the verdict (1 or 3)."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


@contextmanager
def unchained() -> Iterator[None]:
    """A DrgateError leaves the block without the exceptions before it: texts of libraries repeat cells and bytes.

    `raise ... from None` hides them from a traceback and keeps them in `__context__`.
    """
    try:
        yield
    except DrgateError as problem:
        problem.__cause__ = problem.__context__ = None
        raise


def install(extra: str) -> str:
    """What to do where an extra is not installed. The name drgate is ours on no package index, so: from a clone.

    >>> install("mlflow")
    'Install it from a clone of drgate: pip install -c constraints.txt ".[mlflow]"'
    """
    return f'Install it from a clone of drgate: pip install -c constraints.txt ".[{extra}]"'


def visible(text: object) -> str:
    r"""Text with every non-printing character (control, direction override, lone surrogate) escaped.

    >>> visible("eye\x00\n.jpg")
    'eye\\x00\\n.jpg'
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(
        char if char.isprintable() or char in "\u00a0\u202f" else char.encode("unicode_escape").decode()
        for char in plain
    )


def brief(value: object) -> str:
    """A value as a message repeats it: long text and long lists are cut.

    >>> len(brief("a" * 500)), brief([1] * 500)
    (80, '[1, 1, 1, 1, 1, 1, ...]')
    """
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = limits.SHOWN
    return short.repr(value)
