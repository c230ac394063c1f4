"""`drgate manifest`: how a data set is understood, and its canonical form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drgate.buckets import located
from drgate.cli.options import ColumnsOption, FormatOption, QuietOption, column_map
from drgate.scale import GRADES
from drgate.screen import Format, emit, progress, tell

if TYPE_CHECKING:
    from rich.console import Console

    from drgate.manifest import Manifest
    from drgate.survey import Survey

HELP = """Show how a data set is understood: grades, splits, patients, eyes, columns, and what is left out and why.

SOURCE is a table, a folder, or a file with pictures inside, also in a bucket (docs/datasets.md). Exit code 0 all rows
can be used, 1 some cannot or contradict each other, 2 the source could not be read.

\b
Examples:
  drgate manifest mbrset/labels_mbrset.csv
  drgate manifest DDR/train.txt --columns image=1,grade=2
  drgate manifest s3://bucket/eyepacs/labels.csv
  drgate manifest retinamnist_224.npz --out retinamnist/labels.csv
  drgate manifest eyes --readings first.csv --readings second.csv --out eyes/labels-2.csv
"""


def command(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", parser=located, help="A table, a folder, or a file of pictures.")
    ],
    columns: ColumnsOption = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="FOLDER",
            parser=located,
            help="Folder that a table's images are in. [that of the table]",
        ),
    ] = None,
    readings: Annotated[
        list[Path] | None,
        typer.Option(
            "--readings",
            metavar="FILE",
            help="A reader's grades of the photographs in to_read (docs/audit.md), once for each reader. A grade "
            "changes where more than half of the readers give the same other one.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the rows with drgate's own columns, as a CSV file."),
    ] = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.files import refuse_existing
    from drgate.survey import survey, write_canonical

    if out is not None:
        refuse_existing(out, "choose another name with --out")
    said = ""

    def regraded(manifest: Manifest) -> Manifest:
        nonlocal said
        if not readings:
            return manifest
        from drgate.audit.reading_list import read_again

        again = read_again(manifest, readings)
        said = f"Read again: {again.changed} changed, {again.confirmed} confirmed, {again.undecided} without agreement."
        return again.manifest

    with progress("Reading", quiet):
        found = survey(source, columns=column_map(columns), images=images, regraded=regraded)
    emit(found.to_json(), lambda console: render(found, console), format, quiet)
    if said:
        tell(said, quiet)
    if out is not None and found.troubles:
        tell("Nothing was written: some rows cannot be used.", quiet)
    elif out is not None:
        write_canonical(found, out)
        tell(f"Wrote {out}.", quiet)
    return found.exit_code


def _present(counts: dict[str, int]) -> dict[str, int]:
    """Without images that lack a grade, where there are none."""
    return {
        name.replace("no_grade", "no grade"): n for name, n in counts.items() if n or name in (*GRADES, "referable")
    }


def render(found: Survey, console: Console) -> None:
    """Write it to the console, what is wrong first."""
    from drgate.report import words
    from drgate.report.kit import paragraph

    plain = found.to_json()
    eyes = plain["eyes"]
    for title, lines in (
        ("These rows cannot be used", found.troubles),
        ("These cannot all be true", found.contradictions),
        ("Asked about the grades", found.questions),
    ):
        if lines:
            paragraph(console, title, "bold")
        for line in lines:
            paragraph(console, f"- {line}", hang=2)
        if lines:
            console.print()
    paragraph(console, f"Read as: {found.found.layout}")
    for split, counts in found.splits.items():
        name = f"Split {split}" if split else "Images"
        paragraph(console, f"{name}: {sum(counts.values())}; {words.counts(_present(counts))}", hang=2)
    patients = "not known" if found.patients is None else str(found.patients)
    sides = f"left eyes {eyes['L']}, right eyes {eyes['R']}" if any(eyes.values()) else "eyes not known"
    paragraph(console, f"Patients: {patients}; {sides}", hang=2)
    if found.found.columns:
        taken = ", ".join(f"{own} is {theirs}" for own, theirs in found.found.columns.items())
        paragraph(console, f"Columns: {taken}", hang=2)
    if further := [*plain["further_columns"], *([f"{others} others"] if (others := plain["other_columns"]) else [])]:
        paragraph(console, f"Further columns: {', '.join(further)}", hang=2)
    for line in (*found.found.said, *plain["copies"]):
        paragraph(console, line, hang=2)
    left = {**plain["left_out"], "images that the table does not name": plain["not_listed"]}
    for why, names in left.items():
        if names["count"]:
            more = ", ..." if names["count"] > len(names["examples"]) else ""
            paragraph(console, f"Left out, {why}: {names['count']} ({', '.join(names['examples'])}{more})", hang=2)
    paragraph(console, f"Digest: {plain['digest']}", hang=2)
