"""Whether the evidence shows that each model of a change meets the rules."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from drgate import limits
from drgate.certificate import trust
from drgate.certificate.chain import logged_look
from drgate.certificate.statement import Certificate, Statement, reference
from drgate.checklist import EACH, Checklist
from drgate.errors import DrgateError, visible
from drgate.evaluation import COMPANIONS, CUT_OFFS, EXPORTED
from drgate.files import digest_of
from drgate.gate.change import Change, Files, ModelFile
from drgate.gate.checkout import exchanged
from drgate.gate.evidence import Evidence, Found
from drgate.gate.findings import Finding, Status, worst
from drgate.gate.policy import GatedTestSet, Policy, Rules, each_slice, every_criterion, how_to_replace
from drgate.gate.repository import of_dvc_2
from drgate.gate.sniff import loads_alone, names_model, plain_name
from drgate.gate.waiver import Waivers
from drgate.line_ends import changed, original_of
from drgate.metrics import MetricId

if TYPE_CHECKING:
    from drgate.evaluation import CriterionResult, Reference


def assess(change: Change, rules: Rules, waivers: Waivers, files: Files, evidence: Evidence) -> Iterator[Finding]:
    """Findings about every guarded model on every test set, then about files that a certificate does not cover.

    A file opens as a certificate's model, or as a further file of a model in the same folder whose certificates all
    name it, unless programs load a file of its name by itself.
    """
    policy = rules.policy
    judged: list[tuple[ModelFile, list[Finding], bool]] = []
    vouched: dict[str, str] = {}
    for model in (file for path, found in files.by_path.items() if policy.guards(path) for file in found):
        if model.content.kind == "dvc" and not policy.allow_md5_pointers:
            judged.append((model, [_by_md5(model)], False))
            continue
        answers = [
            _Assessor(change, rules, waivers, files, evidence, model, test_set).answer()
            for test_set in policy.test_sets
        ]
        named = [certified for _, certified in answers if certified is not None]
        judged.append((model, [one for findings, _ in answers for one in findings], len(named) == len(answers)))
        if len(named) == len(answers):
            further = (path for path in set.intersection(*named) if not loads_alone(path))
            vouched |= dict.fromkeys(further, model.path)
    for model, findings, is_model in judged:
        if not is_model and model.path in vouched:
            reason = f"It is a file of {vouched[model.path]}, whose certificates name it."
            name = f"file {PurePosixPath(model.path).name}"
            findings = [Finding(vouched[model.path], f"model:{model.path}", name, "PASS", reason)]
        yield from findings
    waiting = {model.path for model, _, is_model in judged if not is_model} - {*vouched}
    yield from _unguarded(policy, files, {*vouched}, waiting)
    further_files = [file for path in vouched for file in files.at(path)]
    if not policy.allow_md5_pointers:
        yield from (_by_md5(file) for file in further_files if file.content.kind == "dvc")
    known = [*further_files, *(model for model, _, _ in judged)]
    for where, why in exchanged(change.head, {path for file in known for path in (file.path, file.entry.path)}):
        yield Finding(where, f"checkout:{where}", "checkout", "REFUSED", why)


def _by_md5(file: ModelFile) -> Finding:
    reason = "A DVC file identifies it by MD5 alone, which the policy does not allow (allow_md5_pointers)."
    return Finding(file.path, f"model:{file.path}", "identity", "REFUSED", reason)


def _unguarded(policy: Policy, files: Files, vouched: set[str], waiting: set[str]) -> Iterator[Finding]:
    """Files that neither a pattern of the policy nor a certificate names.

    waiting: guarded files without a certificate. The gate is closed until theirs is there, which settles their weights
    and what is beside them.
    """
    apart = [path for path in files.by_path if not (path in vouched or policy.guards(path) or policy.exempts(path))]
    folders = {PurePosixPath(path).parent for path in waiting}
    for path in apart:
        if _graph_of(path) in {*waiting, *apart}:
            continue
        found = files.by_path[path]
        kind = next((file.kind for file in found if file.kind), "")
        looks = kind or any(names_model(path, file.content.size) for file in found)
        if PurePosixPath(path).parent in folders and not looks:
            continue
        if kind:
            reason = f"Its content begins like a file of the format {kind}, which can hold a model, and it is large."
        elif looks:
            reason = "It looks like a model, but no pattern of the policy matches it."
        else:
            reason = (
                "It is in a folder of models, but no pattern of the policy matches it and no certificate that counts"
            )
            reason += " names it."
        if PurePosixPath(path).name.casefold() == CUT_OFFS:
            reason += (
                " Cut-offs change a model's answers: evaluate the model with --operating-point, so that its "
                "certificate lists them, or remove the file."
            )
        else:
            reason += " Add it to models, or to not_models if it is not a model."
        yield Finding(path, f"model:{path}", "unguarded", "REFUSED", reason)


@dataclass(frozen=True, slots=True)
class _Assessed:
    """What one statement says about a model on a test set.

    trusted: a trusted key signed it, in whatever role, and it covers exactly the files that are there.
    """

    statement: Statement
    findings: tuple[Finding, ...]
    trusted: bool


@dataclass(frozen=True, slots=True)
class _Assessor:
    """One model on one test set."""

    change: Change
    rules: Rules
    waivers: Waivers
    files: Files
    evidence: Evidence
    model: ModelFile
    test_set: GatedTestSet

    def answer(self) -> tuple[tuple[Finding, ...], set[str] | None]:
        """Findings from the certificate that decides for this model and test set, and the paths of its further files.

        None in place of the paths where no certificate does.
        """
        invalid: list[str] = []
        assessed: list[_Assessed] = []
        groups: dict[bytes, list[Found]] = {}
        for found in self.evidence.certificates.found:
            first, *others = found.statement.content["subject"]
            if self.model.is_subject(first):
                groups.setdefault(found.statement.data, []).append(found)
            elif listed := next((one for one in others if self.model.is_subject(one)), None):
                role = listed["annotations"]["role"]
                invalid.append(f"{found.path} is of the model {first['name']} and lists this file as {role}")
        for group in groups.values():
            statement = group[0].statement
            if why := self._mismatch(statement, group):
                invalid.append(f"{group[0].path} {why}")
            else:
                try:
                    assessed.append(self._assess(statement, group))
                except DrgateError as problem:
                    invalid.append(f"{group[0].path} has contents that drgate does not write ({problem})")
        if not assessed:
            return (self._missing(invalid),), None
        # The latest look decides, even where signatures are missing; certificates of one look differ in evidence alone.
        # Looks can share one time (SOURCE_DATE_EPOCH), so their order in the chain counts too.
        lines = self.evidence.chains.lines.get(self.test_set.name, [])
        place = {entry["digest"]: at for at, entry in enumerate(lines)}

        def latest_first(one: _Assessed) -> tuple[bool, float, int, int]:
            at = place.get(one.statement.evaluation.look.line or "", -1)
            return not one.trusted, -one.statement.time.timestamp(), -at, worst(one.findings)

        first = min(assessed, key=latest_first)
        names = (subject["name"] for subject in self._others(first.statement))
        return first.findings, {path for name in names if (path := self._beside(name))}

    def _finding(self, check: str, status: Status, reason: str, **more: Any) -> Finding:
        id = more.pop("id", f"model:{self.model.path}:{self.test_set.name}:{check}")
        place = "" if len(self.rules.policy.test_sets) == 1 else f" on {self.test_set.name}"
        return Finding(self.model.path, id, f"{check}{place}", status, reason, **more)

    def _missing(self, invalid: Sequence[str]) -> Finding:
        policy, certificates = self.rules.policy, self.evidence.certificates
        known = self.model.content.sha256 or f"MD5 {self.model.content.md5}"
        reason = (
            f"No certificate in {policy.certificates} counts for this file (digest {known}) on the test set "
            f"{self.test_set.name}."
        )
        if found := [*invalid, *certificates.invalid]:
            reason += f" Found there: {'; '.join(found[:5])}{'; ...' if len(found) > 5 else '.'}".replace("..", ".")
        if self.model.content.dvc2:
            reason += f" {of_dvc_2(self.model.entry.path)}"
        data = self.test_set.manifest or "TEST_SET"
        words = ["drgate", "evaluate", self.model.path, "--data", data, "--spec", policy.spec]
        words += ["--looks", self.test_set.looks, "--key", "KEY"]
        exported = " (or use the one that drgate export wrote)" if self.model.path.endswith(".onnx") else ""
        reason += f" Create one{exported} and commit it with the chain of looks: {shlex.join(words)}"
        looks = [one for one in self.evidence.chains.lines.get(self.test_set.name, []) if one["kind"] == "look"]
        lost = bool(certificates.invalid or certificates.findings) or not self.files.is_changed(self.model, ())
        allowed = self.rules.checklist.looks
        if len(looks) >= allowed and not lost:  # whether this model took one of them, its file does not say
            taken = "the 1 look" if allowed == 1 else f"the {allowed} looks"
            reason += (
                f" Unless this model took one of them, it cannot pass there: {taken} at {self.test_set.name} that "
                "the checklist allows are taken. State a fresh test set in its place, which the required roles must "
                f"waive: {how_to_replace(self.test_set.name)}"
            )
        return self._finding("certificate", "NOT_ASSESSED", reason)

    def _mismatch(self, statement: Statement, group: Sequence[Found]) -> str:
        """Why a statement is no evidence for this model, checklist and test set; "" where it is."""
        evaluation, checklist = statement.evaluation, self.rules.checklist
        spec = evaluation.spec
        if not statement.of_model or evaluation.model.tensor_digest is None:
            return "is about a table of predictions, not about a model"
        if not evaluation.clinical:
            return f"uses the checklist {spec.name}, which only tests a pipeline"
        if evaluation.data.manifest_digest != self.test_set.manifest_digest:
            return f"is for another test set, {evaluation.data.name}"
        if not spec.digest == digest_of(spec.content) == checklist.digest:
            return (
                f"uses the checklist {spec.name} version {spec.version}, not {self.rules.policy.spec} "
                f"({checklist.name} version {checklist.version})"
            )
        return "" if _signed(group) else "is not signed"

    def _assess(self, statement: Statement, group: Sequence[Found]) -> _Assessed:
        findings = [self._signatures(statement, group)]
        certificates, keys, revocations = _signed(group), self.rules.trusted, self.rules.revocations
        trusted = bool(trust.roles(statement, certificates, keys, revocations))
        if trust.roles(statement, certificates, keys):  # what no trusted key signed is not examined further
            files = list(self._files_beside(statement))
            revoked = revocations.against(statement)
            trusted = trusted and not files and not revoked
            if revoked:
                findings.append(self._finding("revocation", "FAIL", " ".join(revoked)))
            findings += [*files, *self._contents(statement, group)]
        return _Assessed(statement, tuple(findings), trusted)

    def _contents(self, statement: Statement, group: Sequence[Found]) -> Iterator[Finding]:
        policy = self.rules.policy
        companions = [file for one in self._others(statement) for file in self.files.at(self._beside(one["name"]))]
        limit = policy.max_age_days if self.files.is_changed(self.model, companions) else None
        lapsed = trust.lapses(statement, now=self.change.now, max_age_days=limit)
        fresh = "It is recent enough." if limit is not None else "The model is unchanged; it has not expired."
        yield self._finding("age", "FAIL" if lapsed else "PASS", " ".join(lapsed) or fresh)
        yield self._look(statement)
        if scored := self._scored(statement, group):
            yield scored
        if parent := statement.evaluation.model.parent:
            yield self._parent(statement, parent)
        if policy.require_predictions:
            yield self._recomputed(statement, group)
        yield from self._criteria(statement)

    def _signatures(self, statement: Statement, group: Sequence[Found]) -> Finding:
        policy, certificates = self.rules.policy, _signed(group)

        def filled(some: Iterable[Certificate]) -> frozenset[str]:
            return trust.roles(statement, some, self.rules.trusted, self.rules.revocations)

        roles = filled(certificates)
        required = f"{policy.signers} of {', '.join(policy.required_roles)}"
        if policy.is_met_by(roles):
            names = ", ".join(one.path for one in group if isinstance(one.read, Certificate) and filled([one.read]))
            reason = f"Signed by {', '.join(sorted(roles))} ({names}); the policy requires {required}."
            return self._finding("signatures", "PASS", reason)
        lost = dict.fromkeys(why for one in certificates for why in self.rules.revocations.against(one))
        have = ", ".join(sorted(roles)) or "no key that the policy trusts"
        reason = f"Signed by {have}; the policy requires {required}. {' '.join(lost)}".strip()
        if not lost:
            role = next(role for role in policy.required_roles if role not in roles)
            reason += f" Sign it: {shlex.join(('drgate', 'sign', group[0].path, '--role', role, '--key', 'KEY'))}"
        return self._finding("signatures", "FAIL" if lost else "NOT_ASSESSED", reason)

    def _others(self, statement: Statement) -> Iterator[Mapping[str, Any]]:
        """The subjects that are further files of the model."""
        return iter(statement.content["subject"][1:])  # the first is the model

    def _files_beside(self, statement: Statement) -> Iterator[Finding]:
        roles = {subject["name"]: subject["annotations"]["role"] for subject in self._others(statement)}
        onnx = plain_name(self.model.path).endswith(".onnx")
        for name, role in COMPANIONS.items() if onnx else ():
            if roles.get(name) != role and (found := self.files.in_place_of(self._beside(name))):
                reason = f"{found[0]} beside the model decides its answers, and the certificate does not cover it."
                yield self._finding(f"file {name}", "REFUSED", reason)
        for subject in self._others(statement):
            there = self.files.at(self._beside(subject["name"]))
            if not there or not all(file.is_subject(subject) for file in there):
                other = next((file for file in there if not file.is_subject(subject)), None)
                wrong = "is missing" if other is None else self._why_other(other, subject)
                reason = f"The file {subject['name']} beside the model {wrong or 'is not the certified one'}"
                reason += "" if wrong.endswith(".") else "; a certificate covers all its files."
                yield self._finding(f"file {subject['name']}", "REFUSED", reason)

    def _why_other(self, file: ModelFile, subject: Mapping[str, Any]) -> str:
        """The predicate of a sentence, where what only changed its line ends explains that it is another file."""
        if file.content.dvc2:
            return f"is not the certified one. {of_dvc_2(file.entry.path)}"
        if file.content.kind != "file" or file.content.size > limits.YAML_BYTES:
            return ""
        data, certified = self.change.repository.read(file.entry.oid), subject["digest"]["sha256"]
        what = original_of(data, lambda original: hashlib.sha256(original).hexdigest() == certified)
        return changed(what, "-text") if what else ""

    def _beside(self, name: str) -> str:
        """The path of a file beside the model; "" where no file can have this name."""
        plain = name not in ("", ".", "..") and "/" not in name and "\0" not in name
        return str(PurePosixPath(self.model.path).with_name(name)) if plain else ""

    def _look(self, statement: Statement) -> Finding:
        chain, look = self.test_set.looks, statement.evaluation.look
        if statement.evaluation.leaks:
            return self._finding("look", "NOT_ASSESSED", "No look was taken, because the audit found a leak.")
        entry, different, later = logged_look(
            statement.evaluation, self.evidence.chains.lines.get(self.test_set.name, [])
        )
        if entry is None:
            reason = f"Its look is not in {chain}. Commit the chain that drgate evaluate wrote."
            return self._finding("look", "NOT_ASSESSED", reason)
        if different:
            reason = f"Its look is not the one in {chain}, whose line {'; '.join(different[:3])}."
            return self._finding("look", "REFUSED", reason)
        if later:
            reason = (
                f"{chain} holds a later look of this model ({later[-1].get('time')}), whose certificate is missing or "
                "does not count. Commit the certificate of the last look, whatever its verdict."
            )
            return self._finding("look", "NOT_ASSESSED", reason)
        reason = f"Look {look.number} of {look.allowed}, {look.time}, is in {chain}."
        return self._finding("look", "PASS", reason)

    def _parent(self, statement: Statement, recorded: Reference) -> Finding:
        """For an exported model: stability, cost and look must be those of the certificate it was exported under."""
        check, policy = "parent", self.rules.policy
        group = self.evidence.certificates.of_statement(recorded.statement)
        if not group:
            reason = (
                "Its stability, cost and look come from the certificate of the model that it was exported from "
                f"({recorded.statement}), which is not in {policy.certificates}. Commit that certificate too."
            )
            return self._finding(check, "NOT_ASSESSED", reason)
        parent = group[0].statement
        own, theirs = (
            (replace(one.evaluation.training, baseline=None), one.evaluation.look, one.evaluation.data.audit)
            for one in (statement, parent)
        )
        if reference(parent) != replace(recorded, changes=None) or own != theirs:
            return self._finding(check, "REFUSED", f"It claims values from {group[0].path} that are not in it.")
        if parent.evaluation.verdict not in EXPORTED:
            said = parent.evaluation.verdict
            reason = f"{group[0].path}, under which it was exported, says {said}; export a model that passed."
            return self._finding(check, "REFUSED", reason)
        roles = trust.roles(parent, _signed(group), self.rules.trusted, self.rules.revocations)
        if not policy.is_met_by(roles) or self.rules.revocations.against(parent):
            reason = f"{group[0].path}, under which it was exported, is revoked or lacks required signatures."
            return self._finding(check, "NOT_ASSESSED", reason)
        return self._finding(check, "PASS", f"Exported under {group[0].path}, which records the same values.")

    def _criteria(self, statement: Statement) -> Iterator[Finding]:
        """The criteria of the checklist; a waived one is never shown as passed."""
        evaluation = statement.evaluation
        for name in _criteria_missing(self.rules.checklist, {one.id: one for one in evaluation.criteria}):
            yield self._finding(name, "REFUSED", "The certificate lacks this criterion of its own checklist.")
        for criterion in evaluation.criteria:
            id = visible(f"criterion:{self.model.path}:{self.test_set.name}:{criterion.id}")
            status: Status = criterion.status
            reason, now = criterion.reason.removeprefix("Not assessed: "), ""  # the status says that
            if criterion.would_pass:
                reason += f" It meets the rule but cannot pass on this test set. {evaluation.barred}"
            allowed = criterion.status == "OBSERVED" and "observed" in self.rules.policy.allow
            if criterion.status != "PASS" and criterion.required and not allowed:
                now = statement.digest
                status, why = self.waivers.status(id, "", now, failed=criterion.status)
                reason += why
            elif criterion.status == "PASS" and (eased := self.waivers.eases(self.rules, criterion.id)):
                status, reason = "WAIVED", f"{reason} Passes only under a waived rule. {eased}"
            yield self._finding(
                criterion.id,
                status,
                reason,
                id=id,
                required=criterion.required,
                now=now,
                allowed=allowed,
                title=criterion.id.label,
            )
        required = {one.status for one in evaluation.criteria if one.required}
        # Range and cost are judged by their value and can PASS under a checklist that decides on estimates.
        observed = evaluation.observed_only and "PASS" in required and "OBSERVED" not in required
        verdict: Status = "OBSERVED" if observed else evaluation.verdict if required <= {"PASS"} else "PASS"
        id = f"verdict:{self.model.path}:{self.test_set.name}"
        if verdict == "OBSERVED" and "observed" in self.rules.policy.allow:
            yield self._finding("verdict", verdict, evaluation.headline, id=id, allowed=True)
        elif verdict != "PASS":
            status, why = self.waivers.status(id, "", statement.digest, failed=verdict)
            yield self._finding("verdict", status, f"{evaluation.headline}{why}", id=id, now=statement.digest)

    def _scored(self, statement: Statement, group: Sequence[Found]) -> Finding | None:
        """Whether this model gave the answers, where whoever signed the certificate did not run it."""
        scoring, policy = statement.evaluation.model.scoring, self.rules.policy
        if scoring is None or scoring.by == "this run":
            return None
        if scoring.by == "signed":
            why = self._unsigned(statement, group, scoring.key, scoring.statement)
            if not why:
                reason = f"The answers are those that a scorer signed (key {scoring.key})."
                return self._finding("scored", "PASS", reason)
        else:
            why = (
                "It was scored elsewhere: nothing proves that this model gave these answers. Evaluate the model "
                "itself, or have the scorer sign the table (drgate score --key) and evaluate it with --scorer-key."
            )
        return self._finding("scored", "NOT_ASSESSED", why, allowed="scored_elsewhere" in policy.allow)

    def _unsigned(self, statement: Statement, group: Sequence[Found], key: str | None, signed: str | None) -> str:
        """Why a scorer's signature does not count; "" where it does."""
        policy, folder, evaluation = self.rules.policy, self.rules.policy.certificates, statement.evaluation
        trusted = [key for role in policy.scorers for key in self.rules.trusted[role]]
        if not any(one.id == key for one in trusted):
            return f"It was scored under the key {key}, which has no role in the policy that may score (scorers)."
        invalid: list[str] = []
        found = self.evidence.certificates.of_scorer(signed or "", invalid)
        by_scorer = next((one for one in found if one.envelope.signer(trusted)), None)
        if by_scorer is None:
            reason = f"The signed table {signed} is not in {folder}. Commit predictions.scored.json of the evaluation."
            return " ".join([reason, *invalid[:5]])
        if why := next(by_scorer.refutes(evaluation), None):
            return f"The certificate is not of what the scorer signed: it {why}."
        near = {str(PurePosixPath(one.path).parent) for one in group}
        table = self.evidence.tables.find(evaluation.predictions_digest, near, invalid, evaluation.model.files)
        if table is None:
            return f"The predictions that the scorer signed are not in {folder}. {' '.join(invalid[:5])}".strip()
        from drgate.verify import predictions_of

        try:
            predictions = predictions_of(evaluation, table)
            why = next(by_scorer.contradictions(predictions), None)
        except DrgateError as problem:
            return self.evidence.tables.named(str(problem))
        if predictions.digest != evaluation.predictions_digest:  # a table can claim to be a baseline that it is not
            return "The predictions that the scorer signed are not those that were evaluated."
        return f"The predictions are not those that the scorer signed: the table {why}." if why else ""

    def _recomputed(self, statement: Statement, group: Sequence[Found]) -> Finding:
        from drgate.verify import Given, Trust, verify

        check, tables, folder = "predictions", self.evidence.tables, self.rules.policy.certificates
        evaluation = statement.evaluation
        near = {str(PurePosixPath(found.path).parent) for found in group}
        recorded = evaluation.training.baseline
        invalid: list[str] = []
        table = tables.find(evaluation.predictions_digest, near, invalid, evaluation.model.files)
        if table is None:
            reason = (
                f"The policy requires the predictions, but no table in {folder} is the one that drgate score wrote for "
                f"this model. {' '.join(invalid[:5])}"
            )
            return self._finding(check, "NOT_ASSESSED", reason.strip())
        baseline = None if recorded is None else tables.find(recorded.predictions_digest, near, [])
        copy = tables.folder / "statement.json"
        copy.write_bytes(statement.data)
        try:
            # Expiry was checked before; here only the numbers are.
            given = Given(predictions=table, checklist=self.rules.checklist, baseline=baseline)
            result = tables.once(statement.digest, lambda: verify(copy, Trust(now=statement.time), given))
        except DrgateError as problem:
            return self._finding(check, "REFUSED", tables.named(str(problem)))
        if result.problems:
            return self._finding(check, "REFUSED", " ".join(map(tables.named, result.problems[:3])))
        required = any(criterion.id.needs_baseline and criterion.required for criterion in evaluation.criteria)
        if required and recorded is not None and baseline is None:
            reason = (
                f"A criterion on the baseline is required, but the baseline's predictions are not in {folder}. "
                "Commit the table that drgate score wrote."
            )
            return self._finding(check, "NOT_ASSESSED", reason)
        if not (result.recomputed and result.bound):
            return self._finding(check, "NOT_ASSESSED", " ".join(map(tables.named, result.unchecked)))
        self.change.notes.extend(f"{self.model.path}: {one}" for one in result.not_compared)
        return self._finding(check, "PASS", tables.named(f"Every number was recomputed from {table}."))


def _signed(group: Iterable[Found]) -> list[Certificate]:
    return [found.read for found in group if isinstance(found.read, Certificate)]


def _graph_of(path: str) -> str:
    """The ONNX file whose weights are in `path`, by the usual names; "" for another file."""
    return path[: -len(".data")] if path.casefold().endswith((".onnx.data", ".onnx_data")) else ""


def _criteria_missing(checklist: Checklist, found: Mapping[MetricId, CriterionResult]) -> Iterator[MetricId]:
    """Criteria of the checklist that an evaluation by it does not hold unchanged."""
    for criterion in every_criterion(checklist):
        if criterion.id.value == EACH:  # one for each value of the column that the test set has
            present = [one for name, one in found.items() if each_slice(name) == criterion.id]
        else:
            present = [found[criterion.id]] if criterion.id in found else []
        expected = (criterion.comparator, criterion.threshold, criterion.ceiling, criterion.required)
        if not present or any(
            (one.comparator, one.threshold, one.ceiling, one.required) != expected for one in present
        ):
            yield criterion.id
