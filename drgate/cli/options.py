"""Options that several commands share, each in one place, and what is read from them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drgate.errors import UsageError
from drgate.screen import Format

if TYPE_CHECKING:
    from drgate.certificate.keys import SigningKey


FormatOption = Annotated[
    Format, typer.Option("--format", help="json: the result alone on standard output.", show_default=True)
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no story, only trouble.")]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="MANIFEST", help="Test set: labels CSV or Parquet, or a folder of images."),
]
SplitOption = Annotated[str, typer.Option("--split", help="Split of the manifest; one without splits is taken whole.")]
ChecklistOption = Annotated[
    str, typer.Option("--spec", metavar="NAME|FILE", help="Checklist: a name of `drgate spec list`, or a YAML file.")
]
BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="embedded|FOLDER|HUB_ID", help="Where a checkpoint's base model lies, if not where it lay."
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key", metavar="KEY", envvar="DRGATE_KEY", show_envvar=True, help="Private key that signs the certificate."
    ),
]
SignCommandOption = Annotated[
    str | None,
    typer.Option(
        "--sign-command",
        metavar="CMD",
        help="Program that signs what it reads and writes the signature, for a key that no file holds.",
    ),
]
PublicKeyOption = Annotated[
    Path | None, typer.Option("--public-key", metavar="PUB", help="Public half of the key behind --sign-command.")
]
RevokedOption = Annotated[
    Path | None,
    typer.Option(
        "--revoked", metavar="FILE", help="Keys and statements no longer believed: an id and a reason a line."
    ),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy", metavar="FILE", help="Policy, from the root of the repository. [drgate.toml, or pyproject.toml]"
    ),
]
BaseRefOption = Annotated[
    str | None,
    typer.Option(
        "--base-ref",
        metavar="REF",
        help="Branch that is merged into, such as origin/main. [the target of the pull or merge request in CI]",
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes that decode images. [one a core]", show_default=False)
]


def signing_key(
    given: str | None, sign_command: str | None = None, public_key: Path | None = None
) -> SigningKey | None:
    """The key of `--key` or DRGATE_KEY (a file, or the PEM text itself), or the one behind `--sign-command`.

    A passphrase is asked for if needed.
    """
    if sign_command is not None or public_key is not None:
        return _command_key(given, sign_command, public_key)
    if not given:
        return None
    from drgate.certificate.keys import load_private_key, parse_private_key

    text = os.environ.get("DRGATE_KEY_PASSPHRASE")
    passphrase = text.encode() if text else None
    if given.lstrip().startswith("-----BEGIN"):
        return parse_private_key(given.encode(), passphrase, "DRGATE_KEY")
    path = Path(given)
    try:
        there = path.is_file()
    except (OSError, ValueError):
        there = False
    if not there:  # not quoted: it may be the key itself
        raise UsageError("--key (or DRGATE_KEY) names no file and is no PEM; drgate keygen --out NAME writes NAME.pem.")
    if passphrase is None and b"ENCRYPTED" in path.read_bytes()[:64] and sys.stdin.isatty():
        passphrase = typer.prompt(f"Passphrase of {path}", hide_input=True, err=True).encode()
    return load_private_key(path, passphrase)


def _command_key(given: str | None, command: str | None, public_key: Path | None) -> SigningKey:
    import shlex
    import shutil

    from drgate.certificate.keys import CommandKey, load_public_key

    if given:
        raise UsageError("Both --key (or DRGATE_KEY) and --sign-command sign; give one of them.")
    if command is None or public_key is None:
        raise UsageError("--sign-command CMD and --public-key PUB belong together: give both.")
    try:
        words = shlex.split(command)
    except ValueError as problem:
        raise UsageError(f"--sign-command cannot be read ({problem}); quote it as a shell would.") from problem
    if not words:
        raise UsageError("--sign-command is empty; expected a program and its arguments.")
    if shutil.which(words[0]) is None:  # told now, not after hours of scoring
        raise UsageError(f"--sign-command names {words[0]!r}, which is no program that can be run.")
    return CommandKey(load_public_key(public_key), tuple(words))


def base_ref_of(given: str | None) -> str:
    """The branch that is merged into: as given, else what GitHub or GitLab say of the request that is being tested.

    Raises UsageError where nobody says: a guess could compare a change with itself.
    """
    target = os.environ.get("GITHUB_BASE_REF") or os.environ.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME")
    if given or target:
        return given or f"refs/remotes/origin/{target}"  # in full: a tag may be called origin/main too
    raise UsageError(
        "Say what is merged into with --base-ref, such as origin/main (or HEAD: what is staged against what is "
        "committed)."
    )
