"""Images a second of one model in every form that can grade, and of drgate's scoring against a bare loop.

    python -m benchmarks inference                       # a SigLIP tower of 22 M parameters with LoRA adapters
    python -m benchmarks inference --size full --images 8 --rounds 1    # MedSigLIP-448's architecture, on a CPU
    python -m benchmarks inference --size full --images 2000 --without onnx --precision bf16     # on a GPU

One checkpoint with random weights, on synthetic photographs. In one process, in turn in each round, by batches of the
size that scoring takes: torch with adapters beside their layers, merged, compiled, and in bf16; ONNX Runtime with
float32, float16 and int8 (static QDQ, calibrated on photographs of the training split). Prints the median of the
rounds, the megabytes, and how many grades and how much of a probability differ from those of merged torch.

Then all photographs are scored by `drgate.score`, decoding and audit included, in turn with a loop that only runs the
same network on images that were prepared before. On a CPU, network and decoding share the cores: that scoring has at
least `LEAST` of the loop's images a second is claimed where the network takes `TIMES` as long as the preparation of a
photograph, and only there the command fails. (MedSigLIP-448: 5.8 s on two cores, 0.01 s for the preparation.) Last, the
arithmetic rate of both as a share of the rate that this machine reaches on a large matrix product.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from transformers import SiglipVisionConfig, SiglipVisionModel

from benchmarks.train import FULL, forward_flops, matrix_rate
from drgate import score as scoring
from drgate.demo.synthetic import write_dataset
from drgate.evaluation import Precision
from drgate.export import write_onnx
from drgate.manifest import Manifest, load_manifest
from drgate.preprocessing import FUNDUS_SQUARE_2, parse_preprocessing
from drgate.score import score, usual_batch
from drgate.vision.base import resolve_base
from drgate.vision.checkpoint import BaseReference, Checkpoint, LoraSettings, checkpoint_tensors, save_checkpoint
from drgate.vision.checkpoint_grader import CheckpointGrader
from drgate.vision.inference import DTYPES, placed
from drgate.vision.network import GradingModel, add_lora, architecture
from drgate.vision.precisions import MODEL, write_precision
from drgate.vision.prepared import prepare_image

SMALL = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 224,
    "patch_size": 16,
}
TINY = SMALL | {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 3}
SIZES = {"tiny": TINY, "small": SMALL, "full": FULL}
CALIBRATION, LEAST, TIMES = 16, 0.95, 40

Pixels = NDArray[np.float32]
Way = Callable[[Pixels], NDArray[Any]]


def written(folder: Path, size: str, precision: Precision = "fp32") -> CheckpointGrader:
    """A checkpoint of random weights, whose adapters and head depend on the image, as scoring loads it."""
    torch.manual_seed(0)
    config = SiglipVisionConfig(**SIZES[size])
    SiglipVisionModel(config).save_pretrained(folder / "base")
    base = resolve_base(str(folder / "base"))
    model = GradingModel(add_lora(base.load(), r=16, alpha=32), config.hidden_size, 0.4)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if ".lora_B." in name:
                tensor.normal_(std=0.02)
            elif name.startswith("classifier") and tensor.ndim == 2:
                tensor.normal_(std=2 / tensor.shape[1] ** 0.5)
    tower, head = checkpoint_tensors(model)
    recipe = parse_preprocessing(f"{FUNDUS_SQUARE_2}@{config.image_size}")
    reference, shape, lora = BaseReference.of(base), architecture(base.config), LoraSettings(16, 32.0)
    save_checkpoint(
        folder / "model.pth", Checkpoint(reference, shape, lora, tower, head, 0.4, recipe, {}, 1, None, None)
    )
    return CheckpointGrader(folder / "model.pth", str(folder / "base"), precision=precision)


def prepared(grader: CheckpointGrader, images: Manifest) -> Pixels:
    recipe = grader.preprocessing
    paths = (images.path(image) for image in images.table["image"])
    return np.stack([recipe.scaled(prepare_image(path, recipe).pixels) for path in paths])


def by_torch(network: torch.nn.Module | Any, device: torch.device, precision: Precision = "fp32") -> Way:
    def way(batch: Pixels) -> NDArray[Any]:
        with torch.inference_mode():
            return network(torch.from_numpy(batch).to(device, DTYPES[precision])).float().cpu().numpy()

    return way


def by_onnx(path: Path) -> Way:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    wanted = ["CUDAExecutionProvider"] if torch.cuda.is_available() else []
    session = onnxruntime.InferenceSession(str(path), options, providers=[*wanted, "CPUExecutionProvider"])
    return lambda batch: session.run(None, {"pixel_values": batch})[0]


def by_torch_ways(grader: CheckpointGrader, folder: Path, compiled: bool) -> dict[str, tuple[Way, float]]:
    """By name, what grades a batch, and the megabytes of its weights."""
    device = grader.inference.device
    apart = grader.checkpoint.build(resolve_base(str(folder / "base"))).to(device)
    merged, half = (placed(grader.network(), device, kind) for kind in (torch.float32, torch.bfloat16))
    size = sum(tensor.numel() for tensor in merged.parameters()) * 4 / 1e6
    return {
        "torch, merged": (by_torch(merged, device), size),
        "torch, adapters apart": (by_torch(apart, device), size),
        **({"torch, compiled": (by_torch(torch.compile(merged), device), size)} if compiled else {}),
        "torch, bf16": (by_torch(half, device, "bf16"), size / 2),
    }


def by_onnx_ways(grader: CheckpointGrader, folder: Path, calibration: Pixels) -> dict[str, tuple[Way, float]]:
    """Likewise."""
    files = {name: folder / name / MODEL for name in ("fp32", "fp16", "int8")}
    for file in files.values():
        file.parent.mkdir()
    write_onnx(grader.network(), grader.preprocessing.size, files["fp32"])
    for smaller in ("fp16", "int8"):
        write_precision(files["fp32"], smaller, files[smaller].parent, calibration)
    sizes = {
        name: sum(one.stat().st_size for one in file.parent.glob(f"{MODEL}*")) / 1e6 for name, file in files.items()
    }
    return {f"ONNX Runtime, {name}": (by_onnx(file), sizes[name]) for name, file in files.items()}


def preparing(grader: CheckpointGrader, images: Manifest) -> float:
    """Seconds of a core for the preparation of a photograph, with what the audit keeps of it."""
    contents = images.content_digests()
    began = time.process_time()
    for image in images.table["image"]:
        scoring._prepare((images.path(image), contents[image]), grader.preprocessing)
    return (time.process_time() - began) / len(images)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks inference", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=[*SIZES], default="small")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="processes that decode, as of drgate evaluate")
    parser.add_argument("--precision", choices=[*DTYPES], default="fp32", help="of scoring and the loop beside it")
    parser.add_argument(
        "--without", nargs="*", choices=["compiled", "onnx"], default=[], help="leave out what takes a minute"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grader = written(folder, options.size, options.precision)
        patients = [max(1, -(-options.images // 10))] * 5
        write_dataset(
            folder / "data", seed=0, size=448, train_patients=[2] * 5, val_patients=[1] * 5, test_patients=patients
        )
        data = load_manifest(folder / "data")
        train, test = (
            replace(whole, table=whole.table.iloc[:count].reset_index(drop=True))
            for whole, count in ((data.select("train"), CALIBRATION), (data.select("test"), options.images))
        )
        compare_ways(options, grader, folder, train, test)
        return compare_scoring(options, grader, test)


def compare_ways(
    options: argparse.Namespace, grader: CheckpointGrader, folder: Path, train: Manifest, test: Manifest
) -> None:
    pixels = prepared(grader, replace(test, table=test.table.iloc[:64].reset_index(drop=True)))
    size = usual_batch(grader)
    batches = np.split(pixels, range(size, len(pixels), size))
    found = by_torch_ways(grader, folder, "compiled" not in options.without)
    if "onnx" not in options.without:
        found |= by_onnx_ways(grader, folder, prepared(grader, train))
    # the first pass of each is not counted: it compiles, allocates, and gives the answers that are compared
    answers = {name: softmax(np.concatenate([*map(way, batches)]), axis=1) for name, (way, _) in found.items()}
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(options.rounds):
        for name, (way, _) in found.items():
            times[name].append(timed(lambda way=way: [*map(way, batches)]) / len(pixels))
    expected = answers["torch, merged"]
    print(f"{options.size}, {len(pixels)} images, {torch.get_num_threads()} threads, {grader.providers[0]}")
    print("| | images a second | MB | same grade | largest difference of a probability |\n|---|---|---|---|---|")
    for name, (_, size) in found.items():
        same = int((answers[name].argmax(axis=1) == expected.argmax(axis=1)).sum())
        difference = float(np.abs(answers[name] - expected).max())
        print(f"| {name} | {1 / statistics.median(times[name]):.1f} | {size:.0f} | {same} | {difference:.2g} |")


def compare_scoring(options: argparse.Namespace, grader: CheckpointGrader, test: Manifest) -> int:
    device = grader.inference.device
    batch = scoring._batch_size(grader, None)
    kind = DTYPES[grader.precision]
    bare = by_torch(placed(grader.network(), device, kind), device, grader.precision)
    pixels = prepared(grader, replace(test, table=test.table.iloc[: 8 * batch].reset_index(drop=True)))
    # as scoring does, every batch is whole, the last one too
    starts = range(0, len(test), batch)
    batches = [np.take(pixels, np.arange(start, start + batch), axis=0, mode="wrap") for start in starts]
    bare(batches[0])
    times: dict[str, list[float]] = {"bare loop": [], "drgate.score": []}
    for _ in range(options.rounds):
        times["bare loop"].append(timed(lambda: [*map(bare, batches)]) / len(test))
        times["drgate.score"].append(timed(lambda: score(grader, test, workers=options.workers)) / len(test))
    medians = {name: statistics.median(found) for name, found in times.items()}
    shares = [one / other for one, other in zip(*times.values(), strict=True)]
    share, needed = statistics.median(shares), preparing(grader, test)
    cores = torch.get_num_threads() if device.type == "cpu" else 0
    claimed = device.type == "cpu" and medians["bare loop"] * cores >= TIMES * needed
    print(
        f"In {grader.precision}, drgate.score has {share:.2f} of the images a second of a loop that only runs the "
        f"network ({min(shares):.2f} to {max(shares):.2f}). The network takes {1000 * medians['bare loop']:.1f} ms an "
        f"image, the preparation {1000 * needed:.1f} ms of a core: "
        + (f"at least {LEAST} is claimed." if claimed else f"nothing is claimed below {TIMES} times as much.")
    )
    rate, n = matrix_rate(device, kind)
    for name, seconds in medians.items():
        reached = forward_flops(SIZES[options.size]) / seconds
        print(
            f"{name}: {reached / 1e12:.3g} of {rate / 1e12:.3g} TFLOP/s that a {n} x {n} product reaches here in "
            f"{grader.precision}: {100 * reached / rate:.0f} %."
        )
    return 0 if share >= LEAST or not claimed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
