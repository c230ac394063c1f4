"""The report says what the evaluation holds, in every format, whatever the names in it."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from drgate.evaluation import CriterionResult, Estimate, Evaluation, NotEstimable
from drgate.report import html, junit, markdown, terminal, words
from drgate.spec import load_spec

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>|`a`**b**[c](http://example.invalid)"
    "[red]d[/red]\n\x00\x1b[31m\ud800\ufffe\u202e @everyone www.example.invalid {{ 7*7 }} &amp; \"' http://example.invalid"
)
FORMATS: dict[str, Callable[[Evaluation], str]] = {
    "html": html.render,
    "markdown": markdown.render,
    "junit": junit.render,
    "terminal": lambda evaluation: on_console(evaluation, width=100),
}
VOID = {"meta", "br", "img", "link", "hr", "input"}


def on_console(evaluation: Evaluation, **settings: Any) -> str:
    """What the terminal report writes to a console with these settings."""
    file = io.StringIO()
    terminal.render(evaluation, Console(file=file, **settings))
    return file.getvalue()


def proportion(k: int, n: int, low: float, high: float) -> Estimate:
    return Estimate(
        "proportion", k / n, k=k, n=n, low=low, high=high, level=0.95, method="clopper-pearson",
        clusters=n // 2, design_effect=1.31, bootstrap=(low + 0.001, high - 0.001), bootstrap_undefined=0,
    )  # fmt: skip


def criterion(name: str, status: str, comparator: str, threshold: float, estimate: Any, **more: Any) -> CriterionResult:
    settings = {"decided_on": "bound", "required": True, "added": "", "reason": f"Because of {name}."} | more
    return CriterionResult(name, status, comparator, threshold, estimate=estimate, **settings)  # type: ignore[arg-type]


def evaluation(name: str = "best_model.pth", *, verdict: str = "FAIL", spec: str = "medical-grade") -> Evaluation:
    """An evaluation with each outcome, required and advisory; `name` stands wherever a user's text can."""
    checklist = load_spec(spec)
    criteria = (
        criterion("accuracy", "PASS", ">=", 0.90, proportion(941, 1000, 0.9246, 0.9548)),
        criterion("sensitivity:severe_npdr", "INSUFFICIENT", ">=", 0.90, proportion(93, 100, 0.8611, 0.9714)),
        criterion("sensitivity:pdr", "FAIL", ">=", 0.95, proportion(56, 60, 0.8380, 0.9815), reason=f"Missed. {name}"),
        criterion("specificity:no_dr", "PASS", ">", 0.90, proportion(395, 400, 0.9711, 0.9959)),
        criterion("stability", "PASS", "<", 0.05, Estimate("range", 0.0312, n=10), decided_on="point"),
        criterion("baseline", "NOT_ASSESSED", ">", -0.02, NotEstimable("no table was given."), required=False),
        criterion("cost", "PASS", "<", 100.0, Estimate("amount", 12.5, n=3), decided_on="point"),
        criterion(
            "undergraded:vision_threatening_below_referable", "FAIL", "<=", 0.02, proportion(5, 160, 0.0102, 0.0714),
            required=False, added="safety",
        ),
    )  # fmt: skip
    metrics = {c.id: c.estimate for c in criteria}
    metrics |= {
        "quadratic_kappa": Estimate("index", 0.943, n=1000, low=0.931, high=0.952, level=0.95, method="bootstrap")
    }
    metrics |= {"auc:referable": NotEstimable(f"the table has no probabilities. {name}")}
    return Evaluation(
        verdict=verdict,  # type: ignore[arg-type]
        criteria=criteria,
        metrics=metrics,
        confusion_matrix=((585, 8, 7, 0, 0), (4, 108, 8, 0, 0), (0, 6, 112, 2, 0), (2, 1, 3, 93, 1), (1, 1, 1, 1, 56)),
        no_output=(3, 0, 0, 0, 4),
        spec={"name": checklist.name, "version": 1, "digest": checklist.digest, "content": checklist.content()},
        data={
            "name": name, "split": "test", "images": 1007, "patients": 612, "unit": "image", "units": 1007,
            "by_grade": [603, 120, 120, 100, 64], "reference_ungradable": 9, "warnings": [name],
            "manifest_digest": "sha256:" + "ab" * 32, "predictions_digest": "sha256:" + "cd" * 32,
        },
        model={
            "kind": "checkpoint", "name": name, "tensor_digest": "sha256:" + "ef" * 32,
            "files": [{"name": name, "sha256": "12" * 32, "md5": "34" * 16, "size": 3812331}], name: {name: [name]},
        },
        training={
            "history": [{"epoch": epoch, "val_accuracy": 0.9 - 0.3 / epoch} for epoch in range(1, 16)],
            "selected_epoch": 9,
            "stability": {"window": 10, "range": 0.0312, "first_epoch": 6, "last_epoch": 15},
            "spend": {"usd": 12.5},
        },
        look={"number": 1, "allowed": 1, "time": "2026-02-03T04:05:06Z"},
        flagged=tuple({"image": f"{number:03}-{name}", "grade": 4, "predicted": 1} for number in range(30)),
        page_one=("Leakage between training and test data: not checked.", name),
        software={"drgate": "0.1.0", "numpy": "2.4.1"},
    )  # fmt: skip


class _Page(HTMLParser):
    """Elements, attributes and text of a page; elements must close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data


class TestEveryFormat:
    @pytest.mark.parametrize("name", FORMATS)
    def test_holds_the_whole_checklist(self, name: str):
        """Verdict, every criterion with counts and threshold, every reason that is no PASS, every page-one sentence."""
        judged = evaluation()
        text = " ".join(FORMATS[name](judged).replace("\\", "").split())
        assert (
            "best_model.pth does not meet checklist medical-grade version 1 on test set best_model.pth (split test)"
            in text
        )
        for line in words.lines(judged):
            assert (line.id if name == "junit" else line.title.split(" called")[0]) in text
            assert line.counts in text or line.counts.replace(" of ", "/") in text or line.counts.endswith("s")
            if line.status != "PASS":
                assert line.reason in text
        for number in ("94.1 %", "93.0 %", "93.3 %", "98.8 %", "3.1 points", "12.50 USD"):
            assert number in text
        assert judged.page_one[0] in text

    @pytest.mark.parametrize("name", FORMATS)
    def test_same_evaluation_gives_same_bytes(self, name: str):
        """A report can be compared and signed over."""
        assert FORMATS[name](evaluation()) == FORMATS[name](evaluation())

    @pytest.mark.parametrize("name", FORMATS)
    def test_is_text_that_can_be_written(self, name: str):
        """No lone surrogate and no control character survives, whatever the names."""
        text = FORMATS[name](evaluation(HOSTILE))
        text.encode("utf-8")
        text = text.partition("<script")[0] + text.rpartition("</script>")[2]  # the plotting library is not ours
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ufffe]", text)

    @pytest.mark.parametrize("name", FORMATS)
    def test_empty_evidence_is_no_crash(self, name: str):
        """A foreign table with nothing known about it: no history, no patients, no files, no estimates."""
        bare = evaluation()
        nothing = NotEstimable("the test set has no image of this grade.")
        bare = replace(
            bare,
            criteria=tuple(replace(c, status="NOT_ASSESSED", estimate=nothing) for c in bare.criteria),
            metrics={}, confusion_matrix=((0,) * 5,) * 5, no_output=(0,) * 5, data={"images": 0, "patients": None},
            model={"kind": "predictions table", "name": "table.csv", "files": []},
            training={}, look={}, flagged=(), page_one=(),
        )  # fmt: skip
        text = FORMATS[name](bare)
        assert "table.csv" in text.replace("\\", "")
        assert "nan" not in text.partition("<script")[0].lower()


class TestWords:
    @given(st.integers(1, 3000), st.data(), st.sampled_from([0.85, 0.90, 0.95, 0.02, 0.05]))
    def test_a_shown_number_lies_on_its_own_side_of_the_threshold(self, n: int, data: st.DataObject, threshold: float):
        """Nobody reads "95.0 %" for a number that misses 95 %, nor "100.0 %" for one that is not all."""
        value = data.draw(st.integers(0, n)) / n
        shown = float(words.percent(value, against=threshold).rstrip("\u00a0%")) / 100
        for mark in (threshold, 0.0, 1.0):
            assert (shown > mark, shown < mark) == (value > mark, value < mark)

    @pytest.mark.parametrize(
        ("verdict", "spec", "expected"),
        [
            ("PASS", "medical-grade", "m.pth meets {} on test set m.pth (split test), with 1 warning."),
            ("FAIL", "medical-grade", "m.pth does not meet {} on test set m.pth (split test)."),
            (
                "INSUFFICIENT",
                "medical-grade",
                "Not enough evidence that m.pth meets {} on test set m.pth (split test).",
            ),
            (
                "PASS",
                "medical-grade-observed",
                "m.pth is observed to meet {} on test set m.pth (split test), with 1 warning.",
            ),
        ],
    )
    def test_headline(self, verdict: str, spec: str, expected: str):
        """The verdict in words; "observed" where point estimates decide."""
        said = words.headline(evaluation("m.pth", verdict=verdict, spec=spec))
        assert said == expected.format(f"checklist {spec} version 1")

    def test_observed_stands_wherever_a_line_passes(self):
        """A checklist on point estimates shows nothing, so no line says a bare "Pass"."""
        lines = words.lines(evaluation(spec="medical-grade-observed"))
        assert {line.outcome for line in lines if line.status == "PASS"} == {"Pass, observed"}

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("sensitivity:pdr", "Sensitivity, PDR"),
            ("sensitivity:pdr@camera=A", "Sensitivity, PDR (camera A)"),
            ("ppv:referable^deployment", "Positive predictive value, Referable DR, at the deployment mix"),
            ("undergraded:vision_threatening_below_referable", "Severe NPDR or PDR called below referable"),
            ("some_new_metric", "some new metric"),
        ],
    )
    def test_title(self, name: str, expected: str):
        """Ids are for programs; people read words, also of metrics that this version does not know."""
        assert words.title(name) == expected

    def test_deciding_end(self):
        """At least: the lower bound decides. At most: the upper one."""
        decides = {line.id: line.decides for line in words.lines(evaluation())}
        assert decides["sensitivity:pdr"] == "lower bound 83.8\u00a0%"
        assert decides["undergraded:vision_threatening_below_referable"] == "upper bound 7.1\u00a0%"
        assert decides["cost"] == "estimate 12.50\u00a0USD"


class TestHtml:
    def test_is_well_formed_and_loads_nothing(self):
        """Every element closes in order, and no attribute or style points outside the page."""
        page = html.render(evaluation())
        parsed = _Page(page)
        assert parsed.tags.count("h1") == 1
        pointing = [value for name, value in parsed.attributes if name in {"src", "href", "action", "srcset", "data"}]
        assert pointing == ["#checklist"]
        assert "url(" not in page.partition("</style>")[0]

    def test_hostile_names_stay_text(self):
        """Names with markup add no element and no attribute, and read as they are."""
        clean, hostile = _Page(html.render(evaluation())), _Page(html.render(evaluation(HOSTILE)))
        assert hostile.tags == clean.tags
        assert {name for name, _ in hostile.attributes} == {name for name, _ in clean.attributes}
        assert words.visible(HOSTILE) in hostile.text
        assert "{{ 7*7 }}" in hostile.text

    def test_all_flagged_images_and_cells(self):
        """Each flagged image and each count of the confusion matrix is on the page."""
        text = _Page(html.render(evaluation())).text
        assert all(f"{number:03}-best_model.pth" in text for number in range(30))
        assert all(str(count) in text for row in evaluation().confusion_matrix for count in row)

    def test_certificate(self):
        """Signed and unsigned pages say which they are."""
        assert "Unsigned" in html.render(evaluation())
        assert "Signed: certificate.json, key 1f0c" in html.render(
            evaluation(), certificate="certificate.json, key 1f0c"
        )


class TestMarkdown:
    def test_hostile_names_stay_text(self):
        """Rendered as GitHub does, names make no element, link, image or cell."""
        render = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render
        clean, hostile = (render(markdown.render(evaluation(name))) for name in ("best_model.pth", HOSTILE))
        assert _Page(hostile).tags == _Page(clean).tags
        assert {"script", "img", "a"}.isdisjoint(_Page(hostile).tags)
        assert "@everyone" not in re.sub(r"<code>.*?</code>", "", hostile, flags=re.DOTALL)

    @pytest.mark.parametrize(
        "text", ["- a", "1. a", "1) a", "# a", "---", "===", "+ a", "> a", "```", "    a", "| a |", "$a$"]
    )
    def test_sentences_begin_nothing(self, text: str):
        """A sentence in a list item is a paragraph of its own characters."""
        shown = MarkdownIt("gfm-like", {"linkify": False}).render(f"- {markdown.escape(text)}")
        assert _Page(shown).tags == ["ul", "li"]
        assert _Page(shown).text.strip() == text.strip()

    @given(st.text(alphabet="`a |\\", min_size=1))
    def test_code_spans_keep_their_text(self, text: str):
        """Whatever backticks a name holds, its code span holds the name."""
        shown = MarkdownIt().renderInline(markdown.code(text))
        assert shown.startswith("<code>")
        assert shown.endswith("</code>")
        assert shown.removeprefix("<code>").removesuffix("</code>").strip() == text.strip()


class TestJunit:
    def test_failures_are_the_required_lines_that_do_not_pass(self):
        """Insufficient evidence and missing evidence fail a required line too; advisory lines never fail."""
        judged = evaluation()
        judged = replace(judged, criteria=tuple(replace(c, required=c.added == "") for c in judged.criteria))
        root = ET.fromstring(junit.render(judged))
        failed = {case.get("name"): case.find("failure") for case in root.iter("testcase")}
        types = {name: failure.get("type") for name, failure in failed.items() if failure is not None}
        assert types == {
            "sensitivity:severe_npdr": "INSUFFICIENT",
            "sensitivity:pdr": "FAIL",
            "baseline": "NOT_ASSESSED",
        }
        assert [case.get("name") for case in root.iter("testcase")] == [c.id for c in judged.criteria]
        for element in (root, *root.iter("testsuite")):
            assert (element.get("tests"), element.get("failures"), element.get("skipped")) == ("8", "3", "0")

    def test_advisory_lines(self):
        """One that is not met warns on its output; one that was not assessed is skipped."""
        cases = {case.get("name"): case for case in ET.fromstring(junit.render(evaluation())).iter("testcase")}
        assert cases["baseline"].find("skipped") is not None
        below = cases["undergraded:vision_threatening_below_referable"]
        assert below.find("failure") is None
        assert (below.findtext("system-out") or "").startswith("Warning.")

    def test_hostile_names_are_kept(self):
        """Characters that XML cannot hold are written out, the rest is escaped and read back."""
        assert words.visible(HOSTILE) in "".join(ET.fromstring(junit.render(evaluation(HOSTILE))).itertext())


class TestTerminal:
    def test_plain_in_a_pipe(self):
        """No escape sequence is written where there is no terminal, hostile names or not."""
        assert "\x1b" not in on_console(evaluation(HOSTILE), width=100)

    def test_no_color(self):
        """NO_COLOR leaves no colour; the words and symbols still tell the outcome."""
        text = on_console(evaluation(), width=100, force_terminal=True, no_color=True)
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]", text)
        assert all(mark in text for mark in ("✓ Pass", "✗ Fail", "? Insufficient", "– Not assessed"))

    @pytest.mark.parametrize("width", [60, 80, 100, 160])
    def test_fits(self, width: int):
        """No line is wider than the console."""
        assert max(map(len, on_console(evaluation(), width=width).splitlines())) <= width

    def test_console_without_unicode(self):
        """A console that knows ASCII only gets letters that it can write."""
        file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        terminal.render(evaluation(), Console(file=file, width=100))
        file.flush()
        assert b"x Fail" in file.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a network."""
    if not CHROMIUM.exists():
        pytest.skip(
            f"there is no {CHROMIUM}; the page is tested in a browser where it is installed (apt install chromium)"
        )
    api = pytest.importorskip("playwright.sync_api")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield chromium
        chromium.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_page_works_offline_in_a_browser(browser: Any, tmp_path: Path, width: int):
    """Opened as a file, on a desk or a phone, it draws its figures, loads nothing and runs nothing of a name."""
    path = tmp_path / "report.html"
    path.write_text(html.render(evaluation(HOSTILE)), encoding="utf-8")
    page = browser.new_context(offline=True, viewport={"width": width, "height": 900}).new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("#figure-criteria .main-svg")
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert complaints == []
    assert page.evaluate("window.hacked") is None
    assert page.locator("h1").is_visible()
    assert page.locator("#figure-criteria .errorbar").count() == 5
    assert page.locator("#figure-training .points .point").count() == 16  # 15 epochs, and the ring around the selected
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the checklist"
