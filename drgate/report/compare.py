"""A comparison of two models for people: at a terminal, and as GitHub-flavoured Markdown.

text = markdown(comparison)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drgate.compare import Comparison, Difference, Outcome
from drgate.evaluation import NotEstimable
from drgate.report import words
from drgate.report.evaluation.markdown import code, escape

LISTED_AT_MOST: Final = 20
"""Discordant images listed in Markdown; the JSON has all of them."""

_STYLES: Final[dict[Outcome, str]] = {"non-inferior": "green", "inferior": "bold red", "not shown": "yellow"}
_HEADER: Final = ("Quantity", "First", "Second", "Difference", "Interval", "Discordant", "Bootstrap", "McNemar mid-p")
_AT_A_TERMINAL: Final = 6
"""Columns that fit a terminal of 100 characters; Markdown and JSON have all."""


def headline(comparison: Comparison) -> str:
    """The outcome as one sentence."""
    margin, level = f"{100 * comparison.margin:g} points", words.plain_percent(comparison.level)
    accuracy, shown = comparison.accuracy, comparison.shown
    ends = " to ".join(
        _beside(100 * end, 100 * comparison.margin) for end in (accuracy.low, accuracy.high) if end is not None
    )
    by = _by(accuracy.low, accuracy.high)
    said = {
        "non-inferior": f"Non-inferior at {margin}: shown"
        + ("" if shown == "no difference" else f" (and {shown}: shown, by {by})"),
        "inferior": f"Less accurate by more than {margin}: shown (by {by})",
        "not shown": f"Neither non-inferiority at {margin} nor a difference in accuracy is shown"
        if shown == "no difference"
        else f"Shown {shown} (by {by}); whether by more than the margin of {margin} is open",
    }[comparison.outcome]
    return (
        f"{said}. Accuracy {words.percent(accuracy.first)} against {words.percent(accuracy.second)}, difference "
        f"{_points(accuracy.value)} points, {level} interval {ends}."
    )


def discordance(comparison: Comparison) -> str:
    """How many images the two models disagree on, and McNemar's tests."""
    accuracy = comparison.accuracy
    who = "patients unknown" if comparison.patients is None else f"{comparison.patients} patients"
    return (
        f"{comparison.images} images, {who}; only the first model is right on {accuracy.only_first}, only the second "
        f"on {accuracy.only_second}. McNemar exact p {_p(accuracy.mcnemar_exact)}, mid-p {_p(accuracy.mcnemar_midp)}. "
        f"Design effect {accuracy.design_effect:.2f}. Differences of proportions are in percentage points."
    )


def terminal(comparison: Comparison, console: Console) -> None:
    """Write the comparison to a console."""
    console.print(Text(words.visible(headline(comparison)), style=_STYLES[comparison.outcome]))
    for which, table in (("First", comparison.first), ("Second", comparison.second)):
        console.print(Text(f"{which}: {_name(table)}", style="dim"))
    console.print(Text(discordance(comparison)))
    grid = Table(box=None, padding=(0, 2, 0, 0))
    for i, title in enumerate(_HEADER[:_AT_A_TERMINAL]):
        grid.add_column(title, justify="right" if i else "left", no_wrap=i > 0)
    for row in _rows(comparison):
        grid.add_row(*(Text(cell) for cell in row[:_AT_A_TERMINAL]))
    console.print(grid)
    for note in comparison.notes:
        console.print(Text(f"- {words.visible(note)}"))


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown; text of the tables cannot become markup."""
    rows = [_HEADER, ["---"] * len(_HEADER), *([escape(cell) for cell in row] for row in _rows(comparison))]
    parts = [
        f"# {escape(headline(comparison))}",
        "\n".join(
            f"- {which}: {code(str(table['origin']))}, {code(str(table['digest']))}"
            for which, table in (("First", comparison.first), ("Second", comparison.second))
        ),
        escape(discordance(comparison)),
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
        "\n".join(f"- {escape(note)}" for note in comparison.notes),
    ]
    if comparison.discordant:
        listed = comparison.discordant[:LISTED_AT_MOST]
        header = ("Image", "Reference grade", "First", "Second")
        body = [
            [code(str(row["image"])).replace("|", "\\|"), *(_said(row[key]) for key in ("grade", "first", "second"))]
            for row in listed
        ]
        parts += [
            f"## Images that one model alone grades right: {len(comparison.discordant)}",
            "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body)),
        ]
        if len(comparison.discordant) > len(listed):
            parts.append(f"And {len(comparison.discordant) - len(listed)} more, in the JSON form.")
    return "\n\n".join(parts) + "\n"


def _rows(comparison: Comparison) -> list[list[str]]:
    return [_row(name, difference) for name, difference in comparison.differences.items()]


def _row(name: str, difference: Difference | NotEstimable) -> list[str]:
    title = words.title(name)
    if isinstance(difference, NotEstimable):
        return [f"{title}: {difference.reason}", *[""] * (len(_HEADER) - 1)]
    kind = difference.kind
    both = [words.percent(v) if kind == "proportion" else f"{v:.3f}" for v in (difference.first, difference.second)]
    beside = "" if difference.bootstrap is None else _ends(*difference.bootstrap, kind)
    pairs = "" if difference.only_first is None else f"{difference.only_first}:{difference.only_second}"
    value = _points(difference.value) if kind == "proportion" else _signed(difference.value, 3)
    return [
        title,
        *both,
        value,
        _ends(difference.low, difference.high, kind),
        pairs,
        beside,
        _p(difference.mcnemar_midp),
    ]


def _ends(low: float | None, high: float | None, kind: str) -> str:
    if low is None or high is None:
        return ""
    return " to ".join(_points(end) if kind == "proportion" else _signed(end, 3) for end in (low, high))


def _by(low: float | None, high: float | None) -> str:
    """By how many points, whichever way, an interval that excludes zero lies."""
    if low is None or high is None:
        return ""
    near, far = sorted((abs(100 * low), abs(100 * high)))
    digits = 1
    while digits < 6 and not float(f"{near:.{digits}f}"):
        digits += 1
    return f"{near:.{digits}f} to {far:.{digits}f} points"


def _points(value: float) -> str:
    """A difference of two proportions in percentage points."""
    return _signed(100 * value, 1)


def _beside(points: float, margin: float) -> str:
    """A bound in points, with as many digits as tell it from the margin."""
    digits = 1
    while digits < 6 and abs(points) != margin and f"{abs(points):.{digits}f}" == f"{margin:.{digits}f}":
        digits += 1
    return _signed(points, digits)


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def _name(table: Mapping[str, Any]) -> str:
    return words.visible(f"{table['origin']} ({str(table['digest']).removeprefix('sha256:')[:8]})")


def _said(grade: object) -> str:
    return "no output" if grade is None else str(grade)
