"""History: which model passed what, when, on which look, and signed by whom, over a folder of certificates.

    history = read_history(Path("certificates"), trusted=[load_public_key(Path("keys/clinical.pub"))])
    for record in history.records: ...           # by the time of their looks

Several signatures over one statement are one record. What is no certificate is named, with the reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from drgate import limits
from drgate.certificate.keys import PublicKey
from drgate.certificate.scored import read_scored
from drgate.certificate.statement import (
    CERTIFICATE_BEGINS,
    STATEMENT_BEGINS,
    Certificate,
    Statement,
    read_certificate,
)
from drgate.certificate.trust import NOTHING_REVOKED, Revocations, signer
from drgate.errors import CertificateError, UsageError, visible
from drgate.evaluation import CriterionResult, Verdict, plain_of
from drgate.files import files_below, read_beginning

_BEGINNINGS: Final = (STATEMENT_BEGINS, CERTIFICATE_BEGINS)
"""Other files in the folder are no certificates."""


@dataclass(frozen=True, slots=True)
class Record:
    """One statement.

    files: its files, one a signature. model, digest: name and SHA-256 of the model's first file. test_set,
    split, spec: names. scored: who ran the model, as `drgate.evaluation.Scoring.by`; "" for a table whose model is not
    known. images: the test set's digest, of its images alone where a table came from elsewhere. time: of
    the look, ISO 8601 in UTC. look, allowed: its number, and of how many. signers: ids of the keys that it names;
    trusted_signers: the trusted ones among them whose signature was verified.
    """

    files: tuple[str, ...]
    model: str
    digest: str
    test_set: str
    split: str
    images: str
    spec: str
    verdict: Verdict
    scored: str
    warned: bool
    time: str
    look: int
    allowed: int
    signers: tuple[str, ...]
    trusted_signers: tuple[str, ...]
    criteria: tuple[CriterionResult, ...]

    @property
    def judged_on(self) -> str:
        """The test set so that no other is taken for it: data (val) 11a4eaf3."""
        split = f" ({self.split})" if self.split else ""
        return f"{self.test_set}{split} {self.images.removeprefix('sha256:')[:8]}".rstrip()

    def to_json(self) -> dict[str, Any]:
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        lists = {name: list(value) for name, value in plain.items() if isinstance(value, tuple)}
        return plain | lists | {"criteria": list(map(plain_of, self.criteria))}


@dataclass(frozen=True, slots=True)
class History:
    """Records by time. useless: why files that begin like certificates do not count: they are
    none, or are revoked. verified: trusted keys were given."""

    folder: str
    records: tuple[Record, ...]
    useless: tuple[str, ...]
    verified: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": self.folder,
            "verified": self.verified,
            "records": [record.to_json() for record in self.records],
            "useless": list(self.useless),
        }


def read_history(
    folder: Path, *, trusted: Sequence[PublicKey] = (), revocations: Revocations = NOTHING_REVOKED
) -> History:
    """All certificates and statements below a folder that are not revoked; links are not followed out of it.

    Raises UsageError where there is no such folder, or no certificate in it.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; expected one that holds certificates.")
    found: dict[bytes, list[tuple[str, Certificate | Statement]]] = {}
    useless = []
    for path in _files(folder):
        try:
            read = _read(path)
        except CertificateError as problem:
            useless.append(visible(problem))
            continue
        if read is not None:
            if revoked := revocations.against(read):
                useless.append(visible(f"{path}: {' '.join(revoked)}"))
                continue
            statement = read.statement
            found.setdefault(statement.data, []).append((str(path.relative_to(folder)), read))
    if not found:
        more = f" The first file that looks like one: {useless[0]}" if useless else ""
        raise UsageError(f"{folder} holds no certificate; drgate evaluate --key KEY writes one.{more}")
    records = sorted((_record(group, trusted) for group in found.values()), key=lambda r: (r.time, r.model, r.digest))
    return History(visible(folder), tuple(records), tuple(useless), bool(trusted))


def _files(folder: Path) -> list[Path]:
    found = files_below(folder, UsageError, limit=limits.CERTIFICATE_FILES)
    return sorted(path for path in found if not path.is_symlink() and path.is_file())


def _read(path: Path) -> Certificate | Statement | None:
    """A certificate or statement; None for a file of another kind."""
    beginning = read_beginning(path, max(map(len, _BEGINNINGS)), "a certificate", CertificateError)
    if not beginning.startswith(_BEGINNINGS):
        if path.name.endswith("certificate.json"):
            raise CertificateError(f"{path} is no certificate in the form that drgate writes.")
        return None
    try:
        return read_certificate(path)
    except CertificateError:
        with contextlib.suppress(CertificateError):
            read_scored(path)
            return None  # a signed table beside its certificate
        raise


def _record(group: Sequence[tuple[str, Certificate | Statement]], trusted: Sequence[PublicKey]) -> Record:
    first = group[0][1]
    statement = first.statement
    certificates = [read for _, read in group if isinstance(read, Certificate)]
    evaluation = statement.evaluation
    subject = statement.content["subject"][0]
    data, spec, look = evaluation.data, evaluation.spec, evaluation.look
    return Record(
        files=tuple(visible(name) for name, _ in group),
        model=visible(evaluation.model.title),
        digest=subject["digest"]["sha256"],
        test_set=visible(data.name),
        split=visible(data.split or ""),
        images=visible(data.digest or ""),
        spec=visible(f"{spec.name} version {spec.version}"),
        verdict=evaluation.verdict,
        scored=evaluation.model.scoring.by if evaluation.model.scoring else "",
        warned=bool(evaluation.warnings),
        time=look.time,
        look=look.number,
        allowed=look.allowed,
        signers=tuple(sorted({one.key_id for one in certificates})),
        trusted_signers=tuple(sorted({one.key_id for one in certificates if signer(one, trusted) is not None})),
        criteria=evaluation.criteria,
    )
