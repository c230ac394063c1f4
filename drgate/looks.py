"""How often test images have been looked at: a hash-chained file, one line a new pair of test set and model.

    look, chain = Log().look(predictions, "site-a", checklist, model=tensor_digest)
    look.number, look.allowed, look.time, look.regraded

The chain belongs to the images and patients, not to a file name: a test set that shares one of either with a logged one
continues the count. The same model on the same images and reference grades keeps its number and its time, so that
repeating an evaluation costs nothing and gives the same bytes; reference grades that changed in between make a new look
and are listed. A table of predictions is known by its answers, so exports of the same answers are one look.

A chain holds the first 8 bytes of each image's SHA-256 and, a character an image, reference grades and answers: with
the images one can read their grades from it, so keep it where the grades are kept. Patients, and images that are known
by name alone, are in it only as hashes under a patient key (`drgate.patients`). Without one no patient is stored, and
such images are known as a set: it is recognised whole, and a part of it is not.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import functools
import hashlib
import hmac
import json
import os
import time as clock
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgate import limits
from drgate.certificate.chain import Header, LookLine, TableLine, TestSetLine, broken, chain_line, read_chain
from drgate.columns import reader_columns
from drgate.errors import UsageError
from drgate.evaluation import Favour, Look, Overlap, Regraded, plain_of
from drgate.files import TIME_FORMAT, canonical_json, digest_of, parse_moment, read_limited, write_atomically
from drgate.patients import PATIENT_BYTES, PatientKey, known_of
from drgate.predictions import (
    OPEN,
    SIGNED,
    answers_digest,
    as_grades,
    column_bytes,
    content_keys,
    published,
    published_names,
)
from drgate.scale import Scale

if TYPE_CHECKING:
    from drgate.checklist import Checklist
    from drgate.predictions import Predictions

Keys = NDArray[np.uint64]
"""Images by 8 bytes of a hash."""

LOOKS: Final = Path("reports") / "looks"
"""The usual place of the chains."""

PATIENCE: Final = 30.0
"""Seconds that a command waits for another to finish its line."""

SHOWN: Final = 50
"""Changed grades that a look lists; the others are counted."""

LOCK: Final = ".looks.lock"
FORMAT: Final = "drgate looks 3"
_ROWS: Final = "rows"
_NONE: Final = b"-"
_KEYED: Final = " (keyed)"
_CHARACTERS: Final[dict[Scale, NDArray[np.bytes_]]] = {
    "grades": np.frombuffer(b"-01234", dtype="S1"),
    "referable": np.frombuffer(b"-nnrrr", dtype="S1"),
}
"""What is written for no grade and grades 0 to 4; of what says only whether to refer: n, not referable, and r."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What one look sees: images, whose they are, their reference grades and a model's answers.

    It is the same of a table and of its published form, except that this names no patient.

    name: of the test set, for messages. chosen_on: whether a model was selected on it, so that it is no test set.
    images: names, of those that are known by their content in the order of `keys`, then of the `others`.
    keys: of the distinct contents, ascending. others: images known by name alone, in the order of the table.
    names: digest over the names of the others together; of few, over their grades; none of a published table.
    key: id of the patient key; with one, named: of each of the others, patients: its hash of each that is known.
    reference, predicted: one of `_CHARACTERS` an image, in the order of `images`.
    rest: by column, the digest of what else decides a verdict (not of `gradable`, since a row with a grade is judged);
        of a column that is not published, under a secret that only its table holds.
    answers: digest of the decided grades, by image.
    """

    name: str
    images: tuple[str, ...] = field(repr=False)
    keys: Keys = field(repr=False)
    others: int
    names: str = field(repr=False)
    key: str
    named: Keys = field(repr=False)
    patients: frozenset[bytes] = field(repr=False)
    reference: NDArray[np.bytes_] = field(repr=False)
    predicted: NDArray[np.bytes_] = field(repr=False)
    rest: Mapping[str, str] = field(repr=False)
    answers: str
    chosen_on: bool = False

    @classmethod
    def of(
        cls,
        predictions: Predictions,
        name: str,
        key: PatientKey | None = None,
        *,
        chosen_on: bool = False,
        checklist: Checklist | None = None,
    ) -> Seen:
        """Of predictions with their reference grades; byte-identical images count once.

        checklist: the further columns that it uses are published, others are not; without it, all are.
        """
        table = predictions.table
        known = known_of(table, content_keys(table), key)
        contents = np.array([int(content or "0", 16) for content in known.contents], dtype=np.uint64)
        bare = np.array([content is None for content in known.contents], dtype=np.bool_)
        keys, first = np.unique(contents[~bare], return_index=True)
        rows = np.concatenate([np.flatnonzero(~bare)[first], np.flatnonzero(bare)])
        coded = as_grades(table)
        graded = coded["grade"].to_numpy(dtype=np.int64, na_value=-1)
        answered = coded["predicted"].to_numpy(dtype=np.int64, na_value=-1)
        answer_scale, reference_scale = predictions.scales
        reference = _CHARACTERS[reference_scale][graded[rows] + 1]
        deciding = table.iloc[rows].drop(columns=["image", "sha256", "gradable", *SIGNED], errors="ignore")
        # Patients are numbers, as where they are published: who belongs together decides, not what they are called.
        codes = pd.factorize(predictions.grouped["patient"].iloc[rows])[0]
        deciding["patient"] = pd.array([None if code < 0 else str(code) for code in codes], dtype="str")
        others, names = int(bare.sum()), known.names
        if others and not known.names:  # a published table is known by its size, a few images by their grades
            names = _ROWS if known.published else _ROWS + digest_of(_text(reference[keys.size :]))
        answers = zip(published_names(table), answered.tolist(), strict=True)
        return cls(
            name=name,
            images=tuple(table["image"].iloc[rows].tolist()),
            keys=keys,
            others=others,
            names=names,
            key=known.key,
            named=np.array([int(known.named[i], 16) for i in np.flatnonzero(bare)] if known.named else [], np.uint64),
            patients=frozenset(known.patients),
            reference=reference,
            predicted=_CHARACTERS[answer_scale][answered[rows] + 1],
            rest=_rest(deciding, b"" if known.published else _secret(table.iloc[rows]), checklist),
            answers=digest_of(["drgate answers 1", sorted(map(list, answers))]),
            chosen_on=chosen_on,
        )

    @functools.cached_property
    def named_order(self) -> NDArray[np.int64]:
        """The order in which `named` ascends."""
        return np.argsort(self.named)

    @functools.cached_property
    def test_set(self) -> str:
        """Digest of its images, by which its looks are found."""
        return digest_of([_written(self.keys), self.others, self.names])


class Foreseen(NamedTuple):
    """A look that was not taken. again: whether it was taken before, so that it counts no further."""

    number: int
    allowed: int
    again: bool


@dataclass(frozen=True, slots=True)
class Log:
    """Where and how looks are logged.

    chain: the file; by default one a test set in `LOOKS`, where looks in the other files count too if they share images
    or patients. time: of a new look, ISO 8601 in UTC to the second; by default SOURCE_DATE_EPOCH where it is set, else
    the clock. key: by which patients are compared.
    """

    chain: Path | None = None
    time: str | None = None
    key: PatientKey | None = None

    def look(
        self,
        predictions: Predictions,
        name: str,
        checklist: Checklist,
        *,
        model: str | None,
        chosen_on: bool = False,
        comparing: bool = False,
    ) -> tuple[Look, Path]:
        """The look that these predictions take at the test set `name`, with published names, and the chain of it.

        That is another file than `chain` where the same look was taken before. The caller's own table and its published
        form take the same look. Raises what `take_look` raises.
        """
        seen = Seen.of(predictions, name, self.key, chosen_on=chosen_on, checklist=checklist)
        path = self.chain or LOOKS / f"{seen.test_set.removeprefix('sha256:')[:16]}.jsonl"
        others = [other for other in _usual() if other.resolve() != path.resolve()]
        look = take_look(
            path,
            seen,
            model=model,
            predictions=published(predictions, checklist).digest,
            numbers=answers_digest(predictions.table) if model is None else "",
            checklist=checklist,
            others=others,
            time=self.time,
            comparing=comparing,
        )
        shown = dict(zip(predictions.table["image"].tolist(), published_names(predictions.table), strict=True))
        holders = (one for one in (path, *others) if one.exists() and look.line in _read(one).digests)
        return replace(
            look, regraded=tuple(replace(one, image=shown.get(one.image, one.image)) for one in look.regraded)
        ), next(holders, path)

    def foreseen(
        self,
        predictions: Predictions,
        name: str,
        checklist: Checklist,
        *,
        model: str | None,
        chosen_on: bool = False,
        answered: bool = True,
    ) -> Foreseen:
        """The look that `look` would take; nothing is written. answered: whether the answers are the model's own.

        Raises what `look` raises for the same.
        """
        seen = Seen.of(predictions, name, self.key, chosen_on=chosen_on, checklist=checklist)
        path = self.chain or LOOKS / f"{seen.test_set.removeprefix('sha256:')[:16]}.jsonl"
        chains = [_read(one) for one in dict.fromkeys([path, *_usual()]) if one.exists()]
        for chain in chains:
            chain.refuse_other_content(checklist)
        earlier = [look for chain in chains for look in chain.overlapping(seen)]
        if answered:
            again = _taken_before(earlier, seen, model)
        else:  # the same model gives the same answers
            reference = _text(seen.reference)
            same = (one.entry for one in earlier if one.same_images and one.entry.reference == reference)
            again = next((entry for entry in same if entry.model == model), None)
        if again is not None:
            return Foreseen(again.look, again.allowed, True)
        allowed = min((look.entry.allowed for look in earlier), default=checklist.looks)
        return Foreseen(1 + len(earlier), allowed, False)

    def refuse_test_set(self, predictions: Predictions) -> None:
        """Raise UsageError where an image or a patient is of a test set that was looked at: that is no set to tune on.

        A set that models were selected on is no test set.
        """
        seen = Seen.of(predictions, "", self.key)
        for path in dict.fromkeys([*([self.chain] if self.chain and self.chain.exists() else []), *_usual()]):
            for logged in _read(path).test_sets.values():
                here, people = len(logged.shared(seen)[0]), len(logged.shared_patients(seen))
                if not logged.chosen_on and (here or people):
                    what = f"{here} of its images" if here else f"{people} of its patients"
                    raise UsageError(
                        f"{predictions.origin}: {what} are of the test set {logged.name}, whose looks are logged in "
                        f"{path}; tune on others."
                    )


USUAL: Final = Log()


def _usual() -> list[Path]:
    return sorted(LOOKS.glob("*.jsonl"))


def take_look(
    path: Path,
    seen: Seen,
    *,
    model: str | None,
    predictions: str,
    checklist: Checklist,
    numbers: str = "",
    others: Iterable[Path] = (),
    time: str | None = None,
    comparing: bool = False,
) -> Look:
    """The look of this model at these images, appended to the chain in `path` when it is new.

    model: what makes it another look: the digest of its tensors, with the cut-offs; None for a table, whose answers are
    what was looked at. predictions: digest of the rows. numbers: of a table, digest of what the model answered with:
    another one with the same answers is the same look, and is counted. checklist: declares how many looks are allowed;
    what was declared at the first look holds for all later ones. others: further chains, read only, whose looks at the
    same images or patients count too. time: as in `Log`. comparing: any earlier look at the same answers of the same
    images with the same reference grades is this one.

    Raises UsageError when a file is not an unbroken chain (looks are evidence, and a damaged count counts nothing) and
    when a checklist of the same name and version but with another content is logged.
    """
    taken = current_time() if time is None else given_time(time)
    path = path.resolve()  # a link is followed, never replaced by a file of its own
    with _locked(path.parent):
        logged = [_read(other) for other in others]
        own = _read(path) if path.exists() else _begun(path)
        chains = [own, *logged]
        for chain in chains:
            chain.refuse_other_content(checklist)
        test_set = _test_set_entry(seen)
        new = [] if own.knows(test_set) else [test_set]
        earlier = [look for chain in chains for look in chain.overlapping(seen)]
        if (entry := _taken_before(earlier, seen, model, comparing=comparing)) is not None:
            if not (new and seen.key and entry.test_set == seen.test_set in own.test_sets):
                new = []  # else: its patients, where the key was not given before
            tables = {
                entry.numbers,
                *(one.numbers for chain in chains for one in chain.tables if one.look == entry.digest),
            }
            if numbers and entry.numbers and numbers not in tables:
                tables.add(numbers)
                new.append({"kind": "table", "look": entry.digest, "numbers": numbers})
            if new:
                own.append(new)
            return _look(entry, seen, len(tables))
        same = {seen.test_set, *(look.entry.test_set for look in earlier if look.same_images)}
        logged_sets = {digest: one for chain in chains for digest, one in chain.test_sets.items()}
        apart = [one for digest, one in logged_sets.items() if digest not in same]
        new.append(
            {
                "kind": "look",
                "look": 1 + len(earlier),
                # Never more than an earlier look was allowed: a later file, or a clock set back, raises nothing.
                "allowed": min((look.entry.allowed for look in earlier), default=checklist.looks),
                "time": taken,
                "test_set": seen.test_set,
                "model": model or seen.answers,
                "predictions": predictions,
                "numbers": numbers,
                "spec": {"name": checklist.name, "version": checklist.version, "digest": checklist.digest},
                "reference": _text(seen.reference),
                "predicted": _text(seen.predicted),
                "rest": dict(seen.rest),
                "overlapping": list(map(plain_of, _overlapping(earlier))),
                "unlinked": sum(not (seen.patients and one.patients.get(seen.key)) for one in apart),
                "patient_key": seen.key,
                **_changes(earlier, seen, model or seen.answers),
            }
        )
        lines = own.append(new)
    logged_now = chain_line(json.loads(lines[-1]), str(path))
    assert isinstance(logged_now, LookLine), "a look is the last line"
    return _look(logged_now, seen)


def _taken_before(
    earlier: Sequence[_Earlier], seen: Seen, model: str | None, *, comparing: bool = False
) -> LookLine | None:
    """The logged look that this one is; None where it is a new one.

    Raises UsageError for the same answers with other columns, where no look is left.
    """
    for entry in (look.entry for look in earlier if look.same_images):
        same_model = _agree(entry.rest, seen.rest) and model in (None, entry.model)
        if _sees(entry, seen) and (comparing or same_model):
            return entry
        if _sees(entry, seen) and model in (None, entry.model) and len(earlier) >= entry.allowed:
            differing = _differing(entry.rest, seen.rest)
            columns = [one for one in differing if not one.endswith(_KEYED)] or ["further columns"]
            raise UsageError(
                "These answers were looked at before, on the same images and reference grades (look "
                f"{entry.look}), with other values of {' and '.join(columns)}. That would be another look, and "
                f"{entry.allowed} {'is' if entry.allowed == 1 else 'are'} allowed. Give the same columns, "
                "or take a fresh test set."
            )
    return None


def is_look_at(entry: Mapping[str, Any], predictions: Predictions) -> bool:
    """Whether a line of a chain is a look at this table: its images in number, their grades and its answers."""
    seen, line = Seen.of(predictions, ""), chain_line(dict(entry), "The line")
    return isinstance(line, LookLine) and _sees(line, seen) and _agree(line.rest, seen.rest)


def _sees(entry: LookLine, seen: Seen) -> bool:
    """Whether the reference grades and the answers are the same, image by image."""
    return (entry.reference, entry.predicted) == (_text(seen.reference), _text(seen.predicted))


def _agree(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether all columns that both have are equal; a published table lacks those that its checklist did not use."""
    return not _differing(one, other)


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    columns = {*OPEN} | (one.keys() & other.keys())
    return sorted(column for column in columns if one.get(column) != other.get(column))


# -- one chain ---------------------------------------------------------------------------------------------------------


class _Shared(NamedTuple):
    """The places of the shared images, here and there."""

    here: NDArray[np.int64]
    there: NDArray[np.int64]


def _common(ascending: Keys, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where equal keys stand in both. A few keys cost little among many: a chain may hold very many test sets."""
    if not (ascending.size and keys.size):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    places = np.minimum(np.searchsorted(ascending, keys), ascending.size - 1)
    there = np.flatnonzero(ascending[places] == keys)
    return places[there], there


@dataclass(frozen=True, eq=False)
class _LoggedSet:
    """A test set; named, patients: by the id of the patient key that they are hashed under."""

    name: str
    images: Keys
    others: int
    names: str
    chosen_on: bool
    named: dict[str, Keys]
    patients: dict[str, set[bytes]]

    @property
    def size(self) -> int:
        return self.images.size + self.others

    def shared(self, seen: Seen, *, others: bool = False) -> _Shared:
        """The images that both have. others: whether those that are known by name alone are known to be the same."""
        here, there = _common(seen.keys, self.images)
        equal = seen.names == self.names and (self.names != _ROWS or np.array_equal(seen.keys, self.images))
        if self.others == seen.others and (others or equal):
            bare = bare_there = np.arange(seen.others)
        else:
            order = seen.named_order
            bare, bare_there = _common(seen.named[order], self.named.get(seen.key, np.empty(0, np.uint64)))
            bare = order[bare]
        return _Shared(
            np.concatenate([here, bare + seen.keys.size]), np.concatenate([there, bare_there + self.images.size])
        )

    def shared_patients(self, seen: Seen) -> frozenset[bytes]:
        return seen.patients & self.patients.get(seen.key, set())


@dataclass(frozen=True, eq=False)
class _Earlier:
    """A logged look at images or patients that are now seen again."""

    entry: LookLine
    test_set: _LoggedSet
    same_images: bool
    shared: _Shared
    patients: int


@dataclass(frozen=True, eq=False)
class _Chain:
    path: Path
    lines: list[bytes]
    last: str
    """Digest of the last line, which the next one names."""
    test_sets: dict[str, _LoggedSet]
    looks: list[LookLine]
    tables: list[TableLine]

    @property
    def digests(self) -> set[str]:
        """Of its looks, by which certificates name them."""
        return {look.digest for look in self.looks}

    def knows(self, entry: Mapping[str, Any]) -> bool:
        """Whether it holds this test set, with these patients under this key."""
        logged = self.test_sets.get(entry["test_set"])
        if logged is None or logged.chosen_on > entry["chosen_on"]:
            return False
        return not entry["key"] or logged.patients.get(entry["key"]) == _parsed_patients(entry["patients"])

    def refuse_other_content(self, checklist: Checklist) -> None:
        for logged in (entry.spec for entry in self.looks):
            named = (logged.name, logged.version) == (checklist.name, checklist.version)
            if named and logged.digest != checklist.digest:
                raise UsageError(
                    f"{self.path} logs a checklist {checklist.name} version {checklist.version} with another content; "
                    "give the changed checklist a new version."
                )

    def overlapping(self, seen: Seen) -> list[_Earlier]:
        """The looks at test sets that share an image or a patient, in the order of the chain."""
        looked_at = {digest: self.test_sets[digest] for digest in dict.fromkeys(entry.test_set for entry in self.looks)}
        shared = {digest: (one.shared(seen), one.shared_patients(seen)) for digest, one in looked_at.items()}
        size, reference, found = len(seen.images), _text(seen.reference), []
        for entry in self.looks:
            logged = self.test_sets[entry.test_set]
            images, people = shared[entry.test_set]
            # Of a published table, or of very few images, only the grades say which they are.
            rows = logged.names.startswith(_ROWS) or seen.names.startswith(_ROWS)
            if rows and len(images.here) < size and entry.reference == reference and _agree(entry.rest, seen.rest):
                images = logged.shared(seen, others=True)
            if len(images.here) or people:
                same = len(images.here) == size == logged.size
                found.append(_Earlier(entry, logged, same, images, len(people)))
        return found

    def append(self, entries: Iterable[Mapping[str, Any]]) -> list[bytes]:
        """Write the lines with these after them, each linked to the one before; returns all."""
        lines, previous = list(self.lines), self.last
        for entry in entries:
            linked = {**entry, "previous": previous}
            previous = digest_of(linked)
            lines.append(canonical_json({**linked, "digest": previous}))
        write_atomically(self.path, b"".join(line + b"\n" for line in lines))
        return lines


def _begun(path: Path) -> _Chain:
    """A new chain."""
    head = {"kind": "chain", "format": FORMAT, "previous": ""}
    digest = digest_of(head)
    return _Chain(path, [canonical_json({**head, "digest": digest})], digest, {}, [], [])


def _read(path: Path) -> _Chain:
    data = read_limited(path, limits.CHAIN_BYTES, "a chain of looks", UsageError)
    test_sets: dict[str, _LoggedSet] = {}
    looks: list[LookLine] = []
    tables: list[TableLine] = []
    entries = read_chain(data, str(path))
    for i, entry in enumerate(entries):
        try:
            match chain_line(entry, str(path)):
                case TestSetLine() as line:
                    test_sets[line.test_set] = _logged_set(line, test_sets.get(line.test_set))
                case LookLine() as look:
                    if not len(look.reference) == len(look.predicted) == test_sets[look.test_set].size:
                        raise ValueError
                    looks.append(look)
                case TableLine() as table:
                    tables.append(table)
                case Header():
                    pass
        except (ValueError, KeyError, UsageError) as problem:
            raise broken(str(path), i) from problem
    return _Chain(path, data.splitlines(), entries[-1]["digest"], test_sets, looks, tables)


def _logged_set(line: TestSetLine, before: _LoggedSet | None) -> _LoggedSet:
    """A test set, with what earlier lines say of it. Raises ValueError for what drgate does not write."""
    images, named = _parsed_keys(line.images), _parsed_keys(line.named)
    if not (images[1:] > images[:-1]).all() or named.size != (line.others if line.key else 0):
        raise ValueError
    patients = _parsed_patients(line.patients)
    if line.test_set != digest_of([line.images, line.others, line.names]) or (patients and not line.key):
        raise ValueError
    if before is None:
        return _LoggedSet(
            line.name, images, line.others, line.names, line.chosen_on, {line.key: named}, {line.key: patients}
        )
    before.named[line.key] = named
    # Patients that one line named stay known, whatever a later one says.
    before.patients.setdefault(line.key, set()).update(patients)
    return replace(before, chosen_on=before.chosen_on and line.chosen_on)


def _secret(table: pd.DataFrame) -> bytes:
    """What only who has all images of a table knows: a column of few values could be guessed from a bare digest."""
    contents = table["sha256"] if "sha256" in table.columns else pd.Series(None, table.index, dtype="str")
    return hashlib.sha256(canonical_json(["drgate secret 1", contents.fillna(table["image"]).tolist()])).digest()


def _rest(deciding: pd.DataFrame, secret: bytes, checklist: Checklist | None) -> dict[str, str]:
    """Digests of the columns that are published, and under the secret (where there is one) of all further ones.

    So a column that was changed before a checklist used it makes another look, and nothing tells what is in it.
    """
    own = {*OPEN}
    open_to_all = set(deciding.columns) if checklist is None else {*own, *checklist.columns}
    if checklist is not None and checklist.asks_readers:
        open_to_all.update(reader_columns(deciding))
    rest = {}
    for column in sorted(deciding.columns):
        content = column_bytes(column, deciding[column])
        if column in open_to_all:
            rest[column] = "sha256:" + hashlib.sha256(content).hexdigest()
        if secret and column not in own:
            name = hmac.digest(secret, f"column {column}".encode(), "sha256").hex()[:16]  # it may name a patient
            rest[f"{name}{_KEYED}"] = "sha256:" + hmac.digest(secret, content, "sha256").hex()
    return rest


# -- what a look holds -------------------------------------------------------------------------------------------------


def _test_set_entry(seen: Seen) -> dict[str, Any]:
    return {
        "kind": "test set",
        "test_set": seen.test_set,
        "name": seen.name,
        "chosen_on": seen.chosen_on,
        "images": _written(seen.keys),
        "others": seen.others,
        "names": seen.names,
        "key": seen.key,
        "named": _written(seen.named),
        "patients": base64.b64encode(b"".join(sorted(seen.patients))).decode(),
    }


def _overlapping(earlier: Sequence[_Earlier]) -> list[Overlap]:
    """The other test sets among the earlier looks, with what is shared; one that was only relabelled is no other."""
    other = [look for look in earlier if not look.same_images]
    first = {look.entry.test_set: look for look in reversed(other)}
    return [
        Overlap(first[name].test_set.name, looks, len(first[name].shared.here), first[name].patients)
        for name, looks in Counter(look.entry.test_set for look in other).items()
    ]


def _changes(earlier: Sequence[_Earlier], seen: Seen, model: str) -> dict[str, Any]:
    """Reference grades that are not what earlier looks saw, and whom the changes favour."""
    was = np.full(len(seen.images), b"", dtype="S1")
    favouring = []
    for look in earlier:
        here, there = look.shared
        old, answer = (_array(text)[there] for text in (look.entry.reference, look.entry.predicted))
        new = seen.reference[here]
        changed = old != new
        if not changed.any():
            continue
        was[here[changed]] = old[changed]
        # An error that is no longer one: the grade is now what was answered, or the image counts no more.
        corrected = (
            changed & ~_same(answer, old) & ((_same(answer, new) & (new != _NONE)) | ((new == _NONE) & (old != _NONE)))
        )
        favouring.append(
            Favour(
                look=look.entry.look,
                time=look.entry.time,
                same_model=look.entry.model == model,
                changed=int(changed.sum()),
                favouring=int(corrected.sum()),
            )
        )
    places = sorted(np.flatnonzero(was != b""), key=lambda i: seen.images[i])
    # By key: image names often name the patient, and a chain is kept where many can read it.
    regraded = [[_place(seen, int(i)), was[i].decode(), seen.reference[i].decode()] for i in places[:SHOWN]]
    return {"regraded": regraded, "regraded_count": len(places), "favouring": list(map(plain_of, favouring))}


def _same(answer: NDArray[np.bytes_], reference: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """Where an answer is the reference; where one of them says only whether to refer, whether they agree on that."""
    refers = [np.isin(one, [b"n", b"r"]) for one in (answer, reference)]
    first, second = (
        np.where(np.isin(one, [b"2", b"3", b"4"]), b"r", np.where(np.isin(one, [b"0", b"1"]), b"n", one))
        for one in (answer, reference)
    )
    return np.asarray(np.where(refers[0] | refers[1], first == second, answer == reference))


def _place(seen: Seen, image: int) -> str:
    """How a chain names an image: by its content, else by its place among those that are known by name alone."""
    return f"{seen.keys[image]:016x}" if image < seen.keys.size else f"row-{image - seen.keys.size + 1}"


def _look(entry: LookLine, seen: Seen, tables: int = 1) -> Look:
    names = {}
    if entry.regraded:
        names = {_place(seen, i): image for i, image in enumerate(seen.images)}
    return Look(
        number=entry.look,
        allowed=entry.allowed,
        time=entry.time,
        line=entry.digest,
        overlapping=entry.overlapping,
        regraded=tuple(Regraded(names.get(key, key), _grade(old), _grade(new)) for key, old, new in entry.regraded),
        regraded_count=entry.regraded_count,
        favouring=entry.favouring,
        unlinked=entry.unlinked,
        patient_key=entry.patient_key,
        tables=tables,
    )


_WORDS: Final[dict[str, Literal["not gradable", "not referable", "referable"]]] = {
    _NONE.decode(): "not gradable",
    "n": "not referable",
    "r": "referable",
}


def _grade(character: str) -> int | Literal["not gradable", "not referable", "referable"]:
    return _WORDS[character] if character in _WORDS else int(character)


def _text(characters: NDArray[np.bytes_]) -> str:
    return characters.tobytes().decode()


def _array(text: str) -> NDArray[np.bytes_]:
    return np.frombuffer(text.encode(), dtype="S1")


def _written(keys: Keys) -> str:
    return base64.b64encode(keys.astype(">u8").tobytes()).decode()


def _parsed_keys(text: str) -> Keys:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=">u8").astype(np.uint64)


def _parsed_patients(text: str) -> set[bytes]:
    data = base64.b64decode(text, validate=True)
    if len(data) % PATIENT_BYTES:
        raise ValueError
    return {data[i : i + PATIENT_BYTES] for i in range(0, len(data), PATIENT_BYTES)}


def current_time() -> str:
    """UTC to the second; SOURCE_DATE_EPOCH replaces the clock where it is set."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.fromtimestamp(int(given), UTC) if given else datetime.now(UTC)
    except (ValueError, OverflowError, OSError) as problem:
        raise UsageError(f"SOURCE_DATE_EPOCH is {given!r}; expected seconds since 1970.") from problem
    return moment.strftime(TIME_FORMAT)


def given_time(text: str) -> str:
    """The given time of a look. Raises UsageError unless it is a time, and not in the future."""
    try:
        moment = parse_moment(text)
    except ValueError as problem:
        raise UsageError(
            f"{text!r} is not a time; expected ISO 8601 in UTC, such as 2026-01-31T09:00:00Z."
        ) from problem
    if moment > datetime.now(UTC):
        raise UsageError(f"The time {text} is in the future; give the time of the look.")
    return text


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time in a folder of chains, by a lock that the system frees however its holder ends."""
    folder.mkdir(parents=True, exist_ok=True)
    deadline = clock.monotonic() + PATIENCE
    with (folder / LOCK).open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock.monotonic() > deadline:
                    raise UsageError(f"{folder / LOCK} is held by another command; wait for it, or end it.") from None
                clock.sleep(0.1)
        yield
