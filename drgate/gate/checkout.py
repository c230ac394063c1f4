"""What a checkout, an archive or DVC puts in the place of a committed file: other bytes than those that are certified.

    for path, why in exchanged(change.head, {"models/dr.pth"}): ...

Git itself reads the .gitattributes files, of the given tree alone: no file of the clone, of the user or of the system
counts. Judged is what a checkout on any system could do. Only what Git for Windows does by default to a plain text,
with or without the attribute `text`, is no finding here: `drgate verify` refuses the file there.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from drgate import limits
from drgate.errors import DrgateError, RepositoryError
from drgate.files import plain_yaml
from drgate.gate.repository import DVC, Entry, Tree
from drgate.gate.sniff import plain_name

ATTRIBUTES: Final = ".gitattributes"
PIPELINES: Final = ("dvc.yaml", "dvc.lock")
_ASKED: Final = ("text", "crlf", "eol", "ident", "filter", "working-tree-encoding", "export-subst")
_NONE: Final = ("unspecified", "unset")
_WINDOWS: Final = re.compile(r"[ .](/|$)")


def exchanged(tree: Tree, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Where and why, in a sentence, one of these files of a tree may be handed out as another one."""
    wanted = sorted({*paths} & {*tree.entries})
    above = {str(parent) for path in wanted for parent in PurePosixPath(path).parents}
    attributes = {str(PurePosixPath(parent) / ATTRIBUTES) for parent in above}
    yield from _namesakes(tree, {*wanted, *attributes, *above})
    yield from _pipelines(tree, {part for path in wanted for part in path.removesuffix(DVC).split("/")})
    found = [tree.entries[path] for path in sorted(attributes) if tree.has(path)]
    for entry in found:
        if why := _unclear(tree, entry):
            yield entry.path, f"{entry.path} {why}, so what a checkout hands out below it is not clear. Correct it."
    values = [tree.repository.attributes(found, wanted, _ASKED, ignore_case=ignored) for ignored in (False, True)]
    for path in wanted:
        effects = (why for one in values for why in _effects(tree, tree.entries[path], one[path]))
        yield from ((path, why) for why in dict.fromkeys(effects))


def _namesakes(tree: Tree, paths: set[str]) -> Iterator[tuple[str, str]]:
    """Files that take the place of one of `paths` on a system that takes their names for one."""
    folded = {_folded(path): path for path in paths}
    for path in tree.entries:
        other = folded.get(_folded(path))
        if other is not None and path not in paths:
            yield path, f"{path} and {other} look alike, and some systems take them for one name. Rename {path}."


def _folded(path: str) -> str:
    plain = path.isascii() and not _WINDOWS.search(path)
    return path.lower() if plain else "/".join(map(plain_name, path.split("/")))


def _pipelines(tree: Tree, names: set[str]) -> Iterator[tuple[str, str]]:
    """Pipelines of DVC that write a file or folder of one of these names: `dvc checkout` would exchange it."""
    left, what = limits.PIPELINE_BYTES, "a DVC pipeline"
    for path in tree.entries:
        if PurePosixPath(path).name not in PIPELINES:
            continue
        try:
            data = tree.read(path, limit=left, what=what)
            if b"\\" not in data and not any(name.encode(errors="surrogateescape") in data for name in names):
                continue
            left -= len(data)
            outs = {*_outs(plain_yaml(data, path, what, RepositoryError))}
        except DrgateError as problem:
            yield path, f"What DVC would check out is not known: {problem}"
            continue
        if hit := sorted(out for out in outs if PurePosixPath(out).name in {*names, "", ".."}):
            yield path, f"{path} has the output {hit[0]}: DVC could put another file there. Track a model by one means."


def _outs(content: Any) -> Iterator[str]:
    """The outputs of all stages, in whatever form they are written."""
    if isinstance(content, list):
        for one in content:
            yield from _outs(one)
    elif isinstance(content, dict):
        for key, value in content.items():
            if key in ("outs", "metrics", "plots"):
                for one in value if isinstance(value, list) else [value]:
                    inner = [one.get("path"), *one] if isinstance(one, dict) else [one]
                    yield from (text for text in inner if isinstance(text, str))
            else:
                yield from _outs(value)


def _unclear(tree: Tree, entry: Entry) -> str:
    try:
        data = tree.read(entry.path, limit=limits.ATTRIBUTES_BYTES, what="Git attributes")
    except RepositoryError:
        return f"is a link, or larger than {limits.ATTRIBUTES_BYTES >> 20} MB"
    if data.startswith(codecs.BOM_UTF8):
        return "begins with a byte order mark, which Git does not always leave out"
    if max(map(len, data.split(b"\n"))) > limits.ATTRIBUTES_LINE:
        return f"has a line of more than {limits.ATTRIBUTES_LINE} bytes, which only some versions of Git read"
    return ""


def _effects(tree: Tree, entry: Entry, values: Mapping[str, str]) -> Iterator[str]:
    """What the attributes of a file change, in sentences that say what to do."""

    def given(name: str) -> str:
        return "" if values.get(name, "unset") in _NONE else values[name]

    try:
        pointer = tree.content(entry).kind == "lfs"
    except RepositoryError:  # which other findings name
        return
    lines = values.get("text", "unspecified")
    if lines not in ("set", "unset", "auto", "input"):
        lines = values.get("crlf", "unspecified")
    ends = "crlf" if given("eol") == "crlf" and lines != "unset" else "" if given("eol") == "lf" else lines
    if (encoding := given("working-tree-encoding")) and encoding.casefold() != "utf-8":
        yield f"The attribute working-tree-encoding={encoding} changes its bytes in a checkout. Remove it."
    if (name := given("filter")) not in ("", "lfs"):
        yield f"The attribute filter={name} lets another program write it in a checkout; only lfs may. Remove it."
    if pointer:
        if name != "lfs":
            yield "It is a Git LFS pointer without the attribute filter=lfs, so a checkout holds the pointer. Add it."
        return  # what follows changes no pointer, or nothing in it that Git LFS reads
    asked = [what for what in ("ident", "export-subst") if values.get(what) == "set"]
    if not asked and ends not in ("crlf", "set"):
        return
    has = _Contents(tree, entry)
    if "ident" in asked and has.keyword:
        yield "The attribute ident changes $Id$ in it in a checkout. Set -ident for it."
    if "export-subst" in asked and has.placeholder:
        yield "The attribute export-subst changes $Format$ in it in an archive. Set -export-subst for it."
    by_default = ends == "set" and (has.zeros or not has.text)  # of a plain text, only what Windows does anyway
    asked_for = ends == "crlf" and not (lines == "auto" and has.zeros)
    if has.lines and (by_default or asked_for) and not entry.path.endswith(DVC):
        yield "The attributes text and eol change the ends of its lines in a checkout. Set -text for it."


class _Contents:
    """What the content of a file holds: text: UTF-8; zeros: NUL; lines: a line feed; $Id$; $Format$."""

    def __init__(self, tree: Tree, entry: Entry) -> None:
        self.text, self.zeros, self.lines, self.keyword, self.placeholder = True, False, False, False, False
        decoder = codecs.getincrementaldecoder("utf-8")()
        kept = b""
        for part in tree.repository.parts(entry.oid):
            data = kept + part
            self.zeros |= b"\0" in part
            self.lines |= b"\n" in part
            self.keyword |= b"$Id$" in data or b"$Id:" in data
            self.placeholder |= b"$Format:" in data
            kept = data[-8:]
            try:
                if self.text:
                    decoder.decode(part)
            except UnicodeDecodeError:
                self.text = False
