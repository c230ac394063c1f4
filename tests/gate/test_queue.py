"""Which commit a change is compared with: shallow clones, commit ids, and the merge queue of GitHub."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from drgate.cli.options import base_ref_of
from drgate.errors import RepositoryError, UsageError
from drgate.gate.gate import gate
from tests.support.repositories import NOW, Repository, git_in

ACTION = Path(__file__).parents[2] / "action.yml"


@pytest.fixture
def queue(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """What a runner has of a merge group: a clone of one commit, and an event that names the commit below it."""
    repository.git("checkout", "--quiet", "main")
    base = repository.git("rev-parse", "HEAD").strip()
    repository.git("checkout", "--quiet", "-b", "gh-readonly-queue/main/pr-1")
    repository.write("notes.txt", "a change")
    repository.stage()
    repository.git("commit", "--quiet", "-m", "in the queue")
    clone = tmp_path / "clone"
    git_in(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repository.root}", str(clone))
    for name in ("GITHUB_BASE_REF", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME"):
        monkeypatch.setenv(name, "")
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"merge_group": {"base_sha": base, "base_ref": "refs/heads/main"}}))
    monkeypatch.setenv("GITHUB_EVENT_NAME", "merge_group")
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(event))
    return clone, base


def run(command: str, clone: Path) -> None:
    """A command as somebody copies it from a message."""
    git, *words = shlex.split(command)
    assert git == "git"
    git_in(clone, *words)


class TestMergeQueue:
    def test_is_compared_with_the_commit_below_the_group(self, queue):
        """GitHub names no base branch there; the event does, by its commit."""
        clone, base = queue
        assert base_ref_of(None) == base
        git_in(clone, "fetch", "--quiet", "--depth=1", "origin", base)
        report = gate(clone, base_ref=base_ref_of(None), now=NOW)
        assert (report.exit_code, report.commit) == (0, base)

    def test_the_action_fetches_that_commit(self, queue):
        """Its step, as a runner runs it, in a clone that lacks it; a second time there is nothing to do."""
        clone, base = queue
        steps: Any = YAML(typ="safe", pure=True).load(ACTION.read_text())["runs"]["steps"]
        (step,) = [one for one in steps if "QUEUED_ON" in one.get("env", {})]
        assert step["env"]["QUEUED_ON"] == "${{ github.event.merge_group.base_sha }}"
        for _ in range(2):
            given = {"TARGET": "", "QUEUED_ON": base}
            subprocess.run(["bash", "-ec", step["run"]], cwd=clone, check=True, env={**os.environ, **given})
            assert git_in(clone, "cat-file", "-t", base).strip() == "commit"

    @pytest.mark.parametrize("event", ["{}", "[]", '{"merge_group": {"base_sha": "main; x"}}', "no json"])
    def test_an_event_without_the_commit_is_refused(self, queue, event):
        """Nothing else is taken in its place."""
        Path(os.environ["GITHUB_EVENT_PATH"]).write_text(event)
        with pytest.raises(UsageError, match="GitHub's description of a merge_group event"):
            base_ref_of(None)

    def test_other_events_name_nothing(self, queue, monkeypatch):
        """A push has a file of its own, which says something else."""
        monkeypatch.setenv("GITHUB_EVENT_NAME", "push")
        with pytest.raises(UsageError, match="give it with --base-ref"):
            base_ref_of(None)


class TestTheProposedFetch:
    """A shallow clone lacks the base; the command in the message gets it."""

    @pytest.mark.parametrize("kind", ["commit", "branch", "other remote", "tag", "ancestor", "short id"])
    def test_works(self, queue, kind):
        """Whatever the base was named by."""
        clone, base = queue
        remote = git_in(clone, "remote", "get-url", "origin").strip()
        git_in(clone, "remote", "add", "upstream", remote)
        git_in(Path(remote.removeprefix("file://")), "tag", "v1", base)
        name = {
            "commit": base,
            "branch": "origin/main",
            "other remote": "upstream/main",
            "tag": "refs/tags/v1",
            "ancestor": "HEAD~1",
            "short id": base[:10],
        }[kind]
        with pytest.raises(RepositoryError, match="no commit") as refused:
            gate(clone, base_ref=name, now=NOW)
        command = str(refused.value).partition("fetch it first (")[2].partition(";")[0]
        run(command, clone)
        assert gate(clone, base_ref=name, now=NOW).commit == base

    def test_a_branch_named_like_a_commit_is_not_taken_for_it(self, queue):
        """A commit id means the commit."""
        clone, base = queue
        git_in(clone, "fetch", "--quiet", "--depth=1", "origin", base)
        git_in(clone, "update-ref", f"refs/heads/{base}", "HEAD")
        assert gate(clone, base_ref=base, now=NOW).commit == base
