"""An audit for people: at a terminal with their own names, and as a page that works offline.

page = html(audit)
terminal(audit, console, names)
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rich.console import Console

from drgate.audit.pictures import Pair
from drgate.audit.result import CHECKS, DECIDE, Audit, Check, CheckId, Finding, OwnNames
from drgate.evaluation import Status
from drgate.report import kit
from drgate.report.kit import Figure
from drgate.scale import GRADES, TITLES

_NO_NAMES: Final = OwnNames({}, {})
_AS_THEY_ARE: Final[Mapping[str, str]] = {}
_AT_TERMINAL: Final = 10
"""Findings of one check at a terminal."""


class _About(NamedTuple):
    """title: of the check. question: what it asks. clean: the answer where nothing was found. value: what the number of
    a finding is, empty where it has none. measured: likewise, of what the figure shows, where that is something else.
    """

    title: str
    question: str
    clean: str
    value: str = ""
    measured: str = ""


ABOUT: Final[Mapping[CheckId, _About]] = {
    "lineage": _About(
        "Lineage",
        "Is it known what the model was trained on?",
        "the fingerprint covers the training images of the model and of the models before it.",
    ),
    "patients": _About("Patients", "Is a patient of the test set in training?", "no patient is in both."),
    "eyes": _About("Eyes", "Is an eye of the test set in training?", "no eye is in both."),
    "files": _About("Files", "Is a file of the test set in training, byte for byte?", "no file is in both."),
    "pixels": _About(
        "Pixels", "Are the pixels of a test photograph in training, in another file?", "no photograph is in both."
    ),
    "near_duplicates": _About(
        "Near duplicates",
        "Is a test photograph in training, turned, cropped or recoloured?",
        "no photograph is in both.",
        "likeness",
    ),
    "label_conflicts": _About(
        "Label conflicts", "Does one picture have two grades?", "no picture has two grades.", "likeness"
    ),
    "fellow_eyes": _About(
        "Fellow eyes", "Are the two eyes of a patient graded far apart?", "no two eyes are far apart."
    ),
    "mislabelled": _About(
        "Unlikely labels", "Which grades are unlikely by the model's answers?", "no grade is unlikely.", "probability"
    ),
    "readers": _About("Readers", "Do the readers agree?", "the readers agree.", "kappa"),
    "shortcuts": _About(
        "Shortcuts",
        "Can the grade be told from what a clinician would not look at?",
        "no property tells the grade.",
        "AUC",
    ),
    "quality": _About(
        "Quality",
        "Which photographs cannot be graded?",
        "few photographs are refused by the quality rule, of each grade alike.",
        "score",
        "share of the photographs refused",
    ),
    "case_mix": _About("Case mix", "Which cases are few or absent?", "no group is absent or much too few."),
}
_GRADES: Final = dict(zip(GRADES, TITLES, strict=True))
_NUMBERS: Final = {
    "same_from": "Likeness of the pixels from which two photographs are one",
    "views": "Cut and equalised hashes of each photograph, compared too",
    "within": "Bits of 256 up to which a pair is compared by its pixels",
    "within_views": "The same, of a cut or equalised hash",
    "copies_in_test": "Further copies of files inside the test set",
    "share": "Share of the patients",
    "low": "Lower 95 % limit of the share",
    "high": "Upper 95 % limit of the share",
    "expected_share": "Share in another set, for comparison",
    "below": "Probability of the grade below which it is named",
    "least": "Kappa below which two readers are named",
    "named_above": "AUC above which a property is named, by the lower limit",
    "level": "Level of each interval, so that all hold together",
    "images": "Images of patients who are in both",
}
"""What the numbers of the checks are, where the name does not say it."""
_TURNED: Final = {
    "same": "",
    "rot90": "turned by 90°",
    "rot180": "turned by 180°",
    "rot270": "turned by 270°",
    "mirror": "mirrored",
    "mirror_rot90": "mirrored, turned by 90°",
    "mirror_rot180": "mirrored, turned by 180°",
    "mirror_rot270": "mirrored, turned by 270°",
}


_ANSWERS: Final = {"found": "Found", "suspected": "Suspected", "not_assessed": "Not assessed", "clean": "Clean"}


class _Group(NamedTuple):
    """Checks with one kind of answer. style: at a terminal. tone: of the page."""

    title: str
    style: str
    tone: str
    checks: tuple[Check, ...]


def groups(audit: Audit) -> list[_Group]:
    """The checks by their answers, what was found first; none is empty."""

    deciding = audit.deciding

    def of(status: str, decides: bool) -> tuple[Check, ...]:
        return tuple(one for one in audit.checks if one.status == status and (one in deciding) == decides)

    every = (
        _Group("Found", "bold red", "FAIL", of("found", True)),
        _Group("Suspected", "yellow", "INSUFFICIENT", of("suspected", True)),
        _Group("Not assessed", "", "NOT_ASSESSED", of("not_assessed", True)),
        _Group("To look at", "", "OBSERVED", of("found", False) + of("suspected", False)),
        _Group("Also not assessed", "dim", "NOT_ASSESSED", of("not_assessed", False)),
        _Group("Clean", "green", "PASS", of("clean", True) + of("clean", False)),
    )
    return [one for one in every if one.checks]


def headline(audit: Audit) -> str:
    """The answer in one sentence."""
    by_status = {
        status: [one for one in audit.deciding if one.status == status]
        for status in ("found", "suspected", "not_assessed")
    }
    found, suspected, unknown = by_status.values()
    look = _to_look_at(audit)
    further = f" To look at: {_titles(look)}." if look else ""
    if found:
        return f"The evidence is not clean: {_titles(found)}.{further}"
    parts = []
    if suspected:
        parts.append(f"suspected: {_titles(suspected)}")
    if unknown:
        parts.append(f"not assessed: {_titles(unknown)}")
    if audit.unreadable:
        parts.append(f"{_number(audit.unreadable, 'photograph')} cannot be read")
    if parts:
        nothing = "No leak and no label conflict was found"
        return f"{nothing}, but the evidence is not shown to be clean ({'; '.join(parts)}).{further}"
    if look:
        return f"No leak and no label conflict was found.{further}"
    return "The evidence is clean, as far as these checks can tell."


def _to_look_at(audit: Audit) -> tuple[Check, ...]:
    return next((one.checks for one in groups(audit) if one.title == "To look at"), ())


def _tone(audit: Audit) -> Status:
    """Of the headline: green only where there is nothing to look at either."""
    if audit.exit_code:
        return "FAIL" if audit.exit_code == 1 else "INSUFFICIENT"
    return "OBSERVED" if _to_look_at(audit) else "PASS"


def facts(audit: Audit) -> list[tuple[str, str]]:
    """What was compared: label and text."""
    settings = audit.settings
    test, train, model = (settings.get(name) for name in ("test", "train", "checkpoint"))
    pairs = []
    if test:
        split = f", split {test['split']}" if test["split"] else ""
        pairs.append(("Test set", f"{test['name']}{split}: {_side(test)}"))
    if train:
        sets = ", ".join(one["name"] for one in train["sets"])
        pairs.append(("Training", f"{sets}: {_side(train)}"))
    else:
        pairs.append(("Training", "no photographs at hand"))
    if left := settings.get("left_out"):
        each = (f"{one['name']}: {_number(one['images'], 'photograph')} {one['why']}" for one in left)
        pairs.append(("Left out", "; ".join(each)))
    if model:
        known = "with a fingerprint of its training images" if model["fingerprint"] else "without a fingerprint"
        pairs.append(("Model", known))
    if settings.get("predictions"):
        pairs.append(("Predictions", str(settings["predictions"])))
    if settings.get("images_read") is False:
        pairs.append(("Images", "not opened (--no-images)"))
    return pairs


def _side(side: Mapping[str, int]) -> str:
    lost = f", of which {side['unreadable']} cannot be read" if side["unreadable"] else ""
    return f"{_number(side['images'], 'photograph')}{lost}"


def answer(check: Check, called: Mapping[str, str] = _AS_THEY_ARE) -> str:
    """What a check says in a line or two, without its findings and its further numbers. called: what stands for the
    names of what was compared."""
    parts = [check.reason]
    if check.status == "clean":
        about = ABOUT[check.id].clean
        parts = [f"{about[0].upper()}{about[1:]}", check.reason]
    if check.count:
        parts.insert(0, _number(check.count, "finding") + ".")
    compared = {called.get(name, name): n for name, n in check.compared.items()}
    parts.append(f"Compared: {listed(compared)}." if compared else "")
    return " ".join(part for part in parts if part)


def listed(values: Mapping[str, float]) -> str:
    """Numbers with their names."""
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in values.items())


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"


def sentence(check: CheckId, finding: Finding, names: OwnNames = _NO_NAMES) -> str:
    """One finding in words. `other` is in the set that the first is in: of a pair inside training, in training."""
    inside = names.train if finding.test is None else names.test
    both = dict.fromkeys(one for one in (finding.test, finding.other) if one is not None)
    images = [inside.get(one, one) for one in both if one != finding.train or finding.test is not None]
    if finding.train is not None:
        images.append(f"training {names.train.get(finding.train, finding.train)}")
    parts = [" and ".join(images)] if images else []
    said = [] if finding.what is None else [finding.what]
    if finding.orientation is not None and _TURNED[finding.orientation]:
        said.append(_TURNED[finding.orientation])
    if finding.distance is not None:
        said.append(f"{finding.distance} of 256 bits apart")
    if finding.value is not None and ABOUT[check].value:
        interval = "" if finding.low is None or finding.high is None else f" ({finding.low:g} to {finding.high:g})"
        said.append(f"{ABOUT[check].value} {finding.value:g}{interval}")
    return ": ".join([*parts, ", ".join(said)] if said else parts)


def terminal(audit: Audit, console: Console, names: OwnNames = _NO_NAMES) -> None:
    """Write the audit to a console."""
    kit.paragraph(console, headline(audit), f"bold {kit.STYLES[_tone(audit)]}")
    for label, text in facts(audit):
        kit.paragraph(console, f"{label}: {text}", "dim", hang=2)
    for group in groups(audit):
        console.print()
        kit.paragraph(console, group.title, group.style or "bold")
        for check in group.checks:
            about = ABOUT[check.id]
            text = f"{about.title}: {about.question} {answer(check)}"
            if check.status == "clean":
                count = f"; {check.count:,} listed in audit.json" if check.count else ""
                text = f"{about.title}: {about.clean} {check.reason}".rstrip() + f" ({listed(check.compared)}{count})"
            kit.paragraph(console, text, hang=2, style="bold", styled=len(about.title) + 1)
            if check.status == "clean":
                continue
            for finding in check.findings[:_AT_TERMINAL]:
                kit.paragraph(console, f"- {sentence(check.id, finding, names)}", hang=2)
            if (more := check.count - min(len(check.findings), _AT_TERMINAL)) > 0 and check.findings:
                kit.paragraph(console, f"- and {more} more", hang=2)


def lines(audit: Audit, names: OwnNames = _NO_NAMES, called: Mapping[str, str] = _AS_THEY_ARE) -> list[str]:
    """The audit in a few sentences: what was found with an example, what is not assessed and why, what is clean.
    called: of `answer`."""
    said = []
    for group in groups(audit):
        if group.title == "Clean":
            said.append(f"Clean: {_titles(group.checks)}.")
            continue
        for check in group.checks:
            example = f" Such as {sentence(check.id, check.findings[0], names)}." if check.findings else ""
            said.append(f"{group.title}: {ABOUT[check.id].title.lower()}. {answer(check, called)}{example}")
    return said


def html(audit: Audit) -> str:
    """The whole page, with published names: a line for each check, then what each found."""
    return kit.page(
        "audit.html",
        _figures(audit),
        audit=audit,
        headline=headline(audit),
        facts=facts(audit),
        tone=_tone(audit),
        groups=groups(audit),
        about=ABOUT,
        answer=answer,
        answers=_ANSWERS,
        number=_plain,
        words=_words,
        table=findings_table,
        informs=", ".join(ABOUT[name].title.lower() for name in CHECKS if name not in DECIDE),
    )


def pictures(audit: Audit, pairs: Sequence[Pair], names: OwnNames) -> str:
    """A page of the pairs that were found, with the caller's own names: not to be published."""

    def source(jpeg: bytes | None) -> str:
        return "" if jpeg is None else f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"

    by_check = [
        (
            ABOUT[check.id].title,
            [
                (sentence(check.id, one.finding, names), source(one.test), source(one.other))
                for one in pairs
                if one.check == check.id
            ],
        )
        for check in audit.checks
    ]
    return kit.page("pictures.html", [], headline=headline(audit), checks=[one for one in by_check if one[1]])


class Column(NamedTuple):
    """One column of a table of findings. number: whether its cells are."""

    title: str
    cells: tuple[str, ...]
    number: bool = False


def findings_table(check: Check) -> list[Column]:
    """The findings of a check, without the columns that no finding fills."""

    def column(title: str, cell: Callable[[Finding], object], number: bool = False) -> Column:
        cells = tuple("" if (value := cell(one)) is None else str(value) for one in check.findings)
        return Column(title, cells, number)

    value = ABOUT[check.id].value
    columns = [
        column("What", lambda one: one.what),
        column("Test set", lambda one: one.test),
        column("Other, in the same set", lambda one: one.other),
        column("Training", lambda one: one.train),
        column("Turned", lambda one: one.orientation and _TURNED[one.orientation]),
        column("Bits of 256", lambda one: one.distance, number=True),
        column(f"{value[:1].upper()}{value[1:]}", lambda one: None if one.value is None else f"{one.value:g}", True),
        column("From", lambda one: None if one.low is None else f"{one.low:g}", number=True),
        column("To", lambda one: None if one.high is None else f"{one.high:g}", number=True),
    ]
    return [one for one in columns if one.title and any(one.cells)]


def _figures(audit: Audit) -> list[Figure]:
    """What is easier to see than to read: shares of the grades, intervals of what was measured, distances of copies."""
    made = []
    for check in audit.checks:
        near = [one for one in check.findings if one.distance is not None and one.value is not None]
        if check.id == "case_mix":
            made += _grades(check)
        elif measured := [one for one in check.findings if one.low is not None and one.what] + _further(check):
            made.append(_intervals(check, measured))
        elif check.id == "near_duplicates" and near:
            made.append(_distances(check, near))
    return made


def _further(check: Check) -> list[Finding]:
    """Numbers with an interval that are no findings."""
    known = {one.what for one in check.findings}
    found = []
    for name, value in check.numbers.items():
        low, high = _interval(check, name)
        if low is not None and name not in known:
            found.append(Finding(what=_words(name), value=value, low=low, high=high))
    return found


def _interval(check: Check, name: str) -> tuple[float | None, float | None]:
    """The ends of the interval of one of a check's numbers."""
    for between in ("_", ": "):
        ends = (check.numbers.get(f"{name}{between}{end}") for end in ("low", "high"))
        if None not in (both := tuple(ends)):
            return both[0], both[1]
    return None, None


def _words(name: str) -> str:
    """The name of a number in words: `refused:severe_npdr` is "refused, Severe NPDR"."""
    if name in _NUMBERS:
        return _NUMBERS[name]
    parts = [_GRADES.get(part.strip(), part.strip().replace("_", " ")) for part in name.split(":")]
    return ", ".join(parts)


def _grades(check: Check) -> list[Figure]:
    """Shares of the grades in the test set, beside training and deployment where these are known."""
    graded = [grade for grade in GRADES if f"share:{grade}" in check.numbers]
    if not graded:
        return []
    data = []
    for key, name, colour in (
        ("share", "test set", kit.BLUE),
        ("train", "training", "#9aa7b3"),
        ("deployment", "deployment", kit.INK),
    ):
        shares = [100 * check.numbers.get(f"{key}:{grade}", 0.0) for grade in graded]
        if not any(f"{key}:{grade}" in check.numbers for grade in graded):
            continue
        bars = {"type": "bar", "name": name, "x": [_GRADES[grade] for grade in graded], "y": shares}
        more: dict[str, Any] = {"marker": {"color": colour}, "hovertemplate": "%{y:.1f} %<extra></extra>"}
        if key == "share":
            values = [(check.numbers[f"share:{grade}"], *_interval(check, f"share:{grade}")) for grade in graded]
            more["error_y"] = kit.whiskers(values, kit.INK)
        data.append(bars | more)
    layout = kit.layout(
        320, barmode="group", xaxis=kit.axis(), yaxis=kit.axis(ticksuffix=" %", rangemode="tozero"), showlegend=True
    )
    caption = "Share of each grade, with the interval of the test set."
    return [Figure(f"figure-{check.id}", f"{caption} The numbers below are the same.", caption, data, layout)]


def _intervals(check: Check, findings: Sequence[Finding]) -> Figure:
    about = ABOUT[check.id]
    shown = list(reversed(findings))
    values = [(one.value or 0.0, one.low, one.high) for one in shown]
    marks = kit.points(
        [value for value, _, _ in values],
        [kit.wrapped(one.what or "", 2) for one in shown],
        kit.BLUE,
        error_x=kit.whiskers(values, kit.BLUE, 1.0),
        hovertemplate="%{x:.3f}<extra></extra>",
    )
    layout = kit.layout(
        110 + 34 * len(shown),
        xaxis=kit.axis(about.measured or about.value),
        yaxis=kit.axis(),
        showlegend=False,
        shapes=[kit.dotted(yref="paper", y0=0, y1=1, x0=0.5, x1=0.5)] if about.value == "AUC" else [],
    )
    caption = f"{about.title}: {about.measured or about.value} with its interval." + (
        " Dotted: chance." if about.value == "AUC" else ""
    )
    return Figure(f"figure-{check.id}", f"{caption} The table has the same numbers.", caption, [marks], layout)


def _distances(check: Check, findings: Sequence[Finding]) -> Figure:
    about = ABOUT[check.id]
    marks = kit.points(
        [one.distance for one in findings],
        [one.value for one in findings],
        kit.COLOURS["FAIL"],
        cliponaxis=False,
        hovertemplate="%{x} bits, likeness %{y:.3f}<extra></extra>",
    )
    layout = kit.layout(
        320,
        xaxis=kit.axis("distance of the hashes, bits of 256", rangemode="tozero"),
        yaxis=kit.axis("likeness of the pixels", range=[0, 1.02]),
        showlegend=False,
    )
    caption = f"{about.title}: how near the hashes of each pair are, and how alike its pixels."
    return Figure(f"figure-{check.id}", f"{caption} The table has the same numbers.", caption, [marks], layout)


def _titles(checks: Sequence[Check]) -> str:
    return ", ".join(ABOUT[one.id].title.lower() for one in checks)


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
