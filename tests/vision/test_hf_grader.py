"""Folders of image classifiers of Hugging Face: judged as transformers computes them, or refused in one sentence."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from drgate.errors import CheckpointError, UsageError
from drgate.export import write_onnx
from drgate.preprocessing import parse_preprocessing
from drgate.scale import GRADES
from drgate.vision.graders import load_grader
from tests.support import classifiers
from tests.support.classifiers import NAMES, SIDE, TINY, answers, images, labels, model_yaml, save, siglip, vit
from tests.support.material import Ended


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked up or fetched."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def refused(path: Path, *, error: type[Exception] = CheckpointError, **given: Any) -> str:
    start = time.process_time()  # whatever else the machine does
    with pytest.raises(error) as caught:
        load_grader(path, **given)
    assert time.process_time() - start < 10
    assert len(str(caught.value)) < 700 + 3 * len(str(path))
    return str(caught.value)


def edited(folder: Path, name: str = "config.json", **changes: Any) -> Path:
    plain = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(plain | changes))
    return folder


SMALL = {"hidden_sizes": [8, 16], "depths": [1, 1], "image_size": SIDE}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "siglip": ("Siglip", {"vision_config": TINY}),
    "vit": ("ViT", TINY),
    "deit": ("DeiT", TINY),
    "dinov2": ("Dinov2", TINY),
    "beit": ("Beit", TINY),
    "clip": ("CLIP", {"vision_config": TINY}),
    "convnext": ("ConvNext", {**SMALL, "num_stages": 2}),
    "resnet": ("ResNet", {"embedding_size": 8, **SMALL, "layer_type": "basic"}),
    "regnet": ("RegNet", {"embedding_size": 8, **SMALL, "groups_width": 8}),
    "swin": ("Swin", {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": SIDE}),
    "efficientnet": ("EfficientNet", {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320}),
    "mobilenet_v2": ("MobileNetV2", {"image_size": SIDE, "depth_multiplier": 0.25}),
}


class TestWhatTransformersComputes:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_is_what_is_judged(self, family: str, tmp_path: Path):
        """Of every family: the outputs of transformers, by grade, whatever the order of the classes."""
        name, settings = FAMILIES[family]
        torch.manual_seed(3)
        config = getattr(transformers, f"{name}Config")(**settings, **labels(NAMES))
        network = getattr(transformers, f"{name}ForImageClassification")(config).eval()
        grader = load_grader(save(network, tmp_path / "m"))
        batch = images(4)
        found = grader.outputs(batch)
        assert found.dtype == np.float32
        assert np.abs(found - answers(network, batch)).max() < 1e-5
        assert grader.answer.classes == ("mild_npdr", "moderate_npdr", "no_dr", "pdr", "severe_npdr")
        assert grader.answer.own_names == NAMES
        p = torch.softmax(torch.from_numpy(answers(network, batch)), dim=1).numpy()
        assert np.abs(grader.answer.columns(found)["p_0"] - p[:, 2]).max() < 1e-5
        with torch.inference_mode():
            assert torch.equal(grader.network()(torch.from_numpy(batch)), torch.from_numpy(found))  # type: ignore[attr-defined]

    def test_every_file_is_in_the_certificate(self, tmp_path: Path):
        """Weights first, alone in the role model; another byte or another preprocessing is another model."""
        folder = save(siglip(), tmp_path / "m")
        grader = load_grader(folder)
        assert [(file.name, file.role) for file in grader.files] == [
            ("model.safetensors", "model"),
            ("config.json", "config"),
            ("preprocessor_config.json", "preprocessing"),
        ]
        digests = {grader.tensor_digest}
        edited(folder, "preprocessor_config.json", resample=2)
        digests.add(load_grader(folder).tensor_digest)
        plain = json.loads((folder / "config.json").read_text())
        edited(folder, vision_config=plain["vision_config"] | {"layer_norm_eps": 1e-3})
        digests.add(load_grader(folder).tensor_digest)
        edited(folder, **labels(NAMES[::-1]))
        digests.add(load_grader(folder).tensor_digest)
        tensors = load_file(folder / "model.safetensors")
        save_file(tensors | {"classifier.bias": tensors["classifier.bias"] + 1}, folder / "model.safetensors")
        digests.add(load_grader(folder).tensor_digest)
        assert len(digests) == 5

    def test_what_changes_no_output_changes_no_digest(self, tmp_path: Path):
        """The precision that a trainer noted and what a network returns besides its outputs: the same model."""
        folder = save(siglip(), tmp_path / "m")
        digest = load_grader(folder).tensor_digest
        edited(folder, torch_dtype="float16", output_attentions=True, return_dict=False, transformers_version="4.40.0")
        assert load_grader(folder).tensor_digest == digest

    def test_shards_are_data_of_the_first(self, tmp_path: Path):
        """A sharded model gives the same outputs; each shard is a subject."""
        network = vit()
        network.save_pretrained(tmp_path / "m", max_shard_size="30KB")
        (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(classifiers.PROCESSOR))
        grader = load_grader(tmp_path / "m")
        roles = [file.role for file in grader.files]
        assert roles[0] == "model"
        assert roles.count("model") == 1
        assert roles.count("data") > 1
        assert np.abs(grader.outputs(images(3)) - answers(network, images(3))).max() < 1e-5
        index = tmp_path / "m" / "model.safetensors.index.json"
        model_yaml(tmp_path / "m", index.name, "hf", classes=list(NAMES))
        assert np.abs(load_grader(tmp_path / "m").outputs(images(3)) - answers(network, images(3))).max() < 1e-5
        (tmp_path / "m" / "model.yaml").unlink()
        edited(tmp_path / "m", index.name, weight_map={"classifier.weight": "../../else.safetensors"})
        assert "does not list safetensors files of its folder" in refused(tmp_path / "m")

    def test_is_the_same_as_saved_by_transformers_4(self, tmp_path: Path):
        """Names of tensors of earlier versions are those of the same tensors."""
        network = vit()
        folder = save(network, tmp_path / "m")
        earlier = {
            "vit.layers.": "vit.encoder.layer.",
            "attention.q_proj": "attention.attention.query",
            "attention.k_proj": "attention.attention.key",
            "attention.v_proj": "attention.attention.value",
            "attention.o_proj": "attention.output.dense",
            "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
        }
        half = {}
        for name, tensor in network.state_dict().items():
            for new, old in earlier.items():
                name = name.replace(new, old)
            half[name] = tensor.half()
        assert "vit.encoder.layer.0.attention.attention.query.weight" in half
        save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
        expected = answers(network.half().float(), images(3))
        assert np.abs(load_grader(folder).outputs(images(3)) - expected).max() < 1e-5


class TestTorchFiles:
    @pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.net._orig_mod."])
    @pytest.mark.parametrize("wrapped", ["state_dict", "model_state_dict", None])
    def test_a_state_dict_beside_its_config(self, prefix: str, wrapped: str | None, tmp_path: Path):
        """Of Lightning, of DDP, of torch.compile, or bare; what is not the network's is named on page one."""
        network = siglip()
        folder = save(network, tmp_path / "m")
        (folder / "model.safetensors").unlink()
        state: dict[str, Any] = {f"{prefix}{name}": one for name, one in network.state_dict().items()}
        if prefix == "model.":
            state["loss.weight"] = torch.ones(5)
        torch.save(state if wrapped is None else {wrapped: state, "epoch": 3}, folder / "last.ckpt")
        grader = load_grader(folder / "last.ckpt")
        assert grader.files[0].name == "last.ckpt"
        assert np.abs(grader.outputs(images(3)) - answers(network, images(3))).max() < 1e-6
        assert ("loss.weight" in str(grader.notes)) == (prefix == "model.")

    def test_with_model_yaml(self, tmp_path: Path):
        """`weights`, `key_prefix` and the classes are those that are stated."""
        network = siglip(["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4"])
        folder = save(network, tmp_path / "m", processor=False)
        (folder / "model.safetensors").unlink()
        state = {f"a.b.{name}": one for name, one in network.state_dict().items()}
        torch.save(state, folder / "w.pth")
        model_yaml(folder, "w.pth", "hf", key_prefix="a.b.")
        grader = load_grader(folder)
        assert grader.answer.classes == GRADES
        assert {file.name for file in grader.files} == {"w.pth", "config.json", "model.yaml"}
        assert np.abs(grader.outputs(images(3)) - answers(network, images(3))).max() < 1e-6
        model_yaml(folder, "w.pth", "hf", key_prefix="c.")
        assert "no tensor that begins with the key_prefix 'c.'" in refused(folder)

    def test_code_in_it_is_never_run(self, tmp_path: Path):
        """A pickle with anything but tensors and plain values is not opened."""
        folder = save(siglip(), tmp_path / "m")

        class Evil:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"state_dict": Evil()}, folder / "x.ckpt")
        assert "Python objects other than tensors" in refused(folder / "x.ckpt")
        assert not (tmp_path / "ran").exists()


class TestWhatItAnswers:
    def test_referable(self, tmp_path: Path):
        """Two classes, in either order."""
        grader = load_grader(save(siglip(["referable", "non-referable"]), tmp_path / "m"))
        p = torch.softmax(torch.from_numpy(grader.outputs(images(3))), dim=1)[:, 0].numpy()
        assert np.abs(grader.answer.columns(grader.outputs(images(3)))["p_referable"] - p).max() < 1e-6

    def test_one_number(self, tmp_path: Path):
        """`problem_type: regression` with one output is a severity; without it, somebody must say what it is."""
        folder = save(siglip(["severity"], problem_type="regression"), tmp_path / "m")
        assert load_grader(folder).answer.kind == "regression"
        edited(folder, problem_type=None)
        assert "1 outputs and the problem_type None" in refused(folder)
        model_yaml(folder, "model.safetensors", "hf", output={"kind": "referable_logit"}, classes=None)
        assert load_grader(folder).answer.kind == "referable_logit"

    @pytest.mark.parametrize(
        ("names", "words"),
        [
            ([f"LABEL_{i}" for i in range(5)], "LABEL_0"),
            (["Mild", "mild NPDR", "No DR", "Severe", "PDR"], "mild_npdr twice (Mild, mild NPDR)"),
            (["No DR", "Mild", "Moderate", "Severe"], "expected the five grades"),
            (["No DR", "Mild", "Moderate", "Severe", "Cat"], "'Cat'"),
        ],
    )
    def test_unknown_classes_are_refused_with_what_to_write(self, names: list[str], words: str, tmp_path: Path):
        """LABEL_0 is not the name of a grade, whatever it may be; two names of one grade are ambiguous."""
        message = refused(save(siglip(names), tmp_path / "m"))
        assert words in message
        assert "classes: [no_dr, mild_npdr, moderate_npdr, severe_npdr, pdr]" in message

    @pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
    def test_five_outputs_that_are_no_classes(self, problem: str, tmp_path: Path):
        """Sigmoids or scores for five names are no distribution over grades."""
        folder = save(siglip(), tmp_path / "m", problem_type=problem)
        assert f"problem_type {problem}" in refused(folder)
        model_yaml(folder, "model.safetensors", "hf")
        assert "correct it" in refused(folder)

    def test_model_yaml_may_not_contradict_the_file(self, tmp_path: Path):
        """Other classes than id2label, another number of outputs, another preprocessing."""
        folder = save(siglip(), tmp_path / "m")
        model_yaml(folder, "model.safetensors", "hf")
        assert "but id2label in" in refused(folder)
        model_yaml(folder, "model.safetensors", "hf", classes=["not_referable", "referable"])
        assert "states 2 outputs" in refused(folder)
        alphabetical = ["mild_npdr", "moderate_npdr", "no_dr", "pdr", "severe_npdr"]
        model_yaml(folder, "model.safetensors", "hf", classes=alphabetical, preprocessing=f"retfound@{SIDE}")
        assert "preprocessor_config.json beside it states another" in refused(folder)
        edited(folder, label2id=dict.fromkeys(NAMES, 0))
        assert "contradict each other" in refused(folder)


class TestPreprocessing:
    def test_is_never_assumed(self, tmp_path: Path):
        """Without preprocessor_config.json it must be stated; one that the file contradicts is refused."""
        folder = save(siglip(), tmp_path / "m", processor=False)
        assert "does not state its preprocessing" in refused(folder)
        stated = parse_preprocessing(f"siglip@{SIDE}")
        assert load_grader(folder, preprocess=stated).preprocessing == stated
        (folder / "preprocessor_config.json").write_text(json.dumps(classifiers.PROCESSOR))
        other = parse_preprocessing(f"imagenet-stretch@{SIDE}")
        assert "contradicts" in refused(folder, error=UsageError, preprocess=other)

    def test_the_size_is_the_networks(self, tmp_path: Path):
        """Position embeddings are not interpolated: another size is refused before the weights are read."""
        folder = save(siglip(), tmp_path / "m", processor=False)
        message = refused(folder, preprocess=parse_preprocessing("siglip@64"))
        assert "makes images of 64 pixels, but the network takes 32" in message


class TestHostile:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"auto_map": {"AutoModel": "evil--code.Model"}}, "auto_map"),
            ({"vision_config": TINY | {"auto_map": {"AutoConfig": "evil.Config"}}}, "auto_map"),
            ({"model_type": "timm_wrapper", "architecture": "resnet50"}, "architecture"),
            ({"model_type": "timm_wrapper"}, "timm_wrapper"),
            ({"use_pretrained_backbone": True}, "use_pretrained_backbone"),
            ({"backbone": "microsoft/resnet-50"}, "backbone"),
            ({"backbone": "resnet50", "use_timm_backbone": True}, "backbone"),
            ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantization_config"),
            ({"attn_implementation": "kernels-community/flash-attn"}, "attn_implementation"),
            ({"custom_pipelines": {"x": {"impl": "evil.P"}}}, "custom_pipelines"),
            ({"hidden_act": "https://evil.example/act.py"}, "hidden_act"),
            ({"model_type": "../../evil"}, "model_type"),
            ({"model_type": ["siglip"]}, "the type ['siglip']"),
            ({"model_type": "bert"}, "the type 'bert'"),
            ({"architectures": ["SiglipModel"]}, "no image classifier"),
            ({"architectures": ["EvilForImageClassification"]}, "no image classifier"),
        ],
    )
    def test_what_names_code_or_weights_elsewhere(self, changes: dict[str, Any], words: str, tmp_path: Path):
        """Refused by name; nothing is imported and no socket is opened."""
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "evil.py").write_text("raise SystemExit('ran')")
        assert words in refused(save(siglip(), tmp_path / "m", **changes))

    @pytest.mark.parametrize(
        "changes",
        [
            {"num_hidden_layers": 10**9},
            {"num_hidden_layers": 200_000},
            {"image_size": 10**9},
            {"image_size": 4096, "patch_size": 1},
            {"hidden_size": 200_000},
            {"intermediate_size": 262_144},
            {"hidden_size": -32},
            {"hidden_size": "32"},
            {"num_attention_heads": 5},
            {"patch_size": 0},
        ],
    )
    def test_a_network_without_bounds(self, changes: dict[str, Any], tmp_path: Path):
        """A config of 1 KB cannot ask for more memory or time than its tensors hold."""
        refused(save(siglip(), tmp_path / "m", vision_config=TINY | changes))

    @pytest.mark.parametrize("depths", [[262_144] * 2000, [262_144, 0], [10**9, 1]])
    def test_stages_without_bounds(self, depths: list[int], tmp_path: Path):
        """Some networks count their layers in a list before they make the first."""
        network = transformers.SwinForImageClassification(
            transformers.SwinConfig(**FAMILIES["swin"][1], **labels(NAMES)),
        )
        refused(save(network, tmp_path / "m", depths=depths))

    def test_an_input_without_bounds(self, tmp_path: Path):
        """A network without position embeddings takes any size: what it computes for one image is bounded."""
        config = transformers.SegformerConfig(
            num_encoder_blocks=1, depths=[1], sr_ratios=[1], hidden_sizes=[8], patch_sizes=[1], strides=[1],
            num_attention_heads=[1], mlp_ratios=[1], decoder_hidden_size=8, **labels(NAMES),
        )  # fmt: skip
        network = transformers.SegformerForImageClassification(config)
        folder = save(network, tmp_path / "m", processor=False)
        assert "operations for one image" in refused(folder, preprocess=parse_preprocessing("siglip@4096"))

    @pytest.mark.parametrize("lost", ["classifier.weight", "vision_model.encoder.layers.0.mlp.fc1.bias"])
    def test_tensors_that_are_missing(self, lost: str, tmp_path: Path):
        """transformers would draw them at random."""
        folder = save(siglip(), tmp_path / "m")
        tensors = load_file(folder / "model.safetensors")
        save_file(
            {n: t for n, t in tensors.items() if n != lost} | {"x": torch.zeros(99_999)}, folder / "model.safetensors"
        )
        assert lost in refused(folder)

    def test_tensors_of_another_shape_or_network(self, tmp_path: Path):
        """Also where only the number of classes differs; tensors left over are those of another network."""
        folder = save(siglip(), tmp_path / "m")
        tensors = load_file(folder / "model.safetensors")
        save_file(tensors | {"classifier.weight": torch.zeros(1000, 32)}, folder / "model.safetensors")
        assert "classifier.weight in another shape" in refused(folder)
        save_file(tensors | {"second_head.weight": torch.zeros(5, 32)}, folder / "model.safetensors")
        assert "does not use: second_head.weight" in refused(folder)
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
        assert "not a complete safetensors file" in refused(folder)

    def test_an_adapter_in_the_folder_is_not_loaded(self, tmp_path: Path):
        """transformers would load an adapter_config.json beside a model, from wherever that names."""
        folder = save(siglip(), tmp_path / "m")
        model_yaml(folder, "model.safetensors", "hf", classes=[*NAMES])
        before = load_grader(folder).outputs(images(2))
        (folder / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": "evil/x", "peft_type": "LORA"})
        )
        assert np.array_equal(load_grader(folder).outputs(images(2)), before)

    def test_a_broken_torchvision(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """One sentence says what to do where transformers cannot be imported."""
        folder = save(siglip(), tmp_path / "m")

        class Broken:
            CONFIG_MAPPING = transformers.CONFIG_MAPPING

            def __getattr__(self, name: str) -> Any:
                raise RuntimeError("operator torchvision::nms does not exist")

        monkeypatch.setitem(__import__("sys").modules, "transformers", Broken())
        assert "pip uninstall torchvision" in refused(folder)


def test_from_the_command_line(drgate: Callable[..., Ended], refused: Callable[..., str], tmp_path: Path):
    """A folder is scored without a word on standard error from transformers, and refused in one line."""
    from tests.support.tiny import write_eyes

    eyes = write_eyes(tmp_path / "eyes", train=1, val=1, test=1)
    folder = save(siglip(), tmp_path / "m")
    out = tmp_path / "p.parquet"
    ended = drgate("score", folder, "--data", eyes, "--split", "test", "--out", out)
    assert ended.code == 0, ended
    assert "transformers" not in ended.err
    out.unlink()
    message = refused("score", edited(folder, auto_map={"a": "b.C"}), "--data", eyes, "--split", "test", "--out", out)
    assert "auto_map" in message


def test_is_called_by_its_folder(drgate: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All folders have a model.safetensors: the headline, the report and the usual folder tell them apart."""
    from tests.support.tiny import write_eyes

    monkeypatch.chdir(tmp_path)
    write_eyes(tmp_path / "eyes", train=1, val=1, test=2)
    given = save(siglip(), tmp_path / "vit-of-may") / "model.safetensors"
    ended = drgate("evaluate", given, "--data", "eyes", "--spec", "smoke")
    assert ended.code == 1, ended
    assert "vit-of-may (model.safetensors)" in ended.out
    (written,) = (tmp_path / "reports").glob("vit-of-may-*")
    assert "vit-of-may (model.safetensors)" in (written / "report.html").read_text()
    model = json.loads((written / "evaluation.json").read_text())["model"]
    assert (model["folder"], model["name"], model["files"][0]["name"]) == ("vit-of-may", *["model.safetensors"] * 2)
    assert drgate("evaluate", written, "--spec", "smoke", "--out", "again").code == ended.code
    assert "it is unsigned" in drgate("verify", written).out
    for odd, shown in (("a: b", {}), ("bärn 2", {"folder": "bärn 2"})):
        again = load_grader(given.parent.rename(tmp_path / odd)).description
        assert {key: value for key, value in again.items() if key == "folder"} == shown
        given = tmp_path / odd / "model.safetensors"


class TestWithoutEnd:
    def test_links_to_a_pipe_or_to_zeros(self, tmp_path: Path):
        """A folder can link to what never ends: it is no file of a model."""
        folder = save(vit(), tmp_path / "m")
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").symlink_to("/dev/zero")
        assert "is not a file" in refused(folder)
        (folder / "model.safetensors").unlink()
        os.mkfifo(folder / "model.safetensors")
        assert "is not a file" in refused(folder)

    def test_more_tensors_than_any_network_has(self, tmp_path: Path):
        """Names of a million tensors are not compared one by one with those of the network."""
        folder = save(vit(), tmp_path / "m")
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        many = {f"model.vit.layers.{i}.x.y.z": torch.zeros(1) for i in range(60_000)}
        save_file(tensors | many, folder / "vit.safetensors")
        model_yaml(folder, "vit.safetensors", "hf", classes=list(NAMES))
        assert "60,0" in refused(folder)


def test_a_network_that_torch_cannot_write_as_onnx(tmp_path: Path):
    """One sentence says what to do instead, in place of torch's traceback."""

    class Depends(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((1, 2, 3)) if images.sum().item() > 0 else images.amax((1, 2, 3))

    with pytest.raises(CheckpointError, match=r"cannot write this network as ONNX \(\w+\); export it yourself"):
        write_onnx(Depends(), SIDE, tmp_path / "model.onnx")
