"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from drgate.buckets import located
from drgate.errors import UsageError
from drgate.files import read_beginning, read_json
from drgate.mapping import column_map as column_map
from drgate.screen import Format

if TYPE_CHECKING:
    from drgate.certificate.keys import SigningKey
    from drgate.evaluation import Precision
    from drgate.gradability import Rule
    from drgate.patients import PatientKey
    from drgate.preprocessing import Preprocessing


class TorchPrecision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


FormatOption = Annotated[
    Format,
    typer.Option("--format", help="json prints only the result, as JSON, on standard output.", show_default=True),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="MANIFEST",
        parser=located,
        help="Test set: a table of images and grades (CSV or Parquet), or a folder of images; also gs:// and s3://.",
    ),
]
TrainOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--train",
        metavar="MANIFEST",
        parser=located,
        help="Training data of the model, to compare the test set with; may be given several times. The other splits "
        "of --data are compared anyway.",
    ),
]
SplitOption = Annotated[
    str, typer.Option("--split", help="Split of the test set to use; all images if it has no splits.")
]
ChecklistOption = Annotated[
    str, typer.Option("--spec", metavar="NAME|FILE", help="Checklist: a name from `drgate spec list`, or a YAML file.")
]
BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="embedded|FOLDER|HUB_ID",
        help="Location of the checkpoint's base model, if it has moved since training (embedded: the small one that "
        "ships with drgate).",
    ),
]
PreprocessOption = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        metavar="NAME[@SIZE]|FILE",
        help="How the model's input is made from photographs, for a model that does not state it: fundus-square-1, "
        "siglip, medsiglip-tf, imagenet-stretch, retfound, or a file (docs/preprocessing.md).",
    ),
]
LoraAlphaOption = Annotated[
    float | None,
    typer.Option(
        "--lora-alpha",
        metavar="ALPHA",
        help="LoRA's alpha of a checkpoint in the older layout, if it does not state it.",
    ),
]
GraderOption = Annotated[
    str | None,
    typer.Option(
        "--grader",
        metavar="FILE.py:load|package.module:load",
        help="Python that loads the model, for a model of any other kind (docs/models.md).",
    ),
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="OWN=THEIRS,...|FILE",
        help="Which column of the table is which, such as grade=diagnosis,image=id_code, or a YAML file "
        "(docs/tables.md).",
    ),
]
ScoresOption = Annotated[
    str | None,
    typer.Option(
        "--scores",
        metavar="probabilities|percent|logits",
        help="What p_0 to p_4 are, where that is not plain from the numbers.",
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
        help="Program that signs standard input and writes the signature to standard output; for a key in a key store.",
    ),
]
PublicKeyOption = Annotated[
    Path | None, typer.Option("--public-key", metavar="PUB", help="Public key that belongs to --sign-command.")
]
PatientKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--patient-key",
        metavar="FILE",
        envvar="DRGATE_PATIENT_KEY",
        show_envvar=True,
        help="Patient key (drgate keygen --patients), by which patients of several sets are compared. Without it no "
        "patient is stored or compared.",
    ),
]
LooksOption = Annotated[
    Path | None,
    typer.Option("--looks", metavar="FILE", help="Log of the looks at this test set. [reports/looks/<test set>.jsonl]"),
]
LookTimeOption = Annotated[
    str | None,
    typer.Option("--time", metavar="UTC", help="Time to log for a new look, such as 2026-01-31T09:00:00Z. [now]"),
]
RevokedOption = Annotated[
    Path | None,
    typer.Option(
        "--revoked", metavar="FILE", help="Revocation list: one key id or statement digest per line, then the reason."
    ),
]
MaxAgeOption = Annotated[
    int | None,
    typer.Option("--max-age-days", metavar="N", min=1, help="Refuse a certificate whose look is older than N days."),
]
ScorerKeyOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--scorer-key",
        metavar="PUB",
        help="Public key that you trust to score: it must have signed the table (drgate score --key); may be repeated.",
    ),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="Policy file, relative to the root of the repository. [drgate.toml, or pyproject.toml]",
    ),
]
BaseRefOption = Annotated[
    str | None,
    typer.Option(
        "--base-ref",
        metavar="REF",
        help="Branch to merge into, such as origin/main. [in CI, the target of the pull or merge request]",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=0,
        help="Number of processes that decode images. [one per core]",
        show_default=False,
    ),
]

PrecisionOption = Annotated[
    TorchPrecision | None,
    typer.Option(
        "--precision",
        help="Numbers in which a network of torch computes; another than fp32 is first held against fp32 on 64 images. "
        "An ONNX file has its own. [fp32]",
        show_default=False,
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch",
        metavar="N",
        min=1,
        max=1024,
        help="Images that are graded at a time. [32 on a GPU, 8 on a CPU, fewer of large ones]",
        show_default=False,
    ),
]


def torch_precision(given: TorchPrecision | None) -> Precision | None:
    """What --precision states."""
    return None if given is None else given.value


def preprocessing(text: str | None) -> Preprocessing | None:
    """What --preprocess states."""
    if text is None:
        return None
    from drgate.vision.stated import load_preprocessing

    return load_preprocessing(text)


def quality_rule(text: str | None) -> Rule | None:
    """What --quality states: `drgate` for its own rule, or a file."""
    if text is None:
        return None
    from drgate.gradability import RULE, Rule

    if text == "drgate":
        return RULE
    try:
        return Rule.from_json(read_json(Path(text), "drgate, or a file with a rule of image quality", UsageError), text)
    except ValueError as problem:
        raise UsageError(f"--quality: {problem}") from problem


def patient_key(path: Path | None) -> PatientKey | None:
    """The key in the file of `--patient-key` or DRGATE_PATIENT_KEY."""
    if path is None:
        return None
    from drgate.patients import load_patient_key

    return load_patient_key(path)


def required_key(given: str | None, sign_command: str | None, public_key: Path | None) -> SigningKey:
    """As `signing_key`. Raises UsageError where no key is given."""
    key = signing_key(given, sign_command, public_key)
    if key is None:
        raise UsageError("No signing key: give --key KEY (or DRGATE_KEY), or --sign-command CMD with --public-key PUB.")
    return key


def signing_key(
    given: str | None, sign_command: str | None = None, public_key: Path | None = None
) -> SigningKey | None:
    """The key of `--key` or DRGATE_KEY (a file, or the PEM text itself), or the one behind `--sign-command`.

    Asks for the passphrase of an encrypted key in a terminal, unless DRGATE_KEY_PASSPHRASE gives it.
    """
    if sign_command is not None or public_key is not None:
        return _command_key(given, sign_command, public_key)
    if not given:
        return None
    from drgate.certificate.keys import load_private_key, parse_private_key

    text = os.environ.get("DRGATE_KEY_PASSPHRASE")
    passphrase = text.encode() if text else None
    path = _key_file(given)
    if path is None:
        return parse_private_key(given.encode(), passphrase, "DRGATE_KEY")
    if passphrase is None and b"ENCRYPTED" in read_beginning(path, 64, "a key", UsageError) and sys.stdin.isatty():
        passphrase = typer.prompt(f"Passphrase of {path}", hide_input=True, err=True).encode()
    return load_private_key(path, passphrase)


def key_for_later(
    given: str | None, sign_command: str | None = None, public_key: Path | None = None
) -> Callable[[], SigningKey] | SigningKey | None:
    """As `signing_key`, for a model that runs somebody's code: a key in a file is not opened before it has ended.

    Of the passphrases that somebody types, three may be wrong: what was scored meanwhile is not lost.
    """
    if sign_command is not None or public_key is not None or not given:
        return signing_key(given, sign_command, public_key)
    _key_file(given)

    def opened() -> SigningKey:
        from drgate.errors import CertificateError, visible

        tries = 3 if sys.stdin.isatty() and "DRGATE_KEY_PASSPHRASE" not in os.environ else 1
        for _ in range(tries - 1):
            try:
                return cast("SigningKey", signing_key(given))
            except CertificateError as problem:
                typer.echo(visible(problem), err=True)
        return cast("SigningKey", signing_key(given))

    return opened


def _key_file(given: str) -> Path | None:
    """The file that `--key` or DRGATE_KEY names; None for a key's PEM text. Raises UsageError for anything else."""
    if given.lstrip().startswith("-----BEGIN"):
        return None
    path = Path(given)
    try:
        there = path.is_file()
    except (OSError, ValueError):
        there = False
    if not there:  # not quoted: it may be the key itself
        raise UsageError(
            "--key (or DRGATE_KEY) is neither an existing file nor a key in PEM form. drgate keygen --out NAME creates "
            "NAME.pem."
        )
    return path


def _command_key(given: str | None, command: str | None, public_key: Path | None) -> SigningKey:
    import shlex
    import shutil

    from drgate.certificate.keys import CommandKey, load_public_key

    if given:
        raise UsageError("--key (or DRGATE_KEY) and --sign-command were both given; give one of them.")
    if command is None or public_key is None:
        raise UsageError("--sign-command CMD and --public-key PUB belong together; give both.")
    try:
        words = shlex.split(command)
    except ValueError as problem:
        raise UsageError(f"--sign-command cannot be read ({problem}); quote it as in a shell.") from problem
    if not words:
        raise UsageError("--sign-command is empty; expected a program and its arguments.")
    if shutil.which(words[0]) is None:  # before scoring, which may take hours
        raise UsageError(
            f"--sign-command names {words[0]!r}, which is not a program here; install it or give its full path."
        )
    return CommandKey(load_public_key(public_key), tuple(words))


def base_ref_of(given: str | None) -> str:
    """The branch to merge into: as given, else the target of the request that GitHub or GitLab is testing.

    Of a merge queue it is the commit that the group of changes is put on top of.

    Raises UsageError where none is known: a guess could compare a change with itself.
    """
    if given:
        return given
    if target := os.environ.get("GITHUB_BASE_REF"):
        return f"refs/remotes/origin/{target}"  # in full: a tag could also be named origin/main
    if os.environ.get("GITHUB_EVENT_NAME") == "merge_group":
        return _base_of_queue(os.environ.get("GITHUB_EVENT_PATH", ""))
    if target := os.environ.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME"):
        return f"refs/remotes/origin/{target}"
    raise UsageError(
        "The branch to merge into is not known; give it with --base-ref, such as origin/main. (With HEAD, the staged "
        "changes are compared with the last commit.)"
    )


def _base_of_queue(path: str) -> str:
    """merge_group.base_sha in the file that describes GitHub's event."""
    expected = "GitHub's description of a merge_group event (GITHUB_EVENT_PATH)"
    event = read_json(Path(path), expected, UsageError)
    group = event.get("merge_group") if isinstance(event, dict) else None
    base = group.get("base_sha") if isinstance(group, dict) else None
    if not isinstance(base, str) or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", base):
        raise UsageError(
            f"{path} names no commit as merge_group.base_sha; expected {expected}. Give --base-ref COMMIT."
        )
    return base
