"""Running a bundle's own programs, as somebody does who has none of drgate."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx

from drgate.answers import Answer
from drgate.bundle import write_programs, write_triton
from drgate.export import _write_companions
from drgate.gradability import Rule
from drgate.preprocessing import parse_preprocessing
from drgate.vision.graders import load_grader
from tests.support import foreign

_ALONE = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        known = {"onnxruntime", "numpy", "PIL", "preprocessing", "gradability", *sys.stdlib_module_names}
        if name.partition(".")[0] not in known:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Absent())
for name in [name for name in sys.modules if name.partition(".")[0] in ("drgate", "tests", "site", "sitecustomize")]:
    del sys.modules[name]
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""As where nothing but Python, onnxruntime, NumPy and Pillow is installed."""


def infer(bundle: Path, images: Iterable[Path]) -> tuple[int, dict[str, dict[str, str]], str]:
    """The exit code of `infer.py IMAGE...`, its lines by image, and what it says of errors."""
    ended = subprocess.run(
        [sys.executable, "-c", _ALONE, str(bundle / "infer.py"), *map(str, images)],
        cwd=bundle.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = csv.DictReader(ended.stdout.splitlines())
    return ended.returncode, {line["image"]: line for line in lines}, ended.stderr


def a_bundle(
    folder: Path,
    answer: Answer = Answer(),  # noqa: B008
    way: str = "imagenet-stretch@64",
    cut_offs: list[float] | None = None,
    *,
    quality: Rule | None = None,
) -> Any:
    """The files of a bundle that decide, without a judgement; the grader of them."""
    recipe = parse_preprocessing(way)
    face: Any = SimpleNamespace(preprocessing=recipe)
    shape = {"weight": foreign.WEIGHT[:, : answer.width], "bias": foreign.BIAS[: answer.width]}
    network = foreign.network(**shape, size=recipe.size)
    network.graph.input[0].name = network.graph.node[0].input[0] = "pixel_values"
    network.graph.output[0].name = network.graph.node[-1].output[0] = "logits"
    onnx.save(network, folder / "model.onnx")
    _write_companions(folder, face, recipe, answer, cut_offs=cut_offs is not None)
    if cut_offs is not None:
        (folder / "operating_point.json").write_text(json.dumps({"cut_offs": cut_offs}))
    write_programs(folder, quality)
    write_triton(folder, load_grader(folder / "model.onnx"))
    return load_grader(folder / "model.onnx")
