"""The checklist as data: what a model must show, and on what evidence.

    spec = load_spec("medical-grade")            # a name that ships, or a YAML file
    spec.criteria[0]                             # Criterion(id='accuracy', at_least=0.9, ...)
    spec.digest                                  # 'sha256:...' over the whole content, defaults included

A checklist is YAML 1.2 without anchors; unknown keys, duplicate keys and numbers typed as percentages are refused.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import io
import math
from collections.abc import Mapping
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from drgate.errors import SpecError
from drgate.files import canonical_json
from drgate.scale import GRADES, GROUPS

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 20
TARGETS: Final[dict[str, tuple[str, ...]]] = {
    "accuracy": (),
    "balanced_accuracy": (),
    "kappa": (),
    "linear_kappa": (),
    "quadratic_kappa": (),
    "sensitivity": (*GRADES, *GROUPS),
    "specificity": (*GRADES, *GROUPS),
    "ppv": (*GRADES, *GROUPS),
    "npv": (*GRADES, *GROUPS),
    "auc": (*GRADES, *GROUPS),
    "undergraded": ("vision_threatening_below_referable", "by_two"),
    "overgraded": ("by_two",),
    "no_output": ("", *GRADES),
    "stability": (),
    "baseline": (),
    "cost": (),
}
"""Metrics, each with the grades or groups it can be asked for ("" where it can stand alone as well)."""

Comparator = Literal[">=", ">", "<=", "<"]
NoOutputPolicy = Literal["excluded", "as_referred", "worst_case"]


def default_policy(metric_id: str) -> NoOutputPolicy:
    """How images without output count where a criterion does not say.

    A group is a decision to refer, and an eye without output is referred; an exact grade is judged over images with
    output, with a line of its own for those without.
    """
    metric, _, target = metric_id.partition(":")
    group = target in GROUPS or target == "vision_threatening_below_referable"
    return "as_referred" if group and metric != "auc" else "excluded"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Criterion(_Frozen):
    """One line of the checklist: a metric, one threshold, and whether the verdict rests on it."""

    id: str = Field(
        description="metric or metric:grade, e.g. sensitivity:pdr; `metric:each` stands for all five grades"
    )
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    required: bool = True
    added: Literal["", "safety"] = ""
    no_output: NoOutputPolicy | None = Field(
        default=None,
        description="how images without output count; default: excluded for grades, as_referred for groups",
    )
    window: int | None = Field(default=None, ge=6, description="evaluations that `stability` looks at")
    margin: float | None = Field(default=None, gt=0, lt=1, description="non-inferiority margin of `baseline`")
    reference_value: float | None = Field(default=None, ge=0, le=1, description="a bare earlier figure, shown only")
    unit: Literal["USD"] | None = None

    @property
    def metric(self) -> str:
        """The part of the id before the colon."""
        return self.id.partition(":")[0]

    @property
    def target(self) -> str:
        """The grade or group after the colon; empty where there is none."""
        return self.id.partition(":")[2]

    @property
    def comparator(self) -> Comparator:
        """As a sign. Non-inferiority is `>`: the bound of the difference must lie above minus the margin."""
        given: tuple[tuple[float | None, Comparator], ...] = (
            (self.at_least, ">="), (self.above, ">"), (self.at_most, "<="), (self.below, "<"),
        )  # fmt: skip
        return next((sign for value, sign in given if value is not None), ">")

    @property
    def threshold(self) -> float:
        """The threshold, in the units of the metric (proportions in [0, 1], differences in [-1, 1], USD)."""
        if self.margin is not None:
            return -self.margin
        return next(v for v in (self.at_least, self.above, self.at_most, self.below) if v is not None)

    @property
    def exact_threshold(self) -> Fraction:
        """The threshold as it was written: 0.95 is 95/100, so that 38 of 40 meets it."""
        return Fraction(repr(self.threshold))

    @property
    def policy(self) -> NoOutputPolicy:
        """How images without output count in this criterion."""
        return self.no_output or default_policy(self.id)

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.metric not in TARGETS:
            near = difflib.get_close_matches(self.metric, TARGETS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(TARGETS)}"
            raise ValueError(f"there is no metric {self.metric!r}{hint}")
        allowed = TARGETS[self.metric]
        targets = {"each", *allowed} if set(GRADES) <= set(allowed) else set(allowed) or {""}
        if self.target not in targets:
            raise ValueError(
                f"{self.id!r}: {self.metric} takes "
                + (f"one of {', '.join(sorted(targets - {''}))}" if targets != {""} else "no grade")
            )
        if self.no_output == "as_referred" and default_policy(self.id) != "as_referred":
            raise ValueError(
                f"{self.id!r}: no_output as_referred is defined for the groups {' and '.join(GROUPS)} only"
            )
        if self.no_output is not None and self.metric in ("auc", "no_output", "stability", "baseline", "cost"):
            raise ValueError(f"{self.id!r}: no_output does not apply to it")
        if self.id.endswith(":"):
            raise ValueError(f"{self.id!r}: a grade is missing after the colon")
        bounds = [value for value in (self.at_least, self.above, self.at_most, self.below) if value is not None]
        if self.metric == "baseline":
            if bounds or self.margin is None:
                raise ValueError("baseline takes a margin, such as 0.02, and no threshold")
            return self
        if self.window is not None and self.metric != "stability":
            raise ValueError(f"{self.id!r}: window belongs to stability")
        if self.unit is not None and self.metric != "cost":
            raise ValueError(f"{self.id!r}: a unit belongs to cost")
        if self.margin is not None or self.reference_value is not None:
            raise ValueError(f"{self.id!r}: margin and reference_value belong to baseline")
        if len(bounds) != 1:
            raise ValueError(f"{self.id!r}: give exactly one of at_least, above, at_most, below")
        if self.metric == "cost":
            if not 0 < bounds[0] < math.inf or (self.below is None and self.at_most is None):
                raise ValueError("cost takes a positive amount as below or at_most")
        elif not 0 <= bounds[0] <= 1:
            hint = f": did you mean {bounds[0] / 100:g}?" if 1 < bounds[0] <= 100 else ""
            raise ValueError(f"{self.id!r}: {bounds[0]:g} is not a fraction between 0 and 1{hint}")
        return self


class Evidence(_Frozen):
    """What the decisions rest on."""

    decide_on: Literal["bound", "point"] = "bound"
    level: float = Field(default=0.95, ge=0.5, lt=1, description="two-sided; 0.95 is one-sided 97.5 % for a bound")
    interval: Literal["clopper-pearson", "wilson"] = "clopper-pearson"
    cluster: Literal["patient"] = "patient"
    one_image_per_patient: bool = Field(
        default=False, description="declares, where no patient is named, that every image is of another patient"
    )


class Bootstrap(_Frozen):
    """The intervals shown beside."""

    resamples: int = Field(default=10_000, ge=1000, le=1_000_000)


class IntendedUse(_Frozen):
    """For whom and how; `not stated` is printed on page one."""

    population: str = "not stated"
    setting: str = "not stated"
    cameras: str = "not stated"
    images_an_eye: str = "not stated"
    user: str = "not stated"
    role: str = "not stated"
    without_output: str = "not stated"


class Reference(_Frozen):
    """How the reference grades came to be."""

    graders: str = "not stated"
    qualification: str = "not stated"
    adjudication: str = "not stated"
    masked: str = "not stated"
    kappa: str = "not stated"


class TestSet(_Frozen):
    """What kind of test set the checklist speaks of."""

    kind: str = Field(default="not stated", description="internal split, external site or prospective")
    sampling: str = Field(default="not stated", description="consecutive or enriched")


class GateSpec(_Frozen):
    """A checklist. See docs/checklists.md."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    version: int = Field(ge=1)
    unit: Literal["image", "eye", "patient"] = "image"
    evidence: Evidence = Evidence()
    bootstrap: Bootstrap = Bootstrap()
    looks: int = Field(default=1, ge=1, le=100, description="how often the test set may be looked at, in all")
    intended_use: IntendedUse = IntendedUse()
    reference: Reference = Reference()
    test_set: TestSet = TestSet()
    expect: dict[str, float] = Field(default={}, description="expected true values, for planning")
    criteria: list[Criterion]

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if not any(criterion.required for criterion in self.criteria):
            raise ValueError("no criterion is required: a checklist that cannot fail certifies nothing")
        ids = [criterion.id for criterion in self.each_criterion()]
        twice = {name for name in ids if ids.count(name) > 1}
        if twice:
            raise ValueError(f"the criterion {sorted(twice)[0]!r} stands twice")
        for name, value in self.expect.items():
            if name not in GRADES + tuple(GROUPS) + ("accuracy",) or not 0 < value < 1:
                raise ValueError(f"expect: {name}: {value:g}; expected a grade and a fraction between 0 and 1")
        return self

    def each_criterion(self) -> list[Criterion]:
        """The criteria with `:each` written out for the five grades."""
        written = []
        for criterion in self.criteria:
            targets = GRADES if criterion.target == "each" else (criterion.target,)
            for target in targets:
                name = f"{criterion.metric}:{target}" if target else criterion.metric
                written.append(criterion.model_copy(update={"id": name}))
        return written

    def content(self) -> dict[str, Any]:
        """The whole checklist as plain values, defaults included; `parse_spec` of it gives the same spec."""
        return self.model_dump(mode="json", exclude_none=True)

    @functools.cached_property
    def digest(self) -> str:
        """`sha256:...` over the canonical content: comments, order of keys and layout do not matter."""
        return f"sha256:{hashlib.sha256(canonical_json(self.content())).hexdigest()}"


def shipped() -> list[str]:
    """Names of the specs that ship with drgate."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files("thresholds").iterdir()
        if entry.name.endswith(".yaml")
    )


def load_spec(name: str | Path) -> GateSpec:
    """The spec of a name that ships (`medical-grade`) or of a YAML file.

    Raises SpecError, naming the key, for anything that is not a valid checklist.
    """
    if str(name) in shipped():
        return parse_yaml((resources.files("thresholds") / f"{name}.yaml").read_bytes(), str(name))
    path = Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(str(name), shipped(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(shipped())}, or give a YAML file."
        raise SpecError(f"There is no spec {str(name)!r}: {hint}")
    if path.stat().st_size > MAX_BYTES:
        raise SpecError(f"{path} is larger than 1 MB: that is not a checklist.")
    return parse_yaml(path.read_bytes(), str(path))


def parse_yaml(data: bytes, origin: str) -> GateSpec:
    """The spec in YAML bytes; `origin` names it in messages."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent

    yaml = YAML(typ="safe", pure=True)
    depth = 0
    try:
        for event in yaml.parse(io.BytesIO(data)):
            if (isinstance(event, NodeEvent) and event.anchor is not None) or isinstance(event, AliasEvent):
                raise SpecError(f"{origin} uses YAML anchors; a checklist is written out.")
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise SpecError(f"{origin} is nested more than {MAX_DEPTH} deep: that is not a checklist.")
        content = YAML(typ="safe", pure=True).load(io.BytesIO(data))
    except (YAMLError, ValueError, RecursionError) as problem:
        raise SpecError(f"{origin} is not valid YAML: {_one_line(problem)}") from problem
    return parse_spec(content, origin)


def parse_spec(content: object, origin: str) -> GateSpec:
    """The spec in plain values, as YAML or a certificate holds it."""
    if not isinstance(content, Mapping):
        raise SpecError(f"{origin} is not a checklist; expected keys such as name, version and criteria.")
    try:
        return GateSpec.model_validate(dict(content))
    except ValidationError as problem:
        raise SpecError(f"{origin}: {_explained(problem)}") from problem


def schema() -> dict[str, Any]:
    """The JSON Schema of a checklist, for editors."""
    return GateSpec.model_json_schema()


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())


def _explained(problem: ValidationError) -> str:
    """The first thing wrong, with the place and, for a misspelt key, the nearest right one."""
    # A misspelt key is also a missing one; what was typed says more than what was not.
    first = min(problem.errors(), key=lambda error: error["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model: type[BaseModel] = GateSpec
        for part in first["loc"][:-1]:
            model = Criterion if isinstance(part, int) or part == "criteria" else _submodel(model, str(part))
        near = difflib.get_close_matches(str(first["loc"][-1]), model.model_fields, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(model.model_fields)}."
        return f"there is no key {where!r}; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    message += "" if message.endswith("?") else "."
    return f"{where}: {message}" if where else message


def _submodel(model: type[BaseModel], name: str) -> type[BaseModel]:
    annotation = model.model_fields[name].annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else model
