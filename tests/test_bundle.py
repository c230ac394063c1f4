"""A bundle runs without drgate: its own files grade a photograph as they were certified to."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from drgate import preprocessing
from drgate.answers import Answer
from drgate.bundle import PHOTOGRAPHS, write_programs, write_sums, write_vectors
from drgate.demo.synthetic import draw_patient, render
from drgate.export import _write_companions
from drgate.preprocessing import parse_preprocessing
from drgate.scale import GRADES, REFERABLE_CLASSES
from drgate.vision.graders import load_grader
from drgate.vision.images import read_image
from tests.support import foreign
from tests.support.bundles import infer

ANSWERS = (
    Answer(),
    Answer("logits", GRADES[::-1]),
    Answer("logits", REFERABLE_CLASSES),
    Answer("logits", REFERABLE_CLASSES[::-1]),
    Answer("cumulative_logits", ()),
    Answer("referable_logit", ()),
    Answer("regression", ()),
)


def a_bundle(folder: Path, answer: Answer, way: str, cut_offs: list[float] | None = None) -> Any:
    """The files that decide, without a judgement; the grader of them."""
    recipe = parse_preprocessing(way)
    face = SimpleNamespace(preprocessing=recipe)
    shape = {"weight": foreign.WEIGHT[:, : answer.width], "bias": foreign.BIAS[: answer.width]}
    network = foreign.network(**shape, size=recipe.size)
    network.graph.input[0].name = network.graph.node[0].input[0] = "pixel_values"
    network.graph.output[0].name = network.graph.node[-1].output[0] = "logits"
    onnx.save(network, folder / "model.onnx")
    _write_companions(folder, face, recipe, answer, cut_offs=cut_offs is not None)
    if cut_offs is not None:
        (folder / "operating_point.json").write_text(json.dumps({"cut_offs": cut_offs}))
    write_programs(folder)
    return load_grader(folder / "model.onnx")


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer.kind}-{'-'.join(answer.classes)}")
@pytest.mark.parametrize("cut", [False, True])
def test_infer_gives_the_answers_of_drgate(answer: Answer, cut: bool, tmp_path: Path):
    """For every kind of outputs, with cut-offs and without, in a process that has no drgate."""
    on_severity = answer.kind == "regression"
    point = [0.1, 0.2, 0.3, 0.4] if on_severity else [0.3] if answer.referable_only else [0.9, 0.5, 0.2, 0.15]
    grader = a_bundle(tmp_path, answer, "fundus-square-2@64", point if cut or on_severity else None)
    images = sorted(PHOTOGRAPHS.iterdir())
    code, lines, errors = infer(tmp_path, images)
    assert (code, errors, list(lines)) == (0, "", [str(image) for image in images])
    recipe = grader.preprocessing
    prepared = np.stack([recipe(read_image(image, recipe.decoded_at)) for image in images])
    columns = answer.columns(grader.outputs(prepared))
    for at, line in enumerate(lines.values()):
        if answer.referable_only:
            assert line["grade"] == line["p_0"] == ""
            assert int(line["referable"]) == (columns["p_referable"][at] >= (0.3 if cut else 0.5))
            continue
        if on_severity:
            expected = sum(columns["severity"][at] >= one for one in point)
            assert line["p_0"] == ""
        else:
            p = [columns[f"p_{grade}"][at] for grade in range(5)]
            assert [float(line[f"p_{grade}"]) for grade in range(5)] == pytest.approx(p, abs=1e-6)
            reaching = [k for k in range(1, 5) if sum(p[k:]) >= point[k - 1]]
            expected = max(reaching, default=0) if cut else int(np.argmax(p))
        assert (int(line["grade"]), int(line["referable"])) == (expected, int(expected >= 2))


def test_an_image_that_cannot_be_read_gets_no_grade(tmp_path: Path):
    """Its line is empty, the others are graded, and the exit code says that one is missing."""
    a_bundle(tmp_path, Answer(), "imagenet-stretch@64")
    good = PHOTOGRAPHS / "small.png"
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:5000])
    Image.new("F", (40, 40)).save(tmp_path / "float.tiff")
    code, lines, errors = infer(tmp_path, [tmp_path / "cut.png", tmp_path / "float.tiff", tmp_path / "no.png", good])
    assert code == 3
    assert [line["grade"] for line in lines.values()][:3] == ["", "", ""]
    assert lines[str(good)]["grade"] in "01234"
    assert "Traceback" not in errors
    assert len(errors.splitlines()) == 3


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "I;16", "1"])
def test_every_kind_of_pixels_is_read_alike(mode: str, tmp_path: Path):
    """What drgate reads, the bundle reads to the same probabilities."""
    grader = a_bundle(tmp_path, Answer(), "imagenet-stretch@64")
    with Image.open(PHOTOGRAPHS / "small.png") as photograph:
        other = photograph.convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        other = Image.fromarray(np.asarray(other).astype(np.uint16) * 200)
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    other.save(path)
    (line,) = infer(tmp_path, [path])[1].values()
    columns = grader.answer.columns(grader.outputs(grader.preprocessing(read_image(path))[None]))
    assert [float(line[f"p_{k}"]) for k in range(5)] == pytest.approx([columns[f"p_{k}"][0] for k in range(5)])


@pytest.mark.parametrize("name", ["preprocessing.py", "infer.py"])
def test_the_code_of_a_bundle_is_certified(name: str, tmp_path: Path):
    """It decides what somebody without drgate gets: a certificate covers it, and other code is another model."""
    grader = a_bundle(tmp_path, Answer(), "imagenet-stretch@64")
    assert (tmp_path / "preprocessing.py").read_bytes() == Path(preprocessing.__file__).read_bytes()
    assert {(file.name, file.role) for file in grader.files} >= {("preprocessing.py", "code"), ("infer.py", "code")}
    with (tmp_path / name).open("a") as code:
        code.write("\n# changed\n")
    assert load_grader(tmp_path / "model.onnx").tensor_digest != grader.tensor_digest


def test_the_vectors_are_what_somebody_elses_program_checks_itself_by(tmp_path: Path):
    """Three photographs, the digest of the prepared pixels and the outputs, which the copied code comes to as well."""
    grader = a_bundle(tmp_path, Answer(), "fundus-square-2@64")
    write_vectors(tmp_path, grader)
    vectors = json.loads((tmp_path / "vectors" / "vectors.json").read_text())["vectors"]
    assert [one["image"] for one in vectors] == ["large.jpg", "small.png", "turned.jpg"]
    lines = infer(tmp_path, [tmp_path / "vectors" / one["image"] for one in vectors])[1]
    for one, line in zip(vectors, lines.values(), strict=True):
        pixels = grader.preprocessing.pixels(read_image(tmp_path / "vectors" / one["image"], 128))
        assert (list(pixels.shape), pixels.dtype.name) == (one["shape"], one["dtype"])
        assert one["pixels"] == f"sha256:{hashlib.sha256(pixels.tobytes()).hexdigest()}"
        likely = np.exp(one["outputs"]) / np.exp(one["outputs"]).sum()
        assert [float(line[f"p_{k}"]) for k in range(5)] == pytest.approx(likely.tolist(), abs=1e-6)
    assert len({one["pixels"] for one in vectors}) == 3


def test_the_photographs_are_those_of_the_generator():
    """None is of a patient."""
    drawn = {"small.png": (0, 0, "R", 400), "turned.jpg": (1, 2, "L", 1000), "large.jpg": (2, 4, "R", 2000)}
    for name, (index, grade, eye, size) in drawn.items():
        made = render(draw_patient("demo", seed=1, index=index, worse_grade=grade), eye, size=size).image
        difference = np.abs(np.asarray(made, float) - np.asarray(read_image(PHOTOGRAPHS / name), float))
        assert difference.mean() < (1e-9 if name.endswith("png") else 3), name


def test_sums_are_checked_by_sha256sum(tmp_path: Path):
    """Every file of the folder, below it too."""
    (tmp_path / "in").mkdir()
    (tmp_path / "a b").write_text("a")
    (tmp_path / "in" / "c").write_text("c")
    write_sums(tmp_path)
    found = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, capture_output=True)
    assert (found.returncode, found.stdout.count(b": OK")) == (0, 2)
