"""Who may import whom: the contracts in pyproject.toml name every part, and a wrong import makes them red."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS = PROJECT["tool"]["importlinter"]["contracts"]
COMMANDS = ("drgate/cli/", "drgate/__main__.py", "trainer/cli.py", "trainer/__main__.py", "trainer/attempts/command.py")


def imports(*roots: str) -> Iterator[tuple[str, str]]:
    """Each Python file below the roots, from the top of the repository, with the name of a module that it imports."""
    for file in sorted(file for root in roots for file in (ROOT / root).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            yield from ((file.relative_to(ROOT).as_posix(), name) for name in names)


def distributions(names: list[str]) -> set[str]:
    """Requirements without versions and markers, in lower case."""
    return {re.split(r"[^A-Za-z0-9._-]", name, maxsplit=1)[0].lower() for name in names}


class TestLayers:
    @pytest.mark.parametrize(
        ("module", "line", "contract"),
        [
            ("drgate/stats/proportion.py", "import drgate.verify", "every import points down"),
            ("drgate/measure.py", "import drgate.cli.app", "every import points down"),
            ("drgate/part.py", "", "every import points down"),
            ("trainer/part.py", "", "every import of trainer points down"),
            ("drgate/vision/base.py", "import drgate.vision.older", "no cycles inside"),
        ],
    )
    def test_an_import_that_points_up_is_red(self, tmp_path: Path, module: str, line: str, contract: str):
        """In a copy of the packages with one import more, or with a new part that no layer names."""
        for package in ("drgate", "trainer", "thresholds"):
            shutil.copytree(
                ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.safetensors", "__pyc*")
            )
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
        with (tmp_path / module).open("a") as file:
            file.write(f"\n{line}\n")
        ended = subprocess.run(
            [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        )
        assert ended.returncode == 1, ended.stdout + ended.stderr
        assert any(contract in line and line.endswith("BROKEN") for line in ended.stdout.splitlines()), ended.stdout

    def test_only_commands_import_the_command_line(self):
        """What does the work can be used without one."""
        offenders = {
            file
            for file, name in imports("drgate", "trainer")
            if f"{name}.".startswith("drgate.cli.") and not file.startswith(COMMANDS)
        }
        assert offenders == set()


class TestDependencies:
    def test_the_light_core_is_what_it_imports(self):
        """Each dependency is needed by a module; but for `vision`, `export` and a bundle's program none needs others.

        A kind of file that few have is an extra, which is imported when such a file is read.
        """
        owner = importlib.metadata.packages_distributions()
        found = {
            owner[package][0].lower()
            for file, name in imports("drgate")
            if (package := name.partition(".")[0]) not in sys.stdlib_module_names
            and package not in ("drgate", "thresholds", "openpyxl", "pydicom", "fsspec", "")
            and not file.startswith(("drgate/vision/", "drgate/export.py", "drgate/bundle/infer.py"))
        }
        assert found == distributions(PROJECT["project"]["dependencies"])
