"""Predictions: one row an image, probabilities and reference grade; the only input of a gate.

    predictions = load_predictions(Path("predictions.csv"))
    predictions.digest                     # 'sha256:...' over canonical rows, whatever the file format or row order

A table that `drgate score` wrote carries the digests of model, manifest and preprocessing (`provenance`); one from
elsewhere has none, and whatever follows certifies "these predictions", never a model file.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from drgate.errors import ManifestError, PredictionsError
from drgate.files import canonical_json, read_table, replacing, row_name
from drgate.manifest import eye_column, gradable_column, grade_column, patient_column, text_column

if TYPE_CHECKING:
    from drgate.operating_point import OperatingPoint

PROBABILITIES: Final = ("p_0", "p_1", "p_2", "p_3", "p_4")
COLUMNS: Final = ("image", "patient", "eye", "grade", "gradable", *PROBABILITIES, "predicted")
OPTIONAL_COLUMNS: Final = ("dme", "sha256")
SUM_TOLERANCE: Final = 1e-3
_METADATA_KEY: Final = b"drgate.provenance"
_DME: Final = {
    "1": 1,
    "1.0": 1,
    "yes": 1,
    "true": 1,
    "0": 0,
    "0.0": 0,
    "no": 0,
    "false": 0,
}
_EXPECTED: Final = "a CSV or Parquet table with image, grade and p_0 to p_4 (or predicted)"


@dataclass(frozen=True)
class Predictions:
    """A model's answers beside the reference grades.

    table: sorted by image; columns `COLUMNS`, then `OPTIONAL_COLUMNS` where given, and slice columns. grade and
        predicted are Int8 (NA: no reference grade; no output), probabilities float64 (all five NaN: none given or no
        output), gradable bool, dme Int8 (1: diabetic macular oedema by the reference, NA: not known), sha256 the hex
        digest of the image file's bytes or NA, the rest text or NA.
    provenance: what `score` wrote about model, manifest and preprocessing; empty for a foreign table.
    """

    table: pd.DataFrame = field(repr=False)
    origin: str
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def patients_known(self) -> bool:
        """Whether every row names its patient (all do or none does)."""
        return bool(self.table["patient"].notna().all())

    @property
    def slice_columns(self) -> list[str]:
        """The further columns that a spec may slice by, sorted."""
        return sorted(set(self.table.columns) - {*COLUMNS, *OPTIONAL_COLUMNS})

    def probabilities(self) -> NDArray[np.float64]:
        """(n, 5) probabilities; rows without are NaN."""
        return self.table[list(PROBABILITIES)].to_numpy(dtype=np.float64)

    def at(self, operating_point: OperatingPoint) -> Predictions:
        """The same predictions, graded by cut-offs instead of by the most probable grade.

        Raises PredictionsError for an image that has a predicted grade but no probabilities.
        """
        grades = operating_point.apply(self.probabilities())
        bare = (grades < 0) & self.table["predicted"].notna().to_numpy()
        if bare.any():
            raise PredictionsError(
                f"{self.origin}: image {self.table['image'].iloc[int(bare.argmax())]!r} has a predicted grade but no "
                "probabilities; an operating point needs p_0 to p_4."
            )
        predicted = pd.Series(grades, index=self.table.index, dtype="Int8").where(grades >= 0)
        return replace(self, table=self.table.assign(predicted=predicted))

    @functools.cached_property
    def digest(self) -> str:
        """`sha256:...` over the rows in the order of their images, column by column in the order of their names."""
        state = hashlib.sha256(canonical_json(["drgate predictions 1", len(self.table), sorted(self.table.columns)]))
        for column in sorted(self.table.columns):
            state.update(column_bytes(column, self.table[column]))
        return f"sha256:{state.hexdigest()}"


def load_predictions(path: Path | str, operating_point: OperatingPoint | None = None) -> Predictions:
    """Read a table of predictions from CSV or Parquet and check every cell.

    operating_point: `predicted` may be what its cut-offs give, in the whole table. The table comes back as it was
        written; `at` applies the cut-offs.

    Raises PredictionsError, naming file and row: a missing column, a duplicate image, a grade outside 0-4,
    probabilities that are incomplete, not finite, outside [0, 1] or do not sum to 1 within 1e-3, a `predicted` that is
    neither the most probable grade nor the operating point's.
    """
    path = Path(path)
    table = read_table(path, _EXPECTED, PredictionsError)
    _refuse_nan(path)
    provenance = read_provenance(path)
    rows = provenance.pop("rows", None)
    predictions = _checked(table, path, provenance, operating_point)
    if provenance and rows != predictions.digest:
        raise PredictionsError(
            f"{path} was changed after the model had been scored; score it again, or give a CSV of your own, which "
            "speaks of no model."
        )
    return predictions


def make_predictions(table: pd.DataFrame, origin: str, provenance: dict[str, Any]) -> Predictions:
    """Predictions from a table in memory, checked like one from a file."""
    return _checked(table, Path(origin), provenance, None)


def planned(table: pd.DataFrame, origin: str, about: Mapping[str, Any] | None = None) -> Predictions:
    """The graded rows of a manifest or of predictions as a test set to plan with: every answer is right.

    Any answers in it are dropped; about: becomes the provenance. Raises ManifestError without reference grades.
    """
    if table["grade"].isna().all():
        raise ManifestError(f"{origin} has no reference grades; a plan counts patients by grade.")
    graded = table[~table["gradable"] | table["grade"].notna()]
    kept = graded.drop(columns=[*PROBABILITIES, "predicted", "split"], errors="ignore")
    return make_predictions(kept.assign(predicted=graded["grade"]), origin, dict(about or {}))


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write Parquet (with provenance) or, where the name ends in .csv, CSV (without); whole or not at all."""
    with replacing(path) as temporary:
        if path.suffix.lower() == ".csv":
            predictions.table.to_csv(temporary, index=False, lineterminator="\n")
            return
        # The rows that the provenance speaks of, so that an edited table is not taken for the model's.
        marked = {**predictions.provenance, "rows": predictions.digest} if predictions.provenance else {}
        arrow = pa.Table.from_pandas(predictions.table, preserve_index=False)
        metadata = {**(arrow.schema.metadata or {}), _METADATA_KEY: canonical_json(marked)}
        pq.write_table(arrow.replace_schema_metadata(metadata), temporary)


def read_provenance(path: Path) -> dict[str, Any]:
    """What a table says of its model and images, as yet unproven: `rows` is the digest that its rows must have.

    Empty for a table that `score` did not write. Raises PredictionsError where it is damaged.
    """
    if path.suffix.lower() not in {".parquet", ".pq"}:
        return {}
    text = (pq.read_schema(path).metadata or {}).get(_METADATA_KEY, b"{}")
    try:
        provenance = json.loads(text)
    except ValueError as problem:
        raise PredictionsError(f"{path}: its provenance is not JSON ({problem}); score the model again.") from problem
    if not isinstance(provenance, dict):
        raise PredictionsError(f"{path}: its provenance is not an object; score the model again.")
    return provenance


def _refuse_nan(path: Path) -> None:
    """Pandas shows an absent cell and a literal NaN alike; only the first is an answer."""
    if path.suffix.lower() not in {".parquet", ".pq"}:
        return
    schema = pq.read_schema(path)
    floating = [n for n in PROBABILITIES if n in schema.names and pa.types.is_floating(schema.field(n).type)]
    table = pq.read_table(path, columns=floating)
    for name in floating:
        if pc.any(pc.is_nan(table[name])).as_py():
            row = pc.index(pc.is_nan(table[name]), True).as_py()
            raise PredictionsError(f"{row_name(path, row)}: {name} is NaN; expected a probability or an empty cell.")


def column_bytes(name: str, column: pd.Series[Any]) -> bytes:
    """One column as bytes: which cells are present, then their values in a form that no library version changes."""
    absent = column.isna().to_numpy()
    if name in PROBABILITIES:
        # + 0.0 makes the two zeros one
        values = (column.to_numpy(dtype=np.float64, na_value=0.0) + 0.0).astype("<f8").tobytes()
    elif name in ("grade", "predicted", "dme"):
        values = column.to_numpy(dtype=np.int8, na_value=0).tobytes()
    elif name == "gradable":
        values = column.to_numpy(dtype=np.int8).tobytes()
    else:
        cells = column.to_numpy(dtype=object, copy=True)
        cells[absent] = None
        values = canonical_json(cells.tolist())
    return canonical_json([name, len(values)]) + np.packbits(absent).tobytes() + values


def _checked(
    table: pd.DataFrame, origin: Path, provenance: dict[str, Any], operating_point: OperatingPoint | None
) -> Predictions:
    if "image" not in table.columns:
        raise PredictionsError(f"{origin} has the columns {', '.join(table.columns)}; expected {_EXPECTED}.")
    checked = pd.DataFrame(index=table.index)
    checked["image"] = _images(table["image"], origin)
    checked["patient"] = patient_column(table, origin, PredictionsError)
    checked["eye"] = eye_column(table, origin, PredictionsError)
    checked["grade"] = pd.array(grade_column(table, origin, PredictionsError), dtype="Int8")
    checked["gradable"] = gradable_column(table, origin, PredictionsError)
    checked[list(PROBABILITIES)] = probabilities = _probability_columns(table, origin)
    predicted = _predicted_column(table, probabilities, origin, operating_point)
    checked["predicted"] = pd.array(predicted, dtype="Int8")
    for column in table.columns:
        if column == "dme":
            checked[column] = pd.array(_dme_column(table[column], origin), dtype="Int8")
        elif column == "sha256":
            checked[column] = _sha256_column(table[column], origin)
        elif column not in COLUMNS:
            checked[column] = text_column(table[column])
    return Predictions(checked.sort_values("image", ignore_index=True), str(origin), provenance)


def _images(images: pd.Series[str], origin: Path) -> pd.Series[str]:
    empty = images.isna()
    if empty.any():
        raise PredictionsError(f"{row_name(origin, int(empty.to_numpy().argmax()))}: the image is empty.")
    names = images.astype("str")
    twice = names.duplicated()
    if twice.any():
        i = int(twice.to_numpy().argmax())
        raise PredictionsError(f"{row_name(origin, i)}: image {names.iloc[i]!r} occurs twice; one row an image.")
    return names


def _probability_columns(table: pd.DataFrame, origin: Path) -> NDArray[np.float64]:
    """(n, 5) probabilities, NaN where a row has none; every other defect raises."""
    present = [name for name in table.columns if name.startswith("p_") and name[2:].isdigit()]
    if not present:
        if "predicted" not in table.columns:
            raise PredictionsError(f"{origin} has neither p_0 to p_4 nor predicted; expected {_EXPECTED}.")
        return np.full((len(table), 5), np.nan)
    if set(present) != set(PROBABILITIES):
        raise PredictionsError(
            f"{origin} has the probability columns {', '.join(sorted(present))}; expected p_0 to p_4, "
            "one for each of the five ICDR grades."
        )
    cells = table[list(PROBABILITIES)]
    absent: NDArray[np.bool_] = cells.isna().to_numpy()
    values = np.full(absent.shape, np.nan)
    for j, name in enumerate(PROBABILITIES):
        given = ~absent[:, j]
        try:
            values[given, j] = cells[name].to_numpy(dtype=object)[given].astype(np.float64)
        except (ValueError, TypeError):
            i = next(i for i in np.flatnonzero(given) if not _is_number(cells[name].iloc[i]))
            raise PredictionsError(
                f"{row_name(origin, int(i))}: {name} is {str(cells[name].iloc[i])!r}; expected a number."
            ) from None
    _refuse(absent.any(1) & ~absent.all(1), origin, "some of p_0 to p_4 are empty; give all five or none")
    _refuse(
        (~np.isfinite(values) & ~absent).any(1), origin, "a probability is nan or inf; give a number or leave all empty"
    )
    _refuse(((values < 0) | (values > 1)).any(1), origin, "a probability is outside 0 to 1")
    sums = values.sum(1)
    wrong = ~absent.all(1) & ~(np.abs(sums - 1) <= SUM_TOLERANCE)
    if wrong.any():
        first = int(wrong.argmax())
        raise PredictionsError(
            f"{row_name(origin, first)}: the probabilities sum to {sums[first]:.6g}; expected 1 within {SUM_TOLERANCE}."
        )
    return values


def _is_number(cell: object) -> bool:
    try:
        float(cell)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return False
    return True


def _refuse(rows: Any, origin: Path, trouble: str) -> None:
    if rows.any():
        raise PredictionsError(f"{row_name(origin, int(rows.argmax()))}: {trouble}.")


def _dme_column(column: pd.Series[Any], origin: Path) -> list[int | None]:
    values = [None if pd.isna(cell) else _DME.get(str(cell).strip().lower(), -1) for cell in column]
    if -1 in values:
        i = values.index(-1)
        raise PredictionsError(
            f"{row_name(origin, i)}: dme is {str(column.iloc[i])!r}; expected 0, 1 or an empty cell."
        )
    return values


def _sha256_column(column: pd.Series[Any], origin: Path) -> pd.Series[str]:
    digests = text_column(column).str.strip().str.lower()
    for i, digest in enumerate(digests):
        if not pd.isna(digest) and not re.fullmatch("[0-9a-f]{64}", digest):
            raise PredictionsError(
                f"{row_name(origin, i)}: sha256 is {digest!r}; expected the 64 hex digits of the image file's SHA-256, "
                "or an empty cell."
            )
    return digests


def _predicted_column(
    table: pd.DataFrame, probabilities: NDArray[np.float64], origin: Path, operating_point: OperatingPoint | None
) -> list[int | None]:
    """The decided grade: as given, else the most probable (the lower one of two equals); None is no output."""
    answered = ~np.isnan(probabilities[:, 0])
    best = np.where(answered, np.nan_to_num(probabilities, nan=-1.0).argmax(1), -1)
    if "predicted" not in table.columns:
        return [int(grade) if grade >= 0 else None for grade in best]
    given = grade_column(table[["predicted"]].rename(columns={"predicted": "grade"}), origin, PredictionsError)
    stated = np.array([-1 if grade is None else grade for grade in given], dtype=np.int64)
    _refuse(answered & (stated < 0), origin, "there are probabilities but predicted is empty")
    chosen = np.take_along_axis(probabilities, np.maximum(stated, 0)[:, None], axis=1)[:, 0]
    other = answered & ~(chosen >= np.nan_to_num(probabilities, nan=0.0).max(axis=1))
    if other.any() and operating_point is None:
        i = int(other.argmax())
        raise PredictionsError(
            f"{row_name(origin, i)}: predicted is {stated[i]} but the most probable grade is {best[i]}; cut-offs other "
            "than the most probable grade need an operating-point file."
        )
    if other.any() and operating_point is not None:
        cut = operating_point.apply(probabilities)
        wrong = answered & (cut != stated)
        if wrong.any():
            i = int(wrong.argmax())
            raise PredictionsError(
                f"{row_name(origin, i)}: predicted is {stated[i]} but the operating point gives {cut[i]}, and the "
                "table is not graded by the most probable grade either."
            )
    return given
