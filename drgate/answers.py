"""What a model answers for an image, as columns of a table of predictions.

    answer = Answer("logits", classes=("mild_npdr", "moderate_npdr", "no_dr", "pdr", "severe_npdr"))
    answer.columns(outputs)                 # {"p_0": ..., "p_4": ...}: grade 0 is the third output

The outputs of a model are (n, k) numbers. Their kind says what they mean, and the classes say of which grade each is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from drgate.errors import CheckpointError
from drgate.scale import GRADES, REFERABLE_CLASSES, Kind, On

SINGLE: Final[dict[Kind, int]] = {
    "regression": 1,
    "cumulative_logits": 4,
    "referable_logit": 1,
    "referable_probability": 1,
}
"""The number of outputs of the kinds without classes."""

NEEDS_CUT_OFFS: Final[tuple[Kind, ...]] = ("regression", "cumulative_logits")
"""Kinds that give no grade without cut-offs (`drgate tune`)."""

SUM_TOLERANCE: Final = 2.0**-8
"""Probabilities of an image sum to 1 within this: rounding to bfloat16 changes a sum by up to half as much."""

EXACT: Final = 1e-5
"""Sums of probabilities in float32 are this exact. Within `SUM_TOLERANCE`, small logits of one image of thousands are
too."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The kind of a model's outputs and their classes.

    kind: "logits" or "probabilities", one for each class; "regression", a severity on a scale of the model's own,
        larger for worse; "cumulative_logits" of P(grade >= 1) to P(grade >= 4); "referable_logit" and
        "referable_probability".
    classes: for logits and probabilities the grade (`scale.GRADES`) of each output in order; or the two
        `scale.REFERABLE_CLASSES` in either order. Empty for the other kinds.
    own_names: the classes in the model's own words, in the same order; empty where it has none.
    stated: whether somebody states the kind; logits that nobody stated are taken for probabilities where they are.
    """

    kind: Kind = "logits"
    classes: tuple[str, ...] = GRADES
    own_names: tuple[str, ...] = ()
    stated: bool = True

    @property
    def width(self) -> int:
        """The number of outputs for an image."""
        return SINGLE.get(self.kind, len(self.classes))

    @property
    def referable_only(self) -> bool:
        """Whether it says only whether to refer, and no grade."""
        return self.kind in ("referable_logit", "referable_probability") or set(self.classes) == {*REFERABLE_CLASSES}

    @property
    def cut_on(self) -> On:
        """What cut-offs act on in its tables."""
        return "referable" if self.referable_only else "severity" if self.kind == "regression" else "probabilities"

    def recognised(self, outputs: NDArray[Any]) -> Answer:
        """The same answer, of the kind "probabilities" where logits (n, k) that nobody stated are probabilities.

        Raises CheckpointError where the kind is stated and the outputs contradict it, and where nobody states it and
        nobody can tell: a softmax over probabilities would flatten them unseen. That is where most images have
        probabilities and the others have not, and of a single image whose sum is not exact.
        """
        finite = outputs[np.isfinite(outputs).all(axis=1)].astype(np.float64)
        if self.kind == "referable_probability" and (outside := ((finite < 0) | (finite > 1)).any(axis=1)).any():
            raise CheckpointError(
                "the model's outputs are stated to be a probability of referable DR, but are not between 0 and 1 in "
                f"{int(outside.sum())} of {len(finite)} images; state what they are (output.kind in model.yaml, "
                "kind of a grader in Python)."
            )
        if self.kind not in ("logits", "probabilities") or not len(finite):
            return self
        off = np.abs(finite.sum(axis=1) - 1)
        inside = (finite >= 0).all(axis=1) & (off <= SUM_TOLERANCE)
        if self.kind == "probabilities":
            if not inside.all():
                raise CheckpointError(
                    "the model's outputs are stated to be probabilities, but are not between 0 and 1 with the sum 1 in "
                    f"{int((~inside).sum())} of {len(inside)} images; state what they are (output.kind in model.yaml, "
                    "kind of a grader in Python)."
                )
            return self
        if not inside.all():
            if 2 * inside.sum() > len(inside) and not self.stated:
                raise CheckpointError(
                    f"the model's outputs are probabilities in {int(inside.sum())} of {len(inside)} images, but not in "
                    "the others; state what they are (output.kind in model.yaml)."
                )
            return self
        tells = len(inside) > 1 or off[0] <= EXACT
        if self.stated:
            if not tells:
                return self
            raise CheckpointError(
                f"the model's outputs are stated to be logits, but are probabilities in all {len(inside)} images; "
                "state that kind (output.kind in model.yaml, kind of a grader in Python)."
            )
        if not tells:
            raise CheckpointError(
                f"the model's outputs for a single image sum to {finite.sum():.6g}, which logits can too; state what "
                "they are (output.kind in model.yaml), or score more images."
            )
        return replace(self, kind="probabilities")

    def columns(self, outputs: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
        """The columns of a table for outputs (n, k): p_0 to p_4, severity, or p_referable; each (n,).

        A row with a number that is not finite is NaN in all of them: no output.
        """
        values = outputs.astype(np.float64)
        values[~np.isfinite(values).all(axis=1)] = np.nan
        match self.kind:
            case "regression":
                return {"severity": values[:, 0]}
            case "referable_probability":
                return {"p_referable": values[:, 0]}
            case "referable_logit":
                return {"p_referable": _sigmoid(values[:, 0])}
            case "cumulative_logits":
                # P(grade >= k) falls with k; where a model's own does not, the lowest so far holds.
                reached = np.minimum.accumulate(_sigmoid(values), axis=1)
                edges = np.hstack([np.ones((len(values), 1)), reached, np.zeros((len(values), 1))])
                edges[np.isnan(values[:, 0])] = np.nan
                return {f"p_{grade}": edges[:, grade] - edges[:, grade + 1] for grade in range(len(GRADES))}
        # Rounded probabilities (float16) sum to almost 1.
        by_class = softmax(values) if self.kind == "logits" else values / values.sum(axis=1, keepdims=True)
        if self.referable_only:
            return {"p_referable": by_class[:, self.classes.index(REFERABLE_CLASSES[1])]}
        return {f"p_{grade}": by_class[:, self.classes.index(name)] for grade, name in enumerate(GRADES)}


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Probabilities (n, k) in float64 from logits (n, k); a row with a value that is not finite becomes all NaN."""
    values = logits.astype(np.float64)
    values[~np.isfinite(values).all(axis=1)] = np.nan
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    small = np.exp(-np.abs(values))
    return np.asarray(np.where(values >= 0, 1, small) / (1 + small))
