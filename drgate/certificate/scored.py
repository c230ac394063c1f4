"""A signed table of predictions: who scored which images with which model, in `TABLE.scored.json` beside the table.

    signed = sign_scored(predictions, key, time)              # drgate score --key
    signed.write(beside(Path("predictions.parquet")))
    read_scored(path).contradictions(load_predictions(...))   # sentences; empty where it is of these predictions

A table's own record of its model is free text. The signature covers the answers, that record and the reference columns
that the table had when it was scored, so that nobody who hands the table on can change them. Grades that are
joined to a sealed table later are not covered. An in-toto Statement v1 in the envelope that certificates have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from drgate.certificate.envelope import MAX_BYTES, STATEMENT_TYPE, Envelope, parse_envelope, seal
from drgate.errors import CertificateError
from drgate.evaluation import Moment, Precision, Prepared, Subject, Typed, plain_of, read_as
from drgate.files import canonical_json, digest_of, parse_json, read_limited, write_atomically

if TYPE_CHECKING:
    from drgate.certificate.keys import SigningKey
    from drgate.evaluation import Evaluation
    from drgate.predictions import Predictions

PREDICATE_TYPE: Final = "urn:drgate:scored:1"
ENDING: Final = ".scored.json"
_EXPECTED: Final = "a file that drgate score --key wrote, unchanged: get the original file"
_Hex = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Digest = Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class ScoredImages(Typed):
    """The images that were scored.

    digest, images_digest, split, dealt_by_seed: as in `drgate.evaluation.TestSet`. columns: digests of the reference
    columns, by name (`reference_digests`; a further column by the beginning of its name's SHA-256, because headers may
    name a patient); without grade, the set was sealed.
    """

    name: str
    digest: _Digest
    images_digest: _Digest
    columns: dict[str, _Hex]
    split: str | None = None
    dealt_by_seed: int | None = None


@dataclass(frozen=True, slots=True)
class Scored(Typed):
    """What a scorer states.

    model: the files that answered, with their roles. preprocessing: absent where the model prepares
    photographs itself. cut_offs: SHA-256 of the one in the role cut_offs, if any.
    device: as `Model.providers`. precision: of the computation, where it is known. record: digest of the table's
    own record.
    warnings: what the scorer says of the images and the model; others may be added to them later.
    """

    model: Annotated[tuple[Subject, ...], Field(min_length=1)]
    manifest: ScoredImages
    software: dict[str, str]
    device: tuple[str, ...]
    time: Moment
    record: _Digest
    warnings: tuple[str, ...]
    precision: Precision | None = None
    preprocessing: Prepared | None = None
    cut_offs: _Hex | None = None


@dataclass(frozen=True, slots=True)
class SignedTable:
    """A statement about a table, under one signature. rows: `answers_digest` of the table."""

    envelope: Envelope
    rows: str
    content: Scored = field(repr=False)

    @property
    def digest(self) -> str:
        """`sha256:...` over the statement's bytes: how an evaluation names it."""
        return f"sha256:{hashlib.sha256(self.envelope.payload).hexdigest()}"

    @property
    def readers(self) -> list[str]:
        """The columns of readers that were signed."""
        from drgate.columns import READER  # pandas

        return [column for column in self.content.manifest.columns if READER.fullmatch(column)]

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_atomically(path, self.envelope.to_bytes())

    def contradictions(self, predictions: Predictions) -> Iterator[str]:
        """Where a table is not the one that was signed, in sentences without a subject.

        The table may have got grades since, if it was sealed, cut-offs, and published names.
        """
        import numpy as np

        rows, now = _of(predictions, self.content.time)
        signed, table = self.content, predictions.table
        if rows != self.rows:
            yield "holds other images or answers"
        if (predictions.as_grades["predicted"].notna() & np.isnan(predictions.scores()[:, 0])).any():
            yield "has a predicted grade where the model gave no answer"
        if now.model != signed.model:
            yield "names other files of the model"
        if (now.manifest.digest, now.manifest.images_digest) != (signed.manifest.digest, signed.manifest.images_digest):
            yield "names another test set"
        if now.record != signed.record:
            yield "has another record of how it was scored"
        if now.warnings[: len(signed.warnings)] != signed.warnings:
            yield "lacks a warning that its scorer gave"
        columns, before = now.manifest.columns, signed.manifest.columns
        # A published table lacks columns that its checklist does not use, never these. A sealed one gets some later.
        kept = before.keys() & {
            "patient",
            "eye",
            "grade",
            "referable",
            "gradable",
            "dme",
            *map(_signed_name, table.columns),
        }
        graded_before, graded = (bool({"grade", "referable"} & known.keys()) for known in (before, columns))
        added = columns.keys() - before.keys() if graded_before else set()
        for column in sorted(kept | added):
            if columns.get(column) != before.get(column):
                yield f"has another column {column}" if column == _signed_name(column) else "has another further column"
        if not graded_before and graded and "grades" not in predictions.provenance:
            yield "has grades from no named file; join them with --grades FILE"

    def refutes(self, evaluation: Evaluation) -> Iterator[str]:
        """Where an evaluation is not of the table that was signed, in sentences without a subject."""
        scoring = evaluation.model.scoring
        if scoring is None or (scoring.key, scoring.statement) != (self.envelope.key_id, self.digest):
            yield "names another scorer, or another statement of theirs"
        if _scored_files(evaluation.model.files) != _scored_files(self.content.model):
            yield "is of other files of the model"
        if evaluation.data.manifest_digest != self.content.manifest.digest:
            yield "is on another test set"
        readers = evaluation.data.readers
        if readers and evaluation.data.grades is None and {*readers} != {*self.readers}:
            yield "compares with other readers than those of the signed table"


def _scored_files(files: tuple[Subject, ...]) -> list[Subject]:
    """The files without cut-offs: those decide grades, not answers, and may be chosen later."""
    return [file for file in files if file.role != "cut_offs"]


def beside(table: Path) -> Path:
    """The path of the signed statement about a table: beside it, under its name."""
    return table.with_suffix(ENDING)


def sign_scored(predictions: Predictions, key: SigningKey, time: str) -> SignedTable:
    """The statement about predictions that `score` just made, signed. time: ISO 8601, UTC.

    Raises CertificateError where the key cannot sign.
    """
    rows, content = _of(predictions, time)
    return SignedTable(seal(_statement(rows, content), key), rows, content)


def read_scored(path: Path) -> SignedTable:
    """Read a file; see `parse_scored`."""
    return parse_scored(read_limited(path, MAX_BYTES, _EXPECTED, CertificateError), str(path))


def parse_scored(data: bytes, origin: str) -> SignedTable:
    """The signed statement in `data`; `origin` names it in messages. The signature is not verified here.

    Raises CertificateError for anything but the one byte form of envelope and statement, and for unknown keys.
    """
    envelope = parse_envelope(data, origin, "a signed table", _EXPECTED)
    plain: Any = parse_json(envelope.payload, f"The statement in {origin}", _EXPECTED, CertificateError)
    try:
        kind, predicate, rows = plain["predicateType"], plain["predicate"], plain["subject"][0]["digest"]["sha256"]
    except (KeyError, IndexError, TypeError) as problem:
        raise CertificateError(f"The statement in {origin} is of another kind; expected {_EXPECTED}.") from problem
    if kind != PREDICATE_TYPE:
        raise CertificateError(f"The statement in {origin} is of another kind ({kind!r:.80}); expected {_EXPECTED}.")
    content = read_as(Scored, predicate, f"The statement in {origin}", expected=_EXPECTED, error=CertificateError)
    if _statement(rows, content) != envelope.payload:
        raise CertificateError(f"The statement in {origin} is not in its canonical form; expected {_EXPECTED}.")
    return SignedTable(envelope, rows, content)


def is_scored(statement: bytes) -> bool:
    """Whether the bytes of a statement are about a scored table, not a certificate's."""
    if PREDICATE_TYPE.encode() not in statement:
        return False
    try:
        plain = parse_json(statement, "The statement", _EXPECTED, CertificateError)
    except CertificateError:
        return False
    return isinstance(plain, dict) and plain.get("predicateType") == PREDICATE_TYPE


def _statement(rows: str, content: Scored) -> bytes:
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": "predictions", "digest": {"sha256": rows}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": plain_of(content),
        }
    )


def _signed_name(column: str) -> str:
    """How a column is named in what is published: drgate's own and readers as they are."""
    from drgate.columns import READER  # pandas
    from drgate.predictions import OPEN

    if column in OPEN or READER.fullmatch(column):
        return column
    return f"sha256:{hashlib.sha256(column.encode()).hexdigest()[:16]}"


def _of(predictions: Predictions, time: str) -> tuple[str, Scored]:
    """The answers digest and the statement that follow from a table with its record."""
    from drgate.predictions import answers_digest, reference_digests  # pandas

    record, table = predictions.provenance, predictions.table
    digests = reference_digests(table)
    columns = {_signed_name(name): digest for name, digest in digests.items()}
    if (
        not {"grade", "referable"} & columns.keys() or "grades" in record
    ):  # sealed when it was scored: grades may bring what was empty
        whole = {_signed_name(name) for name in digests if table[name].notna().all()}
        columns = {name: digest for name, digest in columns.items() if name in whole - {"gradable"}}
    try:
        model, manifest = record["model"], record["manifest"]
        plain = {
            "model": model["files"],
            "manifest": {
                **{name: manifest[name] for name in _MANIFEST if manifest[name] is not None},
                "columns": columns,
            },
            "preprocessing": record["preprocessing"],
            "software": model["scored_with"],
            "device": model["providers"],
            "precision": model.get("precision"),
            "time": time,
            "record": digest_of({name: record.get(name) for name in _RECORD}),
            "warnings": record.get("warnings", []),
            "cut_offs": next((file["sha256"] for file in model["files"] if file["role"] == "cut_offs"), None),
        }
    except (KeyError, TypeError) as problem:
        raise CertificateError(
            f"{predictions.origin}: its record has no {problem}; score the model again."
        ) from problem
    expected = "a record that drgate score wrote"
    return answers_digest(table), read_as(Scored, plain, predictions.origin, expected=expected, error=CertificateError)


_MANIFEST: Final = ("name", "digest", "split", "images_digest", "dealt_by_seed")
_RECORD: Final = ("model", "manifest", "preprocessing", "audit", "copies")
"""Parts of a table's record that never change once it is scored."""
