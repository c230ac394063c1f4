"""The operating point: cut-offs that turn a model's scores into a grade, with a record of the tuning set.

    point = load_operating_point(Path("operating-point.json"))
    point.refuse_overlap(test, key)           # tuning and test must not share images or patients
    test.at(point)                            # the same predictions, graded by the cut-offs

The file knows the tuning images by their content, and patients and names of images by their hashes under a patient key
(`drgate.patients`). Without a key it has no patient, and no name but one digest over all of them together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from drgate.errors import UsageError
from drgate.files import canonical_json, digest_of, read_json, refuse_existing, write_atomically
from drgate.patients import PatientKey, known_of
from drgate.scale import On

if TYPE_CHECKING:
    import pandas as pd

FORMAT: Final = "drgate operating point 3"
_WHAT: Final = "an operating point that drgate tune wrote"
_KEYS: Final = {"format", "on", "cut_offs", "spec", "tuning", "promise", "digest"}


class Scored(Protocol):
    """The parts of a table of predictions that are used here; `drgate.predictions` imports this module."""

    @property
    def table(self) -> pd.DataFrame: ...
    @property
    def origin(self) -> Any: ...
    @property
    def digest(self) -> str: ...
    @property
    def content_keys(self) -> list[str | None]: ...


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Cut-offs and where they come from."""

    on: On
    cut_offs: tuple[float, ...]
    """t_1 to t_4; the grade is the highest k whose score is at least t_k, else 0.

    On probabilities P(grade >= k), each is above 0 and at most 1; on severity, the four are finite and none is below
    the one before. On referable there is one, above 0 and at most 1, from which it is referable.
    """
    spec: Mapping[str, Any]
    """Name, version and digest of the checklist that they were tuned to."""
    predictions_digest: str
    """Of the tuning table."""
    images: tuple[tuple[str, str], ...] = field(repr=False)
    """What identifies the content of each tuning image (16 hex digits, empty where unknown), and with a key the hash of
    its name (16 hex digits, else empty); sorted."""
    names: str = field(repr=False)
    """Digest over the names of the images whose content is not known, together; empty where there are none."""
    key: str
    """Id of the patient key; empty without one."""
    patients: tuple[str, ...] = field(repr=False)
    """Keyed hash (hex) of each tuning patient, sorted; empty without a key, or where patients are unknown."""
    promise: Mapping[str, Any] = field(repr=False)
    """Result of tuning: the chance to pass on the planned test set, and each criterion's counts, bound and chance."""

    @property
    def digest(self) -> str:
        """`sha256:...` over everything else in the file."""
        return digest_of(self._plain())

    def content(self) -> dict[str, Any]:
        """The file as plain values; `parse_operating_point` of it gives the same operating point."""
        plain = self._plain()
        return plain | {"digest": digest_of(plain)}

    def apply(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """Grades 0-4 (n,) of scores (n, 4), see `drgate.predictions.scores_of`; -1 where a row is NaN (no output).

        On referable, 2 stands for referable and 0 for not referable.
        """
        return grades_at(
            scores, (math.inf, *self.cut_offs, math.inf, math.inf) if len(self.cut_offs) == 1 else self.cut_offs
        )

    def refuse_overlap(self, predictions: Scored, key: PatientKey | None = None) -> str:
        """Raise UsageError where an image or a patient of the tuning table is among `predictions`.

        Images are compared by content where both sides have it, else by name, which needs the patient key that the
        cut-offs were tuned with; patients need it too. Returns a sentence on what could not be compared, else "".
        """
        known = known_of(predictions.table, predictions.content_keys, key)
        linked = bool(self.key) and self.key == known.key
        contents = {content for content, _ in self.images if content}
        names = {name: content for content, name in self.images} if linked else {}
        for content, name in zip(known.contents, known.named or [""] * len(known.contents), strict=True):
            if content in contents or (name in names and not (content and names[name])):
                raise UsageError(
                    f"{predictions.origin} has images that the operating point was tuned on; use other test images."
                )
        if self.names and self.names == known.names:
            raise UsageError(
                f"{predictions.origin} has the images that the operating point was tuned on; use other test images."
            )
        if linked and (shared := len(set(self.patients) & {patient.hex() for patient in known.patients})):
            raise UsageError(
                f"{predictions.origin}: {shared} patient{'' if shared == 1 else 's'} of this table "
                f"{'is' if shared == 1 else 'are'} among those that the operating point was tuned on; test on other "
                "patients (a column `source` keeps equal numbers of two sites apart)."
            )
        by_content = all(content for content, _ in self.images) and None not in known.contents
        unchecked = [
            *([] if linked and self.patients and known.patients else ["a patient"]),
            *([] if linked or by_content else ["an image"]),
        ]
        if not unchecked:
            return ""
        why = (
            "no patient key (--patient-key) was given for both"
            if not (self.key and known.key)
            else "they were given with different patient keys"
            if not linked
            else "not all patients are named"
        )
        what = " or ".join(unchecked)
        return f"Whether {what} is among those that the cut-offs were tuned on was not checked: {why}."

    def _plain(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "on": self.on,
            "cut_offs": list(self.cut_offs),
            "spec": dict(self.spec),
            "tuning": {
                "predictions": self.predictions_digest,
                "images": [list(image) for image in self.images],
                "names": self.names,
                "key": self.key,
                "patients": list(self.patients),
            },
            "promise": dict(self.promise),
        }


def make_operating_point(
    cut_offs: Iterable[float],
    *,
    on: On = "probabilities",
    checklist: Mapping[str, Any],
    tuned_on: Scored,
    promise: Mapping[str, Any],
    key: PatientKey | None = None,
) -> OperatingPoint:
    """The operating point of cut-offs that were tuned on a table. key: by which its patients can be compared."""
    known = known_of(tuned_on.table, tuned_on.content_keys, key)
    named = known.named or [""] * len(known.contents)
    return OperatingPoint(
        on,
        tuple(float(cut) for cut in cut_offs),
        checklist,
        tuned_on.digest,
        tuple(sorted((content or "", name) for content, name in zip(known.contents, named, strict=True))),
        known.names,
        known.key,
        tuple(patient.hex() for patient in known.patients),
        promise,
    )


def cumulative(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(grade >= k) for k = 1 to 4, (n, 4), of probabilities (n, 5); always summed from the highest grade down."""
    return np.cumsum(probabilities[:, :0:-1], axis=1)[:, ::-1]


def grades_at(scores: NDArray[np.float64], cut_offs: Sequence[float]) -> NDArray[np.int64]:
    """The highest k whose score reaches its cut-off, else 0, (n,) of scores (n, 4); -1 where a row is NaN."""
    grades = np.where(scores >= np.asarray(cut_offs), np.arange(1, 5), 0).max(axis=1)
    return np.where(np.isnan(scores).any(axis=1), -1, grades).astype(np.int64)


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
        point = OperatingPoint(
            str(plain["on"]),  # type: ignore[arg-type]
            tuple(plain["cut_offs"]),
            dict(plain["spec"]),
            str(tuning["predictions"]),
            tuple((str(content), str(name)) for content, name in tuning["images"]),
            str(tuning["names"]),
            str(tuning["key"]),
            tuple(str(patient) for patient in tuning["patients"]),
            dict(plain["promise"]),
        )
        # The inverse of `content`; also refuses unknown keys.
        sound = point.content() == dict(plain) and _possible(point.on, point.cut_offs)
        if not point.images:
            raise UsageError(
                f"{origin} does not list its tuning images, so overlap with the test set cannot be checked; tune again."
            )
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise UsageError(f"{origin} is not {_WHAT} ({problem!r}).") from problem
    if not sound:
        raise UsageError(
            f"{origin} is not {_WHAT}: its cut-offs are not "
            + {
                "severity": "four finite numbers of which none is below the one before.",
                "referable": "one number above 0 and at most 1.",
            }.get(point.on, "four numbers above 0 and at most 1.")
        )
    return point


def _possible(on: On, cut_offs: Sequence[object]) -> bool:
    """Whether cut-offs are numbers of the kind that they act on."""
    cuts = [cut for cut in cut_offs if type(cut) in (int, float) and math.isfinite(cut)]  # type: ignore[arg-type]
    if on not in get_args(On) or len(cuts) != len(cut_offs) or len(cuts) != (1 if on == "referable" else 4):
        return False
    return cuts == sorted(cuts) if on == "severity" else all(0 < cut <= 1 for cut in cuts)  # type: ignore[type-var,operator]
