"""Can the photographs of the test set be graded, by the rule of `drgate.gradability`?

A photograph that the rule refuses keeps its grade and is judged like any other. A deployment that uses the rule gives
no output for it, which the evaluation counts. The photographs of disease can be worse for a clinical reason, such as a
vitreous haemorrhage, so nothing here is ever "found".
"""

from __future__ import annotations

from typing import Final

import numpy as np

from drgate.audit.evidence import Evidence, Examined
from drgate.audit.result import Check, Finding, Status
from drgate.audit.strata import LEVEL, TITLE_OF, Flags, owners, rounded, share, strata
from drgate.gradability import gradable, score
from drgate.stats.ranking import auc_clustered

MOST: Final = 0.10
"""A larger share of refused photographs is suspected."""
APART: Final = 0.99
"""Level of the two intervals that must not overlap for a grade to be called apart from the others."""


def check(evidence: Evidence) -> Check:
    """Refused photographs, worst first, with the limit that each does not meet. Suspected where more than `MOST` of
    all are refused, or where one grade's share and that of all others have intervals that do not overlap."""
    test = evidence.test
    seen = np.array([one is not None for one in test.seen], dtype=bool)
    compared = {"test": len(test), "examined": int(seen.sum())}
    if not seen.any():
        reason = f"No photograph was read; give the {evidence.sides[0]} with its images."
        return Check("quality", "not_assessed", compared=compared, reason=reason)
    why = [
        gradable(one.measures) if isinstance(one, Examined) else "cannot be read" if one else "" for one in test.seen
    ]
    scores = np.array([score(one.measures) if isinstance(one, Examined) else 0.0 for one in test.seen])
    refused = np.array([text != "" for text in why], dtype=bool)
    patients = owners(test.table)

    numbers: dict[str, float] = {}
    reasons = []

    def counted(name: str, rows: Flags) -> None:
        if own := share(refused, rows & seen, patients):
            numbers.update(rounded(name, own.value, own.low, own.high))

    counted("refused", seen)
    if numbers["refused"] > MOST:
        reasons.append(f"More than {MOST:.0%} of the photographs are refused by drgate's own quality rule.")
    for name, rows in strata(test.table).items():
        counted(f"refused:{name}", rows)
        own, others = (share(refused, some & seen, patients, APART) for some in (rows, ~rows))
        if own and others and (own.low > others.high or others.low > own.high):
            often = "more" if own.low > others.high else "less"
            reasons.append(f"Photographs of the grade {TITLE_OF[name]} are refused {often} often than the others.")

    marked = ~test.table["gradable"].to_numpy(dtype=bool)
    if (marked & seen).any():
        compared["not_gradable"] = int((marked & seen).sum())
        counted("refused:not_gradable", marked)
        counted("refused:gradable", ~marked)
        if patients is not None and (area := auc_clustered(-scores[seen], marked[seen], patients[seen], level=LEVEL)):
            numbers |= rounded("auc:not_gradable", area.value, area.low, area.high)

    names = test.names
    order = sorted(np.flatnonzero(refused).tolist(), key=lambda row: (scores[row], names[row]))
    findings = [Finding(test=names[row], what=why[row], value=round(float(scores[row]), 3)) for row in order]
    status: Status = "suspected" if reasons else "clean"
    return Check.of("quality", findings, status=status, compared=compared, reason=" ".join(reasons), numbers=numbers)
