"""`drgate predict`: photographs graded with a bundle, and the bundles that are refused."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
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

from drgate.certificate.keys import generate_key, load_private_key, load_public_key
from drgate.checklist import parse_checklist
from drgate.gradability import RULE
from drgate.manifest import load_manifest
from drgate.operating_point import make_operating_point, write_operating_point
from drgate.predict import Deployed, Photographs, graded, load_bundle
from drgate.predictions import load_predictions
from drgate.scale import GRADES
from drgate.verify import Trust
from tests.support import foreign, tiny
from tests.support.foreign import network, node, write
from tests.support.material import Ended, photograph
from tests.support.verbs import judged

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
            assert "3 of 3 photographs have a grade." in ended.out
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
        assert all(one["name"].replace("_", " ") in shown for one in plain)

    def test_no_grade_is_said_and_exit_code_3(self, place: Path, tmp_path: Path, drgate: Run):
        """A broken file and one that is not there are unreadable; one pixel is graded, its quality refused."""
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
        Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
        good = place / "data" / load_manifest(place / "data").table["image"][0]
        images = [tmp_path / "broken.jpg", good, tmp_path / "none.jpg", tmp_path / "one.png"]
        words = ("predict", place / "bundle", *images, "--trusted-key", place / "key.pub", "--format", "json")
        ended = drgate(*words)
        assert ended.code == 3
        assert "2 of 4 photographs have no grade: refer them to a person." in ended.err
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

    def test_the_rule_of_quality_in_a_bundle_withholds_grades(self, place: Path, bundle: Path, drgate: Run):
        """What it refuses has no grade and goes to a person; a rule that no certificate names is refused."""
        (bundle / "quality.json").write_text(json.dumps(RULE.to_json()))
        image = place / "data" / load_manifest(place / "data").table["image"][0]
        words = ("predict", bundle, image, "--trusted-key", place / "key.pub", "--format", "json")
        assert drgate(*words).code == 2
        ended = drgate(*words, "--uncertified")
        assert ended.code == 3
        (one,) = answers(ended).values()
        assert (one["status"], one["grade"], one["p"], one["referable"]) == ("no_grade", None, None, None)
        assert one["reason"] == "image quality: size 112, below 160. Refer to a person."

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
        ],
    )
    def test_what_did_not_pass_or_expired(
        self, changes: dict[str, Any], says: str, place: Path, tmp_path: Path, refused: Refused
    ):
        """Signed by the trusted key, of these very files, and still not a certificate to grade on."""
        past = f"{datetime.now(UTC) - timedelta(days=31):%Y-%m-%dT%H:%M:%SZ}"
        certified(place, tmp_path / "b", time=past, **changes)
        assert says in refused("predict", tmp_path / "b", place / "data", "--trusted-key", place / "key.pub")

    def test_what_cannot_run(self, place: Path, tmp_path: Path, refused: Refused):
        """--uncertified takes no model of other channels, none without its data, no folder of something else."""
        other = network()
        other.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
        write(tmp_path / "four", other)
        images = (place / "data", "--uncertified")
        assert "takes images of 4 x 28 x 28" in refused("predict", tmp_path / "four", *images)
        shutil.copytree(place / "bundle", tmp_path / "bare").joinpath("model.onnx.data").unlink()
        assert "model.onnx.data" in refused("predict", tmp_path / "bare", *images)
        assert "no model.onnx" in refused("predict", place / "data", *images)

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
