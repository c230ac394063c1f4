"""Every reader has a limit: none is called past the functions that have one, and hostile sizes end in one sentence."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

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

ITSELF = ("drgate/files.py", "drgate/parquet.py")
"""The modules whose functions take their limits from `drgate.limits`."""

ALLOWED = {
    ("drgate/certificate/keys.py", "Popen"): "reads with a limit of bytes and time (TestSigner)",
    ("drgate/certificate/keys.py", "os.open"): "creates a key",
    ("drgate/checklist.py", "iterdir"): "drgate's own folder of checklists",
    ("drgate/cli/app.py", "os.open"): "/dev/null",
    ("drgate/cli/checklist.py", "YAML"): "writes",
    ("drgate/cli/gate.py", "open"): "appends",
    ("drgate/demo/story.py", "open"): "appends",
    ("drgate/demo/story.py", "subprocess.run"): "drgate's own commands",
    ("drgate/demo/synthetic.py", "open"): "writes",
    ("drgate/export.py", "iterdir"): "the folder that judge just wrote",
    ("drgate/gate/repository.py", "Popen"): "sizes are asked before bytes",
    ("drgate/gate/repository.py", "open"): "as many bytes as the pointer says, which has a limit",
    ("drgate/gate/repository.py", "subprocess.run"): "git's lists, counted in _lines",
    ("drgate/judge.py", "glob"): "chains of looks of this user",
    ("drgate/judge.py", "iterdir"): "names in the folder of an evaluation, to tell whether it is in use",
    ("drgate/looks.py", "json.loads"): "lines that were made or checked just before",
    ("drgate/looks.py", "open"): "the lock",
    ("drgate/predictions.py", "read_metadata"): "drgate.parquet's own",
    ("drgate/verify.py", "iterdir"): "names beside a certificate",
    ("drgate/verify.py", "json.loads"): "an evaluation that was made just before",
    ("drgate/vision/base.py", "safe_open"): "maps the file; its header has a limit of its own",
    ("drgate/vision/checkpoint.py", "open"): "drgate.vision's own limits",
    ("drgate/vision/checkpoint.py", "torch.load"): "drgate.vision's own limits",
    ("drgate/vision/images.py", "Image.open"): "checks the size in the header first",
    ("trainer/attempts/ledger.py", "read_text"): "/proc",
    ("trainer/data.py", "glob"): "the cache's unfinished files",
    ("trainer/data.py", "memmap"): "maps a file whose size was compared first",
    ("trainer/data.py", "open"): "the cache: as many bytes as its header needs",
    ("trainer/fetch.py", "open"): "in parts",
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
    allowed = {"MAX_VALID_DAYS", "MAX_REASON"}
    for file in sorted([*ROOT.glob("drgate/**/*.py"), *ROOT.glob("trainer/**/*.py")]):
        if file.name == "limits.py" or "vision" in file.parts:
            continue
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.AnnAssign | ast.Assign):
                (target,) = node.targets if isinstance(node, ast.Assign) else (node.target,)
                name = target.id if isinstance(target, ast.Name) else ""
                assert not name.startswith("MAX_") or name in allowed or "limits." in ast.unparse(node), (file, name)
