"""Which photographs the quality rule refuses, and what the audit says of a test set with such photographs."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from drgate.audit.evidence import Evidence
from drgate.audit.quality import check
from drgate.demo.synthetic import CAMERAS, draw_patient, render
from drgate.gradability import MOST, RULE, Rule, gradable, measures, score
from drgate.preprocessing import reduced_copy
from drgate.vision.images import read_image
from drgate.vision.perceptual import HASHED_AT
from tests.support.examined import GOOD, side


def of(image):
    return measures(image, *reduced_copy(image))


@pytest.fixture(scope="module")
def eye():
    """A synthetic photograph with a round field, 448 pixels wide."""
    people = (draw_patient("demo", seed=0, index=index, worse_grade=3) for index in range(20))
    return render(next(one for one in people if one.camera == CAMERAS[0]), "R", size=448).image


def half_dark(image):
    pixels = np.array(image)
    pixels[:, : image.width // 2] //= 7
    return Image.fromarray(pixels)


def averaged(pixels, longer):
    """Each new pixel the mean of the old ones whose centre is in it, as Pillow's `BOX` filter."""
    scale = longer / max(pixels.shape[:2])
    for axis in (0, 1):
        old = pixels.shape[axis]
        new = max(1, round(old * scale))
        groups = np.floor((np.arange(old) + 0.5) * new / old).astype(int)
        pixels = np.stack([np.take(pixels, np.flatnonzero(groups == i), axis).mean(axis) for i in range(new)], axis)
    return pixels


DEFECTS = {
    "size": lambda eye: eye.resize((120, 120)),
    "field": half_dark,
    "brightness": lambda eye: ImageEnhance.Brightness(eye).enhance(0.2),
    "burnt": lambda eye: ImageEnhance.Brightness(eye).enhance(3),
    "contrast": lambda eye: Image.blend(eye, Image.new("RGB", eye.size, (90, 60, 40)), 0.9),
    "focus": lambda eye: eye.filter(ImageFilter.GaussianBlur(8)),
}


class TestRule:
    def test_every_camera_is_kept(self):
        """Photographs of the demonstration can be graded, whatever the camera, the grade and the eye."""
        people = [draw_patient("demo", seed=0, index=index, worse_grade=index % 5) for index in range(8)]
        assert {one.camera for one in people} == {*CAMERAS}
        assert [gradable(of(render(one, eye, size=256).image)) for one in people for eye in "LR"] == [""] * 16

    @pytest.mark.parametrize("name", DEFECTS)
    def test_a_defect_is_refused_for_its_own_measure(self, eye, name):
        """Too small, half dark, dark, over-exposed, faded and blurred copies of a good photograph are told apart."""
        assert gradable(of(eye)) == ""
        assert gradable(of(DEFECTS[name](eye))).split(" ")[0] == name

    @pytest.mark.parametrize(("grey", "why"), [(0, "field"), (255, "burnt"), (128, "contrast")])
    def test_a_plain_picture_is_refused(self, grey, why):
        """Black, white and evenly grey pictures show no eye."""
        found = of(Image.new("RGB", (640, 480), (grey,) * 3))
        assert gradable(found).startswith(why)
        assert score(found) < 1

    @pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 2)])
    def test_a_strip_is_refused(self, size):
        """A picture of a few pixels has measures all the same."""
        assert gradable(of(Image.new("RGB", size, (120, 80, 60)))).startswith("size")

    def test_the_measures_are_those_that_are_written_down(self, eye):
        """Somebody else gets the same numbers from the text, without Pillow's filters."""
        copy, (left, upper, right, lower) = reduced_copy(eye)
        field = averaged(np.asarray(copy)[upper:lower, left:right].astype(float), 160)
        height, width, _ = field.shape
        assert max(height, width) == 160
        y, x = np.mgrid[:height, :width]
        inside = np.hypot(x - (width - 1) / 2, y - (height - 1) / 2) <= 0.45 * 160
        green, found = field[..., 1], of(eye)
        for name, radius in (("contrast", 5), ("focus", 2)):
            padded = np.pad(green, radius, mode="edge")
            window = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1,) * 2)
            darker = np.maximum(0, window.mean(axis=(2, 3)) - green)[inside]
            assert found[name] == pytest.approx(math.sqrt((darker**2).mean()), abs=0.1)
        assert found["size"] == min(right - left, lower - upper)
        assert found["field"] == pytest.approx((field.max(axis=2)[inside] >= 24).mean())
        assert found["brightness"] == pytest.approx(field.max(axis=2)[inside].mean(), abs=0.3)
        assert found["burnt"] == pytest.approx((green[inside] >= 240).mean())

    @pytest.mark.parametrize("width", [240, 330, 400, 511, 512, 760])
    def test_the_size_of_the_file_does_not_matter(self, width):
        """A photograph at another size has nearly the same focus and contrast."""
        patient = draw_patient("demo", seed=0, index=2, worse_grade=2)
        large = render(patient, "L", size=1000).image.filter(ImageFilter.GaussianBlur(3))
        before = of(large)
        after = of(large.resize((width, round(large.height * width / large.width)), Image.Resampling.LANCZOS))
        assert after["focus"] == pytest.approx(before["focus"], rel=0.04)
        assert after["contrast"] == pytest.approx(before["contrast"], rel=0.04)

    @given(st.fixed_dictionaries({name: st.floats(0, most) for name, most in MOST.items()}))
    def test_the_score_is_below_one_where_refused(self, found):
        """Ranking by the score agrees with the rule."""
        assert (score(found) >= 1) == (gradable(found) == "")

    def test_it_is_data(self):
        """At most six limits of two digits, which a file can hold."""
        plain = json.loads(json.dumps(RULE.to_json()))
        assert Rule.from_json(plain) == RULE
        assert len(plain) == 7
        assert all(float(f"{limit:.2g}") == limit for name, limit in plain.items() if name != "format")

    @pytest.mark.parametrize(
        "change",
        [
            {"format": "drgate quality 2"},
            {"more": 1},
            {"size": "160"},
            {"focus": float("nan")},
            {"field": 1.5},
            {"burnt": True},
            {"brightness": -1},
            {"contrast": None},
        ],
    )
    def test_another_file_is_refused(self, change):
        """An unknown key, another format or a limit out of range ends in one sentence that names the file."""
        with pytest.raises(ValueError, match=r"^quality\.json.*expected [^\n]*\.$"):
            Rule.from_json({**RULE.to_json(), **change}, "quality.json")

    def test_a_missing_limit_is_refused(self):
        """No limit has a default."""
        with pytest.raises(ValueError, match="expected"):
            Rule.from_json({key: one for key, one in RULE.to_json().items() if key != "focus"})


BLURRED, DIM = {**GOOD, "focus": 0.6}, {**GOOD, "contrast": 1.6}


def patients(grades, **cells):
    return [{"grade": grade, "patient": f"p{i}", **cells} for i, grade in enumerate(grades)]


class TestCheck:
    def test_refused_photographs_are_named(self):
        """By their published names, the worst first, each with the limit that it does not meet."""
        test = side(patients([0] * 40), [GOOD] * 37 + [DIM, "cannot be decoded", BLURRED])
        found = check(Evidence(test))
        assert [(one.test, one.what) for one in found.findings] == [
            (test.names[38], "cannot be read"),
            (test.names[39], "focus 0.6, below 1.4"),
            (test.names[37], "contrast 1.6, below 1.7"),
        ]
        assert (found.status, found.count) == ("clean", 3)
        ends = binomtest(3, 40).proportion_ci(0.95)
        assert found.numbers["refused"] == 0.075
        assert [found.numbers[f"refused{end}"] for end in ("_low", "_high")] == pytest.approx([*ends], abs=1e-6)

    def test_many_refused(self):
        """More than one in ten is suspected."""
        assert check(Evidence(side(patients([0] * 20), [BLURRED] * 2 + [GOOD] * 18))).status == "clean"
        many = check(Evidence(side(patients([0] * 20), [BLURRED] * 3 + [GOOD] * 17)))
        assert many.status == "suspected"
        assert "10%" in many.reason

    def test_a_grade_apart(self):
        """A grade whose photographs are refused far more often is named, with its share and interval."""
        found = check(Evidence(side(patients([4] * 8 + [0] * 200), [BLURRED] * 8 + [GOOD] * 200)))
        assert found.status == "suspected"
        assert "grade PDR are refused more often" in found.reason
        assert found.numbers["refused:pdr"] == 1
        assert found.numbers["refused:pdr_low"] == pytest.approx(0.025 ** (1 / 8), abs=1e-6)

    def test_chance_is_not_accused(self):
        """Grades that are refused alike are called apart in less than one of 50 test sets."""
        random = np.random.default_rng(1)
        accused = 0
        for _ in range(100):
            grades = random.choice(5, 150, p=(0.6, 0.1, 0.2, 0.05, 0.05))
            seen = [BLURRED if one < 0.05 else GOOD for one in random.random(150)]
            accused += "refused more" in check(Evidence(side(patients(grades), seen))).reason
        assert accused < 2

    def test_the_mark_of_the_test_set(self):
        """Beside the column gradable: how many of the marked are refused, and how well the score ranks them."""
        focus = np.round(np.random.default_rng(2).uniform(0.8, 4, 60), 3)
        marked = focus + np.random.default_rng(3).normal(0, 0.8, 60) < 1.6
        rows = [{**row, "gradable": not one} for row, one in zip(patients([0] * 60), marked, strict=True)]
        found = check(Evidence(side(rows, [{**GOOD, "focus": one} for one in focus])))
        assert found.compared["not_gradable"] == marked.sum()
        assert found.numbers["auc:not_gradable"] == pytest.approx(roc_auc_score(marked, -focus), abs=1e-6)
        assert found.numbers["refused:not_gradable"] == pytest.approx((focus < 1.4)[marked].mean(), abs=1e-6)

    def test_unknown_patients(self):
        """Nothing is known of how sure a share is, so no grade is called apart."""
        rows = [{"grade": grade} for grade in [4] * 8 + [0] * 200]
        found = check(Evidence(side(rows, [BLURRED] * 8 + [GOOD] * 200)))
        assert found.status == "clean"
        assert (found.numbers["refused:pdr_low"], found.numbers["refused:pdr_high"]) == (0, 1)

    def test_without_photographs(self):
        """A table alone is not assessed, and says what to give."""
        found = check(Evidence(side(patients([0, 1]))))
        assert found.status == "not_assessed"
        assert "images" in found.reason


def test_real_photographs(real_data):
    """At most 5 % of severe and proliferative training eyes are refused, no photograph that EyeQ accepts, and more
    than a fifth of those that EyeQ rejects."""
    folder = real_data / "eyepacs-1024"
    labels = pd.read_csv(folder / "labels.csv")
    severe = labels[(labels["grade"] >= 3) & (labels["split"] != "test")]
    rated = labels[labels["quality"].notna() & (labels["split"] == "test")]

    def refused(rows):
        return np.array([gradable(of(read_image(folder / image, HASHED_AT))) != "" for image in rows["image"]])

    assert refused(severe).mean() <= 0.05
    no = refused(rated)
    assert not no[rated["quality"] != "reject"].any()
    assert no[rated["quality"] == "reject"].mean() > 1 / 5
