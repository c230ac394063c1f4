"""Real fundus photographs, trained on and judged by the public commands; every count checked with scikit-learn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn import metrics as sk

from drgate.scale import GRADES


def run(folder: Path, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A public command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False
    )


KEY = ("--patient-key", "patients.key")


@pytest.fixture(scope="module")
def trained(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run/best_model.pth`, trained on real photographs 1024 pixels wide, and a signing key."""
    folder = tmp_path_factory.mktemp("real")
    assert run(folder, "drgate", "keygen", "--patients", "--out", "patients").returncode == 0
    settings = (*KEY, "--num_epochs", 2, "--batch_size", 16, "--learning_rate", 1e-3, "--usd_per_hour", 0.1)
    data = ("--dataset", real_data / "eyepacs-1024", "--base", "embedded")
    ended = run(folder, "trainer", *data, *settings, "--output_dir", "run")
    assert ended.returncode == 0, ended.stderr
    assert run(folder, "drgate", "keygen", "--out", "key", "--no-passphrase").returncode == 0
    return folder


def judged(folder: Path, data: Path, name: str) -> tuple[dict[str, Any], pd.DataFrame]:
    """The evaluation by `drgate evaluate` (must fail), signed, and the predictions that it wrote, by own names."""
    where = ("--data", data, "--split", "test", "--out", name, "--key", "key.pem", *KEY)
    ended = run(folder, "drgate", "evaluate", "run/best_model.pth", *where, "--format", "json")
    assert ended.returncode == 1, ended.stderr
    names = pd.read_csv(folder / name / "names.csv").set_index("image")["own_image"]
    table = pd.read_parquet(folder / name / "predictions.parquet")
    return json.loads(ended.stdout), table.assign(image=table["image"].map(names)).sort_values("image")


@pytest.fixture(scope="module")
def on_1024(trained: Path, real_data: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """The model, judged in `report-1024` on the test split of the set that it was trained on."""
    return judged(trained, real_data / "eyepacs-1024", "report-1024")


def part_of(data: Path, folder: Path, labels: pd.DataFrame) -> Path:
    """A data set of these images of another one."""
    folder.mkdir()
    (folder / "images").symlink_to(data / "images")
    labels.to_csv(folder / "labels.csv", index=False)
    return folder


def check_counts(evaluation: dict[str, Any], table: pd.DataFrame, data: Path) -> None:
    """Every count of the evaluation, from the labels as they lie on disk and the table's probabilities."""
    labels = pd.read_csv(data / "labels.csv").set_index("image")
    labels = labels[labels["split"] == "test"].sort_index()
    assert table["image"].tolist() == labels.index.tolist()
    truth = labels["grade"].to_numpy()
    called = table[[f"p_{j}" for j in range(5)]].to_numpy().argmax(axis=1)
    assert evaluation["confusion_matrix"] == sk.confusion_matrix(truth, called, labels=range(5)).tolist()
    assert evaluation["metrics"]["accuracy"]["k"] == sk.accuracy_score(truth, called, normalize=False)
    assert evaluation["counts"]["patients"] == labels["patient"].nunique()
    for j, grade in enumerate(GRADES):
        sensitivity = evaluation["metrics"][f"sensitivity:{grade}"]
        specificity = evaluation["metrics"][f"specificity:{grade}"]
        if (truth == j).any():
            assert sensitivity["value"] == pytest.approx(sk.recall_score(truth == j, called == j, zero_division=0))
            assert sensitivity["n"] == (truth == j).sum()
        else:
            assert sensitivity["status"] == "not_estimable"
        assert specificity["value"] == pytest.approx(sk.recall_score(truth != j, called != j))
        assert specificity["n"] == (truth != j).sum()


def test_three_grades_only(trained: Path, on_1024: tuple[dict[str, Any], pd.DataFrame], real_data: Path):
    """This split has no severe NPDR and no PDR: both lines are not assessed, and that is said in plain words."""
    evaluation, table = on_1024
    check_counts(evaluation, table, real_data / "eyepacs-1024")
    assert evaluation["verdict"] == "FAIL"
    outcome = {criterion["id"]: criterion for criterion in evaluation["criteria"]}
    for grade, title in (("severe_npdr", "Severe NPDR"), ("pdr", "PDR")):
        assert outcome[f"sensitivity:{grade}"]["status"] == "NOT_ASSESSED"
        assert f"no image with {title}" in outcome[f"sensitivity:{grade}"]["reason"]
    assert outcome["accuracy"]["status"] == "FAIL"
    assert outcome["stability"]["status"] == "NOT_ASSESSED"
    assert outcome["cost"]["status"] == "PASS"
    page = (trained / "report-1024" / "report.md").read_text()
    assert "Audit. Nothing found in: " in page
    assert all(outcome[f"audit:{check}"]["status"] == "PASS" for check in ("patients", "eyes", "files", "pixels"))


def test_another_camera_with_all_grades(trained: Path, real_data: Path):
    """The same model on the 256-pixel set of another preparation, whose test split has all five grades."""
    evaluation, table = judged(trained, real_data / "eyepacs-256", "report-256")
    check_counts(evaluation, table, real_data / "eyepacs-256")
    assert all(sum(row) > 0 for row in evaluation["confusion_matrix"])


def test_what_failed_is_not_exported(trained: Path, on_1024: tuple[dict[str, Any], pd.DataFrame], real_data: Path):
    """A signed FAIL opens nothing: export ends with the verdict's exit code and writes nothing."""
    assert on_1024[0]["verdict"] == "FAIL"
    signed = ("--certificate", "report-1024", "--key", "key.pem")
    where = ("--data", real_data / "eyepacs-1024", "--out", "bundle")
    ended = run(trained, "drgate", "export", "run/best_model.pth", *signed, *where)
    assert ended.returncode == 1
    assert "says FAIL" in ended.stderr
    assert not (trained / "bundle").exists()


def test_training_patients_are_not_a_test_set(trained: Path, real_data: Path):
    """Training patients, at another size, under other colours and named a test set: the fingerprint knows them all.

    And none but them: beside them are patients whose eyes the model has never seen.
    """
    seen, here = (pd.read_csv(real_data / name / "labels.csv") for name in ("eyepacs-1024", "eyepacs-256"))
    again = here[here["split"] == "train"]
    shared = again["patient"].isin(seen["patient"][seen["split"] == "train"])
    mixed = pd.concat([again[shared], again[~shared].head(100)]).assign(split="test")
    data = part_of(real_data / "eyepacs-256", trained / "again", mixed)
    ended = run(trained, "drgate", "evaluate", "run/best_model.pth", "--data", data, "--out", "leaky", *KEY)
    assert ended.returncode == 1
    found = json.loads((trained / "leaky/evaluation.json").read_text())
    line = next(one for one in found["criteria"] if one["id"] == "audit:patients")
    assert (line["status"], line["estimate"]["value"]) == ("FAIL", again["patient"][shared].nunique())
    assert found["look"]["number"] == 0
