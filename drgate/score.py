"""A model over the images of a manifest: predictions that know which model and which images they are of.

    predictions = score(load_grader(Path("best_model.pth")), load_manifest("data").select("test"))

Images are streamed: worker processes decode, the model grades batches, memory does not grow with the number of images.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd
import PIL
from numpy.typing import NDArray

from drgate import __version__
from drgate.errors import ImageUnreadable, ManifestError, PredictionsError
from drgate.files import md5_file, sha256_file
from drgate.manifest import Manifest
from drgate.predictions import PROBABILITIES, Predictions, make_predictions

if TYPE_CHECKING:
    from drgate.vision.graders import Grader
    from drgate.vision.images import Preprocessing

BATCH: Final = 32


class NoOutputWarning(UserWarning):
    """An image stays in the table without an answer from the model."""


def score(
    grader: Grader,
    manifest: Manifest,
    *,
    workers: int | None = None,
    advance: Callable[[int], Any] = lambda images: None,
) -> Predictions:
    """Grade every image of a manifest.

    An image that cannot be read, or for which the model gives no finite numbers, becomes a row without probabilities
    and a `NoOutputWarning`: the model refused it, and the checklist says how that counts.

    workers: processes that decode (default: the cores there are; 0: decode here). advance: called with the number of
    images done, batch by batch.

    Raises ManifestError when a patient or a picture of the model's training set is among the images, as far as the
    model's fingerprint tells, or a file is not the one whose SHA-256 the manifest gives; PredictionsError when a
    further column cannot be read or no image at all could be graded.
    """
    from drgate.vision.decoding import in_processes, usable_cores

    _refuse_training_patients(grader, manifest)
    trained_on = set() if grader.fingerprint is None else {row.tobytes() for row in grader.fingerprint.images}
    table = manifest.table
    rows = _rows(manifest)
    paths = [manifest.path(image) for image in table["image"]]
    prepared = in_processes(
        partial(_prepare, preprocess=grader.preprocessing, hashed=bool(trained_on)),
        paths,
        workers=usable_cores() if workers is None else workers,
    )
    probabilities = np.full((len(table), 5), np.nan)
    refused: dict[str, str] = {}
    known: list[str] = []
    for start, batch in _batches(prepared):
        readable = [i for i, item in enumerate(batch) if not isinstance(item.pixels, str)]
        if readable:
            probabilities[[start + i for i in readable]] = softmax(
                grader.logits(np.stack([batch[i].pixels for i in readable]))
            )
        for i, item in enumerate(batch):
            image = str(table["image"].iloc[start + i])
            if isinstance(item.pixels, str):
                refused[image] = item.pixels
            elif item.hash in trained_on:
                known.append(image)
        advance(len(batch))
    if known:
        raise ManifestError(
            f"{manifest.origin}: {len(known)} pictures of this set were in the model's training set "
            f"({_few(known)}: equal perceptual hash); a model is not judged on them."
        )
    silent = np.isnan(probabilities).any(axis=1)
    if silent.all():
        reason = next(iter(refused.values()), "the model gave no finite numbers.")
        raise PredictionsError(f"{manifest.origin}: not one image could be graded; the first: {reason}")
    probabilities[silent] = np.nan
    for image in table["image"][silent]:
        reason = refused.get(image, f"the model gave no finite numbers for {image}.")
        warnings.warn(f"No output: {reason}", NoOutputWarning, stacklevel=2)
    scored = rows.assign(**{name: probabilities[:, j] for j, name in enumerate(PROBABILITIES)})
    return make_predictions(scored, str(manifest.origin), _provenance(grader, manifest))


def _rows(manifest: Manifest) -> pd.DataFrame:
    """What the table of predictions takes from the manifest, checked before the hours that scoring may take."""
    table = manifest.table
    contents = table["image"].map(manifest.content_digests()).astype("str")
    if "sha256" in table.columns:
        other = table["sha256"].notna() & (table["sha256"].str.strip().str.lower() != contents)
        if other.any():
            image = table["image"][other].iloc[0]
            raise ManifestError(
                f"{manifest.origin}: {manifest.path(image)} has another SHA-256 than the manifest says."
            )
    # A manifest's own columns of these names must not answer for images that the model did not.
    rows = table.drop(columns=["split", "predicted", *PROBABILITIES], errors="ignore").assign(sha256=contents)
    make_predictions(rows.assign(predicted="0"), str(manifest.origin), {})
    return rows


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Probabilities (n, 5) in float64 from logits (n, 5); a row with anything not finite is NaN throughout."""
    values = logits.astype(np.float64)
    values[~np.isfinite(values).all(axis=1)] = np.nan
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def model_files(files: list[Path]) -> list[dict[str, Any]]:
    """Name, SHA-256, MD5 (for DVC) and size of each file of a model."""
    return [
        {"name": file.name, "sha256": sha256_file(file), "md5": md5_file(file), "size": file.stat().st_size}
        for file in files
    ]


class _Prepared(NamedTuple):
    pixels: Any  # the network's input, or a sentence that says why there is none
    hash: bytes = b""


def _prepare(path: Path, preprocess: Preprocessing, hashed: bool) -> _Prepared:
    from drgate.vision.fingerprint import image_hash
    from drgate.vision.images import read_image

    try:
        image = read_image(path)
    except ImageUnreadable as problem:
        return _Prepared(str(problem))
    return _Prepared(preprocess(image), image_hash(image) if hashed else b"")


def _batches(prepared: Iterator[_Prepared]) -> Iterator[tuple[int, list[_Prepared]]]:
    start = 0
    while batch := list(islice(prepared, BATCH)):
        yield start, batch
        start += len(batch)


def _refuse_training_patients(grader: Grader, manifest: Manifest) -> None:
    if grader.fingerprint is None or not manifest.patients_known:
        return
    from drgate.vision.fingerprint import shares_patients

    if shared := shares_patients(grader.fingerprint, manifest.table["patient"]):
        raise ManifestError(
            f"{manifest.origin}: {len(shared)} patients of this set were in the model's training set ({_few(shared)}); "
            "a model is not judged on them."
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _leakage(grader: Grader, manifest: Manifest) -> list[str]:
    """What was checked; each of these would have been refused had it been found."""
    checked = []
    if manifest.split_of:
        checked.append("The manifest's splits share no patient and no byte-identical file.")
    if grader.fingerprint is not None:
        named = manifest.patients_known and len(grader.fingerprint.patients)
        who = "No patient (by name) and no picture" if named else "No picture"
        checked.append(f"{who} of the model's training set is in the test set (by equal perceptual hash).")
    return checked


def _versions(kind: str) -> dict[str, str]:
    """Versions of what computes a model of this kind: execution providers are nothing without them."""
    found = {"drgate": __version__}
    for name in ("onnxruntime",) if kind == "onnx" else ("torch", "transformers", "peft"):
        # of the module: the same one comes in several distributions (onnxruntime-gpu)
        found[name] = str(importlib.import_module(name).__version__)
    return found


def _provenance(grader: Grader, manifest: Manifest) -> dict[str, Any]:
    return {
        "model": {
            **grader.description,
            "name": grader.files[0].name,
            "files": model_files(grader.files),
            "tensor_digest": grader.tensor_digest,
            "providers": grader.providers,
            "scored_with": _versions(grader.description["kind"]),
        },
        "manifest": {
            "name": manifest.name,
            "digest": manifest.digest(),
            "split": manifest.split_of,
            "dealt_by_seed": manifest.dealt_by_seed,
            "images_digest": manifest.images_digest(),
        },
        "preprocessing": {**grader.preprocessing.as_dict(), "pillow": PIL.__version__},
        "leakage": _leakage(grader, manifest),
        "warnings": [
            *manifest.duplicates(),
            *(
                f"Images come from: {name}."
                for name in sorted(manifest.table.get("source", pd.Series()).dropna().unique())
            ),
        ],
    }
