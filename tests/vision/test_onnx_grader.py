"""Foreign ONNX files: what they answer is stated beside them, and what the graph shows may not contradict it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from drgate.errors import CheckpointError, UsageError
from drgate.manifest import load_manifest
from drgate.models import find_model
from drgate.preprocessing import parse_preprocessing
from drgate.scale import GRADES
from drgate.score import score
from drgate.vision import onnx_files
from drgate.vision.graders import load_grader, stated_by
from tests.support import foreign, tiny
from tests.support.foreign import BIAS, SIZE, WEIGHT, baked, network, node, write

IMAGES = np.random.default_rng(0).uniform(-1, 1, (9, 3, SIZE, SIZE)).astype(np.float32)


def by_hand(images: NDArray[Any] = IMAGES) -> NDArray[np.float64]:
    """What `network` answers for images (n, 3, size, size)."""
    return np.asarray(images.astype(np.float64).mean(axis=(2, 3)) @ WEIGHT + BIAS)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_eyes(tmp_path_factory.mktemp("eyes") / "data", train=0, val=0, test=3)


def scored(path: Path, eyes: Path) -> Any:
    return score(load_grader(path), load_manifest(eyes).select("test"), workers=0)


class TestDescribed:
    def test_what_it_answers_is_what_the_graph_computes(self, tmp_path: Path):
        """Logits of the network, and each file that decides them is one of the model's, with its role."""
        grader = load_grader(write(tmp_path))
        np.testing.assert_allclose(grader.outputs(IMAGES), by_hand(), atol=1e-5)
        assert [(file.name, file.role) for file in grader.files] == [("model.onnx", "model"), ("model.yaml", "config")]
        assert (grader.notes, grader.preprocessing.label) == ([], f"siglip@{SIZE}")
        assert stated_by(find_model(tmp_path / "model.onnx")) == grader.preprocessing

    def test_classes_in_any_order_and_in_its_own_words(self, tmp_path: Path, eyes: Path):
        """Folders sorted by name: Mild, Moderate, No_DR, Proliferate_DR, Severe; the columns are in order of grades."""
        own = ["Mild", "Moderate", "No_DR", "Proliferate_DR", "Severe"]
        grades = [1, 2, 0, 4, 3]
        plain = scored(write(tmp_path / "plain"), eyes)
        shuffled = write(tmp_path / "own", network(WEIGHT[:, grades], BIAS[grades]), classes=own)
        found = scored(shuffled, eyes)
        np.testing.assert_allclose(found.probabilities(), plain.probabilities(), atol=1e-6)
        assert found.provenance["model"]["own_names"] == own
        (shuffled.parent / "model.yaml").unlink()
        (shuffled.parent / "labels.json").write_text(json.dumps(own))
        tests = load_manifest(eyes).select("test")
        again = score(load_grader(shuffled, preprocess=parse_preprocessing(foreign.STRETCHED)), tests, workers=0)
        assert np.array_equal(again.probabilities(), found.probabilities())

    @pytest.mark.parametrize(
        ("kind", "shape"),
        [
            ("referable_logit", ["n", 1]),
            ("referable_logit", ["n"]),
            ("referable_probability", ["n", 1]),
            ("regression", ["n", 1]),
            ("regression", ["n"]),
        ],
    )
    def test_one_number(self, kind: str, shape: list[str], tmp_path: Path, eyes: Path):
        """As (n, 1) or as (n,): p_referable is the logit's sigmoid or the probability, severity is the score itself."""
        end = [node("Sigmoid", to="one")] if kind == "referable_probability" else [node("Identity", to="one")]
        axes = numpy_helper.from_array(np.array([1]), "axes")
        end += [node("Squeeze", "one", "axes") if len(shape) == 1 else node("Identity", "one")]
        model = network(WEIGHT[:, :1], BIAS[:1], end=end, tensors=[axes], gives=shape)
        path = write(tmp_path, model, output={"kind": kind}, classes=None)
        outputs = load_grader(path).outputs(IMAGES)
        linear = by_hand()[:, :1]
        wanted = 1 / (1 + np.exp(-linear)) if kind == "referable_probability" else linear
        np.testing.assert_allclose(outputs, wanted, atol=1e-5)
        column = "severity" if kind == "regression" else "p_referable"
        assert scored(path, eyes).table[column].notna().all()

    def test_two_classes_say_whether_to_refer(self, tmp_path: Path, eyes: Path):
        """In either order; one softmax, of logits alone."""
        found = []
        for name, order in (("one", [0, 1]), ("other", [1, 0])):
            classes = [["not_referable", "RDR"][i] for i in order]
            model = network(WEIGHT[:, order], BIAS[order])
            found.append(scored(write(tmp_path / name, model, classes=classes), eyes).table["p_referable"].to_numpy())
        np.testing.assert_allclose(*found, atol=1e-6)

    def test_the_named_output_of_several(self, tmp_path: Path):
        model = network(more=["features"])
        with pytest.raises(CheckpointError, match=r"has 2 outputs \('features, answer'\); name the one"):
            load_grader(write(tmp_path, model))
        grader = load_grader(write(tmp_path, model, output={"kind": "logits", "name": "answer"}))
        np.testing.assert_allclose(grader.outputs(IMAGES), by_hand(), atol=1e-5)

    @pytest.mark.parametrize("beside", ["recipe.json", "preprocess.json"])
    def test_a_preprocessing_in_a_file_is_a_file_of_the_model(self, beside: str, tmp_path: Path):
        path = write(tmp_path, preprocessing=beside)
        (tmp_path / beside).write_text(json.dumps(tiny.recipe(scale={"range": [0, 1]})))
        grader = load_grader(path)
        assert grader.preprocessing.scale == {"range": [0, 1]}
        assert (beside, "preprocessing") in [(file.name, file.role) for file in grader.files]
        before = grader.tensor_digest
        (tmp_path / beside).write_text(json.dumps(tiny.recipe(scale={"range": [0, 1]})) + " ")
        assert load_grader(path).tensor_digest != before, "its digest is of every byte"

    def test_a_preprocessing_written_out(self, tmp_path: Path):
        assert (
            load_grader(write(tmp_path, preprocessing=tiny.recipe())).preprocessing.label == f"fundus-square-1@{SIZE}"
        )

    def test_pixels_last_and_other_numbers(self, tmp_path: Path):
        """Layout nhwc; float16 and float64; whole numbers from 0 to 255."""
        last = tiny.recipe(layout="nhwc")
        grader = load_grader(write(tmp_path / "last", network(nhwc=True), preprocessing=last))
        np.testing.assert_allclose(grader.outputs(np.moveaxis(IMAGES, 1, -1).copy()), by_hand(), atol=1e-5)
        for dtype, close in ((TensorProto.FLOAT16, 2e-2), (TensorProto.DOUBLE, 1e-5)):
            grader = load_grader(write(tmp_path / f"{dtype}", network(dtype=dtype)))
            np.testing.assert_allclose(grader.outputs(IMAGES), by_hand(), atol=close)
        whole = network(nhwc=True, dtype=TensorProto.UINT8)
        with pytest.raises(
            CheckpointError, match=r"takes whole numbers from 0 to 255 \(uint8\), but its preprocessing"
        ):
            load_grader(write(tmp_path / "whole", whole, preprocessing=last))
        levels = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3))
        grader = load_grader(write(tmp_path / "whole", whole, preprocessing=last | {"scale": {"range": [0, 255]}}))
        expected = by_hand(np.moveaxis(levels, -1, 1))
        np.testing.assert_allclose(grader.outputs(levels.astype(np.float32)), expected, rtol=1e-5)

    def test_nothing_beside_it_says_what_to_write(self, tmp_path: Path):
        """One sentence, with a model.yaml that fits the graph: written, and the preset chosen, it is read."""
        path = write(tmp_path)
        (tmp_path / "model.yaml").unlink()
        with pytest.raises(CheckpointError, match="does not say what its outputs are") as refused:
            load_grader(path)
        (example,) = re.findall(r"\{format.*\}", str(refused.value))
        (tmp_path / "model.yaml").write_text(example.replace("PRESET", "imagenet-stretch"))
        np.testing.assert_allclose(load_grader(path).outputs(IMAGES), by_hand(), atol=1e-5)


class TestContradictions:
    """What the graph, or another file, says otherwise is refused with both values."""

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"input": "pixel_values"}, "states the input 'pixel_values', but .*model.onnx has 'image'"),
            ({"output": {"kind": "logits", "name": "logits"}}, "states the output 'logits', but .* has 'answer'"),
            ({"classes": ["referable", "not_referable"]}, "gives 5 numbers for an image, but model.yaml .* states 2"),
            ({"output": {"kind": "regression"}, "classes": None}, "gives 5 numbers .* states 1 \\(regression\\)"),
            ({"output": {"kind": "cumulative_logits"}, "classes": None}, "gives 5 numbers for .* states 4"),
            (
                {"preprocessing": "siglip@56"},
                "takes images of 3 x 28 x 28, but .* 3 x 56 x 56; state siglip@28 in model",
            ),
            ({"preprocessing": tiny.recipe(layout="nhwc")}, "28 x 28 x 3; state one with layout: nchw in model.yaml"),
            ({"architecture": "older"}, "states the architecture older, but .* is an ONNX file"),
            ({"lora": {"alpha": 8.0}}, "states lora, which an ONNX file has no use for"),
            ({"base": "embedded"}, "states base, which an ONNX file has no use for"),
            (
                {"weights": "other.onnx"},
                "describes other.onnx, not model.onnx; put each model into a folder of its own",
            ),
            ({"preprocessing": "other.json"}, "names 'other.json', which is not beside it"),
            ({"preprocessing": "../model/p.json"}, "expected the bare name of a file beside it"),
            ({"weights": "a/model.onnx"}, "expected the bare name of a file beside it"),
            ({"cut_offs": "..\\cuts.json"}, "expected the bare name of a file beside it"),
            ({"trust": True}, "trust is not a known key"),
            ({"output": {"kind": "softmax"}}, "output"),
            ({"classes": ["no_dr", "mild", "moderate", "severe", "grade 9"]}, "class names 'grade 9'"),
        ],
    )
    def test_of_the_description(self, changes: dict[str, Any], words: str, tmp_path: Path):
        with pytest.raises(CheckpointError, match=words) as refused:
            load_grader(write(tmp_path, **changes))
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        ("end", "kind", "width", "words"),
        [
            ("Softmax", "logits", 5, "ends in Softmax, so its outputs are not logits, .* output.kind: probabilities"),
            ("Softmax", "cumulative_logits", 4, "not cumulative_logits, .*; export it without its Softmax"),
            ("Softmax", "regression", 1, "not regression, as model.yaml .*; export it without its Softmax"),
            ("Sigmoid", "referable_logit", 1, "not referable_logit, .* output.kind: referable_probability"),
            ("Sigmoid", "cumulative_logits", 4, "not cumulative_logits, .*; export it without its Sigmoid"),
            ("Sigmoid", "logits", 5, "not logits, as model.yaml .*; export it without its Sigmoid"),
        ],
    )
    def test_of_how_the_graph_ends(self, end: str, kind: str, width: int, words: str, tmp_path: Path):
        """Also where the operator is followed by ones that only move numbers."""
        nodes = [node(end, to="soft"), node("Identity", "soft", to="same"), node("Flatten", "same")]
        model = network(WEIGHT[:, :width], BIAS[:width], end=nodes)
        classes = [*GRADES] if kind == "logits" else None
        with pytest.raises(CheckpointError, match=words):
            load_grader(write(tmp_path, model, output={"kind": kind}, classes=classes))

    def test_of_what_is_read_from_the_values(self, tmp_path: Path, eyes: Path):
        """A softmax that the graph's end does not show, stated as logits; and logits stated as probabilities."""
        soft = [
            node("Exp", to="powers"),
            node("ReduceSum", "powers", "axes", to="sum", keepdims=1),
            node("Div", "powers", "sum"),
        ]
        model = network(end=soft, tensors=[numpy_helper.from_array(np.array([1]), "axes")])
        with pytest.raises(CheckpointError, match="stated to be logits, but are probabilities in all 15 images"):
            scored(write(tmp_path / "soft", model), eyes)
        with pytest.raises(CheckpointError, match="stated to be probabilities, but are not between 0 and 1"):
            scored(write(tmp_path / "hard", output={"kind": "probabilities"}), eyes)
        single = network(WEIGHT[:, :1], BIAS[:1] + 9)
        with pytest.raises(CheckpointError, match="stated to be a probability of referable DR, but are not between"):
            scored(write(tmp_path / "one", single, output={"kind": "referable_probability"}, classes=None), eyes)

    def test_of_other_files_beside_it(self, tmp_path: Path):
        path = write(tmp_path)
        (tmp_path / "preprocess.json").write_text(json.dumps(tiny.recipe()))
        with pytest.raises(
            CheckpointError, match=r"siglip@28, but preprocess\.json beside it states fundus-square-1@28"
        ):
            load_grader(path)
        (tmp_path / "preprocess.json").write_text(json.dumps(parse_preprocessing(foreign.STRETCHED).content()))
        (tmp_path / "labels.json").write_text(json.dumps([*GRADES[1:], GRADES[0]]))
        with pytest.raises(CheckpointError, match=r"\['no_dr'.*labels\.json beside it states \['mild_npdr'"):
            load_grader(path)
        (tmp_path / "labels.json").write_text(json.dumps([*GRADES]))
        assert len(load_grader(path).files) == 4
        with pytest.raises(UsageError, match=r"contradicts model\.onnx's model\.yaml"):
            load_grader(path, preprocess=parse_preprocessing(f"retfound@{SIZE}"))

    @pytest.mark.parametrize("text", ['{"0": "no_dr"}', '["no_dr"]', "[0, 1, 2, 3, 4]", '"no_dr"', "null"])
    def test_labels_are_a_list_of_classes(self, text: str, tmp_path: Path):
        path = tiny.write_onnx(tmp_path)
        (tmp_path / "labels.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"labels\.json"):
            load_grader(path)

    @pytest.mark.parametrize("name", ["recipe.json", "cuts.json", "model.yaml", "LABELS.json"])
    def test_weights_are_in_no_file_that_is_something_else(self, name: str, tmp_path: Path):
        """One file cannot be both the weights and what says how to read them."""
        path = write(tmp_path, preprocessing="recipe.json", cut_offs="cuts.json")
        (tmp_path / "recipe.json").write_text(json.dumps(tiny.recipe()))
        (tmp_path / name).touch()
        model = onnx.load(path)
        far = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[0], data_location=TensorProto.EXTERNAL)
        far.external_data.add(key="location", value=name)
        model.graph.initializer.append(far)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(CheckpointError, match="which is not a file in the same folder"):
            load_grader(path)

    def test_a_description_has_a_limit(self, tmp_path: Path):
        path = write(tmp_path)
        with (tmp_path / "model.yaml").open("a") as file:
            file.write(" " * (10 << 20))
        with pytest.raises(CheckpointError, match=r"model\.yaml is larger than 64 KB"):
            load_grader(path)


FIXED: dict[str, tuple[Callable[[], Any], int]] = {
    "declared": (lambda: network(batch=1), 1),
    "declared 4": (lambda: network(batch=4), 4),
    "baked into a reshape": (lambda: network(**baked(1, 5)), 1),
    "baked into a reshape of 4": (lambda: network(**baked(4, 5)), 4),
    "flattened over the batch": (lambda: network(**baked(1, -1), gives=["m", "k"]), 1),
}


class TestFixedBatches:
    @pytest.mark.parametrize("name", FIXED)
    def test_are_scored_as_the_graph_takes_them(self, name: str, tmp_path: Path):
        """Any number of images gets each image's own answer, and page one says how."""
        model, size = FIXED[name]
        grader = load_grader(write(tmp_path, model()))
        for n in (1, 2, 7, 9):
            np.testing.assert_allclose(grader.outputs(IMAGES[:n]), by_hand()[:n], atol=1e-5)
        (note,) = grader.notes
        how = "scored one by one" if size == 1 else "scored 4 at a time, the last of them filled up"
        assert (f"takes {size} image" in note, how in note) == (True, True)

    @pytest.mark.parametrize("batch", ["n", 4])
    @pytest.mark.parametrize("of", ["all", "before", "after"])
    def test_an_answer_that_depends_on_the_other_images_is_refused(self, batch: Any, of: str, tmp_path: Path):
        """A softmax over the images of a batch, or a running sum of those before or after."""
        zero = [numpy_helper.from_array(np.array(0), "axis")]
        end = {
            "all": node("Softmax", axis=0),
            "before": node("CumSum", "linear", "axis"),
            "after": node("CumSum", "linear", "axis", reverse=1),
        }[of]
        path = write(tmp_path, network(end=[end], tensors=zero, batch=batch), output={"kind": "probabilities"})
        with pytest.raises(CheckpointError, match="gives an image another answer beside other images in a batch"):
            load_grader(path)

    def test_the_trial_of_a_fixed_batch_has_limits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A batch of a billion images is no reason to fill the memory."""
        with pytest.raises(
            CheckpointError, match=r"model\.onnx (cannot grade images of 3 x 28 x 28|needs more memory)"
        ):
            load_grader(write(tmp_path / "many", network(batch=10**9)))
        monkeypatch.setattr(onnx_files, "TRIAL_MEMORY", 1 << 20)
        with pytest.raises(CheckpointError, match=r"model\.onnx"):
            load_grader(write(tmp_path / "small"))

    def test_a_size_that_only_the_run_shows_is_named(self, tmp_path: Path):
        """The graph declares any size, and its weights fit one."""
        end = [node("Flatten", "pixels", to="flat"), node("MatMul", "flat", "wide")]
        wide = numpy_helper.from_array(np.zeros((3 * 20 * 20, 5), np.float32), "wide")
        path = write(tmp_path, network(end=end, tensors=[wide], size="side"))
        with pytest.raises(CheckpointError, match="cannot grade images of 3 x 28 x 28 here"):
            load_grader(path)

    def test_another_width_than_declared_is_named(self, tmp_path: Path):
        path = write(tmp_path, network(WEIGHT[:, :4], BIAS[:4], gives=["n", "k"]))
        with pytest.raises(CheckpointError, match=r"it gives the output \(1, 4\) for 1 image; expected \(1, 5\)"):
            load_grader(path)


class TestSoftmaxInTheGraph:
    def test_logits_and_probabilities_of_the_same_weights(self, tmp_path: Path, eyes: Path):
        """No second softmax: stated, seen at the graph's end, or read from the values, the answers are the same."""
        logits = scored(write(tmp_path / "logits"), eyes)
        soft = network(end=[node("Softmax", axis=1, to="soft"), node("Identity", "soft")])
        stated = scored(write(tmp_path / "stated", soft, output={"kind": "probabilities"}), eyes)
        by_end = write(tmp_path / "end", soft)
        parts = [node("LogSoftmax", axis=1, to="log"), node("Exp", "log")]
        by_values = write(tmp_path / "values", network(end=parts))
        found = [stated]
        for path in (by_end, by_values):
            path.with_name("model.yaml").unlink()
            path.with_name("labels.json").write_text(json.dumps([*GRADES]))
            path.with_name("preprocess.json").write_text(json.dumps(parse_preprocessing(foreign.STRETCHED).content()))
            found.append(scored(path, eyes))
        for one in found:
            np.testing.assert_allclose(one.probabilities(), logits.probabilities(), atol=1e-6)
            assert one.table["predicted"].equals(logits.table["predicted"])
            assert one.provenance["model"]["output"] == "probabilities"
        assert logits.table["predicted"].nunique() > 1

    def test_logits_from_a_log_softmax_are_logits(self, tmp_path: Path, eyes: Path):
        path = write(tmp_path / "log", network(end=[node("LogSoftmax", axis=1)]))
        plain = scored(write(tmp_path / "plain"), eyes)
        np.testing.assert_allclose(scored(path, eyes).probabilities(), plain.probabilities(), atol=1e-6)


class TestOwnPreprocessing:
    @pytest.mark.parametrize("keys", [{"mean": [0.5] * 3}, {"id": "fundus-square-1"}, {"crop_to": "retina"}])
    def test_unknown_keys_are_refused(self, keys: dict[str, Any], tmp_path: Path):
        """A mean beside a preset was ignored, and the model scored on another input."""
        path = tiny.write_onnx(tmp_path)
        (tmp_path / "preprocess.json").write_text(json.dumps(tiny.recipe() | keys))
        with pytest.raises(CheckpointError, match=f"'{next(iter(keys))}' is not a key of a preprocessing"):
            load_grader(path)

    def test_a_size_that_the_graph_does_not_take_is_named_with_what_to_give(self, tmp_path: Path):
        path = write(tmp_path)
        (tmp_path / "model.yaml").unlink()
        (tmp_path / "labels.json").write_text(json.dumps([*GRADES]))
        with pytest.raises(CheckpointError, match=r"does not state its preprocessing\. State it with --preprocess"):
            load_grader(path)
        with pytest.raises(
            CheckpointError,
            match="takes images of 3 x 28 x 28, but its preprocessing makes 3 x 56 x 56; state imagenet-stretch@28 "
            "with --preprocess, if it was trained on that",
        ):
            load_grader(path, preprocess=parse_preprocessing("imagenet-stretch@56"))
