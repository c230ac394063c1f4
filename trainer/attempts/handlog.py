r"""Attempts from a Markdown log that people keep by hand.

    log = read_log(Path("training-attempts-log.md"))
    log.attempts            # in the log's order, each with what the log states
    log.notes               # how doubtful places were read

The reader accepts these, in any order, with any emphasis and emoji:

- a heading such as `### Attempt #3 - cosine (May 7th, 2025)`, further headings with the same number, and a heading that
  begins with `Best result` or `Baseline`;
- parameters as flags (`--patience 40  # why`, also after a command, with `\` and several per line), or as
  `name: value` in a fenced block;
- `Epoch 17: Training 75.6%, Validation **78.2%**`, or a table with the columns epoch and validation;
- fields such as `Status:`, `Decision:`, `Reason:`, `Cost:` and `Date:`, bold or in a list.

What a log expects (a target, a plan, `~$60-80 additional`) is not a result and not a spend. UTF-8 text that was once
read as Windows-1252 is repaired if only one reading is possible.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import dropwhile
from pathlib import Path
from typing import Any, Final, cast
from unicodedata import category, east_asian_width

from drgate import limits
from drgate.errors import RecordError
from drgate.files import read_limited
from trainer.attempts.ledger import Attempt, Evaluated, Origin, Parent, Spend, Status, normal_form

_HEADING: Final = re.compile(r"(#{1,6})\s+(\S.*)$")
_LONG_RUN: Final = re.compile(r"([^\d\n])\1{99,}")
"""Of more than a hundred equal signs or letters, a hundred are read: no expression then takes long for a line."""
_ATTEMPT: Final = re.compile(
    r"[\W_]*(?:training\s+)?(?:attempt|run|experiment|trial|try)\s*(?:#|no\.?|number)?\s*(\d+[a-z]?)(?=\s*(?:$|[-–—:(.,]))",
    re.I,
)
_BASELINE: Final = re.compile(r"[\W_]*(?:best\s+(?:result|run)|baseline)\b", re.I)
_MONEY_HEADING: Final = re.compile(r"\b(?:investment|cost|costs|budget|money|spend|spending)\b", re.I)
_FENCE: Final = re.compile(r"\s{0,3}(`{3,}|~{3,})\s*([\w-]*)")
_BULLET: Final = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+(?:\[[ xX]\]\s+)?")
_FIELD: Final = re.compile(r"\W*?(?:\*\*|__)?([A-Za-z][^:*`|#]{0,40}?)(?:\*\*|__)?\s*:\s*(?:\*\*|__)?\s*(.*)$")
_LABEL: Final = re.compile(r"\s{0,3}(?:\*\*|__)([^*]+?):?(?:\*\*|__)\s*:?\s*(?:\([^)]*\)\s*:?)?(.*)$")
_PLANNED: Final = re.compile(
    r"\b(?:expect\w*|estimate\w*|plan\w*|target\w*|goal\w*|next|forecast|project(?:ed|ion)|hoped?|should)\b", re.I
)
_ASIDE: Final = re.compile(rf"{_PLANNED.pattern}|\bdifferen|\bcompar", re.I)
"""Labels of parts that do not describe the course of this attempt."""
_NOT_YET: Final = re.compile(r"[\W_]*(?:planned|to ?do|next|not (?:yet )?(?:started|run)|idea)\b", re.I)
_COST: Final = re.compile(
    r"(?:(?:final|actual|total|expected|planned|estimated) )?(?:costs?|spend|spent|price|investment)"
)
_PLANNED_MONEY: Final = re.compile(r"\b(?:additional|more|estimate\w*|budget\w*|limit|up to|max\w*)\b", re.I)
_FLAG_LINE: Final = re.compile(r"\s*(?:[-*+]\s+)?`?--[A-Za-z]")
_FLAG: Final = re.compile(r"--([A-Za-z][\w-]*)(?:=(.*))?$", re.S)
_PAIR: Final = re.compile(r"\s*['\"]?([A-Za-z]\w*)['\"]?\s*[:=]\s*(.*?)\s*,?$")
_LORA: Final = re.compile(r"\b(?:lora_)?(r|alpha)\s*[=:]\s*(\d+(?:\.\d+)?)", re.I)
_TRAINS: Final = re.compile(
    r"(?:\S*/)?(?:drtrain|python[\d.]*|torchrun|accelerate|bash|sh|uv|poetry|nohup|\S+\.(?:sh|py))"
)
"""First words of a command whose flags are a run's parameters."""
_NOT_SET: Final = re.compile(r"\s*#\s*not set:\s*(.+)$")
_EPOCH: Final = re.compile(r"[\W_]*epoch\s*#?\s*(\d{1,9})(?:\s*/\s*\d{1,9})?(?!\s*[-–—]\s*\d)\b", re.I)
_ACCURACY: Final = r"{}[\s_-]*(?:acc(?:uracy)?)?[\s:=*_(~]{{0,6}}(\d+(?:\.\d+)?)\s*(%?)"
_VALIDATION: Final = re.compile(
    r"\b" + _ACCURACY.format(r"val(?:idation)?") + r"(?:[\s*]*\(\s*(\d{1,9})\s*/\s*(\d{1,9})\s*\))?", re.I
)
_TRAINING: Final = re.compile(r"\b" + _ACCURACY.format(r"train(?:ing)?"), re.I)
_LOSS: Final = re.compile(r"\btrain(?:ing)?[\s_-]*loss[\s:=]*(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", re.I)
_COUNTED: Final = re.compile(r"\b(severe(?:\s+NPDR)?|PDR)\s*:?\s*(\d{1,9})\s*/\s*(\d{1,9})\b", re.I)
_SPAN: Final = re.compile(r"(`+)\s?(.+?)\s?\1")
_AMOUNT: Final = re.compile(
    r"(?P<about>~|≈|about\s+|approx\.?\s+)?\s*(?P<less><|≤|under\s+|below\s+)?\s*(?:\$|USD\s*)"
    r"(?P<low>\d[\d,]*(?:\.\d+)?(?:e-?\d+)?k?)(?:\s*(?:-|–|—|to)\s*\$?(?P<high>\d[\d,]*(?:\.\d+)?k?))?(?P<plus>\+)?",
    re.I,
)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_ISO: Final = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:Z|[+-]\d\d:\d\d)?)?")
_DATE: Final = re.compile(
    r"(?:\b(?P<month>[A-Z][a-z]{2,8})\.?\s+(?P<day>\d{1,2})(?:st|nd|rd|th)?|\b(?P<day2>\d{1,2})(?:st|nd|rd|th)?\s+(?P<month2>[A-Z][a-z]{2,8}))"
    r"(?:,?\s+(?P<year>\d{4}))?(?:\D{0,5}?(?P<hour>\d\d):(?P<minute>\d\d)(?:\s*(?P<utc>UTC|GMT|Z))?)?"
)
_WORDS: Final[tuple[tuple[str, Status], ...]] = (
    (r"(?:in progress|running|monitoring|ongoing|current\w*|started)", "running"),
    (r"(?:stopped|aborted|cancell?ed|halted)", "stopped"),
    (r"interrupted", "interrupted"),
    (r"(?:killed|pre-?empted)", "killed"),
    (r"(?:fail\w*|crash\w*|regress\w*|diverged)", "failed"),
    (r"(?:finished|complete\w*|done|success\w*)", "finished"),
)
_MOJIBAKE_GAPS: Final = (0x81, 0x8D, 0x8F, 0x90, 0x9D)
"""Bytes without a character in Windows-1252; they vanish when UTF-8 is read as Windows-1252."""
_WHOLE: Final = r"\d{1,9}"
"""A number of epochs or images."""
_CONTINUED: Final = re.compile(r"\\[ \t]*\n")
_LISTS: Final = ("decide",)
"""Parameters that can be given several times."""


@dataclass(frozen=True, slots=True)
class HandLog:
    """The content of a log."""

    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...]
    """Sentences about what was doubtful and how it was read."""


def read_log(file: Path) -> HandLog:
    """The attempts of a hand-kept log.

    Raises RecordError: no such file, not text, too large, or without an attempt.
    """
    data = read_limited(file, limits.LOG_BYTES, "a log in Markdown", RecordError)
    if b"\0" in data:
        raise RecordError(f"{file} is not text; expected a log in Markdown.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    text, right, lost = repaired(text)
    notes = []
    if right or lost:
        notes.append(
            f"The text of {file.name} is UTF-8 that was read as Windows-1252: {right} characters were repaired, {lost}"
            " are lost."
        )
    for number, line in enumerate(_CONTINUED.sub("", text).splitlines(), start=1):
        if len(line) > limits.LOG_LINE:
            raise RecordError(f"{file}, line {number} or later has more than {limits.LOG_LINE} characters; break it.")
    return _Parser(file.name, hashlib.sha256(data).hexdigest(), notes).parse(_LONG_RUN.sub(_shortened, text), str(file))


def _shortened(run: re.Match[str]) -> str:
    return run[0][:100]


def repaired(text: str) -> tuple[str, int, int]:
    """The text with UTF-8 characters that were read as Windows-1252 repaired; how many, and how many are lost.

    Such text lacks the bytes that have no character in Windows-1252. A byte is restored if it makes an emoji in only
    one way; else the character becomes U+FFFD.

    >>> repaired("naïve â†’ 3 âŒ")
    ('naïve → 3 ❌', 2, 0)
    """
    count = Counter[str]()

    def repair(found: re.Match[str]) -> str:
        try:
            data = b"".join(bytes([ord(c)]) if 0x80 <= ord(c) < 0xA0 else c.encode("cp1252") for c in found[0])
        except UnicodeEncodeError:
            return found[0]
        pieces: list[str] = []
        while data:
            piece, used = _character(data)
            if not used:
                return found[0]  # it was not damaged
            pieces.append(piece)
            data = data[used:]
        count.update("lost" if piece == "\N{REPLACEMENT CHARACTER}" else "right" for piece in pieces)
        return "".join(pieces)

    return re.sub(r"[^\x00-\x7f]+", repair, text), count["right"], count["lost"]


def _character(data: bytes) -> tuple[str, int]:
    """The first character of UTF-8 that may lack one byte, and its number of bytes; 0 if there is none."""
    length = 2 if 0xC2 <= data[0] < 0xE0 else 3 if 0xE0 <= data[0] < 0xF0 else 4 if 0xF0 <= data[0] < 0xF5 else 0
    if length < 2:
        return "", 0
    try:
        return data[:length].decode(), min(length, len(data)) if len(data) >= length else 0
    except UnicodeDecodeError:
        pass
    short = data[: length - 1]
    if length == 2 or len(short) < length - 1 or any(not 0x80 <= byte < 0xC0 for byte in short[1:]):
        return "", 0
    found = set()
    for place in range(1, length):
        for gap in _MOJIBAKE_GAPS:
            try:
                letter = (short[:place] + bytes([gap]) + short[place:]).decode()
            except UnicodeDecodeError:
                continue
            if letter == "\N{VARIATION SELECTOR-16}" or (category(letter) == "So" and east_asian_width(letter) == "W"):
                found.add(letter)
    return (found.pop() if len(found) == 1 else "\N{REPLACEMENT CHARACTER}"), len(short)


@dataclass(slots=True)
class _Draft:
    """An attempt while its lines are read."""

    key: str
    name: str
    section: str
    first: int
    last: int
    baseline: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)
    history: dict[int, Evaluated] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields of `Attempt` with a single value."""
    reason: str = ""
    decision: str = ""
    outcome: str = ""
    not_yet: bool = False
    val_accuracy: float | None = None
    train_accuracy: float | None = None
    best_epoch: int | None = None


class _Parser:
    def __init__(self, file: str, sha256: str, notes: list[str]) -> None:
        self.file = file
        self.sha256 = sha256
        self.notes = notes
        self.drafts: dict[str, _Draft] = {}
        self.money: dict[str, Spend] = {}
        self.year: str | None = None

    def parse(self, text: str, where: str) -> HandLog:
        years = Counter(found["year"] for found in _DATE.finditer(text) if found["year"] and _month(found))
        self.year = next(iter(years)) if len(years) == 1 else None
        current: _Draft | None = None
        level, money, planned = 0, False, False
        rows: list[str] = []
        for number, line, block in _lines(text):
            heading = None if block else _HEADING.match(line)
            if heading:
                depth, title = len(heading[1]), _unmarked(heading[2].rstrip().rstrip("#"))
                draft = self._opened(title, number, depth)
                if draft is not None:
                    current, level, money = draft, depth, False
                    self._heading(draft, title)
                elif depth <= level or current is None:
                    current, level = None, 0
                    money = bool(_MONEY_HEADING.search(title))
                planned = current is not None and draft is None and bool(_ASIDE.search(title))
                rows = []
                continue
            if current is not None:
                if line.strip() and line.strip() != "---":
                    current.last = number
                if block:
                    self._block(current, block)
                    continue
                if label := _LABEL.match(line):  # a bare label is about the lines below it
                    planned = not label[2].strip() and bool(_ASIDE.search(label[1]))
                rows = [*rows[:2], line] if line.lstrip().startswith("|") else []  # header, line below it, last
                if not planned and len(rows) > 2:
                    self._row(current, rows[0], line)
                self._line(current, line, planned=planned)
            elif money and (stated := _FIELD.match(_BULLET.sub("", line))) and (spend := _spend(stated[2])):
                self.money[stated[1].strip().lower()] = spend
        attempts = [self._attempt(draft) for draft in self.drafts.values() if self._happened(draft)]
        if not attempts:
            raise RecordError(
                f"{where} has no attempt. Expected headings such as '### Attempt 3 - cosine', with parameters as"
                " --name value and results as 'Epoch 17: Training 75.6%, Validation 78.2%' below them."
            )
        return HandLog(tuple(attempts), tuple(self.notes))

    def _opened(self, title: str, number: int, depth: int) -> _Draft | None:
        """The attempt that a heading begins or continues; the title of the whole log begins none."""
        if found := _ATTEMPT.match(title):
            key = f"attempt-{found[1].lower()}"
        elif depth > 1 and _BASELINE.match(title):
            key = "baseline"
        else:
            return None
        if key not in self.drafts:
            self.drafts[key] = _Draft(key, key, _from_letters(title), number, number, key == "baseline")
        return self.drafts[key]

    def _heading(self, draft: _Draft, title: str) -> None:
        draft.last = max(draft.last, draft.first)
        if (date := self._date(title)) and not draft.baseline:
            draft.fields.setdefault("started", date)
        for part in re.split(r"[-–—:(),]\s*", title)[1:]:
            if status := _status(part):
                draft.fields["status"] = status
            draft.not_yet = draft.not_yet or bool(_NOT_YET.match(part))

    # -- parameters

    def _block(self, draft: _Draft, block: list[str]) -> None:
        """A fenced block: a command with flags, or `name: value` lines."""
        text = "\n".join(block)
        stated: dict[str, Any] = {}
        pairs = [_PAIR.match(line.partition(" #")[0]) for line in block if line.strip(" \t{}#-")]
        for line in block:  # output of a run, pasted
            if epoch := _EPOCH.match(line):
                self._evaluation(draft, int(epoch[1]), line)
        if re.search(r"(?:^|\s)--[A-Za-z]", text) or any(map(_NOT_SET.match, block)):
            for line in _CONTINUED.sub(" ", text).split("\n"):
                stated |= self._flags(line, stated)
        elif all(pairs):
            stated = {
                pair[1]: normal_form(pair[2].strip("'\""))
                for pair in pairs
                if pair and pair[2] and pair[2][0] not in "[{"
            }
        self._tell(draft, stated)

    def _flags(self, line: str, before: Mapping[str, Any]) -> dict[str, Any]:
        if none := _NOT_SET.match(line):
            return {name.strip(): None for name in none[1].split(",")}
        stated: dict[str, Any] = {}
        name: str | None = None
        for token in _tokens(line):
            if flag := _FLAG.match(token):
                name = flag[1].replace("-", "_")
                if flag[2] is None:
                    if name not in _LISTS:
                        stated[name] = "yes"  # a flag without a value is a switch, unless its value follows
                    continue
                token = flag[2]
            if name is None:
                continue
            if re.match(r"\$\{?[A-Za-z_]", token) and f"'{token}'" not in line:  # a variable of a script
                stated.pop(name, None)
                name = None
                continue
            value = normal_form(token)
            if name in _LISTS:
                value = [*(stated.get(name) or before.get(name) or []), value]
            stated[name] = value
            name = None
        if "use_lora" in stated and "#" in line:
            stated |= {
                f"lora_{found[1].lower()}": normal_form(found[2])
                for found in _LORA.finditer(line.partition("#")[2])
                if f"lora_{found[1].lower()}" not in before
            }
        return stated

    def _tell(self, draft: _Draft, stated: Mapping[str, Any]) -> None:
        for name, value in stated.items():
            before = draft.parameters.get(name, value)
            if before != value:
                self.notes.append(f"{draft.section!r} states {name} twice, {before} and {value}: the second counts.")
        draft.parameters |= stated

    # -- results

    def _line(self, draft: _Draft, line: str, *, planned: bool) -> None:
        if _FLAG_LINE.match(line):
            self._tell(draft, self._flags(_BULLET.sub("", line).replace("`", ""), draft.parameters))
            return
        text = _BULLET.sub("", line)
        plain = re.sub(r"(?<!\\)[*]", "", text)
        if epoch := _EPOCH.match(plain):
            if not planned:
                self._evaluation(draft, int(epoch[1]), plain)
            return
        stated = _FIELD.match(text)
        if not stated:
            return
        key, raw = " ".join(stated[1].lower().split()), stated[2].strip()
        value = _unmarked(raw)
        planned = planned or bool(_PLANNED.search(key))
        if _COST.fullmatch(key):
            self._cost(draft, value, planned=planned)
        elif planned:
            return
        elif re.fullmatch(r"(?:best |final |overall )?val(?:idation)?(?: acc(?:uracy)?)?", key):
            self._result(draft, value)
        elif re.fullmatch(r"(?:best |final )?train(?:ing)?(?: acc(?:uracy)?)?", key):
            draft.train_accuracy = _fraction(value)
        elif key in ("best", "best epoch"):
            found = re.search(rf"\b(?:epoch\s*)?({_WHOLE})\b", value)
            draft.best_epoch = int(found[1]) if found else None
        else:
            self._field(draft, key, value, raw)

    def _field(self, draft: _Draft, key: str, value: str, raw: str) -> None:
        spans = [span[1] for span in _SPAN.findall(raw)]
        match key:
            case "status" | "outcome" | "result":
                if status := _status(value):
                    draft.fields["status"] = status
                    draft.not_yet = False
                if value.lower() in ("not stated", "not told"):
                    draft.fields.pop("status", None)
                    draft.not_yet = False
                elif _NOT_YET.match(value):
                    draft.not_yet = True
                elif (status and value.lower() != status) or (draft.baseline and not status):
                    draft.outcome = _from_letters(value)
            case "decision" | "decision point" | "ending" | "end":
                if status := _status(value):
                    stopped = re.search(r"\b(?:stopped|aborted|cancell?ed)\b", value, re.I)
                    draft.fields["status"] = "stopped" if stopped else status
                draft.decision = _from_letters(value)
            case "reason":
                draft.reason = value
            case "name":
                draft.name = (spans[0] if spans else value) or draft.name
            case "date" | "dates":
                draft.fields["ended" if draft.baseline else "started"] = self._date(value)
            case "started" | "training started" | "start":
                draft.fields["started"] = self._date(value) or draft.fields.get("started")
            case "ended" | "training ended" | "stopped":
                draft.fields["ended"] = self._date(value)
            case "again because":
                draft.fields["again"] = value
            case "commit" | "git commit" if spans:
                draft.fields["commit"] = spans[0]
            case "dataset digest" if spans:
                draft.fields["dataset"] = spans[0]
            case "base digest" if spans:
                draft.fields["base"] = spans[0]
            case "parent":
                draft.fields["parent"] = _parent(raw)
            case "dataset" | "base" | "base model":
                draft.parameters.setdefault(key.split()[0], spans[0] if spans else value)

    def _evaluation(self, draft: _Draft, epoch: int, text: str) -> None:
        val, train, loss = _VALIDATION.search(text), _TRAINING.search(text), _LOSS.search(text)
        if not (val or train or loss) or (val and _PLANNED.search(text[: val.start()])):
            return
        counted = {found[0][:3].lower(): (int(found[1]), int(found[2])) for found in _COUNTED.findall(text)}
        accuracy = _share(val[1], val[2]) if val else None
        n_val = None
        if val and accuracy is not None and (n := int(val[4] or 0)) and abs(int(val[3]) / n - accuracy) < 0.005:
            n_val, accuracy = n, int(val[3]) / n
        self._add(
            draft,
            Evaluated(
                epoch,
                accuracy,
                n_val,
                _share(train[1], train[2]) if train else None,
                float(loss[1]) if loss else None,
                counted.get("sev"),
                counted.get("pdr"),
            ),
        )

    def _row(self, draft: _Draft, first: str, row: str) -> None:
        """A row of a table with this first row, if its columns are those of an epoch."""
        header, last = ([cell.strip(" *`") for cell in one.strip().strip("|").split("|")] for one in (first, row))
        header = [re.sub(r"\s*\(.*?\)", "", name) for name in header]
        cells = dict(zip((name.lower() for name in header), last, strict=False))
        epoch = next((cells[name] for name in cells if name.startswith("epoch")), "")
        if not re.fullmatch(_WHOLE, epoch):
            return
        text = ", ".join(f"{name} {cell}" for name, cell in cells.items() if not name.startswith("epoch"))
        self._evaluation(draft, int(epoch), text)

    def _add(self, draft: _Draft, entry: Evaluated) -> None:
        epoch = cast(int, entry.epoch)
        before = draft.history.get(epoch, entry)
        if None not in (before.val_accuracy, entry.val_accuracy) and before.val_accuracy != entry.val_accuracy:
            self.notes.append(f"{draft.section!r} states two accuracies for epoch {epoch}: the first counts.")
            return
        stated = {name: value for name in Evaluated.__slots__ if (value := getattr(before, name)) is not None}
        draft.history[epoch] = replace(entry, **stated)

    def _result(self, draft: _Draft, value: str) -> None:
        accuracy = _fraction(value)
        if accuracy is None or re.match(r"\W*[<>≥≤]", value):
            return
        if epoch := re.search(rf"\bepoch\s*({_WHOLE})\b", value, re.I):
            self._add(draft, Evaluated(int(epoch[1]), accuracy))
        else:
            draft.val_accuracy = accuracy

    # -- money and dates

    def _cost(self, draft: _Draft, value: str, *, planned: bool) -> None:
        spend = _spend(value)
        if spend is None:
            if re.search(r"\d", value):
                self.notes.append(
                    f"{draft.section!r} states a cost of {value!r}: left out, because it is not an amount in USD."
                )
        elif planned or _PLANNED_MONEY.search(value) or spend.low is None:
            draft.fields["planned"] = spend
        else:
            draft.fields["spend"] = spend

    def _date(self, text: str) -> str | None:
        """The first date in ISO 8601; the year is that of the log if it names only one."""
        if iso := _ISO.search(text):
            return iso[0]
        for found in _DATE.finditer(text):
            month, year = _month(found), found["year"] or self.year
            day_of = int(found["day"] or found["day2"])
            if month and year and 1 <= day_of <= 31:
                day = f"{year}-{month:02d}-{day_of:02d}"
                zone = "Z" if found["utc"] else ""
                return f"{day}T{found['hour']}:{found['minute']}{zone}" if found["hour"] else day
        return None

    # -- the whole

    def _happened(self, draft: _Draft) -> bool:
        if draft.history or draft.val_accuracy is not None:
            return True
        if draft.not_yet and "spend" not in draft.fields:
            self.notes.append(f"{draft.section!r} is planned and has no result: it is not an attempt yet.")
            return False
        return bool(draft.parameters) or not draft.baseline

    def _attempt(self, draft: _Draft) -> Attempt:
        history = tuple(draft.history[epoch] for epoch in sorted(draft.history))
        stated = [entry for entry in history if entry.val_accuracy is not None]
        if draft.val_accuracy is not None:
            stated.append(Evaluated(None, draft.val_accuracy, train_accuracy=draft.train_accuracy))
        best = draft.history.get(-1 if draft.best_epoch is None else draft.best_epoch) or max(
            stated, key=lambda entry: entry.val_accuracy or 0.0, default=None
        )
        fields = {name: value for name, value in draft.fields.items() if value is not None}
        previous = next((spend for words, spend in self.money.items() if words.startswith("previous")), None)
        if draft.baseline and previous is not None and "spend" not in fields:
            fields["spend"] = previous
            self.notes.append(f"The previous investment ({previous}) counts as the cost of the baseline.")
        if "planned" in fields and "spend" not in fields:
            self.notes.append(f"{draft.section!r} states an expected cost ({fields['planned']}), but no actual cost.")
        origin = Origin(self.file, self.sha256, draft.section, (draft.first, draft.last), self.money)
        return Attempt(
            name=draft.name,
            parameters=draft.parameters,
            history=history,
            best=best,
            baseline=draft.baseline,
            reason=_reason(draft),
            origin=origin,
            **fields,
        )


def _lines(text: str) -> Iterator[tuple[int, str, list[str] | None]]:
    """Number and text of each line; a fenced block comes as one item. An attempt's heading ends a block too."""
    fence: str | None = None
    block: list[str] = []
    number = 0
    for number, line in enumerate(text.splitlines(), start=1):
        mark = _FENCE.match(line)
        if fence is None:
            if mark:
                fence, block = mark[1], []
            else:
                yield number, line, None
            continue
        heading = _HEADING.match(line)
        if mark and mark[1].startswith(fence) and not mark[2]:
            yield number, line, block
            fence = None
        elif heading and (_ATTEMPT.match(heading[2]) or (len(heading[1]) > 1 and _BASELINE.match(heading[2]))):
            yield number - 1, "", block
            fence = None
            yield number, line, None
        else:
            block.append(line)
    if fence is not None:
        yield number, "", block


def _tokens(line: str) -> list[str]:
    """Words of a shell line that trains, without comment and launcher; with a stray quote it is split at spaces."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        words = re.split(r"\s#", line)[0].split()
    words = list(dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))
    if words and not words[0].startswith("-") and not _TRAINS.fullmatch(words[0]):
        return []
    scripts = [index for index, word in enumerate(words) if word == "-m" or word.endswith(".py")]
    return words[scripts[0] :] if scripts else words


def _reason(draft: _Draft) -> str:
    """How the attempt ended, in the log's words."""
    words = draft.reason or "; ".join(part.rstrip(".") for part in (draft.decision, draft.outcome) if part)
    return " ".join(words.split())


def _from_letters(text: str) -> str:
    """Without the signs before its first word."""
    return re.sub(r"^[^\w(\"']+", "", text)


def _status(text: str) -> Status | None:
    """The outcome at the start of a text."""
    for words, status in _WORDS:
        if re.match(rf"[\W_]*(?:final results?\W+)?{words}\b", text, re.I):
            return status
    return None


def _spend(text: str) -> Spend | None:
    found = _AMOUNT.search(re.sub(r"(\d(?:[\d,.]{0,20}\d)?)\s*USD\b", r"$\1", text))
    if not found:
        return None
    low, high = (None if part is None else _dollars(part) for part in (found["low"], found["high"]))
    if not all(math.isfinite(part) for part in (low, high) if part is not None):
        return None
    about = bool(found["about"])
    if found["less"]:
        return Spend(None, low, about)
    return Spend(low, None if found["plus"] else low if high is None else high, about)


def _dollars(text: str) -> float:
    thousand = text.lower().endswith("k")
    return float(text.lower().rstrip("k").replace(",", "")) * (1000 if thousand else 1)


def _fraction(text: str) -> float | None:
    found = re.search(r"(\d+(?:\.\d+)?)\s*(%?)", text)
    return _share(found[1], found[2]) if found else None


def _share(text: str, percent: str) -> float | None:
    """An accuracy as a fraction: 78.2 and 78.2% are 0.782; None above 100."""
    value = Decimal(text)
    value = value / 100 if percent or value > 1 else value
    return float(value) if value <= 1 else None


def _month(found: re.Match[str]) -> int | None:
    name = (found["month"] or found["month2"] or "").lower()
    return _MONTHS.index(name[:3]) + 1 if name[:3] in _MONTHS else None


def _parent(raw: str) -> Parent | None:
    """The line that `trainer.attempts.logbook.render` writes."""
    spans = [span[1] for span in _SPAN.findall(raw)]
    bare = _SPAN.sub("`", raw)
    if not (found := re.match(r"(\w+) of `(; digests (?:`(?:, )?)+)?(; epoch (\d{1,9}))?(; attempt `)?", bare)):
        return None
    attempt = spans.pop() if found[5] else None
    return Parent(found[1], spans[0], tuple(spans[1:]), None if found[4] is None else int(found[4]), attempt)


def _unmarked(text: str) -> str:
    """A line's text without emphasis, code marks and escapes."""
    text = re.sub(r"(?<!\\)(?:\*+|`+|__)", "", text)
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text).replace("\N{WORD JOINER}", "").strip()
