"""A model or a table, judged whole: scored, evaluated, certified, written to one folder.

    judgement = judge(Path("best_model.pth"), data=Path("data"), split="test", spec=load_spec("medical-grade"))
    judgement.evaluation.exit_code, judgement.folder

What `drgate evaluate` does, and what `drgate export` does once more with the file that it exports.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
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
        grader = None
    else:
        grader, test_set = model_and_test_set(source, data, split, base)
        if test_set.sealed:
            raise ManifestError(
                f"{data} has no grades: score it with drgate score; its keeper joins them to the table and evaluates."
            )
        started(len(test_set))
        predictions = score(grader, test_set, workers=workers, advance=advance)
    model, facts = _known(predictions, source)
    training = _training(grader, model, source, record, parent)
    earlier = None if baseline is None else load_predictions(baseline)
    folder = out or _default_folder(model, facts)
    if folder.exists() and not force and not _same_look(folder, model, facts):
        raise UsageError(f"{folder} holds something else; give another folder with --out, or --force to replace it.")
    require_evaluable(predictions, spec)
    if parent is not None:
        _inherit(parent, model, facts)
        look = Look(parent.evaluation.look["number"], parent.evaluation.look["time"])
    else:
        images = facts["images_digest"]
        # Before the numbers are known to anybody: a look that was taken counts, whatever becomes of it.
        look = take_look(
            looks or Path("reports") / "looks" / f"{images.removeprefix('sha256:')[:16]}.jsonl",
            test_set=images,
            model=model.get("tensor_digest", predictions.digest),
            predictions=predictions.digest,
            spec=spec.digest,
        )
    evaluation = evaluate(
        predictions,
        spec,
        model=model,
        data=facts,
        training=training,
        look={"number": look.number, "allowed": spec.looks, "time": look.time},
        baseline=earlier,
    )
    signed = _write(folder, evaluation, predictions, key)
    return Judgement(evaluation, predictions, folder, signed)


def model_and_test_set(source: Path, data: Path | None, split: str, base: str | None) -> tuple[Grader, Manifest]:
    """The model, and the images that it is to be scored on: one split of a manifest, or all of one without splits.

    Raises DrgateError for what is not a model, a manifest that is missing or unusable, and for patients or
    byte-identical files that the split shares with another.
    """
    from drgate.manifest import load_manifest

    if source.suffix.lower() not in MODELS:
        raise UsageError(
            f"{source} is neither a model ({', '.join(MODELS)}) nor a table of predictions ({', '.join(TABLES)})."
        )
    if not source.exists():
        raise CheckpointError(f"{source} does not exist; expected a checkpoint (*.pth) or an ONNX model (*.onnx).")
    if data is None:
        raise UsageError(f"{source} is a model: say on which images it is to be judged, with --data MANIFEST.")
    manifest = load_manifest(data)
    if manifest.table["split"].notna().any():
        if leaks := manifest.leaks(split):
            raise ManifestError(leaks[0])
        manifest = manifest.select(split)
    from drgate.vision.graders import load_grader

    return load_grader(source, base), manifest


def read_evaluation(path: Path) -> tuple[Evaluation, str | None]:
    """The evaluation in `evaluation.json`, `statement.json` or `certificate.json`, and how the last is signed."""
    from drgate.certificate import Certificate, read_certificate

    if not path.is_file():
        raise UsageError(f"{path} does not exist; expected an evaluation, a statement or a certificate.")
    plain = read_json(path, "an evaluation that drgate wrote", UsageError)
    if isinstance(plain, dict) and "verdict" in plain:
        return Evaluation.from_json(plain), None
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
    except (KeyError, TypeError) as problem:
        raise PredictionsError(f"{source}: its provenance lacks {problem}; score the model again.") from problem
    if use := model.get("base", {}).get("use"):
        facts["warnings"].append(f"Base model {model['base']['id']}: {use}")
    return model, facts


def _digest_of(value: Any) -> str:
    return f"sha256:{hashlib.sha256(canonical_json(value)).hexdigest()}"


def _training(
    grader: Grader | None, model: dict[str, Any], source: Path, record: Path | None, parent: Statement | None
) -> dict[str, Any]:
    from drgate.record import training_evidence

    if parent is not None:
        return {key: value for key, value in parent.evaluation.training.items() if key != "baseline"}
    if grader is None and record is None:
        return {"missing": "a table of predictions carries no training record; give the run folder with --record."}
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


def _write(folder: Path, evaluation: Evaluation, predictions: Predictions, key: PrivateKey | None) -> bool:
    """Write the folder, whole or not at all. Returns whether it holds a signed certificate."""
    from drgate.certify import certify
    from drgate.report import html, junit, markdown

    statement, certificate = certify(evaluation, key)
    name = None if certificate is None or key is None else _signature("certificate.json", key.public.id)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        plain = json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(fresh / "evaluation.json", plain.encode() + b"\n")
        write_atomically(fresh / "statement.json", statement)
        if certificate is not None:
            write_atomically(fresh / "certificate.json", certificate)
        write_predictions(predictions, fresh / "predictions.parquet")
        write_atomically(fresh / "report.html", html.render(evaluation, certificate=name).encode())
        write_atomically(fresh / "report.md", markdown.render(evaluation, certificate=name).encode())
        write_atomically(fresh / "junit.xml", junit.render(evaluation).encode())
        if folder.exists():
            folder.rename(Path(temporary) / "replaced")
        fresh.rename(folder)
    return certificate is not None


def _same_look(folder: Path, model: dict[str, Any], facts: dict[str, Any]) -> bool:
    """Whether a folder holds what was found by the same look, or nothing."""
    if not folder.is_dir():
        return False
    try:
        plain = json.loads((folder / "evaluation.json").read_bytes())
        return bool(
            plain["data"]["images_digest"] == facts["images_digest"]
            and plain["model"].get("tensor_digest") == model.get("tensor_digest")
            and plain["model"]["name"] == model["name"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return not any(folder.iterdir())
