"""Small evaluations made by hand, for tests of what is done with an evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from drgate.evaluation import CriterionResult, Estimate, Evaluation, NotEstimable, Status
from drgate.files import canonical_json

CONTENT = {
    "name": "small",
    "version": 2,
    "evidence": {"decide_on": "bound"},
    "criteria": [{"id": "accuracy", "at_least": 0.9}],
}


def digest_of(content: Any) -> str:
    return "sha256:" + hashlib.sha256(canonical_json(content)).hexdigest()


def criterion(name: str, status: Status, *, required: bool = True) -> CriterionResult:
    """One judged line; a line that was not assessed has no estimate."""
    estimate = Estimate("proportion", 0.95, k=95, n=100, low=0.887, high=0.984, level=0.95, method="clopper-pearson")
    return CriterionResult(
        id=name,
        status=status,
        comparator=">=",
        threshold=0.9,
        decided_on="bound",
        required=required,
        added="" if required else "safety",
        estimate=NotEstimable("no history") if status == "NOT_ASSESSED" else estimate,
        reason="95 of 100 – “shown”.",
    )


def evaluation(**changes: Any) -> Evaluation:
    """A PASS on two criteria about a model of one file, with the given fields changed."""
    model_file = b"weights"
    made = Evaluation(
        verdict="PASS",
        criteria=(criterion("accuracy", "PASS"), criterion("sensitivity:pdr", "PASS")),
        metrics={"accuracy": Estimate("proportion", 0.95, k=95, n=100, bootstrap=(0.9, 0.99))},
        confusion_matrix=tuple(tuple(19 if i == j else 1 if j == 0 else 0 for j in range(5)) for i in range(5)),
        no_output=(0, 0, 0, 0, 0),
        spec={"name": "small", "version": 2, "digest": digest_of(CONTENT), "content": CONTENT},
        data={"name": "clinic-a", "manifest_digest": f"sha256:{'1' * 64}", "predictions_digest": f"sha256:{'2' * 64}"},
        model={"kind": "checkpoint", "files": [file_entry("best_model.pth", model_file)]},
        training={},
        look={"number": 1, "allowed": 1, "time": "2026-01-02T03:04:05Z"},
        flagged=(),
        page_one=("Leakage beyond shared patients and files: not checked.",),
        software={"drgate": "0.1.0", "numpy": "2.4.0"},
    )
    return replace(made, **changes)


def file_entry(name: str, content: bytes) -> dict[str, Any]:
    """What an evaluation records of a file of the model."""
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "md5": md5, "size": len(content)}
