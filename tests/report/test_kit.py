"""All pages have one frame, and all reports write to any console."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import pytest
from rich.console import Console

from drgate.certificate.sign import certify
from drgate.checklist import load_checklist
from drgate.compare import Comparison
from drgate.history import History, read_history
from drgate.plan import parse_prevalence, plan
from drgate.predictions import load_predictions
from drgate.report import compare as compare_page
from drgate.report import history as history_page
from drgate.report import kit
from drgate.report import plan as plan_page
from drgate.report.evaluation import html
from tests.support.comparing import compare
from tests.support.evaluations import whole_evaluation

PLAN: Final = plan(
    load_checklist("medical-grade"),
    prevalence=parse_prevalence("no_dr=0.7,mild_npdr=0.1,moderate_npdr=0.12,severe_npdr=0.05,pdr=0.03"),
)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    """One statement that nobody signed."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "statement.json").write_bytes(certify(whole_evaluation(), None)[0])
    return read_history(folder)


@pytest.fixture(params=["evaluation", "plan", "history"])
def page(request: pytest.FixtureRequest, history: History) -> Callable[[], str]:
    """Writes one of the pages."""
    return {
        "evaluation": lambda: html.render(whole_evaluation()),
        "plan": lambda: plan_page.html(PLAN),
        "history": lambda: history_page.html(history),
    }[request.param]


class _Landmarks(HTMLParser):
    """Names of the landmarks of a page: of sections, regions, navigation, header, main part and footer."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.headings: dict[str, str] = {}
        self._heading = ""
        self.feed(page)
        self.names = [(role, self.headings.get(name, name)) for role, name in self.found]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        role = given.get("role") or {"section": "region", "nav": "navigation"}.get(tag, tag)
        if role in {"region", "navigation", "header", "main", "footer"}:
            self.found.append((role, given.get("aria-labelledby") or given.get("aria-label", "")))
        self._heading = given.get("id", "") if tag == "h2" else ""

    def handle_data(self, data: str) -> None:
        if self._heading:
            self.headings.setdefault(self._heading, data.strip())


class TestEveryPage:
    def test_landmarks_have_names_of_their_own(self, page: Callable[[], str]):
        """A screen reader lists the landmarks: no two of one kind have the same name."""
        names = _Landmarks(page()).names
        assert len(names) > 5
        assert len(set(names)) == len(names)

    def test_same_frame(self, page: Callable[[], str]):
        """The same policy, colours and script; the footer says what drgate is not; plotly is there once."""
        text = page()
        assert text == page()
        assert text.startswith("<!doctype html>")
        head = text.partition("</head>")[0]
        assert "default-src 'none'" in head
        assert all(f"--{status}: {colour};" in head for status, colour in kit.COLOURS.items())
        assert "which is not a medical device" in text.rpartition("<footer>")[2]
        assert text.count("plotly.js v") == 1

    def test_same_figures(self, page: Callable[[], str]):
        """One font and one ink in all figures; each has its element, and a label for those who do not see it."""
        text = page()
        found = re.search(r'id="drawings">(.*?)</script>', text)
        assert found is not None
        drawings: list[dict[str, Any]] = json.loads(found[1])
        assert drawings
        assert all(one["layout"]["font"] == kit.layout(1)["font"] for one in drawings)
        for one in drawings:
            assert re.search(rf'id="{one["name"]}" [^>]*role="img" aria-label="[^"]{{20,}}"', text)


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """Of two tables whose names no console expects."""
    tables = []
    for name, wrong in (("α.csv", 1), ("b\n.csv", 0)):
        rows = [f"{n}.png,{n % 5},{(n + (n < wrong)) % 5}" for n in range(50)]
        (tmp_path / name).write_text("\n".join(["image,grade,predicted", *rows]))
        tables.append(load_predictions(tmp_path / name))
    return compare(*tables)


class TestConsole:
    def test_without_unicode(self, history: History, comparison: Comparison):
        """A console that knows ASCII only gets letters that it can write, and lines that fit."""
        file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        console = Console(file=file, width=110)
        plan_page.terminal(PLAN, console)
        history_page.render(history, console)
        compare_page.terminal(comparison, console)
        file.flush()
        text = file.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
        assert max(map(len, text.splitlines())) <= 110
        assert ">= 90 %" in text
        assert "x Fail" in text
        assert "-2.0" in text

    def test_text_that_does_not_print_is_spelt_out(self, comparison: Comparison):
        """A name cannot begin a line of its own."""
        file = io.StringIO()
        compare_page.terminal(comparison, Console(file=file, width=300))
        assert r"b\n.csv (" in file.getvalue()
