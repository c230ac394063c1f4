"""Gate: may this change be merged? A repository and its policy in, one answer with its reasons out.

    report = gate(Path(), base_ref="origin/main")
    report.exit_code                              # 0 it may; else closed: 1 failed, 3 evidence missing, 2 refused
    for finding in report.findings: ...

Trust comes from the base branch: its policy, checklist, keys, revocations and test sets decide whether the change may
alter them. Nothing may become weaker without a waiver that the base branch's own keys signed. Where every weakening is
waived, the models are judged by the rules as they will be after the merge, else by those of the base branch. A model is
known by its digest; its weights are not needed, and no torch.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import re
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from drgate.certificate import trust
from drgate.certificate.chain import logged_look, read_chain
from drgate.certificate.keys import PublicKey
from drgate.certificate.statement import (
    CERTIFICATE_BEGINS,
    MAX_BYTES,
    STATEMENT_BEGINS,
    Certificate,
    Statement,
    parse_certificate,
    parse_statement,
    reference,
)
from drgate.checklist import EACH, PROPORTIONS, Checklist, parse_id
from drgate.errors import DrgateError, ExitCode, PolicyError, RepositoryError, visible
from drgate.evaluation import CriterionResult, File, Reference, plain_of
from drgate.files import canonical_json
from drgate.gate.policy import (
    GatedTestSet,
    RuleChange,
    Rules,
    compare,
    find_policy,
    load_policy,
    load_rules,
    matches,
    part_digest,
)
from drgate.gate.repository import DVC, Content, Entry, Repository, Tree, open_repository
from drgate.gate.waiver import MAX_BYTES as MAX_WAIVER_BYTES
from drgate.gate.waiver import Cover, Waiver, parse_waiver

Status = Literal["PASS", "WAIVED", "OBSERVED", "FAIL", "INSUFFICIENT", "NOT_ASSESSED", "REFUSED"]

RULES: Final = "rules"
"""The group of findings that are about the rules themselves, not about a model."""

MODEL_SUFFIXES: Final = (
    ".pth",
    ".pt",
    ".ckpt",
    ".safetensors",
    ".onnx",
    ".onnx.data",
    ".onnx_data",
    ".tflite",
    ".engine",
    ".keras",
    ".h5",
    ".pkl",
    ".joblib",
    ".pt2",
    ".ort",
    ".gguf",
    ".trt",
    ".plan",
    "pytorch_model.bin",
    "adapter_model.bin",
)
"""Files of these names are taken for models: outside every pattern of the policy they close the gate."""

TABLES: Final = (".parquet", ".pq")
MAX_CHAIN_BYTES: Final = 1 << 30
MAX_TABLE_BYTES: Final = 1 << 30
MAX_ROWS: Final = 10_000_000
_ADOPTION: Final = "policy:adoption"
_PAYLOAD: Final = re.compile(rb'"payload":"([A-Za-z0-9+/=]*)"')
_SEVERITY: Final[dict[Status, int]] = {
    "PASS": 0,
    "WAIVED": 0,
    "NOT_ASSESSED": 1,
    "INSUFFICIENT": 1,
    "OBSERVED": 1,
    "FAIL": 2,
    "REFUSED": 3,
}
_EXIT_CODES: Final = (ExitCode.PASSED, ExitCode.NOT_SHOWN, ExitCode.FAILED, ExitCode.REFUSED)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the gate looked at.

    group: the path of a model, or `RULES`. id: what a waiver names. check: what was looked at, in a word or two; for a
    line of the checklist its id. status: PASS; WAIVED (it would not pass, and a waiver covers it: never shown as
    passed); FAIL; INSUFFICIENT; NOT_ASSESSED (evidence is missing); REFUSED (something is not what it claims to be).
    required: whether the answer rests on it. was, now: the digests that a waiver must name; both "" where none helps.
    """

    group: str
    id: str
    check: str
    status: Status
    reason: str
    required: bool = True
    was: str = ""
    now: str = ""

    @property
    def waivable(self) -> bool:
        """Whether a waiver could cover it."""
        return self.closes and bool(self.was or self.now)

    @property
    def closes(self) -> bool:
        """Whether the gate is closed because of it."""
        return self.required and _SEVERITY[self.status] > 0

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "group": self.group,
            "id": self.id,
            "check": self.check,
            "status": self.status,
            "required": self.required,
            "reason": self.reason,
        }
        return plain | ({"waivable": {"was": self.was, "now": self.now}} if self.waivable else {})


@dataclass(frozen=True, slots=True)
class GateReport:
    """The answer.

    base: the ref that decided, and its commit. policy: where the policy lies. rules_digest: of all that it names. They
    are "" where nothing could be judged.
    findings: rules first, then model by model. notes: what is to be known and decides nothing.
    """

    base: str
    commit: str
    policy: str
    rules_digest: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 open; 1 something failed; 3 not failed, but evidence is insufficient or missing; 2 something is refused."""
        return _EXIT_CODES[_worst(self.findings)]

    @property
    def models(self) -> tuple[str, ...]:
        """The groups that are models, in order."""
        return tuple(dict.fromkeys(finding.group for finding in self.findings if finding.group != RULES))

    @property
    def adopts(self) -> bool:
        """Whether the base branch has no policy, so that the change was judged by its own."""
        return any(finding.id == _ADOPTION for finding in self.findings)

    @property
    def headline(self) -> str:
        """The answer in a sentence."""
        closing = [finding for finding in self.findings if finding.closes]
        waived = sum(finding.status == "WAIVED" for finding in self.findings)
        of = f"{len(self.models)} model{'' if len(self.models) == 1 else 's'}"
        if not closing:
            return f"The gate is open: {of}" + (f", {waived} waived." if waived else ", nothing waived.")
        first = closing[0]
        more = f", and {len(closing) - 1} more" if len(closing) > 1 else ""
        return f"The gate is closed: {first.group}, {first.check}{more}."

    def to_json(self) -> dict[str, Any]:
        return {
            "open": self.exit_code == 0,
            "headline": self.headline,
            "base": self.base,
            "commit": self.commit,
            "policy": self.policy,
            "rules_digest": self.rules_digest,
            "findings": [finding.to_json() for finding in self.findings],
            "notes": list(self.notes),
        }


def gate(folder: Path, *, base_ref: str, policy: str | None = None, now: datetime | None = None) -> GateReport:
    """Whether what is staged in the repository around `folder` may be merged into `base_ref`.

    policy: the policy's path from the root; by default drgate.toml, or the pyproject.toml that holds one. now: the
    moment that ages and expiries are counted to (aware); by default the clock, and never SOURCE_DATE_EPOCH.

    Raises DrgateError where the repository or the rules cannot be read: then nothing was judged.
    """
    with open_repository(folder) as repository:
        base, head = repository.commit(base_ref), repository.staged()
        return _Gate(repository, base, head, now or datetime.now(UTC)).report(base_ref, policy)


def refused(base_ref: str, problem: DrgateError) -> GateReport:
    """The answer where nothing could be judged: closed, and why."""
    found = Finding(RULES, "gate", "gate", "REFUSED", visible(problem))
    return GateReport(base=visible(base_ref), commit="", policy="", rules_digest="", findings=(found,), notes=())


@dataclass(frozen=True, slots=True)
class _Model:
    """A file that is a model or looks like one. entry: the file itself, or the one that stands for it."""

    path: str
    entry: Entry
    content: Content

    def is_subject(self, subject: Mapping[str, Any]) -> bool:
        """Whether a statement's subject is this file."""
        return _is(self.content, subject)


@dataclass(frozen=True, slots=True)
class _Found:
    """A certificate or an unsigned statement in the repository."""

    path: str
    read: Certificate | Statement

    @property
    def statement(self) -> Statement:
        return self.read.statement if isinstance(self.read, Certificate) else self.read


@dataclass(frozen=True, slots=True)
class _Assessed:
    """What one statement says for a model on a test set.

    heard: somebody who is trusted signed it, in whatever role, and it speaks of the very files that are there.
    """

    statement: Statement
    findings: tuple[Finding, ...]
    heard: bool


@dataclass(frozen=True)
class _Gate:
    repository: Repository
    base: Tree
    head: Tree
    now: datetime
    notes: list[str] = field(default_factory=list)

    def report(self, base_ref: str, given: str | None) -> GateReport:
        before, after, theirs = self.rules(given)
        waivers = _Waivers.read(self, before, after)
        findings = list(waivers.findings)
        rules = after
        if before is None:
            findings.append(_adoption(self.base.name, theirs))
        else:
            changed = list(_changes(compare(before, after), waivers, before, self.notes))
            findings += changed
            if any(finding.closes for finding in changed):
                rules = before
        findings += waivers.in_effect(rules, {finding.id for finding in findings})
        chains = _Chains(self, before, rules)
        findings += chains.findings
        with tempfile.TemporaryDirectory(prefix="drgate-gate-") as name:
            findings += self._models(rules, before, waivers, chains, Path(name))
        self._last_notes(rules, theirs, findings)
        return GateReport(
            base=visible(base_ref),
            commit=self.base.commit,
            policy=theirs,
            rules_digest=rules.digest,
            findings=tuple(_shown(finding) for finding in findings),
            notes=tuple(map(visible, dict.fromkeys(self.notes))),
        )

    def rules(self, given: str | None) -> tuple[Rules | None, Rules, str]:
        """Those of the base branch, where it has any, those of the change, and where the change's policy lies."""
        ours, theirs = find_policy(self.base, given), find_policy(self.head, given)
        if theirs is None:
            gone = f"the change removes {ours}." if ours else "write one first (docs/gate.md)."
            raise PolicyError(f"There is no policy{visible(f' {given}' if given else '')} in {self.head.name}: {gone}")
        before = None if ours is None else load_rules(self.base, load_policy(self.base, ours))
        return before, load_rules(self.head, load_policy(self.head, theirs)), theirs

    # -- models --------------------------------------------------------------------------------------------------------

    def _models(
        self, rules: Rules, before: Rules | None, waivers: _Waivers, chains: _Chains, folder: Path
    ) -> list[Finding]:
        findings: list[Finding] = []
        files, broken = self._files(rules)
        findings += broken
        for pattern in rules.policy.models:
            if not any(matches(pattern, file.path) for file in files):
                reason = f"No file matches {pattern!r}, so it guards nothing; correct the pattern or take it out."
                findings.append(Finding(RULES, "policy:models", f"models {pattern}", "REFUSED", reason))
        guarded = [file for file in files if rules.policy.guards(file.path)]
        certificates = _Certificates(self, rules, {file.content.sha256 or file.content.md5 for file in guarded})
        findings += certificates.findings
        tables = _Tables(self, certificates.tables, folder)
        by_path: dict[str, list[_Model]] = {}
        for file in files:
            by_path.setdefault(file.path, []).append(file)
        known = self._known(rules if before is None else before)
        held = _Held(self, rules, waivers, chains, certificates, tables, by_path, *known)
        vouched_for: set[str] = set()
        unjudged = {path for path in by_path if not (rules.policy.guards(path) or rules.policy.exempts(path))}
        for model in guarded:
            if model.content.kind == "dvc" and not rules.policy.allow_md5_pointers:
                reason = "A DVC file names it by MD5 alone, which the policy does not allow (allow_md5_pointers)."
                findings.append(Finding(model.path, f"model:{model.path}", "identity", "REFUSED", reason))
                unjudged.add(model.path)
                continue
            for test_set in rules.policy.test_sets:
                found, companions = _Assessor(held, model, test_set).answer()
                findings += found
                if companions is None:
                    unjudged.add(model.path)
                else:
                    vouched_for |= companions
        for path in by_path:
            if not (rules.policy.guards(path) or path in vouched_for or rules.policy.exempts(path)):
                if _graph_of(path) in unjudged - vouched_for:
                    continue  # the graph closes the gate already, and what is done about it is done about its weights
                reason = (
                    "It looks like a model and no pattern of the policy guards it; add it to models, or to not_models "
                    "where it is none."
                )
                findings.append(Finding(path, f"model:{path}", "unguarded", "REFUSED", reason))
        if not guarded and not findings:
            findings.append(Finding(RULES, "policy:models", "models", "REFUSED", "There is no model to judge."))
        return findings

    def _files(self, rules: Rules) -> tuple[list[_Model], list[Finding]]:
        """All files that are models or look like one, as themselves or by a pointer, and those that cannot be read.

        A DVC file that cannot be read could stand for anything.
        """
        found: list[_Model] = []
        broken: list[Finding] = []
        for path in sorted(self.head.entries):
            entry = self.head.entries[path]
            inner = path.removesuffix(DVC)
            relevant = rules.policy.guards(inner) or _looks_like_model(inner)
            try:
                if path.endswith(DVC):
                    found += [
                        _Model(name, entry, content)
                        for name, content in self.head.tracked_by_dvc(entry).items()
                        if rules.policy.guards(name) or _looks_like_model(name)
                    ]
                elif relevant and not rules.policy.exempts(path):
                    found.append(_Model(path, entry, self.head.content(entry)))
            except RepositoryError as problem:
                if not rules.policy.exempts(path):
                    broken.append(Finding(inner, f"model:{inner}", "identity", "REFUSED", str(problem)))
        return found, broken

    def _known(self, rules: Rules) -> tuple[set[str], set[str]]:
        """Objects that the base branch has as guarded files, or that stand for one, and those that lie beside them.

        One of these is not changed, wherever it is guarded now; what lay anywhere else was never judged.
        """
        models: list[Entry] = []
        for path, entry in self.base.entries.items():
            names: Iterable[str] = [path]
            if path.endswith(DVC):
                try:
                    names = self.base.tracked_by_dvc(entry)
                except RepositoryError:
                    continue
            if any(rules.policy.guards(name) for name in names) and not rules.policy.exempts(path):
                models.append(entry)
        folders = {PurePosixPath(entry.path).parent for entry in models}
        beside = {entry.oid for path, entry in self.base.entries.items() if PurePosixPath(path).parent in folders}
        return {entry.oid for entry in models}, beside

    def _last_notes(self, rules: Rules, policy: str, findings: Sequence[Finding]) -> None:
        own = [policy, rules.policy.spec, rules.policy.certificates, rules.policy.waivers]
        own += [path for paths in rules.policy.trusted_keys.values() for path in paths]
        own += [one.looks for one in rules.policy.test_sets]
        unseen = self.repository.unstaged(own, rules.policy.models)
        if unseen:
            more = f" and {len(unseen) - 3} more" if len(unseen) > 3 else ""
            self.notes.append(f"Not staged, so not judged: {', '.join(unseen[:3])}{more} (git add).")
        closed = any(finding.closes and finding.group == RULES for finding in findings)
        if closed and not self.repository.contains(self.base.commit):
            self.notes.append(
                f"What is checked out does not contain all of {self.base.name}, as far as this clone knows: merge it "
                "first, or what is missing here may look like a weakening."
            )


# -- rules and waivers -------------------------------------------------------------------------------------------------


def _adoption(base: str, policy: str) -> Finding:
    return Finding(
        RULES,
        _ADOPTION,
        "adoption",
        "NOT_ASSESSED",
        f"{base} has no policy, so nothing on it says whom to trust, and a change cannot vouch for itself. What "
        f"follows is judged by the change's own {policy}. Somebody who may reads it and merges it past the gate; from "
        "then on it decides.",
    )


def _changes(changes: Sequence[RuleChange], waivers: _Waivers, before: Rules, notes: list[str]) -> Iterator[Finding]:
    """What the change does to the rules; one line of PASS where nothing becomes weaker."""
    weaker = [change for change in changes if change.kind == "weaker"]
    notes += [f"{change.id} ({change.kind}): {change.sentence}" for change in changes if change.kind != "weaker"]
    for change in weaker:
        status, why = waivers.status(change.id, change.was, change.now)
        yield Finding(RULES, change.id, change.id, status, change.sentence + why, was=change.was, now=change.now)
    if not weaker:
        said = "Some rules change, and none becomes weaker." if changes else "The rules are those of the base branch."
        yield Finding(RULES, "policy", "rules", "PASS", said)


@dataclass(frozen=True)
class _Waivers:
    """The waivers of both trees. trusted, vouches: whose signature waives, by the base branch's policy."""

    found: Sequence[tuple[str, Waiver]]
    findings: Sequence[Finding]
    rules: Rules
    now: datetime

    @classmethod
    def read(cls, gate: _Gate, before: Rules | None, after: Rules) -> _Waivers:
        """Read the folders of both trees; what was once merged must stay."""
        rules = before or after
        found: dict[bytes, tuple[str, Waiver]] = {}
        findings = []
        here = {entry.oid for entry in gate.head.below(after.policy.waivers)}
        for tree, folder in ((gate.base, rules.policy.waivers), (gate.head, after.policy.waivers)):
            if before is None and tree is gate.base:
                continue
            for entry in tree.below(folder):
                try:
                    data = tree.read(entry.path, limit=MAX_WAIVER_BYTES, what="a waiver")
                    waiver = parse_waiver(data, entry.path)
                except DrgateError as problem:
                    if entry.path.endswith(".json"):
                        gate.notes.append(f"No waiver: {problem}")
                    continue
                trusted = waiver.signed_by(rules.trusted) is not None and waiver.key_id not in rules.revocations.reasons
                if tree is gate.base:
                    if entry.oid not in here:
                        reason = f"The waiver {entry.path} is removed; what was waived stays visible: restore it."
                        findings.append(Finding(RULES, f"waiver:{entry.path}", "waivers", "FAIL", reason))
                elif not trusted and data not in found:
                    reason = (
                        f"Does not count: the waiver {entry.path} is not signed by a key that the base branch trusts "
                        f"for {waiver.role}, or that key is revoked. Take it out: once merged it would stay."
                    )
                    findings.append(Finding(RULES, f"waiver:{entry.path}", "waivers", "REFUSED", reason))
                    continue
                found[data] = (entry.path, waiver)
        return cls(tuple(found.values()), findings, rules, gate.now)

    def covering(self, id: str, was: str, now: str) -> list[tuple[str, Waiver]]:
        """Those that name this very thing, valid or not."""
        asked = (id, was, now)
        return [(p, w) for p, w in self.found if any((c.id, c.was, c.now) == asked for c in w.covers)]

    def is_valid(self, waiver: Waiver) -> bool:
        """Whether a trusted key of its role signed it, and it is in force."""
        return (
            waiver.signed_by(self.rules.trusted) is not None
            and waiver.key_id not in self.rules.revocations.reasons
            and waiver.issued - trust.CLOCK_SKEW <= self.now < waiver.expires
        )

    def status(self, id: str, was: str, now: str, failed: Status = "FAIL") -> tuple[Status, str]:
        """WAIVED where enough roles waive it, else `failed`; and what there is to say, with a leading space."""
        covering = self.covering(id, was, now)
        valid = [(path, waiver) for path, waiver in covering if self.is_valid(waiver)]
        if (was or now) and self.rules.policy.vouched(waiver.role for _, waiver in valid):
            return "WAIVED", "".join(f" {_waived(path, waiver)}" for path, waiver in valid)
        said = "".join(
            f" {path} waived it until {trust.day(waiver.expires)} and has expired."
            for path, waiver in covering
            if self.now >= waiver.expires
        )
        if valid:
            roles = ", ".join(sorted({waiver.role for _, waiver in valid}))
            said += f" Waived by {roles} alone; {self.rules.policy.signers} of the required roles must waive it."
        return failed, said

    def in_effect(self, rules: Rules, shown: set[str]) -> Iterator[Finding]:
        """What was waived once and is not again as it was before: shown for ever."""
        for id, said in self.kept(rules).items():
            if id not in shown:
                yield Finding(RULES, id, id, "WAIVED", said)

    def kept(self, rules: Rules) -> dict[str, str]:
        """By id, what is said of rules that are not what they were before a waiver.

        A little stricter than what it let them become is still not what was waived away.
        """
        return {
            cover.id: f"{cover.what} {_waived(path, waiver)}"
            for path, waiver in self.found
            for cover in waiver.covers
            if cover.id.startswith(("spec:", "policy:")) and part_digest(rules, cover.id) != cover.was
        }

    def eases(self, rules: Rules, line: str) -> str:
        """What is said where a line of the checklist, or a setting that it rests on, stands under a waiver."""
        for id, said in self.kept(rules).items():
            kind, _, where = id.partition(":")
            section = where.partition(".")[0]
            own = where in (line, _each_slice(line))
            drawn = section != "bootstrap" or parse_id(line).metric not in PROPORTIONS
            if kind == "spec" and (own or (section in Checklist.model_fields and drawn)):
                return said
        return ""


def _waived(path: str, waiver: Waiver) -> str:
    return (
        f"Waived by {waiver.role} (key {waiver.key_id[:16]}, {path}) on {trust.day(waiver.issued)} until "
        f"{trust.day(waiver.expires)}: {waiver.reason}"
    )


# -- looks -------------------------------------------------------------------------------------------------------------


class _Chains:
    """The chains of looks: each must hold, and go on from the one on the base branch."""

    def __init__(self, gate: _Gate, before: Rules | None, rules: Rules) -> None:
        self.lines: dict[str, list[dict[str, Any]]] = {}
        self.findings: list[Finding] = []
        earlier = {} if before is None else {one.name: one for one in before.policy.test_sets}
        # A chain that the change's own policy no longer names is compared where the base branch has it.
        for one in {**earlier, **{one.name: one for one in rules.policy.test_sets}}.values():
            id, check = f"looks:{one.name}", f"looks at {one.name}"
            try:
                reason = self._compared(gate, one, earlier.get(one.name))
                status: Status = "PASS" if one.name in self.lines else "NOT_ASSESSED"
            except DrgateError as problem:
                status, reason = "REFUSED", str(problem)
            self.findings.append(Finding(RULES, id, check, status, reason))

    def _compared(self, gate: _Gate, one: GatedTestSet, earlier: GatedTestSet | None) -> str:
        what = "a chain of looks"
        there = earlier is not None and gate.base.has(earlier.looks)
        if not gate.head.has(one.looks):
            if there:
                raise RepositoryError(f"The chain of looks {one.looks} is gone; looks are evidence: restore it.")
            return f"There is no chain of looks in {one.looks}: nobody knows how often the test set was looked at."
        data = gate.head.read(one.looks, limit=MAX_CHAIN_BYTES, what=what)
        entries = read_chain(data, one.looks)
        if there and earlier is not None:
            old = gate.base.read(earlier.looks, limit=MAX_CHAIN_BYTES, what=what).splitlines()
            if data.splitlines()[: len(old)] != old:
                raise RepositoryError(
                    f"{one.looks} does not go on from the chain on {gate.base.name}: looks were rewritten, or others "
                    "were taken there in the meantime. Start from that chain and take the look again."
                )
        self.lines[one.name] = entries
        looks = sum(entry["kind"] == "look" for entry in entries)
        return f"{one.looks} is unbroken, goes on from that of the base branch, and holds {looks}."


# -- certificates ------------------------------------------------------------------------------------------------------


class _Certificates:
    """The certificates of the change that speak of a guarded file, and the tables beside them.

    One that bears a trusted key's name without its signature is refused for itself, and stands beside no genuine one.
    """

    def __init__(self, gate: _Gate, rules: Rules, wanted: set[str]) -> None:
        self.found: list[_Found] = []
        self.findings: list[Finding] = []
        self.keys = [key for keys in rules.trusted.values() for key in keys]
        self.useless: list[str] = []
        """Why files in the folder are no certificates, in sentences."""
        self.tables: list[Entry] = []
        self._by_digest: dict[str, list[tuple[str, bytes]]] = {}
        needles = [digest.encode() for digest in wanted]
        for entry in gate.head.below(rules.policy.certificates):
            if entry.path.endswith((*TABLES, *(suffix + DVC for suffix in TABLES))):
                self.tables.append(entry)
                continue
            try:
                self._take(gate, entry, needles)
            except DrgateError as problem:
                self.useless.append(str(problem))

    def _take(self, gate: _Gate, entry: Entry, needles: Iterable[bytes]) -> None:
        """Keep a certificate or statement; those that name no wanted digest are not worth the time to parse."""
        if not entry.path.endswith(".json") and gate.repository.size(entry.oid) > MAX_BYTES:
            return
        data = gate.head.read(entry.path, limit=MAX_BYTES, what="a certificate")
        statement = data if data.startswith(STATEMENT_BEGINS) else b""
        if data.startswith(CERTIFICATE_BEGINS) and (inside := _PAYLOAD.search(data)):
            with contextlib.suppress(ValueError):
                statement = base64.b64decode(inside[1])
        if not statement:  # other JSON, such as evaluation.json, lies there as well
            return
        digest = f"sha256:{hashlib.sha256(statement).hexdigest()}"
        self._by_digest.setdefault(digest, []).append((entry.path, data))
        if any(needle in statement for needle in needles):
            found = _parsed(entry.path, data)
            named = [key for key in self.keys if isinstance(found.read, Certificate) and key.id == found.read.key_id]
            if isinstance(found.read, Certificate) and named and trust.signer(found.read, named) is None:
                reason = f"{found.path}: the signature is not that of key {found.read.key_id}: a forgery; take it out."
                self.findings.append(Finding(RULES, f"certificate:{found.path}", "tampering", "REFUSED", reason))
            else:
                self.found.append(found)

    def of_statement(self, digest: str) -> list[_Found]:
        """All that bear this statement and can be read."""
        found = []
        for path, data in self._by_digest.get(digest, []):
            with contextlib.suppress(DrgateError):
                found.append(_parsed(path, data))
        return found


def _parsed(path: str, data: bytes) -> _Found:
    return _Found(
        path, parse_statement(data, path) if data.startswith(STATEMENT_BEGINS) else parse_certificate(data, path)
    )


@dataclass(frozen=True)
class _Held:
    """What every model is held against. known, beside: objects of the base branch that are, and lie beside, models."""

    gate: _Gate
    rules: Rules
    waivers: _Waivers
    chains: _Chains
    certificates: _Certificates
    tables: _Tables
    files: Mapping[str, Sequence[_Model]]
    known: set[str]
    beside: set[str]


@dataclass(frozen=True)
class _Assessor:
    """One model on one test set."""

    held: _Held
    model: _Model
    test_set: GatedTestSet

    def answer(self) -> tuple[tuple[Finding, ...], set[str] | None]:
        """What the certificate that speaks for this model and test set says, with the model's further files.

        Or that none speaks, with None.
        """
        unfit: list[str] = []
        assessed: list[_Assessed] = []
        groups: dict[bytes, list[_Found]] = {}
        for found in self.held.certificates.found:
            if any(self.model.is_subject(subject) for subject in found.statement.content["subject"]):
                groups.setdefault(found.statement.data, []).append(found)
        for group in groups.values():
            statement = group[0].statement
            if why := self._unfit(statement, group):
                unfit.append(f"{group[0].path} {why}")
            else:
                try:
                    assessed.append(self._assess(statement, group))
                except (DrgateError, LookupError, TypeError, ValueError, AttributeError) as problem:
                    unfit.append(f"{group[0].path} records what drgate does not write ({problem!r})")
        if not assessed:
            return (self._missing(unfit),), None
        # The latest look speaks, though not all have signed it who must; those of one look differ in evidence alone.
        lines = [entry["digest"] for entry in self.held.chains.lines.get(self.test_set.name, [])]
        place = {
            digest: at for at, digest in enumerate(lines)
        }  # looks may bear one time, as SOURCE_DATE_EPOCH gives it

        def latest_first(one: _Assessed) -> tuple[bool, float, int, int]:
            at = place.get(one.statement.evaluation.look.line or "", -1)
            return not one.heard, -one.statement.time.timestamp(), -at, _worst(one.findings)

        assessed.sort(key=latest_first)
        others = (one for one in assessed[0].statement.content["subject"] if not self.model.is_subject(one))
        return assessed[0].findings, {path for one in others if (path := self._beside(one["name"]))}

    def _finding(self, check: str, status: Status, reason: str, **more: Any) -> Finding:
        id = more.pop("id", f"model:{self.model.path}:{self.test_set.name}:{check}")
        place = "" if len(self.held.rules.policy.test_sets) == 1 else f" on {self.test_set.name}"
        return Finding(self.model.path, id, f"{check}{place}", status, reason, **more)

    def _missing(self, unfit: Sequence[str]) -> Finding:
        known = self.model.content.sha256 or f"MD5 {self.model.content.md5}"
        reason = (
            f"No certificate in {self.held.rules.policy.certificates} counts for this file (digest {known}) on the "
            f"test set {self.test_set.name}."
        )
        said = [*unfit, *self.held.certificates.useless]
        if said:
            reason += f" What is there: {'; '.join(said[:5])}{'; ...' if len(said) > 5 else '.'}".replace("..", ".")
        policy = self.held.rules.policy
        words = (
            "drgate",
            "evaluate",
            self.model.path,
            "--data",
            self.test_set.manifest or "TEST_SET",
            "--spec",
            policy.spec,
            "--looks",
            self.test_set.looks,
            "--key",
            "KEY",
        )
        exported = " (or take the one that drgate export wrote)" if self.model.path.endswith(".onnx") else ""
        reason += f" Make one{exported} and commit it with the chain: {shlex.join(words)}"
        return self._finding("certificate", "NOT_ASSESSED", reason)

    def _unfit(self, statement: Statement, group: Sequence[_Found]) -> str:
        """Why a statement is no evidence for what is asked here; empty where it is."""
        evaluation = statement.evaluation
        if not statement.of_model or evaluation.model.tensor_digest is None:
            return "speaks of a table of predictions, of no model"
        if not statement.clinical:
            return f"is by the checklist {evaluation.spec.name}, which is for trying a pipeline"
        if evaluation.data.manifest_digest != self.test_set.manifest_digest:
            return f"is on another test set, {evaluation.data.name}"
        if evaluation.spec.digest != self.held.rules.checklist.digest or (
            f"sha256:{hashlib.sha256(canonical_json(evaluation.spec.content)).hexdigest()}"
            != self.held.rules.checklist.digest
        ):
            return (
                f"is by the checklist {evaluation.spec.name} version {evaluation.spec.version}, not by "
                f"{self.held.rules.policy.spec} ({self.held.rules.checklist.name} version "
                f"{self.held.rules.checklist.version})"
            )
        if not any(isinstance(found.read, Certificate) for found in group):
            return "is not signed"
        return ""

    def _assess(self, statement: Statement, group: Sequence[_Found]) -> _Assessed:
        findings = [self._signatures(statement, group)]
        rules = self.held.rules
        heard = bool(trust.roles(statement, _signed(group), rules.trusted, rules.revocations))
        if trust.roles(statement, _signed(group), rules.trusted):
            files = list(self._files_beside(statement))
            heard = heard and not files and not rules.revocations.against(statement)
            findings += [*self._revocation(statement), *files, *self._contents(statement, group)]
        return _Assessed(statement, tuple(findings), heard)  # what nobody vouches for is not looked into further

    def _contents(self, statement: Statement, group: Sequence[_Found]) -> Iterator[Finding]:
        limit = self.held.rules.policy.max_age_days if self._is_changed(statement) else None
        lapsed = trust.lapses(statement, now=self.held.gate.now, max_age_days=limit)
        fresh = "It is fresh enough." if limit is not None else "The model is unchanged; it has not expired."
        yield self._finding("age", "FAIL" if lapsed else "PASS", " ".join(lapsed) or fresh)
        yield self._look(statement)
        if parent := statement.evaluation.model.parent:
            yield self._parent(statement, parent)
        if self.held.rules.policy.require_predictions:
            yield self._recomputed(statement, group)
        yield from self._criteria(statement)

    def _revocation(self, statement: Statement) -> Iterator[Finding]:
        if revoked := self.held.rules.revocations.against(statement):
            yield self._finding("revocation", "FAIL", " ".join(revoked))

    def _signatures(self, statement: Statement, group: Sequence[_Found]) -> Finding:
        policy, certificates = self.held.rules.policy, _signed(group)

        def filled(some: Iterable[Certificate]) -> frozenset[str]:
            return trust.roles(statement, some, self.held.rules.trusted, self.held.rules.revocations)

        roles = filled(certificates)
        asked = f"{policy.signers} of {', '.join(policy.required_roles)}"
        if policy.vouched(roles):
            names = ", ".join(one.path for one in group if isinstance(one.read, Certificate) and filled([one.read]))
            reason = f"Signed by {', '.join(sorted(roles))} ({names}); the policy asks for {asked}."
            return self._finding("signatures", "PASS", reason)
        lost = dict.fromkeys(why for one in certificates for why in self.held.rules.revocations.against(one))
        have = ", ".join(sorted(roles)) or "no key that the policy trusts"
        reason = f"Signed by {have}; the policy asks for {asked}. {' '.join(lost)}".strip()
        if not lost:
            role = next(role for role in policy.required_roles if role not in roles)
            reason += f" Sign it: {shlex.join(('drgate', 'sign', group[0].path, '--role', role, '--key', 'KEY'))}"
        return self._finding("signatures", "FAIL" if lost else "NOT_ASSESSED", reason)

    def _is_changed(self, statement: Statement) -> bool:
        """Whether one of the model's files is not what the base branch has."""
        others = (one for one in statement.content["subject"] if not self.model.is_subject(one))
        beside = [file.entry.oid for one in others for file in self._at(self._beside(one["name"]))]
        return self.model.entry.oid not in self.held.known or not self.held.beside.issuperset(beside)

    def _files_beside(self, statement: Statement) -> Iterator[Finding]:
        for subject in statement.content["subject"]:
            if self.model.is_subject(subject):
                continue
            there = self._at(self._beside(subject["name"]))
            if there and all(file.is_subject(subject) for file in there):
                continue
            missing = "is not the certified one" if there else "is missing"
            reason = f"The model's file {subject['name']} {missing} beside it; a certificate speaks of all its files."
            yield self._finding(f"file {subject['name']}", "REFUSED", reason)

    def _beside(self, name: str) -> str:
        """The path of a file beside the model's; empty where no file can have this name."""
        plain = name not in ("", ".", "..") and "/" not in name and "\0" not in name
        return str(PurePosixPath(self.model.path).with_name(name)) if plain else ""

    def _at(self, path: str) -> Sequence[_Model]:
        """What lies at a path; it need not look like a model, such as its preprocessing."""
        if found := self.held.files.get(path):
            return found
        entry = self.held.gate.head.entries.get(path)
        with contextlib.suppress(RepositoryError):  # a link, or a pointer that cannot be read: the file is not there
            return () if entry is None else (_Model(path, entry, self.held.gate.head.content(entry)),)
        return ()

    def _look(self, statement: Statement) -> Finding:
        evaluation = statement.evaluation
        look = evaluation.look
        entry, different, later = logged_look(evaluation, self.held.chains.lines.get(self.test_set.name, []))
        if entry is None:
            reason = f"Its look is not in {self.test_set.looks}; commit the chain that drgate evaluate wrote."
            return self._finding("look", "NOT_ASSESSED", reason)
        if different:
            said = f"Its look is another than {self.test_set.looks} says: the line {'; '.join(different[:3])}."
            return self._finding("look", "REFUSED", said)
        if later:
            reason = (
                f"{self.test_set.looks} holds a later look of this model ({later[-1].get('time')}); its certificate is "
                "missing or does not count: commit the one that the last look gave, whatever it says."
            )
            return self._finding("look", "NOT_ASSESSED", reason)
        reason = f"Look {look.number} of {look.allowed}, {look.time}, is in {self.test_set.looks}."
        return self._finding("look", "PASS", reason)

    def _parent(self, statement: Statement, recorded: Reference) -> Finding:
        """Of an exported model: stability, cost and look are those of the certificate that it was exported under."""
        check = "parent"
        group = self.held.certificates.of_statement(recorded.statement)
        if not group:
            reason = (
                "Its stability, cost and look come from the certificate of the model that it was exported from "
                f"({recorded.statement}), which is not in {self.held.rules.policy.certificates}; commit that too."
            )
            return self._finding(check, "NOT_ASSESSED", reason)
        parent = group[0].statement
        own, theirs = (
            (dataclasses.replace(one.evaluation.training, baseline=None), one.evaluation.look)
            for one in (statement, parent)
        )
        if reference(parent) != recorded or own != theirs:
            return self._finding(check, "REFUSED", f"It takes from {group[0].path} what that does not say.")
        roles = trust.roles(parent, _signed(group), self.held.rules.trusted, self.held.rules.revocations)
        if not self.held.rules.policy.vouched(roles) or self.held.rules.revocations.against(parent):
            reason = f"{group[0].path}, which it was exported under, is not signed as the policy asks, or is revoked."
            return self._finding(check, "NOT_ASSESSED", reason)
        return self._finding(check, "PASS", f"Exported under {group[0].path}, which says what is taken from it.")

    def _criteria(self, statement: Statement) -> Iterator[Finding]:
        """The lines of the checklist; a waived one is never a passed one."""
        evaluation = statement.evaluation
        found = {criterion.id: criterion for criterion in evaluation.criteria}
        for name in _lines_lacking(self.held.rules.checklist, found):
            yield self._finding(name, "REFUSED", "The certificate lacks this line of its own checklist.")
        for criterion in evaluation.criteria:
            id = visible(f"criterion:{self.model.path}:{self.test_set.name}:{criterion.id}")
            eased = self.held.waivers.eases(self.held.rules, criterion.id)
            status: Status = criterion.status
            reason, now = criterion.reason, ""
            if criterion.would_pass:
                reason += f" It meets the rule but cannot pass on this test set. {evaluation.barred}"
            if criterion.status != "PASS" and criterion.required:
                now = statement.digest
                status, why = self.held.waivers.status(id, "", now, failed=criterion.status)
                reason += why
            elif eased and criterion.status == "PASS":
                status, reason = "WAIVED", f"{reason} Met only as the line stands under a waiver. {eased}"
            more = {"id": id, "required": criterion.required, "now": now}
            yield self._finding(criterion.id, status, reason, **more)

    # -- predictions ---------------------------------------------------------------------------------------------------

    def _recomputed(self, statement: Statement, group: Sequence[_Found]) -> Finding:
        from drgate.verify import Given, Trust, verify

        check, tables = "predictions", self.held.tables
        evaluation = statement.evaluation
        near = {str(PurePosixPath(found.path).parent) for found in group}
        recorded = evaluation.training.baseline
        useless: list[str] = []
        table = tables.find(evaluation.predictions_digest, near, useless, evaluation.model.files)
        if table is None:
            reason = (
                f"The policy asks for the predictions, and no table in {self.held.rules.policy.certificates} is the "
                f"one that drgate score bound to this model. {' '.join(useless[:5])}"
            )
            return self._finding(check, "NOT_ASSESSED", reason.strip())
        baseline = None if recorded is None else tables.find(recorded.predictions_digest, near, [])
        copy = tables.folder / "statement.json"
        copy.write_bytes(statement.data)
        try:
            # Whether it still holds was found before; only the numbers are asked for here.
            result = verify(
                copy,
                Trust(now=statement.time),
                Given(predictions=table, checklist=self.held.rules.checklist, baseline=baseline),
            )
        except DrgateError as problem:
            return self._finding(check, "REFUSED", tables.named(str(problem)))
        if result.problems:
            return self._finding(check, "REFUSED", " ".join(map(tables.named, result.problems[:3])))
        if recorded is not None and baseline is None and _requires_baseline(evaluation.criteria):
            reason = (
                "The line baseline is required, and the baseline's predictions are not in "
                f"{self.held.rules.policy.certificates}; commit them, as drgate score wrote them."
            )
            return self._finding(check, "NOT_ASSESSED", reason)
        if not (result.recomputed and result.bound):
            return self._finding(check, "NOT_ASSESSED", " ".join(map(tables.named, result.unchecked)))
        not_compared = [said for said in result.unchecked if "not compared" in said and "Not given" not in said]
        self.held.gate.notes.extend(f"{self.model.path}: {said}" for said in not_compared)
        return self._finding(check, "PASS", tables.named(f"Every number was recomputed from {table}."))


class _Tables:
    """Tables of predictions in the repository, copied out to be read."""

    def __init__(self, gate: _Gate, entries: Sequence[Entry], folder: Path) -> None:
        self.gate, self.entries, self.folder = gate, entries, folder
        self.read: dict[str, tuple[Path, dict[str, Any]] | str] = {}

    def named(self, sentence: str) -> str:
        """A sentence with the paths of the repository in place of those of the copies."""
        for path, found in self.read.items():
            if not isinstance(found, str):
                sentence = sentence.replace(str(found[0]), path)
        return sentence

    def find(self, digest: str, near: set[str], useless: list[str], files: Sequence[File] | None = None) -> Path | None:
        """A copy of the table whose rows have this digest and that `score` bound to these files; near ones first."""
        for entry in sorted(self.entries, key=lambda entry: str(PurePosixPath(entry.path).parent) not in near):
            if entry.path not in self.read:
                self.read[entry.path] = self._read(entry)
            found = self.read[entry.path]
            if isinstance(found, str):
                useless.append(found)
                continue
            copy, provenance = found
            bound = provenance.get("model")
            if provenance.get("rows") != digest:
                continue
            if files is None or (isinstance(bound, dict) and bound.get("files") == list(map(plain_of, files))):
                return copy
            useless.append(f"{entry.path} holds these rows and is bound to other files.")
        return None

    def _read(self, entry: Entry) -> tuple[Path, dict[str, Any]] | str:
        """A copy and what it says of itself, or why it cannot be read."""
        import pyarrow.parquet as pq

        from drgate.predictions import read_provenance

        copy = self.folder / f"{len(self.read)}.parquet"
        try:
            copy.write_bytes(self._bytes(entry))
            if (rows := pq.read_metadata(copy).num_rows) > MAX_ROWS:
                return f"{entry.path} holds {rows} rows; at most {MAX_ROWS} are read."
            return copy, read_provenance(copy)
        except (DrgateError, OSError, ValueError) as problem:  # Arrow's errors are among the last
            return f"{entry.path} cannot be read: {problem}".replace(str(copy), entry.path)

    def _bytes(self, entry: Entry) -> bytes:
        tree = self.gate.head
        if not entry.path.endswith(DVC):
            content, name = tree.content(entry), entry.path
            if content.kind == "file":
                return tree.read(entry.path, limit=MAX_TABLE_BYTES, what="a table of predictions")
        else:
            ((name, content),) = tree.tracked_by_dvc(entry).items()
        return self.gate.repository.fetched(name, content, limit=MAX_TABLE_BYTES)


# -- small things ------------------------------------------------------------------------------------------------------


def _is(content: Content, subject: Mapping[str, Any]) -> bool:
    """Whether a file is a subject of a statement: by SHA-256, or by MD5 and size where a pointer has no more."""
    if subject["annotations"]["size"] != content.size:
        return False
    digests = subject["digest"]
    if content.sha256:
        return bool(digests["sha256"] == content.sha256)
    return bool(content.md5) and digests.get("md5") == content.md5


def _signed(group: Iterable[_Found]) -> list[Certificate]:
    return [found.read for found in group if isinstance(found.read, Certificate)]


def _looks_like_model(path: str) -> bool:
    return path.casefold().endswith(MODEL_SUFFIXES)


def _graph_of(path: str) -> str:
    """The ONNX file whose weights lie in `path`, by the names in use; empty for another file."""
    return path[: -len(".data")] if path.casefold().endswith((".onnx.data", ".onnx_data")) else ""


def _lines_lacking(checklist: Checklist, found: Mapping[str, CriterionResult]) -> Iterator[str]:
    """Lines of the checklist that an evaluation by it does not have as they stand there."""
    for criterion in checklist.each_criterion({one.by: [EACH] for one in checklist.slices}):
        if criterion.value == EACH:  # one line a value of the column, whichever the test set has
            present = [line for name, line in found.items() if _each_slice(name) == criterion.id]
        else:
            present = [found[criterion.id]] if criterion.id in found else []
        asked = (criterion.comparator, criterion.threshold, criterion.required)
        if not present or any((line.comparator, line.threshold, line.required) != asked for line in present):
            yield criterion.id


def _each_slice(id: str) -> str:
    """The line `@column=each` that a line on one slice was written out from."""
    head, at, place = id.partition("@")
    return f"{head}@{place.partition('=')[0]}={EACH}" if at else id


def _requires_baseline(criteria: Iterable[CriterionResult]) -> bool:
    return any(criterion.id == "baseline" and criterion.required for criterion in criteria)


def _worst(findings: Iterable[Finding]) -> int:
    return max((_SEVERITY[finding.status] for finding in findings if finding.required), default=0)


def _shown(finding: Finding) -> Finding:
    """Names come from the change: what does not print is spelt out."""
    return Finding(
        visible(finding.group),
        visible(finding.id),
        visible(finding.check),
        finding.status,
        visible(finding.reason),
        finding.required,
        finding.was,
        finding.now,
    )


def covers(report: GateReport, ids: Iterable[str]) -> list[Cover]:
    """What a waiver must cover so that findings of these ids close the gate no longer.

    Raises PolicyError for an id that no finding has, or that no waiver helps against.
    """
    waivable = {finding.id: finding for finding in report.findings if finding.waivable}
    asked = list(dict.fromkeys(ids))
    if unknown := [id for id in asked if id not in waivable]:
        known = ", ".join(waivable) or "nothing"
        raise PolicyError(f"{visible(unknown[0])} is nothing that a waiver could cover here; there is: {known}.")
    return [Cover(id, waivable[id].was, waivable[id].now, waivable[id].reason[:2000]) for id in asked]


def still_to_waive(
    folder: Path, covered: Iterable[Cover], role: str, key: PublicKey, *, base_ref: str, policy: str | None = None
) -> str:
    """Which of the required roles must waive this too, beside `role` and what is staged; empty where none must.

    Raises PolicyError where no waiver of this role under this key would count.
    """
    with open_repository(folder) as repository:
        judge = _Gate(repository, repository.commit(base_ref), repository.staged(), datetime.now(UTC))
        before, after, path = judge.rules(policy)
        waivers = _Waivers.read(judge, before, after)
    rules = before or after
    where = visible(f"the change's own {path}" if before is None else f"the policy of {judge.base.name}")
    required = rules.policy.required_roles
    if role not in required:
        raise PolicyError(f"By {where} the role {visible(role)} waives nothing; it asks for {', '.join(required)}.")
    if key.id not in {one.id for one in rules.trusted[role]}:
        raise PolicyError(f"Key {key.id[:16]} is not one that {where} trusts for {role}; its waiver would not count.")
    if why := rules.revocations.reasons.get(key.id):
        raise PolicyError(f"Key {key.id[:16]} is revoked by {where}: {visible(why)}")
    lacking = 0
    others: dict[str, None] = {}
    for cover in covered:
        valid = (waiver for _, waiver in waivers.covering(cover.id, cover.was, cover.now) if waivers.is_valid(waiver))
        left = [one for one in required if one not in {role, *(waiver.role for waiver in valid)}]
        if (more := rules.policy.signers - (len(required) - len(left))) > 0:
            lacking = max(lacking, more)
            others |= dict.fromkeys(left)
    return f"{lacking} more of the required roles must waive it too: {', '.join(others)}." if lacking else ""


def waivers_folder(folder: Path, policy: str | None = None) -> Path:
    """Where waivers lie in the repository around `folder`, by the policy that is staged."""
    with open_repository(folder) as repository:
        head = repository.staged()
        path = find_policy(head, policy)
        if path is None:
            raise PolicyError("There is no policy in what is staged; give --out.")
        return repository.root / load_policy(head, path).waivers
