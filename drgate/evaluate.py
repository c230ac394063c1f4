"""Predictions held against a checklist: every metric with its interval, every criterion with its reason.

    evaluation = evaluate(load_predictions("predictions.parquet"), load_spec("medical-grade"))
    evaluation.verdict                            # "PASS", "FAIL" or "INSUFFICIENT"

Pure and reproducible: the same predictions, checklist and evidence give the same numbers to the digit, on any machine
with the same NumPy, whatever the order of rows. `verify` relies on that.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from drgate import __version__
from drgate.errors import PredictionsError
from drgate.evaluation import CriterionResult, Estimate, Evaluation, Metric, NotEstimable, Status, Verdict
from drgate.predictions import Predictions
from drgate.scale import GRADES, GROUP_TITLES, GROUPS, TITLES
from drgate.spec import Criterion, GateSpec, NoOutputPolicy, default_policy
from drgate.stats import agreement, bootstrap, cluster, confusion, paired, ranking, stability

NO_OUTPUT: Final = 5
"""Column of the 5 x 6 table for images that the model gave no answer for."""

KAPPA_WEIGHTS: Final[dict[str, agreement.Weights]] = {
    "kappa": "none", "linear_kappa": "linear", "quadratic_kappa": "quadratic",
}  # fmt: skip

NAMES: Final = {**dict(zip(GRADES, TITLES, strict=True)), **GROUP_TITLES}


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
    look: {"number", "allowed", "time"}; a look beyond the allowed number reports and cannot pass.
    baseline: the best earlier run's predictions on the same images.

    Raises PredictionsError when there is no reference grade to judge by.
    """
    look = dict(look or {"number": 1, "allowed": spec.looks, "time": ""})
    # alpha/K: every look is tested at its share of the level
    level = 1 - (1 - spec.evidence.level) / max(spec.looks, look["allowed"])
    sample = _Sample.of(predictions, spec)
    seed = bootstrap.seed_from(predictions.digest, spec.digest)
    metrics = _Metrics(sample, spec, level, seed)
    history = dict(training or {})
    history |= _stability_summary(history, spec)

    found = metrics.all()
    found["stability"] = _stability(history)
    found["cost"] = _cost(history)
    found["baseline"] = _baseline(predictions, baseline, spec, level)
    if baseline is not None:
        history["baseline"] = {"predictions_digest": baseline.digest}

    results = []
    for criterion in spec.each_criterion():
        metric = found.get(criterion.id)
        if metric is None or criterion.policy != default_policy(criterion.id):
            metric = metrics.estimate(criterion.id, criterion.policy)
        results.append(_judge(criterion, metric, spec, history))
    if barred := _barred(look, data or {}):
        results = [_cannot_pass(result, barred) for result in results]
    flagged = _flagged(predictions)
    return Evaluation(
        verdict=_verdict(results),
        criteria=tuple(results),
        metrics=found,
        confusion_matrix=tuple(tuple(int(cell) for cell in row[:NO_OUTPUT]) for row in sample.table),
        no_output=tuple(int(count) for count in sample.table[:, NO_OUTPUT]),
        spec={"name": spec.name, "version": spec.version, "digest": spec.digest, "content": spec.content()},
        data={**(data or {}), **sample.counts(), "predictions_digest": predictions.digest},
        model=dict(model or {"kind": "predictions table", "name": predictions.origin, "files": []}),
        training=history,
        look=look,
        flagged=flagged,
        page_one=_page_one(sample, spec, look, data or {}, flagged),
        software={"drgate": __version__, "numpy": np.__version__, "scipy": scipy.__version__},
    )


def require_evaluable(predictions: Predictions, spec: GateSpec) -> None:
    """Raise PredictionsError where `evaluate` would, before a look at the test set is counted."""
    _Sample.of(predictions, spec)


@dataclass(frozen=True)
class _Sample:
    """What is judged, by the unit of the spec: reference and predicted grade (5: no output), patient."""

    reference: NDArray[np.int64]
    predicted: NDArray[np.int64]
    patients: NDArray[np.int64] | None
    probabilities: NDArray[np.float64]
    unit: str
    images: int
    ungradable: int
    independent: bool

    @classmethod
    def of(cls, predictions: Predictions, spec: GateSpec) -> _Sample:
        table = predictions.table
        judged = table[table["gradable"] & table["grade"].notna()]
        lacking = table["gradable"] & table["grade"].isna()
        if judged.empty:
            raise PredictionsError(
                f"{predictions.origin} has no reference grades; join them (column grade) before it is evaluated."
            )
        if lacking.any():
            raise PredictionsError(
                f"{predictions.origin}: image {table['image'][lacking].iloc[0]!r} has no reference grade; give one, "
                "or set gradable to false."
            )
        rows = pd.DataFrame(
            {
                "reference": judged["grade"].astype("int64"),
                "predicted": judged["predicted"].fillna(NO_OUTPUT).astype("int64"),
                "patient": judged["patient"],
                "eye": judged["eye"],
            }
        )
        probabilities = judged[["p_0", "p_1", "p_2", "p_3", "p_4"]].to_numpy(dtype=np.float64)
        if spec.unit != "image":
            keys = ["patient"] if spec.unit == "patient" else ["patient", "eye"]
            if rows[keys].isna().any(axis=None):
                raise PredictionsError(
                    f"{predictions.origin}: the spec judges by {spec.unit}, but {' or '.join(keys)} is not given for "
                    "every image."
                )
            # The worst eye decides; one without output leaves the whole unit without (no_output is the largest code).
            rows = rows.groupby(keys, as_index=False)[["reference", "predicted"]].max()
            probabilities = np.full((len(rows), 5), np.nan)
        patients = None
        if predictions.patients_known:
            patients = np.unique(rows["patient"].to_numpy(dtype=str), return_inverse=True)[1].astype(np.int64)
        return cls(
            rows["reference"].to_numpy(),
            rows["predicted"].to_numpy(),
            patients,
            probabilities,
            spec.unit,
            len(judged),
            int((~table["gradable"]).sum()),
            patients is None and spec.evidence.one_image_per_patient,
        )

    @cached_property
    def table(self) -> NDArray[np.int64]:
        """The 5 x 6 table: rows the reference grade, columns the predicted one and no output."""
        return confusion.tabulate(self.reference, self.predicted)

    @cached_property
    def patterns(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Distinct patients' count vectors over the 30 cells, and how many patients have each."""
        if self.patients is None:
            return None
        return bootstrap.patient_patterns(self.reference * 6 + self.predicted, self.patients)

    def counts(self) -> dict[str, Any]:
        """The counts of the test set that a report shows."""
        return {
            "unit": self.unit,
            "units": len(self.reference),
            "images": self.images,
            "patients": None if self.patients is None else int(self.patients.max()) + 1,
            "by_grade": [int(count) for count in self.table.sum(axis=1)],
            "reference_ungradable": self.ungradable,
        }


class _Metrics:
    """Estimates every metric of one sample, sharing one bootstrap."""

    def __init__(self, sample: _Sample, spec: GateSpec, level: float, seed: int) -> None:
        self.sample, self.spec, self.level, self.seed = sample, spec, level, seed

    @cached_property
    def replicates(self) -> NDArray[np.int64]:
        """(B, 30) resampled tables: patients where they are known, else images."""
        resamples = self.spec.bootstrap.resamples
        if self.sample.patterns is None:
            return bootstrap.resample_images(self.sample.table, resamples=resamples, seed=self.seed)
        return bootstrap.resample_patients(*self.sample.patterns, resamples=resamples, seed=self.seed)

    def all(self) -> dict[str, Metric]:
        """Every metric by id, in the order in which a report shows them."""
        names = ["accuracy", "balanced_accuracy", "kappa", "linear_kappa", "quadratic_kappa"]
        for metric in ("sensitivity", "specificity", "ppv", "npv", "auc"):
            names += [f"{metric}:{target}" for target in NAMES]
        names += ["undergraded:vision_threatening_below_referable", "undergraded:by_two", "overgraded:by_two"]
        names += ["no_output", *(f"no_output:{grade}" for grade in GRADES)]
        return {name: self.estimate(name, default_policy(name)) for name in names}

    def estimate(self, name: str, policy: NoOutputPolicy) -> Metric:
        """One metric with its interval; NotEstimable, with the reason, where the data do not define it."""
        metric, _, target = name.partition(":")
        if metric == "auc":
            return self._auc(target)
        if metric in ("kappa", "linear_kappa", "quadratic_kappa", "balanced_accuracy"):
            return self._index(metric, policy)
        ratio = _ratio(metric, target, policy)
        k, n = (int(count) for count in ratio.terms(self.sample.table))
        if n == 0:
            return NotEstimable(_absent(metric, target, self.sample.table))
        effective = self._effective(ratio, k, n)
        bounds = cluster.bounds(effective, level=self.level, interval=self.spec.evidence.interval)
        values, defined = ratio.values(self.replicates)
        shown = bootstrap.percentile_interval(values, self.level, defined)
        return Estimate(
            kind="proportion",
            value=k / n,
            k=k,
            n=n,
            low=bounds.low,
            high=bounds.high,
            level=self.level,
            method=self.spec.evidence.interval,
            clusters=effective.clusters,
            design_effect=effective.design_effect,
            bootstrap=None if shown is None else (shown.low, shown.high),
            bootstrap_undefined=None if shown is None else shown.undefined,
        )

    def _effective(self, ratio: confusion.Ratio, k: int, n: int) -> cluster.EffectiveSample:
        if self.sample.patterns is None:
            if self.sample.independent:
                return cluster.one_image_per_patient(k, n)
            return cluster.unknown_clusters(k, n, level=self.level)
        patterns, counts = self.sample.patterns
        successes, sizes = ratio.terms(patterns)
        return cluster.effective_sample(successes, sizes, level=self.level, counts=counts, adverse=ratio.adverse)

    def _index(self, metric: str, policy: NoOutputPolicy) -> Metric:
        """Kappa and balanced accuracy, interval by bootstrap."""
        present = tuple(np.flatnonzero(self.sample.table.sum(axis=1)).tolist())

        def values(tables: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            if metric == "balanced_accuracy":
                return confusion.balanced_accuracy(tables, policy, grades=present)
            return agreement.kappa(confusion.square(tables, policy), KAPPA_WEIGHTS[metric])

        value, defined = values(self.sample.table)
        if not defined:
            return NotEstimable("it is not defined on this table (one grade only, or no output at all).")
        drawn, drawn_defined = values(self.replicates)
        shown = bootstrap.percentile_interval(drawn, self.level, drawn_defined)
        who = "image" if self.sample.patterns is None else "patient"
        n = int(self.sample.table[:, :NO_OUTPUT].sum() if policy == "excluded" else self.sample.table.sum())
        return Estimate(
            kind="index",
            value=float(value),
            n=n,
            low=None if shown is None else shown.low,
            high=None if shown is None else shown.high,
            level=self.level,
            method=f"{who} bootstrap, percentile",
            bootstrap_undefined=None if shown is None else shown.undefined,
        )

    def _auc(self, target: str) -> Metric:
        """A grade or group against the rest, over images with probabilities."""
        grades = _grades(target)
        answered = ~np.isnan(self.sample.probabilities[:, 0])
        if not answered.any():
            return NotEstimable(f"there are no probabilities by {self.sample.unit} to rank by.")
        scores = self.sample.probabilities[answered][:, list(grades)].sum(axis=1)
        positive = np.isin(self.sample.reference[answered], grades)
        method = ""
        if self.sample.patients is not None:
            result = ranking.auc_clustered(scores, positive, self.sample.patients[answered], level=self.level)
        elif self.sample.independent:
            result = ranking.auc_delong(scores, positive, level=self.level)
        else:
            # Two eyes entirely alike double the variance: the interval of a z that is larger by the root of 2.
            wide = 2 * float(ndtr(math.sqrt(2) * ndtri((1 + self.level) / 2))) - 1
            result = ranking.auc_delong(scores, positive, level=wide)
            method = ", variance doubled for unknown patients"
        if result is None:
            return NotEstimable(f"it takes images with {NAMES[target]} and images without.")
        return Estimate(
            kind="index",
            value=result.value,
            n=int(answered.sum()),
            low=result.low,
            high=result.high,
            level=self.level,
            method=result.method + method,
            clusters=result.clusters,
        )


def _grades(target: str) -> tuple[int, ...]:
    return GROUPS[target] if target in GROUPS else (GRADES.index(target),)


def _ratio(metric: str, target: str, policy: NoOutputPolicy) -> confusion.Ratio:
    """A proportion as cells of the 5 x 6 table."""
    if metric == "accuracy":
        return confusion.accuracy(policy)
    if metric == "no_output":
        return confusion.no_output(GRADES.index(target) if target else None)
    if metric == "undergraded":
        if target == "by_two":
            return confusion.undergraded_by(2, policy)
        return confusion.below(GROUPS["vision_threatening"], 2, policy)
    if metric == "overgraded":
        return confusion.overgraded_by(2, policy)
    make = {
        "sensitivity": confusion.sensitivity,
        "specificity": confusion.specificity,
        "ppv": confusion.ppv,
        "npv": confusion.npv,
    }[metric]
    return make(_grades(target), policy)


def _absent(metric: str, target: str, table: NDArray[np.int64]) -> str:
    """Why a proportion has no denominator."""
    title = NAMES.get(target, "")
    inside = np.isin(np.arange(5), _grades(target if target in NAMES else "vision_threatening"))
    match metric:
        case "ppv":
            return f"no image was called {title}."
        case "npv":
            return f"no image was called other than {title}."
        case "sensitivity" | "no_output" if title:
            rows, which = table[inside], f"graded {title}"
        case "specificity":
            rows, which = table[~inside], f"graded other than {title}"
        case "undergraded" if target != "by_two":
            rows, which = table[inside], "graded severe NPDR or PDR"
        case _:
            rows, which = table, "that is graded"
    if rows.sum() == 0:
        return f"the test set has no image {which}."
    return f"the model gave no output for any of the {rows.sum()} images {which}."


# -- evidence from the training record ---------------------------------------------------------------------------------


def _stability_summary(training: Mapping[str, Any], spec: GateSpec) -> dict[str, Any]:
    """The window that the stability criterion looks at, or why there is none (statistics of `stats.stability`)."""
    history = training.get("history") or []
    window = next((c.window for c in spec.criteria if c.metric == "stability" and c.window), 10)
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
    if "missing" in training:
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
    both = predictions.table.merge(baseline.table, on="image", how="outer", suffixes=("", "_b"), indicator=True)
    if (both["_merge"] != "both").any():
        image = both.loc[both["_merge"] != "both", "image"].iloc[0]
        return NotEstimable(f"the baseline was scored on other images ({image!r} is in one table only).")
    if baseline.table["grade"].isna().all():
        return NotEstimable("the baseline's table has no reference grades.")
    both = both[both["gradable"] & both["grade"].notna()]
    if (both["grade"] != both["grade_b"]).fillna(True).any():
        return NotEstimable("the baseline's table has other reference grades.")
    right = (both["predicted"] == both["grade"]).fillna(False).to_numpy(dtype=bool)
    right_b = (both["predicted_b"] == both["grade"]).fillna(False).to_numpy(dtype=bool)
    only, only_b = right & ~right_b, right_b & ~right
    if predictions.patients_known:
        owner = np.unique(both["patient"].to_numpy(dtype=str), return_inverse=True)[1]
        paired_sample = paired.paired_sample(
            *(np.bincount(owner, weights=flags).astype(np.int64) for flags in (only, only_b, np.ones(len(both))))
        )
    elif spec.evidence.one_image_per_patient:
        paired_sample = paired.PairedSample(int(only.sum()), int(only_b.sum()), len(both), len(both), 1.0)
    else:
        paired_sample = paired.paired_sample_unknown(int(only.sum()), int(only_b.sum()), len(both))
    margin = next((c.margin for c in spec.criteria if c.margin is not None), 0.02)
    result = paired.noninferiority(paired_sample, margin, level=level)
    return Estimate(
        kind="index", value=result.difference, n=len(both), low=result.bounds.low, high=result.bounds.high, level=level,
        method="Tango's score interval of the paired difference in accuracy",
        clusters=paired_sample.clusters, design_effect=paired_sample.design_effect,
    )  # fmt: skip


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


def _judge(criterion: Criterion, metric: Metric, spec: GateSpec, training: Mapping[str, Any]) -> CriterionResult:
    decided_on = "point" if criterion.metric in ("stability", "cost") else spec.evidence.decide_on
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
    elif metric.low is None or metric.high is None or metric.low == metric.high:
        status, reason = "INSUFFICIENT", f"{metric.value:.3f}, but too few patients for an interval."
    else:
        status, reason = _judge_interval(criterion, metric, decided_on)
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


def _judge_interval(criterion: Criterion, metric: Estimate, decided_on: str) -> tuple[Status, str]:
    """FAIL where the estimate itself misses the threshold, INSUFFICIENT where only the bound does."""
    assert metric.low is not None
    assert metric.high is not None
    upward = criterion.comparator in (">=", ">")
    if metric.k is not None and metric.n is not None:
        value: Fraction | float = Fraction(metric.k, metric.n)
        estimate_meets = _meets(value, criterion.comparator, criterion.exact_threshold)
    else:
        estimate_meets = _meets(metric.value, criterion.comparator, criterion.threshold)
    bound, other = (metric.low, metric.high) if upward else (metric.high, metric.low)
    side, other_side = ("lower", "upper") if upward else ("upper", "lower")
    measured = _percent(metric.value, criterion.threshold)
    if metric.k is not None:
        measured = f"{metric.k} of {metric.n} ({measured})"
    rule = f"the rule is {_rule(criterion)}"
    bounded = f"the {side} bound is {_percent(bound, criterion.threshold)}"
    if not estimate_meets:
        wrong_side = "below" if upward else "above"
        if _meets(other, criterion.comparator, criterion.threshold):
            gap = abs(metric.value - criterion.threshold) * 100
            how = (
                f"Missed by {gap:.1f} points, but not shown {wrong_side} it (interval {_interval(metric, criterion)})."
            )
        else:
            how = f"Shown {wrong_side} it: even the {other_side} bound is {_percent(other, criterion.threshold)}."
        return "FAIL", f"{measured}; {rule}. {how}"
    if decided_on == "point":
        return "PASS", f"{measured} observed; {rule}, on the estimate alone ({bounded})."
    if _meets(bound, criterion.comparator, criterion.threshold):
        return "PASS", f"{measured}; {bounded}; {rule}."
    return "INSUFFICIENT", (
        f"{measured} meets the rule ({_rule(criterion)}), but {bounded}: too few patients to show it, which is no "
        "evidence that the model falls short."
    )


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
    words = {">=": "at least", ">": "above", "<=": "at most", "<": "below"}[criterion.comparator]
    return f"{words} {_percent(criterion.threshold)}"


def _percent(value: float, near: float | None = None) -> str:
    """A fraction as a percentage, with as many digits as tell it from `near` (never "90.0 %" for what misses 90 %)."""
    for digits in (1, 2, 3, 4):
        text = f"{100 * value:.{digits}f}"
        if near is None or value == near or text != f"{100 * near:.{digits}f}":
            break
    return f"{text} %"


def _interval(metric: Estimate, criterion: Criterion) -> str:
    assert metric.low is not None
    assert metric.high is not None
    return f"{_percent(metric.low, criterion.threshold)} to {_percent(metric.high, criterion.threshold)}"


def _barred(look: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Why nothing can pass on this test set, whatever the numbers; empty where something can."""
    if look["number"] > look["allowed"]:
        return f"this is look {look['number']} at a test set that allows {look['allowed']}; a fresh test set can"
    if data.get("selected_here"):
        return "the model was selected on these images; the test split can"
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
    sample: _Sample,
    spec: GateSpec,
    look: Mapping[str, Any],
    data: Mapping[str, Any],
    flagged: tuple[dict[str, Any], ...],
) -> tuple[str, ...]:
    """What must be read with the verdict."""
    lines = []
    if barred := _barred(look, data):
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
        lines.append(
            f"{len(flagged)} image{'s' if len(flagged) > 1 else ''} with severe NPDR or PDR "
            f"{'were' if len(flagged) > 1 else 'was'} called below referable."
        )
    confused = int(sample.table[3, 4])
    if confused:
        lines.append(
            f"{confused} severe NPDR called PDR count as misses of severe NPDR; clinically that is harmless, both are "
            "referred at once."
        )
    unanswered = int(sample.table[:, NO_OUTPUT].sum())
    if unanswered:
        lines.append(f"{unanswered} of {len(sample.reference)} {sample.unit}s got no output from the model.")
    if sample.ungradable:
        lines.append(f"{sample.ungradable} images have no reference grade (not gradable) and stay outside every count.")
    lines += data.get("warnings", [])
    lines.append(str(data.get("leakage", "Leakage between training and test data: not checked.")))
    lines.append("Referable and vision-threatening are by DR grade alone; diabetic macular oedema is not considered.")
    for title, part in (
        ("Intended use", "intended_use"),
        ("Reference standard", "reference"),
        ("Test set", "test_set"),
    ):
        missing = [key.replace("_", " ") for key, value in spec.content()[part].items() if value == "not stated"]
        if missing:
            lines.append(f"{title}: {', '.join(missing)} not stated.")
    return tuple(lines)
