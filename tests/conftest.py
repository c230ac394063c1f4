"""Fixtures that several test modules share: small data sets, the command line, and the real photographs."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each worker fills one core; before NumPy or torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

from tests.support.material import REAL_DATA, Ended, photograph

os.environ["DRGATE_CACHE"] = "none"  # no test reads or leaves pictures in the user's cache

settings.register_profile("drgate", derandomize=True, deadline=None)
settings.load_profile("drgate")

CHROMIUM = Path("/usr/bin/chromium")
LONGEST_FIRST = ("test_real_photographs", "trainer/", "test_processes", "gate/", "test_way", "test_work", "vision/")
"""Of several workers, each takes a whole file at a time (module fixtures are made once); short files come last."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto` is the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no worker is left with one of them at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        files = [f"tests/{name}" for name in LONGEST_FIRST]
        items.sort(
            key=lambda item: next((i for i, file in enumerate(files) if item.nodeid.startswith(file)), len(files))
        )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real graded photographs, which must not be redistributed and so are not part of the project."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real photographs (../shared/data) are not on this machine; they may not be redistributed")
    return REAL_DATA


@pytest.fixture
def drgate(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run `drgate` in this process."""

    def run(*arguments: object) -> Ended:
        from drgate.cli import main

        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Ended(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def refused(drgate: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command that must be refused: exit code 2, one sentence, nothing written. Returns the sentence."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def run(*arguments: object) -> str:
        ended = drgate(*arguments)
        assert ended.code == 2, ended
        assert ended.out == ""
        assert ended.err.count("\n") == 1, ended.err
        assert ended.err.startswith("drgate: ")
        assert "Traceback" not in ended.err
        assert list(here.iterdir()) == [], "something was written"
        return ended.err.strip()

    return run


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[..., Path]:
    """Write rows (dictionaries with the same keys) as a CSV file."""

    def write(rows: Iterable[dict[str, object]], name: str = "table.csv") -> Path:
        rows = list(rows)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


@pytest.fixture
def photographs(tmp_path: Path) -> Callable[..., Path]:
    """Write images by name below one folder, each unlike the others, and return the folder."""

    def write(*names: str, folder: str = "images") -> Path:
        for i, name in enumerate(names):
            photograph(tmp_path / folder / name, seed=i)
        return tmp_path / folder

    return write


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a network; each test opens pages of its own."""
    if not CHROMIUM.exists():
        pytest.skip(
            f"there is no {CHROMIUM}; the page is tested in a browser where it is installed (apt install chromium)"
        )
    api = pytest.importorskip("playwright.sync_api")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield chromium
        chromium.close()
