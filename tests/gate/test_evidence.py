"""The evidence in a repository: predictions and chains of looks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drgate.certificate.chain import chain_line
from drgate.errors import RepositoryError, UsageError
from drgate.evaluation import Look
from drgate.files import canonical_json
from drgate.gate import evidence
from drgate.gate.change import Change
from drgate.gate.evidence import Tables
from drgate.gate.gate import gate
from drgate.gate.repository import Entry, open_repository
from drgate.predictions import load_predictions, published, write_predictions
from tests.support.evaluations import digest_of
from tests.support.repositories import (
    NOW,
    Repository,
    answer,
    answers,
    closing,
    copy_of,
    model_facts,
    of,
    said,
    scored,
)


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
        other = scored(answers(1), model_facts({"dr.pth": b"another model"}))
        write_predictions(repository.published(other), table)
        report = answer(repository)
        assert report.exit_code == 3
        assert "holds these rows, but was scored with other model files" in of(report, "predictions").reason

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

    def test_of_a_baseline(self, repository):
        """The baseline's table as its own evaluation published it, with slices that a baseline does not need."""
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2")
        repository.replace("checklists/site-a.yaml", "criteria:", "criteria:\n  - {id: baseline, margin: 0.5}")
        best = repository.published(scored(answers(3), model_facts({"best.pth": b"the best before"})))
        assert "camera" in best.table.columns
        repository.add_model("dr.pth", b"weights of the first model", baseline=published(best))
        repository.merge()
        report = answer(repository)
        assert "the baseline's predictions are not in" in of(report, "predictions").reason
        write_predictions(best, repository.root / "certificates/best/predictions.parquet")
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert of(report, "predictions").status == "PASS"

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

    @pytest.mark.parametrize("column", ["p_1", "grade", "image"])
    def test_one_changed_cell(self, repository, table, column):
        """Is a changed file, not a table whose numbers need more digits."""
        whole = pq.read_table(table)
        values = whole.column(column).to_pylist()
        values[7] = {"p_1": 0.9, "grade": 9, "image": values[8]}[column]
        at = whole.column_names.index(column)
        pq.write_table(whole.set_column(at, whole.field(column), pa.array(values, whole.field(column).type)), table)
        finding = of(answer(repository), "predictions")
        assert finding.status == "REFUSED"
        assert "predictions.parquet was changed after the model was scored: get the original file" in finding.reason
        assert "--scores" not in finding.reason


class TestDamagedCertificates:
    """Are named, with what happened to them; and nobody is sent to find other images."""

    @pytest.fixture
    def certificate(self, repository: Repository) -> Path:
        (path,) = (repository.root / "certificates").rglob("clinical.certificate.json")
        return path

    @pytest.mark.parametrize("of_all", [0.3, 0.99])
    def test_cut_off(self, repository, certificate, of_all):
        """A certificate of which the end is missing."""
        data = certificate.read_bytes()
        certificate.write_bytes(data[: int(len(data) * of_all)])
        reason = of(answer(repository), "certificate").reason
        assert f"{certificate.name} is cut off or damaged. Get the original file." in reason

    def test_no_base64(self, repository, certificate):
        """A character that stands for nothing."""
        data = certificate.read_bytes()
        certificate.write_bytes(data[:2000] + b"!" + data[2001:])
        assert "is damaged: it is not in base64" in of(answer(repository), "certificate").reason

    def test_one_other_character_anywhere(self, repository, certificate):
        """Also where the model's digest is, or where what is left is no JSON."""
        data = certificate.read_bytes()
        begin = data.index(b'"payload":"') + len(b'"payload":"')
        for at in range(begin, begin + 700, 13):
            other = b"B" if data[at : at + 1] == b"A" else b"A"
            certificate.write_bytes(data[:at] + other + data[at + 1 :])
            finding = of(answer(repository), "tampering")
            assert finding.status == "REFUSED"
            assert "is not what that key signed: it was changed since, or is forged" in finding.reason

    @pytest.mark.parametrize("how", ["gone", "cut", "line ends"])
    def test_with_all_looks_taken(self, repository, certificate, how):
        """The same model needs no fresh test set: its look is taken."""
        self.take_all_looks(repository)
        data = certificate.read_bytes()
        left = {"gone": b"", "cut": data[:900], "line ends": data + b"\r\n"}[how]
        certificate.write_bytes(left) if left else certificate.unlink()
        reason = of(answer(repository), "certificate").reason
        assert "No certificate in certificates counts" in reason
        assert "test set in its place" not in reason

    def test_another_model_is_told_how_to_go_on(self, repository):
        """It cannot pass where all looks are taken."""
        self.take_all_looks(repository)
        repository.write("models/dr.pth", b"a further model")
        reason = of(answer(repository), "certificate").reason
        assert "Unless this model took one of them, it cannot pass there: the 5 looks at site-a" in reason
        assert reason.endswith("drgate init --data FRESH_TEST_SET --replaces site-a")

    def take_all_looks(self, repository: Repository) -> None:
        for i in range(4):
            repository.judge({"dr.pth": b"another model %d" % i})


class TestLooks:
    """The chain of looks: goes on from the base branch's, and holds the certificate's look."""

    CHAIN = "looks/site-a.jsonl"

    def test_rewritten(self, repository):
        """A chain begun anew, with the look on it."""
        (repository.root / self.CHAIN).unlink()
        repository.add_model("dr.pth", b"weights of the first model", time="2026-02-01T00:00:00Z")
        report = answer(repository)
        assert closing(report)["looks:site-a"] == "REFUSED"
        assert "does not continue the chain on main" in said(report)

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
        assert "is missing. Looks are evidence" in of(answer(repository), "looks at site-a").reason

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
        line = {**entry, "digest": digest_of(entry)}
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
            look = replace(look, number=2, line=digest_of(entry))
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


class TestLimits:
    """Whoever proposes a change chooses how much evidence there is, and how large it is."""

    def test_of_certificates_together(self, repository, monkeypatch):
        """By their bytes, and by the number of those that name a guarded file; other files do not count."""
        repository.write("certificates/report.html", b"x" * 5000)
        (path,) = (repository.root / "certificates").rglob("clinical.certificate.json")
        size = path.stat().st_size
        monkeypatch.setattr("drgate.limits.JUDGED_CERTIFICATES", size)
        assert answer(repository).exit_code == 0
        monkeypatch.setattr("drgate.limits.JUDGED_CERTIFICATES", size - 1)
        with pytest.raises(RepositoryError, match="Remove those that no longer decide"):
            answer(repository)
        monkeypatch.undo()
        monkeypatch.setattr("drgate.limits.JUDGED_FOUND", 3)
        for i in range(3):
            repository.write(f"certificates/{i}.json", path.read_bytes())
        with pytest.raises(RepositoryError, match="more than 3 that name guarded files"):
            answer(repository)

    def test_of_a_chain(self, repository, monkeypatch):
        """Before it is read."""
        monkeypatch.setattr("drgate.limits.CHAIN_BYTES", 100)
        report = answer(repository)
        assert "is larger than 0 KB" in of(report, "looks at site-a").reason
        assert report.exit_code == 2

    def test_of_tables(self, demanding, tmp_path, monkeypatch):
        """Together; and only the one that is asked for is kept as a copy."""
        repository = copy_of(demanding, tmp_path / "repository")
        (table,) = (repository.root / "certificates").rglob("predictions.parquet")
        for i in range(3):
            other = scored(answers(i + 5), model_facts({"dr.pth": b"another model"}))
            write_predictions(other, repository.root / f"certificates/{i}.parquet")
        repository.stage()
        copies = tmp_path / "copies"
        copies.mkdir()
        with open_repository(repository.root) as opened:
            change = Change(opened, opened.commit("main"), opened.staged(), NOW)
            entries = [entry for entry in change.head.below("certificates") if entry.path.endswith(".parquet")]
            tables = Tables(change, entries, copies)
            digest = load_predictions(table).digest
            found = tables.find(digest, set(), [])
            assert found is not None
            assert found.read_bytes() == table.read_bytes()
            assert len([*copies.glob("[0-9]*")]) == 1
            monkeypatch.setattr("drgate.limits.JUDGED_TABLES", 10)
            invalid: list[str] = []
            assert Tables(change, entries, copies).find(digest, set(), invalid) is None
            assert all("there are more than" in why for why in invalid)

    def test_table_that_is_none(self, demanding, tmp_path):
        """In a sentence, and without the words of a library."""
        repository = copy_of(demanding, tmp_path / "repository")
        (table,) = (repository.root / "certificates").rglob("predictions.parquet")
        table.write_bytes(b"PAR1" + b"x" * 100 + b"PAR1")
        reason = of(answer(repository), "predictions").reason
        assert "is not a Parquet file, or is cut off" in reason
        assert "Error" not in reason

    def test_values_of_a_chain(self, repository, monkeypatch):
        """A line may be long, but many values take memory and time."""
        monkeypatch.setattr("drgate.limits.JSON_VALUES", 20)
        assert "holds more than 20 values; expected a chain" in said(answer(repository))

    def test_file_that_is_no_certificate_under_many_names(self, repository, monkeypatch):
        """It is read once."""
        for i in range(9):
            repository.write(f"certificates/{i}.json", '{"something": "else"}')
        read: list[str] = []
        original = evidence.Certificates._data

        def noted(self: evidence.Certificates, entry: Entry) -> bytes:
            read.append(entry.oid)
            return original(self, entry)

        monkeypatch.setattr(evidence.Certificates, "_data", noted)
        assert answer(repository).exit_code == 0
        assert len(read) == len({*read})

    def test_line_of_a_chain_that_is_cut_short(self, repository):
        """A tuple with too few values is named by its place."""
        line = json.loads((repository.root / "looks/site-a.jsonl").read_text().splitlines()[-1])
        with pytest.raises(UsageError, match=r"regraded\.0.*; expected a look"):
            chain_line({**line, "regraded": [["a"]]}, "the line")
