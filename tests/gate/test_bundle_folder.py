"""A bundle in a guarded folder: its certificate opens the gate for its files, and nothing else gets in beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from drgate.bundle import write_sums, write_vectors
from drgate.gradability import RULE
from drgate.vectors import photographs
from tests.support.bundles import a_bundle
from tests.support.repositories import Repository, answer, answers, closing, copy_of, said

FOLDER = "models/release"


@pytest.fixture(scope="module")
def with_bundle(template: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository into which a certified bundle was copied, with all that stands beside its model."""
    folder = tmp_path_factory.mktemp("bundle")
    made = copy_of(template, folder / "repository")
    made.replace("drgate.toml", '"models/*.pth"', '"models/*.pth", "models/*/*.onnx"')
    place = made.root / FOLDER
    place.mkdir()
    grader = a_bundle(place, quality=RULE)
    files = {"model.onnx": (place / "model.onnx").read_bytes()}
    for file in sorted(place.iterdir()):
        files[file.name] = file.read_bytes()
    certified = {one.name for one in grader.files} | {"quality.json"}
    assert {*files} == certified
    assert certified > {"infer.py", "preprocessing.py", "gradability.py", "config.pbtxt"}
    write_vectors(place, grader)
    (place / "README.md").write_text("The card.\n")
    write_sums(place)
    evaluation, predictions = made.judge(files, table=answers(3))
    made.certify("certificates/release", evaluation, predictions)
    made.merge()
    return made


@pytest.fixture
def repository(with_bundle: Repository, tmp_path: Path) -> Repository:
    return copy_of(with_bundle, tmp_path / "repository")


def test_opens_the_gate(repository: Repository):
    """Model, programs, Triton's file, card, sums and vectors."""
    assert answer(repository).exit_code == 0, said(answer(repository))
    (repository.root / FOLDER / "SHA256SUMS").unlink()
    shutil.rmtree(repository.root / FOLDER / "vectors")
    assert answer(repository).exit_code == 0, said(answer(repository))


@pytest.mark.parametrize("name", ["infer.py", "preprocessing.py", "gradability.py", "config.pbtxt", "quality.json"])
def test_other_programs_close_it(repository: Repository, name: str):
    """They decide what somebody without drgate gets: changed or missing, the folder is not what was certified."""
    file = repository.root / FOLDER / name
    file.write_bytes(file.read_bytes() + b"\n")
    report = answer(repository)
    assert {*closing(report)} == {f"model:{FOLDER}/model.onnx:site-a:file {name}"}
    file.unlink()
    assert "is missing" in said(answer(repository))
    assert answer(repository).exit_code == 2


def other_outputs(data: bytes) -> bytes:
    """A vectors.json with many more numbers."""
    plain = json.loads(data)
    plain["vectors"][0]["outputs"] *= 100
    return json.dumps(plain, indent=2).encode() + b"\n"


ADDED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a module": ("net.py", lambda _: b"import torch\n"),
    "a module in vectors": ("vectors/net.py", lambda _: b"import torch\n"),
    "a model in vectors": ("vectors/model.onnx", lambda _: b"graph"),
    "a model called as the sums": ("SHA256SUMS", lambda _: b"\x08\x08:\x10graph"),
    "more behind the sums": ("SHA256SUMS", lambda data: data + b"\x00weights"),
    "sums without end": ("SHA256SUMS", lambda data: data * 100),
    "sums in another case": ("sha256sums", lambda data: data),
    "another photograph": ("vectors/small.png", lambda data: data + b"weights"),
    "a further photograph": ("vectors/more.png", lambda _: b"\x89PNG\r\n\x1a\n"),
    "more numbers": ("vectors/vectors.json", other_outputs),
    "a further key": ("vectors/vectors.json", lambda data: data.replace(b"{", b'{"weights": "AAAA",', 1)),
    "more behind the vectors": ("vectors/vectors.json", lambda data: data + b" " * 999),
    "vectors below vectors": ("vectors/vectors/small.png", lambda _: b"weights"),
    "sums of a folder without a model": ("sub/SHA256SUMS", lambda _: b"0" * 64 + b"  a\n"),
    "vectors of a folder without a model": ("sub/vectors/vectors.json", lambda _: b"{}"),
    "a pointer": (
        "vectors/vectors.json",
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 99\n",
    ),
}


@pytest.mark.parametrize("what", ADDED)
def test_nothing_hides_beside_it(repository: Repository, what: str):
    """Sums and vectors are allowed by what they hold, not by their names."""
    name, change = ADDED[what]
    file = repository.root / FOLDER / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(change(file.read_bytes() if file.is_file() else b""))
    assert f"model:{FOLDER}/{name}" in closing(answer(repository))
    assert answer(repository).exit_code == 2


def test_links_in_their_place_close_it(repository: Repository):
    """What is there at deployment is not what was looked at."""
    for name in ("SHA256SUMS", "vectors/small.png"):
        file = repository.root / FOLDER / name
        file.unlink()
        file.symlink_to("/opt/weights")
        assert f"model:{FOLDER}/{name}" in closing(answer(repository))


def test_photographs_behind_lfs(repository: Repository):
    """A pointer names the same bytes."""
    for name, digest in photographs().items():
        size = (repository.root / FOLDER / "vectors" / name).stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"
        repository.write(f"{FOLDER}/vectors/{name}", pointer)
    assert not any("vectors" in one for one in closing(answer(repository))), said(answer(repository))
