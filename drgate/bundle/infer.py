"""Grade photographs with the model in this folder: `python infer.py IMAGE...` prints one line of CSV for each.

Needs onnxruntime, NumPy and Pillow. A photograph that cannot be read has a line without a grade; the exit code is 3.
"""

import csv
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from preprocessing import FORMATS, read_preprocessing, upright

HERE = Path(__file__).resolve().parent
GRADES = ["no_dr", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr"]
TYPES = {"tensor(float16)": np.float16, "tensor(uint8)": np.uint8, "tensor(double)": np.float64}


def content(name: str) -> Any:
    return json.loads((HERE / name).read_text("utf-8")) if (HERE / name).exists() else {}


def decided(outputs: Any, kind: str, classes: list[str], cuts: list[float]) -> list[Any]:
    """Grade, p_0 to p_4 and referable (0 or 1) of one photograph; empty where this model gives none."""
    values = outputs.ravel().astype(np.float64)
    if not np.isfinite(values).all():
        return [""] * 7
    if kind == "regression":
        grade = max((k for k in range(1, 5) if values[0] >= cuts[k - 1]), default=0)
        return [grade, *[""] * 5, int(grade >= 2)]
    if kind == "logits":
        values = np.exp(values - values.max())
    elif kind in ("cumulative_logits", "referable_logit"):
        values = 1 / (1 + np.exp(-values.clip(-700)))
    if kind.startswith("referable") or "referable" in classes:
        likely = values[classes.index("referable")] / values.sum() if classes else values[0]
        return [*[""] * 6, int(likely >= (cuts[0] if cuts else 0.5))]
    if kind == "cumulative_logits":
        p = -np.diff(np.hstack([1, np.minimum.accumulate(values), 0]))
    else:
        p = (values / values.sum())[[classes.index(name) for name in GRADES]]
    reached = np.cumsum(p[:0:-1])[::-1]
    grade = max((k for k in range(1, 5) if reached[k - 1] >= cuts[k - 1]), default=0) if cuts else int(p.argmax())
    return [grade, *p.tolist(), int(grade >= 2)]


def main(images: list[str]) -> int:
    session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
    described, recipe = content("model.yaml"), read_preprocessing(content("preprocess.json"), "preprocess.json")
    takes = next(one for one in session.get_inputs() if one.name == described.get("input", one.name))
    output = described.get("output", {"name": session.get_outputs()[0].name, "kind": "logits"})
    classes, cuts = content("labels.json") or [], content("operating_point.json").get("cut_offs", [])
    batch = takes.shape[0] if isinstance(takes.shape[0], int) else 1
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    table, failed = csv.writer(sys.stdout, lineterminator="\n"), False
    table.writerow(["image", "grade", *(f"p_{grade}" for grade in range(5)), "referable"])
    for path in images:
        try:
            with Image.open(path, formats=FORMATS) as image:
                if recipe.decoded_at:
                    image.draft(None, (recipe.decoded_at, recipe.decoded_at))
                pixels = recipe(upright(image)).astype(TYPES.get(takes.type, np.float32))
        except Exception as problem:  # of a damaged file Pillow raises nearly anything
            print(f"{path}: cannot be read as a photograph ({type(problem).__name__}).", file=sys.stderr)
            table.writerow([path, *[""] * 7])
            failed = True
            continue
        outputs = session.run([output["name"]], {takes.name: np.repeat(pixels[None], batch, axis=0)})[0][:1]
        table.writerow([path, *decided(outputs, output["kind"], classes, cuts)])
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
