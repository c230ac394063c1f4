"""Gaps between groups, and non-inferiority against a baseline and against human readers."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest

from drgate.checklist import Checklist, parse_checklist, schema
from drgate.checklist_diff import diff
from drgate.errors import ChecklistError
from drgate.metrics import parse_id

FLOORS = [{"id": f"{of}:referable", "at_least": 0.8} for of in ("sensitivity", "specificity")]
READERS = [{"id": f"noninferior:{of}:referable~readers", "margin": 0.05} for of in ("sensitivity", "specificity")]


def checklist_of(*criteria: dict[str, Any], **keys: Any) -> Checklist:
    """A checklist with these criteria that slices by sex."""
    plain = {"name": "mine", "version": 1, "slices": [{"by": "sex"}], "criteria": list(criteria), **keys}
    found = parse_checklist(plain, "mine")
    jsonschema.validate(plain, schema())
    assert parse_checklist(found.content(), "again") == found
    return found


class TestGrammar:
    @pytest.mark.parametrize(
        ("text", "label", "policy"),
        [
            ("gap:sensitivity:referable@sex", "Gap in sensitivity, referable DR, by sex", "as_referred"),
            ("gap:specificity:pdr@age group", "Gap in specificity, PDR, by age group", "excluded"),
            ("gap:accuracy@sex", "Gap in overall accuracy, by sex", "excluded"),
            (
                "noninferior:sensitivity:referable~baseline",
                "Sensitivity, referable DR, not worse than the baseline",
                "as_referred",
            ),
            ("noninferior:specificity:pdr~readers", "Specificity, PDR, not worse than the readers", "excluded"),
        ],
    )
    def test_ids_read_and_write_themselves(self, text: str, label: str, policy: str):
        name = parse_id(text)
        assert (str(name), name.but(), name.label, name.default_policy) == (text, name, label, policy)
        assert name.but(target="mild_npdr") == text.replace(name.target or "?", "mild_npdr") or not name.target

    @pytest.mark.parametrize(
        ("criterion", "why"),
        [
            ({"id": "gap:sensitivity:referable@sex=F", "at_most": 0.1}, "between all values of a column"),
            ({"id": "gap:sensitivity:referable", "at_most": 0.1}, "between all values of a column"),
            ({"id": "gap:sensitivity@sex", "at_most": 0.1}, "needs one of"),
            ({"id": "gap:@sex", "at_most": 0.1}, "name the metric that is compared"),
            ({"id": "gap@sex=F", "at_most": 0.1}, "gap is of accuracy or sensitivity or specificity"),
            ({"id": "gap:auc:referable@sex", "at_most": 0.1}, "gap is of accuracy or sensitivity or specificity"),
            ({"id": "gap:sensitivity:referable@camera", "at_most": 0.1}, "'camera' is not among the slices"),
            ({"id": "gap:sensitivity:referable@sex", "at_least": 0.1}, "passes bad models"),
            ({"id": "gap:sensitivity:referable@sex", "margin": 0.1}, "margin"),
            ({"id": "noninferior:sensitivity:referable", "margin": 0.1}, "must end with ~baseline or ~readers"),
            ({"id": "noninferior:accuracy~baseline", "margin": 0.1}, "is of sensitivity or specificity"),
            ({"id": "noninferior:sensitivity:pdr~baseline", "at_least": 0.1}, "takes a margin"),
            ({"id": "noninferior:sensitivity:pdr~baseline", "margin": 0.1, "reference_value": 0.5}, "reference_value"),
            ({"id": "noninferior:sensitivity:pdr~baseline", "margin": 0.1, "no_output": "excluded"}, "does not apply"),
        ],
    )
    def test_what_cannot_be_asked_is_refused(self, criterion: dict[str, Any], why: str):
        with pytest.raises(ChecklistError, match=re.escape(why)):
            checklist_of({"id": "accuracy", "at_least": 0.9}, criterion)

    def test_each_is_written_out(self):
        found = checklist_of({"id": "gap:sensitivity:each@sex", "at_most": 0.1})
        assert [one.id for one in found.each_criterion({"sex": ["F", "M"]})] == [
            f"gap:sensitivity:{grade}@sex" for grade in ("no_dr", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr")
        ]

    def test_readers_need_both_rates_and_a_floor(self):
        """Matching readers in one rate is bought with the other, and poor readers are easily matched."""
        checklist_of(*FLOORS, *READERS)
        for lacking, why in (
            ([*FLOORS, READERS[0]], "also needs 'noninferior:specificity:referable~readers'"),
            ([*FLOORS, READERS[0], READERS[1] | {"required": False}], "~readers', required"),
            ([FLOORS[0], *READERS], "needs a required criterion specificity:referable"),
            ([FLOORS[0], FLOORS[1] | {"required": False}, *READERS], "needs a required criterion specificity"),
        ):
            with pytest.raises(ChecklistError, match=re.escape(why)):
                checklist_of(*lacking)


def test_a_diff_knows_what_is_weaker():
    narrow, wide = (checklist_of({"id": "gap:accuracy@sex", "at_most": most}) for most in (0.05, 0.1))
    assert [(one.kind, one.where) for one in diff(narrow, wide)] == [("weaker", "gap:accuracy@sex")]
    before, after = (checklist_of(*FLOORS, *READERS, readers_independent=given) for given in (False, True))
    assert [(one.kind, one.where) for one in diff(before, after)] == [("weaker", "readers_independent")]
    assert [one.kind for one in diff(after, before)] == ["different"]
    strict, lax = (checklist_of(*FLOORS, READERS[0], READERS[1] | {"margin": margin}) for margin in (0.05, 0.1))
    assert [one.kind for one in diff(strict, lax)] == ["weaker"]
