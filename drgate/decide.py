"""The status of one criterion, and the sentence that gives the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Final, Literal

from drgate import contrast
from drgate.checklist import RULE_WORDS, Checklist, Criterion, level_words, percent_words
from drgate.evaluation import (
    BY_VALUE,
    Audit,
    Checked,
    CriterionResult,
    Estimate,
    GateError,
    Group,
    Look,
    Metric,
    NotEstimable,
    Status,
    TestSet,
    Training,
)
from drgate.measure import Metrics
from drgate.metrics import AUDITED, MetricId
from drgate.stats import power
from drgate.stats.error_rates import BY_INTERVAL, FOUND, NO_CHANCE, SIMULATED_LEVEL

HALF_AGAIN: Final = 1.5
"""False passes are shown at the threshold itself and for a model with one and a half times as many errors."""


def _meets(value: Fraction | float, comparator: str, threshold: Fraction | float) -> bool:
    match comparator:
        case ">=":
            return value >= threshold
        case ">":
            return value > threshold
        case "<=":
            return value <= threshold
    return value < threshold


def decide(
    criterion: Criterion, metric: Metric, metrics: Metrics, training: Training, *, looks_left: bool = False
) -> CriterionResult:
    """The result of one criterion.

    looks_left: whether the test set may be used again, so that added patients can help.
    """
    all_comers = metrics.all_comers(criterion, metric)
    decided_on = "point" if criterion.id.about.kind in BY_VALUE else metrics.checklist.evidence.decide_on
    shown = True  # of a range or an amount, the estimate is all there is
    status: Status
    if isinstance(metric, NotEstimable):
        status, reason = "NOT_ASSESSED", f"Not assessed: {metric.reason}"
        if criterion.reference_value is not None:
            earlier = _stated(criterion.reference_value)
            reason += f" The checklist's {earlier} was measured on other images and cannot be compared."
    elif metric.kind == "range":
        status, reason = _judge_range(criterion, metric, training)
    elif metric.kind == "amount":
        met = _meets(metric.value, criterion.comparator, criterion.threshold)
        status = "PASS" if met else "FAIL"
        reason = f"{metric.value:.2f} USD spent over {metric.n} attempt{'' if metric.n == 1 else 's'}."
    else:
        everyone = None if all_comers is None else _AllComers(criterion, all_comers, metrics.checklist)
        if criterion.id.about.by == "groups":
            status, reason, shown = _judge_gap(criterion, metric, metrics, decided_on)
            reason += "" if everyone is None else everyone.beside
        else:
            status, reason, shown = _judge_interval(criterion, metric, decided_on, _lacking(metrics), everyone)
        if status != "PASS" and decided_on == "bound" and metric.k is not None and not shown:
            reason = f"{reason} {_more(criterion, metrics, looks_left)}".rstrip()
        if everyone is not None:
            also, because, shown_too = everyone.judge(decided_on)
            if also == "FAIL" or (also == "INSUFFICIENT" and status != "FAIL"):
                status, shown = also, shown or shown_too
            reason += because
    return CriterionResult(
        id=criterion.id,
        status=status,
        comparator=criterion.comparator,
        threshold=criterion.threshold,
        decided_on=decided_on,
        required=criterion.required,
        added=criterion.added,
        estimate=metric,
        reason=reason,
        shown=shown if status == "FAIL" else None,
        all_comers=all_comers,
        ceiling=criterion.ceiling,
    )


class _AllComers:
    """The second half of a criterion that leaves images without output out: what it would be with them.

    found: `Metrics.all_comers`. It must come within the allowance of the threshold; the share that an index leaves out
    must be no more than the allowance.
    """

    def __init__(self, criterion: Criterion, found: Metric, checklist: Checklist) -> None:
        allowance = Fraction(repr(checklist.all_comers_allowance))
        self.found, self.share = found, criterion.id.about.kind in ("proportion", "difference")
        self.upward = self.share and criterion.upward
        self.missing = "probabilities" if criterion.id.about.from_probabilities else "output"
        near = criterion.exact_threshold if self.share else Fraction(0)
        self.limit = near - allowance if self.upward else near + allowance
        self.sign = ">=" if self.upward else "<="
        self.groups = criterion.id.about.by == "groups"
        self.bar = f"{RULE_WORDS[self.sign]} {self._in_points(_stated(float(self.limit)))}"

    def measured(self, answered: str) -> str:
        """Both figures: "181 of 187 with output (96.8 %); of all 200, 181 (90.5 %), lower limit 85.6 %"."""
        count, bracket, value = answered.partition(" (")
        with_output = f"{count} with {self.missing}{bracket}{value}"
        if isinstance(self.found, NotEstimable):
            return f"{with_output}; of all not estimable: {self.found.reason.removesuffix('.')}"
        one, near = self.found, float(self.limit)
        if one.k is None:
            text = f"of all {percent_words(one.value, near)}"
        elif self.share:
            text = f"of all {one.n}, {one.k} ({percent_words(one.value, near)})"
        else:
            text = f"{one.k} of {one.n} without ({percent_words(one.value, near)})"
        end = self._end(one)
        side = "lower" if self.upward else "upper"
        return f"{with_output}; {text}" + ("" if end is None else f", {side} limit {percent_words(end, near)}")

    @property
    def beside(self) -> str:
        """Of a gap, what it is with no output as the worst case."""
        if isinstance(self.found, NotEstimable):
            return f" With no output as the worst case it is not estimable: {self.found.reason}"
        end = self._end(self.found)
        near = float(self.limit)
        limit = "" if end is None else f" (upper limit {self._in_points(percent_words(end, near))})"
        worst = self._in_points(percent_words(self.found.value, near))
        return f" With no output as the worst case it is {worst}{limit}; the rule is {self.bar}."

    @property
    def rule(self) -> str:
        """What it asks: ", and at least 85 % of all"."""
        return f", and {self.bar} {'of all' if self.share else f'without {self.missing}'}"

    def judge(self, decided_on: str) -> tuple[Status, str, bool]:
        """FAIL where the estimate itself is too far, INSUFFICIENT where only the limit is; as `_judge_interval`.

        Of a gap FAIL only where one is shown, as `_judge_gap`.
        """
        who = "Of all" if self.share else f"Of the share without {self.missing}"
        beyond = f"{'below' if self.upward else 'above'} {self._in_points(_stated(float(self.limit)))}"
        one = self.found
        if isinstance(one, NotEstimable):
            return "INSUFFICIENT", "", False
        value = one.value if one.k is None or one.n is None else Fraction(one.k, one.n)
        if not _meets(value, self.sign, self.limit):
            other = one.high if self.upward else one.low
            shown = other is not None and not _meets(other, self.sign, self.limit)
            if self.groups and decided_on == "bound" and not shown:
                return "INSUFFICIENT", " With no output as the worst case, small groups may differ by chance.", False
            return "FAIL", f" {who}, {'the whole interval' if shown else 'the estimate'} is {beyond}.", shown
        end = self._end(one)
        if decided_on == "point" or (end is not None and _meets(end, self.sign, self.limit)):
            return "PASS", "", False
        limit = f"the {'lower' if self.upward else 'upper'} limit is {beyond}"
        return "INSUFFICIENT", f" {who}, {'there is no confidence interval' if end is None else limit}.", False

    def _end(self, one: Estimate) -> float | None:
        return one.low if self.upward else one.high

    def _in_points(self, percentage: str) -> str:
        """A difference is in points."""
        return percentage.replace("%", "points") if self.groups else percentage


def _judge_interval(
    criterion: Criterion, metric: Estimate, decided_on: str, lacking: str, everyone: _AllComers | None
) -> tuple[Status, str, bool]:
    """FAIL where the estimate itself does not meet the rule, INSUFFICIENT where only the limit does not.

    With the reason, and whether the whole interval fails the rule: then the size of the test set is not the cause.
    lacking: why there is no interval, where there is none.
    """
    upward = criterion.upward
    if metric.k is not None and metric.n is not None:
        value: Fraction | float = Fraction(metric.k, metric.n)
        estimate_meets = _meets(value, criterion.comparator, criterion.exact_threshold)
    else:
        estimate_meets = _meets(metric.value, criterion.comparator, criterion.threshold)
        estimate_meets &= criterion.ceiling is None or metric.value <= criterion.ceiling
    measured, rule = _shown(metric, criterion), f"the rule is {_rule(criterion)}"
    of, seen, meets = "", f"{measured} observed", f"{measured} meets the rule ({_rule(criterion)})"
    if everyone is not None:
        of, measured, rule = f" with {everyone.missing}", everyone.measured(measured), f"{rule}{everyone.rule}"
        seen = f"Observed: {measured}"
        meets = f"{measured}; {rule}. The estimate{of} meets the rule"
    if metric.low is None or metric.high is None:
        if not estimate_meets:
            return "FAIL", f"{measured}; {rule}.", False
        if decided_on == "point":
            return "OBSERVED", f"{seen}; {rule}, judged on the estimate alone.", False
        return "INSUFFICIENT", f"{meets}, but {lacking}.", False
    if criterion.ceiling is not None:
        return _judge_both_ends(criterion, metric.value, metric.low, metric.high, decided_on, everyone)
    bound, other = (metric.low, metric.high) if upward else (metric.high, metric.low)
    side, other_side = ("lower", "upper") if upward else ("upper", "lower")
    bounded = f"the {side} limit{of} is {_number(bound, criterion, criterion.threshold)}"
    if not estimate_meets:
        wrong_side = "below" if upward else "above"
        shown = False
        if metric.value == criterion.threshold:
            how = "It equals the threshold, which the rule excludes."
        elif _meets(other, criterion.comparator, criterion.threshold):
            gap = abs(metric.value - criterion.threshold)
            missed = f"{gap:.3f}" if criterion.id.about.kind == "index" else f"{100 * gap:.1f} points"
            low, high = (_number(end, criterion, criterion.threshold) for end in (metric.low, metric.high))
            interval = f"{low.removesuffix(' %').removesuffix(' points')} to {high}"
            how = f"The estimate misses the rule by {missed}; the interval ({interval}) includes the rule."
        else:
            shown = True
            end = _number(other, criterion, criterion.threshold)
            how = (
                f"The whole interval is {wrong_side} the rule ({other_side} limit {end}), so the size of the test set "
                "is not the cause."
            )
        return "FAIL", f"{measured}; {rule}. {how}", shown
    if decided_on == "point":
        return "OBSERVED", f"{seen}; {rule}, judged on the estimate alone ({bounded}).", False
    if _meets(bound, criterion.comparator, criterion.threshold):
        return "PASS", f"{measured}; {bounded}; {rule}.", False
    return "INSUFFICIENT", f"{meets}, but {bounded}.", False


def _judge_gap(criterion: Criterion, metric: Estimate, metrics: Metrics, decided_on: str) -> tuple[Status, str, bool]:
    """PASS where every pair's upper limit meets the rule, FAIL only where some pair's lower limit does not.

    The observed gap alone fails nothing: with five groups of 60 it exceeds 5 points in most samples of a fair model.
    """
    found = metrics.gap(criterion.id, criterion.policy)
    assert isinstance(found, contrast.Gap), "a gap was measured"

    def points(value: float) -> str:
        return _number(value, criterion, criterion.threshold)

    def pair(groups: tuple[Group, Group]) -> str:
        named = (f"{one.name or contrast.BLANK} ({one.rate.k} of {one.rate.n})" for one in groups)
        return f"{criterion.id.column} = {' and '.join(named)}"

    def meets(value: float) -> bool:
        return _meets(value, criterion.comparator, criterion.threshold)

    known, rule = f"The gap is {points(metric.value)}", f"the rule is {_rule(criterion)}"
    low, high = metric.low, metric.high
    if decided_on == "point":
        best, worst = (Fraction(one.rate.k or 0, one.rate.n or 1) for one in found.widest)
        met = _meets(best - worst, criterion.comparator, criterion.exact_threshold)
        status: Status = "OBSERVED" if met else "FAIL"
        how = f"{known}, between {pair(found.widest)}; {rule}"
        return status, f"{how}, judged on the estimate alone.", low is not None and not meets(low)
    if low is None or high is None:
        return "INSUFFICIENT", f"{known}, between {pair(found.widest)}; {rule}, but {_lacking(metrics)}.", False
    if not meets(low):
        return (
            "FAIL",
            f"The difference between {pair(found.lower)} is at least {points(low)} (lower limit); {rule}.",
            True,
        )
    limit = f"the upper limit of the difference between {pair(found.upper)} is {points(high)}; {rule}."
    return ("PASS" if meets(high) else "INSUFFICIENT"), f"{known}; {limit}", False


def _judge_both_ends(
    criterion: Criterion, value: float, low: float, high: float, decided_on: str, everyone: _AllComers | None
) -> tuple[Status, str, bool]:
    """As `_judge_interval`, of a rule with two ends: the whole interval must be between them."""
    least, most = criterion.threshold, criterion.ceiling
    assert most is not None, "the rule has two ends"
    measured, rule = _number(value, criterion, least if value < most else most), f"the rule is {_rule(criterion)}"
    interval = f"{_number(low, criterion, least)} to {_number(high, criterion, most)}"
    meets = f"{measured} meets the rule ({_rule(criterion)})"
    if everyone is not None:
        measured, rule = everyone.measured(measured), f"{rule}{everyone.rule}"
        meets = f"{measured}; {rule}. The estimate with {everyone.missing} meets the rule"
    if not least <= value <= most:
        if high < least or low > most:
            how = f"The whole interval ({interval}) is outside, so the size of the test set is not the cause."
            return "FAIL", f"{measured}; {rule}. {how}", True
        missed = f"The estimate misses the rule by {max(least - value, value - most):.3f}"
        return "FAIL", f"{measured}; {rule}. {missed}; the interval ({interval}) includes values that meet it.", False
    if decided_on == "point":
        return "OBSERVED", f"{measured} observed; {rule}, judged on the estimate alone (interval {interval}).", False
    if least <= low and high <= most:
        return "PASS", f"{measured}; the interval is {interval}; {rule}.", False
    return "INSUFFICIENT", f"{meets}, but the interval is {interval}.", False


def _lacking(metrics: Metrics) -> str:
    """Why a figure has no interval; what to do about patients is said once, on page one."""
    unknown = metrics.sample.no_patients
    return "it has no confidence interval" if unknown is None else unknown.why


def _shown(metric: Estimate, criterion: Criterion) -> str:
    """What was measured, with its counts where it has any."""
    value = _number(metric.value, criterion, criterion.threshold)
    return value if metric.k is None else f"{metric.k} of {metric.n} ({value})"


def _number(value: float, criterion: Criterion, near: float | None = None) -> str:
    """A value of the criterion's metric: a percentage, points for a difference, or a plain number for an index."""
    if criterion.id.about.kind == "difference":
        return _points(value, near)
    if criterion.id.about.kind != "index":
        return percent_words(value, near)
    for digits in (3, 4, 5, 6):
        text = f"{value:.{digits}f}"
        if near is None or value == near or text != f"{near:.{digits}f}":
            break
    return text


def _stated(value: float) -> str:
    """A fraction that the checklist states, as a percentage with all its digits and at least one."""
    text = f"{100 * value:.10g}"
    return f"{text if '.' in text else text + '.0'} %"


def _points(value: float, near: float | None) -> str:
    """A difference of two shares, with enough digits to differ from `near`."""
    for digits in (1, 2, 3, 4):
        text = f"{100 * value:.{digits}f}"
        if near is None or value == near or text != f"{100 * near:.{digits}f}":
            break
    return f"{text} points"


def _patients(criterion: Criterion, metrics: Metrics) -> tuple[list[int], list[int]] | None:
    """Numbers of images per patient in the denominator, and how many patients have each; None without any."""
    metric = criterion.id
    tally = metrics.sample.tally_of(metric)
    if tally is None or not metric.about.is_share or metric.deployed:
        return None
    if metrics.sample.unknown and metrics.checklist.evidence.decide_on == "bound":
        return None  # nothing passes, whatever the number
    sizes, counts = tally.sizes(metric.about.ratio(metric.target, criterion.policy))
    return (sizes, counts) if sizes else None


def _more(criterion: Criterion, metrics: Metrics, looks_left: bool) -> str:
    """How many patients a criterion needs: at the expected true value, never at the observed one."""
    checklist, found = metrics.checklist, _patients(criterion, metrics)
    if found is None:
        return ""
    expected = checklist.expected(criterion.id)
    if expected is None:
        example = criterion.as_high((1 + criterion.as_high(criterion.threshold)) / 2)
        name = criterion.id.target if criterion.id.metric == "sensitivity" else criterion.id.whole
        return (
            "The number of patients needed is unknown, because the checklist states no expected value; add one under "
            f"expect, such as {name}: {example:.4g}."
        )
    sizes, counts = found
    who = criterion.id.who
    if_so = f"if the true value is {_stated(expected)}, as the checklist expects"
    wanted = f"show the rule with {100 * checklist.planning.power:.0f} % power {if_so}"
    needed = power.patients_to_show(
        criterion.as_high(criterion.threshold),
        true=criterion.as_high(expected),
        target=checklist.planning.power,
        level=metrics.level,
        interval=checklist.evidence.interval,
        sizes=sizes,
        counts=counts,
        icc=checklist.planning.correlation,
        images_a_patient=metrics.sample.images_a_patient or 1,
    )
    if needed is None:
        return f"No realistic number of patients is enough {if_so}."
    have = sum(counts)
    if needed.patients <= have:
        return f"{have} patients are enough to {wanted}."
    if looks_left:
        return f"{needed.patients} patients {who} would {wanted}, {needed.patients - have} more than now."
    return f"A fresh test set with {needed.patients} patients {who} would {wanted}."


def gate_error(criterion: Criterion, metrics: Metrics) -> list[GateError]:
    """Chance that this criterion passes models that do not meet its rule; each criterion has at least one row."""
    name, about, evidence = criterion.id, criterion.id.about, metrics.checklist.evidence
    if reason := metrics.sample.lacks(name):
        return [GateError(name, "none", why=f"No model can pass: {reason}")]
    if metrics.sample.unknown and evidence.decide_on == "bound" and not about.of_the_run:
        return [GateError(name, "none", why="The patients are not known, so no model can pass.")]
    if about.is_share and not name.deployed:
        return _error_of_share(criterion, metrics)
    kind = about.name if about.of_the_run else "deployment" if name.deployed else about.by
    why = NO_CHANCE.get(kind, "")
    if not why and evidence.decide_on == "point":
        why = "It is decided on the estimate alone; how often that is wrong by chance is not known."
    elif not why and metrics.level < SIMULATED_LEVEL:
        why = f"How often it is wrong was simulated at the level {level_words(SIMULATED_LEVEL)} only."
    elif evidence.interval == "wilson" and kind in BY_INTERVAL:
        why = "How often it is wrong was simulated with Clopper-Pearson intervals only."
    if why:
        return [GateError(name, "none", why=why)]
    found = FOUND[kind]
    return [GateError(name, "designs", passes=found.largest, designs=found.designs, command=found.command)]


def _error_of_share(criterion: Criterion, metrics: Metrics) -> list[GateError]:
    """The same of a proportion at these counts: just outside the rule, with more errors, and at the expected value."""
    found = _patients(criterion, metrics)
    if found is None:
        return [GateError(criterion.id, "none", why="There is no case, so no model can pass.")]
    limit = criterion.as_high(criterion.threshold)
    sizes, counts = found
    patients, n = sum(counts), sum(size * count for size, count in zip(sizes, counts, strict=True))
    checklist = metrics.checklist
    point = checklist.evidence.decide_on == "point"
    if not 0 < limit < 1:  # only a model without an error, or with one right answer, meets it
        certain = float(point and limit == 1)
        return [GateError(criterion.id, "exact", true=criterion.threshold, passes=certain, patients=patients, n=n)]
    expected = checklist.expected(criterion.id)
    truths = [(criterion.threshold, False), (criterion.as_high(1 - HALF_AGAIN * (1 - limit)), False)]
    if expected is not None:
        truths.append((expected, _meets(expected, criterion.comparator, criterion.threshold)))
    rows = []
    for true, deserves in truths:
        if not 0 < true < 1:
            continue
        passing = power.passing(
            limit,
            true=criterion.as_high(true),
            level=metrics.level,
            interval=checklist.evidence.interval,
            sizes=sizes,
            counts=counts,
            icc=checklist.planning.correlation,
            strict=criterion.strict,
            point=point,
            images_a_patient=metrics.sample.images_a_patient or 1,
        )
        rows.append(
            GateError(
                id=criterion.id,
                method=passing.method,
                deserves=deserves,
                true=true,
                passes=passing.probability,
                patients=patients,
                n=n,
                se=passing.se,
            )
        )
    return rows


def _judge_range(criterion: Criterion, metric: Estimate, training: Training) -> tuple[Status, str]:
    summary = training.stability
    assert summary is not None, "a range was measured in a window"
    varied = (
        f"Validation accuracy varied by {100 * metric.value:.1f} points between epochs {summary.first_epoch} and "
        f"{summary.last_epoch}"
    )
    if _meets(metric.value, criterion.comparator, criterion.threshold):
        return "PASS", f"{varied}."
    if (unexplained := summary.range_without_noise) is not None and unexplained < criterion.threshold:
        return "INSUFFICIENT", (
            f"{varied}, but {100 * (summary.noise_floor or 0):.1f} points are expected from sampling noise alone with "
            f"{training.n_val} validation images. About {summary.n_val_to_show} are needed to show stability."
        )
    return "FAIL", f"{varied}: the run was not stable."


def _rule(criterion: Criterion) -> str:
    if criterion.ceiling is not None:
        return f"between {criterion.threshold:g} and {criterion.ceiling:g}"
    words = RULE_WORDS[criterion.comparator]
    number = f"{criterion.threshold:g}" if criterion.id.about.kind == "index" else _stated(criterion.threshold)
    if criterion.id.about.kind == "difference":
        number = _stated(criterion.threshold).replace("%", "points")
    return f"{words} {number}"


NO_AUDIT: Final = "no audit was made. Evaluate the model itself, or give an audit with --audit (drgate audit)."
NOT_JUDGED: Final = "not judged: the audit found a leak."
"""Why nothing but the audit is decided, where test images or patients were in training."""


def audited(criterion: Criterion, audit: Audit | None) -> CriterionResult:
    """A criterion on a check of the audit. What it found fails the verdict, whatever the checklist requires.

    Suspected is not assessed: hashes alone prove nothing.
    """
    found = None if audit is None else audit.check(criterion.id.target)
    estimate: Metric = NotEstimable(NO_AUDIT if audit is None else "the audit does not make this check.")
    status: Status = "NOT_ASSESSED"
    if found is not None and found.status in ("found", "clean"):
        compared = found.compared.get("test", max(found.compared.values(), default=0))
        estimate = Estimate(kind="count", value=float(found.count), n=compared)
        status = "FAIL" if found.status == "found" else "PASS"
    elif found is not None:
        suspected = f"{found.count} suspected, which proves nothing. " if found.status == "suspected" else ""
        estimate = NotEstimable(f"{suspected}{found.reason}")
    reason = f"Not assessed: {estimate.reason}" if isinstance(estimate, NotEstimable) else _compared(estimate, found)
    return CriterionResult(
        id=criterion.id,
        status=status,
        comparator=criterion.comparator,
        threshold=criterion.threshold,
        decided_on="point",
        required=criterion.required or status == "FAIL",
        added=criterion.added,
        estimate=estimate,
        reason=reason,
        shown=True if status == "FAIL" else None,
    )


def _compared(estimate: Estimate, found: Checked | None) -> str:
    assert found is not None, "it was assessed"
    sides = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in found.compared.items())
    return f"{estimate.value:.0f} found{f' (compared: {sides})' if sides else ''}. {found.reason}".rstrip()


def unlisted(audit: Audit | None, criteria: Sequence[Criterion]) -> list[CriterionResult]:
    """Checks that found something and that the checklist does not list, each as a required criterion."""
    listed = {criterion.id.target for criterion in criteria if criterion.id.metric == "audit"}
    extra = [MetricId("audit", one) for one in AUDITED if one not in listed]
    found = (audited(Criterion(id=name, at_most=0.0), audit) for name in extra)
    return [replace(one, added="audit") for one in found if one.status == "FAIL"]


def not_judged(criterion: Criterion, decided_on: Literal["bound", "point"]) -> CriterionResult:
    """A criterion where the audit found a leak: no answer was set beside a grade."""
    return CriterionResult(
        id=criterion.id,
        status="NOT_ASSESSED",
        comparator=criterion.comparator,
        threshold=criterion.threshold,
        decided_on="point" if criterion.id.about.kind in BY_VALUE else decided_on,
        required=criterion.required,
        added=criterion.added,
        estimate=NotEstimable(NOT_JUDGED),
        reason=f"Not assessed: {NOT_JUDGED}",
        ceiling=criterion.ceiling,
    )


def barred(look: Look, data: TestSet) -> str:
    """Why no criterion can pass on this test set; empty where one can."""
    if look.used_up:
        return f"This is look {look.number} at a test set that allows {look.allowed}. Use a fresh test set."
    if data.selected_here:
        return "The model was selected on these images. Use the test split."
    return ""


def cannot_pass(result: CriterionResult) -> CriterionResult:
    """The criterion on a test set where nothing can pass (`Evaluation.barred` says why)."""
    if result.status not in ("PASS", "OBSERVED"):
        return result
    return replace(result, status="INSUFFICIENT", would_pass=True)
