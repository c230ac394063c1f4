"""Predictions: one row per image, with probabilities and reference grade; the input of an evaluation.

    predictions = load_predictions(Path("predictions.csv"))
    predictions.digest                     # 'sha256:...' over canonical rows, whatever the file format or row order

A table that `drgate score` wrote contains the digests of model, manifest and preprocessing (`provenance`). A table from
elsewhere has none, so its evaluation is about these predictions and not about a model file.
"""

from __future__ import annotations

import functools
import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from drgate import tables
from drgate.answers import NEEDS_CUT_OFFS
from drgate.columns import PROBABILITIES as PROBABILITIES
from drgate.columns import READER, Columns, graded_rows, reader_columns, reference_of, unexplained, usual_names
from drgate.errors import DrgateError, ManifestError, PredictionsError, unchained
from drgate.evaluation import Computed, read_as
from drgate.files import canonical_json, digest_of, is_parquet, parse_json, replacing
from drgate.grouping import Grouping, grouping
from drgate.mapping import PLAIN, ColumnMap
from drgate.operating_point import OperatingPoint, cumulative
from drgate.parquet import read_metadata
from drgate.scale import GRADES, REFERABLE_CLASSES, STANDS_FOR, Kind, On, Scale

if TYPE_CHECKING:
    from drgate.checklist import Checklist

COLUMNS: Final = ("image", "patient", "eye", "grade", "gradable", *PROBABILITIES, "predicted")
OPTIONAL_COLUMNS: Final = ("dme", "sha256", "referable", "severity", "p_referable", "predicted_referable")
ANSWERS: Final = (*PROBABILITIES, "predicted", "severity", "p_referable", "predicted_referable")
"""The columns that are the model's."""
_REFERS: Final = ("p_referable", "predicted_referable")
SIGNED: Final = (*PROBABILITIES, "severity", "p_referable")
"""The numbers that a model answers with, before anything is decided."""
OPEN: Final = (*COLUMNS, *(column for column in OPTIONAL_COLUMNS if column != "sha256"))
"""The columns that are published whatever the checklist."""
_METADATA_KEY: Final = b"drgate.provenance"
_PUBLISHED: Final = re.compile(r"(?P<key>[0-9a-f]{16})(-[0-9]+)?")
_NUMBER: Final = re.compile("row-[0-9]+")
_EXPECTED: Final = "a table with image, grade and p_0 to p_4 (or predicted, or p_referable)"


@dataclass(frozen=True)
class Predictions:
    """A model's predictions with the reference grades.

    table: sorted by image; columns `COLUMNS`, then `OPTIONAL_COLUMNS` where given, and slice columns. grade and
        predicted are Int8 (NA: no reference grade; no output), probabilities float64 (all five NaN: none given or no
        output), gradable bool (false explains why there is no grade), dme Int8 (1: diabetic macular oedema by the
        reference, NA: not known), sha256 the hex digest of the image file's bytes or NA, reader_1, reader_2, ... Int8
        (NA: this reader did not grade it), the rest text or NA. referable Int8 is there where the reference says only
        whether to refer (then grade is NA throughout), p_referable (NaN: none given) and predicted_referable Int8 where
        the model does (then predicted and p_0 to p_4 are).
    provenance: `score`'s record of model, manifest and preprocessing; empty for a table from elsewhere.
    at_cut_offs: whether the grades are those that `at` gave. notes: what was recognised and mapped when its file was
        read, as sentences. unused: drgate's names of the columns that were mapped and are not in its file.
    """

    table: pd.DataFrame = field(repr=False)
    origin: str
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)
    at_cut_offs: bool = False
    notes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    @functools.cached_property
    def patients(self) -> Grouping:
        """Whose image each row is, as names of images, eyes and patients say together."""
        return grouping(self.table)

    @property
    def answers(self) -> Literal["grades", "severity", "referable"]:
        """What a row answers: a grade, a number on a scale of severity, or only whether to refer."""
        if {"p_referable", "predicted_referable"} & set(self.table.columns):
            return "referable"
        return "severity" if "severity" in self.table.columns else "grades"

    @property
    def scales(self) -> tuple[Scale, Scale]:
        """See `scales`."""
        return scales(self.table)

    @functools.cached_property
    def as_grades(self) -> pd.DataFrame:
        """`grouped` with a grade in the place of what says only whether to refer; see `as_grades`."""
        return as_grades(self.grouped)

    def counts(self) -> dict[str, int]:
        """How many images are answered with each class; none where cut-offs are missing."""
        refers = self.answers == "referable"
        decided = self.table["predicted_referable" if refers else "predicted"]
        return {name: int((decided == i).sum()) for i, name in enumerate(REFERABLE_CLASSES if refers else GRADES)}

    @property
    def patients_known(self) -> bool:
        """Whether every row names its patient, and not by the name of its image."""
        return self.patients.codes is not None

    @functools.cached_property
    def grouped(self) -> pd.DataFrame:
        """The table with its patients as numbers, the two eyes of one under one number; NA where they are unknown."""
        return _grouped(self.table, self.patients)

    @functools.cached_property
    def test_set(self) -> str:
        """Digest of the test set, by which a checklist names it: of the manifest, else of the images."""
        manifest = self.provenance.get("manifest")
        digest = manifest.get("digest") if isinstance(manifest, dict) else None
        return digest if isinstance(digest, str) else self.images_digest

    @functools.cached_property
    def images_digest(self) -> str:
        """Digest of the set of images of a bare table, each by its content, where that is unknown by its name."""
        # As row-N, two test sets of the same size would be one.
        images = [key or image for key, image in zip(self.content_keys, self.table["image"].tolist(), strict=True)]
        return digest_of(["drgate images of a table 1", sorted(set(images))])

    @property
    def numbered(self) -> bool:
        """Whether the images have numbers for names, as where they are published, and nothing says which they are."""
        keys = zip(self.table["image"], self.content_keys, strict=True)
        return not self.provenance and all(key is None and _NUMBER.fullmatch(image) for image, key in keys)

    @property
    def content_keys(self) -> list[str | None]:
        """See `content_keys`."""
        return content_keys(self.table)

    @property
    def slice_columns(self) -> list[str]:
        """The further columns that a checklist may slice by, sorted."""
        return _further(self.table)

    def probabilities(self) -> NDArray[np.float64]:
        """(n, 5) probabilities; rows without are NaN."""
        return self.table[list(PROBABILITIES)].to_numpy(dtype=np.float64)

    def scores(self) -> NDArray[np.float64]:
        """(n, 4) scores that cut-offs act on, NaN in a row without; see `scores_of`."""
        return scores_of(self.table)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """(n,) rows with an answer: a score, or what was decided from one."""
        decided = self.table[[one for one in ("predicted", "predicted_referable") if one in self.table.columns]]
        return np.asarray(~np.isnan(self.scores()[:, 0]) | decided.notna().any(axis=1))

    @property
    def cut_on(self) -> On:
        """What cut-offs act on in this table."""
        return "probabilities" if self.answers == "grades" else self.answers

    @functools.cached_property
    def no_probabilities(self) -> NoProbabilities:
        """Why the answers are no probabilities of grades, by `NO_PROBABILITIES`; "" where they are, or there are none.

        Of all rows, those without a reference grade too.
        """
        if self.answers == "severity":
            return "severity"
        given = self.table[[one for one in SIGNED if one in self.table.columns]].to_numpy(dtype=np.float64)
        given = given[~np.isnan(given)]
        return "one-hot" if len(given) and (np.minimum(given, 1 - given) <= ONE_HOT_WITHIN).all() else ""

    @property
    def lacks_cut_offs(self) -> str:
        """What to do about a table without grades because its answers need cut-offs, as a message; else ""."""
        model = self.provenance.get("model")
        stated = model.get("output") if isinstance(model, dict) else None
        kind: Kind | None = next((one for one in NEEDS_CUT_OFFS if one == stated), None)
        if self.answers == "severity":
            kind = "regression"
        return "" if kind is None or self.at_cut_offs else needs_cut_offs(f"{self.origin} holds", kind)

    def at(self, operating_point: OperatingPoint) -> Predictions:
        """The same predictions, graded by cut-offs instead of by the most probable grade.

        Raises PredictionsError where the cut-offs act on something else than the table holds, and for an image that has
        a decision but no score.
        """
        if operating_point.on != self.cut_on:
            raise PredictionsError(other_cut_offs(self.origin, self.cut_on, operating_point.on))
        name = "predicted_referable" if self.answers == "referable" else "predicted"
        grades = operating_point.apply(self.scores())
        bare = (grades < 0) & self.table[name].notna().to_numpy()
        if bare.any():
            needed = {"probabilities": "p_0 to p_4", "referable": "p_referable"}.get(self.cut_on, self.cut_on)
            raise PredictionsError(
                f"{self.origin}: {int(bare.sum())} images have a predicted grade but no {_SCORE[self.cut_on]}; an "
                f"operating point needs {needed}."
            )
        if self.answers == "referable":
            grades = np.where(grades > 0, 1, grades)
        decided = pd.Series(grades, index=self.table.index, dtype="Int8").where(grades >= 0)
        return replace(self, table=self.table.assign(**{name: decided}), at_cut_offs=True)

    @functools.cached_property
    def digest(self) -> str:
        """`sha256:...` over the rows in the order of their images, column by column in the order of their names."""
        state = hashlib.sha256(canonical_json(["drgate predictions 1", len(self.table), sorted(self.table.columns)]))
        for column in sorted(self.table.columns):
            state.update(column_bytes(column, self.table[column]))
        return f"sha256:{state.hexdigest()}"


NoProbabilities = Literal["", "severity", "one-hot"]

ONE_HOT_WITHIN: Final = 1e-6
"""A number this close to 0 or 1 says no more than 0 or 1 does: what is written beside one-hot to seem a probability."""

NO_PROBABILITIES: Final[dict[NoProbabilities, str]] = {
    "severity": "the model answers with a severity, which is no probability.",
    "one-hot": "all numbers of the model are 0 or 1 within a millionth (one-hot), which are no probabilities.",
}
"""Why nothing can be computed from probabilities, as the rest of a sentence."""

_ANSWER: Final[dict[On, str]] = {
    "probabilities": "probabilities of the grades",
    "severity": "a severity",
    "referable": "a probability of referable",
}
_SCORE: Final[dict[On, str]] = {
    "probabilities": "probabilities",
    "severity": "severity",
    "referable": "probability of referable",
}


def other_cut_offs(origin: str, answers: On, cut_offs: On) -> str:
    """The message for cut-offs that act on something else than the answers."""
    return (
        f"{origin} answers with {_ANSWER[answers]}, but the cut-offs of the operating point act on "
        f"{_ANSWER[cut_offs]}; give cut-offs that were tuned on answers of this kind."
    )


def needs_cut_offs(subject: str, kind: Kind) -> str:
    """The message for answers that give no grade without cut-offs. subject: such as "preds.csv holds"."""
    what = "a severity" if kind == "regression" else "cumulative logits"
    return (
        f"{subject} {what} and has no grades without cut-offs. Find them on a tuning set (drgate score MODEL "
        "--data MANIFEST --split val --out TUNING, drgate tune TUNING --out FILE), then give --operating-point FILE."
    )


def scores_of(table: pd.DataFrame) -> NDArray[np.float64]:
    """(n, 4) scores of a table of predictions that cut-offs act on; NaN in a row without.

    P(grade >= 1) to P(grade >= 4) of probabilities; the severity, four times; of a table that says only whether to
    refer, its probability as the second, and 0.
    """
    if "p_referable" in table.columns:
        likely = table["p_referable"].to_numpy(dtype=np.float64)
        return np.stack([likely * (grade == 2) for grade in range(1, 5)], axis=1)
    if "severity" in table.columns:
        return np.repeat(table["severity"].to_numpy(dtype=np.float64)[:, None], 4, axis=1)
    return cumulative(table[list(PROBABILITIES)].to_numpy(dtype=np.float64))


def _grouped(table: pd.DataFrame, found: Grouping) -> pd.DataFrame:
    """See `Predictions.grouped`."""
    patients = [None] * len(table) if found.codes is None else list(map(str, found.codes.tolist()))
    return table.assign(patient=pd.Series(pd.array(patients, dtype="str"), table.index))


def scales(table: pd.DataFrame) -> tuple[Scale, Scale]:
    """What the model's answers tell apart, and what the reference does."""
    answers: Scale = "referable" if "predicted_referable" in table.columns else "grades"
    return answers, "referable" if "referable" in table.columns else "grades"


def as_grades(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a grade in the place of what says only whether to refer: 0 or 2, and p_referable as p_2.

    So whatever is counted of `referable` is counted as of grades; what needs single grades must ask `scales` first.
    """
    coded = table.assign(grade=reference_of(table)) if "referable" in table.columns else table
    if "predicted_referable" not in table.columns:
        return coded
    low, high = STANDS_FOR["referable"]
    p = table["p_referable"]
    shares = dict.fromkeys(PROBABILITIES, p * 0.0) | {PROBABILITIES[low]: 1 - p, PROBABILITIES[high]: p}
    return coded.assign(predicted=table["predicted"].fillna(table["predicted_referable"] * high), **shares)


def _further(table: pd.DataFrame) -> list[str]:
    return sorted(set(table.columns) - {*COLUMNS, *OPTIONAL_COLUMNS, *reader_columns(table)})


def content_keys(table: pd.DataFrame) -> list[str | None]:
    """What identifies the content of each row's image: the first 16 hex digits of its SHA-256; None where not known.

    A published table has no column sha256: there the name is the key.
    """
    contents = table["sha256"].tolist() if "sha256" in table.columns else [None] * len(table)
    if not any(contents) and not table["image"].str.fullmatch(_PUBLISHED.pattern).any():
        return contents  # a million names in a tenth of a second
    named = map(_PUBLISHED.fullmatch, table["image"].tolist())
    return [
        content[:16] if isinstance(content, str) else name and name["key"]
        for content, name in zip(contents, named, strict=True)
    ]


def computed_of(predictions: Predictions) -> Computed:
    """How the answers were computed, as far as the table's record says."""
    model = predictions.provenance.get("model")
    known = {key: model.get(key) for key in ("providers", "precision", "batch")} if isinstance(model, dict) else {}
    try:
        return read_as(Computed, known, predictions.origin, expected="what drgate score wrote")
    except DrgateError:
        return Computed()


def other_computing(one: Predictions, other: Predictions, who: tuple[str, str]) -> list[str]:
    """A sentence where two tables were computed on other devices, in another precision or in batches of another size.

    who: what the first and the second are called.
    """
    first, second = computed_of(one), computed_of(other)
    if not first.differs(second):
        return []
    here, there = first.beside(second)
    return [f"{who[0]} was scored {here}; {who[1]} {there}."]


def published_names(table: pd.DataFrame) -> list[str]:
    """How published files name the image of each row: its content key, `row-N` where there is none.

    N counts the rows without a key, in the order of the table; of images with the same key the second becomes `...-2`.
    Numbers have leading zeros, so that the names sort in that order. Published names stay as they are.
    """
    contents = content_keys(table)
    if not any(contents):
        digits = len(str(len(contents)))
        return [f"row-{number:0{digits}}" for number in range(1, len(contents) + 1)]
    keys = [key or "row" for key in contents]
    several, seen = Counter(keys), Counter[str]()
    names = []
    for key in keys:
        seen[key] += 1
        alone = key != "row" and seen[key] == 1
        names.append(key if alone else f"{key}-{seen[key]:0{len(str(several[key]))}}")
    return names


def published(predictions: Predictions, checklist: Checklist | None = None) -> Predictions:
    """The predictions as published files hold them, in the order of the published names; a published table stays as is.

    Images have their published names, patients are those of `grouped` as 1 to c in the order of their first image, and
    the columns are those that an evaluation uses. checklist: its slice and site columns are kept, and readers where it
    asks for them; of a baseline (None) none is used.
    """
    further = [] if checklist is None else [*checklist.columns]
    if checklist is not None and checklist.asks_readers:
        further += reader_columns(predictions.table)
    columns = [one for one in dict.fromkeys((*OPEN, *further)) if one in predictions.table.columns]
    names = pd.array(published_names(predictions.table), dtype="str")
    table = predictions.grouped[columns].assign(image=names).sort_values("image", ignore_index=True)
    if predictions.patients_known:
        table["patient"] = pd.array(_numbered(table), dtype="str")
    found = replace(predictions, table=table)
    if predictions.patients_known:
        # Numbers repeat no name and published names tell no eye, so there is nothing to look for in a million of them.
        found.__dict__["patients"] = Grouping("all", pd.factorize(table["patient"])[0].astype(np.int64))
    return found


def without_answers(predictions: Predictions) -> Predictions:
    """The same images and grades without what the model answered."""
    bare = predictions.table.drop(columns=["severity", *_REFERS], errors="ignore")
    bare = bare.assign(predicted=pd.array([None] * len(bare), dtype="Int8"), **dict.fromkeys(PROBABILITIES, np.nan))
    columns = [one for one in predictions.table.columns if one in bare.columns]
    return replace(predictions, table=bare[columns], at_cut_offs=True)


def with_copies_merged(predictions: Predictions, copies: Sequence[Sequence[str]]) -> Predictions:
    """The predictions with the patients of images that show the same picture as one; see `evaluation.Audit.copies`.

    The column patient stays as it is. Where patients are unknown nothing changes.
    """
    found = predictions.patients
    if not copies or found.codes is None:
        return predictions
    place = {name: row for row, name in enumerate(published_names(predictions.table))}
    codes = found.codes.copy()
    for group in copies:
        several = np.isin(codes, codes[[place[one] for one in group if one in place]])
        codes[several] = codes[several].min(initial=len(codes))
    merged = replace(predictions)
    merged.__dict__["patients"] = replace(found, codes=pd.factorize(codes)[0].astype(np.int64))
    return merged


def with_readers(predictions: Predictions, readers: Sequence[str]) -> Predictions:
    """The predictions without the columns of all other readers."""
    others = [column for column in reader_columns(predictions.table) if column not in readers]
    return replace(predictions, table=predictions.table.drop(columns=others)) if others else predictions


def alongside(predictions: Predictions, baseline: Predictions) -> Predictions:
    """A baseline that knows of its images what `predictions` knows of them, so that both are published by one name.

    Where one table knows the files and the other does not, images are the same by their own names.
    """
    ours, theirs = predictions.table, baseline.table
    keys = [content_keys(table) for table in (ours, theirs)]
    if all(None not in some for some in keys):
        return baseline
    contents = ours.set_index("image")["sha256"] if "sha256" in ours.columns else pd.Series(dtype="str")
    if set(ours["image"]) != set(theirs["image"]) and any(keys[0]):
        return baseline
    return replace(baseline, table=theirs.assign(sha256=theirs["image"].map(contents).astype("str")))


def _numbered(table: pd.DataFrame) -> list[str]:
    """The patients as 1 to c in the order of their first row, after their `source` where the table has it."""
    numbers = [str(code + 1) for code in pd.factorize(table["patient"])[0]]
    if "source" not in table.columns:
        return numbers
    return [f"{source}:{number}" for source, number in zip(table["source"].fillna(""), numbers, strict=True)]


def answers_digest(table: pd.DataFrame) -> str:
    """Hex SHA-256 over the published name and the model's numbers (`SIGNED`) of each image, in the order of the names.

    What a scorer answers for: the same before and after grades are joined, cut-offs applied, or the table published.
    """
    numbers = [column for column in SIGNED if column in table.columns]
    named = table[numbers].assign(image=published_names(table)).sort_values("image")
    state = hashlib.sha256(canonical_json(["drgate answers 1", len(named)]))
    for column in named:
        state.update(column_bytes(str(column), named[column]))
    return state.hexdigest()


def reference_digests(table: pd.DataFrame) -> dict[str, str]:
    """Hex SHA-256 of each column that is not the model's and not empty, rows in the order of published names.

    Patients are those of `Predictions.grouped`, numbered in that order, so that renaming them changes nothing.
    """
    ordered = _grouped(table, grouping(table)).assign(image=published_names(table)).sort_values("image")
    ordered["patient"] = pd.Series(pd.factorize(ordered["patient"])[0].astype(str), ordered.index).where(
        ordered["patient"].notna()
    )
    own = ordered.columns.difference(["image", "sha256", *ANSWERS])
    return {
        column: hashlib.sha256(column_bytes(column, ordered[column])).hexdigest()
        for column in own
        if ordered[column].notna().any()
    }


def without_grades(table: pd.DataFrame, origin: str) -> str:
    """The message for a table without any reference grade, with the columns that may hold them under a usual name."""
    if found := usual_names(_further(table), ("grade", "referable")):
        own, theirs = next(iter(found.items()))
        return (
            f"{origin} has no reference grades in a column grade. If they are in {theirs}, give --columns "
            f"{shlex.quote(f'{own}={theirs}')}; else give them with --grades FILE."
        )
    return (
        f"{origin} has no reference grades in a column grade; say which column has them (--columns grade=NAME, or "
        "referable=NAME, if it says only whether to refer), or give --grades FILE."
    )


@unchained()
def load_predictions(
    path: Path | str,
    operating_point: OperatingPoint | None = None,
    *,
    columns: ColumnMap = PLAIN,
) -> Predictions:
    """Read a table of predictions from any container of `drgate.tables` and check every cell.

    columns: which of its columns is which, and what its cells mean. A table that `score` wrote has no other names: a
        mapping that is shared is not applied to it, any other is refused.
    operating_point: `predicted` may be what its cut-offs give, in the whole table. The table comes back as it was
        written; `at` applies the cut-offs.

    Raises PredictionsError, naming file and row: a missing column, a duplicate image, a grade outside 0-4,
    probabilities that are incomplete, not finite or do not sum to 1 within their rounding, a `predicted` that is
    neither the most probable grade (of equal ones the lower, where `score` wrote the table) nor the operating point's.
    """
    path = Path(path)
    given = columns
    if columns != PLAIN and read_provenance(path):
        if not columns.shared:
            raise PredictionsError(
                f"{path} was written by drgate score, so its columns and scores are known; leave --columns and "
                "--scores out."
            )
        columns = PLAIN
    read = tables.read(path, _EXPECTED, PredictionsError, columns=columns, no_nan=SIGNED)
    provenance = read_provenance(path)
    rows = provenance.pop("rows", None)
    provenance.pop("as_baseline", None)
    if not provenance:
        _refuse_other_names(Columns(read.table, path, PredictionsError))
    changed = (
        f"{path} was changed after the model was scored: get the original file, or score the model again. (As a CSV it "
        "is evaluated without a model.)"
    )
    try:
        predictions = _checked(read.table, path, provenance, operating_point, columns)
    except PredictionsError as problem:  # of a changed table, what its cells say is not the point
        if rows is not None and _rows_digest(read.table) != rows:
            raise PredictionsError(changed) from problem
        raise
    predictions = replace(
        predictions,
        notes=(*read.notes, *predictions.notes),
        unused=read.unused if columns is given else (*given.columns,),
    )
    if provenance and rows != predictions.digest:
        raise PredictionsError(changed)
    return predictions


def _rows_digest(table: pd.DataFrame) -> str:
    """The digest of rows as they were read; "" where a cell is none that drgate writes."""
    try:
        return Predictions(table, "").digest
    except (TypeError, ValueError, OverflowError):
        return ""


def make_predictions(
    table: pd.DataFrame, origin: str, provenance: dict[str, Any], columns: ColumnMap = PLAIN
) -> Predictions:
    """Predictions from a table in memory, checked like one from a file. columns: what its cells mean."""
    return _checked(table, Path(origin), provenance, None, columns)


def planned(table: pd.DataFrame, origin: str, about: Mapping[str, Any] | None = None) -> Predictions:
    """The graded rows of a manifest or of predictions as a test set to plan with: every prediction is correct.

    Predictions in it are dropped. about: becomes the provenance. Raises ManifestError without reference grades.
    """
    if not graded_rows(table).any():
        raise ManifestError(f"{origin} has no reference grades; a plan counts patients by grade.")
    graded = table[~unexplained(table)]
    kept = graded.drop(columns=[*ANSWERS, "split"], errors="ignore")
    return make_predictions(kept.assign(predicted=reference_of(graded)), origin, dict(about or {}))


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write Parquet (with provenance) or, where the name ends in .csv, CSV (without); whole or not at all."""
    with replacing(path) as temporary:
        if path.suffix.lower() == ".csv":
            predictions.table.to_csv(temporary, index=False, lineterminator="\n")
            return
        marked = dict(predictions.provenance)
        if marked:  # so that an edited table does not pass as the model's, and a baseline is found
            marked |= {"rows": predictions.digest, "as_baseline": published(predictions).digest}
        arrow = pa.Table.from_pandas(predictions.table, preserve_index=False)
        metadata = {**(arrow.schema.metadata or {}), _METADATA_KEY: canonical_json(marked)}
        pq.write_table(arrow.replace_schema_metadata(metadata), temporary)


@unchained()
def read_provenance(path: Path) -> dict[str, Any]:
    """The table's record of its model and images, not yet checked.

    `rows` is the digest that its rows must have, `as_baseline` what an evaluation records of it as a baseline.

    Empty for a table that `score` did not write. Raises PredictionsError where it is damaged.
    """
    if not is_parquet(path):
        return {}
    text = read_metadata(path, _EXPECTED, PredictionsError).get(_METADATA_KEY, b"{}")
    provenance = parse_json(text, f"The provenance in {path}", "what `drgate score` wrote", PredictionsError)
    if not isinstance(provenance, dict):
        raise PredictionsError(f"{path}: its provenance is not an object; score the model again.")
    return provenance


def column_bytes(name: str, column: pd.Series[Any]) -> bytes:
    """One column as bytes: which cells are present, then their values in a form that no library version changes."""
    absent = column.isna().to_numpy()
    if name in SIGNED:
        # + 0.0 makes the two zeros one
        values = (column.to_numpy(dtype=np.float64, na_value=0.0) + 0.0).astype("<f8").tobytes()
    elif name in ("grade", "predicted", "dme", "referable", "predicted_referable") or READER.fullmatch(name):
        values = column.to_numpy(dtype=np.int8, na_value=0).tobytes()
    elif name == "gradable":
        values = column.to_numpy(dtype=np.int8).tobytes()
    else:
        cells = column.to_numpy(dtype=object, copy=True)
        cells[absent] = None
        values = canonical_json(cells.tolist())
    return canonical_json([name, len(values)]) + np.packbits(absent).tobytes() + values


def _checked(
    table: pd.DataFrame,
    origin: Path,
    provenance: dict[str, Any],
    operating_point: OperatingPoint | None,
    stated: ColumnMap = PLAIN,
) -> Predictions:
    columns = Columns(table, origin, PredictionsError, stated)
    columns.require(
        "image", expected=f"{_EXPECTED}. If they have other names, give --columns image=NAME,grade=NAME and so on"
    )
    checked = pd.DataFrame(index=table.index)
    checked["image"] = columns.image()
    checked["patient"] = columns.patient()
    checked["eye"] = columns.eye()
    grades, refers = columns.reference()
    checked["grade"] = pd.array(grades, dtype="Int8")
    checked["gradable"] = columns.gradable()
    checked[list(PROBABILITIES)] = probabilities = columns.probabilities()
    checked["predicted"] = pd.array(
        _predicted(columns, probabilities, operating_point, scored=bool(provenance)), dtype="Int8"
    )
    if refers is not None:
        checked["referable"] = _flags(refers)
    if _answers_whether_to_refer(columns):
        checked["p_referable"], checked["predicted_referable"] = _referred(
            columns, operating_point, scored=bool(provenance)
        )
    for column in table.columns:
        if column == "dme":
            checked[column] = _flags(columns.dme())
        elif column == "severity" and _answers_with_severity(table):
            checked[column] = columns.number(column)
        elif column == "sha256":
            checked[column] = columns.sha256()
    others = columns.others(*COLUMNS, *OPTIONAL_COLUMNS)
    for column in others:
        checked[column] = columns.further(column)
    if not provenance and (idle := columns.like_probabilities(others)):
        columns.notes.append(f"These columns look like probabilities and are not used: {', '.join(idle)}.")
    if not provenance and checked["patient"].isna().all() and (found := usual_names(list(table.columns), ("patient",))):
        columns.notes.append(
            f"The column {found['patient']} is not used. If it names the patients, give --columns "
            f"{shlex.quote('patient=' + found['patient'])}."
        )
    return Predictions(
        checked.sort_values("image", ignore_index=True), str(origin), provenance, notes=tuple(columns.notes)
    )


def _refuse_other_names(columns: Columns) -> None:
    """Raise where what a table lacks is there under a usual name, with the mapping to type."""
    table, origin = columns.table, columns.origin
    wanted: tuple[str, ...] = ("image", "grade", "predicted", *PROBABILITIES, "patient", "eye")
    if {*ANSWERS} & {*table.columns} and "image" in table.columns:
        wanted = PROBABILITIES if columns.only_decided(ANSWERS) else ()
    found = usual_names(list(table.columns), wanted)
    if wanted == PROBABILITIES and not columns.may_be_scores(found.values()):
        return
    if not {"image", "predicted", *PROBABILITIES} & found.keys():
        if "image" not in table.columns and any(map(_is_a_cell, table.columns)):
            raise PredictionsError(
                f"{origin} has no header line: its first line is a row already. Put a line with the names of the "
                f"columns above it. Expected {_EXPECTED}."
            )
        return
    image = "" if "image" in (*table.columns, *found) else " It has no column image: add one with a name for each row."
    if "grade" in found and not {*ANSWERS} & {*table.columns, *found}:
        image += (
            f" If {found['grade']} is what the model answered, give predicted={found['grade']} in place of "
            f"grade={found['grade']}, and the reference with --grades FILE."
        )
    raise PredictionsError(
        f"{origin} seems to have {_named(found)} under other names. If so, give --columns "
        f"{shlex.quote(','.join(f'{own}={theirs}' for own, theirs in found.items()))}; if not, remove or rename them."
        f"{image} Expected {_EXPECTED}."
    )


def _is_a_cell(name: str) -> bool:
    """Whether a header cell is a number with decimals or the name of an image's file."""
    return re.fullmatch(r"[-+]?\d*[.,]\d+(e[-+]?\d+)?|.*\.(jpe?g|png|tiff?|bmp)", name, re.I) is not None


def _named(found: Mapping[str, str]) -> str:
    """The columns that were found, for a message: p_0 to p_4 as one."""
    names = ["p_0 to p_4" if own == PROBABILITIES[0] else own for own in found if own not in PROBABILITIES[1:]]
    return ", ".join(names)


def _flags(values: Sequence[bool | None]) -> Any:
    """Int8, NA where it is not known."""
    return pd.array(values, dtype="boolean").astype("Int8")


def _answers_whether_to_refer(columns: Columns) -> bool:
    """Whether the model answers only whether to refer; refused where the table also has answers of another kind."""
    table = columns.table
    given = [one for one in ANSWERS if one in table.columns and table[one].notna().any()]
    refers, others = ([one for one in given if (one in _REFERS) == whether] for whether in (True, False))
    if refers and others:
        raise PredictionsError(
            f"{columns.origin} has answers of two kinds, {' and '.join(refers)} beside {', '.join(others)}; keep the "
            "columns of one: p_0 to p_4 (or predicted), or p_referable (or predicted_referable)."
        )
    return not others and any(one in table.columns for one in _REFERS)


def _referred(
    columns: Columns, operating_point: OperatingPoint | None, *, scored: bool
) -> tuple[NDArray[np.float64], Any]:
    """p_referable, and whether the model refers: as given, else where that is 0.5 or more; NA is no output.

    operating_point: its cut-off may take the place of 0.5, in the whole table.

    scored: whether it is a table of `score`, in which 0.5 refers.
    """
    p = np.full(len(columns.table), np.nan)
    if "p_referable" in columns.table.columns:
        p = columns.number("p_referable", fraction=True)
    answered, refers = ~np.isnan(p), p >= 0.5
    if "predicted_referable" not in columns.table.columns:
        return p, _flags([bool(one) if known else None for one, known in zip(refers, answered, strict=True)])
    given = columns.flag("predicted_referable")
    stated = np.array([-1 if one is None else int(one) for one in given])
    columns.refuse(answered & (stated < 0), "there is p_referable but predicted_referable is empty")
    other = answered & (stated != refers) & (scored | (p != 0.5))
    cut = 0.5
    if operating_point is not None and operating_point.on == "referable" and other.any():
        (cut,) = operating_point.cut_offs
        other = answered & (stated != (p >= cut))
    columns.refuse(
        other,
        lambda row: (
            f"predicted_referable is {stated[row]}, but p_referable is {'below' if stated[row] else 'not below'} "
            f"{cut:.4g}, from which on it is to refer; if another cut-off was used, give it with --operating-point"
        ),
    )
    return p, _flags(given)


def _predicted(
    columns: Columns, probabilities: NDArray[np.float64], operating_point: OperatingPoint | None, *, scored: bool
) -> list[int | None]:
    """The predicted grade: as given, else the most probable (of two equal ones the lower); None is no output.

    scored: whether it is a table of `score`, in which nobody else may choose between equal ones.
    """
    if not {*ANSWERS} & set(columns.table.columns):
        raise PredictionsError(
            f"{columns.origin} has neither p_0 to p_4 nor predicted nor p_referable; say which columns they are "
            f"(--columns p_0=NAME,... or predicted=NAME), or add them. Expected {_EXPECTED}."
        )
    if _answers_with_severity(columns.table):
        return _at_severity(columns, probabilities, operating_point)
    answered = ~np.isnan(probabilities[:, 0])
    best = np.where(answered, np.nan_to_num(probabilities, nan=-1.0).argmax(1), -1)
    if "predicted" not in columns.table.columns:
        most_probable = probabilities.max(axis=1, keepdims=True) == probabilities
        if not scored and (equal := int((most_probable.sum(axis=1) > 1).sum())):
            columns.notes.append(
                f"In {equal} row{'s' if equal > 1 else ''} several grades are equally probable, and the lowest was "
                "taken. Where rounding made them so, give more digits, or the column predicted."
            )
        return [int(grade) if grade >= 0 else None for grade in best]
    given = columns.grade("predicted")
    stated = np.array([-1 if grade is None else grade for grade in given], dtype=np.int64)
    columns.refuse(answered & (stated < 0), "there are probabilities but predicted is empty")
    chosen = np.take_along_axis(probabilities, np.maximum(stated, 0)[:, None], axis=1)[:, 0]
    most = best if scored else np.where(chosen >= np.nan_to_num(probabilities, nan=0.0).max(axis=1), stated, best)
    other = answered & (stated != most)
    if operating_point is None:
        columns.refuse(
            other,
            lambda row: (
                f"predicted is {stated[row]}, but the most probable grade is {best[row]}; if cut-offs were used, give "
                "them with --operating-point"
            ),
        )
    elif other.any():
        cut = operating_point.apply(cumulative(probabilities))
        columns.refuse(
            answered & (cut != stated),
            lambda row: (
                f"predicted is {stated[row]}, but the operating point gives {cut[row]} and the most probable grade is "
                f"{best[row]}; give the operating point that was used"
            ),
        )
    return given


def _answers_with_severity(table: pd.DataFrame) -> bool:
    """Whether the column is the model's answer; beside another answer, an empty one is not."""
    given = {one for one in ANSWERS if one in table.columns and table[one].notna().any()}
    return "severity" in table.columns and ("severity" in given or not given)


def _at_severity(
    columns: Columns, probabilities: NDArray[np.float64], operating_point: OperatingPoint | None
) -> list[int | None]:
    """The predicted grade beside a severity: what the cut-offs give, or none yet."""
    if not np.isnan(probabilities).all():
        raise columns.error(
            f"{columns.origin} has answers of two kinds, severity beside p_0 to p_4; keep the columns of one, or "
            "rename the other."
        )
    given = columns.grade("predicted")
    stated = np.array([-1 if grade is None else grade for grade in given], dtype=np.int64)
    if operating_point is None or operating_point.on != "severity":
        columns.refuse(
            stated >= 0,
            "there is a predicted grade beside a severity, which gives one by cut-offs alone; give them with "
            "--operating-point, leave predicted out, or leave severity out to have the grades judged",
        )
        return given
    cut = operating_point.apply(scores_of(columns.table[["severity"]].assign(severity=columns.number("severity"))))
    if (stated >= 0).any():
        columns.refuse(
            (cut >= 0) & (cut != stated),
            lambda row: (
                f"predicted is {stated[row] if stated[row] >= 0 else 'empty'}, but the operating point gives "
                f"{cut[row]}; give the operating point that was used"
            ),
        )
    return given
