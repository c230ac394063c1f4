"""What the gate found, for a terminal, a pull request's comment, a step summary, annotations and test tabs.

    text = markdown(report)                      # a comment, a step summary
    text = junit(report)                         # one case a criterion and model
    for line in workflow_commands(report): ...         # GitHub's workflow commands

Names come from whoever proposed the change: none of them becomes markup, a command of a log, or another cell.
"""

from __future__ import annotations

import shlex
import xml.etree.ElementTree as ET  # only writes
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from drgate.certificate.statement import NOT_A_MEDICAL_DEVICE
from drgate.report.evaluation.markdown import bullets, code, escape, grid

if TYPE_CHECKING:
    from drgate.gate.gate import Finding, GateReport, Status

SYMBOLS: Final[dict[Status, str]] = {
    "PASS": "✓",
    "WAIVED": "~",
    "OBSERVED": "○",
    "FAIL": "✗",
    "INSUFFICIENT": "?",
    "NOT_ASSESSED": "–",
    "REFUSED": "✗",
}
OUTCOMES: Final[dict[Status, str]] = {
    "PASS": "Pass",
    "WAIVED": "Waived",
    "OBSERVED": "Observed",
    "FAIL": "Fail",
    "INSUFFICIENT": "Not enough evidence",
    "NOT_ASSESSED": "Missing",
    "REFUSED": "Refused",
}
_STYLES: Final[dict[Status, str]] = {
    "PASS": "green",
    "WAIVED": "bold magenta",
    "OBSERVED": "cyan",
    "FAIL": "bold red",
    "INSUFFICIENT": "yellow",
    "NOT_ASSESSED": "yellow",
    "REFUSED": "bold red",
}

SUMMARY_BYTES: Final = 1 << 20
"""What GitHub keeps of a step's summary."""

COMMENT_BYTES: Final = 60_000
"""A comment on a pull request holds 65,536 characters."""

SHOWN_ANNOTATIONS: Final = 10
"""Annotations of one kind that GitHub shows for a step."""

_JOINER: Final = "\N{WORD JOINER}"


def headline(report: GateReport) -> str:
    """The answer with its symbol."""
    return f"{'✓' if report.exit_code == 0 else '✗'} {report.headline}"


def render(report: GateReport, console: Console) -> None:
    """For a person at a terminal: what is not passed in full, the rest counted."""
    style = "bold green" if report.exit_code == 0 else "bold red"
    console.print(Text(headline(report), style=style), soft_wrap=True)
    if report.commit:
        console.print(Text(_decided(report, str), style="dim"), soft_wrap=True)
    for group in _groups(report):
        findings = [finding for finding in report.findings if finding.group == group]
        console.print(Text(f"\n{group}", style="bold"), soft_wrap=True)
        for finding in findings:
            if finding.status == "PASS":
                continue
            line = Text(f"  {_mark(finding)} {finding.check}{_weight(finding)}: ", style=_STYLES[finding.status])
            console.print(line.append(finding.reason, style="default"), soft_wrap=True)
        passed = [finding.check for finding in findings if finding.status == "PASS"]
        if passed:
            console.print(Text(f"  ✓ {', '.join(passed)}", style="green"), soft_wrap=True)
    for note in report.notes:
        console.print(Text(f"\nNote: {note}", style="dim"), soft_wrap=True)
    if advice := how_to_waive(report):
        console.print(Text(f"\nA waiver could cover it: {advice}", style="dim"), soft_wrap=True)


def how_to_waive(report: GateReport) -> str:
    """The command that would waive what can be waived; empty where nothing can."""
    ids = list(dict.fromkeys(finding.id for finding in report.findings if finding.waivable))
    if not ids:
        return ""
    shown = " ".join(map(shlex.quote, ids[:5])) + (" ..." if len(ids) > 5 else "")
    return (
        f"drgate waive {shown} --base-ref {shlex.quote(report.base)} --role ROLE --key KEY --expires YYYY-MM-DD "
        "--reason '...'"
    )


def markdown(report: GateReport, *, limit: int = COMMENT_BYTES) -> str:
    """A comment or a summary, at most `limit` bytes of UTF-8: what closes the gate and what is waived come first."""
    parts = [
        f"## {escape(headline(report))}",
        _decided(report, code) if report.commit else "Nothing could be judged.",
    ]
    loud = [finding for finding in report.findings if finding.status != "PASS"]
    quiet = [finding for finding in report.findings if finding.status == "PASS"]
    rows = [*_rows(loud)]
    if rows:
        parts.append(grid(["Outcome", "Where", "What", "Why"], rows))
    if report.notes:
        parts.append(bullets(map(escape, report.notes)))
    if advice := how_to_waive(report):
        parts.append(f"A waiver could cover it: {code(advice)}")
    parts.append(escape(NOT_A_MEDICAL_DEVICE))
    if quiet:
        folded = grid(["Outcome", "Where", "What", "Why"], [*_rows(quiet)])
        parts.append(f"<details><summary>{len(quiet)} passed</summary>\n\n{folded}\n\n</details>")
    text = "\n\n".join(parts) + "\n"
    if len(text.encode()) <= limit:
        return text
    return _shortened(parts, loud, limit)


def _shortened(parts: list[str], loud: list[Finding], limit: int) -> str:
    """The report without what is passed, and with as many of the other rows as there is room for."""
    closing = "More than fits here; the whole report: drgate gate --format json."
    for rows in (len(loud), 200, 50, 10, 0):
        cut = loud[:rows]
        drawn = [grid(["Outcome", "Where", "What", "Why"], [*_rows(cut, 300)])] if cut else []
        text = "\n\n".join([*parts[:2], *drawn, closing]) + "\n"
        if len(text.encode()) <= limit:
            return text
    return f"{closing}\n" if len(closing) < limit else ""


def junit(report: GateReport) -> str:
    """The whole document: a suite a model, and one for the rules. A waived case is skipped, never passed."""
    root = ET.Element("testsuites", {"name": "drgate gate"})
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for group in _groups(report):
        suite = ET.SubElement(root, "testsuite", {"name": group})
        counts = dict.fromkeys(totals, 0)
        for finding in report.findings:
            if finding.group != group:
                continue
            case = ET.SubElement(suite, "testcase", {"classname": group, "name": finding.check})
            kind = _case(case, finding)
            counts["tests"] += 1
            if kind:
                counts[kind] += 1
        for key, count in counts.items():
            suite.set(key, str(count))
            totals[key] += count
    for key, count in totals.items():
        root.set(key, str(count))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def workflow_commands(report: GateReport) -> Iterator[str]:
    """GitHub's workflow commands, a line each: errors for what closes the gate, warnings for what is waived."""
    errors = [finding for finding in report.findings if finding.closes]
    warnings = [f for f in report.findings if not f.closes and f.status != "PASS"]
    for kind, findings in (("error", errors), ("warning", warnings)):
        # The last of those that GitHub shows says how many it does not.
        shown = findings if len(findings) <= SHOWN_ANNOTATIONS else findings[: SHOWN_ANNOTATIONS - 1]
        for finding in shown:
            title = f"{finding.group}: {finding.check}"
            yield f"::{kind} title={_property(title)}::{_data(f'{_outcome(finding)}. {finding.reason}')}"
        if len(shown) < len(findings):
            yield f"::{kind} title=drgate gate::{len(findings) - len(shown)} more, in the step's summary."


def defanged(text: str, *, json: bool = False) -> str:
    """Text of which a GitHub runner takes no part for a command, wherever a line begins; JSON stays the same JSON."""
    if json:
        return text.replace("##[", "#\\u0023[")
    return text.replace("::", f":{_JOINER}:").replace("##[", f"##{_JOINER}[")


def _data(text: str) -> str:
    return _harmless(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _harmless(text: str) -> str:
    return text.replace("##[", f"##{_JOINER}[")


def _groups(report: GateReport) -> list[str]:
    return list(dict.fromkeys(finding.group for finding in report.findings))


def _decided(report: GateReport, drawn: Callable[[str], str]) -> str:
    """By whose rules, with names as `drawn`."""
    where = f"{drawn(report.base)} ({drawn(report.commit[:12])})"
    if report.adopts:
        return f"Judged by the change's own {drawn(report.policy)}; {where} has none."
    return f"Decided by {drawn(report.policy)} on {where}."


def _outcome(finding: Finding) -> str:
    """In words; what the answer does not rest on is not called missing."""
    advisory = finding.status == "NOT_ASSESSED" and not finding.required
    return "Not assessed" if advisory else OUTCOMES[finding.status]


def _mark(finding: Finding) -> str:
    return f"{SYMBOLS[finding.status]} {_outcome(finding)}:"


def _weight(finding: Finding) -> str:
    return "" if finding.required else " (advisory)"


def _rows(findings: list[Finding], longest: int = 2000) -> Iterator[list[str]]:
    for finding in findings:
        reason = finding.reason if len(finding.reason) <= longest else f"{finding.reason[:longest]}…"
        outcome = f"{SYMBOLS[finding.status]} {_outcome(finding)}{_weight(finding)}"
        yield [outcome, finding.group, finding.check, reason]


def _case(case: ET.Element, finding: Finding) -> str:
    """Fill a test case in; the attribute that counts it, "" where it passed."""
    told = f"{_outcome(finding)}{_weight(finding)}. {finding.reason}"
    if finding.status == "WAIVED":
        ET.SubElement(case, "skipped", {"message": told})
        return "skipped"
    if finding.closes:
        kind = "error" if finding.status == "REFUSED" else "failure"
        ET.SubElement(case, kind, {"type": finding.status, "message": told}).text = told
        return f"{kind}s"
    if finding.status == "NOT_ASSESSED":
        ET.SubElement(case, "skipped", {"message": told})
        return "skipped"
    ET.SubElement(case, "system-out").text = told if finding.status == "PASS" else f"Warning. {told}"
    return ""
