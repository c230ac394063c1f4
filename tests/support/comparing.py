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


def compare(first: Predictions, second: Predictions, **options: Any) -> Comparison:
    """`drgate.compare.compare` by medical-grade, as if nobody had looked at these images before."""
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder) / "looks.jsonl")
        return drgate.compare.compare(first, second, load_checklist("medical-grade"), log=log, **options)
