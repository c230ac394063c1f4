r"""The report as GitHub-flavoured Markdown, for a pull request, a step summary or a file beside the model.

    text = render(evaluation, certificate=None)

Text of the evaluation cannot become markup, a link, a mention or another table cell: file names are in code spans,
sentences are escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Final

from drgate.certificate.statement import NOT_A_MEDICAL_DEVICE, NOT_EVIDENCE_FOR
from drgate.evaluation import Evaluation
from drgate.report import words
from drgate.report.evaluation.sections import Cell, Section, sections

FLAGGED_AT_MOST: Final = 50
"""Flagged images listed; a step summary holds 1 MiB, and evaluation.json has all of them."""

ROWS_AT_MOST: Final = 50
"""Rows of a table after page one."""

_MARKS: Final = re.compile(r"([\\`*_{}\[\]<>|~$&#!])")
_JOINER: Final = "\N{WORD JOINER}"


def render(evaluation: Evaluation, *, certificate: str | None = None) -> str:
    """The whole report.

    certificate: the name of the signed certificate and the key that signed it; None where nothing was signed.
    """
    interval = f"Interval, {words.level_name(evaluation)}"
    header = ["Outcome", "Criterion", "Rule", "What decides", "Counts", "Estimate", interval]
    checklist = [
        [
            f"{line.symbol} {line.outcome}",
            f"{line.title} ({line.advice})",
            line.rule,
            line.decides or line.basis,
            "; ".join(filter(None, (line.counts, line.all_comers))),
            line.value,
            line.interval,
        ]
        for line in words.lines(evaluation)
    ]
    symbol = words.SYMBOLS[evaluation.verdict]
    parts = [
        f"# {symbol} {escape(words.verdict_word(evaluation))}",
        f"**{escape(words.headline(evaluation))}**",
        *(escape(text) for text in words.under_headline(evaluation)),
        escape(words.signature(certificate)),
        bullets(f"{label}: {escape(text)}" for label, text in words.summary(evaluation)),
        "## Checklist",
        grid(header, checklist),
        escape(f"{words.decision_rule(evaluation)} {words.intervals(evaluation)}"),
    ]
    reasons = [
        f"{line.symbol} **{escape(line.title)}: {line.outcome.lower()}** ({line.advice}). {escape(line.reason)}"
        for line in words.unmet(evaluation)
    ]
    parts += ["## Reasons", *filter(None, [words.about_reasons(evaluation)]), bullets(reasons)] if reasons else []
    if evaluation.page_one:
        parts += ["## To be read with the verdict", bullets(map(escape, evaluation.page_one))]
    parts += _flagged(evaluation)
    parts += ["## What was judged", bullets(f"{label}: {escape(text)}" for label, text in words.judged(evaluation))]
    parts += ["## What this does not show", bullets(map(escape, NOT_EVIDENCE_FOR)), NOT_A_MEDICAL_DEVICE]
    if evaluation.metrics:
        parts += ["## Confusion matrix", "Rows: the reference. Columns: the model's answer.", _matrix(evaluation)]
    for section in sections(evaluation):
        parts += _section(section)
    parts += ["## All metrics", _metrics(evaluation)] if evaluation.metrics else []
    parts += ["## Settings and digests"]
    for title, pairs in words.settings(evaluation):
        parts += [f"### {title}", bullets(f"{escape(label)}: {code(text)}" for label, text in pairs)]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    r"""A sentence whose characters mean themselves: no markup, no HTML, no link, no mention, no further cell.

    >>> escape("a|b <i>*x*</i>")
    'a\\|b \\<i\\>\\*x\\*\\</i\\>'
    """
    text = _MARKS.sub(r"\\\1", words.visible(text).strip())
    text = text.replace("@", f"@{_JOINER}").replace("://", f":{_JOINER}//")
    text = re.sub(r"(?i)\bwww\.", lambda found: f"{found[0][:-1]}{_JOINER}.", text)
    return re.sub(r"^(\s*\d*)([-+=.)]+)(?=\s|$)", r"\1\\\2", text)  # would begin a list, a heading or a rule


def code(text: str) -> str:
    """A name in a code span, fenced by more backticks than it holds."""
    text = words.visible(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    space = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{space}{text}{space}{fence}"


def _flagged(evaluation: Evaluation) -> list[str]:
    groups = words.flagged(evaluation)
    if not groups:
        return []
    room = FLAGGED_AT_MOST
    listed = []
    for title, images in groups:
        if room > 0:
            listed.append(f"{title} ({len(images)}): {', '.join(map(code, images[:room]))}")
        room -= len(images)
    parts = [f"## Severe NPDR or PDR predicted below referable: {len(evaluation.flagged)}", bullets(listed)]
    return [*parts, f"And {-room} more, in evaluation.json."] if room < 0 else parts


def _section(section: Section) -> list[str]:
    parts = [f"## {escape(section.title)}", *map(escape, section.text)]
    for table in section.tables:
        rows = [[_cell(cell) for cell in row] for row in table.rows[:ROWS_AT_MOST]]
        drawn = [grid(table.header, rows)]
        if len(table.rows) > ROWS_AT_MOST:
            drawn.append(f"And {len(table.rows) - ROWS_AT_MOST} more, in report.html and evaluation.json.")
        if table.folded:
            drawn = [f"<details><summary>{html.escape(table.folded)}</summary>", *drawn, "</details>"]
        parts += drawn
    return [*parts, bullets(map(escape, section.notes))] if section.notes else parts


def _cell(cell: Cell) -> str:
    more = "; ".join(cell.more)
    shown = f"{cell.text} ({more})" if cell.text and more else cell.text or more
    return f"{cell.mark} {shown}".strip()


def _matrix(evaluation: Evaluation) -> str:
    titles, answers = words.rows_and_columns(evaluation)
    rows = [
        [title, *map(str, counts), str(refused), str(sum(counts) + refused)]
        for title, counts, refused in zip(titles, evaluation.confusion_matrix, evaluation.no_output, strict=True)
    ]
    return grid(["Reference", *answers, "No output", "All"], rows)


def _metrics(evaluation: Evaluation) -> str:
    bootstrap = words.bootstrap_label(evaluation)
    header = ["Metric", "Counts", "Estimate", "Interval", "Method", bootstrap, "Patients", "Design effect"]
    # Of a metric that is not estimable all but the title and the reason is empty.
    rows = [
        [
            m.title,
            f"Not estimable: {m.reason}" if m.reason else m.counts,
            m.value,
            m.interval,
            m.method,
            m.bootstrap,
            m.patients,
            m.design_effect,
        ]
        for m in words.metric_lines(evaluation)
    ]
    return grid(header, rows)


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of escaped cells."""
    body = [[escape(cell) for cell in row] for row in rows]
    rule = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(row)} |" for row in ([*map(escape, header)], rule, *body))


def bullets(items: Iterable[str]) -> str:
    """A list of items that are Markdown already."""
    return "\n".join(f"- {item}" for item in items)
