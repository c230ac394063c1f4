"""`drgate evaluate`: judge a model or a table of predictions by a checklist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import (
    BaseOption,
    DataOption,
    Format,
    FormatOption,
    KeyOption,
    QuietOption,
    SpecOption,
    SplitOption,
    WorkersOption,
    emit,
    progress,
    signing_key,
    tell,
)  # fmt: skip

HELP = """Judge a model, or a table of predictions, by a checklist.

Writes a folder with evaluation.json, statement.json (certificate.json with --key), predictions.parquet, report.html,
report.md and junit.xml. Exit code 0 PASS, 1 FAIL, 3 not enough evidence, 2 could not be judged.

\b
Examples:
  drgate evaluate runs/first/best_model.pth --data eyepacs --split test
  drgate evaluate best_model.pth --data labels.csv --key keys/clinical.pem --out reports/release-3
  drgate evaluate predictions.csv --spec mine.yaml --format json
"""


def register(app: typer.Typer) -> None:
    app.command("evaluate", help=HELP)(command)


def command(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Checkpoint (*.pth), ONNX model or predictions table.")
    ],
    data: DataOption = None,
    split: SplitOption = "test",
    spec: SpecOption = "medical-grade",
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="PREDICTIONS", help="The best earlier run's, on the same images."),
    ] = None,
    base: BaseOption = None,
    record: Annotated[
        Path | None, typer.Option("--record", metavar="RUN_DIR", help="Run folder, where the model carries no record.")
    ] = None,
    looks: Annotated[
        Path | None, typer.Option("--looks", metavar="FILE", help="Chain of looks. [reports/looks/<test set>.jsonl]")
    ] = None,
    key: KeyOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write. [reports/<model>-<digest>-<test set>]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that holds something else.")] = False,
    workers: WorkersOption = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.judge import judge
    from drgate.report import terminal
    from drgate.spec import load_spec

    with progress("Scoring", quiet) as (started, advance):
        judgement = judge(
            source, spec=load_spec(spec), data=data, split=split, baseline=baseline, base=base, record=record,
            looks=looks, key=signing_key(key), out=out, force=force, workers=workers, started=started, advance=advance,
        )  # fmt: skip
    evaluation = judgement.evaluation
    emit(evaluation.to_json(), lambda console: terminal.render(evaluation, console), format, quiet)
    signature = "signed" if judgement.signed else "not signed (no --key): it opens neither export nor gate"
    tell(f"Report: {judgement.folder / 'report.html'}; certificate {signature}.", quiet)
    return evaluation.exit_code
