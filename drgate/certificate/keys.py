"""Keys that sign certificates: ECDSA P-256; private keys as PKCS#8 with a passphrase, public keys as PEM.

    private, public = generate_key(Path("clinical"), passphrase)      # clinical.pem (mode 0600) and clinical.pub
    signature = load_private_key(private, passphrase).sign(data)
    load_public_key(public).verifies(signature, data)                 # True

A key that is not in a file, such as one in a key service, signs through a command:

    CommandKey(load_public_key(Path("clinical.pub")), ("kms-sign", "clinical")).sign(data)

A statement has exactly one signature by a key file: the nonce is derived from the message (RFC 6979), and of the two
valid signatures (r, s) and (r, n - s) only the one with the lower s is written and accepted.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import selectors
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from drgate import limits
from drgate.errors import CertificateError, UsageError
from drgate.files import read_limited, refuse_content

MAX_KEY_BYTES: Final = limits.KEY_BYTES
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256: FIPS 186-5, SP 800-186
_EXPECTED_PRIVATE: Final = "a private ECDSA P-256 key in PEM, as `drgate keygen` writes NAME.pem"
_EXPECTED_PUBLIC: Final = "a public ECDSA P-256 key in PEM, as `drgate keygen` writes NAME.pub"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key. id: lower-case hex SHA-256 of its DER SubjectPublicKeyInfo."""

    id: str
    _key: ec.EllipticCurvePublicKey = field(repr=False, compare=False)

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether `signature`, in its one accepted form, is a signature of this key over `data`."""
        try:
            check_signature_form(signature)
            self._key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        except (CertificateError, InvalidSignature):
            return False
        return True


class SigningKey(Protocol):
    """A key that signs, in a file or behind a command."""

    @property
    def public(self) -> PublicKey:
        """The key that verifies its signatures."""
        ...

    def sign(self, data: bytes) -> bytes:
        """The signature over the SHA-256 of `data`: DER with the lower s."""
        ...


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A private key from a file. public: the key that verifies its signatures."""

    public: PublicKey
    _key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    def sign(self, data: bytes) -> bytes:
        """The DER signature over the SHA-256 of `data`; the same data always give the same bytes."""
        drawn = self._key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        return _lower(drawn)


@dataclass(frozen=True, slots=True)
class CommandKey:
    """A key behind a command: a cloud's key service, a smart card, another machine.

    public: the key that verifies its signatures. command: a program with its arguments, run without a shell. It reads
    the bytes to sign on standard input and writes an ECDSA signature over their SHA-256, as DER, base64 or PEM.
    """

    public: PublicKey
    command: tuple[str, ...]

    def sign(self, data: bytes) -> bytes:
        """The signature by the command, checked against the public key.

        Raises CertificateError where the command is missing or fails, writes no signature, or one by another key.
        """
        name = self.command[0] if self.command else "nothing"
        try:
            code, written = _answer(self.command, data)
        except (OSError, ValueError, IndexError) as problem:
            raise CertificateError(
                f"The signing command {name!r} cannot be run ({getattr(problem, 'strerror', None) or problem})."
            ) from problem
        if code is None:
            raise CertificateError(
                f"The signing command {name!r} took longer than {limits.SIGNER_SECONDS:g} seconds or wrote more than "
                f"{limits.SIGNATURE_BYTES >> 10} KB; nothing was signed."
            )
        if code != 0:
            raise CertificateError(f"The signing command {name!r} failed (exit code {code}); nothing was signed.")
        try:
            signature = _lower(_der(written))
        except ValueError as problem:
            raise CertificateError(
                f"The signing command {name!r} wrote no ECDSA P-256 signature; expected DER, or DER in base64 or PEM."
            ) from problem
        if not self.public.verifies(signature, data):
            raise CertificateError(
                f"The signing command {name!r} signed other data, or with another key than {self.public.id}."
            )
        return signature


def _answer(command: tuple[str, ...], data: bytes) -> tuple[int | None, bytes]:
    """The exit code of a command and what it writes; no code where it was stopped because of its limits."""
    written, until = b"", time.monotonic() + limits.SIGNER_SECONDS
    with tempfile.TemporaryFile() as given, selectors.DefaultSelector() as ready:
        given.write(data)
        given.seek(0)
        process = subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE)
        assert process.stdout is not None, "a pipe"
        try:
            ready.register(process.stdout, selectors.EVENT_READ)
            # What the command started may keep the pipe open, so a read never waits longer than the limit.
            while len(written) <= limits.SIGNATURE_BYTES and ready.select(max(0.0, until - time.monotonic())):
                if not (part := os.read(process.stdout.fileno(), 1 << 16)):
                    return process.wait(max(0.0, until - time.monotonic())), written
                written += part
            return None, b""
        except subprocess.TimeoutExpired:
            return None, b""
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _der(written: bytes) -> bytes:
    """The DER signature in the output of a command. Raises ValueError."""
    if written[:1] == b"\x30":  # a DER sequence; in base64 it would begin with M
        return written
    lines = written.decode("ascii").split("\n")
    return base64.b64decode("".join(line.strip() for line in lines if not line.startswith("-----")), validate=True)


def check_signature_form(signature: bytes) -> None:
    """Raise CertificateError unless the bytes are an ECDSA P-256 signature in its one form: strict DER, lower s."""
    try:
        canonical = _lower(signature)
    except ValueError as problem:
        raise CertificateError("The signature is not an ECDSA P-256 signature in DER.") from problem
    if canonical != signature:
        raise CertificateError("The signature is not in its canonical form; it was changed after signing.")


def _lower(signature: bytes) -> bytes:
    r, s = utils.decode_dss_signature(signature)
    if not (0 < r < _ORDER and 0 < s < _ORDER):
        raise ValueError("r and s must be at least 1 and below the order of the curve")
    return utils.encode_dss_signature(r, min(s, _ORDER - s))


def generate_key(name: Path, passphrase: bytes | None) -> tuple[Path, Path]:
    """Write a new key pair as NAME.pem (private, mode 0600) and NAME.pub, both or none. Returns the two paths.

    passphrase: encrypts the private key; None leaves it unencrypted, for keys that a secret store protects. Raises
    UsageError where a file exists or cannot be written, or the passphrase is empty.
    """
    if passphrase == b"":
        raise UsageError("The passphrase is empty; give one, or --no-passphrase.")
    key = ec.generate_private_key(ec.SECP256R1())
    protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    private, public = name.with_name(f"{name.name}.pem"), name.with_name(f"{name.name}.pub")
    contents = {
        private: (key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection), 0o600),
        public: (
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            0o644,
        ),
    }
    with contextlib.ExitStack() as undo:
        for path, (content, mode) in contents.items():
            try:
                # O_EXCL: creating and refusing to overwrite is one step, and a symbolic link is not followed
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            except FileExistsError as problem:
                raise UsageError(
                    f"{path} exists already, and a key is never overwritten; choose another name."
                ) from problem
            except OSError as problem:
                raise UsageError(f"{path} cannot be written ({problem.strerror}).") from problem
            undo.callback(path.unlink, missing_ok=True)
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
        undo.pop_all()
    return private, public


def load_private_key(path: Path, passphrase: bytes | None = None) -> PrivateKey:
    """Read a private key from a PEM file; see `parse_private_key`."""
    pem = read_limited(path, MAX_KEY_BYTES, _EXPECTED_PRIVATE, CertificateError)
    return parse_private_key(pem, passphrase, str(path))


def parse_private_key(pem: bytes, passphrase: bytes | None, origin: str) -> PrivateKey:
    """The private key in PEM bytes; `origin` names them in messages.

    Raises CertificateError for anything else, and for an encrypted key without the right passphrase. A passphrase for
    an unencrypted key is ignored.
    """
    if b"PUBLIC KEY" in pem:
        raise CertificateError(f"{origin} holds a public key; expected {_EXPECTED_PRIVATE}.")
    encrypted = b"ENCRYPTED" in pem
    if encrypted and not passphrase:
        raise CertificateError(f"{origin} is protected by a passphrase, but none was given; set DRGATE_KEY_PASSPHRASE.")
    try:
        key = serialization.load_pem_private_key(pem, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as problem:
        if encrypted:
            raise CertificateError(f"The passphrase does not open {origin}, or the file is damaged.") from problem
        if b"-----BEGIN" not in pem:
            refuse_content(pem, origin, _EXPECTED_PRIVATE, CertificateError)
        raise CertificateError(f"{origin} holds no key that can be read; expected {_EXPECTED_PRIVATE}.") from problem
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError(f"{origin} holds a key of another type; expected {_EXPECTED_PRIVATE}.")
    return PrivateKey(_public(key.public_key()), key)


def load_public_key(path: Path) -> PublicKey:
    """Read a public key from a PEM file; see `parse_public_key`."""
    return parse_public_key(read_limited(path, MAX_KEY_BYTES, _EXPECTED_PUBLIC, CertificateError), str(path))


def parse_public_key(pem: bytes, origin: str) -> PublicKey:
    """The public key in PEM bytes; `origin` names them in messages. Raises CertificateError for anything else."""
    if b"PRIVATE KEY" in pem:
        raise CertificateError(
            f"{origin} holds a private key, which must never leave its owner; expected {_EXPECTED_PUBLIC}."
        )
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as problem:
        if b"-----BEGIN" not in pem:
            refuse_content(pem, origin, _EXPECTED_PUBLIC, CertificateError)
        raise CertificateError(f"{origin} holds no key that can be read; expected {_EXPECTED_PUBLIC}.") from problem
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError(f"{origin} holds a key of another type; expected {_EXPECTED_PUBLIC}.")
    return _public(key)


def _public(key: ec.EllipticCurvePublicKey) -> PublicKey:
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(hashlib.sha256(der).hexdigest(), key)
