"""`drgate history`: which model passed which checklist, when, on which look, and who signed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import FormatOption, QuietOption, RevokedOption
from drgate.screen import Format, emit, tell

HELP = """List the certificates in a folder and its subfolders: model, checklist, verdict, date, look and signatures.

\b
Examples:
  drgate history certificates --key keys/clinical.pub
  drgate history certificates --out history.html
"""


def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of certificates.")],
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", metavar="PUB", help="Public key whose signature you trust; may be repeated."),
    ] = None,
    revoked: RevokedOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Also write an HTML page with the trend of every criterion."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file given with --out.")] = False,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.certificate.keys import load_public_key
    from drgate.certificate.trust import NOTHING_REVOKED, load_revocations
    from drgate.files import refuse_existing, write_atomically
    from drgate.history import read_history
    from drgate.report import history as history_page

    if out is not None and not force:
        refuse_existing(out, "choose another name with --out, or --force to replace it")
    history = read_history(
        folder,
        trusted=[load_public_key(path) for path in key or ()],
        revocations=NOTHING_REVOKED if revoked is None else load_revocations(revoked),
    )
    if out is not None:
        write_atomically(out, history_page.html(history).encode())
        tell(f"Wrote {out}.", quiet)
    emit(history.to_json(), lambda console: history_page.render(history, console), format, quiet)
    return 0
