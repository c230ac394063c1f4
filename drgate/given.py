"""What a path leads to, wherever a person gives one: an evaluation by its folder or by any of its files.

    table_in(Path("reports/release-3"))                   # reports/release-3/predictions.parquet
    certificate_in(Path("reports/release-3/report.html"))  # reports/release-3/certificate.json
    source_in(Path("bundle"))                             # None: a model, for `find_model`

`Problems` keeps what is wrong with several arguments, so that all of it is said at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from drgate.content import HEAD, named
from drgate.errors import DrgateError, PredictionsError, UsageError
from drgate.files import read_beginning

_T = TypeVar("_T")

TABLES: Final = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".json", ".jsonl", ".ndjson", ".xlsx")
"""Suffixes of a table of predictions."""

PREDICTIONS: Final = "predictions.parquet"
NAMES: Final = "names.csv"
"""Leads from the published names of images and patients to the caller's own; never to be published."""

WRITTEN: Final = (
    "evaluation.json",
    "statement.json",
    "certificate.json",
    PREDICTIONS,
    "predictions.scored.json",
    "audit.json",
    "report.html",
    "report.md",
    "junit.xml",
    NAMES,
)
"""What an evaluation's folder holds; other files there are left alone."""


class Problems:
    """Collects what is wrong with arguments that do not depend on one another.

    problems = Problems()
    checklist = problems.of(lambda: load_checklist(name))     # None where it raises DrgateError
    """

    def __init__(self) -> None:
        self.found: list[DrgateError] = []

    def of(self, read: Callable[[], _T]) -> _T | None:
        """What `read` returns; None where it raises DrgateError, which is kept."""
        try:
            return read()
        except DrgateError as problem:
            if str(problem) not in map(str, self.found):
                self.found.append(problem)
            return None


def at_once(read: Callable[[], _T]) -> _T | None:
    """What `read` returns; it raises what is wrong. In place of `Problems.of`, where the first problem ends it."""
    return read()


def folder_in(path: Path) -> Path | None:
    """The folder of an evaluation (or a bundle) that a path is or is a file of; None where it is neither."""
    folder = path.parent if path.name in WRITTEN else path
    return folder if (folder / WRITTEN[0]).is_file() else None


def table_in(path: Path) -> Path:
    """The table of predictions that a path leads to: itself, or that of the evaluation it is a file of.

    Raises PredictionsError for a model, and for a folder without a table.
    """
    folder = folder_in(path)
    if folder is not None and path != folder / PREDICTIONS:
        path = folder
    if path.is_dir():
        if (path / PREDICTIONS).is_file():
            return path / PREDICTIONS
        _refuse_model(path)
        raise PredictionsError(
            f"{path} is a folder without {PREDICTIONS}; expected a table, or an evaluation's folder."
        )
    if path.suffix.lower() not in TABLES and path.is_file():
        _refuse_model(path)
    return path


def _refuse_model(path: Path) -> None:
    from drgate.models import find_model  # as late as NumPy: a certificate is verified without both

    try:
        find_model(path)
    except DrgateError:
        return
    raise PredictionsError(
        f"{path} is a model, and predictions are expected; score it first: drgate score {path} --data MANIFEST --out "
        "predictions.parquet."
    )


def source_in(path: Path) -> Path | None:
    """The table of predictions that is to be judged; None where a path is a model, or its bundle.

    Raises PredictionsError for an evaluation without its table, UsageError for what is neither table nor model.
    """
    from drgate.models import EXPECTED, PARTS, SUFFIXES

    folder = folder_in(path)
    if folder is not None and (folder / "model.onnx").is_file():
        return path if path.name == PREDICTIONS else None
    if folder is not None:
        return table_in(path)
    if path.name in PARTS and path.is_file():
        raise UsageError(f"{path} is a part of a model; give its folder, {path.parent}.")
    if path.suffix.lower() in TABLES and not path.is_dir():
        return path
    if not path.is_dir() and (path.suffix.lower() not in SUFFIXES or not path.exists()):
        what = f"is {_named(path) or 'neither a table nor a model'}" if path.exists() else "does not exist"
        raise UsageError(
            f"{path} {what}; expected a table of predictions ({', '.join(TABLES)}), {EXPECTED}, or the folder of an "
            "evaluation."
        )
    return None


def _named(path: Path) -> str:
    return named(read_beginning(path, HEAD, "a table or a model", UsageError))


def model_in(path: Path) -> Path:
    """The model that a path leads to: itself, or the bundle it is a file of. Raises UsageError for an evaluation."""
    folder = folder_in(path)
    if folder is None:
        return path
    if not (folder / "model.onnx").is_file():
        raise UsageError(f"{folder} is an evaluation, not a model; give the model that was judged.")
    return folder if path.name in WRITTEN else path


def certificate_in(path: Path) -> Path:
    """The certificate (else the statement) that a path leads to; itself where it is no folder and no evaluation's file.

    Raises UsageError for a folder without one.
    """
    if path.name in ("certificate.json", "statement.json") and not path.is_dir():
        return path
    folder = folder_in(path) or path
    if not folder.is_dir():
        return path
    for name in ("certificate.json", "statement.json"):
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"{folder} holds no certificate.json; expected a certificate, or the folder of an evaluation.")


def evaluation_in(path: Path) -> Path:
    """The file of an evaluation that a path leads to: evaluation.json, statement.json and certificate.json as given."""
    if path.suffix.lower() == ".json" and not path.is_dir():
        return path
    folder = folder_in(path)
    if folder is None and path.is_dir():
        raise UsageError(f"{path} holds no evaluation.json; expected the folder of an evaluation.")
    return path if folder is None else folder / WRITTEN[0]
