"""The files with which a bundle runs without drgate: its own copy of the way of a photograph, and what to check it by.

write_programs(folder)                # preprocessing.py and infer.py, before judging: the certificate covers them
write_vectors(folder, grader)         # vectors/: photographs, their prepared pixels and outputs
write_sums(folder)                    # SHA256SUMS, last
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from drgate import preprocessing
from drgate.files import sha256_file, write_atomically
from drgate.vision.images import read_image

if TYPE_CHECKING:
    from drgate.vision.onnx_grader import OnnxGrader

FORMAT: Final = "drgate vectors 1"
VECTORS: Final = "vectors"
SUMS: Final = "SHA256SUMS"
PHOTOGRAPHS: Final = Path(__file__).with_name("photographs")
"""Made by `drgate.demo.synthetic`; as files, because another version of Pillow encodes them otherwise. One is turned by
its EXIF, one so large that `decode: scaled` shows."""


def write_programs(folder: Path) -> None:
    """Copy the code of a bundle, byte for byte."""
    for source in (Path(preprocessing.__file__), Path(__file__).with_name("infer.py")):
        write_atomically(folder / source.name, source.read_bytes())


def write_vectors(folder: Path, grader: OnnxGrader) -> None:
    """Write `vectors/`: the photographs, and vectors.json with what must come of each.

    pixels: SHA-256 of `Preprocessing.pixels` in C order, of the stated dtype (little-endian). outputs: of the model.
    """
    recipe = grader.preprocessing
    (folder / VECTORS).mkdir()
    found = []
    for source in sorted(PHOTOGRAPHS.iterdir()):
        shutil.copyfile(source, folder / VECTORS / source.name)
        pixels = recipe.pixels(read_image(source, recipe.decoded_at))
        plain = pixels.astype(pixels.dtype.newbyteorder("<"))
        outputs = grader.outputs(recipe.scaled(pixels)[None])[0]
        found.append(
            {
                "image": source.name,
                "shape": list(plain.shape),
                "dtype": pixels.dtype.name,
                "pixels": f"sha256:{hashlib.sha256(plain.tobytes()).hexdigest()}",
                "outputs": [float(number) for number in outputs],
            }
        )
    content = json.dumps({"format": FORMAT, "vectors": found}, indent=2)
    write_atomically(folder / VECTORS / "vectors.json", content.encode() + b"\n")


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over every other file of a folder; `sha256sum --check` reads it."""
    lines = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS):
        lines.append(f"{sha256_file(file)}  {file.relative_to(folder).as_posix()}\n")
    write_atomically(folder / SUMS, "".join(lines).encode())
