"""A manifest: images with patient, eye and reference grade, read from the usual layouts of data sets.

    manifest = load_manifest(Path("eyepacs"))          # labels.csv, split/grade/*, grade/*, APTOS or EyePACS CSV
    test = manifest.select("test")
    test.digest()                                      # 'sha256:...' over rows and image contents

A manifest is a table and the folder that its image paths are relative to. A sealed test set is a test set without
grades; the person who holds the grades adds them at evaluation.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgate.buckets import Address, Bucket, fetch, is_folder, located
from drgate.columns import REFER, Columns, graded_rows, reference_of, unexplained
from drgate.columns import SPLITS as SPLITS
from drgate.errors import DrgateError, ManifestError, brief, unchained
from drgate.files import canonical_json, refuse_pipe, sha256_file
from drgate.grouping import grouping
from drgate.layouts.dicom import unpacked
from drgate.layouts.folders import GRADE_FOLDERS, from_folder
from drgate.layouts.found import Found
from drgate.layouts.holdings import DICOM_SUFFIXES, holdings, without_suffix
from drgate.layouts.pictures import data_set_files, from_files, holds_pictures, may_hold_pictures
from drgate.layouts.tables import EXPECTED, by_number, from_table, rows_named
from drgate.mapping import PLAIN, ColumnMap
from drgate.scale import doubts

COLUMNS: Final = ("image", "grade", "patient", "eye", "gradable", "split")
_TABLES: Final = ("labels.csv", "labels.parquet", "metadata.csv")
"""Tables that a folder is read from."""


@dataclass(frozen=True)
class Manifest:
    """A list of fundus photographs with reference grades.

    table: one row per image, sorted by image, columns `COLUMNS` and any further ones (camera, site, ...):
        image (str, POSIX path relative to `root`), grade (Int8, 0-4 or NA), patient (str or NA; namespaced by `source`
        where that column is present), eye ("L", "R" or NA), gradable (bool; false explains why
        there is no grade), split ("train", "val", "test" or NA); referable (Int8) of a reference that says only
        whether to refer, which has no grades.
    origin: the file or folder that it was read from, for messages; an `Address` if that is in a bucket.
    dealt_by_seed: seed of `split_by_patient`, if it made the splits.
    found: what it was read as, and what was left out.
    """

    root: Path
    table: pd.DataFrame = field(repr=False)
    origin: Path
    dealt_by_seed: int | None = None
    found: Found | None = field(default=None, repr=False, compare=False)
    _contents: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def name(self) -> str:
        """Name for reports: the folder's name if the file is its labels.csv, else the file's name; of a bucket, the
        address of either.
        """
        named = self.origin.parent if self.origin.stem == "labels" else self.origin
        return str(named) if isinstance(named, Address) else named.resolve().name

    @property
    def patients_known(self) -> bool:
        """Whether every row names its patient (all do or none does)."""
        return bool(self.table["patient"].notna().all())

    @property
    def sealed(self) -> bool:
        """Whether no row has a reference."""
        return not graded_rows(self.table).any()

    @property
    def split_of(self) -> str:
        """The one split that all rows belong to; empty where they belong to several or to none."""
        names = self.table["split"].unique()
        return str(names[0]) if len(names) == 1 and not pd.isna(names[0]) else ""

    def patients_to_write(self) -> pd.Series[str]:
        """The patients as a file may hold them; those of DICOM headers as numbers that no other set has."""
        patients = self.table["patient"]
        if self.found is None or not self.found.patients_of_header:
            return patients
        here = self.images_digest().removeprefix("sha256:")[:8]
        return pd.Series([f"{here}-{code + 1}" for code in pd.factorize(patients)[0]], patients.index, dtype="str")

    def path(self, image: str) -> Path:
        """Path of an image's file."""
        return self.root / image

    def select(self, split: str) -> Manifest:
        """The rows of one split, in the same order.

        Raises ManifestError when there is no split column or the split is empty.
        """
        present = [name for name in SPLITS if (self.table["split"] == name).any()]
        if split not in present:
            have = f"it has {', '.join(present)}" if present else "it has no split column"
            raise ManifestError(f"{self.origin} has no images in the split {split!r}: {have}. Choose with --split.")
        return replace(self, table=self.table[self.table["split"] == split].reset_index(drop=True))

    def spread(self, most: int) -> NDArray[np.int64]:
        """Positions of so many images at most, spread evenly over the set, in order."""
        return np.unique(np.linspace(0, len(self) - 1, most).astype(np.int64))

    def content_digests(self) -> dict[str, str]:
        """SHA-256 (hex) of each image file, by image; each file is read once for this manifest and its selections."""
        missing = [image for image in self.table["image"] if image not in self._contents]
        with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) * 2)) as pool:
            self._contents.update(
                zip(missing, pool.map(lambda image: sha256_file(self.path(image)), missing), strict=True)
            )
        return {image: self._contents[image] for image in self.table["image"]}

    def digest(self) -> str:
        """`sha256:...` over the rows, sorted by image, each with the digest of its file's bytes."""
        contents = self.content_digests()
        columns = sorted(self.table.columns)
        state = hashlib.sha256(canonical_json(["drgate manifest 1", columns]) + b"\n")
        for values in self.table[columns].itertuples(index=False):
            row = dict(zip(columns, values, strict=True))
            cells = [None if pd.isna(row[column]) else _plain(row[column]) for column in columns]
            state.update(canonical_json([contents[row["image"]], *cells]) + b"\n")
        return f"sha256:{state.hexdigest()}"

    def named_by(self) -> dict[str, Any]:
        """What a checklist declares a set without patients by, as predictions record it; empty without its files."""
        if grouping(self.table).codes is not None:
            return {}
        try:
            return {"manifest": {"digest": self.digest()}}
        except OSError:
            return {}

    def images_digest(self) -> str:
        """`sha256:...` over the set of image contents, by which looks are counted, whatever the grades and patients."""
        return images_digest(self.content_digests().values())

    def leaks(self, split: str | None = None) -> list[str]:
        """Leaks between splits: one sentence each for shared patients (unnamed) and for byte-identical files.

        split: only what this split shares with others. Empty when nothing is shared or nothing is split.
        """
        rows = self.table[self.table["split"].notna()]
        found = []
        named = rows[rows["patient"].notna()]
        patients = _splits_by(named["patient"], named["split"])
        if shared := _shared(patients, split):
            images = int(named["patient"].isin(shared).sum())
            found.append(
                f"{self.origin}: patients are in more than one split ({len(shared)} of them, with {images} images). "
                "Split by patient."
            )
        if rows["split"].nunique() > 1:
            contents = rows["image"].map(self.content_digests())
            names = rows["image"].groupby(contents).agg(" = ".join)
            files = {str(names[digest]): splits for digest, splits in _splits_by(contents, rows["split"]).items()}
            if shared := _shared(files, split):
                examples = ", ".join(f"{brief(name)} ({'/'.join(sorted(files[name]))})" for name in shared[:3])
                more = "" if len(shared) <= 3 else f" and {len(shared) - 3} more"
                found.append(
                    f"{self.origin}: {len(shared)} byte-identical images are in more than one split: {examples}{more}. "
                    "Keep each image in one split."
                )
        return found

    def contradictions(self) -> list[str]:
        """One sentence for each set of byte-identical files with different grades or patients, by the images' names."""
        refers = "referable" in self.table.columns
        rows = dict(
            zip(self.table["image"], zip(reference_of(self.table), self.table["patient"], strict=True), strict=True)
        )
        sentences = []
        for images in self._identical():
            grades, patients = (
                {cell for cell in cells if not pd.isna(cell)}
                for cells in zip(*map(rows.__getitem__, images), strict=True)
            )
            differ = "referable and not referable" if refers else f"graded {' and '.join(map(str, sorted(grades)))}"
            tails = [differ] if len(grades) > 1 else []
            if len(patients) > 1:
                tails.append(f"of {len(patients)} patients")
            if tails:
                sentences.append(f"{' and '.join(images)} are the same file, but {', '.join(tails)}.")
        return sentences

    def copies(self) -> list[str]:
        """One sentence if files are byte-identical, without their names: it is published with an evaluation."""
        if copies := sum(len(images) - 1 for images in self._identical()):
            are = "image is a copy of another" if copies == 1 else "images are copies of others"
            return [f"{copies} {are} (byte-identical)."]
        return []

    def mapped(self) -> list[str]:
        """What --columns mapped in it, a sentence each, for the report."""
        return [] if self.found is None else self.found.mapped

    def leftovers(self) -> list[str]:
        """One sentence if files of its folder are no images of the set, by reason, without their names."""
        kinds = {} if self.found is None else self.found.left_out
        kinds = {why: names for why, names in kinds.items() if why not in ("hidden", "text", "a file of the system")}
        if not kinds:
            return []
        parts = ", ".join(f"{len(names)} {why.removeprefix('a ').removeprefix('an ')}" for why, names in kinds.items())
        return [f"Files of the folder that were left out: {parts}."]

    @property
    def unused(self) -> tuple[str, ...]:
        """Columns that are mapped and not in this set."""
        return () if self.found is None else self.found.unused

    def doubts(self) -> list[str]:
        """Questions about reference grades that are unlikely on the ICDR scale."""
        if "referable" in self.table.columns:
            return []
        asked = doubts([int((self.table["grade"] == grade).sum()) for grade in range(5)])
        paths = [PurePosixPath(image) for image in self.table["image"]] if self._graded_by_folders else []
        if paths and all(path.name.startswith(f"{path.parent.name}_") for path in paths):
            asked.append("Each image's name begins with the name of its folder: are the folders grades, or patients?")
        return asked

    @property
    def _graded_by_folders(self) -> bool:
        return self.found is not None and self.found.layout in GRADE_FOLDERS

    def _identical(self) -> list[list[str]]:
        """The sets of byte-identical files."""
        groups: dict[str, list[str]] = {}
        for image, digest in self.content_digests().items():
            groups.setdefault(digest, []).append(image)
        return [images for images in groups.values() if len(images) > 1]


@unchained()
def load_manifest(
    path: Path | str,
    *,
    files: bool = True,
    columns: ColumnMap = PLAIN,
    images: Path | None = None,
    troubles: list[str] | None = None,
    references: bool = True,
) -> Manifest:
    """Read a manifest from a table, a folder, or a file with pictures inside (docs/datasets.md).

    files: whether the image files of a table must exist; False where only rows are counted. A public table's names are
        then kept as they are.
    columns: which column is which, and what stands for a grade. images: the folder that a table's images are in; None:
        the table's own. Both it and `path` may be in a bucket (gs://, s3://); what a table names is fetched then.
    troubles: gets a sentence for each kind of row that cannot be used, and those rows are left out; None raises it.
    references: False reads the images and their splits alone, as they are listed: also those whose file is missing, and
        one as often as it is named. The table then has these two columns.

    A folder is read from its `labels.csv` (or `labels.parquet`, `metadata.csv`) where it has one, else as Hugging
    Face's `datasets` writes it, else from `split/grade/*` or `grade/*` with grades as digits or class names. A folder
    of images alone is a sealed test set: no grades.

    Raises ManifestError, naming file and row, for anything that is not a usable manifest: missing files (all counted),
    no images, a grade outside 0-4, a duplicate image, a patient given in some rows only.
    """
    path, home = located(path), None if images is None else located(images)
    own: list[str] | None = None if troubles is None else []
    addresses: dict[str, str] = {}
    source: Bucket | None = None
    root: Path | Bucket | None = home
    with _by_address(addresses):
        if isinstance(home, Address) and is_folder(home, ManifestError):
            root = Bucket(home, ManifestError)
            addresses[str(root.folder)] = str(home)
        if isinstance(path, Address):
            if is_folder(path, ManifestError):
                source = Bucket(path, ManifestError)
                addresses[str(source.folder)] = str(path)
                path = source.folder
                source.bring(next(([name] for name in _TABLES if source.holds(name)), []))
            else:
                address, path = path, fetch(str(path), ManifestError)
                addresses[str(path)] = str(address)
                if root is None:
                    root = Bucket(address.parent, ManifestError)
                    addresses[str(root.folder)] = str(address.parent)
        refuse_pipe(path, EXPECTED, ManifestError)
        found = _found(path, files, columns, root, source)
        if not references:
            found.troubles, found.missing = [], _absent(found)
        if found.bucket is not None:
            if own is not None or not found.missing:  # what can be refused is, before anything large is fetched
                _checked(replace(found), path, False, None if own is None else [], references)
            if files or any(without_suffix(str(image))[1] in DICOM_SUFFIXES for image in found.table["image"]):
                found.bucket.bring(found.table["image"].drop(found.table.index[found.missing]).astype(str))
        found = unpacked(found, _origin(path), files)
        manifest = _checked(found, path, files, own, references)
    found.said = [_named(line, addresses) for line in found.said]
    if troubles is not None and own is not None:
        troubles += [_named(line, addresses) for line in own]
    return replace(manifest, origin=located(_named(str(manifest.origin), addresses)))


@contextmanager
def _by_address(addresses: Mapping[str, str]) -> Iterator[None]:
    """Have an error name a file in a bucket as the caller does, and not its copy."""
    try:
        yield
    except DrgateError as problem:
        raise type(problem)(_named(str(problem), addresses)) from problem


def _named(text: str, addresses: Mapping[str, str]) -> str:
    for copy, address in addresses.items():
        text = text.replace(copy, address)
    return text


def has_header(path: Path, columns: ColumnMap) -> bool:
    """Whether a file is a table with a header line: no file with pictures inside, and no columns by number."""
    return not by_number(columns) and not holds_pictures(path)


def _found(
    path: Path, files: bool, columns: ColumnMap, root: Path | Bucket | None, source: Bucket | None = None
) -> Found:
    """root: the folder that a table's images are in. source: the bucket whose folder `path` is."""
    if path.is_dir():
        root = root or source
        for name in _TABLES:
            if (path / name).is_file():
                return _found(path / name, files, columns, root)
        held = holdings(source or path)
        if source is not None:
            source.bring(may_hold_pictures(held))
        if inside := data_set_files(path, held):
            return from_files(inside, path, files, columns, root)
        return replace(from_folder(path, held, columns), bucket=source)
    if holds_pictures(path):
        return from_files([(path, None)], path, files, columns, root)
    return from_table(path, files, columns, root)


def images_digest(contents: Iterable[str]) -> str:
    """`sha256:...` over a set of images, each by the SHA-256 (hex) of its file's bytes."""
    state = hashlib.sha256(b"drgate images 1\n" + "\n".join(sorted(set(contents))).encode())
    return f"sha256:{state.hexdigest()}"


def training_rows(manifest: Manifest) -> Manifest:
    """The rows of a manifest that is given as training data: its splits train and val, all where it has no splits.

    Raises ManifestError where all are of the split test.
    """
    splits = manifest.table["split"]
    if splits.isna().all():
        return manifest
    if not (kept := splits.isin(("train", "val"))).any():
        raise ManifestError(
            f"{manifest.origin} is given as training data, but all its images are of the split test; give the data "
            "that the model was trained on."
        )
    return replace(manifest, table=manifest.table[kept].reset_index(drop=True))


def split_by_patient(
    manifest: Manifest, *, seed: int = 0, shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
) -> Manifest:
    """The manifest with a `split` column: patients assigned to train, val and test, stratified by their worst grade.

    shares: fractions of patients for train, val, test; they sum to 1. Where patients are unknown, byte-identical images
    count as one patient. The result depends on the seed and the patients' names only, not on the order of rows.
    """
    owner = manifest.table["patient"]
    if not manifest.patients_known:
        owner = manifest.table["image"].map(manifest.content_digests())
    worst = reference_of(manifest.table).groupby(owner).max()
    place: dict[str, str] = {}
    for _, stratum in worst.groupby(worst.fillna(-1)):
        order = sorted(stratum.index, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
        edges = (round(shares[0] * len(order)), round((shares[0] + shares[1]) * len(order)))
        place |= {name: SPLITS[(i >= edges[0]) + (i >= edges[1])] for i, name in enumerate(order)}
    return replace(manifest, table=manifest.table.assign(split=owner.map(place).astype("str")), dealt_by_seed=seed)


def dealt_by(record: Mapping[str, Any] | None, manifest: Manifest) -> int | None:
    """The seed with which training, by its record, split this same manifest; None if it did not."""
    seed: int | None = record.get("dealt_by_seed") if record else None
    return seed if record and seed is not None and record.get("dataset_digest") == manifest.digest() else None


def _plain(value: object) -> str | int | float | bool:
    """A cell as a plain JSON value (NumPy scalars become Python's)."""
    item = value.item() if hasattr(value, "item") else value
    return item if isinstance(item, str | int | float | bool) else str(item)


def _splits_by(key: pd.Series[str], split: pd.Series[str]) -> dict[str, set[str]]:
    """The splits in which each value of `key` occurs."""
    splits: dict[str, set[str]] = {}
    for name, place in zip(key, split, strict=True):
        splits.setdefault(name, set()).add(place)
    return splits


def _shared(splits: dict[str, set[str]], split: str | None) -> list[str]:
    return sorted(name for name, places in splits.items() if len(places) > 1 and (split is None or split in places))


def _absent(found: Found) -> list[int]:
    """The rows whose image is no file."""

    def there(image: str) -> bool:
        if found.bucket is not None:
            return found.bucket.holds(image)
        try:
            return (found.root / image).is_file()
        except (OSError, ValueError):  # a name that no file can have
            return False

    return [row for row, image in enumerate(found.table["image"].astype(str)) if not there(image)]


def _checked(found: Found, path: Path, files: bool, troubles: list[str] | None, references: bool = True) -> Manifest:
    """The manifest of rows whose columns have drgate's names, each cell checked."""
    origin = _origin(path)
    given = list(found.troubles)
    if found.missing and troubles is None and references:
        raise ManifestError(_first(given))
    unusable = np.zeros(len(found.table), dtype=bool)
    unusable[found.missing] = True
    table, root = found.table, found.root
    columns = Columns(table, origin, ManifestError)
    checked = pd.DataFrame(index=table.index)
    checked["image"] = _image_column(columns, root, files, {*found.missing}, repeats=not references)
    if not references:
        return Manifest(root, checked.assign(split=columns.split()), origin, found=found)
    grades, refers = columns.reference()
    checked["grade"] = pd.array(grades, dtype="Int8")
    checked["patient"] = columns.patient()
    checked["eye"] = columns.eye()
    checked["gradable"] = columns.gradable()
    checked["split"] = columns.split()
    if refers is not None:
        checked["referable"] = pd.array(refers, dtype="boolean").astype("Int8")
    for column in columns.others(*COLUMNS, "referable"):
        checked[column] = columns.further(column)
    if graded_rows(checked).any() and (lacking := unexplained(checked).to_numpy(dtype=bool) & ~unusable).any():
        what = "grade; give 0-4" if refers is None else REFER
        rows = np.flatnonzero(lacking).tolist()
        given.append(
            f"{rows_named(origin, checked, rows)}: the image has no {what}, or set "
            "gradable to false, or leave out all grades for a sealed test set; "
            f"{len(rows)} of {len(checked)} rows are so."
            " If an empty grade means ungradable, give --columns FILE, a YAML file with the line   "
            'grades: {"": ungradable}'
        )
        if troubles is None:
            raise ManifestError(_first(given))
        unusable |= lacking
    if troubles is not None:
        troubles += given
        checked = checked[~unusable]
        if checked.empty:
            raise ManifestError(f"No row can be used. {_first(given)}")
    return Manifest(root, checked.sort_values("image", ignore_index=True), origin, found=found)


def _origin(path: Path) -> Path:
    """The file that a folder is read from, or the folder."""
    return next((path / name for name in _TABLES if (path / name).is_file()), path) if path.is_dir() else path


def _first(troubles: list[str]) -> str:
    more = len(troubles) - 1
    return troubles[0] + (f" ({more} more kinds of rows: drgate manifest shows all.)" if more else "")


def _image_column(columns: Columns, root: Path, files: bool, missing: set[int], *, repeats: bool = False) -> list[str]:
    paths: list[str] = []
    seen: dict[str, int] = {}

    def where(row: int) -> str:
        return rows_named(columns.origin, columns.table, [row]) if columns.origin.is_dir() else columns.where(row)

    for i, given in enumerate(columns.table["image"]):
        if pd.isna(given) or not str(given).strip():
            raise ManifestError(f"{where(i)}: the image is empty; expected a path relative to {root}.")
        image = str(given).strip().replace("\\", "/")
        if "://" in image:
            raise ManifestError(
                f"{where(i)}: the image is a web address; copy the images beside the manifest and give relative paths."
            )
        path = Path(image)
        if path.is_absolute():
            try:
                path = path.relative_to(root.resolve())
            except ValueError:
                raise ManifestError(f"{where(i)}: the image is outside {root}; give a path relative to it.") from None
        normal = os.path.normpath(path.as_posix()).replace(os.sep, "/")
        if normal.startswith(".."):
            raise ManifestError(f"{where(i)}: the image is outside {root}; give a path relative to it.")
        if normal in seen and not repeats:
            raise ManifestError(f"{where(i)}: the image is already in {where(seen[normal])}; keep one row per image.")
        try:
            there = not files or i in missing or (root / normal).is_file()
        except (OSError, ValueError):  # a name that no file can have
            there = False
        if not there:
            link = " It is a link to a file that is not there." if (root / normal).is_symlink() else ""
            raise ManifestError(f"{where(i)}: the image file is not in {root}.{link}")
        seen[normal] = i
        paths.append(normal)
    return paths
