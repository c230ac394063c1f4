"""What an evaluation found: frozen types that read and write themselves as JSON.

    evaluation = Evaluation.from_json(json.loads(text))
    evaluation.to_json() == json.loads(text)          # the law: nothing is lost and nothing is added

Reading is the check: unknown keys, missing keys and values of another type are refused. Undefined is a status with a
reason, never NaN; keys that do not apply are absent from the JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)

from drgate.errors import ANSWERS, DrgateError, ExitCode
from drgate.files import canonical_json, parse_moment
from drgate.metrics import LEAKS, MetricId
from drgate.scale import SCALE_TITLES, Kind, On, Scale

if TYPE_CHECKING:
    from drgate.preprocessing import Preprocessing

Status = Literal["PASS", "OBSERVED", "FAIL", "INSUFFICIENT", "NOT_ASSESSED"]
Verdict = Literal["PASS", "OBSERVED", "FAIL", "INSUFFICIENT"]
EXPORTED: Final[tuple[Verdict, ...]] = ("PASS", "OBSERVED")
"""Verdicts of a model that may be exported; OBSERVED only where that is allowed."""

BY_VALUE: Final = ("range", "amount", "count")
"""Kinds of metrics that have no interval: the value decides."""

FORMAT: Final = "drgate evaluation 3"
MAX_VALID_DAYS: Final = 3650


def _moment(text: str) -> str:
    parse_moment(text)
    return text


Moment = Annotated[str, AfterValidator(_moment)]
"""ISO 8601 in UTC to the second, such as 2026-01-31T09:00:00Z."""


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len({*names}) < len(names):
        raise ValueError("a reader is named twice")
    return names


_Readers = Annotated[tuple[Annotated[str, Field(pattern="^reader_[1-9][0-9]{0,3}$")], ...], AfterValidator(_distinct)]
_Count = Annotated[int, Field(ge=0)]
_Number = Annotated[int, Field(ge=1)]
_Grade = Annotated[int, Field(ge=0, le=4)]
_OtherThanGrade = Literal["not gradable", "not referable", "referable"]
_ByGrade = Annotated[tuple[_Count, ...], Field(min_length=2, max_length=5)]


class Typed:
    """How the types below are read: exactly their keys, each value of exactly its type, finite numbers."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


_T = TypeVar("_T")


_ADAPTERS: Final[dict[Any, TypeAdapter[Any]]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Built when first needed: reading nothing costs nothing."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def read_as(kind: type[_T], plain: object, origin: str, *, expected: str, error: type[DrgateError] = DrgateError) -> _T:
    """Plain JSON values as one of the types below. Raises `error`, naming `origin` and the place, for others."""
    try:
        found: _T = _adapter(kind).validate_json(canonical_json(plain))
    except ValidationError as problem:
        first = problem.errors()[0]
        raise error(f"{origin}: {_explained(first, plain)}; expected {expected}.") from problem
    except (TypeError, ValueError, RecursionError) as problem:
        raise error(
            f"{origin} has a value that JSON cannot hold, or is nested too deep; expected {expected}."
        ) from problem
    return found


def _explained(problem: Any, plain: Any) -> str:
    """One of pydantic's errors with the place in the JSON, without the names of types on the way there."""
    place: list[str] = []
    for part in problem["loc"]:
        if part in plain if isinstance(plain, dict) else isinstance(plain, list) and part in range(len(plain)):
            place.append(str(part))
            plain = plain[part]
    where = ".".join(place) or "it"
    match problem["type"]:
        case "missing":
            return f"{where} has no {problem['loc'][-1]}"
        case "unexpected_keyword_argument":
            return f"{where} is not a known key"
        case "value_error":
            return f"{where}: {problem['ctx']['error']}"
        case "dataclass_type" | "dataclass_exact_type" | "dict_type":
            return f"{where} should be an object with named values"
    return f"{where}: {problem['msg']}"


def plain_of(typed: Typed) -> dict[str, Any]:
    """The inverse of `read_as`: plain JSON values, without the keys that do not apply."""
    plain: dict[str, Any] = _adapter(type(typed)).dump_python(typed, mode="json", by_alias=True, exclude_none=True)
    return plain


# -- measured ----------------------------------------------------------------------------------------------------------


def _limits(plain: object) -> tuple[Any, Any]:
    if not isinstance(plain, dict) or set(plain) != {"low", "high"}:
        raise ValueError("should be an object with low and high")
    return plain["low"], plain["high"]


_Limits = Annotated[
    tuple[float, float], BeforeValidator(_limits), PlainSerializer(lambda ends: {"low": ends[0], "high": ends[1]})
]


@dataclass(frozen=True, slots=True)
class Estimate(Typed):
    """One measured quantity with its interval.

    kind: "proportion" (k of n, in [0, 1]), "index" (kappa, AUC), "difference" (of proportions, in [-1, 1]), "range" (of
        accuracies, in [0, 1]), "amount" (USD) or "count" (what an audit found).
    k, n: counts of a proportion; n alone counts the images behind an index, or what an audit compared of the test set.
    value: k/n for a proportion.
    low, high: the interval that decides, at two-sided `level`; absent where a quantity has none (a cost).
    method: what made the interval, e.g. "clopper-pearson", "patient bootstrap, percentile".
    clusters: patients that contribute; absent where patients are unknown.
    design_effect: by how much clustering inflates the variance (1 = independent images).
    bootstrap: (low, high) of the bootstrap, shown beside and never deciding for a proportion.
    bootstrap_undefined: replicates in which the quantity was not defined, left out of that interval.
    expected: what a perfectly calibrated model would show here (of a calibration error).
    """

    kind: Literal["proportion", "index", "difference", "range", "amount", "count"]
    value: float
    k: _Count | None = None
    n: _Count | None = None
    low: float | None = None
    high: float | None = None
    level: Annotated[float, Field(gt=0, lt=1)] | None = None
    method: str | None = None
    clusters: _Count | None = None
    design_effect: float | None = None
    bootstrap: _Limits | None = None
    bootstrap_undefined: _Count | None = None
    expected: float | None = None
    status: Literal["estimated"] = "estimated"


@dataclass(frozen=True, slots=True)
class NotEstimable(Typed):
    """A quantity that these data do not define, and why."""

    reason: str
    status: Literal["not_estimable"] = "not_estimable"


Metric = Estimate | NotEstimable


def _possible(metric: Metric) -> Metric:
    if isinstance(metric, Estimate) and metric.k is not None and (metric.n is None or metric.k > metric.n):
        raise ValueError(f"{metric.k} of {metric.n or 0} is not a proportion")
    return metric


_Metric = Annotated[Metric, Field(discriminator="status"), AfterValidator(_possible)]


@dataclass(frozen=True, slots=True)
class CriterionResult(Typed):
    """One criterion of the checklist, judged.

    status: PASS; OBSERVED (the estimate meets the rule and the checklist decides on estimates, which shows nothing);
        FAIL (the estimate misses the rule); INSUFFICIENT (the estimate meets the rule, the bound does not, or nothing
        can pass on this test set); NOT_ASSESSED (nothing to judge by, with what is missing).
    threshold: in the units of the estimate; of a rule with two ends the lower, and `ceiling` the upper one.
    decided_on: "bound" (a limit of the interval) or "point" (the estimate).
    required: whether the verdict rests on it; the others are advisory.
    added: "safety" for criteria that the owner's checklist did not have; "audit" for a check that the checklist does
        not list and that found something; empty otherwise.
    reason: a sentence for a clinician.
    shown: of a FAIL, whether the whole interval misses the rule; absent for every other status.
    all_comers: where images without output are left out of the estimate: the same proportion with these as the worst
        case; of an index, the share left out. It must be within the checklist's allowance too.
    would_pass: it meets the rule, and is INSUFFICIENT only because nothing can pass on this test set.
    """

    id: MetricId
    status: Status
    comparator: Literal[">=", ">", "<=", "<"]
    threshold: float
    decided_on: Literal["bound", "point"]
    required: bool
    added: str
    estimate: _Metric
    reason: str
    shown: bool | None = None
    all_comers: _Metric | None = None
    would_pass: bool = False
    ceiling: float | None = None


def verdict_of(criteria: Iterable[CriterionResult], *, observed: bool) -> Verdict:
    """FAIL if a required criterion failed, else INSUFFICIENT if one is not met, else PASS.

    observed: whether the checklist decides on estimates; then OBSERVED takes the place of PASS.
    """
    required = {criterion.status for criterion in criteria if criterion.required}
    if "FAIL" in required:
        return "FAIL"
    if not required or not required <= {"PASS", "OBSERVED"}:
        return "INSUFFICIENT"
    return "OBSERVED" if observed else "PASS"


# -- given -------------------------------------------------------------------------------------------------------------


def _settings(content: dict[str, Any]) -> dict[str, Any]:
    """What is read of a checklist without parsing it, which would slow down the start of `verify` and `gate`."""
    evidence, days = content.get("evidence"), content.get("valid_days")
    if not isinstance(evidence, dict) or evidence.get("decide_on") not in ("bound", "point"):
        raise ValueError("evidence should have decide_on: bound or point")
    if content.get("purpose", "clinical") not in ("clinical", "pipeline"):
        raise ValueError("purpose should be clinical or pipeline")
    if days is not None and (type(days) is not int or not 1 <= days <= MAX_VALID_DAYS):
        raise ValueError(f"valid_days should be a number of days, 1 to {MAX_VALID_DAYS}")
    return content


@dataclass(frozen=True, slots=True)
class HeldAgainst(Typed):
    """The checklist: its digest is over `content`, which is all of it as plain values."""

    name: str
    version: int
    digest: str
    content: Annotated[dict[str, Any], AfterValidator(_settings)]


@dataclass(frozen=True, slots=True)
class File(Typed):
    """One file by its content. sha256, md5: lower-case hex; size: in bytes."""

    name: str
    sha256: str
    size: int | None = None
    md5: str | None = None


Role = Literal["model", "data", "config", "preprocessing", "labels", "cut_offs", "quality", "code", "table"]
"""What a file is to the model. Only `model` opens a guarded file; `data` is what the model file itself names (external
tensors, shards); `table` is a table of predictions whose model is not known."""


def _bare(name: str) -> str:
    if name in ("", ".", "..") or name != name.strip() or not name.isprintable() or set(name) & set("/\\:"):
        raise ValueError("should be the bare name of a file, without a folder")
    return name


@dataclass(frozen=True, slots=True)
class Subject(Typed):
    """One file of what is certified, by its content and its role. sha256, md5: lower-case hex; size: in bytes."""

    name: Annotated[str, AfterValidator(_bare), Field(max_length=255)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: _Count
    role: Role
    md5: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None


@dataclass(frozen=True, slots=True)
class Scoring(Typed):
    """Who ran the model on the images.

    by: "this run" (the evaluation scored the images itself); "signed" (a table that `drgate score --key` signed: key is
    the SHA-256 of the scorer's public key, statement the digest of what it signed); "elsewhere" (a table that names a
    model, which nothing proves).
    """

    by: Literal["this run", "signed", "elsewhere"]
    key: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    statement: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")] | None = None


@dataclass(frozen=True, slots=True)
class Outcome(Typed):
    """How one criterion came out in an earlier certificate."""

    status: Status
    k: _Count | None = None
    n: _Count | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Flip(Typed):
    """So many images had the grade `before` from the parent and have the grade `after` from the exported model."""

    before: int
    after: int
    images: _Count


@dataclass(frozen=True, slots=True)
class Calibration(Typed):
    """The photographs on which int8 was calibrated. digest: `sha256:...` over the set of their contents."""

    images: _Number
    digest: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class Changes(Typed):
    """What an export changed in the answers, paired by image with the parent's.

    images: with an answer of both. lost: with an answer of the parent alone. flips: every change of grade, in order; of
    a model that only refers, grade 2 is referable and 0 is not. largest: change of any probability (of a regression: of
    its number). difference: accuracy of the exported model minus the parent's, where one of the two does not grade, the
    share rightly referred; margin: of `drgate.compare`; shown: whether it is shown to be non-inferior. calibration: of
    int8.
    """

    images: _Count
    flips: tuple[Flip, ...]
    largest: float
    lost: _Count = 0
    difference: _Metric | None = None
    margin: float | None = None
    shown: bool | None = None
    calibration: Calibration | None = None


Precision = Literal["fp32", "bf16", "fp16", "int8"]
"""In which numbers a network computes."""


@dataclass(frozen=True, slots=True)
class Computed(Typed):
    """How answers were computed: on which devices, in which numbers, how many images at a time; absent: not known."""

    providers: tuple[str, ...] | None = None
    precision: Precision | None = None
    batch: _Count | None = None

    @property
    def device(self) -> str | None:
        """The first of the devices; torch and ONNX Runtime call a processor otherwise."""
        first = (self.providers or (None,))[0]
        return "cpu" if first == "CPUExecutionProvider" else first

    def differs(self, other: Computed) -> bool:
        """Whether two sets of answers were computed in another way; not where nothing is known of one of them."""
        known = Computed() not in (self, other)
        return known and any(getattr(self, part) != getattr(other, part) for part in ("device", "precision", "batch"))

    def beside(self, other: Computed) -> tuple[str, str]:
        """Both in words; the size of the batches only where it is another."""
        shown = self.batch != other.batch
        return self._words(batch=shown), other._words(batch=shown)

    def _words(self, *, batch: bool) -> str:
        many = f", {self.batch} at a time" if batch and self.batch else ""
        device = (self.providers or ("a device that is not known",))[0]
        return f"on {device} in {self.precision or 'a precision that is not known'}{many}"


@dataclass(frozen=True, slots=True)
class Reference(Typed):
    """An earlier certificate, by the digest of its statement, and what it found.

    spec, test_set: digests. criteria: by id. computed: how its answers were computed. changes: against the answers
    that it is of, where these were at hand.
    """

    statement: str
    name: str
    verdict: Verdict
    spec: str
    criteria: dict[MetricId, Outcome]
    test_set: str | None = None
    tensor_digest: str | None = None
    computed: Computed | None = None
    changes: Changes | None = None


@dataclass(frozen=True, slots=True)
class Base(Typed):
    """The base model that a checkpoint was trained from; `use` and `pretraining` as its makers declare."""

    id: str
    digest: str
    use: str
    pretraining: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Lora(Typed):
    r: int
    alpha: float


@dataclass(frozen=True, slots=True)
class Prepared(Typed):
    """How photographs were prepared: the preprocessing (`drgate.preprocessing`), and the Pillow that decoded them.

    name and digest follow from content, which is all of it as plain values.
    """

    name: str
    digest: str
    content: dict[str, Any]
    pillow: str

    def __post_init__(self) -> None:
        """Raises ValueError for content that is not a preprocessing, or has another name or digest."""
        found = self.recipe
        if (found.name, found.digest, found.content()) != (self.name, self.digest, self.content):
            raise ValueError("name and digest should be those of content, which should be complete")

    @property
    def recipe(self) -> Preprocessing:
        """The preprocessing itself."""
        from drgate.preprocessing import read_preprocessing  # Pillow, which a table without a model does not need

        return read_preprocessing(self.content, "content")


@dataclass(frozen=True, slots=True)
class Parity(Typed):
    """A precision held against fp32 on some images of the test set, without their grades, before the look.

    images: compared. largest: change of any probability (of a regression: of its number). other_grades: images whose
    most probable grade is another, or whether to refer; absent where only cut-offs give grades.
    """

    images: _Count
    largest: float
    other_grades: _Count | None = None


@dataclass(frozen=True, slots=True)
class Model(Typed):
    """What was judged.

    kind: "checkpoint", "onnx", "hugging face", "peft", "python grader", or "predictions table" for a table whose model
    is not known.
    folder: that its file is in, where the file is called as every other model's (model.safetensors).
    output, class_names, own_names: what its outputs are, and of which class each is; see `drgate.answers.Answer`.
    tensor_digest: `sha256:...` over the tensors; absent for a table. files: the model's, first the only one in the role
    model (of a table: the table). scoring: who ran it; absent for a table whose model is not known.
    epoch: at which the weights were taken. fingerprint: whether it carries a fingerprint of its training images.
    providers, scored_with: the devices and the software versions that computed the answers. precision, batch: in which
    numbers, and how many images at a time (see `Computed`). parity: against fp32, of a network that was
    scored in another precision.
    parent: the certificate of the model that this one was exported from. previous: one that it is compared with.
    """

    kind: str
    name: str
    files: tuple[Subject, ...]
    scoring: Scoring | None = None
    tensor_digest: str | None = None
    base: Base | None = None
    lora: Lora | None = None
    output: Kind | None = None
    class_names: tuple[str, ...] | None = None
    own_names: tuple[str, ...] | None = None
    preprocessing: Prepared | None = None
    epoch: int | None = None
    fingerprint: bool | None = None
    providers: tuple[str, ...] | None = None
    scored_with: dict[str, str] | None = None
    precision: Precision | None = None
    batch: _Count | None = None
    parity: Parity | None = None
    parent: Reference | None = None
    previous: Reference | None = None
    folder: Annotated[str, AfterValidator(_bare), Field(max_length=255)] | None = None

    @property
    def of_table(self) -> bool:
        """Whether it is a table of predictions, which certifies no model."""
        return self.kind == "predictions table"

    @property
    def computed(self) -> Computed:
        """How its answers were computed."""
        return Computed(self.providers, self.precision, self.batch)

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.folder} ({self.name})" if self.folder else self.name


CUT_OFFS: Final = "operating_point.json"
"""Cut-offs in a bundle: whatever runs an ONNX model grades by the file of this name beside it."""

QUALITY: Final = "quality.json"
"""The rule of image quality in a bundle (`drgate.gradability.Rule`): what it refuses has no output from the model."""

TRITON: Final = "config.pbtxt"
"""What NVIDIA's Triton reads of a model."""

COMPANIONS: Final[dict[str, Role]] = {
    "model.yaml": "config",
    "preprocess.json": "preprocessing",
    "labels.json": "labels",
    CUT_OFFS: "cut_offs",
    "preprocessing.py": "code",
    "infer.py": "code",
    "gradability.py": "code",
    QUALITY: "quality",
    TRITON: "config",
}
"""The files beside an ONNX model that decide its answers, by name; model.yaml can name more."""

FOR_OTHERS: Final = frozenset(("preprocessing.py", "infer.py", "gradability.py", TRITON))
"""Those that drgate writes for programs of others and never runs (`drgate.vision.for_others`)."""


@dataclass(frozen=True, slots=True)
class CutOffs(Typed):
    """An operating point as `drgate tune` wrote it; see `drgate.operating_point`."""

    format: str
    on: On
    cut_offs: tuple[float, ...]
    spec: dict[str, Any]
    tuning: dict[str, Any]
    promise: dict[str, Any]
    digest: str


_Found = Literal["clean", "suspected", "found", "not_assessed"]
_STATUS: Final[dict[_Found, Status]] = {
    "clean": "PASS",
    "suspected": "NOT_ASSESSED",
    "found": "FAIL",
    "not_assessed": "NOT_ASSESSED",
}
"""Of the criterion on a check."""
_Names = tuple[Annotated[str, Field(pattern=r"^([0-9a-f]{16}(-[0-9]+)?|row-[0-9]+)$")], ...]


@dataclass(frozen=True, slots=True)
class Checked(Typed):
    """One check of an audit in short: see `drgate.audit.result.Check`."""

    id: Annotated[str, Field(pattern="^[a-z_]{1,40}$")]
    status: _Found
    count: _Count = 0
    compared: dict[str, _Count] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Audit(Typed):
    """The audit of the test set, by the digest of the whole (`audit.json`), and what each check found.

    given: it was handed in, not made in the run that scored. suspects: published names of test images that may be in
    training, which hashes alone do not show. copies: published names of images that show the same picture: their
    patients count as one.
    """

    digest: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]
    checks: tuple[Checked, ...]
    given: bool = False
    suspects: _Names = ()
    copies: tuple[_Names, ...] = ()

    def check(self, name: str) -> Checked | None:
        """None where it was not made."""
        return next((one for one in self.checks if one.id == name), None)

    @property
    def leaks(self) -> tuple[Checked, ...]:
        """The checks that found a leak: then no answer is judged."""
        return tuple(one for one in self.checks if one.id in LEAKS and one.status == "found")


@dataclass(frozen=True, slots=True)
class Patients(Typed):
    """What the table said of patients before its images were published.

    named: for "all" images, for "some", for "none", or by ids that only repeat "image names"; all but the first count
    as unknown. merged: patients that names or eyes show to be another's other eye. most: images that names, eyes or
    some patients show to be of one patient. apart: names of images that differ in nothing but the eye and are of
    several patients all the same.
    """

    named: Literal["all", "some", "none", "image names"]
    merged: _Count = 0
    most: _Number = 1
    apart: _Count = 0


@dataclass(frozen=True, slots=True)
class TestSet(Typed):
    """The test set as it was given.

    name: of the manifest's folder or file, never its path on a machine; in a bucket, its address.
    split: of the manifest; absent where the whole manifest was judged. manifest_digest: absent for a table from
    elsewhere. dealt_by_seed: the seed by which training dealt patients to splits. grades: the file that reference
    grades were joined from. operating_point: cut-offs that decide instead of the most probable grade.
    selected_here: the model was chosen on these images. warnings: sentences for page one.
    patients: how they were named. readers: columns of readers, of the manifest or of the file of grades.
    """

    __test__: ClassVar[bool] = False  # pytest collects classes by this name

    name: str
    split: str | None = None
    manifest_digest: str | None = None
    images_digest: str | None = None
    dealt_by_seed: int | None = None
    grades: File | None = None
    operating_point: CutOffs | None = None
    audit: Audit | None = None
    selected_here: bool = False
    warnings: tuple[str, ...] = ()
    patients: Patients | None = None
    readers: _Readers = ()

    @property
    def digest(self) -> str | None:
        """Of manifest and images, else of the images alone."""
        return self.manifest_digest or self.images_digest


@dataclass(frozen=True, slots=True)
class Epoch(Typed):
    """One evaluation of a training run. val_accuracy: a fraction."""

    epoch: int
    val_accuracy: float
    val_loss: float | None = None
    train_loss: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Spend(Typed):
    """USD of this attempt and of those before it; absent where no price was given."""

    usd_per_hour: float | None = None
    usd: float | None = None
    earlier_attempts: int = 0
    earlier_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Commit(Typed):
    commit: str
    modified: bool


@dataclass(frozen=True, slots=True)
class Origin(Typed):
    """The weights that a training run began with."""

    how: str | None = None
    sha256: str | None = None
    tensor_digest: str | None = None
    epoch: int | None = None
    attempt: str | None = None


@dataclass(frozen=True, slots=True)
class Lineage(Typed):
    """Whether the images of all ancestors are known, and what is declared of the base model's."""

    training_sets: Literal["known", "unknown"]
    why: str
    pretraining: str


@dataclass(frozen=True, slots=True)
class Stability(Typed):
    """The window of validation accuracies that stability is judged by; only `reason` where there is none.

    window: evaluations in it. The statistics are those of `drgate.stats.stability`.
    """

    reason: str | None = None
    window: int | None = None
    first: int | None = None
    last: int | None = None
    first_epoch: int | None = None
    last_epoch: int | None = None
    range: float | None = None
    sd: float | None = None
    cv: float | None = None
    slope: float | None = None
    selected_minus_median: float | None = None
    noise_floor: float | None = None
    range_without_noise: float | None = None
    n_val_to_show: int | None = None
    learning_rate_mean_over_peak: float | None = None


@dataclass(frozen=True, slots=True)
class Baseline(Typed):
    """The best earlier run's predictions on the same images. predictions_digest: of them published without slices."""

    predictions_digest: str


@dataclass(frozen=True, slots=True)
class Training(Typed):
    """The training record, as far as criteria need it.

    missing: why there is no history, or no record. history: its evaluations. n_val: validation images.
    foreign: the file of a history that nothing binds to these weights; percent: it gave percentages.
    attempt, parameters_digest, git_commit, lineage: which attempt it was. parent: the weights it began with, "base
    model" where it began there, absent where the record does not say.
    stability, baseline: found by `evaluate`.
    """

    missing: str | None = None
    history: tuple[Epoch, ...] = ()
    selected_epoch: int | None = None
    selection_rule: str | None = None
    n_val: int | None = None
    validation_set: str | None = None
    spend: Spend | None = None
    status: str | None = None
    reason: str | None = None
    warm_start_inside: bool = False
    foreign: str | None = None
    percent: bool = False
    attempt: str | None = None
    parameters_digest: str | None = None
    git_commit: Commit | None = None
    parent: Origin | Literal["base model"] | None = None
    lineage: Lineage | None = None
    stability: Stability | None = None
    baseline: Baseline | None = None


@dataclass(frozen=True, slots=True)
class Overlap(Typed):
    """Another test set that shares images or patients with this one: its looks count here."""

    name: str
    looks: _Count
    images: _Count
    patients: _Count


@dataclass(frozen=True, slots=True)
class Regraded(Typed):
    """An image whose reference grade is not what an earlier look saw. image: its name as published."""

    image: str
    before: Annotated[_Grade | _OtherThanGrade, Field(alias="from")]
    to: _Grade | _OtherThanGrade


@dataclass(frozen=True, slots=True)
class Favour(Typed):
    """An earlier look that saw other grades: of `changed` grades, `favouring` take an error from that look's model."""

    look: _Number
    time: Moment
    same_model: bool
    changed: _Count
    favouring: _Count


@dataclass(frozen=True, slots=True)
class Look(Typed):
    """The place of one model among all looks at its test images.

    number: from 1; 0 where none was taken, because an audit found a leak. allowed: how many looks were declared before
    the first. time: ISO 8601 in UTC; of number 0 when the leak was found; empty for an evaluation in memory.
    line: `sha256:...` of its line in the chain, by which a certificate is bound to it.
    regraded: the first of `regraded_count`. unlinked: other test sets in the log whose patients could not be compared
    with these. patient_key: id of the key by which they could be; empty without one. tables: how many tables that
    differ in their numbers alone were seen under it.
    """

    number: _Count
    allowed: _Number
    time: Moment | Literal[""]
    line: str | None = None
    overlapping: tuple[Overlap, ...] = ()
    regraded: tuple[Regraded, ...] = ()
    regraded_count: _Count = 0
    favouring: tuple[Favour, ...] = ()
    unlinked: _Count = 0
    patient_key: str = ""
    tables: _Number = 1

    @property
    def used_up(self) -> bool:
        """Whether it is beyond the looks that were allowed."""
        return self.number > self.allowed


# -- found -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slice(Typed):
    """The units of the test set whose column `by` has this value. The values of a slice are published."""

    by: str
    value: str
    units: _Count
    by_grade: _ByGrade


@dataclass(frozen=True, slots=True)
class Counts(Typed):
    """What was counted. unit: image, eye or patient; units: how many were judged.

    reference_scale, answer_scale: what reference and model tell apart: the five grades, or only whether to refer.
    patients: absent where they are unknown. by_grade: units by reference grade; of a reference that says only whether
    to refer, those not to refer and those to refer. reference_ungradable: images without a reference. dme: units with
    diabetic macular oedema; absent where they are unknown. in_no_slice: by column.
    """

    unit: Literal["image", "eye", "patient"]
    units: _Count
    images: _Count
    by_grade: _ByGrade
    reference_scale: Scale = "grades"
    answer_scale: Scale = "grades"
    reference_ungradable: _Count = 0
    patients: _Count | None = None
    dme: _Count | None = None
    slices: tuple[Slice, ...] = ()
    in_no_slice: dict[str, _Count] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Screened(Typed):
    """A sensitivity over all that have a reference grade, as if everybody had been screened.

    n: units of the grade or group; no_output: of these, without an answer. missed, referred: the sensitivity with those
    counted as missed, and as referred to a person who finds them.
    """

    n: _Count
    no_output: _Count
    missed: _Metric
    referred: _Metric


@dataclass(frozen=True, slots=True)
class Flagged(Typed):
    """An image whose severe NPDR or PDR was predicted below referable. image: its name as published.

    predicted: absent of a model that answers only whether to refer.
    """

    image: str
    grade: _Grade
    predicted: _Grade | None = None


@dataclass(frozen=True, slots=True)
class GateError(Typed):
    """How often a criterion passes a model of a stated true value by chance.

    method: "exact" or "simulated" at these counts; "designs": the largest rate found for criteria of this kind, in
        `designs` simulated designs, which `command` shows; "none": there is no such rate, and `why` says so.
    true: absent where it is not about these counts; at the threshold it stands for a model just outside the rule.
    passes: the probability; absent where there is none. deserves: whether such a model meets the rule.
    patients, n: in the denominator. se: standard error of a simulated probability.
    """

    id: MetricId
    method: Literal["exact", "simulated", "designs", "none"]
    deserves: bool = False
    true: float | None = None
    passes: float | None = None
    patients: _Count | None = None
    n: _Count | None = None
    se: float | None = None
    designs: _Count | None = None
    command: str | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Bin(Typed):
    """One bin of the predicted probability, from low to high: mean predicted, and observed with its interval."""

    low: float
    high: float
    n: _Count
    predicted: float
    observed: float
    observed_low: float
    observed_high: float


@dataclass(frozen=True, slots=True)
class Group(Typed):
    """One group of a gap: the value of the column, "" for blank cells, and the proportion there."""

    name: str
    rate: Estimate


@dataclass(frozen=True, slots=True)
class Reader(Typed):
    """A human reader beside the model, on the units that the reader graded.

    name: the column. rate: the reader's proportion. model: the model's. difference: model minus reader.
    """

    name: str
    rate: Estimate
    model: Estimate
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Predictive(Typed):
    """Predictive values at one prevalence, from the sensitivity and the specificity of the test set.

    of: whose prevalence it is; absent for one of the fixed list.
    """

    prevalence: Annotated[float, Field(gt=0, lt=1)]
    ppv: _Metric
    npv: _Metric
    of: Literal["test set", "deployment mix"] | None = None


@dataclass(frozen=True, slots=True)
class Benefit(Typed):
    """Net benefit per person at one threshold probability: of the model, and of referring everybody (nobody: 0)."""

    threshold: Annotated[float, Field(gt=0, lt=1)]
    model: _Metric
    refer_all: float


@dataclass(frozen=True, slots=True)
class NetBenefit(Typed):
    """Net benefit of referring by the model, at the prevalence of referable DR in the deployment mix."""

    prevalence: Annotated[float, Field(ge=0, le=1)]
    at: tuple[Benefit, ...]


@dataclass(frozen=True, slots=True)
class Site(Typed):
    """The units of one site. name: "" for those without one."""

    name: str
    units: _Count
    by_grade: _ByGrade
    metrics: dict[MetricId, _Metric]


@dataclass(frozen=True, slots=True)
class Spread(Typed):
    """The sites that count for one metric, together: its mean, and the interval for the true value of a new site.

    sites: how many count. tau2: variance of the sites' true values (arcsines of their roots). i2: its share of the
    variance of their estimates. q, p: Cochran's test that the sites do not differ.
    """

    sites: _Count
    value: float
    low: float
    high: float
    new_low: float
    new_high: float
    level: Annotated[float, Field(gt=0, lt=1)]
    tau2: float
    i2: float
    q: float
    p: float
    status: Literal["estimated"] = "estimated"


@dataclass(frozen=True, slots=True)
class Sites(Typed):
    """The test set by site. fewest: units that a site needs in the denominator of a metric to count for its spread."""

    column: str
    fewest: _Count
    sites: tuple[Site, ...]
    spread: dict[MetricId, Annotated[Spread | NotEstimable, Field(discriminator="status")]]


@dataclass(frozen=True, slots=True)
class Without(Typed):
    """The verdict without the patients of images that an audit suspects to be copies of training images.

    images, patients: how many are left out; patients absent where they are unknown (then the images alone are).
    criteria: the status of each. reason: why there is no verdict.
    """

    images: _Count
    patients: _Count | None = None
    verdict: Verdict | None = None
    criteria: dict[MetricId, Status] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluation(Typed):
    """Everything that was found about one set of predictions, held against one checklist.

    verdict: as `verdict_of` the criteria, which are in the order of the checklist.
    confusion_matrix: counts, rows the reference grade, columns the predicted one; no_output: a count for each row,
        without an answer from the model. Five rows and columns; where reference or model say only whether to refer
        (`counts`), two rows or columns: not to refer, and to refer.
    data: the test set as given; counts: what was counted in it.
    predictions_digest: of the rows that were judged, as published. bootstrap_seed: 16 hex digits, from what was
        counted and the checklist.
    training: what stability, cost and baseline were judged by; which attempt it was, its parent and lineage.
    barred: why nothing can pass on this test set, whatever the numbers; absent where something can.
    reordered: which other order of the classes would agree far better; absent where none would.
    page_one: sentences that must be read with the verdict.
    software: versions that the numbers depend on.
    three_ways: by metric and policy, how the metric comes out when images without output are excluded, as referred, or
        the worst case; empty where every image got an answer.
    screened: each sensitivity with units without output counted as missed and as referred; empty where every image has
        a reference grade and output.
    units: the metrics by image, by eye (its worst image) and by patient (the worse eye), but for the unit judged.
    gate_error: how often each criterion decides wrongly by chance.
    gaps: by criterion, the groups that it compares. readers: likewise, the readers.
    reliability: by endpoint, bins of the predicted probability with what was observed.
    by_prevalence: by endpoint, predictive values over prevalence. net_benefit: absent without a deployment mix. sites:
        absent where the checklist names no column of sites. All three are shown only.
    without_suspects: the verdict without the patients whose images may be copies of training images; absent without
        such.

    Where the audit found a leak, no answer is used and no look is taken: only its criteria are decided, and there are
    no metrics.
    """

    verdict: Verdict
    criteria: tuple[CriterionResult, ...]
    metrics: dict[MetricId, _Metric]
    confusion_matrix: Annotated[tuple[_ByGrade, ...], Field(min_length=2, max_length=5)]
    no_output: _ByGrade
    spec: HeldAgainst
    data: TestSet
    counts: Counts
    predictions_digest: str
    bootstrap_seed: str
    model: Model
    training: Training
    look: Look
    flagged: tuple[Flagged, ...]
    page_one: tuple[str, ...]
    software: dict[str, str]
    barred: str | None = None
    reordered: str | None = None
    three_ways: dict[MetricId, dict[str, _Metric]] = field(default_factory=dict)
    screened: dict[MetricId, Screened] = field(default_factory=dict)
    units: dict[str, dict[MetricId, _Metric] | NotEstimable] = field(default_factory=dict)
    gate_error: tuple[GateError, ...] = ()
    reliability: dict[str, tuple[Bin, ...]] = field(default_factory=dict)
    gaps: dict[MetricId, tuple[Group, ...]] = field(default_factory=dict)
    readers: dict[MetricId, tuple[Reader, ...]] = field(default_factory=dict)
    by_prevalence: dict[str, tuple[Predictive, ...]] = field(default_factory=dict)
    net_benefit: NetBenefit | NotEstimable | None = None
    sites: Sites | None = None
    without_suspects: Without | None = None

    @property
    def exit_code(self) -> int:
        """Of the verdict (`drgate.errors.ANSWERS`); 0 for OBSERVED where the checklist is for trying a pipeline."""
        tried = self.verdict == "OBSERVED" and not self.clinical
        return ExitCode.PASSED if tried else ANSWERS[self.verdict]

    @property
    def warnings(self) -> tuple[CriterionResult, ...]:
        """Advisory criteria that are not met: a PASS with these is a PASS with warnings."""
        return tuple(c for c in self.criteria if not c.required and c.status in ("FAIL", "INSUFFICIENT"))

    @property
    def leaks(self) -> tuple[Checked, ...]:
        """The checks of the audit that found test images or patients in training; empty where none did."""
        return () if self.data.audit is None else self.data.audit.leaks

    @property
    def observed_only(self) -> bool:
        """Whether the checklist decides on point estimates, so that nothing is shown."""
        return bool(self.spec.content["evidence"]["decide_on"] == "point")

    @property
    def clinical(self) -> bool:
        """Whether the checklist certifies; one for trying a pipeline opens neither export nor gate."""
        return bool(self.spec.content.get("purpose", "clinical") == "clinical")

    @property
    def headline(self) -> str:
        """The verdict in one sentence, the same in every form; a second says where nothing proves that the model was
        the one that scored."""
        scoring = self.model.scoring
        unproved = scoring is not None and scoring.by == "elsewhere"
        return f"{self._verdict_sentence}{' Scored elsewhere, not verified.' if unproved else ''}"

    @property
    def _verdict_sentence(self) -> str:
        model = f"{self.model.name} (predictions, no model)" if self.model.of_table else self.model.title
        spec, split = self.spec, f" (split {self.data.split})" if self.data.split else ""
        what = f"{spec.name} version {spec.version} on {self.data.name}{split}"
        match self.verdict:
            case "PASS":
                return f"{model} meets {what}{', with warnings' if self.warnings else ''}."
            case "OBSERVED":
                return f"{model} is observed to meet {what}; this does not show it."
            case "INSUFFICIENT":
                return f"It is not shown that {model} meets {what}: the evidence is insufficient."
        if any(c.shown for c in self.criteria if c.required and c.status == "FAIL"):
            return f"{model} does not meet {what}."
        return f"{model} misses {what}; it is not shown that {model} is below the rule."

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **plain_of(self)}

    @classmethod
    def from_json(
        cls, plain: object, origin: str = "The evaluation", error: type[DrgateError] = DrgateError
    ) -> Evaluation:
        """The inverse of `to_json`. Raises `error`, naming `origin` and the place, for anything else."""
        if isinstance(plain, dict):
            if plain.get("format") != FORMAT:
                raise error(f"{origin} is an evaluation of another format than {FORMAT!r}; evaluate again.")
            plain = {key: value for key, value in plain.items() if key != "format"}
        found = read_as(cls, plain, origin, expected="an evaluation that drgate wrote", error=error)
        if contradiction := found._contradiction():
            raise error(f"{origin} contradicts itself: {contradiction}; evaluate again.")
        return found

    def _contradiction(self) -> str:
        """What in it cannot be true together; "" where nothing is."""
        ids = [criterion.id for criterion in self.criteria]
        if not ids or len(set(ids)) != len(ids):
            return "it has no criterion, or one twice"
        for one in self.criteria:
            if one.status == "OBSERVED" and not self.observed_only:
                return f"{one.id} is OBSERVED, but the checklist decides on the limits of intervals"
            by_value = one.id.about.kind in BY_VALUE
            if one.status == "PASS" and self.observed_only and not by_value:
                return f"{one.id} is PASS, but the checklist decides on estimates, which show nothing"
            if (one.shown is None) == (one.status == "FAIL"):
                return f"{one.id} is {one.status}; shown is given for FAIL, and only for FAIL"
            if one.would_pass and not (one.status == "INSUFFICIENT" and self.barred):
                return f"{one.id} would pass, but is {one.status}, or nothing keeps it from passing (barred)"
        if bool(self.leaks) == bool(self.look.number) or (self.leaks and self.metrics):
            return "a look is taken where the audit found no leak, and only there, and there are no metrics without one"
        for one in self.criteria:
            checked = self.data.audit and self.data.audit.check(one.id.target)
            if one.id.metric == "audit" and one.status != _STATUS[checked.status if checked else "not_assessed"]:
                return f"{one.id} is {one.status}, which is not what its audit found"
        decided = {one.id.target for one in self.criteria if one.id.metric == "audit"}
        if {one.id for one in self.leaks} - decided:
            return "its audit found what no criterion is about"
        roles = [file.role for file in self.model.files] or ["table"]  # a table in memory has no file
        if roles[0] != ("table" if self.model.of_table else "model") or {"model", "table"} & {*roles[1:]}:
            return "its model is not one file in the role model, named first (of a table: the table alone)"
        if len({file.name for file in self.model.files}) != len(self.model.files):
            return "it names one file twice"
        scoring = self.model.scoring
        if (scoring is None) != self.model.of_table:
            return "it does not say who scored, or says it of a table whose model is not known"
        if scoring and not (scoring.by == "signed") == (scoring.key is not None) == (scoring.statement is not None):
            return "the key and the statement of a scorer are given for a signed table, and only for one"
        rows, columns = (len(SCALE_TITLES[s]) for s in (self.counts.reference_scale, self.counts.answer_scale))
        by_grade = [self.counts.by_grade, *(one.by_grade for one in self.counts.slices)]
        by_grade += [one.by_grade for one in (self.sites.sites if self.sites else ())]
        if {*map(len, by_grade)} | {len(self.confusion_matrix), len(self.no_output)} != {rows}:
            return "its counts are not of what its reference tells apart"
        if {len(row) for row in self.confusion_matrix} != {columns}:
            return "its confusion matrix is not of what its model tells apart"
        follows = verdict_of(self.criteria, observed=self.observed_only)
        return "" if self.verdict == follows else f"it says {self.verdict}, but its required criteria make it {follows}"
