"""PEFT adapter folders: judged as peft computes them, on the base model that somebody names, or refused."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils.warning import PeftWarning
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from drgate.errors import CheckpointError, UsageError
from drgate.preprocessing import parse_preprocessing
from drgate.vision.base import Base, resolve_base
from drgate.vision.graders import load_grader
from drgate.vision.network import GradingModel
from tests.support import older, tiny
from tests.support.classifiers import (
    NAMES,
    adapted,
    answers,
    images,
    labels,
    model_yaml,
    save,
    save_adapter,
    siglip,
    vit,
)
from tests.support.material import Ended
from tests.vision.test_hf_grader import alone

__all__ = ["alone"]


def refused(path: Path, error: type[Exception] = CheckpointError, **given: Any) -> str:
    start = time.monotonic()
    with pytest.raises(error) as caught:
        load_grader(path, **given)
    assert time.monotonic() - start < 10
    assert len(str(caught.value)) < 700 + 3 * len(str(path))
    return str(caught.value)


def edited(folder: Path, **changes: Any) -> Path:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    return folder


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"fc1": 2, "layers.0.self_attn.q_proj": 3}, "alpha_pattern": {"v_proj": 32}},
    "anchored": {"rank_pattern": {"^vision_model.encoder.layers.1.mlp.fc1": 7}},
    "head": {"modules_to_save": ["classifier"]},
    "norms": {"modules_to_save": ["classifier", "post_layernorm"]},
    "bias": {"bias": "all"},
    "lora_only": {"bias": "lora_only", "modules_to_save": ["classifier"]},
    "lora_bias": {"lora_bias": True},
    "one layer": {"layers_to_transform": [1], "layers_pattern": ["layers"]},
    "excluded": {"exclude_modules": ["vision_model.encoder.layers.0.mlp.fc1"]},
    "full names": {"target_modules": ["vision_model.encoder.layers.1.self_attn.q_proj"]},
    "head adapted": {"target_modules": ["fc1", "fc2", "classifier", "patch_embedding"]},
}


class TestWhatPeftComputes:
    @pytest.mark.parametrize("kind", KINDS)
    def test_is_what_is_judged(self, kind: str, tmp_path: Path):
        """The outputs of peft's own model before it is merged; they are not those of the base model."""
        base = save(siglip(), tmp_path / "base")
        model = adapted(siglip(), **KINDS[kind])
        folder = save_adapter(model, tmp_path / "adapter")
        grader = load_grader(folder, base=str(base))
        batch = images(6)
        found = grader.outputs(batch)
        assert np.abs(found - answers(model, batch)).max() < 2e-5
        assert np.abs(found - answers(siglip(), batch)).max() > 1e-3
        assert grader.answer.own_names == NAMES
        assert grader.notes == []
        assert [(file.name, file.role) for file in grader.files[:2]] == [
            ("adapter_model.safetensors", "model"),
            ("adapter_config.json", "config"),
        ]
        assert not any("lora" in name for name, _ in grader.network().named_modules())  # type: ignore[attr-defined]

    def test_the_head_may_be_the_adapters_alone(self, tmp_path: Path):
        """The usual recipe: a base model for other classes, and a new head in modules_to_save."""
        base = save(siglip([f"thing {i}" for i in range(9)]), tmp_path / "base")
        five = siglip([f"thing {i}" for i in range(9)])
        five.classifier = nn.Linear(32, 5)
        model = adapted(five, modules_to_save=["classifier"])
        folder = save_adapter(model, tmp_path / "adapter")
        assert "classes" in refused(folder, base=str(base))
        model_yaml(folder, "adapter_model.safetensors", "peft")
        grader = load_grader(folder, base=str(base))
        assert np.abs(grader.outputs(images(4)) - answers(model, images(4))).max() < 2e-5
        edited(folder, modules_to_save=None)
        assert "classifier" in refused(folder, base=str(base))

    def test_names_of_transformers_4(self, tmp_path: Path):
        """Adapters on `query` and `value`, as transformers 4 called them, are those on q_proj and v_proj."""
        base = save(vit(), tmp_path / "base")
        model = adapted(vit(), target_modules=["q_proj", "v_proj"], alpha_pattern={"v_proj": 32})
        folder = save_adapter(model, tmp_path / "adapter")
        tensors = load_file(folder / "adapter_model.safetensors")
        for new, old in {
            "vit.layers.": "vit.encoder.layer.",
            "q_proj": "attention.query",
            "v_proj": "attention.value",
        }.items():
            tensors = {name.replace(new, old): one for name, one in tensors.items()}
        assert "base_model.model.vit.encoder.layer.0.attention.attention.query.lora_A.weight" in tensors
        save_file(tensors, folder / "adapter_model.safetensors")
        edited(folder, target_modules=["query", "value"], alpha_pattern={"value": 32})
        grader = load_grader(folder, base=str(base))
        assert np.abs(grader.outputs(images(4)) - answers(model, images(4))).max() < 2e-5

    def test_base_adapter_and_settings_are_in_the_digest(self, tmp_path: Path):
        """Another base model, another scale and another tensor are another model; page one names the base model."""
        base = save(siglip(), tmp_path / "base")
        folder = save_adapter(adapted(siglip()), tmp_path / "adapter")
        first = load_grader(folder, base=str(base))
        assert first.description["base"]["id"] == "base"
        assert first.description["lora"] == {"r": 4, "alpha": 8.0}
        digests = {first.tensor_digest, load_grader(edited(folder, lora_alpha=9), base=str(base)).tensor_digest}
        tensors = load_file(base / "model.safetensors")
        save_file(tensors | {"classifier.bias": tensors["classifier.bias"] + 1}, base / "model.safetensors")
        other = load_grader(folder, base=str(base))
        assert other.description["base"]["digest"] != first.description["base"]["digest"]
        assert len(digests | {other.tensor_digest}) == 3


class TestNamedAloud:
    @pytest.mark.parametrize("dora", [False, True])
    def test_an_adapter_that_is_all_zero(self, dora: bool, tmp_path: Path):
        """B is zero as peft begins: page one says that the training had no effect."""
        base = save(siglip(), tmp_path / "base")
        model = adapted(siglip(), use_dora=dora)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.zero_()
                elif "magnitude" in name:
                    weight = model.get_submodule(name.partition(".lora_magnitude")[0]).get_base_layer().weight
                    parameter.copy_(weight.norm(dim=1))
        grader = load_grader(save_adapter(model, tmp_path / "adapter"), base=str(base))
        assert grader.notes == [
            "All adapters are zero: they do not change the base model base, and their training had no effect."
        ]
        assert np.abs(grader.outputs(images(3)) - answers(siglip(), images(3))).max() < 1e-5

    @pytest.mark.parametrize(
        ("named", "shown"),
        [
            ("google/vit-a", "google/vit-a"),
            ("/home/jane/secret/vit-a/", "vit-a"),
            ("C:\\Users\\jane\\vit-a", "vit-a"),
            ("../jane/vit-a", "vit-a"),
            ("google/vit-b", ""),
            ("/home/jane/vit-b", ""),
            (None, ""),
        ],
    )
    def test_another_base_model_than_the_adapter_names(self, named: str | None, shown: str, tmp_path: Path):
        """A base of the same shapes gives an answer all the same: page one names both, and no folder above them."""
        base = save(siglip(), tmp_path / "vit-b")
        folder = edited(save_adapter(adapted(siglip()), tmp_path / "adapter"), base_model_name_or_path=named)
        expected = [f"The adapter names the base model {shown}; vit-b was used."] if shown else []
        assert load_grader(folder, base=str(base)).notes == expected

    def test_an_adapter_that_nothing_calls(self, tmp_path: Path):
        """One on the pooling head's output projection does nothing before it is merged, and something after."""
        base = save(siglip(), tmp_path / "base")
        model = adapted(siglip(), target_modules=["q_proj", "out_proj"])
        folder = save_adapter(model, tmp_path / "adapter")
        # transformers averages over patches and does not call the pooling head here, so merging is the same.
        assert np.abs(load_grader(folder, base=str(base)).outputs(images(3)) - answers(model, images(3))).max() < 2e-5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    place = tmp_path_factory.mktemp("adapter")
    base = save(siglip(), place / "base")
    return save_adapter(adapted(siglip(), modules_to_save=["classifier"]), place / "adapter"), str(base)


@pytest.fixture
def adapter(made: tuple[Path, str], tmp_path: Path) -> tuple[Path, str]:
    """A folder of its own with an adapter, and its base model."""
    return Path(shutil.copytree(made[0], tmp_path / "adapter")), made[1]


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return tiny.tiny_base(tmp_path_factory.mktemp("base") / "tower")


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"target_modules": r"(.*.*.*.*.*.*.*.*.*.*.*.*)*x"}, "expected a list of plain names"),
            ({"target_modules": "all-linear"}, "expected a list of plain names"),
            ({"target_modules": ["(.*)*x"]}, "expected a list of plain names"),
            ({"exclude_modules": r"(.*a){30}"}, "exclude_modules"),
            ({"modules_to_save": ["(.*)*x"]}, "modules_to_save"),
            ({"rank_pattern": {"(.*.*.*.*)*x": 2}}, "rank_pattern"),
            ({"alpha_pattern": {"(a|a)*x": 2}}, "alpha_pattern"),
            ({"layers_to_transform": [1], "layers_pattern": "(.*)*"}, "layers_pattern"),
            ({"layers_to_transform": [10**9]}, "layers_to_transform"),
            ({"target_modules": ["q_proj"] * 100_000}, "target_modules"),
            ({"r": 10**9}, "r = 1000000000"),
            ({"r": True}, "r = True"),
            ({"lora_alpha": -1}, "lora_alpha"),
            ({"lora_alpha": float("1e300")}, "lora_alpha"),
            ({"auto_mapping": {"base_model_class": "Popen", "parent_library": "subprocess"}}, "auto_mapping"),
            ({"auto_mapping": {"base_model_class": "X", "parent_library": "evil"}}, "auto_mapping"),
            ({"megatron_config": {"a": 1}, "megatron_core": "evil.core"}, "megatron_config"),
            ({"megatron_core": "evil.core"}, "megatron_core"),
            ({"runtime_config": {"ephemeral_gpu_offload": True}}, "runtime_config"),
            ({"loftq_config": {"loftq_bits": 4}}, "loftq_config"),
            ({"corda_config": {"cache_file": "/etc/passwd"}}, "corda_config"),
            ({"eva_config": {"rho": 2.0}}, "eva_config"),
            ({"init_lora_weights": "pissa"}, "init_lora_weights"),
            ({"init_lora_weights": "olora"}, "init_lora_weights"),
            ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication"),
            ({"target_parameters": ["a.b"]}, "target_parameters"),
            ({"trainable_token_indices": [1]}, "trainable_token_indices"),
            ({"use_qalora": True}, "use_qalora"),
            ({"of_the_future": "evil.module"}, "of_the_future"),
            ({"peft_type": "LOHA"}, "only LORA is read"),
            ({"peft_type": None}, "only LORA is read"),
        ],
    )
    def test_what_peft_would_import_match_or_change(
        self, changes: dict[str, Any], words: str, adapter: tuple[Path, str]
    ):
        """A regular expression hung peft for 20 s; other keys name modules, files, or another computation."""
        folder, base = adapter
        assert words in refused(edited(folder, **changes), base=base)

    def test_keys_at_peft_s_default_are_read(self, adapter: tuple[Path, str]):
        """What peft itself writes is no reason to refuse; `auto_mapping` that agrees with the base model is a fact."""
        folder, base = adapter
        plain = json.loads((folder / "adapter_config.json").read_text())
        assert {"megatron_core", "loftq_config", "qalora_group_size", "auto_mapping"} <= plain.keys()
        assert plain["auto_mapping"]["base_model_class"] == "SiglipForImageClassification"
        load_grader(edited(folder, base_model_name_or_path="evil/model", peft_version="0.1"), base=base)

    @pytest.mark.parametrize(
        ("lost", "words"),
        [("lora_A", "lacks the tensors"), ("lora_B", "lacks the tensors"), ("classifier", "lacks the tensors")],
    )
    def test_tensors_that_are_missing(self, lost: str, words: str, adapter: tuple[Path, str]):
        """peft would skip them with a warning."""
        folder, base = adapter
        tensors = load_file(folder / "adapter_model.safetensors")
        first = next(name for name in tensors if lost in name)
        del tensors[first]
        save_file(tensors, folder / "adapter_model.safetensors")
        assert words in refused(folder, base=base)

    def test_tensors_that_are_left_over_or_do_not_fit(self, adapter: tuple[Path, str]):
        """An adapter of another network; all of a file is used."""
        folder, base = adapter
        tensors = load_file(folder / "adapter_model.safetensors")
        save_file(
            tensors | {"base_model.model.x.lora_A.weight": torch.zeros(4, 32)}, folder / "adapter_model.safetensors"
        )
        assert "besides what its config names" in refused(folder, base=base)
        save_file(tensors, folder / "adapter_model.safetensors")
        assert "require (5, 32)" in refused(edited(folder, r=5), base=base)
        assert "lacks" in refused(edited(folder, r=4, target_modules=["q_proj", "v_proj", "fc1", "fc2"]), base=base)

    def test_without_a_base_model(self, adapter: tuple[Path, str], tmp_path: Path):
        """It comes from --base; what the file names is not fetched, and no other kind of network will do."""
        folder, base = adapter
        assert "state it with --base" in refused(edited(folder, base_model_name_or_path=base))
        assert "is a vision tower alone" in refused(folder, base="embedded")
        assert "but the base model is a ViTFor" in refused(folder, base=str(save(vit(), tmp_path / "vit")))
        assert "expected an image classifier" in refused(folder, base=str(tiny.write_base(tmp_path / "tower")))
        alphabetical = ["mild_npdr", "moderate_npdr", "no_dr", "pdr", "severe_npdr"]
        model_yaml(folder, "adapter_model.safetensors", "peft", base=base, classes=alphabetical)
        load_grader(folder)
        assert "contradicts" in refused(folder, UsageError, base="embedded")
        model_yaml(folder, "adapter_model.safetensors", "peft", base="evil/hub", classes=alphabetical)
        assert "not downloaded on the word of a model file" in refused(folder)

    def test_the_pickled_form(self, adapter: tuple[Path, str]):
        """adapter_model.bin is a pickle of another layout; only safetensors are read."""
        folder, base = adapter
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        assert "only adapters in safetensors are read" in refused(folder, base=base)

    def test_what_peft_cannot_merge(self, tmp_path: Path):
        """A bias of LoRA on a convolution without one of its own: one sentence, no traceback."""
        torch.manual_seed(0)
        config = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels(NAMES)
        )
        base = save(ResNetForImageClassification(config).eval(), tmp_path / "base")
        network = ResNetForImageClassification.from_pretrained(base)
        with pytest.warns(PeftWarning, match="merging LoRA weights won't be possible"):
            model = adapted(network, target_modules=["convolution"], lora_bias=True)
        folder = save_adapter(model, tmp_path / "a")
        assert "cannot be merged" in refused(folder, base=str(base))


class TestOnDrgatesTower:
    """Adapters on a SigLIP tower with the grading head of drgate and of the older trainer."""

    @staticmethod
    def write(
        folder: Path, base: Base, *, names: str = "vision_model.", wrapped: str = "", **config: Any
    ) -> dict[str, Tensor]:
        """An adapter folder; returns the tensors by the names of the older layout."""
        state = {
            name: one
            for name, one in older.state_dict(base).items()
            if not re.search(r"\.head\..*lora_|classifier\.\w+_head", name)
        }
        adapter = {
            name.replace(older.PEFT + "vision_model.", f"base_model.model.{wrapped}{names}").replace(
                ".default.", "."
            ): one
            for name, one in state.items()
            if ".lora_" in name
        }
        head = {
            f"{'base_model.model.' if wrapped else ''}{n}": t for n, t in state.items() if n.startswith("classifier.")
        }
        folder.mkdir()
        save_file(adapter | head, folder / "adapter_model.safetensors")
        plain = {
            "peft_type": "LORA",
            "r": older.RANK,
            "lora_alpha": older.ALPHA,
            "target_modules": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
            "modules_to_save": ["classifier"],
            "bias": "none",
            "task_type": None,
        }
        (folder / "adapter_config.json").write_text(json.dumps(plain | config))
        return state

    @pytest.mark.parametrize(("names", "wrapped"), [("vision_model.", ""), ("", ""), ("vision_model.", "backbone.")])
    @pytest.mark.parametrize("rslora", [False, True])
    def test_gives_what_torch_gives(self, names: str, wrapped: str, rslora: bool, tower: Base, tmp_path: Path):
        """The logits of a forward pass written from the layout's description."""
        state = self.write(tmp_path / "a", tower, names=names, wrapped=wrapped, use_rslora=rslora)
        grader = load_grader(tmp_path / "a", str(tower.folder), parse_preprocessing(f"siglip@{tiny.SIZE}"))
        batch = older.images(8)
        alpha = older.ALPHA * (older.RANK**0.5 if rslora else 1)
        expected = older.reference_logits(tower, state, batch, alpha=alpha)
        found = grader.outputs(batch.numpy())
        assert np.abs(found - expected.numpy()).max() < 2e-4
        assert (found.argmax(axis=1) == expected.argmax(dim=1).numpy()).all()
        assert grader.description["base"]["digest"] == tower.digest
        assert "no tensors for the pooling head" in grader.notes[0]

    def test_whatever_its_trainer_called_the_network(self, tower: Base, tmp_path: Path):
        """peft notes the class of tower and head together, which drgate has no part in."""
        noted = {"base_model_class": "GradingModel", "parent_library": "trainer.network"}
        self.write(tmp_path / "a", tower)
        self.write(tmp_path / "b", tower, auto_mapping=noted)
        one, other = (
            load_grader(tmp_path / name, str(tower.folder), parse_preprocessing(f"siglip@{tiny.SIZE}")) for name in "ab"
        )
        assert one.tensor_digest == other.tensor_digest

    def test_a_head_that_peft_did_not_train(self, tower: Base, tmp_path: Path):
        """peft itself saves an untrained copy for [classifier], which is refused; what it saves as advised is read."""
        for saved in (["classifier"], ["feature_norm", "classifier.classifier"]):
            torch.manual_seed(1)
            network = GradingModel(tower.load(), tower.config.hidden_size, 0.0)
            config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=saved)
            model = get_peft_model(network, config)  # type: ignore[arg-type]
            optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], 0.01)
            for _ in range(2):
                model(pixel_values=older.images(4)).square().sum().backward()
                optimizer.step()
            folder = tmp_path / saved[-1]
            model.save_pretrained(folder)
            given: dict[str, Any] = {
                "base": str(tower.folder),
                "preprocess": parse_preprocessing(f"siglip@{tiny.SIZE}"),
            }
            if saved == ["classifier"]:
                assert "Train it again with modules_to_save: [feature_norm, classifier.c" in refused(folder, **given)
            else:
                grader = load_grader(folder, **given)
                assert not any("peft may" in note for note in grader.notes)
                with torch.no_grad():
                    expected = model.eval()(pixel_values=older.images(3)).numpy()
                assert np.abs(grader.outputs(older.images(3).numpy()) - expected).max() < 1e-4

    def test_a_head_that_peft_may_not_have_trained(self, tower: Base, tmp_path: Path):
        """Where its tensors do not tell, page one says so."""
        self.write(tmp_path / "a", tower)
        grader = load_grader(tmp_path / "a", str(tower.folder), parse_preprocessing(f"siglip@{tiny.SIZE}"))
        assert [note for note in grader.notes if "peft may have saved a grading head that was not trained" in note]

    def test_needs_its_head_and_its_size(self, tower: Base, tmp_path: Path):
        """One sentence says what is missing."""
        self.write(tmp_path / "a", tower)
        folder, where = tmp_path / "a", str(tower.folder)
        assert "does not state its preprocessing" in refused(folder, base=where)
        preprocess = parse_preprocessing("siglip@448")
        assert "the network takes 28" in refused(folder, base=where, preprocess=preprocess)
        tensors = load_file(folder / "adapter_model.safetensors")
        del tensors["classifier.classifier.8.bias"]
        save_file(tensors, folder / "adapter_model.safetensors")
        preprocess = parse_preprocessing(f"siglip@{tiny.SIZE}")
        assert "is not drgate's for a tower of width 32" in refused(folder, base=where, preprocess=preprocess)


def test_the_folder_of_the_field_case(tmp_path: Path):
    """K4: on the embedded base, with rsLoRA, the head beside the adapter and nothing excluded: as torch computes it."""
    base = resolve_base("embedded")
    size = base.config.image_size
    generator = torch.Generator().manual_seed(7)

    def drawn(*shape: int, scale: float = 0.05) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
    tower = base.load()
    tensors, pairs = {}, {}
    for i in range(base.config.num_hidden_layers):
        for name in names:
            module = f"encoder.layers.{i}.{name}"
            out, into = tower.get_submodule(module).weight.shape  # type: ignore[union-attr, misc]
            pairs[module] = drawn(4, into), drawn(out, 4)
            for letter, tensor in zip("AB", pairs[module], strict=True):
                tensors[f"base_model.model.vision_model.{module}.lora_{letter}.weight"] = tensor
    width = base.config.hidden_size
    shapes = {"0": (width // 2, width), "3": (width // 2,), "4": (width // 4, width // 2), "7": (width // 4,)}
    head = {"classifier.feature_norm.weight": torch.ones(width), "classifier.feature_norm.bias": drawn(width)}
    for layer, shape in (shapes | {"8": (5, width // 4)}).items():
        head[f"classifier.classifier.{layer}.weight"] = (
            torch.ones(shape) if len(shape) == 1 else drawn(*shape, scale=0.4)
        )
        head[f"classifier.classifier.{layer}.bias"] = drawn(shape[0])
    (tmp_path / "K4").mkdir()
    save_file(tensors | head, tmp_path / "K4" / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "google/medsiglip-448",
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": True,
        "use_dora": False,
        "target_modules": [name.rpartition(".")[2] for name in names],
        "modules_to_save": ["classifier"],
        "bias": "none",
        "task_type": None,
    }
    (tmp_path / "K4" / "adapter_config.json").write_text(json.dumps(config))
    grader = load_grader(tmp_path / "K4", "embedded", parse_preprocessing(f"imagenet-stretch@{size}"))

    with torch.no_grad():  # rsLoRA: alpha over the square root of the rank
        for module, (down, up) in pairs.items():
            tower.get_submodule(module).weight.add_(8 / 4**0.5 * up @ down)  # type: ignore[union-attr, operator]
    batch = torch.randn(6, 3, size, size, generator=generator)
    with torch.inference_mode():
        y = tower(pixel_values=batch).pooler_output
        for layer in ("feature_norm", "classifier.0", "classifier.3", "classifier.4", "classifier.7", "classifier.8"):
            weight, bias = head[f"classifier.{layer}.weight"], head[f"classifier.{layer}.bias"]
            if weight.dim() == 2:
                y = nn.functional.linear(y, weight, bias)
                y = y if layer.endswith("8") else nn.functional.gelu(y)
            else:
                y = nn.functional.layer_norm(y, weight.shape, weight, bias)
    assert np.abs(grader.outputs(batch.numpy()) - y.numpy()).max() < 1e-4


def test_from_the_command_line(drgate: Callable[..., Ended], tmp_path: Path):
    """Scored with its base model, without a word on standard error from transformers or peft."""
    eyes = tiny.write_eyes(tmp_path / "eyes", train=1, val=1, test=2)
    base = save(siglip(), tmp_path / "base")
    folder = save_adapter(adapted(siglip()), tmp_path / "adapter")
    out = tmp_path / "p.parquet"
    ended = drgate("score", folder, "--base", base, "--data", eyes, "--split", "test", "--out", out)
    assert ended.code == 0, ended
    assert "transformers" not in ended.err
