"""How well can the grade be predicted from what a clinician would not look at?

    check(evidence).findings                    # "Vision-threatening DR by detail": .88, .80 to .93

A logistic regression on each property alone, and on those of each group together, is fitted to four fifths of the
patients and tried on the others. The area under its ROC curve is .5 where a property says nothing. Two honest sites
with other shares of disease differ as well, so this accuses nobody: it is never "found".
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from drgate.audit.evidence import Evidence, Examined, Photographs
from drgate.audit.properties import ACQUISITION, CONTENT
from drgate.audit.result import Check, Finding
from drgate.columns import reference_of
from drgate.grouping import grouping
from drgate.predictions import Predictions, as_grades
from drgate.scale import GROUP_TITLES, GROUPS, TITLES
from drgate.stats.ranking import auc_clustered

NAMED_ABOVE: Final = 0.70
"""A property is named where the lower limit of its area is above this: docs/audit.md, "Shortcuts"."""
LEVEL: Final = 0.95
"""Of all intervals of one audit together."""
FEWEST: Final = 10
"""Patients with and without a target; photographs of a text that is a category of its own."""
MOST: Final = 20_000
"""Photographs that are used, of a larger set: the time grows with them, and the intervals are narrow by then."""

_TARGETS: Final = {
    GROUP_TITLES["referable"]: GROUPS["referable"],
    GROUP_TITLES["vision_threatening"]: GROUPS["vision_threatening"],
    TITLES[4]: (4,),
}
_PLACES: Final = tuple(f"column {name}" for name in ("source", "site", "camera"))
_ORDER, _FORM = "order of file names", "form of file names"
_PARTS: Final = {"acquisition": ACQUISITION, "content": CONTENT, "origin": (_ORDER, _FORM, *_PLACES)}
_FOLDS: Final = 5
_BINS: Final = 10
_CATEGORIES: Final = 20
_PENALTY: Final = 5.0
_FURTHEST: Final = 5.0
_NEAR: Final = 1e-7
_LONGEST: Final = 64

Column = NDArray[Any]
"""A property of each photograph: numbers, NaN where it is absent, or texts, "" where it is absent."""


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """What is predicted: positive, of each photograph. strata: photographs of one are compared with one another; -1 of
    those that are not used. folds: the fifth of the patients that a photograph is in."""

    title: str
    scope: str
    positive: NDArray[np.bool_]
    strata: NDArray[np.int64]
    folds: NDArray[np.int64]


def check(evidence: Evidence) -> Check:
    """Of the test set: referable, vision-threatening and proliferative disease, where enough patients have it, in all
    photographs and within site and camera. With predictions also the model's wrong answers, within a grade."""
    test = evidence.test
    graded = reference_of(test.table).notna().to_numpy(dtype=bool)
    rows = test.readable[graded[test.readable]] if len(test.readable) else np.flatnonzero(graded)
    patients = grouping(test.table.iloc[rows]).codes
    owner = np.arange(len(rows)) if patients is None else patients
    names = np.asarray(test.names, dtype=object)[rows]
    keys = np.array([hashlib.sha256(name.encode()).hexdigest()[:16] for name in names], dtype="U16")
    kept = _first(owner, keys)
    rows, owner, keys = rows[kept], np.unique(owner[kept], return_inverse=True)[1], keys[kept]
    table = test.table.iloc[rows].reset_index(drop=True)
    columns = _columns(table, [test.seen[row] for row in rows.tolist()])
    compared = {"test": len(rows)} | ({} if patients is None else {"patients": len(set(owner.tolist()))})

    everywhere = np.zeros(len(rows), dtype=np.int64)
    asked = [
        (title, scope, positive, strata)
        for title, positive in _targets(table).items()
        for scope, strata in (("", everywhere), (", within site and camera", _places(columns)))
    ]
    compared |= {title: len(np.unique(owner[positive])) for title, scope, positive, _ in asked if not scope}
    if evidence.predictions is not None:
        wrong, grades = _wrong(evidence.predictions, test, rows)
        asked.append(("Wrong answer", ", within a grade", wrong, grades))
    questions = [
        _Question(title, scope, positive, strata, _folds(positive, strata, owner, keys))
        for title, scope, positive, given in asked
        if (strata := _enough(positive, given, owner)).max(initial=-1) >= 0
    ]
    tried = [(question, name, some) for question in questions for name, some in _tried(columns, question)]
    if not tried:
        reason = f"Too few patients: a target needs at least {FEWEST} patients with it and {FEWEST} without."
        return Check("shortcuts", "not_assessed", compared, reason=reason)

    level = 1 - (1 - LEVEL) / len(tried)
    numbers, findings = {"named_above": NAMED_ABOVE, "level": round(level, 6)}, []
    for question, name, some in tried:
        what = f"{question.title} by {name}{question.scope}"
        value, low, high = _area(question, [columns[one] for one in some], owner, level)
        numbers[what] = value
        if len(some) > 1:
            numbers |= {f"{what}: low": low, f"{what}: high": high}
        if low > NAMED_ABOVE:
            findings.append(Finding(what=what, value=value, low=low, high=high))
    findings.sort(key=lambda one: (-(one.low or 0.0), one.what or ""))
    compared |= {"properties": len(columns), "tried": len(tried)}
    rest: dict[str, Any] = {"compared": compared, "numbers": numbers}
    if findings:
        reason = "This predicts more than natural sets show. Look at how these photographs were collected and prepared."
        return Check.of("shortcuts", findings, status="suspected", reason=reason, **rest)
    if not len(test.readable):
        reason = "No photograph was read, so only names and columns of the manifest were tried."
        return Check.of("shortcuts", findings, status="not_assessed", reason=reason, **rest)
    return Check.of("shortcuts", findings, **rest)


def _first(owner: NDArray[np.int64], keys: NDArray[np.str_]) -> NDArray[np.int64]:
    """Positions of the photographs of whole patients, at most `MOST`, by the order of the digests of their names."""
    key = pd.Series(keys).groupby(owner).transform("min").to_numpy(dtype="U16")
    order = np.lexsort((owner, key))
    whole = np.searchsorted(key[order], key[order][MOST]) if len(order) > MOST else len(order)
    return np.sort(order[:whole])


# -- what is predicted -------------------------------------------------------------------------------------------------


def _targets(table: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """By title. Of a reference that says only whether to refer, this alone."""
    grades = reference_of(table)
    titles = list(_TARGETS)[:1] if "referable" in table.columns else list(_TARGETS)
    return {title: grades.isin(_TARGETS[title]).to_numpy(dtype=bool) for title in titles}


def _places(columns: dict[str, Column]) -> NDArray[np.int64]:
    """Codes of site and camera, as the manifest and the files name them; -1 of all where nothing does."""
    named = [columns[name] for name in (*_PLACES, "camera") if name in columns]
    if not named:
        return np.full(len(columns[_ORDER]), -1)
    return np.unique(np.stack(named, axis=1), axis=0, return_inverse=True)[1].astype(np.int64)


def _wrong(
    predictions: Predictions, test: Photographs, rows: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether the answer to each photograph is wrong, and its grade; -1 without a grade or an answer."""
    table = as_grades(predictions.table).reset_index(drop=True)
    place: dict[str, int] = {image: at for at, image in enumerate(table["image"])}
    place |= {key: at for at, key in enumerate(predictions.content_keys) if key}
    names, images = test.names, test.table["image"].tolist()
    at = [place.get(names[row], place.get(images[row], -1)) for row in rows.tolist()]
    found = table[["grade", "predicted"]].reindex(at).astype("Int64").fillna(-1)
    grades, answers = (found[name].to_numpy(dtype=np.int64) for name in ("grade", "predicted"))
    alike = predictions.scales == ("grades", "grades")
    wrong = grades != answers if alike else (grades >= 2) != (answers >= 2)
    return wrong, np.where(answers < 0, -1, grades)


def _enough(positive: NDArray[np.bool_], strata: NDArray[np.int64], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """The strata, -1 in place of those with too few patients of a side."""
    sides = []
    for side in (positive, ~positive):
        pairs = np.unique(np.stack([strata, owner])[:, side & (strata >= 0)], axis=1)
        sides.append(np.bincount(pairs[0], minlength=int(strata.max(initial=0)) + 1))
    return np.where((strata >= 0) & (np.minimum(*sides) >= FEWEST)[strata], strata, -1)


def _folds(
    positive: NDArray[np.bool_], strata: NDArray[np.int64], owner: NDArray[np.int64], keys: NDArray[np.str_]
) -> NDArray[np.int64]:
    """The fifth of the patients that each photograph is in: dealt out in the order of the digests of their published
    names, those with a positive photograph apart, so that the order of the rows changes nothing."""
    patients = pd.DataFrame({"owner": owner, "stratum": strata, "positive": positive, "key": keys}).groupby("owner")
    each = patients.agg({"stratum": "min", "positive": "max", "key": "min"}).sort_values(["stratum", "positive", "key"])
    fold = np.empty(len(each), dtype=np.int64)
    fold[each.index.to_numpy()] = np.arange(len(each)) % _FOLDS
    return fold[owner]


# -- what predicts -----------------------------------------------------------------------------------------------------


def _columns(table: pd.DataFrame, seen: list[Examined | str | None]) -> dict[str, Column]:
    """By name, the properties of photographs in which they differ."""
    stems = [re.sub(r"\.[A-Za-z]\w*$", "", image.rpartition("/")[2]) for image in table["image"]]
    parts = [[part.zfill(20) for part in re.split(r"(\d+)", stem)] for stem in stems]
    place = {"".join(part): at for at, part in enumerate(sorted(parts))}
    found: dict[str, Column] = {
        _ORDER: np.array([place["".join(part)] for part in parts], dtype=np.float64),
        _FORM: np.array([re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", stem))[:_LONGEST] for stem in stems], dtype=str),
    }
    for name in _PLACES:
        if (column := name.removeprefix("column ")) in table.columns:
            found[name] = table[column].astype("str").fillna("").to_numpy(dtype=str)
    for name in (*ACQUISITION, *CONTENT):
        values = [one.properties.get(name) if isinstance(one, Examined) else None for one in seen]
        if any(isinstance(value, str) for value in values):
            found[name] = np.array([value or "" for value in values], dtype=str)
        else:
            found[name] = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    return {name: column for name, column in found.items() if name == _ORDER or _differs(column)}


def _differs(column: Column) -> bool:
    return pd.Series(column).nunique(dropna=False) > 1


def _tried(columns: dict[str, Column], question: _Question) -> Iterator[tuple[str, list[str]]]:
    """Each property that differs within a stratum, each part together, and all together: title and names."""
    strata = [question.strata == code for code in np.unique(question.strata[question.strata >= 0])]
    differing = [name for name, column in columns.items() if any(_differs(column[some]) for some in strata)]
    for name in differing:
        yield name.replace("_", " "), [name]
    for title, part in {**_PARTS, "all": differing}.items():
        some = [name for name in part if name in differing]
        if len(some) > 1:
            yield f"{title} together", some


def _area(
    question: _Question, columns: list[Column], owner: NDArray[np.int64], level: float
) -> tuple[float, float, float]:
    """Area and interval, over pairs of photographs of one stratum.

    References: of several strata Zou & Donner 2008, Statistics in Medicine 27:1693 ("square and add").
    """
    pairs, areas = [], []
    for code in np.unique(question.strata[question.strata >= 0]):
        rows = np.flatnonzero(question.strata == code)
        positive = question.positive[rows]
        design = np.hstack([_design(column[rows], alone=len(columns) == 1) for column in columns])
        scores = _out_of_fold(design, positive, question.folds[rows])
        if (area := auc_clustered(scores, positive, owner[rows], level=level)) is not None:
            pairs.append(area.positives * area.negatives)
            areas.append((area.value, area.low, area.high))
    share = np.array(pairs) / sum(pairs)
    value, low, high = np.array(areas).T
    middle = float(share @ value)
    below, above = (math.sqrt(float(share**2 @ (value - end) ** 2)) for end in (low, high))
    return round(middle, 4), round(max(0.0, middle - below), 4), round(min(1.0, middle + above), 4)


def _design(column: Column, *, alone: bool) -> NDArray[np.float64]:
    """(n, k): of texts one column each of the most frequent; of numbers the standardised one, and alone also the tenth
    that it is in, with a sixteenth of the weight, so that what neither rises nor falls shows."""
    if column.dtype.kind == "U":
        _, codes, counts = np.unique(column, return_inverse=True, return_counts=True)
        kept = np.argsort(-counts, kind="stable")[:_CATEGORIES]
        return np.asarray(codes[:, None] == kept[counts[kept] >= FEWEST], dtype=np.float64)
    absent = np.isnan(column)
    if absent.all():
        return np.zeros((len(column), 0))
    centred = np.where(absent, 0.0, column - np.nanmean(column))
    spread = float(np.sqrt((centred**2).sum() / (~absent).sum()))
    parts = [np.clip(centred / (spread or 1.0), -_FURTHEST, _FURTHEST)[:, None], absent[:, None]]
    if alone:
        edges = np.quantile(column[~absent], np.arange(1, _BINS) / _BINS)
        tenth = np.where(absent, -1, np.searchsorted(edges, column, side="right"))
        parts.append((tenth[:, None] == np.arange(_BINS)) / 4)
    return np.hstack(parts).astype(np.float64)


def _out_of_fold(
    design: NDArray[np.float64], positive: NDArray[np.bool_], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of each photograph, how much more likely than its share a regression on the other folds takes it to be."""
    scores = np.zeros(len(positive))
    weights = np.zeros(design.shape[1] + 1)
    for fold in range(_FOLDS):
        rest, here = folds != fold, folds == fold
        if here.any() and positive[rest].any() and not positive[rest].all():
            weights = _fitted(design[rest], positive[rest], weights)  # from the last fold's, which are near
            scores[here] = weights[0] + design[here] @ weights[1:] - logit(positive[rest].mean())
    return scores.round(6)


def _fitted(
    design: NDArray[np.float64], positive: NDArray[np.bool_], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Intercept and weights of a logistic regression with a ridge penalty, by Newton's method."""
    x = np.column_stack([np.ones(len(design)), design])
    penalty = np.r_[1e-6, np.full(design.shape[1], _PENALTY)]
    target = x[positive].sum(axis=0)

    def loss(at: NDArray[np.float64]) -> float:
        return float(np.logaddexp(0, x @ at).sum() - target @ at + (penalty * at**2).sum() / 2)

    weights, now = start, loss(start)
    for _ in range(50):
        likely = expit(x @ weights)
        curvature = (x * (likely * (1 - likely))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curvature, x.T @ likely - target + penalty * weights)
        while (then := loss(weights - step)) > now and np.abs(step).max() > _NEAR:
            step = step / 2
        weights, now = weights - step, then
        if np.abs(step).max() < _NEAR:
            break
    return weights
