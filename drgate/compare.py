"""Two models on the same images: every difference with an interval that allows for pairs and patients.

    comparison = compare(load_predictions("new.parquet"), load_predictions("best.parquet"), checklist, margin=0.02)
    comparison.outcome                            # "non-inferior", "inferior" or "not shown"

Differences are first minus second. An image without output from a model stays in the comparison, so that both are
judged on the same images: it counts as wrong for accuracy, as the worst case for a grade and for kappa, as referred
for a group.

Whoever compares two models on test images looks at both: a table that has no look yet takes one first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from drgate.errors import ANSWERS, PredictionsError
from drgate.evaluation import Calibration, Changes, Flip, Look, Metric, NotEstimable, TestSet, plain_of
from drgate.looks import USUAL, Log
from drgate.metrics import METRICS, MetricId, NoOutputPolicy, grades_of
from drgate.predictions import NO_PROBABILITIES, SIGNED, Predictions, as_grades, other_computing
from drgate.sample import TANGO, NoPatients, Pair, declaration
from drgate.scale import GROUPS, WITH_OEDEMA, Scale
from drgate.stats import agreement, bootstrap, confusion, paired, ranking

if TYPE_CHECKING:
    from drgate.checklist import Checklist

RESAMPLES: Final = 10_000
MARGIN: Final = 0.02
"""Of non-inferiority in accuracy, unless another is given."""
ACCURACY: Final = MetricId("accuracy")
REFERRED: Final = MetricId("accuracy", "referable")
"""The share of images that a model refers, or does not refer, correctly; an image without output is neither."""
NO_INTERVAL: Final = "no interval, because nothing is known of patients"

Outcome = Literal["non-inferior", "inferior", "not shown"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One quantity, first model minus second.

    kind: "proportion" (accuracy, sensitivity, specificity) or "index" (AUC, kappa). n: images that count.
    first, second: the value under each model; value: their difference, -1 to 1.
    low, high, level, method: the interval; absent where there are too few patients for one.
    only_first, only_second: of a proportion, images that count for the first or for the second model alone.
    design_effect: of a proportion, by how much clustering inflates the variance of the difference.
    clusters: patients; absent where they are unknown.
    bootstrap: of a proportion, percentile interval of the paired bootstrap, for information only.
    mcnemar_exact, mcnemar_midp: of a proportion, two-sided p; both treat images as independent.
    """

    kind: Literal["proportion", "index"]
    n: int
    first: float
    second: float
    value: float
    level: float
    method: str
    low: float | None = None
    high: float | None = None
    only_first: int | None = None
    only_second: int | None = None
    design_effect: float | None = None
    clusters: int | None = None
    bootstrap: tuple[float, float] | None = None
    mcnemar_exact: float | None = None
    mcnemar_midp: float | None = None

    def to_json(self) -> dict[str, Any]:
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        if self.bootstrap is not None:
            plain["bootstrap"] = {"low": self.bootstrap[0], "high": self.bootstrap[1]}
        return {"status": "estimated"} | {key: value for key, value in plain.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of two models on the same images.

    first, second: origin and digest of each table, its images without output, and the number of its look.
    allowed: how many looks were declared before the first.
    images, patients: how many were compared; patients is None where they are unknown.
    margin, level: of non-inferiority in accuracy; the bound is one-sided at (1 + level) / 2.
    outcome: "non-inferior" (the lower end is above -margin), "inferior" (the upper end is below -margin) or
        "not shown" (neither).
    differences: by metric id.
    rests_on: the id of the difference that the outcome rests on: `accuracy`, or `REFERRED` where a model or the
        reference says only whether to refer.
    discordant: images that exactly one model grades (or refers) right, with both answers; whether to refer is a bool.
    notes: sentences to be read with the numbers.
    """

    first: Mapping[str, Any]
    second: Mapping[str, Any]
    allowed: int
    images: int
    patients: int | None
    margin: float
    level: float
    outcome: Outcome
    differences: Mapping[str, Difference | NotEstimable]
    discordant: tuple[Mapping[str, Any], ...] = field(repr=False)
    notes: tuple[str, ...]
    rests_on: MetricId = ACCURACY

    @property
    def accuracy(self) -> Difference:
        """The difference that the outcome rests on."""
        found = self.differences[self.rests_on]
        assert isinstance(found, Difference)
        return found

    @property
    def shown(self) -> Literal["more accurate", "less accurate", "no difference"]:
        """Of the first model: which difference in accuracy is shown, the interval excluding zero."""
        low, high = self.accuracy.low, self.accuracy.high
        if low is not None and low > 0:
            return "more accurate"
        return "less accurate" if high is not None and high < 0 else "no difference"

    @property
    def exit_code(self) -> int:
        """0 non-inferior, 1 shown inferior, 3 not shown either way."""
        return ANSWERS[self.outcome]

    def to_json(self) -> dict[str, Any]:
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        return plain | {
            "shown": self.shown,
            "differences": {
                name: plain_of(found) if isinstance(found, NotEstimable) else found.to_json()
                for name, found in self.differences.items()
            },
            "discordant": list(self.discordant),
            "notes": list(self.notes),
        }


def compare(
    first: Predictions,
    second: Predictions,
    checklist: Checklist,
    *,
    log: Log = USUAL,
    margin: float = MARGIN,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare two models on the same graded images.

    checklist: says how many looks are allowed and, where no patient is named, how many images one has at most; where
    it declares nothing, no difference has an interval and nothing is shown.
    log: where the looks are logged; a table of which the same answers were looked at before, on the same images with
    the same reference grades, takes none.
    margin: non-inferiority margin in accuracy, in (0, 1); where a model or the reference says only whether to refer, in
        the share of images that are rightly referred or not referred.

    Raises PredictionsError where the two tables are not of the same images with the same reference grades, UsageError
    where the looks cannot be logged.
    """
    try:
        declared, lacking = declaration(first, checklist)
        pair = Pair.of(first, second, images_a_patient=declared)
    except PredictionsError as problem:
        raise PredictionsError(f"{first.origin} and {second.origin} cannot be compared: {problem}") from problem
    looks = [look_of(table, checklist, log) for table in (first, second)]  # before the numbers are known to anybody
    differences = _Differences(pair, level, resamples, bootstrap.seed_from(pair.counted_digest))
    rests_on = REFERRED if pair.lacks(ACCURACY) else ACCURACY
    right = pair.rightly_referred if rests_on == REFERRED else pair.right
    shown = paired.noninferiority(pair.successes(*right), margin, level=level)
    silent = [int((~sample.answered).sum()) for sample in (pair.first, pair.second)]
    return Comparison(
        first={"origin": first.origin, "digest": first.digest, "no_output": silent[0], "look": looks[0].number},
        second={"origin": second.origin, "digest": second.digest, "no_output": silent[1], "look": looks[1].number},
        allowed=looks[0].allowed,
        images=len(pair.first),
        patients=pair.first.clusters,
        margin=margin,
        level=level,
        outcome="non-inferior" if shown.shown else "inferior" if shown.inferior else "not shown",
        differences=differences.all(),
        discordant=_discordant(pair, *right),
        notes=(
            *_notes(pair, silent, looks, lacking),
            *other_computing(first, second, ("Model A", "model B")),
            *dict.fromkeys((*first.notes, *second.notes)),
        ),
        rests_on=rests_on,
    )


def look_of(predictions: Predictions, checklist: Checklist, log: Log) -> Look:
    """The look that a table takes, by what it says of its model and test set; where the same answers were looked at
    before, that one. Raises UsageError where it cannot be logged."""
    name, about = _seen(predictions)
    return log.look(predictions, name, checklist, comparing=True, **about)[0]


def refuse_look(predictions: Predictions, checklist: Checklist, log: Log) -> None:
    """Raise what `look_of` would raise; nothing is logged."""
    name, about = _seen(predictions)
    log.foreseen(predictions, name, checklist, **about)


def _seen(predictions: Predictions) -> tuple[str, dict[str, Any]]:
    parts = (predictions.provenance.get(part, {}) for part in ("model", "manifest"))
    model, manifest = (part if isinstance(part, dict) else {} for part in parts)
    tensors = model.get("tensor_digest")
    name = str(manifest.get("name") or Path(predictions.origin).name)
    return name, {
        "model": tensors if isinstance(tensors, str) else None,
        "chosen_on": manifest.get("split") == "val",
    }


def changes_between(
    before: Predictions,
    checklist: Checklist,
    after: Predictions,
    data: TestSet,
    *,
    calibration: Calibration | None = None,
    margin: float = MARGIN,
    level: float = 0.95,
) -> Changes:
    """What an export changed, from the published tables of the model (before) and of the exported file. Takes no look.

    The exported file is judged under its model's look, and this decides nothing.
    """
    one, two = (as_grades(table.table).set_index("image") for table in (before, after))
    if (alone := one.index.symmetric_difference(two.index)).size:
        raise PredictionsError(
            f"{before.origin} was scored on other images than the exported model: {len(alone)} are in one table only."
        )
    two = two.loc[one.index]
    grades = [table["predicted"].to_numpy(dtype=np.int64, na_value=-1) for table in (one, two)]
    both = (grades[0] >= 0) & (grades[1] >= 0)
    moved = Counter(
        (int(old), int(new)) for old, new in zip(*(given[both] for given in grades), strict=True) if old != new
    )
    columns = [name for name in SIGNED if name in one and name in two]
    numbers = [table[columns].to_numpy(dtype=np.float64) for table in (one, two)]
    differences = np.abs(numbers[0] - numbers[1])
    found = Changes(
        images=int(both.sum()),
        lost=int(((grades[0] >= 0) & (grades[1] < 0)).sum()),
        flips=tuple(Flip(*pair, images) for pair, images in sorted(moved.items())),
        largest=float(differences[np.isfinite(differences)].max(initial=0.0)),
        calibration=calibration,
    )
    declared = declaration(after, checklist, data)[0]
    try:
        pair = Pair.of(after, before, images_a_patient=declared, name="the parent's table")
    except PredictionsError as problem:
        return replace(found, difference=NotEstimable(str(problem)))
    right = pair.rightly_referred if pair.lacks(ACCURACY) else pair.right
    shown = paired.noninferiority(pair.successes(*right), margin, level=level).shown
    return replace(found, difference=pair.difference(*right, level=level), margin=margin, shown=shown)


def accuracy_difference(
    predictions: Predictions,
    baseline: Predictions,
    *,
    level: float,
    unit: str = "image",
    images_a_patient: int | None,
) -> Metric:
    """Accuracy of a model minus that of its baseline, for the criterion `baseline`, by image, eye or patient.

    images_a_patient: as declared, where patients are unknown; where nothing is, the figure has no interval.

    NotEstimable, with the reason, where the baseline's table is not of the same images with the same reference grades.
    """
    try:
        pair = Pair.of(predictions, baseline, unit=unit, images_a_patient=images_a_patient, name="the baseline")
    except PredictionsError as problem:
        return NotEstimable(str(problem))
    if reason := pair.lacks(MetricId("baseline")):
        return NotEstimable(reason)
    return pair.difference(*pair.right, level=level, kind="index")


class _Differences:
    """Every difference of one set of pairs, sharing one bootstrap for each way to read the reference grades."""

    def __init__(self, pair: Pair, level: float, resamples: int, seed: int) -> None:
        self.pair, self.level, self.resamples, self.seed = pair, level, resamples, seed
        self._drawn: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def all(self) -> dict[str, Difference | NotEstimable]:
        found: dict[str, Difference | NotEstimable] = {}
        if self.pair.lacks(ACCURACY):
            everybody = np.ones(len(self.pair.first), dtype=bool)
            found[REFERRED] = self._difference(self.pair.rightly_referred, everybody, None)
        for about in METRICS.values():
            for target in about.targets if about.compared else ():
                policy: NoOutputPolicy = "as_referred" if target in GROUPS else "worst_case"
                asked = MetricId(about.name, target)
                reason = self.pair.lacks(asked, ("model A", "model B"))
                found[asked] = (
                    NotEstimable(reason)
                    if reason
                    else self._auc(target)
                    if about.by == "ranking"
                    else self._kappa()
                    if about.by == "agreement"
                    else self._proportion(about.ratio(target, policy), target)
                )
        return found

    def drawn(self, target: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(B, 30) tables of both models, of the same resampled patients."""
        images = self.pair.first
        key = target if images.dme is not None and target in WITH_OEDEMA else ""
        if key not in self._drawn:
            owner = np.arange(len(images)) if images.patients is None else images.patients
            self._drawn[key] = paired.resample_pairs(
                *self.pair.cells(key), owner, resamples=self.resamples, seed=self.seed, inflation=self._most_images
            )
        return self._drawn[key]

    def _proportion(self, ratio: confusion.Ratio, target: str) -> Difference | NotEstimable:
        cells = self.pair.cells(target)
        # Without the policy "excluded" the reference grade alone decides which images count, so both models share them.
        counted = ratio.counted.ravel()[cells[0]]
        if not counted.any():
            return NotEstimable("no image is in its denominator.")
        first, second = (ratio.success.ravel()[cell] for cell in cells)
        return self._difference((first, second), counted, self._beside(ratio.values, target))

    def _difference(
        self,
        success: tuple[NDArray[np.bool_], NDArray[np.bool_]],
        counted: NDArray[np.bool_],
        beside: bootstrap.BootstrapInterval | None,
    ) -> Difference:
        """Of the images that count, those that succeed under each model."""
        sample = self.pair.successes(success[0], success[1], counted)
        known = not self.pair.first.unknown
        ends = paired.difference_bounds(sample, level=self.level)
        rates = [float(hit[counted].mean()) for hit in success]
        return Difference(
            kind="proportion",
            n=sample.n,
            first=rates[0],
            second=rates[1],
            value=sample.difference,
            level=self.level,
            method=TANGO if known else NO_INTERVAL,
            low=ends.low if known else None,
            high=ends.high if known else None,
            only_first=sample.only_first,
            only_second=sample.only_second,
            design_effect=sample.design_effect if known else None,
            clusters=sample.clusters,
            bootstrap=None if beside is None else (beside.low, beside.high),
            mcnemar_exact=paired.mcnemar_exact(sample.only_first, sample.only_second),
            mcnemar_midp=paired.mcnemar_midp(sample.only_first, sample.only_second),
        )

    def _beside(
        self,
        values: Callable[[NDArray[np.int64]], tuple[NDArray[np.float64], NDArray[np.bool_]]],
        target: str,
    ) -> bootstrap.BootstrapInterval | None:
        if self.pair.first.unknown:
            return None
        (one, defined), (other, also) = (values(tables) for tables in self.drawn(target))
        return bootstrap.percentile_interval(one - other, self.level, defined & also)

    def _auc(self, target: str) -> Difference | NotEstimable:
        images, grades = self.pair.first, list(grades_of(target) or ())
        ranks = []
        for sample in (images, self.pair.second):
            ranked = sample.ranked(target)
            if ranked is None:
                return NotEstimable(NO_PROBABILITIES[sample.no_probabilities])
            ranks.append(ranked)
        answered = ~np.isnan(ranks).any(axis=0)
        if not answered.any():
            return NotEstimable("no image has probabilities in both tables.")
        one, other = (of[answered] for of in ranks)
        positive = np.isin(images.graded(target)[answered], grades)
        patients = None if images.patients is None else images.patients[answered]
        result = ranking.auc_difference(
            one, other, positive, patients, level=self.level, images_a_patient=self._most_images
        )
        areas = [ranking.auc_delong(scores, positive, level=self.level) for scores in (one, other)]
        if result is None or areas[0] is None or areas[1] is None:
            return NotEstimable("it needs images of at least two patients with the condition and two without.")
        return Difference(
            kind="index",
            n=int(answered.sum()),
            first=areas[0].value,
            second=areas[1].value,
            value=result.value,
            level=self.level,
            method=self._method("paired DeLong" + (", clustered by patient" if patients is not None else "")),
            low=None if images.unknown else result.low,
            high=None if images.unknown else result.high,
            clusters=None if patients is None else len(np.unique(patients)),
        )

    def _kappa(self) -> Difference | NotEstimable:
        def values(tables: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            return agreement.kappa(confusion.square(tables, "worst_case"), "quadratic")

        tables = [np.bincount(cells, minlength=confusion.CELLS) for cells in self.pair.cells("")]
        (one, defined), (other, also) = (values(table) for table in tables)
        if not (defined and also):
            return NotEstimable("it is not defined if reference and model have only one grade.")
        beside = self._beside(values, "")
        images = self.pair.first
        who = "image" if images.patients is None else "patient"
        return Difference(
            kind="index",
            n=len(images),
            first=float(one),
            second=float(other),
            value=float(one) - float(other),
            level=self.level,
            method=self._method(f"paired {who} bootstrap, percentile"),
            low=None if beside is None else beside.low,
            high=None if beside is None else beside.high,
            clusters=images.clusters,
        )

    @property
    def _most_images(self) -> int:
        """Images of one patient at most, where patients are unknown; one where nothing is declared."""
        return self.pair.first.images_a_patient or 1

    def _method(self, name: str) -> str:
        if self.pair.first.unknown:
            return NO_INTERVAL
        return f"{name}, with up to {self._most_images} images of a patient" if self._most_images > 1 else name


def _discordant(pair: Pair, one: NDArray[np.bool_], other: NDArray[np.bool_]) -> tuple[dict[str, Any], ...]:
    """The images that exactly one model grades correctly."""
    return tuple(
        {
            "image": str(pair.first.names[i]),
            "grade": _answer(pair.first.reference[i], pair.first.reference_scale),
            "first": _answer(pair.first.predicted[i], pair.first.answer_scale),
            "second": _answer(pair.second.predicted[i], pair.second.answer_scale),
        }
        for i in np.flatnonzero(one != other)
    )


def _answer(grade: np.int64, scale: Scale) -> int | bool | None:
    """A grade, or whether to refer; None for no output."""
    if grade == confusion.NO_OUTPUT:
        return None
    return int(grade) if scale == "grades" else bool(grade >= GROUPS["referable"][0])


def _notes(pair: Pair, silent: list[int], looks: list[Look], lacking: NoPatients | None) -> tuple[str, ...]:
    images = pair.first
    one, other = looks
    numbers = f"A is look {one.number}, B is look {other.number}, of {other.allowed} allowed"
    beyond = one.used_up or other.used_up
    notes = [
        f"Looks at these images: {numbers}.{' Do not choose a model by this comparison.' if beyond else ''}",
        "McNemar's tests treat images as independent; the intervals do not.",
    ]
    if images.patients is None:
        notes.append(
            f"No difference has an interval and nothing is shown: {lacking}"
            if images.unknown
            else f"No patients are named; the checklist declares at most {images.images_a_patient} of one."
        )
    if any(silent):
        notes.append(
            f"{silent[0]} images without output from model A and {silent[1]} from model B count as wrong "
            "for accuracy, as the worst case for grades and kappa, and as referred for groups; AUC leaves them out."
        )
    if reason := pair.lacks(ACCURACY, ("model A", "model B")):
        notes.append(
            f"{reason[:1].upper()}{reason[1:]} The outcome rests on the share of images that are rightly referred or "
            "not referred, in which an image without output is wrong."
        )
    if images.dme is not None:
        notes.append("Diabetic macular oedema counts as referable and vision-threatening (column dme).")
    return tuple(notes)
