"""What a reading may never do in silence: change a grade, drop a patient, take another photograph, guess a scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import softmax

from drgate.errors import ManifestError, PredictionsError, UsageError
from drgate.grades import join_grades
from drgate.manifest import load_manifest
from drgate.mapping import ColumnMap, parse_mapping
from drgate.predictions import load_predictions

P = ["p_0", "p_1", "p_2", "p_3", "p_4"]


def write(path: Path, table: pd.DataFrame) -> Path:
    table.to_csv(path, index=False)
    return path


def graded(grades: list[object], **more: object) -> pd.DataFrame:
    return pd.DataFrame({"image": [f"{i}.png" for i in range(len(grades))], "grade": grades, **more})


def photographs(folder: Path, *names: str) -> None:
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (shade, 3, 7)).save(folder / name)


class TestMappedGrades:
    def test_a_mapping_of_grades_is_said_for_each_column_with_its_rows(self, tmp_path: Path) -> None:
        """Whoever maps 4 to ungradable, or 1 to 0 in reference and answer, reads it on page one."""
        table = graded([0, 1, 2, 3, 4, 4, None], predicted=[0, 1, 1, 3, 4, 4, 2], gradable=[True] * 6 + [False])
        path = write(tmp_path / "preds.csv", table)
        read = load_predictions(path, columns=ColumnMap(grades={"4": "ungradable", "1": "no_dr", "9": "pdr"}))
        assert read.notes == (
            "Cells of grade were mapped in preds.csv: 4 is ungradable (2 rows), 1 is 0 (1 row).",
            "Cells of predicted were mapped in preds.csv: 4 is ungradable (2 rows), 1 is 0 (2 rows).",
        )
        assert read.table["gradable"].tolist() == [True] * 4 + [False] * 3

    def test_a_word_that_is_no_usual_name_is_not_repeated(self, tmp_path: Path) -> None:
        """A cell may be a person's name, so that of a mapped word only the rows are counted."""
        path = write(tmp_path / "preds.csv", graded(["Ada Lovelace", 0, 0], predicted=[1, 0, 0]))
        read = load_predictions(path, columns=ColumnMap(grades={"Ada Lovelace": "mild_npdr"}))
        assert read.notes == ("Cells of grade were mapped in preds.csv: another word is 1 (1 row).",)

    def test_an_empty_grade_is_ungradable_where_that_is_stated(self, tmp_path: Path) -> None:
        """The remedy that a message names works for predictions and for grades of their own too."""
        empty = ColumnMap(grades={"": "ungradable"})
        path = write(tmp_path / "preds.csv", graded([None, 0, 1], predicted=[1, 0, 1]))
        read = load_predictions(path, columns=empty)
        assert read.table["gradable"].tolist() == [False, True, True]
        assert read.notes == ("Cells of grade were mapped in preds.csv: an empty cell is ungradable (1 row).",)
        sealed = load_predictions(
            write(tmp_path / "sealed.csv", graded([None] * 3, predicted=[1, 0, 1])), columns=empty
        )
        grades = write(tmp_path / "grades.csv", graded([None, 0, 1]))
        joined = join_grades(sealed, grades, empty)
        assert joined.table["gradable"].tolist() == [False, True, True]
        assert joined.notes == ("Cells of grade were mapped in grades.csv: an empty cell is ungradable (1 row).",)

    def test_an_empty_cell_is_no_grade(self, tmp_path: Path) -> None:
        """An image that nobody graded cannot be called healthy by a mapping."""
        (tmp_path / "map.yaml").write_text('grades: {"": no_dr}\n')
        with pytest.raises(UsageError, match="an empty cell can only mean ungradable"):
            parse_mapping(str(tmp_path / "map.yaml"))

    def test_what_was_mapped_in_a_manifest_is_kept_for_the_report(self, tmp_path: Path) -> None:
        """A model's evaluation says which columns and grades of the test set were mapped, as a table's does."""
        photographs(tmp_path, "0.png", "1.png", "2.png")
        table = graded([0, 4, 4]).rename(columns={"grade": "dx"})
        stated = ColumnMap(columns={"image": "image", "grade": "dx"}, grades={"4": "ungradable"})
        manifest = load_manifest(write(tmp_path / "set.csv", table), columns=stated)
        assert manifest.mapped() == [
            "Columns were mapped in set.csv: grade is dx.",
            "Cells of grade were mapped in set.csv: 4 is ungradable (2 rows).",
        ]


class TestPatients:
    def test_patients_of_the_table_are_not_replaced_by_numbers_in_names(self, tmp_path: Path) -> None:
        """Who has several EyePACS numbers stays one patient, so that intervals do not become narrower."""
        photographs(tmp_path, "10_left.png", "10_right.png", "11_left.png", "12_left.png")
        table = pd.DataFrame(
            {"image": ["10_left", "10_right", "11_left", "12_left"], "level": [0, 2, 1, 3], "patient": list("AAAB")}
        )
        manifest = load_manifest(write(tmp_path / "labels.csv", table))
        assert manifest.table["patient"].tolist() == list("AAAB")
        assert manifest.table["eye"].tolist() == ["L", "R", "L", "L"]

    def test_a_level_beside_patients_needs_no_eyepacs_names(self, tmp_path: Path) -> None:
        """A table that names its patients is read whatever its photographs are called."""
        photographs(tmp_path, "a.png", "b.png")
        table = pd.DataFrame({"image": ["a", "b"], "level": [0, 2], "patient": ["A", "B"]})
        assert load_manifest(write(tmp_path / "labels.csv", table)).table["patient"].tolist() == ["A", "B"]

    def test_a_column_that_may_name_the_patients_is_named(self, tmp_path: Path) -> None:
        """Without patients nothing is shown; the report says which column may hold them and what to type."""
        path = write(tmp_path / "preds.csv", graded([0, 1], predicted=[0, 1], patient_id=["a", "b"]))
        note = "The column patient_id is not used. If it names the patients, give --columns patient=patient_id."
        assert load_predictions(path).notes == (note,)
        assert note not in load_predictions(path, columns=parse_mapping("patient=patient_id")).notes


class TestFiles:
    def test_a_missing_photograph_of_one_split_is_not_taken_from_another(self, tmp_path: Path) -> None:
        """Where names begin anew in each split, number 3 of the test set is not number 3 of the training set."""
        photographs(
            tmp_path, *(f"a. Training Set/{i}.png" for i in range(5)), *(f"b. Testing Set/{i}.png" for i in range(3))
        )
        table = pd.DataFrame({"image": [str(i) for i in range(4)], "grade": [0, 1, 2, 3], "split": "test"})
        troubles: list[str] = []
        manifest = load_manifest(write(tmp_path / "labels.csv", table), troubles=troubles)
        assert manifest.table["image"].tolist() == [f"b. Testing Set/{i}.png" for i in range(3)]
        assert "1 of 4 image files are missing" in troubles[0]
        with pytest.raises(ManifestError, match="line 5: the image file is not in"):
            load_manifest(tmp_path / "labels.csv")

    def test_a_split_of_ones_own_may_lie_in_any_folder(self, tmp_path: Path) -> None:
        """APTOS dealt anew: all photographs lie in train_images, whatever their split."""
        photographs(tmp_path, *(f"train_images/{i}.png" for i in range(3)), "test_images/9.png")
        table = pd.DataFrame({"image": ["0", "1", "2"], "grade": [0, 1, 2], "split": ["train", "val", "test"]})
        manifest = load_manifest(write(tmp_path / "labels.csv", table))
        assert manifest.table["image"].tolist() == [f"train_images/{i}.png" for i in range(3)]


class TestScales:
    @pytest.mark.parametrize("made", ["below 0 by rounding", "2p - 1", "-p"])
    def test_numbers_made_of_probabilities_are_not_taken_for_logits(self, tmp_path: Path, made: str) -> None:
        """Rows that all sum to 1, or to -3 or -1, are no logits because one number is below 0."""
        rng = np.random.default_rng(0)
        p = softmax(rng.normal(0, 2, (40, 5)), axis=1)
        if made == "below 0 by rounding":
            low = p.argmin(axis=1)
            p[np.arange(40), p.argmax(axis=1)] += p[np.arange(40), low] + 1e-9
            p[np.arange(40), low] = -1e-9
        values = {"2p - 1": 2 * p - 1, "-p": -p}.get(made, p)
        table = graded([0] * 40, **dict(zip(P, values.T, strict=True)))
        with pytest.raises(PredictionsError, match="State what they are"):
            load_predictions(write(tmp_path / "preds.csv", table))

    def test_grades_that_are_equally_probable_by_rounding_are_counted(self, tmp_path: Path) -> None:
        """Two digits can decide another grade than all digits; the report says in how many rows they may have."""
        p = np.array([[0.3334, 0.3336, 0.3330, 0, 0], [0.1, 0.2, 0.7, 0, 0]])
        table = graded([1, 2], **dict(zip(P, p.T, strict=True)))
        exact = load_predictions(write(tmp_path / "preds.csv", table))
        assert (exact.table["predicted"].tolist(), exact.notes) == ([1, 2], ())
        rounded = load_predictions(write(tmp_path / "two.csv", table.round(2)))
        assert rounded.table["predicted"].tolist() == [0, 2]
        assert any(note.startswith("In 1 row several grades are equally probable") for note in rounded.notes)
        decided = load_predictions(write(tmp_path / "decided.csv", table.round(2).assign(predicted=[1, 2])))
        assert decided.table["predicted"].tolist() == [1, 2]
        assert not any("equally probable" in note for note in decided.notes)

    @pytest.mark.parametrize("shift", [0.0, 3.0])
    def test_logits_are_read_whether_their_sums_are_0_or_not(self, tmp_path: Path, shift: float) -> None:
        """Centred logits, which all sum to 0, are logits."""
        rng = np.random.default_rng(0)
        logits = rng.normal(0, 2, (40, 5))
        logits -= logits.mean(axis=1, keepdims=True) - shift * rng.random((40, 1))
        table = graded([0] * 40, **dict(zip(P, logits.T, strict=True)))
        read = load_predictions(write(tmp_path / "preds.csv", table))
        places = read.table["image"].str.removesuffix(".png").astype(int)
        assert np.allclose(read.probabilities(), softmax(logits, axis=1)[places])

    @pytest.mark.parametrize(
        ("digits", "percent", "allowed"),
        [(2, 0, 2), (3, 0, 2), (4, 0, 10), (5, 0, 100), (6, 0, 1000), (0, 1, 2), (1, 1, 2), (2, 1, 10), (3, 1, 100)],
    )
    def test_the_sum_may_be_off_by_what_is_documented_and_no_unit_more(
        self, tmp_path: Path, digits: int, percent: int, allowed: int
    ) -> None:
        """0.999 and 1.001 are within 0.001, whatever binary fractions make of them."""
        unit, whole = 10**digits, 100 * 10**digits if percent else 10**digits

        def row(total: int) -> list[str]:
            cells = [total // 5 + (i < total % 5) for i in range(5)]
            return [f"{cell / unit:.{digits}f}" for cell in cells]

        for off in (allowed, allowed + 1, -allowed, -allowed - 1):
            rows = [row(whole + off), *([row(whole)] * 11)]
            path = write(tmp_path / "preds.csv", graded([0] * 12, **dict(zip(P, zip(*rows, strict=True), strict=True))))
            if abs(off) == allowed:
                assert len(load_predictions(path)) == 12
            else:
                with pytest.raises(PredictionsError, match="do not sum to"):
                    load_predictions(path)
