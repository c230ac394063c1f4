"""DICOM ophthalmic photographs: pixels, the eye, and the patient by the header, which is never shown.

A photograph is unpacked as `drgate.layouts.pictures` says: the encoded frame as it is, or pixels as PPM or PGM.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from drgate import limits
from drgate.content import HEAD, named
from drgate.errors import ManifestError, install
from drgate.files import read_beginning, remove
from drgate.layouts.found import Found
from drgate.layouts.holdings import DICOM_SUFFIXES, without_suffix
from drgate.layouts.pictures import Unpacked
from drgate.layouts.tables import rows_named
from drgate.screen import silenced

_PHOTOGRAPHS: Final = (
    "1.2.840.10008.5.1.4.1.1.77.1.5.1",  # ophthalmic photography, 8 bits
    "1.2.840.10008.5.1.4.1.1.77.1.4",  # visible light photography
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
)
_ENCODED: Final = {
    "1.2.840.10008.1.2.4.50": (".jpg", ("YBR_FULL_422", "YBR_FULL", "MONOCHROME2")),
    "1.2.840.10008.1.2.4.90": (".j2k", ("YBR_RCT", "YBR_ICT", "RGB", "MONOCHROME2")),
    "1.2.840.10008.1.2.4.91": (".j2k", ("YBR_RCT", "YBR_ICT", "RGB", "MONOCHROME2")),
}
"""Encodings that Pillow reads: the suffix of a frame, and the colours that its decoder takes for what they are."""
_PLAIN: Final = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")


class _Photograph(NamedTuple):
    data: bytes
    suffix: str
    eye: str | None
    patient: str | None


class _Unusable(Exception):
    """Why a file is no photograph that is read; its text is one of this module's."""


def unpacked(found: Found, origin: Path, files: bool) -> Found:
    """The rows with their DICOM files as pictures, the eye and the patient from the header where no column says them.

    files: whether pictures are written. Files that cannot be used are troubles, counted by reason. Raises
    ManifestError where some rows are DICOM and others are not, and without the extra `dicom`.
    """
    table = found.table
    missing = {*found.missing}
    usable = [row for row in range(len(table)) if row not in missing]
    images = table["image"].tolist()  # a cell at a time, a table is slow
    rows = [row for row in usable if _is_dicom(found.root, str(images[row]))]
    if not rows:
        return found
    if len(rows) < len(usable):
        raise ManifestError(
            f"{origin}: {len(rows)} of {len(usable)} images are DICOM and others are not; keep one kind."
        )
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise ManifestError(
            f"{origin}: the images are DICOM, which needs the extra dicom. {install('dicom')}."
        ) from None
    pictures = Unpacked(files)
    names, patients = images, ["unread"] * len(table)
    eyes: list[str | None] = [None] * len(table)
    unusable: dict[str, list[int]] = {}
    try:
        for row in rows:
            image = str(names[row])
            try:
                one = _read(found.root / image)
            except _Unusable as reason:
                unusable.setdefault(str(reason), []).append(row)
                continue
            names[row] = f"{without_suffix(image)[0]}{one.suffix}"
            eyes[row], patients[row] = one.eye, one.patient or ""
            pictures.put(names[row], one.data)
        for why, some in unusable.items():
            where = rows_named(origin, table, some)
            found.troubles.append(f"{where}: {why}, in {len(some)} of {len(table)} rows; remove them, or convert them.")
            found.missing += some
    except BaseException:
        if files:
            remove(pictures.root, os.getpid())
        raise
    found.table = table.assign(image=pd.Series(names, table.index, dtype="object"))
    if "eye" not in table.columns:
        found.table["eye"] = pd.Series(eyes, table.index, dtype="object")
    if "patient" not in table.columns and "" not in patients:
        found.table["patient"] = pd.Series(patients, table.index, dtype="object")
        found.patients_of_header = True
    lacking = patients.count("")
    found.said.append(
        f"{len(rows)} DICOM files, eyes and patients by their headers"
        + (f"; {lacking} name no patient, so patients are not known." if lacking else ".")
    )
    found.root, found.inside = pictures.root if files else found.root, files
    pictures.keep_for(found)
    return found


def _is_dicom(root: Path, image: str) -> bool:
    if suffix := without_suffix(image)[1]:
        return suffix in DICOM_SUFFIXES
    path = root / image
    try:
        there = path.is_file()
    except (OSError, ValueError):
        return False
    return there and named(read_beginning(path, HEAD, "a photograph", ManifestError)) == "a DICOM file"


def _read(path: Path) -> _Photograph:
    """Raises _Unusable. What pydicom says, which repeats values of the header, is not passed on."""
    try:
        with silenced("pydicom"):
            return _photograph(path)
    except _Unusable:
        raise
    except Exception:  # on a damaged file pydicom raises nearly anything
        raise _Unusable("it cannot be read as DICOM") from None


def _photograph(path: Path) -> _Photograph:
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info

    if path.stat().st_size > limits.TABLE_BYTES:
        raise _Unusable(f"it is larger than {limits.TABLE_BYTES >> 30} GB")
    syntax = str(read_file_meta_info(path).TransferSyntaxUID)
    if syntax not in (*_PLAIN, *_ENCODED):  # also deflated files, whose size in memory is not known
        raise _Unusable("its pixels are in an encoding that is not read (plain, JPEG and JPEG 2000 are)")
    header = dcmread(path)
    if str(header.get("SOPClassUID", "")) not in _PHOTOGRAPHS:
        raise _Unusable("it is no photograph by its header")
    if "PixelData" not in header:
        raise _Unusable("it has no pixels")
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise _Unusable("it has several frames")
    eye = str(header.get("ImageLaterality") or header.get("Laterality") or "")
    patient = str(header.get("PatientID") or "").strip()
    data, suffix = _encoded(header, syntax) if syntax in _ENCODED else _pixels(header)
    return _Photograph(data, suffix, eye if eye in ("L", "R") else None, patient or None)


def _encoded(header: Any, syntax: str) -> tuple[bytes, str]:
    from pydicom.encaps import generate_frames

    suffix, colours = _ENCODED[syntax]
    if str(header.PhotometricInterpretation) not in colours:
        raise _Unusable("its colours are in a form that is not read")
    frame: bytes = next(generate_frames(header.PixelData, number_of_frames=1))
    return frame, suffix


def _pixels(header: Any) -> tuple[bytes, str]:
    colours = {"RGB": 3, "MONOCHROME2": 1}.get(str(header.PhotometricInterpretation))
    if colours is None or int(header.SamplesPerPixel) != colours or int(header.BitsAllocated) != 8:
        raise _Unusable("its colours are in a form that is not read")
    height, width = int(header.Rows), int(header.Columns)
    values = np.frombuffer(header.PixelData, np.uint8)[: height * width * colours]
    if colours == 3 and int(header.get("PlanarConfiguration") or 0) == 1:
        values = values.reshape(3, height, width).transpose(1, 2, 0)
    pixels = values.reshape(height, width, colours)
    kind, suffix = (b"P6", ".ppm") if colours == 3 else (b"P5", ".pgm")
    return b"%s\n%d %d\n255\n" % (kind, width, height) + pixels.tobytes(), suffix
