"""What looks like a model: by its name, or by how its content begins."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from drgate.gate.sniff import HEAD, SMALLEST, kind_of, loads_alone, names_model


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            "a.pth",
            "A.PTH",
            "a.pth ",
            "a.pth. .",
            "a.p\u200bth",
            "a.pth\u2060",
            "a.\uff50\uff54\uff48",
            "a.\u0440th",
            "a.onn\u0445",
            "a.p\u0301th",
            "pytorch_model.bin",
            "pytorch_model-00001-of-00002.bin",
            "model-00001-of-00002.safetensors",
            "a.ckpt.data-00000-of-00001",
            "a.torchscript",
            "a.hdf5",
            "saved_model.pb",
            "a.onnx.data",
        ],
    )
    def test_of_models(self, name):
        """In any case, with what nobody sees or a file system leaves out, in letters that look the same."""
        assert names_model(f"any/{name}")
        assert names_model(f"any/{name}", 0)

    @pytest.mark.parametrize("name", ["a.bin", "a.pb", "a.zip", "a.tar.gz", "a.7z ", "A.Npz"])
    def test_that_count_for_large_files(self, name):
        """A fixture of a test is no model."""
        assert names_model(name, SMALLEST)
        assert not names_model(name, SMALLEST - 1)
        assert not names_model(name)

    @pytest.mark.parametrize("name", ["a.py", "pth", "a.pth.md", "t-00000-of-00001.parquet", "a.png", "é.csv"])
    def test_of_other_files(self, name):
        """Whatever their size."""
        assert not names_model(name, 1 << 40)

    def test_of_files_that_are_loaded_by_themselves(self):
        """And those that are parts of another."""
        alone = ("release.pth", "a.PT", "a.ckpt ", "a.onnx", "model.safetensors", "adapter_model.safetensors")
        assert all(map(loads_alone, alone))
        parts = ("a.onnx.data", "a.onnx_data", "model-00001-of-00002.safetensors", "preprocess.json", "weights.bin")
        assert not any(map(loads_alone, parts))


def large(beginning: bytes = b"") -> bytes:
    return beginning + np.random.default_rng(0).bytes(SMALLEST)


def archive(kind: str) -> bytes:
    """An archive of one large file."""
    content, made = large(), io.BytesIO()
    if kind == "ZIP":
        with zipfile.ZipFile(made, "w") as opened:
            opened.writestr("a/data.pkl", content)
    elif kind == "tar":
        with tarfile.open(fileobj=made, mode="w") as opened:
            entry = tarfile.TarInfo("a")
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
    else:
        return gzip.compress(content, compresslevel=1)
    return made.getvalue()


def varint(number: int) -> bytes:
    """A number as in protobuf."""
    parts = b""
    while number > 127:
        parts += bytes([number & 127 | 128])
        number >>= 7
    return parts + bytes([number])


def onnx(first: bytes) -> bytes:
    """A model whose graph holds one large tensor, after other fields."""
    graph = b"\x2a" + varint(SMALLEST) + bytes(SMALLEST)
    return first + b"\x3a" + varint(len(graph)) + graph


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [SMALLEST], "data_offsets": [0, SMALLEST]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(SMALLEST)


CONTENT = {
    "ZIP": [lambda: archive("ZIP")],
    "tar": [lambda: archive("tar")],
    "gzip": [lambda: archive("gzip")],
    "HDF5": [lambda: large(b"\x89HDF\r\n\x1a\n"), lambda: large(bytes(512) + b"\x89HDF\r\n\x1a\n")],
    "GGUF": [lambda: large(b"GGUF")],
    "TFLite": [lambda: large(b"\x1c\0\0\0TFL3")],
    "ONNX Runtime": [lambda: large(b"\x1c\0\0\0ORTM")],
    "safetensors": [safetensors],
    "pickle": [lambda: pickle.dumps(large(), protocol=2), lambda: pickle.dumps({"a": large()}, protocol=5)],
    "protobuf": [
        lambda: onnx(b"\x08\x0a\x12\x07pytorch"),
        lambda: onnx(b""),
        lambda: onnx(b"\x42\x04\x0a\x00\x10\x11\x08\x09"),
    ],
}


class TestContent:
    @pytest.mark.parametrize("kind", CONTENT)
    def test_of_models(self, kind):
        """Whatever their name, if they are large."""
        for make in CONTENT[kind]:
            content = make()
            assert kind_of(content[:HEAD], len(content)) == kind
            assert kind_of(content[:HEAD], SMALLEST - 1) == ""

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
            b"\xff\xd8\xff\xe0\0\x10JFIF",
            b"%PDF-1.7\n",
            b"PAR1\x15\x04",
            b'"image","p_0"\n' * 500,
            b"2026-01-31,a,b\n" * 500,
            b"BM\x36\0\0\0\0\0",
            b"II*\0",
            b"# Notes\n" * 900,
            b'{"a": 1}' * 900,
            b"\0\0\0\x18ftypmp42",
            b"\x93NUMPY\x01\0",
            b"(" * 5000,
        ],
    )
    def test_of_other_files(self, content):
        """Photographs, documents, tables and texts of any size."""
        noise = np.random.default_rng(1).bytes(HEAD) if content[:1] not in (b'"', b"2", b"#", b"{", b"(") else b""
        assert kind_of((content + noise)[:HEAD], 1 << 30) == ""

    def test_of_real_models(self):
        """As the libraries write them, where they are installed."""
        onnx = pytest.importorskip("onnx")
        torch = pytest.importorskip("torch")
        weights = np.zeros((1200, 300), "float32")
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", 1, [1, 1200])],
            [onnx.helper.make_tensor_value_info("y", 1, [1, 300])],
            [onnx.numpy_helper.from_array(weights, "w")],
        )
        made = onnx.helper.make_model(graph).SerializeToString()
        assert kind_of(made[:HEAD], len(made)) == "protobuf"
        for new, kind in ((True, "ZIP"), (False, "pickle")):
            saved = io.BytesIO()
            torch.save({"w": torch.from_numpy(weights)}, saved, _use_new_zipfile_serialization=new)
            assert kind_of(saved.getvalue()[:HEAD], len(saved.getvalue())) == kind
