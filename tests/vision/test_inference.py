"""Networks of torch as scoring runs them: pixels that are scaled on the device, other precisions, transfers."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from drgate.answers import Answer
from drgate.errors import CheckpointError, UsageError
from drgate.preprocessing import FUNDUS_SQUARE, parse_preprocessing, read_preprocessing
from drgate.vision.checkpoint import save_checkpoint
from drgate.vision.checkpoint_grader import CheckpointGrader
from drgate.vision.graders import load_grader
from drgate.vision.hf_grader import HuggingFaceGrader
from drgate.vision.inference import Inference, placed, scaled
from drgate.vision.onnx_files import precision_of
from tests.support import classifiers, foreign, tiny

SCALES = ({"range": [-1, 1]}, {"range": [0, 1]}, {"range": [0, 255]}, parse_preprocessing("retfound").scale)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    base = tiny.tiny_base(folder / "base")
    save_checkpoint(folder / "model.pth", tiny.checkpoint_of(tiny.random_model(base), base))
    return folder / "model.pth"


def pixels(count: int = 4) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)


class TestScaled:
    @pytest.mark.parametrize("scale", SCALES, ids=str)
    @pytest.mark.parametrize("channels", ["rgb", "bgr", "green"])
    @pytest.mark.parametrize("layout", ["nchw", "nhwc"])
    def test_the_bits_of_the_preprocessing(self, scale: dict[str, Any], channels: str, layout: str):
        """All 256 levels of each channel, and levels between them (torch's resampling), to the last bit."""
        changes = {"scale": scale, "channels": channels, "layout": layout, "size": 16}
        recipe = read_preprocessing({**parse_preprocessing("siglip@16").content(), **changes}, "a test")
        levels = np.stack([np.roll(np.arange(256, dtype=np.uint8), 85 * i) for i in range(3)], axis=-1)
        whole = levels.reshape(1, 16, 16, 3)
        between = np.minimum(whole + np.random.default_rng(0).random(whole.shape), 255).astype(np.float32)
        for given in (whole, between):
            kept, expected = given.copy(), recipe.scaled(given)
            found = scaled(torch.from_numpy(given), recipe).numpy()
            assert found.dtype == np.float32
            assert found.tobytes() == expected.tobytes()
            assert found.shape == expected.shape
            assert (given == kept).all()

    def test_pixels_get_the_answers_of_scaled_images(self, model: Path):
        """The fp32 answers on a CPU do not depend on where the scaling is done."""
        grader = load_grader(model)
        assert isinstance(grader, CheckpointGrader)
        images = np.stack([grader.preprocessing.scaled(one) for one in pixels()])
        expected = grader.outputs(images)
        assert grader.inference.begin(pixels())().tobytes() == expected.tobytes()
        with torch.inference_mode():
            assert grader.network()(torch.from_numpy(images)).numpy().tobytes() == expected.tobytes()


class TestPrecision:
    @pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
    def test_a_checkpoint(self, model: Path, precision: Any, dtype: torch.dtype):
        """It answers as a network whose every tensor was rounded by hand; what is exported stays in fp32."""
        whole, grader = load_grader(model), load_grader(model, precision=precision)
        assert isinstance(whole, CheckpointGrader)
        assert isinstance(grader, CheckpointGrader)
        assert (whole.precision, grader.precision) == ("fp32", precision)
        given = torch.from_numpy(whole.preprocessing.scaled(pixels()))
        with torch.inference_mode():
            expected = load_grader(model).network().to(dtype)(given.to(dtype)).float().numpy()  # type: ignore[attr-defined]
        assert (grader.inference.begin(pixels())() == expected).all()
        assert not (expected == whole.inference.begin(pixels())()).all()
        assert {one.dtype for one in grader.network().parameters()} == {torch.float32}
        again = grader.inference.in_fp32()
        assert again.begin(pixels())().tobytes() == whole.inference.begin(pixels())().tobytes()
        assert again.network().classifier.feature_norm.weight.data_ptr() in {
            one.data_ptr() for one in grader.network().parameters()
        }, "no second copy in fp32"
        assert grader.tensor_digest == whole.tensor_digest

    def test_a_folder_of_hugging_face(self, tmp_path: Path):
        """Every network of torch takes the option, an adapter too."""
        network = classifiers.shaken(classifiers.siglip())
        folder = classifiers.save(network, tmp_path / "whole")
        adapted = classifiers.save_adapter(classifiers.adapted(classifiers.siglip()), tmp_path / "adapter")
        for path, base in ((folder, None), (adapted, str(folder))):
            grader = load_grader(path, base, precision="bf16")
            assert isinstance(grader, HuggingFaceGrader)
            assert grader.precision == "bf16"
            batch = classifiers.images(3)
            with torch.inference_mode():
                expected = grader.network().bfloat16()(torch.from_numpy(batch).bfloat16()).float()
            assert (grader.outputs(batch) == expected.numpy()).all()

    def test_tensors_that_are_tied_stay_tied(self):
        """One that is used twice is moved once; numbers of pixels and patches stay whole."""
        network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        network[1].weight = network[0].weight
        network.register_buffer("places", torch.arange(3))
        found: Any = placed(network, torch.device("cpu"), torch.bfloat16)
        assert found[0].weight is found[1].weight
        assert (found[0].weight.dtype, found.places.dtype) == (torch.bfloat16, torch.int64)
        assert network[0].weight.dtype == torch.float32

    def test_what_cannot_be_computed(self):
        """One sentence, which says what to do."""

        class Strict(torch.nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return images.flatten(1) @ torch.ones(3 * 16 * 16, 5)  # of another type than the images

        lower = Inference(Strict(), Answer(), parse_preprocessing("siglip@16"), "bf16")
        with pytest.raises(CheckpointError, match=r"cannot grade 2 images here in bf16 \(.*\). Try --precision fp32"):
            lower.begin(np.zeros((2, 16, 16, 3), np.uint8))
        with pytest.raises(CheckpointError, match="expected"):
            Inference(torch.nn.Flatten(), Answer(), parse_preprocessing("siglip@16")).begin(
                np.zeros((2, 16, 16, 3), np.uint8)
            )()

    def test_others_are_refused(self, tmp_path: Path):
        """An ONNX file and a grader in Python have their own; no code is run to find that out."""
        path = foreign.write(tmp_path / "onnx")
        assert load_grader(path, precision="fp32").precision == "fp32"
        with pytest.raises(UsageError, match="ONNX model in fp32, which computes in nothing else"):
            load_grader(path, precision="bf16")
        with pytest.raises(UsageError, match=r"in a precision of its own; leave --precision out"):
            load_grader(path, python="no_such_file.py:load", precision="fp32")


class TestOfAnOnnxFile:
    def test_fp16_and_int8(self, tmp_path: Path):
        """As converters write them, also with inputs and outputs in 32 bits."""
        path = tmp_path / "fp32.onnx"
        onnx.save(foreign.network(), path)
        assert precision_of(onnx.load(path)) == "fp32"
        assert precision_of(convert_float_to_float16(onnx.load(path), keep_io_types=True)) == "fp16"
        quantize_dynamic(path, tmp_path / "int8.onnx")
        assert precision_of(onnx.load(tmp_path / "int8.onnx")) == "int8"

    @pytest.mark.parametrize(
        ("operator", "precision"),
        [
            ("DynamicQuantizeMatMul", "int8"),
            ("MatMulIntegerToFloat", "int8"),
            ("QAttention", "int8"),
            ("QGemm", "int8"),
            ("QuickGelu", "fp32"),
        ],
    )
    def test_operators_of_onnx_runtime_itself(self, operator: str, precision: str):
        """As its optimiser leaves them in a file: their 8-bit weights are no floats that could be counted."""
        node = helper.make_node(operator, ["x"], ["y"], domain="com.microsoft")
        assert precision_of(helper.make_model(helper.make_graph([node], "g", [], []))) == precision

    def test_most_bytes_decide(self):
        """Weights in constants count too, and a norm that stays in fp32 does not decide."""

        def of(small: int, large: int) -> Any:
            whole = numpy_helper.from_array(np.zeros(small, np.float32), "norm")
            half = helper.make_tensor("half", TensorProto.BFLOAT16, [large], bytes(2 * large), raw=True)
            node = helper.make_node("Constant", [], ["weight"], value=half)
            return helper.make_model(helper.make_graph([node], "g", [], [], [whole]))

        assert (precision_of(of(3, 100)), precision_of(of(51, 100))) == ("bf16", "fp32")

    def test_the_grader_says_it(self, tmp_path: Path):
        """Read off the bytes that are loaded."""
        model = convert_float_to_float16(foreign.network(), keep_io_types=True)
        grader = load_grader(foreign.write(tmp_path / "half", model), precision="fp16")
        assert grader.precision == "fp16"


def test_on_cuda_copies_run_beside_the_network(monkeypatch: pytest.MonkeyPatch):
    """In its order, on a recorder in the place of CUDA: the copy in its stream, the network after it, and nothing waits
    for the device before the answers are asked for."""
    said: list[str] = []
    current = SimpleNamespace(wait_stream=lambda other: said.append(f"network waits for {other}"))

    @contextlib.contextmanager
    def stream(name: str) -> Any:
        said.append(f"in {name}")
        yield
        said.append("out")

    event = SimpleNamespace(record=lambda stream: said.append("event"), synchronize=lambda: said.append("wait"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)

    def pinned(self: torch.Tensor) -> torch.Tensor:
        said.append(f"pinned {self.dtype}")
        return self

    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: said.append("kept"))
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *given, pin_memory=False, **more: empty(*given, **more))

    class Mean(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            said.append("network")
            return images.mean(dim=(2, 3))[:, :1]

    running = Inference(Mean(), Answer("regression", ()), parse_preprocessing(f"{FUNDUS_SQUARE}@{tiny.SIZE}"))
    running._copying = "copies"  # type: ignore[assignment]
    answers = running.begin(pixels())
    expected = ["in copies", "pinned torch.uint8", "out", "network waits for copies", "kept", "network", "event"]
    assert said == expected
    assert answers().shape == (4, 1)
    assert said == [*expected, "wait"]
