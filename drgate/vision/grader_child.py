"""The process that a grader in Python runs in: `python grader_child.py REQUESTS ANSWERS LIFELINE MEMORY`.

The first three are file descriptors. This process watches, and runs nothing of the grader; a second one, which it
forks, imports the grader and answers requests. When the lifeline is closed, or the second process ends, it ends all
processes that the grader started, also those that left its group, and writes how it ended as JSON on standard output.

A message is the length of its head and of its body (8 bytes each, little-endian), the head in JSON, and the body:
the source of modules, pixels, or answers. It imports nothing of drgate, so that it starts in a moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.machinery
import importlib.util
import json
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

LENGTHS = struct.Struct("<QQ")
FILE_BYTES = 1 << 30
"""Of a file that the grader writes."""
KEPT = 2_000
"""Bytes of what it prints, from the end."""
ENDING_SECONDS = 10.0
_SUBREAPER, _DEATH_SIGNAL = 36, 1
"""prctl: orphans become this process's children; the kernel ends this process with its parent."""


def main(requests: int, answers: int, lifeline: int, memory: int) -> None:
    """Fork the grader, wait until it ends or is no longer wanted, and leave no process behind."""
    _prctl(_SUBREAPER, 1)
    printed, out = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(lifeline)
        with contextlib.suppress(BaseException):
            _work(requests, answers, out, memory)
        os._exit(70)
    for own in (requests, answers, out):
        os.close(own)
    os.set_blocking(printed, False)
    tail, reading = b"", [lifeline, printed]
    while True:
        ready = select.select(reading, [], [], 0.05)[0]
        if printed in ready:
            if not (part := _read(printed)):
                reading.remove(printed)
            tail = (tail + part)[-KEPT:]
        ended, status = os.waitpid(worker, os.WNOHANG)
        if ended or lifeline in ready:
            break
    left = not _end_all(worker, ended=bool(ended))
    while part := _read(printed):
        tail = (tail + part)[-KEPT:]
    exit_code = os.waitstatus_to_exitcode(status)
    print(json.dumps({"status": exit_code, "left": left, "printed": tail.decode(errors="replace")}))


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 1 << 16)
    except BlockingIOError:
        return b""


def _end_all(worker: int, *, ended: bool) -> bool:
    """End the worker and whatever it started; whether no such process is left."""
    until = time.monotonic() + ENDING_SECONDS
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has no group yet, or none any more
        os.killpg(worker, signal.SIGKILL)
    if not ended:
        os.kill(worker, signal.SIGKILL)
    while time.monotonic() < until:
        for child in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
        except ChildProcessError:
            return True
    return False


def _children() -> list[int]:
    """The children of this process, where /proc lists processes."""
    found, me = [], str(os.getpid())
    with contextlib.suppress(FileNotFoundError):
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError), (process / "stat").open("rb") as about:
                if process.name.isdigit() and about.read(1024).rpartition(b")")[2].split()[1].decode() == me:
                    found.append(int(process.name))
    return found


class Refused(Exception):
    """What the grader did is not what docs/models.md says; the message completes a sentence about it."""


class Sources(importlib.machinery.SourceFileLoader):
    """Modules of the grader's own code, from the bytes that were hashed, under their own paths."""

    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._source)


class Finder:
    """Finds the grader's own modules before all others, and none in its package that was not hashed."""

    def __init__(self, modules: dict[str, dict[str, Any]]) -> None:
        self.modules = modules
        self.top = {name.partition(".")[0] for name in modules}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in self.top:
            return None
        if (own := self.modules.get(name)) is not None:
            loader = (
                Sources(name, own["path"], own["source"])
                if own["size"] is not None
                else importlib.machinery.ExtensionFileLoader(name, own["path"])
            )
            folders = [str(Path(own["path"]).parent)] if own["package"] else None
            return importlib.util.spec_from_file_location(
                name, own["path"], loader=loader, submodule_search_locations=folders
            )
        if any(one.startswith(f"{name}.") for one in self.modules):  # a folder without __init__.py
            found = importlib.machinery.ModuleSpec(name, None, is_package=True)
            found.submodule_search_locations = []
            return found
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _work(requests: int, answers: int, out: int, memory: int) -> None:
    """Answer requests until there are no more."""
    os.setpgid(0, 0)
    _prctl(_DEATH_SIGNAL, signal.SIGKILL)
    os.dup2(out, 1)
    os.dup2(out, 2)
    for own in (requests, answers):
        os.set_inheritable(own, False)
    _limit(memory)
    grader, me, before = None, os.getpid(), {*sys.modules}
    while True:
        asked, body = _receive(requests)
        reply: dict[str, Any]
        given = b""
        try:
            match asked["do"]:
                case "load":
                    grader, reply = _load(asked, body)
                case "predict":
                    reply, given = _predict(grader, asked, body)
                case _:
                    reply = _environment({*sys.modules} - before)
        except MemoryError:
            grader, reply = None, {"memory": True}
        except Refused as problem:
            reply = {"refused": str(problem)}
        except BaseException as problem:  # sys.exit in a grader is no end either
            said = " ".join(str(problem).split())  # torch says what does not fit in the lines after the first
            reply = {"error": f"{type(problem).__name__}: {said[:500]}" if said else type(problem).__name__}
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        if os.getpid() != me:
            os._exit(0)  # the grader forked, and this copy came back
        head = json.dumps(reply).encode()
        _send(answers, LENGTHS.pack(len(head), len(given)) + head + given)


def _limit(memory: int) -> None:
    """Limits of memory, of files that are written, and none of the memory's contents on the disk."""
    import resource

    # What CUDA reserves without using it does not count as data, but does as address space.
    room = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    for kind, limit in ((room, memory), (resource.RLIMIT_FSIZE, FILE_BYTES), (resource.RLIMIT_CORE, 0)):
        allowed = resource.getrlimit(kind)[1]
        lower = limit if allowed == resource.RLIM_INFINITY else min(limit, allowed)
        with contextlib.suppress(ValueError, OSError):  # macOS knows this limit and refuses to set it
            resource.setrlimit(kind, (lower, lower))


def _receive(requests: int) -> tuple[Any, memoryview]:
    lengths = LENGTHS.unpack(_exactly(requests, LENGTHS.size))
    head, body = (_exactly(requests, length) for length in lengths)
    return json.loads(bytes(head)), body


def _exactly(pipe: int, length: int) -> memoryview:
    """So many bytes, which can be written to. Ends this process where there are no more."""
    found = memoryview(bytearray(length))
    at = 0
    while at < length:
        part = os.read(pipe, min(length - at, 1 << 20))
        if not part:
            os._exit(0)
        found[at : at + len(part)] = part
        at += len(part)
    return found


def _send(answers: int, message: bytes) -> None:
    rest = memoryview(message)
    while rest:
        rest = rest[os.write(answers, rest) :]


def _load(asked: dict[str, Any], body: memoryview) -> tuple[Any, dict[str, Any]]:
    """The object that the grader's function returns for the weights, and what it says of itself."""
    at, modules = 0, {}
    for own in asked["modules"]:
        size = own["size"] or 0
        modules[own["name"]] = {**own, "source": bytes(body[at : at + size])}
        at += size
    finder = Finder(modules)
    if taken := sorted(finder.top & {*sys.modules, *sys.stdlib_module_names}):
        raise Refused(f"has the name of Python's own module {taken[0]}; rename it")
    sys.meta_path.insert(0, finder)
    module = importlib.import_module(asked["module"])
    function = getattr(module, asked["function"], None)
    if not callable(function):
        raise Refused(f"has no function {asked['function']}")
    grader = function([Path(one) for one in asked["weights"]])
    for name in ("files", "kind", "classes", "preprocessing", "predict"):
        if not hasattr(grader, name):
            raise Refused(f"gave {_kind(grader)} without {name}; expected files, kind, classes, preprocessing, predict")
    files = grader.files
    if isinstance(files, str | bytes | os.PathLike) or not isinstance(files, Sequence):
        raise Refused(f"has {_kind(files)} as files; expected a list of paths")
    said = {
        "files": [str(Path.cwd() / os.fsdecode(one)) for one in files],
        "kind": _plain(grader.kind, "kind"),
        "classes": None if grader.classes is None else _plain(list(grader.classes), "classes"),
        "preprocessing": _plain(grader.preprocessing, "preprocessing"),
    }
    return grader, said


def _plain(value: Any, name: str) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as problem:
        raise Refused(f"has {_kind(value)} as {name}, with something else than text, numbers and lists") from problem


def _predict(grader: Any, asked: dict[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
    """The answers for one batch as (n, k) in 32-bit floats."""
    import numpy as np

    batch: Any
    if "shape" in asked:
        batch = np.frombuffer(body, np.float32).reshape(asked["shape"])
    else:
        batch, at = [], 0
        for shape in asked["shapes"]:
            size = shape[0] * shape[1] * shape[2]
            batch.append(np.frombuffer(body[at : at + size], np.uint8).reshape(shape))
            at += size
    answer = grader.predict(batch)
    if hasattr(answer, "detach"):  # torch
        answer = answer.detach().cpu()
    try:
        values = np.asarray(answer)
    except ValueError as problem:
        raise Refused("answers with lists of different lengths; expected (n, k) numbers") from problem
    if values.dtype.kind not in "fiu":
        raise Refused(f"answers with {values.dtype.name if values.dtype.kind != 'U' else 'text'}; expected numbers")
    with np.errstate(over="ignore"):  # a number that 32 bits do not hold is no answer
        given = np.ascontiguousarray(values, dtype="<f4")
    return {"shape": list(values.shape)}, given.tobytes()


def _environment(modules: set[str]) -> dict[str, Any]:
    """What was imported of these modules besides the grader's own code and Python's library, and the device."""
    from importlib.metadata import PackageNotFoundError, packages_distributions, version

    own = {name for finder in sys.meta_path if isinstance(finder, Finder) for name in finder.top}
    imported = {
        name.partition(".")[0]
        for name in modules
        if isinstance(module := sys.modules.get(name), ModuleType) and getattr(module, "__file__", None)
    }
    imported -= {*sys.stdlib_module_names, *own}
    installed, software = packages_distributions(), {}
    for name in sorted(imported):
        for distribution in installed.get(name, [name]):
            try:
                software[distribution] = version(distribution)
            except PackageNotFoundError:
                software[distribution] = ""
    device = "cpu"
    if (torch := sys.modules.get("torch")) is not None:
        with contextlib.suppress(Exception):
            if torch.cuda.is_initialized():
                device = f"cuda:{torch.cuda.get_device_name()}"
    return {"software": software, "device": device}


def _kind(value: Any) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
