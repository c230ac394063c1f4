"""One reading of a table into what is counted, and of two tables paired by image: units, patients, oedema, slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from drgate.checklist import Checklist, parse_checklist
from drgate.evaluate import evaluate
from drgate.evaluation import Estimate, Metric
from drgate.predictions import Predictions, make_predictions


def checklist_of(**changes: Any) -> Checklist:
    """A small checklist: what is not given has its default."""
    content = {
        "name": "small",
        "version": 1,
        "bootstrap": {"resamples": 1000},
        "criteria": [{"id": "accuracy", "at_least": 0.5}, {"id": "baseline", "margin": 0.1}],
    }
    return parse_checklist(content | changes, "x")


def graded(seed: int, right: float, patients: int = 60, **columns: Any) -> pd.DataFrame:
    """Two eyes of each patient, two images of each eye; the images are the same for every seed, the answers are not."""
    truth, own = np.random.default_rng(0), np.random.default_rng([1, seed])
    n = 4 * patients
    grade = np.clip(np.repeat(truth.integers(0, 5, patients), 4) + truth.integers(-1, 2, n), 0, 4)
    return pd.DataFrame(
        {
            "image": [f"{i:04d}.png" for i in range(n)],
            "sha256": [f"{i:064x}" for i in range(n)],
            "patient": [f"P{i // 4}" for i in range(n)],
            "eye": ["L", "L", "R", "R"] * patients,
            "grade": grade,
            "predicted": np.where(own.random(n) < right, grade, 0),
        }
    ).assign(**columns)


def predictions(table: pd.DataFrame, origin: str = "ours.csv") -> Predictions:
    return make_predictions(table, origin, {})


class TestPaired:
    @pytest.mark.parametrize("unit", ["image", "eye", "patient"])
    def test_a_baseline_under_other_image_names_is_the_same_baseline(self, unit: str):
        """Images are the same by their SHA-256; what they are called, and so their order, changes no number."""
        ours, baseline = predictions(graded(1, 0.9)), graded(2, 0.8)
        names = np.random.default_rng(4).permutation(len(baseline))
        renamed = baseline.assign(image=[f"x{name:04d}.png" for name in names])
        found: list[Metric] = [
            evaluate(ours, checklist_of(unit=unit), baseline=predictions(table, "theirs.csv")).metrics["baseline"]
            for table in (baseline, renamed)
        ]
        assert isinstance(found[0], Estimate)
        assert found[1] == found[0]
