"""The evidence of an audit, from what a person gives: manifests, a model, a table of predictions.

    asked = Asked(Path("data"), train=(Path("eyepacs"),), checkpoint=Path("best_model.pth"))
    collected = collect(asked, load_checklist("medical-grade"))
    audit(collected.evidence, collected.settings).exit_code

Everything that can be refused is, before a photograph is read; the look at the test set is taken last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from drgate.audit.evidence import Evidence, Photographs, photographs
from drgate.audit.result import OwnNames
from drgate.columns import graded_rows, reference_of
from drgate.compare import look_of, refuse_look
from drgate.errors import PredictionsError, UsageError
from drgate.given import model_in, table_in
from drgate.looks import USUAL, Log
from drgate.manifest import Manifest, dealt_by, images_digest, load_manifest, split_by_patient, training_rows
from drgate.mapping import PLAIN, ColumnMap, for_several, require_used
from drgate.models import find_model
from drgate.predictions import Predictions, content_keys, load_predictions
from drgate.scale import GRADES

if TYPE_CHECKING:
    from drgate.checklist import Checklist
    from drgate.evaluation import Look
    from drgate.vision.checkpoint import Checkpoint

_REFERENCE: Final = ("grade", "referable", "gradable", "patient", "eye")


@dataclass(frozen=True, slots=True)
class Asked:
    """test: the manifest whose split is audited; its other splits count as training. train: manifests of training data,
    of which the splits train and val count, or all where there are none. checkpoint: the model. predictions: its
    answers on the test set. images: False opens no image; only rows are compared. columns: of all tables. log: of
    looks; its key compares patients too.
    """

    test: Path
    train: tuple[Path, ...] = ()
    split: str = "test"
    checkpoint: Path | None = None
    predictions: Path | None = None
    images: bool = True
    columns: ColumnMap = PLAIN
    log: Log = USUAL


@dataclass(frozen=True, slots=True, eq=False)
class Collected:
    """settings: what is audited, for `audit`. look: taken where there are predictions."""

    evidence: Evidence
    settings: dict[str, Any]
    look: Look | None = None

    @property
    def unreadable(self) -> list[str]:
        """A sentence for each photograph that cannot be read."""
        sides = (self.evidence.test, self.evidence.train)
        return [one for side in sides if side is not None for one in side.seen if isinstance(one, str)]

    @property
    def own_names(self) -> OwnNames:
        """For the terminal and for files that stay with the caller."""
        return own_names(self.evidence.test, self.evidence.train)


def collect(
    asked: Asked,
    checklist: Checklist,
    *,
    workers: int | None = None,
    cache: Path | None = None,
    started: Callable[[int], Any] = lambda total: None,
    advance: Callable[[int], Any] = lambda images: None,
    note: Callable[[str], Any] = lambda sentence: None,
) -> Collected:
    """Read all that is asked for. cache, note: of `photographs`. started, advance: called with the number of
    photographs, and of those examined.

    Raises DrgateError for whatever cannot be audited, with no look taken.
    """
    mapping = for_several(asked.columns)
    model = None if asked.checkpoint is None else find_model(model_in(asked.checkpoint))
    given = [load_manifest(one, files=asked.images, columns=mapping) for one in (asked.test, *asked.train)]
    table = None if asked.predictions is None else load_predictions(table_in(asked.predictions), columns=mapping)
    sources = [*asked.train] if asked.predictions is None else [*asked.train, asked.predictions]
    lacking = [*(one.unused for one in given), *([] if table is None else [table.unused])]
    require_used(mapping, dict(zip(map(str, [asked.test, *sources]), lacking, strict=True)))
    checkpoint: Checkpoint | None = None
    if model is not None and model.what in ("checkpoint", "safetensors"):
        from drgate.vision.older import load_own_checkpoint

        checkpoint = load_own_checkpoint(model.file)
    test, rest = _sides(given[0], asked, checkpoint)
    trained = [*([] if rest is None else [rest]), *(training_rows(one) for one in given[1:])]
    if table is not None:
        table = _of_test_set(table, test, asked.images)
        refuse_look(table, checklist, asked.log)
    started(len(test) + sum(map(len, trained)))
    said: set[str] = set()

    def once(sentence: str) -> None:  # both sides have the same cache
        if sentence not in said:
            said.add(sentence)
            note(sentence)

    examined = partial(photographs, workers=workers, files=asked.images, cache=cache, advance=advance, note=once)
    seen = examined(test)
    train = examined(*trained) if trained else None
    mix = None if checklist.deployment is None else [checklist.deployment[grade] for grade in GRADES]
    settings = {
        "test": _described(test, seen, asked.images) | {"split": test.split_of},
        "train": None
        if train is None
        else {"images": len(train), "unreadable": _unreadable(train), "sets": [_named(one, asked) for one in trained]},
        "checkpoint": None
        if model is None
        else {"tensor_digest": checkpoint and checkpoint.tensor_digest, "fingerprint": _has_fingerprint(checkpoint)},
        "predictions": None if table is None else table.digest,
        "left_out": _left_out(given, test, rest, trained),
        "training_declared": bool(asked.train),
        "patient_key": asked.log.key and asked.log.key.id,
        "images_read": asked.images,
        "deployment": mix,
    }
    evidence = Evidence(
        seen,
        train,
        model=model is not None,
        fingerprint=None if checkpoint is None else checkpoint.fingerprint,
        unknown_data=""
        if model is None
        else "It has no record of how it was trained."
        if checkpoint is None
        else checkpoint.unknown_data,
        declared=bool(asked.train),
        pretraining="" if checkpoint is None else checkpoint.base.pretraining,
        key=asked.log.key,
        mix=mix,
    )
    if table is None:
        return Collected(evidence, settings)
    look = look_of(table, checklist, asked.log)  # before an answer is set beside a grade
    return Collected(replace(evidence, predictions=table), settings, look)


def _sides(manifest: Manifest, asked: Asked, checkpoint: Checkpoint | None) -> tuple[Manifest, Manifest | None]:
    """The test set, and what of the same manifest counts as training."""
    if asked.split == "train":
        raise UsageError("The training split is no test set; choose another with --split.")
    if manifest.table["split"].isna().all():
        seed = None if checkpoint is None else dealt_by(checkpoint.record, manifest)
        if seed is None:
            return manifest, None
        manifest = split_by_patient(manifest, seed=seed)
    test = manifest.select(asked.split)
    others = manifest.table["split"].notna() & (manifest.table["split"] != asked.split)
    if not others.any():
        return test, None
    return test, replace(manifest, table=manifest.table[others].reset_index(drop=True))


def _left_out(
    given: list[Manifest], test: Manifest, rest: Manifest | None, trained: list[Manifest]
) -> list[dict[str, Any]]:
    """How many images of each manifest are in neither side, and why: that of the test set first, then each of training.

    Only what has splits leaves images out, so that the others are of the split test, or of none.
    """
    found = []
    sides = [len(test) + (0 if rest is None else len(rest)), *map(len, trained[len(trained) - len(given) + 1 :])]
    for manifest, used in zip(given, sides, strict=True):
        unsplit = int(manifest.table["split"].isna().sum()) if used < len(manifest) else 0
        whys = {
            "of its split test, which is not training data": len(manifest) - used - unsplit,
            "without a split, though others have one": unsplit,
        }
        found += [{"name": manifest.name, "images": n, "why": why} for why, n in whys.items() if n]
    return found


def _of_test_set(predictions: Predictions, test: Manifest, images: bool) -> Predictions:
    """The rows of the test set, by its own names of the images, with its grades.

    Raises PredictionsError where none is of the test set, where an image was scored as another file, and where both
    have grades that differ.
    """
    if test.sealed:
        raise UsageError(f"{test.origin} has no grades, so predictions cannot be audited; leave --predictions out.")
    own = test.table.set_index("image")
    contents = test.content_digests() if images else {}
    places: dict[str, list[str]] = {}
    for image, content in contents.items():
        places.setdefault(content[:16], []).append(image)
    placed: list[str | None] = []
    for image, key in zip(predictions.table["image"], content_keys(predictions.table), strict=True):
        if image not in own.index:
            here = places.get(key or "")
            placed.append(here.pop(0) if here else None)
            continue
        if key is not None and contents and contents[image][:16] != key:
            raise PredictionsError(
                f"{predictions.origin}: {image} was scored as another file than the one in {test.root}; give the "
                "predictions of these files."
            )
        placed.append(image)
    kept = predictions.table.assign(image=pd.Series(placed, predictions.table.index, dtype="str")).dropna(
        subset=["image"]
    )
    if kept.empty:
        raise PredictionsError(f"{predictions.origin} has no image of {test.origin}; give predictions of the test set.")
    kept = kept.sort_values("image", ignore_index=True)
    reference = own.loc[kept["image"]].reset_index()
    if graded_rows(kept).any():
        differs = (reference_of(kept) != reference_of(reference)).fillna(False)
        differs |= reference_of(kept).isna() != reference_of(reference).isna()
        if n := int(differs.sum()):
            raise PredictionsError(
                f"{predictions.origin}: {n} image{' has' if n == 1 else 's have'} another grade than in {test.origin}; "
                "give the test set with the grades that are meant."
            )
    else:
        kept = kept.assign(**{name: reference[name] for name in _REFERENCE if name in reference.columns})
    return replace(predictions, table=kept)


def own_names(test: Photographs, train: Photographs | None) -> OwnNames:
    """The caller's names of both sides."""
    return OwnNames(_own(test), {} if train is None else _own(train))


def _own(side: Photographs) -> dict[str, str]:
    """The caller's names by published name; of several sets, with the folder. Copies of one file have one published
    name."""
    several = side.table["set"].nunique() > 1
    found: dict[str, list[str]] = {}
    for published, image, path in zip(side.names, side.table["image"], side.paths, strict=True):
        found.setdefault(published, []).append(str(path) if several else str(image))
    return {published: " = ".join(names) for published, names in found.items()}


def _named(manifest: Manifest, asked: Asked) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "images": len(manifest),
        "digest": manifest.digest() if asked.images else None,
    }


def _described(manifest: Manifest, seen: Photographs, images: bool) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "images": len(manifest),
        "unreadable": _unreadable(seen),
        "digest": manifest.digest() if images else None,
        "images_digest": images_digest(seen.contents) if all(seen.contents) else None,
    }


def _unreadable(side: Photographs) -> int:
    return sum(isinstance(one, str) for one in side.seen)


def _has_fingerprint(checkpoint: Checkpoint | None) -> bool:
    return checkpoint is not None and checkpoint.fingerprint is not None
