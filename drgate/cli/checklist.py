"""`drgate spec`: the checklists that ship with drgate, and your own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from drgate.cli.options import FormatOption
from drgate.screen import Format, emit

if TYPE_CHECKING:
    from rich.console import Console

    from drgate.checklist import Checklist

app = typer.Typer(
    help="List, show, check and compare checklists. A checklist is the list of criteria that a model must meet.\n\n"
    "Example: drgate spec show medical-grade",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ChecklistArgument = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="Checklist that ships with drgate, or a YAML file.")
]
DIFF_HELP = """Show what changed from checklist A to checklist B: what became weaker, stronger or only different.

Exit code 0 nothing became weaker, 1 something did, 2 the two cannot be compared, or they have the same name and version
but different contents.

\b
Example: drgate spec diff medical-grade mine.yaml"""


@app.command(
    "list",
    short_help="List the checklists that ship with drgate.",
    help="List the checklists that ship with drgate: name, version, description.",
)
def list_(format: FormatOption = Format.human) -> int:
    from drgate.checklist import load_checklist, shipped

    checklists = [load_checklist(name) for name in shipped()]

    def human(console: Console) -> None:
        from rich.table import Table

        table = Table(box=None, show_header=False, pad_edge=False)
        for checklist in checklists:
            table.add_row(checklist.name, f"version {checklist.version}", checklist.description)
        console.print(table, markup=False, highlight=False)

    emit([{**_identity(checklist), "description": checklist.description} for checklist in checklists], human, format)
    return 0


@app.command(help="Print a checklist in full, defaults included. Example: drgate spec show medical-grade")
def show(spec: ChecklistArgument, format: FormatOption = Format.human) -> int:
    from drgate.checklist import load_checklist

    loaded = load_checklist(spec)

    def human(console: Console) -> None:
        from ruamel.yaml import YAML

        yaml = YAML()
        yaml.default_flow_style = None
        yaml.width = 120
        yaml.dump(loaded.content(), console.file)
        console.print(f"# {loaded.digest}", markup=False, highlight=False)

    emit({**loaded.content(), "digest": loaded.digest}, human, format)
    return 0


@app.command(
    help="Check that files are valid checklists. Exit code 0 all are valid, 2 one is not; the message says why. "
    "Example: drgate spec check mine.yaml other.yaml"
)
def check(
    checklists: Annotated[
        list[str], typer.Argument(metavar="NAME|FILE...", help="Checklists that ship with drgate, or YAML files.")
    ],
    format: FormatOption = Format.human,
) -> int:
    from drgate.checklist import load_checklist
    from drgate.checklist_diff import refuse_namesakes

    loaded = [load_checklist(name) for name in checklists]
    refuse_namesakes(loaded)

    def human(console: Console) -> None:
        for checklist in loaded:
            written, each = len(checklist.criteria), len(checklist.each_criterion())
            count = f"{written} criteri{'on' if written == 1 else 'a'}"
            count += f" ({each} with each grade counted)" if each != written else ""
            text = f"{checklist.name} version {checklist.version}: {count}, valid. {checklist.digest}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    emit([_identity(checklist) for checklist in loaded], human, format)
    return 0


@app.command(help=DIFF_HELP, short_help="Show what became weaker or stronger from checklist A to B.")
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Old checklist: name or YAML file.")],
    b: Annotated[str, typer.Argument(metavar="B", help="New checklist: name or YAML file.")],
    format: FormatOption = Format.human,
) -> int:
    from drgate.checklist import read_checklist
    from drgate.checklist_diff import diff as changes_from
    from drgate.checklist_diff import refuse_namesakes
    from drgate.errors import ANSWERS, ExitCode

    old, new = read_checklist(a), read_checklist(b)
    changes = changes_from(old, new)
    weaker = sum(change.kind == "weaker" for change in changes)

    def human(console: Console) -> None:
        for change in changes:
            text = f"{change.kind:<9}  {change.sentence}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        found = f"{len(changes)} changes, {weaker} of them weaker" if changes else "the same"
        text = f"{old.name} version {old.version} -> {new.name} version {new.version}: {found}."
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    plain = {
        "old": _identity(old),
        "new": _identity(new),
        "changes": [dataclasses.asdict(change) for change in changes],
    }
    emit(plain, human, format)
    refuse_namesakes([old, new])
    return ANSWERS["weaker"] if weaker else ExitCode.PASSED


@app.command(help="Print the JSON Schema of checklists, for YAML editors.")
def schema() -> int:
    from drgate.checklist import schema as json_schema

    emit(json_schema(), lambda _: None, Format.json)
    return 0


def _identity(checklist: Checklist) -> dict[str, object]:
    return {"name": checklist.name, "version": checklist.version, "digest": checklist.digest}
