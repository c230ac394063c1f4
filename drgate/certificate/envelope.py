"""A statement under one signature: a DSSE envelope inside a Sigstore bundle v0.3, in one byte form.

    data = seal(payload, key).to_bytes()
    parse_envelope(data, "certificate.json", "a certificate", "...").signer([key.public])      # key.public

Certificates and signed tables of predictions are such files; what their payload may say, their own modules know.

References: DSSE protocol v1; Sigstore bundle format v0.3.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from drgate import limits
from drgate.certificate.keys import PublicKey, SigningKey, check_signature_form
from drgate.errors import CertificateError
from drgate.files import canonical_json, parse_json

MAX_BYTES: Final = limits.CERTIFICATE_BYTES
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
BEGINS: Final = b'{"dsseEnvelope":'
_HEX_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload under one signature.

    key_id: lower-case hex SHA-256 of the signer's public key (DER SPKI): a claim until the signature is verified.
    signature: ECDSA P-256 over `pre_authentication(payload)`, DER with the lower s.
    """

    payload: bytes = field(repr=False)
    key_id: str
    signature: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """The file: a Sigstore bundle v0.3 in its one form."""
        return canonical_json(
            {
                "mediaType": BUNDLE_TYPE,
                "verificationMaterial": {"publicKey": {"hint": self.key_id}},
                "dsseEnvelope": {
                    "payload": base64.b64encode(self.payload).decode(),
                    "payloadType": PAYLOAD_TYPE,
                    "signatures": [{"keyid": self.key_id, "sig": base64.b64encode(self.signature).decode()}],
                },
            }
        )

    def signer(self, trusted: Iterable[PublicKey]) -> PublicKey | None:
        """The trusted key that made the signature, if any."""
        signed = pre_authentication(self.payload)
        candidates = (key for key in trusted if key.id == self.key_id)
        return next((key for key in candidates if key.verifies(self.signature, signed)), None)


def pre_authentication(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """The bytes that a signature covers: DSSE's pre-authentication encoding (PAE) of type and payload."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, key: SigningKey) -> Envelope:
    """The payload under a signature of `key`. Raises CertificateError where the file would be too large to be read."""
    envelope = Envelope(payload, key.public.id, key.sign(pre_authentication(payload)))
    if len(envelope.to_bytes()) > MAX_BYTES:
        raise CertificateError(
            f"The signed file would be larger than {MAX_BYTES >> 20} MB, the most that drgate reads."
        )
    return envelope


def parse_envelope(data: bytes, origin: str, kind: str, expected: str) -> Envelope:
    """The envelope in `data`; `origin` names it in messages. The signature is not verified here.

    kind: what the file should be, such as "a certificate". Raises CertificateError for anything but the one byte form:
    spare base64 bits, white space, duplicate, unknown or unsigned fields, another key hint, several signatures.
    """
    if len(data) > MAX_BYTES:
        raise CertificateError(f"{origin} is larger than {MAX_BYTES >> 20} MB; expected {expected}.")
    try:
        bundle = parse_json(data, origin, expected, CertificateError)
    except CertificateError as problem:
        if isinstance(problem.__cause__, UnicodeDecodeError | json.JSONDecodeError) and data.startswith(BEGINS):
            raise CertificateError(f"{origin} is cut off or damaged. Get the original file.") from problem
        raise
    if not isinstance(bundle, dict) or "dsseEnvelope" not in bundle:
        what = "an evaluation" if isinstance(bundle, dict) and "verdict" in bundle else "another kind of file"
        raise CertificateError(f"{origin} is {what}, not {kind}; expected {expected}.")
    try:
        inner = bundle["dsseEnvelope"]
        key_id = bundle["verificationMaterial"]["publicKey"]["hint"]
        payload = base64.b64decode(inner["payload"], validate=True)
        signed = base64.b64decode(inner["signatures"][0]["sig"], validate=True)
        known = _HEX_SHA256.fullmatch(key_id) is not None
    except binascii.Error as problem:
        raise CertificateError(f"{origin} is damaged: it is not in base64. Get the original file.") from problem
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as problem:
        raise CertificateError(f"{origin} is not a Sigstore bundle v0.3; expected {expected}.") from problem
    if not known:
        raise CertificateError(f"{origin} names no key; expected the SHA-256 of one, in lower-case hex, as key hint.")
    try:
        check_signature_form(signed)
    except CertificateError as problem:
        raise CertificateError(f"{origin}: {problem}") from problem
    envelope = Envelope(payload, key_id, signed)
    if envelope.to_bytes() != data:
        raise CertificateError(
            f"{origin} is not in its canonical form: it holds something that is not signed, or was rewritten. Do not "
            "rely on it; get the original file."
        )
    return envelope
