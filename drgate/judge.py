"""A model or a table, judged whole: scored, evaluated, certified, written to one folder.

    judgement = judge(Path("best_model.pth"), data=Path("data"), split="test", spec=load_spec("medical-grade"))
    judgement.evaluation.exit_code, judgement.folder

What `drgate evaluate` does, and what `drgate export` does once more with the file that it exports.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from drgate.errors import CheckpointError, ManifestError, PredictionsError, UsageError
from drgate.evaluate import evaluate, require_evaluable
from drgate.evaluation import Evaluation
from drgate.files import canonical_json, read_json, sha256_file, write_atomically
from drgate.looks import Look, take_look
from drgate.predictions import Predictions, load_predictions, write_predictions
from drgate.score import score
from drgate.spec import GateSpec

if TYPE_CHECKING:
    from drgate.certificate import Statement
    from drgate.keys import PrivateKey
    from drgate.manifest import Manifest
    from drgate.vision.graders import Grader

TABLES: Final = (".csv", ".tsv", ".parquet", ".pq")
MODELS: Final = (".pth", ".pt", ".onnx")
LEAKAGE_BEYOND: Final = "Leakage beyond that: not checked."


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found, and the folder that holds all of it."""

    evaluation: Evaluation
    predictions: Predictions = field(repr=False)
    folder: Path
    signed: bool


def judge(
    source: Path,
    *,
    spec: GateSpec,
    data: Path | None = None,
    split: str = "test",
    baseline: Path | None = None,
    base: str | None = None,
    record: Path | None = None,
    looks: Path | None = None,
    key: PrivateKey | None = None,
    out: Path | None = None,
    force: bool = False,
    workers: int | None = None,
    parent: Statement | None = None,
    started: Callable[[int], Any] = lambda images: None,
    advance: Callable[[int], Any] = lambda images: None,
) -> Judgement:
    """Score `source` if it is a model, evaluate, certify, and write the folder.

    source: a checkpoint, an ONNX model or a table of predictions. data, split: the test set of a model; a manifest
    without splits is taken whole. out: default `reports/<model>-<8 of its digest>-<8 of the test set's>`. parent: what
    was certified of the model that this one was exported from: look, stability and cost are the parent's. started and
    advance are told how many images there are, and how many are done.

    Raises DrgateError for whatever cannot be judged, with nothing written.
    """
    if source.suffix.lower() in TABLES:
        if data is not None:
            raise UsageError(f"{source} is a table of predictions, which needs no --data; leave it out.")
        predictions = load_predictions(source)
        if record is not None and not predictions.provenance:
            raise UsageError(f"{source} is a table from elsewhere, which belongs to no run; leave --record out.")
        grader = None
    else:
        grader, test_set = model_and_test_set(source, data, split, base, parent)
        if test_set.sealed:
            raise ManifestError(
                f"{data} has no grades: score it with drgate score; its keeper joins them to the table and evaluates."
            )
        if contradictions := test_set.duplicates(contradicting=True):
            raise ManifestError(f"{data}: {contradictions[0]} Both cannot be true; keep one.")
        started(len(test_set))
        predictions = score(grader, test_set, workers=workers, advance=advance)
    model, facts = _known(predictions, source)
    training = _training(grader, model, source, record, parent)
    if facts.get("split") == "val" or facts.get("manifest_digest", "") == training.get("validation_set"):
        facts["selected_here"] = True
    earlier = None if baseline is None else load_predictions(baseline)
    require_evaluable(predictions, spec)
    folder = out or _default_folder(model, facts)
    same = {
        "images": facts["images_digest"],
        "model": model.get("tensor_digest"),
        "predictions": predictions.digest,
        "spec": spec.digest,
    }
    with _replacing_folder(folder, same, signing=key is not None, force=force) as fresh:
        if parent is not None:
            _inherit(parent, model, facts)
            look = Look(*(parent.evaluation.look[part] for part in ("number", "allowed", "time")))
        else:
            # Before the numbers are known to anybody: a look that was taken counts, whatever becomes of it.
            look = take_look(
                looks or Path("reports") / "looks" / f"{same['images'].removeprefix('sha256:')[:16]}.jsonl",
                test_set=same["images"],
                model=same["model"] or predictions.digest,
                predictions=predictions.digest,
                spec=spec.digest,
                allowed=spec.looks,
            )
        evaluation = evaluate(
            predictions,
            spec,
            model=model,
            data=facts,
            training=training,
            look={"number": look.number, "allowed": look.allowed, "time": look.time},
            baseline=earlier,
        )
        _write(fresh, evaluation, predictions, key)
    return Judgement(evaluation, predictions, folder, key is not None)


def model_and_test_set(
    source: Path, data: Path | None, split: str, base: str | None, parent: Statement | None = None
) -> tuple[Grader, Manifest]:
    """The model, and the images that it is to be scored on.

    One split of a manifest; of one without splits the part that training dealt to that split, where the model's record
    (or its parent's certificate) says how, else all of it.

    Raises DrgateError for what is not a model, a manifest that is missing or unusable, and for patients or
    byte-identical files that the split shares with another.
    """
    from drgate.manifest import load_manifest, split_by_patient

    if source.suffix not in MODELS:
        raise UsageError(
            f"{source} is neither a model ({', '.join(MODELS)}) nor a table of predictions ({', '.join(TABLES)})."
        )
    if not source.exists():
        raise CheckpointError(f"{source} does not exist; expected a checkpoint (*.pth) or an ONNX model (*.onnx).")
    if data is None:
        raise UsageError(f"{source} is a model: say on which images it is to be judged, with --data MANIFEST.")
    if split == "train":
        raise UsageError("A model is not judged on the split that it was trained on; choose another with --split.")
    manifest = load_manifest(data)
    from drgate.vision.graders import load_grader

    grader = load_grader(source, base)
    if manifest.table["split"].isna().all():
        seed = _dealt_by(grader, manifest, parent)
        if seed is None:
            return grader, manifest
        manifest = split_by_patient(manifest, seed=seed)
    if leaks := manifest.leaks(split):
        raise ManifestError(leaks[0])
    return grader, manifest.select(split)


def _dealt_by(grader: Grader, manifest: Manifest, parent: Statement | None) -> int | None:
    """The seed by which training dealt this very manifest to splits, if it did."""
    if parent is not None:
        return parent.evaluation.data.get("dealt_by_seed")
    record = grader.record or {}
    return record.get("dealt_by_seed") if record.get("dataset_digest") == manifest.digest() else None


def read_evaluation(path: Path) -> tuple[Evaluation, str | None]:
    """The evaluation in `evaluation.json`, `statement.json` or `certificate.json`, and how the last is signed."""
    from drgate.certificate import Certificate, checked_evaluation, read_certificate

    if path.is_dir():
        path = path / "evaluation.json"
    if not path.is_file():
        raise UsageError(f"{path} does not exist; expected an evaluation, a statement or a certificate.")
    plain = read_json(path, "an evaluation that drgate wrote", UsageError)
    if isinstance(plain, dict) and "verdict" in plain:
        return checked_evaluation(Evaluation.from_json(plain), str(path)), None
    read = read_certificate(path)
    if isinstance(read, Certificate):
        return read.statement.evaluation, _signature(path.name, read.key_id)
    return read.evaluation, None


def _signature(name: str, keyid: str) -> str:
    return f"{name}, key {keyid[:16]}"


def _known(predictions: Predictions, source: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of the model and of the test set, from the predictions' provenance."""
    provenance = predictions.provenance
    if not provenance:
        file = {"name": source.name, "sha256": sha256_file(source), "size": source.stat().st_size}
        names = sorted(predictions.table["image"])
        model: dict[str, Any] = {"kind": "predictions table", "name": source.name, "files": [file]}
        facts: dict[str, Any] = {
            "name": source.name,
            "images_digest": _digest_of(["drgate image names 1", names]),
            "warnings": ["A table from elsewhere: it speaks of these predictions, of no model file."],
            "leakage": "Leakage between training and test data: not checked.",
        }
        return model, facts
    try:
        model = {**provenance["model"], "preprocessing": provenance["preprocessing"]}
        manifest = provenance["manifest"]
        facts = {
            "name": manifest["name"],
            "split": manifest["split"],
            "manifest_digest": manifest["digest"],
            "images_digest": manifest["images_digest"],
            "warnings": [*provenance.get("warnings", [])],
            "leakage": " ".join([*provenance.get("leakage", []), LEAKAGE_BEYOND]),
        }
        if manifest.get("dealt_by_seed") is not None:
            facts["dealt_by_seed"] = manifest["dealt_by_seed"]
            facts["warnings"].append(
                f"Patients were dealt to splits by seed {manifest['dealt_by_seed']}, as in training."
            )
        if use := model.get("base", {}).get("use"):
            facts["warnings"].append(f"Base model {model['base']['id']}: {use}")
    except (KeyError, TypeError, AttributeError) as problem:
        raise PredictionsError(f"{source}: its provenance lacks {problem}; score the model again.") from problem
    return model, facts


def _digest_of(value: Any) -> str:
    return f"sha256:{hashlib.sha256(canonical_json(value)).hexdigest()}"


def _training(
    grader: Grader | None, model: dict[str, Any], source: Path, record: Path | None, parent: Statement | None
) -> dict[str, Any]:
    from drgate.record import training_evidence

    if parent is not None:
        return {key: value for key, value in parent.evaluation.training.items() if key != "baseline"}
    if "tensor_digest" not in model:
        return {
            "missing": "a table from elsewhere belongs to no training run; judge the model itself, or use a checklist "
            "without this line."
        }
    if record is not None and not record.is_dir():
        raise UsageError(f"--record {record} is not a folder; expected a run folder of drtrain.")
    return training_evidence(
        None if grader is None else grader.record,
        tensor_digest=model.get("tensor_digest", ""),
        folder=record or (None if grader is None else source.parent),
    )


def _inherit(parent: Statement, model: dict[str, Any], facts: dict[str, Any]) -> None:
    """Name the certificate that stability, cost, look and leakage come from; it must speak of the same test set."""
    evaluation = parent.evaluation
    if evaluation.data.get("manifest_digest") != facts["manifest_digest"]:
        raise UsageError("The certificate speaks of another test set; give the one that it was made on with --data.")
    model["parent"] = {
        "statement": f"sha256:{hashlib.sha256(parent.data).hexdigest()}",
        "name": evaluation.model["name"],
        "tensor_digest": evaluation.model["tensor_digest"],
        "verdict": evaluation.verdict,
    }
    facts["leakage"] = evaluation.data["leakage"]
    facts["warnings"] = list(dict.fromkeys([*facts["warnings"], *evaluation.data["warnings"]]))


def _default_folder(model: dict[str, Any], facts: dict[str, Any]) -> Path:
    own = model.get("tensor_digest") or f"sha256:{model['files'][0]['sha256']}"
    test_set = facts.get("manifest_digest", facts["images_digest"])
    short = [digest.removeprefix("sha256:")[:8] for digest in (own, test_set)]
    return Path("reports") / f"{Path(model['name']).stem}-{short[0]}-{short[1]}"


def _write(folder: Path, evaluation: Evaluation, predictions: Predictions, key: PrivateKey | None) -> None:
    """Write all that is said of one evaluation."""
    from drgate.certify import certify
    from drgate.report import html, junit, markdown

    statement, certificate = certify(evaluation, key)
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
def _replacing_folder(folder: Path, same: dict[str, Any], *, signing: bool, force: bool) -> Iterator[Path]:
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
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
    except OSError as problem:
        raise UsageError(f"{folder} cannot be written ({problem.strerror}); choose another with --out.") from problem
    with temporary as name:
        fresh = Path(name) / "fresh"
        fresh.mkdir()
        yield fresh
        if folder.exists():
            folder.rename(Path(name) / "replaced")
        fresh.rename(folder)


def _is_same(folder: Path, same: dict[str, Any], *, signing: bool) -> bool:
    """Whether a folder holds the evaluation of the same predictions of the same model by the same checklist."""
    try:
        plain = json.loads((folder / "evaluation.json").read_bytes())
        there = {
            "images": plain["data"]["images_digest"],
            "model": plain["model"].get("tensor_digest"),
            "predictions": plain["data"]["predictions_digest"],
            "spec": plain["spec"]["digest"],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return there == same and (signing or not (folder / "certificate.json").exists())
