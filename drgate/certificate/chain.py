"""A chain of looks: each line holds the digest of the line before, so no line can be changed, removed or moved.

    for entry in read_chain(Path("looks.jsonl").read_bytes(), "looks.jsonl"):
        entry["kind"], entry["digest"]

`drgate.looks` defines the contents of the lines. Light: NumPy is not imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from drgate import limits
from drgate.errors import UsageError
from drgate.evaluation import Evaluation, Favour, Moment, Overlap, Typed, read_as
from drgate.files import canonical_json, digest_of, parse_json


def read_chain(data: bytes, origin: str) -> list[dict[str, Any]]:
    """The lines of a chain, first to last, each with its `digest`; `origin` names the file in messages.

    Raises UsageError, naming the line, where a line does not match its digest or the line before, and for an empty
    file.
    """
    entries: list[dict[str, Any]] = []
    previous = ""
    if data.count(b"\n") > limits.LINES:
        raise UsageError(f"{origin} has more than {limits.LINES} lines; expected a chain of looks.")
    if sum(map(data.count, (b",", b"[", b"{"))) > limits.JSON_VALUES:
        raise UsageError(f"{origin} holds more than {limits.JSON_VALUES} values; expected a chain of looks.")
    for i, line in enumerate(data.splitlines() or [b""]):
        try:
            entry = parse_json(line, origin, "a chain of looks", UsageError)
            content = {key: value for key, value in entry.items() if key != "digest"}
            linked = entry["previous"] == previous and entry["digest"] == digest_of(content)
            # Written in another form, the same line could be read as another by another reader.
            if not linked or line != canonical_json(entry) or (entry["kind"] == "chain") != (i == 0):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError, UsageError) as problem:
            raise broken(origin, i) from problem
        entries.append(entry)
        previous = entry["digest"]
    return entries


@dataclass(frozen=True, slots=True)
class Header(Typed):
    """The first line of a chain."""

    kind: Literal["chain"]
    format: Literal["drgate looks 3"]
    previous: Literal[""]
    digest: str


@dataclass(frozen=True, slots=True)
class TestSetLine(Typed):
    """A test set, by `drgate.patients.Known`.

    test_set: digest of its images. chosen_on: whether a model was selected on it, so that it is no test set. images:
    base64 of 8 bytes for each that is known by its content, ascending. others: images known by name alone; names:
    digest over their names together; of few, over their grades; none of a published table. key: id of the patient key;
    with one, named: base64 of 8 bytes for each other image, in order; patients: of 16 bytes for each, ascending.
    """

    __test__: ClassVar[bool] = False  # pytest collects classes by this name

    kind: Literal["test set"]
    test_set: str
    name: str
    chosen_on: bool
    images: str
    others: Annotated[int, Field(ge=0)]
    names: str
    key: Annotated[str, Field(pattern="^([0-9a-f]{8})?$")]
    named: str
    patients: str
    previous: str
    digest: str


_Image = Annotated[str, Field(pattern="^([0-9a-f]{16}|row-[0-9]{1,9})$")]
_Character = Annotated[str, Field(pattern="^[-0-4nr]$")]


@dataclass(frozen=True, slots=True)
class NamedChecklist(Typed):
    name: str
    version: Annotated[int, Field(gt=0)]
    digest: str


@dataclass(frozen=True, slots=True)
class LookLine(Typed):
    """One look in a chain, as `drgate.looks` writes it.

    look, allowed, time, overlapping, regraded_count, favouring, unlinked, patient_key: as in `drgate.evaluation.Look`.
    test_set: its line. model: digest of the tensors, with the cut-offs, or of a table's answers. reference, predicted:
    a character an image. numbers: digest of a table's numbers by image; empty for a model. regraded: image (its place
    among those known by name alone, where it has no content), former grade, new grade. rest: by column, the digest of
    what else decides a verdict.
    """

    kind: Literal["look"]
    look: Annotated[int, Field(gt=0)]
    allowed: Annotated[int, Field(gt=0)]
    time: Moment
    test_set: str
    model: str
    predictions: str
    numbers: str
    spec: NamedChecklist
    reference: Annotated[str, Field(pattern="^[-0-4nr]*$")]
    predicted: Annotated[str, Field(pattern="^[-0-4nr]*$")]
    rest: dict[str, str]
    overlapping: tuple[Overlap, ...]
    regraded: tuple[tuple[_Image, _Character, _Character], ...]
    regraded_count: Annotated[int, Field(ge=0)]
    favouring: tuple[Favour, ...]
    unlinked: Annotated[int, Field(ge=0)]
    patient_key: Annotated[str, Field(pattern="^([0-9a-f]{8})?$")]
    previous: str
    digest: str


@dataclass(frozen=True, slots=True)
class TableLine(Typed):
    """Another table with the same answers, which is the same look. look: digest of its line. numbers: as there."""

    kind: Literal["table"]
    look: str
    numbers: str
    previous: str
    digest: str


def chain_line(entry: dict[str, Any], origin: str) -> Header | TestSetLine | LookLine | TableLine:
    """A line of a chain by its kind. Raises UsageError, naming `origin`, where drgate does not write such a line."""
    kinds: dict[str, Any] = {"chain": Header, "test set": TestSetLine, "table": TableLine}
    line: Header | TestSetLine | LookLine | TableLine = read_as(
        kinds.get(str(entry["kind"]), LookLine), entry, origin, expected="a look that drgate logged", error=UsageError
    )
    return line


def logged_look(
    evaluation: Evaluation, entries: Sequence[dict[str, Any]]
) -> tuple[dict[str, Any] | None, list[str], list[dict[str, Any]]]:
    """The line that an evaluation names as its look, how it differs, and later looks of the same model.

    The line is None where the chain does not have it. Later looks are those at the same images, with any cut-offs.
    """
    look, point = evaluation.look, evaluation.data.operating_point
    at = next((i for i, entry in enumerate(entries) if entry["digest"] == look.line), None)
    if at is None:
        return None, [], []
    own = (evaluation.model.parent or evaluation.model).tensor_digest
    expected: dict[str, Any] = {"look": look.number}
    if own is not None:  # of a table: its answers, which `drgate.looks.is_look_at` compares
        expected["model"] = own if point is None else f"{own} at {point.digest}"
    names = ("allowed", "time", "overlapping", "favouring", "regraded_count", "unlinked", "patient_key")
    expected |= {key: getattr(look, key) for key in names}
    try:
        line = chain_line(entries[at], "the line")
    except UsageError as problem:
        return entries[at], [f"is no look: {problem}"], []
    if not isinstance(line, LookLine):
        return entries[at], [f"is of the kind {line.kind}, not a look"], []
    different = [
        f"says {key} {getattr(line, key)!r:.100}, not {value!r:.100}"
        for key, value in expected.items()
        if getattr(line, key) != value
    ]
    alike = [i for i, one in enumerate(entries) if one["kind"] == "look" and one.get("test_set") == line.test_set]
    earlier = sum(i < at for i in alike)
    if look.number <= earlier:
        different.append(f"says look {look.number}, after {earlier} others at the same images")
    these = {own, evaluation.model.tensor_digest}  # an exported model can have taken looks of its own
    later = [entries[i] for i in alike if i > at and str(entries[i].get("model")).partition(" at ")[0] in these]
    return entries[at], different, later


def broken(origin: str, line: int) -> UsageError:
    """The error for line `line` (0-based) of a broken chain."""
    return UsageError(
        f"{origin}, line {line + 1}: the chain of looks is broken; restore the file from version control."
    )
