"""Graders: models that answer for images, from whatever file people have.

grader = load_grader(Path("best_model.pth"))
outputs = grader.outputs(batch)                 # (n, 3, size, size) float32  ->  (n, 5) float32
grader.answer.columns(outputs)                  # p_0 to p_4
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from drgate.errors import CheckpointError, UsageError
from drgate.evaluation import Precision
from drgate.files import read_json
from drgate.models import Found, find_model, preprocessing_of
from drgate.preprocessing import Preprocessing
from drgate.vision.grader import Grader
from drgate.vision.onnx_grader import OnnxGrader
from drgate.vision.stated import HOW_TO_STATE, load_preprocessing, own_preprocessing


def load_grader(
    path: Path,
    base: str | None = None,
    preprocess: Preprocessing | None = None,
    *,
    lora_alpha: float | None = None,
    python: str | None = None,
    precision: Precision | None = None,
) -> Grader:
    """The model at a path, whatever it is (`drgate.models.find_model`).

    base: location of a base model that the file does not contain (see `drgate.vision.base.resolve_base`).
    preprocess: of a model that does not state its own. lora_alpha: likewise. python: `FILE.py:load` or
    `package.module:load`, a grader in Python that loads the file or folder. precision: of a network of torch, fp32 by
    default; an ONNX file has its own.

    Raises:
        CheckpointError: the file is of another kind, damaged, or not a model that grades, or its preprocessing is not
            known.
        UsageError: it states another preprocessing, or something was stated that it has no use for.
    """
    if python is not None:
        if base is not None or lora_alpha is not None:
            raise UsageError("--grader loads the model by its own code; leave --base and --lora-alpha out.")
        if precision is not None:
            raise UsageError(f"--grader {python} computes in a precision of its own; leave --precision out.")
        from drgate.vision.python_grader import PythonGrader

        return PythonGrader(path, python, preprocess)
    found = _of_transformers(find_model(path))
    if lora_alpha is not None and found.what not in ("checkpoint", "safetensors"):
        raise UsageError(f"--lora-alpha belongs to a file of weights with LoRA adapters; leave it out for {path}.")
    if preprocess is None:
        _refuse_unstated(found)
    match found.what:
        case "onnx" | "bundle":
            if base is not None:
                raise CheckpointError(f"{path} is an ONNX model, which includes its base model; leave --base out.")
            grader = OnnxGrader(found.file, preprocess)
            if precision not in (None, grader.precision):
                raise UsageError(
                    f"{found.file} is an ONNX model in {grader.precision}, which computes in nothing else; leave "
                    f"--precision out, or give a file in {precision}."
                )
            return grader
        case "checkpoint" | "safetensors":
            from drgate.vision.checkpoint_grader import CheckpointGrader

            return CheckpointGrader(found.file, base, preprocess, lora_alpha, _of_torch(precision))
        case "hf":
            from drgate.vision.hf_grader import load_hugging_face

            if base is not None:
                raise UsageError(f"{path} is a whole model, which includes its base model; leave --base out.")
            return load_hugging_face(found, preprocess, _of_torch(precision))
        case "peft":
            from drgate.vision.hf_grader import load_adapter

            return load_adapter(found, base, preprocess, _of_torch(precision))
    raise CheckpointError(f"{path} is not read yet")


def _of_torch(precision: Precision | None) -> Precision:
    if precision == "int8":
        raise UsageError("torch computes in fp32, bf16 or fp16; for int8 write an ONNX file (drgate export).")
    return precision or "fp32"


def _of_transformers(found: Found) -> Found:
    """A file of tensors as what it is where the config of an image classifier or of an adapter is beside it."""
    if found.what not in ("checkpoint", "safetensors") or (found.described and found.described.architecture != "hf"):
        return found
    if found.file.name == "adapter_model.safetensors" and (found.folder / "adapter_config.json").is_file():
        return replace(found, what="peft")
    beside = found.folder / "config.json"
    if found.described is None and beside.is_file():
        plain = read_json(beside, "a config of transformers", CheckpointError)
        names = plain.get("architectures") if isinstance(plain, dict) else None
        if not isinstance(names, list) or not any(str(name).endswith("ForImageClassification") for name in names):
            return found
    return replace(found, what="hf") if found.described or beside.is_file() else found


def _refuse_unstated(found: Found) -> None:
    """Raise CheckpointError where no file states the preprocessing, before torch is imported, which takes seconds.

    A file of torch.save may state its own. Of an ONNX file without labels.json, its graph says what else is to be
    stated.
    """
    beside = {"hf": "preprocessor_config.json", "peft": "preprocessor_config.json", "onnx": "preprocess.json"}
    if found.described is not None or found.what not in (*beside, "safetensors"):
        return
    if found.what == "onnx" and not (found.folder / "labels.json").is_file():
        return
    if found.what == "safetensors":
        raise CheckpointError(
            f"{found.file} does not state its preprocessing. {HOW_TO_STATE} Its base model belongs to --base "
            "embedded|FOLDER|HUB_ID. Or state both in model.yaml beside the file."
        )
    if not (found.folder / beside[found.what]).is_file():
        raise CheckpointError(
            f"{found.folder}, without {beside[found.what]}, does not state its preprocessing. {HOW_TO_STATE}"
        )


def stated_by(found: Found) -> Preprocessing:
    """What a model states of its preprocessing: model.yaml, preprocess.json or preprocessor_config.json beside it, or a
    checkpoint of drtrain. The model is not built.

    Raises CheckpointError where there is none.
    """
    if found.described is not None:
        return preprocessing_of(found.described, found.folder)
    if found.what in ("onnx", "bundle"):
        beside = found.folder / "preprocess.json"
        return own_preprocessing(read_json(beside, "a preprocessing", CheckpointError), str(beside))
    beside = found.folder / "preprocessor_config.json"
    if found.what in ("hf", "peft") and beside.is_file():
        return load_preprocessing(str(beside))
    if found.what != "checkpoint":
        raise CheckpointError(f"{found.folder} does not state its preprocessing. {HOW_TO_STATE}")
    from drgate.vision.checkpoint import load_checkpoint

    return load_checkpoint(found.file).preprocessing
