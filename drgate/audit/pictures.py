"""The pairs of photographs that an audit found, as small pictures; for a page that stays with the caller.

for pair in pairs(audit, evidence):
    pair.check, pair.finding, pair.test, pair.other      # JPEG
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Final, get_args

from PIL import Image

from drgate.audit.evidence import Evidence, Photographs, picture_of
from drgate.audit.register import turned
from drgate.audit.result import Audit, CheckId, Finding, Orientation

SIDE: Final = 360
"""Longest side of a picture, in pixels."""
DRAWN: Final[tuple[CheckId, ...]] = ("files", "pixels", "near_duplicates", "label_conflicts", "fellow_eyes")
"""Checks whose findings are pairs of photographs."""
_TURNS: Final = get_args(Orientation)


@dataclass(frozen=True, slots=True)
class Pair:
    """test: of the test set, turned to lie on the other. other: None where its photograph is not at hand."""

    check: CheckId
    finding: Finding
    test: bytes = field(repr=False)
    other: bytes | None = field(repr=False)


def pairs(audit: Audit, evidence: Evidence) -> list[Pair]:
    """In the order of the audit; of each check the findings that are written down.

    Raises ManifestError where a file has changed since it was examined.
    """
    test, train = _rows(evidence.test), {} if evidence.train is None else _rows(evidence.train)
    found = []
    for check in audit.checks:
        for finding in check.findings if check.id in DRAWN else ():
            if finding.test not in test:
                continue
            turn = _TURNS.index(finding.orientation or "same")
            first = _drawn(evidence.test, test[finding.test], turn)
            second = None
            if finding.other in test:
                second = _drawn(evidence.test, test[finding.other], 0)
            elif finding.train in train and evidence.train is not None:
                second = _drawn(evidence.train, train[finding.train], 0)
            found.append(Pair(check.id, finding, first, second))
    return found


def _rows(side: Photographs) -> dict[str | None, int]:
    """By published name, the first photograph that was examined."""
    return {side.names[row]: row for row in reversed(side.readable.tolist())}


def _drawn(side: Photographs, row: int, turn: int) -> bytes:
    image = turned(picture_of(side.file(row)), turn)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return data.getvalue()
