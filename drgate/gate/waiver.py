"""Waivers: somebody who may says, signed and with a date, that one named thing shall not close the gate.

    data = make_waiver([cover], reason="...", role="clinical", expires=moment, issued=now, key=key)
    waiver = parse_waiver(data, "waivers/pdr.json")
    waiver.signed_by(trusted)                     # the key, where a trusted one of its role signed it

A waiver names what it covers by id and by the digests of what was and of what is, so it covers nothing else later. It
is a DSSE envelope in one byte form around canonical JSON, of a payload type of its own: no certificate is ever taken
for a waiver, nor a waiver for a certificate.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from drgate.certificate.keys import PublicKey, SigningKey, check_signature_form
from drgate.certificate.statement import pre_authentication
from drgate.errors import CertificateError, UsageError
from drgate.files import TIME_FORMAT, canonical_json, parse_json, parse_moment

PAYLOAD_TYPE: Final = "application/vnd.drgate.waiver+json"
FORMAT: Final = "drgate waiver 1"
MAX_BYTES: Final = 256 << 10
MAX_REASON: Final = 2000
_DIGEST: Final = re.compile(r"|sha256:[0-9a-f]{64}")
_ROLE: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_EXPECTED: Final = "a waiver that drgate waive wrote"


@dataclass(frozen=True, slots=True)
class Cover:
    """One thing that is waived.

    id: as the gate names it. was, now: digests of it on the base branch and as it is to be, "" where there is none.
    what: what the gate said of it, for people.
    """

    id: str
    was: str
    now: str
    what: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Waiver:
    """A waiver under one signature. issued, expires: aware, to the second. key_id: a claim until it is verified."""

    covers: tuple[Cover, ...]
    reason: str
    role: str
    issued: datetime
    expires: datetime
    key_id: str
    signature: bytes = field(repr=False)
    data: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """`sha256:...` over what is signed."""
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    def signed_by(self, trusted: Mapping[str, Sequence[PublicKey]]) -> PublicKey | None:
        """The trusted key of its role that signed it, if any did."""
        keys = (key for key in trusted.get(self.role, ()) if key.id == self.key_id)
        return next(
            (key for key in keys if key.verifies(self.signature, pre_authentication(self.data, PAYLOAD_TYPE))), None
        )

    def to_bytes(self) -> bytes:
        """The file, in its one form."""
        return canonical_json(
            {
                "payload": base64.b64encode(self.data).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"keyid": self.key_id, "sig": base64.b64encode(self.signature).decode()}],
            }
        )


def make_waiver(
    covers: Iterable[Cover], *, reason: str, role: str, issued: datetime, expires: datetime, key: SigningKey
) -> Waiver:
    """A signed waiver. Raises UsageError where it says nothing, or ends before it begins."""
    reason = reason.strip()
    covered = sorted({*covers}, key=lambda cover: cover.id)
    if not covered or not reason:
        raise UsageError("A waiver names what it covers and says why (--reason).")
    if not _ROLE.fullmatch(role):
        raise UsageError(f"{role!r} is no role; expected lower-case letters, as the policy's trusted_keys name it.")
    if expires <= issued:
        raise UsageError(f"A waiver that ends on {expires:%Y-%m-%d} is over already; give a later --expires.")
    data = canonical_json(
        {
            "covers": [{"id": one.id, "was": one.was, "now": one.now, "what": one.what} for one in covered],
            "expires": expires.astimezone(UTC).strftime(TIME_FORMAT),
            "format": FORMAT,
            "issued": issued.astimezone(UTC).strftime(TIME_FORMAT),
            "reason": reason,
            "role": role,
        }
    )
    return _parsed(data, key.public.id, key.sign(pre_authentication(data, PAYLOAD_TYPE)), "the waiver")


def parse_waiver(data: bytes, origin: str) -> Waiver:
    """The waiver in `data`; `origin` names it in messages. The signature is not verified here.

    Raises CertificateError for anything but the one byte form.
    """
    if len(data) > MAX_BYTES:
        raise CertificateError(f"{origin} is larger than {MAX_BYTES >> 10} KB; expected {_EXPECTED}.")
    envelope = parse_json(data, origin, _EXPECTED, CertificateError)
    try:
        (signature,) = envelope["signatures"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signed = base64.b64decode(signature["sig"], validate=True)
        check_signature_form(signed)
        waiver = _parsed(payload, signature["keyid"], signed, origin)
        same = waiver.to_bytes() == data
    except (KeyError, TypeError, ValueError) as problem:
        raise CertificateError(f"{origin} is not a waiver ({problem}); expected {_EXPECTED}.") from problem
    if not same:
        raise CertificateError(f"{origin} is not in its canonical form; expected {_EXPECTED}.")
    return waiver


def _parsed(data: bytes, key_id: str, signature: bytes, origin: str) -> Waiver:
    content = parse_json(data, origin, _EXPECTED, CertificateError)
    try:
        if canonical_json(content) != data or content["format"] != FORMAT:
            raise ValueError("it is of another form")
        waiver = Waiver(
            covers=tuple(_cover(**one) for one in content["covers"]),
            reason=_text(content["reason"], MAX_REASON),
            role=_text(content["role"], 64),
            issued=parse_moment(content["issued"]),
            expires=parse_moment(content["expires"]),
            key_id=_text(key_id, 64),
            signature=signature,
            data=data,
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise CertificateError(f"{origin} is not a waiver ({problem}); expected {_EXPECTED}.") from problem
    if len(content) != 6 or not waiver.covers or not _ROLE.fullmatch(waiver.role):
        raise CertificateError(f"{origin} is not a waiver; expected {_EXPECTED}.")
    return waiver


def _cover(id: Any, was: Any, now: Any, what: Any) -> Cover:
    if not (isinstance(was, str) and isinstance(now, str) and _DIGEST.fullmatch(was) and _DIGEST.fullmatch(now)):
        raise ValueError("it covers something without its digests")
    if not (was or now):
        raise ValueError("it covers nothing")
    return Cover(_text(id, 1000), was, now, _text(what, 4000))


def _text(value: Any, limit: int) -> str:
    if not isinstance(value, str) or not value or len(value) > limit:
        raise ValueError(f"a text of at most {limit} letters is missing")
    return value
