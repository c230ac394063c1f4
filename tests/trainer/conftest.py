"""What the tests of training share: a small base model and data set, one thread, and finished runs to copy."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """One thread, which such small networks are fastest on, and no search for garbage in what was imported."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("base") / "tower")


@pytest.fixture(scope="session")
def eyes(tmp_path_factory) -> Path:
    """Tests that change a data set write their own."""
    return tiny.write_eyes(tmp_path_factory.mktemp("eyes"))


@pytest.fixture(scope="session")
def finished(base, eyes, tmp_path_factory) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Folder and record of a finished run with these parameters, trained once: not to be changed, but copied."""
    from trainer.config import TrainingConfig
    from trainer.run import train

    runs: dict[str, tuple[Path, dict[str, Any]]] = {}

    def run(config: TrainingConfig, copy_to: Path | None = None) -> tuple[Path, dict[str, Any]]:
        key = config.model_copy(update={"output_dir": None}).model_dump_json()
        if key not in runs:
            folder = tmp_path_factory.mktemp("finished") / "run"
            record = train(config.model_copy(update={"output_dir": str(folder)}), quiet=True)
            runs[key] = folder, record
        folder, record = runs[key]
        if copy_to is None:
            return folder, record
        shutil.copytree(folder, copy_to)
        return copy_to, record

    return run
