"""What several test modules name: where real photographs lie, how small ones are drawn, how a command ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

REAL_DATA = Path(__file__).parents[3] / "shared" / "data"


def photograph(path: Path, seed: int, size: int = 48) -> None:
    """A small image that is like no other of another seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str
