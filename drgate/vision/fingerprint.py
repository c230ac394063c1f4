"""The training fingerprint: recognises an image or patient of the training set and reveals neither.

A 256-bit perceptual hash per image finds copies of it in a later test set. A scrypt hash per patient, with a random
salt that is part of the fingerprint, answers "was this patient in training?" for somebody who knows the patient's name.
Each guess takes about 10 ms, which makes trying a long list of names slow.

    fingerprint = Fingerprint.build(hashes, patients)
    shares_patients(fingerprint, ["10", "4711"])            # ['4711']

A model that continues from another one keeps its fingerprint too: `Fingerprint.build(..., ancestors=[parent])`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from imagehash import phash
from numpy.typing import NDArray
from PIL import Image

SCRYPT = {"n": 2**12, "r": 8, "p": 1}
"""Settings of scrypt; one guess takes about 10 ms and 4 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """Hashes of a training set, and of the training sets of the models before it."""

    images: NDArray[np.uint8] = field(repr=False)
    """(images, 32): `image_hash` of each, sorted, so that the order reveals nothing."""
    patients: Mapping[bytes, NDArray[np.uint8]] = field(repr=False)
    """For each salt (16 random bytes): (patients, 32), the salted hash of each patient, sorted; no rows if patients are
    unknown. There are several salts if the model has ancestors that were trained independently."""

    @classmethod
    def build(
        cls, hashes: Iterable[bytes], patients: Iterable[str], ancestors: Sequence[Fingerprint] = ()
    ) -> Fingerprint:
        """From the `image_hash` of each training image and the patients' names (repeats count once).

        ancestors: fingerprints of the models that training continued from; the new one includes them. Their hashes
        cannot be computed again with another salt, so new patients are hashed with an ancestor's salt.
        """
        known: dict[bytes, set[bytes]] = {}
        for ancestor in ancestors:
            for salt, rows in ancestor.patients.items():
                known.setdefault(salt, set()).update(_each(rows))
        salt = min(known, default=None) or secrets.token_bytes(16)
        known.setdefault(salt, set()).update(_patient_hashes(sorted(set(patients)), salt))
        images = {*hashes}.union(*(_each(ancestor.images) for ancestor in ancestors))
        return cls(_rows(images), {salt: _rows(known[salt]) for salt in sorted(known)})

    @property
    def knows_patients(self) -> bool:
        """Whether the fingerprint contains any patient."""
        return any(len(rows) for rows in self.patients.values())


def image_hash(image: Image.Image) -> bytes:
    """256-bit DCT perceptual hash of an RGB image as 32 bytes (ImageHash.phash with 16 x 16 bits).

    A mirrored or rotated copy has a different hash.
    """
    return np.packbits(phash(image, hash_size=16).hash).tobytes()


def shares_patients(fingerprint: Fingerprint, patients: Iterable[str]) -> list[str]:
    """The members of `patients` who were in the training set, sorted, without repeats."""
    names = sorted(set(patients))
    found: set[str] = set()
    for salt, rows in fingerprint.patients.items():
        if known := set(_each(rows)):
            hashes = _patient_hashes(names, salt)
            found |= {name for name, hashed in zip(names, hashes, strict=True) if hashed in known}
    return sorted(found)


def _patient_hashes(names: list[str], salt: bytes) -> list[bytes]:
    def one(name: str) -> bytes:
        return hashlib.scrypt(name.encode(), salt=salt, dklen=32, **SCRYPT)

    with ThreadPoolExecutor() as pool:  # scrypt releases the interpreter's lock
        return list(pool.map(one, names))


def _each(rows: NDArray[np.uint8]) -> list[bytes]:
    return [row.tobytes() for row in rows]


def _rows(hashes: Iterable[bytes]) -> NDArray[np.uint8]:
    ordered = b"".join(sorted(hashes))
    return np.frombuffer(ordered, dtype=np.uint8).reshape(-1, 32)
