"""The figures of the page, as plain plotly descriptions of data and layout; drawn by the page itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from drgate.evaluation import (
    Bin,
    CriterionResult,
    Estimate,
    Evaluation,
    Metric,
    NetBenefit,
    Predictive,
    Spread,
    Status,
)
from drgate.metrics import MetricId
from drgate.report import kit
from drgate.report.evaluation.sections import endpoints, site_name
from drgate.report.kit import Figure
from drgate.report.words import BARRED, OUTCOMES, percent, title, visible
from drgate.scale import GROUP_TITLES

_ROW: Final = 36
SLICES_DRAWN: Final = 40
"""Slices of one figure; the tables have all of them."""
_TINT: Final = "#dbe7f4"
_WITHOUT_LEGEND: Final = {"l": 8, "r": 16, "t": 12, "b": 56}


def figures(evaluation: Evaluation) -> list[Figure]:
    """Those that the data allow: criteria against thresholds, one metric by slice, reliability, validation accuracy."""
    drawn = [_forest(evaluation), _slices(evaluation), *_sites(evaluation), _net_benefit(evaluation)]
    drawn += [_prevalence(group, evaluation.by_prevalence[group]) for group in endpoints(evaluation)]
    drawn += [_reliability(endpoint, bins) for endpoint, bins in evaluation.reliability.items()]
    drawn.append(_curve(evaluation))
    return [figure for figure in drawn if figure is not None]


def _forest(evaluation: Evaluation) -> Figure | None:
    proportions = [
        c for c in evaluation.criteria if isinstance(c.estimate, Estimate) and c.estimate.kind == "proportion"
    ]
    panels = [
        [c for c in proportions if c.comparator in (">=", ">")],
        [c for c in proportions if c.comparator in ("<=", "<")],
    ]
    panels = [panel for panel in panels if panel]
    if not panels:
        return None
    gap = 66 if len(panels) > 1 else 0
    body = _ROW * len(proportions) + gap
    data: list[dict[str, Any]] = []
    layout = kit.layout(body + 96)
    top = 1.0
    named: set[str] = set()
    observed = evaluation.observed_only
    met, part = ("met (Observed)", "its estimate") if observed else ("passed", "its whole interval")
    for number, panel in enumerate(panels, 1):
        suffix = "" if number == 1 else str(number)
        bottom = max(0.0, top - _ROW * len(panel) / body)
        higher = panel[0].comparator in (">=", ">")
        layout[f"xaxis{suffix}"] = kit.axis(
            f"{'meets the rule' if observed else 'pass'}: {'right' if higher else 'left'} of the threshold",
            range=_scope(panel, higher=higher),
            anchor=f"y{suffix}",
            ticksuffix=" %",
        )
        rows = [kit.wrapped(title(c.id), 3) for c in panel]
        layout[f"yaxis{suffix}"] = _rows(rows, domain=[bottom, top], anchor=f"x{suffix}")
        axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
        data += _estimates(panel, axes, named)
        data.append(_thresholds([(y, c.threshold) for y, c in enumerate(panel)]) | axes | {"showlegend": number == 1})
        top = bottom - gap / body
    return Figure(
        "figure-criteria",
        "Estimates with their intervals against the thresholds; the checklist above has the same numbers.",
        f"Estimate (mark) and interval (bar) of every criterion that is a proportion. A criterion is {met} if "
        f"{part} is on the named side of the threshold (black).",
        data,
        layout,
    )


def _estimates(panel: list[CriterionResult], axes: dict[str, Any], named: set[str]) -> list[dict[str, Any]]:
    """One trace an outcome, each named once in the legend; what only the test set keeps from passing has its own."""
    kinds: list[tuple[Status, bool]] = [(status, False) for status in kit.COLOURS] + [("INSUFFICIENT", True)]
    traces = []
    for rank, (status, barred) in enumerate(kinds):
        rows = [(y, c.estimate) for y, c in enumerate(panel) if (c.status, c.would_pass) == (status, barred)]
        found = [(y, e) for y, e in rows if isinstance(e, Estimate)]
        if not found:
            continue
        name = BARRED if barred else OUTCOMES[status]
        legend = {"name": name, "legendgroup": name, "legendrank": rank, "showlegend": name not in named}
        shape = "diamond-open" if barred else kit.SHAPES[status]
        traces.append(_across(found, kit.COLOURS[status], shape) | axes | legend)
        named.add(name)
    return traces


def _across(rows: Sequence[tuple[int, Estimate]], colour: str, symbol: str = "circle") -> dict[str, Any]:
    """Proportions (y, estimate) along the x axis, with their intervals."""
    return kit.points(
        [100 * e.value for _, e in rows],
        [y for y, _ in rows],
        colour,
        symbol=symbol,
        error_x=kit.whiskers(((e.value, e.low, e.high) for _, e in rows), colour),
        text=["" if e.k is None else f"{e.k} of {e.n}: " for _, e in rows],
        hovertemplate="%{text}%{x:.2f} %<extra></extra>",
    )


def _thresholds(rows: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """A black stroke for each row (y, threshold)."""
    return kit.thresholds([100 * threshold for _, threshold in rows], [y for y, _ in rows], along="x", suffix=" %")


def _rows(labels: Sequence[str], **more: Any) -> dict[str, Any]:
    """The y axis of a figure with one row for each label, from the top."""
    ticks: dict[str, Any] = {"tickvals": list(range(len(labels))), "ticktext": labels, "tickfont": {"size": 12}}
    return kit.axis(range=[len(labels) - 0.5, -0.5], showgrid=False, **ticks, **more)


def _scope(panel: list[CriterionResult], *, higher: bool) -> list[float]:
    """From what the panel needs to see, with room for the marks; never beyond 0 and 100 by more than that."""
    seen = [100 * c.threshold for c in panel]
    for criterion in panel:
        if isinstance(criterion.estimate, Estimate):
            estimate = criterion.estimate
            seen += [100 * v for v in (estimate.value, estimate.low, estimate.high) if v is not None]
    return _with_room(*((min(seen), 100.0) if higher else (0.0, max(seen))))


def _with_room(low: float, high: float) -> list[float]:
    room = 0.04 * max(high - low, 1.0)
    return [low - room, high + room]


def _slices(evaluation: Evaluation) -> Figure | None:
    """The metric of the first criterion on a slice, else sensitivity for referable DR, slice by slice."""
    sliced = (c.id.whole for c in evaluation.criteria if c.id.column)
    metric = next(sliced, MetricId("sensitivity", "referable"))
    slices = [(one.by, one.value) for one in evaluation.counts.slices]
    limits = {c.id: c.threshold for c in evaluation.criteria}
    found = [
        (f"{name.column}: {name.value}", estimate, limits.get(name))
        for name in (metric.but(column=column, value=value) for column, value in slices)
        if isinstance(estimate := evaluation.metrics.get(name), Estimate) and estimate.kind == "proportion"
    ]
    drawn = found[:SLICES_DRAWN]
    if not drawn:
        return None
    whole = evaluation.metrics.get(metric)
    estimates = [estimate for _, estimate, _ in drawn]
    thresholds = [(y, limit) for y, (_, _, limit) in enumerate(drawn) if limit is not None]
    seen = [100 * limit for _, limit in thresholds]
    low = min(*(100 * (e.value if e.low is None else e.low) for e in estimates), *seen, 100.0)
    high = max(*(100 * (e.value if e.high is None else e.high) for e in estimates), *seen, 0.0)
    layout = kit.layout(
        _ROW * len(drawn) + 72,
        xaxis=kit.axis(title(metric), range=_with_room(low, high), ticksuffix=" %"),
        yaxis=_rows([kit.wrapped(name, 2) for name, _, _ in drawn]),
        margin=_WITHOUT_LEGEND,
    )
    caption = f"{title(metric)} by slice (mark), with its interval (bar)."
    if isinstance(whole, Estimate):
        layout["shapes"] = [kit.dotted(x0=100 * whole.value, x1=100 * whole.value, y0=0, y1=1, yref="paper")]
        caption += f" Dotted: the whole test set, {percent(whole.value)}."
    if len(found) > len(drawn):
        caption += f" The first {len(drawn)} of {len(found)} slices."
    data = [_across(list(enumerate(estimates)), kit.BLUE) | {"showlegend": False}]
    if thresholds:
        data.append(_thresholds(thresholds) | {"showlegend": False})
        caption += " Black: the checklist's threshold."
    label = f"{title(metric)} by slice; the tables have the same numbers."
    return Figure("figure-slices", label, caption, data, layout)


def _sites(evaluation: Evaluation) -> Iterator[Figure]:
    """Sensitivity and specificity for referable DR: site by site, their mean and a new site."""
    found = evaluation.sites
    if found is None:
        return
    for number, rate in enumerate(("sensitivity", "specificity")):
        metric = MetricId(rate, "referable")
        measured = [(site_name(site), site.metrics.get(metric)) for site in found.sites]
        rows = [(name, one) for name, one in measured if isinstance(one, Estimate)]
        drawn, spread = rows[:SLICES_DRAWN], found.spread.get(metric)
        if not drawn:
            continue
        labels, traces = [name for name, _ in drawn], []
        ends = [100 * end for _, one in drawn for end in (one.value, one.low, one.high) if end is not None]
        traces.append(_across([(y, one) for y, (_, one) in enumerate(drawn)], kit.BLUE) | {"showlegend": False})
        caption = f"{title(metric)} by site (mark), with its interval (bar)."
        if len(rows) > len(drawn):
            caption += f" The first {len(drawn)} of {len(rows)} sites."
        if isinstance(spread, Spread):
            together = (
                ("Mean of the sites", "diamond", spread.low, spread.high),
                ("A new site", "line-ns", spread.new_low, spread.new_high),
            )
            for name, symbol, low, high in together:
                one = Estimate("proportion", spread.value, low=low, high=high)
                traces.append(_across([(len(labels), one)], kit.INK, symbol) | {"showlegend": False})
                labels.append(name)
                ends += [100 * low, 100 * high]
            caption += (
                f" Black: the mean of the {spread.sites} sites that count, and the interval for the true value at a "
                "new site."
            )
        layout = kit.layout(
            _ROW * len(labels) + 72,
            xaxis=kit.axis(title(metric), range=_with_room(min(ends), max(ends)), ticksuffix=" %"),
            yaxis=_rows([kit.wrapped(name, 2) for name in labels]),
            margin=_WITHOUT_LEGEND,
        )
        label = f"{title(metric)} by site; the tables have the same numbers."
        yield Figure(f"figure-sites-{number}", label, caption, traces, layout)


def _prevalence(group: str, points: Sequence[Predictive]) -> Figure | None:
    x = [100 * point.prevalence for point in points]
    data = _line("PPV", x, [point.ppv for point in points], kit.BLUE, _TINT, scale=100.0)
    data += _line("NPV", x, [point.npv for point in points], kit.INK, "#e3e6e9", dash="dash", scale=100.0)
    marked = [100 * point.prevalence for point in points if point.of == "test set"]
    layout = kit.layout(
        340,
        xaxis=kit.axis(f"prevalence of {GROUP_TITLES[group]}", range=[0, max(52.0, *x) + 1], ticksuffix=" %"),
        yaxis=kit.axis("predictive value", range=[-3, 103], ticksuffix=" %"),
        shapes=[kit.dotted(x0=at, x1=at, y0=0, y1=1, yref="paper", layer="below") for at in marked],
    )
    caption = (
        f"{GROUP_TITLES[group]}: positive (PPV) and negative predictive value (NPV) over prevalence, with their limits "
        "(shaded). Sensitivity and specificity are taken not to change. Dotted: this test set's prevalence."
    )
    label = f"Predictive values of {GROUP_TITLES[group]} over prevalence; the table has the same numbers."
    return Figure(f"figure-prevalence-{group}", label, caption, data, layout) if data else None


def _net_benefit(evaluation: Evaluation) -> Figure | None:
    found = evaluation.net_benefit
    if not isinstance(found, NetBenefit):
        return None
    x = [100 * at.threshold for at in found.at]
    everybody = [Estimate("index", at.refer_all) for at in found.at]
    data = _line("refer by the model", x, [at.model for at in found.at], kit.BLUE, _TINT)
    data += _line("refer all", x, everybody, kit.INK, dash="dash")
    data += _line("refer none", x, [Estimate("index", 0.0)] * len(x), kit.INK, dash="dot")
    top = max(found.prevalence, 0.01)
    layout = kit.layout(
        340,
        xaxis=kit.axis("threshold probability", range=[0, max(x) + 1], ticksuffix=" %"),
        yaxis=kit.axis("net benefit per person", range=[-0.3 * top, 1.1 * top]),
    )
    caption = (
        f"Net benefit at the deployment mix ({percent(found.prevalence)} with referable DR) over the threshold "
        "probability, with its limits (shaded). The highest line is the best choice."
    )
    label = "Net benefit over the threshold probability; the table has the same numbers."
    return Figure("figure-net-benefit", label, caption, data, layout)


def _line(
    name: str,
    x: Sequence[float],
    metrics: Sequence[Metric],
    colour: str,
    tint: str = "",
    *,
    dash: str = "solid",
    scale: float = 1.0,
) -> list[dict[str, Any]]:
    """A line through estimates, over a band of their limits where they have some."""
    known = [(at, one) for at, one in zip(x, metrics, strict=True) if isinstance(one, Estimate)]
    if not known:
        return []
    lows = [(at, one.low) for at, one in known if one.low is not None]
    highs = [(at, one.high) for at, one in reversed(known) if one.high is not None]
    band = {
        "type": "scatter",
        "mode": "lines",
        "x": [at for at, _ in lows + highs],
        "y": [scale * end for _, end in lows + highs],
        "fill": "toself",
        "fillcolor": tint,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [at for at, _ in known],
        "y": [scale * one.value for _, one in known],
        "line": {"color": colour, "width": 2, "dash": dash},
        "hovertemplate": f"{name} at %{{x:.1f}} %: %{{y:.4~g}}<extra></extra>",
    }
    return [band, line] if lows else [line]


def _reliability(endpoint: str, bins: Sequence[Bin]) -> Figure | None:
    if not bins:
        return None
    scale = {"range": [-3, 103], "ticksuffix": " %", "dtick": 20}
    layout = kit.layout(
        360,
        showlegend=False,
        margin=_WITHOUT_LEGEND,
        xaxis=kit.axis("mean predicted probability", **scale),
        yaxis=kit.axis("observed", **scale),
        shapes=[kit.dotted(x0=0, y0=0, x1=100, y1=100, layer="below")],
    )
    marks = kit.points(
        [100 * one.predicted for one in bins],
        [100 * one.observed for one in bins],
        kit.BLUE,
        error_y=kit.whiskers(((one.observed, one.observed_low, one.observed_high) for one in bins), kit.BLUE),
        text=[str(one.n) for one in bins],
        hovertemplate="n %{text}: predicted %{x:.1f} %, observed %{y:.1f} %<extra></extra>",
    )
    name = GROUP_TITLES.get(endpoint, endpoint)
    caption = (
        f"{name}: observed frequency (mark, with its interval) at each predicted probability. "
        "Dotted: perfect calibration."
    )
    label = f"Reliability of the probability of {name}; the table has the same numbers."
    return Figure(f"figure-reliability-{endpoint}", label, caption, [marks], layout)


def _curve(evaluation: Evaluation) -> Figure | None:
    history = evaluation.training.history
    if not history:
        return None
    epochs = [e.epoch for e in history]
    accuracy = [100 * e.val_accuracy for e in history]
    layout = kit.layout(
        320,
        xaxis=kit.axis("epoch", dtick=1 if len(epochs) <= 25 else None),
        yaxis=kit.axis("validation accuracy", ticksuffix=" %"),
    )
    line = kit.points(epochs, accuracy, kit.BLUE, name="validation accuracy")
    line |= {"mode": "lines+markers", "line": {"color": kit.BLUE, "width": 2}, "marker": {"size": 6}}
    data = [line | {"hovertemplate": "epoch %{x}: %{y:.2f} %<extra></extra>"}]
    caption = "Validation accuracy after each epoch of the training run."
    window = evaluation.training.stability
    if window and window.first_epoch is not None:
        ends = {"x0": window.first_epoch, "x1": window.last_epoch, "y0": 0, "y1": 1, "yref": "paper"}
        layout["shapes"] = [{"type": "rect", **ends, "fillcolor": "#e9eff6", "line": {"width": 0}, "layer": "below"}]
        caption += f" Shaded: epochs {visible(ends['x0'])} to {visible(ends['x1'])}, on which stability is judged."
    selected = evaluation.training.selected_epoch
    if selected in epochs:
        ring = kit.points([selected], [accuracy[epochs.index(selected)]], kit.INK, name="selected epoch")
        ring["marker"] = {"symbol": "circle-open", "size": 16, "color": kit.INK, "line": {"width": 2.5}}
        data.append(ring | {"hovertemplate": "selected epoch %{x}<extra></extra>"})
        caption += f" Epoch {visible(selected)} was selected."
    return Figure("figure-training", "Validation accuracy by epoch.", caption, data, layout)
