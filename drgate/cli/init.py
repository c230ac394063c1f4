"""`drgate init`: make a repository ready for the gate."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drgate.cli.options import ColumnsOption, FormatOption, QuietOption, SplitOption, column_map
from drgate.screen import Format, emit, tell

if TYPE_CHECKING:
    from drgate.gate.adopt import KnownSet

HELP = """Make this repository ready for the gate: policy, checklist, keys, folders, workflow, and lines for Git.

Everything is written and staged, or nothing. Files that are there already and differ are not replaced without --force;
.gitattributes and .gitignore get the lines that they lack. Until a test set is stated (--data, --report, or later
drgate submit --test-set), the gate is closed. See docs/gate.md.

A checklist limits how many models one test set may judge; --looks N changes that before the first look. When a test set
is used up, --replaces states a fresh one in its place, which the required roles must then waive.

\b
Examples:
  drgate init --github --trusted-key clinical=keys/clinical.pub --data labels.csv --looks 3
  drgate init --data fresh.csv --replaces labels
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
    looks: Annotated[
        int | None,
        typer.Option(
            "--looks",
            metavar="N",
            min=1,
            help="How many models one test set may judge: writes the checklist with N looks, under another name.",
        ),
    ] = None,
    replaces: Annotated[
        str | None,
        typer.Option(
            "--replaces",
            metavar="NAME",
            help="Only state this test set in place of the policy's test set NAME, which is used up.",
        ),
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
    mapping = column_map(columns)
    if replaces is not None:
        if trusted_key or models or looks or github or gitlab or force:
            raise UsageError("--replaces changes the test set alone; give --data or --report with it, and no more.")
        if data is None and report is None:
            raise UsageError("--replaces needs the test set that takes the place: --data MANIFEST or --report FOLDER.")
        fresh = known_set(report) if report is not None else set_of(data or Path(), split, mapping)
        return _exchange(replaces, fresh, report, _of(data, split, columns), format, quiet)
    keys = []
    for text in trusted_key or ():
        role, equals, path = text.partition("=")
        if not (role and equals and path):
            raise UsageError(f"--trusted-key is {text!r}; expected ROLE=PUB, such as clinical=keys/clinical.pub.")
        keys.append((role, Path(path)))
    test_set = (
        known_set(report) if report is not None else set_of(data, split, mapping) if keys and data is not None else None
    )
    done = adopt(
        Path(),
        keys=keys,
        spec=spec,
        models=models or ["models/*.pth"],
        test_set=test_set,
        looks=looks,
        forge="github" if github else "gitlab" if gitlab else None,
        source=drgate,
        force=force,
    )
    words = ["drgate", "evaluate", "MODEL", *_of(data, split, columns)]
    words += ["--spec", done.spec, *(["--looks", done.looks] if done.looks else [])]
    words += ["--key", _private(keys[0][1]), "--out", "reports/first"]
    following = shlex.join(words)
    emit(
        {"written": list(done.written), "notes": list(done.notes), "next": following},
        lambda _: tell(f"Wrote and staged {', '.join(done.written) or 'nothing: all is there'}.", quiet),
        format,
        quiet,
    )
    for note in done.notes:
        tell(note, quiet)
    if done.allowed == 1:
        said = (
            f"{done.spec} allows 1 look: one model is judged on a test set, and the next needs a fresh one. If several "
            "models are to be judged on it, say so before the first: --looks N (docs/gate.md)."
        )
    else:
        said = (
            f"{done.spec} allows {done.allowed} looks: as many models are judged on a test set, each at the level "
            f"divided by {done.allowed}, which takes more patients. A further one needs a fresh test set."
        )
    tell(said, quiet)
    if done.workflow is None:
        tell("No workflow was written; --github or --gitlab writes one.", quiet)
    if done.looks is None:
        tell(
            "No test set is stated, so the gate is closed until drgate submit REPORT --test-set NAME states it.", quiet
        )
    tell(f"Next: {following}", quiet)
    return 0


def _of(data: Path | None, split: str, columns: str | None) -> list[str]:
    words = ["--data", str(data or "TEST_SET"), *(["--split", split] if split != "test" else [])]
    return [*words, *(["--columns", columns] if columns is not None else [])]


def _exchange(old: str, fresh: KnownSet, report: Path | None, data: list[str], format: Format, quiet: bool) -> int:
    """State a fresh test set in place of `old`; says how to waive that, and what comes then."""
    from drgate.gate.adopt import exchange

    done = exchange(Path(), old, fresh)
    waivers = [
        shlex.join(
            ["drgate", "waive", done.waiver, "--base-ref", done.base, "--role", role, "--key", _private(Path(key))]
        )
        + " --expires YYYY-MM-DD --reason '...'"
        for role, key in done.roles
    ]
    evaluate = ["drgate", "evaluate", "MODEL", *data, "--spec", done.spec, "--looks", done.looks]
    evaluate += ["--key", _private(Path(done.roles[0][1])), "--out", "reports/NAME"]
    submit = ["drgate", "submit", "reports/NAME" if report is None else str(report), "--model", "MODEL"]
    following = [" && ".join([*waivers, "git add waivers"])] if done.base else []
    following += [*([shlex.join(evaluate)] if report is None else []), shlex.join(submit)]
    said = f"The policy, staged, states the test set {fresh.plain} ({fresh.digest}) in place of {old}."
    emit({"waiver": done.waiver, "next": following}, lambda _: tell(said, quiet), format, quiet)
    tell(
        f"Nothing shows that it is as good as {old}, so the gate takes this for a weaker rule ({done.waiver}) that the "
        "required roles must waive. Every model that stays in the repository must pass on it too; git rm the others.",
        quiet,
    )
    for line in following:
        tell(f"Next: {line}", quiet)
    return 0


def _private(public: Path) -> str:
    """The private key beside a public one, where it is there."""
    private = public.with_suffix(".pem")
    return str(private if private.is_file() else "KEY")
