"""The catalogue of metrics: the one definition of each.

    METRICS["sensitivity"].title                 # "Sensitivity"
    parse_id("sensitivity:pdr@camera=A").label   # "Sensitivity, PDR (camera A)"
    parse_id("gap:sensitivity:pdr@camera").label # "Gap in sensitivity, PDR, by camera"

To add a metric, write its function in `drgate.stats`, one entry of `METRICS` and a test. Measuring, deciding, planning
and the reports follow from the entry. Modules of `drgate.stats` are loaded at their first use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from drgate import stats
from drgate.errors import ChecklistError
from drgate.scale import GRADES, GROUP_TITLES, GROUPS, TITLES, WITH_OEDEMA

if TYPE_CHECKING:
    import drgate.stats.agreement
    import drgate.stats.calibration
    import drgate.stats.combined
    import drgate.stats.confusion  # noqa: F401 - for the types of `stats`

NoOutputPolicy = Literal["excluded", "as_referred", "worst_case"]
By = Literal[
    "share",
    "rates",
    "agreement",
    "equal_grades",
    "ranking",
    "score",
    "calibration",
    "expected_error",
    "groups",
    "run",
]
Against = Literal["", "baseline", "readers"]

NAMES: Final = {**dict(zip(GRADES, TITLES, strict=True)), **GROUP_TITLES}
"""Titles of grades and groups."""

BELOW_REFERABLE: Final = "vision_threatening_below_referable"
RIGHT_EYE: Final = "right_eye_sensitivity"
AUDITED: Final = {
    "patients": "Patients who are in training too",
    "eyes": "Eyes that are in training too",
    "files": "Files that are in training too",
    "pixels": "Equal pixels in training",
    "near_duplicates": "Near-duplicates in training",
    "label_conflicts": "One picture under two grades",
}
"""The checks of an audit (`drgate.audit`) that a criterion can be about, with what each counts."""
LEAKS: Final = tuple(name for name in AUDITED if name != "label_conflicts")
"""Those that find a leak between training and test images."""
_EVERY: Final = (*GRADES, *GROUPS)
_WITHOUT_LIMIT: Final = (-math.inf, math.inf)
_PARTS: Final = ("metric", "target", "column", "value", "deployed", "of", "against")


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One metric.

    title: for reports. titles: of targets that have their own.
    targets: the grades and groups that it is measured for; "" for all grades together.
    kind: "proportion" (of images, in [0, 1]), "index" (a plain number), "difference" (of proportions), "range" (of
        accuracies), "amount" (USD), "count" (of findings).
    better: "higher", "lower", or "between" where the best value is inside.
    values: lowest and highest value. limits: lowest and highest threshold. perfect: the best value, where better is
        "between".
    by, how: what it is computed from, and the function that does so:
        "share": cells of the table; how(grades, policy) gives the `confusion.Ratio`
        "rates": two shares, `parts`; how() gives the `combined.Combination`
        "agreement": the table; how() gives the weights of kappa
        "equal_grades": the share in `parts`, at equal shares of all grades
        "ranking": the probabilities; the area under the curve
        "score", "calibration": the probabilities; how(given, outcome, patients, level=..., images_a_patient=...)
        "expected_error": the probabilities; how(given, outcome, seed=...); it has no interval
        "groups": the share named in the id, in each group of a column
        "run": the training run, another model, readers or an audit: no slices, no deployment mix, not the images alone
    compares: names of the metrics that it compares, where the id names one of them.
    counted: the denominator of a share, by reference grade ("with" or "without" the target) or by predicted grade
        ("predicted", "predicted_other"); "all" where there is no grade.
    policies: whether it depends on how images without output count.
    of_reference: whether it is about the reference grades of all images, not about answers; it counts images, whatever
        the unit.
    at_deployment: targets whose value depends on the mix of grades and is given at the deployment mix too.
    in_slices: targets that are measured in every slice and by every unit.
    compared: whether `compare` gives its difference between two models.
    complement: the metric that is 1 minus this one. not_asked: why no criterion can use it; empty where one can.
    """

    name: str
    title: str
    targets: tuple[str, ...] = ("",)
    titles: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["proportion", "index", "difference", "range", "amount", "count"] = "proportion"
    better: Literal["higher", "lower", "between"] = "higher"
    values: tuple[float, float] = (0.0, 1.0)
    limits: tuple[float, float] = (0.0, 1.0)
    perfect: float = 1.0
    by: By = "share"
    how: Callable[..., Any] | None = None
    parts: tuple[str, ...] = ()
    counted: Literal["with", "without", "predicted", "predicted_other", "all"] = "all"
    policies: bool = True
    of_reference: bool = False
    at_deployment: tuple[str, ...] = ()
    in_slices: tuple[str, ...] = ()
    compared: bool = False
    compares: tuple[str, ...] = ()
    complement: str = ""
    not_asked: str = ""

    @property
    def is_share(self) -> bool:
        """Whether it is a share of units, which has a binomial bound."""
        return self.by == "share"

    @property
    def is_expected(self) -> bool:
        """Whether a checklist can state its expected true value: a share, or kappa."""
        return self.by in ("share", "agreement")

    @property
    def of_the_run(self) -> bool:
        """Whether it is about the training run, another model, readers or an audit."""
        return self.by == "run"

    @property
    def from_probabilities(self) -> bool:
        """Whether it needs probabilities, which an image without output does not have."""
        return self.by in ("ranking", "score", "calibration", "expected_error")

    @property
    def cut_offs_decide(self) -> bool:
        """Whether it is a share whose numerator depends on cut-offs and whose denominator does not, as tuning needs."""
        return self.is_share and self.policies and not self.depends_on_answers

    @property
    def depends_on_answers(self) -> bool:
        """Whether the denominator depends on the predictions, so that its size is not known in advance."""
        return self.counted in ("predicted", "predicted_other")

    def ratio(self, target: str, policy: NoOutputPolicy) -> stats.confusion.Ratio:
        """A share as cells of the 5 x 6 table."""
        assert self.how is not None, f"{self.name} is no share"
        found: stats.confusion.Ratio = self.how(grades_of(target), policy)
        return found

    def who(self, target: str) -> str:
        """Which patients it counts: "with PDR", "without PDR", "predicted as PDR"."""
        title = "severe NPDR or PDR" if target == BELOW_REFERABLE else NAMES.get(target)
        if title is None or self.counted == "all":
            return "of this mix of grades"
        if self.counted == "without":
            return "with any DR" if target == GRADES[0] else f"without {title}"
        return {"with": "with", "predicted": "predicted as", "predicted_other": "predicted as other than"}[
            self.counted
        ] + f" {title}"


class MetricId(str):
    """The id of a metric, with its parts; it is plain text in JSON and in messages.

    metric: such as `sensitivity`. target: grade or group, "" where there is none.
    column, value: the slice; both "" where there is none. deployed: at the deployment mix of grades.
    of: of a gap or of non-inferiority, the metric that is compared: between all values of `column`, or with `against`.

    >>> parse_id("sensitivity:pdr@camera=A=1").value
    'A=1'
    >>> parse_id("ppv:referable^deployment").but(target="pdr")
    'ppv:pdr^deployment'
    >>> parse_id("noninferior:specificity:referable~readers").compared
    'specificity:referable'
    """

    __slots__ = _PARTS
    metric: str
    target: str
    column: str
    value: str
    deployed: bool
    of: str
    against: Against

    def __new__(
        cls,
        metric: str,
        target: str = "",
        column: str = "",
        value: str = "",
        deployed: bool = False,
        of: str = "",
        against: Against = "",
    ) -> MetricId:
        where = f"@{column}" + (f"={value}" if value or not of else "") if column else "^deployment" if deployed else ""
        named = ":".join(part for part in (metric, of, target) if part)
        made = super().__new__(cls, named + where + (f"~{against}" if against else ""))
        for part, given in zip(_PARTS, (metric, target, column, value, deployed, of, against), strict=True):
            setattr(made, part, given)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(getattr(self, part) for part in _PARTS)

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: Any) -> Any:
        """In a pydantic model: text that `parse_id` reads, and plain text again in JSON."""
        from pydantic import AfterValidator, PlainSerializer

        return handler.generate_schema(Annotated[str, AfterValidator(read_id), PlainSerializer(str, return_type=str)])

    def but(self, **parts: Any) -> MetricId:
        """The same id with other parts."""
        own = dict(zip(_PARTS, self.__getnewargs__(), strict=True))
        return MetricId(**(own | parts))

    @property
    def compared(self) -> MetricId:
        """Of a gap or of non-inferiority, the metric that is compared; of others, the id itself."""
        return MetricId(self.of, self.target) if self.of else self

    @property
    def needs_grades(self) -> frozenset[Literal["model", "reference"]]:
        """Whose single grades it needs; of the other it is enough to know whether to refer."""
        asked = self.compared
        about, both = asked.about, frozenset[Literal["model", "reference"]](("model", "reference"))
        if about.of_reference or (about.of_the_run and asked.metric != "baseline"):
            return both - both
        if asked.target == "referable":
            return both - {"model"} if self.deployed else both - both
        if asked.metric == "no_output":
            return both - {"model"} if asked.target else both - both
        return both - {"model"} if asked.target == BELOW_REFERABLE else both

    @property
    def needs_baseline(self) -> bool:
        """Whether it compares with the predictions of another model."""
        return self.metric == "baseline" or self.against == "baseline"

    @property
    def whole(self) -> MetricId:
        """The same metric on the whole test set, at its own mix of grades."""
        return MetricId(self.metric, self.target)

    @property
    def about(self) -> Definition:
        """The metric; one that this version does not know has its name as its title."""
        known = METRICS.get(self.metric)
        return known or Definition(name=self.metric, title=self.metric.replace("_", " "), by="run")

    @property
    def who(self) -> str:
        """Which patients it counts: "with PDR", "with PDR and camera = A"."""
        if self.of:
            return self.compared.who
        return self.about.who(self.target) + (f" and {self.column} = {self.value}" if self.column else "")

    @property
    def group(self) -> str:
        """The target where it is a group of grades, which macular oedema can belong to; else ""."""
        return self.target if self.target in WITH_OEDEMA else ""

    @property
    def view(self) -> str:
        """Which answer of an eye or a patient with several images it reads; of a single image all are the same.

        "exact": a grade is hit only by an image that has it. "referral": the worst answer to any image. "lowest": an
        answer below referable to a vision-threatening image, if there is one. The id of a `RIGHT_EYE` metric: the worst
        answer to an image that is itself in the group.
        """
        if self.metric == RIGHT_EYE:
            return str(self.whole)
        return "lowest" if self.target == BELOW_REFERABLE else "referral" if self.target in GROUPS else "exact"

    @property
    def default_policy(self) -> NoOutputPolicy:
        """How images without output count by default.

        A group is a decision to refer, and an eye without output is referred. A single grade is judged on images with
        output only; the metric `no_output` covers the others. A gap counts them as the metric that it is about.
        """
        if self.of:
            return self.compared.default_policy
        return "as_referred" if len(grades_of(self.target) or ()) > 1 and self.about.policies else "excluded"

    @property
    def label(self) -> str:
        """For reports: "Sensitivity, PDR (camera A)"."""
        about = self.about
        if self.of:
            shown = self.compared.label
            first, comma, rest = shown.partition(", ")
            shown = first + comma + _inside(rest)
            if self.against:
                return f"{shown}, not worse than the {self.against}"
            return f"Gap in {_inside(shown)}, by {self.column}"
        words = about.titles.get(self.target)
        if words is None:
            of = {**NAMES, "by_two": "by two grades or more"}.get(self.target, self.target.replace("_", " "))
            words = f"{about.title}, {of}" if self.target else about.title
        place = f" ({self.column} {self.value})" if self.column else ""
        return words + place + (", at the deployment mix" if self.deployed else "")


def _inside(title: str) -> str:
    """A title in the middle of a sentence: "referable DR", but "PDR"."""
    return title[:1].lower() + title[1:] if title[1:2].islower() else title


def parse_id(text: str) -> MetricId:
    """The parts of `metric[:target]`, `metric[:target]@column=value` or `metric[:target]^deployment`.

    Also of `gap:metric[:target]@column` and `noninferior:metric[:target]~baseline` (or `~readers`).

    The value is everything after the first "=" after the first "@", so it may contain any text. Whether the metric
    exists is not checked here.

    Raises ChecklistError where a part is missing or the mark ^ is followed by anything but `deployment`.
    """
    if isinstance(text, MetricId):
        return text
    head, at, place = text.partition("@")
    if head.startswith("gap:"):
        if not place or "=" in place:
            raise ChecklistError(
                f"{text!r}: a gap is between all values of a column, such as gap:sensitivity:referable@sex."
            )
        metric, of, target = _compared(head, text)
        return MetricId(metric, target, place, of=of)
    if head.startswith("noninferior:"):
        head, _, against = text.rpartition("~")
        if against not in ("baseline", "readers"):
            raise ChecklistError(
                f"{text!r}: it must end with ~baseline or ~readers, such as noninferior:sensitivity:referable~readers."
            )
        metric, of, target = _compared(head, text)
        return MetricId(metric, target, of=of, against="readers" if against == "readers" else "baseline")
    column, equals, value = place.partition("=")
    if at and not (column and equals and value):
        raise ChecklistError(f"{text!r}: a slice is written @column=value, such as @camera=A.")
    head, mark, mix = head.partition("^")
    if mark and at:
        raise ChecklistError(f"{text!r}: a slice has no deployment mix; leave out @... or ^deployment.")
    if mark and mix != "deployment":
        raise ChecklistError(f"{text!r}: only deployment may follow ^.")
    metric, colon, target = head.partition(":")
    if not metric:
        raise ChecklistError(f"{text!r} has no metric; expected metric[:target], such as sensitivity:pdr.")
    if colon and not target:
        raise ChecklistError(f"{text!r}: a grade or group must follow the colon, such as sensitivity:pdr.")
    return MetricId(metric, target, column, value, bool(mark))


def _compared(head: str, text: str) -> tuple[str, str, str]:
    """The parts of `gap:sensitivity:pdr`. Raises ChecklistError."""
    metric, _, rest = head.partition(":")
    of, colon, target = rest.partition(":")
    if not of or (colon and not target):
        raise ChecklistError(f"{text!r}: name the metric that is compared, such as {metric}:sensitivity:referable.")
    return metric, of, target


def read_id(text: str) -> MetricId:
    """As `parse_id`; raises ValueError, which a pydantic model reports with the place."""
    try:
        return parse_id(text)
    except ChecklistError as problem:
        raise ValueError(str(problem).removesuffix(".")) from problem


def grades_of(target: str) -> tuple[int, ...] | None:
    """The grades of a grade or a group; None for a target that is neither."""
    if target in GRADES:
        return (GRADES.index(target),)
    return GROUPS.get("vision_threatening" if target == BELOW_REFERABLE else target)


def measured(unit: str = "") -> Iterator[MetricId]:
    """The metrics of the whole test set, in the order in which a report shows them; without a unit those of any.

    By image, the eye that has a grade is the one that is judged: `RIGHT_EYE` is the sensitivity.
    """
    for one in METRICS.values():
        if not one.of_the_run and not one.compares and (one.name != RIGHT_EYE or unit != "image"):
            yield from (MetricId(one.name, target) for target in one.targets)


def measured_in_slices(unit: str = "") -> Iterator[MetricId]:
    """The metrics of every slice and unit, in the same order."""
    return (one for one in measured(unit) if one.target in one.about.in_slices)


METRICS: Final[dict[str, Definition]] = {
    one.name: one
    for one in (
        Definition(
            name="accuracy",
            title="Overall accuracy",
            how=lambda _, policy: stats.confusion.accuracy(policy),
            at_deployment=("",),
            in_slices=("",),
            compared=True,
        ),
        Definition(name="balanced_accuracy", title="Balanced accuracy", by="equal_grades", parts=("accuracy",)),
        *(
            Definition(
                name=name,
                title=f"Kappa, {words}",
                kind="index",
                by="agreement",
                how=lambda weights=weights: weights,
                values=(-1.0, 1.0),
                in_slices=("",) if weights == "quadratic" else (),
                compared=weights == "quadratic",
            )
            for name, words, weights in (
                ("kappa", "unweighted", "none"),
                ("linear_kappa", "linear weights", "linear"),
                ("quadratic_kappa", "quadratic weights", "quadratic"),
            )
        ),
        Definition(
            name="sensitivity",
            title="Sensitivity",
            targets=_EVERY,
            how=lambda grades, policy: stats.confusion.sensitivity(grades, policy),
            counted="with",
            at_deployment=(*GROUPS,),
            in_slices=_EVERY,
            compared=True,
        ),
        Definition(
            name=RIGHT_EYE,
            title="Sensitivity in an eye that has it",
            titles={group: f"Sensitivity, {title}, in an eye that has it" for group, title in GROUP_TITLES.items()},
            targets=(*GROUPS,),
            how=lambda grades, policy: stats.confusion.sensitivity(grades, policy),
            counted="with",
            in_slices=(*GROUPS,),
        ),
        Definition(
            name="specificity",
            title="Specificity",
            targets=_EVERY,
            titles={GRADES[0]: f"Specificity, {TITLES[0]} (the sensitivity for any DR)"},
            how=lambda grades, policy: stats.confusion.specificity(grades, policy),
            counted="without",
            at_deployment=_EVERY,
            in_slices=_EVERY,
            compared=True,
        ),
        Definition(
            name="ppv",
            title="Positive predictive value",
            targets=_EVERY,
            how=lambda grades, policy: stats.confusion.ppv(grades, policy),
            counted="predicted",
            at_deployment=_EVERY,
            in_slices=_EVERY,
        ),
        Definition(
            name="npv",
            title="Negative predictive value",
            targets=_EVERY,
            how=lambda grades, policy: stats.confusion.npv(grades, policy),
            counted="predicted_other",
            at_deployment=_EVERY,
            in_slices=_EVERY,
        ),
        *(
            Definition(
                name=name,
                title=title,
                targets=_EVERY,
                kind="index",
                by="rates",
                parts=("sensitivity", "specificity"),
                how=how,
                **bounds,
            )
            for name, title, how, bounds in (
                (
                    "positive_likelihood_ratio",
                    "Positive likelihood ratio",
                    lambda: stats.combined.POSITIVE_LIKELIHOOD_RATIO,
                    {"values": (0.0, math.inf), "limits": (0.0, math.inf)},
                ),
                (
                    "negative_likelihood_ratio",
                    "Negative likelihood ratio",
                    lambda: stats.combined.NEGATIVE_LIKELIHOOD_RATIO,
                    {"values": (0.0, math.inf), "limits": (0.0, math.inf), "better": "lower"},
                ),
                ("youden", "Youden's index", lambda: stats.combined.YOUDEN, {"values": (-1.0, 1.0)}),
            )
        ),
        Definition(
            name="auc",
            title="Area under the ROC curve",
            targets=_EVERY,
            kind="index",
            by="ranking",
            policies=False,
            in_slices=(*WITH_OEDEMA,),
            compared=True,
        ),
        Definition(
            name="missed",
            title="Missed",
            targets=(*GROUPS,),
            better="lower",
            how=lambda grades, policy: stats.confusion.missed(grades, policy),
            counted="with",
            at_deployment=(*GROUPS,),
            complement="sensitivity",
        ),
        Definition(
            name="undergraded",
            title="Graded too low",
            targets=(BELOW_REFERABLE, "by_two"),
            titles={BELOW_REFERABLE: "Severe NPDR or PDR predicted below referable"},
            better="lower",
            how=lambda grades, policy: (
                stats.confusion.below(grades, 2, policy) if grades else stats.confusion.undergraded_by(2, policy)
            ),
            counted="with",
            in_slices=(BELOW_REFERABLE,),
        ),
        Definition(
            name="overgraded",
            title="Graded too high",
            targets=("by_two",),
            better="lower",
            how=lambda _, policy: stats.confusion.overgraded_by(2, policy),
        ),
        Definition(
            name="no_output",
            title="Without output",
            targets=("", *GRADES),
            titles={"": "Images without output"},
            better="lower",
            how=lambda grades, _: stats.confusion.no_output(grades[0] if grades else None),
            counted="with",
            policies=False,
            in_slices=("", *GRADES),
        ),
        Definition(
            name="reference_ungradable",
            title="Images without a reference grade",
            better="lower",
            how=lambda *_: stats.confusion.no_output(),
            policies=False,
            of_reference=True,
        ),
        Definition(
            name="brier",
            title="Brier score",
            targets=("", *WITH_OEDEMA),
            kind="index",
            better="lower",
            by="score",
            how=lambda *given, **settings: stats.calibration.brier(*given, **settings),
            policies=False,
        ),
        Definition(
            name="calibration_slope",
            title="Calibration slope",
            targets=(*WITH_OEDEMA,),
            kind="index",
            better="between",
            values=_WITHOUT_LIMIT,
            limits=(0.0, 10.0),
            by="calibration",
            how=lambda *given, **settings: stats.calibration.calibration_slope(*given, **settings),
            policies=False,
        ),
        Definition(
            name="calibration_intercept",
            title="Calibration intercept",
            targets=(*WITH_OEDEMA,),
            kind="index",
            better="between",
            values=_WITHOUT_LIMIT,
            limits=(-10.0, 10.0),
            perfect=0.0,
            by="calibration",
            how=lambda *given, **settings: stats.calibration.calibration_intercept(*given, **settings),
            policies=False,
        ),
        Definition(
            name="ece",
            title="Expected calibration error",
            targets=(*WITH_OEDEMA,),
            kind="index",
            better="lower",
            by="expected_error",
            how=lambda *given, seed: stats.calibration.calibration_error(*given, seed=seed),
            policies=False,
            not_asked="the expected calibration error cannot be a criterion, because even a perfect model has 0.049 "
            "with 200 images; use calibration_slope, calibration_intercept or brier",
        ),
        Definition(
            name="stability",
            title="Stability of validation accuracy (range)",
            kind="range",
            better="lower",
            by="run",
            policies=False,
        ),
        Definition(name="baseline", title="Difference from baseline", by="run", policies=False),
        Definition(
            name="gap",
            title="Gap",
            kind="difference",
            better="lower",
            by="groups",
            compares=("accuracy", "sensitivity", "specificity"),
        ),
        Definition(
            name="noninferior",
            title="Not worse",
            kind="difference",
            values=(-1.0, 1.0),
            by="run",
            compares=("sensitivity", "specificity"),
            policies=False,
        ),
        Definition(
            name="cost",
            title="Training cost",
            kind="amount",
            better="lower",
            values=(0.0, math.inf),
            limits=(0.0, math.inf),
            by="run",
            policies=False,
        ),
        Definition(
            name="audit",
            title="Audit",
            targets=(*AUDITED,),
            titles=AUDITED,
            kind="count",
            better="lower",
            values=(0.0, math.inf),
            limits=(0.0, 0.0),
            by="run",
            policies=False,
        ),
    )
}
"""Every metric by name, in the order in which a report shows them."""

KEY_METRICS: Final = tuple(
    map(
        parse_id,
        (
            "accuracy",
            "sensitivity:severe_npdr",
            "sensitivity:pdr",
            "sensitivity:referable",
            "specificity:referable",
            "quadratic_kappa",
        ),
    )
)
"""The metrics that a report of a comparison shows first."""
