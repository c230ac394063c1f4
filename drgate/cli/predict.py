"""`drgate predict`: grade photographs with a bundle whose certificate holds."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from drgate.cli.options import FormatOption, QuietOption, RevokedOption, ScorerKeyOption, WorkersOption
from drgate.screen import Format, complain, emit, progress

if TYPE_CHECKING:
    from rich.console import Console

    from drgate.predict import Deployed, Prediction

HELP = """Grade photographs with a bundle that drgate export wrote, after checking its certificate.

The certificate must be signed by a key that you trust (--trusted-key), say PASS, and name exactly the files that are
loaded. Else nothing is graded; --uncertified grades all the same, and says on each run what is wrong.

A photograph that cannot be read, or for which the model gives no numbers, has no grade: refer it to a person. Quality
below 1 means that the rule of image quality refuses the photograph; where the bundle has a rule, it gets no grade.

Exit code 0 all photographs have a grade; 3 some have none; 2 the bundle was refused, or bad input.

\b
Examples:
  drgate predict bundle eye.jpg --trusted-key keys/clinical.pub
  drgate predict bundle site-a --trusted-key keys/clinical.pub --out grades.csv
"""

_TABLE = "{image:<40} {status:<10} {name:<14} {p:>6}  {referable:<3} {quality:>7}  {reason}"


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that drgate export wrote.")],
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...|FOLDER|MANIFEST", help="Photographs, folders of them, or tables of them."),
    ],
    trusted_key: Annotated[
        list[Path] | None,
        typer.Option(
            "--trusted-key",
            metavar="PUB",
            envvar="DRGATE_TRUSTED_KEY",
            show_envvar=True,
            help="Public key whose signature under the bundle's certificate you trust; may be repeated.",
        ),
    ] = None,
    uncertified: Annotated[
        bool, typer.Option("--uncertified", help="Grade with a bundle that is not certified, and say why it is not.")
    ] = False,
    scorer_key: ScorerKeyOption = None,
    revoked: RevokedOption = None,
    max_age_days: Annotated[
        int | None,
        typer.Option(
            "--max-age-days", metavar="N", min=1, help="Refuse a certificate whose look is older than N days."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File to write, for many photographs: .csv or .jsonl.")
    ] = None,
    workers: WorkersOption = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.certificate.keys import load_public_key
    from drgate.certificate.trust import load_revocations
    from drgate.errors import UsageError
    from drgate.files import refuse_existing, refuse_no_place
    from drgate.predict import exit_code, graded, load_bundle, photographs_in
    from drgate.verify import Trust

    if out is not None:
        if out.suffix.lower() not in (".csv", ".jsonl"):
            raise UsageError(f"--out is {out}; give a name that ends in .csv or .jsonl.")
        refuse_existing(out, "choose another name with --out")
        refuse_no_place(out, "--out")
    trust = Trust(
        [load_public_key(path) for path in trusted_key or ()],
        None if revoked is None else load_revocations(revoked),
        max_age_days,
        scorers=[load_public_key(path) for path in scorer_key or ()],
    )
    deployed = load_bundle(bundle, trust, uncertified=uncertified)
    for doubt in deployed.doubts:
        complain("drgate", f"NOT CERTIFIED: {doubt}")
    photographs = photographs_in(images)
    counts: Counter[str] = Counter()
    with _writer(deployed, out, format, quiet) as write, progress("Grading", quiet) as (started, advance):
        started(len(photographs))
        for prediction in graded(deployed, photographs, workers=workers, advance=advance):
            counts[prediction.status] += 1
            write(prediction)
    bare = len(photographs) - counts["graded"]
    if out is not None:
        summary = deployed.to_json() | {"written": str(out), "counts": dict(counts)}
        sentence = f"{counts['graded']} of {len(photographs)} photographs have a grade. Written: {out}."
        emit(summary, lambda console: _say(console, sentence), format, quiet)
    if bare and not quiet:
        complain("drgate", f"{bare} of {len(photographs)} photographs have no grade: refer them to a person.")
    return exit_code(counts)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _writer(
    deployed: Deployed, out: Path | None, format: Format, quiet: bool
) -> Iterator[Callable[[Prediction], object]]:
    """What takes each prediction as it comes: a file that appears when all are in it, or standard output."""
    from drgate.files import replacing

    if out is not None:
        with replacing(out) as path, path.open("w", encoding="utf-8", newline="") as file:
            yield _lines(file) if out.suffix.lower() == ".jsonl" else _rows(file, deployed)
            file.flush()
    elif format is Format.json:
        # Not in memory, and nothing on standard output before all is known.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
            write, first = _lines(file, end=""), True

            def one(prediction: Prediction) -> None:
                nonlocal first
                file.write("\n" if first else ",\n")
                first = False
                write(prediction)

            yield one
            file.seek(0)
            head = json.dumps(deployed.to_json(), ensure_ascii=False)[:-1]
            sys.stdout.write(f'{head}, "predictions": [')
            while part := file.read(1 << 20):
                sys.stdout.write(part)
            sys.stdout.write("\n]}\n")
    else:
        yield (lambda prediction: None) if quiet else _table(deployed)


def _lines(file: IO[str], end: str = "\n") -> Callable[[Prediction], object]:
    return lambda prediction: file.write(json.dumps(prediction.to_json(), ensure_ascii=False, allow_nan=False) + end)


def _rows(file: IO[str], deployed: Deployed) -> Callable[[Prediction], object]:
    classes = ("p_not_referable", "p_referable") if deployed.answer.referable_only else [f"p_{i}" for i in range(5)]
    writer = csv.writer(file)
    writer.writerow(["image", "sha256", "status", "grade", "name", *classes, "referable", "quality", "reason"])

    def write(prediction: Prediction) -> None:
        plain = prediction.to_json()
        p = plain["p"] or [""] * len(classes)
        refer = {None: "", True: "true", False: "false"}[plain["referable"]]
        cells = [plain[name] for name in ("image", "sha256", "status", "grade", "name")]
        writer.writerow([*cells, *p, refer, plain["quality"], plain["reason"]])

    return write


def _table(deployed: Deployed) -> Callable[[Prediction], None]:
    from drgate.errors import visible
    from drgate.screen import console

    screen = console(sys.stdout)
    _say(screen, f"{deployed.headline or 'This model has no certificate.'} Device: {deployed.device}.")
    if deployed.doubts:
        _say(screen, "NOT CERTIFIED: do not rely on these grades.")
    heads = ("image", "status", "name", "p", "referable", "quality", "reason")
    shown = dict(zip(heads, ("Image", "Status", "Grade", "P", "Refer", "Quality", ""), strict=True))
    _say(screen, _TABLE.format(**shown).rstrip())

    def write(prediction: Prediction) -> None:
        found = prediction
        cells = {
            "image": visible(found.image),
            "status": found.status.replace("_", " "),
            "name": (found.name or "").replace("_", " "),
            "p": f"{max(found.p):.3f}" if found.p else "",
            "referable": {None: "", True: "yes", False: "no"}[found.referable],
            "quality": "" if found.quality is None else f"{found.quality:.2f}",
            "reason": visible(found.reason or ""),
        }
        _say(screen, _TABLE.format(**cells).rstrip())

    return write
