"""A plan for people: at a terminal, and as a page with power curves that works offline.

page = html(plan)
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Final

from rich.console import Console

from drgate.checklist import level_words
from drgate.metrics import MetricId, parse_id
from drgate.plan import ASSURANCE, LinePlan, Plan
from drgate.report import kit, words
from drgate.report.kit import Figure
from drgate.scale import GRADES, SCALE_TITLES, TITLES

_TITLES: Final = dict(zip(GRADES, TITLES, strict=True))
_SHOWN: Final = (0.5, 1.0, 1.5)
"""Multiples of the patients needed whose power a table shows."""
_COLOURS: Final = (kit.BLUE, "#a3121f", "#0b6b3a", "#8a5300", "#6b3fa0", "#00707a", "#7a4a5a", "#4b5563")
_DASHES: Final = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True, slots=True)
class Row:
    """One criterion in words; a cell is empty where nothing applies.

    cells: rule, expected true value, fewest patients with which a model without errors passes, patients needed, and
        the power at each multiple of them. here: cases, best limit and power on the given test set, empty without one.
    can_pass: "yes" or "never" on that test set.
    """

    title: str
    required: bool
    cells: tuple[str, ...]
    here: tuple[str, ...]
    can_pass: str


def rows(plan: Plan) -> list[Row]:
    """The criteria that are planned, in the checklist's order."""
    return [_row(line) for line in plan.lines]


def headline(plan: Plan) -> str:
    """The answer in one sentence: of the given test set, else of the smallest one."""
    answer = _here(plan) if plan.data else _collected(plan)
    return words.visible(f"{plan.spec['name']} version {plan.spec['version']}: {answer}")


def _here(plan: Plan) -> str:
    """What the given test set can show."""
    required = [line for line in plan.lines if line.required]
    never = [line.id for line in required if line.id in plan.never]
    if never:
        names = "; ".join(words.title(name) for name in never)
        which = "this required criterion" if len(never) == 1 else f"these {len(never)} required criteria"
        return f"no model can pass {which} on this test set: {names}."
    text = f"every required criterion{_of_images(plan)} can be passed on this test set"
    if plan.joint_here is not None:
        which = "all" if all(line.here and line.here.power is not None for line in required) else "those with a power"
        text += f"; a model with the expected true values passes {which} with probability {_percent(plan.joint_here)}"
    advisory = ""
    if plan.never:
        advisory = f". {len(plan.never)} advisory criteri{'on' if len(plan.never) == 1 else 'a'} cannot be passed"
    return f"{text}{advisory}." if required else f"no required criterion is about images{advisory}."


def _collected(plan: Plan) -> str:
    """The smallest test set, and how often a model as good as expected passes on it."""
    collection = plan.collection
    if collection is None:
        return "no test set is planned."
    kept = ", ".join(f"{_TITLES[grade]} {n}" for grade, n in collection.by_grade.items() if n)
    text = f"{collection.patients} patient{'' if collection.patients == 1 else 's'} ({kept})"
    if collection.screened_expected is not None:
        text += f", found among about {_about(collection.screened_expected)} screened"
    apart = [words.title(line.id) for line in plan.lines if line.required and not line.grades]
    end = f"; not planned by grade: {'; '.join(apart)}." if apart else "."
    if plan.joint_power is None:
        return f"{text}; enough for a model without errors (the checklist states no expected true value){end}"
    which = (
        "the required criteria with an expected value" if collection.without_expectation else "all required criteria"
    )
    by_grade = " planned by grade" if apart else _of_images(plan)
    power = _percent(plan.joint_power)
    return f"{text}; a model with the expected true values passes {which}{by_grade} with probability {power}{end}"


def _of_images(plan: Plan) -> str:
    """What the planned criteria have in common, where others are not planned."""
    return " on images" if plan.not_planned else ""


def _about(n: int) -> str:
    """A number to three digits."""
    unit = 10 ** max(0, len(str(n)) - 3)
    return f"{round(n / unit) * unit:,}"


def advice(plan: Plan) -> list[str]:
    """What the smallest test set does not give, and what would."""
    sentences = []
    if plan.power_each is not None:
        wanted, each = words.plain_percent(plan.power), words.plain_percent(plan.power_each)
        sentences.append(
            f"For a power of {wanted} for all criteria together, plan each with {each} (--power {plan.power_each:g})."
        )
    if plan.collection is not None:
        none = [_TITLES[grade] for grade, n in plan.collection.by_grade.items() if not n]
        if none:
            sentences.append(
                f"The criteria need no patient with {' or '.join(none)}. A test set without such patients shows "
                "nothing about them."
            )
    return sentences


def impossible(plan: Plan) -> list[str]:
    """The criteria that no model passes on the given test set, with the reason and the fewest patients that could."""
    return [
        f"{words.title(line.id)} ({_rule(line)}{'' if line.required else ', advisory'}): {line.here.why}{_needs(line)}."
        for line in plan.lines
        if line.here is not None and not line.here.can_pass
    ]


def _needs(line: LinePlan) -> str:
    here, fewest = line.here, line.without_miss
    if here is None or fewest is None or (not line.groups and here.patients is not None and here.patients >= fewest):
        return ""
    some, are = ("patient", "is") if fewest == 1 else ("patients", "are")
    each = " in each group" if line.groups else ""
    return f"; at least {fewest} {some} {parse_id(line.id).who}{each} {are} needed"


def facts(plan: Plan) -> list[tuple[str, str]]:
    """What was planned, with what, and the power of all criteria together: label and text."""
    level = level_words(plan.level)
    basis = "the estimate" if plan.decided_on == "point" else f"the limit of the two-sided {level} confidence interval"
    together = "the product of the powers of the required criteria"
    pairs = [
        ("Decided on", f"{basis}, by {plan.unit}"),
        ("Planned power", f"{words.plain_percent(plan.power)} for each criterion"),
    ]
    if plan.data:
        patients = plan.data.get("patients")
        who = "number of patients unknown" if patients is None else f"{patients} patients"
        titles = SCALE_TITLES[plan.data["reference_scale"]]
        grades = ", ".join(f"{t} {n}" for t, n in zip(titles, plan.data["by_grade"], strict=True))
        rows = plan.data.get("rows")
        split = f", {plan.data['split']} split: {rows['split']} of {rows['all']} images" if rows else ""
        judged = f"{plan.data['units']} {plan.unit}s, {who}"
        pairs.append(("Test set", words.visible(f"{plan.data['origin']}{split}; judged: {judged}")))
        pairs.append(("By reference", grades))
        if plan.joint_here is not None:
            pairs.append(("Joint power here", f"{_percent(plan.joint_here)}: {together}"))
    collection = plan.collection
    if collection is None:
        return pairs
    kept = ", ".join(f"{_TITLES[grade]} {n}" for grade, n in collection.by_grade.items() if n)
    pairs.append(("Smallest test set", f"{collection.patients} patients by worse eye: {kept}"))
    if collection.without_expectation:
        names = ", ".join(words.title(name) for name in collection.without_expectation)
        pairs.append(("Planned without errors", f"{names}: the checklist states no expected true value"))
    if plan.joint_power is not None:
        pairs.append(("Joint power there", f"{_percent(plan.joint_power)}: {together}"))
    if collection.screened_expected is not None:
        scarce = _TITLES[collection.bottleneck]
        at = words.plain_percent(collection.prevalence[collection.bottleneck])
        sure = "" if collection.screened is None else f", {collection.screened} to be {100 * ASSURANCE:g} % sure"
        pairs.append(
            ("Patients to screen", f"{collection.screened_expected} on average{sure}; the rarest is {scarce}, at {at}")
        )
    return pairs


def terminal(plan: Plan, console: Console) -> None:
    """Write the plan to a console."""
    kit.paragraph(console, headline(plan), "bold red" if plan.exit_code else "bold")
    for sentence in impossible(plan):
        kit.paragraph(console, f"✗ {sentence}", "red")
    for sentence in [] if plan.data else advice(plan):
        kit.paragraph(console, sentence)
    for label, text in facts(plan):
        kit.paragraph(console, f"{label}: {text}", "dim")
    console.print()
    found = [(row.title + ("" if row.required else " *"), row) for row in rows(plan)]
    parts = [f"at {part:g}x" for part in _SHOWN]
    header = ["Criterion", "Rule", "Expected", "Fewest", "Needed", *parts]
    kit.table(console, header, [[name, *row.cells] for name, row in found])
    console.print()
    legend = [
        "Expected: true value. Fewest: patients with which a model without errors passes. Needed: number of "
        "patients that gives the planned power. At: power with that many times the patients needed."
    ]
    if plan.data:
        header = ["On this test set", "Rule", "Cases", "Best limit", "Power", "Can pass"]
        kit.table(console, header, [[name, row.cells[0], *row.here, row.can_pass] for name, row in found])
        console.print()
        legend.append(
            "Best limit: the confidence limit of a model without errors. Power: the probability of passing here if the "
            "true value is the expected one."
        )
    for note in [*legend, *notes(plan, "* (advisory)")]:
        kit.paragraph(console, note, "dim")


def notes(plan: Plan, mark: str = "advisory") -> list[str]:
    """What the numbers assume, and what was left out. mark: of advisory criteria in the table."""
    left_out: dict[str, list[str]] = {}
    for name, reason in plan.not_planned:
        left_out.setdefault(reason, []).append(words.title(name))
    sentences = [words.visible(note) for note in plan.notes]
    if plan.data:
        sentences += advice(plan)
    sentences += [
        f"{words.title(line.id)}: {line.why}." for line in plan.lines if line.why and "stated" not in line.why
    ]
    sentences += [sentence for line in plan.lines for sentence in (*_about_gap(line), *_about_kappa(line))]
    sentences += [f"Not planned: {', '.join(names)}: {reason}." for reason, names in left_out.items()]
    if any(not line.required for line in plan.lines):
        sentences.append(f"{mark}: not part of the verdict, the joint power or the test set.")
    return sentences


def _about_gap(line: LinePlan) -> list[str]:
    """What a gap's numbers are of, and how often the observed gap of a fair model misses the rule."""
    if line.groups is None or line.expected is None:
        return []
    found = [
        f"{words.title(line.id)}: patients in each of {line.groups} groups, for a fair model, whose true value is "
        f"{words.plain_percent(line.expected)} in every group."
    ]
    for chance, where in (
        (line.seems_unfair, "with the patients needed"),
        (line.here.seems_unfair if line.here else None, "on this test set"),
    ):
        if chance is not None:
            found.append(f"The observed gap of a fair model misses the rule by chance in {_percent(chance)} {where}.")
    return found


def _about_kappa(line: LinePlan) -> list[str]:
    """The patients and the errors that a kappa is planned for."""
    if not line.mix:
        return []
    grades = ", ".join(f"{name} {words.percent(share)}" for name, share in zip(TITLES, line.mix, strict=True))
    sentence = f"{words.title(line.id)}: planned for patients with {grades}; all images of one have one grade."
    if line.one_off is None:
        return [sentence]
    return [
        f"{sentence} Errors are assumed to be by one grade, as often up as down, and equally often at every grade: "
        f"kappa is {line.expected:g} with errors in {words.percent(line.one_off)} of images. Larger errors need other "
        "numbers."
    ]


def html(plan: Plan) -> str:
    """The whole page: a table and one figure of power by number of patients."""
    columns = ["Rule", "Expected true value", "Fewest patients, no error", "Patients needed"]
    columns += [f"Power at {part:g}\N{NO-BREAK SPACE}×" for part in _SHOWN]
    columns += ["Cases here", "Limit without errors", "Power here"] if plan.data else []
    return kit.page(
        "plan.html",
        _figures(plan),
        plan=plan,
        headline=headline(plan),
        sentences=impossible(plan) if plan.data else advice(plan),
        facts=facts(plan),
        header=columns,
        rows=rows(plan),
        notes=notes(plan),
        # Never green: a plan is no evidence about any model.
        tone="FAIL" if plan.exit_code else "INSUFFICIENT" if plan.never else "NOT_ASSESSED",
    )


def _figures(plan: Plan) -> list[Figure]:
    """Power against patients, with one curve for criteria that have the same one, and the planned power."""
    curves: dict[tuple[tuple[int, float], ...], list[MetricId]] = {}
    for line in plan.lines:
        if line.curve:
            curves.setdefault(line.curve, []).append(parse_id(line.id))
    if not curves:
        return []
    data = []
    for i, (curve, names) in enumerate(curves.items()):
        colour, dash = _COLOURS[i % len(_COLOURS)], _DASHES[i % len(_DASHES)]
        # plotly reads a few HTML tags in the legend
        name = escape(_curve_name(names))
        hover = "%{x} patients: %{y:.0f} %<extra></extra>"
        marks = kit.points([n for n, _ in curve], [100 * chance for _, chance in curve], colour, hovertemplate=hover)
        style = {"mode": "lines+markers", "line": {"color": colour, "dash": dash, "width": 2}, "marker": {"size": 5}}
        data.append(marks | style | {"name": name})
    layout = kit.layout(
        460,
        xaxis=kit.axis("patients whom the criterion counts", rangemode="tozero"),
        yaxis=kit.axis("power at the expected true value", range=[0, 102], ticksuffix=" %"),
        shapes=[kit.dotted(xref="paper", x0=0, x1=1, y0=100 * plan.power, y1=100 * plan.power)],
    )
    label = "Power of each criterion by number of patients; the table above has the same numbers."
    caption = "Probability of passing if the true value is the expected one. Dotted: the planned power."
    return [Figure("figure-power", label, caption, data, layout)]


def _curve_name(names: list[MetricId]) -> str:
    """The criteria that have one curve: "Specificity (all five grades)", or the first and how many more."""
    first, targets = names[0], tuple(name.target for name in names)
    if targets == GRADES and all(name == first.but(target=name.target) for name in names):
        place = f", {first.column} {first.value}" if first.column else ""
        return words.visible(f"{first.about.title} (all five grades{place})")
    return words.title(first) + ("" if len(names) == 1 else f" and {len(names) - 1} more")


def _row(line: LinePlan) -> Row:
    here, by_part = line.here, {}
    each = f"{line.groups} x " if line.groups else ""
    if line.needed is not None and line.curve:
        powers = dict(line.curve)
        by_part = {part: powers[max(1, round(part * line.needed.patients))] for part in _SHOWN}
    return Row(
        title=words.title(line.id),
        required=line.required,
        cells=(
            _rule(line),
            "" if line.expected is None else _shown(line, line.expected),
            "" if line.without_miss is None else f"{each}{line.without_miss}",
            f"{each}{line.needed.patients}" if line.needed else "",
            *(_percent(by_part[part]) if part in by_part else "" for part in _SHOWN),
        ),
        here=()
        if here is None
        else (
            str(here.images),
            "" if here.bound is None else _shown(line, here.bound),
            "" if here.power is None else _percent(here.power),
        ),
        can_pass="" if here is None else "yes" if here.can_pass else "never",
    )


def _rule(line: LinePlan) -> str:
    limit = f"{line.threshold:g}" if _is_index(line) else words.plain_percent(line.threshold)
    return f"{words.SIGNS[line.comparator]}\N{NO-BREAK SPACE}{limit.replace('%', 'points') if line.groups else limit}"


def _is_index(line: LinePlan) -> bool:
    return parse_id(line.id).about.kind == "index"


def _shown(line: LinePlan, value: float) -> str:
    """A value of the criterion's metric, with enough digits to tell it from the threshold."""
    return words.amount(value, "index" if _is_index(line) else "proportion", line.threshold)


def _percent(chance: float) -> str:
    return f"{100 * chance:.0f}\N{NO-BREAK SPACE}%"
