"""`drgate compare`: two models on the same images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drgate.cli.options import (
    BaseOption,
    ChecklistOption,
    ColumnsOption,
    DataOption,
    FormatOption,
    LooksOption,
    LookTimeOption,
    PatientKeyOption,
    PreprocessOption,
    QuietOption,
    ScoresOption,
    SplitOption,
    WorkersOption,
    column_map,
    patient_key,
    preprocessing,
)
from drgate.screen import Format, emit, progress, tell

if TYPE_CHECKING:
    from drgate.predictions import Predictions

HELP = """Compare two models on the same images: is A non-inferior to B in accuracy?

Every difference A - B is paired by image, and its interval allows for several images of one patient. If the tables name
no patients, the checklist declares how many images of one patient there are at most (declared). Exit code 0 A is
shown to be non-inferior to B at the margin, 1 A is shown to be worse by more than the margin, 2 the tables cannot be
compared, 3 neither is shown.

A and B are tables of predictions, or evaluations by their folder or any of its files. A model is scored on the images
of --data first; --base and --preprocess are for a model that needs them.

Each model takes one look at these images, logged before any number is computed, unless it was looked at before. The
checklist limits how many looks are allowed. To choose a model, compare on a validation split.

\b
Examples:
  drgate compare new.parquet best.parquet --margin 0.02 --out comparison.md
  drgate compare reports/release-4 reports/release-3
  drgate compare new.pth reports/release-3 --data labels.csv
"""


def command(
    first: Annotated[
        Path, typer.Argument(metavar="A", help="Predictions of the new model, its evaluation, or the model.")
    ],
    second: Annotated[
        Path,
        typer.Argument(metavar="B", help="Predictions of the model to compare with, on the same images; likewise."),
    ],
    margin: Annotated[
        float,
        typer.Option("--margin", help="Non-inferiority margin: how much lower the accuracy may be, as a fraction."),
    ] = 0.02,
    level: Annotated[float, typer.Option("--level", help="Confidence level of the intervals, two-sided.")] = 0.95,
    spec: ChecklistOption = "medical-grade",
    data: DataOption = None,
    split: SplitOption = "test",
    columns: ColumnsOption = None,
    scores: ScoresOption = None,
    base: BaseOption = None,
    preprocess: PreprocessOption = None,
    workers: WorkersOption = None,
    looks: LooksOption = None,
    time: LookTimeOption = None,
    patients: PatientKeyOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also write a report (.md) or the numbers (.json).")
    ] = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.audited import Against
    from drgate.checklist import load_checklist
    from drgate.compare import compare
    from drgate.errors import UsageError
    from drgate.files import refuse_existing, write_atomically
    from drgate.given import model_in, source_in
    from drgate.looks import Log
    from drgate.mapping import for_several, require_used
    from drgate.predictions import load_predictions
    from drgate.report import compare as compare_page
    from drgate.score import model_and_test_set, score

    for name, value, example in (("--margin", margin, "0.02"), ("--level", level, "0.95")):
        if not 0 < value < 1:
            raise UsageError(f"{name} is {value:g}; expected a fraction between 0 and 1, such as {example}.")
    if out is not None:
        if out.suffix.lower() not in (".md", ".json"):
            raise UsageError(f"--out is {out}; expected a name that ends in .md (report) or .json (numbers).")
        refuse_existing(out, "choose another name with --out")
    mapping = for_several(column_map(columns, scores))
    checklist, key, stated = load_checklist(spec), patient_key(patients), preprocessing(preprocess)
    sources = [source_in(path) for path in (first, second)]
    if data is None and None in sources:
        raise UsageError(
            f"{(first, second)[sources.index(None)]} is a model: give the images with --data MANIFEST, or score it "
            "first (drgate score)."
        )

    def answers(path: Path, table: Path | None) -> Predictions:
        if table is not None:
            return load_predictions(table, columns=mapping)
        assert data is not None, "it was asked for"
        model, manifest, training = model_and_test_set(
            model_in(path), data, split, base, preprocess=stated, columns=mapping
        )
        with progress(f"Scoring {path.name}", quiet) as (started, advance):
            started(len(manifest))
            scored = score(model, manifest, workers=workers, advance=advance, against=Against(training, key))
        return replace(scored, unused=manifest.unused, notes=(*manifest.mapped(), *scored.notes))

    new, old = (answers(path, table) for path, table in zip((first, second), sources, strict=True))
    require_used(mapping, {str(first): new.unused, str(second): old.unused})
    comparison = compare(
        new,
        old,
        checklist,
        log=Log(looks, time, key),
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
