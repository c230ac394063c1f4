"""Are the two eyes of a patient graded far apart? They rarely are, so a grade or the patient may be wrong."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from drgate.audit.evidence import Evidence
from drgate.audit.result import Check, Finding
from drgate.grouping import grouping
from drgate.stats.proportion import exact_bounds

FAR: Final = 3
"""Grades between the two eyes from which a patient is looked at."""
EXPECTED: Final = 0.0026
"""Share of patients so far apart in natural photographs: 7 of 2720 of an EyePACS set; 0 of 377 of another."""


def check(evidence: Evidence) -> Check:
    test = evidence.test
    codes = grouping(test.table).codes
    table = test.table.assign(name=test.names, code=-1 if codes is None else codes)
    graded = table[(table["code"] >= 0) & table["eye"].notna() & table["grade"].notna()]
    lowest, highest = (graded.sort_values("grade", ascending=up, kind="stable") for up in (True, False))
    pairs = []
    for low_eye, high_eye in (("L", "R"), ("R", "L")):
        low, high = (
            side[side["eye"] == eye].drop_duplicates("code").set_index("code")
            for side, eye in ((lowest, low_eye), (highest, high_eye))
        )
        both = low.join(high.add_suffix("_high"), how="inner")
        pairs.append(both.assign(apart=both["grade_high"] - both["grade"]))
    both = pd.concat(pairs)
    patients = int(both.index.nunique())
    if not patients:
        reason = "No patient is known to have both eyes graded; give the columns patient, eye and grade."
        return Check("fellow_eyes", "not_assessed", reason=reason)
    far = both[both["apart"] >= FAR].sort_values(["apart", "name"], ascending=[False, True])
    findings = [
        Finding(test=name, other=other, what=f"one eye graded {low}, the other {high}")
        for name, other, low, high in zip(far["name"], far["name_high"], far["grade"], far["grade_high"], strict=True)
    ]
    share = exact_bounds(len(findings), patients, level=0.95)
    shares = {"share": len(findings) / patients, "low": share.low, "high": share.high, "expected_share": EXPECTED}
    return Check.of(
        "fellow_eyes",
        findings,
        status="suspected" if findings else "clean",
        compared={"patients": patients},
        reason="Two eyes so far apart are rare and possible: look at them." if findings else "",
        numbers={name: float(np.round(number, 6)) for name, number in shares.items()},
    )
