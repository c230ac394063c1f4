"""The files of a model: each is read once, into a private copy. What is hashed is what is loaded.

with private_copy(Path("best_model.pth"), "model") as (copy, file):
    torch.load(copy, weights_only=True)      # the bytes of file.sha256, whatever happens to the path meanwhile
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from drgate.errors import CheckpointError
from drgate.evaluation import Role, Subject, read_as
from drgate.files import in_bytes

MAX_BYTES: Final = 16 << 30
"""Of one file: a whole MedSigLIP with its training state is 5 GB."""

MAX_COMPANION_BYTES: Final = 64 << 10
"""Of preprocess.json and labels.json, which are under 1 KB."""

_CHUNK: Final = 1 << 20


def copy_and_hash(path: Path, role: Role, to: IO[bytes], *, limit: int = MAX_BYTES) -> Subject:
    """Copy a file, and give the facts of exactly the bytes that were copied.

    Raises CheckpointError for a file that cannot be read, is too large, or has a name that cannot be certified; and
    where the copy does not fit.
    """
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    if path.exists() and not path.is_file():  # a link to a pipe or to /dev/zero has no end
        raise CheckpointError(f"{path} is not a file; expected a file of the model.")
    try:
        source = path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); expected a file of the model.") from error
    with source:
        too_large = CheckpointError(f"{path} is larger than {in_bytes(limit)}; expected a file of a model.")
        if os.fstat(source.fileno()).st_size > limit:
            raise too_large
        try:
            while chunk := source.read(_CHUNK):
                if (size := size + len(chunk)) > limit:  # it grows while it is read
                    raise too_large
                sha256.update(chunk)
                md5.update(chunk)
                to.write(chunk)
            to.flush()
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be copied to the temporary folder {tempfile.gettempdir()} ({error.strerror}); free "
                "some space, or set TMPDIR to another folder."
            ) from error
    facts: dict[str, Any] = {"name": path.name, "sha256": sha256.hexdigest(), "md5": md5.hexdigest()}
    return read_as(
        Subject,
        {**facts, "size": size, "role": role},
        str(path),
        expected="a file name of printable characters",
        error=CheckpointError,
    )


@contextlib.contextmanager
def private_copy(path: Path, role: Role) -> Iterator[tuple[IO[bytes], Subject]]:
    """A file's copy that nobody else can name, at its start, with the facts of its bytes. Raises as `copy_and_hash`."""
    with tempfile.TemporaryFile() as copy:
        file = copy_and_hash(path, role, copy)
        copy.seek(0)
        yield copy, file
