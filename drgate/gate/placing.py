"""Files put into a repository's working tree and its index: all of them, or none.

with placed(repository, {"drgate.toml": b"...", "models/dr.pth": Path("best_model.pth")}) as index:
    ...                       # `index` is an index in which they are staged; an exception takes all of it back
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from drgate.errors import UsageError, visible
from drgate.files import replacing, sha256_file
from drgate.gate.repository import Repository


def refuse_links(repository: Repository, path: str) -> None:
    """Raise UsageError where a path of the repository leads through a symbolic link or onto a folder."""
    file = repository.root / path
    for place in (file, *file.parents):
        if place == repository.root:
            break
        if place.is_symlink() or (place != file and place.exists() and not place.is_dir()):
            raise UsageError(f"{visible(place)} is a link or a file; nothing is written through it. Remove it first.")
    if file.is_dir():
        raise UsageError(f"{visible(file)} is a folder, and a file belongs there. Remove it first.")


def same_as(file: Path, content: bytes | Path) -> bool:
    """Whether a file is there and holds this content."""
    if not file.is_file():
        return False
    if isinstance(content, Path):
        return file.stat().st_size == content.stat().st_size and sha256_file(file) == sha256_file(content)
    with file.open("rb") as handle:
        return handle.read(len(content) + 1) == content


@contextlib.contextmanager
def placed(repository: Repository, files: Mapping[str, bytes | Path]) -> Iterator[Path]:
    """Write the files, and stage them when the block ends well; what was there before comes back when it does not."""
    new: list[Path] = []
    kept: list[tuple[Path, Path]] = []
    folders: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="drgate-index-") as folder:
        index = Path(folder) / "index"
        own = repository.index()
        if own.exists():
            shutil.copyfile(own, index)
        try:
            for path, content in files.items():
                file = repository.root / path
                if same_as(file, content):
                    continue
                folders += [one for one in file.parents if not one.exists()]
                before = file.with_name(f".{file.name}.drgate-before") if file.exists() else None
                with replacing(file, keep=before) as temporary:
                    if isinstance(content, Path):
                        shutil.copyfile(content, temporary)
                    else:
                        temporary.write_bytes(content)
                if before is None:
                    new.append(file)
                else:
                    kept.append((file, before))
            repository.stage([*files], index)
            yield index
            repository.stage([*files])
        except BaseException:
            for file in new:
                file.unlink(missing_ok=True)
            for file, before in kept:
                before.replace(file)
            for one in sorted(folders, key=lambda one: len(one.parts), reverse=True):
                with contextlib.suppress(OSError):  # holds something else
                    one.rmdir()
            raise
    for _, before in kept:
        before.unlink()


@contextlib.contextmanager
def reading(index: Path) -> Iterator[None]:
    """In the block, Git takes this index for the staged files."""
    before = os.environ.get("GIT_INDEX_FILE")
    os.environ["GIT_INDEX_FILE"] = str(index)
    try:
        yield
    finally:
        if before is None:
            del os.environ["GIT_INDEX_FILE"]
        else:
            os.environ["GIT_INDEX_FILE"] = before
