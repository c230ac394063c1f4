"""Image classifiers of Hugging Face: config.json and its tensors, checked before memory is used for them.

    kind, config = network_config(read_config(folder), "config.json")
    weights = read_weights(folder, private)            # a folder for private copies
    network = build(kind, config, weights.tensors, "config.json")

Only classes of transformers' own table of image classifiers are made, and nothing is imported, fetched or executed that
a file names. Sizes in config.json are bounded, and the network is made without memory first: its tensors must be no
more than those of the file, and what it computes for an image must be small.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from drgate.errors import CheckpointError, brief
from drgate.evaluation import Role, Subject
from drgate.files import entries, parse_json
from drgate.vision.base import MAX_JSON_BYTES, few
from drgate.vision.checkpoint import read_payload
from drgate.vision.model_files import copy_and_hash
from drgate.vision.older import ALLOWED
from drgate.vision.onnx_files import first_line

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
MAX_INTEGER: Final = 1 << 18
"""Of a number in config.json: the vocabulary of SigLIP's text tower has 256,000 words."""
MAX_SIDE: Final = 4096
"""Of an image, a window or a patch, in pixels."""
MAX_PARTS: Final = 50_000
"""Layers and tensors of a network: the largest vision transformers have 5,000."""
MAX_NUMBERS: Final = 1 << 29
"""In any tensor while one image is computed (2 GB): MedSigLIP needs 16 million."""
MAX_OUTER: Final = 16
"""Names of wrappers before a tensor's own name."""
MAX_OPERATIONS: Final = 1 << 45
"""For one image: MedSigLIP needs a fortieth of that."""

_ELSEWHERE: Final = re.compile(
    r"auto_\w+|custom_\w+|quantization_config|compression_config|use_pretrained_backbone|use_timm_backbone|timm_\w+"
    r"|backbone(_config|_kwargs)?|_?attn_implementation(_internal)?|_?experts_implementation|fusion_config"
    r"|distributed_config|kernel_config|transformers_weights|adapter_kwargs|architecture|pretrained_cfg|model_args"
)
"""Keys of config.json that name something to import, to fetch, or to put in place of a part of the network."""
_PLAIN: Final = re.compile(r"[\w.+ -]{0,100}")
_NAMES: Final = ("id2label", "label2id", "_name_or_path", "name_or_path")
_NOT_READ: Final = ("timm_wrapper", "shieldgemma2", "perceiver", "imagegpt", "siglip2")
"""In transformers' table, but another library's network, or one that does not take an image as it is."""
_WRAPPED: Final = ("state_dict", "model_state_dict", "model")
"""Where trainers put the tensors in a file of torch.save (Lightning: the first)."""


@dataclass(slots=True)
class Beside:
    """The files of a model's folder, each read once; `files` are those that were read."""

    folder: Path
    files: list[Subject]

    def read(self, name: str, role: Role, *, limit: int = MAX_JSON_BYTES) -> bytes | None:
        """The bytes of a file; None where there is none."""
        if not (file := self.folder / name).is_file():
            return None
        self.files.append(copy_and_hash(file, role, content := io.BytesIO(), limit=limit))
        return content.getvalue()

    def json(self, name: str, role: Role, what: str) -> dict[str, Any] | None:
        """The object in a JSON file; None where there is none."""
        if (data := self.read(name, role)) is None:
            return None
        plain = parse_json(data, str(self.folder / name), what, CheckpointError)
        if not isinstance(plain, dict):
            raise CheckpointError(f"{self.folder / name} is not an object with named values; expected {what}.")
        return plain


# -- config.json -------------------------------------------------------------------------------------------------------


def network_config(plain: dict[str, Any], origin: str, *, any_head: bool = False) -> tuple[type[Any], Any]:
    """The class of transformers and the config that config.json describes; nothing is made yet.

    any_head: whether it may be of a network with another head (the base model of an adapter).

    Raises CheckpointError for anything but an image classifier of transformers, for a key that names something to
    import or fetch, and for sizes that no such network has.
    """
    _refuse_elsewhere(plain, origin)
    _refuse_unbounded(plain, origin)
    try:
        import transformers
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

        kind = plain.get("model_type")
        if not isinstance(kind, str) or kind not in CLASSIFIERS or kind in _NOT_READ:
            raise CheckpointError(
                f"{origin} describes a model of the type {brief(kind)}; expected an image classifier of transformers, "
                "such as siglip, vit, dinov2, convnext, swin or resnet."
            )
        names = CLASSIFIERS[kind]
        known = [names] if isinstance(names, str) else [*names]
        stated = plain.get("architectures") or ([] if len(known) > 1 else known)
        named = [name for name in known if name in stated] if isinstance(stated, list) else []
        if not named and not any_head:
            raise CheckpointError(
                f"{origin} describes the network {brief(stated)}, which is no image classifier; expected {known[0]}."
            )
        network = getattr(transformers, (named or known)[0])
        config_class: Any = transformers.CONFIG_MAPPING[kind]
    except CheckpointError:
        raise
    except Exception as error:  # whatever the packages raise that transformers imports
        raise CheckpointError(
            f"transformers cannot be imported here ({first_line(error)}). A torchvision that does not fit torch is a "
            "frequent cause, and is not needed: pip uninstall torchvision."
        ) from error
    try:
        known_keys = {*config_class().to_dict(), "num_labels"} - {"dtype", "torch_dtype", "_name_or_path"}
        chosen = {key: value for key, value in plain.items() if key in known_keys and key not in NOT_COMPUTED}
        names = class_names(plain, origin)
        config = config_class(**chosen, **({"id2label": dict(enumerate(names)), "label2id": {}} if names else {}))
    except CheckpointError:
        raise
    except Exception as error:  # each config class raises what it likes
        raise CheckpointError(f"{origin} is not a config of {kind} ({first_line(error)}).") from error
    return network, config


NOT_COMPUTED: Final = ("return_dict", "output_attentions", "output_hidden_states", "transformers_version", "id2label",
                 "label2id", "num_labels", "problem_type")  # fmt: skip
"""Keys that change the form of what a network returns, or are read elsewhere."""


def class_names(plain: dict[str, Any], origin: str) -> list[str]:
    """The names of the outputs by `id2label`, in order; LABEL_0 and so on where only a number is stated; else empty.

    Raises CheckpointError where they are not numbered from 0, or `label2id` says something else.
    """
    given, count = plain.get("id2label"), plain.get("num_labels")
    if given is None:
        if count is not None and (type(count) is not int or not 1 <= count <= MAX_INTEGER):
            raise CheckpointError(f"{origin} has num_labels = {brief(count)}; expected a number of classes.")
        return [f"LABEL_{i}" for i in range(count or 0)]
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given.values()):
        raise CheckpointError(f"{origin} has id2label = {brief(given)}; expected the name of each output.")
    if {*given} != {str(i) for i in range(len(given))} or count not in (None, len(given)):
        raise CheckpointError(f"{origin} has an id2label that does not number the outputs from 0: {brief([*given])}.")
    names = [given[str(i)] for i in range(len(given))]
    back = plain.get("label2id")
    if back and len({*names}) == len(names) and back != {name: i for i, name in enumerate(names)}:
        other = {name: int(i) if isinstance(i, str) and i.isdecimal() else i for name, i in back.items()}
        if other != {name: i for i, name in enumerate(names)}:
            raise CheckpointError(f"{origin}: id2label and label2id contradict each other; correct the wrong one.")
    return names


def _refuse_elsewhere(plain: Any, origin: str, key: str = "") -> None:
    """Raise CheckpointError for a value that names something outside the file."""
    if isinstance(plain, dict):
        for name, value in plain.items():
            if _ELSEWHERE.fullmatch(name) and value not in (None, False, {}, []):
                raise CheckpointError(
                    f"{origin} has the key {name} ({brief(value)}), which names code or weights outside the file. "
                    "Nothing that a model's file names is imported or fetched; save the model without it."
                )
            if name not in _NAMES:
                _refuse_elsewhere(value, origin, name)
    elif isinstance(plain, list):
        for value in plain:
            _refuse_elsewhere(value, origin, key)
    elif isinstance(plain, str) and not _PLAIN.fullmatch(plain):
        raise CheckpointError(f"{origin} has {key[:100]} = {brief(plain)}; expected a plain name.")


def _refuse_unbounded(plain: Any, origin: str, key: str = "") -> None:
    if isinstance(plain, dict):
        for name, value in plain.items():
            _refuse_unbounded(value, origin, name)
    elif isinstance(plain, list):
        if sum(abs(value) for value in plain if isinstance(value, int)) > MAX_INTEGER:  # layers of each stage, say
            raise CheckpointError(f"{origin} has {key[:100]} = {brief(plain)}; expected {MAX_INTEGER} in all at most.")
        for value in plain:
            _refuse_unbounded(value, origin, key)
    elif isinstance(plain, int | float) and not isinstance(plain, bool):
        limit = MAX_SIDE if key.endswith(("image_size", "window_size", "patch_size")) else MAX_INTEGER
        if not abs(plain) <= (limit if isinstance(plain, int) else 1e6):
            raise CheckpointError(f"{origin} has {key[:100]} = {plain}; expected {limit} at most.")


# -- tensors -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """The tensors of a model's files by their names, and the files, first the one in the role model.

    unused: names of tensors that a prefix leaves out.
    """

    files: tuple[Subject, ...]
    tensors: dict[str, Tensor]
    unused: tuple[str, ...] = ()


def read_weights(folder: Path, private: Path, name: str | None = None) -> Weights:
    """The tensors of a folder's safetensors: of `name`, of model.safetensors, of its index, or of the only one.

    private: an own folder for the copies that the tensors are read from. Raises CheckpointError where there is none, or
    more than one could be meant.
    """
    index = folder / INDEX
    found = sorted(file.name for file in entries(folder, CheckpointError) if file.suffix.lower() == ".safetensors")
    beside = Beside(folder, [])
    if name is None and index.is_file() and "model.safetensors" not in found:
        shards = beside.json(index.name, "config", "an index of safetensors files") or {}
        mapping = shards.get("weight_map")
        if not isinstance(mapping, dict) or not all(
            isinstance(shard, str) and shard in found for shard in mapping.values()
        ):
            raise CheckpointError(f"{index} does not list safetensors files of its folder; copy the model again.")
        chosen = sorted({*mapping.values()})
    elif name is None and "model.safetensors" in found and index.is_file():
        raise CheckpointError(f"{folder} has both model.safetensors and {index.name}; keep the one that is meant.")
    else:
        chosen = [name] if name else ["model.safetensors"] if "model.safetensors" in found else found
        mapping = None
    if len(chosen) != 1 and mapping is None:
        raise CheckpointError(
            f"{folder} has {', '.join(found[:5]) or 'no *.safetensors'}; expected model.safetensors, or name "
            "the one that is meant in model.yaml (weights)."
        )
    files, tensors = [], {}
    for position, shard in enumerate(chosen):
        with (private / shard).open("wb") as copy:
            files.append(copy_and_hash(folder / shard, "data" if position else "model", copy))
        for key, tensor in _tensors(private / shard, folder / shard).items():
            if key in tensors or (mapping is not None and mapping.get(key) != shard):
                raise CheckpointError(f"{folder / shard} has {key[:100]}, which {index.name} does not place there.")
            tensors[key] = tensor
    if mapping is not None and (missing := sorted(mapping.keys() - tensors.keys())):
        raise CheckpointError(f"{index} lists {few(missing)}, which its files lack; copy the model again.")
    return Weights((*files, *beside.files), tensors)


def _tensors(copy: Path, origin: Path) -> dict[str, Tensor]:
    try:
        with safe_open(copy, framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  # not a mapping
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{origin} is not a complete safetensors file ({error}); copy it again.") from error


def read_torch_file(path: Path, private: Path) -> Weights:
    """The tensors in a file of torch.save: a state dict, or one under the name that Lightning or a trainer gives it."""
    copied = private / "weights"
    with copied.open("w+b") as copy:
        file = copy_and_hash(path, "model", copy)
        copy.seek(0)
        payload = read_payload(path, ALLOWED, opened=copy)
    state = payload
    if isinstance(payload, dict):
        state = next((payload[key] for key in _WRAPPED if isinstance(payload.get(key), dict)), payload)
    if not isinstance(state, dict | OrderedDict) or not state or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{path} has no state dict (tensors by name).")
    if other := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{path}: {few(other)} of its state dict is not a tensor.")
    return Weights((file,), state)


def without_prefix(weights: Weights, prefix: str | None, expected: Collection[str], origin: str) -> Weights:
    """The tensors by the network's own names: without `module.` and `_orig_mod.`, and without the prefix.

    prefix: as stated; None takes the one with which most of the `expected` names are there.

    Raises CheckpointError where a stated prefix is that of no tensor.
    """
    plain: dict[str, Tensor] = {}
    for name, tensor in weights.tensors.items():
        short = name.replace("_orig_mod.", "").removeprefix("module.")
        if short in plain:
            raise CheckpointError(f"{origin} has {short[:100]} twice, with two prefixes.")
        plain[short] = tensor
    if prefix is None:
        own = {*expected}
        # Of what begins after each of the first dots: all names against all others would take hours for a million.
        ends = Counter(
            name[:at]
            for name in plain
            for at in (0, *(dot.end() for dot in itertools.islice(re.finditer(r"\.", name), MAX_OUTER)))
            if name[at:] in own
        )
        prefix = max(["", *ends], key=lambda one: ends[one])
    found = {name.removeprefix(prefix): tensor for name, tensor in plain.items() if name.startswith(prefix)}
    if not found:
        raise CheckpointError(f"{origin} has no tensor that begins with the key_prefix {prefix[:100]!r}.")
    return Weights(weights.files, found, tuple(sorted(name for name in plain if not name.startswith(prefix))))


# -- network -----------------------------------------------------------------------------------------------------------


class _TooLarge(Exception):
    pass


@contextlib.contextmanager
def _few_parts() -> Iterator[None]:
    """Stop a network that is made of more parts than any has."""
    counted = itertools.count()

    def count(*_: Any) -> None:
        if next(counted) > MAX_PARTS:
            raise _TooLarge(f"more than {MAX_PARTS} layers and tensors")

    hooks = (
        register_module_module_registration_hook(count),
        register_module_parameter_registration_hook(count),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Small(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Stop a computation that makes a huge tensor; on the device "meta" no memory is used for it."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for one in tree_leaves(found):
            if isinstance(one, Tensor) and one.numel() > MAX_NUMBERS:
                raise _TooLarge(f"a tensor of {one.numel():,} numbers for one image")
        return found


def empty_network(kind: type[Any], config: Any, origin: str) -> nn.Module:
    """The network without memory for its tensors, after the checks of its size."""
    try:
        with _few_parts(), torch.device("meta"):
            network: nn.Module = kind(config).eval()
    except Exception as error:  # each network raises what it likes
        raise CheckpointError(f"{origin} describes a network that cannot be made ({first_line(error)}).") from error
    return network


def try_shapes(network: nn.Module, width: int, size: int, origin: str) -> None:
    """Raise CheckpointError where an empty network does not give (1, width) for an image, or takes too much for it."""
    images = torch.zeros(1, 3, size, size, device="meta")
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counted, _Small():  # type: ignore[no-untyped-call]
            shape = tuple(Logits(network)(images).shape)
    except Exception as error:  # each network raises what it likes
        raise CheckpointError(
            f"the network of {origin} does not take images of {size} x {size} pixels, which its preprocessing makes "
            f"({first_line(error)})."
        ) from error
    if (operations := counted.get_total_flops()) > MAX_OPERATIONS:
        raise CheckpointError(f"the network of {origin} takes {operations:.0e} operations for one image.")
    if shape != (1, width):
        raise CheckpointError(f"the network of {origin} gives {shape} for one image; expected (1, {width}).")


def build(
    kind: type[Any],
    config: Any,
    tensors: Mapping[str, Tensor],
    origin: str,
    *,
    replaced: Collection[str] = (),
    unused: bool = False,
) -> tuple[nn.Module, list[str]]:
    """The network in float32 on the CPU, in eval mode, and the names of the tensors that it does not use.

    replaced: parts of the network whose tensors may be missing, since others take their place. unused: whether tensors
    may be left over. Both belong to base models of adapters.

    Raises CheckpointError where tensors are missing, left over, or of another shape.
    """

    def elsewhere(name: str) -> bool:
        return any(name.startswith(f"{part}.") or f".{part}." in name for part in replaced)

    empty = empty_network(kind, config, origin)
    needed = sum(math.prod(tensor.shape) for name, tensor in empty.state_dict().items() if not elsewhere(name))
    if needed > sum(tensor.numel() for tensor in tensors.values()):
        raise CheckpointError(f"{origin} describes a network of {needed:,} numbers, but its files hold fewer.")
    if len(tensors) > MAX_PARTS:  # transformers takes time for each that it does not use
        raise CheckpointError(f"the files of {origin} have {len(tensors):,} tensors; expected {MAX_PARTS:,} at most.")
    if strange := sorted(name for name, one in tensors.items() if one.dtype not in _DTYPES):
        raise CheckpointError(f"the tensors {few(strange)} are not in 16, 32 or 64 bits; expected plain numbers.")
    del empty
    with _silent():
        try:
            network, info = kind.from_pretrained(
                None,
                config=config,
                state_dict=dict(tensors),
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # found and refused below
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
        except Exception as error:  # transformers raises many kinds
            raise CheckpointError(f"the tensors do not fit the network of {origin} ({first_line(error)}).") from error
    unlike = sorted(str(entry[0]) for entry in info["mismatched_keys"] if not elsewhere(str(entry[0])))
    missing = sorted(name for name in info["missing_keys"] if not elsewhere(name))
    left = sorted(info["unexpected_keys"])
    problems = [str(one) for key in ("error_msgs", "conversion_errors") for one in info.get(key) or ()]
    for found, words in ((unlike, "in another shape than"), (missing, "missing in"), (problems, "not readable in")):
        if found:
            raise CheckpointError(f"the tensors of {origin} do not fit its network: {few(found)} {words} the files.")
    if left and not unused:
        raise CheckpointError(
            f"the files have tensors that the network of {origin} does not use: {few(left)}; it is another network."
        )
    return network.eval(), left


_DTYPES: Final = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool}


class Logits(nn.Module):
    """The outputs tensor alone of a network of transformers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.network(pixel_values=pixel_values).logits
        return logits


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the reports and the progress bar that transformers writes on standard error while it loads."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(ERROR)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
