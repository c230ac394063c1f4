"""`drgate score`: predictions of a model for images, with or without reference grades."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import (
    BaseOption,
    DataOption,
    FormatOption,
    GraderOption,
    LoraAlphaOption,
    PatientKeyOption,
    PreprocessOption,
    PublicKeyOption,
    QuietOption,
    SignCommandOption,
    SplitOption,
    WorkersOption,
    patient_key,
    preprocessing,
    signing_key,
)
from drgate.screen import Format, emit, progress, tell

HELP = """Score images with a model. Writes a table of predictions that records the digests of the model and the images.

The table has your own names of images and patients. To publish predictions, take predictions.parquet from the folder of
an evaluation.

Reference grades are not needed: a folder of images is enough. If the manifest has grades, drgate evaluate judges the
table as it would judge the model, if it gets the run folder with --record. If somebody else holds the grades, they
judge it with: drgate evaluate PREDICTIONS --grades FILE --record RUN_DIR

With --key, TABLE.scored.json is written beside the table. It is the signed statement that this model gave these answers
for these images. Whoever evaluates the table and trusts the key (--scorer-key) then certifies the model. Without it,
the certificate says that the images were scored elsewhere, and neither export nor the gate accepts it.

\b
Examples:
  drgate score best_model.pth --data site-a --out predictions.parquet
  drgate score best_model.pth --data site-a --out predictions.parquet --key keys/scoring.pem
"""


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Checkpoint (*.pth) or ONNX model.")],
    out: Annotated[Path, typer.Option("--out", metavar="PREDICTIONS", help="Parquet file to write.")],
    data: DataOption = None,
    split: SplitOption = "test",
    base: BaseOption = None,
    preprocess: PreprocessOption = None,
    lora_alpha: LoraAlphaOption = None,
    grader: GraderOption = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="KEY",
            envvar="DRGATE_KEY",
            show_envvar=True,
            help="Private key that signs the table (TABLE.scored.json).",
        ),
    ] = None,
    sign_command: SignCommandOption = None,
    public_key: PublicKeyOption = None,
    workers: WorkersOption = None,
    patients: PatientKeyOption = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.certificate.scored import beside, sign_scored
    from drgate.errors import CertificateError, UsageError
    from drgate.files import refuse_existing
    from drgate.looks import current_time
    from drgate.predictions import write_predictions
    from drgate.score import model_and_test_set, score

    if out.suffix.lower() not in (".parquet", ".pq"):
        raise UsageError(
            f"--out is {out}; predictions that record their model are Parquet, so give a name that ends in .parquet."
        )
    for file in (out, beside(out)):  # a signature that was there would be of another table
        refuse_existing(file, "choose another name with --out")
    private = signing_key(key, sign_command, public_key)
    people = patient_key(patients)
    loaded, manifest = model_and_test_set(
        model, data, split, base, preprocess=preprocessing(preprocess), lora_alpha=lora_alpha, python=grader
    )
    with progress("Scoring", quiet) as (started, advance):
        started(len(manifest))
        predictions = score(loaded, manifest, workers=workers, advance=advance, patient_key=people)
    write_predictions(predictions, out)
    if private is not None:
        try:
            sign_scored(predictions, private, current_time()).write(beside(out))
        except CertificateError as problem:  # hours of scoring are not thrown away
            raise CertificateError(f"{problem} {out} is written without a signature.") from problem
    silent = int(predictions.as_grades["predicted"].isna().sum())
    summary = {"predictions": str(out), "digest": predictions.digest, "images": len(predictions), "no_output": silent}
    signature = "" if private is None else f", signed in {beside(out)}"
    emit(
        summary | ({} if private is None else {"signed": str(beside(out))}),
        lambda _: tell(f"{len(predictions)} images scored, {silent} without output: {out}{signature}", quiet),
        format,
        quiet,
    )
    return 0
