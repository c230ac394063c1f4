"""What became weaker, stronger or merely different from one checklist to another, in words.

    for change in diff(load_checklist("medical-grade"), load_checklist("medical-grade-safe")):
        print(change.kind, change.sentence)

Pure. A change is `stronger` only if a model that fails the old checklist because of it cannot pass the new one,
`weaker` if such a model might pass, and `different` if neither is certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from drgate.checklist import EACH, RULE_WORDS, STABILITY_WINDOW, Checklist, Criterion
from drgate.errors import ChecklistError

Kind = Literal["weaker", "stronger", "different"]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two checklists."""

    kind: Kind
    where: str
    """The id of a criterion, or the key of a setting such as `evidence.level`."""
    sentence: str
    decides: bool = True
    """Whether a verdict can depend on it; false for what is only shown, declared or used for planning."""


def diff(old: Checklist, new: Checklist) -> tuple[Change, ...]:
    """The changes from `old` to `new`: the weaker first, then the stronger, then the others.

    Empty exactly where the two have the same content.
    """
    changes = [*_settings(old, new), *_slices(old, new), *_criteria(old, new)]
    if not changes and old.digest != new.digest:
        changes = [Change("different", "criteria", "The same criteria are written in another way or order.", False)]
    order: tuple[Kind, ...] = ("weaker", "stronger", "different")
    return tuple(sorted(changes, key=lambda change: order.index(change.kind)))


def refuse_namesakes(checklists: Sequence[Checklist]) -> None:
    """Raise ChecklistError where two checklists have one name and version and different contents."""
    seen: dict[tuple[str, int], str] = {}
    for checklist in checklists:
        if seen.setdefault((checklist.name, checklist.version), checklist.digest) != checklist.digest:
            raise ChecklistError(
                f"Two checklists with different contents have the name {checklist.name} and version "
                f"{checklist.version}; raise the version of one."
            )


def _settings(old: Checklist, new: Checklist) -> Iterator[Change]:
    """All but the slices and the criteria."""
    before, after = _leaves(old), _leaves(new)
    yield from _declared(old, new)
    for where in dict.fromkeys([*before, *after]):
        was, now = before.get(where), after.get(where)
        if where == "description" and was != now:
            yield Change("different", where, "The description changed.", False)
        elif was != now:
            kind, because, decides = _judged(where, was, now, old, new)
            yield Change(kind, where, f"{where}: {_shown(was)} becomes {_shown(now)}{because}.", decides)


def _declared(old: Checklist, new: Checklist) -> Iterator[Change]:
    """Test sets whose images of one patient are declared: the fewer of one, the narrower the intervals."""
    before, after = ({one.manifest: one.most for one in checklist.declared} for checklist in (old, new))
    decides = "bound" in (old.evidence.decide_on, new.evidence.decide_on)
    for digest in dict.fromkeys([*before, *after]):
        was, now = before.get(digest), after.get(digest)
        if was == now:
            continue
        kind: Kind = "weaker" if was is None or (now is not None and now < was) else "stronger"
        shown = [
            "nothing" if most is None else f"at most {most} image{'' if most == 1 else 's'} of a patient"
            for most in (was, now)
        ]
        yield Change(kind, "declared", f"declared of the test set {digest}: {shown[0]} becomes {shown[1]}.", decides)


def _leaves(checklist: Checklist) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in checklist.content().items():
        if key in ("declared", "slices", "criteria"):
            continue
        if isinstance(value, Mapping) and key != "deployment":
            flat |= {f"{key}.{inner}": leaf for inner, leaf in value.items()}
        else:
            flat[key] = value
    return flat


def _judged(where: str, was: Any, now: Any, old: Checklist, new: Checklist) -> tuple[Kind, str, bool]:
    """The kind of a changed setting, why, and whether a verdict can depend on it."""
    section = where.partition(".")[0]
    if section in ("name", "version", "planning", "intended_use", "reference", "test_set", "expect"):
        return "different", "", False
    bounds = old.evidence.decide_on == new.evidence.decide_on == "bound"
    match where:
        case "evidence.decide_on":
            if now == "point":
                return "weaker", ", which shows nothing for future patients", True
            return "stronger", ", the limit of the confidence interval", True
        case "evidence.level" if bounds:
            return ("weaker" if now < was else "stronger"), "", True
        case "evidence.interval" if bounds:
            if now == "wilson":
                return "weaker", ", which is narrower for most counts", True
            # Neither interval holds the other: for 95 of 95, and 96 of 97, Wilson's bound is the lower one.
            return "different", ", which is not always wider: near 1, Wilson's lower limit can be the lower one", True
        case "evidence.level" | "evidence.interval":
            return "different", "", "bound" in (old.evidence.decide_on, new.evidence.decide_on)
        case "looks":
            if now > was:
                return "weaker", ": more models may be tested, each at its share of the level", True
            if bounds:
                return "different", ": fewer models may be tested, each at a larger share of the level", True
            return "stronger", ": fewer models may be tested", True
        case "valid_days":
            if now is None or (was is not None and now > was):
                return "weaker", ": certificates are valid for longer", False
            return "stronger", ": certificates are valid for a shorter time", False
        case "all_comers_allowance":
            if now > was:
                return "weaker", ": more may be lost to images without output", True
            return "stronger", ": less may be lost to images without output", True
        case "readers_independent":
            decides = any(one.id.against == "readers" for checklist in (old, new) for one in checklist.criteria)
            if now:
                return "weaker", ": the readers are compared on the reference grades, which they may have made", decides
            return "different", ": each reader is compared on the grades of the others", decides
        case "audit.required":
            return ("stronger" if now else "weaker"), "", True
        case "deployment":
            decides = any(criterion.id.deployed for checklist in (old, new) for criterion in checklist.criteria)
            return "different", "; which mix is harder depends on the model" if decides else "", decides
        case "site_column":
            return "different", "; figures by site are shown, and no criterion is on them", False
        case "unit":
            return "different", "; which is harder depends on the model", True
        case "purpose":
            return "different", "; export and gate do not accept a certificate by a checklist for pipelines", True
    if section == "bootstrap":
        return "different", "", False
    return "different", "; which is stricter is not known", True


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(share)}" for key, share in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not given" if value in (None, "") else f"{value:.15g}" if isinstance(value, float) else str(value)


def _slices(old: Checklist, new: Checklist) -> Iterator[Change]:
    """Columns and groups; their fewest positives are compared with the criteria that use them."""
    before, after = {one.by: one for one in old.slices}, {one.by: one for one in new.slices}
    for column in dict.fromkeys([*before, *after]):
        where = f"slices.{column}"
        if column not in after:
            yield Change("different", where, f"Metrics are no longer shown by {column}.", False)
        elif column not in before:
            yield Change("different", where, f"Metrics are also shown by {column}.", False)
        else:
            was, now = before[column], after[column]
            asked = any(criterion.id.column == column for checklist in (old, new) for criterion in checklist.criteria)
            if was.groups != now.groups:
                yield Change("different", where, f"{column}: its values are grouped in another way.", asked)
            if was.min_positives != now.min_positives:
                shown = f"{was.min_positives} becomes {now.min_positives}"
                yield Change("different", where, f"{column}: the default of the fewest units: {shown}.", False)
    if [*before] != [*after] and {*before} == {*after}:
        yield Change("different", "slices", "The slices are in another order.", False)


def _criteria(old: Checklist, new: Checklist) -> Iterator[Change]:
    # `@column=each` keeps its own id next to its declared groups: it is also about undeclared values.
    before, after = (
        {
            criterion.id: criterion
            for criterion in checklist.each_criterion({one.by: [EACH] for one in checklist.slices})
        }
        for checklist in (old, new)
    )
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            was = before[name]
            yield Change("weaker", name, f"{name}: {_asked(was)} ({_weight(was)}) is removed.")
        elif name not in before:
            now = after[name]
            yield Change("stronger", name, f"{name}: {_asked(now)} ({_weight(now)}) is added.")
        else:
            yield from _line(before[name], after[name], old, new)


def _line(was: Criterion, now: Criterion, old: Checklist, new: Checklist) -> Iterator[Change]:
    """One criterion that both checklists have."""
    name = now.id
    if _rule(was) != _rule(now):
        yield Change(_threshold(was, now), name, f"{name}: {_asked(was)} becomes {_asked(now)}.")
    if was.required != now.required:
        kind: Kind = "stronger" if now.required else "weaker"
        yield Change(kind, name, f"{name}: {_weight(was)} becomes {_weight(now)}.")
    if was.policy != now.policy:
        kind = _policy(was, now)
        yield Change(kind, name, f"{name}: images without output were {_policy_words(was)}, now {_policy_words(now)}.")
    windows = was.window or STABILITY_WINDOW, now.window or STABILITY_WINDOW
    if windows[0] != windows[1]:
        # Of two windows the longer holds the shorter, so its range is at least as large.
        kind = "weaker" if windows[1] < windows[0] else "stronger"
        yield Change(kind, name, f"{name}: the range is over {windows[1]} evaluations instead of {windows[0]}.")
    fewest = old.fewest_positives(was), new.fewest_positives(now)
    if fewest[0] != fewest[1]:
        # A required criterion that is not assessed stops a model; an advisory one does not.
        kind = "stronger" if now.required and was.required and fewest[1] > fewest[0] else "weaker"
        yield Change(kind, name, f"{name}: assessed with at least {fewest[1]} units instead of {fewest[0]}.")
    if was.reference_value != now.reference_value:
        shown = f"{_shown(was.reference_value)} becomes {_shown(now.reference_value)}"
        yield Change("different", name, f"{name}: the earlier figure shown for information: {shown}.", False)
    for key in ("added", "unit"):
        before, after = getattr(was, key) or "empty", getattr(now, key) or "empty"
        if before != after:
            yield Change("different", name, f"{name}: {key}: {before} becomes {after}.", False)


def _rule(criterion: Criterion) -> tuple[str, Fraction, float | None]:
    return criterion.comparator, criterion.exact_threshold, criterion.ceiling


def _threshold(was: Criterion, now: Criterion) -> Kind:
    """Which of two different thresholds or ranges of one metric lets more models through."""
    if was.ceiling is not None and now.ceiling is not None:
        if now.threshold <= was.threshold and was.ceiling <= now.ceiling:
            return "weaker"
        return "stronger" if was.threshold <= now.threshold and now.ceiling <= was.ceiling else "different"
    if was.upward != now.upward:
        return "weaker"  # a model that failed may pass now

    def height(criterion: Criterion) -> tuple[Fraction, bool]:
        return (1 if was.upward else -1) * criterion.exact_threshold, criterion.strict

    return "weaker" if height(now) < height(was) else "stronger"


def _policy(was: Criterion, now: Criterion) -> Kind:
    """Which of two ways to count images without output lets more models through, where that is certain."""
    about = now.id.about
    if not about.is_share or (about.better == "lower") == now.upward:
        return "different"  # nothing is certain for a kappa, or for a rule that prefers bad values
    ranks: dict[str, int] = {"excluded": 1, "worst_case": 2}
    if about.counted == "with":
        ranks["as_referred"] = 0  # an image without output is a hit here
    elif about.counted == "without":
        ranks["as_referred"] = 2  # and a false alarm, as in the worst case, here
    low, high = ranks.get(was.policy), ranks.get(now.policy)
    if low is None or high is None or low == high:
        return "different"
    return "weaker" if high < low else "stronger"


def _asked(criterion: Criterion) -> str:
    if criterion.margin is not None:
        return f"no more than {_shown(criterion.margin)} worse"
    if criterion.ceiling is not None:
        return f"between {_shown(criterion.threshold)} and {_shown(criterion.ceiling)}"
    return f"{RULE_WORDS[criterion.comparator]} {_shown(criterion.threshold)}"


def _weight(criterion: Criterion) -> str:
    return "required" if criterion.required else "advisory"


def _policy_words(criterion: Criterion) -> str:
    return {"excluded": "left out", "as_referred": "counted as referred", "worst_case": "counted as wrong"}[
        criterion.policy
    ]
