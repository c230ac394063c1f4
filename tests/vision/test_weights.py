"""Weights of drgate's network in other people's files: whatever wrapped them, they give the logits of that network."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from safetensors.torch import save_file
from torch import Tensor, nn

from drgate.errors import CheckpointError, UsageError
from drgate.preprocessing import FUNDUS_SQUARE, parse_preprocessing
from drgate.scale import GRADES, REFERABLE_CLASSES
from drgate.vision.base import Base, resolve_base
from drgate.vision.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from drgate.vision.graders import load_grader
from drgate.vision.network import GradingHead
from drgate.vision.older import load_any_checkpoint as load_any
from tests.support import tiny
from tests.support.older import PEFT, RANK, head, images, reference_logits, state_dict, write
from trainer.config import TrainingConfig
from trainer.origin import find_origin
from trainer.run import train

PREPARE = parse_preprocessing(f"{FUNDUS_SQUARE}@{tiny.SIZE}")
load = functools.partial(load_any, preprocess=PREPARE)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Base:
    return tiny.tiny_base(tmp_path_factory.mktemp("base") / "tower")


@pytest.fixture(scope="module")
def state(base: Base) -> dict[str, Tensor]:
    return state_dict(base)


@pytest.fixture(scope="module")
def control(base: Base, state: dict[str, Tensor], tmp_path_factory) -> Checkpoint:
    return load(write(tmp_path_factory.mktemp("control") / "m.pth", state), base)


def saved(path: Path, payload: Any) -> Path:
    torch.save(payload, path)
    return path


def logits(checkpoint: Checkpoint, base: Base | None) -> Tensor:
    with torch.inference_mode():
        return checkpoint.build(base)(images())


def refused(path: Path, base: Base | None, words: str, **stated: Any) -> str:
    """One sentence or two that begin with the file's name."""
    with pytest.raises(CheckpointError, match=words) as raised:
        load(path, base, **stated)
    message = str(raised.value)
    assert message.startswith(str(path)), message
    assert "\n" not in message
    assert len(message) < 700 + len(str(path)), message
    return message


def renamed(state: dict[str, Tensor], how: Callable[[str], str]) -> dict[str, Tensor]:
    return {how(name): tensor for name, tensor in state.items()}


NAMES: dict[str, Callable[[str], str]] = {
    "DataParallel": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "DDP of compiled": lambda name: f"module._orig_mod.{name}",
    "compiled DDP": lambda name: f"_orig_mod.module.{name}",
    "compiled backbone": lambda name: name.replace("backbone.", "backbone._orig_mod.", 1),
    "compiled tower": lambda name: name.replace("vision_model.base", "vision_model._orig_mod.base", 1),
    "compiled head": lambda name: name.replace("classifier.", "classifier._orig_mod.", 1),
    "compiled in peft": lambda name: name.replace(".model.vision_model.", ".model._orig_mod.vision_model."),
    "layers of FSDP": lambda name: name.replace(".layers.1.", ".layers.1._fsdp_wrapped_module."),
    "checkpointed layers": lambda name: name.replace(".layers.0.", ".layers.0._checkpoint_wrapped_module."),
    "Lightning": lambda name: f"model.{name}",
    "Lightning of compiled": lambda name: f"net._orig_mod.{name}",
    "Lightning of a wrapper": lambda name: f"model.network.module.{name}",
    "peft of all": lambda name: f"base_model.model.{name.replace('base_model.model.', '')}",
    "Lightning of peft of all": lambda name: f"model.base_model.model.{name.replace('base_model.model.', '')}",
    "tower alone": lambda name: name.replace("backbone.vision_model.base_model.model.", ""),
}
NAMES["DDP of each"] = lambda name: (
    name.replace("backbone.", "backbone.module.", 1)
    if name.startswith("backbone.")
    else name.replace("classifier.", "classifier.module.", 1)
)


def lightning(state: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "epoch": 2,
        "global_step": 30,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.8), "best_model_path": "a.ckpt"}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(9.0)}}, "param_groups": [{"lr": 2e-5, "alpha": 0.9}]}],
        "hyper_parameters": {"lr": 2e-5, "lora_r": RANK},
    }


PAYLOADS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda state: state,
    "Lightning": lightning,
    "model": lambda state: {"model": state, "epoch": 7, "args": argparse.Namespace(lr=2e-5, lora_rank=RANK)},
    "state_dict": lambda state: {"state_dict": state, "arch": "siglip"},
    "deeper": lambda state: {"checkpoint": {"ema": {"weights": state}}, "note": "best"},
    "with a loss": lambda state: {"model": {**state, "criterion.weight": torch.ones(5)}},
    "averaged": lambda state: {"n_averaged": torch.tensor(3), **renamed(state, NAMES["DataParallel"])},
}


class TestWrapped:
    @pytest.mark.parametrize("how", NAMES)
    def test_the_names_of_wrappers_change_nothing(self, how, base, state, control, tmp_path):
        """The same tensors are the same model, by its digest, in the older layout and alone."""
        named = renamed(state, NAMES[how])
        assert named.keys() != state.keys()
        assert load(write(tmp_path / "m.pth", named), base).tensor_digest == control.tensor_digest
        assert load(saved(tmp_path / "m.pt", named), base).tensor_digest == control.tensor_digest

    @pytest.mark.parametrize("what", PAYLOADS)
    def test_wherever_the_file_keeps_them(self, what, base, state, control, tmp_path):
        """A file without a history says so; the logits are those of a pass from the description."""
        found = load(saved(tmp_path / "m.ckpt", PAYLOADS[what](state)), base)
        assert found.tensor_digest == control.tensor_digest
        assert found.record["history"] == []
        assert "history" in found.record["limitations"][0]
        torch.testing.assert_close(logits(found, base), reference_logits(base, state, images()), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("name", ["m.pth", "m.pt", "m.ckpt", "m.safetensors"])
    def test_content_decides_and_not_the_suffix(self, name, base, state, control, tmp_path):
        path = tmp_path / name
        save_file(renamed(state, NAMES["Lightning"]), path, metadata={"format": "pt", "lora_r": str(RANK)})
        assert load(path, base).tensor_digest == control.tensor_digest
        assert load(saved(path, lightning(state)), base).tensor_digest == control.tensor_digest

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "torch"])
    def test_half_precision_is_computed_in_full(self, dtype, safe, base, state, tmp_path):
        half = {name: one.to(dtype) for name, one in state.items()}
        path = tmp_path / "m.safetensors"
        if safe:
            save_file(half, path)
        else:
            saved(path, half)
        full = {name: one.float() for name, one in half.items()}
        found = logits(load(path, base), base)
        torch.testing.assert_close(found, reference_logits(base, full, images()), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("prefix", ["", "backbone.vision_model.", "backbone.", "vision_model."])
    def test_a_whole_network_in_safetensors(self, prefix, base, tmp_path):
        """Its architecture is that of the base model, or of config.json beside it, which is then certified too."""
        tower = base.load().state_dict()
        folder = tmp_path / "model"
        folder.mkdir()
        save_file({f"{prefix}{name}": one for name, one in tower.items()} | head(), folder / "model.safetensors")
        with torch.inference_mode():
            own = GradingHead(tiny.WIDTH, 0.0)
            own.load_state_dict({n.removeprefix("classifier."): one for n, one in head().items() if "_head" not in n})
            expected = own(base.load()(pixel_values=images()).pooler_output)
        whole = load_grader(folder / "model.safetensors", str(base.folder), PREPARE)
        torch.testing.assert_close(torch.from_numpy(whole.outputs(images().numpy())), expected, atol=1e-5, rtol=1e-5)
        refused(folder / "model.safetensors", None, r"record the base model\. Give .*--base")
        (folder / "config.json").write_text((base.folder / "config.json").read_text())
        alone = load_grader(folder / "model.safetensors", None, PREPARE)
        assert [(file.name, file.role) for file in alone.files] == [
            ("model.safetensors", "model"),
            ("config.json", "config"),
        ]
        torch.testing.assert_close(torch.from_numpy(alone.outputs(images().numpy())), expected, atol=1e-5, rtol=1e-5)

    def test_a_head_that_peft_trained_a_copy_of(self, base, state, control, tmp_path):
        """`modules_to_save` counts; the original beside it does not."""
        copied = dict(state)
        for name in [name for name in state if name.startswith("classifier.")]:
            tensor, inner = copied.pop(name), name.removeprefix("classifier.")
            copied[f"classifier.original_module.{inner}"] = tensor * 0
            copied[f"classifier.modules_to_save.default.{inner}"] = tensor
        assert load(saved(tmp_path / "m.pt", copied), base).tensor_digest == control.tensor_digest
        only = {name: one for name, one in copied.items() if "modules_to_save" not in name}
        refused(saved(tmp_path / "m.pt", only), base, "no grading head")
        # Of classifier.classifier, which is called so too, peft makes another copy, which nothing calls.
        inert = {
            name.replace("classifier.classifier.", "classifier.classifier.modules_to_save.default."): tensor + 1
            for name, tensor in state.items()
            if name.startswith("classifier.classifier.")
        }
        assert load(saved(tmp_path / "m.pt", copied | inert), base).tensor_digest == control.tensor_digest


def of_peft(base: Base, **settings: Any) -> tuple[dict[str, Tensor], Tensor]:
    """The state dict of a network that peft adapted, trained adapters and all, and its logits by peft's own layers."""
    torch.manual_seed(3)
    config = LoraConfig(
        **{
            "r": RANK,
            "lora_alpha": 5,
            "target_modules": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
            "exclude_modules": r".*head\..*",
            **settings,
        }
    )
    tower = LoraModel(base.load(), config, "default").eval()
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if ".lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    own = GradingHead(tiny.WIDTH, 0.0).eval()
    own.load_state_dict({name.removeprefix("classifier."): one for name, one in head().items() if "_head" not in name})
    with torch.inference_mode():
        expected = own(tower(pixel_values=images()).pooler_output)
    state = {f"backbone.vision_model.base_model.{name}": one for name, one in tower.state_dict().items()}
    return state | head(), expected


class TestAdapters:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"target_modules": ["q_proj", "v_proj"]},
            {"target_modules": ["fc2"]},
            {"rank_pattern": {"q_proj": 2, "fc1": 5}},
            {"rank_pattern": {"v_proj": 7}, "use_rslora": True},
            {"use_rslora": True},
            {"use_dora": True},
            {"use_dora": True, "use_rslora": True, "target_modules": ["q_proj", "fc1"]},
            {"lora_bias": True},
            {"lora_bias": True, "use_rslora": True, "target_modules": ["v_proj"]},
            {"exclude_modules": None, "target_modules": ["q_proj", "fc1", "fc2"]},
        ],
        ids=str,
    )
    def test_compute_what_peft_computes(self, settings, base, tmp_path):
        """Any subset of the linear layers, any ranks, rsLoRA, DoRA, biases, the pooling head's layers."""
        state, expected = of_peft(base, **settings)
        stated = {"config": {"lora_alpha": 5, "use_rslora": settings.get("use_rslora", False)}}
        checkpoint = load(saved(tmp_path / "m.pt", {"model": state, **stated}), base)
        torch.testing.assert_close(logits(checkpoint, base), expected, atol=1e-5, rtol=1e-5)
        save_checkpoint(tmp_path / "ours.pth", checkpoint)
        assert load_checkpoint(tmp_path / "ours.pth").tensor_digest == checkpoint.tensor_digest
        bare = {n: torch.zeros_like(one) if ".lora_B" in n else one for n, one in state.items()}
        without = load(saved(tmp_path / "m.pt", {"model": bare, **stated}), base)
        assert (logits(without, base) - expected).abs().max() > 0.01

    @pytest.mark.parametrize("rslora", [False, True])
    def test_that_are_in_the_weights_already_are_refused(self, rslora, base, tmp_path):
        """peft's merge_adapter adds them and keeps them: such a file would count them twice."""
        state, _ = of_peft(base, use_rslora=rslora)
        stated = {"config": {"lora_alpha": 5, "use_rslora": rslora}}
        for name in [name for name in state if name.endswith("base_layer.weight")]:
            a, b = (state[name.replace("base_layer", f"lora_{letter}.default")] for letter in "AB")
            state[name] = state[name] + 5 / (RANK**0.5 if rslora else RANK) * b @ a
        refused(saved(tmp_path / "m.pt", {"model": state, **stated}), base, "would count twice.*merge_and_unload")

    def test_on_the_grading_head_are_added_to_it(self, base, state, control, tmp_path):
        layer = "classifier.classifier.4"
        out, into = state[f"{layer}.weight"].shape
        b, a = torch.randn(out, RANK), torch.randn(RANK, into)
        adapted = dict(state)
        adapted[f"{layer}.base_layer.weight"] = adapted.pop(f"{layer}.weight")
        adapted |= {f"{layer}.lora_A.default.weight": a, f"{layer}.lora_B.default.weight": b}
        found = load(saved(tmp_path / "m.pt", adapted), base)
        torch.testing.assert_close(found.head["classifier.4.weight"], state[f"{layer}.weight"] + 2 * b @ a)
        assert found.tensor_digest != control.tensor_digest

    def test_by_another_name_than_default(self, base, state, control, tmp_path):
        """One adapter is the model's, whatever it is called; of several, nobody knows which was active."""
        named = renamed(state, lambda name: name.replace(".default.", ".fundus."))
        assert load(saved(tmp_path / "m.pt", named), base).tensor_digest == control.tensor_digest
        refused(saved(tmp_path / "m.pt", state | named), base, "several adapters.*default, fundus")
        plain = renamed(state, lambda name: name.replace(".default.", "."))
        assert load(saved(tmp_path / "m.pt", plain), base).tensor_digest == control.tensor_digest

    def test_that_are_all_zero_are_named(self, base, state, tmp_path):
        """Nobody takes the base model with a head for an adapted model; in drtrain's own checkpoints neither."""
        dead = {name: one * 0 if ".lora_B." in name else one for name, one in state.items()}
        says = f"Every LoRA adapter is zero: this is the base model {base.folder.name} with this head."
        path = write(tmp_path / "m.pth", dead)
        assert says in load_grader(path, str(base.folder), PREPARE).notes
        assert says not in load_grader(write(path, state), str(base.folder), PREPARE).notes
        layer = f"{PEFT}vision_model.encoder.layers.0.mlp.fc1.base_layer.weight"
        other = load_grader(write(path, dead | {layer: dead[layer] + 1}), str(base.folder), PREPARE)
        assert any("Every LoRA adapter is zero" in note and "tensors that it replaces" in note for note in other.notes)
        dora, _ = of_peft(base, use_dora=True)
        own = {name: one for name, one in dora.items() if ".lora_magnitude_vector." not in name}
        for name in [name for name in own if ".lora_B." in name]:
            own[name] = own[name] * 0
            module = name.partition(".lora_B.")[0]
            own[f"{module}.lora_magnitude_vector.default.weight"] = own[f"{module}.base_layer.weight"].norm(dim=1)
        assert says in load_grader(saved(tmp_path / "dora.pt", own), str(base.folder), PREPARE).notes
        model = tiny.random_model(base)
        save_checkpoint(tmp_path / "live.pth", tiny.checkpoint_of(model, base))
        assert says not in load_grader(tmp_path / "live.pth").notes
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                nn.init.zeros_(parameter)
        save_checkpoint(tmp_path / "dead.pth", tiny.checkpoint_of(model, base))
        assert says in load_grader(tmp_path / "dead.pth").notes

    def test_of_other_kinds_are_refused_by_name(self, base, state, tmp_path):
        q = f"{PEFT}vision_model.encoder.layers.0.self_attn.q_proj"
        for name, tensor, words in (
            (f"{q}.vera_lambda_b.default", torch.ones(3), "vera_lambda_b"),
            (f"{q}.hada_w1_a.default", torch.ones(3, 3), "hada_w1_a"),
            (f"{q}.lora_A", torch.ones(3, tiny.WIDTH), "q_proj.lora_A"),
            (
                f"{PEFT}embeddings.position_embedding.lora_embedding_A.default",
                torch.ones(3, 16),
                "lora_emb",
            ),
            (f"{q}.lora_B.default.bias", torch.ones(5), "do not fit its layer"),
            (f"{q}.lora_A.default.weight", torch.ones(0, tiny.WIDTH), "do not fit its layer"),
            (f"{PEFT}vision_model.post_layernorm.lora_A.default.weight", torch.ones(3, 3), "not complete"),
        ):
            refused(saved(tmp_path / "m.pt", state | {name: tensor}), base, words)


class TestScale:
    """RANK is 3: alpha 6, twice the rank, where nobody states it."""

    @pytest.mark.parametrize(
        ("settings", "alpha"),
        [
            ({"config": {"lora_r": RANK, "lora_alpha": 12}}, 12),
            ({"hyper_parameters": {"lora_rank": RANK, "lora_alpha": 12.0}}, 12),
            ({"args": argparse.Namespace(lora_alpha=12, lr=1e-3)}, 12),
            ({"lora_config": {"r": RANK, "alpha": 12, "use_rslora": False}}, 12),
            ({"config": {"lora": {"rank": RANK, "alpha": 12}}}, 12),
            ({"config": {"model": {"peft_config": {"default": {"r": RANK, "lora_alpha": 12}}}}}, 12),
            ({"config": {"r": RANK, "alpha": 12}}, 12),
            ({"config": {"lora.alpha": 12, "lora.r": RANK}}, 12),
            ({"config": {"lora-alpha": "12"}}, 12),
            ({"lora_alpha": 12, "rslora": False}, 12),
            ({"config": {"lora_alpha": 12}, "hparams": {"lora_alpha": 12}}, 12),
            ({"config": {"lora_alpha": 12, "use_rslora": True}}, 12 * 3**0.5),
            ({"config": {"lora_alpha": 12}, "args": argparse.Namespace(use_rslora="true")}, 12 * 3**0.5),
            ({"config": {"use_rslora": True}}, 6 * 3**0.5),
            ({"config": {"focal": {"alpha": 0.25, "gamma": 2}, "rank": 0, "world_size": 1}}, 6),
            ({"config": {"lora_alpha": None}}, 6),
        ],
        ids=str,
    )
    def test_is_the_one_that_the_file_states(self, settings, alpha, base, state, tmp_path):
        """Wherever its trainer wrote it; what is assumed, or stated, is said."""
        checkpoint = load(write(tmp_path / "m.pth", state, **settings), base)
        expected = reference_logits(base, state, images(), alpha=alpha)
        torch.testing.assert_close(logits(checkpoint, base), expected, atol=1e-4, rtol=1e-4)
        assert any("alpha" in sentence for sentence in checkpoint.record["limitations"])

    @pytest.mark.parametrize(
        ("settings", "flag", "words"),
        [
            ({"config": {"lora_alpha": 12}}, 6.0, r"config\.lora_alpha\) states LoRA's alpha 12, and --lora-alpha 6"),
            ({"config": {"lora_alpha": 12}, "args": {"lora_alpha": 8}}, None, "= 12 and args.lora_alpha = 8"),
            ({"config": {"lora_r": 8}}, None, r"states the rank 8 \(config\.lora_r\).*adapters are 3"),
            ({"config": {"rank": 8, "alpha": 16}}, None, r"states the rank 8 \(config\.rank\)"),
            ({"config": {"use_lora": True, "alpha": 0.25}}, None, "config.alpha = 0.25, which may be.*--lora-alpha"),
            ({"config": {"lora_scaling": 2.0}}, None, "config.lora_scaling = 2.0, which may be"),
            ({"config": {"lora_alpha": 12, "alpha_pattern": {"q_proj": 3}}}, None, "alpha for each layer"),
            ({"config": {"lora_alpha": 12, "use_dora": True}}, None, "states DoRA.*no lora_magnitude_vector"),
            *(
                ({"config": {"lora_alpha": wrong}}, 6.0, "config.lora_alpha = .*; expected a number above 0")
                for wrong in ("twice", float("nan"), -3, 0, 1e300, True, [12], "9" * 5000, float("inf"), {"a": 1})
            ),
            ({"config": {"lora_r": 3.5}}, None, "states the rank 3.5"),
            ({"config": {"use_rslora": "perhaps"}}, None, "expected true or false"),
            ({}, float("nan"), "alpha is nan"),
            ({}, -1.0, "alpha is -1"),
            ({}, 1e300, r"alpha is 1e\+300"),
        ],
        ids=str,
    )
    def test_is_contradicted_aloud(self, settings, flag, words, base, state, tmp_path):
        """Both values are named; a scale is never guessed from a key that may be a loss's."""
        refused(write(tmp_path / "m.pth", state, **settings), base, words, alpha=flag)

    def test_is_stated_where_the_file_does_not(self, base, state, tmp_path):
        """--lora-alpha, also of mixed ranks and beside a doubtful key; the same value twice is no contradiction."""
        for settings, alpha in (
            ({"config": {"use_lora": True, "alpha": 0.25}}, 12.0),
            ({"config": {"lora_alpha": 9}}, 9.0),
        ):
            found = load(write(tmp_path / "m.pth", state, **settings), base, alpha=alpha)
            expected = reference_logits(base, state, images(), alpha=alpha)
            torch.testing.assert_close(logits(found, base), expected, atol=1e-5, rtol=1e-5)
        mixed, expected = of_peft(base, rank_pattern={"q_proj": 2})
        refused(saved(tmp_path / "m.pt", mixed), base, r"ranks \[2, 3\]; state LoRA's alpha with --lora-alpha")
        found = load(tmp_path / "m.pt", base, alpha=5.0)
        torch.testing.assert_close(logits(found, base), expected, atol=1e-5, rtol=1e-5)

    def test_of_drtrains_own_is_not_contradicted(self, base, tmp_path):
        save_checkpoint(tmp_path / "m.pth", tiny.checkpoint_of(tiny.random_model(base), base))
        assert load_grader(tmp_path / "m.pth", lora_alpha=8.0).description["lora"] == {"r": 4, "alpha": 8.0}
        with pytest.raises(CheckpointError, match="states LoRA's alpha 8, not alpha 9"):
            load_grader(tmp_path / "m.pth", lora_alpha=9.0)


class TestClasses:
    ALPHABETICAL = ("Mild", "Moderate", "No_DR", "Proliferate_DR", "Severe")
    OWN = (1, 2, 0, 4, 3)

    def permuted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        last = "classifier.classifier.8"
        return state | {name: state[name][list(self.OWN)] for name in (f"{last}.weight", f"{last}.bias")}

    @pytest.mark.parametrize(
        "settings",
        [
            {"class_names": list(ALPHABETICAL)},
            {"config": {"classes": ALPHABETICAL}},
            {"id2label": dict(enumerate(ALPHABETICAL))},
            {"classes": list(OWN)},
            {"idx_to_class": dict(enumerate(OWN))},
            {"hyper_parameters": {"class_to_idx": {name: place for place, name in enumerate(ALPHABETICAL)}}},
            {"classes": torch.tensor(OWN)},
            {"classes": [float(one) for one in OWN], "num_classes": 5},
            {"class2idx": {name: float(place) for place, name in enumerate(ALPHABETICAL)}},
            {"label_map": {name: torch.tensor(place) for place, name in enumerate(ALPHABETICAL)}},
            {"class_names": {str(place): name for place, name in enumerate(ALPHABETICAL)}, "classes": 5},
            {"data": {"folders": list(ALPHABETICAL)}},
            {"targets": {name: place for place, name in enumerate(ALPHABETICAL)}},
            {"seen": dict(zip(ALPHABETICAL, (370, 999, 1805, 295, 193), strict=True)), "classes": list(OWN)},
        ],
        ids=str,
    )
    def test_in_the_order_that_the_file_states(self, settings, base, state, control, tmp_path):
        """Folders of images are numbered by the alphabet: the outputs come back in the order of the grades."""
        path = saved(tmp_path / "m.pt", {"model": self.permuted(state), **settings})
        grader = load_grader(path, str(base.folder), PREPARE)
        expected = reference_logits(base, state, images()).numpy()
        assert abs(grader.outputs(images().numpy()) - expected).max() < 1e-5
        assert grader.answer.classes == GRADES
        numbers = grader.answer.own_names == ("0", "1", "2", "3", "4")
        assert numbers or grader.answer.own_names == ("No_DR", "Mild", "Moderate", "Severe", "Proliferate_DR")
        assert grader.tensor_digest == control.tensor_digest

    def test_that_nobody_knows_are_refused(self, base, state, tmp_path):
        path = saved(tmp_path / "m.pt", {"model": state, "class_names": ["a", "b", "c", "d", "e"]})
        refused(path, base, "class_names has the class names 'a', 'b'.*classes: ")
        saved(path, {"model": state, "classes": list(GRADES), "config": {"class_names": list(self.ALPHABETICAL)}})
        refused(path, base, "name other classes")

    @pytest.mark.parametrize(
        "settings",
        [
            {"class_to_idx": dict.fromkeys(ALPHABETICAL, 0)},
            {"class_to_idx": {name: 2 * place for place, name in enumerate(ALPHABETICAL)}},
            {"class_to_idx": {name: place + 1 for place, name in enumerate(ALPHABETICAL)}},
            {"id2label": {place + 1: name for place, name in enumerate(ALPHABETICAL)}},
            {"label_map": {0: 0, 1: 0, 2: 1, 3: 1, 4: 1}},
            {"label_map": {0: 2, 1: 0, 2: 1, 3: 4, 4: 3}},
            {"classes": torch.eye(5)},
            {"classes": torch.zeros(50)},
            {"classes": [1, 2, 3, 4, 5]},
            {"classes": [0.5, 1.5, 2.5, 3.5, 4.5]},
            {"classes": [float("nan")] * 5},
            {"class_names": "Mild,Moderate,No_DR,Proliferate_DR,Severe"},
            {"config": {"class_names": set(ALPHABETICAL)}},
            {"class_names": [name.encode() for name in ALPHABETICAL]},
            {"class_names": [str(i) for i in range(1000)]},
            {"class_names": [["Mild"], ["No_DR"]]},
        ],
        ids=lambda settings: str(settings)[:60],
    )
    def test_that_cannot_be_read_are_never_passed_over(self, settings, base, state, tmp_path):
        """What a file says of its classes is used or refused; model.yaml then states them."""
        path = saved(tmp_path / "m.pt", {"model": self.permuted(state), **settings})
        refused(path, base, "classes cannot be read as one name for each output.*model.yaml")
        TestDescribed().described(path, classes=[*map(str, self.ALPHABETICAL)])
        expected = reference_logits(base, state, images()).numpy()
        assert abs(load_grader(path, str(base.folder), PREPARE).outputs(images().numpy()) - expected).max() < 1e-5


class TestDescribed:
    """`model.yaml` beside a file of weights."""

    def described(self, path: Path, **changes: Any) -> Path:
        content = {
            "format": "drgate model 1",
            "weights": path.name,
            "architecture": "older",
            "output": {"kind": "logits"},
            "classes": list(GRADES),
            "preprocessing": PREPARE.label,
        }
        path.with_name("model.yaml").write_text(json.dumps(content | changes))
        return path

    def test_states_all_that_the_file_does_not(self, base, state, control, tmp_path):
        """Base, prefix, scale, preprocessing: nothing is left to state, and it is certified with the file."""
        named = {**renamed(state, lambda name: f"student.{name}"), "teacher.fc.weight": torch.ones(2, 2)}
        path = saved(tmp_path / "m.pt", named)
        refused(path, base, r"under the prefix 'student\.'.*key_prefix: \"student\.\"")
        self.described(path, base=str(base.folder), key_prefix="student.", lora={"alpha": 6})
        grader = load_grader(path)
        assert grader.tensor_digest == control.tensor_digest
        assert [(file.name, file.role) for file in grader.files] == [("m.pt", "model"), ("model.yaml", "config")]
        assert any("Ignored parts of the file: teacher" in note for note in grader.notes)
        assert load_grader(tmp_path).tensor_digest == control.tensor_digest, "the folder is the model"
        self.described(path, base=str(base.folder), key_prefix="student", lora={"alpha": 6, "rslora": True})
        expected = reference_logits(base, state, images(), alpha=6 * 3**0.5).numpy()
        assert abs(load_grader(path).outputs(images().numpy()) - expected).max() < 1e-5
        self.described(path, base=str(base.folder), key_prefix="pupil.")
        with pytest.raises(CheckpointError, match=r"begins with 'pupil\.', the key_prefix of model\.yaml"):
            load_grader(path)

    def test_contradicts_neither_the_file_nor_the_command_line(self, base, state, tmp_path):
        config = {"lora_alpha": 12, "use_rslora": True, "class_names": list(TestClasses.ALPHABETICAL)}
        path = saved(tmp_path / "m.pt", {"model": state, "config": config})
        alphabetical = {"classes": list(TestClasses.ALPHABETICAL)}
        other = tiny.tiny_base(tmp_path / "other", seed=5)
        for changes, stated, words in (
            ({}, {}, "model.yaml states other classes than the file"),
            (
                {**alphabetical, "lora": {"alpha": 6}},
                {},
                r"config\.lora_alpha\) states LoRA's alpha 12, and model\.yaml 6",
            ),
            ({**alphabetical, "lora": {"alpha": 12, "rslora": False}}, {}, "states rsLoRA = True .* model.yaml False"),
            ({**alphabetical, "base": str(other.folder)}, {}, "model.yaml states another base model"),
            ({**alphabetical, "architecture": "onnx"}, {}, "calls m.pt onnx"),
        ):
            with pytest.raises(CheckpointError, match=words):
                load(self.described(path, **changes), base, **stated)
        self.described(path, **alphabetical)
        with pytest.raises(UsageError, match=r"--preprocess siglip@28 contradicts model\.yaml"):
            load_any(path, base, parse_preprocessing("siglip@28"))
        assert load(path, base).lora.alpha == pytest.approx(12 * 3**0.5)

    def test_may_not_contradict_a_checkpoint_of_drtrain(self, base, tmp_path):
        path = tmp_path / "m.pth"
        save_checkpoint(path, tiny.checkpoint_of(tiny.random_model(base), base))
        assert load_grader(self.described(path, architecture="drgate")).answer.classes == GRADES
        for changes in (
            {"architecture": "older"},
            {"key_prefix": "model."},
            {"lora": {"alpha": 9}},
            {"classes": list(GRADES[::-1])},
            {"preprocessing": "siglip@28"},
            {"output": {"kind": "probabilities"}},
        ):
            name = "output.kind" if "output" in changes else next(iter(changes))
            with pytest.raises(CheckpointError, match=f"contradicts m.pth in {name}"):
                load_grader(self.described(path, **({"architecture": "drgate"} | changes)))

    @pytest.mark.parametrize(
        ("kind", "classes", "rows"),
        [
            ("regression", None, 1),
            ("cumulative_logits", None, 4),
            ("referable_logit", None, 1),
            ("logits", list(REFERABLE_CLASSES[::-1]), 2),
        ],
    )
    def test_a_head_with_other_outputs(self, kind, classes, rows, base, state, tmp_path):
        """One number, cumulative logits or referable alone, as model.yaml states; never guessed from their count."""
        last = "classifier.classifier.8"
        fewer = state | {name: state[name][:rows] for name in (f"{last}.weight", f"{last}.bias")}
        path = saved(tmp_path / "m.pt", fewer)
        refused(path, base, f"grades {rows} classes instead of 5")
        parts: dict[str, Any] = {"output": {"kind": kind}, "classes": classes}
        self.described(path, **parts)
        grader = load_grader(path, str(base.folder))
        assert (grader.answer.kind, grader.answer.width) == (kind, rows)
        outputs = grader.outputs(images().numpy())
        assert abs(outputs - reference_logits(base, fewer, images()).numpy()).max() < 1e-5


class TestOtherThings:
    def test_another_network_is_told_from_a_damaged_one(self, tmp_path):
        """Without asking for a base model first; the ways that there are for it are named."""
        for names in (
            ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight"),
            ("cls_token.x", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "head.weight"),
            ("model.features.0.weight", "model.classifier.1.weight"),
            ("vit.encoder.layer.0.attention.query.weight",),
        ):
            path = saved(tmp_path / "m.pth", {"model": dict.fromkeys(names, torch.ones(2))})
            said = refused(path, None, "another network.*ONNX.*--grader.*Hugging Face")
            assert names[0] in said or "." in said

    def test_what_holds_no_weights(self, base, state, tmp_path):
        path = tmp_path / "m.pt"
        adam = torch.optim.Adam([nn.Parameter(torch.ones(2))]).state_dict()
        refused(saved(path, {"optimizer_state_dict": adam, "epoch": 3}), base, "training state .*without weights")
        refused(saved(path, adam), base, "training state .*without weights")
        for nothing in ([1, 2], {"a": 1}, torch.ones(3), {}, None, {"x": {"y": torch.ones(2)}}):
            refused(saved(path, nothing), base, "it has no weights")
        refused(saved(path, {"model": state, "ema": state | {}}), base, "several sets of weights .model, ema")

    def test_without_what_nobody_can_guess(self, base, state, tmp_path):
        path = saved(tmp_path / "m.ckpt", lightning(state))
        with pytest.raises(
            CheckpointError, match=r"base model and the preprocessing\. Give .*--base.*--preprocess.*model\.yaml"
        ):
            load_any(path, None)
        tower = {name: one for name, one in state.items() if not name.startswith("classifier.")}
        refused(saved(path, tower), base, "no grading head")

    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
    def test_programs_and_pickled_modules(self, tmp_path):
        """They are code: never opened, and how to save the weights is said."""
        model = nn.Linear(2, 2)
        torch.jit.script(model).save(str(tmp_path / "a.pt"))
        torch.save(model, tmp_path / "b.pt")
        torch.save(model.state_dict(), tmp_path / "c.pt", _use_new_zipfile_serialization=False)
        for name, words in (
            ("a.pt", "TorchScript"),
            ("b.pt", "torch.nn.modules.linear.Linear"),
            ("c.pt", "before PyTorch 1.6"),
        ):
            refused(tmp_path / name, None, rf"{words}.*torch\.save\(model\.state_dict\(\), FILE\)")

    def test_a_base_model_that_the_file_states(self, base, state, tmp_path, monkeypatch):
        """Is taken where it is on this machine, and contradicted aloud; a path that a file names is not followed."""
        stated = {"model": state, "config": {"base_model_name_or_path": str(base.folder)}}
        refused(saved(tmp_path / "m.pt", stated), None, "record the base model")
        stated["config"] = {"base_model": "somebody/tower"}
        refused(saved(tmp_path / "m.pt", stated), None, "base model somebody/tower is not.*; give it with --base")
        assert "; the file states somebody/tower)" in load(tmp_path / "m.pt", base).record["limitations"][0]
        found = load_any_embedded(tmp_path)
        assert found.base.id == "embedded"

    @pytest.mark.parametrize("name", ["somebody/tower", "google/medsiglip-448"])
    def test_no_base_model_is_downloaded(self, name, base, state, tmp_path, monkeypatch):
        """Neither on the word of a file nor on that of model.yaml, also where it is one that drgate knows."""
        asked = []

        def snapshot_download(name: str, *, local_files_only: bool, **_: Any) -> str:
            asked.append((name, local_files_only))
            raise OSError("no network here")

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        path = saved(tmp_path / "m.pt", {"model": state, "base_model": name})
        refused(path, None, f"states its base model: .*{name} is not downloaded .*give it with --base")
        TestDescribed().described(saved(path, state), base=name)
        for given in (None, base):
            refused(path, given, f"model.yaml states the base model: .*{name} is not downloaded .*leave base out of")
        assert asked == [(name, True)] * 3


def load_any_embedded(folder: Path) -> Checkpoint:
    """A network on the embedded base model, whose file says so."""
    tower = resolve_base("embedded")
    stated = {"model": tower.load().state_dict() | head(d=tower.config.hidden_size), "base_model": "embedded"}
    prepare = parse_preprocessing(f"{FUNDUS_SQUARE}@{tower.config.image_size}")
    return load_any(saved(folder / "e.pt", stated), None, prepare)


class TestTrainedFurther:
    def test_from_its_weights_alone(self, base, state, tmp_path):
        """--init_from takes any of these files; --resume_from_checkpoint needs a history that they do not have."""
        eyes = tiny.write_eyes(tmp_path / "eyes")
        path = saved(tmp_path / "m.ckpt", lightning(state))
        settings: dict[str, Any] = {
            "dataset": str(eyes),
            "base": base.id,
            "preprocess": PREPARE.label,
            "output_dir": str(tmp_path / "run"),
            "num_epochs": 1,
            "learning_rate": 1e-12,
            "batch_size": 10,
            "num_workers": 0,
            "lora_r": RANK,
            "lora_alpha": 2 * RANK,
            "augmentation": "none",
        }
        with pytest.raises(UsageError, match=r"has weights but no training state.*--init_from"):
            train(TrainingConfig(**settings, resume_from_checkpoint=str(path)), quiet=True)
        record = train(TrainingConfig(**settings, init_from=str(path)), quiet=True)
        assert record["parent"]["how"] == "init_from"
        child = load_checkpoint(tmp_path / "run" / "best_model.pth")
        torch.testing.assert_close(logits(child, base), reference_logits(base, state, images()), atol=1e-4, rtol=0)

    def test_never_from_another_answer(self, base, state, tmp_path):
        last = "classifier.classifier.8"
        path = saved(tmp_path / "m.pt", state | {n: state[n][:1] for n in (f"{last}.weight", f"{last}.bias")})
        TestDescribed().described(path, output={"kind": "regression"}, classes=None)
        config = TrainingConfig(dataset="none", init_from=str(path), base=base.id)
        with pytest.raises(UsageError, match="does not give logits of the five grades"):
            find_origin(config, base, PREPARE)
