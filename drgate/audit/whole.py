"""The audit: every question, in the order of the page.

found = audit(Evidence(photographs(test), photographs(train)))
found.digest, found.check("near_duplicates").status
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import PIL
import scipy

from drgate import __version__
from drgate.audit import (
    case_mix,
    fellow_eyes,
    files,
    label_conflicts,
    lineage,
    mislabelled,
    near_duplicates,
    patients,
    quality,
    readers,
    shortcuts,
)
from drgate.audit.evidence import Evidence
from drgate.audit.result import CHECKS, Audit, Check, CheckId

QUESTIONS: Final[dict[CheckId, Callable[[Evidence], Check]]] = {
    "lineage": lineage.check,
    "patients": patients.check,
    "eyes": patients.check_eyes,
    "files": files.check,
    "pixels": files.check_pixels,
    "near_duplicates": near_duplicates.check,
    "label_conflicts": label_conflicts.check,
    "fellow_eyes": fellow_eyes.check,
    "mislabelled": mislabelled.check,
    "readers": readers.check,
    "shortcuts": shortcuts.check,
    "quality": quality.check,
    "case_mix": case_mix.check,
}
"""What answers each question. The key is the check's id."""


def audit(
    evidence: Evidence,
    settings: Mapping[str, Any] | None = None,
    *,
    only: frozenset[CheckId] = frozenset(CHECKS),
    advance: Callable[[str], object] = lambda name: None,
) -> Audit:
    """settings: what was asked for, kept in the audit. only: the questions that are asked. advance: called with the
    name of each question before it is answered."""
    checks = []
    for name, answer in QUESTIONS.items():
        if name in only:
            advance(name)
            checks.append(answer(evidence))
    software = {
        "drgate": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "pillow": PIL.__version__,
    }
    return Audit(dict(settings or {}), software, tuple(checks))
