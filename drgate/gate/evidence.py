"""The evidence in a repository: chains of looks, certificates, and tables of predictions."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

from drgate import limits
from drgate.certificate.chain import read_chain
from drgate.certificate.envelope import MAX_BYTES, Envelope, parse_envelope
from drgate.certificate.scored import SignedTable, is_scored, parse_scored
from drgate.certificate.statement import (
    CERTIFICATE_BEGINS,
    STATEMENT_BEGINS,
    Certificate,
    Statement,
    parse_either,
)
from drgate.errors import DrgateError, RepositoryError
from drgate.evaluation import Subject, plain_of
from drgate.files import in_bytes
from drgate.gate.change import Change
from drgate.gate.findings import RULES, Finding, Status
from drgate.gate.policy import GatedTestSet, Rules
from drgate.gate.repository import DVC, Entry
from drgate.line_ends import read_as_written

TABLES: Final = (".parquet", ".pq")
_T = TypeVar("_T")


class Chains:
    """The chains of looks: each must be unbroken and continue the one on the base branch.

    lines: of each unbroken chain, by the name of its test set.
    """

    def __init__(self, change: Change, before: Rules | None, rules: Rules) -> None:
        self.lines: dict[str, list[dict[str, Any]]] = {}
        self.findings: list[Finding] = []
        earlier = {} if before is None else {one.name: one for one in before.policy.test_sets}
        # A chain that the change's own policy no longer names is compared where the base branch has it.
        for one in {**earlier, **{one.name: one for one in rules.policy.test_sets}}.values():
            try:
                reason = self._compared(change, one, earlier.get(one.name))
                status: Status = "PASS" if one.name in self.lines else "NOT_ASSESSED"
            except DrgateError as problem:
                status, reason = "REFUSED", str(problem)
            self.findings.append(Finding(RULES, f"looks:{one.name}", f"looks at {one.name}", status, reason))

    def _compared(self, change: Change, one: GatedTestSet, earlier: GatedTestSet | None) -> str:
        what = "a chain of looks"
        old = None
        if earlier is not None and change.base.has(earlier.looks):
            old = change.base.read(earlier.looks, limit=limits.CHAIN_BYTES, what=what).splitlines()
        if not change.head.has(one.looks):
            if old is not None:
                raise RepositoryError(f"The chain of looks {one.looks} is missing. Looks are evidence; restore it.")
            return f"There is no chain of looks in {one.looks}, so the number of looks at the test set is unknown."
        data = change.head.read(one.looks, limit=limits.CHAIN_BYTES, what=what)
        entries = read_as_written(read_chain, data, one.looks)
        if old is not None and data.splitlines()[: len(old)] != old:
            raise RepositoryError(
                f"{one.looks} does not continue the chain on {change.base.name}: looks were rewritten, or others were "
                "logged there in the meantime. Start from that chain and evaluate again."
            )
        self.lines[one.name] = entries
        looks = sum(entry["kind"] == "look" for entry in entries)
        return f"{one.looks} is unbroken and continues the chain on the base branch. Number of looks: {looks}."


@dataclass(frozen=True, slots=True)
class Found:
    """A certificate or an unsigned statement in the repository."""

    path: str
    read: Certificate | Statement

    @property
    def statement(self) -> Statement:
        return self.read.statement


class Certificates:
    """The certificates of the change that name a guarded file, and the tables beside them.

    wanted: SHA-256 or MD5 of the guarded files. found: certificates and statements. tables: files with predictions.
    invalid: why other files are no certificates, in sentences. Any certificate that names a trusted key without its
    signature is reported in findings, whatever it says; it says nothing against genuine ones.
    """

    def __init__(self, change: Change, rules: Rules, wanted: Iterable[str]) -> None:
        self.found: list[Found] = []
        self.findings: list[Finding] = []
        self.invalid: list[str] = []
        self.tables: list[Entry] = []
        self._change = change
        self._by_digest: dict[str, list[Entry]] = {}
        self._others: set[str] = set()
        self._left = limits.JUDGED_CERTIFICATES
        self._keys = [key for keys in rules.trusted.values() for key in keys]
        needles = [digest.encode() for digest in {*wanted}]
        for entry in change.head.below(rules.policy.certificates):
            if entry.path.endswith((*TABLES, *(suffix + DVC for suffix in TABLES))):
                self.tables.append(entry)
                continue
            try:
                found = self._take(entry, needles)
            except DrgateError as problem:
                self.invalid.append(str(problem))
                continue
            if found:
                self.found.append(found)
            if self._left < 0 or len(self.found) > limits.JUDGED_FOUND:
                raise RepositoryError(
                    f"{rules.policy.certificates} holds more than {in_bytes(limits.JUDGED_CERTIFICATES)} of "
                    f"certificates, or more than {limits.JUDGED_FOUND} that name guarded files. Remove those "
                    "that no longer decide."
                )

    def _take(self, entry: Entry, needles: Iterable[bytes]) -> Found | None:
        """A certificate or statement that names a wanted digest; the others are not worth the time to parse."""
        if not entry.path.endswith(".json") and self._change.repository.size(entry.oid) > MAX_BYTES:
            return None
        if entry.oid in self._others:
            return None
        data = self._data(entry)
        begins = data[:256].replace(b"\0", b"")  # what an editor may have saved in another form begins like it
        if not data.startswith((STATEMENT_BEGINS, CERTIFICATE_BEGINS)) and (
            b'"dsseEnvelope"' in begins or b'"_type"' in begins
        ):
            return _parsed(entry.path, data)
        statement = data if data.startswith(STATEMENT_BEGINS) else b""
        if data.startswith(CERTIFICATE_BEGINS):
            envelope = read_as_written(_envelope, data, entry.path)
            named = [key for key in self._keys if key.id == envelope.key_id]
            # Before its contents, which mean nothing then. A signed table is judged with what refers to it.
            if named and not is_scored(envelope.payload) and envelope.signer(named) is None:
                reason = (
                    f"{entry.path} names the key {envelope.key_id}, but is not what that key signed: it was changed "
                    "since, or is forged. Get the original file, or remove it."
                )
                self.findings.append(Finding(RULES, f"certificate:{entry.path}", "tampering", "REFUSED", reason))
                return None
            statement = envelope.payload
        if not statement:  # other JSON, such as evaluation.json: read once, under however many names
            self._others.add(entry.oid)
            return None
        self._left -= len(data)
        digest = f"sha256:{hashlib.sha256(statement).hexdigest()}"
        self._by_digest.setdefault(digest, []).append(entry)
        wanted = any(needle in statement for needle in needles) and not is_scored(statement)
        return _parsed(entry.path, data) if wanted else None

    def of_statement(self, digest: str) -> list[Found]:
        """All files that hold this statement and can be read."""
        found = []
        for entry in self._by_digest.get(digest, []):
            with contextlib.suppress(DrgateError):
                found.append(_parsed(entry.path, self._data(entry)))
        return found

    def of_scorer(self, digest: str, invalid: list[str]) -> list[SignedTable]:
        """All signed tables with this statement that can be read. invalid: receives why others cannot."""
        found = []
        for entry in self._by_digest.get(digest, []):
            try:
                found.append(read_as_written(parse_scored, self._data(entry), entry.path))
            except DrgateError as problem:
                invalid.append(str(problem))
        return found

    def _data(self, entry: Entry) -> bytes:
        return self._change.head.read(entry.path, limit=MAX_BYTES, what="a certificate")


def _envelope(data: bytes, origin: str) -> Envelope:
    return parse_envelope(data, origin, "a certificate", "certificate.json as drgate wrote it")


def _parsed(path: str, data: bytes) -> Found:
    return Found(path, read_as_written(parse_either, data, path))


class Tables:
    """Tables of predictions in the repository. Those that are asked for are copied into `folder` to be read."""

    def __init__(self, change: Change, entries: Sequence[Entry], folder: Path) -> None:
        self.folder = folder
        self._change, self._entries = change, entries
        self._read: dict[str, dict[str, Any] | str] = {}
        self._copies: dict[str, tuple[Path, str]] = {}
        self._left = limits.JUDGED_TABLES
        self._asked: dict[str, Any] = {}

    def named(self, sentence: str) -> str:
        """A sentence with the paths of the repository in place of those of the copies."""
        for copy, path in self._copies.values():
            sentence = sentence.replace(str(copy), path)
        return sentence

    def once(self, digest: str, ask: Callable[[], _T]) -> _T:
        """What `ask` answers about the statement with this digest; it is asked once, under however many names."""
        if digest not in self._asked:
            self._asked[digest] = ask()
        answer: _T = self._asked[digest]
        return answer

    def find(
        self, digest: str, near: set[str], invalid: list[str], files: Sequence[Subject] | None = None
    ) -> Path | None:
        """A copy of the table that has this digest, of its rows or as a baseline, and is of these model files.

        Cut-offs may have been chosen after scoring, so they are not compared. near: folders to look in first. invalid:
        receives why other tables do not count.
        """
        for entry in sorted(self._entries, key=lambda entry: str(PurePosixPath(entry.path).parent) not in near):
            if entry.oid not in self._read:
                self._read[entry.oid] = self._provenance(entry)
            provenance = self._read[entry.oid]
            if isinstance(provenance, str):
                invalid.append(provenance)
                continue
            bound = provenance.get("model")
            if digest not in (provenance.get("rows"), provenance.get("as_baseline")):
                continue
            if files is None or (isinstance(bound, dict) and _answering(bound.get("files")) == _answering(files)):
                return self._copied(entry)
            invalid.append(f"{entry.path} holds these rows, but was scored with other model files.")
        return None

    def _copied(self, entry: Entry) -> Path:
        if entry.oid not in self._copies:
            copy = self.folder / f"{len(self._copies)}.parquet"
            self._copies[entry.oid] = copy, entry.path
            copy.write_bytes(self._bytes(entry))
        return self._copies[entry.oid][0]

    def _provenance(self, entry: Entry) -> dict[str, Any] | str:
        """The provenance of a table, or why it cannot be read. Its copy goes again: it may not be the one."""
        from drgate.predictions import read_provenance

        copy = self.folder / "next.parquet"
        try:
            data = self._bytes(entry)
            self._left -= len(data)
            if self._left < 0:
                return f"{entry.path} is not read: there are more than {in_bytes(limits.JUDGED_TABLES)} of tables."
            copy.write_bytes(data)
            return read_provenance(copy)
        except (DrgateError, OSError) as problem:
            return f"{entry.path} cannot be read: {problem}".replace(str(copy), entry.path)

    def _bytes(self, entry: Entry) -> bytes:
        tree = self._change.head
        if not entry.path.endswith(DVC):
            content, name = tree.content(entry), entry.path
            if content.kind == "file":
                return tree.read(entry.path, limit=limits.JUDGED_TABLE, what="a table of predictions")
        else:
            ((name, content),) = tree.tracked_by_dvc(entry).items()
        return self._change.repository.fetched(name, content, limit=limits.JUDGED_TABLE)


def _answering(files: Any) -> list[Any] | None:
    """A model's files without cut-offs, as plain values; None where they are no list."""
    if not isinstance(files, list | tuple):
        return None
    plain = [plain_of(file) if isinstance(file, Subject) else file for file in files]
    return [file for file in plain if not (isinstance(file, dict) and file.get("role") == "cut_offs")]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All evidence of a change."""

    chains: Chains
    certificates: Certificates
    tables: Tables
