"""One exception tree. Every message is a sentence: what is wrong, in which file and row, what was expected, what to do.

The command line maps each of these to one line on standard error and an exit code; a traceback is never the answer to
bad input.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Final


class ExitCode(IntEnum):
    """Every exit code of every command. A gate treats all but PASSED as closed."""

    PASSED = 0
    FAILED = 1
    """A criterion failed."""
    REFUSED = 2
    """The command could not do its work: bad input or usage, tampered or missing evidence."""
    NOT_SHOWN = 3
    """Not failed, but the evidence is insufficient or missing."""
    INTERRUPTED = 130
    """After Ctrl-C, as shells count it."""
    READER_GONE = 141
    """The reader of standard output has gone (a closed pipe), as shells count it."""


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
"""The exit code of each answer that a command can give: a verdict; a comparison; cut-offs that cannot be found; a
checklist that became weaker; a criterion that no model can pass on a test set; the rule that ended a training run."""


class DrgateError(Exception):
    """The command could not do its work (exit code 2)."""

    exit_code: ClassVar[int] = ExitCode.REFUSED


class UsageError(DrgateError):
    """Arguments that do not go together."""


class RepositoryError(DrgateError):
    """A Git repository that does not give what the gate must read."""


class PolicyError(DrgateError):
    """A policy that is not valid, or that names what cannot be used."""


class ManifestError(DrgateError):
    """A list of images and grades that cannot be used."""


class ImageUnreadable(DrgateError):
    """An image file that does not decode."""


class PredictionsError(DrgateError):
    """A table of predictions that cannot be evaluated."""


class ChecklistError(DrgateError):
    """A checklist that is not valid."""


class CheckpointError(DrgateError):
    """A model file that is damaged, unsafe or of another kind."""


class RecordError(DrgateError):
    """A training record that cannot be read or does not belong to the model."""


class CertificateError(DrgateError):
    """A certificate, key or signature that is not genuine."""


class TrainingError(DrgateError):
    """A training run that cannot start or go on."""


class NotCertified(DrgateError):
    """Refused because the certificate does not say PASS: the exit code is that of the verdict (1 or 3)."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


def visible(text: object) -> str:
    r"""Text in which every character that does not print (control, direction override, lone surrogate) is spelt out.

    >>> visible("eye\x00\n.jpg")
    'eye\\x00\\n.jpg'
    """
    return "".join(
        char if char.isprintable() or char in "\u00a0\u202f" else char.encode("unicode_escape").decode()
        for char in str(text)
    )
