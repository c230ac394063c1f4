"""Real Git repositories with a policy, keys, models and certificates, for tests of the gate. No torch."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from drgate.certificate.keys import PrivateKey, generate_key, load_private_key
from drgate.certificate.sign import certify
from drgate.checklist import parse_yaml
from drgate.evaluate import evaluate
from drgate.evaluation import COMPANIONS, Evaluation, Model, Role, TestSet, plain_of
from drgate.gate.findings import Finding, GateReport
from drgate.gate.gate import gate
from drgate.gate.waiver import Waiver, covers, make_waiver
from drgate.looks import Seen, take_look
from drgate.predictions import Predictions, make_predictions, published, write_predictions
from drgate.preprocessing import parse_preprocessing
from tests.support.evaluations import THIS_RUN, file_entry

CHECKLIST = """\
name: site-a
version: 1
looks: 5
bootstrap: {resamples: 1000}
slices: [{by: camera}]
criteria:
  - {id: accuracy, at_least: 0.7}
  - {id: "sensitivity:pdr", at_least: 0.6}
  - {id: "specificity:no_dr", at_least: 0.5}
  - {id: "sensitivity:pdr@camera=each", at_least: 0.1, required: false}
  - {id: stability, below: 0.05, required: false}
"""
POLICY = """\
[gate]
models = ["models/*.pth"]
spec = "checklists/site-a.yaml"
trusted_keys = { clinical = ["keys/clinical.pub"], engineering = ["keys/engineering.pub"] }
required_roles = ["clinical"]
max_age_days = 365
require_predictions = false

[[gate.test_sets]]
name = "site-a"
manifest_digest = "%s"
looks = "looks/site-a.jsonl"
"""
TEST_SET = f"sha256:{'a' * 64}"
IMAGES = f"sha256:{'b' * 64}"
RECENT = "2026-01-31T09:00:00Z"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOSTILE = "models/a\n::error::x `b` <img src=x> | ##[error]'\".pth"
"""The path of a model that a terminal, a runner, Markdown or XML could misread."""

_EVALUATED: dict[tuple[Any, ...], Evaluation] = {}
_GIT = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


def answers(seed: int, *, images: int = 160, right: float = 0.93) -> pd.DataFrame:
    """Patients with two images each, mostly graded right."""
    rng = np.random.default_rng(seed)
    grades = np.arange(images) % 5
    called = np.where(rng.random(images) < right, grades, (grades + 1) % 5)
    probabilities = np.full((images, 5), 0.05)
    probabilities[np.arange(images), called] = 0.8
    table = pd.DataFrame(probabilities, columns=["p_0", "p_1", "p_2", "p_3", "p_4"])
    table.insert(0, "image", [f"{i:05}.jpg" for i in range(images)])
    table["patient"] = [f"p{i // 2}" for i in range(images)]
    table["camera"] = ["A" if i // 2 % 2 else "B" for i in range(images)]
    return table.assign(grade=grades)


def model_facts(files: Mapping[str, bytes]) -> Model:
    """What a certificate says of a model with these files; the tensors are told apart by the bytes."""
    digest = hashlib.sha256(b"".join(files.values())).hexdigest()
    roles: dict[str, Role] = {**COMPANIONS, next(iter(files)): "model"}
    entries = tuple(file_entry(name, content, roles.get(name, "data")) for name, content in files.items())
    return Model("checkpoint", next(iter(files)), entries, THIS_RUN, tensor_digest=f"sha256:{digest}")


def scored(table: pd.DataFrame, model: Model, test_set: str = TEST_SET) -> Predictions:
    """Predictions that carry what `score` would have written of this model and test set."""
    manifest = {"name": "site-a", "digest": test_set, "split": "test", "images_digest": IMAGES, "dealt_by_seed": None}
    return make_predictions(table, "scored", {"model": plain_of(model), "manifest": manifest, "preprocessing": {}})


def complete(predictions: Predictions) -> Predictions:
    """The same with all that `score` records and a signed table names."""
    record = predictions.provenance
    model = {**record["model"], "scored_with": {"drgate": "0.1.0"}, "providers": ["cpu"], "precision": "fp32"}
    own = parse_preprocessing("fundus-square-1")
    prepared = {"name": own.name, "digest": own.digest, "content": own.content(), "pillow": "11.0"}
    return replace(predictions, provenance={**record, "model": model, "preprocessing": prepared})


def git_in(root: Path, *arguments: str) -> str:
    """What git writes; a command that fails raises."""
    done = subprocess.run(["git", *arguments], cwd=root, env={**os.environ, **_GIT}, check=True, capture_output=True)
    return done.stdout.decode(errors="surrogateescape")


@dataclass
class Repository:
    """A repository in a folder. main holds what was set up; work goes on in the branch `change`."""

    root: Path
    keys: dict[str, PrivateKey] = field(default_factory=dict)

    def git(self, *arguments: str) -> str:
        return git_in(self.root, *arguments)

    def write(self, path: str, content: str | bytes) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def replace(self, path: str, old: str, new: str) -> None:
        """Change a text in a file, which must be there."""
        text = (self.root / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

    def stage(self) -> None:
        self.git("add", "--all")

    def merge(self) -> None:
        """Commit the branch and make it the new main."""
        self.stage()
        self.git("commit", "--quiet", "--allow-empty", "-m", "a change")
        self.git("branch", "--force", "main")

    def gate(self, **options: Any) -> GateReport:
        """The gate's answer on what is in the folder, all of it staged."""
        self.stage()
        return gate(self.root, **{"base_ref": "main", **options})

    def judge(
        self,
        files: Mapping[str, bytes],
        *,
        table: pd.DataFrame | None = None,
        time: str = RECENT,
        test_set: str = TEST_SET,
        checklist: str | None = None,
        chain: str = "looks/site-a.jsonl",
        baseline: Predictions | None = None,
    ) -> tuple[Evaluation, Predictions]:
        """Judge a model by a checklist (by default that of the repository), and log the look."""
        checklist = parse_yaml((checklist or (self.root / "checklists/site-a.yaml").read_text()).encode(), "checklist")
        model = model_facts(files)
        predictions = published(scored(answers(1) if table is None else table, model, test_set), checklist)
        look = take_look(
            self.root / chain,
            Seen.of(predictions, "site-a"),
            model=str(model.tensor_digest),
            predictions=predictions.digest,
            checklist=checklist,
            time=time,
        )
        data = TestSet("site-a", manifest_digest=test_set, images_digest=IMAGES)
        # What is carried along costs nothing to exchange; the numbers are computed once for all tests.
        key = (predictions.digest, checklist.digest, look.number, look.allowed, test_set, baseline and baseline.digest)
        if key not in _EVALUATED:
            _EVALUATED[key] = evaluate(predictions, checklist, model=model, data=data, look=look, baseline=baseline)
        return replace(_EVALUATED[key], model=model, look=look), predictions

    def published(self, predictions: Predictions) -> Predictions:
        """The predictions as the repository's checklist publishes them."""
        return published(predictions, parse_yaml((self.root / "checklists/site-a.yaml").read_bytes(), "checklist"))

    def certify(
        self,
        folder: str,
        evaluation: Evaluation,
        predictions: Predictions | None,
        *,
        roles: tuple[str, ...] = ("clinical",),
    ) -> None:
        """Write a folder as `evaluate` leaves it, with a certificate a role."""
        for role in roles:
            _, certificate = certify(evaluation, self.keys[role])
            assert certificate is not None
            self.write(f"{folder}/{role}.certificate.json", certificate)
        if predictions is not None:
            write_predictions(predictions, self.root / folder / "predictions.parquet")

    def add_model(self, name: str, content: bytes, **options: Any) -> Evaluation:
        """A model with a good certificate."""
        evaluation, predictions = self.judge({name: content}, **options)
        self.write(f"models/{name}", content)
        self.certify(f"certificates/{name}-{hashlib.sha256(content).hexdigest()[:8]}", evaluation, predictions)
        return evaluation


def make_repository(root: Path) -> Repository:
    """A repository whose main has a policy, keys, a checklist and one certified model."""
    root.mkdir(parents=True)
    made = Repository(root)
    made.git("init", "--quiet", "--initial-branch=main", "--template=")
    made.git("config", "core.autocrlf", "false")
    made.write("checklists/site-a.yaml", CHECKLIST)
    made.write("drgate.toml", POLICY % TEST_SET)
    made.write(".gitignore", "/secret\n.looks.lock\n")
    (root / "keys").mkdir()
    (root / "secret").mkdir()
    for role in ("clinical", "engineering", "stranger"):
        private, public = generate_key(root / "secret" / role, None)
        made.keys[role] = load_private_key(private)
        made.write(f"{'secret' if role == 'stranger' else 'keys'}/{role}.pub", public.read_bytes())
    made.add_model("dr.pth", b"weights of the first model")
    made.stage()
    made.git("commit", "--quiet", "-m", "a guarded repository")
    made.git("checkout", "--quiet", "-b", "change")
    return made


def copy_of(template: Repository, root: Path) -> Repository:
    """A repository of its own with the same history."""
    shutil.copytree(template.root, root, symlinks=True)
    return Repository(root, dict(template.keys))


def answer(repository: Repository, **options: Any) -> GateReport:
    """The gate's report at `NOW`, all files staged."""
    return repository.gate(**{"now": NOW, **options})


def closing(report: GateReport) -> dict[str, str]:
    """Status by id of what closes the gate."""
    return {finding.id: finding.status for finding in report.findings if finding.closes}


def said(report: GateReport) -> str:
    """All findings and notes as text."""
    return "\n".join([*(f"{f.status} {f.group} {f.check}: {f.reason}" for f in report.findings), *report.notes])


def of(report: GateReport, check: str) -> Finding:
    """The one finding of a check."""
    (found,) = [finding for finding in report.findings if finding.check == check]
    return found


def waive(repository: Repository, report: GateReport, *ids: str, **options: Any) -> Waiver:
    """Write a waiver for findings of a report, by default one of `clinical` that holds for a month."""
    role = options.pop("role", "clinical")
    settings = {"reason": "bridging", "role": role, "issued": NOW, "expires": NOW + timedelta(days=30)} | options
    waiver = make_waiver(covers(report, ids), **{"key": repository.keys[role], **settings})
    repository.write(f"waivers/{role}-{waiver.digest[7:15]}.json", waiver.to_bytes())
    return waiver
