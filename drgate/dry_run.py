"""What an evaluation would be: everything is read and checked, and no look is taken.

    problems = Problems()
    found = dry_run(source, checklist, test=test, evidence=evidence, output=output, problems=problems)
    found.look, found.never               # the look it would be; criteria that no model can pass on this test set
    problems.found                        # what it would be refused for; then `found` is None

Reference grades and answers are counted apart. Nothing here sets one beside the other, so nothing of the result shows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

import numpy as np
import pandas as pd

from drgate.audited import READ_AT_MOST
from drgate.checklist import Checklist
from drgate.columns import PROBABILITIES, graded_rows, reader_columns, reference_of, unexplained
from drgate.decide import barred
from drgate.evaluate import evaluate
from drgate.evaluation import Look, Model, TestSet, plain_of
from drgate.given import Problems
from drgate.judge import Evidence, Output, Ready, Source, Test, prepared
from drgate.looks import Foreseen, Log
from drgate.page_one import of_audit
from drgate.plan import plan
from drgate.predictions import ANSWERS, OPEN, Predictions, make_predictions
from drgate.sample import Sample
from drgate.scale import GRADES, GROUPS, REFERABLE_CLASSES, doubts

WHILE_SCORING: Final = (
    f"While scoring, up to {READ_AT_MOST} training photographs are read and compared by their pixels too."
)
TRIED: Final = 4
"""Images that a model grades, to show that it runs."""


@dataclass(frozen=True, slots=True)
class Barred:
    """A criterion that cannot pass, or cannot be assessed, whatever the model answers. why: in one sentence."""

    id: str
    required: bool
    why: str


@dataclass(frozen=True, slots=True)
class DryRun:
    """What the evaluation would be.

    reference, answers: counts by class; answers is empty for a model, of which `tried` images were graded. scale: what
    a table's answers are. images, graded, without_output: counts. patients: None where they are not known.
    never, not_assessed: criteria that no model passes on this test set, and such that lack what they need.
    nothing_passes: why no criterion on images can pass; empty where one can. signed: whether a key was given.
    audit: what tables and fingerprint show of it now, and what is compared while a model scores, as sentences.
    notes: what was recognised in the files, and questions about the grades.
    """

    checklist: dict[str, Any]
    model: Model
    test_set: TestSet
    columns: tuple[str, ...]
    scale: str
    images: int
    graded: int
    patients: int | None
    reference: dict[str, int]
    answers: dict[str, int]
    without_output: int
    tried: int
    look: Foreseen
    nothing_passes: str
    never: tuple[Barred, ...]
    not_assessed: tuple[Barred, ...]
    signed: bool
    folder: str
    notes: tuple[str, ...]
    audit: tuple[str, ...] = ()

    @property
    def leak(self) -> bool:
        """Whether tables and fingerprint show a leak: the verdict would be FAIL, without a look."""
        return bool(self.test_set.audit and self.test_set.audit.leaks)

    def to_json(self) -> dict[str, Any]:
        """Plain values; model and test set as in an evaluation."""
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        return {
            "status": "leak" if self.leak else "can run",
            **plain,
            "model": plain_of(self.model),
            "test_set": plain_of(self.test_set),
            "look": self.look._asdict(),
            "never": list(map(asdict, self.never)),
            "not_assessed": list(map(asdict, self.not_assessed)),
        }


def dry_run(
    source: Source,
    checklist: Checklist,
    *,
    test: Test,
    evidence: Evidence,
    output: Output,
    problems: Problems,
) -> DryRun | None:
    """Read and check all that `judge` does, without a look and without writing; a model grades `TRIED` images.

    problems: gets what the evaluation would be refused for; then there is None.
    """
    ready = prepared(source, checklist, test=test, evidence=evidence, output=output, trial=TRIED, problems=problems)
    if ready is None:
        return None
    log, of_table = Log(test.looks, test.time, test.patient_key), ready.grader is None
    look = problems.of(
        lambda: log.foreseen(
            ready.predictions,
            ready.facts.name,
            checklist,
            model=ready.judged,
            chosen_on=ready.facts.selected_here,
            answered=of_table,
        )
    )
    if look is None:
        return None
    table = ready.predictions.table
    silent = int((~ready.predictions.answered).sum())
    never, not_assessed = _out_of_reach(ready, checklist, look)
    known = ready.predictions.patients.codes
    return DryRun(
        checklist={"name": checklist.name, "version": checklist.version, "digest": checklist.digest},
        model=ready.model,
        test_set=ready.facts,
        columns=_columns(table.drop(columns=[] if of_table else ["sha256", *ANSWERS], errors="ignore"), checklist),
        scale=_scale(ready),
        images=len(table),
        graded=int(graded_rows(table).sum()),
        patients=None if known is None else len(np.unique(known)),
        reference=_reference(ready.predictions),
        answers=ready.predictions.counts() if of_table else {},
        without_output=silent if of_table else 0,
        tried=0 if of_table else len(table) - silent,
        look=look,
        nothing_passes=_nothing_passes(ready, checklist, look),
        never=never,
        not_assessed=not_assessed,
        signed=output.key is not None,
        folder=str(output.folder or ready.usual_folder),
        notes=(*ready.predictions.notes, *_questions(ready.predictions)),
        audit=tuple(_audit(ready)),
    )


def _audit(ready: Ready) -> list[str]:
    """The audit as it is now: of a model, no picture was compared."""
    said = of_audit(ready.facts.audit)
    return said if ready.grader is None or ready.leak else [*said, WHILE_SCORING]


def _questions(predictions: Predictions) -> list[str]:
    counts = _reference(predictions)
    return [] if set(counts) == {*REFERABLE_CLASSES} else doubts(list(counts.values()))


def _reference(predictions: Predictions) -> dict[str, int]:
    """How many images the reference gives each grade, or each answer where it says only whether to refer."""
    refers = predictions.scales[1] == "referable"
    column = predictions.table["referable" if refers else "grade"]
    return {name: int((column == i).sum()) for i, name in enumerate(REFERABLE_CLASSES if refers else GRADES)}


def _columns(table: pd.DataFrame, checklist: Checklist) -> tuple[str, ...]:
    """The columns that say something; without a column `gradable`, every image is.

    Others than drgate's own and the checklist's are counted: their names may name a patient.
    """
    empty = {one for one in table.columns if (table[one].all() if one == "gradable" else table[one].isna().all())}
    own = {*OPEN, "sha256", *reader_columns(table), *checklist.columns}
    told = [one for one in table.columns if one not in empty and one in own]
    others = sum(one not in empty and one not in own for one in table.columns)
    return (*told, f"{others} others that nothing uses") if others else tuple(told)


def _nothing_passes(ready: Ready, checklist: Checklist, look: Foreseen) -> str:
    """Why nothing can pass on this test set, and what to do; empty where something can."""
    if ready.leak:
        return "The audit found a leak: no answer would be judged, the verdict would be FAIL, and no look be taken."
    if why := barred(Look(look.number, look.allowed, ""), ready.facts):
        return why
    lacking = Sample.of(ready.predictions, checklist, data=ready.facts).no_patients
    return str(lacking) if lacking is not None and checklist.evidence.decide_on == "bound" else ""


def _scale(ready: Ready) -> str:
    """What the answers of a table are, in words."""
    found = ready.predictions
    if found.answers == "referable":
        given = found.table["p_referable"].notna().any()
        return "the probability of referable DR" if given else "referable or not, without probabilities"
    if found.answers == "severity":
        return "one number on a scale of severity"
    if found.table[list(PROBABILITIES)].notna().any(axis=None):
        return "five probabilities"
    return "grades, without probabilities"


def _perfect(ready: Ready) -> Predictions:
    """The test set with the right answer to every image, and none of the model's."""
    bare = ready.predictions.table.drop(columns=[*ANSWERS], errors="ignore")
    bare = bare[~unexplained(bare)]
    grades = reference_of(bare)
    right = {"predicted": grades}
    if ready.predictions.answers == "referable":
        right = {"predicted_referable": (grades >= GROUPS["referable"][0]).astype("Int8")}
    return make_predictions(bare.assign(**right), ready.predictions.origin, ready.predictions.provenance)


def _out_of_reach(ready: Ready, checklist: Checklist, look: Foreseen) -> tuple[tuple[Barred, ...], tuple[Barred, ...]]:
    """What no model can pass here, and what is not assessed: both of a model that answers every image rightly."""
    perfect = _perfect(ready)
    never = {
        line.id: Barred(line.id, line.required, line.here.why)
        for line in plan(checklist, data=perfect, looks=look.allowed).lines
        if line.here is not None and not line.here.can_pass
    }
    best = evaluate(
        perfect,
        checklist,
        model=ready.model,
        data=replace(ready.facts, operating_point=None),
        training=ready.training,
        look=Look(look.number, look.allowed, ""),
        baseline=None if ready.earlier is None else perfect,
    )
    lacking = []
    for one in best.criteria:
        # Right answers are without probabilities: of what needs them, only that they are not there is known.
        unseen = one.id.about.from_probabilities and "without probabilities" not in _scale(ready)
        unseen |= one.id.metric == "audit" and ready.grader is not None and not ready.leak  # seen while scoring
        if one.status == "NOT_ASSESSED" and not unseen and one.id not in never:
            lacking.append(Barred(one.id, one.required, one.reason.removeprefix("Not assessed: ")))
        elif one.id.about.of_the_run and not one.id.of and not one.id.needs_baseline and one.status == "FAIL":
            never[one.id] = Barred(one.id, one.required, one.reason)
    return tuple(never.values()), tuple(lacking)
