"""A model or a table, judged whole: scored, evaluated, certified, written to one folder.

    judgement = judge(
        Source(Path("best_model.pth")), load_checklist("medical-grade"), test=Test(Path("data"), split="test")
    )
    judgement.evaluation.exit_code, judgement.folder

What `drgate evaluate` does, and what `drgate export` does once more with the file that it exports. A model is scored
first; a table of predictions is used as it is, or with reference grades from a file of their own (a sealed test set).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import pandas as pd

from drgate import audited, limits
from drgate.answers import NEEDS_CUT_OFFS, Answer
from drgate.audited import AUDIT, Against, Found
from drgate.certificate.scored import SignedTable, beside, read_scored
from drgate.certificate.sign import certify
from drgate.certificate.statement import (
    Certificate,
    Statement,
    parse_statement,
    read_certificate,
    reference,
    refuse_other_checklist,
)
from drgate.certificate.trust import signer
from drgate.checklist import Checklist, parse_checklist
from drgate.columns import graded_rows, reader_columns
from drgate.errors import CertificateError, DrgateError, LeakFound, ManifestError, PredictionsError, UsageError
from drgate.evaluate import evaluate, require_evaluable
from drgate.evaluation import (
    CUT_OFFS,
    Changes,
    CutOffs,
    Evaluation,
    File,
    Look,
    Model,
    Precision,
    Reference,
    Scoring,
    Subject,
    TestSet,
    Training,
    plain_of,
    read_as,
)
from drgate.files import (
    as_csv,
    hashed,
    ignored_in,
    parse_json,
    read_json,
    read_limited,
    refuse_no_place,
    sha256_file,
    write_atomically,
    write_private,
)
from drgate.given import NAMES as NAMES
from drgate.given import (
    PREDICTIONS,
    WRITTEN,
    Problems,
    at_once,
    certificate_in,
    evaluation_in,
    model_in,
    source_in,
    table_in,
)
from drgate.grades import join_grades
from drgate.looks import Log, current_time, given_time
from drgate.manifest import load_manifest
from drgate.mapping import PLAIN, ColumnMap, for_several, require_used
from drgate.models import DESCRIPTION, find_model, refuse_no_base
from drgate.operating_point import OperatingPoint, parse_operating_point
from drgate.patients import PatientKey
from drgate.predictions import (
    Predictions,
    alongside,
    as_grades,
    content_keys,
    load_predictions,
    needs_cut_offs,
    other_computing,
    other_cut_offs,
    published,
    published_names,
    with_copies_merged,
    with_readers,
    without_answers,
    without_grades,
    write_predictions,
)
from drgate.record import FILE as RECORD
from drgate.record import FOREIGN, foreign_evidence, training_evidence
from drgate.sample import Pair, patients_of
from drgate.scale import GRADES
from drgate.score import model_and_test_set, score, unanswered
from drgate.screen import SILENT, Progress
from drgate.tables import read, read_table

if TYPE_CHECKING:
    from drgate.certificate.keys import PublicKey, SigningKey
    from drgate.preprocessing import Preprocessing
    from drgate.vision.grader import Grader

_T = TypeVar("_T")
_NAMES_HEADER: Final = ("image", "own_image", "patient", "own_patient")
TRIED: Final = "An export takes no look of its own: how often it was tried is not counted."
_LONGEST_NAME: Final = 255
"""Of a test set: its folder's or file's."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is judged: a checkpoint, an ONNX model or a table of predictions.

    base: location of a checkpoint's base model, if it has moved since training. preprocess, lora_alpha: of a model that
    does not state its own. python: a grader in Python that loads the model (`load_grader`). workers: processes that
    decode. precision, batch: in which numbers a network of torch computes, and how many images at a time.
    scorers: keys of which one must have signed the table (`TABLE.scored.json`); without them a table that names a model
    is one that was scored elsewhere.
    """

    path: Path
    base: str | None = None
    workers: int | None = None
    scorers: Sequence[PublicKey] = ()
    preprocess: Preprocessing | None = None
    lora_alpha: float | None = None
    python: str | None = None
    precision: Precision | None = None
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class Test:
    """The test set.

    data, split: the manifest that a model is scored on. train: further manifests of its training data, to compare with.
    audit: of a table, the folder or file of an audit of its images. grades: reference grades for a table that was
    scored without.
    looks, time, patient_key: of the look; see `drgate.looks.Log`. The key also compares patients with those that a
    model, or cut-offs, came from. columns: which column is which, in the table (or manifest) and the file of grades.
    """

    __test__: ClassVar[bool] = False  # pytest collects classes by this name

    data: Path | None = None
    split: str = "test"
    grades: Path | None = None
    looks: Path | None = None
    time: str | None = None
    patient_key: PatientKey | None = None
    columns: ColumnMap = PLAIN
    train: Sequence[Path] = ()
    audit: Path | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What else is known of the model.

    record: a run folder, or a history of another kind (`foreign_evidence`), of which selected_epoch is the chosen
    epoch. baseline: the best earlier run's predictions on the same images. previous: an earlier certificate; what
    changed against it is stated. operating_point: cut-offs that decide instead of the most probable grade.
    """

    record: Path | None = None
    selected_epoch: int | None = None
    baseline: Path | None = None
    previous: Path | None = None
    operating_point: Path | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """Where the folder is written, by default `reports/<model>-<8 of its digest>-<8 of the test set's>`.

    key: signs; a function opens it once the model has answered. force: replace a folder that holds another evaluation.
    """

    folder: Path | None = None
    key: SigningKey | Callable[[], SigningKey] | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found, and the folder that holds all of it.

    predictions: as they are published; `own_names` leads back from their images. baseline: likewise.
    looks: the chain that the look is logged in; None for a variant of a certified model and where the audit found a
    leak, which take none.
    """

    evaluation: Evaluation
    predictions: Predictions = field(repr=False)
    folder: Path
    signed: bool
    looks: Path | None = None
    baseline: Predictions | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything that a judgement needs, checked: what is left is the look, and the numbers.

    predictions: with the caller's own names. grader: of a model. signed: what the table's scorer signed. earlier: the
    baseline, as it is published. named: the folder that the model was given as; empty where it was a file. audit: of
    the test set.
    """

    predictions: Predictions = field(repr=False)
    public: Predictions = field(repr=False)
    model: Model
    facts: TestSet
    training: Training = field(repr=False)
    grader: Grader | None = None
    signed: SignedTable | None = field(default=None, repr=False)
    earlier: Predictions | None = field(default=None, repr=False)
    named: str = ""
    audit: Found | None = None

    @property
    def leak(self) -> bool:
        """Whether its audit found test images or patients in training: then no answer is judged."""
        return self.facts.audit is not None and bool(self.facts.audit.leaks)

    @property
    def usual_folder(self) -> Path:
        """Where the evaluation is written, unless a folder is given."""
        point = self.facts.operating_point
        digests = [
            self.model.tensor_digest or self.model.files[0].sha256,
            self.facts.digest or "",
            *([point.digest] if point else []),
        ]
        named = self.named or self.model.folder or Path(self.model.name).stem
        return Path("reports") / "-".join([named, *(d.removeprefix("sha256:")[:8] for d in digests)])

    def same(self, checklist: Checklist) -> tuple[str | None, ...]:
        """What an evaluation in a folder must be of, to be replaced by this one."""
        return (self.facts.images_digest, self.model.tensor_digest, self.public.digest, checklist.digest)

    @property
    def judged(self) -> str | None:
        """What takes the look: the model's tensors, with the cut-offs; None for a table."""
        if self.model.tensor_digest and self.facts.operating_point:
            return f"{self.model.tensor_digest} at {self.facts.operating_point.digest}"
        return self.model.tensor_digest


def judge(
    source: Source,
    checklist: Checklist,
    *,
    test: Test = Test(),
    evidence: Evidence = Evidence(),
    output: Output = Output(),
    parent: Statement | None = None,
    changes: Callable[[Predictions, TestSet], Changes] | None = None,
    progress: Progress = SILENT,
) -> Judgement:
    """Score `source` if it is a model, evaluate, certify, and write the folder.

    parent: the certificate of the model that this one was exported from: look, stability and cost are the parent's.
    changes: compares its answers, as they are published, with the parent's.

    Raises DrgateError for whatever cannot be judged, with nothing written and no look taken.
    """
    ready = prepared(source, checklist, test=test, evidence=evidence, output=output, parent=parent, progress=progress)
    assert ready is not None, "without `problems`, it raises"
    model, facts, public = ready.model, ready.facts, ready.public
    key = output.key() if callable(output.key) else output.key  # before the look, which a wrong passphrase would spend
    folder = output.folder or ready.usual_folder
    with _replacing_folder(folder, ready.same(checklist), output) as fresh:
        if parent is not None:
            model, facts = _inherited(parent, model, facts)
            if changes is not None and model.parent is not None:
                model = replace(model, parent=replace(model.parent, changes=changes(public, facts)))
            look, chain = parent.evaluation.look, None
        elif ready.leak:
            look, chain = Look(0, checklist.looks, test.time or current_time()), None
        else:
            # Before the numbers are known to anybody: a look that was taken counts, whatever becomes of it.
            look, chain = Log(test.looks, test.time, test.patient_key).look(
                ready.predictions,
                facts.name,
                checklist,
                model=ready.judged,
                chosen_on=facts.selected_here,
            )
        evaluation = evaluate(
            public, checklist, model=model, data=facts, training=ready.training, look=look, baseline=ready.earlier
        )
        _write(fresh, evaluation, public, key)
        if ready.audit is not None:
            write_atomically(fresh / AUDIT, ready.audit.to_bytes())
        if ready.signed is not None and not ready.leak:
            ready.signed.write(beside(fresh / PREDICTIONS))
        if names := _own_names(ready.predictions, public):
            write_private(fresh, NAMES, as_csv([_NAMES_HEADER, *names]), ignored=ignored_in(folder))
    return Judgement(evaluation, public, folder, key is not None, chain, ready.earlier)


def prepared(
    source: Source,
    checklist: Checklist,
    *,
    test: Test = Test(),
    evidence: Evidence = Evidence(),
    output: Output = Output(),
    parent: Statement | None = None,
    progress: Progress = SILENT,
    trial: int | None = None,
    problems: Problems | None = None,
) -> Ready | None:
    """Everything that is read and checked before a look: what can be refused is refused before the hours of scoring.

    trial: score only so many images of a model, the others have no output. problems: keeps what is wrong, in place of
    raising the first of it; then there is None.

    Raises DrgateError as `judge`.
    """
    of = at_once if problems is None else problems.of
    if test.grades is not None or evidence.baseline is not None:
        test = replace(test, columns=for_several(test.columns))
    columns = test.columns
    readable = problems is None or source.python is not None or _tried(source, test, problems)
    stated = evidence.operating_point
    point, cut_offs = of(lambda: _operating_point(_cut_offs_of(source, stated) if readable else stated)) or (None, None)
    if (time := test.time) is not None:
        of(lambda: given_time(time))
    previous = of(lambda: _previous(evidence.previous))
    history = of(lambda: _foreign_history(evidence, checklist))
    earlier = of(
        lambda: None if evidence.baseline is None else load_predictions(table_in(evidence.baseline), columns=columns)
    )
    of(lambda: _refuse_no_log(test.looks))
    of(lambda: _refuse_no_folder(output))
    if (grades := test.grades) is not None:
        of(lambda: read(grades, "a table of reference grades", PredictionsError, columns=for_several(columns)))
    opened = (
        of(lambda: _opened(source, checklist, test, point, cut_offs, parent, progress, trial)) if readable else None
    )
    if opened is None or (problems is not None and problems.found):
        return None
    found = of(lambda: _ready(source, opened, checklist, test, evidence, point, cut_offs, parent, history))
    if found is None:
        return None
    ready = found if previous is None else replace(found, model=replace(found.model, previous=previous))
    of(lambda: require_evaluable(ready.predictions, checklist, ready.facts))
    lacking = {str(source.path): ready.predictions.unused}
    if test.grades is not None:
        lacking[str(test.grades)] = ready.predictions.unused
    if earlier is not None:
        of(lambda: _refuse_other_baseline(ready.predictions, earlier, checklist))
        lacking[str(evidence.baseline)] = earlier.unused
        found_notes = (*earlier.notes, *other_computing(ready.predictions, earlier, ("The model", "the baseline")))
        notes = tuple(one for one in found_notes if one not in ready.facts.warnings)
        ready = replace(ready, facts=replace(ready.facts, warnings=(*ready.facts.warnings, *notes)))
    of(lambda: require_used(columns, lacking))
    of(lambda: refuse_taken(output.folder or ready.usual_folder, ready.same(checklist), output))
    if problems is not None and problems.found:
        return None
    return ready if earlier is None else replace(ready, earlier=published(alongside(ready.predictions, earlier)))


@dataclass(frozen=True, slots=True)
class _Opened:
    """The predictions that are judged, and who made them."""

    predictions: Predictions
    scoring: Scoring
    content: str = ""
    """SHA-256 of a table's file."""
    grader: Grader | None = None
    signed: SignedTable | None = None
    audit: Found | None = None


def _tried(source: Source, test: Test, problems: Problems) -> bool:
    """Keeps what is wrong with a model, its base and its test set, each on its own; whether there is one to open."""
    found = len(problems.found)
    if problems.of(lambda: source_in(source.path)) is not None:
        return True
    if len(problems.found) == found:
        problems.of(lambda: find_model(model_in(source.path)))
    readable = len(problems.found) == found
    if (base := source.base) is not None:
        problems.of(lambda: refuse_no_base(base))
    if (data := test.data) is not None:
        problems.of(lambda: load_manifest(data, columns=test.columns))
    return readable


def _previous(path: Path | None) -> Reference | None:
    return None if path is None else reference(read_certificate(certificate_in(path)).statement)


def _opened(
    source: Source,
    checklist: Checklist,
    test: Test,
    point: OperatingPoint | None,
    cut_offs: Subject | None,
    parent: Statement | None,
    progress: Progress,
    trial: int | None,
) -> _Opened:
    """The table, or the model's answers."""
    table = None if source.python is not None else source_in(source.path)
    if table is not None:
        for given, option in (
            (test.data, "--data"),
            (source.preprocess, "--preprocess"),
            (source.base, "--base"),
            (test.train or None, "--train"),
            (source.precision, "--precision"),
            (source.batch, "--batch"),
        ):
            if given is not None:
                raise UsageError(
                    f"{table} is read as a table of predictions, which needs no {option}; leave it out or give a model."
                )
        with hashed(table, PredictionsError) as content:
            predictions = load_predictions(table, point, columns=test.columns)
        signed, scoring = _scored(table, predictions, source.scorers)
        found = audited.recorded(predictions)
        if test.audit is not None and not (found and audited.proven(found)):
            found = audited.given(test.audit, predictions)
        return _Opened(predictions, scoring, content, signed=signed, audit=found)
    path = model_in(source.path)
    if source.scorers:
        raise UsageError(f"{path} is a model, which is scored here; leave --scorer-key out.")
    _refuse_other_cut_offs(path, cut_offs)
    if test.audit is not None:
        raise UsageError(f"{path} is a model, whose test set is audited while it is scored; leave --audit out.")
    if test.grades is not None:
        raise UsageError(
            "--grades joins grades to a table of predictions: score the model first (drgate score MODEL --data "
            "MANIFEST --out PREDICTIONS), then evaluate PREDICTIONS."
        )
    grader, test_set, training = model_and_test_set(
        path,
        test.data,
        test.split,
        source.base,
        parent,
        source.preprocess,
        lora_alpha=source.lora_alpha,
        python=source.python,
        columns=test.columns,
        train=test.train,
        precision=source.precision,
    )
    _refuse_other_answers(path, grader.answer, point)
    if parent is not None:
        _refuse_other_test_set(parent, test_set.digest())  # before the hours of scoring
    if test_set.sealed:
        raise ManifestError(
            f"{test.data} has no grades. Score the model on it with drgate score, then evaluate the table "
            "with --grades FILE."
        )
    if contradictions := test_set.contradictions():
        more = f" ({len(contradictions) - 1} more: drgate manifest shows all.)" if contradictions[1:] else ""
        raise ManifestError(f"{test.data}: {contradictions[0]} Both cannot be true; keep one.{more}")
    progress.started(trial or len(test_set))
    mix = None if checklist.deployment is None else [checklist.deployment[grade] for grade in GRADES]
    # What was exported from a certified model has its audit.
    against = Against(training, test.patient_key, mix, declared=bool(test.train)) if parent is None else None
    try:
        predictions = score(
            grader,
            test_set,
            workers=source.workers,
            advance=progress.advance,
            against=against,
            trial=trial,
            batch=source.batch,
        )
    except LeakFound as leak:
        predictions = unanswered(grader, test_set, leak.found)
    found = audited.recorded(predictions)
    return _Opened(replace(predictions, unused=test_set.unused), Scoring("this run"), grader=grader, audit=found)


def _ready(
    source: Source,
    opened: _Opened,
    checklist: Checklist,
    test: Test,
    evidence: Evidence,
    point: OperatingPoint | None,
    cut_offs: Subject | None,
    parent: Statement | None,
    history: dict[str, Any] | None,
) -> Ready:
    """The predictions with grades and cut-offs, and what is known of model, test set and training."""
    predictions, scoring, grader = opened.predictions, opened.scoring, opened.grader
    path = source.path if grader is not None else source_in(source.path) or source.path
    grades = None
    if test.grades is not None:
        predictions, grades = _with_grades(predictions, test.grades, test.columns)
    elif not graded_rows(predictions.table).any():
        raise PredictionsError(without_grades(predictions.table, str(path)))
    _refuse_contradictions(predictions)
    model, facts = _known(predictions, path, scoring, opened.content)
    facts = replace(facts, warnings=(*facts.warnings, *predictions.notes))
    if opened.audit is not None:
        facts = replace(facts, audit=opened.audit.summary)
    elif parent is not None:
        facts = replace(facts, audit=parent.evaluation.data.audit)
    leak = facts.audit is not None and bool(facts.audit.leaks)
    if cut_offs is not None and not model.of_table:
        if any(file.name == cut_offs.name and file != cut_offs for file in model.files):
            raise UsageError(f"--operating-point and a file of the model are both called {cut_offs.name}; rename one.")
        model = replace(model, files=(*(file for file in model.files if file != cut_offs), cut_offs))
    model = _read(Model, plain_of(model), str(path))
    if grades is not None:
        facts = replace(facts, grades=grades)
    predictions, facts = _readers(
        predictions,
        facts,
        checklist,
        opened.signed if scoring.by == "signed" and grades is None else None,
        known=grades is not None or scoring.by != "elsewhere",
    )
    if leak:
        predictions = without_answers(predictions)
    if point is not None:
        unchecked = point.refuse_overlap(predictions, test.patient_key)
        predictions = predictions if leak else predictions.at(point)
        facts = replace(facts, operating_point=_read(CutOffs, point.content(), "The operating point"))
        if unchecked:
            facts = _warned(facts, unchecked)
    training = _training(grader, model, path, evidence.record, history, parent, checklist)
    if training.percent:
        facts = _warned(facts, f"{training.foreign} gives validation accuracies in percent; divided by 100.")
    if facts.split == "val" or (facts.manifest_digest and facts.manifest_digest == training.validation_set):
        facts = replace(facts, selected_here=True)
    facts = replace(facts, patients=patients_of(predictions))
    named = path.resolve().name if grader is not None and path.is_dir() else ""
    copies = () if facts.audit is None else facts.audit.copies
    predictions = with_copies_merged(predictions, copies)
    public = published(predictions, checklist)
    return Ready(predictions, public, model, facts, training, grader, opened.signed, named=named, audit=opened.audit)


def shown_with(judgement: Judgement, interval: str) -> Evaluation:
    """The same judgement with the bounds of another interval: to look at, never what is written or signed.

    interval: "clopper-pearson" or "wilson".
    """
    found = judgement.evaluation
    content = found.spec.content
    other = {**content, "evidence": {**content["evidence"], "interval": interval}}
    return evaluate(
        judgement.predictions,
        parse_checklist(other, "the checklist with another interval"),
        model=found.model,
        data=found.data,
        training=found.training,
        look=found.look,
        baseline=judgement.baseline,
    )


def read_evaluation(path: Path, trusted: Sequence[PublicKey] = ()) -> tuple[Evaluation, str | None]:
    """The evaluation in `evaluation.json`, `statement.json` or `certificate.json`, and how the last is signed.

    trusted: keys of which one must have signed; without them the signature is not verified, and the text says so.
    Raises CertificateError where trusted keys are given and none of them signed.
    """
    path = evaluation_in(path)
    if not path.is_file():
        raise UsageError(f"{path} does not exist; expected an evaluation, a statement or a certificate.")
    plain = read_json(path, "an evaluation that drgate wrote", UsageError)
    if isinstance(plain, dict) and "verdict" in plain:
        read: Any = Evaluation.from_json(plain, str(path), CertificateError)
        refuse_other_checklist(read, str(path))
    else:
        read = read_certificate(path)
        refuse_other_checklist(read.statement.evaluation, str(path))
    if trusted and not (isinstance(read, Certificate) and signer(read, trusted)):
        raise CertificateError(f"{path} is signed by none of the trusted keys; nothing is drawn.")
    if isinstance(read, Certificate):
        claim = "" if trusted else "; the signature was not verified here (--key PUB)"
        return read.statement.evaluation, _signature(path.name, read.key_id) + claim
    return read if isinstance(read, Evaluation) else read.evaluation, None


def own_names(folder: Path) -> dict[str, str]:
    """The caller's own names of the images, by published name, from a folder's `names.csv`; empty without one.

    Raises UsageError where the file cannot be read or is another one.
    """
    path = folder / NAMES
    if not path.is_file():
        return {}
    what = "the list of names that drgate wrote: evaluate again, or remove it"
    table = read_table(path, what, UsageError)
    if tuple(table.columns) != _NAMES_HEADER:
        raise UsageError(f"{path} has other columns; expected {what}.")
    return dict(zip(table.iloc[:, 0], table.iloc[:, 1], strict=True))


def _signature(name: str, keyid: str) -> str:
    return f"{name}, key {keyid[:16]}"


def _known(predictions: Predictions, source: Path, scoring: Scoring, sha256: str) -> tuple[Model, TestSet]:
    """What is known of the model and of the test set, from the predictions' provenance. sha256: of a table's file."""
    provenance = predictions.provenance
    if not provenance:
        file = Subject(source.name, sha256, source.stat().st_size, "table")
        return Model("predictions table", source.name, (file,)), TestSet(
            name=source.name,
            images_digest=predictions.images_digest,
            warnings=("Only a table was judged: this is evidence about these predictions, not about a model file.",),
        )
    try:
        prepared, manifest = provenance["preprocessing"], provenance["manifest"]
        if claimed := {"parent", "previous"} & {*provenance["model"]}:
            raise PredictionsError(
                f"{source}: its record of the model has a {min(claimed)}, which drgate score never writes; score the "
                "model again."
            )
        model = _read(
            Model, {**provenance["model"], "preprocessing": prepared, "scoring": plain_of(scoring)}, str(source)
        )
        # Both are in the headline, where any other text could say anything.
        if model.of_table or [model.name] != [file.name for file in model.files[:1]]:
            raise PredictionsError(f"{source}: its record names the model otherwise than its file; score it again.")
        if len(str(manifest["name"])) > _LONGEST_NAME:
            raise PredictionsError(
                f"{source}: its record gives the test set a name of more than {_LONGEST_NAME} characters; score the "
                "model again."
            )
        seed = manifest.get("dealt_by_seed")
        warnings = [*provenance.get("warnings", [])]
        if seed is not None:
            warnings.append(f"Patients were dealt to splits by seed {seed}, as in training.")
        if model.base and model.base.use:
            warnings.append(f"Base model {model.base.id}: {model.base.use}")
        facts = {
            "name": manifest["name"],
            "split": manifest["split"],
            "manifest_digest": manifest["digest"],
            "images_digest": manifest["images_digest"],
            "dealt_by_seed": seed,
            "warnings": warnings,
            "grades": provenance.get("grades"),
        }
    except KeyError as problem:
        raise PredictionsError(f"{source}: its provenance has no {problem}; score the model again.") from problem
    except (TypeError, AttributeError) as problem:
        raise PredictionsError(f"{source}: its provenance is not what drgate score writes; score again.") from problem
    return model, _read(TestSet, facts, str(source))


def _read(kind: type[_T], plain: object, origin: str) -> _T:
    return read_as(kind, plain, origin, expected="what drgate score or drgate tune wrote", error=PredictionsError)


def _warned(facts: TestSet, warning: str) -> TestSet:
    return replace(facts, warnings=(*facts.warnings, warning))


def _readers(
    predictions: Predictions, facts: TestSet, checklist: Checklist, signed: SignedTable | None, *, known: bool
) -> tuple[Predictions, TestSet]:
    """The predictions with the grades of readers that may be used, and the test set that names these.

    signed: what the scorer of the table answers for: exactly its readers count. known: whether readers come from there,
    the manifest or the file of grades. Whoever hands in a table of answers could write readers that are easily matched,
    or leave out one who is not.

    Raises PredictionsError where the table lacks a reader that was signed.
    """
    if not checklist.asks_readers:
        return with_readers(predictions, ()), facts
    given = [one for one in reader_columns(predictions.table) if predictions.table[one].notna().any()]
    used = given if known else []
    if signed is not None:
        if lacking := [one for one in signed.readers if one not in given]:
            raise PredictionsError(
                f"{predictions.origin} lacks {', '.join(lacking)}, which its scorer signed; give the whole table."
            )
        used = [one for one in given if one in signed.readers]
    if unused := [one for one in given if one not in used]:
        facts = _warned(
            facts,
            f"The table's own columns of readers ({', '.join(unused)}) are not used. Readers come from the manifest "
            "that this run or a trusted scorer scored, or from --grades.",
        )
    return with_readers(predictions, used), replace(facts, readers=tuple(used))


def _operating_point(path: Path | None) -> tuple[OperatingPoint | None, Subject | None]:
    """The cut-offs that decide, and their file as a part of the model: its digest is of the bytes that were read."""
    if path is None:
        return None, None
    what = "an operating point that drgate tune wrote"
    data = read_limited(path, limits.JSON_BYTES, what, UsageError)
    point = parse_operating_point(parse_json(data, str(path), what, UsageError), str(path))
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return point, Subject(path.name, hashlib.sha256(data).hexdigest(), len(data), "cut_offs", md5)


def _cut_offs_of(source: Source, given: Path | None) -> Path | None:
    """The file of cut-offs: the one that is given, or that model.yaml names.

    Raises UsageError where both are and differ, or where the answers that model.yaml states need one.
    """
    if source.python is not None or source_in(source.path) is not None:
        return given
    found = find_model(model_in(source.path))
    if found.described is None:
        return given
    named = found.folder / found.described.cut_offs if found.described.cut_offs else None
    if named and given and sha256_file(named) != sha256_file(given):
        raise UsageError(
            f"{found.folder / DESCRIPTION} names the cut-offs {named.name}, which are not those of --operating-point; "
            "keep one of them."
        )
    kind = found.described.output.kind
    if not (given or named) and kind in NEEDS_CUT_OFFS:
        raise UsageError(needs_cut_offs(f"{source.path} answers with", kind))
    return given or named


def _refuse_other_answers(model: Path, answer: Answer, point: OperatingPoint | None) -> None:
    """Raise UsageError where a model's answers need cut-offs, or others than those that are given."""
    if point is None:
        if answer.kind in NEEDS_CUT_OFFS:
            raise UsageError(needs_cut_offs(f"{model} answers with", answer.kind))
    elif point.on != answer.cut_on:
        raise UsageError(other_cut_offs(str(model), answer.cut_on, point.on))


def _refuse_other_cut_offs(model: Path, given: Subject | None) -> None:
    """Raise UsageError where the cut-offs in a folder, or beside an ONNX model, are not those that it is judged at."""
    there = model / CUT_OFFS if model.is_dir() else model.with_name(CUT_OFFS)
    onnx = model.is_dir() or model.suffix.lower() == ".onnx"
    if onnx and there.exists() and (given is None or sha256_file(there) != given.sha256):
        raise UsageError(
            f"{there} decides the grades of {model.name} wherever it runs; give it with --operating-point, or move it "
            "away."
        )


def _scored(table: Path, predictions: Predictions, scorers: Sequence[PublicKey]) -> tuple[SignedTable | None, Scoring]:
    """What the scorer of a table signed, if it is beside the table, and who ran the model as far as that is proved."""
    path = beside(table)
    if not predictions.provenance or not path.is_file():
        if scorers:
            missing = f"{path} does not exist" if predictions.provenance else f"{table} names no model"
            raise UsageError(
                f"{missing}, so no scorer's signature can be verified; get the table and the signature from drgate "
                "score --key, or leave --scorer-key out."
            )
        return None, Scoring("elsewhere")
    signed = read_scored(path)
    if found := next(signed.contradictions(predictions), None):
        raise PredictionsError(
            f"{table} is not the table that was signed in {path.name}: it {found}. Get both from the scorer."
        )
    if not scorers:
        return signed, Scoring("elsewhere")
    key = signed.envelope.signer(scorers)
    if key is None:
        raise CertificateError(
            f"{path} is signed by none of the keys that you trust to score (--scorer-key); it names the key "
            f"{signed.envelope.key_id}."
        )
    return signed, Scoring("signed", key.id, signed.digest)


def _with_grades(predictions: Predictions, grades: Path, columns: ColumnMap) -> tuple[Predictions, File]:
    """The predictions with the grades in a file, and the file. What is to be said of it stays with the table."""
    with hashed(grades, PredictionsError) as sha256:
        joined = join_grades(predictions, grades, columns)
    file = File(grades.name, sha256)
    if not joined.provenance:
        return joined, file
    added: dict[str, Any] = {"grades": plain_of(file)}
    warnings = joined.provenance.get("warnings", [])
    if joined.patients_known and not predictions.patients_known and isinstance(warnings, list):
        added["warnings"] = [
            *warnings,
            f"{grades.name} names the patients, which scoring did not know: whether the model was trained on one of "
            "them was not checked.",
        ]
    return replace(joined, provenance={**joined.provenance, **added}), file


def _refuse_contradictions(predictions: Predictions) -> None:
    """Raise PredictionsError where byte-identical images have different grades or patients."""
    table = as_grades(predictions.table).assign(content=pd.Series(content_keys(predictions.table), dtype="str"))
    for column in ("grade", "patient"):
        distinct = table.dropna(subset=["content", column]).drop_duplicates(["content", column])
        if (twice := distinct["content"].duplicated(keep=False)).any():
            raise PredictionsError(
                f"{predictions.origin}: {int(twice.sum())} images with different {column}s are copies of the same "
                "file; both cannot be true."
            )


def _refuse_other_baseline(predictions: Predictions, baseline: Predictions, checklist: Checklist) -> None:
    """Raise PredictionsError where a baseline is not of the same images with the same reference grades.

    Images of unknown content are published as row-N, which is in every other table of this size too.
    """
    tables = predictions.table, baseline.table
    if any(None in content_keys(table) for table in tables):
        ours, theirs = (set(table["image"]) for table in tables)
        renamed = any(table["image"].tolist() == published_names(table) for table in tables)
        if not renamed and (alone := sorted(ours ^ theirs)):
            raise PredictionsError(
                f"{baseline.origin} was scored on other images than {predictions.origin} ({alone[0]!r} is in one table "
                "only); give a baseline of the same images, or leave --baseline out."
            )
    try:
        Pair.of(predictions, alongside(predictions, baseline), unit=checklist.unit)
    except PredictionsError as problem:
        raise PredictionsError(
            f"--baseline: {problem} Give one of the same images with the same grades, or leave --baseline out."
        ) from problem


def _refuse_no_log(looks: Path | None) -> None:
    """Raise UsageError where the look cannot be logged."""
    if looks is not None and looks.is_dir():
        raise UsageError(f"--looks is {looks}, a folder; give a file, such as {looks / 'looks.jsonl'}.")
    refuse_no_place(looks, "--looks")


def _refuse_no_folder(output: Output) -> None:
    """Raise UsageError where the folder holds what is no evaluation, or cannot be made."""
    refuse_no_place(output.folder, "--out")
    if output.folder is not None and output.folder.exists() and not (output.folder / "evaluation.json").is_file():
        refuse_taken(output.folder, (), output)


def _foreign_history(evidence: Evidence, checklist: Checklist) -> dict[str, Any] | None:
    """The evidence in a history that drtrain did not record; None where `record` is a run folder or is not given."""
    record = evidence.record
    if record is None or record.is_dir() or record.suffix.lower() not in FOREIGN:
        if evidence.selected_epoch is not None:
            raise UsageError("--selected-epoch belongs to a history from elsewhere (--record FILE); leave it out.")
        if record is not None and not (record / RECORD).is_file():
            raise UsageError(
                f"--record {record} holds no {RECORD}; expected a run folder of drtrain, or a history "
                f"({', '.join(FOREIGN)})."
            )
        return None
    return foreign_evidence(record, window=checklist.stability_window, selected=evidence.selected_epoch)


def _training(
    grader: Grader | None,
    model: Model,
    source: Path,
    record: Path | None,
    history: dict[str, Any] | None,
    parent: Statement | None,
    checklist: Checklist,
) -> Training:
    """What stability and cost are judged by: the run's own record, else a history that nothing binds to the weights."""
    if parent is not None:
        return replace(parent.evaluation.training, baseline=None)
    if model.tensor_digest is None:
        if record is not None and history is None:
            raise UsageError(f"{source} is a predictions table without a training run; leave --record out.")
        missing = (
            "a predictions table has no training record. Give one with --record FILE, judge the model itself, or use a "
            "checklist without this criterion."
        )
        return _read(Training, history or {"missing": missing}, str(source))
    beside = None if grader is None else source.parent
    own = training_evidence(
        None if grader is None else grader.record,
        tensor_digest=model.tensor_digest,
        folder=beside if history else record or beside,
        window=checklist.stability_window,
    )
    if history and "selected_epoch" in own:
        raise UsageError(f"{source} has a training record of its own, of these very weights; leave --record out.")
    return _read(Training, history or own, "The training record")


def _refuse_other_test_set(parent: Statement, digest: str | None) -> None:
    if parent.evaluation.data.manifest_digest != digest:
        raise UsageError(
            "The certificate is on another test set; give the one that it was made on with --data, and its --split."
        )


def _inherited(parent: Statement, model: Model, facts: TestSet) -> tuple[Model, TestSet]:
    """With the certificate that stability, cost, look and audit come from; it must be on the same test set."""
    before = parent.evaluation.data
    _refuse_other_test_set(parent, facts.manifest_digest)
    warnings = tuple(dict.fromkeys([*facts.warnings, *before.warnings, TRIED]))
    return replace(model, parent=reference(parent)), replace(facts, warnings=warnings)


def _write(folder: Path, evaluation: Evaluation, predictions: Predictions, key: SigningKey | None) -> None:
    """Write all files of one evaluation."""
    from drgate.report.evaluation import html, junit, markdown

    statement, certificate = certify(evaluation, key)
    # Pages are drawn from the bytes that are signed, not from what they were made of.
    evaluation = parse_statement(statement, "the statement").evaluation
    name = None if certificate is None or key is None else _signature("certificate.json", key.public.id)
    plain = json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / "evaluation.json", plain.encode() + b"\n")
    write_atomically(folder / "statement.json", statement)
    if certificate is not None:
        write_atomically(folder / "certificate.json", certificate)
    write_predictions(predictions, folder / "predictions.parquet")
    write_atomically(folder / "report.html", html.render(evaluation, certificate=name).encode())
    write_atomically(folder / "report.md", markdown.render(evaluation, certificate=name).encode())
    write_atomically(folder / "junit.xml", junit.render(evaluation).encode())


def _own_names(predictions: Predictions, public: Predictions) -> list[tuple[str, str, str, str]]:
    """Published and own name of each image, published and own patient; empty where they are the same."""
    images = published_names(predictions.table)
    own = predictions.table[["image", "patient"]].set_axis(images).loc[public.table["image"]]
    pairs = (
        (public.table[column].fillna("").tolist(), own[column].fillna("").tolist()) for column in ("image", "patient")
    )
    rows = list(zip(*(column for pair in pairs for column in pair), strict=True))
    return [] if all(image == name and patient == who for image, name, patient, who in rows) else rows


def refuse_taken(folder: Path, same: tuple[str | None, ...], output: Output) -> bool:
    """Raise UsageError where a folder holds something else; return whether it holds the same evaluation.

    An evaluation is replaced only by the same one again (and a signed one not by an unsigned), or by `force`.
    """
    here = Path.cwd().resolve()
    found = folder.resolve()
    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    ours = (folder / "evaluation.json").is_file() and found not in (here, *here.parents)
    again = ours and _is_same(folder, same, signing=output.key is not None)
    if not free and not (ours and (output.force or again)):
        advice = ", or --force to replace it" if ours else ""
        raise UsageError(f"{folder} holds something else; give another folder with --out{advice}.")
    return again


@contextlib.contextmanager
def _replacing_folder(folder: Path, same: tuple[str | None, ...], output: Output) -> Iterator[Path]:
    """Yield an empty folder that takes the name of `folder` when the block ends well.

    An evaluation in `folder` is replaced only by the same one again (and a signed one not by an unsigned), or by
    `force`; anything else there is left alone.
    """
    again = refuse_taken(folder, same, output)
    absent = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
    except OSError as problem:
        raise UsageError(f"{folder} cannot be written ({problem.strerror}); choose another with --out.") from problem
    try:
        with temporary as name:
            fresh = Path(name) / "fresh"
            fresh.mkdir()
            yield fresh
            if folder.exists():
                for other in folder.iterdir():  # a further signature, notes
                    # The names stay where the published table was evaluated again, which does not know them.
                    stays = other.name not in WRITTEN or (again and other.name == NAMES)
                    if stays and not (fresh / other.name).exists():
                        other.rename(fresh / other.name)
                folder.rename(Path(name) / "replaced")
            fresh.rename(folder)
    except BaseException:
        for parent in absent:
            with contextlib.suppress(OSError):  # holds something, such as the looks
                parent.rmdir()
        raise


def _is_same(folder: Path, same: tuple[str | None, ...], *, signing: bool) -> bool:
    """Whether a folder holds the evaluation of the same predictions of the same model by the same checklist."""
    try:
        found = Evaluation.from_json(read_json(folder / "evaluation.json", "an evaluation", UsageError))
    except (ValueError, DrgateError):
        return False
    there = (found.data.images_digest, found.model.tensor_digest, found.predictions_digest, found.spec.digest)
    return there == same and (signing or not (folder / "certificate.json").exists())
