"""A plan for people: at a terminal, and as a page with power curves that works offline.

    page = html(plan)

The same plan gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drgate.plan import ASSURANCE, LinePlan, Plan
from drgate.report import words
from drgate.scale import GRADES, TITLES

_TITLES: Final = dict(zip(GRADES, TITLES, strict=True))
_SIGNS: Final = {">=": "≥", ">": ">", "<=": "≤", "<": "<"}
_PLAIN: Final = str.maketrans({"–": "-", "≥": ">=", "≤": "<=", "✗": "x", "\N{NO-BREAK SPACE}": " "})
_SHOWN: Final = (0.5, 1.0, 1.5)
"""Multiples of the patients needed whose power a table shows."""
_COLOURS: Final = ("#1f5fa8", "#a3121f", "#0b6b3a", "#8a5300", "#6b3fa0", "#00707a", "#7a4a5a", "#4b5563")
_DASHES: Final = ("solid", "dash", "dot", "dashdot")
_INK: Final = "#16202a"
_HEIGHT: Final = 460


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the checklist, in words; empty cells where nothing applies."""

    id: str
    title: str
    rule: str
    required: bool
    expected: str
    without_miss: str
    needed: str
    powers: tuple[str, ...]
    why: str
    cases: str
    best: str
    power_here: str
    possible: str


def rows(plan: Plan) -> list[Row]:
    """The lines that are planned, as the checklist has them."""
    return [_row(line) for line in plan.lines]


def headline(plan: Plan) -> str:
    """The answer in one sentence."""
    name = f"{plan.spec['name']} version {plan.spec['version']}"
    if plan.never:
        required = [line.id for line in plan.lines if line.required and line.id in plan.never]
        what = f"{len(required)} required" if required else f"{len(plan.never)} advisory"
        return words.visible(
            f"{name}: no model passes {what} line{'' if len(required or plan.never) == 1 else 's'} on this test set."
        )
    if plan.collection is None:
        return words.visible(f"{name}: no test set is planned.")
    n = plan.collection.patients
    return words.visible(f"{name}: at least {n} patient{'' if n == 1 else 's'}.")


def impossible(plan: Plan) -> list[str]:
    """The lines that no model passes on the given test set, with the reason."""
    return [
        f"{words.title(line.id)} ({_rule(line)}{'' if line.required else ', advisory'}): {line.here.why}."
        for line in plan.lines
        if line.here is not None and not line.here.can_pass
    ]


def facts(plan: Plan) -> list[tuple[str, str]]:
    """What was planned, with what, and how the lines go together: label and text."""
    basis = "the estimate" if plan.decided_on == "point" else "the bound"
    pairs = [
        ("Judged by", f"{plan.unit}, on {basis}, at {words.plain_percent(plan.level)} (two-sided)"),
        ("Wanted", f"power {words.plain_percent(plan.power)} for each line"),
    ]
    if plan.data:
        patients = plan.data.get("patients")
        who = "patients unknown" if patients is None else f"{patients} patients"
        grades = ", ".join(f"{t} {n}" for t, n in zip(TITLES, plan.data["by_grade"], strict=True))
        pairs.append(("Test set", words.visible(f"{plan.data['origin']}: {plan.data['units']} {plan.unit}s, {who}")))
        pairs.append(("By grade", grades))
        if plan.joint_here is not None:
            pairs.append(
                ("Together, here", f"{_percent(plan.joint_here)}: the powers of the required lines, multiplied")
            )
    collection = plan.collection
    if collection is None:
        return pairs
    kept = ", ".join(f"{_TITLES[grade]} {n}" for grade, n in collection.by_grade.items() if n)
    pairs.append(("Smallest test set", f"{collection.patients} patients by worse eye: {kept}"))
    if collection.without_expectation:
        names = ", ".join(words.title(name) for name in collection.without_expectation)
        pairs.append(("Counted without a miss", f"{names}: no expected true value is stated"))
    if plan.joint_power is not None:
        pairs.append(("Together, there", f"{_percent(plan.joint_power)}: the powers of the required lines, multiplied"))
    if collection.screened_expected is not None:
        scarce = _TITLES[collection.bottleneck]
        at = words.plain_percent(collection.prevalence[collection.bottleneck])
        sure = "" if collection.screened is None else f", {collection.screened} to be {100 * ASSURANCE:g} % sure"
        pairs.append(
            ("To be screened", f"{collection.screened_expected} on average{sure}; {scarce} is the bottleneck, at {at}")
        )
    return pairs


def terminal(plan: Plan, console: Console) -> None:
    """Write the plan to a console."""
    console.print(Text(headline(plan), style="bold red" if plan.exit_code else "bold"))
    for sentence in impossible(plan):
        console.print(Text(_plain(f"✗ {sentence}", console), style="red"))
    for label, text in facts(plan):
        console.print(Text(_plain(f"{label}: {text}", console), style="dim"))
    console.print()
    found = rows(plan)
    names = [row.title + ("" if row.required else " *") for row in found]
    _grid(
        console,
        ["Line", "Rule", "True", "No miss", "Patients", *(f"at {part:g}x" for part in _SHOWN)],
        [[n, r.rule, r.expected, r.without_miss, r.needed, *r.powers] for n, r in zip(names, found, strict=True)],
    )
    said = [
        "True: expected value. No miss: fewest patients that pass without one. Patients: from which the power stays; "
        "at: power with that many times as many.",
        *notes(plan),
    ]
    if plan.data:
        _grid(
            console,
            ["On this test set", "Rule", "Cases", "Best bound", "Power", "Can pass"],
            [[n, r.rule, r.cases, r.best, r.power_here, r.possible] for n, r in zip(names, found, strict=True)],
        )
        said.insert(1, "Best bound: without a miss. Power: of passing here, were the expected value true.")
    for note in said:
        console.print(Text(_plain(note, console), style="dim"))


def _grid(console: Console, header: list[str], cells: list[list[str]]) -> None:
    grid = Table(box=None, padding=(0, 2, 0, 0))
    for i, name in enumerate(header):
        grid.add_column(name, justify="left" if i < 2 else "right", no_wrap=i > 0)
    for row in cells:
        grid.add_row(*(Text(_plain(cell, console)) for cell in row))
    console.print(grid)
    console.print()


def notes(plan: Plan) -> list[str]:
    """What the numbers rest on, and what was left out."""
    left_out: dict[str, list[str]] = {}
    for name, reason in plan.not_planned:
        left_out.setdefault(reason, []).append(words.title(name))
    said = [words.visible(note) for note in plan.notes]
    said += [f"{line.title}: {line.why}." for line in rows(plan) if line.why and "stated" not in line.why]
    said += [f"Not planned: {', '.join(names)}: {reason}." for reason, names in left_out.items()]
    if any(not line.required for line in plan.lines):
        said.append("* advisory: not part of the verdict, the joint power or the test set.")
    return said


def html(plan: Plan) -> str:
    """The whole page: tables and one figure of power by number of patients."""
    environment = Environment(
        loader=PackageLoader("drgate.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    drawings = [{"name": "figure-power", **_figure(plan)}] if any(line.curve for line in plan.lines) else []
    return environment.get_template("plan.html").render(
        plan=plan,
        headline=headline(plan),
        impossible=impossible(plan),
        facts=facts(plan),
        rows=rows(plan),
        shown=[f"{part:g}" for part in _SHOWN],
        notes=notes(plan),
        tone="FAIL" if plan.exit_code else "INSUFFICIENT" if plan.never or plan.collection is None else "PASS",
        height=_HEIGHT,
        drawings=drawings,
        plotly=Markup(get_plotlyjs() if drawings else ""),  # noqa: S704 (the library itself)
        style=_own("page.css"),
        script=_own("page.js"),
    )


def _figure(plan: Plan) -> dict[str, Any]:
    """Power against patients, one curve for lines that have the same one; the wanted power as a rule."""
    curves: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for line in plan.lines:
        if line.curve:
            curves.setdefault(line.curve, []).append(words.title(line.id))
    data = [
        {
            "type": "scatter", "mode": "lines+markers", "name": _named(names), "x": [n for n, _ in curve],
            "y": [100 * chance for _, chance in curve], "marker": {"size": 5},
            "line": {"color": _COLOURS[i % len(_COLOURS)], "dash": _DASHES[i % len(_DASHES)], "width": 2},
            "hovertemplate": "%{x} patients: %{y:.0f} %<extra></extra>",
        }
        for i, (curve, names) in enumerate(curves.items())
    ]  # fmt: skip
    axis = {"gridcolor": "#e3e8ec", "zeroline": False, "linecolor": "#aab4bd", "fixedrange": True, "automargin": True}
    small = {"size": 12}
    return {
        "data": data,
        "layout": {
            "height": _HEIGHT,
            "autosize": True,
            "margin": {"l": 8, "r": 16, "t": 16, "b": 56},
            "paper_bgcolor": "#ffffff",
            "plot_bgcolor": "#ffffff",
            "font": {"family": 'system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif', "size": 13,
                     "color": _INK},
            "legend": {"x": 1, "y": 0, "xanchor": "right", "yanchor": "bottom", "bgcolor": "rgba(255,255,255,.85)"},
            "hovermode": "closest",
            "dragmode": False,
            "xaxis": {**axis, "rangemode": "tozero",
                      "title": {"text": "patients in the line's denominator", "font": small}},
            "yaxis": {**axis, "range": [0, 102], "ticksuffix": " %",
                      "title": {"text": "power at the expected true value", "font": small}},
            "shapes": [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 100 * plan.power,
                        "y1": 100 * plan.power, "line": {"color": _INK, "width": 1, "dash": "dot"}}],
        },
    }  # fmt: skip


def _named(names: list[str]) -> str:
    """A legend entry; plotly reads a few HTML tags there, so the text is escaped."""
    from html import escape

    return escape(names[0] + ("" if len(names) == 1 else f" and {len(names) - 1} more like it"))


def _row(line: LinePlan) -> Row:
    here, by_part = line.here, {}
    if line.needed is not None:
        powers = dict(line.curve)
        by_part = {part: powers[max(1, round(part * line.needed.patients))] for part in _SHOWN}
    near = None if line.expected is None else line.threshold
    return Row(
        id=line.id,
        title=words.title(line.id),
        rule=_rule(line),
        required=line.required,
        expected="" if line.expected is None else words.percent(line.expected, against=near),
        without_miss="" if line.without_miss is None else str(line.without_miss),
        needed=str(line.needed.patients) if line.needed else "–",
        powers=tuple(_percent(by_part[part]) if part in by_part else "" for part in _SHOWN),
        why=line.why,
        cases="" if here is None else str(here.images),
        best="" if here is None or here.bound is None else words.percent(here.bound, against=line.threshold),
        power_here="" if here is None or here.power is None else _percent(here.power),
        possible="" if here is None else "yes" if here.can_pass else "never",
    )


def _rule(line: LinePlan) -> str:
    return f"{_SIGNS[line.comparator]}\N{NO-BREAK SPACE}{words.plain_percent(line.threshold)}"


def _percent(chance: float) -> str:
    return f"{100 * chance:.0f}\N{NO-BREAK SPACE}%"


def _plain(text: str, console: Console) -> str:
    return text if console.encoding.lower().startswith("utf") else text.translate(_PLAIN)


def _own(name: str) -> Markup:
    text = (resources.files("drgate.report") / "templates" / name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 (a file of this package)
