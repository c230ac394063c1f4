"""The whole way with models of other people, as ONNX files: score, tune, judge, sign, export, verify."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from drgate.answers import Answer
from drgate.certificate.keys import generate_key, load_private_key
from drgate.certificate.statement import read_certificate
from drgate.checklist import parse_yaml
from drgate.errors import CheckpointError
from drgate.export import _write_companions
from drgate.manifest import load_manifest
from drgate.models import find_model, parse_description, read_description
from drgate.operating_point import load_operating_point
from drgate.preprocessing import parse_preprocessing
from drgate.scale import GRADES, REFERABLE_CLASSES
from drgate.vision.graders import load_grader, stated_by
from tests.support import foreign, tiny
from tests.support.bundles import infer
from tests.support.foreign import network, node, write
from tests.support.material import Ended
from tests.support.verbs import exported, judged, verified

Run = Callable[..., Ended]

SPEC = """
name: lenient
version: 1
looks: 3
bootstrap: {resamples: 1000}
planning: {power: 0.5}
criteria:
  - {id: "sensitivity:referable", at_least: 0.7}
  - {id: "specificity:referable", at_least: 0.5}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, spec.yaml, key.pem and key.pub."""
    folder = tmp_path_factory.mktemp("way")
    tiny.write_eyes(folder / "data", train=0, val=8, test=8)
    (folder / "spec.yaml").write_text(SPEC)
    generate_key(folder / "key", None)
    return folder


def greens(data: Path) -> NDArray[np.float64]:
    """Mean of the green channel of each test image, -1 to 1: the worse the grade, the smaller."""
    images = load_manifest(data).select("test").table["image"]
    return np.array([np.asarray(Image.open(data / image)).mean(axis=(0, 1))[1] / 127.5 - 1 for image in images])


def column(*numbers: float) -> NDArray[np.float32]:
    return np.array(numbers, np.float32).reshape(-1, 1)


def referable() -> Any:
    """A logit that rises as green falls, too careful: at one half it would refer everybody."""
    return network(column(0, -10, 0), np.array([0.5], np.float32))


def regression() -> Any:
    """A severity on a scale of its own, about 20 for a healthy eye and 60 for PDR."""
    return network(
        column(0, -200, 0),
        np.array([70], np.float32),
        gives=["n"],
        end=[node("Squeeze", "linear", "last")],
        tensors=[onnx.numpy_helper.from_array(np.array([1]), "last")],
    )


KINDS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "referable_logit": (referable, "p_referable", "predicted_referable"),
    "regression": (regression, "severity", "predicted"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_from_a_foreign_file_to_a_certified_bundle(kind: str, place: Path, tmp_path: Path, drgate: Run):
    """Scored on a validation split, cut-offs tuned on it, judged at them and signed, exported, judged again, verified.

    Any program that reads the bundle's own files comes to the certified answers.
    """
    build, answer, decided = KINDS[kind]
    path = write(tmp_path / "model", build(), output={"kind": kind}, classes=None)
    common = ("--data", place / "data", "--workers", 0)
    spec, looks = ("--spec", place / "spec.yaml"), ("--looks", tmp_path / "looks.jsonl")

    def done(*words: object) -> None:
        ended = drgate(*words)
        assert ended.code == 0, (words[0], ended.out, ended.err)

    done("score", path.parent, *common, "--split", "val", "--out", tmp_path / "val.parquet")
    cut_offs = tmp_path / "cuts.json"
    done("tune", tmp_path / "val.parquet", *spec, "--out", cut_offs, *looks)
    judging = (*common, *spec, *looks, "--operating-point", cut_offs, "--key", place / "key.pem")
    done("evaluate", path.parent, *judging, "--out", tmp_path / "report")
    certificate = tmp_path / "report" / "certificate.json"
    shutil.copy(cut_offs, path.parent)  # the certificate covers them
    signed = ("--certificate", certificate, "--key", place / "key.pem")
    done("export", path.parent, *common, *spec, *signed, "--out", tmp_path / "bundle")

    bundle = tmp_path / "bundle"
    described = json.loads((bundle / "model.yaml").read_text())
    assert (described["output"], described["cut_offs"]) == ({"name": "answer", "kind": kind}, "operating_point.json")
    assert (bundle / "model.onnx").read_bytes() == path.read_bytes()
    done("verify", bundle / "certificate.json", "--key", place / "key.pub", "--model", bundle)
    first, again = (read_certificate(one).statement.evaluation for one in (certificate, bundle / "certificate.json"))
    assert (again.verdict, again.confusion_matrix, again.no_output) == (
        first.verdict,
        first.confusion_matrix,
        first.no_output,
    )
    assert {file.role for file in again.model.files} == {"model", "config", "preprocessing", "cut_offs", "code"}

    # By hand, from the files of the bundle and the photographs alone.
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    green = greens(place / "data")
    pixels = np.zeros((len(green), 3, tiny.SIZE, tiny.SIZE), np.float32)
    pixels[:, 1] = green[:, None, None]
    numbers = session.run(None, {"image": pixels})[0].reshape(-1)
    cuts = load_operating_point(bundle / "operating_point.json").cut_offs
    if kind == "regression":
        expected = (numbers[:, None] >= np.array(cuts)).sum(axis=1)
        assert list(cuts) == sorted(cuts)
    else:
        expected = (1 / (1 + np.exp(-numbers.astype(np.float64))) >= cuts[0]).astype(int)
    table = pd.read_parquet(bundle / "predictions.parquet").set_index("image")
    data = load_manifest(place / "data").select("test").table["image"]
    names = [hashlib.sha256((place / "data" / image).read_bytes()).hexdigest()[:16] for image in data]
    assert table.loc[names, decided].tolist() == expected.tolist()
    assert table[answer].notna().all()
    paths = [place / "data" / image for image in data]
    code, lines, errors = infer(bundle, paths)
    assert (code, errors) == (0, "")
    decides = "grade" if kind == "regression" else "referable"
    assert [int(lines[str(path)][decides]) for path in paths] == expected.tolist()
    # `drgate predict` says the same as infer.py and as the certified table, column by column.
    done("predict", bundle, place / "data", "--trusted-key", place / "key.pub", "--out", tmp_path / "grades.csv")
    rows = pd.read_csv(tmp_path / "grades.csv").set_index("image").loc[data]
    assert rows[decides].astype(int).tolist() == expected.tolist()
    refers = [bool(int(lines[str(path)]["referable"])) for path in paths]
    assert rows["referable"].tolist() == refers
    if kind == "regression":
        assert rows["grade"].tolist() == table.loc[names, "predicted"].tolist()
        assert rows["p_0"].isna().all()
    else:
        assert rows["p_referable"].to_numpy() == pytest.approx(table.loc[names, answer].to_numpy(), abs=1e-12)
        assert rows["grade"].isna().all()

    moved = drgate("evaluate", bundle, *common, *spec, *looks, "--out", tmp_path / "again")
    assert moved.code == 0, moved.err
    (bundle / "model.yaml").write_text(json.dumps(described | {"input": "image"}))
    assert drgate("verify", bundle / "certificate.json", "--key", place / "key.pub", "--model", bundle).code == 2


def grading(place: Path, order: list[int], **changes: Any) -> Any:
    """Logits that are largest for the grade whose test images have the nearest mean green; classes in this order."""
    grades, green = load_manifest(place / "data").select("test").table["grade"], greens(place / "data")
    middle = np.array([green[(grades == grade).to_numpy()].mean() for grade in order])
    weight = np.zeros((3, 5), np.float32)
    weight[1] = 2 * middle * 400
    return network(weight, (-(middle**2) * 400).astype(np.float32), **changes)


@pytest.fixture
def certified(place: Path, tmp_path: Path) -> Callable[[Path], dict[str, Any]]:
    """Judge a model by a checklist that it meets; what `export` is asked for it."""
    checklist = parse_yaml(SPEC.encode(), "spec.yaml")
    key = load_private_key(place / "key.pem")

    def run(model: Path) -> dict[str, Any]:
        common = {"data": place / "data", "checklist": checklist, "workers": 0, "key": key}
        found = judged(model, looks=tmp_path / "looks.jsonl", out=tmp_path / "report", **common)
        assert found.evaluation.verdict == "PASS"
        certificate = found.folder / "certificate.json"
        return {**common, "certificate": certificate, "out": tmp_path / "bundle", "trusted": [key.public]}

    return run


def with_data(path: Path, model: Any, name: str) -> None:
    onnx.save(model, path, save_as_external_data=True, location=name, size_threshold=0)


def test_five_probabilities_in_an_order_of_their_own(
    place: Path, tmp_path: Path, certified: Callable[[Path], dict[str, Any]]
):
    """What scoring found out, that the outputs are probabilities, is stated in the bundle, and all files are in it."""
    order = [2, 0, 1, 4, 3]
    path = write(tmp_path / "model").rename(tmp_path / "model" / "best.onnx")
    (path.parent / "model.yaml").unlink()
    soft = [node("LogSoftmax", axis=1, to="log"), node("Exp", "log")]
    with_data(path, grading(place, order, end=soft), "best.weights")
    (path.parent / "labels.json").write_text(json.dumps([GRADES[grade] for grade in order]))
    (path.parent / "preprocess.json").write_text(json.dumps(parse_preprocessing(foreign.STRETCHED).content()))
    found = exported(path, **(asked := certified(path)))
    assert (found.exported, found.largest_difference) == (True, 0)
    described = read_description(found.folder / "model.yaml")
    assert described.output.kind == "probabilities"
    assert described.classes == tuple(GRADES[grade] for grade in order)
    evaluation = found.judgement.evaluation
    assert [(file.name, file.role) for file in evaluation.model.files] == [
        ("model.onnx", "model"),
        ("best.weights", "data"),
        ("model.yaml", "config"),
        ("preprocess.json", "preprocessing"),
        ("labels.json", "labels"),
        ("config.pbtxt", "config"),
        ("preprocessing.py", "code"),
        ("infer.py", "code"),
    ]
    assert np.trace(evaluation.confusion_matrix) == 40
    checked = verified(found.folder / "certificate.json", models=[found.folder], trusted=asked["trusted"])
    assert (checked.exit_code, checked.problems) == (0, ())
    again = load_grader(found.folder)  # a bundle is read by its folder too
    assert again.tensor_digest == evaluation.model.tensor_digest
    assert stated_by(find_model(found.folder)) == again.preprocessing
    card = (found.folder / "README.md").read_text()
    assert "Output: `answer`, (batch, 5): probabilities, in the order of labels.json." in card


def test_the_descriptions_in_the_documents_are_read():
    """Whoever copies one gets no refusal."""
    text = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
    blocks = [*re.findall(r"(?:^    .+\n)+", text, re.M), *re.findall(r"^    \{.+\}$", text, re.M)]
    found = [block for block in blocks if block.count("format: drgate model 1") == 1]
    kinds = [parse_description(textwrap.dedent(block).encode(), Path("docs/models.md")).output.kind for block in found]
    assert {*kinds} >= {"logits", "referable_logit", "regression"}


def test_a_fixed_batch_stays_fixed_and_is_said(
    place: Path, tmp_path: Path, certified: Callable[[Path], dict[str, Any]]
):
    """The bundle is judged as its file runs, and page one says how it was scored."""
    path = write(tmp_path / "model", grading(place, [0, 1, 2, 3, 4], batch=1))
    found = exported(path, **certified(path))
    assert any("scored one by one" in line for line in found.judgement.evaluation.page_one)
    assert "(1, 3, 28, 28)" in (found.folder / "README.md").read_text()


@pytest.mark.parametrize("name", ["report.html", "Certificate.json", "sha256sums", "model.onnx"])
def test_weights_in_a_file_that_a_bundle_has_are_refused(
    name: str, place: Path, tmp_path: Path, certified: Callable[[Path], dict[str, Any]]
):
    """The report would be written over them."""
    path = write(tmp_path / "model", weights="best.onnx").rename(tmp_path / "model" / "best.onnx")
    with_data(path, grading(place, [0, 1, 2, 3, 4]), name)
    asked = certified(path)
    with pytest.raises(CheckpointError, match=f"has its weights in {name}, a name that another file"):
        exported(path, **asked)
    assert not asked["out"].exists()


def test_a_grader_in_python_is_not_exported(place: Path, tmp_path: Path):
    """One sentence that says what to do; nothing of it is run, and nothing written."""
    asked: dict[str, Any] = {"checklist": parse_yaml(SPEC.encode(), "spec.yaml"), "data": place / "data"}
    with pytest.raises(
        CheckpointError, match=r"is a grader in Python, which cannot be exported; export its network to"
    ):
        exported(tmp_path, python="g.py:load", certificate=tmp_path / "c.json", out=tmp_path / "bundle", **asked)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "files"),
    [
        (Answer(), {"preprocess.json", "labels.json"}),
        (Answer("logits", GRADES[::-1]), {"preprocess.json", "labels.json", "model.yaml"}),
        (Answer("probabilities"), {"preprocess.json", "labels.json", "model.yaml"}),
        (Answer("logits", REFERABLE_CLASSES), {"preprocess.json", "labels.json", "model.yaml"}),
        (Answer("cumulative_logits", ()), {"preprocess.json", "model.yaml"}),
    ],
)
def test_a_network_in_torch_leaves_what_its_onnx_file_needs(answer: Answer, files: set[str], tmp_path: Path):
    """Beside the exported file: the preprocessing, the class of each output, and model.yaml for more than that."""
    grader: Any = SimpleNamespace(preprocessing=parse_preprocessing(foreign.STRETCHED))
    _write_companions(tmp_path, grader, grader.preprocessing, answer, cut_offs=False)
    assert {file.name for file in tmp_path.iterdir()} == files
    shape = {"weight": foreign.WEIGHT[:, : answer.width], "bias": foreign.BIAS[: answer.width]}
    torch_like = network(**shape)
    torch_like.graph.input[0].name = torch_like.graph.node[0].input[0] = "pixel_values"
    torch_like.graph.output[0].name = torch_like.graph.node[-1].output[0] = "logits"
    onnx.save(torch_like, tmp_path / "model.onnx")
    read = load_grader(tmp_path / "model.onnx")
    assert (read.answer.kind, read.answer.classes) == (answer.kind, answer.classes)
    assert read.preprocessing == grader.preprocessing
