"""`drgate preprocess`: what a model sees of a photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import FormatOption, QuietOption
from drgate.screen import Format, emit, tell

HELP = """Show what a model sees of photographs: the photograph, the prepared pixels, and the network's input.

Compare the sheet with what the model was trained on: a model that is judged on other input than it was trained on is
judged wrongly.

\b
Examples:
  drgate preprocess left.jpg right.jpg --preprocess imagenet-stretch@448 --out sheet.png
  drgate preprocess left.jpg --preprocess bundle/model.onnx --out sheet.png
"""


def command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Photographs.")],
    preprocess: Annotated[
        str,
        typer.Option(
            "--preprocess",
            metavar="NAME[@SIZE]|FILE|MODEL",
            help="fundus-square-1, siglip, medsiglip-tf, imagenet-stretch, retfound, a file "
            "(docs/preprocessing.md), or a model or bundle that states its own.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="PNG", help="Picture to write.")],
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from drgate.errors import UsageError
    from drgate.files import refuse_existing
    from drgate.given import folder_in, model_in
    from drgate.models import SUFFIXES, find_model
    from drgate.vision.graders import stated_by
    from drgate.vision.sheet import sheet
    from drgate.vision.stated import load_preprocessing

    if out.suffix.lower() != ".png":
        raise UsageError(f"--out is {out}; give a name that ends in .png.")
    refuse_existing(out, "choose another name with --out")
    for image in images:
        if not image.is_file():
            raise UsageError(f"{image} does not exist; expected a photograph.")
    given = Path(preprocess)
    model = given.suffix.lower() in SUFFIXES or given.is_dir() or folder_in(given) is not None
    found = stated_by(find_model(model_in(given))) if model else load_preprocessing(preprocess)
    sheet(images, found).save(out)
    emit(
        {"sheet": str(out), "name": found.name, "digest": found.digest, "preprocessing": found.content()},
        lambda _: tell(f"{found.name} ({found.digest}): {out}", quiet),
        format,
        quiet,
    )
    return 0
