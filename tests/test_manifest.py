"""Manifests: the layouts that data sets come in, what is refused, digests, and splits that share nobody."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from drgate.errors import ManifestError
from drgate.manifest import load_manifest, split_by_patient

Write = Callable[..., Path]


class TestLayouts:
    def test_own_columns(self, photographs: Write, write_csv: Write):
        """The project's own columns are read as they are; further columns stay, to slice by."""
        photographs("a.png", "b.png", folder=".")
        columns = ("image", "grade", "patient", "eye", "gradable", "split", "camera")
        rows = (
            ("b.png", "PDR", "7", "left", "true", "test", "X"),
            ("a.png", "0", "7", "OD", "", "validation", "Y"),
        )
        path = write_csv([dict(zip(columns, row, strict=True)) for row in rows])
        table = load_manifest(path).table
        assert table["image"].tolist() == ["a.png", "b.png"]
        assert table["grade"].tolist() == [0, 4]
        assert table["eye"].tolist() == ["R", "L"]
        assert table["split"].tolist() == ["val", "test"]
        assert table["camera"].tolist() == ["Y", "X"]

    def test_parquet_and_csv_are_the_same_manifest(self, photographs: Write, write_csv: Write, tmp_path: Path):
        """The digest is of the content, not of the file format."""
        photographs("a.png", "b.png", folder=".")
        rows = [{"image": "a.png", "grade": 0, "patient": "p1"}, {"image": "b.png", "grade": 4, "patient": "p2"}]
        pd.DataFrame(rows).to_parquet(tmp_path / "table.parquet")
        assert load_manifest(write_csv(rows)).digest() == load_manifest(tmp_path / "table.parquet").digest()

    def test_split_and_grade_folders(self, photographs: Write):
        """`split/grade/*`, grades as digits or as the usual names."""
        folder = photographs("train/No_DR/a.png", "train/Severe/b.png", "test/4/c.png", "valid/Proliferate_DR/d.png")
        table = load_manifest(folder).table.set_index("image")
        assert table["grade"].to_dict() == {
            "test/4/c.png": 4,
            "train/No_DR/a.png": 0,
            "train/Severe/b.png": 3,
            "valid/Proliferate_DR/d.png": 4,
        }
        assert table["split"].to_dict()["valid/Proliferate_DR/d.png"] == "val"

    def test_grade_folders_with_eyepacs_names(self, photographs: Write):
        """`grade/*` without splits; names such as 10_left say whose eye it is."""
        table = load_manifest(photographs("0/10_left.png", "2/10_right.png", "1/11_left.png")).table
        assert table["patient"].tolist() == ["10", "11", "10"]
        assert table["eye"].tolist() == ["L", "L", "R"]
        assert table["split"].isna().all()

    def test_aptos(self, photographs: Write, write_csv: Write):
        """`id_code,diagnosis`, images beside or in a folder, named without suffix; no patient is known."""
        photographs("train_images/0a.png", "train_images/0b.png", folder="aptos")
        manifest = load_manifest(
            write_csv([{"id_code": "0a", "diagnosis": 2}, {"id_code": "0b", "diagnosis": 4}], "aptos/train.csv")
        )
        assert manifest.table["grade"].tolist() == [2, 4]
        assert not manifest.patients_known

    def test_eyepacs(self, photographs: Write, write_csv: Write):
        """`image,level`: patient and eye come from the name."""
        photographs("10_left.png", "10_right.png", folder="eyepacs")
        manifest = load_manifest(
            write_csv([{"image": "10_left", "level": 0}, {"image": "10_right", "level": 3}], "eyepacs/trainLabels.csv")
        )
        assert manifest.table[["patient", "eye", "grade"]].to_numpy().tolist() == [["10", "L", 0], ["10", "R", 3]]

    def test_source_namespaces_patients(self, photographs: Write, write_csv: Write):
        """Patient "10" of two sources is two people."""
        photographs("a.png", "b.png", folder=".")
        rows = [{"image": f"{s}.png", "grade": 0, "patient": 10, "source": s} for s in "ab"]
        assert load_manifest(write_csv(rows)).table["patient"].nunique() == 2

    def test_sealed(self, photographs: Write, write_csv: Write):
        """Grades may be absent altogether; their keeper joins them later."""
        photographs("a.png", folder=".")
        assert load_manifest(write_csv([{"image": "a.png"}])).sealed

    def test_a_folder_of_images_alone_is_sealed(self, photographs: Write):
        """Nothing but images: a test set to be scored, whose grades somebody else keeps."""
        manifest = load_manifest(photographs("b.png", "a.png"))
        assert manifest.sealed
        assert manifest.table["image"].tolist() == ["a.png", "b.png"]
        assert manifest.table["split"].isna().all()
        assert not manifest.patients_known

    def test_a_flat_eyepacs_folder_names_patients(self, photographs: Write):
        manifest = load_manifest(photographs("10_left.png", "10_right.png"))
        assert manifest.sealed
        assert manifest.table[["patient", "eye"]].to_numpy().tolist() == [["10", "L"], ["10", "R"]]

    def test_aptos_without_grades(self, photographs: Write, write_csv: Write):
        """The CSV of APTOS's own test set has `id_code` alone."""
        photographs("test_images/0a.png", folder="aptos")
        manifest = load_manifest(write_csv([{"id_code": "0a"}], "aptos/test.csv"))
        assert manifest.sealed
        assert manifest.table["image"].tolist() == ["test_images/0a.png"]

    def test_a_sealed_set_is_not_trained_on(self, photographs: Write):
        """Without grades there is nothing to learn, and the message says so."""
        from drgate.errors import TrainingError

        data = pytest.importorskip("trainer.data", reason="the extra train is not installed")
        with pytest.raises(TrainingError, match="has no grades, so a model cannot be trained on it"):
            data.load_splits(str(photographs(*(f"{i}.png" for i in range(20)))), seed=0)


REFUSED = {
    "grade 7": ({"grade": "7"}, "grade cannot be read; expected an ICDR grade"),
    "a word": ({"grade": "bad"}, "grade cannot be read; expected an ICDR grade"),
    "a fraction": ({"grade": "1.5"}, "grade cannot be read; expected an ICDR grade"),
    "no grade": ({"grade": ""}, "has no grade"),
    "an unknown split": ({"split": "holdout"}, "split cannot be read; expected train, val or test"),
    "an unknown eye": ({"eye": "middle"}, "eye cannot be read; expected L or R"),
    "a file that is not there": ({"image": "none.png"}, "the image file is not in"),
    "a path outside": ({"image": "../../etc/passwd"}, "is outside"),
    "an address": ({"image": "https://example.org/a.png"}, "is a web address; copy the images beside the manifest"),
    "an empty image": ({"image": ""}, "the image is empty"),
    "no patient": ({"patient": ""}, "the patient is empty"),
    "gradable maybe": ({"gradable": "maybe"}, "gradable cannot be read; expected true or false"),
    "the same image twice": ({"image": "a.png"}, "line 2; keep one row per image"),
}


class TestRefusals:
    @pytest.mark.parametrize("defect", REFUSED, ids=str)
    def test_names_the_row(self, defect: str, photographs: Write, write_csv: Write):
        """Whatever is wrong in a row is said with the file and the line."""
        photographs("a.png", "b.png", folder=".")
        sound = {"image": "a.png", "grade": "0", "patient": "1", "eye": "L", "gradable": "true", "split": "test"}
        change, sentence = REFUSED[defect]
        path = write_csv([sound, {**sound, "image": "b.png"} | change])
        with pytest.raises(ManifestError) as error:
            load_manifest(path)
        assert sentence in str(error.value)
        assert f"{path}, line 3" in str(error.value)

    def test_missing_file(self, tmp_path: Path):
        with pytest.raises(ManifestError, match="does not exist"):
            load_manifest(tmp_path / "none.csv")

    def test_empty_file(self, tmp_path: Path):
        (tmp_path / "empty.csv").write_text("")
        with pytest.raises(ManifestError, match="is empty"):
            load_manifest(tmp_path / "empty.csv")

    def test_header_alone(self, tmp_path: Path):
        (tmp_path / "empty.csv").write_text("image,grade\n")
        with pytest.raises(ManifestError, match="has no rows"):
            load_manifest(tmp_path / "empty.csv")

    def test_folder_without_images(self, tmp_path: Path):
        with pytest.raises(ManifestError, match="has no images"):
            load_manifest(tmp_path)

    def test_folders_that_name_no_grade(self, photographs: Write):
        with pytest.raises(ManifestError, match="not in a folder named after a grade"):
            load_manifest(photographs("0/a.png", "holiday/b.png"))

    def test_images_beside_grade_folders(self, photographs: Write):
        """Some images with a grade and some without are no sealed set: the latter would be lost silently."""
        with pytest.raises(ManifestError, match=r"b\.png: not in a folder named after a grade"):
            load_manifest(photographs("0/a.png", "b.png"))

    def test_unknown_columns(self, write_csv: Write):
        with pytest.raises(ManifestError, match="has no column image"):
            load_manifest(write_csv([{"file": "a.png", "label": 0}]))

    def test_not_text(self, tmp_path: Path):
        (tmp_path / "labels.csv").write_bytes(bytes(range(256)))
        with pytest.raises(ManifestError, match="is a binary file"):
            load_manifest(tmp_path / "labels.csv")
        (tmp_path / "labels.csv").write_bytes("image,Größe".encode("latin-1"))
        with pytest.raises(ManifestError, match="cannot be read as a table"):
            load_manifest(tmp_path / "labels.csv")


class TestDigest:
    def test_order_and_folder_do_not_matter(self, photographs: Write, tmp_path: Path):
        """The same rows and images have the same digest wherever they lie and in whatever order."""
        folder = photographs("a.png", "b.png")
        (folder / "labels.csv").write_text("image,grade\na.png,0\nb.png,1\n")
        shutil.copytree(folder, tmp_path / "copy")
        (tmp_path / "copy" / "labels.csv").write_text("image,grade\n./b.png,1\na.png,0\n")
        assert load_manifest(folder).digest() == load_manifest(tmp_path / "copy").digest()

    @pytest.mark.parametrize("change", ["a grade", "a pixel", "a column"])
    def test_content_matters(self, change: str, photographs: Write):
        folder = photographs("a.png", "b.png")
        (folder / "labels.csv").write_text("image,grade\na.png,0\nb.png,1\n")
        before = load_manifest(folder).digest()
        match change:
            case "a grade":
                (folder / "labels.csv").write_text("image,grade\na.png,0\nb.png,2\n")
            case "a pixel":
                (folder / "a.png").write_bytes((folder / "b.png").read_bytes())
            case "a column":
                (folder / "labels.csv").write_text("image,grade,camera\na.png,0,\nb.png,1,\n")
        assert load_manifest(folder).digest() != before


class TestSplits:
    def test_by_patient(self, real_data: Path):
        """Both eyes of a patient go to one split, strata keep their shares, and the dealing can be repeated."""
        manifest = load_manifest(real_data / "eyepacs-1024")
        unsplit = type(manifest)(manifest.root, manifest.table.assign(split=pd.NA), manifest.origin)
        dealt = split_by_patient(unsplit, seed=1)
        assert dealt.table.groupby("patient")["split"].nunique().max() == 1
        assert dealt.leaks() == []
        shares = dealt.table.groupby("patient")["split"].first().value_counts(normalize=True)
        assert shares["train"] == pytest.approx(0.7, abs=0.01)
        assert set(dealt.table.loc[dealt.table["split"] == "val", "grade"]) == {0, 1, 2, 3, 4}
        assert split_by_patient(unsplit, seed=1).table.equals(dealt.table)
        assert not split_by_patient(unsplit, seed=2).table.equals(dealt.table)

    def test_shared_patient_is_found(self, photographs: Write):
        folder = photographs("a.png", "b.png", "c.png")
        (folder / "labels.csv").write_text(
            "image,grade,patient,split\na.png,0,1,train\nb.png,1,1,test\nc.png,1,2,test\n"
        )
        manifest = load_manifest(folder)
        assert "in more than one split (1 of them, with 2 images)" in manifest.leaks("test")[0]
        assert manifest.leaks("val") == []

    def test_shared_file_is_found(self, photographs: Write):
        """A file that was copied under another name leaks all the same."""
        folder = photographs("train/0/a.png", "train/1/b.png", "test/0/c.png")
        shutil.copy(folder / "train/0/a.png", folder / "test/0/c.png")
        assert "test/0/c.png = train/0/a.png" in load_manifest(folder).leaks("test")[0]

    def test_contradicting_duplicates_are_named(self, real_data: Path):
        """In the photographs as found, one file lies in two grade folders under two names."""
        assert load_manifest(real_data / "eyepacs-full").contradictions() == [
            "3/17_right.jpeg and 4/16_right.jpeg are the same file, but graded 3 and 4, of 2 patients."
        ]
