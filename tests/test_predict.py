"""`drgate predict`: photographs graded with a bundle, and the bundles that are refused."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from PIL import Image

from drgate.answers import Answer
from drgate.bundle import write_programs
from drgate.certificate.keys import generate_key, load_private_key, load_public_key
from drgate.certificate.statement import read_certificate
from drgate.checklist import parse_checklist
from drgate.cli.options import quality_rule
from drgate.evaluation import COMPANIONS
from drgate.gradability import RULE, Rule, measures
from drgate.layouts import holdings
from drgate.manifest import load_manifest
from drgate.operating_point import make_operating_point, write_operating_point
from drgate.predict import Deployed, Photographs, graded, load_bundle, photographs_in
from drgate.predictions import load_predictions
from drgate.preprocessing import reduced_copy
from drgate.scale import GRADES, REFERABLE_CLASSES
from drgate.score import CPU_BATCH, NoOutputWarning
from drgate.vectors import PHOTOGRAPHS
from drgate.verify import Trust
from drgate.vision.graders import load_grader
from drgate.vision.onnx_grader import OnnxGrader
from tests.support import foreign, tiny
from tests.support.bundles import a_bundle, infer
from tests.support.foreign import network, node, write
from tests.support.material import Ended, photograph
from tests.support.verbs import exported, judged

Run = Callable[..., Ended]
Refused = Callable[..., str]

SPEC: dict[str, Any] = {
    "name": "lenient",
    "version": 1,
    "looks": 9,
    "planning": {"power": 0.5},
    "criteria": [
        {"id": "sensitivity:referable", "at_least": 0.5},
        {"id": "specificity:referable", "at_least": 0.5},
    ],
}


def green(path: Path) -> float:
    """Mean of the green channel, -1 to 1: the worse the grade, the smaller."""
    return float(np.asarray(Image.open(path).convert("RGB")).mean(axis=(0, 1))[1] / 127.5 - 1)


def measured(path: Path) -> dict[str, float]:
    """The measures of quality of a small photograph, which is decoded in full."""
    image = Image.open(path).convert("RGB")
    copy, box = reduced_copy(image)
    return measures(image, copy, box)


def grading(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of logits that are largest for the grade whose test images have the nearest mean green."""
    table = load_manifest(data).select("test").table
    greens = np.array([green(data / image) for image in table["image"]])
    middle = np.array([greens[(table["grade"] == grade).to_numpy()].mean() for grade in range(5)])
    weight = np.zeros((3, 5), np.float32)
    weight[1] = 2 * middle * 400
    return weight, (-(middle**2) * 400).astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, key.pem and key.pub, other.pub, and bundle/, which passed."""
    folder = tmp_path_factory.mktemp("predict")
    tiny.write_eyes(folder / "data", train=0, val=0, test=8)
    generate_key(folder / "key", None)
    generate_key(folder / "other", None)
    certified(folder, folder / "bundle")
    return folder


def certified(place: Path, bundle: Path, model: Any = None, *, time: str = "", **changes: Any) -> Any:
    """A bundle as `drgate export` leaves it: an ONNX model with its weights beside it, and its evaluation."""
    path = write(bundle, network())
    built = network(*grading(place / "data")) if model is None else model
    onnx.save(built, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    found = judged(
        path,
        checklist=parse_checklist({**SPEC, **changes}, "spec.yaml"),
        data=place / "data",
        looks=bundle.with_name(f"{bundle.name}.looks"),
        key=load_private_key(place / "key.pem"),
        out=bundle.with_name(f"{bundle.name}.report"),
        workers=0,
        **({"time": time} if time else {}),
    )
    for file in found.folder.iterdir():
        if file.name not in ("names.csv", ".gitignore"):
            shutil.copy(file, bundle)
    return found


def again(source: Path, place: Path, folder: Path, **asked: Any) -> Any:
    """Export a bundle once more, as folder/bundle, with a rule that refuses some of the photographs."""
    key = load_private_key(place / "key.pem")
    with pytest.warns(NoOutputWarning, match="refused by the rule of image quality"):
        return exported(
            source / "model.onnx",
            certificate=source / "certificate.json",
            checklist=parse_checklist(SPEC, "spec.yaml"),
            out=folder / "bundle",
            trusted=[key.public],
            key=key,
            data=place / "data",
            looks=folder / "looks",
            workers=0,
            **asked,
        )


@pytest.fixture
def bundle(place: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that passed."""
    return Path(shutil.copytree(place / "bundle", tmp_path / "bundle"))


def answers(ended: Ended) -> dict[str, dict[str, Any]]:
    return {one["image"]: one for one in json.loads(ended.out)["predictions"]}


class TestGrades:
    def test_are_those_of_the_network_and_of_the_certificate(self, place: Path, drgate: Run):
        """A folder as JSON: by hand from weights and pixels, and row by row what the evaluation published."""
        words = ("predict", place / "bundle", place / "data", "--trusted-key", place / "key.pub", "--workers", 0)
        ended = drgate(*words, "--format", "json")
        assert ended.code == 0, ended.err
        plain = json.loads(ended.out)
        assert plain["format"] == "drgate predict 1"
        assert set(plain) == {"format", "bundle", "device", "predictions"}
        statement = (place / "bundle" / "statement.json").read_bytes()
        assert plain["bundle"]["statement"] == f"sha256:{hashlib.sha256(statement).hexdigest()}"
        assert plain["bundle"]["certified"] is True
        assert plain["bundle"]["headline"].startswith("model.onnx meets lenient version 1")
        assert plain["device"] == "CPUExecutionProvider"
        weight, bias = grading(place / "data")
        found = answers(ended)
        table = load_manifest(place / "data").table
        assert [*found] == table["image"].tolist()
        published = pd.read_parquet(place / "bundle" / "predictions.parquet").set_index("image")
        for image, grade in zip(table["image"], table["grade"], strict=True):
            one = found[image]
            powers = np.exp(green(place / "data" / image) * weight[1].astype(float) + bias)
            assert one["p"] == pytest.approx((powers / powers.sum()).tolist(), abs=1e-3)
            assert (one["status"], one["grade"], one["name"]) == ("graded", grade, GRADES[grade])
            assert one["referable"] is bool(grade >= 2)
            assert one["sha256"] == hashlib.sha256((place / "data" / image).read_bytes()).hexdigest()
            row = published.loc[one["sha256"][:16]]
            assert row["predicted"] == one["grade"]
            assert one["p"] == pytest.approx([row[f"p_{k}"] for k in range(5)], abs=1e-9)

    def test_are_the_same_in_every_form(
        self, place: Path, tmp_path: Path, drgate: Run, monkeypatch: pytest.MonkeyPatch
    ):
        """Table, CSV, JSON Lines and JSON; the key by DRGATE_TRUSTED_KEY; a file that exists is not replaced."""
        monkeypatch.setenv("DRGATE_TRUSTED_KEY", str(place / "key.pub"))
        images = [place / "data" / image for image in load_manifest(place / "data").table["image"][:3]]
        words = ("predict", place / "bundle", *images, "--workers", 0)
        plain = json.loads(drgate(*words, "--format", "json").out)["predictions"]
        assert [one["image"] for one in plain] == [str(image) for image in images]
        for name in ("a.csv", "a.jsonl"):
            ended = drgate(*words, "--out", tmp_path / name)
            assert ended.code == 0, ended.err
            assert "3 of 3 photographs have a grade, 0 referable." in ended.out
            assert drgate(*words, "--out", tmp_path / name).code == 2
        lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
        assert lines == [one | {"certified": True} for one in plain]
        with (tmp_path / "a.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [[float(row[f"p_{k}"]) for k in range(5)] for row in rows] == [one["p"] for one in plain]
        assert [(row["grade"], row["referable"]) for row in rows] == [
            (str(one["grade"]), str(one["referable"]).lower()) for one in plain
        ]
        shown = drgate(*words).out
        assert shown.count("No DR") == 3
        assert "3 of 3 photographs have a grade, 0 referable." in shown

    def test_no_grade_is_said_and_exit_code_3(self, place: Path, tmp_path: Path, drgate: Run):
        """A broken file and one that is not there are unreadable; one pixel is graded, its quality refused."""
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
        Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
        good = place / "data" / load_manifest(place / "data").table["image"][0]
        images = [tmp_path / "broken.jpg", good, tmp_path / "none.jpg", tmp_path / "one.png"]
        words = ("predict", place / "bundle", *images, "--trusted-key", place / "key.pub", "--format", "json")
        ended = drgate(*words)
        assert ended.code == 3
        assert "2 of 4 photographs have no grade: refer to a person." in ended.err
        poor = sum(one["quality"] < 1 for one in answers(ended).values() if one["status"] == "graded")
        assert poor > 0
        assert f"{poor} of those with a grade ha" in ended.err  # has or have
        assert "judged without a rule of image quality, so they were graded all the same." in ended.err
        found = [*answers(ended).values()]
        assert [one["status"] for one in found] == ["unreadable", "graded", "unreadable", "graded"]
        assert "damaged" in found[0]["reason"]
        assert "does not exist" in found[2]["reason"]
        assert (found[3]["quality"], found[3]["reason"]) == (0, "size 1, below 160")
        assert all(found[i]["grade"] is None and found[i]["p"] is None for i in (0, 2))

    def test_no_finite_number_is_no_grade(self, place: Path, tmp_path: Path, drgate: Run):
        """Of a model whose outputs overflow, an image has the status no_grade."""
        write(tmp_path / "m", network(end=[node("Log", "linear")]))
        image = place / "data" / load_manifest(place / "data").table["image"][0]
        ended = drgate("predict", tmp_path / "m", image, "--uncertified", "--format", "json")
        assert ended.code == 3, ended.err
        (one,) = answers(ended).values()
        assert (one["status"], one["grade"], one["referable"]) == ("no_grade", None, None)

    @pytest.mark.parametrize("kind", ["regression", "referable_logit"])
    def test_by_the_cut_offs_of_the_bundle(self, kind: str, place: Path, tmp_path: Path, drgate: Run):
        """A severity, and a logit of referable: each graded by the cut-offs beside the model, in workers.

        The severity has no probabilities, and the other no grade.
        """
        slope, middle = (-200, 70) if kind == "regression" else (-10, 0.5)
        squeeze = {
            "gives": ["n"],
            "end": [node("Squeeze", "linear", "last")],
            "tensors": [onnx.numpy_helper.from_array(np.array([1]), "last")],
        }
        weight = np.array([0, slope, 0], np.float32).reshape(3, 1)
        model = network(weight, np.array([middle], np.float32), **(squeeze if kind == "regression" else {}))
        path = write(tmp_path / "b", model, output={"kind": kind}, classes=None)
        table = load_manifest(place / "data").table
        images = [place / "data" / image for image in table["image"]]
        numbers = np.array([slope * green(image) + middle for image in images])
        cuts = [float(numbers[(table["grade"] >= grade).to_numpy()].min()) - 0.5 for grade in range(1, 5)]
        if kind == "referable_logit":
            numbers = 1 / (1 + np.exp(-numbers))
            cuts = [float(numbers[(table["grade"] >= 2).to_numpy()].min()) - 0.01]
        tuned_on = load_predictions(place / "bundle" / "predictions.parquet")
        on = "severity" if kind == "regression" else "referable"
        point = make_operating_point(cuts, on=on, checklist={}, tuned_on=tuned_on, promise={})
        write_operating_point(point, tmp_path / "b" / "operating_point.json")
        ended = drgate("predict", path.parent, place / "data", "--uncertified", "--format", "json", "--workers", 2)
        assert ended.code == 0, ended.err
        found = [*answers(ended).values()]
        if kind == "regression":
            assert [one["grade"] for one in found] == [sum(n >= cut for cut in cuts) for n in numbers]
            assert all(one["p"] is None for one in found)
        else:
            assert [one["p"][1] for one in found] == pytest.approx(numbers.tolist(), abs=5e-3)  # rounding to 28 pixels
            assert {one["grade"] for one in found} == {None}
        assert [one["referable"] for one in found] == (table["grade"] >= 2).tolist()

    @pytest.mark.parametrize(
        ("answer", "cuts"),
        [
            (Answer(), []),
            (Answer("logits", GRADES[::-1]), [0.9, 0.5, 0.2, 0.15]),
            (Answer("cumulative_logits", ()), [0.6, 0.5, 0.3, 0.1]),
            (Answer("regression", ()), [0.1, 0.2, 0.3, 0.4]),
            (Answer("referable_logit", ()), [0.3]),
            (Answer("logits", REFERABLE_CLASSES[::-1]), []),
        ],
        ids=lambda one: one.kind if isinstance(one, Answer) else None,
    )
    def test_are_those_of_infer_py(self, answer: Answer, cuts: list[float], place: Path, tmp_path: Path, drgate: Run):
        """Of each kind of outputs, with cut-offs and without: whoever runs the bundle's own program gets the same."""
        a_bundle(tmp_path, answer, "imagenet-stretch@64", cuts or None)
        if cuts:
            tuned_on = load_predictions(place / "bundle" / "predictions.parquet")
            point = make_operating_point(cuts, on=answer.cut_on, checklist={}, tuned_on=tuned_on, promise={})
            (tmp_path / "operating_point.json").unlink()
            write_operating_point(point, tmp_path / "operating_point.json")
        code, lines, _ = infer(tmp_path, sorted(PHOTOGRAPHS.iterdir()))
        ended = drgate("predict", tmp_path, *lines, "--uncertified", "--workers", 0, "--format", "json")
        assert (code, ended.code) == (0, 0), ended.err
        for image, one in answers(ended).items():
            line = lines[image]
            assert ("" if one["grade"] is None else str(one["grade"])) == line["grade"]
            assert str(int(one["referable"])) == line["referable"]
            given = [float(line[f"p_{k}"]) for k in range(5) if line[f"p_{k}"]]
            if given:
                assert one["p"] == pytest.approx(given, abs=1e-6)
            else:
                assert one["p"] is None or answer.referable_only


class TestQuality:
    """`quality.json`: the rule is judged with the model, and holds wherever the model grades."""

    @pytest.fixture(scope="class")
    @classmethod
    def ruled(cls, place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rule, set[str]]:
        """An exported bundle, the rule that it was given, and the images that the rule refuses."""
        folder = tmp_path_factory.mktemp("ruled")
        table = load_manifest(place / "data").table
        focus = {image: measured(place / "data" / image)["focus"] for image in table["image"]}
        low = float(np.quantile([*focus.values()], 0.15))
        rule = Rule(size=0, field=0, brightness=0, burnt=1, contrast=0, focus=round(low, 2))
        again(place / "bundle", place, folder, quality=rule)
        return folder / "bundle", rule, {image for image, value in focus.items() if value < rule.focus}

    def test_is_certified_with_the_model(self, ruled: tuple[Path, Rule, set[str]], place: Path, drgate: Run):
        """What the rule refuses has no output and counts as the checklist says; page one names rule and number."""
        bundle, rule, refused = ruled
        assert 3 < len(refused) < 10
        assert Rule.from_json(json.loads((bundle / "quality.json").read_text())) == rule
        evaluation = read_certificate(bundle / "certificate.json").statement.evaluation
        assert {file.name: file.role for file in evaluation.model.files}["quality.json"] == "quality"
        assert sum(evaluation.no_output) == len(refused)
        page = " ".join(evaluation.page_one)
        assert f"focus below {rule.focus:g}" in page
        assert f"refuses {len(refused)} of 40 photographs: they have no output." in page
        published = pd.read_parquet(bundle / "predictions.parquet").set_index("image")
        names = {hashlib.sha256((place / "data" / image).read_bytes()).hexdigest()[:16] for image in refused}
        assert {*published.index[published["p_0"].isna()]} == names
        words = ("verify", bundle / "certificate.json", "--key", place / "key.pub", "--model", bundle)
        ended = drgate(*words, "--predictions", bundle / "predictions.parquet")
        assert ended.code == 0, ended.err

    def test_predict_refers_the_same_photographs(
        self, ruled: tuple[Path, Rule, set[str]], place: Path, tmp_path: Path, drgate: Run
    ):
        """Status no_grade, the reason in the rule's words, exit code 3; the others have the certified grades."""
        bundle, _, refused = ruled
        words = ("predict", bundle, place / "data", "--trusted-key", place / "key.pub")
        ended = drgate(*words, "--format", "json")
        assert ended.code == 3
        published = pd.read_parquet(bundle / "predictions.parquet").set_index("image")
        for image, one in answers(ended).items():
            if image in refused:
                assert (one["status"], one["grade"], one["p"], one["referable"]) == ("no_grade", None, None, None)
                assert one["reason"].startswith("image quality: focus ")
                assert one["reason"].endswith("Refer to a person.")
                assert one["quality"] < 1
            else:
                assert (one["status"], one["reason"]) == ("graded", None)
                assert one["quality"] >= 1
                assert one["grade"] == published.loc[one["sha256"][:16], "predicted"]
        shown = drgate(*words).out
        assert "gets no grade: refer it to a person." in shown
        assert shown.count("no grade") >= len(refused)

    def test_is_kept_when_it_is_exported_again(self, ruled: tuple[Path, Rule, set[str]], place: Path, tmp_path: Path):
        """A model that has a rule beside it is exported with it, and with another one where that is asked."""
        assert again(ruled[0], place, tmp_path).exported
        assert Rule.from_json(json.loads((tmp_path / "bundle" / "quality.json").read_text())) == ruled[1]
        assert quality_rule(str(tmp_path / "bundle" / "quality.json")) == ruled[1]
        assert (quality_rule("drgate"), quality_rule(None)) == (RULE, None)

    def test_another_rule_is_another_model(self, bundle: Path, place: Path, tmp_path: Path, refused: Refused):
        """A rule that was added, changed or taken away is not the certified one; a broken one is one sentence."""
        without = load_grader(bundle / "model.onnx").tensor_digest
        (bundle / "quality.json").write_text(json.dumps(RULE.to_json()))
        assert load_grader(bundle / "model.onnx").tensor_digest != without
        assert "decides the answers" in refused("predict", bundle, place / "data", "--trusted-key", place / "key.pub")
        (bundle / "quality.json").write_text(json.dumps(RULE.to_json() | {"focus": -1}))
        for words in (
            ("predict", bundle, place / "data", "--uncertified"),
            ("score", bundle, "--data", place / "data"),
        ):
            told = refused(*words, "--out", "grades.csv")
            assert "quality.json: focus is -1; expected a number from 0 to 255." in told
        certificate = ("--certificate", place / "bundle" / "certificate.json", "--key", place / "key.pem")
        words = ("export", place / "bundle", *certificate, "--data", place / "data", "--out", tmp_path / "out")
        assert "rule of image quality" in refused(*words, "--quality", "strict")
        assert "focus is -1" in refused(*words, "--quality", bundle / "quality.json")

    def test_nothing_left_to_grade_is_an_error(self, bundle: Path, place: Path, refused: Refused):
        """A rule that refuses every photograph of a test set: one sentence that names it."""
        (bundle / "quality.json").write_text(json.dumps(RULE.to_json()))
        told = refused("score", bundle, "--data", place / "data", "--workers", 0, "--out", "a.parquet")
        assert "refused by the rule of image quality (size 112, below 160)" in told


class TestGiven:
    """Photographs by name, in folders, in tables."""

    def test_a_table_with_other_columns_splits_and_useless_grades(self, place: Path, tmp_path: Path, drgate: Run):
        """Only names and splits are read: grades may be anything, a file may be missing or named twice."""
        images = load_manifest(place / "data").table["image"].tolist()[:4]
        cells = ["banana", "7", "", "-1", "0", "1"]
        rows = [*images, images[0], "images/lost.png"]
        lines = [
            f"{one},{cell},{'val' if i == 1 else 'test'}" for i, (one, cell) in enumerate(zip(rows, cells, strict=True))
        ]
        table = place / "data" / "visits.csv"
        table.write_text("\n".join(["file,diagnosis_of_the_day,split", *lines]) + "\n")
        words = ("predict", place / "bundle", table, "--trusted-key", place / "key.pub", "--format", "json")
        mapped = ("--columns", "image=file,grade=diagnosis_of_the_day")
        ended = drgate(*words, *mapped)
        assert ended.code == 3, ended.err
        found = json.loads(ended.out)["predictions"]
        assert [one["image"] for one in found] == rows
        assert [one["status"] for one in found] == ["graded"] * 5 + ["unreadable"]
        assert found[0] == found[4]
        assert found[5]["reason"] == "this image file does not exist."
        ended = drgate(*words, *mapped, "--split", "val")
        assert [one["image"] for one in json.loads(ended.out)["predictions"]] == [rows[1]]
        alone = tmp_path / "alone.csv"
        alone.write_text("\n".join(["image", *(str(place / "data" / one) for one in images)]))
        assert "outside" in drgate("predict", place / "bundle", alone, *words[3:]).err
        table.unlink()

    def test_grades_change_nothing(self, place: Path, tmp_path: Path, drgate: Run):
        """No answer is set beside a reference grade: other grades, the same bytes."""
        table = load_manifest(place / "data").table[["image", "grade"]]
        wrong = table.assign(grade=4 - table["grade"].astype(int))
        written = []
        for name, one in (("as-they-are", table), ("turned", wrong), ("none", table[["image"]])):
            path = place / "data" / f"{name}.csv"
            one.to_csv(path, index=False)
            words = ("predict", place / "bundle", path, "--trusted-key", place / "key.pub", "--workers", 0)
            assert drgate(*words, "--out", tmp_path / f"{name}.csv").code == 0
            written.append((tmp_path / f"{name}.csv").read_bytes())
            path.unlink()
        assert len({*written}) == 1

    def test_a_folder_is_all_photographs_in_it(self, place: Path, tmp_path: Path, drgate: Run):
        """Whatever its tables and its folders' names say; what is left out is counted; twice given is twice graded."""
        image = place / "data" / load_manifest(place / "data").table["image"][0]
        for name in ("site/ann/1.png", "site/ben/x/2.png", "site/3.jpg"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, tmp_path / name)
        (tmp_path / "site" / "labels.csv").write_text("nothing,of,ours\n1,2,3\n")
        (tmp_path / "site" / "4.jpg").write_text("a note that is no photograph")
        (tmp_path / "site" / "lesion_mask.png").write_bytes(image.read_bytes())
        words = ("predict", place / "bundle", tmp_path / "site", "--trusted-key", place / "key.pub", "--format", "json")
        ended = drgate(*words)
        found = answers(ended)
        assert [*found] == ["3.jpg", "4.jpg", "ann/1.png", "ben/x/2.png"]
        assert {name: one["status"] for name, one in found.items() if one["status"] != "graded"} == {
            "4.jpg": "unreadable"
        }
        assert "1 not graded (a mask): " in ended.err
        twice = drgate(*words, tmp_path / "site")
        names = [one["image"] for one in json.loads(twice.out)["predictions"]]
        assert names == [f"{tmp_path / 'site'}/{one}" for one in found] * 2

    def test_names_of_every_kind(self, place: Path, tmp_path: Path, drgate: Run):
        """Commas, line ends, formulas, control characters and bytes that are no text: a CSV reads back as it was."""
        image = place / "data" / load_manifest(place / "data").table["image"][0]
        folder = tmp_path / "odd"
        folder.mkdir()
        names = [
            "=1+1.png",
            "+1.png",
            "-1.png",
            "@a.png",
            "a,b.png",
            'a"b.png',
            "a\nb.png",
            "\x1b[31mred.png",
            "\u202eright.png",
        ]
        for name in names:
            shutil.copy(image, folder / name)
        shutil.copy(os.fsencode(image), os.fsencode(folder) + b"/\xff\xfe.png")
        words = ("predict", place / "bundle", folder, "--trusted-key", place / "key.pub", "--workers", 0)
        for name in ("a.csv", "a.jsonl"):
            assert drgate(*words, "--out", tmp_path / name).code == 0
        with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
            rows = [row["image"] for row in csv.DictReader(file)]
        assert {*rows} == {*names, "\\udcff\\udcfe.png"}
        assert rows == [json.loads(line)["image"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
        shown = drgate(*words)
        assert shown.code == 0
        assert not {*shown.out} & {"\x1b", "\u202e"}
        assert "a\\nb.png" in shown.out

    def test_memory_and_files_of_a_long_list(self, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A list of 20,000 photographs takes a few MB, and none is opened before it is graded."""
        photograph(tmp_path / "many" / "0.png", seed=0)
        for number in range(1, 1000):
            os.link(tmp_path / "many" / "0.png", tmp_path / "many" / f"{number}.png")
        opened: list[Path] = []

        def read(path: Path, *_: object) -> bytes:
            opened.append(path)
            return b""

        monkeypatch.setattr(holdings, "read_beginning", read)
        tracemalloc.start()
        found = photographs_in([tmp_path / "many"] * 20)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert (len(found), opened) == (20_000, [])
        assert size < 20_000 * 1000


class TestRuns:
    """What runs, and how it ends."""

    def test_a_photograph_alone_is_graded_as_in_company(self, place: Path, drgate: Run):
        """Bit for bit: every batch has one size, whatever its number of photographs."""
        deployed = load_bundle(place / "bundle", Trust([load_public_key(place / "key.pub")]))
        every = photographs_in([place / "data"])
        together = {one.image: one for one in graded(deployed, every, workers=0)}
        for at in (0, 7, 8, 39):
            (alone,) = graded(deployed, Photographs([every.named[at]]), workers=0)
            assert alone == together[alone.image]

    def test_the_batches_that_the_model_gets_are_of_one_size(self, place: Path, monkeypatch: pytest.MonkeyPatch):
        """Also where a photograph is unreadable."""
        deployed = load_bundle(place / "bundle", Trust([load_public_key(place / "key.pub")]))
        sizes = []
        own = OnnxGrader.outputs

        def outputs(self: OnnxGrader, batch: Any) -> Any:
            sizes.append(len(batch))
            return own(self, batch)

        monkeypatch.setattr(OnnxGrader, "outputs", outputs)
        every = photographs_in([place / "data"]).named
        many = Photographs([*every[:11], ("lost", place, "lost.png")])
        assert [one.status for one in graded(deployed, many, workers=0)] == ["graded"] * 11 + ["unreadable"]
        assert sizes == [CPU_BATCH] * 2

    def test_needs_no_torch(self, place: Path):
        """A machine that grades has ONNX Runtime, not torch; the device is the one that the session has."""
        code = (
            "import sys\nfrom drgate.cli import main\ntry: main(sys.argv[1:])\n"
            "except SystemExit as end: print(end.code)\n"
            "print(sorted({'torch', 'transformers', 'peft', 'onnxscript'} & set(sys.modules)))"
        )
        words = ("predict", place / "bundle", place / "data", "--trusted-key", place / "key.pub", "--workers", 0)
        ended = subprocess.run(
            [sys.executable, "-c", code, *map(str, words), "--format", "json"],
            capture_output=True,
            text=True,
            check=True,
        )
        *plain, code, loaded = ended.stdout.splitlines()
        assert (code, loaded) == ("0", "[]")
        import onnxruntime

        session = onnxruntime.InferenceSession(place / "bundle" / "model.onnx")
        assert json.loads("".join(plain))["device"] == session.get_providers()[0]

    @pytest.mark.parametrize("fell_back", [False, True])
    def test_says_once_that_cuda_does_not_work(
        self, fell_back: bool, place: Path, drgate: Run, monkeypatch: pytest.MonkeyPatch
    ):
        """Where ONNX Runtime has the CUDA provider and the session is on the CPU all the same."""
        provider = ["CUDAExecutionProvider"] if fell_back else []
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [*provider, "CPUExecutionProvider"])
        images = sorted((place / "data" / "images").iterdir())[:2]
        words = ("predict", place / "bundle", *images, "--trusted-key", place / "key.pub")
        for ended in (drgate(*words), drgate(*words, "--format", "json")):
            assert (ended.out + ended.err).count("because no GPU works here") == fell_back
            assert "Device: CPUExecutionProvider" in ended.out + ended.err
            assert "Precision: fp32." in ended.out + ended.err

    def test_ctrl_c_leaves_no_file(self, place: Path, tmp_path: Path, drgate: Run, monkeypatch: pytest.MonkeyPatch):
        """Exit code 130, and nothing that could be taken for all photographs."""
        calls = []

        def outputs(self: OnnxGrader, batch: Any) -> Any:
            calls.append(batch)
            if len(calls) > 2:
                raise KeyboardInterrupt
            return np.zeros((len(batch), 5), np.float32)

        monkeypatch.setattr(OnnxGrader, "outputs", outputs)
        (tmp_path / "out").mkdir()
        words = ("predict", place / "bundle", place / "data", "--trusted-key", place / "key.pub", "--workers", 0)
        for name in ("a.csv", "a.jsonl"):
            assert drgate(*words, "--out", tmp_path / "out" / name).code == 130
            assert not [*(tmp_path / "out").iterdir()]
        ended = drgate(*words, "--format", "json")
        assert (ended.code, ended.out) == (130, "")

    @pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
    def test_a_full_disk_leaves_no_file(
        self, name: str, place: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
    ):
        """The sentence names the file that has no room, though Python's error does not."""

        def full(*_: object, **__: object) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("drgate.predict.graded", full)
        (tmp_path / "out").mkdir()
        words = ("predict", place / "bundle", place / "data", "--trusted-key", place / "key.pub", "--quiet")
        told = refused(*words, "--out", tmp_path / "out" / name)
        assert told == f"drgate: {tmp_path / 'out' / name}: No space left on device."
        assert not [*(tmp_path / "out").iterdir()]

    @pytest.mark.parametrize("form", ["human", "json"])
    def test_a_reader_that_ends_early(self, form: str, place: Path):
        """As by `| head -1`: exit code 141, no traceback."""
        words = ("predict", place / "bundle", place / "data", "--trusted-key", place / "key.pub", "--format", form)
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "drgate", *map(str, words), "--workers", "0"]
        ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
        os.close(write)
        assert ended.returncode == 141
        assert "Traceback" not in ended.stderr

    @pytest.mark.parametrize("width", [80, 120])
    def test_the_table_fits(
        self, width: int, place: Path, tmp_path: Path, drgate: Run, monkeypatch: pytest.MonkeyPatch
    ):
        """On a terminal a long name is cut at its beginning and a long reason has a line of its own."""
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        folder = tmp_path / ("deep" * 20) / "eyes"
        photograph(folder / "good.png", seed=1)
        (folder / "bad.png").write_text("no photograph")
        ended = drgate("predict", place / "bundle", folder.parent, tmp_path, "--trusted-key", place / "key.pub")
        lines = ended.out.splitlines()[2:]
        assert max(map(len, lines)) <= width, lines
        assert any(line.startswith("...") and "deep/eyes/good.png" in line for line in lines)


class TestRefused:
    def wrong(self, how: str, bundle: Path, place: Path) -> None:
        """Do to a bundle what it must be refused for."""
        match how:
            case "changed weights":
                data = bytearray((bundle / "model.onnx.data").read_bytes())
                data[5] ^= 1
                (bundle / "model.onnx.data").write_bytes(data)
            case "changed preprocessing":
                text = (bundle / "model.yaml").read_text()
                (bundle / "model.yaml").write_text(text.replace(foreign.STRETCHED, "imagenet-stretch@28"))
            case "missing external data":
                (bundle / "model.onnx.data").unlink()
            case "another certificate":
                certified(place, bundle.with_name("second"), network(*(-part for part in grading(place / "data"))))
                shutil.copy(bundle.with_name("second") / "certificate.json", bundle)
            case "added cut-offs":
                (bundle / "operating_point.json").write_text("{}")
            case "unsigned":
                (bundle / "certificate.json").unlink()
            case "no certificate":
                (bundle / "certificate.json").unlink()
                (bundle / "statement.json").unlink()
            case "a table's certificate":
                table = pd.read_parquet(bundle / "predictions.parquet")
                table[["image", "patient", "grade", "predicted"]].to_csv(bundle.with_name("table.csv"), index=False)
                judged(
                    bundle.with_name("table.csv"),
                    checklist=parse_checklist(SPEC, "spec.yaml"),
                    looks=bundle.with_name("table.looks"),
                    key=load_private_key(place / "key.pem"),
                    out=bundle.with_name("table"),
                )
                shutil.copy(bundle.with_name("table") / "certificate.json", bundle)
            case "changed certificate":
                text = (bundle / "certificate.json").read_text()
                plain = json.loads(text)
                plain["dsseEnvelope"]["payload"] = plain["dsseEnvelope"]["payload"][::-1]
                (bundle / "certificate.json").write_text(json.dumps(plain))

    @pytest.mark.parametrize(
        ("how", "says"),
        [
            ("changed weights", "model.onnx.data is another file than the certified"),
            ("changed preprocessing", "model.yaml is another file than the certified"),
            ("missing external data", "model.onnx.data is missing"),
            ("another certificate", "is another file than the certified"),
            ("added cut-offs", "is not a certified file"),
            ("unsigned", "not signed"),
            ("no certificate", "holds no certificate.json"),
            ("changed certificate", "certificate.json"),
            ("a table's certificate", "of a table of predictions, not of a model"),
        ],
    )
    def test_what_was_tampered_with(self, how: str, says: str, place: Path, bundle: Path, refused: Refused):
        """One sentence, exit code 2, nothing graded."""
        self.wrong(how, bundle, place)
        told = refused("predict", bundle, place / "data", "--trusted-key", place / "key.pub", "--out", "grades.csv")
        assert says in told
        assert "Nothing was graded" in told

    def test_without_the_right_key(self, place: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("DRGATE_TRUSTED_KEY", raising=False)
        assert "No trusted key was given" in refused("predict", place / "bundle", place / "data")
        told = refused("predict", place / "bundle", place / "data", "--trusted-key", place / "other.pub")
        assert "not among the trusted keys" in told

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"criteria": [{"id": "specificity:referable", "at_least": 0.99}]}, "Its certificate says"),
            ({"valid_days": 30}, "It expired on"),
            ({"purpose": "pipeline"}, "certifies nothing"),
            ({"evidence": {"decide_on": "point"}}, "Its certificate says OBSERVED"),
        ],
    )
    def test_what_did_not_pass_or_expired(
        self, changes: dict[str, Any], says: str, place: Path, tmp_path: Path, refused: Refused
    ):
        """Signed by the trusted key, of these very files, and still not a certificate to grade on."""
        past = f"{datetime.now(UTC) - timedelta(days=31):%Y-%m-%dT%H:%M:%SZ}"
        certified(place, tmp_path / "b", time=past, **changes)
        assert says in refused("predict", tmp_path / "b", place / "data", "--trusted-key", place / "key.pub")

    def test_what_was_revoked_or_is_too_old(self, place: Path, tmp_path: Path, refused: Refused):
        """A revoked key, a revoked certificate, and one that is older than the caller takes."""
        words = ("predict", place / "bundle", place / "data", "--trusted-key", place / "key.pub")
        statement = hashlib.sha256((place / "bundle" / "statement.json").read_bytes()).hexdigest()
        for revoked in (f"sha256:{statement}", load_public_key(place / "key.pub").id):
            (tmp_path / "revoked.txt").write_text(f"{revoked} the laptop was lost\n")
            assert "is revoked: the laptop was lost" in refused(*words, "--revoked", tmp_path / "revoked.txt")
        past = f"{datetime.now(UTC) - timedelta(days=31):%Y-%m-%dT%H:%M:%SZ}"
        certified(place, tmp_path / "b", time=past)
        words = ("predict", tmp_path / "b", *words[2:])
        assert "31 days ago; at most 30 are allowed" in refused(*words, "--max-age-days", 30)

    @pytest.mark.parametrize("name", [name for name in COMPANIONS if name != "model.yaml"])
    def test_a_file_that_was_added(self, name: str, place: Path, bundle: Path, refused: Refused):
        """Each file that decides answers, here or with infer.py, is the certificate's or refused."""
        (bundle / name).write_text("{}")
        told = refused("predict", bundle, place / "data", "--trusted-key", place / "key.pub")
        assert f"{name} decides the answers of the model beside it, and is not a certified file." in told

    def test_code_that_infer_py_would_import(self, place: Path, tmp_path: Path, refused: Refused):
        """A module beside a program runs before the installed one of its name."""
        (bundle := tmp_path / "b").mkdir()
        write_programs(bundle, None)
        certified(place, bundle)
        words = ("predict", bundle, place / "data", "--trusted-key", place / "key.pub")
        for name in ("csv.py", "csv.pyc", "preprocessing.abi3.so", "preprocessing.PYD", "numpy/__init__.py"):
            (bundle / name).parent.mkdir(exist_ok=True)
            (bundle / name).touch()
            assert f"{bundle / name.partition('/')[0]} can be run by infer.py beside it" in refused(*words)
            (bundle / name).unlink()

    @pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "model.yaml"])
    def test_each_certified_file(self, name: str, place: Path, bundle: Path, refused: Refused):
        """Changed by one byte at its end, or taken away."""
        with (bundle / name).open("ab") as file:
            file.write(b"\n")
        words = ("predict", bundle, place / "data", "--trusted-key", place / "key.pub")
        assert f"{name} is another file than the certified" in refused(*words)
        (bundle / name).unlink()
        assert name in refused(*words)

    def test_photographs_that_are_none(self, place: Path, tmp_path: Path, refused: Refused):
        """An empty folder, a table without images, a name that leads nowhere, a split that is not there."""
        (tmp_path / "empty").mkdir()
        (tmp_path / "a.csv").write_text("eye,visit\n1,2\n")
        (tmp_path / "b.csv").write_text("image\n../up.png\n")
        for given, says in (
            ("empty", "has no images"),
            ("a.csv", "has no column image"),
            ("b.csv", "is outside"),
            ("nowhere", "does not exist; give images, a folder of images, or a table"),
        ):
            assert says in refused("predict", place / "bundle", tmp_path / given, "--trusted-key", place / "key.pub")
        words = ("predict", place / "bundle", place / "data", "--trusted-key", place / "key.pub")
        assert "has no images in the split 'val'" in refused(*words, "--split", "val")
        assert ".csv or .jsonl" in refused(*words, "--out", "grades.parquet")

    def test_what_cannot_run(self, place: Path, tmp_path: Path, refused: Refused):
        """--uncertified takes no model of other channels, none without its data, no folder of something else."""
        other = network()
        other.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
        write(tmp_path / "four", other)
        images = (place / "data", "--uncertified")
        assert "takes images of 4 x 28 x 28" in refused("predict", tmp_path / "four", *images)
        shutil.copytree(place / "bundle", tmp_path / "bare").joinpath("model.onnx.data").unlink()
        assert "model.onnx.data" in refused("predict", tmp_path / "bare", *images)
        assert "is no folder with a model.onnx" in refused("predict", place / "data", *images)

    def test_uncertified_says_so_on_every_run(self, place: Path, bundle: Path, tmp_path: Path, drgate: Run):
        """Graded all the same; on standard error, above the table, in the JSON and in each row of a file it is not
        certified."""
        self.wrong("changed weights", bundle, place)
        image = place / "data" / load_manifest(place / "data").table["image"][0]
        words = ("predict", bundle, image, "--trusted-key", place / "key.pub", "--uncertified")
        ended = drgate(*words)
        assert ended.code == 0
        assert "NOT CERTIFIED: " in ended.err
        assert ended.out.startswith("NOT CERTIFIED: ")
        assert "is another file than the certified" in ended.out
        assert "Do not rely on these grades." in ended.out
        assert " meets " not in ended.out
        assert json.loads(drgate(*words, "--format", "json").out)["bundle"]["certified"] is False
        for name in ("a.csv", "a.jsonl"):
            assert drgate(*words, "--out", tmp_path / name).code == 0
        with (tmp_path / "a.csv").open(newline="") as file:
            assert [row["certified"] for row in csv.DictReader(file)] == ["false"]
        assert json.loads((tmp_path / "a.jsonl").read_text())["certified"] is False


def test_memory_does_not_depend_on_the_number_of_photographs(place: Path, tmp_path: Path):
    """Each batch is graded before the next but a few are decoded, and nothing of it is kept."""
    deployed: Deployed = load_bundle(place / "bundle", Trust([load_public_key(place / "key.pub")]))
    photograph(tmp_path / "a.png", seed=1)
    peaks = []
    for number in (64, 64, 640):
        photographs = Photographs([("a", tmp_path, "a.png")] * number)
        tracemalloc.start()
        assert sum(one.status == "graded" for one in graded(deployed, photographs, workers=0)) == number
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 576 * 2000  # the network's input alone has 9408 bytes an image
