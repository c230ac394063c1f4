"""A change: the staged files, compared with the base branch that they are to be merged into."""

from __future__ import annotations

import bisect
import contextlib
import functools
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
from drgate.gate.sniff import HEAD, SMALLEST, kind_of, names_model, plain_path
from drgate.vectors import OF_VECTORS, SUMS, VECTORS, is_sums, is_vectors, photographs

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
        self._places: dict[str, list[str]] | None = None
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
        for path in (path for path in self.by_path if policy.guards(path) and policy.keeps(path)):
            reason = (
                f"{path} is a model in a folder of certificates or waivers, where files are not compared with any "
                "list. Give these a folder of their own."
            )
            self.findings.append(Finding(path, f"model:{path}", "folder", "REFUSED", reason))
        for pattern in policy.models:
            if not any(matches(pattern, path) for path in self.by_path):
                reason = f"No file matches the pattern {pattern!r}, so it guards nothing. Correct or remove it."
                self.findings.append(Finding(RULES, "policy:models", f"models {pattern}", "REFUSED", reason))
        models = [entry for path, entry in change.base.entries.items() if _is_guarded(change.base, path, policy_before)]
        folders = {posixpath.dirname(entry.path) for entry in models}
        self._known = {entry.oid for entry in models}
        self._beside = {entry.oid for path, entry in change.base.entries.items() if posixpath.dirname(path) in folders}

    def in_place_of(self, path: str) -> Sequence[str]:
        """The files that some system or program could take for the one at a path, whatever they are."""
        if self._places is None:
            self._places = {}
            for one, entry in self._head.entries.items():
                names = [one]
                if one.endswith(DVC):
                    with contextlib.suppress(RepositoryError):
                        names = [*self._head.tracked_by_dvc(entry)]
                for name in names:
                    self._places.setdefault(plain_path(name), []).append(one)
        return self._places.get(plain_path(path), ())

    def at(self, path: str) -> Sequence[ModelFile]:
        """The files at a path, in Git and in DVC; they need not look like a model, such as its preprocessing."""
        found = [*self.by_path.get(path, ())]
        entry = self._head.entries.get(path)
        if entry is not None and all(one.entry != entry for one in found):
            try:
                found.append(ModelFile(path, entry, self._head.content(entry)))
            except RepositoryError:  # a link or a damaged pointer: the file is not there
                return ()
        return [*found, *(one for one in self._by_dvc.get(plain_path(path), ()) if one not in found)]

    @functools.cached_property
    def _by_dvc(self) -> dict[str, list[ModelFile]]:
        """The files that DVC files stand for, also those that do not look like a model, by `plain_path`."""
        found: dict[str, list[ModelFile]] = {}
        for path, entry in self._head.entries.items():
            if path.endswith(DVC) and entry.mode in REGULAR:
                with contextlib.suppress(RepositoryError):  # a finding names it
                    for name, content in self._head.tracked_by_dvc(entry).items():
                        found.setdefault(plain_path(name), []).append(ModelFile(name, entry, content))
        return found

    def is_changed(self, model: ModelFile, companions: Iterable[ModelFile]) -> bool:
        """Whether the base branch does not have the model among its guarded files, or a companion beside one of them.

        The name does not matter. A file from anywhere else on the base branch was never judged, so it is a change.
        """
        return model.entry.oid not in self._known or not self._beside.issuperset(one.entry.oid for one in companions)


class _Search:
    """Which files of a tree the gate must know. Content is looked at in large files alone, and only where it begins."""

    def __init__(self, head: Tree, policy: Policy) -> None:
        self._head, self._policy = head, policy
        self._sorted = sorted(head.entries)
        self._left = limits.THROUGH_LINKS
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
        elif policy.exempts(path) or self._is_of_bundle(path, entry):
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

    def _is_of_bundle(self, path: str, entry: Entry) -> bool:
        """Whether it is one of what a bundle has beside its model and no certificate names: SHA256SUMS and vectors/.

        None can hold a model: the photographs are those of drgate, byte for byte, and the texts are in a form that has
        no room for one.
        """
        folder, name = posixpath.split(path)
        of_vectors = posixpath.basename(folder) == VECTORS
        if name not in ((OF_VECTORS, *photographs()) if of_vectors else (SUMS,)) or entry.mode not in REGULAR:
            return False
        model = posixpath.join(posixpath.dirname(folder) if of_vectors else folder, "model.onnx")
        if self._policy.guards(path) or not self._policy.guards(model):
            return False
        if not {model, model + DVC} & self._head.entries.keys():
            return False
        try:
            content = self._head.content(entry)
        except RepositoryError:
            return False
        if name in photographs():
            return content.sha256 == photographs()[name]
        if content.kind != "file" or content.size > limits.YAML_BYTES:
            return False
        return (is_vectors if of_vectors else is_sums)(self._head.repository.read(entry.oid))

    def _leads(self, entry: Entry) -> bool:
        """Whether a submodule could hold a guarded file, or a link leads to a model or out of the repository to one."""
        could = any(reaches_below(pattern, entry.path) for pattern in self._policy.models)
        if entry.mode != LINK:
            return could or names_model(entry.path)
        repository = self._head.repository
        if repository.size(entry.oid) >= limits.LINK_BYTES:
            return True
        target = os.fsdecode(repository.read(entry.oid))
        resolved = posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), target))
        if names_model(entry.path) or names_model(resolved) or self._policy.guards(resolved):
            return True
        return could and resolved not in self._head.entries and self._leads_out(entry.path, resolved)

    def _leads_out(self, link: str, resolved: str) -> bool:
        """Whether a link to a folder leads out of the repository, or a guarded path through it to a file.

        A pattern that begins with **/ guards that file in its own place as well.
        """
        folder = "" if resolved == "." else f"{resolved}/"
        at = bisect.bisect_left(self._sorted, folder)
        if not (at < len(self._sorted) and self._sorted[at].startswith(folder)):
            return True
        patterns = [one for one in self._policy.models if not one.startswith("**/") and reaches_below(one, link)]
        while patterns and at < len(self._sorted) and (path := self._sorted[at]).startswith(folder):
            through = f"{link}/{path.removeprefix(folder)}"
            regular = self._head.entries[path].mode in REGULAR
            self._left -= 1
            if self._left < 0 or any(
                matches(one, through) or (not regular and reaches_below(one, through)) for one in patterns
            ):
                return True
            at += 1
        return False


def _is_guarded(base: Tree, path: str, policy: Policy) -> bool:
    """Whether a file of the base branch is guarded, or points to one that is."""
    names: Iterable[str] = [path]
    if path.endswith(DVC):
        try:
            names = base.tracked_by_dvc(base.entries[path])
        except RepositoryError:
            return False
    return any(policy.guards(name) for name in names) and not policy.exempts(path)
