"""A Git repository as the gate reads it; what the gate makes of it stands in test_gate.py."""

from __future__ import annotations

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
