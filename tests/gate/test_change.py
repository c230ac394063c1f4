"""The files of a change: models as files, pointers and DVC files, and what is unguarded."""

from __future__ import annotations

import hashlib

import pytest

from tests.support.repositories import (
    RECENT,
    Repository,
    answer,
    answers,
    closing,
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
