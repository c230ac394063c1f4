"""A Git repository as the gate reads it; what the gate makes of it stands in test_gate.py."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from drgate.errors import RepositoryError
from drgate.gate.repository import Content, open_repository
from tests.support.repositories import git_in


@pytest.fixture(params=["sha1", "sha256"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An empty repository, of either kind of object ids."""
    git_in(tmp_path, "init", "--quiet", "--initial-branch=main", f"--object-format={request.param}")
    return tmp_path


def commit(root: Path, **files: bytes) -> None:
    for name, content in files.items():
        (root / name).write_bytes(content)
    git_in(root, "add", "--all")
    git_in(root, "commit", "--quiet", "-m", "files")


def test_settings_of_the_environment_are_kept(root, monkeypatch):
    """Ours is one more: whoever calls may have trusted the folder that way."""
    (root / "new").write_bytes(b"one")
    (root / "ignored").write_text("new\n")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.excludesFile")
    for excludes, unknown in ((os.devnull, ["new"]), (str(root / "ignored"), [])):
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", excludes)
        with open_repository(root) as repository:
            assert repository.unstaged([], ["new"]) == unknown
    (root / "bare").mkdir()
    git_in(root / "bare", "init", "--quiet", "--bare")
    with pytest.raises(RepositoryError, match=r"safe\.bareRepository"), open_repository(root / "bare"):
        pass


def test_nothing_that_the_configuration_names_is_run(root, tmp_path_factory):
    """A monitor, hooks, filters, textconv, an external diff, what fetches missing objects, and an included file."""
    ran = tmp_path_factory.mktemp("outside") / "ran"
    commit(root, a=b"one", **{".gitattributes": b"* filter=evil diff=evil\n"})
    program = root / ".git/program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\ncat\n")
    program.chmod(0o755)
    (root / ".git/evil-hooks").mkdir()
    for hook in ("post-index-change", "fsmonitor-watchman", "reference-transaction"):
        (root / ".git/evil-hooks" / hook).symlink_to(program)
    included = root / ".git/included"
    included.write_text(
        f"[core]\n\tfsmonitor = {program}\n\thooksPath = {root}/.git/evil-hooks\n\tsshCommand = {program}\n"
        f'[filter "evil"]\n\tclean = {program}\n\tsmudge = {program}\n\tprocess = {program}\n\trequired = true\n'
        f'[diff "evil"]\n\ttextconv = {program}\n\tcommand = {program}\n[diff]\n\texternal = {program}\n'
        f'[remote "origin"]\n\turl = ext::{program}\n\tpromisor = true\n\tpartialCloneFilter = blob:none\n'
        f'[protocol "ext"]\n\tallow = always\n'
    )
    git_in(root, "config", "include.path", str(included))
    git_in(root, "config", "core.repositoryformatversion", "1")
    git_in(root, "config", "extensions.partialClone", "origin")
    os.utime(root / "a", (1, 1))  # its content has to be compared
    with open_repository(root) as repository:
        staged = repository.staged()
        assert repository.commit("main").read("a", limit=9, what="it") == b"one"
        assert repository.unstaged(["a"], ["b*"]) == []
        assert repository.contains(repository.resolve("main"))
        assert repository.sizes([staged.entries["a"].oid]) == {staged.entries["a"].oid: 3}
        assert repository.head(staged.entries["a"].oid, 2) == b"on"
        attributes = [staged.entries[".gitattributes"]]
        assert repository.attributes(attributes, ["a"], ["filter"], ignore_case=True) == {"a": {"filter": "evil"}}
        with pytest.raises(RepositoryError, match="clone it without --filter"):
            repository.size("1" * len(staged.entries["a"].oid))
    assert not ran.exists()
    with contextlib.suppress(subprocess.CalledProcessError):
        git_in(root, "status")  # the same configuration runs in Git itself, so the test tests something
    assert ran.exists()


def test_attributes_of_the_clone_do_not_count(root, tmp_path_factory, monkeypatch):
    """Those of the tree decide, whatever .git/info, the user's file or a variable says."""
    commit(root, a=b"one", **{".gitattributes": b"a ident\n"})
    (root / ".git/info").mkdir(exist_ok=True)
    (root / ".git/info/attributes").write_text("a -ident text\n")
    other = tmp_path_factory.mktemp("user") / "attributes"
    other.write_text("a -ident text\n")
    git_in(root, "config", "core.attributesFile", str(other))
    monkeypatch.setenv("GIT_ATTR_SOURCE", "HEAD~9")
    with open_repository(root) as repository:
        entries = [repository.staged().entries[".gitattributes"]]
        found = repository.attributes(entries, ["a"], ["ident", "text"], ignore_case=False)
    assert found == {"a": {"ident": "set", "text": "unspecified"}}


class TestTrees:
    def test_commit_and_what_is_staged(self, root):
        """Neither is the working tree."""
        commit(root, a=b"one")
        (root / "a").write_bytes(b"two")
        git_in(root, "add", "a")
        (root / "a").write_bytes(b"three")
        with open_repository(root) as repository:
            assert repository.commit("HEAD").read("a", limit=9, what="a") == b"one"
            assert repository.staged().read("a", limit=9, what="a") == b"two"
            assert repository.unstaged(["a"], []) == ["a"]
            assert repository.unstaged([], ["b*"]) == []

    def test_names_of_any_bytes(self, root):
        """Newlines, quotes, tabs, and what is no UTF-8."""
        names = ["a\nb", 'a"b', "a\tb", "::error::", os.fsdecode(b"\xff")]
        commit(root, **{name: name.encode(errors="surrogateescape") for name in names})
        with open_repository(root) as repository:
            for tree in (repository.staged(), repository.commit("main")):
                assert {*tree.entries} == {*names}
                for name in names:
                    assert tree.read(name, limit=99, what="it") == os.fsencode(name)

    def test_limit_is_asked_before_anything_is_read(self, root, monkeypatch):
        """What is too large costs no memory."""
        commit(root, a=b"x" * 11)
        with open_repository(root) as repository:
            monkeypatch.setattr(type(repository), "read", lambda *_: pytest.fail("it was read"))
            with pytest.raises(RepositoryError, match=r"a in the staged files is larger than 0 KB \(11 bytes\)"):
                repository.staged().read("a", limit=10, what="it")

    def test_replaced_objects_are_not_honoured(self, root):
        """`git replace` would show another file than the one that is deployed."""
        commit(root, a=b"one", b=b"two")
        one, two = (git_in(root, "rev-parse", f"HEAD:{name}").strip() for name in "ab")
        git_in(root, "replace", one, two)
        assert git_in(root, "show", "HEAD:a") == "two"
        with open_repository(root) as repository:
            assert repository.commit("HEAD").read("a", limit=9, what="it") == b"one"

    def test_merge_conflict(self, root):
        """Nothing is staged that could be judged."""
        commit(root, a=b"one")
        git_in(root, "checkout", "--quiet", "-b", "other")
        commit(root, a=b"two")
        git_in(root, "checkout", "--quiet", "main")
        commit(root, a=b"three")
        with pytest.raises(subprocess.CalledProcessError):
            git_in(root, "merge", "other")
        with open_repository(root) as repository, pytest.raises(RepositoryError, match="a has a merge conflict"):
            repository.staged()

    def test_missing_and_links(self, root):
        """One sentence each."""
        commit(root, a=b"one")
        (root / "link").symlink_to("a")
        git_in(root, "add", "link")
        with open_repository(root) as repository:
            tree = repository.staged()
            with pytest.raises(RepositoryError, match="b is not in the staged files; expected a key"):
                tree.read("b", limit=9, what="a key")
            with pytest.raises(RepositoryError, match="link in the staged files is a symbolic link"):
                tree.read("link", limit=9, what="a key")


class TestContent:
    def test_small_and_large_files(self, root):
        """By SHA-256 of their bytes, whether they fit a pointer or not."""
        for content in (b"", b"x", b"x" * 100_000, b"version https://example.org\n"):
            commit(root, a=content + b"!")
            with open_repository(root) as repository:
                tree = repository.staged()
                digest = hashlib.sha256(content + b"!").hexdigest()
                assert tree.content(tree.entries["a"]) == Content("file", len(content) + 1, sha256=digest)

    def test_folder_below_a_name_is_not_its_namesake(self, root):
        """`certificates-old` is not in `certificates`."""
        (root / "c").mkdir()
        (root / "c-old").mkdir()
        commit(root, **{"c/a": b"1", "c-old/b": b"2"})
        with open_repository(root) as repository:
            assert [entry.path for entry in repository.staged().below("c")] == ["c/a"]
