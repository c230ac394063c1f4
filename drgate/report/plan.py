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
    """The answer in one sentence: of the given test set, else of the smallest one."""
    said = _collected(plan) if not plan.data else _here(plan)
    return words.visible(f"{plan.spec['name']} version {plan.spec['version']}: {said}")


def _here(plan: Plan) -> str:
    """What the given test set can show."""
    required = [line for line in plan.lines if line.required]
    never = [line.id for line in required if line.id in plan.never]
    if never:
        names = "; ".join(words.title(name) for name in never)
        return f"{_lines(len(never), 'required')} cannot be passed here by any model: {names}."
    said = f"every required line{_of_cases(plan)} can pass here"
    if plan.joint_here is not None:
        who = "all" if all(line.here and line.here.power is not None for line in required) else "those with a power"
        said += f"; {who} together {_percent(plan.joint_here)} of the time, by a model as good as expected"
    advisory = f". {_lines(len(plan.never), 'advisory')} cannot" if plan.never else ""
    return f"{said}{advisory}." if required else f"no required line counts cases{advisory}."


def _collected(plan: Plan) -> str:
    """The smallest test set, and how often a model as good as expected passes on it."""
    collection = plan.collection
    if collection is None:
        return "no test set is planned."
    kept = ", ".join(f"{_TITLES[grade]} {n}" for grade, n in collection.by_grade.items() if n)
    said = f"{collection.patients} patient{'' if collection.patients == 1 else 's'} ({kept})"
    if collection.screened_expected is not None:
        said += f", found among about {_about(collection.screened_expected)} screened"
    if plan.joint_power is None:
        return f"{said}; enough for a model without a miss, no expected true value is stated."
    which = "the required lines with an expected value" if collection.without_expectation else "all required lines"
    return (
        f"{said}; a model as good as expected passes {which}{_of_cases(plan)} {_percent(plan.joint_power)} of the time."
    )


def _of_cases(plan: Plan) -> str:
    """What the lines that are planned have in common, where others are not."""
    return " that counts cases" if plan.not_planned and plan.data else " that count cases" if plan.not_planned else ""


def _lines(n: int, kind: str) -> str:
    return f"{n} {kind} line{'' if n == 1 else 's'}"


def _about(n: int) -> str:
    """A number to three digits."""
    unit = 10 ** max(0, len(str(n)) - 3)
    return f"{round(n / unit) * unit:,}"


def advice(plan: Plan) -> list[str]:
    """What the smallest test set does not give, and what would."""
    said = []
    if plan.power_each is not None:
        wanted, each = words.plain_percent(plan.power), words.plain_percent(plan.power_each)
        said.append(f"For {wanted} together plan each line with {each} (--power {plan.power_each:g}).")
    if plan.collection is not None:
        none = [_TITLES[grade] for grade, n in plan.collection.by_grade.items() if not n]
        if none:
            said.append(
                f"No patient with {' or '.join(none)} is needed for the arithmetic; a test set without them shows "
                "nothing about them."
            )
    return said


def impossible(plan: Plan) -> list[str]:
    """The lines that no model passes on the given test set, with the reason and the fewest patients that could."""
    return [
        f"{words.title(line.id)} ({_rule(line)}{'' if line.required else ', advisory'}): {line.here.why}{_needs(line)}."
        for line in plan.lines
        if line.here is not None and not line.here.can_pass
    ]


def _needs(line: LinePlan) -> str:
    here, fewest = line.here, line.without_miss
    if here is None or fewest is None or (here.patients is not None and here.patients >= fewest):
        return ""
    return f"; needs at least {fewest} patient{'' if fewest == 1 else 's'} without a miss"


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
        rows = plan.data.get("rows")
        split = f", {plan.data['split']} split: {rows['split']} of {rows['all']} images" if rows else ""
        judged = f"{plan.data['units']} {plan.unit}s, {who}"
        pairs.append(("Test set", words.visible(f"{plan.data['origin']}{split}; judged: {judged}")))
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
    console.print(Text(_plain(headline(plan), console), style="bold red" if plan.exit_code else "bold"))
    for sentence in impossible(plan):
        console.print(Text(_plain(f"✗ {sentence}", console), style="red"))
    if not plan.data:
        for sentence in advice(plan):
            console.print(Text(_plain(sentence, console)))
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
    if plan.data:
        said += [f"Smallest test set: {sentence}" for sentence in advice(plan)]
    said += [f"{line.title}: {line.why}." for line in rows(plan) if line.why and "stated" not in line.why]
    said += [f"Not planned: {', '.join(names)}: {reason}." for reason, names in left_out.items()]
    if any(not line.required for line in plan.lines):
        said.append("* advisory: not part of the verdict, the joint power or the test set.")
    return said


def html(plan: Plan) -> str:
    """The whole page: tables and one figure of power by number of patients."""
    environment = Environment(
        loader=PackageLoader("drgate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawings = [{"name": "figure-power", **_figure(plan)}] if any(line.curve for line in plan.lines) else []
    return environment.get_template("plan.html").render(
        plan=plan,
        headline=headline(plan),
        sentences=impossible(plan) if plan.data else advice(plan),
        facts=facts(plan),
        rows=rows(plan),
        shown=[f"{part:g}" for part in _SHOWN],
        notes=notes(plan),
        # Never green: a plan is no evidence about any model.
        tone="FAIL" if plan.exit_code else "INSUFFICIENT" if plan.never else "NOT_ASSESSED",
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
            "type": "scatter",
            "mode": "lines+markers",
            "name": _named(names),
            "x": [n for n, _ in curve],
            "y": [100 * chance for _, chance in curve],
            "marker": {"size": 5},
            "line": {"color": _COLOURS[i % len(_COLOURS)], "dash": _DASHES[i % len(_DASHES)], "width": 2},
            "hovertemplate": "%{x} patients: %{y:.0f} %<extra></extra>",
        }
        for i, (curve, names) in enumerate(curves.items())
    ]
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
            "font": {
                "family": 'system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif',
                "size": 13,
                "color": _INK,
            },
            "legend": {"x": 1, "y": 0, "xanchor": "right", "yanchor": "bottom", "bgcolor": "rgba(255,255,255,.85)"},
            "hovermode": "closest",
            "dragmode": False,
            "xaxis": {
                **axis,
                "rangemode": "tozero",
                "title": {"text": "patients in the line's denominator", "font": small},
            },
            "yaxis": {
                **axis,
                "range": [0, 102],
                "ticksuffix": " %",
                "title": {"text": "power at the expected true value", "font": small},
            },
            "shapes": [
                {
                    "type": "line",
                    "xref": "paper",
                    "x0": 0,
                    "x1": 1,
                    "y0": 100 * plan.power,
                    "y1": 100 * plan.power,
                    "line": {"color": _INK, "width": 1, "dash": "dot"},
                }
            ],
        },
    }


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
