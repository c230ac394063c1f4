"""The application: its commands, and the one place that turns every exception into a message and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from collections import Counter
from typing import Any, Final

import typer

from drgate.errors import DrgateError, ExitCode, install
from drgate.screen import complain

EXTRAS = {
    **dict.fromkeys(
        ("torch", "transformers", "peft", "safetensors", "onnx", "onnxscript", "onnxruntime", "imagehash"), "models"
    ),
    **dict.fromkeys(("accelerate", "fsspec"), "train"),
    "mlflow": "mlflow",
}
"""Packages that the light installation does not have, and the extra that installs each."""

SHOWN_WARNINGS = 5
"""How many warnings of one kind are printed; the others are only counted."""


COMMANDS: Final = {
    "demo": "Run all steps once, from training to export, on synthetic photographs.",
    "plan": "Plan a test set: how many patients of each grade a checklist needs.",
    "manifest": "Show how a data set is understood, and write it in drgate's own form.",
    "audit": "Is the evidence clean? Leaks, labels, shortcuts, quality and case mix of a test set.",
    "evaluate": "Judge a model, or a table of predictions, by a checklist.",
    "score": "Score images with a model; reference grades are not needed.",
    "preprocess": "Show what a model sees of a photograph.",
    "compare": "Two models on the same images: is A non-inferior to B?",
    "tune": "Choose cut-offs on a tuning table and lock them in a file.",
    "verify": "Is a certificate genuine, and do its numbers follow from the predictions?",
    "sign": "Add a signature to a certificate.",
    "init": "Make a repository ready for the gate.",
    "submit": "Put a judged model where the gate's policy wants it.",
    "gate": "May this change be merged?",
    "waive": "Sign that findings of the gate are waived until a given day.",
    "history": "Which model passed which checklist, when, and who signed?",
    "export": "Export a certified checkpoint as an ONNX bundle.",
    "predict": "Grade photographs with a certified bundle.",
    "report": "Create the report of an evaluation again (terminal, HTML, Markdown, JUnit).",
    "keygen": "Create a signing key, or a key that recognises patients.",
    "spec": "List, show, check and compare checklists. A checklist is the list of criteria that a model must meet.",
}
"""Every command with its line in the list of commands. The command itself is the module of its name, and `spec` is
`drgate.cli.checklist`."""


def build(wanted: str | None = None) -> typer.Typer:
    """The `drgate` application with the command that is wanted; where none is, with names and lines for the list.

    Building every command takes as long as importing typer, and one invocation runs one command.
    """
    app = typer.Typer(
        name="drgate",
        help="Judge diabetic retinopathy grading models by a written checklist before they are released. "
        "Not a medical device.\n\n"
        "Exit codes: 0 passed, 1 a criterion failed, 2 the command could not do its work, 3 not enough evidence "
        "(INSUFFICIENT or OBSERVED; OBSERVED is 0 with a checklist that only tries a pipeline, such as smoke).\n\n"
        "MANIFEST, in the help of the commands: the list of images with their grades and patients, as a CSV or Parquet "
        "file or as a folder of images.",
        epilog="Start with: drgate demo",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_version)
    for name in [wanted] if wanted in COMMANDS else COMMANDS:
        if name != wanted:
            app.command(name, short_help=COMMANDS[name])(_listed)
        elif name == "spec":
            app.add_typer(importlib.import_module("drgate.cli.checklist").app, name=name)
        else:
            module = importlib.import_module(f"drgate.cli.{name}")
            app.command(name, help=module.HELP, short_help=COMMANDS[name])(module.command)
    return app


def _listed() -> None:
    """Stands for a command in the list of commands."""


def _version(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from drgate import __version__

        typer.echo(f"drgate {__version__}")
        raise typer.Exit


def run(app: typer.Typer, name: str, arguments: list[str] | None = None) -> None:
    """Run an application and exit. An expected error is one line on standard error, never a traceback."""
    # By default, torch's waiting threads keep a core busy. On two cores with another process on one of them, training
    # slowed from 100 to 4 images per second (docs/decisions/0004-waiting-threads-sleep.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = sys.argv[1:] if arguments is None else arguments
    warned: Counter[type[Warning]] = Counter()

    def warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        warned[category] += 1
        if category.__module__.startswith(("drgate", "trainer")) and warned[category] <= SHOWN_WARNINGS:
            complain(name, f"warning: {message}")

    warnings.showwarning = warn
    try:
        code = app([_hyphenated(word) for word in given], prog_name=name, standalone_mode=False)
        for category, times in warned.items():
            if category.__module__.startswith(("drgate", "trainer")) and times > SHOWN_WARNINGS:
                complain(name, f"warning: {times - SHOWN_WARNINGS} more of this kind are not shown.")
    except DrgateError as problem:
        complain(name, str(problem))
        code = problem.exit_code
    except (KeyboardInterrupt, typer.Abort):
        complain(name, "interrupted.")
        code = ExitCode.INTERRUPTED
    except typer.Exit as problem:
        code = problem.exit_code
    except BrokenPipeError:
        code = _unread()
    except SystemExit as problem:  # what typer and Rich make of a closed pipe
        if not isinstance(problem.__context__, BrokenPipeError):
            raise
        code = _unread()
    except ModuleNotFoundError as problem:
        code = ExitCode.REFUSED
        package = (problem.name or "").partition(".")[0]
        if package in EXTRAS:
            extra = "train" if name.startswith("drtrain") else EXTRAS[package]
            complain(
                name,
                f"this needs {package}, which is not installed. {install(extra)}",
            )
        else:
            traceback.print_exc()
            complain(name, "this is a defect of the program; please report what is above.")
    except OSError as problem:
        # without a number, the text is a library's and may repeat what was read
        complain(name, f"{problem.filename or 'a file'}: {problem.strerror or 'cannot be read or written'}.")
        code = ExitCode.REFUSED
    except MemoryError:
        complain(name, "there is not enough memory for this; use a smaller table or a machine with more memory.")
        code = ExitCode.REFUSED
    except Exception as problem:
        code = ExitCode.REFUSED  # never FAILED, which means that a criterion failed
        if type(problem).__name__ == "NoArgsIsHelpError":
            sys.stdout.write(f"{problem}\n")
        elif hasattr(problem, "format_message"):  # typer's usage errors, whatever module they live in
            complain(name, _usage(problem, app, given))
        else:
            _trace(problem)
            complain(name, "this is a defect of the program; please report what is above.")
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _unread()
    sys.exit(int(code) if isinstance(code, int) else ExitCode.PASSED.value)


def _trace(problem: BaseException) -> None:
    """Where a defect is, without the exceptions' texts, which may repeat a patient's cell."""
    sys.stderr.writelines(traceback.format_tb(problem.__traceback__))
    sys.stderr.write(f"{type(problem).__name__}\n")


def _unread() -> int:
    """The reader closed standard output: return the exit code that shells use, and let the final flush succeed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.READER_GONE


def _hyphenated(word: str) -> str:
    """Flags may be written with _ or with -."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value


def _usage(problem: Any, app: typer.Typer, given: list[str]) -> str:
    message = str(problem.format_message()).rstrip(".")
    context = getattr(problem, "ctx", None)
    flag = getattr(problem, "option_name", None)
    if flag and context is not None:
        known = [option for parameter in context.command.params for option in parameter.opts]
        import difflib

        near = difflib.get_close_matches(str(flag), known, 1)
        message = f"there is no option {flag}" + (f"; did you mean {near[0]}?" if near else ".")
    elif not message.endswith("?"):
        message += "."
    where = context.command_path if context is not None else app.info.name
    command = typer.main.get_command(app) if context is None or context.parent is None else None
    for word in given:  # typer names no command where an option lacks its argument
        if (command := getattr(command, "commands", {}).get(word)) is None:
            break
        where = f"{where} {word}"
    return f"{message} See {where} --help."
