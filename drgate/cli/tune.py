"""`drgate tune`: choose cut-offs with a margin for the test set to differ, and lock them in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drgate.buckets import located
from drgate.cli.options import (
    ChecklistOption,
    ColumnsOption,
    FormatOption,
    LooksOption,
    PatientKeyOption,
    QuietOption,
    ScoresOption,
    SplitOption,
    column_map,
    patient_key,
)
from drgate.screen import Format, emit, tell

if TYPE_CHECKING:
    from rich.console import Console

HELP = """Choose cut-offs that meet the required criteria of a checklist, on a table of predictions kept for tuning.

At the chosen cut-offs each of these criteria passes on the tuning table by its confidence bound, and the chance of
passing on the planned test set is at least the checklist's planned power. Of all such cut-offs, those with the highest
specificity are chosen. Sensitivity is then close to the minimum that the checklist requires: raise that minimum if you
want more.

Tune on other patients than you test on. A table with images of a test set that is in the log of looks is refused.
Exit code 0 written, 1 no cut-offs meet all criteria (nothing is written), 2 the command could not do its work.

\b
Examples:
  drgate tune validation.parquet --spec screening-referable --out operating-point.json
  drgate evaluate test.parquet --spec screening-referable --operating-point operating-point.json
"""


def command(
    predictions: Annotated[
        Path,
        typer.Argument(metavar="PREDICTIONS", help="Tuning table: grades, and p_0 to p_4, severity or p_referable."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="JSON file to write.")],
    spec: ChecklistOption = "medical-grade",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="MANIFEST",
            parser=located,
            help="Planned test set; only its counts of images and patients are used. [one like the tuning table]",
        ),
    ] = None,
    split: SplitOption = "test",
    columns: ColumnsOption = None,
    scores: ScoresOption = None,
    looks: LooksOption = None,
    patients: PatientKeyOption = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.checklist import load_checklist
    from drgate.errors import ANSWERS
    from drgate.files import refuse_existing
    from drgate.given import table_in
    from drgate.looks import Log
    from drgate.manifest import load_manifest
    from drgate.mapping import for_several, require_used
    from drgate.operating_point import write_operating_point
    from drgate.predictions import load_predictions
    from drgate.report import words
    from drgate.tune import Infeasible, effects, lost, tune

    refuse_existing(out, "an operating point is not overwritten; choose another name with --out")
    mapping = column_map(columns, scores)
    if data is not None:
        mapping = for_several(mapping)
    test = None if data is None else load_manifest(data, files=False, columns=mapping)
    lacking, mapped = ({}, []) if test is None else ({str(data): test.unused}, test.mapped())
    if test is not None and test.table["split"].notna().any():
        test = test.select(split)
    tuning, checklist = load_predictions(table_in(predictions), columns=mapping), load_checklist(spec)
    require_used(mapping, {str(predictions): tuning.unused, **lacking})
    found = tune(tuning, checklist, test=test, log=Log(looks, key=patient_key(patients)))
    if isinstance(found, Infeasible):
        emit(
            found.to_json(),
            lambda console: console.print(f"No file written: {found.reason}", markup=False),
            format,
            quiet,
        )
        return ANSWERS["infeasible"]
    summary: dict[str, object] = {"status": "tuned", "file": str(out), "digest": found.digest}
    summary |= {"on": found.on, "cut_offs": list(found.cut_offs)}
    promise, changed = found.promise, effects(tuning, found, checklist)
    write_operating_point(found, out)
    for note in (*tuning.notes, *mapped):
        tell(note, quiet)

    def human(console: Console) -> None:
        cuts = words.cut_offs(found.on, found.cut_offs)
        chance = f"Chance of passing these criteria on the planned test set: {100 * promise['power']:.0f} %"
        highest = "" if found.on == "referable" else " The grade is the highest whose cut-off is reached, else 0."
        lines = [f"Cut-offs: {cuts}.{highest}", f"{chance}."]
        lines += [
            f"  {one['id']} {one['rule']}: {one['k']}/{one['n']}, limit {one['bound']:.3f}, chance {one['power']:.2f}"
            for one in promise["criteria"]
        ]
        if promise["not_covered"]:
            lines.append(f"Not tuned for, only judged by drgate evaluate: {', '.join(promise['not_covered'])}.")
        if not promise["search"]["complete"]:
            lines.append(
                f"The search was not complete: {promise['search']['compared']} combinations were compared, and another "
                "one may have a higher specificity."
            )
        before = any(one.before for one in changed)
        usual = "one half as the cut-off" if found.on == "referable" else "the most probable grade"
        lines.append(f"On the tuning table, {f'with {usual} -> ' if before else ''}with these cut-offs:")
        for one in changed:
            counts = [count for count in (one.before, one.after) if count is not None]
            if not all(n for _, n in counts):
                continue
            counted = one.id.startswith("undergraded")
            rates = " -> ".join(f"{k}" if counted else words.percent(k / n) for k, n in counts)
            of = f" {checklist.unit}s of {one.after[1]}" if counted else ""
            lines.append(f"  {words.title(one.id)}: {rates}{of}")
        if rare := lost(tuning, found):
            lines.append(
                f"Warning: with these cut-offs the model almost never predicts {' or '.join(rare)}; use them only for "
                "criteria that do not need this grade."
            )
        for line in lines:
            console.print(line, markup=False, highlight=False)

    emit(summary | {"promise": dict(promise), "tuning_table": [one.to_json() for one in changed]}, human, format, quiet)
    tell(f"Operating point: {out} ({found.digest}).", quiet)
    return 0
