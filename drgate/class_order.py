"""Whether classes or reference grades seem to be in another order than the one given; decides nothing.

    reordered(predictions, model)         # "The classes seem to be in another order than given: p_0 holds ..." or None
    grade_mix(predictions, checklist)     # "Reference grades: No DR 301, Mild NPDR 29, ..."

Both look at the images and their reference grades alone, so that a published table gives the same sentences.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from drgate.checklist import Checklist
from drgate.evaluation import Model
from drgate.predictions import Predictions
from drgate.scale import GRADES, GROUPS, SCALE_TITLES, doubts
from drgate.stats import class_order
from drgate.stats.class_order import Reordered

_IN_WORDS: Final = ("no DR", "mild NPDR", "moderate NPDR", "severe NPDR", "PDR")
_LEAST_CHANCE: Final = 1e-6
"""A smaller chance is not told apart from this."""


def reordered(predictions: Predictions, model: Model) -> str | None:
    """What the classes seem to hold, with the gain, its chance and what to do; None where the order given is as good.

    A number on a scale of severity has no classes. Cut-offs play no part where there are probabilities.
    """
    table = predictions.table
    if predictions.answers == "referable":
        grades = table["grade"].isin(GROUPS["referable"]).where(table["grade"].notna())
        reference = table["referable"] if "referable" in table.columns else grades
        answers = table["predicted_referable"]
    elif predictions.answers == "grades" and model.output in (None, "logits", "probabilities"):
        reference, likely = table["grade"], predictions.probabilities()
        known = ~np.isnan(likely[:, 0])
        answers = table["predicted"].mask(known, pd.Series(np.nan_to_num(likely).argmax(axis=1), table.index))
    else:
        return None
    judged = (reference.notna() & answers.notna()).to_numpy(dtype=bool)
    if not judged.any():
        return None
    patients = predictions.patients.codes
    weights = np.ones(int(judged.sum()))
    if patients is not None:
        weights = 1 / np.bincount(patients[judged])[patients[judged]]
    classes = 2 if predictions.answers == "referable" else len(GRADES)
    graded, given = (column[judged].to_numpy(dtype=np.int64) for column in (reference, answers))
    found = class_order.reordered(graded, given, weights, classes=classes)
    if found is None:
        return None
    what, remedy = _inverted(model) if classes == 2 else _named(found, predictions, model)
    before, after = (f"{kappa:.2f}".replace("-", "\N{MINUS SIGN}") for kappa in found.kappa)
    one_in = 1 / max(found.chance, _LEAST_CHANCE)
    return (
        f"{what} Then {found.right[1]} of {len(weights)} images have the right answer, instead of {found.right[0]} "
        f"(quadratic kappa {after} instead of {before}). At most 1 in {one_in:,.0f} random "
        f"permutations of the answers show as much. {remedy} That is another look at this test set."
    )


def _inverted(model: Model) -> tuple[str, str]:
    """What seems to be inverted, and what to do about it."""
    remedy = "use the probability of referable" if model.of_table else "exchange the two classes in model.yaml"
    return (
        "The answers seem to be inverted: those for referable are for not referable.",
        f"If they are, {remedy}, and evaluate again.",
    )


def _named(found: Reordered, predictions: Predictions, model: Model) -> tuple[str, str]:
    """Which class seems to hold what, and what to do about it."""
    moved = [(given, holds) for given, holds in enumerate(found.order) if given != holds]
    classes = model.class_names if model.class_names and {*model.class_names} == {*GRADES} else GRADES
    outputs = [GRADES.index(name) for name in classes]  # the grade of each, as given
    if not model.of_table:
        own = dict(zip(outputs, model.own_names or classes, strict=False))
        names = {given: f"output {at + 1} ({own.get(given, '')[:50]})" for at, given in enumerate(outputs)}
        remedy = f"state classes: [{', '.join(GRADES[found.order[given]] for given in outputs)}] in model.yaml"
    elif predictions.table["p_0"].notna().any():
        names = {given: f"p_{given}" for given in outputs}
        remedy = f"rename {_list([f'p_{given} to p_{holds}' for given, holds in moved])} together"
    else:
        names = {given: f"predicted {given}" for given in outputs}
        remedy = f"change predicted {_list([f'{given} to {holds}' for given, holds in moved])} together"
    held = _list([f"{names[given]} holds {_IN_WORDS[holds]}" for given, holds in moved])
    what = f"The classes seem to be in another order than the one given: {held}."
    if doubted := [f"{names[one]} from {names[other]}" for one, other in found.unsettled]:
        what += f" The images do not tell {_list(doubted)}."
    return what, f"If the model was trained in that order, {remedy}, and evaluate again."


def _list(items: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def grade_mix(predictions: Predictions, checklist: Checklist) -> list[str]:
    """The mix of the reference, and a question where no DR (or not referable) is not the most common in it.

    No question where the checklist states an enriched test set.
    """
    scale = predictions.scales[1]
    column = predictions.table["referable" if scale == "referable" else "grade"].dropna()
    if column.empty:
        return []
    titles = SCALE_TITLES[scale]
    counts = np.bincount(column.to_numpy(dtype=np.int64), minlength=len(titles))
    called = "Reference" if scale == "referable" else "Reference grades"
    lines = [f"{called}: {', '.join(f'{t} {n}' for t, n in zip(titles, counts, strict=True))}."]
    if scale == "grades":
        lines += doubts(counts.tolist())
    most = int(counts.argmax())
    if counts[most] > counts[0] and "enriched" not in checklist.test_set.sampling.casefold():
        what, asked = (
            ("answer of the reference is referable", "Does 1 in the column referable mean to refer")
            if scale == "referable"
            else (
                f"reference grade is {_IN_WORDS[most]}, not no DR",
                "Are grades 0 to 4 those of the ICDR scale, in its order",
            )
        )
        lines.append(
            f"The most common {what}, and the checklist does not state that the test set is enriched. {asked}?"
        )
    return lines
