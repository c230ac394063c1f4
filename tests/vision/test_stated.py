"""The preprocessing that somebody states: presets, files, what a model says itself; and the sheet that shows it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import SiglipImageProcessorPil

from drgate.errors import CheckpointError, PredictionsError, UsageError
from drgate.evaluation import Prepared, plain_of, read_as
from drgate.preprocessing import FORMAT, PRESETS, parse_preprocessing, read_preprocessing, reduced_copy
from drgate.score import _prepare
from drgate.vision.checkpoint import save_checkpoint
from drgate.vision.fingerprint import OLDER_HASH, image_hash
from drgate.vision.graders import load_grader
from drgate.vision.images import read_image
from drgate.vision.perceptual import HASH, HASHED_AT, perceptual_hash
from drgate.vision.prepared import prepare_image
from drgate.vision.stated import load_preprocessing
from tests.support import tiny
from tests.support.material import Ended

OWN = parse_preprocessing(f"fundus-square-1@{tiny.SIZE}")
SHORT = f"format: {FORMAT}\nshape: stretch\nresample: {{by: pillow, filter: bicubic}}\n"
TIMM = {
    "architecture": "vit_large_patch16_224",
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
}


class TestFiles:
    def test_of_every_kind(self, tmp_path: Path):
        """YAML and JSON of our own, a preprocessor_config.json and a timm config.json give what a preset gives."""
        processor = SiglipImageProcessorPil(size={"height": 448, "width": 448}).to_json_string()
        files = {
            "own.json": (json.dumps(OWN.content()), OWN.name),
            "short.yaml": (f"{SHORT}size: 448\nscale: {{mean: [.5, 0.5, 0.5], std: [0.5, 0.5, 5e-1]}}\n", "siglip"),
            "preprocessor_config.json": (processor, "siglip"),
            "processor_config.json": (json.dumps({"image_processor": json.loads(processor)}), "siglip"),
            "config.json": (json.dumps(TIMM), "retfound"),
        }
        for name, (text, expected) in files.items():
            (tmp_path / name).write_text(text)
            found = load_preprocessing(str(tmp_path / name))
            wanted = parse_preprocessing(expected)
            assert found.digest == wanted.digest, name
            assert found.label == wanted.name, name

    @pytest.mark.parametrize(
        ("name", "text", "words"),
        [
            ("none.json", None, "cannot be read"),
            ("a.json", "{", "is not valid JSON"),
            ("a.json", '{"hidden_size": 768}', "is not a preprocessing; expected keys and values with format"),
            (
                "a.yaml",
                f"format: {FORMAT}\ngamma: 2\n",
                "'gamma' is not a key of a preprocessing; expected ch",
            ),
            ("a.yaml", "- 1\n", "is not a preprocessing"),
            ("a.yml", f"{SHORT}size: 448.5\nscale: {{range: [0, 1]}}\n", "size is 448.5; expected a whole number"),
            ("a.json", json.dumps({"image_mean": [0.5] * 3, "size": 224, "resample": []}), "resample is []"),
            ("a.json", json.dumps({"image_mean": 1, "size": 224, "resample": 3}), "scale is"),
            (
                "a.json",
                json.dumps({"image_mean": [0.5] * 3, "size": 224, "do_rescale": "no"}),
                "do_rescale is not",
            ),
            (
                "a.json",
                json.dumps({"do_normalize": True, "size": 256, "crop_size": 224}),
                "do_center_crop is not",
            ),
            (
                "a.json",
                json.dumps({"pretrained_cfg": {**TIMM["pretrained_cfg"], "input_size": 224}}),
                "input_size is",
            ),
            ("a.json", json.dumps({"pretrained_cfg": {**TIMM["pretrained_cfg"], "mean": "x"}}), "scale is"),
            ("siglip@10.json", "{}", "There is no preprocessing"),
            ("model.txt", "", "There is no preprocessing"),
        ],
    )
    def test_what_cannot_be_used_is_one_sentence(self, name: str, text: str | None, words: str, tmp_path: Path):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        with pytest.raises(UsageError) as refused:
            load_preprocessing(name if "@" in name else str(path))
        assert words in str(refused.value)
        assert len(str(refused.value)) < 600


class TestOnnx:
    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        return tiny.write_onnx(tmp_path)

    def test_without_its_own_the_stated_one_is_a_part_of_the_model(self, model: Path):
        """Its digest is in the model's; the file that is not there is none of the model's files."""
        own = load_grader(model)
        model.with_name("preprocess.json").unlink()
        grader, other = (
            load_grader(model, preprocess=parse_preprocessing(f"{name}@28")) for name in ("siglip", "medsiglip-tf")
        )
        assert grader.preprocessing.label == "siglip@28"
        assert [file.role for file in grader.files] == ["model", "data", "labels"]
        assert len({own.tensor_digest, grader.tensor_digest, other.tensor_digest}) == 3

    def test_its_own_cannot_be_contradicted(self, model: Path):
        assert load_grader(model, preprocess=OWN).preprocessing == OWN
        with pytest.raises(UsageError, match=r"siglip@28 contradicts model\.onnx's preprocess\.json, which states"):
            load_grader(model, preprocess=parse_preprocessing("siglip@28"))

    def test_channels_last(self, tmp_path: Path):
        """A graph that takes (n, size, size, 3) gets it."""
        from onnx import TensorProto, helper

        graph = tiny.onnx_model()
        last = helper.make_tensor_value_info("last", TensorProto.FLOAT, ["batch", tiny.SIZE, tiny.SIZE, 3])
        graph.graph.node.insert(0, helper.make_node("Transpose", ["last"], ["pixel_values"], perm=[0, 3, 1, 2]))
        del graph.graph.input[:]
        graph.graph.input.append(last)
        model = tiny.write_onnx(tmp_path, graph)
        with pytest.raises(CheckpointError, match="takes images of 28 x 28 x 3, but its preprocessing makes 3 x 28"):
            load_grader(model)
        content = {**OWN.content(), "layout": "nhwc"}
        model.with_name("preprocess.json").write_text(json.dumps(content))
        grader = load_grader(model)
        batch = grader.preprocessing(tiny.eye(2, 0))[None]
        assert batch.shape == (1, 28, 28, 3)
        np.testing.assert_allclose(grader.outputs(batch), batch.mean(axis=(1, 2)) @ tiny.WEIGHT, atol=1e-5)


class TestRecorded:
    def test_name_and_digest_follow_from_the_content(self):
        """Otherwise a certificate could name one preprocessing and hold another."""
        right = Prepared(OWN.name, OWN.digest, OWN.content(), "12.0")
        assert right.recipe == OWN
        read = lambda plain: read_as(Prepared, plain, "it", expected="it", error=PredictionsError)  # noqa: E731
        assert read(plain_of(right)) == right
        other = parse_preprocessing("siglip@28")
        for change in (
            {"digest": other.digest},
            {"name": "siglip@28"},
            {"content": other.content()},
            {"content": {key: value for key, value in OWN.content().items() if key != "crop"}},
            {"content": {**OWN.content(), "mean": [0, 0, 0]}},
        ):
            with pytest.raises(PredictionsError):
                read({**plain_of(right), **change})


def test_the_hash_does_not_depend_on_the_preprocessing(tmp_path: Path):
    """A photograph is known again, whatever scale it was decoded at for the models; scoring and training agree."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((2000, 2000), Image.Resampling.BICUBIC).save(path := tmp_path / "large.jpg")
    full = parse_preprocessing("siglip@112")
    scaled = read_preprocessing({**full.content(), "decode": "scaled"}, "it")
    one, other = (prepare_image(path, preprocess) for preprocess in (scaled, full))
    assert not np.array_equal(one.pixels, other.pixels)
    assert np.abs(one.pixels.astype(int) - other.pixels).mean() < 3
    assert one.digest == other.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    hashed = perceptual_hash(read_image(path, HASHED_AT))
    assert one.hashes == other.hashes == prepare_image(path, None).hashes == {HASH: hashed}
    assert hashed != perceptual_hash(read_image(path)), "a full decoding has another hash, so that this shows something"
    found = _prepare((path, one.digest), scaled)
    assert not isinstance(found, str)
    assert np.array_equal(found.pixels, one.pixels)
    assert found.also.hashed == one.hashes[HASH]


def test_the_older_hash_is_of_the_whole_photograph(tmp_path: Path):
    """A model with an older fingerprint is checked by the older hash, which is not taken from a scaled decoding."""
    tiny.eye(2, 0, size=1200).save(path := tmp_path / "large.jpg")
    scaled = parse_preprocessing("fundus-square-2@112")
    assert prepare_image(path, scaled, (OLDER_HASH,)).hashes == {OLDER_HASH: image_hash(read_image(path))}


@pytest.mark.parametrize("depth", ["8 bits", "16 bits"])
@pytest.mark.parametrize("name", [*PRESETS, "padded"])
def test_a_grey_photograph_is_as_its_channel_three_times(tmp_path: Path, name: str, depth: str):
    """It stays one channel on its way, which saves two thirds of the work and changes no pixel, hash or measure."""
    preset = "siglip" if name == "padded" else name
    preprocess = parse_preprocessing(f"{preset}@112")
    if name == "padded":
        preprocess = read_preprocessing({**preprocess.content(), "shape": "pad", "crop": "field_of_view_2"}, "it")
    grey = np.asarray(tiny.eye(3, 0, size=1000).convert("L"))[:, :900]
    deep = {"8 bits": grey, "16 bits": grey.astype(np.uint16) * 257}[depth]
    Image.fromarray(deep).save(one := tmp_path / "grey.png")
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(other := tmp_path / "colour.png")
    looked = []
    for path in (one, other):
        found = prepare_image(path, preprocess, (HASH, OLDER_HASH), lambda _, image, reduced: (image, *reduced))
        image, copy, box = found.also
        assert image.mode == copy.mode == "RGB"
        looked.append((*(np.asarray(each).tobytes() for each in (found.pixels, image, copy)), box, found.hashes))
        assert np.array_equal(prepare_image(path, None).pixels, np.stack([grey] * 3, axis=-1))
    assert looked[0] == looked[1]


def test_a_photograph_is_looked_at_in_the_same_pass(tmp_path: Path):
    """What is asked of a photograph sees the very bytes, and the picture as an audit decodes it, for any model."""
    tiny.eye(2, 0, size=2000).save(path := tmp_path / "large.jpg")
    expected = read_image(path, HASHED_AT)
    for text in ("fundus-square-1@112", "fundus-square-2@112", "fundus-square-2@448"):
        found = prepare_image(path, parse_preprocessing(text), (), lambda *given: given)
        data, image, (copy, box) = found.also
        assert data == path.read_bytes()
        assert (image, copy, box) == (expected, *reduced_copy(expected))
        assert found.hashes == {}
    assert prepare_image(path, None).also is None


class TestSheet:
    def test_shows_photograph_pixels_and_input(self, tmp_path: Path, drgate: Callable[..., Ended]):
        """Of two photographs; what is undone from the scale is what was prepared, with its channels in order."""
        for name, colour in (("red.png", (200, 40, 20)), ("blue.png", (20, 40, 200))):
            Image.new("RGB", (90, 60), colour).save(tmp_path / name)
        (tmp_path / "own.yaml").write_text(SHORT + "name: swapped\nchannels: bgr\nsize: 112\nscale: {range: [0, 1]}\n")
        out = tmp_path / "sheet.png"
        ended = drgate(
            "preprocess",
            tmp_path / "red.png",
            tmp_path / "blue.png",
            "--preprocess",
            tmp_path / "own.yaml",
            "--out",
            out,
        )
        assert ended.code == 0, ended.err
        sheet = Image.open(out)
        at = [sheet.getpixel((12 + column * 460 + 200, 72 + row * 500 + 200)) for row in (0, 1) for column in (0, 1, 2)]
        assert at == [(200, 40, 20), (200, 40, 20), (20, 40, 200), (20, 40, 200), (20, 40, 200), (200, 40, 20)]

    def test_of_a_model_that_states_its_own(self, tmp_path: Path, drgate: Callable[..., Ended]):
        base = tiny.tiny_base(tmp_path / "base")
        checkpoint = tiny.checkpoint_of(tiny.random_model(base), base)
        save_checkpoint(tmp_path / "m.pth", replace(checkpoint, preprocessing=parse_preprocessing("siglip@28")))
        tiny.eye(0, 0).save(tmp_path / "a.png")
        for model, label in ((tmp_path / "m.pth", "siglip@28"), (tiny.write_onnx(tmp_path), OWN.name)):
            common = ("preprocess", tmp_path / "a.png", "--preprocess", model, "--format", "json", "--out")
            ended = drgate(*common, tmp_path / f"{model.stem}.png")
            assert json.loads(ended.out)["name"] == label
            assert read_preprocessing(json.loads(ended.out)["preprocessing"], "it").label == label

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("none.png", "--preprocess", "siglip", "--out", "s.png"), "does not exist"),
            (("a.png", "--preprocess", "siglip", "--out", "s.jpg"), "ends in .png"),
            (("a.png", "--preprocess", "siglip", "--out", "a.png"), "a.png"),
            (("long.png", "--preprocess", "fundus-square-1", "--out", "s.png"), "20000 x 1 pixels is too narrow"),
        ],
        ids=str,
    )
    def test_is_refused_in_one_sentence(
        self, arguments: tuple[str, ...], words: str, tmp_path: Path, drgate: Callable[..., Ended], monkeypatch: Any
    ):
        monkeypatch.chdir(tmp_path)
        tiny.eye(0, 0).save("a.png")
        Image.new("RGB", (20_000, 1), "white").save("long.png")
        ended = drgate("preprocess", *arguments)
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert words in ended.err
        assert not Path("s.png").exists()
