"""The catalogue of metrics: ids, entries, that an entry is all that a new metric takes, and likelihood ratios."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sklearn.metrics import balanced_accuracy_score, class_likelihood_ratios

from drgate import stats
from drgate.checklist import EACH, Checklist, load_checklist, parse_checklist
from drgate.checklist_diff import diff
from drgate.errors import ChecklistError
from drgate.evaluate import evaluate
from drgate.evaluation import Estimate, Evaluation, NotEstimable
from drgate.metrics import METRICS, Definition, MetricId, grades_of, measured, measured_in_slices, parse_id
from drgate.plan import plan
from drgate.predictions import Predictions, make_predictions
from drgate.report.evaluation import html, markdown
from drgate.report.words import metric_lines
from drgate.scale import GRADES, GROUPS
from tests.support.comparing import compare


def checklist_of(*criteria: dict[str, Any], **settings: Any) -> Checklist:
    content = {"name": "mine", "version": 1, "bootstrap": {"resamples": 1000}, "criteria": list(criteria), **settings}
    return parse_checklist(content, "mine.yaml")


def drawn(patients: int = 200, right: float = 0.85) -> Predictions:
    """Two images a patient, most of them graded right or one grade off."""
    generator = np.random.default_rng(7)
    grade = generator.integers(0, 5, 2 * patients)
    off = np.where(generator.random(2 * patients) < right, 0, generator.choice([-1, 1], 2 * patients))
    table = {"grade": grade, "predicted": np.clip(grade + off, 0, 4), "patient": np.repeat(np.arange(patients), 2)}
    names = [f"{i}.png" for i in range(2 * patients)]
    camera = generator.choice(["A", "B"], 2 * patients)
    table_ = pd.DataFrame(table).assign(image=names, camera=camera, patient=lambda t: t["patient"].astype(str))
    return make_predictions(table_, "drawn.csv", {})


class TestMetricId:
    @given(
        st.sampled_from(
            [(one.name, to) for one in METRICS.values() for to in (*one.targets, EACH) if not one.compares]
        ),
        st.one_of(
            st.just({}),
            st.just({"deployed": True}),
            st.fixed_dictionaries(
                {"column": st.text(min_size=1).filter(lambda text: "=" not in text), "value": st.text(min_size=1)}
            ),
        ),
    )
    def test_is_its_parts(self, named: tuple[str, str], place: dict[str, Any]):
        """Whatever a column or value is called, an id is read back as the parts that wrote it."""
        name = MetricId(*named, **place)
        read = parse_id(str.__str__(name))
        assert read == name
        for part in ("metric", "target", "column", "value", "deployed"):
            assert getattr(read, part) == getattr(name, part)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ":pdr",
            "accuracy:",
            "accuracy@",
            "accuracy@camera",
            "accuracy@=A",
            "accuracy@camera=",
            "accuracy^",
            "accuracy^deploy",
            "accuracy^deployment^deployment",
            "accuracy^deployment@camera=A",
        ],
    )
    def test_without_a_part_is_refused(self, text: str):
        with pytest.raises(ChecklistError):
            parse_id(text)

    def test_is_its_text(self):
        """In JSON, as a key and in a message it is the text; copies keep the parts."""
        name = parse_id("sensitivity:pdr@camera=A=1")
        assert json.dumps({name: name}) == '{"sensitivity:pdr@camera=A=1": "sensitivity:pdr@camera=A=1"}'
        assert {name: 1}["sensitivity:pdr@camera=A=1"] == 1
        for again in (
            copy.deepcopy(name),
            pickle.loads(pickle.dumps(name)),
            TypeAdapter(MetricId).validate_python(name),
        ):
            assert (again, again.column, again.value) == (name, "camera", "A=1")
        assert name.whole == "sensitivity:pdr"
        assert name.but(target="no_dr", value="B") == "sensitivity:no_dr@camera=B"

    def test_is_parsed_once(self):
        """A parsed id is not read again; criteria and results of an evaluation carry parsed ids."""
        name = MetricId("accuracy")
        assert parse_id(name) is name
        found = evaluate(drawn(40), checklist_of({"id": "accuracy", "at_least": 0.5}))
        again = Evaluation.from_json(json.loads(json.dumps(found.to_json())))
        assert again == found
        for one in (found, again):
            assert all(isinstance(id, MetricId) for id in (*one.metrics, *(c.id for c in one.criteria)))

    def test_a_slice_or_the_mix_does_not_change_who_is_referred(self):
        """The policy for images without output follows the metric and group, wherever it is asked."""
        assert parse_id("sensitivity:referable@camera=pdr:x").default_policy == "as_referred"
        assert parse_id("specificity:referable^deployment").default_policy == "as_referred"
        assert parse_id("undergraded:vision_threatening_below_referable").default_policy == "as_referred"
        assert parse_id("youden:referable").default_policy == "as_referred"
        assert parse_id("sensitivity:pdr@referable=referable").default_policy == "excluded"
        assert parse_id("brier:referable").default_policy == "excluded"

    def test_a_metric_of_another_version_is_shown_by_its_name(self):
        assert parse_id("lesion_count:pdr").label == "lesion count, PDR"


class TestCatalogue:
    def test_every_share_is_counted_for_every_target_and_policy(self):
        """Each share gives a ratio for each of its targets, at the policy that a criterion has by default."""
        for name in measured():
            if name.about.is_share:
                ratio = name.about.ratio(name.target, name.default_policy)
                assert ratio.adverse == (name.about.better == "lower")

    def test_what_is_shown_in_slices_and_at_the_mix_is_measured(self):
        """No slice and no deployment mix has a metric that the whole test set lacks."""
        assert set(measured_in_slices()) <= set(measured())
        for about in METRICS.values():
            assert set(about.at_deployment) <= set(about.targets)
            assert all(part in METRICS for part in (*about.parts, *filter(None, [about.complement])))

    @pytest.mark.parametrize(
        ("text", "who"),
        [
            ("sensitivity:pdr", "with PDR"),
            ("specificity:pdr", "without PDR"),
            ("specificity:no_dr", "with any DR"),
            ("ppv:referable", "predicted as Referable DR"),
            ("npv:pdr", "predicted as other than PDR"),
            ("undergraded:vision_threatening_below_referable", "with severe NPDR or PDR"),
            ("undergraded:by_two", "of this mix of grades"),
            ("no_output", "of this mix of grades"),
            ("no_output:pdr", "with PDR"),
        ],
    )
    def test_who_is_counted(self, text: str, who: str):
        name = parse_id(text)
        assert name.about.who(name.target) == who

    def test_grades(self):
        assert [grades_of(target) for target in ("pdr", "referable", "by_two", "")] == [(4,), (2, 3, 4), None, None]


@pytest.fixture
def within_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric that there is not: images graded at most one grade off, of a grade or a group."""

    def counted(grades: tuple[int, ...], _: str) -> stats.confusion.Ratio:
        reference, predicted = np.indices((5, 6))
        inside = np.isin(reference, grades) & (predicted < 5)
        return stats.confusion.Ratio(inside & (abs(reference - predicted) <= 1), inside)

    made = Definition(
        name="within_one",
        title="Within one grade",
        targets=(*GRADES, *GROUPS),
        how=counted,
        counted="with",
        at_deployment=(*GROUPS,),
        in_slices=("referable",),
        compared=True,
    )
    monkeypatch.setitem(METRICS, "within_one", made)


@pytest.mark.usefixtures("within_one")
class TestAddedMetric:
    def test_is_measured_decided_planned_compared_and_drawn(self):
        """One entry of the catalogue, and every command knows it."""
        line = {"id": "within_one:pdr", "at_least": 0.9}
        mix = {"no_dr": 0.8, "mild_npdr": 0.1, "moderate_npdr": 0.06, "severe_npdr": 0.03, "pdr": 0.01}
        checklist = checklist_of(
            line,
            {"id": "within_one:referable@camera=each", "at_least": 0.5},
            slices=[{"by": "camera"}],
            deployment=mix,
            expect={"within_one:pdr": 0.99},
        )
        predictions = drawn()
        found = evaluate(predictions, checklist)
        graded, called = (predictions.table[name].to_numpy(dtype=int) for name in ("grade", "predicted"))
        inside = graded == 4
        metric = found.metrics[MetricId("within_one", "pdr")]
        assert isinstance(metric, Estimate)
        assert (metric.k, metric.n) == (int((abs(graded - called) <= 1)[inside].sum()), int(inside.sum()))
        assert metric.bootstrap is not None
        assert isinstance(found.metrics[parse_id("within_one:referable^deployment")], Estimate)
        assert [c.status for c in found.criteria] == ["PASS", "PASS", "PASS"]
        assert {error.id for error in found.gate_error} == {c.id for c in found.criteria}
        assert "Within one grade, PDR" in [one.title for one in metric_lines(found)]
        for page in (markdown.render(found), html.render(found)):
            assert "Within one grade" in page
        planned = plan(checklist).lines[0]
        assert (planned.id, planned.grades) == ("within_one:pdr", ("pdr",))
        assert planned.needed is not None
        assert "within_one:pdr" in compare(predictions, predictions).differences
        weaker = checklist_of({**line, "at_least": 0.8})
        assert [c.kind for c in diff(checklist_of(line), weaker)] == ["weaker"]

    def test_a_limit_on_the_wrong_side_is_refused(self):
        with pytest.raises(ChecklistError, match="give at_least or above"):
            checklist_of({"id": "within_one:pdr", "at_most": 0.9})


class TestLikelihoodRatiosAndYouden:
    def test_are_those_of_scikit_learn(self):
        """Of each grade and group against the rest."""
        predictions = drawn()
        found = evaluate(predictions, checklist_of({"id": "accuracy", "at_least": 0.5})).metrics
        for target in (*GRADES, *GROUPS):
            truth, answer = (np.isin(predictions.table[name], grades_of(target)) for name in ("grade", "predicted"))
            expected = *class_likelihood_ratios(truth, answer), 2 * balanced_accuracy_score(truth, answer) - 1
            names = ("positive_likelihood_ratio", "negative_likelihood_ratio", "youden")
            metrics = [found[MetricId(name, target)] for name in names]
            assert all(isinstance(metric, Estimate) for metric in metrics)
            assert [metric.value for metric in metrics] == pytest.approx(expected)
            for metric in metrics:
                assert metric.low < metric.value < metric.high
                assert (metric.n, metric.clusters) == (400, 200)

    def test_an_empty_cell_is_not_assessed(self):
        """A model without an error has no likelihood ratio; its Youden's index is 1, with a lower bound."""
        lines = [
            {"id": "positive_likelihood_ratio:pdr", "at_least": 5.0},
            {"id": "negative_likelihood_ratio:pdr", "at_most": 0.2},
            {"id": "youden:pdr", "at_least": 0.9},
        ]
        found = evaluate(drawn(right=1.0), checklist_of(*lines)).criteria
        assert [line.status for line in found] == ["NOT_ASSESSED", "NOT_ASSESSED", "PASS"]
        assert "the sensitivity is 100 %" in found[0].reason

    def test_the_bound_decides(self):
        """A threshold between the bound and the value is met, but not shown."""
        name = MetricId("positive_likelihood_ratio", "referable")
        metric = evaluate(drawn(), checklist_of({"id": name, "at_least": 1.5})).metrics[name]
        assert isinstance(metric, Estimate)
        assert metric.low is not None
        thresholds = (metric.low - 0.01, (metric.low + metric.value) / 2, metric.value + 0.01)
        statuses = [
            evaluate(drawn(), checklist_of({"id": name, "at_least": at})).criteria[0].status for at in thresholds
        ]
        assert statuses == ["PASS", "INSUFFICIENT", "FAIL"]

    def test_without_a_case_the_reason_names_it(self):
        table = drawn().table
        found = evaluate(
            make_predictions(table[table["grade"] < 4], "no_pdr.csv", {}),
            checklist_of({"id": "accuracy", "above": 0.1}),
        )
        for name in ("positive_likelihood_ratio", "negative_likelihood_ratio", "youden"):
            assert found.metrics[MetricId(name, "pdr")] == NotEstimable("the test set has no image with PDR.")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ({"id": "positive_likelihood_ratio:pdr", "at_most": 10.0}, "give at_least or above"),
            ({"id": "negative_likelihood_ratio:pdr", "at_least": 0.1}, "give at_most or below"),
            ({"id": "positive_likelihood_ratio:pdr", "at_least": 0.0}, "give a positive number"),
            ({"id": "youden:pdr", "at_least": 1.5}, "not a fraction"),
            ({"id": "youden", "at_least": 0.5}, "needs one of"),
            ({"id": "youden:pdr^deployment", "at_least": 0.5}, "no value at the deployment mix"),
        ],
    )
    def test_what_no_model_could_be_judged_by_is_refused(self, line: dict[str, Any], message: str):
        with pytest.raises(ChecklistError, match=message):
            checklist_of(line)

    def test_a_ratio_may_exceed_one(self):
        """A positive likelihood ratio of 10 is a usual threshold."""
        line = checklist_of({"id": "positive_likelihood_ratio:pdr", "at_least": 10.0}).criteria[0]
        assert line.threshold == 10

    def test_the_shipped_checklists_do_not_ask_for_them(self):
        """They are shown for every checklist, and asked for by those that name them."""
        asked = {c.id.metric for c in load_checklist("medical-grade-safe").criteria}
        assert not asked & {"positive_likelihood_ratio", "negative_likelihood_ratio", "youden"}
