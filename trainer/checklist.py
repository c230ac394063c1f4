"""How the checklist's lines stand on the validation images after an epoch: a word for the line that people read.

It is no verdict: the validation images choose the epoch, so they flatter it, and the locked test set decides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drgate.checklist import Checklist
from drgate.errors import DrgateError
from drgate.evaluate import lines
from drgate.manifest import Manifest
from drgate.predictions import make_predictions


def checklist_state(checklist: Checklist, validation: Manifest, predicted: NDArray[np.int64]) -> str:
    """For example "checklist 5 of 8 shown, 2 more observed": of the required lines about images.

    validation: the images, in the order of `predicted`. Empty where the checklist cannot be held against them.
    """
    rows = validation.table.drop(columns="split").assign(predicted=predicted)
    try:
        found = [line for line in lines(make_predictions(rows, str(validation.origin), {}), checklist) if line.required]
    except DrgateError:
        return ""
    shown = sum(line.status == "PASS" for line in found)
    observed = sum(line.status in ("OBSERVED", "INSUFFICIENT") for line in found)
    return f"checklist {shown} of {len(found)} shown" + (f", {observed} more observed" if observed else "")
