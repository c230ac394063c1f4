"""A comparison of two models for people: at a terminal, and as GitHub-flavoured Markdown.

text = markdown(comparison)
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from rich.console import Console

from drgate.checklist import level_words
from drgate.compare import REFERRED, Comparison, Difference, Outcome
from drgate.evaluation import NotEstimable
from drgate.report import kit, words
from drgate.report.evaluation.markdown import bullets, code, escape, grid

LISTED_AT_MOST: Final = 20
"""Discordant images listed in Markdown; the JSON has all of them."""

EACH_AT_MOST: Final = 5
"""Quantities without a difference for one reason that are named; the JSON has all of them."""

_STYLES: Final[dict[Outcome, str]] = {"non-inferior": "green", "inferior": "bold red", "not shown": "yellow"}
_HEADER: Final = ("Quantity", "A", "B", "Difference", "Interval", "Discordant", "Bootstrap", "McNemar mid-p")
_RIGHT: Final = "Right on whether to refer"
_AT_A_TERMINAL: Final = 6
"""Columns that fit a terminal of 100 characters; Markdown and JSON have all."""


def headline(comparison: Comparison) -> str:
    """The outcome as one sentence."""
    margin, level = f"{100 * comparison.margin:g} points", level_words(comparison.level)
    accuracy, what, how = comparison.accuracy, "Accuracy", "accurate"
    if comparison.rests_on == REFERRED:
        what, how = _RIGHT, "often right on whether to refer"
    ends = " to ".join(
        _beside(100 * end, 100 * comparison.margin) for end in (accuracy.low, accuracy.high) if end is not None
    )
    by = _by(accuracy.low, accuracy.high)
    differs = comparison.shown != "no difference"
    shown = comparison.shown.replace("accurate", how)
    answer = {
        "non-inferior": f"Model A is shown to be non-inferior at a margin of {margin}"
        + (f", and {shown} by {by}" if differs else ""),
        "inferior": f"Model A is shown to be less {how} by more than {margin} (by {by})",
        "not shown": f"Model A is shown to be {shown} (by {by}), but not whether by more than {margin}"
        if differs
        else f"Neither non-inferiority at a margin of {margin} nor that one model is more {how} is shown"
        if comparison.rests_on == REFERRED
        else f"Neither non-inferiority at a margin of {margin} nor a difference in accuracy is shown",
    }[comparison.outcome]
    return (
        f"{answer}. {what} {words.percent(accuracy.first)} against {words.percent(accuracy.second)}, difference "
        f"{_points(accuracy.value)} points, {f'{level} interval {ends}' if ends else 'no interval'}."
    )


def discordance(comparison: Comparison) -> str:
    """How many images the two models disagree on, and McNemar's tests."""
    accuracy = comparison.accuracy
    who = "patients unknown" if comparison.patients is None else f"{comparison.patients} patients"
    design = "" if accuracy.design_effect is None else f" Design effect {accuracy.design_effect:.2f}."
    return (
        f"{comparison.images} images, {who}; only A is correct on {accuracy.only_first}, only "
        f"B on {accuracy.only_second}. McNemar exact p {_p(accuracy.mcnemar_exact)}, mid-p "
        f"{_p(accuracy.mcnemar_midp)}.{design} Differences of proportions are in "
        "percentage points."
    )


def terminal(comparison: Comparison, console: Console) -> None:
    """Write the comparison to a console."""
    kit.paragraph(console, headline(comparison), _STYLES[comparison.outcome])
    for which, table in (("A", comparison.first), ("B", comparison.second)):
        digest = str(table["digest"]).removeprefix("sha256:")[:8]
        kit.paragraph(console, f"{which}: {table['origin']} ({digest})", "dim")
    kit.paragraph(console, discordance(comparison))
    kit.table(console, _HEADER[:_AT_A_TERMINAL], [row[:_AT_A_TERMINAL] for row in _rows(comparison)])
    for note in comparison.notes:
        kit.paragraph(console, f"- {note}", hang=2)


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown; text of the tables cannot become markup."""
    parts = [
        f"# {escape(headline(comparison))}",
        bullets(
            f"{which}: {code(str(table['origin']))}, {code(str(table['digest']))}"
            for which, table in (("A", comparison.first), ("B", comparison.second))
        ),
        escape(discordance(comparison)),
        grid(_HEADER, _rows(comparison)),
        bullets(map(escape, comparison.notes)),
    ]
    if comparison.discordant:
        listed = comparison.discordant[:LISTED_AT_MOST]
        body = [[str(row["image"]), *(_grade(row[key]) for key in ("grade", "first", "second"))] for row in listed]
        parts += [
            f"## Images that only one model grades correctly: {len(comparison.discordant)}",
            grid(("Image", "Reference", "A", "B"), body),
        ]
        if len(comparison.discordant) > len(listed):
            parts.append(f"And {len(comparison.discordant) - len(listed)} more, in the JSON form.")
    return "\n\n".join(parts) + "\n"


def _rows(comparison: Comparison) -> list[list[str]]:
    """A row for each quantity; one for all that lack a difference for the same reason, where these are many."""
    found = comparison.differences
    reasons = Counter(one.reason for one in found.values() if isinstance(one, NotEstimable))
    many = {reason: count for reason, count in reasons.items() if count > EACH_AT_MOST}
    rows = [
        _row(name, difference)
        for name, difference in found.items()
        if not isinstance(difference, NotEstimable) or difference.reason not in many
    ]
    return rows + [
        [f"{count} other quantities: {reason}", *[""] * (len(_HEADER) - 1)] for reason, count in many.items()
    ]


def _row(name: str, difference: Difference | NotEstimable) -> list[str]:
    title = _RIGHT if name == REFERRED else words.title(name)
    if isinstance(difference, NotEstimable):
        return [f"{title}: {difference.reason}", *[""] * (len(_HEADER) - 1)]
    kind = difference.kind
    both = [words.percent(v) if kind == "proportion" else f"{v:.3f}" for v in (difference.first, difference.second)]
    bootstrap = "" if difference.bootstrap is None else _ends(*difference.bootstrap, kind)
    pairs = "" if difference.only_first is None else f"{difference.only_first}:{difference.only_second}"
    value = _points(difference.value) if kind == "proportion" else _signed(difference.value, 3)
    ends = _ends(difference.low, difference.high, kind)
    return [title, *both, value, ends, pairs, bootstrap, _p(difference.mcnemar_midp)]


def _ends(low: float | None, high: float | None, kind: str) -> str:
    if low is None or high is None:
        return ""
    return " to ".join(_points(end) if kind == "proportion" else _signed(end, 3) for end in (low, high))


def _by(low: float | None, high: float | None) -> str:
    """The size of a difference whose interval excludes zero, in points."""
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
    """A limit in points, with as many digits as tell it from the margin."""
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
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _grade(grade: object) -> str:
    if isinstance(grade, bool):
        return "referable" if grade else "not referable"
    return "no output" if grade is None else str(grade)
