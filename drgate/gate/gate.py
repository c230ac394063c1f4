"""Gate: may this change be merged? Takes a repository and its policy; returns an answer with its reasons.

    report = gate(Path(), base_ref="origin/main")
    report.exit_code                              # 0 open; else closed: 1 failed, 3 evidence missing, 2 refused
    for finding in report.findings: ...

Trust comes from the base branch: its policy, checklist, keys, revocations and test sets decide whether the change may
alter them. No rule may become weaker without a waiver signed by a key of the base branch. If every weakening is waived,
the models are judged by the rules as they will be after the merge, otherwise by those of the base branch. A model is
identified by its digest, so neither its weights nor torch are needed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from drgate.errors import visible
from drgate.gate.assess import assess
from drgate.gate.change import Change, Files, open_change
from drgate.gate.evidence import Certificates, Chains, Evidence, Tables
from drgate.gate.findings import ADOPTION, RULES, Finding, GateReport
from drgate.gate.policy import Rules, compare
from drgate.gate.waiver import Waivers, read_waivers


def gate(folder: Path, *, base_ref: str, policy: str | None = None, now: datetime | None = None) -> GateReport:
    """Whether what is staged in the repository around `folder` may be merged into `base_ref`.

    policy: the policy's path from the root; by default drgate.toml, or the pyproject.toml that holds one. now: the time
    for ages and expiry dates (aware); by default the clock, never SOURCE_DATE_EPOCH.

    Raises DrgateError where the repository or the rules cannot be read: then nothing was judged.
    """
    with (
        open_change(folder, base_ref, now or datetime.now(UTC)) as change,
        tempfile.TemporaryDirectory(prefix="drgate-gate-") as copies,
    ):
        before, after, path = change.rules(policy)
        waivers = read_waivers(change, before, after)
        changes = [_adoption(change, path)] if before is None else list(_changes(change, before, after, waivers))
        rules = before if before is not None and any(finding.closes for finding in changes) else after
        findings = [*waivers.findings, *changes]
        findings += waivers.in_effect(rules, {finding.id for finding in findings})
        files = Files(change, rules.policy, (before or rules).policy)
        chains = Chains(change, before, rules)
        guarded = (file for path, found in files.by_path.items() if rules.policy.guards(path) for file in found)
        wanted = {file.content.sha256 or file.content.md5 for file in guarded}
        certificates = Certificates(change, rules, wanted)
        evidence = Evidence(chains, certificates, Tables(change, certificates.tables, Path(copies)))
        findings += [*chains.findings, *files.findings, *certificates.findings]
        findings += assess(change, rules, waivers, files, evidence)
        notes = [*change.notes, *_last_notes(change, rules, path, findings)]
        return GateReport(
            base=visible(base_ref),
            commit=change.base.commit,
            policy=path,
            rules_digest=rules.digest,
            findings=tuple(finding.printable() for finding in findings),
            notes=tuple(map(visible, dict.fromkeys(notes))),
        )


def _adoption(change: Change, policy: str) -> Finding:
    reason = (
        f"{change.base.name} has no policy that says whom to trust, and a change cannot approve itself. The findings "
        f"below use the change's own {policy}. Somebody with the right to do so must review it and merge it although "
        "the gate is closed; from then on it decides."
    )
    return Finding(RULES, ADOPTION, "adoption", "NOT_ASSESSED", reason)


def _changes(change: Change, before: Rules, after: Rules, waivers: Waivers) -> Iterator[Finding]:
    """What the change does to the rules; one PASS where nothing becomes weaker."""
    changes = compare(before, after)
    weaker = [one for one in changes if one.kind == "weaker"]
    change.notes.extend(f"{one.id} ({one.kind}): {one.sentence}" for one in changes if one.kind != "weaker")
    for one in weaker:
        status, why = waivers.status(one.id, one.was, one.now)
        yield Finding(RULES, one.id, one.id, status, one.sentence + why, was=one.was, now=one.now)
    if not weaker:
        reason = "Rules change, but none becomes weaker." if changes else "The rules are those of the base branch."
        yield Finding(RULES, "policy", "rules", "PASS", reason)


def _last_notes(change: Change, rules: Rules, policy: str, findings: Sequence[Finding]) -> Iterator[str]:
    own = [policy, rules.policy.spec, rules.policy.certificates, rules.policy.waivers]
    own += [path for paths in rules.policy.trusted_keys.values() for path in paths]
    own += [one.looks for one in rules.policy.test_sets]
    if unseen := change.repository.unstaged(own, rules.policy.models):
        more = f" and {len(unseen) - 3} more" if len(unseen) > 3 else ""
        yield f"Not staged, so not judged: {', '.join(unseen[:3])}{more} (git add)."
    closed = any(finding.closes and finding.group == RULES for finding in findings)
    if closed and not change.repository.contains(change.base.commit):
        yield (
            f"As far as this clone knows, the checked-out branch lacks commits of {change.base.name}. Merge them "
            "first; otherwise what is missing may look like a weaker rule."
        )
