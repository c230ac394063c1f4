"""Trust: whose signature counts in which role, what is revoked, and what has expired.

    trusted = {"clinical": [load_public_key(Path("keys/clinical.pub"))], "engineering": [...]}
    roles(statement, certificates, trusted)                    # {"clinical"}: the roles that signed it
    load_revocations(Path("revoked.txt")).against(certificate) # sentences; empty where nothing is revoked
    lapses(statement, now=datetime.now(UTC), max_age_days=365) # sentences; empty where it is still valid

Only a policy gives a key its role; no file name and nothing in a certificate can claim one. Light: neither torch nor
NumPy is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from drgate import limits
from drgate.certificate.keys import PublicKey
from drgate.certificate.statement import Certificate, Statement
from drgate.errors import CertificateError
from drgate.files import read_limited, refuse_content

MAX_BYTES: Final = limits.LIST_BYTES
CLOCK_SKEW: Final = timedelta(hours=1)
"""How far in the future, by the reader's clock, a statement may be dated."""

_ID: Final = re.compile(r"(sha256:)?[0-9a-f]{64}")
_EXPECTED: Final = "a key id (64 hexadecimal digits) or the digest of a statement (sha256:...), then the reason"


@dataclass(frozen=True, slots=True)
class Revocations:
    """Revoked keys and statements.

    reasons: by key id (hex SHA-256 of the public key) or digest of a statement (`sha256:...`).
    """

    reasons: Mapping[str, str] = field(default_factory=dict)

    def against(self, read: Certificate | Statement) -> tuple[str, ...]:
        """Why this is revoked, in sentences; empty where it is not.

        A statement is revoked by its own digest, by that of the statement its model was exported under, and by the key
        and the statement of whoever signed its table. A certificate is also revoked by its signer's key, because
        nothing proves that it was signed before the key was lost.
        """
        statement = read.statement
        named = [(statement.digest, "The statement")]
        if parent := statement.evaluation.model.parent:
            named.append((parent.statement, "The statement of the model that it was exported from"))
        if (scoring := statement.evaluation.model.scoring) and scoring.key and scoring.statement:
            named += [(scoring.key, "The scorer's key"), (scoring.statement, "The scorer's statement")]
        if isinstance(read, Certificate):
            named.append((read.key_id, f"The key {read.key_id}"))
        return tuple(f"{what} is revoked: {self.reasons[name]}" for name, what in named if name in self.reasons)


NOTHING_REVOKED: Final = Revocations()


def load_revocations(path: Path) -> Revocations:
    """Read a revocation list; see `parse_revocations`."""
    expected = "a revocation list"
    try:
        text = (data := read_limited(path, MAX_BYTES, expected, CertificateError)).decode("utf-8")
    except UnicodeDecodeError as problem:
        refuse_content(data, str(path), expected, CertificateError)
        raise CertificateError(f"{path} is not UTF-8 text; expected {expected}.") from problem
    return parse_revocations(text.splitlines(), str(path))


def parse_revocations(lines: Iterable[str], origin: str) -> Revocations:
    """Revocations from lines: an id, white space and the reason. Empty lines and lines that begin with # are skipped.

    Raises CertificateError, naming the line, for anything else, because a misread line would revoke nothing.
    """
    reasons: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not isinstance(line, str):
            raise CertificateError(f"{origin}, entry {number} is {line!r}; expected {_EXPECTED}.")
        name, reason = (*line.split(None, 1), "", "")[:2]
        if not name or name.startswith("#"):
            continue
        if not _ID.fullmatch(name):
            raise CertificateError(f"{origin}, line {number}: {name[:80]!r} is not an id; expected {_EXPECTED}.")
        if not reason.strip():
            raise CertificateError(f"{origin}, line {number} revokes {name} without a reason; expected {_EXPECTED}.")
        if name in reasons:
            raise CertificateError(f"{origin}, line {number} revokes {name} a second time; keep one line.")
        reasons[name] = reason.strip()
    return Revocations(reasons)


def signer(certificate: Certificate, trusted: Iterable[PublicKey]) -> PublicKey | None:
    """The trusted key that signed the certificate, if any."""
    return certificate.envelope.signer(trusted)


def roles(
    statement: Statement,
    certificates: Iterable[Certificate],
    trusted: Mapping[str, Sequence[PublicKey]],
    revocations: Revocations = NOTHING_REVOKED,
) -> frozenset[str]:
    """The roles whose keys have signed this statement.

    certificates: in any order; those that are revoked, for other statements or by unknown keys are ignored. trusted:
    the keys that may sign for each role.

    Raises CertificateError where one key has two roles, because one person could then sign for several.
    """
    refuse_shared_keys(trusted)
    own = [c for c in certificates if c.statement.data == statement.data and not revocations.against(c)]
    return frozenset(role for role, keys in trusted.items() if any(signer(c, keys) is not None for c in own))


def refuse_shared_keys(trusted: Mapping[str, Sequence[PublicKey]]) -> None:
    """Raise CertificateError where one key has two roles."""
    held: dict[str, str] = {}
    for role, keys in trusted.items():
        for key in keys:
            if held.setdefault(key.id, role) != role:
                raise CertificateError(
                    f"The key {key.id} has the roles {held[key.id]} and {role}; a key can have only one role."
                )


def lapses(statement: Statement, *, now: datetime, max_age_days: int | None = None) -> tuple[str, ...]:
    """Why the statement is not valid at `now` (aware), in sentences; empty where it is.

    The age counts from the look and cannot be renewed. max_age_days: what a policy allows, in addition to the
    statement's own expiry, which its checklist sets (`valid_days`).
    """
    found = []
    if statement.time > now + CLOCK_SKEW:
        found.append(f"It is dated {day(statement.time)}, which is in the future.")
    if statement.expires is not None and now >= statement.expires:
        found.append(f"It expired on {day(statement.expires)}.")
    if max_age_days is not None and now - statement.time > timedelta(days=max_age_days):
        age = (now - statement.time).days
        found.append(
            f"Its look was taken on {day(statement.time)}, {age} days ago; at most {max_age_days} are allowed."
        )
    return tuple(found)


def day(moment: datetime) -> str:
    """The UTC day of an aware moment, YYYY-MM-DD."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d")
