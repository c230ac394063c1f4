"""`drgate init`: make a repository ready for the gate."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import ColumnsOption, FormatOption, QuietOption, SplitOption, column_map
from drgate.screen import Format, emit, tell

HELP = """Make this repository ready for the gate: policy, checklist, keys, folders, workflow, and lines for Git.

Everything is written and staged, or nothing. Files that are there already and differ are not replaced without --force;
.gitattributes and .gitignore get the lines that they lack. Until a test set is stated (--data, --report, or later
drgate submit --test-set), the gate is closed. See docs/gate.md.

\b
Examples:
  drgate init --github --trusted-key clinical=keys/clinical.pub --data labels.csv
  drgate init --gitlab --trusted-key clinical=clinical.pub --report reports/first --models 'models/*.onnx'
"""


def command(
    trusted_key: Annotated[
        list[str] | None,
        typer.Option(
            "--trusted-key",
            metavar="ROLE=PUB",
            help="Public key (drgate keygen) that must have signed each certificate, with its role; may be repeated.",
        ),
    ] = None,
    spec: Annotated[
        str, typer.Option("--spec", metavar="NAME|FILE", help="Checklist: a name from `drgate spec list`, or a file.")
    ] = "medical-grade",
    data: Annotated[
        Path | None, typer.Option("--data", metavar="MANIFEST", help="Test set on which every model must pass.")
    ] = None,
    split: SplitOption = "test",
    columns: ColumnsOption = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FOLDER", help="Evaluation whose test set it is, instead of --data."),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--models", metavar="PATTERN", help="Files that are models; may be repeated. [models/*.pth]"),
    ] = None,
    github: Annotated[bool, typer.Option("--github", help="Write a workflow for GitHub Actions.")] = False,
    gitlab: Annotated[bool, typer.Option("--gitlab", help="Write a job for GitLab CI.")] = False,
    drgate: Annotated[
        str | None,
        typer.Option(
            "--drgate",
            metavar="REPOSITORY@COMMIT",
            help="Repository that holds drgate on your forge, and a commit.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there already and differ.")] = False,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.errors import UsageError
    from drgate.gate.adopt import adopt, known_set, set_of

    if data is not None and report is not None:
        raise UsageError("--data and --report both state the test set; give one of them.")
    if github and gitlab:
        raise UsageError("--github and --gitlab were both given; give one of them.")
    if drgate is not None and not (github or gitlab):
        raise UsageError("--drgate is for a workflow; give --github or --gitlab too.")
    keys = []
    for text in trusted_key or ():
        role, equals, path = text.partition("=")
        if not (role and equals and path):
            raise UsageError(f"--trusted-key is {text!r}; expected ROLE=PUB, such as clinical=keys/clinical.pub.")
        keys.append((role, Path(path)))
    mapping = column_map(columns)
    test_set = (
        known_set(report) if report is not None else set_of(data, split, mapping) if keys and data is not None else None
    )
    done = adopt(
        Path(),
        keys=keys,
        spec=spec,
        models=models or ["models/*.pth"],
        test_set=test_set,
        forge="github" if github else "gitlab" if gitlab else None,
        source=drgate,
        force=force,
    )
    private = keys[0][1].with_suffix(".pem")
    words = ["drgate", "evaluate", "MODEL", "--data", str(data or "TEST_SET")]
    words += ["--split", split] if split != "test" else []
    words += ["--columns", columns] if columns is not None else []
    words += ["--spec", done.spec, *(["--looks", done.looks] if done.looks else [])]
    words += ["--key", str(private if private.is_file() else "KEY"), "--out", "reports/first"]
    following = shlex.join(words)
    emit(
        {"written": list(done.written), "notes": list(done.notes), "next": following},
        lambda _: tell(f"Wrote and staged {', '.join(done.written) or 'nothing: all is there'}.", quiet),
        format,
        quiet,
    )
    for note in done.notes:
        tell(note, quiet)
    if done.workflow is None:
        tell("No workflow was written; --github or --gitlab writes one.", quiet)
    if done.looks is None:
        tell(
            "No test set is stated, so the gate is closed until drgate submit REPORT --test-set NAME states it.", quiet
        )
    tell(f"Next: {following}", quiet)
    return 0
