"""`drgate verify`: is a certificate genuine, of this model, and does the evidence give the same numbers?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drgate.cli.options import Format, FormatOption, QuietOption, emit

if TYPE_CHECKING:
    from rich.console import Console

HELP = """Check a certificate: signature, model files, checklist, and every number recomputed from the predictions.

Exit code 0 genuine and PASS, 1 genuine and FAIL, 3 insufficient, unsigned or no trusted key given, 2 not genuine.

\b
Example:
  drgate verify reports/release-3/certificate.json --key keys/clinical.pub --model best_model.pth
"""


def register(app: typer.Typer) -> None:
    app.command("verify", help=HELP, short_help="Is a certificate genuine, and do the numbers recompute?")(command)


def command(
    certificate: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="certificate.json, or statement.json.")],
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", metavar="PUB", help="Public key that you trust (several times for several)."),
    ] = None,
    model: Annotated[
        list[Path] | None, typer.Option("--model", metavar="FILE", help="Model file that it must speak of.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", metavar="FILE", help="[predictions.parquet beside the certificate]")
    ] = None,
    spec: Annotated[
        str | None, typer.Option("--spec", metavar="NAME|FILE", help="Checklist that it must have been held against.")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="Predictions that its baseline line was judged by."),
    ] = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.keys import load_public_key
    from drgate.spec import load_spec
    from drgate.verify import verify

    result = verify(
        certificate,
        trusted=[load_public_key(path) for path in key or ()],
        models=model or (),
        predictions=predictions,
        spec=None if spec is None else load_spec(spec),
        baseline=baseline,
    )

    def human(console: Console) -> None:
        console.print(result.headline, markup=False, highlight=False, style="bold")
        for sign, style, sentences in (
            ("ok", "green", result.checked), ("--", "yellow", result.unchecked), ("NO", "bold red", result.problems),
        ):  # fmt: skip
            for sentence in sentences:
                console.print(f"  {sign}  ", style=style, end="", highlight=False)
                console.print(sentence, markup=False, highlight=False)
        if result.problems:
            closing = "NOT what it should be: do not rely on it, ask for the original"
        elif not result.trusted:
            closing = f"Not vouched for: unsigned, or no trusted key was given (--key). Verdict {result.verdict}"
        else:
            closing = f"Genuine, signed by a trusted key. Verdict {result.verdict}"
        console.print(closing, markup=False, highlight=False, style="bold")

    emit(result.to_json(), human, format, quiet)
    return result.exit_code
