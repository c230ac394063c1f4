"""One training run, from a `Ready` to `best_model.pth`.

    record = train(TrainingConfig(dataset="eyepacs", base="embedded", output_dir="runs/first"))
    record = train(config, resume=True)                 # same weights as an uninterrupted run, bit for bit

The order of writes makes a run safe to kill at any moment. The record's line of an epoch comes first (a resume drops it
if `last.pth` does not have that epoch yet), then `last.pth`, then `best_model.pth` (a resume writes it if it is
missing). The best epoch has the highest validation accuracy among the first `num_epochs`, the earlier of equals; a run
ends only after five evaluations that follow it.
"""

from __future__ import annotations

import contextlib
import fcntl
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from drgate.errors import CheckpointError, DrgateError, TrainingError, UsageError
from drgate.scale import GRADES
from drgate.screen import progress, tell
from drgate.vision.cache import cache_folder
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
from drgate.vision.fingerprint import Fingerprint
from drgate.vision.network import architecture
from drgate.vision.processes import Processes, processes
from trainer.attempts.ledger import this_process
from trainer.checklist import checklist_state
from trainer.config import FALLING, TrainingConfig
from trainer.data import ImageSet, read_images
from trainer.engine import Engine
from trainer.origin import BEST, LAST, PREVIOUS
from trainer.preflight import findings
from trainer.ready import Ready, prepare, refuse_circles, resolved
from trainer.record import Listener, RunRecord, environment, git_commit
from trainer.sampling import epoch_order, global_batches, repeats
from trainer.schedule import plateau_cuts, rate
from trainer.tracking import tracked
from trainer.watch import EVALUATIONS_AFTER_BEST, Stop, epoch_line, overspent, ruling, selectable, standing

SPEND_SECONDS: Final = 60.0
"""Within an epoch the record gets a line about the spend this often."""


def train(
    config: TrainingConfig,
    *,
    resume: bool = False,
    again: str | None = None,
    runs: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a grading model; leaves `best_model.pth`, `last.pth` and `record.jsonl` in the run's folder.

    resume: continue the run in that folder. again: why an attempt that was made before is repeated. runs: folder of all
    attempts (default: the parent of the run's folder). quiet: print no line per epoch and no progress.

    Returns: the run's record (trainer/record.py).

    Raises:
        DrgateError: the run cannot start, continue or end; the record says how it ended.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the state is saved, and the record says so.
    """
    started = time.monotonic()
    with processes() as group, _Stopping() as stopping:
        quiet = quiet or not group.first
        config = resolved(config, group)
        with _alone(Path(str(config.output_dir)), group):
            start = partial(prepare, config, group, resume=resume, again=again, runs=runs, quiet=quiet)
            ready = group.together(start)
            if ready.over is not None:
                tell(f"This run has already ended: {ready.over['reason']}", quiet)
                return ready.over
            for finding in findings(ready):
                tell(f"Note: {finding}", quiet)
            group.together(lambda: refuse_circles(ready.circles, again, quiet))
            try:
                return _trained(ready, started, stopping, quiet)
            except RuntimeError as problem:
                if group.first:
                    raise
                raise TrainingError(  # the first process reports the cause; this one only lost its connection
                    f"Process {group.rank} ended with the others ({' '.join(str(problem).split())[:120]})."
                ) from problem


def _trained(ready: Ready, started: float, stopping: _Stopping, quiet: bool) -> dict[str, Any]:
    """Run it and end its record, however it ends."""
    training, validation = _images(ready, quiet)
    fingerprint = _fingerprint(ready, training)
    with tracked(ready.config, ready.folder, active=ready.group.first) as listener:
        record = _record(ready, training, validation, started, listener)
        run: _Run | None = None
        try:
            run = _Run(ready, training, validation, fingerprint, record, stopping, quiet)
            stop = run.go()
            _end(ready, record, stop.status, stop.reason, stop.rule)
        except BaseException as error:
            stopping.patient = False
            epoch = (ready.origin.epochs if run is None else run.epoch) + 1
            with contextlib.suppress(DrgateError):  # a full disk cannot take a record either
                _end(ready, record, *_ending(error, epoch))
            kept = _kept(ready, record)
            if isinstance(error, KeyboardInterrupt):
                tell(
                    f"{record.table['reason']} {kept}. Continue with: drtrain --resume --output_dir {ready.folder}",
                    quiet,
                )
            if isinstance(error, torch.OutOfMemoryError):
                raise TrainingError(
                    "A batch does not fit in the memory of the device. Halve --batch_size and double"
                    f" --gradient_accumulation_steps. {kept}."
                ) from error
            raise
    tell(f"{stop.reason} {_kept(ready, record)}.", quiet)
    return record.copy()


def _images(ready: Ready, quiet: bool) -> tuple[ImageSet, ImageSet]:
    """Training and validation images. One process per machine decodes; the others open what it decoded."""
    config, splits = ready.config, ready.splits
    noted: set[str] = set()

    def note(sentence: str) -> None:
        if sentence not in noted:
            tell(sentence, quiet)
        noted.add(sentence)

    def read() -> tuple[ImageSet, ImageSet]:
        with progress("Reading images", quiet) as (started, advance):
            started(len(splits.train) + len(splits.val))
            prepared = partial(
                read_images,
                preprocess=ready.preprocess,
                workers=config.num_workers,
                cache=cache_folder(config.cache_dir),
                folder=ready.folder,
                advance=advance,
                note=note,
            )
            return prepared(splits.train), prepared(splits.val)

    found = read() if ready.group.local_rank == 0 else None
    ready.group.wait()
    return found or read()


def _fingerprint(ready: Ready, training: ImageSet) -> Fingerprint | None:
    """Who was in training, for the checkpoint; None except on the first process."""
    parent = ready.origin.checkpoint
    if not ready.group.first:
        return None
    if ready.origin.how == "resume" and parent is not None:
        return parent.fingerprint
    ancestors = [] if parent is None or parent.fingerprint is None else [parent.fingerprint]
    return Fingerprint.build(training.hashes, ready.splits.train.table, ready.patient_key, ancestors)


def _record(
    ready: Ready, training: ImageSet, validation: ImageSet, started: float, listener: Listener | None
) -> RunRecord:
    """The run's record, with its first line written."""
    config, origin = ready.config, ready.origin
    facts: dict[str, Any] = {
        "parameters": config.model_dump(mode="json"),
        "git_commit": git_commit(),
        "environment": environment(),
        "selection_rule": (
            f"highest validation accuracy among epochs {config.select_from_epoch} to {config.num_epochs}, "
            "the earlier of equals"
        ),
        "process": this_process(),
        "processes": {"n": ready.group.size, "global_batch": ready.global_batch},
        "changed": {name: list(pair) for name, pair in ready.changed.items()},
    }
    if ready.before is not None:
        state = origin.state if origin.how == "resume" else None
        facts |= {
            "epoch": origin.epochs,
            "step": 0 if state is None else state.values["step"],
            "from": None if state is None else {"file": Path(origin.source).name, "sha256": origin.sha256},
            # a falling schedule over another number of epochs rises again
            "warm_start": "num_epochs" in ready.changed and config.scheduler in FALLING and origin.epochs > 0,
        }
    else:
        facts |= {
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
            "inherited": [dict(entry) for entry in origin.inherited],
            "lineage": lineage(ready.base, origin.checkpoint),
            "preprocessing": {"digest": ready.preprocess.digest, "content": ready.preprocess.content()},
        }
        if ready.again is not None:
            facts["again"] = ready.again
    return RunRecord(
        ready.folder,
        started=started,
        usd_per_hour=config.usd_per_hour,
        facts=facts,
        listeners=[] if listener is None else [listener],
        resumed=ready.before,
        runs=ready.runs,
        write=ready.group.first,
    )


def _end(ready: Ready, record: RunRecord, status: str, reason: str, rule: str | None) -> None:
    """End the record and write the whole of it into the best checkpoint, whose weights do not change."""
    if not ready.group.first:
        return
    record.end(status, reason, rule)
    path = ready.folder / BEST
    if path.exists():
        save_checkpoint(path, replace(load_checkpoint(path), record=record.copy()))


def _ending(error: BaseException, epoch: int) -> tuple[str, str, str | None]:
    """Status, reason and rule of a run that an error ended."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", f"A signal ended the run in epoch {epoch}.", None
    rule = "nan" if isinstance(error, _Diverged) else None
    return "failed", f"In epoch {epoch}: {' '.join(str(error).split()) or type(error).__name__}", rule


def _kept(ready: Ready, record: RunRecord) -> str:
    epoch = record.table["selected_epoch"]
    return f"{ready.folder / BEST} holds epoch {epoch}" if epoch else f"{ready.folder} holds no selected epoch"


class _Run:
    """The epochs of a run."""

    def __init__(
        self,
        ready: Ready,
        training: ImageSet,
        validation: ImageSet,
        fingerprint: Fingerprint | None,
        record: RunRecord,
        stopping: _Stopping,
        quiet: bool,
    ) -> None:
        self.ready, self.config, self.group, self.folder = ready, ready.config, ready.group, ready.folder
        self.training, self.validation, self.fingerprint = training, validation, fingerprint
        self.record, self.stopping, self.quiet = record, stopping, quiet
        self.epoch, self.step = ready.origin.epochs, 0
        """Complete epochs; complete steps of the next one."""
        self.rate = 0.0
        self.pace: list[float] = []
        """Seconds of each epoch that was evaluated."""
        torch.manual_seed(self.config.seed)  # draws the initial head and adapters
        model = ready.origin.build(self.config, ready.base)
        self.engine = Engine(self.config, model, self.group, frozen=self.epoch < self.config.freeze_backbone_epochs)
        self.loss_sum, self.images_seen = torch.zeros((), device=self.group.device), 0
        if (state := ready.origin.state) is not None:
            self.engine.restore(state)
            if state.values["order"] == ready.order:  # else the epoch in progress starts again: other images per step
                self.step = state.values["step"]
                self.images_seen = state.values["images_seen"]
                self.loss_sum += state.values["loss_sum"] if self.group.first else 0.0

    def go(self) -> Stop:
        """Train until a rule ends the run, which it returns."""
        if self.ready.origin.how == "resume":
            self._complete_after_a_kill()
        else:
            self._save(LAST)
        self.stopping.patient = True
        stop = self._epochs()
        self.stopping.patient = False
        return stop

    def _complete_after_a_kill(self) -> None:
        """Write best_model.pth if the state has the best epoch and the file does not; keep a file that is better."""
        own = self.ready.origin.checkpoint
        if not self.group.first or own is None:
            return
        for left in self.folder.glob(".*.pth.*.tmp"):
            left.unlink(missing_ok=True)
        table = self.record.table
        file = self.folder / BEST
        there: Checkpoint | None = None
        if file.exists():
            with contextlib.suppress(CheckpointError):
                there = load_checkpoint(file)
        if there is not None and there.tensor_digest == table["tensor_digest"]:
            # its record may say that the run had ended
            save_checkpoint(file, replace(there, record=self.record.copy()))
            return
        if there is not None and there.epoch > own.epoch:
            return  # of an epoch that is computed again; it is replaced if that is as good
        chosen = table["selected_epoch"]
        if chosen is not None and own.tensor_digest == table["tensor_digest"]:
            save_checkpoint(file, replace(own, record=self.record.copy()))
            self.record.best()
        elif chosen is not None and there is None:
            raise TrainingError(
                f"{file} is missing or damaged, and {self.ready.origin.source} holds another epoch than the best,"
                f" {chosen}. Restore the file, or start a new run."
            )

    def _epochs(self) -> Stop:
        config = self.config
        history = self.record.table["history"]
        if self.step == 0 and history and history[-1]["epoch"] == self.epoch:
            # A kill may have come between the last evaluation and what follows from it.
            over = ruling(history, config, self.ready.origin.inherited, begins=self.ready.begins)
            if over is not None:
                return over
        while True:
            epoch = self.epoch + 1
            began = time.monotonic()
            stop = self._one_epoch(epoch)
            if stop is not None:
                return stop
            if epoch % config.validation_frequency == 0 or epoch == config.num_epochs:
                entry, predicted = self._evaluated(epoch)
                self.pace.append(time.monotonic() - began)
                self._keep(epoch, entry)
                stop = self._ruling(predicted)
            else:
                self.epoch, self.step = epoch, 0
                self._save(LAST)
                self.record.spend()
            every = config.checkpoint_frequency
            if every and epoch % every == 0:
                self._save(f"epoch_{epoch:02d}.pth", state=False)
            if stop is not None:
                return stop

    def _one_epoch(self, epoch: int) -> Stop | None:
        """The remaining optimizer steps of an epoch; what ended the run within it, else None."""
        config, group = self.config, self.group
        self.engine.freeze(epoch <= config.freeze_backbone_epochs)
        order = epoch_order(self.training.grades, seed=config.seed, epoch=epoch, sampling=config.sampling)
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
                    self.training,
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
                self.record.spend(every=SPEND_SECONDS)
                minutes = (time.monotonic() - saved) / 60
                budget = self._overspent()
                interrupted, broken, spent, due = group.any_of(
                    [
                        self.stopping.asked,
                        not bool(torch.isfinite(loss)),
                        budget is not None,
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
                    stop: Stop = group.share(budget)
                    return stop
        return None

    def _schedule(self, steps: int) -> Callable[[int], float]:
        """The learning rate of each optimizer step, counted from 0 over the whole run, for the next epoch."""
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
            evaluations = [*self.ready.origin.inherited, *self.record.table["history"]]
            cuts = plateau_cuts([entry["val_accuracy"] for entry in evaluations], config.plateau_patience)
            peak *= config.plateau_factor**cuts
        return lambda number: peak * fraction(number)

    def _evaluated(self, epoch: int) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """The figures of an epoch on the validation images, and the predicted grade of each (n,)."""
        validation = self.validation
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
        entry |= {
            "val_accuracy": float((predicted == validation.grades).mean()),
            "n_val": len(validation),
            **_by_grade(validation.grades, predicted),
            "learning_rate": self.rate,
            "selectable": selectable(epoch, self.config),
        }
        return entry, predicted

    def _keep(self, epoch: int, entry: dict[str, Any]) -> None:
        """The record's line, then the state, then the best model: a resume can complete them after a kill."""
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
        # It may be of a later epoch than the state that this run continued from, if the newest state was damaged.
        known = {entry["epoch"]: entry["val_accuracy"] for entry in (there.record or {}).get("history", ())}
        return there.epoch < epoch or known.get(there.epoch, 0.0) <= now.accuracy

    def _ruling(self, predicted: NDArray[np.int64]) -> Stop | None:
        """What ends the run after this evaluation; prints the line of the epoch."""
        config, table, inherited = self.config, self.record.table, self.ready.origin.inherited
        history, usd = table["history"], self.record.usd()
        stop = ruling(history, config, inherited, begins=self.ready.begins)
        pace = float(np.median(self.pace))
        if stop is None:
            coming = pace / 3600 * (config.usd_per_hour or 0.0)
            stop = overspent(usd, table["spend"]["earlier_usd"], config, next_usd=coming)
        agreed: Stop | None = self.group.share(stop)  # clocks differ
        if not self.quiet:
            line = epoch_line(
                history,
                config,
                inherited=inherited,
                usd=usd,
                seconds_left=self._epochs_left() * pace if agreed is None else 0.0,
                checklist=checklist_state(self.ready.checklist, self.ready.splits.val, predicted),
            )
            tell(line, self.quiet)
        return agreed

    def _epochs_left(self) -> int:
        best = standing(self.record.table["history"], self.config).best
        after = 0 if best is None else best.epoch + EVALUATIONS_AFTER_BEST * self.config.validation_frequency
        return max(self.config.num_epochs, after) - self.epoch

    def _overspent(self) -> Stop | None:
        """By the clock of the first process, which started first."""
        if not self.group.first:
            return None
        return overspent(self.record.usd(), self.record.table["spend"]["earlier_usd"], self.config)

    def _checkpoint(self, epoch: int) -> Checkpoint:
        """The network now; all processes must call this together."""
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
        """Write the network, with the state to continue from; all processes must call this together."""
        checkpoint = self._checkpoint(self.epoch) if checkpoint is None else checkpoint
        whole = self._state() if state else None
        if self.group.first:
            keep = self.folder / PREVIOUS if name == LAST else None
            save_checkpoint(self.folder / name, replace(checkpoint, record=self.record.copy()), state=whole, keep=keep)

    def _state(self) -> TrainingState:
        loss_sum = sum(self.group.gather(self.loss_sum.item()))
        return self.engine.state(
            {
                "epoch": self.epoch,
                "step": self.step,
                "order": self.ready.order,
                "loss_sum": loss_sum,
                "images_seen": self.images_seen,
                "inherited": [dict(entry) for entry in self.ready.origin.inherited],
            }
        )


class _Diverged(TrainingError):
    def __init__(self, epoch: int) -> None:
        super().__init__(
            f"Training diverged in epoch {epoch}: the loss is not a finite number. Lower --learning_rate or"
            " --focal_loss_alpha, and continue from the last complete epoch with --resume_from_checkpoint."
        )


class _Stopping:
    """Ctrl-C and SIGTERM: at once, or after the current step while `patient`; a second signal always acts at once."""

    def __init__(self) -> None:
        self.patient = False
        self.asked = False

    def __enter__(self) -> _Stopping:
        try:
            self._before = {name: signal.signal(name, self._received) for name in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread, which alone receives signals
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _received(self, *_: object) -> None:
        if self.asked or not self.patient:
            raise KeyboardInterrupt
        self.asked = True


@contextlib.contextmanager
def _alone(folder: Path, group: Processes) -> Iterator[None]:
    """One run in a folder at a time; a new folder that stays empty is removed."""
    if not group.first:
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file. Give a new folder with --output_dir.")
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    try:
        with lock.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as problem:
                raise UsageError(f"Another process is working in {folder}. Wait for it, or end it first.") from problem
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    finally:
        for place in made:
            with contextlib.suppress(OSError):  # holds something
                place.rmdir()


def _by_grade(grades: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, dict[str, dict[str, Any]]]:
    """Sensitivity and specificity of each grade as k of n; `value` is None where n is 0."""

    def share(hit: NDArray[np.bool_]) -> dict[str, Any]:
        return {"k": int(hit.sum()), "n": len(hit), "value": float(hit.mean()) if len(hit) else None}

    return {
        "sensitivity": {name: share(predicted[grades == grade] == grade) for grade, name in enumerate(GRADES)},
        "specificity": {name: share(predicted[grades != grade] != grade) for grade, name in enumerate(GRADES)},
    }
