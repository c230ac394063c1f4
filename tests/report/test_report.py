"""The report says what the evaluation holds, in every format, whatever the names in it."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from drgate.evaluation import (
    Counts,
    CutOffs,
    Estimate,
    Evaluation,
    Flagged,
    Look,
    Model,
    NotEstimable,
    TestSet,
    Training,
)
from drgate.metrics import parse_id
from drgate.report import words
from drgate.report.evaluation import html, junit, markdown, terminal
from drgate.report.evaluation.figures import figures
from drgate.report.evaluation.sections import sections
from drgate.scale import GRADES
from tests.support.evaluations import criterion, file_entry, index
from tests.support.evaluations import whole_evaluation as evaluation

HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>|`a`**b**[c](http://example.invalid)"
    "[red]d[/red]\n\x00\x1b[31m\ud800\ufffe\u202e @everyone www.example.invalid {{ 7*7 }} &amp; \"' http://example.invalid"
)
FORMATS: dict[str, Callable[[Evaluation], str]] = {
    "html": html.render,
    "markdown": markdown.render,
    "junit": junit.render,
    "terminal": lambda evaluation: on_console(evaluation, width=150),
}
VOID = {"meta", "br", "img", "link", "hr", "input"}


def hostile() -> Evaluation:
    """An evaluation of one who wants to be more than text."""
    return evaluation(HOSTILE, column=HOSTILE.replace("=", ""))


def on_console(evaluation: Evaluation, **settings: Any) -> str:
    """What the terminal report writes to a console with these settings."""
    file = io.StringIO()
    terminal.render(evaluation, Console(file=file, **settings))
    return file.getvalue()


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
            "best_model.pth misses medical-grade version 2 on best_model.pth (split test); it is not shown that" in text
        )
        for line in words.lines(judged):
            assert (line.id if name == "junit" else line.title.split(" graded")[0]) in text
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
        text = FORMATS[name](hostile())
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
            metrics={},
            confusion_matrix=((0,) * 5,) * 5,
            no_output=(0,) * 5,
            data=TestSet("images"),
            counts=Counts("image", 0, 0, (0, 0, 0, 0, 0)),
            model=Model("predictions table", "table.csv", (file_entry("table.csv", b"image\n", "table"),)),
            training=Training(),
            look=Look(1, 1, ""),
            flagged=(),
            page_one=(),
            three_ways={},
            units={},
            gate_error=(),
            reliability={},
        )
        text = FORMATS[name](bare)
        assert "table.csv" in text.replace("\\", "")
        assert "nan" not in text.partition("<script")[0].lower()


class TestWords:
    @given(st.integers(1, 3000), st.data(), st.sampled_from([0.85, 0.90, 0.95, 0.02, 0.05]))
    def test_a_shown_number_lies_on_its_own_side_of_the_threshold(self, n: int, data: st.DataObject, threshold: float):
        """Nobody reads "95.0 %" for a number that misses 95 %, nor "100.0 %" for one that is not all."""
        value = data.draw(st.integers(0, n)) / n
        said = words.percent(value, against=threshold).rstrip("\u00a0%")
        shown = float(said.lstrip("<>\u202f")) / 100
        assert (shown > threshold, shown < threshold) == (value > threshold, value < threshold)
        assert (shown in (0.0, 1.0)) == (value in (0.0, 1.0))
        if said[0] in "<>":  # then it is true, and the threshold is not in between
            assert value > shown >= threshold if said[0] == ">" else value < shown <= threshold

    @pytest.mark.parametrize(
        ("value", "against", "expected"),
        [
            (0.999999, None, "> 99.9 %"),
            (1.0, None, "100.0 %"),
            (1 - 2**-53, None, "100.0 %"),
            (0.000001, None, "< 0.1 %"),
            (0.0, None, "0.0 %"),
            (0.9951, 0.995, "99.51 %"),
            (0.99999, 0.9995, "> 99.99 %"),
            (0.9993, None, "99.9 %"),
        ],
    )
    def test_no_more_digits_than_needed_at_the_ends(self, value: float, against: float | None, expected: str):
        """All but not quite all is "> 99.9 %"; digits are for telling a number from its threshold."""
        assert re.sub(r"\s", " ", words.percent(value, against=against)) == expected

    def test_metrics_at_their_ends(self):
        """An area of 1 is "1.000", a bound short of it "> 0.999"; a bootstrap that only repeats 0 or 1 is none."""
        area = Estimate(
            "index",
            1.0,
            n=100,
            low=0.97,
            high=0.9999999,
            level=0.95,
            method="delong or newcombe, whichever is wider, bca",
        )
        none = Estimate(
            "proportion", 0.0, k=0, n=60, low=0.0, high=0.05, level=0.95, method="wilson", bootstrap=(0.0, 0.0)
        )
        line = words.metric_line(parse_id("auc:pdr"), area, 0.95, "image")
        assert (line.value, line.interval) == ("1.000", "0.970 to >\u202f0.999")
        assert line.method == "DeLong or Newcombe, whichever is wider, BCa"
        assert words.metric_line(parse_id("missed:pdr"), none, 0.95, "image").bootstrap == "–"

    @pytest.mark.parametrize("name", FORMATS)
    def test_headline_is_the_certificates(self, name: str):
        """One sentence for each verdict, in every format; `tests/certificate` has them word for word."""
        for verdict in ("PASS", "OBSERVED", "INSUFFICIENT", "FAIL"):
            judged = evaluation("m.pth", verdict=verdict)
            text = " ".join(FORMATS[name](judged).replace("\\", "").replace("&#34;", '"').split())
            assert " ".join(words.headline(judged).split()) in text

    @pytest.mark.parametrize("name", FORMATS)
    def test_what_nothing_can_pass_is_said_once(self, name: str):
        """At the top, once; a criterion that would pass shows its bound and is not called short of evidence."""
        judged = evaluation("m.pth", verdict="FAIL")
        why = "This is look 2 at a test set that allows 1. Use a fresh test set."
        lines = tuple(
            replace(c, status="INSUFFICIENT", would_pass=True) if c.status == "PASS" else c for c in judged.criteria
        )
        judged = replace(judged, criteria=lines, look=replace(judged.look, number=2, allowed=1), barred=why)
        accuracy = words.lines(judged)[0]
        assert (accuracy.outcome, accuracy.decides) == ("Cannot pass", "lower limit 92.5\u00a0%")
        assert accuracy.id not in [line.id for line in words.unmet(judged)]
        text = " ".join(FORMATS[name](judged).split())
        assert text.count("Use a fresh test set.") == 1
        assert text.index("Nothing can pass on this test set.") < text.rindex("Overall accuracy") or name == "junit"
        assert "cannot pass" in text.lower()
        assert name == "junit" or "2; only 1 allowed" in text

    @pytest.mark.parametrize("name", ["html", "markdown", "terminal"])
    def test_the_line_under_the_headline_gives_the_cause(self, name: str):
        """Required criteria only, by the kind of reason, three named of each kind; nothing where all are met."""
        specificities = [f"specificity:{grade}" for grade in GRADES]
        states: list[tuple[str, Any]] = [("accuracy", "PASS"), *((each, "FAIL") for each in specificities)]
        states += [("sensitivity:pdr", "INSUFFICIENT"), ("quadratic_kappa", "INSUFFICIENT"), ("cost", "NOT_ASSESSED")]
        made = [criterion(each, status) for each, status in states]
        made[-2] = replace(made[-2], estimate=Estimate("index", 0.9, low=0.7, high=0.95))
        made.append(replace(criterion("npv:pdr", "INSUFFICIENT"), would_pass=True))
        made.append(replace(criterion("ppv:pdr", "FAIL"), required=False))
        judged = replace(evaluation(), verdict="FAIL", criteria=tuple(made))
        cause = (
            "5 of 10 required criteria failed: Specificity, No DR (the sensitivity for any DR); "
            "Specificity, Mild NPDR; "
            "Specificity, Moderate NPDR; and 2 more. 1 has too few patients: Sensitivity, PDR. 1 has not enough "
            "evidence: Kappa, quadratic weights. 1 was not assessed: Training cost. 1 cannot pass."
        )
        assert words.cause(judged) == cause
        assert cause in " ".join(FORMATS[name](judged).replace("\\", "").split())
        assert words.cause(replace(evaluation(), criteria=made[:1])) == ""

    @pytest.mark.parametrize("name", ["html", "markdown", "terminal"])
    def test_little_evidence_is_not_read_as_a_bad_model(self, name: str):
        """Once above the reasons, where a reason is about it."""
        sentence = "Not enough evidence does not mean that the model is worse than the rule."
        short = replace(
            evaluation(), verdict="INSUFFICIENT", criteria=(criterion("sensitivity:pdr", "INSUFFICIENT"),) * 2
        )
        assert " ".join(FORMATS[name](short).split()).count(sentence) == 1
        assert sentence not in FORMATS[name](
            replace(evaluation(), verdict="FAIL", criteria=(criterion("accuracy", "FAIL"),))
        )

    def test_the_figure_names_what_cannot_pass(self):
        """Its own mark and name in the legend: not "insufficient" beside an interval wholly above the rule."""
        judged = evaluation()
        lines = tuple(
            replace(c, status="INSUFFICIENT", would_pass=True) if c.id == "accuracy" else c for c in judged.criteria
        )
        (figure,) = (f for f in figures(replace(judged, criteria=lines)) if f.name == "figure-criteria")
        (trace,) = (trace for trace in figure.data if trace["name"] == words.BARRED)
        assert trace["x"] == [94.1]
        assert trace["marker"]["symbol"] == "diamond-open"

    @pytest.mark.parametrize("name", FORMATS)
    def test_operating_point(self, name: str):
        """Grades that are not the most probable ones are said to be so, with the cut-offs."""
        judged = evaluation()
        point = CutOffs("", "probabilities", (0.776, 0.72, 0.5, 1.0), {}, {}, {}, f"sha256:0020d065{'a' * 56}")
        assert "cut-offs" not in FORMATS[name](judged)
        text = " ".join(FORMATS[name](replace(judged, data=replace(judged.data, operating_point=point))).split())
        assert "cut-offs of the operating point sha256:0020d065" in text
        for cut in ("P(≥1) .776", "P(≥2) .72", "P(≥4) 1; not the most probable grade"):
            assert cut in text

    def test_each_digest_says_of_what(self):
        """The file, and the images with their grades; the digest of the answers is among the settings."""
        judged = evaluation("weak.csv")
        for facts in (dict(words.summary(judged)), dict(words.judged(judged))):
            assert "weak.csv (split test)" in facts["Test set"]
            assert "images and grades sha256:abab" in facts["Test set"]
            assert "cdcd" not in str(facts)
            assert str(facts).count("sha256:1212") == 1
            assert str(facts).count("model sha256:efef") == 1, "the same file can be that of another model"
        assert (
            dict(words.judged(judged))["Model"]
            == "checkpoint weak.csv; model sha256:efefefefefef…; file sha256:121212121212…"
        )
        assert "cdcd" in str(words.settings(judged))

    @pytest.mark.parametrize("name", FORMATS)
    def test_observed_is_an_outcome_of_its_own(self, name: str):
        """A criterion that its estimate alone meets is observed, in every format, and no bare "Pass"."""
        judged = evaluation(checklist="medical-grade-observed", verdict="OBSERVED")
        lines = tuple(replace(c, status="OBSERVED") for c in judged.criteria if c.status == "PASS")
        text = FORMATS[name](replace(judged, criteria=lines))
        assert {line.outcome for line in words.lines(replace(judged, criteria=lines))} == {"Observed"}
        assert text.count("Observed") >= len(lines)
        if name == "junit":  # exit code 3 closes, so does a required criterion
            required = sum(line.required for line in lines)
            assert ET.fromstring(text).get("failures") == str(required)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("sensitivity:pdr", "Sensitivity, PDR"),
            ("sensitivity:pdr@camera=A", "Sensitivity, PDR (camera A)"),
            ("ppv:referable^deployment", "Positive predictive value, Referable DR, at the deployment mix"),
            ("undergraded:vision_threatening_below_referable", "Severe NPDR or PDR predicted below referable"),
            ("sensitivity:pdr@camera=A=B@C^D", "Sensitivity, PDR (camera A=B@C^D)"),
            ("ece:referable", "Expected calibration error, Referable DR"),
            ("some_new_metric", "some new metric"),
        ],
    )
    def test_title(self, name: str, expected: str):
        """Ids are for programs; people read words, also of metrics that this version does not know."""
        assert words.title(name) == expected

    def test_deciding_end(self):
        """At least: the lower bound decides. At most: the upper one."""
        decides = {line.id: line.decides for line in words.lines(evaluation())}
        assert decides["sensitivity:pdr"] == "lower limit 83.8\u00a0%"
        assert decides["undergraded:vision_threatening_below_referable"] == "upper limit 7.1\u00a0%"
        assert decides["cost"] == "estimate 12.50\u00a0USD"


def drawn(name: str, judged: Evaluation) -> str:
    """The text of a page or of a Markdown document, as a reader sees it."""
    if name == "html":
        return " ".join(_Page(html.render(judged)).text.split())
    return " ".join(_Page(MarkdownIt("gfm-like", {"linkify": False}).render(markdown.render(judged))).text.split())

    def test_the_level_is_that_of_the_looks_where_nothing_has_an_interval(self):
        """Patients are not named: no estimate has a level, and the sentence is of the level that would decide."""
        bare = replace(criterion("accuracy", "INSUFFICIENT"), estimate=Estimate("proportion", 0.95, k=95, n=100))
        judged = replace(evaluation(), criteria=(bare,), look=Look(1, 3, "2026-01-02T03:04:05Z"))
        assert words.level_name(judged) == "98.3\N{NO-BREAK SPACE}%"

    def test_both_ends_of_a_rule_are_written_alike(self):
        judged = criterion("calibration_intercept:referable", "INSUFFICIENT")
        found = replace(judged, estimate=index(-0.1, -0.3, 0.1), threshold=-0.25, ceiling=0.5)
        (line,) = words.lines(replace(evaluation(), criteria=(found,)))
        assert line.rule == "between −0.25 and 0.5"
        assert line.short_rule == "−0.25 to 0.5"


@pytest.mark.parametrize("name", ["html", "markdown"])
class TestSections:
    def test_everything_that_was_found_is_said(self, name: str):
        """Three ways, slices, deployment mix, units, calibration, the gate's own error and changed grades."""
        text = drawn(name, evaluation()).replace("\u00a0", " ")
        for number in (
            "56 of 64",
            "76.8 to 94.5 %",  # worst case
            "1 of 4",
            "0.6 to 80.6 %",
            "the test set has no image graded Severe NPDR",  # slices
            "504 · 110 · 90 · 90 · 60",
            "In no slice by camera: 3 images",
            "has 4 of the 30 cases",
            "No DR 80 %",
            "84.4 %",
            "82.4 to 85.9 %",  # at the deployment mix
            "By image (judged)",
            "171 of 175",
            "eye is not given for every image",  # units
            "0.034",
            "0.021 if perfectly calibrated",
            "0.870",
            "0.983",
            "0.974 to 0.991",  # calibration and ranking
            "true just below 90 %: passes 2.1 % ± 0.1",
            "at most 2.15 %",
            "largest of 351 simulated designs: python -m benchmarks x",
            "It describes one run.",
            "true 98.5 %: not passed 59.6 %",
            "simulated",  # the gate's own error
            "Images whose reference grade changed: 61, the first 2",
            "not gradable",  # looks
            "No site is given for 168 images",
            "80.0 to 99.0 %",  # a new site
            "p = 0.140",
            "0.0880",
            "−0.4000",  # net benefit
            "0.50 to 50.50 %",  # predictive values over prevalence
        ):
            assert number.lower() in text.lower(), number

    def test_at_this_mix_only(self, name: str):
        """Without a deployment mix nothing is standardised, and the reader is told what that means."""
        judged = evaluation()
        content = {key: value for key, value in judged.spec.content.items() if key != "deployment"}
        text = drawn(name, replace(judged, spec=replace(judged.spec, content=content)))
        assert "at this test set's mix only" in text
        assert "At the deployment mix" not in text

    def test_no_probabilities(self, name: str):
        """A table without probabilities says why there is neither ranking nor calibration."""
        judged = evaluation()
        why = NotEstimable("there are no probabilities to rank by.")
        ranked = ("auc", "brier", "ece", "calibration")
        metrics = {key: why if key.startswith(ranked) else metric for key, metric in judged.metrics.items()}
        text = drawn(name, replace(judged, metrics=metrics, reliability={}))
        assert "Not estimable: there are no probabilities to rank by." in text
        assert "if perfectly calibrated" not in text

    def test_bootstrap_is_named(self, name: str):
        """How replicates became an interval, and whether the class totals were fixed."""
        judged = evaluation()
        bootstrap = {"resamples": 1000, "interval": "bca", "class_totals": "fixed"}
        content = {**judged.spec.content, "bootstrap": bootstrap}
        assert "Bootstrap interval (percentile), for comparison" in drawn(name, judged)
        text = drawn(name, replace(judged, spec=replace(judged.spec, content=content)))
        assert "Bootstrap interval (BCa, class totals fixed), for comparison" in text


class TestWithoutOutput:
    def marks(self, judged: Evaluation) -> dict[str, str]:
        """Per metric the marks of its three cells, "." where there is none."""
        section = next(section for section in sections(judged) if section.name == "three-ways")
        rows = [row for table in section.tables for row in table.rows]
        return {row[0].text: "".join(cell.mark or "." for cell in row[1:]) for row in rows}

    def test_marks_what_the_checklist_uses(self):
        """By default grades leave images without output out and groups refer them; no line, no full mark."""
        assert self.marks(evaluation()) == {
            "Overall accuracy": "●..",
            "Sensitivity, PDR": "●..",
            "Sensitivity, Referable DR": ".●.",
            "Kappa, quadratic weights": "○..",
        }

    def test_follows_the_line(self):
        """A line that counts them as the worst case is marked there, `each` for all grades."""
        judged = evaluation()
        lines = [{"id": "sensitivity:each", "no_output": "worst_case"}, {"id": "accuracy^deployment"}]
        content = {**judged.spec.content, "criteria": lines}
        marks = self.marks(replace(judged, spec=replace(judged.spec, content=content)))
        assert marks["Sensitivity, PDR"] == "..●"
        assert marks["Overall accuracy"] == "○.."


class TestHtml:
    def test_is_well_formed_and_loads_nothing(self):
        """Every element closes in order, no attribute or style points outside the page, and every link is to a part."""
        page = html.render(evaluation())
        parsed = _Page(page)
        assert parsed.tags.count("h1") == 1
        pointing = [value for name, value in parsed.attributes if name in {"src", "href", "action", "srcset", "data"}]
        names = {value for name, value in parsed.attributes if name == "id"}
        assert {link.removeprefix("#") for link in pointing} <= names
        assert "url(" not in page.partition("</style>")[0]

    def test_hostile_names_stay_text(self):
        """Names with markup add no element and no attribute, and read as they are."""
        clean, theirs = _Page(html.render(evaluation())), _Page(html.render(hostile()))
        assert theirs.tags == clean.tags
        assert {name for name, _ in theirs.attributes} == {name for name, _ in clean.attributes}
        assert words.visible(HOSTILE) in theirs.text
        assert "{{ 7*7 }}" in theirs.text

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


class TestFigures:
    def test_slices_show_their_threshold(self):
        """Where lines of the checklist judge the slices, their threshold is drawn and within the axis."""
        judged = evaluation()
        lines = tuple(replace(c, threshold=0.999) if "@" in c.id else c for c in judged.criteria)
        for asked, drawn in (
            (replace(judged, criteria=lines), [99.9, 99.9]),
            (replace(judged, criteria=lines[:8]), []),
        ):
            figure = next(figure for figure in figures(asked) if figure.name == "figure-slices")
            found = [x for trace in figure.data if trace.get("name") == "threshold" for x in trace["x"]]
            assert found == drawn
            low, high = figure.layout["xaxis"]["range"]
            assert all(low < x < high for x in found)

    def test_legend_order(self):
        """Pass, Fail, Not enough evidence, threshold, whichever panel an outcome first stands in."""
        figure = next(figure for figure in figures(evaluation()) if figure.name == "figure-criteria")
        ranks = {trace["name"]: trace["legendrank"] for trace in figure.data}
        assert sorted(ranks, key=ranks.__getitem__) == ["Pass", "Fail", "Not enough evidence", "threshold"]


class TestMarkdown:
    def test_fifty_flagged_images(self):
        """A pull request gets the first fifty by name, worst first, and the number of the rest; the page has all."""
        many = replace(
            evaluation(),
            flagged=tuple(Flagged(f"{n:03}.png", 3 + n % 2, 0) for n in range(130)),
        )
        text = markdown.render(many)
        assert re.findall(r"`(\d{3})\.png`", text) == [f"{n:03}" for n in range(1, 101, 2)]
        assert "PDR predicted as No DR (65)" in text
        assert "And 80 more, in evaluation.json." in text
        assert len(re.findall(r"<li>\d{3}\.png</li>", html.render(many))) == 130

    def test_hostile_names_stay_text(self):
        """Rendered as GitHub does, names make no element, link, image or cell."""
        render = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render
        clean, theirs = (render(markdown.render(judged)) for judged in (evaluation(), hostile()))
        assert _Page(theirs).tags == _Page(clean).tags
        assert {"script", "img", "a"}.isdisjoint(_Page(theirs).tags)
        assert "@everyone" not in re.sub(r"<code>.*?</code>", "", theirs, flags=re.DOTALL)

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
            "sensitivity:pdr@camera=handheld": "NOT_ASSESSED",
        }
        assert [case.get("name") for case in root.iter("testcase")] == [c.id for c in judged.criteria]
        for element in (root, *root.iter("testsuite")):
            assert (element.get("tests"), element.get("failures"), element.get("skipped")) == ("10", "4", "0")

    def test_advisory_lines(self):
        """One that is not met warns on its output; one that was not assessed is skipped."""
        cases = {case.get("name"): case for case in ET.fromstring(junit.render(evaluation())).iter("testcase")}
        assert cases["baseline"].find("skipped") is not None
        below = cases["undergraded:vision_threatening_below_referable"]
        assert below.find("failure") is None
        assert (below.findtext("system-out") or "").startswith("Warning.")

    def test_hostile_names_are_kept(self):
        """Characters that XML cannot hold are written out, the rest is escaped and read back."""
        assert words.visible(HOSTILE) in "".join(ET.fromstring(junit.render(hostile())).itertext())


class TestTerminal:
    def test_plain_in_a_pipe(self):
        """No escape sequence is written where there is no terminal, hostile names or not."""
        assert "\x1b" not in on_console(hostile(), width=100)

    def test_no_color(self):
        """NO_COLOR leaves no colour; the words and symbols still tell the outcome."""
        text = on_console(evaluation(), width=100, force_terminal=True, no_color=True)
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]", text)
        assert all(mark in text for mark in ("✓ Pass", "✗ Fail", "? Not enough evidence", "– Not assessed"))

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


@pytest.mark.parametrize("width", [1280, 760, 420, 390])
def test_page_works_offline_in_a_browser(browser: Any, tmp_path: Path, width: int):
    """Opened as a file, on a desk or a phone, it draws its figures, loads nothing and runs nothing of a name."""
    path = tmp_path / "report.html"
    path.write_text(html.render(hostile()), encoding="utf-8")
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
    assert page.locator("#figure-criteria .errorbar").count() == 6
    assert page.locator("#figure-slices .errorbar").count() == 2
    assert page.locator("#figure-reliability-referable .errorbar").count() == 10
    assert page.locator("#figure-sites-0 .errorbar").count() == 8  # six sites, their mean and a new site
    assert page.locator("#figure-net-benefit .lines .js-line").count() == 3
    assert page.locator("#figure-prevalence-referable .js-fill").count() == 1
    assert page.locator("#figure-training .points .point").count() == 16  # 15 epochs, and the ring around the selected
    assert page.evaluate("document.scrollingElement.scrollWidth") == width
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"


def test_page_one_is_one_sheet_of_paper(browser: Any, tmp_path: Path):
    """Verdict, checklist, what must be read with it, thirty missed images by name and the reasons fit on A4."""
    path = tmp_path / "report.html"
    path.write_text(html.render(evaluation()), encoding="utf-8")
    millimetre = 96 / 25.4
    page = browser.new_page(viewport={"width": int((210 - 28) * millimetre), "height": 900})
    page.emulate_media(media="print")
    page.goto(path.as_uri())
    bottom = page.evaluate("document.querySelector('.page-one').getBoundingClientRect().bottom")
    assert page.locator(".page-one li", has_text="-best_model.pth").count() == 30
    assert bottom <= (297 - 22) * millimetre
