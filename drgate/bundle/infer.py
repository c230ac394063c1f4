"""Grade photographs with the model in this folder: `python infer.py IMAGE...` prints one line of CSV for each.

Needs onnxruntime, NumPy and Pillow. A photograph that cannot be read, that quality.json refuses, or for which the model
has no numbers, has a line without a grade: refer it to a person. The exit code is 3 then, and 2 where the model cannot
run or the lines cannot be written.
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

sys.pycache_prefix = __file__  # not a folder: preprocessing.py itself runs, not what lies in __pycache__
from preprocessing import FORMATS, read_preprocessing, reduced_copy, upright  # noqa: E402

HERE = Path(__file__).resolve().parent
GRADES = ["no_dr", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr"]
TYPES = {"tensor(float16)": np.float16, "tensor(uint8)": np.uint8, "tensor(double)": np.float64}
QUALITY_AT = 896  # the shortest side at which a JPEG is decoded for quality.json
BATCHES = [1, 2, 4, 8, 16, 32]  # a graph can need one of them, and not say so


def content(name: str) -> Any:
    return json.loads((HERE / name).read_text("utf-8")) if (HERE / name).exists() else {}


def photograph(path: str, at_least: int | None) -> Any:
    with Image.open(path, formats=FORMATS) as image:
        if at_least:
            image.draft(None, (at_least, at_least))
        return upright(image)


def refused(path: str, limits: Any) -> str:
    """Why quality.json gives this photograph to a person; "" where it does not."""
    from gradability import Rule, gradable, measures

    image = photograph(path, QUALITY_AT).convert("RGB")
    why = gradable(measures(image, *reduced_copy(image)), Rule.from_json(limits))
    return f"image quality: {why}" if why else ""


def decided(outputs: Any, kind: str, classes: list[str], cuts: list[float]) -> list[Any]:
    """Grade, p_0 to p_4 and referable (0 or 1) of one photograph; empty where this model gives none."""
    values, p = outputs.ravel().astype(np.float32).astype(np.float64), [""] * 5
    if len(values) != (len(classes) or (4 if kind == "cumulative_logits" else 1)):
        raise ValueError(f"it gives {len(values)} numbers for an image, not what the files beside it say")
    if not np.isfinite(values).all():
        return ["", *p, ""]
    if kind == "logits":
        values = np.exp(values - values.max())
    elif kind in ("cumulative_logits", "referable_logit"):
        values = 1 / (1 + np.exp(-values.clip(-700)))
    if kind.startswith("referable") or "referable" in classes:
        likely = values[classes.index("referable")] / values.sum() if classes else values[0]
        return ["", *p, int(likely >= (cuts[0] if cuts else 0.5))]
    if kind == "regression":
        reached = values.repeat(4)
    else:
        if kind == "cumulative_logits":
            values = -np.diff(np.hstack([1, np.minimum.accumulate(values), 0]))
        else:
            values = (values / values.sum())[[classes.index(name) for name in GRADES]]
        p, reached = values.tolist(), np.cumsum(values[:0:-1])[::-1]
    grade = max((k for k in range(1, 5) if reached[k - 1] >= cuts[k - 1]), default=0) if cuts else int(values.argmax())
    return [grade, *p, int(grade >= 2)]


def main(images: list[str]) -> int:
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
    described, recipe = content("model.yaml"), read_preprocessing(content("preprocess.json"), "preprocess.json")
    takes = next(one for one in session.get_inputs() if one.name == described.get("input", one.name))
    output = described.get("output", {"name": session.get_outputs()[0].name, "kind": "logits"})
    classes, cuts = content("labels.json") or [], content("operating_point.json").get("cut_offs", [])
    limits = content("quality.json")

    def answer(pixels: Any, batch: int) -> list[Any]:
        given = np.repeat(pixels[None], batch, axis=0).astype(TYPES.get(takes.type, np.float32))
        return decided(session.run([output["name"]], {takes.name: given})[0][:1], output["kind"], classes, cuts)

    for batch in [takes.shape[0]] if isinstance(takes.shape[0], int) else BATCHES:
        try:
            answer(recipe(Image.new("RGB", (64, 64))), batch)
            break
        except Exception as problem:
            wrong = problem
    else:
        raise wrong
    table, missing = csv.writer(sys.stdout, lineterminator="\n"), 0
    table.writerow(["image", "grade", *(f"p_{grade}" for grade in range(5)), "referable"])
    for path in images:
        found = [""] * 7
        try:
            pixels = recipe(photograph(path, recipe.decoded_at))
            why = refused(path, limits) if limits else ""
        except Exception as problem:  # of a damaged file Pillow raises nearly anything
            why = f"cannot be read as a photograph ({type(problem).__name__})"
        if not why:
            found = answer(pixels, batch)
            why = "the model gave no finite numbers" if found[-1] == "" else ""
        if why:
            print(f"{path}: {why}. Refer to a person.", file=sys.stderr)
            missing += 1
        table.writerow([path, *found])
    return 3 if missing else 0


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: python infer.py IMAGE...", __doc__, sep="\n\n", file=sys.stderr)
        sys.exit(2)
    try:
        code = main(sys.argv[1:])
    except Exception as problem:  # onnxruntime's exceptions share no base class
        print(f"{HERE}: infer.py cannot grade here ({str(problem).partition(chr(10))[0]}).", file=sys.stderr)
        code = 2
    sys.exit(code)
