"""What the documents tell people to do, done: a model from training to an open gate, by each way that they name.

A small model of the real architecture and small images; real Git; the real commands, in the order in which a person
types them. git-lfs and dvc write text files that are written here by their published formats.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from drgate.vision.base import resolve_base
from drgate.vision.checkpoint import save_checkpoint
from tests.support.material import Ended
from tests.support.repositories import answers, git_in
from tests.support.tiny import checkpoint_of, random_model, tiny_base, write_eyes

ROOT = Path(__file__).parents[1]
CHECKLIST = """\
name: site-a
version: 1
looks: 20
bootstrap: {resamples: 1000}
criteria:
  - {id: no_output, at_most: 0.6}
  - {id: accuracy, at_least: 0.9, required: false}
"""
"""What any model meets that answers: these are not trained."""

LFS = "*.pth filter=lfs diff=lfs merge=lfs -text\n*.parquet filter=lfs diff=lfs merge=lfs -text\n"
CLEAN = """\
import hashlib, sys
data = sys.stdin.buffer.read()
if not data.startswith(b"version https://git-lfs.github.com/spec/v1"):
    pointer = "version https://git-lfs.github.com/spec/v1\\noid sha256:%s\\nsize %d\\n"
    data = (pointer % (hashlib.sha256(data).hexdigest(), len(data))).encode()
sys.stdout.buffer.write(data)
"""
"""What `git lfs clean` does when a file is staged: the pointer goes into Git, the file stays in the working tree."""

CHAIN = "looks/site-a-2026.jsonl"


def block(document: str, language: str, holding: str) -> str:
    """The one block of a document in this language that holds a text."""
    text = (ROOT / document).read_text(encoding="utf-8")
    (found,) = [one for one in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if holding in one]
    return str(found)


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """A text of the documents with the reader's own names in it."""
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


@dataclass(frozen=True)
class Team:
    """Somebody's repository on the branch `change`, with what lies outside it: data, keys and a base model.

    outside: holds data/ (graded), photographs/ (not graded), grades.csv and site-a.yaml.
    """

    root: Path
    outside: Path

    def drgate(self, *arguments: object) -> Ended:
        """Run `drgate` in the repository."""
        return self.run("drgate", *arguments)

    def run(self, program: str, *arguments: object) -> Ended:
        """Run `drgate` or `drtrain` in the repository."""
        from drgate.cli import main as drgate
        from trainer.cli import main as drtrain

        main = {"drgate": drgate, "drtrain": drtrain}[program]
        with (
            contextlib.chdir(self.root),
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as err,
            pytest.raises(SystemExit) as stop,
        ):
            main([str(argument) for argument in arguments])
        return Ended(int(stop.value.code or 0), out.getvalue(), err.getvalue())

    def does(self, *arguments: object) -> Ended:
        """Run `drgate`, which must end with 0."""
        ended = self.drgate(*arguments)
        assert ended.code == 0, ended
        return ended

    def gate(self, *codes: int) -> dict[str, Any]:
        """What `drgate gate` prints as JSON of all that is staged; it must end with one of these codes."""
        ended = self.drgate("gate", "--base-ref", "main", "--format", "json")
        assert ended.code in codes, ended
        printed: dict[str, Any] = json.loads(ended.out)
        return printed

    def train_again(self) -> None:
        """Put another model in the place of the first."""
        base = resolve_base(str(self.outside / "base"))
        save_checkpoint(self.root / "models/best_model.pth", checkpoint_of(random_model(base, seed=1), base))

    def evaluate(self, model: str, *more: object, out: str) -> Ended:
        """As docs/gate.md asks for it, signed by the engineers."""
        given = ("--looks", CHAIN, "--workers", 0, "--key", "keys/ml.pem", "--out", out)
        return self.drgate("evaluate", model, "--spec", "checklists/site-a.yaml", *given, *more)

    def commit_certificates(self, report: str, folder: str, *more: str) -> None:
        """Sign as clinician too, and stage what docs/gate.md says to commit of an evaluation's folder."""
        self.does("sign", f"{report}/certificate.json", "--role", "clinical", "--key", "keys/clinical.pem", "--yes")
        self.take(report, folder, "certificate.json", "*.clinical.certificate.json", "predictions.parquet", *more)
        self.git("add", "certificates", "looks")

    def take(self, source: str, target: str, *patterns: str) -> None:
        """Copy files, at least one a pattern."""
        (self.root / target).mkdir(parents=True, exist_ok=True)
        for pattern in patterns:
            found = list((self.root / source).glob(pattern))
            assert found, pattern
            for file in found:
                shutil.copy(file, self.root / target)

    def git(self, *arguments: str) -> str:
        return git_in(self.root, *arguments)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def edit(self, path: str, *pairs: tuple[str, str]) -> None:
        self.write(path, replaced((self.root / path).read_text(), *pairs))

    def merge(self) -> None:
        """Commit what is staged and make it main."""
        self.git("commit", "--quiet", "-m", "a change")
        self.git("branch", "--force", "main")

    def copy(self, root: Path) -> Team:
        team = Team(shutil.copytree(self.root, root, symlinks=True), self.outside)
        if (root / ".git").is_dir():
            team.git("update-index", "-q", "--refresh")  # Git takes a copied file for a changed one
        return team


def closing(report: dict[str, Any]) -> dict[str, str]:
    """Why the gate is closed: the reason of each finding that closes it, by id."""
    opening = ("PASS", "WAIVED")
    return {one["id"]: one["reason"] for one in report["findings"] if one["required"] and one["status"] not in opening}


def statuses(report: dict[str, Any]) -> dict[str, str]:
    return {one["id"]: one["status"] for one in report["findings"]}


def set_up(team: Team) -> None:
    """The policy of docs/gate.md and what it names, for the evaluation in reports/best, put in place by hand.

    By `drgate init` and `drgate submit`: tests/gate.
    """
    digest = json.loads((team.root / "reports/best/evaluation.json").read_text())["data"]["manifest_digest"]
    policy = block("docs/gate.md", "toml", "[[gate.test_sets]]")
    team.write("drgate.toml", replaced(policy, ("sha256:...", digest), ("medical-grade", "site-a")))
    team.write("checklists/site-a.yaml", team.does("spec", "show", team.outside / "site-a.yaml").out)
    team.take(".", "models", "best_model.pth")
    (chain,) = (team.root / "reports/looks").glob("*.jsonl")
    team.write(CHAIN, chain.read_text())
    team.commit_certificates("reports/best", "certificates/best")
    team.git(
        "add", "drgate.toml", "models", "checklists", *(f"keys/{name}.pub" for name in ("clinical", "ml", "scoring"))
    )


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Team:
    """Who followed the README on their own images, from training to the bundle, and has no repository yet."""
    folder = tmp_path_factory.mktemp("newcomer")
    team = Team(folder / "repository", folder / "outside")
    data = write_eyes(team.outside / "data", train=1, val=1, test=4)
    test = (data / "labels.csv").read_text().splitlines()
    (team.outside / "photographs").mkdir()
    for image in (data / "images").glob("test-*.png"):
        shutil.copy(image, team.outside / "photographs")
    rows = [line.removeprefix("images/").rsplit(",", 1)[0] for line in test if line.endswith(",test")]
    (team.outside / "grades.csv").write_text("\n".join(["image,grade,patient,eye,gradable", *rows]) + "\n")
    (team.outside / "site-a.yaml").write_text(CHECKLIST)
    tiny_base(team.outside / "base")
    team.root.mkdir()
    for line in _readme(team):
        ended = team.run(*line)
        assert ended.code == 0, (line, ended)
    shutil.copy(team.root / "runs/first/best_model.pth", team.root)
    for name in ("clinical", "scoring"):
        team.does("keygen", "--out", f"keys/{name}", "--no-passphrase")
    return team


def _readme(team: Team) -> list[list[str]]:
    """The README's commands, as words: the data set, the base model and the checklist are the reader's own."""
    own = f"--workers 0 --spec {team.outside / 'site-a.yaml'}"
    text = replaced(
        block("README.md", "sh", "drtrain --dataset eyepacs"),
        ("eyepacs", str(team.outside / "data")),
        ("google/medsiglip-448", str(team.outside / "base")),
        ("--num_epochs 30", "--num_epochs 1 --num_workers 0"),
        ("keygen --out keys/clinical", "keygen --no-passphrase --out keys/clinical"),  # nobody sits at the terminal
        ("keys/clinical", "keys/ml"),
        ("reports/first", "reports/best"),
        ("--split test", f"--split test {own}"),
        ("--out bundle", f"--out bundle {own}"),
    )
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    first, *others = [line for line in lines if line]
    return [first, [word for word in first if word != "--dry_run"], *others]  # "then run it without --dry_run"


def begin(team: Team, attributes: str) -> None:
    """A repository as a forge makes it, with these attributes; the work is on a branch."""
    team.git("init", "--quiet", "--initial-branch=main", "--template=")
    if "lfs" in attributes:
        (team.root / ".git/clean.py").write_text(CLEAN)
        team.git("config", "filter.lfs.clean", f"'{sys.executable}' -I .git/clean.py")
        team.git("config", "filter.lfs.required", "true")
    team.write(".gitattributes", attributes)
    team.write(".gitignore", "*.pem\n*.key\n/bundle/\n/reports/\n/runs/\n/best_model.pth\n.looks.lock\n")
    team.write("README.md", "# Grading\n")
    team.git("add", ".gitattributes", ".gitignore", "README.md")
    team.git("commit", "--quiet", "-m", "begun")
    team.git("checkout", "--quiet", "-b", "change")


@pytest.fixture(scope="module")
def guarded(newcomer: Team, tmp_path_factory: pytest.TempPathFactory) -> Team:
    """Whose main has the policy of docs/gate.md, the model as an LFS pointer, and its certificates."""
    team = newcomer.copy(tmp_path_factory.mktemp("guarded") / "repository")
    begin(team, f"* text=auto\n{LFS}")
    set_up(team)
    team.merge()
    return team


@pytest.fixture(scope="module")
def plain(newcomer: Team, tmp_path_factory: pytest.TempPathFactory) -> Team:
    """The same without LFS."""
    team = newcomer.copy(tmp_path_factory.mktemp("plain") / "repository")
    begin(team, "* text=auto\n")
    set_up(team)
    team.merge()
    return team


@pytest.fixture
def team(guarded: Team, tmp_path: Path) -> Team:
    return guarded.copy(tmp_path / "repository")


@pytest.mark.parametrize("attributes", ["* text=auto\n", f"* text=auto\n{LFS}"], ids=["plain", "lfs"])
def test_a_newcomer_from_an_evaluation_to_an_open_gate(newcomer: Team, tmp_path: Path, attributes: str):
    """First adoption is closed, as the document says; after it was merged once the gate is open."""
    team = newcomer.copy(tmp_path / "repository")
    begin(team, attributes)
    set_up(team)
    assert [*closing(team.gate(3))] == ["policy:adoption"]
    team.merge()
    team.write("README.md", "# Grading, changed\n")
    team.git("add", "README.md")
    assert closing(team.gate(0)) == {}


def test_a_reader_verifies_in_a_clone(plain: Team, tmp_path: Path):
    """With nothing but what is in Git, and the key."""
    git_in(tmp_path, "clone", "--quiet", str(plain.root), "clone")
    reader = Team(tmp_path / "clone", plain.outside)
    given = ("--model", "models/best_model.pth", "--spec", "checklists/site-a.yaml")
    found = reader.does(
        "verify", "certificates/best/certificate.json", "--key", "keys/ml.pub", *given, "--looks", CHAIN
    )
    assert "NO" not in found.out.split()


def test_nothing_in_git_names_an_image_or_a_patient(guarded: Team):
    """What docs/gate.md tells people to commit is published: own names stay in names.csv, which is not."""
    assert (guarded.root / "reports/best/names.csv").is_file()
    for path in guarded.git("ls-files").splitlines():
        file = guarded.root / path
        data = file.read_bytes()
        if path.endswith(".parquet"):
            data = pd.read_parquet(file).to_csv().encode() + b"".join((pq.read_schema(file).metadata or {}).values())
        elif path.endswith("certificate.json"):
            data = base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"])
        assert not re.search(rb"test-\d-\d", data), path


def test_a_patient_key_that_is_used_from_the_second_model_on(team: Team):
    """The chain goes on, now with patients; the gate needs no key."""
    team.does("keygen", "--patients", "--out", "keys/patients")
    team.train_again()
    data = ("--data", team.outside / "data", "--patient-key", "keys/patients.key")
    ended = team.evaluate("models/best_model.pth", *data, out="reports/second")
    assert ended.code == 0, ended
    team.commit_certificates("reports/second", "certificates/second")
    team.git("add", "models")
    assert closing(team.gate(0)) == {}


class TestLfs:
    def test_pointers_are_staged_and_the_gate_is_open(self, team: Team):
        """A new model and its predictions go into Git as pointers; the gate reads the fetched predictions."""
        team.train_again()
        ended = team.evaluate("models/best_model.pth", "--data", team.outside / "data", out="reports/second")
        assert ended.code == 0, ended
        team.commit_certificates("reports/second", "certificates/second")
        team.git("add", "models")
        for path in ("models/best_model.pth", "certificates/second/predictions.parquet"):
            assert team.git("show", f":{path}").startswith("version https://git-lfs.github.com/spec/v1\n")
        assert closing(team.gate(0)) == {}

    def test_predictions_that_were_not_fetched_close_the_gate(self, team: Team):
        """A runner's checkout has the pointers alone."""
        path = "certificates/best/predictions.parquet"
        team.write(path, team.git("show", f":{path}"))
        (reason,) = closing(team.gate(3)).values()
        assert "does not match its pointer; fetch it" in reason


class TestDvc:
    @pytest.fixture
    def tracked(self, plain: Team, tmp_path: Path) -> Team:
        """Whose model is in DVC: Git has `best_model.pth.dvc`, as `dvc add` writes it."""
        team = plain.copy(tmp_path / "repository")
        data = (team.root / "models/best_model.pth").read_bytes()
        team.git("rm", "--quiet", "--cached", "models/best_model.pth")
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        out = f"outs:\n- md5: {md5}\n  size: {len(data)}\n  hash: md5\n  path: best_model.pth\n"
        team.write("models/best_model.pth.dvc", out)
        team.write("models/.gitignore", "/best_model.pth\n")
        team.write(".dvc/config", "[core]\n    remote = storage\n['remote \"storage\"']\n    url = /srv/dvc\n")
        team.write(".dvc/.gitignore", "/config.local\n/tmp\n/cache\n")
        team.write(".dvcignore", "# Patterns of files that dvc should ignore\n")
        team.git("add", "models", ".dvc", ".dvcignore")
        return team

    def test_is_open_where_the_policy_allows_it(self, tracked: Team):
        tracked.edit("drgate.toml", ("[gate]\n", "[gate]\nallow_md5_pointers = true\n"))
        tracked.git("add", "drgate.toml")
        tracked.merge()
        assert closing(tracked.gate(0)) == {}

    def test_is_closed_where_it_does_not(self, tracked: Team):
        tracked.merge()
        assert "allow_md5_pointers" in json.dumps(closing(tracked.gate(1, 2, 3)))


class TestSealedGrades:
    """The engineers never see the grades: they score and sign, and whoever keeps the grades judges."""

    def score(self, team: Team, *more: object) -> None:
        team.train_again()
        photographs = ("--data", team.outside / "photographs", "--workers", 0)
        team.does("score", "models/best_model.pth", *photographs, "--out", "sealed.parquet", *more)

    def judge(self, team: Team) -> None:
        """A second model, scored by one person and judged by another; all of it staged."""
        self.score(team, "--key", "keys/scoring.pem")
        grades = ("--grades", team.outside / "grades.csv", "--scorer-key", "keys/scoring.pub")
        ended = team.evaluate("sealed.parquet", *grades, out="reports/sealed")
        assert ended.code == 0, ended
        evaluation = json.loads((team.root / "reports/sealed/evaluation.json").read_text())
        team.edit("drgate.toml", (_manifest_digest(team), evaluation["data"]["manifest_digest"]))
        team.commit_certificates("reports/sealed", "certificates/sealed", "predictions.scored.json")
        team.git("add", "models", "drgate.toml")

    @pytest.fixture
    def trusting(self, team: Team) -> Team:
        """Whose main says who may score."""
        team.edit(
            "drgate.toml",
            ('clinical = ["keys/clinical.pub"]', 'clinical = ["keys/clinical.pub"], scoring = ["keys/scoring.pub"]'),
            ("[gate]\n", '[gate]\nscorers = ["scoring"]\n'),
        )
        team.git("add", "drgate.toml", "keys/scoring.pub")
        return team

    def test_opens_where_the_policy_trusts_the_scorer(self, trusting: Team):
        self.judge(trusting)
        trusting.merge()
        assert closing(trusting.gate(0)) == {}

    def test_is_closed_where_the_policy_names_no_scorer(self, team: Team):
        """A table's own claim of a model opens nothing."""
        self.judge(team)
        team.merge()
        assert "scorers" in json.dumps(closing(team.gate(3)))

    def test_a_table_that_nobody_signed_says_so(self, team: Team):
        """It can be judged, and its headline says what it is worth."""
        self.score(team)
        ended = team.evaluate("sealed.parquet", "--grades", team.outside / "grades.csv", out="reports/sealed")
        assert ended.code == 0, ended
        assert "Scored elsewhere, not verified." in (team.root / "reports/sealed/report.md").read_text()


class TestRoles:
    def test_the_gate_names_the_command_that_adds_the_missing_signature(self, team: Team):
        """Two roles must sign. One did: closed. The other runs what the gate prints: open."""
        team.git("rm", "--quiet", "certificates/best/best_model.clinical.certificate.json")
        (reason,) = closing(team.gate(3)).values()
        command = re.search(r"Sign it: drgate (sign \S+ --role clinical --key) KEY", reason)
        assert command, reason
        team.does(*command[1].split(), "keys/clinical.pem", "--yes", "--trusted-key", "keys/ml.pub")
        team.git("add", "certificates")
        assert closing(team.gate(0)) == {}


class TestWaivers:
    def evaluated_again(self, team: Team, *pairs: tuple[str, str]) -> None:
        """Change the checklist, and certify the same model by it: the same images are no further look."""
        team.write("checklists/site-a.yaml", replaced(CHECKLIST, ("version: 1", "version: 2"), *pairs))
        team.evaluate("models/best_model.pth", "--data", team.outside / "data", out="reports/again")
        team.commit_certificates("reports/again", "certificates/again")
        team.git("add", "checklists")

    def waive(self, team: Team, *ids: str) -> None:
        """Both required roles sign, as docs/gate.md shows it."""
        for role, key in (("clinical", "clinical"), ("engineering", "ml")):
            signer = ("--base-ref", "main", "--role", role, "--key", f"keys/{key}.pem")
            team.does("waive", *ids, *signer, "--expires", "2099-12-31", "--reason", "Bridging until site B is graded.")
            team.git("add", "waivers")

    def test_a_criterion_that_the_model_does_not_meet(self, team: Team):
        """Four images with PDR show no 99 %. Waived, the gate is open, and the criterion is never shown as passed."""
        first = "criteria:\n"
        self.evaluated_again(team, (first, f'{first}  - {{id: "sensitivity:pdr", at_least: 0.99}}\n'))
        id = "criterion:models/best_model.pth:site-a-2026:sensitivity:pdr"
        assert [*closing(team.gate(1, 3))] == [id]
        self.waive(team, id)
        assert statuses(team.gate(0))[id] == "WAIVED"

    def test_a_rule_that_becomes_weaker(self, team: Team):
        self.evaluated_again(team, ("at_most: 0.6", "at_most: 0.7"))
        assert [*closing(team.gate(1))] == ["spec:no_output"]
        self.waive(team, "spec:no_output")
        assert statuses(team.gate(0))["spec:no_output"] == "WAIVED"


def test_cut_offs_are_committed_beside_the_model(team: Team):
    """They decide the grade, so the gate asks for the file."""
    tuning = team.root / "tuning.csv"
    answers(1, images=400, right=0.97).to_csv(tuning, index=False)
    criteria = CHECKLIST.replace("no_output, at_most: 0.6", '"sensitivity:referable", at_least: 0.5')
    team.write("tuning.yaml", criteria.replace("name: site-a", "name: tuning"))
    team.does("tune", tuning, "--spec", "tuning.yaml", "--out", "models/operating_point.json")
    data = ("--data", team.outside / "data", "--operating-point", "models/operating_point.json")
    ended = team.evaluate("models/best_model.pth", *data, out="reports/tuned")
    assert ended.code == 0, ended
    team.commit_certificates("reports/tuned", "certificates/tuned")
    team.git("add", "models")
    assert closing(team.gate(0)) == {}
    team.git("rm", "-r", "--quiet", "--cached", "models/operating_point.json", "certificates/best")
    assert "operating_point.json" in json.dumps(closing(team.gate(2, 3)))


def test_an_exported_model_with_the_certificate_of_its_parent(team: Team):
    """The bundle's model and its companions are guarded beside the checkpoint; look and training are the parent's."""
    team.edit("drgate.toml", ('"models/*.pth"', '"models/*.pth", "models/*.onnx"'))
    statement = json.loads((team.root / "bundle/statement.json").read_text())
    team.take("bundle", "models", *(subject["name"] for subject in statement["subject"]))
    team.commit_certificates("bundle", "certificates/exported")
    team.git("add", "models", "drgate.toml")
    assert closing(team.gate(0)) == {}
    shutil.rmtree(team.root / "certificates/best")
    team.git("add", "certificates")
    assert "exported from" in json.dumps(closing(team.gate(3)))


def _manifest_digest(team: Team) -> str:
    found = re.search(r'manifest_digest = "(sha256:[0-9a-f]{64})"', (team.root / "drgate.toml").read_text())
    assert found
    return found[1]
