"""ONNX files: every weight is listed wherever it is, and nothing of the exporter's machine is left in them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from drgate.errors import CheckpointError
from drgate.evaluation import Subject
from drgate.scale import GRADES
from drgate.vision import onnx_files, onnx_grader
from drgate.vision.graders import load_grader
from drgate.vision.onnx_files import copy_data, copy_model
from tests.support import tiny

ROOT = Path(__file__).parents[2]


def outside(name: str = "other.data", **facts: str) -> Any:
    """A tensor of four numbers in another file."""
    tensor = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": name} | facts).items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def sparse() -> Any:
    return onnx.SparseTensorProto(values=outside(), indices=numpy_helper.from_array(np.arange(4)), dims=[9])


def graph() -> Any:
    """A subgraph with such a tensor."""
    return helper.make_graph([], "inner", [], [], [outside()])


def in_node(**attributes: Any) -> Any:
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return node


def in_function(model: Any, node: Any) -> None:
    model.functions.append(helper.make_function("own", "F", [], ["c"], [node], []))


PLACES: dict[str, Callable[[Any], Any]] = {
    "initializer": lambda model: model.graph.initializer.append(outside()),
    "sparse initializer": lambda model: model.graph.sparse_initializer.append(sparse()),
    "indices": lambda model: model.graph.sparse_initializer.append(onnx.SparseTensorProto(indices=outside())),
    "constant": lambda model: model.graph.node.append(in_node(value=outside())),
    "sparse constant": lambda model: model.graph.node.append(in_node(sparse_value=sparse())),
    "list": lambda model: model.graph.node.append(in_node(values=[outside(), outside()])),
    "subgraph": lambda model: model.graph.node.append(in_node(body=graph())),
    "function": lambda model: in_function(model, in_node(value=outside())),
    "sparse in a function": lambda model: in_function(model, in_node(sparse_value=sparse())),
    "subgraph in a function": lambda model: in_function(model, in_node(body=graph())),
    "training": lambda model: model.training_info.add().initialization.initializer.append(outside()),
}


def copied(folder: Path) -> list[Subject]:
    """The facts of model.onnx, which lies beside a folder, and of its data, after they are copied there."""
    path = folder.with_name("model.onnx")
    file, model = copy_model(path, folder)
    return [file, *copy_data(path, folder, model)]


class TestExternalData:
    @pytest.mark.parametrize("place", PLACES)
    def test_is_found_in_every_place(self, place: str, tmp_path: Path):
        """A file that a tensor names belongs to the model; without that file there is no model."""
        model = tiny.onnx_model()
        PLACES[place](model)
        (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
        (tmp_path / "private").mkdir()
        with pytest.raises(CheckpointError, match="'other\\.data', which is not a file in the same folder"):
            copied(tmp_path / "private")
        (tmp_path / "other.data").write_bytes(bytes(16))
        (tmp_path / "again").mkdir()
        found = copied(tmp_path / "again")
        assert [(file.name, file.role) for file in found] == [("model.onnx", "model"), ("other.data", "data")]

    @pytest.mark.parametrize(
        "name",
        [
            "../other.data",
            "/etc/hostname",
            "sub/other.data",
            ".",
            "",
            "model.onnx",
            "labels.json",
            "Labels.json",
            "operating_point.json",
            "model.yaml",
            "a\\b",
            "link",
            "..",
            "n" * 300,
        ],
    )
    def test_is_a_plain_name_beside_the_model(self, name: str, tmp_path: Path):
        """No folder, no absolute path, no link that leads elsewhere, no file with another role."""
        path = tiny.write_onnx(tmp_path / "model")
        (tmp_path / "other.data").write_bytes(bytes(16))
        (path.parent / "link").symlink_to(tmp_path / "other.data")
        model = onnx.load(path, load_external_data=False)
        model.graph.initializer.append(outside(name))
        path.write_bytes(model.SerializeToString())
        with pytest.raises(CheckpointError, match="which is not a file in the same folder"):
            load_grader(path)

    def test_links_of_a_download_cache_are_followed(self, tmp_path: Path):
        """There the model and its data are links to one folder of files that are named by their digests."""
        there = tiny.write_onnx(tmp_path / "blobs").parent
        (tmp_path / "snapshot").mkdir()
        for file in there.iterdir():
            (tmp_path / "snapshot" / file.name).symlink_to(file.rename(there / f"digest-of-{file.name}"))
        grader = load_grader(tmp_path / "snapshot" / "model.onnx")
        assert [file.name for file in grader.files] == [
            "model.onnx",
            "model.onnx.data",
            "preprocess.json",
            "labels.json",
        ]

    @pytest.mark.parametrize(
        ("facts", "words"),
        [
            ({"offset": "-1"}, "not a number of bytes"),
            ({"offset": "1e3"}, "not a number of bytes"),
            ({"length": "9" * 5000}, "not a number of bytes"),
            ({"offset": "4", "length": "16"}, "has 16 bytes, but model.onnx needs 20"),
            ({"prepacked_0": "x"}, "does not say plainly"),
        ],
    )
    def test_offset_and_length_are_sane(self, facts: dict[str, str], words: str, tmp_path: Path):
        path = tiny.write_onnx(tmp_path)
        (tmp_path / "other.data").write_bytes(bytes(16))
        model = onnx.load(path, load_external_data=False)
        model.graph.initializer.append(outside(**facts))
        path.write_bytes(model.SerializeToString())
        with pytest.raises(CheckpointError, match=words):
            load_grader(path)

    def test_a_place_is_stated_once_and_for_data_that_is_outside(self, tmp_path: Path):
        """Two readers must not find two places: none, two, or one of a tensor that is inside are refused."""
        path = tiny.write_onnx(tmp_path)
        for name in ("other.data", "third.data"):
            (tmp_path / name).write_bytes(bytes(16))
        without, twice, inside = outside(), outside(), outside()
        del without.external_data[:]
        twice.external_data.add(key="location", value="third.data")
        inside.data_location = TensorProto.DEFAULT
        for tensor in (without, twice, inside):
            model = onnx.load(path, load_external_data=False)
            model.graph.initializer.append(tensor)
            (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
            with pytest.raises(CheckpointError, match="does not say plainly where they are"):
                load_grader(tmp_path / "changed.onnx")

    def test_names_are_distinct_and_readable(self, tmp_path: Path):
        """Not the preprocessing in other letters, on some machines the same file; not bytes that are no text."""
        path = tiny.write_onnx(tmp_path)
        (tmp_path / "Preprocess.json").write_bytes(bytes(16))
        model = onnx.load(path, load_external_data=False)
        model.graph.initializer.append(outside("Preprocess.json"))
        before = path.read_bytes()
        path.write_bytes(model.SerializeToString())
        with pytest.raises(CheckpointError, match=r"refers to weights in 'Preprocess\.json'"):
            load_grader(path)
        (tmp_path / "Other.data").write_bytes(bytes(16))
        (tmp_path / "other.data").write_bytes(bytes(16))
        del model.graph.initializer[-1]
        model.graph.initializer.extend([outside("Other.data"), outside("other.data")])
        path.write_bytes(model.SerializeToString())
        with pytest.raises(CheckpointError, match="one file where the case of letters does not count"):
            load_grader(path)
        path.write_bytes(before.replace(b"model.onnx.data", b"model.onnx.dat\xff"))
        with pytest.raises(CheckpointError, match="other characters than UTF-8"):
            load_grader(path)

    def test_files_have_a_limit_together(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A thousand links to one file of holes are terabytes to copy."""
        path = tiny.write_onnx(tmp_path)
        model = onnx.load(path, load_external_data=False)
        (tmp_path / "large").write_bytes(bytes(1 << 20))
        for i in range(9):
            (tmp_path / f"link{i}").symlink_to("large")
            model.graph.initializer.append(outside(f"link{i}"))
        path.write_bytes(model.SerializeToString())
        monkeypatch.setattr(onnx_files, "MAX_BYTES", 8 << 20)
        with pytest.raises(CheckpointError, match="is larger than"):
            load_grader(path)

    @pytest.mark.parametrize("where", ["model", "tensor"])
    def test_unknown_fields_are_refused(self, where: str, tmp_path: Path):
        """A newer reader could find weights in a field that this one passes over."""
        path = tiny.write_onnx(tmp_path)
        model = onnx.load(path, load_external_data=False)
        if where == "tensor":
            model.graph.initializer[0].MergeFromString(b"\xfa\x3e\x02hi")
        path.write_bytes(model.SerializeToString() + (b"\xfa\x3e\x02hi" if where == "model" else b""))
        with pytest.raises(CheckpointError, match="fields that this version of onnx does not know"):
            load_grader(path)


def endless(*counted: Any) -> Any:
    """A loop of 2^62 rounds, or of as many as these nodes make of `many`."""
    scalar = helper.make_tensor_value_info
    rounds = [scalar("round", TensorProto.INT64, []), scalar("go", TensorProto.BOOL, [])]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["x", "x"], ["next"])],
        "body",
        [*rounds, scalar("x", TensorProto.FLOAT, None)],
        [scalar("on", TensorProto.BOOL, []), scalar("next", TensorProto.FLOAT, None)],
    )
    return tiny.onnx_model(
        [*counted, helper.make_node("Loop", ["count" if counted else "many", "yes", "first"], ["logits"], body=body)],
        [numpy_helper.from_array(np.int64(1 << 62), "many"), numpy_helper.from_array(np.bool_(True), "yes")],
        "first",
    )


def enormous() -> Any:
    """A constant of 64 GB, which is made while the model is loaded."""
    return tiny.onnx_model(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
            helper.make_node("Add", ["first", "sum"], ["logits"]),
        ],
        [numpy_helper.from_array(np.array([1 << 14, 1 << 20]), "shape")],
        "first",
    )


class TestHostileModels:
    def test_a_file_of_nothing_but_fields_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """Two bytes are an empty node, and 150 in memory: they are counted before objects are made of them."""
        monkeypatch.setattr(onnx_files, "MAX_FIELDS", 50_000)
        model = tiny.onnx_model()
        for _ in range(60_000):
            model.graph.node.add()
        path = tiny.write_onnx(tmp_path)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(CheckpointError, match="more than 50000 fields"):
            load_grader(path)

    @pytest.mark.parametrize("data", [b"", b"\x0b" * 10, b"\x0a\xff", b"\xff" * 20, b"\x3a\x7f\x0a"])
    def test_a_file_that_is_no_protobuf_is_refused(self, data: bytes, tmp_path: Path):
        path = tiny.write_onnx(tmp_path)
        path.write_bytes(data)
        with pytest.raises(
            CheckpointError, match="is not an ONNX model" if data else "is empty; expected an ONNX model"
        ):
            load_grader(path)

    def test_packed_numbers_have_a_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """One byte of them is eight in memory: 300 MB of holes took 5 GB."""
        monkeypatch.setattr(onnx_files, "MAX_PACKED", 1 << 20)
        model = tiny.onnx_model()
        model.graph.initializer.append(TensorProto(name="z", data_type=TensorProto.INT64, int64_data=[0] * (2 << 20)))
        path = tiny.write_onnx(tmp_path)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(CheckpointError, match="more than 1 MB of packed numbers"):
            load_grader(path)

    def test_a_loop_that_the_trial_does_not_start_is_stopped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(onnx_grader, "SLOWER", 0)
        monkeypatch.setattr(onnx_grader, "TRIAL_SECONDS", 2)
        model = endless(
            helper.make_node("ReduceMax", ["pixel_values"], ["brightest"], keepdims=0),
            helper.make_node("Cast", ["brightest"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Mul", ["whole", "many"], ["count"]),
        )
        grader = load_grader(tiny.write_onnx(tmp_path, model))
        with pytest.raises(CheckpointError, match="cannot grade 1 images here \\(it took more than 2 seconds"):
            grader.outputs(np.ones((1, 3, tiny.SIZE, tiny.SIZE), np.float32))

    def test_a_loop_without_end_is_stopped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(onnx_files, "TRIAL_SECONDS", 2)
        path = tiny.write_onnx(tmp_path, endless())
        start = time.monotonic()
        with pytest.raises(CheckpointError, match="did not grade two images within 2 seconds"):
            load_grader(path)
        assert time.monotonic() - start < 30

    @pytest.mark.parametrize(
        "node",
        [
            helper.make_node("RandomNormalLike", ["first"], ["logits"]),
            helper.make_node("Bernoulli", ["first"], ["logits"]),
            helper.make_node("Dropout", ["first", "", "yes"], ["logits"]),
        ],
        ids=lambda node: node.op_type,
    )
    def test_a_model_that_draws_random_numbers_is_refused(self, node: Any, tmp_path: Path):
        """It would be certified for answers that it does not give again."""
        path = tiny.write_onnx(tmp_path, tiny.onnx_model([node], answer="first"))
        with pytest.raises(CheckpointError, match=rf"draws random numbers \({node.op_type}\)"):
            load_grader(path)

    def test_a_constant_of_any_shape_is_stopped(self, tmp_path: Path):
        path = tiny.write_onnx(tmp_path, enormous())
        with pytest.raises(CheckpointError, match="Failed to allocate memory"):
            load_grader(path)

    @pytest.mark.parametrize("size", ["1e9", "1000000000", "-1", "9" * 5000, '"28"', "true"])
    def test_an_image_of_any_size_is_refused(self, size: str, tmp_path: Path):
        path = tiny.write_onnx(tmp_path)
        recipe = json.dumps(tiny.recipe(size=0)).replace('"size": 0', f'"size": {size}')
        (tmp_path / "preprocess.json").write_text(recipe)
        with pytest.raises(CheckpointError) as refused:
            load_grader(path)
        assert len(str(refused.value)) < 500

    def test_files_beside_it_have_a_limit(self, tmp_path: Path):
        path = tiny.write_onnx(tmp_path)
        (tmp_path / "labels.json").write_text(" " * 70_000 + str(list(GRADES)))
        with pytest.raises(CheckpointError, match=r"labels\.json is larger than 64 KB"):
            load_grader(path)


EXPORT = """
import sys
from pathlib import Path
from drgate.export import write_onnx
from drgate.vision.checkpoint import load_checkpoint
from drgate.vision.network import merge_lora
write_onnx(merge_lora(load_checkpoint(Path(sys.argv[1])).build()).eval(), 28, Path(sys.argv[2]))
"""


class TestExportedFile:
    def test_two_environments_give_the_same_bytes_without_traces(self, tmp_path: Path):
        """From two folders, by processes with other hash seeds and instructions: no path, no trace, no difference."""
        from drgate.vision.checkpoint import save_checkpoint

        base = tiny.tiny_base(tmp_path / "base")
        files = []
        places = (("1", "avx2", tmp_path / "here"), ("2", "default", tmp_path / "elsewhere" / "below"))
        for seed, processor, folder in places:
            folder.mkdir(parents=True)
            save_checkpoint(folder / "m.pth", tiny.checkpoint_of(tiny.random_model(base), base))
            subprocess.run(
                [sys.executable, "-c", EXPORT, "m.pth", "model.onnx"],
                cwd=folder,
                env={
                    **os.environ,
                    "PYTHONHASHSEED": seed,
                    "PYTHONPATH": str(ROOT),
                    "ATEN_CPU_CAPABILITY": processor,
                    "MKL_CBWR": "COMPATIBLE" if seed == "2" else "AUTO",
                },
                check=True,
                capture_output=True,
            )
            files.append({file.name: file.read_bytes() for file in folder.glob("model.onnx*")})
        assert files[0] == files[1]
        data = files[0]["model.onnx"]
        traces = re.findall(rb"[^\x00-\x1f]*(?:\.py|site-packages|/usr/|/tmp/|File \"|torch[.\d])[^\x00-\x1f]*", data)
        assert traces == []
        assert not any(os.fsencode(part) in data for part in (tmp_path, ROOT, sys.prefix) if len(str(part)) > 1)
        for message in onnx_files.messages(onnx.load_from_string(data)):
            known = message.DESCRIPTOR.fields_by_name
            for name in {"doc_string", "metadata_props", "producer_name", "producer_version"} & set(known):
                assert not getattr(message, name), name
