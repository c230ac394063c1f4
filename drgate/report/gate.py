"""The gate's report for a terminal, a pull request's comment, a step summary, annotations and JUnit viewers.

    text = markdown(report)                      # a comment, a step summary
    text = junit(report)                         # one test case per criterion and model
    for line in workflow_commands(report): ...         # GitHub's workflow commands

Names come from the author of the change, so none of them may become markup, a workflow command or another table cell.
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
    from drgate.gate.findings import Finding, GateReport, Status

_SHOWN: Final[dict[Status, tuple[str, str, str]]] = {
    "PASS": ("✓", "Pass", "green"),
    "WAIVED": ("~", "Waived", "bold magenta"),
    "OBSERVED": ("○", "Observed", "cyan"),
    "FAIL": ("✗", "Fail", "bold red"),
    "INSUFFICIENT": ("?", "Not enough evidence", "yellow"),
    "NOT_ASSESSED": ("–", "Missing", "yellow"),
    "REFUSED": ("✗", "Refused", "bold red"),
}
"""By status: symbol, outcome in words, style."""

SUMMARY_BYTES: Final = 1 << 20
"""The most that GitHub keeps of a step's summary."""

COMMENT_BYTES: Final = 60_000
"""A comment on a pull request holds 65,536 characters."""

SHOWN_ANNOTATIONS: Final = 10
"""The most annotations of one kind that GitHub shows for a step."""

_JOINER: Final = "\N{WORD JOINER}"


def headline(report: GateReport) -> str:
    """The headline with its symbol."""
    return f"{'✓' if report.exit_code == 0 else '✗'} {report.headline}"


def render(report: GateReport, console: Console) -> None:
    """For a terminal: findings that did not pass in full, the others by name."""
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
            line = Text(f"  {_mark(finding)} {_what(finding)}{_weight(finding)}: ", style=_SHOWN[finding.status][2])
            console.print(line.append(finding.reason, style="default"), soft_wrap=True)
        passed = [finding.title or _what(finding) for finding in findings if finding.status == "PASS"]
        if passed:
            console.print(Text(f"  ✓ {'; '.join(passed)}", style="green"), soft_wrap=True)
    for note in report.notes:
        console.print(Text(f"\nNote: {note}", style="dim"), soft_wrap=True)
    if advice := how_to_waive(report):
        console.print(Text(f"\nA waiver could cover it: {advice}", style="dim"), soft_wrap=True)


def how_to_waive(report: GateReport) -> str:
    """The command that waives all findings that can be waived; "" where none can."""
    ids = list(dict.fromkeys(finding.id for finding in report.findings if finding.waivable))
    if not ids:
        return ""
    shown = " ".join(map(shlex.quote, ids[:5])) + (" ..." if len(ids) > 5 else "")
    return (
        f"drgate waive {shown} --base-ref {shlex.quote(report.base)} --role ROLE --key KEY --expires YYYY-MM-DD "
        "--reason '...'"
    )


def markdown(report: GateReport, *, limit: int = COMMENT_BYTES) -> str:
    """A comment or a summary of at most `limit` bytes of UTF-8; findings that did not pass come first."""
    parts = [
        f"## {escape(headline(report))}",
        _decided(report, code) if report.commit else "Nothing could be judged.",
    ]
    loud = [finding for finding in report.findings if finding.status != "PASS"]
    quiet = [finding for finding in report.findings if finding.status == "PASS"]
    if loud:
        parts.append(_grid(loud))
    if report.notes:
        parts.append(bullets(map(escape, report.notes)))
    if advice := how_to_waive(report):
        parts.append(f"A waiver could cover it: {code(advice)}")
    parts.append(escape(NOT_A_MEDICAL_DEVICE))
    if quiet:
        parts.append(f"<details><summary>{len(quiet)} passed</summary>\n\n{_grid(quiet)}\n\n</details>")
    text = "\n\n".join(parts) + "\n"
    if len(text.encode()) <= limit:
        return text
    return _shortened(parts, loud, limit)


def _shortened(parts: list[str], loud: list[Finding], limit: int) -> str:
    """The report without passed findings, and with as many of the others as fit."""
    closing = "The report is too long to show here. For all of it: drgate gate --format json."
    for rows in (len(loud), 200, 50, 10, 0):
        drawn = [_grid(loud[:rows], 300)] if loud[:rows] else []
        text = "\n\n".join([*parts[:2], *drawn, closing]) + "\n"
        if len(text.encode()) <= limit:
            return text
    return f"{closing}\n" if len(closing) < limit else ""


def junit(report: GateReport) -> str:
    """JUnit XML: a suite per model and one for the rules. A waived case is skipped, never passed."""
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
    """GitHub's workflow commands, one per line: errors for what closes the gate, warnings for the rest."""
    errors = [finding for finding in report.findings if finding.closes]
    warnings = [f for f in report.findings if not f.closes and f.status != "PASS"]
    for kind, findings in (("error", errors), ("warning", warnings)):
        # The last annotation that GitHub shows says how many more there are.
        shown = findings if len(findings) <= SHOWN_ANNOTATIONS else findings[: SHOWN_ANNOTATIONS - 1]
        for finding in shown:
            title = f"{finding.group}: {_what(finding)}"
            yield f"::{kind} title={_property(title)}::{_data(f'{_outcome(finding)}. {finding.reason}')}"
        if len(shown) < len(findings):
            yield f"::{kind} title=drgate gate::{len(findings) - len(shown)} more, in the step's summary."


def defanged(text: str, *, json: bool = False) -> str:
    """Text in which a GitHub runner finds no command, wherever a line begins; JSON keeps its meaning."""
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
    """Whose rules decided, with names as `drawn`."""
    where = f"{drawn(report.base)} ({drawn(report.commit[:12])})"
    if report.adopts:
        return f"Judged by the change's own {drawn(report.policy)}, because {where} has no policy."
    return f"Decided by {drawn(report.policy)} on {where}."


def _outcome(finding: Finding) -> str:
    """The outcome in words; an advisory finding is not assessed rather than missing."""
    advisory = finding.status == "NOT_ASSESSED" and not finding.required
    return "Not assessed" if advisory else _SHOWN[finding.status][1]


def _mark(finding: Finding) -> str:
    return f"{_SHOWN[finding.status][0]} {_outcome(finding)}:"


def _what(finding: Finding) -> str:
    """What was checked, in words; with the id of a criterion, which checklists and waivers name."""
    if finding.title:
        return f"{finding.title} ({finding.check})"
    word, on, test_set = finding.check.partition(" on ")
    return f"{_WORDS.get(word, word)}{on}{test_set}"


_WORDS: Final = {
    "unguarded": "file without a rule",
    "identity": "which file it is",
    "tampering": "changed since it was signed",
    "predictions": "numbers recomputed from the predictions",
    "scored": "who ran the model",
    "parent": "model that it was exported from",
    "folder": "place of the file",
}
"""Checks whose names say little to somebody who does not know the policy."""


def _weight(finding: Finding) -> str:
    if finding.allowed:
        return " (allowed by the policy)"
    return "" if finding.required else " (advisory)"


def _grid(findings: list[Finding], longest: int = 2000) -> str:
    rows = []
    for finding in findings:
        reason = finding.reason if len(finding.reason) <= longest else f"{finding.reason[:longest]}…"
        outcome = f"{_SHOWN[finding.status][0]} {_outcome(finding)}{_weight(finding)}"
        rows.append([outcome, finding.group, _what(finding), reason])
    return grid(["Outcome", "Where", "What", "Why"], rows)


def _case(case: ET.Element, finding: Finding) -> str:
    """Fill in a test case. Returns the total that counts it, "" where it passed."""
    message = f"{_outcome(finding)}{_weight(finding)}. {finding.reason}"
    if finding.status == "WAIVED":
        ET.SubElement(case, "skipped", {"message": message})
        return "skipped"
    if finding.closes:
        kind = "error" if finding.status == "REFUSED" else "failure"
        ET.SubElement(case, kind, {"type": finding.status, "message": message}).text = message
        return f"{kind}s"
    if finding.status == "NOT_ASSESSED":
        ET.SubElement(case, "skipped", {"message": message})
        return "skipped"
    ET.SubElement(case, "system-out").text = message if finding.status == "PASS" else f"Warning. {message}"
    return ""
