"""What all pages share: their frame, the look of their figures, and text and tables at a terminal.

    page = kit.page("plan.html", figures, headline="...", rows=rows)

The same values give the same bytes. Jinja2 escapes all text, characters that do not print are spelt out, and the
page's policy lets it load nothing. Jinja2 and plotly are imported by `page` alone, so that a terminal does not wait
for them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drgate.errors import visible
from drgate.evaluation import Status

COLOURS: Final[Mapping[Status, str]] = {
    "PASS": "#0b6b3a",
    "OBSERVED": "#0f5f7a",
    "FAIL": "#a3121f",
    "INSUFFICIENT": "#8a5300",
    "NOT_ASSESSED": "#4b5563",
}
"""Each with a contrast of 4.5 to 1 or more on white and on the tints of the page; the shapes below mean the same."""
SHAPES: Final[Mapping[Status, str]] = {
    "PASS": "circle",
    "OBSERVED": "circle-open",
    "FAIL": "x",
    "INSUFFICIENT": "diamond",
    "NOT_ASSESSED": "line-ew",
}
STYLES: Final[Mapping[Status, str]] = {
    "PASS": "green",
    "OBSERVED": "cyan",
    "FAIL": "bold red",
    "INSUFFICIENT": "yellow",
    "NOT_ASSESSED": "dim",
}
"""Of an outcome at a terminal."""
INK: Final = "#16202a"
BLUE: Final = "#1f5fa8"
_FONT: Final = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
_PLAIN: Final = str.maketrans(
    {"✓": "+", "✗": "x", "–": "-", "−": "-", "…": "...", "·": "|", "≥": ">=", "≤": "<="}
    | dict.fromkeys("\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}", " ")
)


@dataclass(frozen=True, slots=True)
class Figure:
    """name: id of its element; label: what it shows, for a screen reader; data, layout: as plotly describes them."""

    name: str
    label: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]


def page(template: str, figures: Sequence[Figure], **values: Any) -> str:
    """A whole page from one of the templates, which extends `base.html`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("drgate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        **values,
        figures={figure.name: figure for figure in figures},
        drawings=[{"name": figure.name, "data": figure.data, "layout": figure.layout} for figure in figures],
        plotly=Markup(get_plotlyjs() if figures else ""),  # noqa: S704 (the library itself)
        colours={**COLOURS, "ink": INK, "blue": BLUE},
        font=_FONT,
    )


def layout(height: int, **more: Any) -> dict[str, Any]:
    """The layout of a figure that is `height` CSS pixels high."""
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": 8, "r": 16, "t": 40, "b": 56},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "font": {"family": _FONT, "size": 13, "color": INK},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
        "hovermode": "closest",
        "dragmode": False,
    } | more


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """An axis that cannot be dragged; the title is text, not HTML."""
    named = {"title": {"text": escape(title), "font": {"size": 12}}} if title else {}
    plain = {"gridcolor": "#e3e8ec", "zeroline": False, "linecolor": "#aab4bd", "fixedrange": True, "automargin": True}
    return plain | named | more


def points(x: Sequence[Any], y: Sequence[Any], colour: str, *, symbol: str = "circle", **more: Any) -> dict[str, Any]:
    """Marks without a line between them."""
    marker = {"symbol": symbol, "size": 10, "color": colour}
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "marker": marker} | more


def whiskers(
    estimates: Iterable[tuple[float, float | None, float | None]], colour: str, scale: float = 100.0
) -> dict[str, Any]:
    """Error bars of estimates with their low and high ends; of no length where there is none."""
    known = [(value, value if low is None else low, value if high is None else high) for value, low, high in estimates]
    return {
        "type": "data",
        "symmetric": False,
        "array": [scale * (high - value) for value, _, high in known],
        "arrayminus": [scale * (value - low) for value, low, _ in known],
        "color": colour,
        "thickness": 2,
        "width": 5,
    }


def thresholds(x: Sequence[Any], y: Sequence[Any], *, along: Literal["x", "y"], suffix: str) -> dict[str, Any]:
    """Black strokes across the axis that has the thresholds, last in the legend."""
    stroke = {"symbol": "line-ns" if along == "x" else "line-ew", "size": 22, "line": {"width": 3, "color": INK}}
    hover = f"threshold %{{{along}:.4~g}}{suffix}<extra></extra>"
    return points(x, y, INK, name="threshold", legendrank=len(COLOURS) + 1, marker=stroke, hovertemplate=hover)


def dotted(**ends: Any) -> dict[str, Any]:
    """A dotted line as one of a layout's shapes."""
    return {"type": "line", **ends, "line": {"color": INK, "width": 1.5, "dash": "dot"}}


def wrapped(text: str, most: int) -> str:
    """A label of at most `most` lines; plotly reads a few HTML tags in labels, so the text is escaped."""
    parts = textwrap.wrap(visible(text), 26) or [""]
    if len(parts) > most:
        parts = [*parts[: most - 1], f"{parts[most - 1][:25]}…"]
    return "<br>".join(map(escape, parts))


def paragraph(console: Console, text: str, style: str = "", *, hang: int = 0, styled: int | None = None) -> None:
    """Print text wrapped to the console, later lines indented by `hang`, its first `styled` characters in the style."""
    filled = textwrap.fill(visible(text), console.width, subsequent_indent=" " * hang, break_on_hyphens=False)
    printed = text_for(console, filled)
    printed.stylize(style, 0, styled)
    console.print(printed, soft_wrap=True)


def table(console: Console, header: Sequence[str], rows: Iterable[Sequence[str | Text]], *, words: int = 1) -> None:
    """Print a table whose first `words` columns are words, which wrap, and whose others are numbers."""
    grid = Table(box=None, padding=(0, 2, 0, 0))
    for i, name in enumerate(header):
        grid.add_column(text_for(console, name), justify="left" if i < words else "right", no_wrap=i >= words)
    for row in rows:
        grid.add_row(*(text_for(console, visible(cell)) if isinstance(cell, str) else cell for cell in row))
    console.print(grid)


def text_for(console: Console, text: str, style: str = "") -> Text:
    """Text that is never markup, in characters that the console can write."""
    if not writes(console, text):
        text = text.translate(_PLAIN).encode(console.encoding, "replace").decode(console.encoding)
    return Text(text, style=style)


def writes(console: Console, text: str) -> bool:
    """Whether the console's encoding has all characters of a text."""
    try:
        text.encode(console.encoding)
    except UnicodeEncodeError:
        return False
    return True
