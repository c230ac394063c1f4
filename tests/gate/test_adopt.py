"""From an empty repository to an open gate: the commands of docs/gate.md as somebody types them; init and submit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.repositories import git_in

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs/gate.md").read_text(encoding="utf-8")
LEVELS = (20, 70, 120, 170, 220)
"""The mean of an image of each grade."""


def commands() -> list[str]:
    """The first block of commands in the documentation."""
    (block,) = re.findall(r"## From an empty repository.*?```sh\n(.*?)```", DOCS, re.DOTALL)
    return block.splitlines()


def write_images(folder: Path, patients: int = 40) -> None:
    """Grey images, one a patient, each grade the brighter the worse."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(7)
    lines = ["image,grade,patient"]
    for i in range(5 * patients):
        pixels = LEVELS[i % 5] + rng.integers(-9, 10, (28, 28, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"images/photo{i * 37 % 1000}.png")
        lines.append(f"images/photo{i * 37 % 1000}.png,{i % 5},p{i}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def write_model(path: Path, *, shift: float = 0.0) -> None:
    """An ONNX model that grades these images by their mean; shift: how much it favours the higher grades."""
    from tests.support.foreign import network, write

    grades = np.arange(5)
    borders = np.array([0.0, *((one + other) / 2 / 127.5 - 1 for one, other in pairwise(LEVELS))])
    weight = np.repeat(40.0 * grades[None], 3, axis=0)  # the three channels are alike
    bias = shift * grades - 120 * np.cumsum(borders)
    written = write(path.parent, network(weight.astype(np.float32), bias.astype(np.float32)))
    described = (path.parent / "model.yaml").read_text().replace("model.onnx", path.name)
    (path.parent / "model.yaml").write_text(described)
    written.rename(path)


class Shell:
    """A terminal: commands as they are typed, and what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = ""

    def type(self, line: str, *, code: int = 0) -> str:
        binary = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        given = {
            "PATH": binary,
            "PYTHONPATH": str(ROOT),
            "DRGATE_KEY_PASSPHRASE": "a phrase",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
        }
        person = {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        aliased = f'drgate() {{ {sys.executable} -m drgate "$@"; }}; {line}'
        done = subprocess.run(
            ["bash", "-c", aliased],
            cwd=self.folder,
            env=os.environ | given | person,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        self.said = done.stdout + done.stderr
        assert done.returncode == code, (line, self.said)
        assert "Traceback" not in self.said
        return self.said


def cloned(folder: Path) -> Shell:
    """A clone of an empty repository, whose remote is a folder."""
    folder.mkdir()
    git_in(folder, "init", "--quiet", "--bare", "--initial-branch=main", "remote.git")
    git_in(folder, "clone", "--quiet", "remote.git", "work")
    return Shell(folder / "work")


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shell, list[str]]:
    """A repository after the five commands of the documentation, and what each of them printed."""
    shell = cloned(tmp_path_factory.mktemp("adopted") / "here")
    write_images(shell.folder / "testset")
    write_model(shell.folder / "best_model.onnx")
    with (shell.folder / ".git/info/exclude").open("a") as handle:
        handle.write("/testset\n/best_model.onnx\n/model.yaml\n")
    return shell, [shell.type(line) for line in commands()]


class TestFiveCommands:
    def test_open_the_gate(self, adopted):
        """By the words of the documentation alone, on a real remote."""
        shell, said = adopted
        assert len(said) == 5
        assert "The gate is open: 1 model, nothing waived." in said[-1]
        tracked = git_in(shell.folder, "ls-tree", "-r", "--name-only", "origin/main").split()
        wanted = {"drgate.toml", "models/best_model.onnx", "models/model.yaml", "looks/testset.jsonl"}
        assert {*wanted, ".github/workflows/drgate-gate.yml"} <= {*tracked}
        assert not any(path.endswith((".pem", ".csv")) for path in tracked)

    def test_each_is_shown_by_the_one_before(self, adopted):
        """With its flags; names that a command cannot know are in capitals."""
        _, said = adopted
        typed = commands()
        assert "drgate init --github --trusted-key clinical=keys/clinical.pub" in said[0]
        assert typed[1].startswith("drgate init --github --trusted-key clinical=keys/clinical.pub")
        for text, line in zip(said[1:4], typed[2:], strict=True):
            assert f"Next: {line}" in text.replace("MODEL", "best_model.onnx").replace("'", '"')
