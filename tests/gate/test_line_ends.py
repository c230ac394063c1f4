"""Files whose line ends Git, DVC or an editor changed: named as that, with what prevents it, and never as forged."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from drgate.certificate.keys import generate_key, load_private_key
from drgate.certificate.scored import parse_scored, sign_scored
from drgate.certificate.statement import read_certificate
from drgate.errors import CertificateError
from drgate.gate.repository import Content, open_repository
from drgate.line_ends import read_as_written
from tests.support.repositories import (
    RECENT,
    Repository,
    answer,
    answers,
    closing,
    complete,
    copy_of,
    model_facts,
    said,
    scored,
    waive,
)

SAVED: dict[str, Callable[[bytes], bytes]] = {
    "crlf": lambda data: data.replace(b"\n", b"\r\n") + b"\r\n" * (b"\n" not in data),
    "cr": lambda data: data.replace(b"\n", b"\r") + b"\r" * (b"\n" not in data),
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "notepad": lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"),
    "powershell": lambda data: data.decode().replace("\n", "\r\n").encode("utf-16"),
    "last line": lambda data: data[:-1] if data.endswith(b"\n") else data + b"\n",
}
NAMED = "differs from the original only in the ends of its lines or other white space"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n"


def certificate_of(repository: Repository) -> Path:
    (found,) = (repository.root / "certificates").rglob("*.certificate.json")
    return found


class TestCertificate:
    @pytest.mark.parametrize("how", [*SAVED, "formatted"])
    def test_is_named_as_changed_by_a_program(self, repository, how):
        """The gate is closed, because these are not the bytes that were signed, but nobody is accused."""
        path = certificate_of(repository)
        data = path.read_bytes()
        save = SAVED.get(how, lambda data: json.dumps(json.loads(data), indent=2).encode() + b"\n")
        path.write_bytes(save(data))
        report = answer(repository)
        assert closing(report) == {"model:models/dr.pth:site-a:certificate": "NOT_ASSESSED"}
        assert NAMED in said(report)
        assert "-text for its folder in .gitattributes" in said(report)
        assert not re.search("tamper|forged|do not rely", said(report), re.IGNORECASE)
        with pytest.raises(CertificateError, match=f"{NAMED}|is text in UTF-16"):
            read_certificate(path)

    def test_that_was_changed_is_not_excused(self, repository):
        """Other line ends besides do not make it the original."""
        path = certificate_of(repository)
        path.write_bytes(path.read_bytes().replace(b'"sig":"ME', b'"sig":"MF') + b"\r\n")
        assert NAMED not in said(answer(repository))

    def test_of_a_scorer_and_a_waiver(self, repository, tmp_path):
        """Whatever else is signed."""
        key = load_private_key(generate_key(tmp_path / "scoring", None)[0])
        signed = sign_scored(complete(scored(answers(1), model_facts({"dr.pth": b"x"}))), key, RECENT)
        with pytest.raises(CertificateError, match=NAMED):
            read_as_written(parse_scored, SAVED["crlf"](signed.envelope.to_bytes()), "predictions.scored.json")
        repository.replace("drgate.toml", "= 365", "= 366")
        waive(repository, answer(repository), "policy:max_age_days")
        assert answer(repository).exit_code == 0
        (waiver,) = (repository.root / "waivers").iterdir()
        waiver.write_bytes(SAVED["crlf"](waiver.read_bytes()))
        report = answer(repository)
        assert closing(report) == {"policy:max_age_days": "FAIL"}
        assert f"Not used as a waiver: waivers/{waiver.name} {NAMED}" in said(report)


class TestKeysAndLooks:
    """Texts that are read line by line: Windows' line ends change nothing in them."""

    @pytest.mark.parametrize("how", SAVED)
    def test_key(self, repository, how):
        """Used, or named; never another key."""
        path = repository.root / "keys/clinical.pub"
        path.write_bytes(SAVED[how](path.read_bytes()))
        if how == "powershell":
            with pytest.raises(CertificateError, match=NAMED):
                answer(repository)
        else:
            assert closing(answer(repository)) == {}

    @pytest.mark.parametrize("how", SAVED)
    def test_looks(self, repository, how):
        """As long as the lines themselves are those of the base branch."""
        path = repository.root / "looks/site-a.jsonl"
        path.write_bytes(SAVED[how](path.read_bytes()))
        report = answer(repository)
        if how in ("crlf", "cr", "last line"):
            assert closing(report) == {}
        else:
            assert closing(report)["looks:site-a"] == "REFUSED"
            assert NAMED in said(report)


class TestPointer:
    @pytest.mark.parametrize("how", SAVED)
    def test_of_lfs(self, repository, how):
        """It is a pointer, and what happened to it is said; the lines of `git lfs track` prevent it."""
        data = (repository.root / "models/dr.pth").read_bytes()
        pointer = POINTER % (hashlib.sha256(data).hexdigest().encode(), len(data))
        repository.write("models/dr.pth", pointer)
        repository.write(".gitattributes", "models/*.pth filter=lfs diff=lfs merge=lfs -text\n")
        repository.git("config", "filter.lfs.clean", "cat")
        assert answer(repository).exit_code == 0
        repository.write("models/dr.pth", SAVED[how](pointer))
        report = answer(repository)
        assert closing(report)["model:models/dr.pth"] == "REFUSED"
        assert f"is a Git LFS pointer that {NAMED}" in said(report)
        assert "with filter=lfs diff=lfs merge=lfs -text for its folder in .gitattributes" in said(report)

    @pytest.mark.parametrize("how", ["crlf", "cr", "last line"])
    def test_of_dvc(self, repository, how):
        """YAML, which is read whatever its line ends."""
        repository.git("rm", "--quiet", "--cached", "models/dr.pth")
        pointer = b"outs:\n- md5: 0661d3ff0cffba93509035fc4459724a\n  size: 26\n  hash: md5\n  path: dr.pth\n"
        repository.write("models/dr.pth.dvc", SAVED[how](pointer))
        repository.git("add", "models/dr.pth.dvc")
        with open_repository(repository.root) as opened:
            tree = opened.staged()
            found = tree.tracked_by_dvc(tree.entries["models/dr.pth.dvc"])
        assert found == {"models/dr.pth": Content("dvc", 26, md5="0661d3ff0cffba93509035fc4459724a")}


class TestFileBesideAModel:
    @pytest.mark.parametrize("how", SAVED)
    def test_with_other_line_ends_is_named(self, repository, how):
        """labels.json is a subject of the certificate, byte for byte."""
        files = {"dr.onnx": b"graph", "labels.json": b'[\n"a"\n]\n'}
        repository.replace("drgate.toml", '"models/*.pth"', '"models/*.onnx"')
        repository.git("rm", "--quiet", "-r", "models", "certificates")
        evaluation, predictions = repository.judge(files)
        repository.certify("certificates/onnx", evaluation, predictions)
        for name, data in files.items():
            repository.write(f"models/{name}", data)
        repository.merge()
        assert answer(repository).exit_code == 0
        repository.write("models/labels.json", SAVED[how](files["labels.json"]))
        report = answer(repository)
        assert f"The file labels.json beside the model {NAMED}" in said(report)
        assert report.exit_code == 2


class TestDvc2:
    """DVC 2 writes no `hash:`, and its MD5 of a text is over the text with Unix line ends."""

    def pointer(self, name: str, data: bytes, *, old: bool) -> bytes:
        md5 = hashlib.md5(data.replace(b"\r\n", b"\n") if old else data).hexdigest()
        return b"outs:\n- md5: %s\n  size: %d\n%s  path: %s\n" % (
            md5.encode(),
            len(data),
            b"" if old else b"  hash: md5\n",
            name.encode(),
        )

    def test_text_hash_is_named_as_that(self, repository):
        """What is in the working tree is the right file, so fetching it would never help."""
        data = b"image,grade\r\na.jpg,1\r\n"
        repository.write("t.csv", data)
        repository.write("t.csv.dvc", self.pointer("t.csv", data, old=True))
        repository.stage()
        with open_repository(repository.root) as opened:
            tree = opened.staged()
            ((name, content),) = tree.tracked_by_dvc(tree.entries["t.csv.dvc"]).items()
            assert content.dvc2
            with pytest.raises(Exception, match=r"DVC 2 wrote t\.csv\.dvc .*dvc commit --force t\.csv\.dvc &&"):
                opened.fetched(name, content, limit=1 << 20)
            right = Content("dvc", len(data), md5=hashlib.md5(data).hexdigest())
            assert opened.fetched(name, right, limit=1 << 20) == data

    @pytest.mark.parametrize("old", [True, False])
    def test_model_without_a_certificate_says_so(self, repository, old):
        """Only where DVC 2 wrote the file, in the usual form or another."""
        data = b"graph\r\nof text"
        repository.replace("drgate.toml", "require_predictions", "allow_md5_pointers = true\nrequire_predictions")
        repository.merge()
        for text in (pointer := self.pointer("dr.pth", data, old=old), b"# by hand\n" + pointer):
            repository.git("rm", "--quiet", "--cached", "--ignore-unmatch", "models/dr.pth")
            (repository.root / "models/dr.pth").unlink(missing_ok=True)
            repository.write("models/dr.pth.dvc", text)
            report = answer(repository)
            assert report.exit_code == 3
            assert ("DVC 2 wrote models/dr.pth.dvc (it has no `hash: md5`)" in said(report)) is old

    def test_what_dvc_migrates_is_of_dvc_3(self, repository):
        """`dvc cache migrate` puts `hash: md5` after the path."""
        repository.write(
            "a.pth.dvc", b"outs:\n- md5: 0661d3ff0cffba93509035fc4459724a\n  size: 2\n  path: a.pth\n  hash: md5\n"
        )
        repository.stage()
        with open_repository(repository.root) as opened:
            tree = opened.staged()
            (content,) = tree.tracked_by_dvc(tree.entries["a.pth.dvc"]).values()
        assert not content.dvc2


def test_attributes_that_the_documentation_advises_are_accepted(template, tmp_path):
    """The block for .gitattributes in docs/gate.md closes nothing, with a model in Git or behind a pointer of LFS."""
    text = (Path(__file__).parents[2] / "docs/gate.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```gitattributes\n(.*?)```", text, re.DOTALL)
    repository = copy_of(template, tmp_path / "repository")
    lines = [line for line in block.splitlines() if "filter=lfs" not in line]
    assert len(lines) < len(block.splitlines()), "the lines for LFS are there too"
    repository.write(".gitattributes", "\n".join(lines) + "\n")
    assert closing(answer(repository)) == {}
    data = (repository.root / "models/dr.pth").read_bytes()
    repository.git("config", "filter.lfs.clean", "cat")
    repository.write(".gitattributes", block)
    repository.write("models/dr.pth", POINTER % (hashlib.sha256(data).hexdigest().encode(), len(data)))
    assert closing(answer(repository)) == {}
