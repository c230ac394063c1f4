"""The files of a change: models as files, pointers and DVC files, and what is unguarded."""

from __future__ import annotations

import hashlib
import posixpath
from dataclasses import replace
from typing import ClassVar

import pytest

from drgate import verify
from drgate.errors import RepositoryError, visible
from drgate.gate.gate import gate
from tests.support.repositories import (
    NOW,
    RECENT,
    Repository,
    answer,
    answers,
    closing,
    copy_of,
    model_facts,
    of,
    said,
)


class TestModelFiles:
    """Models as files, Git LFS pointers and DVC files: their digests are matched without the weights."""

    def swap(self, repository: Repository, path: str, content: str | bytes) -> None:
        (repository.root / "models/dr.pth").unlink()
        repository.write(path, content)

    def pointer(self, repository: Repository, content: bytes) -> str:
        repository.write(".gitattributes", "* text=auto\n*.pth filter=lfs diff=lfs merge=lfs -text\n")
        repository.git("config", "filter.lfs.clean", "cat")
        oid = hashlib.sha256(content).hexdigest()
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"

    def dvc(self, content: bytes, name: str = "dr.pth") -> str:
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return f"outs:\n- md5: {md5}\n  size: {len(content)}\n  hash: md5\n  path: {name}\n"

    def test_lfs_pointer(self, repository):
        """SHA-256 and size stand in the pointer."""
        self.swap(repository, "models/dr.pth", self.pointer(repository, b"weights of the first model"))
        assert answer(repository).exit_code == 0

    def test_lfs_pointer_of_another_model(self, repository):
        """Of another digest, and of another size under the same digest."""
        right = self.pointer(repository, b"weights of the first model")
        for wrong in (self.pointer(repository, b"other"), right.replace("size 26", "size 27")):
            self.swap(repository, "models/dr.pth", wrong)
            assert answer(repository).exit_code == 3

    @pytest.mark.parametrize("damage", ["size 26", "oid sha256:", "v1"])
    def test_lfs_pointer_that_is_damaged(self, repository, damage):
        """Neither a pointer nor a model."""
        self.swap(
            repository, "models/dr.pth", self.pointer(repository, b"weights of the first model").replace(damage, "x")
        )
        report = answer(repository)
        assert report.exit_code == 2
        assert "LFS pointer that cannot be read" in of(report, "identity").reason

    def test_dvc_file_where_the_policy_allows_md5(self, repository):
        """MD5 is all that DVC holds."""
        self.swap(repository, "models/dr.pth.dvc", self.dvc(b"weights of the first model"))
        repository.replace("drgate.toml", "require_predictions", "allow_md5_pointers = true\nrequire_predictions")
        repository.merge()
        assert answer(repository).exit_code == 0
        repository.write("models/dr.pth.dvc", self.dvc(b"other"))
        assert answer(repository).exit_code == 3

    def test_dvc_file_of_another_name_is_a_changed_model(self, repository):
        """A DVC file may be called anything; what it stands for is new all the same."""
        repository.replace("drgate.toml", "require_predictions", "allow_md5_pointers = true\nrequire_predictions")
        repository.merge()
        evaluation, predictions = repository.judge({"dr.pth": b"old"}, table=answers(2), time="2024-01-31T09:00:00Z")
        repository.certify("certificates/old", evaluation, predictions)
        self.swap(repository, "models/weights.dvc", self.dvc(b"old"))
        assert closing(answer(repository)) == {"model:models/dr.pth:site-a:age": "FAIL"}
        repository.merge()
        assert answer(repository).exit_code == 0

    @pytest.mark.parametrize(
        ("path", "content"),
        [
            ("models/x.dvc", "outs:\n- {md5: %s, size: 0, path: evil.pth}\n- {md5: %s.dir, size: 3, path: d}\n"),
            ("models/x.dvc", "outs:\n- {md5: %s, path: evil.pth}\n"),
            ("models/x.dvc", "outs:\n- {md5: %s.dir, size: 3, path: release}\n"),
            ("attic/net.bin.dvc", "wdir: ../models\nouts:\n- {md5: %s, size: 0, path: evil.pth}\n"),
        ],
    )
    def test_dvc_file_that_could_hide_a_model(self, repository, path, content):
        """Whatever it is called, unless the policy says that it is none."""
        repository.write(path, content.replace("%s", "d41d8cd98f00b204e9800998ecf8427e"))
        report = answer(repository)
        assert closing(report) == {f"model:{path.removesuffix('.dvc')}": "REFUSED"}
        repository.replace("drgate.toml", "require_pre", f'not_models = ["{path}"]\nrequire_pre')
        repository.merge()
        assert answer(repository).exit_code == 0

    def test_dvc_file_elsewhere_is_refused(self, repository):
        """MD5 is weaker, and asked for explicitly."""
        self.swap(repository, "models/dr.pth.dvc", self.dvc(b"weights of the first model"))
        report = answer(repository)
        assert report.exit_code == 2
        assert "MD5 alone" in of(report, "identity").reason

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("outs:\n- md5: d41d8cd98f00b204e9800998ecf8427e.dir\n  size: 3\n  path: dr.pth\n", "tracks a folder"),
            ("outs:\n- md5: d41d8cd98f00b204e9800998ecf8427e\n  size: 0\n  path: ../dr.pth\n", "beside it"),
            ("outs:\n- md5: 3\n  size: 0\n  path: dr.pth\n", "its md5 and its size"),
            ("outs: []\n", "lists no outs"),
            ("- outs\n", "lists no outs"),
            ("outs: &a [*a]\n", "anchors"),
            ("outs: " + "[" * 5000, "nested more than"),
            ("outs: {{\n", "not valid YAML"),
        ],
    )
    def test_dvc_file_that_is_none(self, repository, content, reason):
        """Folders, paths elsewhere, and YAML that would grow."""
        self.swap(repository, "models/dr.pth.dvc", content)
        report = answer(repository)
        assert report.exit_code == 2
        assert reason in of(report, "identity").reason

    def test_symbolic_link_is_not_followed(self, repository):
        """Out of the tree or within it."""
        for target in ("/etc/passwd", "../certificates", "dr.real"):
            (repository.root / "models/dr.pth").unlink()
            (repository.root / "models/dr.pth").symlink_to(target)
            report = answer(repository)
            assert report.exit_code == 2
            assert "symbolic link" in of(report, "identity").reason

    def test_model_outside_every_pattern(self, repository):
        """A file that looks like a model and that nobody guards."""
        repository.write("elsewhere/other.onnx", b"weights")
        repository.write("elsewhere/other.onnx.data", b"tensors")
        report = answer(repository)
        assert closing(report) == {"model:elsewhere/other.onnx": "REFUSED"}, "named once, not with its weights"
        assert report.exit_code == 2

    def test_what_is_no_model_is_declared(self, repository):
        """By the policy on the base branch; to declare it is a weakening."""
        repository.write("elsewhere/other.onnx", b"weights")
        repository.replace("drgate.toml", "require_pre", 'not_models = ["elsewhere/*"]\nrequire_pre')
        assert closing(answer(repository))["policy:not_models"] == "FAIL"
        repository.merge()
        assert answer(repository).exit_code == 0

    def test_pattern_without_a_file(self, repository):
        """Guards nothing, and would go on doing so."""
        repository.replace("drgate.toml", '"models/*.pth"', '"models/*.pth", "model/*.onnx"')
        report = answer(repository)
        assert closing(report) == {"policy:models": "REFUSED"}
        assert "'model/*.onnx'" in said(report)

    def test_all_files_of_a_model(self, repository):
        """External weights beside an ONNX graph: there, and the certified ones."""
        repository.replace("drgate.toml", '"models/*.pth"', '"models/*.pth", "models/*.onnx"')
        files = {"m.onnx": b"graph", "m.onnx.data": b"tensors"}
        evaluation, predictions = repository.judge(files, table=answers(3))
        repository.certify("certificates/onnx", evaluation, predictions)
        for name, content in files.items():
            repository.write(f"models/{name}", content)
        assert answer(repository).exit_code == 0
        repository.write("models/m.onnx_data", b"more tensors")
        assert closing(answer(repository)) == {"model:models/m.onnx_data": "REFUSED"}, "the certificate names no such"
        (repository.root / "models/m.onnx_data").unlink()
        # Another certificate vouches for nothing but its own model.
        boast = {"m.onnx": b"graph", "m.onnx.data": b"tensors", "evil.onnx.data": b"evil"}
        evaluation, predictions = repository.judge(boast, table=answers(4, right=0.4), time="2025-12-01T00:00:00Z")
        repository.certify("certificates/boast", evaluation, predictions)
        repository.write("models/evil.onnx.data", b"evil")
        assert closing(answer(repository)) == {"model:models/evil.onnx.data": "REFUSED"}
        (repository.root / "models/evil.onnx.data").unlink()
        repository.write("models/m.onnx.data", b"other tensors")
        report = answer(repository)
        assert report.exit_code == 2
        assert "is not the certified one" in of(report, "file m.onnx.data").reason
        (repository.root / "models/m.onnx.data").unlink()
        assert "is missing" in of(answer(repository), "file m.onnx.data").reason

    def test_external_weights_wait_for_their_graphs_certificate(self, repository):
        """Missing evidence is 3, not 2, and is named once, with the command that makes it."""
        repository.replace("drgate.toml", '"models/*.pth"', '"models/*.pth", "models/*.onnx"')
        repository.write("models/m.onnx", b"graph")
        for name in ("m.onnx.data", "m.onnx_data"):
            repository.write(f"models/{name}", b"tensors")
        report = answer(repository)
        assert closing(report) == {"model:models/m.onnx:site-a:certificate": "NOT_ASSESSED"}
        assert report.exit_code == 3
        command = (
            "drgate evaluate models/m.onnx --data TEST_SET --spec checklists/site-a.yaml --looks looks/site-a.jsonl"
        )
        assert command in of(report, "certificate").reason
        assert "drgate export" in of(report, "certificate").reason

    def test_changed_companion_is_a_changed_model(self, repository):
        """Other external weights under the same graph need a fresh certificate."""
        repository.replace("drgate.toml", '"models/*.pth"', '"models/*.pth", "models/*.onnx"')
        for data, time in ((b"tensors", RECENT), (b"newer", "2025-01-01T00:00:00Z")):
            files = {"m.onnx": b"graph", "m.onnx.data": data}
            evaluation, predictions = repository.judge(files, table=answers(3), time=time)
            repository.certify(f"certificates/{data.decode()}", evaluation, predictions)
            for name, content in files.items():
                repository.write(f"models/{name}", content)
            if data == b"tensors":
                repository.merge()
        assert closing(answer(repository)) == {"model:models/m.onnx:site-a:age": "FAIL"}


class TestGuardedFolder:
    """Every file in a folder of models is a model, a file of one, or declared to be none."""

    FILES: ClassVar = {"dr.onnx": b"graph", "dr.onnx.data": b"tensors", "preprocess.json": b"{}", "labels.json": b"[]"}

    @pytest.fixture
    def repository(self, repository: Repository) -> Repository:
        """With an ONNX model of several files beside the checkpoint, all certified."""
        repository.replace("drgate.toml", '"models/*.pth"', '"models/*.pth", "models/*.onnx"')
        evaluation, predictions = repository.judge(self.FILES, table=answers(3))
        repository.certify("certificates/onnx", evaluation, predictions)
        for name, content in self.FILES.items():
            repository.write(f"models/{name}", content)
        repository.merge()
        return repository

    @pytest.mark.parametrize(
        "name",
        [
            "pytorch_model-00001-of-00002.bin",
            "weights.pb",
            "net.torchscript",
            "dr.pth ",
            "dr.p\u200bth",
            "notes.txt",
            "config.json",
            "old/anything",
            "../Models/anything",
            "net.py",
            "README.ckpt",
            ".gitignore.h5",
        ],
    )
    def test_file_that_nothing_vouches_for(self, repository, name):
        """Whatever its name and content, unless the policy says that it is none."""
        repository.write(f"models/{name}", b"anything")
        report = answer(repository)
        path = visible(posixpath.normpath(f"models/{name}"))
        assert f"model:{path}" in closing(report)
        assert {one.group for one in report.findings if one.closes} == {path}
        assert report.exit_code == 2

    def test_files_of_the_model_and_those_that_are_there_by_name(self, repository):
        """A page about the folder, a licence, and Git's own."""
        for name in ("README.md", "Readme", "LICENSE", "LICENSE.txt", ".gitattributes", ".gitignore", "sub/.gitkeep"):
            repository.write(f"models/{name}", "a text\n")
        repository.write("models/.gitattributes", "* -text\n")
        repository.write("models/.gitignore", "*.tmp\n")
        assert answer(repository).exit_code == 0, said(answer(repository))

    def test_declared_to_be_none(self, repository):
        """By the base branch."""
        repository.replace("drgate.toml", "require_pre", 'not_models = ["models/*.py"]\nrequire_pre')
        repository.merge()
        repository.write("models/net.py", b"anything")
        assert answer(repository).exit_code == 0
        repository.write("models/net.txt", b"anything")
        assert closing(answer(repository)) == {"model:models/net.txt": "REFUSED"}

    def test_exchanged_or_missing_companion(self, repository):
        """Cut-offs, labels and preprocessing are part of the model."""
        repository.write("models/labels.json", b"[0]")
        assert "is not the certified one" in of(answer(repository), "file labels.json").reason
        (repository.root / "models/labels.json").unlink()
        assert "is missing" in of(answer(repository), "file labels.json").reason

    def test_companion_behind_a_dvc_file(self, repository):
        """MD5 is as weak for weights beside a graph as for the graph."""
        md5 = hashlib.md5(b"tensors", usedforsecurity=False).hexdigest()
        model = model_facts(self.FILES)
        files = (model.files[0], replace(model.files[1], md5=md5), *model.files[2:])
        evaluation, predictions = repository.judge(self.FILES, table=answers(3))
        repository.certify("certificates/onnx", replace(evaluation, model=replace(model, files=files)), predictions)
        (repository.root / "models/dr.onnx.data").unlink()
        repository.write("models/dr.onnx.data.dvc", f"outs:\n- {{md5: {md5}, size: 7, path: dr.onnx.data}}\n")
        assert closing(answer(repository)) == {"model:models/dr.onnx.data": "REFUSED"}
        repository.replace("drgate.toml", "require_predictions", "allow_md5_pointers = true\nrequire_predictions")
        repository.merge()
        assert answer(repository).exit_code == 0, said(answer(repository))

    def test_companion_of_a_model_that_went_away(self, repository):
        """Nothing vouches for it any more."""
        (repository.root / "models/dr.onnx").unlink()
        repository.replace("drgate.toml", ', "models/*.onnx"', "")
        repository.merge()
        assert {*closing(answer(repository))} == {f"model:models/{name}" for name in [*self.FILES][1:]}

    @pytest.mark.parametrize("name", ["release.pth", "release.onnx", "model.safetensors", "adapter_model.safetensors"])
    def test_part_that_is_a_model_of_its_own(self, repository, name):
        """A certificate that lists somebody's release as data says nothing about what it answers."""
        repository.replace("drgate.toml", '"models/*.onnx"', '"models/*.onnx", "models/*.safetensors", "models/*.txt"')
        repository.write("models/note.txt", b"anything")
        files = {"new.onnx": b"a graph", "note.txt": b"anything", name: b"never scored"}
        evaluation, predictions = repository.judge(files, table=answers(4))
        repository.certify("certificates/new", evaluation, predictions)
        for path, content in files.items():
            repository.write(f"models/{path}", content)
        if "safetensors" not in name:
            repository.write("models/filler.safetensors", b"x")  # a pattern needs a file
        report = answer(repository)
        assert closing(report)[f"model:models/{name}:site-a:certificate"] == "NOT_ASSESSED"
        assert of(report, "file note.txt").group == "models/new.onnx"

    def test_whole_folder_as_the_pattern(self, repository):
        """The model opens as such, its files as its files; another file does not."""
        repository.replace("drgate.toml", '"models/*.onnx"', '"models/**"')
        repository.merge()
        assert answer(repository).exit_code == 0, said(answer(repository))
        repository.write("models/extra.json", b"{}")
        assert closing(answer(repository)) == {"model:models/extra.json:site-a:certificate": "NOT_ASSESSED"}

    def test_what_waits_for_a_certificate_is_named_once(self, repository):
        """A changed model with new files beside it: the evidence is missing, which is 3 and not 2."""
        repository.write("models/dr.onnx", b"another graph")
        repository.write("models/cut_offs.json", b"{}")
        report = answer(repository)
        assert closing(report) == {"model:models/dr.onnx:site-a:certificate": "NOT_ASSESSED"}
        assert report.exit_code == 3


class TestElsewhere:
    """Outside the folders of models."""

    def test_large_content_that_begins_like_a_model(self, repository):
        """Whatever its name; the sentence says which format, and what to do."""
        content = b"PK\x03\x04" + bytes(1 << 20)
        repository.write("docs/figure.png", content)
        report = answer(repository)
        assert closing(report) == {"model:docs/figure.png": "REFUSED"}
        assert "format ZIP" in of(report, "unguarded").reason
        assert "not_models" in of(report, "unguarded").reason
        repository.replace("drgate.toml", "require_pre", 'not_models = ["docs/*.png"]\nrequire_pre')
        repository.merge()
        assert answer(repository).exit_code == 0

    def test_what_repositories_hold(self, repository):
        """Small archives and documents, large photographs and tables."""
        for name, content in {
            "docs/plan.docx": b"PK\x03\x04" + bytes(500_000),
            "tests/data.zip": b"PK\x03\x04" + bytes(5000),
            "docs/eye.png": b"\x89PNG\r\n\x1a\n" + bytes(2 << 20),
            "data/answers.csv": b"a,b\n" * 500_000,
            "data/train-00000-of-00001.parquet": b"PAR1" + bytes(2 << 20),
            "tests/fixture.bin": bytes(100),
            "src/net.py": b"import torch\n",
        }.items():
            repository.write(name, content)
        assert answer(repository).exit_code == 0, said(answer(repository))

    def test_large_pointer_by_its_name(self, repository):
        """Of a file behind Git LFS only the name and the size are there."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize %d\n"
        repository.write("data/a.bin", pointer % 5000)
        assert answer(repository).exit_code == 0
        repository.write("data/a.bin", pointer % (50 << 20))
        assert closing(answer(repository)) == {"model:data/a.bin": "REFUSED"}

    @pytest.mark.parametrize(
        ("path", "target"),
        [
            ("models/latest", "dr.pth"),
            ("models", "elsewhere"),
            ("deploy/current", "../models/dr.pth"),
            ("deploy/net.onnx", "anything"),
            ("deploy/net", "/opt/release.PTH "),
            ("models/config.json", "/etc/config.json"),
        ],
    )
    def test_link_to_a_model(self, repository, path, target):
        """Or in the place of one: what is there is not what was certified."""
        if path == "models":
            (repository.root / "models").rename(repository.root / "elsewhere")
            repository.replace("drgate.toml", '"models/*.pth"', '"models/*.pth", "elsewhere/*.pth"')
            repository.merge()
        link = repository.root / path
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target)
        report = answer(repository)
        assert f"model:{path}" in closing(report) or path == "models"
        assert report.exit_code == 2

    def test_link_to_anything_else(self, repository):
        """Is nobody's business."""
        (repository.root / "latest").symlink_to("checklists/site-a.yaml")
        (repository.root / "shared").symlink_to("/opt/shared")
        (repository.root / "folder").symlink_to("models")
        assert answer(repository).exit_code == 0, said(answer(repository))

    def test_submodule_that_could_hold_a_model(self, repository):
        """In a folder of models, in its place, or where a pattern reaches everywhere; else it is not in question."""
        commit = repository.git("rev-parse", "HEAD").strip()

        def closes(path: str) -> bool:
            repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
            found = closing(gate(repository.root, base_ref="main", now=NOW))
            repository.git("update-index", "--force-remove", path)
            return found == {f"model:{path}": "REFUSED"}

        repository.stage()
        assert closes("models/vendor")
        assert closes("weights.pth")
        assert not closes("vendor")
        repository.replace("drgate.toml", '"models/*.pth"', '"**/*.pth"')
        repository.merge()
        assert closes("vendor")


class TestLimits:
    """Whoever proposes a change chooses how many files it has, and how large."""

    def test_too_many_guarded_files(self, repository):
        """A hundred are enough for anybody; one blob under many names is many."""
        for i in range(101):
            repository.write(f"models/{i}.pth", b"weights of the first model")
        with pytest.raises(RepositoryError, match="More than 100 files match the policy's models"):
            answer(repository)

    def test_too_many_files_that_look_like_models(self, repository):
        """The report would name every one of them."""
        for i in range(1001):
            repository.write(f"elsewhere/{i}.pth", b"")
        with pytest.raises(RepositoryError, match="look like models"):
            answer(repository)

    def test_one_blob_under_many_names_is_judged_once(self, demanding, tmp_path, monkeypatch):
        """Read, hashed and recomputed once."""
        repository = copy_of(demanding, tmp_path / "repository")
        content = b"weights of the first model"
        for i in range(40):
            repository.write(f"models/{i}.pth", content)
        (table,) = (repository.root / "certificates").rglob("predictions.parquet")
        for i in range(40):
            repository.write(f"certificates/{i}.parquet", table.read_bytes())
        asked, real = [], verify.verify

        def counted(*given: object) -> object:
            asked.append(given)
            return real(*given)

        monkeypatch.setattr(verify, "verify", counted)
        report = answer(repository)
        assert report.exit_code == 0
        assert len(report.models) == 41
        assert len(asked) == 1
