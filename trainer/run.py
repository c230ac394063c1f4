"""One training run, from parameters to `best_model.pth`.

    record = train(TrainingConfig(dataset="eyepacs", base="embedded", output_dir="runs/first"))
    record = train(config, resume=True)                 # goes on after a kill, to the same weights bit for bit

What decides is here: the order of things. An epoch is over when `last.pth` holds it; the record's line is written
before, and is taken back where a kill comes in between; `best_model.pth` is written after, and made up for. So a run
killed at any moment goes on from a state that is whole. The best epoch is the one of highest validation accuracy among
the first `num_epochs`, the earlier of equals; a run ends only when five evaluations follow it.
"""

from __future__ import annotations

import contextlib
import fcntl
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from drgate.checklist import Checklist, load_checklist
from drgate.errors import CheckpointError, DrgateError, TrainingError, UsageError
from drgate.record import FILE, read_record
from drgate.scale import GRADES
from drgate.screen import progress, tell
from drgate.vision.base import Base, resolve_base
from drgate.vision.checkpoint import (
    BaseReference,
    Checkpoint,
    LoraSettings,
    TrainingState,
    checkpoint_tensors,
    lineage,
    load_checkpoint,
    save_checkpoint,
)
from drgate.vision.fingerprint import Fingerprint, shares_patients
from drgate.vision.images import FUNDUS_SQUARE, Preprocessing, preprocessing
from drgate.vision.network import architecture
from drgate.vision.processes import Processes, processes
from trainer.attempts.circles import CircleReport, Proposal, compare
from trainer.attempts.ledger import this_process
from trainer.checklist import checklist_state
from trainer.config import FALLING, LATER, PLACE, TrainingConfig
from trainer.data import ImageSet, Splits, cache_folder, load_splits, read_images
from trainer.engine import Engine
from trainer.origin import BEST, LAST, PREVIOUS, Origin, find_origin, resumed
from trainer.preflight import earlier_attempts, findings, known_attempts
from trainer.record import Listener, RunRecord, earlier_spend, environment, git_commit, refuse_used
from trainer.sampling import epoch_order, global_batches, repeats
from trainer.schedule import plateau_cuts, rate
from trainer.tracking import tracked
from trainer.watch import (
    EVALUATIONS_AFTER_BEST,
    Stop,
    epoch_line,
    overspent,
    parse_decision,
    ruling,
    selectable,
    standing,
)

SPOKEN: Final = 60.0
"""Seconds after which the record says again what was spent, within an epoch."""


def train(
    config: TrainingConfig,
    *,
    resume: bool = False,
    again: str | None = None,
    runs: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a grading model, leaving `best_model.pth`, `last.pth` and `record.jsonl` in the run's folder.

    resume: go on with the run in that folder. again: why an attempt that was made before is made again. runs: folder of
    all attempts; by default the one that the run's folder lies in. quiet: no line for each epoch, and no progress, on
    standard error.

    Returns: the run's record (trainer/record.py).

    Raises:
        DrgateError: anything that keeps the run from starting, going on or ending; the record says how it ended.
        KeyboardInterrupt: by Ctrl-C or SIGTERM; the state is saved, and the record says so.
    """
    started = time.monotonic()
    with processes() as group, _Stopping() as stopping:
        quiet = quiet or not group.first
        config = resolved(config, group)
        with _alone(Path(str(config.output_dir)), group):
            if not resume:
                group.together(lambda: refuse_circles(by_name(config, runs), again, quiet=True))
            ready = group.together(partial(prepare, config, group, resume=resume, runs=runs, quiet=quiet))
            if resume and (over := _is_over(ready)):
                tell(f"This run had come to its end: {over['reason']}", quiet)
                return over
            for finding in findings(ready):
                tell(f"Note: {finding}", quiet)
            if not resume:
                group.together(lambda: refuse_circles(earlier_attempts(ready, runs), again, quiet))
            try:
                return _Run(ready, started, again, stopping, quiet).go()
            except RuntimeError as problem:
                if group.first:
                    raise
                raise TrainingError(  # the first process tells why; here its connection broke off
                    f"Process {group.rank} ended with the others ({' '.join(str(problem).split())[:120]})."
                ) from problem


@dataclass(frozen=True, slots=True)
class Ready:
    """A run that could start: everything is found and fits together, and no image is read yet."""

    config: TrainingConfig
    group: Processes
    folder: Path
    splits: Splits
    base: Base
    preprocess: Preprocessing
    origin: Origin
    checklist: Checklist
    changed: Mapping[str, tuple[Any, Any]]
    """Parameters that differ from those of the run that is gone on with: (there, here)."""
    before: dict[str, Any] | None = None
    """The record of the run that is resumed, up to its newest state."""
    attempts: Path | None = None
    """Folder of the other attempts, where it is not the one that the run's folder lies in."""

    @property
    def global_batch(self) -> int:
        """Images in an optimizer step, on all processes."""
        return self.config.batch_size * self.config.gradient_accumulation_steps * self.group.size

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.splits.train) // self.global_batch)

    @property
    def runs(self) -> Path:
        """Folder of this attempt and those beside it."""
        return self.folder.resolve().parent


def prepare(config: TrainingConfig, group: Processes, *, resume: bool, runs: Path | None = None, quiet: bool) -> Ready:
    """Find everything that a run needs, and refuse what cannot work before money is spent.

    config: `resolved`. runs: folder of the other attempts, by default that of the run's folder.

    Raises DrgateError.
    """
    folder = Path(str(config.output_dir))
    if not resume and group.first:
        refuse_used(folder)
    for text in config.decide:
        parse_decision(text)
    checklist = load_checklist(config.spec)
    splits = load_splits(config.dataset, seed=config.seed)
    base = resolve_base(config.base)
    before = read_record(folder / FILE) if resume else None
    state = resumed(folder) if resume else None
    origin = state or find_origin(config, base)
    if state is not None and state.checkpoint is not None:
        before = state.checkpoint.record
    for note in (*splits.notes, *origin.notes):
        tell(note, quiet)
    size = architecture(base.config)["image_size"]
    there = origin.parameters() if before is None else before.get("parameters") or {}
    ready = Ready(
        config,
        group,
        folder,
        splits,
        base,
        preprocessing(FUNDUS_SQUARE, size),
        origin,
        checklist,
        _changed(config, there),
        before,
        runs,
    )
    if resume:
        _refuse_another_run(ready)
    elif origin.how == "resume_from_checkpoint":
        ready = replace(ready, origin=_comparable(ready, quiet))
    if not resume and origin.epochs >= config.num_epochs:
        raise UsageError(
            f"--num_epochs {config.num_epochs} is behind already: {origin.source} has {origin.epochs} epochs, those"
            " after its last that only watched included; give more, or start anew with --init_from."
        )
    _refuse_known_patients(ready)
    paid = (before or {}).get("spend", {}).get("usd", 0.0)
    if paid is None and (config.budget_usd or config.project_budget_usd):
        raise TrainingError(
            "A budget cannot be kept: what this run has cost so far is not known, since it began without"
            " --usd_per_hour."
        )
    if config.project_budget_usd is not None and earlier_spend(folder, runs)["earlier_usd"] is None:
        raise TrainingError(
            f"--project_budget_usd cannot be kept: an earlier attempt in {runs or folder.parent} does not tell its"
            " cost; drtrain attempts list shows which."
        )
    if origin.checkpoint is not None:
        tell(f"From {origin.source}: {origin.restored}.", quiet)
    for name, (before, now) in ready.changed.items():
        tell(f"  {name}: {_said(before)} there, {_said(now)} here", quiet)
    return ready


def by_name(config: TrainingConfig, runs: Path | None) -> CircleReport:
    """The attempts of imported logs that a run is like, before anything is fetched or read.

    Their data and checkpoints are known by name alone; drtrain's own are compared by digest, once these are known.
    """
    told = [attempt for attempt in known_attempts(Path(str(config.output_dir)), runs) if attempt.origin is not None]
    return compare(Proposal(config.model_dump(mode="json")), told)


def refuse_circles(report: CircleReport, again: str | None, quiet: bool) -> None:
    """Say which earlier attempts a run is like.

    Raises UsageError for one that is identical to an earlier one, without a reason to make it again.
    """
    for likeness in (*report.identical, *report.retraced) or report.nearest[:1]:
        tell(likeness.sentence, quiet)
    if not report.identical or again is not None:
        return
    attempt = report.identical[0].attempt
    goes_on = attempt.status in ("killed", "interrupted") and attempt.origin is None
    way = f"Go on with it (--resume --output_dir {attempt.folder}), change" if goes_on else "Change"
    others = " ".join(likeness.sentence for likeness in report.retraced)
    raise UsageError(
        f"This attempt was made before: {report.identical[0].sentence} {others + ' ' if others and quiet else ''}{way}"
        ' something, or say why it is to be made again: --again "..."'
    )


class _Run:
    """A run from its first line in the record to its last."""

    def __init__(self, ready: Ready, started: float, again: str | None, stopping: _Stopping, quiet: bool) -> None:
        self.ready, self.started, self.again, self.stopping, self.quiet = ready, started, again, stopping, quiet
        self.config, self.group, self.folder = ready.config, ready.group, ready.folder
        self.origin = ready.origin
        self.epoch, self.step = ready.origin.epochs, 0
        self._begins = 0 if ready.before is not None else ready.origin.epochs  # where this attempt's history begins
        self.rate = 0.0
        self.pace: list[float] = []

    def go(self) -> dict[str, Any]:
        training, validation = self._images()
        self.fingerprint = self._fingerprint(training)
        with tracked(self.config, self.folder, active=self.group.first) as listener:
            self.record = self._record(training, validation, listener)
            try:
                self._begin()
                self.stopping.patient = True
                stop = self._epochs(training, validation)
                self.stopping.patient = False
                self._end(stop.status, stop.reason, stop.rule)
            except BaseException as error:
                self.stopping.patient = False
                with contextlib.suppress(DrgateError):  # a full disk takes no record either
                    self._end(*self._ending(error))
                if isinstance(error, KeyboardInterrupt):
                    tell(
                        f"{self.record.table['reason']} {self._kept()}. Go on with: drtrain --resume --output_dir"
                        f" {self.folder}",
                        self.quiet,
                    )
                if isinstance(error, torch.OutOfMemoryError):
                    raise TrainingError(
                        "The device's memory does not hold a batch; halve --batch_size and double"
                        f" --gradient_accumulation_steps; {self._kept()}."
                    ) from error
                raise
        tell(f"{stop.reason} {self._kept()}.", self.quiet)
        return self.record.copy()

    # -- before the first step ----------------------------------------------------------------------------------------

    def _images(self) -> tuple[ImageSet, ImageSet]:
        config, splits = self.config, self.ready.splits
        cache = cache_folder(config.cache_dir)

        said: set[str] = set()

        def note(sentence: str) -> None:
            if sentence not in said:
                tell(sentence, self.quiet)
            said.add(sentence)

        def read() -> tuple[ImageSet, ImageSet]:
            with progress("Reading images", self.quiet) as (started, advance):
                started(len(splits.train) + len(splits.val))
                prepared = partial(
                    read_images,
                    preprocess=self.ready.preprocess,
                    workers=config.num_workers,
                    cache=cache,
                    folder=self.folder,
                    advance=advance,
                    note=note,
                )
                return prepared(splits.train), prepared(splits.val)

        # One process a machine decodes and the others open what it decoded.
        found = read() if self.group.local_rank == 0 else None
        self.group.wait()
        return found or read()

    def _fingerprint(self, training: ImageSet) -> Fingerprint | None:
        if not self.group.first:
            return None
        parent = self.origin.checkpoint
        if self.origin.how == "resume" and parent is not None:
            return parent.fingerprint
        ancestors = [] if parent is None or parent.fingerprint is None else [parent.fingerprint]
        patients = self.ready.splits.train.table["patient"].dropna()
        return Fingerprint.build(training.hashes, patients, ancestors=ancestors)

    def _record(self, training: ImageSet, validation: ImageSet, listener: Listener | None) -> RunRecord:
        config, ready, origin = self.config, self.ready, self.origin
        common: dict[str, Any] = {
            "parameters": config.model_dump(mode="json"),
            "git_commit": git_commit(),
            "environment": environment(),
        }
        common["selection_rule"] = (
            f"highest validation accuracy among epochs {config.select_from_epoch} to {config.num_epochs}, "
            "the earlier of equals"
        )
        common["process"] = this_process()
        common["processes"] = {"n": self.group.size, "global_batch": ready.global_batch}
        if ready.before is not None:
            state = origin.state if origin.how == "resume" else None
            facts = {
                **common,
                "epoch": origin.epochs,
                "step": 0 if state is None else state.values["step"],
                "from": None if state is None else {"file": Path(origin.source).name, "sha256": origin.sha256},
                "changed": {name: list(pair) for name, pair in ready.changed.items()},
                # a falling schedule over another number of epochs rises again
                "warm_start": "num_epochs" in ready.changed and config.scheduler in FALLING and origin.epochs > 0,
            }
            return self._recorded(facts, listener, resumed=ready.before)
        facts = {
            "experiment_name": config.experiment_name,
            "dataset_digest": ready.splits.dataset_digest,
            "dealt_by_seed": ready.splits.dealt_by_seed,
            "notes": [*ready.splits.notes, *origin.notes],
            "training_set": {"digest": ready.splits.train.digest(), "n": len(training), "grades": training.counts()},
            "validation_set": {
                "digest": ready.splits.val.digest(),
                "n": len(validation),
                "grades": validation.counts(),
            },
            "base": {"id": ready.base.id, "revision": ready.base.revision, "digest": ready.base.digest},
            "parent": origin.as_record(),
            "changed": {name: list(pair) for name, pair in ready.changed.items()},
            "inherited": [dict(entry) for entry in origin.inherited],
            "lineage": lineage(ready.base, origin.checkpoint),
            "preprocessing": ready.preprocess.as_dict(),
            **common,
        }
        if self.again is not None:
            facts["again"] = self.again
        return self._recorded(facts, listener)

    def _recorded(
        self, facts: dict[str, Any], listener: Listener | None, resumed: dict[str, Any] | None = None
    ) -> RunRecord:
        return RunRecord(
            self.folder,
            started=self.started,
            usd_per_hour=self.config.usd_per_hour,
            facts=facts,
            listeners=[] if listener is None else [listener],
            resumed=resumed,
            runs=self.ready.attempts,
            write=self.group.first,
        )

    def _begin(self) -> None:
        """The engine at the origin, and what a kill left undone."""
        config, origin = self.config, self.origin
        torch.manual_seed(config.seed)  # the head and the adapters are drawn from it
        model = origin.build(config, self.ready.base)
        self.engine = Engine(config, model, self.group, frozen=self.epoch < config.freeze_backbone_epochs)
        self.loss_sum, self.images_seen = torch.zeros((), device=self.group.device), 0
        if origin.state is not None:
            values = origin.state.values
            self.engine.restore(origin.state)
            if values["order"] == self._order():
                self.step = values["step"]  # else the epoch in progress is begun anew: its images come otherwise here
                self.images_seen = values["images_seen"]
                self.loss_sum += values["loss_sum"] if self.group.first else 0.0
        if origin.how == "resume":
            self._make_up_for_a_kill()
        else:
            self._save(LAST)

    def _make_up_for_a_kill(self) -> None:
        """Write best_model.pth where the state holds the best epoch and the file does not; keep one that is better."""
        if not self.group.first or self.origin.checkpoint is None:
            return
        for left in self.folder.glob(".*.pth.*.tmp"):
            left.unlink(missing_ok=True)
        table = self.record.table
        file = self.folder / BEST
        there: Checkpoint | None = None
        if file.exists():
            with contextlib.suppress(CheckpointError):
                there = load_checkpoint(file)
        chosen = table["selected_epoch"]
        if there is not None and there.tensor_digest == table["tensor_digest"]:
            # it may say that the run had ended
            save_checkpoint(file, replace(there, record=self.record.copy()))
            return
        own = self.origin.checkpoint
        if there is not None and there.epoch > own.epoch:
            return  # of an epoch that is computed again; it is replaced if that is as good
        if chosen is not None and own.tensor_digest == table["tensor_digest"]:
            save_checkpoint(file, replace(own, record=self.record.copy()))
            self.record.best()
        elif chosen is not None and there is None:
            raise TrainingError(
                f"{file} is missing or damaged, and {self.origin.source} holds another epoch than the best, {chosen}:"
                " put it back, or start anew."
            )

    # -- epochs -------------------------------------------------------------------------------------------------------

    def _epochs(self, training: ImageSet, validation: ImageSet) -> Stop:
        config = self.config
        history = self.record.table["history"]
        if self.step == 0 and history and history[-1]["epoch"] == self.epoch:
            # A kill may have come between the last evaluation and what follows from it.
            over = ruling(history, config, self.origin.inherited, begins=self._begins)
            if over is not None:
                return over
        while True:
            epoch = self.epoch + 1
            began = time.monotonic()
            stop = self._one_epoch(epoch, training)
            if stop is not None:
                return stop
            if epoch % config.validation_frequency == 0 or epoch == config.num_epochs:
                entry = self._evaluated(epoch, validation)
                self.pace.append(time.monotonic() - began)
                self._keep(epoch, entry)
                stop = self._ruling()
            else:
                self.epoch, self.step = epoch, 0
                self._save(LAST)
                self.record.spend()
            every = config.checkpoint_frequency
            if every and epoch % every == 0:
                self._save(f"epoch_{epoch:02d}.pth", state=False)
            if stop is not None:
                return stop

    def _one_epoch(self, epoch: int, training: ImageSet) -> Stop | None:
        """The optimizer steps of an epoch that are not done yet; what ended the run within it, else None."""
        config, group = self.config, self.group
        self.engine.freeze(epoch <= config.freeze_backbone_epochs)
        order = epoch_order(training.grades, seed=config.seed, epoch=epoch, sampling=config.sampling)
        shown = repeats(order)
        steps = list(
            global_batches(
                np.arange(len(order)),
                batch_size=config.batch_size,
                accumulation=config.gradient_accumulation_steps,
                world_size=group.size,
            )
        )
        rate_at = self._schedule(len(steps))
        saved = time.monotonic()
        with progress(f"Epoch {epoch}", self.quiet) as (started, advance):
            started(len(steps))
            advance(self.step)
            while self.step < len(steps):
                step = steps[self.step]
                number = self.epoch * len(steps) + self.step
                self.rate = rate_at(number)
                places = step.batches[group.rank]
                loss = self.engine.step(
                    training,
                    [order[at] for at in places],
                    [shown[at] for at in places],
                    epoch=epoch,
                    number=number,
                    total=step.images,
                    rate=self.rate,
                )
                self.loss_sum += loss
                self.images_seen += step.images
                self.step += 1
                advance(1)
                self.record.spend(every=SPOKEN)
                minutes = (time.monotonic() - saved) / 60
                poor = self._overspent()
                interrupted, broken, spent, due = group.any_of(
                    [
                        self.stopping.asked,
                        not bool(torch.isfinite(loss)),
                        poor is not None,
                        group.first and self.step < len(steps) and minutes >= config.save_minutes,
                    ]
                )
                if broken:
                    raise _Diverged(epoch)
                if interrupted or spent or due:
                    self._save(LAST)
                    saved = time.monotonic()
                if interrupted:
                    raise KeyboardInterrupt
                if spent:
                    stop: Stop = group.share(poor)
                    return stop
        return None

    def _schedule(self, steps: int) -> Callable[[int], float]:
        """The learning rate of each optimizer step, counted from 0 over the whole run, in the epoch that begins."""
        config = self.config
        fraction = partial(
            rate,
            scheduler=config.scheduler,
            warmup_steps=config.warmup_epochs * steps,
            total_steps=config.num_epochs * steps,
            cycles=config.scheduler_cycles,
            power=config.scheduler_power,
        )
        peak = config.learning_rate
        if config.scheduler == "validation_plateau":
            evaluations = [*self.origin.inherited, *self.record.table["history"]]
            cuts = plateau_cuts([entry["val_accuracy"] for entry in evaluations], config.plateau_patience)
            peak *= config.plateau_factor**cuts
        return lambda number: peak * fraction(number)

    def _evaluated(self, epoch: int, validation: ImageSet) -> dict[str, Any]:
        """The epoch's figures on the validation images: accuracy, loss, each grade's sensitivity and specificity."""
        with progress("Validation", self.quiet) as (started, advance):
            started(len(validation))
            logits = self.engine.logits(validation, advance)
        grades = torch.from_numpy(validation.grades)
        loss_sum = sum(self.group.gather(self.loss_sum.item()))
        entry: dict[str, Any] = {
            "epoch": epoch,
            "train_loss": loss_sum / max(self.images_seen, 1),
            "val_loss": self.engine.losses(logits, grades).mean().item(),
        }
        self.loss_sum.zero_()
        self.images_seen = 0
        if not np.isfinite([entry["train_loss"], entry["val_loss"]]).all():
            raise _Diverged(epoch)
        predicted = logits.argmax(dim=1).numpy()
        self.predicted = predicted
        return entry | {
            "val_accuracy": float((predicted == validation.grades).mean()),
            "n_val": len(validation),
            **_by_grade(validation.grades, predicted),
            "learning_rate": self.rate,
            "selectable": selectable(epoch, self.config),
        }

    def _keep(self, epoch: int, entry: dict[str, Any]) -> None:
        """The record's line, then the state, then the best model: a kill in between leaves what can be made up for."""
        self.record.epoch(entry)
        best = self.group.share(self._is_best(epoch))
        checkpoint = self._checkpoint(epoch)
        if best:
            self.record.choose(epoch, checkpoint.tensor_digest)
        self.epoch, self.step = epoch, 0
        self._save(LAST, checkpoint=checkpoint)
        if best and self.group.first:
            save_checkpoint(self.folder / BEST, replace(checkpoint, record=self.record.copy()))
            self.record.best()

    def _is_best(self, epoch: int) -> bool:
        now = standing(self.record.table["history"], self.config).best
        if now is None or now.epoch != epoch:
            return False
        try:
            there = load_checkpoint(self.folder / BEST)
        except CheckpointError:  # none yet, or damaged
            return True
        # Of a later epoch than the state that this run went on from, where the newest state was damaged.
        known = {entry["epoch"]: entry["val_accuracy"] for entry in (there.record or {}).get("history", ())}
        return there.epoch < epoch or known.get(there.epoch, 0.0) <= now.accuracy

    def _ruling(self) -> Stop | None:
        """What ends the run after this evaluation; says how it went."""
        config, table, inherited = self.config, self.record.table, self.origin.inherited
        history, usd = table["history"], self.record.usd()
        stop = ruling(history, config, inherited, begins=self._begins)
        pace = float(np.median(self.pace))
        if stop is None:
            coming = pace / 3600 * (config.usd_per_hour or 0.0)
            stop = overspent(usd, table["spend"]["earlier_usd"], config, next_usd=coming)
        agreed: Stop | None = self.group.share(stop)  # clocks differ
        if self.group.first:
            line = epoch_line(
                history,
                config,
                inherited=inherited,
                usd=usd,
                seconds_left=self._epochs_left() * pace if agreed is None else 0.0,
                checklist=checklist_state(self.ready.checklist, self.ready.splits.val, self.predicted),
            )
            tell(line, self.quiet)
        return agreed

    def _epochs_left(self) -> int:
        best = standing(self.record.table["history"], self.config).best
        after = 0 if best is None else best.epoch + EVALUATIONS_AFTER_BEST * self.config.validation_frequency
        return max(self.config.num_epochs, after) - self.epoch

    def _overspent(self) -> Stop | None:
        """By the clock of the first process, which began first."""
        if not self.group.first:
            return None
        return overspent(self.record.usd(), self.record.table["spend"]["earlier_usd"], self.config)

    # -- files --------------------------------------------------------------------------------------------------------

    def _checkpoint(self, epoch: int) -> Checkpoint:
        """The network as it stands; every process must ask at the same time."""
        tower, head = checkpoint_tensors(self.engine.model)
        config = self.config
        lora = LoraSettings(config.lora_r, config.lora_alpha) if config.use_lora == "yes" else None
        return Checkpoint(
            base=BaseReference.of(self.ready.base),
            architecture=architecture(self.ready.base.config),
            lora=lora,
            tower=tower,
            head=head,
            dropout=config.dropout,
            preprocessing=self.ready.preprocess,
            training_config=config.model_dump(mode="json"),
            epoch=epoch,
            record=None,
            fingerprint=self.fingerprint,
        )

    def _save(self, name: str, *, checkpoint: Checkpoint | None = None, state: bool = True) -> None:
        """Write the network as it stands, with the state that a run goes on from; every process must ask."""
        checkpoint = self._checkpoint(self.epoch) if checkpoint is None else checkpoint
        whole = self._state() if state else None
        if self.group.first:
            keep = self.folder / PREVIOUS if name == LAST else None
            save_checkpoint(self.folder / name, replace(checkpoint, record=self.record.copy()), state=whole, keep=keep)

    def _order(self) -> dict[str, Any]:
        """What decides which images make up each step of an epoch."""
        return {
            "seed": self.config.seed,
            "sampling": self.config.sampling,
            "training_set": self.ready.splits.train.digest(),
            "global_batch": self.ready.global_batch,
        }

    def _state(self) -> TrainingState:
        loss_sum = sum(self.group.gather(self.loss_sum.item()))
        return self.engine.state(
            {
                "epoch": self.epoch,
                "step": self.step,
                "order": self._order(),
                "loss_sum": loss_sum,
                "images_seen": self.images_seen,
                "inherited": [dict(entry) for entry in self.origin.inherited],
            }
        )

    def _end(self, status: str, reason: str, rule: str | None) -> None:
        """End the record and write the whole of it into the best checkpoint, whose weights stay as they are."""
        if not self.group.first:
            return
        self.record.end(status, reason, rule)
        path = self.folder / BEST
        if path.exists():
            save_checkpoint(path, replace(load_checkpoint(path), record=self.record.copy()))

    def _ending(self, error: BaseException) -> tuple[str, str, str | None]:
        epoch = self.epoch + 1
        if isinstance(error, KeyboardInterrupt):
            return "interrupted", f"A signal ended the run in epoch {epoch}.", None
        rule = "nan" if isinstance(error, _Diverged) else None
        return "failed", f"In epoch {epoch}: {' '.join(str(error).split()) or type(error).__name__}", rule

    def _kept(self) -> str:
        epoch = self.record.table["selected_epoch"]
        return f"{self.folder / BEST} holds epoch {epoch}" if epoch else f"{self.folder} holds no epoch that was chosen"


class _Diverged(TrainingError):
    def __init__(self, epoch: int) -> None:
        super().__init__(
            f"Training diverged in epoch {epoch}: the loss is no longer a number; lower --learning_rate or"
            " --focal_loss_alpha, and go on from the last whole epoch with --resume_from_checkpoint."
        )


class _Stopping:
    """Ctrl-C and SIGTERM: at once, or, while `patient`, after the step in hand; a second one is always at once."""

    def __init__(self) -> None:
        self.patient = False
        self.asked = False

    def __enter__(self) -> _Stopping:
        try:
            self._before = {name: signal.signal(name, self._hear) for name in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread, where signals do not arrive
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _hear(self, *_: object) -> None:
        if self.asked or not self.patient:
            raise KeyboardInterrupt
        self.asked = True


@contextlib.contextmanager
def _alone(folder: Path, group: Processes) -> Iterator[None]:
    """One run in a folder at a time; a folder that was made for nothing is removed again."""
    if not group.first:
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a new folder with --output_dir.")
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    try:
        with lock.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as problem:
                raise UsageError(f"Another process is at work in {folder}; wait for it, or end it first.") from problem
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    finally:
        for place in made:
            with contextlib.suppress(OSError):  # holds something
                place.rmdir()


def resolved(config: TrainingConfig, group: Processes) -> TrainingConfig:
    """The parameters with the run's folder and the precision as they are here.

    Raises TrainingError for what this machine or these processes cannot do.
    """
    cuda = group.device.type == "cuda"
    precision: str = config.precision
    if precision == "auto":
        precision = "bf16" if cuda and torch.cuda.is_bf16_supported() else "fp32"
    if precision == "fp16" and not cuda:
        raise TrainingError("--precision fp16 needs a GPU; without one use fp32 or auto.")
    if config.select_from_epoch > config.num_epochs:
        raise TrainingError(
            f"--select_from_epoch {config.select_from_epoch} lies after the last of {config.num_epochs} epochs: no "
            "epoch could be the best."
        )
    if config.usd_per_hour is None and (config.budget_usd or config.project_budget_usd):
        raise TrainingError("A budget needs the machine's price: give --usd_per_hour.")
    if config.distributed == "fsdp" and (config.freeze_backbone_epochs or precision == "fp16"):
        raise TrainingError("--distributed fsdp goes with neither --freeze_backbone_epochs nor --precision fp16.")
    folder = config.output_dir or f"runs/{config.experiment_name}"
    return config.model_copy(update={"output_dir": folder, "precision": precision})


def _said(value: Any) -> str:
    """A parameter's value for a person."""
    return "not set" if value in (None, [], ()) else "; ".join(value) if isinstance(value, list) else str(value)


def _changed(config: TrainingConfig, there: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Parameters that differ from those of another run, as far as they are told."""
    here = config.model_dump(mode="json")
    places = {"output_dir", "experiment_name", "resume_from_checkpoint", "init_from"}
    return {
        name: (there[name], here[name])
        for name in here
        if name in there and name not in places and there[name] != here[name]
    }


def _refuse_another_run(ready: Ready) -> None:
    """A run that is resumed is the same run: what acted from its first step on stays as it was."""
    table = ready.before or {}
    elsewhere = f'start a new attempt with --resume_from_checkpoint "{ready.folder / LAST}" and another --output_dir.'
    if table.get("dataset_digest") != ready.splits.dataset_digest:
        raise UsageError(f"{ready.config.dataset} has changed since this run began: put it back, or {elsewhere}")
    if table.get("base", {}).get("digest") != ready.base.digest:
        raise UsageError(f"The base model {ready.base.id} is not the one that this run began with; {elsewhere}")
    shared = {"batch_size", "gradient_accumulation_steps"}
    if table.get("processes", {}).get("global_batch") != ready.global_batch:
        raise UsageError(
            f"An optimizer step of this run has {table.get('processes', {}).get('global_batch')} images, and"
            f" {ready.global_batch} with these parameters and {ready.group.size} processes: keep batch_size x"
            " gradient_accumulation_steps x processes."
        )
    for name in ("resume_from_checkpoint", "init_from"):
        began = (table.get("parameters") or {}).get(name)
        if getattr(ready.config, name) != began:
            raise UsageError(
                f"--{name} was {began} when this run began; a run that is resumed goes on from its own state."
            )
    # data and base model were compared by digest: they may lie elsewhere now
    free = PLACE | LATER | shared | {"dataset", "base"}
    if ready.config.scheduler == "validation_plateau":
        free -= {"validation_frequency"}
    if wrong := [name for name in ready.changed if name not in free]:
        before, now = ready.changed[wrong[0]]
        raise UsageError(
            f"--{wrong[0]} was {before} when this run began and is {now} now, and acts from the first step on: leave it"
            f" as it was, or {elsewhere}"
        )


def _refuse_known_patients(ready: Ready) -> None:
    """An ancestor that was trained on validation images flatters every figure that the run is steered by."""
    origin, splits = ready.origin, ready.splits
    parent = origin.checkpoint.fingerprint if origin.checkpoint is not None and origin.how != "resume" else None
    if parent is None:
        return
    for rows, what in ((splits.val, "validation"), (splits.test, "test")):
        if rows is None or not rows.patients_known:
            continue
        if shared := shares_patients(parent, rows.table["patient"]):
            raise TrainingError(
                f"{origin.source} was trained on {len(shared)} of the {what} patients ({', '.join(shared[:3])}"
                f"{', ...' if len(shared) > 3 else ''}): neither this run nor what comes of it could be judged by them."
                " Use the splits that it was trained on (of a data set without splits: its --seed)."
            )


def _is_over(ready: Ready) -> dict[str, Any] | None:
    """The record of a resumed run that has come to its end, where nothing was changed that would let it go on."""
    table = read_record(ready.folder / FILE)
    over = table["status"] in ("finished", "stopped") and not LATER & ready.changed.keys()
    return table if over else None


def _comparable(ready: Ready, quiet: bool) -> Origin:
    """The origin with its evaluations, where they are of the validation images of this run or could be."""
    origin = ready.origin
    record = (origin.checkpoint.record if origin.checkpoint is not None else None) or {}
    there = record.get("validation_set", {}).get("digest")
    if there is None:
        tell("Whether its evaluations are of the same validation images is not known.", quiet)
        return origin
    if there == ready.splits.val.digest():
        return origin
    tell("Its evaluations are of other validation images: the best so far is counted anew.", quiet)
    return replace(origin, inherited=())


def _by_grade(grades: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, dict[str, dict[str, Any]]]:
    """Sensitivity and specificity of each grade as k of n; `value` is None where n is 0."""

    def share(hit: NDArray[np.bool_]) -> dict[str, Any]:
        return {"k": int(hit.sum()), "n": len(hit), "value": float(hit.mean()) if len(hit) else None}

    return {
        "sensitivity": {name: share(predicted[grades == grade] == grade) for grade, name in enumerate(GRADES)},
        "specificity": {name: share(predicted[grades != grade] != grade) for grade, name in enumerate(GRADES)},
    }
