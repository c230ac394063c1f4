"""Everything that is counted on the 5 x 6 table: reference grades 0-4 against predicted grades 0-4 and no output.

A statistic is a `Ratio`: which cells count, and which of those are the event. Its terms come from one table, from a
stack of bootstrap tables or from the patterns of patients by the same product, so that the estimate, its resampling
and its clusters can never disagree on a definition.

An image without output (`no_output`: unreadable, refused, failed) has a reference grade and no prediction. Three
policies define how it counts; each statistic describes below what that means for it:

- `excluded`: it counts nowhere.
- `as_referred`: the image goes to a person: positive for a group of grades. For a single grade it is defined for
  sensitivity (and `missed`) alone, where the person is taken to find the grade.
- `worst_case`: it counts as the prediction that is worst for this statistic.

>>> import numpy as np
>>> table = tabulate(np.array([4, 4, 4, 0]), np.array([4, 3, -1, 0]))
>>> k, n = sensitivity((4,), "worst_case").terms(table)
>>> int(k), int(n)
(1, 3)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

GRADES = 5
COLUMNS = 6
CELLS = GRADES * COLUMNS
NO_OUTPUT = 5
"""Column of the images without output."""

NoOutput = Literal["excluded", "as_referred", "worst_case"]
Cells = NDArray[np.bool_]

_REFERENCE, _PREDICTED = np.indices((GRADES, COLUMNS))
_ANSWERED: Cells = _PREDICTED != NO_OUTPUT


@dataclass(frozen=True, slots=True, eq=False)
class Ratio:
    """A proportion over the table: of the `counted` cells, those that are a `success`; both (5, 6).

    "Success" is the counted event, which for `missed`, `below`, `undergraded_by`, `overgraded_by` and `no_output` is
    the bad one (`adverse`): their upper bound decides, and `effective_sample` needs to know.
    """

    success: Cells
    counted: Cells
    adverse: bool = False

    def __post_init__(self) -> None:
        if self.success.shape != (GRADES, COLUMNS) or self.counted.shape != (GRADES, COLUMNS):
            raise ValueError("A ratio is defined on the 5 x 6 table.")
        if (self.success & ~self.counted).any():
            raise ValueError("A success must be among the cells that count.")

    def terms(self, tables: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Successes k and counted images n of every table, each of the leading shape; n may be 0.

        `tables` holds counts, (..., 5, 6) or flattened (..., 30).
        """
        k, n = terms([self], tables)
        return k[..., 0], n[..., 0]

    def values(self, tables: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """k / n of every table, and where it is defined (n > 0; the value is 0 elsewhere)."""
        return share(*self.terms(tables))


def terms(ratios: Sequence[Ratio], tables: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`Ratio.terms` of several ratios by one product: k and n of shape (..., ratios)."""
    masks = np.stack([r.success.ravel() for r in ratios] + [r.counted.ravel() for r in ratios], axis=1)
    # Counts below 2^53 are exact in floating point, and only there is the product fast.
    both = (flatten(tables).astype(np.float64) @ masks.astype(np.float64)).astype(np.int64)
    return both[..., : len(ratios)], both[..., len(ratios) :]


def share(k: ArrayLike, n: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """k / n, and where it is defined (n > 0; the value is 0 elsewhere)."""
    k, n = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    defined = n > 0
    return np.divide(k, n, out=np.zeros(np.broadcast(k, n).shape), where=defined), np.asarray(defined)


def flatten(tables: ArrayLike) -> NDArray[np.int64]:
    """Tables (..., 5, 6) or (..., 30) as (..., 30)."""
    tables = np.asarray(tables)
    if tables.shape[-2:] == (GRADES, COLUMNS):
        return tables.reshape(*tables.shape[:-2], CELLS)
    if tables.shape[-1:] == (CELLS,):
        return tables
    raise ValueError(f"Tables are (..., 5, 6) or (..., 30), not {tables.shape}.")


def cells(reference: ArrayLike, predicted: ArrayLike) -> NDArray[np.int64]:
    """Index 0-29 of each image's cell, reference * 6 + predicted.

    `reference` holds 0-4; `predicted` 0-4, and -1 or 5 for no output. Raises ValueError for anything else.
    """
    reference, predicted = np.asarray(reference), np.asarray(predicted)
    if reference.shape != predicted.shape or reference.ndim != 1:
        raise ValueError("Reference and predicted grades must be flat arrays of one length.")
    if reference.size and not (
        np.isin(reference, range(GRADES)).all() and np.isin(predicted, range(-1, COLUMNS)).all()
    ):
        raise ValueError("Reference grades are 0-4, and predicted grades 0-4, or -1 or 5 for no output.")
    column = np.where(predicted == -1, NO_OUTPUT, predicted)
    return (reference * COLUMNS + column).astype(np.int64)


def tabulate(reference: ArrayLike, predicted: ArrayLike) -> NDArray[np.int64]:
    """The 5 x 6 table of counts; arguments and errors as `cells`."""
    return np.bincount(cells(reference, predicted), minlength=CELLS).reshape(GRADES, COLUMNS).astype(np.int64)


def sensitivity(grades: tuple[int, ...], no_output: NoOutput) -> Ratio:
    """Images of these grades that are predicted as one of these grades.

    No output: positive `as_referred`, negative in the `worst_case`.
    """
    inside, predicted = _of(_REFERENCE, grades), _of(_PREDICTED, grades)
    if no_output == "as_referred":
        predicted = predicted | ~_ANSWERED
    return Ratio(inside & predicted, inside & _counts(no_output))


def missed(grades: tuple[int, ...], no_output: NoOutput) -> Ratio:
    """Images of these grades that are predicted as another grade: the complement of `sensitivity`, for each policy."""
    hit = sensitivity(grades, no_output)
    return Ratio(hit.counted & ~hit.success, hit.counted, adverse=True)


def specificity(grades: tuple[int, ...], no_output: NoOutput) -> Ratio:
    """Images of other grades that are predicted as another grade than these.

    No output: false positive both `as_referred` and in the `worst_case`.
    """
    if no_output == "as_referred":
        _require_group(grades, "specificity")
    outside, predicted = ~_of(_REFERENCE, grades), _of(_PREDICTED, grades)
    return Ratio(outside & ~predicted & _ANSWERED, outside & _counts(no_output))


def accuracy(no_output: NoOutput) -> Ratio:
    """Images that are predicted as their reference grade. No output: wrong in the `worst_case`; never `as_referred`."""
    _refuse_referred(no_output, "accuracy")
    return Ratio(_REFERENCE == _PREDICTED, _counts(no_output))


def ppv(grades: tuple[int, ...], no_output: NoOutput) -> Ratio:
    """Of the images predicted as one of these grades, those that are.

    No output: positive `as_referred`; in the `worst_case` an image of another grade is a false positive and one of
    these grades is negative.
    """
    inside, predicted = _of(_REFERENCE, grades), _of(_PREDICTED, grades)
    if no_output == "as_referred":
        _require_group(grades, "positive predictive value")
        predicted = predicted | ~_ANSWERED
    elif no_output == "worst_case":
        predicted = predicted | (~_ANSWERED & ~inside)
    return Ratio(inside & predicted, predicted)


def npv(grades: tuple[int, ...], no_output: NoOutput) -> Ratio:
    """Of the images predicted as another grade than these, those that are.

    No output: not counted `as_referred`; in the `worst_case` an image of these grades is a false negative and one of
    another grade is not counted.
    """
    inside, cleared = _of(_REFERENCE, grades), ~_of(_PREDICTED, grades) & _ANSWERED
    if no_output == "as_referred":
        _require_group(grades, "negative predictive value")
    elif no_output == "worst_case":
        cleared = cleared | (~_ANSWERED & inside)
    return Ratio(~inside & cleared, cleared)


def below(grades: tuple[int, ...], threshold: int, no_output: NoOutput) -> Ratio:
    """Images of these grades that are predicted below grade `threshold`, such as severe or PDR below referable (2).

    No output: counted and not below `as_referred` (a person sees the eye); below in the `worst_case`.
    """
    if not 0 < threshold < GRADES:
        raise ValueError(f"A grade to stay below is 1-4, not {threshold}.")
    inside = _of(_REFERENCE, grades)
    low = np.isin(_PREDICTED, range(threshold))
    if no_output == "worst_case":
        low = low | ~_ANSWERED
    return Ratio(inside & low, inside & _counts(no_output), adverse=True)


def undergraded_by(steps: int, no_output: NoOutput) -> Ratio:
    """Of all images, those predicted at least `steps` grades too low.

    No output: too low in the `worst_case`, if the reference grade is high enough; never `as_referred`.
    """
    return _off(_REFERENCE - _PREDICTED, _REFERENCE, steps, no_output)


def overgraded_by(steps: int, no_output: NoOutput) -> Ratio:
    """Of all images, those predicted at least `steps` grades too high; no output as for `undergraded_by`."""
    return _off(_PREDICTED - _REFERENCE, GRADES - 1 - _REFERENCE, steps, no_output)


def no_output(grade: int | None = None) -> Ratio:
    """Images without output, of all or of those of one reference grade."""
    counted = np.ones_like(_ANSWERED) if grade is None else _of(_REFERENCE, (grade,))
    return Ratio(counted & ~_ANSWERED, counted, adverse=True)


def balanced_accuracy(
    tables: ArrayLike, no_output: NoOutput = "excluded", *, grades: tuple[int, ...] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mean sensitivity over the grades present, and where it is defined.

    A grade is present where it has a counted image; a table without any is undefined (value 0). With `grades`, such as
    those present in the whole sample, the mean is over these and a table that lacks one is undefined: a replicate that
    lost a grade estimates something else.
    """
    wanted = tuple(range(GRADES)) if grades is None else grades
    values, defined = share(*terms([sensitivity((grade,), no_output) for grade in wanted], tables))
    mean, any_present = share(values.sum(axis=-1), defined.sum(axis=-1))
    return mean, any_present if grades is None else np.asarray(defined.all(axis=-1))


def square(tables: ArrayLike, no_output: NoOutput = "excluded") -> NDArray[np.int64]:
    """Tables (..., 5, 5) for agreement: no output is left out, or in the `worst_case` predicted as the farthest grade.

    The farthest grade from 0 and 1 is 4, from 3 and 4 it is 0; from 2 both are two away and it is 0, the
    under-graded one.
    """
    _refuse_referred(no_output, "agreement")
    flat = flatten(tables)
    full = flat.reshape(*flat.shape[:-1], GRADES, COLUMNS)
    answered: NDArray[np.int64] = full[..., :GRADES].copy()
    if no_output == "worst_case":
        answered[..., [0, 1], 4] += full[..., [0, 1], NO_OUTPUT]
        answered[..., [2, 3, 4], 0] += full[..., [2, 3, 4], NO_OUTPUT]
    return answered


def _of(axis: NDArray[np.int64], grades: tuple[int, ...]) -> Cells:
    if not grades or not set(grades) <= set(range(GRADES)) or len(set(grades)) != len(grades):
        raise ValueError(f"Grades are distinct and each 0-4, not {grades}.")
    return np.isin(axis, grades)


def _counts(no_output: NoOutput) -> Cells:
    if no_output not in ("excluded", "as_referred", "worst_case"):
        raise ValueError(f"The policy for no output is excluded, as_referred or worst_case, not {no_output!r}.")
    return _ANSWERED if no_output == "excluded" else np.ones_like(_ANSWERED)


def _off(distance: NDArray[np.int64], room: NDArray[np.int64], steps: int, no_output: NoOutput) -> Ratio:
    if not 0 < steps < GRADES:
        raise ValueError(f"Grades are 1 to 4 steps apart, not {steps}.")
    _refuse_referred(no_output, "distance of grades")
    event = (distance >= steps) & _ANSWERED
    if no_output == "worst_case":
        event = event | (~_ANSWERED & (room >= steps))
    return Ratio(event, _counts(no_output), adverse=True)


def _require_group(grades: tuple[int, ...], statistic: str) -> None:
    if len(grades) < 2:
        raise ValueError(f"No output counts as referred for groups of grades only; this {statistic} is of one grade.")


def _refuse_referred(no_output: NoOutput, statistic: str) -> None:
    if no_output == "as_referred":
        raise ValueError(f"No output counts as referred for groups of grades only, not for {statistic}.")
