"""Tables of predictions: what is refused, and one digest whatever the file format or row order."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgate.checklist import parse_yaml
from drgate.errors import PredictionsError
from drgate.predictions import (
    COLUMNS,
    Predictions,
    content_keys,
    load_predictions,
    make_predictions,
    published,
    published_names,
    read_provenance,
    write_predictions,
)

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
    "do not sum to 1": ({"p_2": "0.7"}, "do not sum to 1 within 0.001"),
    "a literal nan": ({"p_2": "nan"}, "nan or inf"),
    "a literal inf": ({"p_2": "inf"}, "nan or inf"),
    "a word": ({"p_2": "high"}, "p_2 cannot be read; expected a number"),
    "negative": ({"p_1": "-0.1", "p_2": "0.8"}, "one of p_0 to p_4 is outside; expected a fraction from 0 to 1"),
    "some are empty": ({"p_1": ""}, "give all five or none"),
    "grade 7": ({"grade": "7"}, "grade cannot be read; expected an ICDR grade, 0-4 or a name"),
    "duplicate image": ({"image": "first.png"}, "this image is in .*line 2 already; expected one row per image"),
    "predicted is not the most probable": ({"predicted": "1"}, "give them with --operating-point"),
    "predicted is empty beside probabilities": ({"predicted": ""}, "predicted is empty"),
    "predicted is no grade": ({"predicted": "9"}, "predicted cannot be read; expected an ICDR grade"),
    "oedema is neither": ({"dme": "2"}, "dme cannot be read; expected 0, 1 or an empty cell"),
    "a file digest that is none": ({"sha256": "abc"}, "expected the 64 hex digits"),
}


@pytest.mark.parametrize("defect", REFUSED, ids=str)
def test_defects_are_refused_with_their_row(defect: str, write_csv: Write):
    """Every defect of a row is one sentence with file and line."""
    change, sentence = REFUSED[defect]
    first = {**SOUND, "image": "first.png"}
    first |= {name: good for name, good in (("predicted", "2"), ("dme", "0"), ("sha256", "0" * 64)) if name in change}
    path = write_csv([first, SOUND | change])
    with pytest.raises(PredictionsError, match=sentence) as error:
        load_predictions(path)
    assert f"{path}, line 3" in str(error.value)


def test_four_classes_are_refused(write_csv: Write):
    with pytest.raises(PredictionsError, match="one for each of the five"):
        load_predictions(write_csv([{key: value for key, value in SOUND.items() if key != "p_4"}]))


def test_nan_in_parquet_is_not_an_empty_cell(tmp_path: Path):
    """Parquet tells an absent cell from a NaN; only the first means that the model gave no output."""
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


class TestHonestTables:
    def test_patients_are_namespaced_once(self, write_csv: Write, tmp_path: Path):
        """A table with a source column that is written and read back is the same table."""
        first = load_predictions(write_csv([SOUND | {"source": "site-a"}]))
        assert first.table["patient"].tolist() == ["site-a:1"]
        write_predictions(first, tmp_path / "again.parquet")
        assert load_predictions(tmp_path / "again.parquet").digest == first.digest

    @pytest.mark.parametrize("cell", ["None", "nan", "NULL"])
    def test_what_programs_write_for_nothing_is_no_grade(self, cell: str, write_csv: Write):
        """`None` is not "No DR"."""
        with pytest.raises(PredictionsError, match="expected an ICDR grade"):
            load_predictions(write_csv([SOUND | {"grade": cell}]))

    def test_nor_is_it_a_patient(self, write_csv: Write):
        with pytest.raises(PredictionsError, match="is a word for a missing value"):
            load_predictions(write_csv([SOUND | {"patient": "nan"}]))

    def test_numeric_patients_of_parquet_are_those_of_csv(self, write_csv: Write, tmp_path: Path):
        """Parquet keeps 10 as 10.0 where a column had gaps; it is the same patient."""
        pd.DataFrame([{"image": "a", "grade": 0, "predicted": 0, "patient": 10.0}]).to_parquet(tmp_path / "p.parquet")
        table = write_csv([{"image": "a", "grade": 0, "predicted": 0, "patient": 10}])
        assert load_predictions(table).digest == load_predictions(tmp_path / "p.parquet").digest

    def test_repeated_column(self, tmp_path: Path):
        (tmp_path / "t.csv").write_text("image,grade,predicted,grade\na,0,0,1\n")
        with pytest.raises(PredictionsError, match="columns 2 and 4 have the same name"):
            load_predictions(tmp_path / "t.csv")

    def test_spelling_of_the_eye_does_not_matter(self, write_csv: Write):
        rows = [SOUND | {"image": name, "eye": eye} for name, eye in (("a", "L"), ("b", "left"), ("c", "OS"))]
        assert set(load_predictions(write_csv(rows)).table["eye"]) == {"L"}

    def test_a_scored_table_that_was_edited_speaks_of_no_model(self, tmp_path: Path):
        """The model's digests stay in a Parquet file that somebody edits; its rows no longer match them."""
        table = pd.DataFrame([{"image": "a", "grade": 0, "predicted": 1}, {"image": "b", "grade": 1, "predicted": 1}])
        write_predictions(make_predictions(table, "t", {"model": {"name": "m"}}), tmp_path / "p.parquet")
        assert load_predictions(tmp_path / "p.parquet").provenance == {"model": {"name": "m"}}
        arrow = pq.read_table(tmp_path / "p.parquet")
        edited = arrow.set_column(arrow.schema.get_field_index("predicted"), "predicted", pa.array([0, 1], pa.int8()))
        pq.write_table(edited, tmp_path / "p.parquet")
        with pytest.raises(PredictionsError, match="was changed after"):
            load_predictions(tmp_path / "p.parquet")


class TestOptionalColumns:
    ROWS = (("yes", 1), ("TRUE", 1), ("1.0", 1), ("no", 0), ("false", 0), ("0", 0), ("", None))

    def test_macular_oedema(self, write_csv: Write, tmp_path: Path):
        """0, 1 or not known, however it is spelt; the same in Parquet, and part of the digest."""
        table = load_predictions(
            write_csv([SOUND | {"image": str(i), "dme": cell} for i, (cell, _) in enumerate(self.ROWS)])
        )
        given = [None if pd.isna(value) else int(value) for value in table.table["dme"]]
        assert given == [value for _, value in self.ROWS]
        write_predictions(table, tmp_path / "p.parquet")
        assert load_predictions(tmp_path / "p.parquet").digest == table.digest
        other = make_predictions(table.table.assign(dme=0), "t", {})
        assert other.digest != table.digest

    def test_slices_are_the_rest(self, write_csv: Write):
        """Neither the file digest nor oedema is a column to slice by."""
        extra = {"sha256": "AB" * 32, "dme": "1", "site": "a", "camera": "X", "source": "s"}
        table = load_predictions(write_csv([SOUND | extra]))
        assert table.slice_columns == ["camera", "site", "source"]
        assert table.table["sha256"].tolist() == ["ab" * 32]

    def test_they_are_not_added(self, write_csv: Write):
        """An absent column is not an empty one, so that older tables keep their digest."""
        assert load_predictions(write_csv([SOUND])).table.columns[-1] == "predicted"


SLICED = parse_yaml(
    b"""name: own
version: 1
purpose: pipeline
evidence: {decide_on: point}
bootstrap: {resamples: 1000}
slices: [{by: camera}, {by: source}]
criteria: [{id: accuracy, at_least: 0.5}]
""",
    "own",
)


def own_table(files: list[int | None], **columns: object) -> Predictions:
    """Rows with own names, of files with these numbers (None: not known)."""
    digests = [None if file is None else hashlib.sha256(str(file).encode()).hexdigest() for file in files]
    names = [f"MRN-{4711 + 7 * i % 5}-{i:03}" for i in range(len(files))]
    rows = pd.DataFrame({"image": names, "sha256": pd.array(digests, dtype="str"), "grade": 1, "predicted": 1})
    return make_predictions(rows.assign(**columns), "own.csv", {"model": {}})


class TestPublished:
    """What leaves the house: names by content, patients by number, and no column that nobody uses."""

    @given(st.lists(st.one_of(st.none(), st.integers(0, 30)), min_size=1, max_size=130))
    def test_a_published_table_stays_as_it_is(self, files: list[int | None]):
        """Whatever is known of the files, with copies among them: names are unique and sorted, and say it."""
        table = own_table(files, patient=[f"p{i % 7}" for i in range(len(files))])
        once = published(table)
        assert published(once).table.equals(once.table)
        assert once.digest == published(make_predictions(table.table.sample(frac=1, random_state=1), "t", {})).digest
        names = once.table["image"].tolist()
        assert names == sorted(set(names))
        keys = Counter(content_keys(once.table))
        assert keys == Counter(content_keys(table.table))
        rows = [name for name in names if name.startswith("row-")]
        assert [int(name.removeprefix("row-")) for name in rows] == list(range(1, keys[None] + 1))
        expected = {hashlib.sha256(str(file).encode()).hexdigest()[:16] for file in files if file is not None}
        assert {name[:16] for name in names if name not in rows} == expected

    def test_rows_keep_the_order_of_their_own_names(self):
        """So that whoever has the list can find the row."""
        table = own_table([None] * 12)
        assert published_names(table.table) == [f"row-{i:02}" for i in range(1, 13)]

    def test_patients_are_numbered_by_their_first_image(self):
        """One number a patient, in the order of the published images."""
        table = own_table(list(range(9)), patient=[f"Mustermann {i // 3}" for i in range(9)])
        public = published(table).table
        own = table.table.set_axis(published_names(table.table)).loc[public["image"], "patient"].tolist()
        assert public["patient"].tolist() == [str(1 + list(dict.fromkeys(own)).index(name)) for name in own]

    def test_only_what_the_checklist_uses_is_there(self, tmp_path: Path):
        """Slices and macular oedema stay; a source before each patient's number, as in every table with sources."""
        more = {"dme": 0, "camera": "A", "source": "site-b", "remark": "born 1949", "patient": "Mustermann"}
        table = own_table([1, 2], **more)
        public = published(table, SLICED)
        assert set(public.table.columns) == {*COLUMNS, "dme", "camera", "source"}
        assert set(public.table["patient"]) == {"site-b:1"}
        assert set(published(table).table.columns) == {*COLUMNS, "dme"}
        write_predictions(public, tmp_path / "p.parquet")
        again = load_predictions(tmp_path / "p.parquet")
        assert again.digest == public.digest
        assert published(again, SLICED).table.equals(public.table)

    def test_a_baseline_is_found_whatever_was_sliced(self, tmp_path: Path):
        """A table says its digest as a baseline, the same for the own and the published table."""
        table = own_table([1, 2], camera="A", patient=["a", "b"])
        for i, one in enumerate((table, published(table, SLICED), published(table))):
            write_predictions(one, tmp_path / f"{i}.parquet")
            assert read_provenance(tmp_path / f"{i}.parquet")["as_baseline"] == published(table).digest
