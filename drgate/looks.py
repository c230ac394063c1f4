"""How often test images have been looked at: a hash-chained file, one line a new pair of test set and model.

    seen = Seen.of(predictions, "site-a")
    look = take_look(Path("looks.jsonl"), seen, model=tensor_digest, predictions=predictions.digest, checklist=mine)
    look.number, look.allowed, look.time, look.regraded

The chain belongs to the images and patients, not to a file name: a test set that shares one of either with a logged one
continues the count. The same model on the same images and reference grades keeps its number and its time, so that
repeating an evaluation costs nothing and gives the same bytes; reference grades that changed in between make a new look
and are listed.

A chain holds the first 8 bytes of each image's SHA-256, of each patient a slow salted hash, and, a character an image,
reference grades and answers: with the images one can read their grades from it, so keep it where the grades are kept.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import math
import os
import secrets
import time as clock
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from drgate.certificate.chain import Header, LookLine, TestSetLine, broken, chain_line, read_chain
from drgate.errors import UsageError
from drgate.evaluation import Favour, Look, Overlap, Regraded, plain_of
from drgate.files import TIME_FORMAT, canonical_json, digest_of, parse_moment, write_atomically
from drgate.predictions import PROBABILITIES, column_bytes, content_keys

if TYPE_CHECKING:
    from drgate.checklist import Checklist
    from drgate.predictions import Predictions

Keys = NDArray[np.uint64]
"""Images or patients by 8 bytes of a hash, ascending, each once."""

PATIENCE: Final = 30.0
"""Seconds that a command waits for another to finish its line."""

SHOWN: Final = 50
"""Changed grades that a look lists; the others are counted."""

LOCK: Final = ".looks.lock"
FORMAT: Final = "drgate looks 2"
_NONE: Final = b"-"
_CHARACTERS: Final = np.frombuffer(b"-01234", dtype="S1")


@dataclass(frozen=True, eq=False)
class Seen:
    """What one look sees: images, whose they are, their reference grades and a model's answers.

    name: of the test set, for messages. keys: of the distinct images, by content where the predictions have `sha256`,
    else by name. images: their names, in the order of `keys`. patients: distinct names, sorted; empty where unknown, or
    only numbered as in a published table.
    reference, predicted: one of b"0" to b"4" an image, in the order of `keys`; b"-" where there is none.
    """

    name: str
    keys: Keys = field(repr=False)
    images: tuple[str, ...] = field(repr=False)
    patients: tuple[str, ...] = field(repr=False)
    reference: NDArray[np.bytes_] = field(repr=False)
    predicted: NDArray[np.bytes_] = field(repr=False)
    rest: str = field(repr=False)
    """Digest of what else decides a verdict: patients, eyes, macular oedema, slices and the decided grades."""

    @classmethod
    def of(cls, predictions: Predictions, name: str) -> Seen:
        """Of predictions with their reference grades; byte-identical images count once."""
        table = predictions.table
        names = table["image"].to_numpy(dtype=object).tolist()
        hashes = [
            bytes.fromhex(content)
            if content
            else hashlib.sha256(b"drgate image name\n" + image.casefold().encode()).digest()[:8]
            for image, content in zip(names, content_keys(table), strict=True)
        ]
        keys, first = np.unique(np.frombuffer(b"".join(hashes), dtype=">u8").astype(np.uint64), return_index=True)
        graded = table["grade"].where(table["gradable"]).to_numpy(dtype=np.int64, na_value=-1)
        answered = table["predicted"].to_numpy(dtype=np.int64, na_value=-1)
        deciding = table.iloc[first].drop(columns=["image", "sha256", *PROBABILITIES], errors="ignore")
        rest = hashlib.sha256()
        for column in sorted(deciding.columns):
            rest.update(column_bytes(column, deciding[column]))
        return cls(
            name=name,
            keys=keys,
            images=tuple(names[i] for i in first),
            patients=tuple(sorted(table["patient"].unique())) if predictions.patients_named else (),
            reference=_CHARACTERS[graded[first] + 1],
            predicted=_CHARACTERS[answered[first] + 1],
            rest=f"sha256:{rest.hexdigest()}",
        )


def take_look(
    path: Path,
    seen: Seen,
    *,
    model: str,
    predictions: str,
    checklist: Checklist,
    others: Iterable[Path] = (),
    time: str | None = None,
) -> Look:
    """The look of this model at these images, appended to the chain in `path` when it is new.

    model: what makes it another look: the digest of its tensors, or of a table's rows. predictions: digest of the rows.
    spec: declares how many looks are allowed; what was declared at the first look holds for all later ones. others:
    further chains, read only, whose looks at the same images or patients count too. time: of a new look, ISO 8601 in
    UTC to the second; by default SOURCE_DATE_EPOCH where it is set, else the clock.

    Raises UsageError when a file is not an unbroken chain (looks are evidence, and a damaged count counts nothing) and
    when a checklist of the same name and version but with another content is logged.
    """
    taken = current_time() if time is None else given_time(time)
    path = path.resolve()  # a link is followed, never replaced by a file of its own
    with _locked(path.parent):
        logged = [_read(other) for other in others]
        own = _read(path) if path.exists() else _begun(path, seen, logged)
        chains = [own, *logged]
        for chain in chains:
            chain.refuse_other_content(checklist)
        earlier: list[_Earlier] = []
        hashed: dict[tuple[bytes, int], Keys] = {}
        for chain in chains:
            by = (chain.salt, chain.cost)
            if by not in hashed:
                hashed[by] = _patient_keys(seen.patients, *by)
            earlier += chain.overlapping(seen, hashed[by])
        reference = _text(seen.reference)
        for look in earlier:
            logged_as = (look.entry.model, look.entry.reference, look.entry.rest)
            if look.same_images and logged_as == (model, reference, seen.rest):
                return _look(look.entry, seen)
        test_set = _test_set_entry(seen, hashed[own.salt, own.cost])
        entry = {
            "kind": "look",
            "look": 1 + len(earlier),
            # Never more than an earlier look was allowed: a later file, or a clock set back, raises nothing.
            "allowed": min((look.entry.allowed for look in earlier), default=checklist.looks),
            "time": taken,
            "test_set": test_set["test_set"],
            "model": model,
            "predictions": predictions,
            "spec": {"name": checklist.name, "version": checklist.version, "digest": checklist.digest},
            "reference": reference,
            "predicted": _text(seen.predicted),
            "rest": seen.rest,
            "overlapping": list(map(plain_of, _overlapping(earlier))),
            **_changes(earlier, seen, model),
        }
        new = [entry] if entry["test_set"] in own.test_sets else [test_set, entry]
        lines = own.extended(new)
        write_atomically(path, b"".join(line + b"\n" for line in lines))
    logged_now = chain_line(json.loads(lines[-1]), str(path))
    assert isinstance(logged_now, LookLine), "a look is the last line"
    return _look(logged_now, seen)


# -- one chain ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _LoggedSet:
    name: str
    images: Keys
    patients: Keys


@dataclass(frozen=True, eq=False)
class _Earlier:
    """A logged look at images or patients that are now seen again."""

    entry: LookLine
    test_set: _LoggedSet
    same_images: bool
    shared_images: int
    shared_patients: int


@dataclass(frozen=True, eq=False)
class _Chain:
    path: Path
    lines: list[bytes]
    last: str
    """Digest of the last line, which the next one names."""
    salt: bytes
    cost: int
    test_sets: dict[str, _LoggedSet]
    looks: list[LookLine]

    def refuse_other_content(self, checklist: Checklist) -> None:
        for logged in (entry.spec for entry in self.looks):
            named = (logged.name, logged.version) == (checklist.name, checklist.version)
            if named and logged.digest != checklist.digest:
                raise UsageError(
                    f"{self.path} logs a checklist {checklist.name} version {checklist.version} with another content; "
                    "give the changed checklist a new version."
                )

    def overlapping(self, seen: Seen, patients: Keys) -> list[_Earlier]:
        """The looks at test sets that share an image or a patient, in the order of the chain."""
        shared = {}
        for digest, logged in self.test_sets.items():
            images = np.intersect1d(seen.keys, logged.images, assume_unique=True).size
            people = np.intersect1d(patients, logged.patients, assume_unique=True).size
            if images or people:
                shared[digest] = (logged, images == seen.keys.size == logged.images.size, images, people)
        return [_Earlier(entry, *shared[entry.test_set]) for entry in self.looks if entry.test_set in shared]

    def extended(self, entries: Iterable[dict[str, Any]]) -> list[bytes]:
        """The lines with these after them, each linked to the one before."""
        lines, previous = list(self.lines), self.last
        for entry in entries:
            linked = {**entry, "previous": previous}
            previous = digest_of(linked)
            lines.append(canonical_json({**linked, "digest": previous}))
        return lines


def _begun(path: Path, seen: Seen, others: Sequence[_Chain]) -> _Chain:
    """A new chain; it shares its salt with those beside it, so that patients are hashed once for all of them."""
    if others:
        salt, cost = others[0].salt, others[0].cost
    else:
        salt = secrets.token_bytes(16)
        # scrypt's cost n: about 0.3 ms of a core a patient, less for more than 10,000 of them
        cost = min(64, max(2, 2 ** int(math.log2(640_000 / max(1, len(seen.patients))))))
    blank = _Chain(path, [], "", salt, cost, {}, [])
    (line,) = blank.extended([{"kind": "chain", "format": FORMAT, "salt": salt.hex(), "cost": cost}])
    return _Chain(path, [line], json.loads(line)["digest"], salt, cost, {}, [])


def _read(path: Path) -> _Chain:
    data = path.read_bytes()
    salt, cost = b"", 0
    test_sets: dict[str, _LoggedSet] = {}
    looks: list[LookLine] = []
    entries = read_chain(data, str(path))
    for i, entry in enumerate(entries):
        try:
            match chain_line(entry, str(path)):
                case Header() as header:
                    salt, cost = bytes.fromhex(header.salt), header.cost
                case TestSetLine() as line:
                    images, patients = _parsed_keys(line.images), _parsed_keys(line.patients)
                    test_sets[line.test_set] = _LoggedSet(line.name, images, patients)
                case LookLine() as look:
                    images = test_sets[look.test_set].images
                    if not len(look.reference) == len(look.predicted) == images.size:
                        raise ValueError
                    looks.append(look)
        except (ValueError, KeyError, UsageError) as problem:
            raise broken(str(path), i) from problem
    return _Chain(path, data.splitlines(), entries[-1]["digest"], salt, cost, test_sets, looks)


# -- what a look holds -------------------------------------------------------------------------------------------------


def _test_set_entry(seen: Seen, patients: Keys) -> dict[str, Any]:
    held = {"images": _written_keys(seen.keys), "patients": _written_keys(patients)}
    return {"kind": "test set", "test_set": digest_of(held), "name": seen.name, **held}


def _overlapping(earlier: Sequence[_Earlier]) -> list[Overlap]:
    """The other test sets among the earlier looks, with what is shared; one that was only relabelled is no other."""
    other = [look for look in earlier if not look.same_images]
    first = {look.entry.test_set: look for look in reversed(other)}
    return [
        Overlap(first[name].test_set.name, looks, first[name].shared_images, first[name].shared_patients)
        for name, looks in Counter(look.entry.test_set for look in other).items()
    ]


def _changes(earlier: Sequence[_Earlier], seen: Seen, model: str) -> dict[str, Any]:
    """Reference grades that are not what earlier looks saw, and whom the changes favour."""
    was = np.full(seen.keys.size, b"", dtype="S1")
    favouring = []
    for look in earlier:
        _, here, there = np.intersect1d(seen.keys, look.test_set.images, assume_unique=True, return_indices=True)
        old, answer = (_array(text)[there] for text in (look.entry.reference, look.entry.predicted))
        new = seen.reference[here]
        changed = old != new
        if not changed.any():
            continue
        was[here[changed]] = old[changed]
        # An error that is no longer one: the grade is now what was answered, or the image counts no more.
        corrected = changed & (answer != old) & (((answer == new) & (new != _NONE)) | ((new == _NONE) & (old != _NONE)))
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
    regraded = [[f"{seen.keys[i]:016x}", was[i].decode(), seen.reference[i].decode()] for i in places[:SHOWN]]
    return {"regraded": regraded, "regraded_count": len(places), "favouring": list(map(plain_of, favouring))}


def _look(entry: LookLine, seen: Seen) -> Look:
    names = {}
    if entry.regraded:
        names = {f"{key:016x}": image for key, image in zip(seen.keys, seen.images, strict=True)}
    return Look(
        number=entry.look,
        allowed=entry.allowed,
        time=entry.time,
        line=entry.digest,
        overlapping=entry.overlapping,
        regraded=tuple(Regraded(names[key], _grade(old), _grade(new)) for key, old, new in entry.regraded),
        regraded_count=entry.regraded_count,
        favouring=entry.favouring,
    )


def _grade(character: str) -> int | Literal["not gradable"]:
    return "not gradable" if character == _NONE.decode() else int(character)


def _text(characters: NDArray[np.bytes_]) -> str:
    return characters.tobytes().decode()


def _array(text: str) -> NDArray[np.bytes_]:
    return np.frombuffer(text.encode(), dtype="S1")


def _written_keys(keys: Keys) -> str:
    return base64.b64encode(keys.astype(">u8").tobytes()).decode()


def _parsed_keys(text: str) -> Keys:
    keys = np.frombuffer(base64.b64decode(text, validate=True), dtype=">u8").astype(np.uint64)
    if not (keys[1:] > keys[:-1]).all():
        raise ValueError
    return keys


def _patient_keys(patients: Sequence[str], salt: bytes, cost: int) -> Keys:
    """8 bytes of scrypt a patient: slow, so that a list of plausible names is not run through at once."""

    def some(names: Sequence[str]) -> bytes:
        return b"".join(hashlib.scrypt(name.encode(), salt=salt, n=cost, r=r, p=1, dklen=8) for name in names)

    r = 8 if cost > 2 else 1  # of hundreds of thousands of patients no hash can be slow
    at_once = 500  # a task for each of a million patients would cost more than the hashes
    with ThreadPoolExecutor() as pool:  # scrypt runs outside the interpreter's lock
        parts = (patients[start : start + at_once] for start in range(0, len(patients), at_once))
        hashes = b"".join(pool.map(some, parts))
    return np.unique(np.frombuffer(hashes, dtype=">u8").astype(np.uint64))


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
