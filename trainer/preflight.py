"""`drtrain --dry_run`: settings without effect, time and cost, criteria that cannot pass, leaks, earlier attempts.

    report = preflight(ready)
    findings(ready)                             # settings that have no effect in this run, in sentences

Time, memory and cost come from steps of this network on this machine, measured on the first images of the data set.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch

from drgate.audit.collect import own_names
from drgate.audit.evidence import Evidence, photographs
from drgate.audit.result import LEAKS, Audit, CheckId, OwnNames
from drgate.audit.whole import audit
from drgate.errors import DrgateError, TrainingError
from drgate.plan import plan
from drgate.predictions import planned
from drgate.report import audit as audit_page
from drgate.scale import GRADES
from drgate.vision.cache import cache_folder
from drgate.vision.prepared import prepare_image
from trainer.attempts.circles import CircleReport
from trainer.config import FALLING, ONLY_WITH, TrainingConfig
from trainer.data import ImageSet
from trainer.engine import Engine
from trainer.ready import Ready
from trainer.schedule import rate
from trainer.watch import EVALUATIONS_AFTER_BEST, duration, parse_decision

MEASURED_STEPS: Final = 3
"""Forward and backward passes that are timed, after one that is not."""

AUDITED: Final = 2_000
"""Photographs that an audit reads, a few minutes on two cores; of a larger data set, only the rows are compared."""

_ACROSS: Final[frozenset[CheckId]] = frozenset({*LEAKS, "label_conflicts"}) - {"lineage"}
_OF_TRAINING: Final[frozenset[CheckId]] = frozenset({"fellow_eyes", "shortcuts", "quality", "case_mix"})
_OF_PHOTOGRAPHS: Final[frozenset[CheckId]] = frozenset(
    {"files", "pixels", "near_duplicates", "label_conflicts", "shortcuts", "quality"}
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Time, memory and cost of a run on this machine.

    seconds: the whole run up to its last possible evaluation, including decoding. seconds_per_epoch: training and
    validation. peak_bytes: GPU memory, or memory of this process without a GPU. usd: None without a price.
    """

    seconds: float
    seconds_per_epoch: float
    images_per_second: float
    peak_bytes: int
    device: str
    usd: float | None


@dataclass(frozen=True, slots=True)
class Preflight:
    """What is known about a run before it starts.

    never: required criteria that no model can pass on the test split. unplanned: why that is unknown. audits: of the
    other splits against training, and of the training split. names: the caller's own, in both.
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
    audits: tuple[Audit, ...]
    names: OwnNames
    audited: str
    """Why photographs were not compared; empty where they were."""
    others: str
    """What was compared with training: "validation and test", or "validation" alone."""

    def refuse_leak(self) -> None:
        """Raise TrainingError where validation or test and training share what they must not."""
        found = [one for every in self.audits for one in every.checks if one.id in LEAKS and one.status == "found"]
        if found:
            names = ", ".join(f"{audit_page.ABOUT[one.id].title.lower()} {one.count}" for one in found)
            raise TrainingError(
                f"Photographs of the other splits are in training ({names}). Put each patient, with all copies, into "
                "one split."
            )

    def sentences(self) -> list[str]:
        """The report for a person."""
        cost = self.measured
        price = "unknown (give --usd_per_hour)" if cost.usd is None else f"about {cost.usd:.2f} USD"
        lines = [
            f"An optimizer step has {self.global_batch} images, and an epoch has {self.steps_per_epoch} steps.",
            f"About {duration(cost.seconds_per_epoch)} per epoch and {duration(cost.seconds)} in total on"
            f" {cost.device}, at {cost.images_per_second:.3g} images per second; memory"
            f" {cost.peak_bytes / 2**30:.1f} GiB; cost {price}.",
            *(f"Note: {finding}" for finding in self.findings),
        ]
        if self.unplanned:
            lines.append(f"It is unknown whether the test split can pass the checklist: {self.unplanned}")
        elif self.never:
            lines.append(
                f"No model can pass {', '.join(self.never)} on the test split: it has too few images"
                " (`drgate plan --data` shows how many are needed)."
            )
        else:
            power = self.power
            chance = "" if power is None else f", and a model as good as expected passes with probability {power:.0%}"
            lines.append(f"The test split is large enough for every required criterion{chance}.")
        lines += [self.audited] if self.audited else []
        others = self.others[:1].upper() + self.others[1:]
        for every, what, called in zip(
            self.audits,
            (f"{others} against training", "The training split"),
            ({"test": self.others, "train": "training"}, {"test": "training"}),
            strict=False,
        ):
            if self.audited:  # said once, for all of them
                known = (one for one in every.checks if one.status != "not_assessed" or one.id not in _OF_PHOTOGRAPHS)
                every = replace(every, checks=tuple(known))
            lines += [f"{what}. {line}" for line in audit_page.lines(every, self.names, called)]
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
            "audits": [every.to_json() for every in self.audits],
        }


def preflight(ready: Ready) -> Preflight:
    """Time a few steps and check whether the test split is large enough for the checklist. Writes nothing.

    Raises DrgateError if an image does not decode or the network does not fit.
    """
    never, power, unplanned = _planned(ready)
    measured = _measure(ready)
    found = findings(ready)
    audits, names, audited = _audited(ready) if ready.group.first else ((), OwnNames({}, {}), "")
    budget, usd = ready.config.budget_usd, measured.usd
    if budget is not None and usd is not None and usd > budget:
        found += (f"budget_usd {budget:g} ends the run before its last epoch: the whole run costs {usd:.2f}.",)
    return Preflight(
        parameters=ready.config.model_dump(mode="json"),
        findings=found,
        measured=measured,
        never=never,
        power=power,
        unplanned=unplanned,
        circles=ready.circles,
        steps_per_epoch=ready.steps_per_epoch,
        global_batch=ready.global_batch,
        audits=audits,
        names=names,
        audited=audited,
        others=_others(ready),
    )


def findings(ready: Ready) -> tuple[str, ...]:
    """Parameters that have no effect in this run, or another effect than their name suggests."""
    config, first = ready.config, ready.origin.epochs + 1
    usual = {name: field.default for name, field in TrainingConfig.model_fields.items()}
    last = config.num_epochs
    before = max(first, config.select_from_epoch) - 1
    evaluations = last // config.validation_frequency - before // config.validation_frequency
    found = [
        f"{name} has an effect only with {other} {' or '.join(values)}; here it is {getattr(config, other)}."
        for name, (other, values) in ONLY_WITH.items()
        if getattr(config, name) != usual[name] and getattr(config, other) not in values
    ]
    waits = max(config.patience, EVALUATIONS_AFTER_BEST)
    if waits >= evaluations:
        few = "" if waits == config.patience else f" (at least {waits})"
        found.append(
            f"patience {config.patience}{few} cannot stop this run: it has {evaluations} evaluations to select from."
        )
    if config.warmup_epochs >= last:
        found.append(
            f"warmup_epochs {config.warmup_epochs} is at least as long as the run: the learning rate never reaches"
            f" {config.learning_rate:g}."
        )
    elif 0 < config.warmup_epochs < first:
        found.append(f"warmup_epochs {config.warmup_epochs} has passed: the run continues in epoch {first}.")
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
                f"The schedule has nearly ended: the learning rate is {config.learning_rate * left:.1e} in epoch"
                f" {first} of {last}. For a new schedule give more epochs, or start with --init_from."
            )
    if config.freeze_backbone_epochs >= last:
        found.append(
            f"freeze_backbone_epochs {config.freeze_backbone_epochs} covers the whole run: only the head learns."
        )
    elif 0 < config.freeze_backbone_epochs < first:
        found.append(
            f"freeze_backbone_epochs {config.freeze_backbone_epochs} has passed: the run continues in epoch {first}."
        )
    if config.focal_loss_alpha != 1:
        found.append(
            f"focal_loss_alpha {config.focal_loss_alpha:g} scales the whole loss, which Adam cancels"
            + (
                f". It only affects clipping at max_grad_norm {config.max_grad_norm:g}."
                if config.max_grad_norm
                else "."
            )
        )
    found += _class_weights(ready)
    if config.validation_frequency > last:
        found.append(
            f"validation_frequency {config.validation_frequency} is never reached: only the last epoch is evaluated."
        )
    if config.checkpoint_frequency > last + EVALUATIONS_AFTER_BEST * config.validation_frequency:
        found.append(f"checkpoint_frequency {config.checkpoint_frequency} is never reached: no epoch_NN.pth is saved.")
    for decision in map(parse_decision, config.decide):
        if not first <= decision.epoch <= last:
            found.append(f"decide {decision.text!r} is never reached: the run has epochs {first} to {last}.")
    if len(ready.splits.train) < ready.global_batch:
        found.append(
            f"An optimizer step takes {ready.global_batch} images, but the training split has only"
            f" {len(ready.splits.train)}: each epoch is one step."
        )
    if config.distributed == "fsdp" and ready.group.size == 1:
        found.append("distributed fsdp has an effect only under torchrun with several processes.")
    if config.usd_per_hour == 0 and (config.budget_usd or config.project_budget_usd):
        found.append("A budget has no effect at usd_per_hour 0.")
    return tuple(found)


def _class_weights(ready: Ready) -> list[str]:
    config = ready.config
    weights = {"class_weight_severe": config.class_weight_severe, "class_weight_pdr": config.class_weight_pdr}
    moved = [f"{name} {value:g}" for name, value in weights.items() if value != 1]
    counts = ready.splits.train.table["grade"].value_counts()
    balanced = config.sampling == "balanced" or counts.max() <= 1.1 * counts.min()
    if not moved or not balanced:
        return []
    why = "sampling is balanced" if config.sampling == "balanced" else "the training split has equal numbers per grade"
    return [f"{' and '.join(moved)} correct no imbalance, because {why}: the model only favours these grades."]


def _measure(ready: Ready) -> Measured:
    config, group = ready.config, ready.group
    few = ready.splits.train.table["image"].iloc[: config.batch_size]
    began = time.monotonic()
    prepared = [prepare_image(ready.splits.train.path(image), ready.preprocess) for image in few]
    decoding = (time.monotonic() - began) / len(prepared)
    pixels = np.stack([image.pixels for image in prepared])
    grades = ready.splits.train.table["grade"].to_numpy(dtype=np.int64)[: len(pixels)]
    images = ImageSet(pixels, grades, [], ready.preprocess)
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


def _audited(ready: Ready) -> tuple[tuple[Audit, ...], OwnNames, str]:
    """Validation and test against training, and training itself. Reads each photograph once, up to `AUDITED`."""
    config, splits = ready.config, ready.splits
    others = [splits.val] if splits.test is None else [splits.val, splits.test]
    images = len(splits.train) + sum(map(len, others))
    few = images <= AUDITED
    cache = cache_folder(ready.config.cache_dir)
    look = partial(photographs, workers=ready.config.num_workers, files=few, cache=cache)
    seen, train = look(*others), look(splits.train)
    shares = ready.checklist.deployment
    mix = None if shares is None else [shares[grade] for grade in GRADES]
    sides = f"{_others(ready)} split{'' if splits.test is None else 's'}"
    audits = (
        audit(Evidence(seen, train, sides=(sides, "training split")), only=_ACROSS),
        audit(Evidence(train, mix=mix, sides=("training split", "")), only=_OF_TRAINING),
    )
    many = f"there are {images:,}, more than {AUDITED:,}"
    why = f"Photographs were not audited: {many}. Run drgate audit {config.dataset}."
    return audits, own_names(seen, train), "" if few else why


def _others(ready: Ready) -> str:
    return "validation" if ready.splits.test is None else "validation and test"


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
