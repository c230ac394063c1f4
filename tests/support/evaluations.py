"""Small evaluations made by hand, for tests of what is done with an evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from string import ascii_letters
from typing import Any

from drgate.checklist import load_checklist
from drgate.evaluation import (
    Benefit,
    Bin,
    Counts,
    CriterionResult,
    Epoch,
    Estimate,
    Evaluation,
    Favour,
    Flagged,
    GateError,
    HeldAgainst,
    Look,
    Metric,
    Model,
    NetBenefit,
    NotEstimable,
    Overlap,
    Predictive,
    Regraded,
    Role,
    Scoring,
    Screened,
    Site,
    Sites,
    Slice,
    Spend,
    Spread,
    Stability,
    Status,
    Subject,
    TestSet,
    Training,
    Verdict,
)
from drgate.files import canonical_json
from drgate.metrics import MetricId, parse_id

CONTENT = {
    "name": "small",
    "version": 2,
    "evidence": {"decide_on": "bound"},
    "criteria": [{"id": "accuracy", "at_least": 0.9}],
}


THIS_RUN = Scoring("this run")


def _by_id(metrics: dict[str, Any]) -> dict[MetricId, Any]:
    return {parse_id(name): metric for name, metric in metrics.items()}


def digest_of(content: Any) -> str:
    return "sha256:" + hashlib.sha256(canonical_json(content)).hexdigest()


def criterion(name: str, status: Status, *, required: bool = True) -> CriterionResult:
    """One judged line; a line that was not assessed has no estimate."""
    estimate = Estimate("proportion", 0.95, k=95, n=100, low=0.887, high=0.984, level=0.95, method="clopper-pearson")
    return CriterionResult(
        id=parse_id(name),
        status=status,
        comparator=">=",
        threshold=0.9,
        decided_on="bound",
        required=required,
        added="" if required else "safety",
        estimate=NotEstimable("no history") if status == "NOT_ASSESSED" else estimate,
        reason="95 of 100 – “shown”.",
        shown=True if status == "FAIL" else None,
    )


def evaluation(**changes: Any) -> Evaluation:
    """A PASS on two criteria about a model of one file, with the given fields changed."""
    model_file = b"weights"
    made = Evaluation(
        verdict="PASS",
        criteria=(criterion("accuracy", "PASS"), criterion("sensitivity:pdr", "PASS")),
        metrics={MetricId("accuracy"): Estimate("proportion", 0.95, k=95, n=100, bootstrap=(0.9, 0.99))},
        confusion_matrix=tuple(tuple(19 if i == j else 1 if j == 0 else 0 for j in range(5)) for i in range(5)),
        no_output=(0, 0, 0, 0, 0),
        spec=HeldAgainst("small", 2, digest_of(CONTENT), CONTENT),
        data=TestSet("clinic-a", manifest_digest=f"sha256:{'1' * 64}"),
        counts=Counts("image", 100, 100, (20, 20, 20, 20, 20)),
        predictions_digest=f"sha256:{'2' * 64}",
        bootstrap_seed="0" * 16,
        model=Model("checkpoint", "best_model.pth", (file_entry("best_model.pth", model_file),), THIS_RUN),
        training=Training(),
        look=Look(1, 1, "2026-01-02T03:04:05Z"),
        flagged=(),
        page_one=("Leakage beyond shared patients and files: not checked.",),
        software={"drgate": "0.1.0", "numpy": "2.4.0"},
    )
    return replace(made, **changes)


def file_entry(name: str, content: bytes, role: Role = "model") -> Subject:
    """What an evaluation records of a file of the model."""
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Subject(name, hashlib.sha256(content).hexdigest(), len(content), role, md5)


def proportion(k: int, n: int, low: float, high: float) -> Estimate:
    """k of n with an interval, as a metric that has a binomial bound."""
    return Estimate(
        "proportion",
        k / n,
        k=k,
        n=n,
        low=low,
        high=high,
        level=0.95,
        method="clopper-pearson",
        clusters=n // 2,
        design_effect=1.31,
        bootstrap=(low + 0.001, high - 0.001),
        bootstrap_undefined=0,
    )


def index(value: float, low: float, high: float, **more: Any) -> Estimate:
    """Kappa, an area under the curve or a calibration measure."""
    return Estimate("index", value, n=1000, low=low, high=high, level=0.95, method="patient bootstrap", **more)


def whole_evaluation(
    name: str = "best_model.pth", *, column: str = "camera", verdict: Verdict = "FAIL", checklist: str = "medical-grade"
) -> Evaluation:
    """An evaluation with everything that one can hold, and each outcome, required and advisory.

    `name` stands wherever a user's text can: files, images, slices, warnings; `column` is sliced by.
    """
    here, there = f"@{column}={name}", f"@{column}=handheld"
    bare = name if set(name) <= {*ascii_letters, *"._"} else "best_model.pth"  # a file's name cannot be any text
    mix = {"no_dr": 0.8, "mild_npdr": 0.1, "moderate_npdr": 0.07, "severe_npdr": 0.02, "pdr": 0.01}
    shipped = load_checklist(checklist)
    content = shipped.content()
    content |= {
        "deployment": mix,
        "slices": [{"by": column, "min_positives": 30}],
        "criteria": [
            *content["criteria"],
            {"id": f"sensitivity:pdr@{column}=each", "at_least": 0.9, "required": False},
        ],
    }

    def judged(
        line: str, status: Status, comparator: str, threshold: float, estimate: Metric, **more: Any
    ) -> CriterionResult:
        settings = {"decided_on": "bound", "required": True, "added": "", "reason": f"Because of {line}."} | more
        return CriterionResult(parse_id(line), status, comparator, threshold, estimate=estimate, **settings)  # type: ignore[arg-type]

    few = NotEstimable("the slice has 4 of the 30 cases that the checklist requires.")
    criteria = (
        judged("accuracy", "PASS", ">=", 0.90, proportion(941, 1000, 0.9246, 0.9548)),
        judged(
            "sensitivity:severe_npdr",
            "INSUFFICIENT",
            ">=",
            0.90,
            proportion(93, 100, 0.8611, 0.9714),
            all_comers=proportion(93, 104, 0.8186, 0.9460),
        ),
        judged(
            "sensitivity:pdr",
            "FAIL",
            ">=",
            0.95,
            proportion(56, 60, 0.8380, 0.9815),
            reason=f"Missed. {name}",
            shown=False,
        ),
        judged("specificity:no_dr", "PASS", ">", 0.90, proportion(395, 400, 0.9711, 0.9959)),
        judged("stability", "PASS", "<", 0.05, Estimate("range", 0.0312, n=10), decided_on="point"),
        judged("baseline", "NOT_ASSESSED", ">", -0.02, NotEstimable("no table was given."), required=False),
        judged("cost", "PASS", "<", 100.0, Estimate("amount", 12.5, n=3), decided_on="point"),
        judged(
            "undergraded:vision_threatening_below_referable",
            "FAIL",
            "<=",
            0.02,
            proportion(5, 160, 0.0102, 0.0714),
            required=False,
            added="safety",
            shown=False,
        ),
        judged(f"sensitivity:pdr{here}", "PASS", ">=", 0.9, proportion(55, 56, 0.9045, 0.9995), required=False),
        judged(
            f"sensitivity:pdr{there}",
            "NOT_ASSESSED",
            ">=",
            0.9,
            few,
            required=False,
            reason=f"Not assessed: {few.reason}",
        ),
    )
    whole: dict[str, Metric] = {c.id: c.estimate for c in criteria if "@" not in c.id}
    whole |= {
        "balanced_accuracy": index(0.93, 0.92, 0.94),
        "quadratic_kappa": index(0.943, 0.931, 0.952),
        "sensitivity:referable": proportion(271, 280, 0.9370, 0.9856),
        "specificity:referable": proportion(705, 720, 0.9655, 0.9884),
        "missed:referable": proportion(9, 280, 0.0144, 0.0630),
        "ppv:referable": proportion(271, 286, 0.9140, 0.9706),
        "overgraded:by_two": NotEstimable("the test set has no such image."),
        "no_output": proportion(7, 1007, 0.0028, 0.0143),
        "auc:referable": index(0.983, 0.974, 0.991),
        "auc:vision_threatening": index(0.991, 0.985, 0.997),
        "auc:pdr": NotEstimable(f"the table has no probabilities. {name}"),
        "brier": index(0.094, 0.081, 0.107),
        "brier:referable": index(0.031, 0.024, 0.038),
        "calibration_slope:referable": index(0.87, 0.78, 0.97),
        "calibration_intercept:referable": index(-0.12, -0.34, 0.09),
        "ece:referable": index(0.034, 0.027, 0.049, expected=0.021),
    }
    sliced: dict[str, Metric] = {
        f"accuracy{here}": proportion(800, 850, 0.9233, 0.9560),
        f"sensitivity:severe_npdr{here}": proportion(85, 90, 0.8751, 0.9817),
        f"sensitivity:pdr{here}": proportion(55, 56, 0.9045, 0.9995),
        f"sensitivity:referable{here}": proportion(230, 236, 0.9454, 0.9906),
        f"specificity:referable{here}": proportion(600, 614, 0.9620, 0.9875),
        f"accuracy{there}": proportion(141, 150, 0.8892, 0.9722),
        f"sensitivity:severe_npdr{there}": NotEstimable("the test set has no image graded Severe NPDR."),
        f"sensitivity:pdr{there}": proportion(1, 4, 0.0063, 0.8059),
        f"sensitivity:referable{there}": proportion(41, 44, 0.8134, 0.9857),
        f"specificity:referable{there}": proportion(105, 106, 0.9486, 0.9998),
    }
    deployed: dict[str, Metric] = {
        f"{metric}^deployment": Estimate(
            "proportion",
            value,
            n=1000,
            low=value - 0.02,
            high=value + 0.015,
            level=0.95,
            method="clopper-pearson, standardised to the deployment mix",
        )
        for metric, value in {
            "accuracy": 0.961,
            "sensitivity:referable": 0.958,
            "specificity:referable": 0.9802,
            "ppv:referable": 0.844,
            "missed:referable": 0.042,
        }.items()
    }
    metrics = whole | deployed | sliced
    ways = ("excluded", "as_referred", "worst_case")
    return Evaluation(
        verdict=verdict,
        criteria=criteria,
        metrics=_by_id(metrics),
        confusion_matrix=((585, 8, 7, 0, 0), (4, 108, 8, 0, 0), (0, 6, 112, 2, 0), (2, 1, 3, 93, 1), (1, 1, 1, 1, 56)),
        no_output=(3, 0, 0, 0, 4),
        spec=HeldAgainst(checklist, shipped.version, shipped.digest, content),
        data=TestSet(name, split="test", manifest_digest="sha256:" + "ab" * 32, warnings=(name,)),
        counts=Counts(
            unit="image",
            units=1007,
            images=1007,
            patients=612,
            by_grade=(603, 120, 120, 100, 64),
            reference_ungradable=9,
            slices=(
                Slice(column, name, 854, (504, 110, 90, 90, 60)),
                Slice(column, "handheld", 150, (96, 10, 30, 10, 4)),
            ),
            in_no_slice={column: 3},
        ),
        predictions_digest="sha256:" + "cd" * 32,
        bootstrap_seed="0" * 16,
        model=Model(
            "checkpoint",
            name,
            (Subject(bare, "12" * 32, 3812331, "model", "34" * 16),),
            THIS_RUN,
            tensor_digest="sha256:" + "ef" * 32,
            class_names=(name,),
            own_names=(name,),
            scored_with={name: name},
        ),
        training=Training(
            history=tuple(Epoch(epoch, 0.9 - 0.3 / epoch) for epoch in range(1, 16)),
            selected_epoch=9,
            stability=Stability(window=10, range=0.0312, first_epoch=6, last_epoch=15),
            spend=Spend(usd=12.5),
        ),
        look=Look(
            2,
            3,
            "2026-02-03T04:05:06Z",
            overlapping=(Overlap(name, 1, 40, 22),),
            regraded=(Regraded(name, 4, 3), Regraded("b.png", 2, "not gradable")),
            regraded_count=61,
            favouring=(Favour(1, "2026-01-03T04:05:06Z", True, 61, 54),),
        ),
        flagged=tuple(Flagged(f"{n:03}-{name}", 4 - n % 2, n // 15) for n in range(30)),
        page_one=("Leakage between training and test data: not checked.", name),
        reordered=name,
        software={"drgate": "0.1.0", "numpy": "2.4.1"},
        three_ways=_by_id(
            {
                "accuracy": {way: proportion(941 - n, 1000, 0.92, 0.95) for n, way in enumerate(ways) if n != 1},
                "sensitivity:pdr": {
                    "excluded": proportion(56, 60, 0.8380, 0.9815),
                    "worst_case": proportion(56, 64, 0.7685, 0.9445),
                },
                "sensitivity:referable": {way: proportion(271 - n, 284, 0.91, 0.97) for n, way in enumerate(ways)},
                "quadratic_kappa": {"excluded": index(0.943, 0.931, 0.952), "worst_case": index(0.911, 0.90, 0.93)},
            }
        ),
        screened=_by_id(
            {
                "sensitivity:pdr": Screened(
                    64, 4, proportion(56, 64, 0.7685, 0.9445), proportion(60, 64, 0.8476, 0.9827)
                ),
                "sensitivity:referable": Screened(
                    284, 4, proportion(271, 284, 0.9230, 0.9754), proportion(275, 284, 0.9407, 0.9854)
                ),
            }
        ),
        units={
            "eye": NotEstimable(f"{name}: judging by eye, but eye is not given for every image."),
            "patient": _by_id(
                {
                    "accuracy": proportion(570, 612, 0.908, 0.950),
                    "sensitivity:referable": proportion(171, 175, 0.9425, 0.9937),
                    "sensitivity:pdr": NotEstimable("the test set has no patient with PDR."),
                }
            ),
        },
        gate_error=(
            GateError("accuracy", "simulated", False, 0.9, 0.0214, 606, 1000, 0.001),
            GateError("quadratic_kappa", "designs", passes=0.0215, designs=351, command="python -m benchmarks x"),
            GateError("stability", "none", why=f"It describes one run. {name}"),
            *(
                GateError(f"sensitivity:pdr{where}", "exact", deserves, true, passes, 60, 60)
                for where in ("", here)
                for true, passes, deserves in ((0.95, 0.0, False), (0.925, 0.0, False), (0.985, 0.404, True))
                if not where or not deserves
            ),
        ),
        reliability={
            endpoint: tuple(
                Bin(
                    low=low / 10,
                    high=(low + 1) / 10,
                    n=100,
                    predicted=low / 10 + 0.05,
                    observed=low / 10 + 0.02,
                    observed_low=max(0.0, low / 10 - 0.04),
                    observed_high=min(1.0, low / 10 + 0.11),
                )
                for low in range(10)
            )
            for endpoint in ("referable", "vision_threatening")
        },
        by_prevalence={
            "referable": tuple(
                Predictive(
                    share,
                    ppv=Estimate("proportion", share, low=share / 2, high=(1 + share) / 2, level=0.95, method="MOVER"),
                    npv=NotEstimable(f"no image was predicted as other than Referable DR. {name}"),
                    of="test set" if share == 0.3 else None,
                )
                for share in (0.01, 0.1, 0.3)
            )
        },
        net_benefit=NetBenefit(
            0.1,
            tuple(
                Benefit(threshold, Estimate("index", 0.09 - threshold / 10), 0.1 - threshold)
                for threshold in (0.02, 0.1, 0.5)
            ),
        ),
        sites=Sites(
            column,
            10,
            tuple(
                Site(
                    site, 168, (100, 20, 20, 17, 11), _by_id({"sensitivity:referable": proportion(46, 48, 0.86, 0.99)})
                )
                for site in ("", name, "A", "B", "C", "D")
            ),
            {
                MetricId("sensitivity", "referable"): Spread(6, 0.95, 0.9, 0.98, 0.8, 0.99, 0.95, 0.02, 0.4, 8.3, 0.14),
                MetricId("sensitivity", "pdr"): NotEstimable(f"it needs 5 sites. {name}"),
            },
        ),
    )
