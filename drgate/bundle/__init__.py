"""The files with which a bundle runs without drgate: its own copy of the way of a photograph, and what to check it by.

write_programs(folder, None)          # infer.py and what it imports, before judging: the certificate covers them
write_triton(folder, grader)          # config.pbtxt, likewise
write_vectors(folder, grader)         # vectors/: photographs, their prepared pixels and outputs
write_sums(folder)                    # SHA256SUMS, last
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drgate.evaluation import QUALITY, TRITON
from drgate.files import sha256_file, write_atomically
from drgate.vectors import FORMAT, OF_VECTORS, PHOTOGRAPHS, SUMS, VECTORS, read_vectors
from drgate.vision.for_others import PROGRAMS
from drgate.vision.images import read_image

if TYPE_CHECKING:
    from drgate.gradability import Rule
    from drgate.vision.onnx_grader import OnnxGrader


def write_programs(folder: Path, quality: Rule | None) -> None:
    """Copy the code of a bundle, byte for byte. quality: by which infer.py refuses photographs; None: none of them."""
    for name, source in PROGRAMS.items():
        if name != "gradability.py" or quality is not None:
            write_atomically(folder / name, source.read_bytes())
    if quality is not None:
        write_atomically(folder / QUALITY, json.dumps(quality.to_json(), indent=2).encode() + b"\n")


def write_triton(folder: Path, grader: OnnxGrader) -> None:
    """Write config.pbtxt. grader: of the model in the folder."""
    write_atomically(folder / TRITON, grader.for_others[TRITON])


def write_vectors(folder: Path, grader: OnnxGrader) -> None:
    """Write `vectors/`: the photographs, and vectors.json with what must come of each."""
    recipe = grader.preprocessing
    (folder / VECTORS).mkdir()
    found = []
    for source in sorted(PHOTOGRAPHS.iterdir()):
        shutil.copyfile(source, folder / VECTORS / source.name)
        pixels = recipe.pixels(read_image(source, recipe.decoded_at))
        plain = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        outputs = grader.outputs(recipe.scaled(pixels)[None])[0]
        found.append(
            {
                "image": source.name,
                "shape": list(pixels.shape),
                "dtype": pixels.dtype.name,
                "pixels": f"sha256:{hashlib.sha256(plain).hexdigest()}",
                "outputs": [float(one) if np.isfinite(one) else None for one in outputs],
            }
        )
    write_atomically(folder / VECTORS / OF_VECTORS, read_vectors({"format": FORMAT, "vectors": found}).to_bytes())


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over every other file of a folder; `sha256sum --check` reads it."""
    lines = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS):
        lines.append(f"{sha256_file(file)}  {file.relative_to(folder).as_posix()}\n")
    write_atomically(folder / SUMS, "".join(lines).encode())
