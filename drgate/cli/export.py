"""`drgate export`: turn a certified model into an ONNX bundle, and judge the exported model again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import (
    BaseOption,
    ChecklistOption,
    ColumnsOption,
    DataOption,
    FormatOption,
    KeyOption,
    LoraAlphaOption,
    PreprocessOption,
    PublicKeyOption,
    QuietOption,
    RevokedOption,
    ScorerKeyOption,
    SignCommandOption,
    SplitOption,
    WorkersOption,
    column_map,
    preprocessing,
    quality_rule,
    signing_key,
)
from drgate.screen import Format, emit, progress, tell

HELP = """Export a certified model as an ONNX bundle. The exported model is scored and judged again.

Needs a certificate of this very file, with the verdict PASS, signed by a key that you trust (--trusted-key, or your own
--key). The evaluation must have scored the model itself, or a scorer that you trust (--scorer-key) signed the table.
--allow accepts more. Exit code 0 exported; 1 or 3 the certificate or the exported model does not pass (1 failed, 3 not
enough evidence); 2 a file cannot be read, or the certificate is of another model or checklist.

\b
Example:
  drgate export best_model.pth --certificate reports/release-3 --data eyepacs \\
                --key keys/clinical.pem --out bundle
  drgate export best_model.pth --certificate reports/release-3 --data eyepacs \\
                --key keys/clinical.pem --precision int8 --calibration eyepacs:train \\
                --out bundle-int8
"""


class ExportPrecision(StrEnum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


CLEARLY = 1.2
"""Times as long as fp32, from which an export says so: less is within what the same file takes from run to run."""


class Allow(StrEnum):
    observed = "observed"
    scored_elsewhere = "scored_elsewhere"


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model that was certified: a file or a folder.")],
    certificate: Annotated[
        Path, typer.Option("--certificate", metavar="FILE", help="Its certificate, or the folder of its evaluation.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to create for the bundle.")],
    data: DataOption = None,
    split: SplitOption = "test",
    columns: ColumnsOption = None,
    spec: ChecklistOption = "medical-grade",
    base: BaseOption = None,
    preprocess: PreprocessOption = None,
    lora_alpha: LoraAlphaOption = None,
    key: KeyOption = None,
    sign_command: SignCommandOption = None,
    public_key: PublicKeyOption = None,
    trusted_key: Annotated[
        list[Path] | None,
        typer.Option("--trusted-key", metavar="PUB", help="Public key whose signature you trust; may be repeated."),
    ] = None,
    revoked: RevokedOption = None,
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="Accept an unsigned statement. The bundle is then unsigned too.")
    ] = False,
    scorer_key: ScorerKeyOption = None,
    allow: Annotated[
        list[Allow] | None,
        typer.Option(
            "--allow",
            help="Also accept a verdict OBSERVED, or a model of which nothing proves that it gave the answers; may be "
            "repeated.",
        ),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            "--quality",
            metavar="drgate|FILE",
            help="Rule of image quality, judged with the model: what it refuses gets no grade, from the bundle too. "
            "drgate is the rule of docs/audit.md; a file has other limits.",
        ),
    ] = None,
    precision: Annotated[
        ExportPrecision,
        typer.Option(
            "--precision",
            help="Numbers that the ONNX file computes with. Each is judged on its own; docs/deployment.md says which "
            "are worth it.",
        ),
    ] = ExportPrecision.fp32,
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration",
            metavar="MANIFEST[:SPLIT]",
            help="For int8: photographs, none of the test set, that decide how numbers are rounded; 128 at most are "
            "used. The split train, unless another is named.",
        ),
    ] = None,
    workers: WorkersOption = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.calibration import Calibrating, refuse_mismatch
    from drgate.certificate.keys import load_public_key
    from drgate.certificate.statement import read_certificate
    from drgate.certificate.trust import load_revocations
    from drgate.checklist import load_checklist
    from drgate.errors import UsageError
    from drgate.files import refuse_existing
    from drgate.given import certificate_in, model_in
    from drgate.judge import Source, Test
    from drgate.manifest import load_manifest
    from drgate.models import find_model, refuse_no_base
    from drgate.report.evaluation import terminal
    from drgate.verify import Trust

    if data is None:
        raise UsageError("The exported model is judged again, which needs the test set; give it with --data MANIFEST.")
    refuse_mismatch(precision.value, calibration)
    signer = signing_key(key, sign_command, public_key)
    trusted = [load_public_key(path) for path in trusted_key or ()] + ([] if signer is None else [signer.public])
    # What can be refused in a moment is, before torch is imported, which takes seconds.
    refuse_existing(out, "give a new folder with --out")
    certificate, model = certificate_in(certificate), model_in(model)
    read_certificate(certificate)
    checklist, stated, rule = load_checklist(spec), preprocessing(preprocess), quality_rule(quality)
    find_model(model)
    if base is not None:
        refuse_no_base(base)
    test = Test(data, split, columns=column_map(columns))
    load_manifest(data, files=False, columns=test.columns)
    photographs = None if calibration is None else Calibrating.of(calibration, split)
    if photographs is not None:
        load_manifest(photographs.data, files=False, columns=test.columns)
    from drgate.export import export

    with progress("Scoring the exported model", quiet) as scoring:
        bundle = export(
            Source(model, base, workers, preprocess=stated, lora_alpha=lora_alpha),
            certificate,
            checklist,
            out,
            test=test,
            trust=Trust(
                trusted,
                None if revoked is None else load_revocations(revoked),
                scorers=[load_public_key(path) for path in scorer_key or ()],
            ),
            key=signer,
            allow_unsigned=allow_unsigned,
            allow=[one.value for one in allow or ()],
            quality=rule,
            precision=precision.value,
            calibrated_on=photographs,
            progress=scoring,
        )
    evaluation = bundle.judgement.evaluation
    emit(evaluation.to_json(), lambda console: terminal.render(evaluation, console), format, quiet)
    tell(
        f"On {bundle.compared} images, the outputs of the file differ from those of the model here by at most "
        f"{bundle.largest_difference:.1e}. "
        + (
            f"Bundle: {bundle.folder}"
            if bundle.exported
            else f"Not exported. The report with the reasons: {bundle.folder}"
        ),
        quiet,
    )
    if bundle.seconds and (slower := bundle.seconds[1] / bundle.seconds[0]) > CLEARLY:
        tell(f"On this machine, {precision.value} took {slower:.1f} times as long as fp32.", quiet)
    return 0 if bundle.exported else evaluation.exit_code
