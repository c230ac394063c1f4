"""`drgate sign`: add a signature to a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drgate.cli.options import (
    FormatOption,
    KeyOption,
    PublicKeyOption,
    QuietOption,
    RevokedOption,
    ScorerKeyOption,
    SignCommandOption,
    required_key,
)
from drgate.screen import Format, emit, tell

if TYPE_CHECKING:
    from rich.console import Console

HELP = """Add a signature to a certificate, after showing what is signed.

Shows the report, taken from the bytes to be signed, and what was checked; then asks for confirmation, unless --yes is
given. Writes the same statement, signed with this key. The new file is written beside the old one, such as
best_model.clinical.certificate.json. A statement that is contradicted, expired or revoked is not signed. The role is
only part of the file name; the gate's policy decides which role a key has.

\b
Example:
  drgate sign reports/release-3/certificate.json --role clinical --key keys/clinical.pem --trusted-key keys/ml.pub
"""


def command(
    certificate: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="certificate.json or statement.json.")],
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="Your role, for the name of the new file.")],
    key: KeyOption = None,
    sign_command: SignCommandOption = None,
    public_key: PublicKeyOption = None,
    trusted_key: Annotated[
        list[Path] | None,
        typer.Option(
            "--trusted-key",
            metavar="PUB",
            help="Public key that must have signed it already.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            help="Predictions to check it against. [the matching table beside the certificate]",
        ),
    ] = None,
    scorer_key: ScorerKeyOption = None,
    revoked: RevokedOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking; the report is still shown.")] = False,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    import sys

    from drgate.certificate.keys import load_public_key
    from drgate.certificate.sign import countersign, countersignature
    from drgate.certificate.statement import Certificate, read_certificate, refuse_other_checklist
    from drgate.certificate.trust import load_revocations
    from drgate.cli.verify import show
    from drgate.errors import CertificateError, ExitCode, UsageError
    from drgate.files import write_atomically
    from drgate.given import certificate_in
    from drgate.report.evaluation import terminal
    from drgate.screen import console
    from drgate.verify import Given, Trust, verify

    signer = required_key(key, sign_command, public_key)
    certificate = certificate_in(certificate)
    read = read_certificate(certificate)  # once: what is shown is what is signed, even if the file changes
    statement = read.statement
    refuse_other_checklist(statement.evaluation, str(certificate))
    target = countersignature(certificate, role, statement)
    if not yes and not sys.stdin.isatty():
        raise UsageError("Not an interactive terminal. Review the report (drgate report), then sign with --yes.")
    found = verify(
        certificate,
        Trust(
            [load_public_key(path) for path in trusted_key or ()],
            None if revoked is None else load_revocations(revoked),
            scorers=[load_public_key(path) for path in scorer_key or ()],
        ),
        Given(predictions=predictions),
        read=read,
    )

    if isinstance(read, Certificate) and not trusted_key:
        tell("No trusted key was given (--trusted-key), so the signature that it has is not verified.", quiet)

    def page(screen: Console) -> None:
        terminal.signing_page(statement.evaluation, screen)
        screen.print()
        show(found, screen)

    page(console(sys.stderr))
    if found.problems:
        raise CertificateError(f"{certificate} was not signed: {found.problems[0]}")
    if not yes and not typer.confirm(f"Sign this as {role}, with key {signer.public.id[:16]}?", err=True):
        tell("Not signed; nothing was written.", quiet)
        return ExitCode.INTERRUPTED
    write_atomically(target, countersign(read, signer))
    emit(
        {"certificate": str(target), "role": role, "keyid": signer.public.id},
        lambda _: tell(f"Signed with key {signer.public.id[:16]}: {target}", quiet),
        format,
        quiet,
    )
    return 0
