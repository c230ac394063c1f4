"""The operating point: cut-offs that turn probabilities into a grade, with a record of the tuning set.

    point = load_operating_point(Path("operating-point.json"))
    point.refuse_overlap(test)                # tuning and test must not share images or patients
    test.at(point)                            # the same predictions, graded by the cut-offs

The file names the tuning images and contains a keyed hash of each patient. The key is derived from the tuning table's
digest, which is in the file. So a hash hides a patient from a reader, but not from someone who can try a list of all
patients (about half a millisecond per try).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from drgate.errors import UsageError
from drgate.files import canonical_json, digest_of, read_json, refuse_existing, write_atomically

if TYPE_CHECKING:
    import pandas as pd

FORMAT: Final = "drgate operating point 1"
_WHAT: Final = "an operating point that drgate tune wrote"
_SCRYPT: Final = {"n": 2**7, "r": 8, "p": 1, "dklen": 16}
_KEYS: Final = {"format", "cut_offs", "spec", "tuning", "promise", "digest"}


class Scored(Protocol):
    """The parts of a table of predictions that are used here; `drgate.predictions` imports this module."""

    @property
    def table(self) -> pd.DataFrame: ...
    @property
    def origin(self) -> Any: ...
    @property
    def digest(self) -> str: ...
    @property
    def patients_known(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Cut-offs and where they come from."""

    cut_offs: tuple[float, float, float, float]
    """t_1 to t_4 on P(grade >= k), each above 0 and at most 1: the grade is the highest k with P(grade >= k) >= t_k."""
    spec: Mapping[str, Any]
    """Name, version and digest of the checklist that they were tuned to."""
    predictions_digest: str
    """Of the tuning table."""
    images: tuple[tuple[str, str], ...] = field(repr=False)
    """Name and SHA-256 (hex, empty where unknown) of each tuning image, sorted."""
    patients: tuple[str, ...] = field(repr=False)
    """Keyed hash (hex) of each tuning patient, sorted; empty where patients are unknown."""
    promise: Mapping[str, Any] = field(repr=False)
    """Result of tuning: the chance to pass on the planned test set, and each criterion's counts, bound and chance."""

    @property
    def patients_known(self) -> bool:
        """Whether an overlap of patients can be checked."""
        return bool(self.patients)

    @property
    def digest(self) -> str:
        """`sha256:...` over everything else in the file."""
        return digest_of(self._plain())

    def content(self) -> dict[str, Any]:
        """The file as plain values; `parse_operating_point` of it gives the same operating point."""
        plain = self._plain()
        return plain | {"digest": digest_of(plain)}

    def apply(self, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
        """Grades 0-4 (n,) of probabilities (n, 5); -1 where a row is NaN (no output)."""
        reached = cumulative(probabilities) >= np.asarray(self.cut_offs)
        grades = np.where(reached, np.arange(1, 5), 0).max(axis=1)
        return np.where(np.isnan(probabilities).any(axis=1), -1, grades).astype(np.int64)

    def refuse_overlap(self, predictions: Scored) -> None:
        """Raise UsageError where an image or a patient of the tuning table is among `predictions`.

        Images are compared by SHA-256 where both sides have it, else by name. Where either side has no patients
        (`patients_known`), an overlap of patients cannot be checked.
        """
        table = predictions.table
        contents = {sha256 for _, sha256 in self.images if sha256}
        known = dict(self.images)
        hashes = table["sha256"] if "sha256" in table.columns else [None] * len(table)
        for name, cell in zip(table["image"], hashes, strict=True):
            sha256 = cell if isinstance(cell, str) else ""
            if sha256 in contents or (name in known and not (sha256 and known[name])):
                raise UsageError(
                    f"{predictions.origin}: image {name!r} is among the images that the operating point was tuned on; "
                    "use other test images."
                )
        if self.patients and predictions.patients_known:
            tuned = set(self.patients)
            names = sorted(set(table["patient"]))
            hashed = _patient_hashes(names, self.predictions_digest)
            shared = [name for name, one in zip(names, hashed, strict=True) if one in tuned]
            if shared:
                raise UsageError(
                    f"{predictions.origin}: {len(shared)} patients are among those that the "
                    "operating point was tuned on; test on other patients (a column `source` keeps equal numbers of "
                    "two sites apart)."
                )

    def _plain(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "cut_offs": list(self.cut_offs),
            "spec": dict(self.spec),
            "tuning": {
                "predictions": self.predictions_digest,
                "images": [list(image) for image in self.images],
                "patients": list(self.patients),
            },
            "promise": dict(self.promise),
        }


def make_operating_point(
    cut_offs: Iterable[float], *, checklist: Mapping[str, Any], tuned_on: Scored, promise: Mapping[str, Any]
) -> OperatingPoint:
    """The operating point of cut-offs that were tuned on a table."""
    table = tuned_on.table
    hashes = table["sha256"].fillna("") if "sha256" in table.columns else [""] * len(table)
    names = sorted(set(table["patient"])) if tuned_on.patients_known else []
    first, second, third, fourth = (float(cut) for cut in cut_offs)
    return OperatingPoint(
        (first, second, third, fourth),
        checklist,
        tuned_on.digest,
        tuple(sorted(zip(table["image"].tolist(), map(str, hashes), strict=True))),
        tuple(sorted(_patient_hashes(names, tuned_on.digest))),
        promise,
    )


def cumulative(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(grade >= k) for k = 1 to 4, (n, 4), of probabilities (n, 5); always summed from the highest grade down."""
    return np.cumsum(probabilities[:, :0:-1], axis=1)[:, ::-1]


def write_operating_point(point: OperatingPoint, path: Path) -> None:
    """Write the locked file; raises UsageError where `path` exists."""
    refuse_existing(path, "an operating point is never overwritten; choose another name with --out")
    write_atomically(path, canonical_json(point.content()) + b"\n")


def load_operating_point(path: Path | str) -> OperatingPoint:
    """Read the file. Raises UsageError where it is not an operating point or was changed after it was written."""
    return parse_operating_point(read_json(Path(path), _WHAT, UsageError), str(path))


def parse_operating_point(plain: object, origin: str) -> OperatingPoint:
    """The inverse of `content`; raises UsageError, naming `origin`, for anything that `content` did not return."""
    if not isinstance(plain, Mapping) or plain.get("format") != FORMAT or set(plain) != _KEYS:
        raise UsageError(f"{origin} is not {_WHAT}; expected the keys {', '.join(sorted(_KEYS))} and {FORMAT!r}.")
    if plain["digest"] != digest_of({key: value for key, value in plain.items() if key != "digest"}):
        raise UsageError(f"{origin} was changed after it was written: its digest does not match; tune again.")
    try:
        tuning = plain["tuning"]
        first, second, third, fourth = plain["cut_offs"]
        point = OperatingPoint(
            (first, second, third, fourth),
            dict(plain["spec"]),
            str(tuning["predictions"]),
            tuple((str(name), str(sha256)) for name, sha256 in tuning["images"]),
            tuple(str(patient) for patient in tuning["patients"]),
            dict(plain["promise"]),
        )
        sound = all(type(cut) in (int, float) and math.isfinite(cut) and 0 < cut <= 1 for cut in point.cut_offs)
        # The inverse of `content`; also refuses unknown keys.
        sound = sound and point.content() == dict(plain)
        if not point.images:
            raise UsageError(
                f"{origin} does not list its tuning images, so overlap with the test set cannot be checked; tune again."
            )
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise UsageError(f"{origin} is not {_WHAT} ({problem!r}).") from problem
    if not sound:
        raise UsageError(f"{origin} is not {_WHAT}: its cut-offs are not four numbers above 0 and at most 1.")
    return point


def _patient_hashes(names: list[str], key: str) -> list[str]:
    salt = hashlib.sha256(f"{FORMAT}\n{key}".encode()).digest()[:16]

    def one(name: str) -> str:
        return hashlib.scrypt(name.encode(), salt=salt, **_SCRYPT).hex()

    with ThreadPoolExecutor() as pool:  # scrypt runs outside the interpreter's lock
        return list(pool.map(one, names))
