"""The audit before the verdict: a leak is found, named everywhere, and takes no look; a suspicion is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from drgate.audit.result import Audit as Whole
from drgate.audited import Against, recorded, summary_of
from drgate.certificate.keys import generate_key, load_public_key
from drgate.checklist import parse_yaml
from drgate.evaluate import evaluate
from drgate.evaluation import Audit, Checked, Evaluation, TestSet
from drgate.files import canonical_json
from drgate.judge import read_evaluation
from drgate.manifest import load_manifest
from drgate.metrics import AUDITED, LEAKS
from drgate.predictions import load_predictions, make_predictions, published_names, with_copies_merged
from drgate.score import score
from drgate.vision.checkpoint import save_checkpoint
from drgate.vision.fingerprint import Fingerprint
from drgate.vision.graders import load_grader
from drgate.vision.images import read_image
from drgate.vision.perceptual import HASHED_AT, perceptual_hash
from tests.support import tiny
from tests.support.material import Ended
from tests.support.verbs import verified as verify

Run = Callable[..., Ended]

LINES = "".join(f"  - {{id: 'audit:{check}', at_most: 0}}\n" for check in AUDITED)
OWN = "name: own\nversion: 1\nlooks: 2\nbootstrap: {resamples: 1000}\ncriteria:\n  - {id: accuracy, at_least: 0.001}\n"
DIGEST = f"sha256:{'5' * 64}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ with splits, and model.pth whose fingerprint has its training images and their patients under a key."""
    folder = tmp_path_factory.mktemp("leak")
    tiny.write_eyes(folder / "data", train=3, val=1, test=3)
    manifest = load_manifest(folder / "data")
    seen = manifest.table[manifest.table["split"] != "test"]
    hashes = [perceptual_hash(read_image(manifest.path(image), HASHED_AT)) for image in seen["image"]]
    base = tiny.tiny_base(folder / "base")
    known = {"lineage": {"training_sets": "known", "why": "", "pretraining": "none"}}
    fingerprint = Fingerprint.build(hashes, seen, tiny.PATIENT_KEY)
    save_checkpoint(
        folder / "model.pth",
        tiny.checkpoint_of(tiny.random_model(base), base, fingerprint=fingerprint, record=known),
    )
    (folder / "own.yaml").write_text(OWN + LINES)
    generate_key(folder / "key", passphrase=None)
    tiny.patient_key_file(folder / "patients.key")
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with a copy of the data that a test may change."""
    shutil.copytree(place / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rewritten(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    labels = pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False)
    change(labels).to_csv(folder / "labels.csv", index=False)


def shared_patient(labels: pd.DataFrame) -> pd.DataFrame:
    """The first test image is of the first patient of training."""
    first = labels.index[labels["split"] == "test"][0]
    labels.loc[first, "patient"] = labels["patient"][labels["split"] == "train"].iloc[0]
    return labels


def evaluated(drgate: Run, place: Path, *more: object, out: str = "out") -> Ended:
    words = ("evaluate", place / "model.pth", "--data", "data", "--spec", place / "own.yaml", "--workers", "0")
    return drgate(*words, "--out", out, "--key", place / "key.pem", *more)


def assert_no_look(evaluation: Evaluation) -> None:
    assert evaluation.look.number == 0
    assert evaluation.look.line is None
    assert not list(Path().rglob("looks/*"))
    assert evaluation.metrics == {}
    assert not any(map(sum, evaluation.confusion_matrix)), "no answer beside a grade"


class TestALeak:
    def test_of_a_patient_is_found_before_scoring(self, drgate: Run, place: Path, here: Path):
        """FAIL, exit code 1, named in every form and in the certificate; no look, no answer; verify recomputes it."""
        rewritten(here / "data", shared_patient)
        ended = evaluated(drgate, place)
        assert ended.code == 1, ended.err
        title = AUDITED["patients"]
        found, _ = read_evaluation(Path("out"))
        assert found.verdict == "FAIL"
        assert_no_look(found)
        status = {str(one.id): one.status for one in found.criteria}
        assert status["audit:patients"] == "FAIL"
        assert status["accuracy"] == "NOT_ASSESSED"
        assert "not judged" in next(one.reason for one in found.criteria if one.id == "accuracy")
        plain = " ".join(ended.out.split())
        assert title in plain
        assert title.lower() in plain.partition("To be read with the verdict")[0], "before every figure"
        for name in ("report.html", "report.md", "junit.xml", "certificate.json"):
            text = (here / "out" / name).read_text()
            if name == "certificate.json":
                text = json.dumps(json.loads((here / "out/statement.json").read_text()))
            assert title in text, name
        table = load_predictions(here / "out/predictions.parquet")
        assert not table.answered.any()
        again = verify(here / "out/certificate.json", trusted=[load_public_key(place / "key.pub")])
        assert again.exit_code == 1, again.problems
        assert again.recomputed
        assert "It took no look: its audit found a leak." in again.checked

    def test_gives_the_same_audit_for_the_same_inputs(self, drgate: Run, place: Path, here: Path):
        """Byte for byte, and its SHA-256 is what the statement names."""
        import hashlib

        rewritten(here / "data", shared_patient)
        evaluated(drgate, place, out="one")
        evaluated(drgate, place, out="two")
        one, two = ((here / name / "audit.json").read_bytes() for name in ("one", "two"))
        assert one == two
        statement = json.loads((here / "one/statement.json").read_text())
        named = {entry["name"]: entry["digest"]["sha256"] for entry in statement["predicate"]["configuration"]}
        assert named["audit"] == hashlib.sha256(one).hexdigest()

    def test_another_audit_beside_the_certificate_is_noticed(self, drgate: Run, place: Path, here: Path):
        """Somebody makes audit.json clean: verify contradicts it."""
        rewritten(here / "data", shared_patient)
        evaluated(drgate, place)
        plain = json.loads((here / "out/audit.json").read_text())
        plain["checks"] = [{**one, "status": "clean", "count": 0, "findings": []} for one in plain["checks"]]
        (here / "out/audit.json").write_bytes(canonical_json(plain))
        found = verify(here / "out/certificate.json", trusted=[load_public_key(place / "key.pub")])
        assert any("holds another audit than the one that it names" in one for one in found.problems)
        assert found.exit_code == 2

    def test_is_found_from_the_fingerprint_alone(self, drgate: Run, place: Path, here: Path):
        """No training data at hand: the patient key is enough."""
        rewritten(here / "data", lambda labels: shared_patient(labels).query("split == 'test'"))
        ended = evaluated(drgate, place, "--patient-key", place / "patients.key")
        assert ended.code == 1, ended.err
        found, _ = read_evaluation(Path("out"))
        assert {one.id for one in found.leaks} >= {"patients"}
        assert_no_look(found)

    @pytest.mark.parametrize("checks", ["files", "pixels"])
    def test_of_an_image(self, drgate: Run, place: Path, here: Path, checks: str):
        """A training photograph under another name in the test set: equal bytes before scoring, equal pixels while."""
        labels = pd.read_csv(here / "data/labels.csv")
        one, two = (labels["image"][labels["split"] == split].iloc[0] for split in ("train", "test"))
        if checks == "files":
            shutil.copy(here / "data" / one, here / "data" / two)
        else:
            Image.open(here / "data" / one).save(here / "data" / two, compress_level=1)
        ended = evaluated(drgate, place)
        assert ended.code == 1, ended.err
        found, _ = read_evaluation(Path("out"))
        assert checks in {one.id for one in found.leaks}
        assert_no_look(found)
        assert not load_predictions(here / "out/predictions.parquet").answered.any()

    def test_by_further_training_data(self, drgate: Run, place: Path, here: Path):
        """--train names a data set that the manifest of the test set knows nothing of."""
        rewritten(here / "data", lambda labels: labels[labels["split"] == "test"])
        shutil.copytree(here / "data", here / "more")
        rewritten(here / "more", lambda labels: labels.assign(split="train").head(2))
        ended = evaluated(drgate, place, "--train", "more")
        assert ended.code == 1, ended.err
        assert {"patients", "files"} <= {one.id for one in read_evaluation(Path("out"))[0].leaks}

    def test_scores_nothing(self, drgate: Run, place: Path, here: Path):
        """`drgate score` ends with 1 and writes no table."""
        rewritten(here / "data", shared_patient)
        words = ("score", place / "model.pth", "--data", "data", "--workers", "0", "--out", "p.parquet")
        ended = drgate(*words)
        assert ended.code == 1
        assert "the audit found a leak (patients who are in training too: 1" in ended.err
        assert not (here / "p.parquet").exists()

    def test_shows_in_a_dry_run(self, drgate: Run, place: Path, here: Path):
        """Before anything is signed or logged."""
        rewritten(here / "data", shared_patient)
        ended = drgate("evaluate", place / "model.pth", "--data", "data", "--workers", "0", "--dry-run")
        assert ended.code == 1
        said = " ".join(ended.out.split())
        assert said.startswith("The evaluation would end with FAIL: its audit finds a leak.")
        assert "The audit found a leak: no answer would be judged" in said
        assert "was trained on further images" not in said  # nothing was read that could tell
        assert not list(here.rglob("looks/*"))


class TestNoLeak:
    def test_is_said_check_by_check(self, drgate: Run, place: Path, here: Path):
        """With the training data at hand, patients, eyes, files and pixels are clean, and page one says so first."""
        ended = evaluated(drgate, place)
        found, _ = read_evaluation(Path("out"))
        assert found.look.number == 1, ended.err
        status = {one.id: one.status for one in found.data.audit.checks if one.id in AUDITED}
        assert {status[one] for one in ("patients", "eyes", "files", "pixels", "label_conflicts")} == {"clean"}
        assert {str(one.id) for one in found.criteria if one.status == "PASS"} >= {"audit:patients", "audit:files"}
        assert any(line.startswith("Audit, nothing found: ") for line in found.page_one)
        said = verify(here / "out/certificate.json", trusted=[load_public_key(place / "key.pub")])
        assert said.problems == ()
        assert any("audit.json holds the audit that it names" in line for line in said.checked)

    def test_a_scored_table_carries_the_audit(self, drgate: Run, place: Path, here: Path):
        """Evaluating the table gives the audit of the run that scored it."""
        words = ("score", place / "model.pth", "--data", "data", "--workers", "0", "--out", "p.parquet")
        assert drgate(*words).code == 0
        drgate("evaluate", "p.parquet", "--spec", place / "own.yaml", "--out", "out")
        found, _ = read_evaluation(Path("out"))
        assert found.data.audit.check("patients").status == "clean"
        assert not found.data.audit.given
        assert (
            found.data.audit.digest == Whole.from_json(load_predictions(Path("p.parquet")).provenance["audit"]).digest
        )

    def test_training_without_images_is_not_clean(self, place: Path, here: Path):
        """Nothing to compare with but a fingerprint: files and pixels are not assessed."""
        rewritten(here / "data", lambda labels: labels[labels["split"] == "test"].drop(columns="split"))
        table = score(load_grader(place / "model.pth"), load_manifest(here / "data"), workers=0)
        status = {one.id: one.status for one in Whole.from_json(table.provenance["audit"]).checks}
        assert status["files"] == status["pixels"] == "not_assessed"


def table_of(place: Path) -> Any:
    """Predictions of the test set, as a table in memory that names the files."""
    manifest = load_manifest(place / "data").select("test")
    rows = manifest.table.drop(columns="split").assign(
        predicted=manifest.table["grade"], sha256=manifest.table["image"].map(manifest.content_digests())
    )
    return rows, manifest


def whole(place: Path, **statuses: str) -> Whole:
    """An audit of the test set, as `drgate audit` writes one; every check clean unless stated."""
    rows, manifest = table_of(place)
    checks = [
        {"id": check, "status": statuses.get(check, "clean"), "count": int(check in statuses), "reason": "Hashes."}
        for check in LEAKS
    ]
    for check in checks:
        if check["status"] in ("found", "suspected"):
            check["findings"] = [{"test": rows["sha256"].iloc[0][:16], "distance": 12}]
    settings = {"test": {"digest": manifest.digest(), "images_digest": manifest.images_digest()}}
    return Whole.from_json({"format": "drgate audit 1", "settings": settings, "software": {}, "checks": checks})


class TestOfATable:
    def written(self, place: Path, audit: Whole) -> None:
        rows, _ = table_of(place)
        rows.to_csv("table.csv", index=False)
        Path("audit.json").write_bytes(canonical_json(audit.to_json()))

    def run(self, drgate: Run, place: Path, *more: object) -> Ended:
        return drgate("evaluate", "table.csv", "--spec", place / "own.yaml", "--out", "out", *more)

    def test_its_audit_can_be_given(self, drgate: Run, place: Path, here: Path):
        """Page one says that it was given; without one the criteria on the audit are not assessed."""
        self.written(place, whole(place))
        assert self.run(drgate, place).code == 3
        assert "No audit was made" in read_evaluation(Path("out"))[0].page_one[0]
        ended = self.run(drgate, place, "--audit", ".", "--force")
        found, _ = read_evaluation(Path("out"))
        assert found.data.audit.given, ended.err
        assert "The audit was given, not made in this run." in found.page_one
        assert {one.status for one in found.criteria if one.id.target in LEAKS} == {"PASS"}
        assert verify(Path("out/statement.json")).problems == ()

    def test_what_the_command_wrote_is_taken(self, drgate: Run, place: Path, here: Path):
        """Of the same files; not one that knows no file, as it might be of any set."""
        rows, _ = table_of(place)
        rows.to_csv("table.csv", index=False)
        rows.drop(columns="sha256").assign(image="none/" + rows["image"]).to_csv("rows.csv", index=False)
        rows.assign(image="none/" + rows["image"]).to_csv("named.csv", index=False)
        for test, out in ((place / "data", "with"), ("rows.csv", "without"), ("named.csv", "named")):
            drgate("audit", test, *([] if out == "with" else ["--no-images"]), "--out", out)
        ended = self.run(drgate, place, "--audit", "without")
        assert (ended.code, "does not say which files its images are" in ended.err) == (2, True)
        for given in ("with", "named"):
            self.run(drgate, place, "--audit", given, "--force")
            assert read_evaluation(Path("out"))[0].data.audit.given

    def test_a_leak_in_it_is_a_leak(self, drgate: Run, place: Path, here: Path):
        """The answers are dropped and no look is taken."""
        self.written(place, whole(place, near_duplicates="found"))
        assert self.run(drgate, place, "--audit", "audit.json").code == 1
        found, _ = read_evaluation(Path("out"))
        assert_no_look(found)
        assert not load_predictions(Path("out/predictions.parquet")).answered.any()

    def test_an_audit_of_other_images_is_refused(self, drgate: Run, place: Path, here: Path):
        """And one that is none, and a table that does not name its files."""
        audit = whole(place)
        self.written(place, replace(audit, settings={"test": {"images_digest": DIGEST}}))
        assert "is an audit of other images" in self.run(drgate, place, "--audit", "audit.json").err
        self.written(place, audit)
        rows, _ = table_of(place)
        rows.drop(columns="sha256").to_csv("table.csv", index=False)
        ended = self.run(drgate, place, "--audit", "audit.json")
        assert (ended.code, "does not say which files its images are" in ended.err) == (2, True)
        assert self.run(drgate, place, "--audit", "table.csv").code == 2
        assert not Path("out").exists()

    def test_what_drgate_audit_wrote_is_taken(self, drgate: Run, place: Path, here: Path):
        """A table from elsewhere and the folder of --out, as the docs say."""
        table_of(place)[0].to_csv("table.csv", index=False)
        assert drgate("audit", place / "data", "--out", "audit", "--workers", "0").code == 0
        ended = self.run(drgate, place, "--audit", "audit")
        assert Path("out").exists(), ended.err
        assert read_evaluation(Path("out"))[0].data.audit.given

    def test_an_audit_of_another_model_is_refused(self, drgate: Run, place: Path, here: Path):
        """A table of a model takes an audit of this model; without one, only where the model has no fingerprint."""
        words = ("score", place / "model.pth", "--data", "data", "--workers", "0", "--out", "p.parquet")
        assert drgate(*words).code == 0
        own = recorded(load_predictions(Path("p.parquet"))).audit
        for checkpoint, why in (({"tensor_digest": DIGEST}, "of another model"), (None, "without a model")):
            other = replace(own, settings={**own.settings, "checkpoint": checkpoint})
            Path("audit.json").write_bytes(canonical_json(other.to_json()))
            ended = drgate("evaluate", "p.parquet", "--spec", place / "own.yaml", "--out", "out", "--audit", ".")
            assert (ended.code, f"is an audit made {why}" in ended.err) == (2, True), ended.err
        Path("audit.json").write_bytes(canonical_json(own.to_json()))
        drgate("evaluate", "p.parquet", "--spec", place / "own.yaml", "--out", "out", "--audit", ".")
        assert read_evaluation(Path("out"))[0].data.audit.given

    def test_what_scoring_found_is_not_taken_back(self, drgate: Run, place: Path, here: Path):
        """One picture under two grades, and an audit without images given for it: the conflict stays."""
        labels = pd.read_csv(here / "data/labels.csv")
        test = labels["image"][labels["split"] == "test"]
        Image.open(here / "data" / test.iloc[0]).save(here / "data" / test.iloc[-1], compress_level=1)
        words = ("score", place / "model.pth", "--data", "data", "--workers", "0", "--out", "p.parquet")
        assert drgate(*words).code == 0
        own = recorded(load_predictions(Path("p.parquet"))).audit
        assert own.check("label_conflicts").status == "found"
        checks = [replace(one, status="clean", count=0, findings=()) for one in own.checks]
        Path("audit.json").write_bytes(canonical_json(replace(own, checks=tuple(checks)).to_json()))
        drgate("evaluate", "p.parquet", "--spec", place / "own.yaml", "--out", "out", "--audit", ".")
        found, _ = read_evaluation(Path("out"))
        assert (found.verdict, found.data.audit.given) == ("FAIL", False)


class TestSuspected:
    def test_the_verdict_without_them_stands_beside(self, drgate: Run, place: Path, here: Path):
        """A near hash in a fingerprint proves nothing: not assessed, and page one has the verdict without the patient;
        checked against an evaluation of the table without that patient."""
        audit = whole(place, near_duplicates="suspected")
        TestOfATable().written(place, audit)
        drgate("evaluate", "table.csv", "--spec", place / "own.yaml", "--out", "out", "--audit", ".")
        found, _ = read_evaluation(Path("out"))
        line = next(one for one in found.criteria if one.id == "audit:near_duplicates")
        assert line.status == "NOT_ASSESSED"
        assert "1 suspected, which proves nothing" in line.reason
        left = found.without_suspects
        rows, _ = table_of(place)
        rest = make_predictions(rows.iloc[1:], "rest", {})
        alone = evaluate(rest, parse_yaml((OWN + LINES).encode(), "own"))
        assert (left.images, left.patients) == (1, 1)
        assert left.criteria["accuracy"] == next(one.status for one in alone.criteria if one.id == "accuracy")
        assert any(line.startswith("Without the 1 patient whose images may be in training") for line in found.page_one)
        assert verify(Path("out/statement.json")).recomputed

    def test_where_nothing_is_left_it_is_said(self, drgate: Run, place: Path, here: Path):
        """All patients are suspected: no verdict without them, no path of this machine, and verify recomputes it."""
        own = whole(place, near_duplicates="suspected")
        rows, _ = table_of(place)
        findings = tuple(replace(own.checks[-1].findings[0], test=content[:16]) for content in rows["sha256"])
        last = replace(own.checks[-1], findings=findings, count=len(findings))
        TestOfATable().written(place, replace(own, checks=(*own.checks[:-1], last)))
        drgate("evaluate", "table.csv", "--spec", place / "own.yaml", "--out", "out", "--audit", ".")
        found, _ = read_evaluation(Path("out"))
        assert found.without_suspects.images == len(rows)
        assert any(line.endswith("there is no verdict: what is left cannot be judged.") for line in found.page_one)
        assert verify(Path("out/statement.json")).problems == ()

    def test_too_many_to_write_down_are_not_left_out(self, place: Path):
        """Only the first findings are in an audit: half of the suspects would be no answer."""
        audit = whole(place, near_duplicates="suspected")
        many = replace(audit.checks[-1], count=51)
        assert summary_of(replace(audit, checks=(*audit.checks[:-1], many))).suspects == ()


class TestCopies:
    def test_inside_the_test_set_count_as_one_patient(self, place: Path, here: Path, drgate: Run):
        """One picture, encoded twice, under two patients: one patient fewer, counted on page one; verify follows."""
        labels = pd.read_csv(here / "data/labels.csv")
        one, two = labels["image"][labels["split"] == "test"].iloc[:2]
        Image.open(here / "data" / one).save(here / "data" / two, compress_level=1)
        evaluated(drgate, place)
        found, _ = read_evaluation(Path("out"))
        assert found.counts.patients == 14
        assert found.counts.images == 15
        assert any("shows the same picture as another one" in line for line in found.page_one)
        said = verify(Path("out/certificate.json"), trusted=[load_public_key(place / "key.pub")])
        assert (said.problems, said.recomputed) == ((), True)

    def test_merge_whole_patients(self):
        """A with B and B with C is one patient; the ids in the column stay."""
        table = pd.DataFrame(
            {"image": list("abcd"), "patient": list("ABBC"), "grade": 0, "predicted": 0, "sha256": None}
        )
        given = make_predictions(table, "t", {})
        names = published_names(given.table)
        merged = with_copies_merged(given, [[names[0], names[1]], [names[2], names[3]]])
        assert merged.patients.codes.tolist() == [0, 0, 0, 0]
        assert merged.table["patient"].tolist() == list("ABBC")
        assert given.patients.codes.tolist() == [0, 1, 1, 2]


class TestCriteria:
    @pytest.fixture
    def given(self) -> Any:
        grades = np.arange(40) % 5
        patients = [f"p{i}" for i in range(40)]
        images = [f"{i:02}" for i in range(40)]
        rows = pd.DataFrame({"image": images, "patient": patients, "grade": grades, "predicted": grades})
        return make_predictions(rows, "t", {})

    def test_what_the_checklist_does_not_list_fails_it(self, given: Any):
        """Whatever was agreed on, a leak is a leak: the line is added, and required."""
        audit = Audit(DIGEST, (Checked("files", "found", 2, {"test": 40}), Checked("pixels", "clean")))
        found = evaluate(given, parse_yaml(OWN.encode(), "own"), data=TestSet("t", audit=audit))
        assert found.verdict == "FAIL"
        line = found.criteria[-1]
        assert (line.id, line.required, line.added, line.shown) == ("audit:files", True, "audit", True)
        assert Evaluation.from_json(found.to_json()) == found

    def test_one_picture_under_two_grades_is_no_leak(self, given: Any):
        """It fails the verdict, required or not; the answers are judged all the same."""
        advisory = OWN + "  - {id: 'audit:label_conflicts', at_most: 0, required: false}\n"
        audit = Audit(DIGEST, (Checked("label_conflicts", "found", 1, {"test": 40}),))
        found = evaluate(given, parse_yaml(advisory.encode(), "own"), data=TestSet("t", audit=audit))
        assert found.verdict == "FAIL"
        assert found.look.number == 1
        assert found.metrics

    @pytest.mark.parametrize("point", ["bound", "point"])
    def test_clean_passes_however_the_checklist_decides(self, given: Any, point: str):
        """A count has no interval."""
        text = (OWN + LINES).replace("criteria:", f"evidence: {{decide_on: {point}}}\ncriteria:")
        audit = Audit(DIGEST, tuple(Checked(one, "clean", 0, {"test": 40}) for one in AUDITED))
        found = evaluate(given, parse_yaml(text.encode(), "own"), data=TestSet("t", audit=audit))
        assert {one.status for one in found.criteria if one.id.metric == "audit"} == {"PASS"}
        assert Evaluation.from_json(found.to_json()) == found

    def test_a_statement_cannot_contradict_its_audit(self, given: Any):
        """Nobody can keep the leak and write PASS, or drop its line."""
        audit = Audit(DIGEST, (Checked("files", "found", 2),))
        found = evaluate(given, parse_yaml((OWN + LINES).encode(), "own"), data=TestSet("t", audit=audit))
        without = tuple(one for one in found.criteria if one.id != "audit:files")
        from drgate.errors import DrgateError

        with pytest.raises(DrgateError, match="its audit found what no criterion is about"):
            Evaluation.from_json(replace(found, criteria=without, verdict="INSUFFICIENT").to_json())
        clean = replace(found.data, audit=Audit(DIGEST, (Checked("files", "clean"),)))
        with pytest.raises(DrgateError, match="a look is taken where"):
            Evaluation.from_json(replace(found, data=clean).to_json())


def test_a_key_compares_patients_of_the_fingerprint(place: Path):
    """With the key and the training data both at hand, patients are clean."""
    manifest = load_manifest(place / "data")
    table = score(
        load_grader(place / "model.pth"), manifest.select("test"), workers=0, against=Against(key=tiny.PATIENT_KEY)
    )
    assert Whole.from_json(table.provenance["audit"]).check("patients").status == "clean"
