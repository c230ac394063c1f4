"""Further files of the kinds in docs/field-cases.md: each is read rightly, or one sentence says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from drgate.checklist import load_checklist
from drgate.columns import usual_names
from drgate.errors import PredictionsError
from drgate.grades import join_grades
from drgate.mapping import parse_mapping
from drgate.plan import plan
from drgate.predictions import PROBABILITIES, load_predictions, planned
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

    def test_a_submission_to_kaggle(self, tmp_path: Path):
        """`diagnosis` may be the model's answer; in the reference the same name is another thing."""
        path = text(tmp_path / "submission.csv", "id_code,diagnosis\na,0\nb,2\n")
        assert "give predicted=diagnosis in place of grade=diagnosis" in refused(path)
        stated = parse_mapping("image=id_code,predicted=diagnosis")
        bare = load_predictions(path, columns=stated, partly=True)
        with pytest.raises(PredictionsError, match="Give that column the name grade in this file"):
            join_grades(bare, path, stated)

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
