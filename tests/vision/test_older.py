"""Checkpoints of the earlier trainer: read, judged, and told apart from what cannot be read."""

from __future__ import annotations

import functools
import json
import pickle
import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from drgate.audit.result import Audit
from drgate.audited import Against
from drgate.checklist import parse_checklist
from drgate.errors import CheckpointError, UsageError
from drgate.manifest import load_manifest
from drgate.metrics import LEAKS
from drgate.preprocessing import FUNDUS_SQUARE, parse_preprocessing
from drgate.record import training_evidence
from drgate.score import score
from drgate.vision.base import Base, resolve_base
from drgate.vision.checkpoint import checkpoint_tensors, lineage, load_checkpoint, save_checkpoint
from drgate.vision.fingerprint import Fingerprint
from drgate.vision.graders import load_grader
from drgate.vision.network import merge_lora
from drgate.vision.older import load_any_checkpoint as load_any
from tests.support import tiny
from tests.support.older import ALPHA, PEFT, RANK, head, images, reference_logits, state_dict, write
from tests.support.verbs import exported as export
from tests.support.verbs import judged as judge
from trainer.config import TrainingConfig
from trainer.run import train

PREPARE = parse_preprocessing(f"{FUNDUS_SQUARE}@{tiny.SIZE}")
STATED = ("--preprocess", PREPARE.label)
load_any_checkpoint = functools.partial(load_any, preprocess=PREPARE)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Base:
    return tiny.tiny_base(tmp_path_factory.mktemp("base") / "tower")


class TestLogits:
    @pytest.mark.parametrize("further", [True, False], ids=["vision_model twice", "vision_model once"])
    @pytest.mark.parametrize("lora", [True, False], ids=["lora", "whole tower"])
    def test_equal_a_forward_pass_from_the_description(self, base, tmp_path, lora, further):
        """In float32, adapters on every linear layer acting, but for the pooling head's out_proj, which never did."""
        state = state_dict(base, lora=lora, further=further)
        checkpoint = load_any_checkpoint(write(tmp_path / "best_model.pth", state), base)
        with torch.inference_mode():
            expected = reference_logits(base, state, images())
            torch.testing.assert_close(checkpoint.build(base)(images()), expected, atol=1e-5, rtol=1e-5)
            bare = {name: tensor for name, tensor in state.items() if ".lora_B." not in name}
            bare |= {name: torch.zeros_like(tensor) for name, tensor in state.items() if ".lora_B." in name}
            assert lora == bool((reference_logits(base, bare, images()) - expected).abs().max() > 1e-2)
        assert (checkpoint.lora is not None) == lora
        if lora:
            assert checkpoint.replaced == ("head.mlp.fc1.weight", "head.mlp.fc2.weight"), "the base's own are not kept"

    def test_another_alpha(self, base, tmp_path):
        """The file does not hold it: twice the rank unless the caller knows better."""
        state = state_dict(base)
        checkpoint = load_any_checkpoint(write(tmp_path / "m.pth", state), base, alpha=12.0)
        with torch.inference_mode():
            expected = reference_logits(base, state, images(), alpha=12.0)
            torch.testing.assert_close(checkpoint.build(base)(images()), expected, atol=1e-5, rtol=1e-5)
        assert not any("alpha" in sentence for sentence in checkpoint.record["limitations"])

    def test_a_tower_that_is_not_the_bases(self, base, tmp_path):
        """Other weights under the adapters are kept, so that the file's own function grades; and that is said."""
        state = state_dict(base)
        name = f"{PEFT}vision_model.encoder.layers.0.mlp.fc1.base_layer.weight"
        state[name] = state[name] + 0.05
        checkpoint = load_any_checkpoint(write(tmp_path / "m.pth", state), base)
        with torch.inference_mode():
            expected = reference_logits(base, state, images())
            torch.testing.assert_close(checkpoint.build(base)(images()), expected, atol=1e-5, rtol=1e-5)
        assert any("1 of" in s and "encoder.layers.0.mlp.fc1.weight" in s for s in checkpoint.record["limitations"])
        assert checkpoint.base.pretraining.startswith("unknown")

    def test_data_parallel_and_half_precision(self, base, tmp_path):
        """`module.` before every name is read past; half precision computes in float32."""
        state = {f"module.{name}": tensor.half() for name, tensor in state_dict(base).items()}
        checkpoint = load_any_checkpoint(write(tmp_path / "m.pth", state), base)
        plain = {name.removeprefix("module."): tensor.float() for name, tensor in state.items()}
        with torch.inference_mode():
            expected = reference_logits(base, plain, images())
            torch.testing.assert_close(checkpoint.build(base)(images()), expected, atol=1e-5, rtol=1e-5)


class TestSavedAgain:
    """What was read is a checkpoint like any other: saved, merged, gone on from."""

    def test_in_our_own_format(self, base, tmp_path):
        """Through a file of drtrain's own nothing is lost, the merged weights of the pooling head included."""
        state = state_dict(base)
        checkpoint = load_any_checkpoint(write(tmp_path / "m.pth", state), base)
        save_checkpoint(tmp_path / "ours.pth", checkpoint)
        loaded = load_checkpoint(tmp_path / "ours.pth")
        assert loaded.tensor_digest == checkpoint.tensor_digest
        assert loaded.record == checkpoint.record
        with torch.inference_mode():
            expected = reference_logits(base, state, images())
            torch.testing.assert_close(loaded.build(base)(images()), expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(merge_lora(loaded.build(base))(images()), expected, atol=1e-5, rtol=1e-5)

    def test_a_network_that_goes_on_from_it_keeps_what_it_replaced(self, base, tmp_path):
        """A step later the checkpoint still holds the tensors that are not the base's, and builds the same network."""
        checkpoint = load_any_checkpoint(write(tmp_path / "m.pth", state_dict(base)), base)
        model = checkpoint.build(base).train()
        model(images()).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
        tower, head = checkpoint_tensors(model)
        save_checkpoint(tmp_path / "next.pth", replace(checkpoint, tower=tower, head=head, record=None))
        again = load_checkpoint(tmp_path / "next.pth")
        assert again.tensor_digest != checkpoint.tensor_digest
        with torch.inference_mode():
            assert torch.equal(again.build(base)(images()), model.eval()(images()))

    def test_a_replaced_tensor_is_part_of_the_digest(self, base, tmp_path):
        """Without it, or with another value, it is another model."""
        checkpoint = load_any_checkpoint(write(tmp_path / "m.pth", state_dict(base)), base)
        without = {name: tensor for name, tensor in checkpoint.tower.items() if name != "head.mlp.fc1.weight"}
        assert replace(checkpoint, tower=without).tensor_digest != checkpoint.tensor_digest


class TestHistory:
    def test_becomes_the_record(self, base, tmp_path):
        """Percent to fractions, epochs from 1, NumPy's scalars to plain values."""
        record = load_any_checkpoint(write(tmp_path / "m.pth", state_dict(base)), base).record
        assert [entry["epoch"] for entry in record["history"]] == [1, 2, 3]
        assert [entry["val_accuracy"] for entry in record["history"]] == pytest.approx([0.61, 0.705, 0.8176])
        assert record["history"][0]["medical_validation"] == {"passes": False, "pdr": True}
        assert (record["history"][1]["train_loss"], record["history"][1]["val_loss"]) == (1.0, 1.5)
        assert record["selected_epoch"] == 3
        assert record["best_val_accuracy"] == pytest.approx(0.8176)
        assert any("percent" in sentence for sentence in record["limitations"])
        assert "are reset" in record["reset"]

    def test_says_what_it_lacks(self, base, tmp_path):
        """Base, preprocessing, alpha, what was left out and ignored: each is named."""
        lacks = " ".join(load_any_checkpoint(write(tmp_path / "m.pth", state_dict(base)), base).record["limitations"])
        for word in (
            "base model",
            "fundus-square-1",
            "parameters",
            "cost",
            "training images",
            "alpha",
            "out_proj",
            "confidence_head",
            "head.mlp.fc1",
        ):
            assert word in lacks, word

    def test_ends_at_its_maximum_and_proves_nothing(self, base, tmp_path):
        """The history in a best checkpoint stops where it was best."""
        checkpoint = load_any_checkpoint(write(tmp_path / "m.pth", state_dict(base)), base)
        evidence = training_evidence(checkpoint.record, tensor_digest=checkpoint.tensor_digest, folder=None)
        assert [entry["epoch"] for entry in evidence["history"]] == [1, 2, 3]
        assert evidence["selected_epoch"] == 3
        assert "n_val" not in evidence
        assert evidence["spend"] == {}

    def test_of_best_values_so_far_shows_no_stability(self, base, tmp_path):
        """A history that no drtrain wrote, and that never falls, may be the best so far: it is left out."""
        curve = [0.6, 0.7, 0.8, 0.8, 0.81, 0.81, 0.82, 0.82, 0.83, 0.83, 0.83]
        path = write(tmp_path / "m.pth", state_dict(base), accuracies=curve, epoch=4)
        checkpoint = load_any_checkpoint(path, base)
        evidence = training_evidence(checkpoint.record, tensor_digest=checkpoint.tensor_digest, folder=None)
        assert "never falls" in evidence["missing"]
        assert "history" not in evidence

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"val_accuracies": [70.0, 81.76]}, "2 evaluations"),
            ({"val_accuracies": [70.0, 75.5, 80.0]}, "also states"),
            ({"val_accuracies": [0.6, 70.5, 81.76]}, "in percent and some are not"),
            ({"val_accuracies": [61.0, 170.5, 81.76]}, "1.705"),
            ({"val_accuracies": [-0.1, 0.5, 0.6], "val_accuracy": 0.6, "best_val_accuracy": 0.6}, "-0.1"),
            ({"val_accuracies": [0.5, float("nan"), 0.6]}, "no validation accuracies"),
            ({"val_accuracies": "0.5"}, "no validation accuracies"),
            ({"val_accuracies": None, "train_losses": None, "medical_validations": None}, "no validation accuracies"),
        ],
    )
    def test_that_cannot_be_assigned_to_epochs_is_left_out(self, base, tmp_path, changes, words):
        """The weights are read all the same; stability then lacks its history, and says why."""
        checkpoint = load_any_checkpoint(write(tmp_path / "m.pth", state_dict(base), **changes), base)
        assert any(words in sentence for sentence in checkpoint.record["limitations"])
        evidence = training_evidence(checkpoint.record, tensor_digest=checkpoint.tensor_digest, folder=None)
        assert words in evidence["missing"]
        assert "history" not in evidence


class TestRefused:
    def test_without_its_base(self, base, tmp_path):
        """The layout does not describe the tower: the sentence names the option."""
        path = write(tmp_path / "older.pth", state_dict(base))
        with pytest.raises(
            CheckpointError, match=r"the base model and the preprocessing\. Give .* --base .*imagenet-str"
        ):
            load_grader(path)
        with pytest.raises(CheckpointError, match=r"record the base model\. Give"):
            load_grader(path, preprocess=PREPARE)
        assert load_grader(path, str(base.folder), PREPARE).outputs(images(2).numpy()).shape == (2, 5)

    def test_without_its_preprocessing(self, base, tmp_path):
        """It is never assumed, and its size is the network's."""
        path = write(tmp_path / "older.pth", state_dict(base))
        with pytest.raises(
            CheckpointError, match=r"record the preprocessing\. State it with --preprocess: one of fundus-s"
        ):
            load_grader(path, str(base.folder))
        with pytest.raises(
            CheckpointError, match=r"448 pixels, but the network takes 28; give --preprocess siglip@28 if"
        ):
            load_grader(path, str(base.folder), parse_preprocessing("siglip"))

    def test_what_does_not_fit(self, base, tmp_path):
        """Missing, foreign, misshapen and non-finite tensors, other ranks, other class counts: a sentence each."""
        good = state_dict(base)
        fc1 = f"{PEFT}vision_model.encoder.layers.1.mlp.fc1"
        pool = f"{PEFT}vision_model.head.mlp.fc1"

        def without(*names: str) -> dict[str, Tensor]:
            return {name: tensor for name, tensor in good.items() if name not in names}

        nan = torch.full_like(good[f"{fc1}.lora_A.default.weight"], float("nan"))
        wide = {"classifier.classifier.0.weight": torch.zeros(1, 1).expand(10**5, 10**5)}
        broken: list[tuple[Any, str]] = [
            (without(f"{fc1}.base_layer.weight"), "lacks the tensors encoder.layers.1.mlp.fc1.weight"),
            (without(f"{fc1}.lora_A.default.weight"), "A, B or its layer is missing"),
            (without("classifier.feature_norm.bias"), "feature_norm.bias"),
            ({**good, "backbone.text_model.embeddings.weight": torch.zeros(1)}, "text_model"),
            ({**good, "classifier.mystery.weight": torch.zeros(1)}, "mystery"),
            ({**good, f"{fc1}.lora_magnitude_vector.default.weight": torch.zeros(1)}, "do not fit"),
            ({**good, f"{fc1}.lora_A.default.weight": nan}, "NaN"),
            ({**good, f"{pool}.lora_A.default.weight": torch.zeros(RANK, 5)}, "do not fit"),
            (
                {
                    **good,
                    f"{pool}.lora_A.default.weight": torch.zeros(2, tiny.WIDTH),
                    f"{pool}.lora_B.default.weight": torch.zeros(64, 2),
                },
                r"ranks \[2, 3\]",
            ),
            ({**good, **head(classes=4)}, "4 classes"),
            (state_dict(base, inert=0.5), "out_proj"),
            ({**good, **wide}, "plain tensor"),
            ({**good, "classifier.classifier.8.bias": 5}, "plain tensor"),
            ({name: tensor for name, tensor in good.items() if name.startswith("classifier")}, "no vision tower"),
            ({**good, f"module.{fc1}.base_layer.weight": good[f"{fc1}.base_layer.weight"]}, "twice"),
            ([1], "dictionary of tensors"),
        ]
        for state, words in broken:
            path = write(tmp_path / "m.pth", state)
            with pytest.raises(CheckpointError, match=words) as raised:
                load_any_checkpoint(path, base)
            assert str(raised.value).startswith(str(path)), words
            assert "\n" not in str(raised.value)

    def test_an_epoch_that_is_none(self, base, tmp_path):
        """Which epoch these weights are of decides what the history says."""
        for epoch in (None, -1, True, "3", 2.0):
            torch.save({"model_state_dict": state_dict(base), "epoch": epoch}, tmp_path / "m.pth")
            with pytest.raises(CheckpointError, match="epoch is"):
                load_any_checkpoint(tmp_path / "m.pth", base)

    @pytest.mark.parametrize("change", [{"hidden_size": 64}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}])
    def test_another_architecture(self, base, tmp_path, change):
        """A tower that is wider, shallower or deeper than the base: the sentence asks for the right one."""
        path = write(tmp_path / "m.pth", state_dict(base))
        other = resolve_base(str(tiny.write_base(tmp_path / "other", **change)))
        with pytest.raises(CheckpointError, match=r"another architecture.*--base"):
            load_any_checkpoint(path, other)

    def test_code_is_never_run(self, base, tmp_path):
        """Beside NumPy's numbers nothing but tensors and plain values is read; no function of a file's is called."""
        marker = tmp_path / "ran"

        class Evil:
            def __reduce__(self) -> Any:
                return (type(marker).touch, (marker,))

        for evil in (Evil(), np.dtype("O"), np.array([1.0]), np.datetime64("2026-01-01"), np.str_("x"), np.void(b"ab")):
            path = write(tmp_path / "m.pth", state_dict(base), best_val_accuracy=evil)
            with pytest.raises(CheckpointError, match="other than tensors"):
                load_any_checkpoint(path, base)
        assert not marker.exists()

    def test_a_bare_pickle_a_pointer_and_a_torn_file(self, base, tmp_path):
        """What is refused of drtrain's own checkpoints is refused of older ones, by the same checks."""
        path = write(tmp_path / "m.pth", state_dict(base))
        whole = path.read_bytes()
        for data, words in (
            (pickle.dumps({"model_state_dict": {}}), "bare pickle"),
            (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
            (whole[: len(whole) // 2], "truncated"),
        ):
            path.write_bytes(data)
            with pytest.raises(CheckpointError, match=words):
                load_any_checkpoint(path, base)


class TestNumpyScalars:
    def test_under_the_name_of_numpy_1(self, base, tmp_path):
        """NumPy 1 pickled scalars as `numpy.core.multiarray.scalar`, without the underscore."""
        new, old = write(tmp_path / "new.pth", state_dict(base)), tmp_path / "old.pth"
        count = 0
        with zipfile.ZipFile(new) as archive, zipfile.ZipFile(old, "w") as renamed:
            for entry in archive.infolist():
                data = archive.read(entry)
                if entry.filename.endswith("data.pkl"):
                    count = data.count(b"cnumpy._core.multiarray\n")
                    data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
                renamed.writestr(entry.filename, data)
        assert count > 0
        read, expected = (load_any_checkpoint(path, base).record for path in (old, new))
        assert read["history"] == expected["history"]

    @pytest.mark.parametrize("value", [np.float32(0.25), np.float16(0.25), np.float64(0.25), np.int64(1), np.uint8(0)])
    def test_of_every_kind_are_numbers(self, base, tmp_path, value):
        """Whatever width NumPy held a figure in, it is the same number."""
        path = write(tmp_path / "m.pth", state_dict(base), accuracies=[0.5, 0.25, 0.75], best_val_accuracy=value)
        assert load_any_checkpoint(path, base).record["best_val_accuracy"] == float(value)


class TestLineage:
    def test_of_a_model_that_goes_on_from_an_older_one_is_unknown(self, base, tmp_path):
        """Nobody can say what an older checkpoint was trained on; neither can its descendants, whatever they add."""
        older = load_any_checkpoint(write(tmp_path / "older.pth", state_dict(base)), base)
        first = lineage(base, older)
        assert first["training_sets"] == "unknown"
        assert "older.pth" in first["why"]
        child = replace(
            older, record={"lineage": first}, fingerprint=Fingerprint.build([b"\0" * 32], tiny.people("10"), None)
        )
        assert lineage(base, child)["training_sets"] == "unknown"

    def test_is_known_where_every_ancestor_tells(self, base):
        """From the base, or from a checkpoint with a fingerprint whose own lineage is known."""
        known = lineage(base, None)
        assert (known["training_sets"], known["pretraining"]) == ("known", base.pretraining)
        parent = tiny.checkpoint_of(tiny.random_model(base), base, record={"lineage": known})
        assert lineage(base, parent)["training_sets"] == "known"
        assert lineage(base, replace(parent, fingerprint=None))["training_sets"] == "unknown"
        assert lineage(base, replace(parent, record={"parent": {"tensor_digest": "x"}}))["training_sets"] == "unknown"


class TestJudged:
    def test_with_a_base_and_without(self, base, tmp_path, drgate, monkeypatch):
        """`drgate evaluate` judges it, and page one says what the file lacks; without --base it exits 2."""
        monkeypatch.chdir(tmp_path)
        eyes = tiny.write_eyes(tmp_path / "eyes", train=1, val=1, test=2)
        path = write(tmp_path / "older.pth", state_dict(base))
        refused = drgate("evaluate", path, "--data", eyes)
        assert refused.code == 2
        assert "--base" in refused.err
        assert refused.err.count("\n") == 1
        ended = drgate(
            "evaluate", path, "--data", eyes, "--base", base.folder, *STATED, "--format", "json", "--workers", "0"
        )
        assert ended.code in (1, 3), ended.err
        plain = json.loads(ended.out)
        said = " ".join(plain["page_one"])
        for words in ("older checkpoint layout", "Training data not fully known", "alpha", "tensors of the base model"):
            assert words in said, words
        stability = next(c for c in plain["criteria"] if c["id"] == "stability")
        assert stability["status"] == "NOT_ASSESSED"
        assert "0 evaluations follow" in stability["reason"]
        cost = next(c for c in plain["criteria"] if c["id"] == "cost")
        assert cost["status"] == "NOT_ASSESSED"
        assert plain["training"]["history"][-1]["val_accuracy"] == pytest.approx(0.8176)

    def test_stability_is_judged_where_the_history_goes_on(self, base, tmp_path, drgate, monkeypatch):
        """A file whose history has five evaluations after its own epoch is held against the limit."""
        monkeypatch.chdir(tmp_path)
        eyes = tiny.write_eyes(tmp_path / "eyes", train=1, val=1, test=2)
        curve = [50.0, 80.0, 81.0, 80.0, 81.76, 80.0, 81.0, 80.5, 81.0, 80.2, 81.1]
        path = write(tmp_path / "older.pth", state_dict(base), accuracies=curve, epoch=4)
        for window, status in ((curve, "FAIL"), ([50.0, 79.0, *curve[1:]], "PASS")):
            write(path, state_dict(base), accuracies=window, epoch=window.index(81.76))
            ended = drgate(
                "evaluate", path, "--data", eyes, "--base", base.folder, *STATED, "--format", "json", "--force"
            )
            stability = next(c for c in json.loads(ended.out)["criteria"] if c["id"] == "stability")
            assert stability["status"] == status, stability

    def test_exported(self, base, tmp_path):
        """What passed becomes ONNX, merged pooling head and all: its logits are the checkpoint's."""
        eyes = tiny.write_eyes(tmp_path / "eyes", train=1, val=1, test=2)
        path = write(tmp_path / "older.pth", state_dict(base))
        where = {"data": eyes, "base": str(base.folder), "workers": 0, "preprocess": PREPARE}
        criteria = [{"id": "accuracy", "at_least": 0.0001}]
        checklist = parse_checklist(
            {"name": "any", "version": 1, "bootstrap": {"resamples": 1000}, "criteria": criteria}, "any"
        )
        judged = judge(path, checklist=checklist, looks=tmp_path / "looks.jsonl", out=tmp_path / "report", **where)
        assert judged.evaluation.verdict == "PASS", judged.evaluation.criteria
        statement = judged.folder / "statement.json"
        out = tmp_path / "bundle"
        asked = {**where, "certificate": statement, "checklist": checklist, "out": out, "allow_unsigned": True}
        with pytest.raises(UsageError, match=r"siglip@28 contradicts statement\.json, which states fundus-square-1@28"):
            export(path, **asked | {"preprocess": parse_preprocessing("siglip@28")})
        bundle = export(path, **asked | {"preprocess": None})  # that of the certificate
        assert bundle.folder == out
        assert json.loads((out / "preprocess.json").read_text()) == PREPARE.content()
        assert judged.evaluation.model.preprocessing.recipe == PREPARE
        with torch.inference_mode():
            expected = reference_logits(base, state_dict(base), images())
        np.testing.assert_allclose(load_grader(out / "model.onnx").outputs(images().numpy()), expected, atol=1e-4)

    def test_the_audit_claims_what_the_fingerprint_tells_of(self, base, tmp_path):
        """A child that knows its own images, of a parent that knows none: nothing is called clean."""
        origin = {"training_sets": "unknown", "why": "older.pth tells nothing.", "pretraining": "unknown"}
        child = tiny.checkpoint_of(tiny.random_model(base), base, record={"lineage": origin})
        save_checkpoint(tmp_path / "child.pth", child)
        eyes = load_manifest(tiny.write_eyes(tmp_path / "eyes", train=1, val=1, test=1)).select("test")
        provenance = score(load_grader(tmp_path / "child.pth"), eyes, workers=0).provenance
        checks = Audit.from_json(provenance["audit"]).checks
        assert not [one.id for one in checks if one.id in LEAKS and one.status == "clean"]
        assert "older.pth tells nothing." in Audit.from_json(provenance["audit"]).check("patients").reason
        assert any("Training data not fully known: older.pth tells nothing." in line for line in provenance["warnings"])
        save_checkpoint(tmp_path / "known.pth", replace(child, record={"lineage": lineage(base, None)}))
        provenance = score(load_grader(tmp_path / "known.pth"), eyes, workers=0).provenance
        assert not any("Lineage" in line for line in provenance["warnings"])
        patients = Audit.from_json(provenance["audit"]).check("patients")
        assert patients.status == "not_assessed"
        assert "no patient key (--patient-key) was given" in patients.reason
        keyed = score(load_grader(tmp_path / "known.pth"), eyes, workers=0, against=Against(key=tiny.PATIENT_KEY))
        assert Audit.from_json(keyed.provenance["audit"]).check("patients").status == "clean"


class TestTrained:
    @pytest.fixture
    def run(self, base, tmp_path):
        """Train one epoch further from an older file; returns the record."""
        eyes = tiny.write_eyes(tmp_path / "eyes")

        def go(lora: bool, **changes: Any) -> dict[str, Any]:
            file = write(tmp_path / "best_model.pth", state_dict(base, lora=lora))
            settings: dict[str, Any] = {
                "dataset": str(eyes),
                "base": base.id,
                "preprocess": PREPARE.label,
                "output_dir": str(tmp_path / "runs" / "first"),
                "num_epochs": 4,
                "learning_rate": 1e-12,
                "batch_size": 10,
                "num_workers": 0,
                "use_lora": "yes" if lora else "no",
                "lora_r": RANK,
                "lora_alpha": ALPHA,
                "augmentation": "none",
                "resume_from_checkpoint": str(file),
            }
            return train(TrainingConfig(**settings | changes), quiet=True)

        return go

    @pytest.mark.parametrize("lora", [True, False], ids=["lora", "whole"])
    def test_goes_on_with_weights_epoch_and_history(self, base, tmp_path, run, lora):
        """Epoch 4 follows the file's third; 81.76 % is what it is held against; what is reset is recorded."""
        record = run(lora)
        assert record["history"][0]["epoch"] == 4
        assert [entry["val_accuracy"] for entry in record["inherited"]] == pytest.approx([0.61, 0.705, 0.8176])
        assert record["parent"]["how"] == "resume_from_checkpoint"
        assert "are reset" in record["parent"]["restored"]
        assert record["lineage"]["training_sets"] == "unknown"
        assert any("older checkpoint layout" in note for note in record["notes"])
        best = load_checkpoint(tmp_path / "runs" / "first" / "best_model.pth")
        # at a rate of nearly nothing the logits are those of the reference pass
        with torch.inference_mode():
            logits = best.build(base)(images())
        reference = reference_logits(base, state_dict(base, lora=lora), images())
        torch.testing.assert_close(logits, reference, atol=1e-4, rtol=0)

    def test_weights_alone(self, base, tmp_path, run):
        """--init_from: epochs count from 1 and nothing is inherited."""
        file = write(tmp_path / "weights.pth", state_dict(base))
        record = run(True, resume_from_checkpoint=None, init_from=str(file), num_epochs=1)
        assert record["history"][0]["epoch"] == 1
        assert record["inherited"] == []
        assert record["parent"]["how"] == "init_from"

    def test_epochs_that_lie_behind(self, run):
        """num_epochs 3 is over before it begins."""
        with pytest.raises(UsageError, match="is too small"):
            run(True, num_epochs=3)
