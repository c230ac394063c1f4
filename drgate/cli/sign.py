"""`drgate sign`: a further signature under what somebody else certified."""

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
    SignCommandOption,
    signing_key,
)
from drgate.screen import Format, emit, tell

if TYPE_CHECKING:
    from rich.console import Console

HELP = """Put a further signature to a certificate, after showing what is signed.

Shows the page, drawn from the bytes to be signed, and what could be checked of it; then asks, or takes --yes. Writes
MODEL.ROLE.certificate.json beside certificate.json (MODEL: the certified file without its suffix), and
NAME.ROLE.certificate.json beside NAME.certificate.json: the same statement under this key. Nothing is signed that is
contradicted, expired or revoked. Which role a key stands for, a gate's policy says, not the file's name.

\b
Example:
  drgate sign reports/release-3/certificate.json --role clinical --key keys/clinical.pem --trusted-key keys/ml.pub
"""


def register(app: typer.Typer) -> None:
    app.command("sign", help=HELP, short_help="Put a further signature to a certificate.")(command)


def command(
    certificate: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="certificate.json, or statement.json.")],
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="Stands in the new file's name.")],
    key: KeyOption = None,
    sign_command: SignCommandOption = None,
    public_key: PublicKeyOption = None,
    trusted_key: Annotated[
        list[Path] | None,
        typer.Option("--trusted-key", metavar="PUB", help="Public key that must have signed it so far."),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", metavar="FILE", help="[the matching table beside the certificate]")
    ] = None,
    revoked: RevokedOption = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Sign without being asked; the page is shown all the same.")
    ] = False,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    import sys

    from drgate.certificate.keys import load_public_key
    from drgate.certificate.sign import countersign, countersignature
    from drgate.certificate.statement import Certificate, read_certificate
    from drgate.certificate.trust import load_revocations
    from drgate.cli.verify import show
    from drgate.errors import CertificateError, ExitCode, UsageError
    from drgate.files import write_atomically
    from drgate.report.evaluation import terminal
    from drgate.screen import console
    from drgate.verify import Given, Trust, verify

    signer = signing_key(key, sign_command, public_key)
    if signer is None:
        raise UsageError("Nothing signs: give --key KEY (or DRGATE_KEY), or --sign-command CMD with --public-key PUB.")
    read = read_certificate(certificate)  # once: what is shown is what is signed, whatever becomes of the file
    statement = read.statement if isinstance(read, Certificate) else read
    target = countersignature(certificate, role, statement)
    if not yes and not sys.stdin.isatty():
        raise UsageError("Nobody can be asked here: read the page (drgate report), then sign with --yes.")
    found = verify(
        certificate,
        Trust(
            [load_public_key(path) for path in trusted_key or ()],
            None if revoked is None else load_revocations(revoked),
        ),
        Given(predictions=predictions),
        read=read,
    )

    def page(screen: Console) -> None:
        terminal.signing_page(statement.evaluation, screen)
        screen.print()
        show(found, screen)

    try:
        page(console(sys.stderr))
    except (LookupError, TypeError, ValueError, AttributeError) as problem:
        raise CertificateError(f"{certificate} cannot be drawn: drgate did not write it so ({problem!r}).") from problem
    if found.problems:
        raise CertificateError(f"{certificate} is not signed: {found.problems[0]}")
    if not yes and not typer.confirm(f"Sign this as {role}, with key {signer.public.id[:16]}?", err=True):
        tell("Not signed: nothing was written.", quiet)
        return ExitCode.INTERRUPTED
    write_atomically(target, countersign(read, signer))
    emit(
        {"certificate": str(target), "role": role, "keyid": signer.public.id},
        lambda _: tell(f"Signed: {target}, key {signer.public.id[:16]}.", quiet),
        format,
        quiet,
    )
    return 0
