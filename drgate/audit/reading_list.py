"""Reading again, masked: which photographs readers see, and what their answers change.

    wanted = reading_list([found.check("mislabelled")], test, seed_from(found.digest))
    write_reading(wanted, test, Path("out"))            # out/to_read/<published name>.jpeg, out/to_read.csv
    again = read_again(load_manifest("data"), [Path("reader-1.csv"), Path("reader-2.csv")])

Readers see the accused photographs among as many others, in no order, under names that say nothing: no grade, no
prediction, no reason. A grade changes only where more than half of the readers give the same other one.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final

import pandas as pd

from drgate.audit.evidence import Photographs
from drgate.audit.result import Check
from drgate.columns import graded_rows
from drgate.errors import ManifestError
from drgate.files import ignored_in, keep_out_of_git, read_limited, refuse_existing
from drgate.manifest import Manifest, load_manifest
from drgate.vision.images import MAX_BYTES

LIST: Final = "to_read.csv"
FOLDER: Final = "to_read"
FEWEST: Final = 2
"""Readers without whom no grade changes."""
_KEY: Final = 16


def reading_list(checks: Iterable[Check], photographs: Photographs, seed: int) -> pd.DataFrame:
    """The photographs that readers see: those named in findings, and as many others that have a grade.

    columns: image, its published name with the file's ending; own_image, the caller's own name, which may say the
    grade (`3/17_right.jpeg`) and is not for readers. The others and the order depend on the seed and the names alone.
    checks: of which the findings that are written down count; those in training are not of `photographs`.
    """
    accused = {str(name)[:_KEY] for check in checks for one in check.findings for name in (one.test, one.other)}
    table = photographs.table.assign(name=photographs.names, content=photographs.contents)
    table = table[(table["content"] != "") & graded_rows(table)].drop_duplicates("content")
    named = table["name"].isin(accused)
    others = sorted(table["name"][~named], key=lambda name: _at_random(seed, "others", name))[: int(named.sum())]
    shown = table[named | table["name"].isin(others)]
    shown = shown.sort_values("name", key=lambda names: names.map(lambda name: _at_random(seed, "order", name)))
    endings = shown["image"].map(lambda image: PurePosixPath(image).suffix.lower())
    return pd.DataFrame({"image": shown["name"] + endings, "own_image": shown["image"]}).reset_index(drop=True)


def _at_random(seed: int, what: str, name: str) -> str:
    return hashlib.sha256(f"{seed}:{what}:{name}".encode()).hexdigest()


def write_reading(wanted: pd.DataFrame, photographs: Photographs, out: Path) -> None:
    """Write the list and, in a folder beside it, the photographs under the names that readers may see.

    Both are readable by their owner alone, and Git ignores them. Raises UsageError where either is there already, and
    ManifestError where a photograph changed since it was audited; then neither is written.
    """
    for name in (LIST, FOLDER):
        refuse_existing(out / name, "choose another folder with --out")
    files = dict(zip(photographs.names, zip(photographs.paths, photographs.contents, strict=True), strict=True))
    out.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{FOLDER}.", dir=out))
    try:
        for shown in wanted["image"]:
            path, content = files[shown[:_KEY]]
            data = read_limited(path, MAX_BYTES, "a photograph", ManifestError)
            if hashlib.sha256(data).hexdigest() != content:
                raise ManifestError(f"{path} changed after it was audited; audit again when nothing writes to the set.")
            (unfinished / shown).write_bytes(data)
        keep_out_of_git(out, LIST, f"{FOLDER}/", ignored=ignored_in(out))
        (out / LIST).touch(mode=0o600, exist_ok=False)
        (out / LIST).write_text(wanted.to_csv(index=False, lineterminator="\n"), encoding="utf-8")
        unfinished.replace(out / FOLDER)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class ReadAgain:
    """manifest: the new version of the set. confirmed, changed: images on which more than half of the readers agree;
    undecided: those on which they do not, which keep their grade."""

    manifest: Manifest = field(repr=False)
    confirmed: int
    changed: int
    undecided: int


def read_again(manifest: Manifest, answers: Sequence[Path]) -> ReadAgain:
    """The set with the grades that readers gave on reading again.

    answers: a table for each reader, with columns image (the name of the file that was read, or its published name) and
    grade, and gradable (false: ungradable). An image that is in no table stays as it is, and so does one on which no
    answer is given by more than half of all readers.

    Raises ManifestError for fewer than two readers, a set of which the reference says only whether to refer, an answer
    that is no grade and an image that is not in the set.
    """
    if "referable" in manifest.table.columns:
        raise ManifestError(f"{manifest.origin} says only whether to refer; grades cannot be read into it.")
    if len(answers) < FEWEST:
        raise ManifestError(f"A grade changes only by {FEWEST} readers or more; give the answers of each in a file.")
    table = manifest.table
    names = pd.Series([content[:_KEY] for content in manifest.content_digests().values()], table.index, dtype="str")
    known = {*names}
    given: dict[str, Counter[int]] = {}
    for path in answers:
        sheet = load_manifest(path, files=False)
        if sheet.sealed:
            raise ManifestError(f"{path} has no grades; expected a table with image and grade.")
        read = [PurePosixPath(image).name.partition(".")[0] for image in sheet.table["image"]]
        if len({*read}) < len(read):
            raise ManifestError(f"{path} has two rows for one photograph; expected one answer of this reader for each.")
        for image, name, grade in zip(sheet.table["image"], read, _answers(sheet.table), strict=True):
            if name not in known:
                raise ManifestError(
                    f"{path}: {image} is no image of {manifest.origin}; expected the names of the files in {FOLDER}."
                )
            given.setdefault(name, Counter())[grade] += 1
    agreed = {name: grade for name, votes in given.items() for grade, n in votes.items() if 2 * n > len(answers)}
    new = names.map(agreed).fillna(_answers(table)).astype("Int8")
    differs = new != _answers(table)
    changed = table.assign(
        grade=table["grade"].where(~differs, new.where(new >= 0)), gradable=table["gradable"].where(~differs, new >= 0)
    )
    n = names[differs].nunique()
    return ReadAgain(
        replace(manifest, table=changed), confirmed=len(agreed) - n, changed=n, undecided=len(given) - len(agreed)
    )


def _answers(table: pd.DataFrame) -> pd.Series[int]:
    """Grades, -1 for none."""
    return table["grade"].fillna(-1).astype("Int8")
