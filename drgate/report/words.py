"""What all formats say in the same words: verdict, rules, numbers, criteria.

    for line in lines(evaluation):
        print(line.symbol, line.title, line.counts, line.value, line.interval, line.rule, line.outcome)

Every string that comes back may contain text of the evaluation, with control characters and other characters that
do not print made visible; the caller still escapes it for its own format.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from drgate.certificate.statement import expiry, lineage
from drgate.checklist import RULE_WORDS, fact, level_words
from drgate.errors import visible as visible  # every format shows text through it
from drgate.evaluation import (
    CriterionResult,
    Estimate,
    Evaluation,
    Look,
    Metric,
    Model,
    NotEstimable,
    Origin,
    Status,
    TestSet,
)
from drgate.metrics import AUDITED, MetricId, parse_id
from drgate.scale import GRADES, REFERABLE_CLASSES, SCALE_TITLES, TITLES, Kind, On

SYMBOLS: Final[dict[Status, str]] = {
    "PASS": "✓",
    "OBSERVED": "○",
    "FAIL": "✗",
    "INSUFFICIENT": "?",
    "NOT_ASSESSED": "–",
}
OUTCOMES: Final[dict[Status, str]] = {
    "PASS": "Pass",
    "OBSERVED": "Observed",
    "FAIL": "Fail",
    "INSUFFICIENT": "Not enough evidence",
    "NOT_ASSESSED": "Not assessed",
}
BARRED: Final = "Cannot pass"
"""The outcome of a criterion that only the test set keeps from passing."""
_NAMED: Final = 3
"""Criteria that the line under the headline names of each kind."""
_SPACE: Final = "\N{NO-BREAK SPACE}"
SIGNS: Final = {">=": "≥", ">": ">", "<=": "≤", "<": "<"}
_METHODS: Final = {
    "clopper-pearson": "Clopper-Pearson",
    "wilson": "Wilson",
    "delong": "DeLong",
    "obuchowski": "Obuchowski",
    "newcombe": "Newcombe",
    "bca": "BCa",
    "patient sandwich": "sandwich variance, clustered by patient",
}
_STATED: Final = {"Intended use": "intended_use", "Reference standard": "reference", "Kind of test set": "test_set"}
_SETTINGS: Final = {
    "selected_here": "model selected on these images",
    "warm_start_inside": "training restarted within the epochs that stability is judged on",
    "percent": "training history in percent, not fractions",
    "line": "digest of this look's entry in the log",
    "dealt_by_seed": "seed by which training split the patients",
}
"""Settings whose key does not say what they mean."""
_METHOD: Final = re.compile(rf"\b({'|'.join(_METHODS)})\b")
_NARROW: Final = "\N{NARROW NO-BREAK SPACE}"
Decisive = Literal["low", "high", "value", "both"]


@dataclass(frozen=True, slots=True)
class Line:
    """One criterion in words.

    counts: "57 of 60", or empty where the quantity is no proportion.
    value, low, high: with as many digits as it takes to see on which side of the threshold they are; empty where there
        is none.
    interval: "83.7 to 99.3 %", with the level where it is not 95 %.
    decisive: which of value, low and high the rule is about, "both" limits where it has two ends; decides: the same in
        words, "lower limit 83.7 %".
    rule: "at least 95 %", "between 0.8 and 1.25"; short_rule: "≥ 95 %"; basis: "on the lower limit", "on the estimate".
    added: "safety" or "audit" for a criterion that the owner's checklist did not have.
    advice: "required", "advisory" or "advisory, added for safety", "required, added for the audit".
    would_pass: it meets the rule, and nothing can pass on this test set (`barred`).
    all_comers: the same with images without output as the worst case, "of all 200: 181 (90.5 %), lower limit 85.6 %",
        or the share that an index leaves out; empty where nothing is left out.
    """

    id: str
    title: str
    status: Status
    symbol: str
    outcome: str
    counts: str
    value: str
    low: str
    high: str
    interval: str
    decisive: Decisive
    decides: str
    rule: str
    short_rule: str
    basis: str
    required: bool
    added: str
    advice: str
    reason: str
    would_pass: bool
    all_comers: str


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One metric in words; `reason` is filled, and the rest empty, where the data do not define it.

    family: the heading above it; name: what remains of the title there.
    expected: what a perfectly calibrated model would show, of a calibration error.
    """

    id: str
    title: str
    family: str
    name: str
    counts: str = ""
    value: str = ""
    interval: str = ""
    method: str = ""
    bootstrap: str = ""
    patients: str = ""
    design_effect: str = ""
    expected: str = ""
    reason: str = ""


def headline(evaluation: Evaluation) -> str:
    """The verdict as one sentence, as the certificate has it."""
    return visible(evaluation.headline)


def barred(evaluation: Evaluation) -> str:
    """Why nothing can pass on this test set, once for all criteria; empty where something can."""
    if not evaluation.barred:
        return ""
    meant = f' "{BARRED}": the rule is met on these images, but nothing can pass on them.'
    met = any(criterion.would_pass for criterion in evaluation.criteria)
    return f"Nothing can pass on this test set. {visible(evaluation.barred)}{meant if met else ''}"


_UNNAMED: Final = "{have} no confidence interval, because patients are not named"


def cause(evaluation: Evaluation) -> str:
    """Which required criteria are not met, by the kind of reason; empty where all are met.

    Those that only the test set keeps from passing are counted without their names: `barred` gives the reason.
    """
    required = [criterion for criterion in evaluation.criteria if criterion.required]
    groups: dict[str, list[CriterionResult]] = {}
    for criterion in required:
        if criterion.status not in ("PASS", "OBSERVED"):
            groups.setdefault(_cause(criterion), []).append(criterion)
    order = (
        "failed",
        _UNNAMED,
        "{have} too few patients",
        "{have} not enough evidence",
        "{were} not assessed",
        "cannot pass",
    )
    parts: list[str] = []
    for kind in (kind for kind in order if kind in groups):
        found = groups[kind]
        many = len(found) != 1
        count = str(len(found)) if parts else f"{len(found)} of {len(required)} required criteria"
        text = f"{count} {kind.format(have='have' if many else 'has', were='were' if many else 'was')}"
        if kind != "cannot pass":
            names = [title(criterion.id) for criterion in found[:_NAMED]]
            names += [f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else []
            text += f": {'; '.join(names)}"
        parts.append(f"{text}.")
    return " ".join(parts)


def _cause(criterion: CriterionResult) -> str:
    """Why a required criterion is not met, as the end of a sentence."""
    if criterion.would_pass:
        return "cannot pass"
    if criterion.status == "FAIL":
        return "failed"
    if criterion.status == "NOT_ASSESSED":
        return "{were} not assessed"
    found = criterion.estimate
    if isinstance(found, Estimate) and found.kind in ("proportion", "index") and found.low is None:
        return _UNNAMED
    counted = isinstance(found, Estimate) and found.k is not None
    return "{have} too few patients" if counted else "{have} not enough evidence"


def chance(evaluation: Evaluation) -> str:
    """How often a model just outside a rule passes it all the same, at most; empty where no criterion has a rate.

    A criterion on the test set itself says nothing of a model, and what was not assessed passes nobody.
    """
    asked = [one for one in evaluation.criteria if one.required and one.status != "NOT_ASSESSED"]
    of_models = {one.id for one in asked if not parse_id(one.id).about.of_reference}
    errors = [error for error in evaluation.gate_error if error.id in of_models and not error.deserves]
    rates = {error: error.passes for error in errors if error.passes is not None}
    if not rates:
        return ""
    worst = max(rates, key=lambda error: rates[error])
    often = f"{percent(rates[worst])} of test sets like this one"
    if worst.method == "designs":
        often = f"at most {plain_percent(rates[worst])} of simulated test sets"
    most = ", the most of all required criteria" if len({error.id for error in errors}) > 1 else ""
    return f"By chance, a model just outside the rule passes {title(worst.id)} in {often}{most}."


def under_headline(evaluation: Evaluation) -> list[str]:
    """What stands first under the headline: what an export lost, what the audit found, another order of the classes
    that would agree far better, how little an OBSERVED shows, why nothing can pass, what is not met."""
    observed = ""
    if evaluation.verdict == "OBSERVED":
        observed = chance(evaluation) or "How often a model just outside the rules meets them by chance is not known."
    order = visible(evaluation.reordered or "")
    texts = (lost(evaluation), audited(evaluation), order, observed, barred(evaluation), cause(evaluation))
    return [text for text in texts if text]


def lost(evaluation: Evaluation) -> str:
    """Which criteria the model met that this one was exported from, and the exported file does not; empty without."""
    parent, met = evaluation.model.parent, ("PASS", "OBSERVED")
    if parent is None:
        return ""
    names = [
        title(one.id)
        for one in evaluation.criteria
        if one.id in parent.criteria and parent.criteria[one.id].status in met and one.status not in met
    ]
    return (
        f"Lost in the export: {'; '.join(names)}. {visible(parent.name)} met {'this' if len(names) == 1 else 'these'}."
        if names
        else ""
    )


def directions(evaluation: Evaluation) -> tuple[str, str]:
    """Which way an answer changes: upwards and downwards on its scale, whatever the reference says."""
    refers = evaluation.counts.answer_scale == "referable"
    return ("now referred", "no longer referred") if refers else ("more severe", "milder")


def exported(evaluation: Evaluation) -> list[str]:
    """What an export changed in the answers, in sentences; empty where it was not compared."""
    found = evaluation.model.parent and evaluation.model.parent.changes
    if not found:
        return []
    flips = sum(flip.images for flip in found.flips)
    higher = sum(flip.images for flip in found.flips if flip.after > flip.before)
    what = "answer" if evaluation.counts.answer_scale == "referable" else "grade"
    up, down = directions(evaluation)
    lines = [
        f"Of {found.images} images, {flips or 'none'} {'has' if flips == 1 else 'have'} another {what} than from the "
        "model that it was exported from" + (f": {higher} {up}, {flips - higher} {down}." if flips else ".")
    ]
    if found.lost:
        lines.append(f"Without an answer, though that model gave one: {found.lost}.")
    number = "the number that it answers with" if evaluation.model.output == "regression" else "a probability"
    lines.append(f"The largest change of {number} is {found.largest:.2g}.")
    difference = found.difference
    if isinstance(difference, NotEstimable):
        lines.append(f"The difference in accuracy is not estimable: {visible(difference.reason)}")
    elif difference is not None and found.margin is not None:
        ends = _interval(difference, None, level_of(evaluation), signed=True)
        counts = evaluation.counts
        grades = counts.answer_scale == counts.reference_scale == "grades"
        share = "Accuracy" if grades else "The share that is rightly referred or not referred"
        lines.append(
            f"{share} changes by {amount(difference.value, difference.kind, None, signed=True)}"
            f"{f' (interval {ends})' if ends else ''}. That it falls by less than {100 * found.margin:g} points is "
            f"{'shown' if found.shown else 'not shown'}. The verdict does not rest on it."
        )
    if found.calibration:
        digest = found.calibration.digest[:19]
        lines.append(
            f"Calibrated on {found.calibration.images} photographs ({digest}...). None is a file of the test "
            "set, or shows a named patient of it; copies that were saved again are not noticed."
        )
    return lines


def audited(evaluation: Evaluation) -> str:
    """What the audit of the test set found, in one paragraph; empty without one, which page one says."""
    audit = evaluation.data.audit
    if audit is None:
        return ""
    parts = []
    for status, words in (("found", "found"), ("suspected", "suspected"), ("clean", "nothing found in")):
        counted = status != "clean"
        named = [
            AUDITED[one.id].lower() + (f" ({one.count})" if counted else "")
            for one in audit.checks
            if one.id in AUDITED and one.status == status
        ]
        parts += [f"{words}: {', '.join(named)}"] if named else []
    missing = [AUDITED[one.id].lower() for one in audit.checks if one.id in AUDITED and one.status == "not_assessed"]
    parts += [f"not checked: {', '.join(missing)}"] if missing else []
    text = f"Audit{' (given, not made in this run)' if audit.given else ''}. {'. '.join(map(_capitalised, parts))}."
    return f"{text} No answer was judged, because the model knows these images." if evaluation.leaks else text


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def tags(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What the tags of criteria mean, of those that are there."""
    meant = {
        "safety": "a criterion added for patient safety",
        "audit": "a check of the audit that found something and that the checklist does not list",
    }
    return [(tag, text) for tag, text in meant.items() if any(one.added == tag for one in evaluation.criteria)]


def verdict_word(evaluation: Evaluation) -> str:
    """The verdict in two or three words."""
    word = OUTCOMES[evaluation.verdict]
    return f"{word} with warnings" if evaluation.verdict == "PASS" and evaluation.warnings else word


def subject_name(evaluation: Evaluation) -> str:
    """Name of the model, or of the table of predictions, that was judged."""
    return visible(evaluation.model.title)


def checklist_name(evaluation: Evaluation) -> str:
    """Name and version of the checklist."""
    return visible(f"{evaluation.spec.name} version {evaluation.spec.version}")


def test_set_name(evaluation: Evaluation) -> str:
    """Name of the test set, with its split where there is one."""
    split = evaluation.data.split
    return visible(evaluation.data.name + (f" (split {split})" if split else ""))


def decision_rule(evaluation: Evaluation) -> str:
    """What a criterion is decided on."""
    if evaluation.observed_only:
        text = "Each criterion is decided on its estimate alone."
    else:
        both = any(c.ceiling is not None for c in evaluation.criteria)
        text = (
            f"A proportion passes if the lower limit of its {level_name(evaluation)} confidence interval meets the "
            f"rule (for error rates, the upper limit{'; for a rule with two ends, both limits' if both else ''}). "
            f"{chance(evaluation)}".rstrip()
        )
    what, side = ("estimate", "estimate") if evaluation.observed_only else ("limit", "upper limit")
    if any(criterion.all_comers for criterion in evaluation.criteria):
        points = f"{100 * _allowance(evaluation):.10g}"
        shown = {_leaves_out(criterion) for criterion in evaluation.criteria if criterion.all_comers}
        if False in shown:
            text += (
                f' "Of all" counts each {unit_of(evaluation)} without output as the worst answer: this {what} may miss '
                f"the rule by {points} points at most."
            )
        if True in shown:
            text += f' "Left out" may be {points} % at most, on its {side}.'
    return text


def intervals(evaluation: Evaluation) -> str:
    """How the intervals of proportions are made."""
    method = _method(str(evaluation.spec.content["evidence"].get("interval")))
    return (
        f"{method} intervals, widened where several images come from one patient (see the design effect under All "
        "metrics). Points are percentage points."
    )


def about_reasons(evaluation: Evaluation) -> str:
    """What must be known to read the reasons; empty where it concerns none of them."""
    if any(line.status == "INSUFFICIENT" for line in unmet(evaluation)):
        return f"{OUTCOMES['INSUFFICIENT']} does not mean that the model is worse than the rule."
    return ""


def level_of(evaluation: Evaluation) -> float:
    """The two-sided level of the intervals: the checklist's, or narrower error where several looks are allowed."""
    levels = [c.estimate.level for c in evaluation.criteria if isinstance(c.estimate, Estimate)]
    content = evaluation.spec.content
    whole = 1 - (1 - float(content["evidence"]["level"])) / max(int(content.get("looks", 1)), evaluation.look.allowed)
    return next((x for x in levels if x is not None), whole)


def level_name(evaluation: Evaluation) -> str:
    """The level of the intervals as people write it."""
    return level_words(level_of(evaluation))


def unit_of(evaluation: Evaluation) -> str:
    """What was judged: image, eye or patient."""
    return evaluation.counts.unit


def lines(evaluation: Evaluation) -> list[Line]:
    """The criteria, in the order of the checklist."""
    level, unit = level_of(evaluation), unit_of(evaluation)
    return [_line(criterion, level, unit, _allowance(evaluation)) for criterion in evaluation.criteria]


def _allowance(evaluation: Evaluation) -> float:
    """By how much a figure over all may miss its rule."""
    return float(evaluation.spec.content.get("all_comers_allowance", 0.0))


def unmet(evaluation: Evaluation) -> list[Line]:
    """The criteria that are not met, required ones first: those whose reasons a reader wants.

    Those that only the test set keeps from passing are left out: `barred` says why, once for all of them. So are those
    that no answer was judged by, where the audit found a leak.
    """
    found = [line for line in lines(evaluation) if line.status not in ("PASS", "OBSERVED") and not line.would_pass]
    if evaluation.leaks:
        found = [line for line in found if parse_id(line.id).metric == "audit"]
    return sorted(found, key=lambda line: not line.required)


def metric_lines(evaluation: Evaluation) -> list[MetricLine]:
    """The metrics of the whole test set at its own mix of grades, in the order of the evaluation."""
    level, unit = level_of(evaluation), unit_of(evaluation)
    found = evaluation.metrics.items()
    return [metric_line(name, metric, level, unit) for name, metric in found if name == name.whole]


def bootstrap_label(evaluation: Evaluation) -> str:
    """What kind of interval is shown for comparison with the one that decides."""
    content = evaluation.spec.content.get("bootstrap") or {}
    kind = {"percentile": "percentile", "bca": "BCa"}.get(str(content.get("interval", "percentile")), "")
    fixed = ", class totals fixed" if content.get("class_totals") == "fixed" else ""
    return f"Bootstrap interval ({kind}{fixed}), for comparison"


def summary(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What was judged in four short facts, with the classes of a model that has names for them, and with cut-offs where
    grades are not by the highest probability."""
    model, counts = evaluation.model, evaluation.counts
    patients = "number of patients unknown" if counts.patients is None else f"of {_many(counts.patients, 'patient')}"
    files = [*_whole(evaluation), *(f"file {_short(file.sha256)}" for file in model.files[:1])]
    return [
        (visible(model.kind).capitalize(), ", ".join([subject_name(evaluation), *files])),
        ("Test set", f"{test_set_name(evaluation)}, {_contents(evaluation.data)}"),
        ("Size", f"{_many(counts.images, 'image')}{', ' if counts.patients is None else ' '}{patients}"),
        ("Look", f"{_look(evaluation.look)}. A look is one model evaluated on these images."),
        *_classes(model),
        *(scored(model) if model.precision not in (None, "fp32") else []),
        *_graded_by(evaluation.data),
    ]


def _whole(evaluation: Evaluation) -> list[str]:
    """The digest by which a model is told apart: its first file can be that of another model, with other weights."""
    digest = evaluation.model.tensor_digest
    return [f"model {_short(digest)}"] if digest else []


def judged(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What was judged, on what, by whom it was graded: label and text, for page one."""
    data, model, look, counts = evaluation.data, evaluation.model, evaluation.look, evaluation.counts
    content, subject = evaluation.spec.content, subject_name(evaluation)
    named = [f"{visible(model.kind)} {subject}", *_whole(evaluation)]
    files = [(visible(file.name), _short(file.sha256)) for file in model.files]
    named += [f"file {digest}" if name == subject else f"file {name}: {digest}" for name, digest in files]
    images = [f"{counts.images} graded"]
    if counts.unit != "image":
        images += [f"judged by {counts.unit}, {counts.units} in all"]
    if evaluation.leaks:
        images += ["no answer was judged"]
    elif refused := sum(evaluation.no_output):
        images += [f"{refused} without an answer from the model"]
    if counts.reference_ungradable:
        images += [f"{counts.reference_ungradable} more that the reference could not grade, outside every count"]
    decided = "the estimate (observed)" if evaluation.observed_only else "a limit of the interval"
    meaning = visible(content.get("description") or "")
    return [
        ("Model", "; ".join(named)),
        *([("Answers", _ANSWERS[model.output])] if model.output in _ANSWERS else []),
        ("Checklist", f"{checklist_name(evaluation)}, decided on {decided}; {_short(evaluation.spec.digest)}"),
        *([("Description", meaning)] if meaning else []),
        *scored(model),
        *_graded_by(data),
        ("Test set", f"{test_set_name(evaluation)}; {_contents(data)}"),
        ("Images", "; ".join(images)),
        ("Patients", "unknown" if counts.patients is None else str(counts.patients)),
        ("Reference grades", reference_counts(evaluation)),
        ("Look", _look(look) + (f"; {visible(look.time)}" if look.time else "")),
        ("Validity", _holds(evaluation)),
        ("Training data", _lineage(evaluation)),
        *(
            (label, stated)
            for label, part in _STATED.items()
            if (stated := _stated(content.get(part, {})))  # page one names what is not stated
        ),
    ]


def flagged(evaluation: Evaluation) -> list[tuple[str, list[str]]]:
    """The images predicted below referable, worst first: "PDR predicted as No DR", and their names."""
    groups: dict[tuple[int, int], list[str]] = {}
    for image in evaluation.flagged:
        groups.setdefault((image.grade, image.predicted or 0), []).append(visible(image.image))
    worst_first = sorted(groups, key=lambda pair: (-pair[0], pair[1]))
    if evaluation.counts.answer_scale == "referable":
        return [(f"{TITLES[grade]} not referred", groups[grade, as_]) for grade, as_ in worst_first]
    return [(f"{TITLES[grade]} predicted as {TITLES[as_]}", groups[grade, as_]) for grade, as_ in worst_first]


def rows_and_columns(evaluation: Evaluation) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Titles of what the reference tells apart, and of what the model answers."""
    answers = TITLES if evaluation.counts.answer_scale == "grades" else ("Not referred", "Referred")
    return SCALE_TITLES[evaluation.counts.reference_scale], answers


def reference_counts(evaluation: Evaluation) -> str:
    """How many units of the test set have each grade: "No DR 12, ..."."""
    titles, counts = rows_and_columns(evaluation)[0], evaluation.counts.by_grade
    return ", ".join(f"{title} {n}" for title, n in zip(titles, counts, strict=True))


def settings(evaluation: Evaluation) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything that the numbers depend on, by section: label and text."""
    plain = evaluation.to_json()
    if point := plain["data"].get("operating_point"):  # the rest of it is a list of tuning images
        plain["data"]["operating_point"] = {key: point[key] for key in ("cut_offs", "digest")}
    content = {key: value for key, value in evaluation.spec.content.items() if key != "criteria"}
    shown = {"warnings", "by_grade", "slices", "in_no_slice", "overlapping", "regraded", "favouring"}
    shown.add("history")
    found = {"predictions_digest": evaluation.predictions_digest, "bootstrap_seed": evaluation.bootstrap_seed}
    sections: list[tuple[str, Mapping[str, Any]]] = [
        ("Model", plain["model"]),
        ("Data", plain["data"] | plain["counts"] | found),
        ("Training", plain["training"]),
        ("Look", plain["look"]),
        ("Checklist", {"digest": evaluation.spec.digest, **content}),
        ("Software", evaluation.software),
    ]
    return [
        (title, list(_pairs({key: value for key, value in section.items() if key not in shown})))
        for title, section in sections
    ]


def percent(value: float, *, against: float | None = None, decimals: int = 1) -> str:
    """A fraction as a percentage with so many digits, or as many more as it takes to tell it from `against`.

    A limit of 0.9496 against a threshold of 0.95 must not read "95.0 %", nor 0.99962 "100.0 %".

    >>> percent(0.9496, against=0.95), percent(0.95, against=0.95), percent(0.99962)
    ('94.96\\xa0%', '95.0\\xa0%', '>\\u202f99.9\\xa0%')
    """
    return f"{_within(100 * value, decimals, None if against is None else 100 * against, 0.0, 100.0)}{_SPACE}%"


def plain_percent(value: float) -> str:
    """A fraction as it was written, such as a threshold, as a percentage."""
    return f"{100 * value:.10g}{_SPACE}%"


def signature(certificate: str | None) -> str:
    """Who signed."""
    if certificate is None:
        return "Unsigned."
    return f"Signed: {visible(certificate)}."


def _line(criterion: CriterionResult, level: float, unit: str, allowance: float) -> Line:
    favours_more, ceiling = criterion.comparator in (">=", ">"), criterion.ceiling
    decisive: Decisive = "value" if criterion.decided_on == "point" else "low" if favours_more else "high"
    if decisive == "low" and ceiling is not None:
        decisive = "both"
    side = {"low": "lower limit", "high": "upper limit", "value": "estimate", "both": "interval"}[decisive]
    estimate = criterion.estimate
    kind = estimate.kind if isinstance(estimate, Estimate) else criterion.id.about.kind
    signed = _signed(criterion.id)
    shown = {"value": "", "low": "", "high": ""}
    if isinstance(estimate, Estimate):
        for name in ("value", "low", "high"):
            number = getattr(estimate, name)
            if number is not None:
                near = ceiling if ceiling is not None and name == "high" else criterion.threshold
                shown[name] = amount(number, kind, near, signed=signed)
    shown["both"] = f"{shown['low']} to {shown['high']}" if shown["low"] else ""
    limit = _threshold(criterion.threshold, kind, signed=signed)
    most = "" if ceiling is None else _threshold(ceiling, kind, signed=signed)
    reason = visible(criterion.reason).removeprefix(
        f"{OUTCOMES['NOT_ASSESSED']}: "
    )  # the outcome is shown before the reason
    return Line(
        id=visible(criterion.id),
        title=title(criterion.id),
        status=criterion.status,
        symbol=SYMBOLS[criterion.status],
        outcome=BARRED if criterion.would_pass else OUTCOMES[criterion.status],
        counts=_counts(estimate, unit),
        value=shown["value"],
        low=shown["low"],
        high=shown["high"],
        interval=_interval(estimate, criterion.threshold, level, signed=signed),
        decisive=decisive,
        decides=f"{side} {shown[decisive]}" if shown[decisive] else "",
        rule=f"{RULE_WORDS[criterion.comparator]} {limit}" if ceiling is None else f"between {limit} and {most}",
        short_rule=f"{SIGNS[criterion.comparator]}{_SPACE}{limit}" if ceiling is None else f"{limit} to {most}",
        basis=f"on the {side}",
        required=criterion.required,
        added=visible(criterion.added),
        advice=("required" if criterion.required else "advisory")
        + (f", added for {_FOR.get(criterion.added, visible(criterion.added))}" if criterion.added else ""),
        reason=reason[:1].upper() + reason[1:],
        would_pass=criterion.would_pass,
        all_comers=_all_comers(criterion, allowance),
    )


_FOR: Final = {"audit": "the audit"}


def _leaves_out(criterion: CriterionResult) -> bool:
    """Whether `_all_comers` shows the share that is left out, as for an index."""
    found = criterion.all_comers
    if found is None or isinstance(found, NotEstimable) or found.k is None:
        return False
    return criterion.id.about.kind != "proportion"


def _all_comers(criterion: CriterionResult, allowance: float) -> str:
    """What a criterion's figure would be over images without output too."""
    found = criterion.all_comers
    if found is None:
        return ""
    if isinstance(found, NotEstimable):
        return f"of all not estimable: {visible(found.reason)}"
    share = criterion.id.about.kind == "proportion"
    upward = share and criterion.comparator in (">=", ">")
    limit, side = (found.low, "lower") if upward else (found.high, "upper")
    near = (criterion.threshold if share else 0.0) + (-allowance if upward else allowance)
    value = percent(found.value, against=near)
    if found.k is None:
        text = f"of all: {value}"
    elif share:
        text = f"of all {found.n}: {found.k} ({value})"
    else:
        text = f"left out: {found.k} of {found.n} ({value})"
    return text + ("" if limit is None else f", {side} limit {percent(limit, against=near)}")


def metric_line(name: MetricId, metric: Metric, level: float, unit: str) -> MetricLine:
    """One metric.

    level: two-sided, of the intervals; one at another level says so. unit: what `n` counts: image, eye or patient.
    """
    family = name.about.title if name.target else "Overall"
    short = title(name).removeprefix(f"{family}, ")
    if isinstance(metric, NotEstimable):
        return MetricLine(visible(name), title(name), family, short, reason=visible(metric.reason))
    signed = _signed(name)
    bootstrap = ""
    if metric.bootstrap in ((0.0, 0.0), (1.0, 1.0)):  # every resample of all or nothing is all or nothing
        bootstrap = "–"
    elif metric.bootstrap is not None:
        bootstrap = _range(*metric.bootstrap, metric.kind, None, signed=signed)
        if metric.bootstrap_undefined:
            bootstrap += f" ({metric.bootstrap_undefined} resamples without a value)"
    return MetricLine(
        id=visible(name),
        title=title(name),
        family=family,
        name=short,
        counts=_counts(metric, unit),
        value=amount(metric.value, metric.kind, None, signed=signed),
        interval=_interval(metric, None, level, signed=signed),
        method=_method(metric.method or ""),
        bootstrap=bootstrap,
        patients="" if metric.clusters is None else str(metric.clusters),
        design_effect="" if metric.design_effect is None else f"{metric.design_effect:.2f}",
        expected="" if metric.expected is None else amount(metric.expected, metric.kind, None),
    )


def title(metric_id: str) -> str:
    """A metric id for people: `sensitivity:pdr@camera=A` is "Sensitivity, PDR (camera A)"."""
    return visible(parse_id(metric_id).label)


def _signed(name: MetricId) -> bool:
    """Whether it is a difference that can favour either side."""
    return name == "baseline" or name.metric == "noninferior"


def _digits(value: float, decimals: int, *landmarks: float | None) -> str:
    """The number with `decimals` digits, or as many more as it takes to tell it from each landmark that it is not."""
    others = [mark for mark in landmarks if mark is not None and mark != value]
    while decimals < 6 and any(f"{value:.{decimals}f}" == f"{mark:.{decimals}f}" for mark in others):
        decimals += 1
    return f"{value:.{decimals}f}".replace("-", "−")


def _within(value: float, decimals: int, against: float | None, *ends: float) -> str:
    """As `_digits`; what would read as an end that it is not is "> 99.9", not the digits that it takes."""
    shown = _digits(value, decimals, against)
    for end in ends:
        # A sum of weights is 1 but for its last digit: that is no difference.
        if float(shown.replace("−", "-")) == end and not math.isclose(value, end, abs_tol=1e-9):
            decimals = len(shown.partition(".")[2])
            inside = f"{end + math.copysign(10**-decimals, value - end):.{decimals}f}"
            return f"{'<' if value > end else '>'}{_NARROW}{inside}"
    return shown


def amount(value: float, kind: str, against: float | None, *, signed: bool = False) -> str:
    if kind in ("range", "difference") or signed:  # signed: a difference that can favour either side
        sign = "+" if signed and value > 0 else ""
        return f"{sign}{_digits(100 * value, 1, None if against is None else 100 * against)}{_SPACE}points"
    if kind == "amount":
        return f"{_digits(value, 2, against)}{_SPACE}USD"
    if kind == "count":
        return f"{value:.0f}"
    if kind == "index":  # no end of those that may exceed it, such as a calibration slope
        return _within(value, 3, against, 1.0) if value <= 1 else _digits(value, 3, against)
    return percent(value, against=against)


def _threshold(value: float, kind: str, *, signed: bool) -> str:
    if kind in ("range", "difference") or signed:
        return f"{100 * value:.10g}{_SPACE}points".replace("-", "−")
    if kind == "amount":
        return f"{value:g}{_SPACE}USD"
    return f"{value:g}".replace("-", "−") if kind in ("index", "count") else plain_percent(value)


def _range(low: float, high: float, kind: str, against: float | None, *, signed: bool) -> str:
    upper = amount(high, kind, against, signed=signed)
    lower = amount(low, kind, against, signed=signed).partition(_SPACE)[0]
    return f"{lower} to {upper}"


def _interval(estimate: Metric, against: float | None, level: float, *, signed: bool) -> str:
    if not isinstance(estimate, Estimate) or estimate.low is None or estimate.high is None:
        return ""
    other = "" if estimate.level in (None, level) else f" (level {level_words(estimate.level or 0)})"
    return _range(estimate.low, estimate.high, estimate.kind, against, signed=signed) + other


def _counts(estimate: Metric, unit: str) -> str:
    if not isinstance(estimate, Estimate) or estimate.n is None:
        return ""
    if estimate.k is not None:
        return f"{estimate.k} of {estimate.n}"
    if estimate.kind == "proportion":  # at another mix of grades it is a weighted mean: no count of anything
        return ""
    if estimate.kind == "count":
        return f"{estimate.value:.0f} in {estimate.n}"
    return _many(estimate.n, {"range": "evaluation", "amount": "attempt"}.get(estimate.kind, unit))


def counts(by_class: Mapping[str, int]) -> str:
    """Counts by class, such as "No DR 3, Mild NPDR 2"."""
    titles = dict(zip((*GRADES, *REFERABLE_CLASSES), (*TITLES, *SCALE_TITLES["referable"]), strict=True))
    return ", ".join(f"{titles.get(name, name)} {count}" for name, count in by_class.items())


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _look(look: Look) -> str:
    if not look.number:
        return "none was taken, because the audit found a leak"
    return f"{look.number}{'; only' if look.used_up else ' of'} {look.allowed} allowed"


def _holds(evaluation: Evaluation) -> str:
    until = expiry(evaluation) if evaluation.look.time else None
    if until:
        return f"until {until}"
    return "no expiry date; the gate's policy can set a maximum age, counted from the look"


def _lineage(evaluation: Evaluation) -> str:
    """Where the weights come from, and whether all images that they have seen are known."""
    found, parent = lineage(evaluation), evaluation.training.parent
    began = ""
    if isinstance(parent, Origin):
        how = {"init_from": "a warm start from", "resume_from_checkpoint": "resumed from"}.get(parent.how or "", "from")
        named = f"attempt {visible(parent.attempt)}, " if parent.attempt else ""
        began = f"{how} {named}{_short(parent.tensor_digest or parent.sha256)}; "
    why = f" ({visible(found.why).rstrip('.')})" if found.why else ""
    return f"{began}training sets {found.training_sets}{why}; pretraining data {visible(found.pretraining)}"


def _contents(data: TestSet) -> str:
    """The digest of what a test set holds, and what it is over."""
    return f"images{' and grades' if data.manifest_digest else ''} {_short(data.digest)}"


_ANSWERS: Final[dict[Kind | None, str]] = {
    "probabilities": "its outputs are probabilities; no softmax was applied",
    "regression": "one number, a severity",
    "cumulative_logits": "cumulative logits of the grades 1 to 4; P(grade ≥ k) is the lowest of the first k",
}
"""What a model's outputs are, where they are not logits of the grades."""


def cut_offs(on: On, cuts: Sequence[float]) -> str:
    """The cut-offs of an operating point, each with what it gives: "P(≥1) .5, ...", "severity of grade 1: .41, ..."."""
    given = {"severity": "severity of grade {}:", "referable": "P(referable)"}.get(on, "P(≥{})")
    return ", ".join(f"{given.format(grade)} {cut:.4g}" for grade, cut in enumerate(cuts, 1)).replace(" 0.", " .")


def _classes(model: Model) -> list[tuple[str, str]]:
    """The order of a model's outputs: its own name of each, and the grade that it stands for."""
    own, names = model.own_names or (), model.class_names or ()
    if not own:
        return []
    titles = dict(zip(GRADES, TITLES, strict=True))
    pairs = zip(own, names, strict=False)
    return [("Classes", ", ".join(f"{visible(name)} = {titles.get(one, visible(one))}" for name, one in pairs))]


def scored(model: Model) -> list[tuple[str, str]]:
    """How it was scored: device, precision, batch, and what another precision than fp32 changed."""
    if not model.providers:
        return []
    text = [visible(model.providers[0]), *([model.precision] if model.precision else [])]
    text += [f"{model.batch} image{'' if model.batch == 1 else 's'} at a time"] if model.batch else []
    if (parity := model.parity) is not None:
        kind = "number" if model.output == "regression" else "probability"
        other = "" if parity.other_grades is None else f", {parity.other_grades} with another grade"
        text.append(
            f"held against fp32 on a sample of {_many(parity.images, 'image')} before the look: a {kind} changes by up "
            f"to {parity.largest:.2g}{other}; more can change among the others"
        )
    return [("How it was scored", "; ".join(text))]


def _graded_by(data: TestSet) -> list[tuple[str, str]]:
    """Grades by cut-offs; nothing where the most probable grade is taken, as everybody expects."""
    point = data.operating_point
    if point is None:
        return []
    label = "Referable" if point.on == "referable" else "Grades"
    most = "; not the most probable grade" if point.on == "probabilities" else ""
    digest = _short(point.digest)
    return [(label, f"by cut-offs of the operating point {digest}: {cut_offs(point.on, point.cut_offs)}{most}")]


def _method(text: str) -> str:
    """A method with the names in it as their bearers write them."""
    return visible(_METHOD.sub(lambda found: _METHODS[found[0]], text))


def _stated(mapping: Mapping[str, Any]) -> str:
    """What is stated: "setting: primary care; role: assist"."""
    given = {key: value for key, value in mapping.items() if value not in (None, "", "not stated")}
    return "; ".join(f"{visible(fact(key))}: {visible(value)}" for key, value in given.items())


def _short(digest: object) -> str:
    """A digest's first twelve digits, with the name of its algorithm."""
    text = visible(digest or "")
    algorithm, _, digits = text.rpartition(":")
    return f"{algorithm or 'sha256'}:{digits[:12]}…" if digits else "no digest"


def _pairs(value: object, label: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as flat labels: {"base": {"id": "x"}} is ("base: id", "x")."""
    nested: Sequence[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        nested = list(value.items())
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        nested = list(enumerate(value, 1))
    if not nested:
        yield label, _plain(value)
    for key, inner in nested:
        name = visible(_SETTINGS.get(str(key)) or str(key).replace("_", " "))
        yield from _pairs(inner, f"{label}: {name}" if label else name)


def _plain(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return "none"
    return visible(value) or "none"
