"""Page one: the notes that must be read with the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from drgate.checklist import Checklist, fact, percent_words
from drgate.evaluation import Audit, CriterionResult, Estimate, Flagged, Look, Metric, TestSet, Training, Without
from drgate.metrics import AUDITED, BELOW_REFERABLE, RIGHT_EYE, MetricId
from drgate.predictions import NO_PROBABILITIES, Predictions, as_grades
from drgate.sample import Sample
from drgate.scale import GROUPS, SCALE_TITLES, STANDS_FOR
from drgate.stats.confusion import NO_OUTPUT


def flagged_images(predictions: Predictions) -> tuple[Flagged, ...]:
    """Images with severe NPDR or PDR that were predicted below referable."""
    table, refers = as_grades(predictions.table), predictions.answers == "referable"
    missed = ((table["grade"] >= 3) & (table["predicted"] <= 1)).fillna(False)
    return tuple(
        Flagged(str(image), int(grade), None if refers else int(predicted))
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
    ungradable: Metric,
    of_readers: Sequence[str] = (),
) -> tuple[str, ...]:
    """The notes, in the order in which they are shown.

    ungradable: the metric `reference_ungradable`. of_readers: what `Beside` says of them.
    """
    lines = []
    table = sample.whole().table
    if checklist.purpose == "pipeline":
        lines.append("This checklist only tests a pipeline. Its verdict certifies nothing.")
    if checklist.evidence.decide_on == "point":
        lines.append("Decided on point estimates. They describe these images and show nothing for future patients.")
    lines += of_audit(data.audit)
    lines += _only_whether_to_refer(sample)
    lines += _patients(sample, checklist, data)
    if flagged:
        missed = _count(len(flagged), "image")
        lines.append(f"{missed}{_of_units(sample)} with severe NPDR or PDR predicted below referable.")
    lines += _wrong_eyes(sample, checklist)
    if confused := int(table[3, 4]):
        lines.append(
            f"{_count(confused, sample.unit)} with severe NPDR predicted as PDR "
            f"{'counts as an error' if confused == 1 else 'count as errors'} for severe NPDR."
        )
    if unanswered := int(table[:, NO_OUTPUT].sum()):
        have = "has" if unanswered == 1 else "have"
        lines.append(
            f"{unanswered} of {_count(len(sample), sample.unit)} {have} no output from the model: "
            f"{_without_output(sample)}."
        )
    if why := NO_PROBABILITIES.get(sample.no_probabilities):
        lines.append(f"What needs probabilities is not assessed: {why}")
    lines += _without_grade(ungradable)
    if sample.read is not None and (marked := sample.read.marked):
        lines.append(
            f"{_count(marked, 'image')} {'is' if marked == 1 else 'are'} marked not gradable but "
            f"{'has' if marked == 1 else 'have'} a grade, and {'was' if marked == 1 else 'were'} judged."
        )
    small = [r.id for r in results if r.id.column and r.status == "NOT_ASSESSED"]
    if small:
        lines.append(f"Too few cases to judge {', '.join(small)}.")
    for column, codes in sample.slices.items():
        if outside := int((codes < 0).sum()):
            lines.append(f"{_count(outside, sample.unit)} in no slice by {column}.")
    if any(" more than now" in result.reason for result in results):
        again = "Testing again with added patients counts as another look at this test set"
        lines.append(f"{again}{', which is not allowed' if look.number >= look.allowed else ''}.")
    lines += _regraded(look)
    if look.unlinked:
        lines.append(
            f"Overlap with {_count(look.unlinked, 'other logged test set')} was checked by the contents of images "
            f"alone: {_unlinked(look, sample)}."
        )
    if training.foreign:
        lines.append(
            f"The training history is from {training.foreign}. Nothing shows that it belongs to these weights."
        )
    if data.grades:
        lines.append(f"Reference grades were added from {data.grades.name} (SHA-256 {data.grades.sha256[:16]}...).")
    lines += data.warnings
    lines.append(
        "Referable: what the reference says in the column referable; nothing shows by which rule."
        if sample.reference_scale == "referable"
        else "Referable: moderate NPDR or worse. Vision-threatening: severe NPDR or PDR. Diabetic macular oedema is "
        "not considered."
        if sample.dme is None
        else f"Referable and vision-threatening include diabetic macular oedema ({int(sample.dme.sum())} of "
        f"{_count(len(sample), sample.unit)}). The model detects it only if it predicts such a DR grade. Severe NPDR "
        "or PDR predicted below referable is counted by DR grade alone."
    )
    if data.readers:
        many = len(data.readers)
        lines.append(
            f"{'This reader' if many == 1 else f'These {many} readers'}: {', '.join(data.readers)}. Nothing is shown "
            "about others."
        )
        lines += of_readers
        if not checklist.readers_independent:
            lines.append(
                "The reference for each reader is the median of the grades of three or more other readers (where "
                "their number is even, the last one is left out); other images are left out. Errors in "
                "these grades hide a part of a true difference."
            )
    if checklist.deployment is None:
        lines.append(
            "Accuracy, specificity, group sensitivity and predictive values depend on the mix of grades in this test "
            "set. The checklist states no deployment mix."
        )
    for of, part in (
        ("intended use", "intended_use"),
        ("reference standard", "reference"),
        ("test set", "test_set"),
    ):
        missing = [fact(key) for key, value in checklist.content()[part].items() if value == "not stated"]
        if missing:
            lines.append(f"The checklist does not state ({of}): {', '.join(missing)}.")
    return tuple(lines)


def of_leak(sample: Sample, checklist: Checklist, data: TestSet) -> tuple[str, ...]:
    """The notes where the audit found a leak, in place of `page_one`."""
    return (
        *(
            ["This checklist only tests a pipeline. Its verdict certifies nothing."]
            if checklist.purpose == "pipeline"
            else []
        ),
        "The audit found test images or patients in training. Figures on them would show what the model remembers, so "
        "no answer was set beside a grade, and no look was taken. Take a test set that shares nothing with training.",
        *of_audit(data.audit),
        *_patients(sample, checklist, data),
        *data.warnings,
    )


def _without_output(sample: Sample) -> str:
    """How many units of each reference grade have no output, where there are any."""
    titles, all_units = SCALE_TITLES[sample.reference_scale], sample.by_reference(sample.whole())
    found = zip(titles, sample.whole().table[[*STANDS_FOR[sample.reference_scale]], NO_OUTPUT], all_units, strict=True)
    return ", ".join(f"{title} {some} of {every}" for title, some, every in found if some)


def of_audit(audit: Audit | None) -> list[str]:
    """What was checked, what was found, and what was not checked and why."""
    if audit is None:
        return [
            "No audit was made: nothing shows that no test image and no test patient was in training. Evaluate the "
            "model itself, or give an audit with --audit (drgate audit)."
        ]
    lines = ["The audit was given, not made in this run."] if audit.given else []
    titles = {one.id: AUDITED.get(one.id, one.id.replace("_", " ").capitalize()) for one in audit.checks}
    for status, word in (("found", "found"), ("suspected", "suspected, not shown")):
        for one in (check for check in audit.checks if check.status == status):
            sides = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in one.compared.items())
            compared = f" (compared: {sides})" if sides else ""
            lines.append(f"Audit: {titles[one.id]}: {one.count} {word}{compared}. {one.reason}".rstrip())
    if clean := [titles[one.id] for one in audit.checks if one.status == "clean"]:
        lines.append(f"Audit, nothing found: {'; '.join(clean)}.")
    missing = [one for one in audit.checks if one.status == "not_assessed"]
    for reason in dict.fromkeys(one.reason for one in missing):
        named = "; ".join(titles[one.id] for one in missing if one.reason == reason)
        lines.append(f"Audit, not checked: {named}. {reason}".rstrip())
    if audit.copies:
        extra = sum(len(group) - 1 for group in audit.copies)
        lines.append(
            f"{_count(extra, 'image')} of the test set {'shows' if extra == 1 else 'show'} the same picture as another "
            "one. Their patients count as one."
        )
    return lines


def without_them(found: Without | None) -> list[str]:
    """The verdict without what hashes alone suspect."""
    if found is None:
        return []
    who = _count(found.images, "image") if found.patients is None else _count(found.patients, "patient")
    verdict = f"the verdict is {found.verdict}" if found.verdict else f"there is no verdict: {found.reason}"
    return [f"Without the {who} whose images may be in training, {verdict}{'' if found.reason else '.'}"]


def _only_whether_to_refer(sample: Sample) -> list[str]:
    """What is not judged where the model or the reference tells no single grades apart."""
    lines = []
    if sample.answer_scale == "referable":
        lines.append("The model answers only whether to refer. Nothing is shown about single grades.")
    if sample.reference_scale == "referable":
        lines.append(
            "The reference says only whether to refer. Nothing is shown about single grades: how many with severe "
            "NPDR or PDR are missed is not known."
        )
    return lines


def _patients(sample: Sample, checklist: Checklist, data: TestSet) -> list[str]:
    """How patients were named, and what is declared or lacking where they were not."""
    lines, found = [], data.patients
    if found is not None and found.named == "image names":
        lines.append("Patients repeat the images' names, so they count as unknown.")
    if found is not None and found.merged:
        pairs = "pair of patients was" if found.merged == 1 else "pairs of patients were"
        lines.append(
            f"{found.merged} {pairs} merged: by the names of their images or by their eyes, one is the other eye of "
            "the other."
        )
    if found is not None and found.apart:
        are = f"{_count(found.apart, 'pair')} of images {'is' if found.apart == 1 else 'are'}"
        lines.append(
            f"{are} of two patients by the table, though the names differ in nothing but the eye (as in 7_left, "
            "7_right). The table was believed; if the names are right, intervals are too narrow."
        )
    if sample.images_a_patient is not None:
        most = _count(sample.images_a_patient, "image")
        lines.append(f"No patients are named. The checklist {checklist.name} declares at most {most} of one patient.")
    elif sample.unknown:
        lines.append(f"No figure has a confidence interval: {sample.no_patients}")
    elif sample.clusters == sample.images:
        lines.append("One image a patient, as the table says.")
    return lines


def _without_grade(ungradable: Metric) -> list[str]:
    """The images that the reference could not grade, with their share."""
    if not isinstance(ungradable, Estimate) or not ungradable.k:
        return []
    high = "" if ungradable.high is None else f", upper limit {percent_words(ungradable.high)}"
    return [
        f"{ungradable.k} of {_count(ungradable.n or 0, 'image')} ({percent_words(ungradable.value)}{high}) "
        f"{'has' if ungradable.k == 1 else 'have'} no reference grade and {'is' if ungradable.k == 1 else 'are'} "
        "in no other figure."
    ]


def _of_units(sample: Sample) -> str:
    """How many eyes or patients the flagged images are of."""
    if sample.unit == "image":
        return ""
    metric = MetricId("undergraded", BELOW_REFERABLE)
    below, _ = metric.about.ratio(metric.target, metric.default_policy).terms(sample.whole(metric.target).table)
    return f" of {_count(int(below), sample.unit)}"


def _wrong_eyes(sample: Sample, checklist: Checklist) -> list[str]:
    """Sensitivities for a group that count eyes or patients for an image that is not in the group itself."""
    lines = []
    for criterion in checklist.criteria:
        asked = criterion.id
        if asked.metric not in ("sensitivity", "missed") or asked.target not in GROUPS or asked != asked.whole:
            continue
        tallies = [sample.tally_of(asked.but(metric=name)) for name in ("sensitivity", RIGHT_EYE)]
        tables = [tally.table for tally in tallies if tally is not None]
        ratio = MetricId("sensitivity", asked.target).about.ratio(asked.target, criterion.policy)
        (found, n), (own, own_n) = map(ratio.terms, tables)
        if own < found:
            refused = (tables[0] * ratio.success)[:, NO_OUTPUT].any()
            lines.append(
                f"{int(found)} of {_count(int(n), sample.unit)} {asked.who} are predicted so"
                f"{' or have no output' if refused else ''}, {int(found - own)} of them only in images without it: in "
                f"an eye that has it, {int(own)} of {int(own_n)}."
            )
    return list(dict.fromkeys(lines))


def _regraded(look: Look) -> list[str]:
    """Looks at other test sets that share images, and reference grades that changed since an earlier look."""
    lines = []
    if look.tables > 1:
        lines.append(
            f"{look.tables} tables with these answers were seen under this look. Their grades are the same, their "
            "numbers are not."
        )
    for other in look.overlapping:
        patients = _count(other.patients, "patient")
        shared = f"{other.images} of these images ({patients})" if other.images else f"{patients} of this test set"
        lines.append(f"Already tested in {other.name}: {shared}. Those looks count here.")
    if look.regraded_count:
        many = look.regraded_count != 1
        favours = "".join(
            f" {one.favouring or 'None'} of the {_count(one.changed, 'change')} since look {one.look} "
            f"{'remove' if one.favouring > 1 else 'removes'} an error of its model"
            f"{' (this model)' if one.same_model else ''}."
            for one in look.favouring
        )
        lines.append(
            f"{_count(look.regraded_count, 'reference grade')} {'differ' if many else 'differs'} from "
            f"{'those' if many else 'that'} at an earlier look.{favours}"
        )
    return lines


def _unlinked(look: Look, sample: Sample) -> str:
    if sample.patients is None:
        return "no patients are given"
    if not look.patient_key:
        return "no patient key (--patient-key) was given"
    return "they were logged without patients or with another patient key"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
