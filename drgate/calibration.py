"""The photographs on which an export to int8 is calibrated: no file and no named patient of the test set.

given = Calibrating.of("eyepacs:val", "test")
calibrated = calibration(given, test_set, recipe)
calibrated.pixels, calibrated.record
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drgate.audit.patients import spelling
from drgate.buckets import located
from drgate.errors import ImageUnreadable, ManifestError, UsageError
from drgate.evaluation import Calibration
from drgate.manifest import SPLITS, Manifest, images_digest, load_manifest, split_by_patient
from drgate.mapping import PLAIN, ColumnMap
from drgate.preprocessing import PreprocessingError

if TYPE_CHECKING:
    from drgate.preprocessing import Preprocessing

IMAGES: Final = 128
"""Photographs that calibrate at most, spread over those that are given."""


@dataclass(frozen=True, slots=True)
class Calibrating:
    """MANIFEST[:SPLIT]: of a manifest with splits, those of one of them. split: None where it was not named."""

    data: Path
    split: str | None = None

    @classmethod
    def of(cls, text: str, judged: str) -> Calibrating:
        """What `--calibration` names. judged: the split that the model is judged on.

        Raises UsageError for a split that may not be seen, or is none.
        """
        data, colon, split = text.rpartition(":")
        if not colon or not data or {*"/\\"} & {*split} or Path(text).exists():
            return cls(located(text))
        if split in ("test", judged):
            raise UsageError(
                f"--calibration {text}: the split {split} is to judge by, and calibration may not see it; name the "
                "split train, or other data."
            )
        if split not in SPLITS:
            raise UsageError(
                f"--calibration {text}: {split!r} is no split; expected train or val, such as {data}:train."
            )
        return cls(located(data), split)


class Calibrated(NamedTuple):
    """pixels: (n, ...) as the network takes them; record: which photographs they are."""

    pixels: NDArray[np.float32]
    record: Calibration


def refuse_mismatch(precision: str, given: object | None) -> None:
    """Raise UsageError for int8 without photographs to calibrate on, and for such photographs without int8."""
    if precision == "int8" and given is None:
        raise UsageError("int8 is calibrated on photographs; give them with --calibration MANIFEST[:SPLIT].")
    if precision != "int8" and given is not None:
        raise UsageError(f"--calibration belongs to --precision int8, not {precision}; leave it out.")


def calibration(
    given: Calibrating, test_set: Manifest, recipe: Preprocessing, *, columns: ColumnMap = PLAIN
) -> Calibrated:
    """Photographs of the split `train` unless another is named (all, where there are no splits), as a model sees them.

    test_set: what the model is judged on. Raises ManifestError where an image (the same bytes) or a named patient of it
    (in any spelling) is among those that are given, and where none can be read; and as `load_manifest`.
    """
    manifest = _selected(given, test_set, load_manifest(given.data, columns=columns))
    both = [
        {
            "image": {*one.content_digests().values()},
            "patient": {spelling(patient) or patient for patient in one.table["patient"].dropna()},
        }
        for one in (manifest, test_set)
    ]
    for what in both[0]:
        if many := len(both[0][what] & both[1][what]):
            raise ManifestError(
                f"--calibration {given.data} holds {many} {what}{'' if many == 1 else 's'} of the test set "
                f"{test_set.origin}, which calibration may not see; take them out, or give other photographs."
            )
    chosen = manifest.spread(IMAGES)
    names = [str(name) for name in manifest.table["image"].iloc[chosen]]
    from drgate.vision.images import read_image

    pixels = []
    contents = []
    for name in names:
        with contextlib.suppress(ImageUnreadable, PreprocessingError):  # the others calibrate
            pixels.append(recipe(read_image(manifest.path(name), recipe.decoded_at)))
            contents.append(manifest.content_digests()[name])
    if not pixels:
        raise ManifestError(f"--calibration {given.data}: no photograph could be read; give others.")
    return Calibrated(np.stack(pixels), Calibration(len(pixels), images_digest(contents)))


def _selected(given: Calibrating, test_set: Manifest, manifest: Manifest) -> Manifest:
    split = given.split or "train"
    if manifest.table["split"].isna().all():
        if test_set.dealt_by_seed is None or test_set.root != manifest.root:
            if given.split is None:
                return manifest
            raise ManifestError(f"--calibration {given.data} has no splits; leave :{split} out.")
        manifest = split_by_patient(manifest, seed=test_set.dealt_by_seed)  # as training dealt this very set
    if not (manifest.table["split"] == split).any():
        raise ManifestError(
            f"--calibration {given.data} has no images in the split {split}; name another, such as "
            f"{given.data}:{'train' if split == 'val' else 'val'}."
        )
    return manifest.select(split)
