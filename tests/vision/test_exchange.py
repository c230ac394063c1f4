"""What is hashed is what is loaded: a file that is exchanged at any moment is not certified unseen."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from drgate.errors import CheckpointError
from drgate.manifest import Manifest, load_manifest
from drgate.score import score
from drgate.vision import base as base_module
from drgate.vision import model_files, onnx_files, onnx_grader
from drgate.vision.base import resolve_base
from drgate.vision.checkpoint import save_checkpoint
from drgate.vision.graders import load_grader
from tests.support import tiny

KINDS = ("model.pth", "model.onnx", "model.onnx.data", "preprocess.json", "labels.json")


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return load_manifest(tiny.write_eyes(tmp_path_factory.mktemp("eyes"), train=1, val=1, test=1)).select("test")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Models in `here`, and in `there` other ones of the same names, which grade otherwise."""
    base = tiny.tiny_base(tmp_path / "base")
    for seed, folder in enumerate((tmp_path / "here", tmp_path / "there")):
        model = tiny.onnx_model()
        weight = tiny.WEIGHT if seed == 0 else tiny.WEIGHT[:, ::-1].copy()
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "weight"))
        path = tiny.write_onnx(folder, model)
        save_checkpoint(folder / "model.pth", tiny.checkpoint_of(tiny.random_model(base, seed=seed), base))
        if seed:  # the same model file would not do: it is exchanged too
            for name in ("model.onnx", "preprocess.json", "labels.json"):
                data = (folder / name).read_bytes()
                extra = onnx.ModelProto(model_version=7).SerializeToString() if name == path.name else b" "
                (folder / name).write_bytes(data + extra)
    return tmp_path


def exchange(place: Path, name: str) -> None:
    """Write the other file over this one, in place, as somebody who wants it to go unseen does."""
    (place / "here" / name).write_bytes((place / "there" / name).read_bytes())


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def model_with(name: str) -> str:
    return "model.pth" if name == "model.pth" else "model.onnx"


@pytest.mark.parametrize("name", KINDS)
class TestExchangedFile:
    def test_after_loading(self, name: str, place: Path, eyes: Manifest):
        """The table names the files that graded, whatever lies under their names when scoring ends."""
        before = digest(place / "here" / name)
        expected = score(load_grader(place / "here" / model_with(name)), eyes, workers=0)
        grader = load_grader(place / "here" / model_with(name))
        exchange(place, name)
        assert digest(place / "here" / name) != before
        found = score(grader, eyes, workers=0)
        assert found.table.equals(expected.table)
        assert found.provenance == expected.provenance
        (named,) = [file for file in found.provenance["model"]["files"] if file["name"] == name]
        assert named["sha256"] == before

    def test_between_hashing_and_loading(self, name: str, place: Path, monkeypatch: pytest.MonkeyPatch):
        """What is loaded has the digest that was computed: the exchange comes too late to grade."""
        images = np.random.default_rng(0).uniform(-1, 1, (3, 3, tiny.SIZE, tiny.SIZE)).astype(np.float32)
        original = load_grader(place / "here" / model_with(name))
        exchanged = []

        def hashed_then_exchanged(path: Path, *arguments: Any, **named: Any) -> Any:
            file = model_files_copy(path, *arguments, **named)
            if path.name == name:
                exchange(place, name)
                exchanged.append(path)
            return file

        model_files_copy: Callable[..., Any] = model_files.copy_and_hash
        for module in (model_files, onnx_files, onnx_grader):
            monkeypatch.setattr(module, "copy_and_hash", hashed_then_exchanged)
        grader = load_grader(place / "here" / model_with(name))
        assert len(exchanged) == 1
        assert (grader.files, grader.tensor_digest) == (original.files, original.tensor_digest)
        assert np.array_equal(grader.outputs(images), original.outputs(images))


class TestExchangedBase:
    """The base model of adapters is not copied, because it may be large: its digest is computed as it is loaded."""

    def test_between_its_digest_and_loading(self, place: Path, monkeypatch: pytest.MonkeyPatch):
        other = tiny.write_base(place / "other base", seed=5)
        digest_of_folder = base_module._digest

        def hashed_then_exchanged(folder: Path, config: Any) -> str:
            found = digest_of_folder(folder, config)
            shutil.copyfile(other / "model.safetensors", place / "base" / "model.safetensors")
            return found

        monkeypatch.setattr(base_module, "_digest", hashed_then_exchanged)
        with pytest.raises(CheckpointError, match="was changed while it was read"):
            load_grader(place / "here" / "model.pth")

    def test_after_loading(self, place: Path):
        """Its tensors are copies, not views of the file."""
        tower = resolve_base(str(place / "base")).load()
        before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
        file = place / "base" / "model.safetensors"
        file.write_bytes(tiny.write_base(place / "other base", seed=5).joinpath(file.name).read_bytes())
        assert all(tensor.equal(before[name]) for name, tensor in tower.state_dict().items())
