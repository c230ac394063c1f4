"""What a checkout, an archive, Git LFS or DVC puts in the place of a certified file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from drgate.errors import RepositoryError, visible
from tests.support.repositories import Repository, answer, answers, closing, copy_of, of, said, waive

MODEL = b"weights of the first model\n$Id: 1 $ $Format:%H$\n"
BINARY = MODEL + b"\0\xff"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n"


@pytest.fixture(scope="module")
def made(template: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with one model of binary content that has a file of text beside it, both certified."""
    repository = copy_of(template, tmp_path_factory.mktemp("made") / "repository")
    files = {"dr.pth": BINARY, "preprocess.json": b'{"size":\n448}'}
    evaluation, predictions = repository.judge(files, table=answers(2))
    repository.certify("certificates/second", evaluation, predictions)
    for name, content in files.items():
        repository.write(f"models/{name}", content)
    repository.merge()
    return repository


@pytest.fixture
def whole(made: Repository, tmp_path: Path) -> Repository:
    """A copy of it, to be changed."""
    return copy_of(made, tmp_path / "whole")


def staged_as_they_are(repository: Repository, attributes: dict[str, str]) -> None:
    """Stage attributes without letting Git apply them to what is staged already."""
    for path, text in attributes.items():
        repository.write(path, text)
    repository.git("add", "--force", *attributes)
    repository.stage = lambda: None  # type: ignore[method-assign]


class TestAttributes:
    @pytest.mark.parametrize(
        "text",
        [
            "*.pth ident",
            "*.pth text",
            "*.pth crlf",
            "*.pth eol=crlf",
            "*.pth text eol=crlf",
            "*.pth working-tree-encoding=UTF-16LE",
            "*.pth filter=evil",
            "*.pth export-subst",
            "* ident",
            "DR.PTH ident",
            "/models/** ident",
            "[attr]mine ident\n*.pth mine",
            "*.pth -ident\nmodels/dr.pth ident",
            "preprocess.json eol=crlf",
            "preprocess.json text=auto eol=crlf",
            "*.json filter=evil",
            '"models/dr.pth" ident',
        ],
    )
    def test_that_alter_a_certified_file(self, whole, text):
        """The blob is the certified one; what a checkout or an archive holds is not."""
        staged_as_they_are(whole, {".gitattributes": f"{text}\n"})
        report = answer(whole)
        assert report.exit_code == 2
        (path,) = {finding.group for finding in report.findings if finding.closes}
        assert path == ("models/preprocess.json" if "json" in text else "models/dr.pth")

    @pytest.mark.parametrize(
        "text",
        [
            "* text=auto",
            "* text=auto\n*.pth filter=lfs diff=lfs merge=lfs -text",
            "* text=auto eol=lf",
            "*.json text",
            "*.pth -text eol=crlf",
            "*.pth binary",
            "*.pth ident\n*.pth -ident",
            "*.py ident",
            "preprocess.json ident export-subst",
            "*.pth text=auto eol=crlf",
            "*.md eol=crlf",
            "*.ipynb filter=nbstripout",
            "*.pth -crlf",
            "*.pth text=input",
            "*.pth linguist-generated diff=bin working-tree-encoding=UTF-8",
        ],
    )
    def test_that_alter_none(self, whole, text):
        """What repositories really have."""
        staged_as_they_are(whole, {".gitattributes": f"{text}\n"})
        assert answer(whole).exit_code == 0, said(answer(whole))

    def test_in_a_folder_and_of_the_working_tree(self, whole):
        """Those of the folder count, staged; those that are not staged do not."""
        staged_as_they_are(whole, {"models/.gitattributes": "dr.pth ident\n"})
        (whole.root / "models/.gitattributes").write_text("dr.pth -ident\n")
        assert closing(answer(whole)) == {"checkout:models/dr.pth": "REFUSED"}
        whole.git("add", "models/.gitattributes")
        (whole.root / "models/.gitattributes").write_text("dr.pth ident\n")
        assert answer(whole).exit_code == 0

    @pytest.mark.parametrize(
        ("path", "text", "reason"),
        [
            ("models/.GitAttributes", "dr.pth ident\n", "look alike"),
            ("Models/.gitattributes", "dr.pth ident\n", "look alike"),
            ("models/.git\u200battributes", "dr.pth ident\n", "look alike"),
            ("Models/preprocess.json", "{}", "look alike"),
            ("models/preprocess.json.", "{}", "look alike"),
            (".gitattributes", "\N{BYTE ORDER MARK}*.pth ident\n", "byte order mark"),
            (".gitattributes", f"{'a' * 3000} x\n", "more than 2048 bytes"),
            (".gitattributes", "#" * (1 << 20) + "\n\n", "larger than 1 MB"),
        ],
    )
    def test_that_some_systems_or_versions_read(self, whole, path, text, reason):
        """A name in another case, or with what a file system leaves out, and lines that are too long for newer Git."""
        staged_as_they_are(whole, {path: text})
        report = answer(whole)
        assert visible(f"checkout:{path}") in closing(report), said(report)
        assert reason in said(report)

    def test_that_are_a_link(self, whole):
        """Older versions of Git follow it."""
        (whole.root / ".gitattributes").symlink_to("README.md")
        report = answer(whole)
        assert closing(report) == {"checkout:.gitattributes": "REFUSED"}
        assert "is a link" in said(report)


class TestPointers:
    def pointed(self, repository: Repository, text: str = POINTER) -> None:
        repository.git("config", "filter.lfs.clean", "cat")
        repository.write("models/dr.pth", text % (hashlib.sha256(BINARY).hexdigest(), len(BINARY)))

    def test_of_a_newcomer(self, whole):
        """`* text=auto` and what `git lfs track` writes."""
        whole.write(".gitattributes", "* text=auto\n*.pth filter=lfs diff=lfs merge=lfs -text\n")
        self.pointed(whole)
        assert answer(whole).exit_code == 0, said(answer(whole))

    @pytest.mark.parametrize("text", ["", "*.pth -text\n", "*.pth filter=lfs\nmodels/* -filter\n"])
    def test_that_no_filter_replaces(self, whole, text):
        """A checkout holds the pointer, whatever the certificate says of the file behind it."""
        whole.write(".gitattributes", text)
        self.pointed(whole)
        report = answer(whole)
        assert closing(report) == {"checkout:models/dr.pth": "REFUSED"}
        assert "pointer without the attribute filter=lfs" in of(report, "checkout").reason

    @pytest.mark.parametrize("name", ["https://hawser.github.com/spec/v1", "http://git-media.io/v/2"])
    def test_of_an_older_form(self, whole, name):
        """Git LFS reads it, so it is no file of text."""
        whole.write(".gitattributes", "*.pth filter=lfs\n")
        self.pointed(whole, POINTER.replace("https://git-lfs.github.com/spec/v1", name))
        assert "LFS pointer that cannot be read" in of(answer(whole), "identity").reason


class TestWhereFilesComeFrom:
    @pytest.mark.parametrize("path", [".lfsconfig", ".LFSConfig", ".dvc/config", ".dvc/config.local"])
    def test_is_a_rule(self, whole, path):
        """Added, changed or removed, it closes the gate until it is waived; the waiver is for this content alone."""
        for content in ("[lfs]\n\turl = https://example.org/one\n", "[lfs]\n\turl = https://example.org/two\n", None):
            whole.write(path, content) if content else (whole.root / path).unlink()
            report = answer(whole)
            assert closing(report) == {f"policy:{path}": "FAIL"}
            waive(whole, report, f"policy:{path}")
            assert answer(whole).exit_code == 0
            if content:
                whole.write(path, f"{content}# more\n")
                assert closing(answer(whole)) == {f"policy:{path}": "FAIL"}
                whole.write(path, content)
            whole.merge()
            assert answer(whole).exit_code == 0

    def test_is_no_link(self, whole):
        """What a link leads to could change unseen."""
        (whole.root / ".lfsconfig").symlink_to("checklists/site-a.yaml")
        with pytest.raises(RepositoryError, match=r"\.lfsconfig in the staged files is a symbolic link"):
            answer(whole)

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("dvc.lock", "stages:\n  train:\n    cmd: x\n    outs:\n    - {path: models/dr.pth, md5: a, size: 1}\n"),
            ("dvc.lock", 'stages:\n  train:\n    outs:\n    - {path: "models/\\x64r.pth", md5: a, size: 1}\n'),
            ("sub/dvc.lock", "stages:\n  train:\n    outs:\n    - {path: ../models, md5: a.dir, size: 1}\n"),
            ("dvc.yaml", "stages:\n  train:\n    outs:\n    - models/preprocess.json: {cache: false}\n"),
            ("dvc.yaml", "stages:\n  train:\n    outs: [models\n"),
        ],
    )
    def test_output_of_a_pipeline(self, whole, path, text):
        """`dvc checkout` would put another file there."""
        whole.write(path, text)
        assert closing(answer(whole)) == {f"checkout:{path}": "REFUSED"}

    def test_pipeline_that_only_reads_the_model(self, whole):
        """As a dependency; its outputs are elsewhere."""
        whole.write("dvc.yaml", "stages:\n  test:\n    cmd: x\n    deps: [models/dr.pth]\n    outs: [scores.csv]\n")
        whole.write(
            "dvc.lock", "stages:\n  test:\n    deps:\n    - {path: models/dr.pth}\n    outs: [{path: scores.csv}]\n"
        )
        assert answer(whole).exit_code == 0
