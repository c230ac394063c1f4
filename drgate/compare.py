"""Two models on the same images: every difference with an interval that knows of pairs and of patients.

    comparison = compare(load_predictions("new.parquet"), load_predictions("best.parquet"), margin=0.02)
    comparison.outcome                            # "non-inferior", "inferior" or "not shown"

Differences are first minus second. An image that a model gave no answer for stays in the comparison, so that both are
judged on the same images: it is wrong for accuracy, the worst case for a grade and for kappa, referred for a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from drgate.checklist import NoOutputPolicy
from drgate.errors import ANSWERS, PredictionsError
from drgate.evaluation import Estimate, Metric, NotEstimable, plain_of
from drgate.measure import oedema
from drgate.predictions import PROBABILITIES, Predictions
from drgate.scale import GRADES, GROUPS
from drgate.stats import agreement, bootstrap, confusion, paired, ranking

RESAMPLES: Final = 10_000
METHOD: Final = "Tango's score interval at the effective sample size"
_NO_OUTPUT: Final = 5
_TARGETS: Final = {**{grade: (i,) for i, grade in enumerate(GRADES)}, **GROUPS}

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
    bootstrap: of a proportion, percentile interval of the paired bootstrap, shown beside and deciding nothing.
    mcnemar_exact, mcnemar_midp: of a proportion, two-sided p; both take images for independent.
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
    """Everything that was found about two models on the same images.

    first, second: origin and digest of each table, and its images without output.
    images, patients: how many were compared; patients is None where they are unknown.
    margin, level: of non-inferiority in accuracy; the bound is one-sided at (1 + level) / 2.
    outcome: "non-inferior" (the lower end lies above -margin), "inferior" (the upper end lies below -margin) or
        "not shown" (neither).
    differences: by metric id.
    discordant: images that exactly one model grades right, with both grades.
    notes: sentences that must be read with the numbers.
    """

    first: Mapping[str, Any]
    second: Mapping[str, Any]
    images: int
    patients: int | None
    margin: float
    level: float
    outcome: Outcome
    differences: Mapping[str, Difference | NotEstimable]
    discordant: tuple[Mapping[str, Any], ...] = field(repr=False)
    notes: tuple[str, ...]

    @property
    def accuracy(self) -> Difference:
        """The difference that the outcome rests on."""
        found = self.differences["accuracy"]
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
    *,
    margin: float = 0.02,
    level: float = 0.95,
    one_image_per_patient: bool = False,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare two models on the same graded images.

    margin: non-inferiority margin in accuracy, in (0, 1). one_image_per_patient: declares, where no patient is named,
    that every image is another patient's; without it two images a patient are allowed for.

    Raises PredictionsError where the two tables are not of the same images with the same reference grades.
    """
    pairs = _pairs(first, second, one_image_per_patient, second.origin)
    if isinstance(pairs, str):
        raise PredictionsError(f"{first.origin} and {second.origin} cannot be compared: {pairs}")
    differences = _Differences(pairs, level, resamples, bootstrap.seed_from(first.digest, second.digest))
    shown = paired.noninferiority(pairs.sample(*pairs.right()), margin, level=level)
    silent = [int((called == _NO_OUTPUT).sum()) for called in pairs.called]
    return Comparison(
        first={"origin": first.origin, "digest": first.digest, "no_output": silent[0]},
        second={"origin": second.origin, "digest": second.digest, "no_output": silent[1]},
        images=len(pairs.reference),
        patients=pairs.clusters,
        margin=margin,
        level=level,
        outcome="non-inferior" if shown.shown else "inferior" if shown.inferior else "not shown",
        differences=differences.all(),
        discordant=pairs.discordant(),
        notes=_notes(pairs, silent),
    )


def accuracy_difference(
    predictions: Predictions, baseline: Predictions, *, level: float, one_image_per_patient: bool
) -> Metric:
    """Accuracy of a model minus that of its baseline, for the criterion `baseline`.

    NotEstimable, with the reason, where the baseline's table is not of the same images with the same reference grades.
    """
    pairs = _pairs(predictions, baseline, one_image_per_patient, "the baseline")
    if isinstance(pairs, str):
        return NotEstimable(pairs)
    sample = pairs.sample(*pairs.right())
    ends = paired.difference_bounds(sample, level=level)
    return Estimate(
        kind="index",
        value=sample.difference,
        n=sample.n,
        low=ends.low,
        high=ends.high,
        level=level,
        method=METHOD,
        clusters=sample.clusters,
        design_effect=sample.design_effect,
    )


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The graded images with what both models said.

    called: grades 0-4, 5 for no output, of each model; patients: codes, or None where unknown; dme: whether macular
    oedema is present, where the first table has that column.
    """

    images: NDArray[np.object_]
    reference: NDArray[np.int64]
    called: tuple[NDArray[np.int64], NDArray[np.int64]]
    probabilities: tuple[NDArray[np.float64], NDArray[np.float64]]
    patients: NDArray[np.int64] | None
    dme: NDArray[np.bool_] | None
    independent: bool

    @property
    def clusters(self) -> int | None:
        """Patients, where known."""
        return None if self.patients is None else int(self.patients.max()) + 1

    @property
    def inflation(self) -> float:
        """By how much two images a patient, entirely alike, may inflate a variance that knows of no patients."""
        return 2.0 if self.patients is None and not self.independent else 1.0

    def right(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Which images each model grades right, and which count (all)."""
        one, other = (called == self.reference for called in self.called)
        return one, other, np.ones(len(self.reference), dtype=bool)

    def graded(self, target: str) -> NDArray[np.int64]:
        """Reference grades, for a group lifted into it where macular oedema is present."""
        if self.dme is None or target not in GROUPS:
            return self.reference
        return np.where(self.dme, np.maximum(self.reference, GROUPS[target][0]), self.reference)

    def cells(self, target: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Cell 0-29 of each image under each model."""
        reference = self.graded(target)
        return confusion.cells(reference, self.called[0]), confusion.cells(reference, self.called[1])

    def sample(
        self, first: NDArray[np.bool_], second: NDArray[np.bool_], counted: NDArray[np.bool_]
    ) -> paired.PairedSample:
        """The paired sample of the images that count, where each model's successes are given."""
        only, only_second = (first & ~second & counted), (second & ~first & counted)
        if self.patients is not None:
            flags = (only, only_second, counted)
            return paired.paired_sample(*(np.bincount(self.patients, weights=f).astype(np.int64) for f in flags))
        b, c, n = int(only.sum()), int(only_second.sum()), int(counted.sum())
        return paired.PairedSample(b, c, n, n, 1.0) if self.independent else paired.paired_sample_unknown(b, c, n)

    def discordant(self) -> tuple[dict[str, Any], ...]:
        """The images that exactly one model grades right."""
        one, other, _ = self.right()
        return tuple(
            {
                "image": str(self.images[i]),
                "grade": int(self.reference[i]),
                "first": _grade(self.called[0][i]),
                "second": _grade(self.called[1][i]),
            }
            for i in np.flatnonzero(one != other)
        )


class _Differences:
    """Every difference of one set of pairs, sharing one bootstrap for each way to read the reference grades."""

    def __init__(self, pairs: _Pairs, level: float, resamples: int, seed: int) -> None:
        self.pairs, self.level, self.resamples, self.seed = pairs, level, resamples, seed
        self._drawn: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def all(self) -> dict[str, Difference | NotEstimable]:
        found: dict[str, Difference | NotEstimable] = {}
        found["accuracy"] = self._proportion(confusion.accuracy("worst_case"), "")
        rules = {"sensitivity": confusion.sensitivity, "specificity": confusion.specificity}
        for metric, rule in rules.items():
            for target, grades in _TARGETS.items():
                policy: NoOutputPolicy = "as_referred" if target in GROUPS else "worst_case"
                found[f"{metric}:{target}"] = self._proportion(rule(grades, policy), target)
        found |= {f"auc:{target}": self._auc(target) for target in _TARGETS}
        return found | {"quadratic_kappa": self._kappa()}

    def drawn(self, target: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(B, 30) tables of both models, of the same resampled patients."""
        key = target if self.pairs.dme is not None and target in GROUPS else ""
        if key not in self._drawn:
            patients = self.pairs.patients
            owner = np.arange(len(self.pairs.reference)) if patients is None else patients
            self._drawn[key] = paired.resample_pairs(
                *self.pairs.cells(key), owner, resamples=self.resamples, seed=self.seed, inflation=self.pairs.inflation
            )
        return self._drawn[key]

    def _proportion(self, ratio: confusion.Ratio, target: str) -> Difference | NotEstimable:
        cells = self.pairs.cells(target)
        # Without the policy "excluded" the reference grade alone says which images count, so both models share them.
        counted = ratio.counted.ravel()[cells[0]]
        if not counted.any():
            return NotEstimable("no image counts towards it.")
        success = tuple(ratio.success.ravel()[cell] for cell in cells)
        sample = self.pairs.sample(success[0], success[1], counted)
        ends = paired.difference_bounds(sample, level=self.level)
        beside = self._beside(ratio.values, target)
        rates = [float(hit[counted].mean()) for hit in success]
        return Difference(
            kind="proportion",
            n=sample.n,
            first=rates[0],
            second=rates[1],
            value=sample.difference,
            level=self.level,
            method=METHOD,
            low=ends.low,
            high=ends.high,
            only_first=sample.only_first,
            only_second=sample.only_second,
            design_effect=sample.design_effect,
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
        (one, defined), (other, also) = (values(tables) for tables in self.drawn(target))
        return bootstrap.percentile_interval(one - other, self.level, defined & also)

    def _auc(self, target: str) -> Difference | NotEstimable:
        pairs, grades = self.pairs, list(_TARGETS[target])
        answered = ~np.isnan(pairs.probabilities[0][:, 0]) & ~np.isnan(pairs.probabilities[1][:, 0])
        if not answered.any():
            return NotEstimable("no image has probabilities in both tables.")
        one, other = (of[answered][:, grades].sum(axis=1) for of in pairs.probabilities)
        positive = np.isin(pairs.graded(target)[answered], grades)
        patients = None if pairs.patients is None else pairs.patients[answered]
        # The interval of a z that is larger by the root is that of the inflated variance.
        z = math.sqrt(pairs.inflation) * float(ndtri((1 + self.level) / 2))
        result = ranking.auc_difference(one, other, positive, patients, level=2 * float(ndtr(z)) - 1)
        areas = [ranking.auc_delong(scores, positive, level=self.level) for scores in (one, other)]
        if result is None or areas[0] is None or areas[1] is None:
            return NotEstimable("it takes images with and without, of two patients each.")
        return Difference(
            kind="index",
            n=int(answered.sum()),
            first=areas[0].value,
            second=areas[1].value,
            value=result.value,
            level=self.level,
            method="paired DeLong" + (", clustered by patient" if patients is not None else self._doubled),
            low=result.low,
            high=result.high,
            clusters=None if patients is None else len(np.unique(patients)),
        )

    def _kappa(self) -> Difference | NotEstimable:
        def values(tables: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            return agreement.kappa(confusion.square(tables, "worst_case"), "quadratic")

        pairs = self.pairs
        tables = [np.bincount(cells, minlength=confusion.CELLS) for cells in pairs.cells("")]
        (one, defined), (other, also) = (values(table) for table in tables)
        if not (defined and also):
            return NotEstimable("it is not defined where reference and model know one grade only.")
        beside = self._beside(values, "")
        who = "image" if pairs.patients is None else "patient"
        return Difference(
            kind="index",
            n=len(pairs.reference),
            first=float(one),
            second=float(other),
            value=float(one) - float(other),
            level=self.level,
            method=f"paired {who} bootstrap, percentile{self._doubled}",
            low=None if beside is None else beside.low,
            high=None if beside is None else beside.high,
            clusters=pairs.clusters,
        )

    @cached_property
    def _doubled(self) -> str:
        return ", variance doubled for unknown patients" if self.pairs.inflation > 1 else ""


def _pairs(first: Predictions, second: Predictions, independent: bool, name: str) -> _Pairs | str:
    """The rows that both tables have, or the sentence that says why they are not of the same images.

    name: what the sentence calls the second table.
    """
    keys = _keys(first, second)
    tables = [
        given.table.set_axis(pd.Index(key, name="key"), axis=0)
        for given, key in zip((first, second), keys, strict=True)
    ]
    apart = tables[0].index.symmetric_difference(tables[1].index)
    if len(apart):
        image = next(table["image"][apart[0]] for table in tables if apart[0] in table.index)
        return f"{name} was scored on other images ({image!r} is in one table only)."
    mine, theirs = tables[0], tables[1].loc[tables[0].index]
    judged = (mine["gradable"] & mine["grade"].notna()).to_numpy()
    if theirs["grade"].isna().all():
        return f"{name} has no reference grades."
    if not judged.any() or (mine["gradable"] & mine["grade"].isna()).any():
        return f"{first.origin} has images without a reference grade."
    mine, theirs = mine[judged], theirs[judged]
    for column, what in (("grade", "reference grades"), ("dme", "reference labels of macular oedema")):
        if column in mine.columns and column in theirs.columns:
            other = (mine[column] != theirs[column]).fillna(True).to_numpy(dtype=bool)
            if column == "dme":
                other &= ~(mine[column].isna() & theirs[column].isna()).to_numpy()
            if other.any():
                return f"{name} has other {what} (image {mine['image'].iloc[int(other.argmax())]!r})."
    patients = _patients(first, second, mine, theirs)
    if isinstance(patients, str):
        return f"{name} {patients}"
    return _Pairs(
        images=mine["image"].to_numpy(dtype=object),
        reference=mine["grade"].to_numpy(dtype=np.int64),
        called=(_called(mine), _called(theirs)),
        probabilities=(_probabilities(mine), _probabilities(theirs)),
        patients=patients,
        dme=oedema(mine, first.origin),
        independent=patients is None and independent,
    )


def _keys(first: Predictions, second: Predictions) -> list[pd.Series[str]]:
    """What says that two rows are of one image: the file's SHA-256 where both tables have it, else the name."""
    contents = [given.table["sha256"] for given in (first, second) if "sha256" in given.table.columns]
    if len(contents) == 2 and all(column.notna().all() and column.is_unique for column in contents):
        return contents
    return [first.table["image"], second.table["image"]]


def _patients(
    first: Predictions, second: Predictions, mine: pd.DataFrame, theirs: pd.DataFrame
) -> NDArray[np.int64] | str | None:
    """Codes of the patients, by whichever table names them; a sentence where the two group the images differently."""
    codes = [
        np.unique(table["patient"].to_numpy(dtype=str), return_inverse=True)[1].astype(np.int64)
        for given, table in ((first, mine), (second, theirs))
        if given.patients_known
    ]
    if len(codes) == 2:
        both = len(np.unique(np.stack(codes), axis=1)[0])
        if both != codes[0].max() + 1 or both != codes[1].max() + 1:
            return "groups the images into other patients."
    return codes[0] if codes else None


def _called(table: pd.DataFrame) -> NDArray[np.int64]:
    return table["predicted"].to_numpy(dtype=np.int64, na_value=_NO_OUTPUT)


def _probabilities(table: pd.DataFrame) -> NDArray[np.float64]:
    return table[list(PROBABILITIES)].to_numpy(dtype=np.float64)


def _grade(called: np.int64) -> int | None:
    return None if called == _NO_OUTPUT else int(called)


def _notes(pairs: _Pairs, silent: list[int]) -> tuple[str, ...]:
    notes = ["McNemar's tests take images for independent; the intervals do not."]
    if pairs.patients is None:
        notes.append(
            "No patient is named; one image a patient was declared."
            if pairs.independent
            else "No patient is named: every interval allows for two images a patient (design effect 2)."
        )
    if any(silent):
        notes.append(
            f"{silent[0]} images without output from the first model and {silent[1]} from the second count as wrong "
            "for accuracy, as the worst case for grades and kappa, as referred for groups, and not for AUC."
        )
    if pairs.dme is not None:
        notes.append("Diabetic macular oedema counts as referable and vision-threatening, as the column dme says.")
    return tuple(notes)
