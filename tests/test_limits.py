"""Every reader has a limit: none is called past the functions that have one, and hostile sizes end in one sentence."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drgate import limits
from drgate.certificate.keys import CommandKey, generate_key, load_public_key
from drgate.content import HEAD as NAMED_BY
from drgate.errors import CertificateError, ManifestError, PolicyError, PredictionsError, RecordError
from drgate.files import entries, files_below, parse_toml
from drgate.manifest import load_manifest
from drgate.parquet import _pages, read_parquet
from drgate.predictions import load_predictions
from drgate.record import read_record
from drgate.tables import read_table

ROOT = Path(__file__).parent.parent
READERS = {
    "Image.open",
    "Popen",
    "ParquetFile",
    "YAML",
    "check_output",
    "csv.DictReader",
    "csv.reader",
    "fromfile",
    "glob",
    "iterdir",
    "json.load",
    "json.loads",
    "listdir",
    "memmap",
    "np.load",
    "open",
    "os.open",
    "read_bytes",
    "read_csv",
    "read_feather",
    "read_json_file",
    "read_metadata",
    "read_parquet",
    "read_schema",
    "read_text",
    "rglob",
    "safe_open",
    "scandir",
    "subprocess.run",
    "tomllib.load",
    "tomllib.loads",
    "torch.load",
    "walk",
}
"""Calls that read a file, a folder or another program's answer, by their last or their last two names."""

ITSELF = ("drgate/files.py", "drgate/parquet.py", "drgate/tables.py")
"""The modules whose functions take their limits from `drgate.limits`."""

ALLOWED = {
    ("drgate/buckets.py", "glob"): "unfinished files in a folder of one file",
    ("drgate/buckets.py", "open"): "in parts",
    ("drgate/certificate/keys.py", "Popen"): "reads with a limit of bytes and time (TestSigner)",
    ("drgate/certificate/keys.py", "os.open"): "creates a key",
    ("drgate/checklist.py", "iterdir"): "drgate's own folder of checklists",
    ("drgate/cli/app.py", "os.open"): "/dev/null",
    ("drgate/cli/checklist.py", "YAML"): "writes",
    ("drgate/cli/gate.py", "open"): "appends",
    ("drgate/bundle/__init__.py", "iterdir"): "drgate's own photographs",
    ("drgate/bundle/__init__.py", "read_bytes"): "drgate's own code",
    ("drgate/bundle/__init__.py", "rglob"): "the folder that export just wrote",
    ("drgate/bundle/infer.py", "Image.open"): "checks the size in the header first",
    ("drgate/bundle/infer.py", "json.loads"): "files of the bundle that it is part of",
    ("drgate/bundle/infer.py", "read_text"): "files of the bundle that it is part of",
    ("drgate/cli/predict.py", "open"): "writes",
    ("drgate/vectors.py", "iterdir"): "drgate's own photographs",
    ("drgate/vision/for_others.py", "read_bytes"): "drgate's own code",
    ("drgate/demo/story.py", "open"): "appends",
    ("drgate/demo/story.py", "subprocess.run"): "drgate's own commands",
    ("drgate/demo/synthetic.py", "open"): "writes",
    ("drgate/export.py", "iterdir"): "the folder that judge just wrote",
    ("drgate/export.py", "open"): "copies files that were read with a limit just before",
    ("drgate/export.py", "read_bytes"): "the file that the exporter just wrote",
    ("drgate/gate/adopt.py", "read_text"): "drgate's own workflows",
    ("drgate/gate/placing.py", "open"): "as many bytes as it is compared with",
    ("drgate/gate/repository.py", "Popen"): "sizes are asked before bytes",
    ("drgate/audit/properties.py", "Image.open"): "of bytes that were decoded just before",
    ("drgate/gate/repository.py", "open"): "as many bytes as the pointer says, which has a limit",
    ("drgate/gate/repository.py", "read_bytes"): "its size was compared just before",
    ("drgate/gate/repository.py", "subprocess.run"): "git's lists, counted in _lines",
    ("drgate/gate/submit.py", "glob"): "chains of looks of this user",
    ("drgate/judge.py", "iterdir"): "names in the folder of an evaluation, to tell whether it is in use",
    ("drgate/layouts/pictures.py", "open"): "members of an archive, whose sizes were summed just before",
    ("drgate/layouts/pictures.py", "read_parquet"): "drgate.parquet's own",
    ("drgate/looks.py", "glob"): "chains of looks of this user",
    ("drgate/looks.py", "json.loads"): "lines that were made or checked just before",
    ("drgate/looks.py", "open"): "the lock",
    ("drgate/models.py", "iterdir"): "names in the folder of a model",
    ("drgate/patients.py", "os.open"): "creates a key",
    ("drgate/predictions.py", "read_metadata"): "drgate.parquet's own",
    ("drgate/preprocessing.py", "json.loads"): "plain values that were read with a limit before, to copy them",
    ("drgate/verify.py", "glob"): "names beside a certificate",
    ("drgate/verify.py", "iterdir"): "names beside a certificate",
    ("drgate/verify.py", "json.loads"): "an evaluation that was made just before",
    ("drgate/vision/base.py", "safe_open"): "maps the file; its header has a limit of its own",
    ("drgate/vision/cache.py", "glob"): "the cache's own files",
    ("drgate/vision/cache.py", "json.loads"): "the cache: its own records and headers",
    ("drgate/vision/cache.py", "memmap"): "maps a file whose size was compared first",
    ("drgate/vision/cache.py", "open"): "the cache: as many bytes as its header needs",
    ("drgate/vision/cache.py", "os.open"): "creates the records",
    ("drgate/vision/checkpoint.py", "open"): "drgate.vision's own limits",
    ("drgate/vision/checkpoint.py", "torch.load"): "drgate.vision's own limits",
    ("drgate/vision/grader_child.py", "json.loads"): "drgate's own requests, and what the grader says of itself",
    ("drgate/vision/grader_child.py", "iterdir"): "/proc",
    ("drgate/vision/grader_child.py", "open"): "/proc",
    ("drgate/vision/hf_files.py", "open"): "private copies, by drgate.vision's own limits",
    ("drgate/vision/hf_files.py", "safe_open"): "maps a private copy; its header has a limit of its own",
    ("drgate/vision/images.py", "Image.open"): "checks the size in the header first",
    ("drgate/vision/images.py", "read_bytes"): "its size was compared just before",
    ("drgate/vision/model_files.py", "open"): "drgate.vision's own limits",
    ("drgate/vision/onnx_files.py", "open"): "drgate.vision's own limits",
    ("drgate/vision/onnx_files.py", "subprocess.run"): "the trial, with limits of memory and time",
    ("drgate/vision/python_grader.py", "Popen"): "its answers have limits of bytes and time",
    ("drgate/vision/python_grader.py", "open"): "/dev/null",
    ("drgate/vision/trial.py", "json.loads"): "what onnx_files.py writes",
    ("drgate/vision/trial.py", "np.load"): "what onnx_files.py writes",
    ("trainer/attempts/ledger.py", "read_text"): "/proc",
    ("trainer/data.py", "memmap"): "maps an unnamed file that it just made",
    ("trainer/pretrain.py", "Image.open"): "pictures that it drew itself",
    ("trainer/record.py", "open"): "appends, and the last line in parts",
    ("trainer/record.py", "subprocess.run"): "git's answer about this working directory",
    ("trainer/run.py", "glob"): "the run's unfinished files",
    ("trainer/run.py", "open"): "the lock",
}
"""Where a reader may be called all the same, and why no file of any size can do harm there."""


def called(tree: ast.AST) -> Iterator[str]:
    """The names of READERS that a module calls or hands on."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            yield from {f"{owner}.{node.attr}"} & READERS or {node.attr} & READERS
        elif isinstance(node, ast.ImportFrom):
            yield from {f"{node.module}.{alias.name}" for alias in node.names} & READERS
        elif isinstance(node, ast.Name):
            yield from {node.id} & READERS


def test_no_reader_is_called_past_the_limits():
    """Whoever adds a reader calls one in `drgate.files`, or says here why its input has a limit already."""
    found = set()
    for file in sorted([*ROOT.glob("drgate/**/*.py"), *ROOT.glob("trainer/**/*.py")]):
        name = file.relative_to(ROOT).as_posix()
        if name not in ITSELF:
            found |= {(name, reader) for reader in called(ast.parse(file.read_text()))}
    assert found - ALLOWED.keys() == set(), "call a function of drgate.files instead"
    assert ALLOWED.keys() - found == set(), "no longer needed"


def test_the_walk_finds_each_way_to_read():
    source = "open(a)\nPath(a).open()\nnp.load(a)\nfrom json import loads\nmap(Path.read_text, b)\n"
    assert set(called(ast.parse(source))) == {"open", "np.load", "json.loads", "read_text"}


def test_all_limits_are_in_one_table():
    """A number of bytes that another module writes down is a limit that nobody finds."""
    allowed = {"MAX_VALID_DAYS", "MAX_REASON", "MAX_PIXELS"}  # the last in a module that imports nothing of drgate
    for file in sorted([*ROOT.glob("drgate/**/*.py"), *ROOT.glob("trainer/**/*.py")]):
        if file.name == "limits.py" or "vision" in file.parts:
            continue
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.AnnAssign | ast.Assign):
                (target,) = node.targets if isinstance(node, ast.Assign) else (node.target,)
                name = target.id if isinstance(target, ast.Name) else ""
                assert not name.startswith("MAX_") or name in allowed or "limits." in ast.unparse(node), (file, name)


# -- hostile sizes -----------------------------------------------------------------------------------------------------

ROOM = 1 << 30
"""Memory that all hostile inputs together may take beyond what the imported program takes."""
SECONDS = 300
"""Processor time for all of them; a limit, no measurement. Each alone would take longer without its own."""
CHILD = f"""
import io, json, resource, sys
from contextlib import redirect_stderr
import pyarrow.parquet, drgate.judge, drgate.predictions, drgate.plan, drgate.tune, drgate.compare
from drgate.cli import main
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + {ROOM}, taken + {ROOM}))
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
answers = []
for arguments in json.load(sys.stdin):
    said, code = io.StringIO(), None
    with redirect_stderr(said):
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code
    answers.append([code, said.getvalue()])
json.dump(answers, sys.stdout)
"""

ROW = {"image": "a.png", "grade": 0, "predicted": 0}
HEAD = b"image,grade,predicted\n"


def parquet(path: Path, columns: dict[str, Any], **settings: Any) -> None:
    pq.write_table(pa.table(columns), path, **settings)


def sparse(path: Path, start: bytes = b"") -> None:
    """Ten gigabytes that take no room on the disk; they begin as text, or would be named as a binary file."""
    path.write_bytes(start.ljust(NAMED_BY, b"\n"))
    with path.open("rb+") as handle:
        handle.truncate(10 << 30)


def long_text_repeated(path: Path) -> None:
    """60 KB, a hundred thousand times: six gigabytes in a file of 70 KB."""
    rows = 100_000
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array(["x" * 60_000]))
    parquet(path, {"image": pa.array([f"{i}.png" for i in range(rows)]), "grade": pa.array([0] * rows), "note": text})


def nulls(path: Path, size: int = 1 << 30, start: bytes = b"") -> None:
    """Bytes that are zero after the start, and take no room on the disk."""
    path.write_bytes(start)
    with path.open("rb+") as handle:
        handle.truncate(size)


def workbook(path: Path, sheet: Iterable[bytes], strings: Iterable[bytes] = ()) -> None:
    """An Excel file of one sheet, given as the inside of its XML; written in parts, because it may be large."""
    main, office = (
        f"http://schemas.openxmlformats.org/{one}" for one in ("spreadsheetml/2006/main", "officeDocument/2006")
    )
    package = "http://schemas.openxmlformats.org/package/2006"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {"workbook": "sheet.main", "sheet": "worksheet", "strings": "sharedStrings"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        types = "".join(
            f'<Override PartName="/xl/{one}.xml" ContentType="{kind}.{is_}+xml"/>' for one, is_ in parts.items()
        )
        archive.writestr("[Content_Types].xml", f'<Types xmlns="{package}/content-types">{types}</Types>')
        for place, links in {
            "_rels/.rels": {"officeDocument": "xl/workbook.xml"},
            "xl/_rels/workbook.xml.rels": {"worksheet": "sheet.xml", "sharedStrings": "strings.xml"},
        }.items():
            each = "".join(
                f'<Relationship Id="{to}" Type="{office}/relationships/{to}" Target="{at}"/>'
                for to, at in links.items()
            )
            archive.writestr(place, f'<Relationships xmlns="{package}/relationships">{each}</Relationships>')
        book = '<sheets><sheet name="s" sheetId="1" r:id="worksheet"/></sheets>'
        archive.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{main}" xmlns:r="{office}/relationships">{book}</workbook>'
        )
        for name, tag, inside in (("sheet", "worksheet", sheet), ("strings", "sst", strings)):
            with archive.open(f"xl/{name}.xml", "w") as handle:
                handle.write(f'<{tag} xmlns="{main}">'.encode())
                for part in inside:
                    handle.write(part)
                handle.write(f"</{tag}>".encode())


def cells(*rows: tuple[str, int]) -> bytes:
    """A sheet with one text each at such a column and row."""
    texts = (f'<row r="{n}"><c r="{at}{n}" t="inlineStr"><is><t>image</t></is></c></row>' for at, n in rows)
    return f'<dimension ref="A1:XFD1048576"/><sheetData>{"".join(texts)}</sheetData>'.encode()


def listening(path: Path) -> None:
    """A socket, with a name that its kind allows however long the folder's is."""
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


HOSTILE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "Parquet: a run of 20 million rows": (
        "p.parquet",
        lambda path: parquet(path, {"image": pa.nulls(20_000_000, pa.string())}),
        "has 20000000 rows of 1 cells, more than 10000000 rows",
    ),
    "Parquet: 2,000 columns": (
        "p.parquet",
        lambda path: parquet(path, {f"c{i}": [0] for i in range(2000)}),
        "has 2000 columns, more than 1000",
    ),
    "Parquet: one long text repeated": ("p.parquet", long_text_repeated, "holds more than 1 GB of text"),
    "Parquet: one cell of a megabyte": (
        "p.parquet",
        lambda path: parquet(path, {"image": ["x" * (1 << 20)], "grade": [0]}),
        "has a cell longer than 65536 characters",
    ),
    "Parquet: lists": (
        "p.parquet",
        lambda path: parquet(path, {"image": ["a"], "grade": [0], "more": [[1] * 1_000_000]}),
        "has lists, records or long binary values in column 3; remove it",
    ),
    "Parquet: wide binary values": (
        "p.parquet",
        lambda path: parquet(path, {"image": ["a"], "wide": pa.array([b"0" * 1000], pa.binary(1000))}),
        "has lists, records or long binary values in column 2; remove it",
    ),
    "Parquet: texts that share beginnings": (
        "p.parquet",
        lambda path: parquet(
            path,
            {"image": ["a", "ab"]},
            use_dictionary=False,
            column_encoding={"image": "DELTA_BYTE_ARRAY"},
        ),
        "is written with the encoding DELTA_BYTE_ARRAY; write it again",
    ),
    "Parquet: ten gigabytes": ("p.parquet", lambda path: sparse(path, b"PAR1"), "is larger than 1 GB"),
    "Parquet: cut off": ("p.parquet", lambda path: path.write_bytes(b"PAR1" + b"\xff" * 8), "is not a Parquet file"),
    "CSV: ten gigabytes": ("t.csv", lambda path: sparse(path, HEAD), "is larger than 1 GB"),
    "CSV: 70,000 columns": ("t.csv", lambda path: path.write_bytes(b"," * 70_000), "has more than 1000 columns"),
    "CSV: a row of 3 MB": (
        "t.csv",
        lambda path: path.write_bytes(HEAD + b"a,0,0\n" + b"," * (3 << 20)),
        "line 3: the row is longer than 1048576 characters",
    ),
    "CSV: a row over many lines": (
        "t.csv",
        lambda path: path.write_bytes(HEAD + b'"\n",' * (1 << 20)),
        "the row is longer than 1048576 characters",
    ),
    "CSV: quotes that do not end": (
        "t.csv",
        lambda path: path.write_bytes(HEAD + b'"a,0,0\n' + b"b,0,0\n" * 1000),
        "the quotes do not match",
    ),
    "CSV: a cell of 200 KB": (
        "t.csv",
        lambda path: path.write_bytes(HEAD + b"x" * 200_000 + b",0,0\n"),
        "a cell is longer than 131072 characters",
    ),
    "CSV: few bytes, many cells": (
        "t.csv",
        lambda path: path.write_bytes(b",".join(b"c%d" % i for i in range(1000)) + b"\n" * 110_000),
        "has more than 10000000 rows or 100000000 cells",
    ),
    "CSV: more cells than names": (
        "t.csv",
        lambda path: path.write_bytes(HEAD + b"a,0,0,9\n"),
        "line 2: there are 4 cells under a header of 3",
    ),
    "CSV: a cell of 300 MB": (
        "t.csv",
        lambda path: nulls(path, 300 << 20, HEAD + b"x" * NAMED_BY),
        "line 2: the row is longer than 1048576 characters",
    ),
    "CSV: a gigabyte of nulls": ("t.csv", nulls, "is a binary file"),
    "JSON: a gigabyte of nulls": ("t.json", nulls, "is a binary file"),
    "Excel: a gigabyte of nulls": ("t.xlsx", nulls, "is a binary file"),
    "JSON: lists 100,000 deep": (
        "t.json",
        lambda path: path.write_bytes(b"[" * 100_000 + b"]" * 100_000),
        "is not valid JSON",
    ),
    "JSON: a cell 100,000 deep": (
        "t.json",
        lambda path: path.write_bytes(b'{"columns": ["image"], "data": %s1%s}' % (b"[" * 100_000, b"]" * 100_000)),
        "is not valid JSON",
    ),
    "JSON lines: a line 100,000 deep": (
        "t.jsonl",
        lambda path: path.write_bytes(b'{"image": "a"}\n{"image": %s1%s}\n' % (b"[" * 100_000, b"]" * 100_000)),
        "line 2 is not one JSON object",
    ),
    "JSON lines: a line of 900 MB": (
        "t.jsonl",
        lambda path: nulls(path, 900 << 20, b'{"image": "a"}\n{"image": "' + b"x" * NAMED_BY),
        "line 2: the row is longer than 1048576 bytes",
    ),
    "JSON lines: a line of 2 GB": (
        "t.jsonl",
        lambda path: nulls(path, 2 << 30, b'{"image": "a"}\n{"image": "' + b"x" * NAMED_BY),
        "is larger than 1 GB",
    ),
    "Excel: ten million empty cells": (
        "t.xlsx",
        lambda path: workbook(
            path, [b"<sheetData>", *[b"<row>" + b"<c/>" * 1000 + b"</row>"] * 10_000, b"</sheetData>"]
        ),
        "has more than 2000000 XML elements",
    ),
    "Excel: ten million texts": (
        "t.xlsx",
        lambda path: workbook(path, [cells(("A", 1))], [b"<si/>" * 100_000] * 100),
        "has more than 2000000 XML elements",
    ),
    "Excel: one text of 300 MB": (
        "t.xlsx",
        lambda path: workbook(path, [cells(("A", 1))], [b"<si><t>", *[b"x" * (1 << 20)] * 300, b"</t></si>"]),
        "holds more than 256 MB after decompression",
    ),
    "Excel: a size of all cells": (
        "t.xlsx",
        lambda path: workbook(path, [cells(("A", 1))]),
        "has no rows",
    ),
    "Excel: a cell in the last corner": (
        "t.xlsx",
        lambda path: workbook(path, [cells(("A", 1), ("XFD", 1 << 20))]),
        "row 1048576 has more than 1000 cells",
    ),
    "Excel: row two billion": (
        "t.xlsx",
        lambda path: workbook(path, [cells(("A", 1), ("A", 2_000_000_000))]),
        "has more than 1048576 rows",
    ),
    "a pipe": ("t.csv", os.mkfifo, "is a pipe or a socket"),
    "a pipe named Parquet": ("t.parquet", os.mkfifo, "is a pipe or a socket"),
    "a socket": ("t.csv", listening, "is a pipe or a socket"),
}

HISTORIES: dict[str, tuple[bytes, str]] = {
    "JSON: deep": (b"[" * 1_000_000, "is not valid JSON"),
    "JSON: deeper than any of ours": (b"[" * 200 + b"]" * 200, "is nested more than 50 deep"),
    "JSON: very many values": (b"[" + b"0," * 6_000_000 + b"0]", "holds more than 5000000 values"),
    "JSON: an epoch of 5,000 digits": (b'{"history": [{"epoch": %s}]}' % (b"9" * 5000), "is not valid JSON"),
    "JSON: an epoch of 4,000 digits": (b'{"history": [{"epoch": %s}]}' % (b"9" * 4000), "of more than 64 bits"),
    "JSON: a number beyond all numbers": (b'{"history": [{"epoch": 1e999}]}', "has a number that is too large"),
    "JSON: half of a surrogate pair": (b'{"history": "\\ud800"}', "is not valid JSON"),
    "JSON: an entry that is everything": (
        b'{"selected_epoch": 1, "history": ["' + b"x" * 1_000_000 + b'"]}',
        "expected one with epoch",
    ),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """What drgate says to each, one after another in two processes with little memory: tables, and the others."""
    commands: dict[str, list[str]] = {}
    good = tmp_path_factory.mktemp("good") / "good.csv"
    good.write_bytes(HEAD + b"a.png,0,0\n")
    for name, (file, write, _) in HOSTILE.items():
        path = tmp_path_factory.mktemp("table") / file
        write(path)
        commands[name] = ["evaluate", str(path)]
        commands[f"{name} (plan)"] = ["plan", "--data", str(path)]
    for name, (content, _) in HISTORIES.items():
        path = tmp_path_factory.mktemp("history") / "history.json"
        path.write_bytes(content)
        commands[name] = ["evaluate", str(good), "--record", str(path)]
        commands[f"{name} (cut-offs)"] = ["evaluate", str(good), "--operating-point", str(path)]
    large = tmp_path_factory.mktemp("large") / "large.jsonl"
    sparse(large)
    commands["a chain of looks"] = ["evaluate", str(good), "--looks", str(large)]
    commands["a certificate"] = ["verify", str(large)]
    commands["a checklist"] = ["spec", "show", str(large)]
    commands["a key"] = ["evaluate", str(good), "--key", str(large)]
    many = tmp_path_factory.mktemp("many") / "looks.jsonl"
    many.write_bytes(b"{}\n" * 300_000)
    commands["a chain of many lines"] = ["evaluate", str(good), "--looks", str(many)]
    checklist = tmp_path_factory.mktemp("checklist") / "mine.yaml"
    checklist.write_bytes(b"a: [" + b"1, " * 300_000 + b"1]\n")
    commands["a checklist of 0.9 MB"] = ["spec", "show", str(checklist)]
    tables = [one for one in commands if one.removesuffix(" (plan)") in HOSTILE]
    others = [one for one in commands if one not in tables]
    return {name: said for names in (tables, others) for name, said in _told(names, commands).items()}


def _told(names: list[str], commands: dict[str, list[str]]) -> dict[str, tuple[int, str]]:
    ended = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps([commands[name] for name in names]),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"},
        check=False,
        timeout=600,  # where a pipe is waited for
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return dict(zip(names, json.loads(ended.stdout.splitlines()[-1]), strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says how much memory the program takes")
class TestHostile:
    @pytest.mark.parametrize("name", [*HOSTILE, *HISTORIES], ids=str)
    def test_ends_in_one_sentence(self, name: str, answers: dict[str, tuple[int, str]]):
        """Exit code 2 and one line of what is wrong, in a process with a gigabyte to spare."""
        if name.startswith("Excel") and importlib.util.find_spec("openpyxl") is None:
            pytest.skip("the extra xlsx is not installed")
        sentence = HOSTILE[name][2] if name in HOSTILE else HISTORIES[name][1]
        others = [f"{name} (plan)"] if name in HOSTILE else []
        for asked in (name, *others):
            code, said = answers[asked]
            assert (code, said.count("\n"), "Traceback" in said) == (2, 1, False), said
            assert sentence in said
            assert len(said) < 2500

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("a chain of looks", "is larger than 256 MB"),
            ("a chain of many lines", "has more than 200000 lines"),
            ("a certificate", "is larger than 16 MB"),
            ("a checklist", "is larger than 64 KB"),
            ("a checklist of 0.9 MB", "is larger than 64 KB"),
            ("a key", "is larger than 64 KB"),
            *((f"{name} (cut-offs)", "") for name in HISTORIES),
        ],
    )
    def test_other_files(self, name: str, sentence: str, answers: dict[str, tuple[int, str]]):
        code, said = answers[name]
        assert (code, said.count("\n"), "Traceback" in said) == (2, 1, False), said
        assert sentence in said


class TestParquet:
    def test_pages_are_counted_before_they_are_decoded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A footer may say anything; the pages' own headers decide."""
        zeros = pa.array([b"\0" * 1000] * 10_000)
        parquet(tmp_path / "p.parquet", {"image": zeros}, compression="gzip", use_dictionary=False)
        assert (tmp_path / "p.parquet").stat().st_size < 100_000
        monkeypatch.setattr(limits, "TABLE_TEXT", 1 << 20)
        monkeypatch.delattr(pq.ParquetFile, "read_row_group")
        with pytest.raises(PredictionsError, match="after decompression"):
            read_parquet(tmp_path / "p.parquet", "a table", PredictionsError)

    def test_page_headers_add_up_to_the_footer(self, tmp_path: Path):
        """All pages of honest files are found: those of both versions, with dictionaries, nulls and many row groups."""
        columns = {"a": [f"{i}.png" for i in range(5000)], "b": [None, 1.5] * 2500, "c": ["x", "y"] * 2500}
        for version in ("1.0", "2.0"):
            path = tmp_path / "p.parquet"
            parquet(path, columns, data_page_version=version, row_group_size=1000, data_page_size=1000)
            metadata = pq.read_metadata(path)
            with path.open("rb") as handle:
                for i in range(metadata.num_row_groups):
                    for j in range(3):
                        column = metadata.row_group(i).column(j)
                        sizes = [size for size, _ in _pages(column, handle)]
                        assert 0 <= column.total_uncompressed_size - sum(sizes) < 100 * len(sizes)

    def test_a_damaged_file_is_one_sentence(self, tmp_path: Path):
        """Whichever byte is changed: the table is read, or refused as damaged."""
        columns = {"image": ["a.png", "b.png"], "grade": [0, 1], "p_0": [0.5, None]}
        path = tmp_path / "p.parquet"
        parquet(path, columns)
        whole = path.read_bytes()
        sentences = []
        for at in range(0, len(whole), 3):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
            try:
                assert len(read_table(path, "a table", PredictionsError)) > 0
            except PredictionsError as problem:
                sentences.append(str(problem))
        assert sentences
        assert not any("\n" in sentence for sentence in sentences)

    @pytest.mark.parametrize("column", ["image", "patient", "grade", "note"])
    def test_bytes_are_text_or_refused(self, column: str, tmp_path: Path):
        """Also whole numbers that no exact float holds are read."""
        path = tmp_path / "t.parquet"
        cells: dict[str, Any] = {"image": ["a", "b"], "grade": [0, 1], "predicted": [0, 1]}
        cells["large"] = pa.array([2**64 - 1, None], pa.uint64())
        parquet(path, cells | {column: pa.array([b"0", b"1"])})
        assert load_predictions(path).table[column].tolist() == ([0, 1] if column == "grade" else ["0", "1"])
        parquet(path, cells | {column: pa.array([b"0", b"\xff"])})
        with pytest.raises(PredictionsError, match="or has bytes that are no text"):
            load_predictions(path)

    def test_categories_and_indexes_are_read_as_before(self, tmp_path: Path):
        table = pd.DataFrame({"image": ["a", "b", "c"], "n": pd.array([1, None, 3], dtype="Int64")})
        table["camera"] = pd.Categorical(["X", None, "X"])
        table.to_parquet(tmp_path / "p.parquet")
        read = read_table(tmp_path / "p.parquet", "a table", PredictionsError)
        assert read["camera"].tolist()[::2] == ["X", "X"]
        assert read["camera"].isna().tolist() == [False, True, False]
        assert read["n"].dtype == "Int64"


class TestToml:
    @pytest.mark.parametrize("key", ["a" + ".a" * 50_000, '"a"' + "  . 'b'" * 50_000, "[" + "a." * 50_000 + "a]"])
    def test_a_key_of_very_many_parts_is_refused_unread(self, key: str, monkeypatch: pytest.MonkeyPatch):
        """tomllib takes time and memory with the square of the parts."""
        monkeypatch.delattr("tomllib.loads")
        with pytest.raises(PolicyError, match="has a key of more than 100 parts"):
            parse_toml(key.encode(), "drgate.toml", "a policy", PolicyError)

    @pytest.mark.parametrize("text", ["1.2.3 " * 10_000, "pip==1.2, " * 999, "a" * 500_000, '"' * 999, "..." * 9999])
    def test_values_may_have_dots(self, text: str):
        (parsed,) = parse_toml(f"a = '{text[:99]}'\n# {text}\n".encode(), "p", "a policy", PolicyError).values()
        assert parsed == text[:99]

    def test_numbers_have_64_bits(self):
        for number in ("0x" + "f" * 6000, "9" * 5000):
            with pytest.raises(PolicyError, match=r"64 bits|not valid TOML"):
                parse_toml(f"a = {number}".encode(), "drgate.toml", "a policy", PolicyError)


class TestCsv:
    def test_honest_spellings(self, tmp_path: Path):
        """Byte order mark, Windows line ends, quoted separators, quotes and line breaks, short rows, a blank line."""
        path = tmp_path / "t.csv"
        path.write_bytes('\ufeffimage, note ,more\r\n"a,b","say ""hi""\nthere",x\r\nc\r\n\r\n'.encode())
        table = read_table(path, "a table", PredictionsError)
        assert list(table.columns) == ["image", "note", "more"]
        assert table["image"].tolist()[:2] == ["a,b", "c"]
        assert table["note"].iloc[0] == 'say "hi"\nthere'
        assert table.isna().to_numpy().tolist() == [[False] * 3, [False, True, True]]

    def test_what_spreadsheets_leave_at_the_end_is_not_read(self, tmp_path: Path):
        """Empty lines and empty columns without a name; in the middle an empty row is refused."""
        path = tmp_path / "t.csv"
        plain = "image,grade\na.png,0\nb.png,1\n"
        for text in (plain + "\n\n", plain.replace("\n", ",,,\n") + ",,,,\n", plain):
            path.write_text(text)
            table = read_table(path, "a table", PredictionsError)
            assert list(table.columns) == ["image", "grade"]
            assert table["image"].tolist() == ["a.png", "b.png"]
        path.write_text(plain.replace("0\n", "0\n\n"))
        with pytest.raises(PredictionsError, match="line 3: the row is empty"):
            read_table(path, "a table", PredictionsError)

    @pytest.mark.parametrize(
        ("name", "head", "sentence"),
        [
            ("t.csv", "image;grade", "line 2: there are 3 cells under a header of 2"),
            ("t.tsv", "image,grade", "line 2: there are 3 cells under a header of 2"),
        ],
    )
    def test_a_cell_too_many_by_the_separator_of_the_first_line(
        self, name: str, head: str, sentence: str, tmp_path: Path
    ):
        """As German and Spanish spreadsheets write it, whose numbers have commas."""
        (tmp_path / name).write_text(f"{head}\n0,6;0,1;3\n")
        with pytest.raises(PredictionsError, match=sentence):
            read_table(tmp_path / name, "a table", PredictionsError)


class TestSigner:
    @pytest.fixture
    def key(self, tmp_path: Path) -> Callable[[str], CommandKey]:
        _, public = generate_key(tmp_path / "k", None)
        return lambda program: CommandKey(load_public_key(public), (sys.executable, "-c", program))

    def test_writes_without_end(self, key: Callable[[str], CommandKey]):
        with pytest.raises(CertificateError, match="or wrote more than 64 KB; nothing was signed"):
            key("while True: print('x' * 9999)").sign(b"data")

    def test_never_ends(self, key: Callable[[str], CommandKey], monkeypatch: pytest.MonkeyPatch):
        """Nor does what it started, which holds its output open."""
        monkeypatch.setattr(limits, "SIGNER_SECONDS", 0.5)
        start = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(5)'])"
        for program in (f"{start}; time.sleep(60)", start, "import os, time; os.close(1); time.sleep(60)"):
            with pytest.raises(CertificateError, match=r"took longer than 0\.5 seconds"):
                key(program).sign(b"data")

    def test_reads_only_a_part(self, key: Callable[[str], CommandKey]):
        """A command that ends without reading all that it is given is told by its exit code."""
        with pytest.raises(CertificateError, match="failed \\(exit code 3\\)"):
            key("raise SystemExit(3)").sign(b"x" * (4 << 20))


class TestHonestSizes:
    def test_a_long_run_is_read(self, tmp_path: Path):
        """A thousand epochs, each with its figures and the spend in between."""
        lines: list[dict[str, Any]] = [{"event": "start", "spend": {"usd": 0.0}, "parameters": {}}]
        for epoch in range(1, 1001):
            lines.append({"event": "spend", "usd": 0.1, "seconds": 1.0})
            lines.append({"event": "epoch", "epoch": epoch, "val_accuracy": 0.5, "usd": 0.1, "more": "x" * 1000})
        (tmp_path / "record.jsonl").write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        assert len(read_record(tmp_path / "record.jsonl")["history"]) == 1000

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_a_large_table_is_read_in_parts(self, suffix: str, tmp_path: Path):
        """Several conversions and row groups give the rows in their order."""
        n = 150_000
        table = pd.DataFrame({"image": [f"{i:06d}.png" for i in range(n)], "grade": np.arange(n) % 5})
        for i in range(8):
            table[f"c{i}"] = "x"
        path = tmp_path / f"t{suffix}"
        if suffix == ".csv":
            table.to_csv(path, index=False)
        else:
            pq.write_table(pa.Table.from_pandas(table), path, row_group_size=40_000)
        read = read_table(path, "a table", PredictionsError)
        assert read["image"].tolist() == table["image"].tolist()
        assert read["grade"].astype(int).tolist() == table["grade"].tolist()

    def test_a_large_folder_is_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        for i in range(30):
            (tmp_path / f"{i}.png").touch()
        assert len(load_manifest(tmp_path)) == 30
        with pytest.raises(ManifestError, match="holds more than 20 files; name a smaller folder"):
            list(files_below(tmp_path, ManifestError, limit=20))
        with pytest.raises(ManifestError, match="holds more than 20 files"):
            entries(tmp_path, ManifestError, limit=20)


class TestRecord:
    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (b'{"event": "start"}\n' * 2 + b'{"epoch": %s}\n' % (b"9" * 5000), "line 3 is not valid JSON"),
            (b'{"event": "start"}\n' * 300_000, "has more than 200000 lines"),
            (b'{"event": "start", "a": %s}\n' % (b"[" * 100_000), "line 1 is not valid JSON"),
            (b"\xff\n", "line 1 is not valid JSON"),
        ],
        ids=["5,000 digits", "lines", "deep", "no text"],
    )
    def test_of_a_run_is_refused(self, content: bytes, sentence: str, tmp_path: Path):
        (tmp_path / "record.jsonl").write_bytes(content)
        with pytest.raises(RecordError, match=sentence):
            read_record(tmp_path / "record.jsonl")

    def test_of_very_many_resumes_takes_linear_time(self, tmp_path: Path):
        """A few megabytes: nothing is copied at a resume."""
        epochs = b"".join(b'{"event":"epoch","epoch":%d,"usd":0}\n' % i for i in range(30_000))
        resumes = b'{"event":"resume","epoch":40000,"spend":{},"warm_start":true}\n' * 30_000
        (tmp_path / "record.jsonl").write_bytes(b'{"event":"start","spend":{}}\n' + epochs + resumes)
        started = time.process_time()
        table = read_record(tmp_path / "record.jsonl")
        assert (len(table["history"]), len(table["resumes"]), len(table["warm_starts"])) == (30_000,) * 3
        assert time.process_time() - started < 15

    def test_a_resume_takes_back_what_came_after_its_epoch(self, tmp_path: Path):
        lines = [{"event": "start", "spend": {}}]
        lines += [{"event": "epoch", "epoch": i, "usd": 0} for i in (1, 2, 3)]
        lines += [{"event": "best", "epoch": i, "tensor_digest": name} for i, name in ((1, "a"), (3, "b"))]
        lines += [{"event": "resume", "epoch": 2, "spend": {}}]
        (tmp_path / "record.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        table = read_record(tmp_path / "record.jsonl")
        assert [entry["epoch"] for entry in table["history"]] == [1, 2]
        assert table["digests"] == {"a": 1}

    def test_of_ten_gigabytes(self, tmp_path: Path):
        sparse(tmp_path / "record.jsonl")
        with pytest.raises(RecordError, match="is larger than 64 MB"):
            read_record(tmp_path / "record.jsonl")
