"""What a model was trained on is known in full, or the audit says that it is not."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from drgate.audit.evidence import Evidence, Photographs
from drgate.audit.lineage import check
from drgate.vision.fingerprint import Fingerprint

TEST = Photographs(pd.DataFrame({"image": ["a.png"]}), (Path("a.png"),), ("",), (None,))
FINGERPRINT = Fingerprint(np.zeros((3, 32), np.uint8), {}, False)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, "give --checkpoint"),
        ({"model": True}, "no fingerprint"),
        ({"model": True, "train": TEST}, "no fingerprint"),
        ({"model": True, "train": TEST, "declared": True}, "nothing shows that the model was trained on no other"),
        (
            {"model": True, "fingerprint": FINGERPRINT, "unknown_data": "Its parent is unknown."},
            "Its parent is unknown.",
        ),
    ],
)
def test_what_is_unknown_is_never_clean(facts, reason):
    """Without a model, without a fingerprint, or with ancestors that nobody knows, lineage is not assessed."""
    found = check(Evidence(TEST, **facts))
    assert found.status == "not_assessed"
    assert reason in found.reason


def test_a_fingerprint_of_all_is_clean():
    """The fingerprint covers the model and its ancestors; what the base saw is declared or not, and that is said."""
    found = check(Evidence(TEST, model=True, fingerprint=FINGERPRINT, pretraining="SYNTHETIC eyes only"))
    assert (found.status, found.compared) == ("clean", {"train": 3})
    assert "SYNTHETIC eyes only" in found.reason
    found = check(Evidence(TEST, model=True, fingerprint=FINGERPRINT, pretraining="unknown"))
    assert "base model: unknown" in found.reason
