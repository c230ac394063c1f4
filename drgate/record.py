"""A training run's record as evidence: what stability and cost are judged by.

    evidence = training_evidence(grader.record, tensor_digest=grader.tensor_digest, folder=Path("runs/first"))
    evidence["history"], evidence["selected_epoch"], evidence["n_val"], evidence["spend"]

A record counts only for the weights that it names by tensor digest. The whole of it lies in a finished run's
`best_model.pth`; a checkpoint taken on the way finds it in `record.jsonl` beside itself.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

from drgate.errors import RecordError

FILE: Final = "record.jsonl"
_KEPT: Final = ("epoch", "val_accuracy", "val_loss", "train_loss", "learning_rate")


def training_evidence(record: dict[str, Any] | None, *, tensor_digest: str, folder: Path | None) -> dict[str, Any]:
    """What a record says of these weights, as `evaluate` takes it; {"missing": reason} where nothing does.

    record: the table in the checkpoint. folder: a run folder whose `record.jsonl` is tried where the checkpoint's own
    table is absent or was written before its run ended.

    Raises RecordError when a record is there but is not one of drgate's.
    """
    missing = "the model carries no training record; give its run folder with --record."
    candidates = [] if record is None else [record]
    file = None if folder is None else folder / FILE
    if file is not None and file.is_file() and (record is None or record.get("status") == "running"):
        candidates.insert(0, read_record(file))
    for table in candidates:
        selected = _selected(table, tensor_digest)
        if selected is None:
            missing = "the training record is of other weights; give the folder of this model's own run with --record."
            continue
        return _evidence(table, selected)
    return {"missing": missing}


def read_record(file: Path) -> dict[str, Any]:
    """The table in a `record.jsonl`; a last line that was cut off by a crash is left out.

    Besides the run's facts it has `history`, `spend`, `status`, and `digests`: tensor digest by epoch.
    """
    table: dict[str, Any] = {"status": "running", "history": [], "digests": {}}
    try:
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]
        for event in map(json.loads, lines):
            match event.pop("event"):
                case "start":
                    table |= event
                case "epoch":
                    table["history"].append(event)
                    table["spend"] |= {"usd": event["usd"]}
                case "best":
                    table["digests"][event["tensor_digest"]] = event["epoch"]
                case "end":
                    table |= {"status": event["status"], "reason": event["reason"]}
                    table["spend"] |= {"usd": event["usd"]}
    except (OSError, UnicodeDecodeError) as problem:
        raise RecordError(f"{file} cannot be read ({problem}).") from problem
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise RecordError(f"{file} is not a record that drtrain wrote ({problem!r}).") from problem
    return table


def _selected(table: dict[str, Any], tensor_digest: str) -> int | None:
    """The epoch at which these weights were taken, if this record is theirs."""
    if table.get("tensor_digest") == tensor_digest:
        epoch = table.get("selected_epoch")
    else:
        epoch = table.get("digests", {}).get(tensor_digest)
    return epoch if isinstance(epoch, int) else None


def _evidence(table: dict[str, Any], selected: int) -> dict[str, Any]:
    try:
        history = [_numbers(entry, _KEPT) for entry in table["history"]]
        evidence = {
            "history": history,
            "selected_epoch": selected,
            "n_val": table["validation_set"]["n"],
            "validation_set": table["validation_set"]["digest"],
            "selection_rule": table["selection_rule"],
            "spend": _numbers(table["spend"], ("usd_per_hour", "usd", "earlier_attempts", "earlier_usd")),
            "status": table["status"],
            "reason": table.get("reason") or "",
            "warm_start_inside": bool(table.get("warm_start_inside", False)),
        }
        for entry in history:
            if not entry["val_accuracy"] <= 1:
                raise RecordError(f"The training record has a validation accuracy of {entry['val_accuracy']}.")
    except (KeyError, TypeError, AttributeError) as problem:
        raise RecordError(f"The training record is not one that drtrain wrote (no {problem}).") from problem
    return evidence


def _numbers(entry: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The entry's numbers by key, counts as int and the rest as float; what is absent or null is left out."""
    found: dict[str, Any] = {}
    for key in keys:
        value = entry.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise RecordError(f"The training record says {key} = {value!r}; expected a number that is not negative.")
        found[key] = int(value) if key in ("epoch", "earlier_attempts") else float(value)
    return found
