"""Running a bundle's own programs, as somebody does who has none of drgate."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_ALONE = """
import runpy, sys
absent = ("drgate", "trainer", "torch", "onnx", "pandas", "scipy", "pydantic", "yaml", "cryptography", "transformers")
sys.modules.update(dict.fromkeys(absent))  # importing one raises ImportError
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


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
