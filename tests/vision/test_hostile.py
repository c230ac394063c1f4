"""Small files that would take any time or memory: each is refused in one sentence, and at once."""

from __future__ import annotations

import copy
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from drgate.errors import CheckpointError, ImageUnreadable
from drgate.vision import checkpoint as module
from drgate.vision import images
from drgate.vision.base import Base
from drgate.vision.checkpoint import load_checkpoint, save_checkpoint
from drgate.vision.network import LORA_EXCLUDES, LORA_TARGETS, vision_config
from drgate.vision.older import load_any_checkpoint
from tests.support import tiny

LORA = {"r": 4, "alpha": 8.0, "target_modules": list(LORA_TARGETS), "exclude_modules": LORA_EXCLUDES}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return tiny.tiny_base(tmp_path_factory.mktemp("base") / "tower")


@pytest.fixture
def path(base: Base, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "m.pth", tiny.checkpoint_of(tiny.random_model(base), base))
    return tmp_path / "m.pth"


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 20


def refused(path: Path, load: Callable[[Path], Any] = load_checkpoint) -> str:
    with pytest.raises(CheckpointError) as error:
        load(path)
    message = str(error.value)
    assert len(message) < 600 + len(str(path))
    return message


def rewritten(path: Path, **changes: Any) -> Path:
    torch.save(torch.load(path, weights_only=True) | changes, path)
    return path


def doubled(value: Any, times: int) -> Any:
    """A list of the same list twice, so many times: 2 ** times values, written out."""
    for _ in range(times):
        value = [value, value]
    return value


def itself() -> list[Any]:
    own: list[Any] = []
    own.append(own)
    return own


def views(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Fifty tensors that share the numbers of one."""
    return [tensor[i:] for i in range(50)]


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


class TestValues:
    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (doubled([0], 40), "too many"),
            ({"a": doubled({"b": 1}, 50)}, "too many"),
            ([1 << 20, ["x" * (1 << 20)] * 1000, doubled(["y" * 1000], 20)], "too many"),
            (itself(), "contain themselves"),
            (nested(100), "nested more than 60 deep"),
            ([nested(50), nested(59)], "nested more than 60 deep"),
            (1 << 70, "more than 64 bits"),
            (-(1 << 1000), "more than 64 bits"),
        ],
    )
    def test_shared_nested_and_huge_values_are_refused(self, value: Any, words: str, path: Path):
        """2 KB of shared lists took 25 seconds; now each object is looked at once. In both layouts of checkpoints."""
        assert words in refused(rewritten(path, record={"history": value}))
        torch.save({"model_state_dict": {}, "epoch": 3, "val_accuracies": value}, path)
        assert words in refused(path, lambda file: load_any_checkpoint(file, None))

    def test_depth_is_that_of_the_values_written_out(self, path: Path):
        """A list that was measured near the top, and is used again far below, makes the whole deeper."""
        inner = nested(50)
        outer: Any = inner
        for _ in range(40):
            outer = [outer]
        assert "nested" in refused(rewritten(path, record={"first": inner, "second": outer}))

    def test_what_honest_runs_share_is_read(self, path: Path):
        """The same settings under two names, and a history of a thousand epochs."""
        settings = {"learning_rate": 1e-3, "layers": ["a", "b"]}
        history = [{"epoch": epoch, "settings": settings, "val_accuracy": 0.5} for epoch in range(1, 1001)]
        record = {"history": history, "parameters": settings, "status": "running"}
        assert load_checkpoint(rewritten(path, record=record)).record == record

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("epoch", "9" * 5000, "the epoch is 99999999999999999999;"),
            ("epoch", 10**9, "the epoch is 1000000000;"),
            ("epoch", -1, "the epoch is -1;"),
            ("epoch", True, "the epoch is True;"),
            ("epoch", 3.0, "the epoch is 3.0;"),
            ("format_version", "0x1", "has format 0x1;"),
            ("format_version", True, "has format True;"),
            ("format_version", "1" * 5000, "has format 11111111111111111111;"),
            ("class_names", ["c" * 100_000], "grades 1 classes"),
            ("lora", {**LORA, "alpha": float("inf")}, "alpha = inf"),
            ("lora", {**LORA, "r": "4"}, "r = 4"),
            ("preprocessing", {"id": "p" * 100_000, "size": 28}, "preprocessing"),
            ("preprocessing", {"id": "fundus-square-1", "size": 28.0}, "images of 28.0 pixels"),
            ("dropout", "d" * 100_000, "not valid"),
        ],
    )
    def test_descriptions_are_of_their_type(self, name: str, value: Any, words: str, path: Path):
        """No number in another notation, no digits without end, no value repeated at length in the message."""
        assert words in refused(rewritten(path, **{name: value}))

    def test_an_epoch_without_end_in_the_older_layout(self, base: Base, tmp_path: Path):
        torch.save({"model_state_dict": {}, "epoch": 1 << 2000}, tmp_path / "m.pth")
        assert "more than 64 bits" in refused(tmp_path / "m.pth", lambda file: load_any_checkpoint(file, base))


class TestTensors:
    @pytest.mark.parametrize(
        ("tensor", "words"),
        [
            (torch.zeros(1).expand(1 << 20, 1 << 20), "without numbers of its own"),
            (torch.eye(3).to_sparse(), "without numbers of its own"),
            (views(torch.zeros(100_000)), "share their numbers"),
        ],
    )
    def test_tensors_without_numbers_are_refused(self, tensor: Any, words: str, path: Path):
        payload = torch.load(path, weights_only=True)
        payload["record"] = {"tensor": tensor}
        torch.save(payload, path)
        assert words in refused(path)

    def test_tied_tensors_of_an_older_file_are_read(self, path: Path):
        """A few names for the same weights, as torch.save keeps them."""
        weight = torch.ones(1000)
        torch.save({"a": weight, "b": weight.view(10, 100), "c": weight[10:]}, path)
        assert set(module.read_payload(path)) == {"a", "b", "c"}


class TestArchive:
    def test_parts_that_overlap_are_refused(self, path: Path):
        """A thousand names for the same bytes: 1000 times the file, in memory."""
        with zipfile.ZipFile(path, "a") as archive:
            largest = max(archive.infolist(), key=lambda entry: entry.file_size)
            for i in range(1000):
                again = copy.copy(largest)
                again.filename = f"archive/data/{1000 + i}"
                archive.filelist.append(again)
            archive._didModify = True  # type: ignore[attr-defined]
        assert "parts that overlap" in refused(path)

    def test_a_comment_could_hide_a_second_directory(self, path: Path):
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = b"PK\x05\x06"
        assert "truncated" in refused(path)

    @pytest.mark.parametrize(
        ("limit", "words"),
        [("MAX_DIRECTORY_BYTES", "lists more parts"), ("MAX_PICKLE_BYTES", "of values besides tensors")],
    )
    def test_directory_and_values_have_a_limit(
        self, limit: str, words: str, path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(module, limit, 100)
        assert words in refused(path)

    def test_a_file_of_holes_is_refused_at_once(self, tmp_path: Path):
        """40 GB that take no room on the disk, and minutes to copy."""
        with (tmp_path / "m.pth").open("wb") as file:
            file.truncate(40 << 30)
        assert "is larger than 16384 MB" in refused(tmp_path / "m.pth", lambda file: load_any_checkpoint(file, None))

    def test_files_have_a_limit(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        """Of bytes that are copied and hashed."""
        from drgate.vision import model_files

        monkeypatch.setattr(model_files.copy_and_hash, "__kwdefaults__", {"limit": 1 << 10})
        assert "is larger than 1 KB" in refused(path, lambda file: load_any_checkpoint(file, None))


def test_an_image_in_millions_of_patches_is_refused():
    """A tower of four features and a million patches fits in 16 MB, and its attention in no memory."""
    settings = {"hidden_size": 4, "num_attention_heads": 1, "image_size": 1024, "patch_size": 1}
    with pytest.raises(CheckpointError, match="1048576 patches"):
        vision_config(settings)


def test_image_files_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Some decoders read the whole file before they look at its size."""
    tiny.eye(0, 0).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    with pytest.raises(ImageUnreadable, match="larger than"):
        images.read_image(tmp_path / "a.png")
