"""Tables of predictions: what is refused, and one digest whatever the file format or row order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from drgate.errors import PredictionsError
from drgate.predictions import load_predictions, write_predictions

Write = Callable[..., Path]
SOUND = {
    "image": "a.png",
    "patient": "1",
    "grade": "2",
    "p_0": "0.1",
    "p_1": "0.1",
    "p_2": "0.6",
    "p_3": "0.1",
    "p_4": "0.1",
}

REFUSED = {
    "do not sum to 1": ({"p_2": "0.7"}, "sum to 1.1; expected 1"),
    "a literal nan": ({"p_2": "nan"}, "nan or inf"),
    "a literal inf": ({"p_2": "inf"}, "nan or inf"),
    "a word": ({"p_2": "high"}, "p_2 is 'high'"),
    "negative": ({"p_1": "-0.1", "p_2": "0.8"}, "outside 0 to 1"),
    "some are empty": ({"p_1": ""}, "give all five or none"),
    "grade 7": ({"grade": "7"}, "grade '7'"),
    "duplicate image": ({"image": "first.png"}, "'first.png' occurs twice"),
    "predicted is not the most probable": ({"predicted": "1"}, "need an operating-point file"),
    "predicted is empty beside probabilities": ({"predicted": ""}, "predicted is empty"),
    "predicted is no grade": ({"predicted": "9"}, "grade '9'"),
}  # fmt: skip


@pytest.mark.parametrize("defect", REFUSED, ids=str)
def test_defects_are_refused_with_their_row(defect: str, write_csv: Write):
    """Every defect of a row is one sentence with file and line."""
    change, sentence = REFUSED[defect]
    first = {**SOUND, "image": "first.png"}
    if "predicted" in change:
        first["predicted"] = "2"
    path = write_csv([first, SOUND | change])
    with pytest.raises(PredictionsError, match=sentence) as error:
        load_predictions(path)
    assert f"{path}, line 3" in str(error.value)


def test_four_classes_are_refused(write_csv: Write):
    with pytest.raises(PredictionsError, match="one for each of the five"):
        load_predictions(write_csv([{key: value for key, value in SOUND.items() if key != "p_4"}]))


def test_nan_in_parquet_is_not_an_empty_cell(tmp_path: Path):
    """Parquet tells an absent cell from a NaN; only the first means that the model gave no output."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"image": ["a", "b"], "grade": [0, 1]} | {f"p_{j}": [0.2, None] for j in range(5)}
    pq.write_table(pa.table(columns), tmp_path / "empty.parquet")
    assert load_predictions(tmp_path / "empty.parquet").table["predicted"].isna().tolist() == [False, True]
    columns["p_3"] = [0.2, float("nan")]
    pq.write_table(pa.table(columns), tmp_path / "nan.parquet")
    with pytest.raises(PredictionsError, match="row 2: p_3 is NaN"):
        load_predictions(tmp_path / "nan.parquet")


def test_row_without_any_answer_is_no_output(write_csv: Write):
    silent = SOUND | {"image": "b.png", **dict.fromkeys(("p_0", "p_1", "p_2", "p_3", "p_4"), "")}
    assert load_predictions(write_csv([SOUND, silent])).table["predicted"].isna().tolist() == [False, True]


def test_ties_go_to_the_lower_grade(write_csv: Write):
    tie = SOUND | {"p_1": "0.35", "p_2": "0.35"}
    assert load_predictions(write_csv([tie])).table["predicted"].tolist() == [1]


class TestDigest:
    @pytest.fixture
    def table(self) -> pd.DataFrame:
        rng = np.random.default_rng(5)
        probabilities = rng.dirichlet(np.ones(5), 50)
        table = pd.DataFrame(probabilities, columns=[f"p_{j}" for j in range(5)])
        return table.assign(image=[f"{i}.png" for i in range(50)], grade=rng.integers(0, 5, 50), camera="X")

    def test_format_and_order_do_not_matter(self, table: pd.DataFrame, tmp_path: Path):
        """CSV, Parquet, and any order of rows and columns of the same table have one digest."""
        table.to_csv(tmp_path / "a.csv", index=False)
        table.sample(frac=1, random_state=1)[table.columns[::-1]].to_parquet(tmp_path / "b.parquet")
        first = load_predictions(tmp_path / "a.csv")
        write_predictions(first, tmp_path / "c.parquet")
        assert len({load_predictions(tmp_path / name).digest for name in ("a.csv", "b.parquet", "c.parquet")}) == 1

    def test_one_changed_bit_matters(self, table: pd.DataFrame, tmp_path: Path):
        table.to_csv(tmp_path / "a.csv", index=False)
        before = load_predictions(tmp_path / "a.csv").digest
        table.loc[17, "p_2"] = np.nextafter(table.loc[17, "p_2"], 1)
        table.to_csv(tmp_path / "a.csv", index=False)
        assert load_predictions(tmp_path / "a.csv").digest != before
