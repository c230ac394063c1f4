"""A certified model becomes an ONNX bundle, and the file that will run is scored and judged once more.

    bundle = export(Source(Path("best_model.pth")), Path("certificate.json"), load_checklist("medical-grade"),
                    Path("bundle"), test=Test(Path("eyepacs")), trust=Trust([key]))

The bundle: model.onnx (weights beside it where they are large), preprocess.json, labels.json (the class of each
output), model.yaml where more is to be said, README.md (the card), what it runs with without drgate (preprocessing.py,
infer.py, config.pbtxt, vectors/, SHA256SUMS), and all that `drgate evaluate` writes, for the ONNX file: a certificate
is of the bytes that will run. An ONNX file is copied as it is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from drgate.answers import Answer
from drgate.bundle import write_programs, write_sums, write_triton, write_vectors
from drgate.bundle.card import model_card
from drgate.certificate.statement import Statement, read_certificate
from drgate.checklist import Checklist
from drgate.errors import CertificateError, CheckpointError, ExitCode, ImageUnreadable, NotCertified
from drgate.evaluation import COMPANIONS, CUT_OFFS, Verdict, plain_of
from drgate.files import canonical_json, refuse_existing, write_atomically
from drgate.given import NAMES, WRITTEN
from drgate.gradability import Rule
from drgate.judge import Evidence, Judgement, Output, Source, Test, judge
from drgate.models import DESCRIPTION, FORMAT, find_model
from drgate.preprocessing import Preprocessing, PreprocessingError
from drgate.scale import GRADES
from drgate.score import model_and_test_set
from drgate.screen import SILENT, Progress, silenced
from drgate.vectors import SUMS, VECTORS
from drgate.verify import Given, Trust, verify
from drgate.vision.grader import Exportable, Grader
from drgate.vision.images import read_image
from drgate.vision.model_files import copy_and_hash
from drgate.vision.onnx_files import parse_onnx, without_traces
from drgate.vision.onnx_grader import OnnxGrader
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

MODEL: Final = "model.onnx"
CARD: Final = "README.md"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What came of an export: the judgement of the ONNX file, and how closely it follows the model.

    folder: the bundle, or, where the exported file did not pass, `<out>.refused` with the report that says why.
    compared: images whose outputs were compared; largest_difference: of any output among them. exported: whether it is
    a bundle.
    """

    judgement: Judgement
    folder: Path
    compared: int
    largest_difference: float
    exported: bool


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
    progress: Progress = SILENT,
) -> Bundle:
    """Export a model that its certificate lets through.

    test: the test set of the certificate. key: signs the bundle's certificate. allow: what is accepted besides PASS and
    a model that scored in the same run or whose scorer's key is trusted (`Trust.scorers`). quality: the rule by which
    the bundle gives some photographs no grade, judged with it; None: that of an ONNX file beside it, if it has one.

    Raises NotCertified (exit code 1 or 3, as the verdict says; 3 without a trusted signature, and where it is not
    proved that this model gave the answers), CertificateError for a certificate that is not genuine, has expired, is
    revoked, or is of another model or checklist, CheckpointError for a grader in Python, and where the exported file
    does not compute what the model does. Nothing is written then.
    """
    if source.python is not None:
        raise CheckpointError(
            f"{source.python} is a grader in Python, which cannot be exported; export its network to ONNX yourself, "
            "write model.yaml beside it (docs/models.md), and evaluate that file."
        )
    refuse_existing(out, "give a new folder with --out")
    refused = out.with_name(f"{out.name}.refused")
    refuse_existing(refused, "move it away, or give another folder with --out")
    parent, trusted = _admitted(source.path, certificate, checklist, trust, allow_unsigned, allow)
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
        if isinstance(grader, OnnxGrader):
            _copy_onnx(grader, source.path, fresh)
        else:
            assert isinstance(grader, Exportable), "every other grader is a network"
            write_onnx(grader.network(), recipe.size, fresh / MODEL)
        point = parent.evaluation.data.operating_point
        # Logits can have turned out to be probabilities when they were scored.
        answer = replace(grader.answer, kind=parent.evaluation.model.output or grader.answer.kind)
        _write_companions(fresh, grader, recipe, answer, cut_offs=point is not None)
        if point is not None:  # before judging, because the file that runs grades by it
            write_atomically(fresh / CUT_OFFS, canonical_json(plain_of(point)))
        rule = grader.rule if quality is None and isinstance(grader, OnnxGrader) else quality
        write_programs(fresh, rule)
        exported = OnnxGrader(fresh / MODEL)
        write_triton(fresh, exported)
        difference = compare(grader, exported, _sample(test_set, recipe))
        judgement = judge(
            Source(fresh / MODEL, workers=source.workers),
            checklist,
            test=test,
            evidence=Evidence(operating_point=None if point is None else fresh / CUT_OFFS),
            output=Output(Path(temporary) / "report", key if trusted else None),  # nothing is signed on a mere claim
            parent=parent,
            progress=progress,
        )
        if judgement.evaluation.verdict not in _opening(allow):
            judgement.folder.rename(refused)
            return Bundle(judgement, refused, sum(BATCHES), difference, exported=False)
        for file in judgement.folder.iterdir():
            if file.name not in (NAMES, ".gitignore"):  # a bundle goes where the caller's names of images must not
                file.rename(fresh / file.name)
        write_atomically(fresh / CARD, model_card(judgement.evaluation, exported, fresh).encode())
        write_vectors(fresh, exported)
        write_sums(fresh)
        fresh.rename(out)
    return Bundle(judgement, out, sum(BATCHES), difference, exported=True)


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


def compare(grader: Grader, exported: OnnxGrader, images: NDArray[np.float32]) -> float:
    """Largest difference of any output between a model and its ONNX file, over real images at several batch sizes.

    Raises CheckpointError when it is more than rounding explains.
    """
    largest = 0.0
    start = 0
    for size in BATCHES:
        batch = images[start : start + size]
        start += size
        expected = grader.outputs(batch)
        difference = float(np.abs(expected - exported.outputs(batch)).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise CheckpointError(
                f"The ONNX file's outputs differ from the model's by {difference:.2g} at a batch of {size}; nothing "
                "was exported."
            )
        largest = max(largest, difference)
    return largest


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
