"""The report as one page: it opens without a network, prints, and reads in order without its figures.

page = render(evaluation, certificate=None)
"""

from __future__ import annotations

from typing import Any

from drgate.certificate.statement import NOT_A_MEDICAL_DEVICE, NOT_EVIDENCE_FOR
from drgate.evaluation import Evaluation
from drgate.report import kit, words
from drgate.report.evaluation.figures import figures
from drgate.report.evaluation.sections import MARKS, sections
from drgate.scale import TITLES


def render(evaluation: Evaluation, *, certificate: str | None = None) -> str:
    """The whole page.

    certificate: the name of the signed certificate and the key that signed it; None where nothing was signed.
    """
    drawn = figures(evaluation)
    further = sections(evaluation)
    metrics = words.metric_lines(evaluation)
    return kit.page(
        "evaluation.html",
        drawn,
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
            ("limits", "What this does not show"),
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
                "right": predicted == grade,
                "dangerous": grade >= 3 and predicted < 2,
            }
            for predicted, count in enumerate(counts)
        ]
        rows.append({"title": TITLES[grade], "cells": cells, "total": total})
    return rows
