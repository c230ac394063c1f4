"""Small files that would take any time or memory: each is refused in one sentence, and at once."""

from __future__ import annotations

import argparse
import copy
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from drgate import score as score_module
from drgate.errors import CheckpointError, ImageUnreadable
from drgate.manifest import load_manifest
from drgate.preprocessing import parse_preprocessing
from drgate.vision import checkpoint as module
from drgate.vision import images
from drgate.vision.base import Base
from drgate.vision.checkpoint import load_checkpoint, save_checkpoint
from drgate.vision.graders import load_grader
from drgate.vision.network import LORA_EXCLUDES, LORA_TARGETS, vision_config
from drgate.vision.older import load_any_checkpoint
from tests.support import tiny
from tests.support.older import state_dict

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
            ("preprocessing", {"id": "fundus-square-1", "size": 28}, "is not a preprocessing; expected"),
            ("preprocessing", tiny.recipe(name="p" * 100_000), "name is"),
            ("preprocessing", tiny.recipe(size=28.0), "size is 28.0;"),
            ("preprocessing", tiny.recipe(scale={"range": [0, 1e300]}), "scale is"),
            ("preprocessing", tiny.recipe(crop=torch.zeros(2)), "something else than plain values"),
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


def called(module: str, name: str, arguments: bytes) -> bytes:
    """What a pickle says to call a function."""
    return f"c{module}\n{name}\n".encode() + arguments + b"R"


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def with_pickle(path: Path, pickled: bytes, *, name: str = "data.pkl") -> Path:
    """An archive like torch.save's, around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"m/{name}", b"\x80\x02" + pickled + b".")
        archive.writestr("m/data/0", bytes(1 << 16))
        archive.writestr("m/version", "3\n")
    return path


class TestCalls:
    """What torch calls for a file, though it runs none of its code: each is tried with stand-ins first."""

    @pytest.mark.parametrize("name", ["FloatTensor", "Tensor"])
    def test_tensors_of_memory_that_nobody_wrote_are_refused(self, name: str, tmp_path: Path):
        """Their numbers are those of another program, others each time: not of the file whose digest is certified."""
        path = with_pickle(tmp_path / "m.pth", called("torch", name, b"M\x00\x10\x85"))
        assert "contains Python objects other than tensors" in refused(path, module.read_payload)

    def test_tensors_beyond_their_part_of_the_file_are_refused(self, path: Path):
        """A storage of its own making has room for any tensor, filled with what lay in memory."""
        storage = called("torch.storage", "UntypedStorage", b"K\x04\x85")
        pickled = called("torch._utils", "_rebuild_tensor_v2", b"(" + storage + b"K\x00K\x04\x85K\x01\x85\x89}t")
        assert "other than tensors" in refused(with_pickle(path, pickled), module.read_payload)

    @pytest.mark.parametrize(
        "pickled",
        [
            called("_codecs", "encode", b"(" + text("\u0100\u0200" * 100_000) + text("punycode") + b"t"),
            b"](c_codecs\nencode\nq\x00" + text("x" * 100_000) + b"q\x01" + text("latin1") + b"q\x02\x86R"
            + b"h\x00h\x01h\x02\x86R" * 100_000 + b"e",
            called("__builtin__", "bytearray", b"J\x00\x00\x00\x70\x85"),
            b"](c__builtin__\nset\nq\x00(" + b"K\x01" * 1000 + b"lq\x01\x85R" + b"h\x00h\x01\x85R" * 100_000 + b"e",
        ],
        ids=["slow encoding", "copies of a text", "bytes", "copies of a set"],
    )  # fmt: skip
    def test_much_of_little_is_refused(self, pickled: bytes, tmp_path: Path):
        refused(with_pickle(tmp_path / "m.pth", pickled), module.read_payload)

    def test_a_pickle_of_nothing_but_values_is_refused(self, tmp_path: Path):
        """A byte can be a mapping, and takes microseconds: 16 MB of them took a minute."""
        pickled = b"](" + b"}" * 1_000_000 + b"e"
        assert "too many" in refused(with_pickle(tmp_path / "m.pth", pickled), module.read_payload)

    def test_negative_views_are_refused(self, tmp_path: Path):
        """They end in an error where their bytes are hashed."""
        torch.save({"model_state_dict": torch._neg_view(torch.ones(3))}, tmp_path / "m.pth")
        assert "without numbers of its own" in refused(tmp_path / "m.pth", lambda file: load_any_checkpoint(file, None))

    def test_what_honest_files_hold_is_read(self, tmp_path: Path):
        state = torch.nn.Linear(3, 2).to(torch.bfloat16).state_dict()  # an ordered dictionary with attributes
        plain = {"state": state, "own": torch.nn.Parameter(torch.ones(2)), "device": torch.device("cpu"), "b": b"\xff",
                 "kind": torch.float16, "shape": torch.Size([2, 3]), "few": {1, 2}, "none": torch.zeros(0, 3),
                 "row": torch.arange(9).view(3, 3)[1], "turned": torch.ones(2, 3).T}  # fmt: skip
        torch.save(plain, tmp_path / "m.pth")
        assert module.read_payload(tmp_path / "m.pth").keys() == plain.keys()


class TestArchive:
    def test_the_pickle_is_found_by_its_name_in_any_letters(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """As torch finds it: a limit that knows data.pkl alone does not hold for DATA.PKL."""
        monkeypatch.setattr(module, "MAX_PICKLE_BYTES", 100)
        path = with_pickle(tmp_path / "m.pth", text("x" * 200), name="DATA.PKL")
        assert "of values besides tensors" in refused(path, module.read_payload)

    @pytest.mark.parametrize("wide", [False, True])
    def test_a_second_list_of_parts_is_refused(self, wide: bool, path: Path):
        """One reader goes by the place that is stated, another by what comes before the end."""
        data = bytearray(path.read_bytes())
        if wide:
            data[-34:-26] = (int.from_bytes(data[-34:-26], "little") - 200).to_bytes(8, "little")
        else:
            data = data[:-98] + data[-22:]
            data[-6:-2] = (1000).to_bytes(4, "little")
        path.write_bytes(data)
        assert "more than one list of its parts" in refused(path)

    def test_parts_that_overlap_are_refused(self, path: Path):
        """A thousand names for the same bytes: 1000 times the file, in memory."""
        with zipfile.ZipFile(path, "a") as archive:
            largest = max(archive.infolist(), key=lambda entry: entry.file_size)
            for i in range(1000):
                again = copy.copy(largest)
                again.filename = f"{largest.filename}{1000 + i}"
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


def elsewhere(path: Path) -> str:
    """What is said of a file of weights that is given without anything stated."""
    return refused(path, lambda file: load_any_checkpoint(file, None))


class TestWeightsFromElsewhere:
    def test_dictionaries_in_dictionaries(self, tmp_path: Path):
        """Each is looked at once, a few deep, whatever is shared."""
        shared: Any = {"x": 1}
        for _ in range(20):
            shared = {"a": shared, "b": shared}
        torch.save({"model": shared, "config": shared}, tmp_path / "m.pt")
        assert "no weights" in elsewhere(tmp_path / "m.pt")
        wide = {str(i): {"y": i} for i in range(1000)}
        torch.save({str(i): wide for i in range(1000)}, tmp_path / "m.pt")
        assert "no weights" in elsewhere(tmp_path / "m.pt")
        deep: Any = {"a.b": torch.ones(2)}
        for _ in range(30):
            deep = {"state_dict": deep}
        torch.save(deep, tmp_path / "m.pt")
        assert "no weights" in elsewhere(tmp_path / "m.pt")

    @pytest.mark.parametrize(
        "name",
        [
            "x" * 10**6,
            "lora_A." * 10**5,
            "layers.9." * 10**5,
            ".".join("ab" * 10**5),
            "\n\n." * 10**5,
            "module." * 10**5,
        ],
        ids=["long", "lora", "layers", "parts", "lines", "module"],
    )
    def test_names_of_a_million_letters(self, name: str, tmp_path: Path):
        """Neither slow, nor repeated in the message."""
        mark = "backbone.classifier.feature_norm.weight"
        for weights in ({f"{name}.weight": torch.ones(2)}, {f"{name}.{mark}": torch.ones(2), "a.b": torch.ones(2)}):
            torch.save({"model": weights}, tmp_path / "m.pt")
            assert "\n" not in elsewhere(tmp_path / "m.pt")

    def test_tensors_twice_under_two_prefixes(self, base: Base, tmp_path: Path):
        weights = state_dict(base)
        name = "classifier.feature_norm.weight"
        for twin in (f"module.{name}", f"classifier._orig_mod.{name.removeprefix('classifier.')}"):
            torch.save(weights | {twin: torch.ones(tiny.WIDTH)}, tmp_path / "m.pt")
            assert "twice, with two prefixes" in elsewhere(tmp_path / "m.pt")

    @pytest.mark.parametrize(
        ("length", "rest"),
        [
            (1 << 39, b"{}"),
            (100 << 20, b"{"),
            (8, b"{      }"),
            (2, b"{}"),
            (4, b"{[}]"),
            (10, b'{"a":NaN} '),
            (9, b'{"a":1e9}'),
            (20, b'{"a":{"dtype":"F32"}'),
            (63, b'{"a.b":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4]}} 0000'),
            (67, b'{"a.b":{"dtype":"F32","shape":[-1],"data_offsets":[0,99999999999]}}'),
            (68, b'{"a.b":{"dtype":"F4","shape":[1],"data_offsets":[0,4]},"a.b":{"x":1}}'),
            (61, b'{"__metadata__":{"lora_alpha":"' + b"9" * 28 + b'"}}'),
        ],
    )  # fmt: skip
    def test_headers_of_safetensors(self, length: int, rest: bytes, tmp_path: Path):
        """Huge, torn, of another kind, about numbers that are not there."""
        (tmp_path / "m.safetensors").write_bytes(length.to_bytes(8, "little") + rest)
        elsewhere(tmp_path / "m.safetensors")

    def test_settings_without_end(self, base: Base, tmp_path: Path):
        """Whatever a file calls its scale, it is a number in range, or the sentence is short."""
        weights = state_dict(base)
        given = {"base": base, "preprocess": parse_preprocessing(f"fundus-square-1@{tiny.SIZE}")}
        for config in (
            {"lora_alpha": "x" * 10**6},
            {"x" * 10**6: {"lora_alpha": -1}},
            {"lora_alpha": 1 << 63},
            {"lora": {"alpha": [0] * 1000}},
            {"lora_r": 1e300},
            {"class_names": ["x" * 10**6] * 5},
            {"base_model": "x" * 10**6, "class_names": ["\n"] * 5},
        ):
            torch.save({"model": weights, "config": config}, tmp_path / "m.pt")
            said = refused(tmp_path / "m.pt", lambda file: load_any_checkpoint(file, **given))  # type: ignore[arg-type]
            assert "\n" not in said

    def test_a_namespace_of_argparse_runs_nothing(self, tmp_path: Path):
        """It is read as its values, whatever the file says to set."""
        pickled = called("argparse", "Namespace", b")") + b"}" + text("__class__") + b"K\x01sb"
        assert "no weights" in elsewhere(with_pickle(tmp_path / "m.pt", b"}" + text("args") + pickled + b"s"))
        torch.save({"args": argparse.Namespace(update=3, items=4)}, tmp_path / "m.pt")
        assert "no weights" in elsewhere(tmp_path / "m.pt")


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


@pytest.mark.parametrize(("provider", "many"), [("cpu", 1), ("cuda:NVIDIA H200", 6)])
def test_large_images_are_graded_a_few_at_a_time(provider: str, many: int, tmp_path: Path):
    """A model of 10 KB can ask for images of any size."""
    tiny.write_eyes(tmp_path / "eyes", train=1, val=1, test=1)
    grader = load_grader(tiny.write_onnx(tmp_path / "model"))
    taken = []

    class Large:
        preprocessing = parse_preprocessing("fundus-square-1@1024")
        fingerprint = None
        answer = grader.answer
        providers = (provider,)

        def outputs(self, batch: Any) -> Any:
            taken.append(len(batch))
            return grader.outputs(batch[:, :, : tiny.SIZE, : tiny.SIZE].copy())

    manifest = load_manifest(tmp_path / "eyes")
    large: Any = Large()
    size = score_module._batch_size(large, None)
    scored = score_module._all_shares(large, manifest, 0, lambda images: None, size)
    assert set(taken) == {many}, "the last one filled up"
    assert len(taken) == -(-len(manifest) // many)
    assert np.isfinite(scored.outputs).all()
    assert len(scored.outputs) == len(manifest)


@pytest.mark.parametrize("kind", ["uint16", "int32"])
def test_sixteen_bits_are_scaled_by_their_full_range(kind: str, tmp_path: Path):
    values = np.arange(1 << 16, dtype=kind).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "a.tif")
    found = np.asarray(images.read_image(tmp_path / "a.tif"))[:, :, 0]
    assert np.array_equal(found, np.round(values / 257).astype(np.uint8))


def test_a_pipe_is_no_image(tmp_path: Path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageUnreadable, match="it is not a file"):
        images.read_image(tmp_path / "a.png")
