"""The history of certificates for people: at a terminal, and as a page with the trend that works offline.

    page = html(history)

The same history gives the same bytes.
"""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drgate.evaluation import CriterionResult, Estimate, Status
from drgate.report import words

if TYPE_CHECKING:
    from drgate.history import History, Record

_STYLES: Final = {"PASS": "green", "OBSERVED": "cyan", "FAIL": "bold red", "INSUFFICIENT": "yellow"}
_COLOURS: Final[dict[Status, str]] = {
    "PASS": "#0b6b3a",
    "OBSERVED": "#0f5f7a",
    "FAIL": "#a3121f",
    "INSUFFICIENT": "#8a5300",
    "NOT_ASSESSED": "#4b5563",
}
_SHAPES: Final[dict[Status, str]] = {
    "PASS": "circle",
    "OBSERVED": "circle-open",
    "FAIL": "x",
    "INSUFFICIENT": "diamond",
    "NOT_ASSESSED": "line-ew",
}
_INK: Final = "#16202a"
_HEIGHT: Final = 300
_FONT: Final = 'system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif'
DRAWN: Final = 24
"""Lines of checklists whose trend is drawn, the required ones first; the table has all of them."""


def headline(history: History) -> str:
    """How many models, and of how many a certificate says PASS; one that nobody vouches for counts where none is."""
    models = {record.digest for record in history.records}
    passed = {r.digest for r in history.records if r.verdict == "PASS" and (r.vouched or not history.verified)}
    which = "trusted certificate" if history.verified else "certificate"
    return f"{len(models)} model{'' if len(models) == 1 else 's'} judged, {len(passed)} with a {which} that says PASS"


def signed(record: Record, *, verified: bool) -> str:
    """Whose signatures it bears, and whether they were verified."""
    if not record.signers:
        return "not signed"
    names = ", ".join(
        f"{key[:16]}{'' if not verified else ' (trusted)' if key in record.vouched else ' (not trusted)'}"
        for key in record.signers
    )
    return names if verified else f"said to be {names}"


def look(record: Record) -> str:
    """Which of how many looks."""
    return (
        f"{record.look} of {record.allowed}"
        if record.look <= record.allowed
        else f"{record.look}, {record.allowed} allowed"
    )


def verdict(record: Record) -> str:
    """The verdict in words."""
    return f"{words.OUTCOMES[record.verdict]}{', with warnings' if record.warned and record.verdict == 'PASS' else ''}"


def render(history: History, console: Console) -> None:
    """The table for a terminal."""
    console.print(Text(f"{headline(history)}.", style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("When", "Model", "Test set", "Checklist", "Verdict", "Look", "Signed by"):
        table.add_column(name, overflow="fold")
    for record in history.records:
        table.add_row(
            record.time[:10],
            Text(f"{record.model} ({record.digest[:8]})"),
            Text(record.judged_on),
            Text(record.spec),
            Text(f"{words.SYMBOLS[record.verdict]} {verdict(record)}", style=_STYLES[record.verdict]),
            look(record),
            signed(record, verified=history.verified),
        )
    console.print(table)
    if not history.verified:
        console.print(Text("No signature was verified: give the keys that you trust with --key.", style="dim"))
    for sentence in history.useless:
        console.print(Text(f"Left out: {sentence}", style="dim"), soft_wrap=True)


def html(history: History) -> str:
    """The whole page: the records, what each line came out as, and its trend."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("drgate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    lines = _lines(history)
    pairs = [(id, place) for id in lines for place in dict.fromkeys(one.judged_on for one in history.records)]
    drawings = [
        {
            "name": f"figure-{n}",
            "title": f"{words.title(id)}, {place}",
            "label": _label(id, place),
            **_figure(id, place, history),
        }
        for n, (id, place) in enumerate([pair for pair in pairs if _trend(*pair, history)][:DRAWN])
    ]

    def own(name: str) -> Markup:
        text = (resources.files("drgate.report") / "templates" / name).read_text(encoding="utf-8")
        return Markup(text)  # noqa: S704 (a file of this package)

    return environment.get_template("history.html").render(
        history=history,
        headline=headline(history),
        records=[
            {
                "record": record,
                "verdict": verdict(record),
                "symbol": words.SYMBOLS[record.verdict],
                "look": look(record),
                "signed": signed(record, verified=history.verified),
            }
            for record in history.records
        ],
        lines=[(words.title(id), [_cell(id, record) for record in history.records]) for id in lines],
        drawings=drawings,
        height=_HEIGHT,
        plotly=Markup(get_plotlyjs() if drawings else ""),  # noqa: S704 (the library itself)
        style=own("page.css"),
        script=own("page.js"),
    )


def _lines(history: History) -> list[str]:
    """The ids of all lines, those that were ever required first."""
    every = [criterion for record in history.records for criterion in record.criteria]
    required = {criterion.id for criterion in every if criterion.required}
    return sorted(dict.fromkeys(criterion.id for criterion in every), key=lambda id: id not in required)


def _of(id: str, record: Record) -> CriterionResult | None:
    return next((criterion for criterion in record.criteria if criterion.id == id), None)


def _cell(id: str, record: Record) -> dict[str, str]:
    criterion = _of(id, record)
    if criterion is None:
        return {"status": "NOT_ASSESSED", "symbol": "", "outcome": "not asked", "value": ""}
    estimate = criterion.estimate
    value = ""
    if isinstance(estimate, Estimate):
        counted = "" if estimate.k is None else f" ({estimate.k} of {estimate.n})"
        value = words.metric_line(id, estimate, 0.95, "image").value + counted
    return {
        "status": criterion.status,
        "symbol": words.SYMBOLS[criterion.status],
        "outcome": words.OUTCOMES[criterion.status] + ("" if criterion.required else ", advisory"),
        "value": value,
    }


def _unit(id: str, kind: str) -> tuple[float, str]:
    """What a value is multiplied by to be drawn, and what stands behind it then."""
    if kind == "range" or id == "baseline":  # a difference of two accuracies
        return 100.0, " points"
    return {"proportion": (100.0, " %"), "amount": (1.0, " USD")}.get(kind, (1.0, ""))


def _trend(id: str, place: str, history: History) -> list[tuple[Record, CriterionResult, Estimate]]:
    """One line of checklists on one test set: across different ones nothing is compared."""
    found = ((record, _of(id, record)) for record in history.records if record.judged_on == place)
    return [(r, c, c.estimate) for r, c in found if c is not None and isinstance(c.estimate, Estimate)]


def _label(id: str, place: str) -> str:
    return f"{words.title(id)} of each record on {place} in the order of time; the table above has the same numbers."


def _figure(id: str, judged_on: str, history: History) -> dict[str, Any]:
    """One line of checklists over time: estimate, interval and the threshold that it was held against."""
    trend = _trend(id, judged_on, history)
    scale, suffix = _unit(id, trend[0][2].kind)
    numbered = [(n, one) for n, one in enumerate(history.records, 1) if one.judged_on == judged_on]
    place = {id_of(record): f"{n}. {record.time[:10]}" for n, record in numbered}
    names = [*place.values()]
    data: list[dict[str, Any]] = []
    for status, colour in _COLOURS.items():
        part = [(r, c, e) for r, c, e in trend if c.status == status]
        if not part:
            continue
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": words.OUTCOMES[status],
                "x": [place[id_of(r)] for r, _, _ in part],
                "y": [scale * e.value for _, _, e in part],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "color": colour,
                    "thickness": 2,
                    "width": 5,
                    "array": [scale * ((e.value if e.high is None else e.high) - e.value) for _, _, e in part],
                    "arrayminus": [scale * (e.value - (e.value if e.low is None else e.low)) for _, _, e in part],
                },
                "marker": {"size": 10, "color": colour, "symbol": _SHAPES[status]},
                # plotly reads a few HTML tags in text
                "text": [escape(f"{r.model} on {r.judged_on}, {r.spec}") for r, _, _ in part],
                "hovertemplate": "%{text}: %{y:.4~g}<extra></extra>",
            }
        )
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "threshold",
            "x": [place[id_of(r)] for r, _, _ in trend],
            "y": [scale * c.threshold for _, c, _ in trend],
            "marker": {"symbol": "line-ew", "size": 24, "line": {"width": 2, "color": _INK}},
            "hovertemplate": "threshold %{y:.4~g}<extra></extra>",
        }
    )
    axis = {"gridcolor": "#e3e8ec", "zeroline": False, "linecolor": "#aab4bd", "fixedrange": True, "automargin": True}
    return {
        "data": data,
        "layout": {
            "height": _HEIGHT,
            "autosize": True,
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
            "dragmode": False,
            "paper_bgcolor": "#ffffff",
            "plot_bgcolor": "#ffffff",
            "hovermode": "closest",
            "font": {"family": _FONT, "size": 12, "color": _INK},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
            "xaxis": {
                **axis,
                "type": "category",
                "categoryorder": "array",
                "categoryarray": names,
                "range": [-0.5, len(names) - 0.5],
            },
            "yaxis": {**axis, "ticksuffix": suffix},
        },
    }


def id_of(record: Record) -> tuple[str, ...]:
    """What tells one record from another."""
    return record.files
