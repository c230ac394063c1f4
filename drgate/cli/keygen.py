"""`drgate keygen`: create a key pair that signs certificates."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import FormatOption, QuietOption
from drgate.screen import Format, emit, tell

HELP = """Create a key pair: NAME.pem (private, with a passphrase, mode 0600) and NAME.pub (public, to verify with).

The passphrase is asked for or read from DRGATE_KEY_PASSPHRASE. Existing files are never overwritten.

\b
Example:
  drgate keygen --out keys/clinical
"""


def command(
    out: Annotated[Path, typer.Option("--out", metavar="NAME", help="Path of the two files, without a suffix.")],
    no_passphrase: Annotated[
        bool,
        typer.Option(
            "--no-passphrase", help="Do not encrypt the private key, for example because a secret store protects it."
        ),
    ] = False,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.certificate.keys import generate_key, load_public_key
    from drgate.errors import UsageError

    text = os.environ.get("DRGATE_KEY_PASSPHRASE")
    if not text and not no_passphrase:
        if not sys.stdin.isatty():
            raise UsageError("A passphrase is needed: set DRGATE_KEY_PASSPHRASE, or give --no-passphrase.")
        text = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    if out.suffix in (".pem", ".pub"):
        raise UsageError(f"{out} has a suffix; give the name without one, such as {out.stem}.")
    out.parent.mkdir(parents=True, exist_ok=True)
    private, public = generate_key(out, None if no_passphrase or not text else text.encode())
    summary = {"private": str(private), "public": str(public), "keyid": load_public_key(public).id}
    done = f"{private} signs; keep it secret. {public} verifies; share it. Key id {summary['keyid'][:16]}."
    emit(summary, lambda _: tell(done, quiet), format, quiet)
    return 0
