"""What follows page one, as tables in words that the page and the Markdown draw alike.

    for section in sections(evaluation):
        print(section.title, section.text, section.tables, section.notes)

A section is there where the evaluation holds what it shows. Nothing is computed: a false fail is what is left of the
probability of passing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any, Final

from drgate.certificate.statement import changes
from drgate.checklist import EACH
from drgate.evaluation import (
    Bin,
    CriterionResult,
    Estimate,
    Evaluation,
    GateError,
    Metric,
    NotEstimable,
    Predictive,
    Site,
    Spread,
)
from drgate.metrics import KEY_METRICS, METRICS, RIGHT_EYE, MetricId, parse_id
from drgate.report.words import (
    OUTCOMES,
    directions,
    exported,
    level_of,
    lines,
    metric_line,
    percent,
    plain_percent,
    reference_counts,
    rows_and_columns,
    title,
    unit_of,
    visible,
)
from drgate.scale import GRADES, GROUP_TITLES, STANDS_FOR, TITLES, WITH_OEDEMA

USED: Final = "●"
"""Marks what a criterion uses."""

SHOWN: Final = "○"
"""Marks what the other tables use, where no criterion asks for the metric."""

MARKS: Final = {USED: "used by the checklist:", SHOWN: "used in the other tables:"}

POLICIES: Final = {"excluded": "Excluded", "as_referred": "As referred", "worst_case": "Worst case"}

BY_SLICE: Final = KEY_METRICS[:5]

_BY_CHANCE: Final = "How often a criterion decides wrongly by chance"

_SPACE: Final = "\N{NO-BREAK SPACE}"

_DOT: Final = "\N{NO-BREAK SPACE}·\N{NO-BREAK SPACE}"

SLICES_AT_ONCE: Final = 25
"""Slices of a column that are shown unfolded."""


@dataclass(frozen=True, slots=True)
class Cell:
    """text: what is read first; more: what is shown beside it, smaller; mark: one of `MARKS`, or empty."""

    text: str
    more: tuple[str, ...] = ()
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """label: what it is, for a screen reader; the first cell of a row names it; folded: what unfolds it, or empty."""

    label: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """text: sentences before the tables; figures: names of those that belong here; notes: a list after the tables."""

    name: str
    title: str
    text: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    figures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def sections(evaluation: Evaluation) -> list[Section]:
    """Those that this evaluation fills, in the order in which they are read."""
    made: Sequence[Callable[[Evaluation], Section | None]] = (
        _changes,
        _exported,
        _screened,
        _three_ways,
        _slices,
        _gaps,
        _readers,
        _sites,
        _deployment,
        _net_benefit,
        _prevalence,
        _units,
        _probabilities,
        _gate_error,
        _looks,
    )
    return [section for make in made if (section := make(evaluation)) is not None]


def _changes(evaluation: Evaluation) -> Section | None:
    """What came out otherwise than in an earlier certificate."""
    found = changes(evaluation)
    if found is None:
        return None
    before, after = found["verdict"]["from"], found["verdict"]["to"]
    text = [
        f"Against {visible(found['name'])}, statement {visible(found['against'])[:19]}…, which this one was "
        f"{found['relation']}: "
        + (f"{OUTCOMES[after]} again." if before == after else f"{OUTCOMES[before]}, now {OUTCOMES[after]}."),
    ]
    if not found["same_spec"]:
        text.append("The earlier one was judged by another checklist, or by another version of this one.")
    if not found["same_test_set"]:
        text.append("The earlier one was judged on another test set: the numbers are of other images.")
    if computed := found.get("computed"):
        who = "parent" if evaluation.model.parent else "earlier one"
        text.append(f"The {who} was scored {visible(computed['from'])}; this one {visible(computed['to'])}.")
    rows = ((title(name), _was(line.get("from")), _was(line.get("to"))) for name, line in found["criteria"].items())
    table = _listed("Criteria that changed", ("Criterion", "Earlier", "Now"), rows)
    if not table.rows:
        text.append("Every criterion came out the same.")
    return Section("changes", "What changed", tuple(text), (table,) if table.rows else ())


def _exported(evaluation: Evaluation) -> Section | None:
    """What an export changed in the answers."""
    found = evaluation.model.parent and evaluation.model.parent.changes
    if not found:
        return None
    names = dict(zip(STANDS_FOR[evaluation.counts.answer_scale], rows_and_columns(evaluation)[1], strict=True))
    up, down = directions(evaluation)
    rows = (
        (
            names.get(flip.before, flip.before),
            names.get(flip.after, flip.after),
            up if flip.after > flip.before else down,
            flip.images,
        )
        for flip in found.flips
    )
    table = _listed("Images with another answer", ("Before the export", "Now", "Direction", "Images"), rows)
    text = tuple(exported(evaluation))
    return Section("exported", "What the export changed", text, (table,) if table.rows else ())


def _was(line: Mapping[str, Any] | None) -> str:
    if line is None:
        return "not asked"
    counts = f", {line['k']} of {line['n']}" if "k" in line and "n" in line else ""
    value = f", {line['value']:.4g}" if "value" in line and not counts else ""
    return f"{OUTCOMES.get(line['status'], line['status'])}{counts}{value}"


def _screened(evaluation: Evaluation) -> Section | None:
    """The sensitivities over all with a reference grade."""
    if not evaluation.screened:
        return None
    level, unit = level_of(evaluation), unit_of(evaluation)

    def row(name: MetricId) -> tuple[Cell, ...]:
        one = evaluation.screened[name]
        answered, missed, referred = (
            _cell(name, metric, level, unit)
            for metric in (
                evaluation.three_ways.get(name, {}).get("excluded", evaluation.metrics.get(name)),
                one.missed,
                one.referred,
            )
        )
        return (Cell(title(name)), Cell(f"{one.no_output} of {one.n}"), answered, missed, referred)

    ungradable = evaluation.counts.reference_ungradable
    text = (
        f"Each sensitivity over all {unit}s with a reference grade (intention to screen): those without output are "
        "counted as missed, and as referred to a person who finds them. The truth is between the two.",
        *(
            [f"{ungradable} image{'' if ungradable == 1 else 's'} without a reference grade can be in none of them."]
            if ungradable
            else []
        ),
    )
    names = list(evaluation.screened)
    first = [name for name in names if name in KEY_METRICS or name in _policies(evaluation)]
    header = ("Metric", "Without output", "With output", "Without output missed", "Without output referred")
    return Section(
        "screened", "Sensitivity of all who come", text, _unfolding("of all who come", header, first, names, row)
    )


def _three_ways(evaluation: Evaluation) -> Section | None:
    if not evaluation.three_ways:
        return None
    level, unit = level_of(evaluation), unit_of(evaluation)
    policies = _policies(evaluation)

    def row(name: MetricId) -> tuple[Cell, ...]:
        used, mark = (policies[name], USED) if name in policies else (name.default_policy, SHOWN)
        ways = evaluation.three_ways[name]
        cells = (_cell(name, ways.get(way), level, unit, mark if way == used else "") for way in POLICIES)
        return (Cell(title(name)), *cells)

    names = list(evaluation.three_ways)
    first = [name for name in names if name in policies] or [name for name in names if name in KEY_METRICS]
    header = ("Metric", *POLICIES.values())
    return Section(
        "three-ways",
        f"{unit.capitalize()}s without output, three ways",
        (
            f"The value of each metric when {unit}s that the model gave no answer for are left out (excluded), count "
            "as referred (groups of grades only), or count as the worst answer. "
            f"{USED} marks what the criterion uses; {SHOWN} marks what the other tables show, where the "
            "checklist has no criterion.",
        ),
        _unfolding("three ways", header, first, names, row),
    )


def _policies(evaluation: Evaluation) -> dict[MetricId, str]:
    """How images without output count, by metric that a criterion asks for on the whole test set."""
    found = {}
    for criterion in evaluation.spec.content["criteria"]:
        asked = parse_id(criterion["id"])
        if not asked.column and not asked.deployed:
            for target in GRADES if asked.target == EACH else (asked.target,):
                name = asked.but(target=target)
                found[name] = criterion.get("no_output") or name.default_policy
    return found


def _slices(evaluation: Evaluation) -> Section | None:
    slices = evaluation.counts.slices
    if not slices:
        return None
    level, unit = level_of(evaluation), unit_of(evaluation)
    header = (_by_reference(evaluation), *map(title, BY_SLICE))
    tables = []
    for column in dict.fromkeys(found.by for found in slices):
        rows = []
        for found in slices:
            if found.by != column:
                continue
            names = [name.but(column=column, value=found.value) for name in BY_SLICE]
            cells = (_cell(name, evaluation.metrics.get(name), level, unit) for name in names)
            counts = Cell(str(found.units), (_DOT.join(map(str, found.by_grade)),))
            rows.append((Cell(visible(found.value)), counts, *cells))
        by = f"By {visible(column)}"
        tables.append(
            Table(by, (by, *header), tuple(rows), f"All {len(rows)} slices" if len(rows) > SLICES_AT_ONCE else "")
        )
    notes = [
        f"Not assessed: {line.title}. {line.reason}"
        for line, criterion in zip(lines(evaluation), evaluation.criteria, strict=True)
        if line.status == "NOT_ASSESSED" and criterion.id.column
    ]
    notes += [
        f"In no slice by {visible(column)}: {count} {unit}{'' if count == 1 else 's'}."
        for column, count in evaluation.counts.in_no_slice.items()
        if count
    ]
    return Section(
        "slices",
        "Slices",
        (
            "The same metrics for parts of the test set, each with its own interval. Many slices are many comparisons: "
            "a difference in one of them is a reason to look, unless the checklist has a criterion for it. All metrics "
            "of every slice are in evaluation.json.",
        ),
        tuple(tables),
        ("figure-slices",),
        tuple(notes),
    )


def _by_reference(evaluation: Evaluation) -> str:
    titles, _ = rows_and_columns(evaluation)
    return f"{unit_of(evaluation).capitalize()}s, from {titles[0]} to {titles[-1]}"


def _gaps(evaluation: Evaluation) -> Section | None:
    """The groups that a criterion on a gap compares."""
    if not evaluation.gaps:
        return None
    level, unit = level_of(evaluation), unit_of(evaluation)
    tables = []
    for name, groups in evaluation.gaps.items():
        rows = tuple(
            (Cell(visible(group.name) if group.name else "blank"), _cell(name.compared, group.rate, level, unit))
            for group in sorted(groups, key=lambda group: -group.rate.value)
        )
        tables.append(Table(title(name), (visible(name.column), title(name.compared)), rows))
    text = (
        "The groups that a criterion compares, best first. A gap passes if the upper limit of the difference between "
        "any two of them meets the rule, each at its own level. Blank cells are a group of their own."
    )
    return Section("gaps", "Gaps between groups", (text,), tuple(tables))


def _readers(evaluation: Evaluation) -> Section | None:
    """The human readers that a criterion compares with."""
    if not evaluation.readers:
        return None
    level, unit = level_of(evaluation), unit_of(evaluation)
    tables = []
    for name, readers in evaluation.readers.items():
        rows = tuple(
            (
                Cell(visible(reader.name)),
                _cell(name.compared, reader.rate, level, unit),
                _cell(name.compared, reader.model, level, unit),
                _cell(name, reader.difference, level, unit, counts=False),
            )
            for reader in readers
        )
        header = ("Reader", "Reader's rate", "Model's rate", "Model minus reader")
        tables.append(Table(title(name.compared), header, rows))
    text = (
        f"Each reader beside the model, on the {unit}s that this reader graded. The criterion is about the mean of "
        "these differences; single readers decide nothing. Nothing is shown about other readers."
    )
    return Section("readers", "Human readers", (text,), tuple(tables))


def _sites(evaluation: Evaluation) -> Section | None:
    found = evaluation.sites
    if found is None:
        return None
    level, unit = level_of(evaluation), unit_of(evaluation)
    names = list(found.spread)

    def row(site: Site) -> tuple[Cell, ...]:
        cells = (_cell(name, site.metrics.get(name), level, unit) for name in names)
        return (Cell(site_name(site)), Cell(str(site.units), (_DOT.join(map(str, site.by_grade)),)), *cells)

    header = ("Site", _by_reference(evaluation), *map(title, names))
    many = len(found.sites)
    folded = f"All {many} sites" if many > SLICES_AT_ONCE else ""
    tables = [Table("By site", header, tuple(map(row, found.sites)), folded)]
    estimable = any(isinstance(spread, Spread) for spread in found.spread.values())
    if estimable:
        shown = ("Metric", "Sites", "Mean of the sites", "A new site", "I²", "tau²", "Q")
        tables.append(Table("How much the sites differ", shown, tuple(starmap(_spread, found.spread.items()))))
    text = [
        f"The test set by {visible(found.column)}, each site with its own interval.",
        f"How much the sites differ, over those with at least {found.fewest} {unit}s in the denominator. A new "
        "site: the interval for the true value of one more such site. I²: the share of the variance that is "
        "between sites. tau²: that variance (arcsine scale). Q: the test that the sites do not differ."
        if estimable
        else "There are too few sites to show how much they differ. A metric needs five sites with at least "
        f"{found.fewest} {unit}s in its denominator.",
        "Nothing is decided on this. In simulations, a criterion on the interval for a new site mostly passed 20 to "
        "60 % of the models that just miss it, because a test set has few sites. A criterion with "
        f"@{visible(found.column)}=each asks for the limit of each site.",
    ]
    blank = next((site for site in found.sites if not site.name), None)
    notes = () if blank is None else (f"No site is given for {_many(blank.units, unit)}: they count as one site.",)
    return Section("sites", "Sites", tuple(text), tuple(tables), ("figure-sites-0", "figure-sites-1"), notes)


def _spread(name: MetricId, spread: Spread | NotEstimable) -> tuple[Cell, ...]:
    if isinstance(spread, NotEstimable):
        return (Cell(title(name)), Cell("–"), Cell("not estimable", (_sentence(spread.reason),)), *[Cell("–")] * 4)
    p = f"p = {spread.p:.3f}" if spread.p >= 0.001 else "p < 0.001"
    return (
        Cell(title(name)),
        Cell(str(spread.sites)),
        Cell(percent(spread.value), (_between(spread.low, spread.high),)),
        Cell(_between(spread.new_low, spread.new_high)),
        Cell(f"{100 * spread.i2:.0f}{_SPACE}%"),
        Cell(f"{spread.tau2:.4f}"),
        Cell(f"{spread.q:.1f}", (p,)),
    )


def _between(low: float, high: float, *, decimals: int = 1) -> str:
    return f"{percent(low, decimals=decimals).removesuffix(f'{_SPACE}%')} to {percent(high, decimals=decimals)}"


def _deployment(evaluation: Evaluation) -> Section | None:
    mix = evaluation.spec.content.get("deployment")
    here = reference_counts(evaluation)
    if mix is None:
        text = (
            "The checklist states no mix of grades for the place where the model will be used: accuracy, specificity, "
            f"group sensitivity and predictive values are at this test set's mix only ({here}). With the key "
            "deployment in the checklist they are also shown at that mix, and so is net benefit."
        )
        return Section("deployment", "Deployment mix", (text,))
    level, unit = level_of(evaluation), unit_of(evaluation)
    asked = {criterion.id for criterion in evaluation.criteria}
    shares = ", ".join(f"{t} {plain_percent(mix[grade])}" for t, grade in zip(TITLES, GRADES, strict=True))

    def row(name: MetricId) -> tuple[Cell, ...]:
        deployed = name.but(deployed=True)
        mark = USED if deployed in asked else ""
        there = _cell(deployed, evaluation.metrics.get(deployed), level, unit, mark)
        return (Cell(title(name)), _cell(name, evaluation.metrics.get(name), level, unit), there)

    names = [name.whole for name in evaluation.metrics if name.deployed]
    first = [n for n in names if n == "accuracy" or (n.group and n.metric != "missed") or n.but(deployed=True) in asked]
    return Section(
        "deployment",
        "Deployment mix",
        (
            f"Each grade's result, weighted to the mix of grades where the model will be used ({shares}), and "
            f"the same at this test set's mix ({here}). {USED} marks what a criterion "
            "uses.",
        ),
        _unfolding(
            "at the deployment mix", ("Metric", "At the test set's mix", "At the deployment mix"), first, names, row
        ),
    )


def _net_benefit(evaluation: Evaluation) -> Section | None:
    found, heading = evaluation.net_benefit, "Net benefit"
    if found is None:
        return None
    if isinstance(found, NotEstimable):
        return Section("net-benefit", heading, (f"Not estimable: {visible(found.reason)}",))

    def model(metric: Metric) -> Cell:
        if isinstance(metric, NotEstimable):
            return Cell("not estimable", (_sentence(metric.reason),))
        if metric.low is None or metric.high is None:
            return Cell(_signed(metric.value))
        return Cell(_signed(metric.value), (f"{_signed(metric.low)} to {_signed(metric.high)}",))

    rows = tuple(
        (Cell(plain_percent(at.threshold)), model(at.model), Cell(_signed(at.refer_all)), Cell("0")) for at in found.at
    )
    text = (
        f"Net benefit per person at the deployment mix ({percent(found.prevalence)} with referable DR): the "
        "share of people referred rightly, minus the share referred needlessly times the odds of the threshold "
        "probability. The threshold is the probability of referable DR from which you would refer. At 10 %, one "
        "missed person weighs as much as nine needless referrals. At each threshold, the choice with the "
        "highest net benefit is the best.",
        "The prevalence is taken as known. The interval takes sensitivity and specificity at both lower limits, and at "
        "both upper ones. Nothing is decided on this. Source: Vickers & Elkin 2006, Medical Decision Making 26:565.",
    )
    header = ("Threshold probability", "Refer by the model", "Refer all", "Refer none")
    return Section("net-benefit", heading, text, (Table(heading, header, rows),), ("figure-net-benefit",))


def _signed(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")


def _prevalence(evaluation: Evaluation) -> Section | None:
    if not evaluation.by_prevalence:
        return None
    heading = "Predictive values over prevalence"

    def value(metric: Metric) -> Cell:
        if isinstance(metric, NotEstimable):
            return Cell("not estimable", (_sentence(metric.reason),))
        if metric.low is None or metric.high is None:
            return Cell(percent(metric.value, decimals=2))
        return Cell(percent(metric.value, decimals=2), (_between(metric.low, metric.high, decimals=2),))

    def row(point: Predictive) -> tuple[Cell, ...]:
        share = plain_percent(point.prevalence) if point.of is None else percent(point.prevalence)
        return (Cell(share, () if point.of is None else (point.of,)), value(point.ppv), value(point.npv))

    header = ("Prevalence", METRICS["ppv"].title, METRICS["npv"].title)
    tables = tuple(
        Table(
            f"{heading}, {GROUP_TITLES[group]}",
            header,
            tuple(map(row, evaluation.by_prevalence[group])),
            "" if group == "referable" else f"{GROUP_TITLES[group]} as numbers",
        )
        for group in endpoints(evaluation)
    )
    text = (
        "What a positive and a negative answer mean where the condition is rarer or more frequent than in this "
        "test set. Sensitivity and specificity are taken not to change with prevalence. With other cameras or "
        "another mix of grades they may change, and then these values do.",
        "The intervals follow from those of the likelihood ratios. Where a ratio has none, they follow from "
        "sensitivity and specificity, each at half the error. Nothing is decided on this.",
    )
    return Section(
        "prevalence", heading, text, tables, tuple(f"figure-prevalence-{group}" for group in endpoints(evaluation))
    )


def endpoints(evaluation: Evaluation) -> list[str]:
    """The groups with predictive values over prevalence, in the order in which they are shown."""
    return sorted(evaluation.by_prevalence, key=lambda group: (group not in WITH_OEDEMA, group))


def site_name(site: Site) -> str:
    """Of a site; "No site given" for those without one."""
    return visible(site.name) or "No site given"


def _units(evaluation: Evaluation) -> Section | None:
    if not evaluation.units:
        return None
    level, judged = level_of(evaluation), unit_of(evaluation)
    found: dict[str, Mapping[MetricId, Metric]] = {judged: evaluation.metrics}
    notes = []
    for unit, metrics in evaluation.units.items():
        if isinstance(metrics, NotEstimable):
            notes.append(f"By {visible(unit)}: not estimable: {visible(metrics.reason)}")
        else:
            found[unit] = metrics
    order = [unit for unit in ("image", "eye", "patient") if unit in found]
    header = ("Metric", *(f"By {unit}{' (judged)' if unit == judged else ''}" for unit in order))
    names = list(KEY_METRICS)
    # By image it is the sensitivity, and has a dash.
    names.insert(names.index(MetricId("sensitivity", "referable")) + 1, MetricId(RIGHT_EYE, "referable"))
    rows = tuple(
        (Cell(title(name)), *(_cell(name, found[unit].get(name), level, unit) for unit in order)) for name in names
    )
    return Section(
        "units",
        "By image, eye and patient",
        (
            "An eye has the grade of its worst image, a patient that of the worse eye. A single grade is hit only by "
            "an image that has it. For a group of grades the worst answer to any image counts, as a patient is "
            "referred for either eye; how often an eye that has it is the reason stands beside. If one eye has no "
            "result, the patient has none.",
        ),
        (Table("By image, eye and patient", header, rows),) if len(order) > 1 else (),
        notes=tuple(notes),
    )


def _probabilities(evaluation: Evaluation) -> Section | None:
    name, heading = "probabilities", "Ranking and calibration"
    level, unit = level_of(evaluation), unit_of(evaluation)
    measures = [name for name, about in METRICS.items() if about.from_probabilities]
    rows = []
    reasons: dict[str, None] = {}
    for end, end_title in {"": "All five grades", **GROUP_TITLES, **dict(zip(GRADES, TITLES, strict=True))}.items():
        ids = [MetricId(measure, end) for measure in measures]
        metrics = [evaluation.metrics.get(one) for one in ids]
        reasons |= dict.fromkeys(metric.reason for metric in metrics if isinstance(metric, NotEstimable))
        if any(isinstance(metric, Estimate) for metric in metrics):
            cells = (_cell(one, metric, level, unit, counts=False) for one, metric in zip(ids, metrics, strict=True))
            rows.append((Cell(end_title), *cells))
    if not rows:
        why = tuple(f"Not estimable: {visible(reason)}" for reason in reasons)
        return Section(name, heading, why) if why else None
    bins = (
        Table(
            f"Reliability, {GROUP_TITLES[endpoint]}",
            ("Predicted probability", f"{unit.capitalize()}s", "Mean predicted", "Observed", "Interval"),
            tuple(map(_bin, found)),
            f"The bins of {GROUP_TITLES[endpoint]} as numbers",
        )
        for endpoint, found in evaluation.reliability.items()
    )
    return Section(
        name,
        heading,
        (
            "Ranking: how well the probability separates those who have the endpoint from those who do not (1 is "
            "perfect, 0.5 is chance).",
            "Calibration: whether the probabilities agree with the observed frequencies. Brier score 0 is perfect, 1 "
            "the worst (2 for all five grades); slope 1 and intercept 0 are perfect, a slope below 1 means "
            "probabilities that are too extreme. The expected calibration error cannot be a criterion: even a "
            "perfectly calibrated model does not have 0, but the value shown with it.",
        ),
        (Table(heading, ("Endpoint", *(METRICS[measure].title for measure in measures)), tuple(rows)), *bins),
        tuple(f"figure-reliability-{endpoint}" for endpoint in evaluation.reliability),
    )


def _bin(one: Bin) -> tuple[Cell, ...]:
    return (
        Cell(f"{one.low:.3f} to {one.high:.3f}"),
        Cell(str(one.n)),
        Cell(percent(one.predicted)),
        Cell(percent(one.observed)),
        Cell(f"{percent(one.observed_low)} to {percent(one.observed_high)}"),
    )


def _gate_error(evaluation: Evaluation) -> Section | None:
    if not evaluation.gate_error:
        return None
    rules = {criterion.id: criterion for criterion in evaluation.criteria}
    rows = []
    for name in dict.fromkeys(error.id for error in evaluation.gate_error):
        errors = [error for error in evaluation.gate_error if error.id == name]
        wrong, missed = ([e for e in errors if e.deserves is deserves] for deserves in (False, True))
        rows.append(
            (
                Cell(title(name)),
                _counted(errors[0], evaluation),
                Cell("", tuple(_false_pass(e, rules.get(name)) for e in wrong)),
                Cell("", tuple(f"{_if_true(e)}: not passed {_chance(1 - (e.passes or 0), e)}" for e in missed))
                if missed
                else Cell("–", ("no expected value stated",) if errors[0].true is not None else ()),
                Cell(", ".join(dict.fromkeys(_how(e) for e in errors))),
            )
        )
    about_the_test_set = any(_of_the_test_set(error) for error in evaluation.gate_error)
    text = (
        "How often each criterion is wrong by chance. A false pass: a model that does not meet the rule passes, here "
        "one just outside the rule (computed at the threshold) and one that errs 1.5 times as often. "
        "A false fail: a model at the true value that the checklist expects does not pass. "
        "Exact: from the binomial distribution, where each patient counts once. Simulated: images of a patient "
        "correlate as the checklist's planning states; ± is the standard error of the simulation, in points. Where "
        "the rate at these counts is not known, the largest that was found in simulated designs stands instead, with "
        "the command that shows it; a design that nobody tried can be worse.",
        *(["Images without a reference grade are of the test set, not of the model."] if about_the_test_set else []),
    )
    header = ("Criterion", "Counts", "False pass", "False fail", "How")
    return Section("gate-error", _BY_CHANCE, text, (Table(_BY_CHANCE, header, tuple(rows)),))


def _of_the_test_set(error: GateError) -> bool:
    return parse_id(error.id).about.of_reference


def _counted(error: GateError, evaluation: Evaluation) -> Cell:
    if error.n is None:
        return Cell("–")
    counted = _many(error.n, "image" if _of_the_test_set(error) else unit_of(evaluation))
    patients = _many(error.patients or 0, "patient")
    if evaluation.counts.patients is None:
        return Cell(counted, (f"taken as {patients}",))
    return Cell(patients, () if counted == patients else (counted,))


def _false_pass(error: GateError, rule: CriterionResult | None) -> str:
    if error.method == "none":
        return visible(error.why or "")
    if error.method == "designs":
        return f"at most {plain_percent(error.passes or 0)}"
    beside = ""
    if rule is not None and error.true == rule.threshold and rule.comparator in (">=", "<="):
        beside = "just below " if rule.comparator == ">=" else "just above "
    return f"{_if_true(error, beside)}: passes {_chance(error.passes or 0, error)}"


def _if_true(error: GateError, beside: str = "") -> str:
    """The true value that a rate is about: of a model, or of the images where the test set comes from."""
    value = f"{beside}{plain_percent(error.true or 0)}"
    return f"{value} of the images have no grade" if _of_the_test_set(error) else f"true {value}"


def _how(error: GateError) -> str:
    if error.method == "designs":
        return f"largest of {error.designs} simulated designs: {visible(error.command or '')}"
    return "–" if error.method == "none" else error.method


def _chance(probability: float, error: GateError) -> str:
    spread = f" ± {100 * error.se:.1f}" if error.se is not None else ""
    return f"{percent(probability)}{spread}"


def _looks(evaluation: Evaluation) -> Section | None:
    """What the chain of looks says besides its number."""
    look = evaluation.look
    if not (look.overlapping or look.favouring or look.regraded):
        return None
    changed, listed = look.regraded_count, len(look.regraded)
    first = "" if changed == listed else f", the first {listed}"
    tables = (
        _listed(
            "Test sets that share images or patients",
            ("Test set that overlaps", "Looks at it", "Images shared", "Patients shared"),
            ((one.name, one.looks, one.images, one.patients) for one in look.overlapping),
        ),
        _listed(
            "Which models the changed grades favour",
            ("Look that saw other grades", "Time", "Model", "Grades changed since", "In that model's favour"),
            (
                (one.look, one.time, "this one" if one.same_model else "another", one.changed, one.favouring)
                for one in look.favouring
            ),
        ),
        _listed(
            "Images whose reference grade changed",
            ("Image", "Was", "Is now"),
            ((one.image, _grade(one.before), _grade(one.to)) for one in look.regraded),
            f"Images whose reference grade changed: {changed}{first}",
        ),
    )
    text = (
        "Looks at test sets that share images or patients with this one count as looks at it. Reference grades that "
        "changed since an earlier look are compared with it. A change favours that look's model if it turns an error "
        "of the model into a correct grade, or removes the image from the count.",
    )
    return Section("looks", "Looks at these images", text, tuple(table for table in tables if table.rows))


def _listed(label: str, header: tuple[str, ...], rows: Iterable[Iterable[object]], folded: str = "") -> Table:
    return Table(label, header, tuple(tuple(Cell(visible(value)) for value in row) for row in rows), folded)


def _grade(value: int | str) -> str:
    return TITLES[value] if isinstance(value, int) else value


def _unfolding(
    label: str,
    header: tuple[str, ...],
    first: Sequence[MetricId],
    names: Sequence[MetricId],
    row: Callable[[MetricId], tuple[Cell, ...]],
) -> tuple[Table, ...]:
    """A table of what matters first and, folded, one of the rest."""
    rest = [name for name in names if name not in first]
    tables = [Table(f"Metrics {label}", header, tuple(map(row, first)))] if first else []
    if rest:
        folded = f"{'Further' if first else 'All'} metrics: {len(rest)}"
        tables.append(Table(f"Further metrics {label}", header, tuple(map(row, rest)), folded))
    return tuple(tables)


def _cell(
    name: MetricId, metric: Metric | None, level: float, unit: str, mark: str = "", *, counts: bool = True
) -> Cell:
    """A metric with its counts and interval; a dash where there is no such metric."""
    if metric is None:
        return Cell("–")
    line = metric_line(name, metric, level, unit)
    if line.reason:
        return Cell("not estimable", (_sentence(line.reason),), mark)
    more = [line.counts if counts else "", line.interval, line.expected and f"{line.expected} if perfectly calibrated"]
    return Cell(line.value, tuple(part for part in more if part), mark)


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _sentence(text: str) -> str:
    return visible(text[:1].upper() + text[1:])
