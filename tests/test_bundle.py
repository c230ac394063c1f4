"""A bundle runs without drgate: its own files grade a photograph as they were certified to."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image, ImageFilter, ImageOps

from drgate.answers import Answer
from drgate.bundle import write_programs, write_sums, write_triton, write_vectors
from drgate.checklist import load_checklist
from drgate.demo.synthetic import draw_patient, render
from drgate.gradability import RULE
from drgate.predict import graded, load_bundle, photographs_in
from drgate.preprocessing import parse_preprocessing
from drgate.scale import GRADES, REFERABLE_CLASSES
from drgate.vectors import PHOTOGRAPHS, is_sums, is_vectors
from drgate.verify import Trust
from drgate.vision.for_others import PROGRAMS
from drgate.vision.graders import load_grader
from drgate.vision.images import read_image
from tests.support import foreign, tiny
from tests.support.bundles import a_bundle, infer
from tests.support.foreign import baked, network, node
from tests.support.material import Ended
from tests.support.verbs import judged

ANSWERS = (
    Answer(),
    Answer("logits", GRADES[::-1]),
    Answer("logits", REFERABLE_CLASSES),
    Answer("logits", REFERABLE_CLASSES[::-1]),
    Answer("cumulative_logits", ()),
    Answer("referable_logit", ()),
    Answer("regression", ()),
)


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


GRAPHS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "float16": ({"dtype": TensorProto.FLOAT16}, {}),
    "float64": ({"dtype": TensorProto.DOUBLE}, {}),
    "uint8": ({"dtype": TensorProto.UINT8}, {"scale": {"range": [0, 255]}}),
    "nhwc": ({"nhwc": True}, {"layout": "nhwc"}),
    "any size": ({"size": "side"}, {}),
    "one at a time": ({"batch": 1}, {}),
    "four at a time": ({"batch": 4}, {}),
    "four at a time, unsaid": (baked(4, 5), {}),
    "one at a time, unsaid": (baked(1, 5), {}),
    "several outputs": ({"more": ["other"]}, {}),
    "probabilities": ({"end": [node("Softmax", axis=1)]}, {}),
    "numbers in a row": (
        {
            "weight": foreign.WEIGHT[:, :1] / 99,
            "bias": np.array([0.5], np.float32),
            "gives": ["n"],
            "end": [node("Squeeze", "linear", "last")],
            "tensors": [onnx.numpy_helper.from_array(np.array([1]), "last")],
        },
        {},
    ),
}
"""What the graph is, and the preprocessing that it takes."""


def a_graph(folder: Path, kind: str, input: str = "image", output: str = "answer") -> Any:
    """A bundle of a foreign graph; the grader of it."""
    graph, way = GRAPHS[kind]
    model = network(**graph)
    for one in model.graph.node:
        one.input[:] = [input if name == "image" else name for name in one.input]
        one.output[:] = [output if name == "answer" else name for name in one.output]
    model.graph.input[0].name = input
    model.graph.output[-1].name = output
    recipe = {**parse_preprocessing("siglip@28").content(), **way}
    of = {"probabilities": "probabilities", "numbers in a row": "referable_probability"}.get(kind, "logits")
    classes = None if kind == "numbers in a row" else [*GRADES]
    described = {"input": input, "output": {"name": output, "kind": of}, "classes": classes}
    foreign.write(folder, model, **described, preprocessing="preprocess.json")
    (folder / "preprocess.json").write_text(json.dumps(recipe))
    if classes:
        (folder / "labels.json").write_text(json.dumps(classes))
    write_programs(folder, None)
    write_triton(folder, load_grader(folder))
    return load_grader(folder)


def predicted(folder: Path, images: list[Path]) -> list[Any]:
    """What `drgate predict` says of photographs."""
    return [*graded(load_bundle(folder, Trust(()), uncertified=True), photographs_in(images), workers=0)]


def same(lines: dict[str, dict[str, str]], answers: list[Any]) -> None:
    """That `infer.py` and `drgate predict` give each photograph the same."""
    assert len(lines) == len(answers)
    for one in answers:
        line = lines[one.image]
        assert line["grade"] == ("" if one.grade is None else str(one.grade))
        assert line["referable"] == ("" if one.referable is None else str(int(one.referable)))
        if one.grade is not None:
            assert [float(line[f"p_{k}"]) for k in range(5)] == pytest.approx(one.p, abs=1e-5)


@pytest.mark.parametrize("kind", GRAPHS)
def test_infer_runs_every_kind_of_graph(kind: str, tmp_path: Path):
    """Other types of numbers, layouts, fixed batches, declared or not: what drgate predict gives."""
    a_graph(tmp_path / "b", kind)
    images = sorted(PHOTOGRAPHS.iterdir())
    code, lines, errors = infer(tmp_path / "b", images)
    assert (code, errors) == (0, "")
    same(lines, predicted(tmp_path / "b", images))


def test_infer_gives_no_grade_where_the_quality_rule_refuses(tmp_path: Path):
    """The photographs and the reasons of drgate predict; a line without a grade, a sentence, exit code 3."""
    folder = tmp_path / "b"
    folder.mkdir()
    a_bundle(folder, Answer("logits", GRADES), quality=RULE)
    good = read_image(PHOTOGRAPHS / "large.jpg")
    good.filter(ImageFilter.GaussianBlur(80)).save(tmp_path / "blurred.jpg")
    good.point(lambda level: level // 8).save(tmp_path / "dark.png")
    good.resize((120, 120)).save(tmp_path / "tiny.png")
    good.convert("L").save(tmp_path / "grey.png")
    images = [*sorted(PHOTOGRAPHS.iterdir()), *sorted(tmp_path.glob("*.*"))]
    code, lines, errors = infer(folder, images)
    assert code == 3
    answers = predicted(folder, images)
    same(lines, answers)
    without = [one for one in answers if one.status == "no_grade"]
    assert {Path(one.image).name for one in without} >= {"blurred.jpg", "dark.png", "tiny.png"}
    assert 0 < len(without) < len(answers)
    assert errors.splitlines() == [f"{one.image}: {one.reason}" for one in without]
    (folder / "quality.json").unlink()
    assert infer(folder, images)[0] == 0


def test_infer_runs_its_own_code(tmp_path: Path):
    """Not what lies compiled beside it, and it leaves nothing compiled."""
    a_bundle(tmp_path)
    image = PHOTOGRAPHS / "small.png"
    first = infer(tmp_path, [image])
    assert first[0] == 0
    assert not (tmp_path / "__pycache__").exists()
    (tmp_path / "other.py").write_text("raise SystemExit(9)\n")
    compiled = importlib.util.cache_from_source(str(tmp_path / "preprocessing.py"))
    py_compile.compile(
        str(tmp_path / "other.py"), compiled, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    assert infer(tmp_path, [image]) == first


def test_infer_without_photographs(tmp_path: Path):
    """Exit code 2, and how it is used: nothing has a grade. The model is not blamed."""
    a_bundle(tmp_path)
    for asked in ([], [Path("--help")]):
        code, lines, errors = infer(tmp_path, asked)
        assert (code, lines) == (2, {})
        assert errors.startswith("usage: python infer.py IMAGE...\n\nGrade photographs with the model in this folder")


def test_infer_says_why_a_photograph_has_no_grade(tmp_path: Path):
    """No finite number: as where it cannot be read."""
    model = network(weight=np.full((3, 5), np.inf, np.float32))
    described = {"input": "image", "output": {"name": "answer", "kind": "logits"}, "preprocessing": "preprocess.json"}
    foreign.write(tmp_path / "b", model, **described)
    (tmp_path / "b" / "preprocess.json").write_text(json.dumps(parse_preprocessing("siglip@28").content()))
    (tmp_path / "b" / "labels.json").write_text(json.dumps([*GRADES]))
    write_programs(tmp_path / "b", None)
    code, lines, errors = infer(tmp_path / "b", [image := PHOTOGRAPHS / "small.png"])
    assert (code, errors) == (3, f"{image}: the model gave no finite numbers. Refer to a person.\n")
    assert next(iter(lines.values()))["referable"] == ""


def broken(how: str, folder: Path) -> None:
    """Do to a bundle what nothing can grade with."""
    path = folder / "model.onnx"
    match how:
        case "data is missing":
            onnx.save(network(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
            (folder / "weights.bin").unlink()
        case "four channels":
            model = network()
            model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
            onnx.save(model, path)
        case "a class too few":
            onnx.save(network(foreign.WEIGHT[:, :4], foreign.BIAS[:4]), path)
        case "truncated":
            path.write_bytes(path.read_bytes()[:200])
        case "empty":
            path.write_bytes(b"")
        case "no preprocessing":
            (folder / "preprocess.json").unlink()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("data is missing", "weights"),
        ("four channels", "takes images of 4 x 28 x 28"),
        ("a class too few", "gives 4 numbers for an image"),
        ("truncated", "is not an ONNX model"),
        ("empty", "model.onnx"),
        ("no preprocessing", "preprocess.json"),
    ],
)
def test_a_bundle_that_cannot_run_is_refused(how: str, says: str, tmp_path: Path, refused: Callable[..., str]):
    """By infer.py and by drgate: one sentence, exit code 2, nothing graded."""
    tiny.write_eyes(tmp_path / "data", train=0, val=0, test=1)
    folder = tmp_path / "b"
    a_graph(folder, "any size")
    onnx.save(network(), folder / "model.onnx")
    broken(how, folder)
    code, lines, errors = infer(folder, [PHOTOGRAPHS / "small.png"])
    assert (code, lines) == (2, {})
    assert errors.startswith(f"{folder}: infer.py cannot grade here (")
    assert errors.count("\n") == 1, errors
    common = ("--data", tmp_path / "data", "--spec", "smoke")
    assert says in refused("evaluate", folder / "model.onnx", *common, "--looks", "looks.jsonl", "--out", "r")
    assert says in refused("predict", folder, PHOTOGRAPHS / "small.png", "--uncertified")


def test_infer_grades_an_image_of_one_pixel_as_drgate_does(tmp_path: Path):
    """Nothing but a rule of quality refuses it."""
    (folder := tmp_path / "b").mkdir()
    for way in ("fundus-square-2@64", "fundus-square-1@64", "imagenet-stretch@64", "retfound@64"):
        a_bundle(folder, way=way)
        Image.new("RGB", (1, 1), (200, 90, 30)).save(tmp_path / "one.png")
        code, lines, errors = infer(folder, [tmp_path / "one.png"])
        assert (code, errors) == (0, "")
        same(lines, predicted(folder, [tmp_path / "one.png"]))


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Triton's own protobuf of a model's configuration, without what else its package needs."""
    folder = tmp_path_factory.mktemp("triton")
    asked = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "tritonclient"]
    ended = subprocess.run([*asked, "--disable-pip-version-check"], capture_output=True, text=True, check=False)
    if ended.returncode and "EVERY_CHECK" not in os.environ:
        pytest.skip("pip cannot fetch tritonclient here")
    assert ended.returncode == 0, ended.stderr
    path = folder / "tritonclient" / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOSTILE = 'a"\n} input [ { name: "b\\" \u2028 \u00e9\t# \x7f'
TYPES = {1: "TYPE_FP32", 10: "TYPE_FP16", 11: "TYPE_FP64", 2: "TYPE_UINT8"}
"""By their number in ONNX."""


@pytest.mark.parametrize("name", ["image", HOSTILE])
@pytest.mark.parametrize("kind", GRAPHS)
def test_triton_reads_what_the_graph_is(kind: str, name: str, triton: Any, tmp_path: Path):
    """Parsed by Triton's own protobuf: names, types and shapes are the graph's, whatever its names are."""
    from google.protobuf import text_format

    grader = a_graph(tmp_path / "b", kind, input=name, output=f"{name} out")
    text = (tmp_path / "b" / "config.pbtxt").read_text("ascii")
    config = text_format.Parse(text, triton.ModelConfig())
    assert (config.name, config.platform) == ("", "onnxruntime_onnx")
    graph = onnx.load(tmp_path / "b" / "model.onnx").graph
    (given,), (gives,) = config.input, config.output
    assert (given.name, gives.name) == (graph.input[0].name, graph.output[-1].name) == (name, f"{name} out")
    fixed = {"one at a time": 1, "four at a time": 4, "four at a time, unsaid": 4, "one at a time, unsaid": 1}.get(kind)
    assert config.max_batch_size == (0 if fixed else 32)
    front = [fixed] if fixed else []
    assert [*given.dims] == [*front, *([28, 28, 3] if kind == "nhwc" else [3, 28, 28])]
    assert [*gives.dims] == [*front, *([1] if kind == "numbers in a row" else [5])]
    assert gives.HasField("reshape") == (kind == "numbers in a row")
    for end, one in ((given, graph.input[0]), (gives, graph.output[-1])):
        tensor = one.type.tensor_type
        assert triton.DataType.Name(end.data_type) == TYPES[tensor.elem_type]
        declared = [dim.dim_value for dim in tensor.shape.dim][0 if fixed else 1 :]
        for length, said in zip(declared, end.dims, strict=False):
            assert length in (0, said)
    assert "config.pbtxt" in {file.name for file in grader.files}


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


WRITTEN = {"preprocessing.py": "code", "infer.py": "code", "gradability.py": "code", "config.pbtxt": "config"}


@pytest.mark.parametrize("name", WRITTEN)
def test_programs_for_others_are_certified_as_drgate_wrote_them(name: str, tmp_path: Path):
    """They decide what somebody without drgate gets. Others are in no certificate, and page one says so."""
    grader = a_bundle(tmp_path, quality=RULE)
    own = {file.name: file.role for file in grader.files if file.name in WRITTEN}
    assert own == WRITTEN
    said = grader.notes
    assert not any("Not certified" in note for note in said)
    for copy, source in PROGRAMS.items():
        assert (tmp_path / copy).read_bytes() == source.read_bytes()
    content = (tmp_path / name).read_bytes()
    for other in (content + b"\n# changed\n", content.replace(b"i", b"j", 1), b"", b"#" * 100_000):
        (tmp_path / name).write_bytes(other)
        changed = load_grader(tmp_path / "model.onnx")
        assert {*changed.files} == {file for file in grader.files if file.name != name}
        (note,) = [note for note in changed.notes if note not in said]
        assert note.startswith(f"Not certified: {name} beside the model")
        assert changed.tensor_digest == grader.tensor_digest  # it gives the same answers here


def test_programs_beside_a_foreign_model_are_not_certified(tmp_path: Path, drgate: Callable[..., Ended]):
    """Nobody ran them: page one names them, the certificate does not, and with them beside it nothing is verified."""
    tiny.write_eyes(tmp_path / "data", train=0, val=0, test=4)
    path = foreign.write(tmp_path / "model")
    for name in WRITTEN:
        (path.parent / name).write_text("anything")
    found = judged(
        path,
        checklist=load_checklist("smoke"),
        data=tmp_path / "data",
        looks=tmp_path / "looks",
        out=tmp_path / "r",
        workers=0,
    )
    assert {file.name for file in found.evaluation.model.files} == {"model.onnx", "model.yaml"}
    (said,) = [line for line in found.evaluation.page_one if line.startswith("Not certified: ")]
    assert all(name in said for name in WRITTEN)
    ended = drgate("verify", found.folder / "statement.json", "--model", path.parent)
    assert ended.code == 2
    assert all(f"{name} decides the answers" in " ".join(ended.out.split()) for name in WRITTEN)
    for name in WRITTEN:
        (path.parent / name).unlink()
    assert drgate("verify", found.folder / "statement.json", "--model", path.parent).code != 2


def fundus_square_2(path: Path, size: int) -> NDArray[np.uint8]:
    """Written from the words at the top of preprocessing.py alone."""

    def averaged(pixels: NDArray[Any], across: int, down: int) -> NDArray[np.uint8]:
        height, width = pixels.shape[:2]
        found = np.empty((-(-height // down), -(-width // across), 3), np.uint8)
        for row in range(len(found)):
            for column in range(found.shape[1]):
                block = pixels[row * down : (row + 1) * down, column * across : (column + 1) * across].reshape(-1, 3)
                n = len(block)
                found[row, column] = (block.astype(object).sum(0) + n // 2) * (2**24 // n) // 2**24
        return found

    with Image.open(path) as image:
        if image.format == "JPEG":
            part = max(k for k in (1, 2, 4, 8) if min(image.size) >= 2 * k * size or k == 1)
            image.draft("RGB", (-(-image.width // part), -(-image.height // part)))
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    height, width = pixels.shape[:2]
    step = max(1, max(width, height) // 256)
    brightness = averaged(pixels, step, step).max(axis=2)
    lit = brightness > max(8, 0.12 * np.quantile(brightness, 0.9))
    ends = []
    for axis, length in ((0, width), (1, height)):
        counts = np.flatnonzero(lit.mean(axis=axis) >= 0.04)
        few = len(counts) < lit.shape[1 - axis] / 8
        ends.append((0, length) if few else (counts[0] * step, min((counts[-1] + 1) * step, length)))
    (left, right), (top, bottom) = ends
    pixels = pixels[top:bottom, left:right]
    height, width = pixels.shape[:2]
    longer = max(width, height)
    new = [max(1, int(np.floor(size * side / longer + 0.5))) for side in (width, height)]
    columns, rows = (max(1, int(side / to / 1.2)) for side, to in zip((width, height), new, strict=True))
    if columns > 1 or rows > 1:
        pixels = averaged(pixels, columns, rows)
    box = (0, 0, width / columns, height / rows)
    resized = Image.fromarray(pixels).resize((new[0], new[1]), Image.Resampling.BICUBIC, box)
    canvas = Image.new("RGB", (size, size))
    canvas.paste(resized, ((size - new[0]) // 2, (size - new[1]) // 2))
    return np.asarray(canvas)


def test_somebody_elses_program_checks_itself_by_the_vectors(tmp_path: Path):
    """A preprocessing written from its words alone comes to the stated pixels, and a bare session to the outputs."""
    import onnxruntime

    write_vectors(tmp_path, a_bundle(tmp_path, way="fundus-square-2@64"))
    data = (tmp_path / "vectors" / "vectors.json").read_bytes()
    vectors = json.loads(data)["vectors"]
    assert is_vectors(data)
    assert [one["image"] for one in vectors] == ["large.jpg", "small.png", "turned.jpg"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for one in vectors:
        pixels = fundus_square_2(tmp_path / "vectors" / one["image"], 64)
        assert (list(pixels.shape), pixels.dtype.name) == (one["shape"], one["dtype"])
        assert one["pixels"] == f"sha256:{hashlib.sha256(pixels.tobytes()).hexdigest()}", one["image"]
        given = (pixels.astype(np.float32) * np.float32(2 / 255) - 1).transpose(2, 0, 1)[None]
        assert session.run(None, {"pixel_values": given})[0][0] == pytest.approx(one["outputs"], abs=1e-4)
    assert len({one["pixels"] for one in vectors}) == 3


def test_the_photographs_are_those_of_the_generator():
    """None is of a patient."""
    drawn = {"small.png": (0, 0, "R", 400), "turned.jpg": (1, 2, "L", 1000), "large.jpg": (2, 4, "R", 2000)}
    for name, (index, grade, eye, size) in drawn.items():
        made = render(draw_patient("demo", seed=1, index=index, worse_grade=grade), eye, size=size).image
        difference = np.abs(np.asarray(made, float) - np.asarray(read_image(PHOTOGRAPHS / name), float))
        assert difference.mean() < (1e-9 if name.endswith("png") else 3), name


def test_sums_are_checked_by_sha256sum(tmp_path: Path):
    """Every file of a bundle, below it too; one other byte, or a file that is gone, is found."""
    grader = a_bundle(tmp_path, quality=RULE)
    write_vectors(tmp_path, grader)
    (tmp_path / "a b").write_text("a")
    write_sums(tmp_path)
    assert is_sums((tmp_path / "SHA256SUMS").read_bytes())

    def checked() -> tuple[int, int]:
        words = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
        found = subprocess.run(words, cwd=tmp_path, capture_output=True, check=False)
        return found.returncode, found.stdout.count(b": OK")

    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert checked() == (0, len(files) - 1)
    for name in ("infer.py", "vectors/small.png", "model.onnx"):
        shutil.copy(tmp_path / name, tmp_path.with_suffix(".kept"))
        with (tmp_path / name).open("ab") as file:
            file.write(b"\0")
        assert checked() == (1, len(files) - 2)
        shutil.move(tmp_path.with_suffix(".kept"), tmp_path / name)
    (tmp_path / "infer.py").unlink()
    assert checked()[0] == 1
