"""Cut a release: `make release VERSION=0.2.0`. Nothing is pushed, and nothing changes where something is wrong.

Two commits and a tag. The first gives the changelog's Unreleased part its version and day, writes the version into
pyproject.toml, and is tagged vVERSION. The second writes the next version with .dev0, so that an installation from
between two releases is never taken for one (docs/decisions/0010).
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

CHANGES, PROJECT = Path("CHANGELOG.md"), Path("pyproject.toml")
UNRELEASED = "## Unreleased\n"


def git(*arguments: str) -> str:
    """What a Git command prints; it must succeed."""
    return subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()  # noqa: S607


def numbers(version: str) -> tuple[int, ...]:
    """0.10.0 is after 0.9.1."""
    return tuple(int(part) for part in version.split("."))


def refusal(version: str) -> str | None:
    """Why this version cannot be released now."""
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        return f"{version!r} is not a version; give three numbers: make release VERSION=0.2.0"
    if git("status", "--porcelain"):
        return "there are uncommitted changes; commit or stash them first."
    released = [tag[1:] for tag in git("tag", "--list", "v*").split() if re.fullmatch(r"v\d+\.\d+\.\d+", tag)]
    latest = max(released, key=numbers, default=None)
    if latest and numbers(version) <= numbers(latest):
        return f"{latest} is already released; give a later version."
    if not re.search(rf"^{UNRELEASED}\s*(?!## )\S", CHANGES.read_text(), re.MULTILINE):
        return f"{CHANGES} lists nothing under Unreleased; write down first what the product does differently."
    return None


def write(version: str, changes: str) -> None:
    """Commit this version and this changelog."""
    project, found = re.subn(r'^version = ".*"$', f'version = "{version}"', PROJECT.read_text(), flags=re.MULTILINE)
    if found != 1:
        sys.exit(f"{PROJECT} has {found} lines `version = ...`; one was expected.")
    PROJECT.write_text(project)
    CHANGES.write_text(changes)
    git("add", str(PROJECT), str(CHANGES))
    git("commit", "--quiet", "--message", f"Version {version}")


def main(version: str) -> None:
    if problem := refusal(version):
        sys.exit(f"release: {problem}")
    cut = CHANGES.read_text().replace(UNRELEASED, f"## {version} ({datetime.now(UTC):%Y-%m-%d})\n", 1)
    write(version, cut)
    git("tag", "--annotate", f"v{version}", "--message", f"Version {version}")
    major, minor, patch = numbers(version)
    write(f"{major}.{minor}.{patch + 1}.dev0", re.sub(r"^(?=## )", f"{UNRELEASED}\n", cut, count=1, flags=re.MULTILINE))
    print(f"v{version} is tagged. Check it with .ci/run, then push both: git push origin HEAD v{version}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
