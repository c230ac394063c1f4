"""The vision tower, its adapters, the grading head, and where the tower comes from."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from drgate.errors import CheckpointError
from drgate.vision.base import resolve_base
from drgate.vision.network import GradingHead, GradingModel, add_lora, merge_lora
from tests.support import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.tiny_base(tmp_path_factory.mktemp("base") / "tower")


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


class TestHead:
    def test_has_the_layout_that_checkpoints_share(self):
        """Names and shapes of design section 6, for d = 1152."""
        shapes = {name: tuple(tensor.shape) for name, tensor in GradingHead(1152, 0.4).state_dict().items()}
        assert shapes == {
            "feature_norm.weight": (1152,),
            "feature_norm.bias": (1152,),
            "classifier.0.weight": (576, 1152),
            "classifier.0.bias": (576,),
            "classifier.3.weight": (576,),
            "classifier.3.bias": (576,),
            "classifier.4.weight": (288, 576),
            "classifier.4.bias": (288,),
            "classifier.7.weight": (288,),
            "classifier.7.bias": (288,),
            "classifier.8.weight": (5, 288),
            "classifier.8.bias": (5,),
        }

    def test_grades_the_pooled_feature(self, base):
        """The logits are those of the head on the tower's pooler output, (n, 5)."""
        model = GradingModel(base.load(), tiny.WIDTH, 0.0).eval()
        pooled = base.load().eval()(pixel_values=images()).pooler_output
        torch.testing.assert_close(model(images()), model.classifier(pooled))
        assert model(images()).shape == (3, 5)


class TestLora:
    def test_merged_logits_equal_unmerged(self, base):
        """Adding the adapters' products to the weights leaves the function as it is."""
        model = tiny.random_model(base)
        before = model(images(7)).detach()
        plain = GradingModel(base.load(), tiny.WIDTH, 0.1).eval()
        plain.classifier.load_state_dict(model.classifier.state_dict())
        assert (before - plain(images(7))).abs().max() > 1e-3, "the adapters do something"
        merged = merge_lora(model)
        torch.testing.assert_close(merged(images(7)), before, atol=1e-5, rtol=1e-5)
        assert not any("lora" in name for name in merged.state_dict())

    def test_a_merge_that_changes_the_logits_is_refused(self, base, monkeypatch):
        """A layer that merges half of what it computes, as some do for lack of care, does not get through."""
        model = tiny.random_model(base)
        layer = model.backbone.model.encoder.layers[0].mlp.fc1
        real = layer.get_delta_weight
        layer.get_delta_weight = lambda adapter: real(adapter) * 0.5
        monkeypatch.setattr("drgate.vision.network._merge_exactly", lambda layer: None)
        with pytest.raises(CheckpointError, match="changed the logits"):
            merge_lora(model)

    def test_every_adapter_gets_a_gradient_and_nothing_frozen_does(self, base):
        """Six linear layers a block have adapters that learn; the tower itself and its pooling head stay fixed."""
        model = tiny.random_model(base).train()
        model(images()).logsumexp(dim=1).sum().backward()
        adapters = {name: p for name, p in model.named_parameters() if ".lora_" in name}
        assert len(adapters) == 2 * 2 * 6
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapters.values())
        assert not any(".head." in name for name in adapters)
        others = [p for name, p in model.backbone.named_parameters() if ".lora_" not in name]
        assert all(p.grad is None and not p.requires_grad for p in others)

    def test_a_fresh_adapter_changes_nothing(self, base):
        """Training starts at the base model's own features."""
        adapted = add_lora(base.load(), r=4, alpha=8).eval()
        expected = base.load().eval()(pixel_values=images()).pooler_output
        torch.testing.assert_close(adapted(pixel_values=images()).pooler_output, expected)

    def test_alpha_over_r_scales_the_adapter(self, base):
        """Twice alpha is twice the adapter's product: an oracle by hand for one layer."""
        tower = base.load()
        weight = tower.encoder.layers[1].mlp.fc2.weight.detach().clone()
        model = tiny.random_model(base)
        layer = model.backbone.model.encoder.layers[1].mlp.fc2
        a, b = (layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach())
        merged = merge_lora(model).backbone.encoder.layers[1].mlp.fc2.weight
        torch.testing.assert_close(merged, weight + 8 / 4 * b @ a)

    def test_full_fine_tuning_reaches_every_weight(self, base):
        """Without LoRA each of the tower's tensors gets a gradient."""
        model = tiny.random_model(base, lora=False).train()
        model(images()).logsumexp(dim=1).sum().backward()
        assert all(p.grad is not None for p in model.parameters())


class TestBase:
    def test_digest_is_of_the_weights_not_of_the_file(self, base, tmp_path):
        """The tower alone, with the names of an older transformers, or inside a whole SigLIP model: one digest."""
        from transformers import SiglipConfig, SiglipModel

        older = resolve_base(str(tiny.write_base(tmp_path / "older", prefix="vision_model.")))
        assert older.digest == base.digest
        vision = json.loads((base.folder / "config.json").read_text())
        text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
        limits = {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1}
        whole = SiglipModel(SiglipConfig(vision_config=vision, text_config=text | limits))
        whole.vision_model.load_state_dict(base.load().state_dict())
        whole.save_pretrained(tmp_path / "whole")
        resolved = resolve_base(str(tmp_path / "whole"))
        assert resolved.digest == base.digest
        torch.testing.assert_close(resolved.load().state_dict(), base.load().state_dict())

    def test_digest_sees_one_bit(self, base, tmp_path):
        """A single changed weight, and a changed activation, are other models."""
        tensors = load_file(base.folder / "model.safetensors")
        tensors["head.probe"][0, 0, 0] += 1e-6
        changed = tiny.write_base(tmp_path / "changed")
        save_file(tensors, changed / "model.safetensors")
        assert resolve_base(str(changed)).digest != base.digest
        other = tiny.write_base(tmp_path / "other", hidden_act="relu")
        assert resolve_base(str(other)).digest != base.digest

    def test_loads_what_transformers_loads(self, base):
        """Our loading, which skips the random initialisation, gives transformers' own features."""
        from transformers import SiglipVisionModel

        oracle = SiglipVisionModel(base.config)
        oracle.load_state_dict(load_file(base.folder / "model.safetensors"))
        with torch.inference_mode():
            expected = oracle.eval()(pixel_values=images()).pooler_output
            torch.testing.assert_close(base.load().eval()(pixel_values=images()).pooler_output, expected)

    def test_half_precision_files_are_loaded_as_float32(self, base, tmp_path):
        """A bf16 base computes in float32."""
        folder = tiny.write_base(tmp_path / "half")
        tensors = load_file(folder / "model.safetensors")
        save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors")
        assert {tensor.dtype for tensor in resolve_base(str(folder)).load().state_dict().values()} == {torch.float32}

    def test_what_is_no_base_is_refused(self, base, tmp_path):
        """Each defect gives one sentence that names the file."""

        def spoil(name, **config):
            folder = tiny.write_base(tmp_path / name)
            values = json.loads((folder / "config.json").read_text()) | config
            (folder / "config.json").write_text(json.dumps(values))
            return folder

        truncated = spoil("truncated")
        data = (truncated / "model.safetensors").read_bytes()
        (truncated / "model.safetensors").write_bytes(data[: len(data) // 2])
        without = spoil("without")
        (without / "model.safetensors").unlink()
        lacking = spoil("lacking")
        tensors = load_file(lacking / "model.safetensors")
        tensors.pop("head.probe")
        save_file(tensors, lacking / "model.safetensors")
        (tmp_path / "empty").mkdir()
        expected = {
            "nowhere": "was not found",
            str(tmp_path / "empty"): "config.json",
            str(truncated): "safetensors",
            str(without): "does not exist",
            str(lacking): "head.probe",
            str(spoil("clip", model_type="clip_vision_model")): "clip_vision_model",
            str(spoil("headless", vision_use_head=False)): "pooling head",
            str(spoil("huge", hidden_size=10**9)): "hidden_size",
            str(spoil("wider", intermediate_size=128)): "requires",
            str(spoil("deeper", num_hidden_layers=3)): "lack",
        }
        for name, words in expected.items():
            with pytest.raises(CheckpointError, match=words):
                resolve_base(name)

    def test_a_hub_model_that_cannot_be_downloaded_says_how_to_get_it(self, monkeypatch):
        """Offline, the default base is not downloaded: the message names the token, a folder and the embedded base."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError) as raised:
            resolve_base("google/medsiglip-448", revision="0" * 40)
        for word in ("HF_TOKEN", "--base FOLDER", "--base embedded"):
            assert word in str(raised.value)

    def test_load_checks_nothing_away(self, base):
        """Two loads are independent copies: training one leaves the other."""
        first, second = base.load(), base.load()
        with torch.no_grad():
            first.head.probe.add_(1)
        assert not np.allclose(first.head.probe.detach(), second.head.probe.detach())
        assert replace(base).digest == base.digest
