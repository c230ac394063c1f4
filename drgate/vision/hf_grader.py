"""Graders from Hugging Face: a folder of an image classifier, its tensors in a file of torch.save, or a PEFT adapter.

grader = load_hugging_face(find_model(Path("vit-folder")))
grader = load_adapter(find_model(Path("adapter-folder")), base="vit-folder")
grader.network()                          # torch module: pixel_values (n, 3, size, size) -> outputs (n, k)
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drgate.answers import Answer
from drgate.errors import CheckpointError, UsageError
from drgate.evaluation import Precision, Subject
from drgate.files import canonical_json, digest_of, parse_json
from drgate.models import (
    DESCRIPTION,
    EMBEDDED,
    HUB_ID,
    Description,
    Found,
    answer_of,
    classes_of,
    parse_description,
    preprocessing_of,
)
from drgate.preprocessing import Preprocessing, PreprocessingError, of_transformers
from drgate.scale import Kind, parse_class
from drgate.vision.base import few, hub_folder, resolve_base, shown_id, update_digest
from drgate.vision.hf_files import (
    CONFIG,
    INDEX,
    NOT_COMPUTED,
    Beside,
    Logits,
    Weights,
    build,
    class_names,
    empty_network,
    network_config,
    read_torch_file,
    read_weights,
    try_shapes,
    without_prefix,
)
from drgate.vision.inference import Inference
from drgate.vision.network import GradingHead, GradingModel, architecture, empty_tower
from drgate.vision.peft_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PREFIX,
    adapter_settings,
    attached,
    dead,
    merged,
    refuse_other_class,
    renamed,
)
from drgate.vision.stated import HOW_TO_STATE, agreed, own_preprocessing, refuse_other_input

PROCESSOR: Final = "preprocessor_config.json"
_USUAL: Final = re.compile(r"((adapter|pytorch)_)?model(-\d+-of-\d+)?\.(safetensors|bin)")
_A_CONFIG: Final = "a config of transformers"
_FITS: Final[dict[Kind, tuple[str | None, ...]]] = {
    "logits": (None, "single_label_classification"),
    "regression": (None, "regression"),
    "cumulative_logits": (None, "multi_label_classification"),
    "referable_logit": (None, "multi_label_classification"),
}
"""The `problem_type` in config.json that each kind of output may have; heads of transformers end in a linear layer."""


@dataclass(slots=True, eq=False)
class HuggingFaceGrader:
    """A network of transformers on the GPU if there is one, else on the CPU."""

    kind: str
    files: tuple[Subject, ...]
    answer: Answer
    preprocessing: Preprocessing
    tensor_digest: str
    notes: list[str]
    facts: dict[str, Any]
    folder: Path
    inference: Inference
    record: None = None
    fingerprint: None = None
    unknown_data: str = "It has no record of how it was trained."

    @property
    def precision(self) -> Precision:
        return self.inference.precision

    @property
    def providers(self) -> list[str]:
        return self.inference.providers

    @property
    def description(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.facts, **self._named, "fingerprint": False}

    @property
    def _named(self) -> dict[str, str]:
        """Its folder's name, where its file has the name that transformers or peft gives to every one."""
        name, usual = self.folder.resolve().name, _USUAL.fullmatch(self.files[0].name)
        bare = name and name.isprintable() and name == name.strip() and not {*name} & {*"\\:"}
        return {"folder": name} if usual and bare else {}

    def outputs(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.inference.outputs(batch)

    def network(self) -> nn.Module:
        """The network on the CPU, float32, in eval mode, adapters merged: pixel_values (n, 3, size, size) -> (n, k)."""
        return self.inference.network()


def load_hugging_face(
    found: Found, preprocess: Preprocessing | None = None, precision: Precision = "fp32"
) -> HuggingFaceGrader:
    """The image classifier in a folder with config.json, or in a file (*.safetensors, torch.save) beside it.

    Raises CheckpointError for anything but an image classifier of transformers that is whole, and whose preprocessing
    and classes are known; UsageError for another preprocessing than its own.
    """
    beside = Beside(found.folder, [])
    origin = str(found.folder / CONFIG)
    plain = beside.json(CONFIG, "config", _A_CONFIG)
    if plain is None:
        raise CheckpointError(f"{origin} does not exist; a network of transformers needs its config.json.")
    kind, config = network_config(plain, origin)
    described, prepared = _stated(found, beside, preprocess)
    answer = _answer(described, plain, config, origin, beside.folder)
    if answer.width != config.num_labels:
        raise CheckpointError(
            f"{beside.folder / DESCRIPTION} states {answer.width} outputs, but {origin} has {config.num_labels}."
        )
    empty = empty_network(kind, config, origin)
    _refuse_other_size(empty, config, answer, prepared, origin)
    with tempfile.TemporaryDirectory(prefix="drgate-", ignore_cleanup_errors=True) as folder:
        private = Path(folder)
        name = None if found.file.name in (CONFIG, INDEX) else found.file.name
        if name is None or found.file.suffix.lower() == ".safetensors":
            weights = read_weights(found.folder, private, name)
        else:
            weights = read_torch_file(found.file, private)
        if name is not None:
            prefix = None if described is None else described.key_prefix
            weights = without_prefix(weights, prefix, empty.state_dict().keys(), name)
        network, _ = build(kind, config, weights.tensors, origin)
        digest = _digest(["hugging face", kind.__name__, _computes(plain)], answer, prepared, weights.tensors)
    notes = (
        [f"{len(weights.unused)} tensors of the file are not the network's: left out ({few([*weights.unused])})."]
        if weights.unused
        else []
    )
    files = (*weights.files, *beside.files)
    inference = Inference(Logits(network), answer, prepared, precision)
    return HuggingFaceGrader("hugging face", files, answer, prepared, digest, notes, {}, found.folder, inference)


def load_adapter(
    found: Found,
    base: str | None = None,
    preprocess: Preprocessing | None = None,
    precision: Precision = "fp32",
) -> HuggingFaceGrader:
    """The PEFT adapter in a folder, with its base model: of an image classifier, or of drgate's own network.

    base: a folder of an image classifier or a name on the hub, or a SigLIP vision tower (`base.resolve_base`); None
    takes the one that `model.yaml` beside it states, which is not downloaded.

    Raises as `load_hugging_face`, and CheckpointError without a base model or for one that the adapter does not fit.
    """
    beside = Beside(found.folder, [])
    origin = str(found.folder / ADAPTER_CONFIG)
    plain = beside.json(ADAPTER_CONFIG, "config", "a config of peft")
    if plain is None:
        raise CheckpointError(f"{origin} does not exist; an adapter needs it.")
    settings = adapter_settings(plain, origin)
    described, prepared = _stated(found, beside, preprocess)
    stated = None if described is None else described.base
    if base is not None and stated is not None and base != stated:
        raise UsageError(f"--base {base} contradicts {found.folder / DESCRIPTION}, which states {stated}.")
    if (where := base or stated) is None:
        raise CheckpointError(
            f"{found.folder} is an adapter, which needs the base model that it was trained on; state it with --base: a "
            "folder of Hugging Face, embedded, or a name on the hub. What the adapter's config names is not followed."
        )
    name = ADAPTER_WEIGHTS if found.described is None else found.described.weights
    if not (found.folder / name).is_file():
        raise CheckpointError(f"{found.folder / name} does not exist; only adapters in safetensors are read.")
    with tempfile.TemporaryDirectory(prefix="drgate-", ignore_cleanup_errors=True) as folder:
        private = Path(folder)
        (private / "base").mkdir()
        weights = read_weights(found.folder, private, name)
        adapter = _Adapter(plain, settings, weights, beside, described, prepared, origin, precision)
        if any(_own_name(name).startswith("classifier.feature_norm.") for name in weights.tensors):
            return _on_tower(adapter, where, download=base is not None)
        return _on_classifier(adapter, where, private / "base", download=base is not None)


@dataclass(frozen=True, slots=True, eq=False)
class _Adapter:
    plain: dict[str, Any]
    settings: dict[str, Any]
    weights: Weights
    beside: Beside
    described: Description | None
    prepared: Preprocessing
    origin: str
    precision: Precision

    @property
    def files(self) -> tuple[Subject, ...]:
        return (*self.weights.files, *self.beside.files)

    def grader(
        self, network: nn.Module, base: dict[str, Any], answer: Answer, notes: list[str], unused: bool
    ) -> HuggingFaceGrader:
        named = self.plain.get("base_model_name_or_path")
        if isinstance(named, str) and named and not _is_base(named, base["id"]):
            notes = [f"The adapter names the base model {few([_shown(named)])}; {base['id']} was used.", *notes]
        if unused:
            notes = [
                f"All adapters are zero: they do not change the base model {base['id']}, and their training had no "
                "effect.",
                *notes,
            ]
        digest = _digest(["peft", base["digest"], self.settings], answer, self.prepared, self.weights.tensors)
        lora = {"r": self.settings.get("r", 8), "alpha": float(self.settings.get("lora_alpha", 8))}
        facts = {"base": base, "lora": lora}
        inference = Inference(network, answer, self.prepared, self.precision)
        folder = self.beside.folder
        return HuggingFaceGrader("peft", self.files, answer, self.prepared, digest, notes, facts, folder, inference)


def _shown(base: str) -> str:
    """A base model's name on a hub; of a folder, as a trainer noted it on any machine, its last name."""
    return base if HUB_ID.fullmatch(base) and base[0] not in "./" else re.split(r"[/\\]", base.rstrip("/\\"))[-1]


def _is_base(named: str, used: str) -> bool:
    """Whether an adapter names the base model that is used. A folder and a name on a hub are compared by last names."""
    one, other = _shown(named).lower(), used.lower()
    return one == other or (("/" in one) != ("/" in other) and one.split("/")[-1] == other.split("/")[-1])


def _on_classifier(adapter: _Adapter, base: str, private: Path, *, download: bool) -> HuggingFaceGrader:
    """An adapter on a network of transformers."""
    folder = Path(base).expanduser()
    if base == EMBEDDED:
        raise CheckpointError(
            f"the adapter in {adapter.beside.folder} has no grading head of drgate (classifier.feature_norm), and the "
            "base model embedded is a vision tower alone; give the folder of the image classifier with --base."
        )
    folder = folder if folder.is_dir() else hub_folder(base, None, download)
    beside = Beside(folder, [])
    origin = str(folder / CONFIG)
    plain = beside.json(CONFIG, "config", _A_CONFIG)
    if plain is None:
        raise CheckpointError(f"{folder} has no config.json; expected a folder of an image classifier of transformers.")
    kind, config = network_config(plain, origin, any_head=True)
    replaced = adapter.settings.get("modules_to_save", [])
    answer = _answer(adapter.described, plain, config, origin, adapter.beside.folder)
    if answer.width != config.num_labels:
        config.id2label = dict(enumerate(answer.own_names or map(str, range(answer.width))))
    empty = empty_network(kind, config, origin)
    refuse_other_class(adapter.plain, empty, adapter.origin)
    _refuse_other_size(empty, config, answer, adapter.prepared, origin)
    settings, tensors = renamed(empty, adapter.settings, adapter.weights.tensors)
    attached(empty, settings, tensors, adapter.origin)
    weights = read_weights(folder, private)
    network, left = build(kind, config, weights.tensors, origin, replaced=replaced, unused=True)
    model = attached(network, settings, tensors, adapter.origin)
    unused = dead(model)
    whole = Logits(merged(model, lambda one, images: one(pixel_values=images).logits, adapter.prepared.size))
    files = sorted((file.name, file.sha256) for file in (*weights.files, *beside.files))
    described = {
        "id": shown_id(folder.resolve().as_posix() if folder.is_dir() and Path(base).is_dir() else base),
        "digest": digest_of(["drgate base files 1", files]),
        "use": "not stated",
        "pretraining": "unknown",
    }
    notes = [f"{len(left)} tensors of the base model are not used ({few(left)})."] if left else []
    return adapter.grader(whole, described, answer, notes, unused)


def _on_tower(adapter: _Adapter, base: str, *, download: bool) -> HuggingFaceGrader:
    """An adapter on a SigLIP vision tower with drgate's grading head."""
    resolved = resolve_base(base, download=download)
    refuse_other_input(adapter.prepared, architecture(resolved.config)["image_size"])
    answer = Answer() if adapter.described is None else answer_of(adapter.described, str(adapter.beside.folder))
    tower: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}

    for name, tensor in adapter.weights.tensors.items():
        own = _own_name(name)
        part, key = (head, own.removeprefix("classifier.")) if own.startswith("classifier.") else (tower, PREFIX + own)
        if key in part:
            raise CheckpointError(f"{adapter.origin}: {own[:100]} is there twice, with two prefixes.")
        part[key] = tensor
    settings = _of_tower(adapter.settings)
    notes = []
    empty = empty_tower(resolved.config)
    if settings["target_modules"] and not any(name.startswith(f"{PREFIX}head.") for name in tower):
        # drgate's adapters leave the pooling head out, as do those of whoever follows its advice.
        inside = [name for name, _ in empty.head.named_modules() if name]
        settings["exclude_modules"] = [*settings.get("exclude_modules", []), *(f"head.{name}" for name in inside)]
        notes.append("The adapter has no tensors for the pooling head, which is the base model's.")
    width = resolved.config.hidden_size
    with torch.device("meta"):
        expected = GradingHead(width, 0.0).state_dict()
    if expected.keys() != head.keys() or any(head[name].shape != one.shape for name, one in expected.items()):
        raise CheckpointError(
            f"the grading head in {adapter.beside.folder} is not drgate's for a tower of width {width}: expected "
            + ", ".join(f"{name} {tuple(one.shape)}" for name, one in expected.items() if name.endswith("weight"))
            + "."
        )
    if "classifier" in map(_own_name, adapter.settings.get("modules_to_save", [])):
        notes.append(_of_saved_head(head, adapter.origin))
    attached(empty, settings, tower, adapter.origin)
    # `auto_mapping` names the class of the tower and its head together, which each trainer calls what it likes.
    model = attached(resolved.load(), settings, tower, adapter.origin)
    unused = dead(model)
    whole = merged(model, lambda one, images: one(pixel_values=images).pooler_output, adapter.prepared.size)
    network = GradingModel(whole, width, 0.0).eval()
    network.classifier.load_state_dict({name: tensor.float() for name, tensor in head.items()})
    described = {name: getattr(resolved, name) for name in ("revision", "digest", "use", "pretraining")}
    return adapter.grader(network, {"id": shown_id(resolved.id), **described}, answer, notes, unused)


def _of_saved_head(head: Mapping[str, Tensor], origin: str) -> str:
    """A sentence for the report on a head that peft saved as `classifier`, which is the name of a part of it too.

    peft then trains one copy of that part and saves another. Raises CheckpointError where the norms in it are as they
    begin, which no training leaves so.
    """
    begins = {"weight": 1, "bias": 0}
    remedy = "modules_to_save: [feature_norm, classifier.classifier]"
    if all(bool((head[f"classifier.{norm}.{kind}"] == value).all()) for norm in "37" for kind, value in begins.items()):
        raise CheckpointError(
            f"{origin} has classifier in modules_to_save, for which peft saves a copy of the grading head that was "
            f"never trained; its norms are as they begin. Train it again with {remedy}."
        )
    return f"peft may have saved a grading head that was not trained: modules_to_save has classifier; use {remedy}."


def _own_name(name: str) -> str:
    """A tensor's or module's name in drgate's network: the tower's own, or `classifier.`."""
    short = name.removeprefix(PREFIX).removeprefix("backbone.").removeprefix(PREFIX)
    return short.removeprefix("vision_model.").removeprefix("vision_model.")


def _of_tower(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A peft config's settings by the tower's own names; the head is loaded as a whole."""
    found = dict(settings)
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        if key in found:
            found[key] = [_own_name(name) for name in found[key] if name != "classifier"]
    for key in ("rank_pattern", "alpha_pattern"):
        if key in found:
            found[key] = {_own_name(name.removeprefix("^")): value for name, value in found[key].items()}
    return {key: value for key, value in found.items() if value != []}


# -- stated ------------------------------------------------------------------------------------------------------------


def _stated(found: Found, beside: Beside, preprocess: Preprocessing | None) -> tuple[Description | None, Preprocessing]:
    """`model.yaml` and the preprocessing, by the files of a folder and what is stated on the command line."""
    where = beside.folder / DESCRIPTION
    data = None if found.described is None else beside.read(DESCRIPTION, "config")
    described = None if data is None else parse_description(data, where)
    processor, unread = None, ""
    if (plain := beside.json(PROCESSOR, "preprocessing", "a preprocessing of transformers")) is not None:
        try:
            processor = of_transformers(plain, str(beside.folder / PROCESSOR))
        except PreprocessingError as problem:
            unread = str(problem)
    own, says = processor, f"{beside.folder.name}'s {PROCESSOR}"
    if described is not None:
        own, says = _described_preprocessing(described, beside), str(where)
        if processor is not None and processor.digest != own.digest:
            raise CheckpointError(
                f"{where} states the preprocessing {own.label}, but {PROCESSOR} beside it states another; keep the one "
                "that the model was trained on."
            )
    if own is None and preprocess is None and unread:
        raise CheckpointError(f"{unread} {HOW_TO_STATE}")
    return described, agreed(own, preprocess, f"{beside.folder.name}, without {PROCESSOR}," if own is None else says)


def _described_preprocessing(described: Description, beside: Beside) -> Preprocessing:
    stated = described.preprocessing
    if not isinstance(stated, str) or Path(stated).suffix.lower() != ".json":
        return preprocessing_of(described, beside.folder)
    if Path(stated).name != stated or (data := beside.read(stated, "preprocessing")) is None:
        raise CheckpointError(f"{beside.folder / DESCRIPTION} names {stated[:100]!r}; expected a file beside it.")
    where = str(beside.folder / stated)
    return own_preprocessing(parse_json(data, where, "a preprocessing", CheckpointError), where)


def _answer(described: Description | None, plain: dict[str, Any], config: Any, origin: str, folder: Path) -> Answer:
    """What the outputs are, by `model.yaml`, else by `id2label` and `problem_type` of config.json."""
    names = class_names(plain, origin) or [f"LABEL_{i}" for i in range(config.num_labels)]
    problem = plain.get("problem_type")
    if described is not None:
        answer = answer_of(described, str(folder / DESCRIPTION))
        if problem not in _FITS.get(answer.kind, ()):
            raise CheckpointError(
                f"{folder / DESCRIPTION} states outputs of the kind {answer.kind}, but {origin} has the problem_type "
                f"{problem}; " + ("state logits." if answer.kind == "probabilities" else "correct it.")
            )
        meant = tuple(parse_class(name) for name in names)
        if answer.classes and None not in meant and len(meant) == answer.width and meant != answer.classes:
            raise CheckpointError(
                f"{folder / DESCRIPTION} states the classes {', '.join(answer.classes)}, but id2label in {origin} is "
                f"{', '.join(names)[:300]}; correct the wrong one."
            )
        return answer
    if problem == "regression" and len(names) == 1:
        return Answer("regression", ())
    if problem not in _FITS["logits"] or len(names) == 1:
        raise CheckpointError(
            f"{origin} has {len(names)} outputs and the problem_type {problem}, which does not say what they are. "
            "Write a model.yaml beside the model with output.kind (docs/models.md)."
        )
    return Answer("logits", classes_of(names, origin), tuple(names))


def _refuse_other_size(empty: nn.Module, config: Any, answer: Answer, prepared: Preprocessing, origin: str) -> None:
    """Raise where the network does not take what the preprocessing makes."""
    side = getattr(getattr(config, "vision_config", config), "image_size", None)
    try:
        try_shapes(empty, answer.width, prepared.size, origin)
    except CheckpointError:
        if type(side) is int and side != prepared.size:
            try_shapes(empty, answer.width, side, origin)
            refuse_other_input(prepared, side)
        raise
    refuse_other_input(prepared, prepared.size)  # its layout


def _computes(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says, without what does not change the outputs."""
    silent = ("_name_or_path", "architectures", "dtype", "torch_dtype", *NOT_COMPUTED)
    return {key: value for key, value in plain.items() if key not in silent}


def _digest(about: list[Any], answer: Answer, prepared: Preprocessing, tensors: Mapping[str, Tensor]) -> str:
    """`sha256:...` over everything that decides the outputs and what they are."""
    state = hashlib.sha256(
        canonical_json(["drgate hugging face 1", about, answer.kind, list(answer.classes), prepared.digest])
    )
    for name in sorted(tensors):
        update_digest(state, name, tensors[name])
    return f"sha256:{state.hexdigest()}"
