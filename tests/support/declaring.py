"""Checklists that declare how many images of one patient a table without patients has at most."""

from __future__ import annotations

from drgate.checklist import Checklist, parse_checklist
from drgate.predictions import Predictions


def declaring(checklist: Checklist, predictions: Predictions, most: int = 1) -> Checklist:
    """The checklist with a declaration for the test set of these predictions."""
    entry = {"manifest": predictions.test_set, "images_a_patient_at_most": most}
    return parse_checklist({**checklist.content(), "declared": [entry]}, "declaring")
