"""The card of a bundle, README.md, as Hugging Face reads it: results as `model-index`, then the text for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drgate.evaluation import Estimate, Evaluation, plain_of
from drgate.files import sha256_file
from drgate.report import words
from drgate.report.evaluation import markdown

if TYPE_CHECKING:
    from drgate.vision.onnx_grader import OnnxGrader


def model_card(evaluation: Evaluation, exported: OnnxGrader, folder: Path) -> str:
    """README.md of a bundle. folder: with its statement.json, and certificate.json where it is signed."""
    parent = evaluation.model.parent
    assert parent is not None, "an exported model has a parent"
    preprocessing, answer, face = exported.preprocessing, exported.answer, exported.face
    shape = ", ".join(str(length or preprocessing.size) for length in face.shape)
    many = exported.batch or "batch"
    does, scale = ("Says whether to refer for", "") if answer.referable_only else ("Grades", ", ICDR 0 to 4")
    order = ", in the order of labels.json" if answer.classes else ""
    signed = {
        key: f"sha256:{sha256_file(folder / name)}"
        for key, name in (("statement", "statement.json"), ("certificate", "certificate.json"))
        if (folder / name).exists()
    }
    head = {
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["diabetic-retinopathy", "fundus", "drgate"],
        "model-index": [{"name": parent.name, "results": [_result(evaluation)]}],
        "drgate": {"verdict": evaluation.verdict, **signed},
    }
    criteria = [
        [line.title, line.outcome, line.rule, line.counts, line.value, line.interval]
        for line in words.lines(evaluation)
        if line.required
    ]
    return "\n".join(
        [
            "---",
            _front_matter(head, _metrics(evaluation)),
            "---",
            "",
            "# Model card",
            "",
            f"{does} diabetic retinopathy on colour fundus photographs{scale}. **Not a medical device.**",
            "",
            f"**{markdown.escape(evaluation.headline)}**",
            "",
            markdown.grid(["Required criterion", "Outcome", "Rule", "Counts", "Estimate", "Interval"], criteria),
            "",
            f"- Input: {markdown.code(face.input)}, {face.dtype} ({many}, {shape}); "
            f"preprocessing {markdown.code(preprocessing.name)} (preprocess.json, {preprocessing.size} pixels).",
            f"- Output: {markdown.code(face.output)}, ({many}, {answer.width}): "
            f"{answer.kind.replace('_', ' ')}{order}.",
            *(f"- {label}: {markdown.escape(text)}." for label, text in words.scored(evaluation.model)),
            "- Use: `drgate predict . IMAGE...`, which checks the certificate first; or `python infer.py IMAGE...`, "
            "with onnxruntime, NumPy and Pillow installed. A program of your own must come to the pixels and outputs "
            "of vectors/vectors.json.",
            f"- Exported from {markdown.code(parent.name)}, tensors `{parent.tensor_digest}`, certified by "
            f"statement `{parent.statement}`.",
            *(f"- {markdown.escape(line)}" for line in words.exported(evaluation)),
            *(f"- SHA-256 of {key}.json: `{digest}`." for key, digest in signed.items()),
            "- What it is certified for, and what that is no evidence for: report.html; certificate.json where signed.",
            "",
            *(f"- {markdown.escape(line)}" for line in evaluation.page_one),
            "",
        ]
    )


def _front_matter(head: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    """JSON, which is YAML, with a line for each metric."""
    lines = ",\n".join(f"  {json.dumps(metric, ensure_ascii=False)}" for metric in metrics)
    return json.dumps(head, indent=2, ensure_ascii=False).replace('"metrics": []', f'"metrics": [\n{lines}\n]')


def _metrics(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Every metric of the whole test set that has a value, its interval in `args`."""
    metrics = []
    for name, metric in evaluation.metrics.items():
        if not isinstance(metric, Estimate) or name != name.whole:
            continue
        known = plain_of(metric)
        interval = {key: known[key] for key in ("low", "high", "level", "method", "k", "n") if key in known}
        metrics.append({"type": str(name), "value": metric.value, "name": words.title(name), "args": interval})
    return metrics


def _result(evaluation: Evaluation) -> dict[str, Any]:
    """One entry of a `model-index`, as yet without metrics."""
    data = {"type": "locked-test-set", "name": words.test_set_name(evaluation)}
    if evaluation.data.digest:
        data["revision"] = evaluation.data.digest
    return {
        "task": {"type": "image-classification", "name": "Grading of diabetic retinopathy"},
        "dataset": data,
        "metrics": [],
    }
