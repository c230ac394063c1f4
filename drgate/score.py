"""A model over the images of a manifest: predictions that know which model and which images they are of.

    predictions = score(load_grader(Path("best_model.pth")), load_manifest("data").select("test"))

Images are streamed: worker processes decode, the model grades batches, memory does not grow with the number of images.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import PIL
from numpy.typing import NDArray

from drgate.errors import ImageUnreadable
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
    """
    from drgate.vision.decoding import in_processes, usable_cores

    table = manifest.table
    paths = [manifest.path(image) for image in table["image"]]
    prepared = in_processes(
        partial(_prepare, preprocess=grader.preprocessing),
        paths,
        workers=usable_cores() if workers is None else workers,
    )
    probabilities = np.full((len(table), 5), np.nan)
    refused: dict[str, str] = {}
    for start, batch in _batches(prepared):
        readable = [i for i, pixels in enumerate(batch) if not isinstance(pixels, str)]
        if readable:
            logits = grader.logits(np.stack([batch[i] for i in readable]))
            probabilities[[start + i for i in readable]] = softmax(logits)
        refused |= {table["image"].iloc[start + i]: pixels for i, pixels in enumerate(batch) if isinstance(pixels, str)}
        advance(len(batch))
    silent = np.isnan(probabilities).any(axis=1)
    probabilities[silent] = np.nan
    for image in table["image"][silent]:
        reason = refused.get(image, f"the model gave no finite numbers for {image}.")
        warnings.warn(f"No output: {reason}", NoOutputWarning, stacklevel=2)
    scored = table.drop(columns="split").assign(
        **{name: probabilities[:, j] for j, name in enumerate(PROBABILITIES)}
    )
    return make_predictions(scored, str(manifest.origin), _provenance(grader, manifest))


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


def _prepare(path: Path, preprocess: Preprocessing) -> NDArray[np.float32] | str:
    """The network's input, or why there is none."""
    from drgate.vision.images import read_image

    try:
        return preprocess(read_image(path))
    except ImageUnreadable as problem:
        return str(problem)


def _batches(
    prepared: Iterator[NDArray[np.float32] | str],
) -> Iterator[tuple[int, list[NDArray[np.float32] | str]]]:
    start = 0
    while batch := list(islice(prepared, BATCH)):
        yield start, batch
        start += len(batch)


def _provenance(grader: Grader, manifest: Manifest) -> dict[str, Any]:
    return {
        "model": {
            **grader.description,
            "name": grader.files[0].name,
            "files": model_files(grader.files),
            "tensor_digest": grader.tensor_digest,
            "providers": grader.providers,
        },
        "manifest": {
            "name": manifest.origin.name,
            "digest": manifest.digest(),
            "split": _only(manifest.table["split"]),
            "images_digest": manifest.images_digest(),
        },
        "preprocessing": {**grader.preprocessing.as_dict(), "pillow": PIL.__version__},
    }


def _only(split: Any) -> str:
    names = split.dropna().unique()
    return str(names[0]) if len(names) == 1 else ""
