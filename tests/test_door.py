"""Before a look: a dry run, refusals that come before heavy imports, and what a path leads to wherever it is given."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
from PIL import Image

from drgate.content import named
from drgate.errors import CheckpointError
from drgate.models import find_model
from drgate.predictions import load_predictions
from drgate.vision.checkpoint import save_checkpoint
from tests.support import tiny
from tests.support.material import Ended

Run = Callable[..., Ended]
Refused = Callable[..., str]
Write = Callable[..., Path]

EMPTY = (2).to_bytes(8, "little") + b"{}"
"""A file of safetensors without tensors."""
HEAVY = ("torch", "transformers", "peft", "onnx", "onnxruntime", "sklearn", "safetensors")
SEVERAL = f"""
import contextlib, io, json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise AssertionError("heavy import")
sys.meta_path.insert(0, Blocked())
from drgate.cli import main as drgate
from trainer.cli import main as drtrain
told = []
for program, *arguments in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        try:
            (drtrain if program == "drtrain" else drgate)(arguments)
        except SystemExit as stop:
            told.append([stop.code, err.getvalue()])
print(json.dumps(told))
"""
"""Runs commands, given as JSON, in a process in which nothing heavy can be imported; prints exit codes and messages."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.pth, photographs of every grade by split (labels.csv), and a model in ONNX."""
    folder = tmp_path_factory.mktemp("door")
    base = tiny.tiny_base(folder / "base")
    save_checkpoint(folder / "model.pth", tiny.checkpoint_of(tiny.random_model(base), base))
    tiny.write_eyes(folder / "eyes", train=1, val=1, test=2)
    tiny.write_onnx(folder / "bundle")
    return folder


@pytest.fixture
def table(write_csv: Write) -> Path:
    """Forty images of twenty patients, each grade eight times, with probabilities; two answers are wrong."""
    rows: list[dict[str, object]] = []
    for i in range(40):
        answer = {3: 0, 17: 3}.get(i, i % 5)
        shares = {f"p_{k}": 0.8 if k == answer else 0.05 for k in range(5)}
        rows.append({"image": f"{i}.png", "patient": f"P{i // 2}", "grade": i % 5, **shares})
    return write_csv(rows)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


class TestDryRun:
    """N4: a mistake in a header costs no look."""

    def test_says_what_the_evaluation_would_be(self, drgate: Run, table: Path, here: Path):
        """Counts of grades and of answers, what cannot pass, the look; nothing is taken, nothing is written."""
        ended = drgate("evaluate", table, "--dry_run")
        assert ended.code == 0, ended.err
        assert list(here.iterdir()) == []
        text = " ".join(ended.out.split())
        assert "no look was taken and nothing was written" in text
        assert "Reference grades: No DR 8, Mild NPDR 8, Moderate NPDR 8, Severe NPDR 8, PDR 8" in text
        assert "Answers: five probabilities; No DR 9, Mild NPDR 8, Moderate NPDR 7, Severe NPDR 8, PDR 8" in text
        assert "Patients: 20; named for every image" in text
        assert "Look: 1 of 1 at these images, not taken now" in text
        assert "Sensitivity, PDR (required): 8 images of 8 patients: even without an error" in text
        assert "Training cost (required): a predictions table has no training record" in text
        assert "the verdict cannot be PASS" in text

    def test_says_why_nothing_can_pass(self, drgate: Run, table: Path, here: Path):
        """Without patients: the reason once, with what to declare; criteria with one reason are one line."""
        pd.read_csv(table).drop(columns="patient").to_csv("t.csv", index=False)
        text = " ".join(drgate("evaluate", "t.csv", "--dry-run").out.split())
        assert "No criterion on images can pass: no patients are named." in text
        assert "images_a_patient_at_most: N" in text
        assert text.count("no patients are named") == 2
        Path("reports/looks").mkdir(parents=True)
        assert drgate("evaluate", table, "--out", "one").code == 1
        other = pd.read_csv(table)
        other.loc[0, ["p_0", "p_1"]] = other.loc[0, ["p_1", "p_0"]].to_numpy()
        other.to_csv("t.csv", index=False)
        text = " ".join(drgate("evaluate", "t.csv", "--dry-run").out.split())
        assert "Look: 2 of 1 at these images, not taken now" in text
        assert "No criterion on images can pass: This is look 2 at a test set that allows 1." in text

    def test_counts_the_looks_that_an_earlier_checklist_declared(self, drgate: Run, table: Path, here: Path):
        """What cannot pass is at the level of the evaluation: that of the 100 looks which `smoke` declared."""
        options = ("evaluate", table, "--spec", "medical-grade", "--dry-run")
        alone = " ".join(drgate(*options).out.split())
        assert (
            "Sensitivity, PDR (required): 8 images of 8 patients: even without an error the lower limit is 63.1"
            in alone
        )
        Path("reports/looks").mkdir(parents=True)
        drgate("evaluate", table, "--spec", "smoke", "--out", "one")
        text = " ".join(drgate(*options).out.split())
        assert "of 100 at these images, taken before, so it counts no further; each is tested at alpha / 100" in text
        assert (
            "Sensitivity, PDR (required): 8 images of 8 patients: even without an error the lower limit is 35.5" in text
        )

    def test_shows_nothing_of_the_result(self, drgate: Run, table: Path, here: Path, write_csv: Write):
        """Two tables with the same grades and equally many answers of each kind, one right and one wrong throughout,
        give the same dry run but for their digests."""
        right = pd.read_csv(table)
        wrong = right.copy()
        shares = [f"p_{k}" for k in range(5)]
        wrong[shares] = right[shares].to_numpy()[:, [1, 2, 3, 4, 0]]
        counted = []
        for each in (right, wrong):
            each["p_0"], each["p_4"] = each["p_0"], each["p_4"]
            drawn = write_csv(each.to_dict("records"), "drawn/table.csv")
            ended = drgate("evaluate", drawn, "--dry-run", "--format", "json")
            assert ended.code == 0, ended.err
            found = json.loads(ended.out)
            counted.append({name: found[name] for name in ("reference", "never", "not_assessed", "look", "images")})
            assert sum(found["answers"].values()) == 40
        assert counted[0] == counted[1]

    def test_the_look_that_it_would_be(self, drgate: Run, table: Path, here: Path):
        """A table that was judged before keeps its look; another on the same images would be the next one."""
        assert drgate("evaluate", table, "--spec", "smoke", "--out", "one").code == 0
        chain = next((here / "reports/looks").glob("*.jsonl"))
        before = chain.read_bytes()
        again = json.loads(drgate("evaluate", table, "--spec", "smoke", "--dry-run", "--format", "json").out)
        assert again["look"] == {"number": 1, "allowed": 100, "again": True}
        other = pd.read_csv(table)
        other.loc[0, ["p_0", "p_1"]] = other.loc[0, ["p_1", "p_0"]].to_numpy()
        other.to_csv("other.csv", index=False)
        found = json.loads(drgate("evaluate", "other.csv", "--spec", "smoke", "--dry-run", "--format", "json").out)
        assert found["look"] == {"number": 2, "allowed": 100, "again": False}
        assert chain.read_bytes() == before
        assert drgate("evaluate", "other.csv", "--spec", "smoke", "--out", "two").code == 0
        assert json.loads((here / "two/evaluation.json").read_text())["look"]["number"] == 2

    def test_a_model_grades_four_images(self, drgate: Run, place: Path, here: Path):
        """It is loaded and runs; classes, preprocessing and digest are shown, and no answers are counted."""
        ended = drgate(
            "evaluate", place / "model.pth", "--base", place / "base", "--data", place / "eyes", "--spec", "smoke",
            "--dry-run", "--format", "json",
        )  # fmt: skip
        assert ended.code == 0, ended.err
        found = json.loads(ended.out)
        assert (found["tried"], found["answers"], found["images"]) == (4, {}, 10)
        assert found["model"]["kind"] == "checkpoint"
        assert found["model"]["preprocessing"]["name"] == f"fundus-square-1@{tiny.SIZE}"
        assert found["model"]["class_names"][0] == "no_dr"
        assert found["test_set"]["split"] == "test"
        assert found["folder"].startswith("reports/model-")
        assert list(here.iterdir()) == []

    def test_all_that_is_wrong_is_said_at_once(self, drgate: Run, place: Path, here: Path):
        """Twelve arguments, twelve problems; exit code 2 and no look."""
        wrong = {
            "--base": "nowhere", "--preprocess": "nothing@64", "--data": "missing", "--spec": "smokey",
            "--key": "no.pem", "--scorer-key": "no.pub", "--baseline": "none.csv", "--previous": "before.json",
            "--operating-point": "cuts.json", "--time": "2222", "--patient-key": "patients.key", "--record": "run",
        }  # fmt: skip
        arguments = [word for pair in wrong.items() for word in pair]
        ended = drgate("evaluate", place / "model.pth", *arguments, "--dry-run", "--format", "json")
        assert ended.code == 2
        assert "Traceback" not in ended.err
        problems = json.loads(ended.out)["problems"]
        for value in wrong.values():
            assert any(value in one or "--key (or DRGATE_KEY)" in one for one in problems), value
        assert len(problems) == len(wrong)
        assert "would be refused (12 problems). No look was taken." in ended.err
        assert list(here.iterdir()) == []

    def test_what_is_no_model_is_said_once(self, drgate: Run, place: Path, here: Path):
        """A path that leads nowhere, a photograph and a folder of data are each one problem."""
        photograph = here / "left.jpg"
        photograph.write_bytes(b"\xff\xd8\xff\xe0")
        for given in ("nowhere", photograph, place / "eyes"):
            ended = drgate("evaluate", given, "--data", place / "eyes", "--dry-run")
            assert (ended.code, "would be refused (1 problem)" in ended.err) == (2, True), ended.err

    def test_a_part_of_a_model_names_its_folder(self, drgate: Run, here: Path):
        Path("vit").mkdir()
        Path("vit/config.json").write_text("{}")
        assert (
            "vit/config.json is a part of a model; give its folder, vit." in drgate("evaluate", "vit/config.json").err
        )


class TestNoLookIsSpent:
    """A run that is refused for its input takes no look."""

    def spoiled(self, table: Path, here: Path, **columns: Any) -> Path:
        path = here / "spoiled.csv"
        pd.read_csv(table).assign(**columns).to_csv(path, index=False)
        return path

    @pytest.mark.parametrize(
        "what", ["header", "grade", "sum", "sliced", "baseline", "grades differ", "folder", "unit"]
    )
    def test_whatever_is_wrong(self, what: str, drgate: Run, table: Path, here: Path):
        """A header, a cell, a sum; a slice or a unit that is not there; another baseline; a folder that is taken."""
        asked: list[object] = [table, "--spec", "smoke"]
        spec = "name: own\nversion: 1\n{more}\ncriteria: [{{id: accuracy, at_least: 0.5}}]\n"
        if what == "header":
            pd.read_csv(table).rename(columns={"grade": "label"}).to_csv("spoiled.csv", index=False)
            asked[0] = "spoiled.csv"
        elif what == "grade":
            asked[0] = self.spoiled(table, here, grade=7)
        elif what == "sum":
            asked[0] = self.spoiled(table, here, p_0=0.9)
        elif what == "sliced":
            Path("own.yaml").write_text(spec.format(more="slices: [{by: camera}]"))
            asked[2] = "own.yaml"
        elif what == "unit":
            Path("own.yaml").write_text(spec.format(more="unit: eye"))
            asked[2] = "own.yaml"
        elif what == "baseline":
            asked += ["--baseline", self.spoiled(table, here, image=[f"other-{i}.png" for i in range(40)])]
        elif what == "grades differ":
            asked += ["--baseline", self.spoiled(table, here, grade=[(i + 1) % 5 for i in range(40)])]
        else:
            (here / "taken").mkdir()
            (here / "taken/notes.txt").touch()
            asked += ["--out", "taken"]
        ended = drgate("evaluate", *asked)
        assert ended.code == 2, ended
        assert ended.err.count("\n") == 1, ended.err
        assert not (here / "reports").exists(), "a look was taken"


class TestAtOnce:
    """N6: what is wrong is said before torch and others are imported, which takes 8 to 20 seconds."""

    @pytest.fixture
    def ready(self, place: Path, table: Path, here: Path) -> Path:
        """A working folder with sound files, and one of each kind of unreadable model."""
        (here / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        (here / "page.pth").write_text("<!DOCTYPE html><html>Sign in</html>")
        (here / "empty.pth").touch()
        (here / "text.ckpt").write_text("hello")
        whole = (place / "model.pth").read_bytes()
        (here / "cut.PTH").write_bytes(whole[: len(whole) // 2])
        (here / "cut.safetensors").write_bytes((9999).to_bytes(8, "little") + b'{"a":')
        (here / "page.onnx").write_text("<html>")
        (here / "empty").mkdir()
        for folder, files in (
            ("vit", ("config.json", "model.safetensors")),
            ("lora", ("adapter_config.json", "adapter_model.safetensors")),
            ("labelled", ("labels.json", "model.onnx")),
        ):
            (here / folder).mkdir()
            for name in files:
                content = b"{}" if name.endswith("json") else b"\x08\x07" if name.endswith("onnx") else EMPTY
                (here / folder / name).write_bytes(content)
        (here / "weights.safetensors").write_bytes(EMPTY)
        (here / "key.pem").write_text("no key")
        shutil.copy(place / "model.pth", "model.pth")
        shutil.copytree(place / "eyes", "eyes")
        shutil.copy(table, "table.csv")
        return here

    SAYS: ClassVar = (
        ("drgate evaluate missing.pth --data eyes", "missing.pth does not exist"),
        ("drgate evaluate model.pth --data missing", "missing does not exist"),
        ("drgate evaluate pointer.pth --data eyes", "is a Git LFS pointer"),
        ("drgate evaluate page.pth --data eyes", "is a web page (HTML); expected a checkpoint of PyTorch"),
        ("drgate evaluate empty.pth --data eyes", "is empty"),
        ("drgate evaluate text.ckpt --data eyes", "is a file of another kind"),
        ("drgate evaluate cut.PTH --data eyes", "cut.PTH is cut off"),
        ("drgate evaluate cut.safetensors --data eyes", "expected weights in safetensors"),
        ("drgate evaluate page.onnx --data eyes", "is a web page (HTML); expected an ONNX model"),
        ("drgate evaluate vit --data eyes", "vit, without preprocessor_config.json, does not state its preprocessing"),
        ("drgate score vit --data eyes --out p.csv", "does not state its preprocessing. State it with --preprocess"),
        ("drgate evaluate lora --base vit --data eyes", "lora, without preprocessor_config.json, does not state"),
        ("drgate evaluate labelled/model.onnx --data eyes", "labelled, without preprocess.json, does not state its"),
        ("drgate evaluate weights.safetensors --data eyes", "does not state its preprocessing. State it with"),
        ("drgate score weights.safetensors --data eyes --out p.csv", "does not state its preprocessing"),
        ("drgate evaluate model.pth --data eyes --base nowhere", "the base model 'nowhere' was not found"),
        ("drgate evaluate model.pth --data eyes --base empty", "empty has no config.json"),
        ("drgate evaluate model.pth --data eyes --preprocess nothing", "There is no preprocessing 'nothing'"),
        ("drgate evaluate model.pth --data eyes --spec nothing", "There is no checklist 'nothing'"),
        ("drgate evaluate model.pth --data eyes --key key.pem", "key.pem holds no key"),
        ("drgate evaluate model.pth --data eyes --baseline none.csv", "none.csv does not exist"),
        ("drgate evaluate model.pth --data eyes --looks eyes", "--looks is eyes, a folder"),
        ("drgate evaluate model.pth --data eyes --looks table.csv/x", "nothing can be written in"),
        ("drgate evaluate model.pth --data eyes --out eyes", "eyes holds something else"),
        ("drgate evaluate model.pth --data eyes --grades none.csv", "none.csv does not exist"),
        ("drgate score missing.pth --data eyes --out p.parquet", "missing.pth does not exist"),
        ("drgate score model.pth --data missing --out p.parquet", "missing does not exist"),
        ("drgate score page.pth --data eyes --out p.csv", "is a web page"),
        ("drgate score model.pth --data eyes --out table.csv", "table.csv exists already"),
        ("drgate export missing.pth --certificate empty --data eyes --out b", "empty holds no certificate.json"),
        ("drgate export page.pth --certificate table.csv --data eyes --out b", "table.csv is not"),
        ("drgate export page.pth --certificate table.csv --data eyes --out eyes", "eyes exists already"),
        ("drgate compare model.pth table.csv", "model.pth is a model: give the images with --data"),
        ("drgate compare missing.csv table.csv", "missing.csv does not exist"),
        ("drgate verify empty", "empty holds no certificate.json"),
        ("drgate tune model.pth --out cuts.json", "is a model, and predictions are expected; score it first"),
        ("drgate preprocess none.jpg --preprocess siglip --out a.png", "none.jpg does not exist"),
        ("drgate preprocess key.pem --preprocess page.pth --out a.png", "is a web page"),
        ("drtrain --dataset missing --base embedded", "missing does not exist"),
        ("drtrain --dataset eyes --base nowhere", "the base model 'nowhere' was not found"),
        ("drtrain --dataset eyes --base embedded --init_from page.pth", "is a web page"),
        (
            "drtrain --dataset eyes --base embedded --resume_from_checkpoint none.pth --dry_run",
            "none.pth does not exist",
        ),
        ("drtrain --dataset eyes --base embedded --spec nothing", "There is no checklist"),
    )

    def ended(self, *commands: str) -> list[tuple[int, str]]:
        root = str(Path(__file__).parents[1])
        environment = {name: value for name, value in os.environ.items() if name != "DRGATE_KEY"}
        ended = subprocess.run(
            [sys.executable, "-c", SEVERAL],
            input=json.dumps([command.split() for command in commands]),
            env=environment | {"PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        )
        return [(code, told) for code, told in json.loads(ended.stdout)]

    def test_before_heavy_imports(self, ready: Path):
        """Every command, and training; each in one sentence."""
        for (command, says), (code, told) in zip(
            self.SAYS, self.ended(*(command for command, _ in self.SAYS)), strict=True
        ):
            assert code == 2, (command, told)
            assert says in told, (command, told)
            assert told.count("\n") == 1, (command, told)

    def test_a_table_is_judged_without_any_of_them(self, ready: Path):
        """Neither to judge a table, nor for its dry run, is torch, ONNX Runtime or scikit-learn imported."""
        told = self.ended(*(f"drgate evaluate table.csv --spec smoke {more}" for more in ("--dry-run", "")))
        assert [code for code, _ in told] == [0, 0], told


class TestWhatIsGiven:
    """N5: evaluations, bundles and certificates wherever a person would pass them; other files by what they are."""

    @pytest.fixture
    def judged(self, drgate: Run, table: Path, here: Path) -> Path:
        assert drgate("evaluate", table, "--spec", "smoke", "--out", "one").code == 0
        return here / "one"

    @pytest.mark.parametrize("file", ["", "report.html", "evaluation.json", "statement.json", "predictions.parquet"])
    def test_an_evaluation_is_given_by_its_folder_or_any_file(self, file: str, judged: Path, drgate: Run, place: Path):
        """To compare, as a baseline, to verify, to export, to show, and to judge again, which takes no further look."""
        given = judged / file
        assert drgate("compare", given, given, "--spec", "smoke").code in (0, 3)
        assert drgate("evaluate", given, "--spec", "smoke", "--out", "again", "--baseline", given).code == 0
        found = json.loads(Path("again/evaluation.json").read_text())
        assert found["look"]["number"] == 1
        assert found["metrics"]["baseline"]["status"] == "estimated"
        assert drgate("plan", "smoke", "--data", given).code == 0
        if file != "predictions.parquet":
            assert drgate("report", given).code == 0
        ended = drgate("export", place / "model.pth", "--certificate", given, "--data", place / "eyes", "--out", "b")
        assert (ended.code, "is of a table of predictions, not of a model" in ended.err) == (2, True)
        ended = drgate("verify", given)
        assert (ended.code, "Not confirmed: it is unsigned" in ended.out) == (3, True)

    def test_a_bundle_by_its_folder(self, drgate: Run, place: Path, here: Path):
        """To score and to show its preprocessing, by the folder or a file of it."""
        shutil.copytree(place / "bundle", "bundle")
        for name in ("certificate.json", "evaluation.json"):
            (here / "bundle" / name).write_text("{}")
        for i, given in enumerate(("bundle", "bundle/certificate.json")):
            ended = drgate("score", given, "--data", place / "eyes", "--out", f"{i}.parquet", "--workers", 0)
            assert ended.code == 0, ended.err
            image = next((place / "eyes").rglob("*.png"))
            assert drgate("preprocess", image, "--preprocess", given, "--out", f"{i}.png").code == 0
        assert load_predictions(Path("0.parquet")).digest == load_predictions(Path("1.parquet")).digest

    def test_compare_scores_a_model(self, drgate: Run, place: Path, here: Path):
        """A model against its own table on the same images: every difference is 0."""
        model = ("--base", place / "base", "--data", place / "eyes")
        assert drgate("score", place / "model.pth", *model, "--out", "p.parquet").code == 0
        ended = drgate("compare", place / "model.pth", "p.parquet", *model, "--spec", "smoke", "--format", "json")
        assert ended.code in (0, 3), ended.err
        found = json.loads(ended.out)
        assert found["first"]["digest"] == found["second"]["digest"]
        assert {one["value"] for one in found["differences"].values() if "value" in one} == {0.0}

    def test_other_files_are_named_by_their_content(self, refused: Refused, place: Path, tmp_path: Path, table: Path):
        """A photograph, an archive, a document, a notebook, a model or a folder, where another file belongs."""
        photograph = tmp_path / "photograph.csv"
        Image.new("RGB", (8, 8)).save(photograph, "JPEG")
        archive = tmp_path / "archive.csv"
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("labels.csv", "image,grade")
        files = {
            "is a JPEG photograph": photograph,
            "is a zip archive": archive,
            "is a PDF document": tmp_path / "paper.csv",
            "is a Jupyter notebook": tmp_path / "work.csv",
            "is a gzip archive": tmp_path / "packed.csv",
            "is a binary file": tmp_path / "binary.csv",
        }
        files["is a PDF document"].write_bytes(b"%PDF-1.7\n\xe2\xe3")
        files["is a Jupyter notebook"].write_text('{"cells": [{"cell_type": "code"}], "nbformat": 4}')
        files["is a gzip archive"].write_bytes(gzip.compress(b"image,grade"))
        files["is a binary file"].write_bytes(b"\7\0\1\2" * 9)
        model, spec = place / "model.pth", ("--spec", "smoke")
        for says, file in files.items():
            for asked in (
                ("evaluate", file),
                ("evaluate", model, "--data", file),
                ("evaluate", table, "--grades", file),
                ("evaluate", table, "--spec", file),
                ("evaluate", table, *spec, "--key", file),
                ("evaluate", table, *spec, "--scorer-key", file),
                ("evaluate", table, *spec, "--operating-point", file),
                ("evaluate", table, *spec, "--previous", file),
                ("evaluate", table, *spec, "--baseline", file),
                ("evaluate", table, *spec, "--patient-key", file),
                ("compare", file, table),
                ("verify", file),
            ):
                told = refused(*asked)
                # As JSON and YAML, a notebook can be read, and YAML can be in UTF-16; it is then no such file.
                assert f"{file} {says}" in told or "Jupyter" in says or "--spec" in asked, (asked, told)
                assert "codec" not in told, asked
        assert "is a checkpoint of PyTorch" in refused("evaluate", model, "--data", model)
        assert "is a folder" in refused("evaluate", table, "--spec", "smoke", "--operating-point", tmp_path)
        assert "is a model, and predictions are expected" in refused("evaluate", table, *spec, "--baseline", model)
        assert "is a table; expected a checkpoint" in refused(
            "score", table, "--data", place / "eyes", "--out", "p.csv"
        )
        parquet = tmp_path / "predictions.csv"
        pd.read_csv(table).to_parquet(parquet)
        assert "give it a name that ends in .parquet" in refused("evaluate", parquet, *spec)

    def test_a_table_is_no_binary_file_for_its_first_letters(self):
        """A header of letters that begin a picture's or a program's file is text all the same."""
        for header in ("BMI,image", "MZ,grade", "PAR1,grade", "II*,grade", "image;Größe", "PK,grade", "\ufeffimage"):
            assert named(f"{header}\n".encode()) == "", header
        assert named(b"x" * 4095 + "é".encode()) == "", "a character that is cut off"

    def test_suffixes_in_capitals(self, place: Path, table: Path, drgate: Run, here: Path):
        shutil.copy(place / "model.pth", "MODEL.PTH")
        shutil.copy(table, "TABLE.CSV")
        assert find_model(Path("MODEL.PTH")).what == "checkpoint"
        assert drgate("evaluate", "TABLE.CSV", "--spec", "smoke", "--out", "one").code == 0

    def test_a_folder_with_a_file_that_may_be_the_model(self, place: Path, tmp_path: Path):
        """The sentence names the file to give."""
        (tmp_path / "release").mkdir()
        shutil.copy(place / "model.pth", tmp_path / "release/best.pth")
        with pytest.raises(CheckpointError, match=r"If best\.pth is the model, give .*release/best\.pth"):
            find_model(tmp_path / "release")


class TestScore:
    def test_csv_has_the_same_rows_and_names_no_model(self, drgate: Run, place: Path, here: Path):
        """The summary says so; what is judged of a CSV is a table."""
        model = ("score", place / "model.pth", "--base", place / "base", "--data", place / "eyes", "--out")
        ended = drgate(*model, "p.csv")
        assert ended.code == 0, ended.err
        assert "A CSV names no model: judged, it certifies a table only." in ended.out
        assert drgate(*model, "p.parquet").code == 0
        written, whole = load_predictions(Path("p.csv")), load_predictions(Path("p.parquet"))
        assert written.digest == whole.digest
        assert (bool(written.provenance), bool(whole.provenance)) == (False, True)
        assert drgate("keygen", "--out", "key", "--no-passphrase").code == 0
        ended = drgate(*model, "signed.csv", "--key", "key.pem")
        assert (ended.code, "nothing can be signed; write .parquet" in ended.err) == (2, True)
        assert not Path("signed.csv").exists()

    def test_summary(self, drgate: Run, place: Path, here: Path):
        """Answers by class, images without output, outputs and their classes, preprocessing, and time."""
        model = ("score", place / "model.pth", "--base", place / "base", "--data", place / "eyes", "--out")
        found = json.loads(drgate(*model, "a.parquet", "--format", "json").out)
        table = load_predictions(Path("a.parquet")).table
        assert list(found["answers"].values()) == [int((table["predicted"] == k).sum()) for k in range(5)]
        assert (found["images"], found["no_output"]) == (10, 0)
        assert found["seconds_an_image"] > 0
        text = drgate(*model, "b.parquet").out
        assert "10 images scored with model.pth (checkpoint), 0 without output" in text
        assert "Outputs: logits, classes in the order no_dr, mild_npdr" in text
        assert f"Preprocessing: fundus-square-1@{tiny.SIZE}" in text
        assert "Answers: No DR " in text


class TestStatedBeside:
    """N1: what stands in preprocess.json is used whole, or refused."""

    @pytest.mark.parametrize(
        "written",
        [
            {"id": "fundus-square-1", "size": tiny.SIZE, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
            {**tiny.recipe(), "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
            {**tiny.recipe(), "normalise": "imagenet"},
        ],
        ids=["before there was a format", "mean and std", "another key"],
    )
    def test_unknown_keys_are_refused(self, written: dict[str, Any], refused: Refused, place: Path, tmp_path: Path):
        """They were ignored, and the model was judged on other input than it was trained on."""
        model = tiny.write_onnx(tmp_path / "model")
        (tmp_path / "model/preprocess.json").write_text(json.dumps(written))
        told = refused("score", model, "--data", place / "eyes", "--out", "p.parquet")
        assert "preprocess.json" in told
        assert "format: drgate preprocessing 1" in told or "mean" in told or "normalise" in told
