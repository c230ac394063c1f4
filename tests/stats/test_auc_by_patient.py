"""The area under the curve of patients and eyes, against R's pROC on the largest probability of each patient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from drgate.checklist import Checklist, parse_checklist
from drgate.evaluation import Estimate, NotEstimable
from drgate.measure import Metrics
from drgate.metrics import METRICS, parse_id
from drgate.predictions import make_predictions
from drgate.sample import Sample
from drgate.stats import ranking

ORACLE = {
    "any_dr": (1, 55, 0.6956363636, 0.004579613101, 0.8683636364, 0.001993093358, -2.35698230),
    "referable": (2, 44, 0.7329545455, 0.003556521772, 0.7610479798, 0.003201608738, -0.34507540),
    "vision_threatening": (3, 24, 0.8545386905, 0.002319351255, 0.7336309524, 0.004165175210, 1.73080421),
    "pdr": (4, 12, 0.9325980392, 0.001581172366, 0.8008578431, 0.004977269116, 1.53435221),
}
"""Lowest grade, patients with it of 80, area and variance of two models, z of their difference.

R 4.2.2, pROC 1.18.0, of the table of `rows`: s <- tapply(rowSums(p[lowest:4]), patient, max);
r <- roc(tapply(grade, patient, max) >= lowest, s, levels = c(FALSE, TRUE), direction = "<"); auc(r);
var(r, method = "delong"); roc.test(r1, r2, paired = TRUE, method = "delong")$statistic.
"""


def rows() -> Iterator[dict[str, Any]]:
    """202 images of 80 patients with probabilities of two models in 1024ths, from a congruential generator."""
    state = 12345

    def draw() -> float:
        nonlocal state
        state = (1103515245 * state + 12345) % 2**31
        return state / 2**31

    for patient in range(80):
        for _ in range(1 + int(4 * draw())):
            eye, grade = "LR"[int(2 * draw())], int(5 * draw() ** 3)
            row: dict[str, Any] = {"patient": f"P{patient:02d}", "eye": eye, "grade": grade}
            for model, skill in (("p", 1.2), ("q", 0.8)):
                weights = [draw() + skill * draw() / (1 + abs(g - grade)) for g in range(5)]
                parts = [int(1024 * weight / sum(weights)) for weight in weights]
                parts[0] = 1024 - sum(parts[1:])
                row |= {f"{model}_{g}": part / 1024 for g, part in enumerate(parts)}
            yield row


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.DataFrame(rows()).assign(image=lambda t: [f"{i:03d}.png" for i in range(len(t))])


def checklist_of(unit: str) -> Checklist:
    return parse_checklist(
        {"name": "x", "version": 1, "unit": unit, "criteria": [{"id": "auc:referable", "at_least": 0.5}]}, "x"
    )


def metrics_of(table: pd.DataFrame, unit: str) -> Metrics:
    """The measures of the first model, or of whichever is called p."""
    own = table[[column for column in table if not str(column).startswith("q_")]]
    checklist = checklist_of(unit)
    return Metrics(Sample.of(make_predictions(own, "t.csv", {}), checklist), checklist, 0.95, 1)


def auc(metrics: Metrics, target: str) -> Estimate:
    found = metrics.estimate(parse_id(f"auc:{target}"), "excluded")
    assert isinstance(found, Estimate), found
    return found


def newcombe(area: float, positives: int, negatives: int, side: int) -> float:
    """One end of the score interval, method 5 of Newcombe 2006, by its own equation."""
    middle = (positives + negatives) / 2 - 1

    def excess(theta: float) -> float:
        q = theta * (1 - theta) * (1 + middle * ((1 - theta) / (2 - theta) + theta / (1 + theta)))
        return (area - theta) ** 2 - norm.ppf(0.975) ** 2 * q / (positives * negatives)

    return float(brentq(excess, *((1e-9, area) if side < 0 else (area, 1 - 1e-9)), xtol=1e-12))


@pytest.mark.parametrize("target", ORACLE)
def test_by_patient_is_that_of_proc_on_the_largest_probability(table: pd.DataFrame, target: str):
    """Value, variance, and the interval that follows from them: on the logit scale, or Newcombe's where wider."""
    lowest, positives, area, variance, *_ = ORACLE[target]
    found = auc(metrics_of(table, "patient"), target)
    assert found.value == pytest.approx(area, abs=1e-9)
    assert (found.n, found.clusters) == (80, 80)
    reach = norm.ppf(0.975) * math.sqrt(variance) / (area * (1 - area))
    for end, side in ((found.low, -1), (found.high, 1)):
        logit = 1 / (1 + math.exp(-(math.log(area / (1 - area)) + side * reach)))
        wider = min if side < 0 else max
        assert end == pytest.approx(wider(logit, newcombe(area, positives, 80 - positives, side)), abs=1e-6)
    largest = table.assign(s=table[[f"p_{g}" for g in range(lowest, 5)]].sum(axis=1)).groupby("patient")
    positive = largest["grade"].max() >= lowest
    result = ranking.auc_delong(largest["s"].max(), positive, level=0.95)
    assert result is not None
    assert result.se**2 == pytest.approx(variance, abs=1e-11)
    assert (found.low, found.high) == pytest.approx((result.low, result.high), abs=1e-12)


@pytest.mark.parametrize("target", ORACLE)
def test_two_models_by_patient_differ_as_in_proc(table: pd.DataFrame, target: str):
    """Paired DeLong on the patients' largest probabilities."""
    lowest, _, one, _, other, variance, z = ORACLE[target]
    swapped = table.assign(**{f"p_{g}": table[f"q_{g}"] for g in range(5)})
    samples = [metrics_of(each, "patient").sample for each in (table, swapped)]
    scores = [sample.ranked(target) for sample in samples]
    assert scores[0] is not None
    assert scores[1] is not None
    positive = samples[0].reference >= lowest
    alone = ranking.auc_delong(scores[1], positive, level=0.95)
    found = ranking.auc_difference(scores[0], scores[1], positive, level=0.95)
    assert found is not None
    assert alone is not None
    assert (found.value, alone.se**2) == pytest.approx((one - other, variance), abs=1e-9)
    assert found.value / found.se == pytest.approx(z, abs=1e-6)


def test_by_eye_patients_cluster(table: pd.DataFrame):
    """The largest of each eye; eyes of one patient are not independent."""
    metrics = metrics_of(table, "eye")
    for target, (lowest, *_) in ORACLE.items():
        scored = table.assign(s=table[[f"p_{g}" for g in range(lowest, 5)]].sum(axis=1))
        eyes = scored.groupby(["patient", "eye"], as_index=False)[["s", "grade"]].max()
        positive = (eyes["grade"] >= lowest).to_numpy()
        found = auc(metrics, target)
        assert found.value == pytest.approx(roc_auc_score(positive, eyes["s"]))
        assert (found.n, found.clusters) == (len(eyes), 80)
        patients = pd.factorize(eyes["patient"])[0]
        expected = ranking.auc_clustered(eyes["s"].to_numpy(), positive, patients, level=0.95)
        assert expected is not None
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_patient_with_an_image_without_probabilities_is_left_out(table: pd.DataFrame):
    """As an image is, by image."""
    silent = table.copy()
    silent.loc[silent["patient"] == "P03", [f"p_{g}" for g in range(5)]] = np.nan
    found = auc(metrics_of(silent, "patient"), "referable")
    without = auc(metrics_of(table[table["patient"] != "P03"], "patient"), "referable")
    assert found == without
    first = table["patient"].eq("P03") & ~table["patient"].duplicated()
    silent = table.copy()
    silent.loc[first, [f"p_{g}" for g in range(5)]] = np.nan
    assert auc(metrics_of(silent, "patient"), "referable") == without


@pytest.mark.parametrize("unit", ["eye", "patient"])
def test_single_grades(table: pd.DataFrame, unit: str):
    """The lowest grade is the absence of any DR, the highest that of some image; between them nothing ranks a unit."""
    metrics = metrics_of(table, unit)
    lowest, any_dr = (auc(metrics, target) for target in ("no_dr", "any_dr"))
    assert (lowest.value, lowest.low, lowest.high) == pytest.approx((any_dr.value, any_dr.low, any_dr.high))
    for target in ("mild_npdr", "moderate_npdr", "severe_npdr"):
        found = metrics.estimate(parse_id(f"auc:{target}"), "excluded")
        assert isinstance(found, NotEstimable)
        assert "is that of its worst image" in found.reason
        assert "use a group of grades, or judge by image" in found.reason


@pytest.mark.parametrize("unit", ["eye", "patient"])
def test_calibration_is_judged_by_image_only(table: pd.DataFrame, unit: str):
    """The largest of several calibrated probabilities is no calibrated one."""
    metrics = metrics_of(table, unit)
    for about in METRICS.values():
        if about.from_probabilities and about.name != "auc":
            for target in about.targets:
                name = parse_id(f"{about.name}:{target}" if target else about.name)
                found = metrics.estimate(name, "excluded")
                assert isinstance(found, NotEstimable)
                assert "calibration is judged by image only" in found.reason
    assert metrics.reliability() == {}
