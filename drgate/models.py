"""Which model it is: what a path holds, and what `model.yaml` beside a model says of it. Nothing heavy is imported.

    found = find_model(Path("hf-folder"))
    found.what, found.file, found.described       # "hf", hf-folder/model.safetensors, None

Nothing that a model's files say is executed, imported, downloaded or used as a pattern.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from drgate import limits
from drgate.answers import SINGLE, Answer
from drgate.content import HEAD, named
from drgate.errors import CheckpointError
from drgate.evaluation import Typed, read_as
from drgate.files import plain_yaml, read_beginning, read_json, read_limited
from drgate.preprocessing import Preprocessing, PreprocessingError, parse_preprocessing, read_preprocessing
from drgate.scale import GRADES, REFERABLE_CLASSES, Kind, parse_class

DESCRIPTION: Final = "model.yaml"
FORMAT: Final = "drgate model 1"
CHECKPOINTS: Final = (".pth", ".pt", ".ckpt")
WEIGHTS: Final = ".safetensors"
ONNX: Final = ".onnx"
SUFFIXES: Final = (*CHECKPOINTS, WEIGHTS, ONNX)
"""Of a model that is one file."""

EMBEDDED: Final = "embedded"
MEDSIGLIP: Final = "google/medsiglip-448"
BASE_LAYOUT: Final = "config.json and model.safetensors of a SigLIP vision tower, as save_pretrained writes them"
HUB_ID: Final = re.compile(r"[\w.\-]+/[\w.\-]+")

Architecture = Literal["onnx", "hf", "peft", "drgate", "older"]
What = Literal["checkpoint", "safetensors", "onnx", "hf", "peft", "bundle", "evaluation"]
"""checkpoint: a file of torch.save. safetensors: one whole model. hf: a folder of Hugging Face. peft: of an adapter."""

EXPECTED: Final = (
    "a checkpoint (*.pth, *.pt, *.ckpt), *.safetensors, an ONNX model, or a folder with model.yaml, "
    "adapter_config.json, or config.json and *.safetensors"
)
"""What can be given as a model."""

PARTS: Final = (DESCRIPTION, "config.json", "adapter_config.json", "preprocessor_config.json")
"""Files that lie beside a model's weights, and are not given for it."""

_ARCHITECTURES: Final[dict[Architecture, What]] = {"onnx": "onnx", "hf": "hf", "peft": "peft"}

_DESCRIBES: Final = "a description of a model (docs/models.md)"

_Name = Annotated[str, Field(min_length=1, max_length=255)]


@dataclass(frozen=True, slots=True)
class Output(Typed):
    """Which output of the model is the answer, and what its numbers are."""

    kind: Kind
    name: _Name | None = None


@dataclass(frozen=True, slots=True)
class StatedLora(Typed):
    """LoRA's scale: alpha / r, or alpha / sqrt(r) with rsLoRA. None: as the file states it, else without rsLoRA."""

    alpha: Annotated[float, Field(gt=0)]
    rslora: bool | None = None


@dataclass(frozen=True, slots=True)
class Description(Typed):
    """`model.yaml`: what a model's own file does not say. It wins over guesses, and may not contradict the file.

    weights: name of the model file beside it. classes: grade or name of each output in order; absent for kinds without
    classes. preprocessing: a preset, a file beside it, or the preprocessing itself. cut_offs: a file beside it.
    """

    format: Literal["drgate model 1"]
    weights: _Name
    architecture: Architecture
    output: Output
    preprocessing: str | dict[str, Any]
    base: str | None = None
    key_prefix: str | None = None
    lora: StatedLora | None = None
    input: _Name | None = None
    classes: tuple[_Name | Annotated[int, Field(ge=0, le=4)], ...] | None = None
    cut_offs: _Name | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a path holds.

    file: the model file; of a folder of Hugging Face its config.json, of peft adapter_config.json; of an evaluation,
    evaluation.json. described: `model.yaml` beside it, if any.
    """

    what: What
    file: Path
    described: Description | None = None

    @property
    def folder(self) -> Path:
        return self.file.parent


def find_model(path: Path) -> Found:
    """What a path holds, by the names of its files; the order is that of docs/models.md.

    That a file can be of this kind is seen by how it begins, before what reads it is imported.

    Raises CheckpointError for anything else, and for a `model.yaml` that is not one.
    """
    if path.is_dir():
        return _in_folder(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; expected {EXPECTED}.")
    kind = path.suffix.lower()
    what: What | None = (
        "onnx" if kind == ONNX else "checkpoint" if kind in CHECKPOINTS else "safetensors" if kind == WEIGHTS else None
    )
    if what is None:
        name = named(read_beginning(path, HEAD, EXPECTED, CheckpointError))
        name = "a table" if kind in (".csv", ".tsv") and not name else name
        raise CheckpointError(f"{path} is {name or 'not a model that drgate reads'}; expected {EXPECTED}.")
    _refuse_content(path, what)
    beside = path.with_name(DESCRIPTION)
    described = read_description(beside) if beside.is_file() else None
    if described is not None and described.weights != path.name:
        described = None  # it describes another file of the folder
    return Found(what, path, described)


def _refuse_content(path: Path, what: What) -> None:
    """Raise CheckpointError for a file that is no model of this kind by how it begins, or is cut off.

    It takes a moment, where torch takes seconds to import before it could say so.
    """
    expected = {"onnx": "an ONNX model", "safetensors": "weights in safetensors"}.get(what, "a checkpoint of PyTorch")
    head, size = read_beginning(path, HEAD, expected, CheckpointError), path.stat().st_size
    if what == "safetensors":
        header = int.from_bytes(head[:8], "little")
        fits = head[8:9] == b"{" and 8 + header <= size
    elif what == "onnx":
        fits = head[:1] == b"\x08" or not named(head)  # a ModelProto begins with its version, as all exporters write it
    else:
        fits = head.startswith((b"PK\x03\x04", b"\x80"))
    if not fits:
        raise CheckpointError(f"{path} is {named(head) or 'a file of another kind'}; expected {expected}.")
    if head.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is cut off: its end is missing; copy it again.")


def refuse_no_base(name: str) -> None:
    """Raise CheckpointError for what can be no base model: no folder, and no name on a hub."""
    folder = Path(name).expanduser()
    if name == EMBEDDED or (folder / "config.json").is_file():
        return
    if folder.is_dir():
        raise CheckpointError(f"{folder} has no config.json; a base model is {BASE_LAYOUT}.")
    if not HUB_ID.fullmatch(name) or name.startswith((".", "/")):
        raise CheckpointError(
            f"the base model {name!r} was not found; --base takes {EMBEDDED}, a folder with {BASE_LAYOUT}, or a hub id "
            f"such as {MEDSIGLIP}."
        )


def _in_folder(folder: Path) -> Found:
    there = {file.name for file in folder.iterdir()}
    if {"certificate.json", "model.onnx"} <= there:
        described = read_description(folder / DESCRIPTION) if DESCRIPTION in there else None
        return Found("bundle", folder / "model.onnx", described)
    if "evaluation.json" in there:
        return Found("evaluation", folder / "evaluation.json")
    if DESCRIPTION in there:
        described = read_description(folder / DESCRIPTION)
        file = folder / described.weights
        if not file.is_file():
            raise CheckpointError(f"{folder / DESCRIPTION} names {described.weights}, which is not beside it.")
        what: What = _ARCHITECTURES.get(described.architecture) or find_model(file).what
        return Found(what, file, described)
    if "adapter_config.json" in there:
        return Found("peft", folder / "adapter_config.json")
    if "config.json" in there and any(name.endswith(WEIGHTS) for name in there):
        return Found("hf", folder / "config.json")
    model = min((name for name in there if Path(name).suffix.lower() in SUFFIXES), default="")
    raise CheckpointError(
        f"{folder} holds no model that drgate reads; expected {EXPECTED}."
        + (f" If {model} is the model, give {folder / model}." if model else "")
    )


def read_description(path: Path) -> Description:
    """Read `model.yaml`; raises as `parse_description`."""
    return parse_description(read_limited(path, limits.YAML_BYTES, _DESCRIBES, CheckpointError), path)


def parse_description(data: bytes, path: Path) -> Description:
    """The description in the bytes of `model.yaml`; `path` names it in messages.

    Raises CheckpointError for unknown keys, other values, and keys that contradict each other.
    """
    plain = plain_yaml(data, str(path), _DESCRIBES, CheckpointError)
    found = read_as(Description, plain, str(path), expected=_DESCRIBES, error=CheckpointError)
    answer_of(found, str(path))
    for name in (found.weights, found.cut_offs):
        if name is not None and (Path(name).name != name or "\\" in name):
            raise CheckpointError(f"{path} names {name[:100]!r}; expected the bare name of a file beside it.")
    return found


def answer_of(described: Description, origin: str) -> Answer:
    """The answer that a description states. Raises CheckpointError for classes that do not fit the kind."""
    kind, given = described.output.kind, described.classes
    if kind in SINGLE:
        if given is not None:
            raise CheckpointError(f"{origin}: outputs of the kind {kind} have no classes; leave classes out.")
        return Answer(kind, ())
    if given is None:
        raise CheckpointError(f"{origin} has no classes; list the grade of each output in order, such as {[*GRADES]}.")
    return Answer(kind, classes_of([str(name) for name in given], origin), tuple(map(str, given)))


def classes_of(names: list[str], origin: str, remedy: str = "") -> tuple[str, ...]:
    """The class of each output from the names that a model gives them, in order. remedy: what to do, for messages.

    Raises CheckpointError for a name that no grade has, for two names of one grade, and where some are missing.
    """
    found = [parse_class(name) for name in names]
    remedy = (
        remedy
        or f"Write a model.yaml beside it, with the grade of each output in order: classes: [{', '.join(GRADES)}]."
    )
    if None in found:
        unknown = ", ".join(repr(name[:50]) for name, one in zip(names, found, strict=True) if one is None)
        raise CheckpointError(f"{origin} has the class names {unknown}, which are not those of a grade. {remedy}")
    classes = tuple(one for one in found if one is not None)
    if twice := sorted({one for one in classes if classes.count(one) > 1}):
        both = [name[:50] for name, one in zip(names, classes, strict=True) if one == twice[0]]
        raise CheckpointError(f"{origin} has the class {twice[0]} twice ({', '.join(both)}). {remedy}")
    if set(classes) not in ({*GRADES}, {*REFERABLE_CLASSES}):
        raise CheckpointError(
            f"{origin} has the classes {', '.join(classes)}; expected the five grades, or {REFERABLE_CLASSES[0]} and "
            f"{REFERABLE_CLASSES[1]}. {remedy}"
        )
    return classes


def preprocessing_of(described: Description, folder: Path) -> Preprocessing:
    """The preprocessing that a description states. Raises CheckpointError where drgate has no such one."""
    stated = described.preprocessing
    try:
        if isinstance(stated, dict):
            return read_preprocessing(stated, DESCRIPTION)
        if Path(stated).suffix.lower() == ".json":
            if Path(stated).name != stated:
                raise CheckpointError(f"{folder / DESCRIPTION} names {stated[:100]!r}; expected a file beside it.")
            return read_preprocessing(read_json(folder / stated, "a preprocessing", CheckpointError), stated)
        return parse_preprocessing(stated)
    except PreprocessingError as problem:
        raise CheckpointError(f"{folder / DESCRIPTION}: {problem}") from problem
