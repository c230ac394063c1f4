"""A marker in every cell, header, archive member and metadata that may name a patient is in nothing that comes out.

Looked for on the terminal, in logs, warnings, exceptions with all that caused them, and every file that is written.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
import urllib.parse
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from drgate.errors import DrgateError
from drgate.grades import join_grades
from drgate.manifest import load_manifest
from drgate.mapping import parse_mapping
from drgate.predictions import load_predictions
from drgate.survey import survey
from tests.support.material import Ended

Run = Callable[..., Ended]
Table = list[list[str]]

PATIENTS = ("Zq7VanderbiltOyelaran", "王秀英Žofia")
"""Letters that are in no usual name; of the second, only letters that ASCII lacks come first."""
CORES = ("Zq7Vanderbilt", "王秀英")
PHOTO = "Qx9Photograph"
"""In the name of every image, which the terminal may show and a published file may not."""
OWN = ["image", "patient", "eye", "grade", "gradable", "p_0", "p_1", "p_2", "p_3", "p_4", "predicted", "dme"]
ROWS, AT = 20, 3


def forms(core: str) -> set[bytes]:
    """How a text may look once it was encoded or escaped; in base64, what is the same at each of three positions."""
    data = core.encode()
    texts = {core, ascii(core)[1:-1], json.dumps(core)[1:-1], urllib.parse.quote(core), data.hex(), data.hex().upper()}
    texts |= {repr(data)[2:-1], core.encode("ascii", "xmlcharrefreplace").decode()}
    for at in range(3):
        whole = base64.b64encode(bytes(at) + data).decode()
        texts.add(whole[4 : len(whole) - 4])
    return {text.encode() for text in texts} | {core.encode("utf-16-le"), core.encode("utf-16-be")}


FORMS = {core: forms(core) for core in (*CORES, PHOTO)}


def found(data: bytes | str, cores: Sequence[str] = CORES) -> list[bytes]:
    data = data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")
    return [form for core in cores for form in FORMS[core] if form in data]


def content(path: Path) -> bytes:
    """The bytes of a file, and what is compressed in it."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        data += repr(table.to_pydict()).encode() + repr(table.schema.metadata).encode()
    if b'"dsseEnvelope"' in data:
        data += base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"])
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            data += b"".join(name.encode() + archive.read(name) for name in archive.namelist())
    return data


def written(folder: Path, but: Sequence[str] = ()) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.name not in ("names.csv", *but))


def chain(problem: BaseException) -> str:
    """The texts of an exception and of all that caused it, also where that is suppressed; its arguments too."""
    said, left = "", [problem]
    while left:
        one = left.pop()
        said += f"{one} {one!r} {one.args!r} {getattr(one, '__notes__', '')}\n"
        left += [other for other in (one.__cause__, one.__context__) if other is not None]
    return said


def said_by(call: Callable[[], Any], log: pytest.LogCaptureFixture) -> str:
    """Everything a call says: its exception, warnings and the log at its lowest level."""
    log.clear()
    said = ""
    with warnings.catch_warnings(record=True) as warned, log.at_level(logging.NOTSET):
        warnings.simplefilter("always")
        try:
            call()
        except DrgateError as problem:
            said = chain(problem)
    return said + "".join(str(one.message) for one in warned) + log.text


# -- tables ------------------------------------------------------------------------------------------------------------


def sound(count: int = ROWS) -> Table:
    """A header and rows; the marker in every patient, in two further columns and in their headers."""
    rows = [[*OWN, *(f"{who} grade" for who in PATIENTS), PATIENTS[0], f"{PATIENTS[1]}_0"]]
    for i in range(count):
        shares = ["0.6" if j == i % 5 else "0.1" for j in range(5)]
        patient = f"{PATIENTS[i % 4 // 2]} {i // 2}"
        own = [f"{PHOTO}{i:02d}.png", patient, "LR"[i % 2], str(i % 5), "true", *shares, str(i % 5), "0"]
        rows.append([*own, *(f"{who} {i}" for who in PATIENTS), "0.25", f"0.{i:03d}1"])
    return rows


def cell(column: str, value: str, row: int = AT) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        table[row + 1][table[0].index(column)] = value

    return change


def two_names(table: Table) -> None:
    table[0][-1] = table[0][-2]


def in_two_splits(table: Table) -> None:
    table[0].append("split")
    for i, row in enumerate(table[1:]):
        row.append(("train", "test")[i % 2])


def split_is(word: str) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        table[0].append("split")
        for row in table[1:]:
            row.append("test")
        table[AT + 1][-1] = word

    return change


def unmapped(table: Table) -> None:
    table[0][0] = f"{PATIENTS[0]} image"


FAULTS: dict[str, Callable[[Table], Any]] = {
    "nothing": lambda table: None,
    "wrong grade": cell("grade", f"{PATIENTS[0]} 7"),
    "no grade": cell("grade", ""),
    "wrong probability": cell("p_2", "0.9"),
    "text in a number": cell("p_2", f"{PATIENTS[1]}0.1"),
    "nan": cell("p_2", "nan"),
    "duplicate": cell("image", f"{PHOTO}00.png"),
    "missing file": cell("image", f"{PHOTO}none.png"),
    "two columns of one name": two_names,
    "unknown eye": cell("eye", PATIENTS[1]),
    "unknown split": split_is(PATIENTS[0]),
    "patient in two splits": in_two_splits,
    "gradable": cell("gradable", PATIENTS[0]),
    "oedema": cell("dme", PATIENTS[1]),
    "predicted": cell("predicted", PATIENTS[0]),
    "a header of another name": unmapped,
    "a number for a name": cell("patient", ""),
}


def text_of(table: Table, separator: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(table)
    return text.getvalue()


def as_csv(table: Table, path: Path) -> Path:
    path = path.with_suffix(".csv")
    path.write_text(text_of(table), "utf-8", newline="")
    return path


def as_tsv(table: Table, path: Path) -> Path:
    path = path.with_suffix(".tsv")
    path.write_text(text_of(table, "\t"), "utf-8-sig", newline="")
    return path


def as_utf_16(table: Table, path: Path) -> Path:
    path = path.with_name("utf-16.csv")
    path.write_text(text_of(table, ";"), "utf-16", newline="")
    return path


def as_json_lines(table: Table, path: Path) -> Path:
    path = path.with_suffix(".jsonl")
    lines = (", ".join(f"{json.dumps(n)}: {json.dumps(c)}" for n, c in zip(table[0], row)) for row in table[1:])  # noqa: B905
    path.write_text("".join(f"{{{line}}}\n" for line in lines))
    return path


def as_mlflow(table: Table, path: Path) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps({"columns": table[0], "data": table[1:]}, ensure_ascii=False))
    return path


def as_excel(table: Table, path: Path) -> Path:
    """The marker is also the sheet's name, its author, title and a comment."""
    openpyxl = pytest.importorskip("openpyxl", reason="the extra xlsx is not installed")
    book = openpyxl.Workbook()
    book.active.title = PATIENTS[0]
    book.properties.creator = book.properties.title = book.properties.description = PATIENTS[1]
    for row in table:
        book.active.append(row)
    book.active["B2"].comment = openpyxl.comments.Comment(PATIENTS[0], PATIENTS[1])
    book.save(path.with_suffix(".xlsx"))
    return path.with_suffix(".xlsx")


def as_parquet(table: Table, path: Path) -> Path:
    """Numbers are typed where all are; the marker is also in the metadata."""
    path = path.with_suffix(".parquet")
    arrays = [pa.array([c if c else None for c in cells]) for cells in zip(*table[1:], strict=True)]
    arrow = pa.table(arrays, names=table[0])
    for name in OWN[5:10]:
        try:
            at = arrow.column_names.index(name)
            arrow = arrow.set_column(at, name, arrow[name].cast(pa.float64()))
        except (pa.ArrowInvalid, ValueError):
            continue
    pq.write_table(arrow.replace_schema_metadata({PATIENTS[0]: PATIENTS[1]}), path)
    return path


CONTAINERS = (as_csv, as_tsv, as_utf_16, as_json_lines, as_mlflow, as_excel, as_parquet)


def broken(path: Path) -> Iterator[Path]:
    """The file cut off, and with bytes that are no text or no structure in the row at fault."""
    data = path.read_bytes()
    for part in (data[: len(data) // 2], data[:-9]):
        path.write_bytes(part)
        yield path
    at = max(data.find(PHOTO.encode() + b"03"), data.find((PHOTO + "03").encode("utf-16-le")), len(data) // 3)
    for inserted in (b"\xe9\xff", b'"', b"\0\0\0"):
        path.write_bytes(data[:at] + inserted + data[at:])
        yield path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with the marker in PNG texts, EXIF, comments of JPEG and TIFF tags, whatever their names end in."""
    folder = tmp_path_factory.mktemp("set")
    exif = Image.Exif()
    exif[270] = exif[315] = " ".join(PATIENTS)  # description, artist
    for i in range(ROWS):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        path, picture = folder / f"{PHOTO}{i:02d}.png", Image.fromarray(pixels)
        if i % 3 == 0:
            texts = PngInfo()
            texts.add_itxt("Title", PATIENTS[1])
            texts.add_text(PATIENTS[0], PATIENTS[0], zip=True)
            picture.save(path, "PNG", pnginfo=texts, exif=exif)
        elif i % 3 == 1:
            picture.save(path, "JPEG", exif=exif, comment=PATIENTS[0].encode())
        else:
            picture.save(path, "TIFF", description=PATIENTS[0], artist=PATIENTS[0])
    return folder


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda one: one.__name__[3:])
def test_no_reader_says_who_it_is(
    container: Callable[[Table, Path], Path], photographs: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    """Every fault in every container, and the container damaged; what is read well is quiet too."""
    bare = sound()
    scored = load_predictions(as_csv([[*r[:1], *r[5:10]] for r in bare], tmp_path / "scored"))
    readers: dict[str, Callable[[Path], Any]] = {
        "predictions": load_predictions,
        "grades": lambda path: join_grades(scored, path),
        "manifest": lambda path: load_manifest(path, files=False),
        "survey": lambda path: survey(path, images=photographs).to_json(),
    }
    mistakes = 0
    for fault, change in FAULTS.items():
        change(table := sound())
        path = container(table, tmp_path / "t")
        for name, read in readers.items():
            said = said_by(lambda read=read, path=path: read(path), caplog)
            assert not found(said), (fault, name)
            mistakes += bool(said)
    assert mistakes > len(FAULTS)
    whole = container(sound(), tmp_path / "t")
    for path in broken(whole):
        for name, read in readers.items():
            assert not found(said_by(lambda read=read, path=path: read(path), caplog)), name


@pytest.mark.parametrize(
    "text",
    [
        'columns: {{grade: "{0}", image: "{0}"}}',
        'columns: {{"{0}": [1]}}',
        'grades: {{"{0}": {0}}}',
        '"{0}": 1\n"{0}": 2\n',
        "{0}: &{0} 1",
        "a: '{0}\n",
        "{0}: 2001-99-99\n{0} 3",
        "scores: {0}",
        "separator: {0}",
        '{{"{0}": 1, "{0}": 2',
        "image,grade\n{0},1\n",
        "%{0}",
    ],
)
@pytest.mark.parametrize("who", PATIENTS)
def test_a_file_for_columns(text: str, who: str, caplog: pytest.LogCaptureFixture, tmp_path: Path):
    """Somebody's table in its place, and a mapping that is none."""
    path = tmp_path / "columns.yaml"
    path.write_text(text.format(who), "utf-8")
    said = said_by(lambda: parse_mapping(str(path)), caplog)
    assert "columns.yaml" in said
    assert not found(said), said


# -- pictures in other things ------------------------------------------------------------------------------------------


def hub(folder: Path, photographs: Path) -> pa.Table:
    names = sorted(photographs.iterdir())[:6]
    pictures = pa.array(
        [{"bytes": one.read_bytes(), "path": f"/{PATIENTS[0]}/{one.name}"} for one in names],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table(
        {"image": pictures, "label": [0, 1, 2, 3, 4, 0], "patient": [*PATIENTS] * 3, PATIENTS[1]: ["1"] * 6}
    )
    classes = {"names": ["No DR", "Mild", "Moderate", "Severe", "PDR"], "_type": "ClassLabel"}
    features = {"info": {"features": {"label": classes}, "description": PATIENTS[0]}}
    return table.replace_schema_metadata({"huggingface": json.dumps(features)})


def parquet_with_pictures(folder: Path, photographs: Path) -> Path:
    pq.write_table(hub(folder, photographs), folder / "p.parquet")
    return folder / "p.parquet"


def arrow_folder(folder: Path, photographs: Path) -> Path:
    table = hub(folder, photographs)
    with pa.OSFile(str(folder / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    files = [{"filename": "data.arrow"}]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": PATIENTS[0]}))
    return folder


def arrow_elsewhere(folder: Path, photographs: Path) -> Path:
    arrow_folder(folder, photographs)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": f"{PATIENTS[0]}.arrow"}]}))
    return folder


def splits_elsewhere(folder: Path, photographs: Path) -> Path:
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [PATIENTS[0], PATIENTS[1]]}))
    return folder


def arrays(folder: Path, photographs: Path) -> Path:
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez(folder / "retina.npz", test_images=pixels, test_labels=np.array([[0], [1]]), **{PATIENTS[0]: np.arange(3)})
    return folder / "retina.npz"


def texts_in_arrays(folder: Path, photographs: Path) -> Path:
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez(folder / "retina.npz", test_images=pixels, test_labels=np.array([*PATIENTS]))
    return folder / "retina.npz"


def dicom(folder: Path, photographs: Path) -> Path:
    from tests.test_datasets import dicom as write

    for i in range(4):
        path = write(folder / f"{i}/{PHOTO}{i}.dcm", i, PatientName=PATIENTS[0], PatientID=PATIENTS[0])
        pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
        one = pydicom.dcmread(path)
        one.SpecificCharacterSet, one.PatientBirthDate, one.PatientAge = "ISO_IR 192", "19500101", "075Y"
        one.PatientID = PATIENTS[i % 2]
        one.PatientName = one.InstitutionName = one.ImageComments = PATIENTS[1]
        one.private_block(0x11, PATIENTS[0], create=True).add_new(1, "LO", PATIENTS[1])
        one.save_as(path, enforce_file_format=True)
    return folder


def dicom_of_wrong_values(folder: Path, photographs: Path) -> Path:
    """Values that pydicom warns of, with the value."""
    dicom(folder, photographs)
    for i, path in enumerate(sorted(folder.rglob("*.dcm"))):
        data = path.read_bytes()
        path.write_bytes(data.replace(b"19500101", b"Zq7Vande") if i % 2 else data[: -300 * i or None])
    return folder


def eyepacs(folder: Path, photographs: Path) -> Path:
    """A folder named after nobody, and a list whose images are patients."""
    for i in range(4):
        (folder / f"{PHOTO}{i}.png").write_bytes((photographs / f"{PHOTO}{i:02d}.png").read_bytes())
    (folder / "labels.csv").write_text(
        f"image,level,{PATIENTS[0]}\n10_left,0,{PATIENTS[1]}\n{PHOTO}1,1,{PATIENTS[0]}\n"
    )
    return folder


SOURCES = (
    parquet_with_pictures, arrow_folder, arrow_elsewhere, splits_elsewhere, arrays, texts_in_arrays, dicom,
    dicom_of_wrong_values, eyepacs,
)  # fmt: skip


@pytest.mark.parametrize("source", SOURCES, ids=lambda one: one.__name__)
def test_no_data_set_says_who_it_is(
    source: Callable[[Path, Path], Path],
    photographs: Path,
    caplog: pytest.LogCaptureFixture,
    drgate: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """As it is, and damaged; through Python and the commands; the canonical form of a DICOM folder too."""
    monkeypatch.setenv("COLUMNS", "400")
    (tmp_path / "set").mkdir()
    path = source(tmp_path / "set", photographs)
    of_header = source.__name__.startswith("dicom")
    for words in (("manifest", path), ("manifest", path, "--format", "json"), ("plan", "smoke", "--data", path)):
        ended = drgate(*words)
        assert not found(ended.out + ended.err), words
        assert "defect" not in ended.err, ended.err
    drgate("manifest", path, "--out", tmp_path / "out/labels.csv")
    if of_header and (tmp_path / "out").exists():
        assert not any(found(content(one)) for one in written(tmp_path / "out"))
    assert not found(said_by(lambda: load_manifest(path).digest(), caplog))
    files = [one for one in written(tmp_path / "set") if one.suffix != ".png"]
    for one in files[:3]:
        whole = one.read_bytes()
        for at in range(8, len(whole), max(1, len(whole) // 5)):
            for data in (whole[:at], whole[:at] + b"\xff\x00\xff\xff" + whole[at + 4 :]):
                one.write_bytes(data)
                assert not found(said_by(lambda: survey(path).to_json(), caplog)), (one.name, at)
        one.write_bytes(whole)


def test_an_unreadable_picture(photographs: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path):
    """Cut off or changed anywhere, a picture's bytes and metadata are in no message; good pictures log nothing."""
    from drgate.vision.images import read_image

    for i in range(3):
        whole = (photographs / f"{PHOTO}{i:02d}.png").read_bytes()
        said = said_by(lambda i=i: read_image(photographs / f"{PHOTO}{i:02d}.png"), caplog)
        assert not found(said), said
        for at in range(4, min(len(whole), 1200), 23):
            for data in (whole[:at], whole[:at] + PATIENTS[0].encode() + whole[at + 21 :]):
                (tmp_path / "x.png").write_bytes(data)
                said = said_by(lambda: read_image(tmp_path / "x.png"), caplog)
                assert not found(said), said
                assert "\\x" not in said, said


# -- commands, and what they publish -----------------------------------------------------------------------------------


@pytest.fixture
def key(tmp_path: Path, drgate: Run) -> Path:
    assert drgate("keygen", "--out", tmp_path / "keys/clinical", "--no-passphrase").code == 0
    assert drgate("keygen", "--patients", "--out", tmp_path / "keys/patients").code == 0
    return tmp_path / "keys"


def test_no_command_on_tables_publishes_it(key: Path, drgate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Evaluated, signed, reported, compared, tuned, planned, verified, listed: terminal and files are without patients,
    files without names of images too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    table, again = as_csv(sound(), tmp_path / "t"), as_csv(sound(), tmp_path / "u")
    other = as_parquet(sound(), tmp_path / "other")
    bare = as_csv([[*row[:1], *row[5:10]] for row in sound()], tmp_path / "bare")
    grades = as_csv([[*row[:5], *row[-4:]] for row in sound()], tmp_path / "grades")
    people = ("--patient-key", key / "patients.key")
    at = ("--time", "2026-01-31T09:00:00Z")
    signed = ("--key", key / "clinical.pem")
    commands: list[tuple[object, ...]] = [
        ("evaluate", table, "--spec", "smoke", "--out", "a", *people, *signed, *at, "--looks", "looks.jsonl"),
        ("evaluate", table, "--spec", "smoke", "--format", "json", "--out", "b", "--looks", "looks.jsonl", *people),
        ("evaluate", table, "--spec", "smoke", "--baseline", other, "--out", "c", "--looks", "looks.jsonl", *people),
        ("evaluate", bare, "--grades", grades, "--spec", "smoke", "--out", "d"),
        ("evaluate", other, "--spec", "smoke", "--dry-run", "--format", "json"),
        ("evaluate", other, "--spec", "smoke", "--dry-run"),
        ("report", "a"),
        ("compare", other, again, "--format", "json"),
        ("compare", other, again),
        ("tune", as_csv(sound(200), tmp_path / "many"), "--out", "tuned.json", "--spec", "smoke"),
        ("plan", "smoke", "--data", again, "--format", "json"),
        ("verify", "a", "--key", key / "clinical.pub", "--predictions", "a/predictions.parquet"),
        ("history", tmp_path / "a", "--key", key / "clinical.pub", "--out", "b/history.html"),
    ]
    for words in commands:
        ended = drgate(*words)
        assert not {"defect", "--help."} & set(ended.err.split()), (words, ended.err)
        assert not found(ended.out + ended.err), words
        if words[:1] in (("evaluate",), ("report",), ("verify",)):
            assert ended.code in (0, 1, 3), (words, ended.err)
    for folder in ("a", "b", "c", "d"):
        for path in written(tmp_path / folder):
            assert not found(content(path), (*CORES, PHOTO)), path
        assert (tmp_path / folder / "names.csv").stat().st_mode & 0o77 == 0
    for name in ("looks.jsonl", "tuned.json"):
        assert not found(content(tmp_path / name), (*CORES, PHOTO)), name


def test_no_command_on_a_model_publishes_it(
    photographs: Path, key: Path, drgate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A model whose metadata holds a path, on photographs whose metadata holds a patient: scored, signed, judged."""
    tiny = pytest.importorskip("tests.support.tiny", reason="the extra models is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    warnings.simplefilter("default")  # as outside tests
    model = tiny.onnx_model()
    model.doc_string = model.producer_name = model.graph.name = f"/data/{PATIENTS[0]}/train"
    model.metadata_props.add(key=PATIENTS[0], value=PATIENTS[1])
    path = tiny.write_onnx(tmp_path / "model", model)
    names = [OWN.index(name) for name in ("image", "patient", "eye", "grade")]
    rows = [[*(row[i] for i in names), *row[-4:-2]] for row in sound()]
    rows.append([f"{PHOTO}20.png", f"{PATIENTS[1]} 9", "L", "1", PATIENTS[0], PATIENTS[1]])
    for one in photographs.iterdir():
        (tmp_path / one.name).write_bytes(one.read_bytes())
    (tmp_path / f"{PHOTO}20.png").write_bytes((photographs / f"{PHOTO}01.png").read_bytes()[:200])  # unreadable
    data = as_csv(rows, tmp_path / "labels")
    shared = ("--data", data, "--workers", "0", "--patient-key", key / "patients.key", "--key", key / "clinical.pem")
    for words in (
        ("evaluate", path, *shared, "--spec", "smoke", "--dry-run"),
        ("evaluate", path, *shared, "--spec", "smoke", "--out", "a", "--format", "json"),
        ("score", path, *shared, "--out", "scored.parquet"),
        ("export", path, "--certificate", "a/certificate.json", "--out", "bundle"),
        ("verify", "a", "--key", key / "clinical.pub", "--model", path),
        ("preprocess", tmp_path / f"{PHOTO}01.png", "--preprocess", path, "--out", "seen.png"),
    ):
        ended = drgate(*words)
        assert not found(ended.out + ended.err), words
        assert not {"defect", "--help."} & set(ended.err.split()), ended.err
    for one in (*written(tmp_path / "a"), tmp_path / "scored.scored.json"):
        assert not found(content(one), (*CORES, PHOTO)), one
    dicoms = dicom(tmp_path / "dicom", photographs)
    ended = drgate("score", path, "--data", dicoms, "--workers", "0", "--out", "of_dicom.parquet")
    assert ended.code == 0, ended.err
    assert not found(content(tmp_path / "of_dicom.parquet") + (ended.out + ended.err).encode())


def test_training_keeps_it_to_itself(photographs: Path, key: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Dry run and run of training: its record, its ledger, its checkpoint and the fingerprint in it name nobody."""
    tiny = pytest.importorskip("tests.support.tiny", reason="the extra train is not installed")
    from trainer.cli import main

    data = tiny.write_eyes(tmp_path / "set", train=2, val=1, test=1)
    lines = (data / "labels.csv").read_text().replace("patient-", f"{PATIENTS[0]}-").splitlines()
    noted = [f"{line},{PATIENTS[1]}" for line in lines]
    for line in lines[1:]:
        image = line.partition(",")[0]
        (data / image).rename(data / image.replace("images/", f"images/{PHOTO}"))
    (data / "labels.csv").write_text("\n".join(noted).replace("images/", f"images/{PHOTO}") + "\n", "utf-8")
    settings = {
        "dataset": data,
        "base": tiny.write_base(tmp_path / "base"),
        "output_dir": tmp_path / "runs/a",
        "patient_key": key / "patients.key",
        "num_epochs": 1,
        "num_workers": 0,
        "batch_size": 5,
    }
    given = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    for more in (["--dry_run"], []):
        with pytest.raises(SystemExit) as stop:
            main([*given, *more])
        said = "".join(capfd.readouterr())
        assert stop.value.code == 0, said
        assert not found(said)
    files = [*written(tmp_path / "runs")]
    assert files
    for path in files:
        assert not found(content(path), (*CORES, PHOTO)), path


def test_the_search_itself():
    """What is looked for is found in each of its forms, and a clean text has none."""
    for who in PATIENTS:
        for text in (who, ascii(who), json.dumps(who), urllib.parse.quote(who), who.encode().hex()):
            assert found(f"x{text}")
        for at in range(3):
            assert found(base64.b64encode(bytes(at) + who.encode() + b"tail"))
    assert not found("image,grade\n0.png,1\n" + pd.DataFrame({"a": [1]}).to_csv())
