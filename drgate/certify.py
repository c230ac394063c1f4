"""Certify: state what an evaluation found and, with a key, sign it.

    statement, certificate = certify(evaluation, load_private_key(Path("clinical.pem"), passphrase))

Every verdict is certified: a signed FAIL is as good an answer as a signed PASS, and opens nothing.
"""

from __future__ import annotations

from drgate.certificate import MAX_BYTES, Certificate, make_statement, pre_authentication
from drgate.errors import CertificateError
from drgate.evaluation import Evaluation
from drgate.keys import PrivateKey


def certify(evaluation: Evaluation, key: PrivateKey | None) -> tuple[bytes, bytes | None]:
    """The bytes of `statement.json` and, where there is a key, of `certificate.json`.

    The same evaluation and key give the same bytes. Raises CertificateError where the evaluation contradicts itself.
    """
    statement = make_statement(evaluation)
    if key is None:
        return statement.data, None
    signature = key.sign(pre_authentication(statement.data))
    certificate = Certificate(statement, key.public.id, signature).to_bytes()
    if len(certificate) > MAX_BYTES:
        raise CertificateError(f"The certificate would be larger than {MAX_BYTES >> 20} MB; nobody could read it.")
    return statement.data, certificate
