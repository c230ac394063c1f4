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

from drgate.buckets import located
from drgate.cli.options import (
    ColumnsOption,
    FormatOption,
    MaxAgeOption,
    QuietOption,
    RevokedOption,
    ScorerKeyOption,
    WorkersOption,
    column_map,
)
from drgate.screen import Format, complain, emit, progress, tell

if TYPE_CHECKING:
    from rich.console import Console

    from drgate.predict import Deployed, Prediction

HELP = """Grade photographs with a bundle that drgate export wrote, after checking its certificate.

The certificate must be signed by a key that you trust (--trusted-key), say PASS, and name exactly the files that are
loaded. Else nothing is graded; --uncertified grades all the same, and says on each run what is wrong.

A photograph that cannot be read, or for which the model gives no numbers, has no grade: refer it to a person. Quality
below 1 means that the rule of image quality refuses the photograph. Where the bundle has a rule (drgate export
--quality), it then has no grade; elsewhere this is information.

A FOLDER is all photographs in it and below it; of a MANIFEST only the names of images and their splits are read. --out
writes the file when all are graded: after Ctrl-C there is none.

Exit code 0 all photographs have a grade; 3 some have none; 2 the bundle was refused, or bad input.

\b
Examples:
  drgate predict bundle eye.jpg --trusted-key keys/clinical.pub
  drgate predict bundle site-a --trusted-key keys/clinical.pub --out grades.csv
  drgate predict bundle visits.csv --columns image=file --trusted-key keys/clinical.pub --out grades.jsonl
"""

_ROW = "{name:<13}  {p:>5}  {refer:<5}  {quality:>7}"
_FEWEST = 20
"""Characters of an image's name that are always shown."""


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that drgate export wrote.")],
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...|FOLDER|MANIFEST",
            parser=located,
            help="Photographs, folders of them, or tables of them; also gs:// and s3://.",
        ),
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
    columns: ColumnsOption = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Only the photographs of this split of a data set, such as test.")
    ] = None,
    uncertified: Annotated[
        bool, typer.Option("--uncertified", help="Grade with a bundle that is not certified, and say why it is not.")
    ] = False,
    scorer_key: ScorerKeyOption = None,
    revoked: RevokedOption = None,
    max_age_days: MaxAgeOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File to write, for many photographs: .csv or .jsonl.")
    ] = None,
    workers: WorkersOption = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.certificate.keys import load_public_key
    from drgate.certificate.trust import load_revocations
    from drgate.errors import UsageError, visible
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
    mapped = column_map(columns)
    deployed = load_bundle(bundle, trust, uncertified=uncertified)
    for doubt in deployed.doubts:
        complain("drgate", f"NOT CERTIFIED: {doubt}")
    photographs = photographs_in(images, columns=mapped, split=split)
    for note in photographs.notes:
        complain("drgate", note)
    if out is not None or format is Format.json:
        tell(deployed.where, quiet)
    longest = max(len(name) for name, _, _ in photographs.named)
    counts: Counter[str] = Counter()
    table_is_seen = out is None and format is Format.human and sys.stdout.isatty()  # and shows how far it is
    with (
        _writer(deployed, out, format, quiet, longest) as write,
        progress("Grading", quiet or table_is_seen) as (started, advance),
    ):
        started(len(photographs))
        for prediction in graded(deployed, photographs, workers=workers, advance=advance):
            counts[prediction.status] += 1
            counts["to refer"] += bool(prediction.referable)
            counts["poor"] += prediction.status == "graded" and (prediction.quality or 0) < 1
            write(prediction)
    refer, poor = counts.pop("to refer"), counts.pop("poor")
    bare = len(photographs) - counts["graded"]
    many = "photograph has" if len(photographs) == 1 else "photographs have"
    sentence = f"{counts['graded']} of {len(photographs)} {many} a grade, {refer} referable."
    if out is not None:
        summary = deployed.to_json() | {"written": str(out), "counts": dict(counts)}
        emit(summary, lambda console: _say(console, f"{sentence} Written: {visible(out)}."), format, quiet)
    elif format is Format.human:
        emit(None, lambda console: _say(console, sentence), format, quiet)
    if poor and not quiet:
        complain(
            "drgate",
            f"{poor} of those with a grade {'has' if poor == 1 else 'have'} a quality below 1. This bundle was judged "
            "without a rule of image quality, so they were graded all the same.",
        )
    if bare and not quiet:
        complain("drgate", f"{bare} of {len(photographs)} {many} no grade: refer to a person.")
    return exit_code(counts)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _writer(
    deployed: Deployed, out: Path | None, format: Format, quiet: bool, longest: int
) -> Iterator[Callable[[Prediction], object]]:
    """What takes each prediction as it comes: a file that appears when all are in it, or standard output."""
    from drgate.files import replacing

    if out is not None:
        with replacing(out) as path, path.open("w", encoding="utf-8", newline="") as file:
            one_certified = {"certified": not deployed.doubts}
            yield _lines(file, one_certified) if out.suffix.lower() == ".jsonl" else _rows(file, deployed)
            file.flush()
    elif format is Format.json:
        # Not in memory, and nothing on standard output before all is known.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
            write, first = _lines(file, {}, end=""), True

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
        yield (lambda prediction: None) if quiet else _table(deployed, longest)


def _lines(file: IO[str], more: dict[str, bool], end: str = "\n") -> Callable[[Prediction], object]:
    def write(prediction: Prediction) -> None:
        file.write(json.dumps(prediction.to_json() | more, ensure_ascii=False, allow_nan=False) + end)

    return write


def _rows(file: IO[str], deployed: Deployed) -> Callable[[Prediction], object]:
    classes = ("p_not_referable", "p_referable") if deployed.answer.referable_only else [f"p_{i}" for i in range(5)]
    writer = csv.writer(file)
    heads = ("image", "sha256", "certified", "status", "grade", "name", *classes, "referable", "quality", "reason")
    writer.writerow(heads)
    words = {None: "", True: "true", False: "false"}
    certified = words[not deployed.doubts]  # a file goes on without what was said when it was made

    def write(prediction: Prediction) -> None:
        plain = prediction.to_json()
        p = plain["p"] or [""] * len(classes)
        cells = [plain["image"], plain["sha256"], certified, plain["status"], plain["grade"], plain["name"]]
        writer.writerow([*cells, *p, words[plain["referable"]], plain["quality"], plain["reason"]])

    return write


def _table(deployed: Deployed, longest: int) -> Callable[[Prediction], None]:
    """A line for each photograph, and one more for a reason that it has no room for. longest: name of an image."""
    from drgate.errors import visible
    from drgate.scale import GRADES, REFERABLE_CLASSES, SCALE_TITLES, TITLES
    from drgate.screen import console

    screen = console(sys.stdout)
    for doubt in deployed.doubts:
        _say(screen, visible(f"NOT CERTIFIED: {doubt}"))
    if deployed.doubts:
        _say(screen, "Do not rely on these grades.")
    elif deployed.headline:
        _say(screen, visible(deployed.headline))
    _say(screen, deployed.where)
    if deployed.grader.rule is not None:
        _say(screen, "A photograph with a quality below 1 gets no grade: refer it to a person.")
    titles = dict(zip((*GRADES, *REFERABLE_CLASSES), (*TITLES, *SCALE_TITLES["referable"]), strict=True))
    heads = _ROW.format(name="Grade", p="P", refer="Refer", quality="Quality")
    room = max(_FEWEST, screen.width - len(heads) - 2)
    wide = min(max(longest, len("Image")), room)
    _say(screen, f"{'Image':<{wide}}  {heads}")

    def write(found: Prediction) -> None:
        image, reason = visible(found.image), visible(found.reason or "")
        if sys.stdout.isatty() and len(image) > wide:
            image = f"...{image[3 - wide :]}"
        cells = {
            "name": titles.get(found.name or "", found.status.replace("_", " ")),
            "p": f"{max(found.p):.3f}" if found.p else "",
            "refer": {None: "", True: "yes", False: "no"}[found.referable],
            "quality": "" if found.quality is None else f"{found.quality:.2f}",
        }
        line = f"{image:<{wide}}  {_ROW.format(**cells)}"
        if reason and len(line) + 2 + len(reason) > screen.width:
            _say(screen, f"{line.rstrip()}\n    {reason}")
        else:
            _say(screen, f"{line}  {reason}".rstrip())

    return write
