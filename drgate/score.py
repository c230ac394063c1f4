"""Predictions of a model for the images of a manifest, with the digests of the model and the images.

    predictions = score(load_grader(Path("best_model.pth")), load_manifest("data").select("test"))

Images are streamed: worker processes decode them and the model grades batches, so memory use does not depend on the
number of images.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd
import PIL
from numpy.typing import NDArray

from drgate import __version__
from drgate.audited import ALONE, Against, Found, after, before
from drgate.errors import ImageUnreadable, LeakFound, ManifestError, PredictionsError, UsageError
from drgate.evaluation import plain_of
from drgate.gradability import gradable
from drgate.manifest import Manifest, dealt_by, load_manifest, split_by_patient, training_rows
from drgate.mapping import PLAIN, ColumnMap
from drgate.metrics import AUDITED
from drgate.models import find_model, refuse_no_base
from drgate.predictions import ANSWERS, Predictions, make_predictions, without_answers

if TYPE_CHECKING:
    from drgate.answers import Answer
    from drgate.audit.evidence import Examined
    from drgate.certificate.statement import Statement
    from drgate.preprocessing import Preprocessing
    from drgate.vision.grader import Grader
    from drgate.vision.prepared import Prepared

BATCH: Final = 32
CPU_BATCH: Final = 8
"""A CPU gains nothing from more, and the last batch is filled up: at 6 s an image, one image would take minutes."""
RAW_BATCH: Final = 8
"""Of photographs as decoded: each takes up to 40 MB, of a size that is not known before."""
BATCH_PIXELS: Final = BATCH * 448**2
"""Of larger images, fewer are in a batch: a model file can ask for 4096 x 4096, of which 32 take 6 GB."""


class NoOutputWarning(UserWarning):
    """An image has no output from the model; its row is in the table without probabilities."""


def score(
    grader: Grader,
    manifest: Manifest,
    *,
    workers: int | None = None,
    advance: Callable[[int], Any] = lambda images: None,
    against: Against | None = ALONE,
    trial: int | None = None,
) -> Predictions:
    """Grade every image of a manifest, and audit it in the same pass.

    An image that cannot be read, that the rule of image quality beside the model refuses, or for which the model gives
    no finite numbers, becomes a row without probabilities and a `NoOutputWarning`; the checklist defines how such
    images count.

    Under torchrun every process scores its share; the first continues with all of them, the others end here
    (SystemExit).

    workers: processes that decode (default: one per core; 0: decode in this process). advance: called after each batch
    with its number of images. against: what the set is compared with; None makes no audit. trial: grade only so many
    images, spread over the set; the others have no output, and no picture is compared.

    Raises LeakFound where the audit shows that a patient or an image was in training, before scoring where tables and
    fingerprint show it (see `unanswered`); ManifestError where a file's SHA-256 differs from the manifest's;
    PredictionsError when another column cannot be read or no image could be graded.
    """
    table = manifest.table
    rows = _rows(manifest)
    audit = None if against is None else before(grader, manifest, against)
    if audit is not None and audit.summary.leaks:
        _end(grader)
        if int(os.environ.get("RANK", "0")) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise SystemExit(0)  # the first process says it
    _refuse_leak(audit, manifest)
    tried = np.arange(len(manifest))
    if trial is None:
        found = _all_shares(grader, manifest, workers, advance)
    else:
        tried = np.unique(np.linspace(0, len(manifest) - 1, trial).astype(np.int64))
        found = _Scored(np.full((len(manifest), grader.answer.width), np.nan), {}, {})
        share = _share(grader, manifest, tried, 0, advance)
        found.outputs[tried] = share.outputs
        found.refused.update(share.refused)
        found.seen.update(share.seen)
    withheld = _withhold(grader, manifest, found)
    refused = found.refused
    if against is not None and trial is None:
        seen = [found.seen.get(image, refused.get(image, "")) for image in table["image"]]
        audit = after(grader, manifest, against, seen, workers=workers)
        _refuse_leak(audit, manifest)
    silent = np.asarray(~np.isfinite(found.outputs).all(axis=1))
    if silent[tried].all():
        reason = next(iter(refused.values()), "the model gave no finite numbers.")
        raise PredictionsError(f"{manifest.origin}: no image could be graded. The first reason: {reason}")
    answer = grader.answer.recognised(found.outputs)
    for image in table["image"].iloc[tried[silent[tried]]]:
        reason = refused.get(image, f"the model gave no finite numbers for {image}.")
        warnings.warn(f"No output: {reason}", NoOutputWarning, stacklevel=2)
    scored = rows.assign(**answer.columns(found.outputs))
    return make_predictions(scored, str(manifest.origin), _provenance(grader, answer, manifest, audit, withheld))


def unanswered(grader: Grader, manifest: Manifest, found: Found) -> Predictions:
    """The table of a set on which the model may not be judged: its rows, and no answer to any."""
    rows = _rows(manifest).assign(predicted=None)
    record = _provenance(grader, grader.answer, manifest, found)
    return without_answers(make_predictions(rows, str(manifest.origin), record))


def _refuse_leak(found: Found | None, manifest: Manifest) -> None:
    """Raise LeakFound where an audit found a leak."""
    if found is None or not (leaks := found.summary.leaks):
        return
    shown = "; ".join(f"{AUDITED[one.id].lower()}: {one.count}" for one in leaks)
    raise LeakFound(
        f"{manifest.origin}: the audit found a leak ({shown}). The model knows these images or patients; use others.",
        found,
    )


class ToScore(NamedTuple):
    """A model, the images to score with it, and the training data at hand."""

    grader: Grader
    test_set: Manifest
    training: tuple[Manifest, ...]


def model_and_test_set(
    source: Path,
    data: Path | None,
    split: str,
    base: str | None,
    parent: Statement | None = None,
    preprocess: Preprocessing | None = None,
    *,
    lora_alpha: float | None = None,
    python: str | None = None,
    columns: ColumnMap = PLAIN,
    train: Sequence[Path] = (),
) -> ToScore:
    """The model, and the images to score with it. preprocess, lora_alpha, python: see `load_grader`.
    columns: which column of the manifests is which. train: further manifests of training data, of which the splits
    train and val count, or all where there are none; the other splits of the test set's own manifest count too.

    These are the images of one split. If the manifest has no splits but training split this manifest itself, as the
    model's record or its parent's certificate states, they are the images of that split; otherwise all images.

    Raises DrgateError for a file that is not a model and a missing or unusable manifest.
    """
    if data is None:
        raise UsageError(f"{source} is a model and needs images; give them with --data MANIFEST.")
    if split == "train":
        raise UsageError("A model cannot be judged on its training split; choose another with --split.")
    if python is None:
        find_model(source)
    if base is not None:
        refuse_no_base(base)
    manifest = load_manifest(data, columns=columns)
    given = tuple(training_rows(load_manifest(one, columns=columns)) for one in train)
    from drgate.vision.graders import load_grader

    grader = load_grader(source, base, preprocess, lora_alpha=lora_alpha, python=python)
    if manifest.table["split"].isna().all():
        seed = _dealt_by(grader, manifest, parent)
        if seed is None:
            return ToScore(grader, manifest, given)
        manifest = split_by_patient(manifest, seed=seed)
    others = manifest.table["split"].notna() & (manifest.table["split"] != split)
    rest = (replace(manifest, table=manifest.table[others].reset_index(drop=True)),) if others.any() else ()
    return ToScore(grader, manifest.select(split), (*rest, *given))


def _dealt_by(grader: Grader, manifest: Manifest, parent: Statement | None) -> int | None:
    """The seed with which training split this same manifest, if it did."""
    if parent is not None:
        return parent.evaluation.data.dealt_by_seed
    return dealt_by(grader.record, manifest)


def _all_shares(grader: Grader, manifest: Manifest, workers: int | None, advance: Callable[[int], Any]) -> _Scored:
    """All images, scored in this process or, under torchrun, divided among all processes."""
    n, size = len(manifest), int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return _share(grader, manifest, np.arange(n), workers, advance)
    from drgate.vision.processes import processes

    with processes() as group:
        positions = np.arange(group.rank, n, group.size)
        mine = _share(grader, manifest, positions, workers, lambda done: advance(done * group.size))
        shares = group.gather((positions, mine))
    if not group.first:
        raise SystemExit(0)  # the first process continues with all shares
    os.environ["WORLD_SIZE"] = "1"
    where = np.concatenate([positions for positions, _ in shares])
    if not np.array_equal(np.sort(where), np.arange(n)):
        raise PredictionsError(
            f"{manifest.origin}: the processes did not score every image exactly once; score again in one process."
        )
    whole = _Scored(np.empty((n, grader.answer.width)), {}, {})
    for positions, share in shares:
        whole.outputs[positions] = share.outputs
        whole.refused.update(share.refused)
        whole.seen.update(share.seen)
    return whole


class _Scored(NamedTuple):
    outputs: NDArray[np.float64]  # (n, k), the model's; NaN where there are none
    refused: dict[str, str]  # image -> why it has no output
    seen: dict[str, Examined]  # image -> what the audit keeps of it


def _withhold(grader: Grader, manifest: Manifest, found: _Scored) -> list[str]:
    """Take the model's answers from photographs that the rule of image quality beside it refuses.

    Returns what the report says of their number.
    """
    if (rule := getattr(grader, "rule", None)) is None:
        return []
    many = 0
    for at, image in enumerate(manifest.table["image"]):
        if image in found.seen and (why := gradable(found.seen[image].measures, rule)):
            found.outputs[at] = np.nan
            found.refused[image] = f"{manifest.path(image)}: refused by the rule of image quality ({why})."
            many += 1
    return [f"The rule of image quality refuses {many} of {len(manifest)} photographs: they have no output."]


def _share(
    grader: Grader,
    manifest: Manifest,
    positions: NDArray[np.int64],
    workers: int | None,
    advance: Callable[[int], Any],
) -> _Scored:
    """Outputs for the images at these positions."""
    from drgate.vision.decoding import CHUNK, in_processes, usable_cores

    preprocess = grader.preprocessing
    most = RAW_BATCH if preprocess is None else min(BATCH, max(1, BATCH_PIXELS // preprocess.size**2))
    batch_size = most if any("cuda" in provider.lower() for provider in grader.providers) else min(CPU_BATCH, most)
    filled = _filled(grader, batch_size)
    contents = manifest.content_digests()
    images = [str(image) for image in manifest.table["image"].iloc[positions]]
    prepared = in_processes(
        partial(_prepare, preprocess=preprocess),
        [(manifest.path(image), contents[image]) for image in images],
        workers=usable_cores() if workers is None else workers,
        chunk=max(1, CHUNK * most // BATCH),
    )
    found = _Scored(np.full((len(images), grader.answer.width), np.nan), {}, {})
    with _ended(grader):
        for start, batch in _batches(prepared, batch_size):
            readable = [i for i, item in enumerate(batch) if not isinstance(item, str)]
            if readable:
                pixels = [item.pixels for item in batch if not isinstance(item, str)]
                pixels += pixels[-1:] * (filled - len(pixels))
                given = pixels if preprocess is None else np.stack(pixels)
                found.outputs[[start + i for i in readable]] = grader.outputs(given)[: len(readable)]
            for i, item in enumerate(batch):
                image = images[start + i]
                if isinstance(item, str):
                    found.refused[image] = item
                    continue
                found.seen[image] = item.also
            advance(len(batch))
    return found


def _filled(grader: Grader, batch_size: int) -> int:
    """The number of images that every batch is filled up to; 0 where the grader decides.

    Arithmetic rounds otherwise in a batch of another size: an image would get other bytes as the last one of a set.
    """
    from drgate.vision.python_grader import PythonGrader

    if isinstance(grader, PythonGrader) or getattr(grader, "batch", None):
        return 0
    return batch_size


def _end(grader: Grader) -> None:
    from drgate.vision.python_grader import PythonGrader

    if isinstance(grader, PythonGrader):
        grader.end()


@contextlib.contextmanager
def _ended(grader: Grader) -> Iterator[None]:
    """Afterwards the process of a grader in Python has ended: nothing else happens while it runs, least of all a
    signature."""
    from drgate.vision.python_grader import PythonGrader

    if not isinstance(grader, PythonGrader):
        yield
        return
    try:
        yield
        grader.finish()
    finally:
        grader.end()


def _rows(manifest: Manifest) -> pd.DataFrame:
    """The manifest's columns for the table of predictions, checked before scoring, which can take hours."""
    table = manifest.table
    contents = table["image"].map(manifest.content_digests()).astype("str")
    if "sha256" in table.columns:
        other = table["sha256"].notna() & (table["sha256"].str.strip().str.lower() != contents)
        if other.any():
            image = table["image"][other].iloc[0]
            raise ManifestError(
                f"{manifest.origin}: {manifest.path(image)} does not have the SHA-256 that the manifest gives; "
                "restore the file, or correct the manifest."
            )
    # Otherwise such a column of the manifest would be taken for the model's output.
    rows = table.drop(columns=["split", *ANSWERS], errors="ignore").assign(sha256=contents)
    make_predictions(rows.assign(predicted="0"), str(manifest.origin), {})
    return rows


def _prepare(file: tuple[Path, str], preprocess: Preprocessing | None) -> Prepared | str:
    """The network's input as pixels of it, and what the audit keeps of the photograph; or why there is neither.

    file: path and SHA-256 (hex). Raises ManifestError where the file has changed.
    """
    from drgate.audit.evidence import examined
    from drgate.vision.prepared import prepare_image

    try:
        found = prepare_image(file[0], preprocess, (), examined, content=file[1])
    except ImageUnreadable as problem:
        return str(problem)
    return found if preprocess is None else replace(found, pixels=preprocess.scaled(found.pixels))


def _batches(prepared: Iterator[Prepared | str], size: int) -> Iterator[tuple[int, list[Prepared | str]]]:
    start = 0
    while batch := list(islice(prepared, size)):
        yield start, batch
        start += len(batch)


def _versions(grader: Grader) -> dict[str, str]:
    """Versions of the packages that compute a model of this kind."""
    from drgate.vision.python_grader import PythonGrader

    found = {"drgate": __version__}
    if isinstance(grader, PythonGrader):
        return {"pillow": PIL.__version__, "python": platform.python_version(), **grader.software, **found}
    for name in ("onnxruntime",) if grader.description["kind"] == "onnx" else ("torch", "transformers", "peft"):
        # the module's version: several distributions install the same module (onnxruntime-gpu)
        found[name] = str(importlib.import_module(name).__version__)
    return found


def _provenance(
    grader: Grader, answer: Answer, manifest: Manifest, audit: Found | None, withheld: Sequence[str] = ()
) -> dict[str, Any]:
    preprocess = grader.preprocessing
    sources = manifest.table.get("source", pd.Series()).nunique()  # counted: they may be hospitals, and are published
    return {
        "model": {
            **grader.description,
            "name": grader.files[0].name,
            "files": [plain_of(file) for file in grader.files],
            "tensor_digest": grader.tensor_digest,
            "output": answer.kind,
            **({"class_names": list(answer.classes)} if answer.classes else {}),
            **({"own_names": list(answer.own_names)} if answer.own_names else {}),
            "providers": grader.providers,
            "scored_with": _versions(grader),
        },
        "manifest": {
            "name": manifest.name,
            "digest": manifest.digest(),
            "split": manifest.split_of,
            "dealt_by_seed": manifest.dealt_by_seed,
            "images_digest": manifest.images_digest(),
        },
        "preprocessing": None
        if preprocess is None
        else {
            "name": preprocess.name,
            "digest": preprocess.digest,
            "content": preprocess.content(),
            "pillow": PIL.__version__,
        },
        **({} if audit is None else audit.record()),
        "warnings": [
            *manifest.copies(),
            *manifest.leftovers(),
            *manifest.mapped(),
            *grader.notes,
            *withheld,
            *(
                [
                    f"Training data not fully known: {grader.unknown_data} Test images and patients could not be "
                    "checked against the unknown part."
                ]
                if grader.unknown_data
                else []
            ),
            *([f"Images come from {sources} sources."] if sources > 1 else []),
        ],
    }
