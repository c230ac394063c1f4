"""`drgate score`: predictions of a model for images, with or without reference grades."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Final

import typer

from drgate.cli.options import (
    BaseOption,
    BatchOption,
    ColumnsOption,
    DataOption,
    FormatOption,
    GraderOption,
    LoraAlphaOption,
    PatientKeyOption,
    PrecisionOption,
    PreprocessOption,
    PublicKeyOption,
    QuietOption,
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
from drgate.screen import Format, emit, progress

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN: Final = (
    "name",
    "kind",
    "tensor_digest",
    "output",
    "class_names",
    "providers",
    "precision",
    "batch",
    "parity",
)

HELP = """Score images with a model. Writes a table of predictions that records the digests of the model and the images.

The table has your own names of images and patients. To publish predictions, take predictions.parquet from the folder of
an evaluation.

Reference grades are not needed: a folder of images is enough. If the manifest has grades, drgate evaluate judges the
table as it would judge the model, if it gets the run folder with --record. If somebody else holds the grades, they
judge it with: drgate evaluate PREDICTIONS --grades FILE --record RUN_DIR

In another precision than fp32 (--precision), a network of torch is first held against fp32 on 64 images, without their
grades; where a probability changes by more than 0.05, nothing is scored (exit code 2).

Parquet records the model. A CSV (--out NAME.csv) has the same rows, but names no model: judged, it certifies a table.

The set is audited in the same pass: against its own other splits, further training data (--train) and the model's
fingerprint. Where test images or patients were in training, nothing is written (exit code 1).

With --key, TABLE.scored.json is written beside the table. It is the signed statement that this model gave these answers
for these images. Whoever evaluates the table and trusts the key (--scorer-key) then certifies the model. Without it,
the certificate says that the images were scored elsewhere, and neither export nor the gate accepts it.

\b
Examples:
  drgate score best_model.pth --data site-a --out predictions.parquet
  drgate score best_model.pth --data site-a --out predictions.parquet --key keys/scoring.pem
"""


def command(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Model: file, folder or bundle (docs/models.md).")],
    out: Annotated[Path, typer.Option("--out", metavar="PREDICTIONS", help="File to write: .parquet, or .csv.")],
    data: DataOption = None,
    split: SplitOption = "test",
    train: TrainOption = None,
    columns: ColumnsOption = None,
    base: BaseOption = None,
    preprocess: PreprocessOption = None,
    lora_alpha: LoraAlphaOption = None,
    grader: GraderOption = None,
    precision: PrecisionOption = None,
    batch: BatchOption = None,
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
    from drgate.audited import Against
    from drgate.certificate.scored import beside, sign_scored
    from drgate.errors import CertificateError, UsageError
    from drgate.evaluation import Model, read_as
    from drgate.files import refuse_existing
    from drgate.given import model_in
    from drgate.looks import current_time
    from drgate.predictions import write_predictions
    from drgate.report import words
    from drgate.score import model_and_test_set, score

    bare = out.suffix.lower() == ".csv"
    if not bare and out.suffix.lower() not in (".parquet", ".pq"):
        raise UsageError(f"--out is {out}; give a name that ends in .parquet, or in .csv for a table to look at.")
    if bare and (key or sign_command):
        raise UsageError(f"--out is {out}, and a CSV names no model, so nothing can be signed; write .parquet.")
    for file in (out, beside(out)):  # a signature that was there would be of another table
        refuse_existing(file, "choose another name with --out")
    opening = signing_key if grader is None else key_for_later
    later = opening(key, sign_command, public_key)
    people, mapping = patient_key(patients), column_map(columns)
    loaded, manifest, training = model_and_test_set(
        model_in(source),
        data,
        split,
        base,
        preprocess=preprocessing(preprocess),
        lora_alpha=lora_alpha,
        python=grader,
        columns=mapping,
        train=train or (),
        precision=torch_precision(precision),
    )
    began = monotonic()
    with progress("Scoring", quiet) as (started, advance):
        started(len(manifest))
        predictions = score(
            loaded,
            manifest,
            workers=workers,
            advance=advance,
            against=Against(training, people, declared=bool(train)),
            batch=batch,
        )
    seconds = (monotonic() - began) / len(predictions)
    # The manifest has the same order.
    predictions = replace(predictions, table=predictions.table.assign(patient=manifest.patients_to_write()))
    write_predictions(predictions, out)
    private = None
    if later is not None:
        try:
            private = later() if callable(later) else later
            sign_scored(predictions, private, current_time()).write(beside(out))
        except CertificateError as problem:  # hours of scoring are not thrown away
            raise CertificateError(f"{problem} {out} is written without a signature.") from problem
    model, prepared = predictions.provenance["model"], predictions.provenance.get("preprocessing")
    scored = words.scored(read_as(Model, {**model, "scoring": {"by": "this run"}}, str(out), expected="a record"))
    silent = int((~predictions.answered).sum())
    summary = {
        "predictions": str(out),
        "digest": predictions.digest,
        "images": len(predictions),
        "no_output": silent,
        "answers": predictions.counts(),
        "model": {name: model.get(name) for name in _SHOWN},
        "preprocessing": None if prepared is None else {name: prepared[name] for name in ("name", "digest")},
        "seconds_an_image": round(seconds, 4),
    }

    def human(console: Console) -> None:
        classes = f", classes in the order {', '.join(model['class_names'])}" if "class_names" in model else ""
        lines = [
            f"{len(predictions)} images scored with {model['name']} ({model['kind']}), {silent} without output; "
            f"{1000 * seconds:.0f} ms an image.",
            f"Outputs: {model['output'].replace('_', ' ')}{classes}.",
            "Preprocessing: the grader's own."
            if prepared is None
            else f"Preprocessing: {prepared['name']} ({prepared['digest'][:15]}).",
            *(f"{label}: {text}." for label, text in scored),
            f"Answers: {words.counts(predictions.counts())}.",
            f"Written: {out}{'' if private is None else f', signed in {beside(out)}'}.",
        ]
        if bare:
            lines.append("A CSV names no model: judged, it certifies a table only. Write .parquet for a certificate.")
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    emit(summary | ({} if private is None else {"signed": str(beside(out))}), human, format, quiet)
    return 0
