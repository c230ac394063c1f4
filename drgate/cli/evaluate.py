"""`drgate evaluate`: judge a model or a table of predictions by a checklist."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import (
    BaseOption,
    ChecklistOption,
    DataOption,
    FormatOption,
    KeyOption,
    PublicKeyOption,
    QuietOption,
    SignCommandOption,
    SplitOption,
    WorkersOption,
    signing_key,
)
from drgate.screen import Format, emit, progress, tell

HELP = """Judge a model, or a table of predictions, by a checklist.

Writes a folder with evaluation.json, statement.json (certificate.json with --key), predictions.parquet, report.html,
report.md and junit.xml. Exit code 0 PASS, 1 FAIL, 3 not enough evidence, 2 could not be judged.

Every look at test images counts, and is logged before a number is known. Keep the log under version control, where the
grades may be read.

\b
Examples:
  drgate evaluate runs/first/best_model.pth --data eyepacs --split test
  drgate evaluate best_model.pth --data labels.csv --key keys/clinical.pem --out reports/release-3
  drgate evaluate predictions.csv --spec mine.yaml --record history.csv --format json
  drgate evaluate scored.parquet --grades kept/grades.csv
"""


class Interval(StrEnum):
    clopper_pearson = "clopper-pearson"
    wilson = "wilson"


def register(app: typer.Typer) -> None:
    app.command("evaluate", help=HELP, short_help="Judge a model, or a table of predictions, by a checklist.")(command)


def command(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Checkpoint (*.pth), ONNX model or predictions table.")
    ],
    data: DataOption = None,
    split: SplitOption = "test",
    spec: ChecklistOption = "medical-grade",
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="PREDICTIONS", help="The best earlier run's, on the same images."),
    ] = None,
    base: BaseOption = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record",
            metavar="RUN_DIR|FILE",
            help="Where the model carries no record: its run folder, or a CSV or JSON of its history.",
        ),
    ] = None,
    selected_epoch: Annotated[
        int | None, typer.Option("--selected-epoch", metavar="N", min=0, help="Which epoch of that history was chosen.")
    ] = None,
    grades: Annotated[
        Path | None,
        typer.Option("--grades", metavar="FILE", help="Reference grades of a table that was scored without."),
    ] = None,
    operating_point: Annotated[
        Path | None,
        typer.Option("--operating-point", metavar="FILE", help="Cut-offs of drgate tune, tuned on other images."),
    ] = None,
    interval: Annotated[
        Interval | None,
        typer.Option("--interval", help="Show other bounds; folder, exit code and certificate keep the checklist's."),
    ] = None,
    looks: Annotated[
        Path | None, typer.Option("--looks", metavar="FILE", help="Chain of looks. [reports/looks/<test set>.jsonl]")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="UTC", help="Time of a new look, such as 2026-01-31T09:00:00Z. [now]"),
    ] = None,
    previous: Annotated[
        Path | None,
        typer.Option("--previous", metavar="CERTIFICATE", help="An earlier one: what changed against it is stated."),
    ] = None,
    key: KeyOption = None,
    sign_command: SignCommandOption = None,
    public_key: PublicKeyOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write. [reports/<model>-<digest>-<test set>]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that holds something else.")] = False,
    workers: WorkersOption = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.checklist import load_checklist
    from drgate.errors import UsageError
    from drgate.judge import Evidence, Output, Source, Test, judge, shown_with
    from drgate.report.evaluation import terminal

    private = signing_key(key, sign_command, public_key)
    if interval is not None and private is not None:
        raise UsageError("--interval only shows other bounds, and --key (or DRGATE_KEY) signs: give one of them.")
    with progress("Scoring", quiet) as scoring:
        judgement = judge(
            Source(source, base, workers),
            load_checklist(spec),
            test=Test(data, split, grades, looks, time),
            evidence=Evidence(record, selected_epoch, baseline, previous, operating_point),
            output=Output(out, private, force),
            progress=scoring,
        )
    evaluation = judgement.evaluation
    shown = evaluation if interval is None else shown_with(judgement, interval.value, baseline)
    emit(shown.to_json(), lambda console: terminal.render(shown, console), format, quiet)
    if interval is not None:
        tell(f"Shown with {interval.value} bounds; by the checklist's own it is {evaluation.verdict}.", quiet)
    look = evaluation.look
    tell(f"Look {look.number} of {look.allowed} at these images, logged in {judgement.looks}.", quiet)
    signature = "signed" if judgement.signed else "not signed (no --key): it opens neither export nor gate"
    tell(f"Report: {judgement.folder / 'report.html'}; certificate {signature}.", quiet)
    return evaluation.exit_code
