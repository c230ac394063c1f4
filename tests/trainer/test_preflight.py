"""Before money is spent: what has no effect, what a run takes, what cannot pass, what was tried; and what stops it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps

from drgate.errors import TrainingError, UsageError
from drgate.record import read_record, training_evidence
from drgate.vision.checkpoint import load_training_state
from drgate.vision.processes import Processes
from tests.support import tiny
from trainer.cli import main
from trainer.config import TrainingConfig
from trainer.preflight import findings, preflight
from trainer.ready import prepare, resolved
from trainer.run import train

ALONE = Processes(0, 0, 1, torch.device("cpu"))


@pytest.fixture
def config(base, eyes, tmp_path):
    def build(**changes: Any) -> TrainingConfig:
        settings: dict[str, Any] = {
            "dataset": str(eyes),
            "base": str(base),
            "output_dir": str(tmp_path / "runs" / "a"),
            "learning_rate": 3e-3,
            "batch_size": 10,
            "gradient_accumulation_steps": 1,
            "num_epochs": 30,
            "num_workers": 0,
            "scheduler": "none",
        }
        return TrainingConfig(**settings | changes)

    return build


def found(config: TrainingConfig) -> tuple[str, ...]:
    return findings(prepare(resolved(config, ALONE), ALONE))


class TestFindings:
    def test_a_plain_run_has_none(self, config):
        """The defaults all act."""
        assert found(config()) == ()

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"patience": 30}, "patience 30 cannot stop this run: it has 30 evaluations"),
            ({"patience": 12, "validation_frequency": 3}, "patience 12 cannot stop this run: it has 10"),
            ({"warmup_epochs": 30}, "never reaches 0.003"),
            ({"use_lora": "no", "lora_r": 8}, "lora_r has an effect only with use_lora yes"),
            ({"scheduler_power": 3}, "scheduler_power has an effect only with scheduler polynomial; here it is none"),
            ({"plateau_factor": 0.1}, "plateau_factor has an effect only with scheduler validation_plateau"),
            ({"focal_loss_alpha": 4}, "which Adam cancels. It only affects clipping at max_grad_norm 1"),
            ({"focal_loss_alpha": 4, "max_grad_norm": 0}, "which Adam cancels."),
            ({"class_weight_pdr": 6}, "the training split has equal numbers per grade"),
            ({"class_weight_severe": 8, "sampling": "balanced"}, "because sampling is balanced"),
            ({"validation_frequency": 31, "patience": 1}, "validation_frequency 31 is never reached"),
            ({"checkpoint_frequency": 40}, "checkpoint_frequency 40 is never reached"),
            ({"decide": "epoch 31: val_accuracy > 0.5"}, "is never reached: the run has epochs 1 to 30"),
            ({"freeze_backbone_epochs": 30}, "covers the whole run: only the head learns"),
            ({"batch_size": 40}, "takes 40 images, but the training split has only 30"),
            ({"distributed": "fsdp"}, "has an effect only under torchrun"),
            ({"tracking_uri": "x"}, "tracking_uri has an effect only with track mlflow"),
            ({"usd_per_hour": 0, "budget_usd": 5}, "has no effect at usd_per_hour 0"),
        ],
    )
    def test_what_can_have_no_effect_is_said(self, config, changes, words):
        """Each in a sentence, and nothing else is complained of."""
        said = found(config(**changes))
        assert any(words in sentence for sentence in said), said
        assert len(said) == 1 or "validation_frequency" in changes

    def test_class_weights_on_an_unbalanced_set_are_what_they_are_for(self, config, tmp_path):
        """Fewer PDR images: no complaint."""
        data = tiny.write_eyes(tmp_path / "d")
        lines = (data / "labels.csv").read_text().splitlines()
        kept = [line for line in lines if not line.startswith(("images/train-4-3", "images/train-4-4"))]
        (data / "labels.csv").write_text("\n".join(kept) + "\n")
        assert found(config(dataset=str(data), class_weight_pdr=6)) == ()

    def test_a_budget_needs_a_price(self, config):
        """Money that nobody counts cannot be kept to."""
        with pytest.raises(TrainingError, match="--usd_per_hour"):
            resolved(config(budget_usd=5), ALONE)


class TestDryRun:
    def run(self, config: TrainingConfig, *more: str) -> int:
        settings = config.model_dump(exclude_none=True, exclude={"decide"})
        with pytest.raises(SystemExit) as stop:
            main([*(word for name, value in settings.items() for word in (f"--{name}", str(value))), *more])
        return int(stop.value.code or 0)

    def test_says_what_it_takes_and_writes_nothing(self, config, tmp_path, capfd):
        """Steps, time, memory, cost, the plan for the test split: exit code 0."""
        assert self.run(config(usd_per_hour=2.0), "--dry_run", "--format", "json") == 0
        said = json.loads(capfd.readouterr().out)
        assert said["steps_per_epoch"] == 3
        assert said["global_batch"] == 10
        measured = said["measured"]
        assert measured["usd"] == pytest.approx(measured["seconds"] / 3600 * 2, abs=1e-3)
        assert measured["seconds"] > 30 * measured["seconds_per_epoch"] > 0
        assert measured["peak_bytes"] > 10 << 20
        # ten test images a grade cannot show 90 or 95 %
        assert {"sensitivity:severe_npdr", "sensitivity:pdr"} <= set(said["plan"]["never"])
        assert not (tmp_path / "runs").exists()

    def test_a_person_reads_sentences(self, config, capfd):
        """And the ledger's answer."""
        assert self.run(config(), "--dry_run") == 0
        out = capfd.readouterr().out
        for words in (
            "An optimizer step has 10 images",
            "cost unknown (give --usd_per_hour)",
            "No model can pass",
            "No earlier attempt is known.",
        ):
            assert words in out

    def test_the_splits_are_audited(self, config, capfd):
        """Validation and test against training, and training itself, in sentences with the caller's names."""
        assert self.run(config(), "--dry_run") == 0
        out = capfd.readouterr().out
        assert "Validation and test against training. Clean: patients, eyes, files, pixels, near duplicates" in out
        assert "The training split." in out

    def test_a_copy_in_training_is_a_leak(self, config, tmp_path, capfd, monkeypatch):
        """A validation photograph, mirrored, of somebody else: named, and exit code 2; of a set that is too large to
        read, it says that photographs were not audited."""
        data = tiny.write_eyes(tmp_path / "d", extra="images/copy.png,0,patient-x,L,true,train\n")
        ImageOps.mirror(Image.open(data / "images" / "val-0-0.png")).save(data / "images" / "copy.png")
        leaky = config(dataset=str(data))
        assert self.run(leaky, "--dry_run", "--format", "json") == 2
        told = capfd.readouterr()
        assert "in training (near duplicates 1)" in told.err
        audits = json.loads(told.out)["audits"]
        check = next(one for one in audits[0]["checks"] if one["id"] == "near_duplicates")
        assert check["status"] == "found"
        monkeypatch.setattr("trainer.preflight.AUDITED", 10)
        assert self.run(leaky, "--dry_run") == 0
        lines = capfd.readouterr().out.splitlines()
        about = [line for line in lines if "audited" in line or line.startswith(("Validation", "The training split."))]
        assert about[0].startswith("Photographs were not audited: there are 61, more than 10. Run drgate audit")
        assert about[1] == "Validation and test against training. Clean: patients, eyes, files."
        text = "\n".join(lines)
        for words in ("not opened", "No photograph was read", "test set"):  # what follows from the first sentence
            assert words not in text

    def test_sides_are_called_what_they_are(self, config, tmp_path, capfd):
        """A photograph of training or of validation that cannot be compared is not one "of the test set"."""
        data = tiny.write_eyes(tmp_path / "d", extra="images/small.png,0,patient-x,L,true,val\n")
        Image.open(data / "images" / "val-0-0.png").resize((24, 24)).save(data / "images" / "small.png")
        self.run(config(dataset=str(data)), "--dry_run")
        out = " ".join(capfd.readouterr().out.split())
        assert "1 photograph of the validation and test splits show" in out
        assert "Compared: validation and test " in out
        assert "the test set" not in out

    def test_what_was_tried_is_refused(self, config, tmp_path, capfd):
        """An identical attempt: exit code 2, and --again is named."""
        first = config(num_epochs=1)
        train(first, quiet=True)
        twin = first.model_copy(update={"output_dir": str(tmp_path / "runs" / "b")})
        assert self.run(twin, "--dry_run") == 2
        told = capfd.readouterr().err
        assert "identical to a" in told
        assert '--again "..."' in told
        with pytest.raises(UsageError, match="was made before"):
            train(twin, quiet=True)
        assert train(twin, again="another machine", quiet=True)["again"] == "another machine"

    def test_an_attempt_that_differs_later_is_told_for_what_it_is(self, config, tmp_path, capfd):
        """Longer, otherwise the same: it retraces the first up to its last epoch, and does."""
        first = train(config(num_epochs=2, patience=50), quiet=True)
        last = first["history"][-1]
        longer = config(num_epochs=9, patience=50, output_dir=str(tmp_path / "runs" / "b"))
        second = train(longer)
        assert "repeats a up to epoch" in capfd.readouterr().err
        assert second["history"][1]["val_loss"] == first["history"][1]["val_loss"]
        assert last["epoch"] <= len(second["history"])

    def test_the_measured_step_is_of_this_network(self, config):
        """A ready run is measured without a file written, and gives a rate of images."""
        report = preflight(prepare(resolved(config(), ALONE), ALONE))
        assert report.measured.images_per_second > 0
        assert report.measured.usd is None


class TestStops:
    def test_a_decision_point_ends_the_run_with_exit_code_1(self, config, tmp_path):
        """The rule stands in the record, and a whole state is left that the run can go on from."""
        settings = config(decide="epoch 2: val_accuracy > 0.99", learning_rate=1e-9)
        record = train(settings, quiet=True)
        assert (record["status"], record["rule"]) == ("stopped", "decision")
        assert "epoch 2: val_accuracy > 0.99" in record["reason"]
        assert len(record["history"]) == 2
        _, state = load_training_state(tmp_path / "runs" / "a" / "last.pth")
        assert state is not None
        assert state.values["epoch"] == 2
        on_disk = read_record(tmp_path / "runs" / "a" / "record.jsonl")
        assert on_disk["rule"] == "decision"
        longer = train(config(decide=(), learning_rate=1e-9, num_epochs=3), resume=True, quiet=True)
        assert len(longer["history"]) > 2

    def test_a_budget_ends_the_run_before_it_is_passed(self, config):
        """At a price at which a second costs a dollar: status stopped, and the cost stays near the budget."""
        record = train(config(usd_per_hour=3600, budget_usd=2.0, num_epochs=1000, patience=1000), quiet=True)
        assert (record["status"], record["rule"]) == ("stopped", "budget")
        assert len(record["history"]) < 1000

    def test_a_project_budget_counts_the_attempts_before(self, config, tmp_path):
        """What the first attempt cost is not there for the second; an unknown cost makes it impossible to keep."""
        train(config(usd_per_hour=3600, num_epochs=1), quiet=True)
        second = config(
            usd_per_hour=3600, project_budget_usd=0.5, num_epochs=500, output_dir=str(tmp_path / "runs" / "b")
        )
        record = train(second, quiet=True)
        assert record["rule"] == "project_budget"
        train(config(num_epochs=1, seed=5, output_dir=str(tmp_path / "runs" / "c")), quiet=True)
        third = second.model_copy(update={"output_dir": str(tmp_path / "runs" / "d"), "seed": 7})
        with pytest.raises(TrainingError, match="is unknown"):
            train(third, quiet=True)

    def test_validation_plateau_cuts_the_rate(self, config):
        """With a rate too small to improve anything, every second evaluation halves it."""
        settings = config(
            scheduler="validation_plateau", plateau_patience=2, learning_rate=1e-9, num_epochs=6, patience=50
        )
        rates = [entry["learning_rate"] for entry in train(settings, quiet=True)["history"]]
        assert rates[:6] == pytest.approx([1e-9] * 3 + [5e-10] * 2 + [2.5e-10])

    def test_evaluations_may_lie_epochs_apart(self, config):
        """Every second epoch and the last; five evaluations follow the best all the same."""
        record = train(config(validation_frequency=2, num_epochs=3), quiet=True)
        epochs = [entry["epoch"] for entry in record["history"]]
        assert epochs[:2] == [2, 3]
        assert all(epoch % 2 == 0 for epoch in epochs[2:])
        assert sum(epoch > record["selected_epoch"] for epoch in epochs) >= 5


class TestAncestors:
    def test_validation_patients_that_an_ancestor_was_trained_on_are_refused(
        self, config, tmp_path, monkeypatch, capfd
    ):
        """Dealt by another seed, a child's validation patients were its parent's training patients.

        Whoever has no patient key is told that nobody looked.
        """
        monkeypatch.setenv("DRGATE_PATIENT_KEY", str(tiny.patient_key_file(tmp_path / "patients.key")))
        data = tiny.write_eyes(tmp_path / "d", train=10, val=0, test=0)
        text = (data / "labels.csv").read_text()
        (data / "labels.csv").write_text(text.replace(",split", "").replace(",train\n", "\n"))
        train(config(dataset=str(data), num_epochs=1, seed=3), quiet=True)
        parent = str(tmp_path / "runs" / "a" / "best_model.pth")
        child = config(
            dataset=str(data), num_epochs=1, seed=4, init_from=parent, output_dir=str(tmp_path / "runs" / "b")
        )
        with pytest.raises(TrainingError, match=r"was trained on \d+ of the (validation|test) patients"):
            train(child, quiet=True)
        assert train(child.model_copy(update={"seed": 3}), quiet=True)["lineage"]["training_sets"] == "known"
        monkeypatch.delenv("DRGATE_PATIENT_KEY")
        train(child.model_copy(update={"output_dir": str(tmp_path / "runs" / "c")}))
        said = capfd.readouterr().err
        assert "validation or test patients was not checked: no patient key (--patient_key) was given." in said


class TestLikeness:
    def test_a_data_set_corrected_in_place_is_another(self, config, tmp_path):
        """The same name, another digest: the attempt is new."""
        data = tiny.write_eyes(tmp_path / "d")
        train(config(dataset=str(data), num_epochs=1), quiet=True)
        tiny.eye(2, 77).save(data / "images" / "train-2-0.png")
        second = config(dataset=str(data), num_epochs=1, output_dir=str(tmp_path / "runs" / "b"))
        assert train(second, quiet=True)["status"] == "finished"

    def test_a_falling_schedule_that_was_made_longer_on_the_way_is_another(self, config, tmp_path):
        """Its rate rose again, so a fresh run of that length has other weights; and no window reaches across."""
        train(config(num_epochs=1, scheduler="cosine"), quiet=True)
        longer = train(config(num_epochs=8, scheduler="cosine"), resume=True, quiet=True)
        assert longer["warm_starts"] == [6]
        fresh = config(num_epochs=8, scheduler="cosine", output_dir=str(tmp_path / "runs" / "b"))
        assert train(fresh, quiet=True)["status"] == "finished"
        evidence = training_evidence(longer, tensor_digest=longer["tensor_digest"], folder=None)
        epochs = [entry["epoch"] for entry in evidence["history"]]
        assert longer["selected_epoch"] in epochs
        assert epochs[-1] <= 6 or epochs[0] > 6
