"""What an evaluation would be, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Console
from rich.text import Text

from drgate.dry_run import Barred, DryRun
from drgate.report import words
from drgate.report.kit import paragraph
from drgate.scale import REFERABLE_CLASSES

_PATIENTS: Final = {
    "all": "named for every image",
    "some": "named for some images only, so they count as unknown",
    "none": "not named",
    "image names": "only repeat the images' names, so they count as unknown",
}


def terminal(found: DryRun, console: Console) -> None:
    """Write it to the console."""
    would = "The evaluation would end with FAIL: its audit finds a leak." if found.leak else "The evaluation can run."
    paragraph(console, f"{would} This is a dry run: no look was taken and nothing was written.", "bold")
    for label, text in lines(found):
        paragraph(console, f"{label}: {text}", hang=2)
    if found.nothing_passes:
        paragraph(console, f"No criterion on images can pass: {found.nothing_passes}", "bold", hang=2)
    for title, criteria in (
        ("No model can pass these on this test set", found.never),
        ("These will not be assessed", found.not_assessed),
    ):
        if criteria:
            console.print(Text(f"\n{title}", style="bold"))
        for line in _grouped(criteria):
            paragraph(console, line, hang=2)
    if any(one.required for one in (*found.never, *found.not_assessed)):
        console.print()
        paragraph(console, "A required criterion is among them, so the verdict cannot be PASS.", "bold")


def lines(found: DryRun) -> Iterator[tuple[str, str]]:
    """What would be judged, as labels and texts."""
    model, data, patients = found.model, found.test_set, found.test_set.patients
    yield "Checklist", f"{found.checklist['name']} version {found.checklist['version']}"
    if model.of_table:
        yield "Judged", f"{model.name}, a table that names no model"
    else:
        base = f", base {model.base.id}" if model.base else ""
        runs = f"; it graded {found.tried} images to show that it runs" if found.tried else ""
        yield "Judged", f"{model.title} ({model.kind}{base}, {_short(model.tensor_digest)}){runs}"
    if model.output:
        yield "Outputs", model.output.replace("_", " ")
    if model.class_names:
        own = model.own_names or model.class_names
        pairs = (name if name == one else f"{name} ({one})" for one, name in zip(own, model.class_names, strict=True))
        yield "Classes, in the order of the outputs", ", ".join(pairs)
    if model.preprocessing:
        yield "Preprocessing", f"{model.preprocessing.name} ({_short(model.preprocessing.digest)})"
    yield from words.scored(model)
    if found.answers:
        yield "Answers", f"{found.scale}; {words.counts(found.answers)}; without output {found.without_output}"
    split = f", split {data.split}" if data.split else ""
    for note in dict.fromkeys((*(() if model.of_table else data.warnings), *found.notes)):
        yield "Note", note
    for sentence in found.audit:
        yield "Audit", sentence.removeprefix("Audit: ").removeprefix("Audit, ")
    yield "Test set", f"{data.name}{split} ({_short(data.digest)})"
    yield "Columns", ", ".join(found.columns)
    refers = set(found.reference) == {*REFERABLE_CLASSES}
    yield "Images", f"{found.images}, of which {found.graded} have a reference{'' if refers else ' grade'}"
    number = "number unknown" if found.patients is None else str(found.patients)
    yield "Patients", f"{number}; {_PATIENTS[patients.named]}" if patients else number
    yield "Reference" if refers else "Reference grades", words.counts(found.reference)
    again = "taken before, so it counts no further" if found.look.again else "not taken now"
    shared = f"; each is tested at alpha / {found.look.allowed}" if found.look.allowed > 1 else ""
    yield "Look", f"{found.look.number} of {found.look.allowed} at these images, {again}{shared}"
    yield "Signature", " ".join(signing(found))
    yield "Folder", found.folder


def signing(found: DryRun) -> Iterator[str]:
    """What a certificate that opens export and gate needs."""
    yield "A key is given." if found.signed else "None: export and gate accept only a signed certificate (--key)."
    if found.model.of_table:
        yield "A table that names no model certifies none: evaluate the model, or have drgate score write the table."
    elif found.model.scoring and found.model.scoring.by == "elsewhere":
        yield (
            "Nothing proves that this model gave these answers: have the scorer sign the table (drgate score --key) "
            "and give --scorer-key, or evaluate the model itself."
        )


def _grouped(criteria: Sequence[Barred]) -> Iterator[str]:
    """One line a reason, the required criteria first."""
    order = sorted(criteria, key=lambda one: not one.required)
    for why in dict.fromkeys(one.why for one in order):
        titles = [
            f"{words.title(one.id)} ({'required' if one.required else 'advisory'})" for one in order if one.why == why
        ]
        yield f"- {'; '.join(titles)}: {why.rstrip('.')}."


def _short(digest: str | None) -> str:
    return "digest unknown" if digest is None else digest[:15]
