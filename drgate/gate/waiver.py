"""Waivers: a trusted person signs that one finding does not close the gate, with a reason and an expiry date.

    waiver = make_waiver([cover], reason="...", role="clinical", expires=moment, issued=now, key=key)
    parse_waiver(waiver.to_bytes(), "waivers/pdr.json").signed_by(trusted)  # the trusted key that signed it
    read_waivers(change, before, after).status("spec:sensitivity:pdr", was, now)  # ("WAIVED", " Waived by ...")

A waiver names what it covers by id and by the digests before and after, so it never covers a later change. It is a DSSE
envelope in one byte form around canonical JSON. Its payload type is its own, so a certificate is never accepted as a
waiver, nor a waiver as a certificate.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field

from drgate import limits
from drgate.certificate import trust
from drgate.certificate.envelope import pre_authentication
from drgate.certificate.keys import PublicKey, SigningKey, check_signature_form
from drgate.checklist import Checklist
from drgate.errors import CertificateError, DrgateError, PolicyError, UsageError, visible
from drgate.evaluation import Moment, Typed, plain_of, read_as
from drgate.files import TIME_FORMAT, canonical_json, parse_json, parse_moment
from drgate.gate.change import Change, open_change
from drgate.gate.findings import RULES, Finding, GateReport, Status
from drgate.gate.policy import Rules, each_slice, find_policy, load_policy, part_digest
from drgate.gate.repository import open_repository
from drgate.line_ends import read_as_written
from drgate.metrics import MetricId

PAYLOAD_TYPE: Final = "application/vnd.drgate.waiver+json"
FORMAT: Final = "drgate waiver 1"
MAX_BYTES: Final = limits.WAIVER_BYTES
MAX_REASON: Final = 2000
_ROLE: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_EXPECTED: Final = "a waiver that drgate waive wrote"
_T = TypeVar("_T")


_Digest = Annotated[str, Field(pattern="^(sha256:[0-9a-f]{64})?$")]


@dataclass(frozen=True, slots=True)
class Cover(Typed):
    """One finding that is waived.

    id: as the gate shows it. was, now: digests on the base branch and after the change, "" where there is none. what:
    the reason of the finding, for people.
    """

    id: Annotated[str, Field(min_length=1, max_length=1000)]
    was: _Digest
    now: _Digest
    what: Annotated[str, Field(min_length=1, max_length=4000)] = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Payload(Typed):
    covers: Annotated[tuple[Cover, ...], Field(min_length=1)]
    expires: Moment
    format: Literal["drgate waiver 1"]
    issued: Moment
    reason: Annotated[str, Field(min_length=1, max_length=MAX_REASON)]
    role: Annotated[str, Field(pattern=f"^{_ROLE.pattern}$")]


@dataclass(frozen=True, slots=True)
class _Signature(Typed):
    keyid: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    sig: str


@dataclass(frozen=True, slots=True)
class _Envelope(Typed):
    payload: str
    payloadType: Literal["application/vnd.drgate.waiver+json"]  # noqa: N815
    signatures: Annotated[tuple[_Signature, ...], Field(min_length=1, max_length=1)]


@dataclass(frozen=True, slots=True)
class Waiver:
    """A waiver with one signature. issued, expires: aware, to the second. key_id: a claim until it is verified."""

    covers: tuple[Cover, ...]
    reason: str
    role: str
    issued: datetime
    expires: datetime
    key_id: str
    signature: bytes = field(repr=False)
    data: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """`sha256:...` over what is signed."""
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    def signed_by(self, trusted: Mapping[str, Sequence[PublicKey]]) -> PublicKey | None:
        """The trusted key of its role that signed it, if any."""
        keys = (key for key in trusted.get(self.role, ()) if key.id == self.key_id)
        return next(
            (key for key in keys if key.verifies(self.signature, pre_authentication(self.data, PAYLOAD_TYPE))), None
        )

    def to_bytes(self) -> bytes:
        """The file, in its one form."""
        return canonical_json(
            {
                "payload": base64.b64encode(self.data).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"keyid": self.key_id, "sig": base64.b64encode(self.signature).decode()}],
            }
        )


def make_waiver(
    covers: Iterable[Cover], *, reason: str, role: str, issued: datetime, expires: datetime, key: SigningKey
) -> Waiver:
    """A signed waiver. Raises UsageError where it covers nothing, has no reason, or ends before it begins."""
    reason = reason.strip()
    covered = sorted({*covers}, key=lambda cover: cover.id)
    if not covered or not reason:
        raise UsageError("A waiver needs at least one finding and a reason (--reason).")
    if not _ROLE.fullmatch(role):
        raise UsageError(f"{role!r} is not a role; expected a name from the policy's trusted_keys, such as clinical.")
    if expires <= issued:
        raise UsageError(f"--expires {expires:%Y-%m-%d} is in the past; give a later day.")
    data = canonical_json(
        {
            "covers": [{"id": one.id, "was": one.was, "now": one.now, "what": one.what} for one in covered],
            "expires": expires.astimezone(UTC).strftime(TIME_FORMAT),
            "format": FORMAT,
            "issued": issued.astimezone(UTC).strftime(TIME_FORMAT),
            "reason": reason,
            "role": role,
        }
    )
    return _parsed(data, key.public.id, key.sign(pre_authentication(data, PAYLOAD_TYPE)), "the waiver")


def parse_waiver(data: bytes, origin: str) -> Waiver:
    """The waiver in `data`; `origin` names it in messages. The signature is not verified here.

    Raises CertificateError for anything but the one byte form.
    """
    if len(data) > MAX_BYTES:
        raise CertificateError(f"{origin} is larger than {MAX_BYTES >> 10} KB; expected {_EXPECTED}.")
    envelope = _read(_Envelope, data, origin)
    (signature,) = envelope.signatures
    try:
        payload, signed = (base64.b64decode(text, validate=True) for text in (envelope.payload, signature.sig))
    except ValueError as problem:
        raise CertificateError(f"{origin} is not in base64 where it should be; expected {_EXPECTED}.") from problem
    try:
        check_signature_form(signed)
    except CertificateError as problem:
        raise CertificateError(f"{origin}: {problem}") from problem
    waiver = _parsed(payload, signature.keyid, signed, origin)
    if waiver.to_bytes() != data:
        raise CertificateError(f"{origin} is not in its canonical form; expected {_EXPECTED}.")
    return waiver


def _parsed(data: bytes, key_id: str, signature: bytes, origin: str) -> Waiver:
    content = _read(_Payload, data, origin)
    if canonical_json(plain_of(content)) != data:
        raise CertificateError(f"{origin} is not in its canonical form; expected {_EXPECTED}.")
    if not all(cover.was or cover.now for cover in content.covers):
        raise CertificateError(f"{origin} covers a finding without a digest; expected {_EXPECTED}.")
    return Waiver(
        covers=content.covers,
        reason=content.reason,
        role=content.role,
        issued=parse_moment(content.issued),
        expires=parse_moment(content.expires),
        key_id=key_id,
        signature=signature,
        data=data,
    )


def _read(kind: type[_T], data: bytes, origin: str) -> _T:
    plain = parse_json(data, origin, _EXPECTED, CertificateError)
    return read_as(kind, plain, origin, expected=_EXPECTED, error=CertificateError)


# -- in a repository ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Waivers:
    """The waivers of both trees. rules: those of the base branch, which say whose signature waives.

    findings: waivers that do not count or were removed.
    """

    found: Sequence[tuple[str, Waiver]]
    findings: Sequence[Finding]
    rules: Rules
    now: datetime

    def covering(self, id: str, was: str, now: str) -> list[tuple[str, Waiver]]:
        """Path and content of the waivers that cover exactly this, valid or not."""
        asked = (id, was, now)
        return [(p, w) for p, w in self.found if any((c.id, c.was, c.now) == asked for c in w.covers)]

    def is_valid(self, waiver: Waiver) -> bool:
        """Whether a trusted key of its role signed it, the key is not revoked, and the waiver is in force."""
        return _is_signed(waiver, self.rules) and waiver.issued - trust.CLOCK_SKEW <= self.now < waiver.expires

    def status(self, id: str, was: str, now: str, failed: Status = "FAIL") -> tuple[Status, str]:
        """WAIVED where enough roles waive it, else `failed`; and an explanation with a leading space, or ""."""
        covering = self.covering(id, was, now)
        valid = [(path, waiver) for path, waiver in covering if self.is_valid(waiver)]
        if (was or now) and self.rules.policy.is_met_by(waiver.role for _, waiver in valid):
            return "WAIVED", "".join(f" {_waived(path, waiver)}" for path, waiver in valid)
        why = "".join(
            f" The waiver {path} expired on {trust.day(waiver.expires)}."
            for path, waiver in covering
            if self.now >= waiver.expires
        )
        if valid:
            roles = ", ".join(sorted({waiver.role for _, waiver in valid}))
            why += f" Waived only by {roles}; {self.rules.policy.signers} of the required roles must waive it."
        return failed, why

    def in_effect(self, rules: Rules, shown: set[str]) -> Iterator[Finding]:
        """Earlier waivers of rules that are still not as they were: shown for as long as that lasts."""
        for id, why in self._kept(rules).items():
            if id not in shown:
                yield Finding(RULES, id, id, "WAIVED", why)

    def eases(self, rules: Rules, criterion: MetricId) -> str:
        """The waiver under which a criterion, or a setting that it depends on, was made easier; "" where none was."""
        for id, why in self._kept(rules).items():
            kind, _, where = id.partition(":")
            section = where.partition(".")[0]
            own = where in (criterion, each_slice(criterion))
            if kind == "spec" and (own or (section in Checklist.model_fields and section != "bootstrap")):
                return why
        return ""

    def _kept(self, rules: Rules) -> dict[str, str]:
        """By id, the waiver of each rule that is not what it was before.

        A rule that is a little stricter than the waiver allowed is still not the rule that was waived.
        """
        return {
            cover.id: f"{cover.what} {_waived(path, waiver)}"
            for path, waiver in self.found
            for cover in waiver.covers
            if cover.id.startswith(("spec:", "policy:")) and part_digest(rules, cover.id) != cover.was
        }


def read_waivers(change: Change, before: Rules | None, after: Rules) -> Waivers:
    """The waivers of both trees; what was once merged must stay."""
    rules = before or after
    found: dict[bytes, tuple[str, Waiver]] = {}
    findings = []
    here = {entry.oid for entry in change.head.below(after.policy.waivers)}
    trees = [] if before is None else [(change.base, before.policy.waivers)]
    for tree, folder in (*trees, (change.head, after.policy.waivers)):
        for entry in tree.below(folder):
            id = f"waiver:{entry.path}"
            try:
                data = tree.read(entry.path, limit=MAX_BYTES, what="a waiver")
                waiver = read_as_written(parse_waiver, data, entry.path)
            except DrgateError as problem:
                if entry.path.endswith(".json"):
                    change.notes.append(f"Not used as a waiver: {problem}")
                continue
            if tree is change.base:
                if entry.oid not in here:
                    reason = f"The waiver {entry.path} was removed. What was waived must stay visible; restore it."
                    findings.append(Finding(RULES, id, "waivers", "FAIL", reason))
            elif data not in found and not _is_signed(waiver, rules):
                reason = (
                    f"The waiver {entry.path} does not count: no key that the base branch trusts for {waiver.role} "
                    "signed it, or that key is revoked. Remove it now; a merged waiver must stay."
                )
                findings.append(Finding(RULES, id, "waivers", "REFUSED", reason))
                continue
            found[data] = (entry.path, waiver)
    return Waivers(tuple(found.values()), findings, rules, change.now)


def _is_signed(waiver: Waiver, rules: Rules) -> bool:
    return waiver.signed_by(rules.trusted) is not None and waiver.key_id not in rules.revocations.reasons


def _waived(path: str, waiver: Waiver) -> str:
    return (
        f"Waived by {waiver.role} (key {waiver.key_id[:16]}, {path}) on {trust.day(waiver.issued)} until "
        f"{trust.day(waiver.expires)}: {waiver.reason}"
    )


def covers(report: GateReport, ids: Iterable[str]) -> list[Cover]:
    """What a waiver must cover so that findings with these ids no longer close the gate.

    Raises PolicyError for an id that no finding has, or that no waiver can cover.
    """
    waivable = {finding.id: finding for finding in report.findings if finding.waivable}
    asked = list(dict.fromkeys(ids))
    if unknown := [id for id in asked if id not in waivable]:
        known = ", ".join(waivable) or "nothing"
        raise PolicyError(f"A waiver cannot cover {visible(unknown[0])} here. It can cover: {known}.")
    return [Cover(id, waivable[id].was, waivable[id].now, waivable[id].reason[:2000]) for id in asked]


def still_to_waive(
    folder: Path, covered: Iterable[Cover], role: str, key: PublicKey, *, base_ref: str, policy: str | None = None
) -> str:
    """Which other required roles must still waive this, beside `role` and the staged waivers; "" where none must.

    Raises PolicyError where a waiver of this role under this key would not count.
    """
    with open_change(folder, base_ref, datetime.now(UTC)) as change:
        before, after, path = change.rules(policy)
        waivers = read_waivers(change, before, after)
    rules = before or after
    where = visible(f"the change's own {path}" if before is None else f"the policy of {change.base.name}")
    required = rules.policy.required_roles
    if role not in required:
        raise PolicyError(f"The role {visible(role)} cannot waive: {where} requires {', '.join(required)}.")
    if key.id not in {one.id for one in rules.trusted[role]}:
        raise PolicyError(f"Key {key.id[:16]} is not trusted for {role} by {where}, so its waiver would not count.")
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
    return f"{lacking} more of the required roles must also waive it: {', '.join(others)}." if lacking else ""


def waivers_folder(folder: Path, policy: str | None = None) -> Path:
    """The folder of waivers in the repository around `folder`, by the staged policy."""
    with open_repository(folder) as repository:
        head = repository.staged()
        path = find_policy(head, policy)
        if path is None:
            raise PolicyError("There is no staged policy that names the folder of waivers; give --out.")
        return repository.root / load_policy(head, path).waivers
