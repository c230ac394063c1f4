"""Page one: what must be read with the verdict."""

from __future__ import annotations

from drgate.checklist import Checklist
from drgate.evaluation import CriterionResult, Flagged, Look, TestSet, Training
from drgate.predictions import Predictions
from drgate.sample import Sample
from drgate.stats.confusion import NO_OUTPUT


def flagged_images(predictions: Predictions) -> tuple[Flagged, ...]:
    """Images whose severe NPDR or PDR was predicted below referable: the error that costs sight."""
    table = predictions.table
    missed = (table["gradable"] & (table["grade"] >= 3) & (table["predicted"] <= 1)).fillna(False)
    return tuple(
        Flagged(str(image), int(grade), int(predicted))
        for image, grade, predicted in table.loc[missed, ["image", "grade", "predicted"]].itertuples(index=False)
    )


def page_one(
    sample: Sample,
    checklist: Checklist,
    look: Look,
    data: TestSet,
    training: Training,
    flagged: tuple[Flagged, ...],
    results: list[CriterionResult],
) -> tuple[str, ...]:
    """What must be read with the verdict."""
    lines = []
    table = sample.whole().table
    if checklist.purpose == "pipeline":
        lines.append("This checklist is for trying a pipeline. It certifies nothing, whatever its verdict.")
    if checklist.evidence.decide_on == "point":
        lines.append("Decided on point estimates: observed on these images, not shown for future patients.")
    if sample.patients is None:
        lines.append(
            "No patient is named; the checklist declares one image a patient."
            if sample.independent
            else "No patient is named: every bound allows for two images a patient (design effect 2)."
        )
    if flagged:
        lines.append(f"{_count(len(flagged), 'image')} with severe NPDR or PDR predicted below referable.")
    if confused := int(table[3, 4]):
        lines.append(
            f"{confused} severe NPDR predicted as PDR count as misses of severe NPDR. Clinically this is harmless: "
            "both are referred at once."
        )
    if unanswered := int(table[:, NO_OUTPUT].sum()):
        lines.append(f"{unanswered} of {_count(len(sample), sample.unit)} got no output from the model.")
    if sample.ungradable:
        lines.append(f"{sample.ungradable} images have no reference grade (not gradable) and are in no count.")
    small = [r.id for r in results if r.id.column and r.status == "NOT_ASSESSED"]
    if small:
        lines.append(f"Too few cases, or none, to judge {', '.join(small)}.")
    for column, codes in sample.slices.items():
        if outside := int((codes < 0).sum()):
            lines.append(f"{_count(outside, sample.unit)} in no slice by {column}.")
    if any(" in all, " in result.reason for result in results):
        lines.append("Adding patients and testing again is another look at this test set.")
    lines += _regraded(look)
    if training.foreign:
        lines.append(
            f"The training history is from {training.foreign}; whether it is of these weights was not checked."
        )
    if data.grades:
        lines.append(f"Reference grades were joined from {data.grades.name} (SHA-256 {data.grades.sha256[:16]}...).")
    lines += [*data.warnings, data.leakage]
    lines.append(
        "Referable and vision-threatening are by DR grade alone; diabetic macular oedema is not considered."
        if sample.dme is None
        else f"Referable and vision-threatening include diabetic macular oedema ({int(sample.dme.sum())} of "
        f"{_count(len(sample), sample.unit)}), which the model is only credited for by the DR grade that it gives; "
        "severe NPDR or PDR predicted below referable is by DR grade alone."
    )
    if checklist.deployment is None:
        lines.append(
            "Accuracy, specificity, group sensitivity and predictive values hold at this test set's mix of grades "
            "only; the checklist states no deployment mix."
        )
    for title, part in (
        ("Intended use", "intended_use"),
        ("Reference standard", "reference"),
        ("Test set", "test_set"),
    ):
        missing = [key.replace("_", " ") for key, value in checklist.content()[part].items() if value == "not stated"]
        if missing:
            lines.append(f"{title}: {', '.join(missing)} not stated.")
    return tuple(lines)


def _regraded(look: Look) -> list[str]:
    """What the chain of looks says of other looks at these images, and of grades changed after a model was seen."""
    lines = []
    for other in look.overlapping:
        lines.append(
            f"Test set {other.name} shares {_count(other.images, 'image')} and {_count(other.patients, 'patient')} "
            "with this one; its looks count here."
        )
    if look.regraded_count:
        favours = "; ".join(
            f"{one.favouring} of {one.changed} take an error from the model of look {one.look}"
            f"{' (this model)' if one.same_model else ''}"
            for one in look.favouring
        )
        lines.append(f"{_count(look.regraded_count, 'reference grade')} changed since an earlier look: {favours}.")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
