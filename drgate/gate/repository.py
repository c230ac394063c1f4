"""A Git repository as the gate reads it: the files of a commit and the staged files, never the working tree.

    with open_repository(Path()) as repository:
        base, head = repository.commit("origin/main"), repository.staged()
        head.read("drgate.toml", limit=1 << 20, what="a policy")

In CI, after a checkout, the staged files are those of the commit that was checked out; before a commit they are what
will be committed. Every byte comes from Git by object id: no symbolic link is followed, no name reaches a shell, and a
file's size is known before it is read. A model may be there as itself, as a Git LFS pointer or as a DVC file.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import os
import re
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from drgate import limits
from drgate.errors import RepositoryError, visible
from drgate.files import in_bytes, plain_yaml
from drgate.line_ends import changed, original_of

MAX_POINTER_BYTES: Final = limits.YAML_BYTES
MAX_FILES: Final = limits.TRACKED_FILES
DVC: Final = ".dvc"
_SETTINGS: Final = (
    # A folder of the change with the files of a bare repository would be used as one, with its configuration.
    "safe.bareRepository=explicit",
    # Programs that the configuration of a clone can name.
    "core.fsmonitor=false",
    f"core.hooksPath={os.devnull}",
    # Of a large file, the first bytes can be had without unpacking all of it.
    "core.bigFileThreshold=1m",
)
_GIT: Final = ("git", *(word for setting in _SETTINGS for word in ("-c", setting)))
_CHUNK: Final = 1 << 20
_POINTER: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*version [\x00-\xff]*(?:git-lfs|git-media|hawser)")
"""What Git LFS would read as a pointer, in any form, also behind a byte order mark."""
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LFS: Final = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (0|[1-9][0-9]{0,15})\n"
)
_DVC: Final = re.compile(
    rb"outs:\n- md5: (?=[0-9a-f]*[abcdf])([0-9a-f]{32})\n  size: (0|[1-9][0-9]{0,15})\n(  hash: md5\n)?"
    rb"  path: ([A-Za-z_][\w-]*(?:\.[\w-]+)*\.[A-Za-z][\w-]*)\n(?(3)|(  hash: md5\n)?)"  # at the end: dvc cache migrate
)
"""A DVC file of one file in the form that DVC writes, in which a reader of YAML sees nothing else."""
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
REGULAR: Final = ("100644", "100755")
LINK: Final = "120000"
SUBMODULE: Final = "160000"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a tree. path: from the root, with /. mode: as in Git. oid: object id of its content."""

    path: str
    mode: str
    oid: str


@dataclass(frozen=True, slots=True)
class Content:
    """Size and digests of a file, also where the repository holds only a pointer to it.

    kind: "file", "lfs" or "dvc". size: in bytes. sha256, md5: lower-case hex; a DVC file gives MD5, the others
    SHA-256. dvc2: by DVC 2, whose MD5 of a text is over it with Unix line ends.
    """

    kind: str
    size: int
    sha256: str = ""
    md5: str = ""
    dvc2: bool = False


@dataclass(frozen=True)
class Tree:
    """The files of one commit, or the staged files. commit: its object id, "" for the staged files."""

    name: str
    entries: Mapping[str, Entry] = field(repr=False)
    repository: Repository = field(repr=False)
    commit: str = ""

    def has(self, path: str) -> bool:
        """Whether there is a file, a link or a submodule with this path."""
        return path in self.entries

    def below(self, folder: str) -> list[Entry]:
        """The files below a folder, by name."""
        return [self.entries[path] for path in sorted(self.entries) if path.startswith(f"{folder}/")]

    def read(self, path: str, *, limit: int, what: str) -> bytes:
        """The content of a file. Raises RepositoryError where it is missing, a link, or larger than `limit` bytes."""
        entry = self.entries.get(path)
        if entry is None:
            raise RepositoryError(f"{visible(path)} is not in {self.name}; expected {what}.")
        if entry.mode not in REGULAR:
            raise RepositoryError(
                f"{visible(path)} in {self.name} is a symbolic link or a submodule, which is never followed; expected "
                f"{what}."
            )
        size = self.repository.size(entry.oid)
        if size > limit:
            raise RepositoryError(
                f"{visible(path)} in {self.name} is larger than {in_bytes(limit)} ({size} bytes); expected {what}."
            )
        return self.repository.read(entry.oid)

    def content(self, entry: Entry) -> Content:
        """Size and digest of the file, or of the file behind an LFS pointer.

        Raises RepositoryError for a link, a submodule, and a pointer that is damaged or in another format.
        """
        if entry.mode not in REGULAR:
            raise RepositoryError(
                f"{visible(entry.path)} in {self.name} is a symbolic link or a submodule, which is never followed; "
                "use the file itself, an LFS pointer or a DVC file."
            )
        size = self.repository.size(entry.oid)
        if size > MAX_POINTER_BYTES:
            return Content("file", size, sha256=self.repository.sha256(entry.oid))
        data = self.repository.read(entry.oid)
        if not _POINTER.match(data[2:2048].replace(b"\0", b"") if data.startswith(_UTF_16) else data[:1024]):
            return Content("file", size, sha256=hashlib.sha256(data).hexdigest())
        found = _LFS.fullmatch(data)
        if found is None:
            origin = f"{visible(entry.path)} in {self.name} is a Git LFS pointer that"
            if what := original_of(data, lambda original: _LFS.fullmatch(original) is not None):
                raise RepositoryError(f"{origin} {changed(what, 'filter=lfs diff=lfs merge=lfs -text')}")
            raise RepositoryError(
                f"{origin} cannot be read; expected version, oid sha256 and size, without extensions."
            )
        return Content("lfs", int(found[2]), sha256=found[1].decode())

    def tracked_by_dvc(self, entry: Entry) -> dict[str, Content]:
        """The files behind a DVC file, by their path from the root.

        Raises RepositoryError for other content, for folders (`.dir`), and for files that are not beside the DVC file.
        """
        data = self.read(entry.path, limit=MAX_POINTER_BYTES, what="a DVC file")
        if usual := _DVC.fullmatch(data):
            md5, size, before, name, after = (part.decode() if part else "" for part in usual.groups())
            content = Content("dvc", int(size), md5=md5, dvc2=not (before or after))
            return {str(PurePosixPath(entry.path).with_name(name)): content}
        origin = f"{visible(entry.path)} in {self.name}"
        said = self._parsed(entry, data, origin)
        outs = said.get("outs") if isinstance(said, dict) else None
        if not isinstance(outs, list) or not outs:
            raise RepositoryError(f"{origin} lists no outs; expected a DVC file.")
        if "wdir" in said:
            raise RepositoryError(
                f"{origin} tracks files in another folder (wdir); track each file beside its DVC file."
            )
        found = {}
        for out in outs:
            path, md5, size = (out.get(key) if isinstance(out, dict) else None for key in ("path", "md5", "size"))
            if isinstance(md5, str) and md5.endswith(".dir"):
                raise RepositoryError(f"{origin} tracks a folder (.dir); track each file of the model separately.")
            if (
                not isinstance(path, str)
                or "/" in path
                or "\\" in path
                or path in ("", ".", "..")
                or not isinstance(md5, str)
                or not _MD5.fullmatch(md5)
                or type(size) is not int
                or size < 0
                or out.get("hash", "md5") != "md5"
            ):
                raise RepositoryError(
                    f"{origin} cannot be read; expected outs with the name of a file beside it, its md5 and its size."
                )
            content = Content("dvc", size, md5=md5, dvc2="hash" not in out)
            found[str(PurePosixPath(entry.path).with_name(path))] = content
        return found

    def _parsed(self, entry: Entry, data: bytes, origin: str) -> Any:
        """What a DVC file says; the same content is parsed once."""
        parsed = self.repository.parsed
        if entry.oid not in parsed:
            if sum(size for size, _ in parsed.values()) + len(data) > limits.POINTERS_BYTES:
                raise RepositoryError(
                    f"{origin} is not read: there are more than {in_bytes(limits.POINTERS_BYTES)} of DVC files in "
                    "another form than DVC writes for one file. List what holds no model in not_models."
                )
            try:
                parsed[entry.oid] = len(data), plain_yaml(data, origin, "a DVC file", RepositoryError)
            except RepositoryError as problem:
                parsed[entry.oid] = len(data), problem
        found = parsed[entry.oid][1]
        if isinstance(found, RepositoryError):
            raise found
        return found


@dataclass(frozen=True)
class Repository:
    """A repository, with one git process for the sizes of objects and one for their bytes."""

    root: Path
    _sizes: _Answers = field(repr=False)
    _bytes: _Answers = field(repr=False)
    _digests: dict[str, str] = field(default_factory=dict, repr=False)
    parsed: dict[str, tuple[int, Any]] = field(default_factory=dict, repr=False)

    def commit(self, ref: str) -> Tree:
        """The files of a commit.

        Raises RepositoryError, with the command that fetches it, where there is no such commit.
        """
        oid = self.resolve(ref)
        listed = _git(self.root, "ls-tree", "-r", "-z", "--full-tree", oid)
        entries = {}
        for line in _lines(listed, f"the commit {ref}"):
            facts, _, path = line.partition("\t")
            mode, _, found = facts.split(" ")
            entries[path] = Entry(path, mode, found)
        return Tree(visible(ref), entries, self, oid)

    def staged(self) -> Tree:
        """The staged files. Raises RepositoryError in the middle of a merge."""
        entries = {}
        for path, mode, oid, number in self._entries("ls-files", "--stage", "-z", "--full-name", "--", ":/"):
            if number != "0":
                raise RepositoryError(f"{visible(path)} has a merge conflict; resolve it and stage the result first.")
            entries[path] = Entry(path, mode, oid)
        return Tree("the staged files", entries, self)

    def resolve(self, ref: str) -> str:
        """The object id of a commit. A branch of this name comes before a tag.

        Raises RepositoryError where this clone has no such commit.
        """
        names = [f"refs/remotes/{ref}", f"refs/heads/{ref}", ref]  # a change may add a tag `origin/main`
        for name in [ref] if _COMMIT.fullmatch(ref) else names:
            found = _run(self.root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
            if not found.returncode:
                break
        else:
            if ref == "HEAD":
                raise RepositoryError("This repository has no commit yet; commit the policy first.")
            raise RepositoryError(
                f"This clone has no commit {visible(ref)!r}. If the clone is shallow, fetch it first "
                f"({visible(self._fetch(ref))}; in GitHub's checkout action: fetch-depth: 0), or name another with "
                "--base-ref."
            )
        return found.stdout.decode().strip()

    def _fetch(self, ref: str) -> str:
        """The command that gets the commit of this name into a shallow clone."""
        if _COMMIT.fullmatch(ref):
            return f"git fetch --depth=1 origin {ref}"
        if re.search(r"[~^@{:]", ref) or re.fullmatch(r"[0-9a-f]{4,63}|HEAD", ref):  # no server knows these names
            return "git fetch --unshallow"
        name = ref.removeprefix("refs/remotes/")
        if name.startswith("refs/"):
            return f"git fetch --depth=1 origin {shlex.quote(f'+{name}:{name}')}"
        remotes = _run(self.root, "remote").stdout.decode(errors="replace").split()
        remote = next((one for one in remotes if name.startswith(f"{one}/")), "origin")
        branch = name.removeprefix(f"{remote}/").removeprefix("refs/heads/")
        return f"git fetch --depth=1 {remote} {shlex.quote(f'+refs/heads/{branch}:refs/remotes/{remote}/{branch}')}"

    def fetched(self, path: str, content: Content, *, limit: int) -> bytes:
        """The bytes behind a pointer, from the working tree, where `git lfs pull` or `dvc pull` put them.

        Raises RepositoryError where they are missing, differ, or are behind a symbolic link.
        """
        file = self.root / path
        links = [self.root / parent for parent in (PurePosixPath(path), *PurePosixPath(path).parents)]
        if any(link.is_symlink() for link in links) or not file.is_file() or content.size > limit:
            raise RepositoryError(
                f"{visible(path)} is a pointer, and its content is not in the working tree as a plain file of at most "
                f"{in_bytes(limit)}; fetch it first (git lfs pull --include, or dvc pull)."
            )
        with file.open("rb") as handle:
            data = handle.read(content.size + 1)
        digest = hashlib.sha256(data).hexdigest()
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if len(data) != content.size or (digest != content.sha256 and md5 != content.md5):
            plain = hashlib.md5(data.replace(b"\r\n", b"\n"), usedforsecurity=False).hexdigest()
            if content.dvc2 and plain == content.md5:
                raise RepositoryError(f"{visible(path)} has other line ends. {of_dvc_2(f'{path}{DVC}')}")
            raise RepositoryError(f"{visible(path)} in the working tree does not match its pointer; fetch it.")
        return data

    def attributes(
        self, files: Sequence[Entry], paths: Sequence[str], names: Sequence[str], *, ignore_case: bool
    ) -> dict[str, dict[str, str]]:
        """The Git attributes of these names that each path has by these .gitattributes files alone, by path.

        ignore_case: as on systems where names in another case are the same. Unset, set and unspecified are in words.
        """
        found: dict[str, dict[str, str]] = {path: {} for path in paths}
        if not files:
            return found
        objects = os.fsdecode(_git(self.root, "rev-parse", "--git-path", "objects").removesuffix(b"\n"))
        with tempfile.TemporaryDirectory(prefix="drgate-attributes-") as folder:
            # A repository of its own, which has no configuration of anybody's and these files alone in its index.
            own = {key: value for key, value in _environment().items() if not key.startswith("GIT_CONFIG")}
            for key in ("GIT_ATTR_SOURCE", "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_INDEX_VERSION"):
                own.pop(key, None)
            own |= {
                "GIT_DIR": folder,
                "GIT_WORK_TREE": folder,
                "GIT_INDEX_FILE": f"{folder}/index",
                "GIT_OBJECT_DIRECTORY": str(self.root / objects),
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_ATTR_NOSYSTEM": "1",
                "GIT_CONFIG_COUNT": "2",
                "GIT_CONFIG_KEY_0": "core.attributesFile",
                "GIT_CONFIG_VALUE_0": os.devnull,
                "GIT_CONFIG_KEY_1": "core.ignoreCase",
                "GIT_CONFIG_VALUE_1": str(ignore_case).lower(),
            }
            kind = "\n\trepositoryformatversion = 1\n[extensions]\n\tobjectFormat = sha256" * (len(files[0].oid) == 64)
            for name, text in (("HEAD", "ref: refs/heads/main\n"), ("config", f"[core]{kind}\n")):
                Path(folder, name).write_text(text)
            Path(folder, "refs").mkdir()
            listed = b"".join(b"%s %s\t%s\0" % (*map(os.fsencode, (f.mode, f.oid, f.path)),) for f in files)
            _git(Path(folder), "update-index", "-z", "--index-info", given=listed, environment=own)
            asked = b"".join(os.fsencode(path) + b"\0" for path in paths)
            answer = _git(Path(folder), "check-attr", "--cached", "-z", "--stdin", *names, given=asked, environment=own)
        words = os.fsdecode(answer).split("\0")
        for path, name, value in zip(words[::3], words[1::3], words[2::3], strict=False):
            found[path][name] = value
        return found

    def path_of(self, file: Path) -> str | None:
        """The path from the root of a file in the working tree; None for a file elsewhere, or behind a link."""
        place = file.parent.resolve() / file.name
        return None if self.root.resolve() not in place.parents else place.relative_to(self.root.resolve()).as_posix()

    def index(self) -> Path:
        """The file that holds what is staged."""
        return self.root / os.fsdecode(_git(self.root, "rev-parse", "--git-path", "index").removesuffix(b"\n"))

    def stage(self, paths: Sequence[str], index: Path | None = None) -> None:
        """Stage files of the working tree, ignored ones too; in another index if one is given.

        Here, and only here, filters run that the configuration of the clone names, as `git add` does: Git LFS is one.
        """
        environment = _environment() | ({} if index is None else {"GIT_INDEX_FILE": str(index)})
        _git(self.root, "add", "--force", "--", *(f":(top,literal){path}" for path in paths), environment=environment)

    def empty_commit(self) -> str:
        """A commit without files, to compare with where there is none yet. Only its object is written."""
        person = {f"GIT_{who}_{what}": "drgate" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        environment = _environment() | person
        empty = _git(self.root, "hash-object", "-w", "-t", "tree", "--stdin", environment=environment).decode().strip()
        return _git(self.root, "commit-tree", empty, "-m", "empty", environment=environment).decode().strip()

    def branch(self) -> str:
        """The checked out branch, also before its first commit; "" where a commit is checked out without one."""
        return _run(self.root, "symbolic-ref", "--quiet", "--short", "HEAD").stdout.decode(errors="replace").strip()

    def has_remote(self, name: str) -> bool:
        """Whether the clone has a remote of this name."""
        return name in _run(self.root, "remote").stdout.decode(errors="replace").split()

    def target(self) -> tuple[str, str, bool]:
        """The branch to merge into ("" before the first commit), the checked out one, and whether there is a remote."""
        branch, remote = self.branch(), self.has_remote("origin")
        for name in ("origin/HEAD", "origin/main", "origin/master", "HEAD"):
            with contextlib.suppress(RepositoryError):
                self.resolve(name)
                return name, branch, remote
        return "", branch, remote

    def contains(self, oid: str) -> bool:
        """Whether HEAD descends from a commit, as far as this clone knows."""
        return _run(self.root, "merge-base", "--is-ancestor", oid, "HEAD").returncode == 0

    def unstaged(self, paths: Iterable[str], patterns: Iterable[str]) -> list[str]:
        """Files of these paths and patterns that differ in the working tree from what is staged, or are untracked.

        Git's own comparison would run the filters that the configuration of the clone names.
        """
        asked = [*(f":(top,literal){path}" for path in paths), *(f":(top,glob){pattern}" for pattern in patterns)]
        staged = self._entries("ls-files", "--stage", "-z", "--full-name", "--", *asked)
        unknown = b""  # where Git needs too long for the change's .gitignore, only these are not named
        with contextlib.suppress(RepositoryError):
            unknown = _git(self.root, "ls-files", "--others", "--exclude-standard", "-z", "--full-name", "--", *asked)
        changed = (path for path, mode, oid, _ in staged if mode != SUBMODULE and self._differs(path, mode, oid))
        return sorted({*changed, *_lines(unknown, "the working tree")})

    def _differs(self, path: str, mode: str, oid: str) -> bool:
        """Whether a file in the working tree is another than the staged one; of a large file only the size counts."""
        file = self.root / path
        try:
            found = file.lstat()
            if stat.S_ISLNK(found.st_mode) or mode == LINK:
                return mode != LINK or _object_id(os.fsencode(file.readlink()), oid) != oid
            if not stat.S_ISREG(found.st_mode):
                return True
            content = Tree("", {}, self).content(Entry(path, mode, oid))
            if found.st_size > limits.COMPARED_BYTES:
                return found.st_size != content.size
            data = file.read_bytes()
        except (OSError, RepositoryError):
            return True
        alike = (_object_id(one, oid) for one in (data, data.replace(b"\r\n", b"\n")))
        return oid not in alike and hashlib.sha256(data).hexdigest() != content.sha256

    def size(self, oid: str) -> int:
        """Number of bytes of an object, without reading them."""
        return self._sizes.ask(oid)

    def read(self, oid: str) -> bytes:
        """The bytes of an object; check `size` first."""
        return b"".join(self._bytes.stream(oid))

    def sizes(self, oids: Iterable[str]) -> dict[str, int]:
        """Number of bytes of each of many objects, without reading them."""
        asked = "".join(f"{oid}\n" for oid in {*oids}).encode()
        listed = _git(self.root, "cat-file", "--batch-check=%(objectname) %(objectsize)", "--buffer", given=asked)
        found = (line.split(" ") for line in listed.decode().splitlines())
        return {oid: int(size) for oid, size in found if size.isdecimal()}

    def head(self, oid: str, length: int) -> bytes:
        """The first bytes of a file's content."""
        command = [*_GIT, "cat-file", "blob", oid]
        with subprocess.Popen(
            command, cwd=self.root, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None, "a pipe"
            found = process.stdout.read(length)
            process.kill()
        return found

    def parts(self, oid: str) -> Iterator[bytes]:
        """The bytes of an object of any size; read all of them before anything else is asked."""
        return self._bytes.stream(oid)

    def sha256(self, oid: str) -> str:
        """Lower-case hex SHA-256 of an object of any size; it is read once, under however many names."""
        if oid not in self._digests:
            state = hashlib.sha256()
            for part in self.parts(oid):
                state.update(part)
            self._digests[oid] = state.hexdigest()
        return self._digests[oid]

    def _entries(self, *command: str) -> Iterator[tuple[str, str, str, str]]:
        """Path, mode, object id and stage of what `git ls-files --stage -z` lists."""
        for line in _lines(_git(self.root, *command), "the index"):
            facts, _, path = line.partition("\t")
            mode, oid, number = facts.split(" ")
            yield path, mode, oid, number


@dataclass(frozen=True, slots=True)
class _Answers:
    """A `git cat-file` process that answers for one object after another."""

    process: subprocess.Popen[bytes]

    def ask(self, oid: str) -> int:
        """The number of bytes of a file's content; with --batch the bytes follow."""
        assert self.process.stdin is not None, "a pipe"
        assert self.process.stdout is not None, "a pipe"
        self.process.stdin.write(oid.encode() + b"\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if len(answer) != 3 or answer[1] != b"blob":
            raise RepositoryError(
                f"Object {oid} cannot be read. Check the repository (git fsck), and clone it without --filter: nothing "
                "is fetched here."
            )
        return int(answer[2])

    def stream(self, oid: str) -> Iterator[bytes]:
        """The bytes, in parts; read all of them before the next `ask`."""
        left = self.ask(oid)
        assert self.process.stdout is not None, "a pipe"
        while left:
            part = self.process.stdout.read(min(left, _CHUNK))
            if not part:
                raise RepositoryError(f"git ended in the middle of object {oid}; check the repository (git fsck).")
            left -= len(part)
            yield part
        self.process.stdout.read(1)


def of_dvc_2(path: str) -> str:
    """What a DVC file says less than it seems, and what to do."""
    return (
        f"DVC 2 wrote {visible(path)} (it has no `hash: md5`). Its MD5 of a text is over the text with Unix line ends, "
        "so it need not be of these bytes. Write it again with DVC 3: dvc commit --force "
        f"{shlex.quote(visible(path))} && dvc cache migrate --dvc-files"  # the first alone keeps the old MD5
    )


@contextlib.contextmanager
def open_repository(folder: Path) -> Iterator[Repository]:
    """The repository around a folder. Raises RepositoryError where there is none, or git is not installed."""
    found = _run(folder, "rev-parse", "--show-toplevel")
    if found.returncode:
        reason = found.stderr.decode(errors="replace").strip().partition("\n")[0].removeprefix("fatal: ")
        raise RepositoryError(f"{folder.resolve()} is not in a Git repository that can be read ({visible(reason)}).")
    root = Path(os.fsdecode(found.stdout.removesuffix(b"\n")))
    if "GIT_DIR" not in os.environ and not (root / ".git").exists():  # a Git older than 2.38 takes such a folder
        raise RepositoryError(
            f"{visible(root)} holds the files of a Git repository, but no .git; run this in the actual repository."
        )
    with contextlib.ExitStack() as stack:
        sizes, contents = (
            stack.enter_context(
                subprocess.Popen(
                    [*_GIT, "cat-file", how],
                    cwd=root,
                    env=_environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            for how in ("--batch-check", "--batch")
        )
        yield Repository(root, _Answers(sizes), _Answers(contents))


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "LC_ALL": "C",
        # A replaced object would let the gate read another file than the one that is deployed.
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        # To fetch what a partial clone lacks, Git would run programs that its configuration names.
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
    }


def _run(
    folder: Path, *arguments: str, given: bytes = b"", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    seconds = limits.GIT_ADD_SECONDS if arguments[0] == "add" else limits.GIT_SECONDS
    try:
        return subprocess.run(
            [*_GIT, *arguments],
            cwd=folder,
            env=environment or _environment(),
            input=given,
            capture_output=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as problem:
        raise RepositoryError(
            f"git {arguments[0]} took more than {seconds} seconds. Simplify the patterns in .gitattributes "
            "and .gitignore, or have fewer files."
        ) from problem
    except FileNotFoundError as problem:
        raise RepositoryError("git is not installed, or the folder does not exist.") from problem
    except ValueError as problem:  # a NUL in a name
        raise RepositoryError(f"{visible(arguments[-1])!r} is not a name that Git can look up.") from problem


def _git(folder: Path, *arguments: str, given: bytes = b"", environment: Mapping[str, str] | None = None) -> bytes:
    found = _run(folder, *arguments, given=given, environment=environment)
    if found.returncode:
        reason = found.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise RepositoryError(f"git {arguments[0]} failed: {visible(reason)}.")
    return found.stdout


def _object_id(data: bytes, like: str) -> str:
    """The object id of a file with this content, of the kind of another id."""
    state = hashlib.sha256() if len(like) == 64 else hashlib.sha1(usedforsecurity=False)
    state.update(b"blob %d\0" % len(data) + data)
    return state.hexdigest()


def _lines(listed: bytes, what: str) -> Iterator[str]:
    """The texts between NULs. Names that are not UTF-8 keep their bytes as lone surrogates."""
    if listed.count(b"\0") > MAX_FILES:
        raise RepositoryError(f"There are more than {MAX_FILES} files in {what}.")
    return (os.fsdecode(line) for line in listed.split(b"\0") if line)
