"""Data sets as they are published and exported: what is read, what is refused, and what `drgate manifest` shows."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from drgate.errors import DrgateError, ManifestError, UsageError
from drgate.files import sha256_file
from drgate.manifest import load_manifest, split_by_patient
from drgate.mapping import ColumnMap, parse_mapping
from tests.support.material import Ended, photograph

Write = Callable[..., Path]
Run = Callable[..., Ended]

MARK = "Zq7-Vanderbilt"
UNGRADABLE = ColumnMap(grades={"": "ungradable", "5": "ungradable", "-1": "ungradable"})


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def picture(seed: int, format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format)
    return data.getvalue()


def refused(path: Path, **how: Any) -> str:
    with pytest.raises(DrgateError) as error:
        load_manifest(path, **how)
    return str(error.value)


def grades(path: Path, **how: Any) -> dict[str, int]:
    table = load_manifest(path, **how).table
    return dict(zip(table["image"], table["grade"], strict=True))


class TestNames:
    """D1, D4: which file a name in a table means."""

    def test_a_name_with_dots_is_never_another_file(self, photographs: Write):
        """mBRSET: `1.1` is 1.1.jpg, though 1.jpg lies there too; without 1.1.jpg it is missing."""
        root = photographs("images/1.1.jpg", "images/1.jpg", "images/1.1.1.jpg", folder="set")
        table = text(root / "t.csv", "id_code,diagnosis\n1.1,2\n")
        assert grades(table) == {"images/1.1.jpg": 2}
        (root / "images/1.1.jpg").unlink()
        assert "the image file is not in" in refused(table)
        assert "1 of 1 image files are missing" in refused(table)

    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("a", "a.jpg"),
            ("a.jpg", "a.JPG"),
            ("a.JPG", "a.jpeg"),
            ("a.v2", "x/a.v2.tiff"),
            ("images/a.jpg", "Images/a.jpg"),
            ("a.b.c", "train_images/a.b.c.png"),
            ("2.10", "2.10.PNG"),
            ("\\set\\7\\a.jpg", "set/Images/7/a.jpg"),
            ("deep/a", "one/deep/two/a.jfif"),
            ("scan", "scan"),
            ("\u00d6l.jpg", "O\u0308l.jpg"),
            ("a.jpg", "a.jpg"),
        ],
    )
    def test_found(self, name: str, file: str, tmp_path: Path):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(picture(1))
        assert list(grades(text(tmp_path / "t.csv", f"image,grade\n{name},2\n"))) == [file]

    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("1.1", "1.jpg"),
            ("1.1.jpg", "1.jpg"),
            ("1", "1.1.jpg"),
            ("a.png", "a.jpg"),
            ("A.jpg", "a.jpg"),
            ("left/a.jpg", "right/a.jpg"),
            ("two/one/a.jpg", "one/two/a.jpg"),
            ("a", "a.txt"),
        ],
    )
    def test_never_another(self, name: str, file: str, tmp_path: Path):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(picture(1))
        assert "the image file is not in" in refused(text(tmp_path / "t.csv", f"image,grade\n{name},2\n"))

    def test_all_missing_files_are_counted_at_once(self, photographs: Write):
        root = photographs("0.jpg")
        rows = "".join(f"{i}.jpg,0\n" for i in range(10))
        said = refused(text(root / "t.csv", f"image,grade\n{rows}"))
        assert "t.csv, lines 3, 4, 5 and 6 more: the image file is not in" in said
        assert "9 of 10 image files are missing" in said

    def test_two_files_of_one_name(self, photographs: Write):
        """IDRiD starts again at 1 in each split: the folder of the row's split is taken; else the way out is named."""
        root = photographs("a. Training Set/I_1.jpg", "b. Testing Set/I_1.jpg")
        both = text(root / "both.csv", "id_code,diagnosis,split\nI_1,1,train\nI_1,4,test\n")
        assert grades(both) == {"a. Training Set/I_1.jpg": 1, "b. Testing Set/I_1.jpg": 4}
        said = refused(text(root / "one.csv", "id_code,diagnosis\nI_1,1\n"))
        assert (
            "several files have the image's name (a. Training Set/I_1.jpg, b. Testing Set/I_1.jpg), in 1 of 1 rows"
            in said
        )
        assert "name the right folder with --images" in said
        own = load_manifest(root / "one.csv", images=root / "b. Testing Set")
        assert own.path(own.table["image"].iloc[0]) == root / "b. Testing Set/I_1.jpg"
        stated = text(root / "stated.csv", "id_code,diagnosis\na. Training Set/I_1,1\n")
        assert list(grades(stated)) == ["a. Training Set/I_1.jpg"]

    def test_two_rows_of_one_file(self, photographs: Write):
        root = photographs("1.jpg")
        assert "is already in" in refused(text(root / "t.csv", "image,grade\n1,0\n1.jpg,0\n"))

    @pytest.mark.parametrize("name", ["../1.jpg", "/etc/passwd", "s3://b/1.jpg", "a/../../1.jpg", "a\0b", "x" * 5000])
    def test_names_that_climb_out(self, name: str, photographs: Write):
        root = photographs("1.jpg")
        pd.DataFrame({"image": [name], "grade": [0]}).to_parquet(root / "t.parquet")
        assert refused(root / "t.parquet")


class TestPublicTables:
    def test_mbrset(self, photographs: Write):
        """D1: grades are floats, some empty; the missing file and the empty grade are both named."""
        root = photographs("images/1.1.jpg", "images/1.2.jpg", "images/2.1.jpg")
        table = text(
            root / "labels_mbrset.csv",
            "patient,age,file,laterality,final_quality,final_icdr,final_edema\n"
            "1,51,1.1.jpg,right,yes,3.0,no\n1,51,1.2.jpg,left,no,,no\n2,60,2.1.jpg,left,yes,0.0,yes\n",
        )
        manifest = load_manifest(table).table.set_index("image")
        assert manifest["grade"].fillna(-1).tolist() == [3, -1, 0]
        assert manifest["gradable"].tolist() == [True, False, True]
        assert manifest["patient"].tolist() == ["1", "1", "2"]
        assert manifest["eye"].tolist() == ["R", "L", "L"]
        text(table, table.read_text().replace("1.2.jpg,left,no", "1.2.jpg,left,yes"))
        assert 'grades: {"": ungradable}' in refused(table)
        assert load_manifest(table, columns=UNGRADABLE).table["gradable"].tolist() == [True, False, True]

    def test_brset(self, photographs: Write):
        root = photographs("fundus_photos/img00001.jpg", "fundus_photos/img00002.jpg")
        table = text(
            root / "labels_brset.csv",
            "image_id,patient_id,camera,exam_eye,DR_ICDR,macular_edema,quality\n"
            "img00001,1,Canon,1,4,1,Adequate\nimg00002,1,Canon,2,,0,Inadequate\n",
        )
        found = load_manifest(table).table
        assert found["eye"].tolist() == ["R", "L"]
        assert found["gradable"].tolist() == [True, False]
        assert found["dme"].tolist() == ["1", "0"]

    def test_idrid(self, photographs: Write):
        """D3: two columns without a name, a space after a name, an empty last line."""
        root = photographs("IDRiD_001.jpg", "IDRiD_002.jpg", folder="a. Training Set")
        table = root.parent / "Labels.csv"
        table.write_text(
            "\ufeffImage name,Retinopathy grade,Risk of macular edema ,,\r\n"
            "IDRiD_001,3,2,,\r\nIDRiD_002,0,0,,\r\n,,,,\r\n"
        )
        assert grades(table) == {"a. Training Set/IDRiD_001.jpg": 3, "a. Training Set/IDRiD_002.jpg": 0}

    @pytest.mark.parametrize("header", ["id_code,diagnosis", "image_id,adjudicated_dr_grade"])
    def test_messidor_2(self, header: str, photographs: Write):
        """D4: an empty grade where adjudicated_gradable is 0; .jpg in the table, .JPG on the disk."""
        root = photographs("IMAGES/a.png", "IMAGES/b.JPG")
        table = text(root / "t.csv", f"{header},adjudicated_dme,adjudicated_gradable\na.png,,,0\nb.jpg,4,1,1\n")
        found = load_manifest(table).table
        assert found["gradable"].tolist() == [False, True]
        assert found["dme"].tolist()[1] == "1"

    def test_eyepacs_saved_again(self, photographs: Write):
        """D5: saved indices take no part; the same header with a binary label is asked about."""
        root = photographs("resized/10_left.jpeg", "resized/10_right.jpeg")
        table = text(root / "t.csv", ",Unnamed: 0,image,level\n0,0,10_left,0\n1,2,10_right,1\n")
        manifest = load_manifest(table)
        assert {*manifest.table.columns} == {"image", "grade", "patient", "eye", "gradable", "split"}
        assert manifest.doubts() == [
            "Only grades 0 and 1 occur: is this a binary label? If 1 means referable, name its column referable; any "
            "DR alone is not judged."
        ]

    def test_names_that_are_not_of_eyepacs(self, photographs: Write):
        root = photographs("a.jpeg", "10_left.jpeg")
        table = text(root / "t.csv", "image,level\n10_left,0\na,1\n")
        assert "t.csv, line 3: the image is not an EyePACS name such as 10_left, in 1 of 2 rows" in refused(table)
        assert len(load_manifest(table, columns=parse_mapping("image=image,grade=level"))) == 2

    def test_deepdrid(self, photographs: Write):
        """D8: paths with \\, the grade of the eye in one of two columns, 5 for ungradable."""
        root = photographs("regular/Images/1/1_l1.jpg", "regular/Images/1/1_r1.jpg")
        head = "patient_id,image_id,image_path,Overall quality,left_eye_DR_Level,right_eye_DR_Level,patient_DR_Level"
        rows = "1,1_l1,\\regular\\1\\1_l1.jpg,1,3,,4\n1,1_r1,\\regular\\1\\1_r1.jpg,0,,5,4\n"
        found = load_manifest(text(root / "regular.csv", f"{head}\n{rows}")).table
        assert found["grade"].fillna(-1).tolist() == [3, -1]
        assert found["gradable"].tolist() == [True, False]
        assert found["eye"].tolist() == ["L", "R"]
        both = rows.replace("1,3,,4", "1,3,2,4")
        assert "grades of both eyes" in refused(text(root / "both.csv", f"{head}\n{both}"))

    def test_deepdrid_in_drgates_names(self, photographs: Write):
        root = photographs("regular/Images/1/1_l1.jpg", "regular/Images/1/1_l2.jpg")
        rows = "1,\\regular\\1\\1_l1.jpg,5\n1,\\regular\\1\\1_l2.jpg,2\n"
        table = text(root / "t.csv", f"patient,image,grade\n{rows}")
        assert "the grade is 5, in 1 of 2 rows" in refused(table)
        assert 'grades: {"5": ungradable}' in refused(table)
        assert load_manifest(table, columns=UNGRADABLE).table["gradable"].tolist() == [False, True]

    def test_ddr(self, photographs: Write):
        """D7: no header line; the message says what to type; lines are counted from the first."""
        root = photographs("train/007-0001-000.jpg", "train/007-0002-000.jpg")
        table = text(root / "train.txt", "007-0001-000.jpg 0\n007-0002-000.jpg 5\n")
        said = refused(table)
        assert said.endswith("Say which cell is which by number: --columns image=1,grade=2")
        assert "007" not in said
        mapped = parse_mapping("image=1,grade=2")
        assert "train.txt, line 2: the grade is 5, in 1 of 2 rows" in refused(table, columns=mapped)
        found = load_manifest(table, columns=ColumnMap(mapped.columns, UNGRADABLE.grades)).table
        assert found["grade"].fillna(-1).tolist() == [0, -1]
        assert "--columns names cell 3" in refused(table, columns=parse_mapping("image=1,grade=3"))
        assert refused(table, columns=parse_mapping("image=0,grade=2"))

    def test_fgadr(self, photographs: Write):
        """D7: masks have the photographs' names; they are left out by their folder's name."""
        root = photographs("Original_Images/0_1.png", "HardExudate_Masks/0_1.png")
        assert list(grades(text(root / "t.csv", "id_code,diagnosis\n0_1.png,2\n"))) == ["Original_Images/0_1.png"]
        bare = text(root / "bare.csv", "0_1.png,2\n")
        assert list(grades(bare, columns=parse_mapping("image=1,grade=2"))) == ["Original_Images/0_1.png"]

    @pytest.mark.parametrize(
        ("header", "proposed"),
        [
            ("filename,label", "--columns image=filename,grade=label?"),
            ("Image_ID,DR_Level", "--columns image=Image_ID,grade=DR_Level?"),
            ("path,dr grade", "--columns 'image=path,grade=dr grade'?"),
        ],
    )
    def test_a_mapping_is_proposed(self, header: str, proposed: str, tmp_path: Path):
        assert refused(text(tmp_path / "t.csv", f"{header}\na.jpg,0\n")).endswith(proposed)

    def test_grades_under_another_name_beside_image(self, photographs: Write):
        """EyeQ's `DR_grade`: the set has no grades for drgate, and what to type is said."""
        root = photographs("10_left.jpeg")
        found = load_manifest(text(root / "t.csv", "image,quality,DR_grade\n10_left.jpeg,0,2\n"))
        assert found.sealed
        assert found.found.said == ["No grades were read. Is it --columns image=image,grade=DR_grade?"]

    def test_no_header_and_no_suffix(self, photographs: Write):
        root = photographs("a.jpg")
        assert refused(text(root / "t.csv", "a,2\nb,0\n")).endswith("by number: --columns image=1,grade=2")

    @pytest.mark.parametrize("word", ["nan", "NA", "None", "null"])
    def test_words_for_nothing(self, word: str, photographs: Write):
        root = photographs("a.jpg", "b.jpg")
        table = text(root / "t.csv", f"image,grade\na.jpg,{word}\nb.jpg,1\n")
        assert "has no grade" in refused(table)
        assert load_manifest(table, columns=UNGRADABLE).table["gradable"].tolist() == [False, True]

    @pytest.mark.parametrize("word", ["ungradable", "Ungradable", "UNGRADEABLE", "not_gradable"])
    def test_words_for_ungradable(self, word: str, photographs: Write):
        root = photographs("a.jpg", "b.jpg")
        found = load_manifest(text(root / "t.csv", f"image,grade\na.jpg,{word}\nb.jpg,1\n"))
        assert found.table["gradable"].tolist() == [False, True]
        assert found.found.said[-1] == "1 of 2 images are ungradable by the column of grades."

    def test_minus_one(self, photographs: Write):
        root = photographs("a.jpg", "b.jpg")
        table = text(root / "t.csv", "image,grade\na.jpg,-1\nb.jpg,1\n")
        assert "the grade is -1, in 1 of 2 rows" in refused(table)
        assert load_manifest(table, columns=UNGRADABLE).table["gradable"].tolist() == [False, True]

    def test_a_mapping_of_grades_to_no_grade(self, photographs: Write):
        root = photographs("a.jpg")
        table = text(root / "t.csv", "image,grade\na.jpg,R2\n")
        assert grades(table, columns=ColumnMap(grades={"R2": "severe_npdr"})) == {"a.jpg": 3}
        assert "a value of grades is none that is known" in refused(table, columns=ColumnMap(grades={"R2": "bad"}))

    def test_a_gap_in_the_grades_is_asked_about(self, photographs: Write):
        root = photographs(*(f"{i}.jpg" for i in range(3)))
        table = text(root / "t.csv", "image,grade\n0.jpg,0\n1.jpg,1\n2.jpg,4\n")
        assert [line[:31] for line in load_manifest(table).doubts()] == [
            "No image has the grade 2 (Moder",
            "No image has the grade 3 (Sever",
        ]


class TestFolders:
    def test_retfound(self, photographs: Write):
        """D6: RETFound's names of grades."""
        names = ("anodr", "bmilddr", "cmoderatedr", "dseveredr", "eproliferativedr")
        root = photographs(
            *(f"{split}/{name}/{split}{i}.png" for split in ("train", "test") for i, name in enumerate(names))
        )
        assert load_manifest(root).table["grade"].tolist() == [0, 1, 2, 3, 4] * 2

    def test_folders_that_all_images_share(self, photographs: Write):
        root = photographs("colored_images/No_DR/a.png", "colored_images/Severe/b.png")
        assert grades(root) == {"colored_images/No_DR/a.png": 0, "colored_images/Severe/b.png": 3}

    def test_folders_between_split_and_grade(self, photographs: Write):
        root = photographs("train/images/0/a.png", "test/images/4/b.png")
        assert load_manifest(root).table["split"].tolist() == ["test", "train"]

    def test_a_folder_of_ungradable_images(self, photographs: Write):
        root = photographs("0/a.png", "5/b.png", "4/c.png")
        assert "the grade is 5, in 1 of 3 rows" in refused(root)
        assert load_manifest(root, columns=UNGRADABLE).table["gradable"].tolist() == [True, True, False]

    def test_the_tables_of_a_folder_are_named(self, photographs: Write):
        root = photographs("x/a.png", "y/b.png")
        text(root / "labels_of_us.csv", "image,grade\n")
        assert refused(root).endswith("Give one of its tables itself: labels_of_us.csv.")

    def test_everything_is_read_or_named(self, tmp_path: Path, drgate: Run):
        """N3: JPEG under any suffix or none, and JPEG 2000, are read; all else is counted, with the reason."""
        (tmp_path / "0").mkdir()
        for i, name in enumerate(("a.jfif", "b.jpe", "c", "1.1", "d.JPG")):
            (tmp_path / "0" / name).write_bytes(picture(i, "JPEG"))
        (tmp_path / "0/e.jp2").write_bytes(picture(7, "JPEG2000"))
        (tmp_path / "0/f.gif").write_bytes(picture(8, "GIF"))
        text(tmp_path / "0/notes.doc", "a note")
        (tmp_path / "0/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        (tmp_path / "0/g_mask.png").write_bytes(picture(9))
        (tmp_path / "0/h.pdf").write_bytes(b"%PDF-1.7")
        (tmp_path / "0/i").write_bytes(b"")
        (tmp_path / "0/j.dcm").write_bytes(b"\0" * 128 + b"DICM")
        text(tmp_path / "0/.hidden", "x")
        plain = json.loads(drgate("manifest", tmp_path, "--format", "json").out)
        assert plain["images"] == 7
        assert {why: names["examples"] for why, names in plain["left_out"].items()} == {
            "DICOM": ["0/j.dcm"],
            "a PDF document": ["0/h.pdf"],
            "a file of the system": ["0/Thumbs.db"],
            "a mask": ["0/g_mask.png"],
            "an empty file": ["0/i"],
            "hidden": ["0/.hidden"],
            "text": ["0/notes.doc"],
        }
        assert load_manifest(tmp_path).leftovers() == [
            "Files of the folder that were left out: 1 DICOM, 1 PDF document, 1 mask, 1 empty file."
        ]


def hub(path: Path, splits: tuple[int, ...] = (0, 1, 2, 3, 4), *, names: list[str] | None = None, **more: Any) -> Path:
    """A Parquet file as Hugging Face's `datasets` writes it, one picture a label."""
    images = [{"bytes": picture(100 + i), "path": f"p{i}.png"} for i in range(len(splits))]
    table = pa.table(
        {"image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])), "label": list(splits)}
        | more
    )
    names = names or ["No DR", "Mild", "Moderate", "Severe", "Proliferative DR"]
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
    return path


class TestPicturesInside:
    def test_parquet(self, tmp_path: Path):
        """D2: pictures and the names of classes; a picture's digest is that of the file that it was."""
        manifest = load_manifest(hub(tmp_path / "t.parquet"))
        assert manifest.table["grade"].tolist() == [0, 1, 2, 3, 4]
        (tmp_path / "p0.png").write_bytes(picture(100))
        assert manifest.content_digests()["p0.png"] == sha256_file(tmp_path / "p0.png")
        folder = manifest.root
        assert folder.stat().st_mode & 0o77 == 0
        part = split_by_patient(manifest)
        del manifest
        assert len(list(folder.iterdir())) == 5
        del part
        assert not folder.exists()

    def test_class_names_in_another_order(self, tmp_path: Path):
        """What a label means is what its name says, not its number."""
        path = hub(tmp_path / "t.parquet", (0, 1, 2), names=["Mild", "Moderate", "No_DR"])
        assert load_manifest(path).table["grade"].tolist() == [1, 2, 0]

    def test_classes_that_are_no_grades(self, tmp_path: Path):
        """Labels are not guessed from numbers: the column must be named, and its names are read."""
        path = hub(tmp_path / "t.parquet", (0, 1), names=["healthy eye", "sick eye"])
        assert load_manifest(path).sealed
        assert "t.parquet, row 1: grade cannot be read" in refused(path, columns=parse_mapping("grade=label"))

    def test_a_folder_with_splits(self, tmp_path: Path):
        hub(tmp_path / "data/train-00000-of-00001.parquet")
        hub(tmp_path / "data/test-00000-of-00001.parquet", (0, 4))
        table = load_manifest(tmp_path).table
        assert table["split"].value_counts().to_dict() == {"train": 5, "test": 2}

    def test_bytes_without_records(self, tmp_path: Path):
        images = pa.array([picture(1), picture(2, "JPEG")], pa.binary())
        pq.write_table(pa.table({"image": images, "grade": [0, 4]}), tmp_path / "t.parquet")
        assert grades(tmp_path / "t.parquet") == {"row-1.png": 0, "row-2.jpg": 4}

    def test_names_alone(self, photographs: Write):
        """Records with a path and no bytes name files beside the table."""
        root = photographs("images/a.png")
        image = pa.array([{"bytes": None, "path": "a.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        pq.write_table(pa.table({"image": image, "grade": [0]}), root / "t.parquet")
        assert list(grades(root / "t.parquet")) == ["images/a.png"]

    @pytest.mark.parametrize("path", ["../../x.png", "/etc/x.png", "a\0b.png", "", "x" * 300, "..", "C:\\d\\x.png"])
    def test_names_that_climb_out(self, path: str, tmp_path: Path):
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        image = pa.array([{"bytes": picture(1), "path": path}] * 2, kind)
        pq.write_table(pa.table({"image": image, "grade": [0, 0]}), tmp_path / "t.parquet")
        manifest = load_manifest(tmp_path / "t.parquet")
        assert all(manifest.path(image).resolve().is_relative_to(manifest.root) for image in manifest.table["image"])
        assert [name.name for name in tmp_path.iterdir()] == ["t.parquet"]

    def arrow(self, path: Path, **options: Any) -> Path:
        table = pq.read_table(hub(path.with_suffix(".parquet")))
        path.with_suffix(".parquet").unlink()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema, **options) as writer:
            writer.write_table(table)
        return path

    def test_a_saved_data_set(self, tmp_path: Path):
        """`save_to_disk`: a folder of Arrow files for each split."""
        text(tmp_path / "dataset_dict.json", '{"splits": ["train", "validation"]}')
        for split in ("train", "validation"):
            state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": split}
            text(tmp_path / split / "state.json", json.dumps(state))
            self.arrow(tmp_path / split / "data-00000-of-00001.arrow")
        table = load_manifest(tmp_path).table
        assert table["split"].value_counts().to_dict() == {"train": 5, "val": 5}
        assert table["grade"].tolist() == [0, 1, 2, 3, 4] * 2

    @pytest.mark.parametrize("codec", ["lz4", "zstd"])
    def test_compressed_arrow(self, codec: str, tmp_path: Path):
        """How much memory it takes is not known before."""
        path = self.arrow(tmp_path / "t.arrow", options=pa.ipc.IpcWriteOptions(compression=codec))
        assert "is compressed or has dictionaries; save it as Parquet" in refused(path)

    def test_damaged_arrow(self, tmp_path: Path):
        whole = self.arrow(tmp_path / "t.arrow").read_bytes()
        for cut in (0, 10, 100, len(whole) // 2):
            (tmp_path / "t.arrow").write_bytes(whole[:cut])
            assert "arrow" in refused(tmp_path / "t.arrow")
        for at in range(0, 600, 7):
            (tmp_path / "t.arrow").write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
            with contextlib.suppress(DrgateError):
                load_manifest(tmp_path / "t.arrow")

    @pytest.mark.parametrize(
        "state",
        [
            '{"_data_files": [{"filename": "../x.arrow"}]}',
            '{"_data_files": []}',
            '{"_data_files": [{"filename": "a.arrow"}], "_indices_files": [{"filename": "i.arrow"}]}',
            "[]",
        ],
    )
    def test_states_that_are_none(self, state: str, tmp_path: Path):
        assert refused(text(tmp_path / "state.json", state).parent)


def retina(path: Path, **more: Any) -> Path:
    """RetinaMNIST: 5 pictures for training and 2 for the test."""
    rng = np.random.default_rng(1)
    arrays = {
        f"{split}_{what}": (rng.integers(0, 255, (n, 8, 8, 3), dtype=np.uint8) if what == "images" else labels)
        for split, n, labels in (
            ("train", 5, np.arange(5, dtype=np.uint8)[:, None]),
            ("test", 2, np.array([[0], [4]], np.uint8)),
        )
        for what in ("images", "labels")
    }
    np.savez(path, **{**arrays, **more})
    return path


class TestArrays:
    def test_retinamnist(self, tmp_path: Path):
        path = retina(tmp_path / "retinamnist.npz")
        manifest = load_manifest(path)
        assert manifest.select("train").table["grade"].tolist() == [0, 1, 2, 3, 4]
        first = manifest.path(manifest.select("test").table["image"].iloc[0])
        assert np.array_equal(np.asarray(Image.open(first)), np.load(path)["test_images"][0])
        assert manifest.digest() == load_manifest(path).digest()

    def test_labels_of_another_set_are_not_grades(self, tmp_path: Path):
        """OCTMNIST has four classes of something else under the same names."""
        path = retina(tmp_path / "octmnist.npz")
        assert "does not say what its labels are" in refused(path)
        assert len(load_manifest(path, columns=parse_mapping("grade=labels"))) == 7

    @pytest.mark.parametrize(
        "more",
        [
            {"train_labels": np.zeros((4, 1), np.uint8)},
            {"train_labels": np.zeros((5, 14), np.uint8)},
            {"train_images": np.zeros((5, 8, 8, 3))},
            {"train_images": np.zeros((5, 8), np.uint8)},
            {"other": np.zeros(3)},
            {"train_labels": np.array([[0.5]] * 5)},
        ],
        ids=str,
    )
    def test_other_shapes(self, more: dict[str, Any], tmp_path: Path):
        assert "expected" in refused(retina(tmp_path / "retina.npz", **more))

    def test_pickles(self, tmp_path: Path):
        """A pickle is not opened."""
        path = retina(tmp_path / "retina.npz", train_labels=np.array([print] * 5, dtype=object))
        assert "holds a pickle, which could run code" in refused(path)

    def test_four_gigabytes_of_zeros(self, tmp_path: Path):
        path = tmp_path / "retina.npz"
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("train_images.npy", "w") as member,
        ):
            for _ in range(300):
                member.write(bytes(1 << 20))
        assert "holds more than 256 MB after decompression" in refused(path)

    def test_a_header_that_claims_a_terabyte(self, tmp_path: Path):
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000), }\n"
        data = b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header
        with zipfile.ZipFile(tmp_path / "retina.npz", "w") as archive:
            archive.writestr("train_images.npy", data)
        assert "is damaged" in refused(tmp_path / "retina.npz")

    def test_damaged(self, tmp_path: Path):
        whole = retina(tmp_path / "retina.npz").read_bytes()
        for cut in (0, 3, 100, len(whole) - 10):
            (tmp_path / "retina.npz").write_bytes(whole[:cut])
            assert "is damaged" in refused(tmp_path / "retina.npz")


def dicom(path: Path, seed: int, *, encoded: str = "", **header: Any) -> Path:
    """An ophthalmic photograph of 16 x 16 pixels; encoded: JPEG or JPEG2000."""
    pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from pydicom.encaps import encapsulate

    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
    syntaxes = {"": "1.2.840.10008.1.2.1", "JPEG": "1.2.840.10008.1.2.4.50", "JPEG2000": "1.2.840.10008.1.2.4.90"}
    meta.TransferSyntaxUID = pydicom.uid.UID(syntaxes[encoded])
    one = pydicom.dataset.Dataset()
    one.file_meta = meta
    one.SOPClassUID, one.SOPInstanceUID = meta.MediaStorageSOPClassUID, f"1.2.3.{seed}"
    one.PatientID, one.PatientName, one.ImageLaterality = f"id-{seed // 2}", MARK, "LR"[seed % 2]
    one.Rows = one.Columns = 16
    one.SamplesPerPixel, one.BitsAllocated, one.BitsStored, one.HighBit = 3, 8, 8, 7
    one.PixelRepresentation = one.PlanarConfiguration = 0
    one.PhotometricInterpretation = {"": "RGB", "JPEG": "YBR_FULL_422", "JPEG2000": "YBR_RCT"}[encoded]
    pixels = np.asarray(Image.open(io.BytesIO(picture(seed))))
    one.PixelData = encapsulate([picture(seed, encoded)]) if encoded else pixels.tobytes()
    if encoded:
        one["PixelData"].VR = "OB"
    for name, value in header.items():
        if value is None:
            delattr(one, name)
        else:
            setattr(one, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    one.save_as(path, enforce_file_format=True)
    return path


class TestDicom:
    def test_a_folder(self, tmp_path: Path, drgate: Run):
        """Grades by folder, eyes and patients by the header; pixels are the photograph's; no id is written."""
        for i, encoded in enumerate(("", "JPEG", "JPEG2000", "")):
            dicom(tmp_path / f"set/{i}/{i}.dcm", i, encoded=encoded)
        manifest = load_manifest(tmp_path / "set")
        assert manifest.table["grade"].tolist() == [0, 1, 2, 3]
        assert manifest.table["eye"].tolist() == ["L", "R", "L", "R"]
        assert manifest.table["patient"].tolist() == ["id-0", "id-0", "id-1", "id-1"]
        for i in (0, 2):
            shown = Image.open(manifest.path(manifest.table["image"].iloc[i])).convert("RGB")
            own = Image.open(io.BytesIO(picture(i, "PNG" if i == 0 else "JPEG2000")))
            assert np.array_equal(np.asarray(shown), np.asarray(own))
        ended = drgate("manifest", tmp_path / "set", "--out", tmp_path / "out/labels.csv")
        written = (tmp_path / "out/labels.csv").read_text()
        assert "id-" not in written + ended.out + ended.err
        assert MARK not in written + ended.out + ended.err
        here = manifest.images_digest()[7:15]
        patients = [f"{here}-{i}" for i in (1, 1, 2, 2)]  # a "1" would be the first patient of every other set
        assert load_manifest(tmp_path / "out").table["patient"].tolist() == patients

    def test_a_table(self, tmp_path: Path):
        dicom(tmp_path / "a/1.1.dcm", 0)
        assert grades(text(tmp_path / "t.csv", "image,grade\n1.1,2\n")) == {"a/1.1.ppm": 2}

    @pytest.mark.parametrize(
        ("header", "why"),
        [
            ({"PixelData": None}, "it has no pixels"),
            ({"NumberOfFrames": 3}, "it has several frames"),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.5.4"}, "it is no photograph by its header"),
            ({"PhotometricInterpretation": "MONOCHROME1"}, "its colours are in a form that is not read"),
            ({"Rows": 17}, "it cannot be read as DICOM"),
        ],
        ids=str,
    )
    def test_unusable(self, header: dict[str, Any], why: str, tmp_path: Path):
        dicom(tmp_path / "0/a.dcm", 0)
        dicom(tmp_path / "0/b.dcm", 1, **header)
        said = refused(tmp_path)
        assert f"b.dcm: {why}, in 1 of 2 rows" in said

    def test_damaged(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        """Nothing of a header is shown, wherever a file is cut off or changed."""
        whole = dicom(tmp_path / "0/a.dcm", 0, PatientID=MARK).read_bytes()
        for at in range(132, 700, 9):
            (tmp_path / "0/a.dcm").write_bytes(whole[:at] + b"\xff\x00" + whole[at + 2 :])
            with contextlib.suppress(DrgateError):
                load_manifest(tmp_path)
            (tmp_path / "0/a.dcm").write_bytes(whole[:at])
            assert MARK not in refused(tmp_path)
        assert MARK not in "".join(capfd.readouterr())

    def test_without_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM")
        monkeypatch.setitem(sys.modules, "pydicom", None)
        assert "which needs the extra dicom. Install it from a clone of drgate: pip install" in refused(tmp_path)

    def test_beside_other_photographs(self, tmp_path: Path):
        (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM")
        photograph(tmp_path / "b.png", 1)
        assert load_manifest(tmp_path).found.left_out == {"DICOM": ["a.dcm"]}
        said = refused(text(tmp_path / "t.csv", "image,grade\na.dcm,1\nb.png,2\n"))
        assert "1 of 2 images are DICOM and others are not; keep one kind" in said


class TestCommand:
    def test_what_is_wrong_is_all_shown(self, photographs: Write, drgate: Run):
        """Missing files, grades outside the scale and empty ones at once; nothing is written."""
        root = photographs("a.jpg", "b.jpg", "c.jpg", "d.jpg")
        table = text(root / "t.csv", "image,grade\na.jpg,0\nb.jpg,5\nc.jpg,\ngone.jpg,2\n")
        ended = drgate("manifest", table, "--out", root / "labels.csv")
        assert ended.code == 1
        for part in ("the grade is 5, in 1 of 4 rows", "1 of 4 image files are missing", "1 of 4 rows are so"):
            assert part in " ".join(ended.out.split())
        assert "images that the table does not name: 1 (d.jpg)" in ended.out
        assert "Nothing was written" in ended.err
        assert not (root / "labels.csv").exists()

    def test_the_canonical_form_is_the_same_manifest(self, photographs: Write, drgate: Run):
        root = photographs("train/anodr/1.png", "train/bmilddr/2.png", "test/anodr/3.png")
        before = load_manifest(root)
        assert drgate("manifest", root, "--out", root / "labels.csv").code == 0
        after = load_manifest(root)
        assert after.origin.name == "labels.csv"
        assert after.digest() == before.digest()
        assert "exists" in drgate("manifest", root, "--out", root / "labels.csv").err

    def test_pictures_become_files(self, tmp_path: Path, drgate: Run):
        path = hub(tmp_path / "t.parquet")
        before = load_manifest(path)
        assert drgate("manifest", path, "--out", tmp_path / "set/labels.csv").code == 0
        after = load_manifest(tmp_path / "set")
        assert after.images_digest() == before.images_digest()
        assert after.table["grade"].tolist() == before.table["grade"].tolist()
        (tmp_path / "set/labels.csv").unlink()
        assert "exists" in drgate("manifest", path, "--out", tmp_path / "set/labels.csv").err

    def test_images_that_are_elsewhere(self, photographs: Write, drgate: Run, tmp_path: Path):
        root = photographs("0/a.png")
        ended = drgate("manifest", root, "--out", tmp_path / "other/labels.csv")
        assert ended.code == 2
        assert f"write --out {root / 'labels.csv'}" in ended.err

    def test_nothing_is_left_behind(self, tmp_path: Path):
        """The private folder of pictures is deleted, also where the source is refused."""
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        for path in (hub(tmp_path / "t.parquet"), hub(tmp_path / "u.parquet", grade=[9] * 5)):
            command = [sys.executable, "-m", "drgate", "manifest", str(path)]
            subprocess.run(command, env={**os.environ, "TMPDIR": str(temporary)}, check=False, capture_output=True)
            assert list(temporary.iterdir()) == []

    def test_both_defects_of_eyepacs_as_found(self, real_data: Path, drgate: Run):
        ended = drgate("manifest", real_data / "eyepacs-full", "--format", "json")
        assert ended.code == 1
        assert json.loads(ended.out)["contradictions"] == [
            "3/17_right.jpeg and 4/16_right.jpeg are the same file, but graded 3 and 4, of 2 patients.",
            "1/17_right.jpeg and 3/17_right.jpeg have one name, but are graded 1 and 3.",
        ]

    def test_a_large_sound_set(self, real_data: Path, drgate: Run):
        plain = json.loads(drgate("manifest", real_data / "eyepacs-256", "--format", "json").out)
        assert plain["images"] == 5442
        assert plain["patients"] == 2722
        assert list(plain["splits"][""].values()) == [4001, 381, 822, 129, 109, 0, 0]
        assert plain["contradictions"] == plain["troubles"] == []


class TestSaid:
    """What is unlikely about the grades is said where it matters."""

    def test_on_page_one(self, write_csv: Write, drgate: Run, tmp_path: Path):
        """D5: a model of binary labels is not judged as one of no DR and mild NPDR without a question."""
        rows = [{"image": f"{i}.png", "patient": i, "grade": i % 2, "predicted": i % 2} for i in range(40)]
        ended = drgate("evaluate", write_csv(rows), "--spec", "smoke", "--out", tmp_path / "report")
        assert "Only grades 0 and 1 occur: is this a binary label?" in " ".join(ended.out.split())

    def test_before_training(self, photographs: Write):
        from drgate.errors import TrainingError

        data = pytest.importorskip("trainer.data", reason="the extra train is not installed")
        root = photographs(
            *(f"{split}/{grade}/{i}.png" for split in ("train", "val") for grade in "01" for i in range(2))
        )
        with pytest.raises(TrainingError, match=r"Only grades 0 and 1 occur: is this a binary label\?"):
            data.load_splits(str(root), seed=0)

    def test_plans_for_every_source(self, tmp_path: Path, photographs: Write, drgate: Run):
        """`plan --data` reads what `manifest` reads."""
        root = photographs("a.jpg", "b.jpg")
        bare = text(root / "bare.csv", "a.jpg 0\nb.jpg 4\n")
        for source in (
            hub(tmp_path / "t.parquet"),
            retina(tmp_path / "retina.npz"),
            (bare, "--columns", "image=1,grade=2"),
        ):
            given = source if isinstance(source, tuple) else (source,)
            assert drgate("plan", "smoke", "--data", *given).code in (0, 1)


def sources(root: Path) -> dict[str, Path]:
    """Sound sources of each kind with the marker in every cell that may name a patient."""
    for name in ("a.jpg", "b.jpg"):
        photograph(root / "images" / name, seed=ord(name[0]))
    tables = {
        "own": f"image,grade,patient,note\na.jpg,0,{MARK},{MARK}\nb.jpg,{{}},{MARK},{MARK}\n",
        "aptos": f"id_code,diagnosis,patient,{MARK}\na,0,{MARK},1\nb,{{}},{MARK},2\n",
        "mbrset": "patient,file,laterality,final_icdr,age\n"
        f"{MARK},a.jpg,left,0,{MARK}\n{MARK},b.jpg,right,{{}},{MARK}\n",
        "brset": f"image_id,patient_id,exam_eye,DR_ICDR,quality\na,{MARK},1,0,Adequate\nb,{MARK},2,{{}},Adequate\n",
        "deepdrid": "patient_id,image_path,left_eye_DR_Level,right_eye_DR_Level,name\n"
        f"{MARK},a.jpg,0,,{MARK}\n{MARK},b.jpg,,{{}},{MARK}\n",
        "no header": f"{MARK},x.jpg,0\n{MARK},b.jpg,{{}}\n",
        "names": f"image,grade,patient\n{MARK},0,1\n{MARK}.jpg,{{}},1\n",
        "outside": f"image,grade,patient\n../{MARK},0,1\ns3://{MARK}.jpg,{{}},1\n",
        "unknown": f"{MARK},name,level\n{MARK},a,0\n{MARK},b,{{}}\n",
    }
    return {name: text(root / f"{name}.csv", content) for name, content in tables.items()}


@pytest.mark.parametrize("fault", ["1", "5", "", "7", MARK, "ungradable", "1.5"])
def test_no_patient_is_in_any_message(fault: str, tmp_path: Path, drgate: Run):
    """Cells, patients and unknown header cells never reach output or errors, whatever is wrong in the grade's cell."""
    for name, path in sources(tmp_path).items():
        path.write_text(path.read_text().format(fault))
        for command in (["manifest"], ["manifest", "--format", "json"], ["plan", "--data"]):
            ended = drgate(*command, path)
            assert MARK not in ended.out + ended.err, (name, command)
    for values in ([0, 1], [0, 9]):
        path = hub(tmp_path / "p.parquet", (0, 1), patient=[MARK, MARK], grade=values)
        ended = drgate("manifest", path)
        assert MARK not in ended.out + ended.err
        assert "PNG" not in ended.out + ended.err


class TestFoldersOfPatients:
    """Folders 0 to 4 may be numbers of patients."""

    @staticmethod
    def photographs_of(root: Path, *patients: str) -> None:
        for patient in patients:
            for eye in ("l", "r"):
                path = root / patient / f"{patient}_{eye}.png"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(picture(ord(eye) + int(patient)))

    def test_another_grade_in_a_table(self, tmp_path: Path):
        """A table in the folder that grades the same images otherwise is no coincidence: nothing is read."""
        self.photographs_of(tmp_path, "1", "2")
        rows = [f"{patient}/{patient}_{eye}.png,{grade}" for patient, grade in (("1", 3), ("2", 2)) for eye in "lr"]
        (tmp_path / "grades.csv").write_text("\n".join(["image,grade", *rows]))
        with pytest.raises(ManifestError, match=r"folders give 2 of 4 images other grades than .*grades\.csv"):
            load_manifest(tmp_path)
        assert list(load_manifest(tmp_path / "grades.csv").table["grade"]) == [3, 3, 2, 2]

    def test_the_same_grades_in_a_table(self, tmp_path: Path):
        self.photographs_of(tmp_path, "1", "2")
        (tmp_path / "grades.csv").write_text("image,grade\n1/1_l.png,1\n2/2_r.png,2\n")
        assert len(load_manifest(tmp_path)) == 4

    def test_names_that_begin_with_their_folders(self, tmp_path: Path):
        """Nothing contradicts it, so it is asked."""
        self.photographs_of(tmp_path, "1", "2")
        assert any("or patients?" in one for one in load_manifest(tmp_path).doubts())
        (tmp_path / "2" / "other.png").write_bytes(picture(9))
        assert not any("or patients?" in one for one in load_manifest(tmp_path).doubts())


class TestMapped:
    def test_eyepacs_names_keep_their_patients(self, tmp_path: Path):
        """A mapping of columns loses no patients that the names have."""
        for name in ("10_left", "10_right", "11_left"):
            (tmp_path / f"{name}.png").write_bytes(picture(len(name)))
        (tmp_path / "labels.csv").write_text("image,level\n10_left,0\n10_right,1\n11_left,0\n")
        manifest = load_manifest(tmp_path, columns=parse_mapping("image=image,referable=level"))
        assert manifest.table["patient"].tolist() == ["10", "10", "11"]
        assert manifest.table["eye"].tolist() == ["L", "R", "L"]

    def test_numbers_need_no_quotes(self, tmp_path: Path):
        """DDR's file of columns as people write it."""
        (tmp_path / "columns.yaml").write_text("columns: {image: 1, grade: 2}\ngrades: {5: ungradable}\n")
        mapping = parse_mapping(str(tmp_path / "columns.yaml"))
        assert mapping.columns == {"image": "1", "grade": "2"}
        assert mapping.grades == {"5": "ungradable"}
        (tmp_path / "columns.yaml").write_text("columns: {image: true}\n")
        with pytest.raises(UsageError, match="names by name"):
            parse_mapping(str(tmp_path / "columns.yaml"))
