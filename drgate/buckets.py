"""Files in buckets: fetched once into a cache, whole or not at all.

    path = fetch("gs://bucket/checkpoints/best_model.pth", CheckpointError)     # a local path is returned unchanged
    bucket = Bucket(Address("s3://bucket/eyepacs"), ManifestError)
    bucket.bring(["a.jpg"])                                                     # bucket.folder / "a.jpg" is there

Google Cloud Storage needs the extra `gcs` and S3 the extra `s3`. A file is kept in `$DRGATE_CACHE` (else
`drgate/fetched` in the user's cache folder), under a name that follows from its size and the store's own checksum or
generation: what is there is not fetched again, a changed object is, and an interrupted fetch goes on where it ended.
The stores' own settings give endpoints and credentials: AWS_ENDPOINT_URL, STORAGE_EMULATOR_HOST,
GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN and the like.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import posixpath
import re
import shutil
import tempfile
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from drgate import limits
from drgate.errors import DrgateError, install
from drgate.files import canonical_json, remove, replacing
from drgate.screen import progress, silenced

_EXTRAS: Final = {"gs": "gcs", "s3": "s3", "hf": "models"}
_LIBRARIES: Final = ("gcsfs", "s3fs", "fsspec", "asyncio", "google", "botocore", "aiobotocore", "aiohttp")
_LOGIN: Final = {
    "gs": "log in with gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "hf": "accept the terms on its page and set HF_TOKEN",
}
_ADDRESS: Final = re.compile(r"(gs|s3):/|([A-Za-z][A-Za-z0-9+.\-]*)://")
_IN_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]*(/[^?#\x00-\x1f\x7f]*)?")
_NO_FILE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")
"""What a key of an object can have, and a name of a file should not."""
_UNFIT: Final = "a name that no file should have"
_IDENTITY: Final = ("etag", "ETag", "md5Hash", "crc32c", "generation", "blob_id", "xet_hash")
"""What stores report about the content of an object; it decides whether a file in the cache is the same."""
_MB: Final = 1 << 20
_AT_ONCE: Final = 8
_ABANDONED: Final = 3600
"""Seconds after which an unfinished file in the cache is removed."""


class Address(type(Path())):  # type: ignore[misc]  # the class of paths of this system
    """The address of a folder or file in a bucket, written with both slashes; as a path of this machine, nothing."""

    def __str__(self) -> str:
        scheme, _, remote = "/".join(self.parts).partition(":")
        return f"{scheme}://{remote.lstrip('/')}"


def located(text: Path | str) -> Path:
    """What somebody named: an `Address`, or a path of this machine."""
    return Address(text) if _ADDRESS.match(str(text)) else Path(text)


class _Object(NamedTuple):
    """address: of the caller's kind. place: of its file, below the cache. certain: whether the store says what tells
    another content. checksum: the kind of hash of the content and its value, where the store says one.
    """

    address: str
    size: int
    place: str
    certain: bool
    checksum: tuple[str, str] | None


class Bucket:
    """A folder in a bucket, and a private folder of this machine with those of its files that were fetched.

    Every method raises `error` as `fetch` does. The private folder holds links into the cache, and is deleted with this
    object.
    """

    def __init__(self, address: Path, error: type[DrgateError]) -> None:
        self.address, self._error = str(address), error
        self.folder = Path(tempfile.mkdtemp(prefix="drgate-bucket-")).resolve()
        self.left_out: dict[str, list[str]] = {}
        self._brought: set[str] = set()
        weakref.finalize(self, remove, self.folder, os.getpid())

    @cached_property
    def objects(self) -> dict[str, _Object]:
        """The objects below the folder, by their names relative to it; `left_out` gets those that cannot be files."""
        scheme, _, remote = self.address.partition("://")
        bucket, _, folder = remote.partition("/")
        prefix = f"{folder}/" if folder else ""
        found: dict[str, _Object] = {}
        left_out = defaultdict(list)
        with _telling(self.address, scheme, self._error):
            for count, info in enumerate(_listed(_store(scheme), scheme, bucket, prefix)):
                if count >= limits.BUCKET_OBJECTS:
                    raise self._error(
                        f"{self.address} holds more than {limits.BUCKET_OBJECTS} objects; name a smaller folder."
                    )
                name = str(info["name"])[len(prefix) :]
                if _is_fit(name):
                    found[name] = _object(f"{self.address}/{name}", info)
                elif not name.endswith("/") or int(info["size"]):  # else it marks a folder
                    left_out[_UNFIT].append(name)
        self.left_out = {why: sorted(names) for why, names in left_out.items()}
        return {name: found[name] for name in sorted(found)}

    def holds(self, name: str) -> bool:
        """Whether an object has this name, as a path below the folder."""
        return posixpath.normpath(name) in self.objects

    def bring(self, names: Iterable[str]) -> None:
        """Fetch those of the names that are here, so that their files are in `folder`."""
        wanted = sorted({posixpath.normpath(name) for name in names} & self.objects.keys() - self._brought)
        if not wanted:
            return
        scheme = self.address.partition("://")[0]
        with _telling(self.address, scheme, self._error):
            paths = _fetched(_store(scheme), [self.objects[name] for name in wanted], self._error, self.address)
        for name, path in zip(wanted, paths, strict=True):
            link = self.folder / name
            try:
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path)
            except (FileExistsError, NotADirectoryError):
                raise self._error(
                    f"{self.address}/{name} and another object have names that are one on this machine; rename one."
                ) from None
            except OSError as problem:
                raise self._error(f"{self.folder} cannot be written ({problem.strerror}); set TMPDIR.") from problem
        self._brought |= {*wanted}


def is_folder(address: Path, error: type[DrgateError]) -> bool:
    """Whether an address in a bucket leads to objects below it, and not to one. Raises as `fetch` does."""
    text = str(address)
    scheme, remote = _parts(text, error, ("gs", "s3"))
    with _telling(text, scheme, error):
        return bool(_store(scheme).info(remote)["type"] != "file")


def fetch(uri: str, error: type[DrgateError], *, hub: bool = False, quiet: bool = False) -> Path:
    """The file that `uri` names: a local path unchanged, or the complete cached file for gs:// or s3://.

    hub: whether hf:// is read too. quiet: no progress on standard error.

    Raises:
        error: another kind of address, an extra that is not installed, no such object, no access, no network, or
            another size or checksum than in the store. No partial file is left.
    """
    if not _ADDRESS.match(uri) or "://" not in uri:
        return Path(uri).expanduser()
    scheme, remote = _parts(uri, error, tuple(_EXTRAS) if hub else ("gs", "s3"))
    if remote.partition("/")[2].rpartition("/")[2] in ("", "."):
        raise error(f"{uri} names no file. Expected {scheme}://BUCKET/FOLDER/FILE.")
    with _telling(uri, scheme, error):
        store = _store(scheme)
        info = store.info(remote)
        if info["type"] != "file":
            raise error(f"{uri} is a folder. Name the file in it.")
        return _fetched(store, [_object(uri, info)], error, PurePosixPath(remote).name, quiet)[0]


def _parts(uri: str, error: type[DrgateError], schemes: tuple[str, ...]) -> tuple[str, str]:
    """The kind of store and the rest of an address, which is not repeated where it may hold a secret."""
    scheme, _, remote = uri.partition("://")
    if scheme in ("gs", "s3") and (not _IN_BUCKET.fullmatch(remote) or ".." in remote.split("/")):
        raise error(
            f"The address after {scheme}:// is not one of a bucket. Give {scheme}://BUCKET/PATH, without a key, a "
            f"signature or a query; {_LOGIN[scheme]}."
        )
    if scheme not in schemes:
        kinds = " or ".join(f"{one}://" for one in schemes)
        raise error(f"{scheme}:// is of a kind that cannot be read. Give a local path, or an address with {kinds}.")
    return scheme, remote


def _store(scheme: str) -> Any:
    import fsspec

    return fsspec.filesystem(scheme, skip_instance_cache=True)  # an instance remembers listings and endpoints


def _listed(store: Any, scheme: str, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """What the store says about each object below a prefix, page by page, so that a caller can stop."""
    more: dict[str, str] = {}
    while scheme == "s3":
        page = store.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
        yield from ({"name": one["Key"], "size": one["Size"], "ETag": one["ETag"]} for one in page.get("Contents", ()))
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}
    while True:
        page = store.call("GET", "b/{}/o", bucket, prefix=prefix, json_out=True, **more)
        yield from page.get("items", ())
        if not page.get("nextPageToken"):
            return
        more = {"pageToken": page["nextPageToken"]}


def _is_fit(name: str) -> bool:
    """Whether a name can be a path below a folder: it does not climb out, and is no surprise on a terminal."""
    parts = name.split("/")
    return not _NO_FILE.search(name) and all(
        part not in ("", ".", "..") and len(part.encode()) <= limits.NAME_BYTES for part in parts
    )


def _object(address: str, info: dict[str, Any]) -> _Object:
    size = int(info["size"])
    identity = {key: str(info[key]) for key in _IDENTITY if info.get(key)}
    key = hashlib.sha256(canonical_json([address, size, identity])).hexdigest()[:32]
    return _Object(address, size, f"{key}/{PurePosixPath(address).name}", bool(identity), _checksum(info))


def _fetched(
    store: Any, objects: list[_Object], error: type[DrgateError], what: str, quiet: bool = False
) -> list[Path]:
    """The files of objects in the cache, in their order; those that are not there yet are fetched."""
    cache = _cache(error)
    paths = [cache / one.place for one in objects]
    missing = [(one, path) for one, path in zip(objects, paths, strict=True) if not _is_there(one, path)]
    if not missing:
        return paths
    size = sum(one.size for one, _ in missing)
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)  # it may hold photographs of patients
    if size > (free := shutil.disk_usage(cache).free):
        raise error(
            f"{what} takes {-(-size // _MB)} MB, and {cache} has {free // _MB} MB free; set DRGATE_CACHE to a folder "
            "with more."
        )
    with progress(f"Fetching {what}, MB", quiet) as (started, advance), ThreadPoolExecutor(_AT_ONCE) as pool:
        started(-(-size // _MB))
        count = _megabytes(advance)
        try:
            for done in as_completed([pool.submit(_get, store, one, path, error, count) for one, path in missing]):
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return paths


def _is_there(one: _Object, path: Path) -> bool:
    return one.certain and path.is_file() and path.stat().st_size == one.size


def _get(store: Any, one: _Object, path: Path, error: type[DrgateError], count: Callable[[int], None]) -> None:
    scheme, _, remote = one.address.partition("://")
    _sweep(path)
    try:
        with replacing(path) as temporary:
            store.get_file(remote, str(temporary), callback=_Counter(count))
            if (found := temporary.stat().st_size) != one.size:
                raise error(f"{one.address} has {one.size} bytes, but {found} arrived. Fetch it again.")
            if one.checksum and _digest(temporary, one.checksum[0]) != one.checksum[1]:
                raise error(f"{one.address} did not arrive intact: its {one.checksum[0]} differs. Fetch it again.")
    except Exception as problem:  # the libraries raise many kinds without a common base class
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # where nothing is in it
        if isinstance(problem, DrgateError):
            raise
        raise error(f"{one.address} cannot be fetched: {_reason(problem, scheme)}.") from problem


def _sweep(path: Path) -> None:
    """Remove what processes left that were killed while they fetched this file."""
    for left in path.parent.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()


def _megabytes(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Advances by whole megabytes, of bytes that several threads count."""
    lock, bytes_done, shown = threading.Lock(), 0, 0

    def count(more: int) -> None:
        nonlocal bytes_done, shown
        with lock:
            bytes_done += more
            advance(bytes_done // _MB - shown)
            shown = bytes_done // _MB

    return count


def _Counter(count: Callable[[int], None]) -> Any:  # noqa: N802  # a class, made here because fsspec is slow to import
    from fsspec.callbacks import Callback

    class Counter(Callback):  # type: ignore[misc]  # fsspec has no types
        """Reports the bytes of one file."""

        def call(self, hook_name: str | None = None, **_: Any) -> None:
            done = int(self.value)
            count(done - self.shown)
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


def _cache(error: type[DrgateError]) -> Path:
    if own := os.environ.get("DRGATE_CACHE"):
        if own.lower() == "none":
            raise error("DRGATE_CACHE is none, and files of a bucket need a folder; set it to one.")
        return Path(own).expanduser()
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:  # the XDG specification ignores a relative path
        return (given if given.is_absolute() else Path.home() / ".cache") / "drgate" / "fetched"
    except RuntimeError:
        raise error("You have no home folder; set DRGATE_CACHE to a folder for files of a bucket.") from None


@contextlib.contextmanager
def _telling(uri: str, scheme: str, error: type[DrgateError]) -> Iterator[None]:
    """Raise what the libraries raise as one sentence, without their logs and warnings."""
    try:
        with silenced(*_LIBRARIES):
            yield
    except DrgateError:
        raise
    except ImportError as problem:
        extra = install(_EXTRAS[scheme])
        raise error(f"{uri} needs a package that is not installed ({problem}). {extra}") from problem
    except Exception as problem:  # the libraries raise many kinds without a common base class
        raise error(f"{uri} cannot be fetched: {_reason(problem, scheme)}.") from problem


def _reason(problem: Exception, scheme: str) -> str:
    text = " ".join(str(problem).split())
    text = re.sub(r"(\w://)[^\s/@]*@", r"\1", re.sub(r"\?[^\s\"'>]*", "", text))  # signatures and passwords of URLs
    text = text[:160].rstrip(".")
    if isinstance(problem, FileNotFoundError):
        return "there is no such object, or you have no access to it"
    code = getattr(problem, "code", None) or getattr(getattr(problem, "response", None), "status_code", None)
    if isinstance(problem, PermissionError) or code in (401, 403) or re.search("forbidden|credentials", text, re.I):
        return f"you have no access to it ({text}); {_LOGIN[scheme]}"
    return f"{type(problem).__name__}: {text}"
