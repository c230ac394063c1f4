"""`drgate gate`: may this change be merged?"""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import BaseRefOption, FormatOption, PolicyOption, QuietOption, base_ref_of
from drgate.screen import Format, emit

HELP = """Check whether the staged files may be merged, by the policy on the base branch.

Every model that the policy guards needs a certificate: with the required signatures, for the policy's checklist and
test sets, and recent enough if the model changed. All numbers are recomputed from the predictions, unless the policy
says otherwise. No rule may become weaker without a signed waiver. Needs no weights, torch or network. See docs/gate.md.

Exit codes: 0 the gate is open. Otherwise it is closed: 1 something failed, 3 evidence is missing or insufficient, 2
something is not what it claims to be or cannot be read.

\b
Examples:
  drgate gate --base-ref origin/main --junit gate.xml
  drgate gate --base-ref HEAD                      (before a commit: the staged files against HEAD)
"""


def command(
    policy: PolicyOption = None,
    base_ref: BaseRefOption = None,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", metavar="FILE", help="Write JUnit XML, one test case per criterion and model."),
    ] = None,
    comment: Annotated[
        Path | None, typer.Option("--comment", metavar="FILE", help="Write Markdown for a comment on a pull request.")
    ] = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    _clear([written for written in (junit, comment) if written is not None])
    from drgate.errors import DrgateError
    from drgate.files import write_atomically
    from drgate.gate.findings import refused
    from drgate.gate.gate import gate
    from drgate.report import gate as drawn

    # For some thousand rows the threads of a linear algebra library cost more time than they save.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        report = gate(Path(), base_ref=base_ref_of(base_ref), policy=policy)
    except DrgateError as problem:
        report = refused(base_ref or "", problem)
    if junit is not None:
        write_atomically(junit, drawn.junit(report).encode())
    if comment is not None:
        write_atomically(comment, drawn.markdown(report).encode())
    if os.environ.get("GITHUB_ACTIONS") != "true":
        emit(report.to_json(), lambda screen: drawn.render(report, screen), format, quiet)
        return report.exit_code
    # A runner reads commands from both streams; a file name in the change must not become one.
    with redirect_stdout(StringIO()) as caught:
        emit(report.to_json(), lambda screen: drawn.render(report, screen), format, quiet)
    sys.stdout.write(drawn.defanged(caught.getvalue(), json=format is Format.json))
    sys.stdout.flush()
    sys.stderr.write("".join(f"{line}\n" for line in drawn.workflow_commands(report)))
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        summary = Path(path)
        room = drawn.SUMMARY_BYTES - (summary.stat().st_size if summary.is_file() else 0)
        with summary.open("a", encoding="utf-8") as handle:
            handle.write(drawn.markdown(report, limit=room))
    return report.exit_code


def _clear(reports: list[Path]) -> None:
    """Remove what is there under the names of the reports: the change may hold such files, which are not this report.

    Raises UsageError, once all files and links are gone, where a folder is in the way or a folder on the way is a link.
    """
    from drgate.errors import UsageError, visible

    problems = []
    for report in reports:
        links = [] if report.is_absolute() else [parent for parent in report.parents if parent.is_symlink()]
        if links:
            problems.append(f"{visible(links[0])} is a symbolic link, so {visible(report)} is not written through it")
        elif report.is_dir() and not report.is_symlink():
            problems.append(f"{visible(report)} is a folder, so no report can be written there")
        elif report.is_symlink() or report.exists():
            report.unlink()
    if problems:
        raise UsageError(f"{'; '.join(problems)}. Remove it from the change, or name a file outside the repository.")
