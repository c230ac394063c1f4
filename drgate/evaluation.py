"""What an evaluation found: frozen results that read and write themselves as JSON.

    evaluation = Evaluation.from_json(json.loads(text))
    evaluation.to_json() == json.loads(text)          # the law: nothing is lost and nothing is added

Undefined is a status with a reason, never NaN; keys that do not apply are absent from the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from drgate.errors import ANSWERS, DrgateError
from drgate.metrics import MetricId, parse_id

Status = Literal["PASS", "FAIL", "INSUFFICIENT", "NOT_ASSESSED"]
Verdict = Literal["PASS", "FAIL", "INSUFFICIENT"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """One measured quantity with its interval.

    kind: "proportion" (k of n, in [0, 1]), "index" (kappa, AUC), "range" (of accuracies, in [0, 1]) or "amount" (USD).
    k, n: counts of a proportion; n alone counts the images behind an index.
    value: k/n for a proportion.
    low, high: the interval that decides, at two-sided `level`; absent where a quantity has none (a cost).
    method: what made the interval, e.g. "clopper-pearson", "patient bootstrap, percentile".
    clusters: patients that contribute; absent where patients are unknown.
    design_effect: by how much clustering inflates the variance (1 = independent images).
    bootstrap: (low, high) of the bootstrap, shown beside and never deciding for a proportion.
    bootstrap_undefined: replicates in which the quantity was not defined, left out of that interval.
    expected: what a perfectly calibrated model would show here (of a calibration error).
    """

    kind: Literal["proportion", "index", "range", "amount"]
    value: float
    k: int | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    method: str | None = None
    clusters: int | None = None
    design_effect: float | None = None
    bootstrap: tuple[float, float] | None = None
    bootstrap_undefined: int | None = None
    expected: float | None = None

    def to_json(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.bootstrap is not None:
            plain["bootstrap"] = {"low": self.bootstrap[0], "high": self.bootstrap[1]}
        return {"status": "estimated"} | {key: value for key, value in plain.items() if value is not None}


@dataclass(frozen=True, slots=True)
class NotEstimable:
    """A quantity that these data do not define, and why."""

    reason: str

    def to_json(self) -> dict[str, Any]:
        return {"status": "not_estimable", "reason": self.reason}


Metric = Estimate | NotEstimable


def metric_from_json(plain: Mapping[str, Any]) -> Metric:
    """The inverse of `to_json` of either kind."""
    rest = {key: value for key, value in plain.items() if key != "status"}
    if plain.get("status") == "not_estimable":
        return NotEstimable(**rest)
    if "bootstrap" in rest:
        rest["bootstrap"] = (rest["bootstrap"]["low"], rest["bootstrap"]["high"])
    return Estimate(**rest)


def _plain(metrics: Mapping[MetricId, Metric] | Mapping[str, Metric]) -> dict[str, Any]:
    return {name: metric.to_json() for name, metric in metrics.items()}


def _metrics(plain: Mapping[str, Any]) -> dict[MetricId, Metric]:
    return {parse_id(name): metric_from_json(metric) for name, metric in plain.items()}


@dataclass(frozen=True, slots=True)
class CriterionResult:
    """One line of the checklist, judged.

    status: PASS; FAIL (the estimate itself misses the threshold); INSUFFICIENT (the estimate meets it, the bound does
        not); NOT_ASSESSED (nothing to judge by, with what is missing).
    comparator: ">=", ">", "<=" or "<"; threshold: in the units of the estimate.
    decided_on: "bound" (the unfavourable end of the interval) or "point" (the estimate itself).
    required: whether the verdict rests on it; the others are advisory.
    added: "safety" for the lines that the owner's checklist did not have; empty otherwise.
    reason: a sentence for a clinician.
    """

    id: MetricId
    status: Status
    comparator: Literal[">=", ">", "<=", "<"]
    threshold: float
    decided_on: Literal["bound", "point"]
    required: bool
    added: str
    estimate: Metric
    reason: str

    def to_json(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return plain | {"estimate": self.estimate.to_json()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> CriterionResult:
        return cls(**{**plain, "id": parse_id(plain["id"]), "estimate": metric_from_json(plain["estimate"])})


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was found about one set of predictions, held against one checklist.

    verdict: FAIL if any required criterion failed, else INSUFFICIENT if any required one is not PASS, else PASS.
    criteria: in the order of the checklist.
    metrics: by id, e.g. `sensitivity:pdr`.
    confusion_matrix: 5 x 5 counts, rows the reference grade, columns the predicted one; no_output: 5 counts a
        reference grade without an answer from the model.
    spec: name, version, digest and the whole content of the checklist.
    data: the test set and the predictions: digests, counts, how patients are known, warnings.
    model: what was judged: files with digests, base, preprocessing; `kind` is "predictions table" for a foreign table.
    training: what stability, cost and baseline were judged by; which attempt it was, its parent and lineage.
    look: number of this look at the test set, how many the spec allows, the time of the look, its line in the chain.
    flagged: images whose severe NPDR or PDR was called below referable.
    page_one: sentences that must be read with the verdict.
    software: versions that the numbers depend on.
    three_ways: by metric and policy, how the metric comes out when images without output are excluded, as referred, or
        the worst case; empty where every image got an answer.
    units: the metrics by image, by eye (its worst image) and by patient (the worse eye), but for the unit judged.
    gate_error: how often the gate itself errs at these counts: the probability of passing each line at a stated true
        value that does, or does not, deserve it.
    reliability: by endpoint, bins of the predicted probability with what was observed.
    """

    verdict: Verdict
    criteria: tuple[CriterionResult, ...]
    metrics: dict[MetricId, Metric]
    confusion_matrix: tuple[tuple[int, ...], ...]
    no_output: tuple[int, ...]
    spec: dict[str, Any]
    data: dict[str, Any]
    model: dict[str, Any]
    training: dict[str, Any]
    look: dict[str, Any]
    flagged: tuple[dict[str, Any], ...]
    page_one: tuple[str, ...]
    software: dict[str, str]
    three_ways: dict[MetricId, dict[str, Metric]] = field(default_factory=dict)
    units: dict[str, dict[MetricId, Metric] | NotEstimable] = field(default_factory=dict)
    gate_error: tuple[dict[str, Any], ...] = ()
    reliability: dict[str, tuple[dict[str, Any], ...]] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 PASS, 1 FAIL, 3 INSUFFICIENT."""
        return ANSWERS[self.verdict]

    @property
    def warnings(self) -> tuple[CriterionResult, ...]:
        """Advisory criteria that are not met: a PASS with these is a PASS with warnings."""
        return tuple(c for c in self.criteria if not c.required and c.status in ("FAIL", "INSUFFICIENT"))

    @property
    def observed_only(self) -> bool:
        """Whether the checklist decides on point estimates, so that PASS means "observed", not "shown"."""
        return bool(self.spec["content"]["evidence"]["decide_on"] == "point")

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "criteria": [criterion.to_json() for criterion in self.criteria],
            "metrics": _plain(self.metrics),
            "three_ways": {name: _plain(ways) for name, ways in self.three_ways.items()},
            "units": {
                unit: found.to_json()
                if isinstance(found, NotEstimable)
                else {"status": "estimated", "metrics": _plain(found)}
                for unit, found in self.units.items()
            },
            "gate_error": list(self.gate_error),
            "reliability": {endpoint: list(bins) for endpoint, bins in self.reliability.items()},
            "confusion_matrix": [list(row) for row in self.confusion_matrix],
            "no_output": list(self.no_output),
            "spec": self.spec,
            "data": self.data,
            "model": self.model,
            "training": self.training,
            "look": self.look,
            "flagged": list(self.flagged),
            "page_one": list(self.page_one),
            "software": self.software,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_json`. Raises DrgateError when the structure is not that of an evaluation."""
        try:
            return cls(
                **{
                    **plain,
                    "criteria": tuple(CriterionResult.from_json(criterion) for criterion in plain["criteria"]),
                    "metrics": _metrics(plain["metrics"]),
                    "three_ways": {
                        parse_id(name): {way: metric_from_json(metric) for way, metric in ways.items()}
                        for name, ways in plain["three_ways"].items()
                    },
                    "units": {
                        unit: _metrics(found["metrics"]) if "metrics" in found else NotEstimable(found["reason"])
                        for unit, found in plain["units"].items()
                    },
                    "gate_error": tuple(plain["gate_error"]),
                    "reliability": {endpoint: tuple(bins) for endpoint, bins in plain["reliability"].items()},
                    "confusion_matrix": tuple(tuple(row) for row in plain["confusion_matrix"]),
                    "no_output": tuple(plain["no_output"]),
                    "flagged": tuple(plain["flagged"]),
                    "page_one": tuple(plain["page_one"]),
                }
            )
        except (KeyError, TypeError, AttributeError) as problem:
            raise DrgateError(f"This is not an evaluation that drgate wrote ({problem}).") from problem
