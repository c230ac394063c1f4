"""The files of a bundle that drgate writes for programs of others and never runs: three of Python, one of Triton.

    grader.for_others["config.pbtxt"]                   # the bytes that a bundle of this model has

They are subjects of a certificate only with exactly these bytes: of other code beside a model, nothing shows what it
does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from drgate.evaluation import TRITON

if TYPE_CHECKING:
    from drgate.preprocessing import Preprocessing

_PACKAGE: Final = Path(__file__).parents[1]
PROGRAMS: Final = {
    "preprocessing.py": _PACKAGE / "preprocessing.py",
    "infer.py": _PACKAGE / "bundle" / "infer.py",
    "gradability.py": _PACKAGE / "gradability.py",
}
"""By its name in a bundle, the file of drgate that it is a copy of."""

MAX_BATCH: Final = 32
"""Photographs that Triton may put into one batch, of a model that takes any number."""

_TYPES: Final = {"float": "FP32", "float16": "FP16", "double": "FP64", "uint8": "UINT8"}


def written_for_others(takes: Any, gives: Any, recipe: Preprocessing, *, batch: int, width: int) -> dict[str, bytes]:
    """By name, the bytes of these files of a bundle. The arguments are those of `triton_config`."""
    config = triton_config(takes, gives, recipe, batch=batch, width=width)
    return {TRITON: config.encode(), **{name: file.read_bytes() for name, file in PROGRAMS.items()}}


def triton_config(takes: Any, gives: Any, recipe: Preprocessing, *, batch: int, width: int) -> str:
    """`config.pbtxt` of NVIDIA's Triton in protobuf's text format: input and output of the graph.

    It has no `name`: Triton takes that of the folder, which is not drgate's to choose. takes, gives: input and output
    as ONNX Runtime describes them. batch: images at a time; 0: any number. width: numbers for an image.
    """
    side = recipe.size
    image = [side, side, 3] if recipe.layout == "nhwc" else [3, side, side]
    numbers = [] if len(gives.shape) == 1 else [width]
    if batch:
        image, numbers = [batch, *image], [batch, *numbers]
    # A number for each image, without an axis of its own, is written as one that Triton takes away.
    more = "" if numbers else "\n    reshape { shape: [ ] }"
    return f"""platform: "onnxruntime_onnx"
max_batch_size: {0 if batch else MAX_BATCH}
input [
  {{
    name: {_quoted(takes.name)}
    data_type: {_type(takes.type)}
    dims: [ {", ".join(map(str, image))} ]
  }}
]
output [
  {{
    name: {_quoted(gives.name)}
    data_type: {_type(gives.type)}
    dims: [ {", ".join(map(str, numbers or [1]))} ]{more}
  }}
]
"""


def _type(kind: str) -> str:
    return f"TYPE_{_TYPES.get(kind.removeprefix('tensor(').removesuffix(')'), 'INVALID')}"


def _quoted(name: str) -> str:
    """A text as protobuf writes it, with whatever could end it, or is not printable ASCII, in octal."""
    plain = {*range(32, 127)} - {*b'"\\'}
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in name.encode()) + '"'
