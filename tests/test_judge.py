"""Judging as a command: sealed grades, operating points, histories from elsewhere, looks, and what is only shown."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from drgate.checklist import parse_yaml
from drgate.errors import ManifestError, PredictionsError
from drgate.grades import join_grades
from drgate.judge import own_names, read_evaluation
from drgate.operating_point import make_operating_point, write_operating_point
from drgate.patients import generate_patient_key
from drgate.predictions import PROBABILITIES, load_predictions, make_predictions
from drgate.report.evaluation.terminal import render
from drgate.score import score
from tests.support.material import Ended
from tests.support.tiny import checkpoint_of, eye, random_model, tiny_base
from tests.support.verbs import judged as judge

Run = Callable[..., Ended]
Refused = Callable[..., str]
Write = Callable[..., Path]

GRADES = {f"{i:02}.png": i % 5 for i in range(20)}
CHECKLIST = """name: own
version: {version}
looks: {looks}
purpose: pipeline
evidence: {{decide_on: point}}
bootstrap: {{resamples: 1000}}
criteria: [{{id: accuracy, at_least: {floor}}}, {{id: stability, below: 0.05, required: false}}]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def checklist(tmp_path: Path) -> Callable[..., Path]:
    """Write a checklist that asks for accuracy and stability."""

    def write(looks: int = 1, version: int = 1, floor: float = 0.001) -> Path:
        path = tmp_path / "own.yaml"
        path.write_text(CHECKLIST.format(looks=looks, version=version, floor=floor))
        return path

    return write


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a flat folder of twenty photographs without grades, and the table that scoring made: model.pth, sealed/,
    scored.parquet."""
    from drgate.cli import main
    from drgate.vision.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("scored")
    base = tiny_base(folder / "base")
    save_checkpoint(folder / "model.pth", checkpoint_of(random_model(base), base))
    (folder / "sealed").mkdir()
    for i, name in enumerate(GRADES):
        eye(GRADES[name], seed=100 + i).save(folder / "sealed" / name)
    words = ["score", folder / "model.pth", "--data", folder / "sealed", "--out", folder / "scored.parquet", "--quiet"]
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words), "--workers", "0"])
    assert stop.value.code == 0
    return folder


def rows(**changes: dict[str, object]) -> list[dict[str, object]]:
    """The keeper's rows of the twenty photographs; changes by image stem."""
    plain: list[dict[str, object]] = [{"image": image, "grade": grade} for image, grade in GRADES.items()]
    return [row | changes.get("i" + str(row["image"])[:2], {}) for row in plain]


class TestScored:
    def test_knows_the_bytes_of_each_image(self, scored: Path):
        """`sha256` is that of the file (checked with hashlib); grades are absent, patients unknown."""
        table = load_predictions(scored / "scored.parquet").table.set_index("image")
        for name in GRADES:
            assert table.loc[name, "sha256"] == hashlib.sha256((scored / "sealed" / name).read_bytes()).hexdigest()
        assert table["grade"].isna().all()
        assert table["predicted"].notna().all()

    def test_keeps_oedema_and_slice_columns(self, scored: Path, write_csv: Write, tmp_path: Path):
        """Whatever a checklist may slice by stays in the table, dme as a number."""
        from drgate.manifest import load_manifest
        from drgate.vision.graders import load_grader

        extra = {"dme": "1", "camera": "A"}
        folder = Path(shutil.copytree(scored / "sealed", tmp_path / "graded"))
        manifest = load_manifest(write_csv([row | extra for row in rows()], f"{folder.name}/labels.csv"))
        table = score(load_grader(scored / "model.pth"), manifest, workers=0).table
        assert set(table["dme"]) == {1}
        assert set(table["camera"]) == {"A"}

    def test_a_column_that_cannot_be_read_is_refused_before_scoring(self, scored: Path, photographs: Write):
        """Not after the hours that scoring may take: no image is decoded."""
        from drgate.manifest import load_manifest
        from drgate.vision.graders import load_grader

        folder = photographs("a.png")
        (folder / "labels.csv").write_text("image,grade,dme\na.png,0,perhaps\n")
        grader = load_grader(scored / "model.pth")
        with pytest.raises(PredictionsError, match=r"dme cannot be read; expected 0, 1"):
            score(grader, load_manifest(folder), workers=0, advance=lambda _: pytest.fail("scored"))

    def test_a_file_that_is_not_the_manifests_is_refused(self, scored: Path, photographs: Write):
        """Where the manifest gives the SHA-256 of its images, another file of the same name is none of them."""
        from drgate.manifest import load_manifest
        from drgate.vision.graders import load_grader

        folder = photographs("a.png")
        (folder / "labels.csv").write_text(f"image,grade,sha256\na.png,0,{'0' * 64}\n")
        with pytest.raises(ManifestError, match="does not have the SHA-256 that the manifest gives"):
            score(load_grader(scored / "model.pth"), load_manifest(folder), workers=0)


class TestSealedGrades:
    def test_their_keeper_joins_them(self, drgate: Run, scored: Path, write_csv: Write, checklist: Write, here: Path):
        """The joined table is judged as the model that scored it, on the grades in the file."""
        kept = write_csv(rows(), "grades.csv")
        ended = drgate(
            "evaluate", scored / "scored.parquet", "--grades", kept, "--spec", checklist(), "--format", "json"
        )
        assert ended.code == 0, ended.err
        found = json.loads(ended.out)
        assert found["model"]["name"] == "model.pth"
        assert found["model"]["tensor_digest"].startswith("sha256:")
        assert found["counts"]["by_grade"] == [4, 4, 4, 4, 4]
        assert found["data"]["grades"] == {
            "name": "grades.csv",
            "sha256": hashlib.sha256(kept.read_bytes()).hexdigest(),
        }
        table = load_predictions(scored / "scored.parquet").table
        right = sum(GRADES[image] == grade for image, grade in zip(table["image"], table["predicted"], strict=True))
        assert (found["metrics"]["accuracy"]["k"], found["metrics"]["accuracy"]["n"]) == (right, 20)
        assert "Look 1 of 1 allowed at these images, logged in reports/looks/" in ended.err
        (written,) = here.glob("reports/model-*/predictions.parquet")
        assert load_predictions(written).digest == found["predictions_digest"]

    def test_the_keeper_is_named_whoever_evaluates_next(
        self, drgate: Run, scored: Path, write_csv: Write, checklist: Write, here: Path
    ):
        """The joined table says whose grades it has, in every later evaluation and on page one."""
        kept = write_csv(rows(), "grades.csv")
        first = drgate("evaluate", scored / "scored.parquet", "--grades", kept, "--spec", checklist(), "--out", "first")
        assert first.code == 0, first.err
        again = drgate(
            "evaluate", "first/predictions.parquet", "--spec", checklist(), "--out", "again", "--format", "json"
        )
        assert again.code == 0, again.err
        found = json.loads(again.out)
        assert found["data"]["grades"]["name"] == "grades.csv"
        assert any("added from grades.csv" in line for line in found["page_one"])

    def test_what_others_put_beside_an_evaluation_stays(
        self, drgate: Run, write_csv: Write, checklist: Write, here: Path
    ):
        """The same evaluation again replaces its own files and nobody else's."""
        path = write_csv([{**row, "predicted": row["grade"]} for row in rows()], "table.csv")
        for _ in range(2):
            assert drgate("evaluate", path, "--spec", checklist(), "--out", "out").code == 0
            (here / "out" / "NAME.clinical.certificate.json").write_text("{}")
        assert drgate("evaluate", path, "--spec", checklist(), "--out", "out").code == 0
        assert (here / "out" / "NAME.clinical.certificate.json").read_text() == "{}"

    def test_may_say_more_of_each_image(self, scored: Path, write_csv: Write):
        """Patients, eyes, oedema, what is not gradable, and columns to slice by."""
        more = [
            {**row, "patient": str(i // 2), "eye": "LR"[i % 2], "dme": i % 2, "camera": "A"}
            for i, row in enumerate(rows())
        ]
        more[3] |= {"grade": "", "gradable": "false"}
        path = write_csv([{"gradable": "", **row} for row in more])
        joined = join_grades(load_predictions(scored / "scored.parquet"), path)
        assert joined.patients_known
        assert joined.table["eye"].tolist() == ["L", "R"] * 10
        assert int(joined.table["dme"].sum()) == 10
        assert set(joined.table["camera"]) == {"A"}
        assert joined.table.loc[3, ["gradable", "grade"]].isna().tolist() == [False, True]
        assert joined.provenance

    def test_named_patients_were_not_checked_for_leakage(self, scored: Path, write_csv: Write, here: Path):
        """Scoring could not compare patients that nobody had named, and page one says so."""
        path = write_csv([{**row, "patient": str(i)} for i, row in enumerate(rows())])
        found = judge(
            scored / "scored.parquet",
            checklist=parse_yaml(CHECKLIST.format(looks=1, version=1, floor=0.001).encode(), "s"),
            grades=path,
        )
        assert any(
            "whether the model was trained on one of them was not checked" in w for w in found.evaluation.page_one
        )

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (rows()[:-1], "has no row for 1 of the images of"),
            ([*rows(), {"image": "zz.png", "grade": 0}], "line 22: this image is not in"),
            ([*rows(), rows()[3]], "line 5 already; expected one row per image"),
            (rows(i03={"grade": 7}), "line 5: grade cannot be read; expected an ICDR grade"),
            (rows(i03={"grade": ""}), "line 5: the image has no grade; give 0-4, or set gradable to false"),
            ([{**row, "predicted": 0} for row in rows()], "the column predicted, which only predictions may have"),
            ([{"image": row["image"]} for row in rows()], "has no column grade; expected"),
            ([{**row, "sha256": "0" * 64} for row in rows()], "has another sha256 than in"),
        ],
        ids=[
            "an image missing",
            "an image too many",
            "an image twice",
            "grade 7",
            "no grade",
            "answers",
            "no grades at all",
            "other images",
        ],
    )
    def test_that_do_not_fit_are_refused(
        self, content: Iterable[dict[str, Any]], sentence: str, refused: Refused, scored: Path, write_csv: Write
    ):
        """One sentence with the file and the image; nothing is written, no look is taken."""
        said = refused("evaluate", scored / "scored.parquet", "--grades", write_csv(content, "grades.csv"))
        assert sentence in said
        assert "grades.csv" in said

    @pytest.mark.parametrize(("column", "ours", "theirs"), [("patient", "p1", "p2"), ("eye", "L", "R")])
    def test_that_contradict_the_table_are_refused(
        self, column: str, ours: str, theirs: str, refused: Refused, write_csv: Write
    ):
        """Whoever joins grades of another patient or eye joins them to the wrong image."""
        table = write_csv([{"image": "a", column: ours, "predicted": 0}], "t.csv")
        kept = write_csv([{"image": "a", column: theirs, "grade": 0}], "grades.csv")
        said = refused("evaluate", table, "--grades", kept)
        shown = f"the {column} '{theirs}', but '{ours}' in" if column == "eye" else "another patient than in"
        assert f"line 2: the image has {shown}" in said

    def test_what_counts_is_for_the_keeper_to_say(self, refused: Refused, write_csv: Write):
        """A row that the scored table calls not gradable is out only if the keeper says so as well."""
        table = write_csv(
            [{"image": "a", "gradable": "false", "predicted": 0}, {"image": "b", "gradable": "", "predicted": 0}],
            "t.csv",
        )
        kept = write_csv([{"image": "a", "grade": 0}, {"image": "b", "grade": 0}], "grades.csv")
        assert "line 2: the image has the gradable 'True', but 'False' in" in refused(
            "evaluate", table, "--grades", kept
        )

    def test_one_file_with_two_grades_is_refused(self, refused: Refused, write_csv: Write):
        """Byte-identical images of a sealed set, graded differently by their keeper."""
        table = write_csv([{"image": name, "sha256": "a" * 64, "predicted": 0} for name in "xy"], "t.csv")
        kept = write_csv([{"image": "x", "grade": 0}, {"image": "y", "grade": 3}], "grades.csv")
        assert "2 images with different grades are copies of the same file" in refused(
            "evaluate", table, "--grades", kept
        )

    def test_grades_that_are_there_are_not_replaced(self, refused: Refused, write_csv: Write):
        table = write_csv([{"image": "a", "grade": 0, "predicted": 0}])
        assert "has grades already; leave --grades out" in refused("evaluate", table, "--grades", table)

    def test_a_sealed_table_alone_is_refused(self, refused: Refused, scored: Path):
        assert "--grades FILE" in refused("evaluate", scored / "scored.parquet")

    def test_a_sealed_folder_is_not_evaluated(self, refused: Refused, scored: Path):
        said = refused("evaluate", scored / "model.pth", "--data", scored / "sealed")
        assert "has no grades. Score the model on it with drgate score" in said

    def test_a_model_is_scored_first(self, refused: Refused, scored: Path, write_csv: Write):
        said = refused("evaluate", scored / "model.pth", "--data", scored / "sealed", "--grades", write_csv(rows()))
        assert "score the model first" in said


class TestLooks:
    @pytest.fixture
    def tables(self, write_csv: Write) -> Callable[..., Path]:
        def write(
            name: str, images: str = "abcde", grades: str = "01234", predicted: str = "01234", **more: str
        ) -> Path:
            cells = zip(images, grades, predicted, strict=True)
            return write_csv([{"image": i, "grade": g, "predicted": p, **more} for i, g, p in cells], name)

        return write

    def test_the_second_model_cannot_pass(
        self, drgate: Run, tables: Write, checklist: Write, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """One look is declared: another model's table of the same images reports and cannot pass, by whatever file.

        Images that are known by name alone are compared one by one where a patient key is given.
        """
        generate_patient_key(tmp_path / "patients.key")
        monkeypatch.setenv("DRGATE_PATIENT_KEY", str(tmp_path / "patients.key"))
        first = drgate("evaluate", tables("one.csv"), "--spec", checklist())
        assert first.code == 0
        assert "Look 1 of 1" in first.err
        second = drgate("evaluate", tables("two.csv", predicted="01233"), "--spec", checklist())
        assert second.code == 3
        assert "Look 2; only 1 allowed" in second.err
        overlapping = drgate("evaluate", tables("three.csv", images="efghi"), "--spec", checklist(), "--format", "json")
        assert overlapping.code == 3
        look = json.loads(overlapping.out)["look"]
        assert look["number"] == 3
        assert {entry["images"] for entry in look["overlapping"]} == {1}
        assert len(list(here.glob("reports/looks/*.jsonl"))) == 2

    def test_the_same_again_keeps_its_look(self, drgate: Run, tables: Write, checklist: Write, here: Path):
        drgate("evaluate", tables("one.csv"), "--spec", checklist())
        before = {path: path.read_bytes() for path in here.rglob("*.json*")}
        assert drgate("evaluate", tables("one.csv"), "--spec", checklist()).code == 0
        assert {path: path.read_bytes() for path in here.rglob("*.json*")} == before

    def test_changed_grades_reach_the_evaluation(self, drgate: Run, tables: Write, checklist: Write, here: Path):
        """The keys that a report makes its sentences of."""
        drgate("evaluate", tables("one.csv", predicted="01230"), "--spec", checklist(looks=3))
        changed = tables("two.csv", grades="01230", predicted="01230")
        look = json.loads(drgate("evaluate", changed, "--spec", checklist(looks=3), "--format", "json").out)["look"]
        assert look["regraded"] == [{"image": "row-5", "from": 4, "to": 0}]
        assert look["favouring"][0]["favouring"] == 1

    def test_an_operating_point_is_another_look(
        self, drgate: Run, scored: Path, write_csv: Write, checklist: Write, here: Path, tmp_path: Path
    ):
        """The same tensors with other cut-offs give other grades: whoever tries many of them looks many times."""
        kept = write_csv(rows(), "grades.csv")
        words = ("evaluate", scored / "scored.parquet", "--grades", kept, "--spec", checklist(looks=2))
        assert "Look 1 of 2" in drgate(*words).err
        assert "Look 2 of 2" in drgate(*words, "--operating-point", cut_offs(tmp_path, write_csv)).err
        assert "Look 1 of 2" in drgate(*words).err

    def test_a_checklist_that_changed_without_a_new_version(
        self, drgate: Run, tables: Write, checklist: Write, tmp_path: Path, refused: Refused
    ):
        chain = tmp_path / "looks.jsonl"
        assert (
            drgate("evaluate", tables("one.csv"), "--spec", checklist(), "--looks", chain, "--out", tmp_path / "o").code
            == 0
        )
        changed = refused(
            "evaluate", tables("two.csv", predicted="01233"), "--spec", checklist(floor=0.1), "--looks", chain
        )
        assert "own version 1 with another content" in changed

    def test_a_damaged_chain(self, tables: Write, tmp_path: Path, refused: Refused):
        """Nothing is written, not even an empty reports folder."""
        (tmp_path / "looks.jsonl").write_text("{}\n")
        assert "chain of looks is broken" in refused("evaluate", tables("one.csv"), "--looks", tmp_path / "looks.jsonl")


CONTENT = "ab" * 32


def cut_offs(
    folder: Path, write_csv: Write, cuts: tuple[float, ...] = (0.01, 0.02, 0.03, 0.04), image: str = "tuned"
) -> Path:
    """An operating point tuned on one image of its own."""
    row = {"image": image, "sha256": CONTENT, "grade": 0, "predicted": 0}
    tuned_on = load_predictions(write_csv([row], "tuning.csv"))
    point = make_operating_point(
        cuts, checklist={"name": "s", "version": 1, "digest": "sha256:0"}, tuned_on=tuned_on, promise={}
    )
    write_operating_point(point, folder / f"{image}.json")
    return folder / f"{image}.json"


WIDE = {"p_0": 0.6, "p_1": 0.1, "p_2": 0.1, "p_3": 0.1, "p_4": 0.1}


class TestOperatingPoint:
    def test_decides_the_grades(self, drgate: Run, write_csv: Write, checklist: Write, here: Path, tmp_path: Path):
        """P(grade 4) = .1 reaches a cut-off of .04, though grade 0 is the most probable; the cut-offs are evidence."""
        table = write_csv([{"image": str(i), "grade": 4, **WIDE} for i in range(5)], "t.csv")
        file = cut_offs(tmp_path, write_csv)
        ended = drgate("evaluate", table, "--operating-point", file, "--spec", checklist(), "--format", "json")
        found = json.loads(ended.out)
        assert found["confusion_matrix"][4] == [0, 0, 0, 0, 5]
        assert found["data"]["operating_point"] == json.loads(file.read_text())

    def test_a_table_that_was_graded_by_it(
        self, drgate: Run, write_csv: Write, checklist: Write, here: Path, tmp_path: Path, refused: Refused
    ):
        """`predicted` other than the most probable grade is read with the operating point, and only with it."""
        table = write_csv([{"image": "a", "grade": 4, **WIDE, "predicted": 4}], "t.csv")
        assert "give them with --operating-point" in refused("evaluate", table)
        file = cut_offs(tmp_path, write_csv)
        assert (
            drgate("evaluate", table, "--operating-point", file, "--spec", checklist(), "--out", here / "o").code == 0
        )

    def test_tuned_on_a_test_image(self, write_csv: Write, tmp_path: Path, refused: Refused):
        table = write_csv([{"image": "a", "sha256": CONTENT, "grade": 4, **WIDE}], "t.csv")
        file = cut_offs(tmp_path, write_csv, image="tuned under another name")
        assert "has images that the operating point was tuned on" in refused(
            "evaluate", table, "--operating-point", file
        )

    @pytest.mark.parametrize("text", ["", "{}", "not JSON"])
    def test_no_operating_point(self, text: str, write_csv: Write, tmp_path: Path, refused: Refused):
        (tmp_path / "point.json").write_text(text)
        table = write_csv([{"image": "a", "grade": 4, **WIDE}])
        assert "point.json" in refused("evaluate", table, "--operating-point", tmp_path / "point.json")


CURVE = [0.70, 0.74, 0.78, 0.782, 0.792, 0.795, 0.794, 0.79, 0.792, 0.788, 0.791, 0.793]


class TestHistoryFromElsewhere:
    @pytest.fixture
    def history(self, tmp_path: Path) -> Path:
        """In percent, as people note them."""
        path = tmp_path / "history.csv"
        with path.open("w", newline="") as handle:
            csv.writer(handle).writerows(
                [("epoch", "val_accuracy"), *((i + 10, round(100 * value, 1)) for i, value in enumerate(CURVE))]
            )
        return path

    def test_of_a_table_from_elsewhere(
        self, drgate: Run, write_csv: Write, checklist: Write, history: Path, here: Path
    ):
        """Range of epochs 11 to 20: 79.5 - 74.0 = 5.5 points, which misses "below 5"; whose history it is, is said."""
        table = write_csv([{"image": "a", "grade": 0, "predicted": 0}])
        words = (
            "evaluate",
            table,
            "--spec",
            checklist(),
            "--record",
            history,
            "--selected-epoch",
            15,
            "--format",
            "json",
        )
        found = json.loads(drgate(*words).out)
        stability = found["metrics"]["stability"]
        assert stability["value"] == pytest.approx(0.055)
        assert found["criteria"][1]["status"] == "FAIL"
        assert found["training"]["foreign"] == "history.csv"
        assert any("in percent" in line for line in found["page_one"])
        assert any("history.csv" in line and "weights" in line for line in found["page_one"])

    def test_of_a_model_without_a_record(
        self, drgate: Run, scored: Path, write_csv: Write, checklist: Write, history: Path, here: Path
    ):
        kept = write_csv(rows(), "grades.csv")
        ended = drgate(
            "evaluate",
            scored / "scored.parquet",
            "--grades",
            kept,
            "--spec",
            checklist(),
            "--record",
            history,
            "--selected-epoch",
            15,
            "--format",
            "json",
        )
        assert json.loads(ended.out)["training"]["foreign"] == "history.csv"

    def test_does_not_replace_the_models_own(
        self, scored: Path, photographs: Write, history: Path, refused: Refused, tmp_path: Path
    ):
        """A record that names these very weights is better evidence than a list that names none."""
        from drgate.vision.checkpoint import load_checkpoint, save_checkpoint

        checkpoint = load_checkpoint(scored / "model.pth")
        record = {
            "tensor_digest": checkpoint.tensor_digest,
            "selected_epoch": 1,
            "status": "finished",
            "spend": {"usd": 1},
            "history": [{"epoch": 1, "val_accuracy": 0.5}],
            "validation_set": {"n": 1, "digest": "v"},
            "selection_rule": "",
        }
        save_checkpoint(tmp_path / "own.pth", dataclasses.replace(checkpoint, record=record))
        data = photographs("0/a.png")
        assert "has a training record of its own" in refused(
            "evaluate", tmp_path / "own.pth", "--data", data, "--record", history, "--selected-epoch", 15
        )

    def test_is_refused_in_one_sentence(self, write_csv: Write, history: Path, refused: Refused, tmp_path: Path):
        """No selected epoch; an epoch for no history; a folder without a record; a file of another kind."""
        table = write_csv([{"image": "a", "grade": 0, "predicted": 0}])
        assert "--selected-epoch" in refused("evaluate", table, "--record", history)
        assert "belongs to a history" in refused("evaluate", table, "--selected-epoch", 3)
        assert "holds no record.jsonl" in refused("evaluate", table, "--record", tmp_path / "images")
        assert "holds no record.jsonl" in refused("evaluate", table, "--record", tmp_path / "history.txt")
        (tmp_path / "empty.json").touch()
        assert "empty.json is empty; expected" in refused("evaluate", table, "--record", tmp_path / "empty.json")


class TestOnlyShown:
    def test_another_interval_changes_nothing_that_is_written(
        self, drgate: Run, write_csv: Write, checklist: Write, here: Path
    ):
        """Wilson's lower bound of 20 of 20 is .8389, Clopper-Pearson's .8316: shown and written, at one image each."""
        table = write_csv(
            [{"image": str(i), "grade": i % 5, "predicted": i % 5, "patient": f"p{3 * i + 1}"} for i in range(20)]
        )
        ended = drgate(
            "evaluate", table, "--spec", checklist(), "--interval", "wilson", "--out", "o", "--format", "json"
        )
        shown, written = json.loads(ended.out), json.loads((here / "o" / "evaluation.json").read_text())
        assert shown["metrics"]["accuracy"]["low"] == pytest.approx(0.8389, abs=5e-5)
        assert written["metrics"]["accuracy"]["low"] == pytest.approx(0.8316, abs=5e-5)
        assert "Shown with wilson intervals. By the checklist's own the verdict is OBSERVED." in ended.err
        assert drgate("evaluate", table, "--spec", checklist(), "--out", "o").code == 0, (
            "the same look, the same folder"
        )

    def test_another_interval_is_not_signed(self, refused: Refused, drgate: Run, write_csv: Write, tmp_path: Path):
        assert drgate("keygen", "--out", tmp_path / "k", "--no-passphrase").code == 0
        table = write_csv([{"image": "a", "grade": 0, "predicted": 0}])
        said = refused("evaluate", table, "--interval", "wilson", "--key", tmp_path / "k.pem")
        assert "--interval only changes what is printed" in said


OWN = """name: own
version: 1
looks: 9
purpose: pipeline
evidence: {decide_on: point}
bootstrap: {resamples: 1000}
slices: [{by: camera}]
criteria: [{id: accuracy, at_least: 0.001}, {id: baseline, margin: 0.5, required: false}]
"""


class TestPrivacy:
    """Files of an evaluation name images by their content and patients by numbers, and hold what the checklist uses."""

    SECRET = (b"MRN-4711", b"Mustermann", b"born 1949")

    @pytest.fixture
    def own(self, tmp_path: Path) -> Path:
        path = tmp_path / "own.yaml"
        path.write_text(OWN)
        return path

    @pytest.fixture
    def table(self, write_csv: Write) -> Callable[..., Path]:
        """Tables of ten patients, some severe ones missed, with distinctive names; known: with the files' digests."""

        def write(name: str, *, known: bool, right: int = 16, changed: int = 0, **more: object) -> Path:
            rows: list[dict[str, object]] = []
            for i in range(20):
                grade, answer = i % 5, [0.1] * 5
                answer[grade if i < right else 0] = 0.6
                content = {"sha256": hashlib.sha256(f"{i}".encode()).hexdigest()} if known else {}
                rows.append(
                    {
                        "image": f"MRN-4711-{i * 7 % 20:02}.png",
                        "patient": f"Mustermann {i // 2}",
                        "camera": "AB"[i // 2 % 2],
                        "grade": 0 if i < changed else grade,
                        "remark": f"born 1949 {i}",
                        **content,
                        **{f"p_{j}": answer[j] for j in range(5)},
                        **more,
                    }
                )
            return write_csv(rows, name)

        return write

    @staticmethod
    def written(folder: Path) -> dict[str, bytes]:
        """All files below a folder but the list of names, Parquet as its cells and metadata."""
        found = {}
        for path in (one for one in folder.rglob("*") if one.is_file() and one.name != "names.csv"):
            found[str(path.relative_to(folder))] = path.read_bytes()
            if path.suffix == ".parquet":
                read = pq.read_table(path)
                found[f"{path.name} unpacked"] = f"{read.schema.metadata}{read.to_pylist()}".encode()
        return found

    @pytest.mark.parametrize("known", [True, False])
    def test_no_file_names_anybody(self, known: bool, table: Write, drgate: Run, own: Path, here: Path):
        """With a baseline (of other grades it is refused), missed severe cases, changed grades; only names.csv leads
        back."""
        baseline = table("baseline.csv", known=known, right=20, changed=2)
        first = table("one.csv", known=known)
        asked = ("--spec", own, "--baseline", baseline, "--out")
        ended = drgate("evaluate", first, *asked, "first")
        assert ended.code == 2
        assert "has other reference grades (in 1 of the images)" in ended.err
        assert not list(here.iterdir()), "no look was taken"
        assert drgate("evaluate", first, "--spec", own, "--out", "first").code == 0
        ended = drgate("evaluate", table("two.csv", known=known, right=17, changed=2), *asked, "reports/second")
        assert ended.code == 0, ended.err
        found = json.loads((here / "reports/second/evaluation.json").read_text())
        assert found["flagged"]
        assert found["look"]["regraded"]
        assert found["metrics"]["baseline"]["status"] == "estimated"
        for name, content in self.written(here).items():
            for secret in self.SECRET:
                assert secret not in content, f"{secret!r} in {name}"
        assert not any(secret.decode() in ended.out for secret in self.SECRET), "no terminal, so no names"
        names = here / "reports/second/names.csv"
        assert names.stat().st_mode & 0o777 == 0o600
        assert "names.csv" in (here / "reports/second/.gitignore").read_text().splitlines()
        with names.open(newline="") as handle:
            rows = {row["image"]: row for row in csv.DictReader(handle)}
        given = pd.read_csv(first).set_index("image")
        for image, row in rows.items():
            assert given.loc[row["own_image"], "patient"] == row["own_patient"]
            if known:
                assert given.loc[row["own_image"], "sha256"][:16] == image
        assert {row["patient"] for row in rows.values()} == {str(i + 1) for i in range(10)}
        columns = set(pq.read_schema(here / "reports/second/predictions.parquet").names)
        assert columns == {"image", "patient", "eye", "grade", "gradable", "predicted", "camera", *PROBABILITIES}

    def test_nor_the_machine(self, scored: Path, write_csv: Write, drgate: Run, checklist: Write, here: Path):
        """Of a scored model: no name of a photograph, and no folder, not even the base model's."""
        kept = write_csv([{**row, "patient": f"Mustermann {i}"} for i, row in enumerate(rows())], "grades.csv")
        ended = drgate("evaluate", scored / "scored.parquet", "--grades", kept, "--spec", checklist(), "--out", "out")
        assert ended.code == 0, ended.err
        found = self.written(here)
        assert b'"id": "base"' in found["out/evaluation.json"]
        for name, content in found.items():
            for secret in (b"Mustermann", str(scored).encode(), str(here).encode(), *(own.encode() for own in GRADES)):
                assert secret not in content, f"{secret!r} in {name}"

    def test_the_published_table_gives_the_same_statement(
        self, scored: Path, write_csv: Write, drgate: Run, checklist: Write, here: Path
    ):
        """Whoever has only the folder can repeat the evaluation: the same look, the same bytes, and the names stay."""
        kept = write_csv([{**row, "patient": f"Mustermann {i % 9}"} for i, row in enumerate(rows())], "grades.csv")
        joined = ("evaluate", scored / "scored.parquet", "--grades", kept, "--spec", checklist(), "--out", "out")
        assert drgate(*joined).code == 0
        statement, names = ((here / "out" / name).read_bytes() for name in ("statement.json", "names.csv"))
        shutil.copy("out/predictions.parquet", "published.parquet")
        for folder in ("out", "again"):
            ended = drgate("evaluate", "published.parquet", "--spec", checklist(), "--out", folder)
            assert ended.code == 0, ended.err
            assert (here / folder / "statement.json").read_bytes() == statement
        assert (here / "out/names.csv").read_bytes() == names
        assert not (here / "again/names.csv").exists()

    @pytest.mark.parametrize("known", [(True, False), (False, True)], ids=["baseline", "table"])
    def test_a_baseline_pairs_by_own_names(
        self, known: tuple[bool, bool], table: Write, drgate: Run, own: Path, here: Path
    ):
        """Where only one of the tables knows the files; it is verified from the two, at whatever interval is shown."""
        mine, theirs = table("mine.csv", known=known[0]), table("theirs.csv", known=known[1], right=10)
        asked = ("evaluate", mine, "--baseline", theirs, "--spec", own, "--out", "out", "--format", "json")
        for more in ((), ("--interval", "wilson")):
            ended = drgate(*asked, *more)
            assert ended.code == 0, ended.err
            assert json.loads(ended.out)["metrics"]["baseline"]["value"] == pytest.approx(0.2)
        ended = drgate("verify", "out/statement.json", "--predictions", mine, "--baseline", theirs, "--format", "json")
        found = json.loads(ended.out)
        assert found["problems"] == []
        assert "The evaluation was recomputed from the predictions and came out the same." in found["checked"]

    @pytest.mark.parametrize("known", [True, False])
    def test_a_baseline_pairs_in_either_form(self, known: bool, table: Write, drgate: Run, own: Path, here: Path):
        """Own or published, on either side: the same difference, and one digest of the baseline."""
        mine, theirs = table("mine.csv", known=known), table("theirs.csv", known=known, right=10)
        for path, folder in ((mine, "mine"), (theirs, "theirs")):
            assert drgate("evaluate", path, "--spec", own, "--out", folder).code == 0
        found = []
        for i, one in enumerate((mine, "mine/predictions.parquet")):
            for j, other in enumerate((theirs, "theirs/predictions.parquet")):
                ended = drgate("evaluate", one, "--baseline", other, "--spec", own, "--out", f"{i}{j}")
                assert ended.code == 0, ended.err
                plain = json.loads((here / f"{i}{j}/evaluation.json").read_text())
                found.append((plain["metrics"]["baseline"], plain["training"]["baseline"]))
        assert found[0][0]["value"] == pytest.approx(0.2)
        assert all(one == found[0] for one in found[1:])

    def test_rows_do_not_pair_with_those_of_other_images(self, table: Write, write_csv: Write, refused: Refused):
        """Published, both would be row-01 to row-20."""
        mine = table("mine.csv", known=False)
        other = pd.read_csv(mine)
        other["image"] = "x" + other["image"]
        theirs = write_csv(other.to_dict("records"), "theirs.csv")
        said = refused("evaluate", mine, "--baseline", theirs)
        assert "theirs.csv was scored on other images than" in said

    def test_what_else_git_ignores_stays(self, table: Write, drgate: Run, own: Path, here: Path):
        path = table("mine.csv", known=True)
        for _ in range(2):
            assert drgate("evaluate", path, "--spec", own, "--out", "out").code == 0
            (here / "out/.gitignore").write_text("*.html\n")
        assert drgate("evaluate", path, "--spec", own, "--out", "out").code == 0
        assert (here / "out/.gitignore").read_text().splitlines() == ["*.html", "names.csv"]

    def test_a_terminal_shows_the_callers_own_names(self, table: Write, drgate: Run, own: Path, here: Path):
        """From names.csv beside the evaluation; whatever is written or piped has the published ones."""
        assert drgate("evaluate", table("mine.csv", known=True), "--spec", own, "--out", "out").code == 0
        found, _ = read_evaluation(here / "out")
        shown = {}
        for terminal in (True, False):
            stream = io.StringIO()
            render(found, Console(file=stream, force_terminal=terminal, width=100), own_names(here / "out"))
            shown[terminal] = stream.getvalue()
        assert "MRN-4711" in shown[True]
        assert "MRN-4711" not in shown[False]
        assert found.flagged[0].image in shown[False]
        assert "MRN-4711" not in drgate("report", "out", "--as", "html").out

    def test_other_lists_of_names_are_refused(self, table: Write, drgate: Run, own: Path, here: Path):
        assert drgate("evaluate", table("mine.csv", known=True), "--spec", own, "--out", "out").code == 0
        (here / "out/names.csv").write_text("a,b\n1,2\n")
        ended = drgate("report", "out")
        assert ended.code == 2
        assert "names.csv has other columns; expected the list of names that drgate wrote" in ended.err

    def test_the_own_table_verifies_at_its_cut_offs(self, table: Write, drgate: Run, own: Path, here: Path):
        """Its statement is recomputed from the own table as well as from the published one beside it."""
        point = make_operating_point(
            (0.3, 0.3, 0.3, 0.3),
            checklist={},
            tuned_on=make_predictions(
                pd.DataFrame({"image": ["t"], "grade": [0], **{f"p_{j}": [0.2] for j in range(5)}}), "t", {}
            ),
            promise={},
        )
        write_operating_point(point, here / "point.json")
        path = table("mine.csv", known=True)
        ended = drgate("evaluate", path, "--spec", own, "--operating-point", "point.json", "--out", "out")
        assert ended.code == 0, ended.err
        for given in ((), ("--predictions", path)):
            found = json.loads(drgate("verify", "out/statement.json", "--format", "json", *given).out)
            assert found["problems"] == []
            assert found["recomputed"], given


class TestReportCommand:
    @pytest.fixture
    def evaluated(self, drgate: Run, write_csv: Write, checklist: Write, here: Path) -> Path:
        table = write_csv([{"image": "a", "grade": 0, "predicted": 0}])
        assert drgate("evaluate", table, "--spec", checklist(), "--out", "report", "--quiet").code == 0
        return here / "report" / "evaluation.json"

    def test_overwrites_nothing_unasked(self, evaluated: Path, drgate: Run, tmp_path: Path):
        page = tmp_path / "page.html"
        page.write_text("precious")
        ended = drgate("report", evaluated, "--as", "html", "--out", page)
        assert ended.code == 2
        assert "exists already; choose another name with --out, or --force" in ended.err
        assert page.read_text() == "precious"
        assert drgate("report", evaluated, "--as", "html", "--out", page, "--force").code == 0
        assert page.read_text().startswith("<!doctype html>")

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (("--as", "html", "--format", "json"), "give one of them"),
            (("--out", "x.txt"), "add --as html"),
        ],
    )
    def test_contradicting_options(self, words: tuple[str, ...], sentence: str, evaluated: Path, drgate: Run):
        ended = drgate("report", evaluated, *words)
        assert ended.code == 2
        assert sentence in ended.err
        assert ended.out == ""
