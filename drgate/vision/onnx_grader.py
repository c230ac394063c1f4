"""A grader from an ONNX file: a bundle that `drgate export` wrote, or a foreign model."""

from __future__ import annotations

import io
import json
import tempfile
import threading
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drgate.answers import Answer
from drgate.errors import CheckpointError, brief
from drgate.evaluation import COMPANIONS, FOR_OTHERS, QUALITY, Role, Subject
from drgate.files import digest_of, parse_json
from drgate.gradability import Rule
from drgate.models import DESCRIPTION, Description, answer_of, classes_of, parse_description, preprocessing_of
from drgate.preprocessing import PRESETS, Preprocessing
from drgate.scale import GRADES, REFERABLE_CLASSES, Kind
from drgate.vision.for_others import written_for_others
from drgate.vision.grader import checked_outputs
from drgate.vision.model_files import MAX_COMPANION_BYTES, copy_and_hash
from drgate.vision.onnx_files import (
    TRIAL_SECONDS,
    Interface,
    cannot_run,
    copy_data,
    copy_model,
    first_line,
    interface,
    try_out,
)
from drgate.vision.stated import agreed, own_preprocessing

SLOWER: Final = 10
"""A batch may take so many times as long an image as the trial, which includes starting a process."""

_ENDS: Final[dict[str, tuple[Kind, ...]]] = {
    "Softmax": ("probabilities", "referable_probability"),
    "Sigmoid": ("probabilities", "regression", "referable_probability"),
}
"""What the outputs can be of a graph that ends in one of these operators; the values decide on the rest."""


class OnnxGrader:
    """An ONNX model, on CUDA if that works, else on the CPU.

    What its outputs are, and its preprocessing, is stated by `model.yaml` beside it, or by `labels.json` and
    `preprocess.json` (a bundle). preprocess: of a model without a `model.yaml` or `preprocess.json`. `rule`: by
    `quality.json`, which photographs it gives no answer for; None: it answers for all.
    """

    def __init__(self, path: Path, preprocess: Preprocessing | None = None) -> None:
        import onnxruntime

        if not path.is_file():
            raise CheckpointError(f"{path} does not exist; expected an ONNX model.")
        beside = _beside(path)
        described = beside.described
        wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        available = onnxruntime.get_available_providers()
        # Hides errors about a CUDA provider that is installed on a machine without a GPU.
        onnxruntime.set_default_logger_severity(4)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # ONNX Runtime opens external data by its name, and reads it during scoring too.
        with tempfile.TemporaryDirectory(prefix="drgate-", ignore_cleanup_errors=True) as private:
            file, model = copy_model(path, Path(private))
            self.face = face = interface(
                path,
                model.graph,
                None if described is None else described.input,
                None if described is None else described.output.name,
            )
            self.answer = _answer(path, beside, face)
            self.preprocessing = agreed(
                beside.preprocessing, preprocess, f"{path.name}'s {beside.says}" if beside.says else path.name
            )
            _refuse_other_input(path, face, self.preprocessing, beside.says)
            copied = [file, *copy_data(path, Path(private), model, beside.names)]
            del model
            copy = Path(private) / path.name
            tried = try_out(path, copy, face, self.answer.width, self._examples(), sum(file.size for file in copied))
            try:
                self._session = onnxruntime.InferenceSession(
                    str(copy), options, providers=[provider for provider in wanted if provider in available]
                )
            except Exception as error:  # onnxruntime's exceptions share no base class
                raise cannot_run(path, copy, error) from error
        self.providers: list[str] = self._session.get_providers()
        self.fell_back = wanted[0] in available and wanted[0] not in self.providers
        self.rule = beside.rule
        self._seconds, self.batch = tried.seconds, tried.batch
        takes, gives = (
            next(one for one in ends if one.name == name)
            for name, ends in ((face.input, self._session.get_inputs()), (face.output, self._session.get_outputs()))
        )
        self.for_others = written_for_others(
            takes, gives, self.preprocessing, batch=self.batch, width=self.answer.width
        )
        own, self._not_ours = _compared(path, self.for_others)
        self.files = (*copied, *beside.files, *own)
        self.record = None
        self.fingerprint = None
        self.unknown_data = ""

    @property
    def notes(self) -> list[str]:
        found = []
        if self.rule is not None:
            found.append(f"By {QUALITY}, the model gives no answer for a photograph with {self.rule}.")
        if self.batch:
            how = "one by one" if self.batch == 1 else f"{self.batch} at a time, the last of them filled up"
            many = f"{self.batch} image{'' if self.batch == 1 else 's'}"
            found.append(f"The model takes {many} at a time: it was scored {how}.")
        if self._not_ours:
            found.append(
                f"Not certified: {', '.join(self._not_ours)} beside the model, which this version of drgate did not "
                "write and did not run. Take away what you do not trust."
            )
        return found

    @property
    def tensor_digest(self) -> str:
        # What was not run has no part in the answers: the same model beside the programs of another version.
        files = sorted((file.name, file.sha256) for file in self.files if file.name not in FOR_OTHERS)
        return digest_of(["drgate onnx 2", files, self.preprocessing.digest])

    @property
    def description(self) -> dict[str, Any]:
        return {"kind": "onnx"}

    def outputs(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        step = self.batch or max(1, len(batch))
        parts = [self._run(batch[start : start + step]) for start in range(0, len(batch), step)]
        return np.concatenate(parts) if parts else np.empty((0, self.answer.width), np.float32)

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs of at most as many images as the model takes at a time."""
        import onnxruntime

        # What the images of the trial do not start, another one can: a loop without end.
        seconds = TRIAL_SECONDS + SLOWER * self._seconds * len(batch)
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        clock = threading.Timer(seconds, setattr, (options, "terminate", True))
        clock.daemon = True
        clock.start()
        given = batch.astype(self.face.dtype, copy=False)
        if len(batch) < self.batch:
            given = np.concatenate([given, np.repeat(given[-1:], self.batch - len(batch), axis=0)])
        try:
            outputs = self._session.run([self.face.output], {self.face.input: given}, options)[0]
        except Exception as error:  # onnxruntime's exceptions share no base class
            late = f"it took more than {seconds:.0f} seconds" if options.terminate else first_line(error)
            raise CheckpointError(f"The model cannot grade {len(batch)} images here ({late}).") from error
        finally:
            clock.cancel()
        if isinstance(outputs, np.ndarray) and outputs.dtype.kind == "f" and len(outputs) == len(given):
            outputs = outputs[: len(batch)].astype(np.float32)
            if outputs.ndim == 1 and self.answer.width == 1:
                outputs = outputs[:, None]
        return checked_outputs(outputs, batch, self.answer)

    def _examples(self) -> NDArray[Any]:
        """Two photographs of nothing, as the model's input takes them."""
        side = self.preprocessing.size
        coarse = np.random.default_rng(0).integers(32, 224, (2, 8, 8, 3))
        at = np.arange(side) * 8 // side
        pixels = coarse[:, at][:, :, at]
        return self.preprocessing.scaled(pixels).astype(self.face.dtype)


class _Beside(NamedTuple):
    """The files beside an ONNX model that say what it is, each read once.

    described: `model.yaml`. labels: classes of the outputs in order, in the model's own words, by `labels.json`.
    preprocessing: by `model.yaml` or `preprocess.json`; says: which of them; "" where neither does. files: what was
    read. names: of all files that are not the model's data. rule: by `quality.json`.
    """

    described: Description | None
    labels: list[str] | None
    preprocessing: Preprocessing | None
    says: str
    files: tuple[Subject, ...]
    names: frozenset[str]
    rule: Rule | None


def _beside(path: Path) -> _Beside:
    """Raises CheckpointError for files that cannot be read, are something else, or contradict each other."""
    files: dict[str, Subject] = {}

    def read(name: str, role: Role) -> bytes | None:
        if not path.with_name(name).is_file():
            return None
        files[name], content = _hashed(path, name, role)
        return content

    def prepared(name: str) -> Preprocessing | None:
        if (data := read(name, "preprocessing")) is None:
            return None
        where = str(path.with_name(name))
        remedy = "Write it as docs/preprocessing.md says, or take the file away and state it with --preprocess."
        return own_preprocessing(parse_json(data, where, "a preprocessing", CheckpointError), where, remedy)

    data = read(DESCRIPTION, "config")
    own, says = prepared("preprocess.json"), "preprocess.json"
    listed, of_labels = read("labels.json", "labels"), path.with_name("labels.json")
    labels = None if listed is None else _labels(listed, of_labels)
    limits, rule = read(QUALITY, "quality"), None
    if limits is not None:
        where = str(path.with_name(QUALITY))
        try:
            rule = Rule.from_json(parse_json(limits, where, "a rule of image quality", CheckpointError), where)
        except ValueError as problem:
            raise CheckpointError(str(problem)) from problem
    if data is None:
        return _Beside(None, labels, own, "" if own is None else says, tuple(files.values()), frozenset(files), rule)
    origin = path.with_name(DESCRIPTION)
    described = parse_description(data, origin)
    _refuse_other_file(path, described)
    stated = described.preprocessing
    if isinstance(stated, str) and stated.lower().endswith(".json"):
        if Path(stated).name != stated or "\\" in stated:
            raise CheckpointError(f"{origin} names {stated[:100]!r}; expected the bare name of a file beside it.")
        found = own if stated == says else prepared(stated)
        if found is None:
            raise CheckpointError(f"{origin} names {stated[:100]!r}, which is not beside it.")
    else:
        found = preprocessing_of(described, path.parent)
    if own is not None and own.digest != found.digest:
        raise CheckpointError(
            f"{origin} states the preprocessing {found.label}, but {says} beside it states {own.label}; keep the one "
            "that the model was trained on."
        )
    classes = answer_of(described, str(origin)).classes
    if labels is not None and classes != (others := classes_of(labels, str(of_labels))):
        raise CheckpointError(
            f"{origin} states the classes {list(classes)}, but {of_labels.name} beside it states {list(others)}; keep "
            "the right one."
        )
    names = {*files, *([described.cut_offs] if described.cut_offs else [])}
    return _Beside(described, labels, found, DESCRIPTION, tuple(files.values()), frozenset(names), rule)


def _hashed(path: Path, name: str, role: Role | None = None) -> tuple[Subject, bytes]:
    """A file beside an ONNX model, read once. role: by default that of `COMPANIONS`."""
    content = io.BytesIO()
    file = copy_and_hash(path.with_name(name), role or COMPANIONS[name], content, limit=MAX_COMPANION_BYTES)
    return file, content.getvalue()


def _compared(path: Path, written: dict[str, bytes]) -> tuple[list[Subject], list[str]]:
    """Of the files beside a model: those with exactly the bytes that drgate writes, and the names of the others."""
    own, others = [], []
    for name, content in written.items():
        if (beside := path.with_name(name)).is_file():
            if beside.stat().st_size == len(content):
                file, found = _hashed(path, name)
                if found == content:
                    own.append(file)
                    continue
            others.append(name)
    return own, others


def _labels(data: bytes, origin: Path) -> list[str]:
    plain = parse_json(data, str(origin), "a list of the class of each output", CheckpointError)
    if not isinstance(plain, list) or not all(isinstance(name, str) for name in plain):
        raise CheckpointError(f"{origin} lists {brief(plain)}; expected the class of each output, such as {[*GRADES]}.")
    return plain


def _refuse_other_file(path: Path, described: Description) -> None:
    """Raise CheckpointError where `model.yaml` is of another file, or states what an ONNX file has no use for."""
    origin = path.with_name(DESCRIPTION)
    if described.weights != path.name:
        raise CheckpointError(
            f"{origin} describes {described.weights}, not {path.name}; put each model into a folder of its own."
        )
    if described.architecture != "onnx":
        raise CheckpointError(f"{origin} states the architecture {described.architecture}, but {path} is an ONNX file.")
    if useless := [key for key in ("base", "key_prefix", "lora") if getattr(described, key) is not None]:
        raise CheckpointError(f"{origin} states {useless[0]}, which an ONNX file has no use for; leave it out.")


def _answer(path: Path, beside: _Beside, face: Interface) -> Answer:
    """What the outputs are. Raises CheckpointError where nothing states it, and where the graph contradicts it."""
    described, labels = beside.described, beside.labels
    if described is not None:
        says, answer = DESCRIPTION, answer_of(described, str(path.with_name(DESCRIPTION)))
    elif labels is not None:
        says, classes = "labels.json", classes_of(labels, str(path.with_name("labels.json")))
        kind: Kind = "probabilities" if face.ends_in == "Softmax" else "logits"
        answer = Answer(kind, classes, () if tuple(labels) == classes else tuple(labels), stated=False)
    else:
        raise CheckpointError(_what_to_write(path, face, beside.says))
    if face.width not in (0, answer.width):
        raise CheckpointError(
            f"{path} gives {face.width} numbers for an image, but {says} beside it states {answer.width} "
            f"({_stated(answer)}); correct it."
        )
    if face.ends_in in _ENDS and answer.kind not in _ENDS[face.ends_in]:
        other = {"logits": "probabilities", "referable_logit": "referable_probability"}.get(answer.kind)
        fits = answer.stated and other in _ENDS[face.ends_in] and (face.ends_in == "Softmax" or not answer.classes)
        raise CheckpointError(
            f"{path} ends in {face.ends_in}, so its outputs are not {answer.kind}, as {says} beside it "
            f"{'states' if answer.stated else 'means'}; "
            + (f"state output.kind: {other}." if fits else f"export it without its {face.ends_in}.")
        )
    return answer


def _stated(answer: Answer) -> str:
    return f"{answer.kind}: {', '.join(answer.classes)}" if answer.classes else answer.kind


def _what_to_write(path: Path, face: Interface, prepared: str) -> str:
    """The sentence for a model whose outputs nothing states, with a `model.yaml` that fits what its graph shows.

    prepared: the file beside it that states its preprocessing; "" where none does.
    """
    soft, classes = face.ends_in == "Softmax", {5: GRADES, 2: REFERABLE_CLASSES}.get(face.width)
    kind: Kind = "probabilities" if soft else "logits"
    if classes is None and face.width in (1, 4):
        single: Kind = "referable_probability" if face.ends_in == "Sigmoid" else "referable_logit"
        kind = single if face.width == 1 else "cumulative_logits"
    elif classes is None:
        classes = GRADES
    listed = f"classes: [{', '.join(classes)}], " if classes else ""
    size = f"@{max(face.shape)}" if max(face.shape) else ""
    example = (
        f"{{format: drgate model 1, weights: {json.dumps(path.name)}, architecture: onnx, output: {{kind: {kind}}}, "
        f"{listed}preprocessing: {prepared or f'PRESET{size}'}}}"
    )
    return (
        f"{path} does not say what its outputs are{'' if prepared else ', nor how photographs are prepared'}. Write "
        f"model.yaml beside it (docs/models.md), such as {example}, with the classes in the order of the outputs"
        + ("." if prepared else f" and PRESET one of {', '.join(PRESETS)}, or a file.")
    )


def _refuse_other_input(path: Path, face: Interface, preprocess: Preprocessing, says: str) -> None:
    """Raise CheckpointError where the graph says, without being loaded, that it takes other images.

    says: the file that states the preprocessing; "" where --preprocess does.
    """
    side, last = preprocess.size, preprocess.layout == "nhwc"
    shape = (side, side, 3) if last else (3, side, side)
    where = f"in {says} beside it" if says else "with --preprocess"
    if any(length not in (0, wanted) for length, wanted in zip(face.shape, shape, strict=True)):
        name, at, _ = preprocess.label.partition("@")
        spatial = {*(face.shape[:2] if last else face.shape[1:])} - {0}
        if (face.shape[2] == 3) != last and 3 in face.shape:
            remedy = f"state one with layout: {'nchw' if last else 'nhwc'} {where}."
        elif at and len(spatial) == 1 and spatial != {side}:
            remedy = f"state {name}@{max(spatial)} {where}, if it was trained on that."
        else:
            remedy = f"state the one that it was trained on {where}."
        taken = " x ".join(str(length or "any") for length in face.shape)
        raise CheckpointError(
            f"{path} takes images of {taken}, but its preprocessing makes {' x '.join(map(str, shape))}; {remedy}"
        )
    if face.dtype == np.uint8 and not (preprocess.whole_levels and preprocess.scale == {"range": [0.0, 255.0]}):
        raise CheckpointError(
            f"{path} takes whole numbers from 0 to 255 (uint8), but its preprocessing makes others; state one with "
            f"scale: {{range: [0, 255]}} and resampling by pillow or opencv {where}."
        )
