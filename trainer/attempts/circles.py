"""No circles: what a proposed run has in common with the earlier attempts, and how two attempts differ.

    report = compare(Proposal(parameters, dataset=digest), read_ledger(Path("runs")).attempts)
    report.identical            # no known parameter differs
    report.retraced             # what differs acts later: "repeats attempt 1 up to epoch 24, where ..."
    report.nearest              # of the others, the three with the fewest differences
    diff(first, second)

A parameter that an attempt does not record equals anything, and the report names these. Parameters that act only when
a run ends or when its epoch is selected do not change the weights on the way; a schedule that falls over `num_epochs`
does, except during its warm-up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from trainer.attempts.ledger import Attempt, Evaluated, accuracy, normal_form
from trainer.config import FALLING, LATER, ONLY_WITH, PLACE

PARENTS: Final = ("resume_from_checkpoint", "init_from")
"""Parameters that name the checkpoint that a run starts from."""

ENOUGH: Final = 5
"""An attempt with fewer recorded parameters that act on the weights is at most near: it would equal nearly anything."""

NEAREST: Final = 3
_NAMED: Final = 6
"""Names that a sentence lists; it counts the rest."""

Kind = Literal["identical", "retraced", "near"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A run before it begins."""

    parameters: Mapping[str, Any]
    """With all defaults filled in."""
    dataset: str | None = None
    """Digest; names are compared if it or the attempt's is unknown."""
    base: str | None = None
    """Digest, with the same rule."""
    parent: tuple[str, ...] = ()
    """Digests of the checkpoint that it starts from: of the file and of its tensors."""
    global_batch: int | None = None
    """Images per optimizer step, over all processes."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """What a proposed run and an earlier attempt have in common."""

    attempt: Attempt
    kind: Kind
    differing: Mapping[str, tuple[Any, Any]]
    """By parameter: the attempt's value and the proposed one."""
    unrecorded: tuple[str, ...]
    """Parameters that the attempt does not record: they count as equal."""
    retraces_to_epoch: int | None
    """The weights are the same up to this epoch; None if they differ from the start or the epoch is unknown."""
    stood_at: float | None
    """Validation accuracy in the last evaluation up to that epoch."""
    notes: tuple[str, ...] = field(default=())
    """Doubts, as sentences."""

    @property
    def sentence(self) -> str:
        """For a person."""
        parts = [{"identical": self._identical, "retraced": self._retraces, "near": self._near}[self.kind]()]
        if self.unrecorded:
            parts.append(f"not recorded there, and assumed equal: {_listed(self.unrecorded)}")
        return "; ".join([*parts, *self.notes]) + "."

    def _identical(self) -> str:
        text = f"identical to {self.attempt.title}"
        last, best = self.attempt.last, self.attempt.best
        if last is not None:
            text += f", which had a validation accuracy of {percent(last.val_accuracy)} in epoch {last.epoch}"
            if best is not None and best.epoch != last.epoch and best.epoch is not None:
                text += f" (best: {percent(best.val_accuracy)} in epoch {best.epoch})"
        elif best is not None:
            text += f", which reached {percent(best.val_accuracy)}"
        if self.attempt.folder and self.attempt.origin is None and self.attempt.status in ("killed", "interrupted"):
            text += f" and was {self.attempt.status}: --resume continues {self.attempt.folder}"
        return text

    def _retraces(self) -> str:
        if self.retraces_to_epoch is None:
            how_far = f"repeats {self.attempt.title}, whose last epoch is unknown"
        else:
            how_far = f"repeats {self.attempt.title} up to epoch {self.retraces_to_epoch}"
            if self.stood_at is not None:
                how_far += f", where validation accuracy was {percent(self.stood_at)}"
        return f"{how_far}; the differences act later: {self._differences()}"

    def _near(self) -> str:
        if not self.differing:
            why = "ended before its first epoch" if _unborn(self.attempt) else "records too little to be identical"
            return f"{self.attempt.title} has no recorded difference, but {why}"
        return f"{self.attempt.title} differs in {self._differences()}"

    def _differences(self) -> str:
        return _listed(
            [f"{name} ({shown(theirs)}, now {shown(ours)})" for name, (theirs, ours) in self.differing.items()]
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "attempt": self.attempt.name,
            "kind": self.kind,
            "status": self.attempt.status,
            "differing": {name: list(values) for name, values in self.differing.items()},
            "unrecorded": list(self.unrecorded),
            "retraces_to_epoch": self.retraces_to_epoch,
            "stood_at": self.stood_at,
            "best": accuracy(self.attempt),
            "sentence": self.sentence,
        }


@dataclass(frozen=True, slots=True)
class CircleReport:
    """Each attempt appears at most once, the newest first."""

    identical: tuple[Likeness, ...] = ()
    retraced: tuple[Likeness, ...] = ()
    nearest: tuple[Likeness, ...] = ()
    """At most three of the others, the one with the fewest differences first."""

    def to_json(self) -> dict[str, Any]:
        return {name: [likeness.to_json() for likeness in getattr(self, name)] for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Difference:
    """How attempt b differs from attempt a."""

    a: Attempt
    b: Attempt
    parameters: Mapping[str, tuple[Any, Any]]
    """Those that both record with different values, including folders and prices: (of a, of b)."""
    only_a: tuple[str, ...]
    """Parameters that b does not record."""
    only_b: tuple[str, ...]
    identities: Mapping[str, tuple[str | None, str | None]]
    """Digests and commits that are known for both and differ."""
    epochs: tuple[tuple[Evaluated, Evaluated], ...]
    """Epochs that both evaluated."""

    def to_json(self) -> dict[str, Any]:
        return {
            "a": self.a.name,
            "b": self.b.name,
            "parameters": {name: list(values) for name, values in self.parameters.items()},
            "told_by_a_only": list(self.only_a),
            "told_by_b_only": list(self.only_b),
            "identities": {name: list(values) for name, values in self.identities.items()},
            "best": [accuracy(self.a), accuracy(self.b)],
            "epochs": [[one.to_json(), other.to_json()] for one, other in self.epochs],
            "spend": [None if attempt.spend is None else attempt.spend.to_json() for attempt in (self.a, self.b)],
        }


def compare(proposal: Proposal, attempts: Sequence[Attempt]) -> CircleReport:
    """Compare a proposed run with the earlier attempts.

    attempts: without the run's own folder.
    """
    found = [_likeness(proposal, attempt) for attempt in reversed(attempts)]
    near = (likeness for likeness in found if likeness.kind == "near")
    return CircleReport(
        tuple(likeness for likeness in found if likeness.kind == "identical"),
        tuple(likeness for likeness in found if likeness.kind == "retraced"),
        tuple(sorted(near, key=_distance)[:NEAREST]),
    )


def diff(a: Attempt, b: Attempt) -> Difference:
    """How attempt b differs from attempt a."""
    known = {
        "dataset digest": (a.dataset, b.dataset),
        "base digest": (a.base, b.base),
        "parent": tuple(None if x.parent is None else ", ".join(x.parent.digests) or x.parent.source for x in (a, b)),
        "git commit": (a.commit, b.commit),
    }
    later = {entry.epoch: entry for entry in b.history}
    return Difference(
        a=a,
        b=b,
        parameters=differences(b.parameters, a.parameters, place=frozenset()),
        only_a=tuple(name for name in a.parameters if name not in b.parameters),
        only_b=tuple(name for name in b.parameters if name not in a.parameters),
        identities={name: (x, y) for name, (x, y) in known.items() if x is not None and y is not None and x != y},
        epochs=tuple((entry, later[entry.epoch]) for entry in a.history if entry.epoch in later),
    )


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], *, place: Set[str] = PLACE
) -> dict[str, tuple[Any, Any]]:
    """Parameters that both record with different values, by name: (theirs, ours)."""
    return {
        name: (theirs[name], ours[name])
        for name in ours
        if name in theirs and name not in place and not same(theirs[name], ours[name])
    }


def same(one: Any, other: Any) -> bool:
    """Whether two values of a parameter mean the same: "2e-05" and 0.00002 do."""
    return bool(normal_form(one) == normal_form(other))


def percent(value: float | None) -> str:
    """An accuracy in a sentence.

    >>> percent(0.794), percent(0.8176), percent(None)
    ('79.4 %', '81.76 %', 'no accuracy')
    """
    if value is None:
        return "no accuracy"
    return f"{value * 100:.2f}".rstrip("0").rstrip(".") + " %"


def shown(value: Any) -> str:
    """A parameter's value in a sentence."""
    return (
        "not set" if value in (None, [], ()) else "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    )


def _likeness(proposal: Proposal, attempt: Attempt) -> Likeness:
    ours = {name: normal_form(value) for name, value in proposal.parameters.items()}
    theirs = attempt.parameters
    if attempt.origin is None and attempt.parent is None:
        theirs = {**dict.fromkeys(PARENTS), **theirs}  # a run's own record without a parent means that there was none
    asleep = {name for name, (governor, values) in ONLY_WITH.items() if ours.get(governor) not in (None, *values)}
    passed_over = PLACE | asleep
    differing = differences(ours, theirs, place=passed_over)
    differing |= {
        name: (value, None)
        for name, value in theirs.items()
        if value is not None and name not in ours and name not in passed_over
    }
    unrecorded = [name for name in ours if name not in theirs and name not in passed_over and name not in PARENTS]
    unrecorded += _parent_unrecorded(ours, theirs)
    notes = _by_identity(proposal, attempt, ours, differing, unrecorded)
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
        return Likeness(attempt, "near", differing, tuple(unrecorded), None, None, notes)
    epoch = min(attempt.reached, shared, int(ours.get("num_epochs") or attempt.reached)) or None
    stood = _at(attempt.history, epoch)
    return Likeness(
        attempt,
        "retraced" if differing else "identical",
        differing,
        tuple(unrecorded),
        epoch,
        None if stood is None else stood.val_accuracy,
        notes,
    )


def _by_identity(
    proposal: Proposal,
    attempt: Attempt,
    ours: Mapping[str, Any],
    differing: dict[str, tuple[Any, Any]],
    unrecorded: list[str],
) -> tuple[str, ...]:
    """Compare data set, base and parent by digest if both sides have one, else by name; returns the doubts."""
    notes = []
    for name, our_digest, their_digest in (
        ("dataset", proposal.dataset, attempt.dataset),
        ("base", proposal.base, attempt.base),
    ):
        our_name, their_name = ours.get(name), attempt.parameters.get(name)
        if our_digest and their_digest:
            differing.pop(name, None)
            if name in unrecorded:
                unrecorded.remove(name)
            if our_digest != their_digest:
                differing[name] = (_named(their_name, their_digest), _named(our_name, our_digest))
        elif our_name is not None and their_name is not None and _basename(our_name) == _basename(their_name):
            differing.pop(name, None)
            notes.append(f"its {name} was compared by name only")
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
        notes.append(f"it is unknown whether {named} is the same file, because its digest is unknown")
    return tuple(notes)


def _parent_unrecorded(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """A log that names neither checkpoint may have had one; a log that names one of them had no other."""
    return [name for name in PARENTS if ours.get(name) and not any(other in theirs for other in PARENTS)]


def _warm_up(parameters: Mapping[str, Any]) -> int:
    """Epochs in which a falling schedule does not yet depend on the number of epochs."""
    return int(parameters.get("warmup_epochs") or 0)


def _unborn(attempt: Attempt) -> bool:
    """It ended before its first epoch, so it has no result."""
    ended = attempt.status in ("failed", "killed", "interrupted")
    return ended and attempt.origin is None and not attempt.history


def _distance(likeness: Likeness) -> tuple[int, int, int]:
    path = sum(name not in LATER for name in likeness.differing)
    return path, len(likeness.differing), len(likeness.unrecorded)


def _at(history: Iterable[Evaluated], epoch: int | None) -> Evaluated | None:
    """The last evaluation up to an epoch."""
    stated = [e for e in history if e.val_accuracy is not None and epoch is not None and (e.epoch or 0) <= epoch]
    return stated[-1] if stated else None


def _basename(name: Any) -> str:
    return str(name).rstrip("/").rpartition("/")[2]


def _named(name: Any, digest: str) -> str:
    short = digest.removeprefix("sha256:")[:8]
    return short if name is None else f"{name} ({short})"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    if more <= 1:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {more} more"
