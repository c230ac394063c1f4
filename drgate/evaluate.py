"""Evaluates predictions by a checklist: every metric with its interval, every criterion with its reason.

    evaluation = evaluate(load_predictions("predictions.parquet"), load_checklist("medical-grade"))
    evaluation.verdict                            # "PASS", "FAIL" or "INSUFFICIENT"

Pure and reproducible: the same predictions, checklist and evidence give exactly the same numbers on any machine with
the same NumPy, whatever the order of rows, the names and the columns that nothing uses. `verify` relies on that.
"""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import scipy

from drgate import __version__
from drgate.checklist import Checklist, Criterion
from drgate.class_order import grade_mix, reordered
from drgate.compare import accuracy_difference
from drgate.contrast import Beside, too_small
from drgate.decide import audited, barred, cannot_pass, decide, gate_error, not_judged, unlisted
from drgate.elsewhere import by_prevalence, net_benefit, sites
from drgate.errors import PredictionsError
from drgate.evaluation import (
    Audit,
    Baseline,
    Bin,
    Counts,
    CriterionResult,
    Estimate,
    Evaluation,
    HeldAgainst,
    Look,
    Metric,
    Model,
    NotEstimable,
    Stability,
    TestSet,
    Training,
    Without,
    read_as,
    verdict_of,
)
from drgate.measure import Metrics
from drgate.metrics import NAMES, MetricId, grades_of
from drgate.page_one import flagged_images, of_leak, page_one, without_them
from drgate.predictions import Predictions, published, without_answers
from drgate.sample import Sample, patients_of, unit_lacks
from drgate.scale import TITLES
from drgate.stats import bootstrap, stability
from drgate.stats.calibration import FEWEST_EVENTS

UNITS: Final = ("image", "eye", "patient")


def evaluate(
    predictions: Predictions,
    checklist: Checklist,
    *,
    model: Model | None = None,
    data: TestSet | None = None,
    training: Training | None = None,
    look: Look | None = None,
    baseline: Predictions | None = None,
) -> Evaluation:
    """Evaluate predictions by a checklist.

    predictions: with reference grades; rows without one are counted, but judged in no figure.
    model, data: descriptions of the model and the test set; copied to the evaluation. Of a test set the digest, by
        which a checklist declares it, and how patients were named are filled in where they are not given.
    training: the run's record, if there is one; its `stability` and `baseline` are filled in here.
    look: beyond the allowed number of looks nothing can pass. Where the audit in `data` found a leak there is none, and
        no answer is used: only the audit is decided.
    baseline: the best earlier run's predictions on the same images.

    Raises PredictionsError without reference grades or without a column that the checklist slices by.
    """
    name = Path(predictions.origin).name  # an evaluation does not repeat a path of the machine
    model = model or Model("predictions table", name, ())
    data = data or TestSet(name)
    if data.digest is None and not predictions.provenance:
        data = dataclasses.replace(data, images_digest=predictions.images_digest)
    if data.patients is None:
        data = dataclasses.replace(data, patients=patients_of(predictions))
    leak = data.audit is not None and bool(data.audit.leaks)
    look = look or Look(0 if leak else 1, checklist.looks, "")
    if leak:
        predictions = without_answers(predictions)
    # alpha/K: every look is tested at its share of alpha
    level = 1 - (1 - checklist.evidence.level) / max(checklist.looks, look.allowed)
    sample = Sample.of(predictions, checklist, data=data)
    seed = bootstrap.seed_from(sample.counted_digest, checklist.digest)
    metrics = Metrics(sample, checklist, level, seed)
    training = training or Training()
    training = dataclasses.replace(training, stability=_window(training, checklist))
    software = {
        "drgate": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "pandas": pd.__version__,
    }
    if leak:
        return _not_judged(predictions, checklist, sample, model, data, training, look, seed, software)
    if baseline is not None:
        training = dataclasses.replace(training, baseline=Baseline(published(baseline).digest))

    found = metrics.all()
    found[MetricId("stability")] = _stability(training)
    found[MetricId("cost")] = _cost(training)
    if baseline is None:
        found[MetricId("baseline")] = NotEstimable("no baseline predictions were given; give them with --baseline.")
    else:
        found[MetricId("baseline")] = accuracy_difference(
            predictions,
            baseline,
            level=level,
            unit=checklist.unit,
            images_a_patient=sample.images_a_patient,
        )

    criteria = checklist.each_criterion(sample.slice_names)
    compared = Beside(predictions, checklist, level=level, baseline=baseline, data=data)
    beside = {one.id: compared.noninferior(one.id) for one in criteria if one.id.against}
    results = []
    for criterion in criteria:
        if criterion.id.metric == "audit":
            results.append(audited(criterion, data.audit))
            continue
        metric = beside[criterion.id][0] if criterion.id in beside else found.get(criterion.id)
        if metric is None or criterion.policy != criterion.id.default_policy:
            metric = metrics.estimate(criterion.id, criterion.policy)
        metric = _enough(metric, criterion, metrics)
        results.append(decide(criterion, metric, metrics, training, looks_left=look.number < look.allowed))
    results += unlisted(data.audit, criteria)
    why = barred(look, data)
    if why:
        results = [result if result.id.metric == "audit" else cannot_pass(result) for result in results]
    suspected = _without_suspects(predictions, checklist, model, data, training, look, baseline)
    flagged = flagged_images(predictions)
    matrix, no_output = sample.confusion()
    return Evaluation(
        verdict=verdict_of(results, observed=checklist.evidence.decide_on == "point"),
        criteria=tuple(results),
        metrics=found,
        confusion_matrix=matrix,
        no_output=no_output,
        spec=HeldAgainst(checklist.name, checklist.version, checklist.digest, checklist.content()),
        data=data,
        counts=read_as(Counts, sample.counts(), "The counts", expected="counts"),
        predictions_digest=predictions.digest,
        bootstrap_seed=f"{seed:016x}",  # as text: not every JSON reader supports 64-bit integers
        model=model,
        training=training,
        look=look,
        flagged=flagged,
        page_one=(
            *page_one(
                sample,
                checklist,
                look,
                data,
                training,
                flagged,
                results,
                found[MetricId("reference_ungradable")],
                compared.of_readers(),
            ),
            *grade_mix(predictions, checklist),
            *without_them(suspected),
        ),
        software=software,
        barred=why or None,
        reordered=reordered(predictions, model),
        three_ways=metrics.three_ways(),
        screened=metrics.screened(),
        units=_other_units(predictions, checklist, metrics, data),
        gate_error=tuple(error for criterion in criteria for error in gate_error(criterion, metrics)),
        reliability={endpoint: tuple(Bin(**one) for one in bins) for endpoint, bins in metrics.reliability().items()},
        gaps={
            one.id: gap.groups
            for one in criteria
            if one.id.about.by == "groups" and not isinstance(gap := metrics.gap(one.id, one.policy), NotEstimable)
        },
        readers={name: readers for name, (_, readers) in beside.items() if readers},
        by_prevalence=by_prevalence(metrics, found),
        net_benefit=net_benefit(metrics, found),
        sites=sites(predictions, metrics, data),
        without_suspects=suspected,
    )


def _not_judged(
    predictions: Predictions,
    checklist: Checklist,
    sample: Sample,
    model: Model,
    data: TestSet,
    training: Training,
    look: Look,
    seed: int,
    software: dict[str, str],
) -> Evaluation:
    """What is left to say where test images or patients were in training: the audit's criteria alone are decided."""
    criteria = checklist.each_criterion(sample.slice_names)
    basis = checklist.evidence.decide_on
    results = [
        audited(one, data.audit) if one.id.metric == "audit" else not_judged(one, basis) for one in criteria
    ] + unlisted(data.audit, criteria)
    matrix, no_output = sample.confusion()
    return Evaluation(
        verdict=verdict_of(results, observed=basis == "point"),
        criteria=tuple(results),
        metrics={},
        confusion_matrix=matrix,
        no_output=no_output,
        spec=HeldAgainst(checklist.name, checklist.version, checklist.digest, checklist.content()),
        data=data,
        counts=read_as(Counts, sample.counts(), "The counts", expected="counts"),
        predictions_digest=predictions.digest,
        bootstrap_seed=f"{seed:016x}",
        model=model,
        training=training,
        look=look,
        flagged=(),
        page_one=of_leak(sample, checklist, data),
        software=software,
    )


def _without_suspects(
    predictions: Predictions,
    checklist: Checklist,
    model: Model,
    data: TestSet,
    training: Training,
    look: Look,
    baseline: Predictions | None,
) -> Without | None:
    """The verdict without the patients of images that may be copies of training images; None where there are none."""
    if data.audit is None or not data.audit.suspects:
        return None
    suspects, table = {*data.audit.suspects}, predictions.grouped
    suspected = np.isin([key or "" for key in predictions.content_keys], [one[:16] for one in suspects])
    suspected |= table["image"].isin(suspects).to_numpy(dtype=bool)
    patients = table["patient"][suspected].dropna()
    gone = suspected | table["patient"].isin(patients).to_numpy(dtype=bool)
    kept = predictions.table[~gone].reset_index(drop=True)
    left = int(gone.sum()), patients.nunique() or None
    try:
        other = evaluate(
            dataclasses.replace(predictions, table=kept),
            checklist,
            model=model,
            data=dataclasses.replace(data, audit=_unsuspected(data.audit)),
            training=training,
            look=look,
            baseline=None
            if baseline is None
            else dataclasses.replace(
                baseline, table=baseline.table[baseline.table["image"].isin(kept["image"])].reset_index(drop=True)
            ),
        )
    except PredictionsError:  # nothing that can be counted is left; the message would name a file of this machine
        return Without(*left, reason="what is left cannot be judged.")
    return Without(*left, verdict=other.verdict, criteria={one.id: one.status for one in other.criteria})


def _unsuspected(audit: Audit) -> Audit:
    """The same audit of the set without what it suspects: what remains has nothing near it in training."""
    checks = tuple(
        dataclasses.replace(one, status="not_assessed", count=0) if one.status == "suspected" else one
        for one in audit.checks
    )
    return dataclasses.replace(audit, checks=checks, suspects=())


def lines(predictions: Predictions, checklist: Checklist) -> tuple[CriterionResult, ...]:
    """The criteria about images only, without the rest of an evaluation, for use after each epoch.

    Looks are not counted, because images that select an epoch cannot certify it. Raises PredictionsError as `evaluate`.
    """
    sample = Sample.of(predictions, checklist)
    metrics = Metrics(
        sample, checklist, checklist.evidence.level, bootstrap.seed_from(sample.counted_digest, checklist.digest)
    )
    return tuple(
        decide(
            criterion,
            _enough(metrics.estimate(criterion.id, criterion.policy), criterion, metrics),
            metrics,
            Training(),
        )
        for criterion in checklist.each_criterion(sample.slice_names)
        if not criterion.id.about.of_the_run
    )


def require_evaluable(predictions: Predictions, checklist: Checklist, data: TestSet) -> None:
    """Raise PredictionsError where `evaluate` would, before a look at the test set is counted."""
    Sample.of(predictions, checklist, data=data)
    Sample.by_site(predictions, checklist, data)


def _other_units(
    predictions: Predictions, checklist: Checklist, metrics: Metrics, data: TestSet
) -> dict[str, dict[MetricId, Metric] | NotEstimable]:
    """The metrics by the other units, where the data allow."""
    found: dict[str, dict[MetricId, Metric] | NotEstimable] = {}
    for unit in UNITS:
        if unit == checklist.unit:
            continue
        if missing := unit_lacks(predictions, unit):
            found[unit] = NotEstimable(f"{missing} is not given for every image.")
        else:
            other = Sample.of(predictions, checklist, unit, slices=(), data=data)
            found[unit] = Metrics(other, checklist, metrics.level, metrics.seed).of_unit()
    return found


def _enough(metric: Metric, criterion: Criterion, metrics: Metrics) -> Metric:
    """The metric, or NotEstimable where it has too few cases for a criterion."""
    asked = criterion.id
    if asked.about.by == "groups":
        gap = metrics.gap(asked, criterion.policy)
        if isinstance(gap, NotEstimable):
            return gap
        return too_small(gap, asked, metrics.checklist.fewest_positives(criterion)) or metric
    tally = metrics.sample.tally_of(asked)
    if isinstance(metric, NotEstimable) or tally is None:
        return metric
    by_grade = tally.table.sum(axis=1)
    if asked.about.by == "equal_grades" and (by_grade == 0).any():
        absent = ", ".join(TITLES[grade] for grade in np.flatnonzero(by_grade == 0))
        return NotEstimable(f"it needs all five grades, and there are no images with {absent}.")
    if asked.about.by == "calibration" and min(events := metrics.events(asked)) < FEWEST_EVENTS:
        return NotEstimable(
            f"it needs {FEWEST_EVENTS} patients with {NAMES[asked.target]} and {FEWEST_EVENTS} without, and there are "
            f"{events[0]} and {events[1]}. The figure is shown, and decides nothing."
        )
    cases, wanted = metric.n or 0, metrics.checklist.fewest_positives(criterion)
    if asked.about.kind == "index" and (grades := grades_of(asked.target)):
        positive = int(by_grade[list(grades)].sum())
        cases = min(positive, int(by_grade.sum()) - positive)
    if cases < wanted:
        return NotEstimable(f"the slice has {cases} of the {wanted} cases that the checklist requires.")
    return metric


# -- evidence from the training record ---------------------------------------------------------------------------------


def _window(training: Training, checklist: Checklist) -> Stability:
    """The window that the stability criterion uses, or why there is none (statistics of `stats.stability`)."""
    history, window, selected = training.history, checklist.stability_window, training.selected_epoch
    if not history or selected is None:
        return Stability(training.missing or "there is no training record; give the run folder with --record.")
    if training.warm_start_inside:
        return Stability("there is a warm start within the run's history.")
    epochs = [entry.epoch for entry in history]
    if selected not in epochs:
        return Stability(f"the record has no evaluation of epoch {selected}.")
    result = stability.stability_window(
        [entry.val_accuracy for entry in history], epochs.index(selected), window=window, n_val=training.n_val
    )
    if isinstance(result, stability.NotAssessable):
        return Stability(result.reason)
    inside = history[result.first : result.last + 1]
    rates = [entry.learning_rate or 0.0 for entry in history]
    mean_rate = sum(entry.learning_rate or 0.0 for entry in inside) / window
    mean = sum(entry.val_accuracy for entry in inside) / window
    limits = [c.threshold for c in checklist.criteria if c.id.metric == "stability"]
    needed = None
    if result.range_without_noise is not None and limits:
        needed = stability.n_val_to_show(result.range_without_noise, limits[0], mean, window)
    return Stability(
        window=window,
        first_epoch=inside[0].epoch,
        last_epoch=inside[-1].epoch,
        learning_rate_mean_over_peak=mean_rate / max(rates) if max(rates) > 0 else None,
        n_val_to_show=needed,
        **dataclasses.asdict(result),
    )


def _stability(training: Training) -> Metric:
    summary = training.stability
    if summary is None or summary.range is None:
        return NotEstimable("" if summary is None else summary.reason or "")
    return Estimate(kind="range", value=summary.range, n=summary.window, method="max - min of validation accuracy")


def _cost(training: Training) -> Metric:
    spend = training.spend
    if training.missing and not spend:
        return NotEstimable(training.missing)
    if training.status == "running":
        return NotEstimable(
            "the run's record is incomplete, because the run was interrupted, so its spend is not known."
        )
    if spend is None or spend.usd is None:
        return NotEstimable("the record has no spend; train with --usd_per_hour.")
    if spend.earlier_usd is None:
        return NotEstimable(
            f"the spend of {spend.earlier_attempts} earlier attempts is not known (no --usd_per_hour in their records)."
        )
    return Estimate(kind="amount", value=spend.usd + spend.earlier_usd, n=1 + spend.earlier_attempts)
