"""One reading of a table into what is counted, and of two tables paired by image: units, patients, oedema, slices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from drgate.checklist import Checklist, parse_checklist
from drgate.compare import Comparison, Difference, compare
from drgate.errors import PredictionsError
from drgate.evaluate import evaluate
from drgate.evaluation import Estimate, Evaluation, Metric
from drgate.manifest import load_manifest
from drgate.operating_point import OperatingPoint
from drgate.predictions import Predictions, make_predictions
from drgate.tune import tune


def checklist_of(**changes: Any) -> Checklist:
    """A small checklist: what is not given has its default."""
    content = {
        "name": "small",
        "version": 1,
        "bootstrap": {"resamples": 1000},
        "criteria": [{"id": "sensitivity:referable", "at_least": 0.5}, {"id": "baseline", "margin": 0.1}],
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


def probable(table: pd.DataFrame) -> pd.DataFrame:
    """The same answers with probabilities: 0.8 for the predicted grade."""
    return table.assign(**{f"p_{grade}": np.where(table["predicted"] == grade, 0.8, 0.05) for grade in range(5)})


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


def numbers_of(found: object) -> dict[str, object]:
    """What was found, but for what is drawn with a seed from the table's digest."""
    if isinstance(found, Evaluation):
        return {name: metric.value for name, metric in found.metrics.items() if isinstance(metric, Estimate)}
    if isinstance(found, Comparison):
        return {name: one.value for name, one in found.differences.items() if isinstance(one, Difference)}
    assert isinstance(found, OperatingPoint), found
    return {"cut_offs": found.cut_offs, "promise": found.promise}


class TestOedema:
    """Macular oedema is labelled for every graded image or for none, whoever reads the table."""

    READERS: ClassVar[dict[str, Callable[[Predictions], object]]] = {
        "evaluate": lambda given: evaluate(given, checklist_of()),
        "tune": lambda given: tune(given, checklist_of()),
        "compare, first": lambda given: compare(given, predictions(probable(graded(2, 0.8)))),
        "compare, second": lambda given: compare(predictions(probable(graded(2, 0.8))), given),
    }

    @pytest.mark.parametrize("reader", READERS)
    def test_a_gap_is_refused(self, reader: str):
        """Some images with a label and some without: the image is named."""
        given = predictions(probable(graded(1, 0.9)).assign(dme=[None, 1, *[0] * 238]), "gaps.csv")
        with pytest.raises(PredictionsError, match=r"gaps\.csv: image '0000\.png' has no dme while others have"):
            self.READERS[reader](given)

    @pytest.mark.parametrize("reader", READERS)
    def test_an_empty_column_is_no_column(self, reader: str):
        given = probable(graded(1, 0.9))
        without, empty = (self.READERS[reader](predictions(table)) for table in (given, given.assign(dme=None)))
        assert numbers_of(empty) == numbers_of(without)

    def test_an_image_that_is_not_gradable_needs_no_label(self):
        """It is outside every count."""
        tables = [probable(graded(seed, 0.9)).assign(dme=[None, *(np.arange(239) % 6 == 0)]) for seed in (1, 2)]
        one, other = (predictions(table.assign(gradable=table["image"] != "0000.png")) for table in tables)
        assert evaluate(one, checklist_of()).data["dme"] == 40
        assert compare(one, other).images == 239
        assert isinstance(tune(one, checklist_of()), OperatingPoint)

    def test_tuning_and_evaluation_count_the_same_cases(self, tmp_path: Path):
        """Of the tuning table and of the planned test set, with macular oedema in the group."""
        table = probable(graded(1, 0.9)).assign(dme=np.arange(240) % 3 == 0)
        labels = table[["image", "grade", "patient", "eye"]].assign(dme=table["dme"].astype(int))
        labels.to_csv(tmp_path / "labels.csv", index=False)
        point = tune(predictions(table), checklist_of(), test=load_manifest(tmp_path / "labels.csv", files=False))
        assert isinstance(point, OperatingPoint)
        judged = evaluate(predictions(table), checklist_of()).metrics["sensitivity:referable"]
        assert isinstance(judged, Estimate)
        cases = int(((table["grade"] >= 2) | table["dme"]).sum())
        (promised,) = point.promise["criteria"]
        assert (promised["n"], promised["planned"], judged.n) == (cases, cases, cases)
