"""Exports in other precisions: each is judged on its own, paired with its model's answers, refused where it lost."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from drgate import export as export_module
from drgate import judge as judging
from drgate.calibration import IMAGES, Calibrating, calibration
from drgate.certificate.keys import generate_key, load_private_key
from drgate.certificate.statement import make_statement, parse_statement
from drgate.checklist import parse_yaml
from drgate.compare import changes_between
from drgate.errors import CheckpointError, ManifestError, PredictionsError, UsageError
from drgate.evaluation import Estimate, Evaluation, Flip, TestSet
from drgate.judge import Judgement
from drgate.manifest import load_manifest
from drgate.predictions import Predictions, make_predictions, published
from drgate.preprocessing import parse_preprocessing, read_preprocessing
from drgate.report.evaluation import terminal
from drgate.report.words import exported as exported_words
from drgate.vision.checkpoint import save_checkpoint
from drgate.vision.graders import load_grader
from drgate.vision.images import read_image
from drgate.vision.precisions import write_precision
from tests.support import foreign, tiny
from tests.support.material import Ended
from tests.support.verbs import exported, judged, verified

SPEC = b"""
name: lenient
version: 1
looks: 9
bootstrap: {resamples: 1000}
criteria:
  - {id: "sensitivity:referable", at_least: 0.7}
  - {id: "specificity:referable", at_least: 0.6}
"""
CHECKLIST = parse_yaml(SPEC, "spec.yaml")


def fitted(base: Any, data: Path) -> Any:
    """A network of the real architecture whose head was fitted on the training photographs."""
    model = tiny.random_model(base)
    images = load_manifest(data).select("train")
    recipe = tiny.checkpoint_of(model, base).preprocessing
    pixels = torch.from_numpy(np.stack([recipe(read_image(images.path(one))) for one in images.table["image"]]))
    head = next(part for part in reversed([*model.modules()]) if isinstance(part, torch.nn.Linear))
    seen: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _, given, __: seen.append(given[0].detach()))
    with torch.inference_mode():
        model(pixels)
    hook.remove()
    truth = torch.tensor(images.table["grade"].to_numpy(dtype=np.int64))
    features = seen[0].clone()
    layer = torch.nn.Linear(features.shape[1], 5)
    fitting = torch.optim.LBFGS(layer.parameters(), max_iter=400, line_search_fn="strong_wolfe")
    scale = features.std(0)

    def loss() -> torch.Tensor:
        fitting.zero_grad()
        found = torch.nn.functional.cross_entropy(layer((features - features.mean(0)) / scale), truth)
        found.backward()
        return found

    fitting.step(loss)
    with torch.no_grad():
        weight = layer.weight / scale
        head.weight.copy_(weight)
        head.bias.copy_(layer.bias - weight @ features.mean(0))
    return model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, model.pth, key.pem, spec.yaml, and report/: the model passes."""
    folder = tmp_path_factory.mktemp("variants")
    data = tiny.write_eyes(folder / "data", train=8, val=2, test=8)
    base = tiny.tiny_base(folder / "base")
    save_checkpoint(folder / "model.pth", tiny.checkpoint_of(fitted(base, data), base))
    (folder / "spec.yaml").write_bytes(SPEC)
    generate_key(folder / "key", None)
    return folder


@pytest.fixture(scope="module")
def certified(place: Path) -> Judgement:
    found = judged(place / "model.pth", out=place / "report", **asked(place, key=load_private_key(place / "key.pem")))
    assert found.evaluation.verdict == "PASS", [one.reason for one in found.evaluation.criteria]
    return found


def asked(place: Path, **more: Any) -> dict[str, Any]:
    return {"data": place / "data", "checklist": CHECKLIST, "looks": place / "looks.jsonl", "workers": 0, **more}


def variant(place: Path, out: Path, precision: str, **more: Any) -> Any:
    key = load_private_key(place / "key.pem")
    given = {"certificate": place / "report" / "certificate.json", "key": key, "trusted": [key.public]}
    if precision == "int8":
        given["calibrated_on"] = Calibrating(place / "data")
    model = more.pop("model", place / "model.pth")
    return exported(model, out=out, precision=precision, **given | asked(place) | more)


@pytest.fixture(scope="module")
def bundles(place: Path, certified: Judgement) -> dict[str, Any]:
    return {name: variant(place, place / f"bundle-{name}", name) for name in ("fp32", "fp16", "int8")}


def brute_force(before: Path, after: Path) -> tuple[Counter[tuple[int, int]], float, float]:
    """Flips, the largest change of a probability and the difference in accuracy, from two published tables."""
    one, two = (pd.read_parquet(folder / "predictions.parquet") for folder in (before, after))
    both = one.merge(two, on="image", suffixes=("", "_now"))
    assert len(both) == len(one) == len(two)
    flips = Counter(
        (int(row.predicted), int(row.predicted_now)) for row in both.itertuples() if row.predicted != row.predicted_now
    )
    largest = max(float((both[f"p_{k}"] - both[f"p_{k}_now"]).abs().max()) for k in range(5))
    accuracy = float((both["predicted_now"] == both["grade"]).mean() - (both["predicted"] == both["grade"]).mean())
    return flips, largest, accuracy


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_each_precision_is_a_bundle_that_was_judged(precision: str, place: Path, bundles: dict[str, Any]):
    """The certificate is of the file in that precision, and says what the rounding changed, as both tables show it."""
    found = bundles[precision]
    evaluation = found.judgement.evaluation
    assert (found.exported, evaluation.verdict) == (True, "PASS")
    assert "An export takes no look of its own: how often it was tried is not counted." in evaluation.page_one
    assert (found.folder / "audit.json").read_bytes() == (place / "report" / "audit.json").read_bytes()
    changes = evaluation.model.parent.changes
    flips, largest, accuracy = brute_force(place / "report", found.folder)
    assert {(one.before, one.after): one.images for one in changes.flips} == flips
    assert (changes.images, changes.lost) == (40, 0)
    assert changes.largest == pytest.approx(largest, abs=1e-12)
    assert isinstance(changes.difference, Estimate)
    assert changes.difference.value == pytest.approx(accuracy, abs=1e-12)
    assert changes.difference.low is not None
    assert changes.shown == (changes.difference.low > -changes.margin)
    assert (largest < 1e-5) == (precision == "fp32")
    types = {tensor.data_type for tensor in onnx.load(found.folder / "model.onnx").graph.initializer}
    assert (TensorProto.FLOAT16 in types, TensorProto.INT8 in types) == (precision == "fp16", precision == "int8")
    card = (found.folder / "README.md").read_text()
    assert f"How it was scored: CPUExecutionProvider; {precision}; " in card
    assert "Of 40 images, " in card
    assert (changes.calibration is None) == (precision != "int8")
    assert (found.seconds is None) == (precision == "fp32")
    for page in ("report.md", "report.html"):
        assert "What the export changed" in (found.folder / page).read_text()


def test_smaller_precisions_are_smaller(bundles: dict[str, Any]):
    """fp16 has half the bytes of the weights, int8 fewer."""
    size = {
        name: sum(file.stat().st_size for file in found.folder.glob("model.onnx*")) for name, found in bundles.items()
    }
    assert size["fp16"] < 0.7 * size["fp32"]
    assert size["int8"] < size["fp32"]


def test_two_exports_are_the_same_bytes(place: Path, bundles: dict[str, Any], tmp_path: Path):
    """From another folder, with the model and the data in another folder: no path and no moment is in any of them."""
    for name in ("data", "report", "base"):
        shutil.copytree(place / name, tmp_path / name)
    for name in ("model.pth", "key.pem", "looks.jsonl"):
        shutil.copy(place / name, tmp_path / name)
    again = variant(tmp_path, tmp_path / "bundle", "int8", base=str(tmp_path / "base"))
    for name in ("SHA256SUMS", "certificate.json", "README.md"):
        assert (again.folder / name).read_bytes() == (bundles["int8"].folder / name).read_bytes()
    for name in ("whole", "half"):
        (tmp_path / name).mkdir()
    grader: Any = load_grader(tmp_path / "model.pth")
    export_module.write_onnx(grader.network(), tiny.SIZE, tmp_path / "whole" / "model.onnx")
    write_precision(tmp_path / "whole" / "model.onnx", "fp16", tmp_path / "half")
    for precision, folder in (("fp32", tmp_path / "whole"), ("fp16", tmp_path / "half"), ("int8", again.folder)):
        files = sorted(bundles[precision].folder.glob("model.onnx*"))
        assert [file.name for file in files] == ["model.onnx", "model.onnx.data"]
        for file in files:
            assert file.read_bytes() == (folder / file.name).read_bytes()
            assert str(place).encode() not in file.read_bytes()
        model = onnx.load(folder / "model.onnx")
        assert not [one for one in (model.producer_name, model.doc_string, *model.metadata_props) if one]
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
        assert {one.version for one in model.opset_import if not one.domain} == {20}


def test_one_command_per_precision(
    place: Path, certified: Judgement, tmp_path: Path, drgate: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
):
    """The terminal says what changed, and that the file is slower here; no file depends on the clock."""
    took = {"fp32": 1.0, "bundle": 2.5}
    monkeypatch.setattr(export_module, "seconds", lambda model, *_: took[model.parent.name])
    common = (
        "--certificate",
        place / "report",
        "--data",
        place / "data",
        "--spec",
        place / "spec.yaml",
        "--workers",
        0,
    )
    words = ("--key", place / "key.pem", "--precision", "fp16", "--out", tmp_path / "bundle")
    ended = drgate("export", place / "model.pth", *common, *words)
    assert ended.code == 0, ended.err
    assert "What the export changed\n- Of 40 images, " in ended.out
    assert "On this machine, fp16 took 2.5 times as long as fp32." in ended.err
    written = [file.read_bytes() for file in (tmp_path / "bundle").iterdir() if file.is_file()]
    assert not any(b"2.5 times" in content for content in written)
    verify = (
        "verify",
        tmp_path / "bundle" / "certificate.json",
        "--key",
        place / "key.pub",
        "--parent",
        place / "report",
    )
    assert "What the export changed was recomputed" in drgate(*verify).out


def answers(p: list[float | None], **more: Any) -> Predictions:
    """A model that says only how likely a photograph is to be referred."""
    rows = {"image": [f"{k}.png" for k in range(len(p))], "grade": [0, 1, 2, 3, 4, 0], "p_referable": p, **more}
    rows["sha256"] = [f"{k:064x}" for k in range(len(p))]
    return published(make_predictions(pd.DataFrame(rows), "answers", {}))


def test_changes_of_a_model_that_only_refers():
    """An image that lost its answer is counted apart; the difference is in the share that is rightly referred."""
    before = answers([0.1, 0.2, 0.9, 0.9, 0.8, 0.4], patient=[*"abcdef"])
    after = answers([0.1, 0.6, 0.9, 0.3, None, 0.45], patient=[*"abcdef"])
    found = changes_between(before, CHECKLIST, after, TestSet("it"))
    assert (found.images, found.lost) == (5, 1)
    assert found.flips == (Flip(0, 2, 1), Flip(2, 0, 1))
    assert found.largest == pytest.approx(0.6)
    assert isinstance(found.difference, Estimate)
    assert found.difference.value == pytest.approx(3 / 6 - 6 / 6)
    assert found.shown is False
    with pytest.raises(PredictionsError, match="other images"):
        changes_between(before, CHECKLIST, replace(after, table=after.table.iloc[1:]), TestSet("it"))


class TestVerify:
    """`drgate verify` recomputes what the export changed, from both tables, and says where it cannot."""

    def test_with_the_parents_folder(self, place: Path, bundles: dict[str, Any]):
        found = verified(bundles["int8"].folder / "certificate.json", parent=place / "report" / "certificate.json")
        assert not found.problems
        assert any("What the export changed was recomputed" in line for line in found.checked)

    def test_without_the_parents_table(self, place: Path, bundles: dict[str, Any], tmp_path: Path):
        bundle = bundles["int8"].folder / "certificate.json"
        assert any("what the export changed was not compared" in line for line in verified(bundle).unchecked)
        shutil.copy(place / "report" / "certificate.json", tmp_path)
        found = verified(bundle, parent=tmp_path / "certificate.json")
        assert any("What the export changed was not recomputed" in line for line in found.unchecked)
        assert not found.problems

    def test_a_claim_of_fewer_flips_is_found_out(self, place: Path, bundles: dict[str, Any], tmp_path: Path):
        """A statement that says otherwise than the two tables contradicts them."""
        folder = Path(shutil.copytree(bundles["int8"].folder, tmp_path / "bundle"))
        plain = json.loads((folder / "evaluation.json").read_text())
        plain["model"]["parent"]["changes"]["largest"] = 0.0
        (folder / "certificate.json").unlink()
        forged = make_statement(Evaluation.from_json(plain))
        (folder / "statement.json").write_bytes(forged.data)
        assert parse_statement(forged.data, "it").evaluation.model.parent
        found = verified(folder / "statement.json", parent=place / "report" / "certificate.json")
        assert any("changes.largest" in line for line in found.problems)
        assert found.exit_code == 2

    @pytest.mark.parametrize(
        ("edit", "found", "said"),
        [
            ({"margin": 0.5, "shown": True}, "problems", "changes.margin is 0.02, not 0.5"),
            (None, "unchecked", "It does not say what the export changed"),
        ],
    )
    def test_a_wider_margin_and_no_word_at_all(
        self, edit: Any, found: str, said: str, place: Path, bundles: dict[str, Any], tmp_path: Path
    ):
        """By a margin of 50 points everything is no worse; and silence does not say that nothing changed."""
        folder = Path(shutil.copytree(bundles["int8"].folder, tmp_path / "bundle"))
        plain = json.loads((folder / "evaluation.json").read_text())
        if edit is None:
            del plain["model"]["parent"]["changes"]
        else:
            plain["model"]["parent"]["changes"] |= edit
        (folder / "certificate.json").unlink()
        (folder / "statement.json").write_bytes(make_statement(Evaluation.from_json(plain)).data)
        result = verified(folder / "statement.json", parent=place / "report" / "certificate.json")
        assert any(said in line for line in getattr(result, found)), result

    def test_another_table_beside_the_parent(self, place: Path, bundles: dict[str, Any], tmp_path: Path):
        """It is there, so nobody is told to look for it."""
        report = Path(shutil.copytree(place / "report", tmp_path / "report"))
        shutil.copy(bundles["int8"].folder / "predictions.parquet", report)
        result = verified(bundles["int8"].folder / "certificate.json", parent=report / "certificate.json")
        assert not result.problems
        assert any(f"{report / 'predictions.parquet'} does not hold those of" in line for line in result.unchecked)

    def test_a_parent_that_did_not_pass(self, bundles: dict[str, Any], tmp_path: Path):
        """Only what passed is exported, so a certificate that says otherwise is not drgate's."""
        folder = Path(shutil.copytree(bundles["int8"].folder, tmp_path / "bundle"))
        plain = json.loads((folder / "evaluation.json").read_text())
        plain["model"]["parent"]["verdict"] = "FAIL"
        (folder / "certificate.json").unlink()
        (folder / "statement.json").write_bytes(make_statement(Evaluation.from_json(plain)).data)
        result = verified(folder / "statement.json")
        assert (result.exit_code, result.problems) == (
            2,
            ("It was exported from model.pth, which did not pass (FAIL).",),
        )


@pytest.mark.parametrize(
    ("scale", "said", "direction"),
    [
        ("grades", "3 have another grade than", ("2 more severe, 1 milder.", "Accuracy changes by")),
        (
            "referable",
            "3 have another answer than",
            ("2 now referred, 1 no longer referred.", "The share that is rightly"),
        ),
    ],
)
def test_the_direction_of_a_flip_is_no_judgement(
    scale: Any, said: str, direction: tuple[str, str], bundles: dict[str, Any]
):
    """A more severe grade can be the right one, so neither direction is called better or worse."""
    evaluation = bundles["int8"].judgement.evaluation
    changes = replace(evaluation.model.parent.changes, flips=(Flip(0, 2, 2), Flip(2, 0, 1)))
    parent = replace(evaluation.model.parent, changes=changes)
    counts = replace(evaluation.counts, answer_scale=scale)
    found = " ".join(exported_words(replace(evaluation, model=replace(evaluation.model, parent=parent), counts=counts)))
    for one in (said, *direction, "copies that were saved again are not noticed"):
        assert one in found


class TestBroken:
    """A variant that lost a criterion stays out, and its report says which one."""

    @pytest.fixture
    def lost(self, place: Path, certified: Judgement, tmp_path: Path) -> Callable[[str], str]:
        def run(precision: str) -> str:
            found = variant(place, tmp_path / "bundle", precision)
            assert (found.exported, found.folder) == (False, tmp_path / "bundle.refused")
            assert not (tmp_path / "bundle").exists()
            assert found.judgement.evaluation.verdict == "FAIL"
            report = (found.folder / "report.md").read_text()
            assert (found.folder / "report.html").read_text().count("Lost in the export: ") == 1
            console = Console(record=True, width=200, file=StringIO())
            terminal.render(found.judgement.evaluation, console)
            assert "Lost in the export: " in console.export_text()
            return report.split("Lost in the export: ")[1].splitlines()[0]

        return run

    def test_weights_of_two_bits(self, lost: Callable[[str], str], monkeypatch: pytest.MonkeyPatch):
        def two_bits(model: Path, precision: str, folder: Path, *_: Any, **__: Any) -> None:
            whole = onnx.load(model)
            for tensor in whole.graph.initializer:
                if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
                    values = numpy_helper.to_array(tensor)
                    step = np.abs(values).max() / 1.5
                    rounded = (np.clip(np.round(values / step - 0.5), -2, 1) + 0.5) * step
                    tensor.CopyFrom(numpy_helper.from_array(rounded.astype(np.float32), tensor.name))
            onnx.save(whole, folder / "model.onnx")

        monkeypatch.setattr(export_module, "write_precision", two_bits)
        named = lost("int8")
        assert "ensitivity" in named or "pecificity" in named
        assert "model.pth met this" in named

    def test_normalisation_left_out(self, lost: Callable[[str], str], monkeypatch: pytest.MonkeyPatch):
        written = export_module._write_companions

        def without(folder: Path, grader: Any, recipe: Any, *rest: Any, **named: Any) -> None:
            other = read_preprocessing({**recipe.content(), "scale": {"range": [0, 255]}}, "it")
            written(folder, grader, other, *rest, **named)

        monkeypatch.setattr(export_module, "_write_companions", without)
        assert "ensitivity" in (named := lost("fp16")) or "pecificity" in named

    def test_numbers_that_are_not_finite(
        self, place: Path, certified: Judgement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Such a file is not even judged."""

        def overflow(model: Path, precision: str, folder: Path, *_: Any, **__: Any) -> None:
            whole = onnx.load(model)
            for tensor in whole.graph.initializer:
                if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
                    values = np.full_like(numpy_helper.to_array(tensor), 3e38)
                    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            onnx.save(whole, folder / "model.onnx")

        monkeypatch.setattr(export_module, "write_precision", overflow)
        with pytest.raises(CheckpointError, match="not finite"):
            variant(place, tmp_path / "bundle", "fp16")
        assert not [*tmp_path.glob("bundle*")]


class TestCalibration:
    """int8 sees no photograph, and no named patient, that it is judged on."""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--precision", "int8"], "give them with --calibration"),
            (["--precision", "fp16", "--calibration", "{data}"], "belongs to --precision int8"),
            (["--precision", "int8", "--calibration", "{data}:test"], "calibration may not see it"),
            (["--precision", "int8", "--calibration", "{data}:tets"], "is no split"),
            (["--precision", "int8", "--calibration", "{data}/none"], "none"),
        ],
    )
    def test_what_is_refused_at_once(
        self,
        options: list[str],
        words: str,
        place: Path,
        certified: Judgement,
        tmp_path: Path,
        drgate: Callable[..., Ended],
    ):
        asked = [option.format(data=place / "data") for option in options]
        common = ("--certificate", place / "report", "--data", place / "data", "--spec", place / "spec.yaml")
        key = ("--key", place / "key.pem")
        ended = drgate("export", place / "model.pth", *common, *key, *asked, "--out", tmp_path / "bundle")
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended
        assert words in ended.err
        assert not [*tmp_path.glob("bundle*")]

    def test_the_split_that_is_judged(self):
        """Whatever it is called."""
        with pytest.raises(UsageError, match="calibration may not see it"):
            Calibrating.of("data:val", "val")
        assert Calibrating.of("data:val", "test") == Calibrating(Path("data"), "val")
        assert Calibrating.of("gs://bucket/data", "test").split is None
        assert Calibrating.of("gs://bucket/data:train", "test").split == "train"
        assert Calibrating.of(r"C:\data\eyes", "test") == Calibrating(Path(r"C:\data\eyes"))

    @pytest.mark.parametrize("what", ["image", "patient", "PATIENT"])
    def test_one_of_the_test_set(self, what: str, place: Path, tmp_path: Path):
        """Under another name, in another set, in another split: the same bytes, or another photograph of a patient,
        also where the two lists spell the patient in two ways."""
        test_set = load_manifest(place / "data").select("test")
        recipe = read_preprocessing(tiny.recipe(), "it")
        (tmp_path / "images").mkdir()
        lines = ["image,grade,patient,split"]
        for number in range(150):  # more than are used
            tiny.eye(number % 5, 1000 + number).save(tmp_path / "images" / f"{number}.png")
            lines.append(f"images/{number}.png,{number % 5},new-{number},train")
        labels = tmp_path / "labels.csv"
        labels.write_text("\n".join(lines) + "\n")
        found = calibration(Calibrating(tmp_path), test_set, recipe)
        assert (len(found.pixels), found.record.images) == (IMAGES, IMAGES)
        owner = test_set.table["patient"].iloc[0]
        if what == "image":
            shutil.copy(test_set.path(str(test_set.table["image"].iloc[0])), tmp_path / "images" / "7.png")
        else:
            lines[8] = lines[8].replace(
                "new-7", str(owner) if what == "patient" else f"{owner} ".upper().replace("-", "_")
            )
        labels.write_text("\n".join(lines) + "\n")
        with pytest.raises(ManifestError, match=f"holds 1 {what.lower()} of the test set"):
            calibration(Calibrating(tmp_path), test_set, recipe)

    def test_a_split_without_images(self, place: Path, tmp_path: Path):
        test_set = load_manifest(place / "data").select("test")
        recipe = read_preprocessing(tiny.recipe(), "it")
        data = tiny.write_eyes(tmp_path / "other", train=0, val=1, test=0)
        with pytest.raises(ManifestError, match=r"has no images in the split train; name another, such as .*:val"):
            calibration(Calibrating(data), test_set, recipe)
        with pytest.raises(ManifestError, match=r"has no images in the split val; name another, such as .*:train"):
            calibration(
                Calibrating(tiny.write_eyes(tmp_path / "more", train=1, val=0, test=0), "val"), test_set, recipe
            )


def test_another_test_set_is_refused_before_scoring(
    place: Path, certified: Judgement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Scoring can take hours."""
    monkeypatch.setattr(judging, "score", lambda *_, **__: pytest.fail("scored"))
    for asked in ({"split": "val"}, {"data": tiny.write_eyes(tmp_path / "other", train=1, val=1, test=8)}):
        with pytest.raises(UsageError, match=r"on another test set.*--data, and its --split"):
            variant(place, tmp_path / "bundle", "fp32", **asked)


def test_the_parents_table_is_needed(place: Path, certified: Judgement, tmp_path: Path):
    """Without it nothing could say what the rounding changed; fp32 is exported all the same."""
    for name in ("certificate.json", "audit.json"):
        shutil.copy(place / "report" / name, tmp_path / name)
    with pytest.raises(UsageError, match="give --certificate as the folder of the evaluation"):
        variant(place, tmp_path / "bundle", "fp16", certificate=tmp_path / "certificate.json")
    table = pd.read_parquet(place / "report" / "predictions.parquet")
    table.assign(predicted=0).to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(UsageError, match="give --certificate as the folder of the evaluation"):
        variant(place, tmp_path / "bundle", "fp16", certificate=tmp_path / "certificate.json")
    found = variant(place, tmp_path / "bundle", "fp32", certificate=tmp_path / "certificate.json")
    assert found.exported
    assert found.judgement.evaluation.model.parent.changes is None
    assert "What the export changed" not in (found.folder / "report.md").read_text()


def network(data: Path) -> Any:
    """A network of three layers without names of nodes: two convolutions, and scores by the mean of green."""
    images, recipe = load_manifest(data).select("train"), parse_preprocessing(foreign.STRETCHED)
    green = np.array([recipe(read_image(images.path(one)))[1].mean() for one in images.table["image"]])
    means = np.array([green[images.table["grade"] == grade].mean() for grade in range(5)])
    same = np.eye(3, dtype=np.float32)[:, :, None, None]
    steps = np.arange(5, dtype=np.float32)
    weight = np.zeros((3, 5), np.float32)
    weight[1] = -20 * steps
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["a"]),
        helper.make_node("Conv", ["a", "second"], ["b"]),
        helper.make_node("ReduceMean", ["b"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["scores"]),
        helper.make_node("Add", ["scores", "bias"], ["answer"]),
    ]
    shape = ["n", 3, tiny.SIZE, tiny.SIZE]
    # A line in green for each grade: where two of them cross, one grade ends.
    bias = np.concatenate([[0], np.cumsum(20 * (means[1:] + means[:-1]) / 2)]).astype(np.float32)
    tensors = {"first": same, "second": same, "weight": weight, "bias": bias}
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


class TestForeign:
    """An ONNX file of other people is exported in another precision if it is in fp32."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, place: Path, certified: Judgement) -> Path:
        path = foreign.write(place / "foreign", network(place / "data"))
        key = load_private_key(place / "key.pem")
        found = judged(path, out=place / "foreign-report", **asked(place, key=key))
        assert found.evaluation.verdict == "PASS", found.evaluation.confusion_matrix
        return path

    @pytest.mark.parametrize("precision", ["fp16", "int8"])
    def test_in_fp32(self, precision: str, place: Path, model: Path, tmp_path: Path):
        report = place / "foreign-report"
        given = {"model": model, "certificate": report / "certificate.json"}
        found = variant(place, tmp_path / "bundle", precision, **given)
        assert found.exported
        changes = found.judgement.evaluation.model.parent.changes
        flips, largest, _ = brute_force(report, found.folder)
        assert {(one.before, one.after): one.images for one in changes.flips} == flips
        assert changes.largest == pytest.approx(largest, abs=1e-12)
        described = json.loads((found.folder / "model.yaml").read_text())
        assert (described["input"], described["output"]["name"]) == ("image", "answer")

    def test_already_rounded(self, place: Path, model: Path, tmp_path: Path):
        """Rounded twice, it would be another model than the certified one."""
        for precision in ("fp16", "int8"):
            (folder := tmp_path / precision).mkdir()
            images = np.random.default_rng(0).uniform(-1, 1, (4, 3, tiny.SIZE, tiny.SIZE)).astype(np.float32)
            shutil.copy(model, folder / "whole.onnx")
            write_precision(folder / "whole.onnx", precision, folder, images, input="image")  # type: ignore[arg-type]
            shutil.copy(model.with_name("model.yaml"), folder)
            (folder / "whole.onnx").unlink()
            (folder / "named.onnx").unlink(missing_ok=True)
            key = load_private_key(place / "key.pem")
            report = tmp_path / f"report-{precision}"
            judged(folder / "model.onnx", out=report, **asked(place, key=key))
            given = {"model": folder / "model.onnx", "certificate": report / "certificate.json"}
            for other in ("fp16", "int8"):
                with pytest.raises(CheckpointError, match="already computes with"):
                    variant(place, tmp_path / "bundle", other, **given)
            assert variant(place, tmp_path / f"bundle-{precision}", "fp32", **given).exported

    def test_one_layer_alone(self, place: Path, tmp_path: Path):
        """The first and the last layer stay in float, so there is nothing to make smaller."""
        path = foreign.write(tmp_path)
        images = np.zeros((2, 3, tiny.SIZE, tiny.SIZE), np.float32)
        (out := tmp_path / "out").mkdir()
        with pytest.raises(CheckpointError, match="no layer between"):
            write_precision(path, "int8", out, images, input="image")
