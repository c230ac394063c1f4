"""A change: the staged files, compared with the base branch that they are to be merged into."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from drgate import limits
from drgate.errors import PolicyError, RepositoryError, visible
from drgate.gate.findings import RULES, Finding
from drgate.gate.policy import Policy, Rules, find_policy, load_policy, load_rules, matches, reaches_below
from drgate.gate.repository import DVC, LINK, REGULAR, Content, Entry, Repository, Tree, open_repository
from drgate.gate.sniff import HEAD, SMALLEST, kind_of, names_model

_BY_NAME: Final = re.compile(r"(readme|license).*|\.gitattributes|\.gitignore|\.gitkeep", re.IGNORECASE)
"""Names of files that may be in a guarded folder, if they do not look like a model."""


@dataclass(frozen=True, slots=True)
class Change:
    """What the gate judges. base: the base branch. head: the staged files. now: for ages and expiry dates (aware).

    notes: sentences for the report that decide nothing; parts of the gate add to them.
    """

    repository: Repository
    base: Tree
    head: Tree
    now: datetime
    notes: list[str] = field(default_factory=list)

    def rules(self, given: str | None) -> tuple[Rules | None, Rules, str]:
        """The rules of the base branch (None where it has no policy), those of the change, and the policy's path.

        given: a path instead of drgate.toml or pyproject.toml. Raises DrgateError where rules are missing or invalid.
        """
        ours, theirs = find_policy(self.base, given), find_policy(self.head, given)
        if theirs is None:
            gone = f"the change removes {ours}." if ours else "write one first (docs/gate.md)."
            raise PolicyError(f"There is no policy{visible(f' {given}' if given else '')} in {self.head.name}: {gone}")
        before = None if ours is None else load_rules(self.base, load_policy(self.base, ours))
        return before, load_rules(self.head, load_policy(self.head, theirs)), theirs


@contextlib.contextmanager
def open_change(folder: Path, base_ref: str, now: datetime) -> Iterator[Change]:
    """The staged files of the repository around `folder`, to be merged into `base_ref`."""
    with open_repository(folder) as repository:
        yield Change(repository, repository.commit(base_ref), repository.staged(), now)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that is a model or might be one.

    entry: the file itself, or the DVC file in its place. kind: the format that its content begins like, where that is
    one of models and nothing else tells.
    """

    path: str
    entry: Entry
    content: Content
    kind: str = ""

    def is_subject(self, subject: Mapping[str, Any]) -> bool:
        """Whether it is this subject of a statement: by SHA-256, or by MD5 and size where a pointer has no SHA-256."""
        if subject["annotations"]["size"] != self.content.size:
            return False
        digests = subject["digest"]
        if self.content.sha256:
            return bool(digests["sha256"] == self.content.sha256)
        return bool(self.content.md5) and digests.get("md5") == self.content.md5


class Files:
    """The files of a change that are models, are in a guarded folder, or look like a model, also through a pointer.

    findings: files that cannot be read (such a DVC file could be any model), links and submodules in place of a model,
    and patterns without a file.

    Raises RepositoryError where there are too many.
    """

    def __init__(self, change: Change, policy: Policy, policy_before: Policy) -> None:
        self.by_path: dict[str, list[ModelFile]] = {}
        self.findings: list[Finding] = []
        self._head = change.head
        search = _Search(change.head, policy)
        for path in sorted(change.head.entries):
            inner = path.removesuffix(DVC)
            try:
                for file in search.at(path):
                    self.by_path.setdefault(file.path, []).append(file)
            except RepositoryError as problem:
                if not policy.exempts(path):
                    self.findings.append(Finding(inner, f"model:{inner}", "identity", "REFUSED", str(problem)))
            if len(self.by_path) + len(self.findings) > limits.SUSPECTED_FILES:
                break
        if len(self.by_path) > limits.SUSPECTED_FILES or sum(map(policy.guards, self.by_path)) > limits.GUARDED_FILES:
            raise RepositoryError(
                f"More than {limits.GUARDED_FILES} files match the policy's models, or more than "
                f"{limits.SUSPECTED_FILES} are in a guarded folder or look like models. List what is none in "
                "not_models."
            )
        for pattern in policy.models:
            if not any(matches(pattern, path) for path in self.by_path):
                reason = f"No file matches the pattern {pattern!r}, so it guards nothing. Correct or remove it."
                self.findings.append(Finding(RULES, "policy:models", f"models {pattern}", "REFUSED", reason))
        models = [entry for path, entry in change.base.entries.items() if _is_guarded(change.base, path, policy_before)]
        folders = {posixpath.dirname(entry.path) for entry in models}
        self._known = {entry.oid for entry in models}
        self._beside = {entry.oid for path, entry in change.base.entries.items() if posixpath.dirname(path) in folders}

    def at(self, path: str) -> Sequence[ModelFile]:
        """The files at a path; they need not look like a model, such as the file of its preprocessing."""
        if found := self.by_path.get(path):
            return found
        entry = self._head.entries.get(path)
        with contextlib.suppress(RepositoryError):  # a link or a damaged pointer: the file is not there
            return () if entry is None else (ModelFile(path, entry, self._head.content(entry)),)
        return ()

    def is_changed(self, model: ModelFile, companions: Iterable[ModelFile]) -> bool:
        """Whether the base branch does not have the model among its guarded files, or a companion beside one of them.

        The name does not matter. A file from anywhere else on the base branch was never judged, so it is a change.
        """
        return model.entry.oid not in self._known or not self._beside.issuperset(one.entry.oid for one in companions)


class _Search:
    """Which files of a tree the gate must know. Content is looked at in large files alone, and only where it begins."""

    def __init__(self, head: Tree, policy: Policy) -> None:
        self._head, self._policy = head, policy
        files = (entry for entry in head.entries.values() if entry.mode in REGULAR)
        apart = (file.oid for file in files if not (policy.exempts(file.path) or policy.guards(file.path)))
        sizes = head.repository.sizes(apart)
        self._kinds = {
            oid: kind
            for oid, size in sizes.items()
            if size >= SMALLEST and (kind := kind_of(head.repository.head(oid, HEAD), size))
        }

    def at(self, path: str) -> Iterator[ModelFile]:
        """The file at a path, or those that a DVC file stands for."""
        entry, policy = self._head.entries[path], self._policy
        if path.endswith(DVC) and entry.mode in REGULAR:
            for name, content in self._head.tracked_by_dvc(entry).items():
                if self._must_know(name) or names_model(name, content.size):
                    yield ModelFile(name, entry, content)
        elif policy.exempts(path):
            return
        elif self._must_know(path) or path.endswith(DVC) or (entry.mode not in REGULAR and self._leads(entry)):
            yield ModelFile(path, entry, self._head.content(entry))
        elif entry.mode in REGULAR and (entry.oid in self._kinds or names_model(path, SMALLEST)):
            content = self._head.content(entry)
            if entry.oid in self._kinds or names_model(path, content.size):
                yield ModelFile(path, entry, content, self._kinds.get(entry.oid, ""))

    def _must_know(self, path: str) -> bool:
        policy = self._policy
        return policy.guards(path) or (policy.holds(path) and not _BY_NAME.fullmatch(posixpath.basename(path)))

    def _leads(self, entry: Entry) -> bool:
        """Whether a submodule could hold a guarded file, or a link leads to a model or out of the repository to one."""
        could = any(reaches_below(pattern, entry.path) for pattern in self._policy.models)
        if entry.mode != LINK:
            return could or names_model(entry.path)
        target = os.fsdecode(self._head.repository.head(entry.oid, limits.LINK_BYTES))
        resolved = posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), target))
        inside = resolved in self._head.entries or any(p.startswith(f"{resolved}/") for p in self._head.entries)
        looks = names_model(entry.path) or names_model(resolved) or self._policy.guards(resolved)
        return looks or len(target) >= limits.LINK_BYTES or (could and not inside)


def _is_guarded(base: Tree, path: str, policy: Policy) -> bool:
    """Whether a file of the base branch is guarded, or points to one that is."""
    names: Iterable[str] = [path]
    if path.endswith(DVC):
        try:
            names = base.tracked_by_dvc(base.entries[path])
        except RepositoryError:
            return False
    return any(policy.guards(name) for name in names) and not policy.exempts(path)
