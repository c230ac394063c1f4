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

With --patients, create NAME.key instead (mode 0600): the patient key, by which test sets, training sets and logs of
looks recognise the same patient without naming anybody. Use one for all of them, and keep it where the patients' names
are kept: whoever has it can try names.

\b
Examples:
  drgate keygen --out keys/clinical
  drgate keygen --patients --out keys/patients
"""


def command(
    out: Annotated[Path, typer.Option("--out", metavar="NAME", help="Path of the files, without a suffix.")],
    no_passphrase: Annotated[
        bool,
        typer.Option(
            "--no-passphrase", help="Do not encrypt the private key, for example because a secret store protects it."
        ),
    ] = False,
    patients: Annotated[
        bool, typer.Option("--patients", help="Create a patient key instead of a key pair that signs.")
    ] = False,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.errors import UsageError

    if out.suffix in (".pem", ".pub", ".key"):
        raise UsageError(f"{out} has a suffix; give the name without one, such as {out.stem}.")
    if patients:
        return _patient_key(out.with_name(f"{out.name}.key"), no_passphrase, format, quiet)
    from drgate.certificate.keys import generate_key, load_public_key

    text = os.environ.get("DRGATE_KEY_PASSPHRASE")
    if not text and not no_passphrase:
        if not sys.stdin.isatty():
            raise UsageError("A passphrase is needed: set DRGATE_KEY_PASSPHRASE, or give --no-passphrase.")
        text = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    private, public = generate_key(out, None if no_passphrase or not text else text.encode())
    summary = {"private": str(private), "public": str(public), "keyid": load_public_key(public).id}
    done = f"{private} signs; keep it secret. {public} verifies; share it. Key id {summary['keyid'][:16]}."
    emit(summary, lambda _: tell(done, quiet), format, quiet)
    tell(
        f"To gate a repository by this key: drgate init --github --trusted-key {out.name}={public} --data TEST_SET "
        "--spec CHECKLIST --models PATTERN (or --gitlab; drgate spec list names checklists; models/*.pth if not given; "
        "without a test set yet, leave out --data)",
        quiet,
    )
    return 0


def _patient_key(path: Path, no_passphrase: bool, format: Format, quiet: bool) -> int:
    from drgate.errors import UsageError
    from drgate.patients import generate_patient_key

    if no_passphrase:
        raise UsageError("--no-passphrase belongs to a key that signs; a patient key has no passphrase. Leave it out.")
    summary = {"patient_key": str(path), "keyid": generate_patient_key(path).id}
    done = f"{path} is the patient key; keep it out of version control. Key id {summary['keyid']}."
    emit(summary, lambda _: tell(done, quiet), format, quiet)
    return 0
