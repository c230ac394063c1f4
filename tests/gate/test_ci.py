"""The documented policies, the action, the GitLab template and the pre-commit hooks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
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
        assert output.read_text() == "exit-code=3\njunit=j.xml\ncomment=c.md\n"
        assert not (tmp_path / "hacked").exists()

    def test_reports_are_outside_the_change(self, tmp_path):
        """By default; what the change holds under the names of the reports is never handed out."""
        action = self.read("action.yml")
        assert action["inputs"]["junit"]["default"] == action["inputs"]["comment"]["default"] == ""
        (step,) = [step for step in action["runs"]["steps"] if step.get("id") == "gate"]
        fake = tmp_path / "drgate/bin/drgate"
        fake.parent.mkdir(parents=True)
        fake.write_text("#!/bin/sh\nexit 0\n")
        fake.chmod(0o755)
        given = {"BASE_REF": "", "POLICY": "", "JUNIT": "", "COMMENT": "", "RUNNER_TEMP": str(tmp_path)}
        output = tmp_path / "output"
        environment = {**os.environ, **given, "GITHUB_OUTPUT": str(output)}
        subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=environment, check=True)
        assert f"junit={tmp_path}/drgate-gate.xml\ncomment={tmp_path}/drgate-gate.md\n" in output.read_text()
        for name, expression in (("junit", "steps.gate.outputs.junit"), ("comment", "steps.gate.outputs.comment")):
            assert expression in action["outputs"][name]["value"]
        written, further = re.findall(r"```yaml\n(.*?)```", self.section("GitHub"), re.DOTALL)[:2]
        job = YAML(typ="safe", pure=True).load(written + further)["jobs"]["gate"]
        assert all(not path.startswith("drgate") for path in job["steps"][-1]["with"]["path"].split())

    def section(self, name: str) -> str:
        """A section of the documentation of the gate."""
        return re.split(r"\n## ", (self.ROOT / "docs/gate.md").read_text().partition(f"\n## {name}\n")[2])[0]

    @pytest.mark.parametrize(("name", "forge"), [("GitHub", "github"), ("GitLab", "gitlab")])
    def test_the_documentation_shows_what_init_writes(self, name, forge):
        """To the letter; and names the check that a branch must require."""
        text = (self.ROOT / f"drgate/gate/workflows/{forge}.yml").read_text()
        assert f"```yaml\n{text}```" in self.section(name)
        if forge == "github":
            job = YAML(typ="safe", pure=True).load(text)["jobs"]["gate"]
            assert f"must require is called `{job['name']}`" in self.section(name)

    @pytest.mark.parametrize("kind", ["file", "link", "folder"])
    def test_gitlab_removes_what_is_in_the_place_of_a_report(self, tmp_path, kind):
        """Before anything else can fail, because artifacts are collected always."""
        forged = tmp_path / "drgate-gate.md"
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside/a").write_text("kept")
        if kind == "file":
            forged.write_text("## The gate is open")
        elif kind == "link":
            forged.symlink_to("outside")
        else:
            shutil.copytree(tmp_path / "outside", forged)
        first = self.read("ci/drgate.gitlab-ci.yml")[".drgate-gate"]["before_script"][0]
        subprocess.run(["bash", "-ec", first], cwd=tmp_path, check=True)
        assert not forged.exists()
        assert not forged.is_symlink()
        assert (tmp_path / "outside/a").exists()

    def test_actions_are_pinned_by_commit(self):
        """A tag can be moved; the version stands beside the commit."""
        used = [
            line
            for name in ("action.yml", "docs/gate.md")
            for line in (self.ROOT / name).read_text().splitlines()
            if re.search(r"\buses: actions/", line)
        ]
        assert len(used) == 3
        assert all(re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line) for line in used), used

    def test_what_builds_the_package_is_pinned(self):
        """Constraints do not reach pip's builds unless they are in the environment."""
        required = tomllib.loads((self.ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
        pinned = {line.partition("==")[0] for line in (self.ROOT / "constraints.txt").read_text().splitlines()}
        assert {re.split(r"[><=]", name)[0] for name in required} <= pinned
        for name in ("action.yml", "ci/drgate.gitlab-ci.yml"):
            text = (self.ROOT / name).read_text()
            assert len(re.findall(r"\b(?:PIP_CONSTRAINT|PIP_BUILD_CONSTRAINT)=\S*constraints\.txt", text)) == 2
            assert text.index("PIP_CONSTRAINT=") < text.index('pip" install' if name == "action.yml" else "pip install")

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
