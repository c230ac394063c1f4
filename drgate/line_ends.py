"""Files that are read byte for byte, and what Git or an editor makes of them: CRLF, a byte order mark, white space.

    read_as_written(parse_certificate, data, "certificate.json")     # or a sentence that says what was changed

Such a file is no forgery, but its bytes are no longer those that a digest or a signature is over, so it does not count.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from drgate import limits
from drgate.errors import DrgateError, visible
from drgate.files import canonical_json, parse_json

_T = TypeVar("_T")

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8", "a byte order mark is in front"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "it was saved as UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "it was saved as UTF-16"),
)


def read_as_written(parse: Callable[[bytes, str], _T], data: bytes, origin: str) -> _T:
    """What `parse` makes of a text; `origin` names it in messages.

    Where `parse` refuses it, but would accept what a program may have changed it from, the error says so instead.
    """
    try:
        return parse(data, origin)
    except DrgateError as problem:
        for what, original in _originals(data):
            try:
                parse(original, origin)
            except DrgateError:
                continue
            raise type(problem)(f"{visible(origin)} {changed(what, '-text')}") from problem
        raise


def changed(what: str, attributes: str) -> str:
    """The predicate of a sentence about a file that Git or an editor changed, with what to do."""
    return (
        f"differs from the original only in the ends of its lines or other white space ({what}), as Git or an editor "
        f"leaves it. Add the original again; with {attributes} for its folder in .gitattributes Git changes none of it."
    )


def original_of(data: bytes, is_original: Callable[[bytes], bool]) -> str:
    """How a program changed the text that `is_original`, in words; "" where line ends do not explain it."""
    return next((what for what, original in _originals(data) if is_original(original)), "")


def _originals(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What a text may have been before a program saved it, each with what that program did."""
    if len(data) > limits.CERTIFICATE_BYTES:
        return
    done = []
    text = data
    for mark, encoding, what in _MARKS:
        if data.startswith(mark):
            try:
                text = data.removeprefix(mark).decode(encoding).encode()
            except UnicodeError:
                return
            done.append(what)
            break
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        done.append("its lines end with CR")
    if done:
        yield ", ".join(done), text
    body = text.rstrip(b"\n")
    if body != text:
        yield ", ".join([*done, "a line end was added at its end"]), body
    if body + b"\n" != text:
        yield ", ".join([*done, "the end of its last line is missing"]), body + b"\n"
    if body[:1] == b"{":
        try:
            plain = canonical_json(parse_json(body, "the text", "JSON", DrgateError))
        except (DrgateError, ValueError):
            return
        yield ", ".join([*done, "it was formatted"]), plain
