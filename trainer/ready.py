"""May this run start? Everything that is checked, loaded and refused before the first step.

    ready = prepare(resolved(config, group), group)     # no image is decoded yet
    ready.circles.identical                             # earlier attempts that are the same

A `Ready` is complete and frozen: `trainer.run` trains it, `trainer.preflight` measures and reports it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from drgate.checklist import Checklist, load_checklist
from drgate.errors import TrainingError, UsageError
from drgate.mapping import column_map, recorded
from drgate.patients import PatientKey, load_patient_key
from drgate.preprocessing import FUNDUS_SQUARE, Preprocessing, parse_preprocessing
from drgate.record import FILE, read_record
from drgate.screen import tell
from drgate.vision.base import Base, resolve_base
from drgate.vision.network import architecture
from drgate.vision.processes import Processes
from drgate.vision.stated import load_preprocessing, refuse_other_input
from trainer.attempts.circles import CircleReport, Proposal, compare, shown
from trainer.attempts.ledger import Attempt, LedgerWarning, read_ledger
from trainer.config import LATER, PLACE, TrainingConfig
from trainer.data import Splits, load_splits
from trainer.origin import LAST, Origin, find_origin, resumed
from trainer.record import earlier_spend, refuse_used
from trainer.watch import parse_decision


@dataclass(frozen=True, slots=True)
class Ready:
    """A run that can start: everything was found and fits together."""

    config: TrainingConfig
    group: Processes
    folder: Path
    splits: Splits
    patient_key: PatientKey | None
    base: Base
    preprocess: Preprocessing
    origin: Origin
    checklist: Checklist
    changed: Mapping[str, tuple[Any, Any]]
    """Parameters that differ from the run that this one continues: (there, here)."""
    circles: CircleReport
    """Earlier attempts that are like this one; empty for a resumed run."""
    before: dict[str, Any] | None
    """The record of the resumed run, up to its newest state."""
    over: dict[str, Any] | None
    """The record of a resumed run that has already ended, if no change lets it continue."""
    runs: Path | None
    """Folder of the other attempts, if it is not the parent of the run's folder."""
    again: str | None
    """Why an identical attempt is repeated."""

    @property
    def global_batch(self) -> int:
        """Images per optimizer step, over all processes."""
        return self.config.batch_size * self.config.gradient_accumulation_steps * self.group.size

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.splits.train) // self.global_batch)

    @property
    def begins(self) -> int:
        """Epochs that were complete before the first one in this attempt's history."""
        return 0 if self.before is not None else self.origin.epochs

    @property
    def order(self) -> dict[str, Any]:
        """What decides which images each step of an epoch uses."""
        return {
            "seed": self.config.seed,
            "sampling": self.config.sampling,
            "training_set": self.splits.train.digest(),
            "global_batch": self.global_batch,
        }


def resolved(config: TrainingConfig, group: Processes) -> TrainingConfig:
    """The parameters with the run's folder and this machine's precision filled in.

    Raises TrainingError for what this machine or these processes cannot do.
    """
    cuda = group.device.type == "cuda"
    precision: str = config.precision
    if precision == "auto":
        precision = "bf16" if cuda and torch.cuda.is_bf16_supported() else "fp32"
    if precision == "fp16" and not cuda:
        raise TrainingError("--precision fp16 needs a GPU. Use fp32 or auto without one.")
    if config.select_from_epoch > config.num_epochs:
        raise TrainingError(
            f"--select_from_epoch {config.select_from_epoch} is after the last of {config.num_epochs} epochs, so no"
            " epoch could be selected."
        )
    if config.usd_per_hour is None and (config.budget_usd or config.project_budget_usd):
        raise TrainingError("A budget needs the price of the machine: give --usd_per_hour.")
    if config.distributed == "fsdp" and (config.freeze_backbone_epochs or precision == "fp16"):
        raise TrainingError(
            "--distributed fsdp cannot be combined with --freeze_backbone_epochs or with --precision fp16."
        )
    folder = config.output_dir or f"runs/{config.experiment_name}"
    # What a file said is kept, not its name: another run is like this one by it, and it is resumed by it.
    columns = None if config.columns is None else recorded(column_map(config.columns))
    return config.model_copy(update={"output_dir": folder, "precision": precision, "columns": columns})


def prepare(
    config: TrainingConfig,
    group: Processes,
    *,
    resume: bool = False,
    again: str | None = None,
    runs: Path | None = None,
    quiet: bool = True,
) -> Ready:
    """Find everything that a run needs, and refuse what cannot work before it costs money.

    config: `resolved`. again: why an attempt that was made before is repeated. runs: folder of the other attempts
    (default: the parent of the run's folder).

    Raises DrgateError.
    """
    folder = Path(str(config.output_dir))
    earlier = [] if resume else _earlier_attempts(folder, runs)
    # Attempts from imported logs know data and checkpoints by name only, so they can be compared before a download.
    imported = [attempt for attempt in earlier if attempt.origin is not None]
    refuse_circles(compare(Proposal(config.model_dump(mode="json")), imported), again, quiet=True)
    if not resume and group.first:
        refuse_used(folder)
    for text in config.decide:
        parse_decision(text)
    checklist = load_checklist(config.spec)
    located = config.patient_key or os.environ.get("DRGATE_PATIENT_KEY")
    key = load_patient_key(Path(located)) if located else None
    splits = load_splits(config.dataset, seed=config.seed, columns=config.columns)
    base = resolve_base(config.base)
    table = before = read_record(folder / FILE) if resume else None
    state = resumed(folder) if resume else None
    stated = _stated(config.preprocess, state)
    origin = state or find_origin(config, base, stated)
    preprocess = _preprocessing(stated, origin, architecture(base.config)["image_size"])
    config = config.model_copy(update={"preprocess": preprocess.label})
    if state is not None and state.checkpoint is not None:
        before = state.checkpoint.record
    for note in (*splits.notes, *origin.notes):
        tell(note, quiet)
    if origin.how == "resume_from_checkpoint":
        origin = _comparable(origin, splits, quiet)
    changed = _changed(config, origin.parameters() if before is None else before.get("parameters") or {})
    ended = table is not None and table["status"] in ("finished", "stopped") and not LATER & changed.keys()
    ready = Ready(
        config=config,
        group=group,
        folder=folder,
        splits=splits,
        patient_key=key,
        base=base,
        preprocess=preprocess,
        origin=origin,
        checklist=checklist,
        changed=changed,
        circles=CircleReport(),
        before=before,
        over=table if ended else None,
        runs=runs,
        again=again,
    )
    _refuse(ready, resume=resume, quiet=quiet)
    if origin.checkpoint is not None:
        tell(f"From {origin.source}: {origin.restored}.", quiet)
    for name, (there, here) in changed.items():
        tell(f"  {name}: {shown(there)} there, {shown(here)} here", quiet)
    proposal = Proposal(
        parameters=config.model_dump(mode="json"),
        dataset=splits.dataset_digest,
        base=base.digest,
        parent=() if origin.checkpoint is None else (origin.sha256, origin.checkpoint.tensor_digest),
        global_batch=ready.global_batch,
    )
    return replace(ready, circles=compare(proposal, earlier))


def refuse_circles(report: CircleReport, again: str | None, quiet: bool) -> None:
    """Name the earlier attempts that a run is like.

    Raises UsageError for a run that is identical to an earlier one, unless a reason to repeat it is given.
    """
    for likeness in (*report.identical, *report.retraced) or report.nearest[:1]:
        tell(likeness.sentence, quiet)
    if not report.identical or again is not None:
        return
    attempt = report.identical[0].attempt
    can_resume = attempt.status in ("killed", "interrupted") and attempt.origin is None
    remedy = f"Continue it (--resume --output_dir {attempt.folder}), change" if can_resume else "Change"
    others = " ".join(likeness.sentence for likeness in report.retraced)
    raise UsageError(
        f"This attempt was made before: {report.identical[0].sentence} {others + ' ' if others and quiet else ''}"
        f'{remedy} a parameter, or give a reason to repeat it: --again "..."'
    )


def _earlier_attempts(folder: Path, runs: Path | None) -> list[Attempt]:
    """The attempts next to a run's folder, or in `runs`, without the run itself."""
    beside = folder.resolve().parent
    ledger = read_ledger(beside if runs is None else runs)
    for sentence in ledger.warnings:
        warnings.warn(sentence, LedgerWarning, stacklevel=2)
    own = runs is None or runs.resolve() == beside
    return [attempt for attempt in ledger.attempts if not (own and attempt.name == folder.name)]


def _stated(text: str | None, state: Origin | None) -> Preprocessing | None:
    """The preprocessing that the parameters state; that of the resumed run goes by its label."""
    there = None if state is None or state.checkpoint is None else state.checkpoint.preprocessing
    if text is None or (there is not None and text == there.label):
        return there
    return load_preprocessing(text)


def _preprocessing(stated: Preprocessing | None, origin: Origin, size: int) -> Preprocessing:
    """The stated one, else the checkpoint's, else that of a run from its base model.

    Raises CheckpointError for another size than the network takes.
    """
    found = stated or (origin.checkpoint.preprocessing if origin.checkpoint is not None else None)
    found = found or parse_preprocessing(f"{FUNDUS_SQUARE}@{size}")
    refuse_other_input(found, size)
    return found


def _changed(config: TrainingConfig, there: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Parameters that differ from those that are known of another run."""
    here = config.model_dump(mode="json")
    places = {"output_dir", "experiment_name", "resume_from_checkpoint", "init_from"}
    return {
        name: (there[name], here[name])
        for name in here
        if name in there and name not in places and there[name] != here[name]
    }


def _comparable(origin: Origin, splits: Splits, quiet: bool) -> Origin:
    """The origin without its evaluations if they used other validation images than this run."""
    record = (origin.checkpoint.record if origin.checkpoint is not None else None) or {}
    there = record.get("validation_set", {}).get("digest")
    if there is None:
        tell("It is not known whether the checkpoint was evaluated on the same validation images.", quiet)
    elif there != splits.val.digest():
        tell(
            "The checkpoint was evaluated on other validation images: only this run's evaluations count for the best.",
            quiet,
        )
        return replace(origin, inherited=())
    return origin


def _refuse(ready: Ready, *, resume: bool, quiet: bool) -> None:
    """Raise DrgateError for a run that cannot start, or whose results could not be judged."""
    config, origin, folder = ready.config, ready.origin, ready.folder
    if resume:
        _refuse_another_run(ready)
    elif origin.epochs >= config.num_epochs:
        raise UsageError(
            f"--num_epochs {config.num_epochs} is too small: {origin.source} already has {origin.epochs} epochs,"
            " including those that followed its last epoch to test stability. Give more epochs, or start from the"
            " weights alone with --init_from."
        )
    _refuse_known_patients(ready, quiet)
    paid = (ready.before or {}).get("spend", {}).get("usd", 0.0)
    if paid is None and (config.budget_usd or config.project_budget_usd):
        raise TrainingError(
            "The budget cannot be checked: the cost of this run so far is unknown, because it began without"
            " --usd_per_hour."
        )
    if config.project_budget_usd is not None and earlier_spend(folder, ready.runs)["earlier_usd"] is None:
        raise TrainingError(
            f"--project_budget_usd cannot be checked: the cost of an earlier attempt in {ready.runs or folder.parent}"
            " is unknown. `drtrain attempts list` shows which one."
        )


def _refuse_another_run(ready: Ready) -> None:
    """A resumed run is the same run: parameters that act from the first step cannot change."""
    config, table = ready.config, ready.before or {}
    elsewhere = f'start a new attempt with --resume_from_checkpoint "{ready.folder / LAST}" and another --output_dir.'
    if table.get("dataset_digest") != ready.splits.dataset_digest:
        raise UsageError(f"{config.dataset} has changed since this run began. Restore it, or {elsewhere}")
    if table.get("base", {}).get("digest") != ready.base.digest:
        raise UsageError(f"The base model {ready.base.id} is not the one that this run began with; {elsewhere}")
    if (images := table.get("processes", {}).get("global_batch")) != ready.global_batch:
        raise UsageError(
            f"An optimizer step of this run has {images} images, but {ready.global_batch} with these parameters and"
            f" {ready.group.size} processes. Keep batch_size x gradient_accumulation_steps x processes."
        )
    for name in ("resume_from_checkpoint", "init_from"):
        began = (table.get("parameters") or {}).get(name)
        if getattr(config, name) != began:
            raise UsageError(f"--{name} was {began} when this run began. A resumed run starts from its own state.")
    # data set and base model were compared by digest, so they may have moved
    free = PLACE | LATER | {"batch_size", "gradient_accumulation_steps", "dataset", "base"}
    if config.scheduler == "validation_plateau":
        free -= {"validation_frequency"}
    if wrong := [name for name in ready.changed if name not in free]:
        before, now = ready.changed[wrong[0]]
        raise UsageError(
            f"--{wrong[0]} was {before} when this run began and is {now} now. It acts from the first step: keep the"
            f" old value, or {elsewhere}"
        )


def _refuse_known_patients(ready: Ready, quiet: bool) -> None:
    """An ancestor that was trained on validation images makes every figure of this run too good."""
    origin, splits = ready.origin, ready.splits
    parent = origin.checkpoint.fingerprint if origin.checkpoint is not None and origin.how != "resume" else None
    if parent is None:
        return
    if unchecked := parent.unchecked(ready.patient_key).replace("--patient-key", "--patient_key"):
        tell(
            f"Whether {origin.source} was trained on validation or test patients was not checked: {unchecked}.",
            quiet,
        )
    for rows, what in ((splits.val, "validation"), (splits.test, "test")):
        if rows is not None and (shared := parent.shared_patients(rows.table, ready.patient_key)):
            raise TrainingError(
                f"{origin.source} was trained on {shared} of the {what} patients, so they cannot judge this run. Use "
                "the splits that the checkpoint was trained on (for a data set without splits: its --seed)."
            )
