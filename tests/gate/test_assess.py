"""Which certificates count for a model."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest

from drgate.certificate.scored import SignedTable, sign_scored
from drgate.certificate.sign import certify, sign
from drgate.certificate.statement import Certificate, make_statement, read_certificate, reference
from drgate.errors import PolicyError
from drgate.evaluation import Changes, Estimate, Model, Scoring, Spend, Subject
from drgate.files import canonical_json
from drgate.predictions import PROBABILITIES, load_predictions, write_predictions
from drgate.report.gate import markdown
from tests.support.evaluations import criterion, digest_of, file_entry
from tests.support.repositories import (
    RECENT,
    Repository,
    answer,
    answers,
    closing,
    complete,
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
        assert "was changed since, or is forged" in of(report, "tampering").reason
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

    def test_observed_only_where_the_policy_allows_it(self, repository):
        """Allowed, it is still shown as observed."""
        observed = "name: site-a\nversion: 2\nlooks: 5\nevidence: {decide_on: point}\n"
        repository.write("checklists/site-a.yaml", observed + "criteria: [{id: accuracy, at_least: 0.7}]\n")
        evaluation, _ = repository.judge({"dr.pth": b"weights of the first model"})
        repository.certify("certificates/observed", evaluation, None)
        repository.merge()
        assert closing(answer(repository)) == {"criterion:models/dr.pth:site-a:accuracy": "OBSERVED"}
        repository.replace("drgate.toml", "[gate]\n", '[gate]\nallow = ["observed"]\n')
        repository.merge()
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert (of(report, "accuracy").status, of(report, "accuracy").allowed) == ("OBSERVED", True)
        assert "1 allowed without a pass" in report.headline

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


class TestRoles:
    """Only the file in the role model opens the gate; what a certificate merely lists does not."""

    def test_a_file_that_is_only_listed_does_not_count(self, repository):
        """External data can be anything: here it is a checkpoint that nobody scored."""
        files = {"graph.pth": b"graph", "release.pth": b"never scored"}
        evaluation, predictions = repository.judge(files)
        for name, content in files.items():
            repository.write(f"models/{name}", content)
        repository.certify("certificates/graph", evaluation, predictions)
        (repository.root / "models/graph.pth").unlink()
        report = answer(repository)
        assert closing(report)["model:models/release.pth:site-a:certificate"] == "NOT_ASSESSED"
        assert "is of the model graph.pth and lists this file as data" in said(report)

    def test_a_companion_with_the_models_own_bytes_is_still_required(self, repository):
        """What equals the model in content is a file of its own all the same."""
        evaluation, predictions = repository.judge({"new.pth": b"twin", "labels.json": b"twin"})
        repository.write("models/new.pth", b"twin")
        repository.certify("certificates/new", evaluation, predictions)
        assert closing(answer(repository)) == {"model:models/new.pth:site-a:file labels.json": "REFUSED"}
        repository.write("models/labels.json", b"twin")
        assert answer(repository).exit_code == 0

    def test_exchanged_names_close_it(self, repository):
        """Two files of the model under each other's names."""
        files = {"new.pth": b"new", "labels.json": b"[]", "preprocess.json": b"{}"}
        evaluation, predictions = repository.judge(files)
        repository.certify("certificates/new", evaluation, predictions)
        for name, content in {**files, "labels.json": b"{}", "preprocess.json": b"[]"}.items():
            repository.write(f"models/{name}", content)
        assert set(closing(answer(repository)).values()) == {"REFUSED"}

    def onnx(self, repository: Repository, *files: Subject) -> None:
        repository.replace("drgate.toml", '"models/*.pth"', '"models/*.pth", "models/*.onnx"')
        repository.write("models/new.onnx", b"graph")
        evaluation, predictions = repository.judge({"new.onnx": b"graph"})
        model = replace(evaluation.model, files=(*evaluation.model.files, *files))
        repository.certify("certificates/new", replace(evaluation, model=model), predictions)

    def test_certified_cut_offs_are_required(self, repository):
        """A model judged at cut-offs is another model without them."""
        self.onnx(repository, file_entry("operating_point.json", b"{}", "cut_offs"))
        assert closing(answer(repository)) == {
            "model:models/new.onnx:site-a:file operating_point.json": "REFUSED",
        }
        repository.write("models/operating_point.json", b"{}")
        assert answer(repository).exit_code == 0

    @pytest.mark.parametrize("kind", ["other case", "link", "pointer", "dvc", "dvc by another name"])
    def test_cut_offs_in_any_form(self, repository, kind):
        """Where no folder is guarded: in another case, as a link, as a pointer that is none, behind a DVC file."""
        self.onnx(repository)
        repository.replace("drgate.toml", '"models/*.pth", "models/*.onnx"', '"**/*.pth", "**/*.onnx"')
        repository.merge()
        assert answer(repository).exit_code == 0, said(answer(repository))
        if kind == "link":
            (repository.root / "models/operating_point.json").symlink_to("../checklists/site-a.yaml")
        else:
            dvc = f"outs:\n- md5: {'a' * 32}\n  size: 3\n  path: operating_point.json\n"
            path, content = {
                "other case": ("Operating_Point.json", "{}"),
                "pointer": (
                    "operating_point.json",
                    f"version http://git-media.io/v/2\noid sha256:{'a' * 64}\nsize 3\n",
                ),
                "dvc": ("operating_point.json.dvc", dvc),
                "dvc by another name": ("notes.dvc", dvc),
            }[kind]
            repository.write(f"models/{path}", content)
        assert closing(answer(repository)) == {"model:models/new.onnx:site-a:file operating_point.json": "REFUSED"}

    def test_cut_offs_that_no_certificate_covers_close_it(self, repository):
        """What runs the model would grade by them, also where the policy lets other files lie beside models."""
        repository.replace("drgate.toml", "[gate]\n", '[gate]\nnot_models = ["models/*.json"]\n')
        self.onnx(repository)
        repository.merge()
        assert answer(repository).exit_code == 0
        repository.write("models/operating_point.json", b"{}")
        assert closing(answer(repository)) == {"model:models/new.onnx:site-a:file operating_point.json": "REFUSED"}

    @pytest.fixture
    def anywhere(self, repository) -> Repository:
        """Whose policy names models by their ending, so that no folder is guarded; main has one with its files."""
        self.onnx(repository, file_entry("labels.json", b"[]", "labels"))
        repository.replace("drgate.toml", '"models/*.pth", "models/*.onnx"', '"**/*.pth", "**/*.onnx"')
        repository.write("models/labels.json", b"[]")
        repository.merge()
        assert answer(repository).exit_code == 0
        return repository

    OUTS = "outs:\n- {md5: %s, size: 2, path: %s}\n"

    @pytest.mark.parametrize("how", ["file", "link", "namesake", "dvc", "namesake in dvc"])
    def test_cut_offs_that_come_in_any_way_close_it(self, anywhere, how):
        """What runs the model opens the name and does not ask how it came there."""
        path = anywhere.root / "models/operating_point.json"
        anywhere.write("docs/x.json", b"{}")
        match how:
            case "file":
                path.write_bytes(b"{}")
            case "link":
                path.symlink_to("../docs/x.json")
            case "namesake":
                path.with_name("Operating_Point.json").write_bytes(b"{}")
            case "dvc":
                anywhere.write("models/cuts.dvc", self.OUTS % ("a" * 32, path.name))
            case _:
                anywhere.write("models/cuts.dvc", self.OUTS % ("a" * 32, "OPERATING_POINT.json"))
        assert closing(answer(anywhere)) == {"model:models/new.onnx:site-a:file operating_point.json": "REFUSED"}

    def test_cut_offs_that_are_certified_as_weights_close_it(self, repository):
        """A model can name any file as its external data."""
        self.onnx(repository, file_entry("operating_point.json", b"{}", "data"))
        repository.write("models/operating_point.json", b"{}")
        assert closing(answer(repository)) == {"model:models/new.onnx:site-a:file operating_point.json": "REFUSED"}

    @pytest.mark.parametrize("name", ["labels.json", "Labels.json"])
    def test_a_companion_that_dvc_would_exchange_closes_it(self, anywhere, name):
        """The certified file is in Git, and `dvc pull` puts another one in its place."""
        anywhere.write("models/x.dvc", self.OUTS % ("a" * 32, name))
        assert "model:models/new.onnx:site-a:file labels.json" in closing(answer(anywhere))


class TestWhoScored:
    """A table's claim of a model counts only under the signature of a role that may score."""

    FILES: ClassVar = {"dr.pth": b"weights of the first model"}

    @pytest.fixture
    def place(self, demanding: Repository, tmp_path: Path) -> Repository:
        """Engineering may score, and no certificate is there yet."""
        place = copy_of(demanding, tmp_path / "repository")
        place.replace("drgate.toml", "[gate]\n", '[gate]\nscorers = ["engineering"]\n')
        shutil.rmtree(place.root / "certificates")
        place.merge()
        return place

    def certify(self, place: Repository, scorer: str = "engineering", **changes: Any) -> SignedTable:
        """An evaluation of a signed table, as `evaluate --scorer-key` leaves it; changes to what was signed."""
        evaluation, predictions = place.judge(self.FILES)
        record = complete(predictions)
        signed = sign_scored(replace(record, **changes), place.keys[scorer], RECENT)
        scoring = Scoring("signed", place.keys[scorer].public.id, signed.digest)
        model = replace(evaluation.model, scoring=scoring)
        place.certify("certificates/signed", replace(evaluation, model=model), record)
        signed.write(place.root / "certificates/signed/predictions.scored.json")
        return signed

    def test_a_scorer_of_the_policy_opens_it(self, place):
        signed = self.certify(place)
        report = answer(place)
        assert report.exit_code == 0, said(report)
        assert of(report, "scored").status == "PASS"
        assert signed.envelope.key_id in of(report, "scored").reason

    def refused(self, place: Repository) -> str:
        report = answer(place)
        assert closing(report) == {"model:models/dr.pth:site-a:scored": "NOT_ASSESSED"}, said(report)
        assert report.exit_code == 3
        return of(report, "scored").reason

    @pytest.mark.parametrize("scorer", ["clinical", "stranger"])
    def test_another_key_does_not(self, place, scorer):
        """Not even a trusted one: its role may not score."""
        self.certify(place, scorer)
        assert "has no role in the policy that may score" in self.refused(place)

    def test_a_policy_without_scorers_takes_none(self, place):
        self.certify(place)
        place.replace("drgate.toml", 'scorers = ["engineering"]\n', "")
        place.merge()
        assert "has no role in the policy that may score" in self.refused(place)

    def test_without_the_signed_table(self, place):
        self.certify(place)
        (place.root / "certificates/signed/predictions.scored.json").unlink()
        assert "Commit predictions.scored.json" in self.refused(place)

    def test_a_forged_signature(self, place):
        """A stranger's, under the scorer's name."""
        place.keys["forger"] = replace(place.keys["engineering"], _key=place.keys["stranger"]._key)
        self.certify(place, "forger")
        assert "is not in certificates" in self.refused(place)

    def test_of_other_answers(self, place):
        """The scorer signed another table of the same images."""
        self.certify(place, table=place.judge(self.FILES)[1].table.assign(p_0=0.5))
        assert "holds other images or answers" in self.refused(place)

    def test_of_a_table_that_claims_to_be_the_evaluated_one(self, place):
        """A record says of its rows what they are as a baseline: no reason to look at them instead."""
        place.replace("drgate.toml", "require_predictions = true", "require_predictions = false")
        place.merge()
        self.certify(place)
        path = place.root / "certificates/signed/predictions.parquet"
        evaluated = load_predictions(path)
        other = replace(evaluated, table=evaluated.table.assign(**dict.fromkeys(PROBABILITIES, 0.2), predicted=0))
        write_predictions(other, path)
        arrow = pq.read_table(path)
        record = json.loads(arrow.schema.metadata[b"drgate.provenance"]) | {"as_baseline": evaluated.digest}
        pq.write_table(arrow.replace_schema_metadata({b"drgate.provenance": canonical_json(record)}), path)
        folder = place.root / "certificates/signed"
        (certificate,) = folder.glob("*.certificate.json")
        read = read_certificate(certificate)
        signed = sign_scored(load_predictions(path), place.keys["engineering"], RECENT)
        signed.write(folder / "predictions.scored.json")
        model = read.statement.evaluation.model
        scoring = Scoring("signed", signed.envelope.key_id, signed.digest)
        forged = replace(read.statement.evaluation, model=replace(model, scoring=scoring))
        place.certify("certificates/signed", forged, None)
        assert "are not those that were evaluated" in self.refused(place)

    def test_of_another_models_answers(self, place):
        """Signed for one model, certified for another."""
        other = complete(scored(answers(1), model_facts({"other.pth": b"other"})))
        self.certify(place, provenance=other.provenance)
        assert "is of other files of the model" in self.refused(place)

    def test_of_a_revoked_scorer(self, place):
        signed = self.certify(place)
        for name in (signed.envelope.key_id, signed.digest):
            text = (place.root / "drgate.toml").read_text()
            place.replace("drgate.toml", "max_age", f'revoked = ["{name} the laptop was lost"]\nmax_age')
            report = answer(place)
            assert report.exit_code == 1
            assert "the laptop was lost" in of(report, "revocation").reason
            place.write("drgate.toml", text)

    def test_elsewhere_only_where_the_policy_allows_it(self, place):
        """Allowed, it is still shown as not assessed."""
        evaluation, predictions = place.judge(self.FILES)
        model = replace(evaluation.model, scoring=Scoring("elsewhere"))
        place.certify("certificates/table", replace(evaluation, model=model), predictions)
        assert "It was scored elsewhere: nothing proves" in self.refused(place)
        place.replace("drgate.toml", "[gate]\n", '[gate]\nallow = ["scored_elsewhere"]\n')
        place.merge()
        report = answer(place)
        assert report.exit_code == 0
        assert (of(report, "scored").status, of(report, "scored").allowed) == ("NOT_ASSESSED", True)
        assert report.headline == "The gate is open: 1 model, nothing waived, 1 allowed without a pass."
        assert "allowed by the policy" in markdown(report)


class TestExportedModel:
    """An ONNX file takes stability, cost and look from the certificate that it was exported under."""

    @pytest.fixture
    def exported(self, demanding: Repository, tmp_path: Path) -> Repository:
        repository = copy_of(demanding, tmp_path / "repository")
        repository.replace("drgate.toml", '"models/*.pth"', '"models/*.pth", "models/*.onnx"')
        parent, _ = repository.judge({"dr.pth": b"weights of the first model"})
        model = model_facts({"dr.onnx": b"graph"})
        before = replace(reference(make_statement(parent)), changes=Changes(images=1, flips=(), largest=0.0))
        made = replace(parent, model=replace(model, parent=before))
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

    def test_that_did_not_pass(self, exported):
        """A file whose own numbers pass does not make up for a model that failed."""
        failed, _ = exported.judge({"dr.old": b"a worse model"}, table=answers(1, right=0.2))
        assert failed.verdict == "FAIL"
        passed, _ = exported.judge({"dr.old": b"a worse model"})
        model = replace(model_facts({"dr.onnx": b"graph"}), parent=reference(make_statement(failed)))
        made = replace(passed, model=model, training=failed.training, look=failed.look)
        exported.certify("certificates/failed", failed, None)
        exported.certify("certificates/exported", made, None)
        found = of(answer(exported), "parent")
        assert (found.status, "says FAIL; export a model that passed" in found.reason) == ("REFUSED", True), found

    def test_that_says_something_else(self, exported):
        """The exported file's certificate claims a cost that the parent's does not have."""
        parent, _ = exported.judge({"dr.pth": b"weights of the first model"})
        model = replace(model_facts({"dr.onnx": b"graph"}), parent=reference(make_statement(parent)))
        made = replace(parent, model=model, training=replace(parent.training, spend=Spend(usd=1.0)))
        exported.certify("certificates/exported", made, None)
        assert of(answer(exported), "parent").status == "REFUSED"
