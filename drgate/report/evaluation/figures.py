"""The figures of the page, as plain plotly descriptions of data and layout; drawn by the page itself."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from drgate.checklist import parse_id
from drgate.evaluation import Bin, CriterionResult, Estimate, Evaluation, Status
from drgate.report.words import BARRED, OUTCOMES, percent, title, visible
from drgate.scale import GROUP_TITLES

COLOURS: Final[dict[Status, str]] = {
    "PASS": "#0b6b3a",
    "OBSERVED": "#0f5f7a",
    "FAIL": "#a3121f",
    "INSUFFICIENT": "#8a5300",
    "NOT_ASSESSED": "#4b5563",
}
"""Each with a contrast of 4.5 to 1 or more on white; the shapes below carry the same."""
_SHAPES: Final[dict[Status, str]] = {
    "PASS": "circle",
    "OBSERVED": "circle-open",
    "FAIL": "x",
    "INSUFFICIENT": "diamond",
    "NOT_ASSESSED": "line-ew",
}
_INK: Final = "#16202a"
_GRID: Final = "#e3e8ec"
_LINE: Final = "#1f5fa8"
_ROW: Final = 36
SLICES_DRAWN: Final = 40
"""Slices of one figure; the tables have all of them."""
_FONT: Final = {"family": 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'}


@dataclass(frozen=True, slots=True)
class Figure:
    """name: of the element that holds it; label: what it shows, for a screen reader; height: in CSS pixels."""

    name: str
    label: str
    caption: str
    height: int
    data: list[dict[str, Any]]
    layout: dict[str, Any]


def figures(evaluation: Evaluation) -> list[Figure]:
    """Those that these data allow: lines against thresholds, one metric by slice, reliability, validation accuracy."""
    drawn = [_forest(evaluation), _slices(evaluation)]
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
    height = body + 96
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = _layout(height)
    top = 1.0
    named: set[str] = set()
    part = "estimate" if evaluation.observed_only else "bar"
    for number, panel in enumerate(panels, 1):
        suffix = "" if number == 1 else str(number)
        bottom = max(0.0, top - _ROW * len(panel) / body)
        rows = [c.id for c in panel]
        higher = panel[0].comparator in (">=", ">")
        layout[f"xaxis{suffix}"] = _axis(
            range=_scope(panel, higher=higher),
            anchor=f"y{suffix}",
            ticksuffix=" %",
            title={"text": f"pass: {part} {'right' if higher else 'left'} of the threshold", "font": {"size": 12}},
        )
        layout[f"yaxis{suffix}"] = _axis(
            domain=[bottom, top],
            anchor=f"x{suffix}",
            range=[len(rows) - 0.5, -0.5],
            tickvals=list(range(len(rows))),
            ticktext=[_label(row) for row in rows],
            automargin=True,
            showgrid=False,
            tickfont={"size": 12},
        )
        axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "type": "scatter", "mode": "markers"}
        data += _estimates(panel, axes, named)
        thresholds = _thresholds([(y, c.threshold) for y, c in enumerate(panel)])
        data.append({**axes, **thresholds, "showlegend": number == 1})
        top = bottom - gap / body
    return Figure(
        "figure-criteria",
        "Estimates with their intervals against the thresholds; the checklist above has the same numbers.",
        f"Estimate (mark) and interval (bar) of every line that is a proportion. A line passes where its "
        f"{part} lies wholly on the named side of the threshold (black).",
        height,
        data,
        layout,
    )


def _estimates(panel: list[CriterionResult], axes: dict[str, Any], named: set[str]) -> list[dict[str, Any]]:
    """One trace an outcome, each named once in the legend; what only the test set keeps from passing has its own."""
    kinds: list[tuple[Status, bool]] = [(status, False) for status in COLOURS] + [("INSUFFICIENT", True)]
    traces = []
    for rank, (status, barred) in enumerate(kinds):
        rows = [(y, c.estimate) for y, c in enumerate(panel) if (c.status, c.would_pass) == (status, barred)]
        found = [(y, e) for y, e in rows if isinstance(e, Estimate)]
        if not found:
            continue
        name, colour = BARRED if barred else OUTCOMES[status], COLOURS[status]
        traces.append(
            {
                **axes,
                "name": name,
                "legendgroup": name,
                "legendrank": rank,
                "showlegend": name not in named,
                "x": [100 * e.value for _, e in found],
                "y": [y for y, _ in found],
                "marker": {"symbol": "diamond-open" if barred else _SHAPES[status], "size": 11, "color": colour},
                "error_x": _bars([e for _, e in found], colour),
                "text": [_counted(e) for _, e in found],
                "hovertemplate": "%{text}%{x:.2f} %<extra></extra>",
            }
        )
        named.add(name)
    return traces


def _thresholds(rows: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """A black stroke for each row (y, threshold), last in the legend."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "threshold",
        "legendrank": len(COLOURS) + 1,
        "x": [100 * threshold for _, threshold in rows],
        "y": [y for y, _ in rows],
        "marker": {"symbol": "line-ns", "size": 22, "line": {"width": 3, "color": _INK}},
        "hovertemplate": "threshold %{x:.4~g} %<extra></extra>",
    }


def _bars(estimates: list[Estimate], colour: str) -> dict[str, Any]:
    """Intervals as plotly's error bars; of no length where there is none."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * ((e.value if e.high is None else e.high) - e.value) for e in estimates],
        "arrayminus": [100 * (e.value - (e.value if e.low is None else e.low)) for e in estimates],
        "color": colour,
        "thickness": 2,
        "width": 5,
    }


def _counted(estimate: Estimate) -> str:
    return "" if estimate.k is None else f"{estimate.k} of {estimate.n}: "


def _scope(panel: list[CriterionResult], *, higher: bool) -> list[float]:
    """From what the panel needs to see, with room for the marks; never beyond 0 and 100 by more than that."""
    seen = [100 * c.threshold for c in panel]
    for criterion in panel:
        if isinstance(criterion.estimate, Estimate):
            estimate = criterion.estimate
            seen += [100 * v for v in (estimate.value, estimate.low, estimate.high) if v is not None]
    low, high = (min(seen), 100.0) if higher else (0.0, max(seen))
    room = 0.04 * max(high - low, 1.0)
    return [low - room, high + room]


def _slices(evaluation: Evaluation) -> Figure | None:
    """The metric of the first line on a slice, else sensitivity for referable DR, slice by slice."""
    asked = [parse_id(c.id) for c in evaluation.criteria]
    metric = next((str(replace(a, column="", value="")) for a in asked if a.column), "sensitivity:referable")
    slices = [(one.by, one.value) for one in evaluation.counts.slices]
    limits = {c.id: c.threshold for c in evaluation.criteria}
    found = [
        (f"{column}: {value}", estimate, limits.get(str(replace(parse_id(metric), column=column, value=value))))
        for column, value in slices
        if isinstance(
            estimate := evaluation.metrics.get(str(replace(parse_id(metric), column=column, value=value))), Estimate
        )
        and estimate.kind == "proportion"
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
    room = 0.04 * max(high - low, 1.0)
    height = _ROW * len(drawn) + 96
    layout = _layout(height)
    layout["xaxis"] = _axis(
        range=[low - room, high + room],
        ticksuffix=" %",
        title={"text": html.escape(title(metric)), "font": {"size": 12}},
    )
    layout["yaxis"] = _axis(
        range=[len(drawn) - 0.5, -0.5],
        tickvals=list(range(len(drawn))),
        ticktext=[_wrapped(visible(name), 2) for name, _, _ in drawn],
        showgrid=False,
        tickfont={"size": 12},
    )
    caption = f"{title(metric)} by slice (mark), with its interval (bar)."
    if isinstance(whole, Estimate):
        ends = {"x0": 100 * whole.value, "x1": 100 * whole.value, "y0": 0, "y1": 1, "yref": "paper"}
        layout["shapes"] = [{"type": "line", **ends, "line": {"color": _INK, "width": 1.5, "dash": "dot"}}]
        caption += f" Dotted: the whole test set, {percent(whole.value)}."
    if len(found) > len(drawn):
        caption += f" The first {len(drawn)} of {len(found)} slices."
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers",
            "showlegend": False,
            "x": [100 * e.value for e in estimates],
            "y": list(range(len(drawn))),
            "marker": {"size": 10, "color": _LINE},
            "error_x": _bars(estimates, _LINE),
            "text": [_counted(e) for e in estimates],
            "hovertemplate": "%{text}%{x:.2f} %<extra></extra>",
        }
    ]
    if thresholds:
        data.append({**_thresholds(thresholds), "showlegend": False})
        caption += " Black: the checklist's threshold."
    label = f"{title(metric)} by slice; the tables have the same numbers."
    return Figure("figure-slices", label, caption, height, data, layout)


def _reliability(endpoint: str, bins: Sequence[Bin]) -> Figure | None:
    if not bins:
        return None
    height = 360
    layout = _layout(height)
    layout["showlegend"] = False
    layout["margin"]["t"] = 12
    for axis, words in (("xaxis", "mean predicted probability"), ("yaxis", "observed")):
        layout[axis] = _axis(range=[-3, 103], ticksuffix=" %", dtick=20, title={"text": words, "font": {"size": 12}})
    ends = {"x0": 0, "y0": 0, "x1": 100, "y1": 100}
    layout["shapes"] = [
        {"type": "line", **ends, "line": {"color": _INK, "width": 1.5, "dash": "dot"}, "layer": "below"}
    ]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [100 * one.predicted for one in bins],
            "y": [100 * one.observed for one in bins],
            "marker": {"size": 9, "color": _LINE},
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [100 * (one.observed_high - one.observed) for one in bins],
                "arrayminus": [100 * (one.observed - one.observed_low) for one in bins],
                "color": _LINE,
                "thickness": 2,
                "width": 5,
            },
            "text": [str(one.n) for one in bins],
            "hovertemplate": "n %{text}: predicted %{x:.1f} %, observed %{y:.1f} %<extra></extra>",
        }
    ]
    name = GROUP_TITLES.get(endpoint, endpoint)
    caption = (
        f"{name}: how often it was there (mark, with its interval) where so much was predicted. Dotted: calibrated."
    )
    label = f"Reliability of the probability of {name}; the table has the same numbers."
    return Figure(f"figure-reliability-{endpoint}", label, caption, height, data, layout)


def _curve(evaluation: Evaluation) -> Figure | None:
    history = evaluation.training.history
    if not history:
        return None
    epochs = [e.epoch for e in history]
    accuracy = [100 * e.val_accuracy for e in history]
    height = 320
    layout = _layout(height)
    layout["xaxis"] = _axis(title={"text": "epoch", "font": {"size": 12}}, dtick=1 if len(epochs) <= 25 else None)
    layout["yaxis"] = _axis(
        title={"text": "validation accuracy", "font": {"size": 12}}, ticksuffix=" %", automargin=True
    )
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "validation accuracy",
            "x": epochs,
            "y": accuracy,
            "line": {"color": _LINE, "width": 2},
            "marker": {"size": 6},
            "hovertemplate": "epoch %{x}: %{y:.2f} %<extra></extra>",
        }
    ]
    caption = "Validation accuracy after each epoch of the run that the model comes from."
    window = evaluation.training.stability
    if window and window.first_epoch is not None:
        ends = {"x0": window.first_epoch, "x1": window.last_epoch, "y0": 0, "y1": 1, "yref": "paper"}
        layout["shapes"] = [{"type": "rect", **ends, "fillcolor": "#e9eff6", "line": {"width": 0}, "layer": "below"}]
        caption += f" Shaded: epochs {visible(ends['x0'])} to {visible(ends['x1'])}, which stability is judged by."
    selected = evaluation.training.selected_epoch
    if selected in epochs:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "selected epoch",
                "x": [selected],
                "y": [accuracy[epochs.index(selected)]],
                "marker": {"symbol": "circle-open", "size": 16, "color": _INK, "line": {"width": 2.5}},
                "hovertemplate": "selected epoch %{x}<extra></extra>",
            }
        )
        caption += f" Epoch {visible(selected)} was selected."
    return Figure("figure-training", "Validation accuracy by epoch.", caption, height, data, layout)


def _layout(height: int) -> dict[str, Any]:
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": 8, "r": 16, "t": 40, "b": 56},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "font": {**_FONT, "size": 13, "color": _INK},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
        "hovermode": "closest",
        "dragmode": False,
    }


def _axis(**more: Any) -> dict[str, Any]:
    return {
        "gridcolor": _GRID,
        "zeroline": False,
        "linecolor": "#aab4bd",
        "fixedrange": True,
        "automargin": True,
    } | more


def _label(metric_id: str) -> str:
    return _wrapped(title(metric_id), 3)


def _wrapped(text: str, most: int) -> str:
    """At most so many lines; plotly reads a few HTML tags in labels, so the text is escaped."""
    wrapped = textwrap.wrap(text, 26) or [""]
    if len(wrapped) > most:
        wrapped = [*wrapped[: most - 1], f"{wrapped[most - 1][:25]}…"]
    return "<br>".join(html.escape(part) for part in wrapped)
