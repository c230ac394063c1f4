"""The policy of a repository: which models the gate guards, the checklist, the test sets, and the trusted keys.

    policy = parse_policy(data, "drgate.toml")        # [gate] in drgate.toml, [tool.drgate.gate] in pyproject.toml
    rules = load_rules(tree, policy)                  # with the checklist, keys and revocations that it names
    for change in compare(rules_of_base, rules): ...  # what became weaker

All paths are relative to the root of the repository and stay inside it. What the policy names is read from the same
tree as the policy itself.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from drgate import checklist_diff, limits
from drgate.certificate.keys import MAX_KEY_BYTES, PublicKey, parse_public_key
from drgate.certificate.trust import Revocations, parse_revocations, refuse_shared_keys
from drgate.checklist import EACH, Checklist, Criterion, parse_yaml, refuse_impostor
from drgate.errors import ChecklistError, PolicyError, visible
from drgate.files import csv_header, digest_of, parse_toml
from drgate.gate.repository import Tree
from drgate.gate.sniff import plain_path
from drgate.line_ends import read_as_written
from drgate.metrics import MetricId

FILE: Final = "drgate.toml"
PYPROJECT: Final = "pyproject.toml"
FETCHING: Final = (".lfsconfig", ".dvc/config", ".dvc/config.local")
"""Files that say where Git LFS and DVC get files from, and what they fetch."""
_WIDER: Final = ("not_models", "allow", "scorers")
"""Keys that let more through with every entry."""
_EXPECTED: Final = "a policy: [gate] in drgate.toml or [tool.drgate.gate] in pyproject.toml (docs/gate.md)"


def _inside(path: str) -> str:
    parts = path.split("/")
    if not path.isprintable() or "\\" in path or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            f"{visible(path)!r} is not a path inside the repository; write it from the root, with /, without . and .."
        )
    if len(path) > limits.PATTERN:
        raise ValueError(f"it begins with {visible(path[:40])!r} and is longer than {limits.PATTERN} characters")
    if parts[0].casefold() == ".git":
        raise ValueError(f"{path!r} is in Git's own folder, which is not under version control")
    return path


RepositoryPath = Annotated[str, AfterValidator(_inside)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Role = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class GatedTestSet(_Frozen):
    """A test set that every model must be evaluated on."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    manifest_digest: Digest
    """Digest of the manifest with its images, as a certificate records it."""
    looks: RepositoryPath
    """File with its chain of looks."""
    manifest: RepositoryPath | None = None
    """Its labels (CSV), if they are in the repository: a change of this file is then a change of the test set. Whether
    they belong to `manifest_digest` cannot be checked here, because that digest covers the images too."""


class Policy(_Frozen):
    """The table `[gate]`. See docs/gate.md."""

    models: Annotated[list[RepositoryPath], Field(min_length=1, max_length=limits.PATTERNS)]
    """Patterns of files that are models: * within a folder, ** across folders, ? for one character."""
    not_models: Annotated[list[RepositoryPath], Field(max_length=limits.PATTERNS)] = []
    """Patterns of files that look like models but are not, such as base weights for training."""
    allow: list[Literal["observed", "scored_elsewhere"]] = []
    """What else opens the gate: a verdict OBSERVED; predictions that no scorer of the policy signed."""
    scorers: list[Role] = []
    """Roles whose keys may sign a scored table; without any, only an evaluation that scored in the same run counts."""
    certificates: RepositoryPath = "certificates"
    """Folder of certificates and predictions; file names do not matter."""
    waivers: RepositoryPath = "waivers"
    allow_md5_pointers: bool = False
    spec: RepositoryPath
    trusted_keys: Annotated[dict[Role, Annotated[list[RepositoryPath], Field(min_length=1)]], Field(min_length=1)]
    required_roles: Annotated[list[Role], Field(min_length=1)]
    required_count: int | None = Field(default=None, ge=1)
    """How many of the required roles must sign; by default all."""
    revoked: list[str] = []
    """One entry each: a key id or the digest of a statement, then the reason."""
    max_age_days: int = Field(default=365, ge=1, le=36_500)
    require_predictions: bool = True
    test_sets: Annotated[list[GatedTestSet], Field(min_length=1, max_length=limits.PATTERNS)]

    @property
    def signers(self) -> int:
        """How many of the required roles must sign."""
        return self.required_count or len(self.required_roles)

    def is_met_by(self, roles: Iterable[str]) -> bool:
        """Whether enough of the required roles are among `roles`."""
        return len({*roles} & {*self.required_roles}) >= self.signers

    def guards(self, path: str) -> bool:
        """Whether a file is one of the guarded models."""
        return any(matches(pattern, path) for pattern in self.models)

    def holds(self, path: str) -> bool:
        """Whether a file is in a guarded folder, and not one of the policy's own: evidence, waivers, keys, labels."""
        place = plain_path(path)  # on some systems Models and models are one folder
        if not any(place.startswith(folder) for folder in map(_below, self.models) if folder):
            return False
        named = [self.spec, *(key for keys in self.trusted_keys.values() for key in keys)]
        named += [one.looks for one in self.test_sets]
        # Nothing else reads what is in the labels, so that any file could be named as such.
        named += [one.manifest for one in self.test_sets if one.manifest and one.manifest.endswith(".csv")]
        return path not in named and not path.startswith((f"{self.certificates}/", f"{self.waivers}/"))

    def keeps(self, path: str) -> bool:
        """Whether a path is in a folder of evidence or waivers, where files are not compared with any list."""
        place = plain_path(path)
        return place.startswith(tuple(f"{plain_path(folder)}/" for folder in (self.certificates, self.waivers)))

    def exempts(self, path: str) -> bool:
        """Whether a file is declared not to be a model."""
        return any(matches(pattern, path) for pattern in self.not_models)

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if len({*self.required_roles}) != len(self.required_roles):
            raise ValueError("required_roles lists a role twice")
        if unknown := [role for role in self.required_roles if role not in self.trusted_keys]:
            raise ValueError(f"the role {unknown[0]!r} is required but has no trusted key")
        if unknown := [role for role in self.scorers if role not in self.trusted_keys]:
            raise ValueError(f"the role {unknown[0]!r} may score but has no trusted key")
        if self.signers > len(self.required_roles):
            raise ValueError("required_count is larger than the number of required roles")
        names = [one.name for one in self.test_sets]
        digests = [one.manifest_digest for one in self.test_sets]
        if len({*names}) != len(names) or len({*digests}) != len(digests):
            raise ValueError("two test sets share a name or a manifest_digest")
        return self


@dataclass(frozen=True)
class Rules:
    """A policy with everything that it names, read from one tree.

    trusted: keys by role. manifests: labels by test set, where the policy has a path to them. fetching: SHA-256 of the
    files that say where Git LFS and DVC get files from, by path. digest: over all of this.
    """

    policy: Policy
    checklist: Checklist = field(repr=False)
    trusted: Mapping[str, tuple[PublicKey, ...]] = field(repr=False)
    revocations: Revocations = field(repr=False)
    manifests: Mapping[str, bytes] = field(repr=False)
    fetching: Mapping[str, str] = field(default_factory=dict, repr=False)

    @functools.cached_property
    def digest(self) -> str:
        keys = {role: sorted(key.id for key in found) for role, found in self.trusted.items()}
        labels = {name: hashlib.sha256(data).hexdigest() for name, data in self.manifests.items()}
        return digest_of(
            [self.policy.model_dump(mode="json"), self.checklist.digest, keys, labels, dict(self.fetching)]
        )


@dataclass(frozen=True, slots=True)
class RuleChange:
    """One difference between the rules of the base branch and those of the change.

    kind: a weaker rule needs a waiver. id: how a waiver names it, such as `spec:sensitivity:pdr` or
    `policy:max_age_days`. was, now: digests of this part before and after; "" where there is none.
    """

    kind: Literal["weaker", "stronger", "neutral"]
    id: str
    sentence: str
    was: str = ""
    now: str = ""


def find_policy(tree: Tree, given: str | None) -> str | None:
    """The path of the policy in a tree: `given`, drgate.toml, or a pyproject.toml that holds one; else None.

    Raises PolicyError where both files hold one.
    """
    if given is not None:
        try:
            return _inside(given) if tree.has(given) else None
        except ValueError as problem:
            raise PolicyError(f"--policy {problem}.") from problem
    own = tree.has(FILE)
    shared = tree.has(PYPROJECT) and _table(_read(tree, PYPROJECT), PYPROJECT) is not None
    if own and shared:
        raise PolicyError(f"Both {FILE} and {PYPROJECT} in {tree.name} hold a policy; keep one.")
    return FILE if own else PYPROJECT if shared else None


def load_policy(tree: Tree, path: str) -> Policy:
    """The policy in a file of a tree."""
    return parse_policy(_read(tree, path), path, tree.name)


def parse_policy(data: bytes, path: str, where: str = "") -> Policy:
    """The policy in TOML bytes: `[tool.drgate.gate]` in a file named pyproject.toml, otherwise `[gate]`.

    Raises PolicyError, naming the key.
    """
    origin = f"{path} in {where}" if where else path
    content = _table(data, path, origin)
    if content is None:
        raise PolicyError(f"{origin} holds no policy; expected {_EXPECTED}.")
    try:
        return Policy.model_validate(content)
    except ValidationError as problem:
        first = min(problem.errors(), key=lambda error: error["type"] != "extra_forbidden")
        if first["loc"] == ("test_sets",) and first["type"] == "missing":
            raise PolicyError(
                visible(
                    f"{origin} states no test set ([[gate.test_sets]]), so nothing can be judged. Of an evaluation: "
                )
                + "drgate submit REPORT --test-set NAME."
            ) from problem
        place = ".".join(str(part) for part in first["loc"])
        what = "this key does not exist" if first["type"] == "extra_forbidden" else first["msg"]
        message = what.removeprefix("Value error, ")
        raise PolicyError(visible(f"{origin}: {place + ': ' if place else ''}{message}.")) from problem


def how_to_replace(test_set: str, given: str = "--data FRESH_TEST_SET") -> str:
    """The command that states another test set in place of this one."""
    return f"drgate init {given} --replaces {test_set}"


def load_rules(tree: Tree, policy: Policy) -> Rules:
    """The policy with its checklist, keys, revocations and labels, read from the same tree.

    Raises DrgateError where one of them is missing or invalid.
    """
    checklist = gating_checklist(tree.read(policy.spec, limit=limits.YAML_BYTES, what="a checklist"), policy.spec)
    trusted = {
        role: tuple(
            read_as_written(
                parse_public_key,
                tree.read(path, limit=MAX_KEY_BYTES, what="a public key"),
                f"{path} in {tree.name}",
            )
            for path in paths
        )
        for role, paths in policy.trusted_keys.items()
    }
    refuse_shared_keys(trusted)
    labels = {
        one.name: tree.read(one.manifest, limit=limits.MANIFEST_BYTES, what="the labels of a test set")
        for one in policy.test_sets
        if one.manifest is not None
    }
    found = (path for path in tree.entries if path.casefold() in FETCHING)
    what = "settings of Git LFS or DVC"
    fetching = {
        path: hashlib.sha256(tree.read(path, limit=limits.LIST_BYTES, what=what)).hexdigest() for path in sorted(found)
    }
    revocations = parse_revocations(policy.revoked, f"revoked in {tree.name}")
    return Rules(policy, checklist, trusted, revocations, labels, fetching)


@functools.lru_cache(maxsize=4)  # base branch and change mostly share it, and YAML is slow
def gating_checklist(data: bytes, origin: str) -> Checklist:
    """The checklist in YAML bytes. Raises DrgateError for one that certifies nothing."""
    checklist = parse_yaml(data, origin)
    refuse_impostor(checklist, origin)
    if checklist.purpose == "pipeline":
        raise PolicyError(
            f"{origin}: the checklist {checklist.name} only tests a pipeline and certifies nothing; use a clinical one."
        )
    return checklist


def compare(base: Rules, head: Rules) -> tuple[RuleChange, ...]:
    """What the change does to the rules of the base branch, weaker ones first.

    `weaker` is every change that could let more models through, even if it also excludes some. Moving files is neutral.
    """
    order = ("weaker", "stronger", "neutral")
    changes = [
        *_settings(base, head),
        *_trust(base, head),
        *_test_sets(base, head),
        *_fetching(base, head),
        *_checklist_of(base, head),
    ]
    return tuple(sorted(changes, key=lambda change: order.index(change.kind)))


def part_digest(rules: Rules, id: str) -> str:
    """The digest of the part of the rules with this id (see `RuleChange`); "" where there is no such part."""
    kind, _, where = id.partition(":")
    part = _checklist_part(rules.checklist, where) if kind == "spec" else _policy_part(rules, where)
    return "" if part is None else digest_of([id, part])


def every_criterion(checklist: Checklist) -> list[Criterion]:
    """The criteria of a checklist; those for each value of a column once, as `@column=each`."""
    return checklist.each_criterion({one.by: [EACH] for one in checklist.slices})


def each_slice(id: MetricId) -> MetricId:
    """The `@column=each` that a criterion on one value of a column comes from; other ids as they are."""
    return id.but(value=EACH) if id.column else id


@functools.lru_cache(maxsize=1 << 16)
def matches(pattern: str, path: str) -> bool:
    """Whether a path from the root matches a pattern. Takes at most time in proportion to the product of their lengths.

    >>> [matches("models/*.pth", path) for path in ("models/a.pth", "models/old/a.pth")]
    [True, False]
    >>> [matches("models/**/*.pth", path) for path in ("models/a.pth", "models/old/a.pth")]
    [True, True]
    """
    compiled = _compiled(pattern)
    if not path.endswith(compiled.ending):  # most files are told apart by this alone
        return False
    return bool(compiled.reached(path) >> compiled.length & 1)


def reaches_below(pattern: str, folder: str) -> bool:
    """Whether a path below a folder could match a pattern.

    >>> [reaches_below("models/**/*.pth", folder) for folder in ("models", "models/old", "docs")]
    [True, True, False]
    """
    return bool(_compiled(pattern).reached(f"{folder}/"))


@functools.cache
def folder_of(pattern: str) -> str:
    """The folder of a pattern up to its first wildcard; "" for the root, which is no guarded folder.

    >>> [folder_of(pattern) for pattern in ("models/dr/*.pth", "models/v?/a.pth", "models/a.pth", "*.pth", "**/a.pth")]
    ['models/dr', 'models', 'models', '', '']
    """
    return re.split(r"[*?]", pattern, maxsplit=1)[0].rpartition("/")[0]


@functools.cache
def _below(pattern: str) -> str:
    """What plain paths in the folder of a pattern begin with; "" for the root."""
    folder = folder_of(pattern)
    return f"{plain_path(folder)}/" if folder else ""


def _parts(pattern: str) -> list[str]:
    """Literal characters and wildcards; `**/` takes two places: between folders, and inside the name of one.

    Of wildcards side by side those are left out that add nothing.
    """
    found: list[str] = []
    for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern):
        if part not in ("**/", "**", "*"):
            found += [part] if part == "?" else part
            continue
        while part == "**" and found and found[-1] in ("*", "inside"):
            del found[-1 if found[-1] == "*" else -2 :]
        if found and (found[-1] == "**" or (found[-1] == "inside" and part == "**/")):
            continue
        found += ["**/", "inside"] if part == "**/" else [part]
    return found


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A pattern. A set of its places is a number with a bit for each, so that all are followed at once.

    prefix: characters before the first wildcard. ending: those of the last name after the last one. length: of all
    places. exact: places of each character. any, folders, inside, one, name: places of **, **/ (two), ? and *.
    """

    prefix: str
    ending: str
    length: int
    exact: Mapping[str, int]
    any: int
    folders: int
    inside: int
    one: int
    name: int

    def reached(self, text: str) -> int:
        """The places that reading `text` can lead to, so that there is nothing to go back to."""
        begun = min(len(self.prefix), len(text))
        if text[:begun] != self.prefix[:begun]:
            return 0
        places = self._skipping(1 << begun)
        for character in text[begun:]:
            same = self.exact.get(character, 0)
            if character == "/":
                places = places & self.any | (places & self.inside) >> 1 | (places & same) << 1
            else:
                stay = self.any | self.inside | self.name
                places = places & stay | (places & (same | self.folders | self.one)) << 1
            if not places:
                break
            places = self._skipping(places)
        return places

    def _skipping(self, places: int) -> int:
        """These places and those behind wildcards that may stand for nothing."""
        while True:
            more = places | (places & (self.any | self.name)) << 1 | (places & self.folders) << 2
            if more == places:
                return places
            places = more


@functools.cache
def _compiled(pattern: str) -> _Compiled:
    parts = _parts(pattern)
    at: dict[str, int] = {}
    for place, part in enumerate(parts):
        at[part] = at.get(part, 0) | 1 << place
    wildcards = [at.pop(part, 0) for part in ("**", "**/", "inside", "?", "*")]
    texts = re.split(r"[*?]", pattern)
    return _Compiled(texts[0], texts[-1].rpartition("/")[2], len(parts), at, *wildcards)


# -- reading -----------------------------------------------------------------------------------------------------------


def _read(tree: Tree, path: str) -> bytes:
    return tree.read(path, limit=limits.TOML_BYTES, what=_EXPECTED)


def _table(data: bytes, path: str, origin: str = "") -> dict[str, Any] | None:
    """The table with the policy in a TOML file; None where there is none."""
    content: Any = parse_toml(data, visible(origin or path), _EXPECTED, PolicyError)
    keys = ("tool", "drgate", "gate") if PurePosixPath(path).name == PYPROJECT else ("gate",)
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else None


# -- comparing ---------------------------------------------------------------------------------------------------------


def _change(weaker: bool, id: str, sentence: str, base: Rules, head: Rules) -> RuleChange:
    kind: Literal["weaker", "stronger"] = "weaker" if weaker else "stronger"
    return RuleChange(kind, id, sentence, part_digest(base, id), part_digest(head, id))


def _settings(base: Rules, head: Rules) -> Iterator[RuleChange]:
    """The keys that name nothing else."""
    was, now = base.policy, head.policy
    required, demanded = {*was.required_roles}, {*now.required_roles}
    weaker = {
        "models": bool({*was.models} - {*now.models}),
        **{key: bool({*getattr(now, key)} - {*getattr(was, key)}) for key in _WIDER},
        "allow_md5_pointers": now.allow_md5_pointers,
        "require_predictions": was.require_predictions,
        "max_age_days": now.max_age_days > was.max_age_days,
        # The least that meets the new rule, with as many newly required roles as possible, must meet the old one.
        "required_roles": now.signers - len(demanded - required) < was.signers,
    }
    for key in weaker:
        before, after = _policy_part(base, key), _policy_part(head, key)
        if before != after:
            sentence = f"{key}: {_shown(before)} becomes {_shown(after)}."
            yield _change(weaker[key], f"policy:{key}", sentence, base, head)
    for key in ("certificates", "waivers"):
        if getattr(was, key) != getattr(now, key):
            yield RuleChange("neutral", f"policy:{key}", f"{key}: {getattr(was, key)} becomes {getattr(now, key)}.")


def _trust(base: Rules, head: Rules) -> Iterator[RuleChange]:
    """Keys by role, and revocations."""
    for role in sorted({*base.trusted, *head.trusted}):
        before, after = ({key.id for key in rules.trusted.get(role, ())} for rules in (base, head))
        id = f"policy:trusted_keys.{role}"
        if added := sorted(after - before):
            yield _change(True, id, f"A key is added for the role {role}: {', '.join(added)}.", base, head)
        elif gone := sorted(before - after):
            yield _change(False, id, f"A key is removed from the role {role}: {', '.join(gone)}.", base, head)
    was, now = base.revocations.reasons, head.revocations.reasons
    if gone := sorted({*was} - {*now}):
        yield _change(True, "policy:revoked", f"A revocation is removed: {', '.join(gone)}.", base, head)
    elif added := sorted({*now} - {*was}):
        yield _change(False, "policy:revoked", f"Revoked: {', '.join(added)}.", base, head)


def _test_sets(base: Rules, head: Rules) -> Iterator[RuleChange]:
    before = {one.name: one for one in base.policy.test_sets}
    after = {one.name: one for one in head.policy.test_sets}
    for name in dict.fromkeys([*before, *after]):
        id = f"policy:test_sets.{name}"
        was, now = (_test_set_part(rules, name) for rules in (base, head))
        if was is None:
            yield _change(False, id, f"Models must also pass on the test set {name}.", base, head)
        elif now is None:
            yield _change(True, id, f"The test set {name} is no longer required.", base, head)
        elif was["labels"] is None and was | {"labels": now["labels"]} == now and was != now:
            yield _change(False, id, f"The labels of {name} are now compared with a file.", base, head)
        elif was != now:
            yield _change(True, id, _swapped(name, was, now, base, head), base, head)
        elif before[name].looks != after[name].looks:
            yield RuleChange("neutral", id, f"{name}: its chain of looks is now {after[name].looks}.")


def _fetching(base: Rules, head: Rules) -> Iterator[RuleChange]:
    """Whatever changes may get another file, or none."""
    for path in sorted({*base.fetching, *head.fetching}):
        was, now = base.fetching.get(path), head.fetching.get(path)
        if was != now:
            done = "added" if was is None else "removed" if now is None else "changed"
            sentence = f"{path} is {done}: it says where Git LFS or DVC gets models from."
            yield _change(True, f"policy:{path}", sentence, base, head)


def _swapped(name: str, was: Mapping[str, Any], now: Mapping[str, Any], base: Rules, head: Rules) -> str:
    """How a test set of the same name differs."""
    found = []
    if was["manifest_digest"] != now["manifest_digest"]:
        found.append(f"it has other images or labels ({now['manifest_digest']}, not {was['manifest_digest']})")
    if was["labels"] != now["labels"]:
        columns = [_columns(rules.manifests.get(name)) for rules in (base, head)]
        if dropped := [column for column in columns[0] if column not in columns[1]]:
            found.append(f"its labels lose the column {', '.join(map(repr, dropped))}")
        else:
            found.append("its file of labels differs or is no longer named")
    return f"The test set {name} is replaced: {'; '.join(found)}."


def _columns(labels: bytes | None) -> list[str]:
    return csv_header(labels or b"")


def _checklist_of(base: Rules, head: Rules) -> Iterator[RuleChange]:
    for change in checklist_diff.diff(base.checklist, head.checklist):
        kind: Literal["weaker", "stronger", "neutral"] = "neutral"
        if change.kind == "weaker" or (change.kind == "different" and change.decides):
            kind = "weaker"
        elif change.kind == "stronger":
            kind = "stronger"
        id = f"spec:{change.where}"
        yield RuleChange(kind, id, change.sentence, part_digest(base, id), part_digest(head, id))
    try:
        checklist_diff.refuse_namesakes([base.checklist, head.checklist])
    except ChecklistError as problem:
        yield RuleChange("weaker", "spec:version", str(problem))


def _test_set_part(rules: Rules, name: str) -> dict[str, Any] | None:
    one = next((one for one in rules.policy.test_sets if one.name == name), None)
    if one is None:
        return None
    labels = rules.manifests.get(name)
    return {
        "manifest_digest": one.manifest_digest,
        "labels": None if labels is None else hashlib.sha256(labels).hexdigest(),
    }


def _policy_part(rules: Rules, where: str) -> Any:
    if where.casefold() in FETCHING:
        return rules.fetching.get(where)
    key, _, name = where.partition(".")
    policy = rules.policy
    parts: dict[str, Callable[[], Any]] = {
        "trusted_keys": lambda: sorted(key.id for key in rules.trusted.get(name, ())) or None,
        "test_sets": lambda: _test_set_part(rules, name),
        "revoked": lambda: sorted(rules.revocations.reasons),
        "required_roles": lambda: {"roles": sorted(policy.required_roles), "count": policy.signers},
        "models": lambda: sorted({*policy.models}),
        **{key: functools.partial(lambda key: sorted({*getattr(policy, key)}), key) for key in _WIDER},
        "allow_md5_pointers": lambda: policy.allow_md5_pointers,
        "require_predictions": lambda: policy.require_predictions,
        "max_age_days": lambda: policy.max_age_days,
    }
    return parts[key]() if key in parts else None


def _checklist_part(checklist: Checklist, where: str) -> Any:
    """One criterion with all that it takes from general settings, or one setting."""
    for criterion in every_criterion(checklist):
        if criterion.id == where:
            own = criterion.model_dump(mode="json", exclude_none=True)
            return {**own, "no_output": criterion.policy, "fewest": checklist.fewest_positives(criterion)}
    content = checklist.content()
    section, _, inner = where.partition(".")
    value = content.get(section)
    if section == "slices":
        return next((one for one in value or () if one["by"] == inner), None)
    return value.get(inner) if inner and isinstance(value, dict) else value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return f"{value['count']} of {', '.join(value['roles'])}"
    return str(value)
