"""`drgate audit`: is the evidence clean?"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from drgate.buckets import located
from drgate.cli.options import (
    ChecklistOption,
    ColumnsOption,
    FormatOption,
    LooksOption,
    LookTimeOption,
    PatientKeyOption,
    QuietOption,
    ScoresOption,
    SplitOption,
    WorkersOption,
    column_map,
    patient_key,
)
from drgate.screen import Format, emit, progress, tell

if TYPE_CHECKING:
    from drgate.audit.collect import Collected
    from drgate.audit.result import Audit

_SHOWN: Final = 5
PUBLIC: Final = ("audit.json", "audit.html")
PRIVATE: Final = ("names.csv", "pictures.html")
READING: Final = ("to_read.csv", "to_read")
"""What --out writes; the second and third are for the caller alone."""
DOUBTED: Final = ("label_conflicts", "fellow_eyes", "mislabelled")
"""Checks whose photographs are read again."""
_SEED: Final = 0
"""Of the photographs that are read beside those, and of the order."""

HELP = """Is the evidence clean? Leaks, labels, shortcuts, quality and case mix of a test set.

TEST is compared with training data: its own other splits, the TRAIN manifests (their splits train and val, or all),
and what a model's fingerprint keeps (--checkpoint). Asked is whether a patient, an eye, a file or a photograph of the
test set was in training, also turned, cropped or recoloured; whether one picture has two grades; and, to look at, what
the grades depend on, which photographs cannot be graded, and which cases are few.

Exit code 0 clean, 1 found, 2 the command could not do its work, 3 nothing found, but something is suspected or could
not be checked. Leaks (lineage, patients, eyes, files, pixels, near duplicates) and label conflicts decide it. The other
checks (fellow eyes, mislabelled, readers, shortcuts, quality, case mix) only inform.

With --predictions the answers are set beside the grades of the test set. That is a look, and it is logged first. Where
one look is allowed, no other model can pass on this set afterwards; so look for wrong labels with --split val.

--out writes audit.json and audit.html, which name an image by the first 16 hex digits of its SHA-256, and names.csv,
which leads back to your names. Do not publish names.csv, pictures.html (--pictures) or to_read (--to-read); the
folder's .gitignore lists them. What was seen of a photograph is kept in DRGATE_CACHE, so that a second audit is quick.

\b
Examples:
  drgate audit data
  drgate audit hospital/labels.csv eyepacs --out reports/audit
  drgate audit hospital/labels.csv --checkpoint best_model.pth --patient-key keys/patients.key
  drgate audit data --predictions predictions.parquet --out reports/audit --pictures
"""


def command(
    test: Annotated[
        Path,
        typer.Argument(
            metavar="TEST", parser=located, help="The test set: a manifest; its other splits count as training."
        ),
    ],
    train: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[TRAIN ...]", parser=located, help="Further training data: manifests."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="CKPT",
            help="The model: what its fingerprint keeps of its training data counts too. The network is not built.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions", metavar="TABLE", help="The model's answers on the test set, to find unlikely grades."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder to write.")] = None,
    split: SplitOption = "test",
    columns: ColumnsOption = None,
    scores: ScoresOption = None,
    spec: ChecklistOption = "medical-grade",
    no_images: Annotated[
        bool,
        typer.Option(
            "--no-images", help="Open no image: only what the tables say is compared, and the rest is not assessed."
        ),
    ] = False,
    pictures: Annotated[
        bool,
        typer.Option("--pictures", help="With --out: also write pictures.html, the pairs that were found as pictures."),
    ] = False,
    to_read: Annotated[
        bool,
        typer.Option(
            "--to-read",
            help="With --out: also write the photographs whose grade is in doubt, among as many others, for readers "
            "who see no grade.",
        ),
    ] = False,
    patients: PatientKeyOption = None,
    looks: LooksOption = None,
    time: LookTimeOption = None,
    workers: WorkersOption = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.audit.collect import Asked, collect
    from drgate.audit.whole import QUESTIONS, audit
    from drgate.checklist import load_checklist
    from drgate.errors import UsageError
    from drgate.looks import Log, given_time
    from drgate.report import audit as page
    from drgate.vision.cache import cache_folder

    for wanted, name in ((pictures, "--pictures"), (to_read, "--to-read")):
        if wanted and (out is None or no_images):
            raise UsageError(f"{name} puts photographs into the folder of --out: give --out DIR, without --no-images.")
    if predictions is None and (looks or time):
        raise UsageError("--looks and --time belong to --predictions: nothing else takes a look. Leave them out.")
    if time is not None:
        given_time(time)
    if out is not None:
        _refuse_taken(out, to_read)
    checklist, log = load_checklist(spec), Log(looks, time, patient_key(patients))
    asked = Asked(
        test, tuple(train or ()), split, checkpoint, predictions, not no_images, column_map(columns, scores), log
    )
    with progress("Reading photographs", quiet) as (started, advance):
        collected = collect(
            asked,
            checklist,
            workers=workers,
            started=started,
            advance=advance,
            cache=cache_folder(None),
            note=partial(tell, quiet=quiet),
        )
    with progress("Auditing", quiet) as (started, advance):
        started(len(QUESTIONS))
        found = audit(collected.evidence, collected.settings, advance=lambda name: advance(1))
    names = collected.own_names
    doubted = None
    if out is not None:
        doubted = _write(out, found, collected, pictures, to_read)
    emit(found.to_json(), lambda console: page.terminal(found, console, names), format, quiet)
    for sentence in collected.unreadable[:_SHOWN]:
        tell(sentence, quiet)
    if (more := len(collected.unreadable) - _SHOWN) > 0:
        tell(f"{more} more {'photograph' if more == 1 else 'photographs'} cannot be read.", quiet)
    if (look := collected.look) is not None:
        tell(f"Look {look.number} of {look.allowed} allowed at these images.", quiet)
    if out is not None:
        tell(f"Audit: {out / 'audit.html'}; {found.digest}.", quiet)
        if doubted:
            tell(
                f"To read again: {doubted} photographs in {out / READING[1]}, for readers; {out / READING[0]} leads "
                "back to your names and is not for them.",
                quiet,
            )
        elif doubted is not None:
            tell("To read again: nothing, for no grade of the test set is in doubt.", quiet)
    return found.exit_code


def _refuse_taken(out: Path, to_read: bool) -> None:
    """Raise UsageError where nothing can be written into the folder, where it holds anything that is no audit's, or a
    list that readers may work from."""
    from drgate.errors import UsageError
    from drgate.files import entries, refuse_existing, refuse_no_place

    refuse_no_place(out, "--out")
    ours = {*PUBLIC, *PRIVATE, *READING, ".gitignore"}
    if out.is_file() or any(
        one.name not in ours or (one.is_dir() and one.name not in READING) for one in entries(out, UsageError)
    ):
        raise UsageError(f"{out} holds something else; give another folder with --out.")
    for name in READING if to_read else ():
        refuse_existing(out / name, "readers may work from it; choose another folder with --out")


def _write(out: Path, found: Audit, collected: Collected, pictures: bool, to_read: bool) -> int | None:
    """Write the folder's files, once all are made; those of an earlier audit there go. Returns how many photographs
    are to be read again; None where that is not asked."""
    from drgate.audit.pictures import pairs
    from drgate.audit.reading_list import reading_list, write_reading
    from drgate.files import as_csv, canonical_json, ignored_in, write_atomically, write_private
    from drgate.report import audit as page

    own = collected.own_names
    rows = [("test", *pair) for pair in own.test.items()] + [("train", *pair) for pair in own.train.items()]
    public = {"audit.json": canonical_json(found.to_json()), "audit.html": page.html(found).encode()}
    private = {"names.csv": as_csv([("set", "image", "own_image"), *rows])}
    if pictures:
        private["pictures.html"] = page.pictures(found, pairs(found, collected.evidence), own).encode()
    out.mkdir(parents=True, exist_ok=True)
    doubted = None
    if to_read:
        test = collected.evidence.test
        wanted = reading_list([one for one in found.checks if one.id in DOUBTED], test, _SEED)
        doubted = len(wanted)
        if doubted:
            write_reading(wanted, test, out)
    for name in (*PUBLIC, *PRIVATE):
        (out / name).unlink(missing_ok=True)
    for name, data in private.items():
        write_private(out, name, data, ignored=ignored_in(out))
    for name, data in public.items():
        write_atomically(out / name, data)
    return doubted
