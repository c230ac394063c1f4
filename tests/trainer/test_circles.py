"""No circles: which earlier attempts a proposed run repeats, how far it retraces them, and what is merely near."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.material import REAL_DATA
from trainer.attempts.circles import Proposal, compare, same
from trainer.attempts.ledger import Attempt, Evaluated, Origin, Parent, read_ledger
from trainer.attempts.logbook import import_log

TOLD: dict[str, Any] = {
    "learning_rate": 2e-05,
    "batch_size": 6,
    "gradient_accumulation_steps": 4,
    "use_lora": "yes",
    "lora_r": 16,
    "scheduler": "none",
    "warmup_epochs": 3,
    "weight_decay": 1e-05,
    "patience": 15,
    "num_epochs": 60,
}
CURVE = (Evaluated(17, 0.782), Evaluated(21, 0.792), Evaluated(24, 0.794))
WRITTEN = Origin("log.md", "0" * 64, "Attempt #1", (1, 9))


def attempt(name: str = "attempt-1", **changes: Any) -> Attempt:
    """An attempt of a log, at 79.4 % in epoch 24; `changes` of its parameters."""
    return Attempt(name, TOLD | changes, "failed", history=CURVE, best=CURVE[-1], origin=WRITTEN)


def own(name: str = "first", **changes: Any) -> Attempt:
    """A run's own record of the same."""
    return replace(attempt(name, **changes), origin=None)


def proposed(**changes: Any) -> Proposal:
    return Proposal(TOLD | changes)


class TestIdentical:
    def test_nothing_differs(self):
        """An attempt once more."""
        report = compare(proposed(), [attempt()])
        assert [likeness.attempt.name for likeness in report.identical] == ["attempt-1"]
        assert report.retraced == report.nearest == ()
        words = "identical to attempt 1, which had a validation accuracy of 79.4 % in epoch 24."
        assert report.identical[0].sentence == words

    @pytest.mark.parametrize(
        ("one", "other"),
        [("2e-05", 0.00002), (32, 32.0), ("16", 16), ("yes", True), ([], None), ((1, "2"), [1, 2]), (None, None)],
    )
    def test_values_compare_by_what_they_mean(self, one, other):
        """Text of a log, text of a flag, and a number of a YAML file."""
        assert same(one, other)

    @pytest.mark.parametrize(("one", "other"), [(2e-5, 3e-5), ("none", None), ("1e-5", "none"), ([1], [2]), (1, "yes")])
    def test_other_values_differ(self, one, other):
        """`none` is a scheduler's name, not the absence of one."""
        assert not same(one, other)

    def test_places_do_not_count(self):
        """Another folder, name, price or number of workers is no other attempt."""
        changed = proposed(output_dir="runs/b", experiment_name="b", usd_per_hour=3, num_workers=8, runs="elsewhere")
        assert compare(changed, [own(output_dir="runs/a", experiment_name="a", num_workers=2)]).identical

    def test_a_parameter_that_does_nothing_does_not_count(self):
        """The rank of adapters that are not there hides no circle."""
        assert compare(proposed(use_lora="no", lora_r=8), [attempt(use_lora="no")]).identical
        assert not compare(proposed(lora_r=8), [attempt()]).identical

    def test_what_is_not_told_equals_anything_and_is_said(self):
        """A log tells less than a run."""
        (likeness,) = compare(proposed(seed=7, dropout=0.4), [attempt()]).identical
        assert likeness.unrecorded == ("seed", "dropout")
        assert likeness.sentence.endswith("not recorded there, and assumed equal: seed, dropout.")

    def test_many_unrecorded_ones_are_counted(self):
        """The sentence stays one; the report has all names."""
        more = {f"parameter_{i}": i for i in range(9)}
        (likeness,) = compare(proposed(**more), [attempt()]).identical
        assert "parameter_5 and 3 more" in likeness.sentence
        assert likeness.to_json()["unrecorded"] == list(more)

    def test_an_attempt_that_tells_next_to_nothing_is_near(self):
        """It would be identical to everything."""
        little = replace(attempt(), parameters={"learning_rate": 2e-05, "patience": 15})
        report = compare(proposed(), [little])
        assert not report.identical
        assert "records too little" in report.nearest[0].sentence

    def test_a_run_that_died_before_its_first_epoch_is_near(self):
        """Nothing was learned from it; one that is under way is another matter."""
        dead = replace(own(), history=(), best=None)
        assert "before its first epoch" in compare(proposed(), [dead]).nearest[0].sentence
        assert compare(proposed(), [replace(dead, status="running")]).identical

    def test_a_parameter_that_is_unknown_today_differs(self):
        """What an old trainer or another one had cannot be repeated."""
        (likeness,) = compare(proposed(), [attempt(mixup=0.2)]).nearest
        assert likeness.differing == {"mixup": (0.2, None)}

    def test_a_killed_run_is_to_be_resumed(self):
        """The sentence says how."""
        killed = replace(own(), status="killed", folder=Path("runs/first"))
        assert "--resume continues runs/first" in compare(proposed(), [killed]).identical[0].sentence


class TestRetraced:
    def test_patience_and_length_act_later(self):
        """The words that a person needs to hear."""
        (likeness,) = compare(proposed(patience=40, num_epochs=80), [attempt()]).retraced
        assert likeness.differing == {"patience": (15, 40), "num_epochs": (60, 80)}
        assert (likeness.retraces_to_epoch, likeness.stood_at) == (24, 0.794)
        assert likeness.sentence == (
            "repeats attempt 1 up to epoch 24, where validation accuracy was 79.4 %; the differences act later: "
            "patience (15, now 40), num_epochs (60, now 80)."
        )

    @pytest.mark.parametrize(
        "changed",
        [
            {"patience": 3},
            {"min_delta": 0.01},
            {"decide": ["epoch 20: val_accuracy > 0.82"]},
            {"regression_margin": 0.02},
            {"budget_usd": 10},
            {"select_from_epoch": 5},
            {"validation_frequency": 2},
        ],
    )
    def test_each_of_those_that_act_later(self, changed):
        """In stopping or in the choice of the epoch."""
        (name,) = changed
        assert [x.differing for x in compare(proposed(**changed), [attempt(**{name: 99})]).retraced] == [
            {name: (99, changed[name])}
        ]

    def test_a_shorter_run_retraces_no_further_than_itself(self):
        """With the accuracy of the last evaluation until then."""
        (likeness,) = compare(proposed(num_epochs=22), [attempt()]).retraced
        assert (likeness.retraces_to_epoch, likeness.stood_at) == (22, 0.792)

    @pytest.mark.parametrize("scheduler", ["linear", "cosine", "cosine_with_restarts", "polynomial"])
    def test_a_falling_schedule_is_retraced_through_its_warm_up_only(self, scheduler):
        """From there on the rate depends on the number of epochs."""
        changed = proposed(scheduler=scheduler, num_epochs=80)
        assert [x.retraces_to_epoch for x in compare(changed, [attempt(scheduler=scheduler)]).retraced] == [3]
        cold = proposed(scheduler=scheduler, num_epochs=80, warmup_epochs=0)
        assert not compare(cold, [attempt(scheduler=scheduler, warmup_epochs=0)]).retraced

    @pytest.mark.parametrize("scheduler", ["none", "validation_plateau"])
    def test_a_schedule_that_does_not_know_the_end_is_retraced_whole(self, scheduler):
        """Constant, or cut by what validation shows."""
        changed = proposed(scheduler=scheduler, num_epochs=80)
        assert compare(changed, [attempt(scheduler=scheduler)]).retraced[0].retraces_to_epoch == 24

    def test_evaluations_steer_a_plateau(self):
        """How often it evaluates then shapes the weights."""
        changed = proposed(scheduler="validation_plateau", validation_frequency=2)
        assert not compare(changed, [attempt(scheduler="validation_plateau", validation_frequency=1)]).retraced

    def test_how_far_is_not_told(self):
        """A log with a result and no epoch."""
        bare = replace(attempt(), history=(), best=Evaluated(None, 0.8))
        (likeness,) = compare(proposed(patience=40), [bare]).retraced
        assert likeness.retraces_to_epoch is None
        assert "whose last epoch is unknown" in likeness.sentence


class TestDataAndCheckpoint:
    def test_digests_decide_where_both_are_known(self):
        """A data set moved is the same; one changed in place is another."""
        first = replace(own(dataset="/old/eyes"), dataset="sha256:aa")
        here = Proposal(TOLD | {"dataset": "/new/eyes2"}, dataset="sha256:aa")
        assert compare(here, [first]).identical
        (likeness,) = compare(replace(here, dataset="sha256:bb"), [first]).nearest
        assert likeness.differing == {"dataset": ("/old/eyes (aa)", "/new/eyes2 (bb)")}

    def test_names_decide_where_a_digest_is_unknown(self):
        """By their last part, and that is said."""
        here = Proposal(TOLD | {"dataset": "/data/eyes/"}, dataset="sha256:aa")
        (likeness,) = compare(here, [attempt(dataset="eyes")]).identical
        assert "its dataset was compared by name only" in likeness.sentence
        assert not compare(here, [attempt(dataset="eyes3")]).identical

    def test_base(self):
        """The same rule."""
        first = replace(own(base="embedded"), base="sha256:aa")
        assert compare(Proposal(TOLD | {"base": "/towers/small"}, base="sha256:aa"), [first]).identical
        assert not compare(Proposal(TOLD | {"base": "embedded"}, base="sha256:bb"), [first]).identical

    def test_a_checkpoint_by_any_of_its_digests(self):
        """Its file changes when its record is written into it; its tensors do not."""
        parent = Parent("init_from", "a.pth", ("sha256:file", "sha256:tensors"))
        first = replace(own(init_from="a.pth"), parent=parent)
        here = Proposal(TOLD | {"init_from": "copy.pth"}, parent=("sha256:other", "sha256:tensors"))
        assert compare(here, [first]).identical
        (likeness,) = compare(replace(here, parent=("sha256:x",)), [first]).nearest
        assert list(likeness.differing) == ["init_from"]

    def test_a_checkpoint_by_its_address(self):
        """Where no digest is known; a copy may be the same, and that is not known."""
        where = "gs://bucket/best_model.pth"
        assert compare(proposed(resume_from_checkpoint=where), [attempt(resume_from_checkpoint=where)]).identical
        (likeness,) = compare(
            proposed(resume_from_checkpoint="here/best_model.pth"), [attempt(resume_from_checkpoint=where)]
        ).nearest
        assert "it is unknown whether resume_from_checkpoint is the same file" in likeness.sentence

    def test_weights_alone_are_no_whole_state(self):
        """The same file by another word is another run."""
        report = compare(proposed(init_from="a.pth"), [attempt(resume_from_checkpoint="a.pth")])
        assert not report.identical

    def test_a_record_without_a_parent_tells_that_there_was_none(self):
        """A log that names no checkpoint tells nothing."""
        here = proposed(init_from="a.pth")
        assert not compare(here, [own()]).identical
        assert compare(here, [attempt()]).identical[0].unrecorded == ("init_from",)


class TestNearest:
    def test_the_three_that_differ_least(self):
        """What shapes the weights counts first; an attempt is named once."""
        earlier = [
            attempt("far", learning_rate=1, dropout=1, lora_r=1, batch_size=1),
            attempt("two", learning_rate=1, lora_r=1),
            attempt("one", learning_rate=1, patience=9),
            attempt("least", learning_rate=1),
            attempt("same"),
        ]
        report = compare(proposed(), earlier)
        assert [likeness.attempt.name for likeness in report.nearest] == ["least", "one", "two"]
        assert report.nearest[0].sentence == "least differs in learning_rate (1, now 2e-05)."

    def test_nothing_before(self):
        """The first attempt of a project."""
        report = compare(proposed(), [])
        assert report.to_json() == {"identical": [], "retraced": [], "nearest": []}

    def test_the_newest_comes_first(self):
        """Of several that are alike."""
        report = compare(proposed(), [attempt("attempt-1"), attempt("attempt-2")])
        assert [likeness.attempt.name for likeness in report.identical] == ["attempt-2", "attempt-1"]


def test_the_given_log(tmp_path):
    """Its second attempt, proposed again: identical to itself, and the first retraced up to epoch 24 at 79.4 %."""
    log = REAL_DATA.parent / "reference" / "training-attempts-log.md"
    if not log.is_file():
        pytest.skip("the log that the project was given (../shared/reference) is not on this machine")
    import_log(log, tmp_path / "runs")
    again = {
        "learning_rate": 2e-5,
        "batch_size": 6,
        "use_lora": "yes",
        "lora_r": 16,
        "lora_alpha": 32.0,
        "dropout": 0.4,
        "focal_loss_alpha": 4.0,
        "focal_loss_gamma": 6.0,
        "class_weight_severe": 8.0,
        "class_weight_pdr": 6.0,
        "gradient_accumulation_steps": 4,
        "warmup_epochs": 30,
        "scheduler": "none",
        "weight_decay": 1e-5,
        "patience": 40,
        "num_epochs": 80,
        "resume_from_checkpoint": "gs://dr-data-2/checkpoints/best_model.pth",
        "init_from": None,
        "dataset": "eyes",
        "base": "embedded",
        "seed": 0,
        "output_dir": "runs/third",
    }
    report = compare(Proposal(again, dataset="sha256:aa"), read_ledger(tmp_path / "runs").attempts)
    assert [likeness.attempt.title for likeness in report.identical] == ["attempt 2"]
    assert report.identical[0].unrecorded == ("dataset", "base", "seed")
    (retraced,) = report.retraced
    assert retraced.differing == {"patience": (15, 40), "num_epochs": (60, 80)}
    assert retraced.sentence.startswith("repeats attempt 1 up to epoch 24, where validation accuracy was 79.4 %; ")
    (baseline,) = report.nearest
    assert baseline.differing == {"dataset": ("dataset3_augmented_resized", "eyes")}
