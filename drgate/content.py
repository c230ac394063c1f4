"""What a file is, by how it begins: for messages about a file of another kind than was expected.

named(b"\\xff\\xd8\\xff...")            # "a JPEG photograph"; "" for text, and for what is not known
"""

from __future__ import annotations

import re
from typing import Final

HEAD: Final = 4096
"""First bytes that `named` needs."""

_TEXTS: Final = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself (git lfs pull fetches it)"),
    (rb"(?s:(outs|md5|wdir):.{0,400}(\n|- )(md5|hash|path): )", "a DVC pointer, not the file itself (dvc pull)"),
    (rb"%PDF-", "a PDF document"),
    (rb"\s*(?i:<!doctype html|<html)", "a web page (HTML)"),
    (rb"\s*<\?xml", "an XML document"),
    (rb"-----BEGIN [A-Z ]*PRIVATE KEY", "a private key"),
    (rb"-----BEGIN [A-Z ]*PUBLIC KEY", "a public key"),
    (rb'(?s:\s*\{\s*"(cells|nbformat|metadata)".{0,4000}"(cell_type|nbformat|kernelspec)")', "a Jupyter notebook"),
)
"""How texts begin."""

_BINARIES: Final = (
    (rb"\xff\xd8\xff", "a JPEG photograph"),
    (rb"\x89PNG\r\n", "a PNG picture"),
    (rb"GIF8[79]a", "a GIF picture"),
    (rb"II\*\0|MM\0\*", "a TIFF picture"),
    (rb"BM....\0\0\0\0", "a BMP picture"),
    (rb"RIFF....WEBP", "a WebP picture"),
    (rb"\0\0\0\x0cjP  |\xffO\xffQ", "a JPEG 2000 picture"),
    (rb"....ftyp", "a HEIC picture or a film"),
    (rb".{128}DICM", "a DICOM file"),
    (rb"PK\x03\x04.{26}\[Content_Types\]|PK\x03\x04.{26}(_rels|xl|word)/", "an Office document (such as .xlsx)"),
    (rb"PK\x03\x04.{26}[^\0]{1,255}/(data\.pkl|\.format_version|byteorder)", "a checkpoint of PyTorch"),
    (rb"PK\x03\x04.{26}[^/\0]{1,255}\.npy", "an archive of NumPy (.npz)"),
    (rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis", "an OpenDocument file (save it as .xlsx or CSV)"),
    (rb"PK\x03\x04|PK\x05\x06", "a zip archive"),
    (rb"\xd0\xcf\x11\xe0", "an Office document (such as .xls)"),
    (rb"\$FL[23]@\(#\)", "an SPSS file (save it as CSV)"),
    (rb"<stata_dta>|[\x71-\x73][\x01\x02]\x01\0", "a Stata file (save it as CSV)"),
    (rb".{12}\xc2\xea\x81\x60", "a SAS file (save it as CSV)"),
    (rb"RDX[23]\n", "a file of R (save it with write.csv)"),
    (rb"MATLAB 5\.0", "a MATLAB file (save it as CSV)"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"BZh[1-9]1AY", "a bzip2 archive"),
    (rb"\xfd7zXZ\0", "an xz archive"),
    (rb"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (rb"7z\xbc\xaf", "a 7-Zip archive"),
    (rb"Rar!\x1a", "a RAR archive"),
    (rb".{257}ustar", "a tar archive"),
    (rb"PAR1", "a Parquet table"),
    (rb"ARROW1", "a Feather table"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x89HDF", "an HDF5 file (such as a Keras model)"),
    (rb"SQLite format 3", "an SQLite database"),
    (rb"\x7fELF|MZ|\xcf\xfa\xed\xfe", "a program"),
    (rb"\x80[\x02-\x05]", "a pickle of Python"),
    (rb".{4}\0\0\0\0\{", "a file of safetensors"),
    (rb"\x08[\x01-\x20][\x12\x3a]", "an ONNX model"),
    (rb"\xff\xfe|\xfe\xff", "text in UTF-16 (save it as UTF-8)"),
)
"""How binary files begin."""


def named(head: bytes) -> str:
    """What begins like this, in words; empty for other text. head: the first `HEAD` bytes, fewer of a short file.

    >>> named(b"\\xff\\xd8\\xff\\xe0"), named(b""), named(b"image,grade")
    ('a JPEG photograph', 'empty', '')
    """
    head = head[:HEAD]
    if not head:
        return "empty"
    if found := _first(_TEXTS, head):
        return found
    try:
        head.decode()
        text = b"\0" not in head
    except UnicodeDecodeError as problem:
        text = problem.start > len(head) - 4 and b"\0" not in head  # the last character may be cut off
    if text:
        return ""
    return _first(_BINARIES, head) or ("a binary file" if b"\0" in head else "")


def _first(kinds: tuple[tuple[bytes, str], ...], head: bytes) -> str:
    return next((name for begins, name in kinds if re.match(begins, head, re.DOTALL)), "")
