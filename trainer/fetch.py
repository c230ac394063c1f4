"""Download a checkpoint from a bucket or the Hugging Face hub.

    path = fetch("gs://bucket/checkpoints/best_model.pth")      # a local path is returned unchanged

Google Cloud Storage needs the extra `gcs` and S3 the extra `s3`. A file is fetched once into `$DRGATE_CACHE` (else
`drgate/checkpoints` in the user's cache folder), under a name that follows from the store's own checksum, so a changed
file is fetched again. The stores' own settings give endpoints and credentials: AWS_ENDPOINT_URL,
STORAGE_EMULATOR_HOST, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN and the like.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from drgate.errors import CheckpointError, install
from drgate.files import canonical_json, replacing
from drgate.screen import progress

_EXTRAS: Final = {"gs": "gcs", "s3": "s3", "hf": "models"}
_LOGIN: Final = {
    "gs": "log in with gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "hf": "accept the terms on its page and set HF_TOKEN",
}
_IDENTITY: Final = ("etag", "ETag", "md5Hash", "crc32c", "generation", "blob_id", "xet_hash")
"""What stores report about the content of an object; it decides whether a file in the cache is the same."""
_MB: Final = 1 << 20


def fetch(uri: str, *, quiet: bool = False) -> Path:
    """The file that `uri` names: a local path unchanged, or the complete cached file for gs://, s3:// or hf://.

    quiet: no progress on standard error.

    Raises:
        CheckpointError: another kind of address, an extra that is not installed, no such object, no access, no
            network, or another size or checksum than in the store. No partial file is left.
    """
    scheme, separator, remote = uri.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.\-]*", scheme):
        return Path(uri).expanduser()
    if scheme not in _EXTRAS:
        raise CheckpointError(
            f"{uri} is of a kind that cannot be read. Give a local path, or an address with gs://, s3:// or hf://."
        )
    name = remote.partition("/")[2].rpartition("/")[2]
    if name in ("", ".", ".."):
        raise CheckpointError(f"{uri} names no file. Expected {scheme}://BUCKET/.../best_model.pth.")
    try:
        with _silent():
            return _fetched(uri, scheme, remote, quiet)
    except ImportError as error:
        raise CheckpointError(
            f"{uri} needs a package that is not installed ({error}). {install(_EXTRAS[scheme])}"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # the libraries raise many kinds without a common base class
        raise CheckpointError(f"{uri} cannot be fetched: {_reason(error, scheme)}.") from error


def _fetched(uri: str, scheme: str, remote: str, quiet: bool) -> Path:
    import fsspec

    store = fsspec.filesystem(scheme, skip_instance_cache=True)  # an instance remembers listings and endpoints
    info = store.info(remote)
    if info["type"] != "file":
        raise CheckpointError(f"{uri} is a folder. Name the checkpoint in it.")
    name = PurePosixPath(remote).name
    size = int(info["size"])
    identity = {key: str(info[key]) for key in _IDENTITY if info.get(key)}
    path = _cache() / hashlib.sha256(canonical_json([uri, size, identity])).hexdigest()[:16] / name
    if identity and path.is_file() and path.stat().st_size == size:
        return path
    with replacing(path) as temporary:
        with progress(f"Fetching {name}, MB", quiet) as (started, advance):
            started(-(-size // _MB))
            store.get_file(remote, str(temporary), callback=_Counter(advance))
        if (found := temporary.stat().st_size) != size:
            raise CheckpointError(f"{uri} has {size} bytes, but {found} arrived. Fetch it again.")
        if (checksum := _checksum(info)) and _digest(temporary, checksum[0]) != checksum[1]:
            raise CheckpointError(f"{uri} did not arrive intact: its {checksum[0]} differs. Fetch it again.")
    return path


def _Counter(advance: Callable[[int], None]) -> Any:  # noqa: N802  # a class, made here because fsspec is slow to import
    from fsspec.callbacks import Callback

    class Counter(Callback):  # type: ignore[misc]  # fsspec has no types
        """Reports whole megabytes."""

        def call(self, hook_name: str | None = None, **_: Any) -> None:
            done = int(self.value) // _MB
            advance(done - self.shown)
            self.shown = done

        shown = 0

    return Counter()


def _checksum(info: dict[str, Any]) -> tuple[str, str] | None:
    """A hash of the content that can be checked; an S3 ETag is often not one."""
    if info.get("md5Hash"):
        return "md5", base64.b64decode(info["md5Hash"]).hex()
    lfs = info.get("lfs")
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    return ("sha256", str(sha256)) if sha256 else None


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _cache() -> Path:
    if own := os.environ.get("DRGATE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "drgate" / "checkpoints"


def _reason(error: Exception, scheme: str) -> str:
    text = " ".join(str(error).split())[:160].rstrip(".")
    if isinstance(error, FileNotFoundError):
        return "there is no such object, or you have no access to it"
    code = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, PermissionError) or code in (401, 403) or re.search("forbidden|credentials", text, re.I):
        return f"you have no access to it ({text}); {_LOGIN[scheme]}"
    return f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence the libraries' logs and warnings; the final error is one sentence."""
    loggers = [logging.getLogger(name) for name in ("gcsfs", "s3fs", "fsspec", "asyncio", "google")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
