"""What looks like a model, by its name or by how its content begins.

    names_model("weights/DR.PTH")                  # the name alone
    kind_of(first_bytes, size)                     # "HDF5", or "" where it is no container of models

Neither proves anything: a model can be hidden in any file. In a guarded folder every file counts, whatever it looks
like.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

SMALLEST: Final = 1 << 20
"""Bytes from which on content is looked at. The smallest networks that grade photographs have over a million weights, a
byte each at least; most documents, spreadsheets and archives of test data in a repository are smaller."""

HEAD: Final = 4096
"""First bytes that `kind_of` needs."""

_SUFFIXES: Final = (
    ".pth",
    ".pt",
    ".ckpt",
    ".safetensors",
    ".onnx",
    ".onnx.data",
    ".onnx_data",
    ".tflite",
    ".engine",
    ".keras",
    ".h5",
    ".hdf5",
    ".pkl",
    ".pickle",
    ".joblib",
    ".pt2",
    ".pte",
    ".ort",
    ".gguf",
    ".trt",
    ".plan",
    ".torchscript",
    ".mlmodel",
    ".caffemodel",
    ".pdparams",
    "pytorch_model.bin",
    "adapter_model.bin",
    "saved_model.pb",
)
"""Files with these endings look like models, whatever their size."""
_LARGE_SUFFIXES: Final = (
    *(
        ".bin",
        ".pb",
        ".weights",
        ".params",
        ".npz",
        ".zip",
        ".tar",
        ".tgz",
        ".gz",
        ".bz2",
        ".xz",
        ".zst",
        ".7z",
        ".rar",
    ),
    *(".mar", ".whl"),
)
"""Files with these endings look like models from `SMALLEST` on."""
_SHARD: Final = re.compile(r".*(-\d+-of-\d+\.(bin|msgpack)|\.data-\d+-of-\d+)")
_ALONE: Final = (".pth", ".pt", ".ckpt", ".onnx", "model.safetensors", "adapter_model.safetensors")
_INVISIBLE: Final = {
    *"\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0",
    *map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10))),
}
_LETTERS: Final = str.maketrans("аеіјкмнорсԁһѕтухԛԝαικνορτυχ", "aeijkmhopcdhstyxqwaiknoptux")
"""Cyrillic and Greek letters that look like Latin ones."""

_BEGINS: Final = (
    (b"PK\x03\x04", "ZIP"),
    (b"GGUF", "GGUF"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"Rar!\x1a\x07", "RAR"),
)
_PICKLE: Final = re.compile(rb"\x80[\x02-\x05]|[(]?[dl]p0\n|c[\w.]+\n[\w.]+\n")
_ONNX: Final = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2}
"""Wire type by field of ONNX's ModelProto; the first two are also those of TensorFlow's and Core ML's models."""


def plain_name(name: str) -> str:
    """A name as people and file systems may take it: in one case, without look-alikes and invisible characters.

    >>> plain_name("DR.\uff50\u0442h\u200b. ")
    'dr.pth'
    """
    if not name.isascii():
        kept = (char for char in unicodedata.normalize("NFKD", name) if char not in _INVISIBLE)
        name = "".join(char for char in kept if unicodedata.category(char) not in ("Cf", "Cc", "Mn"))
    return name.casefold().translate(_LETTERS).rstrip(" .")


def names_model(path: str, size: int | None = None) -> bool:
    """Whether a path looks like a model. size: in bytes, where it is known; some names count only for large files."""
    name = plain_name(path.rpartition("/")[2])
    if name.endswith(_SUFFIXES) or _SHARD.fullmatch(name):
        return True
    return size is not None and size >= SMALLEST and name.endswith(_LARGE_SUFFIXES)


def loads_alone(path: str) -> bool:
    """Whether programs load a file of this name by itself, so that it is no mere part of another model."""
    return plain_name(path.rpartition("/")[2]).endswith(_ALONE)


def kind_of(head: bytes, size: int) -> str:
    """The format of a large file that models are kept in, by its first `HEAD` bytes; "" for any other."""
    if size < SMALLEST:
        return ""
    if found := next((kind for start, kind in _BEGINS if head.startswith(start)), ""):
        return found
    if any(head.startswith(b"\x89HDF\r\n\x1a\n", at) for at in (0, 512, 1024, 2048)):
        return "HDF5"
    if head[257:262] == b"ustar":
        return "tar"
    if head[4:8] in (b"TFL3", b"ORTM"):
        return "TFLite" if head[4:8] == b"TFL3" else "ONNX Runtime"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "safetensors"
    if _PICKLE.match(head):
        return "pickle"
    return "protobuf" if _is_protobuf(head, size) else ""


def _is_protobuf(head: bytes, size: int) -> bool:
    """Whether all that is there can be read as the fields of an ONNX model, and is no text."""
    at, fields = 0, 0
    while at < len(head):
        key, at = _number(head, at)
        if _ONNX.get(key >> 3) != key & 7:
            return False
        value, at = _number(head, at)
        if key & 7 == 2:
            at += value
        fields += 1
    return fields > 0 and at <= size and b"\0" in head


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A varint and where it ends; one that is cut off is 0."""
    found = 0
    for shift in range(0, 70, 7):
        if at + shift // 7 >= len(data):
            break
        byte = data[at + shift // 7]
        found |= (byte & 127) << shift
        if byte < 128:
            return found, at + shift // 7 + 1
    return 0, len(data)
