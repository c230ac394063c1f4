"""A comparison whose looks are logged in a file of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import drgate.compare
from drgate.checklist import load_checklist
from drgate.compare import Comparison
from drgate.looks import Log
from drgate.predictions import Predictions
from tests.support.declaring import declaring


def compare(first: Predictions, second: Predictions, *, most: int | None = None, **options: Any) -> Comparison:
    """`drgate.compare.compare` by medical-grade, as if nobody had looked at these images before.

    most: the images of one patient, as the checklist declares of the first table.
    """
    checklist = load_checklist("medical-grade")
    if most is not None:
        checklist = declaring(checklist, first, most)
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder) / "looks.jsonl")
        return drgate.compare.compare(first, second, checklist, log=log, **options)
