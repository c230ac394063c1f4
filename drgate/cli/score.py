"""`drgate score`: predictions of a model for images, with or without reference grades."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import BaseOption, DataOption, FormatOption, QuietOption, SplitOption, WorkersOption
from drgate.screen import Format, emit, progress, tell

HELP = """Score images with a model. Writes a table of predictions that records the digests of the model and the images.

The table has your own names of images and patients. To publish predictions, take predictions.parquet from the folder of
an evaluation.

Reference grades are not needed: a folder of images is enough. If the manifest has grades, drgate evaluate judges the
table as it would judge the model, if it gets the run folder with --record. If somebody else holds the grades, they
judge it with: drgate evaluate PREDICTIONS --grades FILE --record RUN_DIR

\b
Example:
  drgate score best_model.pth --data site-a --out predictions.parquet
"""


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Checkpoint (*.pth) or ONNX model.")],
    out: Annotated[Path, typer.Option("--out", metavar="PREDICTIONS", help="Parquet file to write.")],
    data: DataOption = None,
    split: SplitOption = "test",
    base: BaseOption = None,
    workers: WorkersOption = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.errors import UsageError
    from drgate.files import refuse_existing
    from drgate.predictions import write_predictions
    from drgate.score import model_and_test_set, score

    if out.suffix.lower() not in (".parquet", ".pq"):
        raise UsageError(
            f"--out is {out}; predictions that record their model are Parquet, so give a name that ends in .parquet."
        )
    refuse_existing(out, "choose another name with --out")
    grader, manifest = model_and_test_set(model, data, split, base)
    with progress("Scoring", quiet) as (started, advance):
        started(len(manifest))
        predictions = score(grader, manifest, workers=workers, advance=advance)
    write_predictions(predictions, out)
    silent = int(predictions.table["predicted"].isna().sum())
    summary = {"predictions": str(out), "digest": predictions.digest, "images": len(predictions), "no_output": silent}
    emit(
        summary,
        lambda _: tell(f"{len(predictions)} images scored, {silent} without output: {out}", quiet),
        format,
        quiet,
    )
    return 0
