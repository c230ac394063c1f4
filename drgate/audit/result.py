"""What an audit found: frozen types that read and write themselves as JSON.

    found = Audit.from_json(json.loads(text))
    found.digest                               # 'sha256:...' over all of it: the subject of a certificate
    found.check("patients").status             # 'clean' | 'suspected' | 'found' | 'not_assessed'

What is compared is decided by counts alone, never by the clock, so that the same inputs give the same audit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

from pydantic import Field

from drgate.errors import DrgateError, ExitCode
from drgate.evaluation import Typed, plain_of, read_as
from drgate.files import digest_of

FORMAT: Final = "drgate audit 1"
SHOWN: Final = 50
"""Findings of a check that are written down; the others are counted."""

CheckId = Literal[
    "lineage",
    "patients",
    "eyes",
    "files",
    "pixels",
    "near_duplicates",
    "label_conflicts",
    "fellow_eyes",
    "mislabelled",
    "readers",
    "shortcuts",
    "quality",
    "case_mix",
]
CHECKS: Final[tuple[CheckId, ...]] = get_args(CheckId)
"""In the order of the page."""
LEAKS: Final[tuple[CheckId, ...]] = ("lineage", "patients", "eyes", "files", "pixels", "near_duplicates")
DECIDE: Final[tuple[CheckId, ...]] = (*LEAKS, "label_conflicts")
"""What decides the exit code. The other checks inform: honest sets differ in what they find."""
Status = Literal["clean", "suspected", "found", "not_assessed"]
Orientation = Literal["same", "rot90", "rot180", "rot270", "mirror", "mirror_rot90", "mirror_rot180", "mirror_rot270"]
"""How the second photograph is turned to lie on the first: mirrored left to right first, then turned anticlockwise."""

_Count = Annotated[int, Field(ge=0)]


class OwnNames(NamedTuple):
    """The caller's own name of each photograph, by published name."""

    test: Mapping[str, str]
    train: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Finding(Typed):
    """One pair, image or property. test, train: published names (contracts: first 16 hex digits of an image's digest);
    of a pair inside the test set, `other` is the second. distance: bits of 256. what: a property or a sentence that
    names nobody. value, low, high: a measured number and its interval (a share, an AUC, kappa).
    """

    test: str | None = None
    train: str | None = None
    other: str | None = None
    distance: _Count | None = None
    orientation: Orientation | None = None
    what: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Check(Typed):
    """One question. compared: how many of what were compared, by name. count: findings in all, of which the first
    `SHOWN` are in `findings`. reason: why it was not assessed, or what makes it suspected; empty where it is clear.
    numbers: further measured numbers by name (expected false accusations, thresholds).
    """

    id: CheckId
    status: Status
    compared: Mapping[str, _Count] = field(default_factory=dict)
    count: _Count = 0
    reason: str = ""
    findings: Annotated[tuple[Finding, ...], Field(max_length=SHOWN)] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, name: CheckId, findings: list[Finding], *, status: Status | None = None, **rest: Any) -> Check:
        """With the first `SHOWN` of all findings; "found" where there is one, unless stated otherwise."""
        stated = status or ("found" if findings else "clean")
        return cls(name, stated, count=len(findings), findings=tuple(findings[:SHOWN]), **rest)


@dataclass(frozen=True, slots=True)
class Audit(Typed):
    """settings: what was asked for. software: versions by name. checks: each question once, in the order of CHECKS."""

    settings: Mapping[str, Any]
    software: Mapping[str, str]
    checks: tuple[Check, ...]

    def check(self, name: CheckId) -> Check:
        """Raises KeyError for a question that was not asked."""
        found = next((one for one in self.checks if one.id == name), None)
        if found is None:
            raise KeyError(name)
        return found

    @property
    def deciding(self) -> tuple[Check, ...]:
        """The checks that decide the exit code: those of `DECIDE`, lineage only where a model was given."""
        no_model = self.settings.get("checkpoint") is None
        return tuple(one for one in self.checks if one.id in DECIDE and not (one.id == "lineage" and no_model))

    @property
    def unreadable(self) -> int:
        """Photographs that could not be read, so that nothing was compared with them."""
        sides = (self.settings.get(name) or {} for name in ("test", "train"))
        return sum(int(side.get("unreadable", 0)) for side in sides)

    @property
    def exit_code(self) -> ExitCode:
        """FAILED where a deciding check found something; NOT_SHOWN where one is suspected or not assessed, or where
        a photograph could not be read; else PASSED."""
        statuses = {one.status for one in self.deciding}
        if "found" in statuses:
            return ExitCode.FAILED
        return ExitCode.PASSED if statuses == {"clean"} and not self.unreadable else ExitCode.NOT_SHOWN

    @property
    def digest(self) -> str:
        return digest_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **plain_of(self)}

    @classmethod
    def from_json(cls, plain: object, origin: str = "The audit", error: type[DrgateError] = DrgateError) -> Audit:
        """The inverse of `to_json`. Raises `error`, naming `origin` and the place, for anything else."""
        expected = "an audit that drgate wrote"
        if not isinstance(plain, dict) or plain.get("format") != FORMAT:
            raise error(f"{origin} is no audit of the format {FORMAT!r}; expected {expected}.")
        found = read_as(
            cls, {key: one for key, one in plain.items() if key != "format"}, origin, expected=expected, error=error
        )
        names = [one.id for one in found.checks]
        if names != [name for name in CHECKS if name in names]:
            raise error(f"{origin}: each check is there once, in the order of docs/audit.md; audit again.")
        return found
