"""A certified model becomes an ONNX bundle, and the file that will run is scored and judged once more.

    bundle = export(Source(Path("best_model.pth")), Path("certificate.json"), load_checklist("medical-grade"),
                    Path("bundle"), test=Test(Path("eyepacs")), trust=Trust([key]))

The bundle: model.onnx (weights beside it where they are large), preprocess.json, labels.json (the class of each
output), model.yaml where more is to be said, README.md (the card), what it runs with without drgate (preprocessing.py,
infer.py, config.pbtxt, vectors/, SHA256SUMS), and all that `drgate evaluate` writes, for the ONNX file: a certificate
is of the bytes that will run. An ONNX file is copied as it is, unless another precision is asked for. Each precision is
a bundle of its own: what its rounding changed is paired with the answers of the model, and its own bounds decide.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from drgate.answers import Answer
from drgate.audited import AUDIT
from drgate.bundle import write_programs, write_sums, write_triton, write_vectors
from drgate.bundle.card import model_card
from drgate.calibration import Calibrating, calibration, refuse_mismatch
from drgate.certificate.statement import Statement, read_certificate
from drgate.checklist import Checklist
from drgate.compare import changes_between
from drgate.errors import CertificateError, CheckpointError, ExitCode, ImageUnreadable, NotCertified, UsageError
from drgate.evaluation import COMPANIONS, CUT_OFFS, Calibration, Verdict, plain_of
from drgate.files import canonical_json, refuse_existing, sha256_file, write_atomically
from drgate.given import NAMES, PREDICTIONS, WRITTEN
from drgate.gradability import Rule
from drgate.judge import Evidence, Judgement, Output, Source, Test, judge
from drgate.models import DESCRIPTION, FORMAT, find_model
from drgate.preprocessing import Preprocessing, PreprocessingError
from drgate.scale import GRADES
from drgate.score import model_and_test_set
from drgate.screen import SILENT, Progress, silenced
from drgate.vectors import SUMS, VECTORS
from drgate.verify import Given, Trust, published_table, verify
from drgate.vision.grader import Exportable, Grader
from drgate.vision.images import read_image
from drgate.vision.model_files import copy_and_hash
from drgate.vision.onnx_files import parse_onnx, without_traces
from drgate.vision.onnx_grader import OnnxGrader
from drgate.vision.precisions import MODEL, Smaller, refuse_other_numbers, seconds, write_precision
from drgate.vision.stated import agreed

if TYPE_CHECKING:
    from drgate.certificate.keys import SigningKey
    from drgate.manifest import Manifest

Allowed = Literal["observed", "scored_elsewhere"]
"""A verdict OBSERVED; a model of which nothing proves that it gave the answers."""

BATCHES: Final = (1, 2, 7)
"""Batch sizes at which the outputs of both models are compared: an exporter can fix the batch silently."""

TOLERANCE: Final = 1e-3
"""Largest difference of outputs that is rounding, as a fraction of their largest magnitude."""

OPSET: Final = 20
"""Of ONNX, in which networks are written."""

CARD: Final = "README.md"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What came of an export: the judgement of the ONNX file, and how closely it follows the model.

    folder: the bundle, or, where the exported file did not pass, `<out>.refused` with the report that says why.
    compared: images whose outputs were compared; largest_difference: of any output among them. exported: whether it is
    a bundle. seconds: for one batch here, of the network in fp32 and of the exported file, where that is not in fp32.
    """

    judgement: Judgement
    folder: Path
    compared: int
    largest_difference: float
    exported: bool
    seconds: tuple[float, float] | None = None


def export(
    source: Source,
    certificate: Path,
    checklist: Checklist,
    out: Path,
    *,
    test: Test,
    trust: Trust,
    key: SigningKey | None = None,
    allow_unsigned: bool = False,
    allow: Collection[Allowed] = (),
    quality: Rule | None = None,
    precision: Literal["fp32"] | Smaller = "fp32",
    calibrated_on: Calibrating | None = None,
    progress: Progress = SILENT,
) -> Bundle:
    """Export a model that its certificate lets through.

    test: the test set of the certificate. key: signs the bundle's certificate. allow: what is accepted besides PASS and
    a model that scored in the same run or whose scorer's key is trusted (`Trust.scorers`). quality: the rule by which
    the bundle gives some photographs no grade, judged with it; None: that of an ONNX file beside it, if it has one.
    precision: fp32 leaves an ONNX file as it is; the others need the model's published predictions beside its
    certificate. calibrated_on: for int8.

    Raises NotCertified (exit code 1 or 3, as the verdict says; 3 without a trusted signature, and where it is not
    proved that this model gave the answers), CertificateError for a certificate that is not genuine, has expired, is
    revoked, or is of another model or checklist, CheckpointError for a grader in Python, and where the exported file
    does not compute what the model does. Nothing is written then.
    """
    refuse_mismatch(precision, calibrated_on)
    if source.python is not None:
        raise CheckpointError(
            f"{source.python} is a grader in Python, which cannot be exported; export its network to ONNX yourself, "
            "write model.yaml beside it (docs/models.md), and evaluate that file."
        )
    refuse_existing(out, "give a new folder with --out")
    refused = out.with_name(f"{out.name}.refused")
    refuse_existing(refused, "move it away, or give another folder with --out")
    parent, trusted = _admitted(source.path, certificate, checklist, trust, allow_unsigned, allow)
    before = published_table(parent.evaluation, certificate)
    if before is None and precision != "fp32":
        raise UsageError(
            f"What {precision} changes is compared with the answers of the model, and "
            f"{certificate.with_name(PREDICTIONS)} does not hold those of the certificate; give --certificate as the "
            "folder of the evaluation."
        )
    certified = parent.evaluation.model.preprocessing
    grader, test_set, _ = model_and_test_set(
        source.path,
        test.data,
        test.split,
        source.base,
        parent,
        agreed(None if certified is None else certified.recipe, source.preprocess, certificate.name),
        lora_alpha=source.lora_alpha,
        columns=test.columns,
    )
    if not {*grader.files} <= {*parent.evaluation.model.files}:
        raise CertificateError(f"{source.path} was changed while it was read; export it again.")

    recipe = grader.preprocessing
    assert recipe is not None, "only a grader in Python has none, which is not exported"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        fresh = Path(temporary) / "bundle"
        fresh.mkdir()
        whole = fresh if precision == "fp32" else Path(temporary) / "fp32"
        whole.mkdir(exist_ok=True)
        if isinstance(grader, OnnxGrader):
            _copy_onnx(grader, source.path, whole)
        else:
            assert isinstance(grader, Exportable), "every other grader is a network"
            write_onnx(grader.network(), recipe.size, whole / MODEL)
        face = grader.face if isinstance(grader, OnnxGrader) else None
        taken, dtype = ("pixel_values", np.dtype(np.float32)) if face is None else (face.input, face.dtype)
        used: Calibration | None = None
        if precision != "fp32":
            refuse_other_numbers(source.path, parse_onnx(whole / MODEL, (whole / MODEL).read_bytes()), precision)
            batch, pixels = grader.batch if isinstance(grader, OnnxGrader) else 0, None
            if calibrated_on is not None:
                found = calibration(calibrated_on, test_set, recipe, columns=test.columns)
                used, pixels = found.record, _batched(found.pixels.astype(dtype), batch)
            write_precision(whole / MODEL, precision, fresh, pixels, input=taken, batch=batch)
        point = parent.evaluation.data.operating_point
        # Logits can have turned out to be probabilities when they were scored.
        answer = replace(grader.answer, kind=parent.evaluation.model.output or grader.answer.kind)
        _write_companions(fresh, grader, recipe, answer, cut_offs=point is not None)
        if point is not None:  # before judging, because the file that runs grades by it
            write_atomically(fresh / CUT_OFFS, canonical_json(plain_of(point)))
        write_programs(fresh, grader.rule if quality is None and isinstance(grader, OnnxGrader) else quality)
        exported = _loaded(fresh, precision)
        write_triton(fresh, exported)
        sample = _sample(test_set, recipe)
        difference = compare(grader, exported, sample, strict=precision == "fp32")
        judgement = judge(
            Source(fresh / MODEL, workers=source.workers),
            checklist,
            test=test,
            evidence=Evidence(operating_point=None if point is None else fresh / CUT_OFFS),
            output=Output(Path(temporary) / "report", key if trusted else None),  # nothing is signed on a mere claim
            parent=parent,
            changes=None if before is None else partial(changes_between, before, checklist, calibration=used),
            progress=progress,
        )
        took = None
        if precision != "fp32":
            one = _batched(sample[: exported.batch or BATCHES[1]].astype(dtype), exported.batch)
            took = seconds(whole / MODEL, taken, one), seconds(fresh / MODEL, taken, one)
        if judgement.evaluation.verdict not in _opening(allow):
            judgement.folder.rename(refused)
            return Bundle(judgement, refused, sum(BATCHES), difference, exported=False, seconds=took)
        audit = certificate.with_name(AUDIT)  # of the same images: a bundle can be verified alone
        named = judgement.evaluation.data.audit
        if named is not None and audit.is_file() and f"sha256:{sha256_file(audit)}" == named.digest:
            shutil.copyfile(audit, fresh / AUDIT)
        for file in judgement.folder.iterdir():
            if file.name not in (NAMES, ".gitignore"):  # a bundle goes where the caller's names of images must not
                file.rename(fresh / file.name)
        write_atomically(fresh / CARD, model_card(judgement.evaluation, exported, fresh).encode())
        write_vectors(fresh, exported)
        write_sums(fresh)
        fresh.rename(out)
    return Bundle(judgement, out, sum(BATCHES), difference, exported=True, seconds=took)


def _opening(allow: Collection[Allowed]) -> tuple[Verdict, ...]:
    """The verdicts that let a model through."""
    return ("PASS", "OBSERVED") if "observed" in allow else ("PASS",)


def _admitted(
    model: Path,
    certificate: Path,
    checklist: Checklist,
    trust: Trust,
    allow_unsigned: bool,
    allow: Collection[Allowed],
) -> tuple[Statement, bool]:
    """The statement that lets this model through, and whether a trusted key signed it; anything less raises."""
    read = read_certificate(certificate)
    statement = read.statement
    evaluation = statement.evaluation
    if not statement.of_model:
        raise CertificateError(f"{certificate} is of a table of predictions, not of a model; judge the model itself.")
    if evaluation.model.kind == "python grader":
        raise CertificateError(
            f"{certificate} is of a grader in Python, which drgate cannot export: export the model to ONNX yourself, "
            "and evaluate that file."
        )
    result = verify(certificate, trust, Given([model], checklist=checklist))
    if wrong := [*result.problems, *result.missing]:
        raise CertificateError(f"{certificate} does not let {model} through: {wrong[0]}")
    if not evaluation.clinical:
        raise CertificateError(
            f"The checklist {checklist.name} is for trying a pipeline and certifies nothing; judge by a clinical one."
        )
    if evaluation.verdict not in _opening(allow):
        raise NotCertified(
            f"{certificate} says {evaluation.verdict}: {evaluation.headline} It is not exported.",
            exit_code=evaluation.exit_code,
        )
    if not result.scored and "scored_elsewhere" not in allow:
        raise NotCertified(
            f"{certificate} is of predictions that were scored elsewhere, and no scorer's signature that you trust is "
            "verified. Evaluate the model itself, give --scorer-key PUB with the signed table beside the certificate, "
            "or --allow scored_elsewhere.",
            exit_code=ExitCode.NOT_SHOWN,
        )
    if not result.trusted and not allow_unsigned:
        missing = (
            "is not signed" if isinstance(read, Statement) else "is signed by no key that you trust (--trusted-key)"
        )
        raise NotCertified(f"{certificate} {missing}; nothing is exported on it.", exit_code=ExitCode.NOT_SHOWN)
    return statement, result.trusted


def write_onnx(model: torch.nn.Module, size: int, path: Path) -> None:
    """Write a network of images (n, 3, size, size) as ONNX with any n, input `pixel_values` and output `logits`.

    The file depends on the network alone: it holds no paths, traces or versions of the machine that wrote it. Raises
    CheckpointError for a network that torch cannot write for any number of images, such as a Swin.
    """
    # A batch of one would be taken for a constant.
    example = torch.zeros(2, 3, size, size)
    try:
        with silenced("torch.onnx", "onnxscript", level=logging.ERROR):  # it warns of its own future
            torch.onnx.export(
                model,
                (example,),
                str(path),
                input_names=["pixel_values"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # torch raises many kinds
        raise CheckpointError(
            f"torch cannot write this network as ONNX ({type(error).__name__}); export it yourself, write model.yaml "
            "beside it (docs/models.md), and evaluate that file."
        ) from error
    written = parse_onnx(path, path.read_bytes())
    without_traces(written)
    write_atomically(path, written.SerializeToString(deterministic=True))


def compare(grader: Grader, exported: OnnxGrader, images: NDArray[np.float32], *, strict: bool = True) -> float:
    """Largest difference of any output between a model and its ONNX file, over real images at several batch sizes.

    Raises CheckpointError where an output is not finite, and, if strict, when the difference is more than rounding of
    fp32 explains; of another precision, judging decides.
    """
    largest = 0.0
    start = 0
    for size in BATCHES:
        batch = images[start : start + size]
        start += size
        expected = grader.outputs(batch)
        outputs = exported.outputs(batch)
        if not np.isfinite(outputs).all():
            raise CheckpointError("The ONNX file gives outputs that are not finite numbers; nothing was exported.")
        difference = float(np.abs(expected - outputs).max())
        if strict and not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise CheckpointError(
                f"The ONNX file's outputs differ from the model's by {difference:.2g} at a batch of {size}; nothing "
                "was exported."
            )
        largest = max(largest, difference)
    return largest


def _loaded(folder: Path, precision: str) -> OnnxGrader:
    """The model in a new bundle. Raises CheckpointError where a network has no such precision."""
    try:
        return OnnxGrader(folder / MODEL)
    except CheckpointError as problem:
        if precision == "fp32":
            raise
        reason = str(problem).replace(str(folder / MODEL), "it")
        raise CheckpointError(f"In {precision} this network does not run: {reason} Export it in fp32.") from problem


def _batched(images: NDArray[Any], batch: int) -> NDArray[Any]:
    """The images, the last repeated until they are a multiple of what the network takes at a time (0: any number)."""
    short = -len(images) % batch if batch else 0
    return np.concatenate([images, np.repeat(images[-1:], short, axis=0)]) if short else images


def _sample(test_set: Manifest, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """As many images of the test set as `compare` takes, spread over it; repeated where there are fewer."""
    wanted = sum(BATCHES)
    names = list(test_set.table["image"])
    images: list[NDArray[np.float32]] = []
    for name in names[:: max(1, len(names) // (2 * wanted))]:
        with contextlib.suppress(ImageUnreadable, PreprocessingError):  # it has no output, and another is compared
            images.append(preprocessing(read_image(test_set.path(name), preprocessing.decoded_at)))
        if len(images) == wanted:
            break
    if not images:
        raise CheckpointError("No image of the test set could be read to compare the exported model on.")
    return np.stack([images[i % len(images)] for i in range(wanted)])


def _copy_onnx(grader: OnnxGrader, path: Path, folder: Path) -> None:
    """Copy an ONNX model and its data, the very bytes that were loaded, into the folder of a bundle.

    Raises CheckpointError for data with the name of another file of the bundle.
    """
    path = find_model(path).file
    taken = {name.casefold() for name in (MODEL, CARD, SUMS, VECTORS, *COMPANIONS, *WRITTEN)}
    for file in grader.files:
        if file.role not in ("model", "data"):
            continue
        if file.role == "data" and file.name.casefold() in taken:
            raise CheckpointError(
                f"{path} has its weights in {file.name}, a name that another file of the bundle has; export it to ONNX "
                "with its weights in another file."
            )
        with (folder / (MODEL if file.role == "model" else file.name)).open("xb") as copy:
            if copy_and_hash(path.with_name(file.name), file.role, copy) != file:
                raise CertificateError(f"{path.with_name(file.name)} was changed while it was read; export it again.")


def _write_companions(folder: Path, grader: Grader, recipe: Preprocessing, answer: Answer, *, cut_offs: bool) -> None:
    content = json.dumps(recipe.content(), indent=2)
    write_atomically(folder / "preprocess.json", content.encode() + b"\n")
    if answer.classes:
        write_atomically(folder / "labels.json", json.dumps(list(answer.classes)).encode() + b"\n")
    if (answer.kind, answer.classes) == ("logits", GRADES) and not isinstance(grader, OnnxGrader):
        return
    face = grader.face if isinstance(grader, OnnxGrader) else None
    described: dict[str, Any] = {
        "format": FORMAT,
        "weights": MODEL,
        "architecture": "onnx",
        "input": "pixel_values" if face is None else face.input,
        "output": {"name": "logits" if face is None else face.output, "kind": answer.kind},
        **({"classes": list(answer.classes)} if answer.classes else {}),
        "preprocessing": "preprocess.json",
        **({"cut_offs": CUT_OFFS} if cut_offs else {}),
    }
    # JSON is YAML, and quotes whatever name the graph has.
    write_atomically(folder / DESCRIPTION, json.dumps(described, indent=2, ensure_ascii=False).encode() + b"\n")
