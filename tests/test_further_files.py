"""Further files of the kinds in docs/field-cases.md: each is read rightly, or one sentence says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from drgate.checklist import load_checklist
from drgate.columns import usual_names
from drgate.errors import ManifestError, PredictionsError
from drgate.grades import join_grades
from drgate.manifest import load_manifest
from drgate.mapping import for_several, parse_mapping
from drgate.plan import plan
from drgate.predictions import PROBABILITIES, load_predictions, planned
from drgate.preprocessing import field_of_view
from tests.support.material import Ended

Run = Callable[..., Ended]
Write = Callable[..., Path]
P = list(PROBABILITIES)


def answers() -> pd.DataFrame:
    shares = np.random.default_rng(2).dirichlet(np.ones(5), 12)
    table = pd.DataFrame({"image": [f"{i}_left.png" for i in range(12)], "patient": [f"a{i}" for i in range(12)]})
    return table.assign(eye="left", grade=[i % 5 for i in range(12)], **dict(zip(P, shares.T, strict=True)))


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def refused(path: Path, **how: Any) -> str:
    with pytest.raises(PredictionsError) as error:
        load_predictions(path, **how)
    return str(error.value)


class TestExports:
    """Tables as programs write them."""

    @pytest.mark.parametrize("orient", ["columns", "records", "split", "table", "lists"])
    def test_json_as_pandas_writes_it(self, orient: Any, tmp_path: Path):
        table = answers()
        written = (
            json.dumps(table.to_dict("list"))
            if orient == "lists"
            else table.to_json(orient=orient, double_precision=15)
        )
        found = load_predictions(text(tmp_path / "t.json", written)).table.set_index("image")
        np.testing.assert_allclose(found.loc[table["image"], P].to_numpy(float), table[P], atol=1e-14)

    @pytest.mark.parametrize(
        ("names", "found"),
        [
            ([f"predicted_proba_{k}" for k in range(5)], P),
            ([f"X{k}" for k in range(5)], P),
            (["IMAGE", "GRADE", "EYE", "P_0", "P_1", "P_2", "P_3", "P_4"], ["image", "grade", "eye", *P]),
            (["fname", *"01234"], ["image", *P]),
            (["Actual", "Predicted"], ["grade", "predicted"]),
            (["image", "top1", "orig_label"], ["predicted", "grade"]),
        ],
        ids=str,
    )
    def test_names_of_azure_r_fastai_and_others(self, names: list[str], found: list[str]):
        """A mapping is proposed for each."""
        assert {*usual_names(names, ("image", "grade", "predicted", *P, "eye"))} == {*found}

    def test_a_saved_index_of_a_saved_index(self, tmp_path: Path):
        """EyePACS' `Unnamed: 0.1`."""
        answers().assign(**{"Unnamed: 0.1": range(5, 17)}).to_csv(tmp_path / "t.csv")
        assert load_predictions(tmp_path / "t.csv").slice_columns == []

    def test_logits_beside_probabilities(self, tmp_path: Path):
        """What looks like other probabilities hinders no dry run and no plan."""
        logits = {f"logit_{k}": np.log(answers()[f"p_{k}"]) for k in range(5)}
        answers().assign(**logits).to_csv(tmp_path / "t.csv", index=False)
        found = load_predictions(tmp_path / "t.csv")
        assert plan(load_checklist("smoke"), data=planned(found.table, "t.csv")).lines

    def test_what_was_recognised_is_in_the_dry_run(self, tmp_path: Path, drgate: Run):
        """Scale, columns that nothing uses and a label that seems binary are known before the look is taken."""
        table = answers().assign(grade=lambda one: one["grade"] % 2, prob_2=0.25)
        table[P] = np.log(table[P])
        table.to_csv(tmp_path / "t.csv", index=False)
        said = " ".join(drgate("evaluate", tmp_path / "t.csv", "--spec", "smoke", "--dry-run").out.split())
        for part in ("p_0 to p_4 are logits", "are not used: prob_2", "Only grades 0 and 1 occur"):
            assert part in said

    def test_a_submission_to_kaggle(self, tmp_path: Path):
        """`diagnosis` may be the model's answer; in the reference the same name is another thing."""
        path = text(tmp_path / "submission.csv", "id_code,diagnosis\na,0\nb,2\n")
        assert "give predicted=diagnosis in place of grade=diagnosis" in refused(path)
        stated = parse_mapping("image=id_code,predicted=diagnosis")
        bare = load_predictions(path, columns=for_several(stated))
        with pytest.raises(PredictionsError, match="Give that column the name grade in this file"):
            join_grades(bare, path, for_several(stated))

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("0.9,0.05,0.03,0.015,0.005\n0.8,0.1,0.05,0.03,0.02\n", "has no header line: its first line is a row"),
            ("2,0.97\n0,0.98\n", "has no header line: its first line is a row"),
            ("Bild;Befund\na;0\n", "give --columns image=NAME,grade=NAME and so on"),
            ("# model 3\nimage,grade,predicted\na,0,0\n", "Put the names of all columns into the first line"),
            ("Model 3\n\nimage,grade,predicted\na,0,0\n", "line 2: the row is empty. The names of the columns belong"),
            ("\n\nimage,grade,predicted\na,0,0\n", "has no names of columns in its first line"),
            ("sep=;\nimage;grade;predicted\na;0;0\n", "its first line is a hint to Excel"),
            ("image,grade,predicted\n\na,0,0\n\nb,0,0\n", "line 2: the row is empty"),
            (",softmax,softmax\nimage,0,1\n", "keep one, and one line of names above the rows"),
            (
                '{"image": "a", "probs": [0.1, 0.9]}\n{"image": "b", "probs": []}\n',
                "give each number a column of its own",
            ),
            ("image,grade,predicted\na,0,1.37\nb,3,2.4\n", "a severity: --columns severity=NAME"),
            ("image,grade,predicted\na,II,1\nb,IV,2\nc,0,0\n", '2 of 3 rows are so; .* grades: {"WORD": ungradable}'),
            ("image,p_1,p_2,p_3,p_4,p_5\na,1,0,0,0,0\n", "say which is which: --columns p_0=NAME"),
            ("image,grade,predicted,eye\na,0,0,1\n", r"expected L or R \(also left, right, OS, OD\)"),
            ("image,grade,p_0,p_1,p_2,p_3,p_4\na,0,NA,NA,NA,NA,NA\n", "expected a number or an empty cell"),
        ],
    )
    def test_what_to_do_is_said(self, content: str, said: str, tmp_path: Path):
        with pytest.raises(PredictionsError, match=said):
            load_predictions(text(tmp_path / "t.csv", content))

    @pytest.mark.parametrize(
        "words", ["links rechts", "LE RE", "OS OD", "gauche droit", "OI OD", "left right"], ids=str
    )
    def test_eyes_in_other_words(self, words: str, tmp_path: Path):
        left, right = words.split()
        path = text(tmp_path / "t.csv", f"image,grade,predicted,eye\na,0,0,{left}\nb,0,0,{right}\n")
        assert load_predictions(path).table["eye"].tolist() == ["L", "R"]


class TestDataSets:
    """Label files beside their photographs."""

    def manifest(self, path: Path, **how: Any) -> dict[str, int]:
        table = load_manifest(path, **how).table
        return dict(zip(table["image"], table["grade"], strict=True))

    def wrong(self, path: Path) -> str:
        with pytest.raises(ManifestError) as error:
            load_manifest(path)
        return str(error.value)

    def test_paths_that_begin_with_the_tables_own_folder(self, photographs: Write):
        """DeepDRiD's table lies in the folder with which its paths begin."""
        root = photographs("Images/1/1_l1.jpg", "other/1_l1.jpg", folder="regular-fundus-training")
        table = text(root / "t.csv", "image,grade\n\\regular-fundus-training\\Images\\1\\1_l1.jpg,3\n")
        assert self.manifest(table) == {"Images/1/1_l1.jpg": 3}
        assert "not in" in self.wrong(text(root / "u.csv", "image,grade\nx/Images/1/1_l1.jpg,3\n"))

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("IMAGE,Grade\na.jpg,0\n", "Is it --columns image=IMAGE,grade=Grade?"),
            ("Image Name,DR level\na.jpg,0\n", "Is it --columns 'image=Image Name,grade=DR level'?"),
            (
                "Image Name,DR_grade_International_Clinical_DR_Severity_Scale\na.jpg,0\n",
                "grade=DR_grade_International_Clinical_DR_Severity_Scale'?",
            ),
            ("Bild;Befund\na;0\n", "If they have other names, give --columns image=NAME,grade=NAME."),
            ("ID,Left-Fundus,Right-Fundus\n0,a.jpg,b.jpg\n", "name several images each: write one row for each image."),
            ("image,grade\nA,0\n", "There is a.jpg: if it is the same photograph, write that name."),
            ("image,grade\n1,0\n", "There is 0001.jpg: if it is the same photograph, write that name."),
            ("image,grade\n01-Feb,0\n", "made dates or numbers of the names: import them as text."),
            ("image,grade\n1E+12,0\n", "made dates or numbers of the names: import them as text."),
        ],
    )
    def test_what_to_do_is_said(self, content: str, said: str, photographs: Write):
        """SUSTech-SYSU, ODIR, German headers, names in capitals, and what spreadsheets do to names."""
        root = photographs("a.jpg", "0001.jpg")
        assert said in self.wrong(text(root / "t.csv", content))

    def test_broken_links(self, photographs: Write):
        """As git-annex leaves them: an image is refused by its name, other files are counted."""
        root = photographs("0/a.png")
        (root / "0/b").symlink_to("nowhere")
        assert load_manifest(root).found.left_out == {"a broken link": ["0/b"]}  # type: ignore[union-attr]
        (root / "0/b.png").symlink_to("nowhere")
        said = self.wrong(root)
        assert f"{root}/0/b.png: the image file is not in" in said
        assert said.endswith("It is a link to a file that is not there.")

    def test_files_that_are_no_photographs(self, photographs: Write, drgate: Run):
        """`drgate manifest` names them with what they are; they cannot be used."""
        root = photographs("0/a.png", "1/b.png", "2/c.ppm")
        text(root / "0/page.jpg", "404 not found")
        text(root / "0/empty.jpg", "")
        (root / "1/phone.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
        ended = drgate("manifest", root)
        said = " ".join(ended.out.split())
        assert ended.code == 1
        for name, what in (("0/page", "text"), ("0/empty", "empty"), ("1/phone", "a HEIC picture or a film")):
            assert f"{name}.jpg: no photograph by its content ({what}), in 1 of 6 rows." in said

    def test_names_with_a_dot_before_them(self, photographs: Write, drgate: Run):
        """`./a.jpg` is a.jpg, and is not said to be left out."""
        root = photographs("a.jpg")
        assert "Left out" not in drgate("manifest", text(root / "t.csv", "image,grade\n./a.jpg,0\n")).out

    @pytest.mark.parametrize(
        ("head", "said"),
        [
            (b"$FL2@(#) SPSS DATA FILE", "an SPSS file (save it as CSV)"),
            (b"<stata_dta><header><release>118", "a Stata file (save it as CSV)"),
            (b"\0" * 12 + b"\xc2\xea\x81\x60", "a SAS file (save it as CSV)"),
            (b"RDX3\nX\n", "a file of R (save it with write.csv)"),
            (b"MATLAB 5.0 MAT-file", "a MATLAB file (save it as CSV)"),
            (
                b"PK\x03\x04" + bytes(26) + b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet",
                "an OpenDocument file",
            ),
        ],
        ids=str,
    )
    def test_files_of_other_programs_are_named(self, head: bytes, said: str, tmp_path: Path):
        (tmp_path / "t.csv").write_bytes(head + bytes(64))
        assert said in self.wrong(tmp_path / "t.csv")


def test_the_field_of_view_from_its_words_alone():
    """N2: a script written from the description of `field_of_view_1` finds the same box."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        height, width = (int(side) for side in rng.integers(300, 1300, 2))
        y, x = np.ogrid[:height, :width]
        lit = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (rng.uniform(0.2, 0.5) * max(height, width)) ** 2
        pixels = (rng.integers(60, 255, (height, width, 3)) * lit[..., None] + rng.integers(0, 6)).clip(0, 255)
        step = max(1, max(height, width) // 512)
        corners = [[(top, left) for left in range(0, width, step)] for top in range(0, height, step)]
        means = [[pixels[t : t + step, u : u + step].mean((0, 1)) for t, u in row] for row in corners]
        brightness = np.floor(np.array(means) + 0.5).max(2)
        above = brightness > max(8, 0.08 * np.quantile(brightness, 0.9))
        box: list[int] = []
        for axis, length in ((0, width), (1, height)):
            counts = np.flatnonzero(above.mean(axis) >= 0.02)
            few = len(counts) < above.shape[1 - axis] / 8
            box += [0, length] if few else [counts[0] * step, min((counts[-1] + 1) * step, length)]
        found = field_of_view(Image.fromarray(pixels.astype(np.uint8)))
        assert found == (box[0], box[2], box[1], box[3]), seed
