"""LoRA adapters as peft saves them: adapter_config.json and adapter_model.safetensors, computed by peft.

    settings = adapter_settings(plain, "adapter_config.json")
    network = attached(empty, settings, tensors, "adapter_config.json")      # shapes alone
    network, notes = merged(attached(network, settings, tensors, ...), size)

What the config says reaches peft key by key: a value is a number, a switch or a list of plain names. peft takes some of
these for regular expressions, and others for modules to import; such values are refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from drgate.errors import CheckpointError, brief
from drgate.vision.base import few
from drgate.vision.onnx_files import first_line

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
PREFIX: Final = "base_model.model."
"""Before the network's own names in the names of peft's tensors."""
MAX_RANK: Final = 4096
MAX_NAMES: Final = 2000
"""In a list of modules: the largest vision transformers have 400 linear layers."""
CHANGED: Final = 1e-4
"""By so much of the largest output, merging may change the outputs."""

_PLAIN: Final = re.compile(r"\w+(\.\w+)*")
_ANCHORED: Final = re.compile(r"\^?\w+(\.\w+)*")
_ADAPTED: Final = re.compile(r"(.+)\.lora_\w+(\.\w+)?")


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_NAMES
        and all(isinstance(name, str) and len(name) <= 200 and _PLAIN.fullmatch(name) for name in value)
    )


def _is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_RANK


def _is_alpha(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 1e6


def _is_pattern(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and len(value) <= MAX_NAMES
            and all(len(name) <= 200 and _ANCHORED.fullmatch(name) and of(one) for name, one in value.items())
        )

    return check


def _is_layers(value: Any) -> bool:
    listed = value if isinstance(value, list) else [value]
    return len(listed) <= MAX_NAMES and all(type(one) is int and 0 <= one < MAX_NAMES for one in listed)


_A_LIST: Final = "a list of plain names of modules"
_KNOWN: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "r": (_is_rank, f"a whole number from 1 to {MAX_RANK}"),
    "lora_alpha": (_is_alpha, "a positive number"),
    "target_modules": (_is_names, _A_LIST),
    "exclude_modules": (_is_names, _A_LIST),
    "modules_to_save": (_is_names, _A_LIST),
    "layers_to_transform": (_is_layers, "a list of layer numbers"),
    "layers_pattern": (lambda value: _is_names(value if isinstance(value, list) else [value]), _A_LIST),
    "rank_pattern": (_is_pattern(_is_rank), "a rank for each of some plain names of modules"),
    "alpha_pattern": (_is_pattern(_is_alpha), "an alpha for each of some plain names of modules"),
    "lora_dropout": (lambda value: type(value) in (int, float) and 0 <= value < 1, "a number from 0 to 1"),
    "bias": (lambda value: value in ("none", "all", "lora_only"), "none, all or lora_only"),
    "init_lora_weights": (  # others change the weights of the base model
        lambda value: value is True or value is False or value == "gaussian",
        "true, false or gaussian (save the adapter with its initialisation converted)",
    ),
    **dict.fromkeys(
        ("fan_in_fan_out", "use_rslora", "use_dora", "lora_bias", "inference_mode"), (_is_bool, "true or false")
    ),
}
"""Keys of adapter_config.json that peft gets, with what their values are."""
_SILENT: Final = ("base_model_name_or_path", "revision", "task_type", "peft_type", "peft_version")
"""Keys that say something and change nothing here: the base model comes from --base."""


def adapter_settings(plain: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """What peft gets of an adapter_config.json; `auto_mapping` is for `refuse_other_class`.

    Raises CheckpointError for another kind of adapter, for a value that is not plain, and for any other key that is not
    as peft sets it by itself.
    """
    if plain.get("peft_type") != "LORA":
        raise CheckpointError(f"{origin} has peft_type {brief(plain.get('peft_type'))}; only LORA is read.")
    usual = LoraConfig().to_dict()  # type: ignore[no-untyped-call]
    found = {}
    for key, value in plain.items():
        if key in _SILENT or key == "auto_mapping" or value is None:
            continue
        if key not in _KNOWN:
            if value != usual.get(key) and value not in (False, {}, []):
                raise CheckpointError(
                    f"{origin} has {key[:100]} = {brief(value)}, which is not read; save the adapter without it."
                )
        elif _KNOWN[key][0](value):
            found[key] = value
        else:
            raise CheckpointError(f"{origin} has {key} = {brief(value)}; expected {_KNOWN[key][1]}.")
    if not found.get("target_modules"):
        raise CheckpointError(f"{origin} has no target_modules; expected {_A_LIST}.")
    return found


def refuse_other_class(plain: Mapping[str, Any], network: nn.Module, origin: str) -> None:
    """Raise CheckpointError where `auto_mapping` names another class than the network's; nothing is imported by it."""
    stated = plain.get("auto_mapping")
    own = {"base_model_class": type(network).__name__, "parent_library": type(network).__module__}
    if stated is not None and stated != own:
        raise CheckpointError(
            f"{origin} has auto_mapping = {brief(stated)}, but the base model is a {own['base_model_class']}. Nothing "
            "that a model's file names is imported; give the base model that the adapter was trained on with --base."
        )


def renamed(
    network: Any, settings: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors by the names that this version of transformers gives the network's modules."""
    modules = {name for name, _ in network.named_modules()}
    renamings = [one for one in get_model_conversion_mapping(network) if isinstance(one, WeightRenaming)]
    moved: dict[str, str] = {}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        old = adapted[1].removeprefix(PREFIX) if (adapted := _ADAPTED.fullmatch(name)) else ""
        new = rename_source_key(f"{old}.weight", renamings, [])[0].removesuffix(".weight")
        if old and old not in modules and new in modules:
            moved[old] = new
            name = name.replace(old, new, 1)
        found[name] = tensor
    if not moved:
        return settings, tensors

    def now(name: str) -> list[str]:
        """The names that a name for the end of some modules has now."""
        ends = {
            new if "." in name else new.rpartition(".")[2]
            for old, new in moved.items()
            if old == name or old.endswith(f".{name}")
        }
        return sorted(ends) or [name]

    changed = dict(settings)
    changed["target_modules"] = sorted({new for name in settings["target_modules"] for new in now(name)})
    for key in ("rank_pattern", "alpha_pattern"):
        if key in settings:
            changed[key] = {new: value for name, value in settings[key].items() for new in now(name.removeprefix("^"))}
    return changed, found


def attached(network: nn.Module, settings: dict[str, Any], tensors: dict[str, Tensor], origin: str) -> PeftModel:
    """The network with the adapter; `network` is changed. On the device "meta", names and shapes alone are compared.

    Raises CheckpointError where peft cannot put it on this network, and where a tensor is missing, left over or of
    another shape.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = PeftModel(network, LoraConfig(**settings))
            expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        except Exception as error:  # peft raises many kinds
            raise CheckpointError(
                f"the adapter of {origin} does not fit its base model ({first_line(error)})."
            ) from error
        for names, words in (
            (sorted(expected.keys() - tensors.keys()), "lacks"),
            (sorted(tensors.keys() - expected.keys()), "has, besides what its config names,"),
        ):
            if names:
                raise CheckpointError(
                    f"the adapter {words} the tensors {few([name.removeprefix(PREFIX) for name in names])}; {origin} "
                    "and its base model do not fit it."
                )
        for name, tensor in tensors.items():
            if tensor.shape != expected[name].shape or not tensor.is_floating_point():
                raise CheckpointError(
                    f"the adapter's {name.removeprefix(PREFIX)} is of {tuple(tensor.shape)}; {origin} and its base "
                    f"model require {tuple(expected[name].shape)}."
                )
        if not any(tensor.is_meta for tensor in expected.values()):
            set_peft_model_state_dict(model, tensors)
            loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
            if other := sorted(
                name for name, tensor in tensors.items() if not torch.equal(loaded[name], tensor.float())
            ):
                raise CheckpointError(f"this version of peft does not take the adapter's tensors {few(other)}.")
    return model.eval()


def dead(model: PeftModel) -> bool:
    """Whether no adapter changes the weights of its layer."""
    return not any(_changes(layer) for layer in model.modules() if isinstance(layer, LoraLayer))


def _changes(layer: Any) -> bool:
    with torch.no_grad():
        if "default" in layer.lora_magnitude_vector:
            base = layer.get_base_layer().weight
            norm = torch.linalg.vector_norm(base.flatten(1), dim=1)
            if not torch.allclose(layer.lora_magnitude_vector["default"].weight.flatten(), norm, rtol=1e-4):
                return True
        down, up = layer.lora_A["default"], layer.lora_B["default"]
        return bool(down.weight.any() and up.weight.any()) or (up.bias is not None and bool(up.bias.any()))


def merged(model: PeftModel, outputs: Callable[[nn.Module, Tensor], Tensor], size: int) -> nn.Module:
    """The network with the adapters in its own weights. outputs: of the network for images (n, 3, size, size).

    Raises CheckpointError where peft cannot, and where that changes the outputs of two random images.
    """
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        before = outputs(model, images)
    try:
        network: nn.Module = model.merge_and_unload().eval()
    except Exception as error:  # peft raises many kinds
        raise CheckpointError(f"the adapter cannot be merged into its base model ({first_line(error)}).") from error
    with torch.inference_mode():
        difference = (before - outputs(network, images)).abs().max().item()
    if difference > CHANGED * max(1.0, before.abs().max().item()):
        raise CheckpointError(
            f"merging the adapter into its base model changes the outputs by {difference:.2g}: an adapter on a layer "
            "that is not called, such as attention.out_proj of a pooling head, does nothing before it is merged."
        )
    return network
