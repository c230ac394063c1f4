"""Checklists: what ships, what is refused, and that a checklist is its content."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from drgate.errors import SpecError
from drgate.spec import load_spec, parse_spec, parse_yaml, schema, shipped


def content() -> dict[str, Any]:
    return copy.deepcopy(load_spec("medical-grade").content())


class TestShipped:
    def test_the_owner_asked_for_these_lines(self):
        """The seven lines of the owner's checklist, and the advisory lines for safety."""
        rows = [(c.id, c.comparator, c.threshold, c.required) for c in load_spec("medical-grade").criteria]
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
        ]

    def test_safe_requires_the_safety_lines(self):
        """medical-grade-safe is medical-grade with every line for safety required."""
        safe = load_spec("medical-grade-safe").content()
        for criterion in safe["criteria"]:
            if criterion["added"] == "safety":
                assert criterion["required"] is True
                criterion["required"] = False
        assert safe | {"name": "medical-grade"} == content()

    def test_observed_decides_on_the_point(self):
        observed = load_spec("medical-grade-observed").content()
        assert observed["evidence"].pop("decide_on") == "point"
        expected = content()
        del expected["evidence"]["decide_on"]
        assert observed | {"name": "medical-grade"} == expected

    @pytest.mark.parametrize("name", shipped())
    def test_round_trip(self, name: str):
        """A checklist and its plain content are one: this is what a certificate carries."""
        spec = load_spec(name)
        assert parse_spec(spec.content(), "again").digest == spec.digest
        jsonschema.validate(spec.content(), schema())


REFUSED = {
    "misspelt key": (lambda c: c.update(lok=1), "there is no key 'lok'; did you mean 'looks'?"),
    "misspelt key in a criterion": (lambda c: c["criteria"][0].update(at_lest=0.9), "did you mean 'at_least'?"),
    "misspelt key of evidence": (lambda c: c["evidence"].update(levl=0.9), "did you mean 'level'?"),
    "percent": (lambda c: c["criteria"][0].update(at_least=90), "did you mean 0.9?"),
    "no such grade": (lambda c: c["criteria"][1].update(id="sensitivity:grade_9"), "takes one of"),
    "no such metric": (lambda c: c["criteria"][0].update(id="acuracy"), "did you mean 'accuracy'?"),
    "two thresholds": (lambda c: c["criteria"][0].update(above=0.8), "exactly one of"),
    "no threshold": (lambda c: c["criteria"][0].pop("at_least"), "exactly one of"),
    "twice": (lambda c: c["criteria"].append(c["criteria"][0]), "'accuracy' stands twice"),
    "twice by each": (
        lambda c: c["criteria"].append({"id": "specificity:pdr", "above": 0.9}),
        "'specificity:pdr' stands twice",
    ),
    "no criterion": (lambda c: c["criteria"].clear(), "cannot fail certifies nothing"),
    "none required": (lambda c: [x.update(required=False) for x in c["criteria"]], "cannot fail certifies nothing"),
    "text for a number": (lambda c: c["criteria"][0].update(at_least="0.9"), "valid number"),
    "text for a flag": (lambda c: c["criteria"][0].update(required="yes"), "valid boolean"),
    "no looks": (lambda c: c.update(looks=0), "greater than or equal to 1"),
    "a narrower interval": (lambda c: c["evidence"].update(interval="jeffreys"), "'clopper-pearson' or 'wilson'"),
    "baseline without margin": (lambda c: c["criteria"][5].pop("margin"), "baseline takes a margin"),
    "a window elsewhere": (lambda c: c["criteria"][0].update(window=10), "window belongs to stability"),
    "a unit elsewhere": (lambda c: c["criteria"][0].update(unit="USD"), "a unit belongs to cost"),
    "a policy for stability": (lambda c: c["criteria"][4].update(no_output="excluded"), "does not apply"),
    "an infinite cost": (lambda c: c["criteria"][6].update(below=float("inf")), "positive amount"),
    "a colon too many": (lambda c: c["criteria"][0].update(id="accuracy:"), "missing after the colon"),
    "expectation above one": (lambda c: c["expect"].update(pdr=98.5), "expect: pdr"),
}


@pytest.mark.parametrize("defect", REFUSED, ids=str)
def test_what_is_no_checklist_is_refused(defect: str):
    """One sentence, with the place and where possible the right word."""
    plain = content()
    change, sentence = REFUSED[defect]
    change(plain)
    with pytest.raises(SpecError) as error:
        parse_spec(plain, "mine.yaml")
    assert sentence in str(error.value)
    assert str(error.value).startswith("mine.yaml")
    assert "\n" not in str(error.value)


YAML = {
    "anchors": (b"a: &x [1]\nb: [*x, *x]", "uses YAML anchors"),
    "a duplicate key": (b"name: a\nname: b", "duplicate key"),
    "unclosed": (b"a: [", "is not valid YAML"),
    "a list": (b"- 1", "is not a checklist"),
    "nothing": (b"", "is not a checklist"),
    "very deep": (b"[" * 500_000, "is nested more than 20 deep"),
    "a Python object": (b"!!python/object/apply:os.system [echo]", "is not valid YAML"),
}


@pytest.mark.parametrize("defect", YAML, ids=str)
def test_hostile_yaml_is_refused(defect: str):
    data, sentence = YAML[defect]
    with pytest.raises(SpecError, match=sentence):
        parse_yaml(data, "mine.yaml")


def test_numbers_are_those_of_yaml_1_2():
    """`1e-3` is a number and `no` is a word; the older YAML had it the other way round."""
    text = b"name: a\nversion: 1\ncriteria: [{id: no_output, at_most: 1e-3}]\nreference: {masked: no}"
    spec = parse_yaml(text, "mine.yaml")
    assert spec.criteria[0].threshold == 0.001
    assert spec.reference.masked == "no"


def test_comments_and_layout_do_not_change_the_digest(tmp_path: Path):
    text = "version: 1\nname: a\ncriteria:\n  - {id: accuracy, at_least: 0.9}\n"
    other = "# mine\nname: a\nversion: 1\ncriteria:\n  - id: accuracy\n    at_least: 0.90\n"
    assert parse_yaml(text.encode(), "x").digest == parse_yaml(other.encode(), "y").digest


def test_unknown_name_offers_the_nearest():
    with pytest.raises(SpecError, match="did you mean 'medical-grade'"):
        load_spec("medical-grad")
