"""What the audit says of who is in the test set."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from drgate.audit.case_mix import check
from drgate.audit.evidence import Evidence
from drgate.evaluation import plain_of
from tests.support.examined import GOOD, side

ENOUGH = [0] * 80 + [1] * 80 + [2] * 80 + [3] * 80 + [4] * 80


def patients(grades, **cells):
    return [{"grade": grade, "patient": f"p{i}", **cells} for i, grade in enumerate(grades)]


def said(found):
    return [one.what for one in found.findings]


def test_enough_of_every_grade():
    """A set with 80 patients of each grade lacks nothing."""
    found = check(Evidence(side(patients(ENOUGH))))
    assert (found.status, said(found), found.reason) == ("clean", [], "")
    assert found.compared == {"test": 400, "patients": 400}


def test_too_few_to_show_anything():
    """A grade with 35 patients cannot show .90 even without an error; with 36 it can, but not .95."""
    ends = [binomtest(n, n).proportion_ci(0.95).low for n in (35, 36, 71, 72)]
    assert ends[0] < 0.90 <= ends[1]
    assert ends[2] < 0.95 <= ends[3]
    few = check(Evidence(side(patients(ENOUGH[:-80] + [4] * 35))))
    assert few.status == "suspected"
    assert said(few) == ["PDR: 35 patients; 36 without an error are needed to show 90%"]
    more = check(Evidence(side(patients(ENOUGH[:-80] + [4] * 36))))
    assert more.status == "clean"
    assert said(more) == ["PDR: 36 patients; 72 without an error are needed to show 95%"]
    assert check(Evidence(side(patients(ENOUGH[:-80] + [4] * 72)))).count == 0


def test_two_images_of_one_patient():
    """Both eyes of a patient are one patient, and widen the interval of a share."""
    rows = patients(ENOUGH[:-80])
    found = check(Evidence(side(rows + [{"grade": 4, "patient": f"q{i // 2}"} for i in range(60)])))
    assert found.numbers["patients:pdr"] == 30
    assert said(found)[0].startswith("PDR: 30 patients")
    alone = binomtest(60, 380).proportion_ci(0.95)
    assert found.numbers["share:pdr_high"] - found.numbers["share:pdr_low"] > alone.high - alone.low


def test_beside_deployment_and_training():
    """Shares of each grade stand beside the checklist's deployment mix and the training set."""
    train = side(patients([0] * 30 + [1] * 10, site="A"))
    mix = (0.7, 0.1, 0.15, 0.03, 0.02)
    numbers = check(Evidence(side(patients(ENOUGH)), train, mix=mix)).numbers
    assert [numbers[f"deployment:{name}"] for name in ("no_dr", "pdr")] == [0.7, 0.02]
    assert [numbers[f"train:{name}"] for name in ("no_dr", "mild_npdr", "pdr")] == [0.75, 0.25, 0]
    assert numbers["share:no_dr"] == 0.2
    assert "deployment:no_dr" not in check(Evidence(side(patients(ENOUGH)), train)).numbers


def test_quality_of_both_sides():
    """The share that the quality rule refuses, of the test set and of training."""
    test = side(patients([0] * 4), [GOOD, GOOD, GOOD, {**GOOD, "focus": 0.5}])
    numbers = check(Evidence(test, side(patients([0] * 2), [GOOD, GOOD]))).numbers
    assert (numbers["refused"], numbers["train_refused"]) == (0.25, 0)


def test_absent_subgroups():
    """A site of training that the test set lacks, one sex and one side of eyes are named; cells are not."""
    test = side(patients(ENOUGH, Site="Dr Miller's clinic", sex="F", eye="L"))
    train = side(patients([0] * 5, Site="Anna Schmidt"))
    found = check(Evidence(test, train))
    assert found.status == "suspected"
    assert said(found) == ["right eyes: absent", "site 1: absent", "sex male: absent"]
    for cell in ("Miller", "Schmidt"):
        assert cell not in json.dumps(plain_of(found))


def test_small_subgroups_and_blank_cells():
    """A camera with ten patients can show nothing; images without a camera are counted."""
    rows = patients(ENOUGH, camera="one")
    for i, camera in enumerate(["two"] * 10 + [None] * 3):
        rows[i]["camera"] = camera
    assert said(check(Evidence(side(rows)))) == [
        "camera: not given for 3 images",
        "camera 2: 10 patients; 36 without an error are needed to show 90%",
    ]


def test_a_column_that_only_training_has():
    """Where training names its sites and the test set does not, that is said."""
    assert said(check(Evidence(side(patients(ENOUGH)), side(patients([0], site="a"))))) == [
        "site: not given for the test set"
    ]


def test_other_columns_are_not_read():
    """A column that may name a patient makes no groups."""
    rows = patients(ENOUGH)
    for i, row in enumerate(rows):
        row["record"] = f"record {i}"
    assert check(Evidence(side(rows))).count == 0


def test_unknown_patients():
    """Without patients, images are counted, and no share is known for sure."""
    found = check(Evidence(side([{"grade": grade} for grade in ENOUGH[:-60]])))
    assert said(found) == ["PDR: 20 images; 36 without an error are needed to show 90%"]
    assert "patients" not in found.compared
    assert (found.numbers["share:pdr_low"], found.numbers["share:pdr_high"]) == (0, 1)


def test_a_reference_that_says_only_whether_to_refer():
    """Its two classes are counted."""
    rows = [{"referable": int(i < 20), "patient": f"p{i}"} for i in range(120)]
    found = check(Evidence(side(rows), mix=(0.7, 0.1, 0.15, 0.03, 0.02)))
    assert found.numbers["patients:not_referable"] == 100
    assert said(found) == ["Referable: 20 patients; 36 without an error are needed to show 90%"]
    assert not [name for name in found.numbers if name.startswith("deployment")]


def test_sealed():
    """Without reference grades it is not assessed, and says what to give."""
    found = check(Evidence(side([{"patient": f"p{i}"} for i in range(5)])))
    assert found.status == "not_assessed"
    assert "--grades" in found.reason


@pytest.mark.parametrize("seed", range(3))
def test_counts(seed):
    """Patients, images and eyes of each grade are those of a plain count."""
    random = np.random.default_rng(seed)
    grades, owners = random.integers(0, 5, 90), random.integers(0, 40, 90)
    eyes = random.choice(["L", "R"], 90)
    rows = [{"grade": g, "patient": f"p{p}", "eye": e} for g, p, e in zip(grades, owners, eyes, strict=True)]
    numbers = check(Evidence(side(rows))).numbers
    for grade, name in enumerate(("no_dr", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr")):
        assert numbers[f"patients:{name}"] == len({*owners[grades == grade]})
        assert numbers[f"share:{name}"] == pytest.approx((grades == grade).mean(), abs=1e-6)
    assert (numbers["eyes:left"], numbers["eyes:right"]) == ((eyes == "L").sum(), (eyes == "R").sum())
