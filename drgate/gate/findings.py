"""Findings: what the gate looked at, what it found, and its report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from drgate.errors import DrgateError, ExitCode, visible

Status = Literal["PASS", "WAIVED", "OBSERVED", "FAIL", "INSUFFICIENT", "NOT_ASSESSED", "REFUSED"]

RULES: Final = "rules"
"""The group of findings about the rules themselves, not about a model."""

ADOPTION: Final = "policy:adoption"
"""The finding that the base branch has no policy."""

NOT_JUDGED: Final = "gate"
"""The finding that nothing could be judged."""

_SEVERITY: Final[dict[Status, int]] = {
    "PASS": 0,
    "WAIVED": 0,
    "NOT_ASSESSED": 1,
    "INSUFFICIENT": 1,
    "OBSERVED": 1,
    "FAIL": 2,
    "REFUSED": 3,
}
_EXIT_CODES: Final = (ExitCode.PASSED, ExitCode.NOT_SHOWN, ExitCode.FAILED, ExitCode.REFUSED)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    group: the path of a model, or `RULES`. id: how a waiver names the finding. check: what was checked, in a word or
    two; for a criterion its id. status: PASS; WAIVED (it does not pass, and a waiver covers it; never shown as passed);
    OBSERVED (decided on estimates); FAIL; INSUFFICIENT; NOT_ASSESSED (evidence is missing); REFUSED (something is not
    what it claims to be).
    required: whether the finding can close the gate. allowed: the policy lets it through although it does not pass
    (its key `allow`). title: of a criterion, in words. was, now: the digests that a waiver must name; both "" where no
    waiver is possible.
    """

    group: str
    id: str
    check: str
    status: Status
    reason: str
    required: bool = True
    was: str = ""
    now: str = ""
    allowed: bool = False
    title: str = ""

    @property
    def waivable(self) -> bool:
        """Whether a waiver could cover it."""
        return self.closes and bool(self.was or self.now)

    @property
    def closes(self) -> bool:
        """Whether it closes the gate."""
        return self.required and not self.allowed and _SEVERITY[self.status] > 0

    def printable(self) -> Finding:
        """The same finding with unprintable characters escaped: names come from the author of the change."""
        return replace(
            self,
            group=visible(self.group),
            id=visible(self.id),
            check=visible(self.check),
            reason=visible(self.reason),
            title=visible(self.title),
        )

    def to_json(self) -> dict[str, Any]:
        plain = {key: getattr(self, key) for key in ("group", "id", "check", "status", "required", "reason")}
        plain |= {"allowed": True} if self.allowed else {}
        return plain | ({"waivable": {"was": self.was, "now": self.now}} if self.waivable else {})


@dataclass(frozen=True, slots=True)
class GateReport:
    """The answer of the gate.

    base: the ref whose rules decided. commit: its commit. policy: the path of the policy. rules_digest: digest of the
    policy with all that it names. They are "" where nothing could be judged. findings: rules first, then model by
    model. notes: information that decides nothing.
    """

    base: str
    commit: str
    policy: str
    rules_digest: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 open; 1 something failed; 3 nothing failed, but evidence is missing or insufficient; 2 refused."""
        return _EXIT_CODES[worst(self.findings)]

    @property
    def models(self) -> tuple[str, ...]:
        """The groups that are models, in order."""
        return tuple(dict.fromkeys(finding.group for finding in self.findings if finding.group != RULES))

    @property
    def adopts(self) -> bool:
        """Whether the base branch has no policy, so that the change was judged by its own."""
        return any(finding.id == ADOPTION for finding in self.findings)

    @property
    def headline(self) -> str:
        """The answer in one sentence."""
        closing = [finding for finding in self.findings if finding.closes]
        waived = sum(finding.status == "WAIVED" for finding in self.findings)
        of = f"{len(self.models)} model{'' if len(self.models) == 1 else 's'}"
        if not closing:
            allowed = sum(finding.allowed for finding in self.findings)
            without = f", {allowed} allowed without a pass" if allowed else ""
            return f"The gate is open: {of}, {waived or 'nothing'} waived{without}."
        first = closing[0]
        if first.id == NOT_JUDGED:
            return "The gate is closed: the change could not be judged."
        more = f", and {len(closing) - 1} more" if len(closing) > 1 else ""
        return f"The gate is closed: {first.group}, {first.check}{more}."

    def to_json(self) -> dict[str, Any]:
        return {
            "open": self.exit_code == 0,
            "headline": self.headline,
            **{key: getattr(self, key) for key in ("base", "commit", "policy", "rules_digest")},
            "findings": [finding.to_json() for finding in self.findings],
            "notes": list(self.notes),
        }


def refused(base_ref: str, problem: DrgateError) -> GateReport:
    """The report where nothing could be judged: closed, with the reason."""
    found = Finding(RULES, NOT_JUDGED, "gate", "REFUSED", visible(problem))
    return GateReport(base=visible(base_ref), commit="", policy="", rules_digest="", findings=(found,), notes=())


def worst(findings: Iterable[Finding]) -> int:
    """The highest severity among findings that close the gate, 0 (none does) to 3 (refused)."""
    return max((_SEVERITY[finding.status] for finding in findings if finding.closes), default=0)
