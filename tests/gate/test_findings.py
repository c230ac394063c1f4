"""Findings as they are shown: hostile names, JUnit, annotations, summaries."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from drgate.gate.findings import RULES, Finding, GateReport
from drgate.report import gate as drawn
from tests.support.repositories import (
    HOSTILE,
    Repository,
    answer,
    answers,
    said,
)


def test_a_criterion_is_named_in_words_and_by_its_id(repository):
    """A clinician reads what it is; a waiver needs the id."""
    repository.add_model("dr.pth", b"worse", table=answers(2, right=0.4))
    report = answer(repository)
    screen = StringIO()
    drawn.render(report, Console(file=screen, width=200))
    for text in (screen.getvalue(), drawn.markdown(report)):
        assert "Sensitivity, PDR (sensitivity:pdr" in text.replace("\\", "")
    repository.write("models/notes.txt", "no model")
    assert "file without a rule" in drawn.markdown(answer(repository))


class TestHostileNames:
    """File names with newlines, quotes, `::error`, Markdown and HTML in them."""

    @pytest.fixture
    def report(self, repository: Repository) -> GateReport:
        repository.write(HOSTILE, b"weights")
        report = answer(repository)
        assert report.exit_code == 3
        return report

    def test_reach_no_log_as_a_command(self, report):
        """Workflow commands are one line each, and only ours."""
        lines = list(drawn.workflow_commands(report))
        assert len(lines) == len([f for f in report.findings if f.status != "PASS"])
        for line in lines:
            assert "\n" not in line
            assert "##[" not in line
            assert re.fullmatch(r"::(error|warning) title=[^:,]*::.*", line), line

    def test_reach_no_terminal(self, report):
        """What does not print is spelt out."""
        assert "a\\n::error" in report.models[0]
        assert "\n" not in said(report).replace("\n", "", said(report).count("\n"))

    def test_are_no_markup(self, report):
        """Neither HTML, nor a code span, nor another cell, nor a mention."""
        text = drawn.markdown(report)
        assert "<img" not in text.replace("\\<img", "")
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
        assert not any(line.lstrip().startswith("::") for line in text.splitlines())

    def test_are_well_formed_xml(self, report):
        """And come back as they are shown."""
        suites = {suite.get("name") for suite in ET.fromstring(drawn.junit(report)).iter("testsuite")}
        assert suites == {RULES, *report.models}

    def test_are_a_model_like_any_other(self, repository):
        """A certified model may have any name."""
        repository.write(HOSTILE, b"weights of the first model")
        assert answer(repository).exit_code == 0

    def test_that_are_not_utf_8(self, repository):
        """Git allows any bytes."""
        (Path(os.fsdecode(os.fsencode(repository.root) + b"/models/\xff.pth"))).write_bytes(b"weights")
        report = answer(repository)
        assert "models/\\udcff.pth" in report.models
        json.dumps(report.to_json(), ensure_ascii=False).encode()


class TestShown:
    """What CI shows."""

    def failed(self, findings: int) -> GateReport:
        found = tuple(
            Finding(f"models/{i}.pth", f"id{i}", "accuracy", "FAIL", "r" * 1000, now=f"sha256:{'0' * 64}")
            for i in range(findings)
        )
        return GateReport("main", "0" * 40, "drgate.toml", "sha256:", found, ())

    def test_junit_is_one_case_a_criterion_and_model(self, repository):
        """With totals that add up."""
        repository.add_model("other.pth", b"other weights", table=answers(2))
        report = answer(repository)
        root = ET.fromstring(drawn.junit(report))
        names = {(s.get("name"), c.get("name")) for s in root for c in s}
        assert {("models/dr.pth", "accuracy"), ("models/other.pth", "accuracy")} <= names
        assert int(root.get("tests", "")) == len(report.findings)
        assert root.get("failures") == root.get("errors") == "0"

    def test_what_is_advisory_is_not_called_missing(self):
        """Nothing rests on it, whether the gate is open or closed."""
        line = Finding("models/a.pth", "id", "baseline", "NOT_ASSESSED", "no table was given.", required=False)
        page = drawn.markdown(GateReport("main", "0" * 40, "drgate.toml", "sha256:", (line,), ()))
        assert "Not assessed (advisory)" in page
        assert "Missing" not in page

    def test_junit_tells_failed_from_refused(self, repository):
        """A failure, and an error."""
        repository.write("elsewhere/other.onnx", b"weights")
        repository.replace("drgate.toml", "= 365", "= 366")
        root = ET.fromstring(drawn.junit(answer(repository)))
        assert (root.get("failures"), root.get("errors")) == ("1", "1")

    def test_at_most_ten_annotations_of_a_kind(self):
        """The tenth says how many more there are."""
        lines = list(drawn.workflow_commands(self.failed(25)))
        assert len(lines) == 10
        assert "16 more" in lines[-1]
        assert len(list(drawn.workflow_commands(self.failed(10)))) == 10

    @pytest.mark.parametrize("limit", [1 << 20, 60_000, 5_000, 500, 10, 0, -5])
    def test_summary_fits(self, limit):
        """Whatever there is to say."""
        text = drawn.markdown(self.failed(1100), limit=limit)
        assert len(text.encode()) <= max(0, limit)
        if limit >= 500:
            assert "The gate is closed" in text
            assert "The report is too long to show here" in text
