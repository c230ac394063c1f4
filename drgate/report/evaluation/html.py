"""The report as one page: it opens without a network, prints, and reads in order without its figures.

    page = render(evaluation, certificate=None)

The same evaluation gives the same bytes. Jinja2 escapes all text; the page's policy lets it load nothing.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from drgate.certificate.statement import NOT_A_MEDICAL_DEVICE, NOT_EVIDENCE_FOR
from drgate.evaluation import Evaluation
from drgate.report import words
from drgate.report.evaluation.figures import figures
from drgate.report.evaluation.sections import MARKS, sections
from drgate.scale import TITLES


def render(evaluation: Evaluation, *, certificate: str | None = None) -> str:
    """The whole page.

    certificate: the name of the signed certificate and the key that signed it; None where nothing was signed.
    """
    environment = Environment(
        loader=PackageLoader("drgate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = figures(evaluation)
    further = sections(evaluation)
    metrics = words.metric_lines(evaluation)
    return environment.get_template("page.html").render(
        evaluation=evaluation,
        words=words,
        lines=words.lines(evaluation),
        metrics={
            family: [m for m in metrics if m.family == family] for family in dict.fromkeys(m.family for m in metrics)
        },
        matrix=_matrix(evaluation),
        titles=TITLES,
        sections=further,
        contents=[
            ("checklist", "Checklist"),
            ("judged", "What was judged"),
            ("limits", "What this is no evidence for"),
            ("estimates", "Estimates against thresholds"),
            ("matrix", "Confusion matrix"),
            *((section.name, section.title) for section in further),
            ("metrics", "All metrics"),
            *([("training", "Training")] if any(f.name == "figure-training" for f in drawn) else []),
            ("settings", "Settings and digests"),
        ],
        marks=MARKS,
        certificate=certificate,
        not_evidence_for=NOT_EVIDENCE_FOR,
        not_a_medical_device=NOT_A_MEDICAL_DEVICE,
        figures={figure.name: figure for figure in drawn},
        drawings=[{"name": f.name, "data": f.data, "layout": f.layout} for f in drawn],
        plotly=Markup(get_plotlyjs() if drawn else ""),  # noqa: S704 (the library itself)
        style=_own("page.css"),
        script=_own("page.js"),
    )


def _matrix(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Rows of the confusion matrix: cells as count, share of the row in words, and shade from 0 to 1."""
    rows = []
    for grade, counts in enumerate(evaluation.confusion_matrix):
        counts = (*counts, evaluation.no_output[grade])
        total = sum(counts)
        cells = [
            {
                "count": count,
                "share": words.percent(count / total) if count else "",
                "shade": f"{count / total:.3f}" if total else "0",
                "right": called == grade,
                "dangerous": grade >= 3 and called < 2,
            }
            for called, count in enumerate(counts)
        ]
        rows.append({"title": TITLES[grade], "cells": cells, "total": total})
    return rows


def _visible(value: object) -> object:
    return words.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _own(name: str) -> Markup:
    text = (resources.files("drgate.report") / "templates" / name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 (a file of this package)
