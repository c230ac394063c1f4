"""The parameters of a training run: one frozen model defines the command line, the YAML file and the record.

    config = read_config(Path("run.yaml"), {"learning_rate": "1e-4"})       # flags override the file

Every parameter changes what the run does. The kind of change matters for finding earlier attempts and for resuming:
those in `PLACE` never affect the weights, those in `LATER` only when an epoch is selected or the run is stopped.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from drgate.errors import UsageError, brief
from drgate.files import read_yaml

YesNo = Literal["yes", "no"]

PLACE: Final = frozenset(
    {
        "output_dir",
        "experiment_name",
        "num_workers",
        "cache_dir",
        "patient_key",
        "checkpoint_frequency",
        "save_minutes",
        "usd_per_hour",
        "track",
        "tracking_uri",
        "distributed",
        "gradient_checkpointing",
        "spec",
    }
)
"""Where and how a run is computed, stored and shown: they do not affect the weights."""

LATER: Final = frozenset(
    {
        "num_epochs",
        "patience",
        "min_delta",
        "select_from_epoch",
        "decide",
        "regression_margin",
        "budget_usd",
        "project_budget_usd",
        "validation_frequency",
    }
)
"""When a run ends and which epoch is selected. `num_epochs` also shapes the falling schedules, and
`validation_frequency` the schedule validation_plateau."""

FALLING: Final = ("linear", "cosine", "cosine_with_restarts", "polynomial")
"""Schedules whose course depends on the number of epochs."""

ONLY_WITH: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "scheduler_cycles": ("scheduler", ("cosine_with_restarts",)),
    "scheduler_power": ("scheduler", ("polynomial",)),
    "plateau_patience": ("scheduler", ("validation_plateau",)),
    "plateau_factor": ("scheduler", ("validation_plateau",)),
    "lora_r": ("use_lora", ("yes",)),
    "lora_alpha": ("use_lora", ("yes",)),
    "tracking_uri": ("track", ("mlflow",)),
}
"""Parameters that act only if another one has one of these values."""


class TrainingConfig(BaseModel):
    """Names, meanings, ranges and defaults of all parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dataset: str = Field(
        min_length=1,
        description="Images and grades: a folder (labels.csv, split/grade/* or grade/*), a CSV or a Parquet file; "
        "local, gs:// or s3://. Without splits, the seed assigns patients to train, val and test.",
    )
    columns: str | None = Field(
        None,
        min_length=1,
        description="Which column of the data set's table is which, such as grade=diagnosis,image=id_code, or a YAML "
        "file (docs/tables.md).",
    )
    base: str = Field(
        "google/medsiglip-448",
        description="Vision tower to start from: embedded, a local folder, or a Hugging Face id.",
    )
    output_dir: str | None = Field(
        None, description="Folder of this run; it must not hold another run. Default: runs/EXPERIMENT_NAME."
    )
    experiment_name: str = Field("run", min_length=1, pattern=r"^\w[\w.\-]*$", description="Name of the attempt.")
    resume_from_checkpoint: str | None = Field(
        None,
        description="Start a new attempt from the complete state of this checkpoint (last.pth): weights, optimizer, "
        "schedule, history. Local, gs://, s3:// or hf://. From checkpoints of earlier versions: "
        "weights, epoch and history only.",
    )
    init_from: str | None = Field(
        None, description="Start a new attempt from only the weights of this checkpoint; epochs count from 1."
    )

    preprocess: str | None = Field(
        None,
        min_length=1,
        description="How photographs become network input: a preset NAME[@SIZE] or a file (docs/preprocessing.md). "
        "Default: that of the checkpoint, else fundus-square-1. A checkpoint in the older layout needs it.",
    )

    learning_rate: float = Field(2e-5, gt=0, le=1, description="Peak learning rate of AdamW.")
    batch_size: int = Field(6, ge=1, description="Images per forward pass on each device.")
    gradient_accumulation_steps: int = Field(
        4,
        ge=1,
        description="Forward passes per optimizer step, which uses the gradient of all their images.",
    )
    num_epochs: int = Field(
        30,
        ge=1,
        le=10_000,
        description="Epochs from which the best is selected. Training then goes on until five evaluations follow the "
        "best, to test its stability.",
    )
    warmup_epochs: int = Field(
        0, ge=0, description="Epochs of linear warm-up to the peak learning rate; with scheduler none it stays there."
    )
    scheduler: Literal["none", "linear", "cosine", "cosine_with_restarts", "polynomial", "validation_plateau"] = Field(
        "cosine",
        description="Learning rate after warm-up: constant, falling to zero over num_epochs, or cut when validation "
        "accuracy stops improving.",
    )
    scheduler_cycles: int = Field(3, ge=1, le=1000, description="Cycles of cosine_with_restarts over the run.")
    scheduler_power: float = Field(2.0, gt=0, le=10, description="Exponent of polynomial; 1 is linear.")
    plateau_patience: int = Field(
        3, ge=1, description="Evaluations without a new best after which validation_plateau cuts the rate."
    )
    plateau_factor: float = Field(
        0.5, gt=0, lt=1, description="Factor by which validation_plateau multiplies the rate."
    )
    weight_decay: float = Field(0.01, ge=0, le=1, description="Decoupled weight decay; none for biases and norms.")
    max_grad_norm: float = Field(
        1.0, ge=0, description="Gradients with a larger norm are scaled down to this norm. 0: no limit."
    )

    use_lora: YesNo = Field("yes", description="yes: train LoRA adapters and the head. no: train the whole tower.")
    lora_r: int = Field(16, ge=1, le=1024, description="Rank of the adapters.")
    lora_alpha: float = Field(
        32, gt=0, description="Scale of the adapters: their output is multiplied by lora_alpha / lora_r."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in the grading head.")
    freeze_backbone_epochs: int = Field(
        0, ge=0, description="First epochs in which only the grading head learns; the tower or its adapters are frozen."
    )

    focal_loss_alpha: float = Field(
        1.0, gt=0, description="Factor of the whole loss. With Adam it changes little except gradient clipping."
    )
    focal_loss_gamma: float = Field(
        2.0, ge=0, description="Weight of hard images relative to easy ones; 0 is plain cross-entropy."
    )
    class_weight_severe: float = Field(
        1.0, gt=0, description="Factor of the loss of severe NPDR images, inside the focal loss."
    )
    class_weight_pdr: float = Field(1.0, gt=0, description="Factor of the loss of PDR images, inside the focal loss.")

    augmentation: Literal["none", "fundus"] = Field(
        "fundus",
        description="fundus: flips, rotation, zoom, brightness and colour, slight blur, different in each epoch; "
        "only for training images.",
    )
    sampling: Literal["natural", "balanced"] = Field(
        "natural", description="balanced: each grade is shown equally often; the length of an epoch stays the same."
    )

    select_from_epoch: int = Field(1, ge=1, description="First epoch that can be selected as the best.")
    patience: int = Field(
        10, ge=1, description="Stop after this many evaluations without a new best. Below 5 it acts as 5."
    )
    min_delta: float = Field(
        0.0, ge=0, lt=1, description="A new best counts for patience only if it improves by more than this."
    )
    validation_frequency: int = Field(1, ge=1, description="Epochs between evaluations.")
    checkpoint_frequency: int = Field(
        0, ge=0, description="Epochs between extra checkpoints epoch_NN.pth; 0 keeps only the best and the last."
    )
    save_minutes: float = Field(
        10, ge=0, description="Minutes between writes of last.pth within an epoch; it is also written after each epoch."
    )
    decide: tuple[str, ...] = Field(
        (),
        description='Decision point, such as "epoch 20: val_accuracy > 0.82": the run stops if it is not met. Can be '
        "given several times.",
    )
    regression_margin: float | None = Field(
        None, gt=0, lt=1, description="Stop when validation accuracy is more than this below the best so far."
    )
    usd_per_hour: float | None = Field(
        None,
        ge=0,
        description="Price of all machines together; without it the cost is unknown. 0 for your own machine.",
    )
    budget_usd: float | None = Field(None, gt=0, description="Stop before this run costs more.")
    project_budget_usd: float | None = Field(
        None, gt=0, description="Stop before all attempts in the folder of runs together cost more."
    )
    spec: str = Field("medical-grade", description="Checklist for the line after each epoch and for --dry_run.")

    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="Seed of initial weights, order of images, augmentation, dropout and assigned splits.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Precision of the arithmetic; auto is bf16 on a GPU that supports it, else fp32."
    )
    gradient_checkpointing: YesNo = Field(
        "no", description="Recompute activations in the backward pass: less memory, more time."
    )
    distributed: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="Under torchrun: ddp keeps a whole model on each device, fsdp spreads its parameters over them.",
    )
    num_workers: int = Field(
        2, ge=0, le=256, description="Processes that decode images; 0 decodes in the main process."
    )
    cache_dir: str | None = Field(
        None,
        description="Folder of decoded images, which are photographs of patients; none: store nothing. "
        "Default: DRGATE_CACHE, else the user's cache folder.",
    )
    patient_key: str | None = Field(
        None,
        description="Patient key (drgate keygen --patients). With it, the checkpoint recognises training patients in a "
        "later test set; without it, no patient is stored. Default: DRGATE_PATIENT_KEY.",
    )
    track: Literal["none", "mlflow"] = Field("none", description="Mirror the record to MLflow during the run.")
    tracking_uri: str | None = Field(
        None, description="MLflow server or store. Default: MLFLOW_TRACKING_URI, else SQLite in the folder of runs."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("true and false are not values of a parameter; write yes or no, or a number")
        if isinstance(value, str) and not value.isprintable():
            raise ValueError("it contains characters that do not print")
        return value

    @field_validator("decide", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def read_config(
    file: Path | None, flags: Mapping[str, Any], *, before: Mapping[str, Any] | None = None
) -> TrainingConfig:
    """Parameters from a YAML file (or none) and from flags, which override it; values in flags may be text.

    before: those of the resumed run; both override them.

    Raises:
        UsageError: no such file, not YAML 1.2, an unknown parameter (the nearest name is suggested), or a value
            outside its range.
    """
    values = {} if file is None else _read_yaml(file)
    origin = dict.fromkeys(values, f"{file}: ") | dict.fromkeys(flags, "--")
    try:
        config = TrainingConfig.model_validate({**(before or {}), **values, **flags})
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        where = origin.get(name, "--") + name
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, TrainingConfig.model_fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise UsageError(f"{where} is not a parameter of drtrain{hint}") from error
        if problem["type"] == "missing":
            raise UsageError(f"{where} is missing. `drtrain --help` shows an example.") from error
        raise UsageError(
            f"{where} is {brief(problem['input'])}: {_expected(name, problem['type'], problem['msg'])}."
        ) from error
    if config.resume_from_checkpoint is not None and config.init_from is not None:
        raise UsageError(
            "--resume_from_checkpoint takes the complete state and --init_from only the weights. Give one of them."
        )
    return config


def _read_yaml(file: Path) -> dict[str, Any]:
    values = read_yaml(file, "parameters of a training run", UsageError)
    if not isinstance(values, dict):
        raise UsageError(f"The configuration {file} does not consist of `parameter: value` lines.")
    return {str(name): value for name, value in values.items()}


def _expected(name: str, kind: str, message: str) -> str:
    """What a parameter should be, from the type and the message of a validation error."""
    numbers = {"float": "a number", "int": "a whole number"}
    if (what := numbers.get(kind.partition("_")[0])) is not None:
        default = TrainingConfig.model_fields[name].default
        return f"expected {what}" + (f", such as {default}" if isinstance(default, int | float) else "")
    message = message.removeprefix("Value error, ").replace("Input should be ", "it must be ")
    return message[:1].lower() + message[1:]
