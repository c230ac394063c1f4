"""Who and what a table shows, for comparison with other tables, and without naming anybody.

    key = load_patient_key(Path("keys/patients.key"))          # drgate keygen --patients --out keys/patients
    known = known_of(table, content_keys(table), key)
    known.patients, known.contents, known.names

Patients are stored as keyed hashes (HMAC-SHA256): whoever has the key can see that two sets share a patient, and can
try names; nobody else can do either. Without a key no patient is stored. An image is known by its content. Names of
images often hold record numbers, so a name is stored as a keyed hash too; without a key only one digest over all of
them together is kept, which recognises the same set and no single name.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from drgate.errors import UsageError
from drgate.files import digest_of, read_limited, refuse_content

if TYPE_CHECKING:
    import pandas as pd

PATIENT_BYTES: Final = 16
ENOUGH: Final = 3
"""Names that are kept as one digest: of two, both could be guessed at once from a list of record numbers."""
_HEAD: Final = "drgate patient key 1"
_EXPECTED: Final = "a patient key, as `drgate keygen --patients` writes NAME.key"
_PUBLISHED: Final = re.compile(r"[0-9a-f]{16}(-[0-9]+)?|row-[0-9]+")


@dataclass(frozen=True, slots=True)
class PatientKey:
    """A key for patients. id: 8 hex digits, by which sets under one key are recognised; it reveals nothing else."""

    id: str
    _key: bytes = field(repr=False)

    @classmethod
    def of(cls, key: bytes) -> PatientKey:
        """Of its 32 bytes."""
        return cls(hashlib.sha256(b"drgate patient key" + key).hexdigest()[:8], key)

    def patients(self, table: pd.DataFrame) -> dict[str, bytes]:
        """16 bytes for each patient that a table of predictions or a manifest names: over source, NUL, patient."""
        names = table["patient"]
        sources = table["source"].fillna("") if "source" in table.columns else [""] * len(table)
        return {
            # The columns give patients as source:patient where there is a source.
            name: self._hash(source, name.removeprefix(f"{source}:") if source else name)
            for name, source in {(name, str(source)) for name, source in zip(names, sources, strict=True)}
            if isinstance(name, str)
        }

    def image(self, name: str) -> str:
        """16 hex digits for the name of an image."""
        return hmac.digest(self._key, b"image name\0\0" + name.encode(), "sha256").hex()[:16]

    def _hash(self, source: str, patient: str) -> bytes:
        return hmac.digest(self._key, source.encode() + b"\0" + patient.encode(), "sha256")[:PATIENT_BYTES]


def generate_patient_key(path: Path) -> PatientKey:
    """Write 32 random bytes as text (mode 0600). Raises UsageError where the file exists or cannot be written."""
    key = secrets.token_bytes(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as problem:
        raise UsageError(f"{path} exists already, and a key is never overwritten; choose another name.") from problem
    except OSError as problem:
        raise UsageError(f"{path} cannot be written ({problem.strerror}).") from problem
    with os.fdopen(descriptor, "w", encoding="ascii") as handle:
        handle.write(f"{_HEAD}\n{key.hex()}\n")
        handle.flush()
        os.fsync(handle.fileno())
    return PatientKey.of(key)


def load_patient_key(path: Path) -> PatientKey:
    """Read the file that `generate_patient_key` wrote. Raises UsageError for anything else, without its content."""
    lines = (data := read_limited(path, 4096, _EXPECTED, UsageError)).decode("ascii", "replace").split()
    if " ".join(lines[:-1]) != _HEAD or not re.fullmatch("[0-9a-f]{64}", lines[-1]):
        refuse_content(data, str(path), _EXPECTED, UsageError)
        raise UsageError(f"{path} is not {_EXPECTED}.")
    return PatientKey.of(bytes.fromhex(lines[-1]))


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the rows of a table.

    contents: what identifies each image's content (16 hex digits), None where that is not known.
    names: digest over the names of the images in `contents` that are None, together; empty where there are fewer than
        `ENOUGH`, and of a published table, whose names say nothing.
    published: whether it has published names; then patients are numbers, and are not known.
    key: id of the patient key; empty without one, and for a published table.
    named: with a key, 16 hex digits for each image's name.
    patients: with a key, its hash of each patient, sorted; empty where patients are unknown.
    """

    contents: tuple[str | None, ...] = field(repr=False)
    names: str = field(repr=False)
    published: bool = False
    key: str = ""
    named: tuple[str, ...] = field(default=(), repr=False)
    patients: tuple[bytes, ...] = field(default=(), repr=False)


def known_of(table: pd.DataFrame, contents: Sequence[str | None], key: PatientKey | None) -> Known:
    """What is known of a table of predictions, whose images have these content keys."""
    names = [str(name) for name in table["image"].tolist()]
    if all(map(_PUBLISHED.fullmatch, names)):
        return Known(tuple(contents), "", published=True)
    bare = [name for name, content in zip(names, contents, strict=True) if content is None]
    together = digest_of(["drgate image names 1", sorted(bare)]) if len(bare) >= ENOUGH else ""
    if key is None:
        return Known(tuple(contents), together)
    patients = tuple(sorted(set(key.patients(table).values())))
    return Known(tuple(contents), together, False, key.id, tuple(map(key.image, names)), patients)
