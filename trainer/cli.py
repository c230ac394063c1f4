"""`drtrain`: the command line of the trainer, made from the parameters of `trainer.config.TrainingConfig`."""

from __future__ import annotations

import inspect
import os
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic.fields import FieldInfo

from drgate.cli.app import run
from drgate.cli.options import FormatOption, QuietOption
from drgate.errors import UsageError
from drgate.screen import Format, emit
from trainer.config import TrainingConfig, read_config

if TYPE_CHECKING:
    from rich.console import Console

HELP = """Fine-tune a SigLIP vision tower to grade diabetic retinopathy.

\b
Examples:
  drtrain --dataset eyepacs --base embedded --learning_rate 5e-4 \\
          --batch_size 24 --gradient_accumulation_steps 1 --num_epochs 15 \\
          --usd_per_hour 0 --output_dir runs/first
  drtrain --config run.yaml --dry_run                 time, memory, cost, earlier attempts
  drtrain --output_dir runs/first --resume            after an interruption: same weights as an uninterrupted run
  drtrain --config run.yaml --decide "epoch 20: val_accuracy > 0.82" --budget_usd 80
  drtrain attempts list                               all attempts so far

The folder then holds best_model.pth, last.pth and record.jsonl; drgate evaluate judges best_model.pth. Flags can be
written with - instead of _. drtrain attempts has further commands: list, show, diff, render, import.

Exit codes: 0 the run ended normally, 1 a decision point or a regression stopped it, 3 a budget stopped it, 2 it could
not start or continue, 130 Ctrl-C or SIGTERM.
"""


def command(
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output_dir.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry_run", help="Report time, memory, cost and earlier attempts, without training.")
    ] = False,
    again: Annotated[str | None, typer.Option(metavar="WHY", help="Reason to repeat an identical attempt.")] = None,
    runs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of attempts. [default: parent of --output_dir]")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file with parameters; flags override it.")
    ] = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
    **flags: Any,
) -> int:
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    if resume and dry_run:
        raise UsageError("--dry_run is for a run that has not started. Leave out --resume.")
    before = _parameters_of(given, config) if resume else None
    parameters = read_config(config, given, before=before)
    _refuse_early(parameters)
    if dry_run:
        return _dry_run(parameters, again, runs, format, quiet)
    from trainer.run import train
    from trainer.watch import exit_code

    record = train(parameters, resume=resume, again=again, runs=runs, quiet=quiet)
    if _first():
        emit(record, lambda console: None, format, quiet)
    return exit_code(record.get("rule"))


def _refuse_early(parameters: TrainingConfig) -> None:
    """Raise DrgateError for what can be seen in a moment, before torch is imported, which takes seconds."""
    from drgate.checklist import load_checklist
    from drgate.manifest import load_manifest
    from drgate.mapping import column_map
    from drgate.models import find_model, refuse_no_base

    load_checklist(parameters.spec)
    refuse_no_base(parameters.base)
    for source in (parameters.init_from, parameters.resume_from_checkpoint):
        if source is not None and "://" not in source and not Path(source).is_dir():
            find_model(Path(source))
    load_manifest(parameters.dataset, files=False, columns=column_map(parameters.columns))


def _dry_run(parameters: TrainingConfig, again: str | None, runs: Path | None, format: Format, quiet: bool) -> int:
    from drgate.vision.processes import processes
    from trainer.preflight import preflight
    from trainer.ready import prepare, refuse_circles, resolved

    with processes() as group:
        quiet_here = quiet or not group.first
        report = preflight(prepare(resolved(parameters, group), group, again=again, runs=runs, quiet=quiet_here))

    def human(console: Console) -> None:
        for sentence in report.sentences():
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    if _first():
        emit(report.to_json(), human, format, quiet)
    report.refuse_leak()
    refuse_circles(report.circles, again, quiet=True)
    return 0


def _first() -> bool:
    """Whether this is the process that prints."""
    return os.environ.get("RANK", "0") == "0"


def _parameters_of(given: dict[str, Any], file: Path | None) -> dict[str, Any]:
    """The parameters that the run in the folder began with."""
    from drgate.record import FILE, read_record

    folder = given.get("output_dir") or (None if file is None else read_config(file, given).output_dir)
    if folder is None:
        raise UsageError("--resume continues a run: give its folder with --output_dir.")
    record = Path(folder) / FILE
    if not record.is_file():
        raise UsageError(f"{folder} holds no run to continue: {FILE} is missing. Start one without --resume.")
    known = read_record(record).get("parameters") or {}
    return {name: value for name, value in known.items() if name in TrainingConfig.model_fields}


def main(arguments: list[str] | None = None) -> None:
    """Run `drtrain` and exit with its code."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["attempts"]:
        from trainer.attempts.command import app as attempts

        run(attempts(), "drtrain attempts", given[1:])
    app = typer.Typer(name="drtrain", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    spelling = {"token_normalize_func": lambda flag: flag.replace("-", "_")}
    app.command(help=HELP, no_args_is_help=True, context_settings=spelling)(command)
    run(app, "drtrain", given)


def _signature() -> inspect.Signature:
    """One text option per parameter; pydantic reads the text, so a flag and a YAML value mean the same."""
    kind = inspect.Parameter.KEYWORD_ONLY
    *own, _ = inspect.signature(command, eval_str=True).parameters.values()
    flags = [
        inspect.Parameter(name, kind, default=None, annotation=Annotated[_kind(field), _option(name, field)])
        for name, field in TrainingConfig.model_fields.items()
    ]
    return inspect.Signature([*flags, *own])


def _kind(field: FieldInfo) -> Any:
    """Text, or a list of texts; pydantic converts it."""
    return list[str] | None if typing.get_origin(field.annotation) is tuple else str | None


def _option(name: str, field: FieldInfo) -> Any:
    kinds: tuple[Any, ...] = typing.get_args(field.annotation) or (field.annotation,)
    choices = typing.get_origin(field.annotation) is typing.Literal
    metavar = "|".join(kinds) if choices else {int: "INTEGER", float: "NUMBER"}.get(kinds[0], "TEXT")
    default = (
        " Required." if field.is_required() else "" if field.default in (None, ()) else f" [default: {field.default}]"
    )
    return typer.Option(f"--{name}", metavar=metavar, show_default=False, help=f"{field.description}{default}")


signature = _signature()
command.__signature__ = signature  # type: ignore[attr-defined]
command.__annotations__ = {name: option.annotation for name, option in signature.parameters.items()}
