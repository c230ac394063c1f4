"""Predictions held against a checklist: every metric with its interval, every criterion with its reason.

    evaluation = evaluate(load_predictions("predictions.parquet"), load_checklist("medical-grade"))
    evaluation.verdict                            # "PASS", "FAIL" or "INSUFFICIENT"

Pure and reproducible: the same predictions, checklist and evidence give the same numbers to the digit, on any machine
with the same NumPy, whatever the order of rows. `verify` relies on that.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import scipy

from drgate import __version__
from drgate.checklist import Checklist, Criterion
from drgate.compare import accuracy_difference
from drgate.decide import barred, cannot_pass, decide, gate_error, verdict_of
from drgate.evaluation import CriterionResult, Estimate, Evaluation, Metric, NotEstimable
from drgate.measure import Metrics
from drgate.metrics import MetricId, grades_of
from drgate.page_one import flagged_images, page_one
from drgate.predictions import Predictions
from drgate.sample import Sample, unit_lacks
from drgate.scale import TITLES
from drgate.stats import bootstrap, stability
from drgate.stats.confusion import NO_OUTPUT

UNITS: Final = ("image", "eye", "patient")


def evaluate(
    predictions: Predictions,
    checklist: Checklist,
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
    look = dict(look or {"number": 1, "allowed": checklist.looks, "time": ""})
    # alpha/K: every look is tested at its share of the level
    level = 1 - (1 - checklist.evidence.level) / max(checklist.looks, look["allowed"])
    sample = Sample.of(predictions, checklist)
    seed = bootstrap.seed_from(predictions.digest, checklist.digest)
    metrics = Metrics(sample, checklist, level, seed)
    history = dict(training or {})
    history |= _stability_summary(history, checklist)

    found = metrics.all()
    found[MetricId("stability")] = _stability(history)
    found[MetricId("cost")] = _cost(history)
    if baseline is None:
        found[MetricId("baseline")] = NotEstimable("no baseline predictions on these images were given (--baseline).")
    else:
        found[MetricId("baseline")] = accuracy_difference(
            predictions,
            baseline,
            level=level,
            unit=checklist.unit,
            one_image_per_patient=checklist.evidence.one_image_per_patient,
        )
        history["baseline"] = {"predictions_digest": baseline.digest}

    criteria = checklist.each_criterion(sample.slice_names)
    results = []
    for criterion in criteria:
        metric = found.get(criterion.id)
        if metric is None or criterion.policy != criterion.id.default_policy:
            metric = metrics.estimate(criterion.id, criterion.policy)
        metric = _enough(metric, criterion, metrics)
        results.append(decide(criterion, metric, metrics, history))
    if why := barred(look, data or {}, checklist):
        results = [cannot_pass(result, why) for result in results]
    flagged = flagged_images(predictions)
    return Evaluation(
        verdict=verdict_of(results),
        criteria=tuple(results),
        metrics=found,
        confusion_matrix=tuple(tuple(int(cell) for cell in row[:NO_OUTPUT]) for row in sample.whole().table),
        no_output=tuple(int(count) for count in sample.whole().table[:, NO_OUTPUT]),
        spec={
            "name": checklist.name,
            "version": checklist.version,
            "digest": checklist.digest,
            "content": checklist.content(),
        },
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
        page_one=page_one(sample, checklist, look, data or {}, history, flagged, results),
        software={
            "drgate": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "pandas": pd.__version__,
        },
        three_ways=metrics.three_ways(),
        units=_other_units(predictions, checklist, metrics),
        gate_error=tuple(error for criterion in criteria for error in gate_error(criterion, metrics)),
        reliability=metrics.reliability(),
    )


def lines(predictions: Predictions, checklist: Checklist) -> tuple[CriterionResult, ...]:
    """The checklist's lines about images alone, without the rest of an evaluation: for those who look after each epoch.

    Looks are not counted: who decides by these has chosen by them. Raises PredictionsError as `evaluate` does.
    """
    sample = Sample.of(predictions, checklist)
    metrics = Metrics(
        sample, checklist, checklist.evidence.level, bootstrap.seed_from(predictions.digest, checklist.digest)
    )
    return tuple(
        decide(criterion, _enough(metrics.estimate(criterion.id, criterion.policy), criterion, metrics), metrics, {})
        for criterion in checklist.each_criterion(sample.slice_names)
        if not criterion.id.about.of_the_run
    )


def require_evaluable(predictions: Predictions, checklist: Checklist) -> None:
    """Raise PredictionsError where `evaluate` would, before a look at the test set is counted."""
    Sample.of(predictions, checklist)


def _other_units(
    predictions: Predictions, checklist: Checklist, metrics: Metrics
) -> dict[str, dict[MetricId, Metric] | NotEstimable]:
    """The metrics by the units that the checklist does not judge by, as far as the data allow."""
    found: dict[str, dict[MetricId, Metric] | NotEstimable] = {}
    for unit in UNITS:
        if unit == checklist.unit:
            continue
        if missing := unit_lacks(predictions, unit):
            found[unit] = NotEstimable(f"{missing} is not given for every image.")
        else:
            other = Sample.of(predictions, checklist, unit, slices=())
            found[unit] = Metrics(other, checklist, metrics.level, metrics.seed).of_unit()
    return found


def _enough(metric: Metric, criterion: Criterion, metrics: Metrics) -> Metric:
    """The metric, unless its cases are too few or incomplete for a line of the checklist."""
    asked = criterion.id
    tally = metrics.sample.tally(asked.column, asked.value, asked.target)
    if isinstance(metric, NotEstimable) or tally is None:
        return metric
    by_grade = tally.table.sum(axis=1)
    if asked.about.by == "equal_grades" and (by_grade == 0).any():
        absent = ", ".join(TITLES[grade] for grade in np.flatnonzero(by_grade == 0))
        return NotEstimable(f"it is over all five grades, and there is none of {absent}.")
    cases, wanted = metric.n or 0, metrics.checklist.fewest_positives(criterion)
    if asked.about.kind == "index" and (grades := grades_of(asked.target)):
        positive = int(by_grade[list(grades)].sum())
        cases = min(positive, int(by_grade.sum()) - positive)
    if cases < wanted:
        return NotEstimable(f"the slice has {cases} of the {wanted} cases that the checklist asks for.")
    return metric


# -- evidence from the training record ---------------------------------------------------------------------------------


def _stability_summary(training: Mapping[str, Any], checklist: Checklist) -> dict[str, Any]:
    """The window that the stability criterion looks at, or why there is none (statistics of `stats.stability`)."""
    history = training.get("history") or []
    window = checklist.stability_window
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
    limits = [c.threshold for c in checklist.criteria if c.id.metric == "stability"]
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
