"""The files of an ONNX model: the model file, and every file that a tensor anywhere in it names.

    file, model = copy_model(Path("model.onnx"), folder)
    data = copy_data(Path("model.onnx"), folder, model)      # now folder/model.onnx can be loaded

ONNX keeps weights outside the model file ("external data") in initializers, sparse ones too, and in attributes of
nodes, in subgraphs and functions. All messages are walked, whatever they are called, so that no place is forgotten.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from drgate.errors import CheckpointError, brief
from drgate.evaluation import COMPANIONS, Precision, Subject, Typed, read_as
from drgate.files import in_bytes, parse_json
from drgate.vision.model_files import MAX_BYTES, copy_and_hash

MAX_DATA_FILES: Final = 1000
"""Exporters write one; older ones wrote one a tensor."""

MAX_MODEL_BYTES: Final = (2 << 30) - 1
"""Of the model file itself: protobuf reads no more."""

MAX_FIELDS: Final = 5_000_000
"""In the model file: a whole MedSigLIP has 0.1 million. Two bytes can be a field, and take 150 in memory."""

_RANDOM: Final = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)

TRIAL_MEMORY: Final = 2 << 30
"""Bytes of address space of the trial, besides three times the model's files (measured: under twice)."""

TRIAL_SECONDS: Final = 60
"""Of the trial, besides one for each 8 MB of the model's files. A whole MedSigLIP (1.7 GB) takes 25 s on two cores
for one image and 6 s for each of the other three; it may take 270 s."""

MAX_PACKED: Final = 128 << 20
"""Bytes of numbers of which one byte can be eight in memory. Exporters write weights as they are in memory."""

_INPUTS: Final = {1: "float32", 10: "float16", 11: "float64", 2: "uint8"}
"""Types of numbers that images can have, by their number in ONNX."""

_MOVES: Final = frozenset(
    ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Gather", "Slice", "Split")
)
"""Operators that only move the numbers of their first input."""

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_KEYS: Final = ("location", "offset", "length", "checksum")


def parse_onnx(path: Path, data: bytes) -> Any:
    """The ModelProto in `data`. Raises CheckpointError for other contents, and for fields that onnx does not know."""
    import onnx
    from google.protobuf.unknown_fields import UnknownFieldSet

    model = onnx.ModelProto()
    try:
        _count_fields(memoryview(data), model.DESCRIPTOR)
        model.ParseFromString(data)
    except Exception as error:  # protobuf's exceptions, and those of a file that ends early
        raise CheckpointError(f"{path} is not an ONNX model ({first_line(error)}).") from error
    if not model.HasField("graph"):
        raise CheckpointError(f"{path} is not an ONNX model (it has no graph).")
    if any(len(UnknownFieldSet(message)) for message in messages(model)):
        raise CheckpointError(
            f"{path} has fields that this version of onnx does not know, and that could name weights elsewhere; update "
            "onnx, or export the model again."
        )
    if drawn := sorted({one.op_type for one in messages(model) if isinstance(one, onnx.NodeProto) and _draws(one)}):
        raise CheckpointError(
            f"{path} draws random numbers ({', '.join(drawn)}), so its answers are not always the same."
        )
    return model


def _draws(node: Any) -> bool:
    """Whether an operator draws random numbers; Dropout does where it is told to train."""
    return node.op_type in _RANDOM or (node.op_type == "Dropout" and len(node.input) > 2 and bool(node.input[2]))


def _count_fields(data: memoryview, descriptor: Any) -> None:
    """Raise ValueError for more than `MAX_FIELDS` fields, or packed numbers, before protobuf makes something of each.

    It reads protobuf's wire format: a field is its number and kind, then a number, or a length and so many bytes.
    """
    count = packed = 0
    waiting = [(0, len(data), descriptor)]
    while waiting:
        at, end, descriptor = waiting.pop()
        fields = descriptor.fields_by_number.items()
        inner = {number: field.message_type for number, field in fields}
        short = {number for number, field in fields if field.cpp_type <= field.CPPTYPE_UINT64}
        while at < end:
            if (count := count + 1) > MAX_FIELDS:
                raise ValueError(f"it has more than {MAX_FIELDS} fields")
            tag, at = _varint(data, at)
            match tag & 7:
                case 0:
                    at = _varint(data, at)[1]
                case 1:
                    at += 8
                case 2:
                    length, at = _varint(data, at)
                    if message := inner.get(tag >> 3):
                        waiting.append((at, min(at + length, end), message))
                    if tag >> 3 in short and (packed := packed + length) > MAX_PACKED:
                        raise ValueError(f"it has more than {in_bytes(MAX_PACKED)} of packed numbers")
                    at += length
                case 5:
                    at += 4
                case kind:
                    raise ValueError(f"it has a field of the kind {kind}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("it has a number of more than 64 bits")


def messages(model: Any) -> Iterator[Any]:
    """A protobuf message and all messages in it, in any field and at any depth."""
    waiting = [model]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend(value if field.is_repeated else [value])


@dataclass(frozen=True, slots=True)
class Interface:
    """What a graph declares of its images and of its answer.

    shape: of one image as the input takes it; 0 for a length that is free. dtype: of the input. batch: images at a
    time; 0: any number. width: numbers for an image; 0: not declared. ends_in: the operator that makes the answer,
    before those that only move numbers; "" where that cannot be told.
    """

    input: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    batch: int
    output: str
    width: int
    ends_in: str


def interface(path: Path, graph: Any, input: str | None = None, output: str | None = None) -> Interface:
    """What the graph of a model declares. input, output: their names where `model.yaml` states them.

    Raises CheckpointError for other names, more than one input, several outputs of which none is named, and an input
    that takes no batch of images.
    """
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [one for one in graph.input if one.name not in weights]
    if len(inputs) != 1:
        raise CheckpointError(f"{path} has {len(inputs)} inputs ({_names(inputs)}); expected one, which takes images.")
    if input not in (None, inputs[0].name):
        raise CheckpointError(f"model.yaml states the input {brief(input)}, but {path} has {_names(inputs)}.")
    outputs = [one for one in graph.output if output in (None, one.name)]
    if not outputs:
        raise CheckpointError(f"model.yaml states the output {brief(output)}, but {path} has {_names(graph.output)}.")
    if len(outputs) > 1:
        raise CheckpointError(
            f"{path} has {len(outputs)} outputs ({_names(outputs)}); name the one that is the answer in model.yaml "
            "(output.name)."
        )
    taken, given = inputs[0].type.tensor_type, outputs[0].type.tensor_type
    shape = [dim.dim_value for dim in taken.shape.dim]
    if len(shape) != 4 or min(shape) < 0 or taken.elem_type not in _INPUTS:
        raise CheckpointError(
            f"{path} takes the input {_declared(taken)}; expected images (n, 3, size, size) or (n, size, size, 3) of "
            f"{', '.join(_INPUTS.values())}."
        )
    widths = [dim.dim_value for dim in given.shape.dim]
    if given.HasField("shape") and (len(widths) not in (1, 2) or min(widths) < 0):
        raise CheckpointError(f"{path} gives the output {_declared(given)}; expected (n, k), k numbers for each image.")
    return Interface(
        inputs[0].name,
        np.dtype(_INPUTS[taken.elem_type]),
        tuple(shape[1:]),
        shape[0],
        outputs[0].name,
        (widths[1] if len(widths) == 2 else 1) if widths else 0,
        _ends_in(graph, outputs[0].name),
    )


QUANTIZED: Final = re.compile(r"(Dynamic)?(Quantize|Dequantize)\w+|Q[A-Z]\w+|\w+Integer\w*|MatMul(NBits|Bnb4|FpQ4)")
"""Operators between floats and 8 bits or fewer, and those that compute in them."""


def precision_of(model: Any) -> Precision:
    """In which numbers a ModelProto computes, by its operators and by what most bytes of its weights are."""
    import onnx

    kinds = onnx.TensorProto
    names: dict[int, tuple[Precision, int]] = {
        kinds.FLOAT: ("fp32", 4),
        kinds.DOUBLE: ("fp32", 8),
        kinds.FLOAT16: ("fp16", 2),
        kinds.BFLOAT16: ("bf16", 2),
    }
    sizes: Counter[Precision] = Counter()
    for message in messages(model):
        if isinstance(message, onnx.NodeProto) and QUANTIZED.fullmatch(message.op_type):
            return "int8"
        if isinstance(message, kinds) and message.data_type in names:
            name, width = names[message.data_type]
            sizes[name] += width * math.prod(message.dims)
    return max(sizes, key=lambda name: sizes[name], default="fp32")


def _names(values: Any) -> str:
    return brief(", ".join(one.name for one in values) or "none")


def _declared(kind: Any) -> str:
    """The shape and type of a tensor as messages show it."""
    lengths = [str(dim.dim_value or dim.dim_param or "?") for dim in kind.shape.dim]
    return f"({brief(', '.join(lengths))}) of {_INPUTS.get(kind.elem_type, 'another type')}"


def _ends_in(graph: Any, name: str) -> str:
    made_by = {out: node for node in graph.node for out in node.output}
    for _ in range(len(graph.node) + 1):  # a graph that is no graph could go in a circle
        node = made_by.get(name)
        if node is None or node.domain not in ("", "ai.onnx"):
            return ""
        if node.op_type not in _MOVES or not node.input:
            return str(node.op_type)
        name = node.input[0]
    return ""


def copy_model(path: Path, folder: Path) -> tuple[Subject, Any]:
    """Copy a model file into `folder`; its facts, and the ModelProto. Raises as `parse_onnx`."""
    with (folder / path.name).open("w+b") as copy:
        found = copy_and_hash(path, "model", copy, limit=MAX_MODEL_BYTES)
        copy.seek(0)
        return found, parse_onnx(path, copy.read())


def copy_data(path: Path, folder: Path, model: Any, others: Collection[str] = ()) -> list[Subject]:
    """Copy the external data of a model into `folder`; its facts by name.

    others: names of further files of the model. Raises CheckpointError for external data that is not a file beside it,
    or is one of those.
    """
    needed = _external_data(path, model, {*COMPANIONS, *others})
    if len(needed) > MAX_DATA_FILES:
        raise CheckpointError(f"{path} refers to {len(needed)} files of weights; expected {MAX_DATA_FILES} at most.")
    found: list[Subject] = []
    for name, end in sorted(needed.items()):
        beside = path.with_name(name)
        # A model in a download cache is a link, and its weights are links to the same folder.
        if not beside.is_file() or beside.resolve().parent not in (path.parent.resolve(), path.resolve().parent):
            raise _outside(path, name)
        left = MAX_BYTES - sum(file.size for file in found)  # a thousand links can lead to one large file
        with (folder / name).open("xb") as copy:
            found.append(file := copy_and_hash(beside, "data", copy, limit=left))
        if end > file.size:
            raise CheckpointError(f"{beside} has {file.size} bytes, but {path.name} needs {end}; copy it again.")
    return found


def try_out(path: Path, copy: Path, face: Interface, width: int, images: NDArray[Any], bytes_: int) -> Trial:
    """Load a model and grade two images in a process of its own, before the model runs in this one.

    path: for messages. copy: the file to load. width: numbers that an answer has. images: (2, ...) as the input takes
    them. bytes_: of all files of the model.

    Raises CheckpointError when that fails, takes more memory or time than a grading model does, or gives an image
    another answer beside other images.
    """
    seconds = TRIAL_SECONDS + bytes_ // (8 << 20)
    asked = {"model": str(copy), "memory": TRIAL_MEMORY + 3 * bytes_, "seconds": seconds, "width": width}
    asked |= {"input": face.input, "output": face.output, "batch": face.batch}
    sent = io.BytesIO(json.dumps(asked).encode() + b"\n")
    sent.seek(0, io.SEEK_END)
    np.save(sent, images, allow_pickle=False)
    start = time.monotonic()
    few = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")
    try:
        # -P: modules beside trial.py, such as images.py, are not imported for others of their name.
        ended = subprocess.run(
            [sys.executable, "-P", str(Path(__file__).with_name("trial.py"))],
            env={**os.environ, **few},
            input=sent.getvalue(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(
            f"{path} did not grade two images within {seconds} seconds; a grading model takes a few. It was not loaded."
        ) from error
    if ended.returncode < 0:
        raise CheckpointError(
            f"{path} needs more memory or time than a grading model does: the process that tried it on two images was "
            f"ended by signal {-ended.returncode}. It was not loaded."
        )
    if ended.returncode == UNLOADABLE:
        raise cannot_run(path, copy, RuntimeError(ended.stderr.decode(errors="replace")))
    if ended.returncode:
        reason = first_line(RuntimeError(ended.stderr.decode(errors="replace").replace(str(copy), str(path))))
        raise CheckpointError(f"{path} cannot grade images of {_by(images.shape[1:])} here: {reason}.")
    plain = parse_json(ended.stdout, f"the trial of {path}", "what trial.py writes", CheckpointError)
    found = read_as(_Tried, plain, f"the trial of {path}", expected="what trial.py writes", error=CheckpointError)
    if found.other_answers:
        raise CheckpointError(
            f"{path} gives an image another answer beside other images in a batch, so it has no answer for an image "
            "alone; export it again for one image at a time (a batch of 1)."
        )
    return Trial(found.batch, time.monotonic() - start)


UNLOADABLE: Final = 3
"""Exit code of the trial where the model cannot be loaded at all."""


class Trial(NamedTuple):
    """What came of a trial. batch: images that the model takes at a time; 0: any number."""

    batch: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Tried(Typed):
    batch: Annotated[int, Field(ge=0)]
    other_answers: bool


def _by(lengths: Iterable[int]) -> str:
    return " x ".join(map(str, lengths))


def cannot_run(path: Path, copy: Path, error: Exception) -> CheckpointError:
    """The sentence for a model that ONNX Runtime refuses, with the model's own path in place of its copy's."""
    reason = first_line(RuntimeError(str(error).replace(str(copy), str(path))))
    return CheckpointError(f"{path} is not an ONNX model that can run here ({reason}); export it again.")


def _external_data(path: Path, model: Any, others: Collection[str]) -> dict[str, int]:
    """The files that the tensors of a model name, each with the number of bytes that it must have.

    others: names of files beside it that are something else.
    """
    import onnx

    needed: dict[str, int] = {}
    taken = {name.casefold(): name for name in (path.name, *others)}
    reserved = {*taken}
    for tensor in messages(model):
        if not isinstance(tensor, onnx.TensorProto):
            continue
        outside = tensor.data_location != onnx.TensorProto.DEFAULT
        if not outside and not tensor.external_data:
            continue
        entries = [(entry.key, entry.value) for entry in tensor.external_data]
        if not all(isinstance(text, str) for entry in entries for text in entry):
            raise CheckpointError(f"{path} names external data in other characters than UTF-8; export it again.")
        facts = dict(entries)
        if not outside or "location" not in facts or len(facts) != len(entries) or not facts.keys() <= set(_KEYS):
            raise CheckpointError(
                f"{path} marks weights as external data, but does not say plainly where they are; expected "
                f"{', '.join(_KEYS)}, each once at most. Export it again."
            )
        name, numbers = facts["location"], [facts.get("offset", "0"), facts.get("length", "0")]
        if not all(_NUMBER.fullmatch(number) for number in numbers):
            raise CheckpointError(f"{path} has external data whose offset or length is not a number of bytes.")
        plain = name and Path(name).name == name and "\\" not in name and len(os.fsencode(name)) <= 255
        if not plain or name.casefold() in reserved:
            raise _outside(path, name)
        if taken.setdefault(name.casefold(), name) != name:
            raise CheckpointError(
                f"{path} needs {taken[name.casefold()]!r} and {name[:100]!r}, which are one file where the "
                "case of letters does not count; export it again."
            )
        needed[name] = max(needed.get(name, 0), sum(map(int, numbers)))
    return needed


def _outside(path: Path, name: str) -> CheckpointError:
    return CheckpointError(f"{path} refers to weights in {name[:100]!r}, which is not a file in the same folder.")


def without_traces(model: Any) -> None:
    """Remove from a ModelProto what is about the machine that wrote it: metadata, descriptions, the producer's version.

    An exporter writes stack traces with the machine's paths into the metadata of nodes and values.
    """
    for message in messages(model):
        for name in ("metadata_props", "doc_string", "producer_name", "producer_version"):
            if name in message.DESCRIPTOR.fields_by_name:
                message.ClearField(name)


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:400]
