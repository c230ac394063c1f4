"""Training: parameters, loss, schedule, data, the run and what it leaves behind."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch.nn import functional

from drgate.errors import DrgateError, TrainingError, UsageError
from drgate.files import sha256_file
from drgate.manifest import load_manifest
from drgate.preprocessing import FUNDUS_SQUARE, parse_preprocessing
from drgate.record import read_record
from drgate.scale import GRADES
from drgate.vision.base import resolve_base
from drgate.vision.checkpoint import load_checkpoint
from drgate.vision.graders import load_grader
from drgate.vision.images import read_image
from drgate.vision.network import GradingModel, merge_lora
from drgate.vision.processes import Processes
from tests.support import tiny
from trainer.cli import main
from trainer.config import TrainingConfig, read_config
from trainer.data import ImageSet, read_images
from trainer.engine import Engine, class_weights
from trainer.loss import focal_losses
from trainer.origin import Origin
from trainer.run import train
from trainer.sampling import epoch_order, global_batches
from trainer.schedule import rate

PREPARE = parse_preprocessing(f"{FUNDUS_SQUARE}@{tiny.SIZE}")
ALONE = Processes(0, 0, 1, torch.device("cpu"))


@pytest.fixture
def config(base, eyes, tmp_path):
    """A configuration whose run takes about a second."""

    def build(**changes: Any) -> TrainingConfig:
        settings: dict[str, Any] = {
            "dataset": str(eyes),
            "base": str(base),
            "output_dir": str(tmp_path / "runs" / "a"),
            "learning_rate": 3e-3,
            "batch_size": 10,
            "gradient_accumulation_steps": 1,
            "num_epochs": 2,
            "dropout": 0.0,
            "num_workers": 0,
            "scheduler": "none",
            "augmentation": "none",
            "cache_dir": "none",
        }
        return TrainingConfig(**settings | changes)

    return build


class TestConfig:
    def test_flags_override_the_file(self, tmp_path):
        """YAML 1.2: `2e-05` is a number, `no` is a word; what a flag says wins; the rest are defaults."""
        file = tmp_path / "run.yaml"
        file.write_text("dataset: eyes\nlearning_rate: 2e-05\nuse_lora: no\nbatch_size: 4\n")
        read = read_config(file, {"batch_size": "6"})
        assert (read.learning_rate, read.use_lora, read.batch_size, read.lora_r) == (2e-5, "no", 6, 16)
        assert read.base == "google/medsiglip-448"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("dataset: x\nlerning_rate: 1\n", "did you mean learning_rate"),
            ("dataset: x\nlearning_rate: 0\n", "learning_rate is 0: it must be greater than 0"),
            ("dataset: x\ndropout: 1\n", "dropout"),
            ("dataset: x\nuse_lora: maybe\n", "'yes' or 'no'"),
            ("dataset: x\nseed: .nan\n", "seed"),
            ("learning_rate: 1\n", "dataset is missing"),
            ("dataset: x\ndataset: y\n", "not valid YAML"),
            ("- dataset\n", "parameter: value"),
            ("dataset: [\n", "not valid YAML"),
        ],
    )
    def test_what_is_impossible_is_refused(self, tmp_path, text, words):
        """Unknown names, values out of range and broken files, each with the file, the parameter and the reason."""
        (tmp_path / "run.yaml").write_text(text)
        with pytest.raises(UsageError, match=words):
            read_config(tmp_path / "run.yaml", {})

    def test_every_parameter_is_a_flag_with_help(self, capsys):
        """The command line is the configuration: each field, its description and its default."""
        with pytest.raises(SystemExit) as stop:
            main(["--help"])
        shown = " ".join(capsys.readouterr().out.split()).replace("- ", "-")  # where lines are broken
        assert stop.value.code == 0
        assert "drtrain --dataset" in shown
        for name, field in TrainingConfig.model_fields.items():
            assert f"--{name} " in shown
            assert str(field.description).split(";")[0].split(":")[0] in shown
            assert field.default in (None, ()) or field.is_required() or f"[default: {field.default}]" in shown


class TestSchedule:
    def test_warm_up_is_linear_and_reaches_the_peak(self):
        """Four steps of warm-up: a quarter, a half, three quarters, all."""
        rates = [rate(step, scheduler="none", warmup_steps=4, total_steps=10) for step in range(15)]
        assert rates == [0.25, 0.5, 0.75] + [1.0] * 12

    @pytest.mark.parametrize(("scheduler", "middle"), [("linear", 0.5), ("cosine", 0.5)])
    def test_falls_towards_zero_and_stays_at_its_last_positive_value(self, scheduler, middle):
        """Half-way it is one half; it never rises after the peak, is never zero, and is constant after the end."""
        rates = [rate(step, scheduler=scheduler, warmup_steps=10, total_steps=110) for step in range(200)]
        assert rates[10] == 1
        assert rates[60] == pytest.approx(middle)
        assert all(later <= earlier for earlier, later in itertools.pairwise(rates[9:]))
        assert min(rates) > 0
        assert set(rates[109:]) == {rates[109]}

    def test_is_torchs_cosine_annealing(self):
        """Without warm-up the cosine is that of torch.optim.lr_scheduler.CosineAnnealingLR."""
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
        for step in range(20):
            assert rate(step, scheduler="cosine", warmup_steps=0, total_steps=20) == pytest.approx(
                oracle.get_last_lr()[0]
            )
            optimizer.step()
            oracle.step()

    def test_a_warm_up_longer_than_the_run_ends_with_it(self):
        """The rate that the last chosen epoch had is kept while the run is watched."""
        rates = [rate(step, scheduler="none", warmup_steps=30, total_steps=10) for step in range(15)]
        assert rates[9:] == [pytest.approx(10 / 30)] * 6


class TestLoss:
    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * 3
    grades = torch.arange(40) % 5

    def test_without_gamma_and_weights_it_is_cross_entropy(self):
        """gamma 0, alpha 1, weights 1: the oracle is torch's."""
        losses = focal_losses(self.logits, self.grades, alpha=1, gamma=0, weights=torch.ones(5))
        torch.testing.assert_close(losses, functional.cross_entropy(self.logits, self.grades, reduction="none"))

    def test_follows_the_formula(self):
        """alpha w (1 - p)^gamma (-log p), computed in plain Python."""
        weights = [1.0, 1.0, 1.0, 8.0, 6.0]
        losses = focal_losses(self.logits, self.grades, alpha=4, gamma=6, weights=torch.tensor(weights))
        for row, grade, loss in zip(self.logits.tolist(), self.grades.tolist(), losses.tolist(), strict=True):
            p = math.exp(row[grade]) / sum(math.exp(value) for value in row)
            assert loss == pytest.approx(4 * weights[grade] * (1 - p) ** 6 * -math.log(p), rel=1e-4, abs=1e-12)

    def test_weights_multiply_the_loss_of_their_grade_only(self):
        """Doubling the weight of PDR doubles the loss and the gradient of PDR images, and nothing else."""
        gradients = []
        for weight in (1.0, 2.0):
            logits = self.logits.clone().requires_grad_()
            weights = torch.tensor([1.0, 1, 1, 1, weight])
            focal_losses(logits, self.grades, alpha=1, gamma=2, weights=weights).sum().backward()
            gradients.append(logits.grad)
        pdr = self.grades == 4
        torch.testing.assert_close(gradients[1][pdr], 2 * gradients[0][pdr])
        torch.testing.assert_close(gradients[1][~pdr], gradients[0][~pdr])

    @pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 6.0])
    def test_gradients_stay_finite_where_the_model_is_certain(self, gamma):
        """Certain and right, certain and wrong: finite loss, finite gradient."""
        logits = torch.tensor([[200.0, 0, 0, 0, 0], [0, 200.0, 0, 0, 0]], requires_grad=True)
        losses = focal_losses(logits, torch.tensor([0, 0]), alpha=1, gamma=gamma, weights=torch.ones(5))
        losses.sum().backward()
        assert torch.isfinite(losses).all()
        assert torch.isfinite(logits.grad).all()

    def test_class_weights_come_from_their_parameters(self, config):
        """Severe is grade 3, PDR grade 4."""
        assert class_weights(config(class_weight_severe=8, class_weight_pdr=6)).tolist() == [1, 1, 1, 8, 6]


def engine_of(config: TrainingConfig) -> Engine:
    torch.manual_seed(config.seed)
    base = resolve_base(config.base)
    return Engine(config, Origin("base").build(config, base), ALONE)


def random_images(n: int) -> ImageSet:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (n, tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)
    return ImageSet(pixels, np.arange(n, dtype=np.int64) % 5, [], PREPARE)


def steps_of(engine: Engine, images: ImageSet, most: int) -> GradingModel:
    """The first optimizer steps of a run on these images, as `train` asks for them."""
    config = engine.config
    number = 0
    for epoch in range(1, 10):
        order = epoch_order(images.grades, seed=config.seed, epoch=epoch, sampling=config.sampling)
        steps = list(
            global_batches(
                order, batch_size=config.batch_size, accumulation=config.gradient_accumulation_steps, world_size=1
            )
        )
        engine.freeze(epoch <= config.freeze_backbone_epochs)
        for step in steps:
            fraction = rate(
                number,
                scheduler=config.scheduler,
                warmup_steps=config.warmup_epochs * len(steps),
                total_steps=config.num_epochs * len(steps),
                cycles=config.scheduler_cycles,
                power=config.scheduler_power,
            )
            parts = step.batches[0]
            engine.step(
                images,
                parts,
                [np.zeros_like(part) for part in parts],
                epoch=epoch,
                number=number,
                total=step.images,
                rate=config.learning_rate * fraction,
            )
            number += 1
            if number == most:
                return engine.model
    raise AssertionError("too few steps")


def first_gradients(config: TrainingConfig, images: int) -> dict[str, torch.Tensor]:
    """The gradients that the first optimizer step was made with."""
    engine = engine_of(config)
    found: dict[str, torch.Tensor] = {}

    def keep() -> None:
        found.update({name: p.grad.clone() for name, p in engine.model.named_parameters() if p.grad is not None})

    engine.optimizer.step = keep
    steps_of(engine, random_images(images), 1)
    return found


class TestParameters:
    changes: ClassVar = {
        "learning_rate": 1e-3,
        "batch_size": 5,
        "gradient_accumulation_steps": 2,
        "warmup_epochs": 1,
        "scheduler": "linear",
        "num_epochs": 1,
        "weight_decay": 0.5,
        "max_grad_norm": 0.01,
        "use_lora": "no",
        "lora_r": 2,
        "lora_alpha": 2,
        "dropout": 0.5,
        "focal_loss_alpha": 0.01,
        "focal_loss_gamma": 0,
        "class_weight_severe": 8,
        "class_weight_pdr": 6,
        "seed": 1,
        "precision": "bf16",
        "augmentation": "fundus",
        "sampling": "balanced",
        "freeze_backbone_epochs": 1,
    }

    @pytest.mark.parametrize("name", changes)
    def test_each_parameter_of_the_optimisation_acts(self, config, name):
        """Changing it alone gives another network after three steps."""
        usual = {"precision": "fp32", "lora_alpha": 32, "scheduler": "cosine"}
        networks = [
            steps_of(engine_of(config(**usual | change)), random_images(20), 3).eval()
            for change in ({}, {name: self.changes[name]})
        ]
        images = torch.rand(4, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            first, second = (network(images) for network in networks)
        assert not torch.equal(first, second)

    @pytest.mark.parametrize(
        ("scheduler", "change"),
        [("cosine_with_restarts", {"scheduler_cycles": 5}), ("polynomial", {"scheduler_power": 5.0})],
    )
    def test_the_parameters_of_a_schedule_act_with_it(self, config, scheduler, change):
        """Other cycles, another power: another network."""
        weights = [
            steps_of(engine_of(config(scheduler=scheduler, **settings)), random_images(20), 3).classifier.state_dict()
            for settings in ({}, change)
        ]
        assert not torch.equal(weights[0]["classifier.8.weight"], weights[1]["classifier.8.weight"])

    def test_a_frozen_backbone_rests_and_then_learns(self, config):
        """In the first epoch only the head moves; adapters move from the second on."""
        engine = engine_of(config(freeze_backbone_epochs=1, lora_r=4))
        before = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
        steps_of(engine, random_images(20), 2)  # the whole first epoch
        moved = {name for name, p in engine.model.named_parameters() if not torch.equal(p, before[name])}
        assert moved
        assert all(name.startswith("classifier.") for name in moved)
        steps_of(engine, random_images(20), 4)
        moved = {name for name, p in engine.model.named_parameters() if not torch.equal(p, before[name])}
        assert any(".lora_B." in name for name in moved)

    def test_gradient_checkpointing_gives_the_same_gradients(self, config):
        """It trades time for memory and nothing else."""
        plain = first_gradients(config(), 10)
        again = first_gradients(config(gradient_checkpointing="yes"), 10)
        assert plain.keys() == again.keys()
        for name, gradient in plain.items():
            torch.testing.assert_close(again[name], gradient, msg=name)

    def test_every_adapter_gets_a_gradient_and_merging_changes_nothing(self, config):
        """Of each LoRA pair B has a gradient at once and A from the second step on; merged logits equal unmerged."""
        engine = engine_of(config(lora_r=4))
        model = steps_of(engine, random_images(20), 1)
        found: dict[str, torch.Tensor] = {}
        engine.optimizer.step = lambda: found.update(
            {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        )
        steps_of(engine, random_images(20), 1)
        adapters = [name for name, _ in model.named_parameters() if ".lora_" in name]
        assert len(adapters) == 2 * 6 * 2, "six linear layers in each of two encoder layers"
        assert all(found[name].abs().max() > 0 for name in adapters)
        images = torch.rand(4, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(1))
        model.eval()
        with torch.inference_mode():
            before = model(images)
            torch.testing.assert_close(merge_lora(model)(images), before, rtol=1e-5, atol=1e-5)


class TestAccumulation:
    @pytest.mark.parametrize("images", [24, 21], ids=["four whole batches", "a short last batch"])
    def test_four_batches_of_six_are_one_of_twenty_four(self, config, images):
        """The gradient of an optimizer step is that of all its images at once, with class weights and focal loss."""
        settings = {"class_weight_severe": 8, "class_weight_pdr": 6, "focal_loss_gamma": 2, "max_grad_norm": 0}
        parts = config(batch_size=6, gradient_accumulation_steps=4, precision="fp32", **settings)
        whole = config(batch_size=24, gradient_accumulation_steps=1, precision="fp32", **settings)
        expected = first_gradients(whole, images)
        actual = first_gradients(parts, images)
        assert actual.keys() == expected.keys()
        assert any(".lora_B." in name for name in actual)
        for name, gradient in expected.items():
            torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-7, msg=name)

    def test_the_gradient_is_that_of_the_mean_loss(self, config):
        """The weighted losses are summed and divided by the number of images: the oracle is torch's autograd."""
        settings = config(batch_size=10, class_weight_pdr=6, focal_loss_gamma=0, max_grad_norm=0)
        found = first_gradients(settings, 10)
        model, images = engine_of(settings).model, random_images(10)
        logits = model(torch.from_numpy(images.preprocess.scaled(images.pixels)))
        losses = functional.cross_entropy(logits, torch.from_numpy(images.grades), reduction="none")
        weights = torch.where(torch.from_numpy(images.grades) == 4, 6.0, 1.0)
        ((losses * weights).sum() / 10).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7, msg=name)

    def test_the_gradient_is_clipped_to_the_given_norm(self, config):
        """max_grad_norm scales the whole gradient down to that length."""
        found = first_gradients(config(max_grad_norm=0.01, precision="fp32"), 24)
        assert math.sqrt(sum(float(g.square().sum()) for g in found.values())) == pytest.approx(0.01, rel=1e-3)


class TestRun:
    def test_leaves_a_model_that_knows_where_it_came_from(self, config, eyes, base, tmp_path, capfd):
        """The whole record, in the file beside it and in the best checkpoint, agrees with what can be recomputed."""
        key = str(tiny.patient_key_file(tmp_path / "patients.key"))
        record = train(config(num_epochs=3, usd_per_hour=3.6, checkpoint_frequency=2, patient_key=key))
        folder = tmp_path / "runs" / "a"
        history = record["history"]
        assert [entry["epoch"] for entry in history] == list(range(1, len(history) + 1))
        selected = record["selected_epoch"]
        assert len(history) == max(3, selected + 5)
        chosen = [entry["val_accuracy"] for entry in history[:3]]
        assert selected == 1 + chosen.index(max(chosen)), "the earliest of the best among num_epochs"
        assert record["status"] == "finished"

        best = load_checkpoint(folder / "best_model.pth")
        assert best.record == record
        assert best.epoch == selected
        assert best.tensor_digest == record["tensor_digest"]
        assert load_checkpoint(folder / "last.pth").epoch == len(history)
        assert {file.name for file in folder.iterdir()} == {
            "best_model.pth",
            "last.pth",
            "previous.pth",
            "record.jsonl",
            *(f"epoch_{epoch:02d}.pth" for epoch in range(2, len(history) + 1, 2)),
        }

        # Validation figures, recomputed by the grader and scikit-learn from the image files.
        grader = load_grader(folder / "best_model.pth")
        val = load_manifest(eyes).select("val")
        batch = np.stack([grader.preprocessing(read_image(val.path(image))) for image in val.table["image"]])
        grades = val.table["grade"].to_numpy(dtype=int)
        matrix = confusion_matrix(grades, grader.outputs(batch).argmax(axis=1), labels=range(5))
        entry = history[selected - 1]
        assert entry["val_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())
        for index, grade in enumerate(GRADES):
            assert entry["sensitivity"][grade]["k"] == matrix[index, index]
            assert entry["sensitivity"][grade]["n"] == matrix[index].sum()
            rest = np.delete(matrix, index, axis=0)
            assert entry["specificity"][grade]["k"] == rest.sum() - rest[:, index].sum()
            assert entry["specificity"][grade]["n"] == rest.sum()
        assert entry["n_val"] == record["validation_set"]["n"] == 20
        assert record["validation_set"]["digest"] == val.digest()
        assert record["dataset_digest"] == load_manifest(eyes).digest()
        assert record["base"]["digest"] == resolve_base(str(base)).digest
        assert record["parameters"]["learning_rate"] == 3e-3
        assert record["spend"]["usd"] == pytest.approx(record["seconds"] * 0.001, abs=2e-4)

        # Who was in training can be asked later.
        assert best.fingerprint is not None
        assert len(best.fingerprint.images) == 30
        table = load_manifest(eyes).table
        trained_on = table["patient"][table["split"] == "train"].nunique()
        assert trained_on > 0
        assert best.fingerprint.shared_patients(table, tiny.PATIENT_KEY) == trained_on
        assert best.fingerprint.unchecked(tiny.PATIENT_KEY) == ""

        shown = [line for line in capfd.readouterr().err.splitlines() if line.startswith("epoch ")]
        severe = history[0]["sensitivity"]["severe_npdr"]
        assert f"severe NPDR {severe['k']}/{severe['n']}" in shown[0]
        assert len(shown) == len(history)

    def test_the_record_on_disk_tells_the_same(self, config, finished):
        """record.jsonl, read line by line, gives the table in the checkpoint."""
        folder, record = finished(config(num_epochs=1))
        read = read_record(folder / "record.jsonl")
        for name in ("status", "reason", "parameters", "validation_set", "selection_rule", "environment"):
            assert read[name] == record[name], name
        history = [{key: value for key, value in entry.items() if key != "time"} for entry in read["history"]]
        assert history == record["history"]
        assert read["digests"][record["tensor_digest"]] == record["selected_epoch"]

    def test_the_same_seed_gives_the_same_weights(self, config, tmp_path):
        """Order of images, initial weights and dropout all follow from the seed; another seed is another run."""
        digests = []
        for name, seed in (("x", 1), ("y", 1), ("z", 2)):
            settings = config(seed=seed, dropout=0.3, num_epochs=1, output_dir=str(tmp_path / name))
            record = train(settings, again="to compare", quiet=True)
            digests.append(record["tensor_digest"])
        assert digests[0] == digests[1] != digests[2]

    def test_early_stopping_leaves_five_evaluations_after_the_best(self, config):
        """With a rate too small to improve anything the first epoch stays best: patience 2 still waits for five."""
        record = train(config(learning_rate=1e-12, num_epochs=40, patience=2), quiet=True)
        assert (record["status"], record["selected_epoch"], len(record["history"])) == ("stopped", 1, 6)
        assert "5 evaluations" in record["reason"]

    def test_epochs_that_are_too_early_are_not_chosen(self, config, tmp_path):
        """With a rate too small to improve anything the first epoch that may be chosen is the best one."""
        record = train(config(learning_rate=1e-12, num_epochs=4, select_from_epoch=3), quiet=True)
        assert record["selected_epoch"] == 3
        assert [entry["selectable"] for entry in record["history"]][:5] == [False, False, True, True, False]
        assert len(record["history"]) == 8
        with pytest.raises(TrainingError, match="is after the last"):
            train(config(num_epochs=2, select_from_epoch=3, output_dir=str(tmp_path / "b")), quiet=True)

    def test_full_fine_tuning(self, config, base, tmp_path):
        """Without LoRA the whole tower moves, and the checkpoint needs no base model any more."""
        train(config(use_lora="no", num_epochs=1, learning_rate=1e-3), quiet=True)
        checkpoint = load_checkpoint(tmp_path / "runs" / "a" / "best_model.pth")
        assert checkpoint.lora is None
        before = resolve_base(str(base)).load().state_dict()
        assert all(
            not torch.equal(checkpoint.tower[name], before[name]) for name in before if "k_proj.bias" not in name
        )
        checkpoint.build()

    def test_training_learns(self, config):
        """Ten epochs on eyes whose colour is their grade: the loss falls and most of them are told apart."""
        record = train(config(num_epochs=10, use_lora="yes", lora_r=4), quiet=True)
        assert record["history"][9]["train_loss"] < 0.7 * record["history"][0]["train_loss"]
        assert max(entry["val_accuracy"] for entry in record["history"]) > 0.5

    def test_earlier_attempts_are_counted(self, config, tmp_path):
        """Spend of runs beside this one, killed ones too; one that does not tell its price makes the sum unknown."""
        first = train(config(usd_per_hour=7.2, num_epochs=1), again="to count", quiet=True)
        assert first["spend"] | {"usd": 0} == {
            "usd_per_hour": 7.2,
            "usd": 0,
            "earlier_attempts": 0,
            "earlier_usd": 0,
        }
        file = tmp_path / "runs" / "a" / "record.jsonl"
        killed = tmp_path / "runs" / "killed"
        killed.mkdir()
        lines = file.read_text().splitlines(keepends=True)
        (killed / "record.jsonl").write_text("".join(lines[:2]) + lines[2][:20])
        spent_by_killed = json.loads(lines[1])["usd"]
        second = train(
            config(usd_per_hour=0, num_epochs=1, output_dir=str(tmp_path / "runs" / "b")), again="to count", quiet=True
        )
        assert second["spend"]["usd"] == 0
        assert second["spend"]["earlier_attempts"] == 2
        assert second["spend"]["earlier_usd"] == pytest.approx(first["spend"]["usd"] + spent_by_killed)
        train(config(num_epochs=1, output_dir=str(tmp_path / "runs" / "c")), again="to count", quiet=True)
        fourth = train(config(num_epochs=1, output_dir=str(tmp_path / "runs" / "d")), again="to count", quiet=True)
        assert fourth["spend"]["earlier_attempts"] == 4
        assert fourth["spend"]["earlier_usd"] is None

    def test_divergence_ends_the_run_and_is_told(self, config, tmp_path):
        """A loss that is no number any more is no reason to go on, nor to keep such weights."""
        with pytest.raises(TrainingError, match="diverged in epoch 1"):
            train(config(focal_loss_alpha=1e38, max_grad_norm=0), quiet=True)
        record = read_record(tmp_path / "runs" / "a" / "record.jsonl")
        assert record["status"] == "failed"
        assert not (tmp_path / "runs" / "a" / "best_model.pth").exists()


class TestInterrupted:
    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_leaves_a_truthful_record_and_a_whole_checkpoint(self, base, eyes, tmp_path, sent):
        """Ctrl-C and SIGTERM: the exit code is not that of success, the best epoch so far is whole and knows why."""
        folder = tmp_path / "run"
        arguments = {
            "--dataset": eyes,
            "--base": base,
            "--output_dir": folder,
            "--num_epochs": 5000,
            "--patience": 5000,
            "--batch_size": 10,
            "--num_workers": 2,
        }
        command = [sys.executable, "-m", "trainer", *(str(word) for pair in arguments.items() for word in pair)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            deadline = time.monotonic() + 120
            while not (folder / "best_model.pth").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            os.kill(process.pid, sent)
            _, told = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in told
        assert "A signal ended the run in epoch" in told.splitlines()[-1]
        best = load_checkpoint(folder / "best_model.pth")
        assert best.record is not None
        assert best.record["status"] == "interrupted"
        assert "signal" in best.record["reason"]
        assert read_record(folder / "record.jsonl")["status"] == "interrupted"
        assert not list(folder.glob(".*tmp"))


class TestBadInput:
    @pytest.fixture
    def refused(self, config, tmp_path):
        """Train on a data set that must be refused before anything is written; returns the sentence."""

        def run(dataset: Path, **changes: Any) -> str:
            with pytest.raises(DrgateError) as raised:
                train(config(dataset=str(dataset), **changes), quiet=True)
            assert not (tmp_path / "runs" / "a").exists()
            return str(raised.value)

        return run

    def test_no_validation_split(self, refused, tmp_path):
        """The best epoch cannot be chosen without one; the sentence says what to do."""
        assert "'val'" in refused(tiny.write_eyes(tmp_path / "d", val=0))

    def test_a_grade_that_training_never_sees(self, refused, tmp_path):
        """The grade is named."""
        folder = tiny.write_eyes(tmp_path / "d")
        lines = (folder / "labels.csv").read_text().splitlines()
        (folder / "labels.csv").write_text("\n".join(line for line in lines if "train-3" not in line))
        assert "Severe NPDR" in refused(folder)

    def test_a_patient_on_both_sides(self, refused, tmp_path):
        """Validating on a training patient's other eye flatters."""
        folder = tiny.write_eyes(tmp_path / "d")
        table = pd.read_csv(folder / "labels.csv", index_col="image", dtype=str)
        table.loc["images/val-2-0.png", "patient"] = shared = table.loc["images/train-2-0.png", "patient"]
        table.to_csv(folder / "labels.csv")
        said = refused(folder)
        assert "patients are in more than one split (1 of them, with 2 images)" in said
        assert shared not in said

    def test_a_file_on_both_sides(self, refused, tmp_path):
        """So does the same file under another name."""
        folder = tiny.write_eyes(tmp_path / "d")
        (folder / "images" / "test-2-0.png").write_bytes((folder / "images" / "train-2-0.png").read_bytes())
        assert "test-2-0" in refused(folder)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_an_unreadable_image_is_named(self, refused, tmp_path, workers):
        """In training it is an error, found before the first step."""
        folder = tiny.write_eyes(tmp_path / "d")
        (folder / "images" / "val-4-1.png").write_bytes(b"no image")
        assert "val-4-1.png" in refused(folder, num_workers=workers)

    def test_a_base_that_is_not_there(self, config):
        """The sentence offers the embedded base."""
        with pytest.raises(DrgateError, match="embedded"):
            train(config(base="nowhere"), quiet=True)

    def test_half_precision_without_a_gpu(self, config, monkeypatch):
        """fp16 on a CPU is refused before anything is read."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(TrainingError, match="fp16"):
            train(config(precision="fp16"), quiet=True)

    def test_a_folder_that_holds_a_run(self, config, finished):
        """No run is overwritten, not even a finished one."""
        folder, _ = finished(config(num_epochs=1))
        before = sha256_file(folder / "best_model.pth")
        with pytest.raises(UsageError, match="--output_dir"):
            train(config(num_epochs=1, output_dir=str(folder)), quiet=True)
        assert sha256_file(folder / "best_model.pth") == before

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--lerning_rate", "1"], "did you mean --learning_rate"),
            (["--learning-rate", "fast", "--dataset", "x"], "--learning_rate is 'fast'"),
            (["--dataset", "nowhere"], "nowhere does not exist"),
            (["--dataset", "x", "--config", "none.yaml"], "none.yaml cannot be read"),
            (["--batch_size", "8"], "--dataset is missing"),
            (["--dataset"], "requires an argument"),
        ],
    )
    def test_the_command_line_says_one_sentence(self, arguments, words, capsys, tmp_path, monkeypatch):
        """Exit code 2, one line on standard error, nothing on standard output, nothing written."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        captured = capsys.readouterr()
        assert stop.value.code == 2
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert words in captured.err
        assert list(tmp_path.iterdir()) == []


class TestData:
    def test_images_that_do_not_fit_in_memory_are_the_same_from_disk(self, eyes, tmp_path, monkeypatch):
        """Beyond the limit the prepared images lie in a nameless file; what is read there is what was decoded."""
        rows = load_manifest(eyes).select("val")
        prepare = parse_preprocessing(f"{FUNDUS_SQUARE}@{tiny.SIZE}")
        expected = read_images(rows, prepare, workers=0, folder=tmp_path)
        monkeypatch.setattr("trainer.data._IN_MEMORY", 0)
        actual = read_images(rows, prepare, workers=0, folder=tmp_path)
        assert isinstance(actual.pixels, np.memmap)
        assert np.array_equal(actual.pixels, expected.pixels)
        assert actual.hashes == expected.hashes
        assert list(tmp_path.iterdir()) == []

    def test_ungradable_rows_are_left_out_and_said(self, config, base, tmp_path):
        """They have no grade to learn; the note stands in the record."""
        folder = tiny.write_eyes(tmp_path / "d", extra="images/dark.png,,train-9,R,false,train\n")
        tiny.eye(0, 99).save(folder / "images" / "dark.png")
        record = train(config(dataset=str(folder), num_epochs=1), quiet=True)
        assert record["training_set"]["n"] == 30
        assert record["notes"] == ["1 of 31 train images were left out: they have no grade."]

    def test_a_row_with_a_grade_is_learnt_whatever_gradable_says(self, config, base, tmp_path):
        folder = tiny.write_eyes(tmp_path / "d", extra="images/dark.png,2,train-9,R,false,train\n")
        tiny.eye(2, 99).save(folder / "images" / "dark.png")
        record = train(config(dataset=str(folder), num_epochs=1), quiet=True)
        assert (record["training_set"]["n"], record["notes"]) == (31, [])

    def test_a_data_set_without_splits_is_split_by_patient(self, config, tmp_path):
        """And the record says by which seed."""
        folder = tiny.write_eyes(tmp_path / "d", train=10, val=0, test=0)
        text = (folder / "labels.csv").read_text()
        (folder / "labels.csv").write_text(text.replace(",split", "").replace(",train\n", "\n"))
        record = train(config(dataset=str(folder), num_epochs=1, seed=3), quiet=True)
        assert "seed 3" in record["notes"][0]
        assert record["training_set"]["n"] + record["validation_set"]["n"] < 50

    def test_json_on_standard_output_is_the_record(self, base, eyes, tmp_path, capfd):
        """`--format json`: the record alone, parsable; `-` and `_` in flags are the same."""
        flags = f"--dataset {eyes} --base {base} --output-dir {tmp_path / 'r'} --num-epochs 1 --batch_size 10"
        with pytest.raises(SystemExit) as stop:
            main([*flags.split(), "--num_workers", "2", "--format", "json", "--experiment_name", "first"])
        assert stop.value.code == 0
        record = json.loads(capfd.readouterr().out)
        assert record["experiment_name"] == "first"
        assert record["selected_epoch"] == 1
