"""Certify: turn an evaluation into a statement and, with a key, sign it.

    statement, certificate = certify(evaluation, load_private_key(Path("clinical.pem"), passphrase))

    again = countersign(read_certificate(path), another_key)    # the same statement under a further signature

Every verdict can be certified: a signed FAIL is a valid certificate too, but it opens nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from drgate.certificate.envelope import seal
from drgate.certificate.keys import SigningKey
from drgate.certificate.statement import Certificate, Statement, make_statement
from drgate.errors import UsageError
from drgate.evaluation import Evaluation
from drgate.files import refuse_existing

ENDING: Final = ".certificate.json"
_ROLE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def certify(evaluation: Evaluation, key: SigningKey | None) -> tuple[bytes, bytes | None]:
    """The bytes of `statement.json` and, with a key, of `certificate.json`.

    The same evaluation and key file give the same bytes. Raises CertificateError where the evaluation contradicts
    itself.
    """
    statement = make_statement(evaluation)
    return statement.data, None if key is None else sign(statement, key)


def sign(statement: Statement, key: SigningKey) -> bytes:
    """A certificate: the statement with one signature. Each signer of a statement creates a certificate."""
    return seal(statement.data, key).to_bytes()


def countersignature(path: Path, role: str, statement: Statement) -> Path:
    """The path for a further signature of the statement in `path`: NAME.ROLE.certificate.json beside it.

    NAME is that of the certificate (`NAME.certificate.json`), otherwise that of the model or table. The role in a file
    name is only for people: the policy decides which role a key has.

    Raises UsageError for a role that is not a plain word, and for a file that exists.
    """
    if not _ROLE.fullmatch(role):
        raise UsageError(
            f"The role {role!r} is not a plain word; expected lower-case letters and digits, such as clinical."
        )
    if path.name.endswith(ENDING):
        name = path.name.removesuffix(ENDING)
    else:
        name = Path(statement.evaluation.model.name).stem
        name = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "model"
    target = path.with_name(f"{name}.{role}{ENDING}")
    refuse_existing(target, "this role has signed already. Move the file away to sign again")
    return target


def countersign(read: Certificate | Statement, key: SigningKey) -> bytes:
    """A further certificate for a statement that was read and shown before.

    Raises UsageError where the same key has signed it already, because a second signature would show nothing new.
    """
    if isinstance(read, Certificate) and read.key_id == key.public.id:
        raise UsageError("This key has signed it already; a further signature needs another person's key.")
    return sign(read.statement, key)
