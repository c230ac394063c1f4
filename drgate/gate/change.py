"""A change: the staged files, compared with the base branch that they are to be merged into."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

from drgate.errors import PolicyError, RepositoryError, visible
from drgate.gate.findings import RULES, Finding
from drgate.gate.policy import Policy, Rules, find_policy, load_policy, load_rules, matches
from drgate.gate.repository import DVC, Content, Entry, Repository, Tree, open_repository

MODEL_SUFFIXES: Final = (
    ".pth",
    ".pt",
    ".ckpt",
    ".safetensors",
    ".onnx",
    ".onnx.data",
    ".onnx_data",
    ".tflite",
    ".engine",
    ".keras",
    ".h5",
    ".pkl",
    ".joblib",
    ".pt2",
    ".ort",
    ".gguf",
    ".trt",
    ".plan",
    "pytorch_model.bin",
    "adapter_model.bin",
)
"""Files with these endings look like models. They close the gate where no pattern of the policy matches them."""


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
    """A file that is a model or looks like one. entry: the file itself, or the DVC file in its place."""

    path: str
    entry: Entry
    content: Content

    def is_subject(self, subject: Mapping[str, Any]) -> bool:
        """Whether it is this subject of a statement: by SHA-256, or by MD5 and size where a pointer has no SHA-256."""
        if subject["annotations"]["size"] != self.content.size:
            return False
        digests = subject["digest"]
        if self.content.sha256:
            return bool(digests["sha256"] == self.content.sha256)
        return bool(self.content.md5) and digests.get("md5") == self.content.md5


class Files:
    """The files of a change that are models or look like one, as themselves or through a pointer.

    findings: files that cannot be read (such a DVC file could be any model), and patterns without a file.
    """

    def __init__(self, change: Change, policy: Policy, policy_before: Policy) -> None:
        self.by_path: dict[str, list[ModelFile]] = {}
        self.findings: list[Finding] = []
        self._head = change.head
        for path in sorted(change.head.entries):
            inner = path.removesuffix(DVC)
            try:
                for file in _files_at(change.head, path, policy):
                    self.by_path.setdefault(file.path, []).append(file)
            except RepositoryError as problem:
                if not policy.exempts(path):
                    self.findings.append(Finding(inner, f"model:{inner}", "identity", "REFUSED", str(problem)))
        for pattern in policy.models:
            if not any(matches(pattern, path) for path in self.by_path):
                reason = f"No file matches the pattern {pattern!r}, so it guards nothing. Correct or remove it."
                self.findings.append(Finding(RULES, "policy:models", f"models {pattern}", "REFUSED", reason))
        models = [entry for path, entry in change.base.entries.items() if _is_guarded(change.base, path, policy_before)]
        folders = {PurePosixPath(entry.path).parent for entry in models}
        self._known = {entry.oid for entry in models}
        self._beside = {
            entry.oid for path, entry in change.base.entries.items() if PurePosixPath(path).parent in folders
        }

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


def _files_at(head: Tree, path: str, policy: Policy) -> Iterator[ModelFile]:
    entry = head.entries[path]
    if path.endswith(DVC):
        for name, content in head.tracked_by_dvc(entry).items():
            if policy.guards(name) or _looks_like_model(name):
                yield ModelFile(name, entry, content)
    elif (policy.guards(path) or _looks_like_model(path)) and not policy.exempts(path):
        yield ModelFile(path, entry, head.content(entry))


def _is_guarded(base: Tree, path: str, policy: Policy) -> bool:
    """Whether a file of the base branch is guarded, or points to one that is."""
    names: Iterable[str] = [path]
    if path.endswith(DVC):
        try:
            names = base.tracked_by_dvc(base.entries[path])
        except RepositoryError:
            return False
    return any(policy.guards(name) for name in names) and not policy.exempts(path)


def _looks_like_model(path: str) -> bool:
    return path.casefold().endswith(MODEL_SUFFIXES)
