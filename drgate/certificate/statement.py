"""Certificate: the signed statement of what an evaluation found, in forms that strangers' tools read.

    read_certificate(Path("certificate.json"))     # Certificate: one signature over one Statement
    read_certificate(Path("statement.json"))       # Statement: the same bytes, unsigned

The statement is an in-toto Statement v1 with a test-result predicate; the certificate is a Sigstore bundle v0.3 that
holds it in a DSSE envelope. Both have one byte form. A reader rebuilds the bytes from what it parsed and refuses any
others, so a certificate contains nothing that is not signed, and nothing in a statement that does not follow from the
evaluation in it. Whether a signature holds, and whose it is, `drgate.verify` says.

References: in-toto attestation framework (Statement v1, predicate test-result v0.1); DSSE protocol v1; Sigstore bundle
format v0.3.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

from drgate.certificate.envelope import BEGINS, MAX_BYTES, STATEMENT_TYPE, Envelope, parse_envelope
from drgate.errors import CertificateError, DrgateError
from drgate.evaluation import Computed, CriterionResult, Estimate, Evaluation, Lineage, Outcome, Reference, plain_of
from drgate.files import TIME_FORMAT, canonical_json, parse_json, parse_moment, read_limited, refuse_content
from drgate.line_ends import read_as_written

FORMAT: Final = 3
"""Number of the statement's form. It covers every word that `statement_bytes` writes: to change one is a new number,
and statements of the older numbers must still come out as they were signed (but for 1 and 2, which no release wrote).
"""
PREDICATE_TYPE: Final = "https://in-toto.io/attestation/test-result/v0.1"

NOT_A_MEDICAL_DEVICE: Final = (
    "drgate is not a medical device, and this certificate is neither a clearance nor an approval to diagnose or treat."
)
NOT_EVIDENCE_FOR: Final = (
    "How the model performs on other patients, cameras, sites or dates than those of this test set.",
    "Any other file, even one made from the files named here, such as a converted or compressed model.",
    "Whether using the model benefits patients, or is safe together with its readers and referrals.",
    "Agreement with a better reference standard than the grades of this test set.",
)
STATEMENT_BEGINS: Final = b'{"_type":'
CERTIFICATE_BEGINS: Final = BEGINS
"""How the one form of a statement and that of a certificate begin."""
Result = Literal["PASSED", "WARNED", "FAILED"]

_EXPECTED: Final = "certificate.json or statement.json as drgate wrote it, unchanged: get the original file"
_CONTENT_SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Statement:
    """What is signed.

    data: its bytes, in the one form there is.
    content: the same as plain values.
    evaluation: the evaluation inside, from which all the rest follows.
    """

    data: bytes = field(repr=False)
    content: dict[str, Any] = field(repr=False)
    evaluation: Evaluation

    @property
    def statement(self) -> Statement:
        """Itself: a reader need not know whether it was signed."""
        return self

    @property
    def headline(self) -> str:
        """What is certified, in one sentence."""
        return self.evaluation.headline

    @property
    def result(self) -> Result:
        """in-toto's word: PASSED, WARNED for a PASS with warnings, FAILED for everything else."""
        result: Result = self.content["predicate"]["result"]
        return result

    @property
    def digest(self) -> str:
        """`sha256:...` over its bytes: how lists of revocations and later statements name it."""
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    @property
    def time(self) -> datetime:
        """When its look was taken: what its age counts from."""
        return parse_moment(self.evaluation.look.time)

    @property
    def expires(self) -> datetime | None:
        """From when on it holds no longer, where its checklist sets that."""
        until = expiry(self.evaluation)
        return None if until is None else parse_moment(until)

    @property
    def subjects(self) -> dict[str, str]:
        """Hex SHA-256 of every subject, by name."""
        return {subject["name"]: subject["digest"]["sha256"] for subject in self.content["subject"]}

    @property
    def of_model(self) -> bool:
        """Whether the subjects are a model's files; a foreign table of predictions certifies no model."""
        return not self.evaluation.model.of_table


@dataclass(frozen=True, slots=True)
class Certificate:
    """A statement under one signature.

    key_id: lower-case hex SHA-256 of the signer's public key (DER SPKI): a claim until the signature is verified.
    signature: ECDSA P-256 over `pre_authentication(statement.data)`, DER with the lower s.
    """

    statement: Statement
    key_id: str
    signature: bytes = field(repr=False)

    @property
    def envelope(self) -> Envelope:
        """The signature with the bytes that it covers."""
        return Envelope(self.statement.data, self.key_id, self.signature)

    def to_bytes(self) -> bytes:
        """The file: a Sigstore bundle v0.3 in its one form."""
        return self.envelope.to_bytes()


def statement_bytes(evaluation: Evaluation) -> bytes:
    """The statement of an evaluation: a pure function, so the same evaluation gives the same bytes.

    Raises CertificateError where the evaluation does not say what it is about, or is too large.
    """
    data = canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": _subjects(evaluation),
            "predicateType": PREDICATE_TYPE,
            "predicate": _predicate(evaluation),
        }
    )
    if len(data) > MAX_BYTES // 2:
        raise CertificateError(
            f"The evaluation is larger than {MAX_BYTES >> 21} MB, more than a reader of certificates accepts."
        )
    return data


def expiry(evaluation: Evaluation) -> str | None:
    """The moment (ISO 8601, UTC) from which the certificate holds no longer, where the checklist sets `valid_days`."""
    days = evaluation.spec.content.get("valid_days")
    if days is None:
        return None
    try:
        return (parse_moment(evaluation.look.time) + timedelta(days=days)).strftime(TIME_FORMAT)
    except OverflowError as problem:
        raise CertificateError(f"The look was taken in the year {evaluation.look.time[:4]}.") from problem


def lineage(evaluation: Evaluation) -> Lineage:
    """Whether the images of all ancestors of the weights are known; what no record says is unknown."""
    training = evaluation.training
    if training.lineage is not None:
        return training.lineage
    if evaluation.model.of_table:
        why = "a table of predictions does not say which model made it."
    else:
        why = training.missing or "the training record does not say."
    return Lineage("unknown", why, "unknown")


def reference(statement: Statement) -> Reference:
    """What a later statement records of this one, so as to say what changed."""
    evaluation = statement.evaluation
    return Reference(
        statement=statement.digest,
        name=evaluation.model.name,
        verdict=evaluation.verdict,
        spec=evaluation.spec.digest,
        criteria={criterion.id: _outcome(criterion) for criterion in evaluation.criteria},
        test_set=evaluation.data.digest,
        tensor_digest=evaluation.model.tensor_digest,
        computed=None if evaluation.model.computed == Computed() else evaluation.model.computed,
    )


def changes(evaluation: Evaluation) -> dict[str, Any] | None:
    """What changed against the certificate of the model that it was exported from, or that it was compared with.

    `criteria`: by id, `from` and `to`, absent where one of the two does not have the criterion; those that came out the
    same are left out. `computed`: in words, where device, precision or batch are others. None where no earlier
    certificate was given.
    """
    earlier = evaluation.model.parent or evaluation.model.previous
    if earlier is None:
        return None
    before = earlier.criteria
    after = {criterion.id: _outcome(criterion) for criterion in evaluation.criteria}
    computed = evaluation.model.computed
    return {
        "against": earlier.statement,
        "name": earlier.name,
        "relation": "exported from" if evaluation.model.parent else "compared with",
        "verdict": {"from": earlier.verdict, "to": evaluation.verdict},
        "same_spec": earlier.spec == evaluation.spec.digest,
        "same_test_set": earlier.test_set == evaluation.data.digest,
        **(
            {"computed": dict(zip(("from", "to"), earlier.computed.beside(computed), strict=True))}
            if earlier.computed is not None and earlier.computed.differs(computed)
            else {}
        ),
        "criteria": {
            name: {
                **({"from": plain_of(before[name])} if name in before else {}),
                **({"to": plain_of(after[name])} if name in after else {}),
            }
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        },
    }


def _outcome(criterion: CriterionResult) -> Outcome:
    estimate = criterion.estimate
    if not isinstance(estimate, Estimate):
        return Outcome(criterion.status)
    return Outcome(criterion.status, estimate.k, estimate.n, estimate.value)


def make_statement(evaluation: Evaluation) -> Statement:
    """The statement of an evaluation, as this version of drgate makes it."""
    checked = Evaluation.from_json(evaluation.to_json(), "The evaluation", CertificateError)
    return parse_statement(statement_bytes(checked), "The statement")


def parse_statement(data: bytes, origin: str) -> Statement:
    """The statement in `data`; `origin` names it in messages.

    Raises CertificateError for anything but the one byte form: other white space or order, duplicate or unknown keys, a
    result, headline, subject or list of tests that does not follow from the evaluation inside.
    """
    content = _parse(data, origin)
    extension = _at(content, "predicate", "drgate")
    number = _at(extension, "format")
    if type(number) is not int:
        raise CertificateError(f"{origin} is not a statement of drgate; expected {_EXPECTED}.")
    if number != FORMAT:
        raise CertificateError(
            f"{origin} is a statement of format {number}; this drgate reads format {FORMAT}. Evaluate the model again."
        )
    evaluation = Evaluation.from_json(_at(extension, "evaluation"), origin, CertificateError)
    try:
        same = statement_bytes(evaluation) == data
    except CertificateError as problem:
        raise CertificateError(f"{origin}: {problem}") from problem
    if not same:
        raise CertificateError(
            f"{origin} is not, byte for byte, what follows from the evaluation in it: it was written or changed by "
            "something else than drgate. Do not rely on it; get the original file."
        )
    return Statement(data, content, evaluation)


def parse_certificate(data: bytes, origin: str) -> Certificate:
    """The certificate in `data`; `origin` names it in messages. The signature is not verified here.

    Raises CertificateError for anything but the one byte form: spare base64 bits, white space, duplicate, unknown or
    unsigned fields, another key hint, several signatures; and for what `parse_statement` refuses.
    """
    envelope = parse_envelope(data, origin, "a certificate", _EXPECTED)
    try:
        statement = parse_statement(envelope.payload, f"The statement in {origin}")
    except CertificateError as problem:
        if isinstance(problem.__cause__, UnicodeDecodeError | json.JSONDecodeError):  # drgate signs no such thing
            raise CertificateError(
                f"{origin} was changed since it was signed: what it says is no longer JSON. Get the original file."
            ) from problem
        raise
    return Certificate(statement, envelope.key_id, envelope.signature)


def read_certificate(path: Path) -> Certificate | Statement:
    """Read `certificate.json` or, unsigned, `statement.json`.

    Raises CertificateError for a missing, empty, oversized or malformed file; see `parse_certificate`.
    """
    data = read_limited(path, MAX_BYTES, _EXPECTED, CertificateError)
    if not data.startswith(b"{"):
        refuse_content(data, str(path), _EXPECTED, CertificateError)
    return read_as_written(parse_either, data, str(path))


def parse_either(data: bytes, origin: str) -> Certificate | Statement:
    """The certificate or the unsigned statement in `data`; see `parse_certificate` and `parse_statement`."""
    return (parse_statement if data.startswith(STATEMENT_BEGINS) else parse_certificate)(data, origin)


def refuse_other_checklist(evaluation: Evaluation, origin: str) -> None:
    """Raise CertificateError where the checklist in an evaluation is none that drgate writes: it cannot be drawn."""
    from drgate.checklist import parse_checklist  # a tenth of a second to import

    content = evaluation.spec.content
    try:
        same = parse_checklist(content, f"the checklist in {origin}").content() == content
    except DrgateError as problem:
        raise CertificateError(f"{origin} cannot be shown: {problem}") from problem
    if not same:
        raise CertificateError(f"{origin} cannot be shown: its checklist is not as drgate writes it; evaluate again.")


def _parse(data: bytes, origin: str) -> Any:
    if len(data) > MAX_BYTES:
        raise CertificateError(f"{origin} is larger than {MAX_BYTES >> 20} MB; expected {_EXPECTED}.")
    return parse_json(data, origin, _EXPECTED, CertificateError)


def _at(plain: Any, *keys: str) -> Any:
    """A value inside plain JSON; None where it is not there."""
    for key in keys:
        plain = plain.get(key) if isinstance(plain, dict) else None
    return plain


def _subjects(evaluation: Evaluation) -> list[dict[str, Any]]:
    files = evaluation.model.files
    if not files:
        raise CertificateError("The evaluation names no file; a certificate is of named files.")
    if not evaluation.headline.isprintable():  # terminals, logs and pages show it
        raise CertificateError(f"{evaluation.headline!r} holds characters that do not print; rename what it names.")
    return [
        {
            "name": file.name,
            "digest": _given(sha256=file.sha256, md5=file.md5),
            "annotations": {"size": file.size, "role": file.role},
        }
        for file in files
    ]


def _predicate(evaluation: Evaluation) -> dict[str, Any]:
    required = {criterion.id: criterion.status for criterion in evaluation.criteria if criterion.required}
    if not evaluation.look.time:
        raise CertificateError("The evaluation has no time of its look; a certificate has an age.")
    if "drgate" not in evaluation.software:
        raise CertificateError("The evaluation does not name the version of drgate that wrote it.")
    return {
        "result": _result(evaluation),
        "configuration": _configuration(evaluation),
        "passedTests": [criterion.id for criterion in evaluation.criteria if criterion.status == "PASS"],
        "warnedTests": [criterion.id for criterion in evaluation.warnings],
        "failedTests": [name for name, status in required.items() if status != "PASS"],
        "drgate": {
            "format": FORMAT,
            "version": evaluation.software["drgate"],
            "headline": evaluation.headline,
            "time": evaluation.look.time,
            **_given(expires=expiry(evaluation), changes=changes(evaluation)),
            "training": _training(evaluation),
            "lineage": plain_of(lineage(evaluation)),
            "intended_use": evaluation.spec.content.get("intended_use", {}),
            "not_evidence_for": list(NOT_EVIDENCE_FOR),
            "not_a_medical_device": NOT_A_MEDICAL_DEVICE,
            "evaluation": evaluation.to_json(),
        },
    }


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _training(evaluation: Evaluation) -> dict[str, Any]:
    """The training record in short: which attempt, from what, how it ended, what it cost; or what is missing."""
    kept = ("attempt", "parameters_digest", "git_commit", "status", "selected_epoch", "spend", "foreign", "missing")
    plain = plain_of(evaluation.training)
    return {key: plain[key] for key in (*kept, "parent") if key in plain} or {"missing": "there is no training record."}


def _result(evaluation: Evaluation) -> Result:
    if evaluation.verdict != "PASS":
        return "FAILED"
    return "WARNED" if evaluation.warnings else "PASSED"


def _configuration(evaluation: Evaluation) -> list[dict[str, Any]]:
    """What the test was run with, each by the digest of its content (layout does not matter), grades by their file."""
    checklist, data, model, training = evaluation.spec, evaluation.data, evaluation.model, evaluation.training
    named = _given(
        **{f"spec {checklist.name} version {checklist.version}": checklist.digest},
        manifest=data.manifest_digest,
        grades=data.grades and f"sha256:{data.grades.sha256}",
        predictions=evaluation.predictions_digest,
        preprocessing=model.preprocessing and model.preprocessing.digest,
        **{
            "operating point": data.operating_point and data.operating_point.digest,
            "audit": data.audit and data.audit.digest,
            "line of the look": evaluation.look.line,
            "parent's statement": model.parent and model.parent.statement,
            "previous statement": model.previous and model.previous.statement,
            "baseline": training.baseline and training.baseline.predictions_digest,
            "training parameters": training.parameters_digest,
        },
    )
    for name, digest in named.items():
        if not _CONTENT_SHA256.fullmatch(digest):
            raise CertificateError(f"The digest of {name} is {digest!r}; expected sha256: and 64 hexadecimal digits.")
    return [
        {
            "name": name,
            "digest": {"sha256": digest.removeprefix("sha256:")},
            "annotations": {"digest_of": "file" if name == "grades" else "content"},
        }
        for name, digest in named.items()
    ]
