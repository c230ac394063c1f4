"""Before money is spent: what can have no effect, what it will take, what can never pass, and what was tried before.

    report = preflight(ready)                   # `drtrain --dry_run`
    findings(ready)                             # what can have no effect here, in sentences

Time, memory and cost come from steps of this network on this machine, measured on the first images of the data set.
"""

from __future__ import annotations

import resource
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from drgate.errors import DrgateError
from drgate.plan import plan
from drgate.predictions import planned
from trainer.attempts.circles import CircleReport, Proposal, compare
from trainer.attempts.ledger import Attempt, LedgerWarning, read_ledger
from trainer.config import FALLING, ONLY_WITH, TrainingConfig
from trainer.data import ImageSet, prepare_image
from trainer.engine import Engine
from trainer.schedule import rate
from trainer.watch import EVALUATIONS_AFTER_BEST, duration, parse_decision

if TYPE_CHECKING:
    from trainer.run import Ready

MEASURED_STEPS: Final = 3
"""Forward and backward passes that are timed after the first, which is not."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run of this network takes here.

    seconds: the whole run to its last possible evaluation, decoding included. seconds_per_epoch: training and
    validation. peak_bytes: of the device's memory on a GPU, of this process elsewhere. usd: None without a price.
    """

    seconds: float
    seconds_per_epoch: float
    images_per_second: float
    peak_bytes: int
    device: str
    usd: float | None


@dataclass(frozen=True, slots=True)
class Preflight:
    """All that is known of a run before it starts.

    never: required lines of the checklist that no model passes on the test split. unplanned: why that is not known.
    """

    parameters: Mapping[str, Any]
    findings: tuple[str, ...]
    measured: Measured
    never: tuple[str, ...]
    power: float | None
    unplanned: str
    circles: CircleReport
    steps_per_epoch: int
    global_batch: int

    def sentences(self) -> list[str]:
        """What a person reads."""
        cost = self.measured
        lines = [
            f"An optimizer step has {self.global_batch} images, an epoch {self.steps_per_epoch} steps.",
            f"About {duration(cost.seconds_per_epoch)} an epoch and {duration(cost.seconds)} in all on {cost.device}, "
            f"at {cost.images_per_second:.3g} images a second; memory {cost.peak_bytes / 2**30:.1f} GiB"
            + (
                f"; cost about {cost.usd:.2f} USD."
                if cost.usd is not None
                else "; cost unknown without --usd_per_hour."
            ),
            *(f"Note: {finding}" for finding in self.findings),
        ]
        if self.unplanned:
            lines.append(f"Whether the test split can pass the checklist is not known: {self.unplanned}")
        elif self.never:
            lines.append(
                f"The test split can never pass {', '.join(self.never)}, however good the model: too few images"
                " (drgate plan --data says how many it takes)."
            )
        else:
            chance = (
                "" if self.power is None else f"; a model as good as expected passes with probability {self.power:.0%}"
            )
            lines.append(f"The test split can pass every required line{chance}.")
        likenesses = (*self.circles.identical, *self.circles.retraced) or self.circles.nearest
        lines += [likeness.sentence for likeness in likenesses] or ["No earlier attempt is known."]
        return lines

    def to_json(self) -> dict[str, Any]:
        cost = self.measured
        return {
            "parameters": dict(self.parameters),
            "findings": list(self.findings),
            "steps_per_epoch": self.steps_per_epoch,
            "global_batch": self.global_batch,
            "measured": {name: getattr(cost, name) for name in cost.__slots__},
            "plan": {"never": list(self.never), "power": self.power, "unplanned": self.unplanned},
            "circles": self.circles.to_json(),
        }


def preflight(ready: Ready, runs: Path | None = None) -> Preflight:
    """Measure a few steps, hold the test split against the checklist, and look for earlier attempts.

    Nothing is written. Raises DrgateError where an image does not decode or the network does not fit.
    """
    never, power, unplanned = _planned(ready)
    measured = _measure(ready)
    said = findings(ready)
    budget = ready.config.budget_usd
    if budget is not None and measured.usd is not None and measured.usd > budget:
        said = (*said, f"budget_usd {budget:g} ends the run before its last epoch: all of it costs {measured.usd:.2f}.")
    return Preflight(
        parameters=ready.config.model_dump(mode="json"),
        findings=said,
        measured=measured,
        never=never,
        power=power,
        unplanned=unplanned,
        circles=earlier_attempts(ready, runs),
        steps_per_epoch=ready.steps_per_epoch,
        global_batch=ready.global_batch,
    )


def earlier_attempts(ready: Ready, runs: Path | None = None) -> CircleReport:
    """The attempts in the folder of runs that are like this one."""
    origin = ready.origin
    return compare(
        Proposal(
            parameters=ready.config.model_dump(mode="json"),
            dataset=ready.splits.dataset_digest,
            base=ready.base.digest,
            parent=() if origin.checkpoint is None else (origin.sha256, origin.checkpoint.tensor_digest),
            global_batch=ready.global_batch,
        ),
        known_attempts(ready.folder, runs),
    )


def known_attempts(folder: Path, runs: Path | None = None) -> list[Attempt]:
    """Those beside a run's folder, or in `runs`, without the run itself."""
    beside = folder.resolve().parent
    ledger = read_ledger(beside if runs is None else runs)
    for sentence in ledger.warnings:
        warnings.warn(sentence, LedgerWarning, stacklevel=2)
    own = runs is None or runs.resolve() == beside
    return [attempt for attempt in ledger.attempts if not (own and attempt.name == folder.name)]


def findings(ready: Ready) -> tuple[str, ...]:
    """Parameters that can have no effect in this run, or another than their name promises."""
    config, first = ready.config, ready.origin.epochs + 1
    usual = {name: field.default for name, field in TrainingConfig.model_fields.items()}
    last = config.num_epochs
    before = max(first, config.select_from_epoch) - 1
    evaluations = last // config.validation_frequency - before // config.validation_frequency
    found = [
        f"{name} acts only with {other} {' or '.join(values)}; here it is {getattr(config, other)}."
        for name, (other, values) in ONLY_WITH.items()
        if getattr(config, name) != usual[name] and getattr(config, other) not in values
    ]
    waits = max(config.patience, EVALUATIONS_AFTER_BEST)
    if waits >= evaluations:
        few = "" if waits == config.patience else f", which is never less than {waits},"
        found.append(
            f"patience {config.patience}{few} cannot stop this run: it has {evaluations} evaluations to choose from."
        )
    if config.warmup_epochs >= last:
        found.append(
            f"warmup_epochs {config.warmup_epochs} is as long as the run or longer: the learning rate never reaches"
            f" {config.learning_rate:g}."
        )
    elif 0 < config.warmup_epochs < first:
        found.append(f"warmup_epochs {config.warmup_epochs} is over: the run goes on in epoch {first}.")
    if first > 1 and config.scheduler in FALLING:
        steps = ready.steps_per_epoch
        left = rate(
            (first - 1) * steps,
            scheduler=config.scheduler,
            warmup_steps=config.warmup_epochs * steps,
            total_steps=last * steps,
            cycles=config.scheduler_cycles,
            power=config.scheduler_power,
        )
        if left < 0.1:
            found.append(
                f"The schedule is nearly over where the run goes on: the rate is {config.learning_rate * left:.1e} in"
                f" epoch {first} of {last}; for a fresh schedule give more epochs, or start with --init_from."
            )
    if config.freeze_backbone_epochs >= last:
        found.append(f"freeze_backbone_epochs {config.freeze_backbone_epochs} is the whole run: only the head learns.")
    elif 0 < config.freeze_backbone_epochs < first:
        found.append(
            f"freeze_backbone_epochs {config.freeze_backbone_epochs} is over: the run goes on in epoch {first}."
        )
    if config.focal_loss_alpha != 1:
        found.append(
            f"focal_loss_alpha {config.focal_loss_alpha:g} scales the whole loss, which Adam cancels"
            + (f"; only clipping at max_grad_norm {config.max_grad_norm:g} sees it." if config.max_grad_norm else ".")
        )
    found += _class_weights(ready)
    if config.validation_frequency > last:
        found.append(
            f"validation_frequency {config.validation_frequency} is never reached: only the last epoch is judged."
        )
    if config.checkpoint_frequency > last + EVALUATIONS_AFTER_BEST * config.validation_frequency:
        found.append(f"checkpoint_frequency {config.checkpoint_frequency} is never reached: no epoch_NN.pth is kept.")
    for decision in map(parse_decision, config.decide):
        if not first <= decision.epoch <= last:
            found.append(f"decide {decision.text!r} is never reached: the run has the epochs {first} to {last}.")
    if len(ready.splits.train) < ready.global_batch:
        found.append(
            f"An optimizer step takes {ready.global_batch} images and the training split has {len(ready.splits.train)}:"
            " each epoch is one step."
        )
    if config.distributed == "fsdp" and ready.group.size == 1:
        found.append("distributed fsdp acts only under torchrun with several processes.")
    if config.usd_per_hour == 0 and (config.budget_usd or config.project_budget_usd):
        found.append("A budget cannot be reached at usd_per_hour 0.")
    return tuple(found)


def _class_weights(ready: Ready) -> list[str]:
    config = ready.config
    weights = {"class_weight_severe": config.class_weight_severe, "class_weight_pdr": config.class_weight_pdr}
    moved = [f"{name} {value:g}" for name, value in weights.items() if value != 1]
    counts = ready.splits.train.table["grade"].value_counts()
    balanced = config.sampling == "balanced" or counts.max() <= 1.1 * counts.min()
    if not moved or not balanced:
        return []
    why = "sampling is balanced" if config.sampling == "balanced" else "the training split has as many of each grade"
    return [f"{' and '.join(moved)} mend no imbalance, since {why}: they only tilt the model towards these grades."]


def _measure(ready: Ready) -> Measured:
    config, group = ready.config, ready.group
    few = ready.splits.train.table["image"].iloc[: config.batch_size]
    began = time.monotonic()
    prepared = [prepare_image(ready.splits.train.path(image), ready.preprocess) for image in few]
    decoding = (time.monotonic() - began) / len(prepared)
    pixels = np.stack([image for image, _ in prepared])
    images = ImageSet(pixels, ready.splits.train.table["grade"].to_numpy(dtype=np.int64)[: len(pixels)], [])
    torch.manual_seed(config.seed)
    engine = Engine(config, ready.origin.build(config, ready.base), group)
    cuda = group.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    everything = np.arange(len(images))

    def timed(passes: int) -> float:
        began = time.monotonic()
        for number in range(passes):
            engine.step(
                images,
                [everything],
                [np.zeros_like(everything)],
                epoch=1,
                number=number,
                total=len(images) * group.size,
                rate=config.learning_rate,
            )
        if cuda:
            torch.cuda.synchronize()
        return (time.monotonic() - began) / passes

    timed(1)
    each = timed(MEASURED_STEPS) / len(images) / group.size
    began = time.monotonic()
    engine.logits(images)
    looking = (time.monotonic() - began) / len(images) / group.size
    n_train, n_val = len(ready.splits.train), len(ready.splits.val)
    epoch = n_train * each + n_val * looking / config.validation_frequency
    epochs = config.num_epochs - ready.origin.epochs + EVALUATIONS_AFTER_BEST * config.validation_frequency
    seconds = epochs * epoch + decoding * (n_train + n_val) / max(1, config.num_workers)
    return Measured(
        seconds=round(seconds, 3),
        seconds_per_epoch=round(epoch, 3),
        images_per_second=round(1 / each, 3),
        peak_bytes=torch.cuda.max_memory_allocated() if cuda else _peak(),
        device=torch.cuda.get_device_name(group.device) if cuda else f"{torch.get_num_threads()} CPU threads",
        usd=None if config.usd_per_hour is None else round(seconds / 3600 * config.usd_per_hour, 4),
    )


def _peak() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _planned(ready: Ready) -> tuple[tuple[str, ...], float | None, str]:
    test = ready.splits.test
    if test is None:
        return (), None, f"{ready.config.dataset} has no test split."
    try:
        found = plan(ready.checklist, data=planned(test.table, str(test.origin)))
    except DrgateError as problem:
        return (), None, str(problem)
    required = {line.id for line in found.lines if line.required}
    return tuple(name for name in found.never if name in required), found.joint_here, ""
