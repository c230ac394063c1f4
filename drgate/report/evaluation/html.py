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
from drgate.scale import GROUPS, STANDS_FOR


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
        titles=words.rows_and_columns(evaluation)[1],
        sections=further,
        contents=[
            ("checklist", "Checklist"),
            ("judged", "What was judged"),
            ("limits", "What this does not show"),
            *([("estimates", "Estimates against thresholds"), ("matrix", "Confusion matrix")] if metrics else []),
            *((section.name, section.title) for section in further),
            *([("metrics", "All metrics")] if metrics else []),
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
    reference, answers = evaluation.counts.reference_scale, evaluation.counts.answer_scale
    refer = GROUPS["referable"][0]
    rows = []
    for at, title in enumerate(words.rows_and_columns(evaluation)[0]):
        counts = (*evaluation.confusion_matrix[at], evaluation.no_output[at])
        total, grade = sum(counts), STANDS_FOR[reference][at]
        cells = [
            {
                "count": count,
                "share": words.percent(count / total) if count else "",
                "shade": f"{count / total:.3f}" if total else "0",
                "right": predicted == grade
                if reference == answers
                else predicted is not None and (predicted >= refer) == (grade >= refer),
                "dangerous": grade >= 3 and predicted is not None and predicted < refer,
            }
            for predicted, count in zip((*STANDS_FOR[answers], None), counts, strict=True)
        ]
        rows.append({"title": title, "cells": cells, "total": total})
    return rows
