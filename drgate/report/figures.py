"""The figures of the page, as plain plotly descriptions of data and layout; drawn by the page itself."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass
from typing import Any, Final

from drgate.evaluation import CriterionResult, Estimate, Evaluation, Status
from drgate.report.words import OUTCOMES, title, visible

COLOURS: Final[dict[Status, str]] = {
    "PASS": "#0b6b3a",
    "FAIL": "#a3121f",
    "INSUFFICIENT": "#8a5300",
    "NOT_ASSESSED": "#4b5563",
}
"""Each with a contrast of 4.5 to 1 or more on white; the shapes below carry the same."""
_SHAPES: Final[dict[Status, str]] = {
    "PASS": "circle",
    "FAIL": "x",
    "INSUFFICIENT": "diamond",
    "NOT_ASSESSED": "line-ew",
}
_INK: Final = "#16202a"
_GRID: Final = "#e3e8ec"
_ROW: Final = 36
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
    """Those that these data allow: proportions against their thresholds, and validation accuracy by epoch."""
    return [figure for figure in (_forest(evaluation), _curve(evaluation)) if figure is not None]


def _forest(evaluation: Evaluation) -> Figure | None:
    proportions = [c for c in evaluation.criteria if isinstance(c.estimate, Estimate) and c.estimate.k is not None]
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
        data.append(
            {
                **axes,
                "name": "threshold",
                "showlegend": number == 1,
                "x": [100 * c.threshold for c in panel],
                "y": list(range(len(panel))),
                "marker": {"symbol": "line-ns", "size": 22, "line": {"width": 3, "color": _INK}},
                "hovertemplate": "threshold %{x:.4~g} %<extra></extra>",
            }
        )
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
    """One trace an outcome, each named once in the legend."""
    traces = []
    for status, colour in COLOURS.items():
        rows = [(y, c.estimate) for y, c in enumerate(panel) if c.status == status]
        found = [(y, e) for y, e in rows if isinstance(e, Estimate)]
        if not found:
            continue
        traces.append(
            {
                **axes,
                "name": OUTCOMES[status],
                "legendgroup": status,
                "showlegend": status not in named,
                "x": [100 * e.value for _, e in found],
                "y": [y for y, _ in found],
                "marker": {"symbol": _SHAPES[status], "size": 11, "color": colour},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * ((e.value if e.high is None else e.high) - e.value) for _, e in found],
                    "arrayminus": [100 * (e.value - (e.value if e.low is None else e.low)) for _, e in found],
                    "color": colour,
                    "thickness": 2,
                    "width": 5,
                },
                "text": [f"{e.k} of {e.n}" for _, e in found],
                "hovertemplate": "%{text}: %{x:.2f} %<extra></extra>",
            }
        )
        named.add(status)
    return traces


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


def _curve(evaluation: Evaluation) -> Figure | None:
    history = [
        e for e in evaluation.training.get("history") or () if e.get("val_accuracy") is not None and "epoch" in e
    ]
    if not history:
        return None
    epochs = [e["epoch"] for e in history]
    accuracy = [100 * e["val_accuracy"] for e in history]
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
            "line": {"color": "#1f5fa8", "width": 2},
            "marker": {"size": 6},
            "hovertemplate": "epoch %{x}: %{y:.2f} %<extra></extra>",
        }
    ]
    caption = "Validation accuracy after each epoch of the run that the model comes from."
    window = evaluation.training.get("stability") or {}
    if {"first_epoch", "last_epoch"} <= window.keys():
        ends = {"x0": window["first_epoch"], "x1": window["last_epoch"], "y0": 0, "y1": 1, "yref": "paper"}
        layout["shapes"] = [{"type": "rect", **ends, "fillcolor": "#e9eff6", "line": {"width": 0}, "layer": "below"}]
        caption += f" Shaded: epochs {visible(ends['x0'])} to {visible(ends['x1'])}, which stability is judged by."
    selected = evaluation.training.get("selected_epoch")
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
    """A title that wraps; plotly reads a few HTML tags in labels, so the text is escaped."""
    wrapped = textwrap.wrap(title(metric_id), 26) or [""]
    return "<br>".join(html.escape(part) for part in wrapped[:3])
