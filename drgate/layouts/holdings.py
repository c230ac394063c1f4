"""What a folder holds: which files are photographs, which are left out and why, and which one a table means.

held = holdings(Path("mbrset"))
held.images                             # ["images/1.1.jpg", ...]
held.left_out                           # {"an empty file": ["images/9.9.jpg"]}
Names(held).of("1.1", None)             # ["images/1.1.jpg"], never images/1.jpg
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from drgate.buckets import Bucket
from drgate.columns import parse_split
from drgate.content import HEAD, named
from drgate.errors import ManifestError
from drgate.files import files_below, read_beginning

_JPEG: Final = (".jpg", ".jpeg", ".jpe", ".jfif")
IMAGE_SUFFIXES: Final = (
    *_JPEG, ".png", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm", ".gif", ".jp2", ".j2k",
)  # fmt: skip
DICOM_SUFFIXES: Final = (".dcm", ".dicom")
TABLE_SUFFIXES: Final = (".csv", ".tsv", ".txt", ".xlsx", ".jsonl", ".json", ".parquet", ".pq", ".npz", ".arrow")
PICTURE: Final = re.compile(r"an? (JPEG|PNG|TIFF|BMP|WebP|JPEG 2000|GIF) (photograph|picture)")
_MASK: Final = re.compile(r"(^|[\W_])(masks?|segmentations?)($|[\W_])", re.I)
_SYSTEM: Final = ("thumbs.db", "desktop.ini", "ehthumbs.db")
_NO_SUFFIX: Final = "in a bucket, without the suffix of a picture"
_SPLIT_WORD: Final = re.compile(r"(?<![a-z])(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)(?![a-z])", re.I)


@dataclass(frozen=True, slots=True)
class Holdings:
    """images, dicom, tables: paths relative to `root`, sorted. left_out: such paths by the reason."""

    root: Path
    images: list[str]
    dicom: list[str]
    tables: list[str]
    left_out: dict[str, list[str]]


def holdings(root: Path | Bucket) -> Holdings:
    """Every file below a folder, each in one of the lists. Raises ManifestError for more files than can be.

    What is in a bucket is known by its suffix alone: a file without one is left out, and nothing is fetched.
    """
    images, dicom, tables = [], [], []
    left_out: defaultdict[str, list[str]] = defaultdict(list)
    bucket, folder = (root, root.folder) if isinstance(root, Bucket) else (None, root)
    if bucket is None:
        names: Iterable[str] = (path.relative_to(folder).as_posix() for path in files_below(folder, ManifestError))
    else:
        names = bucket.objects
        left_out |= {why: [*some] for why, some in bucket.left_out.items()}
    for name in names:
        why = _by_name(name) or (_by_content(folder / name, name) if bucket is None else _NO_SUFFIX)
        if why == "image":
            images.append(name)
        elif why == "dicom":
            dicom.append(name)
        elif why == "table":
            tables.append(name)
        else:
            left_out[why].append(name)
    return Holdings(
        folder, sorted(images), sorted(dicom), sorted(tables), {why: sorted(left_out[why]) for why in sorted(left_out)}
    )


def _by_name(name: str) -> str:
    """image, dicom or table, or why it is left out; empty where the name does not say it."""
    path = PurePosixPath(name)
    parts, suffix = path.parts, path.suffix.lower()
    if path.name.lower() in _SYSTEM or "__MACOSX" in parts:
        return "a file of the system"
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if suffix in IMAGE_SUFFIXES:
        return "a mask" if _is_mask(name) else "image"
    if suffix in DICOM_SUFFIXES:
        return "dicom"
    return "table" if suffix in TABLE_SUFFIXES else ""


def _by_content(path: Path, name: str) -> str:
    """As `_by_name`, by how the file begins."""
    if path.is_symlink() and not path.exists():
        return "a broken link"
    what = named(read_beginning(path, HEAD, "a photograph", ManifestError))
    if PICTURE.fullmatch(what):
        return "a mask" if _is_mask(name) else "image"
    if what == "a DICOM file":
        return "dicom"
    return {"": "text", "empty": "an empty file"}.get(what, what)


def _is_mask(name: str) -> bool:
    path = PurePosixPath(name)
    return any(_MASK.search(part) for part in (*path.parts[:-1], path.stem))


def without_suffix(name: str) -> tuple[str, str]:
    """A name and its suffix, in lower case, if it is an image's; a number after a dot is part of the name (`1.1`).

    The suffixes of JPEG are one.
    """
    stem, dot, end = name.rpartition(".")
    suffix = f".{end.lower()}"
    if not dot or not stem or suffix not in (*IMAGE_SUFFIXES, *DICOM_SUFFIXES):
        return name, ""
    return stem, _JPEG[0] if suffix in _JPEG else suffix


class Names:
    """The files of a folder, to find the one that a table means by a name without folder, suffix or their case."""

    def __init__(self, held: Holdings) -> None:
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        self._near: dict[str, str] = {}
        self._root = held.root.resolve().parts
        for name in (*held.images, *held.dicom):
            stem = _stem(PurePosixPath(name).name)
            self._by_stem[stem].append(name)
            self._near.setdefault(_loose(stem), name)

    def of(self, given: str, split: str | None) -> list[str]:
        """The files that a name of a table can mean: one, or none, or those that it does not tell apart.

        A file's name must be the given one, or the given one with a suffix of images added where it has none; case
        matters but in suffixes. The folders that are given must be among the file's, in their order, whatever the case;
        where no file fits, the first of them may be the last folders of the root's own path.
        Of several files, those in just this folder count, then those in a folder named after the row's split.
        """
        *folders, name = PurePosixPath(given.lstrip("/")).parts
        found = self._fitting(folders, name)
        for shared in range(len(folders), 0, -1):
            if not found and _plain(folders[:shared]) == _plain(self._root[-shared:]):
                folders = folders[shared:]
                found = self._fitting(folders, name)
        if len(found) > 1:
            just_here = [one for one in found if _plain(PurePosixPath(one).parts[:-1]) == _plain(folders)]
            found = just_here or found
        if len(found) > 1 and split is not None:
            found = [one for one in found if split in splits_of(one)] or found
        return found

    def _fitting(self, folders: list[str], name: str) -> list[str]:
        suffix = without_suffix(name)[1]
        paths = map(PurePosixPath, self._by_stem.get(_stem(name), []))
        return [
            path.as_posix()
            for path in paths
            if (not suffix or without_suffix(path.name)[1] == suffix) and _within(folders, path.parts[:-1])
        ]

    def otherwise(self, given: str) -> str | None:
        """A file of that name in another folder, with another suffix, in other letters or with leading zeros."""
        return self._near.get(_loose(_stem(PurePosixPath(given).name)))


def _stem(name: str) -> str:
    """The name without suffix; accents as one character, which some file systems write as two."""
    return unicodedata.normalize("NFC", without_suffix(name)[0])


def _loose(stem: str) -> str:
    return stem.casefold().lstrip("0")


def _plain(parts: object) -> list[str]:
    return [unicodedata.normalize("NFC", part).casefold() for part in parts]  # type: ignore[attr-defined]


def _within(given: list[str], folders: tuple[str, ...]) -> bool:
    """Whether the given folders are among the others, in their order."""
    rest = iter(_plain(folders))
    return all(part in rest for part in _plain(given))


def splits_of(path: str) -> set[str | None]:
    """The splits that the folders of a path name: `a. Training Set/x.jpg`."""
    return {parse_split(word) for part in PurePosixPath(path).parts[:-1] for word in _SPLIT_WORD.findall(part)}
