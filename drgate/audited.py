"""The audit that scoring makes: the cheap questions always, those on images as far as stated counts go.

    against = Against(training=(load_manifest("eyepacs"),))
    first = before(grader, test_set, against)           # no picture was read: what tables and fingerprint show
    found = after(grader, test_set, against, seen)      # seen: what the workers kept of each photograph
    found.audit.digest, found.summary.leaks

What is compared is decided by counts alone, so that the same inputs give the same audit. `drgate audit` has no limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from drgate.audit.result import CHECKS, Audit, Check, CheckId
from drgate.errors import PredictionsError, UsageError
from drgate.evaluation import Audit as Summary
from drgate.evaluation import Checked, read_as
from drgate.files import canonical_json, read_json
from drgate.manifest import Manifest, images_digest
from drgate.metrics import AUDITED, LEAKS

if TYPE_CHECKING:
    from drgate.audit.evidence import Evidence, Examined, Photographs
    from drgate.patients import PatientKey
    from drgate.predictions import Predictions
    from drgate.vision.grader import Grader

AUDIT: Final = "audit.json"
"""The audit in an evaluation's folder: canonical JSON, whose SHA-256 is the audit's digest."""
READ_AT_MOST: Final = 20_000
"""Training photographs that are read to be compared."""
PAIRS_AT_MOST: Final = 10**9
"""Pairs of hashes that are compared, each in eight orientations."""
FIRST: Final[frozenset[CheckId]] = frozenset({"lineage", "patients", "eyes", "files"})
"""What tables and fingerprint show, without a picture."""
ON_IMAGES: Final[frozenset[CheckId]] = frozenset({"pixels", "near_duplicates"})
WHOLE: Final[frozenset[CheckId]] = FIRST | ON_IMAGES | {"label_conflicts", "quality", "case_mix"}
"""Whatever else `drgate audit` asks is not asked while scoring."""


@dataclass(frozen=True, slots=True)
class Against:
    """What a test set is compared with, besides the model's fingerprint.

    training: the training data at hand, such as the other splits of the same manifest. key: compares patients with
    those of the fingerprint. mix: the checklist's deployment mix, a share for each grade. declared: the caller gives
    training data, which of a model without a fingerprint is taken for all of it.
    """

    training: tuple[Manifest, ...] = ()
    key: PatientKey | None = None
    mix: Sequence[float] | None = None
    declared: bool = False


ALONE: Final = Against()
"""With the model's fingerprint alone."""


@dataclass(frozen=True, slots=True)
class Found:
    """The whole audit, and what an evaluation holds of it."""

    audit: Audit
    summary: Summary

    def record(self) -> dict[str, Any]:
        """Both as plain values, for a table's provenance."""
        return {"audit": self.audit.to_json(), "copies": [list(group) for group in self.summary.copies]}

    def to_bytes(self) -> bytes:
        """`audit.json`."""
        return canonical_json(self.audit.to_json())


def before(grader: Grader, test_set: Manifest, against: Against) -> Found:
    """What tables and fingerprint show. A leak among it ends the audit: what needs pictures is then not assessed."""
    from drgate.audit.evidence import photographs

    train = photographs(*against.training, files=False) if against.training else None
    found = _asked(grader, test_set, against, photographs(test_set, files=False), train, FIRST)
    rest = "Not compared: this takes the photographs, which are read while a model scores."
    if any(one.id in LEAKS and one.status == "found" for one in found.checks):
        rest = "Not looked at, because a leak was found before a picture was read."
    made = {one.id: one for one in found.checks}
    checks = [made.get(name, Check(name, "not_assessed", reason=rest)) for name in CHECKS if name in WHOLE]
    whole = replace(found, checks=tuple(checks))
    return Found(whole, summary_of(whole))


def after(
    grader: Grader,
    test_set: Manifest,
    against: Against,
    seen: Sequence[Examined | str],
    *,
    workers: int | None = None,
) -> Found:
    """The whole, once the test set's photographs were scored. seen: of each, what `examined` gave, or why nothing."""
    from drgate.audit.evidence import Photographs, photographs

    paths = tuple(test_set.path(image) for image in test_set.table["image"])
    contents = tuple(test_set.content_digests().values())
    test = Photographs(test_set.table.assign(set=0), paths, contents, tuple(seen))
    many = sum(map(len, against.training))
    read = many <= READ_AT_MOST
    train = photographs(*against.training, workers=workers, files=read) if against.training else None
    known = 0 if grader.fingerprint is None else len(grader.fingerprint.images)
    pairs = len(test) * ((many if read else 0) + known)
    asked = WHOLE if pairs <= PAIRS_AT_MOST else WHOLE - ON_IMAGES
    found = _asked(grader, test_set, against, test, train, asked)
    more = "" if read else f"{many} training photographs are more than the {READ_AT_MOST} that an evaluation reads."
    if pairs > PAIRS_AT_MOST:
        more = f"{pairs} pairs of photographs are more than the {PAIRS_AT_MOST} that an evaluation compares."
    if more:
        found = _short(found, f"{more} Run drgate audit, and give its audit.json with --audit.", asked)
    return Found(found, summary_of(found, _copies(test)))


def _asked(
    grader: Grader,
    test_set: Manifest,
    against: Against,
    test: Photographs,
    train: Photographs | None,
    only: frozenset[CheckId],
) -> Audit:
    from drgate.audit.evidence import Evidence
    from drgate.audit.whole import audit

    base = grader.description.get("base")
    evidence: Evidence = Evidence(
        test,
        train,
        model=True,
        fingerprint=grader.fingerprint,
        unknown_data=grader.unknown_data,
        declared=against.declared,
        pretraining=str(base.get("pretraining", "")) if isinstance(base, dict) else "",
        key=against.key,
        mix=against.mix,
    )
    settings = {
        "test": {
            "images": len(test_set),
            "digest": test_set.digest(),
            "images_digest": test_set.images_digest(),
            "split": test_set.split_of,
        },
        "train": [{"images": len(one), "digest": one.digest()} for one in against.training],
        "checkpoint": {"tensor_digest": grader.tensor_digest, "fingerprint": grader.fingerprint is not None},
        "training_declared": against.declared,
        "patient_key": None if against.key is None else against.key.id,
        "made_while": "scoring",
    }
    return audit(evidence, settings, only=only)


def _short(found: Audit, why: str, asked: frozenset[CheckId]) -> Audit:
    """The audit with the reason why not all was compared."""
    made = {one.id: one for one in found.checks}
    checks = []
    for name in (one for one in CHECKS if one in WHOLE):
        one = made.get(name, Check(name, "not_assessed"))
        if one.status == "not_assessed" and name in LEAKS:
            one = replace(one, reason=f"{one.reason} {why}".lstrip())
        if name in made or name not in asked:
            checks.append(one)
    return replace(found, checks=tuple(checks))


def _copies(test: Photographs) -> list[list[str]]:
    """Published names of images of the test set that show the same picture, a list for each picture."""
    from drgate.audit.near_duplicates import groups

    together: dict[int, list[str]] = {}
    for name, owner in zip(_names(test), groups(test).tolist(), strict=True):
        together.setdefault(owner, []).append(name)
    return [sorted(group) for group in together.values() if len(group) > 1]


def _names(test: Photographs) -> list[str]:
    """As an evaluation publishes them: copies of one file have a number each."""
    from drgate.predictions import published_names

    table = test.table[["image"]].assign(sha256=list(test.contents))
    ordered = table.sort_values("image")
    names = dict(zip(ordered["image"], published_names(ordered), strict=True))
    return [names[image] for image in table["image"]]


def summary_of(audit: Audit, copies: Sequence[Sequence[str]] = (), *, given: bool = False) -> Summary:
    """What an evaluation holds of an audit."""
    checks = tuple(Checked(one.id, one.status, one.count, dict(one.compared), one.reason) for one in audit.checks)
    suspects: dict[str, None] = {}
    for one in audit.checks:
        # Where not all of them are written down, nothing could be left out whole.
        if one.id in LEAKS and one.status == "suspected" and one.count == len(one.findings):
            suspects |= dict.fromkeys(finding.test for finding in one.findings if finding.test)
    return Summary(audit.digest, checks, given, tuple(suspects), tuple(sorted(map(tuple, copies))))


def recorded(predictions: Predictions) -> Found | None:
    """The audit in a table's provenance; None where it was scored without. Raises DrgateError for what is none."""
    plain = predictions.provenance.get("audit")
    if plain is None:
        return None
    whole = Audit.from_json(plain, f"The audit in {predictions.origin}", PredictionsError)
    copies = predictions.provenance.get("copies", [])
    if not isinstance(copies, list) or not all(isinstance(group, list) for group in copies):
        raise PredictionsError(f"{predictions.origin}: its record of copies is none that drgate wrote; score again.")
    named = {"digest": whole.digest, "checks": [], "copies": copies}
    checked = read_as(Summary, named, f"The copies in {predictions.origin}", expected="names", error=PredictionsError)
    return Found(whole, summary_of(whole, checked.copies))


def proven(found: Found) -> bool:
    """Whether an audit found what no other audit of the same images can take back."""
    return any(one.id in AUDITED and one.status == "found" for one in found.summary.checks)


def given(path: Path, predictions: Predictions) -> Found:
    """The audit in a file, or in the folder that `drgate audit --out` wrote.

    Raises UsageError where it is no audit, or one of other images than those of the table.
    """
    file = path / AUDIT if path.is_dir() else path
    whole = Audit.from_json(read_json(file, "an audit that drgate wrote", UsageError), str(file), UsageError)
    test = whole.settings.get("test")
    audited = dict(test) if isinstance(test, Mapping) else {}
    manifest = predictions.provenance.get("manifest")
    own: Mapping[str, Any] = manifest if isinstance(manifest, Mapping) else {"images_digest": _contents(predictions)}
    if not own.get("images_digest"):
        raise UsageError(
            f"--audit {path}: {predictions.origin} does not say which files its images are; give a table with the "
            "column sha256, or one that drgate score wrote."
        )
    if not (audited.get("images_digest") or audited.get("digest")):
        raise UsageError(
            f"{file} does not say which files its images are; audit again with the files, or with a column sha256."
        )
    if not any(audited.get(name) and audited[name] == own.get(name) for name in ("images_digest", "digest")):
        raise UsageError(
            f"{file} is an audit of other images than those of {predictions.origin}; audit these (drgate audit), or "
            "leave --audit out."
        )
    own_audit = recorded(predictions)
    _refuse_other_model(file, whole, predictions, own_audit)
    return Found(whole, summary_of(whole, () if own_audit is None else own_audit.summary.copies, given=True))


def _refuse_other_model(file: Path, whole: Audit, predictions: Predictions, own: Found | None) -> None:
    """Raise UsageError where an audit is of another model than the one whose answers the table holds, or was made
    without a model whose fingerprint shows what it was trained on."""
    described = predictions.provenance.get("model")
    tensors = described.get("tensor_digest") if isinstance(described, Mapping) else None
    if tensors is None:
        return
    checkpoint = whole.settings.get("checkpoint")
    audited = checkpoint.get("tensor_digest") if isinstance(checkpoint, Mapping) else None
    recorded_of = None if own is None else own.audit.settings.get("checkpoint")
    fingerprint = isinstance(recorded_of, Mapping) and bool(recorded_of.get("fingerprint"))
    if audited is None and not fingerprint:
        return
    if audited != tensors:
        how = "without a model" if audited is None else "of another model"
        raise UsageError(
            f"{file} is an audit made {how}, so it does not show what the model of {predictions.origin} was trained "
            "on; audit with this model (drgate audit --checkpoint MODEL), or leave --audit out."
        )


def _contents(predictions: Predictions) -> str:
    """The images digest of a table that says of each row which file it is; else empty."""
    table = predictions.table
    if "sha256" not in table.columns or table["sha256"].isna().any():
        return ""
    return images_digest(table["sha256"].tolist())
