"""The parameters of a training run: one frozen model from which the command line, the YAML file and the record follow.

    config = read_config(Path("run.yaml"), {"learning_rate": "1e-4"})       # flags override the file

A parameter is listed here only if it changes what the run does.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from drgate.errors import UsageError


class TrainingConfig(BaseModel):
    """Names, meanings, ranges and defaults of all parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dataset: str = Field(
        description="Images and grades: a folder (labels.csv, split/grade/* or grade/*), a CSV or a Parquet file. "
        "Without splits, patients are dealt to train, val and test by the seed."
    )
    base: str = Field(
        "google/medsiglip-448", description="Vision tower to start from: embedded, a local folder, or a hub id."
    )
    output_dir: str | None = Field(
        None, description="Folder of this run; it must not hold another. Default: runs/EXPERIMENT_NAME."
    )
    experiment_name: str = Field(
        "run", min_length=1, pattern=r"^[\w.\-]+$", description="Name of the attempt in its record."
    )

    learning_rate: float = Field(2e-5, gt=0, le=1, description="Peak learning rate of AdamW.")
    batch_size: int = Field(6, ge=1, description="Images in a forward pass on each device.")
    gradient_accumulation_steps: int = Field(
        4,
        ge=1,
        description="Forward passes in one optimizer step, which gets the gradient of all their images at once.",
    )
    num_epochs: int = Field(
        30, ge=1, le=10_000,
        description="Epochs among which the best is chosen; up to five more follow, to see whether it is stable.",
    )  # fmt: skip
    warmup_epochs: int = Field(0, ge=0, description="Epochs of linear warm-up to the peak learning rate.")
    scheduler: Literal["none", "linear", "cosine"] = Field(
        "cosine", description="Learning rate after warm-up: constant, or falling to zero over num_epochs."
    )
    weight_decay: float = Field(0.01, ge=0, le=1, description="Decoupled weight decay; biases and norms have none.")
    max_grad_norm: float = Field(1.0, ge=0, description="The gradient is scaled down to this norm; 0 leaves it alone.")

    use_lora: Literal["yes", "no"] = Field("yes", description="Train LoRA adapters and the head, or the whole tower.")
    lora_r: int = Field(16, ge=1, le=1024, description="Rank of the adapters.")
    lora_alpha: float = Field(32, gt=0, description="Their product is multiplied by lora_alpha / lora_r.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in the grading head.")

    focal_loss_alpha: float = Field(
        1.0, gt=0, description="Factor of the whole loss. Adam nearly cancels it; clipping by max_grad_norm sees it."
    )
    focal_loss_gamma: float = Field(
        2.0, ge=0, description="Weight of hard images against easy ones; 0 is plain cross-entropy."
    )
    class_weight_severe: float = Field(1.0, gt=0, description="Factor of the loss of severe NPDR images.")
    class_weight_pdr: float = Field(1.0, gt=0, description="Factor of the loss of PDR images.")

    select_from_epoch: int = Field(
        1, ge=1, description="First epoch that can be the best; earlier ones are still on their way up."
    )
    patience: int = Field(
        10, ge=1, description="Stop after so many epochs without a new best, though never before five of them."
    )
    checkpoint_frequency: int = Field(
        0, ge=0, description="Keep epoch_NN.pth after every so many epochs; 0 keeps the best and the last only."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Of initial weights, order of images, dropout, and dealt splits.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Of the arithmetic; auto is bf16 on a GPU that has it, else fp32."
    )
    num_workers: int = Field(2, ge=0, le=256, description="Processes that decode images; 0 decodes in this one.")
    usd_per_hour: float | None = Field(
        None, ge=0, description="Price of the machine; without it the run's cost is unknown. A machine of one's own: 0."
    )


def read_config(file: Path | None, flags: Mapping[str, Any]) -> TrainingConfig:
    """Parameters from a YAML file (or none) and from flags, which win; values in flags may be text.

    Raises:
        UsageError: no such file, not YAML 1.2, an unknown parameter (the nearest name is offered), or a value outside
            its range.
    """
    values = {} if file is None else _read_yaml(file)
    origin = dict.fromkeys(values, f"{file}: ") | dict.fromkeys(flags, "--")
    try:
        return TrainingConfig.model_validate({**values, **flags})
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        where = origin.get(name, "--") + name
        if problem["type"] == "extra_forbidden":
            raise UsageError(f"{where} is no parameter of drtrain{nearest(name)}") from error
        if problem["type"] == "missing":
            raise UsageError(f"{where} is missing; drtrain --help shows an example.") from error
        raise UsageError(f"{where} is {problem['input']!r}: {_lower(problem['msg'])}.") from error


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
