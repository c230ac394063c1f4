"""The training fingerprint: recognises an image or patient of the training set and reveals neither.

A 256-bit perceptual hash per image (`drgate.vision.perceptual`) finds copies of it in a later test set. A hash per
patient under a patient key
(`drgate.patients`) answers "was this patient in training?" for whoever has that key, and nothing for anybody else.
Without a key no patient is in it.

    fingerprint = Fingerprint.build(hashes, training_table, key)
    fingerprint.shared_patients(test_table, key)            # how many

A model that continues from another one keeps its fingerprint too: `Fingerprint.build(..., ancestors=[parent])`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drgate.patients import PATIENT_BYTES, PatientKey

if TYPE_CHECKING:
    import pandas as pd

IMAGE_BYTES = 32
OLDER_HASH: Final = "phash-256"
"""What fingerprints call `image_hash`."""


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """Hashes of a training set, and of the training sets of the models before it."""

    images: NDArray[np.uint8] = field(repr=False)
    """(images, 32): `perceptual_hash` of each, sorted, so that the order reveals nothing."""
    patients: Mapping[str, NDArray[np.uint8]] = field(repr=False)
    """By the id of a patient key: (patients, 16), the keyed hash of each patient, sorted. There are several keys if the
    models before it were trained with others."""
    whole: bool
    """Whether the patients of every training set are in it."""
    older: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, IMAGE_BYTES), np.uint8), repr=False)
    """(images, 32): `image_hash` of the images that earlier versions of drgate trained on. Hashes of the two versions
    cannot be compared: of the same photograph they differ in half of the bits."""

    @classmethod
    def build(
        cls,
        hashes: Iterable[bytes],
        table: pd.DataFrame,
        key: PatientKey | None,
        ancestors: Sequence[Fingerprint] = (),
    ) -> Fingerprint:
        """From the `perceptual_hash` of each training image and the table that names the patients.

        ancestors: fingerprints of the models that training continued from; the new one includes them.
        """
        known: dict[str, set[bytes]] = {}
        for ancestor in ancestors:
            for name, rows in ancestor.patients.items():
                known.setdefault(name, set()).update(_each(rows))
        named = {} if key is None else key.patients(table)
        if key is not None and named:
            known.setdefault(key.id, set()).update(named.values())
        return cls(
            _rows({*hashes}.union(*(_each(ancestor.images) for ancestor in ancestors)), IMAGE_BYTES),
            {name: _rows(known[name], PATIENT_BYTES) for name in sorted(known)},
            bool(named) and all(ancestor.whole for ancestor in ancestors),
            _rows(set[bytes]().union(*(_each(ancestor.older) for ancestor in ancestors)), IMAGE_BYTES),
        )

    def shared_patients(self, table: pd.DataFrame, key: PatientKey | None) -> int:
        """How many patients of a manifest's table were in training, as far as this key tells."""
        if key is None or key.id not in self.patients:
            return 0
        return len(set(_each(self.patients[key.id])) & set(key.patients(table).values()))

    def unchecked(self, key: PatientKey | None) -> str:
        """Why patients could not be compared with all training patients by this key; empty where they could."""
        if key is None:
            return "no patient key (--patient-key) was given"
        if not self.whole:
            return "training stored no patients, or not all: it had no patient key"
        return "training used another patient key" if set(self.patients) != {key.id} else ""


def image_hash(image: Image.Image) -> bytes:
    """Version 1 of the perceptual hash, for older fingerprints: 32 bytes of an RGB image (ImageHash.phash with 16 x 16
    bits). A mirrored or rotated copy has a different hash.
    """
    from imagehash import phash

    return np.packbits(phash(image, hash_size=16).hash).tobytes()


def _each(rows: NDArray[np.uint8]) -> list[bytes]:
    return [row.tobytes() for row in rows]


def _rows(hashes: Iterable[bytes], size: int) -> NDArray[np.uint8]:
    ordered = b"".join(sorted(hashes))
    return np.frombuffer(ordered, dtype=np.uint8).reshape(-1, size)
