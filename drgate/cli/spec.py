"""`drgate spec`: the checklists that ship, and one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from drgate.cli.options import Format, FormatOption, emit

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Checklists: list those that ship, show, check or describe one.", no_args_is_help=True, rich_markup_mode=None
)
SpecArgument = Annotated[str, typer.Argument(metavar="NAME|FILE")]


@app.command("list", help="Names of the checklists that ship with drgate.")
def list_(format: FormatOption = Format.human) -> int:
    from drgate.spec import shipped

    emit(shipped(), lambda console: console.print("\n".join(shipped()), highlight=False), format)
    return 0


@app.command(help="A checklist, whole, with every default. Example: drgate spec show medical-grade")
def show(spec: SpecArgument, format: FormatOption = Format.human) -> int:
    from drgate.spec import load_spec

    loaded = load_spec(spec)

    def human(console: Console) -> None:
        from ruamel.yaml import YAML

        yaml = YAML()
        yaml.default_flow_style = None
        yaml.dump(loaded.content(), console.file)
        console.print(f"# {loaded.digest}", markup=False, highlight=False)

    emit({**loaded.content(), "digest": loaded.digest}, human, format)
    return 0


@app.command(help="Whether a file is a valid checklist: 0, or 2 with the reason. Example: drgate spec check mine.yaml")
def check(spec: SpecArgument, format: FormatOption = Format.human) -> int:
    from drgate.spec import load_spec

    loaded = load_spec(spec)
    summary = {"name": loaded.name, "version": loaded.version, "digest": loaded.digest}
    text = f"{loaded.name} version {loaded.version}: {len(loaded.each_criterion())} criteria, valid. {loaded.digest}"
    emit(summary, lambda console: console.print(text, markup=False, highlight=False, soft_wrap=True), format)
    return 0


@app.command(help="The JSON Schema of a checklist, for editors.")
def schema() -> int:
    from drgate.spec import schema as json_schema

    emit(json_schema(), lambda _: None, Format.json)
    return 0
