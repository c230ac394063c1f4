"""The gate: a real repository, a change to it, and whether it may be merged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from drgate.certificate.chain import line_digest
from drgate.certificate.sign import certify, sign
from drgate.certificate.statement import Certificate, make_statement, read_certificate, reference
from drgate.errors import CertificateError, DrgateError, PolicyError, RepositoryError
from drgate.evaluation import Look, Model, Spend
from drgate.files import canonical_json
from drgate.gate.gate import RULES, Finding, GateReport, covers, gate
from drgate.gate.waiver import Waiver, make_waiver, parse_waiver
from drgate.predictions import write_predictions
from drgate.report import gate as drawn
from tests.support.evaluations import criterion, digest_of, file_entry
from tests.support.repositories import (
    RECENT,
    TEST_SET,
    Repository,
    answers,
    copy_of,
    make_repository,
    model_facts,
    scored,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOSTILE = "models/a\n::error::x `b` <img src=x> | ##[error]'\".pth"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return make_repository(tmp_path_factory.mktemp("template") / "repository")


@pytest.fixture(scope="module")
def demanding(template: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Whose policy asks for the predictions."""
    made = copy_of(template, tmp_path_factory.mktemp("demanding") / "repository")
    made.replace("drgate.toml", "require_predictions = false", "require_predictions = true")
    made.merge()
    return made


@pytest.fixture
def repository(template: Repository, tmp_path: Path) -> Repository:
    """A repository whose main is guarded and whose branch `change` is checked out, unchanged."""
    return copy_of(template, tmp_path / "repository")


def answer(repository: Repository, **options: Any) -> GateReport:
    return repository.gate(**{"now": NOW, **options})


def closing(report: GateReport) -> dict[str, str]:
    """Status by id of what closes the gate."""
    return {finding.id: finding.status for finding in report.findings if finding.closes}


def said(report: GateReport) -> str:
    return "\n".join([*(f"{f.status} {f.group} {f.check}: {f.reason}" for f in report.findings), *report.notes])


def of(report: GateReport, check: str) -> Finding:
    (found,) = [finding for finding in report.findings if finding.check == check]
    return found


def waive(repository: Repository, report: GateReport, *ids: str, **options: Any) -> Waiver:
    """Write a waiver for findings of a report, by default one of `clinical` that holds for a month."""
    role = options.pop("role", "clinical")
    settings = {"reason": "bridging", "role": role, "issued": NOW, "expires": NOW + timedelta(days=30)} | options
    waiver = make_waiver(covers(report, ids), **{"key": repository.keys[role], **settings})
    repository.write(f"waivers/{role}-{waiver.digest[7:15]}.json", waiver.to_bytes())
    return waiver


class TestChangedModel:
    """A merge that changes a model."""

    def test_nothing_changed_is_open(self, repository):
        """What holds on the base branch holds on."""
        report = answer(repository)
        assert (report.exit_code, closing(report)) == (0, {})
        assert of(report, "rules").reason == "The rules are those of the base branch."

    def test_with_a_good_certificate_passes(self, demanding, tmp_path):
        """Signed, on the policy's test set, by its checklist, fresh, every number recomputed."""
        repository = copy_of(demanding, tmp_path / "repository")
        repository.add_model("dr.pth", b"better weights", table=answers(2))
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert {f.status for f in report.findings if f.required} == {"PASS"}
        assert "Every number was recomputed from certificates/dr.pth-" in of(report, "predictions").reason
        assert of(report, "accuracy").status == "PASS"

    def test_with_the_old_certificate_fails(self, repository):
        """A certificate speaks of bytes, not of a file name."""
        repository.write("models/dr.pth", b"better weights")
        report = answer(repository)
        assert report.exit_code == 3
        assert "No certificate in certificates counts for this file" in of(report, "certificate").reason

    def test_one_byte_more_is_another_model(self, repository):
        """Of the same size or not."""
        repository.write("models/dr.pth", b"weights of the first model.")
        assert answer(repository).exit_code == 3

    def test_that_failed_stays_out(self, repository):
        """A genuine certificate that says FAIL: exit code 1, and the line that failed is named."""
        repository.add_model("dr.pth", b"worse weights", table=answers(2, right=0.4))
        report = answer(repository)
        assert report.exit_code == 1
        assert of(report, "accuracy").status == "FAIL"

    def test_without_enough_evidence_is_3(self, repository):
        """Too few images: not failed, not shown."""
        repository.add_model("dr.pth", b"unproven weights", table=answers(2, images=20, right=1))
        report = answer(repository)
        assert report.exit_code == 3
        assert of(report, "accuracy").status == "INSUFFICIENT"

    def test_too_old_a_certificate_is_not_for_a_changed_model(self, repository):
        """Its look was taken longer ago than the policy allows; an unchanged model keeps it."""
        repository.add_model("dr.pth", b"better weights", table=answers(2), time="2025-01-31T09:00:00Z")
        report = answer(repository)
        assert closing(report) == {"model:models/dr.pth:site-a:age": "FAIL"}
        assert "at most 365 are allowed" in of(report, "age").reason
        repository.merge()
        assert answer(repository).exit_code == 0

    def test_of_tomorrow_is_refused(self, repository):
        """A certificate dated ahead of the clock would stay young for longer."""
        assert "model:models/dr.pth:site-a:age" in closing(answer(repository, now=datetime(2026, 1, 1, tzinfo=UTC)))

    def test_expiry_ends_unchanged_models_too(self, repository):
        """What its checklist sets as its end is signed, and holds for all."""
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2\nvalid_days: 10")
        repository.add_model("dr.pth", b"weights of the first model")
        repository.merge()
        report = answer(repository)
        assert closing(report) == {"model:models/dr.pth:site-a:age": "FAIL"}
        assert "It expired on 2026-02-10." in of(report, "age").reason

    def test_moved_is_not_changed(self, repository):
        """The same bytes under another name need no fresh certificate."""
        (repository.root / "models/dr.pth").rename(repository.root / "models/renamed.pth")
        report = answer(repository, now=NOW + timedelta(days=400))
        assert report.exit_code == 0, said(report)

    @pytest.mark.parametrize("time", ["2026-02-01T09:00:00Z", RECENT])
    def test_later_look_speaks(self, repository, time):
        """Of two certificates for one model on one test set, the later look decides, also where it says FAIL."""
        self.worse_look(repository, time=time)
        report = answer(repository)
        assert report.exit_code == 1
        assert of(report, "accuracy").status == "FAIL"

    def worse_look(self, repository: Repository, time: str = "2026-02-01T09:00:00Z", **options: Any) -> Path:
        """A later look at the same model, which fails; its certificate."""
        worse = answers(1)
        worse["grade"] = (worse["grade"] + 1) % 5
        files = {"dr.pth": b"weights of the first model"}
        evaluation, predictions = repository.judge(files, table=worse, time=time)
        repository.certify("certificates/again", evaluation, predictions, **options)
        return next((repository.root / "certificates/again").glob("*.certificate.json"))

    def test_later_look_cannot_be_hidden(self, repository):
        """Its certificate is deleted, or stands beside a forged copy that makes it look tampered with."""
        path = self.worse_look(repository)
        genuine = read_certificate(path)
        assert isinstance(genuine, Certificate)
        forged = replace(genuine, signature=repository.keys["clinical"].sign(b"something else"))
        repository.write("certificates/again/copy.json", forged.to_bytes())
        report = answer(repository)
        assert of(report, "accuracy").status == "FAIL"
        assert closing(report)["certificate:certificates/again/copy.json"] == "REFUSED"
        (repository.root / "certificates/again/copy.json").unlink()
        path.unlink()
        report = answer(repository)
        assert closing(report) == {"model:models/dr.pth:site-a:look": "NOT_ASSESSED"}
        assert "holds a later look of this model (2026-02-01T09:00:00Z)" in of(report, "look").reason

    @pytest.mark.parametrize("logged", [True, False])
    def test_later_look_speaks_under_one_signature(self, repository, logged):
        """Where two must sign, the FAIL that one of them signed is enough to close, in the chain or not."""
        repository.replace("drgate.toml", '= ["clinical"]', '= ["clinical", "engineering"]')
        chain = (repository.root / "looks/site-a.jsonl").read_bytes()
        evaluation, _ = repository.judge({"dr.pth": b"weights of the first model"})
        repository.certify("certificates/second", evaluation, None, roles=("engineering",))
        assert answer(repository).exit_code == 0
        self.worse_look(repository, roles=("engineering",))
        if not logged:
            repository.write("looks/site-a.jsonl", chain)
        assert of(answer(repository), "accuracy").status == "FAIL"

    @pytest.mark.parametrize("stash", ["docs/figure.bin", "models/dr.txt"])
    def test_old_weights_by_way_of_another_file(self, repository, stash):
        """Bytes that a merge brought in as something else were never judged, so a model made of them is changed."""
        evaluation, predictions = repository.judge({"dr.pth": b"old"}, table=answers(2), time="2024-01-31T09:00:00Z")
        repository.certify("certificates/old", evaluation, predictions)
        repository.write(stash, b"old")
        assert answer(repository).exit_code == 0
        repository.merge()
        (repository.root / stash).rename(repository.root / "models/dr.pth")
        assert closing(answer(repository)) == {"model:models/dr.pth:site-a:age": "FAIL"}


class TestModelFiles:
    """Models as files, Git LFS pointers and DVC files: their digests are matched without the weights."""

    def swap(self, repository: Repository, path: str, content: str | bytes) -> None:
        (repository.root / "models/dr.pth").unlink()
        repository.write(path, content)

    def pointer(self, content: bytes) -> str:
        oid = hashlib.sha256(content).hexdigest()
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"

    def dvc(self, content: bytes, name: str = "dr.pth") -> str:
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return f"outs:\n- md5: {md5}\n  size: {len(content)}\n  hash: md5\n  path: {name}\n"

    def test_lfs_pointer(self, repository):
        """SHA-256 and size stand in the pointer."""
        self.swap(repository, "models/dr.pth", self.pointer(b"weights of the first model"))
        assert answer(repository).exit_code == 0

    def test_lfs_pointer_of_another_model(self, repository):
        """Of another digest, and of another size under the same digest."""
        right = self.pointer(b"weights of the first model")
        for wrong in (self.pointer(b"other"), right.replace("size 26", "size 27")):
            self.swap(repository, "models/dr.pth", wrong)
            assert answer(repository).exit_code == 3

    @pytest.mark.parametrize("damage", ["size 26", "oid sha256:", "v1"])
    def test_lfs_pointer_that_is_damaged(self, repository, damage):
        """Neither a pointer nor a model."""
        self.swap(repository, "models/dr.pth", self.pointer(b"weights of the first model").replace(damage, "x"))
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
            ("outs:\n- md5: d41d8cd98f00b204e9800998ecf8427e.dir\n  size: 3\n  path: dr.pth\n", "stands for a folder"),
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
        repository.certify("certificates/exported", made, scored(answers(1), model))
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
        """Though those signed it who may: no certificate, and no traceback."""
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
        assert "Signed by engineering; the policy asks for 1 of clinical" in of(report, "signatures").reason
        assert re.search(r"drgate sign certificates/\S+ --role clinical --key KEY", of(report, "signatures").reason)
        assert report.exit_code == 3

    def test_forged(self, repository):
        """A stranger's signature under a trusted key's name."""
        forger = replace(repository.keys["clinical"], _key=repository.keys["stranger"]._key)
        repository.keys["forger"] = forger
        self.replace_certificate(repository, self.recertified(repository, "forger"))
        report = answer(repository)
        assert report.exit_code == 2
        assert "a forgery; take it out" in of(report, "tampering").reason
        assert of(report, "certificate").status == "NOT_ASSESSED"

    def test_of_a_table_of_predictions(self, repository):
        """It speaks of no model, though it names the file."""
        table = Model("predictions table", "dr.pth", (file_entry("dr.pth", b"weights of the first model"),))
        self.replace_certificate(repository, self.recertified(repository, model=table))
        report = answer(repository)
        assert report.exit_code == 3
        assert "speaks of a table of predictions" in of(report, "certificate").reason

    def test_by_another_checklist(self, repository):
        """Also by one that calls itself the same."""
        easy = (repository.root / "checklists/site-a.yaml").read_text().replace("0.7}", "0.1}")
        files = {"dr.pth": b"weights of the first model"}
        evaluation, _ = repository.judge(files, checklist=easy, chain="elsewhere.jsonl")
        _, data = certify(evaluation, repository.keys["clinical"])
        self.replace_certificate(repository, data)
        report = answer(repository)
        assert report.exit_code == 3
        assert "is by the checklist site-a version 1, not by checklists/site-a.yaml" in said(report)

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
        assert "for trying a pipeline" in of(answer(repository), "certificate").reason
        repository.write("checklists/site-a.yaml", smoke)
        with pytest.raises(PolicyError, match="certifies nothing"):
            answer(repository)

    def test_on_another_test_set(self, repository):
        """Whatever it is called."""
        other = f"sha256:{'c' * 64}"
        files = {"dr.pth": b"weights of the first model"}
        evaluation, _ = repository.judge(files, test_set=other, chain="elsewhere.jsonl")
        self.replace_certificate(repository, certify(evaluation, repository.keys["clinical"])[1])
        assert "is on another test set, site-a" in said(answer(repository))

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


class TestPredictions:
    """Where the policy asks for them, every number is recomputed."""

    @pytest.fixture
    def repository(self, demanding: Repository, tmp_path: Path) -> Repository:
        return copy_of(demanding, tmp_path / "repository")

    @pytest.fixture
    def table(self, repository: Repository) -> Path:
        (path,) = (repository.root / "certificates").rglob("predictions.parquet")
        return path

    def test_missing(self, repository, table):
        """The evidence was not committed."""
        table.unlink()
        report = answer(repository)
        assert closing(report) == {"model:models/dr.pth:site-a:predictions": "NOT_ASSESSED"}

    def test_are_not_asked_for_where_the_policy_says_so(self, repository, table):
        """Then they are not looked at."""
        table.unlink()
        repository.replace("drgate.toml", "require_predictions = true", "require_predictions = false")
        repository.merge()
        report = answer(repository)
        assert report.exit_code == 0
        assert "recomputed" not in said(report)

    def test_of_another_model_with_the_same_rows(self, repository, table):
        """Only what `score` bound to the model's files counts."""
        write_predictions(scored(answers(1), model_facts({"dr.pth": b"another model"})), table)
        report = answer(repository)
        assert report.exit_code == 3
        assert "holds these rows and is bound to other files" in of(report, "predictions").reason

    def test_that_nothing_binds(self, repository, table):
        """A table from elsewhere has the rows, and speaks of no model."""
        answers(1).to_parquet(table)
        assert of(answer(repository), "predictions").status == "NOT_ASSESSED"

    def test_damaged(self, repository, table):
        """Truncated, empty, of another kind."""
        whole = table.read_bytes()
        for data in (whole[: len(whole) // 2], b"", b"PAR1 PAR1"):
            table.write_bytes(data)
            report = answer(repository)
            assert report.exit_code == 3
            assert "cannot be read" in of(report, "predictions").reason

    def test_wherever_they_lie(self, repository, table):
        """In the folder of certificates, found by their rows."""
        (repository.root / "certificates/evidence").mkdir()
        table.rename(repository.root / "certificates/evidence/rows.parquet")
        report = answer(repository)
        assert report.exit_code == 0
        assert "certificates/evidence/rows.parquet" in of(report, "predictions").reason

    def test_lie_is_found_though_well_signed(self, repository):
        """The signer says more than the predictions do."""
        evaluation, predictions = repository.judge({"dr.pth": b"boasting"}, table=answers(2))
        lied = replace(evaluation.metrics["accuracy"], k=160, value=1.0, low=0.97, high=1.0)
        criteria = tuple(replace(c, estimate=lied) if c.id == "accuracy" else c for c in evaluation.criteria)
        made = replace(evaluation, metrics={**evaluation.metrics, "accuracy": lied}, criteria=criteria)
        repository.write("models/dr.pth", b"boasting")
        repository.certify("certificates/boast", made, predictions)
        report = answer(repository)
        assert report.exit_code == 2
        assert "Recomputed from the predictions, criteria.accuracy" in of(report, "predictions").reason

    def test_as_a_pointer(self, repository, table):
        """What an LFS pointer stands for is read where it was fetched, and only the very bytes."""
        data = table.read_bytes()
        oid = hashlib.sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n"
        table.write_text(pointer)
        repository.stage()
        assert "fetch it" in of(gate(repository.root, base_ref="main", now=NOW), "predictions").reason
        table.write_bytes(data)
        assert gate(repository.root, base_ref="main", now=NOW).exit_code == 0
        table.write_bytes(data[:-1] + b"x")
        assert gate(repository.root, base_ref="main", now=NOW).exit_code == 3
        outside = repository.root.parent / "outside.parquet"
        outside.write_bytes(data)
        table.unlink()
        table.symlink_to(outside)
        assert gate(repository.root, base_ref="main", now=NOW).exit_code == 3


class TestLooks:
    """The chain of looks: goes on from the base branch's, and holds the certificate's look."""

    CHAIN = "looks/site-a.jsonl"

    def test_rewritten(self, repository):
        """A chain begun anew, with the look on it."""
        (repository.root / self.CHAIN).unlink()
        repository.add_model("dr.pth", b"weights of the first model", time="2026-02-01T00:00:00Z")
        report = answer(repository)
        assert closing(report)["looks:site-a"] == "REFUSED"
        assert "does not go on from the chain on main" in said(report)

    def test_cut(self, repository):
        """The look that did not please is gone."""
        repository.add_model("dr.pth", b"better weights", table=answers(2))
        repository.merge()
        lines = (repository.root / self.CHAIN).read_bytes().splitlines(keepends=True)
        repository.write(self.CHAIN, b"".join(lines[:-1]))
        assert answer(repository).exit_code == 2

    def test_gone(self, repository):
        """Looks are evidence."""
        (repository.root / self.CHAIN).unlink()
        assert "is gone" in of(answer(repository), "looks at site-a").reason

    def test_broken(self, repository):
        """A line that is not what its digest says."""
        repository.replace(self.CHAIN, '"look":1', '"look":2')
        assert "line 3: the chain of looks is broken" in said(answer(repository))

    def test_look_that_is_not_in_it(self, repository):
        """The look was logged elsewhere."""
        files = {"dr.pth": b"better weights"}
        evaluation, predictions = repository.judge(files, table=answers(2), chain="elsewhere.jsonl")
        repository.write("models/dr.pth", files["dr.pth"])
        repository.certify("certificates/new", evaluation, predictions)
        report = answer(repository)
        assert closing(report) == {"model:models/dr.pth:site-a:look": "NOT_ASSESSED"}

    def test_line_that_says_little(self, repository):
        """A chain is written by whoever proposes the change: a line may lack everything but its digest."""
        evaluation, predictions = repository.judge(
            {"dr.pth": b"better weights"}, table=answers(2), chain="elsewhere.jsonl"
        )
        chain = repository.root / self.CHAIN
        last = json.loads(chain.read_bytes().splitlines()[-1])["digest"]
        entry = {"kind": "look", "previous": last}
        line = {**entry, "digest": line_digest(entry)}
        chain.write_bytes(chain.read_bytes() + canonical_json(line) + b"\n")
        repository.write("models/dr.pth", b"better weights")
        repository.certify(
            "certificates/new", replace(evaluation, look=replace(evaluation.look, line=line["digest"])), predictions
        )
        assert of(answer(repository), "look").status == "REFUSED"

    @pytest.mark.parametrize("lie", ["regraded", "number"])
    def test_look_that_says_less_than_its_line(self, repository, lie):
        """That grades were changed in the model's favour is left out; or a chain counts from one again."""
        worse = answers(5)
        worse["grade"] = (worse["grade"] + 1) % 5
        repository.judge({"dr.pth": b"better weights"}, table=worse, time="2026-02-01T09:00:00Z")
        evaluation, predictions = repository.judge({"dr.pth": b"better weights"}, table=answers(5))
        look = evaluation.look
        assert (look.number, look.regraded_count) == (3, 160)
        if lie == "regraded":
            look = Look(look.number, look.allowed, look.time, look.line)
        else:
            chain = repository.root / self.CHAIN
            lines = chain.read_bytes().splitlines()
            entry = {**json.loads(lines[-1]), "look": 2}
            del entry["digest"]
            look = replace(look, number=2, line=line_digest(entry))
            chain.write_bytes(b"\n".join([*lines[:-1], canonical_json({**entry, "digest": look.line})]) + b"\n")
        repository.write("models/dr.pth", b"better weights")
        repository.certify("certificates/new", replace(evaluation, look=look), predictions)
        report = answer(repository)
        assert of(report, "look").status == "REFUSED"
        said = "regraded_count 160, not 0" if lie == "regraded" else "look 2, after 2 others"
        assert said in of(report, "look").reason

    def test_look_of_another_model(self, repository):
        """A certificate that claims another model's line."""
        evaluation, predictions = repository.judge({"dr.pth": b"better weights"}, table=answers(1))
        first, _ = repository.judge({"dr.pth": b"weights of the first model"})
        repository.write("models/dr.pth", b"better weights")
        repository.certify("certificates/new", replace(evaluation, look=first.look), predictions)
        assert of(answer(repository), "look").status == "REFUSED"


class TestWeakening:
    """A change of the rules, alone or with a model, is held against the base branch."""

    def easier(self, repository: Repository) -> None:
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2")
        repository.replace("checklists/site-a.yaml", "0.6}", "0.5}")

    def test_lowered_threshold_fails(self, repository):
        """Alone, though every model would pass."""
        self.easier(repository)
        report = answer(repository)
        assert (report.exit_code, closing(report)) == (1, {"spec:sensitivity:pdr": "FAIL"})
        assert "at least 0.6 becomes at least 0.5" in said(report)

    def test_lowered_threshold_with_the_model_that_needs_it(self, repository):
        """The models are then judged by the base branch's checklist."""
        self.easier(repository)
        repository.add_model("dr.pth", b"better weights", table=answers(2))
        assert set(closing(answer(repository))) == {
            "spec:sensitivity:pdr",
            "model:models/dr.pth:site-a:certificate",
        }

    def test_content_changed_under_the_same_version(self, repository):
        """Certificates name their checklist by name and version; no waiver helps."""
        repository.replace("checklists/site-a.yaml", "0.6}", "0.5}")
        report = answer(repository)
        assert closing(report)["spec:version"] == "FAIL"
        with pytest.raises(PolicyError, match="nothing that a waiver could cover"):
            covers(report, ["spec:version"])

    def test_raised_threshold_is_the_new_rule_at_once(self, repository):
        """Stronger is allowed, and every model must meet it."""
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2")
        repository.replace("checklists/site-a.yaml", "0.6}", "0.65}")
        assert closing(answer(repository)) == {"model:models/dr.pth:site-a:certificate": "NOT_ASSESSED"}
        repository.add_model("dr.pth", b"weights of the first model")
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert "stronger" in said(report)

    @pytest.mark.parametrize(
        ("old", "new", "id"),
        [
            ("max_age_days = 365", "max_age_days = 366", "policy:max_age_days"),
            ("require_predictions", "allow_md5_pointers = true\nrequire_predictions", "policy:allow_md5_pointers"),
            ('"keys/clinical.pub"]', '"keys/clinical.pub", "keys/new.pub"]', "policy:trusted_keys.clinical"),
            ('["clinical"]', '["engineering"]', "policy:required_roles"),
            ('["clinical"]', '["clinical", "engineering"]\nrequired_count = 1', "policy:required_roles"),
            ("a" * 64, "c" * 64, "policy:test_sets.site-a"),
            ('models = ["models/*.pth"]', 'models = ["models/d*.pth"]', "policy:models"),
        ],
    )
    def test_of_the_policy_fails(self, repository, old, new, id):
        """Each key that lets more through."""
        repository.write("keys/new.pub", (repository.root / "secret/stranger.pub").read_bytes())
        repository.replace("drgate.toml", old, new)
        report = answer(repository)
        assert closing(report)[id] == "FAIL", said(report)
        assert report.exit_code == 1

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("max_age_days = 365", "max_age_days = 300"),
            ('["clinical"]', '["clinical", "engineering"]'),
            (', engineering = ["keys/engineering.pub"]', ""),
            ('certificates"', 'certificates"'),
        ],
    )
    def test_of_nothing_is_not_one(self, repository, old, new):
        """What only asks for more is no weakening."""
        text = (repository.root / "drgate.toml").read_text()
        repository.write("drgate.toml", text.replace(old, new))
        assert not [id for id in closing(answer(repository)) if id.startswith(("policy:", "spec:"))]

    def test_predictions_no_longer_asked_for(self, demanding, tmp_path):
        """Numbers that nobody recomputes."""
        repository = copy_of(demanding, tmp_path / "repository")
        repository.replace("drgate.toml", "require_predictions = true", "require_predictions = false")
        assert closing(answer(repository)) == {"policy:require_predictions": "FAIL"}

    def test_key_exchanged_in_its_file(self, repository):
        """The policy's text is the same; the key in the file is another."""
        repository.write("keys/clinical.pub", (repository.root / "secret/stranger.pub").read_bytes())
        assert closing(answer(repository))["policy:trusted_keys.clinical"] == "FAIL"

    def test_revocation_taken_back(self, repository):
        """What was revoked stays revoked."""
        line = f'revoked = ["{"e" * 64} the laptop was lost"]\n'
        repository.replace("drgate.toml", "max_age", f"{line}max_age")
        repository.merge()
        repository.replace("drgate.toml", line, "")
        assert closing(answer(repository)) == {"policy:revoked": "FAIL"}

    def test_dropped_patient_column_is_named(self, repository):
        """Labels in the repository: a test set that forgets whose eyes it holds is another one."""
        repository.replace("drgate.toml", "looks =", 'manifest = "labels.csv"\nlooks =')
        repository.write("labels.csv", "image,grade,patient\na.png,0,p1\n")
        assert answer(repository).exit_code == 0, "to hold the labels to a file only asks for more"
        repository.merge()
        assert answer(repository).exit_code == 0
        repository.write("labels.csv", "image,grade\na.png,0\n")
        report = answer(repository)
        assert closing(report) == {"policy:test_sets.site-a": "FAIL"}
        assert "lose the column 'patient'" in said(report)

    def test_policy_removed(self, repository):
        """Then nothing would be guarded."""
        (repository.root / "drgate.toml").unlink()
        with pytest.raises(PolicyError, match=r"no policy in what is staged: the change removes drgate\.toml"):
            answer(repository)

    def test_policy_moved_into_pyproject(self, repository):
        """Where it lies does not matter; two are one too many."""
        text = (repository.root / "drgate.toml").read_text()
        repository.write(
            "pyproject.toml", text.replace("[gate]", "[tool.drgate.gate]").replace("[[gate", "[[tool.drgate.gate")
        )
        with pytest.raises(PolicyError, match="keep one"):
            answer(repository)
        (repository.root / "drgate.toml").unlink()
        assert answer(repository).exit_code == 0


class TestWaiver:
    """A signed waiver with a reason, a role and an end."""

    def easier(self, repository: Repository) -> None:
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2")
        repository.replace("checklists/site-a.yaml", "0.6}", "0.5}")
        repository.add_model("dr.pth", b"weights of the first model")

    def test_works_until_it_expires(self, repository):
        """The day before, and the moment it ends."""
        self.easier(repository)
        waive(repository, answer(repository), "spec:sensitivity:pdr")
        assert answer(repository, now=NOW + timedelta(days=29)).exit_code == 0
        report = answer(repository, now=NOW + timedelta(days=30))
        assert closing(report)["spec:sensitivity:pdr"] == "FAIL"
        assert "has expired" in said(report)

    def test_waived_line_is_never_shown_as_passed(self, repository):
        """Not in the merge, not after it, not in any format, however long ago."""
        self.easier(repository)
        waive(repository, answer(repository), "spec:sensitivity:pdr")
        for moment in (NOW, NOW + timedelta(days=3000)):
            report = answer(repository, now=moment)
            assert report.exit_code == 0, said(report)
            assert of(report, "spec:sensitivity:pdr").status == "WAIVED"
            line = of(report, "sensitivity:pdr")
            assert (line.group, line.status) == ("models/dr.pth", "WAIVED")
            assert "Waived by clinical" in line.reason
            assert "bridging" in line.reason
            assert "2 waived" in report.headline
            cases = {case.get("name"): case for case in ET.fromstring(drawn.junit(report)).iter("testcase")}
            assert cases["sensitivity:pdr"].find("skipped") is not None
            assert "~ Waived" in drawn.markdown(report)
            repository.merge()

    def test_restored_rule_is_waived_no_longer(self, repository):
        """Where the line stands as it was before, nothing is waived."""
        self.easier(repository)
        waive(repository, answer(repository), "spec:sensitivity:pdr")
        repository.merge()
        repository.replace("checklists/site-a.yaml", "version: 2", "version: 3")
        repository.replace("checklists/site-a.yaml", '0.5}\n  - {id: "spec', '0.6}\n  - {id: "spec')
        repository.add_model("dr.pth", b"weights of the first model")
        assert not [f for f in answer(repository).findings if f.status == "WAIVED"]

    @pytest.mark.parametrize("gone", [False, True])
    def test_is_not_washed_off_by_a_hair(self, repository, gone):
        """Raised a little, or dropped and asked again for next to nothing: not what was waived away."""
        line = '  - {id: "sensitivity:pdr", at_least: %s}\n'
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2")
        repository.replace("checklists/site-a.yaml", line % 0.6, "" if gone else line % 0.5)
        repository.add_model("dr.pth", b"weights of the first model")
        waive(repository, answer(repository), "spec:sensitivity:pdr")
        repository.merge()
        repository.replace("checklists/site-a.yaml", "version: 2", "version: 3")
        after = '  - {id: "specificity:no_dr"'
        repository.replace("checklists/site-a.yaml", after if gone else line % 0.5, (line % 0.5001) + after * gone)
        repository.add_model("dr.pth", b"weights of the first model")
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert of(report, "spec:sensitivity:pdr").status == of(report, "sensitivity:pdr").status == "WAIVED"

    def test_of_deciding_on_estimates_does_not_open_the_gate(self, repository):
        """A criterion that is only observed closes the gate until it is waived itself."""
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2\nevidence: {decide_on: point}")
        repository.add_model("dr.pth", b"weights of the first model")
        report = answer(repository)
        waive(repository, report, *(id for id in closing(report) if id.startswith("spec:")))
        report = answer(repository)
        criteria = ("accuracy", "sensitivity:pdr", "specificity:no_dr")
        assert report.exit_code == 3
        assert {of(report, name).status for name in criteria} == {"OBSERVED"}
        waive(repository, report, *closing(report))
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert {of(report, name).status for name in criteria} == {"WAIVED"}

    def test_of_the_bootstrap_is_not_shown_on_exact_bounds(self, repository):
        """What no random number touches stays a pass."""
        repository.replace("checklists/site-a.yaml", "resamples: 1000", "resamples: 5000")
        repository.replace("checklists/site-a.yaml", "criteria:", "criteria:\n  - {id: quadratic_kappa, at_least: 0.2}")
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2")
        repository.add_model("dr.pth", b"weights of the first model")
        repository.merge()
        repository.replace("checklists/site-a.yaml", "resamples: 5000", "resamples: 5001")
        repository.replace("checklists/site-a.yaml", "version: 2", "version: 3")
        repository.add_model("dr.pth", b"weights of the first model")
        waive(repository, answer(repository), "spec:bootstrap.resamples")
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert of(report, "quadratic_kappa").status == "WAIVED"
        assert of(report, "accuracy").status == "PASS"

    def test_covers_one_thing_only(self, repository):
        """A lower threshold than the one that was waived is not covered, nor is another line."""
        self.easier(repository)
        waive(repository, answer(repository), "spec:sensitivity:pdr")
        repository.replace("checklists/site-a.yaml", '0.5}\n  - {id: "spec', '0.4}\n  - {id: "spec')
        assert closing(answer(repository))["spec:sensitivity:pdr"] == "FAIL"

    @pytest.mark.parametrize("who", ["engineering", "stranger", "forger"])
    def test_of_who_may_not(self, repository, who):
        """Another role, a stranger in the name of the role, a forger in the name of the key."""
        self.easier(repository)
        keys = repository.keys
        keys["forger"] = replace(keys["clinical"], _key=keys["stranger"]._key)
        role = "engineering" if who == "engineering" else "clinical"
        waive(repository, answer(repository), "spec:sensitivity:pdr", role=role, key=keys[who])
        report = answer(repository)
        assert closing(report)["spec:sensitivity:pdr"] == "FAIL"
        if who == "engineering":
            assert "Waived by engineering alone" in said(report)
        else:
            assert "Does not count: the waiver" in said(report)
            (id,) = [id for id in closing(report) if id.startswith("waiver:")]
            assert closing(report)[id] == "REFUSED", "once merged it would be shown for ever as the role's"

    def test_of_a_key_that_the_change_itself_adds(self, repository):
        """Trust comes from the base branch: a change cannot bring its own signer."""
        self.easier(repository)
        repository.write("keys/new.pub", (repository.root / "secret/stranger.pub").read_bytes())
        repository.replace("drgate.toml", '"keys/clinical.pub"]', '"keys/clinical.pub", "keys/new.pub"]')
        report = answer(repository)
        ids = ("spec:sensitivity:pdr", "policy:trusted_keys.clinical")
        waive(repository, report, *ids, key=repository.keys["stranger"])
        assert {*ids} <= {*closing(answer(repository))}
        waive(repository, report, *ids)
        assert answer(repository).exit_code == 0

    def test_needs_every_role_that_a_certificate_needs(self, repository):
        """Where two must sign, one cannot waive."""
        repository.replace("drgate.toml", '["clinical"]', '["clinical", "engineering"]')
        evaluation, _ = repository.judge({"dr.pth": b"weights of the first model"})
        repository.certify("certificates/second", evaluation, None, roles=("engineering",))
        repository.merge()
        repository.replace("drgate.toml", "max_age_days = 365", "max_age_days = 366")
        report = answer(repository)
        waive(repository, report, "policy:max_age_days")
        assert (
            "Waived by clinical alone; 2 of the required roles" in of(answer(repository), "policy:max_age_days").reason
        )
        waive(repository, report, "policy:max_age_days", role="engineering")
        assert answer(repository).exit_code == 0

    def test_of_a_models_failed_line(self, repository):
        """The line stays failed, is shown as waived, and closes the gate again when the waiver ends."""
        repository.add_model("dr.pth", b"worse weights", table=answers(2, right=0.75))
        report = answer(repository)
        ids = [id for id in closing(report) if id.startswith("criterion:")]
        assert ids
        waive(repository, report, *ids)
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert {f.status for f in report.findings if f.id in ids} == {"WAIVED"}
        repository.merge()
        assert {*closing(answer(repository, now=NOW + timedelta(days=31)))} == {*ids}

    def test_of_one_model_is_not_for_the_next(self, repository):
        """It names the statement by its digest."""
        repository.add_model("dr.pth", b"worse weights", table=answers(2, right=0.75))
        report = answer(repository)
        waive(repository, report, *closing(report))
        repository.add_model("dr.pth", b"other weights", table=answers(3, right=0.75))
        assert answer(repository).exit_code != 0

    def test_once_merged_is_not_removed(self, repository):
        """What was waived stays visible."""
        self.easier(repository)
        waive(repository, answer(repository), "spec:sensitivity:pdr")
        repository.merge()
        for path in (repository.root / "waivers").iterdir():
            path.unlink()
        report = answer(repository)
        assert report.exit_code == 1
        assert "is removed" in said(report)
        assert of(report, "sensitivity:pdr").status == "WAIVED"

    def test_every_byte_is_signed_or_fixed(self, repository):
        """Each byte flipped, one after the other: never a waiver with that signature."""
        self.easier(repository)
        waiver = waive(repository, answer(repository), "spec:sensitivity:pdr")
        trusted = {"clinical": [repository.keys["clinical"].public]}
        whole = waiver.to_bytes()
        assert parse_waiver(whole, "it").signed_by(trusted) is not None
        for at in range(0, len(whole), 3):
            changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
            with contextlib.suppress(CertificateError):
                assert parse_waiver(changed, "it").signed_by(trusted) is None, at

    def test_is_no_certificate(self, repository):
        """A signature over the one is none over the other: the payload type is part of what is signed."""
        self.easier(repository)
        waiver = waive(repository, answer(repository), "spec:sensitivity:pdr")
        other = canonical_json({**json.loads(waiver.to_bytes()), "payloadType": "application/vnd.in-toto+json"})
        with pytest.raises(CertificateError):
            parse_waiver(other, "it")


class TestFirstAdoption:
    """The base branch has no policy yet."""

    def test_is_closed_and_says_what_to_do(self, repository):
        """Judged by its own policy, which nobody vouched for."""
        (repository.root / "drgate.toml").rename(repository.root / "later.toml")
        repository.merge()
        (repository.root / "later.toml").rename(repository.root / "drgate.toml")
        report = answer(repository)
        assert closing(report) == {"policy:adoption": "NOT_ASSESSED"}
        assert report.exit_code == 3
        assert "main has no policy" in said(report)
        assert "Judged by the change's own `drgate.toml`; `main` (" in drawn.markdown(report)
        repository.merge()
        assert answer(repository).exit_code == 0

    def test_another_policy_by_name_is_no_way_around(self, repository):
        """A policy that the base branch does not have decides nothing there."""
        text = (repository.root / "drgate.toml").read_text()
        repository.write("easy.toml", text.replace("= 365", "= 3650"))
        assert answer(repository, policy="easy.toml").exit_code == 3

    def test_no_policy_anywhere(self, repository):
        """Nothing to judge by."""
        (repository.root / "drgate.toml").unlink()
        repository.merge()
        with pytest.raises(PolicyError, match="write one first"):
            answer(repository)


class TestRepository:
    """What of Git is read, and what is refused."""

    def test_base_ref_that_is_not_here(self, repository):
        """A shallow clone: how to fetch it."""
        with pytest.raises(RepositoryError, match=r"no commit 'origin/main' here.*git fetch --depth=1 origin"):
            answer(repository, base_ref="origin/main")

    def test_tag_that_is_called_like_the_base_branch(self, repository):
        """Git itself would take the tag; whoever proposes the change can push one."""
        repository.git("update-ref", "refs/remotes/origin/main", "main")
        repository.replace("drgate.toml", "= 365", "= 366")
        repository.stage()
        repository.git("commit", "--quiet", "-m", "a change")
        for ref in ("origin/main", "main"):
            repository.git("tag", ref, "HEAD")
            assert closing(answer(repository, base_ref=ref)) == {"policy:max_age_days": "FAIL"}

    @pytest.mark.parametrize("old", [False, True])
    def test_folder_with_the_files_of_a_repository(self, repository, monkeypatch, old):
        """A change can bring one: neither is it judged in place of the real one, nor is its configuration run."""
        ran = repository.root.parent / "ran"
        for name in ("HEAD", "index", "packed-refs"):
            if (repository.root / ".git" / name).exists():
                repository.write(f"sub/{name}", (repository.root / ".git" / name).read_bytes())
        for name in ("objects", "refs"):
            shutil.copytree(repository.root / ".git" / name, repository.root / "sub" / name)
        settings = f'repositoryformatversion = 0\nbare = false\nworktree = .\nfsmonitor = "touch {ran}; false"\n'
        repository.write("sub/config", f"[core]\n{settings}")
        if old:  # a Git that does not know safe.bareRepository
            monkeypatch.setattr("drgate.gate.repository._environment", lambda: {**os.environ})
        with pytest.raises(RepositoryError, match=r"and no \.git" if old else "bare repository"):
            gate(repository.root / "sub", base_ref="main", now=NOW)
        assert not ran.exists()

    @pytest.mark.parametrize("ref", ["--upload-pack=x", "main\0x", "", "HEAD:models", "nowhere;touch x"])
    def test_hostile_ref(self, repository, ref):
        """No ref is an option or a command."""
        with pytest.raises(RepositoryError):
            answer(repository, base_ref=ref)

    def test_shallow_clone(self, repository, tmp_path):
        """With the one commit of the base branch that it takes."""
        repository.add_model("dr.pth", b"better weights", table=answers(2))
        repository.stage()
        repository.git("commit", "--quiet", "-m", "a change")
        clone = Repository(tmp_path / "clone", repository.keys)
        clone.root.mkdir()
        clone.git("clone", "--quiet", "--depth=1", "--branch=change", f"file://{repository.root}", ".")
        with pytest.raises(RepositoryError, match="shallow clone"):
            gate(clone.root, base_ref="origin/main", now=NOW)
        clone.git("fetch", "--quiet", "--depth=1", "origin", "+refs/heads/main:refs/remotes/origin/main")
        assert gate(clone.root, base_ref="origin/main", now=NOW).exit_code == 0

    def test_no_repository(self, tmp_path):
        """A folder of files has no base branch."""
        with pytest.raises(RepositoryError, match="not in a Git repository"):
            gate(tmp_path, base_ref="main")

    def test_what_is_not_staged_is_said(self, repository):
        """The answer is about what would be committed."""
        repository.stage()
        repository.write("models/dr.pth", b"not staged")
        repository.write("certificates/new.json", b"{}")
        report = gate(repository.root, base_ref="main", now=NOW)
        assert report.exit_code == 0
        assert "Not staged, so not judged: certificates/new.json, models/dr.pth" in said(report)

    def test_from_a_folder_below_the_root(self, repository):
        """Paths are those of the repository."""
        assert gate(repository.root / "models", base_ref="main", now=NOW).exit_code == 0

    @pytest.mark.parametrize(
        "path", ["../outside.yaml", "/etc/passwd", "a/../../b", "checklists/./x", ".git/config", "a\\b", "C:/x", ""]
    )
    def test_policy_that_points_outside(self, repository, path):
        """Above the root, absolute, or into Git's own folder."""
        repository.replace("drgate.toml", "checklists/site-a.yaml", path.replace("\\", "\\\\"))
        with pytest.raises(PolicyError, match="spec"):
            answer(repository)
        with pytest.raises(PolicyError):
            answer(repository, policy=path or "..")

    def test_symbolic_links_out_of_the_tree(self, repository):
        """A checklist, a key or a whole folder that is a link is not read."""
        outside = repository.root.parent / "outside.yaml"
        outside.write_text((repository.root / "checklists/site-a.yaml").read_text())
        (repository.root / "checklists/site-a.yaml").unlink()
        (repository.root / "checklists/site-a.yaml").symlink_to(outside)
        with pytest.raises(RepositoryError, match="symbolic link"):
            answer(repository)
        (repository.root / "checklists/site-a.yaml").unlink()
        (repository.root / "checklists").rmdir()
        (repository.root / "checklists").symlink_to(outside.parent)
        with pytest.raises(RepositoryError, match="not in what is staged"):
            answer(repository)

    @pytest.mark.parametrize(
        ("path", "content", "error"),
        [
            ("checklists/site-a.yaml", b"a: &a [*a, " * 1000, "anchors"),
            ("checklists/site-a.yaml", b"&a " + b"[&a " * 100_000, "anchors"),
            ("checklists/site-a.yaml", b"[" * 500_000, "nested more than"),
            ("checklists/site-a.yaml", b"#" * (2 << 20), "larger than 1 MB"),
            ("drgate.toml", b"a = " + b"[" * 500_000, "not valid TOML"),
            ("drgate.toml", b"\xff", "not valid TOML"),
            ("drgate.toml", b"gate = 3\n", "holds no policy"),
            ("keys/clinical.pub", b"-----BEGIN PUBLIC KEY-----\n", "no key that can be read"),
            ("keys/clinical.pub", b"A" * (1 << 17), "larger than 64 KB"),
        ],
    )
    def test_hostile_rules(self, repository, path, content, error):
        """One sentence each, and no long wait."""
        repository.write(path, content)
        with pytest.raises(DrgateError, match=error) as refused:
            answer(repository)
        assert "\n" not in str(refused.value)


class TestHostileNames:
    """File names with newlines, quotes, `::error`, Markdown and HTML in them."""

    @pytest.fixture
    def report(self, repository: Repository) -> GateReport:
        repository.write(HOSTILE, b"weights")
        report = answer(repository)
        assert report.exit_code == 3
        return report

    def test_reach_no_log_as_a_command(self, report):
        """Workflow commands are one line each, and only ours."""
        lines = list(drawn.workflow_commands(report))
        assert len(lines) == len([f for f in report.findings if f.status != "PASS"])
        for line in lines:
            assert "\n" not in line
            assert "##[" not in line
            assert re.fullmatch(r"::(error|warning) title=[^:,]*::.*", line), line

    def test_reach_no_terminal(self, report):
        """What does not print is spelt out."""
        assert "a\\n::error" in report.models[0]
        assert "\n" not in said(report).replace("\n", "", said(report).count("\n"))

    def test_are_no_markup(self, report):
        """Neither HTML, nor a code span, nor another cell, nor a mention."""
        text = drawn.markdown(report)
        assert "<img" not in text.replace("\\<img", "")
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
        assert not any(line.lstrip().startswith("::") for line in text.splitlines())

    def test_are_well_formed_xml(self, report):
        """And come back as they are shown."""
        suites = {suite.get("name") for suite in ET.fromstring(drawn.junit(report)).iter("testsuite")}
        assert suites == {RULES, *report.models}

    def test_are_a_model_like_any_other(self, repository):
        """A certified model may have any name."""
        repository.write(HOSTILE, b"weights of the first model")
        assert answer(repository).exit_code == 0

    def test_that_are_not_utf_8(self, repository):
        """Git allows any bytes."""
        (Path(os.fsdecode(os.fsencode(repository.root) + b"/models/\xff.pth"))).write_bytes(b"weights")
        report = answer(repository)
        assert "models/\\udcff.pth" in report.models
        json.dumps(report.to_json(), ensure_ascii=False).encode()


class TestShown:
    """What CI shows."""

    def failed(self, findings: int) -> GateReport:
        found = tuple(
            Finding(f"models/{i}.pth", f"id{i}", "accuracy", "FAIL", "r" * 1000, now=f"sha256:{'0' * 64}")
            for i in range(findings)
        )
        return GateReport("main", "0" * 40, "drgate.toml", "sha256:", found, ())

    def test_junit_is_one_case_a_criterion_and_model(self, repository):
        """With totals that add up."""
        repository.add_model("other.pth", b"other weights", table=answers(2))
        report = answer(repository)
        root = ET.fromstring(drawn.junit(report))
        names = {(s.get("name"), c.get("name")) for s in root for c in s}
        assert {("models/dr.pth", "accuracy"), ("models/other.pth", "accuracy")} <= names
        assert int(root.get("tests", "")) == len(report.findings)
        assert root.get("failures") == root.get("errors") == "0"

    def test_what_is_advisory_is_not_called_missing(self):
        """Nothing rests on it, whether the gate is open or closed."""
        line = Finding("models/a.pth", "id", "baseline", "NOT_ASSESSED", "no table was given.", required=False)
        page = drawn.markdown(GateReport("main", "0" * 40, "drgate.toml", "sha256:", (line,), ()))
        assert "Not assessed (advisory)" in page
        assert "Missing" not in page

    def test_junit_tells_failed_from_refused(self, repository):
        """A failure, and an error."""
        repository.write("elsewhere/other.onnx", b"weights")
        repository.replace("drgate.toml", "= 365", "= 366")
        root = ET.fromstring(drawn.junit(answer(repository)))
        assert (root.get("failures"), root.get("errors")) == ("1", "1")

    def test_at_most_ten_annotations_of_a_kind(self):
        """The tenth says how many more there are."""
        lines = list(drawn.workflow_commands(self.failed(25)))
        assert len(lines) == 10
        assert "16 more" in lines[-1]
        assert len(list(drawn.workflow_commands(self.failed(10)))) == 10

    @pytest.mark.parametrize("limit", [1 << 20, 60_000, 5_000, 500, 10, 0, -5])
    def test_summary_fits(self, limit):
        """Whatever there is to say."""
        text = drawn.markdown(self.failed(1100), limit=limit)
        assert len(text.encode()) <= max(0, limit)
        if limit >= 500:
            assert "The gate is closed" in text
            assert "More than fits here" in text

    def test_on_github(self, repository, drgate, monkeypatch, tmp_path):
        """Summary appended, annotations on standard error, JSON alone on standard output."""
        repository.write(HOSTILE, b"weights")
        repository.stage()
        summary = tmp_path / "summary.md"
        summary.write_text("before\n")
        monkeypatch.chdir(repository.root)
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
        ended = drgate("gate", "--base-ref", "main", "--format", "json")
        assert ended.code == 3
        assert json.loads(ended.out)["open"] is False
        assert "##[" not in ended.out
        assert "##[error]" in json.loads(ended.out)["findings"][-1]["group"] or "##[error]" in str(
            json.loads(ended.out)
        )
        assert all(line.startswith(("::error title=", "::warning title=")) for line in ended.err.splitlines())
        assert summary.read_text().startswith("before\n## ")
        ended = drgate("gate", "--base-ref", "main")
        assert "::" not in ended.out
        assert "##[" not in ended.out

    def test_files_and_target_branch(self, repository, drgate, monkeypatch, tmp_path):
        """--junit and --comment write; the target of the request is known in CI."""
        repository.git("update-ref", "refs/remotes/origin/main", "main")
        monkeypatch.chdir(repository.root)
        monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
        for name in ("GITHUB_BASE_REF", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME"):
            monkeypatch.setenv(name, "main")
            ended = drgate("gate", "--junit", tmp_path / "gate.xml", "--comment", tmp_path / "gate.md")
            assert ended.code == 0, ended
            assert "The gate is open: 1 model, nothing waived." in ended.out
            monkeypatch.delenv(name)
        assert ET.parse(tmp_path / "gate.xml").getroot().get("name") == "drgate gate"
        assert "The gate is open" in (tmp_path / "gate.md").read_text()
        ended = drgate("gate")
        assert ended.code == 2
        assert "--base-ref" in ended.out

    def test_where_nothing_can_be_judged(self, repository, drgate, monkeypatch, tmp_path):
        """Every output says so; a change that brings a green report of its own has none of it shown."""
        monkeypatch.chdir(repository.root)
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
        repository.write("gate.md", "## The gate is open\n")
        repository.write("gate.xml", '<testsuites tests="1" failures="0"/>')
        repository.replace("drgate.toml", "checklists/site-a.yaml", "checklists/##[add-mask]x.yaml")
        repository.stage()
        ended = drgate("gate", "--base-ref", "main", "--junit", "gate.xml", "--comment", "gate.md")
        assert ended.code == 2
        assert "##[" not in ended.out + ended.err
        assert ended.err.startswith("::error title=rules%3A gate::Refused. checklists/")
        assert ET.parse("gate.xml").getroot().get("errors") == "1"
        for text in (Path("gate.md").read_text(), (tmp_path / "summary.md").read_text(), ended.out):
            assert "The gate is closed: rules, gate" in text
        assert json.loads(drgate("gate", "--base-ref", "main", "--format", "json").out)["open"] is False

    def test_waiver_that_could_not_count_is_not_signed(self, repository, drgate, monkeypatch):
        """A role that the policy does not have or require, a key of another role; then, who is still to sign."""
        monkeypatch.chdir(repository.root)
        repository.replace("drgate.toml", "= 365", "= 366")
        repository.stage()

        def command(role: str, key: str) -> Any:
            return drgate(
                "waive",
                "policy:max_age_days",
                "--base-ref",
                "main",
                "--reason",
                "a year and a day",
                "--expires",
                "2999-01-01",
                "--role",
                role,
                "--key",
                f"secret/{key}.pem",
            )

        for role, key, says in (
            ("boss", "clinical", "the role boss waives nothing; it asks for clinical."),
            ("engineering", "engineering", "the role engineering waives nothing; it asks for clinical."),
            ("clinical", "engineering", "is not one that the policy of main trusts for clinical"),
        ):
            ended = command(role, key)
            assert ended.code == 2
            assert says in ended.err
        assert not (repository.root / "waivers").exists()
        repository.replace("drgate.toml", "= 366", "= 365")
        repository.replace("drgate.toml", '["clinical"]\n', '["clinical", "engineering"]\n')
        repository.merge()
        repository.replace("drgate.toml", "= 365", "= 366")
        repository.stage()
        assert "1 more of the required roles must waive it too: engineering." in command("clinical", "clinical").err
        repository.stage()
        assert "must waive it too" not in command("engineering", "engineering").err

    def test_waive_command(self, repository, drgate, monkeypatch):
        """As the gate itself suggests it."""
        monkeypatch.chdir(repository.root)
        repository.replace("drgate.toml", "= 365", "= 366")
        repository.stage()
        ended = drgate("gate", "--base-ref", "main")
        assert "drgate waive policy:max_age_days --base-ref main" in ended.out
        command = [
            "waive",
            "policy:max_age_days",
            "--base-ref",
            "main",
            "--role",
            "clinical",
            "--reason",
            "a year and a day",
        ]
        ended = drgate(*command, "--key", "keys/../secret/clinical.pem", "--expires", "2999-01-01")
        assert ended.code == 0, ended
        repository.stage()
        ended = drgate("gate", "--base-ref", "main")
        assert ended.code == 0, ended
        assert "~ Waived: policy:max_age_days" in ended.out
        assert drgate(*command, "--expires", "2999-01-01").code == 2
        assert drgate(*command, "--key", "secret/clinical.pem", "--expires", "2001-01-01").code == 2
        assert (
            drgate("waive", "nothing", *command[2:], "--key", "secret/clinical.pem", "--expires", "2999-01-01").code
            == 2
        )


class TestDocumentation:
    def test_policies_are_read_as_they_are_copied(self, template, tmp_path):
        """The first block is a whole policy; the second goes on below its [gate]."""
        text = (Path(__file__).parents[2] / "docs/gate.md").read_text(encoding="utf-8").replace("sha256:...", TEST_SET)
        first, second = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
        head, mark, tail = first.partition("[[gate.test_sets]]")
        repository = copy_of(template, tmp_path / "repository")
        (repository.root / "drgate.toml").unlink()
        repository.merge()
        for old, new in (
            ("keys/engineering.pub", "keys/ml.pub"),
            ("checklists/site-a.yaml", "checklists/medical-grade.yaml"),
            ("looks/site-a.jsonl", "looks/site-a-2026.jsonl"),
        ):
            (repository.root / old).rename(repository.root / new)
        adoption = {"policy:adoption": "NOT_ASSESSED"}
        unsigned = {"model:models/dr.pth:site-a-2026:signatures": "NOT_ASSESSED"}  # by engineering, of two roles
        for policy, expected in ((first, adoption | unsigned), (f"{head}{second}\n{mark}{tail}", adoption)):
            repository.write("drgate.toml", policy)
            assert closing(answer(repository)) == expected


class TestFilesForCi:
    """The action, the GitLab template and the pre-commit hooks."""

    ROOT = Path(__file__).parents[2]

    def read(self, name: str) -> Any:
        return YAML(typ="safe", pure=True).load((self.ROOT / name).read_text())

    @pytest.mark.parametrize("base_ref", ["", "origin/main", '"; touch hacked; echo "', "$(touch hacked)"])
    def test_action_hands_its_inputs_over_as_they_are(self, tmp_path, base_ref):
        """The step, run by bash with a stand-in for drgate: inputs are arguments, never script."""
        action = self.read("action.yml")
        (step,) = [step for step in action["runs"]["steps"] if step.get("id") == "gate"]
        assert {*step["env"]} == {"BASE_REF", "POLICY", "JUNIT", "COMMENT"}
        assert "${{" not in step["run"]
        fake = tmp_path / "drgate/bin/drgate"
        fake.parent.mkdir(parents=True)
        fake.write_text('#!/bin/sh\nfor word in "$@"; do printf \'%s\\n\' "$word"; done\nexit 3\n')
        fake.chmod(0o755)
        given = {"BASE_REF": base_ref, "POLICY": "", "JUNIT": "j.xml", "COMMENT": "c.md"}
        output = tmp_path / "output"
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **given, "RUNNER_TEMP": str(tmp_path), "GITHUB_OUTPUT": str(output)},
        )
        assert done.returncode == 3, done
        more = ["--base-ref", base_ref] if base_ref else []
        assert done.stdout.splitlines() == ["gate", "--junit", "j.xml", "--comment", "c.md", *more]
        assert output.read_text() == "exit-code=3\n"
        assert not (tmp_path / "hacked").exists()

    def test_the_changes_own_python_is_not_run(self, tmp_path):
        """Jobs begin in the folder of the change, and `python -m` looks there first."""
        (install,) = [step for step in self.read("action.yml")["runs"]["steps"] if "SOURCE" in step.get("env", {})]
        before = self.read("ci/drgate.gitlab-ci.yml")[".drgate-gate"]["before_script"]
        (tmp_path / "venv.py").write_text("open('hacked', 'w')\n")
        lines = [install["run"].splitlines()[0], *(line for line in before if " -m venv " in line)]
        assert len(lines) == 2
        for i, line in enumerate(lines):
            made = tmp_path / f"made{i}"
            script = line.replace("/tmp/drgate-venv", str(made)) + " --without-pip"
            subprocess.run(
                ["bash", "-ec", script],
                cwd=tmp_path,
                check=True,
                env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RUNNER_TEMP": str(made)},
            )
            assert made.exists()
            assert not (tmp_path / "hacked").exists()

    def test_options_exist(self, drgate):
        """What the files call is what the command line has."""
        known = drgate("gate", "--help").out
        (step,) = [step for step in self.read("action.yml")["runs"]["steps"] if step.get("id") == "gate"]
        (script,) = self.read("ci/drgate.gitlab-ci.yml")[".drgate-gate"]["script"]
        used = {*re.findall(r"--[a-z-]+", step["run"] + script)}
        assert used == {"--junit", "--comment", "--base-ref", "--policy"}
        assert all(option in known for option in used)
        job = self.read("ci/drgate.gitlab-ci.yml")[".drgate-gate"]
        assert job["artifacts"]["reports"]["junit"] == "drgate-gate.xml"
        hooks = {hook["id"]: hook["entry"].split() for hook in self.read(".pre-commit-hooks.yaml")}
        assert hooks == {
            "drgate-gate": ["drgate", "gate", "--base-ref", "HEAD"],
            "drgate-spec-check": ["drgate", "spec", "check"],
        }


class TestLight:
    """In CI it answers without torch, and from a light install."""

    HOOK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"{{name}} must not be needed here", name=name)
sys.meta_path.insert(0, Refuse())
from drgate.cli import main
try:
    main({arguments!r})
finally:
    heavy = sorted({{name.partition(".")[0] for name in sys.modules}} & {refused!r})
    assert not heavy, heavy
"""
    ALWAYS = ("torch", "transformers", "peft", "onnx", "onnxruntime", "safetensors", "accelerate")
    WITHOUT_TABLES = ("pandas", "pyarrow", "numpy", "scipy", "sklearn", "statsmodels", "plotly", "jinja2", "PIL")

    def run(
        self, repository: Repository, refused: tuple[str, ...], *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        repository.stage()
        program = self.HOOK.format(refused={*refused}, arguments=[*arguments])
        return subprocess.run(
            [sys.executable, "-c", program],
            cwd=repository.root,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def test_without_predictions_needs_no_number_library(self, repository):
        """Neither NumPy nor pandas is imported where nothing is recomputed."""
        done = self.run(repository, self.ALWAYS + self.WITHOUT_TABLES, "gate", "--base-ref", "main", "--junit", "j.xml")
        assert done.returncode == 0, done

    def test_recomputes_without_torch(self, demanding):
        """From the light install alone."""
        done = self.run(demanding, self.ALWAYS, "gate", "--base-ref", "main")
        assert done.returncode == 0, done
        assert "predictions" in done.stdout
