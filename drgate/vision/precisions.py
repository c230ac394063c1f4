"""The same network in other numbers: float16, or 8-bit integers for the products that take most of the time.

    write_precision(Path("model.onnx"), "fp16", folder)          # folder/model.onnx, its weights beside it
    write_precision(Path("model.onnx"), "int8", folder, images)  # calibrated on prepared images

The file depends on the model and the images alone: it holds no paths, traces or versions of the machine that wrote it.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from drgate.errors import CheckpointError
from drgate.screen import silenced
from drgate.vision.onnx_files import QUANTIZED, first_line, messages, without_traces

Smaller = Literal["fp16", "int8"]

MODEL: Final = "model.onnx"
DATA: Final = "model.onnx.data"

LAYERS: Final = ("Conv", "Gemm", "MatMul")
"""Operators with weights."""

CALIBRATION_BATCH: Final = 8


def refuse_other_numbers(path: Path, model: Any, precision: Smaller) -> None:
    """Raise CheckpointError for an ONNX model that is not in fp32: rounded twice, it is no longer the certified one."""
    import onnx

    halves = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    found = ""
    for one in messages(model):
        if isinstance(one, onnx.TensorProto) and one.data_type in halves:
            found = "16-bit floats"
        elif isinstance(one, onnx.NodeProto) and (QUANTIZED.fullmatch(one.op_type) or one.domain == "com.microsoft"):
            found = "8-bit integers" if one.domain != "com.microsoft" else f"ONNX Runtime's own operator {one.op_type}"
        if found:
            raise CheckpointError(
                f"{path} already computes with {found}, so it cannot be exported in {precision}; give the model in "
                "fp32, or leave --precision out to export it as it is."
            )


def write_precision(
    model: Path,
    precision: Smaller,
    folder: Path,
    images: NDArray[Any] | None = None,
    *,
    input: str = "pixel_values",
    batch: int = 0,
) -> None:
    """Write a model of fp32 as `model.onnx` (weights in `model.onnx.data`) into a folder.

    model: in a folder where further files may be written. images: (n, ...) as the input takes them, for int8: the
    largest and smallest numbers inside the network on these decide how its numbers are rounded. batch: images that it
    takes at a time; 0: any number. Input and output keep their types.

    Raises CheckpointError where this network cannot be written so.
    """
    try:
        with silenced("root", "onnxruntime", level=logging.ERROR):  # it advises a preparation that fails on exports
            made = _float16(model) if precision == "fp16" else _int8(model, images, input, batch)
            without_traces(made)
            _save(made, folder)
    except CheckpointError:
        raise
    except Exception as error:  # both writers raise many kinds
        raise CheckpointError(
            f"This network cannot be written in {precision} ({first_line(error)}); export it in fp32."
        ) from error


def seconds(model: Path, input: str, images: NDArray[Any]) -> float:
    """How long an ONNX file takes for a batch on this machine: the shortest of five times, after one to begin with.

    Raises CheckpointError where it cannot run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    available = onnxruntime.get_available_providers()
    providers = [one for one in ("CUDAExecutionProvider", "CPUExecutionProvider") if one in available]
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=providers)
        took = []
        for _ in range(6):
            began = time.perf_counter()
            session.run(None, {input: images})
            took.append(time.perf_counter() - began)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise CheckpointError(f"The model cannot run here ({first_line(error)}).") from error
    return min(took[1:])


def _save(model: Any, folder: Path) -> None:
    import onnx

    onnx.save(model, folder / MODEL, save_as_external_data=True, location=DATA, size_threshold=1024)


def _float16(path: Path) -> Any:
    """The model with float16 inside and between its layers, where the operators have it."""
    import onnx
    from onnx.external_data_helper import (
        load_external_data_for_model,
        load_external_data_for_tensor,
        uses_external_data,
    )
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(path, load_external_data=False)
    # Types are inferred without the weights, for a message holds at most 2 GB; small tensors can be shapes.
    for tensor in model.graph.initializer:
        if uses_external_data(tensor) and np.prod(tensor.dims) <= 1024:
            load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = onnx.TensorProto.DEFAULT
            tensor.ClearField("external_data")
    model = onnx.shape_inference.infer_shapes(model)
    load_external_data_for_model(model, str(path.parent))
    return convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)


def _int8(path: Path, images: NDArray[Any] | None, input: str, batch: int) -> Any:
    """The model with 8-bit weights (per channel) and inputs of the layers `_between` its first and its last."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    assert images is not None, "int8 is calibrated"
    model = onnx.load(path, load_external_data=False)
    for number, node in enumerate(model.graph.node):  # a foreign file can have none, or one name twice
        node.name = f"{node.op_type}_{number}"
    layers = _between(model.graph)
    if not layers:
        raise CheckpointError("This network has no layer between its first and its last that int8 makes smaller.")
    named = path.with_name("named.onnx")
    onnx.save(model, named)
    with tempfile.TemporaryDirectory(prefix="drgate-") as folder:
        out = Path(folder) / MODEL
        quantize_static(
            named,
            out,
            _Reader(images, input, batch or CALIBRATION_BATCH),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul"],
            nodes_to_quantize=layers,
            use_external_data_format=True,
        )
        return onnx.load(out)


def _between(graph: Any) -> list[str]:
    """Names of the layers that become int8: convolutions and products with weights, but the first and the last layer.

    Products of two activations, as in attention, are none: in 8 bits they cost every grade. `Gemm` stays in float as
    well: exporters use it on one row an image, as in a head, where it costs nothing.
    """
    constant = {tensor.name for tensor in graph.initializer}
    after: set[str] = set()  # values that a layer was before
    layers: dict[str, str] = {}
    ends = set()
    for node in graph.node:
        if all(not name or name in constant for name in node.input):
            constant.update(node.output)
            continue
        later = any(name in after for name in node.input)
        if node.op_type in LAYERS and not constant.isdisjoint(node.input[:2]):
            layers[node.name] = node.op_type
            if not later:
                ends.add(node.name)
            later = True
        if later:
            after.update(node.output)
    before: set[str] = set()  # values that a layer comes after
    for node in reversed(graph.node):
        sooner = any(name in before for name in node.output)
        if node.name in layers and not sooner:
            ends.add(node.name)
        if sooner or node.name in layers:
            before.update(node.input)
    return [name for name, kind in layers.items() if kind != "Gemm" and name not in ends]


class _Reader:
    """Prepared images as `quantize_static` asks for them."""

    def __init__(self, images: NDArray[Any], input: str, batch: int) -> None:
        self._left: Iterator[NDArray[Any]] = iter(np.split(images, range(batch, len(images), batch)))
        self._input = input

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._left, None)
        return None if batch is None else {self._input: batch}
