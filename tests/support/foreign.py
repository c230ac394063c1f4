"""ONNX models as other people export them: one layer on the mean colour, with any input, end and description."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from drgate.scale import GRADES

SIZE = 28
WEIGHT = np.random.default_rng(3).normal(0, 2, (3, 5)).astype(np.float32)
BIAS = np.random.default_rng(4).normal(0, 0.5, 5).astype(np.float32)
STRETCHED = f"siglip@{SIZE}"


def network(
    weight: NDArray[np.float32] = WEIGHT,
    bias: NDArray[np.float32] = BIAS,
    *,
    end: Sequence[Any] = (),
    tensors: Sequence[Any] = (),
    batch: int | str = "n",
    size: int | str = SIZE,
    nhwc: bool = False,
    dtype: int = TensorProto.FLOAT,
    gives: Sequence[int | str] | None = None,
    more: Sequence[str] = (),
) -> Any:
    """A ModelProto: input `image`, output `answer` = mean colour @ weight + bias.

    end: nodes that make `answer` of `linear`. dtype: of the input; float16 is the output's too. gives: the declared
    shape of the output; more: further outputs, of the same numbers.
    """
    shape = [batch, size, size, 3] if nhwc else [batch, 3, size, size]
    half = dtype == TensorProto.FLOAT16
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2] if nhwc else [2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["scores"]),
        helper.make_node("Add", ["scores", "bias"], ["linear"]),
        *(end or [helper.make_node("Identity", ["linear"], ["answer"])]),
        *(helper.make_node("Identity", ["linear"], [name]) for name in more),
    ]
    if half:
        nodes[-1].output[0] = "wide"
        nodes.append(helper.make_node("Cast", ["wide"], ["answer"], to=TensorProto.FLOAT16))
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    answer = helper.make_tensor_value_info("answer", kind, gives or [batch, weight.shape[1]])
    others = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, weight.shape[1]]) for name in more]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [*others, answer],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias"), *tensors],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def node(kind: str, *inputs: str, to: str = "answer", **attributes: Any) -> Any:
    return helper.make_node(kind, list(inputs) or ["linear"], [to], **attributes)


def baked(*shape: int) -> dict[str, Any]:
    """A reshape to a fixed shape as the end of a network, as exporters of a batch of one leave it."""
    return {
        "end": [node("Reshape", "linear", "shape")],
        "tensors": [numpy_helper.from_array(np.array(shape, np.int64), "shape")],
    }


def write(folder: Path, model: Any = None, **changes: Any) -> Path:
    """`model.onnx` and the `model.yaml` beside it: logits of the five grades on `STRETCHED`, with changes.

    A key that is None is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(network() if model is None else model, path)
    described: dict[str, Any] = {
        "format": "drgate model 1",
        "weights": path.name,
        "architecture": "onnx",
        "output": {"kind": "logits"},
        "classes": [*GRADES],
        "preprocessing": STRETCHED,
    } | changes
    plain = {key: value for key, value in described.items() if value is not None}
    (folder / "model.yaml").write_text(json.dumps(plain))
    return path
