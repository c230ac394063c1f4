"""What a data set is understood as: `drgate manifest`.

found = survey(Path("mbrset/labels.csv"))
found.troubles                          # why rows cannot be used, a sentence each
write_canonical(found.manifest, Path("mbrset/canonical.csv"))
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from drgate.columns import READER, reference_of
from drgate.content import HEAD, named
from drgate.errors import ExitCode, ManifestError, UsageError
from drgate.files import read_beginning, refuse_existing, write_atomically
from drgate.grouping import grouping
from drgate.layouts.found import Found
from drgate.layouts.holdings import PICTURE, holdings
from drgate.layouts.tables import EYEPACS_NAME
from drgate.manifest import COLUMNS, SPLITS, Manifest, load_manifest
from drgate.mapping import PLAIN, ColumnMap
from drgate.scale import GRADES

_EXAMPLES: Final = 3
_PLAIN: Final = (".ppm", ".pgm")
"""Pictures that begin like text."""
_FURTHER: Final = (
    "dme", "referable", "sha256", "severity", "source", "site", "centre", "center", "clinic", "country", "region",
    "camera", "device", "sex", "gender", "age", "age_group", "ethnicity", "quality", "year",
)  # fmt: skip
"""Further columns by usual names, in lower case."""
PICTURES: Final = "pictures"
"""The folder, beside a canonical table, with pictures that had no files."""


@dataclass(frozen=True, slots=True)
class Survey:
    """manifest: the rows that can be used. splits: counts by grade, and of images without one, of each split and of
    all (""). left_out: files that are no images of the set, by the reason; not_listed: images that the table does not
    name. troubles: why rows cannot be used. contradictions: what cannot all be true. questions: about the grades.
    """

    manifest: Manifest
    found: Found
    splits: dict[str, dict[str, int]]
    patients: int | None
    left_out: dict[str, list[str]]
    not_listed: list[str]
    troubles: list[str]
    contradictions: list[str]
    questions: list[str]

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.FAILED if self.troubles or self.contradictions else ExitCode.PASSED

    def to_json(self) -> dict[str, Any]:
        table = self.manifest.table
        eyes = table["eye"].value_counts()
        # A header may be a patient's row: other names than these are counted, not shown.
        further = [name for name in table.columns if name not in (*COLUMNS, *self.found.columns)]
        told = [name for name in further if name.casefold() in _FURTHER or READER.fullmatch(name)]
        return {
            "source": str(self.manifest.origin),
            "layout": self.found.layout,
            "images": len(table),
            "splits": self.splits,
            "patients": self.patients,
            "patients_named": grouping(table).named,
            "eyes": {eye: int(eyes.get(eye, 0)) for eye in ("L", "R")},
            "columns": self.found.columns,
            "further_columns": told,
            "other_columns": len(further) - len(told),
            "said": self.found.said,
            "left_out": {why: _listed(names) for why, names in self.left_out.items()},
            "not_listed": _listed(self.not_listed),
            "troubles": self.troubles,
            "contradictions": self.contradictions,
            "copies": self.manifest.copies(),
            "questions": self.questions,
            "digest": self.manifest.digest(),
        }


def survey(
    path: Path,
    *,
    columns: ColumnMap = PLAIN,
    images: Path | None = None,
    regraded: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> Survey:
    """Read a data set and all its files. regraded: its new version. Raises ManifestError where no row can be used."""
    troubles: list[str] = []
    manifest = regraded(load_manifest(path, columns=columns, images=images, troubles=troubles))
    found = manifest.found
    assert found is not None
    left_out, not_listed = dict(found.left_out), []
    if (found.bucket or (manifest.origin.is_file() and found.root.is_dir())) and not found.inside:
        held = holdings(found.bucket or found.root)
        listed = {*found.table["image"], *manifest.table["image"]}
        left_out, not_listed = held.left_out, [one for one in held.images if one not in listed]
        if held.dicom and not listed & {*held.dicom}:
            left_out |= {"DICOM": held.dicom}
    troubles += _no_pictures(manifest)
    splits = {"": _counts(manifest)}
    splits |= {name: _counts(manifest.select(name)) for name in SPLITS if (manifest.table["split"] == name).any()}
    known = grouping(manifest.table).codes
    return Survey(
        manifest,
        found,
        splits,
        None if known is None else int(known.max()) + 1,
        left_out,
        not_listed,
        troubles,
        [*manifest.contradictions(), *_same_eye(manifest), *manifest.leaks()],
        manifest.doubts(),
    )


def _no_pictures(manifest: Manifest) -> list[str]:
    """One sentence for each kind of file that has an image's name and begins like something else."""
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for image in manifest.table["image"]:
        what = named(read_beginning(manifest.path(image), HEAD, "a photograph", ManifestError))
        if PICTURE.fullmatch(what) or what == "a binary file" or PurePosixPath(image).suffix.lower() in _PLAIN:
            continue
        kinds[what or "text"].append(image)
    return [
        f"{', '.join(images[:_EXAMPLES])}{', ...' if images[_EXAMPLES:] else ''}: no photograph by its content "
        f"({what}), in {len(images)} of {len(manifest)} rows. Add the photographs, or remove these rows."
        for what, images in kinds.items()
    ]


def _counts(manifest: Manifest) -> dict[str, int]:
    table = manifest.table
    grades = reference_of(table)
    if "referable" in table.columns:
        counts = {name: int((grades == grade).sum()) for name, grade in (("not_referable", 0), ("referable", 2))}
    else:
        counts = {name: int((grades == i).sum()) for i, name in enumerate(GRADES)}
    none = grades.isna()
    return {**counts, "no_grade": int((none & table["gradable"]).sum()), "ungradable": int((~table["gradable"]).sum())}


def _same_eye(manifest: Manifest) -> list[str]:
    """One sentence for each EyePACS name that is in several folders with different grades: one eye has one grade."""
    places: defaultdict[str, list[tuple[str, object]]] = defaultdict(list)
    for image, grade in zip(manifest.table["image"], reference_of(manifest.table), strict=True):
        if EYEPACS_NAME.fullmatch((path := PurePosixPath(image)).stem):
            places[path.name].append((image, grade))
    return [
        f"{' and '.join(image for image, _ in found)} have one name, but are graded "
        f"{' and '.join(sorted({str(grade) for _, grade in found}))}."
        for found in places.values()
        if len({grade for _, grade in found}) > 1
    ]


def _listed(names: list[str]) -> dict[str, Any]:
    return {"count": len(names), "examples": names[:_EXAMPLES]}


def write_canonical(found: Survey, out: Path) -> None:
    """Write the rows with drgate's own columns, and pictures that have no files into `pictures` beside it.

    Raises UsageError where something is there already, and for images that are not below the folder of `out`.
    """
    manifest = found.manifest
    if out.suffix.lower() != ".csv":
        raise UsageError(f"--out is {out}; expected a name that ends in .csv.")
    refuse_existing(out, "choose another name with --out")
    table = manifest.table.drop(columns=[name for name in COLUMNS[1:] if _says_nothing(manifest, name)])
    if "patient" in table.columns:
        table["patient"] = manifest.patients_to_write()
    if found.found.inside:
        below = PICTURES
        refuse_existing(out.parent / PICTURES, "choose another folder with --out")
    elif found.found.bucket:
        below = "."  # relative to the folder in the bucket, wherever the table is
    else:
        below = os.path.relpath(manifest.root.resolve(), out.parent.resolve()).replace(os.sep, "/")
        if below.startswith(".."):
            raise UsageError(
                f"The images are in {manifest.root}, which is not below {out.parent}; write --out "
                f"{manifest.root / 'labels.csv'}."
            )
    images = [str(PurePosixPath(below) / image) for image in table["image"]]
    if found.found.inside:
        _copy(manifest, out.parent / PICTURES)
    write_atomically(out, table.assign(image=images).to_csv(index=False, lineterminator="\n").encode())


def _says_nothing(manifest: Manifest, column: str) -> bool:
    cells = manifest.table[column]
    return bool(cells.all() if column == "gradable" else cells.isna().all())


def _copy(manifest: Manifest, folder: Path) -> None:
    """Write all pictures into a new folder, or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for image in manifest.table["image"]:
            (unfinished / image).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(manifest.path(image), unfinished / image)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
