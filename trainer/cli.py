"""`drtrain`: the command line of the trainer, made from the parameters of `trainer.config.TrainingConfig`."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from drgate.cli.app import run
from drgate.cli.options import Format, FormatOption, QuietOption, emit
from trainer.config import TrainingConfig, read_config

HELP = """Fine-tune a SigLIP vision tower to grade diabetic retinopathy.

\b
Example:
  drtrain --dataset eyepacs --base embedded --learning_rate 5e-4 \\
          --batch_size 24 --gradient_accumulation_steps 1 --num_epochs 15 \\
          --usd_per_hour 0 --output_dir runs/first

The folder then holds best_model.pth, last.pth and record.jsonl; drgate evaluate judges best_model.pth. Flags may be
written with - instead of _. Exit code 0 when the run came to its end, 2 when it could not.
"""


def command(*, config: Path | None, format: Format, quiet: bool, **flags: str | None) -> None:
    parameters = read_config(config, {name: text for name, text in flags.items() if text is not None})
    from trainer.run import train

    record = train(parameters, quiet=quiet)
    emit(record, lambda console: None, format, quiet)


def main(arguments: list[str] | None = None) -> None:
    """Run `drtrain` and exit with its code."""
    app = typer.Typer(name="drtrain", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    signature = _signature()
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {name: option.annotation for name, option in signature.parameters.items()}
    spelling = {"token_normalize_func": lambda flag: flag.replace("-", "_")}
    app.command(help=HELP, no_args_is_help=True, context_settings=spelling)(command)
    run(app, "drtrain", arguments)


def _signature() -> inspect.Signature:
    """One text option for each parameter; pydantic reads the text, so that a flag and a YAML value mean the same."""
    file = typer.Option("--config", metavar="FILE", help="YAML file with parameters; flags override it.")
    options: dict[str, tuple[Any, Any]] = {
        **{
            name: (Annotated[str | None, _option(name, field)], None)
            for name, field in TrainingConfig.model_fields.items()
        },
        "config": (Annotated[Path | None, file], None),
        "format": (FormatOption, Format.human),
        "quiet": (QuietOption, False),
    }
    return inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in options.items()
        ]
    )


def _option(name: str, field: FieldInfo) -> Any:
    kinds: tuple[Any, ...] = typing.get_args(field.annotation) or (field.annotation,)
    choices = typing.get_origin(field.annotation) is typing.Literal
    metavar = "|".join(kinds) if choices else {int: "INTEGER", float: "NUMBER"}.get(kinds[0], "TEXT")
    default = " Required." if field.is_required() else f" [{field.default}]" if field.default is not None else ""
    return typer.Option(f"--{name}", metavar=metavar, show_default=False, help=f"{field.description}{default}")
