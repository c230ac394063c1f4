"""No value of a patient is in any message: not on the terminal, not in an exception, not in what caused it."""

from __future__ import annotations

import csv
import io
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from drgate.errors import DrgateError
from drgate.manifest import load_manifest
from drgate.operating_point import make_operating_point, write_operating_point
from drgate.predictions import load_predictions
from tests.support.material import Ended, photograph

Run = Callable[..., Ended]
Row = dict[str, Any]

NAME = "Zq7 Vanderbilt-Oyelaran"
"""The patient of the row at fault."""
AT = 3
CELLS = (
    "image",
    "patient",
    "eye",
    "grade",
    "gradable",
    "p_0",
    "p_1",
    "p_2",
    "p_3",
    "p_4",
    "predicted",
    "dme",
    "camera",
)


def sound() -> list[Row]:
    rows = []
    for i in range(20):
        shares = dict.fromkeys(("p_0", "p_1", "p_2", "p_3", "p_4"), "0.1") | {f"p_{i % 5}": "0.6"}
        rows.append(
            {"image": f"{i:02d}.png", "patient": f"other {i // 2}", "eye": "LR"[i % 2], "grade": str(i % 5)}
            | {"gradable": "true", **shares, "predicted": str(i % 5), "dme": "0", "camera": "X"}
        )
    rows[AT]["patient"] = NAME
    return rows


def text(rows: list[Row], *, header: bool = True) -> bytes:
    written = io.StringIO()
    table = csv.writer(written)
    if header:
        table.writerow(CELLS)
    table.writerows([row[name] for name in CELLS if name in row] for row in rows)
    return written.getvalue().encode()


def with_cell(name: str, value: str) -> Callable[[], bytes]:
    def write() -> bytes:
        rows = sound()
        rows[AT][name] = value
        return text(rows)

    return write


def with_row(change: Callable[[list[Row]], Any]) -> Callable[[], bytes]:
    def write() -> bytes:
        rows = sound()
        change(rows)
        return text(rows)

    return write


def line(change: Callable[[bytes], bytes]) -> Callable[[], bytes]:
    """The line at fault, changed."""

    def write() -> bytes:
        lines = text(sound()).split(b"\r\n")
        lines[AT + 1] = change(lines[AT + 1])
        return b"\r\n".join(lines)

    return write


FAULTS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: text(sound()),
    "grade 7": with_cell("grade", "7"),
    "no grade": with_cell("grade", ""),
    "eye": with_cell("eye", "middle"),
    "gradable": with_cell("gradable", "maybe"),
    "a word for a number": with_cell("p_2", "high"),
    "nan": with_cell("p_2", "nan"),
    "percent": with_cell("p_2", "60"),
    "no sum": with_cell("p_2", "0.9"),
    "some empty": with_cell("p_2", ""),
    "oedema": with_cell("dme", "2"),
    "predicted": with_cell("predicted", "9"),
    "predicted otherwise": with_cell("predicted", "0"),
    "no image": with_cell("image", ""),
    "an image twice": with_cell("image", "00.png"),
    "an image outside": with_cell("image", "../x.png"),
    "an image from the web": with_cell("image", "https://example.org/x.png"),
    "no eye": with_cell("eye", ""),
    "patients known in part": with_row(lambda rows: rows[0].update(patient="")),
    "a patient that is none": with_row(lambda rows: rows[0].update(patient="n/a")),
    "in two slices": with_row(lambda rows: rows[AT - 1].update(patient=NAME, camera="Y")),
    "as a slice": with_cell("camera", NAME),
    "in two splits": with_row(lambda rows: rows[AT - 1].update(patient=NAME)),
    "no header": lambda: text(sound(), header=False),
    "no header, the same twice": lambda: b"a.png,%s,%s,0\n" % (NAME.encode(), NAME.encode()),
    "no image column": lambda: text(sound()).replace(b"image,", b"file,", 1),
    "the column twice": lambda: text(sound()).replace(b",eye,", b",patient,", 1),
    "a column of another name": lambda: text(sound()).replace(b",p_4,", b",p_5,", 1),
    "a cell too many": line(lambda cells: cells + b",9"),
    "a cell too few": line(lambda cells: cells.rpartition(b",")[0]),
    "quotes that do not end": line(lambda cells: b'"' + cells),
    "another encoding": line(lambda cells: cells + b"\xe9"),
    "a character that ends nothing": line(lambda cells: cells + b"\0"),
}

COMMANDS: dict[str, tuple[str, ...]] = {
    "evaluate": ("evaluate", "{table}", "--spec", "smoke"),
    "evaluate, by patient and camera": ("evaluate", "{table}", "--spec", "{spec}"),
    "evaluate, its grades": ("evaluate", "{bare}", "--grades", "{table}", "--spec", "smoke"),
    "evaluate, its grades of others": ("evaluate", "{others}", "--grades", "{table}", "--spec", "smoke"),
    "evaluate, its cut-offs": ("evaluate", "{table}", "--operating-point", "{point}", "--spec", "smoke"),
    "evaluate, its baseline": ("evaluate", "{good}", "--baseline", "{table}", "--spec", "smoke"),
    "evaluate, its history": ("evaluate", "{good}", "--record", "{table}", "--spec", "smoke"),
    "evaluate, its looks": ("evaluate", "{good}", "--looks", "{table}", "--spec", "smoke"),
    "compare": ("compare", "{table}", "{good}"),
    "compare, the other": ("compare", "{good}", "{table}"),
    "tune": ("tune", "{table}", "--out", "tuned.json", "--spec", "smoke"),
    "plan": ("plan", "smoke", "--data", "{table}"),
}

SPEC = """\
name: mine
version: 1
unit: patient
slices: [{by: camera}]
criteria: [{id: accuracy, at_least: 0.01}]
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("good")
    found = {name: folder / file for name, file in (("good", "good.csv"), ("bare", "bare.csv"), ("spec", "mine.yaml"))}
    rows = sound()
    found["good"].write_bytes(text(rows))
    pd.read_csv(found["good"]).drop(columns=["grade", "patient"]).to_csv(found["bare"], index=False)
    found["others"] = folder / "others.csv"
    pd.read_csv(found["good"]).drop(columns=["grade"]).assign(patient="x").to_csv(found["others"], index=False)
    found["spec"].write_text(SPEC)
    found["point"] = folder / "point.json"
    tuned = load_predictions(found["good"])
    write_operating_point(make_operating_point((0.5,) * 4, checklist={}, tuned_on=tuned, promise={}), found["point"])
    return found


def tables(fault: str, folder: Path) -> Iterator[Path]:
    """The fault as CSV, and as Parquet where that can hold it."""
    content = FAULTS[fault]()
    path = folder / "table.csv"
    path.write_bytes(content)
    yield path
    try:
        frame = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, na_values=[""])
    except ValueError:
        return
    frame.to_parquet(folder / "table.parquet")
    yield folder / "table.parquet"
    if fault == "nothing":
        (folder / "cut.parquet").write_bytes((folder / "table.parquet").read_bytes()[:-600])
        yield folder / "cut.parquet"


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_no_command_says_who_it_is(
    command: str, files: dict[str, Path], drgate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever is wrong with the patient's row, and also where nothing is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    for fault in FAULTS:
        for table in tables(fault, tmp_path):
            words = [word.format(table=table, **files) for word in COMMANDS[command]]
            ended = drgate(*words)
            assert NAME not in ended.out + ended.err, (fault, table.suffix)
            assert "Traceback" not in ended.err, (fault, table.suffix)
            assert "defect" not in ended.err, (fault, table.suffix, ended.err)
            for left in tmp_path.iterdir():
                if left.name == "tuned.json":
                    left.unlink()


def said_by(call: Callable[[], Any]) -> str:
    """What Python would print of the exception and of all that caused it; empty where there is none."""
    try:
        call()
    except DrgateError as problem:
        return "".join(traceback.format_exception(problem))
    return ""


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_no_exception_says_who_it_is(fault: str, tmp_path: Path):
    """Readers of manifests and predictions, whoever calls them; the splits of training among them."""
    for i in range(20):
        photograph(tmp_path / f"{i:02d}.png", seed=i)
    for table in tables(fault, tmp_path):
        assert NAME not in said_by(lambda table=table: load_predictions(table)), table.suffix
        assert NAME not in said_by(lambda table=table: load_manifest(table)), table.suffix
        assert NAME not in said_by(lambda table=table: load_manifest(table, files=False)), table.suffix


def manifest(folder: Path, rows: list[Row]) -> Path:
    for i, row in enumerate(rows):
        photograph(folder / row["image"], seed=row.pop("seed", i))
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return folder


def test_leaks_and_copies_are_counted_and_not_named(tmp_path: Path):
    """A patient in two splits; one file under the names of two patients."""
    rows = [
        {"image": f"{i}.png", "patient": NAME if i in (0, 1) else f"{NAME} {i}", "grade": i % 5, "split": split}
        for i, split in enumerate(["train", "test"] * 10)
    ]
    rows[2]["seed"] = rows[4]["seed"] = 2
    found = load_manifest(manifest(tmp_path / "set", rows))
    assert "in more than one split (1 of them, with 2 images)" in found.leaks("test")[0]
    (copies,) = found.contradictions()
    assert copies == "2.png and 4.png are the same file, but graded 2 and 4, of 2 patients."
    assert found.copies() == ["1 image is a copy of another (byte-identical)."]
    assert NAME not in "".join([*found.leaks(), copies])


def test_training_names_nobody(tmp_path: Path):
    data = pytest.importorskip("trainer.data", reason="the extra train is not installed")
    rows = [
        {"image": f"{i}.png", "patient": NAME, "grade": i % 5, "split": split}
        for i, split in enumerate(["train", "val"] * 10)
    ]
    said = said_by(lambda: data.load_splits(str(manifest(tmp_path / "set", rows)), seed=0))
    assert "in more than one split (1 of them, with 20 images)" in said
    assert NAME not in said


def test_a_defect_of_the_program_shows_no_text(drgate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where an exception is not one of ours, the places in the code are printed without its text."""

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError(f"could not convert {NAME}")

    monkeypatch.setattr("drgate.judge.judge", broken)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_bytes(text(sound()))
    ended = drgate("evaluate", tmp_path / "t.csv", "--spec", "smoke")
    assert ended.code == 2
    assert NAME not in ended.out + ended.err
    assert "in broken" in ended.err
    assert "ValueError\n" in ended.err
