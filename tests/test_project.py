"""What the repository says about itself: install lines, placeholders, and a release by one command."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
READ = (".py", ".md", ".toml", ".yml", ".yaml", ".html", ".txt")


def texts() -> Iterator[tuple[str, str]]:
    """Name and text of every file that somebody may follow; not the tests."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if name.endswith(READ) and not name.startswith("tests/") and (ROOT / name).is_file():
            yield name, (ROOT / name).read_text()


class TestInstallLines:
    def test_no_package_index_is_asked_for_drgate(self):
        """The name is ours on no index: whoever registers it there must not be installed by our own words."""
        asked = re.compile(r"""\bpip3? install\b[^\n|;&`]*?[\s"'`](?:drgate|drtrain|trainer)(?:\[|[\s"'`=<>~.]|$)""")
        assert [name for name, text in texts() if asked.search(text)] == []

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
