"""The parameters of a training run: one frozen model from which the command line, the YAML file and the record follow.

    config = read_config(Path("run.yaml"), {"learning_rate": "1e-4"})       # flags override the file

A parameter is listed here only if it changes what the run does. What kind of change it makes stands here too, because
the search for earlier attempts and the resuming of a run depend on it: `PLACE` never reaches the weights, `LATER` acts
only when a run is chosen from or stopped.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from drgate.errors import UsageError

YesNo = Literal["yes", "no"]

PLACE: Final = frozenset(
    {
        "output_dir",
        "experiment_name",
        "num_workers",
        "cache_dir",
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
"""Where and how a run is computed, kept and shown: the weights are the same whatever they say."""

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
"""When a run ends and which of its epochs is chosen; `num_epochs` shapes the falling schedules as well, and
`validation_frequency` validation_plateau."""

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
"""Parameters that act only where another has one of these values."""


class TrainingConfig(BaseModel):
    """Names, meanings, ranges and defaults of all parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dataset: str = Field(
        min_length=1,
        description="Images and grades: a folder (labels.csv, split/grade/* or grade/*), a CSV or a Parquet file. "
        "Without splits, patients are dealt to train, val and test by the seed.",
    )
    base: str = Field(
        "google/medsiglip-448", description="Vision tower to start from: embedded, a local folder, or a hub id."
    )
    output_dir: str | None = Field(
        None, description="Folder of this run; it must not hold another. Default: runs/EXPERIMENT_NAME."
    )
    experiment_name: str = Field(
        "run", min_length=1, pattern=r"^\w[\w.\-]*$", description="Name of the attempt in its record."
    )
    resume_from_checkpoint: str | None = Field(
        None,
        description="Start a new attempt from the whole state of this checkpoint (last.pth): weights, optimizer, "
        "schedule, history. Local, gs://, s3:// or hf://. Of the older layout: weights, epoch and history.",
    )
    init_from: str | None = Field(
        None, description="Start a new attempt from the weights alone of this checkpoint; epochs count from 1."
    )

    learning_rate: float = Field(2e-5, gt=0, le=1, description="Peak learning rate of AdamW.")
    batch_size: int = Field(6, ge=1, description="Images in a forward pass on each device.")
    gradient_accumulation_steps: int = Field(
        4,
        ge=1,
        description="Forward passes in one optimizer step, which gets the gradient of all their images at once.",
    )
    num_epochs: int = Field(
        30,
        ge=1,
        le=10_000,
        description="Epochs among which the best is chosen; up to five evaluations follow, to see if it is stable.",
    )
    warmup_epochs: int = Field(
        0, ge=0, description="Epochs of linear warm-up to the peak learning rate; with scheduler none it then stays."
    )
    scheduler: Literal["none", "linear", "cosine", "cosine_with_restarts", "polynomial", "validation_plateau"] = Field(
        "cosine",
        description="Learning rate after warm-up: constant, falling to zero over num_epochs, or cut when validation "
        "accuracy stays where it is.",
    )
    scheduler_cycles: int = Field(3, ge=1, le=1000, description="Falls of cosine_with_restarts over the run.")
    scheduler_power: float = Field(2.0, gt=0, le=10, description="Exponent of polynomial; 1 is linear.")
    plateau_patience: int = Field(
        3, ge=1, description="Evaluations without a new best after which validation_plateau cuts the rate."
    )
    plateau_factor: float = Field(0.5, gt=0, lt=1, description="What validation_plateau multiplies the rate by.")
    weight_decay: float = Field(0.01, ge=0, le=1, description="Decoupled weight decay; biases and norms have none.")
    max_grad_norm: float = Field(1.0, ge=0, description="The gradient is scaled down to this norm; 0 leaves it alone.")

    use_lora: YesNo = Field("yes", description="Train LoRA adapters and the head, or the whole tower.")
    lora_r: int = Field(16, ge=1, le=1024, description="Rank of the adapters.")
    lora_alpha: float = Field(32, gt=0, description="Their product is multiplied by lora_alpha / lora_r.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in the grading head.")
    freeze_backbone_epochs: int = Field(
        0, ge=0, description="First epochs in which only the grading head learns, and the tower or its adapters rest."
    )

    focal_loss_alpha: float = Field(
        1.0, gt=0, description="Factor of the whole loss. Adam nearly cancels it; clipping by max_grad_norm sees it."
    )
    focal_loss_gamma: float = Field(
        2.0, ge=0, description="Weight of hard images against easy ones; 0 is plain cross-entropy."
    )
    class_weight_severe: float = Field(
        1.0, gt=0, description="Factor of the loss of severe NPDR images, inside the focal loss."
    )
    class_weight_pdr: float = Field(1.0, gt=0, description="Factor of the loss of PDR images, inside the focal loss.")

    augmentation: Literal["none", "fundus"] = Field(
        "fundus",
        description="fundus: flips, turns, zoom, light and colour, slight blur, new in each epoch; validation and test "
        "images never.",
    )
    sampling: Literal["natural", "balanced"] = Field(
        "natural", description="balanced: each grade is drawn equally often in an epoch of the same length."
    )

    select_from_epoch: int = Field(
        1, ge=1, description="First epoch that can be the best; earlier ones are still on their way up."
    )
    patience: int = Field(
        10, ge=1, description="Stop after so many evaluations without a new best, though never before five of them."
    )
    min_delta: float = Field(
        0.0, ge=0, lt=1, description="A new best counts for patience only if it is better by more than this."
    )
    validation_frequency: int = Field(1, ge=1, description="Epochs from one evaluation to the next.")
    checkpoint_frequency: int = Field(
        0, ge=0, description="Keep epoch_NN.pth after every so many epochs; 0 keeps the best and the last only."
    )
    save_minutes: float = Field(
        10, ge=0, description="last.pth is written after each epoch, and within one after so many minutes."
    )
    decide: tuple[str, ...] = Field(
        (),
        description='Decision point, such as "epoch 20: val_accuracy > 0.82": what must hold then for the run to go '
        "on. Several times for several.",
    )
    regression_margin: float | None = Field(
        None, gt=0, lt=1, description="Stop when validation accuracy lies further than this below the best so far."
    )
    usd_per_hour: float | None = Field(
        None,
        ge=0,
        description="Price of all machines together; without it the cost is unknown. A machine of one's own: 0.",
    )
    budget_usd: float | None = Field(None, gt=0, description="Stop before this run has cost more.")
    project_budget_usd: float | None = Field(
        None, gt=0, description="Stop before all attempts in the folder of runs have cost more together."
    )
    spec: str = Field(
        "medical-grade", description="Checklist that the epochs and the plan before the run are held against."
    )

    seed: int = Field(
        0, ge=0, lt=2**32, description="Of initial weights, order of images, augmentation, dropout, and dealt splits."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Of the arithmetic; auto is bf16 on a GPU that has it, else fp32."
    )
    gradient_checkpointing: YesNo = Field(
        "no", description="Compute activations again in the backward pass: less memory, more time."
    )
    distributed: Literal["ddp", "fsdp"] = Field(
        "ddp", description="Under torchrun: a whole model on each device, or its parameters spread over them."
    )
    num_workers: int = Field(2, ge=0, le=256, description="Processes that decode images; 0 decodes in this one.")
    cache_dir: str | None = Field(
        None,
        description="Folder of decoded images, which are pictures of patients; none keeps none. "
        "Default: DRGATE_CACHE, else the user's cache folder.",
    )
    track: Literal["none", "mlflow"] = Field("none", description="Mirror the record to MLflow as the run goes on.")
    tracking_uri: str | None = Field(
        None, description="MLflow server or store. Default: MLFLOW_TRACKING_URI, else sqlite beside the runs."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("true and false are no values of a parameter; write yes or no, or a number")
        if isinstance(value, str) and not value.isprintable():
            raise ValueError("it holds characters that do not print")
        return value

    @field_validator("decide", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def read_config(
    file: Path | None, flags: Mapping[str, Any], *, before: Mapping[str, Any] | None = None
) -> TrainingConfig:
    """Parameters from a YAML file (or none) and from flags, which win; values in flags may be text.

    before: those of the run that is resumed, which both override.

    Raises:
        UsageError: no such file, not YAML 1.2, an unknown parameter (the nearest name is offered), or a value outside
            its range.
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
            raise UsageError(f"{where} is no parameter of drtrain{nearest(name)}") from error
        if problem["type"] == "missing":
            raise UsageError(f"{where} is missing; drtrain --help shows an example.") from error
        raise UsageError(f"{where} is {problem['input']!r}: {_lower(problem['msg'])}.") from error
    if config.resume_from_checkpoint is not None and config.init_from is not None:
        raise UsageError(
            "--resume_from_checkpoint takes the whole state and --init_from the weights alone: give one of them."
        )
    return config


def nearest(name: str) -> str:
    """The end of a sentence: `; did you mean ...?` where a parameter has nearly this name, else a full stop."""
    close = difflib.get_close_matches(name, TrainingConfig.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else "."


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = YAML(typ="safe", pure=True).load(file)
    except FileNotFoundError as error:
        raise UsageError(f"The configuration {file} does not exist.") from error
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"The configuration {file} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise UsageError(f"The configuration {file} is not a list of `parameter: value` lines.")
    return {str(name): value for name, value in values.items()}


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
