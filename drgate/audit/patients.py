"""Is a patient, or an eye of a patient, in the test set and in training?

By name where the training set is at hand, and by keyed hashes where the model's fingerprint has them. Findings name
images; patients stay unnamed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgate.audit.evidence import Evidence, Photographs
from drgate.audit.lineage import beyond, covered, unread
from drgate.audit.result import Check, CheckId, Finding
from drgate.grouping import grouping

_UNNAMED: Final = "Not every image of the {} names its patient; give a column patient."
_NO_SOURCE: Final = (
    "Equal names are taken as one patient. Where data sets number their patients each on their own, give each a column "
    "source."
)
_SPELLED: Final = (
    "These patients have a name that one of training has in another spelling (case, punctuation, zeros in front, or a "
    "source that is written otherwise or left out). If they are the same, write them in one way; if not, give other "
    "names."
)
_PARTS: Final = re.compile(r"[0-9]+|[^\W\d_]+")
_ONE_SOURCE: Final = (
    "Only one of the two sets has a column source, so their patients cannot be compared by name; give it to both."
)


def check(evidence: Evidence) -> Check:
    """Patients of both, whichever eye, year or split of training. One finding for each patient."""
    named = _by_name(evidence)
    train_row = named.first_of_training()
    rows = np.flatnonzero(named.in_training | _in_fingerprint(evidence))
    firsts = {int(named.test[row]): int(row) for row in rows[::-1]}
    findings = [
        Finding(test=named.names[0][row], train=named.names[1][train_row[code]] if code in train_row else None)
        for code, row in sorted(firsts.items(), key=lambda one: one[1])
    ]
    if not findings and (alike := _spelled(evidence, named)):
        maybe = [Finding(test=named.names[0][row], train=named.names[1][other]) for row, other in alike]
        compared = _compared(evidence, named)
        return Check.of("patients", maybe, status="suspected", compared=compared, reason=_SPELLED)
    return _answer("patients", evidence, named, findings, len(rows), _missing(evidence))


def check_eyes(evidence: Evidence) -> Check:
    """Eyes of both. Where no patient is in both, no eye is. One finding for each eye."""
    named = _by_name(evidence)
    missing = _missing(evidence)
    sides = [_sides(evidence.test), [] if evidence.train is None else _sides(evidence.train)]
    there: dict[tuple[int, str], int] = {}
    for row in np.flatnonzero(named.train >= 0)[::-1].tolist():
        there[int(named.train[row]), sides[1][row]] = row
    findings, seen, images, unnamed = [], set(), 0, bool(_in_fingerprint(evidence)[~named.in_training].any())
    for row in np.flatnonzero(named.in_training).tolist():
        eye = int(named.test[row]), sides[0][row]
        unnamed |= not eye[1] or (eye[0], "") in there
        if eye[1] and eye in there:
            images += 1
            if eye not in seen:
                seen.add(eye)
                findings.append(Finding(test=named.names[0][row], train=named.names[1][there[eye]]))
    if not findings and not missing and _spelled(evidence, named):
        missing = "Patients may be in both, by names in another spelling; write each patient in one way."
    if unnamed and not missing:
        missing = "Patients are in both, and for some of their images it is not known which eye they show."
    return _answer("eyes", evidence, named, findings, images, missing)


@dataclass(frozen=True, slots=True, eq=False)
class _Named:
    """Patients by name, as numbers that are the same in both sets; -1 where a patient is not named.

    test, train: of each row. names: of both sets' images, as published.
    """

    test: NDArray[np.int64]
    train: NDArray[np.int64]
    names: tuple[Sequence[str], Sequence[str]]

    @property
    def in_training(self) -> NDArray[np.bool_]:
        """Of each row of the test set."""
        return np.isin(self.test, self.train[self.train >= 0])

    def first_of_training(self) -> dict[int, int]:
        """The first row of each patient."""
        codes, rows = np.unique(self.train, return_index=True)
        return dict(zip(codes.tolist(), rows.tolist(), strict=True))


def _by_name(evidence: Evidence) -> _Named:
    sides = [evidence.test] if evidence.train is None else [evidence.test, evidence.train]
    tables = [
        # The whole path, so that names of images say who is one patient within one data set alone.
        side.table.assign(image=[path.as_posix() for path in side.paths], sha256=list(side.contents))
        for side in sides
    ]
    together = pd.concat(tables, ignore_index=True)
    known = np.flatnonzero(together["patient"].notna())
    codes = np.full(len(together), -1, dtype=np.int64)
    numbers = grouping(together.iloc[known].reset_index(drop=True)).codes
    if numbers is not None:
        codes[known] = numbers
    train_names = [] if evidence.train is None else evidence.train.names
    return _Named(codes[: len(evidence.test)], codes[len(evidence.test) :], (evidence.test.names, train_names))


def _in_fingerprint(evidence: Evidence) -> NDArray[np.bool_]:
    """Of each row of the test set, whether the fingerprint has its patient under the key."""
    fingerprint, key, table = evidence.fingerprint, evidence.key, evidence.test.table
    if fingerprint is None or key is None or key.id not in fingerprint.patients:
        return np.zeros(len(table), dtype=bool)
    known = {*map(bytes, fingerprint.patients[key.id])}
    shared = {name for name, hashed in key.patients(table).items() if hashed in known}
    return table["patient"].isin(shared).to_numpy(dtype=bool)


def _missing(evidence: Evidence) -> str:
    """Why not every patient of training was compared with every patient of the test set; empty where all were."""
    if not _all_named(evidence.test):
        return _UNNAMED.format(evidence.sides[0])
    if unknown := beyond(evidence):
        return unknown
    if evidence.train is not None and not _all_named(evidence.train):
        return _UNNAMED.format(evidence.sides[1])
    if evidence.train is not None and _has_source(evidence.test) != _has_source(evidence.train):
        return _ONE_SOURCE
    if evidence.fingerprint is not None and not covered(evidence):
        unchecked = evidence.fingerprint.unchecked(evidence.key)
        compared = f"Patients of the model's fingerprint were not compared: {unchecked}."
        return unchecked and (unread(evidence) or compared)
    return ""


def _answer(
    name: CheckId, evidence: Evidence, named: _Named, findings: list[Finding], images: int, missing: str
) -> Check:
    compared = _compared(evidence, named)
    numbers = {"images": float(images)}
    if findings:
        reason = _NO_SOURCE if any(one.train for one in findings) and not _has_source(evidence.test) else ""
        return Check.of(name, findings, compared=compared, reason=reason, numbers=numbers)
    return Check(name, "not_assessed" if missing else "clean", compared=compared, reason=missing)


def _compared(evidence: Evidence, named: _Named) -> dict[str, int]:
    compared = {"test": len(np.unique(named.test[named.test >= 0]))}
    if evidence.train is not None:
        compared["train"] = len(np.unique(named.train[named.train >= 0]))
    if evidence.fingerprint is not None and evidence.key is not None:
        compared["fingerprint"] = len(evidence.fingerprint.patients.get(evidence.key.id, ()))
    return compared


def _spelled(evidence: Evidence, named: _Named) -> list[tuple[int, int]]:
    """The first row of each patient of the test set whose name is, in another spelling alone, that of a patient of
    training, with the first row of that one."""
    if evidence.train is None or _has_source(evidence.test) != _has_source(evidence.train):
        return []
    there: dict[tuple[str, str], int] = {}
    for key, row in _spellings(evidence.train):
        there.setdefault(key, row)
        there.setdefault(("*", key[1]), row)
    found: dict[int, tuple[int, int]] = {}
    same = named.in_training
    for key, row in _spellings(evidence.test):
        if same[row]:
            continue
        # Without a source it may be any; with one, only the same or none.
        other = there.get(("*" if not key[0] else key[0], key[1]), there.get(("", key[1])))
        if other is not None:
            found.setdefault(int(named.test[row]), (row, other))
    return list(found.values())


def _spellings(side: Photographs) -> list[tuple[tuple[str, str], int]]:
    """The source and the name of each patient in one spelling, with its first row."""
    table = side.table
    sources = table["source"].fillna("").astype(str) if "source" in table.columns else pd.Series("", table.index)
    pairs = pd.DataFrame({"source": sources.to_numpy(), "patient": table["patient"].to_numpy()})
    pairs = pairs[pairs["patient"].notna().to_numpy()].drop_duplicates()
    return [
        ((spelling(source), spelling(patient.removeprefix(f"{source}:"))), int(row))
        for row, source, patient in pairs.itertuples()
    ]


def spelling(text: str) -> str:
    """Without case, punctuation and zeros in front of numbers: `P-007` and `p7` are the same, `1-23` and `12-3` not."""
    parts = _PARTS.findall(unicodedata.normalize("NFKC", text).casefold())
    return " ".join((part.lstrip("0") or "0") if part.isdigit() else part for part in parts)


def _all_named(side: Photographs) -> bool:
    return grouping(side.table.assign(sha256=list(side.contents))).named == "all"


def _has_source(side: Photographs) -> bool:
    return "source" in side.table.columns and bool(side.table["source"].notna().any())


def _sides(side: Photographs) -> list[str]:
    """The eye of each row; empty where it is not known."""
    return list(side.table["eye"].fillna("").astype(str))
