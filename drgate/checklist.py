"""The checklist as data: what a model must show, and on what evidence.

    checklist = load_checklist("medical-grade")       # a name that ships, or a YAML file
    checklist.criteria[0]                        # Criterion(id='accuracy', at_least=0.9, ...)
    checklist.digest                                  # 'sha256:...' over the whole content, defaults included

A checklist is YAML 1.2 without anchors; unknown keys, duplicate keys and numbers typed as percentages are refused.
"""

from __future__ import annotations

import difflib
import functools
import math
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from drgate.errors import ChecklistError
from drgate.files import digest_of, plain_yaml, read_yaml
from drgate.metrics import METRICS, Definition, MetricId, NoOutputPolicy, read_id
from drgate.scale import GRADES, GROUPS

RULE_WORDS: Final = {">=": "at least", ">": "above", "<=": "at most", "<": "below"}
"""A comparator in words."""
_FACTS: Final = {
    "images_an_eye": "images per eye",
    "without_output": "handling of images without a result",
    "masked": "whether graders could see the model's predictions",
    "kappa": "agreement between graders (kappa)",
}

STABILITY_WINDOW: Final = 10
"""Number of evaluations that stability uses by default."""

EACH: Final = "each"
"""As a target: all five grades. As the value of a slice: every value of the column that the test set has."""

THRESHOLDS: Final = ("at_least", "above", "at_most", "below")
"""A criterion has exactly one of these keys, one on calibration slope or intercept both `at_least` and `at_most`;
`baseline` and `noninferior` have none."""

Comparator = Literal[">=", ">", "<=", "<"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _named(about: Definition) -> str:
    """A metric and its targets, as a regular expression."""
    targets = [target for target in about.targets if target]
    if set(GRADES) <= set(targets):
        targets.append(EACH)
    alone = "?" if "" in about.targets else ""
    return about.name + (f"(:({'|'.join(targets)})){alone}" if targets else "")


def _ids(metrics: Iterable[Definition]) -> str:
    """The ids of criteria on some metrics, as a regular expression of JSON Schema."""
    of_images: list[str] = []
    of_the_run: list[str] = []
    for about in metrics:
        if about.compares:
            between = "~(baseline|readers)" if about.of_the_run else "@[^=]+"
            of_the_run.append(f"{about.name}:({'|'.join(_named(METRICS[one]) for one in about.compares)}){between}")
            continue
        (of_the_run if about.of_the_run else of_images).append(_named(about))
    anywhere = rf"({'|'.join(of_images)})(@[^=]+=[\s\S]+|\^deployment)?"
    return f"^({'|'.join([*of_the_run, *([anywhere] if of_images else [])])})$"


def _expectations() -> str:
    """The keys of `expect`, likewise."""
    return f"^({'|'.join([*GRADES, *GROUPS])})$|{_ids(about for about in METRICS.values() if about.is_expected)}"


def _schema_of_thresholds(schema: dict[str, Any]) -> None:
    """Which keys go together in a criterion, in the words of JSON Schema."""
    given = {key: {"required": [key], "properties": {key: {"type": "number"}}} for key in THRESHOLDS}
    fraction = {key: {"minimum": 0, "maximum": 1} for key in THRESHOLDS}
    no_fraction = "|".join(about.name for about in METRICS.values() if about.limits != (0, 1))
    beyond = {"required": ["id"], "properties": {"id": {"pattern": f"^({no_fraction})"}}}
    ranged = "|".join(about.name for about in METRICS.values() if about.better == "between")
    schema["allOf"] = [
        {
            "if": {"required": ["id"], "properties": {"id": {"pattern": "^(baseline$|noninferior:)"}}},
            "then": {"required": ["margin"], "not": {"anyOf": list(given.values())}},
            "else": {
                "if": {"required": ["id"], "properties": {"id": {"pattern": f"^({ranged})"}}},
                "then": {"allOf": [given["at_least"], given["at_most"]]},
                "else": {"oneOf": list(given.values())},
            },
        },
        {"if": beyond, "else": {"properties": fraction}},
    ]


def _known(name: MetricId) -> MetricId:
    """The id, checked: its metric exists and has this target and place. Raises ValueError."""
    if name.metric not in METRICS:
        raise ValueError(f"there is no metric {name.metric!r}; {_nearest(name.metric, METRICS)}")
    about = name.about
    if about.compares:
        if name.of not in about.compares:
            raise ValueError(f"{name!r}: {name.metric} is of {' or '.join(about.compares)}")
        _known(name.compared)
        return name
    targets = {EACH, *about.targets} if set(GRADES) <= set(about.targets) else set(about.targets)
    if name.target not in targets:
        if targets == {""}:
            raise ValueError(f"{name!r}: {name.metric} has no grade; leave it out")
        if not name.target:
            raise ValueError(f"{name!r}: {name.metric} needs one of {', '.join(sorted(targets))}")
        near = _nearest(name.target, sorted(targets - {""}), "use one of")
        if name.target in {*GRADES, *GROUPS, EACH}:
            raise ValueError(f"{name!r}: {name.metric} cannot be used for {name.target!r}; {near}")
        raise ValueError(f"there is no grade or group {name.target!r}; {near}")
    if name.column and about.of_the_run:
        raise ValueError(f"{name!r}: {name.metric} has no slices")
    deployed = {*about.at_deployment, *([EACH] if set(GRADES) <= set(about.at_deployment) else [])}
    if name.deployed and name.target not in deployed:
        raise ValueError(f"{name!r}: it has no value at the deployment mix; leave out ^deployment")
    return name


class Criterion(_Frozen):
    """A metric, one threshold or a range, and whether the verdict depends on it."""

    model_config = ConfigDict(json_schema_extra=_schema_of_thresholds)

    id: Annotated[MetricId, AfterValidator(_known)] = Field(
        description="metric or metric:target, such as sensitivity:pdr, then @column=value for a slice or ^deployment; "
        "the word each means all five grades, or every value of the column; a likelihood ratio is NOT_ASSESSED where "
        "sensitivity or specificity is 0 or 100 %, such as without a false positive; gap:metric:target@column is the "
        "largest difference between the values of a column; noninferior:metric:target~baseline (or ~readers) is the "
        "difference from another model or from human readers, with a margin; audit:patients and the like, at_most: 0, "
        "are checks of the audit, and what one finds fails the verdict, required or not",
        json_schema_extra={"pattern": _ids(about for about in METRICS.values() if not about.not_asked)},
    )
    at_least: float | None = Field(default=None, description="passes at this value and above; a fraction: 0.90, not 90")
    above: float | None = Field(default=None, description="passes above this value only")
    at_most: float | None = Field(default=None, description="passes at this value and below")
    below: float | None = Field(default=None, description="passes below this value only")
    required: bool = Field(default=True, description="false: a failure is a warning and does not change the verdict")
    added: Literal["", "safety"] = Field(default="", description="safety: not in the owner's list, added for safety")
    at: Literal["deployment"] | None = Field(
        default=None, description="at the deployment mix of grades; the same as ^deployment at the end of the id"
    )
    min_positives: int | None = Field(
        default=None, ge=0, description="slices: with fewer units in the denominator, it is NOT_ASSESSED"
    )
    no_output: NoOutputPolicy | None = Field(
        default=None,
        description="how images without output count; default: excluded for grades, as_referred for groups",
    )
    window: int | None = Field(default=None, ge=6, description="number of evaluations that `stability` uses")
    margin: float | None = Field(
        default=None, gt=0, lt=1, description="non-inferiority margin of `baseline` and `noninferior`"
    )
    reference_value: float | None = Field(default=None, ge=0, le=1, description="an earlier figure, shown only")
    unit: Literal["USD"] | None = Field(default=None, description="unit of `cost`")

    @property
    def _given(self) -> dict[Comparator, float]:
        keys: dict[Comparator, float | None]
        keys = {">=": self.at_least, ">": self.above, "<=": self.at_most, "<": self.below}
        return {sign: value for sign, value in keys.items() if value is not None}

    @property
    def comparator(self) -> Comparator:
        """As a sign; of a range `>=`. Non-inferiority is `>`: the limit must be above minus the margin."""
        return next(iter(self._given), ">")

    @property
    def upward(self) -> bool:
        """Whether high values meet the rule."""
        return self.comparator in (">=", ">")

    @property
    def strict(self) -> bool:
        """Whether the threshold itself does not meet the rule."""
        return self.comparator in (">", "<")

    def as_high(self, value: float) -> float:
        """A proportion as one that must be high: the complement of one that must be low."""
        return value if self.upward else 1 - value

    @property
    def threshold(self) -> float:
        """The threshold, in the units of the metric (proportions in [0, 1], differences in [-1, 1], USD).

        Of a range its lower end.
        """
        return next(iter(self._given.values())) if self.margin is None else -self.margin

    @property
    def ceiling(self) -> float | None:
        """The upper end of a range; None for every other rule."""
        return self.at_most if self.at_least is not None else None

    @property
    def exact_threshold(self) -> Fraction:
        """The threshold as written in decimals: 0.95 is 95/100, so 38 of 40 meets it."""
        return Fraction(repr(self.threshold))

    @property
    def policy(self) -> NoOutputPolicy:
        """How images without output count in this criterion."""
        return self.no_output or self.id.default_policy

    @model_validator(mode="before")
    @classmethod
    def _at_is_part_of_the_id(cls, given: Any) -> Any:
        """`at: deployment` is another way to write the id: one content, one digest."""
        if not isinstance(given, dict) or given.get("at") != "deployment" or not isinstance(given.get("id"), str):
            return given
        mark = "" if given["id"].endswith("^deployment") else "^deployment"
        return {key: value for key, value in given.items() if key != "at"} | {"id": given["id"] + mark}

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        metric, about = self.id.metric, self.id.about
        if about.not_asked:
            raise ValueError(f"{self.id!r}: {about.not_asked}")
        if self.no_output == "as_referred" and self.id.default_policy != "as_referred":
            raise ValueError(
                f"{self.id!r}: no_output as_referred is defined for the groups {' and '.join(GROUPS)} only"
            )
        if self.no_output is not None and not about.policies:
            raise ValueError(f"{self.id!r}: no_output does not apply to it")
        if self.min_positives is not None and not self.id.column:
            raise ValueError(f"{self.id!r}: min_positives belongs to a slice, such as {self.id}@camera=each")
        if self.window is not None and metric != "stability":
            raise ValueError(f"{self.id!r}: window belongs to stability")
        if self.unit is not None and metric != "cost":
            raise ValueError(f"{self.id!r}: a unit belongs to cost")
        if metric in ("baseline", "noninferior"):
            if self._given or self.margin is None:
                raise ValueError(f"{self.id} takes a margin, such as 0.02, and no threshold")
            if metric == "noninferior" and self.reference_value is not None:
                raise ValueError(f"{self.id!r}: reference_value belongs to baseline")
            return self
        if self.margin is not None or self.reference_value is not None:
            raise ValueError(f"{self.id!r}: margin and reference_value belong to baseline (margin also to noninferior)")
        if about.better == "between":
            self._range_is_possible()
            return self
        if len(self._given) != 1:
            raise ValueError(f"{self.id!r}: give exactly one of at_least, above, at_most, below")
        self._threshold_is_possible(self.threshold)
        return self

    def _range_is_possible(self) -> None:
        (low, high), perfect = self.id.about.limits, self.id.about.perfect
        example = "at_least: 0.8 and at_most: 1.25" if perfect else "at_least: -0.2 and at_most: 0.2"
        if self.at_least is None or self.at_most is None or len(self._given) != 2:
            raise ValueError(f"{self.id!r}: a model can miss on either side; give both ends, such as {example}")
        if not low <= self.at_least <= perfect <= self.at_most <= high or self.at_least == self.at_most:
            raise ValueError(
                f"{self.id!r}: give a range between {low:g} and {high:g} that holds {perfect:g}, which is perfect, "
                f"such as {example}"
            )

    def _threshold_is_possible(self, value: float) -> None:
        about = self.id.about
        (low, high), (least, greatest) = about.limits, about.values
        if about.kind == "count":
            if self.at_most != 0:
                raise ValueError(f"{self.id!r}: an audit finds nothing or fails; give at_most: 0")
        elif high == math.inf and value <= 0:
            raise ValueError(f"{self.id!r}: give a positive {about.kind.replace('index', 'number')}, not {value:g}")
        elif not low <= value <= high:
            raise ValueError(f"{self.id!r}: {not_a_fraction(value)}")
        elif self.at_least == least or self.at_most == greatest:
            raise ValueError(f"{self.id!r}: every model meets {value:g}; give a limit that a model can fail")
        elif self.above == greatest or self.below == least:
            raise ValueError(f"{self.id!r}: no model can be {'above 1' if self.above else 'below 0'}; change the limit")
        elif (about.better == "lower") == self.upward:
            wanted = "at_most or below" if about.better == "lower" else "at_least or above"
            raise ValueError(f"{self.id!r}: this limit passes bad models and fails good ones; give {wanted}")


class Evidence(_Frozen):
    """How a criterion is decided."""

    decide_on: Literal["bound", "point"] = Field(
        default="bound",
        description="bound: the lower limit of the confidence interval (for error rates, the upper limit) must meet "
        "the rule; point: the estimate must meet it",
    )
    level: float = Field(default=0.95, ge=0.5, le=0.9999, description="two-sided; 0.95 gives a limit 97.5 % confidence")
    interval: Literal["clopper-pearson", "wilson"] = Field(
        default="clopper-pearson", description="interval of a proportion; it allows for several images from one patient"
    )
    cluster: Literal["patient"] = Field(default="patient", description="images of one patient are not independent")


class Bootstrap(_Frozen):
    """Bootstrap intervals: for information, they decide nothing."""

    resamples: int = Field(default=10_000, ge=1000, le=1_000_000, description="replicates")
    interval: Literal["percentile", "bca"] = Field(default="percentile", description="interval from the replicates")
    class_totals: Literal["random", "fixed"] = Field(
        default="random", description="fixed: the study design set the number of patients of each worst grade"
    )


class Planning(_Frozen):
    """Assumptions of `drgate plan` and of the advice on how many more patients are needed."""

    power: float = Field(
        default=0.8, gt=0, lt=1, description="wanted probability that a model with the expected true values passes"
    )
    two_images: float = Field(default=0.5, ge=0, le=1, description="share of patients with two images, not one")
    correlation: float = Field(default=0.5, ge=0, le=1, description="correlation of errors between a patient's images")


class Slice(_Frozen):
    """A column of the predictions: metrics are shown for each of its values, and criteria may use them."""

    by: str = Field(min_length=1, pattern=r"^[^=]+$", description="column of the predictions, such as camera")
    groups: dict[str, Annotated[list[str], Field(min_length=1)]] | None = Field(
        default=None,
        min_length=1,
        description="several values under one name; a value in no group is a slice of its own",
    )
    min_positives: int = Field(
        default=0, ge=0, description="fewest units in the denominator of a criterion; with fewer, it is NOT_ASSESSED"
    )

    def name_of(self, value: str) -> str:
        """The slice that a value of the column falls in: its group, or the value itself where no group has it."""
        return next((name for name, values in (self.groups or {}).items() if value in values), value)

    @model_validator(mode="after")
    def _groups_do_not_overlap(self) -> Self:
        owner: dict[str, str] = {}
        for name, values in (self.groups or {}).items():
            if name in ("", EACH):
                raise ValueError(f"a group of {self.by} cannot have the name {name!r}; rename it")
            for value in values:
                if value in owner:
                    where = f"groups {owner[value]!r} and {name!r}" if owner[value] != name else f"group {name!r} twice"
                    raise ValueError(f"{self.by} {value!r} is in {where}; an image belongs to one slice")
                owner[value] = name
        return self


class Declared(_Frozen):
    """How many images of one patient a test set without patients has at most, as its owner declares.

    Void where names of images, eyes or a column of patients show more.
    """

    manifest: str = Field(
        pattern="^sha256:[0-9a-f]{64}$",
        description="digest of the test set's manifest; of a table from elsewhere, of its images",
    )
    images_a_patient_at_most: int | None = Field(default=None, ge=1, le=1000, description="images of one patient")
    one_image_per_patient: Literal[True] | None = Field(default=None, description="the same as at most 1")

    @property
    def most(self) -> int:
        """Images of one patient at most."""
        return self.images_a_patient_at_most or 1

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.images_a_patient_at_most is None) == (self.one_image_per_patient is None):
            raise ValueError("give images_a_patient_at_most or one_image_per_patient, one of both")
        return self


def fact(key: str) -> str:
    """The name of a fact that a checklist states, such as `IntendedUse.images_an_eye`, in words."""
    return _FACTS.get(key) or key.replace("_", " ")


class IntendedUse(_Frozen):
    """For whom and how the model is used; `not stated` is printed on page one."""

    population: str = Field(default="not stated", description="such as adults with diabetes, no known retinopathy")
    setting: str = Field(default="not stated", description="such as primary care")
    cameras: str = Field(default="not stated", description="makes and models")
    images_an_eye: str = Field(default="not stated", description="number of images per eye, and their fields")
    user: str = Field(default="not stated", description="who operates it")
    role: str = Field(default="not stated", description="assist or autonomous")
    without_output: str = Field(default="not stated", description="what happens to a patient without output")


class Reference(_Frozen):
    """How the reference grades were made."""

    graders: str = Field(default="not stated", description="graders per image")
    qualification: str = Field(default="not stated", description="qualification of the graders")
    adjudication: str = Field(default="not stated", description="how disagreement was settled")
    masked: str = Field(default="not stated", description="whether graders could see the model's predictions")
    kappa: str = Field(default="not stated", description="agreement between graders")


class TestSet(_Frozen):
    """The kind of test set."""

    kind: str = Field(default="not stated", description="internal split, external site or prospective")
    sampling: str = Field(default="not stated", description="consecutive or enriched")


class Checklist(_Frozen):
    """A checklist. See docs/checklists.md."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", description="lower-case letters, digits, dots and hyphens")
    version: int = Field(ge=1, description="raised whenever the content changes")
    description: str = Field(default="", description="what PASS means, in one or two sentences")
    purpose: Literal["clinical", "pipeline"] = Field(
        default="clinical", description="pipeline: only a test; export and gate do not accept its certificates"
    )
    unit: Literal["image", "eye", "patient"] = Field(
        default="image", description="what is counted; eye: by its worst image, patient: by the worse eye"
    )
    evidence: Evidence = Field(default=Evidence(), description="how a criterion is decided")
    bootstrap: Bootstrap = Field(default=Bootstrap(), description="bootstrap intervals")
    looks: int = Field(default=1, ge=1, le=100, description="total number of looks allowed at the test set")
    valid_days: int | None = Field(
        default=None, ge=1, le=3650, description="days from its look for which a certificate is valid"
    )
    planning: Planning = Field(default=Planning(), description="assumptions of `drgate plan`")
    declared: list[Declared] = Field(
        default=[],
        description="test sets without patients: the most images of one patient; without it no criterion "
        "on images passes",
    )
    all_comers_allowance: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="a criterion on images with output also needs its limit with no output as the worst case to be "
        "within this of the threshold",
    )
    readers_independent: bool = Field(
        default=False, description="the readers (reader_1, reader_2, ...) took no part in making the reference grades"
    )
    site_column: str | None = Field(
        default=None,
        min_length=1,
        pattern=r"^[^=]+$",
        description="column of the site, such as site: figures are shown by site, and from five sites on their spread",
    )
    intended_use: IntendedUse = Field(default=IntendedUse(), description="for whom and how the model is used")
    reference: Reference = Field(default=Reference(), description="how the reference grades were made")
    test_set: TestSet = Field(default=TestSet(), description="the kind of test set")
    deployment: (
        Annotated[
            dict[str, Annotated[float, Field(ge=0, le=1)]],
            Field(json_schema_extra={"required": [*GRADES], "propertyNames": {"enum": [*GRADES]}}),
        ]
        | None
    ) = Field(default=None, description="share of each of the five grades where the model will be used; they sum to 1")
    slices: list[Slice] = Field(default=[], description="columns; metrics are shown for each of their values")
    expect: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        default={},
        description="expected true values, for planning: of a grade's or group's sensitivity, or by id of a "
        "proportion or kappa",
        json_schema_extra={"propertyNames": {"pattern": _expectations()}},
    )
    criteria: list[Criterion] = Field(description="the criteria; the verdict depends on the required ones")

    @field_validator("declared")
    @classmethod
    def _each_set_once(cls, declared: list[Declared]) -> list[Declared]:
        sets = [one.manifest for one in declared]
        if twice := [digest for digest in sets if sets.count(digest) > 1]:
            raise ValueError(f"the test set {twice[0]} is declared twice; keep one entry")
        return declared

    @field_validator("deployment")
    @classmethod
    def _is_a_mix(cls, mix: dict[str, float] | None) -> dict[str, float] | None:
        return None if mix is None else grade_mix(mix)

    @field_validator("slices")
    @classmethod
    def _each_column_once(cls, slices: list[Slice]) -> list[Slice]:
        columns = [one.by for one in slices]
        if twice := [column for column in columns if columns.count(column) > 1]:
            raise ValueError(f"the column {twice[0]!r} is sliced twice; put its groups under one entry")
        return slices

    @field_validator("expect")
    @classmethod
    def _can_be_planned(cls, expect: dict[str, float]) -> dict[str, float]:
        ids = [_expectation_id(key) for key in expect]
        if twice := [name for name in ids if ids.count(name) > 1]:
            raise ValueError(f"{str(twice[0])!r} is given twice; give it once")
        return expect

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if not any(criterion.required for criterion in self.criteria):
            raise ValueError("no criterion is required, so every model passes; require at least one")
        ids = [criterion.id for criterion in self.each_criterion()]
        for each in ids:
            if ids.count(each) > 1:
                raise ValueError(f"the criterion {each!r} is given twice")
            if each.value not in ("", EACH) and each.but(value=EACH) in ids:
                raise ValueError(f"the criterion {each!r} is given twice: @{each.column}=each includes it")
            self._is_declared(each)
        self._readers_are_half_of_it()
        return self

    def _readers_are_half_of_it(self) -> None:
        """Raise ValueError where readers are compared in one rate alone, or without an absolute floor.

        Readers who miss much, or a rate bought with the other one, would make any model not worse.
        """
        written = {criterion.id: criterion for criterion in self.each_criterion()}
        for name, asked in written.items():
            if name.against != "readers":
                continue
            for of in ("sensitivity", "specificity"):
                other = written.get(name.but(of=of))
                if other is None or other.required < asked.required:
                    raise ValueError(
                        f"{name!r} also needs {name.but(of=of)!r}{', required' if other else ''}: a model can match "
                        "readers in one of both at the cost of the other"
                    )
                floor = written.get(MetricId(of, name.target))
                if floor is None or not floor.upward or not floor.required:
                    raise ValueError(
                        f"{name!r} also needs a required criterion {of}:{name.target} with at_least or above: readers "
                        "can be poor"
                    )

    def _is_declared(self, name: MetricId) -> None:
        """Raise ValueError where a criterion uses a slice or a deployment mix that the checklist does not declare."""
        if name.deployed and self.deployment is None:
            raise ValueError(f"{name!r}: give the mix of grades at deployment, with the key deployment")
        if not name.column:
            return
        columns = {one.by: one for one in self.slices}
        if name.column not in columns:
            near = difflib.get_close_matches(name.column, columns, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"add {{by: {name.column}}} to slices"
            raise ValueError(f"{name!r}: the column {name.column!r} is not among the slices; {hint}")
        slice_name = columns[name.column].name_of(name.value)
        if slice_name != name.value and name.value not in (columns[name.column].groups or {}):
            raise ValueError(f"{name!r}: {name.value!r} is part of the group {slice_name!r}; name the group")

    def each_criterion(self, values: Mapping[str, Sequence[str]] | None = None) -> list[Criterion]:
        """The criteria with `:each` written out for the five grades, and `@column=each` for the slices.

        values: names of the slices that the test set has, by column. Groups that the checklist names are always
        written out, so that one without images is noticed; where there is neither, the criterion stays with `=each`.
        """
        groups = {one.by: tuple(one.groups or ()) for one in self.slices}
        written = []
        for criterion in self.criteria:
            name = criterion.id
            targets = GRADES if name.target == EACH else (name.target,)
            present: Sequence[str] = (name.value,)
            if name.value == EACH:
                found = [*groups.get(name.column, ()), *(values or {}).get(name.column, ())]
                present = list(dict.fromkeys(found)) or (EACH,)
            for value in present:
                for target in targets:
                    written.append(criterion.model_copy(update={"id": name.but(target=target, value=value)}))
        return written

    @property
    def asks_readers(self) -> bool:
        """Whether a criterion compares with human readers."""
        return any(criterion.id.against == "readers" for criterion in self.criteria)

    @property
    def columns(self) -> tuple[str, ...]:
        """The further columns of a table that it uses, sorted: what it slices by, and the site."""
        return tuple(sorted({one.by for one in self.slices} | ({self.site_column} if self.site_column else set())))

    @property
    def stability_window(self) -> int:
        """Number of evaluations that stability uses."""
        return next((c.window for c in self.criteria if c.id.metric == "stability" and c.window), STABILITY_WINDOW)

    def fewest_positives(self, criterion: Criterion) -> int:
        """Fewest units in the denominator for a criterion on a slice to be assessed; 0 where it is on no slice."""
        if not criterion.id.column:
            return 0
        if criterion.min_positives is not None:
            return criterion.min_positives
        return next(one.min_positives for one in self.slices if one.by == criterion.id.column)

    def expected(self, asked: MetricId) -> float | None:
        """The true value that the checklist expects of a metric, in (0, 1); None where it does not say.

        A grade or group means its sensitivity. `specificity:each` is for all five grades, and an expectation without a
        slice for every slice; none is for the deployment mix.
        """
        stated = {_expectation_id(key): value for key, value in self.expect.items()}
        for where in (asked, asked.but(value=EACH if asked.column else ""), asked.but(column="", value="")):
            for name in (where, where.but(target=EACH)):
                if name in stated and (name.target != EACH or asked.target in GRADES):
                    return stated[name]
        if asked.about.complement:
            found = self.expected(asked.but(metric=asked.about.complement))
            return None if found is None else 1 - found
        return None

    def content(self) -> dict[str, Any]:
        """The whole checklist as plain values, defaults included; `parse_checklist` of it gives the same checklist."""
        return self.model_dump(mode="json", exclude_none=True)

    @functools.cached_property
    def digest(self) -> str:
        """`sha256:...` over the canonical content: comments, order of keys and layout do not matter."""
        return digest_of(self.content())


def _expectation_id(key: str) -> MetricId:
    """The metric of a key of `expect`. Raises ValueError."""
    if key in GRADES or key in GROUPS:
        return MetricId("sensitivity", key)
    if ":" not in key and (near := difflib.get_close_matches(key, [*GRADES, *GROUPS], 1)) and key not in METRICS:
        raise ValueError(f"there is no grade or group {key!r}; did you mean {near[0]!r}?")
    name = _known(read_id(key))
    if not name.about.is_expected:
        raise ValueError(f"{key!r} is neither a proportion of images nor a kappa; only these can be planned for")
    return name


def _nearest(typed: str, known: Sequence[str] | Mapping[str, Any], otherwise: str = "there are") -> str:
    near = difflib.get_close_matches(typed, list(known), 1)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise} {', '.join(known)}"


def grade_mix(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares of the five grades, in their order. Raises ValueError unless all are given and sum to 1 within 1e-6."""
    for grade, share in shares.items():
        if grade not in GRADES:
            raise ValueError(f"there is no grade {grade!r}; {_nearest(grade, GRADES)}")
        if not 0 <= share <= 1:
            raise ValueError(f"{grade}: {not_a_fraction(share)}")
    if lacking := [grade for grade in GRADES if grade not in shares]:
        raise ValueError(f"the mix lacks {', '.join(lacking)}; give all five grades, 0 where there are none")
    total = math.fsum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"the shares of the five grades sum to {total:.9g}, not to 1")
    return {grade: shares[grade] for grade in GRADES}


def level_words(level: float) -> str:
    r"""A level as people write it: up to three decimals in full, more of them rounded to one (two from 99 %).

    >>> level_words(0.95), level_words(1 - 0.05 / 3), level_words(0.9975), level_words(1 - 0.05 / 7)
    ('95\xa0%', '98.3\xa0%', '99.75\xa0%', '99.29\xa0%')
    """
    percent = 100 * level
    whole = abs(percent - round(percent, 3)) < 1e-9
    return f"{round(percent, 3 if whole else 1 if level < 0.99 else 2):g}\N{NO-BREAK SPACE}%"


def percent_words(value: float, near: float | None = None) -> str:
    """A fraction as a percentage, with enough digits to differ from `near`; never 0 or 100 where it is not.

    >>> percent_words(0.9496), percent_words(0.9496, 0.95), percent_words(0.99962), percent_words(1.0)
    ('95.0 %', '94.96 %', '> 99.9 %', '100.0 %')
    """
    for digits in (1, 2, 3, 4):
        text = f"{100 * value:.{digits}f}"
        if near is None or value == near or text != f"{100 * near:.{digits}f}":
            break
    if 1e-9 < value < 1 - 1e-9 and float(text) in (0.0, 100.0):
        step = 10.0**-digits
        text = f"< {step:.{digits}f}" if value < 0.5 else f"> {100 - step:.{digits}f}"
    return f"{text} %"


def not_a_fraction(value: float) -> str:
    """Why a value is refused, with the fraction that a percentage means."""
    hint = f": did you mean {value / 100:g}?" if 1 < value <= 100 else ""
    return f"{value:g} is not a fraction between 0 and 1{hint}"


def shipped() -> list[str]:
    """Names of the checklists that ship with drgate."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files("thresholds").iterdir()
        if entry.name.endswith(".yaml")
    )


def load_checklist(name: str | Path) -> Checklist:
    """A checklist that ships with drgate, by name (`medical-grade`), or from a YAML file.

    Raises ChecklistError, naming the key, for anything that is not a valid checklist, and for a file that has the name
    and version of a checklist that ships, but other content: certificates name their checklist by these.
    """
    checklist = read_checklist(name)
    if str(name) not in shipped():
        refuse_impostor(checklist, str(name))
    return checklist


def refuse_impostor(checklist: Checklist, origin: str) -> None:
    """Raise ChecklistError for a checklist with the name and version of one that ships, but other content."""
    if checklist.name in shipped():
        ours = read_checklist(checklist.name)
        if ours.version == checklist.version and ours.digest != checklist.digest:
            raise ChecklistError(
                f"{origin} has the name {checklist.name} and version {checklist.version} of a checklist that ships "
                f"with drgate, but other contents (see drgate spec diff {checklist.name} {origin}); raise its version "
                "or rename it."
            )


def read_checklist(name: str | Path) -> Checklist:
    """As `load_checklist`, without `refuse_impostor`: to show and compare a checklist, not to judge by it."""
    if str(name) in shipped():
        with resources.as_file(resources.files("thresholds") / f"{name}.yaml") as file:
            return parse_checklist(read_yaml(file, "a checklist", ChecklistError), str(name))
    path = Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(str(name), shipped(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(shipped())}, or give a YAML file."
        raise ChecklistError(f"There is no checklist {str(name)!r}: {hint}")
    return parse_checklist(read_yaml(path, "a checklist", ChecklistError), str(path))


def parse_yaml(data: bytes, origin: str) -> Checklist:
    """The checklist in YAML bytes; `origin` names it in messages."""
    return parse_checklist(plain_yaml(data, origin, "a checklist", ChecklistError), origin)


def parse_checklist(content: object, origin: str) -> Checklist:
    """The checklist in plain values, as in YAML or a certificate."""
    if not isinstance(content, Mapping):
        raise ChecklistError(f"{origin} is not a checklist; expected keys such as name, version and criteria.")
    try:
        return Checklist.model_validate(dict(content))
    except ValidationError as problem:
        raise ChecklistError(f"{origin}: {_explained(problem)}") from problem


def schema() -> dict[str, Any]:
    """The JSON Schema of a checklist, for editors; published as thresholds/checklist.schema.json.

    It accepts everything that `parse_checklist` accepts, and some combinations that it refuses.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Checklist.model_json_schema()}


def _explained(problem: ValidationError) -> str:
    """The first thing wrong, with the place and, for a misspelt key, the nearest right one."""
    # A misspelt key is also reported as a missing one; the key as typed helps more.
    first = min(problem.errors(), key=lambda error: error["type"] != "extra_forbidden")
    where = _place(first["loc"])
    if first["type"] == "extra_forbidden":
        known = _model_at(first["loc"][:-1]).model_fields
        *outer, key = first["loc"]
        hint = ended(_nearest(str(key), known, "expected"))
        return f"{_place(outer)}: there is no key {key!r}; {hint}" if outer else f"there is no key {key!r}; {hint}"
    if first["type"] == "missing":
        *outer, key = first["loc"]
        at = f"{_place(outer)}: " if outer else ""
        return f"{at}the key {key} is missing; for an example: drgate spec show medical-grade."
    if first["type"] == "model_type":
        wanted = "for example {id: accuracy, at_least: 0.9}" if first["loc"][0] == "criteria" else "keys with values"
        return f"{where} is {first['input']!r}; expected {wanted}."
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    ctx = first.get("ctx", {})
    limit = ctx.get("lt", ctx.get("le"))
    if limit is not None and 0.99 < limit <= 1 and isinstance(first["input"], int | float) and first["input"] >= 1:
        message = not_a_fraction(first["input"])
    return f"{where}: {ended(message)}" if where else ended(message)


def _place(parts: Sequence[int | str]) -> str:
    """Where in a checklist: ("criteria", 1, "id") is "criterion 2", its keys follow after a comma."""
    shown: list[str] = []
    for part in parts:
        if isinstance(part, int):
            name = shown.pop()
            shown.append(f"{'criterion' if name == 'criteria' else name} {part + 1}")
        else:
            shown.append(part)
    if len(shown) > 1 and parts[0] == "criteria" and shown[-1] == "id":
        shown.pop()
    return ", ".join(shown) if parts and parts[0] == "criteria" else ".".join(shown)


def ended(message: str) -> str:
    """A message as a sentence."""
    return message if message.endswith("?") else f"{message}."


def _model_at(place: Sequence[int | str]) -> type[BaseModel]:
    """The part of the checklist that holds the keys at a place."""
    model: type[BaseModel] = Checklist
    for part in place:
        if isinstance(part, str):
            model = next(_models_in(model.model_fields[part].annotation))
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models_in(inner)
