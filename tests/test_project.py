"""What the repository says about itself: install lines, placeholders, and a release by one command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES
from benchmarks.gate_error import KINDS

ROOT = Path(__file__).parents[1]
READ = (".py", ".md", ".toml", ".yml", ".yaml", ".html", ".txt")


def texts() -> Iterator[tuple[str, str]]:
    """Name and text of every file that somebody may follow; not the tests."""
    folders = (".", ".ci", "benchmarks/**", "ci", "docs/**", "drgate/**", "thresholds", "trainer/**")
    for file in sorted(file for folder in folders for file in ROOT.glob(f"{folder}/*")):
        if file.suffix in READ or file.name in ("Makefile", "run", "light"):
            yield file.relative_to(ROOT).as_posix(), file.read_text()


def test_every_benchmark_that_is_named_is_there():
    """A claim names the command that shows it, with a kind of `gate-error` that there is."""
    named = re.compile(r"python -m benchmarks ([a-z][a-z-]*[a-z])(?:\s+--only ([a-z-]+))?")
    for name, text in texts():
        for command, kind in named.findall(text):
            assert command in NAMES, (name, command)
            assert not kind or kind in KINDS, (name, kind)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_benchmark_can_be_loaded(name: str):
    """A benchmark runs for minutes and is seldom run: what it imports is checked here."""
    try:
        module = import_module(f"benchmarks.{name.replace('-', '_')}")
    except ModuleNotFoundError as missing:
        if missing.name not in ("torch", "transformers", "onnx", "onnxruntime"):
            raise
        pytest.skip("the extra models is not installed")
    assert callable(module.main)


class TestInstallLines:
    def test_no_package_index_is_asked_for_drgate(self):
        """The name is ours on no index: whoever registers it there must not be installed by our own words."""
        asked = re.compile(r"""\bpip3? install\b[^\n|;&`]*?[\s"'`](?:drgate|drtrain|trainer)(?:\[|[\s"'`=<>~.]|$)""")
        assert [name for name, text in texts() if asked.search(text)] == []
        assert [name for name, text in texts() if "drgate[" in text and name != "pyproject.toml"] == []

    def test_placeholders_are_explained(self):
        """A file that leaves something to fill in says what to put there."""
        for name, text in texts():
            assert not re.search(r"\b(OWNER|URL|ORG|GROUP)\b", text.replace("YOUR-GROUP", "")), name
            for placeholder in ("YOUR-GROUP/drgate", "TAG", "git.example.org"):
                if name != "docs/checklists.md" and re.search(rf"(?<![\w-]){placeholder}\b", text):
                    explained = " ".join(re.sub(r"^# ?", "", text, flags=re.MULTILINE).split())
                    sentence = re.search(r"replace `YOUR-GROUP/drgate`[^:]*", explained, re.IGNORECASE)
                    assert sentence, name
                    assert placeholder in sentence[0], (name, placeholder)

    def test_readme_has_one_line_to_use_and_one_to_develop(self):
        """`.ci/run` runs the second as it is written there."""
        lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("pip install ")]
        assert [re.search(r"\[(\w+)\]", line)[1] for line in lines] == ["train", "dev"]
        assert all("-c constraints.txt" in line for line in lines)

    def test_the_tests_are_run_by_one_command(self):
        """README, CONTRIBUTING and `make test` name the same."""
        (line,) = re.findall(
            r"^pip install .*\[dev\].* && python -m (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE
        )
        assert line in (ROOT / "CONTRIBUTING.md").read_text()
        assert f"$(PYTHON) -m {line}\n" in (ROOT / "Makefile").read_text()


class TestRelease:
    """`make release VERSION=...` in a repository of its own."""

    @pytest.fixture
    def git(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        """Git in a new repository that holds what a release needs."""
        for name in ("Makefile", "pyproject.toml", ".ci/release.py"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
        (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## Unreleased\n\n- First.\n")
        for name in [name for name in os.environ if name.startswith("GIT_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        for role in ("AUTHOR", "COMMITTER"):
            monkeypatch.setenv(f"GIT_{role}_NAME", "A")
            monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@example.org")

        def run(*arguments: str) -> str:
            return subprocess.run(
                ["git", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
            ).stdout.strip()

        run("init", "--quiet")
        run("add", ".")
        run("commit", "--quiet", "--message", "Begin")
        return run

    def release(self, folder: Path, version: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "--silent", "release", f"VERSION={version}"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    def version(self, project: str) -> str:
        return tomllib.loads(project)["project"]["version"]

    def test_tag_version_and_changelog_are_one(self, git: Callable[..., str], tmp_path: Path):
        """The tagged commit has the version and the cut changelog; what follows is a development version."""
        ended = self.release(tmp_path, "0.2.0")
        assert ended.returncode == 0, ended.stderr
        assert git("tag") == "v0.2.0"
        assert self.version(git("show", "v0.2.0:pyproject.toml")) == "0.2.0"
        assert re.fullmatch(
            r"# Changes\n\n## 0\.2\.0 \(\d{4}-\d\d-\d\d\)\n\n- First\.", git("show", "v0.2.0:CHANGELOG.md")
        )
        assert self.version((tmp_path / "pyproject.toml").read_text()) == "0.2.1.dev0"
        assert (tmp_path / "CHANGELOG.md").read_text().startswith("# Changes\n\n## Unreleased\n\n## 0.2.0 (")
        assert git("status", "--porcelain") == ""
        (tmp_path / "CHANGELOG.md").write_text(
            (tmp_path / "CHANGELOG.md").read_text().replace("## Unreleased\n", "## Unreleased\n\n- Second.\n")
        )
        git("commit", "--quiet", "--all", "--message", "Second")
        assert self.release(tmp_path, "0.10.0").returncode == 0
        assert self.release(tmp_path, "0.9.0").returncode != 0
        headings = re.findall(r"^## (\S+)", git("show", "v0.10.0:CHANGELOG.md"), re.MULTILINE)
        assert headings == ["0.10.0", "0.2.0"]

    @pytest.mark.parametrize(
        ("version", "changes", "message"),
        [
            ("v0.2", None, "is not a version"),
            ("", None, "is not a version"),
            ("0.2.0", "# Changes\n\n## Unreleased\n\n## 0.1.0 (2026-01-01)\n\n- First.\n", "lists nothing"),
            ("0.2.0", "uncommitted", "uncommitted changes"),
        ],
    )
    def test_is_refused(self, git: Callable[..., str], tmp_path: Path, version: str, changes: str | None, message: str):
        """One sentence, no commit and no tag."""
        if changes is not None:
            (tmp_path / "CHANGELOG.md").write_text(changes)
            if changes != "uncommitted":
                git("commit", "--quiet", "--all", "--message", "Other changes")
        before = git("rev-parse", "HEAD")
        ended = self.release(tmp_path, version)
        assert ended.returncode != 0
        assert message in ended.stderr
        assert (git("rev-parse", "HEAD"), git("tag")) == (before, "")
