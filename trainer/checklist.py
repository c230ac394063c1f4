"""How many criteria of the checklist are met on the validation images after an epoch.

This is not a verdict: the epoch is selected on the validation images, so they are too favourable. The locked test set
decides.
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
    """For example "checklist 5 of 8 shown, 2 more observed": of the required criteria about images.

    validation: the images, in the order of `predicted`. Empty if the checklist cannot be applied to them.
    """
    rows = validation.table.drop(columns="split").assign(predicted=predicted)
    try:
        found = [line for line in lines(make_predictions(rows, str(validation.origin), {}), checklist) if line.required]
    except DrgateError:
        return ""
    shown = sum(line.status == "PASS" for line in found)
    observed = sum(line.status in ("OBSERVED", "INSUFFICIENT") for line in found)
    return f"checklist {shown} of {len(found)} shown" + (f", {observed} more observed" if observed else "")
