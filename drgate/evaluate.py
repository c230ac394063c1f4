"""Predictions held against a checklist: every metric with its interval, every criterion with its reason.

    evaluation = evaluate(load_predictions("predictions.parquet"), load_spec("medical-grade"))
    evaluation.verdict                            # "PASS", "FAIL" or "INSUFFICIENT"

Pure and reproducible: the same predictions, checklist and evidence give the same numbers to the digit, on any machine
with the same NumPy, whatever the order of rows. `verify` relies on that.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, Final

import numpy as np
import pandas as pd
import scipy

from drgate import __version__
from drgate.compare import accuracy_difference
from drgate.evaluation import CriterionResult, Estimate, Evaluation, Metric, NotEstimable, Status, Verdict
from drgate.measure import (
    KAPPA_WEIGHTS,
    NAMES,
    NO_OUTPUT,
    UNDERGRADED,
    UNKNOWN,
    Metrics,
    Sample,
    grades_of,
    ratio,
    unit_lacks,
)
from drgate.predictions import Predictions
from drgate.scale import GRADES, GROUPS, TITLES
from drgate.spec import FROM_PROBABILITIES, OF_THE_RUN, PROPORTIONS, RULE_WORDS, Criterion, GateSpec, default_policy
from drgate.stats import bootstrap, paired, power, stability

UNITS: Final = ("image", "eye", "patient")

FEWEST_PATIENTS: Final = 30
"""Patients below which a bootstrap passes nothing: of fewer, it is known to be too narrow."""

HALF_AGAIN: Final = 1.5
"""The gate's false passes are shown at the threshold itself and for a model that errs half again as often."""


def evaluate(
    predictions: Predictions,
    spec: GateSpec,
    *,
    model: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    look: Mapping[str, Any] | None = None,
    baseline: Predictions | None = None,
) -> Evaluation:
    """Judge predictions by a checklist.

    predictions: with reference grades; rows that are not gradable stay outside every denominator and are counted.
    model, data: what is known of the model and the test set; carried into the evaluation as given, counts added.
    training: the run's record as far as criteria need it: `history` (a list of {"epoch", "val_accuracy"}),
        `selected_epoch`, `n_val`, `spend`; empty where there is no record.
    look: {"number", "allowed", "time"} and what the chain of looks says besides; a look beyond the allowed number
        reports and cannot pass.
    baseline: the best earlier run's predictions on the same images.

    Raises PredictionsError when there is no reference grade to judge by, or no column that the checklist slices by.
    """
    look = dict(look or {"number": 1, "allowed": spec.looks, "time": ""})
    # alpha/K: every look is tested at its share of the level
    level = 1 - (1 - spec.evidence.level) / max(spec.looks, look["allowed"])
    sample = Sample.of(predictions, spec)
    seed = bootstrap.seed_from(predictions.digest, spec.digest)
    metrics = Metrics(sample, spec, level, seed)
    history = dict(training or {})
    history |= _stability_summary(history, spec)

    found = metrics.all()
    found["stability"] = _stability(history)
    found["cost"] = _cost(history)
    found["baseline"] = _baseline(predictions, baseline, spec, level)
    if baseline is not None:
        history["baseline"] = {"predictions_digest": baseline.digest}

    criteria = spec.each_criterion(sample.slice_names)
    results = []
    for criterion in criteria:
        metric = found.get(criterion.id)
        if metric is None or criterion.policy != default_policy(criterion.id):
            metric = metrics.estimate(criterion.id, criterion.policy)
        metric = _enough(metric, criterion, metrics)
        results.append(_judge(criterion, metric, metrics, history))
    if barred := _barred(look, data or {}, spec):
        results = [_cannot_pass(result, barred) for result in results]
    flagged = _flagged(predictions)
    return Evaluation(
        verdict=_verdict(results),
        criteria=tuple(results),
        metrics=found,
        confusion_matrix=tuple(tuple(int(cell) for cell in row[:NO_OUTPUT]) for row in sample.whole().table),
        no_output=tuple(int(count) for count in sample.whole().table[:, NO_OUTPUT]),
        spec={"name": spec.name, "version": spec.version, "digest": spec.digest, "content": spec.content()},
        data={
            **(data or {}),
            **sample.counts(),
            "predictions_digest": predictions.digest,
            "bootstrap_seed": f"{seed:016x}",  # as text: not every reader of JSON has whole numbers of 64 bits
        },
        model=dict(model or {"kind": "predictions table", "name": predictions.origin, "files": []}),
        training=history,
        look=look,
        flagged=flagged,
        page_one=_page_one(sample, spec, look, data or {}, history, flagged, results),
        software={
            "drgate": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "pandas": pd.__version__,
        },
        three_ways=metrics.three_ways(),
        units=_other_units(predictions, spec, metrics),
        gate_error=tuple(error for criterion in criteria for error in _gate_error(criterion, metrics)),
        reliability=metrics.reliability(),
    )


def lines(predictions: Predictions, spec: GateSpec) -> tuple[CriterionResult, ...]:
    """The checklist's lines about images alone, without the rest of an evaluation: for those who look after each epoch.

    Looks are not counted: who decides by these has chosen by them. Raises PredictionsError as `evaluate` does.
    """
    sample = Sample.of(predictions, spec)
    metrics = Metrics(sample, spec, spec.evidence.level, bootstrap.seed_from(predictions.digest, spec.digest))
    return tuple(
        _judge(criterion, _enough(metrics.estimate(criterion.id, criterion.policy), criterion, metrics), metrics, {})
        for criterion in spec.each_criterion(sample.slice_names)
        if criterion.metric not in OF_THE_RUN
    )


def require_evaluable(predictions: Predictions, spec: GateSpec) -> None:
    """Raise PredictionsError where `evaluate` would, before a look at the test set is counted."""
    Sample.of(predictions, spec)


def _other_units(
    predictions: Predictions, spec: GateSpec, metrics: Metrics
) -> dict[str, dict[str, Metric] | NotEstimable]:
    """The metrics by the units that the checklist does not judge by, as far as the data allow."""
    found: dict[str, dict[str, Metric] | NotEstimable] = {}
    plain = spec.model_copy(update={"slices": []})
    for unit in UNITS:
        if unit == spec.unit:
            continue
        if missing := unit_lacks(predictions, unit):
            found[unit] = NotEstimable(f"{missing} is not given for every image.")
        else:
            other = Sample.of(predictions, plain, unit)
            found[unit] = Metrics(other, plain, metrics.level, metrics.seed).of_unit()
    return found


def _enough(metric: Metric, criterion: Criterion, metrics: Metrics) -> Metric:
    """The metric, unless its cases are too few or incomplete for a line of the checklist."""
    tally = metrics.sample.tally(
        criterion.column, criterion.value, criterion.target if criterion.target in GROUPS else ""
    )
    if isinstance(metric, NotEstimable) or tally is None:
        return metric
    by_grade = tally.table.sum(axis=1)
    if criterion.metric == "balanced_accuracy" and (by_grade == 0).any():
        absent = ", ".join(TITLES[grade] for grade in np.flatnonzero(by_grade == 0))
        return NotEstimable(f"it is over all five grades, and there is none of {absent}.")
    cases, wanted = metric.n or 0, metrics.spec.fewest_positives(criterion)
    if criterion.metric in FROM_PROBABILITIES and criterion.target:
        positive = int(by_grade[list(grades_of(criterion.target))].sum())
        cases = min(positive, int(by_grade.sum()) - positive)
    if cases < wanted:
        return NotEstimable(f"the slice has {cases} of the {wanted} cases that the checklist asks for.")
    return metric


# -- evidence from the training record ---------------------------------------------------------------------------------


def _stability_summary(training: Mapping[str, Any], spec: GateSpec) -> dict[str, Any]:
    """The window that the stability criterion looks at, or why there is none (statistics of `stats.stability`)."""
    history = training.get("history") or []
    window = spec.stability_window
    if not history or "selected_epoch" not in training:
        missing = training.get("missing") or "there is no training record; give the run folder with --record."
        return {"stability": {"reason": missing}}
    if training.get("warm_start_inside"):
        return {"stability": {"reason": "there is a warm start inside the run's history."}}
    epochs = [entry["epoch"] for entry in history]
    if training["selected_epoch"] not in epochs:
        return {"stability": {"reason": f"the record has no evaluation of epoch {training['selected_epoch']}."}}
    result = stability.stability_window(
        [entry["val_accuracy"] for entry in history],
        epochs.index(training["selected_epoch"]),
        window=window,
        n_val=training.get("n_val"),
    )
    if isinstance(result, stability.NotAssessable):
        return {"stability": {"reason": result.reason}}
    summary = {key: value for key, value in dataclasses.asdict(result).items() if value is not None}
    inside = history[result.first : result.last + 1]
    summary |= {"window": window, "first_epoch": inside[0]["epoch"], "last_epoch": inside[-1]["epoch"]}
    rates = [entry.get("learning_rate", 0.0) for entry in history]
    if max(rates) > 0:
        summary["learning_rate_mean_over_peak"] = (
            sum(entry.get("learning_rate", 0.0) for entry in inside) / window / max(rates)
        )
    mean = sum(entry["val_accuracy"] for entry in inside) / window
    limits = [c.threshold for c in spec.criteria if c.metric == "stability"]
    if result.range_without_noise is not None and limits:
        needed = stability.n_val_to_show(result.range_without_noise, limits[0], mean, window)
        if needed is not None:
            summary["n_val_to_show"] = needed
    return {"stability": summary}


def _stability(training: Mapping[str, Any]) -> Metric:
    summary = training["stability"]
    if "range" not in summary:
        return NotEstimable(summary["reason"])
    return Estimate(
        kind="range", value=summary["range"], n=summary["window"], method="max - min of validation accuracy"
    )


def _cost(training: Mapping[str, Any]) -> Metric:
    spend = training.get("spend")
    if "missing" in training and not spend:
        return NotEstimable(training["missing"])
    if training.get("status") == "running":
        return NotEstimable("the run's record has no end: it was killed, and its spend is not known.")
    if not spend or spend.get("usd") is None:
        return NotEstimable("the record holds no spend; train with --usd_per_hour.")
    if spend.get("earlier_usd") is None:
        attempts = spend.get("earlier_attempts")
        return NotEstimable(
            f"the spend of {attempts} earlier attempts is not known (no --usd_per_hour in their records)."
        )
    return Estimate(kind="amount", value=spend["usd"] + spend["earlier_usd"], n=1 + spend.get("earlier_attempts", 0))


def _baseline(predictions: Predictions, baseline: Predictions | None, spec: GateSpec, level: float) -> Metric:
    """Difference of accuracy on the same images, model minus baseline, by Tango's interval at the effective n."""
    if baseline is None:
        return NotEstimable("no baseline predictions on these images were given (--baseline).")
    found = accuracy_difference(
        predictions, baseline, level=level, one_image_per_patient=spec.evidence.one_image_per_patient
    )
    if spec.unit == "image" or isinstance(found, NotEstimable):
        return found
    if missing := unit_lacks(baseline, spec.unit):
        return NotEstimable(
            f"the checklist judges by {spec.unit}, and the baseline's table does not name the {missing}."
        )
    plain = spec.model_copy(update={"slices": []})
    ours, theirs = Sample.of(predictions, plain), Sample.of(baseline, plain)
    assert ours.patients is not None, "a unit other than the image names its patients"
    right, right_b = ours.predicted == ours.reference, theirs.predicted == theirs.reference
    only, only_b, each = (
        np.bincount(ours.patients, weights=flags).astype(np.int64)
        for flags in (right & ~right_b, right_b & ~right, np.ones(len(ours)))
    )
    sample = paired.paired_sample(only, only_b, each)
    ends = paired.difference_bounds(sample, level=level)
    return dataclasses.replace(
        found,
        value=sample.difference,
        n=sample.n,
        low=ends.low,
        high=ends.high,
        clusters=sample.clusters,
        design_effect=sample.design_effect,
    )


# -- decisions ---------------------------------------------------------------------------------------------------------


def _meets(value: Fraction | float, comparator: str, threshold: Fraction | float) -> bool:
    match comparator:
        case ">=":
            return value >= threshold
        case ">":
            return value > threshold
        case "<=":
            return value <= threshold
    return value < threshold


def _judge(criterion: Criterion, metric: Metric, metrics: Metrics, training: Mapping[str, Any]) -> CriterionResult:
    decided_on = "point" if criterion.metric in ("stability", "cost") else metrics.spec.evidence.decide_on
    if isinstance(metric, NotEstimable):
        status, reason = "NOT_ASSESSED", f"Not assessed: {metric.reason}"
        if criterion.reference_value is not None:
            reason += f" The bare figure {_percent(criterion.reference_value)} is from other data and no comparison."
    elif metric.kind == "range":
        status, reason = _judge_range(criterion, metric, training)
    elif metric.kind == "amount":
        met = _meets(metric.value, criterion.comparator, criterion.threshold)
        status = "PASS" if met else "FAIL"
        reason = f"{metric.value:.2f} USD spent over {metric.n} attempt{'' if metric.n == 1 else 's'}."
    else:
        status, reason = _judge_interval(criterion, metric, decided_on)
        if status == "PASS" and decided_on == "bound" and (why := _unfounded(metric, metrics)):
            status, reason = (
                "INSUFFICIENT",
                f"{_shown(metric, criterion)} meets the rule ({_rule(criterion)}), but {why}.",
            )
        if status != "PASS" and decided_on == "bound" and metric.k is not None:
            settled = "Shown " in reason
            reason += " More patients would not mend it." if settled else f" {_more(criterion, metrics)}"
    return CriterionResult(
        id=criterion.id,
        status=status,  # type: ignore[arg-type]
        comparator=criterion.comparator,
        threshold=criterion.threshold,
        decided_on=decided_on,
        required=criterion.required,
        added=criterion.added,
        estimate=metric,
        reason=reason,
    )


def _unfounded(metric: Estimate, metrics: Metrics) -> str:
    """Why a bootstrap's bound is no ground for a pass; empty where it is one."""
    if "bootstrap" not in (metric.method or ""):
        return ""
    if metric.low is None or metric.low == metric.high:
        return "no resample differs from the sample, which says nothing about its error"
    tally = metrics.sample.whole()
    independent = metric.clusters or (metric.n or 0) / (UNKNOWN if tally.patients == "unknown" else 1)
    if independent < FEWEST_PATIENTS:
        return f"a bootstrap of fewer than {FEWEST_PATIENTS} patients decides nothing"
    return ""


def _judge_interval(criterion: Criterion, metric: Estimate, decided_on: str) -> tuple[Status, str]:
    """FAIL where the estimate itself misses the threshold, INSUFFICIENT where only the bound does."""
    upward = _higher_is_better(criterion)
    if metric.k is not None and metric.n is not None:
        value: Fraction | float = Fraction(metric.k, metric.n)
        estimate_meets = _meets(value, criterion.comparator, criterion.exact_threshold)
    else:
        estimate_meets = _meets(metric.value, criterion.comparator, criterion.threshold)
    measured, rule = _shown(metric, criterion), f"the rule is {_rule(criterion)}"
    if metric.low is None or metric.high is None:
        if not estimate_meets:
            return "FAIL", f"{measured}; {rule}."
        if decided_on == "point":
            return "PASS", f"{measured} observed; {rule}, on the estimate alone."
        return (
            "INSUFFICIENT",
            f"{measured} meets the rule ({_rule(criterion)}), but there is no interval to show it by.",
        )
    bound, other = (metric.low, metric.high) if upward else (metric.high, metric.low)
    side, other_side = ("lower", "upper") if upward else ("upper", "lower")
    bounded = f"the {side} bound is {_number(bound, criterion, criterion.threshold)}"
    if not estimate_meets:
        wrong_side = "below" if upward else "above"
        if metric.value == criterion.threshold:
            how = "It reaches the limit, which the rule excludes."
        elif _meets(other, criterion.comparator, criterion.threshold):
            gap = abs(metric.value - criterion.threshold)
            missed = f"{gap:.3f}" if _is_index(criterion) else f"{100 * gap:.1f} points"
            interval = " to ".join(_number(end, criterion, criterion.threshold) for end in (metric.low, metric.high))
            how = f"Missed by {missed}, but not shown {wrong_side} it (interval {interval})."
        else:
            how = (
                f"Shown {wrong_side} it: even the {other_side} bound is "
                f"{_number(other, criterion, criterion.threshold)}."
            )
        return "FAIL", f"{measured}; {rule}. {how}"
    if decided_on == "point":
        return "PASS", f"{measured} observed; {rule}, on the estimate alone ({bounded})."
    if _meets(bound, criterion.comparator, criterion.threshold):
        return "PASS", f"{measured}; {bounded}; {rule}."
    return "INSUFFICIENT", (
        f"{measured} meets the rule ({_rule(criterion)}), but {bounded}: not shown, which is no evidence that the "
        "model falls short."
    )


def _shown(metric: Estimate, criterion: Criterion) -> str:
    """What was measured, with its counts where it has any."""
    value = _number(metric.value, criterion, criterion.threshold)
    return value if metric.k is None else f"{metric.k} of {metric.n} ({value})"


def _is_index(criterion: Criterion) -> bool:
    """Whether the metric is a number of its own kind and no share of images."""
    return criterion.metric in (*KAPPA_WEIGHTS, *FROM_PROBABILITIES)


def _number(value: float, criterion: Criterion, near: float | None = None) -> str:
    """A value of the criterion's metric: a percentage, or a plain number for an index."""
    if not _is_index(criterion):
        return _percent(value, near)
    for digits in (3, 4, 5, 6):
        text = f"{value:.{digits}f}"
        if near is None or value == near or text != f"{near:.{digits}f}":
            break
    return text


def _higher_is_better(criterion: Criterion) -> bool:
    return criterion.comparator in (">=", ">")


def _patients(criterion: Criterion, metrics: Metrics) -> tuple[list[int], list[int]] | None:
    """Images a patient brings to the line's denominator, and how many patients bring so many; None without any."""
    tally = metrics.sample.tally(
        criterion.column, criterion.value, criterion.target if criterion.target in GROUPS else ""
    )
    if tally is None or criterion.metric not in PROPORTIONS or criterion.deployed:
        return None
    sizes, counts = tally.sizes(ratio(criterion.metric, criterion.target, criterion.policy))
    return (sizes, counts) if sizes else None


def _more(criterion: Criterion, metrics: Metrics) -> str:
    """How many patients would settle a line: at the expected true value, never at the observed one."""
    spec, found = metrics.spec, _patients(criterion, metrics)
    if found is None:
        return ""
    expected = spec.expected(criterion.id)
    if expected is None:
        return "How many patients would settle it, the checklist does not say (expect)."
    sizes, counts = found
    who, up = _who(criterion, metrics.sample.unit), _higher_is_better(criterion)
    threshold = criterion.threshold if up else 1 - criterion.threshold
    truth = f"were the true value {_percent(expected, criterion.threshold)}, as the checklist expects"
    needed = power.patients_to_show(
        threshold,
        true=expected if up else 1 - expected,
        target=spec.planning.power,
        level=metrics.level,
        interval=spec.evidence.interval,
        sizes=sizes,
        counts=counts,
        icc=spec.planning.correlation,
        unknown=metrics.sample.patients is None and not metrics.sample.independent,
    )
    if needed is None:
        return f"No realistic number of patients would show it, {truth}."
    have = sum(counts)
    if needed.patients <= have:
        return (
            f"The test set is large enough: {have} patients {who} show it with {spec.planning.power:.0%} power "
            f"or more, {truth}."
        )
    return (
        f"{needed.patients} patients {who} in all, {needed.patients - have} more, would show it with "
        f"{spec.planning.power:.0%} power, {truth}."
    )


def _who(criterion: Criterion, unit: str) -> str:
    """Which patients a line counts."""
    title = NAMES.get(criterion.target, "")
    if criterion.metric == "specificity":
        who = "with any DR" if criterion.target == GRADES[0] else f"without {title}"
    elif criterion.id.startswith(UNDERGRADED):
        who = "with severe NPDR or PDR"
    elif criterion.metric in ("ppv", "npv"):
        who = f"called {title}" if criterion.metric == "ppv" else f"called other than {title}"
    else:
        who = f"with {title}" if title else "of this mix of grades"
    return f"{who} and {criterion.column} = {criterion.value}" if criterion.column else who


def _gate_error(criterion: Criterion, metrics: Metrics) -> list[dict[str, Any]]:
    """How often this line passes a model that does not deserve it, and fails one that does, at these counts."""
    found = _patients(criterion, metrics)
    limit = criterion.threshold if _higher_is_better(criterion) else 1 - criterion.threshold
    if found is None or not 0 < limit < 1:
        return []
    sizes, counts = found
    spec, tally_of = metrics.spec, metrics.sample
    expected = spec.expected(criterion.id)
    truths = [(criterion.threshold, False), (1 - HALF_AGAIN * (1 - limit), False)]
    if not _higher_is_better(criterion):
        truths[1] = (1 - truths[1][0], False)
    if expected is not None:
        truths.append((expected, _meets(expected, criterion.comparator, criterion.threshold)))
    rows = []
    for true, deserves in truths:
        if not 0 < true < 1:
            continue
        passing = power.passing(
            limit,
            true=true if _higher_is_better(criterion) else 1 - true,
            level=metrics.level,
            interval=spec.evidence.interval,
            sizes=sizes,
            counts=counts,
            icc=spec.planning.correlation,
            strict=criterion.comparator in (">", "<"),
            point=spec.evidence.decide_on == "point",
            unknown=tally_of.patients is None and not tally_of.independent,
        )
        row = {
            "id": criterion.id,
            "true": true,
            "passes": passing.probability,
            "deserves": deserves,
            "method": passing.method,
            "patients": sum(counts),
            "n": sum(size * count for size, count in zip(sizes, counts, strict=True)),
        }
        rows.append(row if passing.se is None else {**row, "se": passing.se})
    return rows


def _judge_range(criterion: Criterion, metric: Estimate, training: Mapping[str, Any]) -> tuple[Status, str]:
    summary = training["stability"]
    points = f"{100 * metric.value:.1f} points between epochs {summary['first_epoch']} and {summary['last_epoch']}"
    if _meets(metric.value, criterion.comparator, criterion.threshold):
        return "PASS", f"Validation accuracy ranged over {points}."
    if (unexplained := summary.get("range_without_noise")) is not None and unexplained < criterion.threshold:
        return "INSUFFICIENT", (
            f"Validation accuracy ranged over {points}, of which sampling noise explains as much as misses: "
            f"{100 * summary['noise_floor']:.1f} points are expected with {training['n_val']} validation images; "
            f"about {summary['n_val_to_show']} would show it."
        )
    return "FAIL", f"Validation accuracy ranged over {points}; the run had not settled."


def _rule(criterion: Criterion) -> str:
    words = RULE_WORDS[criterion.comparator]
    number = f"{criterion.threshold:g}" if _is_index(criterion) else _percent(criterion.threshold)
    return f"{words} {number}"


def _percent(value: float, near: float | None = None) -> str:
    """A fraction as a percentage, with as many digits as tell it from `near` (never "90.0 %" for what misses 90 %)."""
    for digits in (1, 2, 3, 4):
        text = f"{100 * value:.{digits}f}"
        if near is None or value == near or text != f"{100 * near:.{digits}f}":
            break
    return f"{text} %"


def _barred(look: Mapping[str, Any], data: Mapping[str, Any], spec: GateSpec) -> str:
    """Why nothing can pass on this test set, whatever the numbers; empty where something can."""
    if look["number"] > look["allowed"]:
        return f"this is look {look['number']} at a test set that allows {look['allowed']}; a fresh test set can"
    if data.get("selected_here"):
        return "the model was selected on these images; the test split can"
    if spec.audit.required and not data.get("audit"):
        return "the checklist requires a leakage audit of the training images against these, and none was given"
    return ""


def _cannot_pass(result: CriterionResult, barred: str) -> CriterionResult:
    if result.status != "PASS":
        return result
    return replace(result, status="INSUFFICIENT", reason=f"{result.reason} It cannot pass here: {barred}.")


def _verdict(results: list[CriterionResult]) -> Verdict:
    required = [result.status for result in results if result.required]
    if "FAIL" in required:
        return "FAIL"
    return "PASS" if required and all(status == "PASS" for status in required) else "INSUFFICIENT"


# -- page one ----------------------------------------------------------------------------------------------------------


def _flagged(predictions: Predictions) -> tuple[dict[str, Any], ...]:
    """Images whose severe NPDR or PDR was called below referable: the error that costs sight."""
    table = predictions.table
    missed = (table["gradable"] & (table["grade"] >= 3) & (table["predicted"] <= 1)).fillna(False)
    return tuple(
        {"image": str(image), "grade": int(grade), "predicted": int(predicted)}
        for image, grade, predicted in table.loc[missed, ["image", "grade", "predicted"]].itertuples(index=False)
    )


def _page_one(
    sample: Sample,
    spec: GateSpec,
    look: Mapping[str, Any],
    data: Mapping[str, Any],
    training: Mapping[str, Any],
    flagged: tuple[dict[str, Any], ...],
    results: list[CriterionResult],
) -> tuple[str, ...]:
    """What must be read with the verdict."""
    lines = []
    table = sample.whole().table
    if spec.purpose == "pipeline":
        lines.append("This checklist is for trying a pipeline: whatever its verdict, it certifies nothing.")
    if barred := _barred(look, data, spec):
        lines.append(f"Nothing can pass here: {barred}.")
    if spec.evidence.decide_on == "point":
        lines.append(
            "Decided on point estimates: what was observed here, not what may be expected of the next patients."
        )
    if sample.patients is None:
        lines.append(
            "No patient is named; the spec declares one image a patient."
            if sample.independent
            else "No patient is named: every bound allows for two images a patient (design effect 2)."
        )
    if flagged:
        lines.append(f"{_count(len(flagged), 'image')} with severe NPDR or PDR called below referable.")
    if confused := int(table[3, 4]):
        lines.append(
            f"{confused} severe NPDR called PDR count as misses of severe NPDR; clinically that is harmless, both are "
            "referred at once."
        )
    if unanswered := int(table[:, NO_OUTPUT].sum()):
        lines.append(f"{unanswered} of {_count(len(sample), sample.unit)} got no output from the model.")
    if sample.ungradable:
        lines.append(f"{sample.ungradable} images have no reference grade (not gradable) and stay outside every count.")
    small = [r.id for r in results if "@" in r.id and r.status == "NOT_ASSESSED"]
    if small:
        lines.append(f"Too few cases, or none, to judge {', '.join(small)}.")
    for column, codes in sample.slices.items():
        if outside := int((codes < 0).sum()):
            lines.append(f"{_count(outside, sample.unit)} in no slice by {column}.")
    if any(" in all, " in result.reason for result in results):
        lines.append("Adding patients and testing again is another look at this test set.")
    lines += _regraded(look)
    if foreign := training.get("foreign"):
        lines.append(f"The training history is from {foreign}: nothing binds it to these weights.")
    if keeper := data.get("grades"):
        lines.append(f"Reference grades were joined from {keeper['name']} (SHA-256 {keeper['sha256'][:16]}...).")
    lines += data.get("warnings", [])
    lines.append(str(data.get("leakage", "Leakage between training and test data: not checked.")))
    lines.append(
        "Referable and vision-threatening are by DR grade alone; diabetic macular oedema is not considered."
        if sample.dme is None
        else f"Referable and vision-threatening include diabetic macular oedema ({int(sample.dme.sum())} of "
        f"{_count(len(sample), sample.unit)}), which the model is only credited for by the DR grade that it gives; "
        "severe NPDR or PDR called below referable is by DR grade alone."
    )
    if spec.deployment is None:
        lines.append(
            "Accuracy, specificity, group sensitivity and predictive values hold at this test set's mix of grades "
            "only; the checklist states no deployment mix."
        )
    for title, part in (
        ("Intended use", "intended_use"),
        ("Reference standard", "reference"),
        ("Test set", "test_set"),
    ):
        missing = [key.replace("_", " ") for key, value in spec.content()[part].items() if value == "not stated"]
        if missing:
            lines.append(f"{title}: {', '.join(missing)} not stated.")
    return tuple(lines)


def _regraded(look: Mapping[str, Any]) -> list[str]:
    """What the chain of looks says of other looks at these images, and of grades changed after a model was seen."""
    lines = []
    for other in look.get("overlapping", ()):
        lines.append(
            f"Test set {other['name']} shares {_count(other['images'], 'image')} and "
            f"{_count(other['patients'], 'patient')} with this one; its looks count here."
        )
    if changed := look.get("regraded_count", 0):
        favours = "; ".join(
            f"{one['favouring']} of {one['changed']} take an error from the model of look {one['look']}"
            f"{' (this model)' if one['same_model'] else ''}"
            for one in look.get("favouring", ())
        )
        lines.append(f"{_count(changed, 'reference grade')} changed since an earlier look: {favours}.")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
