"""`drgate verify`: is a certificate genuine, is it of this model, and does the evidence give the same numbers?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drgate.cli.options import (
    BaseOption,
    ColumnsOption,
    DataOption,
    FormatOption,
    MaxAgeOption,
    QuietOption,
    RevokedOption,
    ScorerKeyOption,
    WorkersOption,
    column_map,
)
from drgate.screen import Format, emit, progress

if TYPE_CHECKING:
    from rich.console import Console

    from drgate.checklist import Checklist
    from drgate.verify import Verification

HELP = """Check a certificate: signature, age, model files, checklist, and all numbers, recomputed from the predictions.

Lists what was checked and what could not be checked. Exit code 0 genuine and PASS; 1 genuine and FAIL; 2 not genuine,
expired, revoked, or contradicted by a file that you gave; 3 INSUFFICIENT, OBSERVED, unsigned, no trusted key given, a
file of the model is missing or renamed, or the images were scored elsewhere (by somebody whose signature is not
verified: --scorer-key). A genuine OBSERVED with a checklist that only tries a pipeline, such as smoke, is 0.

--model takes the model's file or its folder. Every certified file, such as weights, preprocessing and cut-offs, must
lie beside the model under its own name, or be given with a further --model.

\b
Examples:
  drgate verify reports/release-3/certificate.json --key keys/clinical.pub --model best_model.pth
  drgate verify certificate.json --key keys/clinical.pub --looks looks/site-a.jsonl --revoked keys/revoked.txt
  drgate verify certificate.json --key keys/clinical.pub --deep --model best_model.pth --data site-a
"""


def command(
    certificate: Annotated[
        Path, typer.Argument(metavar="CERTIFICATE", help="certificate.json, statement.json, or their folder.")
    ],
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", metavar="PUB", help="Public key whose signature you trust; may be repeated."),
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            metavar="FILE|DIR",
            help="Model that the certificate must be of, with its other files beside it; may be repeated.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            help="Predictions that the numbers are recomputed from. [the matching table beside the certificate]",
        ),
    ] = None,
    checklist: Annotated[
        str | None,
        typer.Option("--spec", metavar="NAME|FILE", help="Checklist that the model must have been judged by."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="Predictions that its baseline criterion was judged with."),
    ] = None,
    parent: Annotated[
        Path | None,
        typer.Option("--parent", metavar="FILE", help="Earlier certificate that it names, such as the checkpoint's."),
    ] = None,
    looks: Annotated[
        Path | None, typer.Option("--looks", metavar="FILE", help="Log of looks that must contain its look.")
    ] = None,
    scorer_key: ScorerKeyOption = None,
    revoked: RevokedOption = None,
    max_age_days: MaxAgeOption = None,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Also score the images again and compare. Needs --model, --data and the extra `models`.",
        ),
    ] = False,
    data: DataOption = None,
    columns: ColumnsOption = None,
    base: BaseOption = None,
    workers: WorkersOption = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.certificate.keys import load_public_key
    from drgate.certificate.trust import load_revocations
    from drgate.errors import UsageError
    from drgate.given import certificate_in, table_in
    from drgate.verify import Given, Rescoring, Trust, verify

    if deep and data is None:
        raise UsageError("--deep scores the model again, which needs the images; give them with --data MANIFEST.")
    mapping = column_map(columns)
    if not deep and (data is not None or base is not None or columns is not None):
        raise UsageError(
            "--data, --base and --columns are only used when the model is scored again; add --deep, or leave them out."
        )

    def verified(rescoring: Rescoring | None = None) -> Verification:
        return verify(
            certificate_in(certificate),
            Trust(
                [load_public_key(path) for path in key or ()],
                None if revoked is None else load_revocations(revoked),
                max_age_days,
                scorers=[load_public_key(path) for path in scorer_key or ()],
            ),
            Given(
                models=model or (),
                predictions=None if predictions is None else table_in(predictions),
                checklist=None if checklist is None else _checklist(checklist),
                baseline=None if baseline is None else table_in(baseline),
                parent=None if parent is None else certificate_in(parent),
                looks=looks,
            ),
            deep=rescoring,
        )

    if data is None:
        result = verified()
    else:
        with progress("Scoring again", quiet) as scoring:
            result = verified(Rescoring(data, base, workers, scoring, mapping))
    emit(result.to_json(), lambda console: show(result, console), format, quiet)
    return result.exit_code


def _checklist(given: str) -> Checklist:
    from drgate.checklist import load_checklist  # a tenth of a second to import, needed with --spec only

    return load_checklist(given)


def show(result: Verification, console: Console) -> None:
    """Headline, then what was checked, what could not be checked, what contradicts the certificate; then the result."""
    from rich.table import Table
    from rich.text import Text

    console.print(f"The certificate states: {result.headline}", markup=False, highlight=False, style="bold")
    console.print("ok: confirmed, --: not checked, NO: contradicted.", markup=False, highlight=False)
    found = Table.grid(padding=(0, 1))
    for sign, style, sentences in (
        ("ok", "green", result.checked),
        ("--", "yellow", result.unchecked),
        ("NO", "bold red", result.problems),
    ):
        for sentence in sentences:
            found.add_row(Text(f" {sign}", style=style), Text(sentence, overflow="fold"))
    console.print(found)
    if result.problems:
        checks = "1 check" if len(result.problems) == 1 else f"{len(result.problems)} checks"
        closing = f"Not accepted: {checks} failed (marked NO). Do not rely on this certificate."
    elif not result.trusted:
        why = "no trusted key was given" if result.signed else "it is unsigned"
        closing = f"Not confirmed: {why}. Verdict {result.verdict}"
    elif result.missing:
        closing = f"Not confirmed: files of the model are missing or renamed. Verdict {result.verdict}"
    elif result.unproved:
        closing = f"Not confirmed: it is not shown that the model gave these answers. Verdict {result.verdict}"
    else:
        closing = f"Genuine, signed by a trusted key. Verdict {result.verdict}"
    console.print(closing, markup=False, highlight=False, style="bold")
