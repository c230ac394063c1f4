"""Histories as evidence of stability: what a run's own record and one from elsewhere prove, and what neither does."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from drgate.errors import RecordError
from drgate.record import foreign_evidence, training_evidence

CURVE = [0.70, 0.74, 0.78, 0.782, 0.792, 0.795, 0.794, 0.79, 0.792, 0.788, 0.791, 0.793]
SELECTED = 5

Rows = Sequence[Mapping[str, object]]


def rows(curve: Sequence[object] = CURVE, selected: int | None = SELECTED, first: int = 0) -> list[dict[str, object]]:
    return [
        {"epoch": first + i, "val_accuracy": value, "selected": "true" if i == selected else ""}
        for i, value in enumerate(curve)
    ]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Write a history (rows as CSV, an object as JSON, text as it is) and read it as evidence."""

    def evidence(content: Rows | dict[str, Any] | str, selected: int | None = None, window: int = 10) -> dict[str, Any]:
        path = tmp_path / ("history.json" if isinstance(content, dict) else "history.csv")
        if isinstance(content, str):
            path.write_text(content)
        elif isinstance(content, dict):
            path.write_text(json.dumps(content))
        else:
            with path.open("w", newline="") as handle:
                writer = csv.DictWriter(handle, list(content[0]))
                writer.writeheader()
                writer.writerows(content)
        return foreign_evidence(path, window=window, selected=selected)

    return evidence


class TestOrigin:
    """Which attempt it was and where its weights began: what a certificate states of it."""

    TABLE: Mapping[str, Any] = {
        "tensor_digest": "d",
        "selected_epoch": 2,
        "status": "finished",
        "selection_rule": "best",
        "spend": {},
        "history": [{"epoch": 1, "val_accuracy": 0.5}, {"epoch": 2, "val_accuracy": 0.6}],
        "validation_set": {"n": 10, "digest": "v"},
    }

    def test_is_taken_from_the_record(self):
        parent = {
            "how": "init_from",
            "source": "/home/someone/runs/a/best_model.pth",
            "sha256": "a" * 64,
            "tensor_digest": f"sha256:{'b' * 64}",
            "epoch": 24,
            "attempt": "attempt-1",
        }
        lineage = {"training_sets": "known", "why": "", "pretraining": "declared"}
        table = {
            **self.TABLE,
            "experiment_name": "attempt-2",
            "parameters": {"seed": 1},
            "parent": parent,
            "lineage": lineage,
            "git_commit": {"commit": "c" * 40, "modified": True},
        }
        found = training_evidence(table, tensor_digest="d", folder=None)
        assert found["attempt"] == "attempt-2"
        assert found["git_commit"] == {"commit": "c" * 40, "modified": True}
        assert found["lineage"] == lineage
        assert found["parent"] == {key: value for key, value in parent.items() if key != "source"}, (
            "a path is of one machine"
        )
        # printf '{"seed":1}' | sha256sum
        assert found["parameters_digest"] == "sha256:fbe47f6d82b435a89f6e6fca65ad16138195de06c5fc3ffb66826a76e64e479f"
        other = training_evidence({**table, "parameters": {"seed": 2}}, tensor_digest="d", folder=None)
        assert other["parameters_digest"] != found["parameters_digest"]

    def test_text_of_an_error_is_not_taken(self):
        """It may name an image or a folder, and an evaluation is published."""
        failed = {**self.TABLE, "status": "failed", "reason": "In epoch 2: /home/someone/Mustermann.png is damaged."}
        found = training_evidence(failed, tensor_digest="d", folder=None)
        assert (found["status"], found["reason"]) == ("failed", "An error ended the run.")
        stopped = {**self.TABLE, "status": "stopped", "reason": "Patience is used up."}
        assert training_evidence(stopped, tensor_digest="d", folder=None)["reason"] == "Patience is used up."

    def test_of_an_older_record_is_left_out(self):
        """A record that says nothing of it gives no more than before; a parent of None is said."""
        found = training_evidence(dict(self.TABLE), tensor_digest="d", folder=None)
        assert not {"attempt", "parameters_digest", "git_commit", "parent", "lineage"} & set(found)
        found = training_evidence({**self.TABLE, "parent": None, "git_commit": None}, tensor_digest="d", folder=None)
        assert found["parent"] == "base model"
        assert "git_commit" not in found

    @pytest.mark.parametrize("said", ["Known", "yes", "", 1])
    def test_lineage_is_known_only_where_it_says_so(self, said):
        table = {**self.TABLE, "lineage": {"training_sets": said, "why": "w", "pretraining": "p"}}
        found = training_evidence(table, tensor_digest="d", folder=None)
        assert found["lineage"]["training_sets"] == "unknown"

    @pytest.mark.parametrize(
        "nonsense", [{"parent": "best_model.pth"}, {"lineage": {"why": ""}}, {"lineage": 7}, {"git_commit": "c"}]
    )
    def test_of_nonsense_is_refused(self, nonsense):
        with pytest.raises(RecordError, match="not one that drtrain wrote"):
            training_evidence({**self.TABLE, **nonsense}, tensor_digest="d", folder=None)


class TestForeignHistory:
    def test_a_csv(self, read):
        """Accuracies by epoch and the selected one; the file is named, since nothing binds it to any weights."""
        found = read([{**row, "learning_rate": 2e-5} for row in rows()])
        assert found == {
            "foreign": "history.csv",
            "history": [{"epoch": i, "val_accuracy": a, "learning_rate": 2e-5} for i, a in enumerate(CURVE)],
            "selected_epoch": SELECTED,
        }

    def test_json_says_more(self, read):
        """n_val gives the noise floor, spend the cost."""
        said = {"n_val": 700, "selected_epoch": 5, "spend": {"usd": 40, "earlier_usd": 30.5, "earlier_attempts": 2}}
        found = read({"history": [{"epoch": i, "val_accuracy": a} for i, a in enumerate(CURVE)], **said})
        assert {key: found[key] for key in said} == said
        assert found["history"] == read(rows())["history"]

    def test_a_list_of_accuracies_in_percent(self, read):
        """As older checkpoints keep them: percent, epochs from 0. All above 1 are percent, and that is said."""
        found = read({"val_accuracies": [100 * value for value in CURVE], "selected_epoch": SELECTED})
        assert found["percent"] is True
        assert [entry["val_accuracy"] for entry in found["history"]] == pytest.approx(CURVE)
        assert [entry["epoch"] for entry in found["history"]] == list(range(12))
        assert "percent" not in read(rows())

    def test_the_selected_epoch_can_be_given(self, read):
        assert read(rows(selected=None), selected=4)["selected_epoch"] == 4

    def test_a_warm_start_is_passed_on(self, read):
        """The evaluation refuses to judge across it."""
        found = read({"val_accuracies": CURVE, "selected_epoch": 5, "warm_start_inside": True})
        assert found["warm_start_inside"] is True


class TestShowsNothing:
    """Histories that are read, but from which no stability follows: the reason stands where the history would."""

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (
                rows(list(itertools.accumulate(CURVE, max))),
                "never falls between epochs 1 and 10, so it seems to be the best value so far",
            ),
            ([*rows()[:4], *rows()[3:]], "two evaluations of epoch 3"),
            ([*rows(first=10), *rows(CURVE, None)], "epoch 0 comes after epoch 21; expected the history of one run"),
            ([{**row, "run": "a" if i < 6 else "b"} for i, row in enumerate(rows())], "it contains several runs"),
            ([*rows()[:3], *rows()[4:]], "evaluations between epochs 2 and 4 are missing"),
        ],
        ids=["best so far", "an epoch twice", "two runs", "two named runs", "evaluations left out"],
    )
    def test_is_not_assessed(self, read, content: Rows, reason: str):
        """Neither PASS nor FAIL: the reason says what is missing."""
        found = read(content)
        assert reason in found["missing"]
        assert found["missing"].startswith("history.csv cannot show stability: ")
        assert "history" not in found

    def test_spend_is_kept(self, read):
        """Cost is judged by it whatever the curve is."""
        best = list(itertools.accumulate(CURVE, max))
        found = read({"val_accuracies": best, "selected_epoch": 5, "spend": {"usd": 40, "earlier_usd": 0}})
        assert "missing" in found
        assert found["spend"] == {"usd": 40, "earlier_usd": 0}

    def test_only_the_window_tells_a_running_maximum(self, read):
        """A fall long before the window (an earlier run's end) does not make its best-so-far values raw ones."""
        best = list(itertools.accumulate([0.6, 0.65, *CURVE], max))
        assert "never falls" in read(rows([0.9, 0.5, *best], SELECTED + 4))["missing"]

    def test_raw_values_that_rise_once_are_none(self, read):
        """A constant curve with one rise is no running maximum by the published rule: at least two rises."""
        assert "missing" not in read(rows([0.8] * 5 + [0.81] * 7))

    def test_evaluations_every_second_epoch_are_consecutive(self, read):
        """One epoch apart or more, at an even pace."""
        assert "missing" not in read([{**row, "epoch": 2 * i} for i, row in enumerate(rows())])

    def test_a_gap_outside_the_window_does_no_harm(self, read):
        """Only the ten evaluations that are judged have to be all there."""
        late = rows([*CURVE, *CURVE], selected=17)
        assert "missing" not in read([*late[:3], *late[5:]])


class TestRefused:
    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ("", "is empty"),
            ("epoch,val_accuracy\n", "has no rows"),
            ("step,accuracy\n1,0.5\n", "has no column epoch; expected a CSV with the columns epoch"),
            (rows(selected=None), "does not give the selected epoch; add the column selected"),
            ([*rows(), {**rows()[5], "epoch": 12}], "has 2 selected rows"),
            (rows(["0.5", "nan", *CURVE]), "line 3: val_accuracy must be a number that is not negative"),
            (rows(["0.5", "", *CURVE]), "line 3: val_accuracy must be a number"),
            (rows(["-0.5", *CURVE]), "line 2: val_accuracy must be a number"),
            (rows(["81.76", *CURVE]), "line 2: val_accuracy is above 1; expected fractions, or percent"),
            (rows([810.0, *(100 * a for a in CURVE)]), "line 2: val_accuracy is above 100"),
            ([{**rows()[0], "epoch": "0.5"}, *rows()[1:]], "line 2: epoch must be a whole number"),
            ([{**rows()[0], "selected": "perhaps"}, *rows()[1:]], "line 2: selected must be true in one row"),
            ({"val_accuracies": CURVE, "selected_epoch": 99}, "no evaluation of the selected epoch 99"),
            ({"val_accuracies": CURVE, "selected_epoch": 5, "n_val": 0}, "n_val is 0"),
            ({"val_accuracies": [*CURVE, None], "selected_epoch": 5}, "evaluation 13: val_accuracy must be a number"),
            ({"val_accuracies": [float("nan")], "selected_epoch": 0}, "contains NaN"),
            ({"val_accuracies": [], "selected_epoch": 0}, "has no evaluation"),
            ({"history": [1, 2]}, "evaluation 1 is no object"),
            ({"history": "x"}, "has no list history"),
            ({"val_accuracies": CURVE, "selected_epoch": 5, "spend": 99}, "spend is no object"),
            ({"val_accuracies": CURVE, "selected_epoch": 5, "spend": {"usd": -1}}, "a usd that cannot be read"),
            ({"val_accuracies": CURVE, "selected_epoch": 5, "warm_start_inside": "no"}, "warm_start_inside is neither"),
        ],
        ids=str,
    )
    def test_says_where_and_what(self, read, content: Any, sentence: str):
        """One sentence with the file, the row and what was expected."""
        with pytest.raises(RecordError) as error:
            read(content)
        assert sentence in str(error.value)
        assert "history." in str(error.value) or "usd" in sentence

    def test_two_selected_epochs(self, read):
        with pytest.raises(RecordError, match="has the selected epoch 5, not 6"):
            read(rows(), selected=6)

    def test_no_such_file(self, tmp_path: Path):
        with pytest.raises(RecordError, match=r"none\.json cannot be read"):
            foreign_evidence(tmp_path / "none.json", window=10)


OWN = {
    "tensor_digest": "d",
    "selected_epoch": 6,
    "validation_set": {"n": 9, "digest": "v"},
    "selection_rule": "best",
    "spend": {"usd": 1},
    "status": "finished",
    "history": [{"epoch": i + 1, "val_accuracy": value} for i, value in enumerate(CURVE)],
}


class TestOwnRecord:
    def test_its_own_best_so_far_is_believed(self):
        """What drtrain recorded are raw evaluations, even where they never fall."""
        rising = [{"epoch": i, "val_accuracy": 0.5 + i / 100} for i in range(1, 13)]
        found = training_evidence(OWN | {"history": rising}, tensor_digest="d", folder=None)
        assert "missing" not in found
        assert "foreign" not in found

    def test_one_epoch_twice_is_not_assessed(self):
        """A record that says two things of one epoch is no record of one run; its spend still counts."""
        twice = [*OWN["history"], OWN["history"][-1]]
        found = training_evidence(OWN | {"history": twice}, tensor_digest="d", folder=None)
        assert "two evaluations of epoch 12" in found["missing"]
        assert found["spend"] == {"usd": 1}
        assert "history" not in found
