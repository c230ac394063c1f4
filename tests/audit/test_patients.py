"""Patients and eyes that are in the test set and in training are found, by name or by keyed hash, and stay unnamed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from drgate.audit import patients
from drgate.audit.evidence import Evidence, Examined, Photographs
from drgate.patients import PatientKey
from drgate.vision.fingerprint import Fingerprint

KEY = PatientKey.of(b"k" * 32)


def side(rows, root, **columns):
    """Photographs with (patient, eye) of each row; their hashes are numbers, so that no two are equal."""
    images = [f"{root}-{i}.png" for i in range(len(rows))]
    table = pd.DataFrame({"image": images, "patient": [p for p, _ in rows], "eye": [e for _, e in rows], **columns})
    table = table.astype({"patient": "str", "eye": "str"})
    contents = tuple(f"{ord(root[0]):02x}{i:062x}" for i in range(len(rows)))
    seen = tuple(Examined(one, bytes.fromhex(one), {}, {}) for one in contents)
    return Photographs(table, tuple(Path(root, image) for image in images), contents, seen)


def statuses(evidence):
    return patients.check(evidence).status, patients.check_eyes(evidence).status


def test_a_patient_of_both_is_found_whichever_eye():
    """The left eye was trained on, the right eye is tested: the patient is in both, the eye is not."""
    test, train = side([("ann", "R"), ("bob", "L")], "te"), side([("ann", "L"), ("cid", "L")], "tr")
    found = patients.check(Evidence(test, train))
    assert (found.status, found.count, found.compared) == ("found", 1, {"test": 2, "train": 2})
    assert [(one.test, one.train) for one in found.findings] == [(test.names[0], train.names[0])]
    assert "ann" not in str(found)
    assert patients.check_eyes(Evidence(test, train)).status == "clean"


def test_an_eye_of_both_is_found_once():
    """Two photographs of one eye in both sets are one finding each for the patient and the eye."""
    test, train = side([("ann", "R"), ("ann", "R"), ("bob", "L")], "te"), side([("cid", "L"), ("ann", "R")], "tr")
    for check in (patients.check, patients.check_eyes):
        found = check(Evidence(test, train))
        assert (found.status, found.count, found.numbers) == ("found", 1, {"images": 2.0})
        assert (found.findings[0].test, found.findings[0].train) == (test.names[0], train.names[1])


def test_an_eye_that_is_not_named_is_not_cleared():
    """The patient is in both and one image does not say which eye it shows."""
    test = side([("ann", "R")], "te")
    for eye in (None, "L"):
        train = side([("ann", eye), ("ann", None)], "tr")
        assert statuses(Evidence(test, train)) == ("found", "not_assessed")


@pytest.mark.parametrize("other", ["p007", "P7", "P-007", "P 007", "p_7", "\uff30007"])
def test_another_spelling_is_suspected(other):
    """Two lists often write one patient in two ways. Not found, for they may be two; and not clean."""
    test, train = side([("P007", "R"), ("P8", "R")], "te"), side([("x", "L"), (other, "L")], "tr")
    found = patients.check(Evidence(test, train))
    assert (found.status, found.count) == ("suspected", 1)
    assert (found.findings[0].test, found.findings[0].train) == (test.names[0], train.names[1])
    assert "spelling" in found.reason
    assert patients.check_eyes(Evidence(test, train)).status == "not_assessed"


@pytest.mark.parametrize(("one", "other"), [("1-23", "12-3"), ("10", "100"), ("a1b", "ab1"), ("P70", "P7")])
def test_other_numbers_are_other_patients(one, other):
    assert statuses(Evidence(side([(one, "R")], "te"), side([(other, "L")], "tr"))) == ("clean", "clean")


@pytest.mark.parametrize(
    ("ours", "theirs", "status"),
    [("Messidor", "messidor", "suspected"), ("messidor", "", "suspected"), ("", "b", "suspected"), ("a", "b", "clean")],
)
def test_a_source_in_another_spelling(ours, theirs, status):
    """The same number in two data sets is two patients; where a row lacks its source, it may be either."""
    one = side([(f"{ours}:7", "R"), ("z:1", "R")], "te", source=[ours, "z"])
    other = side([(f"{theirs}:7", "L"), ("y:2", "L")], "tr", source=[theirs, "y"])
    assert patients.check(Evidence(one, other)).status == status


def test_two_ids_of_one_patient():
    """Ids that differ in nothing but the eye are one patient, across the two sets as well."""
    test, train = side([("7_left", "L"), ("8_left", "L")], "te"), side([("7_right", "R"), ("9_left", "L")], "tr")
    found = patients.check(Evidence(test, train))
    assert (found.count, found.findings[0].test) == (1, test.names[0])


def test_names_of_images_join_patients_of_one_data_set_alone():
    """1_left.png of one data set and 1_right.png of another show two patients."""
    test, train = side([("ann", "L")], "te"), side([("bob", "R")], "tr")
    test = Photographs(test.table.assign(image=["1_left.png"]), (Path("te/1_left.png"),), test.contents, test.seen)
    train = Photographs(
        train.table.assign(image=["1_right.png"]), (Path("tr/1_right.png"),), train.contents, train.seen
    )
    assert statuses(Evidence(test, train)) == ("clean", "clean")


def test_sources_keep_numbers_apart():
    """Patient 1 of one hospital is not patient 1 of another; with one source missing nothing can be said."""
    test = side([("a:1", "L")], "te", source=["a"])
    assert statuses(Evidence(test, side([("b:1", "L")], "tr", source=["b"]))) == ("clean", "clean")
    assert statuses(Evidence(test, side([("1", "L")], "tr"))) == ("not_assessed", "not_assessed")
    found = patients.check(Evidence(side([("1", "L")], "te"), side([("1", "L")], "tr")))
    assert found.status == "found"
    assert "column source" in found.reason


@pytest.mark.parametrize("unnamed", ["test", "train"])
def test_without_names_nothing_is_clean(unnamed):
    """A set that names no patient, or whose ids only repeat the images' names, is not compared."""
    named = side([("ann", "R"), ("bob", "L")], "te")
    for owners in ([None, None], ["tr-0", "tr-1"]):
        other = side([(owner, "R") for owner in owners], "tr")
        given = Evidence(named, other) if unnamed == "train" else Evidence(other, named)
        assert statuses(given) == ("not_assessed", "not_assessed")
        assert "column patient" in patients.check(given).reason


def test_nothing_to_compare_with():
    """A test set alone says nothing about training."""
    assert statuses(Evidence(side([("ann", "R")], "te"))) == ("not_assessed", "not_assessed")


def fingerprint(train, key=KEY):
    return Fingerprint.build([one.hashed for one in train.seen], train.table, key)


def test_by_keyed_hash():
    """The fingerprint of training shows a shared patient to whoever has the key, and nobody else is told "clean"."""
    train = side([("ann", "L"), ("cid", "L")], "tr")
    shared, apart = side([("ann", "R"), ("bob", "L")], "te"), side([("bob", "L")], "te")
    facts = {"model": True, "fingerprint": fingerprint(train)}
    found = patients.check(Evidence(shared, key=KEY, **facts))
    assert (found.status, found.count, found.findings[0].test) == ("found", 1, shared.names[0])
    assert statuses(Evidence(shared, key=KEY, **facts)) == ("found", "not_assessed")
    assert statuses(Evidence(apart, key=KEY, **facts)) == ("clean", "clean")
    for key in (None, PatientKey.of(b"other" * 7)):
        assert statuses(Evidence(apart, key=key, **facts)) == ("not_assessed", "not_assessed")


def test_training_set_and_fingerprint():
    """Names suffice where the training set at hand holds every image of the fingerprint; else a key is needed."""
    train, further = side([("ann", "L")], "tr"), side([("cid", "L")], "x")
    test = side([("bob", "L"), ("cid", "R")], "te")
    assert statuses(Evidence(test, train, model=True, fingerprint=fingerprint(train, None))) == ("clean", "clean")
    more = Fingerprint.build([one.hashed for one in further.seen], further.table, KEY, [fingerprint(train)])
    assert statuses(Evidence(test, train, model=True, fingerprint=more)) == ("not_assessed", "not_assessed")
    found = patients.check(Evidence(test, train, model=True, fingerprint=more, key=KEY))
    assert [(one.test, one.train) for one in found.findings] == [(test.names[1], None)]


def test_unknown_ancestors_are_not_cleared():
    """A shared patient is found all the same, and none found is no proof."""
    train = side([("ann", "L")], "tr")
    facts = {"model": True, "fingerprint": fingerprint(train), "unknown_data": "Its parent is unknown.", "key": KEY}
    assert patients.check(Evidence(side([("ann", "R")], "te"), train, **facts)).status == "found"
    found = patients.check(Evidence(side([("bob", "R")], "te"), train, **facts))
    assert (found.status, found.reason) == ("not_assessed", "Its parent is unknown.")


def test_training_data_that_is_given_is_taken_for_all_of_a_model_without_a_fingerprint():
    """A model of another origin can be cleared of what its owner says it was trained on; never where its own record
    says that there is more, and never by the other splits of the test set's own manifest alone."""
    test, train = side([("bob", "R")], "te"), side([("ann", "L")], "tr")
    assert patients.check(Evidence(test, train, model=True, declared=True)).status == "clean"
    assert patients.check(Evidence(test, train, model=True)).status == "not_assessed"
    known = {"fingerprint": fingerprint(train), "unknown_data": "Its parent is unknown."}
    assert patients.check(Evidence(test, train, model=True, declared=True, **known)).status == "not_assessed"


def test_order_of_findings_is_that_of_the_test_set():
    """Ten shared patients are ten findings in the order of the images, with the first image of each."""
    order = np.random.default_rng(1).permutation(10).repeat(2)
    test = side([(f"p{i}", "LR"[k % 2]) for k, i in enumerate(order)], "te")
    train = side([(f"p{i}", "L") for i in range(10)], "tr")
    found = patients.check(Evidence(test, train))
    assert [one.test for one in found.findings] == test.names[::2]
