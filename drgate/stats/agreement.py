"""Cohen's kappa, unweighted, linear and quadratic, always over all labels of the table.

>>> import numpy as np
>>> table = np.array([[0, 4, 1], [0, 8, 0], [0, 1, 5]])
>>> value, defined = kappa(table, "linear")
>>> round(float(value), 4), bool(defined)
(0.4701, True)
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Weights = Literal["none", "linear", "quadratic"]


def kappa(tables: ArrayLike, weights: Weights) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Kappa of every table of counts (..., k, k), and where it is defined; both of the leading shape.

    -1 <= kappa <= 1. Undefined (value 0) without cases, and where chance alone would agree fully: reference and
    prediction both know one label only. A label without cases stays in the table and its distances count.

    References: Cohen 1968, Psychological Bulletin 70:213.
    """
    t = _square(tables)
    disagreement = 1 - _agreement_weights(t.shape[-1], weights)
    rows, columns = np.einsum("...ij->...i", t), np.einsum("...ij->...j", t)
    observed = np.einsum("...i->...", rows) * (t.reshape(*t.shape[:-2], -1) @ disagreement.ravel())
    expected = np.einsum("...i,...i->...", rows @ disagreement, columns)
    defined = np.asarray(expected > 0)
    return 1 - np.divide(observed, expected, out=np.ones_like(expected), where=defined), defined


def _square(tables: ArrayLike) -> NDArray[np.float64]:
    t = np.asarray(tables, dtype=np.float64)
    if t.ndim < 2 or t.shape[-1] != t.shape[-2] or t.shape[-1] < 2:
        raise ValueError(f"Kappa is of square tables (..., k, k) with k >= 2, not {t.shape}.")
    return t


def _agreement_weights(labels: int, weights: Weights) -> NDArray[np.float64]:
    distance = np.abs(np.subtract.outer(np.arange(labels), np.arange(labels))) / (labels - 1)
    match weights:
        case "none":
            return np.eye(labels)
        case "linear":
            return 1 - distance
        case "quadratic":
            return 1 - distance**2
    raise ValueError(f"The weights of kappa are 'none', 'linear' or 'quadratic', not {weights!r}.")
