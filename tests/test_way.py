"""The whole way with a model that a test can train: score, judge, certify, verify, export; and who is turned away."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard

from drgate.answers import softmax
from drgate.certificate.keys import PrivateKey, generate_key, load_private_key
from drgate.certificate.statement import Certificate, Statement, make_statement, read_certificate
from drgate.certificate.trust import Revocations
from drgate.checklist import Checklist, load_checklist, parse_checklist, parse_yaml
from drgate.errors import (
    CertificateError,
    CheckpointError,
    DrgateError,
    LeakFound,
    ManifestError,
    NotCertified,
    RecordError,
    UsageError,
)
from drgate.export import compare
from drgate.files import sha256_file
from drgate.judge import Judgement
from drgate.manifest import load_manifest, split_by_patient
from drgate.operating_point import load_operating_point, make_operating_point, write_operating_point
from drgate.predict import graded, load_bundle, photographs_in
from drgate.predictions import load_predictions, write_predictions
from drgate.record import read_record, training_evidence
from drgate.report import words
from drgate.score import NoOutputWarning, score
from drgate.verify import Rescoring, Trust
from drgate.vision.checkpoint import load_checkpoint
from drgate.vision.graders import load_grader
from drgate.vision.onnx_grader import OnnxGrader
from tests.support.bundles import infer
from tests.support.tiny import write_base, write_eyes
from tests.support.verbs import exported as export
from tests.support.verbs import judged as judge
from tests.support.verbs import verified as verify
from trainer.config import TrainingConfig
from trainer.run import train

LENIENT = parse_yaml(
    b"name: lenient\nversion: 1\nlooks: 3\nbootstrap: {resamples: 1000}\n"
    b"criteria: [{id: accuracy, at_least: 0.2}, {id: stability, below: 0.9}, {id: cost, below: 1}]",
    "lenient.yaml",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, and a run that learned it: data/, run/, key.pem."""
    folder = tmp_path_factory.mktemp("way")
    base = write_base(folder / "base")
    write_eyes(folder / "data", train=8, val=4, test=4)
    train(
        TrainingConfig(
            dataset=str(folder / "data"),
            base=str(base),
            output_dir=str(folder / "run"),
            learning_rate=3e-3,
            batch_size=8,
            gradient_accumulation_steps=1,
            warmup_epochs=0,
            num_epochs=10,
            dropout=0.0,
            num_workers=0,
            usd_per_hour=0.5,
            checkpoint_frequency=1,
            lora_r=4,
            lora_alpha=8,
        )
    )
    generate_key(folder / "key", None)
    return folder


@pytest.fixture(scope="module")
def key(place: Path) -> PrivateKey:
    return load_private_key(place / "key.pem")


@pytest.fixture(scope="module")
def certified(place: Path, key: PrivateKey) -> Judgement:
    """The run's best model, judged and certified by the lenient checklist."""
    return judge(
        place / "run" / "best_model.pth",
        checklist=LENIENT,
        data=place / "data",
        looks=place / "looks.jsonl",
        key=key,
        out=place / "report",
        workers=0,
    )


class TestScoring:
    def test_equals_the_network_by_hand(self, place: Path):
        """Scores are the softmax of the network's logits, image by image, in the order of the images."""
        grader = load_grader(place / "run" / "best_model.pth")
        test_set = load_manifest(place / "data").select("test")
        predictions = score(grader, test_set, workers=0)
        model = load_checkpoint(place / "run" / "best_model.pth").build()
        from drgate.vision.images import read_image

        for image, row in zip(test_set.table["image"], predictions.probabilities(), strict=True):
            pixels = torch.from_numpy(grader.preprocessing(read_image(test_set.path(image)))[None])
            with torch.inference_mode():
                expected = torch.softmax(model(pixels).double(), dim=1).numpy()[0]
            np.testing.assert_allclose(row, expected, atol=1e-6)

    def test_workers_change_nothing(self, place: Path):
        grader = load_grader(place / "run" / "best_model.pth")
        test_set = load_manifest(place / "data").select("test")
        assert score(grader, test_set, workers=2).digest == score(grader, test_set, workers=0).digest

    def test_unreadable_image_stays_as_a_row_without_answer(self, place: Path, tmp_path: Path):
        """No crash: the image counts as one that the model refused, and the checklist says how."""
        data = Path(shutil.copytree(place / "data", tmp_path / "data"))
        test_set = load_manifest(data).select("test")
        first = test_set.table["image"].iloc[0]
        (data / first).write_bytes(b"not an image")
        grader = load_grader(place / "run" / "best_model.pth")
        with pytest.warns(NoOutputWarning, match=str(first)):
            predictions = score(grader, load_manifest(data).select("test"), workers=0)
        row = predictions.table.set_index("image").loc[first]
        assert row[["p_0", "predicted"]].isna().all()
        assert predictions.table["predicted"].notna().sum() == len(test_set) - 1

    def test_a_folder_of_broken_images_is_an_error(self, place: Path, tmp_path: Path):
        data = Path(shutil.copytree(place / "data", tmp_path / "data"))
        for image in (data / "images").glob("test-*"):
            image.write_bytes(image.name.encode())
        with pytest.raises(DrgateError, match="no image could be graded"):
            score(load_grader(place / "run" / "best_model.pth"), load_manifest(data).select("test"), workers=0)

    def test_training_images_are_recognised_without_patients(self, place: Path, tmp_path: Path):
        """Copied under other names and without patients, images of the training set are found by their hash."""
        folder = tmp_path / "again"
        for i, image in enumerate(sorted((place / "data" / "images").glob("train-0-*"))):
            (folder / "0").mkdir(parents=True, exist_ok=True)
            shutil.copy(image, folder / "0" / f"{i}.png")
        with pytest.raises(LeakFound, match="near-duplicates in training: 8"):
            score(load_grader(place / "run" / "best_model.pth"), load_manifest(folder), workers=0)

    def test_what_is_published_names_no_image_and_no_patient(self, place: Path, tmp_path: Path):
        """Of byte-identical files there is a count alone."""
        (folder := tmp_path / "new").mkdir()
        for name in ("Smith-left.png", "Smith-copy.png"):
            shutil.copy(place / "data" / "images" / "test-0-0.png", folder / name)
        shutil.copy(place / "data" / "images" / "test-1-0.png", folder / "Jones.png")
        rows = "image,grade,patient\nSmith-left.png,0,Smith 1961\nSmith-copy.png,0,Smith 1961\nJones.png,1,Jones 1950\n"
        (folder / "labels.csv").write_text(rows)
        grader = load_grader(place / "run" / "best_model.pth")
        provenance = score(grader, load_manifest(folder), workers=0).provenance
        expected = "1 image is a copy of another (byte-identical)."
        assert expected in provenance["warnings"]
        assert not [name for name in ("Smith", "Jones", "1961") if name in json.dumps(provenance)]

    def test_provenance_survives_the_file(self, place: Path, tmp_path: Path):
        predictions = score(
            load_grader(place / "run" / "best_model.pth"), load_manifest(place / "data").select("test"), workers=0
        )
        write_predictions(predictions, tmp_path / "p.parquet")
        again = load_predictions(tmp_path / "p.parquet")
        assert again.provenance == predictions.provenance
        assert again.provenance["model"]["tensor_digest"] == load_checkpoint(place / "run/best_model.pth").tensor_digest
        write_predictions(predictions, tmp_path / "p.csv")
        assert load_predictions(tmp_path / "p.csv").provenance == {}

    def test_softmax_of_anything_not_finite_is_no_answer(self):
        probabilities = softmax(
            np.array([[0, 0, 0, 0, 0], [1e4, 0, 0, 0, 0], [np.nan, 0, 0, 0, 0], [np.inf, 0, 0, 0, 0]])
        )
        np.testing.assert_allclose(probabilities[:2], [[0.2] * 5, [1, 0, 0, 0, 0]])
        assert np.isnan(probabilities[2:]).all()


class TestJudging:
    def test_evidence_of_the_run_is_used(self, certified: Judgement):
        """Stability and cost come from the checkpoint's own record; the verdict is what the numbers say."""
        evaluation = certified.evaluation
        assert evaluation.verdict == "PASS", [c.reason for c in evaluation.criteria]
        assert evaluation.training.stability is not None
        assert evaluation.training.stability.window == 10
        assert evaluation.training.spend is not None
        assert (evaluation.training.spend.usd or 0) > 0
        assert (evaluation.model.tensor_digest or "").startswith("sha256:")
        clean = next(line for line in evaluation.page_one if line.startswith("Audit, nothing found: "))
        assert "Near-duplicates in training" in clean
        assert "Patients who are in training too" in clean

    def test_same_look_same_bytes(self, place: Path, key: PrivateKey, certified: Judgement):
        """Judging the same model on the same images again gives the same certificate, byte for byte."""
        before = (certified.folder / "certificate.json").read_bytes()
        again = judge(
            place / "run" / "best_model.pth",
            checklist=LENIENT,
            data=place / "data",
            looks=place / "looks.jsonl",
            key=key,
            out=place / "report",
            workers=0,
        )
        assert (again.folder / "certificate.json").read_bytes() == before

    def test_a_scored_table_is_judged_as_its_model(self, place: Path, tmp_path: Path):
        grader = load_grader(place / "run" / "best_model.pth")
        predictions = score(grader, load_manifest(place / "data").select("test"), workers=0)
        write_predictions(predictions, tmp_path / "p.parquet")
        found = judge(
            tmp_path / "p.parquet", checklist=LENIENT, looks=tmp_path / "l", out=tmp_path / "o", record=place / "run"
        ).evaluation
        assert found.model.tensor_digest == grader.tensor_digest
        assert found.training.spend
        assert (found.training.spend.usd or 0) > 0

    def test_an_early_checkpoint_finds_the_record_beside_it(self, place: Path):
        """Weights taken on the way are matched to the run by their tensor digest, others are not."""
        table = read_record(place / "run" / "record.jsonl")
        digest = next(iter(table["digests"]))
        found = training_evidence(None, tensor_digest=digest, folder=place / "run")
        assert found["selected_epoch"] == table["digests"][digest]
        assert len(found["history"]) >= 10
        other = training_evidence(None, tensor_digest="sha256:0", folder=place / "run")
        assert "of other weights" in other["missing"]

    def test_a_column_named_predicted_does_not_answer_for_the_model(self, place: Path, tmp_path: Path):
        """What a manifest says of its images is not the model's output."""
        data = Path(shutil.copytree(place / "data", tmp_path / "data"))
        labels = pd.read_csv(data / "labels.csv")
        labels.assign(predicted=labels["grade"], p_0=1.0).to_csv(data / "labels.csv", index=False)
        test_set = load_manifest(data).select("test")
        first = test_set.table["image"].iloc[0]
        (data / first).write_bytes(b"not an image")
        with pytest.warns(NoOutputWarning):
            predictions = score(load_grader(place / "run" / "best_model.pth"), test_set, workers=0)
        assert predictions.table.set_index("image").loc[first, ["p_0", "predicted"]].isna().all()

    def test_the_split_that_selected_the_model_cannot_pass_it(self, place: Path, tmp_path: Path):
        found = judge(
            place / "run" / "best_model.pth",
            checklist=LENIENT,
            data=place / "data",
            split="val",
            looks=tmp_path / "l",
            out=tmp_path / "o",
            workers=0,
        ).evaluation
        assert found.verdict == "INSUFFICIENT"
        with pytest.raises(UsageError, match="training split"):
            judge(
                place / "run" / "best_model.pth",
                checklist=LENIENT,
                data=place / "data",
                split="train",
                out=tmp_path / "p",
            )

    def test_a_dealt_data_set_is_dealt_again(self, place: Path, tmp_path: Path):
        """A data set without splits: training dealt the patients by its seed, and judging takes its test part."""
        data = Path(shutil.copytree(place / "data", tmp_path / "data"))
        labels = pd.read_csv(data / "labels.csv").drop(columns="split")
        labels.to_csv(data / "labels.csv", index=False)
        train(
            TrainingConfig(
                dataset=str(data),
                base=str(place / "base"),
                output_dir=str(tmp_path / "run"),
                batch_size=16,
                gradient_accumulation_steps=1,
                num_epochs=1,
                num_workers=0,
                lora_r=4,
                lora_alpha=8,
                seed=3,
            )
        )
        found = judge(
            tmp_path / "run" / "best_model.pth",
            checklist=LENIENT,
            data=data,
            looks=tmp_path / "l",
            out=tmp_path / "o",
            workers=0,
        ).evaluation
        assert found.data.dealt_by_seed == 3
        assert found.counts.images == split_by_patient(load_manifest(data), seed=3).table["split"].eq("test").sum()

    def test_a_signed_folder_is_not_replaced_by_an_unsigned_one(self, place: Path, certified: Judgement):
        with pytest.raises(UsageError, match="holds something else"):
            judge(
                place / "run" / "best_model.pth",
                checklist=LENIENT,
                data=place / "data",
                looks=place / "looks.jsonl",
                out=certified.folder,
                workers=0,
            )
        assert (certified.folder / "certificate.json").exists()

    def test_force_replaces_nothing_but_evaluations(
        self, place: Path, tmp_path: Path, write_csv: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ):
        table = write_csv([{"image": "a", "grade": 0, "predicted": 0}])
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "thesis.tex").touch()
        monkeypatch.chdir(tmp_path / "precious")
        for folder in (tmp_path / "precious", Path(), table / "inside"):
            with pytest.raises(UsageError, match=r"holds something else|nothing can be written"):
                judge(table, checklist=LENIENT, looks=tmp_path / "l", out=folder, force=True)
        assert (tmp_path / "precious" / "thesis.tex").exists()
        assert not (tmp_path / "l").exists(), "a look was counted"

    def test_contradicting_copies_are_refused(self, place: Path, tmp_path: Path):
        """One photograph under two patients' names is not two patients."""
        data = Path(shutil.copytree(place / "data", tmp_path / "data"))
        shutil.copy(data / "images" / "test-0-0.png", data / "images" / "test-0-1.png")
        with pytest.raises(ManifestError, match="but of 2 patients"):
            judge(
                place / "run" / "best_model.pth", checklist=LENIENT, data=data, looks=tmp_path / "l", out=tmp_path / "o"
            )

    @pytest.mark.parametrize(("key", "value"), [("val_accuracy", 2.0), ("learning_rate", "high"), ("epoch", True)])
    def test_a_record_of_nonsense_is_refused(self, key: str, value: object):
        table = {
            "tensor_digest": "d",
            "selected_epoch": 1,
            "history": [{"epoch": 1, "val_accuracy": 0.5} | {key: value}],
        }
        table |= {"validation_set": {"n": 1, "digest": "x"}, "selection_rule": "", "spend": {}, "status": "finished"}
        with pytest.raises(RecordError):
            training_evidence(table, tensor_digest="d", folder=None)

    def test_a_table_with_data_is_a_mistake(self, place: Path, write_csv: Callable[..., Path]):
        table = write_csv([{"image": "a", "grade": 0, "predicted": 0}])
        with pytest.raises(UsageError, match="needs no --data"):
            judge(table, checklist=LENIENT, data=place / "data")


class TestScoredAgain:
    """`verify --deep`: the model itself gives the predictions that were certified."""

    def test_comes_out_the_same(self, place: Path, key: PrivateKey, certified: Judgement):
        found = verify(
            certified.folder / "certificate.json",
            trusted=[key.public],
            models=[place / "run" / "best_model.pth"],
            checklist=LENIENT,
            looks=place / "looks.jsonl",
            deep=Rescoring(place / "data", workers=0),
        )
        assert (found.exit_code, found.problems) == (0, ())
        assert (found.bound, found.recomputed) == (True, True)
        assert any("was scored again: all 20 images are graded the same" in sentence for sentence in found.checked)

    def test_finds_predictions_that_the_model_did_not_make(
        self, place: Path, key: PrivateKey, certified: Judgement, tmp_path: Path
    ):
        """Predictions with one answer changed, evaluated and signed anew: every digest fits, the model does not."""
        table = certified.predictions.table.copy()
        answered = table["predicted"].iloc[0]
        other = (answered + 1) % 5
        table.loc[0, [f"p_{answered}", f"p_{other}"]] = table.loc[0, [f"p_{other}", f"p_{answered}"]].tolist()
        table.loc[0, "predicted"] = other
        write_predictions(replace(certified.predictions, table=table), tmp_path / "p.parquet")
        forged = judge(
            tmp_path / "p.parquet",
            checklist=LENIENT,
            record=place / "run",
            looks=tmp_path / "l",
            key=key,
            out=tmp_path / "o",
        )
        arguments: dict[str, Any] = {"trusted": [key.public], "models": [place / "run" / "best_model.pth"]}
        shallow = verify(forged.folder / "certificate.json", **arguments)
        assert (shallow.bound, shallow.recomputed, shallow.problems) == (True, True, ())
        deep = verify(forged.folder / "certificate.json", **arguments, deep=Rescoring(place / "data", workers=0))
        assert deep.exit_code == 2
        assert any("1 of 20 images have another grade" in sentence for sentence in deep.problems)

    def test_another_model_or_test_set_is_found_out(
        self, place: Path, key: PrivateKey, certified: Judgement, tmp_path: Path
    ):
        certificate = certified.folder / "certificate.json"
        other = verify(certificate, models=[place / "run" / "epoch_01.pth"], deep=Rescoring(place / "data", workers=0))
        assert any("has other tensors" in sentence for sentence in other.problems)
        data = Path(shutil.copytree(place / "data", tmp_path / "data"))
        (data / load_manifest(data).select("test").table["image"].iloc[0]).unlink()
        labels = pd.read_csv(data / "labels.csv")
        labels[[(data / image).exists() for image in labels["image"]]].to_csv(data / "labels.csv", index=False)
        fewer = verify(
            certificate, models=[place / "run" / "best_model.pth"], deep=Rescoring(data, workers=0), checklist=LENIENT
        )
        assert any("is not the test set that it was judged on" in sentence for sentence in fewer.problems)

    def test_takes_the_model_and_the_predictions(self, place: Path, certified: Judgement, tmp_path: Path):
        certificate = certified.folder / "certificate.json"
        with pytest.raises(UsageError, match="give it with --model"):
            verify(certificate, deep=Rescoring(place / "data"))
        shutil.copy(certificate, tmp_path)
        with pytest.raises(UsageError, match="give them with --predictions"):
            verify(
                tmp_path / "certificate.json", models=[place / "run" / "best_model.pth"], deep=Rescoring(place / "data")
            )


class TestExport:
    @pytest.fixture(scope="class")
    @classmethod
    def bundle(cls, place: Path, key: PrivateKey, certified: Judgement) -> Path:
        result = export(
            place / "run" / "best_model.pth",
            certificate=certified.folder / "certificate.json",
            data=place / "data",
            checklist=LENIENT,
            out=place / "bundle",
            key=key,
            trusted=[key.public],
            workers=0,
        )
        assert result.largest_difference < 1e-4
        return result.folder

    def test_bundle_is_complete(self, bundle: Path):
        assert {path.name for path in bundle.iterdir()} >= {
            "model.onnx",
            "preprocess.json",
            "labels.json",
            "README.md",
            "certificate.json",
            "statement.json",
            "evaluation.json",
            "predictions.parquet",
            "report.html",
            "report.md",
            "junit.xml",
            "preprocessing.py",
            "infer.py",
            "vectors",
            "SHA256SUMS",
        }
        assert not (bundle / "names.csv").exists(), "the caller's own names of images stay at home"

    def test_it_runs_without_drgate(self, bundle: Path, place: Path, key: PrivateKey):
        """`infer.py` in a process without drgate: the certified grade of every test image, and its probabilities.

        `drgate predict` gives the same.
        """
        table = pd.read_parquet(bundle / "predictions.parquet").set_index("image")
        images = [place / "data" / image for image in load_manifest(place / "data").select("test").table["image"]]
        code, lines, errors = infer(bundle, images)
        assert (code, errors, len(lines)) == (0, "", len(table))
        for image in images:
            row, line = table.loc[hashlib.sha256(image.read_bytes()).hexdigest()[:16]], lines[str(image)]
            assert int(line["grade"]) == row["predicted"]
            expected = [row[f"p_{grade}"] for grade in range(5)]
            assert [float(line[f"p_{grade}"]) for grade in range(5)] == pytest.approx(expected, abs=1e-5)
        for one in graded(load_bundle(bundle, Trust([key.public])), photographs_in(images), workers=0):
            assert one.sha256 is not None
            row, line = table.loc[one.sha256[:16]], lines[one.image]
            assert (one.grade, one.referable) == (row["predicted"], line["referable"] == "1")
            assert one.p == pytest.approx([row[f"p_{grade}"] for grade in range(5)], abs=1e-12)
        sums = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=bundle)
        assert sums.returncode == 0

    def test_its_card_is_read_by_the_hub(self, bundle: Path):
        """Hugging Face's own reader finds each result with its interval, and the digest of the certificate."""
        evaluation = read_certificate(bundle / "certificate.json").statement.evaluation
        read: Any = ModelCard((bundle / "README.md").read_text()).data
        results = {result.metric_type: result for result in read.eval_results}
        sensitivity = evaluation.metrics["sensitivity:referable"]
        card = (bundle / "README.md").read_text()
        assert f"**{evaluation.headline}**" in card.replace("\\", "")
        shown = card.partition("# Model card")[2]
        assert all(words.title(one.id) in shown for one in evaluation.criteria if one.required)
        found = results["sensitivity:referable"]
        assert (found.metric_value, found.metric_args["low"]) == (sensitivity.value, sensitivity.low)
        assert found.dataset_revision == evaluation.data.digest
        digest = hashlib.sha256((bundle / "certificate.json").read_bytes()).hexdigest()
        statement = read_certificate(bundle / "certificate.json").statement.digest
        expected = {"verdict": "PASS", "statement": statement, "certificate": f"sha256:{digest}"}
        assert read.to_dict()["drgate"] == expected

    def test_onnx_computes_what_the_checkpoint_does(self, bundle: Path, place: Path):
        """A free batch dimension: any batch gives each image's logits, within rounding of the unmerged network."""
        model = load_checkpoint(place / "run" / "best_model.pth").build()
        session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
        images = np.random.default_rng(0).uniform(-1, 1, (11, 3, 28, 28)).astype(np.float32)
        with torch.inference_mode():
            expected = model(torch.from_numpy(images)).numpy()
        for size in (1, 2, 3, 11):
            got = session.run(None, {"pixel_values": images[:size]})[0]
            np.testing.assert_allclose(got, expected[:size], atol=1e-4)

    def test_certificate_is_of_the_onnx_file(self, bundle: Path, place: Path, key: PrivateKey, certified: Judgement):
        """It names every file that decides the answer, its parent, and takes look and stability from there."""
        read = read_certificate(bundle / "certificate.json")
        assert isinstance(read, Certificate)
        files = [bundle / name for name in read.statement.subjects]
        assert {"model.onnx", "preprocess.json", "labels.json"} <= {file.name for file in files}
        result = verify(bundle / "certificate.json", trusted=[key.public], models=files, checklist=LENIENT)
        assert (result.exit_code, result.problems) == (0, ())
        evaluation = read.statement.evaluation
        assert evaluation.look == certified.evaluation.look
        assert evaluation.data.audit == certified.evaluation.data.audit
        assert evaluation.training.stability == certified.evaluation.training.stability
        assert evaluation.model.parent is not None
        assert evaluation.model.parent.tensor_digest == certified.evaluation.model.tensor_digest
        assert verify(bundle / "certificate.json", trusted=[key.public], models=[place / "run/last.pth"]).exit_code == 2
        found = verify(
            bundle / "certificate.json",
            trusted=[key.public],
            looks=place / "looks.jsonl",
            parent=certified.folder / "certificate.json",
        )
        assert (found.exit_code, found.problems) == (0, ())
        changes = read.statement.content["predicate"]["drgate"]["changes"]
        assert changes["against"] == make_statement(certified.evaluation).digest
        assert (changes["relation"], changes["same_spec"], changes["same_test_set"]) == ("exported from", True, True)

    def test_a_changed_file_is_not_the_one_that_was_certified(self, bundle: Path, key: PrivateKey, tmp_path: Path):
        copied = Path(shutil.copytree(bundle, tmp_path / "bundle"))
        (copied / "preprocess.json").write_text((copied / "preprocess.json").read_text() + " ")
        result = verify(copied / "certificate.json", trusted=[key.public], models=[copied / "preprocess.json"])
        assert result.exit_code == 2

    def test_a_wrong_network_is_noticed(self, bundle: Path, place: Path):
        """The comparison of outputs can fail."""
        model = load_grader(place / "run" / "epoch_01.pth")
        images = np.random.default_rng(0).uniform(-1, 1, (10, 3, 28, 28)).astype(np.float32)
        with pytest.raises(CheckpointError, match="outputs differ"):
            compare(model, OnnxGrader(bundle / "model.onnx"), images)

    @pytest.mark.parametrize(
        ("change", "error", "words", "code"),
        [
            ({"spec": "medical-grade"}, CertificateError, "does not let", 2),
            ({"checkpoint": "epoch_01.pth"}, CertificateError, "does not let", 2),
            ({"certificate": "statement.json"}, NotCertified, "is not signed", 3),
            ({"trusted": []}, NotCertified, "no key that you trust", 3),
        ],
    )
    def test_who_is_turned_away(
        self,
        change: dict[str, Any],
        error: type[DrgateError],
        words: str,
        code: int,
        place: Path,
        key: PrivateKey,
        certified: Judgement,
        tmp_path: Path,
    ):
        """Another checklist, another model, no signature, no trusted key: refused, and nothing is written."""
        checklist: Checklist = load_checklist(change["spec"]) if "spec" in change else LENIENT
        with pytest.raises(error, match=words) as refusal:
            export(
                place / "run" / change.get("checkpoint", "best_model.pth"),
                certificate=certified.folder / change.get("certificate", "certificate.json"),
                data=place / "data",
                checklist=checklist,
                out=tmp_path / "bundle",
                trusted=change.get("trusted", [key.public]),
                workers=0,
            )
        assert refusal.value.exit_code == code
        assert list(tmp_path.iterdir()) == []

    def test_what_is_revoked_opens_nothing(self, place: Path, key: PrivateKey, certified: Judgement, tmp_path: Path):
        for name in (key.public.id, make_statement(certified.evaluation).digest):
            with pytest.raises(CertificateError, match="is revoked: lost"):
                export(
                    place / "run" / "best_model.pth",
                    certificate=certified.folder / "certificate.json",
                    data=place / "data",
                    checklist=LENIENT,
                    out=tmp_path / "bundle",
                    trusted=[key.public],
                    revocations=Revocations({name: "lost"}),
                    workers=0,
                )
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("checklist", "time", "says"),
        [
            ({"valid_days": 30}, datetime.now(UTC) - timedelta(days=31), "expired on"),
            ({"purpose": "pipeline"}, datetime.now(UTC) - timedelta(days=31), "certifies nothing"),
        ],
    )
    def test_what_expired_or_was_for_trying_opens_nothing(
        self,
        place: Path,
        key: PrivateKey,
        certified: Judgement,
        tmp_path: Path,
        checklist: dict[str, Any],
        time: datetime,
        says: str,
    ):
        """A signed PASS by this very checklist, a day too old; and one by a checklist for pipelines, like `smoke`."""
        checklist = parse_checklist({**LENIENT.content(), "name": "other", **checklist}, "other.yaml")
        write_predictions(certified.predictions, tmp_path / "p.parquet")
        judged = judge(
            tmp_path / "p.parquet",
            checklist=checklist,
            record=place / "run",
            looks=tmp_path / "l",
            key=key,
            out=tmp_path / "o",
            time=f"{time:%Y-%m-%dT%H:%M:%SZ}",
        )
        assert judged.evaluation.verdict == "PASS"
        with pytest.raises(CertificateError, match=says):
            export(
                place / "run" / "best_model.pth",
                certificate=tmp_path / "o" / "certificate.json",
                data=place / "data",
                checklist=checklist,
                out=tmp_path / "bundle",
                trusted=[key.public],
                workers=0,
            )
        assert not (tmp_path / "bundle").exists()

    def test_what_no_trusted_key_signed_is_not_signed(
        self, place: Path, key: PrivateKey, certified: Judgement, tmp_path: Path
    ):
        """--allow-unsigned exports on a bare statement, but no key signs what follows from it."""
        result = export(
            place / "run" / "best_model.pth",
            certificate=certified.folder / "statement.json",
            data=place / "data",
            checklist=LENIENT,
            out=tmp_path / "bundle",
            key=key,
            trusted=[key.public],
            allow_unsigned=True,
            workers=0,
        )
        assert not result.judgement.signed
        assert not (tmp_path / "bundle" / "certificate.json").exists()

    def test_what_failed_is_not_exported(self, place: Path, key: PrivateKey, tmp_path: Path):
        """A signed FAIL opens nothing; the exit code is the verdict's."""
        strict = load_checklist("medical-grade")
        failed = judge(
            place / "run" / "epoch_01.pth",
            checklist=strict,
            data=place / "data",
            looks=tmp_path / "l",
            key=key,
            out=tmp_path / "report",
            workers=0,
        )
        assert failed.evaluation.verdict == "FAIL"
        with pytest.raises(NotCertified, match="says FAIL") as refusal:
            export(
                place / "run" / "epoch_01.pth",
                certificate=failed.folder / "certificate.json",
                data=place / "data",
                checklist=strict,
                out=tmp_path / "bundle",
                trusted=[key.public],
                workers=0,
            )
        assert refusal.value.exit_code == 1
        assert not (tmp_path / "bundle").exists()

    def test_cut_offs_are_a_file_of_the_bundle(self, place: Path, key: PrivateKey, tmp_path: Path):
        """Written before the exported model is judged, so the certificate covers the very file that will run."""
        tuned_on = score(
            load_grader(place / "run/best_model.pth"), load_manifest(place / "data").select("val"), workers=0
        )
        point = make_operating_point((0.5, 0.5, 0.5, 0.5), checklist={}, tuned_on=tuned_on, promise={})
        model = Path(shutil.copy(place / "run/best_model.pth", tmp_path))
        write_operating_point(point, tmp_path / "cuts.json")
        checklist = parse_checklist(
            {**LENIENT.content(), "name": "low", "criteria": [{"id": "accuracy", "at_least": 0.01}]}, "low.yaml"
        )
        settings: dict[str, Any] = {"data": place / "data", "checklist": checklist, "workers": 0, "key": key}
        judged = judge(
            model,
            record=place / "run",
            operating_point=tmp_path / "cuts.json",
            looks=tmp_path / "l",
            out=tmp_path / "o",
            **settings,
        )
        certificate = judged.folder / "certificate.json"
        assert [file.role for file in judged.evaluation.model.files] == ["model", "cut_offs"]
        result = export(model, certificate=certificate, out=tmp_path / "bundle", trusted=[key.public], **settings)
        (file,) = [file for file in result.judgement.evaluation.model.files if file.role == "cut_offs"]
        assert file.name == "operating_point.json"
        assert file.sha256 == sha256_file(result.folder / file.name)
        assert load_operating_point(result.folder / file.name) == point
        made = result.folder / "certificate.json"
        assert verify(made, trusted=[key.public], models=[result.folder]).exit_code == 0
        (result.folder / file.name).rename(tmp_path / "away.json")
        assert verify(made, trusted=[key.public], models=[result.folder]).exit_code == 3
        (result.folder / file.name).write_text((tmp_path / "away.json").read_text() + " ")
        for given in (result.folder / "model.onnx", result.folder):
            with pytest.raises(UsageError, match=rf"decides the grades of {given.name} wherever it runs"):
                judge(given, looks=tmp_path / "l", out=tmp_path / "again", **settings)
        (tmp_path / "cuts.json").unlink()
        with pytest.raises(CertificateError, match=r"cuts\.json is missing: the certificate covers it as cut-offs"):
            export(model, certificate=certificate, out=tmp_path / "other", trusted=[key.public], **settings)

    def test_a_table_that_its_scorer_signed(self, place: Path, key: PrivateKey, tmp_path: Path, drgate: Any):
        """`score --key`, `evaluate --scorer-key`, `export --scorer-key`; without the scorer's key, nothing."""
        table, model = tmp_path / "p.parquet", place / "run" / "best_model.pth"
        scorer = load_private_key(generate_key(tmp_path / "scorer", None)[0])
        words = ("--data", place / "data", "--out", table, "--workers", 0, "--key", tmp_path / "scorer.pem")
        ended = drgate("score", model, *words)
        assert ended.code == 0, ended.err
        assert "signed in" in ended.out
        assert drgate("score", model, *words).code == 2, "neither table nor signature is overwritten"
        judged = judge(
            table,
            checklist=LENIENT,
            record=place / "run",
            looks=tmp_path / "l",
            key=key,
            out=tmp_path / "o",
            scorers=[scorer.public],
        )
        scoring = judged.evaluation.model.scoring
        assert scoring is not None
        assert (scoring.by, scoring.key) == ("signed", scorer.public.id)
        given: dict[str, Any] = {
            "certificate": judged.folder / "certificate.json",
            "data": place / "data",
            "checklist": LENIENT,
            "trusted": [key.public],
            "workers": 0,
        }
        with pytest.raises(NotCertified, match="no scorer's signature that you trust") as refusal:
            export(model, out=tmp_path / "bundle", **given)
        assert refusal.value.exit_code == 3
        with pytest.raises(CertificateError, match="not among the scorers"):
            export(model, out=tmp_path / "bundle", scorers=[key.public], **given)
        assert export(model, out=tmp_path / "bundle", scorers=[scorer.public], **given).exported

    def test_what_was_scored_elsewhere_only_where_that_is_allowed(
        self, place: Path, key: PrivateKey, certified: Judgement, tmp_path: Path
    ):
        """A table names this very model, which nothing proves."""
        write_predictions(certified.predictions, tmp_path / "p.parquet")
        settings = {"checklist": LENIENT, "record": place / "run", "looks": tmp_path / "l", "key": key}
        judged = judge(tmp_path / "p.parquet", out=tmp_path / "o", **settings)
        assert judged.evaluation.verdict == "PASS"
        assert judged.evaluation.headline.endswith("Scored elsewhere, not verified.")
        self.only_if_allowed("scored_elsewhere", judged, LENIENT, place, key, tmp_path)

    def test_what_is_observed_only_where_that_is_allowed(self, place: Path, key: PrivateKey, tmp_path: Path):
        checklist = parse_checklist({**LENIENT.content(), "name": "o", "evidence": {"decide_on": "point"}}, "o.yaml")
        judged = judge(
            place / "run" / "best_model.pth",
            checklist=checklist,
            data=place / "data",
            looks=tmp_path / "l",
            key=key,
            out=tmp_path / "o",
            workers=0,
        )
        assert judged.evaluation.verdict == "OBSERVED"
        self.only_if_allowed("observed", judged, checklist, place, key, tmp_path)

    def only_if_allowed(
        self, allow: str, judged: Judgement, checklist: Checklist, place: Path, key: PrivateKey, folder: Path
    ) -> None:
        """Refused with exit code 3; allowed, the next thing that is missing is the test set."""
        given: dict[str, Any] = {
            "certificate": judged.folder / "certificate.json",
            "checklist": checklist,
            "data": folder / "absent",
            "out": folder / "bundle",
            "trusted": [key.public],
        }
        for others in ([], [{"observed": "scored_elsewhere", "scored_elsewhere": "observed"}[allow]]):
            with pytest.raises(NotCertified) as refusal:
                export(place / "run" / "best_model.pth", allow=others, **given)
            assert refusal.value.exit_code == 3
        with pytest.raises(ManifestError, match="absent"):
            export(place / "run" / "best_model.pth", allow=[allow], **given)

    def test_a_table_exports_nothing(
        self, place: Path, key: PrivateKey, tmp_path: Path, write_csv: Callable[..., Path]
    ):
        """A certificate of somebody's predictions says nothing of a model file."""
        checklist = parse_yaml(b"name: t\nversion: 1\ncriteria: [{id: accuracy, at_least: 0.0001}]", "t.yaml")
        table = write_csv([{"image": "a", "patient": "p", "grade": 0, "predicted": 0}])
        judged = judge(table, checklist=checklist, looks=tmp_path / "l", key=key, out=tmp_path / "o")
        assert judged.evaluation.verdict == "PASS"
        with pytest.raises(CertificateError, match="not of a model"):
            export(
                place / "run" / "best_model.pth",
                certificate=tmp_path / "o" / "certificate.json",
                data=place / "data",
                checklist=checklist,
                out=tmp_path / "bundle",
                trusted=[key.public],
                workers=0,
            )


def test_statement_says_what_was_judged(certified: Judgement):
    """The statement carries the evaluation itself: whoever reads it needs nothing else."""
    read = read_certificate(certified.folder / "statement.json")
    assert isinstance(read, Statement)
    assert read.evaluation == certified.evaluation
    said = read.content["predicate"]["drgate"]
    assert said["training"]["status"] in ("finished", "stopped")
    assert said["training"]["spend"]["usd"] > 0
    assert said["training"]["parameters_digest"].startswith("sha256:")
    assert said["training"]["parent"] == "base model"
    model = read.evaluation.model
    assert model.providers
    assert (model.scored_with or {})["torch"] == torch.__version__
    named = {entry["name"] for entry in read.content["predicate"]["configuration"]}
    assert named >= {"manifest", "predictions", "line of the look", "training parameters"}
    assert json.loads((certified.folder / "evaluation.json").read_text()) == read.evaluation.to_json()
