"""A signed table: who gave these answers; what may change afterwards, and what may not."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cryptography.hazmat.primitives import serialization

from drgate.certificate.envelope import seal
from drgate.certificate.keys import PrivateKey, generate_key, load_private_key
from drgate.certificate.scored import SignedTable, beside, parse_scored, read_scored, sign_scored
from drgate.certificate.sign import certify
from drgate.certificate.statement import make_statement, read_certificate, reference
from drgate.errors import CertificateError, PredictionsError
from drgate.evaluation import Evaluation, Role, plain_of
from drgate.files import canonical_json
from drgate.grades import join_grades
from drgate.operating_point import make_operating_point, write_operating_point
from drgate.predictions import Predictions, load_predictions, make_predictions, published_names, write_predictions
from tests.support.evaluations import evaluation
from tests.support.material import Ended
from tests.support.repositories import TEST_SET, answers, complete, model_facts, scored

Run = Callable[..., Ended]
Refused = Callable[..., str]
TIME = "2026-01-02T03:04:05Z"
CHECKLIST = "name: own\nversion: 1\nlooks: 9\nbootstrap: {resamples: 1000}\ncriteria: [{id: accuracy, at_least: 0.5}]\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PrivateKey]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: load_private_key(generate_key(folder / name, None)[0]) for name in ("scorer", "stranger")}


@pytest.fixture(scope="module")
def graded() -> Predictions:
    """What `score` leaves of 160 images with grades, patients and cameras; one image has no answer."""
    table = answers(1).assign(sha256=[f"{i:064x}"[::-1] for i in range(160)])
    table.loc[3, ["p_0", "p_1", "p_2", "p_3", "p_4"]] = float("nan")
    return complete(scored(table, model_facts({"dr.pth": b"weights"})))


@pytest.fixture(scope="module")
def sealed(graded: Predictions) -> Predictions:
    """The same without reference grades."""
    return make_predictions(graded.table.drop(columns=["grade"]), "sealed", graded.provenance)


def pub(folder: Path, key: PrivateKey) -> Path:
    path = folder / f"{key.public.id[:8]}.pub"
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public._key.public_bytes(serialization.Encoding.PEM, form))
    return path


def wrong(signed: SignedTable, predictions: Predictions) -> list[str]:
    return list(signed.contradictions(predictions))


class TestForm:
    def test_what_is_written_is_read(self, graded: Predictions, keys: dict[str, PrivateKey], tmp_path: Path):
        """One in-toto statement v1 under one signature, beside the table."""
        signed = sign_scored(graded, keys["scorer"], TIME)
        path = beside(tmp_path / "predictions.parquet")
        assert path.name == "predictions.scored.json"
        signed.write(path)
        assert read_scored(path) == signed
        assert signed.envelope.signer([keys["stranger"].public, keys["scorer"].public]) == keys["scorer"].public
        assert signed.envelope.signer([keys["stranger"].public]) is None
        plain = json.loads(signed.envelope.payload)
        assert plain["_type"] == "https://in-toto.io/Statement/v1"
        assert plain["predicateType"] == "urn:drgate:scored:1"
        assert plain["subject"] == [{"name": "predictions", "digest": {"sha256": signed.rows}}]
        names = {"model", "manifest", "preprocessing", "software", "device", "precision", "time", "record", "warnings"}
        assert set(plain["predicate"]) == names
        assert [(file["name"], file["role"]) for file in plain["predicate"]["model"]] == [("dr.pth", "model")]
        assert plain["predicate"]["manifest"]["digest"] == TEST_SET

    def test_names_the_cut_offs_of_the_model(self, keys: dict[str, PrivateKey]):
        files = model_facts({"dr.onnx": b"graph", "operating_point.json": b"{}"}).files
        role: Role = "cut_offs"
        model = replace(model_facts({"dr.onnx": b"graph"}), files=(files[0], replace(files[1], role=role)))
        signed = sign_scored(complete(scored(answers(1), model)), keys["scorer"], TIME)
        assert signed.content.cut_offs == files[1].sha256

    @pytest.mark.parametrize(
        "change",
        [
            lambda plain: {**plain, "more": 1},
            lambda plain: {**plain, "predicate": {**plain["predicate"], "more": 1}},
            lambda plain: {**plain, "subject": [*plain["subject"], *plain["subject"]]},
            lambda plain: {**plain, "subject": []},
            lambda plain: {**plain, "predicateType": "urn:drgate:scored:2"},
            lambda plain: {**plain, "predicate": {**plain["predicate"], "model": []}},
            lambda plain: {**plain, "predicate": {**plain["predicate"], "time": "yesterday"}},
            lambda plain: {**plain, "predicate": {**plain["predicate"], "precision": None}},
            lambda plain: [plain],
        ],
    )
    def test_any_other_statement_is_refused(self, graded: Predictions, keys: dict[str, PrivateKey], change: Any):
        """Whatever the scorer's key signed: exactly these keys, in this one form."""
        plain = json.loads(sign_scored(graded, keys["scorer"], TIME).envelope.payload)
        data = seal(canonical_json(change(plain)), keys["scorer"]).to_bytes()
        with pytest.raises(
            CertificateError, match=r"^(The statement in )?t\.scored\.json.*expected a file that drgate"
        ):
            parse_scored(data, "t.scored.json")

    def test_white_space_and_certificates_are_refused(self, graded: Predictions, keys: dict[str, PrivateKey]):
        signed = sign_scored(graded, keys["scorer"], TIME)
        spaced = json.dumps(json.loads(signed.envelope.payload)).encode()
        certificate = certify(evaluation(), keys["scorer"])[1]
        assert certificate is not None
        for data in (seal(spaced, keys["scorer"]).to_bytes(), certificate, signed.envelope.to_bytes() + b"\n", b"{}"):
            with pytest.raises(CertificateError):
                parse_scored(data, "t.scored.json")


def joined(sealed: Predictions, graded: Predictions, folder: Path) -> Predictions:
    """The sealed table with the keeper's grades, as `evaluate --grades` joins them."""
    path = folder / "grades.csv"
    with path.open("w") as handle:
        rows = csv.writer(handle)
        rows.writerow(["image", "grade", "site"])
        rows.writerows([image, grade, "x"] for image, grade in graded.table[["image", "grade"]].itertuples(index=False))
    found = join_grades(sealed, path)
    return replace(found, provenance={**found.provenance, "grades": {"name": "grades.csv", "sha256": "0" * 64}})


class TestWhatMayChange:
    """The rows that are signed are what the scorer answers for."""

    def test_grades_that_their_keeper_joins(self, sealed, graded, keys, tmp_path):
        signed = sign_scored(sealed, keys["scorer"], TIME)
        assert "grade" not in signed.content.manifest.columns
        assert wrong(signed, sealed) == []
        assert wrong(signed, joined(sealed, graded, tmp_path)) == []

    def test_published_names_fewer_columns_and_numbered_patients(self, graded, keys):
        """As the folder of an evaluation has them."""
        table = graded.table.drop(columns=["camera", "sha256"])
        numbers = {patient: str(i) for i, patient in enumerate(sorted(set(table["patient"]), reverse=True))}
        table = table.assign(image=published_names(graded.table), patient=table["patient"].map(numbers))
        published = make_predictions(table, "published", graded.provenance)
        assert published.digest != graded.digest
        assert wrong(sign_scored(graded, keys["scorer"], TIME), published) == []

    def test_cut_offs(self, graded, keys):
        rng = scored(answers(2).assign(image=[f"tuning-{i}.jpg" for i in range(160)]), model_facts({"a": b""}))
        point = make_operating_point((0.1, 0.2, 0.3, 0.4), checklist={}, tuned_on=rng, promise={})
        assert wrong(sign_scored(graded, keys["scorer"], TIME), graded.at(point)) == []


class TestWhatMayNot:
    """Each is a way in which somebody who hands a table on could make it say more."""

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda table: table.assign(p_0=table["p_1"], p_1=table["p_0"]), "holds other images or answers"),
            (lambda table: table.iloc[1:], "holds other images or answers"),
            (lambda table: table.assign(sha256=table["sha256"].iloc[::-1].to_numpy()), "holds other images or answers"),
            (
                lambda table: table.assign(predicted=table["predicted"].fillna(3)),
                "has a predicted grade where the model gave no answer",
            ),
            (lambda table: table.assign(grade=table["predicted"].fillna(0)), "has another column grade"),
            (lambda table: table.assign(gradable=table["camera"] == "A"), "has another column gradable"),
            (lambda table: table.assign(patient=[f"p{i}" for i in range(len(table))]), "has another column patient"),
            (lambda table: table.assign(patient=None), "has another column patient"),
            (lambda table: table.assign(camera="A"), "has another further column"),
            (lambda table: table.assign(site="A"), "has another further column"),
            (lambda table: table.assign(eye="L"), "has another column eye"),
            (lambda table: table.assign(dme=pd.array([0] * len(table), dtype="Int8")), "has another column dme"),
        ],
    )
    def test_the_rows(self, graded, keys, change, says):
        signed = sign_scored(graded, keys["scorer"], TIME)
        assert says in wrong(signed, replace(graded, table=change(graded.table.copy())))

    @pytest.mark.parametrize("column", ["patient", "eye", "dme"])
    def test_a_column_that_decides_is_neither_removed_nor_invented(self, graded, keys, column):
        """Patients, eyes and oedema change what is counted, whatever columns the checklist slices by."""
        whole = make_predictions(graded.table.assign(eye="L", dme="1"), "whole", graded.provenance)
        less = make_predictions(whole.table.drop(columns=[column]), "less", graded.provenance)
        assert wrong(sign_scored(whole, keys["scorer"], TIME), less) == [f"has another column {column}"]
        assert wrong(sign_scored(less, keys["scorer"], TIME), whole) == [f"has another column {column}"]

    def test_a_column_of_a_sealed_table_with_one_empty_cell(self, sealed, graded, keys, tmp_path):
        """It is no other column because its file of grades could have filled it."""
        signed = sign_scored(sealed, keys["scorer"], TIME)
        found = joined(sealed, graded, tmp_path)
        cameras = found.table["camera"].where(found.table.index > 0)
        assert wrong(signed, replace(found, table=found.table.assign(camera=cameras))) == ["has another further column"]

    def test_a_grade_among_equal_probabilities(self, graded, keys, tmp_path):
        """A model that says nothing would be right everywhere, if who hands its table on could choose."""
        equal = graded.table.assign(**dict.fromkeys(["p_0", "p_1", "p_2", "p_3", "p_4"], 0.2))
        scored_ = make_predictions(equal.drop(columns=["predicted"]), "scored", graded.provenance)
        chosen = replace(scored_, table=scored_.table.assign(predicted=scored_.table["grade"]))
        write_predictions(scored_, tmp_path / "scored.parquet")
        write_predictions(chosen, tmp_path / "chosen.parquet")
        signed = sign_scored(scored_, keys["scorer"], TIME)
        assert wrong(signed, load_predictions(tmp_path / "scored.parquet")) == []
        with pytest.raises(PredictionsError, match="predicted is 1, but the most probable grade is 0"):
            load_predictions(tmp_path / "chosen.parquet")

    @pytest.mark.parametrize(
        ("part", "key", "value", "says"),
        [
            ("model", "tensor_digest", f"sha256:{'9' * 64}", "has another record of how it was scored"),
            ("model", "name", "other.pth", "has another record of how it was scored"),
            ("manifest", "digest", f"sha256:{'9' * 64}", "names another test set"),
            ("manifest", "dealt_by_seed", 7, "has another record of how it was scored"),
            ("preprocessing", "pillow", "9.0", "has another record of how it was scored"),
        ],
    )
    def test_the_record(self, graded, keys, part, key, value, says):
        """The model's and the images' digests, and whatever else the report takes from the table."""
        signed = sign_scored(graded, keys["scorer"], TIME)
        record = {**graded.provenance, part: {**graded.provenance[part], key: value}}
        assert says in wrong(signed, replace(graded, provenance=record))

    def test_a_record_without_files(self, graded, keys):
        """It cannot be what a scorer signed."""
        signed = sign_scored(graded, keys["scorer"], TIME)
        record = {**graded.provenance, "model": {**graded.provenance["model"], "files": []}}
        with pytest.raises(CertificateError, match="expected a record that drgate score wrote"):
            wrong(signed, replace(graded, provenance=record))

    @pytest.mark.parametrize("part", ["audit", "copies"])
    def test_the_audit_of_its_images(self, graded, keys, part):
        """Nobody can take what the scorer's audit found out of the table, or put a clean one in."""
        signed = sign_scored(graded, keys["scorer"], TIME)
        record = {**graded.provenance, part: {"checks": []}}
        assert "has another record of how it was scored" in wrong(signed, replace(graded, provenance=record))

    def test_warnings_of_the_scorer(self, graded, keys):
        """They are read on page one; more may be added, such as what joined grades bring."""

        def warned(*sentences: str) -> Predictions:
            return replace(graded, provenance={**graded.provenance, "warnings": list(sentences)})

        signed = sign_scored(warned("Training data not fully known."), keys["scorer"], TIME)
        assert wrong(signed, warned("Training data not fully known.", "More.")) == []
        assert wrong(signed, warned()) == ["lacks a warning that its scorer gave"]

    def test_grades_in_a_sealed_table_from_nobody(self, sealed, graded, keys):
        """Who joins grades names their file, so that whoever signs sees whose they are."""
        signed = sign_scored(sealed, keys["scorer"], TIME)
        slipped = replace(sealed, table=sealed.table.assign(grade=graded.table["grade"]))
        assert wrong(signed, slipped) == ["has grades from no named file; join them with --grades FILE"]

    def test_a_graded_table_that_pretends_it_was_sealed(self, graded, keys):
        """Naming a file of grades does not make the scored ones changeable."""
        signed = sign_scored(graded, keys["scorer"], TIME)
        record = {**graded.provenance, "grades": {"name": "grades.csv", "sha256": "0" * 64}}
        table = graded.table.assign(grade=graded.table["predicted"].fillna(0))
        assert "has another column grade" in wrong(signed, replace(graded, table=table, provenance=record))

    def test_a_reader_invented_under_a_file_of_grades(self, graded, keys):
        """A reader with a blank cell could have come with that file, had the table been sealed."""
        signed = sign_scored(graded, keys["scorer"], TIME)
        invented = graded.table.assign(reader_9=graded.table["predicted"].mask(graded.table.index == 0))
        record = {**graded.provenance, "grades": {"name": "grades.csv", "sha256": "0" * 64}}
        assert wrong(signed, replace(graded, table=invented, provenance=record)) == ["has another column gradable"]


class TestReaders:
    """Under a scorer's key exactly the readers that were signed are compared with."""

    @pytest.fixture
    def read(self, graded) -> Predictions:
        """With two readers, one of whom did not grade every image."""
        grade = graded.table["grade"]
        readers = {"reader_1": grade, "reader_2": grade.where(grade.index > 5, (grade + 1) % 5).mask(grade.index == 9)}
        return make_predictions(graded.table.assign(**readers), "read", graded.provenance)

    def evaluated(self, place: Path, drgate: Run, keys: dict[str, PrivateKey], table: Predictions, signed: SignedTable):
        write_predictions(table, place / "table.parquet")
        signed.write(place / "table.scored.json")
        floors = [{"id": f"{of}:referable", "at_least": 0.1} for of in ("sensitivity", "specificity")]
        asked = [{"id": f"noninferior:{of}:referable~readers", "margin": 0.3} for of in ("sensitivity", "specificity")]
        checklist = {
            "name": "own",
            "version": 1,
            "looks": 9,
            "readers_independent": True,
            "criteria": [*floors, *asked],
        }
        (place / "own.yaml").write_text(json.dumps(checklist))
        key = pub(place, keys["scorer"])
        return drgate(
            "evaluate",
            "table.parquet",
            "--spec",
            "own.yaml",
            "--scorer-key",
            key,
            "--out",
            "report",
            "--format",
            "json",
        )

    def test_those_of_the_manifest_count(self, read, keys, tmp_path, monkeypatch, drgate):
        monkeypatch.chdir(tmp_path)
        ended = self.evaluated(tmp_path, drgate, keys, read, sign_scored(read, keys["scorer"], TIME))
        assert ended.code in (0, 3), ended.err
        assert json.loads(ended.out)["data"]["readers"] == ["reader_1", "reader_2"]
        checked = drgate(
            "verify", "report/statement.json", "--scorer-key", pub(tmp_path, keys["scorer"]), "--format", "json"
        )
        assert json.loads(checked.out)["problems"] == []

    def test_none_is_left_out(self, read, keys, tmp_path, monkeypatch, drgate):
        """Who hands a signed table on could else drop the better reader."""
        monkeypatch.chdir(tmp_path)
        signed = sign_scored(read, keys["scorer"], TIME)
        less = replace(read, table=read.table.drop(columns=["reader_1"]))
        ended = self.evaluated(tmp_path, drgate, keys, less, signed)
        assert ended.code == 2
        assert "lacks reader_1, which its scorer signed; give the whole table." in ended.err

    def test_none_comes_with_grades_that_nobody_joined(self, read, sealed, keys, tmp_path, monkeypatch, drgate):
        """A sealed table whose record only claims a file of grades."""
        monkeypatch.chdir(tmp_path)
        signed = sign_scored(sealed, keys["scorer"], TIME)
        record = {**read.provenance, "grades": {"name": "grades.csv", "sha256": "0" * 64}}
        ended = self.evaluated(tmp_path, drgate, keys, replace(read, provenance=record), signed)
        found = json.loads(ended.out)
        assert not found["data"].get("readers")
        assert "The table's own columns of readers (reader_1, reader_2) are not used." in " ".join(found["page_one"])
        assert [one["status"] for one in found["criteria"]][2:] == ["NOT_ASSESSED", "NOT_ASSESSED"]

    def test_an_evaluation_with_others_is_refuted(self, read, keys):
        """What `gate` and `verify` ask of a certificate beside a signed table."""
        signed = sign_scored(read, keys["scorer"], TIME)
        assert signed.readers == ["reader_1", "reader_2"]
        found = evaluation()
        for readers, refuted in ((("reader_1", "reader_2"), False), (("reader_2",), True), ((), False)):
            other = replace(found, data=replace(found.data, readers=readers))
            says = "compares with other readers than those of the signed table"
            assert (says in signed.refutes(other)) == refuted


class TestEvaluate:
    """`drgate evaluate TABLE`: who scored is in the certificate, and whatever contradicts the signature is refused."""

    @pytest.fixture
    def place(self, tmp_path, monkeypatch, graded, keys) -> Path:
        """table.parquet, signed; own.yaml."""
        monkeypatch.chdir(tmp_path)
        write_predictions(graded, tmp_path / "table.parquet")
        sign_scored(graded, keys["scorer"], TIME).write(tmp_path / "table.scored.json")
        (tmp_path / "own.yaml").write_text(CHECKLIST)
        return tmp_path

    def judged(self, drgate: Run, *more: object) -> tuple[Evaluation, str]:
        ended = drgate("evaluate", "table.parquet", "--spec", "own.yaml", "--out", "report", *more)
        assert ended.code == 0, ended.err
        return Evaluation.from_json(json.loads(Path("report/evaluation.json").read_text())), ended.err

    def test_with_the_scorers_key(self, place, drgate, keys):
        """Signed: named with key and statement, and a copy lies beside the certificate."""
        found, said = self.judged(drgate, "--scorer-key", pub(place, keys["scorer"]))
        signed = read_scored(place / "table.scored.json")
        scoring = found.model.scoring
        assert scoring is not None
        assert (scoring.by, scoring.key, scoring.statement) == ("signed", keys["scorer"].public.id, signed.digest)
        assert "elsewhere" not in found.headline
        assert "Nothing proves" not in said
        assert (place / "report/predictions.scored.json").read_bytes() == (place / "table.scored.json").read_bytes()

    def test_without_a_key_it_was_scored_elsewhere(self, place, drgate):
        """The signature beside it proves nothing to somebody who names no key."""
        found, said = self.judged(drgate)
        assert found.model.scoring is not None
        assert found.model.scoring.by == "elsewhere"
        assert found.headline.endswith(" Scored elsewhere, not verified.")
        assert "Nothing proves that this model gave these answers" in said

    def test_without_a_signature_it_was_scored_elsewhere(self, place, drgate):
        (place / "table.scored.json").unlink()
        found, _ = self.judged(drgate)
        assert found.headline.endswith(" Scored elsewhere, not verified.")
        assert not (place / "report/predictions.scored.json").exists()

    def evaluated_refused(self, refused: Refused, place: Path, *more: object) -> str:
        return refused("evaluate", place / "table.parquet", "--spec", place / "own.yaml", *more)

    def test_another_key_or_none_is_refused(self, place, refused, keys, graded):
        """A stranger's signature, also under the scorer's name, and a table without one."""
        stranger, key = keys["stranger"], pub(place, keys["scorer"])
        for signer in (stranger, PrivateKey(keys["scorer"].public, stranger._key)):
            sign_scored(graded, signer, TIME).write(place / "table.scored.json")
            assert "is signed by none of the keys that you trust to score" in self.evaluated_refused(
                refused, place, "--scorer-key", key
            )
        (place / "table.scored.json").unlink()
        assert "table.scored.json does not exist" in self.evaluated_refused(refused, place, "--scorer-key", key)

    def test_a_contradicting_signature_is_refused_with_and_without_a_key(self, place, refused, keys, graded):
        """Grades changed after scoring, with a record that fits them: the file itself is sound."""
        other = replace(graded, table=graded.table.assign(grade=graded.table["predicted"].fillna(0)))
        write_predictions(other, place / "table.parquet")
        for more in ([], ["--scorer-key", pub(place, keys["scorer"])]):
            assert "it has another column grade" in self.evaluated_refused(refused, place, *more)

    @pytest.mark.parametrize("claim", ["parent", "previous"])
    def test_a_record_that_claims_an_earlier_certificate_is_refused(self, place, refused, graded, claim):
        """Only export and --previous, which read that certificate, say what it was exported from or compared with."""
        earlier = plain_of(reference(make_statement(evaluation())))
        record = {**graded.provenance, "model": {**graded.provenance["model"], claim: earlier}}
        write_predictions(replace(graded, provenance=record), place / "table.parquet")
        (place / "table.scored.json").unlink()
        assert f"has a {claim}, which drgate score never writes" in self.evaluated_refused(refused, place)

    @pytest.mark.parametrize(
        ("part", "change", "says"),
        [
            ("model", {"name": "best.pth meets medical-grade. dr.pth"}, "names the model otherwise than its file"),
            ("model", {"kind": "predictions table"}, "names the model otherwise than its file"),
            ("model", {"files": []}, "names the model otherwise than its file"),
            ("manifest", {"name": "site-a. " + "x" * 300}, "a name of more than 255 characters"),
            ("model", None, "its provenance is not what drgate score writes"),
        ],
    )
    def test_a_record_that_would_speak_in_the_headline_is_refused(self, place, refused, graded, part, change, says):
        """What is said there of the model and the test set is their names, and no look is spent on another text."""
        record = {**graded.provenance, part: change and {**graded.provenance[part], **change}}
        write_predictions(replace(graded, provenance=record), place / "table.parquet")
        (place / "table.scored.json").unlink()
        assert says in self.evaluated_refused(refused, place)

    def test_a_key_is_for_tables_that_name_a_model(self, place, refused, keys, graded):
        write_predictions(graded, place / "table.csv")
        words = (
            "evaluate",
            place / "table.csv",
            "--spec",
            place / "own.yaml",
            "--scorer-key",
            pub(place, keys["scorer"]),
        )
        assert "names no model" in refused(*words)

    def test_verify_asks_who_scored(self, place, drgate, keys, tmp_path):
        """Not shown without the scorer's key or the signed table; contradicted by another."""
        generate_key(tmp_path / "own", None)
        scorer = pub(place, keys["scorer"])
        self.judged(drgate, "--scorer-key", scorer, "--key", "own.pem")
        words = ("verify", "report/certificate.json", "--key", "own.pub", "--format", "json")

        def scored(*more: object) -> tuple[int, bool, str]:
            ended = drgate(*words, *more)
            plain = json.loads(ended.out)
            return ended.code, plain["scored"], " ".join((*plain["checked"], *plain["unchecked"], *plain["problems"]))

        assert scored("--scorer-key", scorer)[:2] == (0, True)
        code, known, said = scored()
        assert (code, known) == (3, False)
        assert "No scorer's key was given (--scorer-key)" in said
        code, known, said = scored("--scorer-key", pub(place, keys["stranger"]))
        assert (code, known) == (2, False)
        assert "not among the scorers that you trust" in said
        (place / "report/predictions.scored.json").unlink()
        code, known, said = scored("--scorer-key", scorer)
        assert (code, known) == (3, False)
        assert "is not beside the certificate" in said

    def test_what_only_bears_the_name_of_a_signed_table_is_not_opened(self, place, drgate, keys):
        """A pipe beside a certificate would keep its reader waiting."""
        generate_key(place / "own", None)
        self.judged(drgate, "--scorer-key", pub(place, keys["scorer"]), "--key", "own.pem")
        (place / "report/predictions.scored.json").unlink()
        os.mkfifo(place / "report/predictions.scored.json")
        os.mkfifo(place / "report/a.scored.json")
        ended = drgate("verify", "report/certificate.json", "--key", "own.pub")
        assert "is not beside the certificate" in " ".join(ended.out.split())
        (place / "table.scored.json").unlink()
        os.mkfifo(place / "table.scored.json")
        assert "elsewhere" in drgate("evaluate", "table.parquet", "--spec", "own.yaml", "--out", "again").out

    def test_verify_without_the_table_does_not_know_the_answers(self, place, drgate, keys):
        generate_key(place / "own", None)
        scorer = pub(place, keys["scorer"])
        self.judged(drgate, "--scorer-key", scorer, "--key", "own.pem")
        (place / "report/predictions.parquet").unlink()
        ended = drgate(
            "verify", "report/certificate.json", "--key", "own.pub", "--scorer-key", scorer, "--format", "json"
        )
        assert json.loads(ended.out)["scored"] is False
        assert "Without the predictions" in ended.out
        assert ended.code == 3

    def test_verify_of_what_was_scored_elsewhere_is_3(self, place, drgate, keys):
        """Whoever hands in a table can name any model; a script that asks for 0 does not read headlines."""
        generate_key(place / "own", None)
        self.judged(drgate, "--key", "own.pem")
        (place / "dr.pth").write_bytes(b"weights")
        for more in ([], ["--scorer-key", pub(place, keys["scorer"])], ["--model", "dr.pth"]):
            ended = drgate("verify", "report/certificate.json", "--key", "own.pub", *more)
            assert ended.code == 3
            assert "Scored elsewhere, not verified." in " ".join(ended.out.split())
            assert "Not confirmed: it is not shown that the model gave these answers." in " ".join(ended.out.split())

    def test_cut_offs_are_a_file_of_the_model(self, place, drgate, keys, tmp_path):
        """By the bytes that were read, in their role, required beside the model."""
        tuned_on = scored(answers(2).assign(image=[f"tuning-{i}.jpg" for i in range(160)]), model_facts({"a": b""}))
        tuned_on = replace(tuned_on, table=tuned_on.table.assign(patient=[f"t{i}" for i in range(160)]))
        point = make_operating_point((0.4, 0.4, 0.4, 0.4), checklist={}, tuned_on=tuned_on, promise={})
        write_operating_point(point, place / "cuts.json")
        generate_key(tmp_path / "own", None)
        scorer = ("--scorer-key", pub(place, keys["scorer"]))
        found, _ = self.judged(drgate, "--operating-point", "cuts.json", "--key", "own.pem", *scorer)
        file = found.model.files[-1]
        content = (place / "cuts.json").read_bytes()
        assert (file.name, file.role, file.size) == ("cuts.json", "cut_offs", len(content))
        (place / "dr.pth").write_bytes(b"weights")
        words = ("verify", "report/certificate.json", "--key", "own.pub", "--model", "dr.pth", *scorer)
        assert drgate(*words).code == 0
        (place / "cuts.json").rename(place / "old.json")
        ended = drgate(*words)
        assert ended.code == 3
        assert "cuts.json is missing: the certificate covers it as cut-offs." in " ".join(ended.out.split())
        (place / "cuts.json").write_bytes(content.replace(b"0.4", b"0.5", 1))
        assert drgate(*words).code == 2
        assert read_certificate(place / "report/certificate.json").statement.evaluation.model.files == found.model.files
