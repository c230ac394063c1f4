"""Photographs inside tables and arrays: Parquet and Arrow as Hugging Face writes them, and RetinaMNIST's .npz.

Such pictures have no files. They are written into a private folder, which is deleted when the last manifest that uses
it is gone: bytes of an encoded picture as they are, arrays as PPM or PGM (a header and the pixels). So the digest of a
picture is that of the file that it was, and of an array that of its pixels.
"""

from __future__ import annotations

import os
import re
import tempfile
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import NDArray

from drgate import limits
from drgate.buckets import Bucket
from drgate.columns import parse_split
from drgate.content import HEAD, named
from drgate.errors import DrgateError, ManifestError
from drgate.files import is_parquet, parse_json, read_json, remove
from drgate.layouts.found import Found
from drgate.layouts.holdings import Holdings
from drgate.layouts.tables import EXPECTED, from_rows
from drgate.mapping import ColumnMap
from drgate.parquet import is_pictures, picture_column, read_arrow, read_parquet, records
from drgate.scale import parse_grade

_EXTENSIONS: Final = {"a JPEG photograph": ".jpg", "a PNG picture": ".png", "a TIFF picture": ".tif"}
_SPLIT_NAME: Final = re.compile(r"(train|validation|valid|val|test)(?=[-._]|$)")
_SAFE: Final = re.compile(r"[\w][\w .()+@=-]{0,150}")
_ARRAYS: Final = (
    "train_images, train_labels, val_images, val_labels, test_images and test_labels as RetinaMNIST has them"
)


class Unpacked:
    """A private folder of pictures. files: whether they are written at all."""

    def __init__(self, files: bool) -> None:
        self.files = files
        self.root = Path(tempfile.mkdtemp(prefix="drgate-pictures-")) if files else Path()
        self._taken: set[str] = set()

    def keep_for(self, found: Found) -> None:
        """Delete the folder with `found`, or when this process ends."""
        if self.files:
            weakref.finalize(found, remove, self.root, os.getpid())

    def name(self, wanted: str | None, split: str | None, row: int, suffix: str) -> str:
        """A path below the folder that no other picture has: split and the wanted name, if that is a bare name."""
        bare = PurePosixPath((wanted or "").replace("\\", "/")).name
        bare = bare if _SAFE.fullmatch(bare) else f"row-{row + 1}{suffix}"
        path = f"{split}/{bare}" if split else bare
        if path in self._taken:
            path = f"{split or 'more'}/row-{row + 1}/{bare}"
        self._taken.add(path)
        return path

    def put(self, name: str, data: bytes) -> None:
        if self.files:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def holds_pictures(path: Path) -> bool:
    """Whether a file is one of those that are read here."""
    if path.suffix.lower() in (".npz", ".arrow"):
        return True
    return is_parquet(path) and picture_column(path, EXPECTED, ManifestError) is not None


def may_hold_pictures(held: Holdings) -> list[str]:
    """The files by which `data_set_files` knows a folder, and which it may then give."""
    stated = [name for name in held.tables if PurePosixPath(name).name in ("dataset_dict.json", "state.json")]
    suffixes = (".arrow",) if stated else () if held.images else (".parquet", ".pq")
    return [*stated, *(name for name in held.tables if name.lower().endswith(suffixes))]


def data_set_files(root: Path, held: Holdings) -> list[tuple[Path, str | None]]:
    """The files, each with its split, of a folder as Hugging Face's `datasets` writes it; empty for another folder."""
    if (root / "dataset_dict.json").is_file():
        plain = read_json(root / "dataset_dict.json", "the splits of a data set", ManifestError)
        names = plain.get("splits") if isinstance(plain, dict) else None
        if not isinstance(names, list) or not all(isinstance(one, str) and _SAFE.fullmatch(one) for one in names):
            raise ManifestError(f"{root / 'dataset_dict.json'} names no splits; expected those of a data set.")
        parts = [(name, root / str(name)) for name in names]
        return [(path, parse_split(str(name))) for name, part in parts for path, _ in data_set_files(part, held)]
    if (root / "state.json").is_file():
        plain = read_json(root / "state.json", "the state of a data set", ManifestError)
        entries = plain.get("_data_files") if isinstance(plain, dict) else None
        files = [one.get("filename") if isinstance(one, dict) else None for one in entries or ()]
        if not files or not all(isinstance(one, str) and _SAFE.fullmatch(one) for one in files):
            raise ManifestError(f"{root / 'state.json'} names no files beside it; expected those of a data set.")
        if not all((root / str(one)).is_file() for one in files):
            raise ManifestError(f"{root / 'state.json'} names files that are not beside it; fetch the whole folder.")
        if isinstance(plain, dict) and plain.get("_indices_files"):
            raise ManifestError(f"{root} is a selection by indices; write it again with flatten_indices().")
        split = parse_split(str(plain.get("_split"))) if isinstance(plain, dict) else None
        return [(root / str(one), split) for one in files]
    if held.images:
        return []
    tables = [root / name for name in held.tables if is_parquet(Path(name))]
    return [(path, _split_of(path, root)) for path in tables if holds_pictures(path)]


def _split_of(path: Path, root: Path) -> str | None:
    name = _SPLIT_NAME.match(path.name.lower())
    return parse_split(name[1]) if name else parse_split(path.parent.name) if path.parent != root else None


def from_files(
    files: list[tuple[Path, str | None]], origin: Path, write: bool, columns: ColumnMap, root: Path | Bucket | None
) -> Found:
    """The rows of Parquet, Arrow or .npz files as one set. origin: what the caller named, for messages."""
    unpacked = Unpacked(write)
    try:
        parts = [_rows(path, split, unpacked, columns) for path, split in files]
        table = pd.concat(parts, ignore_index=True)
        inside = table["__inside"].astype(bool)
        if inside.any() and not inside.all():
            raise ManifestError(f"{origin} holds some pictures and only names others; keep one of both.")
        home = unpacked.root if inside.all() else root or (origin if origin.is_dir() else origin.parent)
        whole = from_rows(table.drop(columns="__inside"), origin, write, columns, home)
    except BaseException:
        if write:
            remove(unpacked.root, os.getpid())
        raise
    unpacked.keep_for(whole)
    kinds = {".npz": "arrays (.npz)", ".arrow": "Arrow files of Hugging Face's datasets"}
    whole.layout = f"{kinds.get(files[0][0].suffix.lower(), 'Parquet with pictures')}, {whole.layout}"
    if inside.all():
        whole.inside = True
        whole.said.append(f"{len(table)} pictures are inside the source; drgate manifest --out writes them as files.")
    return whole


def _rows(path: Path, split: str | None, unpacked: Unpacked, columns: ColumnMap) -> pd.DataFrame:
    if path.suffix.lower() == ".npz":
        return _of_arrays(path, unpacked, columns)
    table, column = _arrow(path)
    if lacking := [theirs for theirs in columns.columns.values() if theirs not in table.column_names]:
        raise ManifestError(f"{path} has no column {lacking[0]!r}, which --columns names; expected one of its own.")
    names: list[str | None] = []
    inside: list[bool] = []
    total = 0
    for row, (data, given) in enumerate(records(table[column])):
        total += len(data or b"")
        if total > limits.TABLE_TEXT:
            raise ManifestError(f"{path} holds more than {limits.TABLE_TEXT >> 30} GB of pictures; split it.")
        inside.append(data is not None)
        if data is None:
            names.append(given)
            continue
        name = unpacked.name(given, split, row, _EXTENSIONS.get(named(data[:HEAD]), ""))
        unpacked.put(name, data)
        names.append(name)
    features = _features(table.schema.metadata or {}, path)
    frame = _to_pandas(table.drop_columns([column]), path)
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    for name, classes in features.items():
        if name in frame.columns:
            frame[name] = _class_names(frame[name], classes, path)
    frame = frame.rename(columns={theirs: own for own, theirs in columns.columns.items()})
    if "image" in frame.columns or frame.columns.duplicated().any():
        raise ManifestError(f"{path} has two columns of one name, or a column image beside its pictures; keep one.")
    frame.insert(0, "image", pd.Series(names, dtype="str"))
    grades = [name for name, classes in features.items() if _are_grades(classes) and name in frame.columns]
    if not columns.columns and "grade" not in frame.columns and len(grades) == 1:
        frame = frame.rename(columns={grades[0]: "grade"})
    if split is not None and "split" not in frame.columns:
        frame["split"] = split
    return frame.assign(__inside=inside)


def _arrow(path: Path) -> tuple[pa.Table, str]:
    """The rows of a file and its column of pictures."""
    if is_parquet(path):
        column = picture_column(path, EXPECTED, ManifestError)
        table = read_parquet(path, EXPECTED, ManifestError, pictures=column)
    else:
        table = read_arrow(path, EXPECTED, ManifestError)
        column = next((field.name for field in table.schema if is_pictures(field.type)), None)
    if column is None:
        raise ManifestError(f"{path} has no column of pictures (bytes and path); expected {EXPECTED}.")
    return table, column


def _to_pandas(table: pa.Table, path: Path) -> pd.DataFrame:
    for field in table.schema:
        if pa.types.is_nested(field.type):
            table = table.drop_columns([field.name])
    try:
        frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
    except Exception as problem:  # its texts repeat cells
        raise ManifestError(f"{path} cannot be converted to a table; expected {EXPECTED}.") from problem
    return frame


def _features(metadata: dict[bytes, bytes], path: Path) -> dict[str, list[str]]:
    """The names of the classes of each column that has them, as Hugging Face's `datasets` writes them."""
    stated = metadata.get(b"huggingface")
    plain: Any = parse_json(stated, str(path), "features of a data set", ManifestError) if stated else {}
    for key in ("info", "features"):
        plain = plain.get(key) if isinstance(plain, dict) else None
    found = {}
    for name, feature in (plain if isinstance(plain, dict) else {}).items():
        names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
        if isinstance(names, list) and all(isinstance(one, str) for one in names):
            found[name] = names
    return found


def _are_grades(classes: list[str]) -> bool:
    grades = [parse_grade(one) for one in classes]
    return None not in grades and len(set(grades)) == len(grades) and len(grades) > 1


def _class_names(cells: pd.Series[Any], classes: list[str], path: Path) -> pd.Series[str]:
    """The name of each cell's class; -1, which `datasets` writes where there is none, is empty."""
    numbers = pd.to_numeric(cells, errors="coerce").fillna(-1).astype(int)
    if ((numbers < -1) | (numbers >= len(classes))).any():
        raise ManifestError(f"{path} has a class beyond the {len(classes)} that it names; it is damaged.")
    return pd.Series([None if one < 0 else classes[one] for one in numbers], index=cells.index, dtype="str")


def _of_arrays(path: Path, unpacked: Unpacked, columns: ColumnMap) -> pd.DataFrame:
    """RetinaMNIST: arrays of pictures and labels, one pair a split."""
    arrays = dict(_members(path, ManifestError))
    splits = [name.removesuffix("_images") for name in arrays if name.endswith("_images")]
    if not splits or {*arrays} != {f"{one}_{what}" for one in splits for what in ("images", "labels")}:
        raise ManifestError(f"{path} has other arrays; expected {_ARRAYS}.")
    if "retina" not in path.name.lower() and "grade" not in columns.columns:
        raise ManifestError(
            f"{path} does not say what its labels are. If they are ICDR grades 0 to 4, give --columns grade=labels."
        )
    rows: list[dict[str, object]] = []
    for split in splits:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"].reshape(-1)
        whole = np.issubdtype(labels.dtype, np.integer) and len(labels) == len(images)
        if (
            images.dtype != np.uint8
            or images.ndim not in (3, 4)
            or (images.ndim == 4 and images.shape[3] != 3)
            or not whole
        ):
            raise ManifestError(
                f"{path}: {split}_images and {split}_labels have other shapes or types; expected (n, height, width, 3) "
                "or (n, height, width) of 8 bits, and a whole number for each."
            )
        for row, (pixels, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            kind, suffix = (b"P6", ".ppm") if pixels.ndim == 3 else (b"P5", ".pgm")
            name = unpacked.name(f"{row:06d}{suffix}", split, row, suffix)
            unpacked.put(name, b"%s\n%d %d\n255\n" % (kind, pixels.shape[1], pixels.shape[0]) + pixels.tobytes())
            rows.append({"image": name, "labels": str(label), "split": split})
    if not rows:
        raise ManifestError(f"{path} has no pictures; expected {_ARRAYS}.")
    table = pd.DataFrame(rows)
    return table.rename(columns={"labels": "grade"}).assign(__inside=True)


def _members(path: Path, error: type[DrgateError]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of a .npz, whose sizes are summed before any is made; no pickles."""
    what = f"an archive of NumPy with {_ARRAYS}"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > limits.ARCHIVE_PARTS or sum(one.file_size for one in entries) > limits.ARCHIVE_BYTES:
                raise error(
                    f"{path} holds more than {limits.ARCHIVE_BYTES >> 20} MB after decompression, or more than "
                    f"{limits.ARCHIVE_PARTS} arrays; expected {what}."
                )
            for entry in entries:
                with archive.open(entry) as member:
                    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
                    shape, fortran, dtype = read[npy.read_magic(member)](member)
                    if dtype.hasobject:
                        raise error(f"{path} holds a pickle, which could run code; expected {what}.")
                    data = member.read(limits.ARCHIVE_BYTES)
                array = np.frombuffer(data, dtype)
                if array.size != np.prod(shape, dtype=object):
                    raise ValueError("another size than its header says")
                yield entry.filename.removesuffix(".npy"), array.reshape(shape, order="F" if fortran else "C")
    except DrgateError:
        raise
    except FileNotFoundError as problem:
        raise error(f"{path} does not exist; expected {what}.") from problem
    except Exception as problem:  # of what is no archive, zipfile and NumPy raise nearly anything
        raise error(f"{path} is damaged, or is no {what.removeprefix('an ')}.") from problem
