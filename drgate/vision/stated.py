"""The preprocessing that somebody states for a model, or that a model's file states for itself.

    preprocess = load_preprocessing("imagenet-stretch@448")        # --preprocess NAME[@SIZE]|FILE
    preprocess = agreed(own, preprocess, "model.pth")              # the model's own, which nobody may contradict

A preprocessing is never assumed: a model that states none is refused until somebody states it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from drgate import limits
from drgate.errors import CheckpointError, UsageError
from drgate.files import parse_json, plain_yaml, read_limited
from drgate.preprocessing import (
    PRESETS,
    Preprocessing,
    PreprocessingError,
    of_timm,
    of_transformers,
    parse_preprocessing,
    read_preprocessing,
)

HOW_TO_STATE: Final = f"State it with --preprocess: one of {', '.join(PRESETS)} with @SIZE, or a file."
_EXPECTED: Final = (
    "a preprocessing (docs/preprocessing.md), a preprocessor_config.json of Hugging Face or a config.json of timm"
)


def load_preprocessing(text: str) -> Preprocessing:
    """The preset `NAME[@SIZE]`, or the preprocessing in a JSON or YAML file; `text` is what --preprocess got.

    Raises UsageError for another name, a missing file, and a file that states no preprocessing that drgate has.
    """
    path = Path(text)
    if text.partition("@")[0] in PRESETS or (path.suffix.lower() not in (".json", ".yaml", ".yml")):
        try:
            return parse_preprocessing(text)
        except PreprocessingError as problem:
            raise UsageError(f"--preprocess: {problem}") from problem
    data = read_limited(path, limits.YAML_BYTES, _EXPECTED, UsageError)
    parse = parse_json if path.suffix.lower() == ".json" else plain_yaml
    plain = parse(data, text, _EXPECTED, UsageError)
    read = read_preprocessing
    if isinstance(plain, Mapping) and "format" not in plain:
        if "pretrained_cfg" in plain:
            read = of_timm
        elif {"image_mean", "do_normalize", "do_rescale", "image_processor_type", "image_processor"} & plain.keys():
            read = of_transformers
    try:
        return read(plain, text)
    except PreprocessingError as problem:
        raise UsageError(str(problem)) from problem


def own_preprocessing(plain: object, origin: str, remedy: str = "") -> Preprocessing:
    """What a model's file states. Raises CheckpointError where that is not a preprocessing that drgate has.

    remedy: what to do then, for the message.
    """
    try:
        return read_preprocessing(plain, origin)
    except PreprocessingError as problem:
        raise CheckpointError(f"{problem} {remedy}".rstrip()) from problem


def agreed(own: Preprocessing | None, stated: Preprocessing | None, origin: str) -> Preprocessing:
    """The preprocessing of a model: its own, or the one that is stated where it has none.

    Raises UsageError where the two are different, CheckpointError where there is neither.
    """
    if own is None:
        if stated is None:
            raise CheckpointError(f"{origin} does not state its preprocessing. {HOW_TO_STATE}")
        return stated
    if stated is not None and stated.digest != own.digest:
        raise UsageError(
            f"--preprocess {stated.label} contradicts {origin}, which states {own.label}; leave --preprocess out."
        )
    return own


def refuse_other_input(preprocess: Preprocessing, size: int) -> None:
    """Raise CheckpointError where a network takes (3, `size`, `size`) and the preprocessing gives something else."""
    if preprocess.size != size:
        name, at, _ = preprocess.label.partition("@")
        raise CheckpointError(
            f"the preprocessing makes images of {preprocess.size} pixels, but the network takes {size}; give "
            + (f"--preprocess {name}@{size} if it was trained on that." if at else f"one with size {size}.")
        )
    if preprocess.layout != "nchw":
        raise CheckpointError("the preprocessing has the layout nhwc, but the network takes nchw.")
