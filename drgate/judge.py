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
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

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
from drgate.errors import CertificateError, DrgateError, ManifestError, PredictionsError, UsageError
from drgate.evaluate import evaluate, require_evaluable
from drgate.evaluation import (
    CutOffs,
    Evaluation,
    File,
    Look,
    Model,
    Scoring,
    Subject,
    TestSet,
    Training,
    plain_of,
    read_as,
)
from drgate.files import digest_of, read_json, sha256_file, write_atomically
from drgate.grades import join_grades
from drgate.looks import Seen, given_time, take_look
from drgate.manifest import images_digest
from drgate.operating_point import OperatingPoint, load_operating_point, parse_operating_point
from drgate.predictions import Predictions, load_predictions, without_grades, write_predictions
from drgate.record import FILE as RECORD
from drgate.record import FOREIGN, foreign_evidence, training_evidence
from drgate.score import TABLES, model_and_test_set, score
from drgate.screen import SILENT, Progress

if TYPE_CHECKING:
    from drgate.certificate.keys import PublicKey, SigningKey
    from drgate.vision.graders import Grader

_T = TypeVar("_T")
LOOKS: Final = Path("reports") / "looks"
WRITTEN: Final = (
    "evaluation.json",
    "statement.json",
    "certificate.json",
    "predictions.parquet",
    "report.html",
    "report.md",
    "junit.xml",
)
"""What an evaluation's folder holds; other files there are left alone."""
LEAKAGE_BEYOND: Final = "Leakage beyond that: not checked."


@dataclass(frozen=True, slots=True)
class Source:
    """What is judged: a checkpoint, an ONNX model or a table of predictions.

    base: location of a checkpoint's base model, if it has moved since training. workers: processes that decode.
    """

    path: Path
    base: str | None = None
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class Test:
    """The test set.

    data, split: the manifest that a model is scored on. grades: reference grades for a table that was scored without.
    looks: the chain of looks; by default one file a test set in reports/looks, where looks in the other files count too
    if they share images or patients. time: of a new look.
    """

    __test__: ClassVar[bool] = False  # pytest collects classes by this name

    data: Path | None = None
    split: str = "test"
    grades: Path | None = None
    looks: Path | None = None
    time: str | None = None


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

    key: signs. force: replace a folder that holds another evaluation.
    """

    folder: Path | None = None
    key: SigningKey | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found, and the folder that holds all of it.

    looks: the chain that the look is logged in; None for a variant of a certified model, which takes none.
    """

    evaluation: Evaluation
    predictions: Predictions = field(repr=False)
    folder: Path
    signed: bool
    looks: Path | None = None


def judge(
    source: Source,
    checklist: Checklist,
    *,
    test: Test = Test(),
    evidence: Evidence = Evidence(),
    output: Output = Output(),
    parent: Statement | None = None,
    progress: Progress = SILENT,
) -> Judgement:
    """Score `source` if it is a model, evaluate, certify, and write the folder.

    parent: the certificate of the model that this one was exported from: operating point, look, stability and cost are
    the parent's.

    Raises DrgateError for whatever cannot be judged, with nothing written.
    """
    # What can be refused is refused before the hours that scoring may take.
    point = _operating_point(evidence.operating_point, parent)
    if test.time is not None:
        given_time(test.time)
    previous = None if evidence.previous is None else reference(read_certificate(evidence.previous).statement)
    history = _foreign_history(evidence, checklist)
    earlier = None if evidence.baseline is None else load_predictions(evidence.baseline)
    grader = None
    if source.path.suffix.lower() in TABLES:
        if test.data is not None:
            raise UsageError(f"{source.path} is a table of predictions, which needs no --data; leave it out.")
        predictions = load_predictions(source.path, point)
    else:
        if test.grades is not None:
            raise UsageError(
                "--grades joins grades to a table of predictions: score the model first (drgate score MODEL --data "
                "MANIFEST --out PREDICTIONS), then evaluate PREDICTIONS."
            )
        grader, test_set = model_and_test_set(source.path, test.data, test.split, source.base, parent)
        if test_set.sealed:
            raise ManifestError(
                f"{test.data} has no grades. Score the model on it with drgate score, then evaluate the table "
                "with --grades FILE."
            )
        if contradictions := test_set.contradictions():
            raise ManifestError(f"{test.data}: {contradictions[0]} Both cannot be true; keep one.")
        progress.started(len(test_set))
        predictions = score(grader, test_set, workers=source.workers, advance=progress.advance)
    model, facts = _known(predictions, source.path, Scoring("elsewhere" if grader is None else "this run"))
    if previous is not None:
        model = replace(model, previous=previous)
    if test.grades is not None:
        predictions, facts = _with_grades(predictions, test.grades, facts)
    elif predictions.table["grade"].isna().all():
        raise PredictionsError(without_grades(predictions.table, str(source.path)))
    _refuse_contradictions(predictions)
    if point is not None:
        point.refuse_overlap(predictions)
        predictions = predictions.at(point)
        facts = replace(facts, operating_point=_read(CutOffs, point.content(), "The operating point"))
        if not (point.patients_known and predictions.patients_known):
            facts = _warned(
                facts,
                "Whether a patient is among those that the cut-offs were tuned on was not checked: not all are named.",
            )
    training = _training(grader, model, source.path, evidence.record, history, parent, checklist)
    if training.percent:
        facts = _warned(facts, f"{training.foreign} gives validation accuracies in percent; divided by 100.")
    if facts.split == "val" or (facts.manifest_digest and facts.manifest_digest == training.validation_set):
        facts = replace(facts, selected_here=True)
    require_evaluable(predictions, checklist)
    folder = output.folder or _default_folder(model, facts)
    same = (facts.images_digest, model.tensor_digest, predictions.digest, checklist.digest)
    with _replacing_folder(folder, same, signing=output.key is not None, force=output.force) as fresh:
        if parent is not None:
            model, facts = _inherited(parent, model, facts)
            look, chain = parent.evaluation.look, None
        else:
            # Before the numbers are known to anybody: a look that was taken counts, whatever becomes of it.
            look, chain = _look(predictions, checklist, model, facts, test)
        evaluation = evaluate(
            predictions, checklist, model=model, data=facts, training=training, look=look, baseline=earlier
        )
        _write(fresh, evaluation, predictions, output.key)
    return Judgement(evaluation, predictions, folder, output.key is not None, chain)


def shown_with(judgement: Judgement, interval: str, baseline: Path | None = None) -> Evaluation:
    """The same judgement with the bounds of another interval: to look at, never what is written or signed.

    interval: "clopper-pearson" or "wilson". baseline: as it was given to `judge`.
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
        baseline=None if baseline is None else load_predictions(baseline),
    )


def read_evaluation(path: Path, trusted: Sequence[PublicKey] = ()) -> tuple[Evaluation, str | None]:
    """The evaluation in `evaluation.json`, `statement.json` or `certificate.json`, and how the last is signed.

    trusted: keys of which one must have signed; without them the signature is not verified, and the text says so.
    Raises CertificateError where trusted keys are given and none of them signed.
    """
    if path.is_dir():
        path = path / "evaluation.json"
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


def _signature(name: str, keyid: str) -> str:
    return f"{name}, key {keyid[:16]}"


def _known(predictions: Predictions, source: Path, scoring: Scoring) -> tuple[Model, TestSet]:
    """What is known of the model and of the test set, from the predictions' provenance."""
    provenance = predictions.provenance
    if not provenance:
        table = predictions.table
        known = "sha256" in table.columns and table["sha256"].notna().all()
        file = Subject(source.name, sha256_file(source), source.stat().st_size, "table")
        return Model("predictions table", source.name, (file,)), TestSet(
            name=source.name,
            images_digest=images_digest(table["sha256"])
            if known
            else digest_of(["drgate image names 1", sorted(table["image"])]),
            warnings=("Only a table was judged: this is evidence about these predictions, not about a model file.",),
        )
    try:
        prepared, manifest = provenance["preprocessing"], provenance["manifest"]
        model = _read(
            Model, {**provenance["model"], "preprocessing": prepared, "scoring": plain_of(scoring)}, str(source)
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
            "leakage": " ".join([*provenance.get("leakage", []), LEAKAGE_BEYOND]),
            "grades": provenance.get("grades"),
        }
    except (KeyError, TypeError, AttributeError) as problem:
        raise PredictionsError(f"{source}: its provenance has no {problem}; score the model again.") from problem
    return model, _read(TestSet, facts, str(source))


def _read(kind: type[_T], plain: object, origin: str) -> _T:
    return read_as(kind, plain, origin, expected="what drgate score or drgate tune wrote", error=PredictionsError)


def _warned(facts: TestSet, warning: str) -> TestSet:
    return replace(facts, warnings=(*facts.warnings, warning))


def _operating_point(path: Path | None, parent: Statement | None) -> OperatingPoint | None:
    """The cut-offs that decide: those in the file, or those that the parent was certified at."""
    if path is not None:
        return load_operating_point(path)
    certified = None if parent is None else parent.evaluation.data.operating_point
    if certified is None:
        return None
    return parse_operating_point(plain_of(certified), "the certificate's operating point")


def _with_grades(predictions: Predictions, grades: Path, facts: TestSet) -> tuple[Predictions, TestSet]:
    """The predictions with the grades in a file, and the test set that names it."""
    joined = join_grades(predictions, grades)
    file = File(grades.name, sha256_file(grades))
    if joined.provenance:  # stays with the table when it is evaluated again
        joined = replace(joined, provenance={**joined.provenance, "grades": plain_of(file)})
    facts = replace(facts, grades=file)
    if predictions.provenance and joined.patients_known and not predictions.patients_known:
        facts = _warned(
            facts,
            f"{grades.name} names the patients, which scoring did not know: whether the model was trained on one of "
            "them was not checked.",
        )
    return joined, facts


def _refuse_contradictions(predictions: Predictions) -> None:
    """Raise PredictionsError where byte-identical images have different grades or patients."""
    table = predictions.table
    if "sha256" not in table.columns:
        return
    for column in ("grade", "patient"):
        distinct = table.dropna(subset=["sha256", column]).drop_duplicates(["sha256", column])
        if (twice := distinct["sha256"].duplicated(keep=False)).any():
            one, other, *_ = distinct[twice].sort_values("sha256", kind="stable")["image"]
            raise PredictionsError(
                f"{predictions.origin}: {one!r} and {other!r} are the same file, but have different {column}s; both "
                "cannot be true."
            )


def _look(
    predictions: Predictions, checklist: Checklist, model: Model, facts: TestSet, test: Test
) -> tuple[Look, Path]:
    """The look that this judgement takes, and the file that it is logged in."""
    looks = test.looks or LOOKS / f"{(facts.images_digest or '').removeprefix('sha256:')[:16]}.jsonl"
    # Wherever this look is logged, those in the usual place count.
    others = sorted(path for path in LOOKS.glob("*.jsonl") if path.resolve() != looks.resolve())
    judged = model.tensor_digest or predictions.digest
    look = take_look(
        looks,
        Seen.of(predictions, facts.name),
        model=f"{judged} at {facts.operating_point.digest}" if facts.operating_point else judged,
        predictions=predictions.digest,
        checklist=checklist,
        others=others,
        time=test.time,
    )
    return look, looks


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


def _inherited(parent: Statement, model: Model, facts: TestSet) -> tuple[Model, TestSet]:
    """With the certificate that stability, cost, look and leakage come from; it must be on the same test set."""
    before = parent.evaluation.data
    if before.manifest_digest != facts.manifest_digest:
        raise UsageError("The certificate is on another test set; give the one that it was made on with --data.")
    warnings = tuple(dict.fromkeys([*facts.warnings, *before.warnings]))
    return replace(model, parent=reference(parent)), replace(facts, leakage=before.leakage, warnings=warnings)


def _default_folder(model: Model, facts: TestSet) -> Path:
    point = facts.operating_point
    digests = [model.tensor_digest or model.files[0].sha256, facts.digest or "", *([point.digest] if point else [])]
    return Path("reports") / "-".join([Path(model.name).stem, *(d.removeprefix("sha256:")[:8] for d in digests)])


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


@contextlib.contextmanager
def _replacing_folder(folder: Path, same: tuple[str | None, ...], *, signing: bool, force: bool) -> Iterator[Path]:
    """Yield an empty folder that takes the name of `folder` when the block ends well.

    An evaluation in `folder` is replaced only by the same one again (and a signed one not by an unsigned), or by
    `force`; anything else there is left alone.
    """
    here = Path.cwd().resolve()
    found = folder.resolve()
    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    ours = (folder / "evaluation.json").is_file() and found not in (here, *here.parents)
    if not free and not (ours and (force or _is_same(folder, same, signing=signing))):
        advice = ", or --force to replace it" if ours else ""
        raise UsageError(f"{folder} holds something else; give another folder with --out{advice}.")
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
                    if other.name not in WRITTEN:
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
