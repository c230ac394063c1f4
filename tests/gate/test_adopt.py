"""From an empty repository to an open gate: the commands of docs/gate.md as somebody types them; init and submit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drgate.certificate.keys import generate_key
from drgate.checklist import parse_yaml, read_checklist
from drgate.errors import DrgateError, NotCertified
from drgate.gate.gate import gate
from drgate.gate.submit import Submitted, submit
from tests.support.repositories import CHECKLIST, NOW, Repository, answers, copy_of, git_in

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs/gate.md").read_text(encoding="utf-8")
LEVELS = (20, 70, 120, 170, 220)
"""The mean of an image of each grade."""


def commands() -> list[str]:
    """The first block of commands in the documentation."""
    (block,) = re.findall(r"## From an empty repository.*?```sh\n(.*?)```", DOCS, re.DOTALL)
    return block.splitlines()


def write_images(folder: Path, patients: int = 40, seed: int = 7) -> None:
    """Grey images, one a patient, each grade the brighter the worse."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    lines = ["image,grade,patient"]
    for i in range(5 * patients):
        pixels = LEVELS[i % 5] + rng.integers(-9, 10, (28, 28, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"images/photo{i * 37 % 1000}.png")
        lines.append(f"images/photo{i * 37 % 1000}.png,{i % 5},p{i}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def write_model(path: Path, *, shift: float = 0.0) -> None:
    """An ONNX model that grades these images by their mean; shift: how much it favours the higher grades."""
    from tests.support.foreign import network, write

    grades = np.arange(5)
    borders = np.array([0.0, *((one + other) / 2 / 127.5 - 1 for one, other in pairwise(LEVELS))])
    weight = np.repeat(40.0 * grades[None], 3, axis=0)  # the three channels are alike
    bias = shift * grades - 120 * np.cumsum(borders)
    written = write(path.parent, network(weight.astype(np.float32), bias.astype(np.float32)))
    described = (path.parent / "model.yaml").read_text().replace("model.onnx", path.name)
    (path.parent / "model.yaml").write_text(described)
    written.rename(path)


class Shell:
    """A terminal: commands as they are typed, and what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = ""

    def type(self, line: str, *, code: int = 0) -> str:
        binary = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        given = {
            "PATH": binary,
            "PYTHONPATH": str(ROOT),
            "DRGATE_KEY_PASSPHRASE": "a phrase",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
        }
        person = {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        aliased = f'drgate() {{ {sys.executable} -m drgate "$@"; }}; {line}'
        done = subprocess.run(
            ["bash", "-c", aliased],
            cwd=self.folder,
            env=os.environ | given | person,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        self.said = done.stdout + done.stderr
        assert done.returncode == code, (line, self.said)
        assert "Traceback" not in self.said
        return self.said


def cloned(folder: Path) -> Shell:
    """A clone of an empty repository, whose remote is a folder."""
    folder.mkdir()
    git_in(folder, "init", "--quiet", "--bare", "--initial-branch=main", "remote.git")
    git_in(folder, "clone", "--quiet", "remote.git", "work")
    return Shell(folder / "work")


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shell, list[str]]:
    """A repository after the five commands of the documentation, and what each of them printed."""
    shell = cloned(tmp_path_factory.mktemp("adopted") / "here")
    write_images(shell.folder / "testset")
    write_model(shell.folder / "best_model.onnx")
    with (shell.folder / ".git/info/exclude").open("a") as handle:
        handle.write("/testset\n/best_model.onnx\n/model.yaml\n")
    return shell, [shell.type(line) for line in commands()]


class TestFiveCommands:
    def test_open_the_gate(self, adopted):
        """By the words of the documentation alone, on a real remote."""
        shell, said = adopted
        assert len(said) == 5
        assert "The gate is open: 1 model, nothing waived." in said[-1]
        tracked = git_in(shell.folder, "ls-tree", "-r", "--name-only", "origin/main").split()
        wanted = {"drgate.toml", "models/best_model.onnx", "models/model.yaml", "looks/testset.jsonl"}
        assert {*wanted, ".github/workflows/drgate-gate.yml"} <= {*tracked}
        assert not any(path.endswith((".pem", ".csv")) for path in tracked)

    def test_each_is_shown_by_the_one_before(self, adopted):
        """With its flags; names that a command cannot know are in capitals."""
        _, said = adopted
        typed = commands()
        assert "drgate init --github --trusted-key clinical=keys/clinical.pub" in said[0]
        assert typed[1].startswith("drgate init --github --trusted-key clinical=keys/clinical.pub")
        for text, line in zip(said[1:4], typed[2:], strict=True):
            assert f"Next: {line}" in text.replace("MODEL", "best_model.onnx").replace("'", '"')

    def test_guard_it_from_then_on(self, adopted, tmp_path):
        """A fresh clone of one commit, as a runner makes it: open; closed for a model that nobody judged."""
        shell, _ = adopted
        remote = (shell.folder.parent / "remote.git").resolve()
        git_in(tmp_path, "clone", "--quiet", "--depth=1", f"file://{remote}", "clone")
        clone = Shell(tmp_path / "clone")
        assert "The gate is open" in clone.type("drgate gate --base-ref origin/main")
        model = clone.folder / "models/best_model.onnx"
        model.write_bytes(model.read_bytes() + b"\0")
        assert "The gate is closed" in clone.type("git add models && drgate gate --base-ref origin/main", code=3)

    def test_again_change_nothing(self, adopted):
        """`submit` a second time: all is there."""
        shell, _ = adopted
        assert "Staged: nothing new; all is there." in shell.type(commands()[3])
        assert git_in(shell.folder, "status", "--porcelain") == ""


class TestTheNextModels:
    """Two models on one test set, and a third one on a fresh set, on a real remote."""

    def test_get_in_by_what_is_printed(self, tmp_path):
        """`--looks 2` from the start; then the used-up set is replaced under a waiver."""
        shell = cloned(tmp_path / "here")
        write_images(shell.folder / "testset", 60)  # half the level takes more patients
        with (shell.folder / ".git/info/exclude").open("a") as handle:
            handle.write("/testset\n/fresh\n/model*/\n")
        for i in (1, 2, 3):
            (shell.folder / f"model{i}").mkdir()
            write_model(shell.folder / f"model{i}/dr.onnx", shift=i / 8)
        typed = commands()
        shell.type(typed[0])
        said = shell.type(f"{typed[1]} --looks 2")
        assert "keys/clinical.pub" in said, "what is staged is named"
        assert "allows 2 looks" in said
        chosen = "--spec checklists/screening-referable-2-looks.yaml"
        assert chosen in said
        evaluate = f"drgate evaluate model1/dr.onnx --data testset {chosen} --looks looks/testset.jsonl"
        evaluate += " --key keys/clinical.pem --out reports/1"

        shell.type(evaluate)
        assert "looks/testset.jsonl" in shell.type(next_of(shell.said)), "written by `evaluate`, and staged now"
        shell.type(next_of(shell.said))
        assert "The gate is open" in shell.said

        # By the same name, as most are called; each on a branch of its own.
        shell.type(evaluate.replace("model1", "model2").replace("reports/1", "reports/2"))
        shell.type(next_of(shell.said))
        assert "Replaced: models/dr.onnx" in shell.said
        shell.type(next_of(shell.said))
        assert "The gate is open" in shell.said
        shell.type("git switch -q main && git merge -q - && git push -q")

        # A third is barred, and told how to go on.
        shell.type(evaluate.replace("model1", "model3").replace("reports/1", "reports/3"), code=3)
        shell.type("drgate submit reports/3 --model model3/dr.onnx", code=3)
        assert "drgate init --data FRESH_TEST_SET --replaces testset" in shell.said
        shell.type("git checkout -q looks")
        write_images(shell.folder / "fresh", 60, seed=8)
        replaced = shell.type("drgate init --data fresh --replaces testset")
        waiver, evaluate, submit = (line[6:] for line in replaced.splitlines() if line.startswith("Next: "))
        assert "--base-ref origin/main --role clinical --key keys/clinical.pem" in waiver
        shell.type(waiver.replace("YYYY-MM-DD", "2099-01-01").replace("...", "Both looks at it were taken."))
        shell.type(evaluate.replace("MODEL", "model3/dr.onnx").replace("NAME", "fresh"))
        shell.type(submit.replace("MODEL", "model3/dr.onnx").replace("NAME", "fresh"))
        assert "The gate is open for what is staged" in shell.said
        shell.type(next_of(shell.said))
        assert "The gate is open: 1 model, 1 waived" in shell.said


def next_of(said: str) -> str:
    """The command that was printed last as the next one."""
    return [line for line in said.splitlines() if line.startswith("Next: ")][-1].removeprefix("Next: ")


# -- submit, on a repository that is guarded already -------------------------------------------------------------------


def reported(
    repository: Repository, content: bytes, *, name: str = "dr.pth", roles=("clinical",), **options: Any
) -> Path:
    """The folder of an evaluation of a model that lies beside it."""
    evaluation, predictions = repository.judge({name: content}, **options)
    folder = repository.root.parent / f"report-{len(content)}"
    elsewhere = Repository(folder.parent, repository.keys)
    elsewhere.write(f"{folder.name}/evaluation.json", json.dumps(evaluation.to_json()))
    elsewhere.certify(folder.name, evaluation, predictions, roles=roles)
    elsewhere.write(f"{folder.name}/{name}", content)
    return folder


def state(repository: Repository) -> dict[str, Any]:
    """All files of the working tree, and what is staged."""
    files = (path for path in repository.root.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {str(path): path.read_bytes() for path in files} | {"staged": repository.git("ls-files", "--stage")}


def submitted(repository: Repository, report: Path, name: str = "dr.pth", **options: Any) -> Submitted:
    given = {"model": report / name, "base_ref": "main", "now": NOW} | options
    return submit(repository.root, report, **given)


class TestSubmit:
    def test_replaces_a_model_by_a_better_one(self, repository):
        """What was there is in Git; the certificates of before stay; a second time there is nothing to do."""
        report = reported(repository, b"better weights", table=answers(2))
        done = submitted(repository, report)
        assert done.replaced == ("models/dr.pth",)
        assert (done.model, done.adopts, done.base) == ("models/dr.pth", False, "main")
        assert gate(repository.root, base_ref="main", now=NOW).exit_code == 0
        assert (repository.root / "models/dr.pth").read_bytes() == b"better weights"
        assert not any(path.endswith(".parquet") for path in done.written), "the policy does not ask for predictions"
        assert submitted(repository, report).written == ()

    def test_puts_predictions_where_the_policy_asks_for_them(self, demanding, tmp_path):
        """Beside the certificate."""
        repository = copy_of(demanding, tmp_path / "repository")
        done = submitted(repository, reported(repository, b"better weights", table=answers(2)))
        assert [path.rpartition("/")[2] for path in done.written if path.endswith(".parquet")] == [
            "predictions.parquet"
        ]

    def test_leaves_a_pointer_where_it_is(self, repository):
        """The model is in Git LFS: nothing is copied, and --model is not needed."""
        data = b"better weights"
        report = reported(repository, data, table=answers(2))
        pointer = (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(data).hexdigest()}\nsize 14\n"
        )
        repository.write("models/dr.pth", pointer)
        repository.write(".gitattributes", "models/*.pth filter=lfs diff=lfs merge=lfs -text\n")
        repository.git("config", "filter.lfs.clean", "cat")
        repository.git("add", "models", ".gitattributes")
        done = submitted(repository, report, model=None)
        assert not any(path.startswith("models/") for path in done.written)
        assert (repository.root / "models/dr.pth").read_text() == pointer

    @pytest.mark.parametrize(("right", "images", "code"), [(0.4, 160, 1), (1.0, 20, 3)])
    def test_of_a_model_that_did_not_pass_changes_nothing(self, repository, right, images, code):
        """The verdict's own exit code, and the line that decides it."""
        report = reported(repository, b"worse", table=answers(2, right=right, images=images))
        before = state(repository)
        with pytest.raises(NotCertified, match="The gate would stay closed, so nothing was put there") as refused:
            submitted(repository, report)
        assert refused.value.exit_code == code
        assert state(repository) == before

    def refused(self, repository: Repository, report: Path, sentence: str, **options: Any) -> None:
        before = state(repository)
        with pytest.raises(DrgateError, match=sentence) as found:
            submitted(repository, report, **options)
        assert found.value.exit_code == 2
        assert "\n" not in str(found.value)
        assert state(repository) == before

    def test_refuses_what_the_gate_would(self, repository):
        """One sentence each, and nothing is changed."""
        good = {"table": answers(2)}
        report = reported(repository, b"a", **good)
        self.refused(repository, report, "say where it is: --model FILE", model=None)
        self.refused(repository, report, "is not the model that was judged", model=report / "evaluation.json")
        self.refused(repository, report / "dr.pth", "is not the folder of an evaluation")
        self.refused(repository, report, "states its test sets already", test_set="x")
        unsigned = reported(repository, b"bb", roles=(), **good)
        self.refused(repository, unsigned, "holds no certificate: it is not signed. Evaluate again with --key KEY")
        stranger = reported(repository, b"ccc", roles=("stranger",), **good)
        self.refused(repository, stranger, "no key that the policy trusts; the policy requires 1 of clinical. Sign it")
        other = reported(repository, b"dddd", test_set=f"sha256:{'c' * 64}", **good)
        self.refused(repository, other, "is of the test set site-a .* and the policy asks for site-a")
        checklist = CHECKLIST.replace("version: 1", "version: 2")
        self.refused(
            repository, reported(repository, b"eeeee", checklist=checklist, **good), "version 2, and the policy"
        )
        outside = reported(repository, b"ffffff", name="dr.onnx", **good)
        self.refused(
            repository, outside, r"dr\.onnx matches no pattern of the policy \(models/\*\.pth\)", name="dr.onnx"
        )
        elsewhere = reported(repository, b"ggggggg", chain="../own.jsonl", **good)
        self.refused(repository, elsewhere, "is in no chain that is known here; name the one")
        self.refused(
            repository, elsewhere, "each holds looks that the other", looks=repository.root.parent / "own.jsonl"
        )

    def test_refuses_what_is_not_staged(self, repository):
        """What Git does not have would be lost, and what is not staged is not judged."""
        report = reported(repository, b"better weights", table=answers(2))
        repository.write("models/dr.pth", b"of somebody's own work")
        self.refused(repository, report, r"models/dr\.pth would be replaced, and Git does not have what is there now")
        repository.git("checkout", "models/dr.pth")
        repository.replace("drgate.toml", "= 365", "= 366")
        self.refused(repository, report, r"drgate\.toml differs from what is staged")

    def test_needs_a_repository_with_a_policy(self, repository, tmp_path):
        """Each said."""
        report = reported(repository, b"better weights", table=answers(2))
        with pytest.raises(DrgateError, match="not in a Git repository"):
            submit(report, report)
        git_in(tmp_path, "init", "--quiet", "empty")
        with pytest.raises(DrgateError, match="There is no policy in the staged files"):
            submit(tmp_path / "empty", report)


class TestInit:
    @pytest.fixture
    def empty(self, template, tmp_path, monkeypatch) -> Path:
        """An empty repository, and a key outside it."""
        git_in(tmp_path, "init", "--quiet", "--initial-branch=main", "empty")
        shutil.copy(template.root / "keys/clinical.pub", tmp_path / "clinical.pub")
        monkeypatch.chdir(tmp_path / "empty")
        return tmp_path / "empty"

    KEY = ("--trusted-key", "clinical=../clinical.pub")

    def test_without_a_test_set_the_gate_stays_closed(self, empty, template, drgate):
        """Until `submit --test-set` states one, in words that say so; then nothing else is missing."""
        ended = drgate("init", *self.KEY, "--spec", template.root / "checklists/site-a.yaml")
        assert ended.code == 0, ended
        assert "the gate is closed until drgate submit REPORT --test-set NAME states it" in ended.err
        repository = Repository(empty, dict(template.keys))
        repository.git("commit", "--quiet", "-m", "adopted")
        ended = drgate("gate", "--base-ref", "HEAD")
        assert ended.code == 2
        assert "states no test set" in ended.out
        report = reported(repository, b"weights", table=answers(2), chain="looks/one.jsonl")
        with pytest.raises(DrgateError, match=r"If models are to be judged on site-a \(sha256:a+\), say so"):
            submitted(repository, report, base_ref=None)
        repository.git("update-ref", "-d", "HEAD")
        done = submitted(repository, report, base_ref=None, test_set="one")
        assert (done.base, done.adopts) == ("", True)
        repository.git("commit", "--quiet", "-m", "with a model")
        assert gate(empty, base_ref="HEAD", now=NOW).exit_code == 0

    def test_evaluate_names_the_test_set_that_is_to_be_stated(self, empty, drgate, monkeypatch):
        """The command that it prints works: `--test-set` where the policy states none."""
        write_images(empty / "labels set")
        write_model(empty / "dr.onnx")
        monkeypatch.setenv("DRGATE_KEY_PASSPHRASE", "a phrase")
        assert "--data TEST_SET --spec CHECKLIST --models PATTERN" in drgate("keygen", "--out", "keys/own").err
        key = ("--trusted-key", "clinical=keys/own.pub", "--models", "*.onnx", "--spec", "screening-referable")
        assert drgate("init", *key).code == 0
        spec = ("--spec", "checklists/screening-referable.yaml", "--key", "keys/own.pem", "--out", "reports/1")
        said = drgate("evaluate", "dr.onnx", "--data", "labels set", *spec).err
        following = shlex.split(next_of(said))
        assert following[-2:] == ["--test-set", "labels-set"]
        assert drgate(*following[1:]).code == 0

    def test_says_how_many_models_one_test_set_may_judge(self, empty, drgate):
        """With the checklist's own looks, and with others, which are a checklist of another name."""
        assert "allows 1 look: one model is judged" in drgate("init", *self.KEY).err
        ended = drgate("init", *self.KEY, "--looks", "3", "--force")
        assert "medical-grade-3-looks.yaml allows 3 looks" in ended.err
        written = parse_yaml((empty / "checklists/medical-grade-3-looks.yaml").read_bytes(), "it")
        assert (written.name, written.looks) == ("medical-grade-3-looks", 3)
        assert written.content() == read_checklist("medical-grade").content() | {"name": written.name, "looks": 3}

    def test_replaces_a_test_set_and_nothing_else(self, empty, drgate):
        """The rest of a policy stays as somebody wrote it."""
        write_images(empty / "first")
        write_images(empty / "second", seed=8)
        assert drgate("init", *self.KEY, "--data", "first").code == 0
        policy = (empty / "drgate.toml").read_text()
        written = policy.replace("[gate]", "[gate]\nmax_age_days = 30 # strict") + "# the end\n"
        (empty / "drgate.toml").write_text(written)
        changed = ("init", "--data", "second", "--replaces", "first")
        assert "differs from what is staged" in drgate(*changed).err
        git_in(empty, "add", "drgate.toml")
        ended = drgate(*changed)
        assert ended.code == 0, ended
        after = (empty / "drgate.toml").read_text()
        lines = [line.replace("first", "second") for line in written.splitlines() if "manifest_digest" not in line]
        assert [line for line in after.splitlines() if "manifest_digest" not in line] == [
            line for line in lines if "manifest_digest" not in line
        ]
        assert git_in(empty, "show", ":drgate.toml") == after
        assert "states no test set 'first'; it states second" in drgate(*changed).err
        assert "has the very images" in drgate("init", "--data", "second", "--replaces", "second").err
        for more in (("--looks", "2"), self.KEY, ("--force",)):
            assert "changes the test set alone" in drgate(*changed, *more).err
        assert "needs the test set" in drgate("init", "--replaces", "second").err

    def test_again_and_with_force(self, empty, drgate):
        """The same again is nothing to do; another policy is not replaced without a word."""
        assert drgate("init", *self.KEY).code == 0
        before = git_in(empty, "ls-files", "--stage")
        again = drgate("init", *self.KEY)
        assert (again.code, "Wrote and staged nothing: all is there." in again.err) == (0, True)
        other = drgate("init", *self.KEY, "--models", "models/*.onnx")
        assert (other.code, other.err.count("\n")) == (2, 1)
        assert (
            "drgate.toml is a policy already and differs from what would be written; nothing was written" in other.err
        )
        assert 'It differs in models (there ["models/*.pth"], now ["models/*.onnx"]).' in other.err
        assert "give the same command with --force" in other.err
        assert git_in(empty, "ls-files", "--stage") == before
        assert drgate("init", *self.KEY, "--models", "models/*.onnx", "--force").code == 0
        assert "models/*.onnx" in (empty / "drgate.toml").read_text()

    def test_keeps_the_lines_that_are_there(self, empty, drgate):
        """Of .gitignore and .gitattributes, also without a last line end."""
        (empty / ".gitignore").write_text("mine\n*.pem")
        assert drgate("init", *self.KEY).code == 0
        assert (empty / ".gitignore").read_text() == "mine\n*.pem\n*.key\nnames.csv\n.looks.lock\n/reports/\n"

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            ((), "Make one with drgate keygen --out keys/clinical, and name it: --trusted-key clinical="),
            (("--trusted-key", "clinical"), "expected ROLE=PUB"),
            (("--trusted-key", "Clinical=../clinical.pub"), "is not the name of a role"),
            (("--trusted-key", "clinical=none.pub"), "none.pub cannot be read"),
            ((*KEY, "--spec", "smoke"), "only tests a pipeline and certifies nothing"),
            ((*KEY, "--spec", "medical-grad"), "did you mean 'medical-grade'?"),
            ((*KEY, "--models", "../x.pth"), "is not a path inside the repository"),
            ((*KEY, "--github", "--gitlab"), "give one of them"),
            ((*KEY, "--github", "--drgate", "group/drgate@v1"), "A tag or branch can be moved"),
            ((*KEY, "--data", "none.csv"), "none.csv"),
            ((*KEY, "--report", "none"), "none"),
        ],
    )
    def test_refuses(self, empty, drgate, words, sentence):
        """One sentence, exit code 2, and nothing is written."""
        ended = drgate("init", *words)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended
        assert sentence in ended.err
        assert [path.name for path in empty.iterdir()] == [".git"]

    def test_outside_a_repository(self, tmp_path, drgate, monkeypatch):
        """Said as that."""
        monkeypatch.chdir(tmp_path)
        generate_key(tmp_path / "clinical", None)
        assert "is not in a Git repository" in drgate("init", "--trusted-key", "clinical=clinical.pub").err

    @pytest.mark.parametrize("source", [None, f"group/drgate@{'0123456789' * 4}"])
    @pytest.mark.parametrize("forge", ["github", "gitlab"])
    def test_workflows_are_valid_and_safe(self, empty, drgate, forge, source):
        """As zizmor and the schemas of the forges see them, with what is left to fill in and without."""
        ended = drgate("init", *self.KEY, f"--{forge}", *(() if source is None else ("--drgate", source)))
        assert ended.code == 0, ended
        assert ("replace `YOUR-GROUP/drgate`" in ended.err) is (source is None)
        written = {
            "github": [".github/workflows/drgate-gate.yml"],
            "gitlab": [".gitlab/drgate-gate.yml", ".gitlab-ci.yml"],
        }
        schema = {"github": "vendor.github-workflows", "gitlab": "vendor.gitlab-ci"}[forge]
        texts = "".join((empty / name).read_text() for name in written[forge])
        assert ("0123456789" * 4 in texts) is (source is not None)
        checked([*CHECKERS["check-jsonschema"], "--builtin-schema", schema, *written[forge]], empty)
        if forge == "github":
            assert "merge_group:" in texts
            checked([*CHECKERS["zizmor"], "--offline", "--no-progress", "--persona=pedantic", *written[forge]], empty)

    def test_the_action_and_the_template_are_valid_too(self):
        """What the workflows use."""
        checked([*CHECKERS["check-jsonschema"], "--builtin-schema", "vendor.github-actions", "action.yml"], ROOT)
        checked(
            [*CHECKERS["check-jsonschema"], "--builtin-schema", "vendor.gitlab-ci", "ci/drgate.gitlab-ci.yml"], ROOT
        )
        checked([*CHECKERS["zizmor"], "--offline", "--no-progress", "action.yml"], ROOT)


CHECKERS = {
    name: [shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or name]
    for name in ("zizmor", "check-jsonschema")
}
"""The programs, of the extra `dev`; in CI a missing one is a failure."""


def checked(command: list[str], folder: Path) -> None:
    """A checker that must find nothing. Neither asks the network."""
    if "EVERY_CHECK" not in os.environ and shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed; it is in the extra dev")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
