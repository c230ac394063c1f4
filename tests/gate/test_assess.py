"""Which certificates count for a model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drgate.certificate.sign import certify, sign
from drgate.certificate.statement import Certificate, make_statement, read_certificate, reference
from drgate.errors import PolicyError
from drgate.evaluation import Estimate, Model, Spend
from drgate.files import canonical_json
from tests.support.evaluations import criterion, digest_of, file_entry
from tests.support.repositories import (
    Repository,
    answer,
    answers,
    closing,
    copy_of,
    model_facts,
    of,
    said,
    scored,
    waive,
)


class TestWhatDoesNotCount:
    """Certificates that open no gate."""

    def replace_certificate(self, repository: Repository, data: bytes | None, *, remove: bool = True) -> None:
        (path,) = (repository.root / "certificates").rglob("clinical.certificate.json")
        if remove:
            path.unlink()
        if data is not None:
            repository.write("certificates/other.json", data)

    def recertified(self, repository: Repository, key: str = "clinical", **changes: Any) -> bytes | None:
        evaluation, _ = repository.judge({"dr.pth": b"weights of the first model"})
        _, certificate = certify(replace(evaluation, **changes), repository.keys[key])
        return certificate

    def test_unsigned(self, repository):
        """Anybody could have written it."""
        evaluation, _ = repository.judge({"dr.pth": b"weights of the first model"})
        self.replace_certificate(repository, certify(evaluation, None)[0])
        report = answer(repository)
        assert report.exit_code == 3
        assert "is not signed" in of(report, "certificate").reason

    def test_of_a_stranger(self, repository):
        """Well signed, by nobody whom the policy knows."""
        self.replace_certificate(repository, self.recertified(repository, "stranger"))
        report = answer(repository)
        assert closing(report) == {"model:models/dr.pth:site-a:signatures": "NOT_ASSESSED"}
        assert "no key that the policy trusts" in said(report)

    @pytest.mark.parametrize("training", [{"history": 7}, {"spend": 7}, {"history": [1], "selected_epoch": 1}])
    def test_that_records_nonsense(self, repository, training):
        """No certificate, although a trusted key signed it, and no traceback."""
        evaluation, _ = repository.judge({"dr.pth": b"weights of the first model"})
        statement = make_statement(evaluation)
        statement.content["predicate"]["drgate"]["evaluation"]["training"] = training
        signed = sign(replace(statement, data=canonical_json(statement.content)), repository.keys["clinical"])
        self.replace_certificate(repository, signed)
        report = answer(repository)
        assert closing(report) == {"model:models/dr.pth:site-a:certificate": "NOT_ASSESSED"}
        assert "training." in of(report, "certificate").reason

    def test_in_another_role(self, repository):
        """Trusted, and not the role that must sign."""
        self.replace_certificate(repository, self.recertified(repository, "engineering"))
        report = answer(repository)
        assert "Signed by engineering; the policy requires 1 of clinical" in of(report, "signatures").reason
        assert re.search(r"drgate sign certificates/\S+ --role clinical --key KEY", of(report, "signatures").reason)
        assert report.exit_code == 3

    def test_forged(self, repository):
        """A stranger's signature under a trusted key's name."""
        forger = replace(repository.keys["clinical"], _key=repository.keys["stranger"]._key)
        repository.keys["forger"] = forger
        self.replace_certificate(repository, self.recertified(repository, "forger"))
        report = answer(repository)
        assert report.exit_code == 2
        assert "forged or damaged. Remove it" in of(report, "tampering").reason
        assert of(report, "certificate").status == "NOT_ASSESSED"

    def test_of_a_table_of_predictions(self, repository):
        """It speaks of no model, though it names the file."""
        table = Model("predictions table", "dr.pth", (file_entry("dr.pth", b"weights of the first model", "table"),))
        self.replace_certificate(repository, self.recertified(repository, model=table))
        report = answer(repository)
        assert report.exit_code == 3
        assert "is about a table of predictions" in of(report, "certificate").reason

    def test_by_another_checklist(self, repository):
        """Also by one that calls itself the same."""
        easy = (repository.root / "checklists/site-a.yaml").read_text().replace("0.7}", "0.1}")
        files = {"dr.pth": b"weights of the first model"}
        evaluation, _ = repository.judge(files, checklist=easy, chain="elsewhere.jsonl")
        _, data = certify(evaluation, repository.keys["clinical"])
        self.replace_certificate(repository, data)
        report = answer(repository)
        assert report.exit_code == 3
        assert "uses the checklist site-a version 1, not checklists/site-a.yaml" in said(report)

    def test_of_a_checklist_under_anothers_digest(self, repository):
        """The digest is that of the policy's; the content is not."""
        evaluation, _ = repository.judge({"dr.pth": b"weights of the first model"})
        content = {**evaluation.spec.content, "looks": 6}
        checklist = replace(evaluation.spec, content=content)
        assert digest_of(content) != checklist.digest
        self.replace_certificate(repository, self.recertified(repository, spec=checklist))
        assert answer(repository).exit_code == 3

    def test_by_a_checklist_for_pipelines(self, repository):
        """Neither a policy nor a certificate may rest on one."""
        smoke = "name: s\nversion: 1\npurpose: pipeline\ncriteria: [{id: accuracy, at_least: 0.1}]\n"
        files = {"dr.pth": b"weights of the first model"}
        evaluation, _ = repository.judge(files, checklist=smoke, chain="elsewhere.jsonl")
        self.replace_certificate(repository, certify(evaluation, repository.keys["clinical"])[1])
        assert "only tests a pipeline" in of(answer(repository), "certificate").reason
        repository.write("checklists/site-a.yaml", smoke)
        with pytest.raises(PolicyError, match="certifies nothing"):
            answer(repository)

    def test_observed_although_no_criterion_is(self, repository):
        """Where estimates decide, a cost that passes on its value shows nothing about the model's answers."""
        observed = "name: site-a\nversion: 2\nlooks: 5\nevidence: {decide_on: point}\ncriteria:\n"
        observed += "  - {id: cost, below: 100}\n  - {id: accuracy, at_least: 0.7, required: false}\n"
        repository.write("checklists/site-a.yaml", observed)
        evaluation, _ = repository.judge({"dr.pth": b"weights of the first model"})
        cost = next(one for one in evaluation.criteria if one.id == "cost")
        paid = replace(cost, status="PASS", estimate=Estimate("amount", 12.5, n=1))
        criteria = (paid, *(one for one in evaluation.criteria if one is not cost))
        evaluation = replace(evaluation, criteria=criteria, verdict="OBSERVED")
        repository.certify("certificates/observed", evaluation, None)
        repository.merge()
        report = answer(repository)
        assert closing(report) == {"verdict:models/dr.pth:site-a": "OBSERVED"}
        assert report.exit_code == 3
        assert "this does not show it" in of(report, "verdict").reason
        waive(repository, report, "verdict:models/dr.pth:site-a")
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert of(report, "verdict").status == "WAIVED"

    def test_on_another_test_set(self, repository):
        """Whatever it is called."""
        other = f"sha256:{'c' * 64}"
        files = {"dr.pth": b"weights of the first model"}
        evaluation, _ = repository.judge(files, test_set=other, chain="elsewhere.jsonl")
        self.replace_certificate(repository, certify(evaluation, repository.keys["clinical"])[1])
        assert "is for another test set, site-a" in said(answer(repository))

    def test_that_lacks_a_line(self, repository):
        """Signed by those who may, and still not the whole checklist."""
        evaluation, _ = repository.judge({"dr.pth": b"weights of the first model"})
        lines = tuple(line for line in evaluation.criteria if line.id != "sensitivity:pdr")
        self.replace_certificate(repository, self.recertified(repository, criteria=lines))
        report = answer(repository)
        assert of(report, "sensitivity:pdr").status == "REFUSED"

    def test_with_a_line_of_another_threshold(self, repository):
        """The line is there under its name, and asks for less."""
        lines = (criterion("accuracy", "PASS"),)
        self.replace_certificate(repository, self.recertified(repository, criteria=lines))
        assert of(answer(repository), "sensitivity:pdr").status == "REFUSED"

    def test_revoked_by_its_key_or_digest(self, repository):
        """What is no longer believed, by the policy on the base branch."""
        evaluation, _ = repository.judge({"dr.pth": b"weights of the first model"})
        statement = digest_of(json.loads(certify(evaluation, None)[0]))
        for name in (statement, repository.keys["clinical"].public.id):
            text = (repository.root / "drgate.toml").read_text()
            repository.replace("drgate.toml", "max_age", f'revoked = ["{name} the laptop was lost"]\nmax_age')
            report = answer(repository)
            assert report.exit_code == 1, said(report)
            assert "the laptop was lost" in said(report)
            repository.write("drgate.toml", text)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{}",
            b'{"dsseEnvelope":{"payload":"' + b"A" * 400 + b'"}}',
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"dsseEnvelope":' * 10_000,
            b"\0" * (17 << 20),
        ],
    )
    def test_no_certificate_at_all(self, repository, data):
        """Empty, of another kind, nested without end, larger than any certificate."""
        self.replace_certificate(repository, data)
        report = answer(repository)
        assert report.exit_code == 3
        assert of(report, "certificate").status == "NOT_ASSESSED"

    def test_rubbish_beside_a_good_one_does_not_matter(self, repository):
        """A folder may hold notes, and a broken copy."""
        (good,) = (repository.root / "certificates").rglob("clinical.certificate.json")
        repository.write("certificates/README.md", "notes")
        repository.write("certificates/broken.json", good.read_bytes()[:-1])
        data = self.recertified(repository, "stranger")
        assert data is not None
        repository.write("certificates/approved by the board.json", data)
        report = answer(repository)
        assert report.exit_code == 0
        assert "by the board" not in of(report, "signatures").reason

    def test_several_roles(self, repository):
        """n of m: a role counts where its own key has signed the same statement."""
        repository.replace(
            "drgate.toml", 'required_roles = ["clinical"]', 'required_roles = ["clinical", "engineering"]'
        )
        assert closing(answer(repository)) == {"model:models/dr.pth:site-a:signatures": "NOT_ASSESSED"}
        evaluation, _ = repository.judge({"dr.pth": b"weights of the first model"})
        repository.certify("certificates/second", evaluation, None, roles=("engineering",))
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert "Signed by clinical, engineering" in of(report, "signatures").reason

    def test_several_test_sets(self, repository):
        """A model must hold on each that the policy names."""
        other = f"sha256:{'c' * 64}"
        more = f'\n[[gate.test_sets]]\nname = "site-b"\nmanifest_digest = "{other}"\nlooks = "looks/site-b.jsonl"\n'
        repository.write("drgate.toml", (repository.root / "drgate.toml").read_text() + more)
        report = answer(repository)
        assert closing(report)["model:models/dr.pth:site-b:certificate"] == "NOT_ASSESSED"
        assert of(report, "certificate on site-b").group == "models/dr.pth"
        files = {"dr.pth": b"weights of the first model"}
        evaluation, predictions = repository.judge(files, test_set=other, chain="looks/site-b.jsonl")
        repository.certify("certificates/site-b", evaluation, predictions)
        assert answer(repository).exit_code == 0


class TestExportedModel:
    """An ONNX file takes stability, cost and look from the certificate that it was exported under."""

    @pytest.fixture
    def exported(self, demanding: Repository, tmp_path: Path) -> Repository:
        repository = copy_of(demanding, tmp_path / "repository")
        repository.replace("drgate.toml", '"models/*.pth"', '"models/*.pth", "models/*.onnx"')
        parent, _ = repository.judge({"dr.pth": b"weights of the first model"})
        model = model_facts({"dr.onnx": b"graph"})
        made = replace(parent, model=replace(model, parent=reference(make_statement(parent))))
        repository.write("models/dr.onnx", b"graph")
        repository.certify("certificates/exported", made, repository.published(scored(answers(1), model)))
        return repository

    def test_with_its_parents_certificate(self, exported):
        """The look is the parent's, and in the chain under the parent's tensors."""
        report = answer(exported)
        assert report.exit_code == 0, said(report)
        assert of(report, "parent").status == "PASS"

    def test_without_it(self, exported):
        """Nobody can see what it was exported under, though the checkpoint need not be there."""
        (exported.root / "models/dr.pth").unlink()
        exported.replace("drgate.toml", '"models/*.pth", ', "")
        exported.replace("drgate.toml", "[gate]", "[gate]\nnot_models = []")
        exported.merge()
        assert answer(exported).exit_code == 0
        (path,) = (exported.root / "certificates").glob("dr.pth*/clinical.certificate.json")
        path.unlink()
        report = answer(exported)
        assert closing(report) == {"model:models/dr.onnx:site-a:parent": "NOT_ASSESSED"}

    def test_that_a_stranger_signed(self, exported):
        """Cost and stability on a stranger's word."""
        (path,) = (exported.root / "certificates").glob("dr.pth*/clinical.certificate.json")
        parent = read_certificate(path)
        assert isinstance(parent, Certificate)
        path.write_bytes(sign(parent.statement, exported.keys["stranger"]))
        assert "model:models/dr.onnx:site-a:parent" in closing(answer(exported))

    def test_that_says_something_else(self, exported):
        """The exported file's certificate claims a cost that the parent's does not have."""
        parent, _ = exported.judge({"dr.pth": b"weights of the first model"})
        model = replace(model_facts({"dr.onnx": b"graph"}), parent=reference(make_statement(parent)))
        made = replace(parent, model=model, training=replace(parent.training, spend=Spend(usd=1.0)))
        exported.certify("certificates/exported", made, None)
        assert of(answer(exported), "parent").status == "REFUSED"
