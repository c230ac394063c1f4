"""One training run, from parameters to `best_model.pth`.

    record = train(TrainingConfig(dataset="eyepacs", base="embedded", output_dir="runs/first"))

`transformers.Trainer` is the engine: gradient accumulation, mixed precision, devices. What decides is here: the loss,
the schedule, which epoch is best, and when it is over. The best epoch is the one of highest validation accuracy among
the first `num_epochs`, the earlier of equals; a run ends only when five evaluations follow it, because a history that
ends at its maximum proves nothing about stability.
"""

from __future__ import annotations

import contextlib
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
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from drgate.cli.options import progress, tell
from drgate.errors import DrgateError, TrainingError
from drgate.scale import GRADES
from drgate.vision.base import Base, resolve_base
from drgate.vision.checkpoint import (
    BaseReference,
    Checkpoint,
    LoraSettings,
    checkpoint_tensors,
    load_checkpoint,
    save_checkpoint,
)
from drgate.vision.fingerprint import Fingerprint
from drgate.vision.images import FUNDUS_SQUARE, Preprocessing, preprocessing, scaled
from drgate.vision.network import GradingModel, add_lora, architecture
from trainer.config import TrainingConfig
from trainer.data import ImageSet, Splits, load_splits, read_images
from trainer.loss import focal_losses
from trainer.record import RunRecord, environment, git_commit, refuse_used
from trainer.schedule import rate

EVALUATIONS_AFTER_BEST: Final = 5


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt as Ctrl-C does, so that a run that is told to go leaves a truthful record."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not in the main thread, where signals do not arrive
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@_terminated_like_interrupted()
def train(config: TrainingConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Train a grading model, leaving `best_model.pth`, `last.pth` and `record.jsonl` in the run's folder.

    quiet: no line for each epoch, and no progress, on standard error.

    Returns: the run's record (trainer/record.py).

    Raises:
        DrgateError: anything that keeps the run from starting, going on or ending; the record says how it ended.
        KeyboardInterrupt: by Ctrl-C or SIGTERM; the record says so.
    """
    started = time.monotonic()
    config = _resolved(config)
    folder = Path(str(config.output_dir))
    refuse_used(folder)
    splits = load_splits(config.dataset, seed=config.seed)
    base = resolve_base(config.base)
    for note in splits.notes:
        tell(note, quiet)
    preprocess = preprocessing(FUNDUS_SQUARE, architecture(base.config)["image_size"])
    training, validation = _read_all(splits, preprocess, config, folder, quiet)
    fingerprint = Fingerprint.build(training.hashes, splits.train.table["patient"].dropna())
    facts = {
        "experiment_name": config.experiment_name,
        "parameters": config.model_dump(),
        "dataset_digest": splits.dataset_digest,
        "dealt_by_seed": splits.dealt_by_seed,
        "notes": splits.notes,
        "training_set": {"digest": splits.train.digest(), "n": len(training), "grades": training.counts()},
        "validation_set": {"digest": splits.val.digest(), "n": len(validation), "grades": validation.counts()},
        "base": {"id": base.id, "revision": base.revision, "digest": base.digest},
        "parent": None,
        "preprocessing": preprocess.as_dict(),
        "selection_rule": (
            f"highest validation accuracy among epochs {config.select_from_epoch} to {config.num_epochs}, "
            "the earlier of equals"
        ),
        "git_commit": git_commit(),
        "environment": environment(),
    }
    record = RunRecord(folder, started=started, usd_per_hour=config.usd_per_hour, facts=facts)
    keeper = _Keeper(folder, config, base, preprocess, fingerprint, record)
    try:
        set_seed(config.seed)
        model = build_model(config, base)
        trainer = FocalTrainer(config, model, training, folder)
        watch = Watch(config, model, trainer, validation, keeper, quiet)
        with watch:
            trainer.add_callback(watch)
            trainer.train()
        keeper.write("last.pth", model, len(record.table["history"]))
        keeper.end(*watch.ending)
    except BaseException as error:
        with contextlib.suppress(DrgateError):  # a full disk takes no record either
            keeper.end(*_ending(error, record))
        epoch = record.table["selected_epoch"]
        kept = f"{folder / 'best_model.pth'} holds epoch {epoch}" if epoch else "no checkpoint was written yet"
        if isinstance(error, KeyboardInterrupt):
            tell(f"{record.table['reason']} {kept}.", quiet)
        if isinstance(error, torch.OutOfMemoryError):
            raise TrainingError(
                "The device's memory does not hold a batch; halve --batch_size and double"
                f" --gradient_accumulation_steps; {kept}."
            ) from error
        raise
    tell(f"{watch.ending[1]} {folder / 'best_model.pth'}", quiet)
    return record.copy()


def build_model(config: TrainingConfig, base: Base) -> GradingModel:
    """The network before its first step; the head and the adapters are drawn from torch's generator."""
    tower = base.load()
    backbone: torch.nn.Module = tower
    if config.use_lora == "yes":
        backbone = add_lora(tower, r=config.lora_r, alpha=config.lora_alpha)
    return GradingModel(backbone, architecture(base.config)["hidden_size"], config.dropout)


class FocalTrainer(Trainer):
    """`transformers.Trainer` with our loss and schedule.

    The loss of an optimizer step is the sum over all its images, of however many forward passes, divided by their
    number.
    """

    def __init__(self, config: TrainingConfig, model: GradingModel, images: ImageSet, folder: Path) -> None:
        self.config = config
        cuda = torch.cuda.is_available()
        arguments = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            num_train_epochs=config.num_epochs + EVALUATIONS_AFTER_BEST,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            seed=config.seed,
            use_cpu=not cuda,
            bf16=config.precision == "bf16",
            fp16=config.precision == "fp16",
            optim="adamw_torch",
            eval_strategy="no",
            save_strategy="no",
            logging_strategy="no",
            logging_nan_inf_filter=False,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_num_workers=0,  # the images lie prepared in memory
            dataloader_pin_memory=cuda,
        )
        if arguments.n_gpu > 1:
            arguments._n_gpu = 1  # several GPUs are for torchrun; threads over GPUs would count images wrongly
        self._weights = class_weights(config).to(arguments.device)
        self.loss_sum = torch.zeros((), device=arguments.device)
        self.images_seen = 0
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=_Indices(len(images)),
            data_collator=partial(collate, images),
            compute_loss_func=self._loss,
        )
        self.remove_callback(PrinterCallback)

    def losses(self, logits: Tensor, grades: Tensor) -> Tensor:
        """Loss of each image (n,)."""
        return focal_losses(
            logits,
            grades,
            alpha=self.config.focal_loss_alpha,
            gamma=self.config.focal_loss_gamma,
            weights=self._weights.to(logits.device),
        )

    def _loss(self, logits: Tensor, grades: Tensor, num_items_in_batch: Tensor | int) -> Tensor:
        total = self.losses(logits, grades).sum()
        self.loss_sum += total.detach()
        self.images_seen += len(grades)
        return total / num_items_in_batch

    def mean_loss(self) -> float:
        """Mean training loss an image since the last call."""
        mean = self.loss_sum.item() / max(self.images_seen, 1)
        self.loss_sum.zero_()
        self.images_seen = 0
        return mean

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None:
            steps_per_epoch = num_training_steps // (self.config.num_epochs + EVALUATIONS_AFTER_BEST)
            factor = partial(
                rate,
                scheduler=self.config.scheduler,
                warmup_steps=self.config.warmup_epochs * steps_per_epoch,
                total_steps=self.config.num_epochs * steps_per_epoch,
            )
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)  # type: ignore[arg-type]  # made before
        return self.lr_scheduler


class Watch(TrainerCallback):
    """Evaluates after each epoch, keeps the best, and says when the run is over."""

    def __init__(
        self,
        config: TrainingConfig,
        model: GradingModel,
        trainer: FocalTrainer,
        validation: ImageSet,
        keeper: _Keeper,
        quiet: bool,
    ) -> None:
        self.config = config
        self.model = model
        self.trainer = trainer
        self.validation = validation
        self.keeper = keeper
        self.quiet = quiet
        self.best_accuracy = -1.0
        self.best_epoch = 0
        self.ending = ("failed", "The run ended before its first evaluation.")
        self._bar = contextlib.ExitStack()
        self._advance: Callable[[int], None]
        self._rate = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        epoch = len(self.keeper.record.table["history"]) + 1
        started, self._advance = self._bar.enter_context(progress(f"Epoch {epoch}", self.quiet))
        started(state.max_steps // int(args.num_train_epochs))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._rate = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._advance(1)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.close()
        history = self.keeper.record.table["history"]
        epoch = len(history) + 1
        entry = {
            "epoch": epoch,
            "train_loss": self.trainer.mean_loss(),
            **self._evaluate(),
            "learning_rate": self._rate,
            "selectable": self.config.select_from_epoch <= epoch <= self.config.num_epochs,
        }
        if not np.isfinite([entry["train_loss"], entry["val_loss"]]).all():
            raise TrainingError(
                f"Training diverged in epoch {epoch}: the loss is no longer a number; lower --learning_rate or"
                " --focal_loss_alpha."
            )
        self.keeper.record.epoch(entry)
        best = entry["selectable"] and entry["val_accuracy"] > self.best_accuracy
        if best:
            self.best_accuracy, self.best_epoch = entry["val_accuracy"], epoch
            self.keeper.write("best_model.pth", self.model, epoch, best=True)
        every = self.config.checkpoint_frequency
        if every and epoch % every == 0:
            self.keeper.write(f"epoch_{epoch:02d}.pth", self.model, epoch)
        tell(self._line(entry, best=best), self.quiet)
        since = epoch - max(self.best_epoch, self.config.select_from_epoch - 1)
        if epoch >= self.config.num_epochs and since >= EVALUATIONS_AFTER_BEST:
            self.ending = ("finished", f"All {self.config.num_epochs} epochs ran; the best is epoch {self.best_epoch}.")
            control.should_training_stop = True
        elif since >= max(self.config.patience, EVALUATIONS_AFTER_BEST):
            self.ending = ("stopped", f"No better epoch in {since} evaluations; the best is epoch {self.best_epoch}.")
            control.should_training_stop = True

    def _evaluate(self) -> dict[str, Any]:
        """Accuracy, mean loss, and each grade's sensitivity and specificity with counts, on the validation images."""
        self.model.eval()
        grades = self.validation.grades
        logits = []
        with torch.inference_mode():
            step = 2 * self.config.batch_size
            for start in range(0, len(grades), step):
                pixels = torch.from_numpy(scaled(self.validation.pixels[start : start + step]))
                logits.append(self.model(pixels.to(self.trainer.args.device)).float().cpu())
            all_logits = torch.cat(logits)
            loss = self.trainer.losses(all_logits, torch.from_numpy(grades)).mean().item()
        predicted = all_logits.argmax(dim=1).numpy()
        return {
            "val_loss": loss,
            "val_accuracy": float((predicted == grades).mean()),
            "n_val": len(grades),
            **_by_grade(grades, predicted),
        }

    def _line(self, entry: dict[str, Any], *, best: bool) -> str:
        table = self.keeper.record.table
        correct = round(entry["val_accuracy"] * entry["n_val"])
        severe, pdr = (entry["sensitivity"][grade] for grade in ("severe_npdr", "pdr"))
        parts = [
            f"epoch {entry['epoch']}/{self.config.num_epochs}",
            f"train loss {entry['train_loss']:.4f}",
            f"val accuracy {entry['val_accuracy']:.1%} ({correct}/{entry['n_val']})",
            f"severe NPDR {severe['k']}/{severe['n']}",
            f"PDR {pdr['k']}/{pdr['n']}",
            f"lr {entry['learning_rate']:.1e}",
        ]
        if table["spend"]["usd"] is not None:
            parts.append(f"{table['spend']['usd']:.2f} USD")
        left = max(self.config.num_epochs, self.best_epoch + EVALUATIONS_AFTER_BEST) - entry["epoch"]
        pace = (time.monotonic() - self._began) / entry["epoch"]
        parts.append(f"about {_duration(left * pace)} left" if left > 0 else _duration(table["seconds"]))
        if best:
            parts.append("best so far")
        elif not entry["selectable"]:
            early = entry["epoch"] < self.config.select_from_epoch
            parts.append("too early to be chosen" if early else "after the last epoch: watched, not chosen")
        return "  ".join(parts)


class _Keeper:
    """Writes checkpoints of one run."""

    def __init__(
        self,
        folder: Path,
        config: TrainingConfig,
        base: Base,
        preprocess: Preprocessing,
        fingerprint: Fingerprint,
        record: RunRecord,
    ) -> None:
        self.folder = folder
        self.config = config
        self.base = base
        self.preprocess = preprocess
        self.fingerprint = fingerprint
        self.record = record

    def write(self, name: str, model: GradingModel, epoch: int, *, best: bool = False) -> None:
        tower, head = checkpoint_tensors(model)
        config = self.config
        lora = LoraSettings(config.lora_r, config.lora_alpha) if config.use_lora == "yes" else None
        checkpoint = Checkpoint(
            base=BaseReference.of(self.base),
            architecture=architecture(self.base.config),
            lora=lora,
            tower=tower,
            head=head,
            dropout=config.dropout,
            preprocessing=self.preprocess,
            training_config=config.model_dump(),
            epoch=epoch,
            record=None,
            fingerprint=self.fingerprint,
        )
        if best:
            self.record.best(epoch, checkpoint.tensor_digest)
        save_checkpoint(self.folder / name, replace(checkpoint, record=self.record.copy()))

    def end(self, status: str, reason: str) -> None:
        """End the record and write the whole of it into the best checkpoint, whose weights stay as they are."""
        self.record.end(status, reason)
        path = self.folder / "best_model.pth"
        if path.exists():
            save_checkpoint(path, replace(load_checkpoint(path), record=self.record.copy()))


class _Indices(Dataset[int]):
    """Positions in an `ImageSet`; `collate` fetches what lies there."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        return index


def collate(images: ImageSet, indices: list[int]) -> dict[str, Tensor]:
    """Network input and grades of the images at `indices`."""
    return {
        "pixel_values": torch.from_numpy(scaled(images.pixels[indices])),
        "labels": torch.from_numpy(images.grades[indices]),
    }


def class_weights(config: TrainingConfig) -> Tensor:
    """Factor of each grade's loss (5,)."""
    return torch.tensor([1.0, 1.0, 1.0, config.class_weight_severe, config.class_weight_pdr])


def _resolved(config: TrainingConfig) -> TrainingConfig:
    """The parameters with the run's folder and the precision as they are here."""
    cuda = torch.cuda.is_available()
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
    folder = config.output_dir or f"runs/{config.experiment_name}"
    return config.model_copy(update={"output_dir": folder, "precision": precision})


def _read_all(
    splits: Splits, preprocess: Preprocessing, config: TrainingConfig, folder: Path, quiet: bool
) -> tuple[ImageSet, ImageSet]:
    read = partial(read_images, preprocess=preprocess, workers=config.num_workers, folder=folder)
    with progress("Reading images", quiet) as (started, advance):
        started(len(splits.train) + len(splits.val))
        training, validation = (read(manifest, advance=advance) for manifest in (splits.train, splits.val))
    return training, validation


def _by_grade(grades: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, dict[str, dict[str, Any]]]:
    """Sensitivity and specificity of each grade as k of n; `value` is None where n is 0."""

    def share(hit: NDArray[np.bool_]) -> dict[str, Any]:
        return {"k": int(hit.sum()), "n": len(hit), "value": float(hit.mean()) if len(hit) else None}

    return {
        "sensitivity": {name: share(predicted[grades == grade] == grade) for grade, name in enumerate(GRADES)},
        "specificity": {name: share(predicted[grades != grade] != grade) for grade, name in enumerate(GRADES)},
    }


def _ending(error: BaseException, record: RunRecord) -> tuple[str, str]:
    epoch = len(record.table["history"]) + 1
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", f"A signal ended the run in epoch {epoch}."
    return "failed", f"In epoch {epoch}: {' '.join(str(error).split()) or type(error).__name__}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
