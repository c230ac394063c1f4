"""A training run's record as evidence for stability and cost.

    evidence = training_evidence(grader.record, tensor_digest=grader.tensor_digest, folder=Path("runs/first"))
    evidence["history"], evidence["selected_epoch"], evidence["n_val"], evidence["spend"]

A record counts only for the weights whose tensor digest it contains. `best_model.pth` of a finished run contains the
whole record; for other checkpoints it is in `record.jsonl` in the same folder.

A history from elsewhere is not tied to any weights, and the report states that:

    evidence = foreign_evidence(Path("history.csv"), window=10)
    evidence["foreign"]                                 # 'history.csv'
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from drgate import limits
from drgate.errors import RecordError, unchained
from drgate.files import digest_of, parse_json, read_json, row_name
from drgate.files import read_lines as read_whole_lines
from drgate.stats.stability import StabilityWindow, is_best_so_far, stability_window
from drgate.tables import read_table

FILE: Final = "record.jsonl"
OLDER: Final = "older checkpoint layout"
"""Format of the record in a checkpoint of an earlier trainer (`drgate.vision.older`), which has only its history."""
FOREIGN: Final = (".csv", ".tsv", ".json")
"""Suffixes of a history from elsewhere."""
_KEPT: Final = ("epoch", "val_accuracy", "val_loss", "train_loss", "learning_rate")
_EXPECTED: Final = (
    "a CSV with the columns epoch, val_accuracy and selected (and learning_rate or run), or a JSON object with history "
    "(or val_accuracies), selected_epoch and n_val"
)
_SPEND: Final = ("usd_per_hour", "usd", "earlier_attempts", "earlier_usd")
_SELECTED: Final = {
    "1": True,
    "1.0": True,
    "true": True,
    "yes": True,
    "x": True,
    "": False,
    "0": False,
    "0.0": False,
    "false": False,
    "no": False,
}


def training_evidence(
    record: dict[str, Any] | None, *, tensor_digest: str, folder: Path | None, window: int = 10
) -> dict[str, Any]:
    """A training record of these weights, as `drgate.evaluation.Training` reads it; {"missing": reason} without one.

    record: the table in the checkpoint. folder: a run folder whose `record.jsonl` is used where the checkpoint's own
    table is absent or was written before its run ended. window: number of evaluations that stability uses; in an older
    checkpoint's window the accuracies must not be those of the best epoch so far.

    Raises RecordError for a record that drtrain did not write.
    """
    missing = "no training record was given; give the run folder of the model with --record."
    candidates = [] if record is None else [record]
    file = None if folder is None else folder / FILE
    if file is not None and file.is_file() and (record is None or record.get("status") == "running"):
        candidates.insert(0, read_record(file))
    for table in candidates:
        selected = _selected(table, tensor_digest)
        if selected is None:
            missing = "the training record is of other weights: only the epoch that a run selected has one."
            continue
        if table.get("format") == OLDER:
            return _older_evidence(table, selected, window)
        evidence = _evidence(table, selected)
        return _without_history(evidence, _not_one_run(evidence["history"]))
    return {"missing": missing}


@unchained()
def foreign_evidence(file: Path, *, window: int, selected: int | None = None) -> dict[str, Any]:
    """A history that drtrain did not record, as evidence that is not tied to any weights; `foreign` names the file.

    CSV: one row per evaluation, `epoch`, `val_accuracy`, optionally `learning_rate`, `run`, and `selected` (true in the
    row of the epoch that was chosen). JSON: `history`, a list of objects with these keys, or `val_accuracies`, a list
    of numbers whose epochs count from 0; optionally `selected_epoch`, `n_val`, `spend`, `warm_start_inside`.

    window: number of evaluations that stability uses. selected: the selected epoch, if the file does not give it.

    Validation accuracies that are all above 1 are read as percent; then `percent` is true. A history that cannot show
    stability (best values so far, several runs, missing evaluations) is left out, with the reason under "missing".

    Raises RecordError, naming file and row: not such a file, a number that is not one, no or two selected epochs.
    """
    if file.suffix.lower() == ".json":
        rows, other = _json_history(file)
    else:
        rows, other = _csv_history(file)
    accuracies = [row["val_accuracy"] for row in rows]
    percent = min(accuracies) > 1
    if max(accuracies) > (100 if percent else 1):
        worst = next(row for row in rows if row["val_accuracy"] > 1 and (not percent or row["val_accuracy"] > 100))
        raise RecordError(
            f"{worst['where']}: val_accuracy is above {100 if percent else 1}; expected fractions, or percent (above "
            "1) in every row."
        )
    chosen = other.pop("selected_epoch", None)
    if chosen is not None and selected is not None and chosen != selected:
        raise RecordError(f"{file} has the selected epoch {chosen}, not {selected}; leave out --selected-epoch.")
    chosen = selected if chosen is None else chosen
    if chosen is None:
        raise RecordError(
            f"{file} does not give the selected epoch; add the column selected (true in one row; in JSON "
            "selected_epoch), or give --selected-epoch."
        )
    history: list[dict[str, Any]] = [
        {key: row[key] for key in ("epoch", "val_accuracy", "learning_rate") if key in row} for row in rows
    ]
    for entry in history:
        entry["val_accuracy"] /= 100 if percent else 1
    epochs = [entry["epoch"] for entry in history]
    if chosen not in epochs:
        raise RecordError(f"{file} has no evaluation of the selected epoch {chosen}; add it, or select another epoch.")
    evidence = {"foreign": file.name, "history": history, "selected_epoch": chosen, **other}
    if percent:
        evidence["percent"] = True
    reason = "it contains several runs." if len({row.get("run") for row in rows}) > 1 else _not_one_run(history)
    reason = reason or _window_shows_nothing(history, chosen, window)
    return _without_history(evidence, reason and f"{file.name} cannot show stability: {reason}")


def _without_history(evidence: dict[str, Any], reason: str) -> dict[str, Any]:
    """The evidence; if there is a reason not to use its history, with that reason instead."""
    if not reason:
        return evidence
    return {key: value for key, value in evidence.items() if key != "history"} | {"missing": reason}


def _not_one_run(history: Sequence[Mapping[str, Any]]) -> str:
    """Why these are not evaluations of one run at increasing epochs; empty where they are."""
    for before, after in itertools.pairwise(entry["epoch"] for entry in history):
        if after == before:
            return f"there are two evaluations of epoch {after}; they must be at least one epoch apart."
        if after < before:
            return f"epoch {after} comes after epoch {before}; expected the history of one run, in order."
    return ""


def _window_shows_nothing(history: Sequence[Mapping[str, Any]], selected: int, window: int) -> str:
    """Why the window of the selected epoch cannot show stability; empty where it can, or where there is none."""
    position = [entry["epoch"] for entry in history].index(selected)
    shown = stability_window([entry["val_accuracy"] for entry in history], position, window)
    return _shows_nothing(history[shown.first : shown.last + 1]) if isinstance(shown, StabilityWindow) else ""


def _shows_nothing(window: Sequence[Mapping[str, Any]]) -> str:
    """Why a window of a foreign history cannot show stability; empty where it can."""
    epochs = [entry["epoch"] for entry in window]
    steps = [after - before for before, after in itertools.pairwise(epochs)]
    if max(steps) > min(steps):
        place = next(i for i, step in enumerate(steps) if step > min(steps))
        return f"evaluations between epochs {epochs[place]} and {epochs[place + 1]} are missing; give all of them."
    if is_best_so_far([entry["val_accuracy"] for entry in window]):
        return (
            f"val_accuracy never falls between epochs {epochs[0]} and {epochs[-1]}, so it seems to be the best value "
            "so far; give the accuracy of each evaluation."
        )
    return ""


def _csv_history(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows, each with `where` for messages, and the file's other values."""
    table = read_table(file, _EXPECTED, RecordError)
    for name in ("epoch", "val_accuracy"):
        if name not in table.columns:
            raise RecordError(f"{file} has no column {name}; expected {_EXPECTED}.")
    if len(table) > limits.HISTORY_ROWS:
        raise RecordError(f"{file} has more than {limits.HISTORY_ROWS} rows; expected {_EXPECTED}.")
    rows = []
    chosen = []
    for i, cells in enumerate(table.fillna("").astype(str).to_dict("records")):
        where = row_name(file, i)
        given = {str(key): cell.strip() for key, cell in cells.items() if cell.strip() or key != "learning_rate"}
        row = _row(given, where)
        selected = _SELECTED.get(cells.get("selected", "").strip().lower())
        if selected is None:
            raise RecordError(f"{where}: selected must be true in one row, else empty.")
        if selected:
            chosen.append(row["epoch"])
        rows.append(row)
    if len(chosen) > 1:
        raise RecordError(f"{file} has {len(chosen)} selected rows; expected one.")
    return rows, {"selected_epoch": chosen[0]} if chosen else {}


def _json_history(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    plain = read_json(file, _EXPECTED, RecordError)
    if not isinstance(plain, dict) or not isinstance(
        entries := plain.get("history", plain.get("val_accuracies")), list
    ):
        raise RecordError(f"{file} has no list history (or val_accuracies); expected {_EXPECTED}.")
    if "history" not in plain:
        entries = [{"epoch": i, "val_accuracy": value} for i, value in enumerate(entries)]
    if len(entries) > limits.HISTORY_ROWS:
        raise RecordError(f"{file} has more than {limits.HISTORY_ROWS} evaluations; expected {_EXPECTED}.")
    rows = []
    for i, entry in enumerate(entries):
        where = f"{file}, evaluation {i + 1}"
        if not isinstance(entry, dict):
            raise RecordError(f"{where} is no object; expected one with epoch and val_accuracy.")
        rows.append(_row(entry, where))
    if not rows:
        raise RecordError(f"{file} has no evaluation; expected {_EXPECTED}.")
    other: dict[str, Any] = {}
    for key in ("selected_epoch", "n_val"):
        if plain.get(key) is not None:
            other[key] = _number(plain[key], key, str(file))
    if other.get("n_val") == 0:
        raise RecordError(f"{file}: n_val is 0; expected the number of validation images.")
    if plain.get("warm_start_inside") not in (None, False, True):
        raise RecordError(f"{file}: warm_start_inside is neither true nor false.")
    other["warm_start_inside"] = bool(plain.get("warm_start_inside"))
    if plain.get("spend") is not None:
        if not isinstance(plain["spend"], dict):
            raise RecordError(f"{file}: spend is no object; expected one with usd and earlier_usd.")
        other["spend"] = _numbers(plain["spend"], _SPEND)
    return rows, other


def _row(cells: Mapping[str, Any], where: str) -> dict[str, Any]:
    """One evaluation; the learning rate may be missing."""
    row = {"where": where, "run": cells.get("run")}
    for key in ("epoch", "val_accuracy", "learning_rate"):
        if key != "learning_rate" or cells.get(key) is not None:
            row[key] = _number(cells.get(key), key, where)
    return row


def _number(value: Any, key: str, where: str) -> Any:
    """A cell as a non-negative number: int for epochs and counts, else float."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    whole = key in ("epoch", "selected_epoch", "n_val")
    if not 0 <= number < 2**limits.INTEGER_BITS or (whole and not number.is_integer()):
        what = "a whole number" if whole else "a number that is not negative"
        raise RecordError(f"{where}: {key} must be {what}.")
    return int(number) if whole else number


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a `record.jsonl`, without those that a crash cut off.

    Raises RecordError for a file that drtrain did not write.
    """
    lines: list[dict[str, Any]] = []
    broken = ""
    whole = read_whole_lines(file, limits.RECORD_BYTES, "a record that drtrain wrote", RecordError)
    for number, line in enumerate(whole, 1):
        where = f"{file}, line {number}"
        try:
            event = parse_json(line, where, "a line that drtrain wrote", RecordError)
            if not isinstance(event, dict) or not isinstance(event.get("event"), str):
                raise RecordError(f"{where} has no event; expected a line that drtrain wrote.")
        except RecordError as problem:
            if broken or number == 1:
                raise RecordError(broken or str(problem)) from problem
            broken = str(problem)
            continue
        if (
            broken and event["event"] != "resume"
        ):  # a line can only be incomplete after a crash, and a resume follows it
            raise RecordError(broken)
        broken = ""
        lines.append(event)
    if broken:
        raise RecordError(broken)
    return lines


def read_record(file: Path) -> dict[str, Any]:
    """The table in a `record.jsonl`.

    In addition to the facts about the run, it has `history`, `spend`, `status`, and `digests`: tensor digest by epoch.
    """
    table: dict[str, Any] = {"status": "running", "history": [], "digests": {}}
    try:
        for event in read_lines(file):
            match event.pop("event"):
                case "start":
                    table |= event
                case "resume":
                    after = event["epoch"]
                    # From the end: a record may hold very many resumes.
                    while table["history"] and table["history"][-1]["epoch"] > after:
                        table["history"].pop()
                    while table["digests"] and next(reversed(table["digests"].values())) > after:
                        table["digests"].popitem()
                    table["status"] = "running"
                    for name in ("parameters", "selection_rule"):
                        table[name] = event.get(name, table.get(name))
                    if event.get("warm_start"):
                        table.setdefault("warm_starts", []).append(after)
                    table["spend"] = event["spend"]
                    table.setdefault("resumes", []).append(event)
                case "epoch":
                    table["history"].append(event)
                    table["spend"] |= {"usd": event["usd"]}
                case "best":
                    table["digests"].pop(event["tensor_digest"], None)  # the order is that of epochs
                    table["digests"][event["tensor_digest"]] = event["epoch"]
                case "spend":
                    table["spend"] |= {"usd": event["usd"]}
                case "end":
                    table |= {"status": event["status"], "reason": event["reason"], "rule": event.get("rule")}
                    table["spend"] |= {"usd": event["usd"]}
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise RecordError(f"{file} is not a record that drtrain wrote ({type(problem).__name__}).") from problem
    return table


def _selected(table: dict[str, Any], tensor_digest: str) -> int | None:
    """The epoch of these weights, if the record is theirs."""
    if table.get("tensor_digest") == tensor_digest:
        epoch = table.get("selected_epoch")
    else:
        epoch = table.get("digests", {}).get(tensor_digest)
    return epoch if isinstance(epoch, int) else None


def _evidence(table: dict[str, Any], selected: int) -> dict[str, Any]:
    try:
        history = _between_warm_starts([_numbers(entry, _KEPT) for entry in table["history"]], table, selected)
        evidence = {
            "history": history,
            "selected_epoch": selected,
            "n_val": table["validation_set"]["n"],
            "validation_set": table["validation_set"]["digest"],
            "selection_rule": table["selection_rule"],
            "spend": _numbers(table["spend"], _SPEND),
            "status": table["status"],
            # The text of an error may name an image or a folder, and an evaluation is published.
            "reason": "An error ended the run." if table["status"] == "failed" else table.get("reason") or "",
            "warm_start_inside": bool(table.get("warm_start_inside", False)),
            **_origin(table),
        }
        for entry in history:
            if not entry["val_accuracy"] <= 1:
                raise RecordError(
                    f"The training record has a validation accuracy of {entry['val_accuracy']}; expected at most 1."
                )
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        raise RecordError(f"The training record is not one that drtrain wrote (no {problem}).") from problem
    return evidence


def _between_warm_starts(history: list[dict[str, Any]], table: dict[str, Any], selected: int) -> list[dict[str, Any]]:
    """The evaluations around the selected epoch up to the nearest warm starts, which begin another schedule."""
    starts = [int(after) for after in table.get("warm_starts", [])]
    first = max((after for after in starts if after < selected), default=0)
    last = min((after for after in starts if after >= selected), default=math.inf)
    return [entry for entry in history if first < entry["epoch"] <= last]


def _older_evidence(table: dict[str, Any], selected: int, window: int) -> dict[str, Any]:
    """The evidence in a checkpoint of an earlier trainer: its history, if the epochs are known, and no spend."""
    history = [_numbers(entry, _KEPT) for entry in table["history"]]
    evidence = {"history": history, "selected_epoch": selected, "status": table["status"], "spend": {}}
    reason = _window_shows_nothing(history, selected, window) if history else table["missing"]
    return _without_history(evidence, reason and f"the older checkpoint's history cannot show stability: {reason}")


def _origin(table: dict[str, Any]) -> dict[str, Any]:
    """Which attempt it was and the weights it began with; what the record does not contain is left out.

    `attempt`: its name. `parameters_digest`: of all parameters as resolved. `git_commit`: {"commit", "modified"}.
    `parent`: the weights it began with, {"how", "sha256", "tensor_digest", "epoch", "attempt"}, "base model" where
    it began there. `lineage`: {"training_sets": "known" or "unknown", "why", "pretraining"}.
    """
    found: dict[str, Any] = {}
    if name := table.get("experiment_name"):
        found["attempt"] = str(name)
    if parameters := table.get("parameters"):
        found["parameters_digest"] = digest_of(parameters)
    if commit := table.get("git_commit"):
        found["git_commit"] = {"commit": str(commit["commit"]), "modified": bool(commit["modified"])}
    if "parent" in table:
        parent = table["parent"]
        # without the path, which is only valid on one machine
        kept = ("how", "sha256", "tensor_digest", "epoch", "attempt")
        found["parent"] = {key: parent[key] for key in kept if parent.get(key) is not None} if parent else "base model"
    if lineage := table.get("lineage"):
        found["lineage"] = {key: str(lineage[key]) for key in ("training_sets", "why", "pretraining")}
        if lineage["training_sets"] != "known":
            found["lineage"]["training_sets"] = "unknown"
    return found


def _numbers(entry: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The entry's numbers by key, counts as int and the rest as float; what is absent or null is left out."""
    found: dict[str, Any] = {}
    for key in keys:
        value = entry.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**limits.INTEGER_BITS:
            raise RecordError(
                f"The training record has a {key} that cannot be read; expected a number that is not negative."
            )
        found[key] = int(value) if key in ("epoch", "earlier_attempts") else float(value)
    return found
