"""What was found in a source of a data set, before its cells are checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pandas as pd

from drgate.buckets import Bucket

STATED: Final = "columns as stated"


@dataclass
class Found:
    """The rows of a source, with drgate's own column names.

    layout: what it was recognised as; `STATED` where --columns said it. root: the folder that images are relative to.
    columns: the source's own name by drgate's. unused: mappings of columns that it lacks. left_out: files that are no
    images of this set, by the reason. bucket: of images that are not files of this machine; `root` has those that were
    fetched. inside: whether the pictures are in the source and were unpacked into `root`. patients_of_header: whether
    patients are from DICOM headers. said: how something was read, a sentence each; mapped: what was mapped as
    stated, for the report. troubles: why rows cannot be used, a sentence each; missing: those rows.
    """

    layout: str
    root: Path
    table: pd.DataFrame = field(repr=False)
    columns: dict[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    left_out: dict[str, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    bucket: Bucket | None = field(default=None, repr=False)
    mapped: list[str] = field(default_factory=list)
    inside: bool = False
    patients_of_header: bool = False
    troubles: list[str] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
