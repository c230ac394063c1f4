"""What a test set says of other prevalences, the deployment mix and new sites: shown, recomputed, never decided."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from scipy.stats import binomtest

from drgate.checklist import Checklist, parse_checklist
from drgate.checklist_diff import diff
from drgate.elsewhere import by_prevalence, net_benefit
from drgate.errors import PredictionsError
from drgate.evaluate import evaluate, require_evaluable
from drgate.evaluation import Estimate, Evaluation, NetBenefit, NotEstimable, Predictive, Spread, TestSet
from drgate.measure import Metrics
from drgate.metrics import MetricId
from drgate.predictions import Predictions, make_predictions, published
from drgate.report.evaluation import markdown
from drgate.sample import Sample
from drgate.stats.proportion import exact_bounds

MIX = {"no_dr": 0.75, "mild_npdr": 0.10, "moderate_npdr": 0.10, "severe_npdr": 0.03, "pdr": 0.02}
HITS, SIZES = (45, 60, 88, 50, 70, 20), (50, 80, 90, 75, 72, 21)
NAMES = ("Aarhus", "Bergen", "Lund", "Oslo", "Tromsø", "")


def checklist(**more: Any) -> Checklist:
    content = {"name": "mine", "version": 1, "bootstrap": {"resamples": 1000}}
    return parse_checklist(content | {"criteria": [{"id": "accuracy", "at_least": 0.5}]} | more, "mine.yaml")


def table_of(rows: list[dict[str, Any]]) -> Predictions:
    """One image a patient."""
    frame = pd.DataFrame(rows).astype({"predicted": "Int64"})
    names = {"image": [f"{i:05d}.png" for i in range(len(frame))], "patient": [f"P{i}" for i in range(len(frame))]}
    return make_predictions(frame.assign(**names), "table.csv", {})


def two_by_two(hits: int, missed: int, cleared: int, false: int, *, refused: int = 0) -> Predictions:
    """Referable (moderate NPDR) against no DR; refused: no DR without output."""
    kinds = {(2, 2): hits, (2, 0): missed, (0, 0): cleared, (0, 2): false, (0, None): refused}
    return table_of([{"grade": g, "predicted": p} for (g, p), many in kinds.items() for _ in range(many)])


def of_sites(sites: int = 6) -> Predictions:
    """Moderate NPDR, found as the sites of R's example find it, and as many eyes without DR, all cleared."""
    rows = []
    for site, hits, size in zip(NAMES[-sites:], HITS[-sites:], SIZES[-sites:], strict=True):
        rows += [{"grade": 2, "predicted": 2 if i < hits else 0, "site": site or None} for i in range(size)]
        rows += [{"grade": 0, "predicted": 0, "site": site or None}] * 30
    return table_of(rows)


def at(found: Evaluation, share: float) -> Predictive:
    return next(point for point in found.by_prevalence["referable"] if point.prevalence == pytest.approx(share))


class TestByPrevalence:
    def test_at_the_test_sets_own_prevalence_they_are_its_own(self):
        """With images that have no output, which count as referred."""
        found = evaluate(two_by_two(90, 10, 160, 30, refused=10), checklist())
        own = next(point for point in found.by_prevalence["referable"] if point.of == "test set")
        for name, metric in (("ppv", own.ppv), ("npv", own.npv)):
            counted = found.metrics[MetricId(name, "referable")]
            assert isinstance(metric, Estimate)
            assert isinstance(counted, Estimate)
            assert metric.value == pytest.approx(counted.value)

    def test_limits_are_those_of_the_ratio(self):
        """At 5 %, 90 of 100 found and 160 of 200 cleared: by R's limits of the ratios (test_r_oracles)."""
        point = at(evaluate(two_by_two(90, 10, 160, 40), checklist()), 0.05)
        odds = 0.05 / 0.95
        assert isinstance(point.ppv, Estimate)
        assert isinstance(point.npv, Estimate)
        ppv = [odds * ratio / (1 + odds * ratio) for ratio in (4.5, 3.384135034, 6.156836545)]
        npv = [1 / (1 + odds * ratio) for ratio in (0.125, 0.221550081, 0.06107909339)]
        assert (point.ppv.value, point.ppv.low, point.ppv.high) == pytest.approx(ppv, abs=1e-6)
        assert (point.npv.value, point.npv.low, point.npv.high) == pytest.approx(npv, abs=1e-6)

    def test_without_a_ratio_both_rates_stand_at_half_the_error(self):
        """No false positive: PPV from the lower limits at 98.75 % each; its upper limit is 1."""
        point = at(evaluate(two_by_two(90, 10, 200, 0), checklist()), 0.05)
        sensitivity, specificity = exact_bounds(90, 100, level=0.975).low, exact_bounds(200, 200, level=0.975).low
        assert isinstance(point.ppv, Estimate)
        low = 0.05 * sensitivity / (0.05 * sensitivity + 0.95 * (1 - specificity))
        assert (point.ppv.value, point.ppv.low, point.ppv.high) == pytest.approx((1.0, low, 1.0))

    def test_nobody_predicted_positive(self):
        """PPV is not defined; NPV is."""
        point = at(evaluate(two_by_two(0, 10, 20, 0), checklist()), 0.05)
        assert point.ppv == NotEstimable("no image was predicted as Referable DR.")
        assert isinstance(point.npv, Estimate)
        assert point.npv.value == pytest.approx(0.95)

    def test_rates_without_limits_give_none(self):
        """What has no interval in the test set has none elsewhere."""
        judged = checklist(deployment=MIX)
        metrics = Metrics(Sample.of(two_by_two(90, 10, 160, 40), judged), judged, 0.95, 1)
        bare = {
            name: replace(found, low=None, high=None) if isinstance(found, Estimate) else found
            for name, found in metrics.all().items()
        }
        for point in by_prevalence(metrics, bare)["referable"]:
            assert isinstance(point.ppv, Estimate)
            assert (point.ppv.low, point.ppv.level) == (None, None)

    def test_the_mix_of_the_checklist_is_a_point(self):
        """15 % referable: once, as the deployment mix; not where the mix does not know of macular oedema."""
        table = two_by_two(90, 10, 160, 40)
        found = evaluate(table, checklist(deployment=MIX))
        assert [p.of for p in found.by_prevalence["referable"] if p.prevalence == pytest.approx(0.15)] == [
            "deployment mix"
        ]
        oedema = make_predictions(table.table.assign(dme=0), "t.csv", {})
        blind = evaluate(oedema, checklist(deployment=MIX)).by_prevalence
        assert {p.of for p in blind["referable"]} == {None, "test set"}
        assert "deployment mix" in {p.of for p in blind["any_dr"]}


class TestNetBenefit:
    ROWS = table_of(
        [
            {"grade": grade, "predicted": predicted}
            for grade, predictions in enumerate(
                ([0] * 8 + [2] * 2, [1] * 9 + [2], [2] * 8 + [0] * 2, [3] * 9 + [1], [4] * 10)
            )
            for predicted in predictions
        ]
    )

    def test_is_that_of_people_drawn_at_the_mix(self):
        """Counted person by person, with the weight of each one's grade: Vickers & Elkin's formula on the counts."""
        found = evaluate(self.ROWS, checklist(deployment=MIX)).net_benefit
        assert isinstance(found, NetBenefit)
        assert found.prevalence == pytest.approx(0.15)
        table = self.ROWS.table
        weight = table["grade"].map(dict(enumerate(MIX.values()))).astype(float) / 10
        referred, sick = table["predicted"] >= 2, table["grade"] >= 2
        for point in found.at:
            odds = point.threshold / (1 - point.threshold)
            assert isinstance(point.model, Estimate)
            by_hand = weight[referred & sick].sum() - weight[referred & ~sick].sum() * odds
            assert point.model.value == pytest.approx(by_hand)
            assert point.refer_all == pytest.approx(0.15 - 0.85 * odds)
            assert point.model.low is not None
            assert point.model.high is not None
            assert point.model.low < by_hand < point.model.high

    def test_needs_a_mix(self):
        """Without one there is none, and the report says how to give one."""
        found = evaluate(self.ROWS, checklist())
        assert found.net_benefit is None
        assert "With the key deployment in the checklist" in markdown.render(found)

    def test_says_why_there_is_none(self):
        judged = checklist(deployment=MIX)
        few = two_by_two(9, 1, 20, 0)
        found = evaluate(few, judged)
        assert isinstance(found.net_benefit, NotEstimable)
        assert found.net_benefit.reason in markdown.render(found).replace("\\", "")
        metrics = Metrics(Sample.of(few, judged), judged, 0.95, 1)
        assert net_benefit(metrics, metrics.all()) == found.net_benefit


class TestSites:
    JUDGED = checklist(site_column="site")

    def test_each_site_has_its_own_figures(self):
        """Exact intervals as SciPy's; images without a site are a site."""
        found = evaluate(of_sites(), self.JUDGED).sites
        assert found is not None
        assert {site.name for site in found.sites} == set(NAMES)
        for site in found.sites:
            hits, size = dict(zip(NAMES, zip(HITS, SIZES, strict=True), strict=True))[site.name]
            metric = site.metrics[MetricId("sensitivity", "referable")]
            exact = binomtest(hits, size).proportion_ci(0.95, "exact")
            assert isinstance(metric, Estimate)
            assert (metric.k, metric.n, site.units) == (hits, size, size + 30)
            assert (metric.low, metric.high) == pytest.approx((exact.low, exact.high))

    def test_together_they_are_rs(self):
        """The figures of metafor in test_r_oracles, through the whole evaluation."""
        found = evaluate(of_sites(), self.JUDGED).sites
        assert found is not None
        spread = found.spread[MetricId("sensitivity", "referable")]
        assert isinstance(spread, Spread)
        assert spread.sites == 6
        assert (spread.value, spread.new_low, spread.new_high, spread.tau2, spread.q) == pytest.approx(
            (0.8910303309, 0.3805571894, 1, 0.03540169597, 56.3942987), abs=1e-6
        )

    def test_four_sites_show_no_spread(self):
        """Per-site figures only, and the sentence."""
        found = evaluate(of_sites(4), self.JUDGED)
        assert found.sites is not None
        assert not any(isinstance(spread, Spread) for spread in found.sites.spread.values())
        assert "There are too few sites to show how much they differ" in markdown.render(found)

    def test_a_site_needs_cases_to_count(self):
        """Nobody has severe NPDR, so no site counts for it."""
        found = evaluate(of_sites(), self.JUDGED).sites
        assert found is not None
        spread = found.spread[MetricId("sensitivity", "severe_npdr")]
        assert isinstance(spread, NotEstimable)
        assert spread.reason.endswith("and no sites have.")

    def test_never_decide(self):
        """A checklist that names the sites gives the same verdicts."""
        with_sites, without = (evaluate(of_sites(), judged) for judged in (self.JUDGED, checklist()))
        assert with_sites.verdict == without.verdict
        assert [line.reason for line in with_sites.criteria] == [line.reason for line in without.criteria]

    def test_a_table_without_the_column_is_refused_before_a_look(self):
        with pytest.raises(PredictionsError, match="has no column 'site'"):
            require_evaluable(two_by_two(9, 1, 9, 1), self.JUDGED, TestSet("t.csv"))

    def test_groups_of_the_slices_name_the_sites(self):
        """One hospital under two spellings is one site in both."""
        grouped = checklist(site_column="site", slices=[{"by": "site", "groups": {"North": ["Bergen", "Tromsø"]}}])
        found = evaluate(of_sites(), grouped).sites
        assert found is not None
        assert {site.name for site in found.sites} == {"", "Aarhus", "Lund", "North", "Oslo"}

    def test_the_published_table_gives_the_same(self):
        """Round trip as JSON, and the same figures from the table that `verify` reads."""
        judged = checklist(site_column="site", deployment=MIX)
        table = of_sites()
        public = published(table, judged)
        assert "site" in public.table.columns
        found = evaluate(public, judged)
        assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))) == found
        assert found.sites == evaluate(table, judged).sites
        assert found.by_prevalence == evaluate(table, judged).by_prevalence

    def test_naming_the_sites_is_no_weaker_checklist(self):
        (change,) = [one for one in diff(checklist(), self.JUDGED) if one.where == "site_column"]
        assert (change.kind, change.decides) == ("different", False)
