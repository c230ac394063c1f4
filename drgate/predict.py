"""Predict: grade photographs with a bundle, after its certificate was checked.

    deployed = load_bundle(Path("bundle"), Trust([load_public_key(Path("clinical.pub"))]))
    for prediction in graded(deployed, photographs_in([Path("site-a")])):
        prediction.to_json()

Photographs are streamed: worker processes decode them and the model grades batches, so memory use does not depend on
their number.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from drgate.answers import NEEDS_CUT_OFFS, Answer
from drgate.buckets import Address, fetch, is_folder
from drgate.certificate.statement import read_certificate
from drgate.errors import CertificateError, DrgateError, ExitCode, ImageUnreadable, ManifestError, UsageError, visible
from drgate.evaluation import CUT_OFFS, FOR_OTHERS, Role, Subject
from drgate.files import parse_json
from drgate.given import TABLES, certificate_in
from drgate.gradability import RULE, gradable, measures, score
from drgate.layouts.dicom import unpacked
from drgate.layouts.found import Found
from drgate.layouts.holdings import DICOM_SUFFIXES, holdings, without_suffix
from drgate.manifest import load_manifest
from drgate.mapping import PLAIN, ColumnMap
from drgate.operating_point import OperatingPoint, parse_operating_point
from drgate.predictions import PROBABILITIES, scores_of
from drgate.preprocessing import Preprocessing, Reduced
from drgate.scale import GRADES, GROUPS, REFERABLE_CLASSES
from drgate.score import BATCH, most_at_once, on_cuda, usual_batch, whole_batch
from drgate.verify import Given, Trust, verify
from drgate.vision.decoding import CHUNK, in_processes, usable_cores
from drgate.vision.model_files import MAX_COMPANION_BYTES, copy_and_hash
from drgate.vision.onnx_grader import OnnxGrader
from drgate.vision.prepared import Prepared, prepare_image

if TYPE_CHECKING:
    from drgate.certificate.statement import Certificate, Statement

FORMAT: Final = "drgate predict 1"

_LISTED: Final = (*TABLES, ".npz", ".arrow")
"""Suffixes of a list of photographs, or of a file with photographs inside; every other file is one photograph."""

_NAMED: Final = 5
"""Files that are named of those that are not graded."""

_UNTOLD: Final = ("hidden", "text", "a file of the system")


@dataclass(frozen=True, slots=True)
class Deployed:
    """A model that grades, and what is known of it.

    statement, headline: of its certificate; empty where it has none that can be read. doubts: why it is not certified,
    in sentences; empty for a certified model. cut_offs: by which it grades; None: the most probable grade.
    """

    grader: OnnxGrader
    answer: Answer
    cut_offs: OperatingPoint | None
    statement: str
    headline: str
    doubts: tuple[str, ...]

    @property
    def device(self) -> str:
        """The execution provider that ONNX Runtime really uses."""
        return self.grader.providers[0]

    @property
    def where(self) -> str:
        """The same as a sentence, with the numbers that the model computes in."""
        gpu = ", because no GPU works here" if self.grader.fell_back else ""
        return f"Device: {self.device}{gpu}. Precision: {self.grader.precision}."

    def to_json(self) -> dict[str, Any]:
        """Everything of the result but its predictions."""
        bundle = {"statement": self.statement, "headline": self.headline, "certified": not self.doubts}
        return {"format": FORMAT, "bundle": bundle, "device": self.device}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one photograph.

    image: as the caller names it. sha256: of the file's bytes (hex); None where it cannot be read. grade: 0 to 4; None
    where the model says only whether to refer. name: of the grade, or one of `REFERABLE_CLASSES`. p: probability of
    each grade, or of not referable and referable; None where the model has no probabilities. quality: see
    `drgate.gradability.score`; below 1 the rule of image quality refuses the photograph. reason: why there is no
    grade, or what the rule says of the photograph.
    """

    image: str
    status: Literal["graded", "no_grade", "unreadable"]
    sha256: str | None = None
    grade: int | None = None
    name: str | None = None
    p: tuple[float, ...] | None = None
    referable: bool | None = None
    quality: float | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "sha256": self.sha256,
            "status": self.status,
            "grade": self.grade,
            "name": self.name,
            "p": None if self.p is None else list(self.p),
            "referable": self.referable,
            "quality": self.quality,
            "reason": self.reason,
        }


def load_bundle(folder: Path, trust: Trust, *, uncertified: bool = False) -> Deployed:
    """The model of a bundle, whose files are those that a certificate with the verdict PASS names.

    uncertified: load it whatever its certificate says; `Deployed.doubts` then says what is wrong.

    Raises UsageError for what is no bundle, CertificateError for a model that is not certified, DrgateError for one
    that cannot be loaded.
    """
    if not (folder / "model.onnx").is_file():
        raise UsageError(f"{folder} is no folder with a model.onnx; expected a bundle that drgate export wrote.")
    read: Certificate | Statement | None = None
    doubts: tuple[str, ...]
    try:
        path = certificate_in(folder)
        read = read_certificate(path)
        doubts = tuple(_doubts(folder, path, read, trust))
    except DrgateError as problem:
        doubts = (str(problem),)
    if doubts and not uncertified:
        raise CertificateError(
            f"{folder} is not certified: {doubts[0]} Nothing was graded; --uncertified does it all the same."
        )
    grader = OnnxGrader(folder / "model.onnx")
    points, of_points = _beside(folder, CUT_OFFS, "cut_offs")
    cut_offs = None if points is None else parse_operating_point(points, str(folder / CUT_OFFS))
    loaded = {file for file in (*grader.files, *of_points) if file.name not in FOR_OTHERS}
    answer = grader.answer
    if read is not None:
        evaluation = read.statement.evaluation
        # What is compared is what was loaded. A certified file that nothing here uses would change the answers.
        certified = {file for file in evaluation.model.files if file.name not in FOR_OTHERS}
        if not doubts and loaded != certified:
            doubts = ("What was loaded is not what the certificate names: a file was changed, added or taken away.",)
            if not uncertified:
                raise CertificateError(f"{folder}: {doubts[0]} Nothing was graded.")
        if not doubts:
            # Logits can have turned out to be probabilities when they were judged.
            answer = replace(answer, kind=evaluation.model.output or answer.kind)
    if cut_offs is None and answer.kind in NEEDS_CUT_OFFS:
        raise UsageError(f"{folder} holds no {CUT_OFFS}, without which its model gives no grade; export it again.")
    if cut_offs is not None and cut_offs.on != answer.cut_on:
        raise UsageError(f"{folder / CUT_OFFS} has cut-offs on {cut_offs.on}, its model answers with {answer.cut_on}.")
    statement, headline = ("", "") if read is None else (read.statement.digest, read.statement.headline)
    return Deployed(grader, answer, cut_offs, statement, headline, doubts)


def _doubts(folder: Path, path: Path, read: Certificate | Statement, trust: Trust) -> Iterator[str]:
    """Why a bundle is not certified, in sentences."""
    if not read.statement.of_model:
        yield "Its certificate is of a table of predictions, not of a model."
    found = verify(path, trust, Given([folder]), read=read)
    yield from (*found.problems, *found.missing)
    if not found.signed:
        yield "Its certificate is not signed: anybody could have written it."
    elif not trust.keys:
        yield "No trusted key was given (--trusted-key PUB or DRGATE_TRUSTED_KEY), so its signature was not verified."
    yield from found.unproved
    evaluation = read.statement.evaluation
    if evaluation.verdict != "PASS":
        yield f"Its certificate says {evaluation.verdict}: {found.headline}"
    if not evaluation.clinical:
        yield f"The checklist {evaluation.spec.name} is for trying a pipeline and certifies nothing."


def _beside(folder: Path, name: str, role: Role) -> tuple[Any, list[Subject]]:
    """What a JSON file beside a bundle's model holds, and the file that was read; None where there is none."""
    path = folder / name
    if not path.is_file():
        return None, []
    content = io.BytesIO()
    subject = copy_and_hash(path, role, content, limit=MAX_COMPANION_BYTES)
    return parse_json(content.getvalue(), str(path), "a file that drgate export wrote", UsageError), [subject]


@dataclass(frozen=True, slots=True)
class Photographs:
    """Photographs to grade.

    named: of each its name in answers, the folder that it is in, and its name there. notes: what is to be said of what
    was given, a sentence each. kept: what they were unpacked for; they are deleted with it.
    """

    named: list[tuple[str, Path, str]]
    notes: list[str] = field(default_factory=list)
    kept: list[object] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.named)


def photographs_in(given: Sequence[Path], *, columns: ColumnMap = PLAIN, split: str | None = None) -> Photographs:
    """All photographs of what is given, in order: images, all that are in a folder or below it, those of a table.

    A photograph of a folder or table has the name that it has there; where several are given, below the folder's own.
    Of a table, only the names and splits of images are used. None is opened but DICOM, which is unpacked.

    columns, split: of tables; with either, a folder is read as a data set, as `drgate evaluate --data` reads it.

    Raises ManifestError for a folder or table without photographs, UsageError for what does not exist.
    """
    found = Photographs([])
    for path in given:
        remote = isinstance(path, Address)
        folder = is_folder(path, ManifestError) if remote else path.is_dir()
        if not folder and path.suffix.lower() not in _LISTED:
            _add_one(found, fetch(str(path), ManifestError) if remote else path, str(path))
            continue
        before = f"{path if folder else path.parent}/" if len(given) > 1 else ""
        plain = folder and not remote and split is None and columns == PLAIN
        if plain and _add_all(found, path, before):
            continue
        manifest = load_manifest(path, columns=columns, references=False)
        manifest = manifest if split is None else manifest.select(split)
        assert manifest.found is not None, "it was read, not made"
        found.kept.append(manifest.found)
        found.notes.extend(manifest.found.troubles)
        found.named.extend((f"{before}{image}", manifest.root, image) for image in map(str, manifest.table["image"]))
        _add_notes(found, path, manifest.found.left_out)
    if not found.named:
        raise UsageError("No photograph was given; give images, a folder of images, or a table that lists them.")
    return found


def _add_all(found: Photographs, folder: Path, before: str) -> bool:
    """Add all photographs of a folder, whatever its tables and the names of its folders say; False if it has none."""
    held = holdings(folder)
    found.named.extend((f"{before}{image}", folder, image) for image in held.images)
    if held.images:
        _add_notes(found, folder, {"DICOM beside other images": held.dicom} | held.left_out)
    elif held.dicom:
        _add_dicom(found, folder, held.dicom, before)
        _add_notes(found, folder, held.left_out)
    return bool(held.images or held.dicom)


def _add_one(found: Photographs, path: Path, name: str) -> None:
    suffix = without_suffix(path.name)[1]
    if not suffix and not path.exists():
        raise UsageError(f"{name} does not exist; give images, a folder of images, or a table that lists them.")
    if suffix in DICOM_SUFFIXES:
        _add_dicom(found, path.parent, [path.name], name[: -len(path.name)])
    else:
        found.named.append((name, path.parent, path.name))


def _add_dicom(found: Photographs, folder: Path, names: list[str], before: str) -> None:
    rows = unpacked(Found("images alone", folder, pd.DataFrame({"image": names})), folder, True)
    found.kept.append(rows)
    found.notes.extend(rows.troubles)
    found.named.extend(
        (f"{before}{name}", rows.root, str(image)) for name, image in zip(names, rows.table["image"], strict=True)
    )


def _add_notes(found: Photographs, path: Path, left_out: Mapping[str, Sequence[str]]) -> None:
    """Say what is left out, but for files that nobody takes for photographs."""
    for why, names in left_out.items():
        if names and why not in _UNTOLD:
            shown = f"{', '.join(map(visible, names[:_NAMED]))}{', ...' if len(names) > _NAMED else ''}"
            found.notes.append(f"{path}: {len(names)} not graded ({why}): {shown}.")


def graded(
    deployed: Deployed,
    photographs: Photographs,
    *,
    workers: int | None = None,
    advance: Callable[[int], Any] = lambda images: None,
) -> Iterator[Prediction]:
    """What the model says of each photograph, in their order.

    Every batch is filled up to one size, so that a photograph gets the same answer in any company.

    workers: processes that decode (default: one per core; 0: decode in this process). advance: called after each batch
    with its number of photographs.

    Raises CheckpointError where the model cannot grade.
    """
    grader = deployed.grader
    recipe = grader.preprocessing
    size = usual_batch(grader)
    prepared = in_processes(
        partial(_prepare, recipe=recipe),
        photographs.named,
        workers=usable_cores() if workers is None else workers,
        chunk=max(1, CHUNK * most_at_once(recipe) // BATCH),
        yielding=not on_cuda(grader),
    )
    names = (name for name, _, _ in photographs.named)
    rule = RULE if grader.rule is None else grader.rule
    while batch := list(islice(prepared, size)):
        pixels = [one.pixels for one in batch if not isinstance(one, str)]
        answers: Iterator[Prediction] = iter(())
        if pixels:
            answers = _answers(deployed, recipe.scaled(whole_batch(pixels, size)))
        for one, name in zip(batch, names, strict=False):
            name = name if _is_text(name) else visible(name)
            if isinstance(one, str):
                yield Prediction(name, "unreadable", reason=one)
                continue
            answer, why = next(answers), gradable(one.also, rule)
            if why and grader.rule is not None:
                answer = Prediction(name, "no_grade", reason=f"image quality: {why}. Refer to a person.")
            quality, reason = round(score(one.also, rule), 4), answer.reason or why or None
            yield replace(answer, image=name, sha256=one.digest, quality=quality, reason=reason)
        advance(len(batch))


def _is_text(name: str) -> bool:
    """Whether UTF-8 can hold a file's name; bytes that are none come as halves of surrogate pairs."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def exit_code(counts: dict[str, int]) -> int:
    """0 where all photographs have a grade, else 3. counts: by `Prediction.status`."""
    return ExitCode.PASSED if set(counts) <= {"graded"} else ExitCode.NOT_SHOWN


def _prepare(named: tuple[str, Path, str], recipe: Preprocessing) -> Prepared | str:
    """The pixels of the network's input, beside the measures of quality; or why the file is unreadable."""
    path = named[1] / named[2]
    try:
        return prepare_image(path, recipe, (), _measures)
    except ImageUnreadable as problem:
        return visible(str(problem).removeprefix(f"{path}: "))


def _measures(data: bytes, image: Image.Image, reduced: Reduced) -> dict[str, float]:
    return measures(image, *reduced)


def _answers(deployed: Deployed, pixels: NDArray[np.float32]) -> Iterator[Prediction]:
    """The answer for each image, without what is known of its file."""
    table = pd.DataFrame(deployed.answer.columns(deployed.grader.outputs(pixels)))
    names = [name for name in PROBABILITIES if name in table.columns]
    p = table[names].to_numpy()
    if deployed.cut_offs is not None:
        grades = deployed.cut_offs.apply(scores_of(table))
    elif deployed.answer.referable_only:
        grades = np.where(table["p_referable"] >= 0.5, 2, 0)
    else:
        grades = np.nan_to_num(p, nan=-1.0).argmax(axis=1)
    silent = table.isna().any(axis=1).to_numpy()
    for row, grade in enumerate(map(int, grades)):
        if silent[row]:
            yield Prediction("", "no_grade", reason="the model gave no finite numbers. Refer to a person.")
            continue
        refer = grade in GROUPS["referable"]
        if deployed.answer.referable_only:
            share = float(table["p_referable"].iloc[row])
            yield Prediction("", "graded", name=REFERABLE_CLASSES[refer], p=(1 - share, share), referable=refer)
        else:
            shares = tuple(map(float, p[row])) or None
            yield Prediction("", "graded", grade=grade, name=GRADES[grade], p=shares, referable=refer)
