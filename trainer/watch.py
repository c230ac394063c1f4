"""When a run ends, which epoch is its best, and the line of each epoch: rules over the history, without state.

    standing(history, config).best               # Best(epoch=14, accuracy=0.812)
    ruling(history, config, spend)               # Stop("patience", ...) or None

A history is a list of evaluations as in the record. Everything follows from it, so a resumed run decides like a run
that was never interrupted.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from drgate.errors import ANSWERS, ExitCode, UsageError
from drgate.scale import GRADES
from trainer.config import TrainingConfig

EVALUATIONS_AFTER_BEST: Final = 5
"""A history that ends at its best epoch shows nothing about stability (docs/decisions/0003)."""

History = Sequence[Mapping[str, Any]]

_COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_DECISION: Final = re.compile(r"\s*epoch\s+(\d{1,6})\s*:\s*([\w:]+)\s*(>=|<=|>|<)\s*([0-9.eE+-]+)\s*(%?)\s*")
_PLAIN: Final = ("val_accuracy", "val_loss", "train_loss", "best_val_accuracy")


@dataclass(frozen=True, slots=True)
class Best:
    """An evaluation that is better than all before it."""

    epoch: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of a run after its last evaluation.

    best: among the epochs of this run that can be selected; None before the first.
    reference: the best so far, including epochs before the checkpoint that this run continued from.
    since: evaluations since the reference was last improved by more than `min_delta`. since_best: since `best`.
    """

    best: Best | None
    reference: Best | None
    since: int
    since_best: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run ends.

    rule: `epochs`, `patience`, `decision`, `regression`, `budget`, `project_budget`. reason: a sentence. status: as in
    the record.
    """

    rule: str
    reason: str
    status: Literal["finished", "stopped"]


def exit_code(rule: str | None) -> int:
    """Of a run that a rule ended: 0 normal end; 1 a decision point or regression; 3 a budget."""
    return ANSWERS.get(rule or "", ExitCode.PASSED)


@dataclass(frozen=True, slots=True)
class Decision:
    """A condition on the first evaluation at or after an epoch."""

    text: str
    epoch: int
    metric: str
    comparator: str
    threshold: float

    def met(self, value: float) -> bool:
        return _COMPARISONS[self.comparator](value, self.threshold)


def parse_decision(text: str) -> Decision:
    """The decision point in a text such as "epoch 20: val_accuracy > 0.82" or "epoch 5: sensitivity:pdr >= 50%".

    Raises UsageError for anything else.
    """
    found = _DECISION.fullmatch(text)
    kind, _, grade = found[2].partition(":") if found else ("", "", "")
    known = (kind in _PLAIN and not grade) or (kind in ("sensitivity", "specificity") and grade in GRADES)
    try:
        threshold = float(found[4]) if found else 0.0
    except ValueError:
        known, threshold = False, 0.0
    if found is not None and found[5]:
        threshold /= 100
    share = kind not in ("val_loss", "train_loss")
    if found is not None and known and not (0 <= threshold <= 1 if share else 0 <= threshold < math.inf):
        raise UsageError(f"--decide {text!r}: {found[2]} is a fraction from 0 to 1. Write for example 0.82 or 82%.")
    if found is None or not known or int(found[1]) < 1:
        raise UsageError(
            f"--decide {text!r} is not a decision point. Write for example --decide 'epoch 20: val_accuracy > 0.82',"
            f" with one of {', '.join(_PLAIN)}, sensitivity:GRADE, specificity:GRADE (GRADE: {', '.join(GRADES)})."
        )
    return Decision(text, int(found[1]), found[2], found[3], threshold)


def selectable(epoch: int, config: TrainingConfig) -> bool:
    """Whether an epoch can be the best: not too early, and not one that only tests stability."""
    return config.select_from_epoch <= epoch <= config.num_epochs


def standing(history: History, config: TrainingConfig, inherited: History = ()) -> Standing:
    """The state of the run. inherited: evaluations before the checkpoint that it continued from, oldest first."""
    best: Best | None = None
    reference: Best | None = None
    counted = -1.0
    since = since_best = 0
    for entry in inherited:
        if not entry.get("selectable", True):
            continue
        accuracy = entry["val_accuracy"]
        if reference is None or accuracy > reference.accuracy:
            reference = Best(entry["epoch"], accuracy)
        counted = max(counted, accuracy)
    for entry in history:
        accuracy, chosen = entry["val_accuracy"], entry["selectable"]
        since, since_best = since + 1, since_best + 1
        if chosen and (best is None or accuracy > best.accuracy):
            best, since_best = Best(entry["epoch"], accuracy), 0
        if chosen and (reference is None or accuracy > reference.accuracy):
            reference = Best(entry["epoch"], accuracy)
        if chosen and accuracy > counted + (config.min_delta if counted >= 0 else 0.0):
            counted, since = accuracy, 0
        if entry["epoch"] < config.select_from_epoch:
            since = since_best = 0
    return Standing(best, reference, since, since_best)


def ruling(history: History, config: TrainingConfig, inherited: History = (), *, begins: int = 0) -> Stop | None:
    """What ends the run after its last evaluation, the most serious first; None if it continues.

    begins: epochs that were complete before the first of this history; decision points up to there have passed.
    `overspent` checks the budgets.
    """
    entry = history[-1]
    epoch, accuracy = entry["epoch"], entry["val_accuracy"]
    now = standing(history, config, inherited)
    earlier = history[-2]["epoch"] if len(history) > 1 else begins
    watched = epoch > config.num_epochs  # epochs that only test stability are not judged
    for decision in map(parse_decision, config.decide):
        if not watched and earlier < decision.epoch <= epoch:
            value = _value(decision.metric, entry, now)
            if value is None or not decision.met(value):
                what = "no case to measure it" if value is None else f"{value:.4g}"
                return Stop("decision", f"Epoch {epoch} did not meet {decision.text!r}: {what}.", "stopped")
    before = standing(history[:-1], config, inherited).reference
    margin = config.regression_margin
    if not watched and margin is not None and before is not None and accuracy < before.accuracy - margin:
        return Stop(
            "regression",
            f"Epoch {epoch} at {accuracy:.1%} is more than {100 * margin:g} points below the best so far, "
            f"{before.accuracy:.1%} at epoch {before.epoch}.",
            "stopped",
        )
    shown = now.best is not None and now.since_best >= EVALUATIONS_AFTER_BEST
    if epoch >= config.num_epochs and (shown or now.best is None):
        ended = f"All {config.num_epochs} epochs ran; " + (
            f"the best is epoch {now.best.epoch}." if now.best else "none of them could be selected."
        )
        return Stop("epochs", ended, "finished")
    if shown and now.since >= config.patience and now.reference is not None:
        where = f"the best is epoch {now.reference.epoch}"
        if now.reference != now.best and now.best is not None:
            where = (
                f"the best, {now.reference.accuracy:.1%} at epoch {now.reference.epoch}, was before this run, whose "
                f"own best is epoch {now.best.epoch}"
            )
        return Stop("patience", f"No better epoch in {now.since} evaluations; {where}.", "stopped")
    return None


def overspent(
    usd: float | None, earlier_usd: float | None, config: TrainingConfig, *, next_usd: float = 0.0
) -> Stop | None:
    """Which budget does not allow another `next_usd`; None if both do."""
    if usd is None:
        return None
    coming = f" and the next epoch costs about {next_usd:.2f}" if next_usd else ""
    if config.budget_usd is not None and usd + next_usd > config.budget_usd:
        return Stop("budget", f"This run has cost {usd:.2f} of {config.budget_usd:.2f} USD{coming}.", "stopped")
    total = usd + (earlier_usd or 0.0)
    if config.project_budget_usd is not None and total + next_usd > config.project_budget_usd:
        spent = f"All attempts together have cost {total:.2f} of {config.project_budget_usd:.2f} USD{coming}."
        return Stop("project_budget", spent, "stopped")
    return None


def _value(metric: str, entry: Mapping[str, Any], now: Standing) -> float | None:
    kind, _, grade = metric.partition(":")
    if grade:
        value = entry[kind][grade]["value"]
        return None if value is None else float(value)
    if kind == "best_val_accuracy":
        return None if now.reference is None else now.reference.accuracy
    return float(entry[kind])


def epoch_line(
    history: History,
    config: TrainingConfig,
    *,
    inherited: History = (),
    checklist: str = "",
    usd: float | None = None,
    seconds_left: float | None = None,
) -> str:
    """The line that is printed after an epoch."""
    entry = history[-1]
    epoch, n = entry["epoch"], entry["n_val"]
    now = standing(history, config, inherited)
    severe, pdr = (entry["sensitivity"][grade] for grade in ("severe_npdr", "pdr"))
    parts = [
        f"epoch {epoch}/{config.num_epochs}" if epoch <= config.num_epochs else f"epoch {epoch}, stability",
        f"train loss {entry['train_loss']:.4f}",
        f"val accuracy {entry['val_accuracy']:.1%} ({round(entry['val_accuracy'] * n)}/{n})",
        f"severe NPDR {severe['k']}/{severe['n']}",
        f"PDR {pdr['k']}/{pdr['n']}",
        f"lr {entry['learning_rate']:.1e}",
    ]
    if checklist:
        parts.append(checklist)
    if usd is not None:
        parts.append(f"{usd:.2f} USD")
    if seconds_left is not None:
        took = f"took {duration(entry.get('seconds', 0))}"
        parts.append(f"about {duration(seconds_left)} left" if seconds_left > 0 else took)
    if now.best is not None and now.best.epoch == epoch:
        parts.append("best so far" if now.reference == now.best else "best of this run")
    elif not entry["selectable"]:
        early = epoch < config.select_from_epoch
        parts.append("too early to be selected" if early else "only tests the stability of the best")
    if now.reference is not None and now.reference != now.best:
        behind = 100 * (now.reference.accuracy - entry["val_accuracy"])
        if behind > 0:
            parts.append(f"{behind:.1f} points below the {now.reference.accuracy:.1%} of its checkpoint")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
