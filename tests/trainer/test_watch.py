"""Rules over a run's history: what is best, what ends it, what is said of an epoch."""

from __future__ import annotations

from typing import Any

import pytest

from drgate.errors import UsageError
from drgate.scale import GRADES
from trainer.config import TrainingConfig
from trainer.watch import Best, epoch_line, exit_code, overspent, parse_decision, ruling, standing


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"dataset": "eyes", "num_epochs": 60, "patience": 15} | changes)


def history(*accuracies: float, first: int = 1, selectable: bool = True, n: int = 100) -> list[dict[str, Any]]:
    return [
        {
            "epoch": first + i,
            "val_accuracy": accuracy,
            "val_loss": 1.0,
            "train_loss": 0.5,
            "n_val": n,
            "selectable": selectable,
            "learning_rate": 2e-5,
            "seconds": 10.0,
            "sensitivity": {grade: {"k": 4, "n": 5, "value": 0.8} for grade in GRADES},
            "specificity": {grade: {"k": 9, "n": 10, "value": 0.9} for grade in GRADES},
        }
        for i, accuracy in enumerate(accuracies)
    ]


class TestStanding:
    def test_the_earlier_of_equals_is_the_best(self):
        """Equal accuracy later is no new best."""
        now = standing(history(0.5, 0.7, 0.7, 0.6), config())
        assert now.best == now.reference == Best(2, 0.7)
        assert (now.since, now.since_best) == (2, 2)

    def test_what_was_reached_before_counts_for_patience(self):
        """A run that goes on from 81.76 % and stays below it has not improved, though it has a best of its own."""
        now = standing(history(0.782, 0.792, 0.795, 0.794, first=17), config(), history(0.80, 0.8176, first=15))
        assert now.best == Best(19, 0.795)
        assert now.reference == Best(16, 0.8176)
        assert now.since == 4

    def test_what_could_not_be_chosen_before_is_no_reference(self):
        """An epoch that was too early in the run before is too early here."""
        early = history(0.99) + history(0.80, first=2)
        early[0]["selectable"] = False
        assert standing(history(0.7, first=3), config(), early).reference == Best(2, 0.80)

    def test_small_gains_do_not_reset_patience(self):
        """min_delta .01: .700 to .705 is a new best, and still the second evaluation without one that counts."""
        now = standing(history(0.6, 0.700, 0.705, 0.706), config(min_delta=0.01))
        assert now.best == Best(4, 0.706)
        assert now.since == 2
        assert standing(history(0.6, 0.700, 0.705, 0.712), config(min_delta=0.01)).since == 0

    def test_epochs_that_are_too_early_are_not_counted(self):
        """Patience begins with the first epoch that can be chosen."""
        entries = history(0.9, 0.2, 0.3)
        entries[0]["selectable"] = False
        now = standing(entries, config(select_from_epoch=2))
        assert now.best == Best(3, 0.3)


class TestRuling:
    def test_goes_on_while_it_improves(self):
        """Nothing to stop for."""
        assert ruling(history(0.5, 0.6), config()) is None

    def test_patience_leaves_five_evaluations_after_the_best(self):
        """patience 1 stops after five, not one: a history that ends at its best proves nothing."""
        stops = [ruling(history(0.5, 0.7, *[0.6] * k), config(patience=1)) for k in range(6)]
        assert [stop is None for stop in stops] == [True] * 5 + [False]
        assert stops[5].rule == "patience"
        assert exit_code(stops[5].rule) == 0

    def test_the_end_waits_for_five_evaluations_too(self):
        """The best at the last epoch is watched for five more."""
        short = config(num_epochs=3)
        assert ruling(history(0.5, 0.6, 0.7), short) is None
        watched = history(0.5, 0.6, 0.7) + history(*[0.9] * 5, first=4, selectable=False)
        assert ruling(watched[:-1], short) is None
        stop = ruling(watched, short)
        assert (stop.rule, stop.status) == ("epochs", "finished")
        assert "the best is epoch 3" in stop.reason

    @pytest.mark.parametrize(
        ("text", "accuracy", "stops"),
        [
            ("epoch 20: val_accuracy > 0.82", 0.80, True),
            ("epoch 20: val_accuracy > 0.82", 0.82, True),
            ("epoch 20: val_accuracy > 0.82", 0.83, False),
            ("epoch 20: val_accuracy >= 82%", 0.82, False),
            ("epoch 19: val_accuracy > 0.82", 0.80, False),
            ("epoch 20: sensitivity:pdr >= 0.9", 0.83, True),
            ("epoch 20: sensitivity:pdr >= 0.8", 0.83, False),
            ("epoch 20: best_val_accuracy > 0.82", 0.80, False),
        ],
    )
    def test_a_decision_point_acts_at_its_epoch(self, text, accuracy, stops):
        """What must hold at epoch 20 is asked at epoch 20, and the reason quotes it."""
        entries = history(*[0.825] * 19, accuracy)
        stop = ruling(entries, config(decide=text, patience=50))
        assert (stop is not None) == stops
        if stop is not None:
            assert text in stop.reason
            assert exit_code(stop.rule) == 1

    def test_a_decision_between_evaluations_acts_at_the_next(self):
        """Every fifth epoch is judged: a decision at epoch 12 falls at epoch 15."""
        entries = [entry | {"epoch": 5 * (i + 1)} for i, entry in enumerate(history(0.5, 0.6, 0.7))]
        assert ruling(entries, config(decide="epoch 12: val_accuracy > 0.9")).rule == "decision"
        assert ruling(entries[:2], config(decide="epoch 12: val_accuracy > 0.9")) is None

    def test_regression_by_a_margin_against_all_that_was_reached(self):
        """78.2 % after 81.76 % is a regression by more than three points, also over a resume; 79.2 % is not."""
        before = history(0.8176, first=16)
        stop = ruling(history(0.782, first=17), config(regression_margin=0.03), before)
        assert stop.rule == "regression"
        assert "81.8%" in stop.reason
        assert ruling(history(0.792, first=17), config(regression_margin=0.03), before) is None
        assert ruling(history(0.782, first=17), config(), before) is None

    @pytest.mark.parametrize(
        "text",
        [
            "epoch 20",
            "epoch x: val_accuracy > 1",
            "epoch 5: recall > 0.5",
            "epoch 5: sensitivity:worst > 0.5",
            "epoch 0: val_accuracy > 0.5",
            "epoch 5: val_accuracy = 0.5",
            "epoch 5: val_accuracy > .5.5",
            "epoch 5000000: val_accuracy > 0.5",
        ],
    )
    def test_what_is_no_decision_point_is_refused(self, text):
        """With an example of one."""
        with pytest.raises(UsageError, match=r"epoch 20: val_accuracy > 0\.82"):
            parse_decision(text)

    @pytest.mark.parametrize("text", ["epoch 5: val_accuracy > 82", "epoch 5: sensitivity:pdr > 1e999"])
    def test_a_share_above_one_is_a_forgotten_percent_sign(self, text):
        """It would surely end a run that was paid for."""
        with pytest.raises(UsageError, match="82%"):
            parse_decision(text)

    def test_a_decision_that_lies_behind_a_run_that_goes_on_is_not_asked(self):
        """From epoch 7 on, a decision at epoch 3 was another run's."""
        decided = config(decide="epoch 3: val_accuracy > 0.9")
        assert ruling(history(0.5, first=8), decided, begins=7) is None
        assert ruling(history(0.5, first=3), decided, begins=2).rule == "decision"


class TestMoney:
    def test_a_run_stops_before_its_budget_is_passed(self):
        """9.50 of 10 USD spent and 0.60 an epoch: the next one is not begun."""
        assert overspent(9.5, 0.0, config(budget_usd=10), next_usd=0.4) is None
        assert overspent(9.5, 0.0, config(budget_usd=10), next_usd=0.6).rule == "budget"
        assert overspent(10.5, 0.0, config(budget_usd=10)).rule == "budget"

    def test_the_project_counts_all_attempts(self):
        """250 USD before and 49.9 now, of 300."""
        spent = config(project_budget_usd=300)
        assert overspent(49.9, 250.0, spent) is None
        stop = overspent(49.9, 250.0, spent, next_usd=0.2)
        assert stop.rule == "project_budget"
        assert "299.90 of 300.00" in stop.reason
        assert exit_code(stop.rule) == 3


class TestEpochLine:
    def test_says_what_people_ask(self):
        """Both grades of danger with their counts, the checklist, the money and the time."""
        line = epoch_line(history(0.5, 0.7), config(), checklist="checklist 3 of 8 shown", usd=1.234, seconds_left=7200)
        for part in (
            "epoch 2/60",
            "70.0% (70/100)",
            "severe NPDR 4/5",
            "PDR 4/5",
            "checklist 3 of 8 shown",
            "1.23 USD",
            "about 2.0 h left",
            "best so far",
        ):
            assert part in line

    def test_a_best_of_its_own_is_not_called_the_best(self):
        """Below what it went on from, a line says by how much."""
        line = epoch_line(history(0.794, first=24), config(), inherited=history(0.8176, first=16))
        assert "best of this run" in line
        assert "2.4 points below the 81.8%" in line
