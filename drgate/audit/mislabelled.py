"""Which reference grades are likely wrong, by the model and by the patient's other eye? Ranked, to look at.

Confident learning by self-confidence (Northcutt, Jiang and Chuang 2021, JAIR 70:1373): the lower the probability of the
reference grade, the likelier it is wrong. Where the other eye is graded, the probabilities are first multiplied by how
often eyes of each grade have such an other eye in this test set.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgate.audit.evidence import Evidence
from drgate.audit.result import Check, Finding
from drgate.predictions import NO_PROBABILITIES, Predictions, published_names

BELOW: Final = 0.05
"""Probability of the reference grade below which it is accused."""
_OTHER: Final = {"L": "R", "R": "L"}


def check(evidence: Evidence) -> Check:
    predictions = evidence.predictions
    if predictions is None:
        return _unknown("It needs the model's answers beside the grades; give --predictions TABLE, which takes a look.")
    if predictions.scales != ("grades", "grades"):
        return _unknown("The model or the reference says only whether to refer; this needs all five grades of both.")
    if predictions.no_probabilities:
        return _unknown(f"This needs probabilities: {NO_PROBABILITIES[predictions.no_probabilities]}")
    usable = predictions.table["grade"].notna().to_numpy() & ~np.isnan(predictions.probabilities()).any(axis=1)
    if not usable.any():
        return _unknown("No image has both a reference grade and the five probabilities.")
    rows = np.flatnonzero(usable)
    graded = predictions.table["grade"].to_numpy(dtype=np.int64, na_value=-1)[rows]
    likely = likely_grades(predictions, rows, graded)
    own = np.round(likely[np.arange(len(rows)), graded], 6)
    ours = dict(zip(evidence.test.table["image"], evidence.test.names, strict=True))
    named = zip(predictions.table["image"], published_names(predictions.table), strict=True)
    names = np.array([ours.get(image, name) for image, name in named])[rows]
    order = np.lexsort((names, own))
    findings = [
        Finding(test=str(names[i]), what=f"graded {graded[i]}, most likely {likely[i].argmax()}", value=float(own[i]))
        for i in order[own[order] < BELOW]
    ]
    return Check.of(
        "mislabelled",
        findings,
        status="suspected" if findings else "clean",
        compared={"images": len(rows), "left_out": len(usable) - len(rows)},
        reason="The model and the other eye make these grades unlikely, which is no proof." if findings else "",
        numbers={"below": BELOW},
    )


def likely_grades(predictions: Predictions, rows: NDArray[np.int64], graded: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 5) probabilities of the grade of each row, by the model and by the highest grade of the other eye."""
    likely = predictions.probabilities()[rows]
    codes = predictions.patients.codes
    if codes is not None:
        table = pd.DataFrame({"patient": codes, "eye": predictions.table["eye"]}).iloc[rows].assign(grade=graded)
        highest = table.groupby(["patient", "eye"])["grade"].max()
        others = pd.MultiIndex.from_arrays([table["patient"], table["eye"].map(_OTHER)])
        other = highest.reindex(others).to_numpy(dtype=np.float64)
        known = ~np.isnan(other)
        together = np.ones((5, 5))  # one of each, so that a pair of grades that was never seen stays possible
        np.add.at(together, (graded[known], other[known].astype(np.int64)), 1)
        likely[known] *= (together / together.sum(axis=1, keepdims=True))[:, other[known].astype(np.int64)].T
    return np.asarray(likely / likely.sum(axis=1, keepdims=True))


def _unknown(reason: str) -> Check:
    return Check("mislabelled", "not_assessed", reason=reason)
