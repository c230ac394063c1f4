"""Tables as people have them: any container, any names of columns, any scale; nothing is guessed in silence."""

from __future__ import annotations

import io
import json
import re
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from drgate.checklist import load_checklist
from drgate.columns import usual_names
from drgate.errors import DrgateError, PredictionsError, UsageError
from drgate.grades import join_grades
from drgate.looks import Log
from drgate.mapping import PLAIN, ColumnMap, column_map, for_several, parse_mapping, recorded
from drgate.predictions import load_predictions
from drgate.tables import read_table
from tests.support.material import Ended

Run = Callable[..., Ended]

P = ["p_0", "p_1", "p_2", "p_3", "p_4"]
MARK = "Zq7 Vanderbilt-Oyelaran"
"""A person's name, put wherever a table has a place for it."""


def answers(n: int = 60, seed: int = 0) -> pd.DataFrame:
    """Rows with distinct probabilities, of which two digits leave every decision as it is."""
    rng = np.random.default_rng(seed)
    grade = rng.integers(0, 5, n)
    logits = rng.normal(0, 0.5, (n, 5))
    logits[np.arange(n), np.where(rng.random(n) < 0.9, grade, (grade + 1) % 5)] += 3
    table = pd.DataFrame({"image": [f"{i:03d}_left.png" for i in range(n)], "patient": [f"a{i}" for i in range(n)]})
    return table.assign(eye="left", grade=grade, **dict(zip(P, softmax(logits, axis=1).T, strict=True)))


def write(path: Path, table: pd.DataFrame) -> Path:
    table.to_csv(path, index=False)
    return path


def excel(path: Path, table: pd.DataFrame) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="the extra xlsx is not installed")
    book = openpyxl.Workbook()
    for row in [list(table.columns), *table.itertuples(index=False)]:
        book.active.append([one.item() if hasattr(one, "item") else one for one in row])
    book.create_sheet("empty")
    book.save(path)


def mlflow(path: Path, table: pd.DataFrame) -> None:
    plain = json.loads(table.to_json(orient="split", index=False, double_precision=15))
    path.write_text(json.dumps({"columns": plain["columns"], "data": plain["data"]}))


CONTAINERS: dict[str, tuple[str, Callable[[Path, pd.DataFrame], Any]]] = {
    "tabs": ("t.tsv", lambda path, table: table.to_csv(path, index=False, sep="\t")),
    "tabs named .csv": ("t.csv", lambda path, table: table.to_csv(path, index=False, sep="\t")),
    "commas named .tsv": ("t.tsv", lambda path, table: table.to_csv(path, index=False)),
    "semicolons and decimal commas": ("t.csv", lambda path, t: t.to_csv(path, index=False, sep=";", decimal=",")),
    "quoted decimal commas": ("t.csv", lambda path, t: t.to_csv(path, index=False, decimal=",")),
    "bars": ("t.csv", lambda path, table: table.to_csv(path, index=False, sep="|")),
    "UTF-16": ("t.csv", lambda path, table: table.to_csv(path, index=False, sep="\t", encoding="utf-16")),
    "UTF-16, the other order": (
        "t.csv",
        lambda path, table: path.write_bytes(b"\xfe\xff" + table.to_csv(index=False).encode("utf-16-be")),
    ),
    "a mark of UTF-8": ("t.csv", lambda path, table: table.to_csv(path, index=False, encoding="utf-8-sig")),
    "lines of Windows": ("t.csv", lambda path, table: table.to_csv(path, index=False, lineterminator="\r\n")),
    "JSON lines": ("t.jsonl", lambda path, t: t.to_json(path, orient="records", lines=True, double_precision=15)),
    "JSON lines named .json": ("t.json", lambda p, t: t.to_json(p, orient="records", lines=True, double_precision=15)),
    "a list of objects": ("t.json", lambda path, table: table.to_json(path, orient="records", double_precision=15)),
    "MLflow's evaluation table": ("eval_results_table.json", mlflow),
    "Excel": ("t.xlsx", excel),
    "Parquet": ("t.parquet", lambda path, table: table.to_parquet(path)),
    "Parquet with the image as its index": ("t.parquet", lambda path, table: table.set_index("image").to_parquet(path)),
}


class TestContainers:
    """P5, and others of its kind."""

    @pytest.mark.parametrize("kind", CONTAINERS, ids=str)
    def test_hold_the_same_answers(self, kind: str, tmp_path: Path):
        """Whatever the suffix says; numbers are those that were written."""
        name, save = CONTAINERS[kind]
        table = answers()
        save(tmp_path / name, table)
        found = load_predictions(tmp_path / name)
        assert found.table["image"].tolist() == table["image"].tolist()
        assert found.table["grade"].tolist() == table["grade"].tolist()
        np.testing.assert_allclose(found.probabilities(), table[P].to_numpy(), rtol=0, atol=1e-14)

    def test_what_is_no_unicode_is_refused_with_advice(self, tmp_path: Path):
        """Latin-1 could be any of many encodings."""
        (tmp_path / "t.csv").write_bytes("image,größe\na.png,1\n".encode("latin-1"))
        with pytest.raises(PredictionsError, match=r"not UTF-8 text.*Save it as UTF-8"):
            load_predictions(tmp_path / "t.csv")

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ('{"image": "a", "image": "b"}\n', "line 1 is not one JSON object with each name once"),
            ('{"image": "a", "p_0": NaN}\n{"image": "b", "p_0": 1}\n', "line 1 is not one JSON object"),
            ('{"image": "a"}\n{"image": ["b"]}\n', "line 2: a cell holds a list or an object"),
            ('{"image": "a"}\n{"other": "b"}\n', "line 2 has a name that the first row lacks"),
            ('{"image": "a"}\n["b"]\n', "line 2 is no JSON object"),
            ('{"image": "a"}\nb\n', "line 2 is not one JSON object"),
        ],
    )
    def test_json_lines_that_are_no_table(self, text: str, sentence: str, tmp_path: Path):
        (tmp_path / "t.jsonl").write_text(text)
        with pytest.raises(PredictionsError, match=sentence):
            read_table(tmp_path / "t.jsonl", "a table", PredictionsError)

    def test_a_first_line_that_two_signs_cut_alike(self, tmp_path: Path):
        """A mapping states the separator; nothing is guessed."""
        (tmp_path / "t.csv").write_text("image;a,b\n1.png;2,3\n")
        with pytest.raises(PredictionsError, match="may be separated by ',' or by ';'"):
            read_table(tmp_path / "t.csv", "a table", PredictionsError)
        stated = ColumnMap(separator=";")
        assert list(read_table(tmp_path / "t.csv", "a table", PredictionsError, columns=stated)) == ["image", "a,b"]

    def test_without_the_extra_excel_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        excel(tmp_path / "t.xlsx", answers(5))
        monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
        with pytest.raises(PredictionsError, match=r"needs the extra xlsx; save it as CSV, or install it\."):
            load_predictions(tmp_path / "t.xlsx")


class TestHostileWorkbooks:
    """Excel files are zip files of XML: both can unfold without end."""

    def workbook(self, path: Path, parts: dict[str, bytes]) -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in ({"xl/workbook.xml": b"<workbook/>"} | parts).items():
                archive.writestr(name, data)
        return path

    def test_zeros_are_not_unpacked(self, tmp_path: Path):
        """300 MB in 300 KB."""
        path = self.workbook(tmp_path / "t.xlsx", {"xl/worksheets/sheet1.xml": bytes(300 << 20)})
        pytest.importorskip("openpyxl", reason="the extra xlsx is not installed")
        with pytest.raises(PredictionsError, match="more than 256 MB after decompression"):
            load_predictions(path)

    @pytest.mark.parametrize(
        "xml",
        [
            b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "ha">]><a>&b;</a>',
            '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY b "ha">]><a>&b;</a>'.encode("utf-16"),
            '<?xml version="1.0" encoding="cp037"?><!DOCTYPE a [<!ENTITY b "ha">]><a>&b;</a>'.encode("cp037"),
        ],
        ids=["plain", "UTF-16", "EBCDIC"],
    )
    def test_entities_are_refused(self, xml: bytes, tmp_path: Path):
        pytest.importorskip("openpyxl", reason="the extra xlsx is not installed")
        path = self.workbook(tmp_path / "t.xlsx", {"xl/sharedStrings.xml": xml})
        with pytest.raises(PredictionsError, match="defines XML entities"):
            load_predictions(path)

    def test_a_damaged_one_is_one_sentence(self, tmp_path: Path):
        pytest.importorskip("openpyxl", reason="the extra xlsx is not installed")
        with pytest.raises(PredictionsError, match="is an Excel file that cannot be read; save it as CSV"):
            load_predictions(self.workbook(tmp_path / "t.xlsx", {}))

    def test_two_sheets_with_cells_are_not_chosen_from(self, tmp_path: Path):
        openpyxl = pytest.importorskip("openpyxl", reason="the extra xlsx is not installed")
        book = openpyxl.Workbook()
        book.active.append(["image"])
        book.create_sheet("b").append(["image"])
        book.save(tmp_path / "t.xlsx")
        with pytest.raises(PredictionsError, match="has 2 sheets with cells; keep the one with the table"):
            load_predictions(tmp_path / "t.xlsx")


NAMES: dict[str, tuple[dict[str, str], list[str]]] = {
    "prob_k beside predicted": ({f"p_{k}": f"prob_{k}" for k in range(5)}, ["predicted"]),
    "numbers alone": ({f"p_{k}": f"{k}" for k in range(5)}, ["predicted"]),
    "class names beside predicted": (
        dict(zip(P, ("No DR", "Mild", "Moderate", "Severe", "Proliferative DR"), strict=True)),
        ["predicted"],
    ),
    "prefixed class names": (
        dict(zip(P, ("prob_No_DR", "prob_Mild", "prob_Moderate", "prob_Severe", "prob_PDR"), strict=True)),
        [],
    ),
    "y_true and softmax": ({"grade": "y_true"} | {f"p_{k}": f"softmax_{k}" for k in range(5)}, []),
    "filename, label": ({"image": "filename", "grade": "label"} | {f"p_{k}": f"score_{k}" for k in range(5)}, []),
}


class TestNames:
    """P1: a mapping is proposed, typed, and recorded."""

    @pytest.mark.parametrize("case", NAMES, ids=str)
    def test_the_mapping_is_proposed_and_works_as_typed(self, case: str, tmp_path: Path, drgate: Run, monkeypatch: Any):
        """It is never said that there are no probabilities; no look is spent; the typed words are enough."""
        monkeypatch.chdir(tmp_path)
        theirs, beside = NAMES[case]
        table = answers()
        table = table.assign(predicted=table[P].to_numpy().argmax(1)) if beside else table
        path = write(tmp_path / "t.csv", table.rename(columns=theirs))
        ended = drgate("evaluate", path, "--spec", "smoke", "--quiet")
        assert ended.code == 2
        assert "under other names. If so, give --columns " in ended.err
        assert "no probabilities" not in ended.err
        assert not (tmp_path / "reports").exists()
        import shlex

        typed = shlex.split(ended.err.partition("give --columns ")[2].partition("; if not")[0])[0]
        assert column_map(typed).columns == theirs
        assert drgate("evaluate", path, "--columns", typed, "--spec", "smoke", "--quiet").code in (0, 3)
        (folder,) = [one for one in (tmp_path / "reports").iterdir() if one.name != "looks"]
        shown = json.loads((folder / "evaluation.json").read_text())["data"]["warnings"]
        assert any(one.startswith("Columns were mapped in t.csv: ") for one in shown)

    def test_without_an_image_column_that_is_said_too(self, tmp_path: Path):
        names = {"grade": "y_true"} | {f"p_{k}": f"prob_{k}" for k in range(5)}
        path = write(tmp_path / "t.csv", answers().drop(columns=["image", "patient", "eye"]).rename(columns=names))
        with pytest.raises(PredictionsError, match=r"--columns grade=y_true,p_0=prob_0.*no column image: add one"):
            load_predictions(path)

    def test_only_usual_names_are_proposed(self):
        """A record number beside a usual word is not shown."""
        assert usual_names([f"patient {MARK}", "patient 8861734", "label 8861734"], ("patient", "grade")) == {}

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("grade=nothere", "has no column 'nothere', which --columns maps to grade"),
            ("grade=eye", "has a column grade already.*--columns grade=eye,other_grade=grade"),
        ],
    )
    def test_a_mapping_that_does_not_fit(self, text: str, sentence: str, tmp_path: Path):
        with pytest.raises(PredictionsError, match=sentence):
            load_predictions(write(tmp_path / "t.csv", answers()), columns=column_map(text))

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("grade=a,grade=b", "maps two columns to 'grade'"),
            ("grade=a,image=a", "maps one column to grade and to image"),
            ("grade", "is no mapping"),
        ],
    )
    def test_a_mapping_that_contradicts_itself(self, text: str, sentence: str):
        with pytest.raises(UsageError, match=sentence):
            column_map(text)

    def test_a_file_says_what_cells_mean(self, tmp_path: Path):
        """Grades by other words, and grade 5 for what nobody could grade."""
        table = answers(20)
        words = {0: "keine", 1: "leicht", 2: "mittel", 3: "schwer", 4: "5"}
        path = write(tmp_path / "t.csv", table.assign(grade=table["grade"].map(words)))
        with pytest.raises(PredictionsError, match=r"grade cannot be read.*--columns"):
            load_predictions(path)
        stated = {"keine": "0", "leicht": "1", "mittel": "2", "schwer": "severe_npdr", "5": "ungradable"}
        (tmp_path / "map.yaml").write_text(json.dumps({"grades": stated}))
        found = load_predictions(path, columns=column_map(str(tmp_path / "map.yaml"))).table
        assert found["grade"].fillna(4).tolist() == table["grade"].tolist()
        assert (found["gradable"] == (table["grade"] != 4)).all()

    def test_one_mapping_serves_answers_and_grades(self, tmp_path: Path, drgate: Run, monkeypatch: Any):
        """Each file has a part of the columns; one that neither has is refused."""
        monkeypatch.chdir(tmp_path)
        table = answers()
        ours = write(tmp_path / "p.csv", table.drop(columns="grade").rename(columns={"image": "name"}))
        theirs = write(tmp_path / "g.csv", table[["image", "grade"]].rename(columns={"image": "name", "grade": "dx"}))
        stated = column_map("image=name,grade=dx")
        bare = load_predictions(ours, columns=for_several(stated))
        assert join_grades(bare, theirs, stated).table["grade"].tolist() == table["grade"].tolist()
        text = "image=name,grade=dx,camera=lens"
        ended = drgate("evaluate", ours, "--grades", theirs, "--columns", text, "--spec", "smoke", "--quiet")
        assert ended.code == 2
        assert f"Neither {ours} nor {theirs} has a column 'lens'" in ended.err

    def test_what_looks_like_probabilities_and_is_not_used_is_named(self, tmp_path: Path):
        """By its name if that is a usual one, else by its number."""
        table = answers().assign(**{"prob_2": 0.25, MARK: 0.5, "camera": "x", "age": 71})
        found = load_predictions(write(tmp_path / "t.csv", table))
        assert found.notes == ("These columns look like probabilities and are not used: prob_2, column 11.",)


THEIRS = {"image": "name", "patient": "who", "eye": "side_of", "grade": "dx"} | {p: f"net_{p}" for p in P}
WORDS = ",".join(f"{own}={theirs}" for own, theirs in THEIRS.items())


def named(path: Path, table: pd.DataFrame) -> Path:
    return write(path, table.rename(columns=THEIRS))


class TestEverywhere:
    """Each command that reads somebody's table takes the mapping, for all of its tables together."""

    def test_evaluate_with_a_baseline(self, tmp_path: Path, drgate: Run, monkeypatch: Any):
        """One mapping for both; drgate's own table beside it needs none. Both are recorded, and verified."""
        monkeypatch.chdir(tmp_path)
        ours, theirs = named(Path("new.csv"), answers()), named(Path("old.csv"), answers())
        ended = drgate("evaluate", ours, "--baseline", theirs, "--columns", WORDS, "--spec", "smoke", "--out", "a")
        assert ended.code in (0, 3), ended.err
        warnings = json.loads(Path("a/evaluation.json").read_text())["data"]["warnings"]
        mapped = [one[:30] for one in warnings if one.startswith("Columns")]
        assert mapped == ["Columns were mapped in new.csv", "Columns were mapped in old.csv"]
        for page in ("report.html", "report.md"):
            assert "Columns were mapped in new.csv" in Path("a", page).read_text()
        assert "Columns were mapped in new.csv" in ended.out
        given = ["evaluate", ours, "--baseline", "a/predictions.parquet", "--columns", WORDS, "--spec", "smoke"]
        assert drgate(*given, "--out", "b").code in (0, 3)
        refused = drgate(*given[:-3], f"{WORDS},camera=lens", "--spec", "smoke", "--out", "c")
        assert refused.code == 2
        assert "Neither new.csv nor a/predictions.parquet has a column 'lens'" in refused.err
        assert not Path("c").exists()

    def test_compare(self, tmp_path: Path, drgate: Run, monkeypatch: Any):
        """One table is mapped, the other has drgate's names."""
        monkeypatch.chdir(tmp_path)
        ours, theirs = named(Path("new.csv"), answers()), write(Path("old.csv"), answers())
        ended = drgate("compare", ours, theirs, "--columns", WORDS, "--spec", "smoke", "--format", "json")
        assert ended.code in (0, 3), ended.err
        assert any(one.startswith("Columns were mapped in new.csv") for one in json.loads(ended.out)["notes"])

    def test_plan(self, tmp_path: Path, drgate: Run):
        """Of predictions as of a manifest, with logits that are stated."""
        table = answers()
        table[P] = (table[P] * 7 + 1).round(3)
        path = named(tmp_path / "t.csv", table)
        assert "--scores" in drgate("plan", "smoke", "--data", path, "--columns", WORDS).err
        ended = drgate("plan", "smoke", "--data", path, "--columns", WORDS, "--scores", "logits", "--format", "json")
        assert ended.code in (0, 1), ended.err
        notes = json.loads(ended.out)["notes"]
        assert any(one.startswith("Columns were mapped in t.csv") for one in notes)
        assert "The columns p_0 to p_4 are logits; their softmax was taken." in notes

    def test_tune_with_the_planned_set(self, tmp_path: Path, drgate: Run):
        """The planned set has a part of the columns."""
        tuning = named(tmp_path / "t.csv", answers(400))
        planned = named(tmp_path / "labels.csv", answers(400, 1)[["image", "patient", "grade"]])
        ended = drgate(
            "tune", tuning, "--data", planned, "--columns", WORDS, "--spec", "smoke", "--out", tmp_path / "o"
        )
        assert ended.code in (0, 1), ended.err
        bare = drgate("tune", tuning, "--data", planned, "--columns", f"{WORDS},x=y", "--out", tmp_path / "o2")
        assert bare.code == 2
        assert f"Neither {tuning} nor {planned} has a column 'y'" in bare.err

    def test_what_drgate_score_wrote_is_not_mapped(self, tmp_path: Path, drgate: Run, monkeypatch: Any):
        """Its columns are known, and its rows are those that were scored."""
        from drgate.predictions import make_predictions, write_predictions

        monkeypatch.chdir(tmp_path)
        write_predictions(make_predictions(answers(), "t", {"model": {"name": "m"}}), Path("t.parquet"))
        ended = drgate("evaluate", "t.parquet", "--columns", "grade=eye", "--spec", "smoke")
        assert ended.code == 2
        assert "t.parquet was written by drgate score" in ended.err

    def test_nothing_is_mapped_to_verify(self, tmp_path: Path, drgate: Run, monkeypatch: Any):
        """The published table has drgate's names; the caller's own is not proposed an option that verify lacks."""
        monkeypatch.chdir(tmp_path)
        ours = named(Path("new.csv"), answers())
        drgate("evaluate", ours, "--columns", WORDS, "--spec", "smoke", "--out", "a", "--quiet")
        given = ["verify", "a/statement.json"]
        assert "predictions that were evaluated" in drgate(*given, "--predictions", "a/predictions.parquet").out
        told = drgate(*given, "--predictions", ours)
        assert told.code == 2
        assert "--columns" not in told.err
        assert "give the published table: predictions.parquet" in told.err
        assert "only used when the model is scored again" in drgate(*given, "--columns", WORDS).err

    def test_a_set_that_is_mapped_in_part(self, photographs: Any, drgate: Run):
        """The proposal has what was typed, and can be typed itself."""
        folder = photographs("a.png", "b.png")
        path = folder / "t.csv"
        path.write_text("id_code,dx\na.png,0\nb.png,1\n")
        ended = drgate("manifest", path, "--columns", "grade=dx")
        assert ended.code == 2
        assert "Is it --columns image=id_code,grade=dx?" in ended.err
        assert drgate("manifest", path, "--columns", "image=id_code,grade=dx").code == 0

    def test_every_command_with_a_table_has_the_option(self):
        """Whoever adds a command that takes a table of somebody gives it the mapping."""
        source = Path(__file__).parent.parent / "drgate" / "cli"
        of_tables = re.compile(
            r"load_(manifest|predictions|planned)|model_and_test_set|set_of\(|Test\(data|survey\(|Rescoring\(|Asked\("
            r"|photographs_in\("
        )
        reads = {one.stem for one in source.glob("*.py") if of_tables.search(one.read_text())}
        takes = {one.stem for one in source.glob("*.py") if "columns: ColumnsOption" in one.read_text()}
        assert reads == takes
        assert reads == {
            "audit",
            "compare",
            "evaluate",
            "export",
            "init",
            "manifest",
            "plan",
            "predict",
            "score",
            "tune",
            "verify",
        }

    def test_a_mapping_as_it_is_recorded(self, tmp_path: Path):
        """Equal mappings have equal texts, which are read without the file."""
        (tmp_path / "map.yaml").write_text("grades: {'5': ungradable}\ncolumns: {grade: 'dx, final', image: name}\n")
        found = parse_mapping(str(tmp_path / "map.yaml"))
        assert parse_mapping(recorded(found)) == found
        assert recorded(parse_mapping("a=b,c=d")) == recorded(parse_mapping("c=d,a=b"))

    @pytest.mark.parametrize(
        "text",
        [
            *(
                "",
                " ",
                "=",
                "grade=",
                "=dx",
                ",",
                "grade=dx,",
                "grade=d\0x",
                "grade=\x1b[31m",
                "grade=" + "x" * (1 << 20),
            ),
            *("{", "{}x", "[]", '{"column": {}}', '{"columns": []}', '{"columns": {"grade": 1.5}}', "nothere.yaml"),
        ],
        ids=range(17),
    )
    def test_a_mapping_that_is_none(self, text: str):
        """One short sentence."""
        with pytest.raises(UsageError) as caught:
            column_map(text)
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize(
        "text",
        [
            "columns: {grade: dx}\nsource: x\n",
            "columns: &a {grade: dx}\ngrades: *a\n",
            "columns: [grade, dx]\n",
            "columns: {grade: [dx]}\n",
            "grades: {dx: 7}\n",
            "separator: ab\n",
            "scores: [logits]\n",
            "decimal: {}\n",
            "a: !!python/object/apply:os.system [ls]\n",
            "columns: {grade: dx, grade: dy}\n",
            "columns: {a: " + "x" * (64 << 10) + "}\n",
            "",
        ],
    )
    def test_a_file_that_is_none(self, text: str, tmp_path: Path):
        (tmp_path / "map.yaml").write_text(text)
        with pytest.raises(UsageError) as caught:
            column_map(str(tmp_path / "map.yaml"))
        assert len(str(caught.value)) < 600

    def test_that_stands_on_each_page_one(self, tmp_path: Path, drgate: Run, monkeypatch: Any):
        """In the terminal, HTML, Markdown and JSON."""
        monkeypatch.chdir(tmp_path)
        path = write(Path("t.csv"), answers().assign(prob_2=0.25))
        ended = drgate("evaluate", path, "--spec", "smoke", "--out", "out")
        said = "These columns look like probabilities and are not used: prob_2."
        first = json.loads(Path("out/evaluation.json").read_text())["page_one"]
        pages = [
            ended.out,
            " ".join(map(str, first)),
            *(Path("out", f"report.{kind}").read_text() for kind in ("html", "md")),
        ]
        for page in pages:
            assert said in " ".join(page.replace("\\", "").split())


class TestScales:
    """P4: what the numbers are is recognised and said, or asked for."""

    def changed(self, tmp_path: Path, cells: Any, **stated: Any) -> Any:
        table = answers().astype(dict.fromkeys(P, object))
        table[P] = cells(answers()[P])
        return load_predictions(write(tmp_path / "t.csv", table), columns=ColumnMap(**stated) if stated else PLAIN)

    def test_per_cent(self, tmp_path: Path):
        for cells in (lambda p: (p * 100).round(2), lambda p: (p * 100).round(2).map("{:.2f} %".format)):
            found = self.changed(tmp_path, cells)
            np.testing.assert_allclose(found.probabilities(), answers()[P], atol=2e-4)
            assert "The columns p_0 to p_4 are in per cent." in found.notes

    def test_whole_per_cent(self, tmp_path: Path):
        """Rounded to whole numbers, they sum to 98 to 102."""
        found = self.changed(tmp_path, lambda p: (p * 100).round(0).astype(int))
        np.testing.assert_allclose(found.probabilities().sum(axis=1), 1)
        assert len(found.notes) == 2

    def test_logits(self, tmp_path: Path):
        """SciPy's softmax of what was written."""
        logits = np.random.default_rng(3).normal(0, 2, (60, 5))
        found = self.changed(tmp_path, lambda _: logits)
        np.testing.assert_allclose(found.probabilities(), softmax(logits, axis=1))
        assert found.notes == ("The columns p_0 to p_4 are logits; their softmax was taken.",)

    def test_votes_are_not_guessed(self, tmp_path: Path):
        """No number is negative and nothing sums to one or a hundred: it could be anything."""
        votes = np.random.default_rng(3).integers(1, 9, (60, 5)) + 0.5
        with pytest.raises(
            PredictionsError, match="State what they are with --scores probabilities, percent or logits"
        ):
            self.changed(tmp_path, lambda _: votes)
        assert self.changed(tmp_path, lambda _: votes, scores="logits").notes

    def test_what_is_stated_holds(self, tmp_path: Path):
        with pytest.raises(PredictionsError, match="line 2: one of p_0 to p_4 is outside"):
            self.changed(tmp_path, lambda p: p * 100, scores="probabilities")

    @pytest.mark.parametrize("digits", [2, 3])
    def test_rounding_is_accepted_and_said(self, digits: int, tmp_path: Path):
        """Renormalised by hand here; the grades stay the same."""
        found = self.changed(tmp_path, lambda p: p.round(digits))
        rounded = answers()[P].round(digits).to_numpy()
        np.testing.assert_allclose(found.probabilities(), rounded / rounded.sum(1, keepdims=True), atol=1e-15)
        assert found.notes[0].startswith("The probabilities are rounded: in ")

    @pytest.mark.parametrize(("off", "accepted"), [(0.02, True), (0.03, False)])
    def test_no_more_than_the_rounding_explains(self, off: float, accepted: bool, tmp_path: Path):
        """Five half units of the second digit are 0.025."""

        def cells(p: pd.DataFrame) -> pd.DataFrame:
            found = p.copy()
            found[:] = [0.8, 0.05, 0.05, 0.05, 0.05]
            found.iloc[7, 0] = 0.8 + off
            return found.round(2)

        if accepted:
            assert self.changed(tmp_path, cells).notes
        else:
            with pytest.raises(PredictionsError, match=r"line 9: the five do not sum to 1 within 0.025"):
                self.changed(tmp_path, cells)

    def test_one_row_with_more_digits_denies_the_rounding(self, tmp_path: Path):
        def cells(p: pd.DataFrame) -> pd.DataFrame:
            found = p.round(2)
            found.iloc[0] = [0.123456, 0.876544, 0, 0, 0]
            return found

        with pytest.raises(PredictionsError, match=r"do not sum to 1 within 0.001"):
            self.changed(tmp_path, cells)

    def test_half_precision_and_single_precision(self, tmp_path: Path):
        for kind in ("float32", "float16"):
            answers().astype(dict.fromkeys(P, kind)).to_parquet(tmp_path / "t.parquet")
            np.testing.assert_allclose(
                load_predictions(tmp_path / "t.parquet").probabilities(), answers()[P], atol=1e-3
            )

    def test_a_rounded_parquet(self, tmp_path: Path):
        """Its numbers are binary; what was written is the shortest form."""
        for kind in ("float64", "float32"):
            answers().round(dict.fromkeys(P, 2)).astype(dict.fromkeys(P, kind)).to_parquet(tmp_path / "t.parquet")
            assert load_predictions(tmp_path / "t.parquet").notes[0].startswith("The probabilities are rounded")


def exports(folder: Path) -> list[Path]:
    """The same answers ten times."""
    table = answers()
    single = table.astype(dict.fromkeys(P, "float32"))
    table.to_csv(folder / "plain.csv", index=False)
    table.to_csv(folder / "index.csv")
    table.reset_index().to_csv(folder / "index_twice.csv")
    table.assign(row=range(1, len(table) + 1)).to_csv(folder / "numbered.csv", index=False)
    single.to_csv(folder / "single.csv", index=False)
    table.round(6).to_csv(folder / "six_digits.csv", index=False)
    table.round(2).to_csv(folder / "two_digits.csv", index=False)
    single.to_parquet(folder / "single.parquet")
    single.iloc[::-1].to_parquet(folder / "pandas_index.parquet")
    table.astype(dict.fromkeys(P, "float16")).to_parquet(folder / "half.parquet")
    return sorted(folder.iterdir())


class TestExports:
    """P3."""

    def test_of_the_same_answers_are_one_look(self, tmp_path: Path):
        """The tables that differ in their numbers are counted, and the chain stays whole."""
        checklist, log = load_checklist("smoke"), Log(tmp_path / "looks" / "chain.jsonl")
        (tmp_path / "tables").mkdir()
        numbers, looks = set(), []
        for path in exports(tmp_path / "tables"):
            found = load_predictions(path)
            assert found.slice_columns == [], path.name
            look, _ = log.look(found, "t", checklist, model=None)
            numbers.add(found.probabilities().tobytes())
            looks.append(look)
            assert look.tables == len(numbers), path.name
        assert len(looks) == 10
        assert {look.line for look in looks} == {looks[0].line}
        again, _ = log.look(load_predictions(tmp_path / "tables" / "plain.csv"), "t", checklist, model=None)
        assert again.tables == len(numbers) == 6

    def test_of_every_kind_are_one_look_of_evaluate(self, tmp_path: Path, drgate: Run, monkeypatch: Any):
        """Containers, scales, digits, rows in another order, other names; another answer is another look.

        Neither an index nor a column without a name is in what is published, or a slice, and each is verified.
        """
        monkeypatch.chdir(tmp_path)
        table = answers()
        percent = table.assign(**{p: table[p] * 100 for p in P})
        signs = table.assign(**{p: (table[p] * 100).map("{:.3f} %".format) for p in P})
        (tmp_path / "exports").mkdir()
        made: dict[str, Any] = {f"exports/{path.name}": None for path in exports(tmp_path / "exports")}
        made |= {f"{kind}/{name}": save for kind, (name, save) in CONTAINERS.items()}
        made |= {
            "percent.csv": lambda path, _: percent.to_csv(path, index=False),
            "signs.csv": lambda path, _: signs.to_csv(path, index=False),
            "three.csv": lambda path, t: t.round(3).to_csv(path, index=False),
            "logits.csv": lambda path, t: t.assign(**{p: np.log(t[p]) for p in P}).to_csv(path, index=False),
            "shuffled.csv": lambda path, t: t.sample(frac=1, random_state=1).to_csv(path, index=False),
            "named.csv": lambda path, t: named(path, t),
            "nameless.csv": lambda path, t: t.assign(**{"": range(7, 67)}).to_csv(path, index=False),
        }
        looks = {}
        for i, (name, save) in enumerate(made.items()):
            path = Path(name)
            path.parent.mkdir(exist_ok=True)
            if save is not None:
                save(path, table)
            said = ["--columns", WORDS] if name == "named.csv" else []
            out = Path("out") / str(i)
            ended = drgate(
                "evaluate", path, *said, "--spec", "smoke", "--looks", "looks.jsonl", "--out", out, "--quiet"
            )
            assert ended.code in (0, 3), (name, ended.err)
            found = json.loads((out / "evaluation.json").read_text())
            looks[name] = found["look"]["number"]
            published = {*pd.read_parquet(out / "predictions.parquet").columns}
            assert published <= {"image", "patient", "eye", "grade", "gradable", "predicted", *P}, name
        assert set(looks.values()) == {1}, looks
        changed = table.copy()
        changed.loc[5, P] = [0, 0, 0, 0, 1] if changed.loc[5, "p_4"] < 0.5 else [1, 0, 0, 0, 0]
        other = write(Path("changed.csv"), changed)
        drgate("evaluate", other, "--spec", "smoke", "--looks", "looks.jsonl", "--out", "out/changed", "--quiet")
        assert json.loads(Path("out/changed/evaluation.json").read_text())["look"]["number"] == 2
        assert "came out the same" in " ".join(drgate("verify", "out/1").out.split())

    def test_their_number_stands_on_page_one(self, tmp_path: Path, drgate: Run, monkeypatch: Any):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "tables").mkdir()
        exports(tmp_path / "tables")
        for name, said in (("plain.csv", False), ("six_digits.csv", True), ("plain.csv", True)):
            drgate("evaluate", f"tables/{name}", "--spec", "smoke", "--out", "out", "--force", "--quiet")
            page = (tmp_path / "out" / "report.md").read_text()
            assert ("2 tables with these answers were seen under this look" in page) == said


def marked(folder: Path) -> list[Path]:
    """Tables with the mark in every place, one defect each, in every container."""
    sound = answers(12).assign(**{MARK: MARK, "camera": MARK}).astype(object)
    frames = [sound.assign(patient=MARK, image=[f"{MARK} {i}" for i in range(12)])]
    for column in [*sound.columns, *P, "predicted", "dme", "gradable", "sha256", "referable", "severity"]:
        wrong = sound.assign(**({} if column in sound.columns else {column: None}))
        wrong[column] = wrong[column].astype(object)
        wrong.loc[5, column] = MARK
        frames.append(wrong)
    frames += [
        frames[0].rename(columns={"image": MARK + " 2"}),
        frames[0].drop(columns="grade"),
        pd.concat([sound] * 2),
    ]
    frames.append(frames[0].drop(columns=P))
    paths = []
    for i, frame in enumerate(frames):
        frame = frame.astype("str").where(frame.notna())
        for kind in (
            "UTF-16",
            "semicolons and decimal commas",
            "JSON lines",
            "MLflow's evaluation table",
            "tabs",
            "Excel",
        ):
            name, save = CONTAINERS[kind]
            path = folder / f"{i}{kind[:4]}{name}"
            save(path, frame)
            paths.append(path)
            content = path.read_bytes()
            path = folder / f"cut{i}{kind[:4]}{name}"
            path.write_bytes(content[:-40] if kind != "Excel" else content[: len(content) // 2])
            paths.append(path)
    return paths


class TestNobodyIsNamed:
    """Item 4: no cell, no header and no image's name is in any message, whatever the container and the fault."""

    def test_in_exceptions_of_the_readers(self, tmp_path: Path):
        """What Python would print of the exception and of all that caused it."""
        said = []
        for path in marked(tmp_path):
            for stated in (PLAIN, ColumnMap(scores="logits"), ColumnMap(decimal=",")):
                try:
                    load_predictions(path, columns=stated)
                except DrgateError as problem:
                    said.append("".join(traceback.format_exception(problem)))
        assert not [one for one in said if MARK in one]
        assert len(said) > 100

    def test_in_what_is_printed_and_published(self, tmp_path: Path, drgate: Run, monkeypatch: Any):
        """A table with the mark in every cell that says nothing of a grade: terminal, log of looks, report, JUnit."""
        monkeypatch.chdir(tmp_path)
        table = answers().assign(**{MARK: MARK, "camera": MARK})
        table["image"], table["patient"] = table["image"].map(f"{MARK} {{}}".format), table["patient"] + MARK
        path = write(tmp_path / "t.csv", table)
        worse = write(tmp_path / "u.csv", table.assign(p_0=table["p_1"], p_1=table["p_0"]))
        bare = write(tmp_path / "b.csv", table.drop(columns="grade"))
        other = write(tmp_path / "g.csv", table[["image", "grade"]].iloc[1:])
        for words in (
            ("evaluate", path, "--spec", "smoke"),
            ("evaluate", path, "--spec", "smoke", "--dry-run"),
            ("evaluate", bare, "--spec", "smoke"),
            ("evaluate", bare, "--grades", other, "--spec", "smoke"),
            ("compare", path, worse),
            ("compare", path, bare),
            ("plan", "smoke", "--data", path),
            ("plan", "smoke", "--data", other),
            ("tune", path, "--out", "point.json", "--spec", "smoke"),
        ):
            ended = drgate(*words)
            # The terminal shows its user's own names of flagged images; here none is flagged.
            assert MARK not in ended.out + ended.err, words
            assert "Traceback" not in ended.err, words
        published = [one for one in (tmp_path / "reports").rglob("*") if one.is_file() and one.name != "names.csv"]
        assert {"report.html", "junit.xml", "evaluation.json", "predictions.parquet"} <= {one.name for one in published}
        assert not [one for one in published if MARK.encode() in one.read_bytes()]


class TestEdges:
    """E1 and E2: what cannot be known is said, with the reason, and is no number."""

    def judged(self, folder: Path, table: pd.DataFrame, drgate: Run) -> dict[str, Any]:
        drgate(
            "evaluate", write(folder / "t.csv", table), "--spec", "medical-grade", "--out", folder / "out", "--quiet"
        )
        text = (folder / "out" / "evaluation.json").read_text()
        assert "NaN" not in text
        assert "Infinity" not in text
        return dict(json.loads(text))

    @pytest.mark.parametrize("grades", [1, 5], ids=["one grade only", "all five, all right"])
    def test_perfect_answers(self, grades: int, tmp_path: Path, drgate: Run, monkeypatch: Any):
        monkeypatch.chdir(tmp_path)
        table = answers(100)
        table["grade"] = table["grade"] % grades
        table[P] = np.full((100, 5), 0.01) + 0.95 * np.eye(5)[table["grade"]]
        found = self.judged(tmp_path, table, drgate)
        absent = [one for one in found["criteria"] if one["status"] == "NOT_ASSESSED"]
        assert all(one["reason"] for one in absent)
        assert (grades == 5) or any("pdr" in one["id"] for one in absent)

    @pytest.mark.parametrize("who", ["image", "site"])
    def test_patients_that_are_none(self, who: str, tmp_path: Path, drgate: Run, monkeypatch: Any):
        """The image's own name is no patient; one patient for all shows nothing about others."""
        monkeypatch.chdir(tmp_path)
        table = answers(100)
        table["patient"] = [name.removesuffix(".png") for name in table["image"]] if who == "image" else "a site"
        found = self.judged(tmp_path, table, drgate)
        assert found["verdict"] != "PASS"
        if who == "image":
            assert "Patients repeat the images' names, so they count as unknown." in found["page_one"]
        else:
            assert not [one for one in found["criteria"] if one["status"] == "PASS" and one["id"] == "accuracy"]


class TestOrder:
    """P2: the order of the alphabet, as image folders give it."""

    MOVED = (2, 0, 1, 4, 3)
    """Moderate NPDR second of Mild, Moderate, No_DR, Proliferate_DR, Severe, and so on."""

    def test_the_order_that_fits_is_named(self, tmp_path: Path, drgate: Run, monkeypatch: Any):
        monkeypatch.chdir(tmp_path)
        table = answers(200)
        table[P] = table[[P[1], P[2], P[0], P[4], P[3]]].to_numpy()
        drgate("evaluate", write(tmp_path / "t.csv", table), "--spec", "smoke", "--out", "out", "--quiet")
        said = json.loads((tmp_path / "out" / "evaluation.json").read_text())["reordered"]
        assert "p_0 holds mild NPDR" in said
        assert "p_2 holds no DR" in said

    def test_with_grades_permuted_too_the_mix_is_on_page_one(self, tmp_path: Path, drgate: Run, monkeypatch: Any):
        monkeypatch.chdir(tmp_path)
        table = answers(200)
        table["grade"] = table["grade"].where(table["grade"] > 1, 0).map(dict(enumerate(self.MOVED)))
        drgate("evaluate", write(tmp_path / "t.csv", table), "--spec", "smoke", "--out", "out", "--quiet")
        page = " ".join(json.loads((tmp_path / "out" / "evaluation.json").read_text())["page_one"])
        assert "The most common reference grade is moderate NPDR, not no DR" in page


def test_a_gigabyte_of_nulls_is_one_sentence(tmp_path: Path):
    """Sparse on the disk; it is not read."""
    with (tmp_path / "t.csv").open("wb") as handle:
        handle.truncate((1 << 30) + 1)
    with pytest.raises(PredictionsError, match=r"is a binary file|larger than"):
        load_predictions(tmp_path / "t.csv")


def test_a_table_in_a_gzip_archive_is_named(tmp_path: Path):
    buffer = io.BytesIO()
    answers(5).to_csv(buffer, index=False, compression="gzip")
    (tmp_path / "t.csv.gz").write_bytes(buffer.getvalue())
    with pytest.raises(PredictionsError, match="is a gzip archive"):
        load_predictions(tmp_path / "t.csv.gz")
