"""Verify: is a certificate genuine, whose is it, and do its numbers follow from the predictions?

    found = verify(Path("certificate.json"), Trust([load_public_key(Path("clinical.pub"))]))
    found.exit_code          # 0 genuine and PASS, 1 genuine and FAIL, 3 insufficient or not shown, 2 not genuine
    found.checked            # what was compared and found equal, in sentences; `unchecked` and `problems` likewise

What was not given is not checked, and is named. Only `deep` needs the model's weights and torch: it
scores the model again. Only the recomputation needs NumPy.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from drgate import limits
from drgate.certificate.chain import logged_look, read_chain
from drgate.certificate.keys import PublicKey
from drgate.certificate.scored import ENDING, SignedTable, read_scored
from drgate.certificate.statement import Certificate, Statement, read_certificate, reference
from drgate.certificate.trust import Revocations, lapses, signer
from drgate.errors import CertificateError, DrgateError, ExitCode, PredictionsError, UsageError, visible
from drgate.evaluation import COMPANIONS, EXPORTED, Changes, Evaluation, Role, TestSet, Verdict, plain_of
from drgate.files import canonical_json, digest_of, read_limited, sha256_file
from drgate.given import PREDICTIONS
from drgate.mapping import PLAIN, ColumnMap
from drgate.screen import SILENT, Progress

if TYPE_CHECKING:
    from drgate.checklist import Checklist
    from drgate.operating_point import OperatingPoint
    from drgate.predictions import Predictions

TOLERANCE: Final = 1e-9
"""Largest difference between a recomputed and a recorded bound: builds of the same special function differ by less."""

TABLES: Final = (".parquet", ".pq")
"""What a table of predictions that is looked for beside a certificate ends in."""

_CANNOT_COMPUTE: Final = "The evaluation cannot be computed from what the certificate records"

Finding = tuple[Literal["checked", "unchecked", "missing", "problem"], str]


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a reader believes, and for how long.

    keys: of which one must have signed. revocations: keys and statements that no longer count. max_age_days: how old
    the look may be. now: the reader's clock. scorers: keys whose signature under a scored table counts.
    """

    keys: Sequence[PublicKey] = ()
    revocations: Revocations | None = None
    max_age_days: int | None = None
    now: datetime | None = None
    scorers: Sequence[PublicKey] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """What a certificate is compared with.

    models: the model's file or folder; its further files lie beside it, or are given too. predictions: the table that
    was evaluated; without it, the one beside the certificate that has its digest. checklist: the one it must have been
    held against. baseline: the table that its baseline criterion was judged by. parent: the certificate that it names
    as its model's (or that it was compared with). looks: the chain that must hold its look.
    """

    models: Sequence[Path] = ()
    predictions: Path | None = None
    checklist: Checklist | None = None
    baseline: Path | None = None
    parent: Path | None = None
    looks: Path | None = None


@dataclass(frozen=True, slots=True)
class Rescoring:
    """How `verify` scores the model again.

    data: the manifest of the test set. base: location of a checkpoint's base model, if it has moved since training.
    workers: processes that decode. columns: which column of the manifest is which.
    """

    data: Path
    base: str | None = None
    workers: int | None = None
    progress: Progress = SILENT
    columns: ColumnMap = PLAIN


RESCORED_WITHIN: Final = 1e-3
"""Largest difference between a probability and the recorded one when another device or library scores again."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What is known about a certificate after looking.

    headline, verdict: what the certificate says; worth something only where it is genuine. answer: its exit code.
    signed, trusted: it has a signature; a trusted key made it. scored: whoever signed it ran the model, or a trusted
    scorer did and signed these answers.
    bound: the predictions were given, and carry the digests of this model and this test set.
    recomputed: every number follows from the predictions, but for what `not_compared` (a part of `unchecked`) names.
    checked: what was compared and found equal. unchecked: what could not be, and why. problems: what contradicts it.
    missing: files of the model that are not there under their names (a part of `unchecked`). unproved: why nothing
    shows that the model gave the answers, where the certificate is of a model (likewise).
    """

    headline: str
    verdict: Verdict
    answer: int
    signed: bool
    trusted: bool
    bound: bool
    recomputed: bool
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]
    problems: tuple[str, ...]
    not_compared: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unproved: tuple[str, ...] = ()
    scored: bool = False

    @property
    def genuine(self) -> bool:
        """A trusted key signed it and nothing that was given contradicts it."""
        return self.trusted and not self.problems

    @property
    def exit_code(self) -> int:
        """2 contradicted; 3 unsigned, no trusted key given, a file missing, or answers that nobody trusted got from the
        model; else that of the verdict.
        """
        if self.problems:
            return ExitCode.REFUSED
        shown = self.trusted and not self.missing and not self.unproved
        return self.answer if shown else ExitCode.NOT_SHOWN

    def to_json(self) -> dict[str, Any]:
        return {
            "genuine": self.genuine,
            "trusted": self.trusted,
            "bound": self.bound,
            "scored": self.scored and self.trusted,
            "recomputed": self.recomputed,
            "verdict": self.verdict,
            "headline": self.headline,
            "checked": list(self.checked),
            "unchecked": list(self.unchecked),
            "missing": list(self.missing),
            "problems": list(self.problems),
        }


def verify(
    path: Path,
    trust: Trust = Trust(),
    given: Given = Given(),
    *,
    deep: Rescoring | None = None,
    read: Certificate | Statement | None = None,
) -> Verification:
    """Check the certificate (or unsigned statement) in `path` against everything that is given.

    deep: how to score the model again. read: what `path` holds, where it was read before: then that is checked, and
    the path only says what is beside it.

    Raises CertificateError where `path` is no certificate at all, DrgateError where another file cannot be read.
    """
    read = read or read_certificate(path)
    statement = read.statement
    evaluation = statement.evaluation
    numbers = _numbers(evaluation, path, given.predictions, given.baseline)
    folders = [path.parent, *([given.predictions.parent] if given.predictions else [])]
    scoring = list(_scoring(evaluation, folders, numbers.table, trust.scorers))
    findings = [
        *_signature(read, trust.keys),
        *_standing(read, trust),
        *_files(statement, given.models),
        *_checklist(evaluation, given.checklist),
        *_look(evaluation, given.looks, numbers.table),
        *_audit(evaluation, folders, numbers.table),
        *_earlier(evaluation, given.parent, trust.revocations, numbers.table),
        *numbers.findings,
        *scoring,
        *(_again(statement, given.models, numbers.table, deep) if deep else ()),
    ]

    def sentences(*kinds: str) -> tuple[str, ...]:
        return tuple(visible(sentence) for found, sentence in findings if found in kinds)

    return Verification(
        headline=statement.headline,
        verdict=evaluation.verdict,
        answer=evaluation.exit_code,
        signed=isinstance(read, Certificate),
        trusted=isinstance(read, Certificate) and signer(read, trust.keys) is not None,
        bound=numbers.bound,
        recomputed=numbers.recomputed,
        checked=sentences("checked"),
        unchecked=sentences("unchecked", "missing"),
        problems=sentences("problem"),
        not_compared=tuple(map(visible, numbers.not_compared)),
        missing=sentences("missing"),
        unproved=tuple(visible(sentence) for kind, sentence in scoring if kind == "unchecked"),
        scored=statement.of_model and all(kind == "checked" for kind, _ in scoring),
    )


def _signature(read: Certificate | Statement, trusted: Sequence[PublicKey]) -> Iterator[Finding]:
    if isinstance(read, Statement):
        yield "unchecked", "It is unsigned: anybody could have written it."
    elif not trusted:
        yield (
            "unchecked",
            f"The signature was not verified, because no trusted key was given. It names the key {read.key_id}.",
        )
    elif signer(read, trusted):
        yield "checked", f"The signature is that of the trusted key {read.key_id}."
    elif read.key_id in {key.id for key in trusted}:
        yield "problem", f"The signature is not that of key {read.key_id}: statement or signature was changed."
    else:
        yield "problem", f"It is signed by key {read.key_id}, which is not among the trusted keys."


def _standing(read: Certificate | Statement, trust: Trust) -> Iterator[Finding]:
    """Whether it still holds: revoked, expired, too old."""
    statement = read.statement
    max_age_days, revocations = trust.max_age_days, trust.revocations
    problems = lapses(statement, now=trust.now or datetime.now(UTC), max_age_days=max_age_days)
    yield from (("problem", sentence) for sentence in problems)
    taken, until = statement.time, statement.expires
    if not problems and (until or max_age_days is not None):
        holds = f"it is valid until {until:%Y-%m-%d}" if until else f"at most {max_age_days} days are allowed"
        yield "checked", f"{_dated(statement)} on {taken:%Y-%m-%d}; {holds}."
    elif not problems:
        yield (
            "unchecked",
            f"{_dated(statement)} on {taken:%Y-%m-%d}: it has no expiry date, and --max-age-days was not given.",
        )
    if revocations is None:
        yield "unchecked", "No revocation list was given (--revoked)."
    elif revoked := revocations.against(read):
        yield from (("problem", sentence) for sentence in revoked)
    else:
        yield "checked", "Neither the statement nor the key is revoked."


def _dated(statement: Statement) -> str:
    return "Its leak was found" if statement.evaluation.leaks else "Its look was taken"


def _files(statement: Statement, given: Sequence[Path]) -> Iterator[Finding]:
    """Whether the files of the model are there: each with its own name and its own content.

    They refer to each other by name, so two that are exchanged are another model.
    """
    subjects = statement.evaluation.model.files
    if not statement.of_model:
        yield "unchecked", "It is of a table of predictions: which model made them is not known."
    if not given:
        if statement.of_model:
            names = ", ".join(sorted(file.name for file in subjects))
            yield "unchecked", f"Not given, so not compared: {names}."
        return
    by_name, by_digest = ({getattr(file, key): file for file in subjects} for key in ("name", "sha256"))
    found = list(_located(statement, given))
    missing = by_name.keys() - {path.name for path in found}
    sound = not missing
    for path in found:
        digest = _sha256(path)
        if digest == by_name[path.name].sha256:
            yield "checked", f"{path} is the certified file {path.name} (SHA-256 {digest})."
        else:
            sound = False
            yield "problem", f"{path} is another file than the certified {path.name}: its SHA-256 is {digest}."
    for path in given:
        if path.name in by_name or path.is_dir():
            continue
        sound = False
        if (same := by_digest.get(digest := _sha256(path))) is None:
            yield "problem", f"The certificate is for another file than {path}, which has SHA-256 {digest}."
        else:
            yield "missing", f"{path} is the certified file {same.name} under another name; rename it to {same.name}."
            missing -= {same.name}
    for name in sorted(missing):
        yield "missing", f"{name} is missing: the certificate covers it as {_AS[by_name[name].role]}."
    roles = {file.name: file.role for file in subjects}
    if subjects[0].name.casefold().endswith(".onnx"):
        uncovered = [name for name, role in COMPANIONS.items() if roles.get(name) != role]
        for path in sorted({path.with_name(name) for path in found for name in uncovered}):
            if path.exists():
                sound = False
                yield "problem", f"{path} decides the answers of the model beside it, and is not a certified file."
    for program in (path for path in found if path.name == "infer.py"):
        for path in sorted(program.parent.iterdir()):
            code = path.suffix.lower() in _IMPORTED or any(path.glob("__init__.*"))
            if code and path.name not in {*by_name, *COMPANIONS}:
                sound = False
                yield "problem", f"{path} can be run by infer.py beside it, and is not a certified file; take it away."
    if sound:
        yield "checked", "All certified files are there."


_IMPORTED: Final = (".py", ".pyc", ".so", ".pyd")
"""Suffixes of what Python takes for a module: beside a program, before the module of that name that is installed."""

_AS: Final[dict[Role, str]] = {
    "model": "the model",
    "data": "data of the model",
    "config": "configuration",
    "preprocessing": "the preprocessing",
    "labels": "the labels",
    "cut_offs": "cut-offs",
    "quality": "the check of image quality",
    "code": "code",
    "table": "the table",
}


def _located(statement: Statement, given: Sequence[Path]) -> dict[Path, None]:
    """The files with the names of certified ones: as given, in the folders that are given, and beside the model."""
    first, *_ = names = [file.name for file in statement.evaluation.model.files]
    found = dict.fromkeys(path for path in given if path.name in names and not path.is_dir())
    folders = [path if path.is_dir() else path.parent for path in given if path.is_dir() or path.name == first]
    return found | dict.fromkeys(path for folder in folders for name in names if (path := folder / name).is_file())


def _sha256(path: Path) -> str:
    if path.exists() and not path.is_file():  # a pipe or a device has no end
        raise CertificateError(f"{path} is not a file; expected a file of the model.")
    try:
        return sha256_file(path)
    except OSError as problem:
        raise CertificateError(
            f"{path} cannot be read ({problem.strerror}); expected a file of the model."
        ) from problem


def _scoring(
    evaluation: Evaluation, folders: Sequence[Path], table: Predictions | None, scorers: Sequence[PublicKey]
) -> Iterator[Finding]:
    """Whether this model gave the answers, where whoever signed the certificate did not run it."""
    scoring = evaluation.model.scoring
    if scoring is None or scoring.by == "this run":
        return
    if scoring.by == "elsewhere":
        yield "unchecked", "The images were scored elsewhere: nothing proves that this model gave these answers."
        return
    named = f"the scorer's key {scoring.key}"
    signed = _signed_table(folders, scoring.statement)
    if signed is None:
        yield "unchecked", f"The signed table (*{ENDING}) is not beside the certificate: {named} was not verified."
        return
    refuted = [*signed.refutes(evaluation), *(signed.contradictions(table) if table is not None else ())]
    yield from (("problem", f"Not what {named} signed: it {one}.") for one in refuted)
    if not scorers:
        yield "unchecked", f"No scorer's key was given (--scorer-key): {named} was not verified."
    elif signed.envelope.signer(scorers) is None:
        yield "problem", f"It was scored under {named}, which is not among the scorers that you trust."
    elif table is None:
        yield "unchecked", f"Without the predictions, {named} was not verified for these answers."
    elif not refuted:
        yield "checked", f"The answers are those that {named} signed."


def _signed_table(folders: Sequence[Path], statement: str | None) -> SignedTable | None:
    """The signed table whose statement this is, in one of the folders."""
    for path in (path for folder in folders for path in sorted(folder.glob(f"*{ENDING}")) if path.is_file()):
        with contextlib.suppress(CertificateError):
            if (signed := read_scored(path)).digest == statement:
                return signed
    return None


def _checklist(evaluation: Evaluation, checklist: Checklist | None) -> Iterator[Finding]:
    recorded = evaluation.spec
    name, content = f"{recorded.name} version {recorded.version}", recorded.content
    named = content.get("name"), content.get("version")
    if recorded.digest != digest_of(content) or named != (recorded.name, recorded.version):
        yield "problem", f"The checklist inside does not have the name and digest that are recorded ({name})."
    if checklist is None:
        yield "unchecked", f"--spec was not given: checked against the certificate's own checklist, {name}."
    elif checklist.digest == recorded.digest:
        yield "checked", f"The checklist is the expected one, {name}."
    else:
        yield (
            "problem",
            f"The checklist is {name} ({recorded.digest}), not the expected {checklist.name} ({checklist.digest}).",
        )


def _look(evaluation: Evaluation, chain: Path | None, table: Predictions | None) -> Iterator[Finding]:
    """Whether the chain of looks has the line that the statement names, and the line says the same."""
    look = evaluation.look
    if evaluation.leaks:
        yield "checked", "It took no look: its audit found a leak."
        return
    if chain is None:
        yield "unchecked", f"--looks was not given: that this was look {look.number} is not confirmed."
        return
    data = read_limited(chain, limits.CHAIN_BYTES, "a chain of looks", UsageError)
    entries = read_chain(data, str(chain))
    entry, different, later = logged_look(evaluation, entries)
    if entry is None:
        yield "problem", f"{chain} has no line {look.line}: this look is not logged there."
        return
    yield from (("problem", f"The look's line in {chain} {difference}.") for difference in different)
    if not different and evaluation.model.of_table:
        from drgate.looks import is_look_at

        if table is None:
            yield "unchecked", f"Whether the look's line in {chain} is of these predictions: they were not given."
        elif not is_look_at(entry, table):
            different.append("is of other answers")
            yield "problem", f"The look's line in {chain} is of other answers than the predictions."
    if not different:
        yield "checked", f"{chain} logs it: look {look.number} of {look.allowed}, {look.time}."
    if later:
        yield "unchecked", f"{chain} logs a later look of this model, {later[-1].get('time')}; ask for its certificate."


def _audit(evaluation: Evaluation, folders: Sequence[Path], table: Predictions | None) -> Iterator[Finding]:
    """Whether the audit beside the certificate, and the one in the table's record, are those that it names."""
    summary = evaluation.data.audit
    if summary is None:
        return
    from drgate.audit.result import Audit
    from drgate.audited import AUDIT, recorded, summary_of

    beside = next((path for folder in folders if (path := folder / AUDIT).is_file()), None)
    whole = None
    if beside is not None:
        data = read_limited(beside, limits.JSON_BYTES, "an audit that drgate wrote", UsageError)
        try:
            whole = Audit.from_json(json.loads(data), str(beside), CertificateError)
        except (DrgateError, ValueError, RecursionError) as problem:
            yield "problem", f"{beside} is not the audit that it names: {problem}"
            return
    elif table is not None and not summary.given and (found := recorded(table)):
        whole = found.audit
    if whole is None:
        yield "unchecked", f"The audit {summary.digest} was not given ({AUDIT}): its findings were not compared."
    elif whole.digest != summary.digest or summary_of(whole, summary.copies, given=summary.given) != summary:
        yield "problem", f"{beside or 'The record of the predictions'} holds another audit than the one that it names."
    else:
        yield "checked", f"{beside or 'The record of the predictions'} holds the audit that it names."


def _earlier(
    evaluation: Evaluation, given: Path | None, revocations: Revocations | None, table: Predictions | None
) -> Iterator[Finding]:
    """Whether the earlier certificate that the statement names is the one given, and says what is recorded of it."""
    parent = evaluation.model.parent
    if parent is not None and parent.verdict not in EXPORTED:
        yield "problem", f"It was exported from {parent.name}, which did not pass ({parent.verdict})."
    recorded = [earlier for earlier in (parent and replace(parent, changes=None), evaluation.model.previous) if earlier]
    if given is None:
        if recorded:
            more = ": what the export changed was not compared" if parent and parent.changes else ""
            yield "unchecked", f"The earlier certificate {recorded[0].statement} was not given (--parent){more}."
        return
    earlier = read_certificate(given)
    found = reference(earlier.statement)
    exported = parent is not None and found == recorded[0]  # what a model was only compared with takes nothing from it
    if exported and revocations is not None and (revoked := revocations.against(earlier)):
        yield from (("problem", f"{given}, the earlier certificate: {sentence}") for sentence in revoked)
    elif found in recorded:
        yield "checked", f"{given} is the earlier certificate that it names, and agrees with what is recorded of it."
        if exported and parent is not None and parent.changes is not None:
            yield from _changed(evaluation, parent.changes, earlier.statement.evaluation, given, table)
        elif exported:
            yield "unchecked", "It does not say what the export changed."
    else:
        yield "problem", f"{given} is not an earlier certificate that it names ({found.statement})."


def _changed(
    evaluation: Evaluation, recorded: Changes, before: Evaluation, given: Path, table: Predictions | None
) -> Iterator[Finding]:
    """Whether what the export changed follows from both tables of predictions."""
    theirs = published_table(before, given)
    if table is None or theirs is None:
        lacking = "the predictions were not given"
        if theirs is None:
            path = given.with_name(PREDICTIONS)
            lacking = f"{path} {'does not hold those of the certificate' if path.exists() else 'is not there'}"
        yield "unchecked", f"What the export changed was not recomputed: {lacking}."
        return
    from drgate.checklist import parse_checklist
    from drgate.compare import changes_between

    checklist = parse_checklist(evaluation.spec.content, "the checklist in the certificate")
    try:
        again = changes_between(
            theirs,
            checklist,
            table,
            evaluation.data,
            calibration=recorded.calibration,
        )
    except DrgateError as problem:
        yield "problem", f"What the export changed cannot be computed: {problem}"
        return
    named, ours = (json.loads(canonical_json(plain_of(one))) for one in (recorded, again))
    differences = list(_differences(named, ours, "changes", TOLERANCE))
    yield from (("problem", f"Recomputed from both tables of predictions, {one}.") for one in differences[:5])
    if not differences:
        yield "checked", "What the export changed was recomputed from both tables of predictions and came out the same."


def published_table(evaluation: Evaluation, certificate: Path) -> Predictions | None:
    """The table that was evaluated, where it is beside its certificate under its usual name, else None."""
    path = certificate.with_name(PREDICTIONS)
    if not path.is_file():
        return None
    try:
        found = predictions_of(evaluation, path)
    except (DrgateError, OSError, ValueError):  # Arrow's errors are among the last
        return None
    return found if found.digest == evaluation.predictions_digest else None


@dataclass(frozen=True, slots=True)
class _Numbers:
    """What the predictions say of a statement; `table` where they are those that were evaluated."""

    findings: tuple[Finding, ...]
    table: Predictions | None = None
    bound: bool = False
    recomputed: bool = False
    not_compared: tuple[str, ...] = ()


def _numbers(evaluation: Evaluation, path: Path, given: Path | None, baseline: Path | None) -> _Numbers:
    """Load the predictions, compare digest and provenance, evaluate again."""
    beside = [] if given else [one for one in path.parent.iterdir() if one.suffix.lower() in TABLES and one.is_file()]
    if given is None and not beside:
        return _Numbers((("unchecked", "The predictions were not given: the numbers were not recomputed."),))
    from drgate.checklist import parse_checklist
    from drgate.predictions import alongside, published

    point = _cut_offs(evaluation)
    try:
        checklist = parse_checklist(evaluation.spec.content, "the checklist in the certificate")
    except DrgateError as problem:
        return _Numbers((("problem", f"{_CANNOT_COMPUTE}: {problem}"),))
    if given is None:
        tables = sorted(beside, key=lambda one: (one.stem != "predictions", one.name))
        found, place = _found(tables, evaluation, checklist, point)
        if found is None:
            return _Numbers((("unchecked", place),))
        own = found
    else:
        own, place = _unmapped(given, point), str(given)
    table = _as_evaluated(own, evaluation, checklist, point)
    if table.digest != evaluation.predictions_digest:
        what = f"{place} does not hold the predictions that were evaluated: its digest is {table.digest}."
        return _Numbers((("problem", what),))
    origin = list(_origin(evaluation, own, point))
    rival = published(alongside(own, _unmapped(baseline))) if baseline else None
    recomputation = list(_recomputation(evaluation, table, checklist, rival))
    findings: list[Finding] = [
        ("checked", f"{place} holds the predictions that were evaluated."),
        *origin,
        ("unchecked", "Not checked: the training record, what the audit compared, and the statements about data."),
        *recomputation,
    ]
    return _Numbers(
        tuple(findings),
        table,
        bound=not origin and evaluation.model.tensor_digest is not None,
        recomputed=all(kind != "problem" for kind, _ in recomputation),
        not_compared=tuple(sentence for kind, sentence in recomputation if kind == "unchecked"),
    )


def _cut_offs(evaluation: Evaluation) -> OperatingPoint | None:
    from drgate.operating_point import parse_operating_point

    recorded = evaluation.data.operating_point
    if recorded is None or evaluation.leaks:  # then there are no answers to cut
        return None
    return parse_operating_point(plain_of(recorded), "the operating point in the certificate")


def _unmapped(path: Path, point: OperatingPoint | None = None) -> Predictions:
    """The predictions in a table with drgate's own names: a verifier states no mapping, or two would verify two things.

    Raises PredictionsError; what proposes a mapping names the published table instead.
    """
    from drgate.predictions import load_predictions

    try:
        return load_predictions(path, point)
    except PredictionsError as problem:
        if not re.search("--(columns|scores)", str(problem)):
            raise
        raise PredictionsError(
            f"{path} has not drgate's own columns and probabilities, and nothing is mapped to verify; give the "
            "published table: predictions.parquet in the folder of its evaluation."
        ) from None


def predictions_of(evaluation: Evaluation, path: Path) -> Predictions:
    """The predictions in a table, as an evaluation counts them."""
    from drgate.checklist import parse_checklist
    from drgate.predictions import load_predictions

    point = _cut_offs(evaluation)
    checklist = parse_checklist(evaluation.spec.content, "the checklist in the certificate")
    return _as_evaluated(load_predictions(path, point), evaluation, checklist, point)


def _as_evaluated(
    table: Predictions, evaluation: Evaluation, checklist: Checklist, point: OperatingPoint | None
) -> Predictions:
    """The table as an evaluation counts it, be it published or the caller's own: at the cut-offs, then published."""
    from drgate.predictions import published, with_copies_merged, with_readers, without_answers

    table = with_readers(table, evaluation.data.readers)
    table = without_answers(table) if evaluation.leaks else table if point is None else table.at(point)
    audit = evaluation.data.audit
    return published(with_copies_merged(table, () if audit is None else audit.copies), checklist)


def _found(
    tables: Sequence[Path], evaluation: Evaluation, checklist: Checklist, point: OperatingPoint | None
) -> tuple[Predictions | None, str]:
    """The published table that was evaluated and its name, or None and why: other tables beside it prove nothing.

    Certificates of several models may share a folder, so another model's table contradicts nothing.
    """
    from drgate.predictions import load_predictions, read_provenance

    why = []
    digest = evaluation.predictions_digest
    for path in tables:
        try:
            if read_provenance(path).get("rows", digest) == digest:  # others need not be read whole
                table = load_predictions(path, point)
                if _as_evaluated(table, evaluation, checklist, point).digest == digest:
                    return table, f"{path} (found beside the certificate)"
            why.append(f"{path.name} holds others")
        except (DrgateError, OSError, ValueError) as problem:  # Arrow's errors are among the last
            why.append(f"{path.name} cannot be read ({str(problem).rstrip('.')})")
    more = "; ..." if len(why) > 3 else ""
    return None, (
        "The predictions that were evaluated are not beside the certificate, so the numbers were not recomputed: "
        f"{'; '.join(why[:3])}{more}. Give them with --predictions."
    )


def _origin(evaluation: Evaluation, table: Predictions, point: OperatingPoint | None) -> Iterator[Finding]:
    """Whether the predictions are of the model, the images and the cut-offs that the statement names."""
    if point is not None:
        try:
            point.refuse_overlap(table)
        except DrgateError as problem:
            yield "problem", str(problem)
    yield from _recorded_of(evaluation.data, table)
    if evaluation.model.tensor_digest is None:
        return
    if not table.provenance:
        yield "unchecked", "The predictions do not say which model made them."
        return
    model, manifest = table.provenance.get("model", {}), table.provenance.get("manifest", {})
    grades = evaluation.data.grades
    pairs = {
        "model": (evaluation.model.tensor_digest, model.get("tensor_digest")),
        "test set": (evaluation.data.manifest_digest, manifest.get("digest")),
        "images": (evaluation.data.images_digest, manifest.get("images_digest")),
        "grades": (grades and plain_of(grades), table.provenance.get("grades")),
    }
    for what, (recorded, found) in pairs.items():
        if recorded != found:
            yield "problem", f"The predictions are of another {what} than the statement says ({found}, not {recorded})."


def _recorded_of(data: TestSet, table: Predictions) -> Iterator[Finding]:
    """Whether the caller's own table shows what is recorded of patients and images; a published one no longer does."""
    from drgate.predictions import published
    from drgate.sample import patients_of

    public = published(table)
    if table.table["image"].tolist() == public.table["image"].tolist():
        return
    if data.images_digest == public.images_digest != table.images_digest:  # evaluated as published: nothing is declared
        return
    if data.patients is not None and data.patients != patients_of(table):
        yield "problem", "The predictions show other patients than the statement says, by names of images, ids or eyes."
    if not table.provenance and data.manifest_digest is None and data.images_digest != table.images_digest:
        yield (
            "problem",
            f"The predictions are of other images than the statement says ({table.images_digest}, not "
            f"{data.images_digest}).",
        )


def _recomputation(
    recorded: Evaluation, table: Predictions, checklist: Checklist, baseline: Predictions | None
) -> Iterator[Finding]:
    """Evaluate again and compare: counts, decisions and sentences exactly, exact bounds within `TOLERANCE`."""
    import numpy as np

    from drgate.evaluate import evaluate

    named = recorded.training.baseline and recorded.training.baseline.predictions_digest
    if baseline is not None and baseline.digest != named:
        yield "problem", f"{baseline.origin} does not hold the baseline that was compared with."
        return
    try:
        again = evaluate(
            table,
            checklist,
            model=recorded.model,
            data=recorded.data,
            training=recorded.training,
            look=recorded.look,
            baseline=baseline,
        )
    except (DrgateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as problem:
        yield "problem", f"{_CANNOT_COMPUTE}: {problem}"
        return
    alike = _Comparable(
        baseline=baseline is not None or not named,
        bootstrap=recorded.software.get("numpy") == np.__version__,
        sentences=recorded.software["drgate"] == again.software["drgate"],
    )
    if not alike.baseline:
        yield "unchecked", "The baseline's predictions were not given: its criterion was not compared."
    if not alike.bootstrap:
        drew, here = recorded.software.get("numpy", "an unknown version"), np.__version__
        yield "unchecked", f"Bootstrap limits were not compared: they were drawn by NumPy {drew}, and this is {here}."
    if not alike.sentences:
        yield (
            "unchecked",
            "Its sentences, and what only one version records, were not compared: "
            f"drgate {recorded.software['drgate']} wrote it.",
        )
    theirs, ours = alike.part(recorded), alike.part(again)
    if not alike.sentences:
        theirs, ours = _shared(theirs, ours), _shared(ours, theirs)
    differences = list(_differences(theirs, ours, "", TOLERANCE))
    yield from (("problem", f"Recomputed from the predictions, {difference}.") for difference in differences[:5])
    if not differences:
        what = (
            "The evaluation" if alike.baseline and alike.bootstrap and alike.sentences else "The rest of the evaluation"
        )
        yield "checked", f"{what} was recomputed from the predictions and came out the same."


def _again(
    statement: Statement, models: Sequence[Path], table: Predictions | None, how: Rescoring
) -> Iterator[Finding]:
    """Score the model again and compare with the predictions that were evaluated: same images, same answers."""
    import numpy as np

    from drgate.checklist import parse_checklist
    from drgate.predictions import SIGNED, as_grades, other_computing
    from drgate.score import model_and_test_set, score

    evaluation = statement.evaluation
    if evaluation.model.kind == "python grader":
        raise UsageError(
            "A grader in Python gave these answers, and verify runs nobody's code. Evaluate it again with drgate "
            "evaluate --grader, and compare the two certificates."
        )
    if evaluation.leaks:
        yield "unchecked", "The model was not scored again: its audit found a leak, so no answer was judged."
        return
    name = evaluation.model.files[0].name
    candidates = [*(path for path in _located(statement, models) if path.name == name), *models]
    source = next(iter(candidates), None)
    if source is None:
        raise UsageError("To score the model again it takes the model; give it with --model.")
    if table is None:
        raise UsageError("What is scored again is compared with the predictions; give them with --predictions.")
    prepared = evaluation.model.preprocessing
    grader, test_set, _ = model_and_test_set(
        source,
        how.data,
        evaluation.data.split or "test",
        how.base,
        statement,
        None if prepared is None else prepared.recipe,
        columns=how.columns,
        precision=evaluation.model.precision,
    )
    if grader.tensor_digest != evaluation.model.tensor_digest:
        yield "problem", f"{source} has other tensors ({grader.tensor_digest}) than the model that was judged."
        return
    how.progress.started(len(test_set))
    scored = score(
        grader, test_set, workers=how.workers, advance=how.progress.advance, against=None, batch=evaluation.model.batch
    )
    if (digest := scored.provenance["manifest"]["digest"]) != evaluation.data.manifest_digest:
        yield "problem", f"{how.data} is not the test set that it was judged on: its digest is {digest}."
        return
    checklist = parse_checklist(evaluation.spec.content, "the checklist in the certificate")
    scored = _as_evaluated(scored, evaluation, checklist, _cut_offs(evaluation))
    before, after = (as_grades(found.table).set_index("image").sort_index() for found in (table, scored))
    if not before.index.equals(after.index):
        yield "problem", "Scored again, the model answered for other images than the predictions hold."
        return
    answers = [frame["predicted"].to_numpy(dtype=np.int64, na_value=-1) for frame in (before, after)]
    different = int((answers[0] != answers[1]).sum())
    numbers = [frame[[one for one in SIGNED if one in before]].to_numpy(dtype=np.float64) for frame in (before, after)]
    # Relative for a severity, which has a scale of its own.
    scale = float(np.nanmax(np.abs(numbers[0]), initial=1.0))
    furthest = float(np.nanmax(np.abs(numbers[0] - numbers[1]), initial=0.0)) / scale
    other = "".join(f" {one}" for one in other_computing(table, scored, ("It", "this time")))
    if different or furthest > RESCORED_WITHIN:
        yield (
            "problem",
            f"Scored again, {different} of {len(before)} images have another grade, and their numbers differ by "
            f"up to {furthest:.2g}.{other}",
        )
    else:
        alike = "to the last bit" if not furthest else f"numbers within {furthest:.1g}"
        yield "checked", f"The model was scored again: all {len(before)} images are graded the same, {alike}.{other}"


@dataclass(frozen=True, slots=True)
class _Comparable:
    """In what a recorded and a recomputed evaluation can be compared.

    baseline: in the criteria that take another table. bootstrap: in what random numbers decided. sentences: in
    words, and in the further facts that one version of drgate records and another may not.
    """

    baseline: bool
    bootstrap: bool
    sentences: bool

    def part(self, evaluation: Evaluation) -> dict[str, Any]:
        """That part of an evaluation as plain values, criteria by id."""
        plain = json.loads(canonical_json(evaluation.to_json()))  # tuples and NumPy's floats as a certificate has them
        if not self.baseline:
            own = {str(c.id) for c in evaluation.criteria if not c.id.needs_baseline}
            plain["criteria"] = [c for c in plain["criteria"] if c["id"] in own]
            plain["metrics"].pop("baseline", None)
            del plain["verdict"]  # follows from the criteria in every statement, so nothing is lost
        if not self.bootstrap:
            plain = _without_draws(plain)
        plain["criteria"] = {criterion["id"]: criterion for criterion in plain["criteria"]}
        if not self.sentences:
            for criterion in plain["criteria"].values():
                criterion.pop("reason", None)
                criterion["estimate"].pop("reason", None)
            del plain["page_one"]
            plain.pop("reordered", None)
        del plain["software"]  # of the machine, not of the predictions
        return dict(plain)


def _shared(one: Any, other: Any) -> Any:
    """Of nested tables, the keys that both have: what each of two versions records."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _shared(value, other[key]) for key, value in one.items() if key in other}
    return one


def _without_draws(plain: Any) -> Any:
    """Plain values without what random numbers decided, the advice on how many more patients among it."""
    if isinstance(plain, list):
        return [_without_draws(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    drawn = {"bootstrap", "bootstrap_undefined"}
    if _drawn(plain):
        drawn |= {"low", "high", "passes", "se"}
    if "estimate" in plain:  # a criterion: whether it passed must be the same, whatever the digits of its bound
        drawn.add("reason")
    return {key: _without_draws(value) for key, value in plain.items() if key not in drawn}


def _drawn(metric: dict[str, Any]) -> bool:
    """Whether random numbers made it: a bootstrap's limits, a simulated probability."""
    method = metric.get("method", "")
    return isinstance(method, str) and ("bootstrap" in method or "simulated" in method)


def _differences(recorded: Any, again: Any, where: str, tolerance: float) -> Iterator[str]:
    """Where two plain values differ: floats by more than `tolerance` (bootstrap limits: at all), the rest at all."""
    if isinstance(recorded, dict) and isinstance(again, dict):
        within = 0.0 if _drawn(recorded) else tolerance
        for key in sorted(recorded.keys() | again.keys()):
            place = f"{where}.{key}" if where else key
            if key not in recorded or key not in again:
                yield f"{place} is {'missing in' if key in again else 'only in'} the certificate"
            else:
                yield from _differences(recorded[key], again[key], place, 0.0 if key == "bootstrap" else within)
    elif isinstance(recorded, list) and isinstance(again, list) and len(recorded) == len(again):
        for i, (old, new) in enumerate(zip(recorded, again, strict=True)):
            yield from _differences(old, new, f"{where}[{i}]", tolerance)
    elif isinstance(recorded, float) and isinstance(again, float):
        if not abs(recorded - again) <= tolerance:
            yield f"{where} is {again!r}, not {recorded!r}"
    elif canonical_json(recorded) != canonical_json(again):
        yield f"{where} is {again!r:.200}, not {recorded!r:.200}"
