"""A grader in Python: somebody's own code, run in a process of its own that gets no keys.

    with_code = PythonGrader(Path("model.pth"), "grader.py:load")
    outputs = with_code.outputs(batch)
    with_code.finish()              # its process has ended, and its files are the same as before

The process (`grader_child.py`) gets an environment of a few harmless variables, an empty working folder, and limits of
memory and time. It runs as the same user: docs/security.md says what that means. Its code is run from the bytes that
were hashed; its other files are hashed before it starts and after it ended.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from drgate import limits
from drgate.answers import SINGLE, Answer
from drgate.errors import CheckpointError, UsageError, brief, visible
from drgate.evaluation import Role, Subject
from drgate.files import digest_of, entries, files_below, in_bytes, parse_json
from drgate.models import classes_of
from drgate.preprocessing import Preprocessing, PreprocessingError, parse_preprocessing, read_preprocessing
from drgate.scale import GRADES, Kind
from drgate.vision.grader_child import LENGTHS
from drgate.vision.model_files import MAX_BYTES, copy_and_hash
from drgate.vision.stated import agreed

KIND: Final = "python grader"

SEEN: Final = (
    *("PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV"),
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_PATH"),
)
"""The variables of the environment that a grader sees, besides those that begin with `SEEN_GROUPS`."""
SEEN_GROUPS: Final = ("LC_", "OMP_", "MKL_", "OPENBLAS_")

SAME_BATCH: Final = 1e-4
OTHER_BATCH: Final = 1e-2
"""Largest difference between two answers for one image that is rounding, as a fraction of the largest answer (at least
1). In a batch of another size, a GPU rounds otherwise: to 11 bits (TF32) or fewer."""
REPEATED: Final = 3
"""Images that are given again in other batches."""

_POLL: Final = 0.1
_SETTINGS: Final = (".json", ".yaml", ".yml", ".toml", ".txt", ".cfg", ".ini")
_Images = NDArray[np.float32] | Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class _Module:
    """One module of the grader's own code. source: absent for a compiled one."""

    name: str
    file: _File
    source: bytes | None
    package: bool


@dataclass(frozen=True, slots=True)
class _File:
    """A file and which one it was when it was hashed: another one under its name, or written again, differs."""

    path: Path
    subject: Subject
    state: tuple[int, ...]

    @property
    def changed(self) -> bool:
        try:
            return _state(self.path) != self.state or _hashed(self.path, self.subject.role).subject.sha256 != (
                self.subject.sha256
            )
        except (OSError, CheckpointError):
            return True


class PythonGrader:
    """Somebody's code that answers for images. `outputs` takes what its `preprocessing` makes, or the photographs.

    weights: a file, or a folder, whose files are given in order of their names. code: `FILE.py:load` or
    `package.module:load`, a function that takes a list of paths (docs/models.md). A package is looked for in the
    current folder first.

    Raises:
        UsageError: `code` names nothing that is there, or the stated preprocessing is another one.
        CheckpointError: the code fails, takes too long or too much memory, or gives something else than a grader.
    """

    precision = None
    record = None
    fingerprint = None
    unknown_data = ""

    def __init__(self, weights: Path, code: str, preprocess: Preprocessing | None = None) -> None:
        if not hasattr(os, "fork"):
            raise UsageError("A grader in Python needs Linux or macOS; export the model to ONNX and give that.")
        self._code = code
        module, function = _parts(code)
        modules = _modules(module, code)
        given = [_hashed(path, "data") for path in _weights(weights)]
        room = sum(file.subject.size for file in given)
        self._child = _Child(f"The grader {code}", limits.GRADER_MEMORY + 4 * room)
        try:
            head = {
                "do": "load",
                "module": modules[0].name if module.endswith(".py") else module,
                "function": function,
                "weights": [str(file.path) for file in given],
                "modules": [
                    {
                        "name": one.name,
                        "path": str(one.file.path),
                        "package": one.package,
                        "size": None if one.source is None else len(one.source),
                    }
                    for one in modules
                ],
            }
            seconds = limits.GRADER_LOAD_SECONDS + room / (8 << 20)
            said, _ = self._child.ask(head, [one.source or b"" for one in modules], seconds, "loading")
            self._files = self._all_files(given, [one.file for one in modules], said.get("files"))
            self.answer = self._answer(said.get("kind"), said.get("classes"))
            self.preprocessing = self._prepared(said.get("preprocessing"), preprocess)
        except BaseException:
            self._child.end()
            raise
        self.files = tuple(file.subject for file in self._files)
        self.providers: list[str] = []
        self.software: dict[str, str] = {}
        self._first: tuple[_Images, NDArray[np.float32]] | None = None

    @property
    def tensor_digest(self) -> str:
        files = sorted((file.name, file.role, file.sha256) for file in self.files)
        prepared = "as decoded" if self.preprocessing is None else self.preprocessing.digest
        return digest_of(["drgate python 1", self._code_name, files, self.answer.kind, self.answer.classes, prepared])

    @property
    def _code_name(self) -> str:
        module, function = _parts(self._code)
        return f"{Path(module).name if module.endswith('.py') else module}:{function}"

    @property
    def description(self) -> dict[str, Any]:
        return {"kind": KIND}

    @property
    def notes(self) -> list[str]:
        others = [f"{name} {version}".strip() for name, version in sorted(self.software.items())]
        found = [
            f"A grader in Python gave the answers ({self._code_name}). The certificate covers its weights and its own "
            f"code. Other code is not certified: {', '.join(others) or 'none was imported'}."
        ]
        if self.preprocessing is None:
            found.append("The grader prepares the photographs by its own code; it was given all pixels as decoded.")
        return found

    def outputs(self, batch: _Images) -> NDArray[np.float32]:
        """Outputs (n, answer.width) for preprocessed images, or for a list of photographs (height, width, 3) in uint8.

        Of the first batch, some images are given again: in another order, once more, and one alone.

        Raises CheckpointError for answers of another shape or type, and where the same image gets another answer.
        """
        found = self._ask(batch)
        if self._first is None:
            few = batch[:REPEATED][::-1]
            again = self._compare(few, found[: len(few)][::-1], OTHER_BATCH, "in another batch")
            self._compare(few, again, SAME_BATCH, "in the same batch")
            self._compare(batch[:1], found[:1], OTHER_BATCH, "alone")
            self._first = few, again
        return found

    def finish(self) -> None:
        """End its process, after a last look at whether it still gives the answers that it gave first.

        Raises CheckpointError where it does not, where a process of its cannot be ended, and where one of its files
        changed since it was loaded.
        """
        if self._first is not None:
            self._compare(*self._first, SAME_BATCH, "after all others")
        said, _ = self._child.ask({"do": "environment"}, (), limits.GRADER_SECONDS, "saying what it imported")
        software, device = said.get("software"), said.get("device")
        if not isinstance(software, dict) or not isinstance(device, str):
            raise CheckpointError(f"The grader {self._code} does not say what it imported; start again.")
        self.software = {visible(name)[:80]: visible(version)[:80] for name, version in software.items()}
        self.providers = [visible(device)[:80]]
        self.end()
        for file in self._files:
            if file.changed:
                raise CheckpointError(
                    f"{file.path} was changed or replaced while the grader ran; nothing shows which file gave the "
                    "answers. Start again when nothing writes it."
                )

    def end(self) -> None:
        """End its process and all that this one started, and wait until they have ended."""
        self._child.end()

    def _ask(self, batch: _Images) -> NDArray[np.float32]:
        n, width = len(batch), self.answer.width
        head: dict[str, Any] = {"do": "predict"}
        if isinstance(batch, np.ndarray):
            head["shape"] = batch.shape
        else:
            head["shapes"] = [image.shape for image in batch]
        seconds = limits.GRADER_SECONDS + limits.GRADER_IMAGE_SECONDS * n
        pixels = [np.ascontiguousarray(image).tobytes() for image in batch]
        said, body = self._child.ask(head, pixels, seconds, f"grading {n} images", 4 * n * width)
        if said.get("shape") != [n, width] or len(body) != 4 * n * width:
            raise CheckpointError(
                f"The grader {self._code} answers {brief(said.get('shape'))} numbers for {n} images; expected "
                f"({n}, {width}): {self.answer.kind}" + (f" of {', '.join(self.answer.classes)}." if width > 1 else ".")
            )
        return np.frombuffer(body, "<f4").reshape(n, width).astype(np.float32)

    def _compare(self, batch: _Images, expected: NDArray[np.float32], within: float, how: str) -> NDArray[np.float32]:
        """The answers for a batch, which are the expected ones."""
        found = self._ask(batch)
        largest = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
        if np.allclose(found, expected, rtol=0, atol=within * largest, equal_nan=True):
            return found
        with np.errstate(invalid="ignore"):
            furthest = np.nanmax(np.abs(found - expected), initial=0.0)
        raise CheckpointError(
            f"The grader {self._code} gives the same image another answer {how} (they differ by up to {furthest:.2g}); "
            "an answer may depend on its image alone. Switch off what is random (dropout: model.eval()) and what looks "
            "at the whole batch."
        )

    def _all_files(self, given: list[_File], code: list[_File], named: Any) -> list[_File]:
        """The files by role, the model first: those that it names, all weights that it was given, and its code."""
        if not isinstance(named, list) or not named or not all(isinstance(one, str) for one in named):
            raise CheckpointError(f"The grader {self._code} names no files; expected its weights first, as paths.")
        if len(named) > limits.GRADER_FILES:
            raise CheckpointError(f"The grader {self._code} names more than {limits.GRADER_FILES} files.")
        weights = {str(file.path): file for file in given}
        links = {os.path.realpath(path): path for path in weights}
        named = [path if path in weights else links.get(os.path.realpath(path), path) for path in named]
        if named[0] not in weights:
            raise CheckpointError(
                f"The grader {self._code} names {visible(named[0])} as its first file; expected one of the files that "
                "load was given."
            )
        own = {str(file.path) for file in code}
        found = []
        for i, path in enumerate(dict.fromkeys([*named, *weights])):
            if path in own and i > 0:
                continue
            role: Role = "model" if i == 0 else "config" if Path(path).suffix.lower() in _SETTINGS else "data"
            file = weights.get(path) or _hashed(Path(path), role)
            found.append(replace(file, subject=replace(file.subject, role=role)))
        found += [file for file in code if file.path != found[0].path]
        names = [file.subject.name for file in found]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise CheckpointError(f"Two files of the grader {self._code} are called {twice}; rename one.")
        return found

    def _answer(self, kind: Any, classes: Any) -> Answer:
        if kind not in get_args(Kind):
            raise CheckpointError(
                f"The grader {self._code} is of the kind {brief(kind)}; expected one of {', '.join(get_args(Kind))}."
            )
        if kind in SINGLE:
            if classes:
                raise CheckpointError(f"The grader {self._code}: {kind} has no classes; let classes be None.")
            return Answer(kind, ())
        if not isinstance(classes, list) or not all(type(one) in (str, int) for one in classes):
            raise CheckpointError(
                f"The grader {self._code} has {brief(classes)} as classes; expected the grade of each output in order, "
                f"such as {[*GRADES]}."
            )
        names = [str(one) for one in classes]
        remedy = f"Give the grade of each output in order, such as {[*GRADES]}."
        return Answer(kind, classes_of(names, f"The grader {self._code}", remedy), tuple(names))

    def _prepared(self, own: Any, stated: Preprocessing | None) -> Preprocessing | None:
        if own is None:
            if stated is not None:
                raise UsageError(
                    f"The grader {self._code} prepares photographs itself (its preprocessing is None); leave "
                    "--preprocess out."
                )
            return None
        try:
            origin = f"The preprocessing of the grader {self._code}"
            read = parse_preprocessing(own) if isinstance(own, str) else read_preprocessing(own, origin)
        except PreprocessingError as problem:
            raise CheckpointError(f"The grader {self._code}: {problem}") from problem
        return agreed(read, stated, f"the grader {self._code}")


def _parts(code: str) -> tuple[str, str]:
    """The file or module, and the function. Raises UsageError for another form."""
    module, _, function = code.rpartition(":")
    named = module.endswith(".py") or all(part.isidentifier() for part in module.split("."))
    if not named or not function.isidentifier():
        raise UsageError(f"--grader {code[:100]!r} is not FILE.py:load or package.module:load.")
    return module, function


def _weights(source: Path) -> list[Path]:
    """The file, or the files of the folder by name, hidden ones left out."""
    if source.is_dir():
        found = [
            path
            for path in entries(source.absolute(), CheckpointError, limit=limits.GRADER_FILES)
            if path.is_file() and not path.name.startswith(".")
        ]
        if not found:
            raise CheckpointError(f"{source} holds no files; expected the weights that the grader loads.")
        return found
    if not source.is_file():
        raise CheckpointError(f"{source} does not exist; expected the weights that the grader loads.")
    return [source.absolute()]


def _modules(module: str, code: str) -> list[_Module]:
    """The grader's own code, found without running any of it: its file, or all modules of its top package."""
    if module.endswith(".py"):
        path = Path(module)
        if not path.is_file():
            raise UsageError(f"--grader names {module}, which does not exist; expected FILE.py:load.")
        return [_module(path.stem.replace(".", "_"), path.absolute(), path.name)]
    top, *rest = module.split(".")
    importlib.invalidate_caches()
    found = importlib.machinery.PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    with contextlib.suppress(ValueError, ImportError):
        found = found or importlib.util.find_spec(top)  # of a top package, this imports nothing
    if found is None or not (found.submodule_search_locations or found.has_location):
        raise UsageError(f"--grader {code}: there is no package {top} in the current folder or among those installed.")
    if found.submodule_search_locations is None:
        assert found.origin is not None, "it has a location"
        if rest:
            raise UsageError(f"--grader {code}: {top} is a module, not a package.")
        return [_module(top, Path(found.origin), Path(found.origin).name)]
    modules: dict[str, _Module] = {}
    size = 0
    endings = (*importlib.machinery.EXTENSION_SUFFIXES, ".py")
    for folder in map(Path, found.submodule_search_locations):
        for path in sorted(files_below(folder, CheckpointError, hidden=False)):
            ending = next((one for one in endings if path.name.endswith(one)), None)
            if ending is None:
                continue
            parts = [top, *path.relative_to(folder).parts]
            name = ".".join([*parts[:-1], parts[-1].removesuffix(ending)])
            own = _module(name.removesuffix(".__init__"), path.absolute(), ".".join(parts))
            size += own.file.subject.size
            if modules.setdefault(own.name, own) is not own:
                raise CheckpointError(f"The package {top} has the module {own.name} twice; rename one.")
            if len(modules) > limits.GRADER_FILES or size > limits.GRADER_CODE:
                raise CheckpointError(
                    f"The package {top} has more than {limits.GRADER_FILES} modules or {in_bytes(limits.GRADER_CODE)}, "
                    "which all would be certified; put the grader into a file or a package of its own."
                )
    if module not in modules:
        raise UsageError(f"--grader {code}: the package {top} has no module {module}.")
    return [*modules.values()]


def _module(name: str, path: Path, shown: str) -> _Module:
    """One module, by the bytes that are hashed."""
    content = io.BytesIO() if path.suffix == ".py" else None
    file = _hashed(path, "code", content)
    file = replace(file, subject=replace(file.subject, name=shown))
    return _Module(name, file, None if content is None else content.getvalue(), path.name == "__init__.py")


def _hashed(path: Path, role: Role, to: io.BytesIO | None = None) -> _File:
    """A file's facts, and its bytes where they are wanted. Raises CheckpointError where it cannot be read."""
    try:
        state = _state(path)
        with Path(os.devnull).open("wb") as nowhere:
            limit = MAX_BYTES if to is None else limits.GRADER_CODE
            return _File(path, copy_and_hash(path, role, to or nowhere, limit=limit), state)
    except OSError as problem:
        raise CheckpointError(
            f"{path} cannot be read ({problem.strerror}); expected a file of the grader."
        ) from problem


def _state(path: Path) -> tuple[int, ...]:
    if not path.is_file():  # a pipe would be waited for without end
        raise CheckpointError(f"{path} is not a file; expected a file of the grader.")
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _environment(home: str) -> dict[str, str]:
    """What a grader sees: no keys, tokens or proxies, and a home of its own. Under torchrun, the process's own GPU."""
    found = {name: value for name, value in os.environ.items() if name in SEEN or name.startswith(SEEN_GROUPS)}
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        devices = [one for one in found.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
        found["CUDA_VISIBLE_DEVICES"] = devices[local] if local < len(devices) else str(local)
    asked = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # `python -m drgate` puts the current folder there, `drgate` does not.
    paths = [path for path in sys.path if path and (Path(path) != Path.cwd() or path in asked)]
    own = {"HOME": home, "TMPDIR": home, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"}
    return found | own | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


class _Child:
    """The process of a grader, and the pipes to it."""

    def __init__(self, who: str, memory: int) -> None:
        self.who, self.memory = who, memory
        folder = tempfile.mkdtemp(prefix="drgate-")
        theirs, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        waits, lifeline = os.pipe()
        for pipe in (self._requests, self._answers):
            os.set_blocking(pipe, False)
        try:
            # -P: modules beside grader_child.py, such as images.py, are not imported for others of their name.
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-B", "-P", str(Path(__file__).with_name("grader_child.py"))),
                    *map(str, (theirs, answers, waits, memory)),
                ],
                env=_environment(folder),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs, answers, waits),
                start_new_session=True,  # Ctrl-C reaches drgate, which ends it
            )
        finally:
            for pipe in (theirs, answers, waits):
                os.close(pipe)
        pipes = (lifeline, self._requests, self._answers)
        self._finalizer = weakref.finalize(self, _end, self._process, pipes, folder)
        self.printed = ""
        self._status: object = None

    def ask(
        self, head: dict[str, Any], body: Sequence[bytes], seconds: float, what: str, most: int = 0
    ) -> tuple[dict[str, Any], bytes]:
        """The head and the body of the answer to a request.

        seconds: for the whole of it. what: for messages. most: bytes of the answer's body. Raises CheckpointError, with
        the process ended, for whatever is not an answer.
        """
        if not self._finalizer.alive:
            raise CheckpointError(f"{self.who} has ended; load it again.")
        try:
            until = time.monotonic() + seconds
            text = json.dumps(head).encode()
            for part in (LENGTHS.pack(len(text), sum(map(len, body))), text, *body):
                self._send(part, until)
            sizes = LENGTHS.unpack(self._receive(LENGTHS.size, until))
            if sizes[0] > limits.GRADER_HEAD:
                raise CheckpointError(f"{self.who} answers something else than its own protocol while {what}.")
            said = parse_json(self._receive(sizes[0], until), self.who, "its answer", CheckpointError)
            if not isinstance(said, dict):
                raise CheckpointError(f"{self.who} answers something else than its own protocol while {what}.")
            given = self._receive(sizes[1], until) if sizes[1] <= most else b""
        except TimeoutError as problem:
            self.end()
            raise CheckpointError(
                f"{self.who} took more than {seconds:.0f} seconds for {what}; it was ended.{self.printed}"
            ) from problem
        except (OSError, EOFError) as problem:
            raise CheckpointError(f"{self.who} {self._how_it_ended()} while {what}.{self.printed}") from problem
        except BaseException:
            self.end()
            raise
        if said.get("memory"):
            self.end()
            raise CheckpointError(
                f"{self.who} needs more than {in_bytes(self.memory)} of memory for {what}; it was ended.{self.printed}"
            )
        for key, reason in (("refused", "{}"), ("error", "failed while {what}. In its own words: {}")):
            if key in said:
                self.end()
                words = visible(said[key])[:500]
                sentence = reason.replace("{what}", what).replace("{}", words)
                raise CheckpointError(f"{self.who} {sentence.rstrip('.')}.{self.printed}")
        if sizes[1] > most:  # what it refused for its shape has no body that is read
            self.end()
        return said, given

    def end(self) -> None:
        """End the process and all that it started, and wait for them; close what belongs to it.

        Raises CheckpointError where one of them cannot be ended.
        """
        report = self._finalizer()
        if report is None:
            return
        lines = str(report.get("printed", "")).strip().splitlines()
        if lines:
            self.printed = f" It printed last: {visible(lines[-1].strip())[:200]!r}."
        self._status = report.get("status")
        if report.get("left") is not False:
            raise CheckpointError(f"{self.who} started processes that could not be ended; nothing is signed.")

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)  # its pipe is closed a moment before it has ended
        self.end()
        status = self._status
        if not isinstance(status, int) or status >= 0:
            return f"ended itself (exit code {status})"
        return f"was ended by signal {-status} (9 and 6: often for memory)"

    def _send(self, data: bytes, until: float) -> None:
        rest = memoryview(data)
        while rest:
            self._wait(self._requests, select.POLLOUT, until)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self._requests, rest[: 1 << 20]) :]

    def _receive(self, length: int, until: float) -> bytes:
        found = bytearray()
        while len(found) < length:
            self._wait(self._answers, select.POLLIN, until)
            with contextlib.suppress(BlockingIOError):
                part = os.read(self._answers, min(length - len(found), 1 << 20))
                if not part:
                    raise EOFError
                found += part
        return bytes(found)

    def _wait(self, pipe: int, what: int, until: float) -> None:
        """Wait until a pipe is ready. Raises TimeoutError after `until`, EOFError where the process has ended."""
        ready = select.poll()
        ready.register(pipe, what)
        while time.monotonic() < until:
            if ready.poll(1000 * _POLL):
                return
            if self._process.poll() is not None:
                raise EOFError
        raise TimeoutError


def _end(process: subprocess.Popen[bytes], pipes: Sequence[int], folder: str) -> dict[str, Any]:
    """Close the pipes, the lifeline first, and wait until the process has ended its grader; what it says of that."""
    for pipe in pipes:
        os.close(pipe)
    try:
        written, _ = process.communicate(timeout=30)
        found = parse_json(written[-limits.GRADER_HEAD :], "its end", "its answer", CheckpointError)
    except (subprocess.TimeoutExpired, CheckpointError):
        process.kill()
        process.wait()
        found = None
    shutil.rmtree(folder, ignore_errors=True)
    return found if isinstance(found, dict) else {"left": True}
