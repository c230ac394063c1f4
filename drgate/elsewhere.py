"""What to expect elsewhere: at another prevalence, where the model is to work, at a new site. Shown, never decided.

by_prevalence(metrics, found)["referable"]      # PPV and NPV from 1 % to 50 %
net_benefit(metrics, found)                     # at the checklist's deployment mix
sites(predictions, metrics, data)               # site by site, and their spread
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from drgate.evaluation import (
    Benefit,
    Estimate,
    Metric,
    NetBenefit,
    NotEstimable,
    Predictive,
    Site,
    Sites,
    Spread,
    TestSet,
)
from drgate.measure import Metrics
from drgate.metrics import NAMES, MetricId
from drgate.predictions import Predictions
from drgate.sample import Sample
from drgate.scale import GRADES, GROUPS, WITH_OEDEMA
from drgate.stats import meta, prevalence
from drgate.stats.calibration import Undefined

PREVALENCES: Final = (0.01, 0.02, 0.03, 0.05, 0.07, 0.10, 0.15, 0.20, 0.25, 0.30, 0.40, 0.50)

THRESHOLDS: Final = (0.02, 0.03, 0.05, 0.07, 0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.45, 0.50)

SITE_METRICS: Final = (
    MetricId("sensitivity", "referable"),
    MetricId("specificity", "referable"),
    MetricId("sensitivity", "severe_npdr"),
    MetricId("sensitivity", "pdr"),
    MetricId("accuracy"),
)

FEWEST_CASES: Final = 20
"""Units that a site needs in the denominator of a metric to count for its spread."""


def by_prevalence(metrics: Metrics, found: Mapping[MetricId, Metric]) -> dict[str, tuple[Predictive, ...]]:
    """Predictive values of each group of grades over prevalence; none for a group without sensitivity or specificity.

    found: the metrics of the whole test set.
    """
    mix, shown = metrics.checklist.deployment, {}
    for group in GROUPS:
        pair = _Pair.of(found, group)
        if isinstance(pair, NotEstimable):
            continue
        # A mix of DR grades does not give the share with macular oedema.
        there = None if mix is None or (metrics.sample.dme is not None and group in WITH_OEDEMA) else _share(group, mix)
        points: list[tuple[float, Literal["test set", "deployment mix"] | None]] = [
            (pair.cases / (pair.cases + pair.others), "test set")
        ]
        if there is not None and 0 < there < 1:
            points.append((there, "deployment mix"))
        points += [(p, None) for p in PREVALENCES if not any(math.isclose(p, named) for named, _ in points)]
        points.sort(key=lambda point: point[0])
        shown[group] = tuple(
            Predictive(
                share,
                ppv=_predictive("ppv", group, share, pair, metrics, found),
                npv=_predictive("npv", group, share, pair, metrics, found),
                of=of,
            )
            for share, of in points
        )
    return shown


def net_benefit(metrics: Metrics, found: Mapping[MetricId, Metric]) -> NetBenefit | NotEstimable | None:
    """Net benefit of referring by the model at the deployment mix; None without one.

    found: the metrics of the whole test set, those at the deployment mix among them.
    """
    mix = metrics.checklist.deployment
    if mix is None:
        return None
    pair = _Pair.of(found, "referable", deployed=True)
    if isinstance(pair, NotEstimable):
        return pair
    share = _share("referable", mix)
    points = []
    for threshold in THRESHOLDS:
        model = Estimate("index", prevalence.net_benefit(share, *pair.values, threshold))
        if pair.limits is not None:
            low, high = (prevalence.net_benefit(share, *both, threshold) for both in pair.limits)
            method = f"{metrics.checklist.evidence.interval}, both rates at their limits"
            model = dataclasses.replace(model, low=low, high=high, level=metrics.level, method=method)
        points.append(Benefit(threshold, model, prevalence.net_benefit(share, 1.0, 0.0, threshold)))
    return NetBenefit(share, tuple(points))


def sites(predictions: Predictions, metrics: Metrics, data: TestSet) -> Sites | None:
    """Figures by site, and from `meta.FEWEST_SITES` on their spread; None where the checklist names no column of sites.

    Images without a site are a site of their own, named "": left out, a site could be hidden by leaving its name out.

    Raises PredictionsError as `Sample.by_site`.
    """
    sample, column = Sample.by_site(predictions, metrics.checklist, data), metrics.checklist.site_column
    if sample is None or column is None:
        return None
    here = Metrics(sample, metrics.checklist, metrics.level, metrics.seed)
    shown = []
    for name in (*([""] if (sample.slices[column] < 0).any() else []), *sample.slice_names[column]):
        tally = sample.tally(column, name)
        assert tally is not None, "a site has a unit"
        by_grade = tuple(sample.by_reference(tally))
        figures = {
            metric: here.share(metric.but(column=column, value=name), metric.default_policy, metrics.level)
            for metric in SITE_METRICS
        }
        shown.append(Site(name, sum(by_grade), by_grade, figures))
    spread = {
        metric: NotEstimable(reason)
        if (reason := sample.lacks(metric))
        else _spread([site.metrics[metric] for site in shown], here)
        for metric in SITE_METRICS
    }
    return Sites(column, FEWEST_CASES, tuple(shown), spread)


@dataclasses.dataclass(frozen=True, slots=True)
class _Pair:
    """Sensitivity and specificity of a group of grades."""

    sensitivity: Estimate
    specificity: Estimate

    @classmethod
    def of(cls, found: Mapping[MetricId, Metric], group: str, *, deployed: bool = False) -> _Pair | NotEstimable:
        """The first that is not estimable, where one is not."""
        one, two = (found[name.but(deployed=deployed)] for name in _rates(group))
        return one if isinstance(one, NotEstimable) else two if isinstance(two, NotEstimable) else cls(one, two)

    @property
    def cases(self) -> int:
        return self.sensitivity.n or 0

    @property
    def others(self) -> int:
        return self.specificity.n or 0

    @property
    def values(self) -> tuple[float, float]:
        return self.sensitivity.value, self.specificity.value

    @property
    def limits(self) -> tuple[tuple[float, float], tuple[float, float]] | None:
        """Both lower limits and both upper ones; None where there are none."""
        one, two = self.sensitivity, self.specificity
        if one.low is None or one.high is None or two.low is None or two.high is None:
            return None
        return (one.low, two.low), (one.high, two.high)


def _rates(group: str) -> tuple[MetricId, MetricId]:
    return MetricId("sensitivity", group), MetricId("specificity", group)


def _share(group: str, mix: Mapping[str, float]) -> float:
    """Prevalence of a group in a mix of grades."""
    return sum(mix[GRADES[grade]] for grade in GROUPS[group])


def _predictive(
    name: str, group: str, share: float, pair: _Pair, metrics: Metrics, found: Mapping[MetricId, Metric]
) -> Metric:
    """PPV or NPV at one prevalence, with limits where the rates have some."""
    at = prevalence.ppv if name == "ppv" else prevalence.npv
    value = at(share, *pair.values)
    if value is None:
        who = NAMES[group] if name == "ppv" else f"other than {NAMES[group]}"
        return NotEstimable(f"no {metrics.sample.unit} was predicted as {who}.")
    if pair.limits is None:
        return Estimate("proportion", value)
    ratio = found[MetricId("positive_likelihood_ratio" if name == "ppv" else "negative_likelihood_ratio", group)]
    if isinstance(ratio, Estimate) and ratio.low is not None and ratio.high is not None:
        of_ratio = prevalence.ppv_of_ratio if name == "ppv" else prevalence.npv_of_ratio
        low, high = sorted((of_ratio(share, ratio.low), of_ratio(share, ratio.high)))
        method = f"{ratio.method}, of the likelihood ratio"
    else:
        stricter = prevalence.half_the_error(metrics.level)
        again = {rate: metrics.share(rate, rate.default_policy, stricter) for rate in _rates(group)}
        wide = _Pair.of(again, group)
        assert isinstance(wide, _Pair), "the rates are estimable"
        assert wide.limits is not None, "they have limits at the metrics' own level"
        low, high = (value if end is None else end for end in (at(share, *both) for both in wide.limits))
        method = f"{metrics.checklist.evidence.interval}, both rates at half the error"
    return Estimate("proportion", value, low=low, high=high, level=metrics.level, method=method)


def _spread(found: Sequence[Metric], metrics: Metrics) -> Spread | NotEstimable:
    """The sites with enough cases together, by random effects."""
    counted = [one for one in found if isinstance(one, Estimate) and (one.n or 0) >= FEWEST_CASES]
    if len(counted) < meta.FEWEST_SITES:
        have = "1 site has" if len(counted) == 1 else f"{len(counted) or 'no'} sites have"
        return NotEstimable(
            f"it needs {meta.FEWEST_SITES} sites with at least {FEWEST_CASES} {metrics.sample.unit}s each, and {have}."
        )
    if any(one.low is None for one in counted):
        return NotEstimable("it needs the patients, without whom a site's figure has no interval.")
    # As many independent images as give the site's figure its variance.
    worth = [(one.n or 0) / (one.design_effect or 1.0) for one in counted]
    hits = [one.value * n for one, n in zip(counted, worth, strict=True)]
    pooled = meta.random_effects(*meta.arcsines(hits, worth), level=metrics.level)
    if isinstance(pooled, Undefined):
        return NotEstimable(f"{pooled.reason}.")
    ends = {name: meta.proportion(getattr(pooled, name)) for name in ("value", "low", "high", "new_low", "new_high")}
    return Spread(**(dataclasses.asdict(pooled) | ends), level=metrics.level)
