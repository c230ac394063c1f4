"""`drgate compare`: two models on the same images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import (
    ChecklistOption,
    FormatOption,
    LooksOption,
    LookTimeOption,
    PatientKeyOption,
    QuietOption,
    patient_key,
)
from drgate.screen import Format, emit, tell

HELP = """Compare two models on the same images: is A non-inferior to B in accuracy?

Every difference A - B is paired by image, and its interval allows for several images of one patient. If the tables name
no patients, the checklist declares how many images of one patient there are at most (declared). Exit code 0 A is
shown to be non-inferior to B at the margin, 1 A is shown to be worse by more than the margin, 2 the tables cannot be
compared, 3 neither is shown.

Each model takes one look at these images, logged before any number is computed, unless it was looked at before. The
checklist limits how many looks are allowed. To choose a model, compare on a validation split.

\b
Example:
  drgate compare new.parquet best.parquet --margin 0.02 --out comparison.md
"""


def command(
    first: Annotated[Path, typer.Argument(metavar="A", help="Predictions of the new model (CSV or Parquet).")],
    second: Annotated[
        Path, typer.Argument(metavar="B", help="Predictions of the model to compare with, on the same images.")
    ],
    margin: Annotated[
        float,
        typer.Option("--margin", help="Non-inferiority margin: how much lower the accuracy may be, as a fraction."),
    ] = 0.02,
    level: Annotated[float, typer.Option("--level", help="Confidence level of the intervals, two-sided.")] = 0.95,
    spec: ChecklistOption = "medical-grade",
    looks: LooksOption = None,
    time: LookTimeOption = None,
    patients: PatientKeyOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also write a report (.md) or the numbers (.json).")
    ] = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.checklist import load_checklist
    from drgate.compare import compare
    from drgate.errors import UsageError
    from drgate.files import refuse_existing, write_atomically
    from drgate.looks import Log
    from drgate.predictions import load_predictions
    from drgate.report import compare as compare_page

    for name, value, example in (("--margin", margin, "0.02"), ("--level", level, "0.95")):
        if not 0 < value < 1:
            raise UsageError(f"{name} is {value:g}; expected a fraction between 0 and 1, such as {example}.")
    if out is not None:
        if out.suffix.lower() not in (".md", ".json"):
            raise UsageError(f"--out is {out}; expected a name that ends in .md (report) or .json (numbers).")
        refuse_existing(out, "choose another name with --out")
    comparison = compare(
        load_predictions(first),
        load_predictions(second),
        load_checklist(spec),
        log=Log(looks, time, patient_key(patients)),
        margin=margin,
        level=level,
    )
    if out is not None:
        as_json = json.dumps(comparison.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        page = compare_page.markdown(comparison) if out.suffix.lower() == ".md" else as_json
        write_atomically(out, page.encode())
    emit(comparison.to_json(), lambda console: compare_page.terminal(comparison, console), format, quiet)
    if out is not None:
        tell(f"Comparison: {out}.", quiet)
    return comparison.exit_code
