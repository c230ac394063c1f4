"""Refusing hard images, or calling them ungradable, must not pay: verdicts through `evaluate`, and the law."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import beta, binom

from drgate.checklist import Checklist, load_checklist, parse_checklist
from drgate.checklist_diff import diff
from drgate.evaluate import evaluate, lines
from drgate.evaluation import CriterionResult, Estimate, Evaluation, Training, read_as
from drgate.measure import Metrics
from drgate.metrics import MetricId, measured, parse_id
from drgate.operating_point import OperatingPoint
from drgate.plan import plan
from drgate.predictions import PROBABILITIES, Predictions, make_predictions, planned, published
from drgate.report.evaluation import html, junit, markdown, terminal
from drgate.sample import Pair, Sample
from drgate.stats import cluster
from drgate.tune import lost

QUICK = {"bootstrap": {"resamples": 1000}}
EVEN = [(grade, grade, 400) for grade in range(5)]
"""No error: 400 images of each grade."""


def checklist_of(*criteria: dict[str, Any], **settings: Any) -> Checklist:
    return parse_checklist({"name": "mine", "version": 1, "criteria": list(criteria), **QUICK, **settings}, "mine.yaml")


def owners(name: str = "medical-grade", **settings: Any) -> Checklist:
    """A checklist that ships, with other settings, under a name of its own."""
    return parse_checklist(load_checklist(name).content() | QUICK | {"name": "copy"} | settings, "copy.yaml")


def table_of(*cells: tuple[int | None, int | None, int], **columns: Any) -> pd.DataFrame:
    """Images by reference grade, answer (None: no output) and number; one patient each."""
    rows = [(grade, answer) for grade, answer, count in cells for _ in range(count)]
    table = pd.DataFrame(rows, columns=["grade", "predicted"]).astype("Int8")
    numbers = range(len(table))
    return table.assign(image=[f"{i:05}.png" for i in numbers], patient=[f"P{i}" for i in numbers], **columns)


def predictions(table: pd.DataFrame) -> Predictions:
    return make_predictions(table, "t.csv", {})


def columns_of(shares: Any) -> dict[str, Any]:
    """(n, 5) probabilities as columns of a table."""
    return dict(zip(PROBABILITIES, shares.T, strict=True))


def run() -> Training:
    """A stable and cheap training run."""
    history = [{"epoch": e, "val_accuracy": min(0.5 + 0.08 * e, 0.95), "learning_rate": 1e-4} for e in range(1, 21)]
    spend = {"usd_per_hour": 1.0, "usd": 5.0, "earlier_usd": 0.0}
    plain = {"history": history, "selected_epoch": 12, "n_val": 500, "spend": spend, "status": "finished"}
    return read_as(Training, plain, "the run", expected="a record")


def judged(table: pd.DataFrame, checklist: Checklist) -> Evaluation:
    return evaluate(predictions(table), checklist, training=run())


def result(evaluation: Evaluation, name: str) -> CriterionResult:
    return next(criterion for criterion in evaluation.criteria if criterion.id == name)


def figure(evaluation: Evaluation, name: str) -> Estimate:
    found = result(evaluation, name).all_comers
    assert isinstance(found, Estimate)
    return found


LENIENT = 0.99
"""An allowance that asks nothing of all comers, as before there was one."""


class TestInformativeRefusal:
    """The images that a model gets wrong are those that it refuses."""

    PDR = (*EVEN[:4], (4, 4, 350), (4, 2, 7), (4, None, 43))
    """Of 400 patients 43 are refused, a wrong answer about ten times as often as a right one."""
    HARD = (*EVEN[:3], (3, 3, 240), (3, None, 160), (4, 4, 240), (4, None, 160))
    """Severe NPDR and PDR, of which 40 % are refused."""

    @pytest.mark.parametrize(("cells", "line"), [(PDR, "sensitivity:pdr"), (HARD, "sensitivity:severe_npdr")])
    def test_verdict_before_and_after(self, cells: Any, line: str):
        before = judged(table_of(*cells), owners(all_comers_allowance=LENIENT))
        after = judged(table_of(*cells), owners())
        assert (before.verdict, before.exit_code, result(before, line).status) == ("PASS", 0, "PASS")
        assert (after.verdict, after.exit_code, result(after, line).status) == ("FAIL", 1, "FAIL")

    def test_all_comers_are_the_worst_case(self):
        found = judged(table_of(*self.PDR), owners())
        assert (figure(found, "sensitivity:pdr").k, figure(found, "sensitivity:pdr").n) == (350, 400)
        assert result(found, "sensitivity:pdr").shown is False
        assert result(judged(table_of(*self.HARD), owners()), "sensitivity:pdr").shown is True

    def test_without_a_refusal_nothing_more_is_asked(self):
        """36 cases show 90 %, 72 show 95 %; an image of another grade without output changes nothing there."""
        cells = (*EVEN[:3], (3, 3, 36), (4, 4, 72))
        criteria = ({"id": "sensitivity:severe_npdr", "at_least": 0.9}, {"id": "sensitivity:pdr", "at_least": 0.95})
        for more in ((), ((0, None, 300),)):
            found = judged(table_of(*cells, *more), checklist_of(*criteria))
            assert [(one.status, one.all_comers) for one in found.criteria] == [("PASS", None)] * 2

    def test_the_sentence_states_both(self):
        found = judged(table_of(*EVEN[:3], EVEN[4], (3, 3, 181), (3, 1, 6), (3, None, 13)), owners())
        assert result(found, "sensitivity:severe_npdr").reason == (
            "181 of 187 with output (96.8 %); of all 200, 181 (90.5 %), lower limit 85.6 %; the lower limit with "
            "output is 93.1 %; the rule is at least 90.0 %, and at least 85.0 % of all."
        )

    def test_only_the_limit_too_far_is_too_little_evidence(self):
        found = judged(table_of(*EVEN[:3], EVEN[4], (3, 3, 181), (3, 1, 2), (3, None, 20)), owners())
        severe = result(found, "sensitivity:severe_npdr")
        assert (severe.status, severe.shown) == ("INSUFFICIENT", None)
        assert severe.reason.endswith("Of all, the lower limit is below 85.0 %.")

    def test_on_estimates_the_estimate_decides(self):
        """181 of 203 are 89.2 % and within the allowance, 180 of 212 are 84.9 % and not."""
        observed = owners("medical-grade-observed")
        for refused, status in ((20, "OBSERVED"), (29, "FAIL")):
            right = 181 if refused == 20 else 180
            found = judged(table_of(*EVEN[:3], EVEN[4], (3, 3, right), (3, 1, 3), (3, None, refused)), observed)
            assert result(found, "sensitivity:severe_npdr").status == status

    def test_at_most_is_mirrored(self):
        """2 % of all may be two grades too low, 7 % with no output as the worst case."""
        asked = checklist_of({"id": "undergraded:by_two", "at_most": 0.02})
        for refused, status in ((100, "PASS"), (140, "INSUFFICIENT"), (160, "FAIL")):
            (one,) = judged(table_of(*EVEN, (4, None, refused)), asked).criteria
            assert (one.status, one.comparator) == (status, "<=")

    @pytest.mark.parametrize(
        "criterion",
        [
            {"id": "quadratic_kappa", "at_least": 0.8},
            {"id": "youden:pdr", "at_least": 0.8},
            {"id": "positive_likelihood_ratio:pdr", "at_least": 2},
            {"id": "auc:pdr", "at_least": 0.8},
            {"id": "brier", "at_most": 0.5},
        ],
    )
    def test_an_index_limits_what_it_leaves_out(self, criterion: dict[str, Any]):
        """The upper limit of the share without output is at most 5 %: 90 of 2091 (5.3 %) are too many, 80 are not."""
        for refused, status in ((80, "PASS"), (90, "INSUFFICIENT"), (150, "FAIL")):
            table = table_of(*EVEN, (4, 3, 1), (0, 4, 1), (4, None, refused))
            answers = table["predicted"].to_numpy(dtype=float, na_value=np.nan)
            shares = np.where(np.arange(5) == answers[:, None], 0.8, 0.05)
            shares[np.isnan(answers)] = np.nan
            (one,) = judged(table.assign(**columns_of(shares)), checklist_of(criterion)).criteria
            assert one.status == status, one.reason

    def test_answers_without_probabilities_are_left_out_too(self):
        """Otherwise probabilities could be kept back where they rank badly, and the grade be given."""
        table = table_of(*EVEN)
        shares = np.where(np.arange(5) == table["predicted"].to_numpy(dtype=float)[:, None], 0.8, 0.05)
        shares[-300:] = np.nan
        (one,) = judged(
            table.assign(**columns_of(shares)),
            checklist_of({"id": "auc:pdr", "at_least": 0.8}),
        ).criteria
        assert one.status == "FAIL"
        assert "300 of 2000 without (15.0 %)" in one.reason

    def test_at_other_mixes_too(self):
        mix = {"no_dr": 0.6, "mild_npdr": 0.1, "moderate_npdr": 0.1, "severe_npdr": 0.1, "pdr": 0.1}
        asked = checklist_of(
            {"id": "balanced_accuracy", "at_least": 0.9},
            {"id": "accuracy", "at": "deployment", "at_least": 0.9},
            deployment=mix,
        )
        for refused, status in ((10, "PASS"), (160, "FAIL")):
            cells = [(grade, answer, n) for grade in range(5) for answer, n in ((grade, 400), (None, refused))]
            assert {one.status for one in judged(table_of(*cells), asked).criteria} == {status}

    def test_in_a_slice(self):
        """Only the refusals of the slice count there."""
        table = pd.concat(
            [
                table_of(*EVEN).assign(camera="A", patient=lambda t: "A" + t["patient"]),
                table_of(*EVEN, (4, None, 100)).assign(camera="B", image=lambda t: "b" + t["image"]),
            ]
        )
        asked = checklist_of({"id": "sensitivity:pdr@camera=each", "at_least": 0.9}, slices=[{"by": "camera"}])
        found = judged(table, asked)
        assert [one.status for one in found.criteria] == ["PASS", "FAIL"]

    def test_groups_as_referred_are_as_before(self):
        found = judged(table_of(*EVEN, (4, None, 100)), checklist_of({"id": "sensitivity:referable", "at_least": 0.9}))
        assert [(one.status, one.all_comers) for one in found.criteria] == [("PASS", None)]

    def test_the_allowance_is_exact(self):
        """.95 - .05 is .90: 90 of 100 observed meets it."""
        asked = checklist_of({"id": "sensitivity:pdr", "at_least": 0.95}, evidence={"decide_on": "point"})
        (one,) = judged(table_of(*EVEN[:4], (4, 4, 90), (4, None, 10)), asked).criteria
        assert one.status == "OBSERVED"


class TestHowOften:
    """Exact sums over right answers, wrong answers and refusals of n patients: independent of drgate's own code."""

    @staticmethod
    def passing(n: int, threshold: float, right: float, wrong: float) -> tuple[float, float]:
        """How often the answered figure alone passes, and how often both do."""
        alone = both = 0.0
        for refused in range(n + 1):
            k = np.arange(n - refused + 1)
            chance = binom.pmf(refused, n, 1 - right - wrong) * binom.pmf(k, n - refused, right / (right + wrong))
            limits = [np.where(k > 0, beta.ppf(0.025, np.maximum(k, 1), of - k + 1), 0.0) for of in (n - refused, n)]
            passes = limits[0] >= threshold
            alone += chance[passes].sum()
            both += chance[passes & (limits[1] >= threshold - 0.05 - 1e-12)].sum()
        return alone, both

    def test_power_with_two_percent_refused(self):
        """At 167 severe, true .96, refused at random: .79, and .79 for the line alone."""
        assert [round(chance, 2) for chance in self.passing(167, 0.9, 0.96 * 0.98, 0.04 * 0.98)] == [0.79, 0.79]

    @pytest.mark.parametrize(("true", "alone"), [(0.95, 0.917), (0.9333, 0.491)])
    def test_ten_percent_informative_refusal(self, true: float, alone: float):
        """PDR, 400 patients, 10 % refused, wrong answers ten times as often: at most .3 % pass.

        True .9333 is .875 of all comers.
        """
        refused = 0.1 / (true + 10 * (1 - true))
        found = self.passing(400, 0.95, true * (1 - refused), (1 - true) * (1 - 10 * refused))
        assert found[0] == pytest.approx(alone, abs=0.001)
        assert found[1] <= 0.003

    @pytest.mark.parametrize("true", [0.95, 0.97, 0.99])
    def test_all_comers_at_the_allowance(self, true: float):
        """Where all comers are just at threshold - allowance, at most 2.5 % pass, however the rest was refused."""
        for n in (100, 400):
            assert self.passing(n, 0.95, 0.9, 0.9 / true - 0.9)[1] <= 0.025

    def test_drgate_decides_so(self):
        """Around the limits, criterion by criterion."""
        asked = checklist_of({"id": "sensitivity:severe_npdr", "at_least": 0.9})
        outcomes = set()
        for right, wrong in ((158, 5), (157, 6), (157, 2), (152, 0), (151, 0), (150, 0), (149, 0), (148, 0)):
            refused = 167 - right - wrong
            limits = [beta.ppf(0.025, right, of - right + 1) for of in (right + wrong, 167)]
            passes = limits[0] >= 0.9 and (limits[1] >= 0.85 or not refused)
            (one,) = lines(predictions(table_of((0, 0, 50), (3, 3, right), (3, 1, wrong), (3, None, refused))), asked)
            assert (one.status == "PASS") == passes, one.reason
            outcomes.add(one.status)
        assert outcomes == {"PASS", "INSUFFICIENT"}


class TestTheLaw:
    """A wrong answer turned into none never improves a figure of all comers."""

    NAMES = tuple(name for name in measured() if name.about.is_share and name.about.policies)

    @settings(max_examples=40)
    @given(data=st.data())
    def test_never_improves(self, data: st.DataObject):
        n = data.draw(st.integers(2, 40))
        draws = data.draw(st.lists(st.tuples(*[st.integers(0, 4)] * 2, st.integers(0, n // 2)), min_size=n, max_size=n))
        table = pd.DataFrame(draws, columns=["grade", "predicted", "patient"]).astype({"predicted": "Int8"})
        table = table.assign(image=[f"{i:03}" for i in range(n)], patient=table["patient"].astype(str))
        wrong = table.index[table["grade"] != table["predicted"]]
        if wrong.empty:
            return
        silent = table.copy()
        silent.loc[data.draw(st.sampled_from(list(wrong))), "predicted"] = pd.NA
        asked = checklist_of({"id": "accuracy", "at_least": 0.9})
        samples = [Sample.of(predictions(one), asked) for one in (table, silent)]
        for name in self.NAMES:
            ratio = name.about.ratio(name.target, "worst_case")
            before, after = (sample.tally_of(name).effective(ratio, 0.95) for sample in samples)  # type: ignore[union-attr]
            if before is None or after is None:
                continue
            change = Fraction(after.k, after.n) - Fraction(before.k, before.n)
            assert (change >= 0) if ratio.adverse else (change <= 0), name
            was, now = (cluster.bounds(one, level=0.95, interval="clopper-pearson") for one in (before, after))
            if after.n == before.n:  # else it was right for a predictive value, which then has fewer images
                assert (now.high >= was.high - 1e-12) if ratio.adverse else (now.low <= was.low + 1e-12), name
        kappa = MetricId("kappa")
        shares = [sample.left_out(kappa) for sample in samples]
        assert [0 if one is None else int(one.table[:, 5].sum()) for one in shares] == [0, 1]


class TestUngradableByDecree:
    """A row with a grade is judged, whatever `gradable` says; only rows without one are ungradable."""

    CELLS = (*EVEN[:4], (4, 4, 320), (4, 1, 80))
    HARD = slice(-80, None)

    def marked(self, *, graded: bool) -> pd.DataFrame:
        """The 80 errors marked as not gradable; without their grades, if so."""
        table = table_of(*self.CELLS)
        table["gradable"] = True
        rows = table.index[self.HARD]
        table.loc[rows, "gradable"] = False
        if not graded:
            table.loc[rows, "grade"] = pd.NA
        return table

    def test_the_mark_changes_no_verdict(self):
        """Before, this was a clean pass."""
        plain, marked = judged(table_of(*self.CELLS), owners()), judged(self.marked(graded=True), owners())
        assert (plain.verdict, marked.verdict, marked.exit_code) == ("FAIL", "FAIL", 1)
        assert marked.confusion_matrix == plain.confusion_matrix
        assert [one.status for one in marked.criteria] == [one.status for one in plain.criteria]
        assert len(marked.flagged) == len(plain.flagged) == 80
        assert marked.counts.reference_ungradable == 0
        assert "80 images are marked not gradable but have a grade, and were judged." in marked.page_one
        assert not any("not gradable" in sentence for sentence in plain.page_one)

    def test_removed_grades_are_limited(self):
        """80 of 2000 are within 10 %, 300 of 2000 are not."""
        found = judged(self.marked(graded=False), owners("medical-grade-safe"))
        share = result(found, "reference_ungradable")
        assert isinstance(share.estimate, Estimate)
        assert (share.status, share.estimate.k, share.estimate.n) == ("PASS", 80, 2000)
        assert "80 of 2000 images (4.0 %, upper limit 5.0 %) have no reference grade and are in no other figure." in (
            found.page_one
        )
        many = table_of(*EVEN, (None, 0, 300)).assign(gradable=lambda t: t["grade"].notna())
        assert judged(many, owners("medical-grade-safe")).verdict == "FAIL"
        lenient = judged(many, owners())
        assert (lenient.verdict, [one.id for one in lenient.warnings]) == ("PASS", ["reference_ungradable"])

    @pytest.mark.parametrize("unit", ["image", "patient"])
    def test_the_share_is_of_images_with_patients(self, unit: str):
        """100 patients with two images, both of 10 of them without a grade: 20 of 200, by whatever unit."""
        table = table_of(*[(grade, grade, 40) for grade in range(5)])
        table["patient"] = [str(i // 2) for i in range(200)]
        table["grade"] = table["grade"].where(table["patient"].astype(int) % 10 != 0)
        table["gradable"] = table["grade"].notna()
        found = judged(table, checklist_of({"id": "reference_ungradable", "at_most": 0.5}, unit=unit))
        share = found.criteria[0].estimate
        assert isinstance(share, Estimate)
        assert (share.k, share.n, share.clusters) == (20, 200, 100)
        assert share.design_effect == pytest.approx(2, abs=0.05)
        assert found.counts.units == (180 if unit == "image" else 90)

    def test_a_slice_without_grades_is_not_forgotten(self):
        table = table_of(*EVEN, (None, 0, 30)).assign(gradable=lambda t: t["grade"].notna())
        table["camera"] = np.where(table["gradable"], "A", "B")
        asked = checklist_of(
            {"id": "accuracy@camera=each", "at_least": 0.9},
            {"id": "reference_ungradable@camera=B", "at_most": 0.1},
            slices=[{"by": "camera"}],
        )
        found = judged(table, asked)
        assert [one.status for one in found.criteria] == ["PASS", "NOT_ASSESSED", "FAIL"]
        assert found.verdict == "FAIL"

    def test_other_readers_judge_them_too(self):
        """Comparing, planning and the warning of tuning."""
        table = self.marked(graded=True)
        shares = np.where(np.arange(5) == table["predicted"].to_numpy(dtype=float)[:, None], 0.8, 0.05)
        marked = predictions(table.assign(**columns_of(shares)))
        assert len(Pair.of(marked, marked).first) == 2000
        assert len(Sample.of(planned(marked.table, "t.csv"), owners())) == 2000
        only = predictions(marked.table.assign(gradable=False))
        point = OperatingPoint("probabilities", (0.01, 0.01, 0.01, 0.9), {}, "", (), "", "", (), {})
        assert lost(only, point) == lost(predictions(marked.table.assign(gradable=True)), point) != []

    def test_what_is_published_says_the_same(self):
        """The evaluation recomputed from the published table is the same, but for what names rows."""
        for table in (self.marked(graded=True), self.marked(graded=False)):
            asked = owners()
            given = predictions(table)
            ours, theirs = (evaluate(one, asked, training=run()) for one in (given, published(given, asked)))
            assert (ours.page_one, ours.counts) == (theirs.page_one, theirs.counts)
            assert [(one.id, one.status, one.reason) for one in ours.criteria] == [
                (one.id, one.status, one.reason) for one in theirs.criteria
            ]

    def test_plan_says_so_before(self):
        """Which images have a grade is known before any answer."""
        table = table_of(*EVEN, (None, 0, 300)).assign(gradable=lambda t: t["grade"].notna())
        found = plan(owners("medical-grade-safe"), data=planned(table, "t.csv"))
        assert found.never == ("reference_ungradable",)
        (line,) = (line for line in found.lines if line.id == "reference_ungradable")
        assert line.here is not None
        assert line.here.why == "300 of 2300 images have no reference grade: the upper limit is 14.5 %"
        assert line.needed is not None

    def test_a_checklist_without_the_limit_is_weaker(self):
        changes = diff(load_checklist("medical-grade-safe"), load_checklist("medical-grade"))
        assert ("weaker", "reference_ungradable") in {(change.kind, change.where) for change in changes}


@pytest.fixture(scope="module")
def found() -> Evaluation:
    """With images without output, and without a grade."""
    cells = (*EVEN[:3], (3, 3, 181), (3, 1, 6), (3, None, 13), (4, 4, 380), (4, 3, 15), (4, None, 5), (None, 0, 7))
    return judged(table_of(*cells).assign(gradable=lambda t: t["grade"].notna()), owners())


class TestScreened:
    """Intention to screen: each sensitivity over all with a grade, no output once as missed and once as referred."""

    @pytest.mark.parametrize(
        ("target", "n", "silent", "missed", "referred"),
        [
            ("severe_npdr", 200, 13, 181, 194),
            ("pdr", 400, 5, 380, 385),
            ("vision_threatening", 600, 18, 576, 594),
            ("no_dr", 400, 0, 400, 400),
        ],
    )
    def test_counts_and_intervals(
        self, found: Evaluation, target: str, n: int, silent: int, missed: int, referred: int
    ):
        one = found.screened[parse_id(f"sensitivity:{target}")]
        assert (one.n, one.no_output) == (n, silent)
        for metric, k in ((one.missed, missed), (one.referred, referred)):
            assert isinstance(metric, Estimate)
            assert (metric.k, metric.n) == (k, n)
            assert metric.low == pytest.approx(beta.ppf(0.025, k, n - k + 1), abs=1e-12)

    def test_every_form_shows_them(self, found: Evaluation):
        text = markdown.render(found)
        assert "13 of 200" in text
        assert "97.0 % (194 of 200; 93.6 to 98.9 %)" in text.replace("\N{NO-BREAK SPACE}", " ")
        assert "7 images without a reference grade can be in none of them." in text
        assert "Sensitivity of all who come" in html.render(found)
        assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))) == found

    def test_nothing_where_all_have_a_grade_and_output(self):
        assert judged(table_of(*EVEN), owners()).screened == {}

    def test_a_single_grade_as_referred_is_no_criterion(self):
        with pytest.raises(Exception, match="as_referred is defined for the groups"):
            checklist_of({"id": "sensitivity:pdr", "at_least": 0.9, "no_output": "as_referred"})


class TestShown:
    """Both figures stand in the criterion's row."""

    def test_in_each_form(self):
        found = judged(table_of(*EVEN[:3], EVEN[4], (3, 3, 181), (3, 1, 6), (3, None, 13)), owners())
        console = Console(width=140, record=True, file=io.StringIO())
        terminal.render(found, console)
        forms = [markdown.render(found), html.render(found), junit.render(found), console.export_text()]
        for form in forms:
            assert "of all 200: 181 (90.5 %), lower limit 85.6 %" in form.replace("\N{NO-BREAK SPACE}", " ")

    def test_metrics_know_what_was_left_out(self):
        """An index: images; a proportion: itself."""
        asked = checklist_of({"id": "quadratic_kappa", "at_least": 0.8}, {"id": "ppv:severe_npdr", "at_least": 0.8})
        sample = Sample.of(predictions(table_of(*EVEN, (3, None, 13))), asked)
        metrics = Metrics(sample, asked, 0.95, 1)
        kappa, ppv = (metrics.all_comers(one, metrics.estimate(one.id, "excluded")) for one in asked.criteria)
        assert isinstance(kappa, Estimate)
        assert (kappa.k, kappa.n) == (13, 2013)
        assert ppv is None  # a severe image without output is in no predictive value for severe NPDR
