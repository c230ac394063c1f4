"""What a checkpoint remembers of its training set: enough to recognise an image or a patient, not to recover either.

One 256-bit perceptual hash for each image finds near-duplicates in a later test set. One scrypt hash for each patient,
keyed with a random salt that lies in the fingerprint, answers "was this patient in training?" for somebody who can name
the patient; each guess costs about 10 ms, so that a list of plausible numbers cannot be run through at leisure.

    fingerprint = Fingerprint.build(hashes, patients)
    shares_patients(fingerprint, ["10", "4711"])            # ['4711']

A model that goes on from another remembers that one's training set too: `Fingerprint.build(..., ancestors=[parent])`.
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
"""Cost of one guess at a patient: about 10 ms and 4 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """Of one training set, and of those that its ancestors were trained on."""

    images: NDArray[np.uint8] = field(repr=False)
    """(images, 32): `image_hash` of each, in order of bytes so that the order tells nothing."""
    patients: Mapping[bytes, NDArray[np.uint8]] = field(repr=False)
    """By salt (16 random bytes; several where ancestors do not descend from one another): (patients, 32), keyed hash of
    each patient, in order of bytes; no rows where patients are unknown."""

    @classmethod
    def build(
        cls, hashes: Iterable[bytes], patients: Iterable[str], ancestors: Sequence[Fingerprint] = ()
    ) -> Fingerprint:
        """From the `image_hash` of each training image and the patients' names (repeats count once).

        ancestors: fingerprints of the models that training went on from; whom they know, the new one knows. What an
        ancestor remembers is hashes, which cannot be keyed again: new patients are hashed under its salt.
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
        """Whether any patient of any of the training sets was named."""
        return any(len(rows) for rows in self.patients.values())


def image_hash(image: Image.Image) -> bytes:
    """256-bit DCT perceptual hash of an RGB image as 32 bytes (ImageHash.phash with 16 x 16 bits).

    Hashes are compared by the number of bits that differ; a mirrored or rotated copy has another hash.
    """
    return np.packbits(phash(image, hash_size=16).hash).tobytes()


def shares_patients(fingerprint: Fingerprint, patients: Iterable[str]) -> list[str]:
    """Those of `patients` who were in the training set, sorted, each once."""
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

    with ThreadPoolExecutor() as pool:  # scrypt runs outside the interpreter's lock
        return list(pool.map(one, names))


def _each(rows: NDArray[np.uint8]) -> list[bytes]:
    return [row.tobytes() for row in rows]


def _rows(hashes: Iterable[bytes]) -> NDArray[np.uint8]:
    ordered = b"".join(sorted(hashes))
    return np.frombuffer(ordered, dtype=np.uint8).reshape(-1, 32)
