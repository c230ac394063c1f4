"""Shortcuts: what predicts the grade that a clinician would not look at is named; what nature does is not."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import ImageFilter
from sklearn.linear_model import LogisticRegression

from drgate.audit import shortcuts
from drgate.audit.evidence import Evidence, Examined, Photographs
from drgate.audit.properties import properties
from drgate.audit.shortcuts import NAMED_ABOVE, _area, _fitted, _Question, check
from drgate.evaluation import plain_of
from drgate.predictions import load_predictions
from drgate.vision.images import bytes_of, decode_image


def evidence(grades, columns=None, images=None, patients=None, predictions=None, seen=True, **given):
    """Two photographs a patient. given: a property of each; columns: of the manifest."""
    n = len(grades)
    images = [f"{i:05}.jpg" for i in range(n)] if images is None else list(images)
    table = pd.DataFrame(
        {
            "image": images,
            "grade": pd.array(grades, dtype="Int8"),
            "patient": [f"p{i // 2}" for i in range(n)] if patients is None else patients,
            "eye": pd.NA,
            "gradable": True,
            "split": "test",
            **(columns or {}),
        }
    )
    digests = tuple(hashlib.sha256(image.encode()).hexdigest() for image in images)
    each = [
        Examined(digest, b"", {name: values[i] for name, values in given.items()}, {}) if seen else None
        for i, digest in enumerate(digests)
    ]
    return Evidence(
        Photographs(table, tuple(Path(image) for image in images), digests, tuple(each)), predictions=predictions
    )


def drawn(seed=0, patients=300, shares=(0.70, 0.08, 0.12, 0.05, 0.05)):
    """Grades of two eyes a patient, equal in most, and a natural value of each eye, alike in both."""
    random = np.random.default_rng(seed)
    grades = np.repeat(random.choice(5, patients, p=shares), 2)
    changed = random.random(len(grades)) < 0.15
    grades = np.where(changed, random.choice(5, len(grades), p=shares), grades)
    value = np.repeat(random.normal(size=patients), 2) + 0.5 * random.normal(size=2 * patients)
    return random, grades, value


def named(found):
    return {one.what for one in found.findings}


def by_file_name(grades):
    order = np.argsort(grades >= 3, kind="stable")
    place = np.empty(len(grades), dtype=int)
    place[order] = np.arange(len(grades))
    return [f"IMG_{at}.jpg" for at in place]


PLANTED = {
    "sharpness": lambda grades, value: {"sharpness": (3 + 0.3 * value + 1.5 * (grades >= 3)).tolist()},
    "jpeg quality": lambda grades, value: {"jpeg_quality": np.where(grades >= 3, 85.0, 88.0).tolist()},
    "width": lambda grades, value: {"width": np.where(grades >= 3, 2048.0, 1024.0).tolist()},
    "camera": lambda grades, value: {"camera": np.where(grades >= 3, "Topcon", "Canon").tolist()},
    "green": lambda grades, value: {"green": np.where(grades >= 3, 80 + value, 80 + 20 * np.sign(value)).tolist()},
    "order of file names": lambda grades, value: {"images": by_file_name(grades)},
    "form of file names": lambda grades, value: {
        "images": [f"{i:05}{'_b' if grade >= 3 else ''}.jpg" for i, grade in enumerate(grades)]
    },
    "column source": lambda grades, value: {"columns": {"source": np.where(grades >= 3, "clinic", "screening")}},
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_shortcut_is_named(what):
    """A property that differs between photographs of grades 3 and 4 and all others is named, in the middle of the range
    and as a text too, and nothing that says less."""
    _, grades, value = drawn()
    given = {"red": (100 + 10 * value).tolist()} | PLANTED[what](grades, value)
    found = check(evidence(grades, **given))
    assert found.status == "suspected"
    assert f"Vision-threatening DR by {what}" in named(found)
    assert not [one for one in named(found) if "red" in one]


def test_nature_is_not_named():
    """Properties that go with the grade as little as natural photographs show are not named; their areas are given."""
    random, grades, value = drawn(patients=1000)
    blue, size = random.normal(size=(2, len(grades)))
    natural = {"red": (value + 0.5 * (grades >= 3)).tolist(), "blue": blue.tolist(), "bytes": size.tolist()}
    found = check(evidence(grades, **natural))
    assert (found.status, found.count) == ("clean", 0)
    assert 0.55 < found.numbers["Vision-threatening DR by red"] < NAMED_ABOVE
    assert found.compared["tried"] == 3 * (4 + 1 + 1)  # with the order of names; content together, all together


def two_sites(shares, seed=1):
    """Sites of 400 patients with these shares of referable disease, each with a camera and a colour of its own."""
    random = np.random.default_rng(seed)
    site = np.repeat([0, 1], 800)
    grades = np.repeat(np.where(random.random(800) < np.repeat(shares, 400), 2, 0), 2)
    return grades, {
        "columns": {"site": np.where(site, "B", "A")},
        "camera": np.where(site, "Topcon", "Canon").tolist(),
        "red": (100 + 5 * site + random.normal(size=1600)).tolist(),
    }


def test_two_honest_sites():
    """Sites of different prevalence are told apart by everything that differs between them. Within the sites nothing
    predicts the grade; where the shares are .1 and .3 nothing is named at all."""
    grades, given = two_sites((0.1, 0.3))
    found = check(evidence(grades, **given))
    assert found.status == "clean"
    assert found.numbers["Referable DR by column site"] > 0.6
    grades, given = two_sites((0.1, 0.8))
    found = check(evidence(grades, **given))
    assert {"Referable DR by column site", "Referable DR by camera", "Referable DR by red"} <= named(found)
    assert not [one for one in named(found) if "within site and camera" in one]
    assert found.numbers["Referable DR by red, within site and camera"] == pytest.approx(0.5, abs=0.1)


def test_a_shortcut_that_two_sites_hide():
    """What rises with the grade at one site and falls at the other is not seen in all photographs, but within sites."""
    grades, given = two_sites((0.3, 0.3))
    random = np.random.default_rng(2)
    sign = np.where(np.arange(1600) < 800, 1, -1) * np.where(grades >= 2, 1, -1)
    found = check(evidence(grades, **given | {"bytes": (sign + random.normal(size=1600)).tolist()}))
    assert "Referable DR by bytes, within site and camera" in named(found)
    assert "Referable DR by bytes" not in named(found)


def test_wrong_answers_of_a_model(tmp_path):
    """Where the model is wrong on dark photographs of any grade, brightness goes with its wrong answers."""
    random, grades, value = drawn(seed=3)
    wrong = value + 0.3 * random.normal(size=len(value)) < -0.8
    answers = np.where(wrong, (grades + 1) % 5, grades)
    table = tmp_path / "predictions.csv"
    images = [f"{i:05}.jpg" for i in range(len(grades))]
    rows = pd.DataFrame({"image": images, "grade": grades, "predicted": answers, "patient": "x", "eye": "L"})
    rows.assign(patient=[f"p{i // 2}" for i in range(len(rows))]).sample(frac=1, random_state=0).to_csv(table)
    given = {"green": (80 + 10 * value).tolist(), "red": random.normal(size=len(value)).tolist()}
    found = check(evidence(grades, predictions=load_predictions(table), **given))
    assert {one for one in named(found) if "red" not in one} == {
        "Wrong answer by green, within a grade",
        "Wrong answer by content together, within a grade",
        "Wrong answer by all together, within a grade",
    }
    assert found.numbers["Wrong answer by red, within a grade"] < 0.65


def test_only_whether_to_refer(tmp_path):
    """Where reference and model say only whether to refer, this alone is predicted, and so are its wrong answers."""
    random, grades, value = drawn(seed=4)
    refer = (grades >= 2).astype(int)
    wrong = value + 0.3 * random.normal(size=len(value)) < -0.8
    table = tmp_path / "predictions.csv"
    rows = {"image": [f"{i:05}.jpg" for i in range(len(refer))], "patient": [f"p{i // 2}" for i in range(len(refer))]}
    pd.DataFrame({**rows, "referable": refer, "predicted_referable": refer ^ wrong}).to_csv(table, index=False)
    nothing = [None] * len(refer)
    columns = {"referable": pd.array(refer, dtype="Int8")}
    given = {"green": (80 + 10 * value).tolist(), "bytes": random.normal(size=len(refer)).tolist()}
    found = check(evidence(nothing, columns=columns, predictions=load_predictions(table), **given))
    assert "Wrong answer by green, within a grade" in named(found)
    targets = {name.partition(" by ")[0] for name in found.numbers if " by " in name}
    assert targets == {"Referable DR", "Wrong answer"}
    assert not {"PDR", "Vision-threatening DR"} & set(found.compared)


def test_too_few():
    """With too few patients of a grade its area is not given; with too few of any, the check is not assessed, with
    the counts."""
    grades = np.array([0] * 180 + [2] * 18 + [4] * 2)
    values = np.random.default_rng(0).normal(size=200).tolist()
    found = check(evidence(grades, red=values))
    assert (found.compared["Referable DR"], found.compared["PDR"]) == (10, 1)
    assert {name.partition(" by ")[0] for name in found.numbers if " by " in name} == {"Referable DR"}
    found = check(evidence(grades[:-2], red=values))
    assert (found.status, found.compared["Referable DR"]) == ("not_assessed", 9)
    assert "at least 10 patients" in found.reason
    assert check(evidence([None] * 20, red=values)).status == "not_assessed"


def test_without_photographs():
    """Where no photograph was read, names and columns alone do not make a set clean; a shortcut in them is named."""
    _, grades, _ = drawn()
    assert check(evidence(grades, seen=False)).status == "not_assessed"
    assert "photograph" in check(evidence(grades, seen=False)).reason
    assert check(evidence(grades, images=by_file_name(grades), seen=False)).status == "suspected"


def test_the_same_inputs_give_the_same_bytes():
    """The order of the rows changes nothing, and nobody is named: no file, patient, camera or site."""
    grades, given = two_sites((0.1, 0.8))
    given["columns"]["site"] = given["columns"]["site"].astype(object) + "-secret"
    given["camera"] = [f"{one} secret" for one in given["camera"]]
    images = [f"secret{i}.jpg" for i in range(1600)]
    patients = [f"secret{i // 2}" for i in range(1600)]
    one = check(evidence(grades, images=images, patients=patients, **given))
    order = np.random.default_rng(0).permutation(1600)
    moved = {name: [values[i] for i in order] for name, values in given.items() if name != "columns"}
    two = check(
        evidence(
            grades[order],
            images=[images[i] for i in order],
            patients=[patients[i] for i in order],
            columns={"site": given["columns"]["site"][order]},
            **moved,
        )
    )
    text = json.dumps(plain_of(one))
    assert text == json.dumps(plain_of(two))
    assert one.count
    assert "secret" not in text


def test_a_large_set(monkeypatch):
    """Of a set with more photographs than are used, whole patients are taken."""
    monkeypatch.setattr(shortcuts, "MOST", 301)
    _, grades, value = drawn()
    found = check(evidence(grades, red=(value + 3 * (grades >= 2)).tolist()))
    assert (found.compared["test"], found.compared["patients"]) == (300, 150)
    assert "Referable DR by red" in named(found)


def test_the_regression():
    """The weights are those of scikit-learn, where a column separates the classes too."""
    random = np.random.default_rng(0)
    design = random.normal(size=(300, 4))
    positive = design[:, 0] + random.normal(size=300) > 1
    for x in (design, np.column_stack([design, positive])):
        other = LogisticRegression(C=0.2, tol=1e-10, max_iter=2000).fit(x, positive)
        weights = _fitted(x, positive, np.zeros(x.shape[1] + 1))
        assert weights == pytest.approx(np.r_[other.intercept_, other.coef_[0]], abs=1e-3)


def test_wrong_alarms():
    """The lower limit passes the true area in at most the stated share of samples, in one stratum and over two."""
    truth, samples, passed = NAMED_ABOVE, 150, {1: 0, 2: 0}
    for seed in range(samples):
        random = np.random.default_rng(seed)
        owner = np.repeat(np.arange(120), 2)
        positive = np.repeat(random.random(120) < 0.2, 2) ^ (random.random(240) < 0.05)
        apart = np.sqrt(2) * 0.5244  # normal values this far apart have an area of .70
        value = np.repeat(random.normal(size=120), 2) * np.sqrt(0.7) + random.normal(size=240) * np.sqrt(0.3)
        value += apart * positive
        for strata in passed:
            question = _Question("", "", positive, np.arange(240) // 2 % strata, owner % 5)
            _, low, _ = _area(question, [value], owner, 0.90)
            passed[strata] += low > truth
    assert max(passed.values()) <= 0.05 * samples


def test_no_alarm_without_a_shortcut():
    """Of 15 small sets whose properties say nothing of the grade, none is suspected."""
    for seed in range(15):
        random, grades, _ = drawn(seed, patients=60, shares=(0.7, 0.0, 0.3, 0.0, 0.0))
        noise = {name: random.normal(size=len(grades)).tolist() for name in ("red", "green", "blue", "bytes", "width")}
        assert check(evidence(grades, **noise)).status == "clean"


def test_sharpened_photographs(real_data):
    """Real photographs of grades 3 and 4 that were sharpened are named; as they are, they are not."""
    labels = pd.read_csv(real_data / "eyepacs-256" / "labels.csv")
    severe = labels.groupby("patient")["grade"].transform("max") >= 3
    labels = pd.concat([labels[severe], labels[~severe].iloc[::12]])
    natural, sharpened = [], []
    for image, grade in zip(labels["image"], labels["grade"], strict=True):
        path = real_data / "eyepacs-256" / image
        data = bytes_of(path)
        photograph = decode_image(data, path)
        natural.append(properties(data, photograph))
        if grade >= 3:
            into = io.BytesIO()
            photograph.filter(ImageFilter.SHARPEN).save(into, "JPEG", quality=80)
            data, photograph = into.getvalue(), decode_image(into.getvalue(), path)
        sharpened.append(properties(data, photograph))
    for seen, status in ((natural, "clean"), (sharpened, "suspected")):
        given = {name: [one[name] for one in seen] for name in seen[0]}
        who = labels["patient"].astype(str).tolist()
        found = check(evidence(labels["grade"].tolist(), patients=who, images=labels["image"], **given))
        assert found.status == status
    assert "Vision-threatening DR by detail" in named(found)
