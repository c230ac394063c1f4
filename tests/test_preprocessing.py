"""Preprocessing as data, compared with the libraries that it speaks of."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from drgate.preprocessing import (
    PRESETS,
    PreprocessingError,
    of_timm,
    of_transformers,
    parse_preprocessing,
    read_preprocessing,
)

SIZES = [(300, 400), (900, 1200), (896, 896), (1344, 1344), (301, 517), (448, 448), (1056, 1584)]


@pytest.fixture(params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def photograph(request: Any) -> Image.Image:
    """Noise with the smoothness of a photograph, and a dark surround."""
    height, width = request.param
    noise = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = cv2.GaussianBlur(noise, (0, 0), 1.5)
    pixels[:, : width // 8] = 0
    return Image.fromarray(pixels)


def made(**keys: Any) -> Any:
    return read_preprocessing({**parse_preprocessing("siglip").content(), "name": "made", **keys}, "it")


class TestAgainstTheOriginals:
    @pytest.mark.parametrize(("name", "flag"), [("linear", cv2.INTER_LINEAR), ("area", cv2.INTER_AREA)])
    def test_opencv(self, photograph: Image.Image, name: str, flag: int):
        """Bit for bit where the image gets smaller; enlarged by OpenCV's vector code, one level in 1,000 pixels."""
        found = made(resample={"by": "opencv", "filter": name}).pixels(photograph).astype(int)
        original = cv2.resize(np.asarray(photograph), (448, 448), interpolation=flag).astype(int)
        off = np.abs(found - original)
        assert off.max() <= 1
        assert (off > 0).mean() <= (0.001 if min(photograph.size) < 448 else 0)

    @pytest.mark.parametrize("name", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("antialias", [True, False])
    def test_torch(self, photograph: Image.Image, name: str, antialias: bool):
        """To a fiftieth of a grey level: torch computes the places of pixels in single precision."""
        how = {"by": "torch", "filter": name, "antialias": antialias}
        tensor = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)[None].float()
        original = torch.nn.functional.interpolate(tensor, (448, 448), mode=name, antialias=antialias)
        found = made(resample=how).pixels(photograph)
        assert found.dtype == np.float32
        assert np.abs(found - original[0].permute(1, 2, 0).numpy()).max() < 0.02

    def test_siglip_by_transformers(self, photograph: Image.Image):
        processor = SiglipImageProcessorPil(size={"height": 448, "width": 448})
        theirs = np.asarray(processor(photograph, return_tensors="np")["pixel_values"][0])
        read = of_transformers(processor.to_dict(), "preprocessor_config.json")
        assert read.digest == parse_preprocessing("siglip").digest
        assert np.array_equal(read(photograph), theirs)

    def test_a_shorter_edge_and_a_crop_by_transformers(self, photograph: Image.Image):
        """Which cuts one pixel beside torchvision where an odd number of pixels is left over."""
        processor = CLIPImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
        theirs = np.asarray(processor(photograph, return_tensors="np")["pixel_values"][0])
        assert np.array_equal(of_transformers(processor.to_dict(), "preprocessor_config.json")(photograph), theirs)

    def test_imagenet_stretch_by_opencv(self, photograph: Image.Image):
        small = cv2.resize(np.asarray(photograph), (448, 448)).astype(np.float32) / 255
        theirs = ((small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
        assert np.abs(parse_preprocessing("imagenet-stretch")(photograph) - theirs).max() <= 1 / 255 / 0.224 + 1e-5

    def test_retfound_by_hand(self, photograph: Image.Image):
        """Shorter side to 256 by Pillow, the centre of 224: torchvision's evaluation transform."""
        width, height = photograph.size
        short = min(width, height)
        scaled = photograph.resize((256 * width // short, 256 * height // short), Image.Resampling.BICUBIC)
        left, top = round((scaled.width - 224) / 2), round((scaled.height - 224) / 2)
        cut = np.asarray(scaled.crop((left, top, left + 224, top + 224)), dtype=np.float64) / 255
        theirs = ((cut - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
        assert np.abs(parse_preprocessing("retfound")(photograph) - theirs).max() < 1e-5


class TestAsData:
    @pytest.mark.parametrize("name", PRESETS)
    def test_content_reads_back(self, name: str):
        found = parse_preprocessing(name)
        again = read_preprocessing(json.loads(json.dumps(found.content())), "it")
        assert (again, again.digest) == (found, found.digest)

    def test_the_name_is_not_in_the_digest_and_the_size_is(self):
        found = parse_preprocessing("siglip@384")
        assert found.name == "siglip@384"
        assert read_preprocessing({**found.content(), "name": "another"}, "it").digest == found.digest
        assert found.digest != parse_preprocessing("siglip").digest
        assert len({parse_preprocessing(name).digest for name in PRESETS}) == len(PRESETS)

    def test_a_size_scales_what_is_cut(self):
        """256 is to 224 as 384 is to 336."""
        assert parse_preprocessing("retfound@336").shape == {"shorter_side": 384}

    @pytest.mark.parametrize(
        ("keys", "said"),
        [
            ({"mean": [0, 0, 0]}, "'mean' is not a key of a preprocessing"),
            ({"size": 448.0}, "size is 448.0; expected a whole number of pixels, 16 to 4096"),
            ({"size": True}, "size is true"),
            ({"crop": {"centre": 0}}, "crop is"),
            ({"shape": {"shorter_side": 100}}, "with N of at least the size"),
            ({"shape": []}, "shape is []"),
            ({"shape": {"stretch": 512, "cut": "round"}}, "shape is"),
            ({"resample": {"by": "opencv", "filter": "lanczos"}}, "resample is"),
            ({"resample": {"by": "torch", "filter": "bilinear"}}, "antialias: true or false"),
            ({"channels": ["rgb"]}, "channels is"),
            ({"scale": {"mean": [0.5] * 3, "std": [0.5, 0.5, 0]}}, "scale is"),
            ({"scale": {"range": [1, 0]}}, "scale is"),
            ({"scale": {"range": [0, 10**400]}}, "scale is"),
            ({"scale": {"range": [0, float("nan")]}}, "something else than plain values"),
            ({"dtype": "float16"}, "dtype is"),
        ],
        ids=str,
    )
    def test_anything_else_is_refused(self, keys: dict[str, Any], said: str):
        with pytest.raises(PreprocessingError) as refused:
            made(**keys)
        assert said in str(refused.value)

    @pytest.mark.parametrize("key", ["size", "shape", "resample", "scale"])
    def test_what_no_model_has_by_default_is_required(self, key: str):
        """The rest may be left out, and does nothing then."""
        whole = parse_preprocessing("siglip").content()
        short = {name: whole[name] for name in ("format", "size", "shape", "resample", "scale")}
        assert read_preprocessing(short, "it").digest == parse_preprocessing("siglip").digest
        with pytest.raises(PreprocessingError, match=f"it: {key} is missing; expected "):
            read_preprocessing({name: value for name, value in short.items() if name != key}, "it")

    @pytest.mark.parametrize("text", ["", "clip", "siglip@", "siglip@0448", "siglip@12", "siglip@99999999"])
    def test_an_unknown_preset_is_refused(self, text: str):
        with pytest.raises(PreprocessingError, match=r"expected .*(siglip, medsiglip-tf|16 to 4096)"):
            parse_preprocessing(text)


class TestBesideAModel:
    def test_a_number_is_the_shorter_side_where_clip_says_so(self):
        """As get_size_dict with default_to_square=False reads it; elsewhere it is not clear."""
        given = {"do_center_crop": True, "crop_size": 224, "resample": 3, "size": 256}
        given |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
        clip = {**given, "feature_extractor_type": "CLIPFeatureExtractor"}
        assert of_transformers(clip, "it").shape == {"shorter_side": 256, "cut": "floor"}
        with pytest.raises(PreprocessingError, match="size is 256; write shortest_edge, or height and width"):
            of_transformers({**given, "feature_extractor_type": "DeiTFeatureExtractor"}, "it")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"do_pad": True}, "'do_pad' has no equal here"),
            ({"image_processor_type": "LevitImageProcessor"}, "is of a LevitImageProcessor, which is not read"),
            ({"do_rescale": False}, "not rescaled by 1/255"),
            ({"resample": 0}, "resample is 0"),
            ({"size": {"height": 384, "width": 448}}, "no square input"),
        ],
        ids=str,
    )
    def test_what_transformers_does_and_drgate_does_not(self, change: dict[str, Any], said: str):
        given = SiglipImageProcessorPil(size={"height": 448, "width": 448}).to_dict()
        with pytest.raises(PreprocessingError) as refused:
            of_transformers({**given, **change}, "it")
        assert said in str(refused.value)

    def test_timm(self):
        """timm's evaluation: the shorter side to floor(224 / crop_pct), then the centre."""
        config = {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center"}
        config |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
        assert of_timm({"pretrained_cfg": config}, "config.json").digest == parse_preprocessing("retfound").digest
        with pytest.raises(PreprocessingError, match="crop_mode is border"):
            of_timm({"pretrained_cfg": {**config, "crop_mode": "border"}}, "config.json")
        with pytest.raises(PreprocessingError, match="states no preprocessing"):
            of_timm({"architecture": "vit"}, "config.json")
