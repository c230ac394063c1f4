"""The page of an audit has the numbers of audit.json, and works offline at any width, whatever the texts in it."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from drgate.audit.pictures import Pair
from drgate.audit.result import CHECKS, Audit, Check, Finding, OwnNames
from drgate.report import audit as page
from drgate.scale import GRADES

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>\x1b[31m\u202e [red]d[/red]"


def found() -> Audit:
    """Every status, findings of each shape, and numbers with intervals in both spellings."""
    side = {"images": 20, "unreadable": 1, "digest": None}
    settings = {
        "test": {**side, "name": HOSTILE, "split": "test"},
        "train": {"images": 40, "unreadable": 0, "sets": [{"name": "eyes", "images": 40, "digest": None}]},
        "checkpoint": {"tensor_digest": None, "fingerprint": True},
    }
    copies = [
        Finding(test=f"{i:016x}", train=f"{i + 90:016x}", distance=10 + i, orientation="rot90", value=0.9 - i / 100)
        for i in range(60)
    ]
    shares = {
        f"{key}:{grade}{end}": 0.1 * (i + 1)
        for i, grade in enumerate(GRADES)
        for key, ends in (("share", ("", "_low", "_high")), ("train", ("",)), ("deployment", ("",)))
        for end in ends
    }
    answers = {
        "lineage": Check("lineage", "not_assessed", reason=HOSTILE),
        "patients": Check.of("patients", [Finding(test="a" * 16)], status="suspected", compared={"test": 1234}),
        "near_duplicates": Check.of("near_duplicates", copies, compared={"test": 20, "train": 40}),
        "label_conflicts": Check.of(
            "label_conflicts", [Finding(test="b" * 16, other="b" * 16, what=HOSTILE), Finding(train="c", other="d")]
        ),
        "shortcuts": Check.of(
            "shortcuts",
            [Finding(what="Referable DR by sharpness", value=0.8125, low=0.75, high=0.875)],
            status="suspected",
            numbers={"PDR by all": 0.5, "PDR by all: low": 0.25, "PDR by all: high": 0.75},
        ),
        "case_mix": Check("case_mix", "clean", numbers=shares),
    }
    return Audit(settings, {}, tuple(answers.get(name, Check(name, "clean")) for name in CHECKS))


@pytest.mark.parametrize("width", [1200, 360])
def test_it_works_offline_in_a_browser(browser: Any, tmp_path: Path, width: int):
    """No error, no request, no sideways scrolling; the tables have the numbers of the audit, and texts stay texts."""
    audit = found()
    file = tmp_path / "audit.html"
    file.write_text(page.html(audit))
    opened = browser.new_context(offline=True, viewport={"width": width, "height": 900}).new_page()
    problems: list[str] = []
    opened.on("console", lambda message: problems.append(message.text))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda request: None if request.url == file.as_uri() else problems.append(request.url))
    opened.goto(file.as_uri())
    assert problems == []
    assert opened.evaluate("window.hacked") is None
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    boxes = opened.eval_on_selector_all(".scroll", "boxes => boxes.map(box => [box.scrollWidth, box.clientWidth])")
    assert boxes, "tables of findings"
    assert all(inner <= outer for inner, outer in boxes), "every column is seen without scrolling"
    rows = opened.eval_on_selector_all(
        ".checks tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    )
    counted = {page.ABOUT[one.id].title: f"{one.count:,}" if one.count else "–" for one in audit.checks}
    assert {title: count for title, _, count in rows} == counted
    cells = opened.eval_on_selector_all(
        "#near_duplicates tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    )
    expected = [
        [one.test, one.train, "turned by 90°", str(one.distance), f"{one.value:g}"]
        for one in audit.check("near_duplicates").findings
    ]
    assert cells == expected
    assert "The first 50 of 60 are listed." in opened.inner_text("#near_duplicates")
    for name in ("near_duplicates", "shortcuts", "case_mix"):
        assert opened.locator(f"#figure-{name} svg").count() >= 1, name
    drawn = opened.evaluate("document.getElementById('figure-shortcuts').data[0].x")
    assert sorted(drawn) == [0.5, 0.8125]


def test_what_was_found_comes_first():
    """Found, suspected, not assessed, to look at, clean; at the terminal with the caller's own names."""
    audit = found()
    console = Console(file=(file := io.StringIO()), width=100)
    page.terminal(audit, console, OwnNames({f"{0:016x}": "a.jpg = b.jpg", "b" * 16: "c.jpg"}, {f"{90:016x}": "t.jpg"}))
    told = file.getvalue()
    titles = ["Found", "Suspected", "Not assessed", "To look at", "Clean"]
    assert [line for line in told.splitlines() if line in titles] == titles
    assert "- a.jpg = b.jpg and training t.jpg: turned by 90°, 10 of 256 bits apart, likeness 0.9" in told
    assert "- and 50 more" in told
    assert "- c.jpg: </script>" in told, "a pair of one name is named once"
    assert "\x1b" not in told
    assert [group.title for group in page.groups(audit)] == titles


def test_one_headline_for_each_exit_code():
    """Not clean, not shown to be clean, nothing found; what else is to be looked at stands beside each, and only
    where there is nothing is the evidence called clean."""
    clean = tuple(Check(name, "clean") for name in CHECKS)
    assert page.headline(Audit({}, {}, clean)) == "The evidence is clean, as far as these checks can tell."
    missing = Audit({"test": {"unreadable": 2}}, {}, clean)
    assert "(2 photographs cannot be read)" in page.headline(missing)
    first = "The evidence is not clean: near duplicates, label conflicts."
    assert page.headline(found()) == f"{first} To look at: shortcuts."
    look = tuple(Check(name, "suspected" if name in ("shortcuts", "quality") else "clean") for name in CHECKS)
    audit = Audit({}, {}, look)
    said = "No leak and no label conflict was found. To look at: shortcuts, quality."
    assert (page.headline(audit), audit.exit_code) == (said, 0)
    assert '<div class="verdict OBSERVED">' in page.html(audit)
    assert '<div class="verdict PASS">' in page.html(Audit({}, {}, clean))
    page.terminal(audit, Console(file=(file := io.StringIO()), width=100))
    assert file.getvalue().splitlines()[0] == said
    assert f"<h1>{said}</h1>" in page.html(audit)


def test_numbers_of_the_method_are_on_the_page_in_words():
    """Nobody reads "within 72" at a terminal; the page says what it is."""
    numbers = {"same_from": 0.6, "views": 13.0, "within": 72.0, "within_views": 68.0}
    audit = Audit({}, {}, (Check.of("near_duplicates", [Finding(test="a", train="b")], numbers=numbers),))
    page.terminal(audit, Console(file=(file := io.StringIO()), width=100))
    assert "72" not in file.getvalue()
    text = page.html(audit)
    assert "<dt>Bits of 256 up to which a pair is compared by its pixels</dt><dd>72</dd>" in text
    assert "within" not in re.sub(r"<style>.*?</style>|<script.*?</script>", "", text, flags=re.S)


def test_pictures_are_pictures():
    """A pair side by side; where the other photograph is not at hand, it says so."""
    audit = found()
    finding = audit.check("near_duplicates").findings[0]
    pairs = [Pair("near_duplicates", finding, b"one", b"two"), Pair("near_duplicates", finding, b"one", None)]
    text = page.pictures(audit, pairs, OwnNames({finding.test: HOSTILE}, {}))
    assert re.findall(r'src="data:image/jpeg;base64,(\w+=*)"', text) == ["b25l", "dHdv", "b25l"]
    assert text.count("not at hand") == 1
    assert "<img src=x" not in text
