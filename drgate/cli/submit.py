"""`drgate submit`: put a judged model where the policy wants it."""

from __future__ import annotations

import shlex
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from drgate.cli.options import FormatOption, QuietOption
from drgate.screen import Format, emit, tell

if TYPE_CHECKING:
    from drgate.gate.submit import Submitted

HELP = """Put a judged model where the policy wants it: model, certificates, predictions and looks, staged.

First asks the gate, with these files added to what is staged. Where it would stay closed, nothing changes, and what is
missing is named: exit code 1 the model failed, 3 the evidence is insufficient, 2 anything else. A model that is staged
already, also as a pointer of Git LFS or DVC, stays where it is. See docs/gate.md.

\b
Examples:
  drgate submit reports/first --model best_model.pth
  drgate submit reports/first --base-ref upstream/main
"""


def command(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="Folder of an evaluation with a certificate.")],
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FILE", help="The model, or the folder with its files. [the staged one]"),
    ] = None,
    looks: Annotated[
        Path | None,
        typer.Option("--looks", metavar="FILE", help="Chain of looks of the evaluation. [the policy's; reports/looks]"),
    ] = None,
    test_set: Annotated[
        str | None,
        typer.Option(
            "--test-set",
            metavar="NAME",
            help="State the test set of this evaluation in a policy that states none, under this name.",
        ),
    ] = None,
    base_ref: Annotated[
        str | None,
        typer.Option("--base-ref", metavar="REF", help="Branch to merge into. [origin's, else the last commit]"),
    ] = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.gate.submit import submit

    done = submit(Path(), report, model=model, looks=looks, test_set=test_set, base_ref=base_ref)
    following = _next(done)
    plain = {"written": list(done.written), "replaced": list(done.replaced), "adopts": done.adopts, "next": following}
    said = f"{done.headline} Staged: {', '.join(done.written) or 'nothing new; all is there'}."
    emit(plain, lambda _: tell(said, quiet), format, quiet)
    if done.replaced:
        tell(f"Replaced: {', '.join(done.replaced)} (what was there is in Git).", quiet)
    if done.adopts:
        tell(
            f"{done.base or 'The remote'} has no policy yet, and a change cannot approve itself. All else is met. Read "
            "drgate.toml and keys: from the first merge, past the gate, they decide.",
            quiet,
        )
    else:
        tell(f"The gate is open for what is staged, compared with {done.base}.", quiet)
    tell(f"Next: {following}", quiet)
    return 0


def _next(done: Submitted) -> str:
    name = PurePosixPath(done.model).stem
    first = not done.base or (done.base == "HEAD" and done.remote)  # the remote has no branch yet
    own = f"{name}-{done.statement[7:15]}"  # the next model may have the same name
    text = f"Adopt the gate, with {name}" if done.adopts else f"Model {own}"
    words = [f"git commit -m {shlex.quote(text)}"]
    base = done.base.removeprefix("origin/") if done.base.startswith("origin/") else ""
    target = f"origin/{done.branch}" if first else done.base
    if base and done.branch in (base, "", "main", "master"):
        words.insert(0, f"git switch -c {shlex.quote(f'model-{own}')}")
    if done.remote:
        words.append("git push -u origin HEAD")
        if first or not done.adopts:
            words.append(f"drgate gate --base-ref {shlex.quote(target)}")
    return " && ".join(words)
