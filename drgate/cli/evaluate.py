"""`drgate evaluate`: judge a model or a table of predictions by a checklist."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drgate.cli.options import (
    BaseOption,
    BatchOption,
    ChecklistOption,
    ColumnsOption,
    DataOption,
    FormatOption,
    GraderOption,
    KeyOption,
    LooksOption,
    LookTimeOption,
    LoraAlphaOption,
    PatientKeyOption,
    PrecisionOption,
    PreprocessOption,
    PublicKeyOption,
    QuietOption,
    ScorerKeyOption,
    ScoresOption,
    SignCommandOption,
    SplitOption,
    TrainOption,
    WorkersOption,
    column_map,
    key_for_later,
    patient_key,
    preprocessing,
    signing_key,
    torch_precision,
)
from drgate.screen import Format, emit, progress, tell

if TYPE_CHECKING:
    from drgate.checklist import Checklist
    from drgate.given import Problems
    from drgate.judge import Evidence, Output, Source, Test

HELP = """Judge a model, or a table of predictions, by a checklist.

Writes a folder with the report (report.html, report.md, junit.xml), the results (evaluation.json, statement.json), the
predictions (predictions.parquet, predictions.scored.json if their scorer signed them), the audit of the test set
(audit.json) and, with --key, the signed certificate (certificate.json). These files name an image by the first 16 hex
digits of its SHA-256 (row-N where the table has none) and number the patients; names.csv leads back to your names, so
do not publish it (the folder's .gitignore lists it).

Exit code 0 PASS, 1 FAIL, 2 could not be judged, 3 INSUFFICIENT or OBSERVED. OBSERVED with a checklist that only tries a
pipeline, such as smoke, is 0.

While a model scores, its test set is audited: against its own other splits, further training data (--train) and the
model's fingerprint. A leak is FAIL: no answer is judged, and no look is taken.

Each model that is evaluated takes one look at the test images. The look is logged before any result is computed. The
checklist limits how many looks are allowed. Keep the log under version control. The log contains the reference grades:
store it only where readers may see them.

A table names the model that scored it, but anybody could have written that. If the scorer signed the table (drgate
score --key), give the scorer's public key with --scorer-key. Otherwise the certificate says that the images were scored
elsewhere, and neither export nor the gate accepts it. Cut-offs (--operating-point) become a file of the model: keep
them beside it.

In another precision than fp32 (--precision), a network of torch is first held against fp32 on 64 images, without their
grades; where a probability changes by more than 0.05, it is refused before the look (exit code 2).

--dry-run reads and checks everything without a look, and names all that is wrong: exit code 0 the evaluation can run, 1
tables or fingerprint show a leak, 2 it would be refused. Of a model it grades four images.

\b
Examples:
  drgate evaluate best_model.pth --data labels.csv --dry-run
  drgate evaluate runs/first/best_model.pth --data eyepacs --split test
  drgate evaluate best_model.pth --data labels.csv --key keys/clinical.pem --out reports/release-3
  drgate evaluate predictions.csv --spec mine.yaml --record history.csv --format json
  drgate evaluate scored.parquet --grades grades.csv --scorer-key keys/scoring.pub
"""


class Interval(StrEnum):
    clopper_pearson = "clopper-pearson"
    wilson = "wilson"


def command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Model (checkpoint, ONNX, safetensors, or a folder; docs/models.md), table of predictions (CSV, "
            "Excel, JSON, Parquet; docs/tables.md), or folder of an evaluation or a bundle.",
        ),
    ],
    data: DataOption = None,
    split: SplitOption = "test",
    train: TrainOption = None,
    audit: Annotated[
        Path | None,
        typer.Option(
            "--audit",
            metavar="DIR|FILE",
            help="For a table of predictions: what drgate audit --out wrote of its images.",
        ),
    ] = None,
    spec: ChecklistOption = "medical-grade",
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="PREDICTIONS",
            help="Predictions of the model to compare with, on the same images; for criteria on the baseline.",
        ),
    ] = None,
    base: BaseOption = None,
    preprocess: PreprocessOption = None,
    lora_alpha: LoraAlphaOption = None,
    grader: GraderOption = None,
    precision: PrecisionOption = None,
    batch: BatchOption = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record",
            metavar="RUN_DIR|FILE",
            help="Training record of a model that has none inside: its run folder, or its history as CSV or JSON.",
        ),
    ] = None,
    selected_epoch: Annotated[
        int | None,
        typer.Option(
            "--selected-epoch", metavar="N", min=0, help="Epoch of that history from which the model was taken."
        ),
    ] = None,
    grades: Annotated[
        Path | None,
        typer.Option("--grades", metavar="FILE", help="Reference grades, for a table of predictions that has none."),
    ] = None,
    columns: ColumnsOption = None,
    scores: ScoresOption = None,
    operating_point: Annotated[
        Path | None,
        typer.Option(
            "--operating-point",
            metavar="FILE",
            help="Cut-offs that drgate tune wrote, chosen on images of other patients.",
        ),
    ] = None,
    scorer_key: ScorerKeyOption = None,
    interval: Annotated[
        Interval | None,
        typer.Option(
            "--interval",
            help="Kind of interval shown in the terminal only; everything else uses the checklist's.",
        ),
    ] = None,
    looks: LooksOption = None,
    time: LookTimeOption = None,
    patients: PatientKeyOption = None,
    previous: Annotated[
        Path | None,
        typer.Option(
            "--previous", metavar="CERTIFICATE", help="Earlier certificate; the report states what changed since."
        ),
    ] = None,
    key: KeyOption = None,
    sign_command: SignCommandOption = None,
    public_key: PublicKeyOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write. [reports/<model>-<digest>-<test set>]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that holds another evaluation.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Read and check everything, and say what the evaluation would be. Takes no look, writes nothing.",
        ),
    ] = False,
    workers: WorkersOption = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.certificate.keys import load_public_key
    from drgate.checklist import load_checklist
    from drgate.errors import UsageError
    from drgate.given import Problems, at_once
    from drgate.judge import Evidence, Output, Source, Test, judge, own_names, shown_with
    from drgate.report.evaluation import terminal

    problems = Problems()
    of = problems.of if dry_run else at_once
    opening = signing_key if grader is None else key_for_later
    private = of(lambda: opening(key, sign_command, public_key))
    if interval is not None and private is not None:
        raise UsageError(
            "--interval only changes what is printed, and --key (or DRGATE_KEY) signs the checklist's own intervals; "
            "give one of them."
        )
    checklist = of(lambda: load_checklist(spec))
    scorers = of(lambda: [load_public_key(path) for path in scorer_key or ()]) or []
    stated = of(lambda: preprocessing(preprocess))
    asked = Source(source, base, workers, scorers, stated, lora_alpha, grader, torch_precision(precision), batch)
    mapping = of(lambda: column_map(columns, scores))
    test = Test(data, split, grades, looks, time, of(lambda: patient_key(patients)))
    test = replace(test, train=train or (), audit=audit)
    if mapping is not None:
        test = replace(test, columns=mapping)
    evidence = Evidence(record, selected_epoch, baseline, previous, operating_point)
    output = Output(out, private, force)
    if dry_run:
        return _dry_run(asked, checklist, test, evidence, output, problems, format, quiet)
    assert checklist is not None, "`at_once` raises"
    with progress("Scoring", quiet) as scoring:
        judgement = judge(asked, checklist, test=test, evidence=evidence, output=output, progress=scoring)
    evaluation = judgement.evaluation
    shown = evaluation if interval is None else shown_with(judgement, interval.value)
    emit(shown.to_json(), lambda console: terminal.render(shown, console, own_names(judgement.folder)), format, quiet)
    if interval is not None:
        tell(
            f"Shown with {interval.value} intervals. By the checklist's own the verdict is {evaluation.verdict}.",
            quiet,
        )
    look = evaluation.look
    allowed = f"{'; only' if look.used_up else ' of'} {look.allowed} allowed"
    elsewhere = looks is not None and judgement.looks is not None and judgement.looks.resolve() != looks.resolve()
    copy = f", where it was taken before. It is not in {looks}: copy the file if you need it there" if elsewhere else ""
    if evaluation.leaks:
        tell("No look was taken: the audit found a leak, so no answer was set beside a grade.", quiet)
    else:
        tell(f"Look {look.number}{allowed} at these images, logged in {judgement.looks}{copy}.", quiet)
    signature = "signed" if judgement.signed else "not signed (no --key): export and gate do not accept it"
    if evaluation.model.scoring and evaluation.model.scoring.by == "elsewhere":
        tell(
            "Nothing proves that this model gave these answers, so export and gate do not accept them: have the scorer "
            "sign the table (drgate score --key) and give --scorer-key, or evaluate the model itself.",
            quiet,
        )
    tell(f"Report: {judgement.folder / 'report.html'}; certificate {signature}.", quiet)
    if judgement.signed and evaluation.verdict == "PASS" and Path("drgate.toml").is_file():
        import shlex

        from drgate import limits
        from drgate.errors import PolicyError
        from drgate.files import read_limited
        from drgate.gate.adopt import KnownSet

        words = ["drgate", "submit", str(judgement.folder), "--model", str(source)]
        policy = read_limited(Path("drgate.toml"), limits.TOML_BYTES, "a policy", PolicyError)
        if b"test_sets" not in policy:  # this one is to be stated
            words += ["--test-set", KnownSet(evaluation.data.name, "").plain]
        tell(f"Next: {shlex.join(words)}", quiet)
    return evaluation.exit_code


def _dry_run(
    source: Source,
    checklist: Checklist | None,
    test: Test,
    evidence: Evidence,
    output: Output,
    problems: Problems,
    format: Format,
    quiet: bool,
) -> int:
    """Exit code 0 where the evaluation could run, 2 where it would be refused, with all that is wrong."""
    from drgate.checklist import load_checklist
    from drgate.cli import dry_run as page
    from drgate.dry_run import dry_run
    from drgate.errors import ExitCode
    from drgate.screen import complain

    # Without a checklist the other arguments are checked all the same, by one that asks for nothing.
    found = dry_run(
        source, checklist or load_checklist("smoke"), test=test, evidence=evidence, output=output, problems=problems
    )
    if found is not None and not problems.found:
        emit(found.to_json(), lambda console: page.terminal(found, console), format, quiet)
        return ExitCode.FAILED if found.leak else ExitCode.PASSED
    if format is Format.json:
        emit({"status": "refused", "problems": list(map(str, problems.found))}, lambda _: None, format)
    for problem in problems.found:
        complain("drgate", str(problem))
    many = "1 problem" if len(problems.found) == 1 else f"{len(problems.found)} problems"
    tell(f"The evaluation would be refused ({many}). No look was taken.", quiet)
    return ExitCode.REFUSED
