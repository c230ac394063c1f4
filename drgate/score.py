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
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from drgate.errors import CheckpointError, ImageUnreadable, LeakFound, ManifestError, PredictionsError, UsageError
from drgate.evaluation import Parity, Precision, plain_of
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
"""A CPU gains nothing from more."""
CPU_PIXELS: Final = 2 * 448**2
"""Of a batch on a CPU: of larger images, it gains nothing from more than one or two. The last batch is filled up: in a
batch of 8, MedSigLIP-448 would take 45 s for one photograph."""
RAW_BATCH: Final = 8
"""Of photographs as decoded: each takes up to 40 MB, of a size that is not known before."""
BATCH_PIXELS: Final = BATCH * 448**2
"""Of larger images, fewer are in a batch: a model file can ask for 4096 x 4096, of which 32 take 6 GB."""

WORTH_A_WORKER: Final = 64
"""Images for each worker, or it is not started: to start takes a core as long as to prepare these."""
BATCH_AT_MOST: Final = 1024
PIXELS_AT_MOST: Final = BATCH_AT_MOST * 1024**2
"""Of a batch that is asked for: 13 GB as network input."""
COMPARED: Final = 64
"""Images on which another precision is held against fp32."""
PARITY: Final = 0.05
"""How much a probability may change in another precision; of a regression, this share of its largest number."""

OTHER_GRADES: Final = 0.1
"""Share of the images of which the most probable grade may be another: where two are nearly as probable, a small change
of a probability is enough. One image may, however few there are."""


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
    batch: int | None = None,
) -> Predictions:
    """Grade every image of a manifest, and audit it in the same pass.

    An image that cannot be read, that the rule of image quality beside the model refuses, or for which the model gives
    no finite numbers, becomes a row without probabilities and a `NoOutputWarning`; the checklist defines how such
    images count.

    Under torchrun every process scores its share; the first continues with all of them, the others end here
    (SystemExit).

    workers: processes that decode (default: one per core, fewer for few images; 0: decode in this process). advance:
    called after each batch with its number of images. against: what the set is compared with; None makes no audit.
    trial: grade only so many images, spread over the set; the others have no output, and no picture is compared.
    batch: images that are graded at a time (default: `BATCH` on a GPU, `CPU_BATCH` on a CPU, fewer of large ones).

    A network of torch in another precision than fp32 is first held against fp32 on some of the images.

    Raises LeakFound where the audit shows that a patient or an image was in training, before scoring where tables and
    fingerprint show it (see `unanswered`); ManifestError where a file's SHA-256 differs from the manifest's;
    PredictionsError when another column cannot be read or no image could be graded; CheckpointError where another
    precision changes the answers; UsageError for a size of the batch that cannot be.
    """
    size = _batch_size(grader, batch)
    table = manifest.table
    rows = _rows(manifest)
    audit = None if against is None else before(grader, manifest, against)
    if audit is not None and audit.summary.leaks:
        _end(grader)
        if int(os.environ.get("RANK", "0")) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise SystemExit(0)  # the first process says it
    _refuse_leak(audit, manifest)
    parity = _parity(grader, manifest, size)
    tried = np.arange(len(manifest))
    if trial is None:
        found = _all_shares(grader, manifest, workers, advance, size)
    else:
        tried = manifest.spread(trial)
        found = _Scored(np.full((len(manifest), grader.answer.width), np.nan), {}, {})
        share = _share(grader, manifest, tried, 0, advance, size)
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
    record = _provenance(grader, answer, manifest, audit, withheld)
    record["model"] |= {"batch": size} | ({} if parity is None else {"parity": plain_of(parity)})
    return make_predictions(scored, str(manifest.origin), record)


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
    precision: Precision | None = None,
) -> ToScore:
    """The model, and the images to score with it. preprocess, lora_alpha, python, precision: see `load_grader`.
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

    grader = load_grader(source, base, preprocess, lora_alpha=lora_alpha, python=python, precision=precision)
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


def _all_shares(
    grader: Grader, manifest: Manifest, workers: int | None, advance: Callable[[int], Any], batch: int
) -> _Scored:
    """All images, scored in this process or, under torchrun, divided among all processes."""
    n, size = len(manifest), int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return _share(grader, manifest, np.arange(n), workers, advance, batch)
    from drgate.vision.processes import processes

    with processes() as group:
        positions = np.arange(group.rank, n, group.size)
        mine = _share(grader, manifest, positions, workers, lambda done: advance(done * group.size), batch)
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
    return [
        f"The rule of image quality refuses {many or 'none'} of {len(manifest)} photographs"
        f"{': they have no output' if many else ''}."
    ]


def _share(
    grader: Grader,
    manifest: Manifest,
    positions: NDArray[np.int64],
    workers: int | None,
    advance: Callable[[int], Any],
    size: int,
) -> _Scored:
    """Outputs for the images at these positions, so many at a time."""
    from drgate.vision.decoding import CHUNK, in_processes, usable_cores

    preprocess = grader.preprocessing
    contents = manifest.content_digests()
    images = [str(image) for image in manifest.table["image"].iloc[positions]]
    prepared = in_processes(
        partial(_prepare, preprocess=preprocess),
        [(manifest.path(image), contents[image]) for image in images],
        workers=min(usable_cores(), max(1, len(images) // WORTH_A_WORKER)) if workers is None else workers,
        chunk=max(1, CHUNK * most_at_once(preprocess) // BATCH),
        yielding=not on_cuda(grader),
    )
    found = _Scored(np.full((len(images), grader.answer.width), np.nan), {}, {})
    with _ended(grader):
        for start, batch, answers in _one_ahead(grader, _batches(prepared, size), size):
            readable = [start + i for i, item in enumerate(batch) if not isinstance(item, str)]
            if readable:
                found.outputs[readable] = answers()[: len(readable)]
            for i, item in enumerate(batch):
                image = images[start + i]
                if isinstance(item, str):
                    found.refused[image] = item
                    continue
                found.seen[image] = item.also
            advance(len(batch))
    return found


_Outputs = Callable[[], NDArray[np.float32]]


def _one_ahead(
    grader: Grader, batches: Iterable[tuple[int, list[Prepared | str]]], size: int
) -> Iterator[tuple[int, list[Prepared | str], _Outputs]]:
    """Batches with what gives their outputs, each once the next one has begun: a GPU does not wait for photographs."""
    waiting: tuple[int, list[Prepared | str], _Outputs] | None = None
    for start, batch in batches:
        begun = start, batch, _begun(grader, [one.pixels for one in batch if not isinstance(one, str)], size)
        if waiting is not None:
            yield waiting
        waiting = begun
    if waiting is not None:
        yield waiting


def _begun(grader: Grader, pixels: list[NDArray[Any]], size: int) -> _Outputs:
    """What gives the outputs for images, in a whole batch unless a grader in Python gets them."""
    from drgate.vision.grader import Exportable
    from drgate.vision.python_grader import PythonGrader

    if not pixels:
        return lambda: np.empty((0, grader.answer.width), np.float32)
    if isinstance(grader, Exportable):
        return grader.inference.begin(whole_batch(pixels, size))
    batch = pixels if isinstance(grader, PythonGrader) else whole_batch(pixels, size)
    recipe = grader.preprocessing
    found = grader.outputs(batch if recipe is None else recipe.scaled(np.asarray(batch)))
    return lambda: found


def whole_batch(images: list[NDArray[Any]], size: int) -> NDArray[Any]:
    """So many images, the last one repeated.

    Arithmetic rounds otherwise in a batch of another size: an image would get other bytes as the last one of a set.
    """
    return np.stack(images + images[-1:] * (size - len(images)))


def most_at_once(preprocess: Preprocessing | None) -> int:
    """Images at a time on a GPU."""
    return RAW_BATCH if preprocess is None else min(BATCH, max(1, BATCH_PIXELS // preprocess.size**2))


def usual_batch(grader: Grader) -> int:
    """Images at a time where nobody asks for another number."""
    recipe = grader.preprocessing
    if fixed := _fixed(grader):
        return fixed
    if recipe is None or on_cuda(grader):
        return most_at_once(recipe)
    return min(CPU_BATCH, max(1, CPU_PIXELS // recipe.size**2))


def on_cuda(grader: Grader) -> bool:
    """Whether a GPU computes: the cores are then free for decoding."""
    return any("cuda" in provider.lower() for provider in grader.providers)


def _fixed(grader: Grader) -> int:
    """How many images the file of a model takes at a time; 0: any number."""
    return int(getattr(grader, "batch", 0))


def _batch_size(grader: Grader, asked: int | None) -> int:
    """Images at a time. Raises UsageError for a number that is out of range, or other than a file's own."""
    recipe, fixed = grader.preprocessing, _fixed(grader)
    if asked is None:
        return usual_batch(grader)
    if not 1 <= asked <= BATCH_AT_MOST:
        raise UsageError(f"--batch is {asked}; expected a number from 1 to {BATCH_AT_MOST}.")
    if fixed not in (0, asked):
        raise UsageError(f"The model takes {fixed} images at a time, whatever is asked; leave --batch out.")
    if recipe is not None and asked * recipe.size**2 > PIXELS_AT_MOST:
        most = max(1, PIXELS_AT_MOST // recipe.size**2)
        raise UsageError(f"--batch {asked} of {recipe.size} x {recipe.size} pixels is too large; {most} is the most.")
    return asked


def _parity(grader: Grader, manifest: Manifest, size: int) -> Parity | None:
    """A network of torch in its precision held against fp32, without any reference grade; None where that is fp32.

    Raises CheckpointError where an output is not finite, changes by more than `PARITY`, or decides otherwise for more
    than `OTHER_GRADES` of the images.
    """
    from drgate.vision.grader import Exportable

    precision = grader.precision
    if not isinstance(grader, Exportable) or precision == "fp32":
        return None
    pixels = _some(manifest, grader.preprocessing)
    filled = [whole_batch(pixels[start : start + size], size) for start in range(0, len(pixels), size)]
    before, after = (
        np.concatenate([network.begin(part)() for part in filled])[: len(pixels)]
        for network in (grader.inference.in_fp32(), grader.inference)
    )
    finite = np.isfinite(before).all(axis=1)
    of = f"{int(finite.sum())} images of {manifest.name}"
    if not finite.any():
        raise CheckpointError(f"The model gives no finite numbers for any of {len(pixels)} images, also in fp32.")
    if lost := int((~np.isfinite(after[finite]).all(axis=1)).sum()):
        raise CheckpointError(
            f"In {precision} the model gives no finite numbers for {lost} of {of}. --precision fp32 works."
        )
    answer = grader.answer.recognised(before[finite])
    one, other = (np.column_stack([*answer.columns(found[finite]).values()]) for found in (before, after))
    largest = float(np.abs(one - other).max())
    probabilities = answer.kind != "regression"
    if largest > PARITY * (1.0 if probabilities else float(np.abs(one).max())):
        what = "a probability changes" if probabilities else "its number changes"
        raise CheckpointError(
            f"In {precision}, {what} by up to {largest:.2g} against fp32, on {of}; expected {PARITY} at most"
            f"{'' if probabilities else ' of the largest number'}. --precision fp32 works."
        )
    if not probabilities:
        return Parity(int(finite.sum()), largest)
    grades = (found.argmax(axis=1) if found.shape[1] > 1 else found[:, 0] >= 0.5 for found in (one, other))
    others = int(np.not_equal(*grades).sum())
    if others > max(1, OTHER_GRADES * finite.sum()):
        raise CheckpointError(
            f"In {precision}, {others} of {of} have another grade than in fp32; expected {OTHER_GRADES:.0%} at most. "
            "--precision fp32 works."
        )
    return Parity(int(finite.sum()), largest, others)


def _some(manifest: Manifest, preprocess: Preprocessing | None) -> list[NDArray[Any]]:
    """Pixels of `COMPARED` images that can be read, spread over the set, or of all; PredictionsError for none."""
    first = manifest.spread(COMPARED)
    contents, names = manifest.content_digests(), manifest.table["image"]
    found: list[NDArray[Any]] = []
    problem = ""
    for at in [*first, *np.setdiff1d(np.arange(len(manifest)), first)]:
        if len(found) == COMPARED:
            break
        image = str(names.iloc[at])
        one = _prepare((manifest.path(image), contents[image]), preprocess)
        if isinstance(one, str):
            problem = problem or one
        else:
            found.append(one.pixels)
    if not found:
        raise PredictionsError(f"{manifest.origin}: no image could be graded. The first reason: {problem}")
    return found


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
    """Pixels before channels and scale, and what the audit keeps of the photograph; or why there is neither.

    file: path and SHA-256 (hex). Raises ManifestError where the file has changed.
    """
    from drgate.audit.evidence import examined
    from drgate.vision.prepared import prepare_image

    try:
        return prepare_image(file[0], preprocess, (), examined, content=file[1])
    except ImageUnreadable as problem:
        return str(problem)


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
            "precision": grader.precision,
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
