"""What a bundle has beside its model that no certificate names, as the gate knows it again: vectors/ and SHA256SUMS.

is_vectors(data), is_sums(data)                  # whether these are the bytes of such a file, and nothing else
photographs()                                    # {"small.png": its SHA-256, ...}
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from drgate.errors import CertificateError
from drgate.evaluation import Typed, plain_of, read_as
from drgate.files import parse_json, sha256_file

FORMAT: Final = "drgate vectors 1"
VECTORS: Final = "vectors"
OF_VECTORS: Final = "vectors.json"
SUMS: Final = "SHA256SUMS"
PHOTOGRAPHS: Final = Path(__file__).with_name("bundle") / "photographs"
"""Made by `drgate.demo.synthetic`; as files, because another version of Pillow encodes them otherwise. One is turned by
its EXIF, one so large that `decode: scaled` shows."""

_SUMS: Final = re.compile(rb"([0-9a-f]{64}  [^\0\r\n]{1,300}\n){1,200}")
_Length = Annotated[int, Field(ge=1, le=4096)]


@dataclass(frozen=True, slots=True)
class Vector(Typed):
    """What must come of a photograph.

    pixels: SHA-256 of `Preprocessing.pixels` of this shape and dtype, in C order, little-endian. outputs: of the model;
    None for one that is not finite.
    """

    image: Annotated[str, Field(pattern=r"^[a-z]+\.(jpg|png)$", max_length=20)]
    shape: tuple[_Length, _Length, _Length]
    dtype: Literal["uint8", "float32"]
    pixels: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]
    outputs: Annotated[tuple[float | None, ...], Field(max_length=5)]


@dataclass(frozen=True, slots=True)
class Vectors(Typed):
    """vectors.json."""

    format: Literal["drgate vectors 1"]
    vectors: Annotated[tuple[Vector, ...], Field(max_length=3)]

    def to_bytes(self) -> bytes:
        return json.dumps(plain_of(self), indent=2).encode() + b"\n"


@functools.cache
def photographs() -> dict[str, str]:
    """SHA-256 (hex) of the photographs by name."""
    return {photograph.name: sha256_file(photograph) for photograph in PHOTOGRAPHS.iterdir()}


def read_vectors(plain: Any) -> Vectors:
    """vectors.json from plain values. Raises CertificateError for anything else."""
    return read_as(Vectors, plain, OF_VECTORS, expected="test vectors of drgate", error=CertificateError)


def is_sums(data: bytes) -> bool:
    """Whether these are the bytes of a SHA256SUMS, which can hold nothing else."""
    return _SUMS.fullmatch(data) is not None


def is_vectors(data: bytes) -> bool:
    """Whether these are the bytes of a vectors.json as a bundle has it, which can hold nothing else."""
    try:
        return read_vectors(parse_json(data, OF_VECTORS, "test vectors", CertificateError)).to_bytes() == data
    except CertificateError:
        return False
