"""No circles: what an attempt that is proposed has in common with the earlier ones.

    report = compare(Proposal(parameters, dataset=digest), read_ledger(Path("runs")).attempts)
    report.identical            # nothing that is told differs
    report.retraced             # what differs acts later: "retraces attempt 1 up to epoch 24, where it stood at 79.4 %"
    report.nearest              # of the others, the three that differ least

A parameter that an attempt does not tell equals anything, and the likeness says which these are. Parameters that act
only when a run ends, or in the choice of its epoch, leave the path of the weights as it was; a schedule that falls over
`num_epochs` does not, except in its warm-up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from trainer.attempts.ledger import Attempt, Evaluated, accuracy, as_told
from trainer.config import FALLING, LATER, ONLY_WITH, PLACE

PARENTS: Final = ("resume_from_checkpoint", "init_from")
"""Parameters that name the checkpoint a run starts from."""

ENOUGH: Final = 5
"""An attempt that tells fewer parameters of the weights' path equals nearly anything; it is near, never identical."""

NEAREST: Final = 3
_NAMED: Final = 6
"""Names that a sentence lists before it counts."""

Kind = Literal["identical", "retraced", "near"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A run before it begins."""

    parameters: Mapping[str, Any]
    """As resolved, with every default."""
    dataset: str | None = None
    """Digest; where it or the attempt's is unknown, names are compared."""
    base: str | None = None
    """Digest, likewise."""
    parent: tuple[str, ...] = ()
    """Digests of the checkpoint it starts from: of the file, of its tensors."""
    global_batch: int | None = None
    """Images in an optimizer step, on all processes."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """What a proposed run and an earlier attempt have in common."""

    attempt: Attempt
    kind: Kind
    differing: Mapping[str, tuple[Any, Any]]
    """By parameter: the attempt's value, the proposed one."""
    untold: tuple[str, ...]
    """Parameters that the attempt does not tell: they count as equal."""
    retraces_to_epoch: int | None
    """Up to there the weights are the same; None where they differ from the start or the attempt tells no epoch."""
    stood_at: float | None
    """Validation accuracy of the last evaluation up to that epoch."""
    notes: tuple[str, ...] = field(default=())
    """Doubts, as sentences."""

    @property
    def sentence(self) -> str:
        """For a person at a terminal."""
        parts = [{"identical": self._identical, "retraced": self._retraces, "near": self._near}[self.kind]()]
        if self.untold:
            parts.append(f"not told there, and so taken as equal: {_listed(self.untold)}")
        return "; ".join([*parts, *self.notes]) + "."

    def _identical(self) -> str:
        said = f"identical to {self.attempt.title}"
        last, best = self.attempt.last, self.attempt.best
        if last is not None:
            said += f", which stood at {percent(last.val_accuracy)} in epoch {last.epoch}"
            if best is not None and best.epoch != last.epoch and best.epoch is not None:
                said += f" (best: {percent(best.val_accuracy)} in epoch {best.epoch})"
        elif best is not None:
            said += f", which reached {percent(best.val_accuracy)}"
        if self.attempt.folder and self.attempt.origin is None and self.attempt.status in ("killed", "interrupted"):
            said += f" and was {self.attempt.status}: --resume goes on with {self.attempt.folder}"
        return said

    def _retraces(self) -> str:
        if self.retraces_to_epoch is None:
            how_far = f"retraces {self.attempt.title}, which does not tell how far it went"
        else:
            how_far = f"retraces {self.attempt.title} up to epoch {self.retraces_to_epoch}"
            if self.stood_at is not None:
                how_far += f", where it stood at {percent(self.stood_at)}"
        return f"{how_far}; what differs acts later: {self._differences()}"

    def _near(self) -> str:
        if not self.differing:
            why = "ended before its first epoch" if _unborn(self.attempt) else "tells too little to be called identical"
            return f"{self.attempt.title} differs in nothing that it tells, but {why}"
        return f"{self.attempt.title} differs in {self._differences()}"

    def _differences(self) -> str:
        return _listed(
            [f"{name} ({_shown(theirs)}, now {_shown(ours)})" for name, (theirs, ours) in self.differing.items()]
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "attempt": self.attempt.name,
            "kind": self.kind,
            "status": self.attempt.status,
            "differing": {name: list(values) for name, values in self.differing.items()},
            "untold": list(self.untold),
            "retraces_to_epoch": self.retraces_to_epoch,
            "stood_at": self.stood_at,
            "best": accuracy(self.attempt),
            "sentence": self.sentence,
        }


@dataclass(frozen=True, slots=True)
class CircleReport:
    """Each attempt is named at most once, the newest first."""

    identical: tuple[Likeness, ...] = ()
    retraced: tuple[Likeness, ...] = ()
    nearest: tuple[Likeness, ...] = ()
    """At most three of the others, the one that differs least first."""

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(likeness.sentence for likeness in (*self.identical, *self.retraced, *self.nearest))

    def to_json(self) -> dict[str, Any]:
        return {
            "identical": [likeness.to_json() for likeness in self.identical],
            "retraced": [likeness.to_json() for likeness in self.retraced],
            "nearest": [likeness.to_json() for likeness in self.nearest],
        }


def compare(proposal: Proposal, attempts: Sequence[Attempt]) -> CircleReport:
    """Hold a proposed run against the earlier attempts.

    attempts: without the run's own folder.
    """
    found = [_likeness(proposal, attempt) for attempt in reversed(attempts)]
    near = (likeness for likeness in found if likeness.kind == "near")
    return CircleReport(
        tuple(likeness for likeness in found if likeness.kind == "identical"),
        tuple(likeness for likeness in found if likeness.kind == "retraced"),
        tuple(sorted(near, key=_distance)[:NEAREST]),
    )


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], *, place: Set[str] = PLACE
) -> dict[str, tuple[Any, Any]]:
    """Parameters that both tell with different values, by name: (theirs, ours)."""
    return {
        name: (theirs[name], ours[name])
        for name in ours
        if name in theirs and name not in place and not same(theirs[name], ours[name])
    }


def same(one: Any, other: Any) -> bool:
    """Whether two values of a parameter mean the same: "2e-05" and 0.00002 do."""
    return bool(as_told(one) == as_told(other))


def percent(value: float | None) -> str:
    """A share of accuracy as a sentence writes it.

    >>> percent(0.794), percent(0.8176), percent(None)
    ('79.4 %', '81.76 %', 'no accuracy')
    """
    if value is None:
        return "no accuracy"
    return f"{value * 100:.2f}".rstrip("0").rstrip(".") + " %"


def _likeness(proposal: Proposal, attempt: Attempt) -> Likeness:
    ours = {name: as_told(value) for name, value in proposal.parameters.items()}
    theirs = attempt.parameters
    if attempt.origin is None and attempt.parent is None:
        theirs = {**dict.fromkeys(PARENTS), **theirs}  # a run's own record without a parent tells that there was none
    asleep = {name for name, (governor, values) in ONLY_WITH.items() if ours.get(governor) not in (None, *values)}
    passed_over = PLACE | asleep
    differing = differences(ours, theirs, place=passed_over)
    differing |= {
        name: (value, None)
        for name, value in theirs.items()
        if value is not None and name not in ours and name not in passed_over
    }
    untold = [name for name in ours if name not in theirs and name not in passed_over and name not in PARENTS]
    untold += _parent_untold(ours, theirs)
    notes = _by_identity(proposal, attempt, ours, differing, untold)
    schedule = ours.get("scheduler")
    if proposal.global_batch and attempt.global_batch and proposal.global_batch != attempt.global_batch:
        differing["images in a step"] = (attempt.global_batch, proposal.global_batch)
    if schedule in FALLING and any("num_epochs" in resume.get("changed", {}) for resume in attempt.resumes):
        differing["num_epochs, changed on the way,"] = ("yes", "no")
    path = {name for name in differing if name not in LATER}
    warm_only = not path and schedule in FALLING and "num_epochs" in differing
    if schedule == "validation_plateau" and "validation_frequency" in differing:
        path.add("validation_frequency")
    shaping = [name for name in ours if name in theirs and name not in passed_over and name not in LATER]
    shared = _warm_up(ours) if warm_only else attempt.reached
    if path or len(shaping) < ENOUGH or _unborn(attempt) or (warm_only and not shared):
        return Likeness(attempt, "near", differing, tuple(untold), None, None, notes)
    epoch = min(attempt.reached, shared, int(ours.get("num_epochs") or attempt.reached)) or None
    stood = _at(attempt.history, epoch)
    return Likeness(
        attempt,
        "retraced" if differing else "identical",
        differing,
        tuple(untold),
        epoch,
        None if stood is None else stood.val_accuracy,
        notes,
    )


def _by_identity(
    proposal: Proposal,
    attempt: Attempt,
    ours: Mapping[str, Any],
    differing: dict[str, tuple[Any, Any]],
    untold: list[str],
) -> tuple[str, ...]:
    """Let digests decide on data set, base and parent where both sides have them, else names; returns the doubts."""
    notes = []
    for name, our_digest, their_digest in (
        ("dataset", proposal.dataset, attempt.dataset),
        ("base", proposal.base, attempt.base),
    ):
        our_name, their_name = ours.get(name), attempt.parameters.get(name)
        if our_digest and their_digest:
            differing.pop(name, None)
            if name in untold:
                untold.remove(name)
            if our_digest != their_digest:
                differing[name] = (_named(their_name, their_digest), _named(our_name, our_digest))
        elif our_name is not None and their_name is not None and _basename(our_name) == _basename(their_name):
            differing.pop(name, None)
            notes.append(f"that its {name} is the same is known by name only")
    named = next((name for name in PARENTS if ours.get(name)), None)
    if named is None or attempt.parent is None or attempt.parent.how != named:
        their_digests: tuple[str, ...] = ()
    else:
        their_digests = attempt.parent.digests
    if named and proposal.parent and their_digests:
        differing.pop(named, None)
        if not set(proposal.parent) & set(their_digests):
            differing[named] = (
                _named(attempt.parameters.get(named), their_digests[0]),
                _named(ours[named], proposal.parent[0]),
            )
    elif named in differing and _basename(differing[named][0]) == _basename(differing[named][1]):
        notes.append(f"whether {named} is the same file is not known, since its digest is not")
    return tuple(notes)


def _parent_untold(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """A log that names neither checkpoint does not tell whether there was one; one that names either tells both."""
    return [name for name in PARENTS if ours.get(name) and not any(other in theirs for other in PARENTS)]


def _warm_up(parameters: Mapping[str, Any]) -> int:
    """Epochs in which a falling schedule does not depend on the number of epochs yet."""
    return int(parameters.get("warmup_epochs") or 0)


def _unborn(attempt: Attempt) -> bool:
    """It ended before its first epoch and so showed nothing."""
    ended = attempt.status in ("failed", "killed", "interrupted")
    return ended and attempt.origin is None and not attempt.history


def _distance(likeness: Likeness) -> tuple[int, int, int]:
    path = sum(name not in LATER for name in likeness.differing)
    return path, len(likeness.differing), len(likeness.untold)


def _at(history: Iterable[Evaluated], epoch: int | None) -> Evaluated | None:
    """The last evaluation up to an epoch."""
    told = [e for e in history if e.val_accuracy is not None and epoch is not None and (e.epoch or 0) <= epoch]
    return told[-1] if told else None


def _basename(name: Any) -> str:
    return str(name).rstrip("/").rpartition("/")[2]


def _named(name: Any, digest: str) -> str:
    short = digest.removeprefix("sha256:")[:8]
    return short if name is None else f"{name} ({short})"


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    if more <= 1:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {more} more"
