"""Checklists: what ships, what is refused, that a checklist is its content, and what makes one weaker."""

from __future__ import annotations

import copy
import json
import operator
import random
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ruamel.yaml import YAML as YamlReader
from scipy.stats import beta, binomtest

from drgate.checklist import (
    Checklist,
    load_checklist,
    parse_checklist,
    parse_yaml,
    read_checklist,
    schema,
    shipped,
)
from drgate.checklist_diff import Change, diff
from drgate.errors import ChecklistError
from drgate.metrics import AUDITED, METRICS, parse_id
from drgate.scale import GRADES
from drgate.stats import confusion
from tests.support.material import Ended

ROOT = Path(__file__).parent.parent
SCHEMA = jsonschema.Draft202012Validator(schema())
MIX = {"no_dr": 0.75, "mild_npdr": 0.1, "moderate_npdr": 0.1, "severe_npdr": 0.03, "pdr": 0.02}


def content() -> dict[str, Any]:
    return copy.deepcopy(load_checklist("medical-grade").content())


def checklist_of(*criteria: dict[str, Any], **settings: Any) -> Checklist:
    return parse_checklist({"name": "mine", "version": 1, "criteria": list(criteria), **settings}, "mine.yaml")


class TestShipped:
    def test_the_owner_asked_for_these_lines(self):
        """The seven lines of the owner's checklist, and the advisory lines for safety."""
        rows = [(c.id, c.comparator, c.threshold, c.required) for c in load_checklist("medical-grade").criteria]
        assert rows == [
            ("accuracy", ">=", 0.90, True),
            ("sensitivity:severe_npdr", ">=", 0.90, True),
            ("sensitivity:pdr", ">=", 0.95, True),
            ("specificity:each", ">", 0.90, True),
            ("stability", "<", 0.05, True),
            ("baseline", ">", -0.02, False),
            ("cost", "<", 100, True),
            ("sensitivity:referable", ">=", 0.85, False),
            ("undergraded:vision_threatening_below_referable", "<=", 0.02, False),
            ("no_output", "<=", 0.05, False),
            ("no_output:severe_npdr", "<=", 0.05, False),
            ("no_output:pdr", "<=", 0.05, False),
            ("reference_ungradable", "<=", 0.10, False),
            *((f"audit:{check}", "<=", 0, False) for check in AUDITED),
        ]

    def test_safe_requires_the_safety_lines(self):
        """medical-grade-safe is medical-grade with every line for safety required."""
        safe = load_checklist("medical-grade-safe").content()
        for criterion in safe["criteria"]:
            if criterion["added"] == "safety":
                assert criterion["required"] is True
                criterion["required"] = False
        assert safe | {"name": "medical-grade", "description": content()["description"]} == content()

    def test_observed_decides_on_the_point(self):
        observed = load_checklist("medical-grade-observed").content()
        assert observed["evidence"].pop("decide_on") == "point"
        expected = content()
        del expected["evidence"]["decide_on"]
        assert observed | {"name": "medical-grade", "description": expected["description"]} == expected

    def test_are_five(self):
        assert shipped() == [
            "medical-grade",
            "medical-grade-observed",
            "medical-grade-safe",
            "screening-referable",
            "smoke",
        ]
        assert all(load_checklist(name).description and load_checklist(name).name == name for name in shipped())

    @pytest.mark.parametrize("name", shipped())
    def test_round_trip(self, name: str):
        """A checklist and its plain content are one: this is what a certificate carries."""
        checklist = load_checklist(name)
        assert parse_checklist(checklist.content(), "again").digest == checklist.digest

    def test_only_smoke_is_for_pipelines(self):
        """It certifies nothing, and says so."""
        assert [name for name in shipped() if load_checklist(name).purpose == "pipeline"] == ["smoke"]
        assert "certifies nothing" in load_checklist("smoke").description

    def test_screening_referable_asks_more_than_the_trial_showed(self):
        """IDx-DR's 173 of 198 and 556 of 621 (FDA DEN180001) reach both endpoints; 85 % is not shown by the bound.

        Imageability, 33 of 852 without an answer, is shown to meet the limit.
        """
        lines = {c.id: c for c in load_checklist("screening-referable").criteria}
        sensitivity, specificity = lines["sensitivity:referable"], lines["specificity:referable"]
        assert (sensitivity.comparator, sensitivity.threshold, sensitivity.policy) == (">", 0.85, "excluded")
        assert (specificity.comparator, specificity.threshold) == (">", 0.825)
        assert 173 / 198 > 0.85 > binomtest(173, 198).proportion_ci().low
        assert binomtest(556, 621).proportion_ci().low > 0.825
        assert binomtest(33, 852).proportion_ci().high <= lines["no_output"].threshold
        assert load_checklist("screening-referable").unit == "patient"
        assert load_checklist("screening-referable").evidence.decide_on == "bound"


class TestSchema:
    def test_published_copy_is_the_schema(self):
        """Mend with: drgate spec schema > thresholds/checklist.schema.json"""
        assert json.loads((ROOT / "thresholds" / "checklist.schema.json").read_text()) == schema()
        jsonschema.Draft202012Validator.check_schema(schema())

    @pytest.mark.parametrize("name", shipped())
    def test_shipped_files_validate(self, name: str):
        """As an editor sees them, and with the line that tells an editor so."""
        text = (ROOT / "thresholds" / f"{name}.yaml").read_text()
        assert text.startswith("# yaml-language-server: $schema=checklist.schema.json\n")
        jsonschema.validate(YamlReader(typ="safe", pure=True).load(text), schema())

    def test_every_key_is_described(self):
        """What an editor shows beside a key."""
        parts = [schema(), *schema()["$defs"].values()]
        lacking = [key for part in parts for key, about in part["properties"].items() if not about.get("description")]
        assert lacking == []

    def test_refuses_what_it_can(self):
        """The defects that JSON Schema has words for."""
        for defect in sorted(REFUSED.keys() - BEYOND_JSON_SCHEMA):
            plain = content()
            REFUSED[defect][0](plain)
            assert not SCHEMA.is_valid(plain), defect

    @given(st.data())
    def test_refuses_nothing_that_is_a_checklist(self, data: st.DataObject):
        """Whatever `parse_checklist` accepts, an editor accepts: mutated checklists, read by both."""
        plain = copy.deepcopy(data.draw(checklists()))
        for _ in range(data.draw(st.integers(0, 3))):
            place = data.draw(st.sampled_from(_places(plain)))
            _put(plain, place, data.draw(st.one_of(st.none(), st.booleans(), st.integers(-1, 120), WORDS, st.floats())))
        try:
            parse_checklist(plain, "mine.yaml")
        except ChecklistError:
            return
        SCHEMA.validate(plain)


WORDS = st.sampled_from(
    ["", "each", "point", "accuracy", "auc:each", "no_output:each", "ppv:pdr^deployment", "deployment"]
)


def _places(plain: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested plain values."""
    inner = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    return [place for key, value in inner for place in ((*at, key), *_places(value, (*at, key)))]


def _put(plain: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        plain = plain[key]
    plain[place[-1]] = value


@st.composite
def checklists(draw: st.DrawFn) -> dict[str, Any]:
    """Plain content of valid checklists: criteria on grades, groups, slices and the mix, all settings."""
    fraction = st.integers(1, 99).map(lambda percent: percent / 100)
    metrics = st.sampled_from(["sensitivity", "specificity", "ppv", "accuracy", "no_output", "brier"])
    criteria = []
    for metric in draw(st.lists(metrics, min_size=1, max_size=4, unique=True)):
        targets = METRICS[metric].targets
        targets += ("each",) if set(GRADES) <= set(targets) else ()
        target = draw(st.sampled_from(targets))
        place = draw(st.sampled_from(["", "@camera=each", "@site=Oslo"]))
        limits = ["at_most", "below"] if METRICS[metric].better == "lower" else ["at_least", "above"]
        line = {
            "id": (f"{metric}:{target}" if target else metric) + place,
            draw(st.sampled_from(limits)): draw(fraction),
            "required": not criteria or draw(st.booleans()),
        }
        if place and draw(st.booleans()):
            line["min_positives"] = draw(st.integers(0, 50))
        if metric in ("sensitivity", "specificity") and draw(st.booleans()):
            line["no_output"] = draw(st.sampled_from(["excluded", "worst_case"]))
        criteria.append(line)
    groups = {"tabletop": ["A", "B"], "handheld": ["C"]}
    camera = draw(st.sampled_from([{"by": "camera"}, {"by": "camera", "groups": groups, "min_positives": 20}]))
    return {
        "name": draw(st.sampled_from(["mine", "yours"])),
        "version": draw(st.integers(1, 3)),
        "description": draw(st.sampled_from(["", "A description."])),
        "purpose": draw(st.sampled_from(["clinical", "pipeline"])),
        "unit": draw(st.sampled_from(["image", "eye", "patient"])),
        "evidence": {
            "decide_on": draw(st.sampled_from(["bound", "point"])),
            "level": draw(st.sampled_from([0.9, 0.95, 0.99])),
            "interval": draw(st.sampled_from(["clopper-pearson", "wilson"])),
        },
        "declared": [
            {"manifest": f"sha256:{digit * 64}", "images_a_patient_at_most": draw(st.integers(1, 4))}
            for digit in draw(st.sampled_from(["", "a", "ab"]))
        ],
        "bootstrap": {"resamples": draw(st.sampled_from([1000, 10000]))},
        "looks": draw(st.integers(1, 3)),
        "planning": {"power": draw(fraction)},
        "intended_use": {"role": draw(st.sampled_from(["assist", "autonomous"]))},
        "deployment": draw(st.sampled_from([None, dict(MIX)])),
        "slices": draw(st.permutations([camera, {"by": "site"}])),
        "expect": draw(st.dictionaries(st.sampled_from(["pdr", "specificity:each"]), fraction)),
        "criteria": criteria,
    }


AT_MOST = {n: {"manifest": f"sha256:{'a' * 64}", "images_a_patient_at_most": n} for n in (1, 2)}
"""What may be declared of one test set."""

REFUSED = {
    "a name for a criterion": (
        lambda c: c["criteria"].append("accuracy"),
        " is 'accuracy'; expected for example {id: accuracy, at_least: 0.9}.",
    ),
    "no criteria": (lambda c: c.pop("criteria"), "the key criteria is missing; for an example: drgate spec show"),
    "no id": (lambda c: c["criteria"][0].pop("id"), "criterion 1: the key id is missing"),
    "misspelt key": (lambda c: c.update(lok=1), "there is no key 'lok'; did you mean 'looks'?"),
    "misspelt key in a criterion": (lambda c: c["criteria"][0].update(at_lest=0.9), "did you mean 'at_least'?"),
    "misspelt key of evidence": (lambda c: c["evidence"].update(levl=0.9), "did you mean 'level'?"),
    "percent": (lambda c: c["criteria"][0].update(at_least=90), "did you mean 0.9?"),
    "no such grade": (lambda c: c["criteria"][1].update(id="sensitivity:grade_9"), "use one of"),
    "no such metric": (lambda c: c["criteria"][0].update(id="acuracy"), "did you mean 'accuracy'?"),
    "two thresholds": (lambda c: c["criteria"][0].update(above=0.8), "exactly one of"),
    "no threshold": (lambda c: c["criteria"][0].pop("at_least"), "exactly one of"),
    "twice": (lambda c: c["criteria"].append(c["criteria"][0]), "'accuracy' is given twice"),
    "twice by each": (
        lambda c: c["criteria"].append({"id": "specificity:pdr", "above": 0.9}),
        "'specificity:pdr' is given twice",
    ),
    "no criterion": (lambda c: c["criteria"].clear(), "no criterion is required, so every model passes"),
    "none required": (
        lambda c: [x.update(required=False) for x in c["criteria"]],
        "no criterion is required, so every model passes",
    ),
    "text for a number": (lambda c: c["criteria"][0].update(at_least="0.9"), "valid number"),
    "text for a flag": (lambda c: c["criteria"][0].update(required="yes"), "valid boolean"),
    "no looks": (lambda c: c.update(looks=0), "greater than or equal to 1"),
    "a narrower interval": (lambda c: c["evidence"].update(interval="jeffreys"), "'clopper-pearson' or 'wilson'"),
    "baseline without margin": (lambda c: c["criteria"][5].pop("margin"), "baseline takes a margin"),
    "a window elsewhere": (lambda c: c["criteria"][0].update(window=10), "window belongs to stability"),
    "a unit elsewhere": (lambda c: c["criteria"][0].update(unit="USD"), "a unit belongs to cost"),
    "a policy for stability": (lambda c: c["criteria"][4].update(no_output="excluded"), "does not apply"),
    "an infinite cost": (lambda c: c["criteria"][6].update(below=float("inf")), "finite number"),
    "no cost": (lambda c: c["criteria"][6].update(below=0), "positive amount"),
    "a colon too many": (lambda c: c["criteria"][0].update(id="accuracy:"), "must follow the colon"),
    "a threshold that cannot fail": (lambda c: c["criteria"][9].update(at_most=1), "every model meets 1"),
    "a threshold that cannot be met": (
        lambda c: c["criteria"][3].update(above=1),
        "no model can be above 1; change the limit",
    ),
    "percent of no output": (lambda c: c["criteria"][9].update(at_most=5), "did you mean 0.05?"),
    "percent of level": (lambda c: c["evidence"].update(level=95), "evidence.level: 95 is not a fraction between"),
    "percent of margin": (lambda c: c["criteria"][5].update(margin=2), "did you mean 0.02?"),
    "percent of the earlier figure": (
        lambda c: c["criteria"][5].update(reference_value=81.76),
        "did you mean 0.8176?",
    ),
    "percent of power": (lambda c: c["planning"].update(power=80), "planning.power: 80 is not a fraction between"),
    "percent of patients": (lambda c: c["planning"].update(two_images=50), "did you mean 0.5?"),
    "percent of deployment": (
        lambda c: c.update(deployment=dict.fromkeys(GRADES, 20)),
        "deployment.no_dr: 20 is not a fraction between 0 and 1: did you mean 0.2?",
    ),
    "percent expected": (lambda c: c["expect"].update(pdr=98.5), "expect.pdr: 98.5 is not a fraction"),
    "a certain expectation": (lambda c: c["expect"].update(pdr=1), "expect.pdr: 1 is not a fraction"),
    "a mix that is not whole": (
        lambda c: c.update(deployment=MIX | {"pdr": 0.12}),
        "deployment: the shares of the five grades sum to 1.1, not to 1.",
    ),
    "a mix without a grade": (
        lambda c: c.update(deployment={"no_dr": 0.9, "mild_npdr": 0.1}),
        "lacks moderate_npdr, severe_npdr, pdr",
    ),
    "a mix with another grade": (lambda c: c.update(deployment=MIX | {"prd": 0.0}), "did you mean 'pdr'?"),
    "a criterion at no mix": (
        lambda c: c["criteria"].append({"id": "ppv:referable", "at": "deployment", "at_least": 0.5}),
        "give the mix of grades at deployment",
    ),
    "a metric that has no mix": (
        lambda c: c["criteria"].append({"id": "sensitivity:pdr^deployment", "at_least": 0.5}),
        "has no value at the deployment mix",
    ),
    "nearly a grade": (
        lambda c: c["criteria"][1].update(id="sensitivity:sever_npdr"),
        "criterion 2: there is no grade or group 'sever_npdr'; did you mean 'severe_npdr'?",
    ),
    "no grade": (lambda c: c["criteria"][1].update(id="sensitivity"), "needs one of any_dr, each, mild_npdr"),
    "a grade too many": (lambda c: c["criteria"][0].update(id="accuracy:pdr"), "has no grade; leave it out"),
    "calibration error": (
        lambda c: c["criteria"].append({"id": "ece:referable", "at_most": 0.05}),
        "even a perfect model has 0.049",
    ),
    "a slope beyond reason": (
        lambda c: c["criteria"].append({"id": "calibration_slope:referable", "at_least": 0.8, "at_most": 80}),
        "between 0 and 10 that holds 1, which is perfect",
    ),
    "a slope without the perfect one": (
        lambda c: c["criteria"].append({"id": "calibration_slope:referable", "at_least": 1.1, "at_most": 1.3}),
        "such as at_least: 0.8 and at_most: 1.25",
    ),
    "one end of a slope": (
        lambda c: c["criteria"].append({"id": "calibration_slope:referable", "at_least": 0.8}),
        "a model can miss on either side; give both ends, such as at_least: 0.8 and at_most: 1.25.",
    ),
    "one end of an intercept": (
        lambda c: c["criteria"].append({"id": "calibration_intercept:referable", "below": 0.5}),
        "give both ends, such as at_least: -0.2 and at_most: 0.2.",
    ),
    "a limit on the wrong side": (
        lambda c: c["criteria"].append({"id": "sensitivity:referable@camera=A", "at_most": 0.95}),
        "this limit passes bad models",
    ),
    "a rate that must stay low, from below": (
        lambda c: c["criteria"].append({"id": "missed:referable", "at_least": 0.1}),
        "give at_most or below",
    ),
    "overlapping groups": (
        lambda c: c.update(slices=[{"by": "camera", "groups": {"a": ["A", "B"], "b": ["B"]}}]),
        "camera 'B' is in groups 'a' and 'b'; an image belongs to one slice",
    ),
    "a value twice in a group": (
        lambda c: c.update(slices=[{"by": "camera", "groups": {"a": ["A", "A"]}}]),
        "camera 'A' is in group 'a' twice",
    ),
    "an empty group": (lambda c: c.update(slices=[{"by": "camera", "groups": {"a": []}}]), "at least 1 item"),
    "a group called each": (
        lambda c: c.update(slices=[{"by": "camera", "groups": {"each": ["A"]}}]),
        "cannot have the name 'each'",
    ),
    "a column sliced twice": (
        lambda c: c.update(slices=[{"by": "camera"}, {"by": "camera", "groups": {"a": ["A"]}}]),
        "slices: the column 'camera' is sliced twice",
    ),
    "misspelt key of a slice": (lambda c: c.update(slices=[{"by": "camera", "group": {}}]), "did you mean 'groups'?"),
    "an undeclared slice": (
        lambda c: c["criteria"][0].update(id="accuracy@camera=A"),
        "the column 'camera' is not among the slices; add {by: camera} to slices",
    ),
    "a misspelt slice": (
        lambda c: c.update(slices=[{"by": "camera"}], criteria=[{"id": "accuracy@camra=A", "at_least": 0.5}]),
        "did you mean 'camera'?",
    ),
    "part of a group": (
        lambda c: c.update(
            slices=[{"by": "camera", "groups": {"a": ["A", "B"]}}],
            criteria=[{"id": "accuracy@camera=B", "at_least": 0.5}],
        ),
        "'B' is part of the group 'a'; name the group",
    ),
    "a slice and each": (
        lambda c: c.update(
            slices=[{"by": "camera"}],
            criteria=[{"id": "accuracy@camera=each", "at_least": 0.5}, {"id": "accuracy@camera=A", "at_least": 0.6}],
        ),
        "@camera=each includes it",
    ),
    "a slice of the run": (
        lambda c: c.update(slices=[{"by": "camera"}], criteria=[{"id": "cost@camera=A", "below": 5}]),
        "cost has no slices",
    ),
    "a slice without a value": (lambda c: c["criteria"][0].update(id="accuracy@camera"), "written @column=value"),
    "positives without a slice": (lambda c: c["criteria"][0].update(min_positives=5), "belongs to a slice"),
    "an expectation of no grade": (lambda c: c["expect"].update(sever_npdr=0.9), "did you mean 'severe_npdr'?"),
    "an expectation that is no share": (
        lambda c: c["expect"].update(balanced_accuracy=0.9),
        "is neither a proportion of images nor a kappa",
    ),
    "an expectation twice": (
        lambda c: c["expect"].update({"sensitivity:pdr": 0.9}),
        "'sensitivity:pdr' is given twice",
    ),
    "another purpose": (lambda c: c.update(purpose="test"), "'clinical' or 'pipeline'"),
}

BEYOND_JSON_SCHEMA = {
    "twice",
    "twice by each",
    "none required",
    "no criterion",
    "a policy for stability",
    "a window elsewhere",
    "a unit elsewhere",
    "no cost",
    "a threshold that cannot fail",
    "a threshold that cannot be met",
    "a mix that is not whole",
    "a criterion at no mix",
    "a metric that has no mix",
    "a slope beyond reason",
    "a slope without the perfect one",
    "overlapping groups",
    "a value twice in a group",
    "a group called each",
    "a column sliced twice",
    "an undeclared slice",
    "a misspelt slice",
    "part of a group",
    "a slice and each",
    "positives without a slice",
    "an expectation twice",
    "an infinite cost",
    "a limit on the wrong side",
    "a rate that must stay low, from below",
}
"""Defects of REFUSED that take more than a schema to see."""


@pytest.mark.parametrize("defect", REFUSED, ids=str)
def test_what_is_no_checklist_is_refused(defect: str):
    """One sentence, with the place and where possible the right word."""
    plain = content()
    change, sentence = REFUSED[defect]
    change(plain)
    with pytest.raises(ChecklistError) as error:
        parse_checklist(plain, "mine.yaml")
    assert sentence in str(error.value)
    assert str(error.value).startswith("mine.yaml")
    assert "\n" not in str(error.value)


YAML = {
    "anchors": (b"a: &x [1]\nb: [*x, *x]", "uses YAML anchors"),
    "merged keys": (b"a: {<<: {b: 1}}", "merges keys with <<"),
    "a duplicate key": (b"name: a\nname: b", "duplicate key"),
    "unclosed": (b"a: [", "is not valid YAML"),
    "a list": (b"- 1", "is not a checklist"),
    "nothing": (b"", "is not a checklist"),
    "very deep": (b"[" * 50_000, "is nested more than 50 deep"),
    "very large": (b"#" * 100_000, "is larger than 64 KB"),
    "a Python object": (b"!!python/object/apply:os.system [echo]", "uses a YAML tag"),
    "a hexadecimal version": (b"name: a\nversion: 0x1F\n", "line 2: write the number in decimal digits"),
    "an octal version": (b"name: a\nversion: 0o17\n", "in decimal digits"),
    "a version with underscores": (b"name: a\nversion: 1_000\n", "in decimal digits"),
    "a version of 5,000 digits": (b"name: a\nversion: " + b"9" * 5000, "is not valid YAML"),
    "a version of 50 digits": (b"name: a\nversion: " + b"9" * 50, "more than 64 bits"),
    "YAML 1.1, where 010 is 8": (
        b"%YAML 1.1\n---\nname: a\nversion: 010\n",
        "in YAML 1.2, without directives",
    ),
}


@pytest.mark.parametrize("defect", YAML, ids=str)
def test_hostile_yaml_is_refused(defect: str):
    data, sentence = YAML[defect]
    with pytest.raises(ChecklistError, match=sentence):
        parse_yaml(data, "mine.yaml")


def test_numbers_are_those_of_yaml_1_2():
    """`1e-3` is a number and `no` is a word; the older YAML had it the other way round."""
    text = b"name: a\nversion: 1\ncriteria: [{id: no_output, at_most: 1e-3}]\nreference: {masked: no}"
    checklist = parse_yaml(text, "mine.yaml")
    assert checklist.criteria[0].threshold == 0.001
    assert checklist.reference.masked == "no"


def test_comments_and_layout_do_not_change_the_digest(tmp_path: Path):
    text = "version: 1\nname: a\ncriteria:\n  - {id: accuracy, at_least: 0.9}\n"
    other = "# mine\nname: a\nversion: 1\ncriteria:\n  - id: accuracy\n    at_least: 0.90\n"
    assert parse_yaml(text.encode(), "x").digest == parse_yaml(other.encode(), "y").digest


def test_unknown_name_offers_the_nearest():
    with pytest.raises(ChecklistError, match="did you mean 'medical-grade'"):
        load_checklist("medical-grad")


def _medical_grade_file(folder: Path, **changes: Any) -> Path:
    path = folder / "copy.yaml"
    path.write_text(json.dumps(content() | changes))  # JSON is YAML
    return path


class TestNameAndVersion:
    def test_another_layout_is_the_same_checklist(self, tmp_path: Path):
        assert load_checklist(_medical_grade_file(tmp_path)).digest == load_checklist("medical-grade").digest

    def test_other_content_under_a_shipped_name_is_refused(self, tmp_path: Path):
        """A certificate names its checklist; one name and version is one content."""
        path = _medical_grade_file(tmp_path, looks=5)
        with pytest.raises(
            ChecklistError, match=r"has the name medical-grade and version 2 .*raise its version or rename it"
        ):
            load_checklist(path)
        assert read_checklist(path).looks == 5

    @pytest.mark.parametrize("change", [{"version": 3}, {"name": "medical-grade.ours"}], ids=str)
    def test_raised_or_renamed_it_is_taken(self, tmp_path: Path, change: dict[str, Any]):
        assert load_checklist(_medical_grade_file(tmp_path, looks=5, **change)).looks == 5


class TestEach:
    CHECKLIST = checklist_of(
        {"id": "sensitivity:each@camera=each", "at_least": 0.8},
        {"id": "accuracy@site=each", "at_least": 0.8, "min_positives": 7},
        {"id": "accuracy", "at_least": 0.9},
        slices=[
            {"by": "camera", "groups": {"tabletop": ["A", "B"], "handheld": ["C"]}, "min_positives": 30},
            {"by": "site"},
        ],
    )

    def test_a_declared_group_is_asked_for_also_without_images(self):
        """Groups come from the checklist, so that a test set without handheld cameras is missed, not passed."""
        written = [c.id for c in self.CHECKLIST.each_criterion({"camera": ["tabletop"], "site": []})]
        assert written == [
            *(f"sensitivity:{grade}@camera={group}" for group in ("tabletop", "handheld") for grade in GRADES),
            "accuracy@site=each",
            "accuracy",
        ]

    def test_further_values_are_slices_of_their_own(self):
        values = {"camera": ["handheld", "D=1"], "site": ["Oslo", "Bergen"]}
        written = [c.id for c in self.CHECKLIST.each_criterion(values)]
        assert "sensitivity:pdr@camera=D=1" in written
        assert [name for name in written if "site" in name] == ["accuracy@site=Oslo", "accuracy@site=Bergen"]
        assert len(written) == len(set(written)) == 5 * 3 + 2 + 1

    def test_fewest_positives_are_the_criterions_or_its_slices(self):
        assert [self.CHECKLIST.fewest_positives(c) for c in self.CHECKLIST.criteria] == [30, 7, 0]

    def test_values_of_a_group_are_one_slice(self):
        camera = self.CHECKLIST.slices[0]
        assert [camera.name_of(value) for value in "ABCD"] == ["tabletop", "tabletop", "handheld", "D"]

    def test_two_ways_to_ask_at_deployment_are_one(self):
        """`at: deployment` and `^deployment` give one content and one digest."""
        key = checklist_of({"id": "ppv:referable", "at": "deployment", "at_least": 0.5}, deployment=MIX)
        mark = checklist_of({"id": "ppv:referable^deployment", "at_least": 0.5}, deployment=MIX)
        assert key.digest == mark.digest
        assert key.criteria[0].id.deployed
        assert parse_checklist(key.content(), "again").digest == key.digest


class TestExpected:
    CHECKLIST = checklist_of(
        {"id": "accuracy", "at_least": 0.8},
        slices=[{"by": "camera"}],
        expect={
            "pdr": 0.985,
            "referable": 0.9,
            "specificity:each": 0.95,
            "specificity:pdr": 0.97,
            "sensitivity:pdr@camera=A": 0.99,
            "accuracy@camera=each": 0.93,
            "quadratic_kappa": 0.85,
        },
    )

    @pytest.mark.parametrize(
        ("metric", "value"),
        [
            ("sensitivity:pdr", 0.985),  # a grade names its sensitivity
            ("sensitivity:pdr@camera=A", 0.99),  # the nearer statement first
            ("sensitivity:pdr@camera=B", 0.985),  # then that of all images
            ("accuracy@camera=A", 0.93),
            ("accuracy", None),
            ("specificity:no_dr", 0.95),
            ("specificity:pdr", 0.97),
            ("specificity:referable", None),  # `each` is the five grades
            ("sensitivity:referable^deployment", None),  # another mix is another truth
            ("missed:referable", pytest.approx(0.1)),
            ("missed:vision_threatening", None),
            ("quadratic_kappa@camera=A", 0.85),
            ("kappa", None),
        ],
    )
    def test_resolves(self, metric: str, value: float | None):
        assert self.CHECKLIST.expected(parse_id(metric)) == value


SIGNS: dict[str, Callable[[Fraction, Fraction], bool]] = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}
HUNDREDTHS = [Fraction(i, 200) for i in range(201)]


def kinds(old: Checklist, new: Checklist) -> list[str]:
    return [change.kind for change in diff(old, new)]


class TestDiff:
    @given(
        st.sampled_from([("accuracy", "at_least", "above"), ("missed:referable", "at_most", "below")]),
        st.booleans(),
        st.integers(1, 99),
        st.booleans(),
        st.integers(1, 99),
    )
    def test_a_threshold_is_weaker_where_it_lets_more_values_through(
        self, line: tuple[str, str, str], first: bool, low: int, second: bool, high: int
    ):
        """Brute force over every half percent: weaker if and only if some value passes that did not, and stronger the
        other way round."""
        metric, was, now = line[0], line[1 + first], line[1 + second]
        old, new = checklist_of({"id": metric, was: low / 100}), checklist_of({"id": metric, now: high / 100})
        before = {value for value in HUNDREDTHS if SIGNS[was](value, Fraction(low, 100))}
        after = {value for value in HUNDREDTHS if SIGNS[now](value, Fraction(high, 100))}
        lets_in, keeps_out = after - before, before - after
        expected = {(False, False): [], (True, False): ["weaker"], (False, True): ["stronger"]}
        assert kinds(old, new) == expected.get((bool(lets_in), bool(keeps_out)), ["different"])
        assert kinds(new, old) == expected.get((bool(keeps_out), bool(lets_in)), ["different"])

    @given(*(st.integers(1, 20),) * 4)
    def test_a_range_is_weaker_where_it_lets_more_values_through(self, low: int, high: int, other: int, top: int):
        """Brute force over slopes of 0 to 4 in twentieths."""
        old, new = (
            checklist_of(
                {"id": "accuracy", "at_least": 0.5},
                {"id": "calibration_slope:referable", "at_least": least / 20, "at_most": 1 + more / 20},
            )
            for least, more in ((low, high), (other, top))
        )
        before, after = (
            {value for value in range(80) if least <= value <= 20 + more} for least, more in ((low, high), (other, top))
        )
        lets_in, keeps_out = bool(after - before), bool(before - after)
        expected = {(False, False): [], (True, False): ["weaker"], (False, True): ["stronger"]}
        assert kinds(old, new) == expected.get((lets_in, keeps_out), ["different"])
        for change in diff(old, new):
            assert f"between {low / 20:g} and {1 + high / 20:g} becomes between" in change.sentence

    def test_one_group_instead_of_each_is_weaker(self):
        """`each` also speaks of the cameras that no group holds."""
        slices = [{"by": "camera", "groups": {"good": ["A", "B"]}}]
        old, new = (
            checklist_of({"id": f"sensitivity:pdr@camera={which}", "at_least": 0.8}, slices=slices)
            for which in ("each", "good")
        )
        assert "weaker" in kinds(old, new)

    def test_more_positives_weaken_an_advisory_line(self):
        """An advisory line that is not assessed warns of nothing."""
        slices = [{"by": "camera"}]
        required = {"id": "accuracy", "at_least": 0.9}
        line = {"id": "accuracy@camera=A", "at_least": 0.9, "required": False}
        old = checklist_of(required, {**line, "min_positives": 0}, slices=slices)
        new = checklist_of(required, {**line, "min_positives": 1000}, slices=slices)
        assert kinds(old, new) == ["weaker"]

    @given(checklists(), st.randoms())
    def test_a_weakened_line_is_always_told(self, plain: dict[str, Any], draw: random.Random):
        """Whatever else changes with it: a looser threshold is in the list, as weaker, under its id."""
        line = draw.choice(plain["criteria"])
        key = next(key for key in SIGNS if key in line)
        loose = {"at_least": 0.005, "above": 0.005, "at_most": 0.995, "below": 0.995}[key]
        weakened = copy.deepcopy(plain) | {"unit": "eye", "looks": 3, "description": "Other."}
        weakened["criteria"][plain["criteria"].index(line)][key] = loose
        new = parse_checklist(weakened, "new")
        changes = diff(parse_checklist(plain, "old"), new)
        ids = {c.id for c in new.each_criterion() if c.threshold == loose}
        assert ids <= {change.where for change in changes if change.kind == "weaker"}

    @given(checklists(), checklists())
    def test_is_empty_exactly_where_the_content_is_the_same(self, a: dict[str, Any], b: dict[str, Any]):
        """No change of any key goes unsaid."""
        old, new = parse_checklist(a, "a"), parse_checklist(b, "b")
        assert diff(old, old) == ()
        assert (diff(old, new) == ()) == (old.digest == new.digest)

    @given(checklists(), st.data())
    def test_every_single_change_is_named(self, plain: dict[str, Any], data: st.DataObject):
        """Change one value in one place: the list names that key or that line, not merely `another way`."""
        changed = copy.deepcopy(plain)
        other = data.draw(checklists())
        key = data.draw(st.sampled_from(sorted(plain.keys() - {"criteria", "slices"})))
        changed[key] = other[key]
        old, new = parse_checklist(plain, "a"), parse_checklist(changed, "b")
        assume(old.digest != new.digest)
        assert {change.where.partition(".")[0] for change in diff(old, new)} == {key}

    @pytest.mark.parametrize(
        ("key", "was", "now", "kind", "back"),
        [
            ("evidence.decide_on", "bound", "point", "weaker", "stronger"),
            ("evidence.level", 0.95, 0.9, "weaker", "stronger"),
            ("declared", [], [AT_MOST[2]], "weaker", "stronger"),
            ("declared", [AT_MOST[2]], [AT_MOST[1]], "weaker", "stronger"),
            # Neither interval holds the other: see test_wilson_is_not_always_the_narrower.
            ("evidence.interval", "clopper-pearson", "wilson", "weaker", "different"),
            # More models may try; but fewer looks leave each a larger share of the level.
            ("looks", 1, 3, "weaker", "different"),
            ("all_comers_allowance", 0.05, 0.1, "weaker", "stronger"),
            ("valid_days", 90, None, "weaker", "stronger"),
            ("valid_days", 90, 365, "weaker", "stronger"),
            ("unit", "image", "patient", "different", "different"),
            ("purpose", "clinical", "pipeline", "different", "different"),
            ("intended_use.role", "assist", "autonomous", "different", "different"),
            ("planning.power", 0.8, 0.5, "different", "different"),
            ("bootstrap.class_totals", "random", "fixed", "different", "different"),
        ],
    )
    def test_of_a_setting(self, key: str, was: Any, now: Any, kind: str, back: str):
        section, _, inner = key.partition(".")

        def with_setting(value: Any) -> Checklist:
            return checklist_of({"id": "accuracy", "at_least": 0.9}, **{section: {inner: value} if inner else value})

        old, new = with_setting(was), with_setting(now)
        assert [(change.kind, change.where) for change in diff(old, new)] == [(kind, key)]
        assert kinds(new, old) == [back]

    def test_on_points_fewer_looks_are_stronger(self):
        """No level is shared out there, so that only the number of tries counts."""
        line, point = {"id": "accuracy", "at_least": 0.9}, {"decide_on": "point"}
        assert kinds(checklist_of(line, looks=3, evidence=point), checklist_of(line, evidence=point)) == ["stronger"]

    def test_wilson_is_not_always_the_narrower(self):
        """SciPy's two bounds: Clopper-Pearson's is the higher for 95 of 95 and 96 of 97, and the lower for 94 of 95."""

        def low(k: int, n: int, method: Any) -> float:
            return float(binomtest(k, n).proportion_ci(method=method).low)

        assert low(95, 95, "exact") > low(95, 95, "wilson")
        assert low(96, 97, "exact") > low(96, 97, "wilson")
        assert low(94, 95, "exact") < low(94, 95, "wilson")

    @pytest.mark.parametrize(
        ("was", "now", "kind", "back"),
        [
            ({"required": True}, {"required": False}, "weaker", "stronger"),
            ({"no_output": "worst_case"}, {"no_output": "excluded"}, "weaker", "stronger"),
            ({"no_output": "excluded"}, {"no_output": "as_referred"}, "weaker", "stronger"),
            ({"min_positives": 30}, {"min_positives": 5}, "weaker", "stronger"),
            ({"added": ""}, {"added": "safety"}, "different", "different"),
        ],
    )
    def test_of_a_line(self, was: dict[str, Any], now: dict[str, Any], kind: str, back: str):
        def line(change: dict[str, Any]) -> Checklist:
            return checklist_of(
                {"id": "accuracy", "at_least": 0.9},
                {"id": "sensitivity:referable@camera=A", "at_least": 0.9, **change},
                slices=[{"by": "camera"}],
            )

        assert kinds(line(was), line(now)) == [kind]
        assert kinds(line(now), line(was)) == [back]

    @pytest.mark.parametrize("metric", ["sensitivity", "specificity", "missed", "ppv", "npv"])
    def test_a_policy_is_called_stronger_only_where_no_table_gains_by_it(self, metric: str):
        """Brute force over tables with images without output: neither share nor exact bound rises where it says
        stronger. (`missed` is 1 - sensitivity, so its ceiling is sensitivity's floor.)"""
        rng = np.random.default_rng(0)
        tables = np.concatenate([rng.integers(0, 6, (300, 5, 6)), rng.integers(0, 40, (300, 5, 6))])
        ratio = confusion.sensitivity if metric == "missed" else getattr(confusion, metric)
        asks = {"at_most": 0.1} if metric == "missed" else {"at_least": 0.9}
        reached, checklist = {}, {}
        for policy in ("excluded", "as_referred", "worst_case"):
            k, n = ratio((2, 3, 4), policy).terms(tables)
            reached[policy] = np.array([k / n, beta.ppf(0.025, k, n - k + 1)])
            checklist[policy] = checklist_of({"id": f"{metric}:referable", "no_output": policy, **asks})
        told = [
            (was, now) for was in checklist for now in checklist if "stronger" in kinds(checklist[was], checklist[now])
        ]
        assert ("excluded", "worst_case") in told
        for was, now in told:
            assert kinds(checklist[now], checklist[was]) == ["weaker"]
            assert not (reached[now] > reached[was] + 1e-12).any(), (was, now)

    def test_a_longer_window_is_stronger(self):
        """Of two windows the longer holds the shorter; ten is what a checklist without one means."""
        short, usual, long = (
            checklist_of({"id": "stability", "below": 0.05, **window}) for window in ({"window": 6}, {}, {"window": 20})
        )
        assert kinds(usual, short) == ["weaker"]
        assert kinds(usual, long) == ["stronger"]

    def test_a_wider_margin_is_weaker(self):
        old, new = (checklist_of({"id": "baseline", "margin": margin}) for margin in (0.02, 0.05))
        assert diff(old, new) == (
            Change("weaker", "baseline", "baseline: no more than 0.02 worse becomes no more than 0.05 worse."),
        )

    def test_a_dropped_line_is_weaker_and_a_new_one_stronger(self):
        old = checklist_of({"id": "specificity:each", "above": 0.9})
        new = checklist_of(*({"id": f"specificity:{grade}", "above": 0.9} for grade in (*GRADES[1:], "referable")))
        assert [(change.kind, change.where) for change in diff(old, new)] == [
            ("weaker", "specificity:no_dr"),
            ("stronger", "specificity:referable"),
        ]

    def test_lines_in_another_order_are_the_same_lines(self):
        """Another digest, and nothing that a verdict rests on."""
        lines = [{"id": "accuracy", "at_least": 0.9}, {"id": "no_output", "at_most": 0.1}]
        (change,) = diff(checklist_of(*lines), checklist_of(*reversed(lines)))
        assert (change.kind, change.decides) == ("different", False)

    def test_the_mix_decides_where_a_line_asks_for_it(self):
        line = {"id": "ppv:referable^deployment", "at_least": 0.5}
        other = MIX | {"no_dr": 0.7, "pdr": 0.07}
        (asked,) = diff(checklist_of(line, deployment=MIX), checklist_of(line, deployment=other))
        line = {"id": "ppv:referable", "at_least": 0.5}
        (shown,) = diff(checklist_of(line, deployment=MIX), checklist_of(line, deployment=other))
        assert (asked.kind, asked.decides) == ("different", True)
        assert (shown.kind, shown.decides) == ("different", False)


class TestCommands:
    def test_list_says_what_a_pass_means(self, drgate: Callable[..., Ended]):
        listed = json.loads(drgate("spec", "list", "--format", "json").out)
        assert [checklist["name"] for checklist in listed] == shipped()
        assert all(checklist["version"] == 2 and checklist["description"] for checklist in listed)
        assert "certifies nothing" in " ".join(drgate("spec", "list").out.split())

    def test_check_takes_several(self, drgate: Callable[..., Ended]):
        ended = drgate("spec", "check", "smoke", ROOT / "thresholds" / "medical-grade.yaml")
        assert (ended.code, ended.out.count("valid. sha256:")) == (0, 2)

    def test_check_refuses_namesakes(self, refused: Callable[..., str], tmp_path: Path):
        """Two contents under one name and version: whoever reads a certificate could not tell which."""
        for file, floor in (("a.yaml", 0.9), ("b.yaml", 0.8)):
            plain = {"name": "mine", "version": 1, "criteria": [{"id": "accuracy", "at_least": floor}]}
            (tmp_path / file).write_text(json.dumps(plain))
        sentence = refused("spec", "check", tmp_path / "a.yaml", tmp_path / "b.yaml")
        assert "have the name mine and version 1; raise the version of one" in sentence

    def test_diff_ends_with_one_where_something_is_weaker(self, drgate: Callable[..., Ended]):
        weaker = drgate("spec", "diff", "medical-grade-safe", "medical-grade")
        assert weaker.code == 1
        assert "weaker     sensitivity:referable: required becomes advisory." in weaker.out
        assert drgate("spec", "diff", "medical-grade", "medical-grade-safe").code == 0
        assert drgate("spec", "diff", "medical-grade", "no-such").code == 2

    def test_diff_shows_the_changes_of_namesakes_and_refuses_them(self, drgate: Callable[..., Ended], tmp_path: Path):
        path = _medical_grade_file(tmp_path, looks=5)
        ended = drgate("spec", "diff", "medical-grade", path, "--format", "json")
        assert ended.code == 2
        assert [change["where"] for change in json.loads(ended.out)["changes"]] == ["looks"]
        assert "have the name medical-grade and version 2; raise the version of one" in ended.err

    def test_schema_is_the_published_one(self, drgate: Callable[..., Ended]):
        published = (ROOT / "thresholds" / "checklist.schema.json").read_text()
        assert drgate("spec", "schema").out == published


def test_the_example_of_the_documentation_is_a_checklist():
    """docs/checklists.md: what it shows as a whole checklist is one, and shows every key."""
    text = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "checklists.md").read_text(), re.DOTALL)[0]
    checklist = parse_yaml(text.encode(), "docs/checklists.md")
    plain = YamlReader(typ="safe", pure=True).load(text)
    jsonschema.validate(plain, schema())
    assert set(plain) == set(Checklist.model_fields)
    for key in ("evidence", "bootstrap", "intended_use", "reference", "test_set", "planning"):
        assert set(plain[key]) == set(checklist.content()[key]), key
    criteria = {key for line in plain["criteria"] for key in line}
    assert criteria == set(schema()["$defs"]["Criterion"]["properties"])
