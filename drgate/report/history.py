"""The history of certificates for people: at a terminal, and as a page with the trend that works offline.

page = html(history)
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from drgate.evaluation import CriterionResult, Estimate
from drgate.report import kit, words
from drgate.report.kit import Figure

if TYPE_CHECKING:
    from drgate.history import History, Record

_HEIGHT: Final = 300
_UNVERIFIED: Final = "No signature was verified. To verify signatures, give the keys that you trust with --key."
_UNPROVED: Final = {"elsewhere": "; scored elsewhere, not verified", "": "; predictions, no model"}
DRAWN: Final = 24
"""Criteria whose trend is drawn, the required ones first; the table has all of them."""


def headline(history: History) -> str:
    """How many models, and how many with a PASS; where keys are given, a PASS counts only with a trusted signature."""
    models = {record.digest for record in history.records}
    passed = {r.digest for r in history.records if r.verdict == "PASS" and (r.trusted_signers or not history.verified)}
    signed = {r.digest for r in history.records if r.verdict == "PASS" and r.signers}
    how = "with a trusted signature" if history.verified else f"of which {len(signed)} signed (not verified)"
    proved = {r.digest for r in history.records if r.verdict == "PASS" and r.scored not in _UNPROVED}
    unproved = len(passed - proved)
    found = f"{len(passed)} PASS{' ' if history.verified else ', '}{how}"
    found += f"; {unproved} of them scored elsewhere, not verified" if unproved else ""
    return f"{len(models)} model{'' if len(models) == 1 else 's'} judged, {found}"


def signed(record: Record, *, verified: bool) -> str:
    """The ids of the keys that signed it, and whether the signatures were verified."""
    if not record.signers:
        return "not signed"
    names = ", ".join(
        f"{key[:16]}{'' if not verified else ' (trusted)' if key in record.trusted_signers else ' (not trusted)'}"
        for key in record.signers
    )
    return names if verified else f"{names} (not verified)"


def look(record: Record) -> str:
    """Which of how many looks."""
    if not record.look:
        return "none"
    if record.look <= record.allowed:
        return f"{record.look} of {record.allowed}"
    return f"{record.look}; only {record.allowed} allowed"


def verdict(record: Record) -> str:
    """The verdict in words, after its symbol, and where nothing proves that it is one of this model."""
    warned = ", with warnings" if record.warned and record.verdict == "PASS" else ""
    return f"{words.SYMBOLS[record.verdict]} {words.OUTCOMES[record.verdict]}{warned}{_UNPROVED.get(record.scored, '')}"


def render(history: History, console: Console) -> None:
    """The table for a terminal."""
    kit.paragraph(console, f"{headline(history)}.", "bold")
    header = ("When", "Model", "Test set", "Checklist", "Verdict", "Look", "Signed by")
    rows = [
        (
            record.time[:10],
            f"{record.model} ({record.digest[:8]})",
            record.judged_on,
            record.spec,
            kit.text_for(console, verdict(record), kit.STYLES[record.verdict]),
            look(record),
            signed(record, verified=history.verified),
        )
        for record in history.records
    ]
    kit.table(console, header, rows, words=len(header))
    if not history.verified:
        kit.paragraph(console, _UNVERIFIED, "dim")
    for sentence in history.useless:
        kit.paragraph(console, f"Left out: {sentence}", "dim")


def html(history: History) -> str:
    """The whole page: the records, the outcome of each criterion, and its trend."""
    return kit.page(
        "history.html",
        figures(history),
        history=history,
        headline=headline(history),
        unverified=_UNVERIFIED,
        records=[
            {
                "record": record,
                "verdict": verdict(record),
                "look": look(record),
                "signed": signed(record, verified=history.verified),
            }
            for record in history.records
        ],
        criteria=[(words.title(id), [_cell(id, record) for record in history.records]) for id in _criteria(history)],
    )


def figures(history: History) -> list[Figure]:
    """The trend of each criterion on each test set, at most `DRAWN`."""
    places = dict.fromkeys(record.judged_on for record in history.records)
    pairs = [(id, place) for id in _criteria(history) for place in places if _trend(id, place, history)]
    return [_figure(f"figure-{n}", id, place, history) for n, (id, place) in enumerate(pairs[:DRAWN])]


def _criteria(history: History) -> list[str]:
    """The ids of all criteria, those that were ever required first."""
    every = [criterion for record in history.records for criterion in record.criteria]
    required = {criterion.id for criterion in every if criterion.required}
    return sorted(dict.fromkeys(criterion.id for criterion in every), key=lambda id: id not in required)


def _of(id: str, record: Record) -> CriterionResult | None:
    return next((criterion for criterion in record.criteria if criterion.id == id), None)


def _cell(id: str, record: Record) -> dict[str, str]:
    criterion = _of(id, record)
    if criterion is None:
        return {"status": "", "outcome": "not in the checklist", "value": ""}
    estimate = criterion.estimate
    value = ""
    if isinstance(estimate, Estimate):
        counted = "" if estimate.k is None else f" ({estimate.k} of {estimate.n})"
        value = words.metric_line(criterion.id, estimate, 0.95, "image").value + counted
    outcome = f"{words.SYMBOLS[criterion.status]} {words.OUTCOMES[criterion.status]}"
    return {
        "status": criterion.status,
        "outcome": outcome + ("" if criterion.required else ", advisory"),
        "value": value,
    }


def _unit(id: str, kind: str) -> tuple[float, str]:
    """The factor and the unit in which values are drawn."""
    if kind in ("range", "difference") or id == "baseline":  # differences of proportions
        return 100.0, " points"
    return {"proportion": (100.0, " %"), "amount": (1.0, " USD")}.get(kind, (1.0, ""))


def _trend(id: str, place: str, history: History) -> list[tuple[int, Record, CriterionResult, Estimate]]:
    """One criterion on one test set, with the number of each record: different test sets are not comparable."""
    found = [(n, r, _of(id, r)) for n, r in enumerate(history.records, 1) if r.judged_on == place]
    return [(n, r, c, c.estimate) for n, r, c in found if c is not None and isinstance(c.estimate, Estimate)]


def _figure(name: str, id: str, place: str, history: History) -> Figure:
    """One criterion over time: estimate, interval and threshold."""
    trend = _trend(id, place, history)
    scale, suffix = _unit(id, trend[0][3].kind)
    times = [_time(n, record) for n, record in enumerate(history.records, 1) if record.judged_on == place]
    data: list[dict[str, Any]] = []
    for rank, (status, colour) in enumerate(kit.COLOURS.items()):
        part = [(n, r, e) for n, r, c, e in trend if c.status == status]
        if part:
            data.append(
                kit.points(
                    [_time(n, r) for n, r, _ in part],
                    [scale * e.value for _, _, e in part],
                    colour,
                    symbol=kit.SHAPES[status],
                    name=words.OUTCOMES[status],
                    legendrank=rank,
                    error_y=kit.whiskers(((e.value, e.low, e.high) for _, _, e in part), colour, scale),
                    # plotly reads a few HTML tags in text
                    text=[escape(f"{r.model} on {r.judged_on}, {r.spec}") for _, r, _ in part],
                    hovertemplate=f"%{{text}}: %{{y:.4~g}}{suffix}<extra></extra>",
                )
            )
    limits = [(_time(n, r), end) for n, r, c, _ in trend for end in (c.threshold, c.ceiling) if end is not None]
    data.append(kit.thresholds([at for at, _ in limits], [scale * end for _, end in limits], along="y", suffix=suffix))
    ends = [-0.5, len(times) - 0.5]
    return Figure(
        name,
        f"{words.title(id)} of each record on {place} in the order of time; the table above has the same numbers.",
        f"{words.title(id)}, {place}",
        data,
        kit.layout(
            _HEIGHT,
            margin={"l": 8, "r": 8, "t": 40, "b": 8},
            xaxis=kit.axis(type="category", categoryorder="array", categoryarray=times, range=ends),
            yaxis=kit.axis(ticksuffix=suffix),
        ),
    )


def _time(n: int, record: Record) -> str:
    return f"{n}. {record.time[:10]}"
