"""The evidence in a repository: chains of looks, certificates, and tables of predictions."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from drgate.certificate import trust
from drgate.certificate.chain import MAX_CHAIN_BYTES, read_chain
from drgate.certificate.statement import (
    CERTIFICATE_BEGINS,
    MAX_BYTES,
    STATEMENT_BEGINS,
    Certificate,
    Statement,
    parse_certificate,
    parse_statement,
)
from drgate.errors import DrgateError, RepositoryError
from drgate.evaluation import Subject, plain_of
from drgate.gate.change import Change
from drgate.gate.findings import RULES, Finding, Status
from drgate.gate.policy import GatedTestSet, Rules
from drgate.gate.repository import DVC, Entry

TABLES: Final = (".parquet", ".pq")
MAX_TABLE_BYTES: Final = 1 << 30
MAX_ROWS: Final = 10_000_000
_PAYLOAD: Final = re.compile(rb'"payload":"([A-Za-z0-9+/=]*)"')


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
            old = change.base.read(earlier.looks, limit=MAX_CHAIN_BYTES, what=what).splitlines()
        if not change.head.has(one.looks):
            if old is not None:
                raise RepositoryError(f"The chain of looks {one.looks} is missing. Looks are evidence; restore it.")
            return f"There is no chain of looks in {one.looks}, so the number of looks at the test set is unknown."
        data = change.head.read(one.looks, limit=MAX_CHAIN_BYTES, what=what)
        entries = read_chain(data, one.looks)
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
    invalid: why other files are no certificates, in sentences. A certificate that names a trusted key without its
    signature is reported in findings; it says nothing against genuine ones.
    """

    def __init__(self, change: Change, rules: Rules, wanted: Iterable[str]) -> None:
        self.found: list[Found] = []
        self.findings: list[Finding] = []
        self.invalid: list[str] = []
        self.tables: list[Entry] = []
        self._by_digest: dict[str, list[tuple[str, bytes]]] = {}
        keys = [key for keys in rules.trusted.values() for key in keys]
        needles = [digest.encode() for digest in {*wanted}]
        for entry in change.head.below(rules.policy.certificates):
            if entry.path.endswith((*TABLES, *(suffix + DVC for suffix in TABLES))):
                self.tables.append(entry)
                continue
            try:
                found = self._take(change, entry, needles)
            except DrgateError as problem:
                self.invalid.append(str(problem))
                continue
            read = found and found.read
            named = [key for key in keys if isinstance(read, Certificate) and key.id == read.key_id]
            if found and isinstance(read, Certificate) and named and trust.signer(read, named) is None:
                reason = (
                    f"{found.path} names the key {read.key_id}, but that key did not sign it: it is forged or damaged. "
                    "Remove it."
                )
                self.findings.append(Finding(RULES, f"certificate:{found.path}", "tampering", "REFUSED", reason))
            elif found:
                self.found.append(found)

    def _take(self, change: Change, entry: Entry, needles: Iterable[bytes]) -> Found | None:
        """A certificate or statement that names a wanted digest; the others are not worth the time to parse."""
        if not entry.path.endswith(".json") and change.repository.size(entry.oid) > MAX_BYTES:
            return None
        data = change.head.read(entry.path, limit=MAX_BYTES, what="a certificate")
        statement = data if data.startswith(STATEMENT_BEGINS) else b""
        if data.startswith(CERTIFICATE_BEGINS) and (inside := _PAYLOAD.search(data)):
            with contextlib.suppress(ValueError):
                statement = base64.b64decode(inside[1])
        if not statement:  # other JSON, such as evaluation.json
            return None
        digest = f"sha256:{hashlib.sha256(statement).hexdigest()}"
        self._by_digest.setdefault(digest, []).append((entry.path, data))
        return _parsed(entry.path, data) if any(needle in statement for needle in needles) else None

    def of_statement(self, digest: str) -> list[Found]:
        """All files that hold this statement and can be read."""
        found = []
        for path, data in self._by_digest.get(digest, []):
            with contextlib.suppress(DrgateError):
                found.append(_parsed(path, data))
        return found


def _parsed(path: str, data: bytes) -> Found:
    return Found(
        path, parse_statement(data, path) if data.startswith(STATEMENT_BEGINS) else parse_certificate(data, path)
    )


class Tables:
    """Tables of predictions in the repository, copied into `folder` to be read."""

    def __init__(self, change: Change, entries: Sequence[Entry], folder: Path) -> None:
        self.folder = folder
        self._change, self._entries = change, entries
        self._read: dict[str, tuple[Path, dict[str, Any]] | str] = {}

    def named(self, sentence: str) -> str:
        """A sentence with the paths of the repository in place of those of the copies."""
        for path, found in self._read.items():
            if not isinstance(found, str):
                sentence = sentence.replace(str(found[0]), path)
        return sentence

    def find(
        self, digest: str, near: set[str], invalid: list[str], files: Sequence[Subject] | None = None
    ) -> Path | None:
        """A copy of the table that has this digest, of its rows or as a baseline, and is of these model files.

        near: folders to look in first. invalid: receives why other tables do not count.
        """
        for entry in sorted(self._entries, key=lambda entry: str(PurePosixPath(entry.path).parent) not in near):
            if entry.path not in self._read:
                self._read[entry.path] = self._copied(entry)
            found = self._read[entry.path]
            if isinstance(found, str):
                invalid.append(found)
                continue
            copy, provenance = found
            bound = provenance.get("model")
            if digest not in (provenance.get("rows"), provenance.get("as_baseline")):
                continue
            if files is None or (isinstance(bound, dict) and bound.get("files") == list(map(plain_of, files))):
                return copy
            invalid.append(f"{entry.path} holds these rows, but was scored with other model files.")
        return None

    def _copied(self, entry: Entry) -> tuple[Path, dict[str, Any]] | str:
        """A copy and its provenance, or why it cannot be read."""
        import pyarrow.parquet as pq

        from drgate.predictions import read_provenance

        copy = self.folder / f"{len(self._read)}.parquet"
        try:
            copy.write_bytes(self._bytes(entry))
            if (rows := pq.read_metadata(copy).num_rows) > MAX_ROWS:
                return f"{entry.path} holds {rows} rows; at most {MAX_ROWS} are read."
            return copy, read_provenance(copy)
        except (DrgateError, OSError, ValueError) as problem:  # Arrow's errors are among the last
            return f"{entry.path} cannot be read: {problem}".replace(str(copy), entry.path)

    def _bytes(self, entry: Entry) -> bytes:
        tree = self._change.head
        if not entry.path.endswith(DVC):
            content, name = tree.content(entry), entry.path
            if content.kind == "file":
                return tree.read(entry.path, limit=MAX_TABLE_BYTES, what="a table of predictions")
        else:
            ((name, content),) = tree.tracked_by_dvc(entry).items()
        return self._change.repository.fetched(name, content, limit=MAX_TABLE_BYTES)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All evidence of a change."""

    chains: Chains
    certificates: Certificates
    tables: Tables
