"""The documented policies, the action, the GitLab template and the pre-commit hooks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.repositories import (
    TEST_SET,
    answer,
    closing,
    copy_of,
)


class TestDocumentation:
    def test_policies_are_read_as_they_are_copied(self, template, tmp_path):
        """The first block is a whole policy; the second goes on below its [gate]."""
        text = (Path(__file__).parents[2] / "docs/gate.md").read_text(encoding="utf-8").replace("sha256:...", TEST_SET)
        first, second = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
        head, mark, tail = first.partition("[[gate.test_sets]]")
        repository = copy_of(template, tmp_path / "repository")
        (repository.root / "drgate.toml").unlink()
        repository.merge()
        for old, new in (
            ("keys/engineering.pub", "keys/ml.pub"),
            ("checklists/site-a.yaml", "checklists/medical-grade.yaml"),
            ("looks/site-a.jsonl", "looks/site-a-2026.jsonl"),
        ):
            (repository.root / old).rename(repository.root / new)
        adoption = {"policy:adoption": "NOT_ASSESSED"}
        unsigned = {"model:models/dr.pth:site-a-2026:signatures": "NOT_ASSESSED"}  # by engineering, of two roles
        for policy, expected in ((first, adoption | unsigned), (f"{head}{second}\n{mark}{tail}", adoption)):
            repository.write("drgate.toml", policy)
            assert closing(answer(repository)) == expected


class TestFilesForCi:
    """The action, the GitLab template and the pre-commit hooks."""

    ROOT = Path(__file__).parents[2]

    def read(self, name: str) -> Any:
        return YAML(typ="safe", pure=True).load((self.ROOT / name).read_text())

    @pytest.mark.parametrize("base_ref", ["", "origin/main", '"; touch hacked; echo "', "$(touch hacked)"])
    def test_action_hands_its_inputs_over_as_they_are(self, tmp_path, base_ref):
        """The step, run by bash with a stand-in for drgate: inputs are arguments, never script."""
        action = self.read("action.yml")
        (step,) = [step for step in action["runs"]["steps"] if step.get("id") == "gate"]
        assert {*step["env"]} == {"BASE_REF", "POLICY", "JUNIT", "COMMENT"}
        assert "${{" not in step["run"]
        fake = tmp_path / "drgate/bin/drgate"
        fake.parent.mkdir(parents=True)
        fake.write_text('#!/bin/sh\nfor word in "$@"; do printf \'%s\\n\' "$word"; done\nexit 3\n')
        fake.chmod(0o755)
        given = {"BASE_REF": base_ref, "POLICY": "", "JUNIT": "j.xml", "COMMENT": "c.md"}
        output = tmp_path / "output"
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **given, "RUNNER_TEMP": str(tmp_path), "GITHUB_OUTPUT": str(output)},
        )
        assert done.returncode == 3, done
        more = ["--base-ref", base_ref] if base_ref else []
        assert done.stdout.splitlines() == ["gate", "--junit", "j.xml", "--comment", "c.md", *more]
        assert output.read_text() == "exit-code=3\n"
        assert not (tmp_path / "hacked").exists()

    def test_the_changes_own_python_is_not_run(self, tmp_path):
        """Jobs begin in the folder of the change, and `python -m` looks there first."""
        (install,) = [step for step in self.read("action.yml")["runs"]["steps"] if "SOURCE" in step.get("env", {})]
        before = self.read("ci/drgate.gitlab-ci.yml")[".drgate-gate"]["before_script"]
        (tmp_path / "venv.py").write_text("open('hacked', 'w')\n")
        lines = [install["run"].splitlines()[0], *(line for line in before if " -m venv " in line)]
        assert len(lines) == 2
        for i, line in enumerate(lines):
            made = tmp_path / f"made{i}"
            script = line.replace("/tmp/drgate-venv", str(made)) + " --without-pip"
            subprocess.run(
                ["bash", "-ec", script],
                cwd=tmp_path,
                check=True,
                env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RUNNER_TEMP": str(made)},
            )
            assert made.exists()
            assert not (tmp_path / "hacked").exists()

    def test_options_exist(self, drgate):
        """What the files call is what the command line has."""
        known = drgate("gate", "--help").out
        (step,) = [step for step in self.read("action.yml")["runs"]["steps"] if step.get("id") == "gate"]
        (script,) = self.read("ci/drgate.gitlab-ci.yml")[".drgate-gate"]["script"]
        used = {*re.findall(r"--[a-z-]+", step["run"] + script)}
        assert used == {"--junit", "--comment", "--base-ref", "--policy"}
        assert all(option in known for option in used)
        job = self.read("ci/drgate.gitlab-ci.yml")[".drgate-gate"]
        assert job["artifacts"]["reports"]["junit"] == "drgate-gate.xml"
        hooks = {hook["id"]: hook["entry"].split() for hook in self.read(".pre-commit-hooks.yaml")}
        assert hooks == {
            "drgate-gate": ["drgate", "gate", "--base-ref", "HEAD"],
            "drgate-spec-check": ["drgate", "spec", "check"],
        }
